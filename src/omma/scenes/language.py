"""Plain English about a world, each sentence with its meaning, and the executor that decides it from the facts alone.

A claim is a text and a form. `holds` answers True, False or None (open to doubt, as in ShapeWorld, Kuhnle and Copestake
2017): "the red cup" of a world with two red cups, or a relation of things that stand askew. Only True and False are
ever used.
"""

import random
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import Any

from omma.scenes.kinds import KINDS, NUMBERS, UNSAID
from omma.scenes.world import OPPOSITE, Atom, Thing, World, facts, generator, name, relation

MOST_WORDS = 18
RELATIONS = {
    "left_of": ("left of", "to the left of"),
    "right_of": ("right of", "to the right of"),
    "above": ("above",),
    "below": ("below",),
}


@dataclass(frozen=True)
class Noun:
    """What a noun phrase asks of a thing: "red cup with a handle"."""

    kind: str
    colour: str | None = None
    attributes: tuple[tuple[str, str], ...] = ()

    @staticmethod
    def of(thing: Thing, *attributes: str, colour: bool = True) -> "Noun":
        values = dict(thing.attributes)
        return Noun(thing.kind, thing.colour if colour else None, tuple((a, values[a]) for a in attributes))


@dataclass(frozen=True)
class Claim:
    """text and what it says: ("exists", noun, ...), ("is", noun, attribute, value), ("relation", how, noun, noun),
    ("count", noun, n), ("more", noun, noun) or ("and", form, ...)."""

    text: str
    form: tuple[Any, ...]


def article(words: str) -> str:
    return ("an " if words[0] in "aeiou" else "a ") + words


def phrase(noun: Noun, plural: bool = False) -> str:
    """The noun phrase without an article: red cups with a handle and ..."""
    kind = KINDS[noun.kind]
    front, behind = [], []
    for attribute, value in noun.attributes:
        trait = kind.attributes[attribute]
        if trait.before:
            front.append(trait.before[trait.index(value)])
        else:
            behind.append(trait.after[trait.index(value)])
    # "with a fin and a forked tail" rather than "with a fin with a forked tail"
    behind.sort(key=lambda p: (p.startswith("that "), p.startswith("with")))
    tail, last = "", ""
    for words in behind:
        first, _, rest = words.partition(" ")
        tail += f" and {rest}" if first == last and first in ("with", "that") else f" {words}"
        last = first
    head = [*front, *([noun.colour] if noun.colour else []), kind.plural if plural else kind.noun]
    return " ".join(head) + tail


def a(noun: Noun) -> str:
    return article(phrase(noun))


def the(noun: Noun) -> str:
    return "the " + phrase(noun)


