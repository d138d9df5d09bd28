"""Search: a text or a picture -> the rows of a table whose vectors are nearest, by an exact scan of the vector column.

E shared space, k hits. The column "embed.<encoder.name>" holds one normalised fp16 vector a row (omma.embedding.embed).
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from omma.decode import decode, open_picture
from omma.models.rerank import rerank_scores
from omma.table import View

BLOCK_ROWS = 16_384  # 16 MB of fp32 at E = 256
AT_ONCE = 16         # pictures open at a time in a second look
PICTURE = ("id", "bytes", "uri", "offset", "length")
SLACK = 1e-4         # more than an fp32 sum of E products of unit vectors can be off


@dataclass(frozen=True)
class Hit:
    """One found row: its id, its inner product with the query, and its other columns (the vectors are left out).

    Of a folder's index (`omma.Index`), `scores` says where score came from: "look" the cosine with the words, "like"
    that with the picture, "words" BM25, "match" the second look. A second look and a choice of diverse hits put them
    in another order than that of score. also: the places of its copies and other versions.
    """

    id: str
    score: float
    row: dict[str, Any]
    scores: dict[str, float] = field(default_factory=dict)
    also: tuple[str, ...] = ()

    @property
    def path(self) -> str | None:
        """The file, None for a row whose bytes are in the table."""
        return self.row.get("path") or self.row.get("uri")

    @property
    def place(self) -> str:
        """The file and where in it: "report.pdf p.12", "talk.mp4 00:41-00:47", "notes.txt:120"."""
        path, row = self.path or self.id, self.row
        if row.get("page") is not None:
            return f"{path} p.{row['page']}"
        if row.get("start") is not None:
            return f"{path} {clock(row['start'])}-{clock(row['end'])}"
        return f"{path}:{row['line']}" if row.get("line") is not None else path

    @property
    def thumbnail(self) -> Image.Image | None:
        """A small picture of it, if there is one."""
        data = self.row.get("thumbnail")
        return None if data is None else decode(data).image


def clock(seconds: float) -> str:
    """41.7 -> "00:41"."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes:02}:{rest:02}"


def example_query(pictures: Any) -> str:
    """What the first picture of a table or view shows, in words: a search that has a right answer."""
    return next(iter(pictures.scan(columns=["captions"])))["captions"][0].as_py()[0]["text"]


def search(
    table: Any,
    query: str | Image.Image,
    *,
    encoder: Any = None,
    k: int = 10,
    where: Any = None,
    column: str | None = None,
    rerank: int = 0,
) -> list[Hit]:
    """The k nearest rows, best first; equal scores in the table's order. Fewer when fewer rows have a vector.

    table: a Table or View; or, without an encoder, an `omma.Index` of folders (see `Index.search`) or a table of papers
    (see `retrieval.papers`); query: a text or a picture, encoded by `encoder`; where: an expression over columns;
    column: the vector column, by default "embed.<encoder.name>". Rows without a vector (pictures that could not be
    read) are passed over. Exact: every row is scored, and what could be among the k is scored again in fp64.
    rerank: so many rows are found first, at least k, and then put into order by the fusion encoder (encoder.match),
    which looks at words and picture together; 0 leaves that out. Scores are then those of models.rerank.
    Raises ValueError when the column is missing, holds vectors of another width or was made by another encoder, and for
    a rerank of a picture query, of fewer than k rows, or by an encoder that can't match.

    >>> hits = search(table, "a red cup left of a ball", encoder=eye, k=5)     # doctest: +SKIP
    >>> hits[0].id, round(hits[0].score, 2)                                    # doctest: +SKIP
    ('s0-000017', 0.61)
    """
    if hasattr(table, "search"):
        return table.search(query, k=k, where=where, rerank=rerank)
    if getattr(table, "kind", "") == "papers":
        from omma.retrieval.papers import search_papers  # it builds on this module

        if rerank:
            raise ValueError("the fusion encoder looks at words and a picture, and papers have none; leave rerank out")
        return search_papers(table, query, encoder=encoder, k=k, where=where, column=column)  # type: ignore[arg-type]
    return nearest(table, query, encoder=encoder, k=k, where=where, column=column, rerank=rerank)


