"""What evaluate accepts, counts and refuses; what all tasks share is in test_tasks.py."""

import json

import numpy as np
import pytest
from fakes import Coin, Constant, Oracle, make_world, png
from rich.console import Console

from omma.eval.metrics import score_pairs
from omma.eval.run import TASKS, Report, evaluate
from omma.eval.task import IN_WORDS, Item, derangement, sample
from omma.table import Table


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"))


def test_an_unknown_task_names_the_tasks_and_how_to_add_one(world):
    with pytest.raises(ValueError, match=r"no task 'patern'; there are retrieval: .*patterns: .*docs/add-a-task\.md"):
        evaluate(Oracle(), "patern", data=world)


def test_data_without_the_table_a_task_reads_says_how_to_make_it(world, tmp_path):
    with pytest.raises(ValueError, match=r"reads a table of items.*omma scenes OUT"):
        evaluate(Oracle(), "patterns", data=world / "pictures")
    with pytest.raises(ValueError, match="no table at"):
        evaluate(Oracle(), "patterns", data=tmp_path)
    pictures, items = Table.open(world / "pictures"), Table.open(world / "items")
    with pytest.raises(ValueError, match="no rows for task 'patterns'"):
        evaluate(Oracle(), "patterns", data=(pictures, items.select("task == 'statement'")))
    with pytest.raises(ValueError, match="limit=0"):
        evaluate(Oracle(), "patterns", data=world, limit=0)
    with pytest.raises(ValueError, match="batch_size=0"):
        evaluate(Oracle(), "patterns", data=world, batch_size=0)


def test_a_name_is_loaded_and_an_encoder_is_used_as_it_is(world, monkeypatch):
    import omma.models.pretrained as pretrained

    asked = []
    monkeypatch.setattr(pretrained, "load_encoder", lambda name, device: asked.append((name, device)) or Oracle())
    assert evaluate("runs/vl", "patterns", data=world, device="cpu").metrics["model"] == "oracle"
    assert asked == [("runs/vl", "cpu")]


# -------------------------------------------------------------------------------------------------- the controls
def test_a_derangement_moves_every_picture_to_another_group_and_is_one_to_one():
    items = [Item(f"i{g}", f"g{g}", "", (f"g{g}p0", f"g{g}p1"), (), "") for g in range(7)]
    for seed in range(5):
        exchange = derangement(items, seed)
        assert sorted(exchange) == sorted(exchange.values()) == sorted(p for item in items for p in item.pictures)
        for old, new in exchange.items():
            assert old[:2] != new[:2]
        assert all(len({exchange[picture][:2] for picture in item.pictures}) == 1 for item in items)  # pairs stay pairs
    assert derangement(items, 0) != derangement(items, 1)
    assert derangement(items[::-1], 0) == derangement(items, 0)
    assert derangement(items[:1], 0) == {}


def test_the_wrong_image_of_a_first_picture_is_as_often_a_second_one():
    items = [Item(f"i{g}-{k}", f"g{g}", "", (f"g{g}p{k}",), (), "") for g in range(200) for k in range(2)]
    kept = sum(old[-1] == new[-1] for old, new in derangement(items, 0).items())
    assert 145 <= kept <= 255                                              # of 400; 4 standard deviations of pairs


def test_wrong_pictures_give_nobody_a_first_picture_s_answer_back():
    """A model that sees which of its pair a picture is: with every first answer "a", it must be at chance."""
    items = [Item(f"i{g}-{k}", f"g{g}", "", (f"g{g}p{k}",), (), "ab"[k]) for g in range(200) for k in range(2)]
    exchange = derangement(items, 3)
    right = sum("ab"[int(exchange[item.pictures[0]][-1])] == item.answer for item in items)
    assert 145 <= right <= 255


def test_groups_of_unequal_size_are_exchanged_too():
    items = [Item(f"i{g}", f"g{g}", "", tuple(f"g{g}p{n}" for n in range(1 + g % 3)), (), "") for g in range(6)]
    assert all(old[:2] != new[:2] for old, new in derangement(items, 0).items())


def test_blind_rows_show_the_grey_picture_and_wrong_image_rows_another_groups(world):
    for row in evaluate(Oracle(), "patterns", data=world).rows.to_pylist():
        if row["variant"] == "blind":
            assert row["shown"] == ["grey", "grey"]
        elif row["variant"] == "wrong-image":
            assert not set(row["shown"]) & set(row["pictures"])
        else:
            assert row["shown"] == row["pictures"]


