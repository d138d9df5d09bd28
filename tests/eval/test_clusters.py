"""Intervals of questions that share pictures, against Wilson's, simulation and arithmetic."""

import numpy as np
import pytest

from omma.eval.clusters import bootstrap, by_cluster, clustered, paired
from omma.eval.metrics import wilson


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
