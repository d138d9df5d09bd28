"""VLMo as a job of the loop: which of its objectives a step computes, from what, and how it is laid over processes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from omma.models.layers import unfilled
from omma.models.pretrained import autocast
from omma.models.prompts import prompts_for
from omma.models.vlmo import VLMo
from omma.models.weights import save_pretrained
from omma.training import checkpoint as checkpoints
from omma.training.config import TrainConfig
from omma.training.distill import DISTILLED, load_teacher
from omma.training.distributed import World, whole
from omma.training.job import in_steps, weighted_sum
from omma.training.losses import CONTRASTED
from omma.training.mim import MIMTarget
from omma.training.optim import EMA, parameter_groups
from omma.training.setup import build, check, frozen_by, main_table, mim_target, resumed, spread, training_set


class VLMoJob:
    """Any of VLMo's stages and tasks, by its config's losses. ValueError for a config that cannot run."""

    def __init__(self, config: TrainConfig, resume: bool, world: World, device: torch.device):
        self.world, self.device = world, device
        with world.all_through():
            check(config, resume, world)
            self.table, previous = main_table(config), checkpoints.latest(config.out) if resume else None
            self.model, self.processor, self.started_from = (
                resumed(previous.path) if previous else build(config, self.table)
            )
            self.batches = training_set(config, self.table, self.model, self.processor, world)
            frozen_by(config, self.model)
        self.config = in_steps(config, self.batches.steps_per_epoch)
        self.weights = config.losses.active()
        self.target: MIMTarget | None = None
        self.notes: list[str] = []
        self.evaluate: Callable[[Any, Any], dict[str, float]] | None = None
        self.merges, self.checks_start = False, False
        self.options: dict[str, Any] = {
            "fusion_share": config.fusion_share, "negatives_within": config.negatives_within, "world": world,
            "contrast": config.contrast, "one_length": config.parallel == "fsdp" and world.size > 1,
        }  # fmt: skip

    def spread(self) -> nn.Module:
        return spread(self.model, self.config, self.world, self.device)

    def parameter_groups(self) -> list[dict]:
        c = self.config
        return parameter_groups(self.model, c.weight_decay, c.layer_decay, c.head_lr)

    def begin(self, average: EMA | None) -> None:
        if self.config.losses.mim:
            with self.world.one_first():  # it may have a codebook to learn
                self.target = mim_target(self.config, self.model, average, self.processor, self.table)
            self.options["mim_target"] = self.target
        if self.config.teacher:
            with self.world.all_through():
                self.options["teacher"] = load_teacher(self.config.teacher, self.processor, self.device)

    def backward(self, spread: nn.Module, batch: Any, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        c = self.config
        trim = c.trim * min(1.0, (step + 1) / max(1, c.trim_steps))
        pixel_values = self.processor.normalize(batch.pixels)
        self.seen = [pixel_values]
        with autocast(self.device, c.precision):
            losses = spread(batch, pixel_values, c.losses, (c.seed, step), trim=trim, **self.options)
            total = weighted_sum(losses, self.weights)
        self.seen += [loss for name, loss in losses.items() if name not in CONTRASTED | DISTILLED]
        total.backward()
        return total, losses

    def finite(self) -> bool:
        # A contrast is left out: it is of all processes' samples.
        return all(bool(x.isfinite().all()) for x in self.seen)

    def numbers(self) -> dict[str, float]:
        return {"logit_scale": float(whole(self.model.logit_scale.detach()).exp())} if "itc" in self.weights else {}

    def model_of(self, state: dict[str, Tensor]) -> VLMo:
        with unfilled():
            model = VLMo(self.model.config)
            model.prompts = prompts_for(model.config.hidden_size, state)
        model.load_state_dict(state, assign=True)
        return model.to(self.device).eval()

    def save(self, folder: Path, state: dict[str, Tensor]) -> None:
        save_pretrained(self.model, folder, state)
        self.processor.save(folder)
        if self.target:
            self.target.save(folder)
