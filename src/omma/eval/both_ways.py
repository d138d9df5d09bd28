"""Does the eye miss it, or do two eyes merely disagree? Blind pairs mined both ways, and counted against each other.

Two eyes of one kind have blind pairs against each other, too: what both see by halves, each misses in pictures of its
own. So the eyes change places: which pairs does the reference take for the same that the eye tells apart, by limits
that let as large a share of pairs through? Where the two merely disagree, a pair is found one way as likely as the
other (McNemar 1947). Where more are found one way, that eye misses what the other one doesn't.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from omma.eval.blind import ENOUGH_PAIRS, BlindPairs, as_rows, canonical, column, mine_blind_pairs
from omma.eval.metrics import holm
from omma.eval.missed import differences, named
from omma.eval.paired import mcnemar
from omma.scenes.kinds import PATTERNS
from omma.table import Table, View

Pair = tuple[int, int]


def mine_other_way(
    found: BlindPairs, eye: Any, reference: Any, *, table: Table | View | None = None, seed: int = 0, **options: Any
) -> BlindPairs:
    """The pairs that are blind to the reference and told apart by the eye; `found` holds those the other way.

    eye, reference, table, seed and the other options: as `mine_blind_pairs` was given them, but for `out`, which needs
    a folder of its own. Cosines of one eye mean nothing to another, so the limits are shares of pairs: as many are
    above for the reference as were for the eye, and as many below for the eye as were for the reference.
    """
    vectors = column(table, reference) if isinstance(reference, str) and table is not None else reference
    limits = {side: str(asked) for side, asked in found.asked.items() if str(asked).startswith("quantile")}
    if "above" not in limits:
        limits["above"] = as_quantile(found.counts["similar"], found.counts["compared"])
    if "below" not in limits:
        limits["below"] = as_quantile(*pairs_below(vectors, found.below, seed))
    return mine_blind_pairs(reference, eye, limits["above"], limits["below"], table=table, seed=seed, **options)


def as_quantile(some: int, pairs: int) -> str:
    """So many of the pairs, as a threshold; at least one, and not all."""
    return f"quantile:{max(1, min(some, pairs - 1)) / max(2, pairs)!r}"


def pairs_below(vectors: Any, cosine: float, seed: int = 0) -> tuple[int, int]:
    """(pairs whose cosine is below, of how many); rows drawn by chance are held against all, as for a quantile."""
    rows, good = canonical(as_rows(vectors, "reference"))
    rows = rows[good]
    n = len(rows)
    number = min(n, math.ceil(ENOUGH_PAIRS / max(1, n)))
    drawn = np.sort(np.random.default_rng(seed).choice(n, number, replace=False))
    below = 0
    for start in range(0, number, 256):
        some = drawn[start : start + 256]
        cosines = rows[some] @ rows.T
        cosines[np.arange(len(some)), some] = np.inf
        below += int((cosines < cosine).sum())
    return below, number * (n - 1)


def who_misses(table: Table | View, found: BlindPairs, back: BlindPairs) -> list[dict[str, Any]] | None:
    """`verdicts` of the pairs mined one way and the other in a table; None for one that has no facts of scenes."""
    if not {"facts", "group"} <= set(table.columns):
        return None
    rows = table.read(["facts", "group"]).to_pylist()
    facts, groups = [row["facts"] or [] for row in rows], [row["group"] for row in rows]
    ways = []
    for some in (found, back):
        told = differences(some.pairs, facts, groups)
        pairs = ((i, j) for i, j in some.pairs.tolist())
        ways.append({pair: next(iter(what)) for pair, what in zip(pairs, told, strict=True) if named(what)})
    partners = lambda pair: groups[pair[0]] is not None and groups[pair[0]] == groups[pair[1]]
    return verdicts(*ways, partners={pair for way in ways for pair in way if partners(pair)})


def verdicts(eye: Mapping[Pair, str], reference: Mapping[Pair, str], partners: Iterable[Pair] = ()) -> list[dict]:
    """Which of two eyes misses each pattern, from the pairs that are blind to one and told apart by the other.

    eye, reference: the pattern of each pair that is blind to it. For each pattern {"pattern", "eye", "reference"
    (pairs), "p" (McNemar's exact test), "p_holm" (corrected for nine patterns), "missed_by": "eye", "reference", or
    None where p_holm is 0.05 or more}, the surest first.

    The test takes pairs as independent: a picture counts in one pair of a pattern. Which one must not depend on the
    eyes: partners of a minimal pair come first, then the others in the order of rows. A pair that is blind to both says
    nothing.
    """
    first, rows = set(partners), []
    either = [(pair not in first, pair) for pair in eye.keys() ^ reference.keys()]
    for pattern in PATTERNS:
        used, counts = set(), {"eye": 0, "reference": 0}
        for _, pair in sorted(either):
            name, way = ("eye", eye) if pair in eye else ("reference", reference)
            if way[pair] == pattern and used.isdisjoint(pair):
                used.update(pair)
                counts[name] += 1
        rows.append({"pattern": pattern, **counts, "p": mcnemar(counts["eye"], counts["reference"])})
    for row, adjusted in zip(rows, holm([row["p"] for row in rows]), strict=True):
        more = "eye" if row["eye"] > row["reference"] else "reference"
        row |= {"p_holm": adjusted, "missed_by": more if adjusted < 0.05 else None}
    return sorted(rows, key=lambda row: row["p"])
