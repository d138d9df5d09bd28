"""Noun phrases of questions."""

import pytest

from omma.retrieval.phrases import Phrase, read_phrase, singular


@pytest.mark.parametrize(("words", "phrase"), [
    ("the red cups with a handle", Phrase("red cup with a handle", "cup", "red", "with a handle")),
    ("boxes", Phrase("box", "box")),
    ("a striped blue ball", Phrase("striped blue ball", "ball", "blue", "striped")),
    ("Gray people", Phrase("gray person", "person", "grey")),
    ("the bird facing left", Phrase("bird facing left", "bird", "", "facing left")),
])  # fmt: skip
def test_a_phrase_is_read_into_head_colour_and_rest(words, phrase):
    assert read_phrase(words) == phrase


def test_what_is_no_phrase_is_none():
    assert read_phrase("the") is None
    assert read_phrase(" ") is None
    assert read_phrase("with a handle") is None


def test_plurals():
    plurals = {"butterflies": "butterfly", "benches": "bench", "buses": "bus", "fish": "fish", "glass": "glass",
               "chairs": "chair", "boxes": "box", "mice": "mouse", "bus": "bus", "houses": "house"}  # fmt: skip
    assert {plural: singular(plural) for plural in plurals} == plurals
