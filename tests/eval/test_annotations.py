"""What people write about pairs: kept at once, compared between annotators, and written as benchmarks."""

import csv
import sqlite3

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import cohen_kappa_score

from omma.data.benchmarks.mmvp import split_options
from omma.data.questions import ingest_items
from omma.eval.annotate.agreement import agreement, kappa
from omma.eval.annotate.benchmark import Entry, choose, export_benchmark, questions
from omma.eval.annotate.pairs import Pair, Pairs
from omma.eval.annotate.store import Annotation, Changed, Store, open_store
from omma.eval.run import evaluate
from omma.table import Table
from pair_folders import make_pairs, said

# ---- the store


def test_an_annotation_is_read_as_it_was_saved_also_by_another_process(pairs, store):
    wrote = said("colour", "läuft", "steht")
    assert store.save(pairs[1], "anna", wrote, 0) == 1
    other = Store(store.path)
    assert other.find(pairs[1], "anna") == (wrote, 1)
    assert other.find(pairs[1], "ben") == (Annotation(), 0)
    assert other.of("anna") == {pairs[1].key: wrote}
    other.close()


def test_a_second_window_of_an_annotator_overwrites_nothing_unseen(pairs, store):
    store.save(pairs[0], "anna", said("state"), 0)
    with pytest.raises(Changed, match=r"in another window \(revision 1, not 0\)"):
        store.save(pairs[0], "anna", said("text"), 0)
    assert store.find(pairs[0], "anna")[0].pattern == "state"
    assert store.save(pairs[0], "anna", said("text"), 1) == 2


def test_a_file_of_something_else_is_not_written_to(pairs):
    path = pairs.folder / "annotations.sqlite"
    path.write_text("dear diary, " * 100)
    with pytest.raises(ValueError, match="holds no annotations"):
        open_store(pairs.folder)
    assert path.read_text().startswith("dear diary")
    path.unlink()
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE mine (x)")
    db.close()
    with pytest.raises(ValueError, match="has version 0"):
        open_store(pairs.folder)


def test_what_is_missing_is_told_until_an_annotation_is_complete():
    assert Annotation().missing() == ["choose a pattern, or none", "ask a question", "give both answers"]
    assert Annotation(pattern="none").complete
    assert not Annotation(pattern="none").usable
    assert said().usable
    same = "the two answers must differ"
    assert [said(left=a, right=b).missing() for a, b in (("Yes.", "yes"), ("the cup", "a cup"))] == [[same], [same]]
    assert said(left="+", right="-").complete  # signs alone are answers, too
    assert said(left="열림", right="닫힘").complete
    assert "letter in brackets" in said(left="(b) open").missing()[0]
    assert Annotation(**vars(said()) | {"right_statement": ""}).missing() == ["write both statements, or neither"]


@pytest.mark.parametrize(
    ("fields", "told"),
    [({"pattern": "size"}, "there are orientation"), ({"colour": "red"}, "an annotation has"), ([], "has pattern"),
     ({"question": 3}, "no text"), ({"left": "x" * 501}, "at most 500")],
)  # fmt: skip
def test_fields_that_make_no_annotation_are_refused(fields, told):
    with pytest.raises(ValueError, match=told):
        Annotation.read(fields)


def test_text_is_kept_as_one_line_of_visible_characters():
    assert Annotation.read({"question": "  is\tit\n\x00open? "}).question == "is it open?"


def test_pairs_whose_pictures_the_table_lacks_are_counted(pairs, tmp_path):
    fewer = Table.create(tmp_path / "fewer")
    fewer.append([{"id": f"p{i}"} for i in range(3)])
    found = Pairs.open(pairs.folder, fewer)
    assert (len(found), found.lost, found[0].a) == (1, 3, "p0")
    other = Table.create(tmp_path / "other")
    with pytest.raises(ValueError, match="none of the 4 pairs"):
        Pairs.open(pairs.folder, other)
    with pytest.raises(ValueError, match=r"no pairs\.parquet"):
        Pairs.open(tmp_path, other)


# ---- agreement


def test_kappa_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    for n in (2, 10, 200):
        one = rng.choice(list("abcd"), n)
        other = np.where(rng.random(n) < 0.6, one, rng.choice(list("abce"), n))
        assert kappa(one.tolist(), other.tolist()) == pytest.approx(cohen_kappa_score(one, other))
    assert kappa(["a"] * 5, ["a"] * 5) is None  # chance agrees just as well
    assert kappa([], []) is None
    assert kappa(list("ab"), list("ba")) == -1


