"""Where a token stands: learned positions and the released checkpoints' relative bias, read at any patch grid.

L layers, H heads, D width, (gh, gw) patch grid, P = 1 + gh * gw image tokens ([CLS] first), T text tokens, S = T + P.
"""

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
        near = (2 * self.grid[0] - 1) * (2 * self.grid[1] - 1)
        far = self.table[..., near:]  # [CLS], cross and text buckets: independent of the grid
        if grid is None:
            index = relative_index(self.grid, text_len, self.table_text_len)[1]
            return self.table[..., index.to(self.table.device)]
        table = torch.cat((resample_relative(self.table[..., :near], self.grid, grid), far), dim=-1)
        image, text, _ = relative_index(grid, max(text_len, 2), self.table_text_len)
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


def resample_relative(values: Tensor, source: tuple[int, int], target: tuple[int, int]) -> Tensor:
    """The same for values over patch distances: (..., (2gh-1)(2gw-1)) -> (..., (2th-1)(2tw-1)), bicubic.

    The ends of both ranges are laid upon one another (align_corners), so distance 0 stays at the centre.
    """
    if source == target:
        return values
    sides = [2 * g - 1 for g in source]
    image = values.float().reshape(1, -1, *sides)
    image = F.interpolate(image, size=[2 * g - 1 for g in target], mode="bicubic", align_corners=True)
    return image.reshape(*values.shape[:-1], -1).to(values.dtype)
