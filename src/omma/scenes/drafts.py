"""Drafts of minimal pairs, a maker for each pattern: two worlds that exchange one thing, and what tells them apart.

A maker takes a random generator and whether to swap, and returns a draft, or None when luck was bad.
"""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from omma.scenes.kinds import KINDS, NUMBERS, WORDS, Cast
from omma.scenes.language import Claim, Noun, counted, phrase, say_count, say_exists, say_is, say_relation, the
from omma.scenes.world import (
    OPPOSITE,
    Thing,
    World,
    assemble,
    radius_for,
    relation,
    sample_attributes,
    sample_backdrop,
    sample_places,
)


@dataclass(frozen=True)
class Draft:
    """A pair before it is checked: worlds, what is edited, and the sentences of each picture, aligned."""

    a: World
    b: World
    edited: tuple[int, ...]  # indices of the things that differ
    predicates: tuple[str, ...]  # which facts may differ
    part: str  # the attribute whose pixels must be visible; "" for the whole thing
    claims_a: tuple[Claim, ...]
    claims_b: tuple[Claim, ...]
    question: str
    answers: tuple[str, str]
    margin: float | None = None
    words: tuple[str, ...] = field(default=())  # written in the picture


Maker = Callable[[random.Random, bool, Cast], Draft | None]


def _bystanders(
    rng: random.Random, cast: Cast, taken: set[str], number: int, radius: float, colours: Sequence[str]
) -> list[Thing]:
    """Things of other kinds that are the same in both pictures."""
    kinds = rng.sample([k for k in cast.kinds if k not in taken], number)
    return [Thing(k, rng.choice(colours), 0, 0, radius, sample_attributes(rng, k)) for k in kinds]


def _scene(
    rng: random.Random,
    cast: Cast,
    carriers: list[Thing],
    taken: set[str],
    colours: Sequence[str],
    large: bool = False,
) -> tuple[World, list[int]] | None:
    """Carriers and up to two bystanders at random places; the names o1, o2, ... are given by lot. Returns where
    carriers went."""
    number = rng.choice((0, 0, 1) if large else (0, 0, 1, 1, 2))
    radius = radius_for(len(carriers) + number - large, rng)
    things = [replace(t, size=radius) for t in carriers] + _bystanders(rng, cast, taken, number, radius, colours)
    order = list(range(len(things)))
    rng.shuffle(order)
    world = assemble(rng, [things[i] for i in order])
    return (world, [order.index(i) for i in range(len(carriers))]) if world else None


def _with(world: World, changes: dict[int, Thing]) -> World:
    return replace(world, things=tuple(changes.get(i, t) for i, t in enumerate(world.things)))


def _attribute_of(rng: random.Random, kind: str, attribute: str, value: str) -> tuple[tuple[str, str], ...]:
    """Random attributes that show `attribute` with this value, and nothing that could hide it."""
    trait = KINDS[kind].attributes
    if attribute == "view":
        return (("view", value),)
    hides = {"texture": "text", "text": "texture"}.get(attribute)
    others = dict(sample_attributes(rng, kind))
    values = {n: value if n == attribute else others.get(n) for n in trait if n not in (hides, "view")}
    return tuple((n, v) for n, v in values.items() if v is not None)


def _two_values(rng: random.Random, attribute: str, values: tuple[str, ...]) -> tuple[str, str]:
    pair = list(rng.choice(WORDS)) if attribute == "text" and rng.random() < 0.7 else rng.sample(values, 2)
    rng.shuffle(pair)
    return pair[0], pair[1]


