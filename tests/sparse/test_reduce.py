"""Merges of visual tokens against loops over single samples, written from the formulas in float64."""

from itertools import combinations

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from omma.sparse.reduce import (
    bipartite_match,
    cluster_merge,
    contextual_merge,
    cover_merge,
    merge_into,
    merge_to,
    prumerge_merge,
    recycle_counts,
)


@pytest.fixture(autouse=True)
def same_numbers_every_time():
    torch.manual_seed(0)


LENGTHS = (30, 13, 2, 1)


def samples(seed: int, width: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """x (4, 33, width), valid (4, 33): LENGTHS tokens each at places of their own, noise between them."""
    generator = torch.Generator().manual_seed(seed)
    valid = torch.zeros(len(LENGTHS), 33, dtype=torch.bool)
    for b, length in enumerate(LENGTHS):
        valid[b, torch.randperm(33, generator=generator)[:length]] = True
    return torch.randn(len(LENGTHS), 33, width, generator=generator), valid


def places(valid: torch.Tensor, b: int) -> list[int]:
    return valid[b].nonzero()[:, 0].tolist()


def cosines(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)) @ (y / np.linalg.norm(y, axis=-1, keepdims=True)).T


def clusters_by_loop(x: np.ndarray, count: int, paper: bool) -> tuple[list[int], list[int], np.ndarray]:
    """Centres, label of each token and merged tokens of one sample."""
    n, count = len(x), min(count, len(x))
    d = np.array([[np.linalg.norm(a - b) / np.sqrt(x.shape[1]) for b in x] for a in x])
    rho = [np.exp(-np.mean(np.sort(d[i])[:count] ** 2)) for i in range(n)]
    rho = np.round(rho, 12).tolist()  # mutual neighbours are equally dense; their sums may differ in the last bit
    delta = []
    for i in range(n):
        denser = [d[i, j] for j in range(n) if rho[j] > rho[i] or (rho[j] == rho[i] and j < i)]
        delta.append(min(denser, default=d.max()))
    centres = sorted(range(n), key=lambda i: -round(rho[i] * delta[i], 12))[:count]
    away = -cosines(x, x) if paper else d
    label = [centres.index(i) if i in centres else int(np.argmin(away[centres, i])) for i in range(n)]
    sums = [np.sum([x[i] for i in range(n) if label[i] == c], axis=0) for c in range(count)]
    return centres, label, np.array(sums if paper else [s / label.count(c) for c, s in enumerate(sums)])


def tome_by_loop(metric: np.ndarray, r: int, protected: set[int]) -> dict[int, int]:
    even = [i for i in range(0, len(metric), 2) if i not in protected]
    odd = [i for i in range(1, len(metric), 2) if i not in protected]
    if not even or not odd:
        return {}
    alike = cosines(metric[even], metric[odd])
    order = sorted(range(len(even)), key=lambda i: -alike[i].max())[:r]
    return {even[i]: odd[int(alike[i].argmax())] for i in order}


