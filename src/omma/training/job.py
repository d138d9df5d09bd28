"""What a run trains, as the loop sees it, and what every run is checked for before its first step."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from omma import config as configuration
from omma.training import checkpoint as checkpoints
from omma.training.config import RunConfig
from omma.training.optim import EMA

AnyConfig = TypeVar("AnyConfig", bound=RunConfig)


class Job(Protocol):
    """A model, its batches and its losses. Made before a checkpoint is read: its weights are those of step 0.

    The loop reads the checkpoint, moves the model to the device, spreads it over the processes, and repeats: a batch,
    `backward`, the optimiser. Every process has a job of its own, which makes its part of each batch.
    """

    config: Any  # RunConfig, its epochs told in steps
    model: Any  # nn.Module
    processor: Any  # what pictures and texts go through; saved beside the weights
    batches: Any  # `batches[step]`, steps_per_epoch, len() and the unit that this counts
    weights: dict[str, float]  # of the losses in the sum, by name
    started_from: str  # what the weights of step 0 are, as the first line of a run says it; "" for random ones
    notes: list[str]  # further lines at the start of a run
    evaluate: Callable[[Any, Any], dict[str, float]] | None  # of model and processor, where `train` is given none
    merges: bool  # whether `save` writes other weights than it is given, adapters merged: then the average is kept too
    checks_start: bool  # whether the model is evaluated before the first step too

    def spread(self) -> nn.Module:
        """The training step as a module over all processes: its backward leaves the whole batch's gradient in the
        model."""
        ...

    def parameter_groups(self) -> list[dict]:
        """Of the optimiser; "lr_scale": a group's factor on the learning rate of the step."""
        ...

    def begin(self, average: EMA | None) -> None:
        """Whatever has to be loaded or learned once model and average are those that the run goes on from. Process 0
        is through before the others come, and they find what it has written."""
        ...

    def backward(self, spread: nn.Module, batch: Any, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum of the step's losses, with its gradient left in the model, and each of them by name: this
        process's, whose mean with the others' is the whole batch's. batch: on the model's device."""
        ...

    def finite(self) -> bool:
        """Whether the last step's numbers of this process were finite, before they met those of the others."""
        ...

    def numbers(self) -> dict[str, float]:
        """What is logged beside losses. Collective."""
        ...

    def model_of(self, state: dict[str, Tensor]) -> nn.Module:
        """A model for evaluation that holds these whole weights, without a copy where they are on the device."""
        ...

    def save(self, folder: Path, state: dict[str, Tensor]) -> None:
        """Writes the usable model with these whole weights into a checkpoint's folder."""
        ...


def weighted_sum(losses: dict[str, Tensor], weights: dict[str, float]) -> Tensor:
    return torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()


# ------------------------------------------------------------------------------------------------ before the first step
def check_run(config: RunConfig, resume: bool) -> Path:
    """The run folder (made). ValueError for settings that no run can have, and for a folder that holds another run."""
    if not config.out:
        raise ValueError("no out: give the folder of the run, out=FOLDER")
    if config.steps < 1 or config.warmup > config.steps:
        raise ValueError(
            f"steps={config.steps} and warmup={config.warmup}: steps must be at least 1 and at least the warm-up"
        )
    if config.patience and not (config.monitor and config.eval_every):
        raise ValueError(f"patience={config.patience} waits for a number: give monitor=NAME and eval_every=STEPS")
    run = Path(config.out)
    if (last := checkpoints.latest(run)) and not resume:
        raise ValueError(f"{run} holds a run already (step {last.step}). "
                         "Continue it with --resume, or give another out=FOLDER")  # fmt: skip
    stored = run / "config.json"
    if last and stored.is_file():
        refuse_changes(configuration.from_dict(type(config), json.loads(stored.read_text())), config, run)
    run.mkdir(parents=True, exist_ok=True)
    return run


FREE_ON_RESUME = {
    "out",
    "data",
    "device",
    "threads",
    "workers",
    "log_every",
    "save_every",
    "eval_every",
    "tensorboard",
    "log",
    "val",
    "val_where",
    "val_rows",
    "val_label",
    "chunk",
    "tile",
    "init",
    "given",
    "parallel",
}


def refuse_changes(stored: RunConfig, config: RunConfig, run: Path) -> None:
    """A resumed run with another learning rate or model is another run: say which settings differ."""
    before, now = dotted(configuration.to_dict(stored)), dotted(configuration.to_dict(config))
    changed = [
        f"{k}: {before.get(k)} -> {now.get(k)}"
        for k in before | now
        if k not in FREE_ON_RESUME and before.get(k) != now.get(k)
    ]
    if changed:
        raise ValueError(
            f"{run} was started with other settings: {'; '.join(changed)}. Resume with the same ones, or start anew "
            f"with init={run} out=ANOTHER"
        )


def dotted(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings under the keys of the command line: {"model.hidden_size": 192, ...}."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= dotted(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def in_steps(config: AnyConfig, steps_per_epoch: int) -> AnyConfig:
    """The config with `epochs` told in steps."""
    if not config.epochs:
        return config
    steps = max(1, round(config.epochs * steps_per_epoch))
    return replace(config, steps=steps, warmup=steps // 10, epochs=0.0)
