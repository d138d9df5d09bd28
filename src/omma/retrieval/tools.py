"""Tools that look at a picture more closely: pure functions of the picture and a few arguments.

    TOOLS["count"].run(picture, Sight(eye), thing="red cup").text == "2 found: red cup"

A tool opens, fetches and writes nothing. Its arguments are checked against what it declares, its result is words,
boxes and at most one picture, all of bounded size.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from omma.retrieval.colours import colour_name, shares
from omma.retrieval.ocr import read_words
from omma.retrieval.phrases import Phrase, read_phrase
from omma.retrieval.things import COMMON, Box, Found, PieceDetector, cut, small

MOST_WORDS = 1000      # characters of a result
MOST_BOXES = 32
MOST_SIDE = 1600       # pixels of a picture that tools look at: larger ones are scaled down first
READABLE = 1000        # pixels of the longer side of what is read: letters of small pictures are enlarged
SHOWN = 336            # pixels of a cropped picture's shorter side, as long as that is at most four times its own
NAMED = 0.5            # how sure a name has to be that nobody asked for
INNER = 0.6            # of a box, for its colour where no pixels are told
LONGEST_THING = 80     # characters


class ToolFailed(ValueError):
    """A tool that can't say anything here, with the reason."""


@dataclass(frozen=True, eq=False)
class Result:
    """What a tool found. text: for a model and the record; value: for a program; boxes: where, in shares of the
    picture; picture: of a tool that makes one."""

    text: str
    value: Any = None
    boxes: tuple[Box, ...] = ()
    picture: Image.Image | None = None


class Sight:
    """What tools see with: an eye that reads, and a detector, by default one by the eye for plain backgrounds."""

    def __init__(self, eye: Any, detector: Any = None, seconds: float = 60.0):
        self.eye, self.seconds = eye, seconds
        self.detector = PieceDetector(eye) if detector is None else detector


@dataclass(frozen=True)
class Tool:
    """says: what it does; parameters: JSON schemas of its arguments by name; needed: those that can't be left out."""

    says: str
    run: Callable[..., Result]
    parameters: dict[str, dict[str, Any]] = field(default_factory=dict)
    needed: tuple[str, ...] = ()


# ---- the tools
def count(image: Image.Image, sight: Sight, thing: str) -> Result:
    """How many of a thing are there. ToolFailed for what only a part tells apart ("cups with a handle")."""
    phrase = meant(thing)
    if phrase.rest:
        raise ToolFailed(f"things that differ by {phrase.rest!r} can't be counted apart")
    found, bar = things(image, sight, phrase), sight.detector.bars[1]
    if unsure := [one for one in found if one.score < bar]:
        raise ToolFailed(f"{len(found) - len(unsure)} of {phrase.text} found, and {len(unsure)} that may be")
    return Result(f"{len(found)} found: {phrase.text}", len(found), boxes_of(found))


def detect(image: Image.Image, sight: Sight, thing: str = "") -> Result:
    """Where a thing is, or with no name all common things: a box for each, the one that fits best first; value: their
    names, colours included. Of things that may be it only the likeliest, where it is much likelier than the next."""
    phrase = meant(thing) if thing else None
    found = things(image, sight, phrase)
    if phrase:
        sure = [one for one in found if one.score >= sight.detector.bars[1]]
        found = sure or (found[:1] if found and stands_alone(found) else [])
    called = lambda one: one.name if one.score >= NAMED else "thing"
    names = [phrase.text if phrase else f"{colour_of(image, one)} {called(one)}" for one in found]
    lines = [f"{name} at {' '.join(f'{v:.2f}' for v in one.box)}" for name, one in zip(names, found, strict=True)]
    return Result("\n".join(lines) or f"0 found: {phrase.text if phrase else 'things'}", names, boxes_of(found))


