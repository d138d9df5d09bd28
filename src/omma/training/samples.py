"""Pairs of a picture and a caption, made by number: which one comes when, and its pixels, tokens and keys.

All of it is a function of (seed, epoch, place in the epoch). No torch here: processes that only decode, scale and
tokenise start without it. b rows, h = w pixels a side, K captions that are false of a picture.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from omma.config import refuse_outside
from omma.data.indexed import Pair, Pairs
from omma.decode import decode
from omma.models.preprocess import Processor
from omma.training.augment import Box, augmented
from omma.training.rng import numpy_generator

TRIES = 20  # samples in a row that can't be used before a run stops


@dataclass(frozen=True, kw_only=True)
class StreamConfig:
    """What a batch of pictures and captions is made of."""

    where: str | None = None  # an expression over the table's columns, e.g. "split == 'train'"; not for tars
    languages: tuple[str, ...] = ()  # captions of these languages only; empty: all. A .txt in a tar counts as English
    captions: tuple[str, ...] = ()  # keys of a tar's JSON that hold captions; empty: captions, caption or text
    # A table's column, or a key of a tar's JSON, with a list of captions that are false of the picture, and how many
    # of them a row shows.
    negatives: str | None = None
    max_negatives: int = 4
    crop_scale: float = 0.9  # smallest share of the picture's area that a random crop keeps; 1.0: no crop
    jitter: float = 0.1  # brightness and contrast change at random by up to this share
    flip: bool = False  # mirror half of the pictures; wrong wherever a caption says left or right
    # Decode a JPEG at 1/2, 1/4 or 1/8 where no crop needs more: faster, and not the same pixels, since the file's own
    # coefficients are cut off where otherwise all pixels would be weighed (docs/train-your-own.md has the difference).
    draft: bool = False
    # What scales a crop to the model's square. torch takes a third of Pillow's time and rounds a level of 255 otherwise
    # in a few of a thousand values; each worker then has to load it, which takes a second or two and 200 MB.
    resize: Literal["pillow", "torch"] = "pillow"
    # Samples that are shuffled among themselves, from blocks that are drawn at random from all of the data; 0: a
    # million of a tar, 64 row groups of a table, where one row is read with all of its group (some 4 MB).
    window: int = 0

    def __post_init__(self):
        refuse_outside(self, {"crop_scale": (0.001, 1.0), "jitter": (0.0, 1.0), "window": (0, math.inf),
                              "max_negatives": (1, math.inf)})  # fmt: skip


class Order:
    """The samples of an epoch by their place in it: blocks in random order, and within each window of them the samples.

    blocks: (B,) first number of each; count: samples in all. A window takes blocks until it has `window` samples, so
    neighbours in the data come within one window of each other, and any two samples may share a batch whose blocks
    fall into one. With window >= count it is one permutation of everything.
    """

    def __init__(self, blocks: np.ndarray, count: int, window: int, seed: int):
        self.blocks, self.sizes = blocks, np.diff(blocks, append=count)
        self.count, self.window, self.seed = count, window, seed
        self._epoch: tuple[int, np.ndarray, np.ndarray, np.ndarray] | None = None
        self._shuffled: dict[tuple[int, int], np.ndarray] = {}

    def numbers(self, epoch: int, first: int, last: int) -> np.ndarray:
        """Sample numbers at the places first..last-1 of an epoch."""
        order, heads, starts = self._windows(epoch)
        found = []
        while first < last:
            w = int(np.searchsorted(starts, first, side="right")) - 1
            stop = min(last, int(starts[w + 1]))
            found.append(self._window(epoch, w, order[heads[w] : heads[w + 1]])[first - starts[w] : stop - starts[w]])
            first = stop
        return np.concatenate(found)

    def _windows(self, epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The blocks in their order, (W + 1,) where each window begins among them, and where among the samples."""
        if self._epoch is None or self._epoch[0] != epoch:
            order = numpy_generator(self.seed, "blocks", epoch).permutation(len(self.blocks))
            before = np.concatenate([np.zeros(1, np.int64), np.cumsum(self.sizes[order])])
            heads = np.flatnonzero(np.diff(before[:-1] // self.window, prepend=-1))
            heads = np.append(heads, len(order))
            self._epoch = epoch, order, heads, before[heads]
        return self._epoch[1:]

    def _window(self, epoch: int, w: int, blocks: np.ndarray) -> np.ndarray:
        if (epoch, w) not in self._shuffled:
            if len(self._shuffled) > 1:
                self._shuffled.pop(next(iter(self._shuffled)), None)
            sizes = self.sizes[blocks]
            within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
            numbers = np.repeat(self.blocks[blocks], sizes) + within
            shuffled = numpy_generator(self.seed, "window", epoch, w).permutation(numbers)
            self._shuffled[epoch, w] = shuffled
            return shuffled
        return self._shuffled[epoch, w]


@dataclass(frozen=True)
class Rows:
    """What b samples are beside their pixels."""

    ids: list[str]
    texts: list[list[int]]  # token ids, unpadded
    keys: np.ndarray  # (b, 2) int64: of the encoded picture and of the tokens
    wrong: list[list[list[int]]]  # token ids of up to K false captions of each
    cut: int  # texts, false ones included, that were longer than the context
    skipped: Counter[str]  # why so many others could not be used; a row stands for each of these


class SampleMaker:
    """Sample numbers to pixels and tokens, in this process or another: it pickles."""

    def __init__(self, pairs: Pairs, processor: Processor, config: StreamConfig, seed: int):
        self.pairs, self.processor, self.config, self.seed = pairs, processor, config, seed
        # the shorter side that the smallest crop needs, or the whole picture, of which some models see the middle
        whole = processor.shortest_side if config.crop_scale == 1 else None
        needed = math.ceil((whole or processor.image_size) / math.sqrt(config.crop_scale))
        self.target = needed if config.draft else None

    def _scaled(self, image: Image.Image, box: Box | None) -> np.ndarray:
        if self.config.resize == "pillow" or (box is None and self.processor.shortest_side is not None):
            return self.processor.pixels(image, box)
        from omma.training.resizing import square

        return square(image, self.processor.image_size, self.processor.resample, box)

    def __call__(self, epoch: int, places: np.ndarray, numbers: np.ndarray, out: Sequence[np.ndarray]) -> Rows:
        """Writes the pixels of the samples `numbers` (b,), at these places (b,) of the epoch, into out, b arrays
        (3, h, w) uint8.

        A sample that can't be used is counted, and one drawn by its place stands for it. Raises ValueError when TRIES
        in a row can't, and as `Pairs.read` where data is gone.
        """
        ids, keys = [""] * len(numbers), np.zeros((len(numbers), 2), np.int64)
        texts, wrong = [""] * len(numbers), [[""] for _ in numbers]
        skipped: Counter[str] = Counter()
        for i in np.argsort(numbers, kind="stable").tolist():  # in the order of the files
            pair, pixels, texts[i], wrong[i] = self._sample(epoch, int(places[i]), int(numbers[i]), skipped)
            out[i][:] = pixels
            ids[i], keys[i, 0] = pair.id, _key(pair.picture)
        flat = [text for row in wrong for text in row]
        tokens, cut = self.processor.encode([*texts, *flat])
        rest = iter(tokens[len(texts) :])
        for i, row in enumerate(tokens[: len(texts)]):
            keys[i, 1] = _key(np.array(row, np.int32).tobytes())
        return Rows(ids, tokens[: len(texts)], keys, [[next(rest) for _ in row] for row in wrong], cut, skipped)

    def _sample(self, epoch: int, place: int, number: int, skipped: Counter[str]
                ) -> tuple[Pair, np.ndarray, str, list[str]]:  # fmt: skip
        config, last = self.config, ""
        for attempt in range(TRIES):
            if attempt:
                number = int(numpy_generator(self.seed, "instead", epoch, place, attempt).integers(len(self.pairs)))
            pair = self.pairs.read(number)
            problem = pair.problem
            if not problem:
                picture = decode(pair.picture, target=self.target, tell_flat=False)
                problem = picture.status
                if picture.image is not None:
                    rng = numpy_generator(self.seed, "sample", epoch, pair.id)
                    text = pair.captions[int(rng.random() * len(pair.captions))]
                    pixels = augmented(picture.image, self.processor, config, rng, self._scaled)
                    shown = pair.wrong
                    if len(shown) > config.max_negatives:
                        shown = [shown[j] for j in rng.permutation(len(shown))[: config.max_negatives]]
                    return pair, pixels, text, shown
            skipped[problem] += 1
            last = f"{pair.id} ({problem})"
        raise ValueError(f"{TRIES} samples in a row can't be used, the last is {last}; look at the data: omma ingest "
                         "tells what is wrong with each picture and caption")  # fmt: skip


def _key(data: bytes) -> int:
    """63 bits of the content, the same in every process."""
    return int.from_bytes(hashlib.sha1(data, usedforsecurity=False).digest()[:8], "big") >> 1
