"""Ingest: every picture of a folder or tar is a row with its captions, and nothing is lost without being told."""

import csv
import gzip
import io
import json
import os
import sys
import tarfile

import numpy as np
import pytest
from picture_files import picture, problems, spoken, statuses, texts, write, write_tar
from PIL import Image

from omma.data import ingest as module
from omma.data import readers
from omma.data.ingest import ingest, summary
from omma.decode import Limits, open_picture
from omma.table import Table

# ---- folders

def test_a_folder_becomes_a_table_with_the_captions_that_lie_beside_the_pictures(tmp_path):
    source = write(tmp_path / "photos", {
        "a.png": picture(1), "a.txt": "a cat\n\n  on a mat \n", "b/c.JPG": picture(2, format="JPEG"),
        "b/c.json": json.dumps({"caption": ["a dog", "ein Hund"], "id": "dog"}), "d.webp": picture(3, format="WEBP"),
        ".hidden.png": picture(4), ".git/e.png": picture(5), "notes.txt": "alone", "readme.md": "hello"})
    table = ingest(source, tmp_path / "out")
    assert texts(table) == {"a.png": ["a cat", "on a mat"], "d.webp": [], "dog": ["a dog", "ein Hund"]}
    row = Table.open(tmp_path / "out").take(["a.png"]).to_pylist()[0]
    assert (row["bytes"], row["width"], row["height"], row["status"]) == (picture(1), 24, 16, "ok")
    assert (row["source"], row["split"], row["media"], row["uri"]) == ("photos", "train", "image", None)
    assert summary(table) == {"read": 3, "new": 3, "known": 0, "left_out": {}, "rows": 3, "status": {"ok": 3},
                              "split": {"train": 3}, "captions": 4, "languages": {"en": 4}, "problems": []}


def test_a_listing_gives_captions_languages_and_splits_by_path(tmp_path):
    source = write(tmp_path / "photos", {
        "a.png": picture(1), "a.txt": "beside it", "b/b.png": picture(2), "c.png": picture(3), "c.txt": "only beside",
        "captions.csv": "file,caption,language,split\na.png,one,,\na.png,eins,de,\n"
                        "b/b.png,\"two, too\",en,val\ngone.png,x,,\n"})
    table = ingest(source, tmp_path / "out")
    assert spoken(table) == {"a.png": [("en", "one"), ("de", "eins")], "c.png": [("en", "only beside")],
                             "b/b.png": [("en", "two, too")]}
    assert table.take(["b/b.png", "a.png"])["split"].to_pylist() == ["val", "train"]
    assert "1 files of a listing are not there, such as" in problems(table)
    assert "gone.png" in problems(table)


def test_a_jsonl_listing_holds_texts_lists_and_languages_and_bad_lines_are_told(tmp_path):
    lines = [{"file_name": "a.png", "caption": ["one", "uno"], "licence": "CC0"},
             {"image": "b.png", "text": {"fr": "deux"}}]
    source = write(tmp_path / "photos", {
        "a.png": picture(1), "b.png": picture(2), "b.json": '{"licence": "MIT"}',
        "captions.jsonl": "\n".join(map(json.dumps, lines)) + "\n[1]\n{broken\n"})
    table = ingest(source, tmp_path / "out", fields="licence")
    assert spoken(table) == {"a.png": [("en", "one"), ("en", "uno")], "b.png": [("fr", "deux")]}
    assert table.read(["licence"])["licence"].to_pylist() == ["CC0", "MIT"]
    assert "2 of 4 lines name no file" in problems(table)


def test_a_listing_without_a_column_of_files_is_an_error_that_names_its_columns(tmp_path):
    source = write(tmp_path / "photos", {"a.png": picture(1), "captions.csv": "path,caption\na.png,one\n"})
    with pytest.raises(ValueError, match=r"captions.csv has the columns path, caption; one must be file or file_name"):
        ingest(source, tmp_path / "out")


@pytest.mark.parametrize(("text", "expected"), [
    ("naïve café".encode(), ["naïve café"]), ("naïve".encode("utf-8-sig"), ["naïve"]),
    ("naïve".encode("utf-16"), ["naïve"]),
    (b"\r\none\r\ntwo\r\n", ["one", "two"]), ("cafe\u0301".encode(), ["café"]), ("שלום".encode(), ["שלום"]), (b"", [])])
def test_a_text_file_may_be_utf_8_or_utf_16_with_a_mark(tmp_path, text, expected):
    table = ingest(write(tmp_path / "photos", {"a.png": picture(1), "a.txt": text}), tmp_path / "out")
    assert texts(table) == {"a.png": expected}
    assert statuses(table) == {"a.png": "ok"}


