"""A moment at which visual tokens are dropped: what a method may look at, and what it answers.

B rows, N places of the sequence now, L of the prompt, H heads, R raters (queries whose attention is read), D width,
d width of a head.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from omma.sparse.score import per_row, text_raters, top

# What a method may ask of the vision tower. attention, keys: of the layer whose states the decoder is given;
# last_attention, last_keys: of its last layer, in PruMerge's form; features: what the adapter makes a visual token of;
# sizes: that it merges patches while it runs (ToMe), and for how many each stands.
Need = Literal["attention", "keys", "last_attention", "last_keys", "features", "sizes"]


@dataclass(frozen=True, kw_only=True)
class Reduction:
    """What a method answers: which visual tokens stay, and what was made of the others.

    What was made ("extra") stands behind the last visual token of its row, in the order given, and counts as visual
    from then on. Under positions="original" each takes the position of the token at `extra_at`. Sizes, where given, add
    log(size) to the logits of a key in every later layer (proportional attention), in the prompt and in the answer.
    """

    kept: Tensor  # (B, N) bool over the sequence now; only what it says of visual tokens is read
    hidden: Tensor | None = None  # (B, N, D): new values of tokens into which others were merged
    sizes: Tensor | None = None  # (B, N): for how many tokens each stands
    extra: Tensor | None = None  # (B, C, D)
    extra_ok: Tensor | None = None  # (B, C) bool: rows make different numbers
    extra_at: Tensor | None = None  # (B, C) long, places of the sequence now: a cluster's centre or median
    extra_sizes: Tensor | None = None  # (B, C)
    scores: Tensor | None = None  # (B, N): by which the tokens were ranked


class Rows(NamedTuple):
    """Attention of chosen queries, softmaxed over all keys that they see."""

    attention: Tensor  # (B, H, R, N) float32
    places: Tensor  # (B, R) long: where the queries stand
    ok: Tensor  # (B, R) bool: rows have different numbers of queries
    seen: Tensor  # (B, R, N) bool: which keys a query sees


class Heard(NamedTuple):
    """What an attention module was heard to compute: after norm and rotation, so the same for every model."""

    query: Tensor  # (B, H, N, d)
    key: Tensor  # (B, Hk, N, d)
    scaling: float


@dataclass(kw_only=True)
class Stage:
    """What a method may look at when it is asked which visual tokens stay. Nothing in it may be changed."""

    layer: int  # tokens are dropped before this layer; 0: before the first
    hidden: Tensor  # (B, N, D): the states that would enter it
    visual: Tensor  # (B, N) bool
    text: Tensor  # (B, N) bool: text of the prompt behind the first visual token
    prompt: Tensor  # (B, N) bool: all of the prompt, so without padding, and without an assistant's drafts
    valid: Tensor  # (B, N) bool: no padding
    want: Tensor  # (B,) long: how many visual tokens to keep
    must: Tensor  # (B, N) bool: visual tokens that a person wants kept; they count
    origin: Tensor  # (B, N) long: number of the visual token; -1 for others and for what was made
    source: Tensor  # (B, N) long: place in the prompt
    image: Tensor  # (B, N) long: which run of visual tokens it belongs to, 0 for the first; -1 for text
    cos: Tensor  # (B, N, d): the rotation of each place, at this layer
    sin: Tensor
    embeds: Tensor  # (B, L, D): the prompt as it entered layer 0
    prompt_visual: Tensor  # (B, L) bool, of the whole prompt
    prompt_text: Tensor  # (B, L) bool: text behind the first visual token
    samples: list[int]  # numbers of the rows' samples since the model was sparsified; beams of one share it
    sizes: Tensor | None = None  # (B, N) of an earlier stage
    vision: Any = None  # what the vision tower was heard to say (`vision.Seen`); None where the method doesn't ask
    norm: Callable[[Tensor], Tensor] = lambda x: x  # the text model's last
    heard: Heard | None = None  # the layer just run
    ask: Callable[[Tensor], Heard] | None = None  # queries at (B, N) and keys of the layer to come
    memo: dict[str, Any] = field(default_factory=dict)  # lives as long as the prompt's pass: what all stages share

    @property
    def keys(self) -> Tensor:
        """(B, Hk, N, d): keys of the layer just run."""
        assert self.heard is not None, "a method that reads keys says so: attention='before'"
        return self.heard.key

    def rows(self, which: Tensor, own: bool = False) -> Rows:
        """Attention rows of the queries at `which` (B, N) bool, in the layer just run, or (own) in the one to come."""
        heard = self.ask(which) if own and self.ask is not None else self.heard
        assert heard is not None, "a method that reads attention says so: attention='before' or 'own'"
        return attention_rows(heard, which, self.valid, self.sizes)

    def raters(self) -> Tensor:
        """(B, N) bool: SparseVLM's text raters, chosen once from the prompt as it entered layer 0.

        Rows without text behind a visual token are rated by their last token.
        """
        if "raters" not in self.memo:
            (visual, visual_ok), (text, text_ok) = places(self.prompt_visual), places(self.prompt_text)
            chosen = text_raters(picked(self.embeds, visual), picked(self.embeds, text), visual_ok, text_ok)
            self.memo["raters"] = torch.zeros_like(self.prompt_text).scatter_(1, text, chosen & text_ok)
        found = self.memo["raters"].gather(1, self.source) & self.text
        return torch.where(found.any(1, keepdim=True), found, self.last())

    def last(self) -> Tensor:
        """(B, N) bool: the last token of each row's prompt."""
        place = torch.arange(self.prompt.shape[1], device=self.prompt.device)
        return place == place.expand_as(self.prompt).masked_fill(~self.prompt, -1).amax(1, keepdim=True)

    def best(self, scores: Tensor) -> Tensor:
        """The visual tokens to keep by these scores (B, N), the first of equals: (B, N) bool. NaN counts as lowest."""
        scores = torch.nan_to_num(scores.float(), nan=-math.inf, posinf=math.inf, neginf=-math.inf)
        return top(scores.masked_fill(self.must, math.inf), self.want, self.visual) | self.must


