"""kill -9 at any moment of a training, then --resume: the same weights to the bit as a run that was left alone."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from omma.training import checkpoint as checkpoints

SCRIPT = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from omma.models.vlmo import VLMoConfig
from omma.training import checkpoint, loop
from omma.training.losses import LossWeights
from omma.training.loop import TrainConfig, train

moment, step, out = sys.argv[1], int(sys.argv[2]), sys.argv[3]
model = VLMoConfig(image_size=24, patch_size=8, vocab_size=60, max_text_len=10, hidden_size=24, num_layers=2,
                   num_heads=2, num_vl_layers=1, drop_path=0.1, text_dropout=0.1)
config = TrainConfig(recipe="tiny", data={data!r}, out=out, model=model, steps=9, batch_size=8, warmup=2, save_every=3,
                     log_every=1, losses=LossWeights(itc=1.0, itm=1.0, mlm=0.25), threads=1, device="cpu")

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def at(name):
    '''Dies instead of the named call of the second checkpoint (step 6).'''
    module, attribute = {{"write": (checkpoint.torch, "save"), "sync": (checkpoint, "sync"),
                          "rename": (checkpoint.os, "rename"), "link": (checkpoint.os, "replace")}}[name]
    real, calls = getattr(module, attribute), []
    def call(*args, **kwargs):
        calls.append(args)
        linked = name == "link" and os.path.isdir(os.path.join(out, "step00000006"))
        if linked or any("step00000006" in str(a) for a in args):
            die()
        return real(*args, **kwargs)
    setattr(module, attribute, call)

if moment not in ("step", "never"):
    at(moment)
train(config, progress=False, resume=os.path.exists(os.path.join(out, "last")) or moment == "never",
      on_step=lambda s: die() if moment == "step" and s == step else None)
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory) -> Path:
    from conftest import write_coloured_table  # type: ignore[import-not-found]

    folder = tmp_path_factory.mktemp("kill")
    write_coloured_table(folder / "data")
    path = folder / "run.py"
    path.write_text(SCRIPT.format(tests=str(Path(__file__).parent.parent), data=str(folder / "data")))
    return path


def run(script: Path, moment: str, step: int, out: Path) -> int:
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, str(script), moment, str(step), str(out)], env=env, check=False).returncode


@pytest.fixture(scope="module")
def undisturbed(script, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    assert run(script, "never", 0, out) == 0
    return out


def model_bytes(run: Path) -> bytes:
    return (run / "last" / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("moment", "step"), [("step", 2), ("step", 5), ("write", 6), ("sync", 6), ("rename", 6), ("link", 6)]
)
def test_a_killed_run_continues_bit_for_bit(script, undisturbed, tmp_path, moment, step):
    out = tmp_path / "run"
    assert run(script, moment, step, out) == -signal.SIGKILL
    last = checkpoints.latest(out)
    assert (last.step if last else 0) == (0 if moment == "step" and step == 2 else 3)
    assert run(script, "never", 0, out) == 0
    assert checkpoints.latest(out).step == 9
    assert model_bytes(out) == model_bytes(undisturbed)
    whole, again = (checkpoints.read_metrics(p / "metrics.jsonl") for p in (undisturbed, out))
    assert [(r["step"], r["loss"]) for r in again] == [(r["step"], r["loss"]) for r in whole]
    assert not list(out.glob(".new-*"))
