"""Multiple choice: MMBench, MMMU, SEED-Bench, MathVista, Video-MME, TGIF-QA's actions, and any table of questions with
options; once as written, and in a circle (Liu et al. 2023, MMBench).

CIRCULAR asks every question in each rotation of its options and counts it where all of them are right, so that a model
with a favourite letter has none. Where the table holds rotations (MMBench's file does), these are asked; of other
questions they are made here. MMMU and MathVista have questions without options, whose answer is a number, a list or a
few words: CHOICE asks them, too, in the modes that have a rule for them (protocols.open_ended). In other modes, in a
circle and by first tokens they are counted, and not asked.

Modes: "strict" puts a hint before the question, the options with their letters, and asks for a letter, or for a number
or a word where there are none; "mmmu" and "mathvista" ask and read as these benchmarks' own evaluations do, the second
with the query that its file holds; "lmms-eval" and "vlmevalkit" ask and read as those do, the first MMMU and MathVista
alone, with replies of up to 1,024 tokens. VLMEvalKit gives MMMU's open questions two options, the answer and "Other
Answers", once they have been answered. Where a language model reads replies there, that of `--judge` does here, by
words of our own; without one, what the rules leave is unparsed. What it says that can't be read is no answer: such a
question is not scored, where MathVista's counts it as wrong and VLMEvalKit draws an option.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from omma.eval.asking import (
    BY_LETTER,
    ONE_WORD,
    Extracting,
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
OTHER = "Other Answers"
BENCHMARKS = ("mmbench", "mmmu", "seedbench", "mathvista", "choice", "video-mme", "tgif-qa")
WHERE = f"task in {list(BENCHMARKS)}"
COLUMNS = ("answers", "hint", "rotation", "task", "answer_type", "precision", "unit", "query")
MAKE = "omma ingest-items FILE OUT --format mmbench (docs/benchmarks.md)"


def hinted(item: Item, before: str = "") -> Item:
    """The item with its hint, if it has one, before the question."""
    hint = item.extra.get("hint")
    return replace(item, texts=(f"{before}{hint}\n{item.texts[0]}",)) if hint else item


def vlmevalkit_prompt(item: Item) -> str:
    """Of MathVista the query alone, which is the question in VLMEvalKit's file."""
    if item.extra.get("task") == "mathvista":
        return item.extra.get("query") or item.texts[0]
    hint = f"Hint: {item.extra['hint']}\n" if item.extra.get("hint") else ""
    if not item.options:
        return f"{hint}Question: {item.texts[0]}\n"
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


def lmms_eval_prompt(item: Item) -> str:
    """Of MMMU and of MathVista (its task mathvista_testmini_format)."""
    if item.extra.get("task") != "mathvista":
        words = f"\n{BY_LETTER if item.options else ONE_WORD}"
        return lettered(words)(item) if item.options else item.texts[0] + words
    asks = item.texts[0] + (f" (Unit: {item.extra['unit']})" if item.extra.get("unit") else "")
    if item.options:
        return lettered(BY_LETTER)(replace(item, texts=(asks,)))
    kind, places = wanted(item)
    decimals = {1: " with one decimal place", 2: " with two decimal places"}.get(places or 0, "")
    return asks + {"integer": "\nAnswer the question using a single integer number.",
                   "float": f"\nAnswer the question using a single floating-point number{decimals}.",
                   "list": "\nAnswer the question using a Python list."}.get(kind, "")  # fmt: skip


def reading(mode: str, prompt: Callable[[Item], str], max_new_tokens: int, **more: Any) -> Mode:
    """A mode that reads letters and free answers by the protocols' mode of one name."""
    letters = option_of(choice.parse, mode)

    def parse(said: str, item: Item) -> Parsed:
        return letters(said, item) if item.options else open_ended.parse(said, wanted(item)[0], mode)

    def earn(value: str, item: Item) -> float:
        if item.options:
            return float(value == item.answer)
        return float(open_ended.right(value, item.answers or (item.answer,), *wanted(item), mode))

    return Mode(prompt=prompt, parse=parse, earn=earn, max_new_tokens=max_new_tokens, letters="A", protocol=mode,
                **more)  # fmt: skip


# ------------------------------------------------------------------------------------------------ read by a judge
def as_mathvista(words: str, item: Item) -> Parsed | None:
    """What MathVista's evaluation makes of an extracted answer: the nearest option, or the words, if a number where
    one is asked for."""
    if item.options:
        letter = choice.nearest(words, dict(zip(choice.LETTERS, item.options, strict=False)))
        return Parsed(item.options[choice.LETTERS.index(letter)], "a judge") if words else None
    kind, places = wanted(item)
    return Parsed(words, "a judge") if words and open_ended.is_form(words, kind, places) else None


def bare(read: Parsed, said: str, item: Item) -> bool:
    """Of MathVista: a reply that is an option or the number that is asked for goes to no judge, nor does an empty one;
    what stands in quotes does."""
    return read.rule in ("an option", "a bare number") or not said.strip()


