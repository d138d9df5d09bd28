"""A caption beside one made false by a few words: SugarCrepe (Hsieh et al. 2023), ARO (Yuksekgonul et al. 2023).

The picture chooses between its true caption and the false one. A tie counts half, which is what a random choice would
earn; `ties` says how many there are, and `official` counts them as the published scripts do, as wrong. A false caption
that nobody would write is found without the picture: see the blind control. (Winoground, two pictures and two captions,
is asked by the task patterns.) ARO's orders of words have several false captions, the true one's words shuffled, beside
which it must stand first; of a tie it has its share, as where shuffling changes nothing.
"""

import numpy as np

from omma.eval.asking import clusters_of
from omma.eval.clusters import clustered
from omma.eval.protocols import hard_negatives
from omma.eval.task import Answer, Item, Task, group_of, plain_tables, with_patterns


def items(rows: list[dict]) -> list[Item]:
    """Rows -> items of one picture and its captions, the true one first."""
    found = []
    for row in rows:
        texts, shown = tuple(row["options"] or ()), tuple(row["pictures"] or ())
        problem = "two_captions_alike" if len(texts) == 2 and len(set(texts)) == 1 else ""
        if len(texts) < 2 or (len(texts) > 2 and row.get("task") != "aro") or len(shown) != 1:
            problem = "not_a_picture_and_two_captions"
        found.append(Item(row["id"], group_of(row), row["pattern"] or "", shown, texts, row["answer"] or "", problem))
    return found


def score(asked: list[Item], view) -> list[Answer]:
    """Answer.scores = [the true caption's, the false one's, ...]; prediction: the caption that was chosen."""
    answers = []
    for item, (scores,) in zip(asked, view.matrices(asked), strict=True):
        best = [place for place, value in enumerate(scores) if value == max(scores)]
        right = None if 0 in best and len(best) > 1 else best[0] == 0
        credit = 1 / len(best) if right is None else float(right)
        answers.append(Answer([float(value) for value in scores], item.texts[best[0]], [credit], right))
    return answers


def block(rows: list[dict]) -> dict:
    """accuracy with ties as halves, its interval by pictures, of which each has several captions; official: ties as
    wrong, ties: how many; of two captions alone."""
    chance = float(np.mean([1 / len(row["scores"]) for row in rows])) if rows else 0.5
    found = {"accuracy": clustered([row["credits"][0] for row in rows], clusters_of(rows), chance)}
    if any(len(row["scores"]) > 2 for row in rows):
        return found
    s = np.array([row["scores"] for row in rows], dtype=np.float64).reshape(len(rows), 2)
    told = hard_negatives.sugarcrepe(s[:, 0], s[:, 1], hard_negatives.OFFICIAL)
    return found | {"official": told["value"], "ties": told["ties"]}


def orders(rows: list[dict]) -> dict:
    """accuracy against all shuffled captions at once; official counts a tie as right, as the published arg max does,
    and strict as wrong."""
    s = np.array([row["scores"] for row in rows], dtype=np.float64)
    official = hard_negatives.aro_order(s, hard_negatives.OFFICIAL)
    return block(rows)["accuracy"] | {"official": official["value"], "strict": hard_negatives.aro_order(s)["value"],
                                      "ties": official["ties"]}  # fmt: skip


def metrics(rows: list[dict]) -> dict:
    """Of all items, and of each of SugarCrepe's seven kinds of edit. Of ARO's relations and attributions also `macro`,
    the published number, the mean over kinds; see protocols.hard_negatives.aro. Of its orders: see `orders`."""
    parts = {part: [row for row in rows if row["item"].startswith(f"{part}-")] for part in ("relation", "attribution")}
    shuffled: dict[str, list[dict]] = {}
    for row in rows:
        if len(row["scores"]) > 2:
            shuffled.setdefault(f"{row['item'].rpartition('-')[0]}_of_{len(row['scores'])}", []).append(row)
    of_aro = {row["item"] for mine in (*parts.values(), *shuffled.values()) for row in mine}
    edits = [row for row in rows if row["item"] not in of_aro]
    found = block(rows) | {"patterns": with_patterns(edits, block)["patterns"]}
    for part, mine in parts.items():
        if mine:
            s = np.array([row["scores"] for row in mine], dtype=np.float64)
            told = hard_negatives.aro(s[:, 0], s[:, 1], [row["pattern"] for row in mine], part == "attribution")
            more = {"macro": told["macro"], "kinds": len(told["kinds"]), "left_out": told["left_out"]}
            found[part] = block(mine)["accuracy"] | more | {"ties": told["ties"]}
    return found | {part: orders(mine) for part, mine in shuffled.items()}


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
