"""The arithmetic of the evaluations, in plain numpy: recall with ties, intervals, pair scores, group scores, tests.

Q queries, M gallery rows, E shared space, K cut-offs, n items. Scores are higher for "belongs together".
Nothing here knows about models or files, so every number can be checked by hand.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np

Ties = Literal["expected", "first", "last"]
DEPTH = 5  # how many of the best rows a search keeps to show
PAIR_CHANCE = {"image": 1 / 4, "text": 1 / 4, "group": 1 / 6, "item": 1 / 2}  # independent scores, without ties


# ------------------------------------------------------------------------------------------------ retrieval
@dataclass(frozen=True)
class Recall:
    """What a search found for each of Q queries. The mean of a column of `hits` is recall@k.

    hits: (Q, K) probability that a right answer is among the first k; rank: (Q,) expected place of the first right
    answer, from 1; top, top_scores: (Q, <= depth) the best gallery rows, best first (of a tie the lowest index), and
    their scores; right_score: (Q,) the best right row's; cut: (K,) the number of queries for which a tie at the cut
    decided.
    """

    ks: tuple[int, ...]
    hits: np.ndarray
    rank: np.ndarray
    top: np.ndarray
    top_scores: np.ndarray
    right_score: np.ndarray
    cut: np.ndarray


def recall_at_k(
    queries: np.ndarray,
    gallery: np.ndarray,
    relevant: Sequence[Sequence[int]],
    ks: Sequence[int] = (1, 5, 10),
    *,
    ties: Ties = "expected",
    block: tuple[int, int] = (512, 8192),
    depth: int = DEPTH,
) -> Recall:
    """Recall@k of an exact search by inner product: a hit if ANY relevant row is among the first k.

    queries: (Q, E); gallery: (M, E); relevant: for each query the gallery rows that are right (one or more); depth: how
    many of the best rows are kept in `top`.
    ties: "expected" gives each order of tied rows the same weight (a hit is then a probability), "first" puts the
    lowest index first (what torch.topk does on a CPU), "last" the highest (what a reversed argsort does).
    Only `block` scores exist at a time; they are summed in fp64 and rounded to fp32, so that equal vectors tie
    wherever they stand. Raises ValueError when a query has no relevant row, or a relevant row is not in the gallery.
    """
    if ties not in ("expected", "first", "last"):
        raise ValueError(f"ties={ties!r}; choose 'expected', 'first' or 'last'")
    ks = tuple(int(k) for k in ks)
    if not ks or min(ks) < 1:
        raise ValueError(f"ks={ks}; every k must be 1 or more")
    counts = np.array([len(rows) for rows in relevant], dtype=np.int64)
    if len(counts) != len(queries):
        raise ValueError(f"{len(queries)} queries but {len(counts)} lists of relevant rows; give one list a query")
    if len(counts) and counts.min() == 0:
        raise ValueError(f"query {int(counts.argmin())} has no relevant row; leave such queries out and count them")
    q, m = len(queries), len(gallery)
    cols = np.fromiter((c for rows in relevant for c in sorted(set(rows))), dtype=np.int64)
    counts = np.array([len(set(rows)) for rows in relevant], dtype=np.int64)
    if len(cols) and (cols.min() < 0 or cols.max() >= m):
        raise ValueError(f"a relevant row is outside the gallery: rows {cols.min()}..{cols.max()}, gallery has {m}")
    rows = np.repeat(np.arange(q), counts)
    start = np.concatenate([[0], np.cumsum(counts)])

    right = pair_scores(queries, gallery, rows, cols)                      # scores of the relevant pairs only
    best = np.maximum.reduceat(right, start[:-1]) if q else np.zeros(0, np.float32)
    at_best = right == best[rows]
    tied_right = np.bincount(rows[at_best], minlength=q)
    first = np.full(q, m)
    last = np.full(q, -1)
    np.minimum.at(first, rows[at_best], cols[at_best])
    np.maximum.at(last, rows[at_best], cols[at_best])

    above, tied, before, after = (np.zeros(q, dtype=np.int64) for _ in range(4))
    top = np.zeros((q, min(depth, m)), dtype=np.int64)
    top_scores = np.full(top.shape, -np.inf, dtype=np.float32)
    for lo in range(0, q, block[0]):
        hi = min(lo + block[0], q)
        left = queries[lo:hi].astype(np.float64)
        mine = slice(start[lo], start[hi])
        for a in range(0, m, block[1]):
            b = min(a + block[1], m)
            scores = (left @ gallery[a:b].astype(np.float64).T).astype(np.float32)
            inside = (cols[mine] >= a) & (cols[mine] < b)
            # one value per relevant pair, whatever the block's shape did to its last bit
            scores[rows[mine][inside] - lo, cols[mine][inside] - a] = right[mine][inside]
            equal, index = scores == best[lo:hi, None], np.arange(a, b)
            above[lo:hi] += (scores > best[lo:hi, None]).sum(axis=1)
            tied[lo:hi] += equal.sum(axis=1)
            before[lo:hi] += (equal & (index < first[lo:hi, None])).sum(axis=1)
            after[lo:hi] += (equal & (index > last[lo:hi, None])).sum(axis=1)
            new, new_scores = _best_columns(scores, min(depth, b - a))
            all_rows = np.concatenate([top[lo:hi], new + a], axis=1)
            all_scores = np.concatenate([top_scores[lo:hi], new_scores], axis=1)
            order = np.argsort(-all_scores, axis=1, kind="stable")[:, : top.shape[1]]
            top[lo:hi] = np.take_along_axis(all_rows, order, axis=1)
            top_scores[lo:hi] = np.take_along_axis(all_scores, order, axis=1)

    places = np.array(ks)[None, :] - above[:, None]                        # (Q, K): places of the tie that k reaches
    if ties == "expected":
        hits = _chance_of_a_hit(places, tied[:, None], tied_right[:, None])
        rank = above + (tied + 1) / (tied_right + 1)                       # mean of the first of r among T places
    else:
        rank = above + (before if ties == "first" else after) + 1.0
        hits = (rank[:, None] <= np.array(ks)[None, :]).astype(float)
    cut = ((places >= 1) & (places <= (tied - tied_right)[:, None])).sum(axis=0)
    return Recall(ks, hits, rank, top, top_scores, best, cut)


def candidates(found: Recall, n: int) -> np.ndarray:
    """(Q, <= n) bool: which of the first n rows of `found.top` a second look takes up.

    Those that score above row n + 1: a tie at the cut is left out whole, since no choice among its rows would be fair.
    `found` must hold n + 1 rows a query, or the whole gallery.
    """
    if found.top.shape[1] <= n:
        return np.ones(found.top.shape, dtype=bool)
    return found.top_scores[:, :n] > found.top_scores[:, n, None]


def reranked(found: Recall, chosen: np.ndarray, scores: np.ndarray, relevant: Sequence[Sequence[int]]) -> Recall:
    """A search whose first rows were put into another order; what was not chosen follows them, in the order found.

    chosen: (Q, n) bool as `candidates` gives it; scores: (Q, n) the new scores of found.top[:, :n], read where chosen.
    Ties get their expected hit; where a row was not chosen, its score stays that of the search.
    """
    n = chosen.shape[1]
    s = np.where(chosen, scores, -np.inf)
    right = np.array([np.isin(row, rows) for row, rows in zip(found.top[:, :n], relevant, strict=True)])
    right = right.reshape(chosen.shape) & chosen
    best = np.where(right, s, -np.inf).max(axis=1, initial=-np.inf)
    at_best = chosen & (s == best[:, None])
    above, tied, tied_right = (s > best[:, None]).sum(axis=1), at_best.sum(axis=1), (at_best & right).sum(axis=1)
    moved = np.asarray(right.any(axis=1))  # elsewhere the first right row keeps its place
    tied, tied_right = np.where(moved, tied, 1), np.where(moved, tied_right, 1)
    places = np.array(found.ks)[None, :] - above[:, None]
    hits = np.where(moved[:, None], _chance_of_a_hit(places, tied[:, None], tied_right[:, None]), found.hits)
    rank = np.where(moved, above + (tied + 1) / (tied_right + 1), found.rank)
    order = np.argsort(-s, axis=1, kind="stable")
    shown = np.where(chosen, scores, found.top_scores[:, :n])
    return Recall(
        ks=found.ks,
        hits=hits,
        rank=rank,
        top=np.take_along_axis(found.top[:, :n], order, axis=1),
        top_scores=np.take_along_axis(shown, order, axis=1),
        right_score=np.where(moved, best, found.right_score),
        cut=np.where(moved[:, None], (places >= 1) & (places <= (tied - tied_right)[:, None]), False).sum(axis=0),
    )


def pair_scores(left: np.ndarray, right: np.ndarray, rows, cols, block: int = 65536) -> np.ndarray:
    """Inner products of left[rows[i]] and right[cols[i]]: (n,) float32, summed in fp64."""
    out = np.empty(len(rows), dtype=np.float32)
    for a in range(0, len(out), block):
        x, y = left[rows[a : a + block]], right[cols[a : a + block]]
        out[a : a + block] = np.einsum("ne,ne->n", x.astype(np.float64), y.astype(np.float64))
    return out


def _best_columns(scores: np.ndarray, depth: int) -> tuple[np.ndarray, np.ndarray]:
    """The `depth` best columns of each row, best first, lowest index first in a tie. Overwrites `scores`."""
    row = np.arange(len(scores))
    columns, values = [], []
    for _ in range(depth):
        best = scores.argmax(axis=1)
        columns.append(best)
        values.append(scores[row, best].copy())
        scores[row, best] = -np.inf
    return np.stack(columns, axis=1), np.stack(values, axis=1)


def recall_by_chance(counts: Sequence[int], gallery: int, k: int) -> float:
    """The recall@k of a random order: mean over queries of 1 - C(M - r, k) / C(M, k), r relevant rows of M."""
    if not len(counts):
        return math.nan
    r = np.asarray(counts)
    return float(_chance_of_a_hit(np.full(len(r), k), np.full(len(r), gallery), r).mean())


def _chance_of_a_hit(places: np.ndarray, total: np.ndarray, right: np.ndarray) -> np.ndarray:
    """P(at least one of `right` of `total` equally likely rows falls in the first `places`), elementwise."""
    places, total, right = np.broadcast_arrays(places, total, right)
    log = np.vectorize(math.lgamma, otypes=[float])
    sure, never = places > total - right, places < 1
    p, t, r = (np.where(sure | never, safe, x) for x, safe in ((places, 1), (total, 2), (right, 1)))
    miss = np.exp(log(t - r + 1) - log(t - r - p + 1) - log(t + 1) + log(t - p + 1))
    some = np.where(r == 1, p / t, 1.0 - miss)                             # one right row: exact, no logarithms
    return np.where(never, 0.0, np.where(sure, 1.0, some))


# ------------------------------------------------------------------------------------------------ minimal pairs
@dataclass(frozen=True)
class PairScores:
    """What `score_pairs` found for n pairs. image, text, group: (n,) bool; picks: (n, 2) int; ties: (n,) int."""

    image: np.ndarray
    text: np.ndarray
    group: np.ndarray
    picks: np.ndarray
    ties: np.ndarray


def score_pairs(scores: np.ndarray, ties: Literal["image 2", "wrong"] = "image 2") -> PairScores:
    """Score minimal pairs by the MMVP-VLM protocol (Tong et al. 2024), and by Winoground's (Thrush et al. 2022).

    scores: (n, 2, 2), s[image, text]; image 1 belongs to text 1, image 2 to text 2.
    image: the published MMVP-VLM score. Each text chooses between the two images by softmax; image 1 iff p > 0.5, so an
        exact tie chooses image 2. Right iff both texts choose their own: s11 > s21 and s12 <= s22.
    text: the same rule with images and texts exchanged: s11 > s12 and s21 <= s22.
    group: both. Chance is 1/4, 1/4 and 1/6 (of the 24 orders of four scores, 4 have both diagonal ones on top).
    ties="wrong" is Winoground's own rule: what is right has to be strictly above, so a tie is wrong for either text,
        and for either image.
    picks: the image (1 or 2) each text chose, 0 for a tie that counts as wrong. PairScores.ties: how many of the pair's
        two choices between images were tied (0-2).
    """
    s = np.asarray(scores)
    if s.ndim != 3 or s.shape[1:] != (2, 2):
        raise ValueError(f"scores have shape {s.shape}; a pair is a 2 x 2 matrix s[image, text], so (n, 2, 2)")
    if not np.isfinite(s).all():
        raise ValueError("a pair has a score that is not finite; count such a pair as unscored instead")
    if ties not in ("image 2", "wrong"):
        raise ValueError(f"ties={ties!r}; a tie goes to 'image 2', or is 'wrong'")
    strict, tied = ties == "wrong", s[:, 0, :] == s[:, 1, :]
    picks = np.where(s[:, 0, :] > s[:, 1, :], 1, np.where(tied & strict, 0, 2))
    image = (picks == [1, 2]).all(axis=1)
    own = s[:, 1, 1] > s[:, 1, 0] if strict else s[:, 1, 1] >= s[:, 1, 0]
    text = (s[:, 0, 0] > s[:, 0, 1]) & own
    return PairScores(image, text, image & text, picks, (s[:, 0, :] == s[:, 1, :]).sum(axis=1))


# ------------------------------------------------------------------------------------------------ true or false
def auc(scores, truth) -> float:
    """P(a true item scores above a false one), ties count half; nan when one of the two kinds is absent.

    Needs no threshold, so it also judges a score that has no natural one (a cosine). scores: (n,); truth: (n,) bool.
    """
    scores, truth = np.asarray(scores, float), np.asarray(truth, bool)
    true, false = np.sort(scores[truth]), np.sort(scores[~truth])
    if not len(true) or not len(false):
        return math.nan
    below, at_most = np.searchsorted(false, true, "left"), np.searchsorted(false, true, "right")
    return float((below + at_most).sum() / (2 * len(true) * len(false)))


def pairwise(scores, truth, groups) -> dict:
    """{group: share of its (true, false) item pairs in which the true one scores higher, ties half}.

    A group without both kinds has no pair and is left out.
    """
    scores, truth = np.asarray(scores, float), np.asarray(truth, bool)
    out = {}
    for name, rows in by_group(groups).items():
        true, false = scores[rows][truth[rows]], scores[rows][~truth[rows]]
        if len(true) and len(false):
            difference = true[:, None] - false[None, :]
            out[name] = float(((difference > 0) + 0.5 * (difference == 0)).mean())
    return out


def consistency(correct, groups) -> tuple[int, int]:
    """(groups whose every item is right, groups): NLVR2's consistency (Suhr et al. 2019) as a count."""
    correct = np.asarray(correct, bool)
    return sum(bool(correct[rows].all()) for rows in by_group(groups).values()), len(by_group(groups))