def test_two_annotators_are_compared_on_what_both_completed():
    one = {"1": said("state"), "2": said("text"), "3": said("colour"), "4": Annotation(pattern="none"),
           "5": said(), "6": Annotation(pattern="state"), "7": said()}  # fmt: skip
    other = {"1": said("state", "Yes", "no."), "2": said("colour"), "3": said("colour", "no", "yes"),
             "4": said("state"), "5": said(left="open", right="shut"), "6": said(), "8": said()}  # fmt: skip
    found = agreement(one, other)
    assert (found["pairs"], found["unfinished"]) == (5, 3)
    assert found["disagreements"] == [
        {"pair": "2", "about": ["pattern"]}, {"pair": "3", "about": ["exchanged"]}, {"pair": "4", "about": ["usable"]},
        {"pair": "5", "about": ["answers"]},
    ]  # fmt: skip
    assert (found["pattern"]["same"]["right"], found["usable"]["right"], found["answers"]["right"]) == (3, 4, 2)
    assert (found["usable"]["n"], found["answers"]["n"]) == (5, 4)
    assert found["pattern"]["kappa"] == pytest.approx(cohen_kappa_score(
        ["state", "text", "colour", "none", "state"], ["state", "colour", "colour", "state", "state"]))  # fmt: skip
    assert found["pattern"]["low95"] <= found["pattern"]["kappa"] <= found["pattern"]["high95"]


def test_the_interval_of_kappa_holds_the_truth_about_as_often_as_it_says():
    """60 pairs, where both take the same of three patterns with 0.7 + 0.3 / 3: kappa is 0.7."""
    rng, held = np.random.default_rng(0), 0
    for seed in range(60):
        one = rng.choice(["state", "text", "colour"], 60)
        other = np.where(rng.random(60) < 0.7, one, rng.choice(["state", "text", "colour"], 60))
        found = agreement(*({str(i): said(p) for i, p in enumerate(side)} for side in (one, other)), seed, 300)
        held += found["pattern"]["low95"] <= 0.7 <= found["pattern"]["high95"]
    assert held >= 52


def test_annotators_with_nothing_in_common_have_no_numbers():
    found = agreement({"1": said()}, {"2": said()})
    assert (found["pairs"], found["pattern"]["kappa"], found["usable"]["value"]) == (0, None, None)


# ---- the benchmark


def annotate(pairs, store):
    """Pair 0 and 3 usable, 1 without a difference, 2 begun; ben says otherwise of 3, and saved before anna."""
    store.save(pairs[3], "ben", said("orientation", "left", "right", statements=False))
    for number, what in ((0, said("text")), (1, Annotation(pattern="none")), (2, Annotation(question="Is it?"))):
        store.save(pairs[number], "anna", what)
    store.save(pairs[3], "anna", said("quantity", "one", "two"))


def test_pairs_that_cannot_be_asked_about_are_left_out_and_counted(pairs, store):
    annotate(pairs, store)
    entries, told = choose(pairs, store)
    assert [(e.pair.a, e.annotator, e.said.pattern) for e in entries] == [
        ("p6", "anna", "quantity"), ("p0", "anna", "text")]  # fmt: skip
    assert told == {"pairs": 4, "not_annotated": 0, "unfinished": 1, "no_difference": 1, "disagreed": 0, "usable": 2}
    assert [e.said.pattern for e in choose(pairs, store, by="ben")[0]] == ["orientation"]
    agreed, told = choose(pairs, store, agreed=True)
    assert [e.pair.a for e in agreed] == ["p0"]
    assert told["disagreed"] == 1
    with pytest.raises(ValueError, match="no annotations by 'carl'; there are some by anna, ben"):
        choose(pairs, store, by="carl")


def test_the_two_questions_of_a_pair_share_all_but_picture_and_answer(pairs, store):
    annotate(pairs, store)
    first, second, *_ = questions(choose(pairs, store)[0])
    assert (first.group, first.prompt, first.options) == (second.group, second.prompt, second.options)
    assert (first.picture, first.answer, second.picture, second.answer) == ("p6", "one", "p7", "two")
    assert {first.letter, second.letter} == {"A", "B"}


