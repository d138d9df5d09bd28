"""Folders for sentence-transformers: its own class opens them and gives the eye's vectors."""

import json
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_hf import MODELS, TEXTS, pictures, save

from omma.models.clip import CLIP, CLIPConfig
from omma.models.deploy import export_encoder
from omma.models.preprocess import Processor, train_wordpiece
from omma.models.pretrained import CLIPEncoder, Encoder, VLMoEncoder, load_encoder
from omma.models.sentence import Eye
from omma.models.towers import TextConfig, VisionConfig
from omma.models.vlmo import VLMo
from omma.models.vlmo_config import VLMoConfig
from omma.models.weights import save_pretrained

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its own dependencies, on import
    from sentence_transformers import SentenceTransformer

SIZES = {"hidden_size": 24, "num_layers": 1, "num_heads": 2}


def vlmo(folder):
    tokenizer = train_wordpiece(TEXTS, 60)
    config = VLMoConfig(image_size=16, patch_size=8, vocab_size=tokenizer.get_vocab_size(), max_text_len=10,
                        num_vl_layers=0, **SIZES)  # fmt: skip
    save_pretrained(VLMo(config), folder)
    Processor(tokenizer, 16, 10).save(folder)
    return folder


def clip(folder):
    tokenizer = train_wordpiece(TEXTS, 60)
    text = TextConfig(vocab_size=tokenizer.get_vocab_size(), max_text_len=10, **SIZES)
    vision = VisionConfig(image_size=16, patch_size=8, **SIZES)
    config = CLIPConfig(vision=vision, text=text, embed_dim=20, logit_bias=True)
    save_pretrained(CLIP(config), folder)
    Processor(tokenizer, 16, 10, (0.4, 0.5, 0.6), (0.2, 0.3, 0.2), resample="bilinear", shortest_side=18).save(folder)
    return folder


MAKERS = {"vlmo": vlmo, "clip": clip, **{f"hf-{name}": lambda folder, name=name: save(folder, MODELS[name]())
                                         for name in ("siglip2", "dinov2")}}  # fmt: skip


@pytest.mark.parametrize("name", MAKERS)
def test_sentence_transformers_gives_the_vectors_of_the_eye(name, tmp_path):
    torch.manual_seed(0)
    place = MAKERS[name](tmp_path / "eye")
    done = export_encoder(place, tmp_path / "out", "sentence-transformers")
    assert done.difference <= 1e-5
    eye, model = load_encoder(place, device="cpu"), SentenceTransformer(
        str(done.path), device="cpu", trust_remote_code=True, local_files_only=True)  # fmt: skip
    np.testing.assert_allclose(model.encode(pictures()), eye.encode_image(pictures()), atol=1e-5)
    assert model.get_embedding_dimension() == eye.embed_dim
    if name == "hf-dinov2":
        with pytest.raises(ValueError, match="Modality 'text' is not supported"):
            model.encode(TEXTS)
        return
    np.testing.assert_allclose(model.encode(TEXTS), eye.encode_text(TEXTS), atol=1e-5)
    cosines = eye.encode_image(pictures()) @ eye.encode_text(TEXTS).T
    found = model.similarity(model.encode(pictures()), model.encode(TEXTS))
    np.testing.assert_allclose(found, cosines, atol=1e-4)
    assert model.encode("a red cup").shape == (eye.embed_dim,)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sentence")
    return export_encoder(clip(folder / "eye"), folder / "out", "sentence-transformers").path


def test_a_folder_says_what_opens_it_and_stays_a_model_folder(exported, tmp_path):
    assert json.loads((exported / "modules.json").read_text())[0]["type"] == "omma.models.sentence.Eye"
    assert load_encoder(exported, device="cpu").fingerprint == load_encoder(exported.parent / "eye").fingerprint
    with pytest.raises(ValueError, match="trust_remote_code=True"):                # asked for by its version 6
        SentenceTransformer(str(exported), device="cpu", local_files_only=True)
    model = SentenceTransformer(str(exported), device="cpu", trust_remote_code=True, local_files_only=True)
    model.save(str(tmp_path / "again"), create_model_card=False)
    again = SentenceTransformer(str(tmp_path / "again"), device="cpu", trust_remote_code=True, local_files_only=True)
    np.testing.assert_array_equal(again.encode(TEXTS), model.encode(TEXTS))


