"""Multiple choice: which option a reply means, by a ladder of rules that are named, and evaluation in a circle.

    parse("The answer is (B).", ["red", "blue"])                   # Parsed(value="B", rule="answer is")

The first rule that finds exactly one option decides; a rule that finds several stops the ladder. "A" as a word of a
sentence is not taken for a letter. Options have the letters A, B, C, ...

Modes: "reference:vlmevalkit" is VLMEvalKit's exact matching: a letter among the last five words, else an option's text
within the reply; "Z", which it gives to refusals, is unparsed here. "reference:mmmu" is MMMU's: the last letter in
brackets, else between blanks, else of a longer reply the last option in it; where it guesses, a reply is unparsed here.
"reference:mathvista" is MathVista's of a reply that is an option, a letter, or quotes one behind "The answer is"; of
what is quoted the nearest option counts. "reference:lmms-eval" is what that makes of MMMU's: a letter before a blank or
a full stop will do. MMVP's "reference:cambrian" and "reference:lmms-eval" are in `omma.eval.protocols.mmvp`.
"""

import math
import re
import string
from collections.abc import Mapping, Sequence

from omma.eval.protocols.anls import distance
from omma.eval.protocols.open_ended import MATHVISTA, MMMU, QUOTED
from omma.eval.protocols.outcome import STRICT, UNPARSED, Parsed, check_mode, share
from omma.eval.protocols.words import normalised

VLMEVALKIT, LMMS = "reference:vlmevalkit", "reference:lmms-eval"
MODES = (STRICT, VLMEVALKIT, MMMU, MATHVISTA, LMMS)
REFUSED = Parsed(None, "a refusal")  # of VLMEvalKit, which gives these replies the letter Z
LETTERS = string.ascii_uppercase
REFUSALS = ("Sorry, I can't help with images of people yet.", "I can't process this file.",
            "I'm sorry, but without the image provided", "Cannot determine the answer")  # fmt: skip

ONLY_A_LETTER = re.compile(r"\W*(?:option|answer|choice)?\W*([A-Za-z])\W*", re.IGNORECASE)
LEADING = re.compile(r"\s*(?:\(([A-Za-z])\)|\[([A-Za-z])\]|\**([A-Z])\**\s*[.):])(?=\s|$)")
NAMED = re.compile(
    r"(?i:\banswer\s*(?:is|:)+|\banswer\s+would\s+be|\boption|\bchoice)\s*:?\s*[(\[*\"']*"
    r"(?:([A-Za-z])(?=\s*(?:$|[].,;:)\"'*]))|([B-Z])(?=\s)|(A)(?=\s+(?:because|since|as|or|and)\b))"
)
BRACKETED = re.compile(r"\(([A-Za-z])\)")
# what a letter stands in, how the last of several is told, and the rule's name; of lmms-eval "A " need not begin a word
MMMU_FORMS = (("({})", "({})", "the last letter in brackets"), (" {} ", " {} ", "the last letter between blanks"))
LMMS_FORMS = (MMMU_FORMS[0], ("{} ", " {} ", "the last letter before a blank"),
              ("{}.", " {} ", "the first letter before a full stop"))  # fmt: skip


def parse(text: str, options: Sequence[str], mode: str = STRICT) -> Parsed:
    """The letter of the option that a reply means, None when no rule finds one. Raises ValueError without options.

    Rules, in order: "letter" (nothing but a letter), "option text" (the reply is an option), "leading letter" ("B. a
    cup", "(b) a cup"), "answer is" ("the answer is B", "option B"), "bracketed letter" (one only in the reply, "it is
    (b)"), "option within" (the words of exactly one option stand in the reply; an option within another one that
    stands there doesn't count).

    >>> parse("B. a cup", ["dog", "cup"]).rule, parse("A dog or a cup", ["dog", "cup"]).value
    ('leading letter', None)
    """
    check_mode(mode, MODES)
    if not 1 <= len(options) <= len(LETTERS):
        raise ValueError(f"{len(options)} options; a question has 1 to {len(LETTERS)}")
    if mode != STRICT:
        read = {VLMEVALKIT: _vlmevalkit, MMMU: _mmmu, MATHVISTA: _mathvista, LMMS: _lmms_eval}[mode]
        return read(text, dict(zip(LETTERS, options, strict=False)))
    letters = LETTERS[: len(options)]
    if (only := ONLY_A_LETTER.fullmatch(text)) and (letter := only[1].upper()) in letters:
        return Parsed(letter, "letter")
    said, meanings = normalised(text), [normalised(option) for option in options]
    if said and meanings.count(said) == 1:
        return Parsed(letters[meanings.index(said)], "option text")
    named = {"".join(parts).upper() for parts in NAMED.findall(text)} & set(letters)
    bracketed = {letter.upper() for letter in BRACKETED.findall(text)} & set(letters)
    if (lead := LEADING.match(text)) and (letter := (lead[1] or lead[2] or lead[3]).upper()) in letters:
        return Parsed(letter, "leading letter") if named | bracketed <= {letter} else UNPARSED
    for rule, found in (("answer is", named), ("bracketed letter", bracketed)):
        if len(found) == 1:
            return Parsed(found.pop(), rule)
        if found:
            return UNPARSED
    inside = within(text, options)
    return UNPARSED if inside is None else Parsed(letters[inside], "option within")


