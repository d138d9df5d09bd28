"""The table: what goes in comes out in order, added columns stay aligned, and nothing half-done is ever visible."""

import json
import multiprocessing
import pickle
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from omma import storage
from omma.storage import RowIndex
from omma.table import ITEMS, PICTURES, Table


@pytest.fixture
def table(tmp_path):
    """35 rows in 4 chunks; row i has width i, split train for even i and null for odd."""
    extra = pa.schema([("knobs", pa.struct([("size", pa.int32())]))])
    made = Table.create(tmp_path / "table", chunk_rows=10, extra=extra)
    made.append({"id": f"p{i}", "bytes": bytes([i]) * 50, "width": i, "split": "train" if i % 2 == 0 else None,
                 "knobs": {"size": i}, "captions": [{"text": f"number {i}", "language": "en"}]} for i in range(35))
    return made


def names(rows):
    return rows["id"].to_pylist()


def test_rows_come_back_in_the_order_they_were_appended_over_chunks_of_the_given_size(table):
    assert [chunk.rows for chunk in table.chunks] == [10, 10, 10, 5]
    opened = Table.open(table.uri)
    assert names(opened.read()) == [f"p{i}" for i in range(35)]
    assert opened.read(["bytes"])["bytes"].to_pylist() == [bytes([i]) * 50 for i in range(35)]
    assert len(opened) == opened.num_rows == 35
    assert opened.columns == [*PICTURES.names, "knobs"]


def test_columns_that_were_not_given_are_null_except_status_and_media(table):
    row = table.take(["p3"]).to_pylist()[0]
    assert (row["status"], row["media"], row["height"], row["uri"]) == ("ok", "image", None, None)


def test_an_items_table_holds_questions_about_pictures(tmp_path):
    items = Table.create(tmp_path, kind="items", extra=pa.schema([("knobs", pa.struct([("n", pa.int64())]))]))
    items.append([{"id": "q", "task": "pairs", "pictures": ["a", "b"], "options": ["x", "y"], "knobs": {"n": 3}}])
    row = Table.open(tmp_path).read().to_pylist()[0]
    assert (row["pictures"], row["answer"], row["knobs"]) == (["a", "b"], None, {"n": 3})
    assert items.kind == "items"
    assert items.columns == [*ITEMS.names, "knobs"]


def test_arrow_rows_and_dict_rows_make_the_same_table(tmp_path):
    rows = [{"id": "a", "width": 3}, {"id": "b", "status": "flat"}]
    arrow = pa.table({"status": [None, "flat"], "id": ["a", "b"], "width": pa.array([3, None], pa.int64())})
    first, second = Table.create(tmp_path / "1"), Table.create(tmp_path / "2")
    assert first.append(rows) == second.append(arrow) == 2
    assert first.read().equals(second.read())
    assert first.chunks == second.chunks


@pytest.mark.parametrize(("rows", "message"), [
    ([{"id": "p7"}], "1 duplicate ids in .*: p7"),
    ([{"id": "new"}, {"id": "new"}], "duplicate ids in .*: new"),
    ([{"id": f"n{i % 11}"} for i in range(12)], "duplicate ids in .*: n0"),        # in two chunks of one append
    ([{"id": "n", "colour": "red"}], "no column 'colour' in .*; its rows have id, media"),
    ([{"width": 3}], "1 rows have no id"),
    ([{}], "1 rows have no id"),
    ([{"id": "n", "width": "wide"}], "column 'width' of .* is int32, a value does not fit"),
    (pa.table({"id": ["n"], "width": ["wide"]}), "column 'width' of .* is int32, the rows have string"),
])
def test_an_append_that_does_not_fit_is_refused_and_leaves_the_table_as_it_was(table, rows, message):
    before = table.read()
    with pytest.raises(ValueError, match=message):
        table.append(rows)
    assert Table.open(table.uri).read().equals(before)
    assert table.append([{"id": "n"}]) == 1
    assert names(table.read())[-1] == "n"


