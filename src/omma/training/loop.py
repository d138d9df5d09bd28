"""The training loop. A run is a config; the step fits on a page; all chance is a function of (seed, step, sample).

So the state to resume is the weights, their average, the optimiser and one integer: a run killed at any moment
continues bit for bit, even with another number of workers; with another number of processes, up to rounding.
"""

import contextlib
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from omma import config as configuration
from omma.models.preprocess import Processor
from omma.models.pretrained import autocast, pick_device
from omma.models.prompts import prompts_for
from omma.models.vlmo import VLMo, VLMoConfig
from omma.models.weights import read_weights, save_pretrained
from omma.training import checkpoint as checkpoints
from omma.training import distributed
from omma.training.batches import Prefetch
from omma.training.checkpoint import Checkpoint
from omma.training.compiling import compile_blocks, compiling
from omma.training.config import TrainConfig
from omma.training.distill import load_teacher
from omma.training.distributed import World, whole
from omma.training.log import Log, Watch
from omma.training.optim import EMA, learning_rate, parameter_groups
from omma.training.rng import key_seed
from omma.training.setup import build, check, frozen_by, in_steps, main_table, mim_target, spread, training_set


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
    device = distributed.local_device(pick_device(config.device))
    with distributed.processes(device) as world:
        return train_in(world, device, config, evaluate, resume, progress, on_step)


