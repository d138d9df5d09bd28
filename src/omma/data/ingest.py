"""Pictures from outside -> a Table of kind "pictures", one row a picture, also for those that can't be used.

    table = ingest("photos", "tables/photos")                             # a folder, captions beside the pictures
    table = ingest("shards/*.tar", "tables/web", captions="text,tags", fields=("license",), workers=2)
    table = ingest("captions_val2017.json", "tables/coco", images="val2017")
    summary(table)                                                        # rows by status and split, captions, problems

The table appears at `out` when all is read, so a killed ingest leaves none that looks complete. The kinds of source
are in `omma.data.formats`.
"""

from __future__ import annotations

import contextlib
import functools
import glob
import itertools
import json
import unicodedata
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from omma.data.annotations import answers, turns
from omma.data.formats import Asked, Source, recognise
from omma.data.papers.arxiv import MOST as MOST_PAPERS
from omma.data.papers.arxiv import ingest_papers
from omma.data.readers import Problems, Sample, read_json, read_text
from omma.decode import DEFAULT_LIMITS, Limits, decode
from omma.jobs import progress_bar, spawned_pool
from omma.storage import appearing
from omma.table import Table, digest, some

CAPTION_KEYS = ("captions", "caption", "text")            # the first that a sample has, when none are named
TURNS = "conversations"                                   # this column is no string: it keeps who says what
TURN_TYPE = pa.list_(pa.struct([("from", pa.string()), ("value", pa.string())]))
STORES = ("bytes", "reference")
BATCH = 32                                                # samples sent to a worker at a time
ENOUGH = 256                                              # pixels: a large picture shows its status at this size too

Named = tuple[Sample, str, bool]                          # a sample, its id, whether the key came before


@dataclass(frozen=True)
class _Options:
    captions: tuple[str, ...]
    fields: tuple[str, ...]
    columns: tuple[str, ...]                              # the fields and what the sources bring besides
    language: str
    store: str
    limits: Limits


def ingest(source: str | Path | Sequence[str | Path], out: str | Path, *, format: str | None = None,
           images: str | Path | None = None, captions: str | Sequence[str] | None = None,
           fields: str | Sequence[str] = (), split: str = "train", split_of: Callable[[str], str | None] | None = None,
           language: str = "en", store: str = "bytes", limits: Limits = DEFAULT_LIMITS, most: int | None = None,
           workers: int = 1, progress: bool = False) -> Table:
    """Read source, make the table at out and return it; or add to the table that is there what is new in source.

    source: a folder of pictures, Parquet, a folder saved by Hugging Face datasets, COCO captions or LLaVA/ShareGPT
    .json, a .csv of files and URLs, a .tar of WebDataset form (also .tar.gz, or tars in a tar) or of NLVR; a glob, or a
    list of these. format: its name in `omma.data.formats.FORMATS`, if it is not to be recognised. images: the folder
    that listed files lie in, by default looked for beside the list. Files outside of it are never read.

    captions: keys or columns that hold captions (text, a list, or {language: text or list}); by default the first there
    is of captions, caption, text; "conversations" takes what the assistant says. Beside a picture in a folder they may
    stand in a captions.csv or captions.jsonl above it (file, caption, and if wanted language, split), a .json or a .txt
    (one caption a line) of its name. fields: further keys, each to be a column of strings. split: what that column
    says, unless the source says otherwise; split_of(id) overrules both. store: "bytes" in the table, or "reference":
    uri, offset and length of the bytes in the folder or tar. id: the sample's "id", else its path or key.

    A picture that can't be used keeps its row with a status (`omma.decode`; empty for a file that isn't there); one
    whose text can't be read has bad_text. An id that comes again gets "#2", "#3" and the status duplicate_key.

    "arxiv:" and a question is a source of papers, and makes a table of these (`omma.data.papers.arxiv`); most: so many
    of them, 1000 by default. The other settings are for pictures.

    When out is a table made by ingest from the same keys, samples whose id and picture (and conversation) are in it are
    known and left as they are; the others are added, all at once. Raises ValueError when there is nothing to read at
    source, its format is not known, or something else is at out.
    """
    if store not in STORES:
        raise ValueError(f"store={store!r}; a table stores {' or '.join(map(repr, STORES))}")
    if isinstance(source, str) and source.startswith("arxiv:"):
        given = {"format": format, "images": images, "captions": captions, "fields": fields, "split_of": split_of}
        if unfit := [name for name, value in given.items() if value]:
            raise ValueError(f"{unfit[0]} is for pictures, and {source[:60]!r} is a source of papers; leave it out")
        return ingest_papers(source, out, most=MOST_PAPERS if most is None else most, progress=progress)
    if most is not None:
        raise ValueError("most is for papers; of pictures all are read")
    out, named, kept = Path(out), _names(captions), _names(fields)
    asked = Asked(None if images is None else Path(images), (*named, *kept))
    sources = [recognise(place, format, asked) for place in _places(source)]
    if store == "reference" and (packed := [source.place for source in sources if source.embedded]):
        raise ValueError(f"the pictures in {packed[0]} are packed, so nothing can point into it; take store='bytes'")
    columns = tuple(dict.fromkeys((*kept, *(name for source in sources for name in source.columns),
                                   *(TURNS for source in sources if source.conversations))))
    options = _Options(named, kept, columns, language, store, limits)
    if (out / "manifest.json").is_file():
        table = _to_be_added_to(out, options)
        _fill(table, sources, options, split, split_of, workers, progress)
        return table
    with appearing(out) as part:
        extra = pa.schema([(name, TURN_TYPE if name == TURNS else pa.string()) for name in columns])
        _fill(Table.create(part, extra=extra), sources, options, split, split_of, workers, progress)
    return Table.open(out)