def by_group(groups: Sequence) -> dict:
    """{group: row numbers}, in order of first appearance."""
    out: dict = {}
    for row, name in enumerate(groups):
        out.setdefault(name, []).append(row)
    return out


# ------------------------------------------------------------------------------------------------ how sure
def wilson(k: float, n: float, confidence: float = 0.95) -> tuple[float, float]:
    """The Wilson score interval for k of n (Wilson 1927): (low, high) in 0..1; (0, 1) when n is 0.

    It stays inside 0..1 and is not empty at k = 0 or k = n. k may be a sum of expected hits.

    >>> [round(100 * x, 1) for x in wilson(37, 150)]
    [18.5, 32.1]
    """
    if not 0 <= k <= n:
        raise ValueError(f"wilson({k}, {n}): k must be between 0 and n")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence}; give a share such as 0.95")
    if n == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    p, shrink = k / n, 1 + z * z / n
    centre = (p + z * z / (2 * n)) / shrink
    half = z / shrink * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half))


def estimate(k: float, n: float, chance: float | None = None) -> dict:
    """A share with all that is needed to read it: value, right, n, Wilson bounds at 95 and 99 %, chance, above_chance.

    above_chance: the lower 99 % bound is above chance. value is None when n is 0: nothing was measured.
    """
    (low95, high95), (low99, high99) = wilson(k, n, 0.95), wilson(k, n, 0.99)
    out: dict = {"value": k / n if n else None, "right": k, "n": n}
    out |= {"low95": low95, "high95": high95, "low99": low99, "high99": high99}
    if chance is not None:
        out |= {"chance": chance, "above_chance": bool(n and low99 > chance)}
    return out


