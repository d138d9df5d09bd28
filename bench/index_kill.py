"""kill -9 during 20 runs of `omma index`: is all that could be read before the kill there after it, and does it go on?

    python bench/index_kill.py [--kills 20] [--pictures 1200]

A folder of small pictures, texts, a PDF and a video is indexed by the command itself with the eye that comes with omma.
While it works, the index is read from here, as a search would; what was read is acknowledged. Then the process is
killed, the file is checked, and what was acknowledged is looked for: each file with its items, words and vectors.
Each run goes on where the last one was killed; one that comes to its end starts anew. At the end the index is compared
with one that was never killed.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from index_speed import write_pages, write_video
from omma.retrieval.store import Store


def write_folder(folder: Path, pictures: int) -> None:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(pictures):
        coarse = Image.fromarray(rng.integers(0, 256, (5, 5, 3), np.uint8))
        coarse.resize((96, 96), Image.Resampling.BICUBIC).save(folder / f"{number:04d}.png")
    for number in range(20):
        (folder / f"note{number:02d}.md").write_text(f"note {number}\n\n" + "a red lamp " * 300)
    write_pages(folder / "report.pdf", 6)
    write_video(folder / "walk.mp4", 8)


def files_of(path: Path) -> dict[str, tuple[Any, ...]]:
    """Each file with its items, their words and their vectors, as anybody reads them who opens the index."""
    found: dict[str, list[Any]] = {}
    if path.is_file():
        try:
            with Store(path) as store:
                for name, *item in store.rows(
                        "SELECT path, digest, part, kind, text, data FROM file LEFT JOIN item ON item.file = file.id "
                        "LEFT JOIN vector ON item = item.id"):
                    found.setdefault(name, []).append(tuple(item))
        except ValueError:                                # it is being made in this moment
            return {}
    return {name: tuple(sorted(items)) for name, items in found.items()}


def indexing(folder: Path, path: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "omma.cli", "index", str(folder), "--index", str(path), "--json"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={
        **os.environ, "OMP_NUM_THREADS": "1"})  # fmt: skip


def remove(path: Path) -> None:
    for part in path.parent.glob(f"{path.name}*"):
        part.unlink()


def alike(a: dict[str, tuple[Any, ...]], b: dict[str, tuple[Any, ...]]) -> float:
    """The largest difference between vectors of the same items; infinite where anything else differs."""
    worst = 0.0
    if a.keys() != b.keys():
        return float("inf")
    for name, items in a.items():
        if [item[:-1] for item in items] != [item[:-1] for item in b[name]]:
            return float("inf")
        for (*_, one), (*_, other) in zip(items, b[name], strict=True):
            if (one is None) != (other is None):
                return float("inf")
            if one is not None:
                pair = (np.frombuffer(data, np.float16).astype(np.float32) for data in (one, other))
                worst = max(worst, float(np.abs(next(pair) - next(pair)).max()))
    return worst


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--pictures", type=int, default=1200)
    args = parser.parse_args()
    rng, kills, lost, read, damaged, whole = random.Random(0), 0, 0, 0, 0, 0
    with tempfile.TemporaryDirectory() as temporary:
        folder, path, other = (Path(temporary) / name for name in ("files", "index.db", "whole.db"))
        write_folder(folder, args.pictures)
        assert indexing(folder, other).wait() == 0
        expected = files_of(other)
        while kills < args.kills:
            start = len(files_of(path))
            enough = start + rng.randint(1, 120)
            process = indexing(folder, path)
            while process.poll() is None and len(known := files_of(path)) < enough:
                time.sleep(rng.random() * 0.02)
            if process.poll() is not None:                # it came to its end: once more from the start
                whole += 1
                remove(path)
                continue
            process.kill()
            process.wait()
            kills += 1
            with Store(path) as store:
                damaged += store.rows("PRAGMA integrity_check") != [("ok",)]
            after = files_of(path)
            gone = [name for name, items in known.items() if after.get(name) != items]
            read, lost = read + len(known), lost + len(gone)
            print(f"kill {kills:2}: {len(known) - start:4} files of this run and {start:4} of before were read, "
                  f"{len(after):4} are there, {len(gone)} lost", flush=True)
        assert indexing(folder, path).wait() == 0
        off = alike(files_of(path), expected)
    print(f"{kills} kills, {whole} runs that ended, {read} files read before a kill; vectors of the finished index "
          f"differ by {off:.4f} at most from those of one that was never killed")
    for name, value in (("acknowledged files lost", lost), ("indexes damaged", damaged)):
        print(json.dumps({"name": f"{name}, {kills} kills of omma index", "value": value, "goal": 0, "ok": not value}))
    print(json.dumps({"name": "the index after kills against one of a single run, largest difference of a vector",
                      "value": round(off, 5), "goal": 0.002, "ok": off <= 0.002}))  # fmt: skip


if __name__ == "__main__":
    main()
