"""What every task that asks a VLM keeps, in each of its modes. A new one joins by its rows in fakes_vlm.ROWS_OF."""

import sys
from pathlib import Path

import pytest

from omma.eval.run import ROWS, TASKS, Report, evaluate
from omma.eval.task import IN_WORDS, VARIANTS, cells

sys.path.append(str(Path(__file__).parents[1] / "eval"))
from fakes_vlm import ANY_WORDS, ROWS_OF, Judge, Knows, Mumbles, Refuses, make_questions, rows_of

EVERY = pytest.mark.parametrize("task", [name for name, task in TASKS.items() if IN_WORDS & set(task.kinds)])


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    return {task: make_questions(tmp_path_factory.mktemp(task), task) for task in ROWS_OF}


def knowing(task, kind=Knows):
    return kind(rows_of(ROWS_OF[task]))


def graded(task, mode=None):
    """A judge, for a mode that has one."""
    modes = TASKS[task].modes
    return Judge() if modes[mode or next(iter(modes))].judge else None


def first(report, kind, variant="model"):
    return cells(report.metrics["scores"][kind][variant])[report.metrics["headline"][kind]["metric"]]


@EVERY
def test_who_knows_all_answers_has_all_right_in_every_mode_and_under_every_control(task, worlds):
    for mode in TASKS[task].modes:
        report = evaluate(knowing(task), task, data=worlds[task], reference=mode, judge=graded(task, mode))
        assert report.metrics["unscored"] == 0
        assert report.metrics["mode"] == mode
        for kind, scores in report.metrics["scores"].items():
            assert first(report, kind)["value"] == 1, mode
            assert scores["model"].get("unparsed", {"value": 0})["value"] == 0
            for control in set(scores) - set(VARIANTS):
                assert scores[control]["n"] > 0, control
                assert scores[control]["same"]["value"] == first(report, kind, control)["value"] == 1, control
            assert first(report, kind, "blind")["value"] < 1
            assert first(report, kind, "wrong-image")["value"] < 1


@EVERY
def test_what_cannot_be_read_is_unparsed_and_not_wrong(task, worlds):
    report = evaluate(knowing(task, Mumbles), task, data=worlds[task], judge=graded(task))
    rows = [row for row in report.rows.to_pylist() if row["score_kind"] == "generate"]
    if task in ANY_WORDS:
        assert {row["prediction"].strip(".").lower() for row in rows} == {"mhm"}
        return
    assert {row["unparsed"] for row in rows} == {True}
    assert {(row["prediction"], row["correct"], row["said"], row["rule"]) for row in rows} == {
        (None, None, "Mhm.", "none")}  # fmt: skip
    assert report.metrics["scores"]["generate"]["model"]["unparsed"]["value"] == 1
    assert first(report, "generate")["value"] == 0
    assert report.table()


@EVERY
def test_rows_hold_what_was_asked_and_said_and_survive_the_disk(task, worlds, tmp_path, capsys):
    model = knowing(task)
    report = evaluate(model, task, data=worlds[task], out=tmp_path, judge=graded(task))
    assert capsys.readouterr() == ("", "")
    rows = report.rows.to_pylist()
    assert report.rows.schema.equals(ROWS)
    assert len({(row["item"], row["variant"], row["score_kind"]) for row in rows}) == len(rows)
    assert all(row["prompt"].count(row["texts"][0]) == 1 and len(row["images"]) == len(row["pictures"]) for row in rows)
    assert all((row["said"] is None) == (row["score_kind"] == "first_token") for row in rows)
    assert len({row["images"][0] for row in rows if row["variant"] == "model"}) == 8
    assert len(model.asked) == len({(row["score_kind"], row["variant"] == "image-flip", *row["images"], row["prompt"])
                                    for row in rows})  # fmt: skip   each distinct question once
    again = Report.load(tmp_path)
    assert again.metrics == report.metrics
    assert again.rows.equals(report.rows)
    assert all(len(row) == len(grid.header) for grid in again.grids() for row in grid.rows)
    late = knowing(task)
    later = evaluate(late, task, data=worlds[task], out=tmp_path, batch_size=3, judge=graded(task))
    assert later.metrics["scores"] == report.metrics["scores"]
    assert late.asked == []                                                # everything was on disk


@EVERY
def test_bad_pictures_and_refused_questions_are_counted_under_their_reason(task, tmp_path):
    data = make_questions(tmp_path, task, broken=("p1",))
    report = evaluate(knowing(task, Refuses), task, data=data, judge=graded(task))
    refused = [row for row in report.rows.to_pylist() if row["score_kind"] == "generate" and row["variant"] == "model"]
    reasons = {row["pictures"][0]: row["unscored"] for row in refused}
    fine = {f"p{n}": None for n in (0, 2, 4, 5, 6, 7)}
    assert reasons == fine | {"p1": "picture_not_an_image", "p3": "model_refused"}
    assert all(row["correct"] is None for row in refused if row["unscored"])
    assert report.metrics["failures"] == {"model_refused": "a prompt of 9,000 tokens"}
    assert first(report, "generate")["value"] == 1
