"""Can a pair be solved without seeing? Probes that must stay at chance, or the pairs have a shortcut.

Each is cross-validated by pair (both members in one fold), scored by a two-sided binomial test and corrected by Holm's
method over all probes and patterns at 1 %. The statistics are those that solved naive edit pairs: edge energy, file
size, colour, area.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from PIL import Image

from omma.scenes.draw import png, render
from omma.scenes.kinds import COLOURS, NUMBERS
from omma.scenes.pairs import Pair

ENOUGH = 200  # pairs of a pattern from which the probes have power
LEVEL = 0.01
FOLDS = 5
STATISTICS = ("red", "green", "blue", "luminance", "contrast", "saturation", "edges", "area", "png_bytes")
THUMB = 16


def statistics(picture: Image.Image, png_bytes: int) -> np.ndarray:
    """(9 + 768,) float32: the global STATISTICS of a picture, then its 16 x 16 thumbnail."""
    r, g, b = np.ascontiguousarray(np.asarray(picture, np.float32).transpose(2, 0, 1) / 255)
    grey = 0.299 * r + 0.587 * g + 0.114 * b
    edges = np.abs(np.diff(grey, axis=0)).mean() + np.abs(np.diff(grey, axis=1)).mean()
    saturation = np.maximum(np.maximum(r, g), b) - np.minimum(np.minimum(r, g), b)
    colour = (saturation > 0.35).mean()
    values = [r.mean(), g.mean(), b.mean(), grey.mean(), grey.std(), saturation.mean(), edges, colour, png_bytes]
    thumb = np.asarray(picture.resize((THUMB, THUMB), Image.Resampling.BOX), np.float32) / 255
    return np.concatenate([np.array(values, np.float32), thumb.ravel()])


def probe(pairs: Sequence[Pair], size: int = 128) -> list[dict[str, Any]]:
    """One row a probe and pattern: pattern, name, accuracy, n (pairs), p (Holm-corrected, one-sided), ok (p >= 0.01).

    Draws the pairs to measure them. Below some 200 pairs a pattern the probes have little power.
    """
    by_pattern: dict[str, list[Pair]] = defaultdict(list)
    stats: dict[str, list[list[np.ndarray]]] = defaultdict(list)
    for pair in pairs:
        pictures = [render(world, size) for world in (pair.a, pair.b)]
        by_pattern[pair.pattern].append(pair)
        stats[pair.pattern].append([statistics(picture, len(png(picture))) for picture in pictures])
    return probe_features(by_pattern, {p: np.array(s) for p, s in stats.items()})


def probe_features(pairs: Mapping[str, Sequence[Pair]], stats: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """As `probe`, from what `statistics` measured: stats[pattern] is (n, 2, features), picture a then picture b."""
    rows = []
    for pattern, members in pairs.items():
        if len(members) < 2 * FOLDS:
            raise ValueError(f"{len(members)} pairs of {pattern}: the probes need at least {2 * FOLDS}")
        for name, make in PROBES.items():
            right, tries = make(members, stats[pattern].astype(np.float64))
            rows.append(
                {
                    "pattern": pattern,
                    "name": name,
                    "accuracy": right / tries,
                    "n": len(members),
                    "p": tail(right, tries),
                }
            )
    for row, p in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row |= {"p": p, "ok": p >= LEVEL}
    return rows


def tail(right: int, tries: int) -> float:
    """P(X >= right) for X binomial(tries, 1/2): how easily guessing does as well. Exact, in logarithms."""
    logs = [math.lgamma(tries + 1) - math.lgamma(k + 1) - math.lgamma(tries - k + 1) for k in range(right, tries + 1)]
    return min(1.0, math.fsum(math.exp(x - tries * math.log(2)) for x in logs))


def holm(ps: Sequence[float]) -> list[float]:
    """Adjusted p values (Holm 1979): the smallest is multiplied by m, the next by m - 1, and none falls below the one
    before."""
    adjusted, least = [0.0] * len(ps), 0.0
    for rank, i in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        least = max(least, min(1.0, (len(ps) - rank) * ps[i]))
        adjusted[i] = least
    return adjusted


def check_balance(items: Sequence[Mapping[str, Any]]) -> None:
    """Raises ValueError unless every prompt with its options has each answer equally often, and each option place
    too."""
    answers: dict[tuple[Any, ...], Counter] = defaultdict(Counter)
    places: dict[tuple[Any, ...], Counter] = defaultdict(Counter)
    for item in items:
        if item["answer"] is not None:
            key = (item["task"], item["prompt"], tuple(sorted(item["options"])))
            answers[key][item["answer"]] += 1
            places[(item["task"], item["pattern"])][item["options"].index(item["answer"])] += 1
    for key, counts in (answers | places).items():
        if len(counts) != 2 or len(set(counts.values())) != 1:
            raise ValueError(f"{key} is answered {dict(counts)}: each answer must be right equally often")


def difference(pair: Pair) -> tuple[tuple[str, str], int]:
    """What the two statements differ in, in a fixed order, and +1 when statement_a has the first of it, else -1."""
    one, other = pair.statement_a.split(), pair.statement_b.split()
    while one and other and one[0] == other[0]:
        one, other = one[1:], other[1:]
    while one and other and one[-1] == other[-1]:
        one, other = one[:-1], other[:-1]
    # Numbers in their order: "more ink, more things" must be one rule for all of them.
    number = lambda words: next((NUMBERS.index(w) for w in words if w in NUMBERS[1:]), -1)
    first = sorted((one, other), key=lambda words: (number(words), words))
    if number(one) >= 0:
        return ("fewer", "more"), 1 if first[0] == one else -1
    return (" ".join(first[0]), " ".join(first[1])), 1 if first[0] == one else -1


def folds(n: int) -> np.ndarray:
    """(n,) the fold of every pair. Roles and contents are drawn by lot already, so round-robin is as good as any."""
    return np.arange(n) % FOLDS


def logistic(x: np.ndarray, y: np.ndarray, ridge: float) -> np.ndarray:
    """(d,) weights of a ridge logistic regression without intercept, by Newton's method. x: (n, d), y: (n,) in -1,
    +1."""
    w = np.zeros(x.shape[1])
    for _ in range(8):
        p = 1 / (1 + np.exp(-np.clip(x @ w, -30, 30)))
        gradient = x.T @ ((y > 0) - p) - ridge * w
        if np.abs(gradient).max() < 1e-9:
            break
        hessian = (x * (p * (1 - p))[:, None]).T @ x + ridge * np.eye(len(w))
        step = np.linalg.solve(hessian, gradient)
        w += step
        if np.abs(step).max() < 1e-4:
            break
    return w


def _choose(x: np.ndarray, pairs: Sequence[Pair], ridge: float = 1.0, crossed: bool = True) -> tuple[int, int]:
    """How often a logistic rule on the difference of the pictures (n, d) gives the statement to its own picture.

    One rule is learnt for all statements, and with `crossed` one for every kind of difference that is common ("with"
    against "without"). A rule that has nothing to say guesses.
    """
    kinds, y = zip(*(difference(pair) for pair in pairs), strict=True)
    y = np.array(y, float)
    common = [kind for kind, count in Counter(kinds).items() if crossed and count >= 12]
    member = np.array([[kind == c for c in common] for kind in kinds], float).reshape(len(pairs), len(common))
    fold = folds(len(pairs))
    right = 0
    for f in range(FOLDS):
        train, test = fold != f, fold == f
        scaled = x / (np.sqrt((x[train] ** 2).mean(axis=0)) + 1e-12)
        wide = np.concatenate([scaled, *(scaled * member[:, [i]] for i in range(len(common)))], axis=1)
        w = logistic(wide[train], y[train], ridge)
        score = wide[test] @ w
        guess = np.where(np.abs(score) > 1e-9, np.sign(score), (-1.0) ** (np.arange(len(score)) // 2))
        right += int((guess == y[test]).sum())
    return right, len(pairs)


def _statistics(pairs: Sequence[Pair], stats: np.ndarray) -> tuple[int, int]:
    return _choose((stats[:, 0] - stats[:, 1])[:, : len(STATISTICS)], pairs)


def _one_statistic(index: int):
    def rule(pairs: Sequence[Pair], stats: np.ndarray) -> tuple[int, int]:
        """ "Take the picture with more of it" (or with less, whichever was right in the training folds)."""
        return _choose((stats[:, 0] - stats[:, 1])[:, [index]], pairs, ridge=0.1)

    return rule


def _asked_colour(pairs: Sequence[Pair], stats: np.ndarray) -> tuple[int, int]:
    """ "Take the picture that holds more of the colour in the statement": knows the words, but not where the colour
    is."""
    means = (stats[:, 0] - stats[:, 1])[:, :3]
    grey = np.mean(list(COLOURS.values()), axis=0)
    tints = []
    for pair in pairs:
        named = next((w for w in pair.statement_a.split() if w in COLOURS), None)
        tints.append((np.array(COLOURS[named]) - grey) / 255 if named else np.zeros(3))
    return _choose((means * np.array(tints)).sum(axis=1, keepdims=True), pairs, ridge=0.1)


def _thumbnail(pairs: Sequence[Pair], stats: np.ndarray) -> tuple[int, int]:
    """Random ReLU features of 16 x 16 thumbnails."""
    thumbs = stats[..., len(STATISTICS) :]
    thumbs = thumbs - thumbs.mean(axis=(0, 1))
    rng = np.random.default_rng(0)
    project, bias = rng.normal(size=(thumbs.shape[-1], 48)), rng.normal(size=48)
    features = np.maximum(thumbs @ project / thumbs.std() / np.sqrt(len(project)) + bias, 0)
    return _choose(features[:, 0] - features[:, 1], pairs, ridge=10.0, crossed=False)


def _majority(pairs: Sequence[Pair], stats: np.ndarray) -> tuple[int, int]:
    """The answer that was right most often for the question in the other folds, or overall when it is new."""
    fold, right = folds(len(pairs)), 0
    for f in range(FOLDS):
        by_question, overall = defaultdict(Counter), Counter()
        for pair, other in zip(pairs, fold, strict=True):
            if other != f:
                for answer in (pair.answer_a, pair.answer_b):
                    by_question[pair.question][answer] += 1
                    overall[answer] += 1
        for pair, own in zip(pairs, fold, strict=True):
            if own == f:
                votes = by_question.get(pair.question, overall)
                guess = max(pair.options, key=lambda option: votes[option])
                right += (guess == pair.answer_a) + (guess == pair.answer_b)
    return right, 2 * len(pairs)


def _question(pairs: Sequence[Pair], stats: np.ndarray) -> tuple[int, int]:
    """Words and word pairs of question and options -> is the first option right? Logistic, without the picture."""
    texts = [f"{pair.question} {' / '.join(pair.options)}".split() for pair in pairs]
    grams = [{*words, *pairwise(words), "bias"} for words in texts]
    vocabulary = {gram: i for i, gram in enumerate(sorted({g for each in grams for g in each}, key=str))}
    x = np.zeros((len(pairs), len(vocabulary)))
    for row, each in zip(x, grams, strict=True):
        row[[vocabulary[g] for g in each]] = 1
    # Both members of a pair, as they are asked one by one.
    y = np.array(
        [[1 if pair.options[0] == answer else -1 for answer in (pair.answer_a, pair.answer_b)] for pair in pairs]
    )
    fold, right = folds(len(pairs)), 0
    for f in range(FOLDS):
        train, test = fold != f, fold == f
        w = logistic(np.repeat(x[train], 2, axis=0), y[train].ravel(), ridge=1.0)
        right += int((np.where(x[test] @ w >= 0, 1, -1)[:, None] == y[test]).sum())
    return right, 2 * len(pairs)


PROBES = {
    "majority": _majority,
    "question": _question,
    "statistics": _statistics,
    "asked colour": _asked_colour,
    "thumbnail": _thumbnail,
} | {f"more {name}": _one_statistic(i) for i, name in enumerate(STATISTICS)}
