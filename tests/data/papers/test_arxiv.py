"""Papers of arXiv become rows: politely, page after page, each version once, whatever goes wrong on the way."""

import datetime
import itertools
import threading
import time
from email.utils import format_datetime

import pytest

import omma
from arxiv_server import Arxiv, error_feed, feed, paper
from omma.data.papers.arxiv import Client, ingest_papers, newest, summary
from omma.table import Table

QUESTION = "arxiv:cat:cs.CV AND ti:part"
THIRTY = [paper(i) for i in range(30)]


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("OMMA_ARXIV_PAUSE", "0.002")


def papers_of(table) -> list[str]:
    return table.read(["id"])["id"].to_pylist()


def test_each_field_of_a_paper_comes_into_its_column(tmp_path):
    one = paper(7, 3, title="Eyes &  <wide>\n   shut", authors=["Ana Ñandú", "H. 김"], comment="12 pages",
                doi="10.1/x_y", journal_ref="Phys. Rev. 1 (2024)", published="2024-01-08T18:30:00-05:00",
                updated="2024-02-01T00:00:00Z")  # fmt: skip
    with Arxiv([one]) as arxiv:
        table = ingest_papers("ti:eyes", tmp_path / "t", url=arxiv.url)
    (row,) = table.read().to_pylist()
    assert row == {
        "id": "2413.00007v3", "paper": "2413.00007", "version": 3, "title": "Eyes & <wide> shut",
        "authors": ["Ana Ñandú", "H. 김"], "abstract": "We look at shadows for the 7. time. They are patches.",
        "categories": ["cs.CV", "cs.LG"], "primary_category": "cs.CV", "published": "2024-01-08T23:30:00Z",
        "updated": "2024-02-01T00:00:00Z", "link": "https://arxiv.org/abs/2413.00007v3",
        "pdf": "https://arxiv.org/pdf/2413.00007v3", "doi": "10.1/x_y", "journal_ref": "Phys. Rev. 1 (2024)",
        "comment": "12 pages"}  # fmt: skip
    (_, asked, headers), = arxiv.asked
    assert asked == {"search_query": "ti:eyes", "start": "0", "max_results": "200", "sortBy": "lastUpdatedDate",
                     "sortOrder": "descending"}  # fmt: skip
    assert headers["User-Agent"].startswith("omma (")


def test_pages_follow_each_other_until_all_papers_or_as_many_as_were_asked_for_are_there(tmp_path):
    with Arxiv(THIRTY) as arxiv:
        table = ingest_papers(QUESTION, tmp_path / "all", page=8, url=arxiv.url)
        some = ingest_papers(QUESTION, tmp_path / "some", page=8, most=11, url=arxiv.url)
    assert papers_of(table) == [f"2413.{i:05}v1" for i in reversed(range(30))]
    assert arxiv.starts == [0, 8, 16, 24, 0, 8]
    assert [int(query["max_results"]) for _, query, _ in arxiv.asked] == [8, 8, 8, 8, 8, 3]
    assert papers_of(some) == papers_of(table)[:11]
    found = summary(some)
    assert (found["total"], found["read"], found["new"], found["reached"], found["rows"]) == (30, 11, 11, 11, 11)


def test_requests_come_one_at_a_time_and_the_pause_apart_also_from_two_ingests_at_once(tmp_path):
    with Arxiv(THIRTY) as arxiv:
        both = [threading.Thread(target=ingest_papers, args=(QUESTION, tmp_path / name), kwargs={
            "page": 10, "url": arxiv.url, "pause": 0.06}) for name in ("a", "b")]
        for thread in both:
            thread.start()
        for thread in both:
            thread.join()
    times = sorted(when for when, _, _ in arxiv.asked)
    assert len(times) == 6
    assert arxiv.most_under_way == 1
    assert min(after - before for before, after in itertools.pairwise(times)) >= 0.04  # one may take longer to arrive


def test_less_than_three_seconds_apart_is_for_this_machine_alone():
    with pytest.raises(ValueError, match="ask for 3 s or more"):
        Client("https://export.arxiv.org/api/query", 1.0)
    assert Client("https://export.arxiv.org/api/query", 3.0).pause == 3.0


@pytest.mark.parametrize("url", ["ftp://arxiv.org/", "https:///x", "arxiv.org", "file:///etc/passwd", "https://a.b/?c"])
def test_an_address_that_is_none_of_an_api_is_refused(url):
    with pytest.raises(ValueError, match="no address of arXiv's API"):
        Client(url)


