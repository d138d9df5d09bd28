"""Papers of arXiv -> a Table of kind "papers", one row for each version of a paper, by arXiv's Atom API.

    table = ingest_papers("ti:sparse AND cat:cs.CV AND date:2024..", "tables/sparse", most=500)
    table.info["papers"]                                  # {'total': 812, 'read': 500, 'new': 500, 'known': 0, ...}

As arXiv's terms of use ask: one request at a time, also among all of a person's processes, 3 seconds apart, and a
longer wait when it says so. The newest come first. What a page held is in the table before the next one is asked for,
so an ingest that was killed goes on at the page it was at; a later one reads from the newest backwards until it has met
what is known. The facts of the API are those of its User's Manual, 3.1 and 3.4.
"""

from __future__ import annotations

import contextlib
import datetime
import email.utils
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from omma.data.papers.feed import MOST_BYTES, NoFeed, Page, read_feed
from omma.data.papers.query import Asked, asked
from omma.fetching import Unanswered, Unreachable, get, loopback, public
from omma.jobs import progress_bar
from omma.storage import refuse_filled
from omma.table import PAPERS, Table, digest

try:
    import fcntl
except ImportError:                                       # Windows: there a person takes care of the turns
    fcntl = None

URL, ENVIRONMENT = "https://export.arxiv.org/api/query", ("OMMA_ARXIV_URL", "OMMA_ARXIV_PAUSE")
AGENT = "omma (reads titles and abstracts into a table, one request at a time)"
PAUSE, PAGE, MOST = 3.0, 200, 1000                        # seconds, papers of a request, papers when none are named
AT_MOST, OF_A_PAGE = 30_000, 2000                         # what arXiv gives of one question, and at a time
TRIES, LONGEST_WAIT, SECONDS = 6, 600.0, 120.0            # of a page; between two of them; for a reply
PASSING = (406, 408, 425, 429, 500, 502, 503, 504)        # arXiv's gate has answered 406 to what passes a minute later
LATE = datetime.timedelta(days=7)                         # a paper can be listed so long after the date that it bears
DAY = datetime.timedelta(days=1)


