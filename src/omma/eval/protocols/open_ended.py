"""Questions without options whose answer is a number, a list or a few words: the free-form part of MMMU (Yue et al.
2024) and of MathVista (Lu et al. 2024).

    parse("4 + 5 = 9, so the answer is 9.", "integer").value                   # "9"
    right("0.333", ["1/3", "0.33"], "number", 2)                               # True

Modes: "strict" reads what stands behind "the answer is", else the whole of a reply of one line, else the only number
that is said; it compares numbers after rounding, and words without case, punctuation and articles. "reference:mmmu"
is MMMU's evaluation: the tails of sentences that hold certain words, and all numbers in them, are candidates, and one
that equals the number, or holds the text, is right. "reference:mathvista" is MathVista's without the language model
that reads a reply there: a bare number, an option, or what stands in quotes behind "The answer is"; other replies are
unparsed here. "reference:vlmevalkit" is what that makes of MathVista: a bare number that equals the answer, unrounded;
a list is never right there, since it is compared with the word None.
"""

import ast
import re
from collections.abc import Sequence

from omma.eval.protocols.chart import number
from omma.eval.protocols.outcome import STRICT, UNPARSED, Parsed, check_mode
from omma.eval.protocols.words import normalised

MMMU, MATHVISTA, VLMEVALKIT = "reference:mmmu", "reference:mathvista", "reference:vlmevalkit"
MODES = (STRICT, MMMU, MATHVISTA, VLMEVALKIT)
KINDS = ("integer", "float", "number", "list", "either", "text")  # what an answer is; either: a number or a text
PLACES = 2  # decimals that count where a question doesn't say how many
SAID = re.compile(r"(?i)\banswer\s*(?:is|:|=)+\s*:?\s*")
NUMBER = re.compile(
    r"(?<![\w.])[-+−]?[$€£¥]?(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?(?!\w)"
)
LIST = re.compile(r"\[[^\[\]]*\]")
QUOTED = re.compile(r'The answer is "(.*)"\.')
# of MMMU's evaluation: what stands before an answer, and its three ways to write a number
INDICATORS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
TRIVIAL = (":", ",", ".", "!", "?", ";", "'")
NUMBERS = (re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b"), re.compile(r"-?\d+(?:\.\d+)?[eE][+-]?\d+"),
           re.compile(r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])"))  # fmt: skip


def kind_of(answers: Sequence[str], told: str | None = None) -> str:
    """What a right answer is: as the benchmark tells it, else by those there are.

    >>> kind_of(["3.5"]), kind_of(["O2", "oxygen"]), kind_of(["1/3", "0.33"]), kind_of(["3"], "integer")
    ('number', 'text', 'either', 'integer')
    """
    if told in ("integer", "float", "list"):
        return told
    numbers = [_value(answer) is not None for answer in answers]
    return "text" if not any(numbers) else "number" if all(numbers) else "either"


def parse(reply: str, kind: str = "text", mode: str = STRICT) -> Parsed:
    """What a reply gives as its answer, None when no rule finds one. In MMMU's mode the reply itself, of which `right`
    makes the candidates.

    Rules of strict, in order: "list" (the last list in brackets), "answer is" (what stands behind these words, to the
    end of the sentence; of a number, the only one there or the one behind the last =), "the whole reply" (of one line),
    "the only number" (that is said, as often as it may be).

    >>> parse("It is 3 of 4.", "integer").value, parse("The answer is [1, 2].", "list").value
    (None, '[1, 2]')
    """
    check_mode(mode, MODES)
    said = reply.strip()
    if mode == MMMU:
        return Parsed(reply, "the whole reply") if said else UNPARSED
    if mode == MATHVISTA:
        return _published_extraction(reply, kind)
    if mode == VLMEVALKIT:
        return UNPARSED if _read_as(reply, kind) is None else Parsed(reply, "a bare number")
    if kind == "list":
        found = next((text for text in reversed(LIST.findall(said)) if _list(text) is not None), None)
        return UNPARSED if found is None else Parsed(found, "list")
    named = SAID.split(said)[-1] if SAID.search(said) else ""
    tail = re.split(r"\n|\.(?:\s|$)", named)[0].strip(" *\"'`$.")
    whole = tail or (said if len(said.splitlines()) == 1 else "")
    words = Parsed(whole, "answer is" if tail else "the whole reply") if normalised(whole) else UNPARSED
    if kind == "text":
        return words
    for text, rule in ((tail, "answer is"), (said if len(said.splitlines()) == 1 else "", "the whole reply")):
        value = _value(text)
        if value is not None:
            return Parsed(text, rule)
        for part in (text, text.rpartition("=")[2]) if rule == "answer is" else ():
            if len(found := _numbers(part)) == 1:
                return Parsed(found[0], rule)
    found = _numbers(said)
    if len({_value(one) for one in found}) == 1:
        return Parsed(found[0], "the only number")
    return words if kind == "either" else UNPARSED