def _by_attribute(pattern: str) -> Maker:
    """The maker of drafts for a pattern that a kind shows by an attribute of its own."""

    def make(rng: random.Random, swap: bool, cast: Cast) -> Draft | None:
        kind, attribute = rng.choice(cast.carriers(pattern))
        trait = KINDS[kind].attributes[attribute]
        v, w = _two_values(rng, attribute, trait.values)
        colours = rng.sample(cast.colours, 2)
        things = [
            Thing(kind, c, 0, 0, 0, _attribute_of(rng, kind, attribute, x))
            for c, x in zip(colours, (v, w), strict=True)
        ]
        found = _scene(rng, cast, things if swap else things[:1], {kind}, cast.colours, large=pattern == "text")
        if not found:
            return None
        world, where = found
        values = dict(zip(where, (v, w), strict=False))
        partner = _with(world, {i: world.things[i].having(attribute, w if x == v else v) for i, x in values.items()})
        asked = rng.choice(where)
        seed = rng.getrandbits(64)
        claims_a = _attribute_claims(random.Random(seed), world, attribute, asked, where)
        claims_b = _attribute_claims(random.Random(seed), partner, attribute, asked, where)
        mine, its = world.things[asked].get(attribute), partner.things[asked].get(attribute)
        assert mine is not None
        assert its is not None
        noun = Noun.of(world.things[asked])
        if swap and rng.random() < 0.35:
            # Which of the two, rather than what of the one.
            target = rng.choice((v, w))
            question = f"which {KINDS[kind].noun} {trait.says[trait.index(target)]}?"
            who = lambda seen: next(
                f"the {t.colour} one" for t in seen.things if t.kind == kind and t.get(attribute) == target
            )
            answers = (who(world), who(partner))
        else:
            question = trait.ask.format(the=the(noun))
            answers = (trait.options[trait.index(mine)], trait.options[trait.index(its)])
        words = (v, w) if attribute == "text" else ()
        part = "" if trait.whole else attribute
        return Draft(
            world, partner, tuple(where), (attribute,), part, claims_a, claims_b, question, answers, words=words
        )

    return make


def _attribute_claims(
    rng: random.Random, world: World, attribute: str, asked: int, where: list[int]
) -> tuple[Claim, ...]:
    """Sentences that tell the partners apart. The same generator state makes aligned sentences for both."""
    thing = world.things[asked]
    noun, full = Noun.of(thing), Noun.of(thing, attribute)
    value = thing.get(attribute)
    assert value
    said = [say_is(noun, attribute, value), say_exists(rng, full)]
    first = said.pop(rng.randrange(2))
    rest = said
    for i in where:
        other = world.things[i]
        if i != asked:
            both = [full, Noun.of(other, attribute)]
            rng.shuffle(both)
            theirs = other.get(attribute)
            assert theirs
            rest += [say_exists(rng, *both), say_is(Noun.of(other), attribute, theirs)]
            rest += [say_exists(rng, Noun.of(other, attribute))]
    for i, other in enumerate(world.things):
        if i != asked and (how := relation(thing, other)):
            rest.append(say_relation(rng, how, full, Noun.of(other)))
    for _ in range(2):
        rest.append(say_exists(rng, full))
    rng.shuffle(rest)
    return (first, *rest)


def _colour(rng: random.Random, swap: bool, cast: Cast) -> Draft | None:
    """Two things of different kinds exchange their colours, or two of one kind their textures."""
    if rng.random() < 0.3 and cast.carriers("colour"):
        return TEXTURES(rng, swap, cast)
    kinds = rng.sample(cast.kinds, 2)
    c, d = rng.sample(cast.colours, 2)
    bare = lambda kind: tuple(x for x in sample_attributes(rng, kind) if x[0] not in ("view", "texture"))
    things = [Thing(k, x, 0, 0, 0, bare(k)) for k, x in zip(kinds, (c, d), strict=True)]
    others = [x for x in cast.colours if x not in (c, d)]
    found = _scene(rng, cast, things if swap else things[:1], set(kinds), others)
    if not found:
        return None
    world, where = found
    turned = {c: d, d: c}
    partner = _with(world, {i: replace(world.things[i], colour=turned[world.things[i].colour]) for i in where})
    asked = rng.choice(where)
    seed = rng.getrandbits(64)

    def claims(seen: World) -> tuple[Claim, ...]:
        same = random.Random(seed)
        nouns = [Noun.of(seen.things[i]) for i in where]
        mine = seen.things[asked]
        said = [say_is(Noun.of(mine, colour=False), "colour", mine.colour), say_exists(same, Noun.of(mine))]
        first = said.pop(same.randrange(2))
        same.shuffle(nouns)
        rest = [*said, say_exists(same, *nouns), *(say_exists(same, noun) for noun in nouns)]
        rest += [
            say_is(Noun.of(seen.things[i], colour=False), "colour", seen.things[i].colour) for i in where if i != asked
        ]
        for i, other in enumerate(seen.things):
            if i != asked and (how := relation(mine, other)):
                rest.append(say_relation(same, how, Noun.of(mine), Noun.of(other)))
        for name_ in mine.attributes[:1]:
            rest.append(say_exists(same, Noun.of(mine, name_[0])))
        same.shuffle(rest)
        return (first, *rest)

    mine = world.things[asked]
    question = f"what colour is the {KINDS[mine.kind].noun}?"
    return Draft(
        world, partner, tuple(where), ("colour",), "", claims(world), claims(partner), question,
        (mine.colour, partner.things[asked].colour),
    )  # fmt: skip


