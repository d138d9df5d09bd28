"""Pictures with a class for every pixel -> batches, and the loss on them. B batch, C classes, (h, w) pixels."""

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from omma.decode import UNLABELLED, label_map
from omma.models.preprocess import Processor
from omma.table import Table
from omma.training.augment import augmented, crop_box
from omma.training.batches import DataConfig, decoded
from omma.training.items import USABLE, whole_part
from omma.training.rng import numpy_generator

MASK = "mask"  # the column: a greyscale PNG whose values are class numbers


@dataclass(frozen=True, kw_only=True)
class MaskBatch:
    """Tensors of one step."""

    step: int
    ids: list[str]  # of the pictures
    pixels: Tensor  # (B, 3, h, w) uint8
    targets: Tensor  # (B, h, w) int64, UNLABELLED where nothing is known

    def to(self, device: torch.device) -> "MaskBatch":
        tensors = {k: v for k, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **{k: v.to(device, non_blocking=True) for k, v in tensors.items()})


class MaskBatches:
    """The pictures of a table that have a mask, behind `batches[step]`; a pure function of (seed, step).

    part: (i, n) makes the i-th of n equal parts of each batch. ValueError when the table has no masks, or too few
    pictures for a batch.
    """

    unit: ClassVar[str] = "pictures"

    def __init__(
        self, table: Table, processor: Processor, config: DataConfig, *, batch_size: int, seed: int,
        part: tuple[int, int] = (0, 1),
    ):  # fmt: skip
        self.part = whole_part(batch_size, part)
        self.processor, self.config, self.batch_size, self.seed = processor, config, batch_size, seed
        self.root, self.classes = Path(table.uri), mask_classes(table)
        self.skipped: Counter[str] = Counter()
        self.rows: list[dict] = []
        for record in table.scan(["id", "bytes", "uri", "offset", "length", "status", MASK], where=config.where):
            for row in record.to_pylist():
                reason = None if row["status"] in USABLE else row["status"] or "no status"
                reason = reason or (None if row[MASK] else "no mask")
                if reason:
                    self.skipped[reason] += 1
                else:
                    self.rows.append(row)
        self.steps_per_epoch = len(self.rows) // batch_size
        if self.steps_per_epoch == 0:
            reasons = ", ".join(f"{n} {reason}" for reason, n in self.skipped.items()) or "none left out"
            raise ValueError(f"{table.uri} has {len(self.rows)} usable pictures with masks ({reasons}); a batch takes "
                             f"{batch_size}. Lower batch_size, or look at the data: omma show TABLE")  # fmt: skip

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, step: int) -> MaskBatch:
        epoch, k = divmod(step, self.steps_per_epoch)
        order = numpy_generator(self.seed, "order", epoch).permutation(len(self.rows))
        own = self.batch_size // self.part[1]
        first = k * self.batch_size + self.part[0] * own
        chosen = [self.rows[i] for i in order[first : first + own]]
        pixels, targets = [], []
        for row in chosen:
            key = (self.seed, "sample", epoch, row["id"])
            image = decoded(row, self.root)
            pixels.append(augmented(image, self.processor, self.config, numpy_generator(*key)))
            targets.append(self._mask(row, image.size, numpy_generator(*key)))
        return MaskBatch(step=step, ids=[row["id"] for row in chosen], pixels=torch.from_numpy(np.stack(pixels)),
                         targets=torch.from_numpy(np.stack(targets)))  # fmt: skip

    def _mask(self, row: dict, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
        """(h, w) int64: the same crop and mirroring as the picture's, from the same draws."""
        try:
            mask = Image.fromarray(label_map(row[MASK]))
        except ValueError as error:
            raise ValueError(f"the mask of {row['id']} can't be read ({error}); add it again: omma masks") from None
        if mask.size != size:
            raise ValueError(f"the mask of {row['id']} has {mask.size} pixels, its picture {size}")
        box, mirrored = crop_box(mask, self.config, rng)[:2]
        side = self.processor.image_size
        values = np.asarray(mask.resize((side, side), Image.Resampling.NEAREST, box=box), dtype=np.int64)
        wrong = (values >= len(self.classes)) & (values != UNLABELLED)
        if wrong.any():
            raise ValueError(f"the mask of {row['id']} has the value {values[wrong][0]}; there are {len(self.classes)} "
                             f"classes, and {UNLABELLED} stands for none")  # fmt: skip
        return np.ascontiguousarray(values[:, ::-1]) if mirrored else values


def mask_classes(table: Table) -> tuple[str, ...]:
    """The class names of a table's masks. ValueError for a table without masks."""
    if MASK not in table.columns:
        raise ValueError(f"{table.uri} has no column {MASK!r}. Make one: omma masks TABLE FOLDER --classes FILE, or "
                         "omma scenes OUT --masks")  # fmt: skip
    return tuple(table.info["mask_classes"])


def segment_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy over the pixels that are labelled; 0 when none is.

    logits: (B, C, h', w'), read at the targets' size by bilinear interpolation; targets: (B, h, w).
    """
    logits = F.interpolate(logits.float(), size=targets.shape[-2:], mode="bilinear", align_corners=False)
    if not bool((targets != UNLABELLED).any()):
        return logits.sum() * 0.0
    return F.cross_entropy(logits, targets, ignore_index=UNLABELLED)


def segment_losses(step: Any) -> dict[str, Tensor]:
    """step: a `losses.Step` of a `MaskBatch`."""
    loss = segment_loss(step.model.segment(step.pixel_values), step.batch.targets)
    return {"segment": step.world.share(loss, (step.batch.targets != UNLABELLED).sum())}
