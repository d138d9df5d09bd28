"""A benchmark that asks in words: how a question is put, how a reply is read, and what it earns, by named modes.

    POPE = asked(about="...", where="task == 'pope'", make="...", modes={"strict": Mode(parse=reply_of(pope.parse))})

One file in tasks/ with one such value is a benchmark. The rows of its items table have the question alone as prompt,
the texts of the options (["yes", "no"] too; null where anything may be said), and the text of the right one as answer.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, NamedTuple

from omma.eval.clusters import clustered, joined
from omma.eval.protocols import exact, short
from omma.eval.protocols.choice import LETTERS
from omma.eval.protocols.judge import EXTRACTION, NOTHING, Extraction, Judging
from omma.eval.protocols.outcome import STRICT, UNPARSED, Parsed
from omma.eval.replies import Reply
from omma.eval.task import VARIANTS, Answer, Grid, Item, Task, cells, group_of, interval, percent, plain_tables
from omma.eval.task import with_patterns as by_pattern

CLOSED = ({"yes", "no"}, {"true", "false"})  # what is said as a word, and not by a letter
ONE_WORD = "\nAnswer the question using a single word or phrase."  # of LLaVA-1.5, lmms-eval and VLMEvalKit
BY_LETTER = "\nAnswer with the option's letter from the given choices directly."
MIRROR = {"left": "right", "right": "left", "leftmost": "rightmost", "rightmost": "leftmost"}
READ = {"word", "words", "text", "letter", "letters", "read", "reads", "say", "says", "saying", "written", "sign",
        "logo", "number", "digit", "clock", "time", "label", "brand", "clockwise", "counterclockwise"}  # fmt: skip


def as_it_stands(item: Item) -> str:
    """The question, and no more."""
    return item.texts[0]


def ending(words: str) -> Callable[[Item], str]:
    """The question and then these words."""
    return lambda item: item.texts[0] + words


def lettered(words: str = BY_LETTER, option: str = "{letter}. {text}", before: str = "\n") -> Callable[[Item], str]:
    """The question, its options with their letters, one a line, and then these words."""

    def prompt(item: Item) -> str:
        lines = [option.format(letter=letter, text=text) for letter, text in zip(LETTERS, item.options, strict=False)]
        return item.texts[0] + before + "\n".join(lines) + words

    return prompt


def reply_of(parse: Callable[..., Parsed], mode: str = STRICT) -> Callable[[str, Item], Parsed]:
    """A parser of protocols/ that reads a reply alone, in one of its modes."""
    return lambda said, item: parse(said, mode=mode)


def option_of(parse: Callable[..., Parsed], mode: str = STRICT) -> Callable[[str, Item], Parsed]:
    """A parser of protocols/ that finds a letter among options, which becomes the option's text."""

    def read(said: str, item: Item) -> Parsed:
        found = parse(said, item.options, mode=mode)
        if found.value is None:
            return found
        place = LETTERS.index(found.value)
        return Parsed(item.options[place], found.rule) if place < len(item.options) else UNPARSED

    return read


def short_answer(said: str, item: Item) -> Parsed:
    """protocols.short: yes or no, one of the options, or the first line."""
    return short.parse(said, item.answer, item.options)


def equal(value: str, item: Item) -> float:
    """1 for the right answer (or one of those of several people), without case, punctuation and articles."""
    said = exact.parse(value).value
    return float(any(said == exact.parse(known).value for known in (item.answer, *item.answers)))


@dataclass(frozen=True, kw_only=True)
class Extracting:
    """A language model that says which answer a reply gives, where a mode's rules don't settle it.

    told: its words, to which go the prompt as `question` and the reply. settled(what the rules read, reply, item):
    whether that stands without it. read(its words, item): what they mean, None for words that are no answer at all.
    """

    settled: Callable[[Parsed, str, Item], bool]
    read: Callable[[str, Item], Parsed | None]
    told: Extraction = EXTRACTION
    question: Callable[[Item, str], str] = lambda item, prompt: prompt


