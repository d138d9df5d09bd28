"""Multiple choice: what each rule of the ladder takes, what it leaves alone, and circular evaluation."""

import math

import pytest

from omma.eval.protocols import choice

OPTIONS = ("a red cup", "a blue cup", "two cups", "none")


@pytest.mark.parametrize(
    ("reply", "letter", "rule"),
    [
        ("B", "B", "letter"),
        (" (c). ", "C", "letter"),
        ("Option D", "D", "letter"),
        ("**A**", "A", "letter"),
        ("A blue cup.", "B", "option text"),
        ("none", "D", "option text"),
        ("C. two cups", "C", "leading letter"),
        ("(a) since it is red", "A", "leading letter"),
        ("**B**. The cup is blue", "B", "leading letter"),
        ("I think the answer is (D) because nothing is there", "D", "answer is"),
        ("Answer: C, two of them", "C", "answer is"),
        ("It must be (b), I am sure", "B", "bracketed letter"),
        ("I can see two cups here", "C", "option within"),
        ("the answer is b", "B", "answer is"),
        ("The answer is A because it is red", "A", "answer is"),
        ("A. is wrong, the answer is B", None, "none"),
        ("The answer is a cup", None, "none"),
        ("A cup stands on a table", None, "none"),
        ("(a) or (b)", None, "none"),
        ("The answer is A or the answer is B", None, "none"),
        ("a red cup and a blue cup", None, "none"),
        ("", None, "none"),
        ("E", None, "none"),
        ("I do not know", None, "none"),
    ],
)
def test_a_reply_means_a_letter_by_the_rule_that_is_named(reply, letter, rule):
    assert choice.parse(reply, OPTIONS) == (letter, rule)


def test_an_option_within_another_one_does_not_count():
    assert choice.parse("there is a red cup in it", ("cup", "red cup")).value == "B"
    assert choice.parse("there is a cup in it", ("cup", "red cup")).value == "A"


def test_vlmevalkit_reads_a_letter_only_near_the_end():
    far = "B is the one that I would choose here"
    assert choice.parse(far, OPTIONS, "reference:vlmevalkit").value is None
    assert choice.parse("I would choose B", OPTIONS, "reference:vlmevalkit").value == "B"
    assert choice.parse("The answer is **C** since " + far, OPTIONS, "reference:vlmevalkit").value == "C"
    assert choice.parse("A blue cup", OPTIONS, "reference:vlmevalkit").value == "A"  # the article


def test_a_question_without_options_is_an_error():
    with pytest.raises(ValueError, match="0 options; a question has 1 to 26"):
        choice.parse("A", ())


def test_a_question_counts_in_a_circle_when_every_rotation_is_right():
    assert choice.rotations("wxyz")[3] == (3, 0, 1, 2)
    right = {"p": [True] * 4, "q": [True, True, False, True], "r": [False] * 4}
    found = choice.circular(right, {"p": 4, "q": 4, "r": 4})
    assert found["circular"]["value"] == 1 / 3
    assert found["vanilla"]["value"] == 2 / 3
    assert found["rotations"]["value"] == 7 / 12
    assert found["circular"]["chance"] == 4**-4
    with pytest.raises(ValueError, match="'s' has no rotation"):
        choice.circular({"s": []})


def test_the_confidence_of_a_letter_is_the_softmax_over_the_options():
    letter, confidence = choice.from_logits([0.0, math.log(3)])
    assert letter == "B"
    assert confidence == pytest.approx(0.75)