def estimate_auc(scores, truth, groups) -> dict:
    """The auc as an `estimate` with chance 1/2 and a careful interval.

    The variance of an auc is at most auc (1 - auc) / m, m the size of the smaller of the two kinds (Birnbaum and Klose
    1957). Items of a group share pictures, so m counts groups, not items, and the Wilson interval for m is given.
    """
    truth = np.asarray(truth, bool)
    kinds = [{name for name, kind in zip(groups, truth, strict=True) if kind == wanted} for wanted in (True, False)]
    m = min(map(len, kinds))
    return estimate(auc(scores, truth) * m if m else 0.0, m, 0.5)


def binomial_tail(k: int, n: int, p: float) -> float:
    """P(at least k of n) for n independent trials of probability p: the exact one-sided p value against chance p."""
    if k <= 0:
        return 1.0
    if k > n:
        return 0.0
    i = np.arange(k, n + 1)
    log = np.array([math.lgamma(n + 1) - math.lgamma(j + 1) - math.lgamma(n - j + 1) for j in i.tolist()])
    return float(min(1.0, np.exp(log + i * math.log(p) + (n - i) * math.log1p(-p)).sum()))


def fisher_greater(k: int, drawn: int, marked: int, total: int) -> float:
    """Fisher's exact test, one-sided: P(at least k marked among `drawn` of `total` that hold `marked`), by chance.

    >>> round(fisher_greater(3, 4, 4, 8), 4)
    0.2429
    """
    if not (0 <= k <= min(drawn, marked) and max(drawn, marked) <= total):
        raise ValueError(f"fisher_greater({k}, {drawn}, {marked}, {total}): k is at most drawn and marked, "
                         "and these at most total")  # fmt: skip
    choose = lambda n, r: math.lgamma(n + 1) - math.lgamma(r + 1) - math.lgamma(n - r + 1)
    whole = choose(total, drawn)
    ways = range(max(k, drawn + marked - total), min(drawn, marked) + 1)
    return min(1.0, math.fsum(math.exp(choose(marked, i) + choose(total - marked, drawn - i) - whole) for i in ways))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction (Holm 1979): adjusted p values, in the order given, valid under any dependence.

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p_values, kind="stable")
    adjusted, worst = [0.0] * len(p_values), 0.0
    for place, index in enumerate(order.tolist()):
        worst = max(worst, min(1.0, (len(p_values) - place) * float(p_values[index])))
        adjusted[index] = worst
    return adjusted


def order_key(seed: int, name: str) -> bytes:
    """A place for a name in a seeded order that doesn't depend on the order in which names come."""
    return hashlib.blake2b(f"{seed}\x00{name}".encode(), digest_size=16).digest()
