"""What a table is made of: files that are there whole or not at all, the manifest, Parquet chunks, rows made to fit a
schema, and the index that finds a row by its id."""

from __future__ import annotations

import base64
import contextlib
import errno
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

try:
    import fcntl
except ImportError:  # Windows: writers there must take turns by themselves
    fcntl = None

# columns of few distinct values: a dictionary makes them small, elsewhere it costs time
REPEATING = ["media", "source", "split", "status", "task", "pattern", "answer", "captions.list.element.language"]
FORMAT = "omma-table/1"
DEFAULTS = {"media": "image", "status": "ok"}
CHUNK_BYTES = 256 << 20  # a chunk closes early at this size: it must fit in memory
GROUP_BYTES = 4 << 20  # Parquet row groups of about this size: what `take` reads for a row
LEFT_OVER = 3600  # seconds; an unfinished file this old belongs to a dead process
WHAT_TO_DO = {
    errno.ENOSPC: "make room", errno.EACCES: "write where you may", errno.EROFS: "write where that is possible",
    errno.EMFILE: "close files or raise the limit (ulimit -n)", errno.EFBIG: "raise the limit (ulimit -f)"}


@contextlib.contextmanager
def appearing(out: Path) -> Iterator[Path]:
    """Yields an empty folder to fill, which becomes `out` at the end, at once; after an error nothing is left of it.

    What a killed process left half filled is thrown away. Raises ValueError when there is something at out, or while
    another process is filling it; that lock is on the folder itself and dies with its process.
    """
    refuse_filled(out)
    part = out.with_name(f".{out.name}.part")
    make_folder(part)
    handle = os.open(part, os.O_RDONLY) if fcntl is not None else None
    try:
        if fcntl is not None and handle is not None:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not os.path.samestat(os.fstat(handle), part.stat()):
                    raise BlockingIOError  # it was renamed between the two lines by the one who filled it
            except (BlockingIOError, FileNotFoundError):
                raise ValueError(f"another process is filling {out}; wait until it has ended") from None
        try:
            refuse_filled(out)  # by the one who was here until now
            for left in part.iterdir():
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            yield part
            if out.exists():
                out.rmdir()
            os.replace(part, out)
            sync_folder(out.parent)  # else a power cut could take what was reported as done
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
    finally:
        if handle is not None:
            os.close(handle)


