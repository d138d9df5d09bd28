"""Methods that ask how alike visual tokens are: to each other (ToMe, k-center), or to a few pivots (DART).

B rows, N places of the sequence, V visual tokens, D width.
"""

from typing import Any, Literal

from torch import Tensor

from omma.sparse.by_vision import Visual
from omma.sparse.pick import dart_select
from omma.sparse.reduce import cover_merge, merge_to
from omma.sparse.score import top
from omma.sparse.stage import Need, Reduction, Stage, picked, places


def tome(stage: Stage, *, where: Literal["tokens", "tower"] = "tokens", proportional: bool = True) -> Reduction:
    """Kept: tokens into which those most like them were merged (Bolya et al. 2023, arXiv 2210.09461).

    where: "tower": in each layer of the vision tower, between attention and MLP, as many in each, as published; for
    models whose visual tokens are single patches. The number is that of a sample with one picture; of several, what is
    too many merges as below. "tokens": what the decoder is given, each half into the other, again and again until the
    budget. proportional: what stands for n tokens weighs n times as much in attention (log n on its logits), published
    for the tower, and here in the decoder as well.
    """
    visual = Visual(stage)
    sizes, there = None if stage.sizes is None else stage.sizes.gather(1, visual.at), visual.ok
    if where == "tower" and stage.layer == 0:
        sizes = visual.heard("sizes")
        there = visual.ok & ((sizes > 0) | visual.must)
        sizes = sizes.clamp(min=1.0)
    x, size, _ = merge_to(visual.hidden, visual.hidden, visual.want, there, visual.must, sizes)
    return merged(visual, x, size, proportional)


def kcenter(stage: Stage, *, proportional: bool = True) -> Reduction:
    """Kept: tokens as unlike each other as can be, into each of which those nearest to it were merged. omma's own.

    What DivPrune keeps is kept as it is; here each kept token is the mean of all that it stands for, and weighs as much
    as they did (proportional, as in `tome`).
    """
    visual = Visual(stage)
    sizes = None if stage.sizes is None else stage.sizes.gather(1, visual.at)
    x, size, _ = cover_merge(visual.hidden, visual.want, visual.ok, visual.must, sizes)
    return merged(visual, x, size, proportional)


def merged(visual: Visual, x: Tensor, size: Tensor, proportional: bool) -> Reduction:
    """Kept: the tokens (B, V, D) that stand for most, by their sizes (B, V), 0 for those merged away."""
    kept = visual.back(top(visual.first(size), visual.want, visual.ok))
    hidden, scores = visual.placed(x), visual.back(size)
    if not proportional:
        return Reduction(kept=kept, hidden=hidden, scores=scores)
    return Reduction(kept=kept, hidden=hidden, scores=scores, sizes=visual.back(size.clamp(min=1.0), 1.0))


def dart(stage: Stage, *, pivots: tuple[int, int] = (4, 4)) -> Reduction:
    """Kept: tokens least like a few visual and text pivots, those with the largest keys (Wen et al. 2025, arXiv
    2502.11494).

    As in its code: L1 norms of the keys of the layer just run, cosines of the states behind the decoder's last norm,
    text behind the picture. Exactly the budget, where the published code keeps pivots + 8 int(budget / 8).
    """
    visual = Visual(stage)
    at, text_ok = places(stage.text)
    x = stage.norm(stage.hidden)
    norms = stage.keys.float().abs().sum((1, 3))  # (B, N)
    kept = dart_select(
        picked(x, visual.at),
        picked(x, at),
        norms.gather(1, visual.at),
        norms.gather(1, at),
        visual.want,
        visual.ok,
        text_ok,
        pivots=pivots,
    )
    return Reduction(kept=visual.back(kept))


def tome_asks(*, where: str = "tokens", **others: Any) -> tuple[Need, ...]:
    """What `tome` asks of the vision tower. ValueError for a place that there isn't."""
    if where not in ("tokens", "tower"):
        raise ValueError(f"where = {where!r}; there are 'tower' and 'tokens'")
    return ("sizes",) if where == "tower" else ()
