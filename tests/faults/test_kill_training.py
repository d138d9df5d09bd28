"""kill -9 at any moment of a training, then --resume: the same weights to the bit as a run that was left alone."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from omma.training import checkpoint as checkpoints

SCRIPT = """
import json, os, signal, sys
sys.path.insert(0, {tests!r})
from omma.models.vlmo import VLMoConfig
from omma.training import checkpoint, loop
from omma.training.losses import LossWeights
from omma.training.config import TrainConfig
from omma.training.loop import train
import torch._dynamo  # an optimizer imports it late: once here, and not in each fork

model = VLMoConfig(image_size=24, patch_size=8, vocab_size=60, max_text_len=10, hidden_size=24, num_layers=2,
                   num_heads=2, num_vl_layers=1, drop_path=0.1, text_dropout=0.1)

def config(out):
    losses = LossWeights(itc=1.0, itm=1.0, mlm=0.25)
    return TrainConfig(recipe="tiny", data={data!r}, out=out, model=model, steps=5, batch_size=8, warmup=2,
                       save_every=2, log_every=1, losses=losses, threads=1, device="cpu")

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def at(name, out):
    '''Dies instead of the named call of the second checkpoint (step 4).'''
    module, attribute = {{"write": (checkpoint.torch, "save"), "sync": (checkpoint, "sync"),
                          "rename": (checkpoint.os, "rename"), "link": (checkpoint.os, "replace")}}[name]
    real, calls = getattr(module, attribute), []
    def call(*args, **kwargs):
        calls.append(args)
        linked = name == "link" and os.path.isdir(os.path.join(out, "step00000004"))
        if linked or any("step00000004" in str(a) for a in args):
            die()
        return real(*args, **kwargs)
    setattr(module, attribute, call)

def run(moment, step, out):
    if moment not in ("step", "never"):
        at(moment, out)
    train(config(out), progress=False, resume=os.path.exists(os.path.join(out, "last")) or moment == "never",
          on_step=lambda s: die() if moment == "step" and s == step else None)

def forked(*arguments):
    child = os.fork()                        # nothing was computed yet, so there are no threads to lose
    if child == 0:
        try:
            run(*arguments)
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def last(out):
    found = checkpoint.latest(out)
    return found.step if found else 0

for moment, step, out in json.loads(sys.argv[1]):
    codes = [forked(moment, step, out)]
    steps = [last(out)]
    if moment != "never":
        codes.append(forked("never", 0, out))
        steps.append(last(out))
    print(json.dumps([codes, steps]), flush=True)
"""
MOMENTS = [("step", 1), ("step", 3), ("write", 4), ("sync", 4), ("rename", 4), ("link", 4)]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("kill")


@pytest.fixture(scope="module")
def ended(place) -> dict[tuple[str, int], list[list[int]]]:
    """(moment, step) -> exit codes and last saved steps, after the kill and after the resume; all from one process."""
    from conftest import write_coloured_table  # type: ignore[import-not-found]

    write_coloured_table(place / "data")
    script = SCRIPT.format(tests=str(Path(__file__).parent.parent), data=str(place / "data"))
    runs = [("never", 0), *MOMENTS]
    plan = json.dumps([[moment, step, str(place / f"{moment}{step}")] for moment, step in runs])
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    found = subprocess.run([sys.executable, "-c", script, plan], env=env, capture_output=True, text=True, timeout=600)
    assert found.returncode == 0, found.stderr
    return dict(zip(runs, map(json.loads, found.stdout.splitlines()), strict=True))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked and killed")
@pytest.mark.parametrize(("moment", "step"), MOMENTS)
def test_a_killed_run_continues_bit_for_bit(place, ended, moment, step):
    assert ended["never", 0] == [[0], [5]]
    codes, steps = ended[moment, step]
    assert codes == [-signal.SIGKILL, 0]
    assert steps == [0 if (moment, step) == ("step", 1) else 2, 5]
    undisturbed, again = place / "never0", place / f"{moment}{step}"
    assert model_bytes(again) == model_bytes(undisturbed)
    whole, rerun = (checkpoints.read_metrics(run / "metrics.jsonl") for run in (undisturbed, again))
    assert [(r["step"], r["loss"]) for r in rerun] == [(r["step"], r["loss"]) for r in whole]
    assert not list(again.glob(".new-*"))


def model_bytes(run: Path) -> bytes:
    return (run / "last" / "model.safetensors").read_bytes()
