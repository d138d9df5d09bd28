"""Table -> batches: batch `step` is a pure function of (seed, step), whatever came before, with any number of workers.

An epoch is a keyed permutation of units of two samples: the two pictures of a minimal pair travel together, so that
each is the other's hardest negative; the rest is paired up at random. B batch, T text tokens, N patches.
"""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Any, ClassVar, Protocol

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from torch import Tensor

from omma.config import refuse_outside
from omma.decode import open_picture
from omma.models.preprocess import Processor
from omma.table import Table
from omma.training.augment import augmented
from omma.training.edits import false_texts
from omma.training.objectives import IGNORE
from omma.training.rng import numpy_generator


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What a batch is made of."""

    where: str | None = None  # an expression over the table's columns, e.g. "split == 'train'"
    # Column that names minimal pairs: two pictures with the same value travel together, and each one's captions count
    # as false of the other. Ignored where the table lacks it.
    group: str | None = "group"
    # Column whose values are not mixed within a batch, so that a picture is told from others of its kind: photographs
    # from photographs, not from drawings. Ignored where the table lacks it.
    batch_by: str | None = None
    languages: tuple[str, ...] = ()  # captions of these languages only; empty: all
    first_caption: float = 0.5  # share of a grouped sample's draws that take its first caption, the shortest statement
    crop_scale: float = 0.9  # smallest share of the picture's area that a random crop keeps; 1.0: no crop
    jitter: float = 0.1  # brightness and contrast change at random by up to this share
    flip: bool = False  # mirror half of the pictures; wrong wherever a caption says left or right
    length_window: int = 0  # items of so many batches are sorted by length among themselves: less padding; 0: none
    label: str | None = None  # column of a pictures table that holds what losses.classify or losses.tags are to say
    max_labels: int = 3129  # answers or classes to learn, the most frequent ones (VQA v2: those seen nine times)
    mixup: float = 0.0  # alpha of the share of another picture that is laid over one (losses.classify); 0: none
    cutmix: float = 0.0  # the same for a rectangle of another picture; with both, each batch draws one of them
    mlm_probability: float = 0.15
    mim_ratio: float = 0.4  # share of patches hidden, in blocks
    mim_smallest: int = 4  # patches of the smallest block; BEiT's is 16 of 196
    # Pictures alone, for losses.mim, beside the pairs of the run's table: a table, and how many of them a step shows as
    # a share of batch_size. Texts alone, for losses.text_mlm: a file with a sentence a line, or a table's captions.
    images: str | None = None
    images_where: str | None = None
    image_share: float = 1.0
    texts: str | None = None
    texts_where: str | None = None
    text_share: float = 1.0
    patch_codes: str | None = None  # column with one visual token a patch (DALL-E's, say), for mim.target=tokens

    def __post_init__(self):
        shares = ("first_caption", "jitter", "mlm_probability", "mim_ratio")
        counts = {"max_labels": 1, "mim_smallest": 1, "length_window": 0}
        amounts = ("mixup", "cutmix", "image_share", "text_share")
        refuse_outside(self, dict.fromkeys(shares, (0.0, 1.0)) | {"crop_scale": (0.001, 1.0)})
        refuse_outside(self, {name: (low, math.inf) for name, low in counts.items()})
        refuse_outside(self, dict.fromkeys(amounts, (0.0, math.inf)))


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Tensors of one step. Pictures stay uint8 until they are on the device."""

    step: int
    ids: list[str]  # picture ids
    pixels: Tensor  # (B, 3, h, w) uint8
    input_ids: Tensor  # (B, T)
    attention_mask: Tensor  # (B, T)
    masked_ids: Tensor  # (B, T): input_ids with words hidden
    mlm_labels: Tensor  # (B, T): the hidden words, IGNORE elsewhere
    patch_mask: Tensor  # (B, N) bool, True = hidden
    partner: Tensor  # (B,): where the other picture of its minimal pair stands in the batch, -1 for a picture by itself
    texts: list[tuple[int, ...]] = field(repr=False)
    # Rows (R,) whose picture has a caption with a relation, and (2, R, T) it and the same with its relation turned.
    relation_rows: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))
    relation_ids: Tensor = field(default_factory=lambda: torch.zeros(2, 0, 1, dtype=torch.long))
    relation_mask: Tensor = field(default_factory=lambda: torch.zeros(2, 0, 1, dtype=torch.long))
    patch_codes: Tensor | None = None  # (B, N): visual tokens that the table has

    def to(self, device: torch.device) -> "Batch":
        tensors = {k: v for k, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **{k: v.to(device, non_blocking=True) for k, v in tensors.items()})


