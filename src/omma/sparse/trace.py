"""What was dropped where: the record of a model's runs within `omma.sparsify`."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from omma.sparse.layout import Layout


@dataclass(frozen=True, kw_only=True)
class Record:
    """One prompt pass: the layouts its layers saw, the first one the prompt itself. Tensors stay where they were."""

    layouts: tuple[Layout, ...]
    every: int  # rows a sample: beams and repeated samples share one


@dataclass(kw_only=True)
class Trace:
    """What `omma.sparsify` yields: which visual tokens each layer saw, of every sample since it was entered.

    method: the name; layers: of the decoder. Samples stand in the order in which their prompts ran; one without a
    picture is there with no visual token. An answer in several beams is one sample.
    """

    method: str
    layers: int
    schedule: dict[int, int] = field(
        default_factory=dict
    )  # of the latest sample with a picture: {layer: kept after it}
    records: list[Record] = field(default_factory=list, repr=False)

    @property
    def kept(self) -> dict[int, list[Tensor]]:
        """{l: for each sample the numbers of the visual tokens that stay after layer l, as they enter layer l + 1}.

        Numbers count a sample's visual tokens in prompt order, over all its pictures; -1 stands for a token that was
        made of dropped ones. -1 as key: before the first layer. Other layers are there where a sample lost tokens.
        """
        after = sorted({-1} | {layout.first - 1 for record in self.records for layout in record.layouts})
        return {layer: self._entering(layer + 1) for layer in after}

    @property
    def tokens(self) -> Tensor:
        """(samples,) long: visual tokens of each sample's prompt."""
        counts = [record.layouts[0].visual[:: record.every].sum(1).cpu() for record in self.records]
        return torch.cat(counts) if counts else torch.zeros(0, dtype=torch.long)

    @property
    def entering(self) -> Tensor:
        """(samples, layers) long: visual tokens that enter each layer, made ones included."""
        counts = torch.zeros(len(self), self.layers, dtype=torch.long)
        row = 0
        for record in self.records:
            seen = [layout.visual[:: record.every].sum(1).cpu() for layout in record.layouts]
            for layout, count in zip(record.layouts, seen, strict=True):
                counts[row : row + len(count), layout.first :] = count[:, None]
            row += len(seen[0])
        return counts

    @property
    def leaving(self) -> Tensor:
        """(samples, layers) long: visual tokens left after each layer."""
        entering = self.entering
        return torch.cat([entering[:, 1:], entering[:, -1:]], dim=1)

    def budget(self) -> float:
        """Mean over layers and samples with pictures of the visual tokens entering a layer; nan without any."""
        return self._mean(self.entering)

    def equal_tokens(self) -> float:
        """The count that SparseVLM's tables print: the mean of what leaves each layer. Lower than `budget`."""
        return self._mean(self.leaving)

    @property
    def kv_lengths(self) -> list[int]:
        """Slots that each layer's cache held after the latest prompt, text and padding included."""
        if not self.records:
            return []
        return [seen_by(self.records[-1].layouts, layer).length for layer in range(self.layers)]

    def __len__(self) -> int:
        return sum(-(-len(record.layouts[0].source) // record.every) for record in self.records)

    def clear(self) -> None:
        """Forget what was recorded."""
        self.records.clear()
        self.schedule = {}

    def _entering(self, layer: int) -> list[Tensor]:
        """For each sample the numbers of the visual tokens that enter `layer`."""
        found = []
        for record in self.records:
            layout = seen_by(record.layouts, layer)
            visual, origin = layout.visual[:: record.every].cpu(), layout.origin[:: record.every].cpu()
            found += [o[v] for v, o in zip(visual, origin, strict=True)]
        return found

    def _mean(self, counts: Tensor) -> float:
        with_pictures = counts[self.tokens > 0]
        return float(with_pictures.double().mean()) if with_pictures.numel() else float("nan")


def seen_by(layouts: Sequence[Layout], layer: int) -> Layout:
    """Of layouts by rising `first`, the one that a layer sees."""
    return [layout for layout in layouts if layout.first <= layer][-1]
