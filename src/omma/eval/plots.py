"""Where things stand in the plots of a page: places in per cent of a box, x from the left, y from below.

Text is laid out by the browser beside and below the boxes, so it has one size on every screen; lines are SVG paths in a
box of 100 x 100 that is stretched to the width there is.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from omma.eval.metrics import estimate
from omma.eval.paired import correlation, phi
from omma.eval.psychometric import Curve, transformed
from omma.eval.task import cells
from omma.eval.viewer import Side, shared

ROUNDS = 1000  # of the correlation's bootstrap
STEPS = 60  # of a curve's line
CONTROLS = ("blind", "wrong-image")


# ------------------------------------------------------------------------------------------------ bars
def bars(reports: Sequence[Any]) -> dict[str, Any] | None:
    """For every pattern the first number of each run and kind of score, with its interval, chance and controls.

    series: [{"label", "colour", "metric"}]; lines: [{"name", "bars": [{estimate, "blind", "wrong-image", "series"}]}],
    the first of all items together. None where no run has patterns.
    """
    series, lines = [], {}
    for letter, report in zip("AB", reports, strict=False):
        metrics = report.metrics
        for kind in sorted(metrics["scores"], key="itm".__ne__):  # the colours of the page's first numbers
            by_variant = metrics["scores"][kind]
            if kind not in metrics["headline"] or not by_variant["model"].get("patterns"):
                continue
            path = metrics["headline"][kind]["metric"]
            number = len(series)
            name = f"{letter}: {metrics['model']}, {kind}" if len(reports) > 1 else kind
            series.append({"label": name, "colour": f"c{number % 4 + 1}", "metric": path.replace("_", " ")})
            for pattern in [None, *by_variant["model"]["patterns"]]:
                blocks = {v: by_variant.get(v, {}) for v in ("model", *CONTROLS)}
                if pattern is not None:
                    blocks = {v: block.get("patterns", {}).get(pattern, {}) for v, block in blocks.items()}
                found = {v: cells({k: x for k, x in block.items() if k != "patterns"}).get(path)
                         for v, block in blocks.items()}  # fmt: skip
                mine = found["model"]
                if mine and mine["value"] is not None:
                    controls = {v: (found[v] or {"value": None})["value"] for v in CONTROLS}
                    bar = {"chance": None, **mine, **controls, "series": series[-1]}
                    lines.setdefault(pattern or "all", []).append(bar)
    if not series:
        return None
    return {"series": series, "lines": [{"name": name, "bars": found} for name, found in lines.items()]}


# ------------------------------------------------------------------------------------------------ scatter
def scatter(shown: Sequence[Side], seed: int = 0) -> dict[str, Any] | None:
    """Each pattern at what A and B get right of its pairs, the same pairs for both, and how alike that is.

    points: [{"number", "name", "n", "x", "y": estimates}]; correlation and phi as in eval.paired. None for less than
    two sides or three patterns.
    """
    if len(shown) != 2:
        return None
    groups: dict[str, list[str]] = {}
    for group in shared(shown):
        if pattern := shown[0].groups[group][0]["pattern"] or shown[1].groups[group][0]["pattern"]:
            groups.setdefault(pattern, []).append(group)
    if len(groups) < 3:
        return None
    earned = [{p: [float(side.right(g)) for g in names] for p, names in sorted(groups.items())} for side in shown]
    points = []
    for number, name in enumerate(earned[0], 1):
        x, y = (estimate(sum(side[name]), len(side[name])) for side in earned)
        points.append({"number": number, "name": name, "n": x["n"], "x": x, "y": y})
    flat = [[value for values in side.values() for value in values] for side in earned]
    return {"points": points, "correlation": correlation(earned[0], earned[1], seed=seed, rounds=ROUNDS),
            "phi": phi([v == 1 for v in flat[0]], [v == 1 for v in flat[1]]), "n": len(flat[0]),
            "x": f"{shown[0].letter}: {shown[0].label}", "y": f"{shown[1].letter}: {shown[1].label}"}  # fmt: skip


# ------------------------------------------------------------------------------------------------ curves
def knob_plot(found: dict[str, Any]) -> dict[str, Any]:
    """A curve of knobs.knob_curves with places: series of points and a line each, ticks of x, and thresholds."""
    curves: list[tuple[str, Curve]] = found["sides"]
    log = all(curve.log for _, curve in curves)
    low, high = (transformed(np.array(pick(getattr(c, end) for _, c in curves)), log) for pick, end in
                 ((min, "least"), (max, "most")))  # fmt: skip
    span = float(high - low) or 1.0
    place = lambda x: round(100 * (0.03 + 0.94 * (float(transformed(np.array(x, float), log)) - float(low)) / span), 2)
    series = []
    for letter, curve in curves:
        first, last = transformed(np.array([curve.least, curve.most]), log).tolist()
        t = np.linspace(first, last, STEPS)
        x = 2.0**t if log else t
        line = "L".join(f"{place(a)},{100 - 100 * b:.2f}" for a, b in zip(x, curve.at(x), strict=True))
        threshold = None
        if curve.lost:
            left, right = (place(end) for end in curve.lost[2:])
            threshold = {"at": place(curve.lost[1]), "left": left, "width": round(right - left, 2)}
        dots = [point | {"place": place(point["x"])} for point in curve.points]
        series.append({"letter": letter, "colour": "c1" if letter == "A" else "c2", "points": dots, "line": f"M{line}",
                       "threshold": threshold, "curve": curve})  # fmt: skip
    ends = [2.0 ** float(v) if log else float(v) for v in (low, high)]
    ticks = [{"at": place(x), "said": said(x)} for x in ticks_of(ends[0], ends[1], log)]
    return found | {"series": series, "ticks": ticks, "log": log}


def ticks_of(low: float, high: float, log: bool) -> list[float]:
    """Two to six round values from low to high."""
    if log:
        tens = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        values = [digit * 10.0**ten for ten in tens for digit in (1, 1.5, 2, 3, 5, 7)]
    else:
        step = 10.0 ** math.floor(math.log10((high - low) / 2))
        step *= next(s for s in (1, 2, 2.5, 5, 10) if (high - low) / (step * s) <= 5)
        values = [step * k for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
    inside = [value for value in values if low * (1 - 1e-9) <= value <= high * (1 + 1e-9)]
    if len(inside) < 2:
        return [low, high]
    return inside if len(inside) <= 6 else inside[:: math.ceil(len(inside) / 6)]


def said(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}".replace(",", "\u202f")
