"""Pictures in Arrow columns: Parquet files, and folders that Hugging Face datasets saved, read without that library.

Only the columns that are needed are read, batch by batch. The column of pictures is the one that looks like it:
struct<bytes, path> or bytes, or text that names files beside the data.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from omma.data.readers import Problems, Sample, Shelf

PICTURE_COLUMNS = ("image", "images", "img", "picture", "bytes", "jpg", "png", "webp", "jpeg", "data")
PATH_COLUMNS = ("image", "file", "file_name", "image_path", "path")
ALWAYS = ("id", "split", "language", "url", "captions", "caption", "text", "conversations", "messages")
BATCH_ROWS = 64


@dataclass(frozen=True)
class Column:
    """Where the pictures are: a column's name, and whether it holds them ("struct", "bytes") or names files
    ("path")."""

    name: str
    form: str


def picture_column(schema: pa.Schema) -> Column | None:
    """The column that holds pictures, by its type first and by its name among several; None when there is none."""
    structs = [field.name for field in schema if pa.types.is_struct(field.type)
               and field.type.get_field_index("bytes") >= 0 and _is_bytes(field.type.field("bytes").type)]
    plain = [field.name for field in schema if _is_bytes(field.type)]
    paths = [field.name for field in schema if _is_text(field.type) and field.name in PATH_COLUMNS]
    for form, names, known in (("struct", structs, PICTURE_COLUMNS), ("bytes", plain, PICTURE_COLUMNS),
                               ("path", paths, PATH_COLUMNS)):
        if names:
            return Column(min(names, key=lambda name: known.index(name) if name in known else len(known)), form)
    return None


def _is_bytes(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


# ---- files

def parquet_files(place: Path) -> list[Path]:
    """The Parquet files of a folder, there or in its data/; or the file itself."""
    if not place.is_dir():
        return [place] if place.suffix == ".parquet" else []
    return sorted(place.glob("*.parquet")) or sorted((place / "data").glob("*.parquet"))


def saved_parts(place: Path) -> list[tuple[Path, str | None]]:
    """(Folder, split) of each data set that was saved at place; none when it is no such folder."""
    splits = _object(place / "dataset_dict.json").get("splits")
    if isinstance(splits, list):
        return [(place / name, name) for name in splits if isinstance(name, str)]
    state = _object(place / "state.json")
    return [(place, state.get("_split"))] if "_data_files" in state else []


def arrow_files(folder: Path) -> list[Path]:
    """The Arrow files of one saved data set, in order."""
    files = _object(folder / "state.json").get("_data_files")
    if not isinstance(files, list) or not all(isinstance(entry, dict) and "filename" in entry for entry in files):
        raise ValueError(f"{folder} has no state.json that lists its Arrow files; save the data set again")
    return [folder / Path(entry["filename"]).name for entry in files]


def _object(path: Path) -> dict[str, Any]:
    """The JSON object in a file, an empty one when there is none."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def schema_of(path: Path) -> pa.Schema:
    """Raises pa.ArrowInvalid or OSError when the file is damaged."""
    if path.suffix == ".parquet":
        return pq.read_schema(path)
    with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as stream:
        return stream.schema


def _parquet_batches(path: Path, columns: list[str]) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(path) as file:
        yield from file.iter_batches(BATCH_ROWS, columns=columns)


def _arrow_batches(path: Path, columns: list[str]) -> Iterator[pa.RecordBatch]:
    with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as stream:
        for batch in stream:
            yield batch.select(columns)


# ---- rows

def read_parquet_rows(place: Path, images: Path | None, wanted: Sequence[str], max_bytes: int,
                      problems: Problems) -> Iterator[Sample]:
    """One sample a row. key: file's name and the row's number, where the row has no id."""
    for path in parquet_files(place):
        shelf = Shelf(images or path.parent)
        yield from _rows(path, path.stem, path.name, 0, None, {}, _parquet_batches, shelf, wanted, max_bytes, problems)


def read_saved(place: Path, images: Path | None, wanted: Sequence[str], max_bytes: int,
               problems: Problems) -> Iterator[Sample]:
    """One sample a row of every split. Numbers of class labels come back as their names."""
    for folder, split in saved_parts(place):
        labels = _label_names(folder)
        stem, number = place.name if folder == place else f"{place.name}-{split}", 0
        for path in arrow_files(folder):
            for sample in _rows(path, stem, place.name, number, split, labels, _arrow_batches,
                                Shelf(images or folder), wanted, max_bytes, problems):
                number += 1
                yield sample


def _label_names(folder: Path) -> dict[str, list[str]]:
    features = _object(folder / "dataset_info.json").get("features") or {}
    return {name: feature["names"] for name, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" and feature.get("names")}


def _rows(path: Path, stem: str, source: str, number: int, split: str | None, labels: dict[str, list[str]],
          batches: Callable[[Path, list[str]], Iterator[pa.RecordBatch]], shelf: Shelf, wanted: Sequence[str],
          max_bytes: int, problems: Problems) -> Iterator[Sample]:
    done = 0
    try:
        schema = schema_of(path)
        column = picture_column(schema)
        if column is None:
            raise ValueError(f"{path} has no column of pictures, it has {', '.join(schema.names)}; a picture is "
                             "struct<bytes, path>, bytes, or a file's name in a column called image or file")
        others = [name for name in dict.fromkeys((*ALWAYS, *wanted)) if name in schema.names and name != column.name]
        for batch in batches(path, [column.name, *others]):
            for i in range(batch.num_rows):
                row: dict[str, Any] = {"split": split}
                bad = False
                for name in others:
                    value, unreadable = _value(batch[name], i)
                    if name in labels and isinstance(value, int) and 0 <= value < len(labels[name]):
                        value = labels[name][value]
                    row[name] = value if value is not None or name != "split" else split
                    bad |= unreadable
                if row.get("conversations") is None and "messages" in row:
                    row["conversations"] = row["messages"]
                key = f"{stem}-{number + done:06d}"
                yield _sample(_value(batch[column.name], i)[0], key, source, row, bad, shelf, max_bytes, problems)
                done += 1
    except (pa.ArrowException, OSError) as error:         # ValueError of ours goes on; ArrowInvalid is one too
        line = next(iter(str(error).splitlines()), type(error).__name__)
        problems.append(f"{path.name} is damaged after {done} rows ({line}): the rows before are kept")


def _value(column: pa.Array, i: int) -> tuple[Any, bool]:
    """The value of one row, and whether it is no text although its type says so."""
    try:
        return column[i].as_py(), False
    except UnicodeDecodeError:
        return None, True


def _sample(picture: Any, key: str, source: str, row: dict[str, Any], bad: bool, shelf: Shelf, max_bytes: int,
            problems: Problems) -> Sample:
    name = picture.get("path") if isinstance(picture, dict) else picture if isinstance(picture, str) else None
    data = picture.get("bytes") if isinstance(picture, dict) else picture if isinstance(picture, bytes) else None
    if data is None and name:
        return shelf.sample(name, key, source, (row,), max_bytes, problems, bad)
    data, length = data or b"", len(data or b"")
    return Sample(key, source, None, 0, length, data if length <= max_bytes else None, listed=(row,), bad_text=bad)
