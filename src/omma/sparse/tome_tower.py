"""ToMe where it was published: inside the vision tower, between each layer's attention and MLP (arXiv 2210.09461).

Nothing of the tower is replaced. A hook before a layer's second norm hands on merged tokens, so the MLP computes on
fewer; one behind the MLP gives each token its group's result, for the residual; one behind the layer merges that sum.
So the layer gives what it would if the merge were written into it, and the next one is shorter. At the end every patch
has the state of its group, and which of them stand for the others is told beside.

n pictures, N tokens of each now, P of them patches at first, D width.
"""

import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from omma.sparse.reduce import bipartite_match, merge_into
from omma.sparse.stage import Heard, picked, places
from omma.sparse.tap import listen

NORMS = ("layer_norm2", "norm2")


@dataclass
class Merging:
    """One run of the tower."""

    keep: int  # patches of a picture that are to be left
    size: Tensor  # (n, N) float32: of how many patches each token is made
    owner: Tensor  # (n, N at first) long: the row in which each token is now
    first: Tensor  # (n, N) long: which token at first each row is
    merged: bool = False
    metric: Tensor | None = None  # (n, N, d): the layer's keys, mean over heads
    into: Tensor | None = None  # (n, N) long, in the layer under way
    line: Tensor | None = None  # (n, N') long: the rows that stay
    row: Tensor | None = None  # (n, N) long: in which of those each row ends
    last: Tensor | None = None  # (n, N', D): states behind the layer that the decoder is given


class TowerMerge:
    """The hooks in one tower."""

    def __init__(
        self,
        module: Any,
        layers: tuple[Any, ...],
        attentions: tuple[Any, ...],
        *,
        at: int,
        class_token: bool,
        keep: Callable[[int], int],
        proportional: bool,
        tell: Callable[[Tensor], None],
    ):
        """at: the layer whose states the decoder is given, the last that merges; keep: patches of a picture -> how many
        are to be left; proportional: log(size) on the logits of a key; tell: is given the sizes (n, N at first) when
        the tower ran, 0 for tokens that others stand for."""
        self.module, self.layers, self.attentions = module, layers, attentions
        self.at, self.class_token, self.keep = at, class_token, keep
        self.proportional, self.tell = proportional, tell
        self.local = threading.local()
        missing = [i for i in range(at + 1) if self.norm_of(layers[i]) is None or not hasattr(layers[i], "mlp")]
        if missing or not all(hasattr(attention, "config") for attention in attentions):
            raise ValueError(
                f"{type(module).__name__}: tokens are merged between a layer's attention and its MLP, and layer "
                f"{missing[0] if missing else 0} has no {' or '.join(NORMS)} before an mlp; use where='tokens'"
            )
        kernel = attentions[0].config._attn_implementation
        if proportional and kernel not in ("sdpa", "eager"):
            raise ValueError(f"proportional attention adds to logits, which {kernel!r} can't; load with 'sdpa'")

    @staticmethod
    def norm_of(layer: Any) -> Any:
        return next((getattr(layer, name) for name in NORMS if hasattr(layer, name)), None)

    def install(self, undo: contextlib.ExitStack) -> None:
        """Hook in; `undo` takes everything out."""
        undo.callback(self.module.register_forward_pre_hook(self.before_tower).remove)
        undo.callback(self.module.register_forward_hook(self.after_tower).remove)
        for index in range(self.at + 1):
            layer = self.layers[index]
            listen(self.attentions[index], self.hear, undo)
            undo.callback(layer.register_forward_pre_hook(self.before_layer, with_kwargs=True).remove)
            undo.callback(self.norm_of(layer).register_forward_pre_hook(self.before_norm(index)).remove)
            undo.callback(layer.mlp.register_forward_hook(self.after_mlp).remove)
            undo.callback(layer.register_forward_hook(self.after_layer(index)).remove)

    @property
    def now(self) -> Merging | None:
        return getattr(self.local, "now", None)

    def before_tower(self, module: Any, args: tuple) -> None:
        self.local.now = None

    def before_layer(self, layer: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        x = args[0] if args else kwargs["hidden_states"]
        if self.now is None:  # the first
            every = torch.arange(x.shape[1], device=x.device).expand(x.shape[:2])
            patches = x.shape[1] - self.class_token
            self.local.now = Merging(
                keep=max(min(self.keep(patches), patches), 1),
                size=torch.ones(x.shape[:2], device=x.device),
                owner=every,
                first=every,
            )

    def hear(self, module: Any, heard: Heard, mask: Any, kwargs: dict[str, Any]) -> Tensor | None:
        """Keys by which tokens are alike; where some stand for several, the log of their number on their logits."""
        now = self.now
        if now is None:
            return None
        now.metric = heard.key.float().mean(1)
        if not (self.proportional and now.merged):
            return None
        bias = now.size.log()[:, None, None].to(heard.query.dtype)
        return bias if mask is None else mask + bias

    def before_norm(self, index: int) -> Any:
        def merge(norm: Any, args: tuple) -> tuple | None:
            now, x = self.now, args[0]
            if now is None:
                return None
            now.into = None
            patches, layers = x.shape[1] - self.class_token, self.at + 1 - index
            r = min(-(-(patches - now.keep) // layers), patches // 2)  # the same in each layer, as far as that goes
            if r <= 0:
                return None
            assert now.metric is not None
            protected = torch.zeros_like(now.size, dtype=torch.bool)
            protected[:, : self.class_token] = True
            into = bipartite_match(now.metric, r, None, protected)
            merged, size = merge_into(x, into, now.size)
            line, _ = places(size > 0)  # every picture loses r, so rows end together
            row = ((size > 0).cumsum(1) - 1).gather(1, into)
            now.into, now.line, now.row = into, line, row
            return (picked(merged, line), *args[1:])

        return merge

    def after_mlp(self, mlp: Any, args: tuple, output: Tensor) -> Tensor | None:
        """To each token what its group got."""
        now = self.now
        return None if now is None or now.into is None else picked(output, now.row)  # type: ignore[arg-type]

    def after_layer(self, index: int) -> Any:
        def shorten(layer: Any, args: tuple, output: Any) -> Any:
            now = self.now
            if now is None:
                return None
            x = output[0] if isinstance(output, tuple) else output
            if now.into is not None:
                assert now.line is not None
                assert now.row is not None
                merged, size = merge_into(x, now.into, now.size)
                x = picked(merged, now.line)
                now.size, now.first = size.gather(1, now.line), now.first.gather(1, now.line)
                now.owner, now.merged = now.row.gather(1, now.owner), True
            now.into = None
            if index == self.at:
                now.last = x
            return (x, *output[1:]) if isinstance(output, tuple) else x

        return shorten

    def after_tower(self, module: Any, args: tuple, output: Any) -> Any:
        """All patches again, each with its group's state, and who stands for whom."""
        now, self.local.now = self.now, None
        if now is None:
            return None
        assert now.last is not None
        sizes = torch.zeros(now.owner.shape, device=now.size.device).scatter(1, now.first, now.size)
        self.tell(sizes)
        if not now.merged:
            return None
        states = getattr(output, "hidden_states", None)
        if states is not None:
            # Those before are of other lengths; what is read of them is what the decoder is given.
            output.hidden_states = tuple(
                picked(now.last, now.owner) if i == self.at + 1 else state for i, state in enumerate(states)
            )
        output.last_hidden_state = picked(output.last_hidden_state, now.owner)
        return output
