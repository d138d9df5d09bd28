"""Which visual tokens stay, where that is a property of the set and not of each token: diverse sets, quotas, outliers.

B samples, V visual tokens, T text tokens, D width, k tokens to keep (one number, or one a row). Rows of unequal length
stand behind a mask (B, V). What is returned is an order of choice (B, k), -1 behind a row's last, or a mask (B, V).
Everything is computed in float32; equal values go to the token that stands first.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import normalize

from omma.sparse.score import all_valid, cosine, evenly, per_row, ranks, top


def chosen(order: Tensor, tokens: int) -> Tensor:
    """The mask (B, tokens) of an order of choice (B, k) with -1 for none."""
    mask = torch.zeros(len(order), tokens + 1, dtype=torch.bool, device=order.device)
    return mask.scatter_(1, order.masked_fill(order < 0, tokens), True)[:, :tokens]


def divprune_order(x: Tensor, k: int | Tensor, valid: Tensor | None = None) -> Tensor:
    """Tokens as far from each other as can be, in order of choice, (B, k) (DivPrune, Alvar et al., arXiv 2503.02175).

    x: (B, V, D) projected tokens. Greedy max-min of the distance 1 - cosine: first the token whose nearest neighbour is
    farthest, then each time the one whose nearest chosen token is farthest. The cosines of all pairs stay in memory, as
    a step that made its own row anew would read all tokens for it.
    """
    valid = all_valid(x, valid)
    want = torch.minimum(per_row(k, x)[:, 0], valid.sum(1))
    unit = normalize(x.float(), dim=-1)
    alike = unit @ unit.transpose(1, 2)  # (B, V, V)
    alike.diagonal(dim1=1, dim2=2).fill_(-math.inf)
    alike.masked_fill_(~valid[:, None], -math.inf)
    order: list[Tensor] = []
    nearest = alike.amax(2) if alike.numel() else valid.float()  # cosine of the most alike, at first among all
    taken = ~valid
    for step in range(int(want.max()) if len(x) else 0):
        pick = nearest.masked_fill(taken, math.inf).argmin(1, keepdim=True)  # the first of equals
        order.append(torch.where(step < want[:, None], pick, -1))
        taken.scatter_(1, pick, True)
        row = alike.gather(1, pick[:, :, None].expand(-1, -1, alike.shape[2]))[:, 0]
        nearest = row if step == 0 else torch.maximum(nearest, row)
    return torch.cat(order, dim=1) if order else torch.zeros(len(x), 0, dtype=torch.long, device=x.device)


def _at(pick: Tensor, like: Tensor) -> Tensor:
    """One-hot mask (B, V) of one token a row."""
    return torch.arange(like.shape[1], device=like.device) == pick[:, None]


def _token(x: Tensor, pick: Tensor) -> Tensor:
    """Row `pick` (B,) of each sample, (B, 1, D)."""
    return x.gather(1, pick[:, None, None].expand(-1, 1, x.shape[-1]))


def relevance(patches: Tensor, texts: Tensor, text_ok: Tensor | None = None, valid: Tensor | None = None) -> Tensor:
    """How CDPruner weighs each token by the question, (B, V), 1e-6 and up (Zhang et al. 2025, arXiv 2506.10967).

    patches: (B, V, E) and texts: (B, M, E) in one space (CLIP's projections; M text segments). The *negative* cosine,
    mean over segments, scaled to 0..1 within the sample: as published, where CLIP's patches point away from the text
    they belong to. The published code takes minimum and maximum over the whole batch, so that a picture's tokens
    depend on its neighbours; here they are the sample's own.
    """
    valid, text_ok = all_valid(patches, valid), all_valid(texts, text_ok)
    away = -cosine(patches, texts).masked_fill(~text_ok[:, None], 0).sum(2) / text_ok.sum(1, keepdim=True).clamp(min=1)
    low = away.masked_fill(~valid, math.inf).amin(1, keepdim=True)
    span = away.masked_fill(~valid, -math.inf).amax(1, keepdim=True) - low
    # Where all are alike, all count: the kernel is then that of diversity alone.
    scaled = torch.where(span > 0, (away - low + 1e-6) / span.clamp(min=torch.finfo(torch.float32).tiny), 1.0)
    return scaled.masked_fill(~valid, 0)


def dpp_order(x: Tensor, weight: Tensor, k: int | Tensor, valid: Tensor | None = None) -> Tensor:
    """Tokens that are relevant and unlike each other, in order of choice, (B, k): greedy MAP of a DPP.

    x: (B, V, D) projected tokens, weight: (B, V) from `relevance`. The kernel is weight_i cos(x_i, x_j) weight_j
    (CDPruner, eq. 7), each step takes the largest remaining variance d_i^2 and updates it by one row of the Cholesky
    factor (Chen et al. 2018, arXiv 1709.05135); the kernel's rows are made when they are needed. Once the chosen tokens
    span the rest (no variance above 1e-6 of the largest), where the published code divides by zero, the heaviest come.
    """
    valid = all_valid(x, valid)
    want = torch.minimum(per_row(k, x)[:, 0], valid.sum(1))
    unit = normalize(x.float(), dim=-1)
    weight = weight.float().masked_fill(~valid, 0)
    rest = weight.square()  # d_i^2, the variance that the chosen leave
    nothing = 1e-6 * rest.amax(1, keepdim=True) if x.shape[1] else rest
    steps = int(want.max()) if len(x) else 0
    factor = unit.new_zeros(len(x), steps, x.shape[1])
    order = torch.full((len(x), steps), -1, dtype=torch.long, device=x.device)
    open_ = valid.clone()
    by_weight = -1.0 - ranks(weight, valid).float()
    for step in range(steps):
        gain = torch.where(rest > nothing, rest, by_weight)
        pick = gain.masked_fill(~open_, -math.inf).argmax(1)
        order[:, step] = torch.where(step < want, pick, -1)
        row = weight.gather(1, pick[:, None]) * weight * torch.bmm(unit, _token(unit, pick).transpose(1, 2))[:, :, 0]
        done = factor[:, :step]
        row = row - torch.bmm(done.gather(2, pick[:, None, None].expand(-1, step, 1)).transpose(1, 2), done)[:, 0]
        left = rest.gather(1, pick[:, None])
        row = torch.where(left > nothing, row / left.clamp(min=torch.finfo(torch.float32).tiny).sqrt(), 0.0)
        factor[:, step] = row
        rest = rest - row.square()
        open_ = open_ & ~_at(pick, open_)
    return order


def vispruner_select(
    attention: Tensor,
    x: Tensor,
    k: int | Tensor,
    valid: Tensor | None = None,
    *,
    important: float = 0.5,
    step: int = 8,
) -> Tensor:
    """Tokens that [CLS] looks at, and of the others those without a likeness, (B, V) (VisPruner, arXiv 2412.01818).

    attention: (B, V) of [CLS] in the layer before the last, mean over heads; x: (B, V, D) the tower's features. The
    share `important` of k is kept by attention. The rest, in falling order of attention, is parted into every other
    token and the ones between; the `step` of the former most alike to one of the latter go, the others stand before
    the latter, most alike first, and so on until enough are left.
    """
    valid = all_valid(x, valid)
    count = valid.sum(1)
    want = torch.minimum(per_row(k, x)[:, 0], count)
    first = (want.double() * important).floor().long()
    place = ranks(attention, valid)
    kept = valid & (place < first[:, None])
    left, diverse = count - first, want - first
    # line[b, i] is the token at place i of what is left, the places from left[b] on are empty
    line = torch.sort(torch.where(valid & ~kept, place, place + x.shape[1]), dim=1).indices
    alike = cosine(x)
    at = torch.arange(x.shape[1], device=x.device)
    while bool((left > diverse).any()):
        filled = at < left[:, None]
        rows, columns = filled & (at % 2 == 0), filled & (at % 2 == 1)
        pair = alike.gather(1, line[:, :, None].expand_as(alike)).gather(2, line[:, None].expand_as(alike))
        best = pair.masked_fill(~columns[:, None], -2.0).amax(2)
        gone = torch.minimum(torch.minimum(left - diverse, torch.full_like(left, step)), rows.sum(1))[:, None]
        rank = ranks(best, rows)
        drop = rows & (rank < gone)
        behind = rows.sum(1, keepdim=True) - gone + torch.div(at, 2, rounding_mode="floor")
        target = torch.where(gone > 0, torch.where(rows, rank - gone, behind), at.expand_as(rank))
        # what was dropped and what is empty keeps out of the way, behind all that is left
        target = torch.where(filled & ~drop, target, at + x.shape[1])
        line, left = line.gather(1, torch.sort(target, dim=1).indices), left - gone[:, 0]
    return kept | torch.zeros_like(kept).scatter(1, line, at < left[:, None])


def holov_quota(run_scores: Tensor, sizes: Tensor, k: int | Tensor) -> Tensor:
    """How many of k tokens each run gets: in proportion to its score, at most its size, k in sum, (B, runs) long.

    run_scores: (B, runs) >= 0, sizes: (B, runs) long. The whole parts first, then one each by falling score. What a
    full run can't take goes to the others by the same rule; the published code loses it and fills with zero vectors.
    """
    want = torch.minimum(per_row(k, sizes)[:, 0], sizes.sum(1))
    quota = torch.zeros_like(sizes)
    scores = run_scores.double()
    while bool((quota.sum(1) < want).any()):
        room = sizes - quota
        weight = scores.clamp(min=0) * (room > 0)
        weight = torch.where(weight.sum(1, keepdim=True) > 0, weight, (room > 0).double())
        missing = (want - quota.sum(1))[:, None]
        share = (weight / weight.sum(1, keepdim=True).clamp(min=1e-300) * missing + 1e-9).floor().long()
        ones = missing - share.sum(1, keepdim=True)
        share = share + (ranks(weight.float(), room > 0) < ones).long()
        quota = quota + torch.minimum(share, room)
    return quota


def holov_select(
    x: Tensor, attention: Tensor, k: int | Tensor, valid: Tensor | None = None, *, runs: int = 16, alpha: float = 0.09
) -> Tensor:
    """Tokens with most [CLS] attention within runs of the picture that share k, (B, V) (HoloV, Zou et al. 2025).

    x: (B, V, D) projected tokens, attention: (B, V) of [CLS]. The tokens, in their order, are parted into `runs` runs
    (the first ones a token longer where V isn't a multiple). A token's score is 1000 attention + alpha times the
    variance of its cosines with its run, scaled to the mean of the former (arXiv 2510.02912 and its code: the cosine
    with itself counts as 0); a run's score is the mean, `holov_quota` parts k, and within a run attention decides.
    """
    valid = all_valid(x, valid)
    place, count = valid.cumsum(1) - 1, valid.sum(1, keepdim=True)
    base, longer = torch.div(count, runs, rounding_mode="floor"), count % runs
    short = torch.div(place - longer * (base + 1), base.clamp(min=1), rounding_mode="floor") + longer
    run = torch.where(place < longer * (base + 1), torch.div(place, base + 1, rounding_mode="floor"), short)
    run = torch.where(valid, run, runs)  # (B, V); `runs` gathers what isn't valid
    member = torch.nn.functional.one_hot(run, runs + 1)[:, :, :runs].float()  # (B, V, runs)
    sizes = member.sum(1)
    own = sizes.gather(1, run.clamp(max=runs - 1))  # size of each token's run
    others = (own - 1).clamp(min=1)
    within = (run[:, :, None] == run[:, None]) & valid[:, None]
    itself = torch.eye(x.shape[1], dtype=torch.bool, device=x.device)
    alike = cosine(x).masked_fill(~within | itself, 0)
    mean = alike.sum(2) / others
    spread = ((alike - mean[:, :, None]).square() * within).sum(2) / others
    spread = spread.masked_fill(own < 2, 0)  # a run of one has no variance
    drawn = 1e3 * attention.float().masked_fill(~valid, 0)

    def run_mean(values: Tensor) -> Tensor:
        return torch.einsum("bv,bvr->br", values, member) / sizes.clamp(min=1)

    scale = run_mean(drawn.abs()) / (run_mean(spread.abs()) + 1e-6)
    score = drawn + alpha * spread * scale.gather(1, run.clamp(max=runs - 1))
    quota = holov_quota(run_mean(score), sizes.long(), k)
    # place within the run by attention: how many of the same run stand before
    by_attention = ranks(attention, valid)
    ahead = (within & (by_attention[:, None] < by_attention[:, :, None])).sum(2)
    return valid & (ahead < quota.gather(1, run.clamp(max=runs - 1)))


def iqr_outliers(attention: Tensor, valid: Tensor | None = None) -> Tensor:
    """How many tokens stand out, above Q3 + 1.5 (Q3 - Q1) of the sample, (B,) long (PruMerge, arXiv 2403.15388).

    attention: (B, V) of [CLS]. Quartiles are interpolated linearly. The published code takes them over the whole batch.
    """
    valid = all_valid(attention, valid)
    values = attention.float().masked_fill(~valid, math.nan)
    low, high = (torch.nanquantile(values, q, dim=1, keepdim=True) for q in (0.25, 0.75))
    return ((attention.float() > high + 1.5 * (high - low)) & valid).sum(1)


def prumerge_select(
    attention: Tensor, k: int | Tensor, valid: Tensor | None = None, *, plus: bool = False, share: float = 0.25
) -> Tensor:
    """The k tokens that [CLS] looks at most, (B, V); plus: `share` of k by attention, the rest evenly spaced.

    attention: (B, V). PruMerge+ as published spaces its tokens at a third of the step that the outliers would have, so
    that about a quarter of what it keeps are outliers; those spaced ones that are kept already fall away there, and
    are spread over the other tokens here, so that exactly k are kept.
    """
    valid = all_valid(attention, valid)
    if not plus:
        return top(attention, k, valid)
    want = torch.minimum(per_row(k, attention)[:, 0], valid.sum(1))
    first = top(attention, (want.double() * share).round().long(), valid)
    return first | evenly(want - first.sum(1), valid & ~first)


def dart_select(
    x: Tensor,
    text: Tensor,
    norms: Tensor,
    text_norms: Tensor,
    k: int | Tensor,
    valid: Tensor | None = None,
    text_ok: Tensor | None = None,
    *,
    pivots: tuple[int, int] = (4, 4),
) -> Tensor:
    """Tokens least like a few pivots, (B, V): duplication, not importance (DART, Wen et al. 2025, arXiv 2502.11494).

    x: (B, V, D), text: (B, T, D) hidden states behind the decoder's last norm, of the tokens that enter the layer;
    norms, text_norms: (B, V), (B, T) L1 norms of their keys. Pivots are the (visual, text) tokens with the largest
    norm, read in the order of the sequence, visual ones first (in the published code a set's order, so unspecified).
    Each keeps the tokens least cosine-like to it among those not kept. The published share of a pivot is int(k /
    pivots), on top of the visual pivots; here k counts those, and is met exactly.
    """
    if pivots[0] < 1:
        raise ValueError(f"pivots = {pivots}, but a row may have no text; take one visual pivot at least, as in (4, 4)")
    valid, text_ok = all_valid(x, valid), all_valid(text, text_ok)
    want = torch.minimum(per_row(k, x)[:, 0], valid.sum(1))
    seen = top(norms, torch.minimum(want, torch.full_like(want, pivots[0])), valid)
    heard = top(text_norms, pivots[1], text_ok)
    kept = seen.clone()
    number = seen.sum(1) + heard.sum(1)
    missing = want - seen.sum(1)
    every = torch.cat((x, text), dim=1)
    pivot = torch.cat((seen, heard), dim=1)
    line = torch.sort(pivot.byte(), dim=1, descending=True, stable=True).indices
    for step in range(int(number.max()) if len(x) else 0):
        alike = cosine(x, _token(every, line[:, step]))[:, :, 0]
        share = torch.div(missing, number.clamp(min=1), rounding_mode="floor") + (step < missing % number.clamp(min=1))
        kept = kept | top(-alike, torch.where(step < number, share, 0), valid & ~kept)
    return kept
