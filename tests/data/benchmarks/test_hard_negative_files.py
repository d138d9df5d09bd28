"""SugarCrepe, ARO, Winoground and NaturalBench as they are released."""

import pytest
from miniatures import counted, image, parquet, pictures, read, write

from omma.table import Table


def test_sugarcrepe_has_the_true_caption_first_and_its_file_for_a_pattern(tmp_path):
    folder = tmp_path / "data"
    entries = {"0": {"filename": "0.jpg", "caption": "a cat", "negative_caption": "a dog"},
               "1": {"filename": "1.jpg", "caption": "a cup", "negative_caption": "a cup"}}  # fmt: skip
    write(folder / "swap_obj.json", entries)
    items, there, note = read(folder, "sugarcrepe", images=pictures(tmp_path / "val2017", "0.jpg", "1.jpg", "2.jpg"))
    assert [(row["id"], row["pattern"], row["options"], row["answer"]) for row in items] == [
        ("swap_obj-0", "swap_obj", ["a cat", "a dog"], "a cat"),
        ("swap_obj-1", "swap_obj", ["a cup"] * 2, "a cup")]  # fmt: skip
    assert there == ["0.jpg", "1.jpg"]
    assert counted(note) == {"files are none of the versions known": 1, "rows offer an option twice": 1}


def test_aro_cuts_the_box_out_of_the_picture(tmp_path):
    folder = tmp_path / "ARO"
    row = {"image_path": "7.jpg", "true_caption": "a on b", "false_caption": "b on a", "bbox_x": 2, "bbox_y": 1,
           "bbox_w": 4, "bbox_h": 3}  # fmt: skip
    write(folder / "visual_genome_relation.json", [row | {"relation_name": "on"}, row | {"image_path": "lost.jpg"}])
    write(folder / "visual_genome_attribution.json", [row | {"attributes": ["red", "old"]}])
    pictures(folder / "images", "7.jpg")
    items, there, note = read(folder, "aro")
    assert [(row["id"], row["pattern"], row["part"]) for row in items] == [
        ("relation-0", "on", "relation"), ("relation-1", None, "relation"),
        ("attribution-0", "red_old", "attribution")]  # fmt: skip
    assert there == ["7.jpg@2,1,4,3"]
    size = Table.open(tmp_path / "out0" / "pictures").read(["width", "height"]).to_pylist()
    assert size == [{"width": 4, "height": 3}]
    assert counted(note) == {"pictures are not there": 1}


def test_aros_orders_have_the_true_caption_before_its_shuffled_ones(tmp_path):
    rows = [{"image": "val2014/7.jpg", "caption_options": ["a cat on a mat", "mat a on cat a", "a mat on a cat"]}]
    write(tmp_path / "coco_order.json", rows)
    pictures(tmp_path / "images" / "val2014", "7.jpg")
    (item,), there, note = read(tmp_path, "aro")
    assert (item["id"], item["options"], item["answer"]) == (
        "coco_order-0", rows[0]["caption_options"], "a cat on a mat")  # fmt: skip
    assert item["pictures"] == there
    assert there == ["val2014/7.jpg"]
    assert counted(note) == {}


