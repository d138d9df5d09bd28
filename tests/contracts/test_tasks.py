"""What every task in TASKS keeps, whoever wrote it. A new task joins by its entry in the dict."""

import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from omma.eval.run import ROWS, TASKS, Report, evaluate
from omma.eval.task import IN_WORDS, VARIANTS, cells
from omma.table import Table

sys.path.append(str(Path(__file__).parents[1] / "eval"))
from fakes import Coin, Constant, Dual, Oracle, make_world

KINDS = {name: [kind for kind in task.kinds if kind not in IN_WORDS] for name, task in TASKS.items()}  # of an eye
LEARNS = {"linear-probe"}  # from the table's own pictures, of which this world has one a class: test_linear_probe.py
EVERY = pytest.mark.parametrize("task", [name for name, kinds in KINDS.items() if kinds and name not in LEARNS])


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("damaged"), broken=(0, 5), missing=(8,))


def first_numbers(report, variant="model"):
    return {
        kind: cells(report.metrics["scores"][kind][variant])[head["metric"]]
        for kind, head in report.metrics["headline"].items()
    }


def outcomes(report):
    """What a run decided, without what is about the run itself."""
    about_the_run = ["run_id", "model", "model_fingerprint", "task", "seed", "device", "batch_size", "mode"]
    rows = report.rows.drop_columns(about_the_run).to_pylist()
    return sorted(rows, key=lambda row: (row["item"], row["variant"], row["score_kind"]))


@EVERY
def test_an_oracle_gets_everything_right(task, world):
    report = evaluate(Oracle(), task, data=world)
    assert set(first_numbers(report)) == set(KINDS[task])
    for kind, cell in first_numbers(report).items():
        assert cell["value"] == 1.0, kind
    assert report.metrics["unscored"] == 0


@EVERY
def test_a_constant_scorer_sits_where_the_task_says(task, world):
    report = evaluate(Constant(), task, data=world)
    for kind, cell in first_numbers(report).items():
        stated = TASKS[task].indifferent
        assert cell["value"] == pytest.approx(cell["chance"] if stated is None else stated), kind


@EVERY
@pytest.mark.parametrize("eye", [Oracle, Coin])
def test_a_blind_model_sits_there_too_whatever_it_could_do_with_eyes(task, eye, world):
    report = evaluate(eye(), task, data=world)
    for kind, cell in first_numbers(report, "blind").items():
        stated = TASKS[task].indifferent
        assert cell["value"] == pytest.approx(cell["chance"] if stated is None else stated), kind


@EVERY
def test_an_oracle_shown_the_wrong_pictures_is_not_above_chance(task, world):
    report = evaluate(Oracle(), task, data=world)
    for kind, cell in first_numbers(report, "wrong-image").items():
        assert cell["n"] > 0
        assert not cell["above_chance"], kind
        assert cell["value"] <= cell["chance"] + 0.25, kind
    shown = [row for row in report.rows.to_pylist() if row["variant"] == "wrong-image"]
    assert all(not set(row["shown"]) & set(row["pictures"]) for row in shown)


@EVERY
def test_a_model_without_a_fusion_head_gets_itc_only(task, world):
    if "itc" not in KINDS[task]:
        with pytest.raises(ValueError, match="has no such method"):
            evaluate(Dual(), task, data=world)
        return
    report = evaluate(Dual(), task, data=world)
    assert list(report.metrics["scores"]) == ["itc"]
    assert set(report.rows["score_kind"].to_pylist()) == {"itc"}


@EVERY
def test_rows_are_items_times_variants_times_score_kinds(task, world, tmp_path):
    report = evaluate(Coin(), task, data=world, out=tmp_path)
    rows = pq.read_table(tmp_path / "rows.parquet")
    assert rows.schema.equals(ROWS)
    assert rows.num_rows == report.metrics["items"] * len(VARIANTS) * len(KINDS[task])
    keys = list(zip(*(rows[name].to_pylist() for name in ("item", "variant", "score_kind")), strict=True))
    assert len(set(keys)) == len(keys)
    assert set(rows["run_id"].to_pylist()) == {report.metrics["run_id"]}
    assert rows["scores"].null_count == rows["prediction"].null_count == 0
    assert {len(row) for row in rows["credits"].to_pylist()} == {len(TASKS[task].credits)}


@EVERY
def test_a_bad_picture_is_counted_under_its_reason_and_never_as_wrong(task, damaged):
    report = evaluate(Oracle(), task, data=damaged)
    m = report.metrics
    assert m["unscored"] > 0
    assert set(m["reasons"]) <= {"picture_missing", "picture_not_an_image", "picture_truncated", "picture_decode_error"}
    assert sum(m["reasons"].values()) == m["unscored"]
    for cell in first_numbers(report).values():
        assert cell["value"] == 1.0
    for row in report.rows.to_pylist():
        if row["unscored"]:
            assert (row["scores"], row["prediction"], row["correct"]) == (None, None, None)
    for by_variant in m["scores"].values():
        for counts in by_variant.values():
            assert counts["n"] + counts["unscored"] == m["items"]


