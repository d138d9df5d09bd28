"""Ways to drop visual tokens, as a person writes them: "fastv:positions=compact" at "64", "1/9" or "table:64"."""

import ast
import hashlib
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

from omma.sparse.methods import METHODS
from omma.sparse.patch import sparsify

DENSE, ALL = "dense", "all"  # the model as it is, with all its tokens
ALWAYS = ("uniform", "random")


@dataclass(frozen=True)
class Way:
    """A method with its options at a budget: what a person asked for. method: as written, "fastv:positions=compact"."""

    method: str
    budget: str

    @property
    def name(self) -> str:
        return self.method.partition(":")[0]

    @cached_property
    def options(self) -> dict[str, Any]:
        """What stands behind the name, and the budget, as `sparsify` takes them."""
        found: dict[str, Any] = {}
        for part in self.method.split(":")[1:]:
            key, equals, value = part.partition("=")
            if not (key and equals):
                raise ValueError(f"method {self.method!r}: options are name:key=value:key=value")
            try:
                found[key] = ast.literal_eval(value.capitalize() if value in ("true", "false") else value)
            except (ValueError, SyntaxError):
                found[key] = value
        kind, value = read_budget(self.budget)
        return {kind: value, **found}

    def enter(self, model: Any, seed: int) -> AbstractContextManager:
        """The block within which `model` is like this. seed: for a method that draws by chance."""
        if self.name == DENSE:
            return nullcontext()
        chance = {"seed": seed} if "seed" in METHODS[self.name].options else {}
        return sparsify(model, self.name, **{**chance, **self.options})


def read_budget(text: str) -> tuple[str, Any]:
    """ "64" -> budget 64 tokens, "1/9" or "0.11" -> ratio, "table:64" -> a published table. ValueError for others."""
    kind, colon, value = text.rpartition(":")
    if kind == "table" and colon:
        return "schedule", value
    try:
        number = Fraction(text)
    except (ValueError, ZeroDivisionError):
        number = Fraction(0)
    if number <= 0:
        raise ValueError(f"budget {text!r}: write tokens (64), a share of the picture's (1/9), or a table (table:64)")
    return ("budget", float(number)) if number >= 1 else ("ratio", float(number))


def ways(methods: Sequence[str], budgets: Sequence[str]) -> list[Way]:
    """Dense first, then every method at every budget, with "uniform" and "random" among them.

    Raises ValueError for a method that there isn't, or a budget that is none.
    """
    if unknown := [name for name in methods if name.partition(":")[0] not in METHODS]:
        raise ValueError(f"no method {unknown[0]!r}; there are {', '.join(METHODS)}")
    asked = list(dict.fromkeys([*methods, *ALWAYS]))
    found = [Way(DENSE, ALL)] + [Way(method, budget) for method in asked for budget in dict.fromkeys(budgets)]
    for way in found[1:]:
        way.options  # noqa: B018  reads them, so that a mistake is told before the work
    return found


def stem_of(way: Way, seed: int) -> str:
    """A file name for a cell, legible and different for different cells."""
    mark = hashlib.blake2b(repr((way.method, way.budget, seed)).encode(), digest_size=4).hexdigest()
    legible = "".join(c if c.isalnum() or c in "-." else "_" for c in f"{way.method}-{way.budget}")[:60]
    return f"{legible}-seed{seed}-{mark}"
