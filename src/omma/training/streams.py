"""Pictures with captions for contrastive training, from tables and WebDataset shards larger than memory.

    source = ContrastiveStream("shards-{000..127}.tar", processor, StreamConfig(), batch_size=1024, seed=0)
    with source.prefetch(start, stop, workers=8) as batches:
        for batch in batches: ...

Batch `step` is a function of (seed, step): any process makes any of them without those before, a part of each batch
where several share it, and the same with any number of processes. b rows of a part, T text tokens, K false captions.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from omma.data.indexed import Pairs, TablePairs, open_pairs
from omma.models.preprocess import Processor
from omma.table import Table
from omma.training.samples import Order, Rows, SampleMaker, StreamConfig
from omma.training.workers import Workers

WINDOW = 1 << 20  # samples that are shuffled among themselves, where each can be read by itself
WINDOW_BLOCKS = 64  # and where it is read with its block, of which a table's have about 4 MB
AHEAD = 3  # batches in the making


@dataclass(frozen=True, kw_only=True)
class PairBatch:
    """Tensors of one step. Pictures stay uint8 until they are on the device."""

    step: int
    ids: list[str]
    pixels: Tensor  # (b, 3, h, w) uint8
    input_ids: Tensor  # (b, T)
    attention_mask: Tensor  # (b, T)
    keys: Tensor  # (b, 2) int64: equal for the same picture, and for the same text (`objectives.belongs_together`)
    negative_ids: Tensor | None = None  # (b, K, T): captions that are false of row i's picture; None: none asked for
    negative_mask: Tensor | None = None  # (b, K, T): their tokens
    negative_rows: Tensor | None = None  # (b, K) bool: which of them there are
    cut: int = 0  # texts that were longer than the context
    skipped: dict[str, int]  # why others could not be used: b + their number were read

    def to(self, device: torch.device) -> PairBatch:
        tensors = {k: v for k, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **{k: v.to(device, non_blocking=True) for k, v in tensors.items()})


class ContrastiveStream:
    """The training set behind `stream[step]`. part: (i, n) makes the i-th of n equal parts of each batch.

    data: a table, or tars (see `open_pairs`, also for cache). What is left over at the end of an epoch, less than a
    batch, waits for another epoch. skipped: reason -> samples that the index has left out; problems: what was met
    there. Raises ValueError for data that is not there or too little, and for a batch that does not divide.
    """

    unit: ClassVar[str] = "pictures"

    def __init__(
        self, data: Table | str | Path | Sequence[str | Path], processor: Processor, config: StreamConfig, *,
        batch_size: int, seed: int, part: tuple[int, int] = (0, 1), cache: Path | None = None,
    ):  # fmt: skip
        if batch_size < 2 or batch_size % part[1]:
            raise ValueError(f"batch_size {batch_size} does not divide into {part[1]} equal parts of a batch of 2 or "
                             f"more; give a multiple of {part[1]}")  # fmt: skip
        if processor.panels > 1:
            raise ValueError("a model of pictures in several panels learns from items, not from pictures with captions")
        self.pairs = open_pairs(data, where=config.where, languages=config.languages, captions=config.captions,
                                wrong=config.negatives, cache=cache)  # fmt: skip
        self.processor, self.config, self.batch_size, self.part = processor, config, batch_size, part
        self.skipped, self.problems = self.pairs.skipped, self.pairs.problems
        self.steps_per_epoch = len(self.pairs) // batch_size
        if self.steps_per_epoch == 0:
            reasons = ", ".join(f"{n} {reason}" for reason, n in self.skipped.items()) or "none left out"
            where = data.uri if isinstance(data, Table) else data
            raise ValueError(f"{where} has {len(self.pairs)} usable pictures with captions ({reasons}); a batch takes "
                             f"{batch_size}. Lower batch_size, or look at the data. {' '.join(self.problems)}".rstrip())
        in_blocks = -(-WINDOW_BLOCKS * len(self.pairs) // len(self.pairs.blocks))
        self.window = config.window or (in_blocks if self.pairs.in_blocks else WINDOW)
        self.order = Order(self.pairs.blocks, len(self.pairs), self.window, seed)
        self.maker = SampleMaker(self.pairs, processor, config, seed)
        self._keep_blocks(1)

    def __len__(self) -> int:
        return len(self.pairs)

    def _keep_blocks(self, workers: int) -> None:
        """A table's row groups that a process holds: its share of a window, and of the next one's beginning."""
        if isinstance(self.pairs, TablePairs):
            in_window = -(-self.window * len(self.pairs.blocks) // len(self.pairs))
            self.pairs.keep_blocks = max(2, in_window // workers + 1)

    def places(self, step: int) -> tuple[int, np.ndarray, np.ndarray]:
        """The epoch of a step, and for each row of this part of the batch its place in the epoch and sample number."""
        epoch, k = divmod(step, self.steps_per_epoch)
        own = self.batch_size // self.part[1]
        first = k * self.batch_size + self.part[0] * own
        return epoch, np.arange(first, first + own), self.order.numbers(epoch, first, first + own)

    def __getitem__(self, step: int) -> PairBatch:
        epoch, places, numbers = self.places(step)
        pixels = np.empty(self.shape, np.uint8)
        return self.batch(step, torch.from_numpy(pixels), self.maker(epoch, places, numbers, list(pixels)))

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of the pixels of a part: (b, 3, h, w)."""
        side = self.processor.image_size
        return self.batch_size // self.part[1], 3, side, side

    def batch(self, step: int, pixels: Tensor, rows: Rows) -> PairBatch:
        """Tensors of what was made."""
        ids, mask = self.processor.pad(rows.texts)
        wrong: dict[str, Tensor] = {}
        if self.config.negatives:
            wrong = self._negatives(rows.wrong)
        keys = torch.from_numpy(rows.keys)
        return PairBatch(step=step, ids=rows.ids, pixels=pixels, input_ids=ids, attention_mask=mask, keys=keys,
                         cut=rows.cut, skipped=dict(rows.skipped), **wrong)  # fmt: skip

    def _negatives(self, rows: list[list[list[int]]]) -> dict[str, Tensor]:
        """Always K of them, so that all processes see one shape; one that is missing is an empty text."""
        b, K = len(rows), self.config.max_negatives
        empty = self.processor.text_ids([""])[0]
        ids, mask = self.processor.pad([text for row in rows for text in [*row, *[empty] * (K - len(row))]])
        there = torch.tensor([[k < len(row) for k in range(K)] for row in rows])
        return {"negative_ids": ids.view(b, K, -1), "negative_mask": mask.view(b, K, -1), "negative_rows": there}

    def prefetch(
        self, start: int, stop: int, workers: int = 1, ahead: int = AHEAD, pin: bool | None = None
    ) -> PairStream:
        """Batches start..stop-1, made ahead by worker processes; workers=0 makes them in the loop. pin: into memory
        that a GPU reads by itself; None: where there is one."""
        return PairStream(self, start, stop, workers, ahead, torch.cuda.is_available() if pin is None else pin)


