"""Sets of visual tokens against loops over single samples, written from the formulas in float64."""

import numpy as np
import pytest
import torch

from omma.sparse.pick import (
    chosen,
    dart_select,
    divprune_order,
    dpp_order,
    holov_quota,
    holov_select,
    iqr_outliers,
    prumerge_select,
    relevance,
    vispruner_select,
)


@pytest.fixture(autouse=True)
def same_numbers_every_time():
    torch.manual_seed(0)


LENGTHS = (40, 23, 7, 2, 1)
WANTS = (0, 1, 2, 5, 12, 22, 60)


class Batch:
    """Samples of LENGTHS tokens, alone (float64) and behind a mask that leaves gaps, with noise in the gaps."""

    def __init__(self, seed: int, width: int = 16):
        generator = torch.Generator().manual_seed(seed)
        self.valid = torch.zeros(len(LENGTHS), 44, dtype=torch.bool)
        for b, length in enumerate(LENGTHS):
            self.valid[b, torch.randperm(44, generator=generator)[:length]] = True
        self.x = torch.randn(len(LENGTHS), 44, width, generator=generator)
        self.attention = torch.rand(len(LENGTHS), 44, generator=generator)

    def alone(self, b: int) -> tuple[np.ndarray, np.ndarray]:
        return self.x[b, self.valid[b]].double().numpy(), self.attention[b, self.valid[b]].double().numpy()

    def places(self, b: int) -> list[int]:
        return self.valid[b].nonzero()[:, 0].tolist()


def cosines(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)) @ (y / np.linalg.norm(y, axis=-1, keepdims=True)).T


def divprune_by_loop(x: np.ndarray, k: int) -> list[int]:
    distance = 1 - cosines(x, x)
    order: list[int] = []
    while len(order) < min(k, len(x)):
        best, best_score = -1, -np.inf
        for i in range(len(x)):
            if i in order:
                continue
            others = order or [j for j in range(len(x)) if j != i]
            score = min((distance[i, j] for j in others), default=np.inf)
            if score > best_score:
                best, best_score = i, score
        order.append(best)
    return order


def dpp_by_determinants(x: np.ndarray, weight: np.ndarray, k: int) -> list[int]:
    kernel = weight[:, None] * cosines(x, x) * weight
    order: list[int] = []
    while len(order) < min(k, len(x)):
        rest = [i for i in range(len(x)) if i not in order]
        order.append(max(rest, key=lambda i: np.linalg.det(kernel[np.ix_([*order, i], [*order, i])])))
    return order


def vispruner_by_loop(x: np.ndarray, attention: np.ndarray, k: int, important: float, step: int) -> set[int]:
    k = min(k, len(x))
    order = sorted(range(len(x)), key=lambda i: -attention[i])
    first = int(k * important)
    kept, rest = order[:first], order[first:]
    while len(rest) > k - first:
        even, odd = rest[::2], rest[1::2]
        best = [max((cosines(x[[i]], x[[j]])[0, 0] for j in odd), default=-2.0) for i in even]
        by_likeness = [even[i] for i in sorted(range(len(even)), key=lambda i: -best[i])]
        rest = by_likeness[min(step, len(rest) - (k - first)) :] + odd
    return set(kept + rest)


def holov_scores_by_loop(x: np.ndarray, attention: np.ndarray, runs: int) -> tuple[list[list[int]], list[float]]:
    parts = [p.tolist() for p in np.array_split(np.arange(len(x)), runs)]  # the first ones a token longer
    scores = []
    for part in parts:
        if not part:
            scores.append(0.0)
            continue
        drawn = 1000 * attention[part]
        variance = np.zeros(len(part))
        if len(part) > 1:
            alike = cosines(x[part], x[part]) * (1 - np.eye(len(part)))
            mean = alike.sum(1) / (len(part) - 1)
            variance = ((alike - mean[:, None]) ** 2).sum(1) / (len(part) - 1)
        scale = np.abs(drawn).mean() / (np.abs(variance).mean() + 1e-6)
        scores.append(float((drawn + 0.09 * variance * scale).mean()))
    return parts, scores


def quota_by_loop(scores: list[float], sizes: list[int], k: int) -> list[int]:
    quota = [0] * len(sizes)
    missing = min(k, sum(sizes))
    while missing:
        open_ = [i for i in range(len(sizes)) if quota[i] < sizes[i]]
        total = sum(scores[i] for i in open_)
        shares = {i: int(scores[i] / total * missing) for i in open_}
        for i in sorted(open_, key=lambda i: -scores[i])[: missing - sum(shares.values())]:
            shares[i] += 1
        for i in open_:
            quota[i] += min(shares[i], sizes[i] - quota[i])
        missing = min(k, sum(sizes)) - sum(quota)
    return quota