@pytest.mark.parametrize("files", [
    {"a.txt": "naïve".encode("latin-1")}, {"a.txt": "one".encode("utf-16-le")}, {"a.txt": b"\xff\xfeo"},
    {"a.txt": b"x" * (2 << 20)}, {"a.json": b"{broken"}, {"a.json": b"[1, 2]"}, {"a.json": b"\xff\xff"},
    {"a.json": b'{"caption": 5}'}, {"a.json": b'{"caption": "half \\ud800"}'},
    {"a.json": b'{"caption": ' + b"[" * 5000 + b"]" * 5000 + b"}"}, {"a.json": b'{"caption": {"\\ud800": "x"}}'}])
def test_a_text_that_cannot_be_read_marks_its_row_and_no_other(tmp_path, files):
    source = write(tmp_path / "photos", {"a.png": picture(1), "b.png": picture(2), "b.txt": "fine", **files})
    table = ingest(source, tmp_path / "out")
    assert statuses(table) == {"a.png": "bad_text", "b.png": "ok"}
    assert texts(table) == {"a.png": [], "b.png": ["fine"]}
    assert table.take(["a.png"])["bytes"].to_pylist() == [picture(1)]


def test_a_bad_picture_keeps_its_row_its_bytes_and_its_captions(tmp_path):
    flat = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(flat, "PNG")
    files = {"web.jpg": b"<html>404</html>", "cut.png": picture(1)[:200], "none.png": b"", "flat.png": flat.getvalue(),
             "big.png": picture(2, (40, 40)), "ok.png": picture(3)}
    source = write(tmp_path / "photos", {**files, "cut.txt": "still said"})
    table = ingest(source, tmp_path / "out", limits=Limits(max_bytes=4000))
    assert statuses(table) == {"web.jpg": "not_an_image", "cut.png": "truncated", "none.png": "empty",
                               "flat.png": "flat", "big.png": "too_many_bytes", "ok.png": "ok"}
    assert texts(table)["cut.png"] == ["still said"]
    stored = {row["id"]: row for row in table.read().to_pylist()}
    for name in ("web.jpg", "cut.png", "none.png", "flat.png", "ok.png"):
        assert stored[name]["bytes"] == files[name]
    assert (stored["big.png"]["bytes"], stored["big.png"]["length"]) == (None, len(files["big.png"]))   # where it lies
    assert summary(table)["status"]["not_an_image"] == 1


# ---- tars

def test_a_tar_becomes_a_table_with_ids_captions_by_language_and_fields(tmp_path):
    path = write_tar(tmp_path / "emoji.tar", [
        ("a.json", {"id": "emoji-a", "text": {"en": "cat", "ko": "고양이"}, "tags": {"en": ["pet", " "]},
                    "tone": None, "n": 3}),
        ("a.png", picture(1)), ("sub/b.jpg", picture(2, format="JPEG")),
        ("sub/b.json", {"text": "dog", "tone": "dark"}), ("sub/b.cls", b"7"), ("c.d.PNG", picture(3)),
        ("c.d.txt", b"dots in a name")])
    table = ingest(path, tmp_path / "out", captions="text,tags", fields=("tone", "n"), language="de")
    assert spoken(table) == {"emoji-a": [("en", "cat"), ("ko", "고양이"), ("en", "pet")], "sub/b": [("de", "dog")],
                             "c.d": [("de", "dots in a name")]}
    assert table.read(["tone", "n"]).to_pylist() == [{"tone": None, "n": "3"}, {"tone": "dark", "n": None},
                                                     {"tone": None, "n": None}]
    assert set(table.read(["source"])["source"].to_pylist()) == {"emoji.tar"}
    assert problems(table) == ""


@pytest.mark.parametrize(("meta", "expected"), [
    ({"captions": ["a", "b"], "caption": "c", "text": "d"}, [("en", "a"), ("en", "b")]),
    ({"caption": "c", "text": "d"}, [("en", "c")]), ({"text": {"ja": ["e", "f"]}}, [("ja", "e"), ("ja", "f")]),
    ({"captions": [{"text": "g", "language": "es"}, "h"]}, [("es", "g"), ("en", "h")]),
    ({"caption": None, "text": "i"}, [("en", "i")]),
    ({"caption": "  "}, []), ({}, [])])
def test_captions_are_the_first_key_there_is_of_captions_caption_text(tmp_path, meta, expected):
    path = write_tar(tmp_path / "a.tar", [("a.png", picture(1)), ("a.json", meta)])
    assert spoken(ingest(path, tmp_path / "out")) == {"a": expected}


