"""CLIP: two towers of any width in one space; what is frozen stays as it is."""

import math
from dataclasses import asdict, replace

import pytest
import torch
from torch import nn

from omma.config import apply, from_dict, to_dict
from omma.models.clip import CLIP, PRESETS, CLIPConfig, projection
from omma.models.towers import TextConfig, VisionConfig
from omma.models.vlmo import VLMo, VLMoConfig
from omma.models.weights import (
    from_pretrained,
    load_matching,
    model_kind,
    read_config,
    read_weights,
    save_pretrained,
    weights_hash,
)
from omma.training.contrastive import info_nce
from omma.training.optim import freeze, parameter_groups

CONFIG = CLIPConfig(
    vision=VisionConfig(image_size=16, patch_size=4, hidden_size=32, num_layers=2, num_heads=4),
    text=TextConfig(vocab_size=50, max_text_len=10, hidden_size=48, num_layers=3, num_heads=4),
    embed_dim=24,
)  # fmt: skip


def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    mask = (torch.arange(8) < torch.tensor([[8], [3], [5]])).long()
    return torch.randn(3, 3, 16, 16), torch.randint(1, 50, (3, 8)) * mask, mask


def test_towers_of_unlike_width_meet_in_one_space():
    pixels, ids, mask = batch()
    image, text = CLIP(CONFIG)(pixels, ids, mask)
    assert image.shape == text.shape == (3, 24)
    torch.testing.assert_close(torch.stack((image.norm(dim=1), text.norm(dim=1))), torch.ones(2, 3))


def test_the_temperature_starts_at_clips_and_with_a_bias_at_siglips():
    clip, siglip = CLIP(CONFIG), CLIP(replace(CONFIG, logit_bias=True))
    assert clip.logit_bias is None
    assert clip.logit_scale.item() == pytest.approx(math.log(1 / 0.07))
    assert (siglip.logit_scale.exp().item(), siglip.logit_bias.item()) == pytest.approx((10, -10))


@pytest.mark.parametrize(
    ("name", "weights"), [("vit_b32", 151_277_313), ("vit_b16", 149_620_737), ("vit_l14", 427_616_513)]
)
def test_the_usual_sizes_have_the_weights_of_the_published_ones(name, weights):
    with torch.device("meta"):
        assert CLIP(PRESETS[name]).num_parameters() == weights


def test_eight_random_pairs_are_told_apart_after_twenty_steps():
    torch.manual_seed(0)
    model = CLIP(CONFIG).train()
    pixels, ids = torch.randn(8, 3, 16, 16), torch.randint(1, 50, (8, 6))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(20):
        loss = info_nce(*model(pixels, ids), model.logit_scale.exp())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1, "2.08 by chance"


def test_a_frozen_tower_learns_nothing_drops_nothing_and_keeps_no_activations():
    config = replace(CONFIG, vision=replace(CONFIG.vision, drop_path=0.5, patch_dropout=0.5))
    model = CLIP(config)
    freeze(model, ["vision"])
    model.train()
    assert (model.vision.training, model.text.training) == (False, True)
    pixels, ids, mask = batch()
    output = model.run("vision", pixels)
    assert not any(state.requires_grad for state in output.hidden_states)
    torch.testing.assert_close(model.encode_image(pixels), model.eval().encode_image(pixels))
    image, text = model.train()(pixels, ids, mask)
    (image * text).sum().backward()
    assert model.image_projection.weight.grad is not None
    assert {n.split(".")[0] for n, p in model.named_parameters() if p.grad is None} == {"vision", "logit_scale"}


def test_a_tower_frozen_in_training_leaves_training_with_its_next_pass():
    model = CLIP(replace(CONFIG, vision=replace(CONFIG.vision, drop_path=0.5))).train()
    freeze(model, ["vision"])
    pixels = batch()[0]
    torch.testing.assert_close(model.encode_image(pixels), model.encode_image(pixels))
    assert not model.vision.training


def test_half_a_frozen_tower_is_trained_from_there_on():
    model = CLIP(CONFIG)
    freeze(model, ["vision.blocks.0.*"])
    assert not model.is_frozen("vision")
    model.encode_image(batch()[0]).sum().backward()
    assert model.vision.blocks[0].norm1.weight.grad is None
    assert model.vision.cls_token.grad is not None


def test_a_tower_with_a_projection_of_its_own_keeps_it_or_is_refused():
    class Projecting(nn.Module):
        width, projects = 24, True

    assert isinstance(projection(Projecting(), 24, "text"), nn.Identity)
    with pytest.raises(ValueError, match="the text tower projects to 24 numbers by itself, but embed_dim is 512"):
        projection(Projecting(), 512, "text")


