"""What a written caption is worth beside those of people: BLEU and CIDEr-D, in plain Python.

Words are runs of letters and digits in lower case; n-grams go up to four words.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence

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
    sums = [sum(column) for column in zip(*counts, strict=True)]
    if not sums or min(sums[:4]) == 0:
        return 0.0
    precision = sum(math.log(m / t) for m, t in zip(sums[:4], sums[4:8], strict=True)) / 4
    return math.exp(precision + min(0.0, 1 - sums[9] / sums[8]))


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
