"""Words for NLVR pictures: descriptions of a box, sentences from templates, and other sentences in a given wording.

A template gives a form of words only; `nlvr_language.read` says what it means, as it does for sentences of people. So
there is one truth, and a sentence that the reader refuses is never used.
"""

import itertools
import re
from typing import Any

import numpy as np

from omma.data.nlvr.meaning import at_corner, at_wall
from omma.data.nlvr.phrases import NUMBERS
from omma.data.nlvr.pictures import BOX, COLORS, SHAPES, Box

COUNT_WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SIZE_NAMES = {10: "small", 20: "medium", 30: "big"}
Rng = np.random.Generator


def choose(rng: Rng, options: Any) -> Any:
    """One of the options; "this|that" stands for two."""
    options = options.split("|") if isinstance(options, str) else options
    return options[int(rng.integers(len(options)))]


# ---------------------------------------------------------------------------------------------------------- one box
PLACES = (
    ("", lambda thing: True),
    (" touching the wall", at_wall),
    (" not touching the wall", lambda thing: not at_wall(thing)),
    (" touching the bottom", lambda thing: thing.bottom == BOX),
    (" touching the right wall", lambda thing: thing.right == BOX),
    (" touching the left wall", lambda thing: thing.x == 0),
    (" touching the top", lambda thing: thing.y == 0),
    (" touching a corner", lambda thing: at_corner(thing, ())),
)


def tags(box: Box) -> list[str]:
    """All that is true of a box of a fixed list of statements: how many things of a kind there are at a place, at least
    ("2 black circles touching the wall"), their sizes, and for what stands in one column its colours from the base."""
    found = []
    for place, holds in PLACES:
        here = [thing for thing in box if holds(thing)]
        for color in ("", *COLORS):
            for shape in ("", *SHAPES):
                n = sum((not color or t.color == color) and (not shape or t.shape == shape) for t in here)
                what = " ".join(filter(None, (color, shape or "item")))
                found += [f"{k} {what if k == 1 else plural(what)}{place}" for k in range(1, n + 1)]
    found += sorted({f"1 {SIZE_NAMES[t.size]} {t.color} {t.shape}" for t in box})
    if box and len({thing.x for thing in box}) == 1:
        found += [f"level {k} is {thing.color}" for k, thing in enumerate(reversed(box), 1)]
        found += sorted({f"{up.color} on {down.color}" for up, down in itertools.pairwise(box)})
        found.append(f"{box[0].color} top")
    return found


def plural(what: str) -> str:
    return re.sub(r"\b(item|object|block|square|circle|triangle)\b", r"\1s", what, count=1)


def things_to_count(box: Box, rng: Rng, tower: bool) -> str:
    """A kind of thing, mostly one that is in the box: "black circle touching the wall", "blue block at the base"."""
    near = choose(rng, box) if box and rng.random() < 0.7 else None
    color = near.color if near else choose(rng, list(COLORS))
    if tower:
        place = choose(rng, "||| at the base| at the top| at the bottom| above a | over a | below a | on a ")
        other = f"{choose(rng, list(COLORS))} block" if place.endswith("a ") else ""
        return f"{color if place or rng.random() < 0.8 else ''} {choose(rng, 'block|block|item')}{place}{other}".strip()
    shape = near.shape if near else choose(rng, SHAPES)
    size = choose(rng, ("small", "medium", "big")) if rng.random() < 0.08 else ""
    noun = shape if rng.random() < 0.6 else choose(rng, "item|object")
    said = " ".join(filter(None, (size, color if rng.random() < 0.8 else "", noun)))
    return f"{said} {choose(rng, WHERE)}" if rng.random() < 0.5 else said


# ---------------------------------------------------------------------------------------------------------- templates
def template(rng: Rng, tower: bool) -> str:
    """A sentence about a picture of three towers, or of three boxes of loose things."""
    make = tower_sentence if tower else loose_sentence
    sentence = make(rng)
    return sentence + ("." if rng.random() < 0.4 else "")


def number(rng: Rng, top: int = 4) -> tuple[str, int]:
    n = 1 + min(int(rng.geometric(0.45)) - 1, top - 1)
    return (str(n) if rng.random() < 0.4 else COUNT_WORDS[n]), n


def some(rng: Rng, what: str, top: int = 4, also: tuple[str, ...] = ()) -> tuple[str, int]:
    """An amount and its noun: "exactly two black circles"; and how many, for the verb."""
    if rng.random() < 0.35:
        return f"{'an' if what[0] in 'aeiou' else 'a'} {what}", 1
    said, n = number(rng, top)
    limit = choose(rng, ("exactly ", "exactly ", "at least ", "at least ", "at most ", "only ", "", "", *also))
    if limit in ("more than ", "less than ") and n == 1:
        limit = "at least "
    return f"{limit}{said} {what if n == 1 else plural(what)}", n


def thing(rng: Rng, shaped: float = 0.6) -> str:
    color = choose(rng, list(COLORS)) if rng.random() < 0.8 else ""
    shape = choose(rng, SHAPES) if rng.random() < shaped else choose(rng, "item|object")
    size = choose(rng, "small|medium|big|large") if rng.random() < 0.05 else ""
    return " ".join(filter(None, (size, color, shape)))


