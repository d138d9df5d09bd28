"""ANLS: how far an answer read from a document is from the nearest right one (Biten et al. 2019; DocVQA,
InfographicVQA).

    similarity("Unversity", ["University"])                        # 0.9: one letter of ten is missing

Modes: "strict" is the paper's: 1 - distance / length of the longer, without case and double blanks, and 0 from a half
on. The evaluation scripts keep exactly a half; "reference:lmms-eval" and "reference:vlmevalkit" also take the lengths
before double blanks were cleaned, the first of a reply without the blanks around it.
"""

from collections.abc import Sequence

from omma.eval.protocols.outcome import STRICT, check_lengths, check_mode, mean

LMMS, VLMEVALKIT = "reference:lmms-eval", "reference:vlmevalkit"
MODES = (STRICT, LMMS, VLMEVALKIT)


def similarity(said: str, answers: Sequence[str], threshold: float = 0.5, mode: str = STRICT) -> float:
    """What a reply earns, 0..1: its similarity to the nearest answer, 0 where less than the threshold is alike.

    Raises ValueError without an answer.
    """
    check_mode(mode, MODES)
    if not answers:
        raise ValueError("no answers; leave out a question without one, and count it")
    said = said.strip() if mode == LMMS else said
    mine, shares = _plain(said), []
    for answer in answers:
        known = _plain(answer)
        before = (known, mine) if mode == STRICT else (answer.upper(), said.upper())
        length = max(map(len, before))
        shares.append(distance(known, mine) / length if length else 0.0)
    found = 1 - min(shares)
    kept = found > threshold if mode == STRICT else found >= threshold
    return found if kept else 0.0


def score(
    replies: Sequence[str | None], answers: Sequence[Sequence[str]], threshold: float = 0.5, mode: str = STRICT
) -> dict:
    """anls: the mean over questions; exact: the share that earns 1; missing: replies that are None, which earn 0."""
    n = check_lengths(replies=replies, answers=answers)
    earned = [
        0.0 if said is None else similarity(said, known, threshold, mode)
        for said, known in zip(replies, answers, strict=True)
    ]
    return {"anls": mean(earned), "exact": mean(float(x == 1) for x in earned), "n": n,
            "missing": sum(said is None for said in replies)}  # fmt: skip


def distance(a: str, b: str) -> int:
    """Levenshtein's: the fewest letters to insert, delete or replace.

    >>> distance("kitten", "sitting")
    3
    """
    if len(a) > len(b):
        a, b = b, a
    row = list(range(len(a) + 1))
    for i, letter in enumerate(b, 1):
        corner, row[0] = row[0], i
        for j, other in enumerate(a, 1):
            corner, row[j] = row[j], corner if other == letter else 1 + min(corner, row[j], row[j - 1])
    return row[-1]


def _plain(text: str) -> str:
    return " ".join(text.lower().split())
