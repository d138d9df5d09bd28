"""The pairs that `omma blind --out` found, with the pictures of their table: what a person is shown.

pairs = Pairs.open("blind", Table.open("scenes/pictures"))
pairs[0].a, pairs.image(pairs[0].a)                            # the widest gap first
"""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from omma.decode import Decoded, decode, picture_data
from omma.storage import digest
from omma.table import Table, View


@dataclass(frozen=True)
class Pair:
    """Two pictures by id; eye, reference: their cosines."""

    a: str
    b: str
    eye: float
    reference: float

    @property
    def key(self) -> str:
        """A name that is the same wherever these two pictures are a pair."""
        return digest(self.a, self.b)[:12]


class Pairs:
    """Pairs in the order of their file, strongest first. lost: how many name a picture that the table has not."""

    def __init__(self, folder: Path, table: Table | View, pairs: list[Pair], lost: int):
        self.folder, self.table, self.lost = folder, table, lost
        self._pairs, self._lock = pairs, threading.Lock()
        self.by_key = {pair.key: pair for pair in pairs}

    @classmethod
    def open(cls, folder: str | Path, table: Table | View) -> "Pairs":
        """Raises ValueError when the folder holds no pairs.parquet, or none of its pictures is in the table."""
        path = Path(folder) / "pairs.parquet"
        if not path.is_file():
            raise ValueError(f"no pairs.parquet in {folder}; find pairs first: omma blind {table.uri} --eye A "
                             f"--reference B --out {folder}")  # fmt: skip
        rows = pq.read_table(path, columns=["a", "b", "eye", "reference"]).to_pylist()
        if not rows:
            raise ValueError(f"{path} holds no pairs; lower --above or raise --below, and find some")
        wanted = sorted({row[side] for row in rows for side in "ab"})
        there = set(table.read(["id"], where=pc.field("id").isin(wanted))["id"].to_pylist())
        pairs = [Pair(**row) for row in rows if row["a"] in there and row["b"] in there]
        if not pairs:
            raise ValueError(f"none of the {len(rows)} pairs of {path} has its pictures in {table.uri}; give the table "
                             "that they were found in")  # fmt: skip
        return cls(Path(folder), table, pairs, len(rows) - len(pairs))

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, number: int) -> Pair:
        return self._pairs[number]

    def __iter__(self) -> Iterator[Pair]:
        return iter(self._pairs)

    def encoded(self, name: str) -> bytes:
        """The file of a picture, as the table has it."""
        with self._lock:  # the table's index is made by the first call
            row = self.table.take([name], ["id", "bytes", "uri", "offset", "length"]).to_pylist()[0]
        return picture_data(row, self.table.uri)

    def decoded(self, name: str) -> Decoded:
        """The picture of an id, upright, or the reason why there is none."""
        try:
            return decode(self.encoded(name))
        except ValueError:  # its file is gone: as good as a picture that is none
            return Decoded("unreadable_file")

    def image(self, name: str) -> Image.Image:
        """As `decoded`. Raises ValueError, with the reason, where there is no picture to show."""
        found = self.decoded(name)
        if found.image is None:
            raise ValueError(f"picture {name!r} of {self.table.uri} can't be shown: {found.status}")
        return found.image
