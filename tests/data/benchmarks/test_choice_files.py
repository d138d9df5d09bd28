"""Multiple choice as it is released: letters in columns, lists in cells, pictures in base64 or by another row."""

import base64
import csv

import pytest
from miniatures import IMAGE, counted, image, parquet, pictures, png, read, write


def tsv(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]), delimiter="\t")
        table.writeheader()
        table.writerows(rows)
    return path


def packed(number):
    return base64.b64encode(png(number)).decode()


def test_mmbench_takes_the_picture_of_the_row_that_is_named_and_knows_a_question_that_moved(tmp_path):
    row = {"index": 7, "question": "What is it?", "hint": "", "A": "cat", "B": "dog", "C": "", "D": "", "answer": "B",
           "category": "identity", "l2-category": "coarse", "image": packed(1), "split": "dev"}  # fmt: skip
    moved = row | {"index": 1000007, "A": "dog", "B": "cat", "answer": "A", "image": "7"}
    rows = [moved, row, row | {"index": 8, "answer": "D", "image": packed(2)}, row | {"index": 9, "image": "404"},
            row | {"index": 10, "image": "!" * 80, "answer": ""}]  # fmt: skip
    items, there, note = read(tsv(tmp_path / "MMBench_DEV_EN.tsv", rows), "mmbench")
    assert there == ["7", "8"]  # the picture of the moved question is stored once, though it comes first
    assert [(r["id"], r["pictures"], r["options"], r["answer"], r["letter"]) for r in items[:2]] == [
        ("1000007", ["7"], ["dog", "cat"], "dog", "A"), ("7", ["7"], ["cat", "dog"], "dog", "B")]  # fmt: skip
    assert [(r["group"], r["rotation"]) for r in items[:3]] == [("7", "1"), ("7", "0"), ("8", "0")]
    assert (items[1]["pattern"], items[1]["l2_category"], items[1]["hint"], items[1]["split"]) == (
        "identity", "coarse", None, "dev")  # fmt: skip
    assert counted(note) == {
        "files are none of the versions known": 1,
        "rows take the picture of a row that has none": 1,
        "rows have no picture where one belongs": 2,
        "pictures are no base64": 1,
        "answers are none of the options": 1,  # D, of which the option is empty
        "rows have no answer": 1,
    }


def test_a_cell_can_hold_several_pictures_or_name_their_files(tmp_path):
    rows = [{"index": 0, "question": "Which?", "A": "1", "B": "2", "answer": "A", "image": str([packed(1), packed(2)])}]
    items, there, _ = read(tsv(tmp_path / "BLINK.tsv", rows), "choice")
    assert there == items[0]["pictures"] == ["0-1", "0-2"]
    named = [{"index": 0, "question": "Which?", "A": "1", "B": "2", "answer": "B", "image_path": "['x.png', 'y.png']"}]
    items, there, _ = read(
        tsv(tmp_path / "named.tsv", named), "choice", images=pictures(tmp_path / "i", "x.png", "y.png")
    )
    assert there == items[0]["pictures"] == ["x.png", "y.png"]


def test_mmmu_has_options_in_pythons_writing_and_up_to_seven_pictures(tmp_path):
    row = {"id": "validation_Art_Theory_1", "question": "<image 1> or <image 2>?", "options": "['the \"L\"', 'right']",
           "answer": "B", "question_type": "multiple-choice", "image_1": image(1), "image_2": image(2), "image_3": None,
           "subfield": "Painting"}  # fmt: skip
    free = row | {"id": "dev_Math_2", "options": "[]", "answer": "3.5", "question_type": "open", "image_2": None}
    several = free | {"id": "dev_Math_3", "answer": "['7/2', '3.5']"}
    parquet(tmp_path / "MMMU" / "Art" / "validation-0.parquet", [row, free, several], image_3=IMAGE)
    items, _, _ = read(tmp_path / "MMMU", "mmmu")
    assert [(r["pattern"], r["split"], r["options"], r["answer"], r["pictures"]) for r in items] == [
        ("Art_Theory", "validation", ['the "L"', "right"], "right",
         ["validation_Art_Theory_1-1", "validation_Art_Theory_1-2"]),
        ("Math", "dev", None, "3.5", ["validation_Art_Theory_1-1"]),
        ("Math", "dev", None, "7/2", ["validation_Art_Theory_1-1"])]  # fmt: skip
    assert [r["answers"] for r in items] == [None, None, ["7/2", "3.5"]]
    only, _, _ = read(tmp_path / "MMMU", "mmmu", part="dev")
    assert [r["id"] for r in only] == ["dev_Math_2", "dev_Math_3"]
    with pytest.raises(ValueError, match=r"split 'test'; it has validation \(1\), dev \(2\)"):
        read(tmp_path / "MMMU", "mmmu", part="test")