@dataclass(frozen=True, kw_only=True)
class Mode:
    """How one tool asks, reads and counts.

    prompt(item): what the model is asked. parse(reply, item): what was meant; None is unparsed and earns nothing.
    earn(value, item): 0..1. max_new_tokens: of a reply. letters: which letters stand before the options in the prompt,
    "A" or "a" and so on; "" for none.
    protocol: the name of the mode in protocols/, for the metrics. judge: a language model grades the reply instead of
    parse and earn; judged_by(item, its prompt): what to tell it, the fields of Judging.template. extracting: one that
    reads what parse could not, in a run that names a judge; without one the rules stand alone.
    """

    prompt: Callable[[Item], str] = as_it_stands
    parse: Callable[[str, Item], Parsed] = short_answer
    earn: Callable[[str, Item], float] = equal
    max_new_tokens: int = 16
    letters: Literal["", "A", "a"] = ""
    protocol: str = STRICT
    judge: Judging | None = None
    extracting: Extracting | None = None
    judged_by: Callable[[Item, str], dict[str, str]] = lambda item, prompt: {
        "question": item.texts[0], "answer": item.answer}  # fmt: skip

    def spellings(self, item: Item) -> tuple[tuple[str, ...], ...]:
        """How a reply that means an option may begin, for each option of an item: with its letter where the prompt has
        letters, else with its words; yes, no, true and false small or capitalised."""
        if self.letters:
            letters = LETTERS if self.letters == "A" else LETTERS.lower()
            words = [(letter,) for letter, _ in zip(letters, item.options, strict=False)]
        elif {option.lower() for option in item.options} in CLOSED:
            words = [(option.lower(), option.capitalize()) for option in item.options]
        else:
            words = [(option,) for option in item.options]
        return tuple((*spelled, *(f" {word}" for word in spelled)) for spelled in words)


def asked(
    *,
    about: str,
    where: str,
    make: str,
    modes: Mapping[str, Mode],
    items: Callable[[list[dict]], list[Item]] | None = None,
    score: Callable[[Mode, list[Item], Any], list[Answer]] | None = None,
    metrics: Callable[[list[dict], Mode], dict] | None = None,
    tables: Callable[[str, dict[str, dict]], list[Grid]] | None = None,
    kinds: tuple[str, ...] = ("generate",),
    credits: tuple[str, ...] = ("accuracy", "guess"),
    headline: str = "accuracy",
    title: str = "questions",
    swaps: bool = False,
    flip: Callable[[Item], str | None] | None = None,
    columns: tuple[str, ...] = ("answers",),
    indifferent: float | None = None,
) -> Task:
    """A task that asks a VLM. Of modes the first is the usual one; `omma eval --reference NAME` takes another.

    about, where, make, columns, credits, indifferent: as of Task. items(rows), score(mode, items, view), metrics(result
    rows, mode), tables: by default `question_items`, `answers_of`, `accuracy` and `pattern_tables`. kinds: "generate",
    and "first_token" for the letter-logit way.
    swaps, flip: which controls it allows, see Task; `mirrored` will do for most flips.
    """
    name, mode = next(iter(modes.items()))
    judges = ("judge", "judge_prompt") if any(each.judge or each.extracting for each in modes.values()) else ()
    answer, count = score or answers_of, metrics or accuracy
    task = Task(
        about=about,
        table="items",
        where=where,
        make=make,
        kinds=kinds,
        credits=credits,
        headline=dict.fromkeys(kinds, headline),
        indifferent=indifferent,
        items=partial(question_items, columns=columns) if items is None else items,
        score=partial(answer, mode),
        metrics=partial(count, mode=mode),
        tables=pattern_tables(title) if tables is None else tables,
        columns=columns,
        takes=("reference", "templates", *judges),
        modes=modes,
        mode=name,
        judge=mode.judge,
        swaps=swaps,
        flip=flip,
    )

    def made_for(table: Any, reference: str | None = None, templates: Sequence[str] = (), judge: Any = None,
                 judge_prompt: Any = None) -> Task:  # fmt: skip
        wanted = reference or name
        if wanted not in modes:
            raise ValueError(f"reference={wanted!r}; this task is asked and read as {', '.join(modes)}")
        chosen = modes[wanted]
        if templates:
            if len(templates) > 1 or "{}" not in templates[0]:
                raise ValueError(f"templates={list(templates)}; give one sentence with {{}}, where the question goes")
            chosen = replace(chosen, prompt=lambda item: templates[0].replace("{}", item.texts[0]), letters="")
        if chosen.extracting is not None and judge is None:
            chosen = replace(chosen, extracting=None)
        if chosen.judge is None and chosen.extracting is None and (judge is not None or judge_prompt):
            graded = ", ".join(each for each, one in modes.items() if one.judge or one.extracting)
            raise ValueError(f"replies are read by rules in the mode {wanted!r}; a judge is asked in {graded}")
        if chosen.judge is not None and judge is None:
            raise ValueError(f"replies are graded by a judge in the mode {wanted!r}; name one: "
                             "judge='openai:MODEL@URL' (--judge openai:MODEL@URL)")  # fmt: skip
        if chosen.judge is not None and judge_prompt:
            chosen = replace(chosen, judge=chosen.judge.reading(judge_prompt))
        if chosen.extracting is not None and judge_prompt:
            told = chosen.extracting.told.reading(judge_prompt)
            chosen = replace(chosen, extracting=replace(chosen.extracting, told=told))
        return replace(task, score=partial(answer, chosen), metrics=partial(count, mode=chosen), mode=wanted,
                       judge=chosen.judge or (chosen.extracting and chosen.extracting.told))  # fmt: skip

    return replace(task, made_for=made_for)


