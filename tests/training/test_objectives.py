"""Losses against arithmetic and loops written out."""

import math

import pytest
import torch
import torch.nn.functional as F

from omma.training.objectives import (
    IGNORE,
    belongs_together,
    fits_best,
    hard_negatives,
    itc_loss,
    itm_loss,
    match_edit_loss,
    match_pair_loss,
    mim_loss,
    mlm_loss,
    pair_loss,
    patch_pixels,
    similarity,
)


def unit(*shape: int) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.double), dim=-1)


def test_itc_of_two_perfect_pairs_is_log_1_plus_e_minus_1():
    eye = torch.eye(2)
    assert itc_loss(eye, eye, 1.0).item() == pytest.approx(math.log(1 + math.exp(-1)))


def test_itc_equals_the_sum_written_out():
    a, b = unit(5, 8), unit(10, 8)[5:]
    s = 7.0 * a @ b.T
    expected = 0.0
    for i in range(5):
        expected -= (s[i, i] - s[i].logsumexp(0) + s[i, i] - s[:, i].logsumexp(0)) / 10
    assert itc_loss(a, b, 7.0).item() == pytest.approx(float(expected), rel=1e-6)


def test_itc_leaves_a_second_caption_of_the_picture_out_of_its_negatives():
    a, b = unit(4, 8), unit(8, 8)[4:]
    same = torch.eye(4, dtype=torch.bool)
    same[0, 1] = same[1, 0] = True
    rows = [0, 2, 3]
    s = 3.0 * (a @ b.T).float()
    picture_0 = F.cross_entropy(s[:1, rows], torch.tensor([0]))
    assert similarity(a, b, 3.0, same)[0, 1] == float("-inf")
    masked = similarity(a, b, 3.0, same)
    assert F.cross_entropy(masked[:1], torch.tensor([0])).item() == pytest.approx(picture_0.item())
    assert torch.isfinite(itc_loss(a, b, 3.0, torch.ones(4, 4, dtype=torch.bool)))


def test_itc_of_kept_samples_has_all_others_as_negatives():
    a, b = unit(5, 8), unit(10, 8)[5:]
    s, kept = 7.0 * a @ b.T, torch.tensor([True, False, True, True, False])
    own = torch.tensor([0, 2, 3])
    expected = (F.cross_entropy(s[own], own) + F.cross_entropy(s.T[own], own)) / 2
    assert itc_loss(a, b, 7.0, kept=kept).item() == pytest.approx(expected.item(), rel=1e-6)
    assert itc_loss(a, b, 7.0, kept=torch.ones(5, dtype=torch.bool)).item() == itc_loss(a, b, 7.0).item()
    assert itc_loss(a, b, 7.0, kept=torch.zeros(5, dtype=torch.bool)).item() == 0.0


def test_exchanged_captions_are_those_that_fit_worst_but_not_equal_ones():
    image = unit(8, 16)
    said = image.clone()
    said[[2, 5]] = image[[5, 2]]  # two captions exchanged, six right
    own = torch.eye(8, dtype=torch.bool)
    assert fits_best(10 * image @ said.T, own, 0.25).tolist() == [i not in (2, 5) for i in range(8)]
    assert fits_best(10 * image @ said.T, own, 0.0).all()
    assert fits_best(10 * image @ said.T, own, 0.5).sum() == 4
    # 2 and 5 share a caption, so theirs is no worse than a caption that says nothing; 6 and 7 have each other's
    image = torch.eye(8)
    said = image[[0, 1, 5, 3, 4, 2, 7, 6]]
    same = own.clone()
    same[2, 5] = same[5, 2] = True
    assert fits_best(10 * image @ said.T, same, 0.25).tolist() == [True] * 6 + [False] * 2
    # Text 0 fits pictures 1 and 2 better than its own: each of them loses 1.3 by it, and sample 0, as a text, 1.9
    drawn = 5.0 * torch.eye(3)
    drawn[1:, 0] = 6.0
    for logits in (drawn, drawn.T):
        assert fits_best(logits, torch.eye(3, dtype=torch.bool), 1 / 3).tolist() == [False, True, True]


