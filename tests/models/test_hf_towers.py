"""Hugging Face models as towers: built offline from a config, with no parameter that a gradient never reaches."""

import json

import numpy as np
import pytest
import torch
import transformers as hf
from tiny_hf import MODELS, SIZE, TEXT, TEXTS, VISION, bert_tokenizer, blip, clip, pictures, save

from omma.models.hf import load_dual, read_config, text_tower, vision_tower
from omma.models.hf_preprocess import load_processor, shape_within, square

SMALL = {**VISION, "image_size": 16}
WORDS = {**SIZE, "vocab_size": 30, "max_position_embeddings": 14}
VISIONS = {
    "vit": {"model_type": "vit", **SMALL},
    "dinov2": {"model_type": "dinov2", **SMALL},
    "dinov3": {"model_type": "dinov3_vit", **SMALL, "num_register_tokens": 2},
    "clip": {"model_type": "clip_vision_model", **SMALL},
    "siglip": {"model_type": "siglip_vision_model", **SMALL},
    "siglip2": {"model_type": "siglip2_vision_model", **SIZE, "patch_size": 8, "num_patches": 4},
    "blip": {"model_type": "blip_vision_model", **SMALL},
    "convnext": {"model_type": "convnext", "hidden_sizes": [8, 32], "depths": [1, 1], "num_stages": 2, "patch_size": 4,
                 "image_size": 16},
}  # fmt: skip
TEXT_MODELS = {
    "bert": {"model_type": "bert", **WORDS},
    "roberta": {"model_type": "roberta", **WORDS, "max_position_embeddings": 16, "pad_token_id": 1},
    "xlm-roberta": {"model_type": "xlm-roberta", **WORDS, "max_position_embeddings": 16, "pad_token_id": 1},
    "clip": {"model_type": "clip_text_model", **WORDS, "bos_token_id": 28, "eos_token_id": 29},
    "siglip": {"model_type": "siglip_text_model", **WORDS, "bos_token_id": 28, "eos_token_id": 29, "pad_token_id": 1},
    "chinese_clip": {"model_type": "chinese_clip_text_model", **WORDS},
}
CROP = {"height": 224, "width": 224}
IDS = torch.tensor([[28, 3, 4, 29], [28, 5, 29, 29]])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
PIXELS = torch.linspace(-1, 1, 2 * 3 * 16 * 16).view(2, 3, 16, 16).sin()


def without_gradient(tower, *inputs):
    """Names of the trained parameters that the pooled vectors do not depend on."""
    out = tower(*inputs)
    out.pooled.square().sum().backward()
    return [name for name, weight in tower.named_parameters() if weight.requires_grad and weight.grad is None]


@pytest.mark.parametrize("name", VISIONS)
@pytest.mark.parametrize("pooling", [None, "mean", "pooler"])
def test_a_vision_tower_trains_all_it_has_and_comes_back_from_its_config(name, pooling):
    torch.manual_seed(0)
    tower = vision_tower(VISIONS[name], pooling=pooling).train()
    assert without_gradient(tower, PIXELS) == []
    tower.eval()
    out = tower(PIXELS)
    assert out.pooled.shape == (2, tower.width) == (2, 32)
    assert len(out.hidden_states) == len(tower.blocks) + 1 == 3
    assert out.hidden_states[-1].shape[0] == 2
    assert out.hidden_states[-1].shape[2] == 32
    assert tower.image_size == 16
    assert tower.projects == (name.startswith("siglip") and tower.pooling == "pooler")
    bare = tower(PIXELS, states=False)
    assert bare.hidden_states == ()
    torch.testing.assert_close(bare.pooled, out.pooled)

    again = vision_tower(json.loads(json.dumps(tower.config)))
    again.load_state_dict(tower.state_dict())
    torch.testing.assert_close(again.eval()(PIXELS).pooled, out.pooled)
    assert again.config == tower.config


@pytest.mark.parametrize("name", TEXT_MODELS)
@pytest.mark.parametrize("pooling", [None, "mean", "cls", "last"])
def test_a_text_tower_trains_all_it_has_and_ignores_padding(name, pooling):
    torch.manual_seed(0)
    tower = text_tower(TEXT_MODELS[name], pooling=pooling).train()
    assert without_gradient(tower, IDS, MASK) == []
    tower.eval()
    out = tower(IDS, MASK)
    assert out.pooled.shape == (2, tower.width) == (2, 32)
    assert [x.shape for x in out.hidden_states] == [(2, 4, 32)] * 3
    assert tower.context_length == 14
    if tower.pooling != "pooler" or name != "siglip":  # SigLIP reads its padding
        short = tower(IDS[1:, :3], MASK[1:, :3]).pooled
        torch.testing.assert_close(short, out.pooled[1:], atol=1e-5, rtol=1e-5)
    again = text_tower(json.loads(json.dumps(tower.config)))
    again.load_state_dict(tower.state_dict())
    torch.testing.assert_close(again.eval()(IDS, MASK, states=False).pooled, out.pooled)


