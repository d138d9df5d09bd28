"""The training loop. A run is a config; the step fits on a page; all chance is a function of (seed, step, sample).

So the state to resume is the weights, their average, the optimiser and one integer: a run killed at any moment
continues bit for bit, even with another number of workers.
"""

import contextlib
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from omma import config as configuration
from omma.models.preprocess import Processor
from omma.models.pretrained import autocast
from omma.models.vlmo import VLMo
from omma.models.weights import read_weights, save_pretrained
from omma.training import checkpoint as checkpoints
from omma.training.batches import Prefetch
from omma.training.checkpoint import Checkpoint
from omma.training.compiling import compile_blocks, compiling, eager
from omma.training.config import TrainConfig
from omma.training.log import Log, Watch
from omma.training.losses import compute_losses
from omma.training.optim import EMA, learning_rate, parameter_groups
from omma.training.rng import key_seed
from omma.training.setup import build, check, frozen_by, in_steps, main_table, mim_target, training_set


class NonFiniteLoss(RuntimeError):
    """The loss or its gradient became infinite or NaN. The weights are those before the step: nothing was applied."""


def train(
    config: TrainConfig,
    *,
    evaluate: Callable[[VLMo, Processor], dict[str, float]] | None = None,
    resume: bool = False,
    progress: bool = True,
    on_step: Callable[[int], None] | None = None,
) -> Checkpoint:
    """Runs the config to its last step and returns the final checkpoint, or with config.monitor the best one.

    evaluate: called every config.eval_every steps and at the end with the averaged model; its numbers are logged as
    eval.<name>. resume: go on from the run folder's last checkpoint (start afresh where there is none). on_step: called
    after each step. Raises ValueError for a config that cannot run, NonFiniteLoss with the step and the picture ids.
    """
    run, device = check(config, resume)
    if config.threads:
        torch.set_num_threads(config.threads)
    table = main_table(config)
    model, processor, started_from = build(config, table)
    batches = training_set(config, table, model, processor)
    asked, config = config, in_steps(config, batches.steps_per_epoch)
    frozen = frozen_by(config, model)
    model.to(device).train()
    if config.compile:
        compile_blocks(model)
    optimizer = torch.optim.AdamW(
        parameter_groups(model, config.weight_decay, config.layer_decay, config.head_lr),
        lr=config.peak_lr, betas=config.betas, eps=config.eps, fused=True,
    )  # fmt: skip
    average = EMA(model, config.ema) if config.ema else None
    start = 0
    previous = checkpoints.latest(run) if resume else None
    if previous:
        state = checkpoints.read_state(previous)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        if average:
            average.state = {k: v.to(device) for k, v in read_weights(previous.path).items()}
        start = state["step"]
    target = mim_target(config, model, average, processor, table) if config.losses.mim else None
    checkpoints.cut_metrics(run / "metrics.jsonl", start)
    (run / "config.json").write_text(json.dumps(configuration.to_dict(asked), indent=2) + "\n")

    def save(step: int, best: bool = False) -> Checkpoint:
        def write_model(folder: Path) -> None:
            save_pretrained(model, folder, average.state if average else None)
            processor.save(folder)
            if target:
                target.save(folder)

        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
        return checkpoints.write(run, step, write_model, state, best=best)

    def run_evaluation() -> dict[str, float]:
        assert evaluate is not None
        training_weights = {k: v.detach().clone() for k, v in model.state_dict().items()}
        if average:
            model.load_state_dict(average.state)
        model.eval()
        with eager():  # what is measured is what a saved model computes
            numbers = {f"eval.{k}": v for k, v in evaluate(model, processor).items()}
        model.load_state_dict(training_weights)
        model.train()
        if config.monitor and f"eval.{config.monitor}" not in numbers:
            raise ValueError(f"monitor={config.monitor!r} is not among what is evaluated: "
                             f"{', '.join(k.removeprefix('eval.') for k in numbers)}")  # fmt: skip
        return numbers

    log = Log(run, config, start, progress)
    log.say(f"{config.recipe or 'run'}: {model.num_parameters() / 1e6:.1f}M weights ({len(frozen)} of "
            f"{len(list(model.parameters()))} tensors frozen), {len(batches)} {batches.unit}, "
            f"{batches.steps_per_epoch} steps an epoch, {device.type}{started_from}"
            f"{f', resumed at step {start}' if previous else ''}")  # fmt: skip
    done = previous
    watch = Watch(config.monitor, config.patience, checkpoints.read_metrics(run / "metrics.jsonl") if previous else [])
    stop = start if watch.over else config.steps
    weights = config.losses.active()
    batch_stream = Prefetch(batches, start, stop, config.workers)
    with log, deterministic(device), compiling():
        for batch in batch_stream:
            # ---- one training step
            step = batch.step
            torch.manual_seed(key_seed(config.seed, "model", step))  # stochastic depth and dropout
            rate = learning_rate(step, peak=config.peak_lr, steps=config.steps, warmup=config.warmup,
                                 final=config.final_lr, schedule=config.schedule)  # fmt: skip
            for group in optimizer.param_groups:
                group["lr"] = rate * group.get("lr_scale", 1.0)  # older checkpoints have none
            batch = batch.to(device)
            pixel_values = processor.normalize(batch.pixels)
            with autocast(device, config.precision):
                key = (config.seed, step)
                trim = config.trim * min(1.0, (step + 1) / max(1, config.trim_steps))
                losses = compute_losses(model, batch, pixel_values, config.losses, key, config.fusion_share,
                                        config.negatives_within, target, trim)  # fmt: skip
                total = torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()
            total.backward()
            grad_norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm or math.inf)
            if not math.isfinite(float(total.detach())) or not math.isfinite(float(grad_norm)):
                raise NonFiniteLoss(non_finite_message(run, batch.ids, step, losses, float(grad_norm)))
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if average:
                average.update(model, step)
            # ----
            finished = step + 1
            numbers = {f"loss_{k}": float(v.detach()) for k, v in losses.items()} if log.due(finished) else {}
            if evaluate and config.eval_every and finished % config.eval_every == 0 and finished < config.steps:
                numbers |= run_evaluation()
            if numbers:
                scale = float(model.logit_scale.detach().exp()) if "itc" in weights else None
                numbers |= {"logit_scale": scale} if scale else {}
                log.write(finished, loss=float(total.detach()), lr=rate, grad_norm=float(grad_norm),
                          waited=batch_stream.waited, **numbers)  # fmt: skip
            log.advance(finished, float(total.detach()))
            is_best = watch.add(numbers)
            if finished < config.steps and (finished % config.save_every == 0 or is_best):
                done = save(finished, is_best)
            if on_step:
                on_step(finished)
            if watch.over:
                stop = finished
                log.say(f"stopped at step {stop}: {config.patience} evaluations without a better {config.monitor}")
                break
        is_best = False
        if evaluate and start < config.steps and stop == config.steps:
            numbers = run_evaluation()
            log.write(config.steps, **numbers)
            is_best = watch.add(numbers)
    if done is None or done.step < stop or is_best:
        done = save(stop, is_best)
    return (checkpoints.best(run) or done) if config.monitor else done


@contextlib.contextmanager
def deterministic(device: torch.device) -> Iterator[None]:
    """Reproducible sums while training on a CPU, where they cost nothing; the caller's setting comes back after it."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(before or device.type == "cpu")
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def non_finite_message(run: Path, ids: list[str], step: int, losses: dict[str, torch.Tensor], grad_norm: float) -> str:
    values = ", ".join(f"{k} {float(v.detach()):.4g}" for k, v in losses.items())
    return (
        f"step {step}: the loss or its gradient is not finite ({values}, gradient norm {grad_norm:.4g}). "
        f"The step was not applied. Pictures of the batch: {', '.join(ids)}. The last checkpoint in {run} is "
        "untouched; lower peak_lr or look at these pictures, then --resume"
    )
