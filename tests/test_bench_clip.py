"""bench/clip_step.py: texts as long as it says, a step that learns, and open_clip's loss and gradients."""

import importlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

BENCH = Path(__file__).parents[1] / "bench"


@pytest.fixture
def clip_step(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))
    return importlib.import_module("clip_step")


def tiny(config):
    return replace(config, vision=replace(config.vision, image_size=32, num_layers=2),
                   text=replace(config.text, vocab_size=50, num_layers=2))  # fmt: skip


def test_texts_are_8_to_20_tokens_in_a_context_of_77_and_end_in_the_largest_id(clip_step):
    pixels, ids = clip_step.make_batch(tiny(clip_step.CONFIG), 200)
    lengths = (ids > 0).sum(dim=1)
    assert (pixels.shape, ids.shape) == ((200, 3, 32, 32), (200, 77))
    assert (int(lengths.min()), int(lengths.max())) == (8, 20)
    assert torch.equal(ids.argmax(dim=1), lengths - 1)


def test_a_step_learns(clip_step):
    config = tiny(clip_step.CONFIG)
    torch.manual_seed(0)
    model = clip_step.CLIP(config).train()
    before = model.vision.patch_embed.weight.clone()
    step = clip_step.stepping(model, clip_step.our_loss, *clip_step.make_batch(config, 4))
    first, *_, last = [step() for _ in range(4)]
    assert first != last
    assert not torch.equal(before, model.vision.patch_embed.weight)
    assert model.logit_scale.grad is None


@pytest.mark.skipif("PEERS" not in os.environ, reason="PEERS names no folder with open_clip and torchvision")
def test_open_clips_loss_and_gradients_are_ours_and_the_proof_sees_a_difference():
    code = """
import clip_step
from dataclasses import replace
config = clip_step.CONFIG
config = replace(config, vision=replace(config.vision, image_size=32, num_layers=2),
                 text=replace(config.text, vocab_size=50, num_layers=2))
assert 0 < clip_step.prove_equal(config, 4) < 1e-5
real = clip_step.our_loss
clip_step.our_loss = lambda *inputs: 1.001 * real(*inputs)
try:
    clip_step.prove_equal(config, 4)
except AssertionError as error:
    print(error)
"""
    path = os.pathsep.join([*sys.path, os.environ["PEERS"], str(BENCH)])
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], env={**os.environ, "PYTHONPATH": path},
                          capture_output=True, text=True)  # fmt: skip
    assert "the two differ by 1.0e-03 of its largest value" in done.stdout, done.stderr