def listed_answer(item: Item) -> str:
    """The answer as the benchmark's file writes it: several as a list of Python's, which the kits take for one text."""
    return str(list(item.answers)) if len(item.answers) > 1 else item.answer


def in_lmms_eval(said: str, item: Item) -> Parsed:
    if item.extra.get("task") == "mathvista":
        return MODES["mathvista"].parse(said.strip(), item)
    if item.options:
        return option_of(choice.parse, choice.LMMS)(said, item)
    return open_ended.parse(said, mode=open_ended.MMMU)


def earned_in_lmms_eval(value: str, item: Item) -> float:
    if item.options or item.extra.get("task") == "mathvista":
        return MODES["mathvista"].earn(value, item)
    return float(open_ended.right(value, (listed_answer(item),), mode=open_ended.MMMU))


def with_other(item: Item) -> Item:
    """An open question of MMMU as VLMEvalKit judges it: with two options, the answer and "Other Answers"."""
    if item.options or item.extra.get("task") != "mmmu":
        return item
    return replace(item, options=(listed_answer(item), OTHER))


def in_vlmevalkit(said: str, item: Item) -> Parsed:
    item = with_other(item)
    if item.options:
        return option_of(choice.parse, choice.VLMEVALKIT)(said, item)
    return open_ended.parse(said, wanted(item)[0], open_ended.VLMEVALKIT)


def earned_in_vlmevalkit(value: str, item: Item) -> float:
    if item.options:
        return float(value == item.answer)
    if item.extra.get("task") == "mmmu":  # an answer that is a letter is taken for the letter of an option
        answer = listed_answer(item)
        return float(("B" if value == OTHER else "A") == (answer if answer in choice.LETTERS else "A"))
    return float(open_ended.right(value, item.answers or (item.answer,), *wanted(item), open_ended.VLMEVALKIT))


def settled_in_vlmevalkit(read: Parsed, said: str, item: Item) -> bool:
    """What its rules find of a letter or an option, a refusal too; of a number only the right one, and 0 is none."""
    if with_other(item).options:
        return read.value is not None or read == choice.REFUSED
    return read.value is not None and earned_in_vlmevalkit(read.value, item) == 1 and float(read.value) != 0


def from_judge_in_vlmevalkit(words: str, item: Item) -> Parsed | None:
    read = in_vlmevalkit(words, item)
    return read if read.value is not None or read == choice.REFUSED else None


def shown_to_judge(item: Item, prompt: str) -> str:
    other = with_other(item)
    return prompt if other is item else vlmevalkit_prompt(other)


MODES = {
    "strict": reading(STRICT, strict_prompt, 16),
    "mmmu": reading(open_ended.MMMU, mmmu_prompt, 128),
    "mathvista": reading(open_ended.MATHVISTA, mathvista_prompt, 512,
                         extracting=Extracting(settled=bare, read=as_mathvista)),
    "lmms-eval": Mode(prompt=lmms_eval_prompt, parse=in_lmms_eval, earn=earned_in_lmms_eval, max_new_tokens=1024,
                      letters="A", protocol=choice.LMMS,
                      extracting=Extracting(settled=lambda read, said, item: item.extra.get("task") != "mathvista"
                                            or bare(read, said, item), read=as_mathvista)),
    "vlmevalkit": Mode(prompt=vlmevalkit_prompt, parse=in_vlmevalkit, earn=earned_in_vlmevalkit, max_new_tokens=512,
                       letters="A", protocol=choice.VLMEVALKIT,
                       extracting=Extracting(settled=settled_in_vlmevalkit, read=from_judge_in_vlmevalkit,
                                             question=shown_to_judge)),
}  # fmt: skip


def items(rows: list[dict]) -> list[Item]:
    """Rows -> items; one without options is no multiple choice, but for those of MMMU and MathVista."""
    return [
        item if item.options or item.problem or item.extra.get("task") in OPEN else replace(item, problem="no_options")
        for item in question_items(rows, COLUMNS)
    ]


def score(mode: Mode, items: list[Item], view: Any) -> list[Answer]:
    """asking.answers_of; of questions without options no more than their problem where they can't be asked, and of
    questions of a benchmark that a mode has no way for."""

    def problem(item: Item) -> str:
        if mode.protocol == choice.LMMS and item.extra.get("task") not in OPEN:
            return "not_in_this_mode"
        return "" if item.options or view.kind == "generate" else "no_options"

    problems = [problem(item) for item in items]
    found = iter(answers_of(mode, [item for item, why in zip(items, problems, strict=True) if not why], view))
    return [Answer((), None, (0.0, 0.0), None, problem=why) if why else next(found) for why in problems]


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
    modes={name: mode for name, mode in MODES.items() if mode.protocol != choice.LMMS},
    items=circle,
    metrics=circular,
    kinds=("generate", "first_token"),
    headline="circular",
    title="multiple choice in a circle",
    flip=mirrored,
    columns=COLUMNS,
)