# ------------------------------------------------------------------------------------------------ rows -> items
def question_items(rows: list[dict], columns: Sequence[str] = ()) -> list[Item]:
    """Rows of an items table -> items. One that can't be asked or judged says why."""
    found = []
    for row in rows:
        pictures, options = tuple(row["pictures"] or ()), tuple(row["options"] or ())
        answers = tuple(row.get("answers") or ())
        answer = row["answer"] or (Counter(answers).most_common(1)[0][0] if answers else "")
        problem = "" if answer else "no_answer"
        if options and answer and answer not in options:
            problem = "answer_is_no_option"
        if len(set(options)) < len(options):
            problem = "two_options_alike"
        if not pictures:
            problem = "no_picture"
        if not row["prompt"]:
            problem = "no_question"
        extra = {name: row.get(name) for name in columns if name != "answers"}
        found.append(Item(row["id"], group_of(row), row["pattern"] or "", pictures, (row["prompt"] or "",), answer,
                          problem, answers, options, extra))  # fmt: skip
    return found


# ------------------------------------------------------------------------------------------------ replies -> answers
def answers_of(mode: Mode, items: list[Item], view: Any) -> list[Answer]:
    """One answer an item. credits: what it earns, and what a guess among its options earns (0 without options).

    Answer.scores: of "first_token" the probability of each option, among the options; of "generate" none.
    """
    if mode.judge is not None and view.kind == "generate":
        return graded_answers(mode, mode.judge, items, view)
    prompts = [mode.prompt(item) for item in items]
    if view.kind == "first_token":
        replies = view.first_token(items, prompts, [mode.spellings(item) for item in items])
    else:
        replies = view.replies(items, prompts, mode.max_new_tokens)
    extracted = asked_again(mode, items, prompts, replies, view)
    found = []
    for place, (item, prompt, reply) in enumerate(zip(items, prompts, replies, strict=True)):
        guess = 1 / len(item.options) if item.options else 0.0
        if reply.problem:
            found.append(Answer((), None, (0.0, guess), None, prompt=prompt, problem=reply.problem))
            continue
        judged = extracted.get(place)
        if view.kind == "first_token":
            shares, said = softmax(reply.scores), None
            read = Parsed(item.options[shares.index(max(shares))], "first token")
        else:
            shares, said, read = [], reply.said, judged.read if judged else mode.parse(reply.said, item)
        earned = 0.0 if read.value is None else mode.earn(read.value, item)
        right = None if read.value is None else earned == 1
        answer = Answer(shares, read.value, (earned, guess), right, prompt=prompt, said=said, rule=read.rule)
        if judged:
            answer = replace(answer, problem=judged.problem, graded=judged.words or None, grader=judged.by or None)
        found.append(answer)
    return found


