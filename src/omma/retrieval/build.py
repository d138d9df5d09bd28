"""Folders -> an index: only what is new, changed or gone is touched, and what was done stays done.

    index = build_index("~/Pictures")                       # the eye that comes with omma
    index = build_index("~/Papers", encoder="openai/clip-vit-base-patch32")
    index.last                                              # {'new': 120, 'changed': 2, 'gone': 1, 'same': 5301, ...}

A file is known by its size and time, then by its hash: one that was moved or copied is not looked at again. Everything
of a file is written at once, so an indexing that was killed goes on with the next file.
"""

import hashlib
import json
import shlex
import time
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from omma.data.readers import Problems
from omma.data.split import SIDE, near_duplicates
from omma.decode import DEFAULT_LIMITS
from omma.jobs import progress_bar
from omma.models.pretrained import load_encoder
from omma.models.weights import shipped
from omma.retrieval.find import Index, default_index, place_of
from omma.retrieval.media import scarce
from omma.retrieval.ocr import read_words, tesseract
from omma.retrieval.process import MediaProcess
from omma.retrieval.reading import (
    ENOUGH,
    MOST_PDF,
    MOST_TEXT,
    Item,
    Unreadable,
    caption_of,
    day,
    finish,
    read_all,
    read_passages,
    read_picture,
)
from omma.retrieval.store import Space, Store, filling
from omma.retrieval.unfamiliar import MOST, advice
from omma.retrieval.walk import Found, walk

DEFAULT_EYE = "vlmo-nano"
OCR = {"none": 0, "pages": 1, "all": 2}
PRINT = 1600           # pixels of the short side of a picture whose words are read
Ocr = Literal["none", "pages", "all"]
Precision = Literal["auto", "bf16", "fp32"]
BATCH = 32             # pictures that an eye takes at a time
TOGETHER = 64          # files written at a time, at most
ITEM = ("kind", "part", "page", "line", "start", "end", "moment", "width", "height", "date", "caption", "text", "boxes")
CELLS = ", ".join(f'"{name}"' for name in ITEM)


def build_index(folder: str | Path | Sequence[str | Path] | None = None, index: str | Path | None = None, *,
                encoder: Any = None, ocr: Ocr = "pages", batch_size: int = BATCH, device: str = "auto",
                precision: Precision | None = None, progress: bool = False) -> Index:
    """Makes or brings up to date the index of one or several folders, and returns it opened.

    folder: None for all that are in it already. index: its file; None for this person's own (`default_index`).
    encoder: an `Encoder` or what `load_encoder` takes; None for the eye that indexed last, at first the one that comes
    with omma. Another one than before adds its vectors beside those of the others. precision: what the eye computes in,
    of an eye by its name: auto (bf16 where the processor is fast in it), bf16 or fp32; None for what it had before
    here, at first auto, and fp32 of the eyes that come with omma.

    Pictures get a vector, a thumbnail, and the captions beside them (as `omma.ingest` reads them), pages of PDF files a
    vector, a thumbnail and their text, videos the same for a frame of each shot; texts are found by their words. ocr:
    whose words tesseract reads where it is installed: "pages" those of pages without a text, "all" pictures' too, and
    "none". Copies and versions of a picture are grouped. `Index.last` counts what was met; files that can't be
    read are in `Index.unreadable()` with the reason and are looked at again once they change.

    A file is kept once: a folder inside one that is indexed brings that part of it up to date, and a folder around one
    takes it in, with all that was found out about its files.

    Raises ValueError for a folder that isn't there, a file that is no index, and while another process fills it.
    """
    path = Path(index) if index is not None else default_index()
    folders = None if folder is None else [folder] if isinstance(folder, str | Path) else list(folder)
    sources = None if folders is None else [Path(place).expanduser().resolve() for place in folders]
    for source in sources or ():
        if not source.is_dir():                           # before an index is made, and an eye is loaded
            raise ValueError(f"no folder at {source}; give one with pictures, PDF files, videos or texts")
    first = None if sources is None or path.exists() else loaded(encoder, None, device, precision)
    store = Store(path, create=sources is not None)       # after the eye: one that can't be loaded leaves no index
    with filling(path):
        if sources is None:
            sources = [Path(source) for source in store.sources()]
            sources = [source for source in sources if outermost(source, store.sources()) == source]
            if not sources:
                raise ValueError(f"{path} knows no folder yet. Give one: omma index FOLDER")
        store.renew_words()
        eye, place = first or loaded(encoder, store, device, precision)
        space = store.add_space(eye.fingerprint, eye.name, place, eye.embed_dim, getattr(eye, "precision", "fp32"))
        opened = Index(store, eye)
        for folder in sources:
            source = outermost(folder, store.sources())
            told = take_in(store, source)
            if source != folder:
                told.append(f"{folder} lies in {source}, which is indexed: this part of it was brought up to date")
            with MediaProcess() as media:
                one = Filling(store, space, eye, source, batch_size, ocr, media, folder)
                opened.last = one.run(progress, told)
                opened.runs.append(opened.last)
    return opened


