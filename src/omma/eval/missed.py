"""What an eye misses, named by the facts of a scenes table: which pattern its blind pairs differ in, against chance.

A pair of scenes that differs in one pattern alone (one faces left where the other faces right, all else equal) says
what an eye that takes the two for the same can't see. The share of each pattern among blind pairs stands against its
share among all such pairs of the table, by Fisher's exact test, and Holm corrects for the nine patterns.
"""

import functools
import itertools
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from omma.eval.blind import BlindPairs
from omma.eval.metrics import fisher_greater, holm
from omma.scenes.kinds import KINDS, PATTERNS
from omma.scenes.reading import read_facts
from omma.table import Table, View

RELATIONS = ("left_of", "right_of", "above", "below", "in_front_of", "behind")
PATTERN_OF = dict.fromkeys(RELATIONS, "position") | {"colour": "colour", "view": "viewpoint"}
OTHER_THINGS = "other things"  # stand there: no pattern says how such pictures differ
COMPARED = 50_000  # pairs of the table that are looked at besides the minimal pairs
ORDERS = 720  # ways to match the things of two scenes that are tried


def differing(one: Iterable[str], other: Iterable[str], partners: bool = False) -> frozenset[str]:
    """The patterns in which two scenes differ, from their facts as text; "other things" where other kinds stand there.

    Names of things mean nothing from scene to scene, so things of a kind are matched in the way that leaves the fewest
    facts apart, their own names first; those of partners of a minimal pair stay what they are. Other numbers of the
    same kinds and colours are a difference in quantity.
    """
    return apart(read_facts(one), read_facts(other), partners)


def apart(a: set[tuple[str, ...]], b: set[tuple[str, ...]], partners: bool) -> frozenset[str]:
    """`differing` of facts that are read already."""
    kinds_a, kinds_b = things_of(a, "kind"), things_of(b, "kind")
    nouns = [Counter((kinds[name], colours.get(name)) for name in kinds)
             for kinds, colours in ((kinds_a, things_of(a, "colour")), (kinds_b, things_of(b, "colour")))]  # fmt: skip
    if set(kinds_a.values()) != set(kinds_b.values()):
        return frozenset({OTHER_THINGS})
    if nouns[0] != nouns[1] and set(nouns[0]) == set(nouns[1]):
        return frozenset({"quantity"})
    if Counter(kinds_a.values()) != Counter(kinds_b.values()):
        return frozenset({"quantity", "colour"}) if set(nouns[0]) != set(nouns[1]) else frozenset({"quantity"})
    best: set | None = None
    for renamed in itertools.islice(matchings(kinds_a, kinds_b), 1 if partners else ORDERS):
        turned = {(atom[0], *(renamed.get(x, x) for x in atom[1:])) for atom in b if atom[0] != "count"}
        left = turned ^ {atom for atom in a if atom[0] != "count"}
        if best is None or len(left) < len(best):
            best = left
    return frozenset(pattern_of(atom, kinds_a) for atom in best or ())


def pattern_of(atom: tuple[str, ...], kinds: dict[str, str]) -> str:
    """The pattern that a fact belongs to; an attribute's depends on the kind that has it."""
    attributes = KINDS[kinds[atom[1]]].attributes if kinds.get(atom[1]) in KINDS else {}
    return attributes[atom[0]].pattern if atom[0] in attributes else PATTERN_OF.get(atom[0], OTHER_THINGS)


def things_of(atoms: set[tuple[str, ...]], what: str) -> dict[str, str]:
    return {atom[1]: atom[2] for atom in sorted(atoms) if atom[0] == what}


def matchings(kinds_a: dict[str, str], kinds_b: dict[str, str]) -> Iterable[dict[str, str]]:
    """Names of b -> names of a of the same kind, one by one, equal names first."""
    groups = []
    for kind in sorted(set(kinds_a.values())):
        mine, theirs = ([name for name, k in kinds.items() if k == kind] for kinds in (kinds_a, kinds_b))
        shared = [name for name in theirs if name in mine]
        first = {name: name for name in shared}
        first |= dict(zip((n for n in theirs if n not in first), (n for n in mine if n not in first), strict=True))
        groups.append([dict(zip(theirs, order, strict=True))
                       for order in itertools.permutations([first[name] for name in theirs])])  # fmt: skip
    for choice in itertools.product(*groups):
        yield {name: of for part in choice for name, of in part.items()}


