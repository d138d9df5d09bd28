"""What the knobs of scenes do to a run: for every pattern, the curves of right answers over size, number, noise, ...

for found in knob_curves(sides([report]), items):
    print(found["pattern"], found["knob"], found["told"])     # "A loses orientation below 18 px of height"
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from omma.eval.metrics import holm
from omma.eval.paired import spearman
from omma.eval.psychometric import LEAST, Curve, fitted, transformed, trend
from omma.eval.viewer import Side

MOST_CURVES = 12  # in a page, those with the clearest trend
ALIKE = 0.9  # of two knobs that rise together like this in a pattern, the first of KNOBS is shown
FEWEST = 3  # values of a knob
SWEEP = 3  # times the smallest size: where things are so much larger too, areas only repeat the size
AREAS = ("text_px", "object_px", "part_px", "part_patches", "changed_pixels")


@dataclass(frozen=True)
class Knob:
    """words: what it is. unit: of its values. log: whether it counts in doublings."""

    words: str
    unit: str = ""
    log: bool = False


KNOBS = {  # in the order in which they explain: of two that go together, the first is shown
    "thing_px": Knob("size of the thing", "px", True),
    "noise": Knob("noise", "grey levels"),
    "blur": Knob("blur", "px"),
    "downscale": Knob("pixels lost on each side", "times", True),
    "jpeg": Knob("JPEG quality"),
    "clutter": Knob("clutter"),
    "num_objects": Knob("number of things"),
    "contrast": Knob("contrast to the backdrop", "ΔE"),
    "margin": Knob("margin"),
    "text_px": Knob("height of the letters", "px", True),
    "occlusion": Knob("share hidden by others"),
    "view_angle": Knob("angle between the cameras", "°"),
    "angle": Knob("angle", "°"),
    "distractors": Knob("other things"),
    "same_kind": Knob("others of its kind"),
    "same_colour": Knob("others of its colour"),
    "num_words": Knob("words of the statement"),
    "size": Knob("side of the picture", "px", True),
    "object_px": Knob("area of the thing", "pixels", True),
    "part_px": Knob("area of the part", "pixels", True),
    "part_patches": Knob("patches of 16 x 16 that differ", "", True),
    "changed_pixels": Knob("share of pixels that differ", "", True),
}


def knobs_of(items: Any) -> dict[str, dict[str, float]]:
    """{item and group: its knobs that are numbers} of an items table; empty where it has none.

    thing_px is the height of the smallest thing that differs: twice its radius, in pixels of the picture.
    """
    if items is None or "knobs" not in items.columns:
        return {}
    found: dict[str, dict[str, float]] = {}
    for batch in items.scan(columns=["id", "group", "knobs"]):
        for row in batch.to_pylist():
            knobs = {k: float(v) for k, v in (row["knobs"] or {}).items() if isinstance(v, int | float) and v == v}
            if "object_size" in knobs and "size" in knobs:
                knobs["thing_px"] = 2 * knobs.pop("object_size") * knobs["size"]
            if knobs:
                found[row["id"]] = knobs
                found.setdefault(f"group {row['group']}", knobs)
    return found


def units_of(side: Side, knobs: dict[str, dict[str, float]]) -> dict[str, list[tuple[dict, float, float, float]]]:
    """{pattern: [(knobs, right, questions, chance of one), one a group]}, for groups that have knobs.

    Of pairs of statements each statement's choice is a question, so that who always chooses picture 1 is at chance.
    Replies that could not be read say nothing about what was seen: they are no questions of a curve, see `unread`.
    """
    names, found = side.report.metrics["credits"], {}
    for group, answered in side.groups.items():
        rows = [row for row in answered if not row["unparsed"]]
        mine = knobs.get(answered[0]["item"]) or knobs.get(f"group {group}")
        if not mine or not rows:
            continue
        if "item" in names:  # the share of a pair's two choices that are right
            right, asked = sum(2 * row["credits"][names.index("item")] for row in rows), 2.0 * len(rows)
            chance = 0.5
        else:
            right, asked = float(sum(row["credits"][0] for row in rows)), float(len(rows))
            chance = sum(row["credits"][names.index("guess")] for row in rows) / asked if "guess" in names else 0.5
        found.setdefault(rows[0]["pattern"] or "all", []).append((mine, right, asked, chance))
    return found


def unread(side: Side, knobs: dict[str, dict[str, float]]) -> tuple[int, int]:
    """(replies that could not be read, replies) of the groups that have knobs."""
    rows = [row for group, answered in side.groups.items() for row in answered
            if knobs.get(row["item"]) or knobs.get(f"group {group}")]  # fmt: skip
    return sum(bool(row["unparsed"]) for row in rows), len(rows)


def knob_curves(shown: Sequence[Side], items: Any) -> dict[str, Any]:
    """Curves of the knobs that matter, the clearest first, and all that was looked at.

    lost: the sentences that say where something is lost.
    curves: [{"pattern", "knob", "words", "unit", "log", "chance", "sides": [(letter, Curve)], "told": [sentence]}].
    tested: [{"pattern", "words", "letter", "units", "p", "p_holm"}], every trend, corrected for their number by Holm.
    unparsed: [(letter, n, of)] for each run some of whose replies could not be read; no curve counts them.
    A knob is looked at where it has FEWEST values in LEAST groups of a pattern.
    """
    knobs = knobs_of(items)
    units = {side.letter: units_of(side, knobs) for side in shown} if knobs else {}
    tested = [
        {"letter": letter, "pattern": pattern, "knob": name, "words": words_of(name).words, "units": len(x),
         "values": (float(x.min()), float(x.max())),
         "p": trend(transformed(x, logarithmic(name, x)), np.array([r / n for _, r, n, _ in some]))}
        for letter, patterns in units.items()
        for pattern, given in sorted(patterns.items())
        for name, some, x in varying(given)
    ]  # fmt: skip
    for one, p in zip(tested, holm([one["p"] for one in tested]), strict=True):
        one["p_holm"] = p
    tested.sort(key=lambda one: one["p"])
    clear = dict.fromkeys((one["pattern"], one["knob"]) for one in tested if one["p_holm"] < 0.05)
    curves = []
    for pattern, name in list(clear)[:MOST_CURVES]:
        drawn = []
        for side in shown:
            given = next((g for g in varying(units[side.letter].get(pattern, [])) if g[0] == name), None)
            if given:
                chance = float(np.mean([unit[3] for unit in given[1]]))
                right, asked = ([unit[k] for unit in given[1]] for k in (1, 2))
                drawn.append((side.letter, fitted(given[2].tolist(), right, asked, guess=chance,
                                                  log=logarithmic(name, given[2]))))  # fmt: skip
        knob = words_of(name)
        curves.append(
            {
                "pattern": pattern,
                "knob": name,
                "words": knob.words,
                "unit": knob.unit,
                "chance": drawn[0][1].guess,
                "sides": drawn,
                "told": [sentence(letter if len(shown) > 1 else "it", pattern, knob, c) for letter, c in drawn],
            }
        )
    lost = [words for curve in curves for words, (_, c) in zip(curve["told"], curve["sides"], strict=True) if c.lost]
    unparsed = [(side.letter, *unread(side, knobs)) for side in shown] if knobs else []
    return {"curves": curves, "lost": lost, "tested": tested, "knobs": any(units.values()),
            "unparsed": [one for one in unparsed if one[1]]}  # fmt: skip


def varying(units: list[tuple[dict, float, float, float]]) -> list[tuple[str, list, np.ndarray]]:
    """(knob, the units that have it, their values) of knobs that vary, but for those that only repeat another."""
    kept: list[tuple[str, list, np.ndarray]] = []
    order = list(KNOBS)
    names = sorted({name for knobs, *_ in units for name in knobs},
                   key=lambda name: (order.index(name) if name in order else len(order), name))  # fmt: skip
    for name in names:
        some = [unit for unit in units if name in unit[0]]
        x = np.array([unit[0][name] for unit in some])
        if len(some) < LEAST or len(np.unique(x)) < FEWEST:
            continue
        if name in AREAS and any(other == "thing_px" and y.max() >= SWEEP * y.min() for other, _, y in kept):
            continue
        same = [other for _, others, other in kept if len(others) == len(some)]
        if not any(abs(spearman(x, other) or 0) > ALIKE for other in same):
            kept.append((name, some, x))
    return kept


def words_of(name: str) -> Knob:
    return KNOBS.get(name, Knob(name.replace("_", " ")))


def logarithmic(name: str, x: np.ndarray) -> bool:
    return words_of(name).log and bool(x.min() > 0)


def sentence(who: str, pattern: str, knob: Knob, curve: Curve) -> str:
    """What a curve says in words, as far as its interval allows."""
    unit = f" {knob.unit}" if knob.unit else ""
    short = lambda value: f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    if curve.lost:
        side, threshold, low, high = curve.lost
        return (
            f"{who} loses {pattern} {side} {short(threshold)}{unit} ({knob.words}; 95 %: {short(low)} to {short(high)})"
        )
    ends = [float(value) for value in curve.at(np.array([curve.least, curve.most]))]
    half = (1 + curve.guess) / 2
    span = f"from {short(curve.least)} to {short(curve.most)}{unit} ({knob.words})"
    if max(ends) < half:
        return f"{who} hardly sees {pattern} {span}: nowhere halfway from chance to right"
    if min(ends) > half:
        return f"{who} sees {pattern} {span}: everywhere more than halfway from chance to right"
    return f"{who}: where {pattern} is lost {span} is not certain enough to be told"
