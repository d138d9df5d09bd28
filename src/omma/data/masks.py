"""A folder of masks beside a table of pictures -> the column `mask`: a class for every pixel.

    add_masks("tables/ade20k", "annotations/training", classes=names, first=1)

A mask is a greyscale PNG of its picture's name. In the table, value k stands for classes[k] and 255 for no class.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from os.path import splitext
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from omma.decode import UNLABELLED, label_map, read_bounded
from omma.jobs import progress_bar
from omma.table import Table, some


def add_masks(table: str | Path | Table, masks: str | Path, *, classes: Sequence[str], first: int = 0,
              progress: bool = False) -> Table:  # fmt: skip
    """Adds the column `mask` to a table of pictures and returns it.

    masks: a folder with one .png a picture, found by the picture's path without its suffix, or by its file name where
    one picture and one mask are left of that name; a picture without one gets none. classes: names in the order of the
    values. first: the value of the first class; what lies below it (ADE20K's 0, with first=1) and 255 are no class.
    Raises ValueError when no picture has a mask, for a value beyond the classes, or a mask of another size than its
    picture.
    """
    table = table if isinstance(table, Table) else Table.open(table)
    masks = Path(masks)
    if not masks.is_dir():
        raise ValueError(f"there is no folder at {masks}")
    if not 1 <= len(classes) <= UNLABELLED:
        raise ValueError(f"{len(classes)} classes; a mask can tell 1 to {UNLABELLED}")
    files = {str(path.relative_to(masks).with_suffix("")): path for path in sorted(masks.rglob("*.png"))}
    named = [splitext(id_)[0] for record in table.scan(["id"]) for id_ in record["id"].to_pylist()]
    lacking = Counter(Path(name).name for name in named if name not in files)
    spare = files.keys() - set(named)
    called = Counter(Path(name).name for name in spare)
    by_name = {Path(name).name: files[name] for name in spare
               if called[Path(name).name] == lacking[Path(name).name] == 1}  # among several it may be another's mask
    values: list[bytes | None] = []
    with progress_bar("masks", "pictures", progress) as advance:
        advance(0, len(named))
        for record in table.scan(["id", "width", "height"]):
            for row in record.to_pylist():
                name = splitext(row["id"])[0]
                path = files.get(name) or by_name.get(Path(name).name)
                values.append(None if path is None else read_mask(path, (row["width"], row["height"]), classes, first))
            advance(len(record), None)
    if not any(values):
        raise ValueError(f"no picture of {table.uri} has a mask in {masks}; there are {some(list(files)) or 'no .png'}")
    table.add_column("mask", pa.array(values, pa.binary()))
    table.append([], info={"mask_classes": list(classes)})
    return table


def read_mask(path: Path, size: tuple[int, int], classes: Sequence[str], first: int) -> bytes:
    """A mask file in the table's form."""
    try:
        found = label_map(read_bounded(path)).astype(np.int64)
    except ValueError as error:
        raise ValueError(f"{path} is no mask ({error}); give a greyscale or palette PNG") from None
    if (found.shape[1], found.shape[0]) != size:
        raise ValueError(f"{path} has {found.shape[1]} x {found.shape[0]} pixels, its picture {size[0]} x {size[1]}")
    value = np.where((found < first) | (found == UNLABELLED), UNLABELLED, found - first)
    if (beyond := value[(value >= len(classes)) & (value != UNLABELLED)]).size:
        raise ValueError(f"{path} has the value {beyond[0] + first}; {len(classes)} classes from {first} on end at "
                         f"{len(classes) - 1 + first}")  # fmt: skip
    out = io.BytesIO()
    Image.fromarray(value.astype(np.uint8)).save(out, "PNG")
    return out.getvalue()
