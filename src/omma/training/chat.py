"""Questions and answers -> batches: many questions about a picture in one row, trained on their answers alone.

The picture's visual tokens are computed once for all its questions (models/packing.py); what is learned of a question
is its answer with the token that ends it. As in batches.py, batch `step` is a pure function of (seed, step).

B batch, P tokens of the picture's part, K lanes, T tokens of a lane.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from omma.models.chat import Chat
from omma.table import Table
from omma.training.augment import augmented
from omma.training.batches import decoded
from omma.training.items import USABLE, pictures_of, whole_part
from omma.training.objectives import IGNORE
from omma.training.rng import numpy_generator
from omma.training.vlm_config import ChatDataConfig

DESCRIBE = "describe the picture"  # what a caption answers
Turn = tuple[Sequence[int], Sequence[int]]  # a question's ids and its answer's, each with its [SEP]


@dataclass(frozen=True, kw_only=True)
class ChatBatch:
    """Tensors of one step. Pictures stay uint8 until they are on the device."""

    step: int
    ids: list[str]  # of the pictures
    pixels: Tensor | None  # (B, 3, h, w) uint8; None where texts stand in the place of pictures
    input_ids: Tensor  # (B, P + K T)
    segments: Tensor  # (B, K, T): which question of its row a token belongs to, -1 for padding
    targets: Tensor  # (B, K T): the token that comes next, where it is an answer's; IGNORE elsewhere

    def to(self, device: torch.device) -> "ChatBatch":
        tensors = {k: v for k, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **{k: v.to(device, non_blocking=True) for k, v in tensors.items()})


# ---------------------------------------------------------------------------------------------------------- rows
@dataclass
class Row:
    """A row's lanes as arrays (K, T), and the turns that found a place, by their numbers."""

    ids: np.ndarray
    segments: np.ndarray
    targets: np.ndarray
    held: list[int]


def fill_lanes(turns: Iterable[Turn], lanes: int, length: int, pad_id: int) -> Row:
    """Puts each turn into the first lane that has room for it, until all lanes are full or there is no turn left.

    What is learned is the answer's ids: `targets` holds, where the next token is one, that token. A turn that fits no
    lane is passed over.
    """
    ids = np.full((lanes, length), pad_id, dtype=np.int64)
    segments = np.full((lanes, length), -1, dtype=np.int64)
    targets = np.full((lanes, length), IGNORE, dtype=np.int64)
    used, held = [0] * lanes, []
    for number, (question, answer) in enumerate(turns):
        size = len(question) + len(answer)
        lane = next((k for k in range(lanes) if used[k] + size <= length), None)
        if lane is None:
            if min(used) > length - 6:  # shorter than any question with its answer
                break
            continue
        start, middle, end = used[lane], used[lane] + len(question), used[lane] + size
        ids[lane, start:middle], ids[lane, middle:end] = question, answer
        segments[lane, start:end] = len(held)
        targets[lane, middle - 1 : end - 1] = answer
        used[lane] = end
        held.append(number)
    return Row(ids, segments, targets, held)


def laid_out(rows: Sequence[Row], chat: Chat, front: np.ndarray | None = None) -> dict[str, Tensor]:
    """The rows of a batch as input_ids, segments and targets (`ChatBatch`), pictures in front, or the ids `front` (B,
    P)."""
    if front is None:
        front = np.broadcast_to(np.array(chat.pictures(1)), (len(rows), chat.tokens + 1))
    ids = np.stack([row.ids.reshape(-1) for row in rows])
    return {
        "input_ids": torch.from_numpy(np.concatenate([front, ids], axis=1)),
        "segments": torch.from_numpy(np.stack([row.segments for row in rows])),
        "targets": torch.from_numpy(np.stack([row.targets.reshape(-1) for row in rows])),
    }


# ---------------------------------------------------------------------------------------------------------- questions
@dataclass
class Asked:
    """The questions of a table, picture by picture: rows first[i] to first[i + 1] are about pictures[i].

    turns: (n, 2) numbers of the question's and the answer's text in `texts`.
    """

    ids: list[str]
    pictures: list[dict]
    root: Path
    first: np.ndarray
    turns: np.ndarray
    patterns: list[str]  # of each question
    texts: list[str]
    captions: list[list[int]]  # of each picture, numbers in `texts`
    read: list[list[int]]  # of each picture, numbers of the texts that may stand in its place
    skipped: Counter[str]

    def __len__(self) -> int:
        return len(self.turns)


