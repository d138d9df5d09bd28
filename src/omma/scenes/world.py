"""The state of a scene and what is true in it. A world is drawn by draw.py and spoken about by language.py.

`facts` knows nothing of pixels: it reads the state and answers with ground atoms, so a caption can be checked without a
renderer. Coordinates are shares of the canvas, x to the right and y down. Margins keep what is doubtful out of the
facts, as in ShapeWorld (Kuhnle and Copestake 2017) and CLEVR (Johnson et al. 2017): two things that stand askew have no
relation at all.
"""

import json
import math
import random
from dataclasses import asdict, dataclass, replace
from hashlib import blake2b

from omma.scenes.kinds import EVERYTHING, KINDS, PATTERNS, Cast

__all__ = ["PATTERNS", "Atom", "Backdrop", "Thing", "World", "facts", "generator", "sample_world"]

Atom = tuple[str, ...]
MARGIN = 0.15  # least distance along the axis of a relation
SLANT = 1.2  # and it must exceed the other axis this many times
GAP = 1.08  # least distance of two centres, in sums of their radii
OPPOSITE = {"left_of": "right_of", "right_of": "left_of", "above": "below", "below": "above"}


def generator(*key: object) -> random.Random:
    """A random generator that is a function of the key alone: the same in every process, unrelated for neighbouring
    keys."""
    return random.Random(int.from_bytes(blake2b(json.dumps(key).encode(), digest_size=16).digest()))


@dataclass(frozen=True)
class Thing:
    """One object: kind, colour, centre, radius (shares of the canvas), and the attributes that can be told from its
    picture."""

    kind: str
    colour: str
    x: float
    y: float
    size: float
    attributes: tuple[tuple[str, str], ...] = ()

    def get(self, name: str) -> str | None:
        """The value of an attribute, or None where this thing does not show it."""
        return dict(self.attributes).get(name)

    def having(self, name: str, value: str) -> "Thing":
        """This thing with one attribute set to another value (its place among the attributes is kept)."""
        values = dict(self.attributes) | {name: value}
        return replace(self, attributes=tuple(values.items()))


@dataclass(frozen=True)
class Backdrop:
    sky: tuple[int, int, int]
    ground: tuple[int, int, int]
    horizon: float  # share of the canvas height


