"""Pictures alone and texts alone beside pairs: one step may hold some of each (BEiT-3, Wang et al. 2022).

Each source has its own order, shuffled by (seed, epoch) and begun anew when it is through; what step k holds of it is a
function of (seed, k). B batch, T text tokens.
"""

import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from omma.models.preprocess import Processor
from omma.table import Table
from omma.training.batches import Batch, Batches, DataConfig, continuation_ids, mask_words
from omma.training.rng import key_seed, numpy_generator


class Texts(Protocol):
    """Texts by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, i: int, /) -> str: ...


class Lines:
    """The lines of a text file by number, without empty ones and those of a single byte. The file stays on disk; 16
    bytes a line are in memory."""

    def __init__(self, path: str | Path, block: int = 1 << 26):
        self.path = Path(path)
        with self.path.open("rb") as file:
            self.bytes: mmap.mmap | bytes = b""
            if self.path.stat().st_size:
                self.bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        size = len(self.bytes)
        breaks = [start + np.flatnonzero(np.frombuffer(self.bytes[start : start + block], dtype=np.uint8) == ord("\n"))
                  for start in range(0, size, block)]  # fmt: skip
        ends = np.concatenate([*breaks, np.array([size])])
        starts = np.concatenate([np.zeros(1, dtype=np.int64), ends[:-1] + 1])
        filled = ends - starts > 1  # "\r" alone is a line of another system
        self.starts, self.ends = starts[filled], ends[filled]

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, i: int) -> str:
        if not 0 <= i < len(self):
            raise IndexError(i)
        return self.bytes[self.starts[i] : self.ends[i]].decode("utf-8", errors="replace").strip()


def read_texts(place: str, config: DataConfig) -> Texts:
    """What `dataset.texts` names: a text file with a sentence a line, or the captions of a table. ValueError: nothing
    there."""
    path = Path(place)
    if path.is_file():
        found: Texts = Lines(path)
    elif (path / "manifest.json").exists():
        found = list(captions_of(Table.open(path), config.texts_where, config.languages))
    else:
        raise ValueError(f"no texts at {place}; dataset.texts is a text file with a sentence a line, or a table whose "
                         "captions are read")  # fmt: skip
    if not len(found):
        raise ValueError(f"{place} has no text in it")
    return found


def captions_of(table: Table, where: str | None, languages: tuple[str, ...]) -> Iterator[str]:
    """Every caption of a table, in its order; of these languages only, where there are any."""
    for record in table.scan(["captions"], where=where):
        for captions in record.column("captions").to_pylist():
            yield from (c["text"] for c in captions or [] if not languages or c["language"] in languages)


class TextBatches:
    """Texts with hidden words behind `batches[step]`. part: (i, n) makes the i-th of n equal parts of each batch."""

    unit: ClassVar[str] = "texts"

    def __init__(
        self, texts: Texts, processor: Processor, config: DataConfig, *, batch_size: int, seed: int,
        part: tuple[int, int] = (0, 1),
    ):  # fmt: skip
        if batch_size < 1 or batch_size % part[1]:
            raise ValueError(f"{batch_size} texts a step do not divide into {part[1]} equal parts, one or more each")
        if len(texts) < batch_size:
            raise ValueError(f"{len(texts)} texts, and a step takes {batch_size}; lower batch_size")
        self.texts, self.processor, self.config, self.seed, self.part = texts, processor, config, seed, part
        self.batch_size = batch_size
        self.steps_per_epoch = len(texts) // batch_size
        self._continues = continuation_ids(processor)
        self._epoch: tuple[int, np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.texts)

    def order(self, epoch: int) -> np.ndarray:
        """The epoch's text numbers, shuffled by (seed, epoch)."""
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = (epoch, numpy_generator(self.seed, "order", epoch).permutation(len(self.texts)))
        return self._epoch[1]

    def __getitem__(self, step: int) -> Batch:
        epoch, k = divmod(step, self.steps_per_epoch)
        own = self.batch_size // self.part[1]
        first = k * self.batch_size + self.part[0] * own
        chosen = self.order(epoch)[first : first + own].tolist()
        rows = self.processor.text_ids([self.texts[i] for i in chosen])
        input_ids, attention_mask = self.processor.pad(rows)
        first_row = self.part[0] * own
        masks = [numpy_generator(self.seed, "mask", step, first_row + row) for row in range(own)]
        masked, labels = mask_words(
            input_ids.numpy(), masks, self.config.mlm_probability, self._continues, self.processor
        )
        size = self.processor.image_size
        return Batch(
            step=step,
            ids=[f"text {i}" for i in chosen],
            pixels=torch.zeros(0, 3, size, size, dtype=torch.uint8),
            input_ids=input_ids,
            attention_mask=attention_mask,
            masked_ids=torch.from_numpy(masked),
            mlm_labels=torch.from_numpy(labels),
            patch_mask=torch.zeros(0, 1, dtype=torch.bool),
            partner=torch.full((own,), -1),
            texts=[tuple(row) for row in rows],
        )


