"""Released files as model folders: layouts, heads, sizes, wrappers, and files that don't fit."""

import json
import pickle
import re
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file

from omma import cli, load_encoder
from omma.models.clip import CLIP, CLIPConfig
from omma.models.clip_layouts import hf_settings, open_clip_settings, to_layout
from omma.models.official import convert
from omma.models.preprocess import Processor, read_tokenizer
from omma.models.towers import TextConfig, VisionConfig
from omma.models.vlmo import VLMo
from omma.models.vlmo_config import PRESETS
from omma.models.weights import (
    from_pretrained,
    load_clip,
    load_official_beit,
    load_official_beit3,
    load_official_vlmo,
)
from omma.training.finetune import fitted

D, LAYERS, VOCAB = 24, 3, 20
IDS, MASK = torch.tensor([[3, 6, 7, 8, 4]]), torch.ones(1, 5, dtype=torch.long)
PIXELS = torch.randn(1, 3, 48, 48, generator=torch.Generator().manual_seed(0))


def released(vl: bool = True, absolute: bool = False, *heads: str, grid: int = 3) -> dict:
    """A state dict laid out as the released VLMos, tiny; heads: "pretrained", "vqa", "nlvr2", "retrieval"."""
    g = torch.Generator().manual_seed(1)
    state: dict = {}

    def add(name: str, *shape: int) -> None:
        state[name] = 0.3 * torch.randn(shape, generator=g) + (1.0 if "norm" in name and "weight" in name else 0.0)

    def linear(name: str, out: int, size: int) -> None:
        add(f"{name}.weight", out, size), add(f"{name}.bias", out)

    def norm(name: str, size: int = D) -> None:
        add(f"{name}.weight", size), add(f"{name}.bias", size)

    add("transformer.cls_token", 1, 1, D)
    add("transformer.patch_embed.proj.weight", D, 3, 16, 16), add("transformer.patch_embed.proj.bias", D)
    for i in range(LAYERS):
        b = f"transformer.blocks.{i}."
        norm(f"{b}norm1"), add(f"{b}attn.qkv.weight", 3 * D, D), add(f"{b}attn.q_bias", D), add(f"{b}attn.v_bias", D)
        linear(f"{b}attn.proj", D, D)
        for m in ("text", "imag", *(["vl"] if vl and i == LAYERS - 1 else [])):
            norm(f"{b}norm2_{m}"), linear(f"{b}mlp_{m}.fc1", 4 * D, D), linear(f"{b}mlp_{m}.fc2", D, 4 * D)
        if not absolute:
            add(f"{b}gamma_1", D), add(f"{b}gamma_2", D)
    norm("transformer.norm"), norm("text_embeddings.LayerNorm")
    add("text_embeddings.word_embeddings.weight", VOCAB, D)
    add("text_embeddings.token_type_embeddings.weight", 2, D)
    add("text_embeddings.position_embeddings.weight", 40, D)
    add("token_type_embeddings.weight", 3 if "nlvr2" in heads else 2, D), linear("pooler.dense", D, D)
    if absolute:
        add("transformer.pos_embed", 1, 1 + grid * grid, D)
    else:
        add("relative_position_bias_table", (2 * grid - 1) ** 2 + 3 + 2 * 196 + 2, LAYERS * 4)
        state["relative_position_index"] = torch.zeros(1 + grid * grid, 1 + grid * grid, dtype=torch.long)
    state["text_embeddings.position_ids"] = torch.arange(40)[None]
    if {"pretrained", "retrieval"} & set(heads):
        add("itc_text_proj.fc.weight", D, D), add("itc_image_proj.fc.weight", D, D), add("logit_scale")
    if "pretrained" in heads:
        add("itc_vl_text_proj.fc.weight", D, D), add("itc_vl_image_proj.fc.weight", D, D), add("logit_vl_scale")
        linear("itm_score.fc", 2, D), linear("mlm_score.transform.dense", D, D), norm("mlm_score.transform.LayerNorm")
        add("mlm_score.decoder.weight", VOCAB, D), add("mlm_score.bias", VOCAB)
    for name, size, out in (("vqa", D, 7), ("nlvr2", 2 * D, 2)):
        if name in heads:
            linear(f"{name}_classifier.0", 2 * D, size), norm(f"{name}_classifier.1", 2 * D)
            linear(f"{name}_classifier.3", out, 2 * D)
    return state


PRETRAINED = released(True, False, "pretrained")


