"""Is a sentence true of two pictures together? (NLVR2, Suhr et al. 2019)

Accuracy over sentences, and consistency: a sentence stands with several pairs of pictures, and counts as understood
when all of these are judged right.
"""

import numpy as np

from omma.eval.metrics import by_group, consistency, estimate, estimate_auc
from omma.eval.task import Answer, Item, Task, judged_items, plain_tables, with_patterns


def items(rows: list[dict]) -> list[Item]:
    """Rows of an items table -> items; one whose answer is neither true nor false can't be scored."""
    return judged_items(rows, lambda pictures: "" if len(pictures) > 1 else "not_several_pictures")


def score(asked: list[Item], view) -> list[Answer]:
    """Answer.scores = [the probability of true]; "true" iff it is above one half."""
    answers = []
    for item, (value,) in zip(asked, view.asked(asked).tolist(), strict=True):
        said = "true" if value > 0.5 else "false"
        answers.append(Answer([value], said, [float(said == item.answer)], said == item.answer))
    return answers


def metrics(rows: list[dict]) -> dict:
    """Accuracy (chance: a coin), consistency, auc; for all, and for each pattern."""
    return with_patterns(rows, block)


def block(rows: list[dict]) -> dict:
    correct, groups = [row["correct"] for row in rows], [row["group"] for row in rows]
    all_right, n_groups = consistency(correct, groups)
    sizes = np.array([len(numbers) for numbers in by_group(groups).values()])
    return {
        "accuracy": estimate(sum(correct), len(rows), 0.5),
        "consistency": estimate(all_right, n_groups, float(np.mean(0.5**sizes)) if n_groups else None),
        "auc": estimate_auc([row["scores"][0] for row in rows], [row["answer"] == "true" for row in rows], groups),
        "said_true": sum(row["prediction"] == "true" for row in rows) / len(rows) if rows else None,
    }


NLVR2 = Task(
    about="is a sentence true of two pictures together; accuracy and consistency",
    table="items",
    where="task == 'comparison'",
    make="omma scenes OUT --export nlvr2 && omma ingest-items OUT/nlvr2/train.json TABLES --images OUT/nlvr2/images",
    kinds=("compare",),
    credits=("accuracy",),
    headline={"compare": "accuracy"},
    items=items,
    score=score,
    metrics=metrics,
    tables=plain_tables("sentences about two pictures"),
)
