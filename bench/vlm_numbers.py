"""What the shipped VLM answers: questions about scenes it has not met, beside itself without the picture.

    omma scenes TEST/fresh --pictures 1500 --pairs 100 --size 112 --questions 12 --split-design fresh --split test
    omma scenes TEST/template --pictures 400 --pairs 20 --size 112 --questions 12 --split-design template --split test
    ...                                  # and so for every other design whose folder lies in TEST
    python bench/vlm_numbers.py vlm-nano TEST [--out numbers.json]

An answer counts when it is right word for word. blind: a grey picture in the place of each. majority: the most frequent
answer to the questions of a group.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import omma
from omma.eval.metrics import estimate
from omma.training.chat import read_questions
from omma.training.vlm_eval import answered, table_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("vlm")
    parser.add_argument("test", type=Path, help="folder of folders that omma scenes made; fresh is one of them")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    vlm = omma.load_vlm(args.vlm)
    numbers: dict[str, Any] = {}
    for folder in sorted(place for place in args.test.iterdir() if (place / "items").is_dir()):
        numbers[folder.name] = found = measured(vlm, folder)
        print(folder.name)
        for name, block in found.items():
            value, low, high = (100 * block["right"][k] for k in ("value", "low95", "high95"))
            print(f"  {name:24} {value:5.1f} ({low:.1f}-{high:.1f})  blind {100 * block['blind']:5.1f}  "
                  f"majority {100 * block['majority']:5.1f}  n {block['n']}")  # fmt: skip
    if args.out:
        args.out.write_text(json.dumps(numbers, indent=1) + "\n")
    fresh = numbers["fresh"]
    patterns = {name.split()[0] for name in fresh if " " in name}
    clear = [p for p in patterns if all(block["right"]["low99"] > block["blind"] for name, block in fresh.items()
                                        if name.split()[0] == p and block["n"] >= 50)]  # fmt: skip
    claims = [
        ("yes/no questions answered right", fresh["yes/no"]["right"]["value"], 0.8),
        ("free-form questions answered right", fresh["free"]["right"]["value"], 0.6),
        ("patterns above the blind share", len(clear), 7),
    ]
    for name, value, goal in claims:
        print(json.dumps({"name": name, "value": round(value, 4), "goal": goal, "ok": bool(value >= goal)}))


def measured(vlm: Any, folder: Path) -> dict[str, dict[str, Any]]:
    """Shares by group of questions, as `vlm_eval.table_of` gives them; the right one with its intervals."""
    asked = read_questions(omma.Table.open(folder / "items"), None)
    right, blind = (answered(vlm.model, vlm.processor, asked, blank) for blank in (False, True))
    found: dict[str, dict[str, Any]] = {}
    for name, block in table_of(asked, right, blind).items():
        found[name] = block | {"right": estimate(round(block["right"] * block["n"]), int(block["n"]))}
    return found


if __name__ == "__main__":
    main()
