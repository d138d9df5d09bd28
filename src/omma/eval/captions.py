"""What a written caption is worth beside those of people: BLEU and CIDEr-D, in plain Python.

Words are runs of letters and digits in lower case; n-grams go up to four words.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from omma.eval.clusters import drawn_sums

ORDERS = (1, 2, 3, 4)
SIGMA = 6.0  # of CIDEr-D's penalty on a difference in length, in bigrams


def words_of(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def ngrams(words: Sequence[str], n: int) -> Counter:
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def bleu_counts(caption: str, references: Sequence[str]) -> list[int]:
    """What one caption adds to BLEU-4: matched n-grams, all n-grams (n = 1 to 4), its length and its reference's.

    A match counts as often as the n-gram stands in any one reference; of the references, that of the closest length
    counts, the shorter in a tie.
    """
    said, known = words_of(caption), [words_of(text) for text in references]
    matched, total = [], []
    for n in ORDERS:
        mine = ngrams(said, n)
        most: Counter = Counter()
        for words in known:
            most |= ngrams(words, n)
        matched.append(sum((mine & most).values()))
        total.append(sum(mine.values()))
    closest = min((abs(len(words) - len(said)), len(words)) for words in known)[1] if known else 0
    return [*matched, *total, len(said), closest]


def bleu(counts: Sequence[Sequence[float]]) -> float:
    """BLEU-4 of a corpus (Papineni et al. 2002), 0..1, from the `bleu_counts` of each caption; 0 where an order has no
    match."""
    return float(bleu_of_sums(np.asarray(counts, float).sum(axis=0, keepdims=True))[0]) if len(counts) else 0.0


def bleu_of_sums(sums: np.ndarray) -> np.ndarray:
    """(n,) BLEU-4 of n corpora from the sums (n, 10) of their captions' `bleu_counts`."""
    matched, total, said, known = sums[:, :4], sums[:, 4:8], sums[:, 8], sums[:, 9]
    some = matched.min(axis=1) > 0
    found = np.zeros(len(sums))
    precision = np.log(matched[some] / total[some]).mean(axis=1)
    found[some] = np.exp(precision + np.minimum(0, 1 - known[some] / said[some]))
    return found


def likeness(scores: Sequence[Sequence[float]], clusters: Sequence[str], seed: int = 0) -> dict[str, Any]:
    """{"bleu4", "bleu4_95", "cider", "cider_95"} of captions: how like those of people, and the 95 % interval
    (low, high) of a bootstrap over clusters.

    scores: (n, 11), the CIDEr-D of each caption, nan for a picture without references, and its `bleu_counts`. How rare
    an n-gram is stays what it is in the whole. None where there is nothing, an interval also with one cluster.
    """
    counts = [row[1:] for row in scores]
    rare = [(row[0], 1.0) for row in scores if not math.isnan(row[0])]
    found: dict[str, Any] = {"bleu4": bleu(counts), "bleu4_95": None, "cider": None, "cider_95": None}
    if rare:
        found["cider"] = math.fsum(value for value, _ in rare) / len(rare)
    if len(set(clusters)) > 1:
        found["bleu4_95"] = bounds(bleu_of_sums(drawn_sums(counts, clusters, seed)))
    theirs = [name for row, name in zip(scores, clusters, strict=True) if not math.isnan(row[0])]
    if len(set(theirs)) > 1:
        sums = drawn_sums(rare, theirs, seed)
        found["cider_95"] = bounds(sums[:, 0] / sums[:, 1])
    return found


def bounds(drawn: np.ndarray) -> list[float]:
    return [float(bound) for bound in np.quantile(drawn, [0.025, 0.975])]


def in_words(found: dict[str, Any]) -> str:
    """`likeness` in words: "BLEU-4 43.9 (40.1-47.6), CIDEr-D 2.17 (2.01-2.34)"."""
    between = lambda bounds, scale, digits: "" if bounds is None else (
        f" ({scale * bounds[0]:.{digits}f}-{scale * bounds[1]:.{digits}f})")  # fmt: skip
    return (f"BLEU-4 {100 * found['bleu4']:.1f}{between(found['bleu4_95'], 100, 1)}, "
            f"CIDEr-D {found['cider'] or 0:.2f}{between(found['cider_95'], 1, 2)}")  # fmt: skip


def cider(captions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """CIDEr-D of each caption (Vedantam et al. 2015), 0..10: cosines of n-gram counts, rare n-grams weighing more.

    How rare: by the share of pictures whose references hold the n-gram, so the score of one caption depends on the
    others. A reference's count caps the caption's; a difference in length costs exp(-d^2 / 72). A picture without
    references scores nan.
    """
    known = [[words_of(text) for text in texts] for texts in references]
    pictures: Counter = Counter()
    for texts in known:
        pictures.update({gram for words in texts for n in ORDERS for gram in ngrams(words, n)})
    whole = math.log(max(len(known), 1))

    def vector(words: list[str], n: int) -> dict[tuple, float]:
        return {gram: count * (whole - math.log(max(pictures[gram], 1))) for gram, count in ngrams(words, n).items()}

    found = []
    for caption, texts in zip(captions, known, strict=True):
        said, parts = words_of(caption), []
        for words in texts:
            penalty = math.exp(-((max(len(said) - 1, 0) - max(len(words) - 1, 0)) ** 2) / (2 * SIGMA**2))
            for n in ORDERS:
                mine, theirs = vector(said, n), vector(words, n)
                size = math.hypot(*mine.values()) * math.hypot(*theirs.values())
                shared = sum(min(value, theirs[gram]) * theirs[gram] for gram, value in mine.items() if gram in theirs)
                parts.append(penalty * shared / size if size else 0.0)
        found.append(10 * sum(parts) / len(parts) if parts else math.nan)
    return found