def refuse_filled(out: Path) -> None:
    """ValueError when there is a file at out, or a folder that is not empty."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"there is something at {out} already; choose another place, or remove it first")


def digest(*parts: bytes | str | pa.Buffer) -> str:
    """32 hex digits of blake2b over the parts, each with its length."""
    state = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = memoryview(part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part)
        state.update(data.nbytes.to_bytes(8, "little"))
        state.update(data)
    return state.hexdigest()


def publish(path: Path, data: bytes | pa.Buffer) -> None:
    """Write data to path so that a reader sees all of it or none of it, also after a crash.

    Raises OSError, with path and what to do, when the disk is full, say; path is then as it was.
    """
    tmp = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    with writing_to(path), _folder(path.parent) as names:  # opened first: after the rename nothing may run out
        try:
            with open(tmp, "wb") as file:
                file.write(memoryview(data))
                file.flush()
                os.fsync(file.fileno())
            os.replace(tmp, path)
        except BaseException:
            with contextlib.suppress(OSError):
                tmp.unlink(missing_ok=True)
            raise
        names.sync()


@contextlib.contextmanager
def writing_to(path: Path) -> Iterator[None]:
    """An OSError inside is raised again with path and the next step; a write that fails by itself names neither."""
    try:
        yield
    except OSError as error:
        todo = WHAT_TO_DO.get(error.errno or 0, "mend that")
        raise OSError(error.errno, f"{error.strerror or error}; {todo} and run it again: what was written before is "
                                   "kept", str(path)) from error


class _Names:
    """The names in a folder, which are durable only when synced: a rename alone may be lost with the power."""

    def __init__(self, handle: int | None):
        self.handle = handle

    def sync(self) -> None:
        if self.handle is not None:
            os.fsync(self.handle)


@contextlib.contextmanager
def _folder(folder: Path) -> Iterator[_Names]:
    if os.name == "nt":                                   # a folder can't be opened there
        yield _Names(None)
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        yield _Names(handle)
    finally:
        os.close(handle)


def sync_folder(folder: Path) -> None:
    """Make the names in folder durable."""
    with writing_to(folder), _folder(folder) as names:
        names.sync()


def make_folder(folder: Path) -> None:
    """Make folder and those above it that are missing, durably. Raises OSError with its name and what to do."""
    missing = [place for place in (folder, *folder.parents) if not place.is_dir()]
    if missing:
        with writing_to(folder):
            folder.mkdir(parents=True, exist_ok=True)
        for place in missing:
            sync_folder(place.parent)


def sweep(folder: Path) -> None:
    """Remove what killed processes left unfinished in folder; what is being written now is younger than LEFT_OVER."""
    for tmp in folder.glob(".*.tmp"):
        try:
            if time.time() - tmp.stat().st_mtime > LEFT_OVER:
                tmp.unlink()
        except FileNotFoundError:                         # another process swept it, or finished it
            continue


def publish_manifest(uri: Path, manifest: dict[str, Any]) -> None:
    """Make manifest the state of the table at uri; it carries its own checksum."""
    whole = {"format": FORMAT, **manifest}
    checksum = digest(json.dumps(whole, sort_keys=True))
    publish(uri / "manifest.json", json.dumps({**whole, "checksum": checksum}, indent=1).encode())


def load_manifest(uri: Path) -> dict[str, Any]:
    """The state last published at uri. Raises ValueError: what is there instead, or that it is damaged."""
    path = uri / "manifest.json"
    try:
        manifest = json.loads(path.read_bytes())
        checksum = manifest.pop("checksum")
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"no table at {uri}: {_whats_at(uri)}. Make one: omma ingest SOURCE {uri}") from None
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}); take it from a copy, or make the table again") from None
    if checksum != digest(json.dumps(manifest, sort_keys=True)):
        raise ValueError(f"{path} is damaged (its checksum is wrong); take it from a copy, or make the table again")
    if manifest.get("format") != FORMAT:
        raise ValueError(f"{path} has format {manifest.get('format')!r}; this version reads {FORMAT!r}")
    return manifest


def _whats_at(uri: Path) -> str:
    if not uri.exists():
        return "there is nothing"
    if not uri.is_dir():
        return "there is a file, and a table is a folder"
    names = sorted(path.name for path in uri.iterdir())
    tables = [str(uri / name) for name in names if (uri / name / "manifest.json").exists()]
    if tables:
        return f"the folder holds tables, open one of them: {', '.join(tables)}"
    return f"the folder has no manifest.json, it holds {some(names) or 'nothing'}"


def some(names: Sequence[Any], most: int = 10) -> str:
    """The first names, and how many more there are: for messages."""
    shown = ", ".join(str(name) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def pack(schema: pa.Schema) -> str:
    return base64.b64encode(schema.serialize().to_pybytes()).decode()


def unpack(text: str) -> pa.Schema:
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text)))


def to_parquet(rows: pa.Table) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    group = max(16, GROUP_BYTES * rows.num_rows // max(rows.nbytes, 1))
    repeating = [name for name in REPEATING if name.split(".")[0] in rows.column_names]
    dictionary: Any = repeating or False
    pq.write_table(rows, sink, row_group_size=group, compression="zstd", compression_level=1, use_dictionary=dictionary)
    return sink.getvalue()


def read_parquet(path: Path, columns: list[str] | None, rows: np.ndarray | None) -> pa.Table:
    """Columns (all if None) and rows (ascending positions; all if None) of a file; other row groups are not read."""
    with pq.ParquetFile(path) as file:
        if rows is None:
            found = file.read(columns, use_threads=False)
        else:
            sizes = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
            group = np.searchsorted(np.cumsum(sizes), rows, side="right")
            groups = np.unique(group)
            unread = np.array(sizes)
            unread[groups] = 0
            skipped = np.cumsum(unread) - unread          # rows of unread groups before each group
            found = file.read_row_groups(groups.tolist(), columns, use_threads=False)
            found = found.take(pa.array(rows - skipped[group]))
    return found if columns is None else found.select(columns)


def ipc(array: pa.ChunkedArray) -> pa.Buffer:
    """The values as bytes that don't depend on how the array was cut or sliced."""
    sink = pa.BufferOutputStream()
    table = pa.table({"values": array.combine_chunks()})
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def as_array(values: Any, type: pa.DataType | None) -> pa.ChunkedArray:
    """A list, an Arrow array or a numpy array, (rows,) or (rows, E), as Arrow values. ValueError if it is none."""
    try:
        if isinstance(values, np.ndarray) and values.ndim == 2:
            flat = pa.array(np.ascontiguousarray(values).ravel())
            array: Any = pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
        else:
            array = values if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(values, type)
        chunked = array if isinstance(array, pa.ChunkedArray) else pa.chunked_array([array])
        return chunked if type is None or chunked.type == type else chunked.cast(type)
    except (pa.ArrowException, TypeError) as error:
        raise ValueError(f"the values do not make a column of type {type or 'one kind'}: {error}") from None