def test_an_append_whose_source_breaks_midway_adds_nothing(table):
    def rows():
        yield from ({"id": f"n{i}"} for i in range(25))
        raise RuntimeError("the disk of the source is gone")

    with pytest.raises(RuntimeError):
        table.append(rows())
    assert len(Table.open(table.uri)) == 35
    assert table.append({"id": f"n{i}"} for i in range(25)) == 25              # their ids are free


def test_big_pictures_close_a_chunk_early(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "CHUNK_BYTES", 1000)
    table = Table.create(tmp_path)
    table.append({"id": str(i), "bytes": bytes(400)} for i in range(7))
    assert [chunk.rows for chunk in table.chunks] == [3, 3, 1]


def test_create_never_overwrites_and_open_says_what_is_there(table, tmp_path):
    with pytest.raises(ValueError, match=r"there is a table at .* already"):
        Table.create(table.uri)
    with pytest.raises(ValueError, match=r"no table at .*: there is nothing. Make one: omma ingest"):
        Table.open(tmp_path / "absent")
    with pytest.raises(ValueError, match=r"the folder holds tables, open one of them: .*table"):
        Table.open(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="a table is a folder"):
        Table.open(tmp_path / "file")
    with pytest.raises(ValueError, match="kind='texts' is no kind of table; there are pictures, items"):
        Table.create(tmp_path / "other", kind="texts")
    with pytest.raises(ValueError, match="extra column 'width' is there already"):
        Table.create(tmp_path / "other", extra=pa.schema([("width", pa.int8())]))


@pytest.mark.parametrize("damage", [lambda text: text[:-20], lambda text: text.replace("p", "q", 1), lambda text: "[]"])
def test_a_damaged_manifest_is_noticed(table, damage):
    path = table.uri / "manifest.json"
    path.write_text(damage(path.read_text()))
    with pytest.raises(ValueError, match=r"manifest.json is damaged"):
        Table.open(table.uri)


def test_a_manifest_of_another_version_is_refused(table):
    manifest = {key: value for key, value in json.loads((table.uri / "manifest.json").read_text()).items()
                if key not in ("checksum", "format")}
    storage.publish_manifest(table.uri, {**manifest, "format": "omma-table/9"})
    with pytest.raises(ValueError, match=r"format 'omma-table/9'; this version reads 'omma-table/1'"):
        Table.open(table.uri)


# ---- added columns

def test_a_column_can_be_added_as_a_list_an_array_a_dict_or_a_function(table):
    table.add_column("n", list(range(35)))
    table.add_column("vec", np.arange(70, dtype=np.float16).reshape(35, 2))
    table.add_column("clip.score", {"p30": 0.5, "p2": 0.25}, type=pa.float32())
    table.add_column("wide", lambda batch: pc.greater(batch["width"], 20))
    rows = Table.open(table.uri).take(["p30", "p3"], ["n", "vec", "clip.score", "wide"]).to_pylist()
    assert rows == [{"n": 30, "vec": [60.0, 61.0], "clip.score": 0.5, "wide": True},
                    {"n": 3, "vec": [6.0, 7.0], "clip.score": None, "wide": False}]
    assert table.schema.field("vec").type == pa.list_(pa.float16(), 2)
    assert table.columns[-4:] == ["n", "vec", "clip.score", "wide"]


@pytest.mark.parametrize(("name", "values", "message"), [
    ("n", [1, 2], r"2 values for 35 rows of .*; give one a row, or {id: value}"),
    ("n", {"p1": 1, "zebra": 2}, "1 ids of the values are not in .*: zebra"),
    ("width", [0] * 35, "'width' is a base column"),
    ("", [0] * 35, "cannot name a column"),
    ("n", ["a", 1] + [None] * 33, "the values do not make a column"),
])
def test_values_that_do_not_align_with_the_rows_are_refused(table, name, values, message):
    with pytest.raises(ValueError, match=message):
        table.add_column(name, values)
    assert "n" not in Table.open(table.uri).columns


