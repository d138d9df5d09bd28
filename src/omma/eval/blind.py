"""CLIP-blind pairs (Tong et al. 2024): pictures that one eye takes for the same, and another one tells apart.

    found = mine_blind_pairs("embed.clip", "embed.dino", table=table)      # all pairs, exact: see join.py
    found.pairs[found.strongest(10)]                                       # (10, 2) row numbers, the widest gaps first

Mining gives candidates. In the paper a person looked at each and wrote down what differs.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from omma.decode import picture_data
from omma.eval.join import (
    PANEL,
    Join,
    Part,
    Rule,
    canonical,
    choose_directions,
    heads,
    join_key,
    run_join,
)
from omma.eval.metrics import wilson
from omma.jobs import progress_bar
from omma.storage import digest, make_folder, publish
from omma.table import Table, View

MMVP = (0.95, 0.6)  # the thresholds of the paper, for CLIP ViT-L/14 and DINOv2 ViT-L/14
EXACT_ROWS = 2_000_000  # above it a sample of rows is held against all, unless asked otherwise
SAMPLE_ROWS = 10_000
ENOUGH_PAIRS = 4_000_000  # pairs that a threshold is read from, at least; for rare quantiles more
SUGGESTED = {"eye": (1e-2, 1e-3, 1e-4, 1e-5), "reference": (0.05, 0.25, 0.5)}
Z95 = 1.959964


@dataclass(frozen=True)
class BlindPairs:
    """What was found. pairs: (m, 2) row numbers, i < j, by (i, j); eye_scores, reference_scores: (m,) fp64 cosines.

    above, below: the thresholds as numbers; asked: as they were given. exact: all pairs were compared; else rate holds
    an estimate. counts: rows, without_vector and same_picture (rows left out), compared (pairs), similar (above in the
    eye), blind (and below in the reference), near (near duplicates among the similar), then of the blind pairs those
    not listed: over_cap, repeated (the same two groups of near duplicates as a listed pair); listed. All counts are
    exact for what was compared. row_counts: (rows,) blind pairs of each row, before anything was left out of the list.
    of: the names of the two eyes and the place of the table, where they have one.
    """

    pairs: np.ndarray
    eye_scores: np.ndarray
    reference_scores: np.ndarray
    above: float
    below: float
    asked: dict[str, Any]
    exact: bool
    counts: dict[str, int]
    row_counts: np.ndarray
    rate: dict[str, Any] | None = None
    ids: list[str] | None = None
    work: dict[str, Any] = field(default_factory=dict)
    of: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def gaps(self) -> np.ndarray:
        """(m,) how much more alike the eye takes the two for than the reference does."""
        return self.eye_scores - self.reference_scores

    def strongest(self, most: int | None = None) -> np.ndarray:
        """(m or most,) positions in `pairs`, the widest gap first; equal gaps in the order of rows."""
        return np.argsort(-self.gaps, kind="stable")[:most]

    def names(self, position: int) -> tuple[str, str]:
        """The ids of a pair, or its row numbers as text."""
        i, j = self.pairs[position].tolist()
        return (self.ids[i], self.ids[j]) if self.ids else (str(i), str(j))

    def rows(self, most: int | None = None) -> list[dict[str, Any]]:
        """The strongest pairs, one dict each: a, b (ids), eye, reference."""
        return [
            dict(zip(("a", "b"), self.names(k), strict=True))
            | {"eye": float(self.eye_scores[k]), "reference": float(self.reference_scores[k])}
            for k in self.strongest(most).tolist()
        ]

    def to_json(self) -> dict[str, Any]:
        """All but the pairs themselves."""
        return {"above": self.above, "below": self.below, "asked": self.asked, "exact": self.exact,
                "counts": self.counts, "rate": self.rate, "work": self.work, "of": self.of}  # fmt: skip

    def write(self, out: str | Path, about: dict[str, Any] | None = None, **columns: Sequence[Any]) -> Path:
        """out/pairs.parquet, strongest first, with what `to_json` gives, and about, as its metadata. columns: more, by
        position."""
        order = self.strongest()
        names = [self.names(k) for k in order.tolist()]
        made = {
            "a": pa.array([a for a, _ in names], pa.string()),
            "b": pa.array([b for _, b in names], pa.string()),
            "row_a": self.pairs[order, 0], "row_b": self.pairs[order, 1],
            "eye": self.eye_scores[order], "reference": self.reference_scores[order],
        }  # fmt: skip
        made |= {name: pa.array([values[k] for k in order.tolist()]) for name, values in columns.items()}
        sink = pa.BufferOutputStream()
        told = {"omma": json.dumps(self.to_json() | (about or {}))}
        pq.write_table(pa.table(made).replace_schema_metadata(told), sink, compression="zstd")
        make_folder(Path(out))
        publish(Path(out) / "pairs.parquet", sink.getvalue())
        return Path(out) / "pairs.parquet"


def mine_blind_pairs(
    eye: Any,
    reference: Any,
    above: float | str = MMVP[0],
    below: float | str = MMVP[1],
    *,
    table: Table | View | None = None,
    pictures: Sequence[Any] | None = None,
    distinct: bool = True,
    near: float | None = 0.99,
    per_row: int = 100,
    sample: int | None = None,
    exact: bool = False,
    out: str | Path | None = None,
    workers: int | Literal["ray"] = 1,
    seed: int = 0,
    progress: bool = False,
) -> BlindPairs:
    """The pairs of rows whose cosine is above `above` for the eye and below `below` for the reference, strictly.

    eye, reference: (n, d) and (n, d2) arrays or Arrow columns, or names of vector columns of `table`. They are
    normalised here; rows that are null, zero or not finite have no pairs, and are counted. above, below: cosines
    (0.95 and 0.6 are the paper's, for CLIP and DINOv2; other eyes have other scales: see `suggest_thresholds`), or
    "quantile:1e-6", the cosine that this share of pairs exceeds in the eye, or falls below in the reference.

    distinct: rows of the same picture are looked at once, those with equal `pictures` (a hash for each row; the
    table's own bytes by default) and those with equal vectors in both spaces. near: pairs between the same two groups
    of near duplicates, both cosines above it, are listed once, the widest gap; None lists all. per_row: a pair is
    listed if it is among so many widest gaps of one of its rows, so that a crowd of near duplicates fills no memory;
    counts stay exact.

    All pairs are compared, and every decision is made in fp64. Above 2 million rows, or with `sample` (a number of
    rows), that many rows drawn by `seed` are held against all others, and `rate` estimates the share of blind pairs,
    with a 95 % interval; exact=True compares all of any number.

    out: folder for pairs.parquet and the parts of finished tasks: a killed call goes on there. workers: processes, or
    "ray" for a task on a Ray cluster for each pair of panels. Raises ValueError for arrays that don't fit, columns that
    aren't there, and thresholds that can't be.

    >>> eye = np.array([[1, 0], [1, 0.1], [0, 1]])
    >>> mine_blind_pairs(eye, np.array([[1, 0], [0, 1], [0, 1]])).pairs.tolist()
    [[0, 1]]
    """
    of = {name: given for name, given in (("eye", eye), ("reference", reference)) if isinstance(given, str)}
    for name, value, least in (("per_row", per_row, 1), ("sample", sample, 1), ("workers", workers, 1)):
        if value is not None and not isinstance(value, str) and value < least:
            raise ValueError(f"{name}={value}: the least is {least}")
    if isinstance(workers, str) and workers != "ray":
        raise ValueError(f"workers={workers!r}; give a number of processes, or 'ray'")
    eye, reference, ids = vectors_of(eye, reference, table, pictures)
    n = len(eye)
    (c, good), (r, fine) = canonical(eye), canonical(reference)
    usable, given = good & fine, int((good & fine).sum())
    if distinct:
        same = pictures if pictures is not None else None if table is None else content_hashes(table)
        usable &= first_of_each(c, r, usable, same)
    kept = np.flatnonzero(usable)
    if len(kept) < n:
        c, r = c[kept], r[kept]
    asked = {"above": above, "below": below}
    high, asked["above_from_pairs"] = threshold(c, above, "above", seed)
    low, asked["below_from_pairs"] = threshold(r, below, "below", seed)

    if sample is None and not exact and len(kept) > EXACT_ROWS:
        sample = SAMPLE_ROWS
    queries = None
    if sample is not None and not exact and sample < len(kept):
        queries = np.sort(np.random.default_rng(seed).choice(len(kept), sample, replace=False))
    directions = choose_directions(c, high)
    head = c if directions is None else heads(c, directions)
    join = Join(c, r, head, Rule(high, low, near, per_row), PANEL, queries)
    needs_folder = out is None and workers != 1
    with tempfile.TemporaryDirectory() if needs_folder else nullcontext() as temporary:
        base = temporary if out is None else str(out)
        folder = None if base is None else Path(base) / f"parts-{join_key(join)[:16]}"
        with progress_bar("blind pairs", "tasks", progress) as advance:
            part, reused = run_join(join, folder, workers, advance)

    listed = once_per_group(part, len(kept)) if near is not None else np.arange(len(part.pairs))
    found = BlindPairs(
        pairs=kept[part.pairs[listed]].reshape(-1, 2), eye_scores=part.eye[listed],
        reference_scores=part.reference[listed], above=high, below=low, asked=asked, exact=queries is None,
        counts={
            "rows": n, "without_vector": n - given, "same_picture": given - len(kept),
            "compared": join.num_pairs, "similar": part.similar, "blind": part.blind, "near": part.near,
            "over_cap": part.blind - len(part.pairs), "repeated": len(part.pairs) - len(listed),
            "listed": len(listed),
        },
        row_counts=spread(part.rows, part.row_blind, kept, n),
        rate=None if queries is None else rate(part, queries, len(kept)), ids=ids,
        work={"directions": head.shape[1] - (directions is not None), "left": part.left, "tasks": len(join.tasks),
              "reused": reused},
        of=of | ({} if table is None else {"table": str(Path(table.uri).resolve())}),
    )  # fmt: skip
    if out is not None:
        found.write(out)
    return found


def vectors_of(
    eye: Any, reference: Any, table: Table | View | None, pictures: Sequence[Any] | None
) -> tuple[np.ndarray, np.ndarray, list[str] | None]:
    """Both vectors of every row as arrays, and the rows' ids where a table is given. ValueError where they don't
    fit."""
    named = next((f"{what}={name!r}" for what, name in (("eye", eye), ("reference", reference))
                  if isinstance(name, str)), "")  # fmt: skip
    if named and table is None:
        raise ValueError(f"{named}: a name is that of a column; give its table too, or arrays")
    if table is not None:
        eye, reference = (column(table, name) if isinstance(name, str) else name for name in (eye, reference))
    eye, reference = as_rows(eye, "eye"), as_rows(reference, "reference")
    n = len(eye)
    if len(reference) != n:
        raise ValueError(f"the eye has {n} rows and the reference {len(reference)}; give both vectors of every row")
    ids = None if table is None else [str(name) for name in table.read(["id"])["id"].to_pylist()]
    if ids is not None and len(ids) != n:
        raise ValueError(f"{len(ids)} rows in {table.uri if table else ''}, but vectors of {n}")
    if pictures is not None and len(pictures) != n:
        raise ValueError(f"pictures has {len(pictures)} hashes for {n} rows; give one a row")
    return eye, reference, ids


def spread(rows: np.ndarray, values: np.ndarray, kept: np.ndarray, n: int) -> np.ndarray:
    """(n,) the values at the places of rows among those kept, and 0 elsewhere."""
    counts = np.zeros(n, np.int64)
    counts[kept[rows]] = values
    return counts


# ------------------------------------------------------------------------------------------------ what is compared
def column(table: Table | View, name: str) -> pa.ChunkedArray:
    """A vector column. ValueError when there is none of that name, with how to make one."""
    vectors = [f.name for f in table.schema if pa.types.is_fixed_size_list(f.type)]
    if name not in vectors:
        has = f"its vector columns are {', '.join(vectors)}" if vectors else "it has no column of vectors"
        raise ValueError(f"no vector column {name!r} in {table.uri}; {has}. Make one: omma embed {table.uri} "
                         "--encoder vlmo-nano, or table.add_column(name, an (n, d) array)")  # fmt: skip
    return table.read([name])[name]


def as_rows(vectors: Any, what: str) -> np.ndarray:
    """(n, d) floats; rows of an Arrow column that are null become zeros. ValueError for another shape."""
    if isinstance(vectors, pa.Array | pa.ChunkedArray):
        whole: Any = vectors.combine_chunks() if isinstance(vectors, pa.ChunkedArray) else vectors
        if not pa.types.is_fixed_size_list(whole.type):
            raise ValueError(f"the {what} is a column of {whole.type}; vectors are lists of one fixed length")
        width, there = whole.type.list_size, whole.is_valid().to_numpy(zero_copy_only=False)
        flat = whole.drop_null().flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
        if there.all():
            return flat
        made = np.zeros((len(whole), width), flat.dtype)
        made[there] = flat
        return made
    array = np.asarray(vectors)
    if array.ndim != 2 or not array.shape[1] or array.dtype.kind not in "fiu":
        raise ValueError(f"the {what} has shape {array.shape} and type {array.dtype}; give one vector a row, (n, d)")
    return array


def content_hashes(table: Table | View) -> list[str | None]:
    """A hash of each row's encoded picture, None for rows that have none."""
    hashes: list[str | None] = []
    for batch in table.scan(["id", "bytes", "uri", "offset", "length"], batch_rows=256):
        for row in batch.to_pylist():
            data = picture_data(row, table.uri)
            hashes.append(digest(data) if data else None)
    return hashes


def first_of_each(c: np.ndarray, r: np.ndarray, usable: np.ndarray, same: Sequence[Any] | None) -> np.ndarray:
    """(n,) False for usable rows whose picture, or whose vectors in both spaces, an earlier usable row has."""
    first = np.ones(len(c), bool)
    rows = np.flatnonzero(usable)
    seen: dict[Any, int] = {}
    for row in rows.tolist() if same is not None else ():
        assert same is not None
        if same[row] is not None and seen.setdefault(same[row], row) != row:
            first[row] = False
    keys = row_keys(c) ^ (row_keys(r) << np.uint64(1))
    order = rows[np.argsort(keys[rows], kind="stable")]
    again = np.flatnonzero(keys[order[1:]] == keys[order[:-1]])
    start = 0
    for place in again.tolist():                                          # runs of equal keys, in the order of rows
        start = start if place and start <= place and keys[order[start]] == keys[order[place]] else place
        one, other = order[start], order[place + 1]
        if (c[one] == c[other]).all() and (r[one] == r[other]).all():
            first[other] = False
    return first


def row_keys(x: np.ndarray) -> np.ndarray:
    """(n,) uint64 that are equal for rows that begin alike; few others are."""
    first = np.ascontiguousarray(x[:, :16]).view(np.uint32).astype(np.uint64)
    odd = np.random.default_rng(0).integers(1 << 62, size=first.shape[1], dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    return first @ odd


# ------------------------------------------------------------------------------------------------ thresholds
def threshold(rows: np.ndarray, asked: float | str, side: Literal["above", "below"], seed: int = 0) -> tuple:
    """(a cosine, pairs it was read from: 0 for one that was given as a number)."""
    if isinstance(asked, str):
        name, _, text = asked.partition(":")
        try:
            share = float(text) if name == "quantile" else float(asked)
        except ValueError:
            share = math.nan
        if name != "quantile" and math.isfinite(share):
            asked = share
        elif not 0 < share < 1:
            raise ValueError(f"{side}={asked!r}; give a cosine such as 0.95, or 'quantile:1e-6', a share of pairs")
        else:
            return quantile(rows, share, side, seed)
    if not -1 <= asked <= 1:
        raise ValueError(f"{side}={asked}; a cosine lies between -1 and 1")
    return float(asked), 0


def quantile(rows: np.ndarray, share: float, side: Literal["above", "below"], seed: int = 0) -> tuple[float, int]:
    """(the cosine that about this share of pairs lies above, or below; how many pairs it was read from).

    Rows drawn by chance are held against all others: at least ENOUGH_PAIRS pairs, and 1000 beyond the quantile; all
    pairs when there are fewer. Only the outermost cosines are kept meanwhile.
    """
    n = len(rows)
    if n < 2:
        raise ValueError(f"{side}='quantile:{share:g}' of {n} rows with vectors: there are no pairs")
    wanted = max(ENOUGH_PAIRS, 1000 / share)
    number = min(n, math.ceil(wanted / n))
    drawn = np.sort(np.random.default_rng(seed).choice(n, number, replace=False))
    pairs = number * (n - 1)
    if number == n:
        pairs //= 2
    most = max(1, round(share * pairs))
    sign = 1 if side == "above" else -1
    held, kept = np.zeros(0, np.float32), 0
    for start in range(0, number, 256):
        some = drawn[start : start + 256]
        found = sign * (rows[some] @ rows.T)
        found[np.arange(len(some)), some] = -np.inf
        if number == n:                                                   # all pairs: each once
            found[np.arange(n)[None, :] < some[:, None]] = -np.inf
        bar = held.min() if kept else -np.inf
        held = np.concatenate([held, found[found > bar]])
        kept = len(held) > most
        if kept:
            held = np.partition(held, len(held) - most - 1)[len(held) - most - 1 :]
    held = np.sort(held)[::-1].astype(np.float64)
    inside, outside = held[min(most, len(held)) - 1], held[min(most, len(held) - 1)]
    return float(sign * (inside + outside) / 2), pairs  # between the two: the join decides in fp64, these are fp32


def suggest_thresholds(eye: Any, reference: Any, seed: int = 0) -> dict[str, Any]:
    """How the cosines of two eyes lie, and thresholds of the paper's kind for them, since its numbers don't transfer.

    eye, reference: as for `mine_blind_pairs`. From pairs of up to 2048 rows drawn by chance: {"pairs": how many, "eye":
    {"mean", "quantiles": {share of pairs above: cosine}}, "reference": {"mean", "quantiles": {share below: cosine}},
    "above", "below"}. The suggestion: more alike to the eye than all but 1 of 10,000 pairs (the rarest share that 100
    of the pairs lie beyond, if there are fewer), and less alike to the reference than half of all pairs.
    """
    (c, good), (r, fine) = canonical(as_rows(eye, "eye")), canonical(as_rows(reference, "reference"))
    rows = np.flatnonzero(good & fine)
    if len(rows) < 3:
        raise ValueError(f"{len(rows)} rows have vectors of both eyes; their cosines are too few to look at")
    if len(rows) > 2048:
        rows = np.sort(np.random.default_rng(seed).choice(rows, 2048, replace=False))
    i, j = np.triu_indices(len(rows), 1)
    found: dict[str, Any] = {"pairs": len(i)}
    for name, x in (("eye", c), ("reference", r)):
        values = np.sort((x[rows] @ x[rows].T)[i, j].astype(np.float64))
        common = max(SUGGESTED[name])
        shares = [share for share in SUGGESTED[name] if share * len(i) >= 100 or share == common]
        cosine = np.quantile(values, [1 - share if name == "eye" else share for share in shares])
        found[name] = {"mean": float(values.mean()), "quantiles": dict(zip(shares, cosine.tolist(), strict=True))}
    rare = min((share for share in found["eye"]["quantiles"] if share >= 1e-4), default=1e-2)
    return found | {"above": found["eye"]["quantiles"][rare], "below": found["reference"]["quantiles"][0.5]}


# ------------------------------------------------------------------------------------------------ after the join
def once_per_group(part: Part, n: int) -> np.ndarray:
    """Positions of the pairs to list: of those between the same two groups of near duplicates the widest gap.

    A row belongs to the group of the lowest row that is near to it, and so on down; a row near to none is its own.
    """
    group = np.arange(n)
    group[part.later] = part.leader
    while (group != group[group]).any():
        group = group[group]
    ends = np.sort(group[part.pairs], axis=1)
    order = np.lexsort((part.pairs[:, 1], part.pairs[:, 0], part.reference - part.eye))
    _, first = np.unique(ends[order, 0] * n + ends[order, 1], return_index=True)
    return np.sort(order[first])


def rate(part: Part, queries: np.ndarray, n: int) -> dict[str, Any]:
    """The share of all pairs that is blind, estimated from the rows that were drawn, and how many rows have one.

    The mean over rows drawn without replacement is unbiased for the mean over all n; its interval is the normal one
    with the variance among rows and the finite-population factor (Cochran 1977, section 2.7). No upper bound follows
    where none was found: then rows, the share of rows with a blind pair by Wilson, says what is known.
    """
    counts = np.zeros(n)
    counts[part.rows] = part.row_blind
    drawn = counts[queries]
    q, mean = len(drawn), float(drawn.mean())
    half = Z95 * math.sqrt(float(drawn.var(ddof=1)) / q * (1 - q / n)) if q > 1 else math.nan
    some = int((drawn > 0).sum())
    low, high = wilson(some, q)
    return {"value": mean / (n - 1), "low95": max(0.0, mean - half) / (n - 1) if mean else 0.0,
            "high95": (mean + half) / (n - 1) if mean else None, "rows_drawn": q, "rows": n,
            "pairs_estimated": mean * n / 2,
            "rows_with_a_pair": {"value": some / q, "low95": low, "high95": high}}  # fmt: skip
