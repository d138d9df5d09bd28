"""MMVP and MMVP-VLM as they are released: rows belong to pictures by their place, and what is off is counted."""

import csv

import pytest
from miniatures import counted, image, parquet, pictures, read

from omma.data.benchmarks.mmvp import PATTERNS

OPTIONS = "(a) Open (b) Closed"


def questions(path, rows, header=("lndex", "Question", "Options", "Correct Answer")):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def test_rows_of_mmvp_belong_to_pictures_by_their_place(tmp_path):
    folder = tmp_path / "MMVP"
    rows = [(1, "Is it open?", OPTIONS, "(a)"), (2, "Is it open?", OPTIONS, "(b)"),
            (4, "Left?", "(a) Yes (b) No", "(b)"), (3, "Right?", "(a) Yes (b) No", "(b)")]  # fmt: skip
    questions(folder / "Questions.csv", rows)
    pictures(folder / "MMVP Images", *(f"{n}.jpg" for n in range(1, 5)))
    items, there, note = read(folder, "mmvp")
    assert [(row["pictures"], row["answer"], row["group"]) for row in items] == [
        (["1.jpg"], "Open", "pair 001"), (["2.jpg"], "Closed", "pair 001"),
        (["3.jpg"], "No", "pair 002"), (["4.jpg"], "No", "pair 002")]  # fmt: skip
    assert (items[0]["prompt"], items[0]["options"], items[0]["released_options"]) == (
        "Is it open?", ["Open", "Closed"], OPTIONS)  # fmt: skip
    assert len(there) == 4
    assert note["labels"] == "released"
    assert counted(note) == {
        "files have another number of questions than the 300 released": 1,
        "indices are not the place of their row, which decides": 2,
        "pairs don't share a question and its options": 1,
        "pairs have one answer for both pictures": 1,
    }


def test_label_sets_change_the_answers_that_are_reported_as_wrong(tmp_path):
    folder = tmp_path / "MMVP"
    questions(folder / "Questions.csv", [(n + 1, "Is it?", OPTIONS, "(ab)"[0] + "ab"[n % 2] + ")") for n in range(300)])
    pictures(folder / "MMVP Images", "1.jpg", "279.jpg", "280.jpg")
    answers = {}
    for labels in ("released", "corrected", "undisputed"):
        items, _, note = read(folder, "mmvp", labels=labels)
        answers[labels] = {row["id"]: row["answer"] for row in items}
        assert note["labels"] == labels
        assert note["pictures_missing"] == (297 if labels != "undisputed" else 295)
    changed = {name for name, answer in answers["corrected"].items() if answer != answers["released"][name]}
    assert changed == {"279", "280"}
    assert answers["released"].keys() - answers["undisputed"].keys() == {"99", "100"}
    with pytest.raises(ValueError, match="choose released, corrected"):
        read(folder, "mmvp", labels="mine")


def test_mmvp_in_parquet_brings_its_pictures(tmp_path):
    rows = [{"Index": n, "Question": "Is it open?", "Options": OPTIONS, "Correct Answer": f"({'ab'[n - 1]})",
             "image": image(n)} for n in (1, 2)]  # fmt: skip
    items, there, _ = read(parquet(tmp_path / "train.parquet", rows), "mmvp")
    assert there == ["1", "2"]
    assert [row["pictures"] for row in items] == [["1"], ["2"]]


@pytest.mark.parametrize("place", ["MLLM_VLM Images", "MMVP_VLM_Images", "MLLM_VLM_Images"])
def test_mmvp_vlm_is_found_under_each_of_its_names(tmp_path, place):
    folder = tmp_path / "MMVP_VLM"
    rows = [(n, "Orientation", f"statement {n}") for n in range(1, 33)] + [(40, "Presence", "x"), (39, "Texts", "y")]
    questions(folder / "Questions.csv", rows, ("Question ID", "Type", "Statement"))
    pictures(folder / place, *(f"{kind}/{n}.jpg" for n, kind, _ in rows))
    items, there, note = read(folder, "mmvp-vlm")
    assert len(there) == 34
    assert items[0]["pictures"] == ["Orientation/1.jpg", "Orientation/2.jpg"]
    assert items[0]["options"] == ["statement 1", "statement 2"]
    assert [row["pattern"] for row in items[14:16]] == list(PATTERNS[:2])  # by place: the file still says Orientation
    assert counted(note) == {
        "files have another number of statements than the 270 released": 1,
        "pairs have ids that are not an odd number and the next": 1,
        "pairs have two types": 1,
    }
