"""What readers of benchmarks share: what they are asked, the files with their hashes, rows of any file, and what to
count.

A reader is a function of `Asked` that yields rows for the table of items, see `omma.data.benchmarks.write`.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from omma.data.readers import PICTURE_SUFFIXES, read_text

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
YES_NO = ["yes", "no"]
BATCH_ROWS = 32  # of a Parquet file with pictures
UNKNOWN = "another version"  # of a file whose hash is none of those known
PIECE = 1 << 20  # bytes hashed at a time


@dataclass(frozen=True)
class Picture:
    """A picture that the benchmark's file itself holds. name: as it calls it, None where it doesn't."""

    name: str | None
    data: bytes


@dataclass(frozen=True)
class Again:
    """The `Picture` of this name that an earlier row had."""

    name: str


@dataclass(frozen=True)
class Lost:
    """A video that is not there, by the name that the benchmark gives it."""

    name: str


Named = str | Picture | Again | Lost | None  # a file's name, or the picture, or none where there should be one


@dataclass
class Notes:
    """What was met while reading. files: {name: sha256 and the version it is}; problems: {what: [how many, the first]};
    facts: what else the reader found, such as the set of labels."""

    files: dict[str, dict[str, str]] = field(default_factory=dict)
    problems: dict[str, list[Any]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    def note(self, what: str, example: object) -> None:
        """One more row of which `what` is true."""
        self.problems.setdefault(what, [0, str(example)])[0] += 1

    def file(self, path: Path, versions: Mapping[str, str] | None = None) -> str:
        """Hashes a file that is read; returns its version. versions: {sha256 or md5: name}."""
        digests = [hashlib.sha256(), hashlib.md5(usedforsecurity=False)]
        with open(path, "rb") as file:
            while piece := file.read(PIECE):
                for digest in digests:
                    digest.update(piece)
        version = next((versions[d.hexdigest()] for d in digests if versions and d.hexdigest() in versions), UNKNOWN)
        self.files[path.name] = {"sha256": digests[0].hexdigest(), "version": version if versions else ""}
        if versions and version == UNKNOWN:
            self.note("files are none of the versions known", f"{path.name} (sha256 {digests[0].hexdigest()[:12]})")
        return version


@dataclass
class Asked:
    """What a reader is given. source: a file, or a folder as it was downloaded; images: the folder of pictures, found
    by `look_in` where none is given; answers: a second file; labels: which set of them; frames: pictures of a video."""

    source: Path
    images: Path | None = None
    answers: Path | None = None
    labels: str | None = None
    frames: int = 8
    notes: Notes = field(default_factory=Notes)

    def look_in(self, *names: str) -> Path:
        """Sets images to the first of these folders beside the source, where none was given. ValueError without any."""
        base = self.source if self.source.is_dir() else self.source.parent
        if self.images is None:
            self.images = next((base / name for name in names if (base / name).is_dir()), None)
        if self.images is None:
            raise ValueError(f"no folder of pictures in {base}: looked for {', '.join(names)}. Say where: "
                             "images=FOLDER (--images FOLDER)")  # fmt: skip
        return self.images

    def files(self, *patterns: str) -> list[Path]:
        """The source where it is a file, else the files in it that the first of these patterns finds; sorted.

        Raises ValueError when there is none.
        """
        if self.source.is_file():
            return [self.source]
        for pattern in patterns:
            if found := sorted(path for path in self.source.glob(pattern) if path.is_file()):
                return found
        inside = ", ".join(sorted(path.name for path in self.source.iterdir())[:8]) if self.source.is_dir() else "–"
        raise ValueError(f"no {' and no '.join(patterns)} in {self.source} ({inside}); give the file, or the folder as "
                         "it was downloaded")  # fmt: skip


# ---------------------------------------------------------------------------------------------------------- rows
def rows_of(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a .parquet, .tsv, .csv, .json (a list, an object of objects or one a line) or .jsonl file, streamed
    where its form allows that. ValueError for another suffix, and for what is no row, by its number."""
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        yield from parquet_rows(path)
    elif suffix in (".tsv", ".csv"):
        tabs = suffix == ".tsv" or "\t" in _first_line(path)
        yield from separated(path, "\t" if tabs else ",")
    elif suffix in (".json", ".jsonl"):
        for number, row in enumerate(json_list(path), 1):
            if not isinstance(row, dict):
                raise ValueError(f"{path}, entry {number} is no object: {str(row)[:80]}")
            yield row
    else:
        raise ValueError(f"{path} is no .parquet, .tsv, .csv, .json or .jsonl file")


def parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(BATCH_ROWS):
                yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} can't be read: {str(error).splitlines()[0]}. Download it again") from None


