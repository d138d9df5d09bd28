"""A short answer, judged: what a model said -> what it meant -> right, wrong, or unparsed, which is its own outcome.

    judged("The cup is red.", "red").outcome                                   # "wrong": exact match
    judged("The cup is red.", "red", options=("red", "blue")).outcome          # "right": it names one of them
    judged("No, it is blue", "yes").prediction                                 # "no"
"""

from collections.abc import Sequence
from dataclasses import dataclass

from omma.eval.protocols import choice, exact, pope
from omma.eval.protocols.outcome import UNPARSED, Parsed
from omma.eval.protocols.words import YES, normalised

RULES = {
    "yes/no": "where yes or no is right: the first word if it is yes or no (true, false), else the only one of them "
    "that is said; unparsed without one, or with both",
    "exact": "elsewhere: the first line, without case, punctuation and articles, numbers in digits, must equal the "
    "right answer treated alike; unparsed when nothing is left",
    "an option": "where it is known what may be answered: the reply, treated alike, is one of the options",
    "option within": "or the words of exactly one option stand in the reply; unparsed without one, or with several",
}


@dataclass(frozen=True)
class Judged:
    """prediction: what was meant, None when unparsed. outcome: "right", "wrong" or "unparsed". rule: a key of RULES."""

    prediction: str | None
    outcome: str
    rule: str


def parse(said: str, answer: str, options: Sequence[str] = ()) -> Parsed:
    """What was meant. answer: the right one, which says whether the question is one of yes or no; options: what may be
    answered, when it is known. A reply that names no option, or several, is unparsed.

    >>> parse("It is red.", "blue", ["red", "blue"]).value, parse("mauve", "blue", ["red", "blue"]).value
    ('red', None)
    """
    if normalised(answer) in YES:
        found = pope.parse(said)
        return found if found.value is None else Parsed(found.value, "yes/no")
    if not options:
        found = exact.parse(said)
        return found if found.value is None else Parsed(found.value, "exact")
    line = exact.parse(said).value
    meanings = [normalised(option) for option in options]
    if line is not None and meanings.count(line) == 1:
        return Parsed(options[meanings.index(line)], "an option")
    found = choice.within(said, options)
    return UNPARSED if found is None else Parsed(options[found], "option within")


def judged(said: str, answer: str, answers: Sequence[str] = (), options: Sequence[str] = ()) -> Judged:
    """What was said against the right answer; answers: others that are right, too, such as those of several people."""
    found = parse(said, answer, options)
    if found.value is None:
        rule = "yes/no" if normalised(answer) in YES else "option within" if options else "exact"
        return Judged(None, "unparsed", rule)
    right = {YES.get(known, known) for known in map(normalised, (answer, *answers))}
    return Judged(found.value, "right" if normalised(found.value) in right else "wrong", found.rule)