def visionzip_by_loop(x: np.ndarray, metric: np.ndarray, count: int) -> tuple[list[int], np.ndarray]:
    step = max(1, len(x) // count)
    targets = list(range(0, len(x), step))[:count]
    tokens = []
    for t in targets:
        joined = [
            x[i]
            for i in range(len(x))
            if i not in targets and targets[int(cosines(metric[[i]], metric[targets]).argmax())] == t
        ]
        tokens.append(x[t] + (np.mean(joined, axis=0) if joined else 0))
    return targets, np.array(tokens)


def prumerge_by_loop(x, keys, attention, kept: list[int], neighbours: int) -> tuple[np.ndarray, np.ndarray]:
    tokens = []
    for i in kept:
        others = sorted((j for j in range(len(x)) if j != i), key=lambda j: -cosines(keys[[i]], keys[[j]])[0, 0])
        tokens.append(x[i] + sum(attention[j] * x[j] for j in others[:neighbours]))
    return np.array(tokens), sum((attention[j] * x[j] for j in range(len(x)) if j not in kept), np.zeros(x.shape[1]))


def test_the_published_tables_recycle_so_many_tokens_into_so_many_clusters():
    deleted = torch.tensor([576 - 300, 309 - 200, 204 - 110, 576 - 66, 82 - 30, 32 - 17, 0, 1])
    recycled, clusters = recycle_counts(deleted)
    assert clusters.tolist() == [9, 4, 3, 16, 2, 1, 0, 1]
    assert recycled.tolist() == [83, 33, 29, 154, 16, 5, 0, 1]


@pytest.mark.parametrize("count", [1, 2, 3, 7, 40])
@pytest.mark.parametrize("paper", [False, True])
def test_clusters_are_those_of_the_formulas(count, paper):
    x, valid = samples(0)
    found = cluster_merge(x, count, valid, paper=paper)
    for b in range(len(LENGTHS)):
        centres, label, merged = clusters_by_loop(x[b, valid[b]].double().numpy(), count, paper)
        assert found.label[b, valid[b]].tolist() == label
        assert found.centre[b, found.ok[b]].tolist() == [places(valid, b)[i] for i in centres]
        np.testing.assert_allclose(found.tokens[b, found.ok[b]].numpy(), merged, atol=1e-5)
    assert (found.label[~valid] == -1).all()


def test_of_two_nearest_neighbours_the_first_is_the_denser():
    # Both have the same density where two neighbours count; were neither denser, both would be centres.
    x = torch.tensor([[[0.0, 0.0], [0.1, 0.0], [2.0, 0.0], [3.0, 0.0]]])
    assert cluster_merge(x, 2).label[0].tolist() == [0, 0, 1, 1]


def test_equal_tokens_form_clusters_too():
    found = cluster_merge(torch.ones(1, 6, 4), 3)
    assert torch.equal(found.tokens, torch.ones(1, 3, 4))
    assert sorted(found.label[0].tolist())[-1] == 2


def test_nothing_to_merge_gives_no_cluster():
    found = cluster_merge(torch.rand(2, 5, 4), torch.tensor([0, 0]))
    assert found.tokens.shape == (2, 0, 4)
    assert (found.label == -1).all()


def test_clusters_of_half_precision_are_summed_in_single_precision():
    x = torch.randn(1, 50, 16)
    found = cluster_merge(x.bfloat16(), 1)
    assert found.tokens.dtype == torch.bfloat16
    assert torch.equal(found.tokens[0, 0], x.bfloat16().float().mean(1)[0].bfloat16())


@pytest.mark.parametrize("r", [0, 1, 4, 15, 99])
def test_the_r_most_alike_pairs_of_every_other_token_merge(r):
    metric, valid = samples(1)
    protected = torch.zeros_like(valid)
    protected[:, :4] = True
    for guard in (None, protected):
        into = bipartite_match(metric, r, valid, guard)
        for b in range(len(LENGTHS)):
            at = places(valid, b)
            held = {i for i, p in enumerate(at) if guard is not None and bool(guard[b, p])}
            merges = tome_by_loop(metric[b, valid[b]].double().numpy(), r, held)
            expected = {at[i]: at[j] for i, j in merges.items()}
            assert {i: j for i, j in enumerate(into[b].tolist()) if i != j} == expected


def test_merging_keeps_the_weighted_sum_and_the_number_of_patches():
    x, size = torch.randn(2, 12, 5), torch.rand(2, 12) + 0.5
    into = bipartite_match(x, 4)
    merged, sizes = merge_into(x, into, size)
    assert torch.allclose((merged * sizes[:, :, None]).sum(1), (x * size[:, :, None]).sum(1), atol=1e-5)
    assert torch.allclose(sizes.sum(1), size.sum(1))
    untouched = torch.nn.functional.one_hot(into, 12).sum(1) == 1
    assert untouched.any()
    assert torch.equal(merged[untouched], x[untouched])


@pytest.mark.parametrize("k", [0, 1, 2, 5, 12, 29, 64])
def test_one_shot_tome_halves_until_the_budget(k):
    x, valid = samples(2)
    tokens, size, owner = merge_to(x, x, k, valid)
    for b, length in enumerate(LENGTHS):
        alive, sizes, metric = list(range(length)), np.ones(length), x[b, valid[b]].double().numpy().copy()
        into = list(range(length))
        while len(alive) > max(k, 1):
            merges = tome_by_loop(metric[alive], len(alive) - k, set())
            moved = {alive[i]: alive[j] for i, j in merges.items()}
            for target in set(moved.values()):
                group = [target, *(i for i, j in moved.items() if j == target)]
                metric[target] = np.average(metric[group], axis=0, weights=sizes[group])
                sizes[target] = sizes[group].sum()
            into = [moved.get(i, i) for i in into]
            alive = [i for i in alive if i not in moved]
        assert (size[b] > 0).nonzero()[:, 0].tolist() == [places(valid, b)[i] for i in alive]
        assert owner[b, valid[b]].tolist() == [places(valid, b)[i] for i in into]
        kept = [places(valid, b)[i] for i in alive]
        np.testing.assert_allclose(size[b, kept], sizes[alive])
        np.testing.assert_allclose(tokens[b, kept], metric[alive], atol=1e-5)
        mean = torch.zeros(33, 8).index_add(0, owner[b, valid[b]], x[b, valid[b]])[kept] / size[b, kept, None]
        assert torch.allclose(tokens[b, kept], mean, atol=1e-5)


def test_one_shot_tome_stops_at_what_is_protected():
    x = torch.randn(1, 10, 4)
    protected = torch.zeros(1, 10, dtype=torch.bool)
    protected[0, [0, 3, 6]] = True
    tokens, size, owner = merge_to(x, x, 1, protected=protected)
    assert (size > 0).sum() == 4
    assert torch.equal(tokens[protected], x[protected])
    assert owner[0, [0, 3, 6]].tolist() == [0, 3, 6]


def cover_by_loop(x: np.ndarray, k: int, protected: set[int], weights: np.ndarray) -> list[int]:
    """Into which token each one goes."""
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    free = [i for i in range(len(x)) if i not in protected]
    into = list(range(len(x)))
    if not free:
        return into
    mean = (unit * weights[:, None]).sum(0)
    centres = [max(free, key=lambda i: unit[i] @ mean)]
    while len(centres) < min(max(k - len(protected), 1), len(free)):
        others = [i for i in free if i not in centres]
        centres.append(min(others, key=lambda i: max(unit[i] @ unit[c] for c in centres)))
    for i in free:
        into[i] = i if i in centres else max(centres, key=lambda c: unit[i] @ unit[c])
    return into


@pytest.mark.parametrize("k", [0, 1, 2, 5, 12, 29, 64])
def test_a_cover_is_the_means_around_the_farthest_centres(k):
    x, valid = samples(4)
    weights = torch.rand(valid.shape) + 0.5
    protected = torch.zeros_like(valid)
    protected[:, :6] = True
    for guard, size in ((None, None), (protected, None), (None, weights), (protected, weights)):
        tokens, sizes, owner = cover_merge(x, k, valid, guard, size)
        for b, length in enumerate(LENGTHS):
            at = places(valid, b)
            held = {i for i, p in enumerate(at) if guard is not None and bool(guard[b, p])}
            own = np.ones(length) if size is None else size[b, valid[b]].double().numpy()
            states = x[b, valid[b]].double().numpy()
            into = cover_by_loop(states, k, held, own)
            assert owner[b, valid[b]].tolist() == [at[i] for i in into]
            for i in sorted(set(into)):
                group = [j for j, target in enumerate(into) if target == i]
                np.testing.assert_allclose(sizes[b, at[i]], own[group].sum(), rtol=1e-6)
                mean = np.average(states[group], axis=0, weights=own[group])
                np.testing.assert_allclose(tokens[b, at[i]], mean, atol=1e-5)
            assert len(set(into)) == len(held) + min(max(k - len(held), 1), length - len(held))
            assert set((sizes[b] > 0).nonzero()[:, 0].tolist()) == {at[i] for i in into}


def test_a_cover_of_another_number_in_each_row_is_that_of_each_row_alone():
    x, valid = samples(5)
    wants = torch.tensor([7, 2, 1, 1])
    together = cover_merge(x, wants, valid)
    for b, k in enumerate(wants.tolist()):
        alone = cover_merge(x[b : b + 1, valid[b]], k)
        assert torch.equal(together[1][b, valid[b]], alone[1][0])
        assert torch.allclose(together[0][b, valid[b]], alone[0][0], atol=1e-6)


def test_what_is_unlike_all_else_keeps_a_token_of_its_own():
    """Two single tokens among two hundred of two kinds: four centres are enough for all four."""
    kinds = torch.eye(4)
    x = torch.cat([kinds[0].expand(120, 4), kinds[1].expand(80, 4), kinds[2:]])[torch.randperm(202)][None]
    x = x + 0.01 * torch.randn(x.shape)
    tokens, size, _ = cover_merge(x, 4)
    assert sorted(size[size > 0].tolist()) == [1, 1, 80, 120]
    for kind in kinds:
        assert (tokens[size > 0] - kind).norm(dim=1).min() < 0.05


def test_the_farthest_token_is_at_most_twice_as_far_as_with_the_best_centres():
    """Gonzalez's bound, in the angle, which is a metric; the best of all choices by trying them."""
    angle = lambda a, b: torch.acos((normalize(a, dim=-1) @ normalize(b, dim=-1).T).clamp(-1, 1))
    for _ in range(20):
        x = torch.randn(9, 3)
        owner = cover_merge(x[None], 3)[2][0]
        best = min(angle(x, x[list(some)]).amin(1).max() for some in combinations(range(9), 3))
        assert angle(x, x[owner.unique()]).amin(1).max() <= 2 * best + 1e-4


def test_equal_tokens_are_covered_too():
    tokens, size, _ = cover_merge(torch.ones(1, 6, 4), 3)
    assert int((size > 0).sum()) == 3
    assert float(size.sum()) == 6
    assert torch.equal(tokens[size > 0], torch.ones(3, 4))


@pytest.mark.parametrize("count", [0, 1, 3, 10, 50])
def test_contextual_tokens_are_a_target_and_the_mean_of_what_joined_it(count):
    x, rest = samples(3)
    metric = torch.randn(4, 33, 6)
    tokens, ok, targets, joined = contextual_merge(x, metric, rest, count)
    for b in range(len(LENGTHS)):
        assert int(ok[b].sum()) == min(count, LENGTHS[b])
        if count:
            alone = x[b, rest[b]].double().numpy(), metric[b, rest[b]].double().numpy()
            expected_targets, expected = visionzip_by_loop(*alone, min(count, LENGTHS[b]))
            assert targets[b, ok[b]].tolist() == [places(rest, b)[i] for i in expected_targets]
            np.testing.assert_allclose(tokens[b, ok[b]], expected, atol=1e-5)
            assert joined[b, targets[b, ok[b]]].tolist() == list(range(len(expected_targets)))
    assert (joined[~rest] == -1).all()


@pytest.mark.parametrize("neighbours", [1, 4, 32])
def test_prumerge_adds_the_likest_others_by_their_attention(neighbours):
    x, valid = samples(4)
    keys, attention = torch.randn(4, 33, 6), torch.rand(4, 33)
    kept = valid & (torch.rand(4, 33) < 0.4)
    tokens, rest = prumerge_merge(x, keys, attention, kept, valid, neighbours=neighbours)
    for b in range(len(LENGTHS)):
        alone = [t[b, valid[b]].double().numpy() for t in (x, keys, attention)]
        inner = [i for i, p in enumerate(places(valid, b)) if kept[b, p]]
        expected, expected_rest = prumerge_by_loop(*alone, inner, neighbours)
        if inner:
            np.testing.assert_allclose(tokens[b, kept[b]], expected, atol=1e-5)
        np.testing.assert_allclose(rest[b, 0], expected_rest, atol=1e-5)
    assert torch.equal(tokens[~kept], x[~kept])
