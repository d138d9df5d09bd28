"""Questions, statements and labels about pictures -> batches: what a model is fine-tuned on.

An item is a row of an items table (pictures by id, prompt, answer), or a picture with a label of its own. As in
batches.py, batch `step` is a pure function of (seed, step). B batch, K pictures an item, T text tokens, C labels.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from omma.models.preprocess import Processor
from omma.table import Table
from omma.training.augment import augmented
from omma.training.batches import DataConfig, decoded
from omma.training.rng import numpy_generator

USABLE = ("ok", "flat")
TRUE_FALSE = ("false", "true")  # label 1 is the true one, as in the matching head


@dataclass(frozen=True, kw_only=True)
class ItemBatch:
    """Tensors of one step. Pictures stay uint8 until they are on the device."""

    step: int
    ids: list[str]  # of the items
    pixels: Tensor  # (B, K, 3, h, w) uint8
    input_ids: Tensor  # (B, T)
    attention_mask: Tensor  # (B, T)
    parts: Tensor  # (B, K) what the item's column `parts` says of each picture or panel, -1 where it says nothing
    targets: Tensor  # (B, C) float32: share of each label; one of them is 1 unless people disagreed

    def to(self, device: torch.device) -> "ItemBatch":
        tensors = {k: v for k, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **{k: v.to(device, non_blocking=True) for k, v in tensors.items()})


def whole_part(batch_size: int, part: tuple[int, int]) -> tuple[int, int]:
    """The part, where the batch divides into so many. ValueError where not."""
    if batch_size % part[1]:
        raise ValueError(f"batch_size {batch_size} does not divide into {part[1]} parts; give a multiple of {part[1]}")
    return part


class ItemBatches:
    """The training set behind `batches[step]`. labels: what a target's columns stand for; part: (i, n) makes
    the i-th of n equal parts of each batch.

    table: items, with the pictures in the table beside it, or pictures whose column config.label is what to say.
    Rows that can't be used are counted in `skipped` by reason. ValueError when too few are left for a batch.
    """

    unit: ClassVar[str] = "items"

    def __init__(
        self, table: Table, processor: Processor, config: DataConfig, labels: Sequence[str], *, batch_size: int,
        seed: int, part: tuple[int, int] = (0, 1),
    ):  # fmt: skip
        self.processor, self.config, self.batch_size, self.seed = processor, config, batch_size, seed
        self.labels, self.part = tuple(labels), whole_part(batch_size, part)
        pictures = pictures_of(table)
        self.root = Path(pictures.uri)
        columns = ["id", "bytes", "uri", "offset", "length", "status"]
        self.pictures: dict[str, dict] = {}
        unusable: dict[str, str] = {}
        for record in pictures.scan(columns, where=config.where if table.kind == "pictures" else None):
            for row in record.to_pylist():
                if row["status"] in USABLE:
                    self.pictures[row["id"]] = row
                else:
                    unusable[row["id"]] = row["status"] or "no status"
        self.skipped: Counter[str] = Counter()
        self.ids: list[str] = []
        self.shown: list[tuple[str, ...]] = []
        self.targets: list[np.ndarray] = []
        self.parts: list[list[int] | None] = []
        prompts: list[str] = []
        column = {label: k for k, label in enumerate(self.labels)}
        number = None  # pictures an item
        for row in rows_of(table, config):
            known = {a: n for a, n in row["said"].items() if a in column}
            missing = [p for p in row["pictures"] if p not in self.pictures]
            number = number or len(row["pictures"])
            reason = None if known else "no answer that is a label"
            if not row["pictures"]:
                reason = reason or "no picture"
            if missing:
                reason = reason or unusable.get(missing[0], "no such picture")
            if len(row["pictures"]) != number:
                reason = reason or "another number of pictures"
            if reason:
                self.skipped[reason] += 1
                continue
            target = np.zeros(len(self.labels), dtype=np.float32)
            for answer, share in known.items():
                target[column[answer]] = share
            self.ids.append(row["id"])
            self.shown.append(tuple(row["pictures"]))
            self.targets.append(target)
            parts = row.get("parts")
            self.parts.append(parts if len(parts or ()) == number * processor.panels else None)
            prompts.append(row["prompt"] or "")
        self.prompts = processor.text_ids(prompts) if prompts else []
        self.steps_per_epoch = len(self.ids) // batch_size
        if self.steps_per_epoch == 0:
            reasons = ", ".join(f"{n} {reason}" for reason, n in self.skipped.items()) or "none left out"
            raise ValueError(f"{table.uri} has {len(self.ids)} usable rows ({reasons}); a batch takes {batch_size}. "
                             "Lower batch_size, or look at the data: omma show TABLE")  # fmt: skip
        self._epoch: tuple[int, np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def order(self, epoch: int) -> np.ndarray:
        """The epoch's row numbers, shuffled by (seed, epoch); texts of one length together as far as config says so."""
        if self._epoch is None or self._epoch[0] != epoch:
            rng, n = numpy_generator(self.seed, "order", epoch), self.batch_size
            order = rng.permutation(len(self.ids))
            if self.config.length_window > 1:
                lengths = np.array([len(p) for p in self.prompts])
                size = self.config.length_window * n
                parts = [order[k : k + size] for k in range(0, len(order), size)]
                order = np.concatenate([part[np.argsort(lengths[part], kind="stable")] for part in parts])
                whole = order[: len(order) // n * n].reshape(-1, n)
                order = np.concatenate([rng.permutation(whole).reshape(-1), order[len(whole) * n :]])
            self._epoch = (epoch, order)
        return self._epoch[1]

    def __getitem__(self, step: int) -> ItemBatch:
        epoch, k = divmod(step, self.steps_per_epoch)
        own = self.batch_size // self.part[1]
        first = k * self.batch_size + self.part[0] * own
        chosen = self.order(epoch)[first : first + own].tolist()
        input_ids, attention_mask = self.processor.pad([self.prompts[i] for i in chosen])
        pixels = np.stack([self._pixels(i, epoch) for i in chosen])
        parts = [self.parts[i] or [-1] * pixels.shape[1] for i in chosen]
        targets = np.stack([self.targets[i] for i in chosen])
        if self.config.mixup or self.config.cutmix:
            rng = numpy_generator(self.seed, "mix", step)
            pixels, targets = mixed(pixels, targets, self.config.mixup, self.config.cutmix, rng)
        return ItemBatch(
            step=step,
            ids=[self.ids[i] for i in chosen],
            pixels=torch.from_numpy(pixels),
            input_ids=input_ids,
            attention_mask=attention_mask,
            parts=torch.tensor(parts),
            targets=torch.from_numpy(targets),
        )

    def _pixels(self, i: int, epoch: int) -> np.ndarray:
        """(K, 3, h, w): an item's pictures share their draws, so that a crop is not what differs between them."""
        parts = []
        for name in self.shown[i]:
            rng = numpy_generator(self.seed, "sample", epoch, self.ids[i])
            image = decoded(self.pictures[name], self.root)
            pixels = augmented(image, self.processor, self.config, rng)
            parts.append(pixels if pixels.ndim == 4 else pixels[None])
        return np.concatenate(parts)


def mixed(
    pixels: np.ndarray, targets: np.ndarray, mixup: float, cutmix: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Each picture with the batch's counterpart from the other end: blended (mixup, Zhang et al. 2018), or with a
    rectangle of it (CutMix, Yun et al. 2019); targets in the shares that are seen. One draw a batch.

    pixels: (B, K, 3, h, w) uint8; targets: (B, C).
    """
    cut = bool(cutmix) and (not mixup or rng.random() < 0.5)
    share = rng.beta(cutmix, cutmix) if cut else rng.beta(mixup, mixup)  # of the picture itself
    if cut:
        height, width = pixels.shape[-2:]
        h, w = round(height * np.sqrt(1 - share)), round(width * np.sqrt(1 - share))
        top, left = int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1))
        out = pixels.copy()
        out[..., top : top + h, left : left + w] = pixels[::-1, ..., top : top + h, left : left + w]
        share = 1 - h * w / (height * width)  # what the rounding left
    else:
        out = np.rint(share * pixels + (1 - share) * pixels[::-1].astype(np.float32)).astype(np.uint8)
    return out, (share * targets + (1 - share) * targets[::-1]).astype(np.float32)


def pictures_of(table: Table) -> Table:
    """The pictures a table is about: itself, or the table `pictures` beside one of items. ValueError without it."""
    if table.kind == "pictures":
        return table
    beside = Path(table.uri).parent / "pictures"
    if not (beside / "manifest.json").exists():
        raise ValueError(f"{table.uri} is a table of items; its pictures belong into {beside}, where there is no table")
    return Table.open(beside)


def rows_of(table: Table, config: DataConfig) -> Any:
    """What is asked, row by row: id, pictures, prompt, and `said`: {answer: share of it}.

    Of several people's answers (column `answers`, a list) each counts min(1, 0.3 n) where n gave it: the score that VQA
    gives a prediction (Antol et al. 2015), so what is learned is what is rewarded.
    """
    labelled = table.kind == "pictures"
    if labelled and config.label is None:
        raise ValueError(f"{table.uri} holds pictures, and this recipe learns from items: give data=FOLDER/items. "
                         "To learn a picture's class, name the column that holds it: dataset.label=COLUMN")  # fmt: skip
    if labelled and config.label not in table.columns:
        raise ValueError(f"no column {config.label!r} in {table.uri}; it has {', '.join(table.columns)}. "
                         "Name the one that holds the labels: dataset.label=COLUMN")  # fmt: skip
    if labelled and not is_label(kind := table.schema.field(config.label).type):
        raise ValueError(f"column {config.label!r} of {table.uri} holds {kind}; labels are texts, whole numbers or "
                         "true and false, or lists of them. Name another column: dataset.label=COLUMN")  # fmt: skip
    many = "answers" in table.columns and not labelled
    columns = ["id", config.label] if labelled else ["id", "pictures", "prompt", "answer"] + ["answers"] * many
    if "parts" in table.columns and not labelled:
        columns.append("parts")
    for record in table.scan(columns, where=config.where):
        for row in record.to_pylist():
            if labelled:
                label = row[config.label]
                said = {str(one): 1.0 for one in (label if isinstance(label, list) else [label]) if one is not None}
                yield {"id": row["id"], "pictures": [row["id"]], "prompt": "", "said": said}
                continue
            said = Counter(row["answers"] or ()) if many else {}
            shares = {answer: min(1.0, 0.3 * n) for answer, n in said.items()}
            if not shares and row["answer"] is not None:
                shares = {row["answer"]: 1.0}
            yield {"id": row["id"], "pictures": row["pictures"] or [], "prompt": row["prompt"], "said": shares,
                   "parts": row.get("parts")}


def is_label(kind: pa.DataType) -> bool:
    """Whether a column of this type can say what a picture is."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_dictionary(kind):
        kind = kind.value_type
    is_one_of = (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer, pa.types.is_boolean)
    return any(is_one(kind) for is_one in is_one_of)


def labels_in(table: Table, config: DataConfig, most: int) -> tuple[str, ...]:
    """The `most` most frequent answers or labels of a table, in the order of the alphabet. ValueError without any."""
    counts: Counter[str] = Counter()
    for row in rows_of(table, config):
        counts.update(row["said"].keys())
    if not counts:
        raise ValueError(f"no row of {table.uri} has an answer"
                         f"{f' (of those where {config.where})' if config.where else ''}")  # fmt: skip
    ranked = sorted(counts, key=lambda answer: (-counts[answer], answer))
    return tuple(sorted(ranked[:most]))


def prompts_in(table: Table, config: DataConfig) -> set[str]:
    """Every prompt of a table: what a tokenizer for it is learned from."""
    return {row["prompt"] for row in rows_of(table, config) if row["prompt"]}
