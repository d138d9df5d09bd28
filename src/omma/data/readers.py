"""What lies in a folder or a WebDataset tar: samples of one picture and the texts beside it. Nothing is ever unpacked.

A tar is indexed by its headers, then read in order; members that are links or devices, or whose names are absolute or
climb out by "..", are left alone. A tar in a tar is read where it lies. What could not be used is told in `problems`,
not raised: one bad shard of a thousand is no reason to stop.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import gzip
import io
import json
import os
import stat
import tarfile
import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PICTURE_SUFFIXES = {"png", "jpg", "jpeg", "webp", "gif", "bmp", "tif", "tiff", "avif"}
TEXT_SUFFIXES = {"json", "txt"}
SHARD_SUFFIXES = (".tar", ".tar.gz", ".tgz")
PACKED_TAR = 1 << 30                                      # bytes of a tar in a packed tar: it is held in memory
DEPTH = 3                                                 # tars in tars in tars: deeper is an accident or an attack
LISTINGS = ("captions.csv", "captions.jsonl", "metadata.csv", "metadata.jsonl")
FILE_COLUMNS = ("file", "file_name", "image")
MAX_TEXT = 1 << 20                                        # bytes; a longer text beside a picture is no caption


@dataclass(frozen=True)
class Sample:
    """One picture as found. data is None when the file is larger than the reader's limit or can't be read.

    path, offset, length: where the bytes lie; path is None where nothing can point to them, as in a Parquet page.
    listed: what a listing says of it, a row a caption. bad_text: a text of it was no text.
    """

    key: str
    source: str
    path: Path | None
    offset: int
    length: int
    data: bytes | None
    json: bytes | None = None
    txt: bytes | None = None
    listed: tuple[dict[str, Any], ...] = ()
    bad_text: bool = False


class Problems(list[str]):
    """What went wrong while reading, in lines for people. left_out: reason -> number of samples that make no row."""

    def __init__(self) -> None:
        super().__init__()
        self.left_out: Counter[str] = Counter()
        self._often: dict[str, tuple[int, str]] = {}

    def note(self, what: str, example: str) -> None:
        """One of what may be thousands: `lines` has their number and the first as an example."""
        number, first = self._often.get(what, (0, example))
        self._often[what] = number + 1, first

    def lines(self) -> list[str]:
        found = [*self, *(f"{number} {what}, such as {first}" for what, (number, first) in self._often.items())]
        return [line.encode("utf-8", "backslashreplace").decode() for line in found]

    def leave_out(self, reason: str, number: int, line: str) -> None:
        if number:
            self.left_out[reason] += number
            self.append(line)


def read_folder(folder: Path, max_bytes: int, problems: Problems) -> Iterator[Sample]:
    """The pictures under folder, by path. key: the path from folder with its suffix; hidden files are skipped."""
    listed: dict[str, list[dict[str, Any]]] = {}          # path -> rows of a listing in its folder or one above
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in folders:
            if os.path.islink(os.path.join(place, name)):  # it may go back up, or anywhere on this machine
                problems.note("folders are links and are not followed (give them as sources of their own)",
                              os.path.join(place, name))
        here, present = Path(place), set(names)
        for name in LISTINGS:
            if name in present and is_file(here / name):
                read_listing(here / name, listed, problems)
        for name in sorted(names):
            stem, _, suffix = name.rpartition(".")
            if not stem or name.startswith(".") or suffix.lower() not in PICTURE_SUFFIXES:
                continue
            texts = {kind: read_file(here / f"{stem}.{kind}", MAX_TEXT + 1, problems)[0]
                     for kind in TEXT_SUFFIXES if f"{stem}.{kind}" in present}
            path = here / name
            data, size = read_file(path, max_bytes, problems)
            key = _readable(path.relative_to(folder).as_posix())
            rows = tuple(listed.pop(os.path.normpath(path), ()))
            yield Sample(key, folder.name, path, 0, size, data, texts.get("json"), texts.get("txt"), rows)
    if listed:
        problems.append(f"{len(listed)} files of a listing are not there, such as {next(iter(listed))}")


def is_file(path: Path) -> bool:
    """As path.is_file(), which raises for a name that is too long to be one."""
    try:
        return path.is_file()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return False
        raise


def read_file(path: Path, most: int, problems: Problems) -> tuple[bytes | None, int]:
    """(bytes, size); bytes are None for a picture above most, and a text is cut there. A pipe is no file."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):               # opening a pipe waits for whoever fills it
            problems.append(f"{path} can't be read: it is no file")
            return None, 0
        size = found.st_size
        with open(path, "rb") as file:
            return (None if size > most and path.suffix[1:] not in TEXT_SUFFIXES else file.read(most)), size
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):  # the machine's trouble, not the file's
            raise
        problems.append(f"{path} can't be read: {error.strerror}")
        return None, 0


