"""Pictures with captions by number, from tars and tables of any size: an index of where each lies, and reading there.

In memory are no pictures and no texts: the index is a file (40 bytes a sample of a tar, 12 a row of a table) that
processes map, so they share one copy. It is kept beside the data, and made anew when a file's size or time changed.
"""

from __future__ import annotations

import atexit
import errno
import glob
import json
import os
import re
import tempfile
import threading
import weakref
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from omma.data.ingest import captions_beside
from omma.data.readers import MAX_TEXT, Problems, index_tar, is_packed
from omma.decode import DEFAULT_LIMITS, picture_data
from omma.storage import digest, make_folder, publish, some
from omma.table import Table

IN_TAR = np.dtype([("file", "<u4"), ("picture", "<i8"), ("picture_bytes", "<u4"), ("txt", "<i8"), ("txt_bytes", "<u4"),
                   ("json", "<i8"), ("json_bytes", "<u4")])  # fmt: skip
IN_TABLE = np.dtype([("file", "<u4"), ("row", "<u4"), ("group", "<u4")])
compute: Any = pyarrow.compute  # which makes its functions at run time
FORMAT = "omma-index/1"
HEADER = 512  # bytes before a member's own, which hold its name
TOGETHER = 1 << 16  # parts of a sample that lie so close, in bytes, are read at once
RUN = 128  # samples of a tar that stay together in a shuffle of blocks
OPEN_FILES = 32


@dataclass(frozen=True, slots=True)
class Pair:
    """One picture, encoded, and what is said of it. problem: why it can't be used, "" where it can."""

    id: str
    picture: bytes
    captions: list[str]
    wrong: list[str] = field(default_factory=list)  # captions that are false of the picture
    problem: str = ""


class Pairs:
    """`pairs.read(number)` for 0 <= number < len(pairs); pickles as the place of its index.

    blocks: (B,) the first number of each run of samples that is cheap to read together. in_blocks: reading one sample
    means reading its block. skipped: reason -> number of samples that are not in the index, so read = len + skipped.
    problems: what was met while indexing, in lines for people.
    """

    in_blocks: bool

    def __init__(self, kept: _Kept, blocks: Callable[[np.ndarray], np.ndarray]):
        self.kept = kept
        self.skipped, self.problems = kept.skipped, kept.problems
        self._map()
        self.blocks = blocks(self.index)

    def _map(self) -> None:
        self.index = self.kept.array()
        self.lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if k not in ("index", "lock", "opened", "cached")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        if _Kept.find(self.kept.path, self.kept.dtype) != self.kept:
            raise ValueError(f"{self.kept.path} is another index by now, since the data was changed; samples would "
                             "have other numbers. Start the run again")  # fmt: skip
        self._map()

    def __len__(self) -> int:
        return self.kept.count

    def read(self, number: int) -> Pair:
        raise NotImplementedError

    def block_of(self, numbers: np.ndarray) -> np.ndarray:
        return np.searchsorted(self.blocks, numbers, side="right") - 1


def open_pairs(data: Table | str | Path | Sequence[str | Path], *, where: str | None = None,
               languages: Sequence[str] = (), captions: Sequence[str] = (), wrong: str | None = None,
               cache: Path | None = None) -> TablePairs | ShardPairs:  # fmt: skip
    """The samples of a table, or of WebDataset tars: a folder, "shards-{000..127}.tar", a glob, or a list of these.

    where: an expression over a table's columns. languages: captions of these only (a .txt counts as English). captions:
    keys of the JSON in a tar that hold captions, by default as `omma.ingest` finds them. wrong: a table's column, or a
    key of the JSON, with a list of captions that are false of the picture. cache: folder for the index, by default
    beside the data, and a temporary one where that can't be written. Raises ValueError for what is not there, can't be
    read by number, or has no usable sample.
    """
    if isinstance(data, str | Path) and (Path(data) / "manifest.json").exists():
        data = Table.open(data)
    if isinstance(data, Table):
        return TablePairs(data, where, tuple(languages), wrong, cache)
    if where is not None:
        raise ValueError(f"where={where!r} is over a table's columns, and {data} is tars; make a table that refers to "
                         "them: omma ingest SHARDS TABLE --store reference")  # fmt: skip
    return ShardPairs(shard_files(data), tuple(languages), tuple(captions), wrong, cache)


