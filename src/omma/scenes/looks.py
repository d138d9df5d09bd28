"""How a scene looks beside what it shows: the style of drawing, the clutter behind things, and the harm done after.

A look is a matter of pixels alone: facts, words and id masks stay as they are. Every step but `degrade` is local and
the same for equal worlds, so that two pictures of a minimal pair differ only around what was exchanged.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from omma.scenes.world import Backdrop, World, generator

STYLES = ("flat", "shaded", "outline", "sketch")
LEAST_MOST = {"clutter": (0, 3), "noise": (0, 64), "blur": (0, 8), "jpeg": (0, 95), "downscale": (1, 8)}
PAPER = 250.0


@dataclass(frozen=True)
class Look:
    """style: one of STYLES. clutter: 0 to 3, pale shapes on the backdrop. noise: standard deviation in grey levels;
    blur: radius in pixels; jpeg: quality, 0 for none; downscale: the factor of pixels lost on each side."""

    style: str = "flat"
    clutter: int = 0
    noise: float = 0.0
    blur: float = 0.0
    jpeg: int = 0
    downscale: int = 1

    @property
    def harmed(self) -> bool:
        return (self.noise, self.blur, self.jpeg, self.downscale) != (0, 0, 0, 1)

    @staticmethod
    def parse(settings: dict[str, str]) -> "Look":
        """From text: {"style": "sketch", "noise": "4"}. Raises ValueError for what is no setting or out of range."""
        types = {field.name: type(field.default) for field in fields(Look)}
        values = {}
        for name, text in settings.items():
            if name not in types:
                raise ValueError(f"a look has no {name!r}; there are {', '.join(types)}")
            if name == "style":
                if text not in STYLES:
                    raise ValueError(f"no style {text!r}; there are {', '.join(STYLES)}")
                values[name] = text
                continue
            least, most = LEAST_MOST[name]
            try:
                values[name] = types[name](text)
            except ValueError:
                raise ValueError(f"{name}={text!r} is no number; it goes from {least} to {most}") from None
            if not least <= values[name] <= most:
                raise ValueError(f"{name}={text}: it goes from {least} to {most}")
        return Look(**values)


FLAT = Look()
Sweep = Mapping[str, tuple[float, float]]  # settings of a look that are drawn by lot, each from a range


def parse_sweep(settings: Sequence[tuple[str, str]]) -> tuple[Look, dict[str, tuple[float, float]]]:
    """Names and values as text -> the look that all pictures have, and what is drawn for each: noise=0..32 is a range.

    Raises ValueError as of `Look.parse`, for a range without a width, and for a style, which has no range.
    """
    fixed = {name: value for name, value in settings if ".." not in value}
    sweep: dict[str, tuple[float, float]] = {}
    for name, value in settings:
        if ".." in value:
            ends = [getattr(Look.parse({name: end}), name) for end in value.split("..", 1)]
            sweep[name] = ends[0], ends[1]
    check_sweep(sweep)
    return Look.parse(fixed), sweep


def check_sweep(sweep: Sweep) -> None:
    """Raises ValueError for a setting that has no range, and for a range that is none."""
    for name, (low, high) in sweep.items():
        if name not in LEAST_MOST:
            raise ValueError(f"{name!r} has no range; {', '.join(LEAST_MOST)} have")
        least, most = LEAST_MOST[name]
        if not least <= low < high <= most or (name == "jpeg" and low == 0):
            raise ValueError(f"{name}={low}..{high}: give a lower and an upper end within "
                             f"{max(least, 1) if name == 'jpeg' else least}..{most}")  # fmt: skip


def swept(look: Look, sweep: Sweep, *key: object) -> Look:
    """The look of one unit: the settings of a sweep are drawn by lot, evenly from their range, ends included."""
    found: dict[str, Any] = {}
    for name, (low, high) in sweep.items():
        lot = generator("sweep", name, *key).random()
        whole = isinstance(getattr(look, name), int)
        found[name] = int(low + lot * (high - low + 1)) if whole else round(low + lot * (high - low), 3)
    return replace(look, **found)


def scatter(paint: ImageDraw.ImageDraw, backdrop: Backdrop, wide: int, level: int) -> None:
    """Pale strokes and blobs behind the things, a function of the backdrop: a little darker or lighter than it."""
    rng = generator("clutter", backdrop.sky, backdrop.ground, backdrop.horizon)
    for _ in range(12 * level):
        x, y, r = rng.uniform(0, wide), rng.uniform(0, wide), rng.uniform(0.02, 0.07) * wide
        base = backdrop.sky if y < backdrop.horizon * wide else backdrop.ground
        shift = rng.choice((-22, -14, 12))
        tone = (*(max(0, min(255, value + shift)) for value in base),)
        if rng.random() < 0.5:
            paint.ellipse((x - r, y - 0.7 * r, x + r, y + 0.7 * r), fill=tone)
        else:
            dx, dy = rng.uniform(-2, 2) * r, rng.uniform(-2, 2) * r
            paint.line((x, y, x + dx, y + dy), fill=tone, width=max(1, wide // 90))


def stylise(canvas: Image.Image, mask: Image.Image, world: World, style: str) -> Image.Image:
    """The picture, drawn flat at full resolution, in another style; mask says which thing a pixel belongs to."""
    flat = np.asarray(canvas, np.float32)
    owner = np.asarray(mask) % 32
    wide = flat.shape[0]
    y, x = np.mgrid[0:wide, 0:wide].astype(np.float32) / wide
    if style == "shaded":  # light from above left: brighter there, darker at the far side of each thing
        light = np.ones((wide, wide), np.float32)
        for i, thing in enumerate(world.things):
            here = owner == i + 1
            away = ((x[here] - thing.x) + (y[here] - thing.y)) / (2 * thing.size)
            light[here] = 1.0 - 0.32 * np.clip(away, -0.8, 1)
        drawn = flat * light[..., None]
    else:
        inside = owner > 0
        edge = np.zeros((wide, wide), bool)
        reach = max(1, wide // 128)
        for axis in (0, 1):
            step = np.abs(np.roll(flat, reach, axis) - flat).max(axis=2) > 24
            edge |= step & (inside | np.roll(inside, reach, axis))
        if style == "outline":
            drawn = np.where(inside[..., None], 0.4 * flat + 0.6 * PAPER, flat)
            drawn[edge] = 0.55 * flat[edge]
        else:  # sketch: paper, a pencil line around everything, and hatching in the colour of what is there
            hatch = ((np.arange(wide)[:, None] + np.arange(wide)[None, :]) // reach) % 6 < 3
            drawn = np.full_like(flat, PAPER)
            drawn += 0.25 * (flat - PAPER) * ~inside[..., None]
            drawn = np.where(inside[..., None], 0.4 * flat + 0.6 * PAPER, drawn)
            drawn = np.where((inside & hatch)[..., None], flat, drawn)
            drawn[edge] = 60.0
    return Image.fromarray(np.clip(drawn, 0, 255).astype(np.uint8))


def degrade(picture: Image.Image, look: Look, *key: object) -> Image.Image:
    """Fewer pixels, blur, noise and JPEG, in this order. The noise is a function of the key: the two pictures of a pair
    get the same."""
    size = picture.size
    if look.downscale > 1:
        small = (max(1, size[0] // look.downscale), max(1, size[1] // look.downscale))
        picture = picture.resize(small, Image.Resampling.BOX).resize(size, Image.Resampling.BILINEAR)
    if look.blur:
        picture = picture.filter(ImageFilter.GaussianBlur(look.blur))
    if look.noise:
        rng = np.random.default_rng(generator("noise", *key).getrandbits(64))
        noisy = np.asarray(picture, np.float32) + rng.normal(0, look.noise, (size[1], size[0], 3)).astype(np.float32)
        picture = Image.fromarray(np.clip(np.rint(noisy), 0, 255).astype(np.uint8))
    if look.jpeg:
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=look.jpeg)
        picture = Image.open(buffer).convert("RGB")
    return picture
