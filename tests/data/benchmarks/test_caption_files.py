"""NLVR, captions by Karpathy's splits, what is in COCO's pictures, and benchmarks whose answers a judge rates."""

import json

import pytest
from miniatures import counted, image, parquet, pictures, read, write

from omma.table import Table


def test_nlvr_asks_a_sentence_about_six_orders_of_the_boxes(tmp_path):
    folder = tmp_path / "dev"
    lines = [{"sentence": "There is a box.", "label": "true", "identifier": "7-0", "directory": "2"},
             {"sentence": "There is a box.", "label": "false", "identifier": "7-1", "directory": "2"}]  # fmt: skip
    write(folder / "dev.json", "".join(json.dumps(line) + "\n" for line in lines))
    pictures(folder / "images", *(f"2/dev-7-{pair}-{order}.png" for pair in (0, 1) for order in range(6)))
    items, there, note = read(folder, "nlvr")
    assert (len(items), len(there)) == (12, 12)
    assert items[7]["pictures"] == ["2/dev-7-1-1.png"]
    assert {(row["group"], row["split"]) for row in items} == {("7", "dev")}
    assert [row["answer"] for row in items] == ["true"] * 6 + ["false"] * 6
    assert counted(note) == {"files are none of the versions known": 1}


def coco(tmp_path, captions=6):
    sentences = [{"raw": f" caption {n}.", "tokens": ["caption"]} for n in range(captions)]
    entry = {
        "filename": "COCO_val2014_1.jpg",
        "filepath": "val2014",
        "cocoid": 1,
        "split": "test",
        "sentences": sentences,
    }
    other = entry | {"filename": "COCO_train2014_2.jpg", "filepath": "train2014", "split": "restval"}
    pictures(tmp_path / "images", "val2014/COCO_val2014_1.jpg", "train2014/COCO_train2014_2.jpg")
    return write(tmp_path / "dataset_coco.json", {"images": [entry, other], "dataset": "coco"})


def test_karpathys_test_split_keeps_all_captions_or_five(tmp_path):
    source = coco(tmp_path)
    items, there, note = read(source, "karpathy", part="test")
    assert there == ["val2014/COCO_val2014_1.jpg"]
    assert (items[0]["task"], items[0]["split"], len(items[0]["answers"])) == ("caption", "test", 6)
    told = Table.open(tmp_path / "out0" / "pictures").read(["captions"]).to_pylist()[0]["captions"]
    assert [one["text"] for one in told] == [f"caption {n}." for n in range(6)]
    items, _, note = read(source, "karpathy-5", part="test")
    assert len(items[0]["answers"]) == 5
    assert (note["captions"], note["captions_released"]) == (10, 12)


def test_captions_of_a_split_come_as_a_list_or_in_parquet(tmp_path):
    pictures(tmp_path / "flickr30k-images", "1007.jpg")
    source = write(tmp_path / "flickr30k_test.json", [{"image": "flickr30k-images/1007.jpg", "caption": ["a", "b"]}])
    items, there, note = read(source, "karpathy-5")
    assert (there, items[0]["answers"]) == (["1007.jpg"], ["a", "b"])
    assert counted(note) == {"pictures have fewer than 5 captions": 1}
    rows = [{"image": image(1), "caption": ["a", "b"], "img_id": "7", "filename": "7.jpg", "split": "test"}]
    items, there, _ = read(parquet(tmp_path / "test.parquet", rows), "karpathy")
    assert (there, items[0]["answers"]) == (["7.jpg"], ["a", "b"])


def test_chair_knows_the_classes_that_are_marked_in_the_pictures_that_are_there(tmp_path):
    folder = tmp_path / "annotations"
    images = [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}]
    marks = [{"id": n, "image_id": 1, "category_id": c} for n, c in enumerate((3, 1, 3, 99))]
    write(folder / "instances_val2014.json", {"images": images, "annotations": marks,
          "categories": [{"id": 1, "name": "person"}, {"id": 3, "name": "cup"}]})  # fmt: skip
    with pytest.raises(ValueError, match="no captions at"):
        read(folder, "chair", images=pictures(tmp_path / "some", "a.jpg"))
    write(folder / "captions_val2014.json", {"annotations": [{"image_id": 1, "caption": "A man. "}]})
    items, there, note = read(folder, "chair", images=tmp_path / "some")
    assert (items[0]["things"], items[0]["answers"], there) == (["cup", "person"], ["A man."], ["a.jpg"])
    assert note["pictures_without_a_file"] == 1
    assert counted(note) == {"marks are of no class that the file lists": 1}


def test_mm_vet_sorts_its_capabilities_and_keeps_the_words_that_join_answers(tmp_path):
    entry = {"imagename": "v1_0.png", "question": "What is x?", "answer": "-1<AND>-5", "capability": ["ocr", "math"]}
    write(tmp_path / "V" / "mm-vet.json", {"v1_0": entry})
    pictures(tmp_path / "V" / "images", "v1_0.png")
    items, there, _ = read(tmp_path / "V", "mm-vet")
    assert (items[0]["id"], items[0]["pattern"], items[0]["answer"]) == ("v1_0", "math ocr", "-1<AND>-5")
    assert there == ["v1_0.png"]
    rows = [{"question_id": "v1_0", "image": image(1), "question": "q", "answer": "a", "capability": "ocr,math"}]
    items, _, _ = read(parquet(tmp_path / "test.parquet", rows), "mm-vet")
    assert items[0]["pattern"] == "math ocr"


def test_llava_bench_brings_the_reference_and_the_context_for_its_judge(tmp_path):
    folder = tmp_path / "L"
    asked = [{"question_id": n, "image": f"00{n}.jpg", "text": "What?", "category": "conv"} for n in (1, 2)]
    write(folder / "questions.jsonl", asked)
    with pytest.raises(ValueError, match=r"no context\.jsonl beside"):
        read(folder, "llava-bench")
    write(folder / "context.jsonl", [{"id": "001", "image": "001.jpg", "caption": "A cup."}])
    write(folder / "answers_gpt4.jsonl", [{"question_id": 1, "text": "It is a cup."}])
    pictures(folder / "images", "001.jpg", "002.jpg")
    items, _, note = read(folder, "llava-bench")
    assert [(r["answer"], r["context"], r["pattern"]) for r in items] == [
        ("It is a cup.", "A cup.", "conv"), (None, None, "conv")]  # fmt: skip
    assert counted(note) == {"pictures have no context": 1, "rows have no answer": 1}
    rows = [{"question_id": 1, "image_id": "001.jpg", "image": image(1), "question": "What?", "category": "conv",
             "caption": "A cup.", "gpt_answer": "It is a cup."}]  # fmt: skip
    packed, there, _ = read(parquet(tmp_path / "train.parquet", rows), "llava-bench")
    assert (packed[0]["answer"], packed[0]["context"], there) == ("It is a cup.", "A cup.", ["001.jpg"])
