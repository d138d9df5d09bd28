"""Answers in words, judged: what a model said -> what it meant -> right, wrong, or unparsed, which is its own outcome.

    judged("The cup is red.", "red").outcome          # "wrong": exact match, so ask for one word or phrase
    judged("No, it is blue", "yes").prediction        # "no"
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

RULES = {
    "yes/no": "where yes or no is right: the first word if it is yes or no (true, false), else the only one of them "
    "that is said; unparsed without one, or with both",
    "exact": "elsewhere: the first line, without case, punctuation and articles, numbers in digits, must equal the "
    "right answer treated alike; unparsed when nothing is left",
}
YES = {"yes": "yes", "true": "yes", "no": "no", "false": "no"}
ARTICLES = {"a", "an", "the"}
DIGITS = {word: str(n) for n, word in enumerate(
    ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"))
}  # fmt: skip


@dataclass(frozen=True)
class Judged:
    """prediction: what was meant, None when unparsed. outcome: "right", "wrong" or "unparsed". rule: a key of RULES."""

    prediction: str | None
    outcome: str
    rule: str


def judged(said: str, answer: str, answers: Sequence[str] = ()) -> Judged:
    """What was said against the right answer; answers: others that are right, too, such as those of several people."""
    right = {normalised(text) for text in (answer, *answers)}
    wanted = YES.get(normalised(answer))
    if wanted:
        prediction = yes_or_no(said)
        outcome = "unparsed" if prediction is None else "right" if prediction == wanted else "wrong"
        return Judged(prediction, outcome, "yes/no")
    prediction = normalised(next((line for line in said.splitlines() if line.strip()), "")) or None
    outcome = "unparsed" if prediction is None else "right" if prediction in right else "wrong"
    return Judged(prediction, outcome, "exact")


def normalised(text: str) -> str:
    """Lower case, words apart by one blank, without punctuation and articles, number words as digits.

    >>> normalised("The lit  windows."), normalised("Three")
    ('lit windows', '3')
    """
    words = words_of(text)
    kept = [word for word in words if word not in ARTICLES] or words
    return " ".join(DIGITS.get(word, word) for word in kept)


def yes_or_no(said: str) -> str | None:
    """ "yes", "no", or None where neither can be read out of it.

    >>> yes_or_no("No, there is none."), yes_or_no("I'd say yes"), yes_or_no("yes or no"), yes_or_no("a cup")
    ('no', 'yes', 'yes', None)
    """
    words = words_of(said)
    if words and words[0] in YES:
        return YES[words[0]]
    meant = {YES[word] for word in words if word in YES}
    return meant.pop() if len(meant) == 1 else None


def words_of(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", unicodedata.normalize("NFKC", text).casefold())