def test_seedbench_has_a_json_of_questions_about_files_and_a_parquet_of_lists(tmp_path):
    row = {"question_id": "1", "question": "What?", "choice_a": "cat", "choice_b": "dog", "choice_c": "cow",
           "choice_d": "hen", "answer": "C", "data_type": "image", "question_type_id": 2}  # fmt: skip
    photos = pictures(tmp_path / "photos", "1454426_2591111986.jpg")
    whole = {"questions": [row | {"data_id": "1454426_2591111986"}], "question_type": {"Scene": 1, "Instance": 2}}
    source = write(tmp_path / "SEED-Bench.json", whole)
    items, there, _ = read(source, "seedbench", images=photos)
    assert there == ["1454426_2591111986.jpg"]
    assert (items[0]["options"], items[0]["answer"]) == (["cat", "dog", "cow", "hen"], "cow")
    assert items[0]["pattern"] == "Instance"
    items, there, _ = read(parquet(tmp_path / "test.parquet", [row | {"image": [image(1), image(2)]}]), "seedbench")
    assert there == ["1-1", "1-2"]


def test_mathvista_is_answered_by_an_options_text_or_a_number(tmp_path):
    row = {"pid": "1", "question": "Which?", "image": "images/1.jpg", "decoded_image": image(1), "choices": ["3", "4"],
           "unit": None, "precision": None, "answer": "4", "question_type": "multi_choice", "answer_type": "text",
           "metadata": {"task": "geometry problem solving", "skills": ["geometry reasoning"]}}  # fmt: skip
    free = row | {"pid": "2", "choices": None, "answer": "1.2", "question_type": "free_form", "answer_type": "float",
                  "precision": 1.0, "decoded_image": image(2)}  # fmt: skip
    items, there, note = read(parquet(tmp_path / "testmini.parquet", [row, free]), "mathvista")
    assert [(r["options"], r["answer"], r["letter"], r["precision"]) for r in items] == [
        (["3", "4"], "4", None, None), (None, "1.2", None, "1.0")]  # fmt: skip
    assert items[0]["pattern"] == "geometry problem solving"
    assert (there, note["problems"]) == (["1", "2"], {})


def test_scienceqa_numbers_its_choices_from_zero(tmp_path):
    rows = [{"image": image(1), "question": "Which?", "choices": ["solid", "liquid"], "answer": 1, "hint": "x"}]
    items, _, _ = read(parquet(tmp_path / "test.parquet", rows), "choice")
    assert (items[0]["id"], items[0]["answer"], items[0]["hint"]) == ("0", "liquid", "x")


def test_yes_no_benchmarks_are_read_from_that_kit_too(tmp_path):
    rows = [
        {"index": 0, "image": packed(1), "question": "Is there a cup?", "answer": "Yes", "category": "random,popular"}
    ]
    items, there, _ = read(tsv(tmp_path / "POPE.tsv", rows), "pope")
    assert [(r["id"], r["pattern"], r["answer"]) for r in items] == [
        ("random-0", "random", "yes"), ("popular-0", "popular", "yes")]  # fmt: skip
    assert there == ["0"]
    rows = [{"index": n, "image": packed(1), "question": "Is it?", "answer": said, "category": "OCR",
             "image_path": "OCR/1.jpg"} for n, said in enumerate(("Yes", "No"))]  # fmt: skip
    items, _, note = read(tsv(tmp_path / "MME.tsv", rows), "mme")
    assert [(r["group"], r["answer"]) for r in items] == [("OCR/1.jpg", "yes"), ("OCR/1.jpg", "no")]
    assert "pictures have not one question of yes and one of no" not in note["problems"]