def test_a_column_added_again_replaces_the_old_one_and_its_fingerprint_follows_the_values(table):
    table.add_column("n", [0] * 35)
    zeros = table.column_info("n")["fingerprint"]
    table.add_column("n", [1] * 35)
    assert table.column_info("n")["fingerprint"] != zeros
    assert set(table.read(["n"])["n"].to_pylist()) == {1}
    table.add_column("n", [0] * 35, info={"op": "zeros", "params": {"x": 1}})
    info = table.column_info("n")
    assert (info["fingerprint"], info["type"], info["rows"]) == (zeros, "int64", 35)
    assert (info["op"], info["params"]) == ("zeros", {"x": 1})
    assert table.column_info("width")["fingerprint"] == "base"


def test_rows_appended_after_a_column_have_null_in_it_until_it_is_added_again(table):
    table.add_column("n", list(range(35)))
    table.append([{"id": "late"}])
    assert table.take(["p34", "late"], ["n"])["n"].to_pylist() == [34, None]
    assert table.column_info("n")["rows"] == 35
    assert names(table.read(["id"], "n is None")) == ["late"]
    table.add_column("n", list(range(36)))
    assert table.take(["late"], ["n"])["n"].to_pylist() == [35]


def test_a_column_may_be_all_null_and_have_any_printable_name(table):
    table.add_column("embed.a/b c", [None] * 35)
    assert Table.open(table.uri).read(["embed.a/b c"]).num_rows == 35
    assert len(table.select("col('embed.a/b c') is None")) == 35


# ---- reading

def test_scan_gives_the_columns_asked_for_in_batches_within_chunks(table):
    batches = list(table.scan(["width", "id"], batch_rows=4))
    assert [batch.num_rows for batch in batches] == [4, 4, 2] * 3 + [4, 1]
    assert batches[0].schema.names == ["width", "id"]


def test_a_predicate_reads_no_other_column_of_a_chunk_without_a_match(table, monkeypatch):
    read = []
    real = storage.read_parquet

    def spy(path, columns, rows):
        read.append((path.stem, columns))
        return real(path, columns, rows)

    monkeypatch.setattr("omma.table.read_parquet", spy)
    found = table.read(["id", "bytes"], "width == 17")
    assert names(found) == ["p17"]
    assert read == [("000000", ["width"]), ("000001", ["width"]), ("000001", ["id", "bytes"]), ("000002", ["width"]),
                    ("000003", ["width"])]


@pytest.mark.parametrize(("where", "expected"), [
    ("width == 7", [7]),
    ("width >= 33", [33, 34]),
    ("31 < width <= 33", [32, 33]),
    ("width < -1 or width == 0", [0]),
    ("width in (3, 4, 99)", [3, 4]),
    ("width < 3 and width not in [1]", [0, 2]),
    ("split == 'train' and width < 5", [0, 2, 4]),
    ("split is None and width < 4", [1, 3]),
    ("split is not None and width < 4", [0, 2]),
    ("not (split == 'train') and width < 5", []),          # null is neither train nor not train
    ("split not in ('train', 'val')", []),
    ("not split in ('val',) and width < 3", [0, 2]),
    ("not width >= 2", [0, 1]),
    ("knobs.size == 9", [9]),
    ("col('width') == 9", [9]),
    ("clip.score >= 0.5", [30]),
    ("big and width > 33", [34]),
    (pc.field("width") > 33, [34]),
    ((pc.field("width") > 33) | pc.field("clip.score").is_valid(), [30, 34]),
])
def test_where_keeps_the_rows_it_names(table, where, expected):
    table.add_column("clip.score", {"p30": 0.5}, type=pa.float64())
    table.add_column("big", lambda batch: pc.greater(batch["width"], 20))
    wanted = [f"p{i}" for i in expected]
    assert names(table.read(["id"], where)) == wanted
    assert names(table.select(where).read()) == wanted
    assert len(table.select(where)) == len(wanted)