def read_questions(table: Table, where: str | None, captions: bool = False, reads: str | None = None) -> Asked:
    """Every item about one picture that has a prompt and an answer; what can't be used is counted by its reason.

    reads: a column of the pictures that holds lists of texts. ValueError for a table that is not one of items, for
    pictures without that column, and where nothing is left.
    """
    if table.kind != "items":
        raise ValueError(f"{table.uri} holds {table.kind}, and a VLM learns from questions: give data=FOLDER/items")
    source = pictures_of(table)
    with_captions = captions and "captions" in source.columns
    columns = ["id", "bytes", "uri", "offset", "length", "status"] + ["captions"] * with_captions
    if reads and reads not in source.columns:
        raise ValueError(f"reads={reads}: {source.uri} has no such column; omma scenes --tags writes `things`")
    columns += [reads] if reads else []
    number: dict[str, int] = {}
    texts: dict[str, int] = {}
    known = lambda text: texts.setdefault(text, len(texts))
    ids: list[str] = []
    rows: list[dict] = []
    told: list[list[int]] = []
    read: list[list[int]] = []
    for record in source.scan(columns):
        for row in record.to_pylist():
            if row["status"] in USABLE:
                number[row["id"]] = len(ids)
                ids.append(row["id"])
                told.append([known(c["text"]) for c in row.pop("captions", None) or ()])
                read.append([known(text) for text in row.pop(reads) or ()] if reads else [])
                rows.append(row)
    skipped: Counter[str] = Counter()
    found: list[tuple[int, int, int]] = []
    patterns: list[str] = []
    for record in table.scan(["pictures", "prompt", "answer", "pattern"], where=where):
        for names, prompt, answer, pattern in zip(*(record.column(k).to_pylist() for k in range(4)), strict=True):
            reason = None if prompt and answer else "no question with an answer"
            if len(names or ()) != 1:
                reason = reason or "not one picture"
            elif names[0] not in number:
                reason = reason or "no usable picture"
            if reason:
                skipped[reason] += 1
                continue
            found.append((number[names[0]], known(prompt), known(answer)))
            patterns.append(pattern or "")
    if not found:
        reasons = ", ".join(f"{n} {reason}" for reason, n in skipped.items()) or "none left out"
        raise ValueError(f"{table.uri} has no question with an answer about one picture ({reasons}). Draw some: omma "
                         "scenes FOLDER --questions 12")  # fmt: skip
    flat = np.array(found, dtype=np.int64)
    order = np.argsort(flat[:, 0], kind="stable")
    flat = flat[order]
    pictures, first = np.unique(flat[:, 0], return_index=True)
    return Asked([ids[i] for i in pictures], [rows[i] for i in pictures], Path(source.uri),
                 np.append(first, len(flat)), flat[:, 1:], [patterns[i] for i in order], list(texts),
                 [told[i] for i in pictures], [read[i] for i in pictures], skipped)  # fmt: skip


class ChatBatches:
    """The training set behind `batches[step]`: pictures, each with as many of its questions as its lanes hold.

    An epoch is a keyed permutation of the pictures; which questions of a picture, and in which order, is drawn anew in
    every epoch. part: (i, n) makes the i-th of n equal parts of each batch. ValueError when too few pictures are left.
    """

    unit: ClassVar[str] = "questions"

    def __init__(
        self, asked: Asked, chat: Chat, config: ChatDataConfig, *, batch_size: int, seed: int,
        part: tuple[int, int] = (0, 1),
    ):  # fmt: skip
        self.asked, self.chat, self.config, self.batch_size, self.seed = asked, chat, config, batch_size, seed
        self.part = whole_part(batch_size, part)
        self.rows = token_rows(asked.texts, chat)
        self.describe = chat.turns([DESCRIBE])[0]
        self.steps_per_epoch = len(asked.ids) // batch_size
        if not self.steps_per_epoch:
            raise ValueError(f"{len(asked.ids)} pictures with questions; a batch takes {batch_size}. Lower batch_size, "
                             "or look at the data: omma show TABLE")  # fmt: skip
        self._epoch: tuple[int, np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.asked)

    def order(self, epoch: int) -> np.ndarray:
        """The epoch's pictures by number, shuffled by (seed, epoch)."""
        if self._epoch is None or self._epoch[0] != epoch:
            rng = numpy_generator(self.seed, "order", epoch)
            self._epoch = (epoch, rng.permutation(len(self.asked.ids)))
        return self._epoch[1]

    def turns(self, picture: int, rng: np.random.Generator) -> list[Turn]:
        """A picture's questions in random order, before them now and then a caption."""
        asked = self.asked
        numbers = rng.permutation(np.arange(asked.first[picture], asked.first[picture + 1]))
        found = [(self.rows[q], self.rows[a]) for q, a in asked.turns[numbers].tolist()]
        told = asked.captions[picture]
        if told and rng.random() < self.config.captions:
            found.insert(0, (self.describe, self.rows[told[int(rng.integers(len(told)))]]))
        return found

    def __getitem__(self, step: int) -> ChatBatch:
        epoch, k = divmod(step, self.steps_per_epoch)
        own = self.batch_size // self.part[1]
        first = k * self.batch_size + self.part[0] * own
        chosen, c, rows = self.order(epoch)[first : first + own].tolist(), self.config, []
        pixels: list[np.ndarray] = []
        front: list[list[int]] = []
        for i in chosen:
            rng = numpy_generator(self.seed, "sample", epoch, self.asked.ids[i])
            if c.reads:
                front.append(self.written(i, rng))
            else:
                pixels.append(augmented(decoded(self.asked.pictures[i], self.asked.root), self.chat.processor, c, rng))
            rows.append(fill_lanes(self.turns(i, rng), c.lanes, c.lane_tokens, self.chat.pad_id))
        return ChatBatch(step=step, ids=[self.asked.ids[i] for i in chosen],
                         pixels=torch.from_numpy(np.stack(pixels)) if pixels else None,
                         **laid_out(rows, self.chat, np.array(front) if front else None))  # fmt: skip

    def written(self, picture: int, rng: np.random.Generator) -> list[int]:
        """[CLS] and the texts that stand in a picture's place, in random order; [PAD] up to the length of all rows."""
        texts = rng.permutation(self.asked.read[picture]).astype(int).tolist()
        ids = [int(token) for text in texts for token in self.rows[text]][: self.config.read_tokens]
        return self.chat.pictures(0) + ids + [self.chat.pad_id] * (self.config.read_tokens - len(ids))


def token_rows(texts: Sequence[str], chat: Chat) -> list[np.ndarray]:
    """The ids of each text, with its [SEP]."""
    return [np.array(ids, dtype=np.int32) for ids in chat.turns(texts)]


def texts_for_words(table: Table, where: str | None) -> Any:
    """All texts of a table that a tokenizer is learned from."""
    return {*read_questions(table, where, captions=True).texts, DESCRIBE}
