"""Things in a picture: what stands out from a plain background, and what an eye calls it.

A background is plain where a few tints make up the picture's border. What differs from all of them is cut into patches
that hang together, and an eye names each by its look among COMMON things of its colour. On a photograph there is no
such background, and `pieces` says so; there a detector that was trained for it finds things (`models/hf_detector.py`).

Settings were chosen on scenes of `omma scenes --seed 401`, where vlmo-nano names 70 % of the things right among 106,
and picks the right one of a picture for 97 % of the names.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from omma.data.pieces import labels
from omma.retrieval.colours import colour_name, lab

SIDE = 256             # pixels of the longer side that is looked at
MOST_TINTS, PLAIN = 4, 0.8    # tints of a background, and the share of the border that they have to make up
TINT, APART = 10.0, 14.0      # CIELAB distances: of one tint, and of what stands out from all
LEAST = 0.001          # share of the picture: what is smaller is no thing
MOST_FILLED = 0.7      # share of the picture that stands out; with more, the border was no background
MOST = 64
MARGIN = 0.15          # around a box that is shown: share of its longer side
ALONE = 0.8            # the same for an eye that names it: things fill less than half of the pictures it knows
Box = tuple[float, float, float, float]
COMMON = tuple(re.findall(r"\w+", """
    arrow axe ball balloon banana basket bed bell bench bicycle bird boat book bottle bowl box bread bridge bucket
    butterfly cake camera candle car carrot cat chair clock cloud coin couch cow crown cup diamond dog door drum
    duck elephant eye fish flag flower fork fruit ghost glass glove guitar hammer hand hat heart horse house kettle
    key knife ladder lamp leaf letter lion lock map moon mouse mushroom pen person phone pizza plane plate rabbit
    ribbon ring road robot rocket scissors sheep ship shirt shoe sign snake snowman spoon star stone sun sword table
    telephone tent toothbrush train tree truck umbrella vase watch wheel window"""))  # fmt: skip


class Unclear(ValueError):
    """A picture in which this way of looking finds nothing that it could stand for."""


@dataclass(frozen=True, eq=False)
class Found:
    """One thing: its box in shares of the picture from its upper left, what it was called, how sure that is (0..1), its
    pixels (h, w) bool in a picture of SIDE and its look without the others, None for a detector that tells boxes
    alone."""

    box: Box
    name: str
    score: float
    mask: np.ndarray | None = None
    look: Image.Image | None = None


@dataclass(frozen=True, eq=False)
class Piece:
    """A patch that stands out: mask (h, w) bool, and its box in shares of the picture."""

    mask: np.ndarray
    box: Box


def small(image: Image.Image) -> np.ndarray:
    """(h, w, 3) uint8 of the picture, its longer side at most SIDE."""
    image = image.convert("RGB")
    scale = SIDE / max(image.size)
    if scale < 1:
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = image.resize(size, Image.Resampling.BOX)
    return np.asarray(image)


def pieces(image: Image.Image) -> list[Piece]:
    """What stands out from the background, from left to right. Unclear where the background is not plain."""
    pixels = small(image)
    h, w = pixels.shape[:2]
    if min(h, w) < 8:
        raise Unclear(f"a picture of {image.width} x {image.height} pixels is too small to look for things in")
    places = lab(pixels)
    tints = background(places)
    far = np.sqrt(((places[:, :, None] - tints) ** 2).sum(-1)).min(-1)        # (h, w)
    out = far > APART
    if out.mean() > MOST_FILLED:
        raise Unclear("what is seen has no plain background to stand out from")
    numbered = labels(out, corners=True)
    sizes = np.bincount(numbered.ravel())
    masks = [numbered == n for n in np.argsort(-sizes[1:])[:MOST] + 1 if sizes[n] >= max(4, LEAST * h * w)]
    whole: list[np.ndarray] = []
    for mask in masks:                                                        # the largest first
        for n, larger in enumerate(whole):
            if within(extent(mask), extent(larger)):                          # a part drawn apart, as a hat's bow
                whole[n] = larger | mask
                break
        else:
            whole.append(mask)
    places = [(mask, extent(mask)) for mask in whole]
    found = [Piece(mask, (x0 / w, y0 / h, x1 / w, y1 / h)) for mask, (x0, y0, x1, y1) in places]
    return sorted(found, key=lambda piece: piece.box[0])


def background(places: np.ndarray) -> np.ndarray:
    """(tints, 3): the CIELAB colours that make up a picture's border. places: (h, w, 3). Unclear where MOST_TINTS are
    not enough."""
    wide = max(1, min(places.shape[:2]) // 48)
    ring = np.ones(places.shape[:2], bool)
    ring[wide:-wide, wide:-wide] = False
    left = places[ring]
    total, tints = len(left), []
    while len(tints) < MOST_TINTS and len(left) > (1 - 0.98) * total:
        cells, counts = np.unique(np.round(left / (TINT / 2)), axis=0, return_counts=True)
        near = np.sqrt(((left - cells[counts.argmax()] * (TINT / 2)) ** 2).sum(-1)) < TINT
        tints.append(left[near].mean(0))
        left = left[~near]
    if len(left) > (1 - PLAIN) * total:
        raise Unclear("its background is not plain")
    return np.stack(tints)


def extent(mask: np.ndarray) -> tuple[int, int, int, int]:
    """x0, y0, x1, y1 of the True pixels."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def within(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether the middle of a box lies in another."""
    x, y = (one[0] + one[2]) / 2, (one[1] + one[3]) / 2
    return other[0] < x < other[2] and other[1] < y < other[3]


