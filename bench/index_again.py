"""`omma index` of 10,000 pictures once more: nothing changed, then a tenth changed while others search.

    python bench/index_again.py [--pictures 10000]

Small pictures, a caption beside every tenth, the eye that comes with omma. The command itself is run a second time on
the unchanged folder: seconds and CPU seconds of the whole process, its start and the loading of the eye among them.
Then a tenth of the pictures is drawn anew, and while the command runs a third time, searches go on from here: how many,
how many failed or came back short, and how long they took beside it.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

import omma

GOAL, AT_ONCE = 5.0, 500
QUERIES = ("a red cup", "two birds", "green", "lamp 120", "a blue thing")


def write_folder(folder: Path, pictures: int) -> None:
    for number in range(pictures):
        place = folder / f"{number // AT_ONCE:03d}"
        place.mkdir(parents=True, exist_ok=True)
        write_picture(place / f"{number:05d}.png", number)
        if number % 10 == 0:
            (place / f"{number:05d}.txt").write_text(f"lamp {number}")


def write_picture(path: Path, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    Image.fromarray(pixels).resize((32, 32), Image.Resampling.BICUBIC).save(path)


def indexing(folder: Path, path: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "omma.cli", "index", str(folder), "--index", str(path), "--json"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                            env={**os.environ, "OMP_NUM_THREADS": "1"})  # fmt: skip


def done(process: subprocess.Popen) -> dict:
    out, _ = process.communicate()
    assert process.returncode == 0, out
    return json.loads(out)["runs"][0]


def cpu() -> float:
    use = resource.getrusage(resource.RUSAGE_CHILDREN)
    return use.ru_utime + use.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=10_000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder, path = Path(temporary) / "pictures", Path(temporary) / "index.db"
        write_folder(folder, args.pictures)
        spent, told = [], []
        for _ in range(2):
            began, before = time.perf_counter(), cpu()
            told.append(done(indexing(folder, path)))
            spent.append((time.perf_counter() - began, cpu() - before))
        assert told[0]["new"] == told[1]["same"] == args.pictures
        for name, (wall, own) in zip(("new", "nothing changed"), spent, strict=True):
            print(f"{args.pictures} pictures, {name}: {wall:.1f} s, {own:.1f} CPU s")

        changed = range(0, args.pictures, 10)
        for number in changed:
            write_picture(folder / f"{number // AT_ONCE:03d}" / f"{number:05d}.png", 1_000_000 + number)
        taken, wrong, process = [], 0, indexing(folder, path)
        with omma.Index.open(path) as index:
            index.search("warm")
            while process.poll() is None:
                for query in QUERIES:
                    began = time.perf_counter()
                    hits = index.search(query, k=10)
                    taken.append(time.perf_counter() - began)
                    wrong += len(hits) != 10 or any(hit.path is None for hit in hits)
        last = done(process)
        assert last["changed"] == len(changed), last
        print(f"{len(changed)} changed, and {len(taken)} searches meanwhile: p50 {1e3 * np.median(taken):.0f} ms, p95 "
              f"{1e3 * np.quantile(taken, 0.95):.0f} ms, longest {1e3 * max(taken):.0f} ms")
    wall, own = spent[1]
    claims = [("seconds of a second omma index, nothing changed", round(wall, 2), GOAL, wall < GOAL),
              ("the same, CPU seconds", round(own, 2), GOAL, own < GOAL),
              ("searches beside an indexing that failed or came back short", wrong, 0, not wrong)]
    for name, value, goal, ok in claims:
        print(json.dumps({"name": name, "value": value, "goal": goal, "ok": bool(ok)}))


if __name__ == "__main__":
    main()
