"""arXiv's Atom feed -> rows of a table of papers. It comes from outside, so nothing in it is trusted.

A feed with a document type has no entities to expand, since it is refused; one that is too large, too deep, cut off or
in another encoding ends as `NoFeed`, which another try may mend, and one with an error in words as ValueError. The form
is that of the arXiv API User's Manual, 3.3 and 3.4.
"""

import datetime
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from typing import Any
from xml.etree import ElementTree

from omma.data.papers.query import ID

ATOM, OPENSEARCH = "{http://www.w3.org/2005/Atom}", "{http://a9.com/-/spec/opensearch/1.1/}"
ARXIV = "{http://arxiv.org/schemas/atom}"
MOST_BYTES = 32 << 20                                     # 2,000 papers are about 8 MB
DEEPEST = 16
PIECE = 1 << 16                                           # characters that the parser is given at a time
ABSTRACT = re.compile(rf"https?://(?:\w+\.)?arxiv\.org/abs/({ID})(?:v([1-9]\d*))?")
PLACE = re.compile(r"https?://((?:\w+\.)?arxiv\.org/\S+)")
TURNS = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"             # these turn what follows round
NO_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")  # some abstracts hold form feeds


class NoFeed(ValueError):
    """What came is no whole feed: another try may fare better."""


@dataclass
class Page:
    """Papers in the feed's order. total: how many there are in all; start: the place of the first among them; entries:
    papers and what was left_out, by reason."""

    total: int
    start: int | None
    papers: list[dict[str, Any]] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)

    @property
    def entries(self) -> int:
        return len(self.papers) + self.left_out.total()


def read_feed(data: bytes) -> Page:
    """The papers of one page. Raises `NoFeed`; ValueError with arXiv's own words for a feed that is an error."""
    if len(data) > MOST_BYTES:
        raise NoFeed(f"the feed has more than {MOST_BYTES} bytes")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise NoFeed(f"the feed is not UTF-8: byte {error.start} is 0x{data[error.start]:02x}") from None
    if not text.lstrip().startswith("<"):
        raise NoFeed(f"no feed but {' '.join(text.split())[:80]!r}")
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise NoFeed("the feed declares a document type, and a feed has none")
    root = _tree(NO_XML.sub("", text))
    if root.tag != f"{ATOM}feed":
        raise NoFeed(f"no Atom feed but <{root.tag.rpartition('}')[2][:40]}>")
    entries = root.findall(f"{ATOM}entry")
    for entry in entries:
        if "/api/errors" in (entry.findtext(f"{ATOM}id") or ""):
            raise ValueError(f"arXiv says: {words(entry.findtext(f'{ATOM}summary')) or 'an error, without a reason'}")
    total = _number(root, "totalResults")
    if total is None:
        raise NoFeed("the feed does not say how many papers there are")
    page = Page(total, _number(root, "startIndex"))
    for entry in entries:
        row = _paper(entry)
        if isinstance(row, str):
            page.left_out[row] += 1
        else:
            page.papers.append(row)
    return page


def _tree(text: str) -> ElementTree.Element:
    """The elements, of which there are none inside more than DEEPEST others."""
    parser = ElementTree.XMLPullParser(("start", "end"))
    depth, root = 0, None
    try:
        for start in range(0, len(text), PIECE):
            parser.feed(text[start : start + PIECE])
            events: Any = parser.read_events()
            for event, element in events:
                root = element if root is None else root
                depth += 1 if event == "start" else -1
                if depth > DEEPEST:
                    raise NoFeed(f"the feed has elements inside of more than {DEEPEST} others")
        parser.close()
    except ElementTree.ParseError as error:
        raise NoFeed(f"the feed is broken or was cut off: {error}") from None
    assert root is not None
    return root


def _number(root: ElementTree.Element, name: str) -> int | None:
    text = (root.findtext(f"{OPENSEARCH}{name}") or "").strip()
    return int(text) if re.fullmatch(r"\d{1,9}", text, re.ASCII) else None


def _paper(entry: ElementTree.Element) -> dict[str, Any] | str:
    """A row, or why there is none."""
    name = ABSTRACT.fullmatch((entry.findtext(f"{ATOM}id") or "").strip())
    if name is None:
        return "no id of arXiv"
    title, authors = words(entry.findtext(f"{ATOM}title")), []
    if not title:
        return "no title"
    for author in entry.findall(f"{ATOM}author"):
        if said := words(author.findtext(f"{ATOM}name")):
            authors.append(said)
    paper, version = name[1], int(name[2] or 1)
    places = {link.get("title") or link.get("rel"): PLACE.fullmatch(link.get("href") or "")
              for link in entry.findall(f"{ATOM}link")}
    link, pdf = places.get("alternate"), places.get("pdf")
    primary = entry.find(f"{ARXIV}primary_category")
    categories = [term for one in entry.findall(f"{ATOM}category") if (term := words(one.get("term")))]
    return {
        "id": f"{paper}v{version}", "paper": paper, "version": version, "title": title, "authors": authors,
        "abstract": words(entry.findtext(f"{ATOM}summary")) or None, "categories": list(dict.fromkeys(categories)),
        "primary_category": (words(primary.get("term")) if primary is not None else "") or (categories or [None])[0],
        "published": moment(entry.findtext(f"{ATOM}published")), "updated": moment(entry.findtext(f"{ATOM}updated")),
        "link": f"https://{link[1]}" if link else f"https://arxiv.org/abs/{paper}v{version}",
        "pdf": f"https://{pdf[1]}" if pdf else None, "doi": words(entry.findtext(f"{ARXIV}doi")) or None,
        "journal_ref": words(entry.findtext(f"{ARXIV}journal_ref")) or None,
        "comment": words(entry.findtext(f"{ARXIV}comment")) or None}  # fmt: skip


def words(text: str | None) -> str:
    """On one line, in composed letters, without what a terminal would take for a command."""
    plain = " ".join(unicodedata.normalize("NFC", text or "").split())
    return "".join(one for one in plain if unicodedata.category(one) not in ("Cc", "Cs", "Co") and one not in TURNS)


def moment(text: str | None) -> str | None:
    """A date as 2024-01-11T18:58:36Z, in UTC; None for what is none."""
    try:
        found = datetime.datetime.fromisoformat((text or "").strip())
        utc = found.replace(tzinfo=found.tzinfo or datetime.UTC).astimezone(datetime.UTC)
        return utc.strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError):
        return None
