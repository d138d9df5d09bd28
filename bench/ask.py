"""Ask an index of drawn pictures: right picture, right answer, whether what can't be answered is told, and where.

Answerable: a question about things of which exactly one picture has all, by kind and colour. Unanswerable: the same
with another thing in it, so that no picture has them. Boxes are measured on questions about one thing, on their own
pictures.

    omma scenes TEST --pictures 1000 --pairs 0 --size 112 --questions 6 --seed N --split-design fresh --split test
    python bench/ask.py --scenes TEST

Prints a table, and one line of JSON a claim.
"""

import argparse
import json
import random
import re
import tempfile
import time
from pathlib import Path

import numpy as np

import omma
from omma.decode import decode
from omma.eval.metrics import wilson
from omma.retrieval.answer import ask
from omma.retrieval.plan import Plan
from omma.retrieval.tools import Sight
from omma.sparse.attended import attended, box_of, overlap


def named(question: str, colours: set[str], kinds: set[str]) -> list[tuple[str | None, str]]:
    """(colour or None, kind) of the things in a question."""
    words = re.findall(r"\w+", question)
    return [(words[i - 1] if i and words[i - 1] in colours else None, word) for i, word in enumerate(words)
            if word in kinds]  # fmt: skip


def fits(wanted: list, things: list[dict]) -> bool:
    shown = {(one["colour"], one["kind"]) for one in things} | {(None, one["kind"]) for one in things}
    return shown.issuperset(wanted)


def auroc(right: list[float], wrong: list[float]) -> float:
    """How often a right one has the larger value."""
    a, b = np.array(right)[:, None], np.array(wrong)[None]
    return float((a > b).mean() + (a == b).mean() / 2)


def questions_of(scenes: Path, number: int, count: int, seed: int) -> tuple[dict, list[dict], list[str]]:
    """(pictures by id, answerable items, unanswerable questions)."""
    rows = omma.Table.open(scenes / "pictures").read(["id", "bytes", "world", "group"]).to_pylist()
    pictures = {row["id"]: row for row in rows if row["group"] is None}
    pictures = dict(list(pictures.items())[:number])
    worlds = {name: json.loads(row["world"])["things"] for name, row in pictures.items()}
    colours = {one["colour"] for things in worlds.values() for one in things}
    kinds = {one["kind"] for things in worlds.values() for one in things}
    items = omma.Table.open(scenes / "items").read(["task", "pictures", "prompt", "answer"]).to_pylist()
    items = [item for item in items if item["task"] == "ask"]
    draw = random.Random(seed)
    draw.shuffle(items)
    good, bad = [], []
    for item in items:
        wanted = named(item["prompt"], colours, kinds)
        if re.match(r"is there|are there|how many", item["prompt"]) or not any(
            colour for colour, _ in wanted
        ):
            continue
        if [name for name in worlds if fits(wanted, worlds[name])] != item["pictures"]:
            continue
        colour, kind = next(one for one in wanted if one[0])
        swaps = [(c, k) for c in sorted(colours) for k in sorted(kinds)]
        draw.shuffle(swaps)
        for other_colour, other_kind in swaps:
            other = item["prompt"].replace(f"{colour} {kind}", f"{other_colour} {other_kind}")
            if not any(fits(named(other, colours, kinds), things) for things in worlds.values()):
                bad.append(other)
                good.append(item)
                break
        if len(good) == count:
            break
    return pictures, good, bad


