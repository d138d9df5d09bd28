"""A CLIP whose towers are Hugging Face models: built, frozen, adapted, saved and loaded as with our own."""

from dataclasses import asdict, replace

import pytest
import torch
from torch import nn

from omma.config import from_dict, to_dict
from omma.models.clip import CLIP, CLIPConfig
from omma.models.hf import vision_tower
from omma.models.lora import LoRAConfig, merged, tune
from omma.models.towers import HFConfig, TextConfig, VisionConfig
from omma.models.weights import from_pretrained, read_config, save_pretrained, weights_hash
from omma.training.optim import parameter_groups

SIZES = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
VIT = {"model_type": "vit", **SIZES, "image_size": 16, "patch_size": 8}
BERT = {"model_type": "bert", **SIZES, "hidden_size": 16, "vocab_size": 60, "max_position_embeddings": 12,
        "hidden_dropout_prob": 0.5}  # fmt: skip
SIGLIP = {"model_type": "siglip_vision_model", **SIZES, "image_size": 16, "patch_size": 8}
CONFIG = CLIPConfig(vision=HFConfig({"model": VIT}), text=HFConfig({"model": BERT}), embed_dim=20)
PIXELS = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
IDS = torch.randint(1, 60, (3, 8), generator=torch.Generator().manual_seed(0))
MASK = (torch.arange(8) < torch.tensor([[8], [3], [5]])).long()


@pytest.fixture
def model() -> CLIP:
    torch.manual_seed(0)
    return CLIP(CONFIG).train()


def learn(model: CLIP) -> None:
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    for _ in range(2):
        image, text = model(PIXELS, IDS, MASK)
        (100 * image @ text.T).diag().log_softmax(0).sum().neg().backward()
        optimizer.step()
        optimizer.zero_grad()


def test_a_folder_keeps_the_towers_configs_and_weights(model, tmp_path):
    save_pretrained(model, tmp_path)
    loaded = from_pretrained(tmp_path, kind=CLIP)
    assert read_config(tmp_path, CLIPConfig) == CONFIG
    assert weights_hash(loaded.state_dict()) == weights_hash(model.state_dict())
    torch.testing.assert_close(loaded(PIXELS, IDS, MASK), model.eval()(PIXELS, IDS, MASK))


def test_configs_of_both_kinds_are_stored_as_plain_values():
    mixed = replace(CONFIG, vision=VisionConfig(image_size=16, patch_size=8))
    for config in (CONFIG, mixed):
        assert from_dict(CLIPConfig, to_dict(config)) == config
        assert CLIPConfig(**asdict(config)) == config


def test_a_frozen_hugging_face_tower_drops_nothing_and_learns_nothing(model):
    tune(model, {"text": "frozen"})
    before = {name: value.clone() for name, value in model.text.state_dict().items()}
    torch.testing.assert_close(model.encode_text(IDS, MASK), model.encode_text(IDS, MASK))
    learn(model)
    assert all(torch.equal(value, before[name]) for name, value in model.text.state_dict().items())
    tune(model, {"text": "full"})
    assert (model.encode_text(IDS, MASK) != model.encode_text(IDS, MASK)).any(), "its dropout is back"


def test_adapters_on_hugging_face_towers_are_merged_on_saving(model, tmp_path):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    only = LoRAConfig(rank=2, layers=r".*\.(query|value|q|v)(_proj)?")
    counts = tune(model, {"vision": LoRAConfig(rank=2), "text": only})
    assert 0 < counts["text"][0] < counts["vision"][0] < counts["vision"][1] / 4
    learn(model)
    after = merged(model)
    assert after.keys() == before.keys()
    changed = {n for n, value in after.items() if not torch.equal(value, before[n])}
    maps = {n for n in changed if ".layer" in n and n.endswith("weight") and "norm" not in n.lower()}
    assert changed == maps | {"image_projection.weight", "text_projection.weight"}
    save_pretrained(model, tmp_path)
    loaded = from_pretrained(tmp_path, kind=CLIP)
    torch.testing.assert_close(loaded(PIXELS, IDS, MASK), model.eval()(PIXELS, IDS, MASK), atol=1e-5, rtol=0)


def test_layers_are_counted_and_tokens_and_positions_not_decayed_as_in_towers_of_our_own(model):
    found = {model.layer_of(name) for name, _ in model.named_parameters() if ".layers." in name or ".layer." in name}
    assert found == {1, 2}
    assert model.layer_of("vision.model.embeddings.cls_token") == 0
    assert model.layer_of("vision.model.layernorm.weight") == model.layer_of("image_projection.weight") == 3
    assert {group["lr_scale"] for group in parameter_groups(model, 0.1, layer_decay=0.5)} == {1, 0.5, 0.25, 0.125}
    registers = {"model_type": "dinov2_with_registers", **SIZES, "image_size": 16, "patch_size": 8}
    towers = nn.ModuleList(vision_tower(config) for config in (VIT, SIGLIP, registers))
    decayed = {id(p) for group in parameter_groups(towers, 0.1) if group["weight_decay"] for p in group["params"]}
    free = {name.split(".")[-1] for name, p in towers.named_parameters() if id(p) not in decayed and p.ndim > 1}
    assert free == {"cls_token", "mask_token", "position_embeddings", "register_tokens", "probe", "weight"}
    assert id(towers[0].model.embeddings.patch_embeddings.projection.weight) in decayed


def test_a_tower_that_projects_by_itself_says_which_embed_dim_it_needs():
    text = TextConfig(vocab_size=60, hidden_size=16, num_layers=1, num_heads=2)
    with pytest.raises(ValueError, match=r"the vision tower projects to 24 numbers by itself, but embed_dim is 20"):
        CLIP(CLIPConfig(vision=HFConfig({"model": SIGLIP}), text=text, embed_dim=20))
    model = CLIP(CLIPConfig(vision=HFConfig({"model": SIGLIP}), text=text, embed_dim=24))
    assert [n for n, _ in model.named_parameters() if n.startswith("image_projection")] == []
    assert model(PIXELS, IDS)[0].shape == (3, 24)


def test_another_size_is_for_our_own_vision_tower(model):
    with pytest.raises(ValueError, match="at_resolution is for omma's own"):
        model.at_resolution(32)