# ---- tars


def shard_files(data: str | Path | Sequence[str | Path]) -> list[Path]:
    """The tars that a folder, a brace pattern, a glob or a list of these names, in order. ValueError: which are
    missing."""
    found: list[Path] = []
    for entry in [data] if isinstance(data, str | Path) else data:
        if "://" in str(entry) or str(entry).startswith("pipe:"):
            raise ValueError(f"{entry} is no file; copy the shards to a disk, or mount them as a folder")
        names = [name for part in braces(str(entry)) for name in (sorted(glob.glob(part)) if "*" in part else [part])]
        if not names:
            raise ValueError(f"no file fits {entry}")
        if len(names) == 1 and Path(names[0]).is_dir():
            names = sorted(str(path) for path in Path(names[0]).glob("*.tar*") if not path.name.startswith("."))
            if not names:
                raise ValueError(f"{entry} is a folder without tars and without a table; give shards, or a table: "
                                 f"omma ingest {entry} TABLE")  # fmt: skip
        if missing := [name for name in names if not Path(name).is_file()]:
            raise ValueError(f"{len(missing)} of {len(names)} shards of {entry} are not there: {some(missing)}")
        found += map(Path, names)
    if packed := [path for path in found if is_packed(path.name)]:
        raise ValueError(f"{packed[0]} is packed, so no sample of it can be read by itself; unpack it: gunzip "
                         f"{packed[0]}")  # fmt: skip
    if twice := [str(path) for path, n in Counter(found).items() if n > 1]:
        raise ValueError(f"{some(twice)} is given twice")
    return found


def braces(pattern: str) -> list[str]:
    """A pattern with {000..127} or {a,b} written out, as a shell does.

    >>> braces("s-{08..10}.tar")
    ['s-08.tar', 's-09.tar', 's-10.tar']
    """
    found = re.search(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}", pattern)
    if found is None:
        return [pattern]
    first, last, listed = found.groups()
    if listed is None:
        width = len(first) if first.startswith("0") else 0
        options = [f"{i:0{width}d}" for i in range(int(first), int(last) + 1)]
    else:
        options = listed.split(",")
    start, end = pattern[: found.start()], pattern[found.end() :]
    return [whole for option in options for whole in braces(start + option + end)]


@dataclass(frozen=True)
class Stamp:
    """A file as it was when it was indexed."""

    path: Path
    size: int
    time: int  # nanoseconds

    @classmethod
    def of(cls, path: Path) -> Stamp:
        found = path.stat()
        return cls(path, found.st_size, found.st_mtime_ns)


