"""The tap in the attention interface: it hears what a layer's attention is computed from.

A tapped module calls `tap` in place of its own function, because a copy of its config names it; the tap calls that
function with the module as it was. It is known to the attention interface only: masks are chosen by the text model's
config, which stays.
"""

import copy
import functools
import sys
import weakref
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface

from omma.sparse.stage import Heard

NAME = "omma_sparse"


class Asked(Exception):
    """Ends a layer's attention when its queries and keys are known."""

    def __init__(self, heard: Heard):
        self.heard = heard


# hear(module, heard, attention_mask, the call's other arguments) -> another mask, or None for the call's own
Hear = Callable[[Any, Heard, Any, dict[str, Any]], Any]


class Plain:
    """An attention module as its own implementation knows it: with the config that names that."""

    def __init__(self, module: Any):
        self.module, self.config = module, module.config
        self.hears: list[Hear] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.module, name)

    @property
    def attention(self) -> Any:
        """The function that the module would have called."""
        files = (sys.modules[kind.__module__] for kind in type(self.module).__mro__)
        eager = next(file.eager_attention_forward for file in files if hasattr(file, "eager_attention_forward"))
        return ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager)


_TAPPED: weakref.WeakKeyDictionary[nn.Module, Plain] = weakref.WeakKeyDictionary()


def listen(attention: Any, hear: Hear, undo: ExitStack) -> None:
    """Call `hear` before each run of this attention module, until `undo` is run; several may."""
    if attention not in _TAPPED:
        plain = Plain(attention)
        named = copy.copy(plain.config)
        named._attn_implementation_internal = NAME
        _TAPPED[attention] = plain
        attention.config = named
        undo.callback(setattr, attention, "config", plain.config)
        undo.callback(_TAPPED.pop, attention, None)
    hears = _TAPPED[attention].hears
    hears.append(hear)
    undo.callback(hears.remove, hear)


def tap(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **kwargs: Any) -> Any:
    """The module's own attention. What it is computed from is heard first: (B, H, Q, d) queries, (B, Hk, N, d) keys."""
    plain = _TAPPED[module]
    heard = Heard(query, key, kwargs.get("scaling") or query.shape[-1] ** -0.5)
    for hear in tuple(plain.hears):
        mask = hear(module, heard, attention_mask, kwargs)
        attention_mask = attention_mask if mask is None else mask
    return plain.attention(plain, query, key, value, attention_mask, **kwargs)


AttentionInterface.register(NAME, tap)


def stand_in(module: Any, name: str, wrapper: Callable[..., Any], undo: ExitStack) -> None:
    """An instance's own method around its class's, wrapper(original, ...), gone when `undo` is run."""
    original, had = getattr(module, name), name in module.__dict__

    @functools.wraps(original)  # generate reads the signature of get_image_features
    def wrapped(*args, **kwargs):
        return wrapper(original, *args, **kwargs)

    setattr(module, name, wrapped)
    undo.callback(setattr, module, name, original) if had else undo.callback(delattr, module, name)
