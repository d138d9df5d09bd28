"""CLIP files of Hugging Face and open_clip: the same vectors here, and the same tensors on the way back."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import CLIPModel
from transformers.models.clip.configuration_clip import CLIPConfig as HFCLIPConfig

from omma.models.clip import CLIP, CLIPConfig
from omma.models.clip_layouts import convert_clip, hf_settings, open_clip_settings, to_layout
from omma.models.towers import TextConfig, VisionConfig
from omma.models.weights import load_clip

PIXELS = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
CONFIG = CLIPConfig(
    vision=VisionConfig(image_size=16, patch_size=4, hidden_size=32, num_layers=2, num_heads=4, mlp_ratio=2.0),
    text=TextConfig(vocab_size=50, max_text_len=10, hidden_size=48, num_layers=3, num_heads=4, pool="eos"),
    embed_dim=24,
)  # fmt: skip


def hugging_face(eos: int = 49, **changes) -> CLIPModel:
    """A tiny CLIPModel with random weights, biases and norms included."""
    sizes = {"hidden_size": 32, "intermediate_size": 72, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**sizes, "vocab_size": 50, "max_position_embeddings": 10, "bos_token_id": 0, "eos_token_id": eos, **changes}
    vision = {**sizes, "num_hidden_layers": 3, "image_size": 16, "patch_size": 4, **changes}
    torch.manual_seed(0)
    model = CLIPModel(HFCLIPConfig(text_config=text, vision_config=vision, projection_dim=24)).eval()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def texts(eos: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Four texts that end in eos and go on with larger ids, and their mask."""
    ids = torch.randint(3, 40, (4, 10), generator=torch.Generator().manual_seed(1))
    lengths = torch.tensor([10, 3, 6, 4])
    ids[torch.arange(4), lengths - 1] = eos
    mask = (torch.arange(10) < lengths[:, None]).long()
    return torch.where(mask.bool(), ids, 45 if eos < 45 else 0), mask


@pytest.mark.parametrize("act", ["quick_gelu", "gelu"])
@pytest.mark.parametrize(("stored", "eos"), [(49, 49), (42, 42), (2, 49)])
def test_hugging_faces_vectors_are_ours_also_in_its_old_files_that_call_2_the_end(stored, eos, act):
    theirs = hugging_face(stored, hidden_act=act)
    ours = load_clip(theirs.state_dict(), theirs.config.to_dict())
    ids, mask = texts(eos)
    with torch.no_grad():
        expected = theirs(input_ids=ids, attention_mask=mask, pixel_values=PIXELS)
        torch.testing.assert_close(ours.encode_image(PIXELS), expected.image_embeds, atol=1e-5, rtol=0)
        for given in (mask, None):
            torch.testing.assert_close(ours.encode_text(ids, given), expected.text_embeds, atol=1e-5, rtol=0)
        states = theirs.vision_model(PIXELS, output_hidden_states=True).hidden_states
        torch.testing.assert_close(ours.vision(PIXELS).hidden_states, states, atol=1e-5, rtol=1e-5)
    assert ours.logit_scale.item() == theirs.logit_scale.item()


def test_hugging_faces_weights_come_back_to_the_bit():
    theirs = hugging_face(42)
    ours = load_clip(theirs.state_dict(), theirs.config.to_dict())
    again = CLIPModel(HFCLIPConfig(**hf_settings(ours.config)))
    again.load_state_dict(to_layout(ours, "hf"), strict=True)
    assert all(torch.equal(again.state_dict()[name], value) for name, value in theirs.state_dict().items())
    assert again.config.text_config.eos_token_id == 42
    with torch.no_grad():
        found, wanted = (model.eval()(texts(42)[0], PIXELS) for model in (again, theirs))
        torch.testing.assert_close(found.logits_per_image, wanted.logits_per_image)


def test_the_layouts_lead_into_one_another():
    theirs = hugging_face(2)
    ours = load_clip(theirs.state_dict(), theirs.config.to_dict())
    again = load_clip(to_layout(ours, "open_clip"), open_clip_settings(ours.config))
    assert again.config == ours.config
    assert all(torch.equal(again.state_dict()[name], value) for name, value in ours.state_dict().items())


def test_without_a_config_file_heads_are_64_wide_and_the_layout_tells_the_activation():
    config = replace(CONFIG, vision=replace(CONFIG.vision, hidden_size=64, num_heads=1, activation="quick_gelu"),
                     text=replace(CONFIG.text, hidden_size=128, num_heads=2, activation="quick_gelu"))  # fmt: skip
    model = CLIP(config)
    assert convert_clip(to_layout(model, "hf")).config == config
    openai = to_layout(model, "open_clip") | {"input_resolution": torch.tensor(16), "context_length": torch.tensor(10),
                                              "vocab_size": torch.tensor(50)}  # fmt: skip
    assert convert_clip(openai).config == config
    for name in ("input_resolution", "context_length", "vocab_size"):
        del openai[name]
    plain = convert_clip(openai).config
    assert (plain.vision.activation, plain.text.activation) == ("gelu", "gelu")
    assert convert_clip(openai, quick_gelu=True).config == config


def test_open_clips_two_arrangements_of_its_names_are_read_alike():
    model = CLIP(replace(CONFIG, logit_bias=True))
    state = to_layout(model, "open_clip")
    moved = {key if key.startswith(("visual", "logit")) else f"text.{key}": value for key, value in state.items()}
    found = convert_clip(moved, settings=open_clip_settings(model.config))
    assert found.config == model.config
    assert all(torch.equal(found.tensors[name], value) for name, value in model.state_dict().items())