def test_the_left_answer_comes_first_about_half_of_the_time():
    entries = [Entry(Pair(f"p{n}", f"q{n}", 1, 0), said(), "anna") for n in range(60)]
    first = [question.letter for question in questions(entries)[::2]]
    assert 18 <= first.count("A") <= 42  # 60 fair coins: outside with p < 0.002


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_the_mmvp_layout_holds_the_questions_and_their_pictures(pairs, store, tmp_path):
    annotate(pairs, store)
    told = export_benchmark(pairs, store, "mmvp", tmp_path / "out")
    header, *rows = rows_of(tmp_path / "out" / "Questions.csv")
    assert header == ["Index", "Question", "Options", "Correct Answer"]
    assert told["questions"] == len(rows) == 4
    assert told["left_out"]["no_difference"] == 1
    wanted = questions(choose(pairs, store)[0])
    for number, (row, question) in enumerate(zip(rows, wanted, strict=True), 1):
        assert row[:2] == [str(number), question.prompt]
        assert split_options(row[2]) == question.options
        assert question.options["ab".index(row[3][1])] == question.answer
        with Image.open(tmp_path / "out" / "MMVP Images" / f"{number}.jpg") as written:
            apart = np.abs(np.asarray(written, float) - np.asarray(pairs.image(question.picture), float))
        assert apart.mean() < 4


def test_the_mmvp_vlm_layout_has_a_folder_a_pattern_and_needs_statements(pairs, store, tmp_path):
    annotate(pairs, store)
    told = export_benchmark(pairs, store, "mmvp-vlm", tmp_path / "out")
    assert rows_of(tmp_path / "out" / "Questions.csv") == [
        ["Question ID", "Type", "Statement"], ["1", "Quantity", "one it is"], ["2", "Quantity", "two it is"],
        ["3", "Text", "yes it is"], ["4", "Text", "no it is"]]  # fmt: skip
    assert all((tmp_path / "out" / "MLLM_VLM Images" / name).is_file() for name in ("Quantity/2.jpg", "Text/3.jpg"))
    assert told["patterns_without_fifteen_pairs"] == 9
    with pytest.raises(ValueError, match="none of the 1 usable pairs has statements"):
        export_benchmark(pairs, store, "mmvp-vlm", tmp_path / "ben", by="ben")
    assert not (tmp_path / "ben").exists()


def test_both_layouts_are_read_again_as_the_released_files_are(pairs, store, tmp_path):
    annotate(pairs, store)
    for layout in ("mmvp", "mmvp-vlm"):
        export_benchmark(pairs, store, layout, tmp_path / layout)
        _, items = ingest_items(tmp_path / layout, tmp_path / f"{layout}-tables", format=layout)
        told = items.info["ingest_items"]["problems"]
        assert not [name for name in told if name.startswith(("pairs", "indices", "pictures"))]
        rows = items.read().to_pylist()
        if layout == "mmvp":
            wanted = questions(choose(pairs, store)[0])
            assert [(row["prompt"], tuple(row["options"]), row["answer"]) for row in rows] == [
                (question.prompt, question.options, question.answer) for question in wanted]  # fmt: skip
            assert [row["group"] for row in rows] == ["pair 001"] * 2 + ["pair 002"] * 2
        else:
            assert [row["options"] for row in rows] == [["one it is", "two it is"], ["yes it is", "no it is"]]


def test_the_tables_can_be_evaluated(pairs, store, tmp_path):
    annotate(pairs, store)
    export_benchmark(pairs, store, "items", tmp_path / "out")
    items = Table.open(tmp_path / "out" / "items").read().to_pylist()
    assert [row["task"] for row in items] == ["question"] * 4 + ["pairs"] * 2
    assert sorted(items[0]["options"]) == ["one", "two"]
    assert (items[0]["answer"], items[0]["pictures"], items[0]["annotator"]) == ("one", ["p6"], "anna")

    class Eye:
        name, embed_dim, fingerprint = "eye", 2, "0"

        def encode_image(self, images, batch_size=64):
            return np.tile(np.float32([1, 0]), (len(images), 1))

        encode_text = encode_image

    found = evaluate(Eye(), "patterns", data=tmp_path / "out").metrics["scores"]["itc"]["model"]
    assert (found["n"], found["ties"]) == (2, 4)


def test_an_export_is_whole_or_nothing(tmp_path):
    pairs = make_pairs(tmp_path, bad=1)
    store = open_store(pairs.folder)
    store.save(pairs[0], "anna", said())
    with pytest.raises(ValueError, match=r"none of 4 pairs can be asked about \(3 not annotated, 1 unreadable\)"):
        export_benchmark(pairs, store, "mmvp", tmp_path / "out")
    store.save(pairs[1], "anna", said())
    assert export_benchmark(pairs, store, "mmvp", tmp_path / "out")["left_out"]["unreadable"] == 1
    with pytest.raises(ValueError, match="something at"):
        export_benchmark(pairs, store, "mmvp", tmp_path / "out")
    with pytest.raises(ValueError, match="no layout 'xlsx'; there are mmvp, mmvp-vlm, items"):
        export_benchmark(pairs, store, "xlsx", tmp_path / "out2")
    store.close()