def separated(path: Path, delimiter: str) -> Iterator[dict[str, Any]]:
    """Rows of a file with a header, one at a time: fields may be megabytes, as where they hold pictures."""
    before = csv.field_size_limit(sys.maxsize)
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            for row in csv.DictReader(file, delimiter=delimiter, restkey="beyond"):
                if "beyond" in row or None in row.values():
                    raise ValueError(f"{path}: the row {str(next(iter(row.values())))[:40]!r} has another number of "
                                     "fields than the header; download it again")  # fmt: skip
                yield row
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} can't be read as a table in UTF-8 ({error})") from None
    finally:
        csv.field_size_limit(before)


def _first_line(path: Path) -> str:
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        return file.readline(1 << 16)


def json_list(path: Path) -> list[Any]:
    """The JSON of a file: its one object, or the list it is, or one object a line. ValueError names the line."""
    text = read_text(path.read_bytes(), most=None)
    if text is None:
        raise ValueError(f"{path} is neither UTF-8 nor UTF-16 with a byte order mark; save it as UTF-8")
    try:
        whole = json.loads(text)
        return whole if isinstance(whole, list) else [whole]
    except json.JSONDecodeError:
        pass
    found = []
    for number, line in enumerate(text.split("\n"), 1):  # JSON may hold other ends of lines
        if line.strip():
            try:
                found.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}, line {number} is no JSON ({error.msg}): {line[:80]!r}") from None
    return found


def column(row: Mapping[str, Any], path: Path, *names: str) -> Any:
    """The value of the first of these columns that the row has. ValueError names the file and what it has instead."""
    for name in names:
        if name in row:
            return row[name]
    raise ValueError(f"{path} has no column {' or '.join(names)}; it has {', '.join(map(str, row))}. Is it another "
                     "benchmark, or another version of it?")  # fmt: skip


def text_of(value: Any) -> str | None:
    """A cell as text, None where it says nothing: null, "", and the nan that a table of numbers left."""
    if value is None or (isinstance(value, float) and value != value):
        return None
    said = str(value).strip()
    return None if said in ("", "nan", "None") else said


def nested(row: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The object in a cell, an empty one where there is none."""
    found = row.get(name)
    return found if isinstance(found, Mapping) else {}


def embedded(value: Any, name: object = None) -> Named:
    """A cell of a column of pictures: {bytes, path}, bytes, a file's name, or None. name: what to call it."""
    if isinstance(value, Mapping):
        path = value.get("path")
        if value.get("bytes") is not None:
            return Picture(str(name) if name is not None else path, value["bytes"])
        return path
    if isinstance(value, bytes):
        return Picture(None if name is None else str(name), value)
    return value if isinstance(value, str) else None


def first(pictures: Sequence[Named]) -> Named:
    """The picture of a row that has one at most; None, to be counted, where it has none."""
    return pictures[0] if pictures else None


# ---------------------------------------------------------------------------------------------------------- options
def chosen(letter: str | None, options: Sequence[str]) -> str | None:
    """The option that a letter stands for, None where there is no such option."""
    place = LETTERS.find(letter.strip().strip("().").upper()) if letter and letter.strip() else -1
    return options[place] if 0 <= place < len(options) and len((letter or "").strip().strip("().")) == 1 else None


def lettered(row: Mapping[str, Any], first: str = "A") -> list[str]:
    """The options of a row with one column a letter, from `first` on up to the first that is empty."""
    found = []
    for letter in (chr(ord(first) + n) for n in range(26)):
        said = text_of(row.get(letter))
        if said is None:
            break
        found.append(said)
    return found


# ---------------------------------------------------------------------------------------------------------- names
def names_in(folder: Path, fits: Callable[[str], bool] | None = None) -> list[str]:
    """Paths of the pictures below a folder, from there; hidden files are skipped, and links to folders not followed."""
    fits = fits or (lambda name: name.rpartition(".")[2].lower() in PICTURE_SUFFIXES)
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [(Path(place) / name).relative_to(folder).as_posix()
                  for name in sorted(names) if not name.startswith(".") and fits(name)]  # fmt: skip
    return found


def by_name(ids: Sequence[str]) -> dict[str, list[str]]:
    """Path -> the id; where no path is such, path without suffix -> ids; and else file name, with or without it."""
    paths: dict[str, list[str]] = {}
    bare: dict[str, list[str]] = {}
    names: dict[str, list[str]] = {}
    for id_ in ids:
        path, name = os.path.splitext(id_)[0], Path(id_).name
        paths[id_] = [id_]
        bare.setdefault(path, []).append(id_)
        for each in {name, os.path.splitext(name)[0]}:
            names.setdefault(each, []).append(id_)
    return names | bare | paths
