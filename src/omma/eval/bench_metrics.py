"""What a bench of visual-token dropping found: shares with intervals, differences to controls, costs, tables."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Group

from omma.eval.clusters import clustered, paired
from omma.eval.meter import compared
from omma.eval.protocols.short import RULES
from omma.eval.run import plain, replacing, rich_table
from omma.eval.task import Grid, interval, percent
from omma.eval.ways import ALL, ALWAYS, DENSE
from omma.sparse.account import equal_tokens

BASES = (DENSE, *ALWAYS)


@dataclass
class SparseReport:
    """What a bench found. metrics["cells"]: one entry a method and budget, dense first; rows: one row an item, seed,
    control and cell. Printed by rich as tables; saved as report.json and rows.parquet."""

    metrics: dict[str, Any]
    rows: pa.Table

    def save(self, folder: str | Path) -> Path:
        """Write report.json and rows.parquet into the folder, in place of what was there."""
        folder = Path(folder)
        with replacing(folder / "rows.parquet") as path:
            pq.write_table(self.rows, path, compression="zstd")
        with replacing(folder / "report.json") as path:
            path.write_text(json.dumps(self.to_json(), indent=1, allow_nan=False) + "\n", encoding="utf-8")
        return folder

    def to_json(self) -> dict[str, Any]:
        """The metrics as JSON takes them: numbers that don't exist are null."""
        return plain(self.metrics)

    def cell(self, method: str, budget: str) -> dict[str, Any]:
        """The metrics of one method at one budget. Raises ValueError where it was not run."""
        for cell in self.metrics["cells"]:
            if (cell["method"], cell["budget"]) == (method, budget):
                return cell
        there = ", ".join(f"{cell['method']} {cell['budget']}" for cell in self.metrics["cells"])
        raise ValueError(f"no cell {method!r} at {budget!r}; there are {there}")

    def grids(self) -> list[Grid]:
        """The tables of the report as text."""
        return [answers_grid(self.metrics), cost_grid(self.metrics), pattern_grid(self.metrics)]

    def __rich__(self) -> Group:
        m = self.metrics
        lines = [f"{m['model']} ({m['precision']}, {m['device']}) on {m['questions']} questions of {m['data']}, "
                 f"seeds {', '.join(map(str, m['seeds']))}"]  # fmt: skip
        lines += [f"{cell['method']} at {cell['budget']}: {cell['refused']}" for cell in m["refused"]]
        return Group(*lines, *(rich_table(grid) for grid in self.grids()))


def summary(out: Path, settings: dict[str, Any], methods: Sequence[str]) -> SparseReport:
    """The report of all complete cells in a folder, those of `methods` first; it is saved there."""
    known = [json.loads(path.read_text(encoding="utf-8")) | {"rows": path.with_suffix(".parquet")}
             for path in sorted((out / "cells").glob("*.json"))]  # fmt: skip
    order = {name: number for number, name in reversed([*enumerate(methods)])}
    known.sort(key=lambda cell: (order.get(cell["method"], len(order)), cell["method"], cell["seed"]))
    done = [cell for cell in known if not cell["refused"]]
    table = pa.concat_tables([pq.read_table(cell["rows"]) for cell in done])
    rows: dict[tuple[str, str], list[dict]] = {}
    columns = [name for name in table.column_names if name not in ("kept", "said", "question")]
    for row in table.select(columns).to_pylist():
        rows.setdefault((row["method"], row["budget"]), []).append(row)
    times = {(cell["method"], cell["budget"]): cell["timing"] for cell in done if cell["timing"]}
    cells = [cell_metrics(key, mine, rows, times.get(key, {})) for key, mine in rows.items()]
    refused = {(cell["method"], cell["budget"]): cell["refused"] for cell in known if cell["refused"]}
    metrics = {
        **settings,
        "questions": len({row["item"] for row in rows[DENSE, ALL]}),
        "seeds": sorted({cell["seed"] for cell in known}),
        "rules": RULES,
        "budget_means": "visual tokens entering a decoder layer, mean over layers and questions",
        "cells": sorted(cells, key=lambda cell: (order.get(cell["method"], len(order)), -(cell["entering"] or 0))),
        "refused": [{"method": m, "budget": b, "refused": why} for (m, b), why in refused.items()],
    }
    report = SparseReport(plain(metrics), table)
    report.save(out)
    return report


