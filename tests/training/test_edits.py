"""Exchanged relation words: only where they tell a place or a direction, and so that the text turns false."""

import pytest

from omma.scenes.language import RELATIONS, Known, claims, holds
from omma.scenes.world import OPPOSITE, facts, sample_world
from omma.training.edits import false_texts, relation_swaps


@pytest.mark.parametrize(
    ("text", "swaps"),
    [
        ("a cup left of a ball", ["a cup right of a ball"]),
        ("a cup to the right of a ball", ["a cup to the left of a ball"]),
        ("The lamp is above the chair", ["The lamp is below the chair"]),
        ("a dog behind the fence", ["a dog in front of the fence"]),
        ("a flag flying left", ["a flag flying right"]),
        ("the fish faces Right.", ["the fish faces left."]),
        ("a car on the left", ["a car on the right"]),
        ("a tower in the left-hand corner", ["a tower in the right-hand corner"]),
        ("a bird facing left above a car", ["a bird facing right above a car", "a bird facing left below a car"]),
    ],
)  # fmt: skip
def test_a_word_of_place_or_direction_turns_into_its_opposite(text, swaps):
    assert sorted(relation_swaps(text)) == sorted(swaps)


@pytest.mark.parametrize(
    "text",
    [
        "the man left the room", "all right", "a cup seen from above", "above average grades", "two slices are left",
        "one fish facing left and one facing right", "leftover rice", "a red cup", "the right answer", "",
    ],
)  # fmt: skip
def test_a_text_without_a_relation_or_with_both_sides_of_one_is_left_alone(text):
    assert relation_swaps(text) == []


def test_what_another_caption_of_the_picture_says_is_no_false_text():
    captions = ["a cup left of a cup", "a cup right of a cup", "a cup below a lamp"]
    assert false_texts(captions) == [("a cup below a lamp", "a cup above a lamp")]


def test_a_turned_caption_is_seldom_true_and_never_where_it_speaks_of_the_only_one():
    """By the executor, on the captions of 400 worlds. "a ball" may be another ball than the one that was meant."""
    said, true = {"a": 0, "the": 0}, {"a": 0, "the": 0}
    for key in range(400):
        world = sample_world("edits", key)
        known = Known(facts(world))
        for claim in claims(world, key):
            if claim.form[0] == "relation":
                how, *nouns = claim.form[1:]
                places = [swap for swap in relation_swaps(claim.text) if RELATIONS[OPPOSITE[how]][0] in swap]
                article = "the" if claim.text.startswith("the ") else "a"
                said[article] += len(places)
                true[article] += len(places) * (holds(("relation", OPPOSITE[how], *nouns), known) is True)
    assert sum(said.values()) > 200
    assert true["the"] == 0
    assert true["a"] < 0.15 * said["a"]
