"""Pictures from outside -> a Table of kind "pictures", one row a picture, also for those that can't be used.

    table = ingest("photos", "tables/photos")                             # a folder, captions beside the pictures
    table = ingest("shards/*.tar", "tables/web", captions="text,tags", fields=("license",), workers=2)
    summary(table)                                                        # rows by status and split, captions, problems

The table appears at `out` when all is read, so a killed ingest leaves none that looks complete.
"""

from __future__ import annotations

import functools
import glob
import itertools
import json
import os
import shutil
import unicodedata
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from omma.data.readers import Problems, Sample, read_folder, read_json, read_tar, read_text
from omma.decode import DEFAULT_LIMITS, Limits, decode
from omma.jobs import progress_bar, spawned_pool
from omma.table import Table, some

CAPTION_KEYS = ("captions", "caption", "text")            # the first that a sample has, when none are named
STORES = ("bytes", "reference")
BATCH = 32                                                # samples sent to a worker at a time
ENOUGH = 256                                              # pixels: a large picture shows its status at this size too


@dataclass(frozen=True)
class _Options:
    captions: tuple[str, ...]
    fields: tuple[str, ...]
    language: str
    store: str
    limits: Limits


def ingest(source: str | Path | Sequence[str | Path], out: str | Path, *, captions: str | Sequence[str] | None = None,
           fields: str | Sequence[str] = (), split: str = "train", split_of: Callable[[str], str | None] | None = None,
           language: str = "en", store: str = "bytes", limits: Limits = DEFAULT_LIMITS, workers: int = 1,
           progress: bool = False) -> Table:
    """Read source, make the table at out and return it.

    source: a folder, a .tar of WebDataset form (also .tar.gz), a glob of tars, or a list of these. Captions come from
    the first of these that a picture has: a captions.csv or captions.jsonl above it (file, caption, and if wanted
    language, split), a .json or a .txt (one caption a line) of its name. captions: JSON keys that hold captions
    (text, a list, or {language: text or list}); by default the first there is of captions, caption, text. fields:
    further JSON keys, each to be a column of strings. split: what that column says, unless a listing says otherwise;
    split_of(id) overrules both. store: "bytes" in the table, or "reference": uri, offset and length of the bytes in
    the folder or tar. id: the JSON's "id", else the path or the sample's key; one that comes again gets "#2", "#3"
    and the status duplicate_key.

    A picture that can't be used keeps its row with a status (`omma.decode`); one whose text can't be read has bad_text.
    Raises ValueError when there is nothing to read at source, or something at out already.
    """
    options = _Options(_names(captions), _names(fields), language, store, limits)
    if store not in STORES:
        raise ValueError(f"store={store!r}; a table stores {' or '.join(map(repr, STORES))}")
    out, places = Path(out), _places(source)
    if store == "reference" and (packed := [place for place in places if place.suffix in (".gz", ".tgz")]):
        raise ValueError(f"{packed[0]} is packed, so nothing can point into it; make it a .tar, or take store='bytes'")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"there is something at {out} already; choose another place, or remove it first")
    part = out.with_name(f".{out.name}.part")
    if (part / "base").exists():                          # an ingest that was killed
        shutil.rmtree(part)
    problems: Problems = []
    extra = pa.schema([(name, pa.string()) for name in options.fields])
    seen: Counter[str] = Counter()                        # which of the named keys any sample has
    try:
        table = Table.create(part, extra=extra)
        with progress_bar(out.name, "pictures", progress) as advance:
            samples = itertools.chain.from_iterable(_samples(place, limits.max_bytes, problems) for place in places)
            rows = _finished(_rows(samples, options, workers), split, split_of, seen, advance)
            number = table.append(rows)
        if not number:
            raise ValueError(f"no pictures in {some(places)}. {' '.join(problems)}")
        for name in (*options.captions, *options.fields):
            if not seen[name]:
                problems.append(f"no sample has the key {name!r}")
        note = {"sources": [str(place) for place in places], "captions": list(options.captions), "store": store,
                "problems": problems}
        table.append([], info={"ingest": note})
        if out.exists():
            out.rmdir()
        os.replace(part, out)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return Table.open(out)


