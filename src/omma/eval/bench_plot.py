"""Accuracy against cost, drawn: one line a method, named at its end, in colours that colour-blind people tell apart."""

import io
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from omma.eval.ways import ALL, ALWAYS, DENSE

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#332288")  # Okabe and Ito 2008; indigo
MARKERS, CONTROL, INK = "osD^vPX", "#777777", "#1d1c1a"
STYLE = {"font.family": "sans-serif", "font.size": 9.5, "axes.spines.top": False, "axes.spines.right": False,
         "axes.edgecolor": "#8a867e", "axes.labelcolor": INK, "xtick.color": "#5b5852", "ytick.color": "#5b5852",
         "svg.fonttype": "path", "svg.hashsalt": "omma"}  # fmt: skip


def draw_plot(metrics: dict[str, Any], folder: Path) -> list[Path]:
    """plot.svg and plot.png in the folder; returns their paths. Cost is the decoder's work, and beside it time."""
    cells = metrics["cells"]
    timed = all(cell["time"] for cell in cells)
    panels = [("decoder_ratio", "decoder's multiply-adds in the prefill, % of dense")]
    if timed:
        panels.append(("prefill", f"time to the first token, % of dense ({metrics['clock']})"))
    with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=(4.9 * len(panels) + 0.4, 4.6), layout="constrained", facecolor="white")
        places = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
        for axes, (cost, label) in zip(places, panels, strict=True):
            draw_panel(axes, cells, cost)
            axes.set_xlabel(f"{label}\ncheaper →")
        places[0].set_ylabel("right answers, % (bars: 95 % interval)")
        paths = []
        for kind in ("svg", "png"):
            data = io.BytesIO()
            figure.savefig(data, format=kind, dpi=160, metadata={"Date": None} if kind == "svg" else None)
            paths.append(folder / f"plot.{kind}")
            paths[-1].write_bytes(data.getvalue())
    return paths


def draw_panel(axes: Axes, cells: list[dict], cost: str) -> None:
    """Lines over the cost, which falls to the right, so that a line ends at its cheapest point, beside its name."""
    dense = next(cell for cell in cells if cell["method"] == DENSE)
    level = 100 * dense["accuracy"]["value"]
    axes.axhspan(100 * dense["accuracy"]["low95"], 100 * dense["accuracy"]["high95"], color="#efece6", zorder=0, lw=0)
    axes.axhline(level, color=INK, lw=1, zorder=1)
    ends: list[tuple[float | None, float, str, str]] = [(None, level, "dense", INK)]  # x, y, name, colour
    if dense["blind"] and dense["blind"]["value"] is not None:
        blind = 100 * dense["blind"]["value"]
        axes.axhline(blind, color=INK, lw=1, ls=(0, (1, 2)), zorder=1)
        ends.append((None, blind, "blind", INK))
    methods = list(dict.fromkeys(cell["method"] for cell in cells if cell["budget"] != ALL))
    own = [name for name in methods if name not in ALWAYS]
    lines = []
    for method in methods:
        at = own.index(method) if method in own else -1
        colour = CONTROL if at < 0 else COLOURS[at % len(COLOURS)]
        dash = (0, (4, 2)) if at < 0 else "-" if at < len(COLOURS) else (0, (6, 1.5, 1.5, 1.5))
        marker = "x+"[ALWAYS.index(method)] if at < 0 else MARKERS[at // len(COLOURS) * 3 % 7 + at % 4]
        points = sorted(((cost_of_cell(cell, cost), cell["accuracy"]) for cell in cells if cell["method"] == method),
                        key=lambda point: -point[0])  # fmt: skip
        x, y = [100 * c for c, _ in points], [100 * a["value"] for _, a in points]
        below = [v - 100 * a["low95"] for v, (_, a) in zip(y, points, strict=True)]
        above = [100 * a["high95"] - v for v, (_, a) in zip(y, points, strict=True)]
        axes.errorbar(x, y, yerr=[below, above], color=colour, ecolor=(colour, 0.45), elinewidth=0.9, capsize=0, lw=1.6,
                      ls=dash, marker=marker, ms=5.5, zorder=3 if at >= 0 else 2)  # fmt: skip
        ends.append((x[-1], y[-1], method, colour))
        lines.append(x)
    low, high = min(map(min, lines)), max(max(map(max, lines)), 100.0)
    axes.set_xlim(high + 2, low - 0.02 * (high - low))
    axes.grid(axis="y", color="#e8e5de", lw=0.6, zorder=0)
    axes.set_axisbelow(True)
    bottom, top = axes.get_ylim()
    places = apart([y for _, y, _, _ in ends], (top - bottom) * 0.046)
    for (x, y, name, colour), place in zip(ends, places, strict=True):
        axes.annotate(name, xy=(axes.get_xlim()[1] if x is None else x, y), xytext=(1.04, place), color=colour,
                      textcoords=("axes fraction", "data"), va="center", fontsize=8.5, annotation_clip=False,
                      arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.6, "alpha": 0.6, "shrinkA": 1,
                                  "shrinkB": 3})  # fmt: skip


def cost_of_cell(cell: dict, cost: str) -> float:
    return cell["time"]["prefill_ratio"] if cost == "prefill" else cell["decoder_ratio"]


def apart(values: list[float], least: float) -> list[float]:
    """Places as near to the values as may be, in their order, at least `least` from each other.

    >>> apart([1.0, 1.0, 5.0], 2.0)
    [0.0, 2.0, 5.0]
    """
    order = sorted(range(len(values)), key=lambda i: values[i])
    blocks: list[list[float]] = []  # [sum of values less their offsets, number], merged while they would overlap
    for rank in order:
        blocks.append([values[rank], 1])
        while len(blocks) > 1 and first(blocks[-2]) + least * blocks[-2][1] > first(blocks[-1]):
            value, number = blocks.pop()
            before = blocks[-1]
            before[0] += value - number * before[1] * least
            before[1] += number
    places, rank = [0.0] * len(values), 0
    for block in blocks:
        for k in range(int(block[1])):
            places[order[rank]] = first(block) + k * least
            rank += 1
    return places


def first(block: list[float]) -> float:
    """Where the first of a block stands, such that its mean distance to the values is 0."""
    return block[0] / block[1]
