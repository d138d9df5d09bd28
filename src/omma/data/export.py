"""A Table of pictures -> what other tools read: WebDataset tars, a Hugging Face dataset folder, Parquet, Lance.

    export(table, "shards", to="webdataset", where="status == 'ok'")
    export(table, "saved", to="hf")                       # datasets.load_from_disk("saved") shows pictures

Parquet, hf and lance hold one row a row, with the picture in the column image, struct<bytes, path> as Hugging Face has
it. Another target is another function in TARGETS.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from omma.data.privacy import without_metadata
from omma.decode import Limits, decode
from omma.jobs import progress_bar
from omma.storage import appearing
from omma.table import Table, View

PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
PLACE = ("bytes", "uri", "offset", "length")              # where a table keeps a picture: becomes the column image
SHOWS_PICTURES = {b"huggingface": json.dumps({"info": {"features": {"image": {"_type": "Image"}}}}).encode()}
BATCH_ROWS = 256
HEADER_ONLY = Limits(max_pixels=0)                        # decode stops after it has told the format
SUFFIXES = {"JPEG": "jpg", "TIFF": "tif"}


@dataclass
class Exported:
    """What an export wrote: rows, files, bytes of pictures. read = rows + the sum of left_out.

    without_picture: rows that are there with no picture, since its bytes are not in the table, gone, damaged, or more
    than ingest would read.
    """

    to: str
    path: str
    read: int = 0
    rows: int = 0
    files: int = 0
    picture_bytes: int = 0
    without_picture: int = 0
    left_out: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class _Job:
    rows: Table | View
    columns: tuple[str, ...]                              # beside the picture
    shard_bytes: int
    keep_metadata: bool
    advance: Callable[[int, int | None], None]
    done: Exported

    @property
    def schema(self) -> pa.Schema:
        schema = self.rows.schema
        fields = [schema.field(name) for name in self.columns]
        return pa.schema([fields[0], pa.field("image", PICTURE), *fields[1:]], metadata=SHOWS_PICTURES)

    def read(self) -> Iterator[tuple[pa.RecordBatch, list[bytes | None]]]:
        """Batches of the columns, and the picture of each row, None where there is none."""
        for batch in self.rows.scan([*self.columns, *PLACE, "status"], batch_rows=BATCH_ROWS):
            places = batch.select([*PLACE, "status"]).to_pylist()
            self.done.read += batch.num_rows
            self.advance(batch.num_rows, None)
            pictures = [_bytes_of(place, self.rows.uri) for place in places]
            if not self.keep_metadata:
                pictures = [None if data is None else without_metadata(data) for data in pictures]
            yield batch.select(list(self.columns)), pictures

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Batches of `schema`, every row of the table."""
        for batch, pictures in self.read():
            self.count(batch.num_rows, pictures)
            image = pa.array([None if data is None else {"bytes": data, "path": None} for data in pictures], PICTURE)
            yield pa.RecordBatch.from_arrays([batch.column(0), image, *batch.columns[1:]], schema=self.schema)

    def count(self, rows: int, pictures: Sequence[bytes | None]) -> None:
        self.done.rows += rows
        self.done.without_picture += sum(data is None for data in pictures)
        self.done.picture_bytes += sum(len(data) for data in pictures if data is not None)


def export(table: Table | View | str | Path, out: str | Path, *, to: str, where: str | None = None,
           columns: Sequence[str] | None = None, shard_bytes: int = 256 << 20,
           keep_metadata: bool = False, progress: bool = False) -> Exported:
    """Write the pictures of a table, or those where the expression holds, to the new folder out; returns the counts.

    to: "webdataset", "hf", "parquet" or "lance". columns: which to write beside id and picture; by default all, and to
    webdataset all but vectors. shard_bytes: a file is closed when its pictures have so many bytes. Pictures that are
    stored by reference are read from where they lie. keep_metadata: leave in what cameras write beside the pixels, such
    as the place; else it is cut out (`omma.data.privacy`), and a picture too damaged for that is not written.

    webdataset: <number>.jpg, .json (id, captions and the columns) and .txt (the first caption); a row whose picture is
    none is left out and counted. The others keep every row; in lance a dot in a column's name becomes "_". The folder
    appears when all is written. Raises ValueError for an unknown target or column, a table that has no pictures, or
    something at out already; ImportError for lance without the package.
    """
    if to not in TARGETS:
        raise ValueError(f"to={to!r}; a table can be exported to {', '.join(TARGETS)}")
    if shard_bytes < 1:
        raise ValueError(f"shard_bytes={shard_bytes}; a file holds at least 1 byte of pictures")
    rows = Table.open(table) if isinstance(table, str | Path) else table
    if rows.kind != "pictures":
        raise ValueError(f"{rows.uri} is a table of {rows.kind}; export takes a table of pictures")
    rows = rows if where is None else rows.select(where)
    if isinstance(columns, str):
        raise ValueError(f"columns={columns!r} is one string; give a list of names: [{columns!r}]")
    named = rows.columns if columns is None else list(columns)
    if missing := [name for name in named if name not in rows.columns]:
        raise ValueError(f"no column {missing[0]!r} in {rows.uri}; it has {', '.join(rows.columns)}")
    if to == "webdataset" and columns is None:
        named = [name for name in named if not pa.types.is_fixed_size_list(rows.schema.field(name).type)]
    named = [name for name in dict.fromkeys(("id", *named)) if name not in PLACE]
    if "image" in named:
        raise ValueError(f"{rows.uri} has a column 'image', and that is where the picture goes; name the columns to "
                         "write without it")
    out = Path(out)
    with appearing(out) as part, progress_bar(out.name, "pictures", progress) as advance:
        advance(0, len(rows))
        job = _Job(rows, tuple(named), shard_bytes, keep_metadata, advance, Exported(to, str(out)))
        try:
            TARGETS[to](job, part)
        except OSError as error:                          # every library says it in its own words, and none says where
            if error.errno != errno.ENOSPC and "No space left" not in str(error):
                raise
            raise OSError(errno.ENOSPC, "No space left on device; make room and export again: nothing is left of this "
                                        "one", str(out)) from None
    return job.done


