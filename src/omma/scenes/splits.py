"""Which worlds are for training and which for testing: a side is a property of the world alone.

A design names combinations that are kept for the test side (CoGenT, Johnson et al. 2017, for colours and kinds), or
decides by a hash of the world's canonical JSON. So the sides of a design share no world and no held-out combination,
whatever the seeds, sizes and numbers of the tables; a minimal pair lies on a side only when both its worlds do. Every
single kind, colour, part, relation and number of the test side's words is still seen in training; its combination is
new.

What is not a matter of content (wording, scale, a left-out pattern, a secret seed) is decided by the hash, too, so that
a test world never was a training world.
"""

import math
import secrets as system_secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b

from omma.scenes.drafts import Draft
from omma.scenes.kinds import COLOURS, KINDS, PATTERNS, Cast
from omma.scenes.looks import STYLES, Look
from omma.scenes.world import World, relation, sample_world

SIDES = ("train", "test")
SMALLEST, SHRUNK = 0.18, 0.5  # extent of a training world at least, and how far a small one is shrunk
LEAST_SECRET = 16  # characters: a shorter one could be found by trying
Combination = tuple[str | int, ...]


def lot(*key: object) -> int:
    """A number that is a function of the key alone, the same in every process."""
    return int.from_bytes(blake2b(repr(key).encode(), digest_size=8).digest())


def hashed(world: World) -> str:
    """The side of a world by the hash of its canonical JSON: a quarter of all worlds is for testing."""
    return "train" if lot("iid", world.to_json()) % 4 else "test"


# ---- combinations: what of a world, and which of it is kept for one side


def kinds_in_colours(world: World, of: Sequence[int]) -> Iterator[Combination]:
    yield from ((world.things[i].kind, world.things[i].colour) for i in of)


def cogent(combination: Combination) -> str | None:
    """Every third kind takes all colours; the others take one half in training and the other half in the test."""
    kind, colour = combination
    group, half = list(KINDS).index(str(kind)) % 3, list(COLOURS).index(str(colour)) % 2
    return None if group == 2 else "train" if group == half else "test"


def parts_in_colours(world: World, of: Sequence[int]) -> Iterator[Combination]:
    for thing in (world.things[i] for i in of):
        for name, value in thing.attributes:
            if KINDS[thing.kind].attributes[name].pattern == "presence":
                yield name, value, thing.colour


def attr_pair(combination: Combination) -> str | None:
    """Of one colour in four, things with the part are for the test; of another one in four, things without it."""
    part, value, colour = combination
    return "test" if {0: "yes", 1: "no"}.get(lot("attr-pair", part, colour) % 4) == value else None


def kinds_in_relation(world: World, of: Sequence[int]) -> Iterator[Combination]:
    for i, one in enumerate(world.things):
        for j, other in enumerate(world.things[:i]):
            if one.kind != other.kind and (i in of or j in of) and (how := relation(one, other)):
                axis = "beside" if how in ("left_of", "right_of") else "stacked"
                yield axis, min(one.kind, other.kind), max(one.kind, other.kind)


def relation_object(combination: Combination) -> str | None:
    """One pair of kinds in four stands side by side in the test only, another one on top of each other."""
    axis, one, other = combination
    return "test" if {0: "beside", 1: "stacked"}.get(lot("relation-object", one, other) % 4) == axis else None


def group_sizes(world: World, of: Sequence[int]) -> Iterator[Combination]:
    """How many there are of each kind, and of each kind in each colour."""
    for thing in (world.things[i] for i in of):
        alike = [other for other in world.things if other.kind == thing.kind]
        yield from ((n,) for n in (len(alike), sum(other.colour == thing.colour for other in alike)))


def count(combination: Combination) -> str | None:
    """Up to five in training, six to eight in the test."""
    (number,) = combination
    return "test" if int(number) > 5 else None


def extent(world: World) -> float:
    """Square root of the sum of the squared radii: how much of the canvas is covered."""
    return math.sqrt(sum(thing.size**2 for thing in world.things))


