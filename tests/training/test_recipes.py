"""Recipes of the stages: the published settings, and the whole chain in miniature."""

from dataclasses import replace

import pytest
import torch

from omma.config import apply
from omma.models.vlmo_config import PRESETS
from omma.models.weights import read_config, read_tensors
from omma.training.loop import train
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


@pytest.mark.parametrize("size", ["base", "base_plus"])  # relative positions, and learned ones
def test_the_stages_follow_one_another_in_miniature(size, coloured_table, tmp_path):
    """Nothing that a stage learned is lost on the way to the next, but the positions of words that are cut off."""
    (tmp_path / "book.txt").write_text("\n".join(f"a red square on the left of page {i}" for i in range(9)))
    small = ["steps=1", "warmup=0", "device=cpu", "threads=1", "model.image_size=16", "model.patch_size=8",
             "model.hidden_size=24", "model.num_layers=3", "model.num_heads=2", "model.vocab_size=60"]  # fmt: skip

    def stage(name: str, *changes: str, init: str = "", sizes: tuple = tuple(small)):
        init = [f"init={tmp_path / init}"] if init else []
        batch = [f"batch_size={8 if name != 'mlm' else 4}"]
        config = apply(load_recipe(f"vlmo-{size}-{name}"), [*sizes, *batch, f"out={tmp_path / name}", *init, *changes])
        done = train(config, progress=False)
        return read_tensors(done.path / "model.safetensors"), read_config(done.path)

    pictures = f"data={coloured_table}"
    seen, _ = stage("mim", pictures, "mim.codes=5")
    assert seen["mim_head.weight"].shape == (5, 24)
    read, config = stage("mlm", f"dataset.texts={tmp_path / 'book.txt'}", init="mim")
    assert (config.max_text_len, config.num_vl_layers) == (196, 0)
    frozen = ["cls_token", "mask_token", *(name for name in seen if ".attention." in name or ".image." in name)]
    assert len(frozen) == 2 + 3 * (5 + 6)
    assert all(torch.equal(read[name], seen[name]) for name in frozen)
    both, config = stage("vl", pictures, "model.num_vl_layers=1", "model.drop_path=0", "peak_lr=0", init="mlm")
    assert (config.max_text_len, config.mim_size) == (40, 5)
    new = {name for name in both if name not in read}
    assert {name.split(".")[0] if "experts" not in name else "vl" for name in new} == {
        "vl", "itc_vl_image", "itc_vl_text", "logit_scale_vl"}  # fmt: skip
    for name in read:
        kept = read[name][:40] if name == "text_positions" else read[name]
        assert torch.equal(both[name], kept), name
    larger = ("steps=1", "warmup=0", "device=cpu", "threads=1", "model.image_size=32", "peak_lr=0")
    tuned, config = stage("retrieval-coco", pictures, init="vl", sizes=larger)
    assert (config.image_size, config.hidden_size, config.drop_path) == (32, 24, 0.2)
    grown = {name for name in both if tuned[name].shape != both[name].shape}
    assert grown == {"relative_bias.table" if size == "base" else "image_positions"}
    assert all(torch.equal(tuned[name], both[name]) for name in both if name not in grown)
