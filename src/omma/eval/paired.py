"""The arithmetic of comparing two runs on the same items: exact tests, correlations, and what a run can show at all.

n items. Nothing here knows about models or files.
"""

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist

import numpy as np

from omma.eval.clusters import ROUNDS
from omma.eval.metrics import binomial_tail

MANY = 1000  # disagreements from which the exact test's power is that of the normal distribution


def mcnemar(better: int, worse: int) -> float:
    """The exact two-sided p value for items that only one of two models got right (McNemar 1947): a fair coin's.

    >>> mcnemar(5, 0), mcnemar(3, 3)
    (0.0625, 1.0)
    """
    return min(1.0, 2 * binomial_tail(max(better, worse), better + worse, 0.5)) if better + worse else 1.0


def sign_flips(sums: np.ndarray, seed: int = 0, rounds: int = ROUNDS) -> float:
    """The p value of a difference whose clusters are independent: how often random signs make the sum as large.

    sums: (G,) of each cluster's differences. The given signs count as one of the rounds, so p is at least 1/(rounds +
    1).
    """
    s = np.asarray(sums, float)
    s = s[s != 0]
    if not len(s):
        return 1.0
    rng, seen, hits, bound = np.random.default_rng(seed), 0, 0, abs(s.sum()) * (1 - 1e-12)
    step = max(1, 2_000_000 // len(s))
    while seen < rounds:
        n = min(step, rounds - seen)
        signs = rng.integers(0, 2, (n, len(s)), dtype=np.int8) * 2 - 1
        hits += int((np.abs(signs @ s) >= bound).sum())
        seen += n
    return (hits + 1) / (rounds + 1)


# ------------------------------------------------------------------------------------------------ together or not
def phi(a: Sequence[bool], b: Sequence[bool]) -> float | None:
    """The correlation of two models' right answers on the same items (Pearson's phi); None where one never varies.

    >>> phi([1, 1, 0, 0], [1, 1, 0, 0]), phi([1, 1, 0, 0], [1, 0, 1, 0])
    (1.0, 0.0)
    """
    return pearson(np.asarray(a, float), np.asarray(b, float))


def pearson(x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray) -> float | None:
    """Pearson's r; None for fewer than two points or where one side never varies."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    a, b = x - x.mean(), y - y.mean()
    return float(np.clip((a @ b) / math.sqrt((a @ a) * (b @ b)), -1, 1))


def spearman(x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray) -> float | None:
    """Spearman's rank correlation, ties at their mean rank."""
    return pearson(ranks(x), ranks(y))


def ranks(values: Sequence[float] | np.ndarray) -> np.ndarray:
    _, where, counts = np.unique(np.asarray(values, float), return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[where]


def fisher_interval(r: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """The interval of a correlation of n points by Fisher's z, as if the points themselves were exact.

    >>> [round(x, 2) for x in fisher_interval(0.87, 9)]
    [0.49, 0.97]
    """
    if n < 4 or abs(r) >= 1:
        return -1.0, 1.0
    half = NormalDist().inv_cdf((1 + confidence) / 2) / math.sqrt(n - 3)
    z = math.atanh(r)
    return math.tanh(z - half), math.tanh(z + half)


def correlation(
    a: Mapping[str, Sequence[float]],
    b: Mapping[str, Sequence[float]],
    together: bool = True,
    seed: int = 0,
    rounds: int = ROUNDS,
) -> dict:
    """How alike two models' accuracies over patterns are (Tong et al. 2024, for an encoder and a VLM).

    a, b: {pattern: what each of its items earned}. together: both saw the same items, in the same order, and the
    bootstrap draws them together; else it draws for each model alone. pearson, spearman: value, low95, high95
    (bootstrap of items within patterns, as each accuracy is uncertain itself), fisher (as if it were not, for
    Pearson's) and without (smallest and largest value when one pattern is left out); patterns: how many both have.
    Values are None with fewer than three patterns, or where one model's accuracies are all alike.
    """
    names = [name for name in a if name in b and len(a[name]) and len(b[name])]
    out: dict = {"patterns": len(names)}
    left, right = ([np.asarray(side[name], float) for name in names] for side in (a, b))
    x, y = (np.array([values.mean() for values in side]) for side in (left, right))
    if len(names) >= 3:
        drawn_x, drawn_y = np.empty((rounds, len(names))), np.empty((rounds, len(names)))
        rng = np.random.default_rng(seed)
        for column, (mine, theirs) in enumerate(zip(left, right, strict=True)):
            if together and len(mine) != len(theirs):
                raise ValueError(f"pattern {names[column]!r} has {len(mine)} and {len(theirs)} items; together=False")
            at = rng.integers(len(mine), size=(rounds, len(mine)))
            drawn_x[:, column] = mine[at].mean(axis=1)
            other = at if together else rng.integers(len(theirs), size=(rounds, len(theirs)))
            drawn_y[:, column] = theirs[other].mean(axis=1)
    for name, measure in (("pearson", pearson), ("spearman", spearman)):
        value = measure(x, y) if len(names) >= 3 else None
        out[name] = {"value": value, "low95": None, "high95": None, "without": None}
        if value is None:
            continue
        values = [r for p, q in zip(drawn_x, drawn_y, strict=True) if (r := measure(p, q)) is not None]
        low, high = np.quantile(values, [0.025, 0.975])
        kept = [~np.eye(len(names), dtype=bool)[n] for n in range(len(names))]
        fewer = [r for rows in kept if (r := measure(x[rows], y[rows])) is not None]
        out[name] |= {"low95": float(low), "high95": float(high)}
        out[name] |= {"without": [min(fewer), max(fewer)] if fewer else None}
    if out["pearson"]["value"] is not None:
        out["pearson"]["fisher"] = list(fisher_interval(out["pearson"]["value"], len(names)))
    return out


# ------------------------------------------------------------------------------------------------ before a run
def power(n: int, discordant: float, difference: float, alpha: float = 0.05) -> float:
    """P(the exact McNemar test at alpha finds a difference), of n independent items.

    discordant: the share of items on which the models differ; difference: the share by which one is better, of which
    both are so many points of n. Beyond 1,000 disagreements the test is taken for normal.
    """
    if not 0 <= difference <= discordant <= 1:
        raise ValueError(f"difference={difference}, discordant={discordant}; give 0 <= difference <= discordant <= 1")
    mean = n * discordant
    if mean > MANY:
        z = NormalDist()
        cut = z.inv_cdf(1 - alpha / 2) * math.sqrt(discordant)
        spread = math.sqrt(max(discordant - difference**2, 1e-12))
        shift = difference * math.sqrt(n)
        return 1 - z.cdf((cut - shift) / spread) + z.cdf((-cut - shift) / spread)
    logs = np.array([math.lgamma(k + 1) for k in range(n + 1)])
    share = (discordant + difference) / (2 * discordant) if discordant else 0.5
    found, counts = 0.0, _binomial(n, discordant, logs)
    for m in range(n + 1):
        if counts[m] > 1e-12 and m:
            fair = _binomial(m, 0.5, logs)
            upper = np.cumsum(fair[::-1])[::-1]  # P(at least k)
            least = int(np.searchsorted(-upper, -alpha / 2, "left"))  # the first k with 2 P(at least k) <= alpha
            if least <= m:
                seen = _binomial(m, share, logs)
                found += counts[m] * (seen[least:].sum() + seen[: m - least + 1].sum())
    return float(found)


def detectable(n: int, discordant: float = 0.2, wanted: float = 0.8, alpha: float = 0.05) -> float | None:
    """The smallest difference that the exact McNemar test would probably show, of n items, as a share of them.

    discordant: the share of items on which the models are expected to differ; wanted: the power. None where not even a
    difference in one direction alone would be shown that often.

    >>> round(100 * detectable(150), 1)
    10.6
    """
    if n < 1 or not 0 < discordant <= 1:
        raise ValueError(f"n={n}, discordant={discordant}; give at least one item, and a share above 0")
    if power(n, discordant, discordant, alpha) < wanted:
        return None
    low, high = 0.0, discordant
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (low, middle) if power(n, discordant, middle, alpha) >= wanted else (middle, high)
    return high


def detectable_mean(sums: np.ndarray, sizes: np.ndarray, wanted: float = 0.8, alpha: float = 0.05) -> float | None:
    """The smallest mean difference that would probably be shown of items that earn shares, by the spread that is seen.

    sums, sizes: (G,) of each cluster's differences and items. By the normal distribution: (z of alpha + z of wanted)
    standard errors of the mean over clusters. None for a single cluster.
    """
    n, groups = float(sizes.sum()), len(sums)
    if groups < 2:
        return None
    off = sums - sums.sum() / n * sizes
    error = math.sqrt(float(off @ off) * groups / (groups - 1)) / n
    return (NormalDist().inv_cdf(1 - alpha / 2) + NormalDist().inv_cdf(wanted)) * error


def _binomial(n: int, p: float, logs: np.ndarray) -> np.ndarray:
    """(n + 1,) probabilities of k of n; logs: the logarithms of factorials."""
    k = np.arange(n + 1)
    if p in (0.0, 1.0):
        return (k == n * p).astype(float)
    return np.exp(logs[n] - logs[k] - logs[n - k] + k * math.log(p) + (n - k) * math.log1p(-p))
