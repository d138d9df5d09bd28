"""Which pictures are trained on and which are held out, so that no picture stands on both sides in two versions.

    found = split(table, held_out=0.1)          # adds the column "fold": train, held-out, or null where unusable
    table.select("fold == 'held-out'")

Copies, re-encodings, and slightly cropped or recoloured versions of a picture are near-duplicates; they and the members
of a minimal pair (the column "group") go to one side together. The side is a function of the seed and of the family's
smallest id, so a table that grows keeps its sides, unless a new picture joins two families.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from omma.decode import open_picture
from omma.jobs import progress_bar
from omma.table import Table

TRAIN, HELD_OUT = "train", "held-out"
SIDE = 16         # of a thumbnail
# How much the thumbnails of two versions of a picture may differ, root mean square, of 255.
LARGEST, RELATIVE, ROUNDING = 12.0, 0.3, 1.0
BLOCK = 1024      # pictures compared with all others at a time


@dataclass(frozen=True)
class Split:
    """What a split did. pictures: of each side; families: groups of two pictures and more that were kept together;
    together: pictures in them; unusable: pictures that can't be decoded or have no caption, on no side."""

    pictures: dict[str, int]
    families: int
    together: int
    unusable: int


def split(table: Table, *, held_out: float = 0.1, seed: int = 0, column: str = "fold", progress: bool = False) -> Split:
    """Adds `column` to a table of pictures. held_out: share of the families, in expectation, that training never sees.

    Raises ValueError for a share outside 0..1, a table of items, and for one with fewer than two families to put on
    two sides.
    """
    if not 0 < held_out < 1:
        raise ValueError(f"held_out={held_out}; it is a share between 0 and 1")
    if table.kind != "pictures":
        raise ValueError(f"{table.uri} is a table of {table.kind}; give a table of pictures with captions")
    grouped = "group" in table.columns
    columns = ["id", "bytes", "uri", "offset", "length", "captions", "status", *(["group"] if grouped else [])]
    ids, thumbnails, unusable = [], [], 0
    groups: dict[str, list[int]] = defaultdict(list)
    with progress_bar("looking", "pictures", progress) as advance:
        advance(0, len(table))
        for record in table.scan(columns):
            for row in pa.Table.from_batches([record]).to_pylist():
                image = open_picture(row, Path(table.uri)).image if row["status"] in ("ok", "flat") else None
                if image is None or not row["captions"]:
                    unusable += 1
                    continue
                if grouped and row["group"] is not None:
                    groups[row["group"]].append(len(ids))
                ids.append(row["id"])
                thumbnails.append(thumbnail(image))
            advance(len(ids) + unusable, len(table))
    with progress_bar("comparing", "pictures", progress) as advance:
        links = near_duplicates(np.reshape(thumbnails, (-1, SIDE, SIDE, 3)).astype(np.uint8), advance)
        advance(len(ids), len(ids))
    links += [(members[0], other) for members in groups.values() for other in members[1:]]
    families = joined(len(ids), links)
    if len(families) < 2:
        raise ValueError(
            f"{table.uri} has {len(ids)} usable pictures with captions ({unusable} left out), and no two that differ "
            f"enough to be put on two sides. Look at it: omma show {table.uri}"
        )
    if column in table.columns and "split" not in table.column_info(column):
        raise ValueError(f"{table.uri} has a column {column!r} that is no split of ours and would be lost; "
                         "give another name: column=")  # fmt: skip
    draws = [draw(seed, min(ids[i] for i in family)) for family in families]
    threshold = min(max(held_out, min(draws)), np.nextafter(max(draws), 0.0))  # at least one family on each side
    drawn = zip(draws, families, strict=True)
    side = {ids[i]: HELD_OUT if d <= threshold else TRAIN for d, family in drawn for i in family}
    depends = hashlib.blake2b(repr((held_out, seed, sorted(side.items()))).encode(), digest_size=8)
    table.add_column(column, side, type=pa.string(), fingerprint=depends.hexdigest(),
                     info={"split": {"held_out": held_out, "seed": seed}})  # fmt: skip
    large = [family for family in families if len(family) > 1]
    counts = {name: sum(value == name for value in side.values()) for name in (TRAIN, HELD_OUT)}
    return Split(counts, len(large), sum(map(len, large)), unusable)


def draw(seed: int, key: str) -> float:
    """A number in [0, 1) that depends on nothing but the two."""
    digest = hashlib.blake2b(f"{seed}|{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def thumbnail(image: Image.Image) -> np.ndarray:
    """(SIDE, SIDE, 3) uint8, each pixel the mean of its share of the picture."""
    return np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX))


def near_duplicates(
    thumbnails: np.ndarray, advance: Callable[[int, int], None] | None = None, among: int | None = None
) -> list[tuple[int, int]]:
    """Pairs (i, j), i < j, of pictures that are versions of one another, in order.

    thumbnails: (n, SIDE, SIDE, 3) uint8; advance: told how many have been compared; among: only pairs whose first is
    one of so many (new ones, put before those that were compared already). Their root mean square difference
    is at most LARGEST, and at most RELATIVE of the larger spread (so that pages of print, all nearly white, are told
    apart) plus ROUNDING. Averaging 4 x 4 pixels never makes two pictures differ more, so those (n, 48) means rule out
    nearly all pairs, exactly; time grows as n^2.
    """
    n = len(thumbnails)
    full = thumbnails.reshape(n, -1).astype(np.float32)
    coarse = full.reshape(n, 4, SIDE // 4, 4, SIDE // 4, 3).mean(axis=(2, 4)).reshape(n, 48)
    coarse -= coarse.mean(axis=0)                         # smaller numbers, smaller rounding in the expanded square
    squares = np.square(coarse).sum(axis=1)
    spread = thumbnails.reshape(n, -1, 3).astype(np.float32).std(axis=1).max(axis=1)
    pairs = []
    asked = n if among is None else among
    for start in range(0, asked, BLOCK):
        if advance:
            advance(start, n)
        rows = slice(start, min(asked, start + BLOCK))
        allowed = np.minimum(LARGEST, RELATIVE * np.maximum(spread[rows, None], spread[None, start:]) + ROUNDING)
        distance = squares[rows, None] + squares[None, start:] - 2 * coarse[rows] @ coarse[start:].T
        for i, near in enumerate(distance <= 48 * (allowed * 1.001 + 0.01) ** 2):
            others = np.flatnonzero(near[i + 1 :]) + i + 1
            error = np.sqrt(np.square(full[start + others] - full[start + i]).mean(axis=1))
            pairs += [(start + i, start + j) for j in others[error <= allowed[i, others]].tolist()]
    return pairs


def joined(n: int, links: Iterable[tuple[int, int]]) -> list[list[int]]:
    """The connected components of n numbers, each ascending, ordered by their smallest (union by path halving)."""
    parent = list(range(n))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = i = parent[parent[i]]
        return i

    for a, b in links:
        a, b = root(a), root(b)
        parent[max(a, b)] = min(a, b)
    families: dict[int, list[int]] = defaultdict(list)
    for i in range(n):
        families[root(i)].append(i)
    return list(families.values())