class ShardPairs(Pairs):
    """The samples of WebDataset tars, in the order of their bytes."""

    in_blocks = False

    def __init__(self, files: list[Path], languages: tuple[str, ...] = (), captions: tuple[str, ...] = (),
                 wrong: str | None = None, cache: Path | None = None):  # fmt: skip
        self.files = [Stamp.of(path.absolute()) for path in files]
        self.folder = Path(os.path.commonpath([file.path.parent for file in self.files]))
        self.names = [os.path.relpath(file.path, self.folder) for file in self.files]
        self.languages, self.caption_keys, self.wrong = languages, captions, wrong
        kept = _kept(cache or self.folder / ".omma-index", digest(*(str(file.path) for file in self.files)),
                     {"files": [[str(file.path), file.size, file.time] for file in self.files]}, IN_TAR,
                     lambda: _index_tars(files))  # fmt: skip
        super().__init__(kept, _runs)

    def _map(self) -> None:
        super()._map()
        self.opened: OrderedDict[int, Any] = OrderedDict()
        weakref.finalize(self, _close, self.opened)

    def read(self, number: int) -> Pair:
        """Raises ValueError when the shard is gone, was cut or has changed since it was indexed."""
        file, picture, length, txt, txt_length, meta, meta_length = self.index[number].item()
        spans = [(picture - HEADER, HEADER), (picture, length), (txt, txt_length), (meta, meta_length)]
        first = min(start for start, n in spans if n)
        last = max(start + n for start, n in spans if n)
        if last - first <= length + TOGETHER:
            whole = self._bytes(file, first, last - first)
            parts = [whole[start - first : start - first + n] if n else None for start, n in spans]
        else:
            parts = [self._bytes(file, start, n) if n else None for start, n in spans]
        head, data, txt, json = parts
        said, meta, bad_text = captions_beside(json, txt, self.caption_keys)
        texts = [text for text, language in said if not self.languages or language in self.languages]
        wrong = meta.get(self.wrong) if self.wrong else None
        problem = "bad_text" if bad_text else "" if texts else "no caption"
        return Pair(f"{self.names[file]}/{_key(head or b'', picture)}", data or b"", texts,
                    [text for text in wrong if isinstance(text, str)] if isinstance(wrong, list) else [], problem)

    def _bytes(self, file: int, start: int, length: int) -> bytes:
        path, size = self.files[file].path, self.files[file].size
        try:
            with self.lock:
                handle = self.opened.get(file)
                if handle is None:
                    if (now := Stamp.of(path)) != self.files[file]:
                        raise ValueError(f"shard {path} has changed since it was indexed ({size} bytes then, "
                                         f"{now.size} now); shards must stay as they are while a run reads them: put "
                                         "the old one back, or start the run again")
                    handle = open(path, "rb", buffering=0)  # noqa: SIM115
                    self.opened[file] = handle
                    while len(self.opened) > OPEN_FILES:
                        self.opened.popitem(last=False)[1].close()
                self.opened.move_to_end(file)
                handle.seek(start)
                data = handle.read(length)
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):  # the machine's trouble, not the file's
                raise
            raise ValueError(f"shard {path} can't be read any more ({error.strerror}); put it back and resume, or "
                             "start a run without it") from None
        if len(data) < length:
            raise ValueError(f"shard {path} ends {length - len(data)} bytes early: it was cut since it was indexed; "
                             "put the old one back, or start the run again")  # fmt: skip
        return data


def _close(opened: OrderedDict[int, Any]) -> None:
    for handle in opened.values():
        handle.close()


def _key(head: bytes, at: int) -> str:
    """The name in a member's header without its suffix; with its place where the header has room for a part only."""
    name = head[:100].partition(b"\0")[0]
    if head[257:263] == b"ustar\0" and head[345]:
        name = head[345:500].partition(b"\0")[0] + b"/" + name
    key = name.decode("utf-8", "replace").removeprefix("./")
    return f"{key}@{at}" if len(name) >= 100 else key.rpartition(".")[0]


def _runs(index: np.ndarray) -> np.ndarray:
    """Every RUN-th sample of each file."""
    ends = (np.flatnonzero(np.diff(index["file"])) + 1).tolist()
    return np.concatenate([np.arange(a, b, RUN) for a, b in zip([0, *ends], [*ends, len(index)], strict=True)])


def _index_tars(files: list[Path]) -> tuple[np.ndarray, dict[str, int], list[str]]:
    problems, skipped = Problems(), Counter()
    parts = [np.empty(0, IN_TAR)]
    for number, path in enumerate(files):
        rows = []
        for _, slots in index_tar(path, problems):
            picture, txt, meta = (slots.get(slot, (0, 0)) for slot in ("picture", "txt", "json"))
            reason = ("no picture" if "picture" not in slots else "no caption" if not (txt[1] or meta[1])
                      else "too_many_bytes" if picture[1] > DEFAULT_LIMITS.max_bytes
                      else "bad_text" if max(txt[1], meta[1]) > MAX_TEXT else None)  # fmt: skip
            if reason:
                skipped[reason] += 1
            else:
                rows.append((number, *picture, *txt, *meta))
        part = np.array(rows, IN_TAR)
        parts.append(part[np.argsort(part["picture"], kind="stable")])
    return np.concatenate(parts), dict(skipped), problems.lines()