@pytest.mark.parametrize("name", ["dinov3", "siglip"])
def test_a_tower_made_on_the_meta_device_keeps_the_tables_that_no_file_holds(name):
    torch.manual_seed(0)
    tower = vision_tower(VISIONS[name]).eval()
    state = torch.random.get_rng_state()
    with torch.device("meta"):
        empty = vision_tower(tower.config)
    assert torch.equal(torch.random.get_rng_state(), state)
    empty.load_state_dict(tower.state_dict(), assign=True)
    torch.testing.assert_close(empty.eval()(PIXELS).pooled, tower(PIXELS).pooled)


def test_poolings_are_what_their_names_say():
    torch.manual_seed(0)
    config = VISIONS["dinov3"]
    towers = {pooling: vision_tower(config, pooling=pooling).eval() for pooling in ("cls", "mean", "pooler")}
    for tower in towers.values():
        tower.load_state_dict(towers["cls"].state_dict())
    last = towers["cls"].model(PIXELS).last_hidden_state
    assert last.shape == (2, 3 + 4, 32)  # a class token, two registers, four patches
    torch.testing.assert_close(towers["mean"](PIXELS).pooled, last[:, 3:].mean(dim=1))
    torch.testing.assert_close(towers["cls"](PIXELS).pooled, last[:, 0])
    torch.testing.assert_close(towers["pooler"](PIXELS).pooled, last[:, 0])
    text = text_tower(TEXT_MODELS["bert"], pooling="last").eval()
    states = text.model(IDS, attention_mask=MASK).last_hidden_state
    torch.testing.assert_close(text(IDS, MASK).pooled, torch.stack([states[0, 3], states[1, 2]]))
    torch.testing.assert_close(text(IDS).pooled[1], text.model(IDS).last_hidden_state[1, 3])


@pytest.mark.parametrize("name", ["clip", "siglip", "siglip2", "chinese_clip"])
def test_a_model_taken_apart_gives_the_vectors_that_it_gave_whole(name, tmp_path):
    folder = save(tmp_path / name, MODELS[name]())
    whole, parts = hf.AutoModel.from_pretrained(folder).eval(), load_dual(folder)
    side = parts.vision.image_size
    pixels = torch.linspace(-1, 1, 2 * 3 * side * side).view(2, 3, side, side).sin()
    processor = load_processor(folder, folder)
    ids, mask = processor.texts(TEXTS)
    seen, read = parts.vision.eval()(pixels).pooled, parts.text.eval()(ids, mask).pooled
    seen = parts.image_projection(seen) if parts.image_projection is not None else seen
    read = parts.text_projection(read) if parts.text_projection is not None else read
    torch.testing.assert_close(read, whole.get_text_features(input_ids=ids, attention_mask=mask).pooler_output)
    if name != "siglip2":  # whose whole model takes patches, not pictures
        torch.testing.assert_close(seen, whole.get_image_features(pixel_values=pixels).pooler_output)
    assert parts.logit_scale == pytest.approx(whole.logit_scale.item())
    assert (parts.logit_bias is None) == (not name.startswith("siglip"))
    assert (parts.image_projection is None) == parts.vision.projects == parts.text.projects


@pytest.mark.parametrize("name", ["blip", "vit"])
def test_a_model_that_pools_in_another_way_is_not_taken_apart(name, tmp_path):
    made = {"blip": lambda: blip(hf.BlipModel), "vit": MODELS["vit"]}[name]()
    with pytest.raises(ValueError, match=rf"is a {name}; a whole model to go on from is one of chinese_clip, clip"):
        load_dual(save(tmp_path / name, made))


def test_a_picture_cut_into_patches_is_the_one_that_siglip2s_own_processor_cuts(tmp_path):
    folder = save(tmp_path / "siglip2", MODELS["siglip2"]())
    tower, model = vision_tower(folder).eval(), hf.AutoModel.from_pretrained(folder).eval()
    image = pictures()[1]                                                  # 32 x 32: 16 patches
    own = hf.AutoImageProcessor.from_pretrained(folder, max_num_patches=16)([image], return_tensors="pt")
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 127.5 - 1
    torch.testing.assert_close(tower(pixels).pooled, model.vision_model(**own).pooler_output)


@pytest.mark.parametrize(("height", "width", "most"), [(37, 50, 12), (71, 20, 256), (1, 900, 64), (480, 640, 256)])
def test_shapes_within_a_number_of_patches_are_those_of_siglip2s_processor(height, width, most):
    from transformers.models.siglip2.image_processing_pil_siglip2 import get_image_size_for_max_num_patches

    assert shape_within(height, width, 16, most) == get_image_size_for_max_num_patches(height, width, 16, most)


def test_another_picture_size_interpolates_what_was_learned(tmp_path):
    tower = vision_tower(save(tmp_path / "clip", clip()), image_size=48).eval()
    assert tower.image_size == 48
    assert tower(torch.zeros(1, 3, 48, 48)).hidden_states[-1].shape == (1, 37, 32)
    assert vision_tower(tower.config).image_size == 48


