"""What becomes of visual tokens that don't stay: merged into clusters, into their like, or into those that stay.

B samples, V visual tokens, N tokens to merge, C clusters, D width. Rows of unequal length stand behind a mask (B, V),
None: all are tokens. Sums are float32 and are returned in the dtype of what was merged.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from omma.sparse.score import all_valid, per_row, ranks, top

# --- SparseVLM's recycling: density peaks among the best of the deleted (Zhang et al. 2025, arXiv 2410.04417)


@dataclass(frozen=True)
class Clusters:
    """Merged tokens (B, C, D), which of them are there (B, C), the cluster of each token (B, N) or -1, and the place of
    each cluster's centre among the N (B, C)."""

    tokens: Tensor
    ok: Tensor
    label: Tensor
    centre: Tensor


def recycle_counts(deleted: Tensor, tau: float = 0.3, theta: float = 0.1) -> tuple[Tensor, Tensor]:
    """How many deleted tokens are recycled and into how many clusters: int(tau N) + 1 and int(theta R) + 1, (B,) each.

    deleted: (B,) long. 0 and 0 where nothing was deleted. tau and theta are the published code's.
    """
    recycled = torch.minimum((deleted.double() * tau).floor().long() + 1, deleted.long())
    clusters = (recycled.double() * theta).floor().long() + 1
    return recycled, torch.minimum(clusters, recycled)


def cluster_merge(x: Tensor, clusters: int | Tensor, valid: Tensor | None = None, *, paper: bool = False) -> Clusters:
    """Merge tokens by their density peaks (DPC-kNN), as SparseVLM's code does.

    x: (B, N, D), the most significant token first; clusters: C, one number or (B,). With d_ij the Euclidean distance
    / sqrt(D): the density rho_i = exp(-mean of the squared distances to the C nearest, itself among them), delta_i the
    distance to the nearest denser token (the largest distance of all, for the densest), centres are the C largest
    rho delta, each token joins its nearest centre, and a cluster is the mean of its tokens; clusters stand in the order
    of rho delta. The published code parts equal densities by noise; here the token that stands first is the denser, and
    two nearest neighbours always have equal ones where C = 2. paper=True: the paper's form, which joins by cosine and
    sums (eq. 8-10).
    """
    valid = all_valid(x, valid)
    count = torch.minimum(per_row(clusters, x)[:, 0], valid.sum(1))
    most = int(count.max()) if len(x) else 0
    ok = torch.arange(most, device=x.device) < count[:, None]
    if most == 0:
        empty = torch.full(x.shape[:2], -1, dtype=torch.long, device=x.device)
        return Clusters(x[:, :0], ok, empty, empty[:, :0])
    full = x.float()
    d = _distances(full, valid) / math.sqrt(x.shape[-1])
    pair = valid[:, :, None] & valid[:, None]
    near = torch.topk(d.masked_fill(~valid[:, None], math.inf), most, dim=2, largest=False).values
    rho = torch.exp(-near.square().masked_fill(~ok[:, None], 0).sum(2) / count.clamp(min=1)[:, None])
    place = torch.arange(x.shape[1], device=x.device)
    denser = (rho[:, None] > rho[:, :, None]) | ((rho[:, None] == rho[:, :, None]) & (place < place[:, None]))
    farthest = d.masked_fill(~pair, 0).amax((1, 2))[:, None]
    delta = torch.minimum(d.masked_fill(~(denser & pair), math.inf).amin(2), farthest)
    by_peak = ranks(rho * delta, valid)
    centre = torch.sort(by_peak, dim=1).indices[:, :most].masked_fill(~ok, 0)  # (B, C)
    if paper:
        unit = normalize(full, dim=-1)
        away = -(unit.gather(1, centre[:, :, None].expand(-1, -1, x.shape[-1])) @ unit.transpose(1, 2))
    else:
        away = d.gather(1, centre[:, :, None].expand(-1, -1, x.shape[1]))  # (B, C, N)
    label = away.masked_fill(~ok[:, :, None], math.inf).argmin(1)
    label = torch.where(by_peak < count[:, None], by_peak, label).masked_fill(~valid, -1)
    member = (label[:, None] == torch.arange(most, device=x.device)[:, None]).float()  # (B, C, N)
    merged = member @ full.masked_fill(~valid[:, :, None], 0)
    if not paper:
        merged = merged / member.sum(2, keepdim=True).clamp(min=1)
    return Clusters(merged.to(x.dtype), ok, label, centre)


