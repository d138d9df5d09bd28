"""The page of a bench of visual-token dropping: the plot, the tables, and pictures with the patches that were kept."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from omma.eval.bench_metrics import SparseReport, name_of
from omma.eval.bench_plot import draw_plot
from omma.eval.metrics import order_key
from omma.eval.protocols.short import RULES
from omma.eval.report import data_uri, environment, here
from omma.eval.run import replacing
from omma.eval.task import percent
from omma.eval.ways import ALL, DENSE

EXAMPLES = 8
LINE = (213, 94, 0)  # around what was kept


def write_page(out: Path, report: SparseReport, run: Any, meta: dict[str, str] | None = None) -> Path:
    """Write plot.svg, plot.png and report.html into the folder; returns the page's path. run: a bench.Run."""
    plot = draw_plot(report.metrics, out)[0].read_text(encoding="utf-8")
    page = environment().get_template("bench.html.j2").render(
        m=report.metrics,
        plot=plot[plot.index("<svg") :],
        told=told(report.metrics),
        grids=report.grids(),
        examples=[card(rows, run) for rows in examples(report)],
        rules=RULES,
        refused=report.metrics["refused"],
        meta=here() if meta is None else meta,
    )
    with replacing(out / "report.html") as path:
        path.write_text(page, encoding="utf-8")
    return out / "report.html"


def told(m: dict[str, Any]) -> str:
    """The plot in words, for those who can't see it."""
    return "; ".join(
        f"{name_of(cell)}: {percent(cell['accuracy'])} % right at {100 * cell['decoder_ratio']:.0f} % of the work"
        for cell in m["cells"] if cell["accuracy"]["value"] is not None and cell["decoder_ratio"]
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------ examples
def examples(report: SparseReport) -> list[list[dict]]:
    """Rows of questions at the cheapest budgets, dense first: of each pattern one on which methods disagree most."""
    methods = list(dict.fromkeys(cell["method"] for cell in report.metrics["cells"]))
    cheapest: dict[str, tuple[float, str]] = {}
    for cell in report.metrics["cells"]:
        if cell["entering"] is not None:
            point = cell["entering"], cell["budget"]
            cheapest[cell["method"]] = min(cheapest.get(cell["method"], point), point)
    keys = ["method", "budget", "seed", "variant"]
    chosen = report.rows.select(keys).to_pylist()
    seed = min((row["seed"] for row in chosen), default=0)
    wanted = [number for number, row in enumerate(chosen)
              if row["variant"] == "model" and row["seed"] == seed
              and row["budget"] == cheapest.get(row["method"], (0, ""))[1]]  # fmt: skip
    by_item: dict[str, list[dict]] = {}
    for row in report.rows.take(wanted).to_pylist():
        if row["outcome"] != "unscored":
            by_item.setdefault(row["item"], []).append(row)

    def agreement(item: str) -> tuple[float, bytes]:
        right = [row["outcome"] == "right" for row in by_item[item]]
        return abs(sum(right) / len(right) - 0.5), order_key(0, item)

    best: dict[str, list[str]] = {}
    for item in sorted(by_item, key=agreement):
        best.setdefault(by_item[item][0]["pattern"], []).append(item)
    turns = [items[turn] for turn in range(EXAMPLES) for items in best.values() if turn < len(items)]
    return [sorted(by_item[item], key=lambda row: methods.index(row["method"])) for item in turns[:EXAMPLES]]


def card(rows: Sequence[dict], run: Any) -> dict[str, Any]:
    """A question with its picture, and each method's answer beside what it kept."""
    first = rows[0]
    picture = as_shown(run, first)
    lines = []
    for row in rows:
        looks = [] if picture is None or row["method"] == DENSE else stages(row, picture)
        budget = "" if row["budget"] == ALL else row["budget"]
        lines.append({"method": row["method"], "budget": budget, "said": row["said"], "outcome": row["outcome"],
                      "looks": looks, "entering": np.mean(row["entering"])})  # fmt: skip
    return {"picture": None if picture is None else data_uri(picture), "lines": lines} | {
        name: first[name] for name in ("question", "answer", "pattern", "item")
    }


def stages(row: dict, picture: Image.Image) -> list[dict[str, Any]]:
    """The picture once for every layer after which tokens were dropped, with what was left."""
    found = []
    for layer, bits, made in zip(row["kept_after"] or (), row["kept"] or (), row["made"] or (), strict=True):
        mask = unpacked(bits, row["visual"])
        place = "before layer 0" if layer < 0 else f"after layer {layer}"
        words = f"{place}: {int(mask.sum())} of {row['visual']}" + (f", {made} made" if made else "")
        if row["grid"] is None:
            found.append({"src": None, "words": words})
            continue
        grid = mask[: row["grid"][0] * row["grid"][1]].reshape(row["grid"])
        found.append({"src": data_uri(faded(picture, grid)), "words": words})
    return found


def faded(picture: Image.Image, kept: np.ndarray) -> Image.Image:
    """The picture with what was dropped washed out and a line around the rest. kept: (rows, columns) bool."""
    rows, columns = kept.shape
    scale = max(1, round(288 / max(rows, columns)))
    size = (columns * scale, rows * scale)
    image = np.asarray(picture.convert("RGB").resize(size, Image.Resampling.BICUBIC), dtype=np.float32)
    grey = image.mean(axis=2, keepdims=True)
    shown = kept.repeat(scale, axis=0).repeat(scale, axis=1)[..., None]
    out = Image.fromarray(np.where(shown, image, 0.18 * grey + 0.82 * 236).astype(np.uint8))
    draw = ImageDraw.Draw(out)
    padded = np.pad(kept, 1)
    for r, c in zip(*np.nonzero(kept), strict=True):
        left, top, right, bottom = c * scale, r * scale, (c + 1) * scale - 1, (r + 1) * scale - 1
        edges = {(0, 1): (left, top, right, top), (2, 1): (left, bottom, right, bottom),
                 (1, 0): (left, top, left, bottom), (1, 2): (right, top, right, bottom)}  # fmt: skip
        for (down, along), line in edges.items():
            if not padded[r + down, c + along]:
                draw.line(line, fill=LINE, width=2)
    return out


def as_shown(run: Any, row: dict) -> Image.Image | None:
    """The picture as the tower got it, cropped and scaled, where its pixels are laid out as one; else as it is."""
    image, _ = run.picture(row["picture"])
    if image is None:
        return None
    pixels = run.vlm.prompts([[image]], [run.template.replace("{}", row["question"])]).get("pixel_values")
    if pixels is None or pixels.ndim < 4 or pixels.shape[-3] != 3:
        return image
    values = pixels.reshape(-1, *pixels.shape[-3:])[0].float().cpu().numpy().transpose(1, 2, 0)
    low, high = values.min(axis=(0, 1)), values.max(axis=(0, 1))
    source = np.asarray(image.convert("RGB"), dtype=np.float32)
    floor, ceiling = source.min(axis=(0, 1)), source.max(axis=(0, 1))  # every processor scales and shifts a channel
    level = (values - low) / np.maximum(high - low, 1e-6) * (ceiling - floor) + floor
    return Image.fromarray(level.clip(0, 255).astype(np.uint8))


def unpacked(bits: bytes, visual: int) -> np.ndarray:
    """A mask of the column `kept` -> (visual,) bool."""
    return np.unpackbits(np.frombuffer(bits, dtype=np.uint8))[:visual].astype(bool)
