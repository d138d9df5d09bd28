"""Maps of several strides out of a transformer's one stride, for heads that find things of every size.

B batch, D width, (gh, gw) patch grid, p patch size in pixels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class FeaturePyramid(nn.Module):
    """Four maps of strides p/4, p/2, p and 2p: two deconvolutions, one, none, and a max pool (BEiT, Bao et al. 2021).

    From four layers' maps, the lowest layer for the finest map, as BEiT's; or from one map for all four, as in ViTDet's
    simple pyramid (Li et al. 2022). `VLMo.features` gives the maps.
    """

    def __init__(self, hidden_size: int):
        super().__init__()
        up = lambda: nn.ConvTranspose2d(hidden_size, hidden_size, 2, stride=2)
        # One group: a LayerNorm over channels and places, which is the same for a batch of one
        finest = nn.Sequential(up(), nn.GroupNorm(1, hidden_size, eps=1e-6), nn.GELU(), up())
        self.levels = nn.ModuleList((finest, up(), nn.Identity(), nn.MaxPool2d(2)))

    def strides(self, patch_size: int) -> tuple[float, ...]:
        """Pixels from one place of each map to the next."""
        return patch_size / 4, patch_size / 2, float(patch_size), 2.0 * patch_size

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """maps: one or four of (B, D, gh, gw) -> (B, D, 4gh, 4gw), (B, D, 2gh, 2gw), (B, D, gh, gw), and half of it.

        An odd side rounds down in the last. ValueError for another number of maps.
        """
        if len(maps) not in (1, 4):
            raise ValueError(f"{len(maps)} maps; a pyramid is made of four layers' maps, or of one: features(layers=)")
        maps = list(maps) * (4 // len(maps))
        return tuple(level(x) for level, x in zip(self.levels, maps, strict=True))


def even_layers(num_layers: int) -> tuple[int, ...]:
    """Four layers spread evenly up to the last: (3, 6, 9, 12) of 12. A model of fewer names some twice."""
    return tuple(int(n) for n in torch.linspace(num_layers / 4, num_layers, 4).ceil())
