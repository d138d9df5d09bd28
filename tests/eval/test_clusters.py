"""Intervals of questions that share pictures, against Wilson's, simulation and arithmetic."""

import numpy as np
import pytest

from omma.eval.clusters import bootstrap, by_cluster, clustered, paired
from omma.eval.metrics import wilson
from omma.eval.tasks.naturalbench import NATURALBENCH
from omma.eval.tasks.patterns import PATTERNS
from omma.eval.tasks.retrieval import RETRIEVAL
from omma.eval.tasks.statements import STATEMENTS


def test_questions_on_pictures_of_their_own_get_about_wilsons_interval():
    right = np.arange(200) % 4 == 0
    found = clustered(right, [str(i) for i in range(200)])
    low, high = wilson(50, 200)
    assert (found["value"], found["right"], found["n"], found["clusters"]) == (0.25, 50, 200, 200)
    assert found["low95"] == pytest.approx(low, abs=2e-4)
    assert found["high95"] == pytest.approx(high, abs=2e-4)


def test_questions_that_are_right_together_count_as_one():
    right = np.repeat(np.arange(50) % 2 == 0, 4)
    found = clustered(right, np.repeat(np.arange(50), 4).tolist())
    low, high = wilson(25 * 49 / 50, 49)  # 50 pictures, less the one that the mean takes
    assert found["low95"] == pytest.approx(low, abs=1e-9)
    assert found["high95"] == pytest.approx(high, abs=1e-9)
    assert found["n"] == 200


def test_the_order_of_questions_changes_no_digit():
    rng = np.random.default_rng(5)
    earned, pictures = rng.choice([0, 1 / 3, 0.7, 1], 300), rng.integers(0, 300, 300)
    order = rng.permutation(300)
    first = clustered(earned, [str(n) for n in range(300)])
    assert clustered(earned[order], [str(n) for n in order]) == first
    some, again = clustered(earned > 0.5, pictures.tolist()), clustered(earned[order] > 0.5, pictures[order].tolist())
    assert some == again


def test_where_all_are_right_the_pictures_are_counted_and_where_none_is_asked_nothing_is_known():
    found = clustered([True] * 30, ["a", "b", "c"] * 10)
    assert (found["low95"], found["high95"]) == pytest.approx(wilson(3, 3))
    empty = clustered([], [])
    assert (empty["value"], empty["low95"], empty["high95"]) == (None, 0.0, 1.0)
    assert clustered([True, False], ["a", "a"])["clusters"] == 1


def test_the_interval_of_a_share_covers_the_truth_as_often_as_it_says():
    rng, hits = np.random.default_rng(0), 0
    for _ in range(400):
        chances = rng.beta(2, 2, size=60)  # a picture's; mean 1/2
        right = rng.random((60, 5)) < chances[:, None]
        found = clustered(right.ravel(), np.repeat(np.arange(60), 5).tolist())
        hits += found["low95"] <= 0.5 <= found["high95"]
    assert 0.92 <= hits / 400 <= 0.98


def test_a_paired_difference_is_counted_by_question_and_its_interval_drawn_by_picture():
    pictures = {(f"q{i}", 0): f"p{i // 2}" for i in range(100)}
    theirs = {key: i % 2 == 0 for i, key in enumerate(pictures)}
    ours = {key: i % 2 == 0 or i % 10 == 1 for i, key in enumerate(pictures)}
    found = paired(ours, theirs, pictures)
    assert (found["value"], found["better"], found["worse"], found["n"], found["clusters"]) == (0.1, 10, 0, 100, 50)
    assert 0.03 < found["low95"] < 0.06
    assert 0.14 < found["high95"] < 0.17
    back = paired(theirs, ours, pictures)
    assert (back["value"], back["low95"]) == (-found["value"], pytest.approx(-found["high95"], abs=0.011))
    assert paired(ours, theirs, pictures) == found, "the same draws each time"


