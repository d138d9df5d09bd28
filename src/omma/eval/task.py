"""What a task is: items to ask about, a way to score them, and the numbers that follow from the answers.

A task is a value in the dict omma.eval.run.TASKS; docs/add-a-task.md adds one in thirty lines.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from omma.eval.metrics import order_key

VARIANTS = ("model", "blind", "wrong-image")
SWAPPED, MIRRORED = "option-swap", "image-flip"  # further controls, of tasks that allow them
METHODS = {"itc": "encode_image", "itm": "match", "answer": "answer", "compare": "compare", "classify": "classify",
           "segment": "segment", "caption": "caption", "generate": "generate_batch",
           "first_token": "first_token"}  # score kind -> the model's method  # fmt: skip
IN_WORDS = {"generate", "first_token"}  # what a VLM has
GREY = "\x00grey"  # the id of the one mid-grey picture of the blind control; no table can hold it by accident


@dataclass(frozen=True)
class Item:
    """One question about pictures (ids). `problem` says why it can't be asked; it is then counted, not scored."""

    id: str
    group: str
    pattern: str
    pictures: tuple[str, ...]
    texts: tuple[str, ...]
    answer: str
    problem: str = ""
    answers: tuple[str, ...] = ()  # of several people, where there are
    options: tuple[str, ...] = ()  # what may be answered, where it is known; `answer` is one of them
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)  # the table's columns in Task.columns


@dataclass(frozen=True)
class Answer:
    """What the model made of one item.

    scores: its numbers, in the order the task documents. prediction: in words. credits: what the item earns, 0..1, one
    number for each name in Task.credits. correct: None when a tie leaves it open. top: what a search ranked first.
    Of a model that answers in words: prompt, what it was asked; said, its reply as it came; rule, how that was read;
    prediction is None, and correct too, when it could not be read (unparsed). problem: why there is no answer.
    graded, grader: what a judge said of it, and how the judge's server calls itself.
    """

    scores: Sequence[float]
    prediction: str | None
    credits: Sequence[float]
    correct: bool | None
    top: Sequence[str] = ()
    prompt: str | None = None
    said: str | None = None
    rule: str | None = None
    problem: str = ""
    graded: str | None = None
    grader: str | None = None


@dataclass(frozen=True)
class Grid:
    """A table to print: cells are text, `note` says how to read it."""

    title: str
    header: list[str]
    rows: list[list[str]]
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Task:
    """A benchmark as four functions.

    about: one line on what it asks. table: which table it reads; where: which rows of it; make: a command that makes
    such a table. kinds: score kinds it can use ("itc": inner product of the two embeddings; "itm": probability of
    encoder.match; "answer", "compare", "classify", "segment", "caption": what the encoder's method of this name gives;
    "generate", "first_token": what a VLM says, and how likely it begins with each option); those that the model has are
    used. columns: of the table beside the usual ones, where it has them.
    items(rows): table rows (dicts) -> items. score(items, view): one Answer an item, `view` is a scorer.View.
    metrics(rows): result rows (dicts with the columns of rows.parquet) of one variant and kind -> nested dict whose
    leaves of interest are made by metrics.estimate. tables(kind, by_variant) -> grids to print.
    credits: names of the numbers in Answer.credits. headline: for each kind, the path of the metric to show first.
    texts: what every item is judged by, beside its own texts. made_for(table, **options): the task with what a run asks
    for, of the options named in `takes` ("label", "templates", "reference", "judge", "judge_prompt").
    indifferent: the headline of a model that scores everything alike, by the rule for ties; None: its chance.
    modes: how it is asked and read, by name (asking.Mode), and which one this task is made for; judge: the
    protocols.judge.Judging of this one, where replies are graded by a language model. swaps: it has the
    control option-swap, for items with options. flip(item): the answer when the picture is mirrored, None when that
    is not known; with it there is the control image-flip.
    """

    about: str
    table: Literal["pictures", "items"]
    where: str | None
    make: str
    kinds: tuple[str, ...]
    credits: tuple[str, ...]
    headline: dict[str, str]
    indifferent: float | None = None
    items: Callable[[list[dict]], list[Item]]
    score: Callable[[list[Item], Any], list[Answer]]
    metrics: Callable[[list[dict]], dict]
    tables: Callable[[str, dict[str, dict]], list[Grid]]
    columns: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    made_for: "Callable[..., Task] | None" = None
    takes: tuple[str, ...] = ()
    modes: Mapping[str, Any] = field(default_factory=dict)
    mode: str = ""
    judge: Any = None
    swaps: bool = False
    flip: Callable[[Item], str | None] | None = None


def sample(rows: list[dict], limit: int | None, seed: int) -> list[dict]:
    """At most `limit` rows, whole groups only, taken in turn from every pattern in a seeded order.

    The order depends on names, not on places in the table, so a larger limit adds to a smaller one's rows. At least one
    group is kept. Raises ValueError when limit is not positive.
    """
    if limit is None:
        return rows
    if limit < 1:
        raise ValueError(f"limit={limit}; give the number of rows to keep, or None for all")
    groups: dict[tuple[str, str], list[int]] = {}
    for number, row in enumerate(rows):
        groups.setdefault((row.get("pattern") or "", group_of(row)), []).append(number)
    strata: dict[str, list[list[int]]] = {}
    for pattern, name in sorted(groups, key=lambda key: order_key(seed, "\x00".join(key))):
        strata.setdefault(pattern, []).append(groups[pattern, name])
    queues, kept = [strata[name] for name in sorted(strata)], []
    for turn in range(max(map(len, queues), default=0)):
        for queue in queues:
            if turn < len(queue):
                if kept and len(kept) + len(queue[turn]) > limit:
                    return [rows[number] for number in sorted(kept)]
                kept += queue[turn]
    return [rows[number] for number in sorted(kept)]


