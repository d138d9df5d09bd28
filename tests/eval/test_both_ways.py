"""Blind pairs both ways: two eyes that merely disagree get no verdict, an eye that is blind gets one."""

import numpy as np
import pytest

import omma
from omma.eval.blind import mine_blind_pairs
from omma.eval.both_ways import mine_other_way, pairs_below, verdicts, who_misses
from omma.eval.missed import missed
from omma.scenes.kinds import PATTERNS
from omma.scenes.sources import write_scenes

LIMITS = (0.9, 0.5)


def named_pairs(start, n, pattern="orientation"):
    return {(2 * k, 2 * k + 1): pattern for k in range(start, start + n)}


def verdict_of(rows, pattern):
    return next(row for row in rows if row["pattern"] == pattern)


def test_the_verdict_is_mcnemars_exact_test_with_holms_correction_for_nine_patterns():
    rows = verdicts(named_pairs(0, 9) | named_pairs(20, 2, "text"), named_pairs(50, 3, "text"))
    assert {row["pattern"] for row in rows} == set(PATTERNS)
    first, text = rows[0], verdict_of(rows, "text")
    assert first["pattern"] == "orientation"
    assert (first["eye"], first["reference"], first["missed_by"]) == (9, 0, "eye")
    assert (first["p"], first["p_holm"]) == pytest.approx((2 / 2**9, 9 * 2 / 2**9))
    assert (text["eye"], text["reference"], text["p"], text["missed_by"]) == (2, 3, 1.0, None)
    assert verdict_of(verdicts({}, named_pairs(0, 9)), "orientation")["missed_by"] == "reference"
    assert verdict_of(verdicts(named_pairs(0, 8), {}), "orientation")["missed_by"] is None, "p is 9 * 2 / 2**8"


def test_a_picture_counts_once_partners_first_and_a_pair_that_is_blind_both_ways_does_not():
    crowd = {(0, k): "colour" for k in range(1, 12)}
    assert verdict_of(verdicts(crowd, {}), "colour")["eye"] == 1
    theirs = {(0, 1): "colour"}
    counts = lambda rows: tuple(verdict_of(rows, "colour")[name] for name in ("eye", "reference"))
    ours = {(0, k): "colour" for k in range(2, 12)}
    assert counts(verdicts(ours, theirs)) == (0, 1), "in the order of rows"
    assert counts(verdicts(ours, theirs, partners={(0, 5)})) == (1, 0)
    assert counts(verdicts(theirs, ours, partners={(0, 5)})) == (0, 1), "whoever it is blind to"
    assert counts(verdicts(theirs, theirs)) == (0, 0), "blind to both"
    assert counts(verdicts({(0, 1): "colour"}, {(0, 2): "text"})) == (1, 0), "once in each pattern"


