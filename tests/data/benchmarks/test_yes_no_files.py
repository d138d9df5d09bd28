"""POPE and MME as they are released, and what is wrong with a file: counted, and its version named."""

import base64
import json

import pytest
from miniatures import counted, image, parquet, pictures, png, read, write

from omma.data.benchmarks import pope


def line(number, name, label="yes"):
    return {"question_id": number, "image": name, "text": "Is there a cup in the image?", "label": label}


def test_pope_has_a_line_a_question_or_an_array_and_the_strategy_in_its_name(tmp_path):
    folder = tmp_path / "coco"
    lines = [line(1, "a.jpg"), line(2, "a.jpg", "no"), line(2, "b.jpg", "maybe"), line(4, "lost.jpg", "no")]
    write(folder / "coco_pope_popular.json", "".join(json.dumps(each) + "\n" for each in lines))
    write(folder / "gqa_pope_seem_random.json", [line(1, "b.jpg", "no")])
    photos = pictures(tmp_path / "val2014", "a.jpg", "b.jpg", "unasked.jpg")
    items, there, note = read(folder, "pope", images=photos)
    assert [row["id"] for row in items] == ["popular-1", "popular-2", "popular-2#2", "popular-4", "random-1"]
    assert there == ["a.jpg", "b.jpg"]  # nobody asks about the third
    assert items[3]["pictures"] == ["lost.jpg"]
    assert (items[0]["options"], items[0]["answer"], items[0]["group"]) == (["yes", "no"], "yes", "a.jpg")
    assert counted(note) == {"files are none of the versions known": 2, "ids came before": 1,
                             "answers are none of the options": 1, "pictures are not there": 1}  # fmt: skip
    assert note["pictures_missing"] == 1
    assert [found["version"] for found in note["files"].values()] == ["another version"] * 2


def test_a_file_of_pope_is_told_by_its_hash(tmp_path, monkeypatch):
    path = write(tmp_path / "coco_pope_random.json", json.dumps(line(1, "a.jpg")))
    photos = pictures(tmp_path / "images", "a.jpg")
    known = read(path, "pope", images=photos)[2]["files"][path.name]["sha256"]
    monkeypatch.setitem(pope.NAMES, known, "second release, random")
    items, _, note = read(path, "pope", images=photos)
    assert items[0]["release"] == "second release, random"
    assert note["problems"] == {}


def test_pope_in_parquet_stores_a_picture_once_that_several_rows_repeat(tmp_path):
    rows = [{"id": str(n), "question_id": str(n), "question": "Is there a cup in the image?", "answer": "no",
             "image_source": f"COCO_{n // 2}", "image": image(n // 2), "category": "adversarial"}
            for n in range(4)]  # fmt: skip
    items, there, _ = read(parquet(tmp_path / "pope" / "data" / "test-0.parquet", rows).parents[1], "pope")
    assert there == ["COCO_0", "COCO_1"]
    assert [row["pictures"][0] for row in items] == ["COCO_0", "COCO_0", "COCO_1", "COCO_1"]
    assert {row["pattern"] for row in items} == {"adversarial"}


@pytest.mark.parametrize("form", ["pope", "mme"])
def test_a_row_of_a_tsv_without_picture_is_counted(tmp_path, form):
    seen = base64.b64encode(png(0)).decode()
    lines = ["index\tquestion\tanswer\timage\timage_path\tcategory", f"0\tIs it?\tyes\t{seen}\tcount/1.png\tcount",
             "1\tIs it?\tno\t\t\tcount"]  # fmt: skip
    items, there, note = read(write(tmp_path / f"{form}_random.tsv", "\n".join(lines)), form)
    assert [row["pictures"] for row in items] == [there, [""]]
    assert counted(note)["rows have no picture where one belongs"] == 1


def test_mme_is_a_folder_a_subtask_in_both_of_its_forms(tmp_path):
    folder = tmp_path / "MME"
    write(folder / "count" / "1.txt", "Two cups?\tYes\nThree cups?\tNo\n")
    write(folder / "posters" / "questions_answers_YN" / "tt1.txt", "This film?\tYes\nThat film?\tYes\nno tab")
    pictures(folder, "count/1.png", "count/spare.png", "posters/images/tt1.jpg")
    write(folder / "eval_tool" / "results.txt", "not\ta\tquestion")
    items, there, note = read(folder, "mme")
    assert [(row["id"], row["pattern"], row["group"], row["answer"]) for row in items] == [
        ("count/1/1", "count", "count/1", "yes"), ("count/1/2", "count", "count/1", "no"),
        ("posters/tt1/1", "posters", "posters/tt1", "yes"),
        ("posters/tt1/2", "posters", "posters/tt1", "yes")]  # fmt: skip
    assert there == ["count/1.png", "posters/images/tt1.jpg"]
    assert counted(note) == {"pictures have no questions": 1, "lines are no question, tab and answer": 1,
                             "pictures have not one question of yes and one of no": 1}  # fmt: skip
    assert len(note["subtasks_missing"]) == 12


def test_mme_in_parquet_names_the_picture_by_its_question_id(tmp_path):
    rows = [{"question_id": "OCR/0001.jpg", "image": image(1), "question": f"Is it {word}?", "answer": answer,
             "category": "OCR"} for word, answer in (("red", "Yes"), ("blue", "No"))]  # fmt: skip
    items, there, note = read(parquet(tmp_path / "test.parquet", rows), "mme")
    assert there == ["OCR/0001.jpg"]
    assert [row["answer"] for row in items] == ["yes", "no"]
    assert note["problems"] == {}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: write(path / "x_pope_random.json", [{"question": "what"}]), "no column image"),
        (lambda path: write(path / "x_pope_random.json", [line(1, "nowhere.jpg")]), "none of the pictures"),
        (lambda path: write(path / "x_pope_random.json", "{"), "is no JSON"),
        (lambda path: (path / "test.parquet").write_bytes(png(1)), "Download it again"),
        (lambda path: write(path / "notes.txt", "nothing"), r"no \*pope\*.json and no"),
    ],
)
def test_what_is_no_benchmark_is_refused_and_leaves_nothing(tmp_path, make, message):
    folder = tmp_path / "files"
    folder.mkdir()
    make(folder)
    pictures(tmp_path / "images", "a.jpg")
    with pytest.raises(ValueError, match=message):
        read(folder, "pope", images=tmp_path / "images")
    assert not list(tmp_path.glob("out*"))
