"""Questions about one picture, answered with one of the model's own answers (VQA, Antol et al. 2015).

Where several people answered (column `answers`), a prediction that n of them gave earns min(1, 0.3 n): the mean, over
every nine of ten, of min(1, n / 3). Answers are compared as they stand; the corpora's own clean-up of punctuation and
articles belongs before the table. An answer that the model has no label for can only be missed, and is counted.
"""

from collections import Counter

import numpy as np

from omma.eval.metrics import estimate
from omma.eval.task import Answer, Item, Task, group_of, plain_tables, with_patterns


def items(rows: list[dict]) -> list[Item]:
    """Rows of an items table -> items; the question is the prompt."""
    found = []
    for row in rows:
        pictures, answers = tuple(row["pictures"] or ()), tuple(row.get("answers") or ())
        problem = "" if row["answer"] or answers else "no_answer"
        if len(pictures) != 1:
            problem = "not_one_picture"
        if not row["prompt"]:
            problem = "no_question"
        answer = row["answer"] or (Counter(answers).most_common(1)[0][0] if answers else "")
        found.append(Item(row["id"], group_of(row), row["pattern"] or "", pictures, (row["prompt"] or "",), answer,
                          problem, answers))  # fmt: skip
    return found


def score(asked: list[Item], view) -> list[Answer]:
    """Answer.scores: the probability of each of the model's answers. Ties share the credit of what they tie over."""
    labels = view.labels
    found = []
    for item, values in zip(asked, view.asked(asked), strict=True):
        best = [labels[k] for k in np.flatnonzero(values == values.max())]
        credit = float(np.mean([credit_of(label, item) for label in best]))
        correct = None if len(best) > 1 else best[0] == item.answer
        found.append(Answer(values.tolist(), best[0], [credit, float(item.answer in labels)], correct))
    return found


def credit_of(said: str, item: Item) -> float:
    """What a prediction earns: by the people who gave it, or 1 for the one right answer."""
    return min(1.0, 0.3 * item.answers.count(said)) if item.answers else float(said == item.answer)


def metrics(rows: list[dict]) -> dict:
    """Accuracy, beside that of one and the same answer to all (`majority`) and the share that could be answered
    (`answerable`); for all, and for each pattern."""
    return with_patterns(rows, block)


def block(rows: list[dict]) -> dict:
    chance = 1 / len(rows[0]["scores"]) if rows else None
    most = max(Counter(row["answer"] for row in rows).values(), default=0)
    return {
        "accuracy": estimate(sum(row["credits"][0] for row in rows), len(rows), chance),
        "answerable": estimate(sum(row["credits"][1] for row in rows), len(rows)),
        "majority": estimate(most, len(rows)),
    }


VQA = Task(
    about="questions about a picture, answered with one of the model's answers",
    table="items",
    where="task == 'question'",
    make="omma scenes OUT",
    kinds=("answer",),
    credits=("accuracy", "answerable"),
    headline={"answer": "accuracy"},
    items=items,
    score=score,
    metrics=metrics,
    tables=plain_tables("questions"),
    columns=("answers",),
)