def test_a_key_that_no_sample_has_is_told(tmp_path):
    path = write_tar(tmp_path / "a.tar", [("a.png", picture(1)), ("a.json", {"text": "one"})])
    table = ingest(path, tmp_path / "out", captions=["txet"], fields=["colour"])
    assert problems(table) == "no sample has the key 'txet'\nno sample has the key 'colour'"


def test_a_key_that_comes_twice_keeps_both_pictures_and_marks_the_second(tmp_path):
    path = write_tar(tmp_path / "a.tar", [
        ("a.png", picture(1)), ("a.txt", b"first"), ("a.png", picture(2)), ("a.txt", b"second"), ("a.jpg", picture(3)),
        ("b.png", picture(4)), ("b.json", {"id": "a"})])
    table = ingest(path, tmp_path / "out")
    assert statuses(table) == {"a": "ok", "a#2": "duplicate_key", "a#3": "duplicate_key", "a#4": "duplicate_key"}
    assert texts(table) == {"a": ["first"], "a#2": ["second"], "a#3": [], "a#4": []}
    assert table.take(["a#2"])["bytes"].to_pylist() == [picture(2)]


def test_members_out_of_order_are_joined_by_their_key(tmp_path):
    path = write_tar(tmp_path / "a.tar", [("a.txt", b"one"), ("b.txt", b"two"), ("b.png", picture(2)),
                                          ("a.png", picture(1))])
    table = ingest(path, tmp_path / "out")
    assert texts(table) == {"b": ["two"], "a": ["one"]}


def test_links_devices_and_names_that_lead_out_are_left_alone_and_told(tmp_path):
    link, device, hard = tarfile.TarInfo("link.png"), tarfile.TarInfo("null.png"), tarfile.TarInfo("hard.png")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    device.type, hard.type, hard.linkname = tarfile.CHRTYPE, tarfile.LNKTYPE, "ok.png"
    path = write_tar(tmp_path / "a.tar", [
        ("ok.png", picture(1)), ("../up.png", picture(2)), ("/etc/abs.png", picture(3)), ("a/../../b.png", picture(4)),
        (link, b""), (device, b""), (hard, b""), ("._ok.png", b"resource fork"), ("./dot.png", picture(5))])
    table = ingest(path, tmp_path / "out")
    assert set(statuses(table)) == {"ok", "dot"}
    assert "a.tar: 7 links, devices and members with unsafe names are left out" in problems(table)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.tar", "out"]             # nothing was unpacked


def test_samples_without_a_picture_are_told_and_make_no_row(tmp_path):
    path = write_tar(tmp_path / "a.tar", [("a.png", picture(1)), ("b.txt", b"no picture"), ("c.json", {})])
    table = ingest(path, tmp_path / "out")
    assert set(statuses(table)) == {"a"}
    assert "a.tar: 2 samples have no picture, such as b" in problems(table)


def shard(tmp_path, order):
    members = [(f"{key}.{kind}", picture(i, (12, 8)) if kind == "png" else {"caption": f"this is {key}"})
               for i, key in enumerate("abc") for kind in order]
    return write_tar(tmp_path / "whole.tar", members)


@pytest.mark.parametrize("order", [("png", "json"), ("json", "png")])
def test_of_a_tar_cut_anywhere_the_complete_samples_are_kept_and_the_cut_is_told(tmp_path, order):
    data = shard(tmp_path, order).read_bytes()
    whole = {row["id"]: row for row in ingest(tmp_path / "whole.tar", tmp_path / "out").read().to_pylist()}
    with tarfile.open(tmp_path / "whole.tar") as tar:
        ends = {}
        for member in tar:
            ends[member.name[0]] = member.offset_data + member.size
        end_mark = (ends["c"] + 511) // 512 * 512
    for cut in [*range(512, end_mark + 512, 512), ends["a"], ends["a"] - 1, ends["b"], ends["c"]]:
        (tmp_path / "cut.tar").write_bytes(data[:cut])
        complete = {key for key, end in ends.items() if end <= cut}
        if not complete:
            with pytest.raises(ValueError, match=r"no pictures in .*cut.tar"):
                ingest(tmp_path / "cut.tar", tmp_path / "cut")
            continue
        table = ingest(tmp_path / "cut.tar", tmp_path / f"cut{cut}")
        rows = table.read().to_pylist()
        assert {row["id"] for row in rows} == complete, cut
        assert all({**row, "source": "whole.tar"} == whole[row["id"]] for row in rows)
        assert f"{len(complete)} complete samples are kept" in problems(table)


