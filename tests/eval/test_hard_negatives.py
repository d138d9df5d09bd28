"""Hard negatives: who wins a tie, which kinds count, and what blocks of two by two ask for."""


import numpy as np
import pytest

from omma.eval.protocols import hard_negatives as hard


def test_a_tie_is_wrong_for_sugarcrepe_and_right_for_clip_benchmark():
    true, false = np.array([2.0, 1.0, 1.0, 0.0]), np.array([1.0, 1.0, 2.0, 3.0])
    assert hard.sugarcrepe(true, false)["value"] == hard.sugarcrepe(true, false, "reference:official")["value"] == 1 / 4
    assert hard.sugarcrepe(true, false, "reference:clip-benchmark")["value"] == 2 / 4
    assert hard.sugarcrepe(true, false)["ties"] == 1
    with pytest.raises(ValueError, match="1 scores are not finite"):
        hard.sugarcrepe(np.array([np.nan]), np.array([0.0]))


def test_aro_prints_the_mean_over_kinds_and_leaves_out_small_ones():
    true = np.array([1.0] * 25 + [1.0, 0.0])
    false = np.array([0.0] * 20 + [1.0] * 5 + [0.0, 0.0])
    kinds = ["big"] * 25 + ["small"] * 2
    found = hard.aro(true, false, kinds)
    assert found["macro"] == pytest.approx((20 / 25 + 1 / 2) / 2)
    assert found["accuracy"]["value"] == 21 / 27
    assert found["ties"] == 6
    attributions = hard.aro(true, false, kinds, attributions=True)
    assert attributions["macro"] == 20 / 25
    assert attributions["left_out"] == ["small"]


def test_a_shuffled_caption_of_the_same_score_beats_no_true_one_but_in_the_published_arg_max():
    scores = np.array([[1.0, 0.0, 0.5], [1.0, 1.0, 0.0], [0.0, 1.0, 0.0]])
    assert hard.aro_order(scores)["right"] == 1
    assert hard.aro_order(scores, "reference:official")["right"] == 2
    assert hard.aro_order(scores)["chance"] == pytest.approx(1 / 3)


def test_naturalbench_counts_questions_pictures_and_blocks():
    right = np.array([[[1, 1], [1, 1]], [[1, 1], [0, 1]], [[1, 0], [1, 0]]], bool)
    found = hard.naturalbench(right)
    assert found["accuracy"] == 9 / 12
    assert found["question"] == 3 / 6
    assert found["image"] == 4 / 6
    assert found["group"]["value"] == 1 / 3


def test_naturalbench_replies_are_the_first_of_two_words_where_published():
    lmms = "reference:lmms-eval"
    for reply, strict, first in [("Yes.", "yes", "yes"), ("No, yes", None, "no"), ("nothing", None, None)]:
        assert hard.parse_naturalbench(reply).value == strict
        assert hard.parse_naturalbench(reply, mode=lmms).value == first
    letters = [("The letter is B", "B"), ("A", "A"), ("(a)", "A"), ("A. a cup", "A"), ("It is a cup.", None),
               ("a red one, so B", "B"), ("A or B", None), ("The letter is A", "A"), ("A cup.", None),
               ("A cup, so B", "B"), ("It is A because it is red", "A"), ("either a or b", None)]  # fmt: skip
    for reply, letter in letters:
        assert hard.parse_naturalbench(reply, ("A", "B")).value == letter, reply
    assert hard.parse_naturalbench("It is a cup.", ("A", "B"), lmms).value == "A"
