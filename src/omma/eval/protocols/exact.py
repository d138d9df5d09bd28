"""Exact match: one short answer, right or wrong, as GQA and video question answering (TGIF, MSVD, MSRVTT-QA) count.

Modes: "strict" compares without case, punctuation and articles, numbers as digits; "reference:gqa" compares the strings
as they stand; "reference:lmms-eval" without the blanks around them, case and ASCII punctuation;
"reference:vlmevalkit" without the blanks and case.
"""

import string
from collections.abc import Callable, Sequence

from omma.eval.metrics import by_group
from omma.eval.protocols.outcome import STRICT, UNPARSED, Parsed, check_lengths, check_mode, share
from omma.eval.protocols.words import normalised

GQA, LMMS, VLMEVALKIT = "reference:gqa", "reference:lmms-eval", "reference:vlmevalkit"
MODES = (STRICT, GQA, LMMS, VLMEVALKIT)
NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
KINDS = ("what", "who", "how", "when", "where")  # how MSVD-QA and MSRVTT-QA divide questions (Xu et al. 2017)


def parse(text: str, mode: str = STRICT) -> Parsed:
    """What a mode compares of an answer; strict reads the first line that says something, unparsed without one.

    >>> parse("The red cup.").value, parse("The red cup.", "reference:lmms-eval").value
    ('red cup', 'the red cup')
    """
    check_mode(mode, MODES)
    if mode == GQA:
        return Parsed(text, "as it stands")
    if mode == LMMS:
        return Parsed(text.strip().lower().translate(NO_PUNCTUATION), "without case and punctuation")
    if mode == VLMEVALKIT:
        return Parsed(text.strip().lower(), "without case")
    said = normalised(next((line for line in text.splitlines() if line.strip()), ""))
    return Parsed(said, "the first line") if said else UNPARSED


def right(text: str, answer: str, mode: str = STRICT) -> bool:
    """Whether a reply is the answer."""
    said = parse(text, mode).value
    return said is not None and said == parse(answer, mode).value


def kind_of(question: str) -> str:
    """The kind of a video question: its first word if it is one of KINDS, else "other".

    >>> kind_of("Who is riding?"), kind_of("does it rain?")
    ('who', 'other')
    """
    word = question.strip().lower().partition(" ")[0]
    return word if word in KINDS else "other"


def score(replies: Sequence[str | None], answers: Sequence[str], kinds: Sequence[str] = (), mode: str = STRICT) -> dict:
    """Accuracy of all replies and of each kind (a question type, a video task); a reply is None when there is none.

    Returns accuracy, kinds: {kind: estimate}, unparsed, mode. Raises ValueError when the columns differ in length.
    """
    check_mode(mode, MODES)
    check_lengths(replies=replies, answers=answers, **({"kinds": kinds} if len(kinds) else {}))
    known: dict[str, str | None] = {}
    hits, unparsed = [], 0
    for text, answer in zip(replies, answers, strict=True):
        said = None if text is None else parse(text, mode).value
        if answer not in known:
            known[answer] = parse(answer, mode).value
        unparsed += said is None
        hits.append(said is not None and said == known[answer])
    each = {kind: share(hits[row] for row in rows) for kind, rows in by_group(kinds).items()} if len(kinds) else {}
    return {"accuracy": share(hits), "kinds": each, "unparsed": unparsed, "mode": mode}


def distances(replies: Sequence[str], counts: Sequence[int], read: Callable[[str], float | None]) -> dict:
    """TGIF-QA's count task (Jang et al. 2017): the mean squared distance to the number of repetitions.

    read: a reply -> the number it says, None when unparsed; these are left out and counted. The published number rounds
    a reply to a whole one from 1 to 10 first.
    """
    check_lengths(replies=replies, counts=counts)
    said = [read(text) for text in replies]
    errors = [(min(10, max(1, round(s))) - c) ** 2 for s, c in zip(said, counts, strict=True) if s is not None]
    return {"mean_squared": sum(errors) / len(errors) if errors else None, "n": len(errors),
            "unparsed": len(said) - len(errors)}  # fmt: skip
