"""Methods that ask the vision tower: what its class token looks at, and how alike its patches are.

All were published for LLaVA's CLIP and drop tokens before the decoder. What a tower without a class token looks at is
the mean attention that a patch receives. Tokens that are no picture's part, as the end of a line of tiles, count as
never looked at.

B rows, N places of the sequence, V visual tokens, F numbers that the adapter makes one visual token of.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from omma.sparse.pick import chosen, dpp_order, holov_select, prumerge_select, relevance, vispruner_select
from omma.sparse.reduce import contextual_merge, prumerge_merge
from omma.sparse.score import top
from omma.sparse.stage import Need, Reduction, Stage, picked, places


class Visual:
    """The visual tokens of a stage without the gaps between them: (B, V, ...)."""

    def __init__(self, stage: Stage):
        self.stage = stage
        self.at, self.ok = places(stage.visual)
        self.must = stage.must.gather(1, self.at) & self.ok
        self.want = torch.minimum(stage.want, self.ok.sum(1))
        self.all_stay = self.want == self.ok.sum(1)  # rows with no more tokens than are to stay, left as they are

    @property
    def hidden(self) -> Tensor:
        return picked(self.stage.hidden, self.at)

    def heard(self, name: Need) -> Tensor:
        """(B, V, ...) of the vision tower."""
        value = self.stage.vision.read(self.stage, name)
        return value.gather(1, self.at) if value.ndim == 2 else picked(value, self.at)

    def back(self, values: Tensor, fill: float | bool = False) -> Tensor:
        """(B, V) -> (B, N)."""
        empty = torch.full(self.stage.visual.shape, fill, dtype=values.dtype, device=values.device)
        return torch.where(self.stage.visual, empty.scatter(1, self.at, values), empty)

    def placed(self, x: Tensor) -> Tensor:
        """The stage's states (B, N, D) with these in place of the visual ones, (B, V, D)."""
        x = torch.where(self.ok[:, :, None], x.to(self.stage.hidden.dtype), self.hidden)
        return self.stage.hidden.scatter(1, self.at[:, :, None].expand_as(x), x)

    @property
    def known(self) -> Tensor:
        """(B, V) bool: tokens that are a picture's part."""
        return self.stage.vision.known.gather(1, self.stage.source).gather(1, self.at) & self.ok

    def first(self, scores: Tensor) -> Tensor:
        """Scores (B, V) with the tokens that must stay in front."""
        return scores.float().masked_fill(self.must, math.inf)

    def merging(self) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """What is merged, (B, V, .), and how it becomes the decoder's: as published, the tower's states before the
        adapter.

        In a later layer the decoder's own states are.
        """
        if self.stage.layer == 0:
            return self.heard("features"), lambda x: self.stage.vision.project(x).to(self.stage.hidden.dtype)
        return self.hidden, lambda x: x


def visionzip(stage: Stage, *, contextual: float = 10 / 64) -> Reduction:
    """Kept: what the class token looks at most. The rest is merged into the share `contextual` of the budget (Yang et
    al. 2025, arXiv 2412.04467): 54 and 10 of 64, 108 and 20 of 128, 162 and 30 of 192, as published.

    The published dominant tokens have the class token among them; here its place goes to one more patch, as the decoder
    of transformers isn't given it. Merged tokens stand behind all others.
    """
    visual = Visual(stage)
    attention = visual.heard("attention")
    merged = (visual.want.double() * contextual + 1e-6).floor().long()
    merged = torch.minimum(merged, visual.want - torch.maximum(visual.must.sum(1), visual.want.clamp(max=1)))
    # Ends of lines aren't merged; where they are needed to make up the number, nothing is.
    merged = merged.clamp(min=0).masked_fill(visual.all_stay | (visual.known.sum(1) < visual.want), 0)
    kept = top(visual.first(attention), visual.want - merged, visual.ok)
    x, project = visual.merging()
    tokens, ok, targets, _ = contextual_merge(x, visual.heard("keys"), visual.known & ~kept, merged)
    scores = visual.back(attention)
    if not tokens.shape[1]:
        return Reduction(kept=visual.back(kept), scores=scores)
    return Reduction(
        kept=visual.back(kept),
        scores=scores,
        extra=project(tokens),
        extra_ok=ok,
        extra_at=visual.at.gather(1, targets),
    )


def vispruner(stage: Stage, *, important: float = 0.5, step: int = 8) -> Reduction:
    """Kept: the share `important` by what the class token looks at, the others by removing, `step` at a time, what has
    a likeness among them (Zhang et al. 2025, arXiv 2412.01818). The budget is one for all pictures and tiles of a
    prompt, and ends of lines count; published are a budget a tile and ends of lines for free.
    """
    visual = Visual(stage)
    attention = visual.heard("attention")
    x = visual.merging()[0]
    kept = vispruner_select(visual.first(attention), x, visual.want, visual.ok, important=important, step=step)
    return Reduction(kept=visual.back(kept), scores=visual.back(attention))


