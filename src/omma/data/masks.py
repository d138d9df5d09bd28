"""A folder of masks beside a table of pictures -> the column `mask`: a class for every pixel.

    add_masks("tables/ade20k", "annotations/training", classes=names, first=1)

A mask is a greyscale PNG of its picture's name. In the table, value k stands for classes[k] and 255 for no class.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from omma.decode import decode
from omma.table import Table, some

UNLABELLED = 255


def add_masks(table: str | Path | Table, masks: str | Path, *, classes: Sequence[str], first: int = 0) -> Table:
    """Adds the column `mask` to a table of pictures and returns it.

    masks: a folder with one .png a picture, found by the picture's path or file name without its suffix; a picture
    without one gets none. classes: names in the order of the values. first: the value of the first class; what lies
    below it (ADE20K's 0, with first=1) and 255 are no class. Raises ValueError when no picture has a mask, for a value
    beyond the classes, or a mask of another size than its picture.
    """
    table = table if isinstance(table, Table) else Table.open(table)
    masks = Path(masks)
    if not masks.is_dir():
        raise ValueError(f"there is no folder at {masks}")
    if not 1 <= len(classes) <= UNLABELLED:
        raise ValueError(f"{len(classes)} classes; a mask can tell 1 to {UNLABELLED}")
    files = {str(path.relative_to(masks).with_suffix("")): path for path in sorted(masks.rglob("*.png"))}
    by_name = {path.stem: path for path in reversed(files.values())}
    values: list[bytes | None] = []
    for record in table.scan(["id", "width", "height"]):
        for row in record.to_pylist():
            name = Path(row["id"]).with_suffix("")
            path = files.get(str(name)) or by_name.get(name.name)
            values.append(None if path is None else read_mask(path, (row["width"], row["height"]), classes, first))
    if not any(values):
        raise ValueError(f"no picture of {table.uri} has a mask in {masks}; there are {some(list(files)) or 'no .png'}")
    table.add_column("mask", pa.array(values, pa.binary()))
    table.append([], info={"mask_classes": list(classes)})
    return table


def read_mask(path: Path, size: tuple[int, int], classes: Sequence[str], first: int) -> bytes:
    """A mask file in the table's form."""
    opened = decode(path.read_bytes())
    if opened.image is None:
        raise ValueError(f"{path} can't be read as a picture ({opened.status})")
    with Image.open(path) as image:  # palettes keep their numbers, which colours would lose
        found = np.asarray(image if image.mode in ("L", "P") else image.convert("L")).astype(np.int64)
    if (found.shape[1], found.shape[0]) != size:
        raise ValueError(f"{path} has {found.shape[1]} x {found.shape[0]} pixels, its picture {size[0]} x {size[1]}")
    value = np.where((found < first) | (found == UNLABELLED), UNLABELLED, found - first)
    if (beyond := value[(value >= len(classes)) & (value != UNLABELLED)]).size:
        raise ValueError(f"{path} has the value {beyond[0] + first}; {len(classes)} classes from {first} on end at "
                         f"{len(classes) - 1 + first}")  # fmt: skip
    out = io.BytesIO()
    Image.fromarray(value.astype(np.uint8)).save(out, "PNG")
    return out.getvalue()