def _distances(x: Tensor, valid: Tensor) -> Tensor:
    """Euclidean distances (B, N, N) by a product, of rows less their mean, which would take the digits of what differs.

    d_ij and d_ji are the same to the bit, or the tie of two nearest neighbours would be parted by rounding.
    """
    there = valid[:, :, None]
    x = x.masked_fill(~there, 0)
    x = (x - x.sum(1, keepdim=True) / there.sum(1, keepdim=True).clamp(min=1)).masked_fill(~there, 0)
    product = x @ x.transpose(1, 2)
    product = (product + product.transpose(1, 2)) / 2
    norms = product.diagonal(dim1=1, dim2=2)
    return (norms[:, :, None] + norms[:, None] - 2 * product).clamp(min=0).sqrt()  # on the diagonal exactly 0


# --- ToMe: like into like, with sizes (Bolya et al. 2023, arXiv 2210.09461)


def bipartite_match(
    metric: Tensor, r: int | Tensor, valid: Tensor | None = None, protected: Tensor | None = None
) -> Tensor:
    """Into which token each one merges, (B, V) long: its own place for those that stay.

    metric: (B, V, M), keys averaged over heads as published; r: how many merge, one number or (B,). Every other token,
    from the first on, points to the most alike (cosine) of those between, and the r most alike pairs merge. At
    most half of the tokens can; protected ones (B, V) neither merge nor are merged into.
    """
    valid = all_valid(metric, valid)
    free = valid if protected is None else valid & ~protected
    itself = torch.arange(metric.shape[1], device=metric.device).expand(metric.shape[:2])
    if metric.shape[1] < 2:
        return itself
    line = torch.sort(valid.byte(), dim=1, descending=True, stable=True).indices  # the row's tokens without gaps
    unit = normalize(metric.float(), dim=-1).gather(1, line[:, :, None].expand_as(metric))
    source, target = free.gather(1, line)[:, ::2], free.gather(1, line)[:, 1::2]
    alike = (unit[:, ::2] @ unit[:, 1::2].transpose(1, 2)).masked_fill(~target[:, None], -math.inf)
    best, nearest = alike.max(2)
    merges = source & target.any(1, keepdim=True) & (ranks(best, source) < per_row(r, metric))
    into = torch.where(merges, line[:, 1::2].gather(1, nearest), line[:, ::2])
    return itself.scatter(1, line[:, ::2], into)