class Client:
    """arXiv, asked politely. requests: how many there have been.

    url: https, or http of this very machine. pause: seconds between two requests, 3 or more but on this machine.
    ValueError for others.
    """

    def __init__(self, url: str | None = None, pause: float | None = None, tell: Callable[[str], None] = lambda _: None
                 ):
        self.url = url or os.environ.get(ENVIRONMENT[0]) or URL
        parts = urlsplit(self.url)
        self.here = parts.scheme == "http"
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
            raise ValueError(f"{self.url!r} is no address of arXiv's API, such as {URL}")
        self.ports = None if self.here else tuple({443, parts.port or 443})
        self.pause, self.tell, self.requests, self.answered = _pause(pause, self.here), tell, 0, False

    def page(self, question: Asked, start: int, size: int, entries: bool) -> Page:
        """Papers start ... start + size - 1, or fewer. entries: there are some, so a page without is asked for again.

        A page that does not come is asked for up to TRIES times, each after a longer wait and at last for fewer papers.
        Raises ValueError when it does not come then, or when arXiv says what is wrong with the question.
        """
        why = ""
        for attempt in range(TRIES):
            if attempt:
                time.sleep(self._wait(attempt, why))
            fewer = max(1, size >> (attempt // 2))        # some papers break a long page and not a short one
            try:
                page = self._ask(question, start, fewer)
            except Unreachable as error:
                if not self.answered:                     # no network, most often, which no waiting mends
                    raise ValueError(f"{error}. Is this machine online?") from None
                why = error
                continue
            except (Unanswered, NoFeed, _Later) as error:
                why = error
                continue
            if page.entries or not (entries or (start == 0 and page.total)):
                return page
            why = NoFeed(f"an empty page, where {page.total:,} papers were promised")
        raise ValueError(f"arXiv did not give the papers from number {start:,} on, asked {TRIES} times: {why}. What "
                         "came before is kept: run it again later")  # fmt: skip

    def _wait(self, attempt: int, why: Any) -> float:
        told = why.seconds if isinstance(why, _Later) else 0.0
        if told > LONGEST_WAIT:
            raise ValueError(f"arXiv asks to come back in {told:.0f} s ({why}). What came before is kept: run it again "
                             "then")  # fmt: skip
        seconds = max(told, min(self.pause * 2**attempt, LONGEST_WAIT))
        self.tell(f"arXiv: {why}; waiting {seconds:.0f} s")
        return seconds

    def _ask(self, question: Asked, start: int, size: int) -> Page:
        values = {"search_query": question.search} if question.search else {"id_list": ",".join(question.ids)}
        order = {"sortBy": "lastUpdatedDate", "sortOrder": "descending"} if question.search else {}
        url = f"{self.url}?{urlencode({**values, 'start': start, 'max_results': size, **order})}"
        with _turn(self.pause):
            self.requests += 1
            reply = get(url, accept="application/atom+xml", agent=AGENT, most=MOST_BYTES, seconds=SECONDS,
                        may=loopback if self.here else public, ports=self.ports, schemes=(urlsplit(self.url).scheme,),
                        where="this machine, as http has to be" if self.here else "the open internet")  # fmt: skip
            self.answered = True
        if reply.status in PASSING:
            raise _Later(f"answered {reply.status}", _retry_after(reply.headers.get("Retry-After")))
        if reply.status == 200:
            page = read_feed(reply.data)
            if page.start not in (None, start):
                raise NoFeed(f"a page from number {page.start} on, where {start} was asked for")
            return page
        with contextlib.suppress(NoFeed):                 # an error in words comes as a feed, with status 400
            read_feed(reply.data)
        raise ValueError(f"arXiv answered {reply.status} at {self.url}; look at the question {str(question)[:200]!r}, "
                         "or at the address")  # fmt: skip


class _Later(Exception):
    """arXiv wants to be asked later; seconds: as it says, 0 when it does not."""

    def __init__(self, message: str, seconds: float):
        super().__init__(message)
        self.seconds = seconds


def _pause(given: float | None, here: bool) -> float:
    text = os.environ.get(ENVIRONMENT[1])
    try:
        pause = given if given is not None else float(text) if text else PAUSE
    except ValueError:
        raise ValueError(f"{ENVIRONMENT[1]}={text!r} is no number of seconds") from None
    if not 0 <= pause <= LONGEST_WAIT or (pause < PAUSE and not here):
        raise ValueError(f"a pause of {pause} s; arXiv's terms ask for {PAUSE:.0f} s or more between two requests")
    return pause


def _retry_after(text: str | None) -> float:
    """Seconds, from seconds or a date; 0 for neither."""
    with contextlib.suppress(ValueError):
        return max(0.0, float(text or "0"))
    with contextlib.suppress(ValueError, TypeError):
        then = email.utils.parsedate_to_datetime(text or "")
        return max(0.0, then.timestamp() - time.time())
    return 0.0


@contextlib.contextmanager
def _turn(pause: float) -> Iterator[None]:
    """Alone among this person's processes, and `pause` seconds after the last of them was done."""
    folder = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "omma"
    place = folder / "arxiv-turn"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(place, os.O_CREAT | os.O_RDWR, 0o600)
    except OSError:                                       # a home that can't be written: this process alone waits
        time.sleep(pause)
        yield
        return
    try:
        if fcntl is not None:
            fcntl.flock(handle, fcntl.LOCK_EX)
        state = os.fstat(handle)
        if state.st_size:                                 # else nobody has asked yet
            time.sleep(min(max(state.st_mtime + pause - time.time(), 0.0), pause))
        try:
            os.ftruncate(handle, 1)
            os.utime(place)                               # now, and afterwards: this process may be killed between
            yield
        finally:
            os.utime(place)
    finally:
        os.close(handle)


# ---- pages -> rows


@dataclass
class _State:
    """What is known of a question. next: so many of its papers, from the newest on, were read; total: how many there
    were; started: when the first of them were, as 2024-01-11T18:58:36Z; whole: there was no more to read."""

    next: int = 0
    total: int = 0
    started: str = ""
    whole: bool = False


def ingest_papers(query: str, out: str | Path, *, most: int = MOST, page: int = PAGE, url: str | None = None,
                  pause: float | None = None, progress: bool = False) -> Table:
    """Reads what arXiv has on a question into the table at out, a new one or one of papers, and returns it.

    query: see `omma.data.papers.query`. most: papers, the newest versions first; page: of them, those of one request.
    url, pause: see `Client`; by default from OMMA_ARXIV_URL and OMMA_ARXIV_PAUSE.

    A row is a version of a paper: a known one is left as it is, a new version is a new row, and so is one whose fields
    were changed without a new version (its id ends in #2). `summary` counts what was met. Raises ValueError for a
    question that can't be asked, for what is no table of papers at out, and when arXiv knows nothing or does not
    answer; what was read is kept.
    """
    question = asked(query.removeprefix("arxiv:"))
    if not 1 <= most <= AT_MOST or not 1 <= page <= OF_A_PAGE:
        raise ValueError(f"most={most}, page={page}; arXiv gives 1 to {AT_MOST:,} papers of one question, up to "
                         f"{OF_A_PAGE:,} at a time. Narrow the question, as by date:2024-01..2024-06")  # fmt: skip
    tell = (lambda text: print(text, file=sys.stderr)) if progress else lambda _: None
    client = Client(url, pause, tell)
    with progress_bar("arxiv", "papers", progress) as advance, contextlib.ExitStack() as locks:
        return _Run(client, question, Path(out), most, page, advance, locks).all()


def summary(table: Table) -> dict[str, Any]:
    """What the last ingest met: its question, total = how many papers arXiv has, read = new + versions (new ones of
    known papers) + known + left out by reason, missing = ids that arXiv does not have; and how many rows and papers
    the table has."""
    papers = set(table.read(["paper"])["paper"].to_pylist())
    return {**table.info.get("papers", {}), "rows": table.num_rows, "papers": len(papers)}


class _Run:
    """One ingest of one question."""

    def __init__(self, client: Client, question: Asked, out: Path, most: int, size: int,
                 advance: Callable[[int, int | None], None], locks: contextlib.ExitStack):
        self.client, self.question, self.out, self.most, self.size = client, question, out, most, size
        self.advance, self.locks, self.counts, self.left_out = advance, locks, Counter(), Counter()
        self.now = datetime.datetime.now(datetime.UTC)
        self.known: dict[str, str] = {}                   # id -> mark of its fields
        self.papers: set[str] = set()
        self.first_seen = 0                               # papers of the last page that were not in the table at all
        self.missing: list[str] = []                      # ids that were asked for and that arXiv does not have
        self.table: Table | None = None
        if (out / "manifest.json").is_file():
            self.table = self._alone(Table.open(out))
            for batch in self.table.scan(PAPERS.names):
                for row in batch.to_pylist():
                    self.known[row["id"]] = mark(row)
                    self.papers.add(row["paper"])
        else:
            refuse_filled(out)

    def all(self) -> Table:
        note = self.table.info.get("arxiv", {}).get(str(self.question)) if self.table is not None else None
        state = _State(started=written(self.now))
        if self.question.ids:
            self._ids(state)
        elif note is None:
            self._onwards(state)
        else:
            state = _State(**note)
            broken_off = not state.whole and self.now - datetime.datetime.fromisoformat(state.started) < DAY
            self._onwards(state if broken_off else self._newer(state))
        assert self.table is not None
        return self.table

    def _ids(self, state: _State) -> None:
        """Papers by their ids come in one page; arXiv counts those that it does not have, too."""
        page = self.client.page(self.question, 0, len(self.question.ids), False)
        there = {name for row in page.papers for name in (row["paper"], row["id"])}
        self.missing = [name for name in self.question.ids if name not in there]
        if not page.papers:
            raise ValueError(f"arXiv knows none of {str(self.question)!r}")
        state.next, state.total, state.whole = page.entries, page.entries, True
        self._keep(self._new_rows(page), state)

    def _newer(self, before: _State) -> _State:
        """From the newest backwards to what is known, and LATE further; the state of which `next` is as far on as
        before. Where arXiv's number of papers isn't that of what was met, it goes back to the end."""
        until = written(datetime.datetime.fromisoformat(before.started) - LATE)
        state = _State(started=written(self.now))
        while True:
            page = self.client.page(self.question, state.next, min(self.size, self.most), state.next < before.total)
            new = self._new_rows(page)
            before.total += self.first_seen               # as if they had been there then
            before.next += self.first_seen
            state.next, state.total = state.next + page.entries, page.total
            oldest = min((row["updated"] or "" for row in page.papers), default="")
            met = not new and oldest < until and page.total == before.total
            end = not page.entries or state.next >= min(page.total, self.most)
            if met:
                state.next = max(state.next, before.next)
            state.whole = end or (met and before.whole)
            self._keep(new, state if met or end else before)
            if met or end:
                return state

    def _onwards(self, state: _State) -> None:
        """The pages from `next` on, until there are no more or as many as were asked for."""
        while not state.total or state.next < min(state.total, self.most):
            size = min(self.size, self.most - state.next)
            page = self.client.page(self.question, state.next, size, state.total > 0)
            if not page.entries:                          # of the first one; it has been a sign of haste, too
                page = self.client.page(self.question, state.next, size, False)
                if not page.entries:
                    raise ValueError(f"arXiv knows no paper for {str(self.question)!r}")
            new = self._new_rows(page)
            state.next, state.total = state.next + page.entries, page.total
            state.whole = state.next >= min(page.total, self.most)
            self._keep(new, state)
        if not state.whole:                               # it was broken off when more were asked for
            state.whole = True
            self._keep([], state)

    def _new_rows(self, page: Page) -> list[dict[str, Any]]:
        """Those of a page that are not in the table."""
        new: list[dict[str, Any]] = []
        self.first_seen = 0
        for row in page.papers:
            name, number, marked = row["id"], 1, mark(row)
            while self.known.get(name, marked) != marked:
                number += 1
                name = f"{row['id']}#{number}"
            if name in self.known:
                self.counts["known"] += 1
                continue
            met = row["paper"] in self.papers
            self.counts["versions" if met else "new"] += 1
            self.first_seen += not met
            self.known[name] = marked
            self.papers.add(row["paper"])
            new.append({**row, "id": name})
        self.counts["read"] += page.entries
        self.left_out.update(page.left_out)
        return new

    def _keep(self, new: list[dict[str, Any]], state: _State) -> None:
        """Rows and the place that was reached, both or neither."""
        if self.table is None:
            refuse_filled(self.out)
            self.table = self._alone(Table.create(self.out, kind="papers"))
        notes = {**self.table.info.get("arxiv", {}), str(self.question): vars(state)}
        counts = {name: self.counts[name] for name in ("read", "new", "versions", "known")}
        told = {"question": str(self.question), "total": state.total, **counts, "left_out": dict(self.left_out),
                "reached": state.next, "whole": state.whole, "requests": self.client.requests,
                **({"missing": self.missing} if self.missing else {})}  # fmt: skip
        self.table.append(new, info={"arxiv": notes, "papers": told})
        self.advance(state.next, min(state.total, self.most))

    def _alone(self, table: Table) -> Table:
        """The table, which no other process adds papers to until this one ends. ValueError while another does."""
        if table.kind != "papers":
            raise ValueError(f"{table.uri} is a table of {table.kind}; papers go to another place")
        if fcntl is not None:
            handle = self.locks.enter_context(open(table.uri / ".arxiv.lock", "a"))  # noqa: SIM115
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(f"another process is adding papers to {table.uri}; wait until it has ended") from None
        return table.refresh()


def mark(row: dict[str, Any]) -> str:
    """Of all that is said of a paper but the id of its row."""
    return digest(json.dumps({name: row[name] for name in PAPERS.names if name != "id"}))


def newest(table: Any) -> list[str]:
    """The id of each paper's newest row in a table or view, in the table's order."""
    best: dict[str, tuple[int, int, str]] = {}            # paper -> version, place in the table, id of the row
    place = 0
    for batch in table.scan(["id", "paper", "version"]):
        for row in batch.to_pylist():
            best[row["paper"]] = max(best.get(row["paper"], (0, 0, "")), (row["version"] or 1, place, row["id"]))
            place += 1
    return [name for _, _, name in sorted(best.values(), key=lambda row: row[1])]


def written(when: datetime.datetime) -> str:
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")