def test_the_bootstrap_has_the_spread_of_the_mean_over_clusters():
    values = np.random.default_rng(1).normal(size=400)
    sums, sizes = by_cluster(values, (np.arange(400) // 4).tolist())
    drawn = bootstrap(sums, sizes, seed=0, rounds=4000)
    assert drawn.mean() == pytest.approx(values.mean(), abs=0.01)
    assert drawn.std() == pytest.approx(np.std(sums / sizes) / 10, rel=0.05)


def test_where_nothing_can_be_compared_nothing_is_claimed():
    assert paired({"a": True}, {"b": True}, {"a": "p"}) == {"n": 0, "value": None, "low95": None, "high95": None}
    one = paired({"a": True}, {"a": False}, {"a": "p"})
    assert (one["value"], one["low95"], one["clusters"]) == (1.0, None, 1)


def found_by_twins(way, right):
    """Result rows of `retrieval`: 40 pictures, each found by all of its five captions or by none."""
    return [{"item": f"{n}-{k}", "group": f"p{n}", "pattern": way, "pictures": [f"p{n}"], "texts": [f"caption {n} {k}"],
             "correct": hit, "credits": [float(hit)] * 3 + [1.0]} for n, hit in enumerate(right) for k in range(5)]


def test_captions_of_one_picture_count_as_one_search_in_the_interval_of_recall():
    right = [n % 4 == 0 for n in range(40)]
    found = RETRIEVAL.metrics(found_by_twins("t2i", right))["t2i"]["recall@1"]
    assert (found["value"], found["n"]) == (0.25, 200)
    low, high = wilson(10, 40)
    assert (found["low95"], found["high95"]) == pytest.approx((low, high), abs=5e-3)


def test_statements_about_the_pictures_of_one_pair_count_as_one_in_the_interval():
    rows = [{"item": f"{n}-{k}", "group": f"g{n}", "pattern": "", "pictures": [f"{n}-{k}"], "score_kind": "itm",
             "correct": n % 2 == 0, "scores": [0.7], "answer": "true" if (k + n) % 2 else "false", "prediction": "true",
             "credits": [float(n % 2 == 0)]} for n in range(30) for k in range(4)]  # fmt: skip
    found = STATEMENTS.metrics(rows)["accuracy"]
    assert (found["low95"], found["high95"]) == pytest.approx(wilson(15, 30), abs=5e-3)


def matched(number, pictures, right):
    s = [1.0, 0.0, 0.0, 1.0] if right else [0.0, 1.0, 1.0, 0.0]
    return {"item": str(number), "group": f"g{number}", "pattern": "state", "pictures": pictures, "scores": s,
            "credits": [float(right)] * 4}  # fmt: skip


def test_pairs_of_pictures_of_their_own_have_wilsons_interval_and_their_two_choices_count_as_one():
    found = PATTERNS.metrics([matched(n, [f"{n}a", f"{n}b"], n % 3 == 0) for n in range(60)])
    assert (found["image"]["low95"], found["image"]["high95"]) == wilson(20, 60)
    assert (found["item"]["right"], found["item"]["n"]) == (40, 120)
    assert (found["item"]["low95"], found["item"]["high95"]) == pytest.approx(wilson(20, 60), abs=5e-3)


def test_mined_pairs_that_share_a_picture_count_as_one_in_the_interval():
    rows = [matched(10 * n + k, [f"hub {n}", f"{n}-{k}"], n % 2 == 0) for n in range(20) for k in range(6)]
    found = PATTERNS.metrics(rows)["image"]
    assert (found["right"], found["n"]) == (60, 120)
    assert (found["low95"], found["high95"]) == pytest.approx(wilson(10, 20), abs=1e-2)


def test_both_questions_of_a_naturalbench_block_count_as_one_in_the_interval():
    rows = [{"item": f"{n}-q{q}-i{i}", "group": f"g{n}", "pattern": "", "pictures": [f"{n}-{i}"], "prediction": "yes",
             "credits": [float(n % 2), 0.5], "answer": "yes"} for n in range(30) for q in (0, 1) for i in (0, 1)]
    for score in ("question", "image"):
        found = NATURALBENCH.metrics(rows)[score]
        assert (found["value"], found["n"]) == (0.5, 60)
        assert (found["low95"], found["high95"]) == pytest.approx(wilson(15, 30), abs=1e-2)
