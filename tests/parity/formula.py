"""Weights and inputs that both sides of a parity test make anew: a chirp over the index, moved by the name's checksum.

The published code was run once on a model whose every weight is `weight(name, shape)`, and what it gave is golden.json
(`make_golden.py` writes it). The tests give omma the same weights under the published names.
"""

import zlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

SPREAD = {1: 0.1, 2: 0.09, 4: 0.09}  # by number of dimensions: about that of trained weights at width 96


def chirp(name: str, size: int) -> Tensor:
    """(size,) float64 in -1..1: sin(0.7 k^2 + k + a phase of the name). No two tensors are alike, none has low rank."""
    k = torch.arange(size, dtype=torch.float64)
    return torch.sin(0.7 * k * k + k + zlib.crc32(name.encode()) % 6283 / 1000)


def weight(name: str, shape: tuple[int, ...]) -> Tensor:
    """A weight by its published name. Norms lie round one, LayerScale round one half; temperatures are 1 / 0.07."""
    if name.endswith(("logit_scale", "logit_vl_scale")):
        return torch.full(shape, 2.6592600, dtype=torch.float64)
    size = 1
    for n in shape:
        size *= n
    values = chirp(name, size).view(shape)
    norm = any(part in name.lower() for part in ("norm", "_ln.", "classifier.1.", "head.1."))
    if norm and name.endswith("weight"):
        return 1 + 0.2 * values
    if "gamma" in name:
        return 0.5 + 0.2 * values
    if "position_bias_table" in name:
        return 0.5 * values
    return (0.5 if "embed" in name or "token" in name else SPREAD.get(len(shape), 0.1)) * values


def weights(shapes: Mapping[str, Any]) -> dict[str, Tensor]:
    """A state dict of the published code, by the names and shapes it had."""
    return {name: weight(name, tuple(shape)) for name, shape in shapes.items()}


def direction(name: str, shape: tuple[int, ...]) -> Tensor:
    """What a gradient is multiplied with to become the number that is kept of it."""
    size = 1
    for n in shape:
        size *= n
    return chirp(f"direction of {name}", size).view(shape)


def checksum(index: Tensor) -> int:
    return zlib.crc32(index.to(torch.int32).numpy().tobytes())


# ---- inputs: a batch of four, three texts shorter than the longest
IDS = torch.tensor([[2, 17, 5, 33, 8, 41, 29, 11, 38, 6, 20, 3], [2, 9, 24, 36, 14, 3] + [0] * 6,
                    [2, 44, 7, 19, 31, 12, 26, 10, 3] + [0] * 3,
                    [2, 13, 48, 22, 3] + [0] * 7])  # fmt: skip
MASK = (IDS > 0).long()
MASKED_IDS = IDS.clone()
MLM_LABELS = torch.full_like(IDS, -100)
for _row, _column in ((0, 3), (0, 7), (1, 2), (2, 1), (2, 5), (2, 6), (3, 2)):
    MASKED_IDS[_row, _column], MLM_LABELS[_row, _column] = 4, IDS[_row, _column]
PIXELS = torch.round(127.5 + 127.5 * chirp("pixels", 4 * 3 * 64 * 64)).view(4, 3, 64, 64)  # 0..255
LARGER = torch.round(127.5 + 127.5 * chirp("larger", 4 * 3 * 80 * 80)).view(4, 3, 80, 80)
PATCH_MASK = torch.tensor([[i % 4 == b for i in range(16)] for b in range(4)])


def normalized(pixels: Tensor) -> Tensor:
    return (pixels / 255 - 0.5) / 0.5