def loaded(encoder: Any, store: Store | None, device: str, precision: Precision | None) -> tuple[Any, str]:
    """An eye and the name by which an index finds it again: the one asked for, else the index's first."""
    spaces = store.spaces() if store else []
    wanted = encoder if encoder is not None else spaces[0].place if spaces else DEFAULT_EYE
    if not isinstance(wanted, str | Path):
        return wanted, wanted.name
    place = place_of(wanted)
    # the eyes that come with omma gain an eighth by bf16, and should find the same on every machine
    usual: Precision = "fp32" if place in shipped() else "auto"
    kept = store.precision_of(place, usual) if store else usual
    return load_encoder(wanted, device=device, precision=precision or kept), place


def outermost(folder: Path, sources: Iterable[str]) -> Path:
    """The indexed folder that a folder lies in and is read with, itself where there is none."""
    for source in sorted(sources, key=len):
        if folder.is_relative_to(source) and not any(part.startswith(".") for part in folder.relative_to(source).parts):
            return Path(source)
    return folder


def take_in(store: Store, source: Path) -> list[str]:
    """Files of folders that were indexed by themselves become those of the one around them; what to tell of it."""
    told = []
    for inner in store.sources():
        if inner == str(source) or outermost(Path(inner), [str(source)]) != source:
            continue
        if not Path(inner).is_dir() or not any(Path(inner).iterdir()):
            continue                                      # its disk may be away: nothing of it is known to be gone
        start = f"{Path(inner).relative_to(source).as_posix()}/"
        with store.writing() as con:
            con.execute("DELETE FROM file WHERE source = ? AND ? || path IN (SELECT path FROM file WHERE source = ?)",
                        (inner, start, str(source)))      # it was kept twice
            moved = con.execute("UPDATE file SET source = ?, path = ? || path WHERE source = ?",
                                (str(source), start, inner)).rowcount
            con.execute("DELETE FROM run WHERE source = ?", (inner,))
            for row in con.execute("SELECT item.id, path, coalesce(caption, ''), coalesce(text, '') FROM item JOIN "
                                   "file ON file.id = file WHERE source = ? AND substr(path, 1, ?) = ?",
                                   (str(source), len(start), start)).fetchall():
                store.write_words(*row)                   # the folder's name is among them now
        told.append(f"{inner} lies in {source}: {moved} of its files are that one's now, and none is kept twice")
    return told


