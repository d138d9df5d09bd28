"""How many scenes one core writes in a second: worlds, pixels, facts, captions, minimal pairs, items and tables.

python bench/scenes_speed.py        # prints a table, and one JSON line last
"""

import json
import tempfile
import time
from pathlib import Path

from omma.scenes.draw import png, render
from omma.scenes.language import captions
from omma.scenes.pairs import make_pair
from omma.scenes.sources import write_scenes
from omma.scenes.world import sample_world

GOAL = 250.0  # pictures per CPU-second, all told


def per_second(work, times: int) -> float:
    start = time.process_time()
    for i in range(times):
        work(i)
    return times / (time.process_time() - start)


def main() -> None:
    worlds = [sample_world("bench", i) for i in range(500)]
    pictures = [render(world) for world in worlds]
    parts = {
        "sample_world": per_second(lambda i: sample_world("bench", i), 500),
        "render": per_second(lambda i: render(worlds[i]), 500),
        "png": per_second(lambda i: png(pictures[i]), 500),
        "captions": per_second(lambda i: captions(worlds[i], i), 500),
        "pairs (2 pictures, checked)": 2 * per_second(lambda i: make_pair("presence", "bench", i), 250),
    }
    for name, value in parts.items():
        print(f"{name:30s} {value:8.0f} pictures/CPU-s")
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        table, items = write_scenes(Path(folder) / "scenes", pictures=2000, pairs=100)
        value = len(table) / (time.process_time() - start)
    print(f"{'write_scenes':30s} {value:8.0f} pictures/CPU-s ({len(table)} pictures, {len(items)} items)")
    print(json.dumps({"name": "scenes_speed", "value": round(value, 1), "goal": GOAL, "ok": value >= GOAL}))


if __name__ == "__main__":
    main()
