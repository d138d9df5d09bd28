"""What people wrote about pairs, in one SQLite file: an annotation that was acknowledged survives kill -9.

    store = open_store("blind")
    store.save(pair, "anna", Annotation(pattern="state", question="Is the door open?", left="yes", right="no"))

A save is one transaction, synced to the disk before it returns. It names the revision that it changes, so that two
windows of one annotator can't overwrite each other unseen.
"""

import dataclasses
import re
import sqlite3
import threading
import time
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omma.eval.annotate.pairs import Pair
from omma.eval.protocols.words import normalised
from omma.scenes.kinds import PATTERNS

NONE = "none"  # in the place of a pattern: the pair has no difference that one can ask about
CHOICES = (*PATTERNS, NONE)
FILE = "annotations.sqlite"
LONGEST = 500  # characters of a field
LONGEST_NAME = 40
LETTER = re.compile(r"\([A-Za-z]\)")  # separates the options in MMVP's file
VERSION = 1
SCHEMA = """
CREATE TABLE annotation (
    pair TEXT NOT NULL, annotator TEXT NOT NULL, a TEXT NOT NULL, b TEXT NOT NULL, pattern TEXT NOT NULL,
    difference TEXT NOT NULL, question TEXT NOT NULL, left TEXT NOT NULL, right TEXT NOT NULL,
    left_statement TEXT NOT NULL, right_statement TEXT NOT NULL, proposed_by TEXT NOT NULL,
    revision INTEGER NOT NULL, saved REAL NOT NULL, PRIMARY KEY (pair, annotator));
CREATE TABLE test (
    id INTEGER PRIMARY KEY, person TEXT NOT NULL, seed INTEGER NOT NULL, questions TEXT NOT NULL,
    started REAL NOT NULL);
CREATE TABLE reply (
    test INTEGER NOT NULL, place INTEGER NOT NULL, said TEXT NOT NULL, seconds REAL NOT NULL, saved REAL NOT NULL,
    PRIMARY KEY (test, place));
"""


@dataclass(frozen=True, kw_only=True)
class Annotation:
    """What one person says of a pair. pattern: one of the nine, "none", or "" while undecided.

    difference: in words; question: asked of both pictures; left, right: its answer for either one; left_statement,
    right_statement: a sentence that is true of that picture alone, where somebody wrote them. proposed_by: the model
    whose proposal a person took over, "" where all is their own.
    """

    pattern: str = ""
    difference: str = ""
    question: str = ""
    left: str = ""
    right: str = ""
    left_statement: str = ""
    right_statement: str = ""
    proposed_by: str = ""

    @classmethod
    def read(cls, fields: Any) -> "Annotation":
        """From what a page sent. Raises ValueError for other fields, text that is too long, an unknown pattern."""
        known = [field.name for field in dataclasses.fields(cls)]
        if not isinstance(fields, Mapping) or not set(fields) <= set(known):
            raise ValueError(f"an annotation has {', '.join(known)}; it came as {str(fields)[:80]}")
        for name, text in fields.items():
            if not isinstance(text, str) or len(text) > LONGEST:
                raise ValueError(f"{name} is no text of at most {LONGEST} characters; shorten it")
        tidy = {name: tidied(text) for name, text in fields.items()}
        if tidy.get("pattern", "") not in ("", *CHOICES):
            raise ValueError(f"pattern={tidy['pattern']!r}; there are {', '.join(CHOICES)}")
        return cls(**tidy)

    @property
    def started(self) -> bool:
        return self != Annotation(proposed_by=self.proposed_by)

    @property
    def complete(self) -> bool:
        return not self.missing()

    @property
    def usable(self) -> bool:
        """Whether the pair can be asked about."""
        return self.complete and self.pattern != NONE

    def missing(self) -> list[str]:
        """What is left to do, in words; nothing for a complete annotation, and for a pair without a difference."""
        if self.pattern == NONE:
            return []
        left = [] if self.pattern else ["choose a pattern, or none"]
        left += [] if self.question else ["ask a question"]
        answers = [self.left, self.right]
        if not all(answers):
            left.append("give both answers")
        elif alike(self.left, self.right):
            left.append("the two answers must differ")
        elif any(LETTER.search(answer) for answer in answers):
            left.append("an answer can't hold a letter in brackets, such as (a): it separates options in files")
        if bool(self.left_statement) != bool(self.right_statement):
            left.append("write both statements, or neither")
        return left


def tidied(text: str) -> str:
    """One line of visible characters, composed (NFC), blanks single."""
    text = unicodedata.normalize("NFC", text)
    text = "".join(" " if unicodedata.category(c)[0] in "CZ" and c not in "\u200c\u200d" else c for c in text)
    return " ".join(text.split())


def alike(one: str, other: str) -> bool:
    """Whether two texts say the same, whatever their case, punctuation and articles."""
    return one.casefold() == other.casefold() or normalised(one) == normalised(other) != ""


def person(name: Any) -> str:
    """A name as it is kept. Raises ValueError for none, and for a long one."""
    tidy = tidied(name) if isinstance(name, str) else ""
    if not 1 <= len(tidy) <= LONGEST_NAME:
        raise ValueError(f"the name {str(name)[:50]!r}; give one of 1 to {LONGEST_NAME} characters")
    return tidy


class Changed(ValueError):
    """The annotation was saved elsewhere since it was read."""


