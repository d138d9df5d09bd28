"""Pixels of a world: the picture, and for every pixel the thing and the part it shows.

Pillow draws at twice the size and halves. Equal worlds give equal pixels, and what is far from an edited thing does not
change.
"""

import io

import numpy as np
from PIL import Image, ImageDraw

from omma.scenes.kinds import COLOURS, KINDS
from omma.scenes.looks import FLAT, Look, scatter, stylise
from omma.scenes.pen import Pen
from omma.scenes.shapes import SHAPES
from omma.scenes.world import World

SUPERSAMPLE = 2
THINGS = 32  # an id is thing + 32 * part: thing from 1, 0 is the background; part 0 is what belongs to no attribute


def part_code(kind: str, attribute: str) -> int:
    """The part number of an attribute in the id mask; 0 for a name that is no attribute of the kind."""
    names = list(KINDS[kind].attributes)
    return names.index(attribute) + 1 if attribute in names else 0


def draw(
    world: World, size: int = 128, picture: bool = True, ids: bool = True, look: Look = FLAT
) -> tuple[Image.Image | None, Image.Image | None]:
    """The picture (RGB) and the id mask (mode L, nearest sample) in one go; what is not asked for is None."""
    if size < 32:
        raise ValueError(f"a scene of {size} pixels shows nothing; the least size is 32")
    wide = size * SUPERSAMPLE
    canvas = Image.new("RGB", (wide, wide), world.backdrop.sky) if picture else None
    styled = picture and look.style != "flat"
    mask = Image.new("L", (wide, wide)) if ids or styled else None
    paint, mark = ImageDraw.Draw(canvas) if canvas else None, ImageDraw.Draw(mask) if mask else None
    if paint:
        paint.rectangle((0, round(world.backdrop.horizon * wide), wide, wide), fill=world.backdrop.ground)
        if look.clutter:
            scatter(paint, world.backdrop, wide, look.clutter)
    line = 2 * round(wide / 128) + 1
    for i in world.order:
        thing = world.things[i]
        kind = KINDS[thing.kind]
        codes = {"": i + 1} | {name: i + 1 + THINGS * (k + 1) for k, name in enumerate(kind.attributes)}
        pen = Pen(
            paint,
            mark,
            COLOURS[thing.colour],
            (thing.x * wide, thing.y * wide),
            thing.size * wide * kind.stretch - kind.swell,
            line,
            codes,
        )
        SHAPES[thing.kind](pen, dict(thing.attributes).get)
    if canvas and mask and styled:
        canvas = stylise(canvas, mask, world, look.style)
    if canvas:
        canvas = canvas.reduce(SUPERSAMPLE)
    if mask and ids:
        mask = mask.resize((size, size), Image.Resampling.NEAREST)
    return canvas, mask if ids else None


def render(world: World, size: int = 128, look: Look = FLAT) -> Image.Image:
    """An RGB picture of size x size pixels, before any harm is done to it (looks.degrade)."""
    picture, _ = draw(world, size, ids=False, look=look)
    assert picture is not None
    return picture


def render_ids(world: World, size: int = 128) -> np.ndarray:
    """(size, size) uint8: 0 background, else thing + 32 * part (see `part_code`); thing i of the world has number i +
    1."""
    _, mask = draw(world, size, picture=False)
    return np.asarray(mask)


def png(picture: Image.Image) -> bytes:
    """Fast PNG: flat colours pack well at the lowest level."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
