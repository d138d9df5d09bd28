"""The training loop. A run is a config; the step fits on a page; all chance is a function of (seed, step, sample).

So the state to resume is the weights, their average, the optimiser and one integer: a run killed at any moment
continues bit for bit, even with another number of workers; with another number of processes, up to rounding.
"""

import contextlib
import json
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from omma import config as configuration
from omma.models.pretrained import autocast, pick_device
from omma.training import checkpoint as checkpoints
from omma.training import distributed
from omma.training.batches import prefetch
from omma.training.checkpoint import Checkpoint
from omma.training.clip import ClipJob
from omma.training.clip_config import ClipTrainConfig
from omma.training.compiling import compile_blocks, compiling
from omma.training.config import RunConfig, TrainConfig
from omma.training.distributed import FailedElsewhere as FailedElsewhere
from omma.training.distributed import World, whole
from omma.training.job import Job
from omma.training.log import Log, Watch
from omma.training.muon import Muon, with_muon
from omma.training.optim import EMA, learning_rate
from omma.training.rng import key_seed
from omma.training.vlm_config import VLMTrainConfig
from omma.training.vlmo_job import VLMoJob


def vlm_job(config: Any, resume: bool, world: World, device: torch.device) -> Job:
    """A VLM's job. Its module is read when it is asked for: transformers takes a second to load."""
    from omma.training.vlm_job import VLMJob

    return VLMJob(config, resume, world, device)


# What trains by which config.
JOBS: dict[Any, Callable[[Any, bool, World, torch.device], Job]] = {
    TrainConfig: VLMoJob,
    ClipTrainConfig: ClipJob,
    VLMTrainConfig: vlm_job,
}


class NonFiniteLoss(RuntimeError):
    """The loss or its gradient became infinite or NaN. The weights are those before the step: nothing was applied."""


def train(
    config: RunConfig,
    *,
    evaluate: Callable[[Any, Any], dict[str, float]] | None = None,
    resume: bool = False,
    progress: bool = True,
    on_step: Callable[[int], None] | None = None,
) -> Checkpoint:
    """Runs the config to its last step and returns the final checkpoint, or with config.monitor the best one.

    The config's class says what is trained: a `TrainConfig` a VLMo, a `ClipTrainConfig` a CLIP. evaluate: called every
    config.eval_every steps and at the end with the averaged model and its processor, in place of the run's own; its
    numbers are logged as eval.<name>. resume: go on from the run folder's last checkpoint (start afresh where there is
    none). on_step: called after each step. Raises ValueError for a config that cannot run, NonFiniteLoss with the step
    and the picture ids.
    """
    if not (evaluate or config.evaluates) and (config.eval_every or config.monitor):
        raise ValueError(f"eval_every={config.eval_every} monitor={config.monitor}: there is nothing that evaluates. "
                         "Give omma.train(config, evaluate=FUNCTION), or measure the run afterwards: omma eval RUN")
    device = distributed.local_device(pick_device(config.device))
    with distributed.processes(device, Path(config.out) if config.out else None) as world:
        return train_in(world, device, config, evaluate, resume, progress, on_step)


