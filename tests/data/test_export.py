"""Export: what a table holds is read back by the library that each target is for, and by ingest."""

import builtins
import gc
import io
import json
import os
import tarfile

import datasets
import lance
import numpy as np
import pyarrow.parquet as pq
import pytest
import webdataset
from picture_files import picture, spoken, statuses, write
from PIL import Image

from omma import cli_data
from omma.data.export import TARGETS, export
from omma.data.ingest import ingest, summary
from omma.decode import Limits
from omma.table import Table

SAID = {"a.b.png": [("en", "a cat, sitting"), ("ko", "고양이")], "c/d.png": [("en", "a dog")], "e.jpg": [],
        "broken.png": [("en", "nothing to see")]}
NUMBERS = {"a.b.png": 1, "c/d.png": 2, "e.jpg": 3}


def table(folder, store="bytes"):
    """Three pictures and one that is none, with captions, a column of text and one of vectors."""
    files = {name: picture(number, format="JPEG" if name.endswith("jpg") else "PNG")
             for name, number in NUMBERS.items()} | {"broken.png": b"this is no picture"}
    texts = {f"{name.rpartition('.')[0]}.json": json.dumps({
        "captions": [{"text": text, "language": code} for code, text in said], "tone": name[0]})
        for name, said in SAID.items()}
    made = ingest(write(folder / "photos", files | texts), folder / "table", fields="tone", store=store)
    assert spoken(made) == SAID
    made.add_column("embed.toy", np.arange(8, dtype=np.float32).reshape(4, 2))
    return made


def pixels(data):
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def expected(name):
    return pixels(picture(NUMBERS[name], format="JPEG" if name.endswith("jpg") else "PNG"))


@pytest.mark.filterwarnings("ignore::ResourceWarning")    # webdataset leaves its last tar open
@pytest.mark.parametrize("store", ["bytes", "reference"])
def test_webdataset_reads_the_tars_with_their_pictures_captions_and_columns(tmp_path, store):
    done = export(table(tmp_path, store), tmp_path / "out", to="webdataset")
    assert (done.read, done.rows, done.files, done.left_out) == (4, 3, 1, {"no usable picture": 1})
    samples = list(webdataset.WebDataset(str(tmp_path / "out" / "000000.tar"), shardshuffle=False).decode("pilrgb"))
    gc.collect()
    assert {sample["json"]["id"] for sample in samples} == set(NUMBERS)
    for sample in samples:
        name = sample["json"]["id"]
        assert np.array_equal(np.asarray(sample["jpg" if name == "e.jpg" else "png"]), expected(name))
        assert [(said["language"], said["text"]) for said in sample["json"]["captions"]] == SAID[name]
        assert sample.get("txt") == (SAID[name][0][1] if SAID[name] else None)
        assert sample["json"]["tone"] == name[0]
        assert "embed.toy" not in sample["json"]


@pytest.mark.parametrize("store", ["bytes", "reference"])
def test_datasets_loads_the_folder_and_shows_pictures(tmp_path, store):
    done = export(table(tmp_path, store), tmp_path / "out", to="hf")
    assert (done.read, done.rows, done.left_out, done.without_picture) == (4, 4, {}, 1)
    loaded = datasets.load_from_disk(tmp_path / "out")
    assert isinstance(loaded.features["image"], datasets.Image)
    for row in loaded.select([i for i, name in enumerate(loaded["id"]) if name in NUMBERS]):
        assert np.array_equal(np.asarray(row["image"].convert("RGB")), expected(row["id"]))
        assert [(said["language"], said["text"]) for said in row["captions"]] == SAID[row["id"]]
    assert np.array_equal(np.asarray(loaded["embed.toy"]), np.arange(8).reshape(4, 2))


def test_pyarrow_and_datasets_read_the_parquet(tmp_path):
    made = table(tmp_path)
    export(made, tmp_path / "out", to="parquet")
    rows = pq.read_table(tmp_path / "out").to_pylist()
    stored = made.read(["bytes", "status"]).to_pylist()
    found = [row["image"] and row["image"]["bytes"] for row in rows]
    assert found == [row["bytes"] if row["status"] == "ok" else None for row in stored]
    assert [row["tone"] for row in rows] == made.read(["tone"])["tone"].to_pylist()
    assert {row["id"]: [(said["language"], said["text"]) for said in row["captions"]] for row in rows} == SAID
    loaded = datasets.Dataset.from_parquet(str(tmp_path / "out" / "part-00000.parquet"), cache_dir=tmp_path / "cache")
    assert isinstance(loaded.features["image"], datasets.Image)