@pytest.mark.parametrize(("where", "message"), [
    ("colour == 'red'", "no column 'colour' in .*; it has id, .* Create it with table.add_column"),
    ("col('embed.vlmo-nano') is None", "no column 'embed.vlmo-nano' .* Create it: omma embed .* --encoder vlmo-nano"),
    ("width > 'a'", "does not fit .*width int32"),
    ("width > 'a'", "int32 can't be compared with string; texts and dates stand in quotes"),
    ("split >= 2024", "string can't be compared with int"),
    ("width == None", "is None"),
    ("width & 3", "cannot read 'width & 3'"),
    ("width == 1 & split == 'a'", "cannot read"),
    ("__import__('os').system('true')", "a column is expected"),
    ("width in split", "a list of literals"),
    ("width in (1, 'a')", "values of different types"),
    ("split is 'a'", "only None stands after is"),
    ("1 == 1", "needs a column"),
    ("width =", "cannot read where='width ='"),
    ("width < 9223372036854775808", "cannot read '9223372036854775808' .*more than 64 bits"),
    ("width in (1, 9223372036854775808)", "more than 64 bits"),
    ("width > -9223372036854775809", "more than 64 bits"),
    ("not " * 5000 + "width == 1", r"where='not .*'\.\.\.: it is nested too deeply"),
    ("True", "a column is expected"),
    ("width", "does not fit"),
    ("knobs.colour == 1", "does not fit"),
    (pc.field("colour") == 1, "does not fit"),
    (7, "where is 7"),
])
def test_where_refuses_what_it_does_not_understand_and_says_why(table, where, message):
    with pytest.raises(ValueError, match=message):
        table.select(where)


def test_a_constant_expression_keeps_all_rows_or_none(table):
    assert len(table.select(pc.scalar(True))) == 35
    assert len(table.select(pc.scalar(False))) == 0


def test_a_view_reads_like_a_table_and_views_of_views_join_their_conditions(table):
    view = table.select("width >= 10").select("width < 13")
    assert view.where == "(width >= 10) and (width < 13)"
    assert [batch.num_rows for batch in view.scan(["id"])] == [3]
    assert names(view.read(["id"], "split == 'train'")) == ["p10", "p12"]
    assert names(view.take(["p12", "p10"])) == ["p12", "p10"]
    assert (view.uri, view.kind, view.columns, view.schema) == (table.uri, "pictures", table.columns, table.schema)
    with pytest.raises(ValueError, match=r"1 of 2 ids are not in .* where \(width >= 10\).*: p13"):
        view.take(["p10", "p13"])
    table.append([{"id": "late", "width": 11}])
    assert len(view) == 4


def test_take_gives_rows_in_the_order_of_ids_and_lists_those_it_lacks(table):
    assert names(table.take(["p34", "p0", "p34", "p15"])) == ["p34", "p0", "p34", "p15"]
    assert table.take([], ["id"]).num_rows == 0
    with pytest.raises(ValueError, match=r"2 of 3 ids are not in .*: x, y. Its ids are such as p0, p1, p2"):
        table.take(["x", "p1", "y"])
    table.append([{"id": "x"}])
    assert names(table.take(["x", "p1"])) == ["x", "p1"]


def test_take_reads_only_the_row_groups_that_hold_its_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "GROUP_BYTES", 16_000)                        # 16 rows of 1000 bytes
    table = Table.create(tmp_path)
    table.append({"id": str(i), "bytes": i.to_bytes(2, "big") * 500} for i in range(200))
    path = table.uri / "base" / "000000.parquet"
    assert pq.ParquetFile(path).num_row_groups == 13
    read = []
    real = pq.ParquetFile.read_row_groups
    monkeypatch.setattr(pq.ParquetFile, "read_row_groups",
                        lambda self, groups, *rest, **more: read.append(groups) or real(self, groups, *rest, **more))
    assert table.take(["199", "17", "16", "100"], ["bytes"])["bytes"].to_pylist() == [
        i.to_bytes(2, "big") * 500 for i in (199, 17, 16, 100)]
    assert read == [[1, 6, 12]]


def test_reading_unknown_no_or_a_lone_column_is_an_error_that_names_those_there_are(table):
    for call in (table.read, table.scan, lambda columns: table.take(["p1"], columns)):
        with pytest.raises(ValueError, match=r"no column 'nope' in .*; it has id, media"):
            call(["id", "nope"])
        with pytest.raises(ValueError, match=r"give a list of names: \['id'\]"):
            call("id")
        with pytest.raises(ValueError, match="columns is empty"):
            call([])
    with pytest.raises(ValueError, match="no column 'nope'"):
        table.column_info("nope")


