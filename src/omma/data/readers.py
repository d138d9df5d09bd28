"""What lies in a folder or a WebDataset tar: samples of one picture and the texts beside it. Nothing is ever unpacked.

A tar is indexed by its headers, then read in order; members that are links or devices, or whose names are absolute or
climb out by "..", are left alone. What could not be used is told in `problems`, not raised: one bad shard of a thousand
is no reason to stop.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import tarfile
import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

PICTURE_SUFFIXES = {"png", "jpg", "jpeg", "webp", "gif", "bmp", "tif", "tiff", "avif"}
TEXT_SUFFIXES = {"json", "txt"}
LISTINGS = ("captions.csv", "captions.jsonl", "metadata.csv", "metadata.jsonl")
FILE_COLUMNS = ("file", "file_name", "image")
MAX_TEXT = 1 << 20                                        # bytes; a longer text beside a picture is no caption


@dataclass(frozen=True)
class Sample:
    """One picture as found. data is None when the file is larger than the reader's limit or can't be read."""

    key: str
    source: str
    path: Path
    offset: int
    length: int
    data: bytes | None
    json: bytes | None = None
    txt: bytes | None = None
    listed: tuple[dict[str, Any], ...] = ()


Problems = list[str]                                      # what was left out, and why: lines for people


def read_folder(folder: Path, max_bytes: int, problems: Problems) -> Iterator[Sample]:
    """The pictures under folder, by path. key: the path from folder with its suffix; hidden files are skipped."""
    listed: dict[str, list[dict[str, Any]]] = {}          # path -> rows of a listing in its folder or one above
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        here, present = Path(place), set(names)
        for name in LISTINGS:
            if name in present:
                _read_listing(here / name, listed, problems)
        for name in sorted(names):
            stem, _, suffix = name.rpartition(".")
            if not stem or name.startswith(".") or suffix.lower() not in PICTURE_SUFFIXES:
                continue
            texts = {kind: _read_file(here / f"{stem}.{kind}", MAX_TEXT + 1, problems)[0]
                     for kind in TEXT_SUFFIXES if f"{stem}.{kind}" in present}
            path = here / name
            data, size = _read_file(path, max_bytes, problems)
            key = _readable(path.relative_to(folder).as_posix())
            rows = tuple(listed.pop(os.path.normpath(path), ()))
            yield Sample(key, folder.name, path, 0, size, data, texts.get("json"), texts.get("txt"), rows)
    if listed:
        problems.append(f"{len(listed)} files of a listing are not there, such as {next(iter(listed))}")


def _read_file(path: Path, most: int, problems: Problems) -> tuple[bytes | None, int]:
    """(bytes, size); bytes are None for a picture above most, and a text is cut there."""
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            return (None if size > most and path.suffix[1:] not in TEXT_SUFFIXES else file.read(most)), size
    except OSError as error:
        problems.append(f"{path} can't be read: {error.strerror}")
        return None, 0


def _read_listing(path: Path, listed: dict[str, list[dict[str, Any]]], problems: Problems) -> None:
    text = read_text(path.read_bytes(), most=None)
    if text is None:
        raise ValueError(f"{path} is neither UTF-8 nor UTF-16 with a byte order mark; save it as UTF-8")
    if path.suffix == ".csv":
        reader = csv.DictReader(io.StringIO(text, newline=""))
        rows: list[Any] = list(reader)
        found = list(reader.fieldnames or ())
        if not any(name in found for name in FILE_COLUMNS):
            raise ValueError(f"{path} has the columns {', '.join(found)}; one must be {' or '.join(FILE_COLUMNS)}")
    else:
        rows = [read_json(line) for line in text.splitlines() if line.strip()]
    wrong = 0
    for row in rows:
        name = next((row[column] for column in FILE_COLUMNS if isinstance(row, dict) and row.get(column)), None)
        if isinstance(name, str):
            listed.setdefault(os.path.normpath(path.parent / name), []).append(row)
        else:
            wrong += 1
    if wrong:
        problems.append(f"{path}: {wrong} of {len(rows)} lines name no file under {' or '.join(FILE_COLUMNS)}")


@dataclass
class _Group:
    """The members of one sample: slot -> (offset, length). Two pictures, or two of a text, never share one."""

    key: str
    last: int = 0                                         # number of its last member
    slots: dict[str, tuple[int, int]] = field(default_factory=dict)


def read_tar(path: Path, max_bytes: int, problems: Problems) -> Iterator[Sample]:
    """The samples of a WebDataset tar (also gzipped): members of one name up to the last dot, one of them a picture.

    A key that comes twice gives two samples. Of a tar that is cut off or damaged, the complete samples are given.
    """
    packed = path.suffix in (".gz", ".tgz")
    with gzip.open(path) if packed else open(path, "rb") as file:
        groups = _index(file, None if packed else path.stat().st_size, path, problems)
        alone = [group.key for group in groups if "picture" not in group.slots]
        if alone:
            problems.append(f"{path.name}: {len(alone)} samples have no picture, such as {alone[0]}")
        groups = [group for group in groups if "picture" in group.slots]
        for group in sorted(groups, key=lambda group: group.slots["picture"][0]):
            found: dict[str, bytes | None] = {}
            for slot, (offset, length) in sorted(group.slots.items(), key=lambda item: item[1]):
                file.seek(offset)
                found[slot] = file.read(min(length, MAX_TEXT + 1)) if slot != "picture" else (
                    file.read(length) if length <= max_bytes else None)
            offset, length = group.slots["picture"]
            yield Sample(group.key, path.name, path, offset, length, found["picture"], found.get("json"),
                         found.get("txt"))


def _index(file: Any, total: int | None, path: Path, problems: Problems) -> list[_Group]:
    """The groups of a tar from its headers. total: bytes of the file; None when it is packed and can't be known."""
    groups: dict[str, list[_Group]] = {}
    count = skipped = 0
    broken = ""
    group = None
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                count += 1
                group = None
                name = _member_name(member)
                if name is None:
                    skipped += not member.isdir()
                    continue
                key, _, suffix = name.rpartition(".")
                suffix = suffix.lower()
                slot = "picture" if suffix in PICTURE_SUFFIXES else suffix
                if not key or (slot != "picture" and slot not in TEXT_SUFFIXES):
                    continue
                of_key = groups.setdefault(key, [])
                if not of_key or slot in of_key[-1].slots:
                    of_key.append(_Group(key))
                group = of_key[-1]
                group.slots[slot], group.last = (member.offset_data, member.size), count
                if total is not None and member.offset_data + member.size > total:
                    del group.slots[slot]                 # its bytes end with the file
            file.seek(tar.offset)                         # a reader stops alike at the end mark, a cut and garbage
            if file.read(512) != bytes(512):
                broken = "its end mark is missing"
    except (tarfile.TarError, EOFError, OSError, ValueError, zlib.error) as error:
        broken = str(error)
        if total is None and group is not None:  # what is packed can't be measured: the last member may be short
            group.slots.clear()
    samples = [group for of_key in groups.values() for group in of_key]
    if broken:
        samples = _without_cut_off(samples)
        problems.append(f"{path.name} is cut off or damaged after {count} members ({broken}): "
                        f"{sum('picture' in group.slots for group in samples)} complete samples are kept")
    if skipped:
        problems.append(f"{path.name}: {skipped} links, devices and members with unsafe names are left out")
    return samples


