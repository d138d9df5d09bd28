"""Questions from the corpora's files become rows that point to pictures; what is missing is counted or refused."""

import json

import pytest
from PIL import Image

from omma.data.questions import ingest_items
from omma.scenes.layouts import export_scenes
from omma.scenes.sources import write_scenes
from omma.table import Table


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    names = ("COCO_val2014_000000000042.jpg", "b.png", "deep/c.png")
    for k, name in enumerate(names):
        Image.effect_noise((16, 16), 50 + k).convert("RGB").save(folder / name)
    return folder


def test_vqa_questions_meet_their_ten_answers(tmp_path, photos):
    asked = [{"question_id": 7, "image_id": 42, "question": "what colour"},
             {"question_id": 8, "image_id": 43, "question": "why"}]  # fmt: skip
    questions = {"data_subtype": "val2014", "questions": asked}
    said = [{"answer": word, "answer_id": k} for k, word in enumerate(["red"] * 8 + ["dark red"] * 2)]
    answer = {"question_id": 7, "answers": said, "multiple_choice_answer": "red", "answer_type": "other"}
    told = {"annotations": [answer]}
    (tmp_path / "q.json").write_text(json.dumps(questions))
    (tmp_path / "a.json").write_text(json.dumps(told))
    pictures, items = ingest_items(tmp_path / "q.json", tmp_path / "out", images=photos, answers=tmp_path / "a.json")
    assert pictures.num_rows == 3
    one, two = items.read().to_pylist()
    assert (one["id"], one["task"], one["prompt"], one["answer"], one["pattern"]) == (
        "7", "question", "what colour", "red", "other")  # fmt: skip
    assert one["pictures"] == ["COCO_val2014_000000000042.jpg"]
    assert one["answers"] == ["red"] * 8 + ["dark red"] * 2
    assert two["answer"] is None
    assert two["pictures"] == ["COCO_val2014_000000000043"]
    assert items.info["ingest_items"] == {
        "source": str(tmp_path / "q.json"), "format": "vqa", "rows": 2, "pictures_missing": 1}  # fmt: skip


def test_scenes_exported_as_nlvr2_come_back_as_sentences_about_two_pictures(tmp_path):
    write_scenes(tmp_path / "scenes", pictures=0, pairs=1, size=64)
    counts = export_scenes(tmp_path / "scenes", "nlvr2")
    folder = tmp_path / "scenes" / "nlvr2"
    pictures, items = ingest_items(folder / "train.json", tmp_path / "out", images=folder / "images", split="dev")
    assert items.num_rows == counts["sentences"]
    rows = items.read().to_pylist()
    there = set(pictures.read(["id"])["id"].to_pylist())
    assert all(set(row["pictures"]) <= there and len(row["pictures"]) == 2 for row in rows)
    assert {row["answer"] for row in rows} == {"true", "false"}
    groups: dict[str, list[str]] = {}
    for row in rows:
        groups.setdefault(row["group"], []).append(row["answer"])
    assert all(sorted(answers) == ["false", "true"] for answers in groups.values())  # each sentence, both ways round
    assert {row["split"] for row in rows} == {"dev"}