@EVERY
@pytest.mark.parametrize("eye", [Oracle, Coin])
def test_batch_size_changes_nothing(task, eye, world):
    one, many = (evaluate(eye(), task, data=world, batch_size=size) for size in (1, 50))
    assert outcomes(one) == outcomes(many)
    assert one.metrics["scores"] == many.metrics["scores"]
    assert one.metrics["run_id"] == many.metrics["run_id"]


@EVERY
def test_the_order_of_the_rows_changes_nothing(task, world, tmp_path):
    straight = evaluate(Coin(), task, data=world)
    shuffled = evaluate(Coin(), task, data=make_world(tmp_path, order=3))
    assert outcomes(straight) == outcomes(shuffled)
    assert straight.metrics["scores"] == shuffled.metrics["scores"]


@EVERY
def test_each_distinct_picture_text_and_pair_is_asked_once(task, world):
    eye = Oracle()
    report = evaluate(eye, task, data=world)
    rows = report.rows.to_pylist()
    if "itc" not in KINDS[task]:  # a head that sees an item's pictures together
        assert (eye.images, eye.texts) == (0, 0)
        assert eye.pairs == len({(tuple(row["shown"]), *row["texts"]) for row in rows})
        return
    assert eye.images == len({name for row in rows for name in row["pictures"]}) + 1          # and the grey one
    assert eye.texts == len({text for row in rows for text in row["texts"]})
    assert len(eye.matched) == len(set(eye.matched))
    if TASKS[task].table == "items":                                       # a search asks about what it has found
        itm = [row for row in rows if row["score_kind"] == "itm"]
        assert eye.pairs == len({(name, text) for row in itm for name in row["shown"] for text in row["texts"]})


@EVERY
def test_another_seed_exchanges_other_pictures_and_leaves_the_model_alone(task, world):
    zero, one = (outcomes(evaluate(Coin(), task, data=world, seed=seed)) for seed in (0, 1))
    for variant, same in (("model", True), ("blind", True), ("wrong-image", False)):
        zeros, ones = ([row for row in rows if row["variant"] == variant] for rows in (zero, one))
        assert (zeros == ones) is same, variant


@EVERY
def test_a_limit_keeps_whole_groups_of_every_pattern_and_says_so(task, world):
    limit = 6 if task == "patterns" else 12                                # statements come four a group
    report = evaluate(Oracle(), task, data=world, limit=limit)
    whole = evaluate(Oracle(), task, data=world)
    assert report.metrics["items"] < whole.metrics["items"]
    assert f"limit={limit}" in report.metrics["sample"]
    assert {row["pattern"] for row in report.rows.to_pylist()} == {row["pattern"] for row in whole.rows.to_pylist()}
    for cell in first_numbers(report).values():
        assert cell["value"] == 1.0


@EVERY
def test_one_pair_of_pictures_has_no_wrong_image_control_and_says_why(task, tmp_path):
    report = evaluate(Oracle(), task, data=make_world(tmp_path, patterns=("text",), pairs=1))
    counts = report.metrics["scores"][KINDS[task][0]]["wrong-image"]
    if TASKS[task].table == "items":                                       # two pictures can be exchanged there
        assert counts["reasons"] == {"only_one_group": report.metrics["items"]}
        assert counts["n"] == 0
    assert report.table()                                                  # and it still prints


@EVERY
def test_a_report_survives_the_disk_and_prints_every_kind(task, world, tmp_path, capsys):
    report = evaluate(Coin(), task, data=world, out=tmp_path / "report")
    again = Report.load(tmp_path / "report")
    assert again.metrics == report.metrics
    assert again.rows.equals(report.rows)
    assert again.rows_path == tmp_path / "report" / "rows.parquet"
    assert capsys.readouterr() == ("", "")                                 # evaluate prints nothing itself
    for kind in KINDS[task]:
        assert any(f"({kind})" in grid.title for grid in again.grids())
    for grid in again.grids():
        assert all(len(row) == len(grid.header) for row in grid.rows)


@EVERY
def test_a_view_or_one_tables_path_stands_for_the_data(task, world):
    table = Table.open(world / TASKS[task].table)
    by_path = evaluate(Coin(), task, data=table.uri)
    tables = Table.open(world / "pictures"), Table.open(world / "items")
    for data in (table, tables, world):
        assert outcomes(evaluate(Coin(), task, data=data)) == outcomes(by_path)
    few = evaluate(Coin(), task, data=(tables[0], tables[1].select("pattern == 'text'"))).metrics["items"]
    assert few < by_path.metrics["items"] or TASKS[task].table == "pictures"