def summary(table: Table) -> dict[str, Any]:
    """Counts for a report: rows, and of them by status and split; captions, by language; problems met at ingest.

    >>> summary(table)
    {'rows': 2, 'status': {'ok': 2}, 'split': {'train': 2}, 'captions': 3, 'languages': {'en': 3}, 'problems': []}
    """
    status: Counter[str] = Counter()
    split: Counter[str] = Counter()
    languages: Counter[str] = Counter()
    for batch in table.scan(["status", "split", "captions"]):
        status.update(batch["status"].to_pylist())
        split.update(batch["split"].to_pylist())
        languages.update(caption["language"] for row in batch["captions"].to_pylist() for caption in row or ())
    problems = table.info.get("ingest", {}).get("problems", [])
    return {"rows": table.num_rows, "status": dict(status.most_common()), "split": dict(split.most_common()),
            "captions": languages.total(), "languages": dict(languages.most_common()), "problems": problems}


def _names(keys: str | Sequence[str] | None) -> tuple[str, ...]:
    """"text,tags" or ("text", "tags") -> ("text", "tags")."""
    names = keys.split(",") if isinstance(keys, str) else keys or ()
    return tuple(dict.fromkeys(name.strip() for name in names if name.strip()))


def _places(source: str | Path | Sequence[str | Path]) -> list[Path]:
    places: list[Path] = []
    for entry in [source] if isinstance(source, str | Path) else source:
        found = [Path(entry)] if Path(entry).exists() else sorted(Path(name) for name in glob.glob(str(entry)))
        if not found:
            raise ValueError(f"there is nothing at {entry}; give a folder of pictures, a .tar, or a glob of tars")
        places += found
    for place in places:
        if not place.is_dir() and not place.name.endswith((".tar", ".tar.gz", ".tgz")):
            raise ValueError(f"{place} is neither a folder nor a .tar; put pictures into a folder and give that")
    return places


def _samples(place: Path, max_bytes: int, problems: Problems) -> Iterator[Sample]:
    return read_folder(place, max_bytes, problems) if place.is_dir() else read_tar(place, max_bytes, problems)


def _rows(samples: Iterator[Sample], options: _Options, workers: int) -> Iterator[tuple[dict[str, Any], list[str]]]:
    """_make_row of each sample, in order; with workers, a few batches ahead and no more."""
    make = functools.partial(_make_rows, options=options)
    batches = iter(lambda: list(itertools.islice(samples, BATCH)), [])
    if workers <= 1:
        for batch in batches:
            yield from make(batch)
        return
    pool = spawned_pool(workers)
    try:
        waiting = deque(pool.submit(make, batch) for batch in itertools.islice(batches, 3 * workers))
        while waiting:
            yield from waiting.popleft().result()
            waiting.extend(pool.submit(make, batch) for batch in itertools.islice(batches, 1))
    finally:
        pool.shutdown(cancel_futures=True)


def _finished(rows: Iterator[tuple[dict[str, Any], list[str]]], split: str,
              split_of: Callable[[str], str | None] | None, seen: Counter[str],
              advance: Callable[[int, int | None], None]) -> Iterator[dict[str, Any]]:
    """What needs all rows in one place: one id a row, the split, which keys there were."""
    taken: set[str] = set()
    for row, keys in rows:
        seen.update(keys)
        name, number = row["id"], 1
        while row["id"] in taken:
            number += 1
            row["id"], row["status"] = f"{name}#{number}", "duplicate_key"
        taken.add(row["id"])
        row["split"] = split_of(row["id"]) if split_of else row["split"] or split
        advance(1, None)
        yield row


def _make_rows(samples: list[Sample], options: _Options) -> list[tuple[dict[str, Any], list[str]]]:
    return [_make_row(sample, options) for sample in samples]


