"""Questions about one picture, answered in words, or with one of the model's own answers (VQA, Antol et al. 2015).

Where several people answered (column `answers`), a prediction earns the mean, over every nine of ten, of min(1, n / 3)
for the n of them that gave it: protocols.vqa, strict, which cleans punctuation, articles and numbers of both sides. An
answer that a classifier has no label for can only be missed, and is counted. Modes: "plain" asks the question as it
stands; "official" does, too, "lmms-eval" and "vlmevalkit" ask for a word or phrase, and each counts as it does.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from omma.eval import asking
from omma.eval.asking import ONE_WORD, Mode, as_it_stands, ending
from omma.eval.clusters import clustered
from omma.eval.protocols import vqa
from omma.eval.protocols.outcome import STRICT, UNPARSED, Parsed
from omma.eval.task import Answer, Item, plain_tables, with_patterns


def items(rows: list[dict]) -> list[Item]:
    """Rows of an items table -> items; the question is the prompt."""
    return [
        item if len(item.pictures) == 1 or item.problem == "no_question" else replace(item, problem="not_one_picture")
        for item in asking.question_items(rows)
    ]


def credit_of(said: str, item: Item, mode: str = STRICT) -> float:
    """What a prediction earns: by the people who gave it; where the table has one answer alone, 1 for that."""
    return vqa.accuracy(said, item.answers, mode) if item.answers else vqa.accuracy(said, (item.answer,))


def parse(said: str, item: Item) -> Parsed:
    """The whole reply; unparsed when nothing is left of it."""
    return Parsed(said, "the whole reply") if vqa.normalised(said) else UNPARSED


def mode_of(prompt: Callable[[Item], str], protocol: str) -> Mode:
    """Asked and counted like this."""
    return Mode(prompt=prompt, parse=parse, earn=lambda value, item: credit_of(value, item, protocol),
                protocol=protocol)  # fmt: skip


MODES = {
    "strict": mode_of(ending(ONE_WORD), STRICT),
    "plain": mode_of(as_it_stands, STRICT),
    "official": mode_of(as_it_stands, vqa.OFFICIAL),
    "lmms-eval": mode_of(ending(ONE_WORD), vqa.LMMS_VQAV2),
    "vlmevalkit": mode_of(ending(ONE_WORD), vqa.VLMEVALKIT),
}


def score(mode: Mode, items: list[Item], view: Any) -> list[Answer]:
    """credits: what the prediction earns, and whether the model has a label for the right answer. Answer.scores: the
    probability of each label, none of a model that answers in words. Ties share the credit of what they tie over."""
    if view.kind == "generate":
        return [replace(one, credits=(one.credits[0], 1.0)) for one in asking.answers_of(mode, items, view)]
    labels = view.labels
    found = []
    for item, values in zip(items, view.asked(items), strict=True):
        best = [labels[k] for k in np.flatnonzero(values == values.max())]
        credit = float(np.mean([credit_of(label, item) for label in best]))
        correct = None if len(best) > 1 else best[0] == item.answer
        found.append(Answer(values.tolist(), best[0], [credit, float(item.answer in labels)], correct))
    return found


def metrics(rows: list[dict], mode: Mode | None = None) -> dict:
    """Accuracy, beside that of one and the same answer to all (`majority`) and the share that could be answered
    (`answerable`); for all, and for each pattern. Of a model that answers in words, what was `unparsed`, too."""
    return with_patterns(rows, block)


def block(rows: list[dict]) -> dict:
    together = asking.clusters_of(rows)
    labels = len(rows[0]["scores"]) if rows else 0
    most = Counter(row["answer"] for row in rows).most_common(1)
    found = {
        "accuracy": clustered([row["credits"][0] for row in rows], together, 1 / labels if labels else 0.0),
        "answerable": clustered([row["credits"][1] for row in rows], together),
        "majority": clustered([row["answer"] == most[0][0] for row in rows], together),
    }
    if not labels:
        found["unparsed"] = clustered([row["prediction"] is None for row in rows], together)
    return found


VQA = asking.asked(
    about="questions about a picture, answered in words or with one of the model's answers",
    where="task == 'question'",
    make="omma scenes OUT",
    modes=MODES,
    items=items,
    score=score,
    metrics=metrics,
    tables=plain_tables("questions"),
    kinds=("answer", "generate"),
    credits=("accuracy", "answerable"),
    flip=asking.mirrored,
)
