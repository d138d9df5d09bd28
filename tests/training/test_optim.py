"""Groups, freezing, schedule and average."""

from dataclasses import replace

import pytest
import torch

from omma.models.vlmo import VLMo, VLMoConfig
from omma.training.optim import EMA, freeze, learning_rate, parameter_groups
from omma.training.recipes import RECIPES, load_recipe

TINY = VLMoConfig(
    image_size=32, patch_size=8, vocab_size=50, hidden_size=24, num_layers=3, num_heads=3, num_vl_layers=1
)


@pytest.mark.parametrize("positions", ["absolute", "relative"])
def test_only_weight_matrices_decay(positions):
    model = VLMo(replace(TINY, positions=positions))
    decayed, free = parameter_groups(model, 0.1)
    names = {id(p): n for n, p in model.named_parameters()}
    decayed_names = {names[id(p)] for p in decayed["params"]}
    assert all(n.endswith(".weight") for n in decayed_names)
    assert not any("norm" in n or ("embed.weight" in n and "patch" not in n) for n in decayed_names)
    free_names = {names[id(p)] for p in free["params"]}
    assert {
        "cls_token",
        "logit_scale",
        "blocks.0.gamma_1",
        "blocks.2.experts.vl.norm.weight",
        "word_embed.weight",
    } <= free_names
    assert {"patch_embed.weight", "blocks.0.attention.qkv.weight", "mlm_head.decoder.weight"} <= decayed_names
    assert len(decayed_names) + len(free_names) == len(names)
    assert free["weight_decay"] == 0.0


@pytest.mark.parametrize("layer_scale", [0.1, None])
def test_stage_2_trains_exactly_the_language_side(layer_scale):
    model = VLMo(replace(TINY, layer_scale=layer_scale))
    freeze(model, load_recipe("vlmo-nano-mlm").freeze)
    trainable = {n.split(".")[0] if not n.startswith("blocks") else ".".join(n.split(".")[2:4])
                 for n, p in model.named_parameters() if p.requires_grad}  # fmt: skip
    assert trainable == {"experts.text", "experts.vl", "word_embed", "text_segment", "text_norm", "text_positions",
                         "type_embed", "norm", "pooler", "itc_image", "itc_text", "logit_scale", "itm_head",
                         "mlm_head"}  # fmt: skip


def test_a_freeze_pattern_that_matches_nothing_is_refused():
    with pytest.raises(ValueError, match=r"'blocks.\*.atention' matches no parameter"):
        freeze(VLMo(TINY), ["blocks.*.atention"])


def test_the_schedule_warms_up_linearly_and_falls_as_a_cosine():
    rate = lambda step: learning_rate(step, peak=2.0, steps=110, warmup=10, final=0.1)
    assert rate(0) == pytest.approx(0.2)
    assert rate(9) == rate(10) == pytest.approx(2.0)
    assert rate(60) == pytest.approx(2.0 * (0.1 + 0.9 / 2))
    assert rate(110) == pytest.approx(0.2)
    assert all(rate(i) >= rate(i + 1) for i in range(10, 110))


def test_the_average_is_the_recursion_written_out():
    model = torch.nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(1.0)
    ema = EMA(model, 0.9)
    expected = 1.0
    for step in range(200):
        model.weight.data.fill_(float(step))
        ema.update(model, step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    assert ema.state["weight"].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_complete_and_says_how_to_run_it(name):
    config = load_recipe(name)
    assert config.recipe == name
    assert config.losses.active()
    assert f"omma train {name} " in (RECIPES[name].__doc__ or "")
    model = VLMo(replace(config.model, hidden_size=24, num_heads=3))
    freeze(model, config.freeze)


def test_an_unknown_recipe_names_those_there_are():
    with pytest.raises(ValueError, match="no recipe 'vlmo'; there are vlmo-nano-mim"):
        load_recipe("vlmo")
