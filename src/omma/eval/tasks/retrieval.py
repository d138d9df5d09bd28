"""Retrieval: each picture finds its captions, each caption its pictures (recall@1/5/10; Karpathy and Fei-Fei 2015).

i2t is a hit if ANY of the picture's captions is among the first k; t2i if the picture is. Captions are taken once each:
one that stands beside several pictures is right for all of them. Ties get their expected hit (metrics.recall_at_k).
"""

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from omma.eval.asking import clusters_of
from omma.eval.clusters import clustered
from omma.eval.metrics import DEPTH, Recall, recall_at_k, recall_by_chance
from omma.eval.task import Answer, Item, Task, plain_tables

KS = (1, 5, 10)


def items(rows: list[dict]) -> list[Item]:
    """Pictures with captions -> one i2t query a picture and one t2i query a distinct caption."""
    owners: dict[str, list[str]] = {}
    queries = []
    for row in rows:
        texts = tuple(dict.fromkeys(c["text"] for c in row["captions"] or [] if c["text"] and c["text"].strip()))
        for text in texts:
            owners.setdefault(text, []).append(row["id"])
        problem = "" if texts else "no_captions"
        queries.append(Item(row["id"], row["id"], "i2t", (row["id"],), texts, texts[0] if texts else "", problem))
    for text, names in owners.items():
        name = "caption-" + hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
        queries.append(Item(name, min(names), "t2i", tuple(sorted(names)), (text,), min(names)))
    return queries


def score(queries: list[Item], view) -> list[Answer]:
    """Answer.scores = [the best right score, the best score]; prediction: a caption (i2t) or a picture id (t2i)."""
    answers: dict[str, Answer] = {}
    for search in searches(queries, view):
        found = recall_at_k(search.vectors, search.gallery, search.right, KS)
        answers |= {item.id: told(found, n, search.names) for n, item in enumerate(search.asked)}
    return [answers[item.id] for item in queries]


class Search(NamedTuple):
    """All queries of one way. vectors: (Q, E); gallery: (M, E), named by `names`; right: each query's right rows."""

    way: str
    asked: list[Item]
    vectors: np.ndarray
    gallery: np.ndarray
    names: list[str]
    right: list[list[int]]


def searches(queries: list[Item], view) -> Iterator[Search]:
    """The two ways, each with its gallery: all captions of the queries, or all their pictures."""
    # galleries in the order of names, so that the rows of a table can come in any order
    pictures = sorted({name for item in queries for name in item.pictures})
    texts = sorted({text for item in queries for text in item.texts})
    for way, names, gallery in (("i2t", texts, view.texts(texts)), ("t2i", pictures, view.images(pictures))):
        asked = [item for item in queries if item.pattern == way]
        if asked:
            place = {name: n for n, name in enumerate(names)}
            right = [[place[name] for name in (item.texts if way == "i2t" else item.pictures)] for item in asked]
            ids = [item.id if way == "i2t" else item.texts[0] for item in asked]
            yield Search(way, asked, view.images(ids) if way == "i2t" else view.texts(ids), gallery, names, right)


def told(found: Recall, n: int, names: list[str]) -> Answer:
    """What query n found."""
    hit = found.hits[n, 0]
    return Answer(
        scores=[float(found.right_score[n]), float(found.top_scores[n, 0])],
        prediction=names[found.top[n, 0]],
        credits=[*found.hits[n].tolist(), float(found.rank[n])],
        correct=bool(hit) if hit in (0, 1) else None,
        top=[names[column] for column in found.top[n, :DEPTH]],
    )


def metrics(rows: list[dict]) -> dict:
    """recall@k both ways; median_rank: expected place of the first right answer; ties: first places left to chance.

    Captions of one picture find it or miss it together, so the interval counts pictures.
    """
    out: dict = {}
    for way, column_of_gallery in (("i2t", "texts"), ("t2i", "pictures")):
        mine = sorted((row for row in rows if row["pattern"] == way), key=lambda row: row["item"])
        gallery = len({name for row in rows for name in row[column_of_gallery]})
        relevant = [len(row[column_of_gallery]) for row in mine]
        together = clusters_of(mine)
        out[way] = {"gallery": gallery}
        for column, k in enumerate(KS):
            chance = recall_by_chance(relevant, gallery, k) if mine else None
            out[way][f"recall@{k}"] = clustered([row["credits"][column] for row in mine], together, chance)
        out[way]["median_rank"] = float(np.median([row["credits"][-1] for row in mine])) if mine else None
        out[way]["ties"] = sum(row["correct"] is None for row in mine)
    return out


RETRIEVAL = Task(
    about="each picture finds its captions and each caption its pictures",
    table="pictures",
    where=None,
    make="omma ingest FOLDER OUT",
    kinds=("itc",),
    credits=(*(f"recall@{k}" for k in KS), "rank"),
    headline={"itc": "t2i.recall@1"},
    items=items,
    score=score,
    metrics=metrics,
    tables=plain_tables("retrieval"),
)
