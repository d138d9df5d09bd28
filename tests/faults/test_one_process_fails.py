"""What goes wrong on one of two processes is told by both, with what to do; neither waits for the other for ever.

The processes are connected by the test and not by `train`, so that the one which fails doesn't end the connection, on
which the other could wait.
"""

import errno
import io
import tarfile
from dataclasses import replace
from multiprocessing import active_children
from pathlib import Path

import pytest
import torch

from gloo import on
from omma.config import apply
from omma.models.clip import NANO
from omma.table import Table
from omma.training import checkpoint as checkpoints
from omma.training import clip, log
from omma.training.clip_config import ClipTrainConfig
from omma.training.distributed import FailedElsewhere, World, processes
from omma.training.loop import train

TINY = apply(NANO, ["vision.image_size=24", "vision.patch_size=8", "vision.stem=patch", "vision.hidden_size=32",
                    "vision.num_layers=1", "vision.num_heads=2", "text.hidden_size=32", "text.num_layers=1",
                    "text.num_heads=2", "text.vocab_size=60", "text.max_text_len=10", "embed_dim=16"])  # fmt: skip


def fail(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


def raised(world: World, failing: int, work) -> str:
    """What this process says; FailedElsewhere on all but the failing one."""
    with pytest.raises((ValueError, OSError, FailedElsewhere)) as error:
        work()
    assert isinstance(error.value, FailedElsewhere) == (world.rank != failing)
    return str(error.value)


def blocks(world: World) -> list[str]:
    """`one_first`, where each of the two fails."""
    found = []
    for failing in range(2):

        def work(failing=failing):
            with world.one_first():
                if world.rank == failing:
                    raise ValueError(f"no file on {failing}")

        found.append(raised(world, failing, work))
    return found


def runs(config: ClipTrainConfig, data: list[str]) -> dict[str, list[str]]:
    with processes(torch.device("cpu")) as world, pytest.MonkeyPatch.context() as patch:
        out = lambda name: str(Path(config.out).parent / name)
        run = lambda name, **changes: lambda: train(replace(config, out=out(name), **changes), progress=False)
        found = {"blocks": blocks(world), "log": [raised(world, 0, run("log", log="wandb"))]}
        Path(out("metrics"), "metrics.jsonl").mkdir(parents=True, exist_ok=True)
        found["metrics"] = [raised(world, 0, run("metrics"))]
        for name, owner, attribute in (("board", log.os, "fsync"), ("save", checkpoints.torch, "save")):
            with patch.context() as inner:
                if world.rank == 0:
                    inner.setattr(owner, attribute, fail)
                found[name] = [raised(world, 0, run(name))]
        with patch.context() as inner:
            if world.rank == 1:
                inner.setattr(clip, "training_set", fail)
            found["data"] = [raised(world, 1, run("data"))]

        def vanish(step: int) -> None:
            if step == 2 and world.rank == 1:
                for shard in Path(data[1]).glob("*.tar"):
                    shard.unlink()

        streamed = replace(config, out=out("vanish"), data=data[world.rank], words=config.data, steps=200, workers=1)
        found["shard"] = [raised(world, 1, lambda: train(streamed, progress=False, on_step=vanish))]
        assert not active_children()
        return found


def write_shards(table: Path, folder: Path, count: int = 40) -> str:
    """Two pictures in each tar, more tars than a process keeps open."""
    folder.mkdir()
    rows = Table.open(table).read(["bytes", "captions"]).to_pylist()
    for shard in range(count):
        with tarfile.open(folder / f"{shard:02d}.tar", "w") as tar:
            for i in (2 * shard, 2 * shard + 1):
                row = rows[i % len(rows)]
                said = row["captions"][0]["text"].encode()
                for name, content in ((f"{i}.png", row["bytes"]), (f"{i}.txt", said)):
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    return str(folder)


def test_an_error_of_one_process_is_told_by_both(coloured_table, tmp_path):
    config = ClipTrainConfig(data=str(coloured_table), out=str(tmp_path / "run"), model=TINY, steps=3, batch_size=8,
                             warmup=1, save_every=2, log_every=1, threads=1, device="cpu", workers=0)  # fmt: skip
    data = [write_shards(coloured_table, tmp_path / f"shards-{rank}") for rank in range(2)]
    told = on(2, runs, tmp_path / "out", config, data)
    no_room = r"No space left on device"
    wanted = {"blocks": (0, "no file on 0"), "log": (0, "log=wandb needs the package: pip install omma[wandb]"),
              "metrics": (0, "Is a directory"), "board": (0, no_room), "save": (0, no_room), "data": (1, no_room),
              "shard": (1, "can't be read any more (No such file or directory); put it back and resume")}  # fmt: skip
    assert told[0].keys() == wanted.keys()
    for name, (failing, message) in wanted.items():
        assert all(message in found[name][0] for found in told), name
        assert told[1 - failing][name][0].startswith(f"process {failing} of 2 failed: "), name
    assert all("no file on 1" in found["blocks"][1] for found in told)