def test_lance_reads_what_was_written_and_finds_a_row(tmp_path):
    made = table(tmp_path)
    done = export(made, tmp_path / "out", to="lance")
    assert done.files == 1
    found = lance.dataset(str(tmp_path / "out"))
    assert found.count_rows() == 4
    row = found.to_table(filter="id = 'c/d.png'").to_pylist()[0]
    assert np.array_equal(pixels(row["image"]["bytes"]), expected("c/d.png"))
    assert row["captions"] == [{"text": "a dog", "language": "en"}]
    assert found.to_table(columns=["id"])["id"].to_pylist() == made.read(["id"])["id"].to_pylist()
    assert np.array_equal(found.to_table()["embed_toy"].to_pylist(), np.arange(8).reshape(4, 2))
    made.add_column("embed_toy", [1, 2, 3, 4])
    with pytest.raises(ValueError, match="without them two columns are called 'embed_toy'"):
        export(made, tmp_path / "two", to="lance")


def test_lance_without_the_package_says_what_to_install_and_leaves_nothing(tmp_path, monkeypatch):
    made, real = table(tmp_path), builtins.__import__

    def without_lance(name, *arguments, **named):
        if name == "lance":
            raise ImportError("no module named lance")
        return real(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", without_lance)
    with pytest.raises(ImportError, match=r"export to lance needs the package: pip install omma\[lance\]"):
        export(made, tmp_path / "out", to="lance")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["photos", "table"]


@pytest.mark.parametrize("to", [name for name in TARGETS if name != "lance"])
def test_what_was_exported_is_ingested_back_with_the_same_bytes_captions_and_statuses(tmp_path, to):
    made = table(tmp_path)
    export(made, tmp_path / "out", to=to, where="status == 'ok'")
    back = ingest(tmp_path / "out", tmp_path / "back", fields="tone")
    columns = ["id", "bytes", "captions", "split", "width", "height", "status", "tone"]
    assert back.read(columns).equals(made.read(columns, where="status == 'ok'"))
    assert summary(back)["problems"] == []


@pytest.mark.parametrize("to", [name for name in TARGETS if name != "lance"])
def test_conversations_go_out_and_come_back(tmp_path, to):
    turns = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "A cat."}]
    entries = [{"id": "x", "image": "a.png", "conversations": turns}]
    write(tmp_path, {"a.png": picture(1), "chat.json": json.dumps(entries)})
    export(ingest(tmp_path / "chat.json", tmp_path / "table"), tmp_path / "out", to=to)
    back = ingest(tmp_path / "out", tmp_path / "back", fields="conversations", captions="conversations")
    assert back.read(["id", "conversations"]).to_pylist() == [{"id": "x", "conversations": turns}]
    assert spoken(back) == {"x": [("en", "A cat.")]}


@pytest.mark.parametrize("to", [name for name in TARGETS if name != "lance"])
def test_files_close_at_the_size_asked_for_and_together_hold_every_row_in_order(tmp_path, to):
    made = Table.create(tmp_path / "table")
    for start in range(0, 6, 2):
        made.append([{"id": str(i), "bytes": picture(i)} for i in range(start, start + 2)])
    done = export(made, tmp_path / "out", to=to, shard_bytes=1500)             # a picture has 1.2 kB
    assert done.files == 3
    assert [*statuses(ingest(tmp_path / "out", tmp_path / "back"))] == [str(i) for i in range(6)]


@pytest.mark.parametrize("to", [*TARGETS])
def test_an_export_is_the_same_bytes_each_time_and_an_empty_one_is_no_error(tmp_path, to):
    made = table(tmp_path)
    assert export(made, tmp_path / "none", to=to, where="width > 9999").rows == 0
    if to != "lance":                                     # it names its files by chance
        both = []
        for name in ("one", "two"):
            export(made, tmp_path / name / "out", to=to)
            both.append({path.name: path.read_bytes() for path in (tmp_path / name / "out").iterdir()})
        assert both[0] == both[1]


