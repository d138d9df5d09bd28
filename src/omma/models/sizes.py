"""What the configs of several models check alike, and the grid of a picture's patches."""

from collections.abc import Iterable, Mapping
from typing import Any


class Patched:
    """Of a config with image_size and patch_size: a picture's patches."""

    image_size: int
    patch_size: int

    @property
    def grid(self) -> tuple[int, int]:
        side = self.image_size // self.patch_size
        return side, side

    @property
    def num_patches(self) -> int:
        return self.grid[0] * self.grid[1]


def check_sizes(config: Any, least: Mapping[str, int], shares: Iterable[str] = ()) -> None:
    """ValueError for a size below its least, for a share that is not 0 to below 1, and for sizes that don't divide:
    hidden_size by num_heads, image_size by patch_size, where the config has them. None is no size."""
    for name, low in least.items():
        if (value := getattr(config, name)) is not None and value < low:
            raise ValueError(f"{name}={value}: give {low} or more")
    for name in shares:
        if not 0 <= getattr(config, name) < 1:
            raise ValueError(f"{name}={getattr(config, name)}: give a share from 0 to below 1")
    for whole, part in (("hidden_size", "num_heads"), ("image_size", "patch_size")):
        if hasattr(config, whole) and getattr(config, whole) % getattr(config, part):
            raise ValueError(f"{whole} {getattr(config, whole)} does not divide by {part} {getattr(config, part)}")
