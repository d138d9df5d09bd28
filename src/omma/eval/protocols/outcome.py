"""What all protocols share: a reply that was parsed, or not; the modes; a share with its interval.

A mode says whose rules count. "strict", the default, is defined here and has no accidents; "reference:<whose>" does
what published code does, its accidents included, so that a number can be set beside a published one. A reply that says
none of the possible answers is unparsed: it earns nothing, and is counted beside right and wrong.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from omma.eval.metrics import estimate

STRICT = "strict"


class Parsed(NamedTuple):
    """value: what was meant, None when unparsed. rule: the name of the rule that found it, "none" when none did."""

    value: str | None
    rule: str


UNPARSED = Parsed(None, "none")


def check_mode(mode: str, modes: Sequence[str]) -> None:
    """Raises ValueError when a protocol has no such mode."""
    if mode not in modes:
        raise ValueError(f"mode={mode!r}; this protocol has {', '.join(modes)}")


def check_lengths(**columns: Sequence) -> int:
    """The common length of columns; ValueError when they differ."""
    sizes = {name: len(column) for name, column in columns.items()}
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{n} {name}" for name, n in sizes.items())
        raise ValueError(f"{told}; give one of each for every item, None for a reply that is missing")
    return next(iter(sizes.values()))


def share(flags: Iterable[bool], chance: float | None = None) -> dict:
    """`metrics.estimate` of flags."""
    seen = list(flags)
    return estimate(sum(map(bool, seen)), len(seen), chance)


def ratio(part: float, whole: float) -> float | None:
    """part / whole, None where there is nothing to divide by."""
    return part / whole if whole else None


def mean(values: Iterable[float | None]) -> float | None:
    """The mean in the order given, None when there are none or one of them does not exist."""
    seen = list(values)
    return None if not seen or any(v is None for v in seen) else sum(v for v in seen if v is not None) / len(seen)
