"""TextVQA, GQA, DocVQA, InfographicVQA and ChartQA as they are released, in each of their forms."""

import base64
import csv

import pytest
from miniatures import counted, image, parquet, pictures, png, read, write


def test_textvqa_has_the_answers_of_ten_people(tmp_path):
    row = {"question_id": 34602, "question": "what brand?", "image_id": "0054c91397f2fe05", "answers": ["nokia"] * 10}
    source = write(tmp_path / "TextVQA_0.5.1_val.json", {"dataset_type": "val", "data": [row | {"set_name": "val"}]})
    pictures(tmp_path / "train_images", "0054c91397f2fe05.jpg")
    items, there, note = read(source, "textvqa")
    assert (items[0]["id"], items[0]["answers"], items[0]["pictures"], items[0]["split"]) == (
        "34602", ["nokia"] * 10, ["0054c91397f2fe05.jpg"], "val")  # fmt: skip
    assert note["problems"] == {}
    items, there, _ = read(parquet(tmp_path / "validation.parquet", [row | {"image": image(1)}]), "textvqa")
    assert there == ["0054c91397f2fe05"]


def test_documents_have_several_answers_and_the_kind_of_their_question(tmp_path):
    row = {"questionId": 337, "question": "what is the date?", "docId": 279, "ucsf_document_id": "xnbl0037",
           "answers": ["1/8/93", "1/8/1993"], "question_types": ["handwritten", "form"],
            "data_split": "val"}  # fmt: skip
    source = write(tmp_path / "val_v1.0.json", {"data": [row | {"image": "documents/xnbl0037_1.png"}]})
    items, there, _ = read(source, "docvqa", images=pictures(tmp_path / "documents", "xnbl0037_1.png"))
    assert there == ["xnbl0037_1.png"]
    assert (items[0]["answers"], items[0]["pattern"], items[0]["document"], items[0]["task"]) == (
        ["1/8/93", "1/8/1993"], "handwritten", "xnbl0037", "docvqa")  # fmt: skip
    items, there, _ = read(parquet(tmp_path / "d.parquet", [row | {"image": image(1), "questionId": "337"}]), "docvqa")
    assert (there, items[0]["group"]) == (["279"], "279")
    info = {
        "questionId": 1,
        "question": "how many?",
        "image_local_name": "10.jpeg",
        "answers": ["3"],
        "answer_type": ["x"],
    }
    source = write(tmp_path / "infographicsVQA_val_v1.0.json", {"data": [info]})
    items, _, _ = read(source, "infovqa", images=pictures(tmp_path / "info", "10.jpeg"))
    assert (items[0]["pictures"], items[0]["task"]) == (["10.jpeg"], "infovqa")


def test_chartqa_knows_human_from_augmented_questions(tmp_path):
    folder = tmp_path / "test"
    write(folder / "test_human.json", [{"imgname": "1.png", "query": "How many?", "label": "14"}])
    write(folder / "test_augmented.json", [{"imgname": "2.png", "query": "What year?", "label": "2010"}])
    pictures(folder / "png", "1.png", "2.png")
    items, _, note = read(folder, "chartqa")
    assert [(r["id"], r["pattern"], r["prompt"], r["answer"]) for r in items] == [
        ("test_augmented-0", "augmented", "What year?", "2010"), ("test_human-0",
         "human", "How many?", "14")]  # fmt: skip
    rows = [{"type": "human_test", "question": "q", "answer": "5", "image": image(1)},
            {"type": "odd", "question": "q", "answer": "6", "image": image(2)}]  # fmt: skip
    items, _, note = read(parquet(tmp_path / "test.parquet", rows), "chartqa")
    assert [r["pattern"] for r in items] == ["human", None]
    assert counted(note) == {"questions are neither human nor augmented": 1}


@pytest.mark.parametrize("form", ["json", "parquet"])
def test_gqa_is_one_file_or_two_tables_joined_by_the_picture(tmp_path, form):
    row = {"imageId": "n161313", "question": "Is it cloudy?", "answer": "yes", "fullAnswer": "Yes, it is cloudy.",
           "types": {"structural": "verify", "semantic": "global", "detailed": "weatherVerify"}}  # fmt: skip
    folder = tmp_path / "GQA"
    if form == "json":
        write(folder / "testdev_balanced_questions.json", {"201": row})
        pictures(folder / "images", "n161313.jpg")
    else:
        parquet(folder / "testdev_balanced_instructions" / "testdev-0.parquet", [{"id": "201"} | row,
                {"id": "202"} | row | {"imageId": "lost"}])  # fmt: skip
        parquet(folder / "testdev_balanced_images" / "testdev-0.parquet", [{"id": "n161313", "image": image(1)}])
    items, there, note = read(folder, "gqa")
    assert (items[0]["id"], items[0]["answer"], items[0]["pattern"], items[0]["detailed"]) == (
        "201", "yes", "verify", "weatherVerify")  # fmt: skip
    assert there == ["n161313.jpg" if form == "json" else "n161313"]
    assert items[0]["full_answer"] == "Yes, it is cloudy."
    if form == "parquet":
        assert counted(note)["questions are about a picture that is in no file"] == 1


def test_a_list_in_a_cell_is_several_answers(tmp_path):
    with open(tmp_path / "TextVQA_VAL.tsv", "w", newline="") as file:
        csv.writer(file, delimiter="\t").writerows([
            ("index", "question", "answer", "image"),
            ("1", "what?", "['a', 'b', 'a']", base64.b64encode(png(1)).decode())])  # fmt: skip
    items, _, _ = read(tmp_path / "TextVQA_VAL.tsv", "textvqa")
    assert items[0]["answers"] == ["a", "b", "a"]
