"""arXiv's API on the loopback: papers of our own in feeds of the documented form, and what goes wrong on request."""

import threading
import time
from collections.abc import Callable
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

# what each paper below says; numbers with month 13 are no paper of arXiv's
NOUNS = ["patches", "tokens", "captions", "pictures", "towers", "losses", "masks", "shadows", "cups", "birds"]


def paper(number: int, version: int = 1, **changes) -> dict:
    """The fields of a paper: number i came i days after 1 January 2024."""
    noun, other = NOUNS[number % 10], NOUNS[number // 10 % 10]
    day = f"2024-{1 + number // 28 % 12:02}-{1 + number % 28:02}T10:00:00Z"
    plain = {"id": f"2413.{number:05}", "version": version, "title": f"On {noun}, part {number}",
             "abstract": f"We look at {noun} for the {number}. time. They are {other}.",
             "authors": [f"Ada Number{number}", "Jürgen Groß"], "categories": ["cs.CV", "cs.LG"], "published": day,
             "updated": day, "comment": "", "journal_ref": "", "doi": ""}  # fmt: skip
    return {**plain, **changes}


def feed(papers: list[dict], total: int | None = None, start: int = 0, size: int = 10) -> str:
    """As the arXiv API User's Manual, 3.3, writes it."""
    told = len(papers) if total is None else total
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<feed xmlns="http://www.w3.org/2005/Atom">
  <link href="http://arxiv.org/api/query?start={start}" rel="self" type="application/atom+xml"/>
  <title type="html">ArXiv Query: start={start}</title>
  <id>http://arxiv.org/api/cHxbiOdZaP56ODnBPIenZhzg5f8</id>
  <updated>2024-01-11T00:00:00-05:00</updated>
  <opensearch:totalResults xmlns:opensearch="http://a9.com/-/spec/opensearch/1.1/">{told}</opensearch:totalResults>
  <opensearch:startIndex xmlns:opensearch="http://a9.com/-/spec/opensearch/1.1/">{start}</opensearch:startIndex>
  <opensearch:itemsPerPage xmlns:opensearch="http://a9.com/-/spec/opensearch/1.1/">{size}</opensearch:itemsPerPage>
{"".join(map(entry, papers))}</feed>
"""


def entry(one: dict) -> str:
    name = f"{one['id']}v{one['version']}"
    own = 'xmlns:arxiv="http://arxiv.org/schemas/atom"'
    extra = "".join(f"    <arxiv:{what} {own}>{escape(one[what])}</arxiv:{what}>\n"
                    for what in ("comment", "journal_ref", "doi") if one[what])
    authors = "".join(f"    <author>\n      <name>{escape(who)}</name>\n    </author>\n" for who in one["authors"])
    scheme = 'scheme="http://arxiv.org/schemas/atom"'
    categories = "".join(f'    <category term="{term}" {scheme}/>\n' for term in one["categories"])
    return f"""  <entry>
    <id>http://arxiv.org/abs/{name}</id>
    <updated>{one["updated"]}</updated>
    <published>{one["published"]}</published>
    <title>{escape(one["title"])}</title>
    <summary>  {escape(one["abstract"])}
    </summary>
{authors}{extra}    <link href="http://arxiv.org/abs/{name}" rel="alternate" type="text/html"/>
    <link title="pdf" href="http://arxiv.org/pdf/{name}" rel="related" type="application/pdf"/>
    <arxiv:primary_category {own} term="{one["categories"][0]}" {scheme}/>
{categories}  </entry>
"""


def error_feed(why: str) -> str:
    """As the manual, 3.4."""
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<feed xmlns="http://www.w3.org/2005/Atom" xmlns:opensearch="http://a9.com/-/spec/opensearch/1.1/">
  <opensearch:totalResults>1</opensearch:totalResults>
  <entry>
    <id>http://arxiv.org/api/errors#{why.replace(" ", "_")}</id>
    <title>Error</title>
    <summary>{why}</summary>
    <author><name>arXiv api core</name></author>
  </entry>
</feed>
"""


class Arxiv:
    """Answers with pages of `papers`, those changed last first.

    wrong: request number (from 1) -> (status, headers, body), in place of the page, or a function to call before it.
    asked: (seconds, query as a dict, headers) of each request.
    """

    def __init__(self, papers: list[dict], wrong: dict | None = None):
        self.papers, self.wrong, self.asked = papers, wrong or {}, []
        self.under_way = self.most_under_way = 0
        outer, lock = self, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                query = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
                with lock:
                    outer.asked.append((time.monotonic(), query, dict(self.headers)))
                    number = len(outer.asked)
                    outer.under_way += 1
                    outer.most_under_way = max(outer.most_under_way, outer.under_way)
                try:
                    wrong = outer.wrong.get(number)
                    if isinstance(wrong, Callable):
                        wrong = wrong()
                    status, headers, body = wrong or (200, {}, outer.page(query))
                    data = body.encode() if isinstance(body, str) else body
                    self.send_response(status)
                    for name, value in {"Content-Length": str(len(data)), **headers}.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(data)
                finally:
                    with lock:
                        outer.under_way -= 1

            def log_message(self, format, *args):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/api/query"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def page(self, query: dict) -> str:
        start, size = int(query.get("start", 0)), int(query.get("max_results", 10))
        if names := query.get("id_list"):
            wanted = names.split(",")
            found = [one for one in self.papers if one["id"] in wanted or f"{one['id']}v{one['version']}" in wanted]
            return feed(found, len(wanted), start, size)
        order = sorted(self.papers, key=lambda one: one["updated"], reverse=True)
        return feed(order[start : start + size], len(order), start, size)

    @property
    def starts(self) -> list[int]:
        return [int(query["start"]) for _, query, _ in self.asked]

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.http.shutdown()
        self.http.server_close()
