"""Multiple choice: MMBench, MMMU, SEED-Bench, MathVista, Video-MME, TGIF-QA's actions, and any table of questions with
options; once as written, and in a circle (Liu et al. 2023, MMBench).

CIRCULAR asks every question in each rotation of its options and counts it where all of them are right, so that a model
with a favourite letter has none. Where the table holds rotations (MMBench's file does), these are asked; of other
questions they are made here. MMMU and MathVista have questions without options, whose answer is a number, a list or a
few words: CHOICE asks them, too, in the modes that have a rule for them (protocols.open_ended). In other modes, in a
circle and by first tokens they are counted, and not asked.

Modes: "strict" puts a hint before the question, the options with their letters, and asks for a letter, or for a number
or a word where there are none; "mmmu" and "mathvista" ask and read as these benchmarks' own evaluations do, the second
with the query that its file holds, and without the language model that reads replies there; "vlmevalkit" asks and reads
as that does, without the language model that judges there what its rules could not read.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from omma.eval.asking import (
    BY_LETTER,
    ONE_WORD,
    Mode,
    accuracy,
    answers_of,
    asked,
    block,
    lettered,
    mirrored,
    option_of,
    question_items,
)
from omma.eval.protocols import choice, open_ended
from omma.eval.protocols.outcome import STRICT, Parsed
from omma.eval.task import Answer, Item

OPEN = ("mmmu", "mathvista")  # those with questions without options
BENCHMARKS = ("mmbench", "mmmu", "seedbench", "mathvista", "choice", "video-mme", "tgif-qa")
WHERE = f"task in {list(BENCHMARKS)}"
COLUMNS = ("answers", "hint", "rotation", "task", "answer_type", "precision", "unit", "query")
MAKE = "omma ingest-items FILE OUT --format mmbench (docs/benchmarks.md)"


def hinted(item: Item, before: str = "") -> Item:
    """The item with its hint, if it has one, before the question."""
    hint = item.extra.get("hint")
    return replace(item, texts=(f"{before}{hint}\n{item.texts[0]}",)) if hint else item


def vlmevalkit_prompt(item: Item) -> str:
    hint = f"Hint: {item.extra['hint']}\n" if item.extra.get("hint") else ""
    asks = lettered("\nPlease select the correct answer from the options above. \n", before="\nOptions:\n")
    return f"{hint}Question: {asks(item)}"


# ------------------------------------------------------------------------------------------------ without options
def wanted(item: Item) -> tuple[str, int | None]:
    """(what the answer to a question without options is, of open_ended.KINDS; how many decimals count, None where the
    benchmark doesn't say)."""
    places = item.extra.get("precision")
    return (open_ended.kind_of(item.answers or (item.answer,), item.extra.get("answer_type")),
            round(float(places)) if places else None)  # fmt: skip


def strict_prompt(item: Item) -> str:
    if item.options:
        return lettered(BY_LETTER)(hinted(item))
    unit = f" (unit: {item.extra['unit']})" if item.extra.get("unit") else ""
    kind, places = wanted(item)
    words = {"integer": "\nAnswer with a whole number.", "list": "\nAnswer with a list of numbers in square brackets."}
    if kind == "float" and places:
        words["float"] = f"\nAnswer with a number with {places} decimal place{'s' if places > 1 else ''}."
    return hinted(item).texts[0] + unit + words.get(kind, ONE_WORD)


def mmmu_prompt(item: Item) -> str:
    return lettered(f"\n{BY_LETTER}", option="({letter}) {text}")(item) if item.options else item.texts[0] + ONE_WORD


def mathvista_prompt(item: Item) -> str:
    """The query that MathVista's file has for a question; for a table without queries as in the mode strict."""
    return item.extra.get("query") or strict_prompt(item)


def reading(mode: str, prompt: Callable[[Item], str], max_new_tokens: int) -> Mode:
    """A mode that reads letters and free answers by the protocols' mode of one name."""
    letters = option_of(choice.parse, mode)

    def parse(said: str, item: Item) -> Parsed:
        return letters(said, item) if item.options else open_ended.parse(said, wanted(item)[0], mode)

    def earn(value: str, item: Item) -> float:
        if item.options:
            return float(value == item.answer)
        return float(open_ended.right(value, item.answers or (item.answer,), *wanted(item), mode))

    return Mode(prompt=prompt, parse=parse, earn=earn, max_new_tokens=max_new_tokens, letters="A", protocol=mode)


MODES = {
    "strict": reading(STRICT, strict_prompt, 16),
    "mmmu": reading(open_ended.MMMU, mmmu_prompt, 128),
    "mathvista": reading(open_ended.MATHVISTA, mathvista_prompt, 512),
    "vlmevalkit": Mode(prompt=vlmevalkit_prompt, parse=option_of(choice.parse, choice.VLMEVALKIT), max_new_tokens=512,
                       letters="A", protocol=choice.VLMEVALKIT),
}  # fmt: skip


def items(rows: list[dict]) -> list[Item]:
    """Rows -> items; one without options is no multiple choice, but for those of MMMU and MathVista."""
    return [
        item if item.options or item.problem or item.extra.get("task") in OPEN else replace(item, problem="no_options")
        for item in question_items(rows, COLUMNS)
    ]


def score(mode: Mode, items: list[Item], view: Any) -> list[Answer]:
    """asking.answers_of; of questions without options no more than their problem where they can't be asked."""
    free = view.kind == "generate" and mode.protocol in open_ended.MODES
    found = iter(answers_of(mode, [item for item in items if item.options or free], view))
    left_out = Answer((), None, (0.0, 0.0), None, problem="no_options")
    return [next(found) if item.options or free else left_out for item in items]


def metrics(rows: list[dict], mode: Mode) -> dict:
    """asking.accuracy; and of tables with both kinds of questions, of each kind: with options, and open."""
    kinds = {"with_options": [row for row in rows if row["credits"][1]],
             "open": [row for row in rows if not row["credits"][1]]}  # fmt: skip
    found = accuracy(rows, mode)
    if all(kinds.values()):
        return {name: value for name, value in found.items() if name != "patterns"} | {
            name: {"accuracy": block(some)["accuracy"], "unparsed": block(some)["unparsed"]}
            for name, some in kinds.items()
        } | {"patterns": found["patterns"]}  # fmt: skip
    return found


def circle(rows: list[dict]) -> list[Item]:
    """Rows -> an item for each rotation of each question's options, grouped by question."""
    found = [item if item.options or item.problem else replace(item, problem="no_options") for item in items(rows)]
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
    about="multiple choice as written, and MMMU's and MathVista's open questions: MMBench, SEED-Bench and the like",
    where=WHERE,
    make=MAKE,
    modes=MODES,
    items=items,
    score=score,
    metrics=metrics,
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