def test_a_picture_that_is_no_longer_where_it_lay_is_a_row_without_one(tmp_path):
    made = table(tmp_path, "reference")
    (tmp_path / "photos" / "e.jpg").unlink()
    done = export(made, tmp_path / "out", to="parquet")
    assert (done.read, done.rows, done.without_picture) == (4, 4, 2)
    rows = {row["id"]: row["image"] for row in pq.read_table(tmp_path / "out").to_pylist()}
    assert rows["e.jpg"] is None
    assert export(made, tmp_path / "tars", to="webdataset").left_out == {"no usable picture": 2}
    loaded = datasets.Dataset.from_parquet(str(tmp_path / "out" / "part-00000.parquet"), cache_dir=tmp_path / "cache")
    assert loaded[loaded["id"].index("e.jpg")]["image"] is None


def test_only_the_named_columns_are_written_and_the_id_always(tmp_path):
    made = table(tmp_path)
    export(made, tmp_path / "out", to="parquet", columns=["tone"])
    assert pq.read_table(tmp_path / "out").column_names == ["id", "image", "tone"]
    export(made, tmp_path / "tars", to="webdataset", columns=["embed.toy"])
    with tarfile.open(tmp_path / "tars" / "000000.tar") as tar:
        assert json.load(tar.extractfile("000000000.json")) == {"id": "a.b.png", "embed.toy": [0.0, 1.0]}


def test_what_cannot_be_exported_is_refused_and_leaves_nothing_behind(tmp_path):
    made = table(tmp_path)
    items = Table.create(tmp_path / "items", "items")
    for arguments, options, message in [
            ((made, "out"), {"to": "tfrecord"}, "to='tfrecord'; a table can be exported to webdataset, hf, parquet"),
            ((made, "photos"), {"to": "hf"}, "there is something at .*photos already"),
            ((items, "out"), {"to": "hf"}, "is a table of items; export takes a table of pictures"),
            ((made, "out"), {"to": "hf", "columns": ["tune"]}, "no column 'tune' in .*table; it has id, media"),
            ((made, "out"), {"to": "hf", "columns": "tone"}, "columns='tone' is one string; give a list of names"),
            ((made, "out"), {"to": "hf", "where": "widht > 3"}, "no column 'widht'"),
            ((made, "out"), {"to": "hf", "shard_bytes": 0}, "shard_bytes=0; a file holds at least 1 byte")]:
        with pytest.raises(ValueError, match=message):
            export(arguments[0], tmp_path / arguments[1], **options)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["items", "photos", "table"]


def test_the_command_line_names_the_targets_there_are():
    assert [entry.value for entry in cli_data.Target] == list(TARGETS)


def test_a_picture_that_ingest_would_not_read_is_not_read_for_an_export(tmp_path):
    made = table(tmp_path)
    (tmp_path / "photos" / "huge.png").write_bytes(picture(4))
    limits = Limits(max_bytes=len(picture(4)) - 1)
    huge = ingest(tmp_path / "photos", tmp_path / "huge", limits=limits, store="reference")
    refused = sum(status == "too_many_bytes" for status in statuses(huge).values())
    assert refused
    (tmp_path / "photos" / "huge.png").unlink()
    os.truncate(tmp_path / "photos" / "a.b.png", 1 << 40)   # to read it would take more memory than there is
    done = export(huge, tmp_path / "out", to="webdataset")
    assert (done.read, done.rows + sum(done.left_out.values())) == (made.num_rows + 1, made.num_rows + 1)
    assert done.left_out["no usable picture"] >= refused


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"),
                                   OSError("LanceError(IO): No space left on device (os error 28), writer.rs:254:9")])
def test_a_full_disk_is_told_with_the_place_and_leaves_nothing(tmp_path, monkeypatch, error):
    def full(job, out):
        (out / "half").write_text("written")
        raise error

    monkeypatch.setitem(TARGETS, "lance", full)
    with pytest.raises(OSError, match="make room and export again") as told:
        export(table(tmp_path), tmp_path / "out", to="lance")
    assert (told.value.errno, told.value.filename) == (28, str(tmp_path / "out"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos", "table"]