def test_http_is_for_this_machine_and_a_redirect_leads_to_no_private_address(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="is not on the open internet"):
        ingest_papers("red", tmp_path / "t", url="https://127.0.0.1/api/query", pause=3.0)
    with pytest.raises(ValueError, match="is not on this machine, as http has to be"):
        ingest_papers("red", tmp_path / "t", url="http://10.1.2.3/api/query")
    for address in ("10.1.2.3", "169.254.169.254"):
        with Arxiv([], {1: (302, {"Location": f"http://{address}/api"}, "")}) as arxiv, \
                pytest.raises(ValueError, match="is not on this machine"):
            ingest_papers("red", tmp_path / "t", url=arxiv.url)
    with Arxiv(THIRTY[:2]) as arxiv, Arxiv([], {1: (301, {"Location": f"{arxiv.url}?start=0"}, "")}) as other:
        assert len(ingest_papers("red", tmp_path / "u", url=other.url)) == 2


def test_nobody_there_is_said_at_once_and_leaves_nothing(tmp_path):
    with Arxiv([]) as arxiv:
        url = arxiv.url
    with pytest.raises(ValueError, match=r"nobody answers at '127\.0\.0\.1'.*online"):
        ingest_papers("red", tmp_path / "t", url=url)
    assert not (tmp_path / "t").exists()


# ---- what goes wrong on the way
def cut(text: str) -> bytes:
    return text.encode()[: len(text) // 2]


def after(seconds: float) -> str:
    return format_datetime(datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=seconds), usegmt=True)


PASSING = {
    "a 503": (503, {}, "busy"),
    "a 503 that says when": (503, {"Retry-After": "0.01"}, "busy"),
    "a 429 with a date": (429, {"Retry-After": after(-5)}, "Rate exceeded."),
    "a Retry-After that is none": (503, {"Retry-After": "soon"}, ""),
    "a 500": (500, {}, "<html>"),
    "half a feed": (200, {}, cut(feed(THIRTY[:10], 30))),
    "a reply that breaks off": (200, {"Content-Length": "100000"}, feed(THIRTY[:10], 30)),
    "an empty page in the middle": (200, {}, feed([], 30, 10)),
    "a page of another place": (200, {}, feed(THIRTY[:10], 30, 0)),
    "a text in place of a feed": (200, {}, "Rate exceeded."),
    "a web page": (200, {}, "<html><body>busy</body></html>"),
    "nothing": (200, {}, ""),
    "no UTF-8": (200, {}, feed([paper(1, title="Müller")], 30, 10).encode("latin-1")),
    "UTF-16": (200, {}, feed(THIRTY[:10], 30, 10).encode("utf-16")),
    "an entity bomb": (200, {}, '<?xml version="1.0"?><!DOCTYPE feed [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;">'
                                ']><feed xmlns="http://www.w3.org/2005/Atom"><title>&b;</title></feed>'),
    "an entity of a file": (200, {}, '<!DOCTYPE feed [<!ENTITY x SYSTEM "file:///etc/passwd">]><feed>&x;</feed>'),
    "elements without end": (200, {}, '<feed xmlns="http://www.w3.org/2005/Atom">' + "<a>" * 100_000),
    "no total": (200, {}, feed(THIRTY[:10]).replace("totalResults", "results")),
}


@pytest.mark.parametrize("wrong", PASSING)
def test_what_passes_is_asked_for_again_and_no_paper_is_lost_or_twice(tmp_path, wrong):
    with Arxiv(THIRTY, {2: PASSING[wrong]}) as arxiv:
        table = ingest_papers(QUESTION, tmp_path / "t", page=10, url=arxiv.url)
    assert papers_of(table) == [f"2413.{i:05}v1" for i in reversed(range(30))]
    assert arxiv.starts == [0, 10, 10, 20]


def test_waits_grow_and_are_as_long_as_arxiv_asks_for(tmp_path, monkeypatch):
    slept = []
    monkeypatch.setattr(time, "sleep", slept.append)
    wrong = {2: (503, {}, ""), 3: (503, {}, ""), 4: (503, {"Retry-After": "40"}, ""), 5: (429, {}, "")}
    with Arxiv(THIRTY, wrong) as arxiv:
        assert len(ingest_papers(QUESTION, tmp_path / "t", page=20, url=arxiv.url, pause=3.0)) == 30
    waits = [seconds for seconds in slept if seconds > 3.0]
    assert waits == [6.0, 12.0, 40.0, 48.0]
    assert all(seconds <= 3.0 for seconds in slept if seconds not in waits)


