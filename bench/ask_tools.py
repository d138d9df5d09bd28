"""What tools are worth to a VLM: the share of questions about scenes that it answers right without them and with each,
the same questions in the same run.

    omma scenes TEST --pictures 600 --pairs 0 --size 112 --questions 6 --seed 1 --split-design fresh --split test
    python bench/ask_tools.py TEST [--vlm vlm-nano] [--encoder vlmo-nano] [--tools count,detect,colour,crop]
    python bench/ask_tools.py TEST --pattern text --tools read+detect     # read where a thing is

Questions are asked about their own picture, without a search, and both ways those that the tool answers; to the others
it makes no difference. Intervals are of the difference, 95 %, by a bootstrap of pictures; p by signs flipped picture by
picture. Prints a table, and one line of JSON a tool: whether it helps.
"""

import argparse
import itertools
import json
from collections import Counter, defaultdict
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import torch

import omma
from omma.decode import decode
from omma.eval.paired import sign_flips
from omma.retrieval.plan import Plan
from omma.retrieval.rules import by_rule
from omma.retrieval.tools import Sight

ALL = "all that it answers"


def read_questions(scenes: Path, most: int, pattern: str | None = None) -> list[dict]:
    """Items, of one pattern or all, with their picture under "image"."""
    rows = {row["id"]: row for row in omma.Table.open(scenes / "pictures").read(["id", "bytes"]).to_pylist()}
    items = omma.Table.open(scenes / "items").read(["task", "pattern", "pictures", "prompt", "options", "answer"])
    items = [item for item in items.to_pylist() if item["task"] == "ask" and pattern in (None, item["pattern"])]
    for item in items[:most]:
        item["image"] = decode(rows[item["pictures"][0]]["bytes"]).image
    return items[:most]


def kind_of(item: dict) -> str:
    return f"{item['pattern']} {'yes/no' if sorted(item['options']) == ['no', 'yes'] else 'free'}"


def interval(clusters: dict[str, list[float]], rounds: int = 2000) -> tuple[float, float]:
    """95 % of the mean of all values, when whole clusters are drawn again."""
    sums = np.array([sum(values) for values in clusters.values()])
    sizes = np.array([len(values) for values in clusters.values()])
    at = np.random.default_rng(0).integers(len(sums), size=(rounds, len(sums)))
    low, high = np.quantile(sums[at].sum(1) / sizes[at].sum(1), (0.025, 0.975))
    return float(low), float(high)


def answered(items: list[dict], tools: list[str], sight: Sight, vlm: Any) -> tuple[dict, dict[int, str], dict]:
    """What is answered with each tool alone to those questions that it answers, by their numbers; what without tools to
    all of these; CPU seconds of each tool a question, and "alone"."""
    found: dict[str, dict[int, str]] = {tool: {} for tool in tools}
    spent = dict.fromkeys([*tools, "alone"], 0.0)
    for n, item in enumerate(items):                      # a picture's questions follow each other and share a look
        for tool in tools:
            began = process_time()
            told = by_rule(item["prompt"], Plan(tool.split("+"), [item["image"]], lambda: sight))
            if told:
                look = told.picture and vlm.generate([told.picture], item["prompt"], max_new_tokens=12)
                found[tool][n] = look or told.text
            spent[tool] += process_time() - began
    some = sorted({n for told in found.values() for n in told})
    began, alone = process_time(), {}
    for _, numbers in itertools.groupby(some, key=lambda n: items[n]["pictures"][0]):
        same = list(numbers)
        said = vlm.ask([items[same[0]]["image"]], [items[n]["prompt"] for n in same], 12)
        alone |= dict(zip(same, said, strict=True))
    spent = {tool: value / max(1, len(found[tool])) for tool, value in spent.items() if tool in found}
    return found, alone, spent | {"alone": (process_time() - began) / max(1, len(some))}


def table(items: list[dict], found: dict[str, dict[int, str]], alone: dict[int, str], cost: dict[str, float],
          misses: int = 0) -> None:
    """Prints what `answered` gives: kinds of questions with each tool and without."""
    asked = Counter(kind_of(item) for item in items)
    print(f"{'tool':7} {'questions':20} {'asked':>6} {'answered':>9} {'alone':>6} {'with':>6}  difference (95 %)")
    for tool, told in found.items():
        groups = defaultdict(list)
        for n in told:
            groups[kind_of(items[n])].append(n)
        if not told:
            continue
        for name, numbers in [*sorted(groups.items()), (ALL, list(told))]:
            before, after = (np.array([words[n].casefold() == items[n]["answer"] for n in numbers], float)
                             for words in (alone, told))  # fmt: skip
            clusters = defaultdict(list)
            for n, value in zip(numbers, after - before, strict=True):
                clusters[items[n]["pictures"][0]].append(float(value))
            low, high = interval(clusters)
            gain, p = (after - before).mean(), sign_flips(np.array([sum(values) for values in clusters.values()]))
            print(f"{tool:7} {name:20} {asked.get(name, len(items)):6} {len(numbers):9} {100 * before.mean():6.1f} "
                  f"{100 * after.mean():6.1f}  {100 * gain:+.1f} ({100 * low:+.1f} to {100 * high:+.1f}), p {p:.4f}")
            if name == ALL:
                name = f"{tool}: points added to the {len(told)} questions that it answers, {cost[tool]:.3f} CPU s each"
                print(json.dumps({"name": name, "value": round(100 * gain, 1), "goal": 0, "ok": low > 0}))
        wrong = [n for n in told if told[n].casefold() != items[n]["answer"]]
        for n in wrong[:misses]:
            print(f"    {items[n]['prompt']}  tool {told[n]!r}  right {items[n]['answer']!r}  alone {alone[n]!r}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenes", type=Path)
    parser.add_argument("--vlm", default="vlm-nano")
    parser.add_argument("--encoder", default="vlmo-nano")
    parser.add_argument("--tools", default="count,detect,colour,crop")
    parser.add_argument("--pattern", help="questions of this one alone")
    parser.add_argument("--questions", type=int, default=2000)
    parser.add_argument("--misses", type=int, default=0, help="print so many wrong answers of each tool")
    options = parser.parse_args()
    torch.set_num_threads(1)
    items = read_questions(options.scenes, options.questions, options.pattern)
    vlm, sight = omma.load_vlm(options.vlm), Sight(omma.load_encoder(options.encoder))
    found, alone, cost = answered(items, options.tools.split(","), sight, vlm)
    print(f"{len(items)} questions; {options.vlm} alone {cost['alone']:.3f} CPU s each")
    table(items, found, alone, cost, options.misses)


if __name__ == "__main__":
    main()
