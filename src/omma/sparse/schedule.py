"""How many visual tokens stay after which decoder layer, from a budget: plain arithmetic.

A schedule {l: k} keeps k visual tokens after layer l (0-based); -1 is before the first layer. A budget is the mean,
over the decoder layers, of the visual tokens that enter them; what a method makes of dropped tokens comes on top of k
and counts.
"""

import itertools
from collections.abc import Callable, Sequence
from functools import lru_cache

PUBLISHED_DEPTH = 32  # decoder layers of LLaVA-1.5-7B, for which the methods' layers are given

Made = Callable[[int], int]  # tokens dropped at once -> tokens made of them
Shape = Callable[[float], Sequence[float]]  # 0..1 -> share of the tokens kept after each stage, rising


def none_made(dropped: int, **options: object) -> int:
    return 0


def entering(schedule: dict[int, int], tokens: int, layers: int, made: Made = none_made) -> list[int]:
    """Visual tokens that enter each of `layers` layers, of `tokens` at first."""
    now, counts = tokens, []
    for layer in range(layers):
        keep = schedule.get(layer - 1)
        if keep is not None and keep < now:
            now = keep + made(now - keep)
        counts.append(now)
    return counts


def scaled(after: Sequence[int], layers: int, least: int = 0) -> tuple[int, ...]:
    """Published layers of a decoder of 32 in one of `layers`: round((l + 1) layers / 32) - 1, strictly rising.

    They begin at `least`. Stages that would come after the last layer but one are left out; -1 stays -1.
    """
    places: list[int] = []
    for layer in after:
        place = -1 if layer == -1 else max(round((layer + 1) * layers / PUBLISHED_DEPTH) - 1, least)
        place = max(place, places[-1] + 1) if places else place
        if place < layers - 1:
            places.append(place)
    return tuple(places)


@lru_cache(maxsize=4096)
def solved(
    budget: float, tokens: int, layers: int, after: tuple[int, ...], shape: Shape, made: Made = none_made
) -> dict[int, int] | None:
    """The schedule of this shape whose mean entering is nearest to `budget`; {} to keep all.

    after: the stages' layers; shape(t): the kept share of each stage, from t = 0 (one token) to 1 (all). None where
    even one token after each stage leaves more than budget + 0.5, because too many layers come before.
    """
    if budget >= tokens or not after:
        return {} if budget >= tokens else None

    def schedule(shares: Sequence[float]) -> dict[int, int]:
        kept = [min(max(round(share * tokens), 1), tokens) for share in shares]
        return dict(zip(after, itertools.accumulate(kept, min), strict=True))

    def mean(found: dict[int, int]) -> float:
        return sum(entering(found, tokens, layers, made)) / layers

    if mean(schedule(shape(0.0)[: len(after)])) > budget + 0.5:
        return None
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if mean(schedule(shape(middle)[: len(after)])) < budget else (low, middle)
    near = schedule(shape(high)[: len(after)])
    best, error = near, abs(mean(near) - budget)
    for steps in sorted(itertools.product((0, -1, 1, -2, 2), repeat=len(after)), key=lambda s: sum(map(abs, s))):
        kept = [min(max(k + step, 1), tokens) for k, step in zip(near.values(), steps, strict=True)]
        other = dict(zip(after, itertools.accumulate(kept, min), strict=True))
        if (away := abs(mean(other) - budget)) < error - 1e-9:
            best, error = other, away
    return best


def between(rows: Sequence[Sequence[float]]) -> Shape:
    """A shape that runs through published rows of kept shares, from few to many, in straight lines from 0 to 1."""
    ends = [[0.0] * len(rows[0]), *rows, [1.0] * len(rows[0])]

    def shape(t: float) -> list[float]:
        at = min(int(t * (len(ends) - 1)), len(ends) - 2)
        part = t * (len(ends) - 1) - at
        return [a + part * (b - a) for a, b in zip(ends[at], ends[at + 1], strict=True)]

    return shape
