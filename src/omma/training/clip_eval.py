"""How well a CLIP finds held-out captions and names held-out classes, beside its training and between two weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from omma.decode import open_picture
from omma.models.clip import CLIP
from omma.models.preprocess import Processor
from omma.models.pretrained import CLIPEncoder
from omma.table import Table
from omma.training.clip_config import ClipTrainConfig

Evaluation = Callable[[CLIP, Processor], dict[str, float]]
TEMPLATE = "a photo of a {}"
AT_ONCE = 64  # pictures; photographs are large once decoded


def held_out(config: ClipTrainConfig) -> Evaluation:
    """The evaluation of a run: `evaluation` on its val table."""
    return evaluation(config.val, where=config.val_where, rows=config.val_rows, label=config.val_label)


def evaluation(table: str, *, where: str | None = None, rows: int = 1000, label: str | None = None) -> Evaluation:
    """A function of model and processor -> numbers, on up to so many rows of a table, evenly spread.

    Retrieval between pictures and their first captions: i2t_recall@1 and @5, t2i_recall@1 and @5, and mrr, the mean
    reciprocal rank both ways, which moves where recall does not yet. A tie counts half, and equal captions are no
    rivals. label: a column with each picture's class; accuracy is that of the nearest "a photo of a CLASS". A table
    without captions has that alone. ValueError: no rows, or neither captions nor a label.
    """
    source = Table.open(table)
    if label is not None and label not in source.columns:
        raise ValueError(f"no column {label!r} in {table}; it has {', '.join(source.columns)}")
    named = [label] if label else []
    usable = []
    for record in source.scan(["id", "status", "captions", *named], where=where):
        for row in pa.Table.from_batches([record]).to_pylist():
            if row["status"] in ("ok", "flat") and (row["captions"] or (label and row[label] is not None)):
                usable.append(row)
    if not usable:
        raise ValueError(f"{table} has no usable pictures with captions{f' or a {label}' if label else ''}"
                         f"{f' where {where}' if where else ''}; look at it: omma show {table}")  # fmt: skip
    usable = usable[:: -(-len(usable) // rows)]
    stored = source.take([row["id"] for row in usable], ["id", "bytes", "uri", "offset", "length"]).to_pylist()
    texts = [row["captions"][0]["text"] if row["captions"] else "" for row in usable]
    labels = [row[label] for row in usable] if label else []

    def evaluate(model: CLIP, processor: Processor) -> dict[str, float]:
        encoder = CLIPEncoder(model, processor, "clip", device=next(model.parameters()).device.type)
        parts = [stored[i : i + AT_ONCE] for i in range(0, len(stored), AT_ONCE)]
        pictures = np.concatenate([encoder.encode_image([opened(row, source) for row in part]) for part in parts])
        numbers: dict[str, float] = {}
        if told := [i for i, text in enumerate(texts) if text]:
            captions = [texts[i] for i in told]
            numbers |= retrieval(pictures[told] @ encoder.encode_text(captions).T, captions)
        if label:
            known = [i for i, value in enumerate(labels) if value is not None]
            classes = sorted({str(labels[i]) for i in known})
            names = encoder.encode_text([TEMPLATE.format(name) for name in classes])
            nearest = (pictures[known] @ names.T).argmax(axis=1)
            right = [classes[c] == str(labels[i]) for c, i in zip(nearest, known, strict=True)]
            numbers["accuracy"] = float(np.mean(right))
        return numbers

    return evaluate


def opened(row: dict[str, Any], table: Table) -> Any:
    """The picture of a row that was usable when it was ingested. ValueError when it no longer is."""
    picture = open_picture(row, Path(table.uri))
    if picture.image is None:
        raise ValueError(f"picture {row['id']} was usable when it was ingested and now is {picture.status}; was the "
                         "file behind it changed? Ingest it again")  # fmt: skip
    return picture.image


def retrieval(scores: np.ndarray, texts: list[str]) -> dict[str, float]:
    """scores: (n, n), pictures by captions, matching on the diagonal. Equal captions never compete; a tie counts
    half."""
    words = np.unique(np.asarray(texts), return_inverse=True)[1]
    rival = words[:, None] != words[None]
    numbers, reciprocal = {}, []
    for name, s in (("i2t", scores), ("t2i", scores.T)):
        right = np.diag(s)[:, None]
        ranks = 1 + (rival & (s > right)).sum(axis=1) + 0.5 * (rival & (s == right)).sum(axis=1)
        reciprocal.append(float(np.mean(1 / ranks)))
        numbers |= {f"{name}_recall@{k}": float(np.mean(ranks <= k)) for k in (1, 5)}
    return numbers | {"mrr": sum(reciprocal) / 2}
