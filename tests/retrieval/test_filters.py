"""`where` as SQL keeps the items that arrow keeps, row by row; and it is translated where that matters."""

import random
import time

import numpy as np
import pyarrow as pa
import pytest

from omma.retrieval.filters import COLUMNS, TYPES, as_sql
from omma.retrieval.store import Store
from omma.where import parse

SOURCES = ("/photos", "/photos/old", "/p", "/Ω 'q\"")
PATHS = ("0.png", "a/1.png", "a/b/2.png", "a//3.png", "ab/4.PNG", "0/a", "a%/_", "고양이/집.png", "é/é.txt", "a/b/a",
         "c/a/b")
TEXTS = ("", "a", "A", "cat", "cat ", "it's", 'a "b"', "고양이", "🐱", "é", "e\u0301", "a\x00b", "10", "1e3",
         "%", "null")
DATES = ("2023-12-31", "2024", "2024-01-01", "2024-02-30T10:00", "", "0")
NUMBERS = (-1, 0, 1, 2, 10, 640, 2**31, 2**40)
SECONDS = (-1.5, 0.0, 0.1, 1.0, 2.0, 1e-300, 1e300, 60.04)
NAMES = {"/photos": "Photos", "/photos/old": "old", "/p": "Photos-2"}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    draw = random.Random(1)
    maybe = lambda values: draw.choice((*values, None))
    with Store(tmp_path_factory.mktemp("filters") / "index.db", create=True) as opened:
        with opened.writing() as con:
            for source in SOURCES:
                for path in PATHS:
                    file = con.execute("INSERT INTO file (source, path, size, status) VALUES (?, ?, ?, 'ok')",
                                       (source, path, maybe(NUMBERS))).lastrowid
                    for part in range(draw.randrange(4)):
                        con.execute('INSERT INTO item (file, part, kind, page, line, start, "end", width, height, date,'
                                    "caption, text) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", (
                                        file, part, draw.choice(("picture", "page", "text")), maybe(NUMBERS),
                                        maybe(NUMBERS), maybe(SECONDS), maybe(SECONDS), maybe(NUMBERS), maybe(NUMBERS),
                                        maybe(DATES), maybe(TEXTS), maybe(TEXTS)))
        yield opened


def some_literal(name, draw):
    if name in ("start", "end"):
        return repr(draw.choice((*SECONDS, *NUMBERS)))
    if str(TYPES.field(name).type) == "int64":
        return repr(draw.choice((*NUMBERS, *NUMBERS, 2.0)))
    own = {"source": (*SOURCES, *NAMES.values()), "name": ("0.png", "2.png", "a", "a/b", "_", "집.png", ""),
           "date": DATES, "folder": ("", "a", "a/b", "a/", "b", "고양이", "a%"), "kind": ("picture", "page"),
           "path": (*(f"{source}/{path}" for source in (*SOURCES, *NAMES.values()) for path in PATHS), "/photos/b")}
    return repr(draw.choice(own.get(name, TEXTS)))


def some_condition(draw, deep):
    if deep and draw.random() < 0.6:
        if draw.random() < 0.3:
            return f"not ({some_condition(draw, deep - 1)})"
        return f" {draw.choice(('and', 'or'))} ".join(f"({some_condition(draw, deep - 1)})"
                                                      for _ in range(draw.randrange(2, 4)))
    name = draw.choice(list(COLUMNS))
    shown = draw.choice((name, f"col({name!r})"))
    one = lambda: some_literal(name, draw)
    compare = draw.choice(("==", "!=", "<", "<=", ">", ">="))
    way = draw.randrange(6)
    if way == 0:
        return f"{shown} is {draw.choice(('', 'not '))}None"
    if way == 1:
        return f"{shown} {draw.choice(('', 'not '))}in ({one()}, {one()},)"
    if way == 2:
        return f"{one()} {compare} {shown}"
    if way == 3:
        other = draw.choice([other for other in COLUMNS if TYPES.field(other).type == TYPES.field(name).type])
        return f"{shown} {compare} {other}"
    if way == 4:
        return f"{one()} <= {shown} {compare} {one()}"
    return f"{shown} {compare} {one()}"