def dart_by_loop(x, text, norms, text_norms, k: int, pivots: tuple[int, int]) -> set[int]:
    k = min(k, len(x))
    seen = sorted(sorted(range(len(x)), key=lambda i: -norms[i])[: min(k, pivots[0])])
    heard = sorted(sorted(range(len(text)), key=lambda i: -text_norms[i])[: pivots[1]])
    kept, missing, number = set(seen), k - len(seen), len(seen) + len(heard)
    for n, pivot in enumerate([x[i] for i in seen] + [text[i] for i in heard]):
        rest = [i for i in range(len(x)) if i not in kept]
        share = missing // number + (n < missing % number)
        kept |= set(sorted(rest, key=lambda i: cosines(x[[i]], pivot[None])[0, 0])[:share])
    return kept


@pytest.mark.parametrize("k", WANTS)
def test_divprune_is_greedy_max_min_of_the_cosine_distance(k):
    batch = Batch(0)
    order = divprune_order(batch.x, k, batch.valid)
    for b in range(len(LENGTHS)):
        expected = [batch.places(b)[i] for i in divprune_by_loop(batch.alone(b)[0], k)]
        assert [i for i in order[b].tolist() if i >= 0] == expected


def test_divprune_begins_with_the_token_whose_nearest_is_farthest():
    x = torch.randn(1, 1100, 4)
    distance = 1 - torch.from_numpy(cosines(x[0].double().numpy(), x[0].double().numpy())).fill_diagonal_(-9)
    assert int(divprune_order(x, 1)[0, 0]) == int(distance.amin(1).argmax())


@pytest.mark.parametrize("k", [k for k in WANTS if k <= 12])
def test_cdpruner_takes_the_largest_determinant_step_by_step(k):
    batch = Batch(1)
    weight = torch.rand(batch.valid.shape) + 0.2
    order = dpp_order(batch.x, weight, k, batch.valid)
    for b in range(len(LENGTHS)):
        alone = dpp_by_determinants(batch.alone(b)[0], weight[b, batch.valid[b]].double().numpy(), k)
        assert [i for i in order[b].tolist() if i >= 0] == [batch.places(b)[i] for i in alone]


def test_once_a_plane_is_spanned_the_heaviest_tokens_come():
    x = torch.randn(1, 30, 2)
    weight = torch.rand(1, 30) + 0.1
    order = dpp_order(x, weight, 20)[0]
    assert len(set(order.tolist())) == 20
    rest = [i for i in weight[0].argsort(descending=True).tolist() if i not in order[:2].tolist()]
    assert order[2:].tolist() == rest[:18]


def test_relevance_is_the_negative_cosine_scaled_within_the_sample():
    patches, texts = torch.randn(2, 9, 6), torch.randn(2, 3, 6)
    text_ok = torch.tensor([[True, True, True], [True, False, False]])
    found = relevance(patches, texts, text_ok)
    for b, count in enumerate((3, 1)):
        away = -cosines(patches[b].double().numpy(), texts[b, :count].double().numpy()).mean(1)
        np.testing.assert_allclose(found[b], (away - away.min() + 1e-6) / (away.max() - away.min()), atol=1e-5)
    assert torch.allclose(found[:1], relevance(patches[:1], texts[:1], text_ok[:1]), atol=1e-6)
    same = relevance(torch.ones(1, 4, 6), torch.ones(1, 1, 6))
    assert torch.equal(same, torch.ones(1, 4))


@pytest.mark.parametrize("k", WANTS)
def test_vispruner_keeps_what_cls_looks_at_and_what_has_no_likeness(k):
    batch = Batch(2)
    kept = vispruner_select(batch.attention, batch.x, k, batch.valid, step=5)
    for b in range(len(LENGTHS)):
        expected = {batch.places(b)[i] for i in vispruner_by_loop(*batch.alone(b), k, 0.5, 5)}
        assert set(kept[b].nonzero()[:, 0].tolist()) == expected


@pytest.mark.parametrize("k", WANTS)
def test_holov_parts_the_budget_over_runs_by_their_score(k):
    batch = Batch(3)
    kept = holov_select(batch.x, batch.attention, k, batch.valid, runs=6)
    for b, length in enumerate(LENGTHS):
        x, attention = batch.alone(b)
        parts, scores = holov_scores_by_loop(x, attention, 6)
        quota = quota_by_loop(scores, [len(p) for p in parts], k)
        best = [i for p, q in zip(parts, quota, strict=True) for i in sorted(p, key=lambda i: -attention[i])[:q]]
        assert set(kept[b].nonzero()[:, 0].tolist()) == {batch.places(b)[i] for i in best}
        assert len(best) == min(k, length)