def test_a_damaged_header_in_the_middle_ends_the_tar_there_and_other_tars_go_on(tmp_path):
    data = bytearray(shard(tmp_path, ("png", "json")).read_bytes())
    with tarfile.open(tmp_path / "whole.tar") as tar:
        start = tar.getmember("b.png").offset
    data[start:start + 512] = bytes(range(256)) * 2
    (tmp_path / "bad.tar").write_bytes(data)
    write_tar(tmp_path / "good.tar", [("z.png", picture(9))])
    (tmp_path / "whole.tar").unlink()
    (tmp_path / "no.tar").write_bytes(b"this is no tar at all" * 100)
    table = ingest(tmp_path / "*.tar", tmp_path / "out")
    assert set(statuses(table)) == {"a", "z"}
    assert "bad.tar is cut off or damaged after 2 members" in problems(table)
    assert "no.tar is cut off or damaged after 0 members" in problems(table)


def test_a_gzipped_tar_gives_the_same_rows_whole_and_cut(tmp_path):
    plain = shard(tmp_path, ("png", "json"))
    packed = tmp_path / "whole.tar.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    expected = ingest(plain, tmp_path / "1").read().drop_columns("source")
    assert ingest(packed, tmp_path / "2").read().drop_columns("source").equals(expected)
    (tmp_path / "cut.tar.gz").write_bytes(packed.read_bytes()[:-len(packed.read_bytes()) // 3])
    table = ingest(tmp_path / "cut.tar.gz", tmp_path / "3")
    assert "cut.tar.gz is cut off or damaged" in problems(table)
    assert set(statuses(table)) < {"a", "b", "c"}
    assert set(statuses(table).values()) == {"ok"}
    with pytest.raises(ValueError, match="are packed, so nothing can point into it"):
        ingest(packed, tmp_path / "4", store="reference")


# ---- options

@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_references_point_at_the_bytes_where_they_lie(tmp_path, kind):
    if kind == "folder":
        source = write(tmp_path / "photos", {"a.png": picture(1), "b.png": picture(2)})
    else:
        source = write_tar(tmp_path / "a.tar", [("a.png", picture(1)), ("a.txt", b"one"), ("b.png", picture(2))])
    table = ingest(source, tmp_path / "out", store="reference")
    rows = table.read().to_pylist()
    assert [row["bytes"] for row in rows] == [None, None]
    for number, row in enumerate(rows, 1):
        with Image.open(io.BytesIO(picture(number))) as expected:
            assert np.array_equal(np.asarray(open_picture(row, table.uri).image), np.asarray(expected))


def test_the_split_is_a_constant_or_a_function_of_the_id(tmp_path):
    source = write(tmp_path / "photos", {"a.png": picture(1), "b.png": picture(2)})
    assert summary(ingest(source, tmp_path / "1", split="val"))["split"] == {"val": 2}
    table = ingest(source, tmp_path / "2", split_of=lambda name: "test" if name == "a.png" else None)
    assert table.read(["split"])["split"].to_pylist() == ["test", None]


def test_two_workers_make_the_table_that_one_makes(tmp_path):
    members = [(f"{i:03d}.{kind}", picture(i, (8, 8)) if kind == "png" else {"text": str(i)})
               for i in range(100) for kind in ("png", "json")]
    path = write_tar(tmp_path / "a.tar", members)
    one, two = ingest(path, tmp_path / "1"), ingest(path, tmp_path / "2", workers=2)
    assert two.read().equals(one.read())
    assert two.chunks == one.chunks


def test_progress_counts_pictures_on_stderr(tmp_path, capfd):
    ingest(write(tmp_path / "photos", {"a.png": picture(1)}), tmp_path / "out", progress=True)
    shown = capfd.readouterr()
    assert (shown.out, "1/" in shown.err) == ("", True)


def test_what_cannot_be_ingested_is_refused_and_leaves_nothing_behind(tmp_path):
    source = write(tmp_path / "photos", {"a.png": picture(1)})
    write(tmp_path / "empty", {"notes.txt": "nothing"})
    write(tmp_path / "full", {"file": "something"})
    for arguments, options, message in [
            ((tmp_path / "gone", "out"), {}, "there is nothing at .*gone; give a folder"),
            ((tmp_path / "*.tar", "out"), {}, "there is nothing at"),
            (([], "out"), {}, "source is an empty list; give"),
            ((source / "a.png", "out"), {}, "a.png is of no format that omma reads. There are:\n  hf: "),
            ((tmp_path / "empty", "out"), {}, r"no pictures in .*empty \(read as folder\)\. Is it another .*--format"),
            ((source, "full"), {}, "there is something at .*full already"),
            ((source, "out"), {"store": "cloud"}, "store='cloud'; a table stores 'bytes' or 'reference'"),
            ((source, "out"), {"fields": "width"}, "extra column 'width' is there already")]:
        with pytest.raises(ValueError, match=message):
            ingest(arguments[0], tmp_path / arguments[1], **options)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["empty", "full", "photos"]
    Table.create(tmp_path / "made")
    with pytest.raises(ValueError, match=r"there is something at .*made already: a table that ingest did not make"):
        ingest(source, tmp_path / "made")


def test_an_ingest_that_is_stopped_leaves_no_table_and_one_that_was_killed_can_be_repeated(tmp_path, monkeypatch):
    source = write(tmp_path / "photos", {f"{i}.png": picture(i, (8, 8)) for i in range(5)})
    real, met = module.decode, []

    def stop(*arguments):
        met.append(1)
        if len(met) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(module, "decode", stop)
    with pytest.raises(KeyboardInterrupt):
        ingest(source, tmp_path / "out")
    assert [entry.name for entry in tmp_path.iterdir()] == ["photos"]
    Table.create(tmp_path / ".out.part").append([{"id": "left by a kill"}])
    (tmp_path / "out").mkdir()                                                 # an empty folder is a place to put it
    assert len(ingest(source, tmp_path / "out")) == 5
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["out", "photos"]


def test_pipes_and_folders_behind_links_are_told_and_not_read(tmp_path):
    """A pipe that nobody fills is waited for without end; a link to a folder may go back up."""
    source = write(tmp_path / "photos", {"a.png": picture(1), "b/c.png": picture(2)})
    os.mkfifo(source / "pipe.png")
    os.mkfifo(source / "a.txt")
    os.mkfifo(source / "captions.csv")
    (source / "b" / "up").symlink_to(source)
    table = ingest(source, tmp_path / "out")
    assert statuses(table) == {"a.png": "ok", "b/c.png": "ok", "pipe.png": "decode_error"}
    told = problems(table)
    assert "pipe.png can't be read: it is no file" in told
    assert "a.txt can't be read: it is no file" in told
    assert "1 folders are links and are not followed" in told


def test_a_listing_takes_fields_and_lines_of_any_length_and_form(tmp_path):
    long, odd = "word " * 40_000 + "end", "two\u2028lines\x85in\x0bone"
    source = write(tmp_path / "photos", {
        "a.png": picture(1), "captions.csv": f"file,caption\na.png,{long}\n",
        "b/b.png": picture(2), "b/captions.jsonl": json.dumps({"file": "b.png", "text": odd}, ensure_ascii=False)})
    before = csv.field_size_limit()
    assert texts(ingest(source, tmp_path / "out")) == {"a.png": [long], "b/b.png": [odd]}
    assert csv.field_size_limit() == before               # it is the whole process's


@pytest.mark.skipif(sys.platform == "darwin", reason="names are Unicode there")
def test_a_file_whose_name_is_no_unicode_is_stored_where_it_cannot_be_pointed_to(tmp_path):
    source = write(tmp_path / "photos", {"a.png": picture(1), os.fsdecode(b"b\xff.png"): picture(2)})
    table = ingest(source, tmp_path / "out", store="reference")
    rows = {row["id"]: row for row in table.read().to_pylist()}
    assert (rows["a.png"]["bytes"], rows["b\ufffd.png"]["bytes"]) == (None, picture(2))
    assert all(open_picture(row).status == "ok" for row in rows.values())
    assert summary(ingest(source, tmp_path / "out", store="reference"))["known"] == 2


def test_a_tar_packed_in_a_packed_tar_is_not_read_above_a_size(tmp_path, monkeypatch):
    """It would have to be held in memory, and a small file can unpack to any size."""
    small, large = (write_tar(tmp_path / f"{name}.tar", members).read_bytes() for name, members in (
        ("small", [("a.png", picture(1, (8, 8)))]), ("large", [("b.png", picture(2)), ("c.txt", b"x" * 20_000)])))
    write_tar(tmp_path / "outer.tar", [("small.tar", small), ("large.tar", large)])
    (tmp_path / "outer.tar.gz").write_bytes(gzip.compress((tmp_path / "outer.tar").read_bytes()))
    monkeypatch.setattr(readers, "PACKED_TAR", len(small))
    table = ingest(tmp_path / "outer.tar.gz", tmp_path / "out")
    assert list(statuses(table)) == ["a"]
    assert f"large.tar has {len(large)} bytes and lies packed in another tar" in problems(table)
    assert list(statuses(ingest(tmp_path / "outer.tar", tmp_path / "plain"))) == ["a", "b"]
