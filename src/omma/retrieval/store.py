"""The store of an index: one SQLite file with files, items, full text, vectors and runs; and what a vector store is.

    file    a path with its size, time and hash, and why it could not be read     run     what an indexing met
    item    what is found: a picture, a page, a moment of a video, a passage      space   one eye's vectors; done: files
    words   full text (FTS5) over our own words                                   alike   pairs of near-duplicates

What a call has written is there after kill -9 and after a power cut (WAL, synchronous=FULL). Many processes may read
while one writes. Vectors are kept as fp16 in the file; a search scans them in memory, exactly (`scan.ExactScan`).
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa

from omma.retrieval.filters import COLUMNS, TYPES, as_sql, seen_as
from omma.retrieval.tokens import asked, has_emoji, words
from omma.where import Predicate, parse

if TYPE_CHECKING:
    from omma.retrieval.scan import ExactScan

try:
    import fcntl
except ImportError:                                       # Windows
    fcntl = None

APPLICATION, VERSION = 0x6F6D6D61, 1                      # "omma", as SQLite files say whose they are
WAIT = 60.0            # seconds for another process that writes
WORDS = 2              # how `tokens.words` writes a text: 2 has emoji
AT_ONCE = 500          # values of one SQL statement
SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value);
CREATE TABLE file (id INTEGER PRIMARY KEY, source TEXT, path TEXT, size INTEGER, mtime INTEGER, beside TEXT,
    ocr INTEGER DEFAULT 0, digest TEXT, status TEXT, note TEXT, UNIQUE (source, path));
CREATE INDEX file_digest ON file (digest);
CREATE TABLE item (id INTEGER PRIMARY KEY AUTOINCREMENT, file INTEGER REFERENCES file ON DELETE CASCADE, part INTEGER,
    kind TEXT, page INTEGER, line INTEGER, start REAL, "end" REAL, moment REAL, width INTEGER, height INTEGER,
    date TEXT, caption TEXT, text TEXT, boxes BLOB);
CREATE INDEX item_file ON item (file, part);
CREATE TABLE picture (item INTEGER PRIMARY KEY REFERENCES item ON DELETE CASCADE, thumbnail BLOB, look BLOB);
CREATE TABLE alike (a INTEGER REFERENCES item ON DELETE CASCADE, b INTEGER REFERENCES item ON DELETE CASCADE,
    PRIMARY KEY (a, b)) WITHOUT ROWID;
CREATE INDEX alike_b ON alike (b);
CREATE TABLE space (id INTEGER PRIMARY KEY, fingerprint TEXT UNIQUE, name TEXT, place TEXT, width INTEGER, info TEXT);
CREATE TABLE vector (seq INTEGER PRIMARY KEY AUTOINCREMENT, item INTEGER REFERENCES item ON DELETE CASCADE,
    space INTEGER REFERENCES space, data BLOB, UNIQUE (item, space));
CREATE INDEX vector_space ON vector (space, seq, item);
CREATE TRIGGER vector_came AFTER INSERT ON vector BEGIN UPDATE meta SET value = value + 1 WHERE key = 'changes'; END;
CREATE TRIGGER vector_went AFTER DELETE ON vector BEGIN UPDATE meta SET value = value + 1 WHERE key = 'changes'; END;
INSERT INTO meta VALUES ('changes', 0), ('words', 2);
CREATE TABLE done (file INTEGER REFERENCES file ON DELETE CASCADE, space INTEGER REFERENCES space,
    PRIMARY KEY (file, space)) WITHOUT ROWID;
CREATE TRIGGER item_went AFTER DELETE ON item BEGIN DELETE FROM words WHERE rowid = old.id; END;
CREATE TABLE run (id INTEGER PRIMARY KEY, source TEXT, started REAL, ended REAL, counts TEXT);
CREATE VIRTUAL TABLE words USING fts5(name, caption, text, tokenize = "unicode61 remove_diacritics 0");
"""
SPACE = "id, fingerprint, name, place, width, coalesce(info, 'fp32')"  # info: the precision


