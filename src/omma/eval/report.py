"""One HTML file that shows what a run found: numbers with intervals, curves, the pairs it gets wrong, its searches.

The page holds its styles, drawings and pictures itself, uses no script and loads nothing. Text is laid out by the
browser, so it has one size on every screen; only curves are drawn (SVG), stretched to the width there is.
"""

import base64
import io
import json
import math
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pyarrow.compute as pc
from PIL import Image

from omma.eval.audit import calibrations, parser_audit
from omma.eval.heat import looks, opened
from omma.eval.knobs import knob_curves
from omma.eval.metrics import order_key, score_pairs
from omma.eval.plots import bars, knob_plot, scatter
from omma.eval.run import Report, replacing
from omma.eval.viewer import Images, shared, sides, viewer
from omma.table import Table

THUMB = 144          # pixels on the longer side of a picture in the page
FAILURES, SUCCESSES, SEARCHES = 9, 3, 6
METRICS = {"t2i.recall@1": "text to picture, recall@1", "image": "image score", "pairwise": "true above false"}
KINDS = {"itm": "fusion head (itm)", "itc": "two encoders (itc)"}


def write_html(
    out_path: str | Path,
    *,
    runs: Sequence[Report],
    training: Any = None,
    pictures: Any = None,
    items: Any = None,
    explain: Sequence[Any] = (),
    answers: bool = False,
    title: str | None = None,
    meta: dict[str, str] | None = None,
) -> Path:
    """Write the page and return its path.

    runs: reports of evaluate, one a task and model. training: the metrics.jsonl of a run, a list of them, or of (title,
    path), one a stage. pictures: the table (or list of tables) to take thumbnails and their captions from; items: a
    table whose questions stand beside the pairs. explain: the encoders that were measured, to show which patches and
    words each pair's answers came from. answers: of one run, or of two on the same items, all that was said, beside
    each other: pair by pair with the map of the difference, by pattern, run against run, how replies were read, how
    sure they were, and over the knobs of the items. meta: what was run, {"command": ..., "machine": ..., ...}; by
    default what this process knows. Raises ValueError when there is neither a run nor a curve to show, and for the
    answers of more than two runs.

    The page holds at most two million characters of pictures of pairs, so it has some megabytes at most.
    """
    if answers and len(runs) > 2:
        raise ValueError(f"{len(runs)} reports; the answers of one or two are laid out beside each other")
    curves = [curve(*stage) for stage in stages(training)]
    if not runs and not curves:
        raise ValueError("nothing to show: give runs=[report, ...] or training=path of a metrics.jsonl")
    models = list(dict.fromkeys(run.metrics["model"] for run in runs))
    brief = [run for run in runs if run.metrics["task"] == "patterns" and (explain or not answers)]
    pairs = [part for run in brief for part in pair_cards(run)]
    searches = [part for run in runs if run.metrics["task"] == "retrieval" for part in search_cards(run)]
    questions = ask_of(items, [card["item"] for card in pairs])
    tables = [] if pictures is None else list(pictures) if isinstance(pictures, list | tuple) else [pictures]
    for card, seen in zip(pairs, looks(explain, pairs, tables), strict=True):
        card["looks"] = [{"src": data_uri(one["image"]), "alt": one["alt"], "words": one["words"]} for one in seen]
    shown = {name for card in pairs for name in card["pictures"]}
    shown |= {name for card in searches for name in (*card["top"], *card["right"][:1])}
    page = environment().get_template("report.html.j2").render(
        title=title or headline(models),
        when=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        kinds=KINDS,
        tiles=[tile for run in runs for tile in headline_tiles(run, several=len(models) > 1)],
        curves=curves,
        patterns=[pattern_bars(run) for run in runs if run.metrics["task"] == "patterns" and not answers],
        answers=answers_of(runs, tables, items) if answers else None,
        pairs=[card | {"question": questions.get(card["item"])} for card in pairs],
        searches=searches,
        tables=[(run.metrics["task"], run.metrics["model"], run.grids()) for run in runs],
        thumbs=thumbnails(tables, shown),
        runs=[run.metrics for run in runs],
        meta=here() if meta is None else meta,
    )
    out_path = Path(out_path)
    out_path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out_path) as path:
        path.write_text(page, encoding="utf-8")
    return out_path