def train_in(
    world: World,
    device: torch.device,
    config: RunConfig,
    evaluate: Callable[[Any, Any], dict[str, float]] | None,
    resume: bool,
    progress: bool,
    on_step: Callable[[int], None] | None,
) -> Checkpoint:
    """`train` as one process of a world. What is written is written by process 0."""
    if config.threads:
        torch.set_num_threads(config.threads)
    asked, job = config, JOBS[type(config)](config, resume, world, device)
    config, run, model, batches = job.config, Path(config.out), job.model, job.batches
    previous = checkpoints.latest(run) if resume else None
    model.to(device).train()
    if config.compile:
        compile_blocks(model)
    size, tensors = sum(p.numel() for p in model.parameters()), list(model.parameters())
    frozen = sum(not p.requires_grad for p in tensors)
    training_step = job.spread()
    optimizer = optimizer_of(job.parameter_groups(), model, config, device)
    average = EMA(model, config.ema) if config.ema else None
    start = checkpoints.restore(previous, model, optimizer, average) if previous else 0
    job.begin(average)
    world.wait()  # every process has read what was there
    past = world.by_first(lambda: begin(run, asked, start if previous else None))
    look = evaluate or job.evaluate

    def save(step: int, best: bool = False) -> Checkpoint:
        averaged = whole(average.state if average else model.state_dict(), keep=world.rank == 0)
        new = world.by_first(lambda: checkpoints.begin(run, step))
        world.by_first(lambda: job.save(new, averaged))
        checkpoints.write_state(new, model, optimizer, average, step, world, job.merges)
        return world.by_first(lambda: checkpoints.publish(run, step, best=best))

    def run_evaluation() -> dict[str, float]:
        measure = look
        assert measure is not None
        averaged = whole(average.state if average else model.state_dict(), keep=world.rank == 0)
        found = world.by_first(lambda: measure(job.model_of(averaged), job.processor))
        if config.monitor and config.monitor not in found:
            raise ValueError(f"monitor={config.monitor!r} is not among what is evaluated: {', '.join(found)}")
        return {f"eval.{name}": float(value) for name, value in found.items()}  # also of NumPy's and torch's numbers

    with world.all_through():
        log = Log(run, config, start, progress, silent=world.rank > 0)

    def written(step: int, **numbers: float) -> None:
        with world.all_through():
            log.write(step, **numbers)

    log.say(f"{config.recipe or 'run'}: {size / 1e6:.1f}M weights ({frozen} of "
            f"{len(tensors)} tensors frozen), {len(batches)} {batches.unit}, "
            f"{batches.steps_per_epoch} steps an epoch, {device.type}"
            f"{f' x {world.size} ({config.parallel})' if world.size > 1 else ''}{job.started_from}"
            f"{f', resumed at step {start}' if previous else ''}")  # fmt: skip
    for note in job.notes:
        log.say(note)
    done = previous
    watch = Watch(config.monitor, config.patience, [row for row in past if row["step"]])
    stop = start if watch.over else config.steps
    with log, deterministic(device), compiling(), prefetch(batches, start, stop, config.workers) as stream:
        if look and job.checks_start and not previous:
            before = run_evaluation()
            written(0, **before)
        for batch in world.together(stream):
            # ---- one training step
            step = batch.step
            torch.manual_seed(dropout_seed(config.seed, step, world.rank))
            rate = learning_rate(step, peak=config.peak_lr, steps=config.steps, warmup=config.warmup,
                                 final=config.final_lr, schedule=config.schedule)  # fmt: skip
            for group in optimizer.param_groups:
                group["lr"] = rate * group.get("lr_scale", 1.0)  # older checkpoints have none
            total, losses = job.backward(training_step, batch.to(device), step)
            grad_norm = float(distributed.clip_gradients(model.parameters(), config.max_grad_norm or math.inf))
            loss, *parts = world.mean(torch.stack([total, *losses.values()])).tolist()  # of the whole batch
            if not math.isfinite(loss) or not math.isfinite(grad_norm):
                values = dict(zip(losses, parts, strict=True))
                raise NonFiniteLoss(non_finite_message(run, batch.ids, step, values, grad_norm, culprits(world, job)))
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if average:
                average.update(model, step)
            # ----
            finished = step + 1
            numbers = {f"loss_{k}": v for k, v in zip(losses, parts, strict=True)} if log.due(finished) else {}
            if look and config.eval_every and finished % config.eval_every == 0 and finished < config.steps:
                numbers |= run_evaluation()
            if numbers:
                numbers |= job.numbers()
                written(finished, loss=loss, lr=rate, grad_norm=grad_norm, waited=stream.waited, **numbers)
            log.advance(finished, loss)
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
        if look and start < config.steps and stop == config.steps:
            numbers = run_evaluation()
            written(config.steps, **numbers)
            is_best = watch.add(numbers)
    if done is None or done.step < stop or is_best:
        done = save(stop, is_best)
    return (checkpoints.best(run) or done) if config.monitor else done


def optimizer_of(
    groups: list[dict], model: torch.nn.Module, config: RunConfig, device: torch.device
) -> torch.optim.Optimizer:
    """AdamW, or with config.muon that for the matrices of the layers."""
    settings: dict[str, Any] = {"lr": config.peak_lr, "betas": config.betas, "eps": config.eps, "fused": True}
    if config.muon is None:
        return torch.optim.AdamW(groups, **settings)
    return Muon(with_muon(groups, model, config.muon), precise=lambda: autocast(device, config.precision), **settings)


def begin(run: Path, config: RunConfig, start: int | None) -> list[dict]:
    """The run folder as one that begins, or goes on at step `start`; returns the metrics up to there."""
    path = run / "config.json"
    new = path.with_suffix(".new")
    new.write_text(json.dumps(configuration.to_dict(config), indent=2) + "\n")
    os.replace(new, path)
    return checkpoints.cut_metrics(run / "metrics.jsonl", -1 if start is None else start)


def dropout_seed(seed: int, step: int, rank: int) -> int:
    """Of stochastic depth and dropout: each process draws for its own rows."""
    return key_seed(seed, "model", step, rank) if rank else key_seed(seed, "model", step)


@contextlib.contextmanager
def deterministic(device: torch.device) -> Iterator[None]:
    """Reproducible sums while training on a CPU, where they cost nothing; the caller's setting comes back after it."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(before or device.type == "cpu")
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def culprits(world: World, job: Job) -> str:
    """Whose pictures and texts were not finite, as a sentence; "" for one process."""
    if world.size == 1:
        return ""
    broken = [str(rank) for rank, fine in enumerate(world.hear(job.finite())) if not fine]
    if not broken:
        return f" It is in what all {world.size} processes share: the weights, or the scale of the logits."
    return f" It began on process {', '.join(broken)} of {world.size}."


def non_finite_message(
    run: Path, ids: list[str], step: int, losses: dict[str, float], grad_norm: float, where: str = ""
) -> str:
    values = ", ".join(f"{k} {v:.4g}" for k, v in losses.items())
    return (
        f"step {step}: the loss or its gradient is not finite ({values}, gradient norm {grad_norm:.4g}).{where} "
        f"The step was not applied. Pictures of the batch: {', '.join(ids)}. The last checkpoint in {run} is "
        "untouched; lower peak_lr or look at these pictures, then --resume"
    )