def test_lines_of_ones_own_take_one_picture_or_several(tmp_path, photos):
    lines = [
        {"image": "b.png", "question": "what", "answer": "noise"},
        {"images": ["b.png", "deep/c.png"], "sentence": "both are grey", "label": True, "group": "g"},
        {"image": "c", "sentence": "it is red", "label": "False", "id": "mine", "split": "test"},
    ]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    _, items = ingest_items(tmp_path / "q.jsonl", tmp_path / "out", images=photos)
    rows = items.read().to_pylist()
    assert [row["task"] for row in rows] == ["question", "comparison", "statement"]
    assert [row["pictures"] for row in rows] == [["b.png"], ["b.png", "deep/c.png"], ["deep/c.png"]]
    assert [row["answer"] for row in rows] == ["noise", "true", "false"]
    assert [row["split"] for row in rows] == ["train", "train", "test"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"image": "b.png", "question": "w"}\n{"image": "b', "line 2 is no JSON"),
        ('{"image": "b.png"}', "line 1 has no question"),
        ('{"picture": "b.png"}', "its first object has picture"),
        ('{"identifier": "dev-1", "sentence": "s"}', "not split-set-pair-sentence"),
        ('{"image": "nowhere.png", "question": "w"}', "none of the pictures"),
        ('{"image": "b.png", "question": "w"}\n5', "entry 2 is no object: 5"),
        ('{"images": "b.png", "question": "w"}', "entry 1: 'images' must be a list"),
        ('{"image": "b.png", "question": "w", "answers": "cup"}', "entry 1: 'answers' must be a list"),
        ('{"image": "b.png", "question": 7}', "entry 1: 'question' must be text"),
        ('{"questions": 5}', "entry 1: 'questions' must be a list"),
        ('{"questions": [{"question_id": 1, "image_id": 2}]}', "entry 1: 'question' must be text"),
        ('{"identifier": 5, "sentence": "s"}', "entry 1: 'identifier' must be text"),
        ('{"image": "b.png", "question": "caf\udce9"}', "is neither UTF-8 nor UTF-16"),
    ],
)
def test_what_cannot_be_read_is_refused_and_leaves_nothing(tmp_path, photos, text, message):
    (tmp_path / "q.jsonl").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=message):
        ingest_items(tmp_path / "q.jsonl", tmp_path / "out", images=photos)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_filled_is_not_touched(tmp_path, photos):
    (tmp_path / "q.jsonl").write_text('{"image": "b.png", "question": "what", "answer": "noise"}')
    ingest_items(tmp_path / "q.jsonl", tmp_path / "out", images=photos)
    with pytest.raises(ValueError, match="out"):
        ingest_items(tmp_path / "q.jsonl", tmp_path / "out", images=photos)
    assert Table.open(tmp_path / "out" / "items").num_rows == 1


def test_answers_that_are_no_annotations_are_refused(tmp_path, photos):
    (tmp_path / "q.json").write_text(json.dumps({"questions": [{"question_id": 1, "image_id": 42, "question": "w"}]}))
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(ValueError, match=r"a.json, entry 1: 'annotations' must be a list"):
        ingest_items(tmp_path / "q.json", tmp_path / "out", images=photos, answers=tmp_path / "a.json")


def test_a_question_holds_any_character_and_a_file_may_begin_with_a_mark(tmp_path, photos):
    odd = "what\u2028is\x85this"
    line = json.dumps({"image": "b.png", "question": odd}, ensure_ascii=False)
    (tmp_path / "q.jsonl").write_bytes(b"\xef\xbb\xbf" + f"{line}\r\n{line}\r\n".encode())
    _, items = ingest_items(tmp_path / "q.jsonl", tmp_path / "out", images=photos)
    assert items.read(["prompt"])["prompt"].to_pylist() == [odd, odd]


def test_a_name_that_two_pictures_bear_must_be_a_path(tmp_path, photos):
    (photos / "other").mkdir()
    Image.effect_noise((16, 16), 70).convert("RGB").save(photos / "other" / "c.jpg")
    for name, found in (("b", "b.png"), ("deep/c", "deep/c.png"), ("c.jpg", "other/c.jpg"), ("c", None)):
        (tmp_path / "q.jsonl").write_text(json.dumps({"image": name, "question": "what"}))
        if found is None:
            with pytest.raises(ValueError, match=r"about c, and 2 pictures are called so: deep/c\.png, other/c\.jpg"):
                ingest_items(tmp_path / "q.jsonl", tmp_path / "none", images=photos)
        else:
            items = ingest_items(tmp_path / "q.jsonl", tmp_path / name.replace("/", "-"), images=photos)[1]
            assert items.read(["pictures"])["pictures"].to_pylist() == [[found]]
