"""Which kind of source lies at a place: each kind looks at it and takes it, or says that it is not its own.

    recognise(Path("captions_val2017.json")).format       # "coco"
    recognise(Path("pile"), "webdataset")                 # told, not looked at

Another kind is another function in FORMATS.
"""

from __future__ import annotations

import dataclasses
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa

from omma.data import annotations, arrow
from omma.data.readers import (
    PICTURE_SUFFIXES,
    SHARD_SUFFIXES,
    Problems,
    Sample,
    is_packed,
    read_folder,
    read_json,
    read_tar,
    read_text,
)

NLVR_COLUMNS = ("sentence", "label", "identifier", "permutation", "directory")
LOOK = 8                                                  # members of a tar to look at


@dataclass(frozen=True)
class Asked:
    """What the caller said: the folder of the pictures, and the keys that captions and columns come from."""

    images: Path | None = None
    keys: tuple[str, ...] = ()


@dataclass(frozen=True)
class Source:
    """A place that was recognised. samples(max_bytes, problems) reads it.

    columns: string columns that rows get without being asked for. conversations: rows have turns. embedded: no uri can
    point at its pictures.
    """

    format: str
    place: Path
    samples: Callable[[int, Problems], Iterator[Sample]]
    columns: tuple[str, ...] = ()
    conversations: bool = False
    embedded: bool = False


def saved(place: Path, asked: Asked) -> Source | None:
    """A folder of Hugging Face datasets.save_to_disk, with one split or several."""
    parts = arrow.saved_parts(place) if place.is_dir() else []
    if not parts:
        return None
    files = [path for folder, _ in parts for path in arrow.arrow_files(folder)]
    reader = partial(arrow.read_saved, place, asked.images, asked.keys)
    return _of_columns("hf", place, files, reader)


def parquet(place: Path, asked: Asked) -> Source | None:
    """A .parquet file with pictures, or a folder of them."""
    files = arrow.parquet_files(place)
    if not files or (place.is_dir() and _pictures_in(place)):
        return None
    return _of_columns("parquet", place, files, partial(arrow.read_parquet_rows, place, asked.images, asked.keys))


def _of_columns(name: str, place: Path, files: list[Path],
                reader: Callable[[int, Problems], Iterator[Sample]]) -> Source:
    for path in files:
        try:
            schema = arrow.schema_of(path)
        except (pa.ArrowException, OSError):              # told when it is read
            continue
        column = arrow.picture_column(schema)
        return Source(name, place, reader, ("url",) if "url" in schema.names else (),
                      any(name in schema.names and pa.types.is_list(schema.field(name).type)
                          for name in ("conversations", "messages")),
                      column is not None and column.form != "path")
    return Source(name, place, reader)


def coco(place: Path, asked: Asked) -> Source | None:
    """A .json of COCO captions: {"images": [...], "annotations": [...]}."""
    if not _is_file(place, ".json") or not annotations.is_coco(annotations.load_json(place)):
        return None
    return Source("coco", place, partial(annotations.read_coco, place, asked.images))


def llava(place: Path, asked: Asked) -> Source | None:
    """A .json or .jsonl of LLaVA/ShareGPT conversations: [{"image": ..., "conversations": [...]}, ...]."""
    if not _is_file(place, ".json", ".jsonl") or not annotations.is_llava(annotations.load_json(place)):
        return None
    return Source("llava", place, partial(annotations.read_llava, place, asked.images), conversations=True)


def csv(place: Path, asked: Asked) -> Source | None:
    """A .csv or .tsv that names local files, and the URLs they came from."""
    if not _is_file(place, ".csv", ".tsv"):
        return None
    header = annotations.csv_header(place)
    if not {*annotations.FILES, *annotations.URLS} & set(header):
        return None
    has_url = any(name in header for name in annotations.URLS)
    return Source("csv", place, partial(annotations.read_csv, place, asked.images), ("url",) if has_url else ())


