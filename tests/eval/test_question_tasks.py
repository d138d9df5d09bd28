"""Questions with several people's answers, and sentences about two pictures: scored by hand."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest

from omma.eval.tasks import nlvr2, vqa


def row(answers=(), answer: str | None = "red", **changes):
    return {"id": "q", "pattern": "", "pictures": ["p"], "options": None, "prompt": "which colour", "answer": answer,
            "group": None, "answers": list(answers)} | changes  # fmt: skip


def test_credit_is_the_mean_over_nine_of_ten_people():
    for n in range(11):
        people = ["red"] * n + [f"other {k}" for k in range(10 - n)]
        leave_one_out = [min(1.0, chosen.count("red") / 3) for chosen in itertools.combinations(people, 9)]
        (item,) = vqa.items([row(people)])
        assert vqa.credit_of("red", item) == pytest.approx(np.mean(leave_one_out))


def test_an_answer_is_the_most_likely_label_and_ties_share():
    view = SimpleNamespace(labels=("blue", "green", "red"), kind="answer")
    view.asked = lambda items: np.array([[0.1, 0.2, 0.9], [0.5, 0.1, 0.5], [0.9, 0.1, 0.0]], dtype=np.float32)
    asked = vqa.items([row(), row(), row(answer="mauve")])
    sure, torn, unknown = vqa.score(vqa.MODES["strict"], asked, view)
    assert (sure.prediction, list(sure.credits), sure.correct) == ("red", [1.0, 1.0], True)
    assert (list(torn.credits), torn.correct) == ([0.5, 1.0], None)
    assert (list(unknown.credits), unknown.correct) == ([0.0, 0.0], False)
    rows = [{"answer": i.answer, "credits": a.credits, "scores": a.scores, "pattern": "", "pictures": [k], "group": k}
            for k, i, a in zip("xyz", asked, (sure, torn, unknown), strict=True)]  # fmt: skip
    block = vqa.metrics(rows)
    assert block["accuracy"]["value"] == pytest.approx(0.5)
    assert block["accuracy"]["chance"] == pytest.approx(1 / 3)
    assert block["answerable"]["value"] == block["majority"]["value"] == pytest.approx(2 / 3)


def test_what_cannot_be_asked_is_named():
    assert [item.problem for item in vqa.items([row(pictures=[]), row(prompt=None), row(answer=None)])] == [
        "not_one_picture", "no_question", "no_answer"]  # fmt: skip
    two = {"pictures": ["a", "b"], "answer": "true"}
    assert [item.problem for item in nlvr2.items([row(**two), row(), row(**two | {"answer": "maybe"})])] == [
        "", "not_several_pictures", "no_true_or_false_answer"]  # fmt: skip


def test_a_sentence_is_understood_when_it_is_judged_right_of_every_pair():
    rows = [{"group": g, "correct": c, "scores": [s], "answer": a, "prediction": "true", "pattern": "",
             "score_kind": "compare", "pictures": [f"{g}a", f"{g}b"]}
            for g, c, s, a in (("x", True, 0.9, "true"), ("x", True, 0.2, "false"), ("y", True, 0.8, "true"),
                               ("y", False, 0.7, "false"))]  # fmt: skip
    mode = nlvr2.NLVR2.modes["strict"]
    block = nlvr2.metrics(rows, mode)
    assert block["accuracy"]["value"] == 0.75
    assert block["consistency"]["value"] == 0.5
    assert block["consistency"]["chance"] == 0.25
    said = ("true", "false", "true", None)                      # the last one could not be read
    told = [row | {"score_kind": "generate", "prediction": s, "pictures": [f"{n}a", f"{n}b"],
                   "credits": [float(s == row["answer"]), 0.5]}
            for n, (row, s) in enumerate(zip(rows, said, strict=True))]  # fmt: skip
    block = nlvr2.metrics(told, mode)
    assert (block["accuracy"]["value"], block["consistency"]["value"], block["unparsed"]["value"]) == (0.75, 0.5, 0.25)
    assert block["said_true"] == 0.5