@dataclass(frozen=True)
class Shelf:
    """Where the pictures lie that a listing names: below root, and nothing else on this machine."""

    root: Path

    def sample(self, name: Any, key: str, source: str, rows: tuple[dict[str, Any], ...], max_bytes: int,
               problems: Problems, bad_text: bool = False) -> Sample:
        """The picture called name with what is listed of it. One that isn't there is a sample of no bytes, and told."""
        path = self.root / name if isinstance(name, str) and name and "\0" not in name else None
        if path is not None and self.root.resolve() not in path.resolve().parents:
            problems.note(f"files lie outside {self.root} and are not read", str(name))
            path = None
        if path is None or not is_file(path):
            if path is not None:
                problems.note(f"files are not there in {self.root}", str(name))
            return Sample(key, source, path, 0, 0, b"", listed=rows, bad_text=bad_text)
        data, size = read_file(path, max_bytes, problems)
        return Sample(key, source, path, 0, size, data, listed=rows, bad_text=bad_text)


def read_listing(path: Path, listed: dict[str, list[dict[str, Any]]], problems: Problems) -> None:
    """Adds the rows of a captions.csv, metadata.jsonl or the like to listed, by the paths they name. ValueError for a
    file that is none."""
    text = read_text(path.read_bytes(), most=None)
    if text is None:
        raise ValueError(f"{path} is neither UTF-8 nor UTF-16 with a byte order mark; save it as UTF-8")
    if path.suffix == ".csv":
        found, rows = csv_rows(path, text)
        if not any(name in found for name in FILE_COLUMNS):
            raise ValueError(f"{path} has the columns {', '.join(found)}; one must be {' or '.join(FILE_COLUMNS)}")
    else:
        rows = [read_json(line) for line in text.split("\n") if line.strip()]  # JSON may hold other ends of lines
    wrong = 0
    for row in rows:
        name = next((row[column] for column in FILE_COLUMNS if isinstance(row, dict) and row.get(column)), None)
        if isinstance(name, str):
            listed.setdefault(os.path.normpath(path.parent / name), []).append(row)
        else:
            wrong += 1
    if wrong:
        problems.append(f"{path}: {wrong} of {len(rows)} lines name no file under {' or '.join(FILE_COLUMNS)}")


def csv_rows(path: Path, text: str, delimiter: str = ",") -> tuple[list[str], list[Any]]:
    """The header and the rows of a .csv; what a row has beyond the header is under "beyond". ValueError for no CSV."""
    before = csv.field_size_limit(max(len(text), 1))      # a field is never longer; the limit is the whole process's
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, restkey="beyond")
        rows = list(reader)
    except csv.Error as error:
        raise ValueError(f"{path} is no CSV ({error}); save it again, with quotes round fields of many lines") from None
    finally:
        csv.field_size_limit(before)
    return list(reader.fieldnames or ()), rows