def ingest_samples(source: Source, out: Path, *, split: str = "train", store: str = "bytes", workers: int = 1,
                   progress: bool = False) -> Table:
    """A new table at out of the samples of a source that its reader made. As `ingest` otherwise; raises ValueError
    when there are none."""
    if store not in STORES:
        raise ValueError(f"store={store!r}; a table stores {' or '.join(map(repr, STORES))}")
    options = _Options((), (), (), "en", store, DEFAULT_LIMITS)
    _fill(Table.create(out), [source], options, split, None, workers, progress)
    return Table.open(out)


def _to_be_added_to(out: Path, options: _Options) -> Table:
    table = Table.open(out)
    note = table.info.get("ingest")
    if note is None:
        raise ValueError(f"there is something at {out} already: a table that ingest did not make; choose another place")
    for name, value in (("captions", options.captions), ("columns", options.columns), ("store", options.store)):
        before = note.get(name, value)
        if (list(value) if isinstance(value, tuple) else value) != before:
            raise ValueError(f"{out} was made with {name} {before!r}, and this asks for {value!r}; "
                             "ingest with the same, or to another place")
    return table


def _fill(table: Table, sources: list[Source], options: _Options, split: str,
          split_of: Callable[[str], str | None] | None, workers: int, progress: bool) -> None:
    """Append what is new in the sources, and note what was met."""
    problems, counts = Problems(), Counter()
    seen: Counter[str] = Counter()                        # which of the named keys any sample has
    known = _known(table)
    with progress_bar(table.uri.name.removeprefix(".").removesuffix(".part"), "pictures", progress) as advance:
        samples = itertools.chain.from_iterable(
            source.samples(options.limits.max_bytes, problems) for source in sources)
        rows = _rows(_identified(samples, known, options, counts, problems), options, workers)
        table.append(_finished(rows, split, split_of, seen, advance))
    if not counts["new"] and not counts["known"]:
        places = some([f"{source.place} (read as {source.format})" for source in sources])
        told = "".join(f"; {line}" for line in problems.lines())
        raise ValueError(f"no pictures in {places}{told}. Is it another place, or another format (--format NAME)?")
    if counts["new"]:
        for name in (*options.captions, *options.fields):
            if not seen[name]:
                problems.append(f"no sample has the key {name!r}")
    read = counts["new"] + counts["known"] + problems.left_out.total()
    note = {"sources": [str(source.place) for source in sources], "formats": [source.format for source in sources],
            "captions": list(options.captions), "columns": list(options.columns), "store": options.store,
            "read": read, "new": counts["new"], "known": counts["known"], "left_out": dict(problems.left_out),
            "problems": problems.lines()}
    table.append([], info={"ingest": note})


