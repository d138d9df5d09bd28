"""Every number against arithmetic done by hand, against brute force, or against scipy."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from omma.eval import metrics


def unit(rng, n, e=8):
    x = rng.normal(size=(n, e)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def exact(queries, gallery):
    """One inner product at a time, so equal rows have equal scores."""
    pairs = itertools.product(queries.astype(float), gallery.astype(float))
    return np.array([np.float32(math.fsum(q * g)) for q, g in pairs]).reshape(len(queries), len(gallery))


def brute_recall(scores, relevant, k):
    """The share of all orders that agree with the scores in which a relevant row is among the first k."""
    hits = 0, 0
    for row, right in zip(scores, relevant, strict=True):
        levels = [[i for i in range(len(row)) if row[i] == level] for level in sorted(set(row), reverse=True)]
        orders = [sum(order, ()) for order in itertools.product(*(list(itertools.permutations(x)) for x in levels))]
        hits = hits[0] + np.mean([bool(set(order[:k]) & set(right)) for order in orders]), hits[1] + 1
    return hits[0] / hits[1]


# -------------------------------------------------------------------------------------------------- recall
def test_recall_of_three_queries_counted_by_hand():
    gallery = np.eye(4, dtype=np.float32)
    queries = np.array([[0.9, 0.5, 0.1, 0.0], [0.9, 0.5, 0.1, 0.0], [0.1, 0.2, 0.3, 0.4]], dtype=np.float32)
    found = metrics.recall_at_k(queries, gallery, [[0], [2], [0, 2]], ks=(1, 2, 3))
    assert found.hits.tolist() == [[1, 1, 1], [0, 0, 1], [0, 1, 1]]       # places 1, 3, and 2 (row 2 before row 0)
    assert found.rank.tolist() == [1, 3, 2]
    assert found.top[:, :2].tolist() == [[0, 1], [0, 1], [3, 2]]
    assert found.cut.tolist() == [0, 0, 0]


def test_any_of_a_pictures_captions_counts_as_a_hit():
    gallery = np.eye(3, dtype=np.float32)
    query = np.array([[0.2, 0.9, 0.1]], dtype=np.float32)
    assert metrics.recall_at_k(query, gallery, [[1]], ks=[1]).hits.item() == 1
    assert metrics.recall_at_k(query, gallery, [[0, 1]], ks=[1]).hits.item() == 1
    assert metrics.recall_at_k(query, gallery, [[0, 2]], ks=[1]).hits.item() == 0


@pytest.mark.parametrize(("ties", "hit"), [("expected", 0.5), ("first", 1.0), ("last", 0.0)])
def test_a_tie_of_the_right_row_with_a_wrong_one_follows_the_rule(ties, hit):
    gallery = np.eye(3, dtype=np.float32)
    found = metrics.recall_at_k(np.array([[0.5, 0.5, 0.1]], np.float32), gallery, [[0]], ks=[1], ties=ties)
    assert found.hits.item() == hit
    assert found.rank.item() == {"expected": 1.5, "first": 1, "last": 2}[ties]
    assert found.cut.tolist() == [1]


def test_when_every_row_ties_recall_is_chance():
    gallery, query = np.ones((10, 4), np.float32), np.ones((1, 4), np.float32)
    found = metrics.recall_at_k(query, gallery, [[3]], ks=(1, 5, 10))
    np.testing.assert_allclose(found.hits, [[0.1, 0.5, 1.0]])
    # two right rows of ten: 1 - C(8,5)/C(10,5) = 1 - 56/252
    found = metrics.recall_at_k(query, gallery, [[3, 7]], ks=(1, 5))
    np.testing.assert_allclose(found.hits, [[0.2, 1 - 56 / 252]])
    assert metrics.recall_by_chance([2], 10, 5) == pytest.approx(1 - 56 / 252)


@pytest.mark.parametrize("seed", range(4))
def test_recall_equals_the_average_over_all_orders_of_the_ties(seed):
    rng = np.random.default_rng(seed)
    gallery = np.eye(6, dtype=np.float32)
    queries = rng.integers(0, 3, size=(7, 6)).astype(np.float32) / 2      # few values: many ties
    relevant = [sorted(rng.choice(6, size=rng.integers(1, 4), replace=False).tolist()) for _ in range(7)]
    found = metrics.recall_at_k(queries, gallery, relevant, ks=(1, 2, 4))
    for column, k in enumerate((1, 2, 4)):
        assert found.hits[:, column].mean() == pytest.approx(brute_recall(queries, relevant, k))


@pytest.mark.parametrize("ties", ["expected", "first", "last"])
def test_block_size_changes_no_result_even_with_duplicate_rows(ties):
    rng = np.random.default_rng(0)
    gallery = unit(rng, 60, 48)
    gallery = np.concatenate([gallery, gallery[::3]])[rng.permutation(80)]
    queries = unit(rng, 33, 48)
    relevant = [rng.choice(80, size=3, replace=False).tolist() for _ in range(33)]
    whole = metrics.recall_at_k(queries, gallery, relevant, ties=ties)
    for block in [(1, 7), (5, 80), (33, 1)]:
        part = metrics.recall_at_k(queries, gallery, relevant, ties=ties, block=block)
        for name in ("hits", "rank", "top", "top_scores", "right_score", "cut"):
            np.testing.assert_array_equal(getattr(part, name), getattr(whole, name), err_msg=f"{name} {block}")
    np.testing.assert_allclose(whole.top_scores, -np.sort(-queries @ gallery.T, axis=1)[:, :5], atol=1e-6)
    np.testing.assert_array_equal(whole.top, np.argsort(-exact(queries, gallery), axis=1, kind="stable")[:, :5])


def test_first_and_last_agree_with_stable_sorts():
    rng = np.random.default_rng(1)
    gallery = np.eye(9, dtype=np.float32)
    queries = rng.integers(0, 4, size=(40, 9)).astype(np.float32)
    relevant = [[int(x)] for x in rng.integers(0, 9, size=40)]
    for ties, order in (
        ("first", np.argsort(-queries, axis=1, kind="stable")),
        ("last", np.argsort(queries, axis=1, kind="stable")[:, ::-1]),
    ):
        place = [int(np.flatnonzero(o == r[0])[0]) + 1 for o, r in zip(order, relevant, strict=True)]
        assert metrics.recall_at_k(queries, gallery, relevant, ties=ties).rank.tolist() == place


def test_recall_names_what_is_wrong_with_its_input():
    gallery = np.eye(3, dtype=np.float32)
    with pytest.raises(ValueError, match="query 1 has no relevant row"):
        metrics.recall_at_k(gallery[:2], gallery, [[0], []])
    with pytest.raises(ValueError, match="outside the gallery"):
        metrics.recall_at_k(gallery[:1], gallery, [[3]])
    with pytest.raises(ValueError, match="ties='random'"):
        metrics.recall_at_k(gallery[:1], gallery, [[0]], ties="random")
    with pytest.raises(ValueError, match="one list a query"):
        metrics.recall_at_k(gallery[:2], gallery, [[0]])


# -------------------------------------------------------------------------------------------------- pairs
def one(s11, s12, s21, s22):
    got = metrics.score_pairs(np.array([[[s11, s12], [s21, s22]]]))
    return bool(got.image[0]), bool(got.text[0]), bool(got.group[0]), int(got.ties[0])


def test_pair_scores_of_five_matrices_done_by_hand():
    assert one(0.9, 0.1, 0.2, 0.8) == (True, True, True, 0)
    assert one(0.9, 0.1, 0.8, 0.2) == (True, False, False, 0)             # image 2 prefers text 1
    assert one(0.9, 0.95, 0.1, 0.97) == (True, False, False, 0)           # image 1 prefers text 2
    assert one(0.2, 0.1, 0.5, 0.9) == (False, True, False, 0)             # text 1 prefers image 2
    assert one(0.1, 0.9, 0.8, 0.2) == (False, False, False, 0)


def test_a_tie_between_images_picks_image_2():
    image, _, _, ties = one(0.5, 0.1, 0.5, 0.9)
    assert (image, ties) == (False, 1)                                    # text 1 loses its tie
    image, _, _, ties = one(0.9, 0.5, 0.1, 0.5)
    assert (image, ties) == (True, 1)                                     # text 2 wins its tie
    assert one(0.5, 0.5, 0.5, 0.5) == (False, False, False, 2)


def test_the_image_score_equals_the_published_softmax_over_images():
    rng = np.random.default_rng(0)
    s = rng.normal(size=(500, 2, 2))
    s[::7, 0] = s[::7, 1]                                                 # ties between the images
    p = np.exp(s[:, 0]) / np.exp(s).sum(axis=1)                           # (n, text): P(image 1 | text)
    right = np.where(p > 0.5, 1, 2) == [1, 2]
    np.testing.assert_array_equal(metrics.score_pairs(s).image, right.all(axis=1))


def test_by_winogrounds_rule_a_tie_is_wrong_and_nothing_else_changes():
    s = np.array(list(itertools.product((0.0, 1.0, 2.0), repeat=4))).reshape(-1, 2, 2)        # with many ties
    got, other = metrics.score_pairs(s, "wrong"), metrics.score_pairs(s)
    image = (s[:, 0, 0] > s[:, 1, 0]) & (s[:, 1, 1] > s[:, 0, 1])
    text = (s[:, 0, 0] > s[:, 0, 1]) & (s[:, 1, 1] > s[:, 1, 0])
    np.testing.assert_array_equal(got.image, image)
    np.testing.assert_array_equal(got.text, text)
    np.testing.assert_array_equal(got.group, image & text)
    np.testing.assert_array_equal((got.picks == 0).sum(axis=1), got.ties)
    apart = got.ties == 0
    np.testing.assert_array_equal(got.picks[apart], other.picks[apart])
    assert (other.image & ~got.image).any()
    with pytest.raises(ValueError, match="a tie goes to 'image 2'"):
        metrics.score_pairs(s, "half")


def test_chance_levels_are_the_shares_of_the_24_orders_of_four_scores():
    got = metrics.score_pairs(np.array(list(itertools.permutations([1, 2, 3, 4])), float).reshape(24, 2, 2))
    assert (got.image.mean(), got.text.mean(), got.group.mean()) == (1 / 4, 1 / 4, 1 / 6)
    assert (got.picks == [1, 2]).mean() == 1 / 2
    assert metrics.PAIR_CHANCE == {"image": 1 / 4, "text": 1 / 4, "group": 1 / 6, "item": 1 / 2}


def test_adding_a_bias_to_a_text_changes_no_image_score():
    rng = np.random.default_rng(3)
    s = rng.normal(size=(50, 2, 2))
    bias = rng.normal(size=(50, 1, 2))
    np.testing.assert_array_equal(metrics.score_pairs(s).image, metrics.score_pairs(10 * s + bias).image)


def test_a_pair_that_is_not_2_by_2_or_not_finite_is_refused():
    with pytest.raises(ValueError, match="2 x 2"):
        metrics.score_pairs(np.zeros((3, 4)))
    with pytest.raises(ValueError, match="not finite"):
        metrics.score_pairs(np.full((1, 2, 2), np.nan))


# -------------------------------------------------------------------------------------------------- true or false
def test_auc_counts_won_comparisons_and_half_of_the_ties():
    assert metrics.auc([3, 2, 2, 1], [True, True, False, False]) == (1 + 1 + 0.5 + 1) / 4
    assert metrics.auc([1, 1], [True, False]) == 0.5
    assert math.isnan(metrics.auc([1, 2], [True, True]))


def test_auc_equals_brute_force():
    rng = np.random.default_rng(0)
    scores, truth = rng.integers(0, 9, 60), rng.random(60) < 0.4
    wins = [(a > b) + (a == b) / 2 for a in scores[truth] for b in scores[~truth]]
    assert metrics.auc(scores, truth) == pytest.approx(np.mean(wins))


def test_pairwise_compares_only_inside_a_group():
    got = metrics.pairwise([5, 1, 9, 8, 3], [True, False, False, True, True], ["a", "a", "b", "b", "c"])
    assert got == {"a": 1.0, "b": 0.0}                                    # c has no false item


def test_a_score_that_ignores_the_picture_is_right_in_half_of_a_swapped_pairs_comparisons():
    s_a, s_b = 0.7, 0.2                                                   # one score a statement, whatever the picture
    assert metrics.pairwise([s_a, s_b, s_a, s_b], [True, False, False, True], ["g"] * 4) == {"g": 0.5}


def test_consistency_needs_every_item_of_the_group():
    assert metrics.consistency([True, True, True, False, True], ["a", "a", "b", "b", "c"]) == (2, 3)


# -------------------------------------------------------------------------------------------------- how sure
def test_wilson_of_1_of_4_by_hand():
    # z = 1.96, z^2 = 3.8416: centre (0.25 + 0.4802) / 1.9604, half 1.96 / 1.9604 * sqrt(0.046875 + 0.060025)
    assert metrics.wilson(1, 4) == pytest.approx((0.3725 - 0.3269, 0.3725 + 0.3269), abs=2e-4)


@pytest.mark.parametrize("confidence", [0.95, 0.99])
def test_wilson_equals_scipy(confidence):
    for k, n in [(0, 10), (1, 10), (10, 10), (123, 400), (0, 1)]:
        known = stats.binomtest(k, n).proportion_ci(confidence, method="wilson")
        assert metrics.wilson(k, n, confidence) == pytest.approx((known.low, known.high), abs=1e-12)
    assert metrics.wilson(0, 0) == (0.0, 1.0)


def test_an_estimate_is_above_chance_only_when_its_99_percent_bound_is():
    assert metrics.estimate(60, 100, 0.5)["above_chance"] is False        # 99 % interval reaches below 0.5
    assert metrics.estimate(70, 100, 0.5)["above_chance"] is True
    assert metrics.estimate(0, 0, 0.5)["value"] is None
    assert metrics.estimate(0, 0, 0.5)["above_chance"] is False


def test_the_auc_interval_counts_groups_not_items():
    scores, truth = np.tile([1.0, 0.0], 50), np.tile([True, False], 50)
    many = metrics.estimate_auc(scores, truth, list(range(100)))
    few = metrics.estimate_auc(scores, truth, [i // 50 for i in range(100)])
    assert (many["value"], many["n"]) == (1.0, 50)
    assert (few["value"], few["n"]) == (1.0, 2)
    assert few["low95"] < many["low95"]
    assert metrics.estimate_auc([1.0], [True], ["a"])["value"] is None


def test_binomial_tail_equals_scipy():
    for k, n, p in [(0, 5, 0.3), (6, 5, 0.3), (3, 15, 0.25), (140, 400, 0.25), (400, 400, 1 / 6)]:
        assert metrics.binomial_tail(k, n, p) == pytest.approx(stats.binom.sf(k - 1, n, p), rel=1e-9)


def test_holm_by_hand():
    # sorted .01 .03 .04 -> x3 = .03, x2 = .06, x1 = .04 but never below the one before: .06
    assert metrics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert metrics.holm([0.5, 0.9]) == [1.0, 1.0]
    assert metrics.holm([]) == []


def test_the_seeded_order_depends_on_the_seed_and_the_name_only():
    names = [f"n{i}" for i in range(50)]
    turned = names[::-1]
    order = sorted(names, key=lambda name: metrics.order_key(0, name))
    assert order == sorted(turned, key=lambda name: metrics.order_key(0, name)) != names
    assert order != sorted(names, key=lambda name: metrics.order_key(1, name))


# -------------------------------------------------------------------------------------------------- a second look
def test_a_second_look_at_the_first_two_counted_by_hand():
    gallery = np.eye(4, dtype=np.float32)
    queries = np.array([[0.9, 0.5, 0.1, 0.0]] * 4, dtype=np.float32)
    relevant = [[0], [1], [2], [1, 3]]
    found = metrics.recall_at_k(queries, gallery, relevant, ks=(1, 2, 3), depth=3)
    chosen = metrics.candidates(found, 2)
    assert chosen.all()
    again = metrics.reranked(found, chosen, np.array([[0.0, 1.0]] * 3 + [[2.0, 2.0]]), relevant)
    assert again.top.tolist() == [[1, 0]] * 3 + [[0, 1]]
    assert again.rank.tolist() == [2, 1, 3, 1.5]          # row 2 was not looked at and stays third; the tie is halved
    assert again.hits.tolist() == [[0, 1, 1], [1, 1, 1], [0, 0, 1], [0.5, 1, 1]]
    assert again.right_score.tolist() == [0, 1, np.float32(0.1), 2]


def test_a_tie_at_the_cut_is_not_looked_at_again():
    gallery = np.array([[1, 0], [0, 1], [0, 1], [0, 0]], dtype=np.float32)
    found = metrics.recall_at_k(np.array([[0.9, 0.5]], np.float32), gallery, [[2]], ks=(1, 2), depth=3)
    chosen = metrics.candidates(found, 2)
    assert chosen.tolist() == [[True, False]]
    again = metrics.reranked(found, chosen, np.array([[-5.0, 9.0]]), [[2]])
    assert again.hits.tolist() == found.hits.tolist() == [[0, 0.5]]
    assert metrics.candidates(found, 3).all()             # with row 4 behind them, the first three are clear


@pytest.mark.parametrize("seed", range(3))
def test_a_second_look_at_everything_is_a_search_by_its_scores(seed):
    rng = np.random.default_rng(seed)
    gallery, queries = unit(rng, 6), unit(rng, 5)
    relevant = [sorted(rng.choice(6, size=2, replace=False).tolist()) for _ in queries]
    new = rng.integers(0, 3, size=(5, 6)).astype(float)   # many ties
    found = metrics.recall_at_k(queries, gallery, relevant, ks=(1, 3), depth=7)
    again = metrics.reranked(found, metrics.candidates(found, 6), np.take_along_axis(new, found.top, axis=1), relevant)
    for column, k in enumerate((1, 3)):
        assert again.hits[:, column].mean() == pytest.approx(brute_recall(new, relevant, k))
