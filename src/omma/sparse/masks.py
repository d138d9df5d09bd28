"""Attention masks and rotations of a shortened sequence, as a model's own attention implementation wants them.

B rows, Q queries, N keys, d width of a head. Masks come from transformers' registry, so that sdpa gets a bool mask or
none, eager attention a float one to add, and flash attention the two-dimensional padding or none.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from omma.sparse.layout import Layout
from omma.sparse.stage import picked

Tables = tuple[Tensor, Tensor]  # cos and sin, (B, N, d)


def causal_mask(config: Any, hidden: Tensor, keys: int, valid: Tensor | None, bias: Tensor | None = None) -> Any:
    """The mask for the last Q of `keys` places. hidden: (B, Q, D); valid: (B, keys) bool or None for no padding; bias:
    (B, 1 or Q, keys) to add to the logits. ValueError where the implementation can't add.
    """
    name = config._attn_implementation
    if name not in ALL_MASK_ATTENTION_FUNCTIONS and bias is None:
        return None
    mask = None
    if name in ALL_MASK_ATTENTION_FUNCTIONS:
        mask = ALL_MASK_ATTENTION_FUNCTIONS[name](
            batch_size=len(hidden),
            q_length=hidden.shape[1],
            kv_length=keys,
            q_offset=keys - hidden.shape[1],
            kv_offset=0,
            attention_mask=valid,
            allow_is_causal_skip=bias is None,
            dtype=hidden.dtype,
            device=hidden.device,
            config=config,
        )
    if bias is None:
        return mask
    if not isinstance(mask, Tensor) or mask.ndim != 4:
        raise ValueError(f"sizes and calibration add to attention's logits, which {name!r} can't; load with 'sdpa'")
    bias = bias[:, None].to(hidden.dtype)
    if mask.dtype != torch.bool:
        return mask + bias
    return torch.where(mask, bias, torch.finfo(hidden.dtype).min)


def rotation(rotary: nn.Module, hidden: Tensor, places: Tensor, like: Tensor | None) -> Tables:
    """cos and sin at these positions (B, N). like: what the model itself gave, which tells how many axes there are."""
    if like is not None and like.ndim == 3:
        places = places.expand(like.shape[0], *places.shape)
    return rotary.forward(hidden, places)  # not called: the hook on it hears the model's own positions


def expanded(tables: Tables, batch: int) -> Tables:
    """A model's tables with a row for each of the batch."""
    cos, sin = (x.expand(batch, -1, -1) for x in tables)
    return cos, sin


def gathered(tables: Tables, at: Tensor) -> Tables:
    """The tables at these places (B, N)."""
    cos, sin = expanded(tables, len(at))
    return picked(cos, at), picked(sin, at)


def logit_bias(layout: Layout, queries: Tables, keys: Tables | None, tokens: Tensor) -> Tensor | None:
    """What is added to the logits of a layout's keys, (B, 1 or Q, N) float32; None: nothing.

    Sizes alone: log(size). Calibrated (keys given, (B, N, d)): on each visual key log(size) + log(2 - c), with c the
    mean over RoPE's frequencies of cos(distance x frequency), and for sizes that no method gives, V / n alike: V visual
    tokens of the prompt, `tokens` (B,), of which n are left.
    """
    if layout.sizes is None and keys is None:
        return None
    sizes = layout.sizes
    if sizes is None:
        share = tokens / layout.visual.sum(1).clamp(min=1)
        sizes = torch.where(layout.visual, share[:, None].float(), 1.0)
    bias = sizes.float().log()[:, None]
    if keys is None:
        return bias
    (cos, sin), (key_cos, key_sin) = ((x.float() for x in pair) for pair in (queries, keys))
    alike = cos @ key_cos.transpose(1, 2) + sin @ key_sin.transpose(1, 2)
    at_zero = (key_cos.square() + key_sin.square()).sum(-1)[:, None]  # a scaled RoPE scales both
    distance = torch.log((2 - alike / at_zero).clamp(min=1.0))
    return bias + torch.where(layout.visual[:, None], distance, 0.0)
