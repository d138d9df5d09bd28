"""Which pairs of rows one eye takes for the same and another for different: the exact join of all pairs.

n rows, d and d2 widths of the two spaces, k leading directions, c_i and r_i rows of the eye and of the reference. Of
n (n - 1) / 2 pairs those with c_i . c_j > above and r_i . r_j < below are found, all of them and no others:

    c_i . c_j  <=  h_i . h_j + t_i t_j,    h_i = V^T c_i,  t_i = |c_i - V h_i|         (Cauchy and Schwarz on the rest)

holds for any orthonormal V (d, k). With the leading directions of the eye's second moment, which is not centred (the
mean is where the vectors of a contrastive eye have most of their length), a product of k + 1 numbers leaves few pairs
that all d are needed for. These are decided in fp64, and exactly where fp64 could round to the wrong side, by rows that
were normalised in fp64 and rounded to fp32 once: which library multiplied the tiles changes no decision.

A task is a pair of panels of rows, and its part is a file; what was killed goes on with the parts that are missing.
"""

from __future__ import annotations

import functools
import io
import json
import math
import zipfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import as_completed
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from omma.jobs import spawned_pool
from omma.storage import digest, make_folder, publish

PANEL = 16_384  # rows of a task's panels: a second or two of work on one core
TILE = (512, 4096)  # rows of one product: its 8 MB are compared while they are in a cache
VERIFY = 512  # pairs decided at a time
CHUNK = 256  # rows that are normalised or turned at a time
SAMPLE = 1024  # rows that the number of directions is chosen on
DIRECTIONS = (32, 48, 64, 96, 128, 192, 256)
# What a tile's entry costs beside its k multiply-adds, and what a pair left over costs for each of d, in multiply-adds:
# timed on one core with AVX-512. They decide what is fast, never what is found.
ENTRY, LEFT = 110, 60
U = 2.0**-24  # half a unit in the last place of fp32
FORMAT = 1  # of parts


@dataclass(frozen=True)
class Rule:
    """What is asked of a pair; near: both cosines above it make a near duplicate; per_row: see `strongest`."""

    above: float
    below: float
    near: float | None = None
    per_row: int = 100


