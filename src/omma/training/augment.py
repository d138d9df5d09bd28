"""A picture as training shows it: a random crop, mirrored or not, brighter or darker. No torch: see samples.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from omma.models.preprocess import Processor


Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels


class Augmentation(Protocol):
    """The settings that `augmented` reads; `DataConfig` says what they mean."""

    @property
    def crop_scale(self) -> float: ...

    @property
    def jitter(self) -> float: ...

    @property
    def flip(self) -> bool: ...


def augmented(
    image: Image.Image, processor: Processor, config: Augmentation, rng: np.random.Generator,
    scaled: Callable[[Image.Image, Box | None], np.ndarray] | None = None,
) -> np.ndarray:  # fmt: skip
    """Pixels as `Processor.pixels` gives them, of a random crop, with brightness and contrast moved, mirrored or not,
    as far as config says so. scaled: what takes the place of `Processor.pixels`."""
    c = config
    box, mirrored, brightness, contrast = crop_box(image, config, rng, square=processor.shortest_side is not None)
    pixels = (scaled or processor.pixels)(image, box)
    if c.jitter:
        gain, shift = 1 + c.jitter * (2 * contrast - 1), 255 * c.jitter * (brightness - 0.5)
        ramp = np.clip((np.arange(256) - 128) * gain + 128 + shift, 0, 255).astype(np.uint8)
        pixels = ramp[pixels]
    if mirrored:
        pixels = np.ascontiguousarray(pixels[..., ::-1])
    return pixels


def crop_box(
    image: Image.Image, config: Augmentation, rng: np.random.Generator, square: bool = False
) -> tuple[Box | None, bool, float, float]:
    """The draws of `augmented`: the crop in pixels (None: all of it), whether to mirror, brightness and contrast.

    The crop has the picture's shape and a share of its area; square: it is one, and that of the largest square in it,
    for a model that sees squares of pictures and not whole ones.
    """
    c = config
    area, x, y, brightness, contrast, mirror = rng.random(6)
    side = np.sqrt(c.crop_scale + (1 - c.crop_scale) * area)
    w, h = image.width * side, image.height * side
    w, h = (min(w, h), min(w, h)) if square else (w, h)
    left, top = x * (image.width - w), y * (image.height - h)
    box = (float(left), float(top), float(left + w), float(top + h)) if c.crop_scale < 1 else None
    return box, c.flip and mirror < 0.5, brightness, contrast
