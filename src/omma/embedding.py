"""Table + Encoder -> one vector column, which search, mining and curation read.

embed(table, load_encoder("runs/vl"))        # adds "embed.vl": E half-precision numbers a row, L2-normalised
"""

import re
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from omma.decode import open_picture
from omma.jobs import JobReport, Op, run
from omma.models.pretrained import Encoder
from omma.table import Table

PICTURE = ("bytes", "uri", "offset", "length", "status")
USABLE = ("ok", "flat")
SENTENCES = re.compile(r"(?<=[.!?])\s+(?=[A-Z0-9$\\(])")


def embed(
    table: Table,
    encoder: Encoder,
    *,
    what: Literal["image", "text"] | None = None,
    column: str | None = None,
    batch_size: int = 64,
    progress: bool = False,
) -> JobReport:
    """Adds the column "embed.<encoder.name>" (text: "embed.<encoder.name>.text"): lists of E float16, unit length.

    what: "image" encodes each row's picture; "text" the mean of its captions' vectors, normalised again. None is
    "image", and of a table of papers "text", the mean of the title and the abstract's sentences. Rows without a usable
    picture or text are null. Chunks that this very encoder (by fingerprint) has done stay; an interrupted run goes on.
    Raises ValueError for a table of items, which holds no pictures.
    """
    what = what or ("text" if table.kind == "papers" else "image")
    if what not in ("image", "text"):
        raise ValueError(f"what={what!r}; it is image or text")
    if table.kind == "items":
        raise ValueError(f"{table.uri} is a table of {table.kind}; vectors belong to its pictures table")
    if table.kind == "papers" and what == "image":
        raise ValueError(f"{table.uri} is a table of papers, which have no pictures; leave out what, or say text")
    name = column or (f"embed.{encoder.name}" if what == "image" else f"embed.{encoder.name}.text")
    work = (
        partial(encode_images, table.uri, encoder, batch_size)
        if what == "image"
        else partial(encode_texts, encoder, batch_size)
    )
    params = {"encoder": encoder.name, "encoder_fingerprint": encoder.fingerprint, "what": what}
    needs = PICTURE if what == "image" else ("title", "abstract") if table.kind == "papers" else ("captions",)
    op = Op(name, 1, needs, pa.list_(pa.float16(), encoder.embed_dim), Work(work), params)
    return run(table, op, progress=progress)


class Work:
    """A bound job that compares by its class alone: the op's params hold the encoder's fingerprint, not its address."""

    def __init__(self, work: Any):
        self.work = work

    def __call__(self, batch: pa.RecordBatch) -> pa.Array:
        return self.work(batch)


def encode_images(root: Path, encoder: Encoder, batch_size: int, batch: pa.RecordBatch) -> pa.Array:
    """The pictures' vectors. Decodes a batch at a time, so memory does not grow with the chunk."""
    vectors: list[np.ndarray | None] = [None] * batch.num_rows
    for start in range(0, batch.num_rows, batch_size):
        rows, images = [], []
        for i, row in enumerate(pa.Table.from_batches([batch.slice(start, batch_size)]).to_pylist(), start):
            if row["status"] in USABLE:
                picture = open_picture(row, root)
                if picture.image is not None:
                    rows.append(i)
                    images.append(picture.image)
        if images:
            for i, vector in zip(rows, encoder.encode_image(images, batch_size=batch_size), strict=True):
                vectors[i] = vector
    return half_precision(vectors, encoder.embed_dim)


def encode_texts(encoder: Encoder, batch_size: int, batch: pa.RecordBatch) -> pa.Array:
    """The mean of each row's caption vectors, or of those of a paper's title and sentences, at unit length."""
    if "captions" in batch.schema.names:
        captions = [[c["text"] for c in row or []] for row in batch["captions"].to_pylist()]
    else:
        captions = [[row["title"], *SENTENCES.split(row["abstract"] or "")] for row in batch.to_pylist()]
        captions = [[text for text in row if text] for row in captions]
    texts = sorted({text for row in captions for text in row})
    if not texts:
        return half_precision([None] * batch.num_rows, encoder.embed_dim)
    number = {text: i for i, text in enumerate(texts)}
    encoded = encoder.encode_text(texts, batch_size=batch_size)
    vectors: list[np.ndarray | None] = []
    for row in captions:
        mean = encoded[[number[text] for text in row]].mean(axis=0) if row else None
        vectors.append(mean / max(float(np.linalg.norm(mean)), 1e-12) if mean is not None else None)
    return half_precision(vectors, encoder.embed_dim)


def half_precision(vectors: list[np.ndarray | None], width: int) -> pa.Array:
    """Rows of `width` numbers, or None, as a column of float16 lists. AssertionError for a vector of another width."""
    assert all(v is None or len(v) == width for v in vectors)
    flat = (
        np.concatenate([np.zeros(width) if v is None else v for v in vectors]).astype(np.float16)
        if vectors
        else np.zeros(0, np.float16)
    )
    mask = pa.array([v is None for v in vectors], pa.bool_())
    return pa.FixedSizeListArray.from_arrays(pa.array(flat, pa.float16()), width, mask=mask)