def summary(table: Table) -> dict[str, Any]:
    """Counts for a report: what the last ingest read = new + known + left out by reason; rows, and of them by status
    and split; captions, by language; problems met at the last ingest.

    >>> summary(table)
    {'read': 2, 'new': 2, 'known': 0, 'left_out': {}, 'rows': 2, 'status': {'ok': 2}, 'split': {'train': 2},
     'captions': 3, 'languages': {'en': 3}, 'problems': []}
    """
    status: Counter[str] = Counter()
    split: Counter[str] = Counter()
    languages: Counter[str] = Counter()
    for batch in table.scan(["status", "split", "captions"]):
        status.update(batch["status"].to_pylist())
        split.update(batch["split"].to_pylist())
        languages.update(caption["language"] for row in batch["captions"].to_pylist() for caption in row or ())
    note = {"read": None, "new": None, "known": None, "left_out": {}, "problems": []} | table.info.get("ingest", {})
    last = {name: note[name] for name in ("read", "new", "known", "left_out")}
    return {**last, "rows": table.num_rows, "status": dict(status.most_common()), "split": dict(split.most_common()),
            "captions": languages.total(), "languages": dict(languages.most_common()),
            "problems": note["problems"]}


def _names(keys: str | Sequence[str] | None) -> tuple[str, ...]:
    """"text,tags" or ("text", "tags") -> ("text", "tags")."""
    names = keys.split(",") if isinstance(keys, str) else keys or ()
    return tuple(dict.fromkeys(name.strip() for name in names if name.strip()))


def _places(source: str | Path | Sequence[str | Path]) -> list[Path]:
    places: list[Path] = []
    for entry in [source] if isinstance(source, str | Path) else source:
        found = [Path(entry)] if Path(entry).exists() else sorted(Path(name) for name in glob.glob(str(entry)))
        if not found:
            raise ValueError(f"there is nothing at {entry}; give a folder of pictures, a file of data, or a glob")
        places += found
    if not places:
        raise ValueError("source is an empty list; give a folder of pictures, a file of data, or a glob")
    return places


@dataclass(frozen=True)
class _Known:
    """What tells a row that is there from another of its id. empty: its picture was missing, so it may still come."""

    mark: str
    empty: bool
    captions: list[tuple[str, str]]


def _known(table: Table) -> dict[str, _Known]:
    columns = ["id", "bytes", "uri", "offset", "length", "status", "captions"]
    said = [TURNS] if TURNS in table.columns else []
    return {row["id"]: _Known(_mark(row["bytes"], row["uri"], row["offset"], row["length"], row.get(TURNS)),
                              row["status"] == "empty",
                              [(caption["text"], caption["language"]) for caption in row["captions"] or []])
            for batch in table.scan([*columns, *said], batch_rows=BATCH) for row in batch.to_pylist()}


def _mark(data: bytes | None, uri: str | None, offset: int | None, length: int | None, said: Any) -> str:
    """Of the picture, and of what is said about it: one picture can have many conversations under one id."""
    return f"{digest(data) if data is not None else f'{uri} {offset} {length}'} {json.dumps(said)}"


def _identified(samples: Iterator[Sample], known: dict[str, _Known], options: _Options, counts: Counter[str],
                problems: Problems) -> Iterator[Named]:
    """One id a sample, and only the samples that are not known. The same key with another picture is another row; the
    same picture with other captions is told, as a row never changes."""
    taken: set[str] = set()
    for sample in samples:
        name, number, again = _name_of(sample), 1, False
        key, marks = name, _marks(sample, TURNS in options.columns) if known else ()
        while key in taken or (key in known and known[key].mark not in marks):
            again |= key in taken or not known[key].empty
            number += 1
            key = f"{name}#{number}"
        taken.add(key)
        if key in known:
            counts["known"] += 1
            if _said(sample, options)[1] != known[key].captions:
                problems.note("pictures have other captions now and keep those of before; ingest to another place to "
                              "have the new ones", key)
            continue
        counts["new"] += 1
        if again:
            problems.note("keys came before", name)
        yield sample, key, again


def _marks(sample: Sample, with_turns: bool) -> tuple[str, str]:
    """As `_mark` of its row, whether that stores the bytes or refers to them."""
    uri = None if sample.path is None else str(sample.path.resolve())
    offset = None if sample.path is None else sample.offset
    said = None
    if with_turns:
        with contextlib.suppress(ValueError):             # then its row has null
            value = _meta(sample)[0].get(TURNS)
            said = None if value is None else turns(value)
    return _mark(sample.data, uri, offset, sample.length, said), _mark(None, uri, offset, sample.length, said)