def test_blind_ties_everywhere_and_the_report_counts_it(world):
    m = evaluate(Coin(), "patterns", data=world).metrics
    for kind in ("itc", "itm"):
        assert m["scores"][kind]["blind"]["ties"] == 2 * m["items"]
        assert m["scores"][kind]["blind"]["image"]["value"] == 0
        assert m["scores"][kind]["blind"]["item"]["value"] == 0.5
        assert m["scores"][kind]["model"]["ties"] == 0


# -------------------------------------------------------------------------------------------------- sampling
def test_a_larger_limit_adds_to_a_smaller_ones_rows():
    rows = [{"id": f"r{n}", "pattern": "abc"[n % 3], "group": f"g{n // 6}-{n % 3}"} for n in range(60)]
    few, many = (sample(rows, limit, 0) for limit in (6, 12))
    assert [row["id"] for row in few] == [row["id"] for row in many if row in few]
    assert [sum(row["pattern"] == p for row in many) for p in "abc"] == [4, 4, 4]
    assert sample(rows[::-1], 12, 0) == many[::-1]
    assert sample(rows, None, 0) == rows
    assert sample(rows, 1, 0) == [row for row in rows if row["group"] == sample(rows, 1, 0)[0]["group"]]


# -------------------------------------------------------------------------------------------------- what is counted
def test_the_pattern_table_is_the_arithmetic_of_its_rows(world):
    report = evaluate(Coin(), "patterns", data=world)
    for kind in ("itc", "itm"):
        rows = [r for r in report.rows.to_pylist() if r["variant"] == "model" and r["score_kind"] == kind]
        got = score_pairs(np.array([row["scores"] for row in rows]).reshape(-1, 2, 2))
        block = report.metrics["scores"][kind]["model"]
        assert [block[name]["right"] for name in ("image", "text", "group")] == [
            got.image.sum(), got.text.sum(), got.group.sum(),
        ]  # fmt: skip
        assert sum(b["image"]["right"] for b in block["patterns"].values()) == got.image.sum()
        shares = [pattern["image"]["value"] for pattern in block["patterns"].values()]
        assert block["mean"]["image"] == pytest.approx(np.mean(shares))
        assert list(block["patterns"]) == ["position", "colour", "text"]   # the fixed order of the nine
        assert all(b["p_holm"] >= b["p"] for b in block["patterns"].values())


def test_statement_scores_follow_from_their_rows(world):
    report = evaluate(Coin(), "statements", data=world)
    rows = [r for r in report.rows.to_pylist() if r["variant"] == "model" and r["score_kind"] == "itc"]
    median = np.median([row["scores"][0] for row in rows])
    right = sum((row["scores"][0] > median) == (row["answer"] == "true") for row in rows)
    block = report.metrics["scores"]["itc"]["model"]
    assert block["accuracy_at_median"]["right"] == right
    assert "accuracy" not in block
    assert block["pairwise"]["n"] == 12                                     # groups
    assert block["consistency_at_median"]["chance"] == 1 / 16               # four statements a group
    itm = report.metrics["scores"]["itm"]["model"]
    rows = [r for r in report.rows.to_pylist() if r["variant"] == "model" and r["score_kind"] == "itm"]
    assert itm["accuracy"]["right"] == sum((r["scores"][0] > 0.5) == (r["answer"] == "true") for r in rows)


def test_a_caption_of_two_pictures_is_right_for_both(tmp_path):
    table = Table.create(tmp_path / "pictures")
    caption = lambda n: {"text": f"number {n}", "language": "en"}
    rows = [{"id": f"p{n}", "bytes": png(n), "captions": [caption(n)]} for n in range(4)]
    rows.append({"id": "twin", "bytes": png(2), "captions": [caption(2), caption(2)]})
    table.append([*rows, {"id": "silent", "bytes": png(9), "captions": None}])
    report = evaluate(Oracle(), "retrieval", data=table)
    both = report.metrics["scores"]["itc"]["model"]
    assert (both["t2i"]["recall@1"]["value"], both["i2t"]["recall@1"]["value"]) == (1.0, 1.0)
    assert (both["t2i"]["recall@1"]["n"], both["i2t"]["recall@1"]["n"]) == (4, 5)
    assert both["t2i"]["recall@1"]["chance"] == pytest.approx((3 * 1 / 5 + 2 / 5) / 4)
    assert report.metrics["reasons"] == {"no_captions": 1}


