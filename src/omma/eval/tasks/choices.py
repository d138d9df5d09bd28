"""Multiple choice: MMBench, MMMU, SEED-Bench, MathVista, Video-MME, TGIF-QA's actions, and any table of questions with
options; once as written, and in a circle (Liu et al. 2023, MMBench).

CIRCULAR asks every question in each rotation of its options and counts it where all of them are right, so that a model
with a favourite letter has none. Where the table holds rotations (MMBench's file does), these are asked; of other
questions they are made here. A question without options is counted, and not asked: it is no multiple choice.

Modes: "strict" puts a hint before the question, the options with their letters, and asks for a letter; "vlmevalkit"
asks and reads as that does, without the language model that judges there what its rules could not read.
"""

from collections import Counter
from dataclasses import replace

from omma.eval.asking import BY_LETTER, Mode, accuracy, asked, lettered, mirrored, option_of, question_items
from omma.eval.protocols import choice
from omma.eval.task import Item

BENCHMARKS = ("mmbench", "mmmu", "seedbench", "mathvista", "choice", "video-mme", "tgif-qa")
WHERE = f"task in {list(BENCHMARKS)}"
COLUMNS = ("answers", "hint", "rotation")
MAKE = "omma ingest-items FILE OUT --format mmbench (docs/benchmarks.md)"


def hinted(item: Item, before: str = "") -> Item:
    """The item with its hint, if it has one, before the question."""
    hint = item.extra.get("hint")
    return replace(item, texts=(f"{before}{hint}\n{item.texts[0]}",)) if hint else item


def vlmevalkit_prompt(item: Item) -> str:
    hint = f"Hint: {item.extra['hint']}\n" if item.extra.get("hint") else ""
    asks = lettered("\nPlease select the correct answer from the options above. \n", before="\nOptions:\n")
    return f"{hint}Question: {asks(item)}"


MODES = {
    "strict": Mode(prompt=lambda item: lettered(BY_LETTER)(hinted(item)), parse=option_of(choice.parse)),
    "vlmevalkit": Mode(prompt=vlmevalkit_prompt, parse=option_of(choice.parse, choice.VLMEVALKIT), max_new_tokens=512),
}


def items(rows: list[dict]) -> list[Item]:
    """Rows -> items; one without options is no multiple choice."""
    return [
        item if item.options or item.problem else replace(item, problem="no_options")
        for item in question_items(rows, COLUMNS)
    ]


def circle(rows: list[dict]) -> list[Item]:
    """Rows -> an item for each rotation of each question's options, grouped by question."""
    found = items(rows)
    moved = {item.group for item in found if (item.extra.get("rotation") or "0") != "0"}
    out = []
    for item in found:
        if item.group in moved or not item.options:
            out.append(item)
            continue
        for start, order in enumerate(choice.rotations(item.options)):
            options = tuple(item.options[place] for place in order)
            out.append(replace(item, id=f"{item.id}~{start}", group=item.id, options=options))
    return out


def rotation_of(row: dict) -> int:
    """The place of a result row in its circle: what stands behind the ~, else its index in millions."""
    name, _, start = row["item"].rpartition("~")
    return int(start) if name and start.isdigit() else int(row["item"]) if row["item"].isdigit() else 0


def circular(rows: list[dict], mode: Mode) -> dict:
    """circular: questions right in all rotations; vanilla: in the first; rotations: single ones; see choice.circular.

    A question of which a rotation could not be scored doesn't count, and is told: `torn`.
    """
    groups: dict[str, list[dict]] = {}
    for row in sorted(rows, key=rotation_of):
        groups.setdefault(row["group"], []).append(row)
    sizes = {group: round(1 / row["credits"][1]) for group, (row, *_) in groups.items() if row["credits"][1]}
    most = Counter(len(some) for some in groups.values())
    whole = {group: [row["credits"][0] == 1 for row in some] for group, some in groups.items()
             if len(some) == sizes.get(group) or len(most) == 1}  # fmt: skip
    return choice.circular(whole, sizes) | {"torn": len(groups) - len(whole)} | accuracy(rows, mode)


CHOICE = asked(
    about="multiple choice as written: MMBench, MMMU, SEED-Bench, MathVista, Video-MME and the like",
    where=WHERE,
    make=MAKE,
    modes=MODES,
    items=items,
    kinds=("generate", "first_token"),
    title="multiple choice",
    swaps=True,
    flip=mirrored,
    columns=COLUMNS,
)
CIRCULAR = asked(
    about="multiple choice in a circle: a question counts when it is right in every rotation of its options",
    where=WHERE,
    make=MAKE,
    modes=MODES,
    items=circle,
    metrics=circular,
    kinds=("generate", "first_token"),
    headline="circular",
    title="multiple choice in a circle",
    flip=mirrored,
    columns=COLUMNS,
)