def within(text: str, options: Sequence[str]) -> int | None:
    """The place of the only option whose words stand in a reply, None for none or several. An option within another one
    that stands there doesn't count.

    >>> within("a red cup", ["red", "blue", "red cup"]), within("red or blue", ["red", "blue"])
    (2, None)
    """
    said, meanings = normalised(text), [normalised(option) for option in options]
    inside = [n for n, words in enumerate(meanings) if words and f" {words} " in f" {said} "]
    whole = [n for n in inside if not any(n != m and f" {meanings[n]} " in f" {meanings[m]} " for m in inside)]
    return whole[0] if len(whole) == 1 and meanings.count(meanings[whole[0]]) == 1 else None


def _vlmevalkit(text: str, choices: Mapping[str, str]) -> Parsed:
    if "Failed to obtain answer via API" not in text:
        if any(refusal in text for refusal in REFUSALS):
            return REFUSED
        words = re.sub(r"[.()\[\],:;!*#{}]", " ", text).split()
        found = [letter for letter in choices if letter in words]
        if len(found) == 1 and words.index(found[0]) > len(words) - 5:
            return Parsed(found[0], "a letter among the last words")
        if not found and "Z" in words:
            return REFUSED
        named = re.search(r"(?i)(?:correct\s+)?answer\s+is\s+\**([ABCD])\**", text)
        if named and named[1].upper() in choices:
            return Parsed(named[1].upper(), "answer is")
    said = text.lower()
    if len(said) <= 2 * sum(map(len, choices.values())):
        within = [letter for letter, option in choices.items() if option.lower() in said]
        if len(within) == 1:
            return Parsed(within[0], "option within")
    return UNPARSED


def _mmmu(text: str, choices: Mapping[str, str], forms: Sequence[tuple[str, str, str]] = MMMU_FORMS) -> Parsed:
    for sign in (",", ".", "!", "?", ";", ":", "'"):
        text = text.strip(sign)
    text = f" {text} "
    for form, last, rule in forms:
        if found := [letter for letter in choices if form.format(letter) in text]:
            return Parsed(max(found, key=lambda letter: text.rfind(last.format(letter))), rule)
    said = text.lower()
    places = {letter: said.rfind(option.lower()) for letter, option in choices.items() if option.lower() in said}
    if places and len(text.split()) > 5:
        return Parsed(max(places, key=lambda letter: places[letter]), "the last option within")
    return UNPARSED


def _lmms_eval(text: str, choices: Mapping[str, str]) -> Parsed:
    return _mmmu(text, choices, LMMS_FORMS)


def _mathvista(text: str, choices: Mapping[str, str]) -> Parsed:
    quoted = QUOTED.search(text)
    only = ONLY_A_LETTER.fullmatch(text)
    if text in choices.values():
        return Parsed(nearest(text, choices), "an option")
    if not quoted:
        letter = only[1].upper() if only else ""
        return Parsed(letter, "a letter") if letter in choices else UNPARSED
    return Parsed(nearest(quoted[1], choices), "quoted")


def nearest(said: str, choices: Mapping[str, str]) -> str:
    """The letter of the option that an extracted answer means, as MathVista's evaluation takes it: the first one in
    brackets, the letter itself, else that of the option by the fewest edits away.

    >>> nearest("(b) two", {"A": "one", "B": "two"}), nearest("ones", {"A": "one", "B": "two"})
    ('B', 'A')
    """
    said = said.strip()
    if found := BRACKETED.findall(said):
        said = found[0].upper()
    return said if said in choices else min(choices, key=lambda letter: distance(said, choices[letter]))


def rotations(options: Sequence[str]) -> list[tuple[int, ...]]:
    """Orders of the options for evaluation in a circle (Liu et al. 2023, MMBench): each starts one further.

    Of n options there are n orders; order[j] is the option that letter j stands for.

    >>> rotations(["x", "y", "z"])
    [(0, 1, 2), (1, 2, 0), (2, 0, 1)]
    """
    n = len(options)
    return [tuple((start + j) % n for j in range(n)) for start in range(n)]


def circular(right: Mapping[str, Sequence[bool]], options: Mapping[str, int] | None = None) -> dict:
    """Questions asked in every rotation: right only when right in all of them.

    right: {question: one flag a rotation, the order as written first}; unparsed counts as not right. options:
    {question: number of options}, for the chance. Returns circular, vanilla (the first order alone) and rotations (all
    of them), each an estimate. Raises ValueError for a question without a rotation.
    """
    empty = [question for question, flags in right.items() if not len(flags)]
    if empty:
        raise ValueError(f"question {empty[0]!r} has no rotation; give one flag for each order that was asked")
    chance = None
    if options and right:
        chance = sum(options[q] ** -len(flags) for q, flags in right.items()) / len(right)
    return {
        "circular": share((all(flags) for flags in right.values()), chance),
        "vanilla": share(flags[0] for flags in right.values()),
        "rotations": share(flag for flags in right.values() for flag in flags),
    }


def from_logits(scores: Sequence[float]) -> tuple[str, float]:
    """(letter, confidence) from one score an option, such as the log-probability of its letter as the first token.

    confidence: softmax over the options. Ties go to the first letter.

    >>> from_logits([0.0, 0.0])
    ('A', 0.5)
    """
    top = max(scores)
    weights = [math.exp(s - top) for s in scores]
    return LETTERS[list(scores).index(top)], max(weights) / sum(weights)
