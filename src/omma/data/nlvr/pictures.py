"""The Cornell NLVR pictures: three grey boxes with coloured things, read back from pixels and drawn again.

Suhr et al. 2017, "A corpus of natural language for visual reasoning". A picture is 400 x 100 px: three boxes of 100 px
with 50 px of darker grey between them. A box holds loose things of three shapes and sizes, or a tower of up to four
squares. Things are flat, apart from each other, and drawn with smooth edges, so that pixels tell all of it.
"""

import functools
from dataclasses import dataclass

import numpy as np
from PIL import Image

from omma.data.pieces import joined_runs

BOX, GAP, BOXES = 100, 50, 3
WIDTH = BOXES * BOX + (BOXES - 1) * GAP
GROUND, BETWEEN = (211, 211, 211), (128, 128, 128)
COLORS = {"black": (0, 0, 0), "yellow": (255, 255, 0), "blue": (0, 153, 255)}
SHAPES = ("square", "circle", "triangle")
SIZES = (10, 20, 30)
PALETTE = np.array([GROUND, *COLORS.values()], dtype=np.float32)
TOWER_X, PITCH = 40, 21  # blocks of a tower are squares of 20 px in one column, 1 px between them


@dataclass(frozen=True, order=True)
class Thing:
    """A thing in a box. x, y: left and top of its square, in pixels of the box; size: its side, 10, 20 or 30 px."""

    y: int
    x: int
    size: int
    shape: str
    color: str

    @property
    def right(self) -> int:
        return self.x + self.size

    @property
    def bottom(self) -> int:
        return self.y + self.size


Box = tuple[Thing, ...]  # from top to bottom
Boxes = tuple[Box, ...]


def is_tower(boxes: Boxes) -> bool:
    """Whether the picture is one of towers: every thing is a block in the middle column."""
    return all(thing.x == TOWER_X and thing.shape == "square" and thing.size == 20 for box in boxes for thing in box)


# ---------------------------------------------------------------------------------------------------------- reading
def parse(image: Image.Image) -> Boxes:
    """The things in each box of a picture, from left to right; within a box from top to bottom.

    Raises ValueError for a picture that is not 400 x 100 px, or that holds what is no thing of this world.
    """
    if image.size != (WIDTH, BOX):
        raise ValueError(f"a picture of {image.size[0]} x {image.size[1]} px; NLVR's are {WIDTH} x {BOX} px")
    pixels = np.asarray(image.convert("RGB"), dtype=np.float32)
    starts = [k * (BOX + GAP) for k in range(BOXES)]
    return tuple(parse_box(pixels[:, start : start + BOX]) for start in starts)


def parse_box(pixels: np.ndarray) -> Box:
    """The things in one box, from top to bottom. pixels: (100, 100, 3) float."""
    nearest = (pixels @ PALETTE.T - (PALETTE**2).sum(1) / 2).argmax(-1)  # smooth edges go to the nearest colour
    things = []
    for number, color in enumerate(COLORS, 1):
        for top, left, height, width, area in components(nearest == number):
            size = min(SIZES, key=lambda s: abs(s - width))
            fill = area / (height * width)
            shape = "square" if fill > 0.92 else "circle" if fill > 0.66 else "triangle"
            missing = size - height  # the tip of a triangle is too thin to have its colour
            if width != size or missing != (shape == "triangle"):
                raise ValueError(f"a {color} spot of {width} x {height} px at ({left}, {top}) is no thing of NLVR")
            things.append(Thing(y=top - missing, x=left, size=size, shape=shape, color=color))
    return tuple(sorted(things))


def components(mask: np.ndarray) -> list[tuple[int, int, int, int, int]]:
    """(top, left, height, width, area) of each patch of True pixels that hang together by their sides. mask: (h, w)."""
    found: dict[int, list[int]] = {}
    for row, start, stop, patch in joined_runs(mask):
        spot = found.setdefault(patch, [row, start, row + 1, stop, 0])
        spot[:4] = [min(spot[0], row), min(spot[1], start), max(spot[2], row + 1), max(spot[3], stop)]
        spot[4] += stop - start
    return [(top, left, bottom - top, right - left, area) for top, left, bottom, right, area in found.values()]


# ---------------------------------------------------------------------------------------------------------- drawing
def draw(boxes: Boxes) -> Image.Image:
    """The picture of these things, 400 x 100 px in RGB; parse gives them back."""
    pixels = np.empty((BOX, WIDTH, 3), dtype=np.float32)
    pixels[:] = BETWEEN
    for k, box in enumerate(boxes):
        part = pixels[:, k * (BOX + GAP) : k * (BOX + GAP) + BOX]
        part[:] = GROUND
        for thing in box:
            cover = coverage(thing.shape, thing.size)[:, :, None]
            under = part[thing.y : thing.bottom, thing.x : thing.right]
            under[:] = under * (1 - cover) + np.array(COLORS[thing.color]) * cover
    return Image.fromarray(pixels.round().astype(np.uint8))


@functools.cache
def coverage(shape: str, size: int, fine: int = 16) -> np.ndarray:
    """(size, size) share of each pixel that a shape covers, from fine x fine samples in each."""
    at = (np.arange(size * fine) + 0.5) / (size * fine)  # 0..1 along the side
    x, y = at[None, :], at[:, None]
    if shape == "circle":
        inside = (x - 0.5) ** 2 + (y - 0.5) ** 2 <= 0.25
    elif shape == "triangle":
        inside = np.abs(x - 0.5) <= y / 2
    else:
        inside = np.ones((size * fine, size * fine), dtype=bool)
    return inside.reshape(size, fine, size, fine).mean((1, 3))
