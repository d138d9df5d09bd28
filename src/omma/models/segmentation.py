"""Semantic segmentation: a class for every pixel, from four layers' maps (UperNet, Xiao et al. 2018).

B batch, D width, W width of the head, C classes, (gh, gw) patch grid.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omma.models.pyramid import FeaturePyramid

SCALES = (1, 2, 3, 6)  # cells a side of the pooled views of the coarsest map


def conv(in_channels: int, out_channels: int, size: int) -> nn.Sequential:
    """Convolution, norm, ReLU. Published with batch norm over eight GPUs; groups of channels need no large batch."""
    groups = next(g for g in (32, 16, 8, 4, 2, 1) if out_channels % (4 * g) == 0 or g == 1)  # of four or more
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, size, padding=size // 2, bias=False),
        nn.GroupNorm(groups, out_channels),
        nn.ReLU(),
    )


class SegmentationHead(nn.Module):
    """Pyramid of four strides, pooled views of the coarsest map, a path from coarse to fine, all of it read together.

    width: W; 512 is the published one.
    """

    def __init__(self, hidden_size: int, classes: int, width: int):
        super().__init__()
        self.pyramid = FeaturePyramid(hidden_size)
        self.views = nn.ModuleList(conv(hidden_size, width, 1) for _ in SCALES)
        self.coarsest = conv(hidden_size + len(SCALES) * width, width, 3)
        self.lateral = nn.ModuleList(conv(hidden_size, width, 1) for _ in range(3))
        self.smooth = nn.ModuleList(conv(width, width, 3) for _ in range(3))
        self.fuse = conv(4 * width, width, 3)
        self.dropout = nn.Dropout2d(0.1)
        self.classify = nn.Conv2d(width, classes, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """maps: four of (B, D, gh, gw), lowest layer first -> logits (B, C, 4 gh, 4 gw)."""
        *levels, top = self.pyramid(maps)
        views = [view(F.adaptive_avg_pool2d(top, n)) for n, view in zip(SCALES, self.views, strict=True)]
        views = [resized(view, top.shape[-2:]) for view in views]
        x = self.coarsest(torch.cat((top, *views), dim=1))
        merged = [x]
        for level, lateral in zip(levels[::-1], reversed(self.lateral), strict=True):
            x = lateral(level) + resized(x, level.shape[-2:])
            merged.append(x)
        fine = merged[-1].shape[-2:]
        smooth = [merged[0], *(part(x) for part, x in zip(self.smooth, merged[1:], strict=True))]
        return self.classify(self.dropout(self.fuse(torch.cat([resized(x, fine) for x in smooth], dim=1))))


def resized(x: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """(B, W, ...) at another size, bilinear."""
    return x if x.shape[-2:] == size else F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)
