"""Every kind of source becomes the table it says it is: recognised by looking, read row by row, counted to the last."""

import gzip
import io
import json
import os
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from picture_files import picture, problems, spoken, statuses, texts, write, write_tar
from PIL import Image

from omma import cli_data
from omma.data import ingest as module
from omma.data.formats import FORMATS, recognise
from omma.data.ingest import ingest, summary
from omma.decode import Limits, open_picture
from omma.table import Table

TURNS = [{"from": "human", "value": "<image>\nWhat is this?"}, {"from": "gpt", "value": "A cat."},
         {"from": "human", "value": "Where?"}, {"from": "gpt", "value": "On a mat."}]


def coco(folder, **more):
    images = [{"id": 7, "file_name": "a.png", "license": 3}, {"id": 9, "file_name": "b.png", "license": 4}]
    notes = [{"id": 1, "image_id": 9, "caption": "a dog"}, {"id": 2, "image_id": 7, "caption": "a cat "},
             {"id": 3, "image_id": 7, "caption": "the cat"}]
    write(folder / "val", {"a.png": picture(1), "b.png": picture(2)})
    return write(folder, {"notes/captions_val.json": json.dumps(
        {"info": {}, "images": images, "annotations": notes} | more)}) / "notes/captions_val.json"


def llava(folder, entries):
    write(folder, {"images/a.png": picture(1), "images/b.png": picture(2)})
    return write(folder, {"chat.json": json.dumps(entries)}) / "chat.json"


def example(name, folder):
    """A source of each format, whose one or more pictures can be used."""
    png = {"a.png": picture(1)}
    match name:
        case "hf":
            rows = {"image": [{"bytes": picture(1), "path": None}]}
            datasets.Dataset.from_dict(rows).save_to_disk(folder / "saved")
            return folder / "saved"
        case "parquet":
            pq.write_table(pa.table({"image": [picture(1)]}), folder / "a.parquet")
            return folder / "a.parquet"
        case "coco":
            return coco(folder)
        case "llava":
            return llava(folder, [{"id": "x", "image": "a.png", "conversations": TURNS}])
        case "csv":
            return write(folder, {**png, "list.csv": "url,file\nhttps://a.example/a.png,a.png\n"}) / "list.csv"
        case "nlvr":
            return nlvr(folder)
        case "webdataset":
            return write_tar(folder / "a.tar", [("a.png", picture(1))])
        case "folder":
            return write(folder / "photos", png)


def nlvr(folder):
    said = "There is a black block"
    members = [(f"dev-1-{i}.{kind}", picture(i) if kind == "png" else
                {"id": f"dev-1-{i}", "sentence": said, "label": i == 0, "identifier": "1", "permutation": i,
                 "directory": "2"}) for i in range(2) for kind in ("json", "png")]
    return write_tar(folder / "dev.tar", members)


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_is_recognised_by_looking_and_by_name_and_no_picture_of_it_is_lost(tmp_path, name):
    place = example(name, tmp_path)
    assert recognise(place).format == name
    assert recognise(place, name).format == name
    table = ingest(place, tmp_path / "out")
    counts = summary(table)
    assert set(counts["status"]) == {"ok"}
    assert counts["read"] == counts["new"] == table.num_rows > 0
    again = summary(ingest(place, tmp_path / "out"))
    assert (again["new"], again["known"], again["rows"]) == (0, table.num_rows, table.num_rows)


def test_an_unknown_source_is_answered_with_the_formats_there_are(tmp_path):
    place = write(tmp_path, {"notes.json": '{"pictures": []}'}) / "notes.json"
    with pytest.raises(ValueError, match=r"notes.json is of no format that omma reads") as raised:
        ingest(place, tmp_path / "out")
    assert all(f"\n  {name}: " in str(raised.value) for name in FORMATS)
    with pytest.raises(ValueError, match=r"notes.json is not of the format 'coco'"):
        ingest(place, tmp_path / "out", format="coco")
    cut = write(tmp_path, {"cut.json": '{"images": ['}) / "cut.json"
    with pytest.raises(ValueError, match=r"cut.json is not of the format 'coco' and no valid JSON; it may be cut off"):
        ingest(cut, tmp_path / "out", format="coco")
    with pytest.raises(ValueError, match=r"format='tfds'; there are hf, parquet, coco"):
        ingest(place, tmp_path / "out", format="tfds")
    table = ingest(example("folder", tmp_path), tmp_path / "made")
    with pytest.raises(ValueError, match=r"made is a table already; read it with omma.Table.open"):
        ingest(table.uri, tmp_path / "out")


