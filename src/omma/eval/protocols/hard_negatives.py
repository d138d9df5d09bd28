"""Hard negatives: a caption beside one made false by a few words, or two pictures with two questions.

    sugarcrepe(scores_of_true, scores_of_false)["value"]

SugarCrepe (Hsieh et al. 2023) and ARO (Yuksekgonul et al. 2023): one picture, a true and a false caption.
NaturalBench (Li et al. 2024): two pictures, two questions to be answered in words. Scores are higher for "belongs
together". A tie is wrong unless a mode says otherwise, and is counted. (Two pictures with two captions, Winoground:
metrics.score_pairs.)
"""

import re
from collections.abc import Sequence

import numpy as np

from omma.eval.metrics import by_group, estimate
from omma.eval.protocols import choice
from omma.eval.protocols.outcome import STRICT, UNPARSED, Parsed, check_mode, mean, ratio

OFFICIAL, CLIP_BENCHMARK, LMMS = "reference:official", "reference:clip-benchmark", "reference:lmms-eval"
CAPITAL = re.compile(r"\b(?:B\b|A\b(?!\s+[a-z])|A(?=\s+(?:and|as|because|is|or|since)\b))")  # "A cup" names no option
LEAST_PAIRS = 25  # ARO's attributions leave out attribute pairs with fewer items


def sugarcrepe(true: np.ndarray, false: np.ndarray, mode: str = STRICT) -> dict:
    """The share of pictures whose true caption scores higher: an estimate with `ties`.

    true, false: (n,) scores. Strict and the published script count a tie as wrong, "reference:clip-benchmark" as right.
    """
    check_mode(mode, (STRICT, OFFICIAL, CLIP_BENCHMARK))
    a, b = _two(true, false)
    ties = int((a == b).sum())
    return estimate(int((a > b).sum()) + (ties if mode == CLIP_BENCHMARK else 0), len(a), 0.5) | {"ties": ties}


def aro(
    true: np.ndarray, false: np.ndarray, kinds: Sequence[str], attributions: bool = False, mode: str = STRICT
) -> dict:
    """ARO's relations or attributions: accuracy of each kind, their mean (the printed number), and of all items.

    true, false: (n,) scores; kinds: each item's relation or pair of attributes. attributions: leave kinds with fewer
    than 25 items out of the mean, and name them. A tie is wrong in both modes: the published arg max takes the false
    caption, which stands first.
    """
    check_mode(mode, (STRICT, OFFICIAL))
    a, b = _two(true, false)
    if len(kinds) != len(a):
        raise ValueError(f"{len(kinds)} kinds for {len(a)} items; give one an item")
    hits = a > b
    each = {kind: estimate(int(hits[rows].sum()), len(rows), 0.5) for kind, rows in by_group(kinds).items()}
    few = [kind for kind, found in each.items() if attributions and found["n"] < LEAST_PAIRS]
    return {
        "macro": mean(found["value"] for kind, found in each.items() if kind not in few),
        "accuracy": estimate(int(hits.sum()), len(a), 0.5),
        "kinds": each,
        "left_out": few,
        "ties": int((a == b).sum()),
    }


def aro_order(scores: np.ndarray, mode: str = STRICT) -> dict:
    """ARO's order of words: the true caption against its shuffled ones, an estimate with `ties`.

    scores: (n, k), the true caption first. Strict: it must score higher than all others; "reference:official" takes the
    arg max, so that a tie with the best is right.
    """
    check_mode(mode, (STRICT, OFFICIAL))
    s = _finite(scores)
    if s.ndim != 2 or s.shape[1] < 2:
        raise ValueError(f"scores have shape {s.shape}; give (n, k), the true caption first, and at least one other")
    best = s[:, 1:].max(axis=1)
    tied = s[:, 0] == best
    right = (s[:, 0] > best) | (tied if mode == OFFICIAL else False)
    return estimate(int(np.sum(right)), len(s), 1 / s.shape[1]) | {"ties": int(tied.sum())}


# ------------------------------------------------------------------------------------------------ NaturalBench
def parse_naturalbench(text: str, options: tuple[str, str] = ("yes", "no"), mode: str = STRICT) -> Parsed:
    """Which of two words a reply says: ("yes", "no"), or ("A", "B") for questions with options.

    Strict: the only one of the two that it says, of letters by the rules of `choice.parse` or as the only one that
    stands there as a capital and is no article; "reference:lmms-eval": the one that comes first.

    >>> parse_naturalbench("Yes, no doubt").value, parse_naturalbench("Yes, no doubt", mode="reference:lmms-eval").value
    (None, 'yes')
    """
    check_mode(mode, (STRICT, LMMS))
    if mode == STRICT and options == ("A", "B"):
        found = choice.parse(text, options)
        if found.rule not in ("option within", UNPARSED.rule):
            return found
        capitals = set(CAPITAL.findall(text))
        return Parsed(capitals.pop(), "the only one of the two") if len(capitals) == 1 else UNPARSED
    found = {option: re.search(rf"\b{re.escape(option)}\b", text, re.IGNORECASE) for option in options}
    places = {option: match.start() for option, match in found.items() if match}
    if not places or (mode == STRICT and len(places) > 1):
        return UNPARSED
    rule = "the first of the two" if mode == LMMS else "the only one of the two"
    return Parsed(min(places, key=lambda option: places[option]), rule)


def naturalbench(right: np.ndarray) -> dict:
    """accuracy, question, image and group score of blocks of two questions and two pictures, as shares with `n`.

    right: (n, 2, 2) bool, right[question, picture]; unparsed is not right. question: a question is answered on both
    pictures; image: both questions of a picture; group: all four. Who answers alike on both pictures has no question.
    """
    r = np.asarray(right, bool)
    if r.ndim != 3 or r.shape[1:] != (2, 2):
        raise ValueError(f"right has shape {r.shape}; a block is 2 x 2, right[question, picture], so (n, 2, 2)")
    questions, images, groups = r.all(axis=2), r.all(axis=1), r.all(axis=(1, 2))
    return {
        "accuracy": ratio(int(r.sum()), r.size),
        "question": ratio(int(questions.sum()), questions.size),
        "image": ratio(int(images.sum()), images.size),
        "group": estimate(int(groups.sum()), len(r), 1 / 16),
        "n": len(r),
    }


def _two(true: np.ndarray, false: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a, b = _finite(true), _finite(false)
    if a.ndim != 1 or a.shape != b.shape:
        raise ValueError(f"scores have shapes {a.shape} and {b.shape}; give two lists of one length")
    return a, b


def _finite(scores: np.ndarray) -> np.ndarray:
    s = np.asarray(scores)
    if not np.isfinite(s).all():
        raise ValueError(f"{int((~np.isfinite(s)).sum())} scores are not finite; leave such items out and count them")
    return s
