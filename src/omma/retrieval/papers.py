"""Search in a table of papers: by the words of titles, abstracts and authors, and by vectors where there are some.

    search(table, "sparse visual tokens")                 # BM25; of each paper its newest version
    embed(table, eye); search(table, "sparse visual tokens", encoder=eye)     # and the cosine, fused by their places

The full text stands beside the rows in TABLE/.omma-words and follows them: rows never change, so only new chunks are
read. It can be removed at any time.
"""

import contextlib
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np

from omma.data.papers.arxiv import newest
from omma.retrieval.find import LEAST_DEPTH, fused
from omma.retrieval.index import Hit, check_query, nearest
from omma.retrieval.tokens import asked, words
from omma.table import Table, View

WEIGHTS = {"title": 2.0, "authors": 1.0, "abstract": 1.0}             # of a word, by where it stands
COLUMNS = ", ".join(WEIGHTS)


def search_papers(table: Table | View, query: str, *, encoder: Any = None, k: int = 10, where: Any = None,
                  column: str | None = None) -> list[Hit]:
    """The k papers that fit best, best first: those with the most telling of the words, by BM25.

    table: of kind "papers"; where: as in `Table.select`. encoder: if given, the cosine with the column that it made
    (`omma.embed`) counts as well, by reciprocal rank fusion; then `Hit.scores` has "words" and "meaning". Raises
    ValueError for an empty query, a `where` that can't be read, and a column that isn't there or another encoder made.
    """
    if not isinstance(query, str):
        raise ValueError("papers are looked for by words; this query is a picture")
    check_query(query, k)
    whole = table.table if isinstance(table, View) else table
    ids = whole.read(["id"])["id"].to_pylist()
    number = {name: i for i, name in enumerate(ids)}
    rows = np.array([number[name] for name in newest(whole)], np.int64)
    if where is not None or isinstance(table, View):
        kept = [number[name] for batch in table.scan(["id"], where) for name in batch["id"].to_pylist()]
        rows = np.intersect1d(rows, kept)
    depth = max(4 * k, LEAST_DEPTH)
    with contextlib.closing(full_text(whole)) as text:
        lists = {"words": by_words(text, query, depth, rows)}
    if encoder is not None:
        lists["meaning"] = by_meaning(table, query, encoder, depth, where, column, number, rows)
    order = fused(lists)
    if encoder is None:
        order = dict(zip(*(values.tolist() for values in lists["words"]), strict=True))
    best = list(order)[:k]
    scores = {name: dict(zip(found.tolist(), values.tolist(), strict=True)) for name, (found, values) in lists.items()}
    shown = whole.take([ids[row] for row in best], [name for name in whole.columns if not name.startswith("embed.")])
    return [Hit(row["id"], order[i], row, {name: values[i] for name, values in scores.items() if i in values})
            for i, row in zip(best, shown.to_pylist(), strict=True)]


def by_words(text: sqlite3.Connection, query: str, k: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The k of these rows that fit best: their numbers and BM25 scores (higher is better), best first."""
    wanted = " OR ".join(f'"{word}"' for word in asked(query))
    found = text.execute(
        f"SELECT rowid, -bm25(words, {', '.join(map(str, WEIGHTS.values()))}) AS score FROM words WHERE words MATCH ? "
        "ORDER BY score DESC, rowid", (wanted,)).fetchall() if wanted else []
    ids, scores = (np.array([row[i] for row in found]) for i in (0, 1))
    kept = np.isin(ids, rows)
    return ids[kept][:k].astype(np.int64), scores[kept][:k].astype(np.float32)


def by_meaning(table: Table | View, query: str, encoder: Any, k: int, where: Any, column: str | None,
               number: dict[str, int], rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The k of these rows whose vectors are nearest: their numbers and cosines, best first."""
    depth, wanted = k, set(rows.tolist())
    while True:
        hits = nearest(table, query, encoder=encoder, k=depth, where=where,
                       column=column or f"embed.{encoder.name}.text")
        found = [(number[hit.id], hit.score) for hit in hits if number[hit.id] in wanted]
        if len(found) >= k or len(hits) < depth:
            return np.array([row for row, _ in found][:k], np.int64), np.array([s for _, s in found][:k], np.float32)
        depth *= 4                                        # older versions stood before others


def full_text(table: Table) -> sqlite3.Connection:
    """The words of all rows by their numbers, brought up to date; in memory where nothing can be written."""
    try:
        return opened(table, table.uri / ".omma-words" / "words.db")
    except sqlite3.DatabaseError as error:
        if "locked" in str(error) or "read" in str(error) or "open" in str(error) or "full" in str(error):
            return opened(table, None)
        for part in (table.uri / ".omma-words").glob("words.db*"):
            part.unlink(missing_ok=True)                  # it was damaged on the disk, and everything in it is derived
        return opened(table, table.uri / ".omma-words" / "words.db")
    except OSError:
        return opened(table, None)


def opened(table: Table, place: Path | None) -> sqlite3.Connection:
    if place is not None:
        place.parent.mkdir(exist_ok=True)
    con = sqlite3.connect(place or ":memory:", isolation_level=None, timeout=10)
    try:
        con.execute("BEGIN IMMEDIATE")
        con.execute("CREATE TABLE IF NOT EXISTS chunk (name TEXT PRIMARY KEY, digest TEXT)")
        con.execute(f"CREATE VIRTUAL TABLE IF NOT EXISTS words USING fts5({COLUMNS}, content='', "
                    "tokenize = \"unicode61 remove_diacritics 0\")")  # fmt: skip
        known = con.execute("SELECT name, digest FROM chunk ORDER BY name").fetchall()
        there = [(chunk.name, chunk.digest) for chunk in table.chunks]
        if known[: len(there)] != there[: len(known)]:    # of another table, which stood here before
            con.execute("DROP TABLE words")
            con.execute("DROP TABLE chunk")
            con.execute("COMMIT")
            con.close()
            return opened(table, place)
        first = sum(chunk.rows for chunk in table.chunks[: len(known)])
        for chunk in table.chunks[len(known):]:
            rows = table.chunk_batch(chunk, list(WEIGHTS)).to_pylist()
            said = [(first + i, *(" ".join(words(as_text(row[name]))) for name in WEIGHTS))
                    for i, row in enumerate(rows)]
            con.executemany(f"INSERT INTO words (rowid, {COLUMNS}) VALUES (?, ?, ?, ?)", said)
            con.execute("INSERT INTO chunk VALUES (?, ?)", (chunk.name, chunk.digest))
            first += chunk.rows
        con.execute("COMMIT")
    except BaseException:
        con.close()
        raise
    return con


def as_text(value: Any) -> str:
    return ". ".join(value) if isinstance(value, list) else value or ""