def test_a_page_that_breaks_because_of_its_length_comes_in_shorter_ones(tmp_path):
    arxiv = Arxiv(THIRTY)
    plain = arxiv.page

    def page(query):
        return plain(query) if int(query["max_results"]) <= 5 else "internal error"

    arxiv.page = page
    with arxiv:
        table = ingest_papers(QUESTION, tmp_path / "t", page=10, url=arxiv.url)
    assert papers_of(table) == [f"2413.{i:05}v1" for i in reversed(range(30))]


def test_after_several_tries_it_is_told_and_what_came_before_is_kept(tmp_path):
    with Arxiv(THIRTY, {n: (503, {}, "") for n in range(2, 9)}) as arxiv, \
            pytest.raises(ValueError, match=r"from number 10 on, asked 6 times: answered 503\..*run it again"):
        ingest_papers(QUESTION, tmp_path / "t", page=10, url=arxiv.url)
    assert len(arxiv.asked) == 7
    assert len(Table.open(tmp_path / "t")) == 10
    with Arxiv(THIRTY, {2: (503, {"Retry-After": "86400"}, "")}) as arxiv, \
            pytest.raises(ValueError, match="asks to come back in 86400 s"):
        ingest_papers(QUESTION, tmp_path / "u", page=10, url=arxiv.url)


def test_an_error_in_words_is_passed_on_and_asked_for_once(tmp_path):
    for status in (200, 400):
        with Arxiv([], {1: (status, {}, error_feed("incorrect id format for 2413"))}) as arxiv, \
                pytest.raises(ValueError, match="arXiv says: incorrect id format for 2413"):
            ingest_papers("red", tmp_path / "t", url=arxiv.url)
        assert len(arxiv.asked) == 1
    with Arxiv([], {1: (403, {}, "Forbidden")}) as arxiv, pytest.raises(ValueError, match="arXiv answered 403"):
        ingest_papers("red", tmp_path / "t", url=arxiv.url)
    assert not (tmp_path / "t").exists()


def test_nothing_found_is_asked_for_twice_and_then_said(tmp_path):
    with Arxiv([]) as arxiv, pytest.raises(ValueError, match="arXiv knows no paper for 'all:red'"):
        ingest_papers("red", tmp_path / "t", url=arxiv.url)
    assert len(arxiv.asked) == 2
    assert not (tmp_path / "t").exists()
    with Arxiv(THIRTY, {1: (200, {}, feed([], 0))}) as arxiv:
        assert len(ingest_papers("red", tmp_path / "t", url=arxiv.url)) == 30


def test_entries_that_are_no_papers_are_left_out_and_counted(tmp_path):
    whole = feed(THIRTY[:3], 3).replace("http://arxiv.org/abs/2413.00001v1</id>", "</id>").replace(
        "<title>On patches, part 0</title>", "<title> </title>")
    with Arxiv([], {1: (200, {}, whole)}) as arxiv:
        table = ingest_papers("red", tmp_path / "t", url=arxiv.url)
    found = summary(table)
    assert papers_of(table) == ["2413.00002v1"]
    assert found["left_out"] == {"no id of arXiv": 1, "no title": 1}
    assert found["read"] == found["new"] + found["known"] + sum(found["left_out"].values()) == 3


# ---- again
def test_a_second_run_adds_the_new_and_the_changed_and_asks_for_no_more_than_it_must(tmp_path):
    with Arxiv(list(THIRTY)) as arxiv:
        ingest_papers(QUESTION, tmp_path / "t", page=10, url=arxiv.url)
        before = papers_of(Table.open(tmp_path / "t"))
        arxiv.asked.clear()
        again = ingest_papers(QUESTION, tmp_path / "t", page=10, url=arxiv.url)
        assert (papers_of(again), arxiv.starts) == (before, [0])
        arxiv.papers[4] = paper(4, 2, updated="2024-06-01T00:00:00Z")
        arxiv.papers.append(paper(40, updated="2024-06-02T00:00:00Z"))
        arxiv.papers[29] = paper(29, doi="10.1/new")             # without a new version
        arxiv.asked.clear()
        table = ingest_papers(QUESTION, tmp_path / "t", page=10, url=arxiv.url)
    assert papers_of(table) == [*before, "2413.00040v1", "2413.00004v2", "2413.00029v1#2"]
    assert arxiv.starts == [0, 10]
    found = summary(table)
    assert (found["new"], found["versions"], found["known"], found["rows"], found["papers"]) == (1, 2, 17, 33, 31)
    ids = newest(table)
    assert len(ids) == 31
    assert {"2413.00004v2", "2413.00029v1#2", "2413.00005v1"} < set(ids)
    assert not {"2413.00004v1", "2413.00029v1"} & set(ids)


