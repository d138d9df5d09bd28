"""Sentences and minimal pairs about solids: which stands in front, and from where the scene is seen.

As in pairs.py the facts of the two spaces differ in the intended atoms alone. A swap exchanges the places of two
solids ("position"), or the camera goes to the opposite side ("viewpoint"); it is orthographic, and nothing hides
anything, so that both pictures hold the same ink. Single pairs are seen in perspective and may hide a part
("position"), or raise the camera ("viewpoint"): closer to photographs, and not free of shortcuts.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

import numpy as np
from PIL import Image

from omma.scenes.kinds import COLOURS
from omma.scenes.language import article, joined
from omma.scenes.looks import FLAT, Look
from omma.scenes.pairs import MODES, Pair, lab
from omma.scenes.solids import OPPOSITE, Camera, Solid, Space, draw, facts, reach, relation, sample_space
from omma.scenes.world import Atom, generator

SOLID_PATTERNS = ("position", "viewpoint")
HIDDEN = {"swap": 0.0, "single": 0.5}  # the largest share of a solid that others may hide
WORDS = {"left_of": "left of", "right_of": "right of", "in_front_of": "in front of", "behind": "behind"}
SHORT = {"left_of": "left", "right_of": "right", "in_front_of": "in front", "behind": "behind"}
VIEWS = {"above": "from above", "side": "from the side"}


@dataclass(frozen=True)
class Said:
    """text and what it says: ("relation", how, look, look), ("view", value), ("exists", look, ...)."""

    text: str
    form: tuple[Any, ...]


def holds(form: tuple[Any, ...], atoms: frozenset[Atom]) -> bool | None:
    """Is the form true of these facts? None when that is open to doubt. ValueError for a form that does not exist."""
    kinds, colours = ({a[1]: a[2] for a in atoms if a[0] == what} for what in ("kind", "colour"))
    which = {(colours[thing], kinds[thing]): thing for thing in kinds}
    match form:
        case ("exists", *looks):
            return all(look in which for look in looks)
        case ("view", value):
            seen = next((a[2] for a in atoms if a[0] == "view"), None)
            return None if seen is None else seen == value
        case ("relation", how, one, other):
            if one not in which or other not in which:
                return None  # "the red box" of a space without one
            known = {a[0] for a in atoms if a[1:] == (which[one], which[other])}
            return None if not known else how in known
    raise ValueError(f"no form {form[0]!r}; there are exists, view, relation")


def say_relation(how: str, one: Solid, other: Solid, definite: bool) -> Said:
    """ "the red box is in front of the blue cone", "a red box in front of a blue cone" """
    a, b = (f"{s.colour} {s.kind}" for s in (one, other))
    text = f"the {a} is {WORDS[how]} the {b}" if definite else f"{article(a)} {WORDS[how]} {article(b)}"
    return Said(text, ("relation", how, (one.colour, one.kind), (other.colour, other.kind)))


def say_all(space: Space, rng: random.Random, frame: str = "{}") -> Said:
    things = rng.sample(space.things, len(space.things))
    text = joined([article(f"{s.colour} {s.kind}") for s in things])
    return Said(frame.format(text), ("exists", *((s.colour, s.kind) for s in things)))


def says(space: Space, *key: object, number: int = 4) -> list[Said]:
    """Up to `number` true sentences about a space, a function of the key: what there is, how it stands, how it is
    seen."""
    rng = generator("solids say", *key)
    said = [say_all(space, rng, rng.choice(("{}", "there is {}", "a picture of {}")))]
    for one in space.things:
        for other in space.things:
            if one != other and (how := relation(space.camera, one, other)):
                said.append(say_relation(how, one, other, rng.random() < 0.5))
    said += [Said(f"the scene is seen {VIEWS[a[2]]}", ("view", a[2])) for a in facts(space) if a[0] == "view"]
    rest = said[1:]
    rng.shuffle(rest)
    chosen = [said[0], *rest][:number]
    rng.shuffle(chosen)
    return chosen


def hidden(space: Space, index: int, mask: np.ndarray, size: int) -> float:
    """Share of the pixels of a solid that others hide or that lie outside the canvas (there none are counted)."""
    alone = np.asarray(draw(replace(space, things=(space.things[index],)), size)[1]) > 0
    whole = int(alone.sum())
    return 1 - int((mask == index + 1).sum()) / whole if whole else 1.0


def apart(things: Sequence[Solid]) -> bool:
    """No two of the balls around the solids meet."""
    return all(
        math.hypot(a.x - b.x, a.y - b.y) > reach(a) + reach(b) for i, a in enumerate(things) for b in things[:i]
    )


@dataclass(frozen=True)
class _Draft:
    a: Space
    b: Space
    edited: tuple[int, ...]
    told: tuple[list[Said], list[Said]]
    question: str
    answers: tuple[str, str]
    margin: float | None
    view_angle: int | None


def _draft(rng: random.Random, pattern: str, swap: bool, key: tuple[object, ...]) -> _Draft | None:
    elevation = rng.uniform(28, 48) if pattern == "position" or swap else rng.uniform(12, 24)
    camera = Camera(round(rng.uniform(0, 360), 1), round(elevation, 1), perspective=not swap and pattern == "position")
    a = sample_space(*key, number=rng.choice((2, 2, 3)), camera=camera)
    if pattern == "viewpoint" and not swap:
        higher = round(rng.uniform(52, 70), 1)
        b = replace(a, camera=replace(camera, elevation=higher))
        told: tuple[list[Said], list[Said]] = ([], [])
        seed = rng.getrandbits(64)
        for texts, value in zip(told, ("side", "above"), strict=True):
            same = random.Random(seed)
            view = ("view", value)
            texts.append(Said(f"the scene is seen {VIEWS[value]}", view))
            for frame in ("{}", "there is {}", "a picture of {}"):
                all_of = say_all(a, same, frame)
                texts.append(Said(f"{all_of.text} seen {VIEWS[value]}", view))
        question = "from where is the scene seen?"
        turn = round(higher - camera.elevation)
        return _Draft(a, b, tuple(range(len(a.things))), told, question, (VIEWS["side"], VIEWS["above"]), None, turn)
    i, j = rng.sample(range(len(a.things)), 2)
    one, other = a.things[i], a.things[j]
    how = relation(camera, one, other)
    if not how or (pattern == "position" and how not in ("in_front_of", "behind")):
        return None
    if pattern == "position":
        moved = {i: replace(one, x=other.x, y=other.y), j: replace(other, x=one.x, y=one.y)}
        b, edited = replace(a, things=tuple(moved.get(k, s) for k, s in enumerate(a.things))), (i, j)
        if not apart(b.things):
            return None
    else:
        b = replace(a, camera=replace(camera, azimuth=round((camera.azimuth + 180) % 360, 1)))
        edited = tuple(range(len(a.things)))
    order = rng.sample(range(4), 4)
    told = tuple(  # type: ignore[assignment]
        [
            [
                say_relation(h, one, other, True), say_relation(OPPOSITE[h], other, one, True),
                say_relation(h, one, other, False), say_relation(OPPOSITE[h], other, one, False),
            ][k]
            for k in order
        ]
        for h in (how, OPPOSITE[how])
    )  # fmt: skip
    sides = ("in front of or behind" if how in ("in_front_of", "behind") else "left or right of")
    question = f"is the {one.colour} {one.kind} {sides} the {other.colour} {other.kind}?"
    gap = round(math.hypot(one.x - other.x, one.y - other.y), 4)
    return _Draft(a, b, edited, told, question, (SHORT[how], SHORT[OPPOSITE[how]]), gap,
                  180 if pattern == "viewpoint" else None)  # fmt: skip


def make_solid_pair(
    pattern: str, *key: object, size: int = 128, mode: str = "swap", look: Look = FLAT
) -> tuple[Pair, tuple[Image.Image, Image.Image]]:
    """One checked pair about solids and its two pictures, a function of the arguments.

    ValueError for a pattern or mode that does not exist, and for a style of drawing, which solids have only one of.
    """
    if pattern not in SOLID_PATTERNS:
        raise ValueError(f"no pattern {pattern!r} of solids; there are {', '.join(SOLID_PATTERNS)}")
    if mode not in MODES:
        raise ValueError(f"no mode {mode!r}; there are {', '.join(MODES)}")
    if look.style != "flat":
        raise ValueError(f"solids are not drawn in the style {look.style!r}; leave it out")
    for attempt in range(2000):
        rng = generator("solid pair", pattern, mode, *key, attempt)
        draft = _draft(rng, pattern, mode == "swap", (*key, pattern, attempt))
        if draft and (done := _finish(rng, draft, pattern, size, mode, look)):
            return done
    raise AssertionError(f"no {pattern} pair of solids in 2000 attempts for key {key}")


def _finish(
    rng: random.Random, draft: _Draft, pattern: str, size: int, mode: str, look: Look
) -> tuple[Pair, tuple[Image.Image, Image.Image]] | None:
    """Check a draft against facts and pixels, give its members their roles by lot, and measure it; None rejects it."""
    spaces = (draft.a, draft.b)
    known = [facts(space) for space in spaces]
    changed_facts = known[0] ^ known[1]
    predicates = {*OPPOSITE} if pattern == "position" or mode == "swap" else {"view"}
    if not changed_facts or not {a[0] for a in changed_facts} <= predicates:
        return None
    for k in (0, 1):
        if not all(holds(s.form, known[k]) and holds(s.form, known[1 - k]) is False for s in draft.told[k]):
            return None
    drawn = [draw(space, size, look) for space in spaces]
    pictures, masks = ([np.asarray(d[k]) for d in drawn] for k in (0, 1))
    shares = [hidden(s, i, m, size) for s, m in zip(spaces, masks, strict=True) for i in range(len(s.things))]
    if max(shares) > HIDDEN[mode]:
        return None
    changed = (pictures[0] != pictures[1]).any(axis=2)
    object_px = min(int((m == i + 1).sum()) for m in masks for i in draft.edited)
    if object_px < 60 * (size / 128) ** 2 or any(_border(m) for m in masks):
        return None
    if pattern == "position":
        near = np.zeros(changed.shape, bool)
        for mask in masks:
            for i in draft.edited:
                y, x = np.nonzero(mask == i + 1)
                near[max(0, y.min() - 3) : y.max() + 4, max(0, x.min() - 3) : x.max() + 4] = True
        if (changed & ~near).any():
            return None
    rows, columns = np.nonzero(changed)
    things = draft.a.things
    edited = [things[i] for i in draft.edited]
    rest = [s for i, s in enumerate(things) if i not in draft.edited]
    ground = lab(draft.a.backdrop.ground)
    knobs = {
        "mode": mode,
        "object_px": object_px,
        "part_px": object_px,
        "changed_pixels": round(float(changed.mean()), 6),
        "num_objects": len(things),
        "contrast": round(min(float(np.linalg.norm(lab(COLOURS[s.colour]) - ground)) for s in edited), 2),
        "margin": draft.margin,
        "text_px": None,
        "num_words": len(draft.told[0][0].text.split()),
        "part_patches": len(set(zip((rows // 16).tolist(), (columns // 16).tolist(), strict=True))),
        "angle": None,
        "view_angle": draft.view_angle,
        "occlusion": round(max(shares), 4),
        "distractors": len(rest),
        "same_kind": sum(s.kind in {e.kind for e in edited} for s in rest),
        "same_colour": 0,
        "object_size": min(s.size for s in edited),
        "size": size,
        "words": "plain",
        **asdict(look),
    }
    a, b = rng.sample((0, 1), 2)
    options = rng.sample(draft.answers, 2)
    spell = lambda atoms: ", ".join(sorted(f"{x[0]}({', '.join(x[1:])})" for x in atoms))
    texts = [tuple(s.text for s in told) for told in draft.told]
    pair = Pair(
        cast(Any, spaces[a]), cast(Any, spaces[b]), pattern, texts[a][0], texts[b][0], draft.question,
        (options[0], options[1]), draft.answers[a], draft.answers[b],
        f"{spell(known[a] - known[b])} -> {spell(known[b] - known[a])}", knobs, texts[a], texts[b],
    )  # fmt: skip
    return pair, (drawn[a][0], drawn[b][0])


def _border(mask: np.ndarray) -> bool:
    """Does anything reach the border of the canvas?"""
    return bool(mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any())


def named(space: Space) -> list[str]:
    """The facts as text, sorted: "in_front_of(o1, o2)"."""
    return sorted(f"{atom[0]}({', '.join(atom[1:])})" for atom in facts(space))
