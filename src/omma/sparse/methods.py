"""The methods by name: when each drops visual tokens, what it looks at, and which it keeps.

A method is a function of a `Stage` in METHODS, and its keyword arguments are its options. B rows, N places of the
sequence.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from omma.sparse.by_likeness import dart, kcenter, tome, tome_asks
from omma.sparse.by_vision import (
    cdpruner,
    cdpruner_asks,
    cdpruner_reads,
    holov,
    prumerge,
    prumerge_plus,
    visionzip,
    vispruner,
)
from omma.sparse.pick import divprune_order
from omma.sparse.reduce import cluster_merge, recycle_counts
from omma.sparse.schedule import Shape, between, none_made
from omma.sparse.score import (
    gravity_attention,
    last_row,
    rank_deletions,
    rank_kept,
    rank_of,
    rater_attention,
    rotary_gravity,
    top,
)
from omma.sparse.stage import Need, Reduction, Stage, picked, places

Positions = Literal["original", "compact"]


@dataclass(frozen=True, kw_only=True)
class Method:
    """One way to choose. reduce(stage, **options) -> Reduction.

    attention: which layer's rows or keys `reduce` reads. "before": of the layer just run, so that the first layer can't
    be spared; "own": of the layer to come; None: none. vision: what it asks of the vision tower. reads: whether what
    stays depends on the words of the prompt.
    """

    reduce: Callable[..., Reduction]
    after: tuple[int, ...]  # layers of a decoder of 32 after which tokens are dropped; -1: before the first
    shape: Shape  # how what is kept falls from stage to stage
    positions: Positions  # as published: what is kept has its old positions, or is renumbered
    attention: Literal["before", "own"] | None = None
    vision: tuple[Need, ...] | Callable[..., tuple[Need, ...]] = ()
    reads: bool | Callable[..., bool] = False
    made: Callable[..., int] = none_made  # made(dropped, **options): tokens made of the dropped ones
    tables: Mapping[str, Mapping[int, int]] = field(default_factory=dict)  # published schedules by name
    earlier: bool = False  # whether smaller budgets move the stages to earlier layers
    adaptive: bool = False  # whether it decides itself how many stay; then it is asked at every stage, budget or not

    @property
    def options(self) -> dict[str, Any]:
        """The options with their defaults."""
        parameters = inspect.signature(self.reduce).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


# ---------------------------------------------------------------------------------------------------- SparseVLM
def sparsevlm_v1(stage: Stage, *, tau: float = 0.3, theta: float = 0.1, paper: bool = False) -> Reduction:
    """Kept: what the text raters attend to most. The best tau of the rest are clustered into theta of their number
    (Zhang et al. 2025, arXiv 2410.04417, as in its code).

    paper: clusters by cosine and summed, as printed, in place of Euclidean distance and mean, as coded.
    """
    rows = stage.rows(stage.raters())
    scores = spread(stage, rater_attention(rows.attention, rows.ok, rows.seen & stage.visual[:, None]))
    return with_recycled(stage, scores, stage.best(scores), tau, theta, paper)


def with_recycled(
    stage: Stage, scores: Tensor, kept: Tensor, tau: float, theta: float, paper: bool = False
) -> Reduction:
    """SparseVLM's recycling of what isn't kept."""
    recycled, clusters = recycle_counts((stage.visual & ~kept).sum(1), tau, theta)
    most = int(recycled.max())
    if most == 0:
        return Reduction(kept=kept, scores=scores)
    order = torch.sort(
        scores.masked_fill(kept | ~stage.visual, -torch.inf), dim=1, descending=True, stable=True
    ).indices
    order = order[:, :most]
    ok = torch.arange(order.shape[1], device=kept.device) < recycled[:, None]
    merged = cluster_merge(picked(stage.hidden, order), clusters, ok, paper=paper)
    return Reduction(
        kept=kept, scores=scores, extra=merged.tokens, extra_ok=merged.ok, extra_at=order.gather(1, merged.centre)
    )


def sparsevlm_v2(stage: Stage, *, heads: int | None = None, floor: float | None = 0.02) -> Reduction:
    """Kept: what the text raters attend to most in the loudest heads, RoPE's pull to the near divided out. Nothing is
    recycled. As in the published code ("SparseVLM+"), which no paper describes.

    heads: how many; 14 as published, or half of them in a layer that has no more than 14. floor: see `rotary_gravity`.
    """
    rows = stage.rows(stage.raters())
    heads = heads or (14 if rows.attention.shape[1] > 14 else max(rows.attention.shape[1] // 2, 1))
    g = rotary_gravity(picked(stage.cos, rows.places), picked(stage.sin, rows.places), stage.cos, stage.sin, floor)
    seen = rows.seen & stage.visual[:, None]
    scores = gravity_attention(rows.attention, g, rows.ok, seen, stage.visual, heads=heads)
    return Reduction(kept=stage.best(scores), scores=scores)


def sparsevlm_rank(
    stage: Stage,
    *,
    scale: float = 9.0,
    bias: float = 6.0,
    lam: float | None = None,
    tau: float = 0.3,
    theta: float = 0.1,
) -> Reduction:
    """SparseVLM with a number kept that follows the rank of the raters' attention: rank scale + bias, as in its first
    code ((9, 6) for "128", (13.5, 0) for "192", (0.8, 0) for "64"), at most what a budget or schedule says.

    lam: the paper's rule in place of it, which deletes lam (V - rank) (arXiv 2410.04417, eq. 7; it gives no value).
    """
    rows = stage.rows(stage.raters())
    seen = rows.seen & stage.visual[:, None]
    scores = spread(stage, rater_attention(rows.attention, rows.ok, seen))
    tokens = stage.visual.sum(1)
    rank = rank_of(rows.attention.mean(1), rows.ok, stage.visual)
    count = rank_kept(rank, tokens, scale, bias) if lam is None else tokens - rank_deletions(rank, tokens, lam)
    count = torch.maximum(torch.minimum(count, stage.want), stage.must.sum(1))
    kept = top(scores.masked_fill(stage.must, torch.inf), count, stage.visual)
    return with_recycled(stage, scores, kept, tau, theta)


@lru_cache(maxsize=4096)
def recycled_tokens(dropped: int, *, tau: float = 0.3, theta: float = 0.1, **others: Any) -> int:
    """Tokens that `sparsevlm_v1` makes of `dropped` ones."""
    return int(recycle_counts(torch.tensor([dropped]), tau, theta)[1])


# ------------------------------------------------------------------------------------------- FastV, PyramidDrop
def fastv(stage: Stage) -> Reduction:
    """Kept: what the prompt's last token attends to most, mean over heads (Chen et al. 2024, arXiv 2403.06764)."""
    scores = last_row(stage.rows(stage.last()).attention)
    return Reduction(kept=stage.best(scores), scores=scores)


