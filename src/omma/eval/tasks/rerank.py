"""Rerank: retrieval by the two embeddings, before and after the fusion encoder looks at the first 32 of every query.

itc is the order of the embeddings, itm the one after the second look (models/rerank.py); queries, galleries and ties
are those of the task retrieval.
"""

import numpy as np

from omma.eval.metrics import candidates, recall_at_k, reranked
from omma.eval.task import Answer, Grid, Item, Task, plain_tables
from omma.eval.tasks import retrieval
from omma.eval.tasks.retrieval import KS, searches, told
from omma.models.rerank import CANDIDATES, rerank_scores


def score(queries: list[Item], view) -> list[Answer]:
    """As in retrieval; itm scores are those of `rerank_scores`, and inner products for what was not looked at again.

    Answer.credits has one number more: whether the first place was right before.
    """
    done = []
    for search in searches(queries, view):
        found = recall_at_k(search.vectors, search.gallery, search.right, KS, depth=CANDIDATES + 1)
        done.append((search, found, candidates(found, CANDIDATES)))
    before = {
        item.id: told(found, n, search.names) for search, found, _ in done for n, item in enumerate(search.asked)
    }
    answers = before
    if view.kind == "itm":
        pairs = [
            (search.asked[n].id, search.names[column]) if search.way == "i2t"
            else (search.names[column], search.asked[n].texts[0])
            for search, found, chosen in done
            for n, row in enumerate(chosen)
            for column in found.top[n, : len(row)][row]
        ]  # fmt: skip
        matched, answers = view.pairs(pairs), {}                           # both ways at once: a picture is opened once
        for search, found, chosen in done:
            first = found.top_scores[:, : chosen.shape[1]]
            after = np.zeros(chosen.shape)
            after[chosen] = rerank_scores(view.scorer.encoder, matched[: chosen.sum()], first[chosen])
            matched = matched[chosen.sum() :]
            again = reranked(found, chosen, after, search.right)
            answers |= {item.id: told(again, n, search.names) for n, item in enumerate(search.asked)}
    return [with_first(answers[item.id], before[item.id].credits[0]) for item in queries]


def with_first(answer: Answer, first: float) -> Answer:
    return Answer(answer.scores, answer.prediction, [*answer.credits, first], answer.correct, answer.top)


def metrics(rows: list[dict]) -> dict:
    """As in retrieval; gained, lost: queries whose first place was put right, or was right before."""
    out = retrieval.metrics([row | {"credits": row["credits"][:-1]} for row in rows])
    for way, block in out.items():
        change = [row["credits"][0] - row["credits"][-1] for row in rows if row["pattern"] == way]
        block |= {"gained": sum(max(x, 0.0) for x in change), "lost": sum(max(-x, 0.0) for x in change)}
    return out


def tables(kind: str, by_variant: dict[str, dict]) -> list[Grid]:
    return plain_tables(f"rerank, {'before' if kind == 'itc' else 'after'}")(kind, by_variant)


RERANK = Task(
    about="retrieval before and after the fusion encoder looks again at the first 32",
    table="pictures",
    where=None,
    make="omma ingest FOLDER OUT",
    kinds=("itc", "itm"),
    credits=(*(f"recall@{k}" for k in KS), "rank", "first_before"),
    headline={"itc": "t2i.recall@1", "itm": "t2i.recall@1"},
    items=retrieval.items,
    score=score,
    metrics=metrics,
    tables=tables,
)