@pytest.mark.parametrize("names", [{}, NAMES])
def test_whatever_is_asked_sql_keeps_what_arrow_keeps(store, names):
    draw, translated, kept_some = random.Random(2), 0, 0
    for _ in range(1500):
        where = some_condition(draw, draw.randrange(4))
        try:
            known = store._kept(parse(where, TYPES), names).tolist()
        except pa.ArrowInvalid:                           # it casts one side of whole numbers and floats, where it can
            continue
        assert store.ids(where, names=names).tolist() == known, where
        translated += as_sql(where, names) is not None
        kept_some += 0 < len(known) < store.rows("SELECT count(*) FROM item")[0][0]
    assert translated > 600
    assert kept_some > 600


@pytest.mark.parametrize("where", ["kind == 'picture' and date >= '2024'", "folder == 'a/b'", "name in ('a', 'b')",
                                   "not (width >= 64 or page is None)", "10 <= start < 60.5", "size != 3",
                                   "col('end') > -1", "source == 'Photos' and path >= 'Photos/a'",
                                   "text not in ('a',)"])
def test_what_is_usually_asked_is_translated(where):  # fmt: skip
    assert as_sql(where, NAMES)


@pytest.mark.parametrize("where", ["start in (0.0, 1.0)", "name < 'b'",
                                   "folder == name", " or ".join(["page == 1"] * 400)])  # fmt: skip
def test_what_sqlite_might_decide_otherwise_is_not(store, where):
    assert as_sql(where, {}) is None
    assert store.ids(where).tolist() == store._kept(parse(where, TYPES), {}).tolist()


def test_sizes_above_16_million_are_compared_with_a_float(store):
    assert store.ids("size >= 1e6").tolist() == store.ids("size >= 1000000").tolist() != []


def test_a_condition_of_many_brackets_and_parts_is_answered(store):
    everything = store.ids("kind != ''").tolist()
    assert store.ids("(" * 50 + "kind != ''" + ")" * 50).tolist() == everything
    assert store.ids(" or ".join(["kind != ''"] * 70)).tolist() == everything


@pytest.mark.parametrize("folder", ["/", "/photos", "/photos/old", "/photos/a", "/photos/a/b", "/photos/old/a", "/p",
                                    "/p/0"])
def test_under_a_folder_is_what_begins_with_its_path(store, folder):
    rows = store.rows("SELECT item.id, source || '/' || path FROM item JOIN file ON file.id = file ORDER BY item.id")
    known = [item for item, path in rows if path.startswith(folder.rstrip("/") + "/")]
    assert store.ids(None, folder).tolist() == known
    assert store.ids("kind == 'page'", folder).tolist() == np.intersect1d(known, store.ids("kind == 'page'")).tolist()


def test_under_a_folder_of_which_nothing_is_known_is_told(store):
    assert store.sources() == sorted(SOURCES)
    for folder in ("/photo", "/photos/a/b/2", "/elsewhere"):
        with pytest.raises(ValueError, match=r"is not in .* Index it: omma index"):
            store.ids(None, folder)


def test_a_filter_of_many_items_takes_a_fraction_of_reading_them_all(tmp_path):
    with Store(tmp_path / "many.db", create=True) as store:
        with store.writing() as con:
            con.executemany("INSERT INTO file (id, source, path, size) VALUES (?, '/p', ?, ?)",
                            ((i, f"{i % 9}/{i}.png", i) for i in range(1, 30_001)))
            con.executemany("INSERT INTO item (id, file, kind, date) VALUES (?, ?, 'picture', ?)",
                            ((i, i, f"20{i % 25:02}") for i in range(1, 30_001)))
        where = "kind == 'picture' and date >= '2010'"
        spent = []
        for work in (lambda: store.ids(where), lambda: store._kept(parse(where, TYPES), {})):
            times = []
            for _ in range(5):
                start = time.thread_time()
                found = work()
                times.append(time.thread_time() - start)
            spent.append(min(times))
            assert len(found) == 18_000
    assert spent[0] < 0.4 * spent[1], spent
