"""A feed of arXiv -> rows: what is taken from it, and what in it is never followed, expanded or believed."""

import tracemalloc

import pytest

from arxiv_server import entry, error_feed, feed, paper
from omma.data.papers.feed import NoFeed, moment, read_feed, words


def test_old_ids_and_ids_without_a_version_are_read():
    one = feed([paper(1, id="hep-ex/1307015", version=2)]).replace("http://arxiv.org/abs/hep-ex", "https://arxiv.org/abs/hep-ex")
    (row,) = read_feed(one.encode()).papers
    assert (row["id"], row["paper"], row["version"]) == ("hep-ex/1307015v2", "hep-ex/1307015", 2)
    assert row["link"] == "https://arxiv.org/abs/hep-ex/1307015v2"
    (row,) = read_feed(feed([paper(3)]).replace("2413.00003v1", "2413.00003").encode()).papers
    assert (row["id"], row["link"]) == ("2413.00003v1", "https://arxiv.org/abs/2413.00003")


def test_links_lead_to_arxiv_or_nowhere():
    text = feed([paper(3)]).replace("http://arxiv.org/abs/2413.00003v1\" rel", "javascript:alert(1)\" rel")
    (row,) = read_feed(text.replace("http://arxiv.org/pdf/", "http://arxiv.org.evil.example/").encode()).papers
    assert (row["link"], row["pdf"]) == ("https://arxiv.org/abs/2413.00003v1", None)


def test_what_a_paper_does_not_have_is_null():
    text = feed([paper(3, abstract="", authors=[])])
    text = text.replace("2024-01-04T10:00:00Z", "soon").replace("<arxiv:primary_category", "<arxiv:other")
    (row,) = read_feed(text.encode()).papers
    assert [row[name] for name in ("abstract", "doi", "journal_ref", "comment", "published")] == [None] * 5
    assert (row["authors"], row["primary_category"]) == ([], "cs.CV")


def test_text_is_one_line_that_commands_no_terminal():
    assert words(" a\n  b\tc ") == "a b c"
    assert words("red\x9b31m \x85 cup\u0007") == "red31m cup"
    assert words("e\u0301 \u202egnp.exe") == "é gnp.exe"
    text = feed([paper(3, title="a form\x0cfeed \x1b[31m red")])
    assert read_feed(text.encode()).papers[0]["title"] == "a formfeed [31m red"


@pytest.mark.parametrize(("text", "utc"), [
    ("2024-01-11T18:58:36Z", "2024-01-11T18:58:36Z"), ("2007-02-27T16:02:02-05:00", "2007-02-27T21:02:02Z"),
    ("2024-01-11", "2024-01-11T00:00:00Z"), ("0001-01-01T00:00:00+23:00", None), ("", None), ("yesterday", None),
])  # fmt: skip
def test_moments_are_in_utc(text, utc):
    assert moment(text) == utc


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_letters_of_every_script_come_through(encoding):
    one = paper(3, title="고양이와 Schrödinger 🙂 猫", authors=["Đặng Thị"])
    (row,) = read_feed(feed([one]).encode(encoding)).papers
    assert (row["title"], row["authors"]) == (one["title"], one["authors"])


def test_a_bomb_of_entities_is_not_lit_and_no_file_is_read(tmp_path):
    (tmp_path / "secret").write_text("secret")
    bomb = "".join(f'<!ENTITY a{i + 1} "{f"&a{i};" * 10}">' for i in range(9))
    for declared in (f'<!ENTITY a0 "ha">{bomb}', f'<!ENTITY a9 SYSTEM "{(tmp_path / "secret").as_uri()}">'):
        text = feed([paper(1, title="X")]).replace("<feed", f"<!DOCTYPE feed [{declared}]>\n<feed", 1)
        tracemalloc.start()
        with pytest.raises(NoFeed, match="document type"):
            read_feed(text.replace("<title>X<", "<title>&a9;<").encode())
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
        tracemalloc.stop()
    with pytest.raises(NoFeed, match="not UTF-8"):         # nor by another encoding
        read_feed(text.encode("utf-16"))
    with pytest.raises(NoFeed, match="undefined entity"):
        read_feed(feed([paper(1, title="X")]).replace("<title>X<", "<title>&a9;<").encode())


def test_a_feed_cut_at_any_place_is_no_feed():
    whole = feed([paper(1), paper(2)]).encode()
    for end in range(0, len(whole) - 1, 37):
        with pytest.raises(NoFeed):
            read_feed(whole[:end])


def test_deep_and_large_feeds_are_refused(monkeypatch):
    deep = feed([]).replace("</feed>", "<a>" * 200_000 + "</a>" * 200_000 + "</feed>")
    with pytest.raises(NoFeed, match="inside of more than 16"):
        read_feed(deep.encode())
    monkeypatch.setattr("omma.data.papers.feed.MOST_BYTES", 1000)
    with pytest.raises(NoFeed, match="more than 1000 bytes"):
        read_feed(feed([paper(1), paper(2)]).encode())


def test_an_error_is_told_in_the_words_of_arxiv():
    with pytest.raises(ValueError, match=r"arXiv says: start must be an integer$") as raised:
        read_feed(error_feed("start must be an integer").encode())
    assert not isinstance(raised.value, NoFeed)


def test_entries_and_what_was_left_out_are_all_there_is():
    text = feed([paper(1), paper(2), paper(3)]).replace(entry(paper(2)), "<entry></entry>")
    page = read_feed(text.encode())
    assert (page.entries, len(page.papers), dict(page.left_out)) == (3, 2, {"no id of arXiv": 1})
    assert (page.total, page.start) == (3, 0)
