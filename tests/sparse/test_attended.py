"""Where a VLM looks, against its own eager attention; and boxes by hand."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import omma
from omma.sparse.attended import attended, box_of, overlap, region, token_grids, visual_attention
from tiny_vlm_folders import save

SHOWN = [Image.fromarray(np.random.default_rng(n).integers(0, 256, (30, 40, 3), dtype=np.uint8)) for n in range(2)]


@pytest.fixture(scope="module", params=["llava", "qwen2_vl"])
def vlm(request, tmp_path_factory):
    folder = save(request.param, tmp_path_factory.mktemp("vlm") / request.param)
    return omma.load_vlm(folder, device="cpu", precision="fp32")


def test_it_is_the_attention_that_the_model_itself_computes(vlm):
    inputs = vlm.prompts([SHOWN], ["What is it?"])
    vlm.model.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            weights = vlm.model(**inputs, output_attentions=True).attentions
    finally:
        vlm.model.set_attn_implementation("sdpa")
    image = vlm.model.config.image_token_id
    visual = inputs["input_ids"][0] == image
    expected = torch.stack([layer[0, :, -1, visual].mean(0) for layer in weights[len(weights) // 2 :]]).mean(0)
    found = visual_attention(vlm, SHOWN, "What is it?", "", None)
    torch.testing.assert_close(found.float(), expected, atol=1e-5, rtol=1e-4)


def test_each_picture_has_its_map_and_all_maps_sum_to_one(vlm):
    before = vlm.generate(SHOWN, "What is it?", max_new_tokens=3)
    maps = attended(vlm, SHOWN, "What is it?", "a cup")
    assert [one.shape for one in maps] == token_grids(vlm, SHOWN)
    assert sum(one.sum() for one in maps) == pytest.approx(1, abs=1e-5)
    plain = attended(vlm, SHOWN, "What is it?", "a cup", relative=False)
    assert not np.allclose(plain[0], maps[0])
    assert vlm.generate(SHOWN, "What is it?", max_new_tokens=3) == before
    assert attended(vlm, [], "What is it?", "a cup") == []


def test_a_box_is_around_the_strongest_patch_and_its_strong_neighbours():
    shown = np.zeros((4, 5))
    shown[1, 2], shown[2, 2], shown[2, 3], shown[0, 0] = 1.0, 0.6, 0.5, 0.9
    assert box_of(shown, least=0.5, smooth=0) == (2 / 5, 1 / 4, 4 / 5, 3 / 4)
    assert box_of(shown, least=0.7, smooth=0) == (2 / 5, 1 / 4, 3 / 5, 2 / 4)
    spot = np.zeros((5, 5))
    spot[2, 2] = 1
    assert box_of(spot, least=0.3, smooth=1) == (1 / 5, 1 / 5, 4 / 5, 4 / 5)  # 1 / 4, beside it 1 / 8
    assert box_of(spot, least=0.6, smooth=1) == (2 / 5, 2 / 5, 3 / 5, 3 / 5)


def test_overlap_by_hand():
    assert overlap((0, 0, 0.5, 0.5), (0.25, 0, 0.75, 0.5)) == pytest.approx(1 / 3)
    assert overlap((0, 0, 0.5, 0.5), (0.6, 0.6, 1, 1)) == 0
    assert overlap((0, 0, 1, 1), (0, 0, 1, 1)) == 1


def test_boxes_of_a_square_cut_from_the_middle_are_those_of_the_picture():
    prepares = SimpleNamespace(do_center_crop=True)
    cut = SimpleNamespace(processor=SimpleNamespace(image_processor=prepares))

    wide = Image.new("RGB", (200, 100))
    assert region(cut, wide, (0, 0, 1, 1)) == (0.25, 0, 0.75, 1)
    prepares.do_center_crop = False
    assert region(cut, wide, (0, 0, 1, 1)) == (0, 0, 1, 1)


def test_an_endpoint_says_that_it_does_not_tell():
    class Elsewhere:
        name = "far away"

    with pytest.raises(ValueError, match="far away doesn't tell"):
        attended(Elsewhere(), SHOWN, "", "")
