"""The eye and the VLM that come with omma: they are there, small, say where they are from, and see."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import omma
from omma.decode import open_picture
from omma.models.weights import SHIPPED, model_folder, read_tensors, shipped
from omma.scenes.sources import write_scenes
from omma.training.chat import read_questions
from omma.training.recipes import EYE
from omma.training.setup import build
from omma.training.vlm_eval import answered

MOST = 12_000_000  # bytes of weights


@pytest.fixture(scope="module")
def eye():
    return omma.load_encoder("vlmo-nano", device="cpu")


def test_it_lies_in_the_package_and_is_small(eye):
    assert shipped() == ["vlm-nano", "vlmo-nano"]
    assert (shipped("vlmo"), shipped("vlm")) == (["vlmo-nano"], ["vlm-nano"])
    folder = model_folder("vlmo-nano")
    assert folder.is_relative_to(Path(omma.__file__).parent)
    assert (folder / "model.safetensors").stat().st_size <= MOST
    assert {str(value.dtype) for value in read_tensors(folder / "model.safetensors").values()} == {"torch.float16"}
    assert eye.name == "vlmo-nano"


def test_a_training_starts_from_it_by_its_name(tiny_run):
    config = tiny_run()
    model, processor, said = build(replace(config, init="vlmo-nano", model=EYE), omma.Table.open(config.data))
    stored = read_tensors(model_folder("vlmo-nano") / "model.safetensors")
    assert set(stored) == set(model.state_dict())
    assert all(torch.equal(value, stored[name].float()) for name, value in model.state_dict().items())
    assert processor.vocab_size == len(stored["word_embed.weight"])
    assert "tensors from vlmo-nano" in said


def test_its_card_says_what_it_was_trained_on_how_and_with_what_result():
    card = (SHIPPED / "vlmo-nano" / "README.md").read_text()
    sources = ("Twemoji", "CC-BY 4.0", "Unicode")
    for said in (*sources, "omma train eye-", "seed", "at commit", "| itm |", "| itc |", "held out", "recall@10"):
        assert said in card, said


def test_it_finds_scenes_that_it_never_saw_by_what_is_in_them(eye, tmp_path):
    pictures, _ = write_scenes(tmp_path / "scenes", pictures=100, pairs=0, seed=987_654, check=False)
    rows = pictures.read(["bytes", "captions"]).to_pylist()
    texts = [max((c["text"] for c in row["captions"]), key=lambda text: len(text.split())) for row in rows]
    scores = eye.encode_image([open_picture(row).image for row in rows]) @ eye.encode_text(texts).T
    assert (scores.argmax(axis=0) == np.arange(100)).mean() > 0.75
    assert (scores.argmax(axis=1) == np.arange(100)).mean() > 0.75


def test_its_fusion_head_tells_what_is_in_a_picture_from_what_is_not(eye, tmp_path):
    write_scenes(tmp_path / "scenes", pictures=0, pairs=12, seed=876_543, check=False)
    report = omma.evaluate(eye, "patterns", data=tmp_path / "scenes")
    found = report.metrics["scores"]["itm"]["model"]["patterns"]
    assert all(found[name]["image"]["value"] > 0.5 for name in ("orientation", "colour", "viewpoint")), found
    assert json.loads((model_folder("vlmo-nano") / "config.json").read_text())["model"] == "vlmo"


@pytest.fixture(scope="module")
def vlm():
    return omma.load_vlm("vlm-nano", device="cpu")


def test_the_vlm_lies_in_the_package_and_its_card_says_how_it_was_made(vlm):
    folder = model_folder("vlm-nano")
    assert folder.is_relative_to(Path(omma.__file__).parent)
    assert (folder / "model.safetensors").stat().st_size <= 16_000_000
    assert {str(value.dtype) for value in read_tensors(folder / "model.safetensors").values()} == {"torch.float16"}
    assert vlm.name == "vlm-nano"
    assert vlm.chat.tokens == 196
    card = (folder / "README.md").read_text()
    for said in ("omma train vlm-eye", "omma train vlm-reader", "omma train vlm-nano", "seed 0", "at commit", "blind"):
        assert said in card, said


def test_the_vlm_answers_what_a_blind_one_cannot(vlm, tmp_path):
    _, items = write_scenes(tmp_path / "scenes", pictures=30, pairs=0, size=112, seed=876_543, questions=8, check=False)
    asked = read_questions(items, None)
    right, blind = (answered(vlm.model, vlm.processor, asked, blank) for blank in (False, True))
    assert right.mean() > 0.7
    assert blind.mean() < 0.5
