"""What lies in a folder, in plain numbers: a table, a run, a checkpoint, a report, or several; or in a result file of
lmms-eval or VLMEvalKit. Loads no weights."""

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import omma

SAMPLE_ROWS = 3
LONGEST_TEXT = 120  # characters of a sample's cell
RESULTS = (".jsonl", ".xlsx", ".tsv", ".csv", ".json")


def describe(path: str | Path) -> dict[str, Any]:
    """A JSON-able summary; "kind" says of what: table, run, checkpoint, report, pairs, folder or results.

    Raises ValueError with what was seen when the path is none of these.
    """
    folder = Path(path)
    if not folder.exists():
        beside = sorted(p.name for p in folder.parent.iterdir()) if folder.parent.is_dir() else []
        seen = f"{folder.parent} holds {', '.join(beside[:12])}" if beside else f"{folder.parent} is empty or not there"
        raise ValueError(f"nothing at {folder}; {seen}")
    if folder.is_file():
        if folder.suffix not in RESULTS:
            raise ValueError(f"{folder} is a file; show takes the folder of a table, a run, a checkpoint or a report, "
                             f"or a result file of lmms-eval or VLMEvalKit ({', '.join(RESULTS)})")  # fmt: skip
        return {"kind": "results", "path": str(folder), **describe_results(folder)}
    if kind := kind_of(folder):
        return {"kind": kind, "path": str(folder), **DESCRIBE[kind](folder)}
    inside = {p.name: kind_of(p) for p in sorted(folder.iterdir()) if p.is_dir()}
    known = {name: kind for name, kind in inside.items() if kind}
    if known:
        return {"kind": "folder", "path": str(folder), "holds": known}
    names = sorted(p.name + "/" * p.is_dir() for p in folder.iterdir())
    raise ValueError(
        f"{folder} is no table, run, checkpoint or report; it holds {', '.join(names[:12]) or 'nothing'}. "
        f"Make a table of a folder of pictures: omma ingest {folder} OUT"
    )


def kind_of(folder: Path) -> str | None:
    """By the file that only such a folder has."""
    for kind, mark in MARKS.items():
        if (folder / mark).exists():
            return kind
    return None


def describe_table(folder: Path) -> dict[str, Any]:
    table = omma.Table.open(folder)
    fields = {field.name: str(field.type) for field in table.schema}
    counts = {}
    for name in ("status", "split", "task", "pattern", "primary_category"):
        if name in fields:
            values = Counter(table.read(columns=[name])[name].to_pylist())
            counts[name] = {value or "null": n for value, n in values.most_common()}
    readable = [name for name, type_ in fields.items() if type_ not in ("binary", "large_binary")]
    sample = next(iter(table.scan(columns=readable, batch_rows=SAMPLE_ROWS)), None)
    return {
        "of": table.kind,
        "rows": table.num_rows,
        "chunks": [{"name": chunk.name, "rows": chunk.rows} for chunk in table.chunks],
        "columns": fields,
        "counts": counts,
        "sample": [shorten(row) for row in sample.to_pylist()[:SAMPLE_ROWS]] if sample is not None else [],
    }


def describe_run(folder: Path) -> dict[str, Any]:
    steps = sorted(p.name for p in folder.iterdir() if p.name.startswith("step") and p.is_dir())
    return {
        "config": read_json(folder / "config.json"),
        "checkpoints": steps,
        "last_metrics": last_metrics(folder / "metrics.jsonl"),
    }


def describe_checkpoint(folder: Path) -> dict[str, Any]:
    shapes = tensor_shapes(folder / "model.safetensors")
    out = {
        "config": read_json(folder / "config.json"),
        "parameters": sum(math.prod(shape) for shape in shapes.values()),
        "tensors": len(shapes),
        "last_metrics": last_metrics(folder.resolve().parent / "metrics.jsonl"),
    }
    if (folder / "prompts.safetensors").exists():
        learned = tensor_shapes(folder / "prompts.safetensors")
        out["prompts"] = {name.split(".")[-1].removesuffix("_prompts"): shape[0] for name, shape in learned.items()}
    step = folder.resolve().name.removeprefix("step")
    if step.isdigit():
        out["step"] = int(step)
    if (folder / "tokenizer.json").exists():
        out["tokens"] = len(read_json(folder / "tokenizer.json")["model"]["vocab"])
    return out


def describe_report(folder: Path) -> dict[str, Any]:
    return {"report": omma.Report.load(folder).to_json()}


def describe_pairs(folder: Path) -> dict[str, Any]:
    import pyarrow.parquet as pq

    about = pq.read_schema(folder / "pairs.parquet").metadata or {}
    told = json.loads(about.get(b"omma", b"{}"))
    rows = pq.read_metadata(folder / "pairs.parquet").num_rows
    return {"pairs": rows, **{name: told[name] for name in ("of", "above", "below", "counts") if name in told}}


def describe_results(path: Path) -> dict[str, Any]:
    from omma.eval.outcomes import outcomes, summary

    (run,) = outcomes(path)
    return summary(run)


DESCRIBE = {
    "table": describe_table,
    "run": describe_run,
    "checkpoint": describe_checkpoint,
    "report": describe_report,
    "pairs": describe_pairs,
}
MARKS = {
    "table": "manifest.json",
    "run": "metrics.jsonl",
    "checkpoint": "model.safetensors",
    "report": "report.json",
    "pairs": "pairs.parquet",
}


def tensor_shapes(path: Path) -> dict[str, list[int]]:
    """Names and shapes from a safetensors file's header: 8 bytes of length, then JSON; no weight is read."""
    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return {name: entry["shape"] for name, entry in header.items() if name != "__metadata__"}


def last_metrics(path: Path) -> dict[str, Any] | None:
    """The last complete line of a metrics.jsonl; a run that was killed may leave half a line behind it."""
    if not path.exists():
        return None
    for line in reversed(path.read_text(encoding="utf-8").splitlines()):
        try:
            return json.loads(line)
        except json.JSONDecodeError:
            continue
    return None


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def shorten(value: Any) -> Any:
    """A row that fits on a screen: long texts and vectors are cut and say so."""
    if isinstance(value, dict):
        return {name: shorten(item) for name, item in value.items()}
    if isinstance(value, str) and len(value) > LONGEST_TEXT:
        return f"{value[:LONGEST_TEXT]}... ({len(value)} characters)"
    if isinstance(value, list) and len(value) > 4:
        return [*(shorten(item) for item in value[:4]), f"... ({len(value)} values)"]
    if isinstance(value, list):
        return [shorten(item) for item in value]
    return value
