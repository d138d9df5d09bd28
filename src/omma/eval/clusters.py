"""How sure a share is when questions stand on the same pictures: intervals and paired differences by picture.

Questions on one picture are right or wrong together, so n of them say less than n pictures would. A share gets the
Wilson interval of the number of independent questions that have its variance; a difference of two runs on the same
questions gets a bootstrap that draws pictures, with all their questions, with replacement (Field and Welsh 2007).
"""

import math
from collections.abc import Iterable, Sequence

import numpy as np

from omma.eval.metrics import estimate

ROUNDS = 4000


def clustered(right: Sequence[float] | np.ndarray, clusters: Sequence[str], chance: float | None = None) -> dict:
    """A share as `metrics.estimate` has it, with intervals for questions in clusters; n and right count questions.

    right: what each question earned, 0..1. chance: as of `estimate`.

    The design effect is the variance of the share over clusters, sum_g (sum_i (y_i - p))^2 G / (G - 1) / n^2, over the
    p (1 - p) / n of independent questions (Kish 1965); below 1 it counts as 1. Where all are right or all are wrong, no
    variance is seen, and every cluster counts once. With one question a cluster the interval is Wilson's, wider by at
    most sqrt(G / (G - 1)).
    """
    y, (sums, sizes) = np.asarray(right, dtype=float), (None, None)
    n = len(y)
    if n == 0:
        return estimate(0, 0, chance)
    sums, sizes = by_cluster(y, clusters)
    p, groups = math.fsum(y) / n, len(sizes)  # sums that no order of the questions changes
    if p in (0.0, 1.0):
        independent = float(groups)
    else:
        spread = math.fsum((sums - p * sizes) ** 2) * groups / max(groups - 1, 1) / n**2
        independent = n / max(1.0, spread / (p * (1 - p) / n))
    found = estimate(p * independent, independent, chance)
    return found | {"value": p, "right": round(float(y.sum())), "n": n, "clusters": groups}


def paired(ours: dict, theirs: dict, clusters: dict, seed: int = 0, rounds: int = ROUNDS) -> dict:
    """Difference of two shares over the questions that both answered: ours - theirs, with a 95 % interval.

    ours, theirs: {question: right}; clusters: {question: its picture}. value, low95, high95; n questions, clusters
    pictures; better, worse: questions that only one of the two got right. None where there is nothing to compare, or
    one picture, which has no interval.
    """
    shared = [key for key in ours if key in theirs]
    found: dict = {"n": len(shared), "value": None, "low95": None, "high95": None}
    if not shared:
        return found
    d = np.array([float(ours[key]) - float(theirs[key]) for key in shared])
    sums, sizes = by_cluster(d, [clusters[key] for key in shared])
    found |= {"value": float(d.mean()), "clusters": len(sizes)}
    found |= {"better": int((d > 0).sum()), "worse": int((d < 0).sum())}
    if len(sizes) > 1:
        low, high = np.quantile(bootstrap(sums, sizes, seed, rounds), [0.025, 0.975])
        found |= {"low95": float(low), "high95": float(high)}
    return found


def quotient(parts: Sequence[float], wholes: Sequence[float], clusters: Sequence[str], seed: int = 0,
             rounds: int = ROUNDS) -> dict:  # fmt: skip
    """sum(parts) / sum(wholes) with a 95 % interval from a bootstrap over clusters, as `paired` has it.

    value, low95, high95: None where the wholes are 0, the bounds also where there is one cluster; n: how many parts.
    A cluster whose wholes are 0 says nothing and is not drawn.
    """
    found: dict = {"value": None, "low95": None, "high95": None, "n": len(parts)}
    total = float(sum(wholes))
    if not total:
        return found
    sums, sizes = (by_cluster(np.asarray(values, float), clusters)[0] for values in (parts, wholes))
    some = sizes > 0
    found["value"] = float(sum(parts)) / total
    if some.sum() > 1:
        low, high = np.quantile(bootstrap(sums[some], sizes[some], seed, rounds), [0.025, 0.975])
        found |= {"low95": float(low), "high95": float(high)}
    return found


def bootstrap(sums: np.ndarray, sizes: np.ndarray, seed: int, rounds: int) -> np.ndarray:
    """(rounds,) means of samples of clusters drawn with replacement. sums, sizes: (G,) of each cluster's values."""
    rng, groups, out = np.random.default_rng(seed), len(sizes), np.empty(rounds)
    step = max(1, 2_000_000 // groups)
    for start in range(0, rounds, step):
        drawn = rng.integers(groups, size=(min(step, rounds - start), groups))
        out[start : start + step] = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    return out


def drawn_sums(columns: Sequence[Sequence[float]] | np.ndarray, clusters: Sequence[str], seed: int = 0,
               rounds: int = ROUNDS) -> np.ndarray:  # fmt: skip
    """(rounds, k) sums of k columns over samples of clusters drawn with replacement. columns: (n, k), a row for each
    name in clusters. For a score that is a function of sums over a whole corpus, as BLEU is."""
    sums = np.stack([by_cluster(column, clusters)[0] for column in np.asarray(columns, float).T], axis=1)
    rng, groups, out = np.random.default_rng(seed), len(sums), np.empty((rounds, sums.shape[1]))
    step = max(1, 2_000_000 // groups)
    for start in range(0, rounds, step):
        times = rng.multinomial(groups, np.full(groups, 1 / groups), size=min(step, rounds - start))
        out[start : start + step] = times @ sums
    return out


def by_cluster(values: np.ndarray, clusters: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Sums and sizes of clusters, in order of first appearance."""
    number: dict[str, int] = {}
    at = np.array([number.setdefault(name, len(number)) for name in clusters])
    return np.bincount(at, weights=values), np.bincount(at).astype(float)


def joined(links: Sequence[Iterable[str]]) -> list[str]:
    """The cluster of each item: items that share a name (a picture, a group) are in one cluster, through others too.

    >>> joined([["p1", "p2"], ["p3"], ["p2", "p4"]])
    ['0', '1', '0']
    """
    parent: dict[str, str] = {}

    def find(x: str) -> str:
        while parent.setdefault(x, x) != x:
            parent[x] = x = parent[parent[x]]
        return x

    for number, names in enumerate(links):
        for name in names:
            parent[find(f" {number}")] = find(name)
    order: dict[str, int] = {}
    return [str(order.setdefault(find(f" {number}"), len(order))) for number in range(len(links))]
