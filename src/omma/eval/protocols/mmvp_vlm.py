"""MMVP-VLM: nine visual patterns, fifteen pairs of pictures with a statement each (Tong et al. 2024).

    score(scores)["mean"]["image"]                                 # scores: (135, 2, 2), s[image, text], in file order

The published number is the image score: each text chooses one of the two pictures, and both have to choose their own.
The text score is the same with pictures and texts exchanged, the group score asks for both (Thrush et al. 2022).

Modes: "strict" counts a tie as wrong. "reference:official" sends a tie to the second picture, as published, where text
1 then misses and text 2 hits. Score in fp32: logits near 25 are 2^-6 apart in fp16, and tie.
"""

from collections.abc import Sequence

import numpy as np

from omma.data.benchmarks.mmvp import PAIRS_A_PATTERN, PATTERNS
from omma.eval.metrics import PAIR_CHANCE, estimate, score_pairs
from omma.eval.protocols.outcome import STRICT, check_mode, mean

OFFICIAL = "reference:official"
MODES = (STRICT, OFFICIAL)
PROMPT = "a photo of {}"  # what the published run puts a statement into


def pattern_of(pair: int) -> str:
    """The published pattern of a pair: by its place in the file, from 0, whatever the file's column says."""
    if not 0 <= pair < len(PATTERNS) * PAIRS_A_PATTERN:
        raise ValueError(f"pair {pair}; MMVP-VLM has {len(PATTERNS) * PAIRS_A_PATTERN}, counted from 0")
    return PATTERNS[pair // PAIRS_A_PATTERN]


def judge(scores: np.ndarray, mode: str = STRICT) -> dict[str, np.ndarray]:
    """(n, 2, 2) scores s[image, text] -> {"image", "text", "group": (n,) bool}."""
    check_mode(mode, MODES)
    official = score_pairs(scores)
    if mode == OFFICIAL:
        return {"image": official.image, "text": official.text, "group": official.group}
    s = np.asarray(scores)
    image = (s[:, 0, 0] > s[:, 1, 0]) & (s[:, 1, 1] > s[:, 0, 1])
    text = (s[:, 0, 0] > s[:, 0, 1]) & (s[:, 1, 1] > s[:, 1, 0])
    return {"image": image, "text": text, "group": image & text}


def score(scores: np.ndarray, patterns: Sequence[str] | None = None, mode: str = STRICT) -> dict:
    """Image, text and group score of all pairs, of each pattern, and the mean over patterns that papers print.

    scores: (n, 2, 2), s[image, text], where image 1 belongs to text 1. patterns: one a pair; None takes the published
    places of the 135 pairs. ties: pairs in which a text likes both pictures alike. Raises ValueError for other shapes.
    """
    right = judge(scores, mode)
    n = len(right["image"])
    if patterns is None and n != len(PATTERNS) * PAIRS_A_PATTERN:
        raise ValueError(f"{n} pairs; MMVP-VLM has {len(PATTERNS) * PAIRS_A_PATTERN}. Give patterns for other pairs")
    names = [pattern_of(pair) for pair in range(n)] if patterns is None else list(patterns)
    if len(names) != n:
        raise ValueError(f"{len(names)} patterns for {n} pairs; give one a pair")

    def block(rows: np.ndarray) -> dict:
        n = int(rows.sum())
        return {kind: estimate(int(flags[rows].sum()), n, PAIR_CHANCE[kind]) for kind, flags in right.items()}

    each = {name: block(np.array([name == other for other in names])) for name in dict.fromkeys(names)}
    s = np.asarray(scores)
    return {
        **block(np.ones(n, bool)),
        "mean": {kind: mean(found[kind]["value"] for found in each.values()) for kind in right},
        "patterns": each,
        "ties": int((s[:, 0, :] == s[:, 1, :]).any(axis=1).sum()),
        "mode": mode,
    }
