"""A cache whose layers hold different tokens, because visual ones were dropped between them.

`PrunedCache` is transformers' `DynamicCache` and carries what is needed to go on from it: which slots of which layers
are tokens, their sizes and positions, and how long the prompt was. It may be copied, reordered, repeated and cropped.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from omma.sparse.layout import Layout


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a prompt was shortened. Frozen, so that copies of a cache may share it."""

    prompt: int  # tokens of the prompt, padding included, as the caller counts them
    layouts: tuple[Layout, ...]  # by rising `first`; the first one is the prompt itself
    compact: bool  # positions renumbered above a drop
    calibrate: bool
    keys: tuple[tuple[Tensor, Tensor] | None, ...]  # where calibrated: cos and sin of each layout's slots
    reads: str = ""  # the method, where it chose by the words of the prompt

    def at(self, layer: int) -> int:
        """Which layout a layer sees."""
        return max(i for i, layout in enumerate(self.layouts) if layout.first <= layer)

    def map(self, change) -> "Plan":
        """The same with `change` applied to all layouts and tables, which have a row for each row of the batch."""
        keys = tuple(None if pair is None else (change(pair[0]), change(pair[1])) for pair in self.keys)
        return replace(self, layouts=tuple(change(layout) for layout in self.layouts), keys=keys)

    def cropped(self, tokens: int) -> "Plan":
        """Without the prompt's last tokens. ValueError where they aren't text in every row."""
        if any(bool(layout.visual[:, layout.length - tokens :].any()) for layout in self.layouts):
            raise ValueError(f"the last {tokens} tokens of the prompt are not all text; visual tokens can't be cropped")
        keys = tuple(
            None if pair is None else (pair[0][:, : pair[0].shape[1] - tokens], pair[1][:, : pair[1].shape[1] - tokens])
            for pair in self.keys
        )
        layouts = tuple(layout.cropped(tokens) for layout in self.layouts)
        return replace(self, prompt=self.prompt - tokens, layouts=layouts, keys=keys)


class PrunedCache(DynamicCache):
    """A `DynamicCache` with a `plan`: layers may hold different tokens.

    `get_seq_length()` is the length as the caller counts it, dropped tokens included, so that positions and masks made
    from it stay right; `get_seq_length(i)` of a later layer is what that layer holds.
    """

    plan: Plan | None = None  # None: nothing was dropped
    attended: bool = False  # whether a sparsified model is running on it

    def held(self, layer: int) -> int:
        """Slots that a layer holds, padding included."""
        layers: list[Any] = self.layers
        return layers[layer].get_seq_length() if layer < len(self.layers) else 0

    def appended(self) -> int:
        """Tokens that came after the prompt."""
        return 0 if self.plan is None else self.held(0) - self.plan.layouts[self.plan.at(0)].length

    def get_seq_length(self, layer_idx: int = 0) -> int:
        if self.plan is None or layer_idx != 0:
            return super().get_seq_length(layer_idx)
        return self.plan.prompt + self.appended()

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        if self.plan is None or layer_idx != 0:
            return super().get_mask_sizes(query_length, layer_idx)
        return self.get_seq_length() + query_length, 0

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args, **kwargs):
        if self.plan is not None and not self.attended:
            raise ValueError(
                "visual tokens were dropped from this cache, and a plain model would attend to the wrong slots; "
                "go on from it within `with omma.sparsify(...)`"
            )
        return super().update(key_states, value_states, layer_idx, *args, **kwargs)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        super().reorder_cache(beam_idx)  # type: ignore[arg-type]
        self._rows(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        super().batch_select_indices(indices)
        self._rows(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)
        if self.plan is not None:
            self.plan = self.plan.map(
                lambda x: x.repeated(repeats) if isinstance(x, Layout) else x.repeat_interleave(repeats, dim=0)
            )

    def crop(self, tokens_to_remove: int) -> None:
        if self.plan is not None and (beyond := -tokens_to_remove - self.appended()) > 0:
            self.plan = self.plan.cropped(beyond)
        super().crop(tokens_to_remove)

    def reset(self) -> None:
        super().reset()
        self.plan = None

    def _rows(self, indices: Tensor) -> None:
        if self.plan is not None:
            if indices.dtype == torch.bool:
                indices = indices.nonzero()[:, 0]
            self.plan = self.plan.map(
                lambda x: x.rows(indices) if isinstance(x, Layout) else x.index_select(0, indices.to(x.device))
            )
