"""A person takes the test: one picture at a time, in a random order, scored like a model.

    number = begin(store, questions(entries), "carla", seed=0)
    while (place := next_place(store, number)) is not None: reply(store, number, place, "yes", seconds=2.1)
    report = result(store, number)                                 # a Report: pair accuracy with its interval

Answers stand once given, and nothing says whether they were right before the end, as with a model. A test that was
broken off goes on where it stopped.
"""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from omma.eval.annotate.benchmark import Question
from omma.eval.annotate.store import Store, person
from omma.eval.metrics import order_key
from omma.eval.run import ROWS, TASKS, Report
from omma.eval.task import VARIANTS

TASK, KIND = "mmvp", "person"  # a model's run of the task mmvp is its counterpart
GUESS = 0.5  # what a coin earns


def begin(store: Store, asked: Sequence[Question], name: str, seed: int = 0) -> int:
    """The number of a test of these questions, in an order drawn by the seed; an unfinished one of this person, with
    the same questions and seed, is gone on with. Raises ValueError when there is nothing to ask."""
    if not asked:
        raise ValueError("no pair can be asked about yet; annotate some first")
    name = person(name)
    order = sorted(asked, key=lambda question: order_key(seed, question.id))
    frozen = json.dumps([dataclasses.asdict(question) for question in order])
    for test in reversed(store.tests()):
        if (test["person"], test["seed"], test["questions"]) == (name, seed, frozen) and test["answered"] < len(order):
            return test["id"]
    return store.add_test(name, seed, frozen)


def find(store: Store, number: int) -> tuple[dict[str, Any], list[Question]]:
    """A test and its questions in their order. ValueError when there is none of this number."""
    for test in store.tests():
        if test["id"] == number:
            rows = json.loads(test["questions"])
            return test, [Question(**row | {"options": tuple(row["options"])}) for row in rows]
    raise ValueError(f"there is no test {number}; begin one")


def next_place(store: Store, number: int) -> int | None:
    """The place of the next question, from 0; None when all were answered."""
    test, asked = find(store, number)
    return test["answered"] if test["answered"] < len(asked) else None


def reply(store: Store, number: int, place: int, said: str, seconds: float = 0.0) -> None:
    """Keep the answer to the next question. ValueError for another place, and for what is no option of it."""
    test, asked = find(store, number)
    if place != test["answered"] or place >= len(asked):
        raise ValueError(f"question {place + 1} is not the next one of test {number}; {test['answered']} of "
                         f"{len(asked)} are answered, and answers stand")  # fmt: skip
    if said not in asked[place].options:
        raise ValueError(f"{said!r} is no option; there are {' and '.join(asked[place].options)}")
    store.add_reply(number, place, said, seconds)


def result(store: Store, number: int) -> Report:
    """The report of a finished test, as a model's run of the task mmvp: one row a question, and the task's own numbers.

    metrics["scores"]["person"]["model"] has them, with seconds (the median a question) and wrote (questions that this
    person had written: those say little). A person has no controls. Raises ValueError for a test that isn't finished.
    """
    test, order = find(store, number)
    replies = store.replies(number)
    if len(replies) < len(order):
        raise ValueError(f"test {number} of {test['person']} has {len(replies)} of {len(order)} answers; finish it")
    facts = {
        "run_id": hashlib.blake2b(repr((number, test)).encode(), digest_size=6).hexdigest(),
        "model": test["person"], "model_fingerprint": "", "task": TASK, "seed": test["seed"], "device": KIND,
        "batch_size": 1,
    }  # fmt: skip
    rows = [
        facts | {
            "item": question.id, "group": question.group, "pattern": question.pattern, "variant": "model",
            "score_kind": KIND, "pictures": [question.picture], "shown": [question.picture],
            "texts": [question.prompt, *question.options], "scores": [], "prediction": said["said"],
            "answer": question.answer, "correct": said["said"] == question.answer,
            "credits": [float(said["said"] == question.answer), GUESS], "top": [], "unscored": None,
            "prompt": question.prompt, "said": said["said"], "unparsed": False,
        }
        for question, said in sorted(zip(order, replies, strict=True), key=lambda pair: pair[0].id)
    ]  # fmt: skip
    own = {key for key, said in store.of(test["person"]).items() if said.started}
    nothing: dict[str, Any] = {"n": 0, "unscored": 0, "reasons": {}}
    scores: dict[str, Any] = nothing | {"n": len(rows)} | TASKS[TASK].metrics(rows)
    scores |= {
        "seconds": sorted(said["seconds"] for said in replies)[len(replies) // 2],
        "wrote": sum(row["group"] in own for row in rows),
    }
    metrics = {
        **facts, "data": str(store.path), "where": None, "languages": [], "limit": None,
        "sample": "every question, in a random order", "items": len(rows), "unscored": 0, "reasons": {},
        "credits": list(TASKS[TASK].credits), "headline": {KIND: {"metric": "pairs", **scores["pairs"]}},
        "scores": {KIND: {"model": scores, **dict.fromkeys(VARIANTS[1:], nothing)}},
    }  # fmt: skip
    return Report(metrics, pa.Table.from_pylist(rows, schema=ROWS))
