"""What language.py writes is read back as it was meant, and nothing else is read at all."""

import pytest

from omma.scenes.language import Known, Noun, claims, holds, named
from omma.scenes.reading import mentions, read, read_facts
from omma.scenes.world import facts, sample_world


def ordered(form):
    """The attributes of a noun in one order, and ("and", x) as x: a sentence doesn't tell these apart."""
    if isinstance(form, Noun):
        return form.kind, form.colour, tuple(sorted(form.attributes))
    if isinstance(form, tuple):
        return ordered(form[1]) if len(form) == 2 and form[0] == "and" else tuple(map(ordered, form))
    return form


def test_every_claim_about_150_worlds_is_read_as_it_was_meant():
    said = [claim for n in range(150) for claim in claims(sample_world("reading", n), n, number=6)]
    assert len(said) > 600
    wrong = [claim.text for claim in said if ordered(read(claim.text)) != ordered(claim.form)]
    assert not wrong, wrong[:5]


def test_facts_are_read_back():
    for n in range(50):
        world = sample_world("facts", n)
        assert read_facts(named(world)) == facts(world)
    with pytest.raises(ValueError, match="'a cup' is no fact"):
        read_facts(["a cup"])


@pytest.mark.parametrize(
    "text",
    ["", "cup", "a cup a ball", "a red", "the cup is", "a cup with a fin", "two and three", "a cup left of", "a , and",
     "the red blue cup is full", "a green idea", "a cup and"],
)  # fmt: skip
def test_what_is_no_sentence_of_ours_has_no_meaning(text):
    assert read(text) is None


def test_and_binds_an_attribute_before_it_begins_another_thing():
    fish, cup = Noun("fish", "red", (("fin", "yes"), ("tail", "forked"))), Noun("cup", "blue")
    form = read("there is a red fish with a fin and a forked tail, a blue cup and two balls")
    assert form is not None
    assert form == ("and", ("exists", fish), ("exists", cup), ("count", Noun("ball"), 2))
    assert mentions(form) == [fish, cup, Noun("ball")]
    assert holds(form, Known(facts(sample_world(0)))) is False
