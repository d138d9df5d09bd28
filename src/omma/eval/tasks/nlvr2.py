"""Is a sentence true of two pictures together? (NLVR2, Suhr et al. 2019)

Accuracy over sentences, and consistency: a sentence stands with several pairs of pictures, and counts as understood
when all of these are judged right. An eye with a head for it compares; a VLM sees all pictures in one prompt and says
true or false. What it says and can't be read is unparsed, and not right. Mode "official" takes nothing but the bare
words true and false, as the published script does.
"""

from dataclasses import replace

import numpy as np

from omma.eval.asking import Mode, answers_of, asked, clusters_of, ending, reply_of
from omma.eval.clusters import clustered
from omma.eval.metrics import by_group, consistency, estimate, estimate_auc
from omma.eval.protocols import nlvr
from omma.eval.task import Answer, Item, judged_items, plain_tables, with_patterns

TRUTH = ("true", "false")


def items(rows: list[dict]) -> list[Item]:
    """Rows of an items table -> items; one whose answer is neither true nor false can't be scored."""
    found = judged_items(rows, lambda pictures: "" if len(pictures) > 1 else "not_several_pictures")
    return [replace(item, options=TRUTH) for item in found]


def score(mode: Mode, asked: list[Item], view) -> list[Answer]:
    """Of a head that compares, Answer.scores = [the probability of true]; "true" iff it is above one half."""
    if view.kind != "compare":
        return answers_of(mode, asked, view)
    answers = []
    for item, (value,) in zip(asked, view.asked(asked).tolist(), strict=True):
        said = "true" if value > 0.5 else "false"
        answers.append(Answer([value], said, [float(said == item.answer), 0.5], said == item.answer))
    return answers


def metrics(rows: list[dict], mode: Mode) -> dict:
    """Accuracy (chance: a coin), consistency, auc or unparsed; for all, and for each pattern."""
    return with_patterns(rows, block if rows and rows[0]["score_kind"] == "compare" else words)


def block(rows: list[dict]) -> dict:
    correct, groups = [row["correct"] for row in rows], [row["group"] for row in rows]
    return {
        "accuracy": clustered(correct, clusters_of(rows), 0.5),
        "consistency": consistent(correct, groups),
        "auc": estimate_auc([row["scores"][0] for row in rows], [row["answer"] == "true" for row in rows], groups),
        "said_true": said_true(rows),
    }


def words(rows: list[dict]) -> dict:
    """The same of what a VLM says; the interval of accuracy counts pictures and sentences."""
    right, together = [row["credits"][0] for row in rows], clusters_of(rows)
    return {
        "accuracy": clustered(right, together, 0.5),
        "consistency": consistent([earned == 1 for earned in right], [row["group"] for row in rows]),
        "unparsed": clustered([row["prediction"] is None for row in rows], together),
        "said_true": said_true(rows),
    }


def consistent(right: list[bool], groups: list[str]) -> dict:
    all_right, n_groups = consistency(right, groups)
    sizes = np.array([len(numbers) for numbers in by_group(groups).values()])
    return estimate(all_right, n_groups, float(np.mean(0.5**sizes)) if n_groups else None)


def said_true(rows: list[dict]) -> float | None:
    return sum(row["prediction"] == "true" for row in rows) / len(rows) if rows else None


def modes(pictures: str) -> dict[str, Mode]:
    """The modes, of which the question ends with these words for the pictures."""
    prompt = ending(f"\nIs this sentence true of {pictures}? Answer true or false.")
    return {
        "strict": Mode(prompt=prompt, parse=reply_of(nlvr.parse)),
        "official": Mode(prompt=prompt, parse=reply_of(nlvr.parse, nlvr.OFFICIAL), protocol=nlvr.OFFICIAL),
    }


NLVR2 = asked(
    about="is a sentence true of two pictures together; accuracy and consistency",
    where="task == 'comparison'",
    make="omma scenes OUT --export nlvr2 && omma ingest-items OUT/nlvr2/train.json TABLES --images OUT/nlvr2/images",
    modes=modes("the pictures taken together"),
    items=items,
    score=score,
    metrics=metrics,
    tables=plain_tables("sentences about two pictures"),
    kinds=("compare", "generate", "first_token"),
    columns=(),
)
