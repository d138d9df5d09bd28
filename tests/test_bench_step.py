"""bench/vlmo_step.py: the published form of the pre-training step and ours are the same mathematics."""

import importlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch


@pytest.fixture
def vlmo_step(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "bench"))
    return importlib.import_module("vlmo_step")


@pytest.mark.parametrize(
    "options",
    [
        {"positions": "relative"},
        {"pool": "max"},
        {"num_vl_layers": 0},  # the last layer splits its experts by modality
        {"attention": "separate"},
        {"router": "top1"},
    ],
    ids=lambda options: "".join(options),
)
def test_the_published_step_and_ours_have_equal_losses_and_gradients(vlmo_step, options):
    sizes = {"image_size": 32, "vocab_size": 50, "hidden_size": 32, "num_heads": 2, "num_layers": 2, "num_vl_layers": 1}
    config = replace(vlmo_step.CONFIG, **sizes | options)
    assert 0 < vlmo_step.prove_equal(config, vlmo_step.make_batch(config, 6)) < 1e-5


def test_the_proof_sees_a_difference(vlmo_step, monkeypatch):
    config = replace(vlmo_step.CONFIG, image_size=32, vocab_size=50, hidden_size=32, num_heads=2, num_layers=2)
    real = vlmo_step.our_losses
    monkeypatch.setattr(vlmo_step, "our_losses", lambda *args: real(*args) | {"mlm": real(*args)["mlm"] * 1.001})
    with pytest.raises(AssertionError, match=r"mlm: the two forms differ by .*e-0[34]"):
        vlmo_step.prove_equal(config, vlmo_step.make_batch(config, 6))


def test_the_published_form_is_padded_and_ours_is_not(vlmo_step):
    batch = vlmo_step.make_batch(vlmo_step.CONFIG, 12)
    wide = vlmo_step.padded(batch, 40)
    assert (batch.input_ids.shape, wide.input_ids.shape) == ((12, 24), (12, 40))
    assert torch.equal(batch.attention_mask.sum(1), wide.attention_mask.sum(1))
    assert (int(batch.attention_mask.sum(1).min()), int(batch.attention_mask.sum(1).max())) == (8, 18)
