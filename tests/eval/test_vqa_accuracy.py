"""VQA accuracy: the strings of the published clean-up, its accidents, and the five values an answer can earn."""

import pytest

from omma.eval.protocols import vqa

OFFICIAL, EVALAI = "reference:official", "reference:evalai"


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("2,000", "2000"),
        ("red,blue", "red blue"),
        ("a, b", "b"),
        ("first,second 1,2", "firstsecond 12"),
        ("t-shirt", "t shirt"),
        ("t - shirt", "t shirt"),
        ("3.5", "3.5"),
        ("5.", "5"),
        ("U.S.A.", "usa"),
        ("-5", "5"),
        ("None", "0"),
        ("eleven", "eleven"),
        ("dont", "don't"),
        ("the", ""),
        ("oclock", "o'clock"),
        ("somebody'd", "somebodyd"),
        ("Im", "im"),
        ("y'alld've", "y'all'd've"),
        ("10:30 50% $5", "10:30 50% $5"),
        ("." * 40, "." * 8),
    ],
)
def test_the_clean_up_is_the_published_one(text, cleaned):
    assert vqa.cleaned(text) == cleaned


def test_an_answer_earns_0_3_for_each_of_the_first_three_people_who_gave_it():
    for mode in vqa.MODES:
        earned = [vqa.accuracy("x", ["x"] * k + ["y"] * (10 - k), mode) for k in range(11)]
        assert earned == pytest.approx([0, 0.3, 0.6, 0.9, *[1] * 7]), mode
    assert [vqa.accuracy("x", ["x"] * k + ["y"] * (10 - k)) for k in range(4)] == [0, 0.3, 0.6, 0.9]


def test_the_published_sum_depends_on_the_order_of_answers():
    found = set()
    for at in range(9):
        answers = ["y"] * 10
        answers[at] = answers[at + 1] = "x"
        found.add(vqa.accuracy("x", answers, OFFICIAL))
    assert found == {0.5999999999999999, 0.6, 0.6000000000000001}


def test_the_published_evaluation_cleans_nothing_where_all_ten_agree():
    for said in ("Yes", "a yes"):
        assert vqa.accuracy(said, ["yes"] * 10, OFFICIAL) == 0
        assert vqa.accuracy(said, ["yes"] * 9 + ["no"], OFFICIAL) == 1
        assert vqa.accuracy(said, ["yes"] * 10) == vqa.accuracy(said, ["yes"] * 10, EVALAI) == 1


def test_the_published_evaluation_takes_two_answers_of_one_id_for_one():
    assert vqa.accuracy("x", ["x", "x", "y", "y"], OFFICIAL, ids=[1, 1, 2, 3]) == pytest.approx((0 + 0 + 2 / 3 * 2) / 4)
    assert vqa.accuracy("x", ["x", "x", "y", "y"], OFFICIAL) == pytest.approx((1 / 3 * 2 + 2 / 3 * 2) / 4)


def test_the_processor_of_the_server_loses_commas_before_punctuation():
    assert vqa.normalised("red,blue", EVALAI) == "redblue"
    assert vqa.normalised("The cat's", EVALAI) == "cat 's"
    assert vqa.normalised("red,blue") == "red blue"


def test_lmms_eval_cleans_answers_of_vqav2_always_and_tokenises_none():
    assert vqa.accuracy("Yes", ["yes"] * 10, "reference:lmms-eval-vqav2") == 1
    assert vqa.accuracy("yes", ["Yes"] * 10, "reference:lmms-eval-vqav2") == 1
    assert vqa.normalised("red,blue", "reference:lmms-eval-vqav2") == "red blue"
    assert vqa.normalised("red,blue", "reference:lmms-eval") == "redblue"


def test_vlmevalkit_keeps_a_full_stop_behind_a_digit():
    assert vqa.normalised("5.", "reference:vlmevalkit") == "5."
    assert vqa.normalised("a dog.", "reference:vlmevalkit") == "dog"


def test_one_known_answer_is_an_exact_match_and_none_is_an_error():
    assert vqa.accuracy("The cup", ["cup"]) == 1
    assert vqa.accuracy("cups", ["cup"]) == 0
    with pytest.raises(ValueError, match="no answers"):
        vqa.accuracy("x", [])
    assert vqa.overall([1.0, 0.3, 0.3]) == 53.33
