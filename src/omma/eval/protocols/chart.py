"""Relaxed accuracy: a number within five per cent is right, words must match (Methani et al. 2020; ChartQA).

Modes: "strict" reads a number with its signs (1,200; $3; 45 %), takes a per cent sign that only one of the two has as a
unit left out, and wants 0 where 0 is right. "reference:pix2struct", which lmms-eval and VLMEvalKit use, takes a reply
without the blanks around it, turns 45% into 0.45 always, doesn't read "1,200", and compares with 0 as text. Years are
numbers in both, so 1990 passes for 2010.
"""

import re
from collections.abc import Sequence

from omma.eval.protocols.outcome import STRICT, check_lengths, check_mode, share
from omma.eval.protocols.words import normalised

PIX2STRUCT = "reference:pix2struct"
MODES = (STRICT, PIX2STRUCT)
NUMBER = re.compile(r"\s*([-+−]?)\s*[$€£¥]?\s*(\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d*)?|\.\d+)\s*(%?)\s*\.?\s*")


def right(said: str, answer: str, tolerance: float = 0.05, mode: str = STRICT) -> bool:
    """Whether a reply passes for the answer.

    >>> right("1,200", "1190"), right("45", "45%"), right("45", "45%", mode="reference:pix2struct")
    (True, True, False)
    """
    check_mode(mode, MODES)
    if mode == PIX2STRUCT:
        said = said.strip()
        mine, known = _published(said), _published(answer)
        if mine is not None and known:
            return abs(mine - known) / abs(known) <= tolerance
        return said.lower() == answer.lower()
    mine, known = number(said), number(answer)
    if mine is None or known is None:
        return mine is None and known is None and bool(normalised(said)) and normalised(said) == normalised(answer)
    return abs(mine - known) <= tolerance * abs(known)


def number(text: str) -> float | None:
    """The number that a text is, None when it is none; signs of currency and per cent don't change it."""
    found = NUMBER.fullmatch(text)
    if not found:
        return None
    value = float(found[2].replace(",", ""))
    return -value if found[1] in ("-", "−") else value


def score(
    replies: Sequence[str | None],
    answers: Sequence[str],
    kinds: Sequence[str] = (),
    tolerance: float = 0.05,
    mode: str = STRICT,
) -> dict:
    """accuracy of all and of each kind (human, augmented); missing: replies that are None, which are not right."""
    check_lengths(replies=replies, answers=answers, **({"kinds": kinds} if len(kinds) else {}))
    pairs = zip(replies, answers, strict=True)
    hits = [said is not None and right(said, known, tolerance, mode) for said, known in pairs]
    each = {kind: share(hit for hit, k in zip(hits, kinds, strict=True) if k == kind) for kind in dict.fromkeys(kinds)}
    return {"accuracy": share(hits), "kinds": each, "missing": sum(said is None for said in replies)}


def _published(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None
