"""MMVP and MMVP-VLM: parsers that disagree about the same replies, pairs, label sets, and the rule for ties."""

import itertools

import numpy as np
import pytest

from omma.data.benchmarks.mmvp import labelled, split_options
from omma.eval.protocols import mmvp, mmvp_vlm

LEFT_RIGHT = ("left", "right")


def letters(replies, options, mode):
    return [mmvp.parse(reply, options, mode).value for reply in replies]


def test_the_released_options_are_split_at_their_letters():
    assert split_options("(a) Open (b) Closed") == ("Open", "Closed")
    assert split_options("(a) On the left\n(b) On the right ") == ("On the left", "On the right")
    assert mmvp.official_prompt("Is it open?", "(a) Yes (b) No") == "Is it open? (a) Yes (b) No"


def test_the_parser_of_lmms_eval_takes_letters_off_the_ends_of_words():
    replies = ["it is a dog", "The bulb is on", "The zebra faces left", "the answer is black"]
    assert letters(replies, ("black", "white"), "reference:lmms-eval") == ["A", "B", "A", "B"]
    assert letters(replies, ("black", "white"), "strict") == [None, None, None, "A"]
    assert letters(["A", "(b)", "B. right", "Option a", ""], LEFT_RIGHT, "reference:lmms-eval") == [
        "A",
        "B",
        "B",
        "A",
        None,
    ]


def test_cambrian_s_parser_wants_a_letter_or_the_whole_option_behind_answer_is():
    replies = ["(A)", "The answer is B.", "Answer: right", "It faces left", "Left"]
    assert letters(replies, LEFT_RIGHT, "reference:cambrian") == ["A", "B", "B", None, "A"]


def test_vlmevalkit_s_parser_takes_a_letter_among_the_last_words_or_an_option_within():
    replies = [
        "B",
        "It faces left.",
        "A is what I would say about this",
        "Cannot determine the answer, A",
        "left or right",
    ]
    assert letters(replies, LEFT_RIGHT, "reference:vlmevalkit") == ["B", "A", None, None, None]


def test_the_published_grader_takes_the_bare_word_alone():
    replies = ["yes", "YES", "Yes.", "yes\n", "No", "I think yes"]
    assert [mmvp.parse_grade(r, "reference:official").value for r in replies] == ["yes", "yes", None, None, "no", None]
    assert [mmvp.parse_grade(r).value for r in replies] == ["yes", "yes", "yes", "yes", "no", None]


def test_who_ignores_the_picture_has_half_of_the_questions_and_no_pair():
    found = mmvp.score(["A", "B"] * 150, ["A"] * 300)
    assert found["pairs"]["value"] == 0
    assert found["questions"]["value"] == 0.5
    assert found["same_letter"]["value"] == 1
    assert (found["both"], found["first_only"], found["second_only"], found["neither"]) == (0, 150, 0, 0)


def test_four_pairs_counted_by_hand():
    answers = ["A", "B", "B", "A", "A", "B", "B", "A"]
    said = ["A", "B", "B", "B", "B", None, "A", "A"]
    found = mmvp.score(answers, said)
    assert (found["both"], found["first_only"], found["second_only"], found["neither"]) == (1, 1, 1, 1)
    assert found["pairs"]["value"] == 1 / 4
    assert found["questions"]["value"] == 4 / 8
    assert (found["same_letter"]["right"], found["same_letter"]["n"]) == (2, 3)
    assert found["unparsed"] == 1
    assert mmvp.score(answers, said, leave_out=[0])["pairs"]["n"] == 3
    with pytest.raises(ValueError, match="pairs need an even number"):
        mmvp.score(answers[:3], said[:3])


def test_37_of_150_pairs_have_the_interval_of_wilson():
    answers = ["A", "B"] * 150
    found = mmvp.score(answers, [*answers[:74], *["A"] * 226])["pairs"]
    assert found["right"] == 37
    assert [round(100 * found[key], 1) for key in ("low95", "high95")] == [18.5, 32.1]


def test_label_sets_differ_in_the_questions_that_are_reported_as_wrong():
    released = ["(a)", "(b)"] * 150
    plain, left_out = labelled(released)
    assert (plain[:2], left_out) == (["A", "B"], set())
    for name, changed, out in [("corrected", [279, 280], set()), ("undisputed", [279, 280], {49}),
                               ("lmms-eval", [99, 100, 279, 280], set())]:  # fmt: skip
        found, left_out = labelled(released, name)
        assert [i + 1 for i in range(300) if found[i] != plain[i]] == changed
        assert left_out == out
    with pytest.raises(ValueError, match="choose released, corrected"):
        labelled(released, "fixed")
    with pytest.raises(ValueError, match="MMVP has 300"):
        labelled(released[:10])


def test_a_tie_goes_to_the_second_picture_where_published_and_is_wrong_where_strict():
    tied = np.zeros((1, 2, 2))
    one_tie = np.array([[[2.0, 1.0], [1.0, 1.0]]])  # text 2 likes both pictures alike
    assert not mmvp_vlm.judge(tied, "reference:official")["image"][0]
    assert mmvp_vlm.judge(one_tie, "reference:official")["image"][0]
    assert not mmvp_vlm.judge(one_tie)["image"][0]
    found = mmvp_vlm.score(np.concatenate([tied, one_tie]), ["x", "y"])
    assert found["ties"] == 2


def test_of_the_24_orders_of_four_scores_six_have_either_score_and_four_the_group():
    orders = np.array(list(itertools.permutations(range(4))), float).reshape(24, 2, 2)
    found = mmvp_vlm.score(orders, ["all"] * 24)
    assert [found[kind]["right"] for kind in ("image", "text", "group")] == [6, 6, 4]


def test_a_row_of_the_published_table_is_27_pairs_of_135():
    right = [0, 3, 6, 3, 1, 3, 5, 1, 5]  # of 15 each: OpenAI ViT-L/14 at 336 px
    hit, miss = np.eye(2), 1 - np.eye(2)
    scores = np.array([hit if n < k else miss for k in right for n in range(15)])
    found = mmvp_vlm.score(scores, mode="reference:official")
    assert round(100 * found["mean"]["image"], 1) == 20.0
    assert found["image"]["right"] == 27
    assert [round(100 * b["image"]["value"], 1) for b in found["patterns"].values()] == [
        0.0, 20.0, 40.0, 20.0, 6.7, 20.0, 33.3, 6.7, 33.3]  # fmt: skip
    assert mmvp_vlm.pattern_of(134) == "Viewpoint and Perspective"
    with pytest.raises(ValueError, match="Give patterns for other pairs"):
        mmvp_vlm.score(scores[:4])
