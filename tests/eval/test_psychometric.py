"""Curves of right answers over a knob: the fit, the threshold with its interval, and what may be said of it."""

import numpy as np
import pytest
import scipy.optimize
import scipy.stats

from omma.eval.psychometric import LAPSES, fitted, leveled, logistic, newton, points, trend


def answers(rng, x, threshold, steep, guess=0.5, lapse=0.02, asked=2):
    """Right answers of a model that loses what is below (or, steep < 0, above) the threshold."""
    return rng.binomial(asked, guess + (1 - guess - lapse) * logistic(steep * (np.log2(x) - np.log2(threshold))))


def sizes(rng, n):
    return np.exp2(rng.uniform(2.5, 6, n))  # 5.7 to 64


def test_the_fit_is_where_scipy_finds_the_highest_likelihood():
    rng = np.random.default_rng(0)
    x = np.round(sizes(rng, 300))
    right, asked = answers(rng, x, 18, 2.5), np.full(300, 2)
    curve = fitted(x, right, asked, guess=0.5, log=True, draws=50)
    levels = np.unique(x)
    s, n = (np.array([values[x == level].sum() for level in levels], float) for values in (right, asked))
    assert len(levels) > 40  # so that the fit works on levels of several values
    at, means = leveled(x)
    s, n = np.bincount(at, weights=right), np.bincount(at, weights=asked)

    def loss(theta, lapse):
        p = 0.5 + (0.5 - lapse) * logistic(theta[1] * (np.log2(means) - theta[0]))
        return -(s * np.log(p) + (n - s) * np.log1p(-p)).sum()

    exact = {"xatol": 1e-9, "fatol": 1e-11, "maxiter": 5000}
    found = [scipy.optimize.minimize(loss, (4, 2), args=(lapse,), method="Nelder-Mead", options=exact)
             for lapse in LAPSES]  # fmt: skip
    best = min(range(len(found)), key=lambda k: found[k].fun)
    assert curve.lapse == LAPSES[best]
    np.testing.assert_allclose((curve.middle, curve.slope), found[best].x, rtol=1e-4)


def test_many_fits_at_once_are_the_same_as_one_at_a_time():
    rng = np.random.default_rng(1)
    z, asked = np.linspace(-1.5, 1.5, 12), np.full((20, 12), 15.0)
    right = rng.binomial(15, 0.5 + 0.48 * logistic(2 * z), (20, 12)).astype(float)
    start, lapse = np.tile([0.0, 1.0], (20, 1)), rng.choice(LAPSES, 20)
    together, losses = newton(start, right, asked, z, 0.5, lapse)
    for k in (0, 7, 19):
        alone, loss = newton(start[k : k + 1], right[k : k + 1], asked[:1], z, 0.5, lapse[k : k + 1])
        np.testing.assert_allclose(together[k], alone[0], rtol=1e-5, atol=1e-6)
        assert losses[k] == pytest.approx(loss[0])


def test_the_interval_holds_the_true_threshold_about_as_often_as_it_says():
    held = 0
    for seed in range(10):
        rng = np.random.default_rng(100 + seed)
        x = sizes(rng, 200)
        curve = fitted(x, answers(rng, x, 18, 3, lapse=0.0), np.full(200, 2), guess=0.5, log=True, draws=80, seed=seed)
        held += curve.low95 is not None and curve.low95 <= 18 <= curve.high95
    assert held >= 7  # of 10 at 95 %: fewer would come by chance once in a thousand times


def test_what_is_lost_below_and_what_is_lost_above_are_told():
    rng = np.random.default_rng(2)
    x = sizes(rng, 400)
    small = fitted(x, answers(rng, x, 18, 3), np.full(400, 2), guess=0.5, log=True, draws=60)
    assert small.lost[0] == "below"
    assert 14 < small.low95 < small.threshold < small.high95 < 23
    far = fitted(x, answers(rng, x, 18, -3), np.full(400, 2), guess=0.5, log=True, draws=60)
    assert far.lost[0] == "above"
    assert small.at(small.threshold) == pytest.approx(0.75)
    assert far.at(far.threshold) == pytest.approx(0.75)


@pytest.mark.parametrize("why", ["no trend", "everywhere seen", "nowhere seen", "too few"])
def test_a_threshold_that_is_not_certain_is_not_told(why):
    rng = np.random.default_rng(3)
    n = 30 if why == "too few" else 300
    x = sizes(rng, n)
    shares = {"no trend": np.full(n, 0.75), "everywhere seen": 0.9 + 0.001 * x, "nowhere seen": 0.5 + 0.002 * x,
              "too few": 0.5 + 0.45 * logistic(0.8 * (np.log2(x) - 4))}  # fmt: skip
    curve = fitted(x, rng.binomial(2, shares[why]), np.full(n, 2), guess=0.5, log=True, draws=60)
    assert curve.lost is None


def test_a_step_has_a_finite_slope_and_a_threshold_on_it():
    x = np.repeat(np.arange(1.0, 21), 4)
    curve = fitted(x, 2 * (x > 10), np.full(80, 2), guess=0.0, draws=50)
    assert np.isfinite(curve.slope)
    assert 10 <= curve.threshold <= 11


def test_a_trend_is_mantels_statistic():
    t, share = np.array([1.0, 2, 3, 4, 5, 6]), np.array([0.0, 0, 1, 0, 1, 1])
    r = scipy.stats.pearsonr(t, share)[0]
    assert trend(t, share) == pytest.approx(scipy.stats.chi2.sf(5 * r**2, 1))
    assert trend(t, np.ones(6)) == 1


def test_points_hold_every_unit_once_and_equal_values_together():
    x = np.array([3.0] * 50 + list(range(100, 150)))
    drawn = points(x, np.ones(100), np.full(100, 2.0))
    assert sum(point["n"] for point in drawn) == 100
    assert drawn[0]["x"] == 3
    assert drawn[0]["n"] == 50
    assert all(point["share"] == 0.5 and point["low95"] < 0.5 < point["high95"] for point in drawn)


def test_a_curve_of_one_value_or_of_none_above_chance_is_refused():
    with pytest.raises(ValueError, match="two at least"):
        fitted([4, 4], [1, 1], [1, 1], guess=0.5)
    with pytest.raises(ValueError, match="above 0"):
        fitted([0, 4], [1, 1], [1, 1], guess=0.5, log=True)
    with pytest.raises(ValueError, match="guess=1"):
        fitted([1, 4], [1, 1], [1, 1], guess=1)
