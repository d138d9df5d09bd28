"""The store of an index: vectors, words and filters against plain Python; what stands in the file is what was said."""

import sqlite3
import threading

import numpy as np
import pytest

from omma.retrieval.filters import COLUMNS, TYPES
from omma.retrieval.store import Store

E = 8


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "index.db", create=True) as opened:
        opened.add_space("eye-1", "eye", "eyes/one", E)
        yield opened


def add_items(store, n, source="/photos", **values):
    """n pictures, a file each; their numbers."""
    with store.writing() as con:
        made = []
        for i in range(n):
            cells = {name: value(i) if callable(value) else value for name, value in values.items()}
            path = cells.pop("path", f"{i}.png")
            size = cells.pop("size", 100)
            file = con.execute("INSERT INTO file (source, path, size, status) VALUES (?, ?, ?, 'ok')",
                               (source, path, size)).lastrowid
            names = ["file", "part", "kind", *cells]
            made.append(con.execute(
                f"INSERT INTO item ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})",
                (file, 0, "picture", *cells.values())).lastrowid)
    return made


def vectors(n, seed=0):
    x = np.random.default_rng(seed).normal(size=(n, E)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def nearest(store, query, k=3, **more):
    return store.search("eye-1", query[None], k, **more)[0][0].tolist()


def test_what_was_put_in_is_found_and_got_and_counted(store):
    items, rows = add_items(store, 20), vectors(20)
    assert not store.holds("eye-1")
    store.upsert("eye-1", items, rows)
    assert store.count("eye-1") == 20
    assert store.holds("eye-1")
    assert nearest(store, rows[4])[0] == items[4]
    np.testing.assert_array_equal(store.get("eye-1", items[3:5]), rows[3:5].astype(np.float16).astype(np.float32))
    assert np.isnan(store.get("eye-1", [999])).all()
    assert nearest(store, rows[4], among=np.array(items[:3]))[0] in items[:3]


def test_a_search_sees_what_came_and_went_since_the_last_one(store, tmp_path):
    items, rows = add_items(store, 6), vectors(6)
    store.upsert("eye-1", items[:4], rows[:4])
    assert nearest(store, rows[5])[0] != items[5]
    store.upsert("eye-1", items[4:], rows[4:])
    assert nearest(store, rows[5])[0] == items[5]
    store.upsert("eye-1", items[:1], rows[5:])                             # another vector for a known item
    assert nearest(store, rows[5], 2) == [items[0], items[5]]
    assert store.delete(items[:2]) == 2
    assert items[0] not in nearest(store, rows[5], 6)
    with Store(tmp_path / "index.db") as other, other.writing() as con:    # another process would be no different
        con.execute("DELETE FROM file WHERE id = (SELECT file FROM item WHERE id = ?)", (items[5],))
    assert nearest(store, rows[5], 6) == nearest(store, rows[5], 9)
    assert items[5] not in nearest(store, rows[5], 6)
    assert store.count("eye-1") == 3


def test_vectors_of_another_width_or_of_an_unknown_eye_are_refused(store):
    with pytest.raises(ValueError, match=r"shape \(1, 5\) for 1 items; eye makes 8 numbers"):
        store.upsert("eye-1", [1], np.ones((1, 5)))
    with pytest.raises(ValueError, match=r"no vectors of 'eye-2' in .*; it has those of eye \(eye-1\)"):
        store.search("eye-2", np.ones((1, E)), 3)


def test_the_eye_that_was_indexed_with_last_comes_first(store):
    store.add_space("eye-2", "other", "eyes/two", 4)
    assert [space.name for space in store.spaces()] == ["other", "eye"]
    store.add_space("eye-1", "eye", "eyes/moved", E)
    assert [(space.name, space.place) for space in store.spaces()] == [("eye", "eyes/moved"), ("other", "eyes/two")]


def test_threads_search_beside_one_that_writes(store):
    items, rows = add_items(store, 40), vectors(40)
    wrong = []

    def look():
        for i in range(20):
            if nearest(store, rows[0], 1) != [items[0]]:
                wrong.append(i)

    store.upsert("eye-1", items[:1], rows[:1])
    readers = [threading.Thread(target=look) for _ in range(3)]
    for reader in readers:
        reader.start()
    for i in range(1, 40):
        store.upsert("eye-1", items[i : i + 1], rows[i : i + 1])
    for reader in readers:
        reader.join()
    assert not wrong
    assert store.count("eye-1") == 40


KOREAN = ["고양이가 창가에 앉아 있다", "고양이의 집", "강아지와 공", "매출이 1,250,000원 늘었다", "2024 매출 보고서",
          "Revenue grew to 1250000 🐱", "A cat (🐱) on the sill, in the Café 👩‍🚀"]  # fmt: skip


@pytest.mark.parametrize(("query", "found"), [
    ("고양이", {0, 1}), ("매출", {3, 4}), ("공", {2}), ("1,250,000", {3, 5}), ("1250000", {3, 5}), ("cafe", {6}),
    ("a cat", {6}), ("보고서 2024", {4}), ("🍎", set()), ("🐱", {5, 6}), ("🐱 고양이", {0, 1, 5, 6}), ("👩🏽", {6}),
    ('cat" OR "공', {2, 6}), ("NEAR(", set()), ("name:cat*", {6}),
])  # fmt: skip
def test_full_text_finds_korean_with_its_particles_and_takes_no_orders(store, query, found):
    items = add_items(store, len(KOREAN))
    for item, text in zip(items, KOREAN, strict=True):
        store.write_words(item, "", text, "")
    ids, scores = store.text(query, 10)
    assert {items.index(i) for i in ids} == found
    assert (scores > 0).all()
    assert scores.tolist() == sorted(scores, reverse=True)


def test_an_index_from_before_emoji_were_words_works_and_learns_them_once(store, tmp_path):
    texts = ["a 🐱 at home", "a cat", "", "🚀"]
    items = add_items(store, len(texts), caption=lambda i: texts[i],
                      path=lambda i: f"{i}🎈.png" if i == 2 else f"{i}.png")  # fmt: skip
    for item, text in zip(items, texts, strict=True):
        store.write_words(item, "", "".join(c for c in text if ord(c) < 128), "")
    store.connection.execute("DELETE FROM meta WHERE key = 'words'")
    with Store(tmp_path / "index.db") as old:
        assert old.text("🐱", 9)[0].tolist() == []
        assert set(old.text("cat home", 9)[0]) == {items[0], items[1]}
        assert old.renew_words() == 3
        assert old.renew_words() == 0
        assert [old.text(query, 9)[0].tolist() for query in ("🐱", "🚀", "🎈")] == [[items[n]] for n in (0, 3, 2)]
        assert set(old.text("cat home", 9)[0]) == {items[0], items[1]}
    assert store.rows("SELECT value FROM meta WHERE key = 'words'") == [(2,)]


def test_full_text_is_forgotten_with_what_replaces_it_and_narrowed_by_items(store):
    items = add_items(store, 5)
    for item in items:
        store.write_words(item, "cup.png", "a red cup", "")
    store.write_words(items[0], "ball.png", "", "")
    assert set(store.text("cup", 9)[0]) == set(items[1:])
    assert store.text("cup", 1, np.array(items[3:]))[0].tolist() == items[3:4]


def test_where_reads_every_column_as_the_rows_of_a_table_do(store):
    items = add_items(store, 4, path=lambda i: f"{'ab'[i % 2]}/{i}.png", size=lambda i: 100 * i, caption="a cup",
                      date=lambda i: f"2024-0{i + 1}-09", width=lambda i: None if i == 3 else 10 * i)  # fmt: skip
    assert set(COLUMNS) == set(TYPES.names)

    def kept(where):
        return [items.index(i) for i in store.ids(where)]

    assert store.ids(None) is None
    assert kept("size >= 200") == [2, 3]
    assert kept("folder == 'a' and date >= '2024-02'") == [2]
    assert kept("name in ('1.png', '3.png')") == [1, 3]
    assert kept("width is None or not width < 20") == [2, 3]
    assert kept("path == '/photos/a/0.png' and source == '/photos' and kind == 'picture'") == [0]
    assert kept("page is None and start is None and end is None and line is None and text is None") == [0, 1, 2, 3]
    assert kept("caption == 'no cup'") == []
    with pytest.raises(ValueError, match=r"no column 'colour' in .*it has source, path, .*An index has these columns"):
        store.ids("colour == 'red'")
    with pytest.raises(ValueError, match="cannot read"):
        store.ids("__import__('os').remove('x')")


def test_a_file_that_is_no_index_is_told(tmp_path):
    with pytest.raises(ValueError, match=r"no index at .*omma index FOLDER"):
        Store(tmp_path / "none.db")
    (tmp_path / "text.db").write_text("this is a text, and a rather long one " * 30)
    with pytest.raises(ValueError, match=r"is no index of omma .* move it away"):
        Store(tmp_path / "text.db")
    other = sqlite3.connect(tmp_path / "other.db")
    other.execute("CREATE TABLE cats (name)")
    other.close()
    for create in (False, True):
        with pytest.raises(ValueError, match="is a database, but no index of omma"):
            Store(tmp_path / "other.db", create=create)


def test_an_index_of_another_version_is_told(store, tmp_path):
    store.connection.execute("PRAGMA user_version = 9")
    with pytest.raises(ValueError, match="is an index of version 9, and this omma reads 1"):
        Store(tmp_path / "index.db")


def test_what_failed_half_way_leaves_nothing(store):
    def fail():
        with store.writing():
            add_items(store, 3)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert store.rows("SELECT count(*) FROM file") == [(0,)]


def test_a_full_disk_is_told_as_one_and_what_was_written_stays(store):
    items = add_items(store, 2)
    store.upsert("eye-1", items, vectors(2))
    pages = store.rows("PRAGMA page_count")[0][0]
    store.connection.execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(OSError, match="make room and run it again") as full:
        add_items(store, 2000, caption="x" * 200, path=lambda i: f"more{i}")
    assert full.value.filename == str(store.path)
    assert store.count("eye-1") == 2
    assert store.rows("SELECT count(*) FROM file") == [(2,)]
    assert store.rows("PRAGMA integrity_check") == [("ok",)]