def right(
    value: str, answers: Sequence[str], kind: str = "text", places: int | None = None, mode: str = STRICT
) -> bool:
    """Whether what `parse` found is one of the right answers. places: decimals that count, PLACES when None.

    Strict compares integers as they are, other numbers rounded to so many places, and lists element by element.
    """
    check_mode(mode, MODES)
    if mode == MMMU:
        return _published_right(candidates(value), answers)
    if mode == MATHVISTA:
        found = _published_form(value, kind, places)
        return found is not None and found.strip() in {answer.strip() for answer in answers}
    if mode == VLMEVALKIT:
        found = _read_as(value, kind)
        return found is not None and found in [_read_as(answer, kind) for answer in answers]
    digits = PLACES if places is None else places
    if kind == "list":
        mine = _list(value) or []
        return any(len(mine) == len(known) and all(map(lambda a, b: _same(a, b, digits), mine, known))
                   for known in map(_list, answers) if known is not None)  # fmt: skip
    if kind == "text":
        return normalised(value) in {normalised(answer) for answer in answers}
    return any(_same(value, answer, 0 if kind == "integer" else digits, whole=kind == "integer") for answer in answers)


def _value(text: str) -> float | None:
    """The number that a text is, a word for one included."""
    found = number(text)
    if found is None and (word := normalised(text)).isdigit() and text.strip().isalpha():
        return float(word)
    if found is None and NUMBER.fullmatch(text.strip()):
        return float(re.sub("[,$€£¥+]", "", text.strip()).replace("−", "-"))
    return found


def _numbers(text: str) -> list[str]:
    return NUMBER.findall(text)


def _same(a: str, b: str, digits: int, whole: bool = False) -> bool:
    mine, known = _value(str(a)), _value(str(b))
    if mine is None or known is None:
        return normalised(str(a)) == normalised(str(b)) != ""
    return mine == known if whole else round(mine, digits) == round(known, digits)


def _list(text: str) -> list[str] | None:
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    return [str(each) for each in found] if isinstance(found, list) else None


# ------------------------------------------------------------------------------------------------ MMMU's evaluation
def candidates(reply: str) -> set[str | float]:
    """What MMMU's evaluation takes a reply to answer: texts in lower case, and numbers rounded to two decimals.

    Sentences are told apart by line breaks alone: the reply is in lower case before a capital behind a full stop is
    looked for.

    >>> sorted(candidates("The answer is 7"), key=str)
    [7.0]
    """
    whole = reply.strip().strip(".").lower()
    lines, keys = whole.split("\n"), []
    for place, line in enumerate(lines):
        shortest = ""
        for indicator in (*INDICATORS, *(("=",) if place == len(lines) - 1 else ())):
            if indicator in line:
                tail = line.split(indicator)[-1].strip()
                if not shortest or len(tail) < len(shortest):
                    shortest = tail
        if shortest and shortest not in TRIVIAL:
            keys.append(shortest)
    texts = keys or [whole]
    found = [*texts, *(one for text in texts for pattern in NUMBERS for one in pattern.findall(text))]
    return {form for text in found for form in _forms(text)}


def _forms(text: str) -> list[str | float]:
    """A number, or a text in lower case; one letter with a blank before or behind it: it must be no part of a word."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        text = text.lower()
    return [f" {text}", f"{text} "] if len(text) == 1 else [text]


def _published_right(said: set[str | float], answers: Sequence[str]) -> bool:
    known = [form for answer in answers for form in _forms(answer)]
    return any(any(isinstance(k, str) and k in one for k in known) if isinstance(one, str) else one in known
               for one in said)  # fmt: skip


# ------------------------------------------------------------------------------------------------ MathVista's
def _published_extraction(reply: str, kind: str) -> Parsed:
    for wanted, read in (("integer", int), ("float", float)):
        if kind == wanted:
            try:
                return Parsed(str(read(reply)), "a bare number")
            except ValueError:
                pass
    quoted = QUOTED.search(reply)
    return Parsed(quoted[1], "quoted") if quoted else UNPARSED


def _published_form(value: str, kind: str, places: int | None) -> str | None:
    """A whole number loses its decimals, another is rounded; None for what is no number. Compared as text."""
    try:
        if kind == "integer":
            return str(int(float(value)))
        return str(round(float(value), places or None)) if kind in ("float", "number") else value
    except (ValueError, OverflowError):
        return None


def is_form(value: str, kind: str, places: int | None = None) -> bool:
    """Whether MathVista's evaluation can compare a value: of an integer and a float, whether it is a number."""
    return _published_form(value, kind, places) is not None


def _read_as(text: str, kind: str) -> float | None:
    """A whole number or any other, as Python reads it; None for a text and for what is none."""
    try:
        return int(text) if kind == "integer" else float(text) if kind in ("float", "number") else None
    except ValueError:
        return None
