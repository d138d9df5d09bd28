"""Questions about a world: free-form ("what colour is the cup?") and yes/no, of all nine patterns.

A question comes with what may be answered, each answer with the forms of language.py that would make it right. It is
asked only where the executor finds one answer right and every other one wrong, from the facts alone.
"""

import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from omma.scenes.kinds import COLOURS, KINDS, NUMBERS, PATTERNS, WORDS, Attribute
from omma.scenes.language import MOST_WORDS, RELATIONS, Known, Noun, a, counted, holds, phrase, the, unsaid
from omma.scenes.world import Thing, World, facts, generator, relation

Form = tuple
YES_NO = ("yes", "no")
LETTERS = tuple(sorted({word[0] for pair in WORDS for word in pair}))


@dataclass(frozen=True)
class Question:
    """A question and what may be answered to it; `answer` is one of the options."""

    text: str
    options: tuple[str, ...]
    answer: str
    pattern: str


@dataclass(frozen=True)
class Draft:
    """A question before it is decided. choices: answer -> forms, of which one has to hold for it to be right."""

    text: str
    choices: dict[str, tuple[Form, ...]]
    pattern: str


Maker = Callable[[random.Random, World], Draft | None]


def decide(choices: dict[str, tuple[Form, ...]], known: Known) -> str | None:
    """The one right answer; None where it is open to doubt, or where more than one answer, or none, is right.

    "no" beside "yes" is right where "yes" is wrong.
    """
    found: dict[str, bool | None] = {}
    for answer, forms in choices.items():
        values = [holds(form, known) for form in forms]
        found[answer] = True if True in values else None if None in values else False
    if tuple(choices) == YES_NO and found["yes"] is not None:
        found["no"] = not found["yes"]
    right = [answer for answer, value in found.items() if value]
    return right[0] if len(right) == 1 and None not in found.values() else None


def questions(world: World, *key: object, number: int, never: Collection[str] = ()) -> list[Question]:
    """Up to `number` different questions about the world, patterns in turn: a function of the key.

    Every pattern that the world shows is asked about before one is asked about again. A yes/no question is drafted to
    be answered yes as often as no. None speaks of the patterns in `never`.
    """
    rng = generator("questions", *key)
    known = Known(facts(world))
    world = unsaid(world, never)
    asked: dict[str, Question] = {}
    for _ in range(4 * number):
        for pattern in rng.sample(PATTERNS, len(PATTERNS)):
            if pattern in never:
                continue
            draft = rng.choice(MAKERS[pattern])(rng, world)
            if len(asked) == number:
                return list(asked.values())
            if draft is None or draft.text in asked or len(draft.text.split()) > MOST_WORDS:
                continue
            if answer := decide(draft.choices, known):
                asked[draft.text] = Question(draft.text, tuple(draft.choices), answer, draft.pattern)
    return list(asked.values())


# ---------------------------------------------------------------------------------------------------------- parts
def yes_no(text: str, form: Form, pattern: str) -> Draft:
    return Draft(text, {"yes": (form,), "no": ()}, pattern)


def one_noun(rng: random.Random, world: World, thing: Thing, without: str = "") -> Noun | None:
    """A noun phrase that only this thing fits, as short as chance wants it; never by the attribute `without`."""
    shown = [name for name, _ in thing.attributes if name not in (without, "view")]
    attributes = rng.sample(shown, min(len(shown), rng.choice((0, 0, 0, 1))))
    colour = without != "colour" and rng.random() < 0.7
    for noun in (Noun.of(thing, *attributes, colour=colour), Noun.of(thing, colour=without != "colour")):
        known = Known(facts(world))
        if (found := known.which(noun)) is not None and len(found) == 1:
            return noun
    return None


def shown(rng: random.Random, world: World, pattern: str) -> tuple[Thing, str, Attribute, str] | None:
    """A thing of the world that shows an attribute of the pattern: thing, attribute's name, attribute, value."""
    found = [(thing, name, KINDS[thing.kind].attributes[name], value) for thing in world.things
             for name, value in thing.attributes if KINDS[thing.kind].attributes[name].pattern == pattern]  # fmt: skip
    return rng.choice(found) if found else None


def other_value(rng: random.Random, world: World, thing: Thing, name: str, values: Sequence[str]) -> str:
    """A value that the thing has not: what another thing shows, where there is one, so that seeing it is not enough."""
    own = thing.get(name)
    beside = [value for t in world.things if (value := t.get(name)) not in (None, own) and value in values]
    return rng.choice(beside if beside and rng.random() < 0.7 else [v for v in values if v != own])  # type: ignore[return-value]


def asked_whether(subject: str, says: str) -> str:
    """ "the cup", "has a handle" -> "does the cup have a handle?" """
    verb, _, rest = says.partition(" ")
    return f"is {subject} {rest}?" if verb == "is" else f"does {subject} {'have' if verb == 'has' else 'say'} {rest}?"