def places_of(vlm, sight: Sight, scenes: Path, count: int) -> tuple[list[float], list[float]]:
    """IoU with the box of the thing asked about, for questions about one thing of which their picture has one: of the
    box that the VLM attended to, and of the one that the tool detect finds, 0 where it finds none. A thing of size r at
    x, y fills the square x - r..x + r, y - r..y + r."""
    rows = omma.Table.open(scenes / "pictures").read(["id", "bytes", "world", "group"]).to_pylist()
    pictures = {row["id"]: row for row in rows if row["group"] is None}
    worlds = {name: json.loads(row["world"])["things"] for name, row in pictures.items()}
    colours, kinds = ({one[part] for things in worlds.values() for one in things} for part in ("colour", "kind"))
    items = omma.Table.open(scenes / "items").read(["task", "pictures", "prompt", "answer"]).to_pylist()
    random.Random(0).shuffle(items)
    found, detected = [], []
    for item in items:
        if item["task"] != "ask" or item["pictures"][0] not in pictures or len(found) == count:
            continue
        wanted = named(item["prompt"], colours, kinds)
        meant = [one for one in worlds[item["pictures"][0]] if len(wanted) == 1 and fits(wanted, [one])]
        if len(meant) == 1 and not re.match(r"is there|are there|how many", item["prompt"]):
            image = decode(pictures[item["pictures"][0]]["bytes"]).image
            assert image is not None
            said = vlm.generate([image], item["prompt"], max_new_tokens=8)
            box = box_of(attended(vlm, [image], item["prompt"], said, relative=False)[0])
            x, y, r = (meant[0][part] for part in ("x", "y", "size"))
            truth = (x - r, y - r, x + r, y + r)
            found.append(overlap(box, truth))
            plan, thing = Plan(("detect",), [image], lambda: sight), " ".join(filter(None, wanted[0]))
            told = plan.call("detect", {"thing": thing})
            detected.append(overlap(told.boxes[0], truth) if told and told.boxes else 0.0)
    return found, detected


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--vlm", default="vlm-nano")
    parser.add_argument("--scenes", type=Path, default=Path("scenes/test"))
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument("--method", default="sparsevlm")
    parser.add_argument("--budget", type=float, default=64)
    options = parser.parse_args()
    pictures, good, bad = questions_of(options.scenes, options.pictures, options.questions, seed=0)
    vlm = omma.load_vlm(options.vlm)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "pictures"
        folder.mkdir()
        for name, row in pictures.items():
            (folder / f"{name}.png").write_bytes(row["bytes"])
        with omma.build_index(folder, Path(place) / "index.db") as index:
            dropped = {"method": options.method, "budget": options.budget}
            ways = {"dense": {"tools": "none"}, "dense, with tools": {},
                    f"{options.method} {options.budget:g}": {"tools": "none", **dropped},
                    f"{options.method} {options.budget:g}, with tools": dropped}  # fmt: skip
            results = {}
            for way, told in ways.items():
                started = time.process_time()
                results[way] = [ask(index, item["prompt"], vlm=vlm, least=0, boxes=False, **told) for item in good]
                seconds = (time.process_time() - started) / len(good)
                picture = [Path(str(one.citations[0].path)).stem == item["pictures"][0] if one.citations else False
                           for one, item in zip(results[way], good, strict=True)]  # fmt: skip
                answers = [re.sub(r" \[\d+\]$", "", one.text) == item["answer"]
                           for one, item in zip(results[way], good, strict=True)]  # fmt: skip
                both = [a and b for a, b in zip(picture, answers, strict=True)]
                low, high = wilson(sum(both), len(both))
                print(f"{way:26} right picture {np.mean(picture):.3f}  right answer {np.mean(answers):.3f}  "
                      f"both {np.mean(both):.3f} ({low:.3f}-{high:.3f})  {seconds:.2f} CPU s a question")
                print(json.dumps({"name": f"ask, {way}: right picture and answer",
                                  "value": round(float(np.mean(both)), 3), "goal": None, "ok": True}))  # fmt: skip
            dense = results["dense"]
            supports = [one.support for one in dense]
            unsupported = [ask(index, question, vlm=vlm, least=1, tools="none").support for question in bad]
    value = auroc(supports, unsupported)
    levels = np.linspace(0, 1, 101)
    right = [(np.mean(np.array(supports) >= level) + np.mean(np.array(unsupported) < level)) / 2 for level in levels]
    print(f"{len(good)} answerable, {len(bad)} unanswerable, {len(pictures)} pictures; balanced accuracy "
          f"{max(right):.3f} at support {levels[int(np.argmax(right))]:.2f}, {right[50]:.3f} at 0.50; median support "
          f"{np.median(supports):.2f} and {np.median(unsupported):.2f}")
    print(json.dumps({"name": "ask: AUROC of support, answerable against not", "value": round(value, 3), "goal": 0.75,
                      "ok": value >= 0.75}))  # fmt: skip
    places, detected = places_of(vlm, Sight(omma.load_encoder("vlmo-nano")), options.scenes, options.questions)
    for name, values in (("attended patches", places), ("the tool detect", detected)):
        print(json.dumps({"name": f"ask: mean IoU of {name}, {len(values)} things",
                          "value": round(float(np.mean(values)), 3), "goal": None, "ok": True}))  # fmt: skip


if __name__ == "__main__":
    main()