@pytest.fixture
def vocab(tmp_path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{i}" for i in range(VOCAB - 5))]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    return tmp_path / "vocab.txt"


# ---- what a file holds
def test_a_file_of_all_pre_training_heads_loads_in_silence_and_fills_every_weight():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = load_official_vlmo(PRETRAINED)
    assert (model.config.num_heads, model.config.image_size, model.config.max_text_len) == (4, 48, 40)
    assert model.config.itc_vl
    again = load_official_vlmo(PRETRAINED).state_dict()
    random = {name for name, value in model.state_dict().items() if not torch.equal(value, again[name])}
    assert random == {"mask_token", "mim_head.weight"}  # only stage 1 reads them


def test_a_vqa_file_answers_and_says_which_heads_it_lacks():
    state = released(True, False, "vqa")
    with pytest.warns(UserWarning, match="not in the file.*: itc_image, itc_text, itm_head, logit_scale, mlm_head$"):
        model = load_official_vlmo(state, answers=list("abcdefg"))
    assert model.config.answers == tuple("abcdefg")
    x = model(IDS, MASK, PIXELS).pooled
    x = x @ state["vqa_classifier.0.weight"].T + state["vqa_classifier.0.bias"]
    x = F.gelu(F.layer_norm(x, (2 * D,), state["vqa_classifier.1.weight"], state["vqa_classifier.1.bias"]))
    x = x @ state["vqa_classifier.3.weight"].T + state["vqa_classifier.3.bias"]
    torch.testing.assert_close(model.answer(IDS, MASK, PIXELS), x)
    with pytest.raises(ValueError, match="2 answers were given, but the classifier of the state dict has 7"):
        load_official_vlmo(state, answers=["yes", "no"])


def test_an_nlvr2_file_has_three_token_types():
    with pytest.warns(UserWarning, match="not in the file"):
        model = load_official_vlmo(released(True, False, "nlvr2"))
    assert (model.config.num_image_types, model.config.num_pair_classes) == (2, 2)
    other = PIXELS.flip(-1)
    text = model.embed_text(IDS)
    pooled = [model.encode(text, MASK, model.embed_image(p, image_type=i), (3, 3)).pooled
              for i, p in enumerate((PIXELS, other))]  # fmt: skip
    assert not torch.equal(model.type_embed.weight[1], model.type_embed.weight[2])
    torch.testing.assert_close(model.classify_pair(IDS, MASK, PIXELS, other), model.pair_head(torch.cat(pooled, -1)))


def test_a_retrieval_file_has_contrastive_heads_only():
    with pytest.warns(UserWarning, match="not in the file.*: itm_head, mlm_head$"):
        model = load_official_vlmo(released(True, False, "retrieval"))
    assert not model.config.itc_vl
    assert model.encode_image(PIXELS).shape == model.encode_text(IDS).shape == (1, D)


def test_a_stage_2_file_gets_vision_language_experts_as_asked():
    state = released(False)
    choices = ({}, {"vl_experts": "image", "num_vl_layers": 2}, {"vl_experts": "fresh", "num_vl_layers": 1})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the heads, told by the tests above
        plain, copied, fresh = (load_official_vlmo(state, **choice) for choice in choices)
    assert (plain.config.num_vl_layers, copied.config.num_vl_layers, fresh.config.num_vl_layers) == (0, 2, 1)
    for i in (1, 2):
        own, source = (copied.state_dict()[f"blocks.{i}.experts.{m}.fc1.weight"] for m in ("vl", "image"))
        assert torch.equal(own, source)
    assert not torch.equal(*(fresh.state_dict()[f"blocks.2.experts.{m}.fc1.weight"] for m in ("vl", "image")))
    with pytest.raises(ValueError, match="No released VLMo is 24 wide; give num_vl_layers"):
        load_official_vlmo(state, vl_experts="image")
    with pytest.raises(ValueError, match="has vision-language experts of its own"):
        load_official_vlmo(PRETRAINED, vl_experts="image")


def test_without_a_relative_table_the_heads_are_known_by_width_or_asked_for():
    state = released(True, True)
    with pytest.raises(ValueError, match=r"how many attention heads.*24 wide; give num_heads"):
        load_official_vlmo(state)
    with pytest.warns(UserWarning, match="not in the file"):
        model = load_official_vlmo(state, num_heads=3, max_text_len=12)
    assert (model.config.num_heads, model.config.layer_scale, tuple(model.text_positions.shape)) == (3, None, (12, D))
    with pytest.raises(ValueError, match="num_heads=3, but the relative table of the state dict is for 4 heads"):
        load_official_vlmo(PRETRAINED, num_heads=3)
    with pytest.raises(ValueError, match="max_text_len=99, but the state dict holds positions for 40 tokens"):
        load_official_vlmo(state, num_heads=3, max_text_len=99)


# ---- another resolution
@pytest.mark.parametrize("absolute", [False, True])
def test_at_resolution_is_what_the_model_reads_at_that_size(absolute):
    """Positions resampled once and kept, or at every pass: the same states; and from the file at once."""
    state = released(True, absolute, "pretrained")
    model = load_official_vlmo(state, num_heads=4)
    larger = load_official_vlmo(state, num_heads=4, image_size=80)
    assert (larger.config.image_size, larger.config.grid) == (80, (5, 5))
    pixels = F.interpolate(PIXELS, 80)
    torch.testing.assert_close(larger(IDS, MASK, pixels).pooled, model(IDS, MASK, pixels).pooled)
    torch.testing.assert_close(larger.encode_image(pixels, "itc_vl"), model.encode_image(pixels, "itc_vl"))
    moved = [name for name, value in larger.state_dict().items() if value.shape != model.state_dict()[name].shape]
    assert moved == (["image_positions"] if absolute else ["relative_bias.table"])
    with pytest.raises(ValueError, match="image_size 50 does not divide by patch_size 16"):
        model.at_resolution(50)


@pytest.mark.parametrize("absolute", [False, True])
def test_training_at_a_larger_size_starts_from_the_moved_positions(absolute):
    model = load_official_vlmo(released(True, absolute, "pretrained"), num_heads=4)
    larger = VLMo(replace(model.config, image_size=80, max_text_len=20))
    names = ("image_positions", "text_positions") if absolute else ("relative_bias.table",)
    for name in names:
        moved = fitted(larger, model.config, name, model.state_dict()[name])
        assert moved.shape == larger.state_dict()[name].shape
        expected = model.at_resolution(80).state_dict()[name]
        torch.testing.assert_close(moved, expected[:20] if name == "text_positions" else expected)


# ---- files
@pytest.mark.parametrize("wrap", [
    lambda state: state, lambda state: {"model": state}, lambda state: {"state_dict": state, "epoch": 3},
    lambda state: {"module": {f"module.{key}": value for key, value in state.items()}},
])  # fmt: skip
def test_a_pt_file_is_read_out_of_what_wraps_it(wrap, tmp_path):
    torch.save(wrap(PRETRAINED), tmp_path / "vlmo.pt")
    expected = load_official_vlmo(PRETRAINED).encode_text(IDS)
    torch.testing.assert_close(load_official_vlmo(tmp_path / "vlmo.pt").encode_text(IDS), expected)


def test_safetensors_and_half_precision_are_read_as_float32(tmp_path):
    half = {key: value.half().contiguous() if value.is_floating_point() else value for key, value in PRETRAINED.items()}
    save_file(half, str(tmp_path / "vlmo.safetensors"))
    model = load_official_vlmo(tmp_path / "vlmo.safetensors")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    torch.testing.assert_close(model.norm.weight, PRETRAINED["transformer.norm.weight"].half().float())


class Surprise:
    def __reduce__(self):
        return print, ("code in a file was run",)


def test_what_is_no_file_of_tensors_is_refused_without_running_it(tmp_path, capsys):
    torch.save({"state_dict": PRETRAINED, "callback": Surprise()}, tmp_path / "run.pt")
    with pytest.raises(ValueError, match=r"run.pt can't be read as a file of tensors.*pass its state dict"):
        load_official_vlmo(tmp_path / "run.pt")
    assert "was run" not in capsys.readouterr().out
    (tmp_path / "cut.pt").write_bytes(pickle.dumps({})[:3])
    for name, message in (("cut.pt", "can't be read"), ("none.pt", "no file at")):
        with pytest.raises(ValueError, match=message):
            load_official_vlmo(tmp_path / name)
    with pytest.raises(ValueError, match=r"not tensors: epoch \(1\)"):
        load_official_vlmo(PRETRAINED | {"epoch": 3})


def test_a_state_dict_that_does_not_fit_is_answered_with_what_is_missing_and_unexpected():
    lacking = {key: value for key, value in PRETRAINED.items() if "blocks.1.mlp_text" not in key}
    with pytest.raises(ValueError, match=r"missing: blocks.1.experts.text.fc1.weight, .* \(4\)"):
        load_official_vlmo(lacking)
    with pytest.raises(ValueError, match=r"unexpected: decoder.weight, transformer.blocks.0.adapter \(2\)"):
        load_official_vlmo(PRETRAINED | dict.fromkeys(("decoder.weight", "transformer.blocks.0.adapter"), IDS))
    with pytest.raises(ValueError, match=r"other shape: norm.weight is \(3,\), the model's \(24,\)"):
        load_official_vlmo(PRETRAINED | {"transformer.norm.weight": torch.ones(3)})
    with pytest.raises(ValueError, match=r"missing: transformer.patch_embed.proj.weight"):
        load_official_vlmo({"visual.conv1.weight": torch.ones(2)})
    half_a_head = {key: value for key, value in PRETRAINED.items() if key != "pooler.dense.bias"}
    with pytest.raises(ValueError, match=r"missing: pooler.bias \(1\)"):
        load_official_vlmo(half_a_head)
    with pytest.raises(ValueError, match="no square picture with texts of 96 tokens; give relative_text_len"):
        load_official_vlmo(PRETRAINED, relative_text_len=96)
    for load in (load_official_beit, load_official_beit3):
        with pytest.raises(ValueError, match=r"missing: .*patch_embed.proj.weight|missing: beit3.vision_embed"):
            load(PRETRAINED)


@pytest.mark.parametrize(("name", "published"), [("beit3_base", (222, 276)), ("beit3_large", (674, 746))])
def test_beit3_has_the_published_number_of_weights(name, published):
    """Its README cuts millions off: for retrieval, and with the predictors of 64,010 words and 8,192 visual tokens."""
    with torch.device("meta"):
        model = VLMo(replace(PRESETS[name], max_text_len=1022))
    width = model.config.hidden_size
    own = (2 + 1 + 1) * width  # published: two unread rows in both tables of positions; ours: modality and segment
    backbone = model.num_parameters(backbone_only=True) + own - 3 * width + width  # their mask token is counted
    retrieval, pretraining = backbone + 2 * width**2 + 1, backbone + (64010 + 8192) * (width + 1)
    assert (int(retrieval / 1e6), int(pretraining / 1e6)) == published


# ---- folders
def test_a_released_file_becomes_a_model_folder_that_load_encoder_reads(tmp_path, vocab, capsys):
    torch.save(PRETRAINED, tmp_path / "vlmo.pt")
    code = cli.run(["convert", str(tmp_path / "vlmo.pt"), str(tmp_path / "eye"), "--vocab", str(vocab), "--json"])
    told = json.loads(capsys.readouterr().out)
    assert (code, told["kind"], told["image_size"], told["left_out"], told["fresh"]) == (0, "vlmo", 48, [], [])
    eye = load_encoder(tmp_path / "eye", device="cpu")
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 48, 3), dtype=np.uint8))
    pixels = torch.tensor(np.asarray(picture).transpose(2, 0, 1)[None] / 127.5 - 1, dtype=torch.float32)
    model = load_official_vlmo(PRETRAINED)
    with torch.no_grad():
        expected = model.encode_image(pixels), model.encode_text(torch.tensor([[2, 8, 12, 3]]))
    np.testing.assert_allclose(eye.encode_image([picture]), expected[0].numpy(), atol=2e-6)
    np.testing.assert_allclose(eye.encode_text(["Word3 wörd7"]), expected[1].numpy(), atol=2e-6)
    with pytest.raises(ValueError, match="is already there; give another folder"):
        convert(tmp_path / "vlmo.pt", tmp_path / "eye", vocab)