@dataclass(slots=True)
class _Group:
    """The members of one sample: slot -> (offset, length). Two pictures, or two of a text, never share one."""

    key: str
    last: int = 0                                         # number of its last member
    slots: dict[str, tuple[int, int]] = field(default_factory=dict)


def read_tar(path: Path, max_bytes: int, problems: Problems) -> Iterator[Sample]:
    """The samples of a WebDataset tar (also gzipped): members of one name up to the last dot, one of them a picture.

    Tars in the tar follow, each as if it lay beside the others. A key that comes twice gives two samples. Of a tar that
    is cut off or damaged, the complete samples are given.
    """
    with _opened(path.name, open(path, "rb")) as file:
        yield from _read_tar(file, path.name, None if is_packed(path.name) else path, 0, max_bytes, problems, 1)


def index_tar(path: Path, problems: Problems) -> list[tuple[str, dict[str, tuple[int, int]]]]:
    """Where the samples of a tar lie, by its headers alone: (key, {"picture" | "json" | "txt": (offset, length)}).

    What is cut off or can't be used is told in problems, as by `read_tar`; tars in the tar are not read.
    """
    with open(path, "rb") as file:
        total = file.seek(0, io.SEEK_END)
        file.seek(0)
        groups, shards = _index(file, total, path.name, problems)
    if shards:
        problems.append(f"{path.name}: {len(shards)} tars lie in it and are not read; take them out")
    return [(group.key, group.slots) for group in groups]


def is_packed(name: str) -> bool:
    return name.endswith((".gz", ".tgz"))


@contextlib.contextmanager
def _opened(name: str, file: Any) -> Iterator[Any]:
    with file:
        if not is_packed(name):
            yield file
        else:
            with gzip.open(file) as unpacked:
                yield unpacked


def _read_tar(file: Any, name: str, path: Path | None, start: int, max_bytes: int, problems: Problems,
              depth: int) -> Iterator[Sample]:
    """path, start: the file that holds the tar's bytes as they are and where in it they begin, None in packed ones."""
    total = file.seek(0, io.SEEK_END) if path is not None else None
    file.seek(0)
    groups, shards = _index(file, total, name, problems)
    alone = [group.key for group in groups if "picture" not in group.slots]
    problems.leave_out("no picture", len(alone),
                       f"{name}: {len(alone)} samples have no picture, such as {next(iter(alone), '')}")
    groups = [group for group in groups if "picture" in group.slots]
    for group in sorted(groups, key=lambda group: group.slots["picture"][0]):
        found: dict[str, bytes | None] = {}
        for slot, (offset, length) in sorted(group.slots.items(), key=lambda item: item[1]):
            file.seek(offset)
            found[slot] = file.read(min(length, MAX_TEXT + 1)) if slot != "picture" else (
                file.read(length) if length <= max_bytes else None)
        offset, length = group.slots["picture"]
        yield Sample(group.key, name, path, start + offset, length, found["picture"], found.get("json"),
                     found.get("txt"))
    if shards and depth == DEPTH:
        problems.append(f"{name}: {len(shards)} tars lie more than {DEPTH} deep and are not read")
        return
    for shard, (offset, length) in shards.items():
        inner = shard.rpartition("/")[2]
        whole = path is not None and not is_packed(inner)
        if path is None:                                  # going back in a packed file means unpacking it once more
            if length > PACKED_TAR:
                problems.append(f"{name}: {inner} has {length} bytes and lies packed in another tar, where "
                                f"{PACKED_TAR} are read; unpack the outer one first")
                continue
            file.seek(offset)
            window: Any = io.BytesIO(file.read(length))
        else:
            window = io.BufferedReader(_Window(file, offset, length))
        with _opened(inner, window) as tar:
            yield from _read_tar(tar, inner, path if whole else None, start + offset if whole else 0, max_bytes,
                                 problems, depth + 1)