# ---------------------------------------------------------------------------------------------------------- together
@dataclass(frozen=True, kw_only=True)
class MixedBatch:
    """One step of several sources. parts: which objectives learn from which batch."""

    step: int
    parts: tuple[tuple[frozenset[str], Batch], ...]

    @property
    def ids(self) -> list[str]:
        return [name for _, part in self.parts for name in part.ids]

    @property
    def pixels(self) -> Tensor:
        """The pictures of all parts, in their order: (B, 3, h, w) uint8."""
        return torch.cat([part.pixels for _, part in self.parts])

    def to(self, device: torch.device) -> "MixedBatch":
        return replace(self, parts=tuple((names, part.to(device)) for names, part in self.parts))


class MixedBatches:
    """Several sources behind one `batches[step]`. An epoch is one of the first source."""

    unit: ClassVar[str] = "samples"

    def __init__(self, parts: Sequence[tuple[frozenset[str], Batches | TextBatches]]):
        self.parts = parts
        self.steps_per_epoch = parts[0][1].steps_per_epoch

    def __len__(self) -> int:
        return sum(len(source) for _, source in self.parts)

    def __getitem__(self, step: int) -> MixedBatch:
        return MixedBatch(step=step, parts=tuple((names, source[step]) for names, source in self.parts))


def sources(
    objectives: set[str], config: DataConfig, table: Table | None, processor: Processor, *, batch_size: int,
    patch_size: int, seed: int, part: tuple[int, int] = (0, 1), relations: bool = False,
) -> Batches | TextBatches | MixedBatches:  # fmt: skip
    """The sources of a run, each with the objectives that learn from it: mim from `config.images` where given, text_mlm
    from `config.texts`, everything else from the table.

    A step holds batch_size samples of the table, and image_share and text_share of that many pictures and texts alone.
    """
    objectives = objectives - {"balance"}  # it has no samples of its own
    alone: list[tuple[frozenset[str], Batches | TextBatches]] = []
    paired_config = config
    if config.images and "mim" in objectives:
        paired_config = replace(config, patch_codes=None)
        images = replace(config, where=config.images_where, group=None, batch_by=None)
        size = max(2, 2 * round(config.image_share * batch_size / 2))
        made = Batches(Table.open(config.images), processor, images, batch_size=size, patch_size=patch_size,
                       seed=key_seed(seed, "images"), with_text=False, part=part)  # fmt: skip
        alone.append((frozenset({"mim"}), made))
    if config.texts and "text_mlm" in objectives:
        size = max(1, round(config.text_share * batch_size))
        lines = TextBatches(read_texts(config.texts, config), processor, config, batch_size=size,
                            seed=key_seed(seed, "texts"), part=part)  # fmt: skip
        alone.append((frozenset({"text_mlm"}), lines))
    rest = frozenset(objectives).difference(*(names for names, _ in alone))
    if rest:
        assert table is not None  # `setup.check` asks for it
        paired = Batches(table, processor, paired_config, batch_size=batch_size, patch_size=patch_size, seed=seed,
                         relations=relations, with_text=bool(rest - {"mim"}), part=part)  # fmt: skip
        alone.insert(0, (rest, paired))
    return alone[0][1] if len(alone) == 1 else MixedBatches(alone)