def colour(image: Image.Image, sight: Sight, thing: str = "", box: Sequence[float] | None = None) -> Result:
    """The colour of a thing, of what is in a box, or of the whole picture: see `colour_name`."""
    if thing:
        phrase = meant(thing)
        one = the_one(things(image, sight, phrase), phrase)
        found, places = region_of(image, one), (one.box,)
    else:
        place = (0.0, 0.0, 1.0, 1.0) if box is None else boxed(box)
        found, places = np.asarray(image.convert("RGB").crop(pixels(image, place))), (place,)
    told, name = shares(found.reshape(-1, 3)), colour_name(found.reshape(-1, 3))
    text = ", ".join(f"{term} {share:.0%}" for term, share in list(told.items())[:4])
    return Result(f"{name} ({text} of the pixels)", name, places)


def read(image: Image.Image, sight: Sight, box: Sequence[float] | None = None) -> Result:
    """The words in a picture or a box of it, by Tesseract. ToolFailed where it is missing, slow, or reads nothing."""
    part = image if box is None else image.crop(pixels(image, boxed(box)))
    scale = min(4.0, READABLE / max(part.size))
    if scale > 1:
        part = part.resize((round(part.width * scale), round(part.height * scale)), Image.Resampling.BICUBIC)
    try:
        text, on_it = read_words(part.convert("RGB"), sight.seconds)
    except (ValueError, TimeoutError) as error:
        raise ToolFailed(str(error)) from None
    if not text.strip():
        raise ToolFailed("no words were read")
    x0, y0, x1, y1 = (0.0, 0.0, 1.0, 1.0) if box is None else boxed(box)
    places = [(x0 + a * (x1 - x0), y0 + b * (y1 - y0), x0 + c * (x1 - x0), y0 + d * (y1 - y0))
              for _, a, b, c, d in on_it]  # fmt: skip
    return Result(text[:MOST_WORDS], text[:MOST_WORDS], tuple(places[:MOST_BOXES]))


def crop(image: Image.Image, sight: Sight, thing: str = "", box: Sequence[float] | None = None) -> Result:
    """A part of the picture, enlarged: around a thing, or a box."""
    if box is None and not thing:
        raise ToolFailed("say what to look at: a thing, or a box")
    if box is None:
        phrase = meant(thing)
        box = the_one(things(image, sight, phrase), phrase).box
    place = boxed(box)
    part = cut(image, place)
    scale = min(4.0, SHOWN / min(part.size))
    if scale > 1:
        part = part.resize((round(part.width * scale), round(part.height * scale)), Image.Resampling.BICUBIC)
    return Result(f"the part at {' '.join(f'{v:.2f}' for v in place)}", None, (place,), part)


THING = {"type": "string", "maxLength": LONGEST_THING, "description": "what is meant, such as: red cup"}
BOX = {"type": "array", "items": {"type": "number", "minimum": 0, "maximum": 1}, "minItems": 4, "maxItems": 4,
       "description": "x0, y0, x1, y1 in shares of the picture, from its upper left corner"}  # fmt: skip
TOOLS: dict[str, Tool] = {
    "count": Tool("how many of a thing are in the picture", count, {"thing": THING}, ("thing",)),
    "detect": Tool("boxes of where a thing is in the picture; without a name, of all common things", detect,
                   {"thing": THING}),
    "colour": Tool("the colour of a thing, or of a box", colour, {"thing": THING, "box": BOX}),
    "read": Tool("the words written in the picture, or in a box of it", read, {"box": BOX}),
    "crop": Tool("a part of the picture enlarged: around a thing, or a box", crop, {"thing": THING, "box": BOX}),
}


def checked(name: str, arguments: Any, pictures: int) -> tuple[Tool, int, dict[str, Any]]:
    """(tool, number of the picture from 0, its arguments). ToolFailed for a name that isn't in TOOLS, and for
    arguments that it doesn't declare."""
    if name not in TOOLS:
        raise ToolFailed(f"no tool {str(name)[:40]!r}; there are {', '.join(TOOLS)}")
    tool = TOOLS[name]
    if not isinstance(arguments, dict):
        raise ToolFailed(f"the arguments of {name} are an object of {', '.join(['picture', *tool.parameters])}")
    given = {key: value for key, value in arguments.items() if value is not None}
    number = given.pop("picture", 1)
    if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= pictures:
        raise ToolFailed(f"no picture {str(number)[:40]!r}; there are 1 to {pictures}")
    if unknown := [key for key in given if key not in tool.parameters]:
        raise ToolFailed(f"{name} takes no {str(unknown[0])[:40]!r}, but {', '.join(tool.parameters)}")
    if lacking := [key for key in tool.needed if key not in given]:
        raise ToolFailed(f"{name} needs {lacking[0]!r}")
    if "thing" in given:
        meant(given["thing"])
    if "box" in given:
        given["box"] = boxed(given["box"])
    return tool, number - 1, given