def _position(rng: random.Random, swap: bool, cast: Cast) -> Draft | None:
    """Two things exchange their places; `single` is the same, as nothing can move alone without changing its
    relations."""
    kinds = rng.sample(cast.kinds, 2) if rng.random() < 0.7 else [rng.choice(cast.kinds)] * 2
    colours = rng.sample(cast.colours, 2)
    things = [Thing(k, c, 0, 0, 0, sample_attributes(rng, k)) for k, c in zip(kinds, colours, strict=True)]
    found = _scene(rng, cast, things, set(kinds), cast.colours)
    if not found:
        return None
    world, where = found
    i, j = where
    one, other = world.things[i], world.things[j]
    partner = _with(world, {i: replace(one, x=other.x, y=other.y), j: replace(other, x=one.x, y=one.y)})
    how = relation(one, other)
    if not how:
        return None
    plain = kinds[0] != kinds[1] and rng.random() < 0.5
    nouns = [Noun.of(t, colour=not plain) for t in (one, other)]
    full = [Noun.of(t) for t in (one, other)]
    seed = rng.getrandbits(64)

    def claims(relation_: str) -> tuple[Claim, ...]:
        same = random.Random(seed)
        back = OPPOSITE[relation_]
        said = [
            say_relation(same, relation_, nouns[0], nouns[1], definite=same.random() < 0.5),
            say_relation(same, back, nouns[1], nouns[0], definite=same.random() < 0.5),
        ]
        same.shuffle(said)
        rest = [say_relation(same, relation_, full[0], full[1], definite=d) for d in (False, True)]
        rest += [say_relation(same, back, full[1], full[0], definite=d) for d in (False, True)]
        same.shuffle(rest)
        return (*said, *rest)

    short = {"left_of": "left", "right_of": "right", "above": "above", "below": "below"}
    sides = ("left", "right") if how in ("left_of", "right_of") else ("above", "below")
    asked = rng.randrange(2)
    words = f"{sides[0]} or {sides[1]} of" if sides[0] == "left" else f"{sides[0]} or {sides[1]}"
    question = f"is {the(nouns[asked])} {words} {the(nouns[1 - asked])}?"
    mine = how if asked == 0 else OPPOSITE[how]
    margin = max(abs(one.x - other.x), abs(one.y - other.y))
    return Draft(
        world, partner, (i, j), tuple(OPPOSITE), "", claims(how), claims(OPPOSITE[how]), question,
        (short[mine], short[OPPOSITE[mine]]), margin,
    )  # fmt: skip


