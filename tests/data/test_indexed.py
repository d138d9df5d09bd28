"""Pairs by number: what other readers find in the same files, an index that is small and true, and clear refusals."""

import gc
import io
import os
import pickle
import tarfile
import time

import pyarrow as pa
import pytest
import webdataset
from picture_files import picture, write_tar

from omma.data import indexed
from omma.data.indexed import IN_TABLE, IN_TAR, Pair, braces, open_pairs, shard_files
from omma.table import Table


def shards(folder, count=3, each=5):
    """So many tars of samples "s<shard>-<i>" with a picture and a text."""
    return [write_tar(folder / f"{s:02d}.tar", [member for i in range(each) for member in (
        (f"s{s}-{i}.png", picture(100 * s + i)), (f"s{s}-{i}.txt", f"text {s} {i}".encode()))]) for s in range(count)]


def all_of(pairs):
    return [pairs.read(i) for i in range(len(pairs))]


def test_a_pattern_is_written_out_as_a_shell_does():
    assert braces("s-{08..10}.tar") == ["s-08.tar", "s-09.tar", "s-10.tar"]
    assert braces("{a,b}/{0..1}") == ["a/0", "a/1", "b/0", "b/1"]
    assert braces("plain.tar") == ["plain.tar"]


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")  # its files
def test_samples_are_those_that_webdataset_reads_in_its_order(tmp_path):
    paths = shards(tmp_path)
    theirs = list(webdataset.WebDataset([str(p) for p in paths], shardshuffle=False))
    gc.collect()
    for place in (tmp_path, str(tmp_path / "{00..02}.tar"), str(tmp_path / "*.tar"), paths):
        pairs = open_pairs(place)
        assert [(p.id.partition("/")[2], p.picture, p.captions) for p in all_of(pairs)] == [
            (t["__key__"], t["png"], [t["txt"].decode()]) for t in theirs]  # fmt: skip
        assert pairs.read(7).id == "01.tar/s1-2"
    assert pairs.index.nbytes == 15 * IN_TAR.itemsize == 15 * 40


def test_the_parts_of_a_sample_may_lie_anywhere_and_its_name_be_long(tmp_path):
    name, far = "n" * 120, picture(5, size=(300, 200))
    path = write_tar(tmp_path / "a.tar", [("b.txt", b"b"), (f"{name}.json", {"caption": {"de": "ein", "en": ["one"]}}),
                                          ("x.bin", bytes(1 << 17)), ("b.png", picture(1)), (f"{name}.png", far)])
    first, second = all_of(open_pairs(path))
    assert first == Pair("a.tar/b", picture(1), ["b"])
    assert (second.picture, second.captions) == (far, ["ein", "one"])
    assert second.id.startswith("a.tar/" + "n" * 100 + "@")
    assert all_of(open_pairs(path, languages=["de"]))[1].captions == ["ein"]
    assert all_of(open_pairs(path, languages=["fr"]))[1].problem == "no caption"


def test_false_captions_come_from_a_key_of_the_json_or_a_column(tmp_path):
    path = write_tar(tmp_path / "a.tar", [("a.png", picture(1)), ("a.json", {"text": "a", "not": ["b", "c"]}),
                                          ("b.png", picture(2)), ("b.json", {"text": "b"})])
    assert [p.wrong for p in all_of(open_pairs(path, wrong="not"))] == [["b", "c"], []]
    table = Table.create(tmp_path / "t", extra=pa.schema([("not", pa.list_(pa.string()))]))
    said = [{"text": "a", "language": "en"}]
    table.append([{"id": "a", "bytes": picture(1), "captions": said, "not": ["b", "c"]},
                  {"id": "b", "bytes": picture(2), "captions": said}])
    assert [p.wrong for p in all_of(open_pairs(table, wrong="not"))] == [["b", "c"], []]
    with pytest.raises(ValueError, match=r"no column 'nott' in .*; it has id, media"):
        open_pairs(table, wrong="nott")


def test_what_has_no_picture_or_no_text_is_counted_and_not_kept(tmp_path):
    whole, alone = [("a.png", picture(1)), ("a.txt", b"a")], [("b.png", picture(2)), ("c.txt", b"c")]
    pairs = open_pairs(write_tar(tmp_path / "a.tar", whole + alone))
    assert len(pairs) == 1
    assert pairs.skipped == {"no caption": 1, "no picture": 1}


