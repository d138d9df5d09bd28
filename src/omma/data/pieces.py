"""Patches of True pixels that hang together, by runs of rows and union-find."""

import numpy as np


def joined_runs(mask: np.ndarray, corners: bool = False) -> list[tuple[int, int, int, int]]:
    """(row, start, stop, number of its patch) of each run of True pixels, row by row. mask: (h, w) bool; corners:
    whether pixels that meet at a corner hang together, too. The numbers are those of a run of the patch."""
    edges = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    rows, starts = np.nonzero(edges == 1)
    stops = np.nonzero(edges == -1)[1]
    runs = list(zip(rows.tolist(), starts.tolist(), stops.tolist(), strict=True))
    parent, reach = list(range(len(runs))), int(corners)

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = i = parent[parent[i]]
        return i

    above = 0
    for i, (row, start, stop) in enumerate(runs):
        while runs[above][0] < row - 1:
            above += 1
        j = above
        while j < i and runs[j][0] == row - 1:
            if runs[j][1] < stop + reach and start < runs[j][2] + reach:
                parent[root(i)] = root(j)
            j += 1
    return [(*run, root(i)) for i, run in enumerate(runs)]


def labels(mask: np.ndarray, corners: bool = False) -> np.ndarray:
    """(h, w) int32: 0 where the mask is False, else the number of the patch, from 1, the upper ones first."""
    numbers: dict[int, int] = {}
    found = np.zeros(mask.shape, np.int32)
    for row, start, stop, patch in joined_runs(mask, corners):
        found[row, start:stop] = numbers.setdefault(patch, len(numbers) + 1)
    return found
