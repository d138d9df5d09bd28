"""Minimal pairs for the nine visual patterns: two pictures that differ in one thing, and words that are true of only
one.

Swap design: two carriers of an attribute stand in the scene, told apart by another one (a red and a blue cup), and the
partner picture exchanges their values. Both pictures hold the same ink, so who wants to answer has to bind the value to
its carrier, and every text is true as often as false: a model without the picture gets exactly one half (Winoground,
Thrush et al. 2022).
"""

import math
import random
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from omma.scenes.drafts import DRAFTS, Draft
from omma.scenes.draw import THINGS, draw, part_code
from omma.scenes.kinds import COLOURS, EVERYTHING, KINDS, PATTERNS, Cast
from omma.scenes.language import MOST_WORDS, Known, holds, spoken_of
from omma.scenes.looks import FLAT, Look
from omma.scenes.pen import TURNS
from omma.scenes.world import World, facts, generator, name

VISIBLE = 12  # least pixels of the edited part in a picture of 128 x 128, in both pictures
MODES = ("swap", "single")
REACH = 1.4  # radii at most from the centre of a thing to its outermost part
PATIENCE = 5000  # drafts that are tried where only some are admitted


@dataclass(frozen=True)
class Pair:
    """Pictures a and b; statement_a is true of a and false of b, statement_b the reverse. Captions are aligned by
    index."""

    a: World
    b: World
    pattern: str
    statement_a: str
    statement_b: str
    question: str
    options: tuple[str, str]
    answer_a: str
    answer_b: str
    difference: str
    knobs: dict[str, Any]
    captions_a: tuple[str, ...] = ()
    captions_b: tuple[str, ...] = ()


def make_pairs(
    pattern: str, n: int, *key: object, size: int = 128, mode: str = "swap", cast: Cast = EVERYTHING
) -> list[Pair]:
    """n checked pairs of a pattern, a function of (pattern, mode, cast, key). ValueError for an unknown pattern or
    mode."""
    return [make_pair(pattern, *key, i, size=size, mode=mode, cast=cast)[0] for i in range(n)]


def make_pair(
    pattern: str,
    *key: object,
    size: int = 128,
    mode: str = "swap",
    cast: Cast = EVERYTHING,
    look: Look = FLAT,
    admit: Callable[[Draft], Draft | None] | None = None,
    visible: float = VISIBLE,
    never: Collection[str] = (),
) -> tuple[Pair, tuple[Image.Image, Image.Image]]:
    """One checked pair and its two pictures. What fails a check is drawn anew, from the next key.

    admit may change a draft before it is checked, or refuse it with None; ValueError when it refuses everything.
    visible: least pixels of what is edited, of a picture of 128 x 128. never: patterns, others than the pair's own, of
    which its captions don't speak; the pictures are the same.
    """
    if pattern not in PATTERNS:
        raise ValueError(f"no pattern {pattern!r}; there are {', '.join(PATTERNS)}")
    if mode not in MODES:
        raise ValueError(f"no mode {mode!r}; there are {', '.join(MODES)}")
    for attempt in range(200 if admit is None else PATIENCE):
        rng = generator("pair", pattern, mode, *key, attempt)
        draft = DRAFTS[pattern](rng, mode == "swap", cast)
        if draft and admit:
            draft = admit(draft)
        if draft and (done := _finish(rng, draft, pattern, size, mode, look, visible, never)):
            return done
    if admit:
        raise ValueError(
            f"none of {PATIENCE} {pattern} pairs lies on this side of the split; a larger cast of kinds and colours, "
            "or larger pictures, leave more to choose from"
        )
    raise AssertionError(f"no {pattern} pair in 200 attempts for key {key}")


def smaller(draft: Draft, smallest: float, size: int, share: float) -> Draft:
    """The draft with all things smaller where they stand: by share 0 not at all, by 1 so that the smallest edited one
    is `smallest` pixels high (twice its radius) in a picture of this size; doublings are equally far apart."""
    usual = 2 * size * min(draft.a.things[i].size for i in draft.edited)
    factor = min(1.0, smallest / usual) ** share
    shrunk = lambda world: replace(world, things=tuple(replace(t, size=t.size * factor) for t in world.things))
    return replace(draft, a=shrunk(draft.a), b=shrunk(draft.b))


