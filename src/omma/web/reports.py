"""The reports in folders that were named when `omma serve` started: pages of omma, and what pages are made of.

    reports = Reports(["reports"])
    reports.listed(), reports.page(reports.listed()[0]["id"])      # newest first; a page as HTML

    *.html           shown as it is, whoever wrote it: without scripts, in a sandbox of its own
    report.json      of `omma eval`: its answers are laid out when somebody looks (omma show REPORT --html)
    pairs.parquet    of `omma blind`: likewise

They go by a number made from their place, never by a path, and what lies elsewhere, behind a link, is not there.
"""

import contextlib
import html
import json
import os
import re
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any

from omma.eval.blind_page import page_of_pairs
from omma.eval.report import page_of
from omma.web.gate import Refused

MOST_BYTES = 64 << 20    # of a page
MOST_LOOKED_AT = 5000    # folders
MOST_LISTED = 500
DEEPEST = 4              # folders below the one that was named
KEPT = 8                 # pages that were made, kept until their sources change
TITLE = re.compile(rb"<title[^>]*>(.{0,400}?)</title>", re.IGNORECASE | re.DOTALL)
# a page of anybody: no script, nothing loaded, no origin, so that it can't ask this server anything either
POLICY = ("sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; "
          "frame-ancestors 'none'")  # fmt: skip
SOURCES = {"report.json": ("report.json", "rows.parquet"), "pairs.parquet": ("pairs.parquet",)}


class Reports:
    """Folders with reports. Any thread may ask."""

    def __init__(self, folders: Sequence[str | Path] = ()):
        """Raises ValueError for what is no folder."""
        for folder in folders:
            if not Path(folder).is_dir():
                raise ValueError(f"no folder at {folder}; --reports takes one that holds reports of omma eval, omma "
                                 "blind or omma bench")  # fmt: skip
        self.folders = [Path(folder).expanduser().resolve() for folder in folders]
        self._made: OrderedDict[tuple, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def listed(self) -> list[dict[str, Any]]:
        """id, title, kind (page, eval, blind), place (from the folder's name on) and date (UTC), the newest first."""
        told = []
        for number, (file, place) in self._files().items():
            with contextlib.suppress(OSError):             # gone since
                told.append({"id": number, "title": title_of(file), "kind": kind_of(file), "place": place,
                             "date": date_of(file)})  # fmt: skip
        return sorted(told, key=lambda one: (one["date"], one["place"]), reverse=True)[:MOST_LISTED]

    def page(self, number: str) -> bytes:
        """HTML. Raises `Refused` for what is not there (any more), ValueError for what can't be shown."""
        file, place = self._files().get(number, (None, ""))
        if file is None:
            raise Refused(404, f"no report {number[:40]!r} here; it may have gone since")
        if file.suffix == ".html":
            if file.stat().st_size > MOST_BYTES:
                raise ValueError(f"{place} has more than {MOST_BYTES} bytes")
            return file.read_bytes()
        stamps = tuple((file.parent / name).stat().st_mtime_ns for name in SOURCES[file.name])
        with self._lock:
            if (page := self._made.get((number, stamps))) is not None:
                self._made.move_to_end((number, stamps))
                return page
        page = made(file, place)
        with self._lock:
            self._made[number, stamps] = page
            while len(self._made) > KEPT:
                self._made.popitem(last=False)
        return page

    def hidden(self, text: str) -> str:
        """A message without the places of these folders."""
        for folder in self.folders:
            text = text.replace(str(folder), folder.name)
        return text

    def _files(self) -> dict[str, tuple[Path, str]]:
        """Number -> the file that a page is, or is made of, and what its place is called."""
        found = {}
        for folder in self.folders:
            for file in below(folder):
                place = f"{folder.name}/{file.relative_to(folder).as_posix()}"
                shown = place if file.suffix == ".html" else place.rpartition("/")[0]
                found[blake2b(str(file).encode(errors="surrogateescape"), digest_size=8).hexdigest()] = file, shown
        return found


def below(folder: Path) -> Iterator[Path]:
    """The files that are pages or make one; hidden folders, and what lies elsewhere behind a link, are left out."""
    for looked, (place, folders, files) in enumerate(os.walk(folder)):
        depth = len(Path(place).relative_to(folder).parts)
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if depth < DEEPEST else []
        if looked >= MOST_LOOKED_AT:
            return
        pages = sorted(name for name in files if name.lower().endswith(".html"))
        made = [name for name, parts in SOURCES.items() if set(parts) <= set(files) and not (name == "report.json" and
                                                                                             "report.html" in pages)]
        for name in (*pages, *made):
            file = Path(place) / name
            if file.is_file() and file.resolve().is_relative_to(folder):
                yield file


def made(file: Path, place: str) -> bytes:
    """The page of a report's or of pairs' folder."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "page.html"
        try:
            if file.name == "pairs.parquet":
                page_of_pairs(file.parent, out)
            else:
                page_of([file.parent], out)
        except (ValueError, KeyError, TypeError) as error:  # what lies there was not written by omma, or is broken
            raise ValueError(f"{place} can't be laid out: {type(error).__name__} {error}") from error
        return out.read_bytes()


def kind_of(file: Path) -> str:
    return {"report.json": "eval", "pairs.parquet": "blind"}.get(file.name, "page")


def date_of(file: Path) -> str:
    return datetime.fromtimestamp(file.stat().st_mtime, UTC).isoformat(timespec="seconds")


def title_of(file: Path) -> str:
    """What a page calls itself, or what was measured."""
    if file.name == "report.json":
        try:
            told = json.loads(file.read_bytes())
            return f"{told['model']} on {told['task']}"
        except (ValueError, KeyError, TypeError, OSError):
            return "a report that can't be read"
    if file.name == "pairs.parquet":
        return "Pairs that one eye takes for the same"
    with file.open("rb") as opened:
        found = TITLE.search(opened.read(1 << 16))
    title = " ".join(html.unescape(found[1].decode(errors="replace")).split()) if found else ""
    return title or file.stem
