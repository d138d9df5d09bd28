"""A table of plain pictures and a folder of pairs among them, as `omma blind --out` writes one."""

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from omma.eval.annotate.pairs import Pairs
from omma.eval.annotate.store import Annotation
from omma.table import Table

COLOURS = ((200, 30, 30), (30, 160, 60), (40, 60, 200), (230, 200, 40))


def picture(number: int) -> bytes:
    """Two stripes whose colours and widths tell the number."""
    image = Image.new("RGB", (24, 16), COLOURS[number % 4])
    image.paste(COLOURS[(number + 1) % 4], (0, 0, 4 + number % 16, 16))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def make_pairs(folder: Path, n: int = 4, bad: int | None = None) -> Pairs:
    """n pairs, 2i and 2i + 1 of the pictures p0, p1, ...; bad: a picture that is none."""
    table = Table.create(folder / "pictures")
    table.append([{"id": f"p{i}", "bytes": b"no picture" if i == bad else picture(i)} for i in range(2 * n)])
    (folder / "blind").mkdir()
    rows = {"a": [f"p{2 * i}" for i in range(n)], "b": [f"p{2 * i + 1}" for i in range(n)],
            "eye": [0.99 - i / 100 for i in range(n)], "reference": [i / 10 for i in range(n)]}  # fmt: skip
    pq.write_table(pa.table(rows), folder / "blind" / "pairs.parquet")
    return Pairs.open(folder / "blind", table)


def said(pattern: str = "state", left: str = "yes", right: str = "no", statements: bool = True) -> Annotation:
    """A complete annotation."""
    told = {"left_statement": f"{left} it is", "right_statement": f"{right} it is"} if statements else {}
    return Annotation(pattern=pattern, question="Is it open?", left=left, right=right, **told)