def nearest(table: Any, query: str | Image.Image, *, encoder: Any, k: int, where: Any = None,
            column: str | None = None, rerank: int = 0) -> list[Hit]:
    """As `search`, of a table with a column of vectors."""
    if encoder is None:
        raise ValueError("a table is searched with the encoder that embedded it: encoder=load_encoder(...)")
    check_query(query, k)
    if rerank:
        check_rerank(query, encoder, k, rerank)
    name = column or f"embed.{encoder.name}"
    if name not in table.columns:
        has = ", ".join(table.columns)
        step = f"omma embed {table.uri} --encoder {encoder.name}"
        raise ValueError(f"no column {name!r} in {table.uri}; it has {has}. Create it: {step}")
    # Same name and width do not mean same weights; omma embed notes which ones made a column.
    made = (table.table if isinstance(table, View) else table).column_info(name)["params"]
    made_by = made.get("encoder_fingerprint")
    if made_by is not None and made_by != encoder.fingerprint:
        raise ValueError(
            f"the vectors in {name!r} of {table.uri} were made by another encoder or other weights: "
            f"{made.get('encoder')!r} with fingerprint {made_by}, but {encoder.name!r} has {encoder.fingerprint}. "
            f"Embed again: omma embed {table.uri} --encoder {encoder.name}"
        )
    vectors = encoder.encode_text([query]) if isinstance(query, str) else encoder.encode_image([query.convert("RGB")])
    wanted = np.asarray(vectors, dtype=np.float32)[0]                      # (E,)
    width = getattr(table.schema.field(name).type, "list_size", None)
    if width != len(wanted):
        raise ValueError(
            f"column {name!r} of {table.uri} is {table.schema.field(name).type}, but encoder {encoder.name!r} makes "
            f"vectors of {len(wanted)}. Embed again: omma embed {table.uri} --encoder {encoder.name}"
        )
    if not np.isfinite(wanted).all():
        raise ValueError(f"encoder {encoder.name!r} gave a vector that is not finite for the query; check its weights")

    kept = max(k, rerank)
    best, ids = np.zeros(0, dtype=np.float32), np.zeros(0, dtype=object)
    for batch in table.scan(columns=["id", name], where=where, batch_rows=BLOCK_ROWS):
        column_of_batch = batch.column(batch.schema.get_field_index(name))
        rows = np.flatnonzero(column_of_batch.is_valid().to_numpy(zero_copy_only=False))
        if not len(rows):
            continue
        block = dense(column_of_batch.drop_null(), len(wanted))            # (rows, E) fp32
        with np.errstate(invalid="ignore", over="ignore"):                 # a vector that is not finite is passed over
            rough = block @ wanted
        good = np.isfinite(rough)
        bar = np.partition(rough[good], -kept)[-kept] if good.sum() > kept else -np.inf
        if len(best) == kept:
            bar = max(bar, best[-1])
        near = np.flatnonzero(good & (rough >= bar - SLACK))
        # one sum per row in fp64, rounded once: equal vectors get equal scores, wherever they stand in a block
        exact = (block[near].astype(np.float64) * wanted).sum(axis=1).astype(np.float32)
        best = np.concatenate([best, exact])
        ids = np.concatenate([ids, np.array(batch.column(0).take(pa.array(rows[near])).to_pylist(), dtype=object)])
        order = np.argsort(-best, kind="stable")[:kept]
        best, ids = best[order], ids[order]
    if rerank and len(ids):
        best = second_look(table, str(query), encoder, ids.tolist(), best)
        order = np.argsort(-best, kind="stable")[:k]
        best, ids = best[order], ids[order]
    return hits(table, ids.tolist(), best.tolist())


def check_query(query: Any, k: int) -> None:
    """ValueError for a query that asks for nothing."""
    if k < 1:
        raise ValueError(f"k={k}; give the number of hits, 1 or more")
    if isinstance(query, str) and not query.strip():
        raise ValueError("the query is empty; say in words what to look for")


def check_rerank(query: Any, encoder: Any, k: int, rerank: int) -> None:
    """ValueError for a second look that can't be had."""
    if rerank < k:
        raise ValueError(f"rerank={rerank} is less than k={k}; give k or more rows to look at again, or 0 for none")
    if not isinstance(query, str):
        raise ValueError("the fusion encoder looks at words and a picture together, and this query is a picture; "
                         "leave rerank out, or ask in words")  # fmt: skip
    if not hasattr(encoder, "match"):
        raise ValueError(f"encoder {encoder.name!r} has no match(images, texts); leave rerank out")


def second_look(table: Any, query: str, encoder: Any, ids: list[str], cosines: np.ndarray) -> np.ndarray:
    """The scores (n,) after the fusion encoder has seen these pictures beside the words. A few are open at a time."""
    rows = {row["id"]: row for row in table.take(ids, columns=list(PICTURE)).to_pylist()}
    matched = []
    for start in range(0, len(ids), AT_ONCE):
        images = []
        for name in ids[start : start + AT_ONCE]:
            opened = open_picture(rows[name], table.uri)
            if opened.image is None:
                raise ValueError(f"picture {name} has a vector, but can't be opened now: {opened.status}. "
                                 "Was the file behind it changed? Ingest it again, or leave rerank out")  # fmt: skip
            images.append(opened.image)
        matched.append(encoder.match(images, [query] * len(images)))
    return rerank_scores(encoder, np.concatenate(matched), cosines)


def dense(column: pa.Array, width: int) -> np.ndarray:
    """A fixed-size list column without nulls -> (rows, width) float32."""
    flat = column.flatten().to_numpy(zero_copy_only=False)  # type: ignore[attr-defined]
    return np.asarray(flat, dtype=np.float32).reshape(-1, width)


def hits(table: Any, ids: list[str], scores: list[float]) -> list[Hit]:
    shown = [name for name in table.columns if not pa.types.is_fixed_size_list(table.schema.field(name).type)]
    rows = table.take(ids, columns=shown).to_pylist() if ids else []
    return [Hit(name, score, row) for name, score, row in zip(ids, scores, rows, strict=True)]