class Filling:
    """One pass over one folder, or over a part of it."""

    def __init__(self, store: Store, space: Space, eye: Any, source: Path, batch_size: int, ocr: Ocr,
                 media: MediaProcess, part: Path | None = None):
        self.part = part or source
        self.start = "" if self.part == source else f"{self.part.relative_to(source).as_posix()}/"
        self.store, self.space, self.eye, self.source, self.batch_size = store, space, eye, source, batch_size
        self.media, self.ocr = media, OCR[ocr] if tesseract() else 0
        self.problems, self.counts = Problems(), Counter()
        self.waiting: list[tuple[Found, str, list[Item]]] = []   # read, and not written
        self.unseen: list[Item] = []                             # of these, those whose vectors are to be made
        self.looked = False                                      # there are vectors that were not written

    def run(self, progress: bool, told: Sequence[str] = ()) -> dict[str, Any]:
        """What it met, in counts; told: lines to be among its problems."""
        started = time.time()
        for line in told:
            self.problems.append(line)
        listing = walk(self.source, self.problems)        # all of it, where listings of captions lie, too
        listing.files = [found for found in listing.files if found.path.startswith(self.start)]
        known = {row[1]: row for row in self.store.rows(
            "SELECT file.id, path, size, mtime, beside, digest, status, space IS NOT NULL, ocr FROM file LEFT JOIN "
            "done ON done.file = file.id AND done.space = ? WHERE source = ?", self.space.id, str(self.source))
            if row[1].startswith(self.start)}
        todo = [found for found in listing.files if not self._same(found, known.get(found.path))]
        present = {found.path for found in listing.files}
        closed = tuple(f"{folder}/" for folder in listing.closed)
        gone = {path: row[0] for path, row in known.items() if path not in present and not path.startswith(closed)}
        if gone and not listing.files:                    # a disk that isn't mounted is an empty folder too
            self.problems.append(
                f"{self.part} is empty now, so its {len(gone)} files are kept in the index; bring its disk back, or "
                f"take them out: omma index {'' if self.start else 'forget '}{shlex.quote(str(self.source))}")
            gone = {}
        self.counts.update(files=len(listing.files), same=len(listing.files) - len(todo))
        with progress_bar(self.part.name, "files", progress) as advance:
            advance(0, len(todo))
            done = 0
            for found in todo:
                self._take(found, known.get(found.path), gone)
                if self.waiting and (self.looked or len(self.waiting) >= TOGETHER):
                    done += self._write()
                advance(done, len(todo))
            done += self._write()
            advance(len(todo), len(todo))
        with self.store.writing() as con:
            con.executemany("DELETE FROM file WHERE id = ?", [(number,) for number in gone.values()])
        self.counts["gone"] += len(gone)
        self._group()
        advised = self._advice()
        counts = {"source": str(self.part), **{name: self.counts[name] for name in (
            "files", "new", "changed", "moved", "copies", "touched", "same", "gone", "unreadable", "pictures_seen")},
            "problems": self.problems.lines(), "advice": advised, "seconds": round(time.time() - started, 2)}
        with self.store.writing() as con:
            con.execute("INSERT INTO run (source, started, ended, counts) VALUES (?, ?, ?, ?)",
                        (str(self.part), started, time.time(), json.dumps(counts)))
        return counts

    def _same(self, found: Found, row: tuple[Any, ...] | None) -> bool:
        if row is None or (found.size, found.mtime, found.beside) != row[2:5]:
            return False
        return (bool(row[7]) and row[8] >= self._words_of(found)) if row[6] == "ok" else row[6] != "needs"

    def _words_of(self, found: Found) -> int:
        """What of OCR a file of this kind gets, 0 for none."""
        least = {"pdf": OCR["pages"], "picture": OCR["all"]}.get(found.kind, 0)
        return least if self.ocr >= least else 0

    def _take(self, found: Found, row: tuple[Any, ...] | None, gone: dict[str, int]) -> None:
        """Do what a new or changed file needs, or read it and let it wait to be written with others."""
        path, items = self.source / found.path, []
        try:
            data = b"" if found.kind == "video" else read_all(path, most_bytes(found.kind))
            hash_ = digest_of(path, data, found)
            if self._known(found, row, hash_, gone):
                return
            for item in self._items(path, data, found):
                items.append(item)
                if item.image is not None:
                    self.unseen.append(item)
                    if len(self.unseen) >= self.batch_size:
                        self._look()
            now = path.stat()
            if (now.st_size, now.st_mtime_ns) != (found.size, found.mtime):
                found = replace(found, mtime=-1)          # it changed meanwhile: the next indexing looks again
                self.problems.note("files changed while they were read; index again", found.path)
            self.waiting.append((found, hash_, items))
        except FileNotFoundError:
            self.problems.note("files went while the folder was read", found.path)
        except Unreadable as error:
            self.unseen = [item for item in self.unseen if item not in items]
            self._new_file(found, "", error.status, error.note)
            self.counts["unreadable"] += 1

    def _items(self, path: Path, data: bytes, found: Found) -> Iterator[Item]:
        """What can be found in a file; where OCR is asked for, with the words in its pictures."""
        wanted = self._words_of(found)
        if found.kind == "text":
            yield from read_passages(data, found)
            return
        if found.kind == "picture":
            items: Iterable[Item | str] = [read_picture(path, data, found, PRINT if wanted else ENOUGH)]
        else:
            items = self.media.items(path, found.kind, **({"scans": True} if wanted else {}))
        for item in items:
            if isinstance(item, str):
                self.problems.note("pages can't be read", f"{found.path} {item}")
                continue
            item.date = item.date or day(found)
            if wanted and scarce(item.text) and item.image is not None:
                try:
                    text, boxes = read_words(item.image)
                    if len(text) > len(item.text) or (text and "\ufffd" in item.text):
                        item.text, item.boxes = text, zlib.compress(json.dumps(boxes).encode())
                except (TimeoutError, ValueError) as error:
                    self.problems.note("pictures whose words can't be read", f"{found.path}: {error}")
            yield item

    def _known(self, found: Found, row: tuple[Any, ...] | None, hash_: str, gone: dict[str, int]) -> bool:
        """Whether its content is in the index: as it was, under another path that is gone, or in a copy."""
        if row is not None and row[5] == hash_ and row[7] and row[6] == "ok" and row[8] >= self._words_of(found):
            self._rename(row[0], found)
            self.counts["touched"] += 1
            return True
        twins = self.store.rows(
            "SELECT file.id, source, path FROM file JOIN done ON done.file = file.id WHERE digest = ? AND "
            "status = 'ok' AND space = ? AND ocr >= ? ORDER BY file.id", hash_, self.space.id, self._words_of(found))
        for number, source, path in twins:
            if row is None and source == str(self.source) and gone.get(path) == number:
                del gone[path]
                self._rename(number, found)
                self.counts["moved"] += 1
                return True
        if not twins:
            return False
        self._copy(twins[0][0], found, hash_, row)
        return True

    def _rename(self, file: int, found: Found) -> None:
        """The path, times and captions of a file whose content stayed."""
        caption = caption_of(self.source / found.path, found) if found.kind == "picture" else ""
        with self.store.writing() as con:
            con.execute("UPDATE file SET path = ?, size = ?, mtime = ?, beside = ? WHERE id = ?",
                        (found.path, found.size, found.mtime, found.beside, file))
            for item, text in con.execute("SELECT id, text FROM item WHERE file = ?", (file,)).fetchall():
                con.execute("UPDATE item SET caption = ? WHERE id = ?", (caption, item))
                self.store.write_words(item, found.path, caption, text)

    def _copy(self, twin: int, found: Found, hash_: str, row: tuple[Any, ...] | None) -> None:
        """Items, small pictures and vectors of a file with the same bytes, side by side with theirs."""
        with self.store.writing() as con:
            file = self._new_file(found, hash_)
            for (old,) in con.execute("SELECT id FROM item WHERE file = ? ORDER BY part", (twin,)).fetchall():
                item = con.execute(f"INSERT INTO item (file, {CELLS}) SELECT ?, {CELLS} FROM item WHERE id = ?",
                                   (file, old)).lastrowid
                con.execute("INSERT INTO picture SELECT ?, thumbnail, look FROM picture WHERE item = ?", (item, old))
                con.execute("INSERT INTO vector (item, space, data) SELECT ?, space, data FROM vector WHERE item = ?",
                            (item, old))
                con.execute("INSERT INTO alike VALUES (?, ?)", (old, item))
            con.execute("INSERT INTO done SELECT ?, space FROM done WHERE file = ?", (file, twin))
            self._rename(file, found)
        self.counts["copies"] += 1
        self.counts["changed" if row else "new"] += 1

    def _new_file(self, found: Found, hash_: str, status: str = "ok", note: str = "") -> int:
        """A row for the file, instead of one that may be there with all its items."""
        with self.store.writing() as con:
            con.execute("DELETE FROM file WHERE source = ? AND path = ?", (str(self.source), found.path))
            return con.execute(
                "INSERT INTO file (source, path, size, mtime, beside, ocr, digest, status, note) VALUES (?, ?, ?, ?, "
                "?, ?, ?, ?, ?)", (str(self.source), found.path, found.size, found.mtime, found.beside,
                                self._words_of(found), hash_, status, note)).lastrowid or 0

    def _look(self) -> None:
        """The vectors and small pictures of what has been read."""
        images = [item.image for item in self.unseen]
        for item, vector in zip(self.unseen, self.eye.encode_image(images, batch_size=self.batch_size), strict=True):
            item.vector = np.asarray(vector, np.float32)
            finish(item)
            item.image = None
            self.counts["photographs"] += item.photograph
        self.counts["pictures_seen"] += len(images)
        self.unseen, self.looked = [], True

    def _write(self) -> int:
        """All that waits, in one transaction; how many files."""
        if self.unseen:
            self._look()
        with self.store.writing() as con:
            for found, hash_, items in self.waiting:
                there = con.execute("SELECT id FROM file WHERE source = ? AND path = ?",
                                    (str(self.source), found.path)).fetchone()
                same = con.execute("SELECT id, ocr FROM file WHERE source = ? AND path = ? AND digest = ? AND status = "
                                   "'ok'", (str(self.source), found.path, hash_)).fetchone()
                ids = dict(con.execute("SELECT part, id FROM item WHERE file = ?", same[:1])) if same else {}
                if same and ids.keys() == {item.part for item in items}:   # another eye has been here, or no OCR
                    file, words = same[0], self._words_of(found)
                    numbers = [ids[item.part] for item in items]
                    if words >= same[1]:                  # what OCR has read is not read away
                        con.execute("UPDATE file SET ocr = ? WHERE id = ?", (words, file))
                        for number, item in zip(numbers, items, strict=True):
                            con.execute("UPDATE item SET text = ?, boxes = ? WHERE id = ?",
                                        (item.text, item.boxes, number))
                            self.store.write_words(number, found.path, item.caption, item.text)
                    self.counts["touched"] += 1
                else:
                    file = self._new_file(found, hash_)
                    numbers = [self._new_item(file, found, item) for item in items]
                    self.counts["changed" if there else "new"] += 1
                seen = [(number, item.vector) for number, item in zip(numbers, items, strict=True)
                        if item.vector is not None and np.isfinite(item.vector).all()]
                if seen:
                    self.store.upsert(self.space.fingerprint, [n for n, _ in seen], np.stack([v for _, v in seen]))
                con.execute("INSERT OR IGNORE INTO done VALUES (?, ?)", (file, self.space.id))
        written, self.waiting, self.looked = len(self.waiting), [], False
        return written

    def _new_item(self, file: int, found: Found, item: Item) -> int:
        con = self.store.connection
        values = [getattr(item, name) for name in ITEM]
        number = con.execute(f"INSERT INTO item (file, {CELLS}) VALUES (?{', ?' * len(ITEM)})",
                             (file, *values)).lastrowid or 0
        if item.thumbnail is not None:
            con.execute("INSERT INTO picture VALUES (?, ?, ?)", (number, item.thumbnail, item.look))
        self.store.write_words(number, found.path, item.caption, item.text)
        return number

    def _advice(self) -> str | None:
        """Whether the eye knows such pictures (`unfamiliar.advice`); versions of one picture count once."""
        rows = self.store.rows(
            "SELECT data FROM vector JOIN item ON item.id = vector.item JOIN file ON file.id = file WHERE space = ? "
            "AND source = ? AND vector.item NOT IN (SELECT b FROM alike) ORDER BY vector.item LIMIT ?",
            self.space.id, str(self.source), MOST)
        vectors = np.frombuffer(b"".join(row[0] for row in rows), np.float16).reshape(-1, self.space.width)
        seen = self.counts["pictures_seen"]
        return advice(self.eye.name, vectors, self.counts["photographs"] / seen if seen else 0.0, str(self.source))

    def _group(self) -> None:
        """Note which pictures are versions of another one, of those that came since this was last done: also of those
        that a killed pass has left."""
        last = (self.store.rows("SELECT value FROM meta WHERE key = 'grouped'") or [(0,)])[0][0]
        come, newest = self.store.rows("SELECT count(*), max(item.id) FROM item JOIN picture ON item = item.id WHERE "
                                       "kind = 'picture' AND item.id > ?", last)[0]
        if not come:
            return
        rows = self.store.rows("SELECT item, look FROM picture JOIN item ON item.id = item WHERE kind = 'picture' "
                               "ORDER BY item <= ?, item", last)
        looks = np.frombuffer(b"".join(look for _, look in rows), np.uint8).reshape(-1, SIDE, SIDE, 3)
        pairs = near_duplicates(looks, among=come)
        with self.store.writing() as con:
            con.executemany("INSERT OR IGNORE INTO alike VALUES (?, ?)",
                            [tuple(sorted((rows[i][0], rows[j][0]))) for i, j in pairs])
            con.execute("INSERT OR REPLACE INTO meta VALUES ('grouped', ?)", (newest,))


def most_bytes(kind: str) -> int:
    return {"text": MOST_TEXT, "pdf": MOST_PDF}.get(kind, DEFAULT_LIMITS.max_bytes)


def digest_of(path: Path, data: bytes, found: Found) -> str:
    """Of a file's bytes, those of a video a block at a time."""
    if found.kind != "video":
        return hashlib.blake2b(data, digest_size=16).hexdigest()
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise Unreadable("closed", error.strerror or str(error)) from None