# ---------------------------------------------------------------------------------------------------------- makers
def attribute_question(pattern: str) -> Maker:
    """ "which way is the red car facing?", "is the lamp on or off?", "what does the sign say?" """

    def make(rng: random.Random, world: World) -> Draft | None:
        if not (found := shown(rng, world, pattern)):
            return None
        thing, name, trait, _ = found
        if not (noun := one_noun(rng, world, thing, name)):
            return None
        options, values = zip(*rng.sample(list(zip(trait.options, trait.values, strict=True)), len(trait.values)),
                              strict=True)  # fmt: skip
        if tuple(sorted(options)) == ("no", "yes"):
            return yes_no(trait.ask.format(the=the(noun)), ("is", noun, name, "yes"), pattern)
        choices = {o: (("is", noun, name, v),) for o, v in zip(options, values, strict=True)}
        return Draft(trait.ask.format(the=the(noun)), choices, pattern)

    return make


def attribute_check(pattern: str) -> Maker:
    """ "is the red car facing left?", "does the sign say stop?" """

    def make(rng: random.Random, world: World) -> Draft | None:
        if not (found := shown(rng, world, pattern)):
            return None
        thing, name, trait, value = found
        noun = one_noun(rng, world, thing, name)
        if rng.random() < 0.5:
            value = other_value(rng, world, thing, name, trait.values)
        if not noun:
            return None
        says = trait.says[trait.index(value)]
        if says.startswith("has no "):  # nobody asks for what is not there
            says, value = trait.says[trait.index("yes")], "yes"
        return yes_no(asked_whether(the(noun), says), ("is", noun, name, value), pattern)

    return make


def which_one(pattern: str) -> Maker:
    """ "which cup has a handle?" - "the red one" """

    def make(rng: random.Random, world: World) -> Draft | None:
        if not (found := shown(rng, world, pattern)):
            return None
        thing, name, trait, value = found
        colours = sorted({t.colour for t in world.things if t.kind == thing.kind})
        if len(colours) < 2:
            return None
        text = f"which {KINDS[thing.kind].noun} {trait.says[trait.index(value)]}?"
        rng.shuffle(colours)
        return Draft(text, {f"the {c} one": (("is", Noun(thing.kind, c), name, value),) for c in colours}, pattern)

    return make


def there_is(pattern: str) -> Maker:
    """ "is there a cup with a handle?"; where there is none, another thing may well have one."""

    def make(rng: random.Random, world: World) -> Draft | None:
        if not (found := shown(rng, world, pattern)):
            return None
        thing, name, trait, _ = found
        noun = Noun.of(thing, name, colour=rng.random() < 0.7)
        if rng.random() < 0.5:
            noun = Noun(noun.kind, noun.colour, ((name, other_value(rng, world, thing, name, trait.values)),))
        return yes_no(f"is there {a(noun)}?", ("exists", noun), pattern)

    return make


def there_is_a_thing(rng: random.Random, world: World) -> Draft | None:
    """ "is there a red cup?" - no, a red fish and a blue cup."""
    thing = rng.choice(world.things)
    noun = Noun.of(thing, colour=rng.random() < 0.6)
    if rng.random() < 0.5:
        there = {t.kind for t in world.things}
        kind = rng.choice([t.kind for t in world.things] + [rng.choice([k for k in KINDS if k not in there])])
        colours = [t.colour for t in world.things] + [rng.choice(list(COLOURS))]
        noun = Noun(kind, rng.choice(colours) if noun.colour or kind in there else None)
    return yes_no(f"is there {a(noun)}?", ("exists", noun), "colour" if noun.colour else "presence")


def what_colour(rng: random.Random, world: World) -> Draft | None:
    """ "what colour is the cup?" """
    noun = one_noun(rng, world, rng.choice(world.things), "colour")
    if not noun:
        return None
    choices = {colour: (("is", noun, "colour", colour),) for colour in COLOURS}
    return Draft(f"what colour is {the(noun)}?", choices, "colour")


def is_colour(rng: random.Random, world: World) -> Draft | None:
    """ "is the cup red?" """
    thing = rng.choice(world.things)
    noun, colour = one_noun(rng, world, thing, "colour"), thing.colour
    if rng.random() < 0.5:
        others = [t.colour for t in world.things if t.colour != colour]
        colour = rng.choice(others if others and rng.random() < 0.7 else [c for c in COLOURS if c != colour])
    return yes_no(f"is {the(noun)} {colour}?", ("is", noun, "colour", colour), "colour") if noun else None


def what_is_coloured(rng: random.Random, world: World) -> Draft | None:
    """ "what is red?" - "a cup", among all kinds."""
    colour = rng.choice(world.things).colour
    choices = {a(Noun(kind)): (("exists", Noun(kind, colour)),) for kind in KINDS}
    return Draft(f"what is {colour}?", choices, "colour")


def groups(rng: random.Random, world: World) -> list[Noun]:
    """Nouns of what can be counted, the larger groups more likely first."""
    nouns = list({Noun.of(t, colour=c): None for t in world.things for c in (True, False)})
    rng.shuffle(nouns)
    if rng.random() < 0.8:
        known = Known(facts(world))
        nouns.sort(key=lambda noun: -len(known.which(noun) or ()))
    return nouns