class Batches:
    """The training set behind `batches[step]`. part: (i, n) makes the i-th of n equal parts of each batch.

    Pictures stay encoded in memory, captions tokenised; a batch decodes what it needs. with_text: False for objectives
    that see pictures alone, which then need no caption; their texts are empty.
    """

    unit: ClassVar[str] = "pictures"

    def __init__(
        self, table: Table, processor: Processor, config: DataConfig, *, batch_size: int, patch_size: int, seed: int,
        relations: bool = False, with_text: bool = True, part: tuple[int, int] = (0, 1),
    ):  # fmt: skip
        if batch_size < 2 or batch_size % 2:
            raise ValueError(f"batch_size {batch_size}: it must be even, since samples travel in twos")
        if batch_size // 2 % part[1]:
            raise ValueError(f"batch_size {batch_size} does not divide into {part[1]} parts of whole twos; "
                             f"give a multiple of {2 * part[1]}")  # fmt: skip
        self.processor, self.config, self.batch_size, self.seed = processor, config, batch_size, seed
        self.part = part
        self.grid = processor.image_size // patch_size
        self.root = Path(table.uri)
        self.relations: list[list[tuple[str, str]]] | None = [] if relations else None
        self.with_text = with_text
        self._read(table)
        self._continues = continuation_ids(processor)

    def _read(self, table: Table) -> None:
        """Keeps what can be trained on, and counts what cannot: kept + skipped = read."""
        grouped = self.config.group if self.config.group in table.columns else None
        kept_apart = self.config.batch_by if self.config.batch_by in table.columns else None
        codes = self.config.patch_codes
        if codes is not None:
            check_codes_column(table, self.config)
        extra = dict.fromkeys(c for c in (grouped, kept_apart, codes, "captions" if self.with_text else None) if c)
        columns = list(dict.fromkeys(["id", "bytes", "uri", "offset", "length", "status", *extra]))
        no_text = self.processor.text_ids([""])
        values: list[Any] = []
        self.ids: list[str] = []
        self.pictures: list[dict] = []
        self.captions: list[list[list[int]]] = []
        self.codes: list[np.ndarray] = []
        self.skipped: dict[str, int] = {}
        groups: dict[str, list[int]] = {}
        for record in table.scan(columns, where=self.config.where):
            for row in pa.Table.from_batches([record]).to_pylist():
                words = [
                    c["text"]
                    for c in row.get("captions") or []
                    if not self.config.languages or c["language"] in self.config.languages
                ]
                reason = None if row["status"] in ("ok", "flat") else row["status"]
                reason = reason or (None if words or not self.with_text else "no caption")
                if codes and not reason and len(row[codes] or ()) != self.grid**2:
                    reason = f"not {self.grid**2} patch codes"
                if reason:
                    self.skipped[reason] = self.skipped.get(reason, 0) + 1
                    continue
                if grouped and row[grouped] is not None:
                    groups.setdefault(row[grouped], []).append(len(self.ids))
                self.ids.append(row["id"])
                values.append(row[kept_apart] if kept_apart else None)
                self.pictures.append({k: row[k] for k in ("id", "bytes", "uri", "offset", "length")})
                self.captions.append(self.processor.text_ids(words) if words else no_text)
                if self.relations is not None:
                    self.relations.append(false_texts(words))
                if codes:
                    self.codes.append(np.array(row[codes], dtype=np.int32))
        pairs = [tuple(members) for members in groups.values() if len(members) == 2]
        self.grouped = {i for pair in pairs for i in pair}
        kinds = {value: kind for kind, value in enumerate(dict.fromkeys(values))}
        self.pairs: list[np.ndarray] = []  # of each kind that is kept apart: (n, 2) sample numbers
        self.singles: list[np.ndarray] = []  # and (m,)
        for kind in kinds.values():
            own = [pair for pair in pairs if kinds[values[pair[0]]] == kind]
            alone = [i for i, value in enumerate(values) if kinds[value] == kind and i not in self.grouped]
            self.pairs.append(np.array(own, dtype=np.int64).reshape(-1, 2))
            self.singles.append(np.array(alone, dtype=np.int64))
        half = self.batch_size // 2
        self.steps_per_epoch = sum(
            (len(p) + len(s) // 2) // half for p, s in zip(self.pairs, self.singles, strict=True)
        )
        if self.steps_per_epoch == 0:
            reasons = ", ".join(f"{n} {reason}" for reason, n in self.skipped.items()) or "none left out"
            wanted = "pictures with captions" if self.with_text else "pictures"
            raise ValueError(
                f"{table.uri} has {len(self.ids)} usable {wanted} ({reasons}); a batch takes "
                f"{self.batch_size}. Lower batch_size, or look at the data: omma show TABLE"
            )
        self._epoch: tuple[int, np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def order(self, epoch: int) -> np.ndarray:
        """The epoch's units (U, 2): rows of sample numbers, shuffled by (seed, epoch); what fills no batch is left
        out."""
        cached = self._epoch
        if cached is None or cached[0] != epoch:
            rng, half = numpy_generator(self.seed, "order", epoch), self.batch_size // 2
            batches = []
            for pairs, alone in zip(self.pairs, self.singles, strict=True):
                alone = rng.permutation(alone)
                units = np.concatenate([pairs, alone[: len(alone) // 2 * 2].reshape(-1, 2)])
                units = rng.permutation(units)[: len(units) // half * half]
                batches.append(units.reshape(-1, half, 2))
            if len(batches) > 1:
                batches = [rng.permutation(np.concatenate(batches))]
            cached = self._epoch = (epoch, batches[0].reshape(-1, 2))
        return cached[1]

    def __getitem__(self, step: int) -> Batch:
        epoch, k = divmod(step, self.steps_per_epoch)
        part, parts = self.part
        own = self.batch_size // 2 // parts  # units
        first = k * self.batch_size // 2 + part * own
        units = self.order(epoch)[first : first + own]
        pixels, rows, partner = [], [], []
        for a, b in units:
            unit = f"{self.ids[a]}|{self.ids[b]}"
            paired = int(a) in self.grouped
            partner += [len(rows) + 1, len(rows)] if paired else [-1, -1]
            for i in (int(a), int(b)):
                # Partners of a minimal pair share their draws: the crop must not become the difference, and their
                # captions are aligned.
                rng = numpy_generator(self.seed, "sample", epoch, unit if paired else self.ids[i])
                captions = self.captions[i]
                first = paired and rng.random() < self.config.first_caption
                rows.append(captions[0] if first else captions[int(rng.random() * len(captions))])
                pixels.append(self._pixels(i, rng))
        input_ids, attention_mask = self.processor.pad(rows)
        masks = [numpy_generator(self.seed, "mask", step, 2 * part * own + row) for row in range(len(rows))]
        masked, labels = mask_words(
            input_ids.numpy(), masks, self.config.mlm_probability, self._continues, self.processor
        )
        hidden = np.stack(
            [mask_blocks(self.grid, self.config.mim_ratio, rng, self.config.mim_smallest) for rng in masks]
        )
        codes = np.stack([self.codes[i] for i in units.reshape(-1)]) if self.codes else None
        return Batch(
            step=step,
            ids=[self.ids[int(i)] for i in units.reshape(-1)],
            pixels=torch.from_numpy(np.stack(pixels)),
            input_ids=input_ids,
            attention_mask=attention_mask,
            masked_ids=torch.from_numpy(masked),
            mlm_labels=torch.from_numpy(labels),
            patch_mask=torch.from_numpy(hidden.reshape(len(rows), -1)),
            partner=torch.tensor(partner),
            texts=[tuple(row) for row in rows],
            **self._exchanged(units.reshape(-1).tolist(), step, 2 * part * own),
            patch_codes=None if codes is None else torch.from_numpy(codes).long(),
        )

    def _exchanged(self, samples: list[int], step: int, first: int) -> dict[str, Tensor]:
        """The relation fields of a batch: one caption and its false twin of each picture that has any. first: number of
        the first row in the whole batch."""
        with_any = [(row, i) for row, i in enumerate(samples) if self.relations and self.relations[i]]
        if not (self.relations and with_any):
            return {}
        pairs = []
        for row, i in with_any:
            rng = numpy_generator(self.seed, "relation", step, first + row)
            pairs.append(self.relations[i][int(rng.integers(len(self.relations[i])))])
        texts = [own for own, _ in pairs] + [turned for _, turned in pairs]
        ids, mask = (t.view(2, len(pairs), -1) for t in self.processor.texts(texts))
        return {"relation_rows": torch.tensor([row for row, _ in with_any]), "relation_ids": ids, "relation_mask": mask}

    def _pixels(self, i: int, rng: np.random.Generator) -> np.ndarray:
        return augmented(decoded(self.pictures[i], self.root), self.processor, self.config, rng)


def check_codes_column(table: Table, config: DataConfig) -> None:
    """ValueError unless the table has the codes, and patches stay where they were when the codes were made."""
    if config.patch_codes not in table.columns:
        raise ValueError(f"no column {config.patch_codes!r} in {table.uri}; it has {', '.join(table.columns)}")
    if config.crop_scale < 1 or config.flip:
        raise ValueError(f"dataset.patch_codes={config.patch_codes} holds the codes of whole pictures, which a crop or "
                         "a mirror moves: set dataset.crop_scale=1 dataset.flip=false")  # fmt: skip


def decoded(row: dict, root: Path) -> Image.Image:
    """The picture of a row that was usable when it was ingested. ValueError when it no longer is."""
    picture = open_picture(row, root)
    if picture.image is None:
        raise ValueError(f"picture {row['id']} was usable when it was ingested and now is {picture.status}; "
                         "was the file behind it changed? Ingest it again")  # fmt: skip
    return picture.image


class Source(Protocol):
    """A training set: batch `step` by its number. `Batches` and `ItemBatches` are ones."""

    def __getitem__(self, step: int) -> Any: ...


def prefetch(batches: Any, start: int, stop: int, workers: int) -> Any:
    """Batches start..stop-1 made ahead, as a context and an iterable of them: by the source's own means where it has
    some, which are processes, else by threads. `waited`: seconds the consumer stood idle."""
    own = getattr(batches, "prefetch", None)
    return own(start, stop, workers) if own else Prefetch(batches, start, stop, workers)


class Prefetch:
    """Batches start..stop-1 in order, made ahead by threads (decoding releases the GIL).

    `waited`: seconds the consumer stood idle.
    """

    def __init__(self, batches: Source, start: int, stop: int, workers: int = 1, ahead: int = 3):
        self.batches, self.start, self.stop, self.workers, self.ahead = batches, start, stop, workers, ahead
        self.waited = 0.0

    def __enter__(self) -> "Prefetch":
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is left to end: the threads do with the iteration."""

    def __iter__(self) -> Iterator[Any]:
        if self.workers == 0:
            for step in range(self.start, self.stop):
                began = perf_counter()
                batch = self.batches[step]
                self.waited += perf_counter() - began
                yield batch
            return
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="omma-batches")
        queue: deque[Future[Any]] = deque()
        upcoming = iter(range(self.start, self.stop))
        try:
            while True:
                for step in islice(upcoming, self.ahead - len(queue)):
                    queue.append(pool.submit(self.batches.__getitem__, step))
                if not queue:
                    return
                began = perf_counter()
                batch = queue.popleft().result()
                self.waited += perf_counter() - began
                yield batch
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


# ---------------------------------------------------------------------------------------------------------- masking
def continuation_ids(processor: Processor) -> np.ndarray:
    """(V,) bool: which ids continue a word, so that words are hidden whole: "##ing" of WordPiece, and of SentencePiece
    all but "▁walk"."""
    vocab = processor.tokenizer.get_vocab()
    by_start = any(token.startswith("▁") for token in vocab)
    continues = np.zeros(max(vocab.values()) + 1, dtype=bool)
    for token, i in vocab.items():
        continues[i] = not token.startswith("▁") if by_start else token.startswith("##")
    return continues


def mask_words(ids: np.ndarray, rngs: Sequence[np.random.Generator], probability: float, continues: np.ndarray,
               processor: Processor) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Whole-word masking (BERT): hides words until `probability` of a row's real tokens are hidden, one word at least.

    ids: (B, T); rngs: a generator a row. Returns the ids with 80 % of hidden tokens replaced by [MASK], 10 % by a
    random token, 10 % left, and the labels. Only real words are drawn: the published collator also draws padding, so
    that some rows carry no loss.
    """
    special, ordinary = processor.special_ids, processor.ordinary_ids
    masked, labels = ids.copy(), np.full_like(ids, IGNORE)
    for row, rng in enumerate(rngs):
        real = np.flatnonzero(~np.isin(ids[row], special))
        words: list[list[int]] = []
        for position in real.tolist():
            if words and continues[ids[row, position]] and words[-1][-1] == position - 1:
                words[-1].append(position)
            else:
                words.append([position])
        budget = max(1, round(len(real) * probability)) if len(real) else 0
        for w in rng.permutation(len(words)):
            if budget <= 0:
                break
            if len(words[w]) > budget and (labels[row] != IGNORE).any():
                continue
            for position in words[w]:
                labels[row, position] = ids[row, position]
                draw = rng.random()
                if draw < 0.8:
                    masked[row, position] = processor.mask_id
                elif draw < 0.9:
                    masked[row, position] = ordinary[rng.integers(len(ordinary))]
            budget -= len(words[w])
    return masked, labels


def mask_blocks(grid: int, ratio: float, rng: np.random.Generator, smallest: int = 4) -> np.ndarray:
    """(grid, grid) bool: exactly round(ratio * N) patches hidden, in rectangles of aspect 0.3 to 1/0.3 (BEiT, 2021).

    smallest: patches of a rectangle at least, as long as so many are missing. One longer than the grid is cut to it,
    where BEiT draws another.
    """
    hidden = np.zeros((grid, grid), dtype=bool)
    wanted = round(ratio * grid * grid)
    for _ in range(100):
        missing = wanted - int(hidden.sum())
        if missing <= 0:
            break
        area = min(missing, smallest) if missing <= smallest else int(rng.integers(smallest, missing + 1))
        aspect = np.exp(rng.uniform(np.log(0.3), np.log(1 / 0.3)))
        h = int(np.clip(round(np.sqrt(area * aspect)), 1, grid))
        w = int(np.clip(round(np.sqrt(area / aspect)), 1, grid))
        top, left = int(rng.integers(0, grid - h + 1)), int(rng.integers(0, grid - w + 1))
        block = hidden[top : top + h, left : left + w]
        if h * w - int(block.sum()) <= missing:
            block[:] = True
    missing = wanted - int(hidden.sum())
    if missing > 0:  # rectangles that fit have run out: single patches
        hidden.reshape(-1)[rng.choice(np.flatnonzero(~hidden.reshape(-1)), missing, replace=False)] = True
    return hidden