def several(n: int, noun: str) -> str:
    return noun if n == 1 else plural(noun)


def different(n: int) -> str:
    return "different color" if n == 1 else "different colors"


def are(n: int, text: str) -> str:
    return f"There {'is' if n == 1 else 'are'} {text}"


def boxes(rng: Rng, noun: str) -> tuple[str, int]:
    if rng.random() < 0.5:
        return f"a {noun}", 1
    said, n = number(rng, 3)
    limit = choose(rng, "exactly |at least |only ||at most ")
    return f"{limit}{said} {noun if n == 1 else noun + ('es' if noun.endswith('x') else 's')}", n


def frame(rng: Rng, noun: str, holds: str) -> str:
    """There is a box with ...; each box has ...; one of the grey boxes contains ..."""
    kind = int(rng.integers(8))
    if kind == 0:
        return f"{choose(rng, 'Each|Every')} {noun} {choose(rng, 'has|contains|has')} {holds}"
    if kind == 1:
        which = choose(rng, "One|Two|At least one|Exactly one|None|Exactly two")
        many = noun + ("es" if noun.endswith("x") else "s")
        return f"{which} of the {many} {choose(rng, 'has|contains')} {holds}"
    if kind == 2:
        return f"There is no {noun} with {holds}"
    said, n = boxes(rng, noun)
    return are(n, f"{said} {choose(rng, 'with|with|with|that has|which has|containing|having')} {holds}")


WHERE = (
    "touching the wall|touching the edge|touching the side|not touching the wall|not touching the edge|"
    "not touching any edge|touching any edge|touching the base|touching the bottom|"
    "closely touching the bottom of a box|closely touching a wall of a box|closely touching a corner|"
    "touching a corner|closely touching right wall of a box|touching the right wall|"
    "closely touching the roof of a box|touching the top|closely touching left wall of a box|"
    "touching the wall of the box|not touching the base|touching the bottom right corner"
)


def loose_sentence(rng: Rng) -> str:
    noun = choose(rng, "box|box|box|grey box|grey square")
    kind = int(rng.integers(12))
    if kind < 3:
        said, n = some(rng, thing(rng), 6, ("more than ", "less than "))
        if kind and rng.random() < 0.8:
            said += f" {choose(rng, WHERE)}"
        return are(n, said)
    if kind == 3:
        who = thing(rng)
        return f"There is no {who} {choose(rng, WHERE)}" if rng.random() < 0.6 else (
            f"{choose(rng, 'None of the|All the|All of the')} {plural(who)} are {choose(rng, WHERE)}")  # fmt: skip
    if kind == 4:
        two = rng.permutation(list(COLORS))[:2]
        return frame(rng, noun, f"only {two[0]} and {two[1]} {choose(rng, 'items|objects')}")
    if kind == 5:
        word, n = number(rng, 3)
        return frame(rng, noun, f"items of {choose(rng, '|only |all ')}{word} {different(n)}")
    if kind == 6:
        limit = choose(rng, "exactly |at least |only |at most ||more than |less than ")
        word, n = number(rng, 7)
        return frame(rng, noun, f"{limit}{word} {several(n, choose(rng, 'item|object'))}")
    if kind == 7:
        return frame(rng, noun, f"{some(rng, thing(rng))[0]} {choose(rng, WHERE)}")
    if kind == 8:
        said, n = some(rng, choose(rng, "item|object"), 6)
        link = f"of which {choose(rng, 'one is|two are|at least one is|exactly one is|at least two are')}"
        return frame(rng, noun, f"{said} {link} {choose(rng, list(COLORS))}")
    first, second = some(rng, thing(rng))[0], some(rng, thing(rng))[0]
    if kind == 9:
        return frame(rng, noun, f"{first} and {second}")
    if kind == 10 and rng.random() < 0.5:
        return frame(rng, noun, f"{first}, {second} and {some(rng, thing(rng))[0]}")
    return frame(rng, noun, first)