def _make_row(sample: Sample, options: _Options) -> tuple[dict[str, Any], list[str]]:
    """One sample -> its row without split rules, and which of the named JSON keys it has."""
    meta, bad_text = _meta(sample)
    captions: list[tuple[str, str]] = []
    try:
        captions = _captions_of(sample, meta, options)
    except (ValueError, RecursionError):                  # a text that is none
        bad_text = True
    if sample.data is None:
        status = "too_many_bytes" if sample.length > options.limits.max_bytes else "decode_error"
        width = height = None
    else:
        found = decode(sample.data, options.limits, ENOUGH)
        status, width, height = found.status, found.width or None, found.height or None
        if bad_text and found.image is not None:
            status = "bad_text"
    name = meta.get("id")
    name = _scalar(name) if isinstance(name, str | int) and not isinstance(name, bool) else None
    row: dict[str, Any] = {
        "id": name or sample.key, "captions": [{"text": text, "language": code} for text, code in captions],
        "source": sample.source, "split": _scalar(sample.listed[0].get("split")) if sample.listed else None,
        "width": width, "height": height, "status": status, **{key: _scalar(meta.get(key)) for key in options.fields}}
    if options.store == "bytes" and sample.data is not None:
        row["bytes"] = sample.data
    else:
        row |= {"uri": str(sample.path.resolve()), "offset": sample.offset, "length": sample.length}
    return row, [key for key in (*options.captions, *options.fields) if meta.get(key) is not None]


def _meta(sample: Sample) -> tuple[dict[str, Any], bool]:
    """The JSON object beside the picture with the first listed row over it, and whether a JSON was there but is
    none."""
    meta: Any = {}
    if sample.json is not None:
        text = read_text(sample.json)
        meta = read_json(text) if text is not None else None
    bad = not isinstance(meta, dict)
    return {**({} if bad else meta), **(sample.listed[0] if sample.listed else {})}, bad


def _captions_of(sample: Sample, meta: dict[str, Any], options: _Options) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for row in sample.listed or (meta,):
        language = row.get("language") if sample.listed else None
        found += _by_key(row, options, language if isinstance(language, str) and language else options.language)
    if not found and sample.listed:                       # a listing without captions: they may be in the JSON
        found = _by_key(meta, options, options.language)
    if not found and sample.txt is not None:
        text = read_text(sample.txt)
        if text is None:
            raise ValueError("the text is in no known encoding")
        found = _texts(text.splitlines(), options.language)
    return found


def _by_key(row: dict[str, Any], options: _Options, language: str) -> list[tuple[str, str]]:
    named = options.captions or [key for key in CAPTION_KEYS if row.get(key) is not None][:1]
    return [caption for key in named for caption in _texts(row.get(key), language)]


def _texts(value: Any, language: str) -> list[tuple[str, str]]:
    """Text, a list, {language: text or list} or {"text":, "language":} -> (text, language) pairs without empty
    texts."""
    if value is None:
        return []
    if isinstance(value, str):
        text = unicodedata.normalize("NFC", value).strip()
        (text + language).encode()                        # JSON can hold half a character: then this is a ValueError
        return [(text, language)] if text else []
    if isinstance(value, list):
        return [caption for entry in value for caption in _texts(entry, language)]
    if isinstance(value, dict):
        if isinstance(value.get("text"), str) and value.keys() <= {"text", "language"}:
            code = value.get("language")
            return _texts(value["text"], code if isinstance(code, str) and code else language)
        return [caption for code, entry in value.items() for caption in _texts(entry, code)]
    raise ValueError(f"a caption is text, and this is {value!r}")


def _scalar(value: Any) -> str | None:
    """A JSON value as a string, None for null or what is no Unicode text; lists and objects keep their JSON form."""
    if value is None or isinstance(value, str):
        text = value
    else:
        text = json.dumps(value, ensure_ascii=False)
    try:
        return None if text is None else text.encode().decode()
    except UnicodeEncodeError:
        return None