def test_eyes_that_disagree_by_chance_get_a_verdict_no_more_often_than_the_test_says():
    rng, wrong = np.random.default_rng(0), 0
    for _ in range(400):
        misses = rng.random((2, 9, 40)) < 0.3
        alone = [{(2 * k, 2 * k + 1): PATTERNS[k // 40] for k in np.flatnonzero(some & ~other).tolist()}
                 for some, other in (misses.reshape(2, -1), misses.reshape(2, -1)[::-1])]  # fmt: skip
        wrong += any(row["missed_by"] for row in verdicts(*alone))
    assert wrong / 400 < 0.05


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp("scenes"), pictures=0, pairs=40, size=64, check=False)[0]


def eye_that_takes_for_the_same(table, misses):
    """(n, n) vectors: all rows apart, but for the partners of the pattern of which misses(number of the pair) holds."""
    groups = table.read(["group"])["group"].to_pylist()
    vectors = np.eye(len(groups), dtype=np.float32)
    for row, group in enumerate(groups):
        if "orientation" in group and misses(int(group.rpartition("-")[2])):
            vectors[row] = vectors[groups.index(group)]
    return vectors


def both(table, eye, reference, limits=LIMITS):
    return [mine_blind_pairs(*eyes, *limits, table=table) for eyes in ((eye, reference), (reference, eye))]


def test_mere_disagreement_is_enriched_and_has_no_verdict(scenes):
    """Each eye misses half of the pairs of one pattern, the one the even ones, the other the odd ones."""
    one, other = (eye_that_takes_for_the_same(scenes, lambda k, odd=odd: k % 2 == odd) for odd in (0, 1))
    found, back = both(scenes, one, other)
    told = missed(scenes, found)
    assert told is not None
    assert told["patterns"][0]["pattern"] == "orientation"
    assert told["patterns"][0]["enriched"], "Fisher's test takes disagreement for blindness"
    rows = who_misses(scenes, found, back) or []
    orientation = verdict_of(rows, "orientation")
    assert (orientation["eye"], orientation["reference"]) == (20, 20)
    assert not any(row["missed_by"] for row in rows)


def test_an_eye_that_is_blind_to_a_pattern_is_told_whichever_way_it_is_asked(scenes):
    blind, half = (eye_that_takes_for_the_same(scenes, some) for some in (lambda k: True, lambda k: k % 4 == 0))
    found, back = both(scenes, blind, half)
    rows = who_misses(scenes, found, back) or []
    assert (rows[0]["pattern"], rows[0]["eye"], rows[0]["reference"]) == ("orientation", 30, 0)
    assert [row["missed_by"] for row in rows] == ["eye"] + 8 * [None]
    turned = who_misses(scenes, back, found) or []
    assert [row["missed_by"] for row in turned] == ["reference"] + 8 * [None]


def test_pictures_without_facts_have_no_verdict(tmp_path):
    table = omma.Table.create(tmp_path / "t")
    table.append([{"id": f"p{k}", "bytes": bytes([k])} for k in range(4)])
    vectors = np.random.default_rng(0).standard_normal((4, 3))
    assert who_misses(table, *both(table, vectors, vectors)) is None


def test_the_other_way_lets_the_same_share_of_pairs_through():
    """An eye whose cosines all lie near 1 and one whose cosines lie around 0, by numbers and by shares."""
    rng = np.random.default_rng(1)
    eye, reference = rng.standard_normal((300, 8)) + 2, rng.standard_normal((300, 8))
    found = mine_blind_pairs(eye, reference, 0.95, 0.1, near=None, per_row=300)
    back = mine_other_way(found, eye, reference, near=None, per_row=300)
    assert back.counts["similar"] == found.counts["similar"] > 100
    units = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (eye, reference)]
    ours, theirs = ((x @ x.T)[np.triu_indices(300, 1)] for x in units)
    assert pairs_below(reference, 0.1) == (2 * (theirs < 0.1).sum(), 300 * 299)
    assert (ours < back.below).sum() == pytest.approx((theirs < 0.1).sum(), abs=1)
    assert back.counts["blind"] == ((theirs > back.above) & (ours < back.below)).sum()
    by_shares = mine_blind_pairs(eye, reference, "quantile:0.01", "quantile:0.4")
    turned = mine_other_way(by_shares, eye, reference)
    assert (turned.asked["above"], turned.asked["below"]) == ("quantile:0.01", "quantile:0.4")
    straight = mine_blind_pairs(reference, eye, "quantile:0.01", "quantile:0.4")
    assert turned.pairs.tolist() == straight.pairs.tolist()


def test_limits_that_let_nothing_through_become_a_single_pair_the_other_way():
    vectors = np.random.default_rng(2).standard_normal((50, 6))
    found = mine_blind_pairs(vectors, vectors, 1.0, -1.0)
    back = mine_other_way(found, vectors, vectors)
    assert (found.counts["similar"], back.counts["similar"], back.counts["blind"]) == (0, 1, 0)