# ---- what they share
def meant(thing: Any) -> Phrase:
    phrase = read_phrase(thing) if isinstance(thing, str) and len(thing) <= LONGEST_THING else None
    if phrase is None:
        raise ToolFailed(f"a thing is named in at most {LONGEST_THING} characters, such as 'red cup'")
    return phrase


def boxed(box: Any) -> Box:
    """Four numbers of 0..1 as a box that holds something. ToolFailed for anything else."""
    good = isinstance(box, list | tuple) and len(box) == 4 and all(
        isinstance(v, int | float) and not isinstance(v, bool) and 0 <= v <= 1 for v in box)  # fmt: skip
    if not good or not (box[0] < box[2] and box[1] < box[3]):
        raise ToolFailed("a box is x0, y0, x1, y1 between 0 and 1, from its upper left to its lower right")
    return float(box[0]), float(box[1]), float(box[2]), float(box[3])


def pixels(image: Image.Image, box: Box) -> tuple[int, int, int, int]:
    """A box in pixels, of one at least."""
    w, h = image.size
    left, top = min(int(box[0] * w), w - 1), min(int(box[1] * h), h - 1)
    return left, top, max(left + 1, round(box[2] * w)), max(top + 1, round(box[3] * h))


def things(image: Image.Image, sight: Sight, phrase: Phrase | None) -> list[Found]:
    """What may be of the phrase's kind and colour, the likeliest first; of several, the ones that look most like the
    whole phrase. All common things, where there is no phrase."""
    try:
        found = sight.detector.detect(image, [phrase.head] if phrase else COMMON)
    except ValueError as error:
        raise ToolFailed(str(error)) from None
    if phrase and phrase.colour:
        found = [one for one in found if colour_of(image, one) == phrase.colour]
    if phrase and phrase.rest and len(found) > 1 and not stands_alone(found):
        looks = sight.eye.encode_image([one.look or cut(image, one.box) for one in found])
        fit = looks @ sight.eye.encode_text([phrase.text])[0]
        found = [found[i] for i in np.argsort(-fit, kind="stable").tolist()]
    return found[:MOST_BOXES]


def stands_alone(found: Sequence[Found]) -> bool:
    """Whether the first is much likelier than the next."""
    return len(found) == 1 or found[1].score < found[0].score / 3


def the_one(found: Sequence[Found], phrase: Phrase) -> Found:
    """The thing that is meant. ToolFailed where there is none, or several that nothing tells apart."""
    if not found:
        raise ToolFailed(f"no {phrase.text} was found")
    if not phrase.rest and not stands_alone(found):
        raise ToolFailed(f"{len(found)} that may be it were found: {phrase.text}")
    return found[0]


def colour_of(image: Image.Image, one: Found) -> str:
    return colour_name(region_of(image, one))


def region_of(image: Image.Image, one: Found) -> np.ndarray:
    """(n, 3) uint8: a thing's pixels, or those of the middle of its box."""
    if one.mask is not None:
        return small(image)[one.mask]
    x0, y0, x1, y1 = one.box
    dx, dy = (x1 - x0) * (1 - INNER) / 2, (y1 - y0) * (1 - INNER) / 2
    return np.asarray(image.convert("RGB").crop(pixels(image, (x0 + dx, y0 + dy, x1 - dx, y1 - dy)))).reshape(-1, 3)


def boxes_of(found: Sequence[Found]) -> tuple[Box, ...]:
    return tuple(one.box for one in found[:MOST_BOXES])