def joined(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


class Known:
    """Facts, sorted by thing, ready to be asked."""

    def __init__(self, atoms: Iterable[Atom]):
        self.things: dict[str, dict[str, str]] = {}
        self.relations: set[Atom] = set()
        for atom in atoms:
            if atom[0] in OPPOSITE:
                self.relations.add(atom)
            elif atom[0] != "count":
                self.things.setdefault(atom[1], {})[atom[0]] = atom[2]

    def fits(self, thing: str, noun: Noun) -> bool | None:
        """Is this thing what the noun says? None when it could be, but an attribute is not to be seen."""
        values = self.things[thing]
        asked = (("kind", noun.kind), *((("colour", noun.colour),) if noun.colour else ()), *noun.attributes)
        doubt = False
        for attribute, value in asked:
            if attribute not in values:
                doubt = True
            elif values[attribute] != value:
                return False
        return None if doubt else True

    def which(self, noun: Noun) -> list[str] | None:
        """The things that fit, or None when that is open to doubt."""
        answers = {t: self.fits(t, noun) for t in self.things}
        return None if None in answers.values() else sorted(t for t, fit in answers.items() if fit)


def holds(form: tuple[Any, ...], known: Known) -> bool | None:
    """Is the form true of the facts? None when that is open to doubt. Raises ValueError for a form that does not
    exist."""
    match form:
        case ("and", *forms):
            found = [holds(part, known) for part in forms]
            return False if False in found else None if None in found else True
        case ("exists", noun):
            answers = [known.fits(t, noun) for t in known.things]
            return True if True in answers else None if None in answers else False
        case ("is", noun, attribute, value):
            things = known.which(noun)
            if things is None or len(things) != 1 or attribute not in known.things[things[0]]:
                return None
            return known.things[things[0]][attribute] == value
        case ("relation", how, noun, other):
            left, right = known.which(noun), known.which(other)
            if left is None or right is None:
                return None
            pairs = [(x, y) for x in left for y in right if x != y]
            if any((how, x, y) in known.relations for x, y in pairs):
                return True
            # "not left of" is said only of what is clearly elsewhere.
            clear = all(any((r, x, y) in known.relations for r in OPPOSITE) for x, y in pairs)
            return False if clear else None
        case ("count", noun, number):
            things = known.which(noun)
            return None if things is None else len(things) == number
        case ("more", noun, other):
            left, right = known.which(noun), known.which(other)
            return None if left is None or right is None else len(left) > len(right)
    raise ValueError(f"no form {form[0]!r}; there are exists, is, relation, count, more, and")


def truth(claim: Claim, world: World) -> bool | None:
    """Is the claim true of the world? Decided from `facts`, never from pixels."""
    return holds(claim.form, Known(facts(world)))


def say_exists(rng: random.Random, *nouns: Noun) -> Claim:
    """ "a red cup with a handle and a blue fish" """
    text = joined([a(noun) for noun in nouns])
    frame = rng.choice(("{}", "{}", "{}", "there is {}", "a picture of {}"))
    return Claim(frame.format(text), ("and", *(("exists", noun) for noun in nouns)))


def say_is(noun: Noun, attribute: str, value: str) -> Claim:
    """ "the red cup has a handle" """
    if attribute == "colour":
        return Claim(f"{the(noun)} is {value}", ("is", noun, attribute, value))
    trait = KINDS[noun.kind].attributes[attribute]
    return Claim(f"{the(noun)} {trait.says[trait.index(value)]}", ("is", noun, attribute, value))


def say_relation(rng: random.Random, how: str, noun: Noun, other: Noun, definite: bool = False) -> Claim:
    """ "a red cup left of a blue fish", "the red cup is left of the blue fish" """
    words = rng.choice(RELATIONS[how])
    text = f"{the(noun)} is {words} {the(other)}" if definite else f"{a(noun)} {words} {a(other)}"
    return Claim(text, ("relation", how, noun, other))


def counted(noun: Noun, number: int) -> str:
    return f"{NUMBERS[number]} {phrase(noun, plural=number != 1)}"


def say_count(rng: random.Random, noun: Noun, number: int) -> Claim:
    """ "there are three red balls" """
    frame = rng.choice(("there is {}" if number == 1 else "there are {}", "{}"))
    return Claim(frame.format(counted(noun, number)), ("count", noun, number))


def check_unsaid(never: Collection[str]) -> None:
    """ValueError for a pattern that captions can't do without."""
    if unknown := [pattern for pattern in never if pattern not in UNSAID]:
        raise ValueError(f"never={unknown[0]!r}: what captions can leave unsaid is {', '.join(UNSAID)}; colour and "
                         "number tell things apart in nearly every sentence")  # fmt: skip


def unsaid(world: World, never: Collection[str]) -> World:
    """The world as one sees it who never speaks of these patterns: its things lack the attributes that show them."""
    if not never:
        return world
    shown = lambda thing: tuple(x for x in thing.attributes if KINDS[thing.kind].attributes[x[0]].pattern not in never)
    return replace(world, things=tuple(replace(thing, attributes=shown(thing)) for thing in world.things))


def spoken_of(form: tuple[Any, ...]) -> set[str]:
    """The patterns of `UNSAID` that a form speaks of, by an attribute of one of its nouns or by a relation."""
    patterns = {"position"} if form[0] == "relation" else set()
    for part in form:
        if isinstance(part, Noun):
            patterns |= {KINDS[part.kind].attributes[name].pattern for name, _ in part.attributes}
        elif isinstance(part, tuple):
            patterns |= spoken_of(part)
    if form[0] == "is" and form[2] != "colour":
        patterns.add(KINDS[form[1].kind].attributes[form[2]].pattern)
    return patterns & set(UNSAID)


def claims(world: World, *key: object, number: int = 4, never: Collection[str] = ()) -> list[Claim]:
    """Up to `number` different true claims about the world, from the whole scene to one attribute: a function of the
    key. None of them speaks of the patterns in `never`."""
    rng = generator("claims", *key)
    known = Known(facts(world))
    world = unsaid(world, never)
    makers = [_whole, _thing, _relation, _attribute, _count, _relation, _thing]
    rest = [maker for maker in makers[1:] if maker is not _relation or "position" not in never]
    rng.shuffle(rest)
    said: dict[str, Claim] = {}
    for maker in [makers[0], *rest] * 2:
        claim = maker(rng, world)
        if claim and len(claim.text.split()) <= MOST_WORDS and holds(claim.form, known):
            said.setdefault(claim.text, claim)
        if len(said) == number:
            break
    chosen = list(said.values())
    rng.shuffle(chosen)
    return chosen


def captions(world: World, *key: object, never: Collection[str] = ()) -> list[str]:
    """Three to five true captions of differing detail: a function of the key. None speaks of the patterns in `never`,
    which may leave two."""
    number = generator("captions", *key).choice((3, 4, 5))
    return [claim.text for claim in claims(world, *key, number=number, never=never)]


def _groups(world: World) -> dict[tuple[str, str], int]:
    groups: dict[tuple[str, str], int] = {}
    for thing in world.things:
        groups[thing.colour, thing.kind] = groups.get((thing.colour, thing.kind), 0) + 1
    return groups


def _whole(rng: random.Random, world: World) -> Claim:
    """The list of everything in the picture."""
    groups = list(_groups(world).items())
    rng.shuffle(groups)
    nouns = [(Noun(kind, colour), n) for (colour, kind), n in groups]
    text = joined([a(noun) if n == 1 else counted(noun, n) for noun, n in nouns])
    return Claim(text, ("and", *(("exists", noun) if n == 1 else ("count", noun, n) for noun, n in nouns)))


def _seen(rng: random.Random, thing: Thing, most: int) -> list[str]:
    names = [n for n, _ in thing.attributes]
    return rng.sample(names, min(len(names), rng.randint(0, most)))


def _thing(rng: random.Random, world: World) -> Claim:
    thing = rng.choice(world.things)
    return say_exists(rng, Noun.of(thing, *_seen(rng, thing, 2) or _seen(rng, thing, 1)))


def _attribute(rng: random.Random, world: World) -> Claim | None:
    thing = rng.choice(world.things)
    if not thing.attributes:
        return say_is(Noun.of(thing, colour=False), "colour", thing.colour)
    attribute, value = rng.choice(thing.attributes)
    return say_is(Noun.of(thing), attribute, value)


def _relation(rng: random.Random, world: World) -> Claim | None:
    if len(world.things) < 2:
        return None
    one, other = rng.sample(world.things, 2)
    look, groups = lambda t: (t.colour, t.kind), _groups(world)
    if look(one) == look(other) or not (how := relation(one, other)):
        return None
    unique = groups[look(one)] == groups[look(other)] == 1  # "the red cup" is said of the only one
    detail = rng.random() < 0.5
    nouns = [Noun.of(t, *(_seen(rng, t, 1) if detail else ())) for t in (one, other)]
    return say_relation(rng, how, nouns[0], nouns[1], definite=unique and rng.random() < 0.3)


def _count(rng: random.Random, world: World) -> Claim:
    (colour, kind), number = max(_groups(world).items(), key=lambda g: (g[1], rng.random()))
    return say_count(rng, Noun(kind, colour), number)


def tags(world: World) -> list[str]:
    """What is to be seen of each thing, two facts of it at a time, sorted: "red cup", "cup with a handle", "red thing
    with a handle"; and of words on them also what they say, on whatever."""
    found = set()
    for thing in world.things:
        found.add(phrase(Noun(thing.kind, thing.colour)))
        for attribute, value in thing.attributes:
            said = phrase(Noun(thing.kind, None, ((attribute, value),)))
            plain = said.replace(KINDS[thing.kind].noun, "thing", 1)
            found |= {said, f"{thing.colour} {plain}"}
            if attribute == "text":  # twenty words on four kinds: each by itself is rare
                found.add(plain)
    return sorted(found)


def described(world: World) -> list[str]:
    """Each thing with all that is to be seen of it, in the order of the world: "a red fish facing left with a fin"."""
    return [a(Noun.of(thing, *(name for name, _ in thing.attributes))) for thing in world.things]


def named(world: World) -> list[str]:
    """The facts as text, sorted: "left_of(o1, o2)"."""
    return sorted(f"{atom[0]}({', '.join(atom[1:])})" for atom in facts(world))


__all__ = ["Claim", "Known", "Noun", "captions", "claims", "described", "holds", "name", "named", "tags", "truth"]
