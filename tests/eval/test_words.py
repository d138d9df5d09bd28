"""Answers in words: what counts as right, wrong and unparsed."""

import pytest

from omma.eval.protocols.short import RULES, judged
from omma.eval.protocols.words import normalised, yes_or_no


@pytest.mark.parametrize(
    ("said", "answer", "prediction", "outcome"),
    [
        ("yes", "yes", "yes", "right"),
        ("Yes, it is.", "no", "yes", "wrong"),
        ("true", "yes", "yes", "right"),
        ("no yes sign is there", "no", "no", "right"),  # the first word decides
        ("I would say no", "no", "no", "right"),
        ("maybe yes, maybe no", "yes", None, "unparsed"),
        ("a cup", "yes", None, "unparsed"),
        ("", "no", None, "unparsed"),
        ("Lit windows.", "lit windows", "lit windows", "right"),
        ("the pink one", "The Pink One!", "pink 1", "right"),
        ("three", "3", "3", "right"),
        ("\n  left \nof the lamp", "left", "left", "right"),
        ("it is left", "left", "it is left", "wrong"),  # exact match: nobody guesses what was meant
        ("?!", "left", None, "unparsed"),
        ("a", "a", "a", "right"),  # nothing but an article is a word
        ("ｌｅｆｔ", "left", "left", "right"),
    ],
)
def test_what_is_said_is_read_by_rule(said, answer, prediction, outcome):
    found = judged(said, answer)
    assert (found.prediction, found.outcome) == (prediction, outcome)
    assert found.rule in RULES


def test_one_of_several_peoples_answers_is_right_too():
    assert judged("couch", "sofa").outcome == "wrong"
    assert judged("A couch", "sofa", ("sofa", "couch")).outcome == "right"


def test_normalised_answers_stay_what_they_are():
    for text in ("The  Blue ONE", "three", "café", "don't", "a"):
        assert normalised(normalised(text)) == normalised(text)
    assert yes_or_no("yesterday") is None


@pytest.mark.parametrize(
    ("said", "prediction", "outcome"),
    [
        ("It is red.", "red", "right"),
        ("RED", "red", "right"),
        ("Dark blue.", "dark blue", "wrong"),  # not "blue", which stands within it
        ("red or blue", None, "unparsed"),
        ("mauve", None, "unparsed"),
        ("", None, "unparsed"),
    ],
)
def test_where_the_options_are_known_a_reply_has_to_name_exactly_one(said, prediction, outcome):
    found = judged(said, "red", options=("red", "blue", "dark blue"))
    assert (found.prediction, found.outcome) == (prediction, outcome)
    assert found.rule in RULES


def test_a_letter_among_the_options_is_an_answer_and_no_place_in_a_list():
    assert judged("s", "s", options=tuple("abst")).outcome == "right"