def cut(image: Image.Image, box: Box, margin: float = MARGIN) -> Image.Image:
    """A square around a box, with a margin, moved into the picture where it would stand over its edge."""
    w, h = image.size
    x0, y0, x1, y1 = box[0] * w, box[1] * h, box[2] * w, box[3] * h
    side = min(max(x1 - x0, y1 - y0) * (1 + 2 * margin), w, h)
    left = min(max((x0 + x1 - side) / 2, 0), w - side)
    top = min(max((y0 + y1 - side) / 2, 0), h - side)
    place = tuple(round(v) for v in (left, top, left + side, top + side))
    return image.convert("RGB").crop((place[0], place[1], max(place[2], place[0] + 1), max(place[3], place[1] + 1)))


def alone(pixels: np.ndarray, found: Sequence[Piece], n: int) -> Image.Image:
    """Piece n with room around it, the others painted over. pixels: of `small`."""
    shown, ground = pixels.copy(), ~np.any([piece.mask for piece in found], axis=0)
    tint = np.median(pixels[ground], axis=0)
    for other in found:
        if other is not found[n]:
            shown[grown(other.mask) & ~found[n].mask] = tint
    return cut(Image.fromarray(shown), found[n].box, ALONE)


def grown(mask: np.ndarray) -> np.ndarray:
    """With the pixels beside, which smooth edges have mixed."""
    wide = np.pad(mask, 1)
    return wide[1:-1, 1:-1] | wide[:-2, 1:-1] | wide[2:, 1:-1] | wide[1:-1, :-2] | wide[1:-1, 2:]


Seen = tuple[Piece, Image.Image, np.ndarray, str]


class PieceDetector:
    """Finds things by name in pictures with a plain background, with any eye that reads.

    bars: a score below the first is no such thing, one from the second on is; what lies between may be.
    """

    name, bars = "pieces", (0.02, 0.2)

    def __init__(self, eye: Any):
        self.eye = eye
        self._words: dict[tuple[str, tuple[str, ...]], np.ndarray] = {}
        self._last: tuple[bytes, list[Seen]] = (b"", [])                      # one question asks for several names

    def detect(self, image: Image.Image, names: Sequence[str] = ()) -> list[Found]:
        """Everything that may be one of these names, the surest first; without names every thing by its likeliest one
        of COMMON. Unclear as of `pieces`.

        A score is the name's share among all common names, by the eye's softmax of cosines.
        """
        among, wanted, found = tuple(dict.fromkeys([*names, *COMMON])), list(names or COMMON), []
        scale = getattr(self.eye, "logit_scale", 100.0)
        for piece, picture, look, colour in self.seen(image):
            cosines = self.vectors(colour, among) @ look
            sure = np.exp(scale * (cosines - cosines.max()))
            best = int(np.argmax(sure[: len(wanted)])) if names else int(np.argmax(sure))
            score = float(sure[best] / sure.sum())
            if score >= self.bars[0]:
                found.append(Found(piece.box, among[best], score, piece.mask, picture))
        return sorted(found, key=lambda one: -one.score)

    def seen(self, image: Image.Image) -> "list[Seen]":
        """The pieces, each with its look alone, the eye's vector of that, and its colour."""
        pixels = small(image)
        key = hashlib.blake2b(pixels.tobytes(), digest_size=16).digest() + str(pixels.shape).encode()
        if self._last[0] != key:
            found = pieces(image)
            shown = [alone(pixels, found, n) for n in range(len(found))]
            looks = self.eye.encode_image(shown) if shown else []
            colours = [colour_name(pixels[piece.mask]) for piece in found]
            self._last = (key, list(zip(found, shown, looks, colours, strict=True)))
        return self._last[1]

    def vectors(self, colour: str, names: tuple[str, ...]) -> np.ndarray:
        """(names, E): of "a red cup" and so on; kept for the names that were asked last."""
        if (colour, names) not in self._words:
            self._words = {key: value for key, value in self._words.items() if key[1] == names}
            article = "an" if colour[0] in "aeiou" else "a"
            self._words[colour, names] = self.eye.encode_text([f"{article} {colour} {name}" for name in names])
        return self._words[colour, names]
