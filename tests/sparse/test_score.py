"""Scores of visual tokens against loops over single samples, written from the formulas in float64."""

import math

import numpy as np
import pytest
import torch

from omma.sparse.score import (
    evenly,
    gravity,
    gravity_attention,
    head_rows,
    last_row,
    loudest_heads,
    rank_deletions,
    rank_kept,
    rank_of,
    rater_attention,
    rotary_gravity,
    text_raters,
    top,
)


@pytest.fixture(autouse=True)
def same_numbers_every_time():
    torch.manual_seed(0)


COUNTS = [(9, 6), (5, 3), (9, 1), (1, 6)]  # visual and text tokens of the samples of a batch


def padded(parts: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Samples of different length in one tensor, what is behind them filled with noise, and their mask."""
    longest = max(len(p) for p in parts)
    x = torch.full((len(parts), longest, *parts[0].shape[1:]), 7.7)
    ok = torch.zeros(len(parts), longest, dtype=torch.bool)
    for b, part in enumerate(parts):
        x[b, : len(part)], ok[b, : len(part)] = part, True
    return x, ok


def attention_rows(seed: int, heads: int = 4) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor, torch.Tensor]:
    """Softmaxed rows (H, T, V + text) cut to V for each of COUNTS, and the same padded into one batch with masks."""
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randn(heads, t, v + t, generator=generator).softmax(-1)[:, :, :v] for v, t in COUNTS]
    v_max, t_max = max(v for v, _ in COUNTS), max(t for _, t in COUNTS)
    batch = torch.full((len(rows), heads, t_max, v_max), 7.7)
    for b, row in enumerate(rows):
        batch[b, :, : row.shape[1], : row.shape[2]] = row
    visual_ok = torch.tensor([[i < v for i in range(v_max)] for v, _ in COUNTS])
    text_ok = torch.tensor([[i < t for i in range(t_max)] for _, t in COUNTS])
    return rows, batch, text_ok, visual_ok


def raters_by_loop(visual: np.ndarray, text: np.ndarray) -> list[int]:
    share = np.zeros(len(text))
    for v in visual:
        logits = np.array([float(v @ t) for t in text])
        share += np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum() / len(visual)
    raters = [t for t in range(len(text)) if share[t] > 1 / len(text)]
    return raters or list(range(len(text)))


def test_raters_are_the_texts_that_the_picture_points_to_more_than_on_average():
    generator = torch.Generator().manual_seed(0)
    samples = [(torch.randn(v, 8, generator=generator), torch.randn(t, 8, generator=generator)) for v, t in COUNTS]
    (visual, visual_ok), (text, text_ok) = padded([v for v, _ in samples]), padded([t for _, t in samples])
    raters = text_raters(visual, text, visual_ok, text_ok)
    for b, (v, t) in enumerate(samples):
        assert raters[b].nonzero()[:, 0].tolist() == raters_by_loop(v.double().numpy(), t.double().numpy())


def test_equal_texts_all_rate_and_a_row_without_text_has_no_rater():
    visual, text = torch.randn(2, 5, 16), torch.randn(2, 1, 16).expand(2, 7, 16).contiguous()
    text_ok = torch.tensor([[True] * 7, [False] * 7])
    assert text_raters(visual, text, None, text_ok).tolist() == [[True] * 7, [False] * 7]


def test_raters_do_not_change_when_every_visual_token_stands_twice():
    visual, text = torch.randn(1, 6, 8), torch.randn(1, 9, 8)
    assert torch.equal(text_raters(visual, text), text_raters(torch.cat((visual, visual), 1), text))


def test_raters_are_found_where_half_precision_overflows():
    visual, text = 200 * torch.randn(1, 6, 64).half(), 200 * torch.randn(1, 5, 64).half()
    assert not torch.isfinite(visual @ text.transpose(1, 2)).all()
    assert torch.equal(text_raters(visual, text), text_raters(visual.double(), text.double()))


def test_rater_attention_is_the_mean_over_heads_and_raters():
    rows, batch, text_ok, visual_ok = attention_rows(1)
    found = rater_attention(batch, text_ok)
    for b, row in enumerate(rows):
        expected = row.double().numpy().mean((0, 1))
        np.testing.assert_allclose(found[b, visual_ok[b]].numpy(), expected, rtol=1e-5, atol=0)
        assert 0 <= found[b, visual_ok[b]].sum() <= 1 + 1e-6
    assert torch.allclose(found, rater_attention(batch.mean(1), text_ok))


def test_a_picture_that_few_raters_see_is_not_starved():
    rows = torch.full((1, 2, 4, 6), 0.1)
    seen = torch.ones(1, 4, 6, dtype=torch.bool)
    seen[:, :3, 3:] = False  # the second picture stands before the last rater only
    rows = rows.masked_fill(~seen[:, None], 0)
    assert torch.allclose(rater_attention(rows, None, seen), torch.full((1, 6), 0.1))


def test_fastv_reads_the_last_row():
    rows = torch.rand(2, 3, 5, 7)
    assert torch.equal(last_row(rows), rows[:, :, -1].mean(1))
    assert torch.equal(last_row(rows[:, :, -1]), last_row(rows))


def test_gravity_has_the_known_values_of_a_head_of_128():
    inv_freq = 1e4 ** (-torch.arange(0, 128, 2).double() / 128)
    at = torch.tensor([0, 100, 300, 600])
    assert gravity(at, inv_freq).numpy() == pytest.approx([11.3, 5.40, 3.47, 2.35], abs=0.05)
    published = gravity(torch.arange(4000), inv_freq, floor=None)
    assert int((published <= 0).byte().argmax()) == 1707
    assert gravity(torch.arange(4000), inv_freq).min() > 0
    assert torch.equal(gravity(torch.arange(1400), inv_freq), published[:1400])


def test_gravity_from_the_rotation_tables_is_gravity_from_the_distance():
    inv_freq = 1e4 ** (-torch.arange(0, 16, 2).float() / 16)
    query, key = torch.tensor([[40, 90]]), torch.tensor([[1, 5, 30, 39]])
    tables = [torch.cat((p[:, :, None] * inv_freq,) * 2, -1) for p in (query, key)]
    found = rotary_gravity(tables[0].cos(), tables[0].sin(), tables[1].cos(), tables[1].sin())
    expected = gravity(query[:, :, None] - key[:, None], inv_freq)
    assert torch.allclose(found, expected, atol=1e-4)
    turned = torch.ones(16)
    ones = [
        torch.cat((-turned[8:], turned[:8])) * t.sin() + turned * t.cos() for t in tables
    ]  # RoPE of a vector of ones
    published = torch.einsum("brd,bvd->brv", *ones) / 4
    assert torch.allclose(
        rotary_gravity(*(f(t) for t in tables for f in (torch.cos, torch.sin)), floor=None), published, atol=1e-5
    )


def test_v2_divides_by_gravity_then_takes_the_heads_that_send_most_to_the_picture():
    rows, batch, text_ok, visual_ok = attention_rows(2)
    g = torch.rand(len(rows), *batch.shape[2:]) + 0.5
    found = gravity_attention(batch, g, text_ok, None, visual_ok, heads=3)
    for b, row in enumerate(rows):
        quotient = row.double().numpy() / g[b, : row.shape[1], : row.shape[2]].double().numpy()
        heads = sorted(range(4), key=lambda h: -quotient[h].sum())[:3]
        np.testing.assert_allclose(found[b, visual_ok[b]].numpy(), quotient[heads].mean((0, 1)), rtol=1e-5, atol=0)


def test_half_of_the_heads_by_default_and_too_many_are_refused():
    rows = torch.rand(2, 5, 3, 4)
    loudest = rows.sum((2, 3)).argsort(dim=1, descending=True)
    assert torch.equal(loudest_heads(rows), loudest[:, :2])
    assert torch.equal(head_rows(rows, loudest[:, :1])[1, 0], rows[1, loudest[1, 0]])
    with pytest.raises(ValueError, match="heads = 14, but the layer has 5"):
        loudest_heads(rows, 14)


def test_the_rank_is_the_number_of_independent_raters():
    generator = torch.Generator().manual_seed(3)
    rows = torch.randn(3, 4, 9, generator=generator).softmax(-1)
    rows[1, 3] = (rows[1, 0] + rows[1, 1]) / 2
    rater_ok = torch.tensor([[True] * 4, [True] * 4, [True, True, False, False]])
    valid = torch.tensor([[True] * 9, [True] * 9, [True] * 5 + [False] * 4])
    expected = [np.linalg.matrix_rank(r[ok][:, v].numpy()) for r, ok, v in zip(rows, rater_ok, valid, strict=True)]
    assert rank_of(rows, rater_ok, valid).tolist() == expected == [4, 3, 2]


def test_the_rank_rules_of_paper_and_first_code():
    rank, tokens = torch.tensor([24, 24, 300, 8]), torch.tensor([576, 20, 200, 64])
    assert rank_deletions(rank, tokens, 0.5).tolist() == [276, 0, 0, 28]
    assert rank_kept(rank, tokens, 13.5).tolist() == [324, 19, 199, 63]
    assert rank_kept(rank, tokens, 0.8, 0).tolist() == [19, 19, 199, 6]
    assert rank_kept(rank, tokens, 9, 6).tolist() == [222, 19, 199, 63]


def test_equal_scores_go_to_the_token_that_stands_first():
    assert top(torch.zeros(1, 500), 3)[0].nonzero()[:, 0].tolist() == [0, 1, 2]
    scores = torch.tensor([[1.0, -math.inf, 1.0, 2.0, -math.inf]])
    valid = torch.tensor([[True, True, True, False, True]])
    assert [top(scores, k, valid)[0].nonzero()[:, 0].tolist() for k in (0, 1, 2, 3, 4, 9)] == [
        *([], [0], [0, 2], [0, 1, 2], [0, 1, 2, 4], [0, 1, 2, 4]),
    ]


def test_top_takes_another_number_in_each_row():
    scores = torch.rand(4, 12)
    chosen = top(scores, torch.tensor([0, 1, 5, 12]))
    assert chosen.sum(1).tolist() == [0, 1, 5, 12]
    for row, mask in zip(scores, chosen, strict=True):
        assert set(mask.nonzero()[:, 0].tolist()) == set(row.argsort(descending=True)[: mask.sum()].tolist())


@pytest.mark.parametrize("tokens", [1, 2, 7, 24])
def test_evenly_takes_the_middles_of_equal_parts(tokens):
    valid = torch.zeros(1, tokens + 3, dtype=torch.bool)
    valid[0, 2 : 2 + tokens] = True
    for k in range(tokens + 2):
        middles = [2 + (2 * j + 1) * tokens // (2 * k) for j in range(k)] if k <= tokens else list(range(2, 2 + tokens))
        assert evenly(k, valid)[0].nonzero()[:, 0].tolist() == middles