def missed(table: Table | View, found: BlindPairs, seed: int = 0) -> dict[str, Any] | None:
    """`enrichment` of the pairs that were mined in a table; None for a table that has no facts of scenes."""
    if not {"facts", "group"} <= set(table.columns):
        return None
    rows = table.read(["facts", "group"]).to_pylist()
    return enrichment(found.pairs, [row["facts"] or [] for row in rows], [row["group"] for row in rows], seed)


def enrichment(pairs: np.ndarray, facts: list[list[str]], groups: list[str | None], seed: int = 0) -> dict[str, Any]:
    """Which patterns are more frequent among blind pairs than chance gives.

    pairs: (m, 2) rows; facts, groups: of every row, the facts as text and the minimal pair it belongs to or None.
    {"differences": the patterns of each pair, "one_pattern": blind pairs that differ in one alone, "compared": pairs of
    the table that do, "patterns": for each pattern {"pattern", "blind", "base" (counts), "share", "base_share", "p",
    "p_holm", "enriched" (p_holm < 0.05)}, the most enriched first}. The base are the minimal pairs and pairs of scenes
    with the same kinds of things, up to 50,000 drawn by `seed`. The test takes pairs as independent, which minimal
    pairs are, and pairs that share a picture are not quite.
    """
    tell = teller(facts, groups)
    told = [tell(i, j) for i, j in pairs.tolist()]
    blind = {tuple(pair): next(iter(what)) for pair, what in zip(pairs.tolist(), told, strict=True) if named(what)}
    base = dict(blind)
    for i, j in candidates(facts, groups, seed):
        if (i, j) not in base and named(what := tell(i, j)):
            base[i, j] = next(iter(what))
    found, every = Counter(blind.values()), Counter(base.values())
    rows, m, n = [], len(blind), len(base)
    for pattern in PATTERNS:
        k, total = found[pattern], every[pattern]
        rows.append({"pattern": pattern, "blind": k, "base": total, "share": k / m if m else None,
                     "base_share": total / n if n else None, "p": fisher_greater(k, m, total, n)})  # fmt: skip
    for row, adjusted in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row |= {"p_holm": adjusted, "enriched": adjusted < 0.05}
    rows.sort(key=lambda row: row["p"])
    return {"differences": [sorted(what) for what in told], "one_pattern": m, "compared": n, "patterns": rows}


def differences(pairs: np.ndarray, facts: list[list[str]], groups: list[str | None]) -> list[frozenset[str]]:
    """The patterns in which the rows of each pair differ; arguments as of `enrichment`."""
    tell = teller(facts, groups)
    return [tell(i, j) for i, j in pairs.tolist()]


def teller(facts: list[list[str]], groups: list[str | None]) -> Callable[[int, int], frozenset[str]]:
    """A function of two rows that gives the patterns in which they differ."""
    read = functools.cache(lambda row: read_facts(facts[row]))  # a row is in many pairs
    return lambda i, j: apart(read(i), read(j), groups[i] is not None and groups[i] == groups[j])


def named(what: frozenset[str]) -> bool:
    return len(what) == 1 and OTHER_THINGS not in what


def candidates(facts: list[list[str]], groups: list[str | None], seed: int) -> Iterable[tuple[int, int]]:
    """Pairs of rows that may differ in one pattern: partners, then rows with the same kinds of things."""
    partners: dict[str, list[int]] = {}
    alike: dict[tuple[str, ...], list[int]] = {}
    for row, (lines, group) in enumerate(zip(facts, groups, strict=True)):
        if group is not None:
            partners.setdefault(group, []).append(row)
        kinds = {line.split(", ")[1] for line in lines if line.startswith("kind(")}
        alike.setdefault(tuple(sorted(kinds)), []).append(row)
    yield from (pair for rows in partners.values() for pair in itertools.combinations(rows, 2))
    sizes = np.array([len(rows) * (len(rows) - 1) // 2 for rows in alike.values()])
    if sizes.sum() <= COMPARED:
        yield from (pair for rows in alike.values() for pair in itertools.combinations(rows, 2))
        return
    rng, crowds = np.random.default_rng(seed), list(alike.values())
    for crowd in rng.choice(len(crowds), COMPARED, p=sizes / sizes.sum()).tolist():
        i, j = sorted(rng.choice(len(crowds[crowd]), 2, replace=False).tolist())
        yield crowds[crowd][i], crowds[crowd][j]
