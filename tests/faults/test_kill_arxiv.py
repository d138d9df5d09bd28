"""kill -9 and a full disk while papers are read: what a page held is kept, and the next run goes on from there."""

import builtins
import errno
import os
import signal
import subprocess
import sys

import pytest

from arxiv_server import Arxiv, paper
from omma.data.papers.arxiv import ingest_papers, summary
from omma.table import Table

FORTY = [paper(i) for i in range(40)]
READ = """
import sys
from omma.data.papers.arxiv import ingest_papers
ingest_papers("red", sys.argv[1], page=8, url=sys.argv[2], pause=0)
"""


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))


def rows_of(table) -> list[dict]:
    return table.read().to_pylist()


def test_an_ingest_that_is_killed_during_any_page_goes_on_with_it_and_ends_as_if_nothing_had_been(tmp_path):
    with Arxiv(FORTY) as arxiv:
        whole = ingest_papers("red", tmp_path / "whole", page=8, url=arxiv.url, pause=0)
    for page in (1, 3):
        place, running = tmp_path / str(page), []
        with Arxiv(FORTY, {page: lambda running=running: os.kill(running[0].pid, signal.SIGKILL)}) as arxiv:
            running.append(subprocess.Popen([sys.executable, "-c", READ, str(place), arxiv.url]))
            assert running[0].wait(120) == -signal.SIGKILL
            kept = 8 * (page - 1)
            assert len(Table.open(place) if kept else []) == kept
            arxiv.asked.clear()
            arxiv.wrong.clear()
            table = ingest_papers("red", place, page=8, url=arxiv.url, pause=0)
        assert arxiv.starts == list(range(kept, 40, 8))
        assert rows_of(table) == rows_of(whole)
        assert summary(table)["whole"]


def test_a_disk_that_is_full_says_so_keeps_the_pages_before_and_the_next_run_goes_on(tmp_path, monkeypatch):
    place, real, room = tmp_path / "t", open, [4]

    def full(file, mode="r", *more, **options):
        if mode == "wb" and ".parquet." in str(file):
            room[0] -= 1
            if room[0] == 1:
                raise OSError(errno.ENOSPC, "No space left on device")
        return real(file, mode, *more, **options)

    with Arxiv(FORTY) as arxiv:
        with monkeypatch.context() as patch:
            patch.setattr(builtins, "open", full)
            with pytest.raises(OSError, match=r"No space left on device; make room and run it again") as raised:
                ingest_papers("red", place, page=8, url=arxiv.url, pause=0)
        assert raised.value.errno == errno.ENOSPC
        assert len(Table.open(place)) == 16
        arxiv.asked.clear()
        assert len(ingest_papers("red", place, page=8, url=arxiv.url, pause=0)) == 40
    assert arxiv.starts == [16, 24, 32]


def test_a_run_that_was_broken_off_long_ago_looks_for_newer_papers_first(tmp_path, monkeypatch):
    with Arxiv(list(FORTY), {3: (404, {}, "")}) as arxiv, pytest.raises(ValueError, match="answered 404"):
        ingest_papers("red", tmp_path / "t", page=8, url=arxiv.url, pause=0)
    table = Table.open(tmp_path / "t")
    notes = table.info["arxiv"]
    notes["all:red"]["started"] = "2024-01-20T00:00:00Z"
    table.append([], info={"arxiv": notes})
    with Arxiv([*FORTY, paper(60)]) as arxiv:
        table = ingest_papers("red", tmp_path / "t", page=8, url=arxiv.url, pause=0)
    assert {row["id"] for row in rows_of(table)} == {f"2413.{i:05}v1" for i in [*range(40), 60]}
