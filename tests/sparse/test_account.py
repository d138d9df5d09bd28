"""What tokens cost: the published tables and formulas, and every family against a counter of a real run."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlavaConfig

from omma.models.towers import VisionConfig
from omma.models.vlm import OmmaVLM, VLMConfig, eye_settings
from omma.models.vlmo_config import VLMoConfig
from omma.sparse.account import (
    cache_bytes,
    cost_of,
    cost_of_run,
    decode_macs,
    equal_tokens,
    expected_entering,
    kv_bytes,
    layer_macs,
    published_macs,
    recycled,
    visual_tokens,
)
from omma.sparse.shapes import Grid, decoder_shape, grids_of, parts, vision_shape
from tiny_vlms import FAMILIES, WITH_VIDEO, tiny_inputs, tiny_vlm

VICUNA_7B = {"model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
             "num_attention_heads": 32, "vocab_size": 32064}  # fmt: skip
LLAVA_7B = LlavaConfig(text_config=VICUNA_7B)
# retained after layers 2, 6 and 15; mean of those entering, and of those leaving, as SparseVLM's code prints it
V1 = {192: ((300, 200, 110), 206.5, 192.0), 128: ((303, 110, 36), 145.4, 128.6), 96: ((238, 48, 26), 114.1, 96.9),
      64: ((66, 30, 17), 82.2, 64.8)}  # fmt: skip
V2 = {192: ((300, 200, 118), 206.8, 192.4), 128: ((238, 108, 60), 144.1, 128.0), 96: ((246, 54, 28), 113.9, 96.8),
      64: ((66, 34, 20), 81.8, 64.4)}  # fmt: skip


def table(kept, recycle):
    return expected_entering(dict(zip((2, 6, 15), kept, strict=True)), layers=32, visual=576, recycle=recycle)


@pytest.mark.parametrize(("recycle", "tables"), [(True, V1), (False, V2)], ids=["v1", "v2"])
def test_the_published_tables_mean_more_tokens_than_they_are_called(recycle, tables):
    for kept, entering, printed in tables.values():
        cost = cost_of(LLAVA_7B, table(kept, recycle), text=117)
        assert round(cost.budget, 1) == entering
        assert round(cost.equal_tokens, 1) == printed


def test_recycling_makes_the_published_numbers_of_merged_tokens():
    assert [table(kept, True)[layer] for kept, *_ in V1.values() for layer in (3, 7, 16)] == [
        *(309, 204, 113), *(312, 117, 39), *(249, 55, 27), *(82, 32, 18)]  # fmt: skip
    assert recycled(0) == 0


def test_a_schedule_that_keeps_all_changes_nothing_and_the_text_is_dropped_by_none():
    assert expected_entering({0: 50}, layers=3, visual=16, recycle=True) == [16, 16, 16]
    assert expected_entering({-1: 4, 1: 2}, layers=4, visual=16) == [4, 4, 2, 2]
    assert expected_entering({-1: 0}, layers=2, visual=16) == [0, 0]
    assert equal_tokens([4, 4, 2, 2]) == 2.5


@pytest.mark.parametrize(
    ("schedule", "words"), [({3: 4}, "layers -1 to 2 of 4"), ({-2: 4}, "layer -2"), ({0: -1}, "0 or more")]
)
def test_a_schedule_that_cannot_be_is_refused(schedule, words):
    with pytest.raises(ValueError, match=words):
        expected_entering(schedule, layers=4, visual=16)


def test_the_published_formula_gives_the_published_numbers():
    dense = [576 + 117] * 32
    assert round(published_macs([576] * 32, 4096, 11008) / 1e12, 2) == 3.82
    assert round(published_macs(dense, 4096, 11008) / 1e12, 2) == 4.61
    for target, expected, printed in ((192, 2.13, 2.14), (128, 1.72, 1.72), (64, 1.31, 1.30)):  # SparseVLM, table 1
        cost = cost_of(LLAVA_7B, table(V1[target][0], True), text=117)
        assert round(cost.published / 1e12, 2) == expected
        assert expected == pytest.approx(printed, abs=0.011)
        assert cost.published == pytest.approx(cost.macs["decoder"], rel=1e-12), "without GQA the two agree"
    two = published_macs(dense, 4096, 11008, ffn=2)
    assert published_macs(dense, 4096, 11008) - two == sum(n * 4096 * 11008 for n in dense)
    for budget, expected in ((192, 2.03), (128, 1.61), (64, 1.19)):  # FastV with K = 2, for a mean of so many tokens
        after = (32 * budget - 2 * 576) / 30
        assert round(published_macs([693] * 2 + [after + 117] * 30, 4096, 11008) / 1e12, 2) == expected


def test_keys_and_values_of_llava_take_the_bytes_that_they_take():
    assert kv_bytes(LLAVA_7B, [576] * 32, "float16") / 1e6 == pytest.approx(302.0, abs=0.05)
    assert kv_bytes(LLAVA_7B, table(V1[192][0], True), "float16") / 1e6 == pytest.approx(108.3, abs=0.05)
    assert kv_bytes(LLAVA_7B, table(V1[64][0], True), torch.bfloat16) / 1e6 == pytest.approx(43.1, abs=0.05)
    assert kv_bytes(LLAVA_7B, [576] * 32, "float32") == 2 * kv_bytes(LLAVA_7B, [576] * 32, "float16")


@pytest.mark.parametrize("name", FAMILIES)
def test_flops_and_bytes_are_those_that_a_counter_sees_in_a_run(name):
    model = tiny_vlm(name, layers=2, attention="eager")
    cases = [tiny_inputs(name, images=2)] + ([tiny_inputs(name, images=0, videos=1)] if name in WITH_VIDEO else [])
    for inputs in cases:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            cache = model(**inputs, use_cache=True).past_key_values
        length = inputs["input_ids"].shape[1]
        visual = int(visual_tokens(model.config, inputs["input_ids"]).sum())
        assert 0 < visual < length
        trace = SimpleNamespace(entering=torch.full((1, 2), visual))
        cost = cost_of_run(model.config, trace, inputs, logits=length, dtype=torch.float32)
        assert cost.flops == counter.get_total_flops()
        assert cost.kv_bytes == cache_bytes(cache)
        assert cost.text == (length - visual,)
        assert min(cost.macs.values()) > 0


@pytest.mark.parametrize("name", ["llava", "qwen3_vl"])
def test_a_step_of_decoding_costs_what_a_counter_sees(name):
    model = tiny_vlm(name, layers=2, attention="eager")
    inputs = tiny_inputs(name)
    length = inputs["input_ids"].shape[1]
    with torch.no_grad():
        answer = model.generate(**inputs, max_new_tokens=2, do_sample=False)
        cache = model(**inputs, use_cache=True).past_key_values
        for step in (1, 2):
            with FlopCounterMode(display=False) as counter:
                model(input_ids=answer[:, length + step - 1 : length + step], past_key_values=cache)
            assert 2 * decode_macs(model.config, [length] * 2, step) == counter.get_total_flops()


def test_grouped_queries_save_keys_and_the_causal_half_spares_pairs():
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 10}
    wide, grouped = (LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=heads) for heads in (4, 2))
    one, other = cost_of(wide, [6, 3], text=4), cost_of(grouped, [6, 3], text=4)
    assert one.macs["decoder"] - other.macs["decoder"] == (10 + 7) * 2 * 32 * (32 - 16)
    assert one.kv_bytes == 2 * other.kv_bytes
    assert published_macs([10, 7], 32, 64, kv_width=16) == other.macs["decoder"]
    triangle = sum(2 * 32 * n * (n + 1) // 2 for n in (10, 7))
    linear = one.macs["decoder"] - sum(2 * 32 * n * n for n in (10, 7))
    assert one.flops_causal == 2 * (linear + triangle + one.macs["lm_head"])
    assert (other.macs["vision"], other.macs["adapter"]) == (0, 0), "without pictures no tower is counted"


def test_layer_by_layer_a_cached_prompt_costs_what_it_costs_at_once_but_for_the_mask():
    shape = decoder_shape(LLAVA_7B)
    at_once, in_parts = layer_macs(shape, 8), layer_macs(shape, 5) + layer_macs(shape, 3, cached=5)
    assert at_once - in_parts == 2 * shape.query_width * 5 * 3, "the first five don't see the last three"


def test_several_samples_are_added_up_and_printed():
    both = cost_of(LLAVA_7B, torch.tensor([[576] * 32, [64] * 32]), text=[117, 20])
    one, other = cost_of(LLAVA_7B, [576] * 32, 117), cost_of(LLAVA_7B, [64] * 32, 20)
    assert both.flops == one.flops + other.flops
    assert both.kv_bytes == one.kv_bytes + other.kv_bytes
    assert both.budget == both.equal_tokens == 320
    assert both.layer_macs[0] == one.layer_macs[0] + other.layer_macs[0]
    said = str(both)
    assert "576 x 32; 64 x 32" in said
    assert "budget: 320.0" in said
    assert both.to_json()["flops"] == both.flops
    with pytest.raises(ValueError, match="one a sample"):
        cost_of(LLAVA_7B, torch.tensor([[576] * 32, [64] * 32]), text=[117])
    with pytest.raises(ValueError, match="has 31 layers and the model has 32"):
        cost_of(LLAVA_7B, [576] * 31, 117)


def test_windows_cover_a_picture_and_crops_of_zeros_are_none():
    assert parts(20, 8) == [8, 8, 4]
    assert parts(20, 0) == [20]
    pixels = torch.zeros(2, 3, 3, 28, 42)
    pixels[0, :2], pixels[1, 0] = 1, 1
    config = SimpleNamespace(vision_config=SimpleNamespace(patch_size=[14, 14]))
    assert grids_of(config, {"pixel_values": pixels}) == [Grid(1, 2, 3)] * 3
    assert grids_of(config, {"pixel_values": [pixels[0], pixels[1]]}) == [Grid(1, 2, 3)] * 3
    assert grids_of(config, {"pixel_values_videos": pixels[:1, :1]}) == [Grid(1, 2, 3, video=True)]


def test_what_is_not_known_is_refused_by_name():
    strange = SimpleNamespace(model_type="strange")
    with pytest.raises(ValueError, match="vision tower of 'strange' is not counted; known are llava, "):
        vision_shape(strange)
    with pytest.raises(ValueError, match="'strange' has no num_hidden_layers, hidden_size"):
        decoder_shape(strange)
    with pytest.raises(ValueError, match="a mixture of 8 experts"):
        decoder_shape(SimpleNamespace(model_type="many", num_local_experts=8))


@pytest.mark.parametrize(
    "eye",
    [
        VisionConfig(image_size=32, patch_size=8, hidden_size=24, num_layers=2, num_heads=2, stem="conv", pool="mean",
                     class_token=False),
        VisionConfig(image_size=32, patch_size=16, hidden_size=24, num_layers=1, num_heads=2),
        VLMoConfig(image_size=40, patch_size=20, hidden_size=24, num_layers=2, num_heads=2, stem="conv"),
        VLMoConfig(image_size=32, patch_size=8, hidden_size=24, num_layers=2, num_heads=2, stem="conv", fine_stem=True),
    ],
    ids=["clip, conv stem", "clip", "vlmo, patches of 20", "vlmo, fine stem"],
)  # fmt: skip
def test_flops_of_ommas_own_vlm_are_those_that_a_counter_sees(eye):
    text = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2}  # fmt: skip
    config = VLMConfig(eye=eye_settings(eye), text_config=text)
    ids = torch.tensor([[1] + [config.image_token_id] * config.image_seq_length + [6, 7, 8]])
    inputs = {"input_ids": ids, "pixel_values": torch.randn(1, 3, config.image_size, config.image_size)}
    # the counter knows no kernel of a CPU that does attention in one piece, so it is done in several
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        OmmaVLM(config).eval()(**inputs)
    trace = SimpleNamespace(entering=[[config.image_seq_length] * 2])
    assert cost_of_run(config, trace, inputs, logits=ids.shape[1]).flops == counter.get_total_flops()