def test_a_box_that_holds_nothing_of_a_picture_or_too_much_is_counted_and_its_picture_missing(tmp_path):
    row = {"image_path": "7.jpg", "true_caption": "a on b", "false_caption": "b on a", "bbox_x": 2, "bbox_y": 1,
           "bbox_w": 4, "bbox_h": 3, "relation_name": "on"}  # fmt: skip
    rows = [row, row | {"bbox_w": 0}, row | {"bbox_h": -3}, row | {"bbox_w": 1e5, "bbox_h": 1e5}]
    write(tmp_path / "visual_genome_relation.json", rows)
    pictures(tmp_path / "images", "7.jpg")
    items, there, note = read(tmp_path, "aro")
    assert [row["pictures"] for row in items] == [there, [""], [""], [""]]
    assert counted(note) == {"boxes can't be cut out of a picture": 3, "rows have no picture where one belongs": 3}


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_winoground_has_two_pictures_and_two_captions(tmp_path, form):
    rows = [{"id": n, "image_0": image(2 * n), "image_1": image(2 * n + 1), "caption_0": "old kisses young",
             "caption_1": "young kisses old", "tag": "Adjective", "secondary_tag": "", "num_main_preds": 1,
             "collapsed_tag": "Object"} for n in (0, 1)]  # fmt: skip
    if form == "jsonl":
        names = [{f"image_{k}": f"ex_{row['id']}_img_{k}" for k in (0, 1)} for row in rows]
        write(tmp_path / "W" / "data" / "examples.jsonl", [row | name for row, name in zip(rows, names, strict=True)])
        pictures(tmp_path / "W" / "data" / "images", *(f"{name}.png" for each in names for name in each.values()))
    else:
        parquet(tmp_path / "W" / "data" / "test-0.parquet", rows)
    items, there, note = read(tmp_path / "W", "winoground")
    suffix = ".png" if form == "jsonl" else ""
    assert there == [f"ex_{n}_img_{k}{suffix}" for n in (0, 1) for k in (0, 1)]
    assert items[1]["pictures"] == there[2:]
    assert (items[0]["options"], items[0]["pattern"], items[0]["secondary_tag"]) == (
        ["old kisses young", "young kisses old"], "Object", None)  # fmt: skip
    assert note["problems"] == {}


def test_naturalbench_gives_the_same_four_questions_from_both_of_its_forms(tmp_path):
    block = {"Index": 0, "Image_0": image(0), "Image_1": image(1), "Question_0": "Is it red?", "Image_0_Question_0":
             "Yes", "Image_1_Question_0": "No", "Question_1": "Is it blue?", "Image_0_Question_1": "No",
             "Image_1_Question_1": "Yes", "Question_Type": "yes_no", "Source": "Flickr30K"}  # fmt: skip
    flat = [{"Index": 2 * q + k, "Image": image(k), "Question": block[f"Question_{q}"],
             "Answer": block[f"Image_{k}_Question_{q}"], "Question_Type": "yes_no"}
            for q in (0, 1) for k in (0, 1)]  # fmt: skip
    one = read(parquet(tmp_path / "block.parquet", [block]), "naturalbench")[0]
    other = read(parquet(tmp_path / "flat.parquet", flat), "naturalbench")[0]
    assert one == other
    assert [(row["id"], row["pictures"], row["answer"]) for row in one] == [
        ("0-q0-i0", ["0-0"], "yes"), ("0-q0-i1", ["0-1"], "no"),
        ("0-q1-i0", ["0-0"], "no"), ("0-q1-i1", ["0-1"], "yes")]  # fmt: skip
    lettered = block | {"Question_Type": "multiple_choice"} | {
        f"Image_{k}_Question_{q}": "AB"[k ^ q] for q in (0, 1) for k in (0, 1)}  # fmt: skip
    rows = read(parquet(tmp_path / "choice.parquet", [lettered]), "naturalbench")[0]
    assert [row["answer"] for row in rows] == ["A", "B", "B", "A"]


def test_two_pictures_of_one_name_are_kept_apart(tmp_path):
    rows = [{"id": 0, "image_0": image(0), "image_1": image(1), "caption_0": "a", "caption_1": "b"},
            {"id": 0, "image_0": image(2), "image_1": image(1), "caption_0": "c", "caption_1": "d"}]  # fmt: skip
    items, there, note = read(parquet(tmp_path / "test.parquet", rows), "winoground")
    assert there == ["ex_0_img_0", "ex_0_img_1", "ex_0_img_0#2"]
    assert [row["pictures"] for row in items] == [["ex_0_img_0", "ex_0_img_1"], ["ex_0_img_0#2", "ex_0_img_1"]]
    assert counted(note)["pictures bear the name of another one"] == 1
    assert counted(note)["ids came before"] == 1