def test_a_beit_becomes_a_folder_that_stage_2_starts_from(tmp_path, vocab):
    kept = ("patch_embed.proj", "cls_token", "norm.weight", "norm.bias")
    state = {key.removeprefix("transformer.").replace("_imag.", "."): value for key, value in released(False).items()
             if key.startswith("transformer.") and "_text" not in key}  # fmt: skip
    table = torch.randn(28, 4)
    state |= {f"blocks.{i}.attn.relative_position_bias_table": table for i in range(LAYERS)}
    assert all(any(key.startswith(part) for key in state) for part in kept)
    torch.save({"model": state}, tmp_path / "beit.pth")
    made = convert(tmp_path / "beit.pth", tmp_path / "eye", vocab, max_text_len=16)
    assert (made["kind"], made["fresh"], made["max_text_len"]) == ("beit", [], 16)
    model = from_pretrained(tmp_path / "eye")
    assert (model.config.vocab_size, model.config.num_heads) == (VOCAB, 4)
    assert model.relative_bias is not None
    torch.testing.assert_close(model.relative_bias.table[1, :, :28], table.T)
    assert not model.relative_bias.table[..., 28:].any()


def test_a_vocabulary_or_files_of_another_model_are_refused_with_the_fix(tmp_path, vocab):
    torch.save(PRETRAINED, tmp_path / "vlmo.pt")
    more = tmp_path / "more.txt"
    more.write_text(vocab.read_text() + "\nanother")
    with pytest.raises(ValueError, match=r"more.txt has 21 tokens, but .* holds vectors for 20; give the vocabulary"):
        convert(tmp_path / "vlmo.pt", tmp_path / "eye", more)
    assert not (tmp_path / "eye").exists()
    for place, text, message in (("a.txt", "one\ntwo", "lacks \\[PAD\\]"), ("b.json", "{", "tokenizer.json"),
                                 ("folder", None, "no tokenizer.json and no vocab.txt; it has nothing")):  # fmt: skip
        if text is None:
            (tmp_path / place).mkdir()
        else:
            (tmp_path / place).write_text(text)
        with pytest.raises(ValueError, match=message):
            read_tokenizer(tmp_path / place)
    with pytest.raises(ValueError, match="no vocabulary at"):
        read_tokenizer(tmp_path / "absent.txt")

    convert(tmp_path / "vlmo.pt", tmp_path / "eye", vocab)
    settings = json.loads((tmp_path / "eye" / "preprocessor.json").read_text())
    for changed, message in (({"image_size": 50}, "patches are 16 px; set image_size to 48"),
                             ({"max_text_len": 500}, "holds 196; set max_text_len")):  # fmt: skip
        (tmp_path / "eye" / "preprocessor.json").write_text(json.dumps(settings | changed))
        with pytest.raises(ValueError, match=message):
            load_encoder(tmp_path / "eye", device="cpu")
    Processor(read_tokenizer(more), 48, 40).save(tmp_path / "eye")
    with pytest.raises(ValueError, match=re.escape("tokenizer.json has 21 tokens, but the model has vectors for 20")):
        load_encoder(tmp_path / "eye", device="cpu")


