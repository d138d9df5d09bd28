"""Is a sentence true of a picture of three boxes? (Cornell NLVR, Suhr et al. 2017)

Accuracy over pictures, each example in six orders of its boxes; and consistency: the pictures that were shown with one
sentence make a group, and a group counts when all of them are judged right. The pattern says whether people's training
sentences hold the same one, word for word: of these a model may know more than it sees.
"""

from omma.eval.task import Item, Task, judged_items, plain_tables
from omma.eval.tasks.nlvr2 import metrics, score


def items(rows: list[dict]) -> list[Item]:
    """Rows of an items table -> items; one whose answer is neither true nor false can't be scored."""
    return judged_items(rows, lambda pictures: "" if pictures else "no_picture")


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
