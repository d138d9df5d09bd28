"""What is asked of arXiv, in its own words and a few friendlier ones, checked before anything is sent.

    asked("ti:sparse AND (cat:cs.CV OR cat:cs.CL)").search   the same; arXiv's fields, AND, OR, ANDNOT, parentheses
    asked('"visual token" pruning').search                   'all:"visual token" AND all:pruning'
    asked("cat:cs.CV AND date:2024..2025-06").search         'cat:cs.CV AND submittedDate:[20240...'
    asked("2413.00001,hep-ex/1307015v2").ids                 ("2413.00001", "hep-ex/1307015v2")

The fields and operators are those of the arXiv API User's Manual, 5.1.
"""

import calendar
import itertools
import re
from dataclasses import dataclass

FIELDS = {"ti": "title", "abs": "abstract", "au": "author", "cat": "category", "all": "any of these", "co": "comment",
          "jr": "journal reference", "rn": "report number"}  # fmt: skip
DATES = {"date": "submittedDate", "updated": "lastUpdatedDate"}
OPERATORS = ("AND", "OR", "ANDNOT")
ID = r"\d{4}\.\d{4,5}|[a-z]+(?:-[a-z]+)*(?:\.[A-Z]{2})?/\d{7}"          # since April 2007, and before
IDS = re.compile(rf"(?:{ID})(?:v[1-9]\d*)?")
TERM = re.compile(r'\s*(?:([()])|(?:([A-Za-z]+):)?(?:"([^"]*)"|\[([^\]]*)\]|([^\s()"\[\]]+)(?=[\s()]|$)|(\()))')
DAY = re.compile(r"(\d{4})(?:-(\d\d))?(?:-(\d\d))?")
STAMP = re.compile(r"\s*(\d{8}(?:\d{4}(?:\d\d)?)?)\s+TO\s+(\d{8}(?:\d{4}(?:\d\d)?)?)\s*")
LONGEST, MOST_IDS = 4000, 100                             # characters of a query and ids, for an address has an end


@dataclass(frozen=True)
class Asked:
    """One of them is empty. search: a search_query; ids: an id_list."""

    search: str = ""
    ids: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.search or ",".join(self.ids)


def asked(text: str) -> Asked:
    """The question in arXiv's words. Terms side by side are joined by AND, a term without a field looks everywhere.

    ValueError says what is wrong with it and where.
    """
    parts = [part.strip() for part in text.split(",")]
    if all(IDS.fullmatch(part) for part in parts):
        if len(parts) > MOST_IDS:
            raise ValueError(f"{len(parts)} ids; give at most {MOST_IDS} at a time")
        return Asked(ids=tuple(dict.fromkeys(parts)))
    terms = _terms(text)
    glued = {i for i, (one, other) in enumerate(itertools.pairwise(terms)) if one == "(" or other == ")"}
    search = "".join(term if i in glued else f"{term} " for i, term in enumerate(terms)).strip()
    if not search:
        raise ValueError("the question is empty; say what to look for, as in arxiv:ti:sparse AND cat:cs.CV")
    if len(search) > LONGEST:
        raise ValueError(f"the question has {len(search)} characters; arXiv reads no more than about {LONGEST}")
    return Asked(search)


def _terms(text: str) -> list[str]:
    """The terms, operators and parentheses in order, with the operators that were left out."""
    found: list[str] = []
    depth, wanted, position = 0, True, 0                  # wanted: a term comes next, not an operator
    text = text.rstrip()
    while position < len(text):
        match = TERM.match(text, position)
        if match is None:
            raise ValueError(f"{text[position:].strip()[:40]!r} in the question has no end; close the quote or bracket")
        position = match.end()
        bracket, field, phrase, span, word, group = match.groups()
        if group is not None:
            raise ValueError(f"{field}:( ... ): put the field before each word, as in ({field}:red AND {field}:cup)")
        if bracket == ")":
            if wanted:
                raise ValueError(f"nothing stands before the {len(found) + 1}. part of the question, ')'")
            depth -= 1
            if depth < 0:
                raise ValueError("the question closes a parenthesis that it does not open")
            found.append(")")
            continue
        if word in OPERATORS and field is None:
            if wanted:
                raise ValueError(f"{word} stands between two terms, and one is missing before it")
            found.append(word)
            wanted = True
            continue
        if not wanted:
            found.append("AND")
            wanted = True
        if bracket == "(":
            depth += 1
            found.append("(")
            continue
        found.append(_term(field, phrase, span, word))
        wanted = False
    if found and wanted:
        raise ValueError(f"the question ends with {found[-1]}, and a term has to follow")
    if depth:
        raise ValueError(f"the question opens {depth} parentheses that it does not close")
    return found


def _term(field: str | None, phrase: str | None, span: str | None, word: str | None) -> str:
    if field in DATES and word is not None:
        return f"{DATES[field]}:{_range(word)}"
    if field in DATES.values() and span is not None:
        if not STAMP.fullmatch(span):
            raise ValueError(f"{field}:[{span}] is no range; write {field}:[202401010000 TO 202406302359], or "
                             "date:2024-01..2024-06")  # fmt: skip
        return f"{field}:[{' '.join(span.split())}]"
    if field == "id":
        raise ValueError("ids are asked for by themselves: arxiv:2401.01234,2312.01234v2")
    if field is not None and field not in FIELDS:
        known = ", ".join(f"{name} ({what})" for name, what in FIELDS.items())
        raise ValueError(f"no field {field!r}; there are {known}, date and updated. Words with a colon go in quotes")
    if span is not None:
        raise ValueError(f"[{span}]: only dates have a range, as in date:2024-01..2024-06")
    if word is not None and ":" in word:
        raise ValueError(f"{f'{field}:' * bool(field) + word!r} has a colon too many; put words with one in quotes")
    if field is None and word is not None and word.lower() in ("and", "or", "not", "andnot"):
        capital = "ANDNOT" if word.lower() in ("not", "andnot") else word.upper()
        raise ValueError(f"{word!r} between terms is written {capital}; as a word to look for it goes in quotes")
    if word is not None:
        return f"{field or 'all'}:{word}"
    if not (phrase or "").strip():
        raise ValueError(f'there is nothing between the quotes of {field or "all"}:""')
    return f'{field or "all"}:"{" ".join((phrase or "").split())}"'


def _range(text: str) -> str:
    """ "2024-01..2024-06" -> "[202401010000 TO 202406302359]"; a day, month or year alone is all of it."""
    first, dots, last = text.partition("..")
    if not dots:
        last = first
    if not first and not last:
        raise ValueError("date:.. has no end; write date:2024-01..2024-06, date:2024.. or date:..2023-12-31")
    begin = _day(first, text, False) if first else "19910101"           # arXiv began in August 1991
    end = _day(last, text, True) if last else "20991231"
    if begin > end:
        raise ValueError(f"date:{text} ends before it begins")
    return f"[{begin}0000 TO {end}2359]"


def _day(part: str, text: str, to_its_end: bool) -> str:
    match = DAY.fullmatch(part)
    year, month, day = (int(value) if value else None for value in match.groups()) if match else (None, None, None)
    if year is None or not 1 <= (month or 1) <= 12 or year < 1900:
        raise ValueError(f"date:{text} has no date in {part!r}; write 2024, 2024-06 or 2024-06-15")
    month = month or (12 if to_its_end else 1)
    days = calendar.monthrange(year, month)[1]
    if day is not None and not 1 <= day <= days:
        raise ValueError(f"date:{text}: {part} is no day, that month has {days}")
    return f"{year:04}{month:02}{day or (days if to_its_end else 1):02}"
