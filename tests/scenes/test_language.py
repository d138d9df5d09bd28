"""Sentences are plain, short and true, and the executor knows when it does not know."""

import re

import pytest

from omma.scenes.kinds import COLOURS, KINDS, PATTERNS, UNSAID
from omma.scenes.language import (
    MOST_WORDS,
    Claim,
    Known,
    Noun,
    captions,
    check_unsaid,
    claims,
    holds,
    spoken_of,
    truth,
)
from omma.scenes.pairs import make_pairs
from omma.scenes.reading import read
from omma.scenes.world import Thing, World, facts, sample_world


@pytest.fixture(scope="module")
def worlds():
    return [sample_world("language", i) for i in range(300)]


def scene(*things: Thing) -> World:
    return World(things, sample_world(0).backdrop, tuple(range(len(things))))


CUPS = scene(
    Thing("cup", "red", 0.2, 0.5, 0.15, (("handle", "yes"), ("filled", "full"))),
    Thing("cup", "blue", 0.8, 0.5, 0.15, (("handle", "no"), ("filled", "full"))),
    Thing("fish", "blue", 0.5, 0.5, 0.1),
)
CUP, RED, BLUE, FISH = Noun("cup"), Noun("cup", "red"), Noun("cup", "blue"), Noun("fish", "blue")


@pytest.mark.parametrize(
    ("form", "answer"),
    [
        (("exists", Noun("cup", "red", (("handle", "yes"),))), True),
        (("exists", Noun("cup", "blue", (("handle", "yes"),))), False),
        (("exists", Noun("fish", "blue", (("fin", "yes"),))), None),  # the fish does not show whether it has a fin
        (("is", RED, "handle", "yes"), True),
        (("is", BLUE, "handle", "yes"), False),
        (("is", CUP, "filled", "full"), None),  # which cup?
        (("is", RED, "view", "above"), None),
        (("count", CUP, 2), True),
        (("count", CUP, 3), False),
        (("count", Noun("door"), 0), True),
        (("relation", "left_of", RED, BLUE), True),
        (("relation", "left_of", BLUE, RED), False),
        (("relation", "above", RED, BLUE), False),
        (("more", CUP, Noun("fish")), True),
        (("more", RED, BLUE), False),
        (("and", ("exists", RED), ("exists", FISH)), True),
        (("and", ("exists", RED), ("count", FISH, 2)), False),
    ],
)
def test_the_executor_says_true_false_or_does_not_know(form, answer):
    assert holds(form, Known(facts(CUPS))) is answer


def test_a_relation_of_things_askew_is_neither_true_nor_false():
    askew = scene(Thing("cup", "red", 0.3, 0.3, 0.1), Thing("fish", "blue", 0.6, 0.6, 0.1))
    assert all(truth(Claim("", ("relation", how, RED, FISH)), askew) is None for how in ("left_of", "above"))


def test_an_unknown_form_names_the_forms():
    with pytest.raises(ValueError, match="exists, is, relation"):
        holds(("perhaps", RED), Known(facts(CUPS)))


def test_every_caption_is_true_short_and_said_once(worlds):
    for i, world in enumerate(worlds):
        said = claims(world, i, number=5)
        assert all(truth(claim, world) is True for claim in said)
        texts = captions(world, i)
        assert 3 <= len(texts) <= 5
        assert len(set(texts)) == len(texts)
        assert all(len(text.split()) <= MOST_WORDS for text in texts)


def test_colours_and_kinds_that_a_caption_names_are_in_the_picture(worlds):
    singular = {name: kind.noun for kind in KINDS.values() for name in (kind.noun, kind.plural)}
    pattern = re.compile(rf"\b({'|'.join(COLOURS)}) ({'|'.join(sorted(singular, key=len, reverse=True))})\b")
    seen = 0
    for i, world in enumerate(worlds):
        there = {(t.colour, t.kind) for t in world.things}
        for text in captions(world, i):
            named = {(colour, singular[kind]) for colour, kind in pattern.findall(text)}
            assert named <= there, (text, there)
            seen += len(named)
    assert seen > 1000


def test_the_definite_article_is_said_of_the_only_one(worlds):
    seen = 0
    for i, world in enumerate(worlds):
        looks = [(t.colour, t.kind) for t in world.things]
        for text in captions(world, i):
            for colour, kind in re.findall(r"\bthe (\w+) (\w+)", text):
                if colour in COLOURS and kind in KINDS:
                    assert looks.count((colour, kind)) == 1, text
                    seen += 1
    assert seen > 200


def test_the_vocabulary_is_closed_and_small(worlds):
    words = {w.strip(",?") for i, world in enumerate(worlds) for text in captions(world, i) for w in text.split()}
    for pattern in PATTERNS:
        for pair in make_pairs(pattern, 15, "words"):
            for text in (*pair.captions_a, *pair.captions_b, pair.question, *pair.options):
                words |= {w.strip(",?") for w in text.split()}
    assert 120 < len(words) < 250
    assert all(re.fullmatch("[a-z]+", word) for word in words)


def test_articles_agree(worlds):
    texts = [text for i, world in enumerate(worlds) for text in captions(world, i)]
    assert not [text for text in texts if re.search(r"\ba [aeio]|\ban [^aeiou]", text)]
    assert any(" an " in f" {text}" for text in texts)


@pytest.mark.parametrize("pattern", UNSAID)
def test_a_pattern_that_goes_unsaid_is_in_no_caption_and_would_be_in_some(worlds, pattern):
    said = {never: [captions(world, i, never=never) for i, world in enumerate(worlds)] for never in ((), (pattern,))}
    spoken = {never: {p for texts in told for text in texts for p in spoken_of(read(text) or ("exists",))}
              for never, told in said.items()}  # fmt: skip
    assert spoken[()] == set(UNSAID)
    assert spoken[(pattern,)] == set(UNSAID) - {pattern}
    assert all(read(text) for texts in said[(pattern,)] for text in texts)
    assert all(2 <= len(texts) <= 5 for texts in said[(pattern,)])
    assert all(3 <= len(texts) <= 5 for texts in said[()])


def test_what_is_said_instead_is_true_of_the_whole_world(worlds):
    for i, world in enumerate(worlds):
        for claim in claims(world, i, number=6, never=("orientation", "position")):
            assert truth(claim, world) is True, claim.text


def test_colour_and_number_cannot_go_unsaid():
    check_unsaid(UNSAID)
    with pytest.raises(ValueError, match="never='colour': what captions can leave unsaid is orientation, presence"):
        check_unsaid(("orientation", "colour"))
