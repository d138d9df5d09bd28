"""Sentences about several boxes: the two numbers of the corpus by hand, and the file its own script reads."""

import pytest
from fakes import Constant, Oracle, make_world

from omma.eval.run import evaluate
from omma.eval.tasks.nlvr import items
from omma.eval.tasks.nlvr2 import block


def test_a_group_counts_only_when_all_its_pictures_are_right():
    rows = [
        {"correct": c, "group": g, "pictures": [g], "scores": [0.5], "answer": "true", "prediction": "true"}
        for g, marks in {"7": (True, True), "8": (True, False), "9": (False, False)}.items()
        for c in marks
    ]
    found = block(rows)
    assert found["accuracy"]["value"] == pytest.approx(3 / 6)
    assert found["consistency"]["value"] == pytest.approx(1 / 3)
    assert found["consistency"]["chance"] == pytest.approx(1 / 4)


def test_predictions_are_one_line_an_item_in_the_models_words(tmp_path):
    world = make_world(tmp_path / "world")
    report = evaluate(Oracle(), "nlvr", data=world)
    assert report.write_predictions(tmp_path / "said.csv") == report.metrics["items"]
    told = dict(line.split(",") for line in (tmp_path / "said.csv").read_text().splitlines())
    mine = [row for row in report.rows.to_pylist() if row["variant"] == "model"]
    assert told == {row["item"]: row["answer"] for row in mine}
    assert set(told.values()) == {"true", "false"}
    report = evaluate(Constant(), "nlvr", data=world)
    report.write_predictions(tmp_path / "said.csv")
    assert len({line.split(",")[1] for line in (tmp_path / "said.csv").read_text().splitlines()}) == 1


def test_an_item_without_a_picture_a_sentence_or_an_answer_says_so():
    row = {"id": "a", "pattern": None, "pictures": ["p"], "prompt": "x", "answer": "true", "group": "1"}
    changed = [row, row | {"pictures": []}, row | {"prompt": None}, row | {"answer": "maybe"}]
    assert [item.problem for item in items(changed)] == [
        "", "no_picture", "no_statement", "no_true_or_false_answer"]  # fmt: skip
