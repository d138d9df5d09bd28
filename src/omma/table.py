"""Table: the record everything else reads and writes. Parquet chunks, a sidecar file per added column, a manifest.

    uri/manifest.json                                  what there is; written last: a reader sees the old or new state
    uri/base/<chunk>.parquet                           rows, never changed once published
    uri/cols/<column>@<fingerprint>/<chunk>.parquet    one added column for one chunk

Rows are never deleted or reordered; ops add columns, and what to keep is an expression over columns (`select`). A
sidecar's path carries the fingerprint of what made it, its metadata the digest of the rows it was made from: a stale
result can't mix with a fresh one. Every file is published by tmp + fsync + rename + fsync of the folder, so a process
killed at any moment loses at most what it had not committed.

A column covers the chunks that were there when it was committed; rows appended later have null in it until its op runs
again. Writers take turns by a lock on uri/.lock; readers need none.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from omma.storage import (
    RowIndex,
    as_array,
    blocks,
    digest,
    ipc,
    load_manifest,
    make_folder,
    pack,
    publish,
    publish_manifest,
    read_parquet,
    some,
    sweep,
    sync_folder,
    to_parquet,
    unpack,
    writing_to,
)
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
PAPERS = pa.schema([
    ("id", pa.string()), ("paper", pa.string()), ("version", pa.int32()), ("title", pa.string()),
    ("authors", pa.list_(pa.string())), ("abstract", pa.string()), ("categories", pa.list_(pa.string())),
    ("primary_category", pa.string()), ("published", pa.string()), ("updated", pa.string()), ("link", pa.string()),
    ("pdf", pa.string()), ("doi", pa.string()), ("journal_ref", pa.string()), ("comment", pa.string()),
])
KINDS = {"pictures": PICTURES, "items": ITEMS, "papers": PAPERS}


@dataclass(frozen=True)
class Chunk:
    """A run of rows that is written, computed and read as one; digest is of its base file."""

    name: str
    rows: int
    digest: str


class Table:
    """Rows on disk with added columns. Made by `create`, found by `open`; see the module's page for the layout."""

    def __init__(self, uri: str | Path, manifest: dict[str, Any]):
        self.uri = Path(uri)
        self._rows = RowIndex()
        self._use(manifest)

    def __getstate__(self) -> dict[str, Any]:             # a worker process works on the very snapshot it was handed
        return {"uri": self.uri, "manifest": self._manifest}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["uri"], state["manifest"])

    def __repr__(self) -> str:
        return f"Table({str(self.uri)!r}, kind={self.kind!r}, {self.num_rows} rows, columns: {', '.join(self.columns)})"

    # ---- making and opening

    @classmethod
    def create(cls, uri: str | Path, kind: str = "pictures", extra: pa.Schema | None = None, chunk_rows: int = 1000,
               info: dict[str, Any] | None = None) -> Table:
        """An empty table at uri. extra: further base columns; info: anything JSON can hold, kept in `table.info`.

        Raises ValueError when a table is there already, for an unknown kind, or an extra column named like a base
        column.
        """
        uri = Path(uri)
        if kind not in KINDS:
            raise ValueError(f"kind={kind!r} is no kind of table; there are {', '.join(KINDS)}")
        if chunk_rows < 1:
            raise ValueError(f"chunk_rows={chunk_rows}; a chunk holds at least 1 row")
        if uri.exists() and not uri.is_dir():
            raise ValueError(f"{uri} is a file; a table is a folder, choose another place")
        schema = KINDS[kind]
        for field in extra or ():
            _check_name(field.name)
            if field.name in schema.names:
                raise ValueError(f"extra column {field.name!r} is there already; {kind} have {', '.join(schema.names)}")
            schema = schema.append(field)
        make_folder(uri / "base")
        with _writing(uri):
            sync_folder(uri)                              # a killed process may have made them and not come to this
            with contextlib.suppress(PermissionError):    # a folder may be entered by those who can't list it
                sync_folder(uri.parent)
            if (uri / "manifest.json").exists():
                raise ValueError(f"there is a table at {uri} already; open it with Table.open, or choose another place")
            publish_manifest(uri, {"kind": kind, "chunk_rows": chunk_rows, "schema": pack(schema), "chunks": [],
                                   "columns": {}, "info": info or {}})
        return cls.open(uri)

    @classmethod
    def open(cls, uri: str | Path) -> Table:
        """The table at uri, as last committed. Raises ValueError: what is there instead, or that it is damaged."""
        return cls(uri, load_manifest(Path(uri)))

    def refresh(self) -> Table:
        """Take over what other processes have committed since this table was opened. Returns the table itself."""
        self._use(load_manifest(self.uri))
        return self

    def _use(self, manifest: dict[str, Any]) -> None:
        before = getattr(self, "_chunks", [])
        self._manifest = manifest
        self._base = unpack(manifest["schema"])
        self._chunks = [Chunk(*entry) for entry in manifest["chunks"]]
        if self._chunks[: len(before)] != before:         # it was removed and made again meanwhile
            self._rows = RowIndex()
        self._added = {name: unpack(entry["arrow"]).field(0) for name, entry in manifest["columns"].items()}

    @contextlib.contextmanager
    def _commit(self) -> Iterator[dict[str, Any]]:
        """Hold the writers' lock and hand out the manifest as it is on disk; then publish it as the caller left it."""
        with _writing(self.uri):
            self.refresh()
            manifest = json.loads(json.dumps(self._manifest))
            yield manifest
            publish_manifest(self.uri, manifest)
            self._use(manifest)

    # ---- what there is

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
        """How a column came about: fingerprint, op, params, type, created (Unix seconds), rows covered, and further
        entries of its maker. A base column has fingerprint "base". Raises ValueError for a column that isn't there.
        """
        if name in self._base.names:
            return {"op": None, "params": {}, "fingerprint": "base", "type": str(self._base.field(name).type),
                    "created": None, "rows": self.num_rows}
        if name not in self._added:
            raise no_column(name, self.columns, self.uri)
        entry = self._manifest["columns"][name]
        rows = sum(chunk.rows for chunk in self._chunks[: entry["chunks"]])
        return {"op": None, "params": {}, **entry["info"], "fingerprint": entry["fingerprint"],
                "type": str(self._added[name].type), "created": entry["created"], "rows": rows}

    # ---- writing

    def append(self, rows: pa.Table | Iterable[Mapping[str, Any]], info: dict[str, Any] | None = None) -> int:
        """Add rows at the end and return how many; all of them become visible at once. Missing columns are null.

        rows may be a generator: one chunk at a time is in memory. Every call starts a new chunk, so append many at a
        time. info, if given, is merged into `table.info` in the same commit. Raises ValueError for an unknown column,
        a missing id, an id given twice or there already, or a value that does not fit its column; the table is then
        as it was.
        """
        added = 0
        with self._commit() as manifest:
            sweep(self.uri / "base")
            sweep(self.uri)
            index, self._rows = self._index(), RowIndex()            # put back only once all went well
            for block in blocks(rows, self._base, self._manifest["chunk_rows"], self.uri):
                self._check_ids(block["id"].to_pylist(), index)
                name, data = f"{len(manifest['chunks']):06d}", to_parquet(block)
                publish(self.uri / "base" / f"{name}.parquet", data)
                manifest["chunks"].append([name, block.num_rows, digest(data)])
                index.extend(block["id"])
                added += block.num_rows
            manifest["info"].update(info or {})
        self._rows = index
        return added

    def _check_ids(self, ids: list[str | None], index: RowIndex) -> None:
        nameless = [i for i, name in enumerate(ids) if not name]
        if nameless:
            raise ValueError(f"{len(nameless)} rows have no id, the first is number {nameless[0]}; give each row an id")
        names = [name for name in ids if name]
        twice = [name for name, number in Counter(names).items() if number > 1] if len(set(names)) < len(names) else []
        twice += [name for name, row in zip(names, index.find(names), strict=True) if row >= 0]
        if twice:
            raise ValueError(f"{len(twice)} duplicate ids in {self.uri}: {some(twice)}. An id names one row; "
                             "give the new rows other ids, or leave out those that are there")

    def add_column(self, name: str, values: Any, *, type: pa.DataType | None = None, fingerprint: str | None = None,
                   info: dict[str, Any] | None = None) -> None:
        """Add column name, or replace an added column of that name.

        values: one value a row, in row order (list, Arrow array, or numpy (rows,) or (rows, E)); or {id: value},
        other rows null; or a function from a RecordBatch of all columns to an array. type: Arrow type, inferred if
        None. fingerprint: what the values depend on; equal fingerprints promise equal values. By default it is a hash
        of the values. info: kept in `column_info`. All values are held in memory; `omma.jobs.run` computes a column
        chunk by chunk. Raises ValueError for a base column's name, values that don't align with the rows, or ids that
        aren't there.
        """
        _check_name(name)
        if name in self._base.names:
            raise ValueError(f"{name!r} is a base column of {self.uri}, and those never change; choose another name")
        array = self._aligned(values, type)
        if len(array) != self.num_rows:
            raise ValueError(f"{len(array)} values for {self.num_rows} rows of {self.uri}; "
                             "give one a row, or {id: value}")
        parts, start = [], 0
        for chunk in self._chunks:
            parts.append(array.slice(start, chunk.rows))
            start += chunk.rows
        if fingerprint is None:
            fingerprint = digest(str(array.type), *(ipc(part) for part in parts))
        for chunk, part in zip(self._chunks, parts, strict=True):
            self.write_sidecar(name, fingerprint, chunk, part)
        behind = self.commit_column(name, fingerprint, array.type, info=info, covers=len(self._chunks))
        assert not behind, behind

    def _aligned(self, values: Any, type: pa.DataType | None) -> pa.ChunkedArray:
        if callable(values):
            pieces = [as_array(values(batch), type) for batch in self.scan()]
            kind = type or (pieces[0].type if pieces else pa.null())
            return pa.chunked_array([chunk for piece in pieces for chunk in piece.chunks], kind)
        if isinstance(values, Mapping):
            rows = self._index().find(list(values))
            missing = [name for name, row in zip(values, rows, strict=True) if row < 0]
            if missing:
                raise ValueError(f"{len(missing)} ids of the values are not in {self.uri}: {some(missing)}")
            aligned: list[Any] = [None] * self.num_rows
            for row, value in zip(rows, values.values(), strict=True):
                aligned[row] = value
            return as_array(aligned, type)
        return as_array(values, type)

    # ---- one column for one chunk: what a job writes

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
        """Publish one chunk of a column, visible only after `commit_column`. note: for `sidecar_note` to read."""
        assert len(values) == chunk.rows, (len(values), chunk)
        path = self.sidecar_path(name, fingerprint, chunk)
        make_folder(path.parent)
        metadata = {"inputs": self.input_key(chunk, needs), "note": json.dumps(note or {})}
        schema = pa.schema([pa.field(name, values.type)], metadata=metadata)
        array = values if isinstance(values, pa.ChunkedArray) else pa.chunked_array([values])
        publish(path, to_parquet(pa.Table.from_arrays([array], schema=schema)))

    def sidecar_note(self, name: str, fingerprint: str, chunk: Chunk,
                     needs: Sequence[str] = ()) -> dict[str, Any] | None:
        """The note of a chunk's result, None when there is none or it was made from other rows."""
        path = self.sidecar_path(name, fingerprint, chunk)
        try:
            metadata = pq.read_schema(path).metadata or {}
            if metadata[b"inputs"].decode() != self.input_key(chunk, needs):
                return None
            return json.loads(metadata[b"note"])
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno is not None:                   # too many open files, no permission: it may be there
                raise
            return None                                   # damaged on the disk: to be computed again
        except (pa.ArrowException, ValueError, KeyError):
            return None

    def commit_column(self, name: str, fingerprint: str, type: pa.DataType, *, needs: Sequence[str] = (),
                      info: dict[str, Any] | None = None, covers: int | None = None) -> list[Chunk]:
        """Make a column visible when every chunk has its result; else change nothing and return the chunks without one.

        covers: commit for the first so many chunks only, when others appended rows meanwhile.
        """
        with self._commit() as manifest:
            reach = self._chunks[:covers]
            behind = [chunk for chunk in reach if self.sidecar_note(name, fingerprint, chunk, needs) is None]
            if not behind:
                sweep(self.uri / "cols" / f"{quote(name, safe='')}@{fingerprint}")
                if reach:                                 # the way to the files is durable before they are named
                    sync_folder(self.uri / "cols")
                    sync_folder(self.uri)
                manifest["columns"][name] = {
                    "fingerprint": fingerprint, "arrow": pack(pa.schema([pa.field(name, type)])), "chunks": len(reach),
                    "created": round(time.time(), 3), "info": info or {}}
        return behind

    # ---- reading

    def scan(self, columns: Sequence[str] | None = None, where: str | pc.Expression | Predicate | None = None,
             batch_rows: int | None = None) -> Iterator[pa.RecordBatch]:
        """Batches of rows, in row order; a batch lies in one chunk, holds at most batch_rows rows and is never empty.

        columns: names in the order wanted, all if None. where: see `omma.where`; its columns are read first, and the
        others only where a row is kept. Raises ValueError for a column that isn't there.
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
        tested, rows = self._matching(chunk, keep)
        if len(rows) == 0:
            return None
        if len(rows) == chunk.rows:
            return self._read(chunk, wanted, None)
        rest = [name for name in wanted if name not in keep.columns]
        found = dict(zip(rest, self._read(chunk, rest, rows).columns, strict=True)) if rest else {}
        tested = tested.take(pa.array(rows))
        return pa.table({name: tested[name] if name in keep.columns else found[name] for name in wanted},
                        schema=self._schema_of(wanted))

    def _matching(self, chunk: Chunk, keep: Predicate) -> tuple[pa.Table, np.ndarray]:
        """The columns of keep, all rows, and the positions (n,) of those for which it holds, ascending."""
        tested = self._read(chunk, list(keep.columns), None)
        number = "row"
        while number in tested.column_names:
            number += "_"
        kept = tested.append_column(number, pa.array(np.arange(chunk.rows))).filter(keep.expression)
        return tested, np.sort(kept[number].to_numpy())

    def _read(self, chunk: Chunk, wanted: list[str], rows: np.ndarray | None) -> pa.Table:
        base = [name for name in wanted if name in self._base.names]
        found: dict[str, pa.ChunkedArray] = {}
        if base:
            part = read_parquet(self.uri / "base" / f"{chunk.name}.parquet", base, rows)
            found.update(zip(base, part.columns, strict=True))
        for name in wanted:
            if name in self._added:
                if self._covers(name, chunk):
                    path = self.sidecar_path(name, self._manifest["columns"][name]["fingerprint"], chunk)
                    found[name] = read_parquet(path, None, rows).column(0)
                else:
                    number = chunk.rows if rows is None else len(rows)
                    found[name] = pa.chunked_array([pa.nulls(number, self._added[name].type)])
        return pa.table([found[name] for name in wanted], schema=self._schema_of(wanted))

    def read(self, columns: Sequence[str] | None = None,
             where: str | pc.Expression | Predicate | None = None) -> pa.Table:
        """What `scan` gives, as one Arrow table in memory."""
        return pa.Table.from_batches(self.scan(columns, where), self._schema_of(self._wanted(columns)))

    def chunk_batch(self, chunk: Chunk, columns: Sequence[str] | None = None) -> pa.RecordBatch:
        """All rows of one chunk: what an op computes on."""
        return self._read(chunk, self._wanted(columns), None).combine_chunks().to_batches()[0]

    def matching(self, chunk: Chunk, where: str | pc.Expression | Predicate | None = None) -> np.ndarray:
        """(n,) positions in chunk, ascending, of the rows for which where holds; all if None."""
        keep = self._predicate(where)
        return np.arange(chunk.rows) if keep is None else self._matching(chunk, keep)[1]

    def row_groups(self, chunk: Chunk) -> np.ndarray:
        """(G,) rows of each group of the chunk's base file: what is read for a single one of them."""
        metadata = pq.read_metadata(self.uri / "base" / f"{chunk.name}.parquet")
        return np.array([metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)])

    def read_rows(self, chunk: Chunk, rows: np.ndarray, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of a chunk at these positions, ascending; row groups without any are not read."""
        return self._read(chunk, self._wanted(columns), rows)

    def take(self, ids: Sequence[str], columns: Sequence[str] | None = None) -> pa.Table:
        """The rows with these ids, in this order (an id may come twice); only the row groups that hold them are read.

        The first call reads the id column of the whole table. Raises ValueError that lists the ids that are not there.
        """
        ids, wanted = list(ids), self._wanted(columns)
        numbers = self._index().find(ids)
        if (numbers < 0).any():
            missing = [name for name, row in zip(ids, numbers, strict=True) if row < 0]
            first = some(self._index().ids.slice(0, 3).to_pylist())
            raise ValueError(f"{len(missing)} of {len(ids)} ids are not in {self.uri}: {some(missing)}. "
                             f"Its ids are such as {first}")
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

    def _index(self) -> RowIndex:
        for chunk in self._chunks[self._rows.chunks:]:
            self._rows.extend(self._read(chunk, ["id"], None)["id"])
        return self._rows

    def _wanted(self, columns: Sequence[str] | None) -> list[str]:
        if columns is None:
            return self.columns
        if isinstance(columns, str):
            raise ValueError(f"columns={columns!r} is one string; give a list of names: [{columns!r}]")
        if not columns:
            raise ValueError(f"columns is empty; name at least one of {', '.join(self.columns)}")
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
            raise ValueError(f"{len(missing)} of {len(ids)} ids are not in {self.uri} "
                             f"where {self.where}: {some(missing)}")
        return self.table.take(ids, columns)

    def select(self, where: str | pc.Expression) -> View:
        return View(self.table, self._and(where))


@contextlib.contextmanager
def _writing(uri: Path) -> Iterator[None]:
    """Writers take turns. The lock dies with its process, so there is nothing to clean up after kill -9."""
    with writing_to(uri):
        lock = open(uri / ".lock", "a")  # noqa: SIM115
    with lock:
        if fcntl is not None:
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _check_name(name: str) -> None:
    if not isinstance(name, str) or not name.strip() or len(name) > 100 or not name.isprintable():
        raise ValueError(f"{name!r} cannot name a column; use 1 to 100 printable characters, such as 'clip.score'")