class Extracted(NamedTuple):
    """What a judge found in a reply; problem: why it found nothing; words: its own; by: who it says it is."""

    read: Parsed
    problem: str
    words: str
    by: str


def asked_again(
    mode: Mode, items: list[Item], prompts: list[str], replies: list[Reply], view: Any
) -> dict[int, Extracted]:
    """{place: what the judge found} of replies that the rules of a mode leave to it. One that it fails to read is not
    scored: its problem is "judge_" and why."""
    if mode.extracting is None or view.kind != "generate":
        return {}
    ask = mode.extracting
    open_to = [k for k, (item, reply) in enumerate(zip(items, replies, strict=True))
               if not reply.problem and not ask.settled(mode.parse(reply.said, item), reply.said, item)]  # fmt: skip
    told = [ask.told.prompt(question=ask.question(items[k], prompts[k]), prediction=replies[k].said) for k in open_to]
    found = {}
    for place, words in zip(open_to, view.graded(told, ask.told.max_new_tokens), strict=True):
        none = words.said.strip(" \n.*\"'").upper() == NOTHING
        read = UNPARSED if none or words.problem else ask.read(words.said.strip(), items[place])
        problem = words.problem or ("" if read is not None else view.no_grade(words.said))
        rule = "a judge: no answer" if none else "a judge"
        found[place] = Extracted((read or UNPARSED)._replace(rule=rule), problem and f"judge_{problem}", words.said,
                                 words.by)  # fmt: skip
    return found


def graded_answers(mode: Mode, judge: Judging, items: list[Item], view: Any) -> list[Answer]:
    """One answer an item: the whole reply (the right option, where a judge says that it gives that), and what it is
    worth, in credits where `answers_of` has what a reply earns; of a comparison the second is what the reference earns.
    A reply that the judge fails to grade is not scored: its problem is "judge_" and why."""
    prompts = [mode.prompt(item) for item in items]
    replies = view.replies(items, prompts, mode.max_new_tokens)
    said = [place for place, reply in enumerate(replies) if not reply.problem]
    told = [judge.prompt(**mode.judged_by(items[k], prompts[k]), prediction=replies[k].said) for k in said]
    grades = dict(zip(said, view.graded(told, judge.max_new_tokens), strict=True))
    found = []
    for place, (item, prompt, reply) in enumerate(zip(items, prompts, replies, strict=True)):
        if reply.problem:
            found.append(Answer((), None, (0.0, 0.0), None, prompt=prompt, problem=reply.problem))
            continue
        grade = grades[place]
        marks = None if grade.problem else judge.parse(grade.said)
        problem = "" if marks else f"judge_{grade.problem or view.no_grade(grade.said)}"
        guess = 1 / len(item.options) if item.options else 0.0
        credits = (0.0, 0.0) if not marks else (*marks, guess)[:2]
        meant = item.answer if item.options and credits[0] == 1 else reply.said
        found.append(Answer((), meant, credits, credits[0] == 1, prompt=prompt, said=reply.said, rule="a judge",
                            problem=problem, graded=grade.said or None, grader=grade.by or None))  # fmt: skip
    return found