def test_a_copy_at_another_size_gives_what_the_model_gives_there():
    model = CLIP(CONFIG).eval()
    larger = model.at_resolution(24)
    pixels = torch.randn(2, 3, 24, 24)
    assert larger.vision.image_positions.shape == (1 + 36, 32)
    torch.testing.assert_close(larger.encode_image(pixels), model.encode_image(pixels))


def test_layers_are_counted_to_the_same_top_in_both_towers():
    model = CLIP(CONFIG)
    found = {name: model.layer_of(name) for name, _ in model.named_parameters()}
    assert found["vision.blocks.1.norm1.weight"] == found["text.blocks.2.norm1.weight"] == 3
    assert (found["vision.cls_token"], found["text.word_embed.weight"]) == (1, 0)
    assert {found["vision.norm.weight"], found["text_projection.weight"], found["logit_scale"]} == {4}
    rates = {group["lr_scale"] for group in parameter_groups(model, 0.1, layer_decay=0.5)}
    assert rates == {1, 0.5, 0.25, 0.125, 0.0625}


def test_no_table_token_or_position_is_decayed():
    model = CLIP(CONFIG)
    decayed = {id(p) for group in parameter_groups(model, 0.1) if group["weight_decay"] for p in group["params"]}
    free = {name for name, p in model.named_parameters() if id(p) not in decayed and p.ndim > 1}
    assert free == {"vision.cls_token", "vision.image_positions", "text.word_embed.weight", "text.text_positions"}


# ---------------------------------------------------------------------------------------------------- model folders
def test_save_and_load_give_the_same_weights_and_vectors(tmp_path):
    model = CLIP(replace(CONFIG, logit_bias=True)).eval()
    save_pretrained(model, tmp_path)
    loaded = from_pretrained(tmp_path, kind=CLIP)
    assert (model_kind(tmp_path), read_config(tmp_path, CLIPConfig)) == ("clip", model.config)
    assert weights_hash(loaded.state_dict()) == weights_hash(model.state_dict())
    torch.testing.assert_close(loaded(*batch()), model(*batch()))


def test_a_folder_of_another_kind_is_named(tmp_path):
    save_pretrained(CLIP(CONFIG), tmp_path / "clip")
    vlmo = VLMoConfig(image_size=16, hidden_size=8, num_layers=1, num_heads=1, num_vl_layers=0, vocab_size=9)
    save_pretrained(VLMo(vlmo), tmp_path / "vlmo")
    with pytest.raises(ValueError, match="holds a clip, and a vlmo is wanted here"):
        from_pretrained(tmp_path / "clip")
    with pytest.raises(ValueError, match="holds a vlmo, and a clip is wanted here"):
        from_pretrained(tmp_path / "vlmo", kind=CLIP)


def test_weights_and_settings_that_do_not_fit_are_named(tmp_path):
    save_pretrained(CLIP(CONFIG), tmp_path)
    text = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(text.replace('"embed_dim": 24', '"embed_dim": 20'))
    with pytest.raises(ValueError, match=r"other shape: image_projection.weight is \(24, 32\), the model's \(20, 32\)"):
        from_pretrained(tmp_path, kind=CLIP)
    (tmp_path / "config.json").write_text(text.replace('"num_layers": 2', '"num_layers": 1'))
    with pytest.raises(ValueError, match=r"unexpected: vision\.blocks\.1"):
        from_pretrained(tmp_path, kind=CLIP)
    (tmp_path / "config.json").write_text(text.replace('"patch_dropout"', '"patch_drop"'))
    with pytest.raises(ValueError, match="the vision tower has settings this version doesn't know: patch_drop; Vision"):
        from_pretrained(tmp_path, kind=CLIP)


def test_a_model_starts_from_another_wherever_weights_fit(tmp_path):
    save_pretrained(CLIP(CONFIG), tmp_path)
    model = CLIP(replace(CONFIG, embed_dim=16))
    taken, own = load_matching(model, read_weights(tmp_path))
    assert own == ["image_projection.weight", "text_projection.weight"]
    stored = from_pretrained(tmp_path, kind=CLIP)
    assert weights_hash(model.vision.state_dict()) == weights_hash(stored.vision.state_dict())
    assert len(taken) + 2 == len(model.state_dict())


def test_a_config_is_changed_by_keys_and_stored_as_plain_values():
    changed = apply(CONFIG, ["vision.hidden_size=64", "text.pool=mean", "logit_bias=true"])
    assert (changed.vision.hidden_size, changed.text.pool, changed.vision.num_layers) == (64, "mean", 2)
    assert from_dict(CLIPConfig, to_dict(changed)) == changed
    assert CLIPConfig(**asdict(changed)) == changed