# ---- tables


class TablePairs(Pairs):
    """The usable rows of a table of pictures, in row order. What was read of a row group stays for its other rows."""

    in_blocks = True

    def __init__(self, table: Table, where: str | None = None, languages: tuple[str, ...] = (),
                 wrong: str | None = None, cache: Path | None = None):  # fmt: skip
        if table.kind != "pictures":
            raise ValueError(f"{table.uri} is a table of {table.kind}; pairs of a picture and a caption come from a "
                             "table of pictures")  # fmt: skip
        if wrong is not None and wrong not in table.columns:
            raise ValueError(f"no column {wrong!r} in {table.uri}; it has {', '.join(table.columns)}")
        self.table, self.languages, self.wrong = table, languages, wrong
        self.keep_blocks = 1
        made_of = [chunk.digest for chunk in table.chunks]
        made_of += [table.column_info(name)["fingerprint"] for name in table.columns] if where else []
        asked = {"where": where, "languages": list(languages)}
        kept = _kept(cache or table.uri / ".omma-index", digest(json.dumps(asked)),
                     asked | {"made_of": digest(*made_of)}, IN_TABLE, lambda: _index_rows(table, where, languages))
        super().__init__(kept, _row_groups)

    def _map(self) -> None:
        super()._map()
        self.cached: OrderedDict[tuple[int, int], tuple[np.ndarray, pa.Table]] = OrderedDict()

    def read(self, number: int) -> Pair:
        """Raises ValueError when a file of the table, or one that it refers to, is gone."""
        place = self.index[number]
        file, row, number = place.item()
        rows, group = self._group(file, number)
        found = group.slice(int(np.searchsorted(rows, row)), 1).to_pylist()[0]
        texts = [c["text"] for c in found["captions"] or [] if not self.languages or c["language"] in self.languages]
        wrong = found[self.wrong] or [] if self.wrong else []
        data = picture_data(found, self.table.uri)
        return Pair(found["id"], data, [text for text in texts if text], [text for text in wrong if text])

    def _group(self, file: int, group: int) -> tuple[np.ndarray, pa.Table]:
        with self.lock:
            if (known := self.cached.get((file, group))) is None:
                chunk = self.table.chunks[file]
                columns = ["id", "bytes", "uri", "offset", "length", "captions", *([self.wrong] if self.wrong else [])]
                try:
                    lengths = self.table.row_groups(chunk)
                    last = int(np.cumsum(lengths)[group])
                    rows = np.arange(last - int(lengths[group]), last)
                    known = rows, self.table.read_rows(chunk, rows, columns)
                except (FileNotFoundError, pa.ArrowInvalid) as error:
                    raise ValueError(f"chunk {chunk.name} of {self.table.uri} can't be read any more "
                                     f"({str(error).splitlines()[0]}); put the table's files back and resume") from None
                self.cached[file, group] = known
                while len(self.cached) > self.keep_blocks:
                    self.cached.popitem(last=False)
            self.cached.move_to_end((file, group))
            return known


def _row_groups(index: np.ndarray) -> np.ndarray:
    changes = np.diff(index["file"]).astype(bool) | np.diff(index["group"]).astype(bool)
    return np.concatenate([np.zeros(min(1, len(index)), np.int64), np.flatnonzero(changes) + 1])