def _bytes_of(row: dict[str, Any], root: Path) -> bytes | None:
    if row["bytes"] is not None or not row["uri"]:
        return row["bytes"]
    if row["status"] == "too_many_bytes":                 # that may be more than fits in memory
        return None
    try:
        with open(root / row["uri"], "rb") as file:
            file.seek(row["offset"] or 0)
            return file.read(-1 if row["length"] is None else row["length"])
    except OSError:                                       # counted as a row without a picture
        return None


# ---- targets

def _webdataset(job: _Job, out: Path) -> None:
    left_out: Counter[str] = Counter()
    tar, size = None, 0
    with contextlib.ExitStack() as opened:
        for batch, pictures in job.read():
            for row, data in zip(batch.to_pylist(), pictures, strict=True):
                suffix = decode(data, HEADER_ONLY).format if data else ""
                if data is None or not suffix:
                    left_out["not an image" if data else "no usable picture"] += 1
                    continue
                if tar is None or size >= job.shard_bytes:
                    opened.close()
                    tar = opened.enter_context(tarfile.open(out / f"{job.done.files:06d}.tar", "w"))
                    job.done.files, size = job.done.files + 1, 0
                _write_sample(tar, f"{job.done.rows:09d}", row, data, SUFFIXES.get(suffix, suffix.lower()))
                job.count(1, [data])
                size += len(data)
    job.done.left_out.update(left_out)


def _write_sample(tar: tarfile.TarFile, key: str, row: dict[str, Any], data: bytes, suffix: str) -> None:
    """Number as key: WebDataset cuts a name at its first dot, and an id may hold dots and slashes."""
    members = {suffix: data, "json": json.dumps(row, ensure_ascii=False, default=str).encode()}
    said = [caption["text"] for caption in row.get("captions") or () if caption["text"]]
    if said:
        members["txt"] = said[0].encode()
    for kind, content in members.items():
        info = tarfile.TarInfo(f"{key}.{kind}")
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))


def _parquet(job: _Job, out: Path) -> None:
    def opened(number: int) -> pq.ParquetWriter:
        return pq.ParquetWriter(out / f"part-{number:05d}.parquet", job.schema, compression="zstd")

    _in_files(job, opened)


def _saved(job: _Job, out: Path) -> None:
    def opened(number: int) -> pa.ipc.RecordBatchStreamWriter:
        return pa.ipc.new_stream(str(out / f"data-{number:05d}.arrow"), job.schema)

    _in_files(job, opened)
    files = sorted(out.glob("*.arrow"))
    whole = hashlib.blake2b(digest_size=8)                # its reader caches results by it: other data, another name
    for path in files:
        with open(path, "rb") as file:
            whole.update(hashlib.file_digest(file, "blake2b").digest())
    state = {"_data_files": [{"filename": path.name} for path in files], "_fingerprint": whole.hexdigest(),
             "_format_columns": None, "_format_kwargs": {}, "_format_type": None, "_output_all_columns": False,
             "_split": None}
    (out / "state.json").write_text(json.dumps(state, indent=2))
    (out / "dataset_info.json").write_text(json.dumps({"citation": "", "description": "", "homepage": "",
                                                       "license": ""}, indent=2))


def _in_files(job: _Job, opened: Callable[[int], Any]) -> None:
    """One file after another, each until its pictures have shard_bytes; a table without rows makes one empty file."""
    writer, written, full = opened(0), 0, job.shard_bytes
    job.done.files = 1
    try:
        for batch in job.batches():
            if written >= full:
                writer.close()
                writer, full = opened(job.done.files), written + job.shard_bytes
                job.done.files += 1
            writer.write_batch(batch)
            written = job.done.picture_bytes
    finally:
        writer.close()


def _lance(job: _Job, out: Path) -> None:
    try:
        import lance
    except ImportError:
        raise ImportError("export to lance needs the package: pip install omma[lance]") from None
    names = [name.replace(".", "_") for name in job.schema.names]             # a dot is a path into a struct there
    if twice := [name for name, number in Counter(names).items() if number > 1]:
        raise ValueError(f"lance has no dots in names, and without them two columns are called {twice[0]!r}; "
                         "name the columns to write")
    schema = pa.schema([field.with_name(name) for field, name in zip(job.schema, names, strict=True)])
    batches = (pa.RecordBatch.from_arrays(batch.columns, schema=schema) for batch in job.batches())
    lance.write_dataset(pa.RecordBatchReader.from_batches(schema, batches), str(out), mode="overwrite")
    job.done.files = sum(path.suffix == ".lance" for path in out.rglob("*"))


TARGETS: dict[str, Callable[[_Job, Path], None]] = {
    "webdataset": _webdataset, "hf": _saved, "parquet": _parquet, "lance": _lance,
}
