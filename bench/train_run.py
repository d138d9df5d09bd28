"""What a nano training costs beside its arithmetic: the share of the time spent waiting for data, and peak memory.

python bench/train_run.py             # stage 3 of nano (5M), batch 64, 128 px, 30 steps on scenes that it draws first
"""

import argparse
import json
import os
import resource
import tempfile
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "20000")  # as the command line sets it

from omma.config import apply
from omma.scenes.sources import write_scenes
from omma.training.loop import train
from omma.training.recipes import load_recipe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=30)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_scenes(Path(folder) / "scenes", pictures=1000, pairs=50, check=False)
        places = [f"data={folder}/scenes/pictures", f"out={folder}/run"]
        changes = [*places, f"steps={args.steps}", "warmup=5", "log_every=5"]
        rows = train(apply(load_recipe("vlmo-nano-vl"), changes), progress=False).metrics()
    rows = [row for row in rows if "data_wait" in row and row["step"] > 1]
    wait = sum(row["data_wait"] for row in rows) / len(rows)
    rate = sum(row["samples_per_s"] for row in rows) / len(rows)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # kB -> GB
    print(f"{rate:.0f} samples/s, {100 * wait:.2f} % of the time waiting for data, {peak:.2f} GB at most")
    for name, value, goal in (("share waiting for data", wait, 0.05), ("peak memory in GB", peak, 2.0)):
        claim = {"name": f"nano training: {name}", "value": round(value, 4), "goal": goal, "ok": value < goal}
        print(json.dumps(claim))


if __name__ == "__main__":
    main()
