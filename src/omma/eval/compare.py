"""Is one model better than another? Two runs on the same items, with tests that fit how the items hang together.

    verdict = compare("reports/before", "reports/after")
    print(verdict)                                                 # in words, with intervals

Items that share pictures are right or wrong together, so differences are drawn by picture (`clusters.paired`); where
every group stands alone and items are right or wrong, McNemar's exact test says how sure it is, else random signs of
whole clusters do. Every p
value is corrected for how many were looked at (Holm 1979). A difference that isn't shown is not the same as none: the
smallest one that a run of this size would probably show stands beside it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Console, ConsoleOptions, RenderableType
from rich.table import Table as RichTable

from omma.eval.clusters import ROUNDS, by_cluster, paired
from omma.eval.metrics import holm
from omma.eval.outcomes import IN_A_CIRCLE, Outcome, Run, independent, outcomes
from omma.eval.paired import correlation, detectable, detectable_mean, mcnemar, phi, sign_flips

EXACT = "exact McNemar on groups"
WIDE = 106  # characters of a line that the whole table by pattern needs; a narrower one leaves out what is least needed


@dataclass(frozen=True)
class Verdict:
    """What a comparison found. words: one line a benchmark, for people; benchmarks: the numbers behind it.

    Of each benchmark, and of each of its patterns: a, b (what either earned on the items of both), difference (b - a:
    value, low95, high95, n, clusters), groups (both, only_a, only_b, neither: groups whose every item is right), test,
    p, p_holm, shown (p_holm below alpha), detectable. Beside them: only_a_has, only_b_has, unscored (items left out),
    unparsed (of either), phi, correlation over patterns, judges (of either, "" without one), notes.
    """

    a: str
    b: str
    alpha: float
    benchmarks: list[dict[str, Any]]

    @property
    def words(self) -> list[str]:
        return [self._sentence(found) for found in self.benchmarks]

    def to_json(self) -> dict[str, Any]:
        return {"a": self.a, "b": self.b, "alpha": self.alpha, "words": self.words, "benchmarks": self.benchmarks}

    def __str__(self) -> str:
        return "\n".join(self.words)

    def _sentence(self, found: dict) -> str:
        d, groups = found["difference"], found["groups"]
        told = f"{found['name']}: {_percent(found['a'])} -> {_percent(found['b'])} % on {d['n']} items"
        if d["low95"] is not None:
            told += f", {_points(d['value'])} points (95 %: {_points(d['low95'])} to {_points(d['high95'])})"
        told += f"; only A has {groups['only_a']} groups right, only B {groups['only_b']}; p {_p(found['p'], '= ')}"
        told += f" ({found['test']})"
        if len(self.benchmarks) > 1:
            told += f", after Holm over {len(self.benchmarks)} benchmarks {_p(found['p_holm'])}"
        if found["shown"]:
            gain = groups["only_b"] - groups["only_a"] if found["test"] == EXACT else d["value"]
            return f"{told}. B is {'better' if gain > 0 else 'worse'} than A."
        least = found["detectable"]
        size = f"differences from about {100 * least:.1f} points on" if least else "no difference"
        return f"{told}. No difference is shown; a run of this size would probably show {size}."

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        yield from (f"A: {self.a}", f"B: {self.b}")
        for found, words in zip(self.benchmarks, self.words, strict=True):
            yield words
            yield from (note[0].upper() + note[1:] + "." for note in found["notes"])
            if found["patterns"]:
                yield self._patterns(found, wide=options.max_width >= WIDE)

    def _patterns(self, found: dict, wide: bool) -> RichTable:
        """Not wide: without the p that is not corrected, and with both counts in one column. No number is ever cut."""
        table = RichTable(title=f"{found['name']} by pattern", title_justify="left", show_edge=wide, pad_edge=wide)
        counts, least = (("only A", "only B"), ("p", "p (Holm)")) if wide else (("A : B",), ("p (Holm)",))
        for n, name in enumerate(("pattern", "A", "B", "B - A", "95 %", *counts, *least, "n")):
            table.add_column(name, justify="right" if n else "left", no_wrap=bool(n), overflow="fold")
        for name, row in found["patterns"].items():
            d, groups = row["difference"], row["groups"]
            interval = "–" if d["low95"] is None else f"{_points(d['low95'])} to {_points(d['high95'])}"
            only = str(groups["only_a"]), str(groups["only_b"])
            table.add_row(
                *(name, _percent(row["a"]), _percent(row["b"]), _points(d["value"]) + (" *" if row["shown"] else "")),
                *(interval, *(only if wide else (" : ".join(only),)), *((_p(row["p"]),) if wide else ())),
                *(_p(row["p_holm"]), str(d["n"])),
            )
        legend = "" if wide else "A : B: groups that only A, and only B, has right. "
        table.caption, table.caption_justify = legend + "* shown after Holm's correction.", "left"
        r = found["correlation"]["pearson"]
        if r["value"] is not None:
            fewer = (
                "" if r["without"] is None else f"; {r['without'][0]:.2f} to {r['without'][1]:.2f} without one of them"
            )
            table.caption = (f"Over the patterns A and B go together with r = {r['value']:.2f} (95 %: {r['low95']:.2f} "
                             f"to {r['high95']:.2f}{fewer}). {table.caption}")  # fmt: skip
        return table


def compare(
    a: Any,
    b: Any,
    *,
    kinds: str | Sequence[str] | None = None,
    credit: str | None = None,
    variant: str = "model",
    alpha: float = 0.05,
    seed: int = 0,
    rounds: int = ROUNDS,
) -> Verdict:
    """Compare two models on the items that both answered; b - a, so that a gain of b is positive.

    a, b: a Report, its folder, a folder of such folders (several benchmarks), lmms-eval's samples (.jsonl) or
    VLMEvalKit's results (.xlsx, .tsv, .csv, .json). kinds: the kind of score, or one of each ("itc", "itm"); all that
    both have when None. credit: what counts, by its name in the reports, the first when None. variant: "model", or a
    control. Nothing is printed. Raises ValueError when they share no benchmark or no item, or when an item has another
    answer in the other run: these are two versions of a benchmark.

    >>> print(compare("reports/before", "reports/after"))                                  # doctest: +SKIP
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha={alpha}; give a share such as 0.05")
    kind_a, kind_b = (kinds, kinds) if kinds is None or isinstance(kinds, str) else _two(kinds)
    left = outcomes(a, kind=kind_a, credit=credit, variant=variant)
    right = outcomes(b, kind=kind_b, credit=credit, variant=variant)
    benchmarks = [_benchmark(x, y, seed, rounds, alpha) for x, y in _matched(left, right)]
    for found, p in zip(benchmarks, holm([found["p"] for found in benchmarks]), strict=True):
        found |= {"p_holm": p, "shown": p < alpha}
    models = [sorted({run.model for run in runs}) for runs in (left, right)]
    return Verdict(", ".join(models[0]), ", ".join(models[1]), alpha, benchmarks)


