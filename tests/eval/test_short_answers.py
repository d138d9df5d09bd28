"""Exact match, ANLS, relaxed accuracy and NLVR: by hand, and against the values that published code prints."""

import pytest

from omma.eval.protocols import anls, chart, exact, nlvr


# -------------------------------------------------------------------------------------------------- exact match
def test_exact_match_is_strict_by_meaning_and_published_by_letters():
    for reply, *earned in [("cup", 1, 1, 1, 1), ("Cup.", 0, 1, 0, 1), ("The cup", 0, 0, 0, 1), ("cups", 0, 0, 0, 0),
                           (" CUP\n", 0, 1, 1, 1)]:  # fmt: skip
        found = [exact.right(reply, "cup", mode) for mode in exact.MODES]
        assert found == [earned[3], *earned[:3]], reply
    assert exact.right("Two\nI think", "2")


def test_accuracies_of_kinds_and_what_is_unparsed_are_counted():
    kinds = [exact.kind_of(q) for q in ("What is it?", "who sings?", "is it?", "what runs?")]
    found = exact.score(["dog", "man", "", None], ["dog", "woman", "yes", "cat"], kinds)
    assert found["accuracy"]["value"] == 1 / 4
    assert {kind: cell["n"] for kind, cell in found["kinds"].items()} == {"what": 2, "who": 1, "other": 1}
    assert found["unparsed"] == 2
    with pytest.raises(ValueError, match="1 replies, 2 answers"):
        exact.score(["a"], ["a", "b"])


def test_counts_of_repetitions_are_compared_by_squares():
    found = exact.distances(
        ["3", "5 times", "many"], [4, 5, 2], lambda text: float(text[0]) if text[0].isdigit() else None
    )
    assert found == {"mean_squared": 0.5, "n": 2, "unparsed": 1}


# -------------------------------------------------------------------------------------------------- ANLS
def test_a_missing_letter_of_ten_costs_a_tenth_and_half_of_them_all():
    assert anls.similarity("Unversity", ["University"]) == pytest.approx(0.9)
    assert anls.similarity("abcd", ["abxy"]) == 0  # the paper: 0 from a half on
    assert anls.similarity("abcd", ["abxy"], mode="reference:vlmevalkit") == 0.5
    assert anls.similarity("  The   END", ["x", "the end"]) == 1
    assert anls.similarity("ab  c", ["ab d"], mode="reference:lmms-eval") == pytest.approx(1 - 1 / 5)
    assert anls.similarity("ab  c", ["ab d"], mode="reference:vlmevalkit") == pytest.approx(1 - 1 / 5)
    assert anls.similarity(" ab c", ["ab d"], mode="reference:lmms-eval") == pytest.approx(1 - 1 / 4)
    assert anls.similarity(" ab c", ["ab d"], mode="reference:vlmevalkit") == pytest.approx(1 - 1 / 5)


def test_levenshtein_s_distance_is_what_its_definition_says():
    def slow(a, b):
        if not a or not b:
            return len(a) + len(b)
        return min(slow(a[1:], b) + 1, slow(a, b[1:]) + 1, slow(a[1:], b[1:]) + (a[0] != b[0]))

    words = ["", "a", "ab", "ba", "abc", "acb", "cabd", "bcad"]
    assert all(anls.distance(a, b) == slow(a, b) for a in words for b in words)


def test_a_missing_reply_earns_nothing_and_is_counted():
    found = anls.score(["end", None], [["end"], ["end"]])
    assert (found["anls"], found["exact"], found["missing"]) == (0.5, 0.5, 1)


# -------------------------------------------------------------------------------------------------- relaxed accuracy
@pytest.mark.parametrize(
    ("said", "answer", "strict", "published"),
    [
        ("105", "100", True, True),
        ("106", "100", False, False),
        ("-95", "-100", True, True),
        ("1,200", "1200", True, False),
        ("$3.00", "3", True, False),
        ("45", "45%", True, False),
        ("0.45", "45%", False, True),
        ("0.0", "0", True, False),
        ("1990", "2010", True, True),
        ("Red.", "red", True, False),
        ("red", "Red", True, True),
        ("three", "3", False, False),
        ("", "", False, True),
    ],
)
def test_a_number_within_five_per_cent_is_right(said, answer, strict, published):
    assert chart.right(said, answer) == strict
    assert chart.right(said, answer, mode="reference:pix2struct") == published


def test_relaxed_accuracy_of_each_kind():
    found = chart.score(["1", "2", None], ["1", "3", "4"], ["human", "human", "augmented"])
    assert found["accuracy"]["value"] == 1 / 3
    assert found["kinds"]["human"]["value"] == 1 / 2
    assert found["missing"] == 1


# -------------------------------------------------------------------------------------------------- NLVR
GOLDEN = [  # NLVR2: groups of 4, 3, 2 and 1 examples, true labels, groups of true labels alone; what the script prints
    ((1196, 590, 196, 36), 3551, 78, 0.5085935262102549, 0.03865213082259663),
    ((1223, 562, 179, 31), 3558, 84, 0.5106932682646763, 0.042105263157894736),
    ((1241, 530, 191, 34), 3584, 92, 0.5142037302725968, 0.04609218436873747),
]


def build(sizes, true, all_true):
    """Labels with so many groups, true ones and groups of true ones alone."""
    groups = [size for size, count in zip((4, 3, 2, 1), sizes, strict=True) for _ in range(count)]
    groups.sort()
    labels, left = {}, true
    for number, size in enumerate(groups):
        want = size if number < all_true else min(size - 1, left)
        left -= want
        for at in range(size):
            labels[f"dev-{number}-{at}-0"] = "True" if at < want else "False"
    assert left == 0
    return labels


@pytest.mark.parametrize(("sizes", "true", "all_true", "accuracy", "consistency"), GOLDEN)
def test_who_always_says_true_has_the_published_numbers_of_nlvr2(sizes, true, all_true, accuracy, consistency):
    labels = build(sizes, true, all_true)
    assert len(labels) == sum(size * count for size, count in zip((4, 3, 2, 1), sizes, strict=True))
    for mode in nlvr.MODES:
        found = nlvr.score(labels, dict.fromkeys(labels, "true"), mode=mode)
        assert found["accuracy"]["value"] == accuracy
        assert found["consistency"]["value"] == consistency
        assert found["consistency"]["n"] == sum(sizes)


def test_a_prediction_that_is_missing_is_counted_or_refused_as_published():
    labels = {"dev-0-0-0": "True", "dev-0-1-0": "False"}
    found = nlvr.score(labels, {"dev-0-0-0": None})
    assert (found["accuracy"]["right"], found["missing"], found["unparsed"]) == (0, 1, 1)
    with pytest.raises(ValueError, match="no prediction for 1 of 2"):
        nlvr.score(labels, {"dev-0-0-0": "true"}, mode="reference:official")
    with pytest.raises(ValueError, match="ids that the labels lack"):
        nlvr.score(labels, {"test1-0-0-0": "true"})
    assert nlvr.parse("Yes.").value == "true"
    assert nlvr.parse("Yes.", "reference:official").value is None
    read = {"True, no doubt": None, "False, they differ": "false", "It isn't true": None,
            "I'd say the statement is True.": "true", "": None, "false. true": None}  # fmt: skip
    assert {said: nlvr.parse(said).value for said in read} == read
    with pytest.raises(ValueError, match="no id of NLVR2"):
        nlvr.nlvr2_group("12")