def blocks(rows: pa.Table | Iterable[Mapping[str, Any]], schema: pa.Schema, chunk_rows: int,
            uri: Path) -> Iterator[pa.Table]:
    """rows cut into chunks of the table's schema: at most chunk_rows rows, and about CHUNK_BYTES of pictures."""
    if isinstance(rows, pa.Table | pa.RecordBatch):
        whole: Any = rows if isinstance(rows, pa.Table) else pa.Table.from_batches([rows])
        step = max(1, min(chunk_rows, CHUNK_BYTES * whole.num_rows // max(whole.nbytes, 1)))
        for start in range(0, whole.num_rows, step):
            yield _fit(whole.slice(start, step), schema, uri)
        return
    block: list[Mapping[str, Any]] = []
    size = 0
    for row in rows:
        if not isinstance(row, Mapping):
            raise ValueError(f"a row is a dict, and this is {row!r}; give a list of dicts or an Arrow table")
        block.append(row)
        size += len(data) if isinstance(data := row.get("bytes"), bytes) else 0
        if len(block) == chunk_rows or size >= CHUNK_BYTES:
            yield _from_dicts(block, schema, uri)
            block, size = [], 0
    if block:
        yield _from_dicts(block, schema, uri)


def _from_dicts(block: list[Mapping[str, Any]], schema: pa.Schema, uri: Path) -> pa.Table:
    names = dict.fromkeys(name for row in block for name in row)
    for name in names:
        if name not in schema.names:
            raise _foreign(name, schema, uri)
    present = pa.schema([field for field in schema if field.name in names or field.name == "id"])
    arrays = []
    for field in present:
        try:
            arrays.append(pa.array([row.get(field.name) for row in block], field.type))
        except (pa.ArrowException, TypeError, UnicodeEncodeError) as error:
            raise ValueError(f"column {field.name!r} of {uri} is {field.type}, a value does not fit: {error}") from None
    return _fit(pa.table(arrays, schema=present), schema, uri)


def _fit(rows: pa.Table, schema: pa.Schema, uri: Path) -> pa.Table:
    for name in rows.column_names:
        if name not in schema.names:
            raise _foreign(name, schema, uri)
    columns = []
    for field in schema:
        if field.name not in rows.column_names:
            default = DEFAULTS.get(field.name)
            filled = pa.nulls(rows.num_rows, field.type) if default is None else pa.repeat(default, rows.num_rows)
            columns.append(filled)
            continue
        try:
            column = rows[field.name].cast(field.type)
        except pa.ArrowException as error:
            kind = rows[field.name].type
            raise ValueError(f"column {field.name!r} of {uri} is {field.type}, the rows have {kind}: {error}") from None
        columns.append(pc.fill_null(column, DEFAULTS[field.name]) if field.name in DEFAULTS else column)
    return pa.table(columns, schema=schema).combine_chunks()


def _foreign(name: str, schema: pa.Schema, uri: Path) -> ValueError:
    return ValueError(f"no column {name!r} in {uri}; its rows have {', '.join(schema.names)}. Name further columns "
                      "when the table is made, Table.create(uri, extra=pa.schema([...])), or use table.add_column")


class RowIndex:
    """id -> row number, in 16 bytes and one copy of the id a row: sorted hashes, checked against the ids themselves."""

    def __init__(self) -> None:
        self.chunks = 0                                   # how many chunks of the table are in here
        self.ids = pa.chunked_array([], pa.string())
        self.keys = np.empty(0, np.int64)
        self.rows = np.empty(0, np.int64)

    def extend(self, ids: pa.ChunkedArray) -> None:
        """Add the ids of one more chunk, which follow those already there."""
        keys = np.concatenate([self.keys, np.fromiter(map(hash, ids.to_pylist()), np.int64, len(ids))])
        rows = np.concatenate([self.rows, np.arange(len(self.ids), len(self.ids) + len(ids))])
        order = np.argsort(keys, kind="stable")           # a sorted run and a short one: merged in about linear time
        self.keys, self.rows = keys[order], rows[order]
        self.ids = pa.chunked_array([*self.ids.chunks, *ids.chunks], pa.string())
        self.chunks += 1

    def find(self, ids: Sequence[str]) -> np.ndarray:
        """(n,) row numbers, -1 for an id that is not there."""
        found = np.full(len(ids), -1, np.int64)
        keys = np.fromiter(map(hash, ids), np.int64, len(ids))
        first = np.searchsorted(self.keys, keys)
        number = np.searchsorted(self.keys, keys, side="right") - first
        which = np.repeat(np.arange(len(ids)), number)    # two ids of one hash give two candidates each
        if len(which):
            nth = np.arange(len(which)) - np.repeat(np.cumsum(number) - number, number)
            candidates = self.rows[np.repeat(first, number) + nth]
            names = self.ids.take(pa.array(candidates)).to_pylist()
            for i, row, name in zip(which.tolist(), candidates.tolist(), names, strict=True):
                if name == ids[i]:
                    found[i] = row
        return found