def cell_metrics(key: tuple[str, str], mine: list[dict], rows: dict, timing: dict[str, list[dict]]) -> dict[str, Any]:
    """The numbers of one method at one budget. mine: its rows; rows: those of all cells."""
    method, budget = key
    scored = asked(mine)
    seeds = sorted({row["seed"] for row in mine})
    dense = {(row["item"], row["seed"]): row for row in asked(rows[DENSE, ALL])}
    both = [(row, dense[row["item"], row["seed"]]) for row in scored if (row["item"], row["seed"]) in dense]
    ours = {(row["item"], row["seed"]): row["outcome"] == "right" for row in scored}
    pictures = {(row["item"], row["seed"]): row["picture"] for row in scored}
    against = {}
    for base in BASES:
        theirs = asked(rows.get((base, ALL if base == DENSE else budget), []))
        if base != method and theirs:
            right = {(row["item"], row["seed"]): row["outcome"] == "right" for row in theirs}
            against[base] = paired(ours, right, pictures)
    reasons = Counter(row["unscored"] for row in mine if row["variant"] == "model" and row["unscored"])
    return {
        "method": method,
        "budget": budget,
        "accuracy": share(scored),
        "by_seed": {str(seed): share(row for row in scored if row["seed"] == seed) for seed in seeds},
        "patterns": {name: share(row for row in scored if row["pattern"] == name)
                     for name in sorted({row["pattern"] for row in scored if row["pattern"]})},
        "unparsed": sum(row["outcome"] == "unparsed" for row in scored),
        "unscored": dict(sorted(reasons.items())),
        "blind": share(asked(mine, "blind")) if asked(mine, "blind") else None,
        "wrong-image": share(asked(mine, "wrong-image")) if asked(mine, "wrong-image") else None,
        "against": against,
        "visual": average(row["visual"] for row in scored),
        "entering": average(mean(row["entering"]) for row in scored),
        "equal_tokens": average(equal_tokens(row["entering"]) for row in scored),
        "layers": [average(layer) for layer in zip(*(row["entering"] for row in scored), strict=True)],
        "flops": average(row["flops"] for row in scored),
        "flops_causal": average(row["flops_causal"] for row in scored),
        "flops_ratio": average(a["flops"] / b["flops"] for a, b in both),
        "decoder_ratio": average(a["decoder_macs"] / b["decoder_macs"] for a, b in both),
        "kv_bytes": average(row["kv_bytes"] for row in scored),
        "time": compared(timing[method], timing[DENSE]) if timing else None,
    }  # fmt: skip


def asked(rows: Iterable[dict], variant: str = "model") -> list[dict]:
    """The scored rows of a variant."""
    return [row for row in rows if row["variant"] == variant and row["outcome"] != "unscored"]


def share(rows: Iterable[dict]) -> dict:
    """Share of right answers, unparsed ones counting as not right, with intervals by picture."""
    rows = list(rows)
    return clustered([row["outcome"] == "right" for row in rows], [row["picture"] for row in rows])


def average(values: Iterable[float]) -> float | None:
    values = list(values)
    return mean(values) if values else None