def test_words_of_one_model_and_pictures_of_another_make_one_processor(tmp_path):
    hf.BertModel(hf.BertConfig(**TEXT, vocab_size=13)).save_pretrained(tmp_path / "bert")
    bert_tokenizer().save_pretrained(tmp_path / "bert")
    vision = vision_tower(VISIONS["dinov2"])
    processor = load_processor(vision.config, tmp_path / "bert", context_length=6)
    assert (processor.image_size, processor.max_text_len) == (16, 6)
    assert processor.images(pictures()).shape == (4, 3, 16, 16)
    assert processor.encode(["a red cup on the table", "a cup"]) == ([[2, 5, 6, 7, 9, 3], [2, 5, 7, 3]], 1)
    processor.save(tmp_path)
    assert type(processor).load(tmp_path).encode(["a cup"]) == ([[2, 5, 7, 3]], 0)
    with pytest.raises(ValueError, match=r"context_length 99: the text model of .*bert has positions for 16 tokens"):
        load_processor(vision.config, tmp_path / "bert", context_length=99)
    with pytest.raises(ValueError, match="has no token '<nothing>' to pad with"):
        load_processor(None, tmp_path / "bert", pad_token="<nothing>")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"size": 224, "crop_size": 224, "do_center_crop": True}, (224, 224)),          # OpenAI's CLIP, as first saved
        ({"size": 224}, (224, None)),                                                   # a ViT of that time
        ({"size": {"shortest_edge": 256}, "crop_size": CROP, "do_center_crop": True}, (224, 256)),
        ({"size": {"shortest_edge": 224}, "crop_pct": 0.875}, (224, 256)),              # ConvNeXt
        ({"size": {"shortest_edge": 384}, "crop_pct": 0.875}, (384, None)),
        ({}, (16, None)),                                                               # no file: the model's own size
    ],
)  # fmt: skip
def test_sizes_are_read_in_every_form_that_was_ever_saved(settings, expected):
    assert square(settings, read_config(VISIONS["vit"])) == expected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": {"height": 224, "width": 112}}, "pictures of 224 x 112; omma knows squares"),
        ({"size": {"shortest_edge": 224}}, "without a crop have no one size"),
        ({"size": {"height": 256, "width": 256}, "crop_size": 224, "do_center_crop": True}, "squashed .* then cropped"),
    ],
)
def test_pictures_of_no_one_square_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        square(settings, read_config(VISIONS["vit"]))


@pytest.mark.parametrize(
    ("config", "pooling"),
    [
        ({"model_type": "swin", "image_size": 32, "patch_size": 4, "embed_dim": 16, "depths": [1, 1],
          "num_heads": [2, 2], "window_size": 4}, "pooler"),
        ({"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}, "pooler"),
        ({"model_type": "ijepa", **VISION}, "mean"),
        ({"model_type": "beit", **VISION}, "cls"),
    ],
)  # fmt: skip
def test_a_vision_model_of_any_kind_becomes_one_vector_that_all_it_trains_leads_to(config, pooling):
    tower = vision_tower(config).train()
    assert tower.pooling == pooling
    assert without_gradient(tower, torch.randn(2, 3, 32, 32)) == []
    assert vision_tower(config, pooling="mean")(torch.randn(2, 3, 32, 32)).pooled.shape == (2, tower.width)


def test_what_is_no_tower_is_refused_with_those_that_are():
    with pytest.raises(ValueError, match="a bert is no vision encoder; vision towers are models such as vit, dinov2"):
        vision_tower(TEXT_MODELS["bert"])
    with pytest.raises(ValueError, match="a vit is no text encoder; text towers are models such as bert, xlm-roberta"):
        text_tower(VISIONS["vit"])
    with pytest.raises(ValueError, match="needs a model_type, such as vit or bert; this one has hidden_size"):
        vision_tower({"hidden_size": 3})
    with pytest.raises(ValueError, match="knows no model_type 'vitt'"):
        vision_tower({"model_type": "vitt"})
    with pytest.raises(ValueError, match="can't build a siglip_vision_model of this config: embed_dim must be"):
        vision_tower({**VISIONS["siglip"], "num_attention_heads": 5})
    with pytest.raises(ValueError, match="context_length 15: this bert has positions for 14 tokens"):
        text_tower(TEXT_MODELS["bert"], context_length=15)
    with pytest.raises(ValueError, match="image_size 20 does not divide by patch_size 8 of this vit"):
        vision_tower(VISIONS["vit"], image_size=20)
    with pytest.raises(ValueError, match="a siglip_vision_model has no class token; take pooling=pooler or"):
        vision_tower(VISIONS["siglip"], pooling="cls")(PIXELS)
    distil = {"model_type": "distilbert", "dim": 32, "hidden_dim": 48, "n_layers": 1, "n_heads": 2, "vocab_size": 30}
    with pytest.raises(ValueError, match="has no pooled output of its own; take pooling=cls or pooling=mean"):
        text_tower(distil, pooling="pooler")(IDS)
