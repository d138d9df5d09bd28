"""Table: the record everything else reads and writes. Parquet chunks, one sidecar file per added column and chunk, a manifest.

    uri/manifest.json                       what there is; written last, so a reader sees the old state or the new one
    uri/base/<chunk>.parquet                rows, never changed once published
    uri/cols/<column>@<fingerprint>/<chunk>.parquet     one added column for one chunk

Rows are never deleted or reordered; ops add columns, and what to keep is an expression over columns (`select`). A sidecar's path
carries the fingerprint of what made it, and its metadata the digest of the rows it was made from, so a stale result can't mix with
a fresh one. Every file is published by tmp + fsync + rename + fsync of the folder; a process killed at any moment loses at most
what it had not committed.

A column covers the chunks that were there when it was committed; rows appended later have null in it until its op runs again.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from omma.where import Predicate, no_column, parse

try:
    import fcntl
except ImportError:                                       # Windows: one writer at a time is then up to the caller
    fcntl = None

CAPTION = pa.struct([("text", pa.string()), ("language", pa.string())])
PICTURES = pa.schema([
    ("id", pa.string()), ("media", pa.string()), ("bytes", pa.binary()), ("uri", pa.string()), ("offset", pa.int64()),
    ("length", pa.int64()), ("captions", pa.list_(CAPTION)), ("source", pa.string()), ("split", pa.string()),
    ("width", pa.int32()), ("height", pa.int32()), ("status", pa.string()),
])
ITEMS = pa.schema([
    ("id", pa.string()), ("task", pa.string()), ("pattern", pa.string()), ("pictures", pa.list_(pa.string())),
    ("prompt", pa.string()), ("options", pa.list_(pa.string())), ("answer", pa.string()), ("group", pa.string()),
    ("split", pa.string()),
])
KINDS = {"pictures": PICTURES, "items": ITEMS}
DEFAULTS = {"media": "image", "status": "ok"}
REPEATING = ["media", "source", "split", "status", "task", "pattern", "answer", "captions.list.element.language"]
FORMAT = "omma-table/1"
CHUNK_BYTES = 256 << 20                                   # a chunk closes early at this size: one batch must fit in memory
GROUP_BYTES = 4 << 20                                     # Parquet row groups of about this size: what `take` reads for one row


@dataclass(frozen=True)
class Chunk:
    """A run of rows that is written, computed and read as one; digest is of its base file."""

    name: str
    rows: int
    digest: str


def digest(*parts: bytes | str) -> str:
    """32 hex digits of blake2b over the parts, each with its length."""
    state = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        state.update(len(data).to_bytes(8, "little"))
        state.update(data)
    return state.hexdigest()


def publish(path: Path, data: bytes | memoryview | pa.Buffer) -> None:
    """Write data to path so that every reader sees all of it or none of it, also after a crash."""
    tmp = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        with open(tmp, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(tmp, path)
    except BaseException:
        tmp.unlink(missing_ok=True)
        raise
    _fsync_folder(path.parent)


def _fsync_folder(folder: Path) -> None:
    if os.name == "nt":                                   # a folder can't be opened there
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _make_folder(folder: Path) -> None:
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        _fsync_folder(folder.parent)


def _pack(schema: pa.Schema) -> str:
    return base64.b64encode(schema.serialize().to_pybytes()).decode()


def _unpack(text: str) -> pa.Schema:
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text)))


def _parquet(rows: pa.Table) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    group = min(rows.num_rows, max(16, GROUP_BYTES * rows.num_rows // max(rows.nbytes, 1)))
    repeating = [name for name in REPEATING if name.split(".")[0] in rows.column_names]
    pq.write_table(rows, sink, row_group_size=max(group, 1), compression="zstd", compression_level=1,
                   use_dictionary=repeating or False)
    return sink.getvalue()


def _read_parquet(path: Path, columns: list[str] | None, rows: np.ndarray | None) -> pa.Table:
    """The columns (all if None) of the rows (positions, ascending; all if None); only row groups that hold them are read."""
    with pq.ParquetFile(path) as file:
        if rows is None:
            found = file.read(columns, use_threads=False)
        else:
            sizes = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
            ends = np.cumsum(sizes)
            groups = np.unique(np.searchsorted(ends, rows, side="right"))
            shift = np.zeros(len(sizes), np.int64)        # how many rows of unread groups lie before each group
            read = np.zeros(len(sizes), bool)
            read[groups] = True
            shift[1:] = np.cumsum(np.where(read, 0, sizes))[:-1]
            found = file.read_row_groups(groups.tolist(), columns, use_threads=False)
            found = found.take(pa.array(rows - shift[np.searchsorted(ends, rows, side="right")]))
    return found if columns is None else found.select(columns)


class _Rows:
    """id -> row number, in about 16 bytes and one copy of the id a row: sorted hashes, checked against the ids themselves."""

    def __init__(self) -> None:
        self.chunks = 0                                   # how many chunks of the table are in here
        self.ids = pa.chunked_array([], pa.string())
        self.keys = np.empty(0, np.int64)
        self.rows = np.empty(0, np.int64)

    def extend(self, ids: pa.ChunkedArray) -> None:
        keys = np.fromiter(map(hash, ids.to_pylist()), np.int64, len(ids))
        rows = np.arange(len(self.ids), len(self.ids) + len(ids))
        order = np.argsort(keys)
        self.ids = pa.chunked_array([*self.ids.chunks, *ids.chunks], pa.string())
        keys, rows = np.concatenate([self.keys, keys[order]]), np.concatenate([self.rows, rows[order]])
        order = np.argsort(keys, kind="stable")           # two sorted runs: merged in linear time
        self.keys, self.rows = keys[order], rows[order]

    def find(self, ids: Sequence[str]) -> np.ndarray:
        """(n,) row numbers, -1 for an id that is not there."""
        found = np.full(len(ids), -1, np.int64)
        keys = np.fromiter(map(hash, ids), np.int64, len(ids))
        first, last = np.searchsorted(self.keys, keys), np.searchsorted(self.keys, keys, side="right")
        which = np.repeat(np.arange(len(ids)), last - first)             # equal hashes of unequal ids give several candidates
        if len(which):
            place = np.concatenate([np.arange(a, b) for a, b in zip(first, last, strict=True) if b > a])
            candidates = self.rows[place]
            names = self.ids.take(pa.array(candidates)).to_pylist()
            for i, row, name in zip(which, candidates, names, strict=True):
                if name == ids[i]:
                    found[i] = row
        return found


class Table:
    """Rows on disk with added columns. Made by `create`, found by `open`; see the module's page for the layout."""

    def __init__(self, uri: str | Path, manifest: dict[str, Any]):
        self.uri = Path(uri)
        self._use(manifest)
        self._rows = _Rows()

    def __getstate__(self) -> dict[str, Any]:             # a worker process works on the very snapshot it was handed
        return {"uri": self.uri, "manifest": self._manifest}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["uri"], state["manifest"])

    def __repr__(self) -> str:
        return f"Table({str(self.uri)!r}, kind={self.kind!r}, {self.num_rows} rows, columns: {', '.join(self.columns)})"

    # ---- making and opening -------------------------------------------------------------------------------------------

    @classmethod
    def create(cls, uri: str | Path, kind: str = "pictures", extra: pa.Schema | None = None, chunk_rows: int = 1000,
               info: dict[str, Any] | None = None) -> Table:
        """An empty table at uri. extra: further base columns; info: anything JSON can hold, kept in `table.info`.

        Raises ValueError when a table is there already, for an unknown kind, or an extra column that bears a base column's name.
        """
        uri = Path(uri)
        if kind not in KINDS:
            raise ValueError(f"kind={kind!r} is no kind of table; there are {', '.join(KINDS)}")
        if chunk_rows < 1:
            raise ValueError(f"chunk_rows={chunk_rows}; a chunk holds at least 1 row")
        if (uri / "manifest.json").exists():
            raise ValueError(f"there is a table at {uri} already; open it with Table.open({str(uri)!r}), or choose another place")
        if uri.exists() and not uri.is_dir():
            raise ValueError(f"{uri} is a file; a table is a folder, choose another place")
        schema = KINDS[kind]
        for field in extra or ():
            _check_name(field.name)
            if field.name in schema.names:
                raise ValueError(f"extra column {field.name!r} is there already; a {kind} table has {', '.join(schema.names)}")
            schema = schema.append(field)
        _make_folder(uri)
        _make_folder(uri / "base")
        table = cls(uri, {"format": FORMAT, "kind": kind, "chunk_rows": chunk_rows, "schema": _pack(schema), "chunks": [],
                          "columns": {}, "info": info or {}})
        with table._commit():
            pass
        return table

    @classmethod
    def open(cls, uri: str | Path) -> Table:
        """The table at uri, as last committed. Raises ValueError that says what is there instead, or that it is damaged."""
        return cls(uri, _load(Path(uri)))

    def refresh(self) -> Table:
        """Look again: take over what other processes have committed since this table was opened. Returns the table itself."""
        self._use(_load(self.uri))
        return self

    def _use(self, manifest: dict[str, Any]) -> None:
        self._manifest = manifest
        self._base = _unpack(manifest["schema"])
        self._chunks = [Chunk(*entry) for entry in manifest["chunks"]]
        self._added = {name: _unpack(entry["arrow"]).field(0) for name, entry in manifest["columns"].items()}

    @contextlib.contextmanager
    def _commit(self) -> Iterator[dict[str, Any]]:
        """Hold the writers' lock and hand out the manifest as it is on disk now; what the caller changed is then published."""
        with open(self.uri / ".lock", "a") as lock:       # the lock dies with its process: nothing to clean up after kill -9
            if fcntl is not None:
                fcntl.flock(lock, fcntl.LOCK_EX)
            fresh = not (self.uri / "manifest.json").exists()
            manifest = self._manifest if fresh else _load(self.uri)
            if not fresh:
                self._use(manifest)
            manifest = json.loads(json.dumps(manifest))
            yield manifest
            body = json.dumps(manifest, sort_keys=True)
            manifest_text = json.dumps({**manifest, "checksum": digest(body)}, sort_keys=True, indent=1)
            publish(self.uri / "manifest.json", manifest_text.encode())
            self._use(manifest)

    # ---- what there is ------------------------------------------------------------------------------------------------

    @property
    def kind(self) -> str:
        return self._manifest["kind"]

    @property
    def info(self) -> dict[str, Any]:
        """What the table's maker noted down: a copy."""
        return json.loads(json.dumps(self._manifest["info"]))

    @property
    def chunks(self) -> list[Chunk]:
        return list(self._chunks)

    @property
    def schema(self) -> pa.Schema:
        return pa.schema([*self._base, *self._added.values()])

    @property
    def columns(self) -> list[str]:
        return [*self._base.names, *self._added]

    @property
    def num_rows(self) -> int:
        return sum(chunk.rows for chunk in self._chunks)

    def __len__(self) -> int:
        return self.num_rows

    def column_info(self, name: str) -> dict[str, Any]:
        """How a column came about: fingerprint, op, params, type, created (Unix seconds), rows covered, and what its maker added.

        A base column has fingerprint "base". Raises ValueError for a column that isn't there.
        """
        if name in self._base.names:
            return {"fingerprint": "base", "op": None, "params": {}, "type": str(self._base.field(name).type),
                    "created": None, "rows": self.num_rows}
        if name not in self._added:
            raise no_column(name, self.columns, self.uri)
        entry = self._manifest["columns"][name]
        rows = sum(chunk.rows for chunk in self._chunks[: entry["chunks"]])
        return {**entry["info"], "fingerprint": entry["fingerprint"], "op": entry["info"].get("op"),
                "params": entry["info"].get("params", {}), "type": str(self._added[name].type), "created": entry["created"],
                "rows": rows}

    # ---- writing ------------------------------------------------------------------------------------------------------

    def append(self, rows: pa.Table | Iterable[Mapping[str, Any]], info: dict[str, Any] | None = None) -> int:
        """Add rows at the end and return how many; all of them become visible at once. Missing columns are null.

        rows may be a generator: one chunk at a time is in memory. Every call starts a new chunk, so append many rows at a time.
        info, if given, is merged into `table.info` in the same commit. Raises ValueError for an unknown column, a missing id, an id
        given twice or there already, or a value that does not fit its column; the table is then as it was.
        """
        added = 0
        with self._commit() as manifest:
            index = self._index()
            for block in _blocks(rows, self._base, self._manifest["chunk_rows"], self.uri):
                ids = block["id"].to_pylist()
                self._check_ids(ids, index)
                name, data = f"{len(manifest['chunks']):06d}", _parquet(block)
                publish(self.uri / "base" / f"{name}.parquet", data)
                manifest["chunks"].append([name, block.num_rows, digest(data)])
                index.extend(block["id"])
                index.chunks += 1
                added += block.num_rows
            manifest["info"].update(info or {})
            self._rows = index
        return added

    def _check_ids(self, ids: list[str | None], index: _Rows) -> None:
        nameless = [i for i, name in enumerate(ids) if not name]
        if nameless:
            raise ValueError(f"{len(nameless)} rows have no id, the first at position {nameless[0]}; give every row an id")
        seen: set[str] = set()
        twice = [name for name in ids if name in seen or seen.add(name)]
        names: list[str] = [name for name in ids if name]
        twice += [name for name, row in zip(names, index.find(names), strict=True) if row >= 0]
        if twice:
            raise ValueError(f"{len(twice)} duplicate ids in {self.uri}: {_some(twice)}. An id names one row; "
                             "give the new rows other ids, or leave out those that are there")

    def add_column(self, name: str, values: Any, *, type: pa.DataType | None = None, fingerprint: str | None = None,
                   info: dict[str, Any] | None = None) -> None:
        """Add column name, or replace an added column of that name.

        values: one value a row, in row order (list, Arrow array, or numpy (rows,) or (rows, E)); or {id: value}, the other rows null;
        or a function from a RecordBatch of all columns to an array. type: Arrow type, inferred if None. fingerprint: what the values
        depend on; equal fingerprints promise equal values. By default it is a hash of the values. info: kept in `column_info`.
        All values are held in memory; `omma.jobs.run` computes a column chunk by chunk, and goes on where it was stopped.
        """
        _check_name(name)
        if name in self._base.names:
            raise ValueError(f"{name!r} is a base column of {self.uri}, and base columns never change; choose another name")
        array = self._aligned(values, type)
        if len(array) != self.num_rows:
            raise ValueError(f"{len(array)} values for the {self.num_rows} rows of {self.uri}; give one a row, or {{id: value}}")
        parts, start = [], 0
        for chunk in self._chunks:
            parts.append(array.slice(start, chunk.rows))
            start += chunk.rows
        if fingerprint is None:
            fingerprint = digest(str(array.type), *(_ipc(part) for part in parts))
        for chunk, part in zip(self._chunks, parts, strict=True):
            self.write_sidecar(name, fingerprint, chunk, part)
        behind = self.commit_column(name, fingerprint, array.type, info=info, covers=len(self._chunks))
        assert not behind, behind

    def _aligned(self, values: Any, type: pa.DataType | None) -> pa.ChunkedArray:
        if callable(values):
            pieces = [_as_array(values(batch), type) for batch in self.scan()]
            kind = type or (pieces[0].type if pieces else pa.null())
            return pa.chunked_array([chunk for piece in pieces for chunk in piece.chunks], kind)
        if isinstance(values, Mapping):
            rows = self._index().find(list(values))
            missing = [name for name, row in zip(values, rows, strict=True) if row < 0]
            if missing:
                raise ValueError(f"{len(missing)} ids of the values are not in {self.uri}: {_some(missing)}")
            aligned: list[Any] = [None] * self.num_rows
            for row, value in zip(rows, values.values(), strict=True):
                aligned[row] = value
            return _as_array(aligned, type)
        return _as_array(values, type)

    # ---- one column for one chunk: what a job writes ------------------------------------------------------------------

    def sidecar_path(self, name: str, fingerprint: str, chunk: Chunk) -> Path:
        return self.uri / "cols" / f"{quote(name, safe='')}@{fingerprint}" / f"{chunk.name}.parquet"

    def input_key(self, chunk: Chunk, needs: Sequence[str]) -> str:
        """What a result for chunk is made from: its base rows, and whether each needed column has values for it yet."""
        covered = [f"{name}:{self._covers(name, chunk)}" for name in needs if name not in self._base.names]
        return digest(chunk.digest, *covered)

    def _covers(self, name: str, chunk: Chunk) -> bool:
        return int(chunk.name) < self._manifest["columns"][name]["chunks"]

    def write_sidecar(self, name: str, fingerprint: str, chunk: Chunk, values: pa.Array | pa.ChunkedArray,
                      needs: Sequence[str] = (), note: dict[str, Any] | None = None) -> None:
        """Publish one chunk of a column; it is not visible before `commit_column`. note: kept in the file, see `sidecar_note`."""
        assert len(values) == chunk.rows, (len(values), chunk)
        path = self.sidecar_path(name, fingerprint, chunk)
        _make_folder(path.parent)
        metadata = {"inputs": self.input_key(chunk, needs), "note": json.dumps(note or {})}
        schema = pa.schema([pa.field(name, values.type)], metadata=metadata)
        array = values if isinstance(values, pa.ChunkedArray) else pa.chunked_array([values])
        publish(path, _parquet(pa.Table.from_arrays([array], schema=schema)))

    def sidecar_note(self, name: str, fingerprint: str, chunk: Chunk, needs: Sequence[str] = ()) -> dict[str, Any] | None:
        """The note of a chunk's result, None when there is none or it was made from other rows."""
        try:
            metadata = pq.read_schema(self.sidecar_path(name, fingerprint, chunk)).metadata or {}
        except (FileNotFoundError, pa.ArrowInvalid):      # absent, or damaged on the disk: to be computed
            return None
        if metadata.get(b"inputs", b"").decode() != self.input_key(chunk, needs):
            return None
        return json.loads(metadata[b"note"])

    def commit_column(self, name: str, fingerprint: str, type: pa.DataType, *, needs: Sequence[str] = (),
                      info: dict[str, Any] | None = None, covers: int | None = None) -> list[Chunk]:
        """Make a column visible when every chunk has its result; else change nothing and return the chunks without one.

        covers: commit for the first so many chunks only, when others appended rows meanwhile that the values don't reach.
        """
        with self._commit() as manifest:
            reach = self._chunks[:covers]
            behind = [chunk for chunk in reach if self.sidecar_note(name, fingerprint, chunk, needs) is None]
            if not behind:
                manifest["columns"][name] = {
                    "fingerprint": fingerprint, "arrow": _pack(pa.schema([pa.field(name, type)])), "chunks": len(reach),
                    "created": round(time.time(), 3), "info": info or {}}
        return behind

    # ---- reading ------------------------------------------------------------------------------------------------------

    def scan(self, columns: Sequence[str] | None = None, where: str | pc.Expression | Predicate | None = None,
             batch_rows: int | None = None) -> Iterator[pa.RecordBatch]:
        """Batches of rows, in row order; a batch lies within one chunk, holds at most batch_rows rows and is never empty.

        columns: names in the order wanted, all if None. where: see `omma.where`. The columns of where are read first, and the others
        only where a row is kept. Raises ValueError for a column that isn't there.
        """
        wanted = self._wanted(columns)
        keep = self._predicate(where)
        return self._scan(wanted, keep, batch_rows)

    def _scan(self, wanted: list[str], keep: Predicate | None, batch_rows: int | None) -> Iterator[pa.RecordBatch]:
        for chunk in self._chunks:
            found = self._kept(chunk, wanted, keep)
            if found is None:
                continue
            for batch in found.combine_chunks().to_batches(max_chunksize=batch_rows):
                if batch.num_rows:
                    yield batch

    def _kept(self, chunk: Chunk, wanted: list[str], keep: Predicate | None) -> pa.Table | None:
        if keep is None:
            return self._read(chunk, wanted, None)
        tested = self._read(chunk, list(keep.columns), None)
        number = "row"
        while number in tested.column_names:
            number += "_"
        kept = tested.append_column(number, pa.array(np.arange(chunk.rows))).filter(keep.expression)
        if kept.num_rows == 0:
            return None
        rows = np.sort(kept[number].to_numpy())
        if len(rows) == chunk.rows:
            return self._read(chunk, wanted, None)
        rest = [name for name in wanted if name not in keep.columns]
        found = {name: column for name, column in zip(rest, self._read(chunk, rest, rows).columns, strict=True)} if rest else {}
        tested = tested.take(pa.array(rows))
        return pa.table({name: tested[name] if name in keep.columns else found[name] for name in wanted},
                        schema=self._schema_of(wanted))

    def _read(self, chunk: Chunk, wanted: list[str], rows: np.ndarray | None) -> pa.Table:
        base = [name for name in wanted if name in self._base.names]
        found: dict[str, pa.ChunkedArray] = {}
        if base:
            part = _read_parquet(self.uri / "base" / f"{chunk.name}.parquet", base, rows)
            found.update(zip(base, part.columns, strict=True))
        for name in wanted:
            if name in self._added:
                if self._covers(name, chunk):
                    path = self.sidecar_path(name, self._manifest["columns"][name]["fingerprint"], chunk)
                    found[name] = _read_parquet(path, None, rows).column(0)
                else:
                    number = chunk.rows if rows is None else len(rows)
                    found[name] = pa.chunked_array([pa.nulls(number, self._added[name].type)])
        return pa.table([found[name] for name in wanted], schema=self._schema_of(wanted))

    def read(self, columns: Sequence[str] | None = None, where: str | pc.Expression | Predicate | None = None) -> pa.Table:
        """What `scan` gives, as one Arrow table in memory."""
        return pa.Table.from_batches(self.scan(columns, where), self._schema_of(self._wanted(columns)))

    def take(self, ids: Sequence[str], columns: Sequence[str] | None = None) -> pa.Table:
        """The rows with these ids, in this order (an id may come twice); only the row groups that hold them are read.

        The first call reads the id column of the whole table. Raises ValueError that lists the ids that are not there.
        """
        ids, wanted = list(ids), self._wanted(columns)
        numbers = self._index().find(ids)
        if (numbers < 0).any():
            missing = [name for name, row in zip(ids, numbers, strict=True) if row < 0]
            raise ValueError(f"{len(missing)} of {len(ids)} ids are not in {self.uri}: {_some(missing)}. Its ids look like: "
                             f"{_some(self._index().ids.slice(0, 3).to_pylist())}")
        if not ids:
            return self._schema_of(wanted).empty_table()
        unique, back = np.unique(numbers, return_inverse=True)
        ends = np.cumsum([chunk.rows for chunk in self._chunks])
        home = np.searchsorted(ends, unique, side="right")
        parts = [self._read(self._chunks[i], wanted, unique[home == i] - (ends[i] - self._chunks[i].rows))
                 for i in np.unique(home)]
        return pa.concat_tables(parts).take(pa.array(back))

    def select(self, where: str | pc.Expression) -> View:
        """The rows where the expression holds, as a view: nothing is copied, and another threshold costs nothing."""
        keep = self._predicate(where)
        assert keep is not None
        return View(self, keep)

    def _index(self) -> _Rows:
        for chunk in self._chunks[self._rows.chunks:]:
            self._rows.extend(self._read(chunk, ["id"], None)["id"])
            self._rows.chunks += 1
        return self._rows

    def _wanted(self, columns: Sequence[str] | None) -> list[str]:
        if columns is None:
            return self.columns
        if isinstance(columns, str):
            raise ValueError(f"columns={columns!r} is one string; give a list of names: [{columns!r}]")
        for name in columns:
            if name not in self._base.names and name not in self._added:
                raise no_column(name, self.columns, self.uri)
        return list(dict.fromkeys(columns))

    def _predicate(self, where: str | pc.Expression | Predicate | None) -> Predicate | None:
        return where if where is None or isinstance(where, Predicate) else parse(where, self.schema, self.uri)

    def _schema_of(self, columns: list[str]) -> pa.Schema:
        schema = self.schema
        return pa.schema([schema.field(name) for name in columns])