def how_many(rng: random.Random, world: World) -> Draft | None:
    """ "how many red balls are there?" Of what stands alone seldom: it would make one the answer to all."""
    noun = groups(rng, world)[0]
    if len(Known(facts(world)).which(noun) or ()) < 2 and rng.random() < 0.7:
        return None
    choices = {NUMBERS[n]: (("count", noun, n),) for n in range(1, len(NUMBERS))}
    return Draft(f"how many {phrase(noun, True)} are there?", choices, "quantity")


def is_number(rng: random.Random, world: World) -> Draft | None:
    """ "are there three red balls?" """
    noun = groups(rng, world)[0]
    number = len(Known(facts(world)).which(noun) or ())
    if number >= len(NUMBERS) or (number < 2 and rng.random() < 0.7):  # no word for so many
        return None
    if rng.random() < 0.5:
        number = rng.choice([n for n in (number - 1, number + 1) if 1 <= n < len(NUMBERS)])
    be = "is" if number == 1 else "are"
    return yes_no(f"{be} there {counted(noun, number)}?", ("count", noun, number), "quantity")


def are_more(rng: random.Random, world: World) -> Draft | None:
    """ "are there more red balls than blue cups?" """
    nouns = groups(rng, world)
    known = Known(facts(world))
    pairs = [(x, y) for x in nouns[:3] for y in nouns if len(known.which(x) or ()) != len(known.which(y) or ())
             and not (x.kind == y.kind and None in (x.colour, y.colour))]  # fmt: skip
    if not pairs:
        return None
    one, other = rng.sample(rng.choice(pairs), 2)
    text = f"are there more {phrase(one, True)} than {phrase(other, True)}?"
    return yes_no(text, ("more", one, other), "quantity")


def two_things(rng: random.Random, world: World) -> tuple[Noun, Noun, str] | None:
    """Two things that can be told by name, and how the first stands to the second."""
    if len(world.things) < 2:
        return None
    one, other = rng.sample(world.things, 2)
    nouns = one_noun(rng, world, one), one_noun(rng, world, other)
    how = relation(one, other)
    return (nouns[0], nouns[1], how) if nouns[0] and nouns[1] and how else None


def which_side(rng: random.Random, world: World) -> Draft | None:
    """ "is the red cup left or right of the blue fish?" """
    if not (found := two_things(rng, world)):
        return None
    one, other, how = found
    level = how in ("left_of", "right_of")
    sides = {"left": "left_of", "right": "right_of"} if level else {"above": "above", "below": "below"}
    names = rng.sample(list(sides), 2)
    text = f"is {the(one)} {names[0]} or {names[1]}{' of' if level else ''} {the(other)}?"
    return Draft(text, {name: (("relation", sides[name], one, other),) for name in names}, "position")


def is_beside(rng: random.Random, world: World) -> Draft | None:
    """ "is the red cup left of the blue fish?" """
    if not (found := two_things(rng, world)):
        return None
    one, other, how = found
    if rng.random() < 0.5:
        how = rng.choice([h for h in RELATIONS if h != how])
    return yes_no(
        f"is {the(one)} {rng.choice(RELATIONS[how])} {the(other)}?", ("relation", how, one, other), "position"
    )


def what_is_beside(rng: random.Random, world: World) -> Draft | None:
    """ "what is left of the red cup?" - "a blue fish", among all that is there."""
    if not (found := two_things(rng, world)):
        return None
    _, other, how = found
    rest = {Noun.of(t): None for t in world.things if Noun.of(t) != Noun(other.kind, other.colour)}
    choices = {a(noun): (("relation", how, noun, other),) for noun in rest}
    text = f"what is {rng.choice(RELATIONS[how])} {the(other)}?"
    return Draft(text, choices, "position") if len(choices) > 1 else None


def first_letter(rng: random.Random, world: World) -> Draft | None:
    """ "with which letter does the word on the sign begin?" """
    if not (found := shown(rng, world, "text")):
        return None
    thing, name, trait, _ = found
    if not (noun := one_noun(rng, world, thing, name)):
        return None
    choices = {letter: tuple(("is", noun, name, word) for word in trait.values if word[0] == letter)
               for letter in LETTERS}  # fmt: skip
    return Draft(f"with which letter does the word on {the(noun)} begin?", choices, "text")


BY_ATTRIBUTE = ("orientation", "presence", "state", "structure", "text", "viewpoint")
MAKERS: dict[str, tuple[Maker, ...]] = {
    p: (attribute_question(p), attribute_question(p), attribute_check(p), which_one(p), there_is(p))
    for p in BY_ATTRIBUTE
} | {
    "quantity": (how_many, how_many, is_number, are_more),
    "position": (which_side, is_beside, what_is_beside),
    "colour": (what_colour, what_colour, is_colour, what_is_coloured, there_is_a_thing, attribute_question("colour"),
               attribute_check("colour")),
}  # fmt: skip
MAKERS["presence"] += (there_is_a_thing,)
MAKERS["text"] += (first_letter,)
