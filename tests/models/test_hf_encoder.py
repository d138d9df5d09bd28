"""Eyes of others: the vectors that transformers computes of the same folder, wherever an encoder stands."""

import json
import shutil

import numpy as np
import pytest
import torch
import transformers as hf
from PIL import Image
from tiny_hf import MODELS, TEXTS, blip, clip, dinov3, pictures, save, siglip, vit

import omma
from omma.models.hf_encoder import HFEncoder
from omma.models.pretrained import Encoder, Matcher, load_encoder

READERS = ["clip", "siglip", "siglip2", "chinese_clip", "blip"]
SEERS = ["dinov2", "dinov2_with_registers", "vit", "convnext"]


def same(found, expected, atol=1e-4):
    np.testing.assert_allclose(found, expected, atol=atol, rtol=0)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """name -> a folder of that model, made when it is first asked for."""
    made = {}

    def folder(name):
        if name not in made:
            made[name] = save(tmp_path_factory.mktemp("models") / name, MODELS[name]())
        return made[name]

    return folder


@pytest.fixture(scope="module")
def eyes(folders):
    made = {}
    return lambda name: made.setdefault(name, load_encoder(folders(name), device="cpu"))


def own_pixels(folder):
    """The pictures as the folder's own image processor gives them."""
    processor = hf.AutoImageProcessor.from_pretrained(folder)
    return processor([image.convert("RGB") for image in pictures()], return_tensors="pt")


def own_words(folder, texts):
    """The texts as the folder's own tokenizer gives them, padded as the family is used."""
    tokenizer = hf.PreTrainedTokenizerFast if folder.name == "siglip" else hf.AutoTokenizer
    padding = "max_length" if folder.name.startswith("siglip") else True
    words = tokenizer.from_pretrained(folder)
    return words(texts, padding=padding, truncation=True, return_tensors="pt")


def unit(features):
    features = getattr(features, "pooler_output", features)
    features = features.flatten(1)
    return torch.nn.functional.normalize(features, dim=-1).detach().numpy()


@pytest.mark.parametrize("name", ["clip", "siglip", "siglip2", "chinese_clip"])
def test_pictures_and_texts_get_the_features_that_transformers_gives_them(name, folders, eyes):
    folder, eye = folders(name), eyes(name)
    model = hf.AutoModel.from_pretrained(folder).eval()
    same(eye.encode_image(pictures()), unit(model.get_image_features(**own_pixels(folder))))
    same(eye.encode_text(TEXTS), unit(model.get_text_features(**own_words(folder, TEXTS))))
    assert eye.logit_scale == pytest.approx(model.logit_scale.exp().item())
    assert hasattr(eye, "logit_bias") == name.startswith("siglip")


def test_blip_compares_and_looks_twice_as_transformers_does(folders, eyes):
    folder, eye = folders("blip"), eyes("blip")
    model = hf.BlipForImageTextRetrieval.from_pretrained(folder).eval()
    pixels, words = own_pixels(folder), own_words(folder, TEXTS)
    seen, read = eye.encode_image(pictures()), eye.encode_text(TEXTS)
    cosines = model(**words, **pixels, use_itm_head=False).itm_score.detach().numpy()
    same(seen @ read.T, cosines)
    odds = model(**words, **pixels).itm_score.softmax(dim=-1)[:, 1].detach().numpy()
    same(eye.match(pictures(), TEXTS), odds)
    one = pictures()[0]
    same(eye.match([one, one], TEXTS[:2])[0], odds[0])  # a picture shown twice
    assert isinstance(eye, Matcher)
    with pytest.raises(ValueError, match="1 pictures and 4 texts; they go one by one"):
        eye.match([one], TEXTS)


def test_the_blip_that_has_a_pooler_and_a_temperature_is_its_own_kind(tmp_path):
    folder = save(tmp_path / "blip", blip(hf.BlipModel))
    eye, model = load_encoder(folder, device="cpu"), hf.BlipModel.from_pretrained(folder).eval()
    same(eye.encode_image(pictures()), unit(model.get_image_features(**own_pixels(folder))))
    same(eye.encode_text(TEXTS), unit(model.get_text_features(**own_words(folder, TEXTS))))
    assert not hasattr(eye, "match")


