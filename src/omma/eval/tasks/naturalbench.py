"""NaturalBench: two pictures and two questions, each with another answer on each picture (Li et al. 2024).

Who ignores the picture answers a question alike on both, and has none of its questions, pictures or blocks. The
questions end as published: "Please answer Yes or No.", or a request for the letter of an option.
"""

import re
from dataclasses import replace

import numpy as np

from omma.eval.asking import Mode, accuracy, asked
from omma.eval.clusters import clustered
from omma.eval.metrics import estimate
from omma.eval.protocols import hard_negatives
from omma.eval.protocols.outcome import STRICT, Parsed
from omma.eval.task import Item, with_patterns

PLACE = re.compile(r"q([01])-i([01])$")  # of an item's id: which question, which picture


def prompt(item: Item) -> str:
    closed = {option.lower() for option in item.options} == {"yes", "no"}
    words = "Please answer Yes or No." if closed else "Please output the letter corresponding to the correct option."
    return f"{item.texts[0]} {words}"


def reader(mode: str) -> Mode:
    def parse(said: str, item: Item) -> Parsed:
        return hard_negatives.parse_naturalbench(said, (item.options[0], item.options[1]), mode)

    return Mode(prompt=prompt, parse=parse, protocol=mode)


def metrics(rows: list[dict], mode: Mode) -> dict:
    """group (all four of a block), question, image, accuracy and unparsed; see protocols.hard_negatives.naturalbench.
    A block of which a question could not be scored doesn't count: `torn`."""
    return with_patterns(rows, lambda some: blocks(some) | accuracy(some, mode))


def blocks(rows: list[dict]) -> dict:
    right: dict[str, dict[tuple[int, int], bool]] = {}
    for row in rows:
        if place := PLACE.search(row["item"]):
            right.setdefault(row["group"], {})[int(place[1]), int(place[2])] = row["credits"][0] == 1
    whole = [[[flags[q, k] for k in (0, 1)] for q in (0, 1)] for flags in right.values() if len(flags) == 4]
    if not whole:
        return {"group": estimate(0, 0, 1 / 16), "torn": len(right)}
    flags, blocks_of = np.array(whole), [str(block) for block in range(len(whole)) for _ in (0, 1)]
    return {
        "group": hard_negatives.naturalbench(flags)["group"],
        "question": clustered(flags.all(axis=2).ravel(), blocks_of, 1 / 4),
        "image": clustered(flags.all(axis=1).ravel(), blocks_of, 1 / 4),
        "torn": len(right) - len(whole),
    }


NATURALBENCH = asked(
    about="two pictures and two questions with other answers on each: all four must be right (NaturalBench)",
    where="task == 'naturalbench'",
    make="omma ingest-items FOLDER OUT --format naturalbench (docs/benchmarks.md)",
    modes={
        "strict": reader(STRICT),
        "lmms-eval": reader(hard_negatives.LMMS),
        "vlmevalkit": replace(reader(hard_negatives.LMMS), max_new_tokens=512),  # it reads replies by the same code
    },
    metrics=metrics,
    kinds=("generate", "first_token"),
    headline="group",
    title="NaturalBench",
    indifferent=0.0,
)
