"""Patterns: minimal pairs of nine visual patterns by the MMVP-VLM protocol (Tong et al. 2024, "Eyes Wide Shut?"), and
Winoground's pairs of pictures and captions (Thrush et al. 2022), by kind of sentence.

Each item is two pictures and two statements, one true of each; the model scores all four combinations and
metrics.score_pairs turns the 2 x 2 matrix into the image score (the published one), the text score and the group score.
Of two equal scores MMVP-VLM's rule chooses image 2. `reference="official"` asks as the code published with the paper,
which puts "a photo of " before each statement; with "winoground" statements stand alone and a tie is wrong.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np

from omma.eval.asking import clusters_of
from omma.eval.clusters import clustered
from omma.eval.metrics import PAIR_CHANCE, binomial_tail, estimate, holm, score_pairs
from omma.eval.task import VARIANTS, Answer, Grid, Item, Task, group_of, interval, percent

ORDER = ("orientation", "presence", "state", "quantity", "position", "colour", "structure", "text", "viewpoint")
SCORES = tuple(PAIR_CHANCE)  # image, text, group, item


def items(rows: list[dict], before: str = "") -> list[Item]:
    """Rows of an items table -> items; one without two pictures and two statements can't be scored. before: what stands
    before each statement."""
    found = []
    for row in rows:
        pictures, texts = tuple(row["pictures"] or ()), tuple(before + text for text in row["options"] or ())
        problem = "" if len(pictures) == len(texts) == 2 else "not_two_pictures_and_two_statements"
        found.append(Item(row["id"], group_of(row), row["pattern"] or "", pictures, texts, "1 2", problem))
    return found


def score(asked: list[Item], view, ties: Literal["image 2", "wrong"] = "image 2") -> list[Answer]:
    """Answer.scores = [s11, s12, s21, s22], s[image, text]; prediction: the image each text chose, 0 for none."""
    if not asked:
        return []
    s = np.stack(view.matrices(asked))
    got = score_pairs(s, ties)
    credits = np.stack([got.image, got.text, got.group, (got.picks == [1, 2]).mean(axis=1)], axis=1).astype(float)
    return [
        Answer(s[n].ravel().tolist(), f"{picks[0]} {picks[1]}", credits[n].tolist(), bool(got.image[n]))
        for n, picks in enumerate(got.picks.tolist())
    ]


def metrics(rows: list[dict]) -> dict:
    """All pairs together, each pattern, and the mean over patterns (the average that papers print).

    image, text, group count pairs, item counts single choices of a text. Both choices of a pair hang together, and so
    do pairs that share a picture, as mined ones may: the intervals count what is independent. ties: choices between two
    equal scores, which go to image 2 or to none. p: exact one-sided binomial test of the image score against chance, as
    if all pairs were independent, p_holm: corrected over the patterns.
    """
    names = {row["pattern"] for row in rows}
    ordered = [name for name in ORDER if name in names] + sorted(names - set(ORDER))
    patterns = {name: _block([row for row in rows if row["pattern"] == name]) for name in ordered}
    for block, p in zip(patterns.values(), holm([block["p"] for block in patterns.values()]), strict=True):
        block["p_holm"] = p
    mean = {name: float(np.mean([b[name]["value"] for b in patterns.values()])) if rows else None for name in SCORES}
    return {**_block(rows), "mean": mean, "patterns": patterns}


def _block(rows: list[dict]) -> dict:
    out: dict = {}
    shown, groups = [name for row in rows for name in row["pictures"]], {row["group"] for row in rows}
    alone = len(set(shown)) == len(shown) and len(groups) == len(rows)    # no pair shares a picture with another
    together = [str(place) for place in range(len(rows))] if alone else clusters_of(rows)
    for column, name in enumerate(SCORES):
        earned = [row["credits"][column] for row in rows]
        if name == "item":                                               # both choices of a pair, each 0 or 1
            choices = [float(share > half) for share in earned for half in (0.25, 0.75)]
            out[name] = clustered(choices, [place for place in together for _ in (1, 2)], PAIR_CHANCE[name])
        elif alone:
            out[name] = estimate(round(sum(earned)), len(rows), PAIR_CHANCE[name])
        else:
            out[name] = clustered(earned, together, PAIR_CHANCE[name])
    out["ties"] = sum(sum(row["scores"][t] == row["scores"][2 + t] for t in (0, 1)) for row in rows)
    out["p"] = binomial_tail(out["image"]["right"], len(rows), PAIR_CHANCE["image"])
    return out


def tables(kind: str, by_variant: dict[str, dict]) -> list[Grid]:
    """One line a pattern: image score with interval and controls, then text and group score. It fits 80 columns."""
    model, blind, wrong = (by_variant[variant] for variant in VARIANTS)

    def line(name: str, m: dict, b: dict, w: dict) -> list[str]:
        image = m["image"]
        return [
            name, percent(image) + (" *" if image["above_chance"] else ""), interval(image).replace(" ", ""),
            percent(b.get("image")), percent(w.get("image")), percent(m["text"]), percent(m["group"]), str(image["n"]),
        ]  # fmt: skip

    rows = [
        line(name, block, blind.get("patterns", {}).get(name, {}), wrong.get("patterns", {}).get(name, {}))
        for name, block in model["patterns"].items()
    ]
    means = [percent({"value": m["mean"]["image"]}) for m in (model, blind, wrong)]
    more = [percent({"value": model["mean"][name]}) for name in ("text", "group")]
    rows.append(["mean", means[0], "", means[1], means[2], *more, ""])
    rows.append(line("all pairs", model, blind, wrong))
    header = ["pattern", "image", "95 %", "blind", "wrong", "text", "group", "pairs"]
    note = (
        "95 %, blind and wrong (picture) belong to the image score. Chance: image 25.0, text 25.0, group 16.7. "
        "* above chance: the lower 99 % bound exceeds 25. mean: of the patterns. "
        f"Ties: {model['ties']}, blind {blind.get('ties', '–')}."
    )
    return [Grid(f"patterns ({kind})", header, rows, note)]


@dataclass(frozen=True)
class Reference:
    """How others ask. before: what they put before a statement; ties: what becomes of two equal scores."""

    before: str
    ties: Literal["image 2", "wrong"]


REFERENCES = {"official": Reference("a photo of ", "image 2"), "winoground": Reference("", "wrong")}


def made_for(table: Any, reference: str | None = None) -> Task:
    if reference is None:
        return PATTERNS
    if reference not in REFERENCES:
        raise ValueError(f"reference={reference!r}; pairs are asked like {' or '.join(REFERENCES)}, or without one")
    other = REFERENCES[reference]
    asks, counts = partial(items, before=other.before), partial(score, ties=other.ties)
    return replace(PATTERNS, items=asks, score=counts, mode=reference)


PATTERNS = Task(
    about="nine visual patterns of minimal pairs by the MMVP-VLM protocol: image, text and group score",
    table="items",
    where="task in ['pairs', 'winoground']",
    make="omma scenes OUT --pairs 100",
    kinds=("itc", "itm"),
    credits=SCORES,
    headline={"itm": "image", "itc": "image"},
    indifferent=0.0,  # a tie goes to image 2, so text 1 never finds its own
    items=items,
    score=score,
    metrics=metrics,
    tables=tables,
    made_for=made_for,
    takes=("reference",),
)