@dataclass(frozen=True)
class Join:
    """The rows of a join and its rule. eye: (n, d) and reference: (n, d2), fp32 from `canonical`; heads: (n, k + 1).

    queries: rows, ascending, each of which is held against all others, or None: every pair once.
    """

    eye: np.ndarray
    reference: np.ndarray
    heads: np.ndarray
    rule: Rule
    panel: int = PANEL
    queries: np.ndarray | None = None

    @property
    def tasks(self) -> list[tuple[int, int]]:
        """Pairs of panels that hold every pair of rows once."""
        columns = -(-len(self.eye) // self.panel)
        if self.queries is None:
            return [(a, b) for a in range(columns) for b in range(a, columns)]
        return [(a, b) for a in range(-(-len(self.queries) // self.panel)) for b in range(columns)]

    @property
    def num_pairs(self) -> int:
        n = len(self.eye)
        apart = 0 if self.queries is None else n - len(self.queries)                # rows that ask nothing
        return n * (n - 1) // 2 - apart * (apart - 1) // 2

    @property
    def cut(self) -> np.float32:
        """What h_i . h_j + t_i t_j must exceed in fp32: `above`, less all that rounding can have taken away.

        A sum of k + 1 products of fp32 is off by at most (k + 1) U |x| |y| (1 + O(kU)) in any order (Higham 2002,
        section 3.1), and rounding the heads takes 2 U more.
        """
        width = self.heads.shape[1]
        return np.nextafter(np.float32(self.rule.above - (1.01 * width + 4) * U - 1e-9), np.float32(-np.inf))


@dataclass(frozen=True)
class Part:
    """What a task, or several, found. Pairs (m, 2) with i < j, and their cosines (m,); counts by row are exact.

    left: pairs that the heads left over; similar: those above in the eye; blind: of them those below in the reference;
    near: those near in both. rows, row_similar, row_blind: (r,) rows with counts, a pair counts for both its rows (of a
    query: for the query); leader: (n of rows,) the lowest row that is near to this one.
    """

    pairs: np.ndarray
    eye: np.ndarray
    reference: np.ndarray
    rows: np.ndarray
    row_similar: np.ndarray
    row_blind: np.ndarray
    later: np.ndarray
    leader: np.ndarray
    left: int = 0
    similar: int = 0
    blind: int = 0
    near: int = 0


COUNTS = ("left", "similar", "blind", "near")


def canonical(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """((n, d) fp32 rows of unit length, (n,) which of them are usable); what is zero or not finite becomes zeros.

    rows: (n, d) of any kind of float; normalised in fp64 and rounded to fp32 once. All decisions are about these.
    """
    made, usable = np.empty(rows.shape, np.float32), np.zeros(len(rows), bool)
    for start in range(0, len(rows), CHUNK):
        block = np.asarray(rows[start : start + CHUNK], np.float64)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            length = np.sqrt(np.vecdot(block, block))
            if not (np.isfinite(length) & (length > 1e-140)).all():       # too long or short to be squared, or none
                block = block / np.abs(block).max(axis=1, initial=0.0)[:, None]
                length = np.sqrt(np.vecdot(block, block))
            good = np.isfinite(length) & (length > 0)
            np.multiply(block, (1 / length)[:, None], out=made[start : start + CHUNK], casting="same_kind")
        if not good.all():
            made[start : start + CHUNK][~good] = 0
        usable[start : start + CHUNK] = good
    return made, usable


def cosines(x: np.ndarray, y: np.ndarray, edge: float) -> np.ndarray:
    """(m,) fp64 inner products of the rows of two (m, d) fp32 arrays; on which side of `edge` they lie is exact.

    Products of fp32 numbers are exact in fp64, so only the sum rounds, by less than d 2^-53 in any order; what comes
    within 1e-12 of the edge (d up to 9000) is summed without any rounding.
    """
    found = np.empty(len(x))
    for start in range(0, len(x), 64):                                   # what fits in a cache as fp64
        stop = start + 64
        np.vecdot(x[start:stop].astype(np.float64), y[start:stop].astype(np.float64), out=found[start:stop])
    for i in np.flatnonzero(np.abs(found - edge) < 1e-12):
        found[i] = math.fsum((x[i].astype(np.float64) * y[i]).tolist())
    return found


# ------------------------------------------------------------------------------------------------ the bound
def leading_directions(rows: np.ndarray, k: int, rounds: int = 2) -> np.ndarray:
    """(d, k) fp64, orthonormal: about the directions in which the (m, d) rows have most of their length, those first.

    Subspace iteration (Halko et al. 2011). Any orthonormal columns give a bound; better ones leave fewer pairs over.
    """
    moment = rows.T @ rows
    basis = np.random.default_rng(0).standard_normal((rows.shape[1], k), np.float32)
    for _ in range(rounds):
        basis = np.linalg.qr(moment @ basis)[0]
    _, turn = np.linalg.eigh(basis.T @ moment @ basis)
    return np.linalg.qr((basis @ turn[:, ::-1]).astype(np.float64))[0]   # orthonormal in fp64: the bound needs that


def heads(eye: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """(n, k + 1) fp32: coordinates of the rows along the directions, and the length of what they leave out."""
    k = directions.shape[1]
    made = np.empty((len(eye), k + 1), np.float32)
    for start in range(0, len(eye), CHUNK):
        block = eye[start : start + CHUNK].astype(np.float64)
        head = block @ directions
        rest = np.vecdot(block, block) - np.vecdot(head, head)
        made[start : start + CHUNK, :k] = head
        # 1e-11 is more than fp64 directions are short of orthonormal; rounded up, as it is a bound
        tail = np.sqrt(np.maximum(rest, 0.0) + 1e-11).astype(np.float32)
        made[start : start + CHUNK, k] = np.nextafter(tail, np.float32(np.inf))
    return made


def choose_directions(eye: np.ndarray, above: float) -> np.ndarray | None:
    """(d, k) directions with the least expected work for this join, from a sample of rows; None: all d are cheaper."""
    n, d = eye.shape
    if n <= SAMPLE:
        return None
    drawn = np.random.default_rng(0).permutation(n)[: 4 * SAMPLE]
    sample = eye[np.sort(drawn[:SAMPLE])]
    sizes = [k for k in DIRECTIONS if k < d // 2]
    if not sizes:
        return None
    basis = leading_directions(eye[np.sort(drawn)], sizes[-1])
    head = sample @ basis.astype(np.float32)
    costs = {}
    for k in sizes:
        tail = np.sqrt(np.maximum(0, 1 - np.vecdot(head[:, :k], head[:, :k])))
        upper = np.concatenate([head[:, :k], tail[:, None]], axis=1)
        costs[k] = ENTRY + k + LEFT * d * share_above(upper @ upper.T, above)
    best = min(costs, key=lambda k: costs[k])
    return basis[:, :best] if costs[best] < ENTRY + d + LEFT * d * share_above(sample @ sample.T, above) else None


def share_above(products: np.ndarray, above: float) -> float:
    """Of the pairs of different rows, those above; products: (m, m)."""
    m = len(products)
    return max(0, np.count_nonzero(products > above) - m) / (m * (m - 1))


# ------------------------------------------------------------------------------------------------ a task
def join_panels(join: Join, a: int, b: int) -> Part:
    """What one task finds: the pairs of rows of panel a with rows of panel b."""
    size, cut = join.panel, join.cut
    first = np.arange(len(join.eye)) if join.queries is None else join.queries
    rows, columns = first[a * size : (a + 1) * size], np.arange(b * size, min((b + 1) * size, len(join.eye)))
    triangle = join.queries is None and a == b
    head_rows, head_columns = np.asarray(join.heads[rows]), np.asarray(join.heads[columns[0] : columns[-1] + 1])
    products, mask = np.empty(TILE, np.float32), np.empty(TILE, bool)
    found = Found(join, rows, columns)
    for y in range(0, len(rows), TILE[0]):
        for x in range(y // TILE[1] * TILE[1] if triangle else 0, len(columns), TILE[1]):
            one, other = head_rows[y : y + TILE[0]], head_columns[x : x + TILE[1]]
            tile, above = products.ravel()[: len(one) * len(other)], mask.ravel()[: len(one) * len(other)]
            tile, above = tile.reshape(len(one), len(other)), above.reshape(len(one), len(other))
            np.matmul(one, other.T, out=tile)
            np.greater(tile, cut, out=above)
            i, j = np.divmod(np.flatnonzero(above), len(other))
            i, j = rows[y + i], columns[x + j]
            kept = i < j if triangle else i != j
            found.add(i[kept], j[kept])
    return found.part()


class Found:
    """Decides the pairs that the heads left over, a few at a time, and keeps what a part needs of them."""

    def __init__(self, join: Join, rows: np.ndarray, columns: np.ndarray):
        self.join, self.rows, self.columns = join, rows, columns
        self.counts = dict.fromkeys(COUNTS, 0)
        n = len(join.eye)
        self.asks = np.zeros(n, bool)
        if join.queries is not None:
            self.asks[join.queries] = True
        self.row_similar, self.row_blind = np.zeros(n, np.int32), np.zeros(n, np.int32)
        self.leader = np.full(n, n, np.int64)
        self.pairs: list[tuple[np.ndarray, ...]] = []
        self.held = 0

    def add(self, i: np.ndarray, j: np.ndarray) -> None:
        self.counts["left"] += len(i)
        for start in range(0, len(i), VERIFY):
            self._decide(i[start : start + VERIFY], j[start : start + VERIFY])

    def _decide(self, i: np.ndarray, j: np.ndarray) -> None:
        rule, width = self.join.rule, self.join.eye.shape[1]
        x, y = self.join.eye.take(i, axis=0), self.join.eye.take(j, axis=0)
        rough = np.vecdot(x, y) > rule.above - 1.01 * width * U - 1e-9   # fp32, off by less than that
        kept = np.flatnonzero(rough)
        i, j, x, y = i[kept], j[kept], x.take(kept, axis=0), y.take(kept, axis=0)
        s = cosines(x, y, rule.above)
        above = s > rule.above
        i, j, s = i[above], j[above], s[above]
        t = cosines(self.join.reference.take(i, axis=0), self.join.reference.take(j, axis=0), rule.below)
        blind = t < rule.below
        self._count(self.row_similar, i, j)
        self._count(self.row_blind, i[blind], j[blind])
        once = (i < j) | ~self.asks[j]                                    # of two queries, each finds the other
        i, j, s, t, blind = i[once], j[once], s[once], t[once], blind[once]
        self.counts["similar"] += len(i)
        self.counts["blind"] += int(blind.sum())
        low, high = np.minimum(i, j), np.maximum(i, j)
        if rule.near is not None:
            near = (s > rule.near) & (t > rule.near)
            self.counts["near"] += int(near.sum())
            np.minimum.at(self.leader, high[near], low[near])
        if blind.any():
            self.pairs.append((low[blind], high[blind], s[blind], t[blind]))
            self.held += int(blind.sum())
            if self.held > 4 * self.join.rule.per_row * (len(self.rows) + len(self.columns)):
                self.pairs = [pruned(self.pairs, self.join.rule.per_row)]
                self.held = len(self.pairs[0][0])

    def _count(self, counts: np.ndarray, i: np.ndarray, j: np.ndarray) -> None:
        np.add.at(counts, i, 1)
        if self.join.queries is None:
            np.add.at(counts, j, 1)

    def part(self) -> Part:
        i, j, s, t = pruned(self.pairs, self.join.rule.per_row)
        rows = np.flatnonzero(self.row_similar)
        later = np.flatnonzero(self.leader < len(self.leader))
        return Part(np.stack([i, j], axis=1), s, t, rows, self.row_similar[rows].astype(np.int64),
                    self.row_blind[rows].astype(np.int64), later, self.leader[later], **self.counts)  # fmt: skip


def strongest(i: np.ndarray, j: np.ndarray, gap: np.ndarray, per_row: int) -> np.ndarray:
    """Positions, by (i, j), of the pairs that are among the per_row widest gaps of one of their two rows, or of both.

    Equal gaps: the lower (i, j) first. Of a union of sets it keeps what it keeps of the union of what it keeps of each,
    so it may be applied at any time: a pair that goes leaves per_row wider ones behind in both its rows.
    """
    if not len(i):
        return np.zeros(0, np.int64)
    if (np.bincount(np.concatenate([i, j])) <= per_row).all():                      # none can be crowded out
        return np.lexsort((j, i))
    order = np.lexsort((j, i, -gap))                                                # widest first
    kept = np.zeros(len(i), bool)
    both = np.concatenate([i[order], j[order]])
    which = np.concatenate([order, order])
    rank = np.concatenate([np.arange(len(order))] * 2)
    by_row = np.lexsort((rank, both))
    start = np.r_[0, np.flatnonzero(np.diff(both[by_row])) + 1]
    place = np.arange(len(by_row)) - np.repeat(start, np.diff(np.r_[start, len(by_row)]))
    kept[which[by_row[place < per_row]]] = True
    positions = np.flatnonzero(kept)
    return positions[np.lexsort((j[positions], i[positions]))]


def together(parts: Iterable[Part], join: Join) -> Part:
    """One part of several; their pairs are pruned as they come, so memory does not grow with their number."""
    n, per_row = len(join.eye), join.rule.per_row
    counts, similar, blind = dict.fromkeys(COUNTS, 0), np.zeros(n, np.int64), np.zeros(n, np.int64)
    leader = np.full(n, n, np.int64)
    held: list[tuple[np.ndarray, ...]] = []
    size = 0
    for part in parts:
        counts = {name: counts[name] + getattr(part, name) for name in COUNTS}
        similar[part.rows] += part.row_similar
        blind[part.rows] += part.row_blind
        leader[part.later] = np.minimum(leader[part.later], part.leader)
        held.append((part.pairs[:, 0], part.pairs[:, 1], part.eye, part.reference))
        size += len(part.pairs)
        if size > 4 * per_row * n:
            held = [pruned(held, per_row)]
            size = len(held[0][0])
    i, j, s, t = pruned(held, per_row)
    rows, later = np.flatnonzero(similar), np.flatnonzero(leader < n)
    return Part(np.stack([i, j], axis=1), s, t, rows, similar[rows], blind[rows], later, leader[later], **counts)


def pruned(held: list[tuple[np.ndarray, ...]], per_row: int) -> tuple[np.ndarray, ...]:
    """i, j and both cosines of what `strongest` keeps, by (i, j)."""
    if not held:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0), np.zeros(0)
    i, j, s, t = (np.concatenate(column) for column in zip(*held, strict=True))
    kept = strongest(i, j, s - t, per_row)
    return i[kept], j[kept], s[kept], t[kept]


# ------------------------------------------------------------------------------------------------ all tasks
def run_join(join: Join, folder: Path | None = None, workers: int | Literal["ray"] = 1,
             advance: Callable[[int, int | None], None] = lambda done, total: None) -> tuple[Part, int]:  # fmt: skip
    """(what the join finds, tasks whose parts were there already).

    folder: where parts are kept; a run of the same rows, rule and panels goes on with those that are missing. workers:
    1 computes here, more are processes, "ray" makes every task one of a Ray cluster, whose machines must all see the
    folder. Both need one. Raises ValueError without ray, RuntimeError when a process died.
    """
    if folder is None:
        assert workers == 1, "processes meet in a folder"
        advance(0, len(join.tasks))
        parts = (counted(join_panels(join, a, b), advance) for a, b in join.tasks)
        return together(parts, join), 0
    make_folder(folder)
    missing = [task for task in join.tasks if read_part(part_path(folder, *task)) is None]
    advance(len(join.tasks) - len(missing), len(join.tasks))
    if missing and workers == 1:
        for a, b in missing:
            write_part(part_path(folder, a, b), join_panels(join, a, b))
            advance(1, None)
    elif missing:
        save_join(join, folder)
        for _ in on_ray(folder, missing) if workers == "ray" else on_processes(folder, missing, int(workers)):
            advance(1, None)
    found = (read_part(part_path(folder, a, b)) for a, b in join.tasks)
    return together((part for part in found if part is not None), join), len(join.tasks) - len(missing)


def counted(part: Part, advance: Callable[[int, int | None], None]) -> Part:
    advance(1, None)
    return part


def on_processes(folder: Path, tasks: list[tuple[int, int]], workers: int) -> Iterator[None]:
    """One None as each task ends; its part is then on the disk."""
    pool = spawned_pool(min(workers, len(tasks)))
    try:
        for done in as_completed([pool.submit(join_task, str(folder), a, b) for a, b in tasks]):
            yield done.result()
    finally:
        pool.shutdown(cancel_futures=True)


def on_ray(folder: Path, tasks: list[tuple[int, int]]) -> Iterator[None]:
    """The same on a Ray cluster; a task that a lost machine took with it is given out again by Ray."""
    try:
        import ray  # type: ignore
    except ImportError:
        raise ValueError("workers='ray' needs ray: pip install 'omma[ray]', or give a number of processes") from None
    if not ray.is_initialized():
        ray.init(log_to_driver=False)
    remote = ray.remote(join_task)
    waiting = [remote.remote(str(folder.resolve()), a, b) for a, b in tasks]
    while waiting:
        done, waiting = ray.wait(waiting)
        ray.get(done)
        yield from [None] * len(done)


def join_task(folder: str, a: int, b: int) -> None:
    """One task in a process of its own: the rows are read from the folder, the part is written there."""
    write_part(part_path(Path(folder), a, b), join_panels(load_join(folder), a, b))


# ------------------------------------------------------------------------------------------------ files
def join_key(join: Join) -> str:
    """32 hex digits of all that a part depends on."""
    arrays = [join.eye, join.reference, *([] if join.queries is None else [join.queries])]
    shapes = json.dumps([FORMAT, asdict(join.rule), join.panel, [a.shape for a in arrays]])
    return digest(shapes, *(pa.py_buffer(np.ascontiguousarray(a)) for a in arrays))


def part_path(folder: Path, a: int, b: int) -> Path:
    return folder / f"part-{a:05d}-{b:05d}.npz"


def write_part(path: Path, part: Part) -> None:
    """Publish a part: the file is there whole or not at all, and its being there says that the task is done."""
    sink = io.BytesIO()
    arrays: dict[str, Any] = {field.name: np.asarray(getattr(part, field.name)) for field in fields(Part)}
    np.savez(sink, **arrays)
    publish(path, sink.getvalue())


def read_part(path: Path) -> Part | None:
    """The part at path; None when there is none, or a damaged one, which is then computed again."""
    try:
        with np.load(path) as file:
            values: dict[str, Any] = {field.name: file[field.name] for field in fields(Part)}
    except (FileNotFoundError, zipfile.BadZipFile, KeyError, ValueError, EOFError):
        return None
    counts: dict[str, Any] = {name: int(values.pop(name)) for name in COUNTS}
    return Part(**values, **counts)


ARRAYS = ("eye", "reference", "heads", "queries")


def save_join(join: Join, folder: Path) -> None:
    """The rows and the rule for other processes, which map them into memory."""
    for name in ARRAYS:
        if (array := getattr(join, name)) is not None:
            np.save(folder / f"{name}.npy", array)
    publish(folder / "join.json", json.dumps({"rule": asdict(join.rule), "panel": join.panel}).encode())


@functools.lru_cache(maxsize=1)
def load_join(folder: str) -> Join:
    said = json.loads((Path(folder) / "join.json").read_bytes())
    arrays = {name: np.load(path, mmap_mode="r") for name in ARRAYS if (path := Path(folder) / f"{name}.npy").exists()}
    return Join(**arrays, rule=Rule(**said["rule"]), panel=said["panel"])
