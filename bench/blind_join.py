"""Blind pairs of 20,000 rows against FAISS's exact range search, in one run: CPU seconds, the same pairs, memory.

    python bench/blind_join.py [--peers FOLDER] [--rows 20000] [--growth] [--large 200000] [--only flat]

FAISS (faiss-cpu, from FOLDER if it is not installed) searches the eye's space alone, with the norms, the check of every
pair and the reference left out of its time; omma's time holds all of that. Each runs in a process of its own on one
thread, in turns. --growth prints omma's time at a quarter, a half, once and twice the rows. --large: so many rows once,
with FAISS given a twentieth of them to ask with, whose counts of pairs must be the same, and its time taken twenty
times (it would take a quarter of an hour for all).
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
SHARE, BLOCK = 20, 20_000
SPECTRA = (("k^-0.6", False, 4.0), ("flat", True, 2.0))


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
    blocks = [slice(start, min(start + BLOCK, n)) for start in range(0, n, BLOCK)]
    centres = rng.standard_normal((CLUSTERS, WIDTH)) * spectrum
    x, y = np.empty((n, WIDTH), np.float32), np.empty((n, WIDTH2), np.float32)
    for part in blocks:
        noise = spread[part] * rng.standard_normal((part.stop - part.start, WIDTH)) * spectrum
        x[part] = unit((centres[which[part]] + noise) @ turn.T + (0.65 if flat else 1.1) * mean)
    centres = 1.15 * rng.standard_normal((CLUSTERS, WIDTH2))
    for part in blocks:
        y[part] = unit(centres[which[part]] + rng.standard_normal((part.stop - part.start, WIDTH2)))
    return x, y


def unit(rows):
    import numpy as np

    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def measure(who, asking):
    """One search of what lies in this folder; prints its CPU seconds, pairs and memory. asking: how many rows FAISS
    asks with, 0 for all; of these the pairs are counted by row, of all they are listed."""
    import numpy as np

    from omma.eval.blind import mine_blind_pairs
    from omma.eval.join import canonical, cosines

    x, y = (np.load(f"{name}.npy", mmap_mode="r") for name in ("eye", "reference"))
    if who == "omma":
        before = memory()
        start = time.process_time()
        found = mine_blind_pairs(x, y, ABOVE, BELOW, near=None)
        spent, pairs, counts = time.process_time() - start, found.pairs, found.row_counts
        told = {"directions": found.work["directions"], "left": found.work["left"], "pairs": found.counts["blind"]}
    else:
        import faiss  # type: ignore

        faiss.omp_set_num_threads(1)
        (c, _), (r, _) = canonical(x), canonical(y)
        before = memory()
        start = time.process_time()
        index = faiss.IndexFlatIP(WIDTH)
        index.add(c)
        limits, _, j = index.range_search(c[: asking or None], ABOVE - 2e-6)
        spent = time.process_time() - start
        i = np.repeat(np.arange(len(limits) - 1), np.diff(limits.astype(np.int64)))
        kept = i != j if asking else i < j
        i, j = i[kept], j[kept]
        kept = cosines(c[i], c[j], ABOVE) > ABOVE
        i, j = i[kept], j[kept]
        kept = cosines(r[i], r[j], BELOW) < BELOW
        pairs = np.stack([i[kept], j[kept]], axis=1)
        pairs, counts = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))], np.bincount(i[kept], minlength=len(x))
        told = {"pairs": len(pairs)}
    same = counts[:asking] if asking else pairs
    digest = hashlib.sha256(same.astype(np.int64).tobytes()).hexdigest()[:12]
    print(json.dumps({"cpu": spent, "hash": digest, "mb": memory(), "mb_data": before, **told}))


def memory():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def prepare(n, flat, folder):
    """Write both eyes' vectors, in a process of its own whose memory is given back."""
    code = ("import sys, numpy; sys.path.insert(0, sys.argv[1]); import blind_join; "
            "x, y = blind_join.eyes(int(sys.argv[2]), sys.argv[3] == 'True'); "
            "numpy.save('eye.npy', x); numpy.save('reference.npy', y)")  # fmt: skip
    here = os.path.dirname(os.path.abspath(__file__))
    subprocess.run([sys.executable, "-c", code, here, str(n), str(flat)], cwd=folder, check=True)


def run(who, folder, peers="", asking=0):
    env = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [env.get("PYTHONPATH", ""), peers]))
    command = [sys.executable, os.path.abspath(__file__), "--measure", who, "--asking", str(asking)]
    return json.loads(subprocess.run(command, env=env, cwd=folder, check=True, stdout=subprocess.PIPE).stdout)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--peers", default="")
    parser.add_argument("--growth", action="store_true")
    parser.add_argument("--large", type=int, default=0)
    parser.add_argument("--only", choices=[name for name, *_ in SPECTRA])
    parser.add_argument("--turns", type=int, default=TURNS)
    parser.add_argument("--measure", choices=("omma", "faiss"))
    parser.add_argument("--asking", type=int, default=0)
    args = parser.parse_args()
    if args.measure:
        measure(args.measure, args.asking)
        return
    claims = []
    for name, flat, goal in SPECTRA:
        if args.only not in (None, name):
            continue
        claims += side_by_side(name, flat, goal, args.rows, args.peers, args.turns)
        if args.growth:
            growth(name, flat, args.rows)
        if args.large:
            claims += side_by_side(name, flat, goal, args.large, args.peers, 1, args.large // SHARE)
    for name, value, goal, ok in claims:
        print(json.dumps({"name": name, "value": value, "goal": goal, "ok": bool(ok)}))


def side_by_side(name, flat, goal, n, peers, turns, asking=0):
    """Prints both sides' best; the claims that follow."""
    with tempfile.TemporaryDirectory() as folder:
        prepare(n, flat, folder)
        taken = [(run("faiss", folder, peers, asking), run("omma", folder, asking=asking)) for _ in range(turns)]
    best = [min((turn[who] for turn in taken), key=lambda one: one["cpu"]) for who in (0, 1)]
    best[0]["cpu"] *= n / asking if asking else 1
    for who, one in zip(("faiss", "omma"), best, strict=True):
        of = f"{n / asking:.0f} times what {asking:,} rows took" if asking and who == "faiss" else ""
        print(f"{name:7} {n:7} {who:6} {one['cpu']:7.2f} CPU s  {one['pairs']:7} pairs  hash {one['hash']}  "
              f"{one['mb']:5.0f} MB at most, {one['mb_data']:.0f} before the search  {of}", flush=True)  # fmt: skip
    ratio, same = best[0]["cpu"] / best[1]["cpu"], len({one["hash"] for turn in taken for one in turn}) == 1
    said = [(f"blind pairs, {name}, {n}: times FAISS's speed", round(ratio, 2), goal, ratio >= goal),
            (f"blind pairs, {name}, {n}: the same pairs", same, True, same)]
    if not asking:
        said += [(f"blind pairs, {name}, {n}: GB at most", round(best[1]["mb"] / 1000, 3), 0.5, best[1]["mb"] < 500)]
    return said


def growth(name, flat, rows):
    for n in (rows // 4, rows // 2, rows, 2 * rows):
        with tempfile.TemporaryDirectory() as folder:
            prepare(n, flat, folder)
            one = run("omma", folder)
        print(f"{name:7} {n:7} omma   {one['cpu']:7.2f} CPU s  {one['cpu'] / n**2 * 1e9:6.2f} ns for rows squared  "
              f"{one['mb']:5.0f} MB at most", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
