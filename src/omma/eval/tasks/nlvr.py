"""Is a sentence true of a picture of three boxes? (Cornell NLVR, Suhr et al. 2017)

Accuracy over pictures, each example in six orders of its boxes; and consistency: the pictures that were shown with one
sentence make a group, and a group counts when all of them are judged right. The pattern says whether people's training
sentences hold the same one, word for word: of these a model may know more than it sees.
"""

from omma.eval.task import Item, Task, group_of, plain_tables
from omma.eval.tasks.nlvr2 import metrics, score


def items(rows: list[dict]) -> list[Item]:
    """Rows of an items table -> items; one whose answer is neither true nor false can't be scored."""
    found = []
    for row in rows:
        pictures, answer = tuple(row["pictures"] or ()), row["answer"] or ""
        problem = "" if answer in ("true", "false") else "no_true_or_false_answer"
        if not pictures:
            problem = "no_picture"
        if not row["prompt"]:
            problem = "no_statement"
        found.append(
            Item(row["id"], group_of(row), row["pattern"] or "", pictures, (row["prompt"] or "",), answer, problem)
        )
    return found


NLVR = Task(
    about="is a sentence true of a picture of several boxes; accuracy and consistency",
    table="items",
    where="task == 'nlvr'",
    make="python bench/nlvr_data.py split TAR OUT (docs/nlvr.md)",
    kinds=("compare",),
    credits=("accuracy",),
    headline={"compare": "accuracy"},
    items=items,
    score=score,
    metrics=metrics,
    tables=plain_tables("NLVR"),
)
