"""Two runs side by side: counted by hand, refused where they are not of one benchmark, and told in words."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from rich.console import Console

import omma
from omma import cli
from omma.eval.outcomes import outcomes
from omma.eval.run import ROWS, Report
from omma.show import describe


def report(
    earned, *, model="eye", task="patterns", kinds=("itc",), answer="1 2", pictures=None, groups=None, patterns="xyz"
):
    """A report with one item for each number earned; None stands for an item that could not be scored."""
    rows = []
    for kind in kinds:
        for n, value in enumerate(earned):
            rows.append(
                {
                    "model": model,
                    "task": task,
                    "item": f"i{n}",
                    "group": groups[n] if groups else f"g{n}",
                    "pattern": patterns[n % len(patterns)] if patterns else "",
                    "variant": "model",
                    "score_kind": kind,
                    "pictures": pictures[n] if pictures else [f"p{n}"],
                    "answer": answer,
                    "prediction": "" if value is None else str(value),
                    "credits": None if value is None else [float(value), 1.0 - value],
                    "unscored": "picture_missing" if value is None else None,
                }
            )
    metrics = {"model": model, "task": task, "credits": ["image", "other"], "scores": {kind: {} for kind in kinds}}
    return Report(metrics, pa.Table.from_pylist(rows, schema=ROWS))


def test_a_gain_of_ten_groups_is_counted_tested_and_told():
    a, b = report([1] * 4 + [0] * 12 + [1] * 2 + [0] * 2, model="old"), report([1] * 16 + [0] * 4, model="new")
    verdict = omma.compare(a, b)
    found = verdict.benchmarks[0]
    assert found["groups"] == {"both": 4, "only_a": 2, "only_b": 12, "neither": 2}
    assert (found["a"], found["b"]) == (6 / 20, 16 / 20)
    assert found["difference"]["value"] == 0.5
    assert found["test"] == "exact McNemar on groups"
    assert found["p"] == pytest.approx(2 * (1 + 14 + 91) / 2**14)
    assert found["shown"]
    low, high = (f"{100 * found['difference'][key]:+.1f}" for key in ("low95", "high95"))
    assert str(verdict) == (
        f"patterns (itc): 30.0 -> 80.0 % on 20 items, +50.0 points (95 %: {low} to {high}); only A has 2 groups right, "
        "only B 12; p = 0.013 (exact McNemar on groups). B is better than A."
    )
    back = omma.compare(b, a).benchmarks[0]
    assert back["difference"]["value"] == -0.5
    assert omma.compare(b, a).words[0].endswith("B is worse than A.")


def test_the_same_run_twice_shows_no_difference_and_what_it_could_have_shown():
    a = report([1, 0] * 30)
    verdict = omma.compare(a, a)
    found = verdict.benchmarks[0]
    assert (found["p"], found["phi"], found["difference"]["value"]) == (1.0, 1.0, 0.0)
    assert "No difference is shown; a run of this size" in str(verdict)


def test_items_that_share_pictures_are_one_cluster_and_get_another_test():
    pictures = [[f"p{n // 5}"] for n in range(40)]
    a, b = report([0] * 40, pictures=pictures), report([1] * 20 + [0] * 20, pictures=pictures)
    found = omma.compare(a, b).benchmarks[0]
    assert found["difference"]["clusters"] == 8
    assert found["test"] == "random signs of pictures"
    assert found["p"] == pytest.approx(2 / 16, abs=0.02)  # four pictures: not the 2 / 2^20 of twenty items
    assert not found["shown"]
    both = omma.compare(report([0] * 40), report([1] * 20 + [0] * 20)).benchmarks[0]
    assert both["p"] == 2 / 2**20


def test_items_that_earn_shares_are_not_counted_as_right_or_wrong():
    better = omma.compare(report([0.3] * 40), report([0.6] * 40)).benchmarks[0]
    assert (better["test"], better["shown"]) == ("random signs of pictures", True)
    assert better["p"] == pytest.approx(1 / 4001)
    few_wins = report([1.0] * 30 + [0.1] * 170, patterns="")
    verdict = omma.compare(report([0.9] * 30 + [0.2] * 170, patterns=""), few_wins)
    assert verdict.benchmarks[0]["difference"]["value"] < 0
    assert verdict.words[0].endswith("B is worse than A.")
    rng = np.random.default_rng(0)
    a, b = (report(rng.random(50).tolist(), patterns="") for _ in range(2))
    least = omma.compare(a, b).benchmarks[0]["detectable"]
    x, y = (np.array(run.rows["credits"].to_pylist())[:, 0] for run in (a, b))
    d = y - x
    assert least == pytest.approx((1.959964 + 0.841621) * d.std(ddof=1) / 50**0.5, rel=1e-5)


def test_pictures_join_clusters_through_items_that_show_two():
    pictures = [["a", "b"], ["b", "c"], ["c"], ["d"]]
    found = omma.compare(report([0] * 4, pictures=pictures), report([1] * 4, pictures=pictures)).benchmarks[0]
    assert found["difference"]["clusters"] == 2


def test_a_group_is_right_when_all_of_its_items_are():
    groups = ["g0", "g0", "g1", "g1"]
    found = omma.compare(report([1, 0, 1, 1], groups=groups), report([1, 1, 1, 0], groups=groups)).benchmarks[0]
    assert found["groups"] == {"both": 0, "only_a": 1, "only_b": 1, "neither": 0}


def test_what_is_unscored_or_in_one_run_alone_is_left_out_and_told():
    found = omma.compare(report([1, 1, None, 0]), report([1, 0, 1])).benchmarks[0]
    assert (found["difference"]["n"], found["only_a_has"], found["unscored"]) == (2, 1, 1)
    assert len(found["notes"]) == 2


def test_every_pattern_has_its_row_and_holm_counts_them():
    a, b = report([0] * 60), report([1, 0, 0] * 20)
    found = omma.compare(a, b).benchmarks[0]
    assert list(found["patterns"]) == ["x", "y", "z"]
    assert found["patterns"]["x"]["p"] == 2 / 2**20
    assert found["patterns"]["x"]["p_holm"] == 3 * 2 / 2**20
    assert not found["patterns"]["y"]["shown"]


def test_several_benchmarks_are_corrected_together(tmp_path):
    for side, gain in (("a", 0), ("b", 1)):
        for task in ("one", "two"):
            report([gain] * 8 + [0] * 8, task=task, patterns="").save(tmp_path / side / task)
    verdict = omma.compare(tmp_path / "a", tmp_path / "b")
    assert [found["task"] for found in verdict.benchmarks] == ["one", "two"]
    assert [found["p_holm"] for found in verdict.benchmarks] == pytest.approx([4 / 2**8] * 2)
    assert "after Holm over 2 benchmarks 0.016" in verdict.words[0]


def test_two_kinds_of_score_of_one_model_are_compared_when_named():
    a = report([1, 0, 1], kinds=("itc", "itm"))
    assert len(omma.compare(a, a).benchmarks) == 2
    assert omma.compare(a, a, kinds=("itc", "itm")).benchmarks[0]["name"] == "patterns (itc) and patterns (itm)"
    assert omma.compare(a, a, kinds="itm", credit="other").benchmarks[0]["a"] == pytest.approx(1 / 3)


def test_runs_of_two_versions_or_of_two_benchmarks_are_refused():
    a = report([1, 0])
    for other, why in [
        (report([1, 0], answer="2 1"), "2 of 2 items have another answer"),
        (report([1, 0], task="vqa"), "nothing is in both"),
        (report([None, None]), "none of the 2 items"),
    ]:
        with pytest.raises(ValueError, match=why):
            omma.compare(a, other)
    for options, why in [
        ({"kinds": "itm"}, "has no score 'itm'; it has itc"),
        ({"credit": "text"}, "gives no credit 'text'; it gives image, other"),
        ({"variant": "blind"}, "no rows of variant 'blind'; it has model"),
        ({"alpha": 5}, "alpha=5"),
        ({"kinds": ("a", "b", "c")}, "one kind of score for both, or two"),
    ]:
        with pytest.raises(ValueError, match=why):
            omma.compare(a, a, **options)


def test_the_command_line_compares_and_plans(tmp_path, capsys):
    report([0] * 12).save(tmp_path / "a")
    report([1] * 12).save(tmp_path / "b")
    assert cli.run(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["benchmarks"][0]["difference"]["value"] == 1
    assert cli.run(["compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    assert "B is better than A." in " ".join(capsys.readouterr().out.split())
    assert cli.run(["compare", "--plan", "150", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["detectable"] == pytest.approx(0.106, abs=0.001)
    assert cli.run(["compare", str(tmp_path / "a")]) == 2
    assert "give two report folders" in capsys.readouterr().err


# -------------------------------------------------------------------------------------------------- files of others
def test_lmms_eval_s_samples_are_read_with_their_pairs_and_categories(tmp_path):
    lines = [
        {"doc_id": n, "target": "A", "filtered_resps": ["A\u2028, I\x85 think"], "doc_hash": "h",
         "mmvp_accuracy": {"index": n, "pair_index": n // 2, "is_correct": n < 3, "category": "state"}}
        for n in range(4)
    ]  # fmt: skip
    path = tmp_path / "llava" / "20260101_samples_mmvp.jsonl"
    path.parent.mkdir()
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    (run,) = outcomes(path)
    assert (run.model, run.task, run.credit) == ("llava", "mmvp", "mmvp_accuracy")
    assert [item.earned for item in run.items.values()] == [1, 1, 1, 0]
    found = omma.compare(path, path).benchmarks[0]
    assert found["groups"]["both"] == 1
    assert found["notes"][0].startswith("A: lmms-eval")
    with pytest.raises(ValueError, match="no metric 'f1'; it has mmvp_accuracy"):
        outcomes(path, credit="f1")
    told = describe(path)
    assert (told["kind"], told["items"], told["unparsed"], told["earned"]["value"]) == ("results", 4, 0, 0.75)
    assert told["earned"]["low95"] < 0.75 < told["earned"]["high95"]
    assert told["whole_groups"] == {"value": 0.5, "n": 2}
    assert told["patterns"]["state"]["n"] == 4
    assert cli.run(["show", str(path)]) == 0
    with pytest.raises(ValueError, match=r"is a file; .* or a result file of lmms-eval"):
        describe(Path(__file__))


def written(path, lines):
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps({"target": "yes"} | line) + "\n" for line in lines))
    return path


def test_lmms_eval_s_samples_of_parts_name_groups_and_pictures_only_where_they_can(tmp_path):
    facts = lambda n, part: {"question_id": f"{n // 2}.png", "category": part, "score": 1.0}
    of_mme = lambda n, part: {"doc_id": n, "filtered_resps": "Yes", "input_media": [f"{n // 2}.png"],
                              f"mme_{part}_score": facts(n, part)}  # fmt: skip
    (run,) = outcomes(written(tmp_path / "samples_mme.jsonl", [of_mme(n, "abcd"[n // 2]) for n in range(8)]))
    assert [item.earned for item in run.items.values()] == [1] * 8, "each question has the metric of its own part"
    assert run.credit == "mme_a_score, mme_b_score, mme_c_score, mme_d_score"
    assert [item.group for item in run.items.values()] == [f"{'abcd'[n // 2]} {n // 2}.png" for n in range(8)]
    assert run.items["3"].pictures == ("1.png",)
    inline = "data:image/png;base64,AAAA"
    of_pope = lambda n: {"doc_id": n, "resps": [["no"]], "input_media": ["x.png" if n % 2 else inline],
                         "pope_accuracy": {"question_id": str(n % 2), "score": 0.0, "ground_truth": "yes"}}  # fmt: skip
    (run,) = outcomes(written(tmp_path / "samples_pope.jsonl", [of_pope(n) for n in range(4)]))
    assert [item.group for item in run.items.values()] == ["0", "1", "2", "3"], "a number of each part anew is no group"
    pictures = [item.pictures[0] for item in run.items.values()]
    assert pictures[0] == pictures[2] != pictures[1]
    assert len(pictures[0]) == 16
    same = [of_pope(2 * n) for n in range(2)]
    assert outcomes(written(tmp_path / "samples_one.jsonl", same))[0].items["0"].pictures == (), "it tells none apart"


def test_of_lmms_eval_s_filters_the_first_counts_and_losses_are_no_reply(tmp_path):
    likely = {"doc_id": 0, "filtered_resps": [["0.2", "True"], ["0.3", "False"]], "acc": 1.0}
    again = {"doc_id": 0, "filtered_resps": "B", "acc": 0.0}
    (run,) = outcomes(written(tmp_path / "samples_two.jsonl", [likely, again]))
    assert (run.items["0"].earned, run.items["0"].said) == (1, None)
    assert run.note == "lmms-eval; its files name no pictures; 1 lines of other filters or runs are left out"


@pytest.mark.parametrize(("path", "named"), [
    ("llava_v1.5_7b/T20261122/llava_v1.5_7b_MMBench_DEV_EN_gpt-4o-mini_result.tsv",
     ("llava_v1.5_7b", "MMBench_DEV_EN", "gpt-4o-mini")),
    ("llava_v1.5_7b/llava_v1.5_7b_MMVP_exact_matching_result.tsv", ("llava_v1.5_7b", "MMVP", "")),
    ("out/omma_POPE_auxmatch.tsv", ("omma", "POPE", "")),
])  # fmt: skip
def test_vlmevalkit_s_files_are_in_folders_of_the_model_s_name(tmp_path, path, named):
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_text("index\tanswer\tprediction\thit\tscore\n0\tA\tA\t1\t1\n")
    (run,) = outcomes(tmp_path / path)
    assert (run.model, run.task, run.judge) == named


def sheet(path, lines, shared):
    """An .xlsx file of cells as they stand in it: (place, kind, value)."""
    space = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    cells = lambda line: "".join(f'<c r="{place}" t="{kind}">{value}</c>' for place, kind, value in line)
    with zipfile.ZipFile(path, "w") as file:
        whole = "".join(f"<row>{cells(line)}</row>" for line in lines)
        file.writestr("xl/worksheets/sheet1.xml", f"<worksheet {space}><sheetData>{whole}</sheetData></worksheet>")
        file.writestr("xl/sharedStrings.xml", f"<sst {space}>{''.join(f'<si>{text}</si>' for text in shared)}</sst>")
    return path


def test_vlmevalkit_s_sheets_are_read_cell_by_cell(tmp_path):
    words = ["<t>index</t>", "<t>answer</t>", "<t>prediction</t>", "<r><t>Y</t></r><r><t>es_x000A_&amp;</t></r>"]
    found = sheet(tmp_path / "omma_POPE_auxmatch.xlsx", [
        [("A1", "s", "<v>0</v>"), ("B1", "s", "<v>1</v>"), ("C1", "s", "<v>2</v>"),
         ("AA1", "inlineStr", "<is><t>score</t></is>")],
        [("A2", "n", "<v>7</v>"), ("C2", "s", "<v>3</v>"), ("AA2", "b", "<v>1</v>")],
        [("A3", "n", "<v>8</v>"), ("C3", "str", "<v>no</v>"), ("AA3", "b", "<v>0</v>")],
    ], words)  # fmt: skip
    (run,) = outcomes(found)
    assert {name: (item.earned, item.said) for name, item in run.items.items()} == {"7": (1, "Yes\n&"), "8": (0, "no")}
    assert describe(found)["earned"]["value"] == 0.5
    found.write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"is no \.xlsx file with a sheet"):
        outcomes(found)


def test_vlmevalkit_s_results_are_read_judged_or_not(tmp_path):
    judged = tmp_path / "llava_MMVP_result.tsv"
    judged.write_text("index\tquestion\tanswer\tprediction\thit\n0\tq\tA\tA\t1\n1\tq\tB\tA\t0\n")
    (run,) = outcomes(judged)
    assert [(item.earned, item.group) for item in run.items.values()] == [(1, "0"), (0, "0")]
    for kept, groups in (((1, 2, 3, 4), "0011"), ((0, 2, 3), "011"), ((1, 300), ["0", "149"])):
        judged.write_text("index\tanswer\tprediction\thit\n" + "".join(f"{n}\tA\tA\t1\n" for n in kept))
        (run,) = outcomes(judged)
        assert [item.group for item in run.items.values()] == list(groups), "pairs go by index, whatever is missing"
    judged.write_text("index\tanswer\tprediction\thit\n2\tA\tA\t1\n3\tA\tA\t1\n")
    with pytest.raises(ValueError, match="which two are a pair can't be told"):
        outcomes(judged)
    raw = tmp_path / "llava_POPE.csv"
    raw.write_text('index,answer,prediction,A,B\n0,Yes,"Yes, it is",,\n1,No,maybe,,\n2,B,the answer is B,cup,dog\n')
    (run,) = outcomes(raw)
    assert [(item.earned, item.unparsed) for item in run.items.values()] == [(1, False), (0, True), (1, False)]
    assert "strict rules" in run.note
    table = tmp_path / "llava_MME_score.json"
    table.write_text(
        json.dumps({"index": {"0": 5, "1": 6}, "score": {"0": True, "1": False}, "image_path": {"0": "x", "1": "x"}})
    )
    (run,) = outcomes(table)
    assert [(item.earned, item.pictures) for item in run.items.values()] == [(1, ("x",)), (0, ("x",))]
    (tmp_path / "x.pkl").write_text("")
    with pytest.raises(ValueError, match="no result that can be read"):
        outcomes(tmp_path / "x.pkl")
    with pytest.raises(ValueError, match="doesn't exist; give a report folder"):
        outcomes(tmp_path / "none.tsv")
    with pytest.raises(ValueError, match="make one: omma eval"):
        outcomes(tmp_path)


def test_vlmevalkit_s_files_of_a_circle_say_what_counts_and_which_rows_are_of_one_question(tmp_path, capsys):
    def wrote(name, *lines):
        head = ["index\tquestion\tA\tB\tanswer\tprediction" + lines[0], *lines[1:]]
        (tmp_path / name).write_text("\n".join(line.replace(" ", "\t") for line in head))
        return tmp_path / name

    raw = wrote("llava_MMBench_DEV_EN.tsv", "", "1 q x y A A", "2 q x y B B", "1000001 q y x B A", "1000002 q y x A A")
    judged = wrote("llava_MMBench_DEV_EN_exact_matching_result.tsv", "\thit", "1 q x y A A 0", "2 q x y B B 1")
    (one,), (other,) = outcomes(raw), outcomes(judged)
    assert {n: item.group for n, item in one.items.items()} == {"1": "1", "2": "2", "1000001": "1", "1000002": "2"}
    earned = {name: item.earned for name, item in other.items.items()}
    assert (earned, other.credit) == ({"1": 0, "2": 1}, "right in every rotation")
    named = wrote("llava_MMBench_DEV_CN.tsv", "\tg_index", "7 q x y A A 7", "8 q y x B A 7")
    assert {item.group for item in outcomes(named)[0].items.values()} == {"7"}
    assert cli.run(["show", str(judged)]) == 0
    assert "right in every rotation" in capsys.readouterr().out
    (found,) = omma.compare(raw, judged).benchmarks
    assert [note for note in found["notes"] if note.startswith("in B a question counts when it is right in every")]
    assert not [note for note in omma.compare(raw, raw).benchmarks[0]["notes"] if "every rotation" in note]


@pytest.mark.parametrize("names", [("orientation", "colour", "text"), ("Presence of Specific Features", "Texts", "x")])
def test_no_number_is_cut_whatever_the_width_of_the_terminal(names):
    better = [1] * 300
    verdict = omma.compare(report([0] * 300, patterns=names), report(better, model="other", patterns=names))
    for width in (80, 90, 110, 160):
        page = io.StringIO()
        Console(file=page, width=width, markup=False).print(verdict)
        assert "…" not in page.getvalue(), width
        assert page.getvalue().count("+100.0 to +100.0") >= 3, width
        assert ("A : B" in page.getvalue()) is (width < 106)
        assert width == 80 or all(word in page.getvalue() for name in names for word in name.split())
