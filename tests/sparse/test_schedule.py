"""Schedules: published tables and what they really give, and budgets that are met."""

import pytest

from omma.sparse.methods import METHODS
from omma.sparse.policy import policy_of
from omma.sparse.schedule import entering, scaled


def mean_entering(policy, tokens):
    return sum(entering(policy.schedule(tokens), tokens, policy.layers, policy.made)) / policy.layers


@pytest.mark.parametrize(
    ("method", "table", "real", "printed"),
    [
        ("sparsevlm-v1", "192", 206.5, 192.0),
        ("sparsevlm-v1", "128", 145.4, 128.6),
        ("sparsevlm-v1", "96", 114.1, 96.9),
        ("sparsevlm-v1", "64", 82.25, 64.8),
        ("sparsevlm-v2", "192", 206.8, 192.4),
        ("sparsevlm-v2", "128", 144.1, 128.0),
        ("sparsevlm-v2", "96", 113.9, 96.8),
        ("sparsevlm-v2", "64", 81.8, 64.4),
    ],
)
def test_a_published_table_is_a_larger_budget_than_its_name(method, table, real, printed):
    """SparseVLM prints the mean of what leaves each of LLaVA-1.5's 32 layers; layers 0 to 2 are entered by all 576."""
    policy = policy_of(method, 32, schedule=table)
    counts = entering(policy.schedule(576), 576, 32, policy.made)
    assert sum(counts) / 32 == pytest.approx(real, abs=0.06)
    assert (sum(counts[1:]) + counts[-1]) / 32 == pytest.approx(printed, abs=0.06)
    again = policy_of(method, 32, budget=sum(counts) / 32)
    assert again.schedule(576) == policy.schedule(576), "and as a budget it is the same table"


def test_recycled_tokens_of_the_tables_are_those_of_the_published_code():
    for table, made in {"192": (9, 4, 3), "128": (9, 7, 3), "96": (11, 7, 1), "64": (16, 2, 1)}.items():
        policy, now, found = policy_of("sparsevlm-v1", 32, schedule=table), 576, []
        for k in policy.schedule(576).values():
            found.append(policy.made(now - k))
            now = k + found[-1]
        assert tuple(found) == made


def test_stages_keep_their_share_of_the_depth():
    assert scaled((2, 6, 15), 32) == (2, 6, 15)
    assert scaled((2, 6, 15), 28) == (2, 5, 13)
    assert scaled((2, 6, 15), 8) == (0, 1, 3)
    assert scaled((2, 6, 15), 3) == (0, 1), "a stage behind the last layer but one would drop nothing"
    assert scaled((7, 15, 23), 16) == (3, 7, 11)
    assert scaled((-1,), 4) == (-1,)
    assert policy_of("sparsevlm", 18, schedule="64").schedule(120) == {2: 66, 6: 34, 15: 20}, (
        "a table as it is, where it fits"
    )
    assert policy_of("sparsevlm", 8, schedule="64").schedule(576) == {0: 66, 1: 34, 3: 20}


@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_budget_is_met_as_nearly_as_whole_tokens_can(method):
    if METHODS[method].adaptive:
        pytest.skip("it decides itself")
    for layers, tokens in ((32, 576), (28, 1323), (8, 196), (4, 36)):
        for share in (0.35, 0.5, 0.8):
            policy = policy_of(method, layers, ratio=share)
            assert mean_entering(policy, tokens) == pytest.approx(share * tokens, abs=0.5)
            kept = list(policy.schedule(tokens).values())
            assert kept == sorted(kept, reverse=True)
        assert policy_of(method, layers, budget=tokens).schedule(tokens) == {}, "all of them: nothing is dropped"


def test_pyramiddrop_is_published_at_a_mean_of_270_tokens_and_moves_to_earlier_layers_for_less():
    published = policy_of("pyramiddrop", 32, budget=270)
    assert published.schedule(576) == {7: 288, 15: 144, 23: 72}
    earlier = policy_of("pyramiddrop", 32, budget=128).schedule(576)
    assert max(earlier) < 15
    assert all(2 * k >= before - 1 for before, k in zip([576, *earlier.values()], earlier.values(), strict=False))
