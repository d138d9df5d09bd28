"""Statements: is this sentence true of this picture? (NLVR2's question and its consistency, Suhr et al. 2019)

itm is a probability, so "true" iff p > 0.5. itc is a cosine and has no natural threshold: it is judged without one, by
auc and by comparisons inside a group; its accuracy is given at the median score of the run and named so.
"""

import math

import numpy as np

from omma.eval.asking import clusters_of
from omma.eval.clusters import clustered
from omma.eval.metrics import by_group, consistency, estimate, estimate_auc, pairwise
from omma.eval.task import Answer, Item, Task, judged_items, plain_tables, with_patterns


def items(rows: list[dict]) -> list[Item]:
    """Rows of an items table -> items; one whose answer is neither true nor false can't be scored."""
    return judged_items(rows, lambda pictures: "" if len(pictures) == 1 else "not_one_picture")


def score(asked: list[Item], view) -> list[Answer]:
    """Answer.scores = [the score]; the threshold is 0.5 for itm and the median of all scores for itc."""
    values = view.pairs([(item.pictures[0], item.texts[0]) for item in asked])
    threshold = 0.5 if view.kind == "itm" or not len(values) else float(np.median(values))
    answers = []
    for item, value in zip(asked, values.tolist(), strict=True):
        said = "true" if value > threshold else "false"
        answers.append(Answer([value], said, [float(said == item.answer)], said == item.answer))
    return answers


def metrics(rows: list[dict]) -> dict:
    """Accuracy, consistency, auc and in-group comparisons, for all and for each pattern.

    accuracy: chance 1/2, since each statement is true of one picture and false of its partner. consistency: groups with
    every item right; its chance is that of coin flips. pairwise: inside a group, how often a true item scores above a
    false one. The last two count groups; all intervals do, since statements about one picture hang together.
    """
    return with_patterns(rows, _block)


def _block(rows: list[dict]) -> dict:
    correct = [row["correct"] for row in rows]
    groups = [row["group"] for row in rows]
    scores = [row["scores"][0] for row in rows]
    truth = [row["answer"] == "true" for row in rows]
    all_right, n_groups = consistency(correct, groups)
    sizes = np.array([len(numbers) for numbers in by_group(groups).values()])
    won = pairwise(scores, truth, groups)
    at = "_at_median" if rows and rows[0]["score_kind"] == "itc" else ""
    return {
        f"accuracy{at}": clustered(correct, clusters_of(rows), 0.5),
        f"consistency{at}": estimate(all_right, n_groups, float(np.mean(0.5**sizes)) if n_groups else None),
        "auc": estimate_auc(scores, truth, groups),
        "pairwise": estimate(math.fsum(won.values()), len(won), 0.5),
        "said_true": sum(row["prediction"] == "true" for row in rows) / len(rows) if rows else None,
    }


STATEMENTS = Task(
    about="is a statement true of a picture; accuracy, consistency in a group, and threshold-free comparisons",
    table="items",
    where="task == 'statement'",
    make="omma scenes OUT",
    kinds=("itc", "itm"),
    credits=("accuracy",),
    headline={"itm": "accuracy", "itc": "pairwise"},
    items=items,
    score=score,
    metrics=metrics,
    tables=plain_tables("statements"),
)