# ---- Parquet

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), IMAGE, pa.dictionary(pa.int32(), pa.binary())])
def test_parquet_gives_the_same_rows_whatever_type_its_pictures_have(tmp_path, kind):
    data = [picture(1), picture(2), None]
    if pa.types.is_struct(kind):
        data = [{"bytes": entry, "path": "x.png"} if entry else None for entry in data]
    column = pa.array(data, pa.binary()).dictionary_encode() if pa.types.is_dictionary(kind) else pa.array(data, kind)
    rows = pa.table({"extra": pa.array([b"no picture"] * 3), "image": column, "id": ["a", "b", "c"],
                     "caption": pa.array([["one", "uno"], ["two"], None]), "vector": [[1.0], [2.0], [3.0]],
                     "split": ["test", None, "train"], "licence": pa.array(["MIT", "CC0", None], pa.large_string())})
    pq.write_table(rows, tmp_path / "a.parquet")
    table = ingest(tmp_path / "a.parquet", tmp_path / "out", fields="licence", split="val")
    assert texts(table) == {"a": ["one", "uno"], "b": ["two"], "c": []}
    assert statuses(table) == {"a": "ok", "b": "ok", "c": "empty"}
    assert table.read(["bytes"])["bytes"].to_pylist()[:2] == [picture(1), picture(2)]
    assert table.read(["split", "licence"]).to_pylist() == [
        {"split": "test", "licence": "MIT"}, {"split": "val", "licence": "CC0"}, {"split": "train", "licence": None}]


def test_a_folder_of_parquet_goes_on_after_a_damaged_file_and_rows_without_an_id_are_numbered(tmp_path):
    write(tmp_path / "data", {"0.parquet": b"PAR1 and nothing", "readme.md": "hello"})
    pq.write_table(pa.table({"image": [picture(1), b"<html>", picture(2)]}), tmp_path / "data" / "1.parquet")
    table = ingest(tmp_path / "data", tmp_path / "out")
    assert statuses(table) == {"1-000000": "ok", "1-000001": "not_an_image", "1-000002": "ok"}
    assert "0.parquet is damaged after 0 rows" in problems(table)
    with pytest.raises(ValueError, match="are packed, so nothing can point into it"):
        ingest(tmp_path / "data", tmp_path / "refer", store="reference")


def test_a_caption_that_is_no_utf8_marks_its_row_and_no_other(tmp_path):
    raw = pa.array([b"fine", b"caf\xe9", b"also fine"], pa.binary())
    spoiled = pa.StringArray.from_buffers(3, raw.buffers()[1], raw.buffers()[2])
    pq.write_table(pa.table({"image": [picture(i) for i in range(3)], "id": ["a", "b", "c"], "caption": spoiled}),
                   tmp_path / "a.parquet")
    table = ingest(tmp_path / "a.parquet", tmp_path / "out")
    assert statuses(table) == {"a": "ok", "b": "bad_text", "c": "ok"}
    assert texts(table) == {"a": ["fine"], "b": [], "c": ["also fine"]}


def test_parquet_that_names_files_refers_to_them_and_reads_none_outside_its_folder(tmp_path):
    write(tmp_path, {"secret.png": picture(9), "data/a.png": picture(1)})
    rows = {"image": [{"bytes": None, "path": path} for path in ("a.png", "../secret.png", "gone.png")]}
    pq.write_table(pa.table({"file": [row["path"] for row in rows["image"]], "id": ["a", "b", "c"]}),
                   tmp_path / "data" / "a.parquet")
    table = ingest(tmp_path / "data" / "a.parquet", tmp_path / "out", store="reference")
    assert statuses(table) == {"a": "ok", "b": "empty", "c": "empty"}
    assert table.take(["a"])["uri"].to_pylist() == [str(tmp_path / "data" / "a.png")]
    assert "1 files lie outside" in problems(table)
    assert "1 files are not there" in problems(table)
    stored = ingest(tmp_path / "data" / "a.parquet", tmp_path / "stored", images=tmp_path)
    assert statuses(stored) == {"a": "empty", "b": "empty", "c": "empty"}
    assert "../secret.png" in problems(stored)


