"""Recipes of the stages: the published settings, and the whole chain in miniature."""

from dataclasses import replace

import pytest

from omma.models.vlmo_config import PRESETS
from omma.training.recipes import RECIPES, by_family, load_recipe
from omma.training.stage_recipes import PUBLISHED, SIZES, STAGE_RECIPES

# recipe -> batch, steps, warm-up, rate of base / base_plus / large, drop_path of each, picture, words (VLMo's code)
TABLE = {
    "mlm": (1024, 200_000, 2500, (2e-4, 2e-4, 2e-4), (0.1, 0.1, 0.1), 224, 196),
    "vl": (1024, 200_000, 2500, (2e-4, 1e-4, 5e-5), (0.1, 0.1, 0.1), 224, 40),
    "retrieval-coco": (3072, 3000, 300, (3e-5, 3e-5, 2e-5), (0.2, 0.2, 0.2), 384, 40),
    "retrieval-flickr30k": (3072, 1500, 150, (3e-5, 3e-5, 2e-5), (0.15, 0.2, 0.2), 384, 40),
}


@pytest.mark.parametrize("task", TABLE)
def test_the_settings_are_the_published_ones(task):
    batch, steps, warmup, rates, depths, picture, words = TABLE[task]
    for size, rate, depth in zip(PUBLISHED, rates, depths, strict=True):
        config = load_recipe(f"vlmo-{size}-{task}")
        found = (config.batch_size, config.steps, config.warmup, config.peak_lr, config.model.drop_path,
                 config.model.image_size, config.model.max_text_len)  # fmt: skip
        assert found == (batch, steps, warmup, rate, depth, picture, words), size
        assert (config.schedule, config.final_lr, config.max_grad_norm, config.ema) == ("linear", 0.0, None, None)
        assert (config.betas, config.eps, config.weight_decay, config.layer_decay) == ((0.9, 0.98), 1e-8, 0.01, None)
        assert config.model.text_dropout == config.model.drop_path, "the published code sets both by one number"


def test_stage_1_has_the_settings_of_beit():
    for size in PUBLISHED:
        config = load_recipe(f"vlmo-{size}-mim")
        assert round(config.dataset.mim_ratio * 196) == 75
        assert (config.dataset.mim_smallest, config.mim.target, config.mim.codes) == (16, "tokens", 8192)
        assert (config.batch_size, config.peak_lr, config.warmup, config.betas) == (2048, 1.5e-3, 10_000, (0.9, 0.999))
        assert config.peak_lr * config.final_lr == pytest.approx(1e-5)
        assert config.steps * 2048 / 14.2e6 == pytest.approx(150, rel=0.01), "epochs of ImageNet-22k"
        assert config.model.layer_scale == {"base": 0.1, "base_plus": None, "large": 1e-5}[size]


def test_the_stages_of_a_size_are_one_model_but_for_what_the_stage_adds():
    for size in SIZES:
        before, text, both = (load_recipe(f"vlmo-{size}-{stage}").model for stage in ("mim", "mlm", "vl"))
        late = {"num_vl_layers": both.num_vl_layers, "itc_vl": both.itc_vl, "max_text_len": 40}
        assert replace(text, **late) == both
        assert replace(before, layer_scale=text.layer_scale) == text
    for size in PUBLISHED:
        assert load_recipe(f"vlmo-{size}-vl").model == PRESETS[size]
        weights = load_recipe(f"vlmo-{size}-vl").losses.active()
        assert weights == {"itc": 0.5, "itc_vl": 0.5, "itm": 1.0, "mlm": 0.25}


def test_recipes_that_differ_in_size_stand_in_one_line():
    lines = by_family()
    assert lines["vlmo-SIZE-mim"].endswith("SIZE: small, base, base_plus, large")
    covered = {line.replace("SIZE", size) for line, about in lines.items() if "SIZE" in line
               for size in about.rpartition("SIZE: ")[2].split(", ")}  # fmt: skip
    assert covered >= set(STAGE_RECIPES)
    assert covered | set(lines) >= set(RECIPES)
    assert all(f"omma train {name} " in (RECIPES[name].__doc__ or "") for name in RECIPES)