def test_a_file_of_none_of_the_kinds_is_shown_what_it_begins_with(tmp_path, vocab):
    torch.save({"backbone.conv1.weight": torch.ones(2)}, tmp_path / "resnet.pt")
    with pytest.raises(ValueError, match=r"no released VLMo, BEiT, BEiT-3 or CLIP.*has backbone.conv1.weight \(1 "):
        convert(tmp_path / "resnet.pt", tmp_path / "eye", vocab)


# ------------------------------------------------------------------------------------------------------------ CLIP
CLIP_CONFIG = CLIPConfig(
    vision=VisionConfig(image_size=16, patch_size=8, hidden_size=16, num_layers=1, num_heads=2,
                        activation="quick_gelu"),
    text=TextConfig(vocab_size=VOCAB, max_text_len=12, hidden_size=16, num_layers=1, num_heads=4, pool="eos",
                    activation="quick_gelu"),
    embed_dim=8)  # fmt: skip


def test_a_clip_file_becomes_a_model_folder_by_the_config_beside_it(tmp_path, vocab):
    model = CLIP(CLIP_CONFIG).eval()
    save_file(to_layout(model, "hf"), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(hf_settings(CLIP_CONFIG)))
    made = convert(tmp_path / "model.safetensors", tmp_path / "eye", vocab, image_size=24, max_text_len=10)
    assert (made["kind"], made["image_size"], made["max_text_len"]) == ("clip", 24, 10)
    again, processor = from_pretrained(tmp_path / "eye", kind=CLIP), Processor.load(tmp_path / "eye")
    assert again.config == replace(CLIP_CONFIG, vision=replace(CLIP_CONFIG.vision, image_size=24))
    torch.testing.assert_close(again.encode_text(IDS), model.encode_text(IDS))
    assert (processor.shortest_side, processor.max_text_len, len(processor.mean)) == (24, 10, 3)
    pictures = {"do_center_crop": True, "crop_size": {"height": 16, "width": 16}, "size": {"shortest_edge": 20},
                "image_mean": [0.5] * 3, "image_std": [0.25] * 3, "resample": 2}  # fmt: skip
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(pictures))
    convert(tmp_path / "model.safetensors", tmp_path / "other", vocab)
    found = Processor.load(tmp_path / "other")
    assert (found.image_size, found.shortest_side, found.resample) == (16, 20, "bilinear")
    assert (found.mean, found.std) == (0.5, 0.25)


