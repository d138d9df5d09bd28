"""Rows of a benchmark -> the tables pictures and items, with everything that did not fit counted.

A row is a dict: id, task, pattern, pictures (file names, `files.Picture`, or None for one that should be there),
prompt, options (texts), answer (the text of the right option), answers (of several people), group, split, and captions
(of its first picture). Its other keys become columns of their own, lists of text or text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from omma.data.benchmarks.files import Again, Asked, Lost, Named, Picture, by_name, names_in
from omma.data.formats import Source
from omma.data.ingest import ingest_samples
from omma.data.readers import Problems, Sample, Shelf
from omma.storage import some
from omma.table import ITEMS, Table, digest

ANSWERS = pa.field("answers", pa.list_(pa.string()))


def write(rows: Iterable[dict[str, Any]], out: Path, asked: Asked, *, format: str, split: str, part: str | None = None,
          store: str = "bytes", workers: int = 1, progress: bool = False) -> None:  # fmt: skip
    """Writes out/pictures and out/items. Of a folder, the pictures that are asked about become rows, and no others.

    part: keep the rows whose split this is. A picture that isn't there is counted, and its item keeps the name. A file
    that the benchmark holds is known by its bytes, so that what many rows repeat is stored once. An id that came before
    gets "#2", "#3". Raises ValueError where no row is left, or none of the pictures is there.
    """
    kept: list[dict[str, Any]] = []
    shelf = _Shelf(asked)
    seen: Counter[str | None] = Counter()

    def samples(max_bytes: int, problems: Problems) -> Iterator[Sample]:
        ids: Counter[str] = Counter()
        for row in rows:
            seen[row.get("split")] += 1
            if part is not None and row.get("split") != part:
                continue
            captions = row.pop("captions", None)
            found = []
            for number, named in enumerate(row["pictures"]):
                name, sample = shelf.take(named, captions if number == 0 else None, max_bytes, problems)
                found.append(name)
                if sample is not None:
                    yield sample
            kept.append(_checked(row | {"pictures": found, "split": row.get("split") or split}, ids, asked))
        if not kept:
            told = some([f"{name} ({n})" for name, n in seen.items()]) or "nothing"
            raise ValueError(f"no rows in {asked.source}{f' with the split {part!r}' if part else ''}; it has {told}")
        if (shelf.lost or shelf.videos) and not shelf.there:
            raise ValueError(f"none of the pictures that {asked.source} names is in {asked.images}: "
                             f"{some(sorted(shelf.lost | shelf.videos))}")  # fmt: skip

    ingest_samples(Source(format, asked.source, samples, embedded=True), out / "pictures", split=split, store=store,
                   workers=workers, progress=progress)  # fmt: skip
    extra = [ANSWERS] + [pa.field(name, pa.list_(pa.string()) if any(isinstance(row.get(name), list) for row in kept)
                                  else pa.string()) for name in _more(kept)]  # fmt: skip
    items = Table.create(out / "items", "items", extra=pa.schema(extra))
    notes = asked.notes
    note = {"source": str(asked.source), "format": format, "rows": len(kept), "pictures_missing": len(shelf.lost),
            **({"videos_missing": len(shelf.videos)} if shelf.videos else {}), "files": notes.files,
            "problems": notes.problems, **notes.facts}  # fmt: skip
    items.append([_plain(row, extra) for row in kept], info={"ingest_items": note})


class _Shelf:
    """Where the rows' pictures are, and which were taken. lost, videos: names of pictures and of videos that aren't
    there."""

    def __init__(self, asked: Asked):
        self.asked, self.known = asked, None
        self.there: dict[str, str] = {}  # name or digest -> id
        self.lost: set[str] = set()
        self.videos: set[str] = set()
        self.ids: set[str] = set()
        self.named: dict[str | None, str] = {}  # the name of a picture -> id

    def take(self, named: Named, captions: Any, max_bytes: int, problems: Problems) -> tuple[str, Sample | None]:
        """The id of a picture, and what is to become its row where it is met for the first time."""
        listed = () if captions is None else ({"captions": captions},)
        if named is None:
            self.asked.notes.note("rows have no picture where one belongs", self.asked.source.name)
            self.lost.add("")
            return "", None
        if isinstance(named, Lost):
            if named.name not in self.videos:
                self.asked.notes.note("videos are not there", named.name)
            self.videos.add(named.name)
            return named.name, None
        if isinstance(named, Again):
            return self.named[named.name], None
        if isinstance(named, Picture):
            mark = digest(named.data)
            if mark in self.there:
                self.named[named.name] = self.there[mark]
            if mark not in self.there:
                name, number = named.name or mark[:16], 1
                while (name if number == 1 else f"{name}#{number}") in self.ids:
                    number += 1
                if number > 1:
                    self.asked.notes.note("pictures bear the name of another one", name)
                    name = f"{name}#{number}"
                self.ids.add(name)
                self.there[mark] = self.named[named.name] = name
                data = named.data if len(named.data) <= max_bytes else None
                return name, Sample(name, self.asked.source.name, None, 0, len(named.data), data, listed=listed)
            return self.there[mark], None
        path = self._find(named)
        if path is None:
            if named not in self.lost:
                self.asked.notes.note("pictures are not there", named)
            self.lost.add(named)
            return named, None
        if path in self.there:
            return path, None
        self.there[path] = path
        self.ids.add(path)
        assert self.asked.images is not None
        return path, Shelf(self.asked.images).sample(path, path, self.asked.images.name, listed, max_bytes, problems)

    def _find(self, name: str) -> str | None:
        if self.known is None:
            if self.asked.images is None:
                raise ValueError(f"{self.asked.source} names pictures, such as {name}, and holds none. Say where they "
                                 "are: images=FOLDER (--images FOLDER)")  # fmt: skip
            if not self.asked.images.is_dir():
                raise ValueError(f"there is no folder at {self.asked.images}; images=FOLDER holds the pictures that "
                                 f"{self.asked.source.name} names")  # fmt: skip
            self.known = by_name(names_in(self.asked.images))
        return one_of(self.known.get(name) or self.known.get(Path(name).stem), name, self.asked.source)


def one_of(found: list[str] | None, name: str, source: Path) -> str | None:
    if found and len(found) > 1:
        raise ValueError(f"{source} asks about {name}, and {len(found)} pictures are called so: {some(sorted(found))}. "
                         "Name it by its path in the folder of pictures")  # fmt: skip
    return found[0] if found else None


def _checked(row: dict[str, Any], ids: Counter[str], asked: Asked) -> dict[str, Any]:
    """The row with an id of its own; what is wrong with it is counted."""
    name = str(row["id"])
    ids[name] += 1
    if ids[name] > 1:
        asked.notes.note("ids came before", name)
        row["id"] = f"{name}#{ids[name]}"
    else:
        row["id"] = name
    options, answer = row.get("options"), row.get("answer")
    if not row["pictures"]:
        asked.notes.note("rows have no picture", name)
    if options and answer is not None and answer not in options:
        asked.notes.note("answers are none of the options", f"{name}: {answer}")
    if options and len(set(options)) < len(options):
        asked.notes.note("rows offer an option twice", name)
    if answer is None and row.get("prompt") is not None and not row.get("answers"):
        asked.notes.note("rows have no answer", name)
    return row


def _more(rows: list[dict[str, Any]]) -> list[str]:
    known = {*ITEMS.names, "answers"}
    return [name for name in dict.fromkeys(key for row in rows for key in row) if name not in known]


def _plain(row: dict[str, Any], extra: list[pa.Field]) -> dict[str, Any]:
    """Values as their columns take them."""
    done = dict(row)
    for column in extra:
        value = row.get(column.name)
        if value is not None and pa.types.is_list(column.type):
            value = [str(each) for each in (value if isinstance(value, list) else [value])]
        done[column.name] = value if value is None or isinstance(value, list) else str(value)
    return done
