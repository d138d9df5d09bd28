"""Groups, freezing, schedule and average."""

from dataclasses import replace

import pytest
import torch

from omma.models.vlmo import VLMo, VLMoConfig
from omma.training.config import TrainConfig
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


def test_the_rate_of_layer_i_is_the_decay_to_the_power_of_the_layers_above_it():
    """Three layers: embeddings are 0, what lies above is 4, so 0.5 ** (4 - i)."""
    model = VLMo(replace(TINY, answers=("yes", "no"), positions="relative"))
    names = {id(p): n for n, p in model.named_parameters()}
    groups = parameter_groups(model, 0.1, layer_decay=0.5, head_lr=20.0)
    scale = {names[id(p)]: group["lr_scale"] for group in groups for p in group["params"]}
    assert len(scale) == len(names)
    for name, value in scale.items():
        if name.startswith("blocks."):
            assert value == 0.5 ** (3 - int(name.split(".")[1])), name
    lowest = {"word_embed.weight", "text_segment", "text_norm.weight", "text_norm.bias", "patch_embed.weight",
              "patch_embed.bias", "cls_token", "mask_token", "type_embed.weight"}  # fmt: skip
    assert {name for name, value in scale.items() if value == 0.5**4} == lowest
    assert {name for name, value in scale.items() if value == 20.0} == {n for n in scale if n.startswith("answer_head")}
    assert scale["relative_bias.table"] == scale["norm.weight"] == scale["pooler.bias"] == scale["itc_text.weight"] == 1
    plain = {id(p): group["weight_decay"] for group in parameter_groups(model, 0.1) for p in group["params"]}
    assert {id(p): group["weight_decay"] for group in groups for p in group["params"]} == plain


def test_one_rate_for_all_is_the_two_groups_there_were():
    model = VLMo(TINY)
    groups = parameter_groups(model, 0.1)
    assert [(g["weight_decay"], g["lr_scale"]) for g in groups] == [(0.1, 1.0), (0.0, 1.0)]
    order = {id(p): i for i, p in enumerate(model.parameters())}
    assert all([order[id(p)] for p in g["params"]] == sorted(order[id(p)] for p in g["params"]) for g in groups)


def test_rates_by_layer_and_head_are_refused_where_they_would_do_nothing():
    with pytest.raises(ValueError, match=r"head_lr=20.0, but this model has no head for a task \(answer_head"):
        parameter_groups(VLMo(TINY), 0.1, head_lr=20.0)
    with pytest.raises(ValueError, match=r"layer_decay=1.2: it is a factor"):
        parameter_groups(VLMo(TINY), 0.1, layer_decay=1.2)
    with pytest.raises(ValueError, match=r"Linear does not say which layer"):
        parameter_groups(torch.nn.Linear(2, 2), 0.1, layer_decay=0.9)


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


def test_the_published_schedule_falls_on_a_line_to_nothing():
    rate = lambda step: learning_rate(step, peak=2e-4, steps=200, warmup=20, final=0.0, schedule="linear")
    assert rate(19) == rate(20) == 2e-4
    assert rate(110) == pytest.approx(1e-4)
    assert rate(199) == pytest.approx(2e-4 / 180)
    assert rate(200) == 0.0


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


FROZEN: set[tuple] = set()


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_complete_and_says_how_to_run_it(name):
    config = load_recipe(name)
    assert config.recipe == name
    assert f"omma train {name} " in (RECIPES[name].__doc__ or "")
    if not isinstance(config, TrainConfig):
        return
    assert config.losses.active()
    model = replace(config.model, hidden_size=24, num_heads=3)
    if (model, config.freeze) not in FROZEN:  # many recipes train the same parts of the same model
        freeze(VLMo(model), config.freeze)
        FROZEN.add((model, config.freeze))


def test_an_unknown_recipe_names_those_there_are():
    with pytest.raises(ValueError, match=r"no recipe 'vlmo-bas-vl'; the nearest: vlmo-base-vl, .*; there are vlmo-"):
        load_recipe("vlmo-bas-vl")