def softmax(scores: Sequence[float]) -> list[float]:
    top = max(scores)
    weights = [math.exp(s - top) for s in scores]
    return [w / sum(weights) for w in weights]


# ------------------------------------------------------------------------------------------------ controls
def swapped(item: Item) -> Item | None:
    """The item with its options in reverse order; None where there are none to put in order."""
    return replace(item, options=item.options[::-1]) if len(item.options) > 1 else None


def mirrored(item: Item) -> str | None:
    """The answer when the picture is mirrored: the same, left for right; None where words in the picture decide, or
    where left and right stand in the question and not in the answer.

    >>> mirrored(Item("", "", "", (), ("is it left or right of the cup?",), "left"))
    'right'
    >>> mirrored(Item("", "", "", (), ("which cup is on the left?",), "the red one")) is None
    True
    """
    words, said = set(_words(item.texts[0])), set(_words(item.answer))
    if words & READ or {word for option in item.options for word in _words(option)} & READ:
        return None
    if words & set(MIRROR) and not said & set(MIRROR):
        return None
    return mirror(item.answer)


def mirror(text: str) -> str:
    """A text with left for right, and the other way round.

    >>> mirror("on the left")
    'on the right'
    """
    return " ".join(MIRROR.get(word, word) for word in text.split(" "))


def _words(text: str) -> list[str]:
    return "".join(c if c.isalnum() else " " for c in text.lower()).split()


# ------------------------------------------------------------------------------------------------ answers -> numbers
def accuracy(rows: list[dict], mode: Mode) -> dict:
    """accuracy, unparsed and majority, of all rows and under "patterns" of each pattern; see `block`."""
    return by_pattern(rows, block)


def block(rows: list[dict]) -> dict:
    """accuracy: what replies earn, unparsed ones nothing, beside what guesses would; unparsed: their share; majority:
    the share of the most frequent right answer. Intervals count pictures and groups, not questions."""
    together = clusters_of(rows)
    guesses = [row["credits"][1] for row in rows]
    most = Counter(row["answer"] for row in rows).most_common(1)
    return {
        "accuracy": clustered([row["credits"][0] for row in rows], together, sum(guesses) / max(1, len(guesses))),
        "unparsed": clustered([row["prediction"] is None for row in rows], together),
        "majority": clustered([bool(most) and row["answer"] == most[0][0] for row in rows], together),
    }


def clusters_of(rows: list[dict]) -> list[str]:
    """For each result row the cluster it stands in: rows about the same pictures, or of one group, are in one."""
    return joined([(*(f"picture {p}" for p in row["pictures"]), f"group {row['group']}") for row in rows])


def pattern_tables(title: str) -> Callable[[str, dict[str, dict]], list[Grid]]:
    """All estimates with the controls beside them; and for each pattern the first one, with its controls and n."""

    def tables(kind: str, by_variant: dict[str, dict]) -> list[Grid]:
        grids = plain_tables(title)(kind, {name: without_patterns(m) for name, m in by_variant.items()})
        lines = []
        for pattern, mine in by_variant["model"].get("patterns", {}).items():
            path = next(iter(cells(mine)))
            controls = [cells(by_variant[v].get("patterns", {}).get(pattern, {})).get(path) for v in VARIANTS[1:]]
            cell, lost = cells(mine)[path], mine.get("unparsed")
            lines.append([pattern, percent(cell), interval(cell).replace(" ", ""), *map(percent, controls),
                          *(f"{100 * cell['chance']:.1f}" if "chance" in cell else "–", percent(lost), str(cell["n"]))
                          ])  # fmt: skip
        if lines:
            header = ["pattern", "model", "95 %", "blind", "wrong", "chance", "unparsed", "n"]
            note = "95 %: the interval, which counts pictures; wrong: shown another picture."
            grids.append(Grid(f"{title} by pattern ({kind})", header, lines, note))
        return grids

    return tables


def without_patterns(metrics: dict) -> dict:
    return {key: value for key, value in metrics.items() if key != "patterns"}