def _matched(left: list[Run], right: list[Run]) -> list[tuple[Run, Run]]:
    """The pairs of runs that measure the same: by task and kind of score, by task alone where each has one of it."""
    pairs = [(x, y) for x in left for y in right if x.task == y.task and x.kind == y.kind]
    for task in {run.task for run in left} - {x.task for x, _ in pairs}:
        mine, theirs = ([run for run in side if run.task == task] for side in (left, right))
        if len(mine) == len(theirs) == 1:
            pairs.append((mine[0], theirs[0]))
    if not pairs and len(left) == len(right) == 1:  # files of others name their task as they like
        pairs = [(left[0], right[0])] if left[0].note or right[0].note else []
    if not pairs:
        names = [", ".join(run.name for run in runs) for runs in (left, right)]
        raise ValueError(f"A has {names[0]}; B has {names[1]}: nothing is in both. For two kinds of score give one of "
                         f"each, such as kinds=('itc', 'itm')")  # fmt: skip
    return pairs


def _benchmark(x: Run, y: Run, seed: int, rounds: int, alpha: float) -> dict[str, Any]:
    shared = [name for name in x.items if name in y.items]
    if not shared:
        raise ValueError(f"{x.name}: the runs share no item; A has such as {next(iter(x.items), None)!r}, B such as "
                         f"{next(iter(y.items), None)!r}. Run both on the same table")  # fmt: skip
    other = [name for name in shared if x.items[name].answer != y.items[name].answer]
    if other:
        told = f"{other[0]!r} is {x.items[other[0]].answer!r} in A and {y.items[other[0]].answer!r} in B"
        raise ValueError(f"{x.name}: {len(other)} of {len(shared)} items have another answer in the other run "
                         f"({told}); these are two versions of the benchmark. Run both on the same table")  # fmt: skip
    scored = [n for n in shared if x.items[n].earned is not None and y.items[n].earned is not None]
    if not scored:
        raise ValueError(f"{x.name}: none of the {len(shared)} items that both runs have was scored in both")
    name = x.name if x.name == y.name else f"{x.name} and {y.name}"
    found = {"name": name, "task": x.task, "credit": x.credit, **_block(x.items, y.items, scored, seed, rounds, alpha)}
    patterns: dict[str, list[str]] = {}
    for item in scored:
        if x.items[item].pattern:
            patterns.setdefault(x.items[item].pattern, []).append(item)
    blocks = {p: _block(x.items, y.items, rows, seed, rounds, alpha) for p, rows in patterns.items()}
    for block, p in zip(blocks.values(), holm([block["p"] for block in blocks.values()]), strict=True):
        block |= {"p_holm": p, "shown": p < alpha}
    earned = [{p: [run.items[n].earned or 0.0 for n in rows] for p, rows in patterns.items()} for run in (x, y)]
    whole = [[run.items[n].earned == 1 for n in scored] for run in (x, y)]
    notes = [f"{side}: {run.note}" for side, run in (("A", x), ("B", y)) if run.note]
    if x.judge != y.judge:
        unknown = lambda run: "whom its file does not name" if run.note else "rules, and no judge"
        graded = [run.judge or unknown(run) for run in (x, y)]
        notes.append(f"the replies were graded by different judges, so the difference may be theirs: A by {graded[0]}; "
                     f"B by {graded[1]}. Grade both by one")  # fmt: skip
    if (x.credit == IN_A_CIRCLE) != (y.credit == IN_A_CIRCLE):
        side = "A" if x.credit == IN_A_CIRCLE else "B"
        notes.append(f"in {side} a question counts when it is right in every rotation of its options, in the other run "
                     "as it was asked once, which is easier; give two files of one kind")  # fmt: skip
    if len(shared) < max(len(x.items), len(y.items)):
        notes.append(
            f"{len(x.items) - len(shared)} items are in A alone, {len(y.items) - len(shared)} in B alone; left out"
        )
    if len(scored) < len(shared):
        notes.append(f"{len(shared) - len(scored)} items could not be scored in one of the runs; left out")
    unparsed = {side: sum(run.items[n].unparsed for n in scored) for side, run in (("a", x), ("b", y))}
    if any(unparsed.values()):
        notes.append(f"unparsed, and not right: {unparsed['a']} replies of A, {unparsed['b']} of B")
    return found | {
        "patterns": blocks,
        "correlation": correlation(earned[0], earned[1], seed=seed, rounds=min(rounds, 1000)),
        "phi": phi(*whole),
        "only_a_has": len(x.items) - len(shared),
        "only_b_has": len(y.items) - len(shared),
        "unscored": len(shared) - len(scored),
        "unparsed": unparsed,
        "judges": [x.judge, y.judge],
        "notes": notes,
    }