def pyramiddrop(stage: Stage) -> Reduction:
    """The same in the layer to come, in several stages (Xing et al. 2025, arXiv 2410.17247)."""
    scores = last_row(stage.rows(stage.last(), own=True).attention)
    return Reduction(kept=stage.best(scores), scores=scores)


def halving(t: float) -> list[float]:
    """PyramidDrop's shares: of each stage the same part of the stage before; t = 0.5 as published."""
    return [t, t**2, t**3]


# ---------------------------------------------------------------------------------------------------- without attention
def divprune(stage: Stage) -> Reduction:
    """Kept: tokens as unlike each other as can be (Alvar et al. 2025, arXiv 2503.02175)."""
    at, ok = places(stage.visual)
    order = divprune_order(picked(stage.hidden, at), stage.want, ok)  # (B, k), -1 for none
    beyond = at.gather(1, order.clamp(min=0)).masked_fill(order < 0, stage.visual.shape[1])
    falling = -torch.arange(order.shape[1], device=at.device, dtype=torch.float32).expand(order.shape)
    scores = torch.full_like(pad(stage.visual.float(), (0, 1)), -torch.inf).scatter(1, beyond, falling)[:, :-1]
    return Reduction(kept=scores > -torch.inf, scores=scores)


def random(stage: Stage, *, seed: int = 0) -> Reduction:
    """Kept: drawn, each sample by (seed, its number since the model was sparsified). A control."""
    total = int(stage.origin.max()) + 1
    if "draws" not in stage.memo:
        draws = {n: torch.rand(total, generator=generator(seed, n)) for n in set(stage.samples)}
        stage.memo["draws"] = torch.stack([draws[n] for n in stage.samples]).to(stage.hidden.device)
    scores = stage.memo["draws"].gather(1, stage.origin.clamp(min=0))
    return Reduction(kept=stage.best(scores), scores=scores)