def test_itc_of_the_parts_of_a_batch_has_the_mean_of_the_whole():
    a, b = unit(6, 8), unit(12, 8)[6:]
    same = torch.eye(6, dtype=torch.bool)
    same[1, 5] = same[5, 1] = True
    parts = [itc_loss(a[i : i + 2], b[i : i + 2], 7.0, same[i : i + 2], None, (a, b), i) for i in (0, 2, 4)]
    assert sum(parts).item() / 3 == pytest.approx(itc_loss(a, b, 7.0, same).item(), rel=1e-12)


def test_itc_refuses_batches_that_do_not_pair():
    with pytest.raises(ValueError, match=r"\(4, 8\) pictures and \(3, 8\) texts"):
        itc_loss(unit(4, 8), unit(3, 8), 1.0)


def test_the_contrast_within_a_pair_is_itc_of_those_two_alone():
    """Pairs (0, 1) and (3, 4), and 2 by itself: the mean of what itc says of each pair as a batch of its own."""
    a, b = unit(5, 8), unit(10, 8)[5:]
    partner = torch.tensor([1, 0, -1, 4, 3])
    expected = sum(itc_loss(a[i : i + 2], b[i : i + 2], 7.0).item() for i in (0, 3)) / 2
    assert pair_loss(a, b, 7.0, partner).item() == pytest.approx(expected, rel=1e-6)
    same = torch.eye(5, dtype=torch.bool)
    same[0, 1] = same[1, 0] = True  # the same words: nothing to tell apart
    assert pair_loss(a, b, 7.0, partner, same).item() == pytest.approx(itc_loss(a[3:], b[3:], 7.0).item(), rel=1e-6)
    assert pair_loss(a, b, 7.0, torch.full((5,), -1)).item() == 0.0
    assert pair_loss(a, a, 7.0, torch.tensor([0, 1, 2, 3, 4])).item() == pytest.approx(math.log(2))


def test_autocast_does_not_round_the_two_sides_of_a_pair_onto_one_point():
    picture = F.normalize(torch.ones(1, 64), dim=-1)
    texts = F.normalize(torch.ones(2, 64) + torch.tensor([[0.0], [1.0]]) * torch.linspace(-0.05, 0.05, 64), dim=-1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        left, right = similarity(picture.repeat(2, 1), texts, 20.0)[0].tolist()
    exact = (20.0 * picture.double() @ texts.double().T)[0].tolist()
    assert left - right == pytest.approx(exact[0] - exact[1], rel=1e-3)


def test_hard_negatives_follow_the_softmax_and_never_belong():
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0]] * 4)
    same = torch.zeros(4, 4, dtype=torch.bool)
    same[0, 3] = same[3, 0] = True
    chances = (torch.arange(600, dtype=torch.double) / 600).expand(4, 600)  # the draws are the inverse of the sum
    draws = torch.stack([hard_negatives(logits, logits.T, same, u.expand(2, 4))[0] for u in chances[0]])
    counts = torch.bincount(draws[:, 0], minlength=4) / 600
    expected = torch.tensor([0.0, math.e, math.e**2, 0.0])
    torch.testing.assert_close(counts, expected / expected.sum(), atol=2 / 600, rtol=0)
    images = hard_negatives(logits, logits.T, same, torch.rand(2, 4, dtype=torch.double))[1]
    assert all(images[i] != i for i in range(4))
    assert images[3] != 0


def test_hard_negatives_of_some_rows_are_those_of_the_whole_batch():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 6, generator=generator)
    same = torch.zeros(6, 6, dtype=torch.bool)
    same[0, 4] = same[4, 0] = True
    chances = torch.rand(2, 6, generator=generator, dtype=torch.double)
    whole = hard_negatives(logits, logits.T, same, chances)
    for first in (0, 2, 4):
        rows = slice(first, first + 2)
        part = hard_negatives(logits[rows], logits.T[rows], same[rows], chances[:, rows], first)
        assert all(torch.equal(a, b[rows]) for a, b in zip(part, whole, strict=True))


