"""Exact search: all rows are scored in half precision, and what could be among the k nearest again in full.

n rows, E shared space, Q queries, k hits. A rough score is off by at most what rounding can do to it (Cauchy-Schwarz),
so every row within twice that of the k-th best is scored again, and the answer is the one of a plain loop in fp64.
Which half precision is fast depends on the processor, and is tried once.
"""

import functools
import time
from collections.abc import Callable

import numpy as np
import torch

BLOCK = 512            # rows whose fp32 copy stays in a core's cache
GEMM_ROWS = 16_384     # rows a matrix product in bf16 takes at a time
FP32_ROWS = 2048       # and one in fp32, whose copy stays in the cache
FEW = 4                # queries from which on a matrix product pays
FEW_ROWS = 0.05        # share of the rows below which they are gathered before they are scored
QUERIES = 32           # at a time: their rough scores are Q x n
ROUNDING = {torch.float16: 2.0**-11, torch.bfloat16: 2.0**-9, torch.float32: 2.0**-24}
PROBE = GEMM_ROWS      # rows on which the ways are tried: fewer would stay in a cache that a table does not fit in


class ExactScan:
    """Rows with ids, (n, E) fp16, that are searched by inner product."""

    def __init__(self, width: int, way: str | None = None):
        """way: of WAYS; by default the one that is fastest here."""
        self.width, self._way = width, way
        self.ids, self.rows = np.zeros(0, np.int64), np.zeros((0, width), np.float16)
        self._coarse: list[tuple[slice, Product]] = []    # the rows in bf16
        self._off = self._longest = 0.0

    def set(self, ids: np.ndarray, rows: np.ndarray) -> None:
        """These rows instead of those before. ids: (n,) int64; rows: (n, E) fp16."""
        assert rows.shape == (len(ids), self.width)
        self.ids, self.rows = np.asarray(ids, np.int64), np.ascontiguousarray(rows, np.float16)
        self._coarse, self._off, self._longest = [], 0.0, 0.0
        for start in range(0, len(rows), GEMM_ROWS):
            part = slice(start, start + GEMM_ROWS)
            block = torch.from_numpy(self.rows[part]).float()
            self._longest = max(self._longest, largest(block))
            if self.way == "bfloat16":
                self._off = max(self._off, largest(block - block.bfloat16().float()))
                self._coarse.append((part, packed(block)))

    @property
    def way(self) -> str:
        return self._way or fastest_way()

    def search(self, queries: np.ndarray, k: int, among: np.ndarray | None = None
               ) -> list[tuple[np.ndarray, np.ndarray]]:
        """For each query the ids and inner products, (<= k,) int64 and float32, best first; equal ones by their ids.

        queries: (Q, E) float32; among: (n,) bool, the rows that count. Rows whose score is not finite are passed over.
        """
        queries = np.ascontiguousarray(queries, np.float32).reshape(-1, self.width)
        number = len(self.ids) if among is None else int(np.count_nonzero(among))
        if number <= k or (among is not None and number <= FEW_ROWS * len(self.ids)):
            counted = np.arange(number) if among is None else np.flatnonzero(among)
            return [self._again(query, counted, k) for query in queries]
        found = []
        for start in range(0, len(queries), QUERIES):
            part = queries[start : start + QUERIES]
            rough, off = self._products(part) if self._coarse or len(part) >= FEW else self._one_by_one(part)
            for query, scores, most in zip(part, rough, off, strict=True):
                if not np.isfinite(scores.sum()):         # one pass, where no row is broken
                    scores = np.where(np.isfinite(scores), scores, -np.inf)
                if among is not None:
                    scores[~among] = -np.inf
                kth = np.partition(scores, -k)[-k]
                near = np.flatnonzero(scores >= max(kth - 2 * most, np.finfo(np.float32).min))
                found.append(self._again(query, near, k))
        return found

    def _again(self, query: np.ndarray, near: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k best of these rows. A sum in fp64, rounded once: equal rows get equal scores."""
        scores = np.concatenate([np.zeros(0, np.float32), *(
            dots(self.rows[near[start : start + GEMM_ROWS]], query) for start in range(0, len(near), GEMM_ROWS))])
        good = np.isfinite(scores)
        near, scores = near[good], scores[good]
        if len(near) > k:
            # an fp32 sum of E products is off by E roundings at most; what that leaves open is summed in fp64
            slack = 2 * self.width * ROUNDING[torch.float32] * self._longest * float(np.linalg.norm(query))
            kept = scores >= np.partition(scores, -k)[-k] - slack
            near = near[kept]
        exact = np.concatenate([np.zeros(0, np.float32), *(
            (self.rows[near[start : start + BLOCK]].astype(np.float64) * query).sum(axis=1).astype(np.float32)
            for start in range(0, len(near), BLOCK))])
        order = np.lexsort((self.ids[near], -exact))[:k]
        return self.ids[near[order]], exact[order]

    def _one_by_one(self, queries: np.ndarray) -> tuple[np.ndarray, list[float]]:
        """(Q, n) rough scores, and how much those of each query can be off."""
        rows, rough, off = torch.from_numpy(self.rows), np.empty((len(queries), len(self.ids)), np.float32), []
        for query, scores in zip(torch.from_numpy(queries), rough, strict=True):
            if self.way == "blocks":
                scores[:] = by_blocks(rows, query).numpy()
                off.append(self._bound(query, query, torch.float32))
            else:
                scores[:] = (rows @ query.half()).float().numpy()
                off.append(self._bound(query, query.half().float(), torch.float16))
        return rough, off

    def _products(self, queries: np.ndarray) -> tuple[np.ndarray, list[float]]:
        """As `_one_by_one`, by matrix products: bf16 where that was found fast, else fp32, and never fp16."""
        asked, rough = torch.from_numpy(queries), np.empty((len(queries), len(self.ids)), np.float32)
        half = asked.to(torch.bfloat16 if self._coarse else torch.float32)
        for part, product in self._coarse:
            rough[:, part] = product(half).float().numpy()
        for start in range(0, 0 if self._coarse else len(self.ids), FP32_ROWS):
            part = slice(start, start + FP32_ROWS)
            rough[:, part] = (half @ torch.from_numpy(self.rows[part]).float().T).numpy()
        return rough, [self._bound(q, h.float(), half.dtype) for q, h in zip(asked, half, strict=True)]

    def _bound(self, query: torch.Tensor, rounded: torch.Tensor, type_: torch.dtype) -> float:
        """How much a rough score can be off: by the rounded query, the rounded rows, the sum, the rounded result."""
        length = float(rounded.norm())
        of_rows = self._off if type_ == torch.bfloat16 else 0.0
        of_sum = (self.width * ROUNDING[torch.float32] + ROUNDING[type_]) * self._longest * length
        least = 2.0**-24 * self.width                     # below fp16's normal numbers, roundings stop shrinking
        return float((query - rounded).norm()) * self._longest + of_rows * length + of_sum + least


Product = Callable[[torch.Tensor], torch.Tensor]


def packed(block: torch.Tensor) -> Product:
    """Rows (n, E) -> a function of queries, (Q, E) bf16 -> (Q, n) bf16. oneDNN reads rows that it has laid out itself
    twice as fast as others."""
    half = block.bfloat16()
    if not onednn():
        return lambda queries: queries @ half.T
    laid = torch.ops.mkldnn._reorder_linear_weight(half)
    return lambda queries: torch.ops.mkldnn._linear_pointwise(queries, laid, None, "none", [], "")


@functools.cache
def onednn() -> bool:
    """Whether this PyTorch lays out rows for oneDNN, in bf16."""
    ops = ("_reorder_linear_weight", "_linear_pointwise", "_is_mkldnn_bf16_supported")
    return (torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, name) for name in ops)
            and torch.ops.mkldnn._is_mkldnn_bf16_supported())  # fmt: skip


def largest(block: torch.Tensor) -> float:
    """The largest norm of its rows; rows that are not finite don't count."""
    norms = block.norm(dim=1)
    norms = norms[norms.isfinite()]
    return float(norms.max()) if len(norms) else 0.0


def dots(rows: np.ndarray, query: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", over="ignore"):
        return rows.astype(np.float32) @ query


def by_blocks(rows: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
    """fp16 rows made fp32 a block at a time, which never leaves the cache."""
    out, block = torch.empty(len(rows)), torch.empty(BLOCK, rows.shape[1])
    for start in range(0, len(rows), BLOCK):
        part = rows[start : start + BLOCK]
        torch.mv(block[: len(part)].copy_(part), query, out=out[start : start + len(part)])
    return out


WAYS = ("float16", "bfloat16", "blocks")


@functools.cache
def fastest_way() -> str:
    """Which of WAYS this processor takes fastest: its fp16 or bf16 may be a tenth of the speed of the other.

    bfloat16 costs a second copy of the rows, so it has to be a tenth faster than the others; in batches it is several
    times as fast.
    """
    rows = torch.ones(PROBE, 512, dtype=torch.float16)
    query, product = torch.ones(512), packed(rows.float())
    tries = {"float16": lambda: rows @ query.half(), "blocks": lambda: by_blocks(rows, query),
             "bfloat16": lambda: product(query.bfloat16()[None])}  # fmt: skip
    spent = {name: least(work) for name, work in tries.items()}
    spent["bfloat16"] *= 1.1
    return min(spent, key=lambda name: spent[name])


def least(work: Callable[[], object]) -> float:
    """The seconds it takes at best. The first rounds are slow: oneDNN makes what it needs."""
    spent = []
    for _ in range(8):
        start = time.perf_counter()
        work()
        spent.append(time.perf_counter() - start)
    return min(spent)