# ------------------------------------------------------------------------------------------------ printing
def answers_grid(m: dict[str, Any]) -> Grid:
    """One line a cell: tokens, right answers, differences."""
    lines = []
    for cell in m["cells"]:
        against = [difference(cell["against"].get(base)) for base in BASES]
        lines.append([
            name_of(cell), number(cell["entering"]), percent({"value": cell["decoder_ratio"]}),
            percent(cell["accuracy"]), interval(cell["accuracy"]).replace(" ", ""), *against,
            percent({"value": cell["unparsed"] / cell["accuracy"]["n"]} if cell["accuracy"]["n"] else None),
        ])  # fmt: skip
    controls = [f"{cell['method']} {name} {percent(cell[name])}" for cell in m["cells"]
                for name in ("blind", "wrong-image") if cell[name]]  # fmt: skip
    note = (
        "tokens: visual, entering a decoder layer, mean. work: multiply-adds of the decoder in the prefill, % of dense."
        " right: % of the questions, 95 %: its interval, by picture. vs: difference on the same questions, in points, "
        f"with the 95 % interval of a bootstrap over pictures. Controls: {', '.join(controls) or 'none'}."
    )
    return Grid("answers", ["method, budget", "tokens", "work", "right", "95 %", "vs dense", "vs uniform", "vs random",
                            "unparsed"], lines, note)  # fmt: skip


def cost_grid(m: dict[str, Any]) -> Grid:
    """One line a cell: published count, FLOPs, bytes, time."""
    lines = []
    peaks = any(cell["time"] and cell["time"]["peak_bytes"] for cell in m["cells"])
    for cell in m["cells"]:
        t = cell["time"] or {}
        lines.append([
            name_of(cell), number(cell["equal_tokens"]), giga(cell["flops"]), giga(cell["flops_causal"]),
            mega(cell["kv_bytes"]), mega(t.get("kv_bytes")), milli(t.get("prefill_s")), ratio(t.get("prefill_ratio")),
            ratio(t.get("decoder_ratio")), milli(t.get("decode_s")), ratio(t.get("decode_ratio")),
            *([mega(t.get("peak_bytes"))] if peaks else []),
        ])  # fmt: skip
    note = (
        "leaving: mean of the tokens that leave a layer, the published count. GFLOPs: of the whole prefill, with vision"
        " tower; causal: attention counted over the allowed pairs alone. KV: MB after the prompt, by formula; held: MB "
        "in the timed runs. prefill, decode: milliseconds to the first token and of a later one, medians, in "
        f"{m['clock']}, batch 1; x: over dense, in turns; text x: the text model's part of the prefill."
    )
    header = ["method, budget", "leaving", "GFLOPs", "causal", "KV", "held", "prefill", "x", "text x", "decode", "x"]
    return Grid("cost", header + ["peak MB"] * peaks, lines, note)


def pattern_grid(m: dict[str, Any]) -> Grid:
    """One line a cell, a column a pattern."""
    names = list(dict.fromkeys(name for cell in m["cells"] for name in cell["patterns"]))
    lines = [[name_of(cell), *(short(cell["patterns"].get(name)) for name in names)] for cell in m["cells"]]
    counts = m["cells"][0]["patterns"]
    asked = ", ".join(f"{name} {counts[name]['n']}" for name in names if name in counts)
    note = f"Right, %, and its 95 % interval. Questions: {asked}."
    return Grid("by pattern", ["method, budget", *names], lines, note)


def short(cell: dict | None) -> str:
    """ "61 (55-67)" """
    if cell is None or cell["value"] is None:
        return "–"
    return f"{100 * cell['value']:.0f} ({100 * cell['low95']:.0f}-{100 * cell['high95']:.0f})"


def name_of(cell: dict) -> str:
    return cell["method"] if cell["budget"] == ALL else f"{cell['method']} {cell['budget']}"


def difference(found: dict | None) -> str:
    """ "-1.9 (-4.0 to 0.2)" """
    if found is None or found["value"] is None:
        return "–"
    if found["low95"] is None:
        return f"{100 * found['value']:+.1f}"
    return f"{100 * found['value']:+.1f} ({100 * found['low95']:.1f} to {100 * found['high95']:.1f})"


def number(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def giga(value: float | None) -> str:
    return "–" if value is None else f"{value / 1e9:.3g}"


def mega(value: float | None) -> str:
    return "–" if value is None else f"{value / 1e6:.3g}"


def milli(value: float | None) -> str:
    return "–" if value is None else f"{1e3 * value:.3g}"


def ratio(value: float | None) -> str:
    return number(value, 2)