def _block(
    x: dict[str, Outcome], y: dict[str, Outcome], names: list[str], seed: int, rounds: int, alpha: float
) -> dict[str, Any]:
    """The numbers of some items: shares, the difference with its interval, groups, the test, what it could show."""
    ours, theirs = {n: x[n].earned or 0.0 for n in names}, {n: y[n].earned or 0.0 for n in names}
    facts = {n: x[n] if x[n].pictures or not y[n].pictures else y[n] for n in names}
    clusters = independent(facts, names)
    difference = paired(theirs, ours, clusters, seed, rounds)
    groups: dict[str, list[str]] = {}
    for n in names:
        groups.setdefault(facts[n].group, []).append(n)
    right = [[all(side[n] == 1 for n in rows) for rows in groups.values()] for side in (ours, theirs)]
    both = [sum(p == u and q == v for p, q in zip(*right, strict=True)) for u, v in ((1, 1), (1, 0), (0, 1), (0, 0))]
    independent_n = len(set(clusters.values()))
    discordant = max((both[1] + both[2]) / len(groups), 1 / len(groups))
    least = detectable(independent_n, min(1.0, discordant), alpha=alpha)
    graded = any(value not in (0, 1) for side in (ours, theirs) for value in side.values())
    sums, sizes = by_cluster(np.array([theirs[n] - ours[n] for n in names]), [clusters[n] for n in names])
    if len(groups) == independent_n and not graded:
        test, p = EXACT, mcnemar(both[1], both[2])
    else:
        test, p = "random signs of pictures", sign_flips(sums, seed, rounds)
        least = detectable_mean(sums, sizes, alpha=alpha) if graded else least
    return {
        "a": float(np.mean(list(ours.values()))),
        "b": float(np.mean(list(theirs.values()))),
        "difference": difference,
        "groups": dict(zip(("both", "only_a", "only_b", "neither"), both, strict=True)),
        "test": test,
        "p": p,
        "detectable": least,
    }


def _two(kinds: Sequence[str]) -> tuple[str, str]:
    if len(kinds) != 2:
        raise ValueError(f"kinds={kinds!r}; give one kind of score for both, or two: A's and B's")
    return kinds[0], kinds[1]


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _points(difference: float) -> str:
    return f"{100 * difference:+.1f}"


def _p(p: float, equals: str = "") -> str:
    return "< 0.001" if p < 0.001 else f"{equals}{p:.3f}"