@pytest.mark.parametrize("name", SEERS)
def test_eyes_without_words_give_the_models_own_pooled_vector_and_say_that_they_dont_read(name, folders, eyes):
    folder, eye = folders(name), eyes(name)
    model = hf.AutoModel.from_pretrained(folder).eval()
    same(eye.encode_image(pictures()), unit(model(**own_pixels(folder))))
    with pytest.raises(ValueError, match=rf"{name} is a {name}, which sees pictures and reads no texts; .*clip"):
        eye.encode_text(TEXTS)


def test_dinov3_reads_its_settings_without_the_processor_that_needs_torchvision(tmp_path):
    folder = save(tmp_path / "dinov3", dinov3())
    file = {"image_processor_type": "DINOv3ViTImageProcessorFast", "size": {"height": 24, "width": 24}, "resample": 2,
            "image_mean": [0.43, 0.411, 0.296], "image_std": [0.213, 0.156, 0.143], "do_center_crop": None}  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(file))
    eye, model = load_encoder(folder, device="cpu"), hf.AutoModel.from_pretrained(folder).eval()
    mean, std = (torch.tensor(file[k]).view(3, 1, 1) for k in ("image_mean", "image_std"))
    seen = []
    for image in pictures():  # to 0..1 first, then in size, unrounded, as torchvision's resize computes it
        whole = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None] / 255
        fitted = torch.nn.functional.interpolate(whole, size=(24, 24), mode="bilinear", antialias=True)
        seen.append((fitted[0] - mean) / std)
    same(eye.encode_image(pictures()), unit(model(torch.stack(seen))))
    same(eye.processor.images(pictures()), torch.stack(seen), atol=1e-5)


def test_a_vit_saved_with_a_classifier_gives_its_class_token_since_it_has_no_pooler(tmp_path):
    folder = save(tmp_path / "vit", vit(hf.ViTForImageClassification))
    eye, model = load_encoder(folder, device="cpu"), hf.ViTForImageClassification.from_pretrained(folder).eval()
    token = model.vit(**own_pixels(folder)).last_hidden_state[:, 0]
    same(eye.encode_image(pictures()), unit(token))


# ---------------------------------------------------------------------------------------------------------- protocol
@pytest.mark.parametrize("name", READERS + SEERS)
def test_every_eye_keeps_the_protocol(name, eyes):
    eye = eyes(name)
    assert isinstance(eye, Encoder)
    whole = eye.encode_image(pictures())
    assert whole.shape == (4, eye.embed_dim)
    assert whole.dtype == np.float32
    same(np.linalg.norm(whole, axis=1), 1)
    same(eye.encode_image(pictures(), batch_size=3), whole)
    assert eye.encode_image([]).shape == (0, eye.embed_dim)
    assert len({vector.tobytes() for vector in whole}) == 4
    if eye.reads:
        texts = eye.encode_text(TEXTS)
        assert texts.shape == (4, eye.embed_dim)
        same(eye.encode_text(TEXTS, batch_size=1), texts)
        assert eye.encode_text([]).shape == (0, eye.embed_dim)


@pytest.mark.parametrize("name", ["clip", "siglip2", "dinov2", "convnext", "blip"])
def test_each_layer_is_the_one_that_transformers_returns(name, folders, eyes):
    folder, eye = folders(name), eyes(name)
    whole = type(eye.model).from_pretrained(folder).eval()
    out = getattr(whole, "vision_model", whole)(**own_pixels(folder), output_hidden_states=True)
    found = eye.hidden_states(pictures(), (0, -1), batch_size=3)
    first, last = out.hidden_states[0], out.hidden_states[-1]
    if first.dim() == 4:
        first, last = (x.flatten(2).transpose(1, 2) for x in (first, last))
    same(found.layers[0], first.detach())
    same(found.layers[len(out.hidden_states) - 1], last.detach())
    same(found.pooled, out.pooler_output.flatten(1).detach())
    assert found.mask.shape == found.layers[0].shape[:2] or name == "convnext"
    assert (found.mask.sum(axis=1) < 12).any() == (name == "siglip2")  # padded where pictures keep their shapes
    with pytest.raises(ValueError, match=r"no layer 3; .* has layers 0 to 2"):
        eye.hidden_states(pictures(), (3,))