def page_of(reports: Sequence[str | Path], out_path: str | Path, *, data: str | Path | None = None) -> dict[str, Any]:
    """The answers of one or two report folders as a page; {"path", "bytes", "pictures", "items"}.

    data: the folder with the tables pictures and items; by default where the first report says that it had them. A
    page without pictures says so in their place. Raises ValueError for a folder that is no report, or data without
    tables.
    """
    runs = [Report.load(folder) for folder in reports]
    place = Path(data) if data is not None else Path(runs[0].metrics["data"]).parent
    there = [name for name in ("pictures", "items") if (place / name / "manifest.json").exists()]
    found = {name: Table.open(place / name) for name in there}
    if data is not None and "pictures" not in found:
        raise ValueError(f"no table pictures in {data}; give the folder that holds the tables pictures and items")
    page = write_html(out_path, runs=runs, answers=True, pictures=found.get("pictures"), items=found.get("items"))
    rows = {name: found[name].num_rows if name in found else None for name in ("pictures", "items")}
    return {"path": str(page), "bytes": page.stat().st_size, **rows}


def answers_of(runs: Sequence[Report], tables: Sequence[Any], items: Any) -> dict[str, Any]:
    """What answers.html.j2 shows of one or two runs; parts that they don't have are None or empty."""
    shown = sides(runs)
    seen = viewer(shown, Images(lambda names: opened(tables, names), data_uri)) if shown and shared(shown) else None
    options = options_of(items) if any("first_token" in run.metrics["scores"] for run in runs) else {}
    named = list(zip("AB", runs, strict=False))
    sure = [{"letter": letter, **found} for letter, run in named for found in calibrations(run, options)]
    read = [{"letter": letter, **found} for letter, run in named if (found := parser_audit(run))]
    curves = knob_curves(shown, items) if shown else None
    if curves:
        curves["curves"] = [knob_plot(found) for found in curves["curves"]]
    apart = [next(iter(side.groups), "") for side in shown] if len(shown) > 1 and seen is None else None
    return {"bars": bars(runs), "viewer": seen, "apart": apart, "scatter": scatter(shown) if seen else None,
            "curves": curves, "calibration": sure, "audits": read}  # fmt: skip


def options_of(items: Any) -> dict[str, Sequence[str]]:
    """{item: its options} of an items table."""
    if items is None:
        return {}
    rows = items.read(columns=["id", "options"]).to_pylist()
    return {row["id"]: row["options"] for row in rows if row["options"]}


def headline(models: list[str]) -> str:
    return f"What {' and '.join(models)} {'see' if len(models) > 1 else 'sees'}" if models else "Training"


