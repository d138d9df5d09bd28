"""What a model says about pictures and texts: each distinct picture and text goes through the encoder once in a run.

E shared space, n pairs. Pictures are distinct when their pixels are; a bad one gets a reason, not a zero.
"""

import hashlib
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow.compute as pc
from PIL import Image

from omma.decode import label_map, open_picture
from omma.eval.metrics import pair_scores
from omma.eval.replies import Kept, Question, Replies, Reply
from omma.eval.task import GREY, Item, finite

USABLE = ("ok", "flat")
GREY_SIZE = (224, 224)
NO_GRADE = "no_grade"  # why an item isn't scored of which the judge said nothing that is a grade
KEPT_FILES = 512  # pictures as the table has them, so that a VLM's controls don't read them again
Tick = Callable[[str, int, int], None]  # (what, done, of)


class Scorer:
    """The cache of a run. After `load`, `problems` says which pictures and texts can't be scored, and why."""

    def __init__(
        self, encoder: Any, pictures: Any, *, batch_size: int = 64, tick: Tick | None = None, kept: Kept | None = None
    ):
        self.encoder, self.pictures, self.batch_size = encoder, pictures, batch_size
        self.tick = tick or (lambda what, done, of: None)
        self.problems: dict[str, str] = {}                    # picture id -> reason
        self.bad_texts: set[str] = set()
        self.pixels: dict[str, str] = {}                      # picture id -> hash of its pixels
        self._rows: dict[str, int] = {}                       # hash of pixels -> row of _images
        self._images = np.zeros((0, getattr(encoder, "embed_dim", 0)), dtype=np.float32)
        self._texts = np.zeros((0, getattr(encoder, "embed_dim", 0)), dtype=np.float32)
        self._text_rows: dict[str, int] = {}
        self._matched: dict[tuple[str, str], float] = {}      # (hash of pixels, text) -> probability
        self._maps: dict[str, tuple[tuple[int, ...], bytes]] = {}   # hash of pixels -> its label map, packed
        self._written: dict[str, str] = {}                    # hash of pixels -> caption
        self._said: dict[tuple[str, tuple[str, ...], str], np.ndarray] = {}   # (head, hashes of pixels, text) -> scores
        self._files: dict[str, dict] = {}                     # picture id -> its row, of the last pictures a VLM saw
        self.words = None if kept is None else Replies(encoder, kept, self.pixels, self.opened, batch_size, self.tick)
        self.judge: Replies | None = None                     # asked about replies, not about pictures

    # -------------------------------------------------------------------------------------------- encoding
    def load(self, ids: Iterable[str], texts: Iterable[str], embed: bool = True) -> None:
        """Encode these pictures and texts; call it once, with everything the run will ask for.

        embed=False: pictures are only opened, to find those that can't be; for heads that need no embedding.
        """
        wanted = sorted(set(ids))
        self._encode_images(wanted, embed)
        if not embed:
            return
        # by length, so that a batch pads little, and in an order that doesn't depend on the table's
        order = sorted(set(texts), key=lambda text: (len(text), text))
        parts = []
        for start in range(0, len(order), 8 * self.batch_size):
            part = order[start : start + 8 * self.batch_size]
            parts.append(self._checked(self.encoder.encode_text(part, batch_size=self.batch_size), len(part)))
            self.tick("texts", start + len(part), len(order))
        self._texts = np.concatenate([self._texts, *parts])
        self._text_rows = {text: row for row, text in enumerate(order)}
        self.bad_texts = {text for text, good in zip(order, finite(self._texts), strict=True) if not good}

    def _encode_images(self, wanted: list[str], embed: bool) -> None:
        parts, buffer = [], []

        def flush() -> None:
            parts.append(self._checked(self.encoder.encode_image(buffer, batch_size=self.batch_size), len(buffer)))
            buffer.clear()

        seen = set()
        for number, (name, image, reason) in enumerate(self._open([GREY, *wanted]), 1):
            seen.add(name)
            if image is None:
                self.problems[name] = reason
                continue
            key = self.pixels[name] = pixel_hash(image)
            if embed and key not in self._rows:
                self._rows[key] = len(self._rows)
                buffer.append(image)
            if len(buffer) >= 8 * self.batch_size:
                flush()
            self.tick("pictures", number, len(wanted) + 1)
        if buffer:
            flush()
        self._images = np.concatenate([self._images, *parts])
        self.problems |= {name: "missing" for name in wanted if name not in seen}
        if not embed:
            return
        good = finite(self._images)
        self.problems |= {name: "not_finite" for name, key in self.pixels.items() if not good[self._rows[key]]}

    def opened(self, ids: Collection[str]) -> dict[str, Image.Image]:
        """The pictures of these ids, which `load` has found to be good."""
        found = {GREY: Image.new("RGB", GREY_SIZE, (128, 128, 128))} if GREY in ids else {}
        if len(self._files) > KEPT_FILES:
            self._files.clear()
        wanted = sorted(set(ids) - {GREY})
        if fresh := [name for name in wanted if name not in self._files]:
            rows = self.pictures.take(fresh, ["id", "bytes", "uri", "offset", "length", "status"]).to_pylist()
            self._files |= {row["id"]: row for row in rows}
        for name in wanted:
            image = open_picture(self._files[name], self.pictures.uri).image
            assert image is not None, name
            found[name] = image
        return found

    def _open(self, ids: Collection[str]) -> Iterator[tuple[str, Image.Image | None, str]]:
        """(id, RGB picture or None, reason) for those ids that the table has, in its order; the grey one first."""
        if GREY in ids:
            yield GREY, Image.new("RGB", GREY_SIZE, (128, 128, 128)), ""
        wanted = set(ids) - {GREY}
        if not wanted:
            return
        columns = ["id", "bytes", "uri", "offset", "length", "status"]
        where = pc.field("id").isin(sorted(wanted))
        for batch in self.pictures.scan(columns=columns, where=where, batch_rows=8 * self.batch_size):
            for row in batch.to_pylist():
                if row["status"] not in USABLE:
                    yield row["id"], None, row["status"] or "no_status"
                    continue
                try:
                    opened = open_picture(row, self.pictures.uri)
                except ValueError:                            # its file can't be read: counted like every bad picture
                    yield row["id"], None, "unreadable_file"
                    continue
                yield row["id"], opened.image, "" if opened.image is not None else opened.status

    def _checked(self, vectors: np.ndarray, n: int) -> np.ndarray:
        vectors = np.asarray(vectors, dtype=np.float32)
        if vectors.shape != (n, self.encoder.embed_dim):
            raise ValueError(
                f"encoder {self.encoder.name!r} returned {vectors.shape} for {n} inputs; its embed_dim says "
                f"({n}, {self.encoder.embed_dim}). Make encode_image and encode_text return one row an input"
            )
        return vectors

    # -------------------------------------------------------------------------------------------- looking up
    def image_rows(self, ids: Sequence[str]) -> np.ndarray:
        return np.array([self._rows[self.pixels[name]] for name in ids], dtype=np.int64)

    def images(self, ids: Sequence[str]) -> np.ndarray:
        """(n, E) the pictures' embeddings."""
        return self._images[self.image_rows(ids)]

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """(n, E) the texts' embeddings."""
        return self._texts[[self._text_rows[text] for text in texts]]

    def itc(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        """(n,) inner products of (picture id, text) pairs, summed in fp64."""
        rows = self.image_rows([name for name, _ in pairs])
        cols = np.array([self._text_rows[text] for _, text in pairs], dtype=np.int64)
        return pair_scores(self._images, self._texts, rows, cols)

    def itm(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        """(n,) probabilities from encoder.match; pictures are opened again instead of being kept in memory."""
        todo: dict[str, list[str]] = {}                       # one id of each distinct picture -> its texts
        opened: dict[str, str] = {}                           # hash of pixels -> that id
        asked: set[tuple[str, str]] = set()
        for name, text in sorted(set(pairs)):
            pair = self.pixels[name], text
            if pair not in self._matched and pair not in asked:
                asked.add(pair)
                todo.setdefault(opened.setdefault(pair[0], name), []).append(text)
        total, done = sum(map(len, todo.values())), 0
        images, texts, keys = [], [], []

        def flush() -> None:
            values = np.asarray(self.encoder.match(images, texts, batch_size=self.batch_size), dtype=np.float32)
            if values.shape != (len(texts),):
                raise ValueError(
                    f"encoder {self.encoder.name!r}.match returned {values.shape} for {len(texts)} pairs; "
                    "make it return one probability a pair"
                )
            self._matched.update(zip(keys, values.tolist(), strict=True))
            self.tick("pairs", done, total)
            for full in (images, texts, keys):
                full.clear()

        for name, image, _ in self._open(list(todo)):
            for text in todo[name]:
                done += 1
                images.append(image)
                texts.append(text)
                keys.append((self.pixels[name], text))
            if len(texts) >= 8 * self.batch_size:
                flush()
        if texts:
            flush()
        return np.array([self._matched[self.pixels[name], text] for name, text in pairs], dtype=np.float32)

    def head(self, kind: str, asked: Sequence[tuple[tuple[str, ...], str]]) -> np.ndarray:
        """What encoder.<kind> says of (picture ids, text) each: (n, C), or (n, 1) where it gives one number.

        answer and classify see one picture, compare all of them. Each distinct question is asked once in a run.
        """
        keys = [(kind, tuple(self.pixels[name] for name in names), text) for names, text in asked]
        todo = {key: item for key, item in zip(keys, asked, strict=True) if key not in self._said}
        fresh, size = list(todo.items()), 4 * self.batch_size
        for start in range(0, len(fresh), size):
            part = fresh[start : start + size]
            opened = {name: image for name, image, _ in self._open({n for _, (names, _) in part for n in names})}
            texts = [text for _, (_, text) in part]
            shown = [[opened[name] for name in names] for _, (names, _) in part]
            if kind == "compare":
                values = self.encoder.compare(shown, texts, batch_size=self.batch_size)
            elif kind == "answer":
                values = self.encoder.answer([images[0] for images in shown], texts, batch_size=self.batch_size)
            else:
                values = self.encoder.classify([images[0] for images in shown], batch_size=self.batch_size)
            values = np.asarray(values, dtype=np.float32)
            if len(values) != len(part):
                raise ValueError(f"encoder {self.encoder.name!r}.{kind} returned {values.shape} for {len(part)} "
                                 "questions; make it return one row each")  # fmt: skip
            self._said.update(zip((key for key, _ in part), values.reshape(len(part), -1), strict=True))
            self.tick("questions", start + len(part), len(fresh))
        return np.stack([self._said[key] for key in keys]) if keys else np.zeros((0, 1), dtype=np.float32)

    def captions(self, ids: Sequence[str]) -> list[str]:
        """What encoder.caption writes about each picture; each distinct one is asked about once in a run."""
        todo = {self.pixels[name]: name for name in sorted(set(ids), reverse=True)}
        fresh = sorted(name for key, name in todo.items() if key not in self._written)
        size = 4 * self.batch_size
        for start in range(0, len(fresh), size):
            part = fresh[start : start + size]
            opened = {name: image for name, image, _ in self._open(part)}
            texts = self.encoder.caption([opened[name] for name in part], batch_size=self.batch_size)
            if len(texts) != len(part):
                raise ValueError(f"encoder {self.encoder.name!r}.caption returned {len(texts)} texts for {len(part)} "
                                 "pictures; make it return one each")  # fmt: skip
            self._written.update(zip((self.pixels[name] for name in part), texts, strict=True))
            self.tick("captions", start + len(part), len(fresh))
        return [self._written[self.pixels[name]] for name in ids]


    def segment(self, ids: Sequence[str]) -> list[np.ndarray]:
        """The label map (h, w) uint8 of each picture; each distinct picture is asked once in a run."""
        todo = {self.pixels[name]: name for name in ids if self.pixels[name] not in self._maps}
        fresh = list(todo.values())
        for start in range(0, len(fresh), self.batch_size):
            opened = list(self._open(fresh[start : start + self.batch_size]))
            found = self.encoder.segment([image for _, image, _ in opened], batch_size=self.batch_size)
            for (name, *_), labels in zip(opened, np.asarray(found, dtype=np.uint8), strict=True):
                self._maps[self.pixels[name]] = labels.shape, zlib.compress(labels.tobytes(), 1)
            self.tick("pictures", start + len(opened), len(fresh))
        out = []
        for name in ids:
            shape, packed = self._maps[self.pixels[name]]
            out.append(np.frombuffer(zlib.decompress(packed), dtype=np.uint8).reshape(shape))
        return out

    def masks(self, ids: Sequence[str]) -> list[np.ndarray]:
        """The true label maps of pictures, from the column mask."""
        rows = {row["id"]: row["mask"] for row in self.pictures.take(sorted(set(ids)), ["id", "mask"]).to_pylist()}
        return [label_map(rows[name]) for name in ids]


class View:
    """A scorer as a task sees it: one score kind, and pictures exchanged as the variant says.

    kind: one of task.METHODS. shown: picture id -> id of the picture that is shown in its place; mirrored: a VLM sees
    pictures left for right.
    """

    def __init__(
        self, scorer: Scorer, kind: str, shown: Callable[[str], str] = lambda name: name, mirrored: bool = False
    ):
        self.scorer, self.kind, self.shown, self.mirrored = scorer, kind, shown, mirrored

    def images(self, ids: Sequence[str]) -> np.ndarray:
        """(n, E) embeddings of what is shown for these pictures."""
        return self.scorer.images([self.shown(name) for name in ids])

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """(n, E) embeddings of texts."""
        return self.scorer.texts(texts)

    def pairs(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        """(n,) scores of (picture id, text) pairs."""
        shown = [(self.shown(name), text) for name, text in pairs]
        return self.scorer.itc(shown) if self.kind == "itc" else self.scorer.itm(shown)

    def asked(self, items: Sequence[Item]) -> np.ndarray:
        """(n, C) what the head of this kind says of each item's pictures and its first text."""
        return self.scorer.head(self.kind, [
            (tuple(self.shown(name) for name in item.pictures), item.texts[0] if item.texts else "") for item in items
        ])  # fmt: skip

    def captions(self, ids: Sequence[str]) -> list[str]:
        """What the encoder writes about what is shown for these pictures."""
        return self.scorer.captions([self.shown(name) for name in ids])

    def replies(self, items: Sequence[Item], prompts: Sequence[str], max_new_tokens: int) -> list[Reply]:
        """What a VLM says to each item's prompt about what is shown for its pictures."""
        return self._asked([
            Question(self._shown(item), prompt, self.mirrored, max_new_tokens)
            for item, prompt in zip(items, prompts, strict=True)
        ])  # fmt: skip

    def first_token(
        self, items: Sequence[Item], prompts: Sequence[str], words: Sequence[tuple[tuple[str, ...], ...]]
    ) -> list[Reply]:
        """How likely a VLM's reply begins with each option: log-probabilities. words: spellings of each option."""
        return self._asked([
            Question(self._shown(item), prompt, self.mirrored, words=spelled)
            for item, prompt, spelled in zip(items, prompts, words, strict=True)
        ])  # fmt: skip

    def graded(self, prompts: Sequence[str], max_new_tokens: int) -> list[Reply]:
        """What the run's judge says to each prompt."""
        assert self.scorer.judge is not None
        asked = [Question((), prompt, max_new_tokens=max_new_tokens) for prompt in prompts]
        return self.scorer.judge.ask("generate", asked)

    def tick(self, what: str, done: int, of: int) -> None:
        """Tell how far the task's own work is, in the bars of the run."""
        self.scorer.tick(what, done, of)

    def no_grade(self, said: str) -> str:
        """The reason for a reply of the judge that is no grade; the first one is told in the report."""
        assert self.scorer.judge is not None
        self.scorer.judge.failures.setdefault(NO_GRADE, said)
        return NO_GRADE

    def _asked(self, questions: list[Question]) -> list[Reply]:
        assert self.scorer.words is not None
        return self.scorer.words.ask(self.kind, questions)

    def _shown(self, item: Item) -> tuple[str, ...]:
        return tuple(self.shown(name) for name in item.pictures)

    @property
    def segments(self) -> tuple[str, ...]:
        """What the values of `areas` stand for."""
        return tuple(self.scorer.encoder.segments)

    def areas(self, items: Sequence[Item]) -> Iterator[tuple[Item, np.ndarray, np.ndarray]]:
        """Each item with what the model says of its picture and what is true of it: two label maps of one size.

        The model's are read at the mask's size by the nearest pixel.
        """
        size = self.scorer.batch_size
        for start in range(0, len(items), size):
            part = items[start : start + size]
            said = self.scorer.segment([self.shown(item.pictures[0]) for item in part])
            for item, labels, true in zip(part, said, self.scorer.masks([i.pictures[0] for i in part]), strict=True):
                if labels.shape != true.shape:
                    height, width = true.shape
                    labels = np.asarray(Image.fromarray(labels).resize((width, height), Image.Resampling.NEAREST))
                yield item, labels, true

    @property
    def labels(self) -> tuple[str, ...]:
        """What the columns of `asked` stand for."""
        return tuple(getattr(self.scorer.encoder, {"answer": "answers", "classify": "classes"}[self.kind]))

    def matrices(self, items: Sequence[Item]) -> list[np.ndarray]:
        """For each item its scores, (pictures, texts)."""
        pairs = [(name, text) for item in items for name in item.pictures for text in item.texts]
        scores, out, start = self.pairs(pairs), [], 0
        for item in items:
            shape = len(item.pictures), len(item.texts)
            out.append(scores[start : start + shape[0] * shape[1]].reshape(shape))
            start += shape[0] * shape[1]
        return out


def pixel_hash(image: Image.Image) -> str:
    return hashlib.blake2b(f"{image.size}".encode() + image.tobytes(), digest_size=16).hexdigest()
