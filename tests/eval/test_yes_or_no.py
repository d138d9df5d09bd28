"""POPE and MME: replies of one word, read as published code reads them, and the numbers that follow from the counts."""

import pytest

from omma.eval.protocols import mme, pope
from omma.eval.protocols.pope import Counts

RANDOM = Counts(1183, 31, 1379, 317)  # LLaVA-1.5-7B on the first release, as published in its discussion
POPULAR, ADVERSARIAL = Counts(1183, 59, 1441, 317), Counts(1183, 117, 1383, 317)


@pytest.mark.parametrize(
    ("reply", "official", "strict"),
    [
        ("NO", "yes", "no"),
        ("No\n", "yes", "no"),
        ("No!", "yes", "no"),
        ('"No"', "yes", "no"),
        ("There isn't a dog.", "yes", None),
        ("None", "yes", None),
        ("", "yes", None),
        ("Mr. Smith says no", "yes", "no"),
        ("The image does not show it. Yes", "no", "yes"),
        ("(b) No", "no", "no"),
        ("No, there is none.", "no", "no"),
        ("yes or no", "no", "yes"),
    ],
)
def test_the_published_parser_of_pope_has_its_accidents_and_the_strict_one_none(reply, official, strict):
    assert pope.parse(reply, "reference:official").value == official
    assert pope.parse(reply).value == strict


def test_lmms_eval_wants_the_bare_word_and_vlmevalkit_one_of_the_two_among_the_words():
    replies = ["Yes", " no ", "Yes.", "yes, no doubt", "I think yes!", ""]
    assert pope.replies(replies, "reference:lmms-eval") == ["yes", "no", None, None, None, None]
    assert pope.replies(replies, "reference:vlmevalkit") == ["yes", "no", "yes", None, "yes", None]
    with pytest.raises(ValueError, match="this protocol has strict, reference:official"):
        pope.parse("yes", "official")


def test_llava_s_pope_is_the_mean_of_three_f1_on_the_first_release():
    found = pope.summarised({"random": RANDOM, "popular": POPULAR, "adversarial": ADVERSARIAL}, "reference:official")
    assert RANDOM.n == 2910
    assert found["strategies"]["random"]["f1"] == 0.8717759764185703
    assert found["strategies"]["random"]["accuracy"] == 0.8804123711340206
    assert found["strategies"]["random"]["yes_ratio"] == 0.41718213058419246
    assert found["strategies"]["popular"]["f1"] == 0.8628738147337709
    assert found["strategies"]["adversarial"]["f1"] == 0.8450000000000001
    assert found["mean_f1"] == 0.859883263717447
    assert found["pooled"]["n"] == 8910
    assert found["counts"]["popular"]["fp"] == 59


def test_who_always_says_yes_has_half_of_the_answers_and_two_thirds_of_f1():
    counts = pope.tally(["yes", "no"] * 50, ["yes"] * 100)
    assert counts == Counts(tp=50, fp=50)
    assert counts.scores()["accuracy"] == 0.5
    assert counts.scores()["f1"] == pytest.approx(2 / 3)
    assert counts.yes_ratio == 1
    assert counts.scores("reference:lmms-eval")["yes_ratio"] == 0.5  # that of the labels


def test_an_unparsed_reply_is_missing_in_strict_recall_and_left_out_of_lmms_eval_s():
    counts = pope.tally(["yes", "yes", "yes", "no", "no"], ["yes", "no", None, "no", None])
    assert counts == Counts(tp=1, fp=0, tn=1, fn=1, unparsed_yes=1, unparsed_no=1)
    strict, lmms = counts.scores(), counts.scores("reference:lmms-eval")
    assert (strict["accuracy"], strict["recall"], strict["unparsed"]) == (2 / 5, 1 / 3, 2 / 5)
    assert (lmms["accuracy"], lmms["recall"]) == (2 / 5, 1 / 2)
    assert strict["f1"] == pytest.approx(2 / 4)  # 2 TP / (2 TP + FP + missed)


def test_who_never_says_yes_has_an_f1_of_0_and_no_precision():
    counts = pope.tally(["yes", "no"], ["no", "no"])
    assert counts.scores()["precision"] is None
    assert counts.scores()["f1"] == 0
    assert counts.scores("reference:official")["f1"] is None  # the published script divides by zero
    assert counts.scores("reference:vlmevalkit")["precision"] == 0
    with pytest.raises(ValueError, match="labels are yes or no"):
        pope.tally(["maybe"], ["yes"])


def test_mme_reads_the_first_four_letters_as_published():
    for reply, official, lmms, strict in [
        ("Yes, it is", "yes", "yes", "yes"),
        ("Know", "no", "no", None),
        ("Not sure", "no", "no", None),
        ("The answer is yes", None, None, "yes"),
        ("y", None, "yes", None),
        ("N.", None, "no", None),
        ("", None, None, None),
    ]:
        assert mme.parse(reply, "reference:official").value == official, reply
        assert mme.parse(reply, "reference:lmms-eval").value == lmms, reply
        assert mme.parse(reply).value == strict, reply


def test_an_mme_subtask_earns_its_accuracy_and_the_share_of_pictures_with_both():
    rows = [
        ("color", "1", "yes", "yes"),
        ("color", "1", "no", "no"),
        ("color", "2", "yes", "yes"),
        ("color", "2", "no", "yes"),
        ("code_reasoning", "3", "yes", None),
        ("code_reasoning", "3", "no", "no"),
    ]
    found = mme.score(rows)
    assert found["subtasks"]["color"]["score"] == 75 + 50
    assert (found["perception"], found["cognition"]) == (125, 50)
    assert found["subtasks"]["code_reasoning"]["unparsed"] == 1
    assert "existence" in found["missing"]
    assert len(found["missing"]) == 12
    with pytest.raises(ValueError, match="MME asks two of each"):
        mme.score(rows[:3])
