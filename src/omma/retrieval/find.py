"""An index of folders, opened: search by words, by a picture, or both, with filters; copies are found once.

    index = Index.open()                                       # this person's own, which `omma index` fills
    for hit in index.search("a red cup", k=5, where="kind == 'picture' and date >= '2024'"):
        print(hit.place, hit.scores)

An eye sees pictures, pages and moments of videos; captions, texts and file names are found by BM25. Both lists become
one by reciprocal rank fusion: an item earns 1 / (60 + its place) from each list it is in (Cormack et al. 2009).
"""

import contextlib
import json
import os
import threading
import zlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from omma.decode import decode, read_bounded
from omma.models.pretrained import load_encoder
from omma.models.rerank import rerank_scores
from omma.retrieval.filters import COLUMNS
from omma.retrieval.index import Hit, check_query, check_rerank
from omma.retrieval.process import MediaProcess
from omma.retrieval.qdrant import Mirror, engine_at, recall
from omma.retrieval.reading import Unreadable
from omma.retrieval.store import Space, Store, filling

RANK = 60              # of reciprocal rank fusion
LEAST_DEPTH = 50       # of each list
AT_ONCE = 16           # pictures open at a time in a second look
SHOWN = ("source", "path", "kind", "page", "line", "start", "end", "width", "height", "date", "size", "caption", "text")
ROW = {name: COLUMNS[name] for name in SHOWN} | {"thumbnail": "thumbnail"}
By = Literal["both", "look", "words"]


def default_index() -> Path:
    """This person's index: OMMA_INDEX, else index.db in the folder for such data, ~/.local/share/omma."""
    if place := os.environ.get("OMMA_INDEX"):
        return Path(place)
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "omma" / "index.db"


def place_of(encoder: str | Path) -> str:
    """How an index remembers an eye: by its name, or by where its folder is from any place."""
    return str(Path(encoder).resolve()) if Path(encoder).is_dir() else str(encoder)


