"""A caption beside one made false by a few words: SugarCrepe (Hsieh et al. 2023), ARO (Yuksekgonul et al. 2023).

The picture chooses between its true caption and the false one. A tie counts half, which is what a random choice would
earn; `ties` says how many there are, and `official` counts them as the published scripts do, as wrong. A false caption
that nobody would write is found without the picture: see the blind control. (Winoground, two pictures and two captions,
is asked by the task patterns.)
"""

import numpy as np

from omma.eval.asking import clusters_of
from omma.eval.clusters import clustered
from omma.eval.protocols import hard_negatives
from omma.eval.task import Answer, Item, Task, group_of, plain_tables, with_patterns


def items(rows: list[dict]) -> list[Item]:
    """Rows -> items of one picture and two captions, the true one first."""
    found = []
    for row in rows:
        texts, shown = tuple(row["options"] or ()), tuple(row["pictures"] or ())
        problem = "two_captions_alike" if len(texts) == 2 and len(set(texts)) == 1 else ""
        if len(texts) != 2 or len(shown) != 1:
            problem = "not_a_picture_and_two_captions"
        found.append(Item(row["id"], group_of(row), row["pattern"] or "", shown, texts, row["answer"] or "", problem))
    return found


def score(asked: list[Item], view) -> list[Answer]:
    """Answer.scores = [the true caption's, the false one's]; prediction: the caption that was chosen."""
    answers = []
    for item, ((true, false),) in zip(asked, view.matrices(asked), strict=True):
        right = None if true == false else bool(true > false)
        credit = 0.5 if right is None else float(right)
        answers.append(Answer([float(true), float(false)], item.texts[int(false > true)], [credit], right))
    return answers


def block(rows: list[dict]) -> dict:
    """accuracy with ties as halves, its interval by pictures, of which each has several captions; official: ties as
    wrong, ties: how many."""
    s = np.array([row["scores"] for row in rows], dtype=np.float64).reshape(len(rows), 2)
    told = hard_negatives.sugarcrepe(s[:, 0], s[:, 1], hard_negatives.OFFICIAL)
    return {
        "accuracy": clustered([row["credits"][0] for row in rows], clusters_of(rows), 0.5),
        "official": told["value"],
        "ties": told["ties"],
    }


def metrics(rows: list[dict]) -> dict:
    """Of all items, and of each of SugarCrepe's seven kinds of edit. Of ARO's relations and attributions also `macro`,
    the published number, the mean over kinds; see protocols.hard_negatives.aro."""
    parts = {part: [row for row in rows if row["item"].startswith(f"{part}-")] for part in ("relation", "attribution")}
    of_aro = {row["item"] for mine in parts.values() for row in mine}
    found = with_patterns([row for row in rows if row["item"] not in of_aro], block) | block(rows)
    for part, mine in parts.items():
        if mine:
            s = np.array([row["scores"] for row in mine], dtype=np.float64)
            told = hard_negatives.aro(s[:, 0], s[:, 1], [row["pattern"] for row in mine], part == "attribution")
            more = {"macro": told["macro"], "kinds": len(told["kinds"]), "left_out": told["left_out"]}
            found[part] = block(mine)["accuracy"] | more | {"ties": told["ties"]}
    return found


HARD_NEGATIVES = Task(
    about="a true caption beside one with a few words changed (SugarCrepe, ARO)",
    table="items",
    where="task in ['sugarcrepe', 'aro']",
    make="omma ingest-items FOLDER OUT --format sugarcrepe (docs/benchmarks.md)",
    kinds=("itc", "itm"),
    credits=("accuracy",),
    headline={"itc": "accuracy", "itm": "accuracy"},
    items=items,
    score=score,
    metrics=metrics,
    tables=plain_tables("hard negatives"),
)