class Store:
    """Annotations and tests in one file, for any number of threads. Raises ValueError for a file that is another's."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._lock = threading.RLock()
        if not self.path.parent.is_dir():
            raise ValueError(f"there is no folder {self.path.parent}; find pairs first: omma blind --out")
        self._db = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=10)
        self._db.row_factory = sqlite3.Row
        try:
            self._db.execute("PRAGMA synchronous=EXTRA")  # the rollback journal's removal is synced, too
            with self._writing():
                (version,) = self._db.execute("PRAGMA user_version").fetchone()
                if version == 0 and not self._db.execute("SELECT 1 FROM sqlite_master").fetchone():
                    for statement in filter(str.strip, SCHEMA.split(";")):
                        self._db.execute(statement)
                    self._db.execute(f"PRAGMA user_version={VERSION}")
                elif version != VERSION:
                    raise ValueError(f"{self.path} has version {version}; this omma reads {VERSION}. Move it away")
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise ValueError(f"{self.path} holds no annotations ({error}); move it away, or mend it") from None
        except BaseException:
            self._db.close()
            raise

    def close(self) -> None:
        with self._lock:
            self._db.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """One transaction: at its end the disk has it, after an error nothing of it is left."""
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def _rows(self, sql: str, *values: Any) -> list[sqlite3.Row]:
        with self._lock:
            return self._db.execute(sql, values).fetchall()

    # ---- annotations
    def save(self, pair: Pair, annotator: str, annotation: Annotation, revision: int | None = None) -> int:
        """Keep what an annotator says of a pair, and return its revision, from 1. It is on the disk then.

        revision: the one that is replaced, 0 for a new one; None replaces whatever is there. Raises `Changed` when
        another one is there.
        """
        annotator = person(annotator)
        fields = {"pair": pair.key, "annotator": annotator, "a": pair.a, "b": pair.b, **dataclasses.asdict(annotation)}
        with self._writing():
            sql = "SELECT revision FROM annotation WHERE pair=? AND annotator=?"
            there = self._db.execute(sql, (pair.key, annotator)).fetchone()
            now = there["revision"] if there else 0
            if revision is not None and revision != now:
                raise Changed(f"{annotator} changed this pair in another window (revision {now}, not {revision}); "
                              "load it again")  # fmt: skip
            fields |= {"revision": now + 1, "saved": time.time()}
            marks = ", ".join("?" * len(fields))
            sql = f"INSERT OR REPLACE INTO annotation ({', '.join(fields)}) VALUES ({marks})"
            self._db.execute(sql, tuple(fields.values()))
        return now + 1

    def find(self, pair: Pair, annotator: str) -> tuple[Annotation, int]:
        """What an annotator says of a pair, and its revision; an empty one and 0 where there is nothing."""
        rows = self._rows("SELECT * FROM annotation WHERE pair=? AND annotator=?", pair.key, annotator)
        return (_annotation(rows[0]), rows[0]["revision"]) if rows else (Annotation(), 0)

    def of(self, annotator: str) -> dict[str, Annotation]:
        """All that an annotator said, by the key of the pair, the earliest first."""
        rows = self._rows("SELECT * FROM annotation WHERE annotator=? ORDER BY saved", annotator)
        return {row["pair"]: _annotation(row) for row in rows}

    def annotators(self) -> list[str]:
        return [row["annotator"] for row in self._rows("SELECT DISTINCT annotator FROM annotation ORDER BY 1")]

    def by_pair(self) -> dict[str, dict[str, Annotation]]:
        """{pair: {annotator: what they say}}, of each pair the latest last."""
        found: dict[str, dict[str, Annotation]] = {}
        for row in self._rows("SELECT * FROM annotation ORDER BY saved"):
            found.setdefault(row["pair"], {})[row["annotator"]] = _annotation(row)
        return found

    # ---- tests
    def add_test(self, name: str, seed: int, questions: str) -> int:
        """A test that somebody begins; questions: JSON. Returns its number."""
        with self._writing():
            sql = "INSERT INTO test (person, seed, questions, started) VALUES (?, ?, ?, ?)"
            made = self._db.execute(sql, (person(name), seed, questions, time.time())).lastrowid
        assert made is not None
        return made

    def tests(self) -> list[dict[str, Any]]:
        """id, person, seed, questions, started, and how many were answered; the latest last."""
        sql = "SELECT test.*, (SELECT count(*) FROM reply WHERE test = test.id) AS answered FROM test ORDER BY id"
        return [dict(row) for row in self._rows(sql)]

    def add_reply(self, test: int, place: int, said: str, seconds: float) -> None:
        """What was said at a place. Raises ValueError when something was said there before: answers stand."""
        try:
            with self._writing():
                self._db.execute("INSERT INTO reply VALUES (?, ?, ?, ?, ?)", (test, place, said, seconds, time.time()))
        except sqlite3.IntegrityError:
            raise Changed(f"question {place + 1} of this test was answered before; answers stand") from None

    def replies(self, test: int) -> list[dict[str, Any]]:
        """said and seconds of each place, in order."""
        return [dict(row) for row in self._rows("SELECT * FROM reply WHERE test=? ORDER BY place", test)]


def open_store(folder: str | Path) -> Store:
    """The annotations of a folder of pairs."""
    return Store(Path(folder) / FILE)


def _annotation(row: sqlite3.Row) -> Annotation:
    return Annotation(**{field.name: row[field.name] for field in dataclasses.fields(Annotation)})
