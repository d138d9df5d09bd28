"""Calibration: bins at their edges, errors by hand, and a temperature that is the minimum it claims to be."""

import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar

from omma.eval.protocols import calibration as cal

SATURATED = np.array([[40.0, 0.0], [3.0, 0.0]])


def drawn(n=400, k=5, seed=0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, k))
    labels = np.array([rng.choice(k, p=p) for p in cal.softmax(logits)])
    return logits, labels


def test_a_saturated_confidence_has_a_bin_of_its_own_in_torchmetrics():
    confidence, right = cal.top(SATURATED, np.array([1, 0]))
    assert right.tolist() == [False, True]
    assert cal.ece(confidence, right, 10) == pytest.approx(0.4762870669, abs=1e-8)
    assert cal.ece(confidence, right, 10, "reference:gpleiss") == pytest.approx(0.4762870669, abs=1e-7)
    assert cal.ece(confidence, right, 10, "reference:torchmetrics") == pytest.approx(0.5237129331, abs=1e-7)


def test_an_edge_belongs_to_the_bin_below_and_in_torchmetrics_to_the_one_above():
    confidence, right = np.array([0.5, 0.25, 0.75, 0.0]), np.array([1, 0, 1, 0], bool)
    table = cal.reliability(confidence, right, bins=4)
    assert [(row["low"], row["n"]) for row in table] == [(0, 2), (0.25, 1), (0.5, 1)]
    above = cal.reliability(confidence, right, 4, "reference:torchmetrics")
    assert [(row["low"], row["n"]) for row in above] == [(0, 1), (0.25, 1), (0.5, 1), (0.75, 1)]
    assert cal.ece(confidence, right, 4) == pytest.approx((0.25 + 0.5 + 0.25) / 4)


def test_the_edges_of_published_bins_are_torch_s_to_the_last_bit():
    for bins in (10, 15, 16, 20):
        edges = torch.linspace(0, 1, bins + 1).numpy()
        inside = edges[1:-1]
        for mode, shift in (("reference:gpleiss", 0), ("reference:torchmetrics", 1)):
            index = [
                row["low"] for row in cal.reliability(inside.astype(float), np.ones(len(inside), bool), bins, mode)
            ]
            assert index == pytest.approx([(b + shift) / bins for b in range(bins - 1)]), (bins, mode)


def test_the_published_ece_is_that_of_its_code_on_random_data():
    logits, labels = drawn()
    confidence, right = cal.top(logits, labels)
    c, edges, expected = confidence.astype(np.float32), torch.linspace(0, 1, 16).numpy(), 0.0
    for low, high in itertools.pairwise(edges):
        here = (c > low) & (c <= high)
        expected += abs(c[here].mean() - right[here].mean()) * here.mean() if here.any() else 0.0
    assert cal.ece(confidence, right, 15, "reference:gpleiss") == pytest.approx(expected, abs=1e-6)


def test_bins_of_equally_many_items_do_not_depend_on_the_order_of_equal_confidences():
    confidence = np.array([0.9, 0.9, 0.9, 0.9, 0.6, 0.6])
    right = np.array([1, 0, 1, 1, 0, 1], bool)
    found = cal.adaptive_ece(confidence, right, bins=2)
    assert found == pytest.approx((4 * 0.15 + 2 * 0.1) / 6)
    assert cal.adaptive_ece(confidence[::-1], right[::-1], bins=2) == pytest.approx(found)


def test_what_chance_adds_to_a_gap_is_taken_from_it():
    assert cal.debiased_ece(np.full(4, 0.8), np.array([1, 1, 1, 0], bool)) == 0  # 0.05^2 < 0.75 * 0.25 / 3
    found = cal.debiased_ece(np.full(4, 0.9), np.array([1, 0, 0, 0], bool))
    assert found == pytest.approx((0.65**2 - 0.25 * 0.75 / 3) ** 0.5)
    assert found < cal.ece(np.full(4, 0.9), np.array([1, 0, 0, 0], bool))


def test_brier_and_likelihood_by_hand():
    logits = np.log(np.array([[0.8, 0.2], [0.4, 0.6]]))
    labels = np.array([0, 0])
    assert cal.brier(logits, labels) == pytest.approx((2 * 0.2**2 + 2 * 0.6**2) / 2)
    assert cal.nll(logits, labels) == pytest.approx(-(np.log(0.8) + np.log(0.4)) / 2)


@pytest.mark.parametrize("scale", [0.01, 0.3, 1.0, 4.0, 200.0])
def test_newton_s_temperature_is_the_minimum_and_grows_with_the_logits(scale):
    logits, labels = drawn()
    found = cal.temperature(scale * logits, labels)
    assert found == pytest.approx(scale * cal.temperature(logits, labels), rel=1e-9)
    loss = lambda log_t: cal.nll(scale * logits, labels, float(np.exp(log_t)))
    best = minimize_scalar(loss, bracket=(np.log(scale) - 1, np.log(scale) + 1), tol=1e-12)
    assert cal.nll(scale * logits, labels, found) <= best.fun + 1e-14
    assert np.log(found) == pytest.approx(best.x, abs=1e-5)


def test_the_published_optimiser_stops_short_of_a_far_minimum():
    rng = np.random.default_rng(0)
    logits, labels = 20 * rng.normal(size=(60, 3)), rng.integers(0, 3, 60)
    labels[:30] = logits[:30].argmax(axis=1)
    published, best = cal.temperature(logits, labels, "reference:gpleiss"), cal.temperature(logits, labels)
    assert 1.5 < published < 0.5 * best
    assert cal.nll(logits, labels, best) < cal.nll(logits, labels, published)


def test_data_without_a_best_temperature_are_told_by_its_limits():
    assert cal.temperature(SATURATED, np.array([0, 0])) == 0
    assert cal.temperature(SATURATED, np.array([1, 1])) == float("inf")
    for bad, why in [
        ((np.zeros((2, 2)), [0, 2]), "none of the 2 classes"),
        ((np.zeros((0, 2)), []), "at least one item"),
    ]:
        with pytest.raises(ValueError, match=why):
            cal.temperature(*bad)
    with pytest.raises(ValueError, match=r"outside 0\.\.1"):
        cal.ece(np.array([1.5]), np.array([True]))
