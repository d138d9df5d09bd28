"""MMVP: 150 pairs of pictures that CLIP takes for one another, one question a pair, two answers (Tong et al. 2024).

    score(answers, [parse(reply, options).value for reply, options in ...])["pairs"]

A pair counts when both of its questions are right. Who ignores the picture says the same twice, is right once, and has
no pair: 0 % of pairs beside 50 % of questions, where coin flips have 25 % and 50 %. So what a pair is missing by, and
how often both pictures got the same answer, stand beside the score.

Modes. "reference:cambrian": what stands behind the last "answer is", without its dress, must equal a letter or an
option. "reference:lmms-eval": a ladder of patterns, of which the last takes an a or b that ends a word, of any case ("a
dog" is A, "on the bulb" is B). "reference:vlmevalkit": see `choice`. The published evaluation asks a language model
whether a reply is right; `parse_grade` reads what it says.
"""

import re
from collections.abc import Collection, Sequence

from omma.eval.protocols import choice
from omma.eval.protocols.outcome import STRICT, UNPARSED, Parsed, check_lengths, check_mode, share

OFFICIAL, CAMBRIAN, LMMS = "reference:official", "reference:cambrian", "reference:lmms-eval"
MODES = (STRICT, CAMBRIAN, LMMS, choice.VLMEVALKIT)
GRADES = (STRICT, OFFICIAL)
LADDER = (
    ("only a letter", r"^\s*\(?([AB])\)?\.?\s*$"),
    ("leading letter", r"^\s*\(?([AB])\)?[\.\s]"),
    ("answer is", r"answer\s+is\s+\(?([AB])\)?"),
    ("option", r"option\s+\(?([AB])\)?"),
    ("a or b at the end of a word", r"\(?([AB])\)?(?:\s|$)"),
)
LMMS_RULES = tuple((name, re.compile(pattern, re.IGNORECASE)) for name, pattern in LADDER)


def joined_options(options: Sequence[str]) -> str:
    """Options as a released row has them.

    >>> joined_options(("Open", "Closed"))
    '(a) Open (b) Closed'
    """
    return " ".join(f"({letter.lower()}) {option}" for letter, option in zip(choice.LETTERS, options, strict=False))


def official_prompt(question: str, options: str) -> str:
    """The published prompt: the question, a blank, the options as released; it doesn't ask for a letter."""
    return f"{question} {options}"


def parse(text: str, options: Sequence[str], mode: str = STRICT) -> Parsed:
    """ "A" or "B" from a reply, None when no rule finds one.

    >>> options = ("left", "right")
    >>> parse("It faces left.", options).value, parse("It faces left.", options, "reference:lmms-eval").value
    ('A', None)
    """
    check_mode(mode, MODES)
    if mode == CAMBRIAN:
        said = text.lower().strip()
        for words in ("answer is", "answer is:", "answer:"):
            said = said.split(words)[-1]
        said = said.strip().rstrip(".:,").lstrip("(").rstrip(")")
        for letter, option in zip("ab", options, strict=False):
            if said in (letter, option.lower()):
                return Parsed(letter.upper(), "letter" if said == letter else "option text")
        return UNPARSED
    if mode == LMMS:
        said = text.strip()
        for name, pattern in LMMS_RULES:
            if found := pattern.search(said):
                return Parsed(found[1].upper(), name)
        return Parsed(said[0].upper(), "first letter") if said[:1].upper() in ("A", "B") else UNPARSED
    return choice.parse(text, options, mode)


def parse_grade(reply: str, mode: str = STRICT) -> Parsed:
    """ "yes" or "no" of a language model that was asked whether an answer is right.

    The published grader takes nothing but the bare word, of any case, so that "Yes." counts as wrong there; here that
    is unparsed. Strict allows white space and punctuation around it.

    >>> parse_grade("Yes.").value, parse_grade("Yes.", "reference:official").value
    ('yes', None)
    """
    check_mode(mode, GRADES)
    said = reply.lower() if mode == OFFICIAL else reply.lower().strip(" \t\r\n.!\"'*")
    return Parsed(said, "the bare word") if said in ("yes", "no") else UNPARSED


def score(answers: Sequence[str], said: Sequence[str | None], leave_out: Collection[int] = ()) -> dict:
    """Pairs and questions of replies in file order; questions 2i and 2i + 1 are pair i.

    answers: letters; said: the letter of each reply, None when unparsed. leave_out: pairs that don't count.
    pairs: both right (chance 1/4, of independent guesses; 0 for who ignores pictures), questions: of single questions;
    both, first_only, second_only, neither: counts of pairs; same_letter: share of the pairs with two parsed replies in
    which both pictures got one answer (insensitive to the picture); unparsed: replies. Raises ValueError where answers
    are no pairs.
    """
    n = check_lengths(answers=answers, replies=said)
    if n % 2:
        raise ValueError(f"{n} questions; pairs need an even number, both questions of each in a row")
    kept = [i for i in range(n // 2) if i not in leave_out]
    right = [(said[2 * i] == answers[2 * i], said[2 * i + 1] == answers[2 * i + 1]) for i in kept]
    heard = [(said[2 * i], said[2 * i + 1]) for i in kept]
    both = [a and b for a, b in right]
    return {
        "pairs": share(both, 0.25),
        "questions": share((flag for pair in right for flag in pair), 0.5),
        "both": sum(both),
        "first_only": sum(a and not b for a, b in right),
        "second_only": sum(b and not a for a, b in right),
        "neither": sum(not a and not b for a, b in right),
        "same_letter": share(a == b for a, b in heard if a is not None and b is not None),
        "unparsed": sum(letter is None for pair in heard for letter in pair),
        "left_out": n // 2 - len(kept),
    }