def test_an_item_that_makes_no_sense_is_counted_with_its_reason(tmp_path):
    folder = make_world(tmp_path, patterns=("text",), pairs=2)
    items = Table.open(folder / "items")
    items.append(
        [
            {"id": "x1", "task": "pairs", "pictures": ["p0"], "options": ["shows 0", "shows 1"]},
            {"id": "x2", "task": "statement", "pictures": ["p0"], "prompt": "shows 0", "answer": "perhaps"},
            {"id": "x3", "task": "statement", "pictures": ["p0", "p1"], "prompt": "shows 0", "answer": "true"},
            {"id": "x4", "task": "statement", "pictures": ["p0"], "prompt": None, "answer": "true"},
        ]
    )
    assert evaluate(Oracle(), "patterns", data=folder).metrics["reasons"] == {"not_two_pictures_and_two_statements": 1}
    assert evaluate(Oracle(), "statements", data=folder).metrics["reasons"] == {
        "no_statement": 1,
        "no_true_or_false_answer": 1,
        "not_one_picture": 1,
    }


class Broken(Oracle):
    """Gives no number for picture 3, for texts about 5, and for the two together of 0."""

    def encode_image(self, images, batch_size=64):
        out = super().encode_image(images)
        out[[image.getpixel((0, 0)) == (3, 0, 7) for image in images]] = np.nan
        return out

    def encode_text(self, texts, batch_size=64):
        out = super().encode_text(texts)
        out[[text.endswith(" 5") for text in texts]] = np.inf
        return out

    def look(self, image, text):
        zero = text.endswith(" 0") and image.getpixel((0, 0)) == (0, 0, 7)
        return float("nan") if zero else super().look(image, text)


def test_a_score_that_is_not_finite_is_unscored_and_not_wrong(world):
    m = evaluate(Broken(), "patterns", data=world).metrics
    assert m["reasons"] == {"picture_not_finite": 1, "text_not_finite": 1}
    assert m["scores"]["itc"]["model"]["reasons"] == m["reasons"]
    assert m["scores"]["itm"]["model"]["reasons"] == {**m["reasons"], "not_finite": 1}
    for kind in ("itc", "itm"):
        assert m["scores"][kind]["model"]["image"]["value"] == 1.0


def test_a_picture_whose_status_is_bad_is_not_even_opened(tmp_path):
    table = Table.create(tmp_path / "pictures")
    row = {"captions": [{"text": "number 1", "language": "en"}]}
    table.append(
        [
            {**row, "id": "a", "bytes": png(1)},
            {**row, "id": "b", "bytes": png(1), "status": "optout"},
            {**row, "id": "c", "uri": "not-there.png"},
        ]
    )
    reasons = evaluate(Oracle(), "retrieval", data=table).metrics["reasons"]
    assert {"picture_optout", "picture_unreadable_file"} <= set(reasons)


def test_an_encoder_that_loses_rows_is_refused(world):
    class Short(Oracle):
        def encode_image(self, images, batch_size=64):
            return super().encode_image(images)[1:]

    with pytest.raises(ValueError, match=r"returned .* for 25 inputs.*one row an input"):
        evaluate(Short(), "patterns", data=world)

    class Long(Oracle):
        def match(self, images, texts, batch_size=64):
            return np.zeros((len(texts), 2))

    with pytest.raises(ValueError, match="one probability a pair"):
        evaluate(Long(), "patterns", data=world)


# -------------------------------------------------------------------------------------------------- the report
def test_the_headline_names_its_metric_and_stands_beside_its_controls(world):
    head = evaluate(Oracle(), "patterns", data=world).metrics["headline"]["itm"]
    assert (head["metric"], head["value"], head["n"], head["blind"]) == ("image", 1.0, 12, 0.0)
    assert head["chance"] == 0.25
    assert head["low95"] < 1 == head["high95"]


def test_the_run_id_depends_on_what_decides_the_results(world):
    ids = [
        evaluate(Oracle(), "patterns", data=world).metrics["run_id"],
        evaluate(Coin(), "patterns", data=world).metrics["run_id"],
        evaluate(Oracle(), "statements", data=world).metrics["run_id"],
        evaluate(Oracle(), "patterns", data=world, seed=1).metrics["run_id"],
        evaluate(Oracle(), "patterns", data=world, limit=6).metrics["run_id"],
    ]
    assert len(set(ids)) == 5
    assert evaluate(Oracle(), "patterns", data=world, batch_size=3).metrics["run_id"] == ids[0]