class Index:
    """Folders that can be searched: a file of `omma.build_index`. last: what the last indexing met, in counts;
    runs: each of them, a folder at a time."""

    def __init__(self, store: Store, encoder: Any = None, device: str = "auto", vectors: Any = None,
                 progress: bool = False):
        self.store, self._encoder, self._device = store, encoder, device
        self.vectors = store if vectors is None else Mirror(store, engine_at(vectors), progress)
        self.last: dict[str, Any] = {}
        self.runs: list[dict[str, Any]] = []
        self._media, self._reading = MediaProcess(), threading.Lock()

    @classmethod
    def open(cls, path: str | Path | None = None, *, encoder: Any = None, device: str = "auto",
             vectors: str | Path | None = None, progress: bool = False) -> "Index":
        """path: its file, this person's own by default. encoder: search with this eye rather than with the one that
        indexed last; an `Encoder` or its name. vectors: search by an approximate index instead of the exact scan: a
        folder for qdrant-edge, or the address of a Qdrant server; it is brought up to date first, with a bar on stderr
        where progress is asked for. ValueError when the index isn't there or is none."""
        opened = cls(Store(default_index() if path is None else path), None, device, vectors, progress)
        opened._encoder = opened.eye(encoder) if isinstance(encoder, str | Path) else encoder
        return opened

    def close(self) -> None:
        with self._reading:
            self._media.end()
        self.store.close()
        if isinstance(self.vectors, Mirror):
            self.vectors.engine.close()

    def __enter__(self) -> "Index":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def space(self) -> Space:
        """The vectors that are searched. ValueError when this eye has made none here."""
        spaces = self.store.spaces()
        if self._encoder is None:
            if not spaces:
                raise ValueError(f"{self.store.path} is empty. Fill it: omma index FOLDER")
            return spaces[0]
        for space in spaces:
            if space.fingerprint == self._encoder.fingerprint:
                return space
        has = ", ".join(space.name for space in spaces) or "none"
        raise ValueError(f"no vectors of {self._encoder.name!r} in {self.store.path}; it has those of {has}. "
                         f"Add them: omma index --encoder {self._encoder.name}")  # fmt: skip

    def eye(self, name: str | Path) -> Any:
        """An eye by what `load_encoder` takes, in the precision of its vectors here."""
        return load_encoder(name, device=self._device, precision=self.store.precision_of(place_of(name)))

    @property
    def encoder(self) -> Any:
        """The eye that made the vectors. ValueError when what lies at its place are other weights now."""
        if self._encoder is None:
            space = self.space
            eye = self.eye(space.place)
            if eye.fingerprint != space.fingerprint:
                raise ValueError(f"the vectors in {self.store.path} were made by {space.name!r} as it was: with "
                                 f"fingerprint {space.fingerprint}, and {space.place} has {eye.fingerprint} now. "
                                 f"Look again: omma index --encoder {space.place}")  # fmt: skip
            self._encoder = eye
        return self._encoder

    def search(self, query: str | Image.Image = "", *, image: Image.Image | None = None, k: int = 10,
               where: Any = None, under: str | Path | None = None, rerank: int = 0, diverse: float = 0.0,
               by: By = "both") -> list[Hit]:
        """The k items that fit best, best first. Copies and versions of a picture count as one (`Hit.also`).

        query: words, or a picture; image: a picture beside the words. where: an expression over source, path, folder,
        name, kind (picture, page, frame, text), date, size (bytes), page, line, start, end (seconds), width, height,
        caption, text; or an array of the numbers of items. under: only what lies in this folder. by: look takes the eye
        alone, words takes BM25 alone. rerank: so many first hits are put in order by the fusion encoder, those that
        have a picture among themselves. diverse: 0..1, how much a hit loses for looking like one before it (maximal
        marginal relevance, Carbonell & Goldstein 1998).

        Raises ValueError for an empty query, a `where` that can't be read, and for what the eye can't do.
        """
        if isinstance(query, Image.Image):
            query, image = "", query
        check_query(query if image is None else image, k)
        if rerank:
            check_rerank(query if query.strip() else image, self.encoder, k, rerank)
        if not 0 <= diverse <= 1:
            raise ValueError(f"diverse={diverse}; it is between 0, none, and 1")
        if by == "words" and not query.strip():
            raise ValueError("a picture is looked for by its look; give words, or leave by out")
        vectors = self._vectors(query, image) if by != "words" else {}
        for last in (False, False, True):
            found, hits = self._search(query, vectors, k, self.store.ids(where, under), rerank, diverse, by)
            if last or len(hits) == len(found):           # else an indexing has replaced some of them meanwhile
                return hits
        raise AssertionError("the last one returns")

    def _search(self, query: str, vectors: dict[str, np.ndarray], k: int, among: np.ndarray | None, rerank: int,
                diverse: float, by: By) -> tuple[list[int], list[Hit]]:
        """The items that fit best, and as hits those of them that are still there."""
        depth = max(4 * k, LEAST_DEPTH, 2 * rerank)
        while True:
            lists = self._lists(query if by != "look" else "", vectors, depth, among)
            order = fused(lists)
            families = self._families(order, among)
            full = len(families) >= max(k, rerank) or all(len(ids) < depth for ids, _ in lists.values())
            if full:
                break
            depth *= 4                                    # many copies stood before others
        found = list(families)
        if rerank:
            found, matched = self._second_look(query, found[: max(k, rerank)], lists)
            lists["match"] = matched
        if diverse:
            found = self._apart(found, order, k, diverse)
        scores = {name: dict(zip(ids.tolist(), values.tolist(), strict=True)) for name, (ids, values) in lists.items()}
        return found[:k], self._hits(found[:k], order, scores, families)

    def similar(self, item: int, *, k: int = 10, where: Any = None, under: str | Path | None = None) -> list[Hit]:
        """The k items that look most like one of them, by the vectors that are here; it and its copies left out.

        item: its number, a `Hit.id`. ValueError when it isn't there, and when it has no look, as texts.
        """
        vector = self.store.get(self.space.fingerprint, [item])[0]
        if not np.isfinite(vector).all():
            raise ValueError(f"{self.item(item).place} has no look to compare: no picture, or not seen by this eye")
        among, depth = self.store.ids(where, under), max(4 * k, LEAST_DEPTH)
        while True:
            found = self.vectors.search(self.space.fingerprint, vector[None], depth, among)[0]
            order = fused({"like": found})
            families = self._families({item: np.inf, **order}, among)
            if len(families) > k or len(found[0]) < depth:
                break
            depth *= 4                                    # many copies stood before others
        others = [first for first in families if first != item][:k]
        scores = dict(zip(found[0].tolist(), found[1].tolist(), strict=True))
        return self._hits(others, order, {"like": scores}, families)

    def item(self, item: int) -> Hit:
        """One item by its number, as a hit with score 0. ValueError when there is none."""
        found = self._hits([item], {item: 0.0}, {}, self._families({item: 0.0}))
        if not found:
            raise ValueError(f"no item {item} in {self.store.path}; it may have been forgotten since")
        return found[0]

    def _vectors(self, query: str, image: Image.Image | None) -> dict[str, np.ndarray]:
        """"look": of the words, "like": of the picture, (E,); none in an index without vectors."""
        if not self.store.holds(self.space.fingerprint):
            return {}
        vectors = {}
        if query.strip():
            vectors["look"] = self.encoder.encode_text([query])[0]
        if image is not None:
            vectors["like"] = self.encoder.encode_image([image.convert("RGB")])[0]
        if not all(np.isfinite(vector).all() for vector in vectors.values()):
            raise ValueError(f"{self.encoder.name!r} gave a vector that is not finite for the query; check its weights")
        return vectors

    def _lists(self, query: str, vectors: dict[str, np.ndarray], depth: int, among: np.ndarray | None
               ) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        lists = {name: self.vectors.search(self.space.fingerprint, vector[None], depth, among)[0]
                 for name, vector in vectors.items()}
        if query.strip():
            lists["words"] = self.store.text(query, depth, among)
        return lists

    def _families(self, order: dict[int, float], among: np.ndarray | None = None) -> dict[int, list[int]]:
        """The best of each family of versions -> the others of it that are `among` the items searched, found or not, in
        the order of `order`."""
        parent: dict[int, int] = {}

        def root(item: int) -> int:
            while parent.setdefault(item, item) != item:
                item = parent[item]
            return item

        edge = list(order)
        while edge:                                       # from the found ones outwards, until nobody new is met
            pairs = self.store.rows_of("SELECT a, b FROM alike WHERE a IN (?)", edge)
            pairs += self.store.rows_of("SELECT a, b FROM alike WHERE b IN (?)", edge)
            edge = [item for item in {item for pair in pairs for item in pair} if item not in parent and
                    item not in order]  # fmt: skip
            for a, b in pairs:
                parent[root(a)] = root(b)
        members: dict[int, list[int]] = {}
        rest = np.array(sorted(item for item in parent if item not in order), np.int64)
        for item in [*order, *(rest if among is None else rest[np.isin(rest, among)]).tolist()]:
            members.setdefault(root(item), []).append(item)
        return {first: others for first, *others in members.values() if first in order}

    def _second_look(self, query: str, found: list[int], lists: dict[str, Any]
                     ) -> tuple[list[int], tuple[np.ndarray, np.ndarray]]:
        """found with its pictures put in order by the fusion encoder; those without one keep their places."""
        rows = {row[0]: row[1:] for row in self.store.rows_of(
            "SELECT item.id, source || '/' || path, kind, page, start FROM item JOIN file ON file.id = file JOIN "
            "picture ON item = item.id WHERE item.id IN (?)", found)}
        pictures = [item for item in found if item in rows]
        probabilities = []
        for start in range(0, len(pictures), AT_ONCE):
            images = [self.picture(item) for item in pictures[start : start + AT_ONCE]]
            probabilities.append(self.encoder.match(images, [query] * len(images)))
        matched = np.concatenate([np.zeros(0, np.float32), *probabilities])
        known = self.store.get(self.space.fingerprint, pictures)
        cosines = known @ self.encoder.encode_text([query])[0] if pictures else np.zeros(0)
        scores = rerank_scores(self.encoder, matched, cosines)
        again = iter(np.array(pictures, np.int64)[np.argsort(-scores, kind="stable")].tolist())
        return ([next(again) if item in rows else item for item in found],
                (np.array(pictures, np.int64), matched))

    def _apart(self, found: list[int], order: dict[int, float], k: int, diverse: float) -> list[int]:
        """The first k by (1 - diverse) * relevance - diverse * the largest cosine with one before it."""
        vectors = np.nan_to_num(self.store.get(self.space.fingerprint, found))
        relevance = 1 / (1 + np.arange(len(found)))       # by place, since scores of several lists mean nothing alone
        alike, kept = np.zeros(len(found)), []
        left = np.ones(len(found), bool)
        for _ in range(min(k, len(found))):
            gain = np.where(left, (1 - diverse) * relevance - diverse * alike, -np.inf)
            best = int(gain.argmax())
            left[best] = False
            kept.append(found[best])
            alike = np.maximum(alike, vectors @ vectors[best])
        return kept

    def _hits(self, found: list[int], order: dict[int, float], scores: dict[str, dict[int, float]],
              families: dict[int, list[int]]) -> list[Hit]:
        wanted = [*found, *(item for first in found for item in families[first])]
        rows = {row[0]: dict(zip(ROW, row[1:], strict=True)) for row in self.store.rows_of(
            f"SELECT item.id, {', '.join(ROW.values())} FROM item JOIN file ON file.id = file LEFT JOIN picture ON "
            "item = item.id WHERE item.id IN (?)", wanted)}
        hits = []
        for item in found:
            if item not in rows:                          # another process forgot it meanwhile
                continue
            places = [Hit("", 0, rows[one]).place for one in (item, *families[item]) if one in rows]
            also = tuple(place for place in places[1:] if place != places[0])  # a file that was once kept twice
            own = {name: values[item] for name, values in scores.items() if item in values}
            hits.append(Hit(str(item), order[item], rows[item], own, also))
        return hits

    def picture(self, item: int) -> Image.Image:
        """What an item looks like, from its file, or in small where that is gone. ValueError for one without."""
        rows = self.store.rows("SELECT source, path, kind, page, moment, thumbnail FROM item JOIN file ON "
                               "file.id = file JOIN picture ON item = item.id WHERE item.id = ?", int(item))
        if not rows:
            raise ValueError(f"item {item} of {self.store.path} has no picture")
        source, name, kind, page, moment, small = rows[0]
        path, seen = Path(source) / name, None
        if not path.resolve().is_relative_to(Path(source).resolve()):  # it became a link, to what nobody indexed
            kind = "elsewhere"
        with contextlib.suppress(OSError, Unreadable):    # the disk is not there today
            if kind == "picture":
                seen = decode(read_bounded(path)).image
            elif kind != "elsewhere":
                asked = {"read": "pdf", "only": [page]} if kind == "page" else {"read": "frame", "at": moment}
                with self._reading:                       # one process for all threads, which reads to the end
                    found = list(self._media.items(path, **asked))
                seen = next((item.image for item in found if not isinstance(item, str)), None)
        seen = seen or decode(small).image
        assert seen is not None, "it was made here"
        return seen

    def boxes(self, item: int) -> list[tuple[str, tuple[float, float, float, float]]]:
        """The words on a page, or that were read in a picture, with their places: x0, y0, x1, y1, shares of the picture
        from its upper left."""
        rows = self.store.rows("SELECT boxes FROM item WHERE id = ?", int(item))
        packed = json.loads(zlib.decompress(rows[0][0])) if rows and rows[0][0] else []
        return [(word, (x0, y0, x1, y1)) for word, x0, y0, x1, y1 in packed]

    # ---- what is in it
    def unreadable(self, source: str | Path | None = None) -> list[dict[str, str]]:
        """The files that could not be read: path, status and note."""
        only = None if source is None else str(source)
        rows = self.store.rows("SELECT source || '/' || path, status, note FROM file WHERE status != 'ok' AND (? IS "
                               "NULL OR source = ?) ORDER BY source, path", only, only)
        return [dict(zip(("path", "status", "note"), row, strict=True)) for row in rows]

    def status(self) -> dict[str, Any]:
        """What is in it: folders with their files and the last indexing, items by kind, eyes, copies, unreadable."""
        rows = self.store.rows
        folders = {source: {"files": files, "indexed": None} for source, files in
                   rows("SELECT source, count(*) FROM file GROUP BY source ORDER BY source")}
        for source, counts in rows("SELECT source, counts FROM run WHERE ended IS NOT NULL ORDER BY id"):
            if source in folders:
                folders[source]["indexed"] = json.loads(counts)
        return {"index": str(self.store.path), "bytes": self.store.path.stat().st_size, "folders": folders,
                "items": dict(rows("SELECT kind, count(*) FROM item GROUP BY kind ORDER BY kind")),
                "eyes": {space.name: self.store.count(space.fingerprint) for space in self.store.spaces()},
                "versions": rows("SELECT count(DISTINCT b) FROM alike")[0][0], "unreadable": self.unreadable()}

    def check(self, n: int = 200, k: int = 10, seed: int = 0) -> dict[str, Any]:
        """How much of the truly nearest a search finds, on what is in here: recall at k, by up to n pictures drawn by
        chance and by up to n captions, each against a plain product with all vectors."""
        space = self.space.fingerprint
        rng = np.random.default_rng(seed)
        have = [row[0] for row in self.store.rows("SELECT item FROM vector WHERE space = ? ORDER BY item",
                                                  self.space.id)]
        drawn = rng.choice(have, size=min(n, len(have)), replace=False) if have else []
        said = [row[0].splitlines()[0] for row in self.store.rows(
            "SELECT DISTINCT caption FROM item WHERE caption != '' ORDER BY id")]
        asked = [said[i] for i in rng.choice(len(said), size=min(n, len(said)), replace=False)] if said else []
        found: dict[str, Any] = {"vectors": len(have), "k": k, "engine": type(self.vectors).__name__ if not isinstance(
            self.vectors, Mirror) else type(self.vectors.engine).__name__}
        if len(drawn):
            found["recall by pictures"] = recall(self.store, self.vectors, space, self.store.get(space, drawn), k)
        if asked and have:
            found["recall by captions"] = recall(self.store, self.vectors, space, self.encoder.encode_text(asked), k)
        return found

    def forget(self, source: str | Path) -> int:
        """Everything of a folder, for good: rows, words, vectors and small pictures. How many files that were.
        ValueError for a folder that isn't in it, and while another process fills the index."""
        with filling(self.store.path):                    # or it would write on what is forgotten here
            return self._forget(str(Path(source).expanduser().resolve()))

    def _forget(self, place: str) -> int:
        known = self.store.sources()
        if outer := next((one for one in known if place not in known and place.startswith(f"{one}/")), None):
            raise ValueError(f"{place} lies in {outer}, which is indexed as a whole; forget that, or move the files "
                             "elsewhere and index it again")
        if place not in known:
            raise ValueError(f"{place} is not in {self.store.path}; it knows {', '.join(known) or 'no folder'}")
        with self.store.writing() as con:
            forgotten = con.execute("DELETE FROM file WHERE source = ?", (place,)).rowcount
            con.execute("DELETE FROM run WHERE source = ?", (place,))
            con.execute("INSERT INTO words (words) VALUES ('optimize')")  # merged segments hold no deleted words
        self.store.rows("VACUUM")
        self.store.rows("PRAGMA wal_checkpoint(TRUNCATE)")
        return forgotten


def fused(lists: dict[str, tuple[np.ndarray, np.ndarray]]) -> dict[int, float]:
    """Item -> its score by reciprocal rank fusion, best first; equal ones as they stand in the first list."""
    scores: dict[int, float] = {}
    for ids, _ in lists.values():
        for place, item in enumerate(ids.tolist(), 1):
            scores[item] = scores.get(item, 0.0) + 1 / (RANK + place)
    return dict(sorted(scores.items(), key=lambda pair: -pair[1]))