def test_a_table_without_pictures_is_an_error_that_names_its_columns(tmp_path):
    pq.write_table(pa.table({"caption": ["one"], "n": [1]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a.parquet has no column of pictures, it has caption, n"):
        ingest(tmp_path / "a.parquet", tmp_path / "out")


def test_pictures_above_the_limit_keep_their_row_and_its_neighbours(tmp_path):
    pq.write_table(pa.table({"image": [picture(1), picture(2, (40, 40))], "id": ["a", "b"]}), tmp_path / "a.parquet")
    table = ingest(tmp_path / "a.parquet", tmp_path / "out", limits=Limits(max_bytes=4000))
    assert statuses(table) == {"a": "ok", "b": "too_many_bytes"}


# ---- Hugging Face datasets

def test_what_datasets_saved_is_read_without_it_with_labels_by_name_and_every_split(tmp_path):
    features = datasets.Features({"image": datasets.Image(), "caption": datasets.Value("string"),
                                  "label": datasets.ClassLabel(names=["cat", "dog"])})

    def part(start):
        pictures = [Image.open(io.BytesIO(picture(start + i))) for i in range(3)]
        return datasets.Dataset.from_dict({"image": pictures, "caption": [f"this is {start + i}" for i in range(3)],
                                           "label": [0, 1, 1]}, features=features)

    datasets.DatasetDict({"train": part(0), "test": part(10)}).save_to_disk(tmp_path / "pets", num_shards={
        "train": 2, "test": 1})
    table = ingest(tmp_path / "pets", tmp_path / "out", fields="label")
    rows = table.read().to_pylist()
    assert [row["id"] for row in rows] == [f"pets-{split}-{i:06d}" for split in ("train", "test") for i in range(3)]
    assert [row["split"] for row in rows] == ["train"] * 3 + ["test"] * 3
    assert [row["label"] for row in rows] == ["cat", "dog", "dog"] * 2
    assert texts(table)["pets-test-000002"] == ["this is 12"]
    for row, number in zip(rows, (0, 1, 2, 10, 11, 12), strict=True):
        with Image.open(io.BytesIO(picture(number))) as expected:
            assert np.array_equal(np.asarray(open_picture(row).image), np.asarray(expected))


def test_a_saved_data_set_that_is_cut_off_keeps_the_rows_before_the_cut(tmp_path):
    rows = {"image": [{"bytes": picture(i), "path": None} for i in range(4)]}
    datasets.Dataset.from_dict(rows).save_to_disk(tmp_path / "saved", num_shards=2)
    last = sorted((tmp_path / "saved").glob("*.arrow"))[1]
    last.write_bytes(last.read_bytes()[:-2000])
    table = ingest(tmp_path / "saved", tmp_path / "out")
    assert statuses(table) == {"saved-000000": "ok", "saved-000001": "ok"}
    assert f"{last.name} is damaged after 0 rows" in problems(table)


def test_a_saved_data_set_without_its_list_of_files_is_an_error_and_a_state_of_something_else_is_none(tmp_path):
    write(tmp_path / "run", {"state.json": '{"step": 3}', "a.png": picture(1)})
    assert recognise(tmp_path / "run").format == "folder"
    write(tmp_path / "saved", {"dataset_dict.json": '{"splits": ["train"]}'})
    with pytest.raises(ValueError, match=r"train has no state.json that lists its Arrow files"):
        ingest(tmp_path / "saved", tmp_path / "out")


# ---- COCO captions

def test_coco_gives_a_row_a_picture_with_all_its_captions_and_finds_the_folder_of_pictures(tmp_path):
    table = ingest(coco(tmp_path), tmp_path / "out", fields="license")
    assert texts(table) == {"7": ["a cat", "the cat"], "9": ["a dog"]}
    assert statuses(table) == {"7": "ok", "9": "ok"}
    assert table.read(["license"])["license"].to_pylist() == ["3", "4"]
    assert problems(table) == ""


def test_a_coco_picture_that_is_missing_or_has_a_wrong_caption_keeps_its_row(tmp_path):
    images = [{"id": i, "file_name": name} for i, name in enumerate(["a.png", "gone.png", "b.png", "../x.png"])]
    notes = [{"image_id": 0, "caption": 5}, {"image_id": 2, "caption": "fine"}, {"image_id": 77, "caption": "whose?"}]
    place = coco(tmp_path, images=[*images, {"file_name": "c.png"}], annotations=notes)
    table = ingest(place, tmp_path / "out", images=tmp_path / "val")
    assert statuses(table) == {"0": "bad_text", "1": "empty", "2": "ok", "3": "empty"}
    assert "1 captions are of images that aren't listed, such as 77" in problems(table)
    counts = summary(table)
    assert counts["left_out"] == {"no picture": 1}
    assert counts["read"] == 5 == counts["rows"] + sum(counts["left_out"].values())


def test_a_byte_that_is_no_utf8_in_a_json_spoils_its_own_caption_only(tmp_path):
    place = coco(tmp_path)
    place.write_bytes(place.read_bytes().replace(b"a dog", b"a d\xf6g"))
    table = ingest(place, tmp_path / "out")
    assert statuses(table) == {"7": "ok", "9": "bad_text"}


# ---- LLaVA and ShareGPT

def test_conversations_keep_their_turns_and_give_captions_only_when_asked(tmp_path):
    other = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
    place = llava(tmp_path, [{"id": "x", "image": "a.png", "conversations": TURNS},
                             {"id": 5, "image": ["b.png"], "messages": other}])
    table = ingest(place, tmp_path / "out")
    rows = {row["id"]: row for row in table.read().to_pylist()}
    assert rows["x"]["conversations"] == TURNS
    assert rows["5"]["conversations"] == [{"from": "user", "value": "Hi"}, {"from": "assistant", "value": "Hello."}]
    assert texts(table) == {"x": [], "5": []}
    asked = ingest(place, tmp_path / "asked", captions="conversations")
    assert texts(asked) == {"x": ["A cat.", "On a mat."], "5": ["Hello."]}


def test_entries_without_a_picture_or_with_several_are_counted_and_wrong_turns_are_bad_text(tmp_path):
    place = llava(tmp_path, [
        {"image": "a.png", "conversations": TURNS}, {"id": "talk", "conversations": TURNS}, "nonsense",
        {"id": "two", "image": ["a.png", "b.png"], "conversations": TURNS},
        {"id": "odd", "image": "b.png", "conversations": [{"from": "gpt"}]},
        {"id": "gone", "image": "gone.png", "conversations": TURNS}])
    table = ingest(place, tmp_path / "out")
    assert statuses(table) == {"chat-000000": "ok", "odd": "bad_text", "gone": "empty"}
    counts = summary(table)
    assert counts["left_out"] == {"no picture": 2, "several pictures": 1}
    assert counts["read"] == 6


def test_lines_of_json_are_read_as_a_list(tmp_path):
    place = llava(tmp_path, [])
    lines = [json.dumps({"id": str(i), "image": "a.png", "conversations": TURNS}) for i in range(3)]
    lined = write(tmp_path, {"chat.jsonl": "\n".join([*lines[:2], "{broken", lines[2]])}) / "chat.jsonl"
    place.unlink()
    table = ingest(lined, tmp_path / "out")
    assert statuses(table) == {"0": "ok", "1": "ok", "2": "ok"}
    assert summary(table)["left_out"] == {"no picture": 1}


# ---- CSV

def test_a_csv_of_urls_keeps_the_url_and_takes_the_local_file(tmp_path):
    place = write(tmp_path, {
        "a.png": picture(1), "b.png": picture(2),
        "list.csv": b"url,path,caption\nhttps://x.example/1,a.png,one\nhttps://x.example/1,a.png,eins\n"
                    b"https://x.example/2,b.png,caf\xe9\nhttps://x.example/3,,never came\n,,\n"}) / "list.csv"
    table = ingest(place, tmp_path / "out")
    assert texts(table) == {"a.png": ["one", "eins"], "b.png": [], "list-000002": ["never came"]}
    assert statuses(table) == {"a.png": "ok", "b.png": "bad_text", "list-000002": "empty"}
    assert table.read(["url"])["url"].to_pylist() == [f"https://x.example/{i}" for i in (1, 2, 3)]
    assert summary(table)["left_out"] == {"no picture": 1}


def test_a_csv_without_local_files_is_an_error_since_nothing_is_downloaded(tmp_path):
    place = write(tmp_path, {"list.tsv": "url\tcaption\nhttps://x.example/1\tone\n"}) / "list.tsv"
    with pytest.raises(ValueError, match=r"has the columns url, caption; nothing is downloaded, so one must name"):
        ingest(place, tmp_path / "out")


# ---- NLVR

def test_nlvr_keeps_its_sentence_and_label_and_only_a_true_sentence_is_a_caption(tmp_path):
    table = ingest(nlvr(tmp_path), tmp_path / "out")
    assert texts(table) == {"dev-1-0": ["There is a black block"], "dev-1-1": []}
    assert table.read(["label", "permutation", "identifier"]).to_pylist() == [
        {"label": "true", "permutation": "0", "identifier": "1"},
        {"label": "false", "permutation": "1", "identifier": "1"}]


def test_the_dev_split_of_nlvr_has_5934_pictures_of_989_sentences(tmp_path):
    place = Path(os.environ.get("OMMA_DATA", "data")) / "nlvr" / "dev.tar"
    if not place.exists():
        pytest.skip("no nlvr/dev.tar in the folder that OMMA_DATA names")
    table = ingest(place, tmp_path / "out", store="reference")
    rows = table.read(["identifier", "label", "captions"])
    assert (table.num_rows, len(set(rows["identifier"].to_pylist()))) == (5934, 989)
    assert [bool(said) for said in rows["captions"].to_pylist()] == [label == "true" for label in
                                                                      rows["label"].to_pylist()]


# ---- tars in a tar

def shards(folder):
    """Three tars of three samples: x.tar with x0, x1, x2, and so on."""
    return [write_tar(folder / f"{name}.tar", [
        (f"{name}{i}.{kind}", picture(10 * n + i) if kind == "png" else {"caption": f"{name} {i}"})
        for i in range(3) for kind in ("json", "png")]) for n, name in enumerate("xyz")]


def test_tars_in_a_tar_give_the_rows_that_they_give_side_by_side(tmp_path):
    (tmp_path / "apart").mkdir()
    apart = shards(tmp_path / "apart")
    inner = write_tar(tmp_path / "deep.tar", [("z.tar", apart[2].read_bytes())])
    place = write_tar(tmp_path / "pile.tar", [("s/x.tar", apart[0].read_bytes()), ("y.tar", apart[1].read_bytes()),
                                              ("deep.tar", inner.read_bytes())])
    expected = ingest(tmp_path / "apart", tmp_path / "1").read()
    assert ingest(place, tmp_path / "2").read().equals(expected)
    referred = ingest(place, tmp_path / "3", store="reference").read().to_pylist()
    for row, whole in zip(referred, expected.to_pylist(), strict=True):
        with open(row["uri"], "rb") as file:
            file.seek(row["offset"])
            assert file.read(row["length"]) == whole["bytes"]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["1", "2", "3", "apart", "deep.tar", "pile.tar"]


@pytest.mark.parametrize("packed", ["outer", "inner", "both"])
def test_tars_in_a_tar_may_be_gzipped_and_then_their_pictures_are_stored(tmp_path, packed):
    (tmp_path / "apart").mkdir()
    apart = shards(tmp_path / "apart")
    expected = ingest(tmp_path / "apart", tmp_path / "1").read().drop_columns("source")
    inner = [(f"{path.name}.gz" if packed != "outer" else path.name,
              gzip.compress(path.read_bytes()) if packed != "outer" else path.read_bytes()) for path in apart]
    place = write_tar(tmp_path / "pile.tar", inner)
    if packed != "inner":
        (tmp_path / "pile.tar.gz").write_bytes(gzip.compress(place.read_bytes()))
        place = tmp_path / "pile.tar.gz"
    assert ingest(place, tmp_path / "2").read().drop_columns("source").equals(expected)
    if packed == "inner":
        referred = ingest(place, tmp_path / "3", store="reference").read()
        assert referred["bytes"].to_pylist() == expected["bytes"].to_pylist()


def test_a_pile_of_tars_cut_in_the_second_keeps_the_first_whole(tmp_path):
    apart = shards(tmp_path)
    place = write_tar(tmp_path / "pile.tar", [(path.name, path.read_bytes()) for path in apart])
    place.write_bytes(place.read_bytes()[:apart[0].stat().st_size + 1024 + 4096])
    table = ingest(place, tmp_path / "out")
    assert {row for row in statuses(table) if row.startswith("x")} == {"x0", "x1", "x2"}
    assert "pile.tar is cut off or damaged" in problems(table)


def test_tars_too_deep_in_tars_are_told_and_not_read(tmp_path):
    place = write_tar(tmp_path / "0.tar", [("a.png", picture(1))])
    for depth in range(1, 4):
        place = write_tar(tmp_path / f"{depth}.tar", [(place.name, place.read_bytes()),
                                                      (f"{depth}.png", picture(depth + 1))])
    table = ingest(place, tmp_path / "out")
    assert set(statuses(table)) == {"1", "2", "3"}
    assert "1.tar: 1 tars lie more than 3 deep and are not read" in problems(table)


# ---- again, with more

@pytest.mark.parametrize("store", ["bytes", "reference"])
def test_a_source_that_has_grown_adds_what_is_new_and_leaves_what_is_known(tmp_path, store):
    source = write(tmp_path / "photos", {"a.png": picture(1), "b.png": picture(2), "b.txt": "two"})
    ingest(source, tmp_path / "out", store=store)
    before = ingest(source, tmp_path / "out", store=store).read()
    assert before.num_rows == 2
    write(source, {"aa.png": picture(3), "c.png": picture(4)})
    table = ingest(source, tmp_path / "out", store=store)
    counts = summary(table)
    assert (counts["read"], counts["new"], counts["known"], counts["rows"]) == (4, 2, 2, 4)
    assert table.read().slice(0, 2).equals(before)
    assert [*statuses(table)] == ["a.png", "b.png", "aa.png", "c.png"]


def test_a_known_id_with_another_picture_is_another_row_once(tmp_path):
    one = write(tmp_path / "one", {"a.png": picture(1)})
    two = write(tmp_path / "two", {"a.png": picture(2)})
    ingest(one, tmp_path / "out")
    table = ingest(two, tmp_path / "out")
    assert statuses(table) == {"a.png": "ok", "a.png#2": "duplicate_key"}
    assert "1 keys came before, such as a.png" in problems(table)
    for source in (one, two):
        assert summary(ingest(source, tmp_path / "out"))["known"] == 1
    assert len(ingest(two, tmp_path / "out")) == 2


@pytest.mark.parametrize("store", ["bytes", "reference"])
def test_a_picture_that_was_missing_and_has_come_is_a_row_that_can_be_used(tmp_path, store):
    place = write(tmp_path, {"list.csv": "url,file\nhttps://x.example/1,a.png\nhttps://x.example/2,b.png\n",
                             "a.png": picture(1)}) / "list.csv"
    assert statuses(ingest(place, tmp_path / "out", store=store)) == {"a.png": "ok", "b.png": "empty"}
    write(tmp_path, {"b.png": picture(2)})
    for new in (1, 0):
        table = ingest(place, tmp_path / "out", store=store)
        assert statuses(table) == {"a.png": "ok", "b.png": "empty", "b.png#2": "ok"}
        assert summary(table)["new"] == new


@pytest.mark.parametrize("store", ["bytes", "reference"])
def test_other_captions_of_a_known_picture_are_told_and_the_row_stays(tmp_path, store):
    source = write(tmp_path / "photos", {"a.png": picture(1), "a.txt": "a cat", "b.png": picture(2), "b.txt": "a dog"})
    ingest(source, tmp_path / "out", store=store)
    assert summary(ingest(source, tmp_path / "out", store=store))["problems"] == []
    write(source, {"a.txt": "a dog"})
    table = ingest(source, tmp_path / "out", store=store)
    assert spoken(table) == {"a.png": [("en", "a cat")], "b.png": [("en", "a dog")]}
    (told,) = summary(table)["problems"]
    assert told.startswith("1 pictures have other captions now and keep those of before; ingest to another place")
    assert told.endswith("such as a.png")


def test_another_conversation_about_a_known_picture_is_added(tmp_path):
    first = {"id": "x", "image": "a.png", "conversations": TURNS[:2]}
    place = llava(tmp_path, [first])
    ingest(place, tmp_path / "out")
    place.write_text(json.dumps([first, {**first, "conversations": TURNS[2:]}, {**first, "conversations": 5}]))
    for new in (2, 0):
        table = ingest(place, tmp_path / "out")
        assert table.read(["id", "conversations"]).to_pylist() == [
            {"id": "x", "conversations": TURNS[:2]}, {"id": "x#2", "conversations": TURNS[2:]},
            {"id": "x#3", "conversations": None}]
        assert (summary(table)["new"], summary(table)["known"]) == (new, 3 - new)


def test_lists_and_columns_that_have_grown_add_their_new_rows(tmp_path):
    place = coco(tmp_path)
    ingest(place, tmp_path / "coco")
    content = json.loads(place.read_text())
    write(tmp_path / "val", {"c.png": picture(3)})
    place.write_text(json.dumps({**content, "images": [{"id": 1, "file_name": "c.png"}, *content["images"]]}))
    assert [*statuses(ingest(place, tmp_path / "coco"))] == ["7", "9", "1"]
    for number in (2, 3):
        pq.write_table(pa.table({"image": [picture(i) for i in range(number)]}), tmp_path / "a.parquet")
        table = ingest(tmp_path / "a.parquet", tmp_path / "rows")
    assert [*statuses(table)] == ["a-000000", "a-000001", "a-000002"]
    assert (summary(table)["new"], summary(table)["known"]) == (1, 2)


def test_an_addition_that_is_stopped_leaves_the_table_as_it_was_and_can_be_repeated(tmp_path, monkeypatch):
    source = write(tmp_path / "photos", {"a.png": picture(1)})
    before = ingest(source, tmp_path / "out").read()
    write(source, {f"{i}.png": picture(i) for i in range(5)})
    with monkeypatch.context() as patch:
        patch.setattr(module, "decode", lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            ingest(source, tmp_path / "out")
    assert Table.open(tmp_path / "out").read().equals(before)
    assert len(ingest(source, tmp_path / "out")) == 6


@pytest.mark.parametrize("name", FORMATS)
def test_two_workers_read_each_format_as_one_does(tmp_path, name):
    place = example(name, tmp_path)
    assert ingest(place, tmp_path / "2", workers=2).read().equals(ingest(place, tmp_path / "1").read())


def test_other_keys_or_another_store_do_not_fit_a_table_that_is_there(tmp_path):
    source = write(tmp_path / "photos", {"a.png": picture(1)})
    ingest(source, tmp_path / "out")
    for options, message in [({"fields": "license"}, r"was made with columns \[\], and this asks for \('license',\)"),
                             ({"captions": "alt"}, "was made with captions"),
                             ({"store": "reference"}, "was made with store 'bytes'")]:
        with pytest.raises(ValueError, match=message):
            ingest(source, tmp_path / "out", **options)


def test_spoken_languages_survive_a_list_of_texts_with_languages(tmp_path):
    said = [[{"text": "cat", "language": "en"}, {"text": "고양이", "language": "ko"}]]
    pq.write_table(pa.table({"image": [picture(1)], "id": ["a"], "captions": said}), tmp_path / "a.parquet")
    assert spoken(ingest(tmp_path / "a.parquet", tmp_path / "out")) == {"a": [("en", "cat"), ("ko", "고양이")]}


def test_the_command_line_names_the_formats_there_are():
    assert [entry.value for entry in cli_data.Format] == list(FORMATS)


def test_a_listed_name_too_long_for_a_file_and_a_field_too_long_for_csv_are_rows(tmp_path):
    name, caption = "n" * 5000, "long " * 40_000
    write(tmp_path, {"a.png": picture(1), "list.csv": f"file,caption\n{name},x\na.png,{caption}\n"})
    table = ingest(tmp_path / "list.csv", tmp_path / "out")
    assert texts(table) == {name: ["x"], "a.png": [caption.strip()]}
    assert statuses(table)[name] == "empty"
