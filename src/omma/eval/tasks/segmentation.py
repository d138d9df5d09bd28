"""Semantic segmentation: a class for every pixel; mean intersection over union, as on ADE20K (Zhou et al. 2017).

Intersections and unions are summed over all pictures before they are divided. Pixels without a class are left out.
"""

import numpy as np

from omma.decode import UNLABELLED
from omma.eval.metrics import estimate
from omma.eval.task import VARIANTS, Answer, Grid, Item, Task, plain_tables


def items(rows: list[dict]) -> list[Item]:
    """Pictures with a mask -> items."""
    return [
        Item(row["id"], row.get("group") or row["id"], "", (row["id"],), (), "", "" if row.get("mask") else "no_mask")
        for row in rows
    ]


def score(asked: list[Item], view) -> list[Answer]:
    """Answer.scores: of each class the pixels of the intersection, then of the model's area, then of the true one."""
    answers = []
    classes = len(view.segments)
    for _, said, true in view.areas(asked):
        counts = area_counts(said, true, classes)
        right, labelled = counts[:classes].sum(), counts[2 * classes :].sum()
        answers.append(Answer(counts.tolist(), "", [float(right / labelled) if labelled else 0.0], None))
    return answers


def area_counts(said: np.ndarray, true: np.ndarray, classes: int) -> np.ndarray:
    """(3 C,) pixels: intersection, said, true; of the labelled pixels. said, true: (h, w)."""
    known = true != UNLABELLED
    said, true = said[known].astype(np.int64), true[known].astype(np.int64)
    table = np.bincount(classes * true + said, minlength=classes**2).reshape(classes, classes)
    return np.concatenate([table.diagonal(), table.sum(axis=0), table.sum(axis=1)])


def metrics(rows: list[dict]) -> dict:
    """miou over the classes that occur, pixel accuracy, and the mean over pictures of their pixel accuracy.

    majority: pixel accuracy of saying the most frequent class everywhere. Pixels of one picture are alike, so the
    interval of `picture_accuracy` counts pictures, and miou has none.
    """
    if not rows:
        return {"picture_accuracy": estimate(0, 0), "miou": None, "pixel_accuracy": None, "majority": None}
    both, said, true = np.array([row["scores"] for row in rows], dtype=np.int64).sum(axis=0).reshape(3, -1)
    union = said + true - both
    occurs = true > 0
    return {
        "picture_accuracy": estimate(sum(row["credits"][0] for row in rows), len(rows), 1 / len(both)),
        "miou": float((both[occurs] / union[occurs]).mean()),
        "pixel_accuracy": float(both.sum() / true.sum()),
        "majority": float(true.max() / true.sum()),
        "classes": int(occurs.sum()),
        "iou": [float(b / u) if u else None for b, u in zip(both, union, strict=True)],
    }


def tables(kind: str, by_variant: dict[str, dict]) -> list[Grid]:
    """The shares that have an interval, then those that have none, and the classes one by one."""
    rows = [[name, *("–" if by_variant[v].get(name) is None else f"{100 * by_variant[v][name]:.1f}" for v in VARIANTS)]
            for name in ("miou", "pixel_accuracy", "majority")]  # fmt: skip
    note = "In per cent, over all pixels of all pictures. majority: the most frequent class everywhere."
    areas = Grid(f"areas ({kind})", ["", "model", "blind", "wrong image"], rows, note)
    return [*plain_tables("segmentation")(kind, by_variant), areas]


SEGMENTATION = Task(
    about="a class for every pixel: mean intersection over union",
    table="pictures",
    where=None,
    make="omma scenes OUT --masks",
    kinds=("segment",),
    credits=("pixel_accuracy",),
    headline={"segment": "picture_accuracy"},
    items=items,
    score=score,
    metrics=metrics,
    tables=tables,
    columns=("mask", "group"),
)