@dataclass(frozen=True)
class World:
    """things[i] is called o<i+1> in facts; `order` lists the indices from back to front."""

    things: tuple[Thing, ...]
    backdrop: Backdrop
    order: tuple[int, ...]

    def to_json(self) -> str:
        """Canonical JSON: equal worlds give equal text."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))

    @staticmethod
    def from_json(text: str) -> "World":
        """The world that `to_json` wrote. Raises ValueError when the text is not one."""
        try:
            raw = json.loads(text)
            things = tuple(
                Thing(**(t | {"attributes": tuple((str(n), str(v)) for n, v in t["attributes"])}))
                for t in raw["things"]
            )
            back = raw["backdrop"]
            backdrop = Backdrop(tuple(back["sky"]), tuple(back["ground"]), back["horizon"])
            return World(things, backdrop, tuple(raw["order"]))
        except (KeyError, TypeError) as error:
            raise ValueError(f"this is no world: {text[:80]!r} ({error}). Use World.to_json to write one") from None


def name(index: int) -> str:
    return f"o{index + 1}"


def relation(a: Thing, b: Thing) -> str | None:
    """left_of, right_of, above or below: how a stands to b; None where that is open to doubt."""
    dx, dy = b.x - a.x, b.y - a.y
    if abs(dx) >= max(MARGIN, SLANT * abs(dy)):
        return "left_of" if dx > 0 else "right_of"
    if abs(dy) >= max(MARGIN, SLANT * abs(dx)):
        return "above" if dy > 0 else "below"
    return None


def facts(world: World) -> frozenset[Atom]:
    """Everything that is true in the world, as ground atoms.

    ("kind", "o1", "cup"), ("colour", "o1", "red"), ("handle", "o1", "yes"), ("left_of", "o1", "o2"), ("count", "red
    cup", "1")
    """
    atoms: set[Atom] = set()
    counts: dict[str, int] = {}
    for i, thing in enumerate(world.things):
        atoms |= {("kind", name(i), thing.kind), ("colour", name(i), thing.colour)}
        atoms |= {(attribute, name(i), value) for attribute, value in thing.attributes}
        for what in (thing.kind, f"{thing.colour} {thing.kind}"):
            counts[what] = counts.get(what, 0) + 1
        for j, other in enumerate(world.things):
            if i != j and (how := relation(thing, other)):
                atoms.add((how, name(i), name(j)))
    return frozenset(atoms | {("count", what, str(n)) for what, n in counts.items()})


def sample_backdrop(rng: random.Random) -> Backdrop:
    """Calm and pale: no tint comes near the colour of a thing."""
    tint = lambda low, high: (rng.randint(low, high), rng.randint(low, high), rng.randint(low, high))
    return Backdrop(tint(216, 248), tint(176, 212), round(rng.uniform(0.45, 0.85), 3))


def sample_places(rng: random.Random, radii: list[float]) -> list[tuple[float, float]] | None:
    """Centres for circles that neither touch each other nor the border; None when luck was bad."""
    places: list[tuple[float, float]] = []
    for i, r in enumerate(radii):
        for _ in range(40):
            edge = 1.08 * r + 0.01
            x, y = rng.uniform(edge, 1 - edge), rng.uniform(edge, 1 - edge)
            if all(math.hypot(x - p, y - q) >= GAP * (r + s) for (p, q), s in zip(places, radii[:i], strict=True)):
                places.append((round(x, 4), round(y, 4)))
                break
        else:
            return None
    return places


def sample_attributes(rng: random.Random, kind: str) -> tuple[tuple[str, str], ...]:
    """Values for all attributes of a kind. A viewpoint comes alone: seen from above, a cup hides whether it is full."""
    all_of = KINDS[kind].attributes
    if "view" in all_of and rng.random() < 0.3:
        return (("view", rng.choice(all_of["view"].values)),)
    chosen = []
    for attribute, trait in all_of.items():
        # A label covers the texture of a flag, so a flag shows one of the two.
        clash = attribute == "text" and any(n == "texture" for n, _ in chosen)
        optional = attribute == "texture" or (attribute == "text" and kind != "sign")
        if attribute == "view" or clash or (optional and rng.random() < 0.5):
            continue
        chosen.append((attribute, rng.choice(trait.values)))
    return tuple(chosen)


def radius_for(number: int, rng: random.Random) -> float:
    """A radius at which `number` things fit comfortably."""
    low, high = {1: (0.18, 0.24), 2: (0.17, 0.22), 3: (0.155, 0.19), 4: (0.14, 0.17)}.get(number, (0.1, 0.115))
    return round(rng.uniform(low, high), 4)


def assemble(rng: random.Random, things: list[Thing]) -> World | None:
    """Find places for things (their own x and y are ignored), a backdrop and an order of drawing; None when they don't
    fit."""
    places = sample_places(rng, [t.size for t in things])
    if places is None:
        return None
    order = list(range(len(things)))
    rng.shuffle(order)
    return World(
        tuple(replace(t, x=x, y=y) for t, (x, y) in zip(things, places, strict=True)),
        sample_backdrop(rng),
        tuple(order),
    )


def keep_company(rng: random.Random, things: list[Thing], one: str, other: str, share: float) -> None:
    """Where one of two kinds stands among several things without the other, turn one of the rest into the other."""
    kinds = {thing.kind for thing in things}
    lacking = [kind for kind in (one, other) if kind not in kinds]
    if len(things) < 2 or len(lacking) != 1 or rng.random() >= share:
        return
    present = one if lacking == [other] else other
    alike = [i for i, thing in enumerate(things) if thing.kind == present]
    kept = rng.choice(alike)
    i = rng.choice([i for i in range(len(things)) if i != kept])
    things[i] = replace(things[i], kind=lacking[0], attributes=sample_attributes(rng, lacking[0]))


def sample_world(*key: object, cast: Cast = EVERYTHING) -> World:
    """A random world of one to four different things, or of one to two groups of equal things: a function of the
    key."""
    rng = generator("world", *key)
    while True:
        things: list[Thing] = []
        if rng.random() < 0.2:
            sizes = [rng.randint(max(2, cast.least), cast.most) for _ in range(rng.randint(1, 2))]
            radius = radius_for(max(3, sum(sizes)), rng)
            if sum(sizes) > 8:  # more than there is room for at that size
                radius = round(radius * math.sqrt(8 / sum(sizes)), 4)
            colours = rng.sample(cast.colours, len(sizes))
            for n, colour in zip(sizes, colours, strict=True):
                things += [Thing(rng.choice(cast.grouped), colour, 0, 0, radius)] * n
        else:
            number = rng.choice((1, 2, 2, 3, 3, 4))
            radius = radius_for(number, rng)
            for _ in range(number):
                kind = rng.choice(cast.kinds)
                colour = rng.choice(cast.colours)
                things.append(Thing(kind, colour, 0, 0, radius, sample_attributes(rng, kind)))
            for one, other, share in cast.together:
                keep_company(rng, things, one, other, share)
        if world := assemble(rng, things):
            return world