def test_a_full_run_hands_on_what_it_cannot_take():
    quota = holov_quota(torch.tensor([[8.0, 1.0, 1.0], [0.0, 0.0, 0.0]]), torch.tensor([[3, 3, 3], [2, 0, 2]]), 8)
    assert quota[0].sum() == 8
    assert quota[0, 0] == 3
    assert quota[1].tolist() == [2, 0, 2]


def test_outliers_are_above_the_third_quartile_and_a_half():
    batch = Batch(4)
    attention = batch.attention**8
    found = iqr_outliers(attention, batch.valid)
    for b in range(len(LENGTHS)):
        alone = attention[b, batch.valid[b]].double().numpy()
        low, high = np.percentile(alone, [25, 75])
        assert int(found[b]) == int((alone > high + 1.5 * (high - low)).sum())
    assert int(found[0]) > 0


@pytest.mark.parametrize("k", WANTS)
def test_prumerge_plus_adds_evenly_spaced_tokens_to_the_most_attended(k):
    batch = Batch(5)
    kept = prumerge_select(batch.attention, k, batch.valid, plus=True)
    plain = prumerge_select(batch.attention, k, batch.valid)
    for b, length in enumerate(LENGTHS):
        assert int(kept[b].sum()) == int(plain[b].sum()) == min(k, length)
        order = [i for i in batch.attention[b].argsort(descending=True).tolist() if i in batch.places(b)]
        assert kept[b, order[: round(min(k, length) / 4)]].all()
        assert set(plain[b].nonzero()[:, 0].tolist()) == set(order[:k])


@pytest.mark.parametrize("k", WANTS)
@pytest.mark.parametrize("pivots", [(4, 4), (1, 2)])
def test_dart_keeps_what_is_least_like_its_pivots(k, pivots):
    batch, texts = Batch(6), torch.randn(len(LENGTHS), 9, 16)
    norms, text_norms = torch.rand(batch.valid.shape), torch.rand(texts.shape[:2])
    text_ok = torch.arange(9) < torch.tensor([9, 5, 3, 1, 0])[:, None]
    kept = dart_select(batch.x, texts, norms, text_norms, k, batch.valid, text_ok, pivots=pivots)
    for b in range(len(LENGTHS)):
        alone = texts[b, text_ok[b]].double().numpy(), norms[b, batch.valid[b]], text_norms[b, text_ok[b]]
        expected = dart_by_loop(batch.alone(b)[0], *alone, k, pivots)
        assert set(kept[b].nonzero()[:, 0].tolist()) == {batch.places(b)[i] for i in expected}


def test_dart_needs_a_visual_pivot():
    with pytest.raises(ValueError, match="one visual pivot"):
        dart_select(torch.rand(1, 4, 2), torch.rand(1, 3, 2), torch.rand(1, 4), torch.rand(1, 3), 2, pivots=(0, 4))


def test_every_pick_meets_a_number_of_its_own_in_each_row_and_leaves_the_gaps():
    batch, k = Batch(7), torch.tensor([13, 4, 0, 9, 1])
    texts, weight = torch.randn(5, 3, 16), torch.rand(5, 44)
    sets = {
        "divprune": chosen(divprune_order(batch.x, k, batch.valid), 44),
        "cdpruner": chosen(dpp_order(batch.x, weight, k, batch.valid), 44),
        "vispruner": vispruner_select(batch.attention, batch.x, k, batch.valid),
        "holov": holov_select(batch.x, batch.attention, k, batch.valid),
        "prumerge": prumerge_select(batch.attention, k, batch.valid, plus=True),
        "dart": dart_select(batch.x, texts, weight, torch.rand(5, 3), k, batch.valid),
    }
    for name, kept in sets.items():
        assert kept.sum(1).tolist() == [13, 4, 0, 2, 1], name
        assert not (kept & ~batch.valid).any(), name


def test_a_set_of_tokens_does_not_depend_on_where_they_stand():
    batch = Batch(8)
    x, attention = batch.x[:1], batch.attention[:1]
    order = torch.randperm(44)
    for pick in (
        lambda x, a: chosen(divprune_order(x, 11), 44),
        lambda x, a: chosen(dpp_order(x, a + 0.1, 11), 44),
        lambda x, a: vispruner_select(a, x, 11),
        lambda x, a: prumerge_select(a, 11),
    ):
        assert torch.equal(pick(x, attention)[:, order], pick(x[:, order], attention[:, order]))
