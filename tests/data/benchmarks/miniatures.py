"""Benchmarks in miniature: files of a released schema, with pictures made on the spot."""

import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from omma.data.questions import ingest_items

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def png(number: int) -> bytes:
    """A picture like no other."""
    out = io.BytesIO()
    Image.new("RGB", (8, 8), (number % 256, 40, 200)).save(out, "PNG")
    return out.getvalue()


def pictures(folder: Path, *names: str) -> Path:
    """Pictures of these names below folder, each like no other."""
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(png(number))
    return folder


def image(number: int, path: str | None = None) -> dict:
    """A cell of an image column of Hugging Face datasets."""
    return {"bytes": png(number), "path": path}


def parquet(path: Path, rows: list[dict], **types: pa.DataType) -> Path:
    """Rows as Parquet; columns with pictures are told by their cells, others of the types by name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {}
    for name in rows[0]:
        cells = [row[name] for row in rows]
        struct = any(isinstance(cell, dict) and "bytes" in cell for cell in cells)
        columns[name] = pa.array(cells, types.get(name) or (IMAGE if struct else None))
    pq.write_table(pa.table(columns), path)
    return path


def write(path: Path, content: object) -> Path:
    """Text, or what JSON can hold; a list of objects for a .jsonl is a line each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not isinstance(content, str):
        lines = path.suffix == ".jsonl" and isinstance(content, list)
        content = "".join(json.dumps(row) + "\n" for row in content) if lines else json.dumps(content)
    path.write_text(content)
    return path


def read(source: Path, format: str, **options) -> tuple[list[dict], list[str], dict]:
    """(items, ids of pictures, the note of what was met) of a benchmark read into a folder beside it."""
    number = len(list(source.parent.glob("out*")))
    pictures, items = ingest_items(source, source.parent / f"out{number}", format=format, **options)
    return items.read().to_pylist(), pictures.read(["id"])["id"].to_pylist(), items.info["ingest_items"]


def counted(note: dict) -> dict[str, int]:
    return {what: found[0] for what, found in note["problems"].items()}
