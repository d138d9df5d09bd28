"""Encoders as programs: the same vectors at every size, and files that say all that a user needs."""

import json
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from omma.models.deploy import DeployedEncoder, export_encoder
from omma.models.preprocess import Processor, train_wordpiece
from omma.models.pretrained import Encoder, load_encoder
from omma.models.vlmo import VLMo
from omma.models.vlmo_config import VLMoConfig
from omma.models.weights import save_pretrained

TEXTS = ["a red square", "blue", "a green square on the left of a red square"]


def tiny_model(folder, **options):
    """A model folder of one layer."""
    tokenizer = train_wordpiece(TEXTS, 60)
    config = VLMoConfig(image_size=16, patch_size=8, vocab_size=tokenizer.get_vocab_size(), max_text_len=10,
                        hidden_size=16, num_layers=1, num_heads=2, num_vl_layers=0, relative_text_len=12,
                        **options)  # fmt: skip
    save_pretrained(VLMo(config), folder)
    Processor(tokenizer, 16, 10).save(folder)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("eye"), pool="max")


# docs/deploy.md runs torch.export on the shipped eye
@pytest.fixture(scope="module", params=[pytest.param("torch", marks=pytest.mark.slow), "onnx"])
def deployed(request, model, tmp_path_factory):
    if request.param == "onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    return export_encoder(model, tmp_path_factory.mktemp("out") / "programs", request.param)


@pytest.mark.slow
@pytest.mark.parametrize("format", ["torch", "onnx"])
@pytest.mark.parametrize("options", [{"positions": "relative"}, {"stem": "conv"}, {"attention": "separate"}], ids=str)
def test_every_kind_of_model_becomes_a_program(tmp_path, format, options):
    done = export_encoder(tiny_model(tmp_path / "eye", **options), tmp_path / "out", format)
    assert done.difference <= 1e-5


def test_a_program_read_from_its_file_gives_the_models_vectors(model, deployed):
    eye, program = load_encoder(model, device="cpu"), DeployedEncoder(deployed.path)
    pictures = [Image.new("RGB", (20, 12), colour) for colour in ("red", "green", "blue")]
    assert isinstance(program, Encoder)
    for batch_size in (1, 2, 64):  # a full batch, a last one that is shorter, one picture alone
        np.testing.assert_allclose(program.encode_image(pictures, batch_size), eye.encode_image(pictures), atol=1e-5)
        np.testing.assert_allclose(program.encode_text(TEXTS, batch_size), eye.encode_text(TEXTS), atol=1e-5)
    assert program.encode_text([]).shape == (0, 16)
    assert deployed.difference <= 1e-5
    assert program.fingerprint.startswith(eye.fingerprint)


def test_the_folder_says_how_words_and_pictures_become_numbers(model, deployed):
    suffix = {"torch": "pt2", "onnx": "onnx"}[deployed.format]
    names = ["deployed.json", f"image.{suffix}", "preprocessor.json", f"text.{suffix}", "tokenizer.json"]
    assert sorted(file.name for file in deployed.path.iterdir()) == names
    assert deployed.bytes == sum(file.stat().st_size for file in deployed.path.iterdir())
    settings = json.loads((deployed.path / "preprocessor.json").read_text())
    assert (settings["image_size"], settings["mean"], settings["std"], settings["max_text_len"]) == (16, 0.5, 0.5, 10)
    assert (deployed.path / "tokenizer.json").read_bytes() == (model / "tokenizer.json").read_bytes()
    with pytest.raises(ValueError, match="is there already; give a folder to make"):
        export_encoder(model, deployed.path, "torch")


def test_what_cannot_be_deployed_leaves_nothing(model, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="no format 'tflite'; there are torch, onnx"):
        export_encoder(model, tmp_path / "out", "tflite")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"has a learned router .* deploy a model with router=modality"):
        export_encoder(tiny_model(tmp_path / "eye", router="top1"), tmp_path / "out", "torch")
    shutil.rmtree(tmp_path / "eye")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ImportError, match=r"ONNX needs the package onnxscript: pip install 'omma\[onnx\]'"):
        export_encoder(model, tmp_path / "out", "onnx")
    monkeypatch.setattr("omma.models.deploy.trace", lambda *_: None)
    monkeypatch.setattr("omma.models.deploy.write", lambda *_: None)
    monkeypatch.setattr("omma.models.deploy.DeployedEncoder", lambda *_: None)
    monkeypatch.setattr("omma.models.deploy.largest_difference", lambda *_: 0.25)
    with pytest.raises(RuntimeError, match=r"gives other vectors than the model, by 2\.5e-01"):
        export_encoder(model, tmp_path / "out", "torch")
    assert list(tmp_path.iterdir()) == []


def test_another_folder_is_no_deployed_eye(model):
    with pytest.raises(ValueError, match=r"holds no deployed eye: no deployed\.json"):
        DeployedEncoder(model)