def environment() -> jinja2.Environment:
    found = jinja2.Environment(
        loader=jinja2.PackageLoader("omma.eval", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    found.filters["pct"] = lambda value, digits=1: "–" if value is None else f"{100 * value:.{digits}f}"
    found.filters["num"] = number
    return found


def number(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, int):
        return f"{value:,}".replace(",", "\u202f")
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}".replace(",", "\u202f")


# ------------------------------------------------------------------------------------------------ numbers
def headline_tiles(run: Report, several: bool) -> list[dict]:
    """The first numbers of a run, the best-informed score kind first."""
    heads = run.metrics["headline"]
    return [
        {
            "task": run.metrics["task"],
            "metric": METRICS.get(heads[kind]["metric"], heads[kind]["metric"].replace("_", " ")),
            "kind": KINDS.get(kind, kind),
            "model": run.metrics["model"] if several else "",
            "cell": heads[kind],
        }
        for kind in sorted(heads, key=lambda kind: list(KINDS).index(kind) if kind in KINDS else 9)
        if heads[kind].get("value") is not None
    ]


def pattern_bars(run: Report) -> dict:
    """For each pattern and score kind the image score with its interval and controls; and what follows from them."""
    scores = run.metrics["scores"]
    kinds = [kind for kind in KINDS if kind in scores]
    names = list(dict.fromkeys(name for kind in kinds for name in scores[kind]["model"]["patterns"]))
    lines = []
    for name in names:
        bars = []
        for kind in kinds:
            blocks = {variant: metrics.get("patterns", {}).get(name) for variant, metrics in scores[kind].items()}
            if blocks["model"]:
                controls = {v: blocks[v]["image"]["value"] if blocks[v] else None for v in ("blind", "wrong-image")}
                bars.append({"kind": kind, **blocks["model"]["image"], **controls, "ties": blocks["model"]["ties"]})
        lines.append({"name": name, "bars": bars})
    best = best_first(run)[0]
    model = scores[best]["model"]
    seen = [n for n in names if n in model["patterns"] and model["patterns"][n]["image"]["above_chance"]]
    return {
        "model": run.metrics["model"],
        "kinds": kinds,
        "lines": lines,
        "kind": best,
        "seen": seen,
        "unseen": [name for name in names if name not in seen],
        "n": model["n"],
        "ties": {kind: (scores[kind]["model"]["ties"], scores[kind]["blind"].get("ties", 0)) for kind in kinds},
        "totals": [
            (kind, name, scores[kind]["model"][name]) for kind in kinds for name in ("image", "text", "group", "item")
        ],
    }


def best_first(run: Report) -> list[str]:
    """The score kinds of a run of pairs, the one that gets most of them right first."""
    scores = run.metrics["scores"]
    return sorted((kind for kind in KINDS if kind in scores), key=lambda kind: -scores[kind]["model"]["image"]["value"])


# ------------------------------------------------------------------------------------------------ examples
def pair_cards(run: Report) -> list[dict]:
    """The worst failure of each pattern and some clear successes, by the score kind that does best."""
    kinds = best_first(run)
    rows = [row for row in run.rows.to_pylist() if row["variant"] == "model" and not row["unscored"]]
    others = {(row["item"], row["score_kind"]): row["correct"] for row in rows}
    cards = []
    for row in rows:
        if row["score_kind"] != kinds[0]:
            continue
        s11, s12, s21, s22 = row["scores"]
        picks = score_pairs(np.array([[[s11, s12], [s21, s22]]])).picks[0].tolist()
        low, high = min(row["scores"]), max(row["scores"])
        shade = [round((s - low) / (high - low), 2) if high > low else 0.5 for s in row["scores"]]
        cards.append(
            {
                "item": row["item"],
                "model": run.metrics["model"],
                "pattern": row["pattern"],
                "pictures": row["pictures"],
                "texts": row["texts"],
                "scores": [[s11, s21], [s12, s22]],                        # a line a statement, a column a picture
                "shade": [[shade[0], shade[2]], [shade[1], shade[3]]],
                "picks": picks,
                "right": row["correct"],
                "kind": row["score_kind"],
                "others": {kind: others.get((row["item"], kind)) for kind in kinds[1:]},
                "margin": min(s11 - s21, s22 - s12),
            }
        )
    cards.sort(key=lambda card: (card["margin"], card["item"]))
    worst = list({card["pattern"]: card for card in reversed(cards) if not card["right"]}.values())
    best = list({card["pattern"]: card for card in cards if card["right"]}.values())
    worst.sort(key=lambda card: card["margin"])
    best.sort(key=lambda card: -card["margin"])
    return worst[:FAILURES] + best[:SUCCESSES]


def search_cards(run: Report) -> list[dict]:
    """Some searches by text, half of them right at first place: the query, the first five pictures, the right place."""
    rows = [row for row in run.rows.to_pylist() if row["variant"] == "model" and row["pattern"] == "t2i"]
    rows = sorted((row for row in rows if not row["unscored"]), key=lambda row: order_key(row["seed"], row["item"]))
    found, missed = ([row for row in rows if (row["correct"] is True) is hit] for hit in (True, False))
    half = SEARCHES // 2
    chosen = found[: max(half, SEARCHES - len(missed))] + missed[: max(half, SEARCHES - len(found))]
    return [
        {"text": row["texts"][0], "top": row["top"], "right": row["pictures"], "place": row["credits"][-1]}
        for row in chosen[:SEARCHES]
    ]


def ask_of(items: Any, wanted: list[str]) -> dict[str, str]:
    """{item of a pair: the question of the same group}, when an items table is there."""
    if items is None or not wanted:
        return {}
    groups = items.take(wanted, columns=["id", "group"])
    of_group = dict(zip(groups["group"].to_pylist(), groups["id"].to_pylist(), strict=True))
    found = items.read(columns=["group", "prompt"], where="task == 'question'")
    return {
        of_group[row["group"]]: row["prompt"] for row in found.to_pylist() if row["group"] in of_group and row["prompt"]
    }


def thumbnails(tables: Sequence[Any], wanted: Iterable[str]) -> dict[str, dict]:
    """{picture id: {"src": data URI, "alt": its first caption}} for those that can be shown."""
    images = opened(tables, wanted)
    out: dict[str, dict] = {}
    for table in tables if images else ():
        for batch in table.scan(columns=["id", "captions"], where=pc.field("id").isin(sorted(images)), batch_rows=64):
            for row in batch.to_pylist():
                captions = [caption["text"] for caption in row["captions"] or [] if caption["text"]]
                alt = captions[0] if captions else f"picture {row['id']}"
                out[row["id"]] = {"src": data_uri(images[row["id"]]), "alt": alt}
    return out


def data_uri(image: Image.Image) -> str:
    """PNG or JPEG, whichever is smaller, at most THUMB pixels wide and high."""
    image = image.convert("RGB")
    image.thumbnail((THUMB, THUMB), Image.Resampling.LANCZOS)
    best = b"", ""
    for kind, options in (("png", {"optimize": True}), ("jpeg", {"quality": 88, "optimize": True})):
        file = io.BytesIO()
        image.save(file, kind, **options)
        if not best[0] or len(file.getvalue()) < len(best[0]):
            best = file.getvalue(), kind
    return f"data:image/{best[1]};base64,{base64.b64encode(best[0]).decode()}"


# ------------------------------------------------------------------------------------------------ curves
def stages(training: Any) -> list[tuple[str, Path]]:
    """What was given for training -> [(title, path)]; a path's title is its run folder."""
    if training is None:
        return []
    given = [training] if isinstance(training, str | Path) else list(training)
    found = []
    for stage in given:
        name, path = stage if isinstance(stage, tuple | list) else (None, stage)
        path = Path(path) / "metrics.jsonl" if Path(path).is_dir() else Path(path)
        if not path.exists():
            raise ValueError(f"no curve at {path}; a training run writes metrics.jsonl into its folder")
        found.append((name or path.parent.name, path))
    return found


def curve(title: str, path: Path) -> dict:
    """A stage's losses as SVG paths in a box of 1000 x 100, raw and smoothed, and the facts of the run."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break                                             # the last line of a run that was killed
    rows = [row for row in rows if isinstance(row.get("loss"), int | float)]
    names = ["loss", *sorted({name for row in rows for name in row if name.startswith("loss_")})]
    last = rows[-1] if rows else {}
    plots = []
    for name in names:
        points = [(row["step"], row[name]) for row in rows if isinstance(row.get(name), int | float)]
        points = [(step, loss) for step, loss in points if math.isfinite(loss)]
        if points and not (len(names) == 2 and name != "loss"):            # a single part is the loss itself
            plots.append(plot(name.replace("loss_", ""), points))
    seconds = rows[-1].get("seconds") if rows else None
    rates = [row["samples_per_s"] for row in rows if row.get("samples_per_s")]
    facts = {
        "steps": last.get("step"),
        "minutes": f"{seconds / 60:.1f}" if seconds else None,
        "samples / s": sorted(rates)[len(rates) // 2] if rates else None,
        "waiting for data": f"{100 * last['data_wait']:.0f} %" if last.get("data_wait") is not None else None,
    }
    facts = {name: value for name, value in facts.items() if value is not None}
    return {"title": title, "plots": plots, "facts": facts}


def plot(name: str, points: list[tuple[float, float]]) -> dict:
    """One loss over steps: y from its lowest value to its highest after the first steps' spike is cut off."""
    values = sorted(loss for _, loss in points)
    low, high = values[0], values[min(len(values) - 1, int(0.995 * len(values)))]
    if high <= low:
        high = low + 1
    first, last = points[0][0], max(points[-1][0], points[0][0] + 1)

    def path(line: list[tuple[float, float]]) -> str:
        places = [
            (1000 * (step - first) / (last - first), 100 * (1 - (min(loss, high) - low) / (high - low)))
            for step, loss in line
        ]
        return "M" + "L".join(f"{x:.1f},{y:.2f}" for x, y in places)

    even = thin(points, 600)
    return {
        "name": name, "raw": path(even), "smooth": path(thin(smoothed(points), 600)), "low": low, "high": high,
        "first": first, "last": last, "end": smoothed(points)[-1][1], "start": points[0][1],
    }  # fmt: skip


def smoothed(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """An exponential mean over about a twentieth of the points, in both directions, so that it does not lag behind."""
    keep = 1 - 1 / max(1.0, len(points) / 20)

    def sums(values: list[float]) -> list[tuple[float, float]]:
        total = weight = 0.0
        out = []
        for value in values:
            total, weight = keep * total + value, keep * weight + 1
            out.append((total, weight))
        return out

    losses = [loss for _, loss in points]
    both = zip(sums(losses), sums(losses[::-1])[::-1], losses, strict=True)
    means = [(a + b - loss) / (v + w - 1) for (a, v), (b, w), loss in both]    # the point itself is in both sums
    return [(step, mean) for (step, _), mean in zip(points, means, strict=True)]


def thin(points: list[tuple[float, float]], most: int) -> list[tuple[float, float]]:
    """At most about `most` points, first and last among them."""
    if len(points) <= most:
        return points
    return [points[round(i * (len(points) - 1) / (most - 1))] for i in range(most)]


# ------------------------------------------------------------------------------------------------ what was run
def here() -> dict[str, str]:
    """The command, code version and machine of this process."""
    from importlib.metadata import version

    root = Path(__file__).resolve().parents[3]
    facts = {"command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]), "omma": version("omma")}
    if (root / ".git").exists():
        ask = ["git", "-C", str(root), "describe", "--always", "--dirty"]
        git = subprocess.run(ask, capture_output=True, text=True)
        facts |= {"commit": git.stdout.strip()} if git.returncode == 0 else {}
    facts["machine"] = f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}"
    return facts