class _Window(io.RawIOBase):
    """length bytes of a file from start, as a file of its own; nothing is copied."""

    def __init__(self, file: Any, start: int, length: int):
        self._file, self._start, self._length, self._at = file, start, length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._length}[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        self._file.seek(self._start + self._at)
        data = self._file.read(max(0, min(len(buffer), self._length - self._at)))
        buffer[:len(data)] = data
        self._at += len(data)
        return len(data)


class _Header(tarfile.TarInfo):
    """What is read of a plain file's header is its name, size and checksum; all else is as tarfile reads it.

    Owners, times and devices, which nobody asks for here, take most of the time that tarfile needs.
    """

    __slots__ = ()

    @classmethod
    def frombuf(cls, buf: bytes, encoding: str, errors: str) -> tarfile.TarInfo:
        plain = len(buf) == tarfile.BLOCKSIZE and buf[156] in b"0\0" and not buf[345] and not (
            buf[100:156] + buf[329:345]).translate(None, b"01234567 \0")
        try:
            size, checksum = int(buf[124:136].rstrip(b" \0"), 8), int(buf[148:156].rstrip(b" \0"), 8)
        except ValueError:
            plain = False
        name = buf[:100].partition(b"\0")[0]
        total = sum(buf.translate(None, b"\0")) - sum(buf[148:156]) + 256       # most of a header is zeros
        if not plain or name.endswith(b"/") or total != checksum:
            return super().frombuf(buf, encoding, errors)
        header = cls(name.decode(encoding, errors))
        header.size = size
        return header


def _index(file: Any, total: int | None, name: str,
           problems: Problems) -> tuple[list[_Group], dict[str, tuple[int, int]]]:
    """The groups of a tar and the tars in it, from its headers. total: bytes of the file; None when it is packed and
    can't be known."""
    samples: list[_Group] = []
    latest: dict[str, _Group] = {}                        # of the samples of a key
    shards: dict[str, tuple[int, int]] = {}
    count = skipped = 0
    broken = ""
    group = None
    try:
        with tarfile.open(fileobj=file, mode="r:", tarinfo=_Header) as tar:
            while (member := tar.next()) is not None:
                # else the tar keeps the header of each of millions
                tar.members.clear()  # pyright: ignore[reportAttributeAccessIssue]
                if member.size < 0:                       # it goes back, to read the same headers for ever
                    raise tarfile.ReadError("a member of negative size")
                count += 1
                group = None
                plain = _member_name(member)
                if plain is None:
                    skipped += not member.isdir()
                    continue
                if plain.endswith(SHARD_SUFFIXES):
                    ends = member.size if total is None else min(member.size, total - member.offset_data)
                    shards[plain] = member.offset_data, ends
                    continue
                key, _, suffix = plain.rpartition(".")
                suffix = suffix.lower()
                slot = "picture" if suffix in PICTURE_SUFFIXES else suffix
                if not key or (slot != "picture" and slot not in TEXT_SUFFIXES):
                    continue
                group = latest.get(key)
                if group is None or slot in group.slots:
                    group = latest[key] = _Group(key)
                    samples.append(group)
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
    if broken:
        samples = _without_cut_off(samples)
        problems.append(f"{name} is cut off or damaged after {count} members ({broken}): "
                        f"{sum('picture' in group.slots for group in samples)} complete samples are kept")
    if skipped:
        problems.append(f"{name}: {skipped} links, devices and members with unsafe names are left out")
    return samples, shards


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
    """The name without a leading "./", None for what is no plain file, is hidden or climbs out of the tar."""
    name = member.name
    parts = [part for part in name.split("/") if part not in ("", ".")]
    unsafe = name.startswith("/") or ".." in parts or "\\" in name or "\0" in name
    if not member.isreg() or member.issparse() or unsafe or not parts or parts[-1].startswith("."):
        return None
    return _readable("/".join(parts))


def _readable(name: str) -> str:
    """A file name may hold any bytes; a table's text is Unicode."""
    return name if name.isascii() else unicodedata.normalize("NFC", os.fsencode(name).decode("utf-8", "replace"))


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
