"""MMVP and MMVP-VLM: parsers that disagree about the same replies, pairs, label sets, and the rule for ties."""

import itertools

import numpy as np
import pytest

from omma.data.benchmarks.mmvp import PAIRS_A_PATTERN, PATTERNS, labelled, split_options
from omma.eval.protocols import mmvp
from omma.eval.tasks import patterns

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


def pairs_of(patterns):
    return [{"id": f"pair {n}", "group": f"pair {n}", "pattern": pattern, "pictures": [f"{n}a", f"{n}b"],
             "options": [f"one {n}", f"other {n}"]} for n, pattern in enumerate(patterns)]  # fmt: skip


class Given:
    """A view whose matrices s[image, text] are given."""

    def __init__(self, matrices):
        self.given = matrices

    def matrices(self, asked):
        return list(self.given)


def counted(matrices, patterns_of_pairs, reference=None):
    task = patterns.made_for(None, reference)
    asked = task.items(pairs_of(patterns_of_pairs))
    answers = task.score(asked, Given(np.asarray(matrices, float)))
    return task.metrics([{"pattern": item.pattern, "pictures": item.pictures, "group": item.id,
                          "scores": got.scores, "credits": got.credits}
                         for item, got in zip(asked, answers, strict=True)])  # fmt: skip


def test_published_pairs_are_asked_with_a_photo_of_before_each_statement():
    asked = {name: patterns.made_for(None, name).items(pairs_of(["x"]))[0].texts
             for name in (None, "official", "winoground")}  # fmt: skip
    assert asked == {
        None: ("one 0", "other 0"),
        "official": ("a photo of one 0", "a photo of other 0"),
        "winoground": ("one 0", "other 0"),
    }
    with pytest.raises(ValueError, match="reference='lmms-eval'; pairs are asked like official or winoground, or"):
        patterns.made_for(None, "lmms-eval")


def test_a_tie_goes_to_the_second_picture_as_published_and_is_wrong_as_winoground_counts():
    ties = [np.zeros((2, 2)), [[2.0, 1.0], [1.0, 1.0]]]  # everything alike; text 2 likes both pictures alike
    right = {name: [counted(ties, "xy", name)["patterns"][pattern]["image"]["right"] for pattern in "xy"]
             for name in (None, "official", "winoground")}  # fmt: skip
    assert right == {None: [0, 1], "official": [0, 1], "winoground": [0, 0]}
    assert counted(ties, "xy", "official")["ties"] == 3


@pytest.mark.parametrize("reference", ["official", "winoground"])
def test_of_the_24_orders_of_four_scores_six_have_either_score_and_four_the_group(reference):
    orders = np.array(list(itertools.permutations(range(4))), float).reshape(24, 2, 2)
    found = counted(orders, ["all"] * 24, reference)
    assert [found[kind]["right"] for kind in ("image", "text", "group")] == [6, 6, 4]


def test_a_row_of_the_published_table_is_27_pairs_of_135():
    right = [0, 3, 6, 3, 1, 3, 5, 1, 5]  # of 15 each: OpenAI ViT-L/14 at 336 px
    hit, miss = np.eye(2), 1 - np.eye(2)
    names = [name for name in PATTERNS for _ in range(PAIRS_A_PATTERN)]
    found = counted([hit if n < k else miss for k in right for n in range(15)], names, "official")
    assert round(100 * found["mean"]["image"], 1) == 20.0
    assert found["image"]["right"] == 27
    assert {name: round(100 * block["image"]["value"], 1) for name, block in found["patterns"].items()} == dict(
        zip(PATTERNS, [0.0, 20.0, 40.0, 20.0, 6.7, 20.0, 33.3, 6.7, 33.3], strict=True))  # fmt: skip