def uniform(stage: Stage) -> Reduction:
    """Kept: evenly over the picture, whatever is in it. A control.

    The tokens t with the smallest fraction of t times the golden ratio: even along the prompt, and, as no small number
    times the ratio is nearly whole, also from row to row, where every n-th token may be one column of the picture.
    """
    fraction = (stage.origin * GOLDEN % 2**32) >> 8  # 24 bits, which a float32 holds on every device
    scores = -fraction.float()
    return Reduction(kept=stage.best(scores), scores=scores)


GOLDEN = 2654435769  # 2^32 / 1.618...


def generator(seed: int, sample: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed * 1_000_003 + sample)


def spread(stage: Stage, scores: Tensor) -> Tensor:
    """Scores (B, N) with 0 off the visual tokens."""
    return scores.masked_fill(~stage.visual, 0.0)


def one(t: float) -> list[float]:
    """A single stage."""
    return [t]


def alike(t: float) -> list[float]:
    """The same share after each of four stages."""
    return [t] * 4


def shares(table: Mapping[str, Mapping[int, int]]) -> list[list[float]]:
    """Published schedules of LLaVA-1.5's 576 tokens as shares of them, from few to many."""
    rows = [[k / 576 for k in schedule.values()] for schedule in table.values()]
    return sorted(rows, key=lambda row: 4 * row[0] + 9 * row[1] + 16 * row[2])


V1_TABLES = {
    "64": {2: 66, 6: 30, 15: 17},
    "96": {2: 238, 6: 48, 15: 26},
    "128": {2: 303, 6: 110, 15: 36},
    "192": {2: 300, 6: 200, 15: 110},
}
V2_TABLES = {
    "64": {2: 66, 6: 34, 15: 20},
    "96": {2: 246, 6: 54, 15: 28},
    "128": {2: 238, 6: 108, 15: 60},
    "192": {2: 300, 6: 200, 15: 118},
}
in_decoder = partial(Method, attention="before", reads=True)
before_decoder = partial(Method, after=(-1,), shape=one, positions="compact")

METHODS: dict[str, Method] = {
    "sparsevlm-v1": in_decoder(
        reduce=sparsevlm_v1, after=(2, 6, 15), shape=between(shares(V1_TABLES)), positions="compact",
        made=recycled_tokens, tables=V1_TABLES,
    ),
    "sparsevlm-v2": in_decoder(
        reduce=sparsevlm_v2, after=(2, 6, 15), shape=between(shares(V2_TABLES)), positions="original", tables=V2_TABLES,
    ),
    "sparsevlm-rank": in_decoder(
        reduce=sparsevlm_rank, after=(2, 6, 15, 19), shape=alike, positions="compact", made=recycled_tokens,
        adaptive=True,
    ),
    "fastv": in_decoder(reduce=fastv, after=(1,), shape=one, positions="original"),
    "pyramiddrop": Method(
        reduce=pyramiddrop, after=(7, 15, 23), shape=halving, positions="compact", attention="own", earlier=True,
        reads=True,
    ),
    "dart": in_decoder(reduce=dart, after=(1,), shape=one, positions="original"),
    "divprune": before_decoder(reduce=divprune),
    "cdpruner": before_decoder(reduce=cdpruner, vision=cdpruner_asks, reads=cdpruner_reads),
    "visionzip": before_decoder(reduce=visionzip, vision=("attention", "keys", "features")),
    "vispruner": before_decoder(reduce=vispruner, vision=("attention", "features")),
    "holov": before_decoder(reduce=holov, vision=("attention",)),
    "prumerge": before_decoder(reduce=prumerge, vision=("last_attention", "last_keys", "features")),
    "prumerge+": before_decoder(reduce=prumerge_plus, vision=("last_attention", "last_keys", "features")),
    "tome": before_decoder(reduce=tome, vision=tome_asks),
    "kcenter": before_decoder(reduce=kcenter),
    "random": Method(reduce=random, after=(-1,), shape=one, positions="original"),
    "uniform": Method(reduce=uniform, after=(-1,), shape=one, positions="original"),
}  # fmt: skip
METHODS["sparsevlm"] = METHODS["sparsevlm-v2"]
