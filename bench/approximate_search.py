"""A million vectors: the approximate search of `--vectors FOLDER` (HNSW, qdrant-edge) against omma's own exact scan.

    python bench/approximate_search.py WORK [--rows 1000000] [--width 256]

The rows are those of vector_search.py: clusters in 64 dimensions, pushed to the width, with noise and a common
direction. They lie in an index as `omma index` writes it; what is searched is what `Index.search` calls. Each side has
a process of its own on one thread: CPU milliseconds a query, the best of --turns rounds over the queries, memory with
the vectors loaded, and what lies on the disk. Recall: how many of the exact ten are found. The graph is built once
(CPU minutes) and kept in WORK, so a second call only searches.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

SPACE, QUERIES, K = "bench", 100, 10
SPEED, RECALL = 10.0, 0.95


def fill(work: Path, rows: int, width: int) -> None:
    """An index of so many pictures without files, and the queries."""
    from omma.retrieval.store import Store
    from vector_search import clustered

    x, queries = clustered(rows, width, queries=QUERIES)
    with Store(work / "part.db", create=True) as store:
        store.add_space(SPACE, SPACE, SPACE, width)
        for start in range(0, rows, 50_000):
            numbers = range(start + 1, min(start + 50_000, rows) + 1)
            with store.writing() as con:
                con.executemany("INSERT INTO file (id, source, path, status) VALUES (?, '/p', ?, 'ok')",
                                [(number, f"{number}.jpg") for number in numbers])
                con.executemany("INSERT INTO item (id, file, part, kind) VALUES (?, ?, 0, 'picture')",
                                [(number, number) for number in numbers])
                store.upsert(SPACE, numbers, x[start : start + len(numbers)])
    np.save(work / "queries.npy", queries)
    (work / "part.db").rename(work / "index.db")


def build(work: Path) -> dict[str, Any]:
    from omma.retrieval.qdrant import Mirror, QdrantEdge
    from omma.retrieval.store import Store

    start = time.process_time()
    with Store(work / "index.db") as store:
        engine = QdrantEdge(work / "qdrant")
        Mirror(store, engine).sync(SPACE)
        engine.close()
    return {"cpu": time.process_time() - start, "mb": peak()}


def measure(work: Path, who: str, turns: int) -> dict[str, Any]:
    import torch

    from omma.retrieval.qdrant import Mirror, QdrantEdge
    from omma.retrieval.store import Store

    torch.set_num_threads(1)
    queries, best = np.load(work / "queries.npy"), float("inf")
    with Store(work / "index.db") as store:
        engine = QdrantEdge(work / "qdrant") if who == "approximate" else None
        searched: Any = Mirror(store, engine) if engine else store
        found = searched.search(SPACE, queries[:1], K)             # what is loaded once
        for _ in range(turns):
            start = time.process_time()
            found = [searched.search(SPACE, query[None], K)[0] for query in queries]
            best = min(best, time.process_time() - start)
        if engine:
            engine.close()
    np.save(work / f"{who}.npy", np.stack([ids for ids, _ in found]))
    return {"ms": 1000 * best / len(queries), "mb": resident(), "mb_peak": peak()}


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def resident() -> float:
    """MB that this process holds now, pages of mapped files among them (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6


def on_disk(place: Path) -> float:
    files = [place] if place.is_file() else [path for path in place.rglob("*") if path.is_file()]
    return sum(path.stat().st_blocks * 512 for path in files) / 1e6


def run(*arguments: Any) -> dict[str, Any]:
    env = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    command = [sys.executable, __file__, *map(str, arguments)]
    return json.loads(subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--do", choices=("fill", "build", "exact", "approximate"))
    args = parser.parse_args()
    if args.do:
        made = {"fill": lambda: fill(args.work, args.rows, args.width), "build": lambda: build(args.work)}.get(
            args.do, lambda: measure(args.work, args.do, args.turns))()
        print(json.dumps(made))
        return
    args.work.mkdir(parents=True, exist_ok=True)
    asked = (args.work, "--rows", args.rows, "--width", args.width, "--turns", args.turns, "--do")
    if not (args.work / "index.db").exists():
        run(*asked, "fill")
    if not (args.work / "built.json").exists():
        (args.work / "built.json").write_text(json.dumps(run(*asked, "build")))
    built = json.loads((args.work / "built.json").read_text())
    print(f"graph: {built['cpu'] / 60:.1f} CPU minutes, {built['mb']:.0f} MB at most")
    sides = {who: run(*asked, who) for who in ("exact", "approximate")}
    known, found = (np.load(args.work / f"{who}.npy") for who in sides)
    recall = float(np.mean([len(set(a) & set(b)) / len(a) for a, b in zip(known, found, strict=True)]))
    disk = {"exact": on_disk(args.work / "index.db"), "approximate": on_disk(args.work / "qdrant")}
    print(f"{args.rows:,} x {args.width}, {len(known)} queries one by one, the {K} nearest")
    for who, one in sides.items():
        print(f"  {who:12} {one['ms']:8.2f} CPU ms a query  {one['mb']:6.0f} MB in memory, {one['mb_peak']:.0f} at most"
              f"  {disk[who]:6.0f} MB on the disk")  # fmt: skip
    speed = sides["exact"]["ms"] / sides["approximate"]["ms"]
    for name, value, goal in (("approximate search: times the exact scan's speed", speed, SPEED),
                              ("approximate search: recall at 10", recall, RECALL)):
        print(json.dumps({"name": name, "value": round(value, 4), "goal": goal, "ok": value >= goal}))


if __name__ == "__main__":
    main()