def _index_rows(table: Table, where: str | None, languages: tuple[str, ...]
                ) -> tuple[np.ndarray, dict[str, int], list[str]]:  # fmt: skip
    parts, skipped = [np.empty(0, IN_TABLE)], Counter()
    for number, chunk in enumerate(table.chunks):
        rows = table.matching(chunk, where)
        if not len(rows):
            continue
        found = table.read_rows(chunk, rows, ["status", "captions"])
        status = found["status"].combine_chunks()
        usable = compute.is_in(status, pa.array(["ok", "flat"])).to_numpy(zero_copy_only=False)
        with_text = _with_text(found["captions"].combine_chunks(), languages)
        skipped.update(status.filter(pa.array(~usable)).to_pylist())
        if silent := int((usable & ~with_text).sum()):
            skipped["no caption"] += silent
        kept = rows[usable & with_text]
        part = np.empty(len(kept), IN_TABLE)
        part["file"], part["row"] = number, kept
        part["group"] = np.searchsorted(np.cumsum(table.row_groups(chunk)), kept, side="right")
        parts.append(part)
    return np.concatenate(parts), dict(skipped), []


def _with_text(captions: Any, languages: tuple[str, ...]) -> np.ndarray:
    """(n,) bool: which rows have a caption with letters in it, in one of the languages (any where none are named)."""
    said = compute.list_flatten(captions)
    fits = compute.greater(compute.utf8_length(compute.struct_field(said, "text")), 0)
    if languages:
        fits = compute.and_(fits, compute.is_in(compute.struct_field(said, "language"), pa.array(list(languages))))
    rows = compute.list_parent_indices(captions).to_numpy()
    found = np.zeros(len(captions), bool)
    found[rows[compute.fill_null(fits, False).to_numpy(zero_copy_only=False)]] = True
    return found


# ---- the file of an index: a line of JSON, filled up to 64 bytes, then the array


@dataclass(frozen=True)
class _Kept:
    """An index on the disk: its file, what its header says, and where in it the array begins."""

    path: Path
    dtype: np.dtype
    start: int
    stamp: dict[str, Any]
    count: int
    skipped: dict[str, int]
    problems: list[str]

    @classmethod
    def find(cls, path: Path, dtype: np.dtype) -> _Kept | None:
        """None where there is none, or not all of it."""
        try:
            with open(path, "rb") as file:
                line = file.readline()
                kept = cls(path, dtype, len(line), **json.loads(line))
                whole = file.seek(0, os.SEEK_END) == len(line) + kept.count * dtype.itemsize
        except (OSError, ValueError, TypeError):
            return None
        return kept if whole else None

    def array(self) -> np.ndarray:
        """(count,) of dtype; mapped, not read."""
        if not self.count:
            return np.empty(0, self.dtype)
        return np.memmap(self.path, self.dtype, "r", self.start, (self.count,)).view(np.ndarray)  # ten times as quick


def _kept(folder: Path, name: str, stamp: dict[str, Any], dtype: np.dtype,
          make: Callable[[], tuple[np.ndarray, dict[str, int], list[str]]]) -> _Kept:
    """The index that belongs to stamp: the one in folder, or made anew and put there."""
    path = folder / f"{name}.index"
    stamp = {"format": FORMAT, **stamp}
    found = _Kept.find(path, dtype)
    if found is not None and found.stamp == stamp:
        return found
    index, skipped, problems = make()
    line = json.dumps({"stamp": stamp, "count": len(index), "skipped": skipped, "problems": problems}).encode()
    data = line + b" " * (63 - len(line) % 64) + b"\n" + index.tobytes()
    try:
        make_folder(folder)
        publish(path, data)
    except OSError:  # a folder that may only be read, or is full
        handle, temporary = tempfile.mkstemp(suffix=".index", prefix="omma-")
        path = Path(temporary)
        atexit.register(path.unlink, missing_ok=True)
        with open(handle, "wb") as file:
            file.write(data)
    found = _Kept.find(path, dtype)
    assert found is not None
    assert found.stamp == stamp
    return found
