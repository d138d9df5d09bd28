"""What stands where in a sequence of which visual tokens were dropped: rows on the right, padding on the left.

B rows, L places of the prompt, N places of the sequence now. A run of decoder layers shares one `Layout`.
"""

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from omma.sparse.stage import Reduction, picked


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The sequence that layer `first` and those above it see."""

    first: int
    source: Tensor  # (B, N) long: place in the prompt; of a token that was made, the place whose position it takes
    origin: Tensor  # (B, N) long: number of the visual token in its prompt; -1 for text, padding and what was made
    visual: Tensor  # (B, N) bool, what was made included
    valid: Tensor | None  # (B, N) bool; None: no padding
    sizes: Tensor | None = None  # (B, N) float32: for how many tokens each stands; None: for itself alone

    @property
    def length(self) -> int:
        return self.source.shape[1]

    @property
    def ok(self) -> Tensor:
        return torch.ones_like(self.visual) if self.valid is None else self.valid

    def untouched(self, prompt: "Layout") -> Tensor:
        """(B,) bool: rows that have all visual tokens of the prompt, and no other."""
        return (self.origin >= 0).sum(1).eq(prompt.visual.sum(1)) & self.visual.sum(1).eq(prompt.visual.sum(1))

    def rows(self, indices: Tensor) -> "Layout":
        """The same for these rows of the batch."""
        return self._each(lambda x: x.index_select(0, indices.to(x.device)))

    def repeated(self, times: int) -> "Layout":
        return self._each(lambda x: x.repeat_interleave(times, dim=0))

    def cropped(self, tokens: int) -> "Layout":
        """Without the last `tokens`, which must be text."""
        return self._each(lambda x: x[:, : x.shape[1] - tokens])

    def _each(self, change) -> "Layout":
        tensors = {f.name: getattr(self, f.name) for f in fields(self) if isinstance(getattr(self, f.name), Tensor)}
        return replace(self, **{name: change(x) for name, x in tensors.items()})


def whole(visual: Tensor, valid: Tensor | None) -> Layout:
    """The prompt itself. visual: (B, L) bool, no padding among it."""
    source = torch.arange(visual.shape[1], device=visual.device).expand(visual.shape)
    origin = (visual.cumsum(1) - 1).masked_fill(~visual, -1)
    return Layout(first=0, source=source, origin=origin, visual=visual, valid=valid)


def reduced(layout: Layout, reduction: Reduction, first: int, hidden: Tensor) -> tuple[Layout, Tensor]:
    """The sequence after a reduction, seen from layer `first` on, and its states: (B, N, D) -> (B, N', D).

    Text keeps its order, and visual tokens theirs; what was made stands behind the last visual token. Old padding goes,
    and rows that are now shorter than others are padded on the left.
    """
    batch, length = layout.source.shape
    keeps = layout.ok & (~layout.visual | reduction.kept)
    places = torch.arange(length, device=hidden.device).expand(batch, length)
    made = 0 if reduction.extra is None else reduction.extra.shape[1]
    source, origin, visual = layout.source, layout.origin, layout.visual
    sizes = layout.sizes if reduction.sizes is None else reduction.sizes.float().masked_fill(~visual, 1.0)
    states = hidden if reduction.hidden is None else reduction.hidden.to(hidden.dtype)
    key = torch.where(keeps, places * (made + 1), -1)
    if reduction.extra is not None:
        ok, at = reduction.extra_ok, reduction.extra_at
        assert ok is not None
        assert at is not None
        behind = places.masked_fill(~visual, -1).amax(1, keepdim=True) * (made + 1) + 1
        key = torch.cat([key, torch.where(ok, behind + torch.arange(made, device=key.device), -1)], dim=1)
        source = torch.cat([source, source.gather(1, at)], dim=1)
        origin = torch.cat([origin, torch.full_like(at, -1)], dim=1)
        visual = torch.cat([visual, ok], dim=1)
        states = torch.cat([states, reduction.extra.to(hidden.dtype)], dim=1)
        if sizes is not None or reduction.extra_sizes is not None:
            sizes = torch.ones(layout.source.shape, device=hidden.device) if sizes is None else sizes
            extra = (
                torch.ones(ok.shape, device=hidden.device) if reduction.extra_sizes is None else reduction.extra_sizes
            )
            sizes = torch.cat([sizes, extra.float()], dim=1)
    counts = (key >= 0).sum(1)
    shortest, longest = torch.stack([counts.amin(), counts.amax()]).tolist()
    order = torch.argsort(key, dim=1, stable=True)[:, key.shape[1] - longest :]
    valid = None
    if shortest < longest:
        valid = torch.arange(longest, device=key.device) >= (longest - counts)[:, None]

    def take(x: Tensor) -> Tensor:
        return x.gather(1, order)

    new = Layout(
        first=first,
        source=take(source),
        origin=take(origin) if valid is None else take(origin).masked_fill(~valid, -1),
        visual=take(visual) if valid is None else take(visual) & valid,
        valid=valid,
        sizes=None if sizes is None else take(sizes),
    )
    return new, picked(states, order)