def test_pictures_come_as_files_and_arrays_too_and_nothing_else_is_taken_for_one(exported, tmp_path):
    eye = Eye.load(str(exported))
    image = Image.new("RGBA", (30, 20), "red")
    image.save(tmp_path / "red.png")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    forms = [image, str(tmp_path / "red.png"), np.asarray(image.convert("RGB")), {"image": image}]
    pixels = eye.preprocess(forms)["pixel_values"]
    torch.testing.assert_close(pixels, pixels[:1].expand_as(pixels))
    assert eye.preprocess(["red.png of nothing"], prompt="a picture of ")["input_ids"].shape[0] == 1
    with pytest.raises(ValueError, match=r"bad\.png can't be used as a picture: "):
        eye.preprocess([str(tmp_path / "bad.png")])
    with pytest.raises(ValueError, match="a batch of Image, str; give texts alone or pictures alone"):
        eye.preprocess([image, "a cup"])
    with pytest.raises(ValueError, match="a batch of int; give texts alone or pictures alone"):
        eye.preprocess([3])
    with pytest.raises(ValueError, match="no folder nothing; get it first: hf download nothing"):
        Eye.load("nothing")


@pytest.mark.parametrize("name", ["clip", "hf-dinov2"])
def test_what_it_has_learned_since_is_saved_too(name, tmp_path):
    place = MAKERS[name](tmp_path / "eye")
    if name == "hf-dinov2":  # in several files, as large models come
        load_encoder(place, device="cpu").model.save_pretrained(place, max_shard_size="20KB")
        (place / "model.safetensors").unlink()
    eye = Eye.load(str(export_encoder(place, tmp_path / "out", "sentence-transformers").path))
    before = eye(eye.preprocess(pictures()))["sentence_embedding"]
    for weight in eye.parameters():
        weight.data += 0.1 * torch.rand_like(weight)
    after = eye(eye.preprocess(pictures()))["sentence_embedding"]
    eye.save(str(tmp_path / "again"))
    again = Eye.load(str(tmp_path / "again"))
    torch.testing.assert_close(again(again.preprocess(pictures()))["sentence_embedding"], after)
    assert (after - before).abs().max() > 1e-3


def test_weights_that_are_pickled_are_not_passed_on(tmp_path):
    place = save(tmp_path / "eye", MODELS["dinov2"]())
    torch.save(load_encoder(place, device="cpu").model.state_dict(), place / "pytorch_model.bin")
    (place / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="holds no safetensors weights; save it anew with transformers'"):
        export_encoder(place, tmp_path / "out", "sentence-transformers")
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------------------------------------------------- CLIP
def test_a_clip_of_ones_own_is_an_eye_like_any_other(tmp_path):
    eye = load_encoder(clip(tmp_path / "last"), device="cpu")
    assert isinstance(eye, Encoder)
    assert isinstance(eye, CLIPEncoder)
    assert eye.name == tmp_path.name                                       # a run's checkpoint bears the run's name
    vectors = eye.encode_image(pictures(), batch_size=3)
    assert vectors.shape == (4, 20)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert eye.encode_text(TEXTS).shape == (4, 20)
    assert eye.logit_bias == -10
    assert eye.logit_scale == pytest.approx(10)
    with pytest.raises(ValueError, match=r"prompts are learned on a VLMo; .* is a CLIP"):
        load_encoder(tmp_path / "last", prompts=tmp_path)
    with pytest.raises(ValueError, match="is no VLMo, and only VLMos become programs; --format sentence-transformers"):
        export_encoder(tmp_path / "last", tmp_path / "out", "torch")
    settings = json.loads((tmp_path / "last" / "preprocessor.json").read_text())
    (tmp_path / "last" / "preprocessor.json").write_text(json.dumps({**settings, "max_text_len": 99}))
    with pytest.raises(ValueError, match="lets texts have 99 tokens, but the model holds 10"):
        load_encoder(tmp_path / "last")


def test_settings_that_are_new_leave_the_fingerprints_of_older_models_as_they_were():
    assert load_encoder("vlmo-nano", device="cpu").fingerprint == "69f5d65782226378"
    assert isinstance(load_encoder("vlmo-nano", device="cpu"), VLMoEncoder)