def nlvr(place: Path, asked: Asked) -> Source | None:
    """A tar of NLVR (Suhr et al. 2017): pictures, each with a sentence; those true of it are its captions."""
    if not place.is_file() or not place.name.endswith(SHARD_SUFFIXES) or not _holds_sentences(place):
        return None

    def samples(max_bytes: int, problems: Problems) -> Iterator[Sample]:
        for sample in read_tar(place, max_bytes, problems):
            meta = read_json(read_text(sample.json or b"") or "")
            true = isinstance(meta, dict) and str(meta.get("label")).lower() == "true"
            yield dataclasses.replace(sample, listed=({"captions": [meta["sentence"]]},)) if true else sample

    return Source("nlvr", place, samples, NLVR_COLUMNS, embedded=is_packed(place.name))


def _holds_sentences(place: Path) -> bool:
    try:
        with tarfile.open(place) as tar:
            for _, member in zip(range(LOOK), tar, strict=False):
                file = tar.extractfile(member) if member.isreg() and member.name.endswith(".json") else None
                if file is not None:
                    meta = read_json(read_text(file.read(1 << 16)) or "")
                    return isinstance(meta, dict) and meta.keys() >= {"sentence", "label", "identifier", "permutation"}
    except (tarfile.TarError, EOFError, OSError, ValueError, zlib.error):
        pass                                              # a damaged tar: its reader tells
    return False


def webdataset(place: Path, asked: Asked) -> Source | None:
    """A .tar of WebDataset form (also gzipped, also a tar of such tars), or a folder of nothing but tars."""
    shards = [place] if place.is_file() else sorted(entry for entry in place.iterdir() if not entry.is_dir())
    shards = [path for path in shards if path.name.endswith(SHARD_SUFFIXES)]
    if not shards or (place.is_dir() and (_pictures_in(place) or any(entry.is_dir() for entry in place.iterdir()))):
        return None

    def samples(max_bytes: int, problems: Problems) -> Iterator[Sample]:
        for path in shards:
            yield from read_tar(path, max_bytes, problems)

    return Source("webdataset", place, samples, embedded=any(is_packed(path.name) for path in shards))


def folder(place: Path, asked: Asked) -> Source | None:
    """A folder of pictures with texts beside them or in a captions.csv."""
    return Source("folder", place, partial(read_folder, place)) if place.is_dir() else None


FORMATS: dict[str, Callable[[Path, Asked], Source | None]] = {
    "hf": saved, "parquet": parquet, "coco": coco, "llava": llava, "csv": csv, "nlvr": nlvr, "webdataset": webdataset,
    "folder": folder,
}


def recognise(place: Path, format: str | None = None, asked: Asked | None = None) -> Source:
    """The source at place: of the named format, or of the first in FORMATS that takes it.

    Raises ValueError for a format there is none of, and for a place that isn't of the format, or of any.
    """
    asked = asked or Asked()
    if format is not None and format not in FORMATS:
        raise ValueError(f"format={format!r}; there are {', '.join(FORMATS)}")
    if (place / "manifest.json").is_file() and (place / "base").is_dir():
        raise ValueError(f"{place} is a table already; read it with omma.Table.open({str(place)!r})")
    for name in [format] if format else FORMATS:
        source = FORMATS[name](place, asked)
        if source is not None:
            return source
    kinds = "\n".join(f"  {name}: {(make.__doc__ or '').splitlines()[0]}" for name, make in FORMATS.items())
    what = f"is not of the format {format!r}" if format else "is of no format that omma reads"
    if _is_file(place, ".json") and annotations.load_json(place) is None:
        what += " and no valid JSON; it may be cut off"
    raise ValueError(f"{place} {what}. There are:\n{kinds}\nSay which with format=NAME (--format NAME).")


def _is_file(place: Path, *suffixes: str) -> bool:
    return place.is_file() and place.suffix.lower() in suffixes


def _pictures_in(place: Path) -> bool:
    return any(entry.suffix[1:].lower() in PICTURE_SUFFIXES for entry in place.iterdir())