def exchanged(atoms: frozenset[tuple[str, ...]], predicates: tuple[str, ...], one: str, other: str) -> frozenset:
    """The atoms with two names exchanged wherever one of the predicates speaks of them."""
    swap = {one: other, other: one}
    return frozenset((a[0], *(swap.get(x, x) for x in a[1:])) if a[0] in predicates else a for a in atoms)


def check_facts(draft: Draft, mode: str) -> None:
    """Raises AssertionError unless the facts of the two worlds differ in the intended atoms and nothing else."""
    before, after = facts(draft.a), facts(draft.b)
    changed = before ^ after
    assert changed, "the two worlds are the same"
    assert {atom[0] for atom in changed} <= {*draft.predicates, "count"}, f"unintended change {sorted(changed)}"
    if mode == "swap" and len(draft.edited) == 2:
        one, other = (name(i) for i in draft.edited)
        drop = lambda atoms: {atom for atom in atoms if atom[0] != "count"}  # follows from the other facts
        assert drop(exchanged(before, draft.predicates, one, other)) == drop(after), "not an exchange"


def _finish(
    rng: random.Random, draft: Draft, pattern: str, size: int, mode: str, look: Look, visible: float,
    never: Collection[str],
) -> tuple[Pair, tuple[Image.Image, Image.Image]] | None:
    """Check a draft against facts and pixels, give its members their roles by lot, and measure it; None rejects it."""
    check_facts(draft, mode)
    known_a, known_b = Known(facts(draft.a)), Known(facts(draft.b))
    kept = [
        (one.text, other.text)
        for one, other in zip(draft.claims_a, draft.claims_b, strict=True)
        if holds(one.form, known_a) is True and holds(one.form, known_b) is False
        and holds(other.form, known_b) is True and holds(other.form, known_a) is False
        and max(len(one.text.split()), len(other.text.split())) <= MOST_WORDS
    ]  # fmt: skip
    kept = list(dict.fromkeys(kept))
    if len(kept) < 3 or kept[0][0] != draft.claims_a[0].text:
        return None
    left_out = {one.text for one in draft.claims_a if spoken_of(one.form) & set(never)}
    kept = [texts for texts in kept if texts[0] not in left_out]
    drawn = [draw(world, size, look=look) for world in (draft.a, draft.b)]
    pictures = [np.asarray(picture, np.int16) for picture, _ in drawn]
    masks = [np.asarray(mask) for _, mask in drawn]
    least = visible * (size / 128) ** 2
    object_px = min(int((m % THINGS == i + 1).sum()) for m in masks for i in draft.edited)
    # In a swap one of the carriers shows the part in each picture; a single carrier shows it in one of the two.
    part_px = (min if mode == "swap" else max)(_part_pixels(draft, m) for m in masks)
    changed: np.ndarray = (pictures[0] != pictures[1]).any(axis=2)
    outside = ~_boxes(draft, masks, margin=3)
    if part_px < least or changed.sum() < least or (changed & outside).any():
        return None
    knobs = {
        "mode": mode,
        "object_px": object_px,
        "part_px": part_px,
        "changed_pixels": round(float(changed.mean()), 6),
        "num_objects": len(draft.a.things),
        "contrast": round(min(contrast(draft.a, i) for i in draft.edited), 2),
        "margin": None if draft.margin is None else round(float(draft.margin), 4),
        "text_px": _text_height(draft, size) if draft.words else None,
        "num_words": len(kept[0][0].split()),
        "part_patches": _patches(changed),
        "angle": _angle(draft, pattern),
        "view_angle": None,
        "occlusion": round(max(_occlusions(draft, size)), 4),
        "distractors": len(draft.a.things) - len(draft.edited),
        "same_kind": _similar(draft, "kind"),
        "same_colour": _similar(draft, "colour"),
        "object_size": round(min(draft.a.things[i].size for i in draft.edited), 4),
        "size": size,
        "words": "plain",
        **asdict(look),
    }
    roles = [0, 1]
    rng.shuffle(roles)
    options = list(draft.answers)
    rng.shuffle(options)
    worlds = (draft.a, draft.b)
    images: list[Image.Image] = [drawn[i][0] for i in roles]  # type: ignore[misc]
    a, b = roles
    lost, gained = facts(worlds[a]) - facts(worlds[b]), facts(worlds[b]) - facts(worlds[a])
    spell = lambda atoms: ", ".join(sorted(f"{x[0]}({', '.join(x[1:])})" for x in atoms if x[0] in draft.predicates))
    pair = Pair(
        worlds[a], worlds[b], pattern, kept[0][a], kept[0][b], draft.question, (options[0], options[1]),
        draft.answers[a], draft.answers[b], f"{spell(lost)} -> {spell(gained)}", knobs,
        tuple(c[a] for c in kept[:4]), tuple(c[b] for c in kept[:4]),
    )  # fmt: skip
    return pair, (images[0], images[1])