def test_what_does_not_fit_is_listed_by_the_files_own_names():
    state = to_layout(CLIP(CONFIG), "open_clip")
    settings = open_clip_settings(CONFIG)
    del state["visual.transformer.resblocks.0.ln_1.bias"]
    state["visual.transformer.resblocks.1.ls_1.gamma"] = torch.ones(32)
    with pytest.raises(ValueError, match=r"missing: \S+0\.ln_1\.bias \(1\); unexpected: \S+\.1\.ls_1\.gamma \(1\)"):
        load_clip(state, settings)
    with pytest.raises(ValueError, match=r"how many attention heads\? the state dict doesn't say, and its width 32"):
        load_clip(to_layout(CLIP(CONFIG), "open_clip"))
    with pytest.raises(ValueError, match=r"no CLIP of a known layout: .* but encoder\.weight \(1 tensors\)"):
        load_clip({"encoder.weight": torch.ones(2)})
    with pytest.raises(ValueError, match="vision tower of timm"):
        load_clip({"visual.trunk.pos_embed": torch.ones(2), "logit_scale": torch.ones(())})
    with pytest.raises(ValueError, match="hidden_act='relu' of its vision_config"):
        load_clip(to_layout(CLIP(CONFIG), "hf"), {"vision_config": {"hidden_act": "relu", "num_attention_heads": 4}})
    cut = to_layout(CLIP(CONFIG), "hf")
    cut["text_model.encoder.layers.0.mlp.fc2.bias"] = torch.ones(40)
    with pytest.raises(ValueError, match=r"other shape: text_model\.\S+ is \(40,\), this model's \(48,\)"):
        load_clip(cut, hf_settings(CONFIG))


def test_settings_in_the_places_of_2022_are_read():
    theirs = hugging_face(42)
    said = theirs.config.to_dict()
    old = {"text_config": None, "vision_config": {}} | {f"{k}_dict": said[k] for k in ("text_config", "vision_config")}
    assert load_clip(theirs.state_dict(), old).config == load_clip(theirs.state_dict(), said).config


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [("vision_cfg", {"final_ln_after_pool": True}, r"vision_cfg\.final_ln_after_pool=True is arithmetic"),
     ("vision_cfg", {"pool_type": "none"}, r"vision_cfg\.pool_type=none is arithmetic"),
     ("text_cfg", {"pool_type": "none"}, r"text_cfg\.pool_type=none is arithmetic")],
)  # fmt: skip
def test_settings_of_another_arithmetic_are_refused(part, change, message):
    settings = open_clip_settings(CONFIG)
    with pytest.raises(ValueError, match=message):
        load_clip(to_layout(CLIP(CONFIG), "open_clip"), settings | {part: settings[part] | change})


@pytest.mark.parametrize(
    ("change", "layout", "message"),
    [({"text": replace(CONFIG.text, pool="last")}, "hf", "no place for text.pool=last, only for eos"),
     ({"logit_bias": True}, "hf", "no place for logit_bias=True"),
     ({"text": replace(CONFIG.text, activation="quick_gelu")}, "open_clip", "no place for text.activation=quick_gelu"),
     ({"vision": replace(CONFIG.vision, stem="conv")}, "open_clip", "vision.stem=conv, only for patch")],
)  # fmt: skip
def test_what_a_layout_has_no_place_for_is_not_written(change, layout, message):
    with pytest.raises(ValueError, match=message):
        to_layout(CLIP(replace(CONFIG, **change)), layout)


OPEN_CLIP = """
import sys
from dataclasses import replace
import torch
sys.path.insert(0, sys.argv[1])
import torchvision_stub
torchvision_stub.ensure()
import open_clip
from omma.models.clip import CLIP, CLIPConfig
from omma.models.clip_layouts import open_clip_settings, to_layout
from omma.models.towers import TextConfig, VisionConfig
from omma.models.weights import load_clip

vision = VisionConfig(image_size=16, patch_size=4, hidden_size=32, num_layers=2, num_heads=4, mlp_ratio=2.0)
text = TextConfig(vocab_size=50, max_text_len=10, hidden_size=48, num_layers=3, num_heads=4, pool="eos")
ids = torch.randint(3, 40, (3, 10))
ids[torch.arange(3), torch.tensor([9, 3, 5])] = 49
pixels = torch.randn(3, 3, 16, 16)
changes = [
    {},
    {"vision": replace(vision, activation="quick_gelu", pre_norm=False), "logit_bias": True,
     "text": replace(text, activation="quick_gelu", eos_token_id=49)},
    {"vision": replace(vision, pool="mean"), "text": replace(text, attention="bidirectional", pool="last")},
]
for change in changes:
    config = replace(CLIPConfig(vision=vision, text=text, embed_dim=24), **change)
    ours = CLIP(config).eval()
    theirs = open_clip.CLIP(**open_clip_settings(config)).eval()
    theirs.load_state_dict(to_layout(ours, "open_clip"), strict=True)
    again = load_clip(theirs.state_dict(), open_clip_settings(config))
    assert again.config == config, (again.config, config)
    with torch.no_grad():
        found = (ours.encode_image(pixels), ours.encode_text(ids), ours.logit_scale.exp()[0])
        wanted = theirs(pixels, ids)
        for mine, their in zip(found, wanted):
            torch.testing.assert_close(mine, their, atol=1e-5, rtol=1e-5)
print("equal")
"""


@pytest.mark.skipif("PEERS" not in os.environ, reason="PEERS names no folder with open_clip and torchvision")
def test_open_clips_vectors_are_ours_and_its_weights_come_back():
    bench = Path(__file__).parents[2] / "bench"
    path = os.pathsep.join([*sys.path, os.environ["PEERS"]])
    command = [sys.executable, "-W", "ignore", "-c", OPEN_CLIP, str(bench)]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    assert done.stdout.strip() == "equal", done.stderr