def test_open_clips_settings_of_pictures_are_taken_over(tmp_path, vocab):
    torch.save(to_layout(CLIP(CLIP_CONFIG), "open_clip"), tmp_path / "open_clip.pt")
    pictures = {"mean": [0.5] * 3, "std": [0.25] * 3, "interpolation": "bilinear", "resize_mode": "squash"}
    settings = {"model_cfg": open_clip_settings(CLIP_CONFIG), "preprocess_cfg": pictures}
    (tmp_path / "said.json").write_text(json.dumps(settings))
    convert(tmp_path / "open_clip.pt", tmp_path / "eye", vocab, settings=tmp_path / "said.json")
    found = Processor.load(tmp_path / "eye")
    assert (found.mean, found.std, found.resample, found.shortest_side) == ((0.5,) * 3, (0.25,) * 3, "bilinear", None)
    assert from_pretrained(tmp_path / "eye", kind=CLIP).config == CLIP_CONFIG


@pytest.mark.parametrize(
    ("change", "fills"), [({}, False), ({"pool": "last"}, True), ({"attention": "bidirectional"}, True)]
)
def test_texts_of_an_open_clip_that_reads_its_padding_are_filled_up(change, fills, tmp_path, vocab):
    config = replace(CLIP_CONFIG, text=replace(CLIP_CONFIG.text, **change))
    torch.save(to_layout(CLIP(config), "open_clip"), tmp_path / "open_clip.pt")
    said = {"model_cfg": open_clip_settings(config)}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(said))
    convert(tmp_path / "open_clip.pt", tmp_path / "eye", vocab)
    ids, mask = Processor.load(tmp_path / "eye").texts(["a"])
    assert (bool(mask.all()), ids.shape[1] == config.text.max_text_len) == (fills, fills)
    said["preprocess_cfg"] = {"resize_mode": "longest"}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(said))
    with pytest.raises(ValueError, match="resize_mode=longest; omma scales pictures by their shorter side"):
        convert(tmp_path / "open_clip.pt", tmp_path / "other", vocab)


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_openais_archives_are_read_without_running_them(tmp_path):
    config = replace(CLIP_CONFIG, vision=replace(CLIP_CONFIG.vision, hidden_size=64, num_heads=1),
                     text=replace(CLIP_CONFIG.text, hidden_size=64, num_heads=1))  # fmt: skip
    state = to_layout(CLIP(config), "open_clip") | {"input_resolution": torch.tensor(16)}
    root = torch.nn.Module()
    for name, value in state.items():
        *parents, last = name.split(".")
        part = root
        for parent in parents:
            if parent not in dict(part.named_children()):
                part.add_module(parent, torch.nn.Module())
            part = part.get_submodule(parent)
        part.register_buffer(last, value)
    torch.jit.save(torch.jit.script(root), tmp_path / "ViT.pt")
    assert load_clip(tmp_path / "ViT.pt").config == config


def test_a_clip_file_with_what_does_not_fit_it_is_refused(tmp_path, vocab):
    torch.save(to_layout(CLIP(CLIP_CONFIG), "open_clip"), tmp_path / "clip.pt")
    with pytest.raises(ValueError, match=r"how many attention heads\?"):
        convert(tmp_path / "clip.pt", tmp_path / "eye", vocab)
    (tmp_path / "config.json").write_text(json.dumps(open_clip_settings(CLIP_CONFIG)))
    with pytest.raises(ValueError, match="it has no labels and no experts"):
        convert(tmp_path / "clip.pt", tmp_path / "eye", vocab, labels=["a"])
    with pytest.raises(ValueError, match=r"max_text_len=13, but .* holds positions for 12"):
        convert(tmp_path / "clip.pt", tmp_path / "eye", vocab, max_text_len=13)
    with pytest.raises(ValueError, match="is not JSON"):
        convert(tmp_path / "clip.pt", tmp_path / "eye", vocab, settings=vocab)