class View:
    """The rows of a table for which a predicate holds; it reads like a table, and `where` says what it keeps."""

    def __init__(self, table: Table, keep: Predicate):
        self.table, self._keep = table, keep
        self._count: tuple[int, int] | None = None

    def __repr__(self) -> str:
        return f"View({str(self.table.uri)!r}, where={self.where!r})"

    @property
    def where(self) -> str:
        return self._keep.text

    @property
    def uri(self) -> Path:
        return self.table.uri

    @property
    def kind(self) -> str:
        return self.table.kind

    @property
    def columns(self) -> list[str]:
        return self.table.columns

    @property
    def schema(self) -> pa.Schema:
        return self.table.schema

    @property
    def num_rows(self) -> int:
        """How many rows it keeps: read once from the columns of the predicate."""
        if self._count is None or self._count[0] != self.table.num_rows:
            columns = list(self._keep.columns[:1]) or ["id"]
            self._count = self.table.num_rows, sum(batch.num_rows for batch in self.table.scan(columns, self._keep))
        return self._count[1]

    def __len__(self) -> int:
        return self.num_rows

    def _and(self, where: str | pc.Expression | None) -> Predicate:
        return self._keep if where is None else self._keep & parse(where, self.schema, self.uri)

    def scan(self, columns: Sequence[str] | None = None, where: str | pc.Expression | None = None,
             batch_rows: int | None = None) -> Iterator[pa.RecordBatch]:
        return self.table.scan(columns, self._and(where), batch_rows)

    def read(self, columns: Sequence[str] | None = None, where: str | pc.Expression | None = None) -> pa.Table:
        return self.table.read(columns, self._and(where))

    def take(self, ids: Sequence[str], columns: Sequence[str] | None = None) -> pa.Table:
        """As `Table.take`; an id whose row is not in the view counts as missing."""
        ids = list(ids)
        tested = self.table.take(ids, ["id", *self._keep.columns])
        kept = set(tested.filter(self._keep.expression)["id"].to_pylist())
        missing = [name for name in ids if name not in kept]
        if missing:
            raise ValueError(f"{len(missing)} of {len(ids)} ids are in {self.uri} but not where {self.where}: {_some(missing)}")
        return self.table.take(ids, columns)

    def select(self, where: str | pc.Expression) -> View:
        return View(self.table, self._and(where))