def test_the_index_is_kept_beside_the_shards_until_one_of_them_changes(tmp_path, monkeypatch):
    paths = shards(tmp_path, count=2)
    read = []
    index_tar = indexed.index_tar
    monkeypatch.setattr(indexed, "index_tar", lambda path, problems: read.append(path) or index_tar(path, problems))
    before = all_of(open_pairs(paths))
    assert len(read) == 2
    assert all_of(open_pairs(paths)) == before
    assert len(read) == 2
    write_tar(paths[1], [("new.png", picture(9)), ("new.txt", b"new")])
    assert [p.captions for p in all_of(open_pairs(paths))][-1] == ["new"]
    assert len(read) == 4
    kept = next((tmp_path / ".omma-index").iterdir())
    kept.write_bytes(kept.read_bytes()[:-1])  # a damaged one is made again
    assert len(open_pairs(paths)) == 6
    assert len(read) == 6


def test_where_nothing_can_be_written_the_index_is_a_temporary_file(tmp_path, monkeypatch):
    def full(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(indexed, "publish", full)
    pairs = open_pairs(shards(tmp_path))
    assert len(pairs) == 15
    assert tmp_path not in pairs.kept.path.parents
    assert all_of(pickle.loads(pickle.dumps(pairs))) == all_of(pairs)
    pairs.kept.path.unlink()


@pytest.mark.parametrize(("data", "message"), [
    ("{00..04}.tar", r"2 of 5 shards of .* are not there: .*03\.tar, .*04\.tar"),
    ("none-*.tar", r"no file fits .*none-\*\.tar"),
    ("http://host/{00..01}.tar", r"http://host.* is no file; copy the shards"),
    ("empty", r"empty is a folder without tars and without a table"),
    ("x.tar.gz", r"x\.tar\.gz is packed, .*gunzip"),
    (["00.tar", "00.tar"], r"00\.tar is given twice"),
])  # fmt: skip
def test_what_can_not_be_read_by_number_is_refused_by_name(tmp_path, monkeypatch, data, message):
    monkeypatch.chdir(tmp_path)
    shards(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.tar.gz").write_bytes(b"x")
    with pytest.raises(ValueError, match=message):
        shard_files(data)


def test_a_truncated_tar_gives_its_whole_samples_and_is_told(tmp_path):
    path = shards(tmp_path, count=1)[0]
    with tarfile.open(path) as tar:
        cut = tar.getmember("s0-3.png").offset_data + 100
    os.truncate(path, cut)
    pairs = open_pairs(path)
    assert [p.id for p in all_of(pairs)] == ["00.tar/s0-0", "00.tar/s0-1", "00.tar/s0-2"]
    assert any("00.tar is cut off" in line and "3 complete samples are kept" in line for line in pairs.problems)


def test_a_shard_that_is_gone_cut_or_changed_is_an_error_that_names_it(tmp_path):
    paths = shards(tmp_path, count=3)
    pairs = open_pairs(paths)
    pairs.read(10)  # 02.tar stays open
    paths[0].unlink()
    with pytest.raises(ValueError, match=r"shard .*00\.tar can't be read any more \(No such file or directory\); put"):
        pairs.read(0)
    os.utime(paths[1], ns=(0, time.time_ns()))
    with pytest.raises(ValueError, match=r"shard .*01\.tar has changed since it was indexed"):
        pairs.read(5)
    os.truncate(paths[2], 2000)
    with pytest.raises(ValueError, match=r"shard .*02\.tar ends \d+ bytes early: it was cut"):
        pairs.read(14)


def test_a_process_that_finds_another_index_says_so(tmp_path):
    """It would read other samples by the same numbers."""
    paths = shards(tmp_path, count=2)
    pairs = pickle.dumps(open_pairs(paths))
    assert pickle.loads(pairs).read(7).id == "01.tar/s1-2"
    write_tar(paths[0], [("new.png", picture(9)), ("new.txt", b"new")])
    open_pairs(paths)
    with pytest.raises(ValueError, match=r"index is another index by now, since the data was changed"):
        pickle.loads(pairs)


def make_table(folder, n=40, chunk_rows=16):
    table = Table.create(folder, chunk_rows=chunk_rows)
    for i in range(0, n, 10):
        rows = []
        for j in range(i, i + 10):
            said = [("en", f"t{j}"), ("de", "")] + [("de", f"d{j}")] * bool(j % 3)
            rows.append({"id": f"p{j}", "bytes": picture(j), "split": "ab"[j % 2],
                         "status": "ok" if j % 5 else "truncated", "captions":
                         [{"text": text, "language": code} for code, text in said] if j % 7 else None})
        table.append(rows)
    return table


def test_rows_of_a_table_are_those_that_can_be_used_and_the_rest_is_counted(tmp_path):
    table = make_table(tmp_path / "t")
    pairs = open_pairs(tmp_path / "t", where="split == 'a'", languages=["de"])
    expected = [j for j in range(0, 40, 2) if j % 5 and j % 7 and j % 3]
    assert all_of(pairs) == [Pair(f"p{j}", picture(j), [f"d{j}"]) for j in expected]
    assert pairs.skipped == {"truncated": 4, "no caption": 16 - len(expected)}
    assert pairs.index.nbytes == len(expected) * IN_TABLE.itemsize
    assert len(open_pairs(table)) == sum(bool(j % 5 and j % 7) for j in range(40))
    assert all_of(pickle.loads(pickle.dumps(pairs))) == all_of(pairs)
    table.append([{"id": "new", "bytes": picture(77), "split": "a", "captions": [{"text": "neu", "language": "de"}]}])
    assert open_pairs(table, where="split == 'a'", languages=["de"]).read(len(expected)).id == "new"


def test_a_row_group_is_read_once_for_its_neighbours_and_few_are_held(tmp_path, monkeypatch):
    monkeypatch.setattr("omma.storage.GROUP_BYTES", 1)  # the smallest groups there are: 16 rows
    table = make_table(tmp_path / "t", chunk_rows=1000)
    said = [{"text": "m", "language": "en"}]
    table.append([{"id": f"m{j}", "bytes": picture(j), "captions": said} for j in range(64)])
    pairs = open_pairs(table)
    assert len(pairs.blocks) == 4 + 4
    read = []
    monkeypatch.setattr(Table, "read_rows", lambda self, *a, f=Table.read_rows: read.append(a[1][0]) or f(self, *a))
    pairs.keep_blocks = 2
    for number in range(len(pairs)):
        pairs.read(number)
    assert len(read) == 8
    assert len(pairs.cached) == 2


def test_a_table_whose_pictures_lie_in_tars_reads_them_there_and_says_when_they_are_gone(tmp_path):
    from omma.data.ingest import ingest

    path = shards(tmp_path, count=1)[0]
    pairs = open_pairs(ingest(path, tmp_path / "t", store="reference"))
    assert [p.picture for p in all_of(pairs)] == [picture(i) for i in range(5)]
    path.unlink()
    with pytest.raises(ValueError, match=r"picture 's0-1' is in .*00\.tar, which can't be read"):
        pairs.read(1)
    (tmp_path / "t" / "base" / "000000.parquet").unlink()
    with pytest.raises(ValueError, match=r"chunk 000000 of .*t can't be read any more .*; put the table's files back"):
        open_pairs(tmp_path / "t").read(1)


def test_tars_have_no_columns_to_ask(tmp_path):
    shards(tmp_path)
    with pytest.raises(ValueError, match="where=\"split == 'a'\" is over a table's columns"):
        open_pairs(tmp_path, where="split == 'a'")
    with pytest.raises(ValueError, match="is a table of items"):
        open_pairs(Table.create(tmp_path / "items", kind="items"))


def test_a_tar_in_a_tar_is_told_and_left_alone(tmp_path):
    inner = io.BytesIO(shards(tmp_path, count=1)[0].read_bytes())
    outer = write_tar(tmp_path / "outer.tar", [("in.tar", inner.getvalue()), ("a.png", picture(1)), ("a.txt", b"a")])
    pairs = open_pairs(outer)
    assert len(pairs) == 1
    assert pairs.problems == ["outer.tar: 1 tars lie in it and are not read; take them out"]
