"""Where a token stands: learned positions and the released checkpoints' relative bias, read at any patch grid.

L layers, H heads, D width, (gh, gw) patch grid, P = 1 + gh * gw image tokens ([CLS] first), T text tokens, S = T + P.
"""

import functools
from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


def relative_index(grid: tuple[int, int], text_len: int, table_text_len: int) -> tuple[Tensor, Tensor, int]:
    """Which bucket of the relative table each (query, key) reads, in the released checkpoints' numbering.

    Returns image (P, P), text (T, T) and the number of buckets. The image part comes first: (2gh-1)(2gw-1) distances
    and three for [CLS]; then one bucket for text->image and one for image->text; then the text distances and three for
    its [CLS].
    """
    gh, gw = grid
    image_buckets = (2 * gh - 1) * (2 * gw - 1) + 3
    total = image_buckets + 2 * table_text_len + 2
    y, x = (c.flatten() for c in torch.meshgrid(torch.arange(gh), torch.arange(gw), indexing="ij"))
    image = torch.empty(gh * gw + 1, gh * gw + 1, dtype=torch.long)
    image[1:, 1:] = (y[:, None] - y[None] + gh - 1) * (2 * gw - 1) + (x[:, None] - x[None] + gw - 1)
    image[0, :], image[:, 0], image[0, 0] = image_buckets - 3, image_buckets - 2, image_buckets - 1
    t = torch.arange(text_len - 1)
    text = torch.empty(text_len, text_len, dtype=torch.long)
    # Text distances are key minus query, the image's are query minus key: kept as released.
    text[1:, 1:] = t[None] - t[:, None] + table_text_len - 2 + image_buckets + 2
    text[0, :], text[:, 0], text[0, 0] = total - 3, total - 2, total - 1
    return image, text, total


class RelativeBias(nn.Module):
    """One trainable score per layer, head and bucket, shared by all modalities."""

    def __init__(self, num_layers: int, num_heads: int, grid: tuple[int, int], table_text_len: int):
        super().__init__()
        self.grid, self.table_text_len = grid, table_text_len
        buckets = relative_index(grid, 2, table_text_len)[2]
        self.table = nn.Parameter(torch.zeros(num_layers, num_heads, buckets))

    def forward(self, text_len: int, grid: tuple[int, int] | None) -> Tensor:
        """(L, H, S, S) for a text of text_len tokens (0: none) before a picture of this patch grid (None: none)."""
        if grid is None:
            index = relative_index(self.grid, text_len, self.table_text_len)[1]
            return self.table[..., index.to(self.table.device)]
        table = resample_table(self.table, self.grid, grid)
        image, text, _ = relative_index(grid, max(text_len, 1), self.table_text_len)
        if text_len == 0:
            return table[..., image.to(table.device)]
        cross = (2 * grid[0] - 1) * (2 * grid[1] - 1) + 3
        top = torch.cat((text, torch.full((text_len, len(image)), cross)), dim=1)
        bottom = torch.cat((torch.full((len(image), text_len), cross + 1), image), dim=1)
        return table[..., torch.cat((top, bottom)).to(table.device)]


def resample_grid(values: Tensor, source: tuple[int, int], target: tuple[int, int]) -> Tensor:
    """Position values of one patch grid, read at another. values: (gh * gw, D) -> (th * tw, D), bicubic.

    Returns `values` itself where the grids are equal, so that nothing changes at the trained size.
    """
    if source == target:
        return values
    if source[0] * source[1] != len(values):
        raise ValueError(f"{len(values)} positions don't fill a {source[0]} x {source[1]} grid")
    image = values.float().reshape(1, *source, -1).permute(0, 3, 1, 2)  # (1, D, gh, gw)
    image = F.interpolate(image, size=target, mode="bicubic", align_corners=False)
    return image.permute(0, 2, 3, 1).reshape(target[0] * target[1], -1).to(values.dtype)


def resample_table(table: Tensor, source: tuple[int, int], target: tuple[int, int]) -> Tensor:
    """A relative table (..., buckets) of one patch grid for another: patch distances are read anew, those of [CLS],
    text, and text to picture stay."""
    near = (2 * source[0] - 1) * (2 * source[1] - 1)
    return torch.cat((resample_relative(table[..., :near], source, target), table[..., near:]), dim=-1)