def _load(uri: Path) -> dict[str, Any]:
    path = uri / "manifest.json"
    try:
        manifest = json.loads(path.read_bytes())
        checksum = manifest.pop("checksum")
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"no table at {uri}: {_whats_at(uri)}. Make one: omma ingest FOLDER_OR_TAR --out {uri}") from None
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}); restore the file from a copy, or make the table again") from None
    if manifest.get("format") != FORMAT:
        raise ValueError(f"{path} has format {manifest.get('format')!r}; this version reads {FORMAT!r}")
    if checksum != digest(json.dumps(manifest, sort_keys=True)):
        raise ValueError(f"{path} is damaged (its checksum does not fit); restore the file from a copy, or make the table again")
    return manifest


def _whats_at(uri: Path) -> str:
    if not uri.exists():
        return "there is nothing"
    if not uri.is_dir():
        return "there is a file, and a table is a folder"
    names = sorted(path.name for path in uri.iterdir())
    tables = [name for name in names if (uri / name / "manifest.json").exists()]
    if tables:
        return f"the folder holds tables, open one of them: {', '.join(str(uri / name) for name in tables)}"
    return f"the folder has no manifest.json, it holds {_some(names) or 'nothing'}"


def _some(names: Sequence[Any], most: int = 10) -> str:
    shown = ", ".join(str(name) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def _check_name(name: str) -> None:
    if not isinstance(name, str) or not name.strip() or len(name) > 100 or not name.isprintable():
        raise ValueError(f"{name!r} cannot name a column; use 1 to 100 printable characters, such as 'clip.score'")


def _ipc(array: pa.ChunkedArray) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    table = pa.table({"values": array.combine_chunks()})
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def _as_array(values: Any, type: pa.DataType | None) -> pa.ChunkedArray:
    try:
        if isinstance(values, np.ndarray) and values.ndim == 2:
            flat = pa.array(np.ascontiguousarray(values).ravel())
            values = pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
        elif not isinstance(values, pa.Array | pa.ChunkedArray):
            values = pa.array(values, type)
        array = values if isinstance(values, pa.ChunkedArray) else pa.chunked_array([values])
        return array if type is None or array.type == type else array.cast(type)
    except (pa.ArrowException, TypeError) as error:
        raise ValueError(f"the values do not make a column of type {type or 'one kind'}: {error}") from None


def _blocks(rows: pa.Table | Iterable[Mapping[str, Any]], schema: pa.Schema, chunk_rows: int, uri: Path) -> Iterator[pa.Table]:
    """rows cut into chunks of the table's schema: at most chunk_rows rows, and about CHUNK_BYTES of pictures."""
    if isinstance(rows, pa.RecordBatch):
        rows = pa.Table.from_batches([rows])
    if isinstance(rows, pa.Table):
        step = max(1, min(chunk_rows, CHUNK_BYTES * rows.num_rows // max(rows.nbytes, 1)))
        for start in range(0, rows.num_rows, step):
            yield _fit(rows.slice(start, step), schema, uri)
        return
    block: list[Mapping[str, Any]] = []
    size = 0
    for row in rows:
        block.append(row)
        size += len(row.get("bytes") or b"")
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
    present = pa.schema([field for field in schema if field.name in names])
    arrays = []
    for field in present:
        try:
            arrays.append(pa.array([row.get(field.name) for row in block], field.type))
        except (pa.ArrowException, TypeError, UnicodeEncodeError) as error:
            raise ValueError(f"column {field.name!r} of {uri} has type {field.type}, and a value does not fit: {error}") from None
    return _fit(pa.table(arrays, schema=present), schema, uri)


def _fit(rows: pa.Table, schema: pa.Schema, uri: Path) -> pa.Table:
    for name in rows.column_names:
        if name not in schema.names:
            raise _foreign(name, schema, uri)
    columns = []
    for field in schema:
        column = rows[field.name] if field.name in rows.column_names else pa.chunked_array([pa.nulls(rows.num_rows, field.type)])
        try:
            column = column.cast(field.type)
        except pa.ArrowException as error:
            raise ValueError(f"column {field.name!r} of {uri} has type {field.type}, the rows have {column.type}: {error}") from None
        columns.append(pc.fill_null(column, DEFAULTS[field.name]) if field.name in DEFAULTS else column)
    return pa.table(columns, schema=schema).combine_chunks()


def _foreign(name: str, schema: pa.Schema, uri: Path) -> ValueError:
    return ValueError(f"no column {name!r} in {uri}; its rows have {', '.join(schema.names)}. Name further columns when the table is "
                      "made: Table.create(uri, extra=pa.schema([...])), or add one to all rows with table.add_column")