@dataclass(frozen=True)
class Design:
    """How train and test differ. Without combinations the hash of a world decides."""

    name: str
    doc: str
    combinations: Callable[[World, Sequence[int]], Iterator[Combination]] | None = None
    kept_for: Callable[[Combination], str | None] | None = None  # the one side that shows it; None is both
    test_patterns: tuple[str, ...] = PATTERNS
    train_patterns: tuple[str, ...] = PATTERNS
    wording: str = ""  # how the test side is reworded (wording.py)

    def patterns(self, side: str) -> tuple[str, ...]:
        """The patterns that this side has pairs of."""
        return self.test_patterns if side == "test" else self.train_patterns

    def cast(self, side: str, cast: Cast) -> Cast:
        """What may appear on a side."""
        if self.name == "count":
            return replace(cast, least=6, most=8) if side == "test" else replace(cast, most=5)
        return cast

    def fit(self, side: str, world: World) -> World:
        """The world as this side shows it: `scale` shrinks what it tests, every thing about its own centre."""
        if self.name != "scale" or side == "train":
            return world
        return replace(world, things=tuple(replace(t, size=round(SHRUNK * t.size, 4)) for t in world.things))

    def look(self, side: str, look: Look, *key: object) -> Look:
        """How one unit looks: `style` tests each on a style that it draws by lot, and trains on flat ones."""
        if self.name != "style":
            return look
        return replace(look, style="flat" if side == "train" else STYLES[1 + lot("style", *key) % (len(STYLES) - 1)])

    def admits(self, side: str, world: World, of: Sequence[int] | None = None) -> bool:
        """Does the world lie on this side? of: the edited things, which on the test side have to show what is new."""
        if self.name == "scale" and (extent(world) >= SMALLEST) != (side == "train"):
            return False
        if not self.combinations or not self.kept_for:
            return hashed(world) == side
        whole = range(len(world.things))
        if any(self.kept_for(c) not in (None, side) for c in self.combinations(world, whole)):
            return False
        shown = self.combinations(world, whole if of is None else of)
        return side == "train" or any(self.kept_for(c) == "test" for c in shown)

    def admit(self, side: str, draft: Draft) -> Draft | None:
        """The draft of a pair as this side shows it, or None when one of its worlds does not lie on it."""
        a, b = self.fit(side, draft.a), self.fit(side, draft.b)
        edited = [[i for i in draft.edited if i < len(world.things)] for world in (a, b)]
        inside = self.admits(side, a, edited[0]) and self.admits(side, b, edited[1])
        return replace(draft, a=a, b=b) if inside else None

    def world(self, side: str, *key: object, cast: Cast) -> World:
        """A random world of a side, a function of the key. ValueError when the cast has none to offer."""
        for attempt in range(5000):
            world = self.fit(side, sample_world(*key, *([attempt] if attempt else []), cast=cast))
            if self.admits(side, world):
                return world
        raise ValueError(f"none of 5000 worlds lies on the {side} side of {self.name}; a larger cast of kinds and "
                         "colours leaves more to choose from")  # fmt: skip


PARTLESS = ("quantity", "viewpoint")  # things in groups, and things seen from a stated place, show no parts
DESIGNS = {
    d.name: d
    for d in (
        Design("iid", "other worlds of the same making"),
        Design("cogent", "kinds in colours that they did not have", kinds_in_colours, cogent),
        Design("attr-pair", "parts on things of colours that did not have (or lack) them", parts_in_colours, attr_pair,
               test_patterns=tuple(p for p in PATTERNS if p not in PARTLESS)),
        Design("relation-object", "kinds side by side (or above each other) that were not", kinds_in_relation,
               relation_object),
        Design("count", "six to eight where training had up to five", group_sizes, count, test_patterns=("quantity",)),
        Design("template", "sentences in other frames", wording="template"),
        Design("synonym", "other words for the same things", wording="synonym"),
        Design("style", "shaded, outlined and sketched pictures where training had flat ones"),
        Design("scale", "things of half the size"),
        Design("fresh", "worlds from a secret seed, which no training can have used"),
    )
}  # fmt: skip
PATTERN_OUT = "pattern-out:"


def design(name: str) -> Design:
    """The design of this name; "pattern-out:text" trains on pairs of the other eight patterns. ValueError for an
    unknown one."""
    if name in DESIGNS:
        return DESIGNS[name]
    pattern = name.removeprefix(PATTERN_OUT)
    if name.startswith(PATTERN_OUT) and pattern in PATTERNS:
        rest = tuple(p for p in PATTERNS if p != pattern)
        return Design(name, "pairs of a pattern that training had none of", None, None, (pattern,), rest)
    known = [*DESIGNS, *(PATTERN_OUT + p for p in PATTERNS)]
    raise ValueError(f"no split design {name!r}; there are {', '.join(known)}")


def check_side(name: str, side: str) -> Design:
    """The design, after a check that it has this side."""
    made = design(name)
    sides = ("test",) if name == "fresh" else SIDES
    if side not in sides:
        raise ValueError(f"split={side!r}: {name} has {' and '.join(sides)}")
    return made


def secret_seed(secret: str | None) -> str:
    """The seed of `fresh`: the user's secret, or 128 bits from the operating system that nobody gets to see.

    Raises ValueError for a secret that could be found by trying.
    """
    if secret is None:
        return system_secrets.token_hex(16)
    if len(secret) < LEAST_SECRET:
        raise ValueError(f"a secret of {len(secret)} characters could be found by trying; the least is {LEAST_SECRET}")
    return secret


def public_name(secret: str) -> str:
    """Ten hexadecimal digits that name a secret without telling it."""
    return blake2b(secret.encode(), digest_size=5, person=b"omma-fresh").hexdigest()
