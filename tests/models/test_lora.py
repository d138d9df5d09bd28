"""LoRA: adapters learn, their base does not, and a saved model is an ordinary one."""

import copy
from dataclasses import replace

import pytest
import torch

from omma.models.clip import CLIP, CLIPConfig
from omma.models.lora import LoRAConfig, described, merged, trainable, tune
from omma.models.towers import TextConfig, VisionConfig
from omma.models.weights import from_pretrained, save_pretrained
from omma.training.optim import EMA, parameter_groups

CONFIG = CLIPConfig(
    vision=VisionConfig(image_size=16, patch_size=4, hidden_size=32, num_layers=2, num_heads=4),
    text=TextConfig(vocab_size=50, max_text_len=10, hidden_size=24, num_layers=2, num_heads=4),
    embed_dim=16,
)  # fmt: skip
PIXELS = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
IDS = torch.randint(1, 50, (4, 7), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model() -> CLIP:
    torch.manual_seed(0)
    return CLIP(CONFIG).train()


def learn(model: CLIP, steps: int = 3) -> None:
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.1), lr=1e-2)
    for _ in range(steps):
        image, text = model(PIXELS, IDS)
        (100 * image @ text.T).diag().log_softmax(0).sum().neg().backward()
        optimizer.step()
        optimizer.zero_grad()


def test_only_adapters_and_what_is_above_the_towers_learn(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    tune(model, {"vision": "frozen", "text": LoRAConfig(rank=2)})
    learn(model)
    after = merged(model)
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    maps = [f"text.blocks.{i}.{part}.weight" for i in (0, 1) for part in
            ("attention.qkv", "attention.proj", "mlp.fc1", "mlp.fc2")]  # fmt: skip
    assert changed == {*maps, "image_projection.weight", "text_projection.weight"}
    base = {n.replace(".base_layer", ""): v for n, v in model.state_dict().items() if ".base_layer." in n}
    assert base, "the adapted maps keep theirs"
    assert all(torch.equal(value, before[name]) for name, value in base.items())


def test_a_saved_model_is_an_ordinary_one_that_gives_what_the_adapted_one_gives(model, tmp_path):
    tune(model, {"vision": LoRAConfig(rank=3, alpha=5.0), "text": LoRAConfig(dropout=0.3)})
    plain = CLIP(CONFIG).state_dict()
    learn(model)
    save_pretrained(model, tmp_path)
    loaded = from_pretrained(tmp_path, kind=CLIP)
    assert loaded.state_dict().keys() == plain.keys()
    torch.testing.assert_close(loaded(PIXELS, IDS), model.eval()(PIXELS, IDS), atol=1e-5, rtol=0)
    assert (loaded.encode_image(PIXELS) - CLIP(CONFIG).encode_image(PIXELS)).abs().max() > 1e-2


def test_the_average_of_adapters_is_merged_too(model, tmp_path):
    tune(model, {"text": LoRAConfig()})
    ema = EMA(model, 0.9)
    learn(model)
    ema.update(model, 100)
    save_pretrained(model, tmp_path, state=ema.state)
    averaged = copy.deepcopy(model)
    averaged.load_state_dict(ema.state)
    found = from_pretrained(tmp_path, kind=CLIP).encode_text(IDS)
    torch.testing.assert_close(found, averaged.eval().encode_text(IDS), atol=1e-5, rtol=0)
    assert (found - model.eval().encode_text(IDS)).abs().max() > 1e-4


def test_before_its_first_step_an_adapted_model_is_the_model(model):
    before = model.eval()(PIXELS, IDS)
    tune(model, {"vision": LoRAConfig(), "text": LoRAConfig()})
    torch.testing.assert_close(model(PIXELS, IDS), before)


def test_the_table_counts_each_tower_and_the_rest(model):
    vision, text = (sum(p.numel() for p in tower.parameters()) for tower in (model.vision, model.text))
    rest = 32 * 16 + 24 * 16 + 1
    assert trainable(model) == {"vision": (vision, vision), "text": (text, text), "rest": (rest, rest)}
    adapters = 2 * 2 * ((24 + 72) + (24 + 24) + 2 * (24 + 96))  # layers, rank, what goes in and out of each map
    counts = tune(model, {"vision": "frozen", "text": LoRAConfig(rank=2)})
    assert counts == {"vision": (0, vision), "text": (adapters, text + adapters), "rest": (rest, rest)}
    assert described({"vision": (0, 21_630_000), "rest": (897, 897)}) == "trained: vision 0 of 21.6M, rest 897 of 897"


def test_a_pattern_chooses_maps_within_the_tower(model):
    tune(model, {"vision": LoRAConfig(layers=r"blocks\.\d+\.attention\.(qkv|proj)")})
    adapted = {name.split(".lora_")[0] for name, _ in model.named_parameters() if ".lora_" in name}
    assert adapted == {f"vision.blocks.{i}.attention.{part}" for i in (0, 1) for part in ("qkv", "proj")}


def test_a_tower_goes_from_frozen_to_full(model):
    tune(model, {"vision": "frozen"})
    assert (model.is_frozen("vision"), model.vision.training) == (True, False)
    tune(model, {"vision": "full"})
    assert (model.is_frozen("vision"), model.vision.training) == (False, True)


@pytest.mark.parametrize(
    ("ways", "message"),
    [({"image": "frozen"}, "image='frozen': a tower is vision or text"),
     ({"text": "half"}, "text='half': .* trained full, frozen or by a LoRAConfig"),
     ({"text": LoRAConfig(layers="q_proj")}, r"'q_proj' matches no linear map of the text tower; it has blocks")],
)  # fmt: skip
def test_an_unknown_tower_way_or_layer_is_answered_with_what_there_is(model, ways, message):
    with pytest.raises(ValueError, match=message):
        tune(model, ways)


def test_adapters_are_added_once_and_have_a_rank(model):
    tune(model, {"text": LoRAConfig()})
    with pytest.raises(ValueError, match="the text tower has adapters already"):
        tune(model, {"text": LoRAConfig()})
    with pytest.raises(ValueError, match="rank=0"):
        replace(LoRAConfig(), rank=0)