def tower_sentence(rng: Rng) -> str:
    color, other = (choose(rng, list(COLORS)) for _ in range(2))
    block = choose(rng, "block|block|block|item")
    kind, end = int(rng.integers(13)), choose(rng, "base|top")
    at = choose(rng, "at the base|at the top|at the base|at the top|at the bottom|on top")
    on = choose(rng, "above|over|on|below|on top of")
    if kind == 0:
        return frame(rng, "tower", some(rng, f"{color} {block}")[0])
    if kind == 1:
        return frame(rng, "tower", f"{choose(rng, 'a|a|one|1')} {color} {block} {at}")
    if kind == 2:
        return frame(rng, "tower", f"a {color} {block} {on} a {other} {block}")
    if kind == 3:
        word, n = number(rng, 4)
        limit = choose(rng, "exactly |at least |only ||at most |more than ")
        return frame(rng, "tower", f"{limit}{word} {'blocks' if n > 1 else 'block'}")
    if kind == 4:
        word, n = number(rng, 4)
        tower = f"{choose(rng, 'the|There is a')} tower with {word} {several(n, 'block')}"
        link = "has" if tower.startswith("the") else "and"
        return f"{tower} {link} a {color} {block} {choose(rng, (at, f'{on} a {other} {block}'))}"
    if kind == 5:
        said, n = some(rng, f"{color} {block}", 7, ("more than ", "less than "))
        return are(n, said)
    if kind == 6:
        said, n = some(rng, f"{color} block", 3)
        what = choose(rng, "base|top")
        height = f" with {choose(rng, 'exactly |at least |at most |')}{choose(rng, 'two|three|four')} blocks"
        return are(n, f"{said} as the {what} of a tower{choose(rng, ('', '', height))}")
    if kind == 7:
        return f"There is {choose(rng, 'a|at least one|exactly one|no|a')} {color} {block} {on} a {other} {block}"
    if kind == 8:
        said, n = boxes(rng, f"{color} tower")
        return are(n, said)
    if kind == 9:
        return frame(rng, "tower", f"only {color} and {other} blocks" if other != color else f"only {color} blocks")
    if kind == 10:
        word, n = number(rng, 3)
        return frame(rng, "tower", f"blocks of {choose(rng, '|only ')}{word} {different(n) if n > 1 else 'color'}")
    if kind == 11:
        return choose(rng, (
            f"All the towers have a {color} block {at}",
            f"The {choose(rng, 'second|third')} block from the base of a tower is {color}",
            f"There are {choose(rng, 'two|at least two|exactly two|2')} towers with a {color} {end}",
            f"There are two towers with the same {choose(rng, 'base|top')} color",
            f"There is a tower with a {color} base and a {other} top",
            f"{choose(rng, 'One|Two')} of the three towers has a {color} {choose(rng, 'base|top')}",
        ))  # fmt: skip
    noun = "box"
    return choose(rng, (
        frame(rng, noun, f"{some(rng, 'item')[0]} and a {color} item on top"),
        f"There is a box with a {color} item touching the wall and a {other} {choose(rng, 'item|one')} "
        f"{choose(rng, '|right ')}on top of it",
        frame(rng, noun, f"{some(rng, color + ' item')[0]} and {some(rng, other + ' item')[0]}"),
        frame(rng, noun, f"{choose(rng, '2|two|3|three')} items of "
                         f"{choose(rng, 'the same color|different colors|2 different colors')}"),
        frame(rng, noun, some(rng, "item")[0]),
    ))  # fmt: skip


# ---------------------------------------------------------------------------------------------------------- variations
SWAPS = [words.split("|") for words in (
    "exactly|at least|only|at most", "item|object", "items|objects", "wall|edge|side", "base|top", "above|below|over",
    "bottom|roof", "right|left", "has|contains", "each|every", "small|big|medium", "second|third",
    "not touching|touching",
)]  # fmt: skip


def vary(sentence: str, rng: Rng) -> str:
    """Another sentence in the same turn of phrase: other colours, shapes, numbers, amounts or places."""
    colors = dict(zip(COLORS, rng.permutation(list(COLORS)).tolist(), strict=True))
    shapes = dict(zip(SHAPES, rng.permutation(list(SHAPES)).tolist(), strict=True))
    loose = "triangle" in sentence.lower() or "circle" in sentence.lower()
    swap_shapes = loose and "grey square" not in sentence.lower() and rng.random() < 0.7

    def word(match: re.Match) -> str:
        text = match.group()
        low = text.lower()
        if low in colors:
            return colors[low]
        stem, end = (low[:-1], "s") if low.endswith("s") and low[:-1] in shapes else (low, "")
        if swap_shapes and stem in shapes:
            return shapes[stem] + end
        return text

    text = re.sub(r"[A-Za-z]+", word, sentence)
    if rng.random() < 0.7:
        text = other_numbers(text, rng)
    for options in SWAPS:
        if rng.random() < 0.35:
            found = [o for o in options if re.search(rf"\b{o}\b", text)]
            if found:
                text = re.sub(rf"\b{found[0]}\b", choose(rng, options), text, count=1)
    return text


def other_numbers(text: str, rng: Rng) -> str:
    """The same with other numbers and the nouns after them made to agree."""
    words = text.split(" ")
    for i, word in enumerate(words):
        n = NUMBERS.get(word.lower())
        if n is None or n == 0 or (word == "one" and rng.random() < 0.5):
            continue
        if i + 1 < len(words) and words[i + 1] in ("of", "which"):
            continue
        new = int(np.clip(n + int(rng.integers(-2, 3)), 1, 7))
        if i + 1 < len(words) and words[i + 1].startswith(("different", "color")):
            new = int(rng.integers(1, 4))
        words[i] = str(new) if word.isdigit() else COUNT_WORDS[new]
        for j in range(i + 1, min(i + 4, len(words))):
            match = re.fullmatch(r"(item|object|block|square|circle|triangle|tower|box)(s|es)?([.,]?)", words[j])
            if match:
                end = "" if new == 1 else "es" if match.group(1) == "box" else "s"
                words[j] = match.group(1) + end + match.group(3)
                break
    return " ".join(words)