def places(which: Tensor) -> tuple[Tensor, Tensor]:
    """Where each row of a mask is True, in order, padded behind: (B, N) bool -> (B, n) long and (B, n) bool, n >= 1."""
    count = max(int(which.sum(1).max()), 1)
    at = torch.argsort(which.byte(), dim=1, descending=True, stable=True)[:, :count]
    return at, which.gather(1, at)


def picked(x: Tensor, at: Tensor) -> Tensor:
    """(B, N, D) at (B, n) -> (B, n, D)."""
    return x.gather(1, at[:, :, None].expand(-1, -1, x.shape[-1]))


def attention_rows(heard: Heard, which: Tensor, valid: Tensor, sizes: Tensor | None = None) -> Rows:
    """softmax(q K^T) of chosen queries under the causal mask, in float32. which, valid: (B, N) bool; sizes: (B, N).

    Only these rows are computed: R N numbers a head instead of N N.
    """
    query, key, scaling = heard
    batch, heads, length, width = query.shape
    at, ok = places(which)
    count = at.shape[1]
    chosen = query.gather(2, at[:, None, :, None].expand(batch, heads, count, width)).float()
    chosen = chosen.view(batch, key.shape[1], -1, count, width)  # heads that share a key
    logits = torch.einsum("bkgrd,bknd->bkgrn", chosen, key.float()) * scaling
    if sizes is not None:
        logits = logits + sizes.float().log()[:, None, None, None]
    seen = (torch.arange(length, device=key.device) <= at[:, :, None]) & valid[:, None]
    logits = logits.masked_fill(~seen[:, None, None], torch.finfo(torch.float32).min)  # a query of padding sees none
    attention = logits.softmax(-1).view(batch, heads, count, length)
    return Rows(attention, at, ok, seen)


def honoured(stage: Stage, reduction: Reduction) -> Tensor:
    """`reduction.kept` (B, N) with the tokens that must stay, in place of the lowest ranked of those that needn't."""
    kept = reduction.kept & stage.visual
    count = torch.maximum(kept.sum(1), stage.must.sum(1))
    scores = torch.zeros_like(stage.hidden[..., 0], dtype=torch.float32)
    if reduction.scores is not None:
        scores = torch.nan_to_num(reduction.scores.float(), nan=-math.inf)
    scores = scores.masked_fill(~kept, -math.inf).masked_fill(stage.must, math.inf)
    return top(scores, per_row(count, scores)[:, 0], kept | stage.must)