def merge_into(x: Tensor, into: Tensor, size: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Tokens after a merge, means weighted by size, and their sizes; those merged away keep a size of 0.

    x: (B, V, D); into: (B, V) from `bipartite_match`; size: (B, V) of how many patches each is made, 1 by default
    -> (B, V, D), (B, V) float32. The order is kept, so a decoder still reads the picture row by row.
    """
    size = torch.ones(x.shape[:2], device=x.device) if size is None else size.float()
    total = torch.zeros_like(size).scatter_add(1, into, size)
    index = into[:, :, None].expand_as(x)
    # Only what takes part is added up, so that a token that nothing joins stays what it was, to the bit.
    joined = torch.zeros_like(x, dtype=torch.float32).scatter_add(1, index, x.float() * size[:, :, None])
    mean = (joined / total.clamp(min=torch.finfo(torch.float32).tiny)[:, :, None]).to(x.dtype)
    return torch.where((total > size)[:, :, None], mean, x), total


def merge_to(
    x: Tensor,
    metric: Tensor,
    k: int | Tensor,
    valid: Tensor | None = None,
    protected: Tensor | None = None,
    size: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """ToMe in one shot: halve by `bipartite_match` until k tokens a row are left.

    x: (B, V, D), metric: (B, V, M) -> tokens (B, V, D), sizes (B, V) float32, 0 for those merged away, and into which
    token each one went in the end (B, V) long. The metric of a merged token is the weighted mean of the metrics.
    Protected tokens (B, V) stay as they are, and beside them one token where k leaves no place for it.
    """
    valid = all_valid(x, valid)
    size = valid.float() if size is None else size.float().masked_fill(~valid, 0)
    owner = torch.arange(x.shape[1], device=x.device).expand(x.shape[:2])
    alive, want = valid, per_row(k, x)
    while True:
        excess = (alive.sum(1, keepdim=True) - want).clamp(min=0)
        # Among the free ones alone, so that protected tokens between them don't leave two without a partner.
        into = bipartite_match(metric, excess[:, 0], alive if protected is None else alive & ~protected)
        gone = into != torch.arange(x.shape[1], device=x.device)
        if not bool(gone.any()):
            return x, size, owner
        metric = merge_into(metric, into, size)[0]
        x, size = merge_into(x, into, size)
        owner, alive = into.gather(1, owner), alive & ~gone


# --- a cover: far centres, and everything else in its nearest


def cover_merge(
    x: Tensor,
    k: int | Tensor,
    valid: Tensor | None = None,
    protected: Tensor | None = None,
    size: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """k tokens a row that stand for all: centres as far apart as can be, each the mean of those nearest to it.

    x: (B, V, D) -> tokens (B, V, D), sizes (B, V) float32, 0 for those merged away, and into which token each one went
    (B, V) long. Greedy k-center (Gonzalez 1985) by cosine: the first centre is the token most like the mean of the row,
    the next is each time the one whose nearest centre is farthest. So whatever is unlike all else, however small, has a
    token of its own, and what fills the picture shares one. Protected tokens (B, V) are centres that nothing joins;
    they count. Where they leave no place for another, the rest goes into the token most like the mean, beyond k.
    """
    valid = all_valid(x, valid)
    protected = torch.zeros_like(valid) if protected is None else protected & valid
    size = valid.float() if size is None else size.float().masked_fill(~valid, 0)
    free = valid & ~protected
    want = (per_row(k, x) - protected.sum(1, keepdim=True)).clamp(min=1)  # (B, 1) centres among the free
    want = torch.minimum(want, free.sum(1, keepdim=True))
    unit = normalize(x.float(), dim=-1).masked_fill(~valid[:, :, None], 0)
    place = torch.arange(x.shape[1], device=x.device)
    mean = normalize((unit * size[:, :, None]).sum(1, keepdim=True), dim=-1)
    pick = (unit @ mean.transpose(1, 2))[:, :, 0].masked_fill(~free, -math.inf).argmax(1, keepdim=True)
    near = torch.full_like(size, -math.inf)  # cosine with the nearest centre, and which that is
    into = place.expand(x.shape[:2])
    centres = torch.zeros_like(free)
    for step in range(int(want.max()) if len(x) else 0):
        open_ = step < want
        row = torch.bmm(unit, unit.gather(1, pick[:, :, None].expand(-1, -1, x.shape[-1])).transpose(1, 2))[:, :, 0]
        closer = open_ & (row > near)
        near, into = torch.where(closer, row, near), torch.where(closer, pick, into)
        centres = centres | (open_ & (place == pick))
        pick = near.masked_fill(~free | centres, math.inf).argmin(1, keepdim=True)
    into = torch.where(free & ~centres, into, place)
    return (*merge_into(x, into, size), into)


# --- VisionZip and PruMerge: what isn't kept lives on in what is


def contextual_merge(
    x: Tensor, metric: Tensor, rest: Tensor, count: int | Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The rest of a picture in `count` tokens (VisionZip, Yang et al. 2025, arXiv 2412.04467).

    x: (B, V, D); metric: (B, V, M), the keys of the tower's layer before the last, mean over heads; rest: (B, V), the
    tokens that aren't dominant. Targets are every (n // count)-th of the n, from the first on; each other one joins the
    target with the most alike metric (cosine). A contextual token is target + mean of those that joined it: a sum of
    two, as published. -> tokens (B, C, D), ok (B, C), targets (B, C) long and into which target's place each of the
    rest went, (B, V) long, -1 for others.
    """
    n = rest.sum(1, keepdim=True)
    count_ = torch.minimum(per_row(count, x), n)
    most = int(count_.max()) if len(x) else 0
    ok = torch.arange(most, device=x.device) < count_
    step = torch.div(n, count_.clamp(min=1), rounding_mode="floor").clamp(min=1)
    place = rest.cumsum(1) - 1
    is_target = rest & (place % step == 0) & (torch.div(place, step, rounding_mode="floor") < count_)
    targets = torch.sort(is_target.byte(), dim=1, descending=True, stable=True).indices[:, :most].masked_fill(~ok, 0)
    if most == 0:
        return x[:, :0], ok, targets, torch.full_like(place, -1)
    unit = normalize(metric.float(), dim=-1)
    alike = unit @ unit.gather(1, targets[:, :, None].expand(-1, -1, metric.shape[-1])).transpose(1, 2)  # (B, V, C)
    joined = alike.masked_fill(~ok[:, None], -math.inf).argmax(2)
    member = torch.nn.functional.one_hot(joined, most).float() * (rest & ~is_target)[:, :, None]
    mean = member.transpose(1, 2) @ x.float() / member.sum(1).clamp(min=1)[:, :, None]
    tokens = x.gather(1, targets[:, :, None].expand(-1, -1, x.shape[-1])).float() + mean
    number = (torch.cumsum(is_target, 1) - 1).clamp(min=0)
    return tokens.to(x.dtype), ok, targets, torch.where(is_target, number, joined).masked_fill(~rest, -1)


def prumerge_merge(
    x: Tensor,
    keys: Tensor,
    attention: Tensor,
    kept: Tensor,
    valid: Tensor | None = None,
    *,
    neighbours: int = 32,
) -> tuple[Tensor, Tensor]:
    """Kept tokens with what is like them added, and one token of the rest (PruMerge, Shang et al., arXiv 2403.15388).

    x: (B, V, D) the tower's features; keys: (B, V, E) of its last layer; attention: (B, V) of [CLS]; kept: (B, V). To
    each kept token come its 32 most alike others by key (cosine), kept or not, each times its attention, without
    normalisation; the one more token is the sum of those not kept, times their attention. -> tokens (B, V, D), changed
    where kept, and (B, 1, D).
    """
    valid = all_valid(x, valid)
    kept = kept & valid
    weight = attention.float().masked_fill(~valid, 0)
    number = int(kept.sum(1).max()) if len(x) else 0
    if number == 0:
        return x, (weight[:, None] @ x.float()).to(x.dtype)
    line = torch.sort(kept.byte(), dim=1, descending=True, stable=True).indices[:, :number]  # (B, K)
    unit = normalize(keys.float(), dim=-1)
    alike = unit.gather(1, line[:, :, None].expand(-1, -1, keys.shape[-1])) @ unit.transpose(1, 2)  # (B, K, V)
    other = valid[:, None] & (line[:, :, None] != torch.arange(x.shape[1], device=x.device))
    nearest = top(alike.flatten(0, 1), neighbours, other.flatten(0, 1)).view_as(other)
    added = (nearest * weight[:, None]) @ x.masked_fill(~valid[:, :, None], 0).float()  # (B, K, D)
    there = kept.gather(1, line)[:, :, None]
    grown = x.float().scatter_add(1, line[:, :, None].expand_as(added), added.masked_fill(~there, 0))
    rest = weight.masked_fill(kept, 0)[:, None] @ x.masked_fill(~valid[:, :, None], 0).float()
    return torch.where(kept[:, :, None], grown, x.float()).to(x.dtype), rest.to(x.dtype)