def test_hard_negatives_survive_a_saturated_softmax_and_a_batch_without_negatives():
    logits = torch.eye(3) * 1e4
    for chance in (0.0, 0.5, 1 - 2**-53):
        chances = torch.full((2, 3), chance, dtype=torch.double)
        text, image, valid = hard_negatives(logits, logits.T, torch.zeros(3, 3, dtype=torch.bool), chances)
        assert all(text[i] != i and image[i] != i for i in range(3))
        assert valid.all()
        assert not hard_negatives(logits, logits.T, torch.ones(3, 3, dtype=torch.bool), chances)[2].any()


def test_itm_ignores_what_could_not_be_drawn():
    logits = torch.tensor([[0.0, 2.0], [5.0, -5.0]])
    assert itm_loss(logits, torch.tensor([1, IGNORE])).item() == pytest.approx(math.log(1 + math.exp(-2)), rel=1e-5)


def test_matching_within_a_pair_compares_levels_and_is_blind_to_the_level_itself():
    own = torch.tensor([[0.0, 2.0], [1.0, 0.0], [9.0, 9.0]])  # margins 2, -1; the third stands alone
    crossed = torch.tensor([[0.0, 1.0], [0.5, 0.0], [0.0, 50.0]])  # 1, -0.5
    partner = torch.tensor([1, 0, -1])
    texts = [2 - 1, -1 - -0.5]  # picture i: its own text above the partner's
    pictures = [2 - -0.5, -1 - 1]  # text i: its own picture above the partner's
    expected = sum(math.log(1 + math.exp(-margin)) for margin in texts + pictures) / 4
    assert match_pair_loss(own, crossed, partner).item() == pytest.approx(expected)
    level = torch.tensor([0.0, 30.0])
    assert match_pair_loss(own + level, crossed + level, partner).item() == pytest.approx(expected, rel=1e-5)
    assert match_pair_loss(own, own, torch.tensor([-1, -1, -1])).item() == 0.0


def test_mlm_of_a_batch_without_masked_words_is_zero_and_has_a_gradient():
    logits = torch.zeros(0, 7, requires_grad=True)
    loss = mlm_loss(logits, torch.zeros(0, dtype=torch.long))
    loss.backward()
    assert loss.item() == 0.0
    assert mlm_loss(torch.zeros(2, 7), torch.tensor([1, 2])).item() == pytest.approx(math.log(7))


def test_mim_counts_hidden_patches_only():
    target = torch.zeros(1, 3, 4)
    prediction = torch.tensor([[[1.0] * 4, [2.0] * 4, [9.0] * 4]])
    assert mim_loss(prediction, target, torch.tensor([[True, True, False]])).item() == pytest.approx((1 + 4) / 2)


def test_patch_pixels_are_the_patches_in_raster_order():
    image = torch.arange(2 * 3 * 4 * 6.0).reshape(2, 3, 4, 6)
    patches = patch_pixels(image, 2, normalize=False)
    assert patches.shape == (2, 6, 12)
    expected = image[1, :, 2:4, 4:6].permute(1, 2, 0).reshape(-1)  # last patch of the second picture
    torch.testing.assert_close(patches[1, 5], expected)
    normal = patch_pixels(image, 2)
    torch.testing.assert_close(normal.mean(dim=-1), torch.zeros(2, 6), atol=1e-5, rtol=0)
    grain = 0.01 * torch.tensor([1.0, -1.0]).repeat(6).reshape(1, 3, 2, 2)  # noise of a flat patch stays small
    assert patch_pixels(grain, 2).abs().max().item() == pytest.approx(0.01 / (1e-4 * 12 / 11 + 1e-2) ** 0.5, rel=1e-4)


def test_what_belongs_together_is_the_same_picture_or_the_same_words():
    keys = torch.tensor([[1, 12], [2, 3], [1, 3]])  # of pictures, of texts
    same = belongs_together(keys, keys)
    assert torch.equal(belongs_together(keys[1:], keys), same[1:])
    assert same.tolist() == [[True, False, True], [False, True, True], [True, True, True]]


def test_an_edited_text_costs_log_2_where_it_scores_alike_and_nothing_far_below():
    own = torch.tensor([[0.0, 3.0], [5.0, 8.0]])
    assert match_edit_loss(own, own + 7.0).item() == pytest.approx(math.log(2))  # the level does not count
    assert match_edit_loss(own, own - torch.tensor([0.0, 50.0])).item() == pytest.approx(0, abs=1e-6)
