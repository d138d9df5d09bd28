"""Blind pairs of 20,000 rows against FAISS's exact range search, in one run: CPU seconds, the same pairs, memory.

    python bench/blind_join.py [--peers FOLDER] [--rows 20000] [--growth]

FAISS (faiss-cpu, from FOLDER if it is not installed) searches the eye's space alone, with the norms, the check of every
pair and the reference left out of its time; omma's time holds all of that. Each runs in a process of its own on one
thread, in turns. --growth prints the time at a quarter, a half, once and twice the rows.
"""

import argparse
import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time

ABOVE, BELOW, WIDTH, WIDTH2, CLUSTERS, TURNS = 0.95, 0.6, 768, 1024, 400, 3


def eyes(n, flat):
    """Rows in 400 clusters around one mean direction, spectrum k^-0.6 or flat; and a reference that half agrees."""
    import numpy as np

    rng = np.random.default_rng(0)
    spectrum = np.ones(WIDTH) if flat else np.arange(1, WIDTH + 1) ** -0.6
    spectrum /= np.sqrt((spectrum**2).sum())
    turn = np.linalg.qr(rng.standard_normal((WIDTH, WIDTH)))[0]
    mean = rng.standard_normal(WIDTH)
    mean /= np.linalg.norm(mean)
    which = rng.integers(CLUSTERS, size=n)
    spread = np.exp(rng.normal(-1.0 if flat else -0.72, 0.2, size=(n, 1)))
    x = (rng.standard_normal((CLUSTERS, WIDTH)) * spectrum)[which] + spread * rng.standard_normal((n, WIDTH)) * spectrum
    x = x @ turn.T + (0.65 if flat else 1.1) * mean
    y = 1.15 * rng.standard_normal((CLUSTERS, WIDTH2))[which] + rng.standard_normal((n, WIDTH2))
    return [(v / np.linalg.norm(v, axis=1, keepdims=True)).astype(np.float32) for v in (x, y)]


def measure(who):
    """One search of what lies in this folder; prints its CPU seconds, pairs and memory."""
    import numpy as np

    from omma.eval.blind import mine_blind_pairs
    from omma.eval.join import canonical, cosines

    x, y = np.load("eye.npy"), np.load("reference.npy")
    if who == "omma":
        before = memory()
        start = time.process_time()
        found = mine_blind_pairs(x, y, ABOVE, BELOW, near=None)
        spent, pairs = time.process_time() - start, found.pairs
        told = {"directions": found.work["directions"], "left": found.work["left"], "similar": found.counts["similar"]}
    else:
        import faiss  # type: ignore

        faiss.omp_set_num_threads(1)
        (c, _), (r, _) = canonical(x), canonical(y)
        before = memory()
        start = time.process_time()
        index = faiss.IndexFlatIP(WIDTH)
        index.add(c)
        limits, _, j = index.range_search(c, ABOVE - 2e-6)
        spent = time.process_time() - start
        i = np.repeat(np.arange(len(x)), np.diff(limits.astype(np.int64)))
        kept = i < j
        i, j = i[kept], j[kept]
        kept = cosines(c[i], c[j], ABOVE) > ABOVE
        i, j = i[kept], j[kept]
        told = {"similar": len(i)}
        kept = cosines(r[i], r[j], BELOW) < BELOW
        pairs = np.stack([i[kept], j[kept]], axis=1)
        pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
    digest = hashlib.sha256(pairs.astype(np.int64).tobytes()).hexdigest()[:12]
    print(json.dumps({"cpu": spent, "pairs": len(pairs), "hash": digest, "mb": memory(), "mb_data": before, **told}))


def memory():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def prepare(n, flat, folder):
    """Write both eyes' vectors, in a process of its own whose memory is given back."""
    code = ("import sys, numpy; sys.path.insert(0, sys.argv[1]); import blind_join; "
            "x, y = blind_join.eyes(int(sys.argv[2]), sys.argv[3] == 'True'); "
            "numpy.save('eye.npy', x); numpy.save('reference.npy', y)")  # fmt: skip
    here = os.path.dirname(os.path.abspath(__file__))
    subprocess.run([sys.executable, "-c", code, here, str(n), str(flat)], cwd=folder, check=True)


def run(who, folder, peers=""):
    env = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [env.get("PYTHONPATH", ""), peers]))
    command = [sys.executable, os.path.abspath(__file__), "--measure", who]
    return json.loads(subprocess.run(command, env=env, cwd=folder, check=True, stdout=subprocess.PIPE).stdout)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--peers", default="")
    parser.add_argument("--growth", action="store_true")
    parser.add_argument("--measure", choices=("omma", "faiss"))
    args = parser.parse_args()
    if args.measure:
        measure(args.measure)
        return
    claims = []
    for flat, goal in ((False, 4.0), (True, 2.0)):
        with tempfile.TemporaryDirectory() as folder:
            prepare(args.rows, flat, folder)
            turns = [(run("faiss", folder, args.peers), run("omma", folder)) for _ in range(TURNS)]
        best = [min((turn[who] for turn in turns), key=lambda one: one["cpu"]) for who in (0, 1)]
        ratio, name = best[0]["cpu"] / best[1]["cpu"], "flat" if flat else "k^-0.6"
        for who, one in zip(("faiss", "omma"), best, strict=True):
            print(f"{name:7} {who:6} {one['cpu']:6.2f} CPU s  {one['pairs']:7} pairs  hash {one['hash']}  "
                  f"{one['mb']:5.0f} MB at most, {one['mb_data']:.0f} before the search")  # fmt: skip
        same = len({one["hash"] for turn in turns for one in turn}) == 1
        claims += [(f"blind pairs, {name}: times FAISS's speed", round(ratio, 2), goal, ratio >= goal),
                   (f"blind pairs, {name}: the same pairs", same, True, same),
                   (f"blind pairs, {name}: GB at most", round(best[1]["mb"] / 1000, 3), 0.5, best[1]["mb"] < 500)]
    if args.growth:
        for n in (args.rows // 4, args.rows // 2, args.rows, 2 * args.rows):
            with tempfile.TemporaryDirectory() as folder:
                prepare(n, False, folder)
                one = run("omma", folder)
            print(f"{n:8} rows {one['cpu']:7.2f} CPU s  {one['cpu'] / n**2 * 1e9:6.2f} ns a pair of rows, squared")
    for name, value, goal, ok in claims:
        print(json.dumps({"name": name, "value": value, "goal": goal, "ok": bool(ok)}))


if __name__ == "__main__":
    main()
