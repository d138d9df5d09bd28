"""How fast pictures come in: `omma.ingest` of a WebDataset tar, against reading the same tar with webdataset and PIL.

Both decode every picture; ingest also checks, hashes and writes a table. Each has a process of its own, so that neither
carries what the other imports. The ratio is of CPU-seconds, of the best of five turns each, taken in turn; imports and
the making of the tar are outside. All pixels are compared.

    python bench/ingest_speed.py [--pictures 10000]
"""

import argparse
import io
import json
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from omma.decode import open_picture
from omma.jobs import spawned_pool
from omma.scenes.draw import render
from omma.scenes.world import sample_world
from omma.table import Table

GOAL = 1.0  # at least as fast
TURNS = 5


def write_tar(path: Path, pictures: int) -> None:
    """So many scenes of 64 x 64 pixels as PNG, a caption beside each; 500 worlds, told apart by one pixel."""
    bases = [np.asarray(render(sample_world("bench", i), 64)) for i in range(min(pictures, 500))]
    with tarfile.open(path, "w") as tar:
        for i in range(pictures):
            pixels = bases[i % len(bases)].copy()
            pixels[0, 0] = (i % 256, i // 256 % 256, 7)
            data = io.BytesIO()
            Image.fromarray(pixels).save(data, "PNG", compress_level=1)
            for suffix, content in (("png", data.getvalue()), ("txt", b"a picture")):
                member = tarfile.TarInfo(f"{i:06d}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def webdataset(path: Path) -> Iterator[dict[str, Any]]:
    """The samples as webdataset gives them to its users: pictures as RGB, texts as strings."""
    from webdataset import WebDataset  # pyright: ignore[reportAttributeAccessIssue]  (its names are made at run time)

    return iter(WebDataset(str(path), shardshuffle=False).decode("pil"))


def by_webdataset(path: Path) -> float:
    samples = webdataset(path)
    began = time.process_time()
    for sample in samples:
        sample["png"].load()
    return time.process_time() - began


def by_omma(path: Path, out: Path) -> float:
    from omma.data.ingest import ingest

    began = time.process_time()
    ingest(path, out)
    return time.process_time() - began


def same_pixels(path: Path, out: Path) -> bool:
    rows = (row for batch in Table.open(out).scan(["id", "bytes"]) for row in batch.to_pylist())
    return all(row["id"] == sample["__key__"] and np.array_equal(np.asarray(open_picture(row).image), sample["png"])
               for row, sample in zip(rows, webdataset(path), strict=True))  # fmt: skip


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--pictures", type=int, default=10_000)
    n = arguments.parse_args().pictures
    with tempfile.TemporaryDirectory() as folder:
        tar = Path(folder) / "pictures.tar"
        write_tar(tar, n)
        peer, ours = [], []
        with spawned_pool(1) as theirs, spawned_pool(1) as own:
            for turn in range(TURNS):
                peer.append(theirs.submit(by_webdataset, tar).result())
                ours.append(own.submit(by_omma, tar, Path(folder) / f"table{turn}").result())
        same = same_pixels(tar, Path(folder) / "table0")
    print(f"{n} pictures: webdataset + PIL {min(peer):.2f} CPU-s, omma.ingest {min(ours):.2f} CPU-s, "
          f"{n / min(ours):.0f} pictures a CPU-second, pixels {'the same' if same else 'DIFFER'}")  # fmt: skip
    value = min(peer) / min(ours)
    claim = {"name": "ingest of a tar against webdataset + PIL, CPU time", "value": round(value, 3), "goal": GOAL}
    print(json.dumps({**claim, "ok": value >= GOAL and same}))


if __name__ == "__main__":
    main()
