"""Checkpoints: a run folder whose `last` always points at a complete one.

RUN/config.json, metrics.jsonl, last -> step00000500, best -> step00000400 (where a run stops by its best),
    step00000500/{config.json, model.safetensors, tokenizer.json, preprocessor.json, train_state.pt}

A folder step... is a usable model by itself (the averaged weights when the run keeps an average); train_state.pt adds
what continuing needs. Publishing: everything is written into a hidden folder and synced, the folder is renamed, then
`last` is replaced: the one commit point.
"""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

STATE_FILE = "train_state.pt"


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


def write(
    run: Path, step: int, save_model: Callable[[Path], Any], state: dict, keep: int = 2, best: bool = False
) -> Checkpoint:
    """Publishes a checkpoint, keeping the newest `keep` and the best. save_model writes the usable model into the
    folder it gets. best: point the run's `best` at it as well, before `last`, which is what a resumed run goes by."""
    new, final = run / f".new-step{step:08d}", step_folder(run, step)
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    save_model(new)
    torch.save(state, new / STATE_FILE)
    for file in new.iterdir():
        sync(file)
    sync(new)
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
    """The run's last complete checkpoint, or None where there is none."""
    link = Path(run) / "last"
    if not link.exists():
        return None
    folder = link.resolve()
    return Checkpoint(folder, int(folder.name.removeprefix("step")))


def best(run: str | Path) -> Checkpoint | None:
    """The checkpoint that scored best in a run that keeps it, or None."""
    link = Path(run) / "best"
    return Checkpoint(link.resolve(), int(link.resolve().name.removeprefix("step"))) if link.exists() else None


def read_state(checkpoint: Checkpoint) -> dict:
    """What `write` was given as state. ValueError when the file is missing or damaged."""
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


def cut_metrics(path: Path, step: int) -> None:
    """Drops the lines after `step`: a resumed run writes them again."""
    if path.exists():
        kept = [row for row in read_metrics(path) if row["step"] <= step]
        new = path.with_suffix(".new")
        new.write_text("".join(json.dumps(row) + "\n" for row in kept))
        os.replace(new, path)