def fit_positions(
    tensors: Mapping[str, Tensor], source: tuple[int, int], target: tuple[int, int], text_len: int
) -> dict[str, Tensor]:
    """A VLMo's weights for another patch grid, and for texts of at most text_len tokens where it holds longer ones."""
    out = dict(tensors)
    if "image_positions" in out:
        first, patches = out["image_positions"][:1], out["image_positions"][1:]
        out["image_positions"] = torch.cat((first, resample_grid(patches, source, target)))
    if "text_positions" in out:
        out["text_positions"] = out["text_positions"][:text_len]
    if "relative_bias.table" in out:
        out["relative_bias.table"] = resample_table(out["relative_bias.table"], source, target)
    return out


def resample_relative(values: Tensor, source: tuple[int, int], target: tuple[int, int]) -> Tensor:
    """The same for values over patch distances: (..., (2gh-1)(2gw-1)) -> (..., (2th-1)(2tw-1)).

    Square grids of three patches a side and more: as the released code does it, by a cubic spline over distances that
    lie ever further apart (`distance_spline`). Others: bicubic, the ends of both ranges upon one another
    (align_corners). Distance 0 stays at the centre either way.
    """
    if source == target:
        return values
    sides = [2 * g - 1 for g in source]
    image = values.reshape(1, -1, *sides)
    if source[0] == source[1] and target[0] == target[1] and source[0] >= 3:
        spline = torch.from_numpy(distance_spline(sides[0], 2 * target[0] - 1)).to(values.device)
        image = spline @ image.double() @ spline.T
    else:
        image = F.interpolate(image.float(), size=[2 * g - 1 for g in target], mode="bicubic", align_corners=True)
    return image.reshape(*values.shape[:-1], -1).to(values.dtype)


@functools.cache
def distance_spline(source: int, target: int) -> np.ndarray:
    """The map (target, source) from values at `source` distances to those at `target` distances, along one axis.

    The released checkpoints' way to a larger picture (BEiT, Bao et al. 2021): the known values are placed at 0, 1,
    1 + q, 1 + q + q^2, ... on both sides, with q such that they just reach the new range, so that near distances keep
    their meaning; the new values are read from the cubic spline through them, and beyond its ends from its ends.
    """
    half, reach = source // 2, target // 2
    low, high = 1.01, 1.5
    while high - low > 1e-6:
        q = (low + high) / 2
        low, high = (low, q) if (1 - q**half) / (1 - q) > reach else (q, high)
    steps = np.cumsum(q ** np.arange(half))
    places = np.concatenate((-steps[::-1], [0.0], steps))
    return cubic_spline(places, np.arange(-reach, reach + 1.0))


def cubic_spline(places: np.ndarray, at: np.ndarray) -> np.ndarray:
    """(m, n) float64: times values at the n >= 4 rising places, this gives their not-a-knot cubic spline at m points.

    The spline's second derivatives solve a linear system: equal slopes where two pieces meet, and one cubic over the
    first two and the last two intervals. A point beyond the ends is read at the nearer end.
    """
    n, h = len(places), np.diff(places)
    left, right = np.zeros((n, n)), np.zeros((n, n))
    for i in range(1, n - 1):
        left[i, i - 1 : i + 2] = h[i - 1], 2 * (h[i - 1] + h[i]), h[i]
        right[i, i - 1 : i + 2] = 6 / h[i - 1], -6 / h[i - 1] - 6 / h[i], 6 / h[i]
    left[0, :3] = h[1], -h[0] - h[1], h[0]
    left[-1, -3:] = h[-1], -h[-2] - h[-1], h[-2]
    curvature = np.linalg.solve(left, right)  # (n, n): values -> second derivatives

    at = np.clip(at, places[0], places[-1])
    i = np.clip(np.searchsorted(places, at, side="right") - 1, 0, n - 2)
    a, b = ((places[i + 1] - at) / h[i])[:, None], ((at - places[i]) / h[i])[:, None]
    square = (h[i] ** 2)[:, None] / 6
    eye = np.eye(n)
    return a * eye[i] + b * eye[i + 1] + square * ((a**3 - a) * curvature[i] + (b**3 - b) * curvature[i + 1])