def test_the_fingerprint_follows_weights_and_preprocessing_and_nothing_else(folders, eyes, tmp_path):
    copy = shutil.copytree(folders("clip"), tmp_path / "renamed")
    file = copy / "preprocessor_config.json"
    (copy / "processor_config.json").write_text(json.dumps({"image_processor": json.loads(file.read_text())}))
    file.unlink()  # transformers 5 puts it there
    assert load_encoder(copy, device="cpu").fingerprint == eyes("clip").fingerprint
    file = copy / "processor_config.json"
    file.write_text(file.read_text().replace('"resample": 3', '"resample": 2'))
    assert load_encoder(copy, device="cpu").fingerprint != eyes("clip").fingerprint
    assert load_encoder(save(tmp_path / "other", clip(), seed=1), device="cpu").fingerprint != eyes("clip").fingerprint
    assert load_encoder(folders("clip"), device="cpu", precision="bf16").fingerprint != eyes("clip").fingerprint


def test_texts_longer_than_the_context_are_cut_as_transformers_cuts_them(folders, eyes):
    long = ["a red cup on the table " * 20]
    model = hf.AutoModel.from_pretrained(folders("clip")).eval()
    expected = unit(model.get_text_features(**own_words(folders("clip"), long)))
    same(eyes("clip").encode_text(long), expected)
    assert eyes("clip").processor.cut_texts([*long, "a cup"]) == 1


def test_bfloat16_is_near_the_full_precision(folders, eyes):
    half = load_encoder(folders("clip"), device="cpu", precision="bf16")
    exact = eyes("clip").encode_image(pictures())
    found = half.encode_image(pictures())
    assert found.dtype == np.float32
    assert 0 < np.abs(found - exact).max() < 0.05


# ---------------------------------------------------------------------------------------------------------- bad input
def test_a_name_that_is_no_folder_says_what_was_tried_and_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    tried = r"no model 'someone/an-eye': no folder of this name is here, and as a name on the Hugging Face hub .*"
    with pytest.raises(ValueError, match=tried + "hf download someone/an-eye --local-dir an-eye"):
        load_encoder("someone/an-eye")
    (tmp_path / "runs").mkdir()
    with pytest.raises(ValueError, match="no encoder 'runs/vl': no folder of this name"):  # beside runs of one's own
        load_encoder("runs/vl")


