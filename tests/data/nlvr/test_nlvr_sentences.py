"""What sentences mean, on boxes whose truth is plain to see; and the sentences that templates and variations give."""

import itertools
import re

import numpy as np
import pytest

from omma.data.nlvr.pictures import Thing
from omma.data.nlvr.sentences import Unknown, read
from omma.data.nlvr.wording import plural, tags, template, vary

NAMES = {"b": "blue", "y": "yellow", "k": "black"}


def tower(colors: str) -> tuple[Thing, ...]:
    return tuple(sorted(Thing(80 - 21 * i, 40, 20, "square", NAMES[c]) for i, c in enumerate(colors)))


TOWERS = (tower("bykb"), tower("yb"), tower("k"))  # from the base up
LOOSE = (
    (Thing(0, 30, 20, "circle", "blue"), Thing(50, 50, 10, "square", "black"), Thing(70, 70, 30, "triangle", "yellow")),
    (Thing(20, 20, 20, "circle", "blue"), Thing(41, 20, 20, "circle", "black")),
    (Thing(90, 40, 10, "square", "yellow"),),
)


@pytest.mark.parametrize(
    ("sentence", "truth"),
    [
        ("There is a tower with exactly four blocks", True),
        ("There are two towers with at least two blocks.", True),
        ("there is atleast one tower with three blocks", False),
        ("There is a tower with a blue block over a black block", True),
        ("There is a tower with a black block over a blue block", False),
        ("There is a tower with a yellow block below a blue block", True),
        ("There is a blue block as the base of a tower with four blocks.", True),
        ("There is no black block as the base of a tower.", False),
        ("All the towers have a blue block at the top", False),
        ("There is a black tower.", True),
        ("There are exactly three blue blocks", True),
        ("There is a tower with only blue and yellow blocks.", True),
        ("There are at least two towers with the same top color", True),
        ("There is a tower with the base yellow", None),
        ("The second block from the base of a tower is yellow", True),
        ("There is a tower with blocks of three different colors", True),
        ("There is a box with a yellow item touching the wall and a blue one right on top of it.", True),
    ],
)
def test_a_sentence_about_towers_is_read_and_judged(sentence, truth):
    judge(sentence, truth, TOWERS)


@pytest.mark.parametrize(
    ("sentence", "truth"),
    [
        ("There is a blue circle touching the edge", True),
        ("There are exactly 2 yellow items touching the wall.", True),
        ("There is exactly one black item not touching any edge", False),
        ("There is a yellow triangle closely touching a corner", True),
        ("There is a yellow square closely touching right wall of a box.", False),
        ("There is a box with a yellow square touching the right wall", False),
        ("There is a box with a yellow triangle touching the right wall", True),
        ("There is a blue circle closely touching the roof of a box.", True),
        ("One of the grey box contains exactly three objects of which one is yellow", True),
        ("There is only one box with items of two different colors", True),
        ("Each box has at least 1 yellow item", False),
        ("each grey square contains less than four objects", True),
        ("There is a box with only one item and it is yellow.", True),
        ("There is a box with a black item and a blue circle.", True),
        ("There is a box with at least two black items", False),
        ("There is a small yellow square touching the bottom.", True),
        ("None of the triangles are touching the edge", False),
        ("There is a box with 2 circles touching each other", True),
        ("There are 2 blue circles and 1 yellow triangle", True),
        ("The weather is fine", None),
    ],
)
def test_a_sentence_about_loose_things_is_read_and_judged(sentence, truth):
    judge(sentence, truth, LOOSE)


def judge(sentence, truth, boxes):
    if truth is None:
        with pytest.raises(Unknown, match=re.escape(sentence)):
            read(sentence)
        return
    meaning = read(sentence)
    assert {meaning.truth(order) for order in itertools.permutations(boxes)} == {truth}


def test_the_parts_of_a_sentence_are_what_it_counts_in_each_box():
    assert read("There are 3 blue blocks").parts(TOWERS) == (2, 1, 0)
    assert read("There is a box with at least two items").parts(LOOSE) == (1, 1, 0)


def test_nearly_every_template_can_be_read_and_a_variation_keeps_the_turn_of_phrase():
    rng = np.random.default_rng(0)
    readable = 0
    for i in range(200):
        try:
            read(template(rng, i % 2 == 0))
            readable += 1
        except Unknown:
            pass
    assert readable > 190
    shape = lambda text: re.sub("black|yellow|blue", "C", text)
    seen = {vary("There is a tower with a black block at the top", np.random.default_rng(i)) for i in range(40)}
    assert {shape(text) for text in seen} == {
        "There is a tower with a C block at the top", "There is a tower with a C block at the base"}  # fmt: skip
    assert len(seen) == 6


def test_tags_are_true_of_their_box_when_read_as_sentences():
    for box in LOOSE:
        for tag in (tag for tag in tags(box) if tag[0].isdigit()):
            number, rest = tag.split(" ", 1)
            many = "is" if number == "1" else "are"
            meaning = read(f"There {many} at least {number} {rest}")
            assert meaning.truth((box, (), ())), tag
    assert "level 2 is yellow" in tags(TOWERS[0])
    assert "blue on black" in tags(TOWERS[0])
    assert "black on blue" not in tags(TOWERS[0])
    assert plural("black item touching the wall") == "black items touching the wall"
