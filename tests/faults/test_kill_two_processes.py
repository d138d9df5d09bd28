"""kill -9 of a CLIP's training on two processes, then --resume: the same weights to the bit as one left alone."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gloo import on
from omma.config import apply
from omma.models.clip import NANO
from omma.models.weights import read_tensors
from omma.training import checkpoint as checkpoints
from omma.training.clip_config import ClipTrainConfig
from omma.training.distributed import processes
from omma.training.loop import train

TINY = apply(NANO, ["vision.image_size=24", "vision.patch_size=8", "vision.stem=patch", "vision.hidden_size=32",
                    "vision.num_layers=2", "vision.num_heads=2", "vision.drop_path=0.1", "text.hidden_size=32",
                    "text.num_layers=2", "text.num_heads=2", "text.vocab_size=60", "text.max_text_len=10",
                    "embed_dim=16"])  # fmt: skip


def killed(config: ClipTrainConfig) -> None:
    def on_step(step: int) -> None:
        if step == 3 and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)

    train(replace(config, out=config.out + "-cut"), progress=False, on_step=on_step)


def resumed_beside_a_whole_one(config: ClipTrainConfig) -> None:
    with processes(torch.device("cpu")):
        train(config, progress=False)
        train(replace(config, out=config.out + "-cut"), progress=False, resume=True)


def state(run: str) -> dict[str, torch.Tensor]:
    last = checkpoints.latest(run)
    assert last
    assert last.step == 5
    stored = checkpoints.read_state(last)
    moments = {f"{i}.{k}": v for i, own in stored["optimizer"]["state"].items() for k, v in own.items()}
    average = {f"average.{k}": v for k, v in read_tensors(last.path / "model.safetensors").items()}
    return stored["model"] | moments | average


@pytest.mark.slow  # test_kill_training.py kills one process, and test_distributed.py goes on with two
@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked and killed")
def test_a_killed_run_of_two_processes_continues_bit_for_bit(coloured_table, tmp_path):
    """With what could go wrong there: an average, patches and layers dropped at random, a batch in chunks."""
    config = ClipTrainConfig(data=str(coloured_table), out=str(tmp_path / "run"), model=TINY, steps=5, batch_size=8,
                             warmup=1, save_every=2, chunk=2, patch_dropout=0.4, threads=1, device="cpu",
                             workers=0)  # fmt: skip
    ends = on(2, killed, Path(tmp_path / "killed"), config, fails=True)
    assert [code for code, _ in ends] == [3, -signal.SIGKILL]
    last = checkpoints.latest(config.out + "-cut")
    assert last
    assert last.step == 2
    on(2, resumed_beside_a_whole_one, tmp_path / "resumed", config)
    whole, again = state(config.out), state(config.out + "-cut")
    assert whole.keys() == again.keys()
    assert all(torch.equal(whole[k], again[k]) for k in whole)