def _part_pixels(draft: Draft, mask: np.ndarray) -> int:
    """Visible pixels of the edited part on the carrier that shows most of it, or of the smallest thing edited whole."""
    counts = []
    for i in draft.edited:
        code = i + 1 + THINGS * part_code(draft.a.things[i].kind, draft.part)
        counts.append(int((mask == code).sum() if draft.part else (mask % THINGS == i + 1).sum()))
    return max(counts) if draft.part else min(counts)


def _patches(changed: np.ndarray, side: int = 16) -> int:
    """Patches of 16 x 16 pixels in which the two pictures differ."""
    rows, columns = np.nonzero(changed)
    return len(set(zip((rows // side).tolist(), (columns // side).tolist(), strict=True)))


def _angle(draft: Draft, pattern: str) -> int | None:
    """Degrees between the two directions of an orientation pair: 90 or 180."""
    if pattern != "orientation":
        return None
    (predicate,) = draft.predicates
    before, after = (TURNS[world.things[draft.edited[0]].get(predicate) or "right"] for world in (draft.a, draft.b))
    return 90 * min((before - after) % 4, (after - before) % 4)


def _similar(draft: Draft, what: str) -> int:
    """Things that are not edited, but share the kind or colour of one that is."""
    edited = {getattr(draft.a.things[i], what) for i in draft.edited}
    return sum(getattr(t, what) in edited for i, t in enumerate(draft.a.things) if i not in draft.edited)


def occlusion(world: World, index: int, size: int = 128) -> float:
    """Share of a thing's pixels that others hide, by id masks with and without them."""
    thing = world.things[index]
    near = lambda o: math.hypot(o.x - thing.x, o.y - thing.y) < REACH * (o.size + thing.size)
    if not any(near(other) for i, other in enumerate(world.things) if i != index):
        return 0.0
    _, alone = draw(replace(world, things=(thing,), order=(0,)), size, picture=False)
    _, among = draw(world, size, picture=False)
    whole = int((np.asarray(alone) % THINGS > 0).sum())
    return 1 - int((np.asarray(among) % THINGS == index + 1).sum()) / whole if whole else 0.0


def _occlusions(draft: Draft, size: int) -> Iterator[float]:
    for world in (draft.a, draft.b):
        yield from (occlusion(world, i, size) for i in draft.edited if i < len(world.things))


def _boxes(draft: Draft, masks: list[np.ndarray], margin: int) -> np.ndarray:
    """True within `margin` pixels of the bounding boxes of the edited things, in either picture."""
    inside = np.zeros(masks[0].shape, bool)
    for mask in masks:
        for i in draft.edited:
            rows, columns = np.nonzero(mask % THINGS == i + 1)
            if len(rows):
                y, x = max(0, rows.min() - margin), max(0, columns.min() - margin)
                inside[y : rows.max() + margin + 1, x : columns.max() + margin + 1] = True
    return inside


def lab(rgb: tuple[int, int, int]) -> np.ndarray:
    """CIE L*a*b* (D65) of an sRGB colour."""
    c = np.asarray(rgb, float) / 255
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ linear
    t = xyz / np.array([0.9505, 1.0, 1.089])
    f = np.where(t > 216 / 24389, np.cbrt(t), (24389 / 27 * t + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def contrast(world: World, index: int) -> float:
    """CIE76 colour difference between a thing and the backdrop behind its centre."""
    thing = world.things[index]
    behind = world.backdrop.sky if thing.y < world.backdrop.horizon else world.backdrop.ground
    return float(np.linalg.norm(lab(COLOURS[thing.colour]) - lab(behind)))


# Height of the letters in radii, as drawn in shapes.py.
LETTERS = {"sign": 0.5, "flag": 0.43, "box": 0.4, "book": 0.54}


def _text_height(draft: Draft, size: int) -> int:
    things = [draft.a.things[i] for i in draft.edited]
    return round(min(t.size * size * KINDS[t.kind].stretch * LETTERS[t.kind] for t in things))
