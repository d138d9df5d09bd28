"""Linear probe: how much of a class a linear classifier reads out of an eye's frozen vectors (Radford et al. 2021).

The classes are those of a column, as in `classify`, and no text is read, so an eye without a text encoder can be asked.
Where the table has pictures of a split "train" and others, the classifier is fitted on those and measured on the
others; else each fifth of the pictures is told by a classifier fitted on the other four. Pictures of one group (a
minimal pair) stay together. In the controls it is fitted on grey, or on strangers' pictures, too.

The classifier is a multinomial logistic regression on the vectors, each dimension at mean 0 and variance 1, with the
penalty that does best on a fifth of what it may be fitted on. A class of one group of pictures can only be missed.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from omma.eval.metrics import order_key
from omma.eval.task import VARIANTS, Answer, Grid, Item, Task
from omma.eval.tasks import classify

FOLDS = 5
PENALTIES = (1.0, 1e-1, 1e-2, 1e-3, 1e-4)  # of half the squared weights, beside the mean loss of a picture
STEPS = 200  # of L-BFGS at most
TRAIN = "train"
FITTED = "fitted_on"  # why a picture of the split train isn't scored
KS = classify.KS


def task_for(table: Any, label: str = classify.LABEL) -> Task:
    """The task whose classes are the values of a column of this table or view. ValueError as of classify.task_for."""
    named = classify.task_for(table, label)
    columns = (batch.column(0) for batch in table.scan(columns=[label], where=named.where))
    classes = sorted({str(value) for column in columns for value in column.to_pylist()})
    return replace(
        LINEAR_PROBE,
        where=named.where,
        items=partial(items, label),
        score=partial(score, classes),
        metrics=partial(classify.metrics, len(classes)),
        columns=(label, "split", "group"),
    )


def items(label: str, rows: list[dict]) -> list[Item]:
    """Pictures with a label -> items."""
    return [Item(row["id"], row.get("group") or row["id"], "", (row["id"],), (), str(row[label]),
                 extra={"split": row.get("split")}) for row in rows]  # fmt: skip


def score(classes: Sequence[str], asked: list[Item], view: Any) -> list[Answer]:
    """Answer.scores = [the right class's probability, the largest]; top: the five likeliest classes."""
    if not asked:
        return []
    x = np.asarray(view.images([item.pictures[0] for item in asked]), np.float64)
    place = {name: n for n, name in enumerate(classes)}
    y = np.array([place[item.answer] for item in asked])
    fold = folds(asked)
    answers: list[Answer] = [Answer((), None, (0.0,) * len(KS), None, problem=FITTED)] * len(asked)
    told = sorted(set(fold.tolist()) - {-1})
    fits = len(told) * (len(PENALTIES) + 1)
    for number, test in enumerate(told):
        begun = number * (len(PENALTIES) + 1)
        view.tick("classifiers", begun, fits)
        there, fitted = np.flatnonzero(fold == test), np.flatnonzero(fold != test)
        inner = folds([asked[n] for n in fitted], splits=False)
        weights, bias = fitted_probe(x[fitted], y[fitted], inner == 0, len(classes),
                                     lambda done, begun=begun: view.tick("classifiers", begun + done, fits))
        view.tick("classifiers", begun + len(PENALTIES) + 1, fits)
        for n, values in zip(there.tolist(), softmax(x[there] @ weights + bias), strict=True):
            answers[n] = classify.by_head(asked[n], values, classes)
    return answers


def folds(asked: Sequence[Item], splits: bool = True) -> np.ndarray:
    """(n,) the fold that each item is told in, -1 for those that are only fitted on (the split train, where there are
    others; splits=False looks at no splits). Groups stay whole, and classes are spread over the folds."""
    fitted = [item.extra.get("split") == TRAIN for item in asked]
    if splits and any(fitted) and not all(fitted):
        return np.where(fitted, -1, 0)
    first: dict[str, str] = {}
    for item in sorted(asked, key=lambda item: item.id):
        first.setdefault(item.group, item.answer)
    dealt = sorted(first, key=lambda group: (first[group], order_key(0, group)))
    place = {group: n % FOLDS for n, group in enumerate(dealt)}
    return np.array([place[item.group] for item in asked])


# ------------------------------------------------------------------------------------------------ the classifier
def fitted_probe(
    x: np.ndarray, y: np.ndarray, held: np.ndarray, classes: int, tick: Callable[[int], None] = lambda done: None
) -> tuple[np.ndarray, np.ndarray]:
    """(weights (E, C), bias (C,)) for raw vectors; x: (n, E), y: (n,); held: (n,) bool, what chooses the penalty.

    Of penalties that do equally well the largest is taken. tick: called with the number of classifiers fitted so far,
    of one more than there are penalties.
    """
    mean, spread = x.mean(axis=0), x.std(axis=0)
    scale = np.where(spread > 1e-12, 1 / np.maximum(spread, 1e-12), 0.0)    # what never varies tells nothing
    z = (x - mean) * scale
    best, most = PENALTIES[0], -1
    if held.any() and not held.all():
        start = None
        for number, penalty in enumerate(PENALTIES):
            tick(number)
            start = regression(z[~held], y[~held], classes, penalty, start)
            right = int(((z[held] @ start[0] + start[1]).argmax(axis=1) == y[held]).sum())
            best, most = (penalty, right) if right > most else (best, most)
    weights, bias = regression(z, y, classes, best)
    weights = weights * scale[:, None]
    return weights, bias - mean @ weights


def regression(
    x: np.ndarray, y: np.ndarray, classes: int, penalty: float, start: tuple[np.ndarray, np.ndarray] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(weights, bias) that make mean cross-entropy + penalty / 2 * |weights|^2 the smallest, by L-BFGS in fp64."""
    import torch  # the one part of a task that learns

    features, labels = torch.from_numpy(np.ascontiguousarray(x)), torch.from_numpy(y)
    begin = start or (np.zeros((x.shape[1], classes)), np.zeros(classes))
    weights, bias = (torch.tensor(part, requires_grad=True) for part in begin)
    solver = torch.optim.LBFGS([weights, bias], max_iter=STEPS, tolerance_grad=1e-6, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        solver.zero_grad()
        value = torch.nn.functional.cross_entropy(features @ weights + bias, labels)
        value = value + penalty / 2 * weights.square().sum()
        value.backward()
        return value

    solver.step(loss)  # pyright: ignore[reportArgumentType]
    return weights.detach().numpy(), bias.detach().numpy()


def softmax(scores: np.ndarray) -> np.ndarray:
    e = np.exp(scores - scores.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def tables(kind: str, by_variant: dict[str, dict]) -> list[Grid]:
    first, *others = classify.tables(kind, by_variant)
    fitted = by_variant[VARIANTS[0]]["reasons"].get(FITTED, 0)
    how = f"Fitted on {fitted} pictures of the split {TRAIN}." if fitted else (
        f"Each fifth of the pictures told by a classifier fitted on the others ({FOLDS} folds).")  # fmt: skip
    return [Grid(f"linear probe ({kind})", first.header, first.rows, f"{first.note} {how}"), *others]


LINEAR_PROBE = Task(  # without classes yet; `task_for` fills them in
    about="a picture's class, read out of an eye's frozen vectors by a linear classifier",
    table="pictures",
    where=None,
    make="omma scenes OUT",
    kinds=("itc",),
    credits=tuple(f"top{k}" for k in KS),
    headline={"itc": "top1"},
    items=partial(items, classify.LABEL),
    score=partial(score, ()),
    metrics=partial(classify.metrics, 0),
    tables=tables,
    made_for=task_for,
    takes=("label",),
)