def _without_cut_off(samples: list[_Group]) -> list[_Group]:
    """The last sample of a broken tar is kept when it has all that most others have: what it lost left no trace."""
    if not samples:
        return samples
    last = max(samples, key=lambda group: group.last)
    others = Counter(frozenset(group.slots) for group in samples if group is not last)
    usual = others.most_common(1)[0][0] if others else frozenset(("picture", "json"))
    whole = usual <= last.slots.keys() or (not others and {"picture", "txt"} <= last.slots.keys())
    return samples if whole else [group for group in samples if group is not last]


def _member_name(member: tarfile.TarInfo) -> str | None:
    """The name without a leading "./", None for what is no plain file, is hidden or leads out of the tar."""
    name = PurePosixPath(member.name)
    unsafe = name.is_absolute() or ".." in name.parts or "\\" in member.name or "\0" in member.name
    if not member.isreg() or member.issparse() or unsafe or not name.name or name.name.startswith("."):
        return None
    return _readable(str(name))


def _readable(name: str) -> str:
    """A file name may hold any bytes; a table's text is Unicode."""
    return unicodedata.normalize("NFC", os.fsencode(name).decode("utf-8", "replace"))


def read_text(raw: bytes, most: int | None = MAX_TEXT) -> str | None:
    """UTF-8, or UTF-16 with a byte order mark -> text in normal form C. None for anything else, and above most
    bytes."""
    if most is not None and len(raw) > most:
        return None
    try:
        text = raw.decode("utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else unicodedata.normalize("NFC", text)


def read_json(text: str) -> Any:
    """The JSON value, None where there is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