def holov(stage: Stage, *, runs: int = 16, alpha: float = 0.09) -> Reduction:
    """Kept: what the class token looks at most within `runs` runs of the picture, which share the budget by attention
    and variety (Zou et al. 2025, arXiv 2510.02912). Exactly the budget, in prompt order; the published code fills up
    with zero vectors or cuts, and orders a run's tokens by attention.
    """
    visual = Visual(stage)
    attention = visual.heard("attention")
    kept = holov_select(visual.hidden, attention, visual.want, visual.ok, runs=runs, alpha=alpha)
    return Reduction(kept=visual.back(kept), scores=visual.back(attention))


def prumerge(stage: Stage, *, neighbours: int = 32, plus: bool = False) -> Reduction:
    """Kept: what the class token looks at most, each with its likest `neighbours` added by their attention; the rest
    becomes one token more (Shang et al. 2024, arXiv 2403.15388). Of the budget that one is a part.

    The published number kept is that of outliers in the attention (`iqr_outliers`), its kept tokens stand in order of
    attention; here it is the budget's, in prompt order.
    """
    visual = Visual(stage)
    attention = visual.heard("last_attention")
    rest = ((visual.want >= 2) & (visual.must.sum(1) < visual.want) & ~visual.all_stay).long()
    kept = prumerge_select(visual.first(attention), visual.want - rest, visual.ok, plus=plus)
    x, project = visual.merging()
    changed = kept & visual.known & ~visual.all_stay[:, None]
    grown, one = prumerge_merge(x, visual.heard("last_keys"), attention, changed, visual.known, neighbours=neighbours)
    at, there = places(changed)
    states = visual.hidden
    new = torch.where(there[:, :, None], project(picked(grown, at)), picked(states, at))
    hidden = visual.placed(states.scatter(1, at[:, :, None].expand_as(new), new))
    left = visual.ok & ~kept
    median = ((left.cumsum(1) - 1) == (left.sum(1, keepdim=True) - 1).clamp(min=0) // 2).byte().argmax(1, keepdim=True)
    return Reduction(
        kept=visual.back(kept),
        scores=visual.back(attention),
        hidden=hidden,
        extra=project(one),
        extra_ok=rest.bool()[:, None],
        extra_at=visual.at.gather(1, median),
    )


def prumerge_plus(stage: Stage, *, neighbours: int = 32) -> Reduction:
    """PruMerge with a quarter kept by attention and the others at equal distances (PruMerge+, the same paper)."""
    return prumerge(stage, neighbours=neighbours, plus=True)


def cdpruner(stage: Stage, *, text_tower: Any = None, question: Mapping[str, Tensor] | None = None) -> Reduction:
    """Kept: tokens that matter for the question and are unlike each other (Zhang et al. 2025, arXiv 2506.10967).

    text_tower: the `CLIPModel` whose vision tower the model has, question: its tokenizer's input_ids and
    attention_mask, one row a sample or one for all: as published. Without them the decoder's own embeddings of the text
    behind the picture take their place, which the published code leaves to models without CLIP.
    """
    visual = Visual(stage)
    if text_tower is None:
        at, text_ok = places(stage.prompt_text)
        weight = relevance(visual.hidden, picked(stage.embeds, at), text_ok, visual.ok)
    else:
        if question is None:
            raise ValueError("text_tower without question; give its tokenizer's answer, question=tokenizer(texts, ...)")
        texts = question_embeds(text_tower, question)
        if 1 < len(texts) <= max(stage.samples):
            raise ValueError(
                f"question has {len(texts)} rows, but there are {max(stage.samples) + 1} samples; give one row for "
                "each, or one for all"
            )
        rows = torch.tensor([n if len(texts) > 1 else 0 for n in stage.samples], device=texts.device)
        patches = text_tower.vision_model.post_layernorm(visual.heard("features").to(texts.dtype))
        weight = relevance(text_tower.visual_projection(patches), texts[rows][:, None], None, visual.ok)
    weight = torch.where(visual.must, weight.amax(1, keepdim=True).clamp(min=1.0), weight)
    order = dpp_order(visual.hidden, weight, visual.want, visual.ok)
    rank = torch.full_like(weight, -math.inf).scatter(
        1,
        order.clamp(min=0),
        torch.where(order >= 0, -torch.arange(order.shape[1], device=order.device).float(), -math.inf),
    )
    return Reduction(kept=visual.back(chosen(order, visual.ok.shape[1])), scores=visual.back(rank, -math.inf))


def question_embeds(text_tower: Any, question: Mapping[str, Tensor]) -> Tensor:
    """(samples, E): a CLIP's embeddings of texts."""
    found = text_tower.get_text_features(**question)
    return found if isinstance(found, Tensor) else found.pooler_output


def cdpruner_asks(*, text_tower: Any = None, **others: Any) -> tuple[Need, ...]:
    """What `cdpruner` asks of the vision tower: nothing without CLIP's text tower."""
    return () if text_tower is None else ("features",)


def cdpruner_reads(*, text_tower: Any = None, **others: Any) -> bool:
    """Whether `cdpruner` reads the prompt's words: without CLIP's text tower, which is given its own."""
    return text_tower is None
