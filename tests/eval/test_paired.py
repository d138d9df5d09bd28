"""Tests, correlations and powers against scipy, against enumeration, and against values that papers gave."""

import itertools

import numpy as np
import pytest
from scipy import stats

from omma.eval import paired


def test_mcnemar_is_scipy_s_binomial_test_of_the_disagreements():
    for better, worse in itertools.product(range(8), range(8)):
        expected = stats.binomtest(better, better + worse, 0.5).pvalue if better + worse else 1.0
        assert paired.mcnemar(better, worse) == pytest.approx(expected)
    assert paired.mcnemar(5, 0) == 0.0625  # 37 -> 42 of 150 pairs at best
    assert paired.mcnemar(16, 0) < 0.002


def test_random_signs_agree_with_all_signs():
    sums = np.array([3.0, 1.0, -1.0, 2.0, 0.0, 2.0, 1.0, 1.0])
    signs = np.array(list(itertools.product((-1, 1), repeat=len(sums))))
    exact = (np.abs(signs @ sums) >= abs(sums.sum())).mean()
    assert paired.sign_flips(sums, seed=0, rounds=20_000) == pytest.approx(exact, abs=0.01)
    assert paired.sign_flips(np.zeros(5)) == 1
    assert paired.sign_flips(sums) == paired.sign_flips(sums)


def test_correlations_are_scipy_s():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 5, 30), rng.normal(size=30)
    assert paired.pearson(x, y) == pytest.approx(stats.pearsonr(x, y).statistic)
    assert paired.spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic)
    assert paired.pearson([1, 1], [1, 2]) is None
    assert paired.phi([1, 1, 1, 0, 0], [1, 1, 0, 0, 1]) == pytest.approx((2 * 1 - 1 * 1) / (3 * 2 * 3 * 2) ** 0.5)


@pytest.mark.parametrize(
    ("r", "low", "high"),
    [(0.87, 0.49, 0.97), (0.71, 0.09, 0.93), (0.79, 0.26, 0.95), (0.72, 0.11, 0.94), (0.31, -0.45, 0.81)],
)
def test_nine_patterns_leave_a_wide_interval(r, low, high):
    assert [round(x, 2) for x in paired.fisher_interval(r, 9)] == [low, high]
    expected = stats.norm.ppf(0.975) / 6**0.5
    assert np.arctanh(paired.fisher_interval(r, 9)[1]) == pytest.approx(np.arctanh(r) + expected)


def test_the_correlation_over_patterns_stands_between_its_own_extremes():
    rng = np.random.default_rng(1)
    a = {f"p{n}": (rng.random(40) < n / 10).tolist() for n in range(1, 10)}
    b = {name: (rng.random(40) < np.mean(values) * 0.8 + 0.1).tolist() for name, values in a.items()}
    found = paired.correlation(a, b, rounds=300)
    r = found["pearson"]
    x, y = ([np.mean(side[name]) for name in a] for side in (a, b))
    assert r["value"] == pytest.approx(stats.pearsonr(x, y).statistic)
    assert r["low95"] < r["value"] < r["high95"]
    leave_one = [stats.pearsonr(np.delete(x, n), np.delete(y, n)).statistic for n in range(9)]
    assert r["without"] == pytest.approx([min(leave_one), max(leave_one)])
    assert found["patterns"] == 9
    alone = paired.correlation(a, {name: values[:20] for name, values in b.items()}, together=False, rounds=100)
    assert alone["pearson"]["high95"] - alone["pearson"]["low95"] > 0
    with pytest.raises(ValueError, match="together=False"):
        paired.correlation(a, {name: values[:20] for name, values in b.items()})


def test_two_patterns_have_no_correlation():
    found = paired.correlation({"x": [1, 0], "y": [0, 0]}, {"x": [1, 0], "y": [0, 0]})
    assert found["pearson"]["value"] is None
    flat = paired.correlation({p: [1, 0] for p in "xyz"}, {p: [1, 1] for p in "xyz"})
    assert flat["spearman"]["value"] is None


def test_the_power_is_that_of_all_outcomes_added_up():
    n, discordant, difference = 12, 0.5, 0.4
    better, worse = (discordant + difference) / 2, (discordant - difference) / 2
    expected = 0.0
    for b in range(n + 1):
        for w in range(n + 1 - b):
            chance = stats.multinomial.pmf([b, w, n - b - w], n, [better, worse, 1 - discordant])
            expected += chance if b + w and stats.binomtest(b, b + w).pvalue <= 0.05 else 0.0
    assert paired.power(n, discordant, difference) == pytest.approx(expected)


def test_150_pairs_show_ten_points_and_the_normal_formula_meets_the_exact_one():
    assert paired.detectable(150) == pytest.approx(0.106, abs=0.001)
    assert paired.power(150, 0.2, paired.detectable(150)) == pytest.approx(0.8, abs=1e-6)
    assert paired.detectable(20) is None
    assert paired.power(5001, 0.2, 0.02) == pytest.approx(paired.power(4999, 0.2, 0.02), abs=0.03)  # two formulas
    with pytest.raises(ValueError, match="at least one item"):
        paired.detectable(0)
    with pytest.raises(ValueError, match="difference <= discordant"):
        paired.power(10, 0.2, 0.3)
