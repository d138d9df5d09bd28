"""Classify: which of the classes that a column of the table names a picture belongs to, told in one or two ways.

By the names alone (score kind itc), as in CLIP's zero-shot classification (Radford et al. 2021): each class is the mean
of its name's vectors in several sentences, at unit length; a picture gets the class whose vector is nearest. And by the
model's own class head (score kind classify), where it was trained with one; a class that the head does not know can
only be missed, and is counted.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from omma.eval.metrics import estimate, recall_at_k
from omma.eval.task import VARIANTS, Answer, Grid, Item, Task, interval, percent, plain_tables

LABEL = "kind"  # of a picture of one thing, in the tables of omma scenes
TEMPLATES = ("a {}", "there is a {}", "a picture of a {}")  # the frames of its captions
KS = (1, 5)
SHOWN = 24  # lines of a printed table


def task_for(table: Any, label: str = LABEL, templates: Sequence[str] = TEMPLATES) -> Task:
    """The task whose classes are the values of a column of this table or view.

    ValueError when the column is missing or names fewer than two classes, or when a template has no place for a name.
    """
    if label not in table.columns:
        raise ValueError(f"no column {label!r} in {table.uri} to take the classes from; it has "
                         f"{', '.join(table.columns)}. Give another: --label COLUMN")  # fmt: skip
    if lacking := [template for template in templates if template.count("{}") != 1]:
        raise ValueError(f"template {lacking[0]!r} has not one {{}} for a class's name, as in 'a picture of a {{}}'")
    where = f"col({label!r}) is not None"
    values = {value for batch in table.scan(columns=[label], where=where) for value in batch.column(0).to_pylist()}
    classes = sorted(str(value) for value in values)
    if len(classes) < 2:
        raise ValueError(f"column {label!r} of {table.uri} names {len(classes)} classes ({', '.join(classes)}); "
                         "to tell apart there must be two")  # fmt: skip
    prompts = {name: tuple(template.replace("{}", name) for template in templates) for name in classes}
    return replace(
        CLASSIFY,
        where=where,
        items=partial(items, label, prompts),
        score=partial(score, prompts),
        metrics=partial(metrics, len(classes)),
        columns=(label,),
        texts=tuple(text for texts in prompts.values() for text in texts),
    )


def items(label: str, prompts: dict[str, tuple[str, ...]], rows: list[dict]) -> list[Item]:
    """Pictures with a label -> items; the texts are those of the right class."""
    return [Item(row["id"], row["id"], "", (row["id"],), prompts[str(row[label])], str(row[label])) for row in rows]


def score(prompts: dict[str, tuple[str, ...]], asked: list[Item], view: Any) -> list[Answer]:
    """Answer.scores = [the right class's, the best class's]; top: the five best. Ties get their expected hit."""
    if not asked:
        return []
    if view.kind == "classify":
        return [by_head(item, values, view.labels) for item, values in zip(asked, view.asked(asked), strict=True)]
    names = list(prompts)
    found = recall_at_k(
        view.images([item.pictures[0] for item in asked]),
        np.stack([ensemble(view.texts(texts)) for texts in prompts.values()]),
        [[names.index(item.answer)] for item in asked],
        KS,
    )
    return [
        Answer(
            scores=[float(found.right_score[n]), float(found.top_scores[n, 0])],
            prediction=names[found.top[n, 0]],
            credits=found.hits[n].tolist(),
            correct=bool(found.hits[n, 0]) if found.hits[n, 0] in (0, 1) else None,
            top=[names[column] for column in found.top[n]],
        )
        for n in range(len(asked))
    ]


def by_head(item: Item, values: np.ndarray, labels: Sequence[str]) -> Answer:
    """What a class head says of one picture: probabilities (C,) of its labels. Answer.scores and ties as in `score`."""
    own = float(values[labels.index(item.answer)]) if item.answer in labels else 0.0
    above, level = int((values > own).sum()), max(1, int((values == own).sum()))
    hits = [float(np.clip((k - above) / level, 0, 1)) if item.answer in labels else 0.0 for k in KS]
    top = [labels[int(column)] for column in np.argsort(-values, kind="stable")[: max(KS)]]
    correct = bool(hits[0]) if hits[0] in (0, 1) else None
    return Answer(scores=[own, float(values.max())], prediction=top[0], credits=hits, correct=correct, top=top)


def ensemble(vectors: np.ndarray) -> np.ndarray:
    """(n, E), each brought to unit length -> their mean at unit length (E,)."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-12)
    mean = unit.mean(axis=0)
    return mean / max(float(np.linalg.norm(mean)), 1e-12)


def metrics(number: int, rows: list[dict]) -> dict:
    """top1, top5, and the recall of each class with what is most often said in its place.

    mean_class_recall is that of a class whatever its size: a model that says one and the same class to all is at
    chance there, also where that class is frequent.
    """
    out: dict = {}
    for column, k in enumerate(KS):
        hits = sum(row["credits"][column] for row in rows)
        out[f"top{k}"] = estimate(min(hits, len(rows)), len(rows), min(1.0, k / number))
    classes: dict[str, dict] = {}
    for name in sorted({row["answer"] for row in rows}):
        mine = [row for row in rows if row["answer"] == name]
        others = Counter(row["prediction"] for row in mine if row["prediction"] != name).most_common(3)
        recall = estimate(sum(row["credits"][0] for row in mine), len(mine), 1 / number)
        classes[name] = {"recall": recall, "instead": dict(others)}
    recalls = [block["recall"]["value"] for block in classes.values()]
    mean = float(np.mean(recalls)) if recalls else None
    return out | {"number": number, "mean_class_recall": mean, "classes": classes}


def tables(kind: str, by_variant: dict[str, dict]) -> list[Grid]:
    """The shares with their controls, and the classes from the hardest on."""
    shares = {name: {key: block[key] for key in ("top1", "top5")} for name, block in by_variant.items()}
    first = plain_tables("classes")(kind, shares)[0]
    means = ", ".join(f"{name} {percent({'value': by_variant[name]['mean_class_recall']})}" for name in VARIANTS)
    classes = by_variant["model"]["classes"]
    hardest = sorted(classes, key=lambda name: (classes[name]["recall"]["value"], name))
    lines = [
        [name, percent(block["recall"]), interval(block["recall"]), str(block["recall"]["n"]),
         ", ".join(f"{other} {count}" for other, count in block["instead"].items())]
        for name in hardest[:SHOWN] for block in [classes[name]]
    ]  # fmt: skip
    more = f" {len(hardest) - SHOWN} classes more are in report.json." if len(hardest) > SHOWN else ""
    note = f"{by_variant['model']['number']} classes. Mean recall of a class: {means}."
    header = ["class", "recall", "95 %", "n", "said instead"]
    each = Grid(f"class by class ({kind})", header, lines, f"The hardest first; how often another was said.{more}")
    return [Grid(first.title, first.header, first.rows, note), each]


CLASSIFY = Task(  # without classes yet; `task_for` fills them in
    about="a picture's class: by the names of the classes, in several sentences, and by the model's class head",
    table="pictures",
    where=None,
    make="omma scenes OUT",
    kinds=("itc", "classify"),
    credits=tuple(f"top{k}" for k in KS),
    headline={"itc": "top1", "classify": "top1"},
    items=partial(items, LABEL, {}),
    score=partial(score, {}),
    metrics=partial(metrics, 0),
    tables=tables,
    made_for=task_for,
    takes=("label", "templates"),
)