def group_of(row: dict) -> str:
    """The group of a table row; rows without one stand with the rows about the same pictures, or alone."""
    if row.get("group"):
        return row["group"]
    return "|".join(row["pictures"]) if row.get("pictures") else row["id"]


def judged_items(rows: list[dict], unfit: Callable[[tuple[str, ...]], str]) -> list[Item]:
    """Rows that ask whether the prompt is true of their pictures -> items. unfit(pictures): why so many can't be judged
    together, or ""; a row whose answer is neither true nor false can't be scored either."""
    found = []
    for row in rows:
        pictures, answer = tuple(row["pictures"] or ()), row["answer"] or ""
        problem = "" if answer in ("true", "false") else "no_true_or_false_answer"
        problem = "no_statement" if not row["prompt"] else unfit(pictures) or problem
        found.append(
            Item(row["id"], group_of(row), row["pattern"] or "", pictures, (row["prompt"] or "",), answer, problem)
        )
    return found


def with_patterns(rows: list[dict], block: Callable[[list[dict]], dict]) -> dict:
    """block of all result rows, and under "patterns" of those of each pattern."""
    names = sorted({row["pattern"] for row in rows if row["pattern"]})
    return block(rows) | {"patterns": {name: block([row for row in rows if row["pattern"] == name]) for name in names}}


def derangement(items: Iterable[Item], seed: int) -> dict[str, str]:
    """{picture: another picture}, a seeded one-to-one exchange between groups; {} when there is only one group.

    Groups are put into a seeded circle and pictures move on by the size of the largest group, so each lands in another
    group. Within a group the pictures stand in a seeded order of their own: a benchmark whose first picture has mostly
    the first answer must not get that answer back from a stranger. A picture of several groups counts to one of them:
    that of the item with the fewest pictures, then the first by name.
    """
    groups: dict[str, list[str]] = {}
    taken: set[str] = set()
    for item in sorted(items, key=lambda item: (len(item.pictures), item.group, item.id)):
        fresh = [p for p in dict.fromkeys(item.pictures) if p not in taken]
        taken.update(fresh)
        groups.setdefault(item.group, []).extend(fresh)
    names = sorted((name for name in groups if groups[name]), key=lambda name: order_key(seed, name))
    circle = [p for name in names for p in sorted(groups[name], key=lambda p: order_key(seed, f"{name}\x00{p}"))]
    step = max((len(groups[name]) for name in names), default=0)
    if len(circle) < 2 * step:
        return {}
    return dict(zip(circle, circle[step:] + circle[:step], strict=True))


# ------------------------------------------------------------------------------------------------ printing
def percent(cell: dict | None) -> str:
    """A share as text: 61.3, or a dash where nothing was measured."""
    value = None if cell is None else cell.get("value")
    return "–" if value is None else f"{100 * value:.1f}"


def interval(cell: dict, level: int = 95) -> str:
    if cell[f"low{level}"] is None:
        return "–"
    return f"{100 * cell[f'low{level}']:.1f} – {100 * cell[f'high{level}']:.1f}"


def cells(metrics: dict, path: str = "") -> dict[str, dict]:
    """{dotted path: estimate} for every estimate in a nested dict, in order."""
    found = {}
    for name, value in metrics.items():
        if isinstance(value, dict):
            here = f"{path}.{name}" if path else name
            found |= {here: value} if "value" in value and "low95" in value else cells(value, here)
    return found


def plain_tables(title: str) -> Callable[[str, dict[str, dict]], list[Grid]]:
    """Tables for a task that wants no layout of its own: a line for each estimate with the controls beside it, and a
    line for each of the metrics' "patterns"."""

    def tables(kind: str, by_variant: dict[str, dict]) -> list[Grid]:
        model, blind, wrong = ({k: v for k, v in by_variant[name].items() if k != "patterns"} for name in VARIANTS)
        controls = cells(blind), cells(wrong)
        rows = [
            [
                *(path, percent(cell), interval(cell), *(percent(control.get(path)) for control in controls)),
                *(f"{100 * cell['chance']:.1f}" if "chance" in cell else "–", str(cell["n"])),
            ]
            for path, cell in cells(model).items()
        ]
        header = ["", "model", "95 % interval", "blind", "wrong image", "chance", "n"]
        grids = [Grid(f"{title} ({kind})", header, rows, "Shares in per cent; chance is of independent guesses.")]
        patterns = by_variant["model"].get("patterns", {})
        if patterns:
            names = list(cells(next(iter(patterns.values()))))
            lines = [
                [pattern, *(f"{percent(cells(block)[name])}  ({interval(cells(block)[name])})" for name in names)]
                for pattern, block in patterns.items()
            ]
            note = "In brackets the 95 % interval."
            grids.append(Grid(f"{title} by pattern ({kind})", ["pattern", *names], lines, note))
        return grids

    return tables


def finite(values: np.ndarray) -> np.ndarray:
    """(n, ...) -> (n,) whether every number of a row is finite."""
    return np.array([bool(np.isfinite(row).all()) for row in values], dtype=bool)