def test_a_name_in_the_hubs_cache_is_found_without_a_network(folders, eyes, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    kept = tmp_path / "cache" / "models--someone--an-eye"
    shutil.copytree(folders("clip"), kept / "snapshots" / "abc")
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    eye = load_encoder("someone/an-eye", device="cpu")
    assert eye.name == "an-eye"
    assert eye.fingerprint == eyes("clip").fingerprint


def test_what_is_no_eye_is_refused_with_the_reason(tmp_path, folders):
    hf.GPT2Config(n_layer=1).save_pretrained(tmp_path / "gpt2")
    with pytest.raises(ValueError, match="gpt2 is a gpt2; eyes are blip, chinese_clip, clip, siglip, siglip2, and"):
        load_encoder(tmp_path / "gpt2")
    short = shutil.copytree(folders("clip"), tmp_path / "short")
    (short / "model.safetensors").write_bytes((short / "model.safetensors").read_bytes()[:500])
    with pytest.raises(ValueError, match="short can't be read as a Hugging Face model"):
        load_encoder(short)
    save(tmp_path / "captions", blip(hf.BlipForConditionalGeneration))
    with pytest.raises(ValueError, match=r"the weights of .*captions lack .* BlipModel needs; they are those"):
        load_encoder(tmp_path / "captions")
    with pytest.raises(ValueError, match="prompts are learned on models of omma"):
        load_encoder(folders("clip"), prompts=tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", "{", "can't be read as a tokenizer: Expecting"),
        ("tokenizer.json", '{"model": {}}', "can't be read as a tokenizer"),
        ("tokenizer.json", None, r"has no vocabulary, such as a tokenizer\.json; copy the model's tokenizer files"),
        ("preprocessor_config.json", "{", r"preprocessor_config\.json can't be read as an object of JSON: Expecting"),
        ("preprocessor_config.json", "[1]", r"preprocessor_config\.json can't be read as an object of JSON"),
        ("preprocessor_config.json", '{"do_resize": false}', "these pictures are cut out of what is given, unscaled"),
        ("preprocessor_config.json", '{"size": "big"}', "a size of 'big'; give a number of pixels"),
    ],
)
def test_a_file_that_is_missing_or_damaged_is_named(name, content, message, folders, tmp_path):
    copy = shutil.copytree(folders("clip"), tmp_path / "copy")
    (copy / name).unlink()
    if content is not None:
        (copy / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        load_encoder(copy)


def test_pickled_and_divided_weights_are_read_as_one_file_is(folders, eyes, tmp_path):
    model = hf.CLIPModel.from_pretrained(folders("clip"))
    for name in ("bin", "divided"):
        copy = shutil.copytree(folders("clip"), tmp_path / name)
        (copy / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "bin" / "pytorch_model.bin")
    model.save_pretrained(tmp_path / "divided", max_shard_size="60KB")
    assert len(list((tmp_path / "divided").glob("*.safetensors"))) > 1
    for name in ("bin", "divided"):
        assert load_encoder(tmp_path / name, device="cpu").fingerprint == eyes("clip").fingerprint
    (tmp_path / "bin" / "pytorch_model.bin").write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"bin can't be read as .* its \.bin file is damaged"):
        load_encoder(tmp_path / "bin")


def test_a_siglip_reads_full_length_texts_whatever_its_tokenizer_says_of_masks(tmp_path):
    folder = save(tmp_path / "siglip", siglip())
    expected = load_encoder(folder, device="cpu").encode_text(TEXTS)
    file = folder / "tokenizer_config.json"
    names = {"model_input_names": ["input_ids", "attention_mask"]}
    file.write_text(json.dumps(json.loads(file.read_text()) | names))
    eye = load_encoder(folder, device="cpu")
    same(eye.encode_text(TEXTS), expected)
    same(eye.encode_text(TEXTS, batch_size=1), expected)


def test_a_tokenizer_without_padding_is_named_with_the_way_out(tmp_path):
    folder = save(tmp_path / "siglip", siglip())
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    del settings["pad_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=r"the tokenizer of .*siglip has no pad token, .*such as pad_token='</s>'"):
        load_encoder(folder)


# ---------------------------------------------------------------------------------------------------------- places
def test_the_command_line_embeds_searches_and_measures_with_a_clip(folders, coloured_table, capsys):
    from omma.cli import run

    place = str(folders("clip"))
    assert run(["embed", str(coloured_table), "--encoder", place, "--device", "cpu", "--json"]) == 0
    asked = ["search", str(coloured_table), "a red cup", "--encoder", place, "-k", "3", "--device", "cpu", "--json"]
    assert run(asked) == 0
    hits = json.loads(capsys.readouterr().out.strip().splitlines()[-1])["hits"]
    eye, table = load_encoder(place, device="cpu"), omma.Table.open(coloured_table)
    assert [hit["id"] for hit in hits] == [hit.id for hit in omma.search(table, "a red cup", encoder=eye, k=3)]
    assert run(["eval", place, "retrieval", "--data", str(coloured_table), "--device", "cpu", "--json"]) == 0
    report = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert report["model"] == "clip"
    assert run(["explain", place, str(coloured_table), "a cup"]) == 2


def test_an_eye_without_words_embeds_a_table_and_is_refused_where_words_are_asked(folders, coloured_table, capsys):
    from omma.cli import run

    place = str(folders("dinov2"))
    assert run(["embed", str(coloured_table), "--encoder", place, "--device", "cpu", "--json"]) == 0
    assert run(["eval", place, "retrieval", "--data", str(coloured_table), "--device", "cpu", "--json"]) == 2
    assert "dinov2 is a dinov2, which sees pictures and reads no texts" in capsys.readouterr().err


def test_pictures_of_every_mode_are_seen_as_their_colours(eyes):
    red = Image.new("RGB", (40, 30), "red")
    vectors = eyes("clip").encode_image([red, red.convert("RGBA"), red.convert("P")])
    same(vectors, np.repeat(vectors[:1], 3, axis=0))
    assert isinstance(eyes("clip"), HFEncoder)