@pytest.mark.parametrize("task", [name for name, task in TASKS.items() if not IN_WORDS & set(task.kinds)])
def test_a_report_is_plain_json_and_prints_in_a_terminal(task, world):
    report = evaluate(Constant(), task, data=world)
    json.dumps(report.to_json(), allow_nan=False)
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    with console.file:
        console.print(report)
    text = console.export_text()
    assert f"{task}: constant on {report.metrics['items']} items" in text
    assert "chance" in text.lower()
    assert "blind" in text


def test_a_folder_without_a_report_says_how_to_make_one(tmp_path):
    with pytest.raises(ValueError, match=r"no report\.json in .*omma eval"):
        Report.load(tmp_path)


def test_progress_goes_to_stderr_only(world, capsys):
    evaluate(Oracle(), "patterns", data=world, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "pictures" in err


def test_where_and_languages_choose_rows_and_captions(tmp_path):
    table = Table.create(tmp_path / "pictures")
    both = lambda n: [{"text": f"number {n}", "language": "en"}, {"text": f"nummer {n}", "language": "de"}]
    table.append([{"id": name, "bytes": png(n), "captions": both(n)} for n, name in enumerate("abc")])
    report = evaluate(Oracle(), "retrieval", data=table, where="id != 'c'", languages=("en",))
    rows = report.rows.to_pylist()
    assert {row["item"] for row in rows if row["pattern"] == "i2t"} == {"a", "b"}
    assert {text for row in rows for text in row["texts"]} == {"number 0", "number 1"}
    assert (report.metrics["where"], report.metrics["languages"]) == ("id != 'c'", ["en"])
    with pytest.raises(ValueError, match=r"none of the 3 items of task 'retrieval' .*: 3 no_captions in fr, it\. Make"):
        evaluate(Oracle(), "retrieval", data=table, languages=("fr", "it"))


def test_winogrounds_rule_for_ties_is_asked_for_by_name(world):
    usual, strict = (evaluate(Constant(), "patterns", data=world, reference=name) for name in (None, "winoground"))
    item = lambda report: report.metrics["scores"]["itc"]["model"]["item"]["value"]
    assert (item(usual), item(strict)) == (0.5, 0)                 # of two equal scores, image 2 or neither
    assert (usual.metrics["mode"], strict.metrics["mode"]) == ("", "winoground")
    assert {row["prediction"] for row in strict.rows.to_pylist()} == {"0 0"}
    assert usual.metrics["run_id"] != strict.metrics["run_id"]
    with pytest.raises(ValueError, match="pairs are asked like official or winoground"):
        evaluate(Constant(), "patterns", data=world, reference="lmms-eval")


def test_pairs_asked_as_published_are_of_other_texts_and_another_run(world):
    usual, official = (evaluate(Oracle(), "patterns", data=world, reference=name) for name in (None, "official"))
    asked = [{text for row in report.rows.to_pylist() for text in row["texts"]} for report in (usual, official)]
    assert asked[1] == {f"a photo of {text}" for text in asked[0]}
    assert official.metrics["mode"] == "official"
    assert official.metrics["run_id"] != usual.metrics["run_id"]


class Silent(Oracle):
    """Its server takes no pictures, and says so."""

    def lacks(self, method):
        return "its server takes no pictures (400: text only)" if method in ("match", "encode_image") else ""


def test_a_model_that_can_be_asked_in_no_way_is_refused_with_the_reason_and_what_it_can_do(world):
    with pytest.raises(ValueError, match="task 'patterns' asks the model's encode_image or match, and its server") as e:
        evaluate(Silent(), "patterns", data=world)
    assert "takes no pictures (400: text only); it can be measured on " in str(e.value)
    can = str(e.value).partition("measured on ")[2].split(", ")
    assert {"caption", "segmentation"} <= set(can)
    assert not {"patterns", "retrieval", "rerank"} & set(can)                # it lacks these ways, too
    assert "no such method" not in str(e.value)


def test_a_model_that_lacks_one_way_is_asked_in_the_other(world):
    class NoMatch(Oracle):
        def lacks(self, method):
            return "no head" if method == "match" else ""

    report = evaluate(NoMatch(), "patterns", data=world)
    assert list(report.metrics["scores"]) == ["itc"]
    assert report.metrics["not_asked"] == {"itm": "no head"}