def _rows(samples: Iterator[Named], options: _Options, workers: int) -> Iterator[tuple[dict[str, Any], list[str]]]:
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
    """What is not for a worker: the split, and which keys there were."""
    for row, keys in rows:
        seen.update(keys)
        row["split"] = split_of(row["id"]) if split_of else row["split"] or split
        advance(1, None)
        yield row


def _make_rows(samples: list[Named], options: _Options) -> list[tuple[dict[str, Any], list[str]]]:
    return [_make_row(sample, name, again, options) for sample, name, again in samples]


def _name_of(sample: Sample) -> str:
    name = _meta(sample)[0].get("id")
    name = _scalar(name) if isinstance(name, str | int) and not isinstance(name, bool) else None
    return name or sample.key.encode("utf-8", "replace").decode()


def _make_row(sample: Sample, name: str, again: bool, options: _Options) -> tuple[dict[str, Any], list[str]]:
    """One sample -> its row without split rules, and which of the named JSON keys it has."""
    meta, captions, said, bad_text = _said(sample, options)
    if sample.data is None:
        status = "too_many_bytes" if sample.length > options.limits.max_bytes else "decode_error"
        width = height = None
    else:
        found = decode(sample.data, options.limits, ENOUGH)
        status, width, height = found.status, found.width or None, found.height or None
        if bad_text and found.image is not None:
            status = "bad_text"
    row: dict[str, Any] = {
        "id": name, "captions": [{"text": text, "language": code} for text, code in captions],
        "source": sample.source, "split": _scalar(sample.listed[0].get("split")) if sample.listed else None,
        "width": width, "height": height, "status": "duplicate_key" if again else status,
        **{key: said if key == TURNS else _scalar(meta.get(key)) for key in options.columns}}
    if sample.data is not None and (options.store == "bytes" or sample.path is None):
        row["bytes"] = sample.data
    elif sample.path is not None and (uri := _scalar(str(sample.path.resolve()))) is not None:
        row |= {"uri": uri, "offset": sample.offset, "length": sample.length}
    elif sample.data is not None:                         # a name that is no Unicode can't be pointed to
        row["bytes"] = sample.data
    else:
        row["length"] = sample.length
    return row, [key for key in (*options.captions, *options.fields) if meta.get(key) is not None]


def _said(sample: Sample, options: _Options) -> tuple[dict[str, Any], list[tuple[str, str]], Any, bool]:
    """What a sample says: the JSON, its captions and its turns; and whether a text is none, which ends the reading."""
    meta, bad_text = _meta(sample)
    captions: list[tuple[str, str]] = []
    said = None
    try:
        if TURNS in options.columns and meta.get(TURNS) is not None:
            said = turns(meta[TURNS])
        captions = _captions_of(sample, meta, options)
    except (ValueError, RecursionError):
        bad_text = True
    return meta, captions, said, bad_text or sample.bad_text


def captions_beside(json: bytes | None, txt: bytes | None, keys: Sequence[str] = (),
                    listed: tuple[dict[str, Any], ...] = ()) -> tuple[list[tuple[str, str]], dict[str, Any], bool]:
    """(text, language) of the captions beside a picture as `ingest` reads them, the JSON object, and whether a text is
    none. json, txt: the files; keys: of the JSON, those that hold captions, by default as in `ingest`; listed: what a
    listing says of the picture."""
    options = _for_captions(tuple(keys))
    meta, captions, _, bad_text = _said(Sample("", "", None, 0, 0, None, json, txt, listed), options)
    return captions, meta, bad_text


@functools.cache
def _for_captions(keys: tuple[str, ...]) -> _Options:
    return _Options(keys, (), (), "en", "reference", DEFAULT_LIMITS)


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
    return [caption for key in named for caption in _texts(
        answers(row[key]) if key == TURNS and row.get(key) is not None else row.get(key), language)]


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
        text = json.dumps(value, ensure_ascii=False, default=str)
    try:
        return None if text is None else text.encode().decode()
    except UnicodeEncodeError:
        return None