class VectorStore(Protocol):
    """Vectors by the numbers of items, in spaces: what any engine behind a search has to do."""

    def upsert(self, space: str, ids: Sequence[int] | np.ndarray, vectors: np.ndarray) -> None:
        """ids: (n,) whole numbers; vectors: (n, E). When it returns, they are kept whatever happens."""
        ...

    def delete(self, ids: Sequence[int] | np.ndarray) -> int:
        """Forget these in every space; how many vectors there were."""
        ...

    def search(self, space: str, queries: np.ndarray, k: int, among: np.ndarray | None = None, exact: bool = False
               ) -> list[tuple[np.ndarray, np.ndarray]]:
        """For each query (Q, E) the k nearest: ids (<= k,) int64 and inner products float32, best first.

        among: ids that count, all by default; exact: leave no approximation in.
        """
        ...

    def get(self, space: str, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """(n, E) float32; rows of nan where there is none."""
        ...

    def count(self, space: str) -> int:
        """How many vectors a space has."""
        ...


@dataclass(frozen=True)
class Space:
    """One eye's vectors. place, precision: what `load_encoder` takes; name: the encoder's own."""

    id: int
    fingerprint: str
    name: str
    place: str
    width: int
    precision: str = "fp32"


class Store:
    """An index file, opened. Any thread may use it. The vectors of a space are read once and then kept up to date."""

    def __init__(self, path: str | Path, create: bool = False):
        """create: make it if it is not there. Raises ValueError for a file that is no index."""
        self.path = Path(path)
        self._local, self._lock = threading.local(), threading.RLock()
        self._connections: list[sqlite3.Connection] = []
        self._scans: dict[int, tuple[np.ndarray, int, ExactScan]] = {}
        if not create and not self.path.is_file():
            raise ValueError(f"no index at {self.path}. Make one: omma index FOLDER")
        if create and not self.path.exists():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(self.path, os.O_CREAT, 0o600))  # what a person owns is nobody else's to read
        with told(self.path):
            self._check(create)

    def _check(self, create: bool) -> None:
        con = self.connection
        if con.execute("PRAGMA application_id").fetchone()[0] == 0 and create:
            with self.writing():
                if not con.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                    for statement in SCHEMA.strip().removesuffix(";").split(";\n"):
                        con.execute(statement)
                    con.execute(f"PRAGMA application_id = {APPLICATION}")
                    con.execute(f"PRAGMA user_version = {VERSION}")
        if con.execute("PRAGMA application_id").fetchone()[0] != APPLICATION:
            raise ValueError(f"{self.path} is a database, but no index of omma; give another place")
        if (version := con.execute("PRAGMA user_version").fetchone()[0]) != VERSION:
            raise ValueError(f"{self.path} is an index of version {version}, and this omma reads {VERSION}; make it "
                             "again: remove the file, then omma index FOLDER")  # fmt: skip

    @property
    def connection(self) -> sqlite3.Connection:
        """This thread's own."""
        con = getattr(self._local, "connection", None)
        if con is None:
            con = sqlite3.connect(self.path, timeout=WAIT, isolation_level=None, check_same_thread=False)
            self._local.connection = con
            self._connections.append(con)
            for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
                con.execute(f"PRAGMA {pragma}")
        return con

    def close(self) -> None:
        for con in self._connections:
            con.close()
        self._connections.clear()
        self._local = threading.local()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """All that is written inside stands together, or none of it. One inside another belongs to the outer one."""
        con = self.connection
        if con.in_transaction:
            yield con
            return
        with told(self.path):
            con.execute("BEGIN IMMEDIATE")
            try:
                yield con
                con.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):  # a full disk has ended it already
                    con.execute("ROLLBACK")
                raise

    def rows(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        with told(self.path):
            return self.connection.execute(sql, values).fetchall()

    def rows_of(self, sql: str, numbers: Iterable[int]) -> list[tuple[Any, ...]]:
        """As `rows`, with the numbers for the "(?)" in sql, some at a time."""
        found, all_ = [], [int(number) for number in numbers]
        for start in range(0, len(all_), AT_ONCE):
            part = all_[start : start + AT_ONCE]
            found += self.rows(sql.replace("(?)", f"({','.join('?' * len(part))})"), *part)
        return found

    # ---- spaces and vectors
    def space(self, fingerprint: str) -> Space | None:
        found = self.rows(f"SELECT {SPACE} FROM space WHERE fingerprint = ?", fingerprint)
        return Space(*found[0]) if found else None

    def spaces(self) -> list[Space]:
        """The one that was indexed with last comes first."""
        return [Space(*row) for row in self.rows(
            f"SELECT {SPACE} FROM space ORDER BY id = (SELECT value FROM meta WHERE key = 'space') DESC, id DESC")]

    def precision_of(self, place: str, otherwise: str = "fp32") -> str:
        """In what precision the eye at this place indexed last, here."""
        return next((space.precision for space in self.spaces() if space.place == place), otherwise)

    def add_space(self, fingerprint: str, name: str, place: str, width: int, precision: str = "fp32") -> Space:
        """The space of an eye, which is made where it isn't there, and is now the one that was indexed with last."""
        with self.writing() as con:
            con.execute("INSERT INTO space (fingerprint, name, place, width, info) VALUES (?, ?, ?, ?, ?) ON CONFLICT "
                        "(fingerprint) DO UPDATE SET place = excluded.place",
                        (fingerprint, name, place, width, precision))
            found = self.space(fingerprint)
            assert found is not None
            con.execute("INSERT OR REPLACE INTO meta VALUES ('space', ?)", (found.id,))
        return found

    def upsert(self, space: str, ids: Sequence[int] | np.ndarray, vectors: np.ndarray) -> None:
        """As `VectorStore.upsert`; space: a fingerprint. ValueError for vectors of another width."""
        known = self._known(space)
        if np.shape(vectors) != (len(ids), known.width):
            raise ValueError(f"vectors of shape {np.shape(vectors)} for {len(ids)} items; {known.name} makes "
                             f"{known.width} numbers each")  # fmt: skip
        half = np.asarray(vectors, np.float16)
        with self.writing() as con:
            con.executemany("INSERT OR REPLACE INTO vector (item, space, data) VALUES (?, ?, ?)",
                            [(int(item), known.id, row.tobytes()) for item, row in zip(ids, half, strict=True)])

    def delete(self, ids: Sequence[int] | np.ndarray) -> int:
        with self.writing() as con:
            return con.executemany("DELETE FROM vector WHERE item = ?", [(int(item),) for item in ids]).rowcount

    def search(self, space: str, queries: np.ndarray, k: int, among: np.ndarray | None = None, exact: bool = False
               ) -> list[tuple[np.ndarray, np.ndarray]]:
        """As `VectorStore.search`; always exact."""
        scan = self.scan(space)
        return scan.search(queries, k, None if among is None else np.isin(scan.ids, among))

    def get(self, space: str, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        known = self._known(space)
        rows = dict(self.rows_of(f"SELECT item, data FROM vector WHERE space = {known.id} AND item IN (?)", ids))
        none = np.full(known.width, np.nan, np.float16).tobytes()
        data = b"".join(rows.get(int(item), none) for item in ids)
        return np.frombuffer(data, np.float16).reshape(-1, known.width).astype(np.float32)

    def count(self, space: str) -> int:
        return self.rows("SELECT count(*) FROM vector WHERE space = ?", self._known(space).id)[0][0]

    def holds(self, space: str) -> bool:
        """Whether a space has any vector at all; to count them takes as long as a search."""
        return bool(self.rows("SELECT 1 FROM vector WHERE space = ? LIMIT 1", self._known(space).id))

    def _known(self, fingerprint: str) -> Space:
        found = self.space(fingerprint)
        if found is None:
            names = ", ".join(f"{space.name} ({space.fingerprint})" for space in self.spaces()) or "none"
            raise ValueError(f"no vectors of {fingerprint!r} in {self.path}; it has those of {names}")
        return found

    def scan(self, fingerprint: str) -> ExactScan:
        """The vectors of a space in memory, as they are now: what came and went since is read, and no more."""
        from omma.retrieval.scan import ExactScan  # torch, which who only writes does without

        space = self._known(fingerprint)
        with self._lock:
            kept, changes, scan = self._scans.get(space.id, (np.zeros(0, np.int64), -1, ExactScan(space.width)))
            now = self.rows("SELECT value FROM meta WHERE key = 'changes'")[0][0]
            if now == changes:
                return scan
            there = np.array(self.rows("SELECT seq, item FROM vector WHERE space = ? ORDER BY seq", space.id),
                             np.int64).reshape(-1, 2)
            old = np.isin(kept, there[:, 0])
            last = int(kept[-1]) if len(kept) else 0
            new = self.rows("SELECT seq, item, data FROM vector WHERE space = ? AND seq > ? ORDER BY seq",
                            space.id, last)
            if len(new) or not old.all():
                rows = np.frombuffer(b"".join(row[2] for row in new), np.float16).reshape(-1, space.width)
                fresh = ExactScan(space.width)
                fresh.set(np.concatenate([scan.ids[old], np.array([row[1] for row in new], np.int64)]),
                          np.concatenate([scan.rows[old], rows]))
                kept, scan = np.concatenate([kept[old], np.array([row[0] for row in new], np.int64)]), fresh
            self._scans[space.id] = kept, now, scan
            return scan

    # ---- text and filters
    def write_words(self, item: int, name: str, caption: str, text: str) -> None:
        with self.writing() as con:
            con.execute("DELETE FROM words WHERE rowid = ?", (item,))
            con.execute("INSERT INTO words (rowid, name, caption, text) VALUES (?, ?, ?, ?)",
                        (item, *(" ".join(words(part)) for part in (name, caption, text))))

    def renew_words(self) -> int:
        """Of an index from before emoji were words, write those of the items that have any; how many these were."""
        if self.rows("SELECT 1 FROM meta WHERE key = 'words' AND value = ?", WORDS):
            return 0
        with self.writing() as con:
            stale = [row for row in con.execute("SELECT item.id, path, coalesce(caption, ''), coalesce(text, '') FROM "
                                                "item JOIN file ON file.id = file") if has_emoji(" ".join(row[1:]))]
            for row in stale:
                self.write_words(*row)
            con.execute("INSERT OR REPLACE INTO meta VALUES ('words', ?)", (WORDS,))
        return len(stale)

    def text(self, query: str, k: int, among: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The k items whose name, caption or text fit best by BM25: ids and scores (higher is better), best first."""
        wanted = asked(query)
        if not wanted:
            return np.zeros(0, np.int64), np.zeros(0, np.float32)
        match = " OR ".join(f'"{word}"' for word in wanted)
        limit = -1 if among is not None else k
        found = self.rows("SELECT rowid, -bm25(words) FROM words WHERE words MATCH ? "
                          "ORDER BY bm25(words), rowid LIMIT ?", match, limit)
        ids = np.array([row[0] for row in found], np.int64)
        scores = np.array([row[1] for row in found], np.float32)
        if among is not None:
            kept = np.isin(ids, among)
            ids, scores = ids[kept], scores[kept]
        return ids[:k], scores[:k]

    def ids(self, where: Any = None, under: str | Path | None = None, names: Mapping[str, str] | None = None
            ) -> np.ndarray | None:
        """The items that `where` keeps, None for all. where: as in `Table.select`, over the columns of COLUMNS, or the
        numbers of items; under: only what lies in this folder; names: source -> what it is called in `source` and at
        the beginning of `path`. ValueError for a folder of which nothing is known."""
        inside = None if under is None else self._under(Path(under).expanduser().resolve())
        if where is None:
            return inside
        if isinstance(where, np.ndarray):
            return np.unique(where) if inside is None else np.intersect1d(where, inside)
        condition = parse(where, TYPES, self.path, "An index has these columns and no others")
        sql = as_sql(where, names or {}) if isinstance(where, str) else None
        kept = self._kept(condition, names or {}) if sql is None else self._numbers(f"WHERE {sql[0]}", *sql[1])
        return kept if inside is None else np.intersect1d(kept, inside, assume_unique=True)

    def _numbers(self, rest: str, *values: Any) -> np.ndarray:
        """Of items, ascending. They come as one text, since a row apiece takes several times as long."""
        said = self.rows(f"SELECT group_concat(item.id) FROM item JOIN file ON file.id = item.file {rest}", *values)
        return np.sort(np.fromstring(said[0][0] or "", np.int64, sep=","))

    def _kept(self, condition: Predicate, names: Mapping[str, str]) -> np.ndarray:
        """As SQL would keep, told by arrow from every row."""
        picked = ", ".join(f"{COLUMNS[name]} AS {name!r}" for name in condition.columns)
        found = self.rows(f"SELECT item.id, {picked} FROM item JOIN file ON file.id = item.file ORDER BY item.id")
        columns: list[Any] = list(zip(*found, strict=True)) or [()] * (1 + len(condition.columns))
        values = {name: [seen_as(name, value, names) for value in column]
                  for name, column in zip(condition.columns, columns[1:], strict=True)}
        table = pa.table({"id": pa.array(columns[0], pa.int64()),
                          **{name: pa.array(column, TYPES.field(name).type) for name, column in values.items()}})
        return table.filter(condition.expression)["id"].to_numpy()

    def _under(self, folder: Path) -> np.ndarray:
        start, parts = f"{folder}/".replace("//", "/"), []
        for source in self.sources():
            inside = source.rstrip("/") + "/"
            if inside.startswith(start):
                parts.append(("SELECT id FROM file WHERE source = ?", [source]))
            elif start.startswith(inside):                # all paths that begin so stand together; "0" follows "/"
                parts.append(("SELECT id FROM file WHERE source = ? AND path >= ? AND path < ?",
                              [source, start[len(inside) :], f"{start[len(inside) : -1]}0"]))
        if not any(self.rows(f"{sql} LIMIT 1", *values) for sql, values in parts):
            raise ValueError(f"{folder} is not in {self.path}. Index it: omma index {folder}")
        return self._numbers(f"WHERE file.id IN ({' UNION ALL '.join(sql for sql, _ in parts)})",
                             *(value for _, values in parts for value in values))

    def sources(self) -> list[str]:
        """The folders that were indexed. They are stepped through: to tell them from all files takes long."""
        return [row[0] for row in self.rows(
            "WITH RECURSIVE one(name) AS (SELECT min(source) FROM file UNION ALL SELECT (SELECT min(source) FROM file "
            "WHERE source > one.name) FROM one WHERE name IS NOT NULL) SELECT name FROM one WHERE name IS NOT NULL")]


@contextlib.contextmanager
def told(path: Path) -> Iterator[None]:
    """SQLite's errors as those of a file: a full disk, no index, another process that writes all the time."""
    try:
        yield
    except sqlite3.Error as error:
        text = str(error)
        if "full" in text:
            raise OSError(errno.ENOSPC, f"{text}; make room and run it again: what was written before is kept",
                          str(path)) from error
        if "locked" in text or "busy" in text:
            raise ValueError(f"another process has been writing to {path} for {WAIT:.0f} s; wait until it has ended"
                             ) from error
        if "unable to open" in text or "readonly" in text:
            raise PermissionError(errno.EACCES, f"{text}; check who owns it and its folder", str(path)) from error
        if isinstance(error, sqlite3.DatabaseError) and "not a database" in text:  # it may be anything of a person's
            raise ValueError(f"{path} is no index of omma ({text}); give another place. If it was one, it is damaged: "
                             "move it away, then omma index FOLDER") from error
        if isinstance(error, sqlite3.DatabaseError) and "malformed" in text:
            raise ValueError(f"{path} is damaged ({text}); remove it and index again: omma index FOLDER") from error
        raise


@contextlib.contextmanager
def filling(path: Path) -> Iterator[None]:
    """ValueError while another process fills this index, or forgets of it; the lock dies with its process."""
    lock = path.with_name(f"{path.name}.lock")
    handle = os.open(lock, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        if fcntl is not None:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(f"another process is indexing into {path}; wait until it has ended, or give another "
                                 "place: --index FILE") from None
        yield
    finally:
        os.close(handle)