class PairStream:
    """Batches of a `ContrastiveStream` in order, as a context and an iterable of them, once.

    waited: seconds the consumer stood idle. skipped, cut: of the batches so far. Each batch is spread over all workers.
    Leaving the context, for whatever reason, ends the processes and gives back their memory. Raises as
    `ContrastiveStream[step]`, and RuntimeError that names a worker that was killed.
    """

    def __init__(self, source: ContrastiveStream, start: int, stop: int, workers: int, ahead: int, pin: bool):
        self.source, self.start, self.stop, self.pin = source, start, stop, pin
        self.count, self.ahead = workers, max(1, min(ahead, stop - start))
        self.waited, self.cut = 0.0, 0
        self.skipped: Counter[str] = Counter()
        self.workers: Workers | None = None

    def __enter__(self) -> PairStream:
        if self.count and self.stop > self.start and self.workers is None:
            self.source._keep_blocks(self.count)
            self.workers = Workers(self.source.maker, self.count, self.ahead, self.source.shape)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self.workers is not None:
            self.workers.close()
            self.workers = None

    def __iter__(self) -> Iterator[PairBatch]:
        with self:
            made = self._in_loop() if self.workers is None else self._by(self.workers)
            while True:
                began = perf_counter()
                batch = next(made, None)
                self.waited += perf_counter() - began
                if batch is None:
                    return
                self.cut += batch.cut
                self.skipped.update(batch.skipped)
                yield batch

    def _in_loop(self) -> Iterator[PairBatch]:
        for step in range(self.start, self.stop):
            yield self.source[step]

    def _by(self, workers: Workers) -> Iterator[PairBatch]:
        tasks: list[deque[tuple[int, np.ndarray]]] = [deque() for _ in workers.processes]  # (step, rows) of each
        done: dict[int, list[tuple[np.ndarray, Rows]]] = {}
        upcoming = iter(range(self.start, self.stop))
        for step in islice(upcoming, self.ahead):
            self._submit(workers, step, tasks)
        b = self.source.shape[0]
        for step in range(self.start, self.stop):
            while sum(len(rows) for rows, _ in done.get(step, ())) < b:
                for worker, rows in workers.results():
                    of_step, places = tasks[worker].popleft()
                    done.setdefault(of_step, []).append((places, rows))
            pixels = torch.empty(self.source.shape, dtype=torch.uint8, pin_memory=self.pin)
            pixels.numpy()[:] = workers.slot(step % self.ahead)
            batch = self.source.batch(step, pixels, joined(done.pop(step)))
            for following in islice(upcoming, 1):  # into the slot that is free now
                self._submit(workers, following, tasks)
            yield batch

    def _submit(self, workers: Workers, step: int, tasks: list[deque[tuple[int, np.ndarray]]]) -> None:
        """Every worker makes its rows of the batch: of a table those of its blocks, so that no two read the same."""
        epoch, places, numbers = self.source.places(step)
        pairs: Pairs = self.source.pairs
        owner = (pairs.block_of(numbers) if pairs.in_blocks else np.arange(len(numbers))) % len(tasks)
        for worker, waiting in enumerate(tasks):
            if len(rows := np.flatnonzero(owner == worker)):
                waiting.append((step, rows))
                workers.submit(worker, (step % self.ahead, epoch, rows, places[rows], numbers[rows]))


def joined(parts: list[tuple[np.ndarray, Rows]]) -> Rows:
    """The rows of a batch in their order, from what each worker made of it: (which rows, those)."""
    count = sum(len(which) for which, _ in parts)
    ids, texts, keys = [""] * count, [[0]] * count, np.zeros((count, 2), np.int64)
    wrong: list[list[list[int]]] = [[]] * count
    skipped: Counter[str] = Counter()
    for which, rows in parts:
        keys[which] = rows.keys
        skipped.update(rows.skipped)
        for i, row in enumerate(which.tolist()):
            ids[row], texts[row], wrong[row] = rows.ids[i], rows.texts[i], rows.wrong[i]
    return Rows(ids, texts, keys, wrong, sum(rows.cut for _, rows in parts), skipped)