def train_in(
    world: World,
    device: torch.device,
    config: TrainConfig,
    evaluate: Callable[[VLMo, Processor], dict[str, float]] | None,
    resume: bool,
    progress: bool,
    on_step: Callable[[int], None] | None,
) -> Checkpoint:
    """`train` as one process of a world. What is written is written by process 0."""
    run = check(config, resume, world)
    if config.threads:
        torch.set_num_threads(config.threads)
    table = main_table(config)
    model, processor, started_from = build(config, table)
    size = model.num_parameters()
    batches = training_set(config, table, model, processor, world)
    asked, config = config, in_steps(config, batches.steps_per_epoch)
    frozen = frozen_by(config, model)
    previous = checkpoints.latest(run) if resume else None
    state: dict[str, Any] = checkpoints.read_state(previous) if previous else {"step": 0}
    if previous:
        model.load_state_dict(state["model"])
    model.to(device).train()
    if config.compile:
        compile_blocks(model)
    training_step = spread(model, config, world, device)
    optimizer = torch.optim.AdamW(
        parameter_groups(model, config.weight_decay, config.layer_decay, config.head_lr),
        lr=config.peak_lr, betas=config.betas, eps=config.eps, fused=True,
    )  # fmt: skip
    average = EMA(model, config.ema) if config.ema else None
    if previous:
        distributed.load_optimizer(optimizer, state["optimizer"])
        if average:
            stored = read_weights(previous.path)
            average.state = {k: distributed.laid_out(stored[k], v) for k, v in average.state.items()}
    start = state["step"]
    target = None
    if config.losses.mim:
        with world.one_first():  # it may have a codebook to learn
            target = mim_target(config, model, average, processor, table)
    world.wait()  # every process has read what was there
    if world.rank == 0:
        checkpoints.cut_metrics(run / "metrics.jsonl", start)
        (run / "config.json").write_text(json.dumps(configuration.to_dict(asked), indent=2) + "\n")
    past = world.tell(checkpoints.read_metrics(run / "metrics.jsonl") if previous else [])

    def save(step: int, best: bool = False) -> Checkpoint:
        first = world.rank == 0
        state = whole({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}, keep=first)
        averaged = whole(average.state, keep=first) if average else state["model"]

        def write_model(folder: Path) -> None:
            save_pretrained(model, folder, averaged)
            processor.save(folder)
            if target:
                target.save(folder)

        if first:
            checkpoints.write(run, step, write_model, state, best=best)
        world.wait()
        return Checkpoint(checkpoints.step_folder(run, step), step)

    def run_evaluation() -> dict[str, float]:
        assert evaluate is not None
        averaged = whole(average.state if average else model.state_dict(), keep=world.rank == 0)
        numbers: dict[str, float] = {}
        if world.rank == 0:
            eye = model_of(model.config, averaged, device)
            numbers = {f"eval.{k}": v for k, v in evaluate(eye, processor).items()}
        numbers = world.tell(numbers)
        if config.monitor and f"eval.{config.monitor}" not in numbers:
            raise ValueError(f"monitor={config.monitor!r} is not among what is evaluated: "
                             f"{', '.join(k.removeprefix('eval.') for k in numbers)}")  # fmt: skip
        return numbers

    log = Log(run, config, start, progress, silent=world.rank > 0)
    log.say(f"{config.recipe or 'run'}: {size / 1e6:.1f}M weights ({len(frozen)} of "
            f"{len(list(model.parameters()))} tensors frozen), {len(batches)} {batches.unit}, "
            f"{batches.steps_per_epoch} steps an epoch, {device.type}"
            f"{f' x {world.size} ({config.parallel})' if world.size > 1 else ''}{started_from}"
            f"{f', resumed at step {start}' if previous else ''}")  # fmt: skip
    done = previous
    watch = Watch(config.monitor, config.patience, past)
    stop = start if watch.over else config.steps
    weights = config.losses.active()
    options = {"fusion_share": config.fusion_share, "negatives_within": config.negatives_within, "world": world,
               "contrast": config.contrast, "one_length": config.parallel == "fsdp" and world.size > 1}  # fmt: skip
    if target:
        options["mim_target"] = target
    if config.teacher:
        options["teacher"] = load_teacher(config.teacher, processor, device)
    batch_stream = Prefetch(batches, start, stop, config.workers)
    with log, deterministic(device), compiling():
        for batch in batch_stream:
            # ---- one training step
            step = batch.step
            torch.manual_seed(dropout_seed(config.seed, step, world.rank))
            rate = learning_rate(step, peak=config.peak_lr, steps=config.steps, warmup=config.warmup,
                                 final=config.final_lr, schedule=config.schedule)  # fmt: skip
            for group in optimizer.param_groups:
                group["lr"] = rate * group.get("lr_scale", 1.0)  # older checkpoints have none
            batch = batch.to(device)
            pixel_values = processor.normalize(batch.pixels)
            with autocast(device, config.precision):
                trim = config.trim * min(1.0, (step + 1) / max(1, config.trim_steps))
                losses = training_step(batch, pixel_values, config.losses, (config.seed, step), trim=trim, **options)
                total = torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()
            total.backward()
            grad_norm = float(distributed.clip_gradients(model.parameters(), config.max_grad_norm or math.inf))
            loss, *parts = world.mean(torch.stack([total, *losses.values()])).tolist()  # of the whole batch
            if not math.isfinite(loss) or not math.isfinite(grad_norm):
                values = dict(zip(losses, parts, strict=True))
                raise NonFiniteLoss(non_finite_message(run, batch.ids, step, values, grad_norm))
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if average:
                average.update(model, step)
            # ----
            finished = step + 1
            numbers = {f"loss_{k}": v for k, v in zip(losses, parts, strict=True)} if log.due(finished) else {}
            if evaluate and config.eval_every and finished % config.eval_every == 0 and finished < config.steps:
                numbers |= run_evaluation()
            if numbers:
                if "itc" in weights:
                    numbers["logit_scale"] = float(whole(model.logit_scale.detach()).exp())
                log.write(finished, loss=loss, lr=rate, grad_norm=grad_norm, waited=batch_stream.waited, **numbers)
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
        if evaluate and start < config.steps and stop == config.steps:
            numbers = run_evaluation()
            log.write(config.steps, **numbers)
            is_best = watch.add(numbers)
    if done is None or done.step < stop or is_best:
        done = save(stop, is_best)
    return (checkpoints.best(run) or done) if config.monitor else done


def model_of(config: VLMoConfig, state: dict[str, torch.Tensor], device: torch.device) -> VLMo:
    """A model for evaluation that holds these weights, without a copy where they are on the device."""
    with torch.device("meta"):
        model = VLMo(config)
        model.prompts = prompts_for(config.hidden_size, state)
    model.load_state_dict(state, assign=True)
    return model.to(device).eval()


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


def non_finite_message(run: Path, ids: list[str], step: int, losses: dict[str, float], grad_norm: float) -> str:
    values = ", ".join(f"{k} {v:.4g}" for k, v in losses.items())
    return (
        f"step {step}: the loss or its gradient is not finite ({values}, gradient norm {grad_norm:.4g}). "
        f"The step was not applied. Pictures of the batch: {', '.join(ids)}. The last checkpoint in {run} is "
        "untouched; lower peak_lr or look at these pictures, then --resume"
    )