def test_the_row_index_tells_ids_apart_whose_hashes_are_equal():
    class Same(str):
        __slots__ = ()

        def __hash__(self):
            return 5

        def __eq__(self, other):
            return str.__eq__(self, other)

    index = RowIndex()
    index.extend(pa.chunked_array([["a", "b"], ["c"]]))
    index.keys[:] = 5
    assert index.find([Same("c"), Same("a"), Same("z"), Same("b")]).tolist() == [2, 0, -1, 1]


# ---- several at once

def test_a_reader_keeps_its_snapshot_until_it_looks_again(table):
    reader = Table.open(table.uri)
    table.append([{"id": "late"}])
    table.add_column("n", list(range(36)))
    assert (len(reader), "n" in reader.columns) == (35, False)
    assert pickle.loads(pickle.dumps(reader)).num_rows == 35
    reader.refresh()
    assert (len(reader), "n" in reader.columns) == (36, True)


def test_two_writers_that_opened_the_same_state_lose_nothing_of_each_other(table):
    other = Table.open(table.uri)
    other.append([{"id": "theirs"}])
    other.add_column("n", list(range(36)))
    table.append([{"id": "ours"}])
    assert names(Table.open(table.uri).read())[-2:] == ["theirs", "ours"]
    assert "n" in table.columns
    with pytest.raises(ValueError, match=r"duplicate ids in .*: theirs"):
        table.append([{"id": "theirs"}])


def test_a_table_that_was_removed_and_made_again_is_searched_anew(table):
    assert names(table.take(["p3"])) == ["p3"]
    shutil.rmtree(table.uri)
    Table.create(table.uri).append({"id": f"q{i}", "width": 100 + i} for i in range(40))
    table.refresh()
    assert table.take(["q3"], ["width"])["width"].to_pylist() == [103]
    with pytest.raises(ValueError, match="1 of 1 ids are not in"):
        table.take(["p3"])


def append_many(uri, name):
    for i in range(10):
        Table.open(uri).append([{"id": f"{name}{i}"}])


def test_processes_that_append_at_the_same_time_lose_no_row(tmp_path):
    Table.create(tmp_path / "t")
    context = multiprocessing.get_context("spawn")
    others = [context.Process(target=append_many, args=(tmp_path / "t", name)) for name in "ab"]
    for process in others:
        process.start()
    for process in others:
        process.join()
    assert sorted(names(Table.open(tmp_path / "t").read())) == sorted(f"{name}{i}" for name in "ab" for i in range(10))


def test_unfinished_files_are_swept_when_old_and_never_read(table, monkeypatch):
    left = table.uri / "base" / ".000004.parquet.abc.tmp"
    left.write_bytes(b"half")
    table.append([{"id": "a"}])
    assert left.exists()                                                       # it may be another process's, at work
    monkeypatch.setattr(storage, "LEFT_OVER", -1)
    table.append([{"id": "b"}])
    assert not left.exists()
    assert len(Table.open(table.uri)) == 37


def test_of_two_columns_that_a_dotted_name_may_mean_the_longest_is_taken(tmp_path):
    extra = pa.schema([("clip", pa.struct([("score", pa.int32())])), ("clip.score", pa.int32())])
    table = Table.create(tmp_path / "t", extra=extra)
    table.append({"id": name, "clip": {"score": n}, "clip.score": 3 - n} for name, n in (("a", 1), ("b", 2)))
    assert table.read(["id"], "clip.score == 1")["id"].to_pylist() == ["b"]


def test_bytes_of_another_kind_are_refused_by_their_column(tmp_path):
    table = Table.create(tmp_path / "t")
    with pytest.raises(ValueError, match=r"column 'bytes' of .* is binary, a value does not fit"):
        table.append([{"id": "a", "bytes": object()}])
    for rows in ({"id": "a"}, [5]):
        with pytest.raises(ValueError, match=r"a row is a dict, and this is .*; give a list of dicts"):
            table.append(rows)
    assert len(table) == 0
