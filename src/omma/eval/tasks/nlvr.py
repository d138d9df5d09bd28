"""Is a sentence true of a picture of three boxes? (Cornell NLVR, Suhr et al. 2017)

Accuracy over pictures, each example in six orders of its boxes; and consistency: the pictures that were shown with one
sentence make a group, and a group counts when all of them are judged right. The pattern says whether people's training
sentences hold the same one, word for word: of these a model may know more than it sees.
"""

from dataclasses import replace

from omma.eval.asking import asked
from omma.eval.task import Item, judged_items, plain_tables
from omma.eval.tasks.nlvr2 import TRUTH, metrics, modes, score


def items(rows: list[dict]) -> list[Item]:
    """Rows of an items table -> items; one whose answer is neither true nor false can't be scored."""
    found = judged_items(rows, lambda pictures: "" if pictures else "no_picture")
    return [replace(item, options=TRUTH) for item in found]


NLVR = asked(
    about="is a sentence true of a picture of several boxes; accuracy and consistency",
    where="task == 'nlvr'",
    make="python bench/nlvr_data.py split TAR OUT (docs/nlvr.md)",
    modes=modes("the picture"),
    items=items,
    score=score,
    metrics=metrics,
    tables=plain_tables("NLVR"),
    kinds=("compare", "generate", "first_token"),
    columns=(),
)
