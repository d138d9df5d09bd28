"""What `omma serve` answers about an index: what its eyes find, and what may be told of it to somebody elsewhere.

Everything is asked for by number, never by a path, and told by the name of its folder: "Pictures/old/7.png". A file is
opened only where it still lies in the folder that was indexed.
"""

import contextlib
import io
import re
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

import omma
from omma.retrieval.filters import called
from omma.web.gate import Refused
from omma.web.metrics import Metrics
from omma.web.outside import Opened, picture_of
from omma.web.reports import Reports
from omma.web.work import Work

MOST = 200               # hits of one search
MOST_AT_ONCE = 64        # texts and pictures of one call
LONGEST = 10_000         # characters of a query, a text or a filter
SIDE = 1600              # pixels of a picture's long side, as it is sent
NO_VLM = "no VLM was named; have it started with omma serve --vlm NAME"
TOLD = ("kind", "page", "line", "start", "end", "width", "height", "date", "size", "caption", "text")


class Site:
    """An index with its eyes and, if one was named, a VLM. Any thread may ask.

    eyes: by name, each an `omma.Index` over the same store; the first is taken where none is named.
    """

    def __init__(self, index: Any, others: Sequence[Any] = (), vlm: Any = None, fetch: bool = False,
                 waiting: int = 64, reports: Sequence[str | Path] = ()):
        """index: an open `omma.Index`; others: more eyes to search with; fetch: whether pictures may be fetched from
        addresses; waiting: calls that may wait; reports: folders whose reports are shown. ValueError when an eye has no
        vectors here, and for a folder that is none."""
        self.index, self.vlm, self.fetch = index, vlm, fetch
        eyes = [index, *(omma.Index(index.store, eye) for eye in others)]
        self.eyes = {eye.space.name: eye for eye in eyes}
        for eye in self.eyes.values():
            eye.encoder                                    # noqa: B018  loaded now, rather than when somebody waits
        self.metrics = Metrics()
        self.seeing = Work("eye", waiting=waiting, seconds=30)
        self.talking = Work("vlm", waiting=max(1, waiting // 4), each=4, seconds=300)
        self.reports = Reports(reports)
        self.laying = Work("report", waiting=8, each=4, seconds=120)
        self.opening = Work("open", threads=2, waiting=4 * waiting, each=64, seconds=30)
        for work in self.works:
            self.metrics.gauges["omma_calls_under_way", f'{{queue="{work.name}"}}'] = lambda work=work: work.under_way
        self.opened = Opened()
        self.metrics.gauges["omma_picture_bytes", ""] = lambda: self.opened.bytes
        self.metrics.gauges["omma_items", ""] = lambda: self.items
        self._lock = threading.Lock()

    @property
    def works(self) -> tuple[Work, ...]:
        return self.seeing, self.talking, self.opening, self.laying

    @property
    def items(self) -> int:
        return self.index.store.rows("SELECT count(*) FROM item")[0][0]

    def close(self) -> None:
        """After what is under way."""
        for work in self.works:
            work.close()

    # ---- eyes
    def eye(self, name: str | None) -> Any:
        if not name:
            return self.index
        if name not in self.eyes:
            raise Refused(404, f"no eye {name[:80]!r} here; there are {', '.join(self.eyes)}. Another one is named "
                               "when omma serve starts: --encoder NAME")  # fmt: skip
        return self.eyes[name]

    def search(self, query: str, image: Image.Image | None, asked: dict[str, Any]) -> dict[str, Any]:
        """The hits for words, a picture or both; asked: k, where, folder, by, rerank, diverse, eye."""
        eye = self.eye(asked.pop("eye", None))
        among = self.among(asked.pop("where", None), asked.pop("folder", None))
        hits = eye.search(query, image=image, where=among, **asked)
        return {"query": query, "eye": eye.space.name, "hits": self.told(hits)}

    def similar(self, item: int, k: int, where: str | None, folder: str | None, name: str | None) -> dict[str, Any]:
        eye = self.eye(name)
        self.known(item)
        hits = eye.similar(item, k=k, where=self.among(where, folder))
        return {"item": item, "eye": eye.space.name, "hits": self.told(hits)}

    def why(self, item: int, query: str, name: str | None) -> dict[str, Any]:
        """Which patches of a picture a query's score came from: rows of shares 0..1 of the strongest."""
        eye = self.eye(name)
        if not hasattr(eye.encoder, "explain"):
            raise Refused(400, f"{eye.space.name} can't say why; a VLMo can")
        found = eye.encoder.explain(self.picture(item), query, kind="itc")
        patches = np.asarray(found.patches, np.float64)
        top = max(float(patches.max()), 1e-12)
        words = [[word, round(float(share), 4)] for word, share in found.words]
        return {"item": item, "patches": (patches / top).clip(0, 1).round(3).tolist(), "words": words,
                "score": float(found.score)}  # fmt: skip

    def answer(self, question: str, images: list[Image.Image], asked: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """{"text": a piece} as they come, then {"answer": all of it, with its citations and hits as of a search}."""
        if self.vlm is None:
            raise Refused(404, NO_VLM)
        among = self.among(asked.pop("where", None), asked.pop("folder", None))
        pieces = omma.ask_stream(self.index, question, vlm=self.vlm, images=images, where=among, **asked)
        with contextlib.closing(pieces):  # type: ignore[type-var]
            for piece in pieces:
                if isinstance(piece, str):
                    yield {"text": piece}
                    continue
                cited = [{"number": one.number, "id": int(one.hit.id), "by": one.by, "boxes": one.boxes,
                          "place": self.told([one.hit])[0]["place"]} for one in piece.citations]  # fmt: skip
                calls = [{"tool": call.tool, "picture": call.picture, "text": self.hidden(call.text),
                          "failed": call.failed, "by": call.by} for call in piece.calls]  # fmt: skip
                yield {"answer": {"text": piece.text, "abstained": piece.abstained, "support": piece.support, "calls":
                                  calls, "model": piece.model, "citations": cited, "hits": self.told(piece.hits)}}

    def vectors(self, texts: list[str], images: list[Image.Image], name: str | None) -> tuple[np.ndarray, np.ndarray]:
        """(n, E) and (m, E) float32, of unit length."""
        encoder = self.eye(name).encoder
        none = np.zeros((0, self.eye(name).space.width), np.float32)
        return (np.asarray(encoder.encode_text(texts), np.float32) if texts else none,
                np.asarray(encoder.encode_image(images), np.float32) if images else none)

    def given(self, text: str, sides: tuple[int, int]) -> Image.Image:
        """The picture that a request sent, checked and counted; sides: how large it is kept."""
        return self.opened.kept(picture_of(text, self.fetch, sides))

    # ---- what may be told
    def labels(self) -> dict[str, str]:
        """Folder that was indexed -> its name for others: the last part, and a number where two have the same."""
        labels: dict[str, str] = {}
        for source in self.index.store.sources():
            name, n = Path(source).name or "root", 1
            while (label := name if n == 1 else f"{name}-{n}") in labels.values():
                n += 1
            labels[source] = label
        return labels

    def folder(self, label: str | None) -> str | None:
        if not label:
            return None
        labels = self.labels()
        for source, known in labels.items():
            if known == label:
                return source
        raise ValueError(f"no folder {label[:80]!r} here; there are {', '.join(labels.values())}")

    def among(self, where: str | None, folder: str | None) -> np.ndarray | None:
        """The items that are searched, None for all. In `where`, source and path are as they are told: by names."""
        return self.index.store.ids(where or None, self.folder(folder), self.labels())

    def told(self, hits: Sequence[Any]) -> list[dict[str, Any]]:
        labels = self.labels()
        return [{"id": int(hit.id), "score": hit.score, "scores": hit.scores, "place": called(hit.place, labels),
                 "path": called(hit.path, labels), "folder": labels.get(hit.row["source"]),
                 "also": [called(place, labels) for place in hit.also],
                 **{name: hit.row.get(name) for name in TOLD},
                 "picture": hit.row.get("thumbnail") is not None} for hit in hits]  # fmt: skip

    def item(self, item: int) -> dict[str, Any]:
        self.known(item)
        return self.told([self.index.item(item)])[0]

    def state(self) -> dict[str, Any]:
        status = self.index.status()
        return {"items": status["items"], "folders": sorted(self.labels().values()), "eyes": list(self.eyes),
                "explains": [name for name, eye in self.eyes.items() if hasattr(eye.encoder, "explain")],
                "reranks": [name for name, eye in self.eyes.items() if hasattr(eye.encoder, "match")],
                "unreadable": len(status["unreadable"]), "vlm": getattr(self.vlm, "name", None),
                "fetches": self.fetch, "reports": [folder.name for folder in self.reports.folders]}  # fmt: skip

    # ---- pictures
    def known(self, item: int) -> tuple[str, str]:
        rows = self.index.store.rows("SELECT source, source || '/' || path FROM item JOIN file ON file.id = file WHERE "
                                     "item.id = ?", item)  # fmt: skip
        if not rows:
            raise Refused(404, f"no item {item} here; it may have been forgotten since")
        return rows[0]

    def thumbnail(self, item: int) -> bytes:
        """The small picture of an item as JPEG or whatever it was kept as."""
        rows = self.index.store.rows("SELECT thumbnail FROM picture WHERE item = ?", item)
        if not rows or rows[0][0] is None:
            raise Refused(404, f"item {item} has no picture")
        return rows[0][0]

    def picture(self, item: int) -> Image.Image:
        """What an item looks like. A file that a link now leads elsewhere is not opened."""
        source, path = self.known(item)
        if not Path(path).resolve().is_relative_to(Path(source).resolve()):
            raise Refused(404, f"item {item} lies outside its folder now")
        with self._lock if self._slow(item) else contextlib.nullcontext():
            return self.index.picture(item)

    def _slow(self, item: int) -> bool:
        """Pages and frames are read by a process of their own: one at a time."""
        return self.index.store.rows("SELECT kind FROM item WHERE id = ?", item)[0][0] != "picture"

    def jpeg(self, item: int) -> bytes:
        """Decoded with its bounds and written anew: pixels alone, without the place where it was taken."""
        seen = self.picture(item).convert("RGB")
        seen.thumbnail((SIDE, SIDE))
        out = io.BytesIO()
        seen.save(out, "JPEG", quality=88)
        return out.getvalue()

    def hidden(self, text: str) -> str:
        """A message without the places of this machine's folders and the address of a VLM elsewhere."""
        for address in written_as(getattr(self.vlm, "url", "")):
            text = text.replace(address, "the VLM's server")
        text = self.reports.hidden(text.replace(str(self.index.store.path), "the index"))
        for source, label in sorted(self.labels().items(), key=lambda pair: -len(pair[0])):
            text = text.replace(source, label)
        return text


def written_as(url: str) -> list[str]:
    """How messages may write an address, the longest first: whole, without its path, and its host alone where that is
    no single word, which would stand in other sentences, too."""
    parts = urlsplit(url)
    host, place = parts.hostname or "", parts.netloc.rpartition("@")[2]
    found = {url, url.rstrip("/"), f"{parts.scheme}://{parts.netloc}", f"{parts.scheme}://{place}", parts.netloc, place,
             host if re.search("[.:]", host) else ""}  # fmt: skip
    return sorted((one for one in found if host and one), key=len, reverse=True)
