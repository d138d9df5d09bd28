"""Feature maps: the patches in their places, and four strides out of one."""

import pytest
import torch

from omma.models.pyramid import FeaturePyramid, even_layers
from omma.models.vlmo import VLMo, VLMoConfig

TINY = VLMoConfig(image_size=32, patch_size=8, vocab_size=20, max_text_len=8, hidden_size=12, num_layers=4, num_heads=2,
                  num_vl_layers=1)  # fmt: skip


def test_a_map_is_the_layers_patches_in_their_places():
    torch.manual_seed(0)
    model = VLMo(TINY).eval()
    pixels = torch.randn(2, 3, 24, 40)  # another size than it was made for, and no square
    first, last = model.features(pixels, layers=(1, 4))
    states = model(pixel_values=pixels).hidden_states
    assert first.shape == last.shape == (2, 12, 3, 5)
    torch.testing.assert_close(first[1, :, 2, 3], states[1][1, 1 + 2 * 5 + 3])
    torch.testing.assert_close(model.features(pixels)[0], last)
    torch.testing.assert_close(model.features(pixels, norm=True)[0][0, :, 0, 4], model.norm(states[4])[0, 1 + 4])
    with pytest.raises(ValueError, match="no layer 5; this model has 1 to 4"):
        model.features(pixels, layers=(5,))


def test_the_pyramid_has_strides_of_a_quarter_a_half_one_and_two_patches():
    torch.manual_seed(0)
    pyramid = FeaturePyramid(12)
    maps = [torch.randn(2, 12, 4, 6, requires_grad=True) for _ in range(4)]
    out = pyramid(maps)
    assert pyramid.strides(16) == (4, 8, 16, 32)
    assert [tuple(x.shape[2:]) for x in out] == [(16, 24), (8, 12), (4, 6), (2, 3)]
    assert out[2] is maps[2]
    assert float(out[3].detach()[0, 0, 0, 0]) == float(maps[3].detach()[0, 0, :2, :2].max())
    sum(x.square().sum() for x in out).backward()
    assert all(x.grad is not None for x in maps)
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in pyramid.parameters())


def test_each_place_of_a_fine_map_comes_from_its_own_patch():
    torch.manual_seed(0)
    pyramid, x = FeaturePyramid(12), torch.randn(1, 12, 4, 4)
    changed = x.clone()
    changed[..., 1, 2] += 1.0
    half = (pyramid([changed])[1] != pyramid([x])[1]).any(dim=1)[0]
    assert half.nonzero().tolist() == [[2, 4], [2, 5], [3, 4], [3, 5]]


def test_one_map_is_enough_and_two_are_not():
    pyramid, x = FeaturePyramid(12), torch.randn(1, 12, 4, 4)
    for one, four in zip(pyramid([x]), pyramid([x] * 4), strict=True):
        torch.testing.assert_close(one, four)
    with pytest.raises(ValueError, match="2 maps; a pyramid is made of four"):
        pyramid([x, x])


def test_four_layers_are_spread_evenly_up_to_the_last():
    assert [even_layers(n) for n in (4, 6, 12, 24)] == [(1, 2, 3, 4), (2, 3, 5, 6), (3, 6, 9, 12), (6, 12, 18, 24)]
