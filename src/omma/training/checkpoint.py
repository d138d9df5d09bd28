"""Checkpoints: a run folder whose `last` always points at a complete one.

RUN/config.json, metrics.jsonl, last -> step00000500, best -> step00000400 (where a run stops by its best),
    step00000500/{config.json, model.safetensors, tokenizer.json, preprocessor.json, train_state.pt}

A folder step... is a usable model by itself (the averaged weights when the run keeps an average); train_state.pt adds
what continuing needs, or the folder train_state (shards.py) where processes share the weights. Either is read by any
number of processes, however they hold the weights. Publishing: everything is written into a hidden folder and synced,
the folder is renamed, then `last` is replaced: the one commit point.
"""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from omma.models.weights import read_weights
from omma.training import distributed
from omma.training.distributed import World
from omma.training.optim import EMA
from omma.training.shards import load_shards, save_shards

STATE_FILE = "train_state.pt"
STATE_FOLDER = "train_state"


@dataclass(frozen=True)
class Checkpoint:
    """A finished point of a run. path: the model folder; step: optimiser steps done."""

    path: Path
    step: int

    @property
    def run(self) -> Path:
        return self.path.parent

    @property
    def metrics_path(self) -> Path:
        return self.run / "metrics.jsonl"

    def metrics(self) -> list[dict]:
        """The logged steps, oldest first."""
        return read_metrics(self.metrics_path)


def step_folder(run: Path, step: int) -> Path:
    return run / f"step{step:08d}"


def begin(run: Path, step: int) -> Path:
    """The hidden folder, new, into which a checkpoint is written."""
    new = run / f".new-step{step:08d}"
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    return new


def publish(run: Path, step: int, keep: int = 2, best: bool = False) -> Checkpoint:
    """Makes what was written since `begin` the run's last checkpoint, keeping the newest `keep` and the best.

    best: point the run's `best` at it as well, before `last`, which is what a resumed run goes by.
    """
    new, final = run / f".new-step{step:08d}", step_folder(run, step)
    for path in [*new.rglob("*"), new]:
        sync(path)
    if (
        final.exists()
    ):  # a run that was killed after the rename, before `last` moved, comes here again with the same bytes
        shutil.rmtree(final)
    os.rename(new, final)
    for name in (["best"] if best else []) + ["last"]:
        link = run / f".{name}-new"
        link.unlink(missing_ok=True)
        link.symlink_to(final.name)
        os.replace(link, run / name)
    sync(run)
    kept = (run / "best").resolve()
    current = sorted(p for p in run.glob("step*") if p.is_dir() and p.resolve() != kept)
    for old in current[: max(0, len(current) - keep)]:
        shutil.rmtree(old, ignore_errors=True)
    return Checkpoint(final, step)


def sync(path: Path) -> None:
    """fsync of a file or folder: a rename must not reach the disk before what it names."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def latest(run: str | Path) -> Checkpoint | None:
    """The run's last complete checkpoint, or None where there is none. ValueError: `last` is no link to a step, or to
    one that is gone."""
    return linked(run, "last")


def best(run: str | Path) -> Checkpoint | None:
    """The checkpoint that scored best in a run that keeps it, or None. ValueError as of `latest`."""
    return linked(run, "best")


def linked(run: str | Path, name: str) -> Checkpoint | None:
    link = Path(run) / name
    if link.is_symlink() and not link.exists():  # a run that begins anew unasked is the worst of answers
        there = ", ".join(path.name for path in sorted(Path(run).glob("step*"))) or "no other step"
        raise ValueError(f"{link} points at {os.readlink(link)}, which is gone; {run} has {there}. Point it at one, "
                         f"ln -sfn STEP {link}, or remove it to begin anew")  # fmt: skip
    if not link.exists():
        return None
    folder = link.resolve()
    number = folder.name.removeprefix("step")
    if not number.isdecimal():
        raise ValueError(f"{link} is a folder and not a link to one of the run's steps, as in a copy that follows "
                         f"links. Copy the run with its links (cp -a), or use this one as a model: init={link}")
    return Checkpoint(folder, int(number))


def write_state(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, average: EMA | None, step: int,
                world: World, beside: bool) -> None:  # fmt: skip
    """Writes what continuing at `step` needs into the folder of `begin`. Collective.

    beside: keep the average too, where the folder's model.safetensors isn't it.
    """
    if any(distributed.is_sharded(parameter) for parameter in model.parameters()):
        save_shards(folder / STATE_FOLDER, model, optimizer, average, step)
        return
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
    state |= {"average": average.state} if average and beside else {}
    world.by_first(lambda: torch.save(state, folder / STATE_FILE))


@torch.no_grad()
def restore(checkpoint: Checkpoint, model: nn.Module, optimizer: torch.optim.Optimizer, average: EMA | None) -> int:
    """Puts the training state of a checkpoint into these, however they are laid out; returns its step. Collective."""
    if (checkpoint.path / STATE_FOLDER).is_dir():
        return load_shards(checkpoint.path / STATE_FOLDER, model, optimizer, average)
    state = read_state(checkpoint)
    put(state["model"], model.state_dict(), checkpoint)
    distributed.load_optimizer(optimizer, state["optimizer"])
    if average:
        put(state.get("average") or read_weights(checkpoint.path), average.state, checkpoint)
    return state["step"]


def put(stored: dict[str, Tensor], into: dict[str, Tensor], checkpoint: Checkpoint) -> None:
    """Copies whole tensors into those of the same names. ValueError for other names."""
    if differing := sorted(stored.keys() ^ into.keys()):
        raise ValueError(f"{checkpoint.path} is of another model: {', '.join(differing[:4])} ({len(differing)}) are "
                         "there or here alone")  # fmt: skip
    for name, value in into.items():
        value.copy_(distributed.laid_out(stored[name], value))


def read_state(checkpoint: Checkpoint) -> dict:
    """What train_state.pt holds. ValueError when the file is missing or damaged."""
    path = checkpoint.path / STATE_FILE
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ValueError(f"{checkpoint.path} is a model without {STATE_FILE}: it can be used, not continued. "
                         f"Start a new run from it: omma train RECIPE init={checkpoint.path}") from None  # fmt: skip
    except Exception as error:  # a damaged zip or pickle raises many types
        raise ValueError(f"{path} can't be read ({type(error).__name__}: {error}); "
                         f"remove {checkpoint.path} and point `last` at an older step") from error  # fmt: skip


# ---------------------------------------------------------------------------------------------------------- metrics
def read_metrics(path: str | Path) -> list[dict]:
    """The objects of a metrics.jsonl; a last line cut short by a crash is left out."""
    rows = []
    for line in Path(path).read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def cut_metrics(path: Path, step: int) -> list[dict]:
    """Drops the lines after `step`, which a resumed run writes again; returns those that are left."""
    if not path.exists():
        return []
    kept = [row for row in read_metrics(path) if row["step"] <= step]
    new = path.with_suffix(".new")
    new.write_text("".join(json.dumps(row) + "\n" for row in kept))
    os.replace(new, path)
    return kept