def _quantity(rng: random.Random, swap: bool, cast: Cast) -> Draft | None:
    """Two groups exchange their colour, or their kind: three red balls and two blue ones become two red and three blue.

    Both groups cover the same area, so the amount of red says nothing about the number.
    """
    sizes = range(1, cast.most + 1)
    m, n = rng.choice(
        [(m, n) for m in sizes for n in sizes if m != n and m + n <= cast.most + 2 and max(m, n) >= cast.least]
    )
    by_colour = rng.random() < 0.6
    kinds = rng.sample(cast.grouped, 2)
    colours = rng.sample(cast.colours, 2)
    if by_colour:
        kinds = [kinds[0]] * 2
    elif rng.random() < 0.5:
        colours = [colours[0]] * 2
    # Radii that share one coloured area unevenly among the members of a group.
    reach, radii = rng.uniform(0.175, 0.2), []
    for number in (m, n):
        shares = [rng.uniform(0.8, 1.25) for _ in range(number)]
        radii += [round(reach * math.sqrt(s / sum(shares)), 4) for s in shares]
    places = sample_places(rng, radii)
    if places is None:
        return None
    looks = [(kinds[g], colours[g]) for g in (0,) * m + (1,) * n]
    things = [Thing(k, c, x, y, r) for (k, c), (x, y), r in zip(looks, places, radii, strict=True)]
    if not swap:
        things = things[:m]
    order = rng.sample(range(len(things)), len(things))
    things = [things[i] for i in order]
    world = World(tuple(things), sample_backdrop(rng), tuple(rng.sample(range(len(things)), len(things))))
    if swap:
        turned = {(kinds[0], colours[0]): (kinds[1], colours[1]), (kinds[1], colours[1]): (kinds[0], colours[0])}
        after = [replace(t, kind=turned[t.kind, t.colour][0], colour=turned[t.kind, t.colour][1]) for t in things]
        partner = replace(world, things=tuple(after))
    else:
        if m == 1:
            return None
        partner = World(world.things[:-1], world.backdrop, tuple(i for i in world.order if i != len(things) - 1))
        n = m - 1
    nouns = [Noun(k, c if by_colour or rng.random() < 0.5 else None) for k, c in zip(kinds, colours, strict=True)]
    asked = rng.randrange(2) if swap else 0
    seed = rng.getrandbits(64)

    def claims(counts: tuple[int, int]) -> tuple[Claim, ...]:
        same = random.Random(seed)
        first = say_count(same, nouns[asked], counts[asked])
        rest = [say_count(same, nouns[asked], counts[asked]) for _ in range(3)]
        if swap:
            texts = [counted(x, c) for x, c in zip(nouns, counts, strict=True)]
            both = ("and", *(("count", x, c) for x, c in zip(nouns, counts, strict=True)))
            rest += [Claim(f"{texts[0]} and {texts[1]}", both), Claim(f"{texts[1]} and {texts[0]}", both)]
            rest += [say_count(same, nouns[1 - asked], counts[1 - asked])]
            more, fewer = (nouns[0], nouns[1]) if counts[0] > counts[1] else (nouns[1], nouns[0])
            rest.append(Claim(f"more {phrase(more, True)} than {phrase(fewer, True)}", ("more", more, fewer)))
        else:
            rest.append(Claim(f"exactly {counted(nouns[0], counts[0])}", ("count", nouns[0], counts[0])))
            rest.append(Claim(f"a picture of {counted(nouns[0], counts[0])}", ("count", nouns[0], counts[0])))
        same.shuffle(rest)
        return (first, *rest)

    counts = (m, n) if swap else (m, m)
    turned_counts = (n, m) if swap else (n, n)
    question = f"how many {phrase(nouns[asked], True)} are there?"
    edited = tuple(range(len(things)))
    predicates = ("kind", "colour") if swap else ("kind", "colour", *OPPOSITE)
    return Draft(
        world, partner, edited if swap else (len(things) - 1,), predicates, "", claims(counts), claims(turned_counts),
        question, (NUMBERS[counts[asked]], NUMBERS[turned_counts[asked]]), abs(m - n),
    )  # fmt: skip


TEXTURES = _by_attribute("colour")
DRAFTS: dict[str, Maker] = {
    p: _by_attribute(p) for p in ("orientation", "presence", "state", "structure", "text", "viewpoint")
} | {
    "quantity": _quantity,
    "position": _position,
    "colour": _colour,
}
