"""Many questions about one picture in one row: each sees the picture and itself alone, as if asked by itself.

The picture's tokens come first and are computed once. Behind them lie lanes of a fixed length; a lane holds questions
with their answers one after the other. Positions start anew behind the picture for every question, so what a question
is answered with is what it would be answered with in a row of its own.

B rows, P tokens of the picture's part ([CLS] first), K lanes, T tokens of a lane, S = P + K T, H heads, d of a head.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import omma.models.no_torchvision  # noqa: F401  isort: skip  (before transformers, which looks for torchvision)
from transformers import AttentionInterface, AttentionMaskInterface

PACKED = "omma_packed"  # the name under which transformers finds `packed_attention`


@dataclass(frozen=True)
class Packing:
    """Where things are in packed rows. segments: (B, K, T), which question of its row a token belongs to, -1 for
    padding; position_ids: (B, S); bias: (B, 1, K, T, T), what a lane's tokens see of each other, 0 or -inf."""

    prefix: int
    segments: Tensor
    position_ids: Tensor
    bias: Tensor

    @staticmethod
    def of(segments: Tensor, prefix: int) -> "Packing":
        """The packing of rows with these segments behind `prefix` tokens of a picture."""
        B, _, T = segments.shape
        steps = torch.arange(T, device=segments.device)
        first = segments != torch.cat((torch.full_like(segments[..., :1], -2), segments[..., :-1]), dim=-1)
        start = torch.where(first, steps, 0).cummax(dim=-1).values  # (B, K, T): where its question begins
        within = (steps - start + prefix).flatten(1)
        before = torch.arange(prefix, device=segments.device).expand(B, -1)
        sees = (segments[..., :, None] == segments[..., None, :]) & (steps[:, None] >= steps[None, :])
        bias = torch.zeros(sees.shape, device=segments.device).masked_fill(~sees, float("-inf"))
        return Packing(prefix, segments, torch.cat((before, within), dim=1), bias[:, None])

    def mask(self) -> Tensor:
        """The same as one mask (B, 1, S, S), 0 or -inf, for any attention."""
        B, K, T = self.segments.shape
        P, S = self.prefix, self.prefix + K * T
        out = torch.full((B, 1, S, S), float("-inf"), device=self.segments.device)
        out[..., :P, :P] = torch.full((P, P), float("-inf"), device=out.device).triu(1)
        out[..., P:, :P] = 0.0
        for k in range(K):
            part = slice(P + k * T, P + (k + 1) * T)
            out[..., part, part] = self.bias[:, :, k]
        return out


def packed_attention(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
    scaling: float | None = None, packing: Packing | None = None, **others: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """Attention of packed rows: a lane's tokens meet the picture and their lane, not the other lanes.

    query: (B, H, S, d); key, value: (B, H or fewer, S, d). Returns (B, S, H, d). As products of matrices, which a CPU
    is quickest at in bfloat16 (`layers.attend`).
    """
    assert packing is not None
    (B, H, _, d), P = query.shape, packing.prefix
    K, T = packing.segments.shape[1:]
    if key.shape[1] != H:
        key, value = (x.repeat_interleave(H // x.shape[1], dim=1) for x in (key, value))
    if torch.is_autocast_enabled(query.device.type):
        kind = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(kind), key.to(kind), value.to(kind)
    query = query * (d**-0.5 if scaling is None else scaling)
    lanes = lambda x: x[:, :, P:].reshape(B, H, K, T, d)
    keys, values = key[:, :, :P], value[:, :, :P]
    causal = torch.full((P, P), float("-inf"), dtype=query.dtype, device=query.device).triu(1)
    picture = (query[:, :, :P] @ keys.transpose(-2, -1) + causal).softmax(dim=-1) @ values
    across = query[:, :, P:] @ keys.transpose(-2, -1)  # (B, H, K T, P)
    within = lanes(query) @ lanes(key).transpose(-2, -1) + packing.bias.to(query.dtype)
    weights = torch.cat((across, within.view(B, H, K * T, T)), dim=-1).softmax(dim=-1)
    inner = (weights[..., P:].view(B, H, K, T, T) @ lanes(value)).view(B, H, K * T, d)
    text = weights[..., :P] @ values + inner
    return torch.cat((picture, text), dim=2).transpose(1, 2), None


AttentionInterface.register(PACKED, packed_attention)
AttentionMaskInterface.register(PACKED, lambda *args, **kwargs: None)