def test_a_paper_that_was_listed_late_is_found_by_the_number_of_them(tmp_path):
    with Arxiv(list(THIRTY)) as arxiv:
        ingest_papers(QUESTION, tmp_path / "t", page=10, url=arxiv.url)
        arxiv.papers.append(paper(2, id="2413.09999"))            # as old as the 28th
        arxiv.asked.clear()
        table = ingest_papers(QUESTION, tmp_path / "t", page=10, url=arxiv.url)
    assert papers_of(table)[30:] == ["2413.09999v1"]
    assert arxiv.starts == [0, 10, 20, 30]


def test_more_papers_than_before_are_read_from_where_it_stopped(tmp_path):
    with Arxiv(list(THIRTY)) as arxiv:
        ingest_papers(QUESTION, tmp_path / "t", page=5, most=10, url=arxiv.url)
        arxiv.papers.append(paper(50))
        arxiv.asked.clear()
        table = ingest_papers(QUESTION, tmp_path / "t", page=5, most=21, url=arxiv.url)
    assert arxiv.starts == [0, 5, 11, 16]
    assert set(papers_of(table)) == {"2413.00050v1", *(f"2413.{i:05}v1" for i in range(10, 30))}


def test_several_questions_share_a_table_and_papers_that_both_find_are_there_once(tmp_path):
    with Arxiv(THIRTY[:20]) as arxiv:
        ingest_papers("red", tmp_path / "t", url=arxiv.url)
        arxiv.papers = THIRTY[10:]
        table = ingest_papers("blue", tmp_path / "t", url=arxiv.url)
    assert sorted(papers_of(table)) == [f"2413.{i:05}v1" for i in range(30)]
    assert set(table.info["arxiv"]) == {"all:red", "all:blue"}


def test_papers_by_their_ids_come_in_one_page_and_those_that_are_not_there_are_told(tmp_path):
    with Arxiv([paper(1), paper(1, 2), paper(3)]) as arxiv:
        table = omma_ingest(arxiv, "arxiv:2413.00001v1, 2413.00003, 2413.00404", tmp_path / "t")
    assert papers_of(table) == ["2413.00001v1", "2413.00003v1"]
    found = summary(table)
    assert (found["missing"], found["read"], found["new"], found["left_out"]) == (["2413.00404"], 2, 2, {})
    assert len(arxiv.asked) == 1


def omma_ingest(arxiv, source, out, **options):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMMA_ARXIV_URL", arxiv.url)
        return omma.ingest(source, out, **options)


def test_settings_of_pictures_and_places_that_are_taken_are_refused_before_anything_is_asked(tmp_path, coloured_table):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with Arxiv(THIRTY) as arxiv:
        for words, out, options in [
            ("images is for pictures", "t", {"images": "x"}), ("captions is for pictures", "t", {"captions": "text"}),
            ("is a table of pictures", "coloured", {}), ("there is something at", "full", {}),
            ("most=0", "t", {"most": 0}), ("most=30001.*Narrow", "t", {"most": 30_001}),
        ]:  # fmt: skip
            with pytest.raises(ValueError, match=words):
                omma_ingest(arxiv, QUESTION, tmp_path / out, **options)
        with pytest.raises(ValueError, match="most is for papers"):
            omma_ingest(arxiv, str(tmp_path / "full"), tmp_path / "t", most=3)
    assert arxiv.asked == []


def test_one_process_at_a_time_adds_papers_to_a_table(tmp_path):
    arxiv = Arxiv(THIRTY)
    told = []

    def second():
        with pytest.raises(ValueError, match="another process is adding papers") as refused:
            ingest_papers("blue", tmp_path / "t", url=arxiv.url)
        told.append(refused)

    arxiv.wrong[2] = second
    with arxiv:
        table = ingest_papers(QUESTION, tmp_path / "t", page=20, url=arxiv.url)
    assert (len(table), len(told)) == (30, 1)
