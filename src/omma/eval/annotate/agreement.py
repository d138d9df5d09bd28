"""Do two annotators say the same? Cohen's kappa on the pattern, shares of agreement, and what to talk about.

found = agreement(store.of("anna"), store.of("ben"))
found["pattern"]["kappa"], found["disagreements"]              # chance taken out; pair by pair
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from omma.eval.annotate.store import NONE, Annotation, alike
from omma.eval.metrics import estimate

ROUNDS = 2000


def kappa(one: Sequence[str], other: Sequence[str]) -> float | None:
    """(p_o - p_e) / (1 - p_e): agreement beyond what their shares of each category give by chance (Cohen 1960).

    None where chance alone makes all of it: no items, or one category for all of both.

    >>> kappa(["a", "a", "b", "b"], ["a", "a", "b", "a"])
    0.5
    """
    table = _counts(one, other)
    return _kappas(table[None])[0] if table.size else None


def agreement(
    one: Mapping[str, Annotation], other: Mapping[str, Annotation], seed: int = 0, rounds: int = ROUNDS
) -> dict[str, Any]:
    """What two annotators agree on, over the pairs that both completed.

    one, other: {pair: annotation}. pairs: how many; pattern: kappa over the nine patterns and "none", with low95 and
    high95 (bootstrap of pairs), and same, an `estimate`; usable: of "none" or not; answers: of both answers, among the
    pairs that both find usable. disagreements: {"pair", "about": usable | pattern | answers | exchanged}, the last
    where one has for the left picture what the other has for the right; unfinished: pairs that one alone completed.
    """
    done = [{key for key, said in side.items() if said.complete} for side in (one, other)]
    both = [key for key in one if key in done[0] & done[1]]
    mine, theirs = [one[key].pattern for key in both], [other[key].pattern for key in both]
    table = _counts(mine, theirs)
    low = high = None
    if table.size:
        drawn = np.random.default_rng(seed).multinomial(len(both), table.ravel() / table.sum(), rounds)
        values = [k for k in _kappas(drawn.reshape(rounds, *table.shape)) if k is not None]
        low, high = np.quantile(values, [0.025, 0.975]).tolist() if values else (None, None)
    told, answered, equal = [], 0, 0
    for key in both:
        a, b = one[key], other[key]
        about = ["usable"] if (a.pattern == NONE) != (b.pattern == NONE) else []
        about += ["pattern"] if not about and a.pattern != b.pattern else []
        if NONE not in (a.pattern, b.pattern):
            answered += 1
            same = alike(a.left, b.left) and alike(a.right, b.right)
            equal += same
            turned = alike(a.left, b.right) and alike(a.right, b.left)
            about += [] if same else ["exchanged"] if turned else ["answers"]
        if about:
            told.append({"pair": key, "about": about})
    agreed = sum(x == y for x, y in zip(mine, theirs, strict=True))
    usable = sum((x == NONE) == (y == NONE) for x, y in zip(mine, theirs, strict=True))
    return {
        "pairs": len(both),
        "pattern": {
            "kappa": kappa(mine, theirs), "low95": low, "high95": high, "same": estimate(agreed, len(both))
        },
        "usable": estimate(usable, len(both)),
        "answers": estimate(equal, answered),
        "disagreements": told,
        "unfinished": len(done[0] ^ done[1]),
    }  # fmt: skip


def _counts(one: Sequence[str], other: Sequence[str]) -> np.ndarray:
    """(K, K) how often each category of one stands beside each of the other, of K that either one uses."""
    if len(one) != len(other):
        raise ValueError(f"{len(one)} and {len(other)} categories; give both of every item")
    names = sorted({*one, *other})
    table = np.zeros((len(names), len(names)), np.int64)
    np.add.at(table, tuple(np.searchsorted(names, list(side)) for side in (one, other)) if names else ([], []), 1)
    return table


def _kappas(tables: np.ndarray) -> list[float | None]:
    """Cohen's kappa of each of (R, K, K) counts."""
    n = tables.sum(axis=(1, 2))
    same = tables.trace(axis1=1, axis2=2) / n
    chance = (tables.sum(axis=1) * tables.sum(axis=2)).sum(axis=1) / n**2
    return [None if e >= 1 else float((o - e) / (1 - e)) for o, e in zip(same, chance, strict=True)]
