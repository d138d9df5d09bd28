"""The training loop. A run is a config; the step fits on a page; all chance is a function of (seed, step, sample).

So the state to resume is the weights, their average, the optimiser and one integer: a run killed at any moment
continues bit for bit, even with another number of workers.
"""

import contextlib
import json
import math
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from omma import config as configuration
from omma.models.preprocess import Processor, train_wordpiece
from omma.models.pretrained import autocast, pick_device
from omma.models.vlmo import VLMo, VLMoConfig
from omma.models.weights import load_matching, model_folder, read_config, read_tensors, save_pretrained
from omma.table import Table
from omma.training import checkpoint as checkpoints
from omma.training.batches import Batches, DataConfig, Prefetch
from omma.training.checkpoint import Checkpoint
from omma.training.finetune import is_for_items, labels_for, new_rows, with_heads
from omma.training.items import ItemBatches, labels_in, prompts_in
from omma.training.losses import LossWeights, compute_losses
from omma.training.optim import EMA, freeze, learning_rate, parameter_groups
from omma.training.rng import key_seed


class NonFiniteLoss(RuntimeError):
    """The loss or its gradient became infinite or NaN. The weights are those before the step: nothing was applied."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything a run depends on. Recipes return one whole; the command line changes it by key=value."""

    recipe: str = ""
    data: str = ""  # folder of a pictures table
    out: str = ""  # the run folder
    init: str | None = None  # model folder or run to start from: every weight whose name and shape fit
    model: VLMoConfig = field(default_factory=VLMoConfig)
    dataset: DataConfig = field(default_factory=DataConfig)
    losses: LossWeights = field(default_factory=LossWeights)
    panels: int | None = None  # a picture is so many panels side by side; None: as init's processor has it
    panel_gap: float = 0.0  # width of the strip between two panels, as a share of the picture's
    freeze: tuple[str, ...] = ()  # shell patterns over parameter names, or a group such as "vision"

    steps: int = 1000
    batch_size: int = 64  # samples a step; even
    fusion_share: float = 1.0  # share of a batch that itm and mlm see; the contrast sees all of it
    negatives_within: int = 0  # itm's hard negatives come from so many neighbouring samples; 0: from the whole batch
    peak_lr: float = 1e-3
    schedule: Literal["cosine", "linear"] = "cosine"  # from the peak to the end
    final_lr: float = 0.01  # share of the peak that is left at the end
    warmup: int = 50  # steps
    layer_decay: float | None = None  # factor on the rate for each layer further from the top (BEiT); None: one rate
    head_lr: float = 1.0  # factor on the rate of the heads of a task, which start from random weights
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-8
    max_grad_norm: float | None = 3.0  # None: gradients are not clipped
    ema: float | None = 0.999

    seed: int = 0
    device: str = "auto"
    precision: str = "auto"  # auto | bf16 | fp32
    threads: int | None = None  # of PyTorch on a CPU: results are the same to the bit for the same number only
    workers: int = 1  # threads that make batches; 0: in the loop
    log_every: int = 10
    save_every: int = 500
    eval_every: int = 0  # 0: no evaluation during training
    monitor: str | None = None  # an evaluated number; the checkpoint where it is largest is kept as `best`
    patience: int = 0  # evaluations in a row without a new best after which the run stops; 0: never
    tensorboard: bool = False


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
    table = Table.open(config.data)
    model, processor, started_from = build(config, table)
    batches = training_set(config, table, model, processor)
    frozen = freeze(model, config.freeze)
    model.to(device).train()
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
            average.state = {k: v.to(device) for k, v in read_tensors(previous.path / "model.safetensors").items()}
        start = state["step"]
    checkpoints.cut_metrics(run / "metrics.jsonl", start)
    (run / "config.json").write_text(json.dumps(configuration.to_dict(config), indent=2) + "\n")

    def save(step: int, best: bool = False) -> Checkpoint:
        def write_model(folder: Path) -> None:
            save_pretrained(model, folder, average.state if average else None)
            processor.save(folder)

        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
        return checkpoints.write(run, step, write_model, state, best=best)

    def run_evaluation() -> dict[str, float]:
        assert evaluate is not None
        training_weights = {k: v.detach().clone() for k, v in model.state_dict().items()}
        if average:
            model.load_state_dict(average.state)
        model.eval()
        numbers = {f"eval.{k}": v for k, v in evaluate(model, processor).items()}
        model.load_state_dict(training_weights)
        model.train()
        if config.monitor and f"eval.{config.monitor}" not in numbers:
            raise ValueError(f"monitor={config.monitor!r} is not among what is evaluated: "
                             f"{', '.join(k.removeprefix('eval.') for k in numbers)}")  # fmt: skip
        return numbers

    log = Log(run, config, start, progress)
    unit = "pictures" if isinstance(batches, Batches) else "items"
    log.say(f"{config.recipe or 'run'}: {model.num_parameters() / 1e6:.1f}M weights ({len(frozen)} of "
            f"{len(list(model.parameters()))} tensors frozen), {len(batches)} {unit}, "
            f"{batches.steps_per_epoch} steps an epoch, {device.type}{started_from}"
            f"{f', resumed at step {start}' if previous else ''}")  # fmt: skip
    done = previous
    watch = Watch(config.monitor, config.patience, checkpoints.read_metrics(run / "metrics.jsonl") if previous else [])
    stop = start if watch.over else config.steps
    weights = config.losses.active()
    batch_stream = Prefetch(batches, start, stop, config.workers)
    with log, deterministic(device):
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
                losses = compute_losses(model, batch, pixel_values, config.losses, key, config.fusion_share,
                                        config.negatives_within)  # fmt: skip
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


class Watch:
    """Whether an evaluated number still grows. past: the metrics of the run so far, when it is resumed."""

    def __init__(self, monitor: str | None, patience: int, past: list[dict]):
        self.key, self.patience, self.best, self.since = f"eval.{monitor}" if monitor else None, patience, -math.inf, 0
        for row in past:
            self.add(row)

    @property
    def over(self) -> bool:
        return bool(self.patience) and self.since >= self.patience

    def add(self, row: dict) -> bool:
        """Whether this row has a new best. A row without the number changes nothing."""
        if self.key is None or self.key not in row:
            return False
        better = row[self.key] > self.best
        self.best, self.since = (row[self.key], 0) if better else (self.best, self.since + 1)
        return better


# ------------------------------------------------------------------------------------------- before the first step
def check(config: TrainConfig, resume: bool) -> tuple[Path, torch.device]:
    """The run folder (made) and the device. ValueError for what cannot work, before anything is loaded."""
    if not config.data:
        raise ValueError(
            "no data: give the folder of a pictures table, data=FOLDER. "
            "Make one: omma scenes FOLDER, or omma ingest PICTURES FOLDER"
        )
    if not config.out:
        raise ValueError("no out: give the folder of the run, out=FOLDER")
    if not config.losses.active():
        raise ValueError("every loss weight is 0; set one, e.g. losses.itc=1")
    if config.losses.itc_vl and not config.model.itc_vl:
        raise ValueError("losses.itc_vl needs the heads for it: model.itc_vl=true")
    if config.steps < 1 or config.warmup > config.steps:
        raise ValueError(
            f"steps={config.steps} and warmup={config.warmup}: steps must be at least 1 and at least the warm-up"
        )
    within = config.negatives_within
    if within and (within < 2 or within % 2 or config.batch_size % within):
        raise ValueError(f"negatives_within={within}: give 0 for the whole batch, or an even number that divides "
                         f"batch_size={config.batch_size}")  # fmt: skip
    if config.patience and not (config.monitor and config.eval_every):
        raise ValueError(f"patience={config.patience} waits for a number: give monitor=NAME and eval_every=STEPS")
    run = Path(config.out)
    if checkpoints.latest(run) and not resume:
        raise ValueError(f"{run} holds a run already (step {checkpoints.latest(run).step}). "  # type: ignore[union-attr]
                         "Continue it with --resume, or give another out=FOLDER")  # fmt: skip
    stored = run / "config.json"
    if resume and checkpoints.latest(run) and stored.is_file():
        refuse_changes(configuration.from_dict(TrainConfig, json.loads(stored.read_text())), config, run)
    run.mkdir(parents=True, exist_ok=True)
    return run, pick_device(config.device)


@contextlib.contextmanager
def deterministic(device: torch.device) -> Iterator[None]:
    """Reproducible sums while training on a CPU, where they cost nothing; the caller's setting comes back after it."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(before or device.type == "cpu")
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


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
    "init",
}


def refuse_changes(stored: TrainConfig, config: TrainConfig, run: Path) -> None:
    """A resumed run with another learning rate or model is another run: say which settings differ."""
    before, now = configuration.to_dict(stored), configuration.to_dict(config)
    changed = [
        f"{k}: {before[k]} -> {now[k]}" for k in before if k not in FREE_ON_RESUME | {"model"} and before[k] != now[k]
    ]
    if changed:
        raise ValueError(
            f"{run} was started with other settings: {'; '.join(changed)}. Resume with the same ones, or start anew "
            f"with init={run} out=ANOTHER"
        )


def build(config: TrainConfig, table: Table) -> tuple[VLMo, Processor, str]:
    """Model and processor: fresh ones, or those of config.init, with its weights wherever name and shape fit.

    The vocabulary belongs to the tokenizer, so config.model.vocab_size is only its upper limit when one is learned from
    the captions.
    """
    objectives = set(config.losses.active())
    if table.kind != "pictures" and not is_for_items(objectives):
        raise ValueError(f"{table.uri} is a table of {table.kind}; {', '.join(sorted(objectives))} learn from pictures "
                         "with captions. Give that table, or an objective on items, e.g. losses.answer=1")  # fmt: skip
    if config.init:
        folder = model_folder(config.init)
        stored = read_config(folder)
        processor = Processor.load(folder)
        size, length = config.model.image_size, config.model.max_text_len
        processor = replace(processor, image_size=size, max_text_len=min(length, stored.max_text_len))
    else:
        folder = stored = None
        tokenizer = train_wordpiece(texts_of(config, table), config.model.vocab_size)
        processor = Processor(tokenizer, config.model.image_size, config.model.max_text_len)
    if config.panels is not None:
        processor = replace(processor, panels=config.panels, panel_gap=config.panel_gap)
    model_config = configuration.apply(
        config.model, {"vocab_size": processor.vocab_size, "max_text_len": processor.max_text_len}
    )
    if is_for_items(objectives):
        if stored is not None:  # the labels a head was trained on stay the head's
            kept = {k: getattr(stored, k) for k in ("answers", "classes") if not getattr(model_config, k)}
            model_config = replace(model_config, **kept)
        wanted = {"answer": model_config.answers, "classify": model_config.classes}
        unknown = any(name in objectives and not labels for name, labels in wanted.items())
        labels = labels_in(table, config.dataset, config.dataset.max_labels) if unknown else ()
        model_config = replace(model_config, **with_heads(model_config, objectives, labels))
    torch.manual_seed(key_seed(config.seed, "init"))
    model = VLMo(model_config)
    if folder is None:
        return model, processor, ""
    tensors = read_tensors(folder / "model.safetensors")
    grown = {name: new_rows(model, name, tensor) for name, tensor in tensors.items()}
    copied, own = load_matching(model, tensors | {name: tensor for name, tensor in grown.items() if tensor is not None})
    if not copied:
        raise ValueError(f"no weight of {folder} fits this model; compare its config.json with model.* of this run")
    return model, processor, f", {len(copied)} tensors from {config.init}{f', {len(own)} new' if own else ''}"


def texts_of(config: TrainConfig, table: Table) -> set[str]:
    """What a tokenizer for this run is learned from: the captions, or the items' prompts. A run on labels alone has
    only their names."""
    if is_for_items(config.losses.active()):
        return prompts_in(table, config.dataset) or set(labels_in(table, config.dataset, config.dataset.max_labels))
    texts: set[str] = set()
    wanted = config.dataset.languages
    for record in table.scan(["captions"], where=config.dataset.where):
        for captions in record.column("captions").to_pylist():
            texts.update(c["text"] for c in captions or [] if not wanted or c["language"] in wanted)
    return texts


def training_set(config: TrainConfig, table: Table, model: VLMo, processor: Processor) -> Batches | ItemBatches:
    """The batches of a run: of pictures with captions, or of items where an objective is about these."""
    objectives = set(config.losses.active())
    if is_for_items(objectives):
        labels = labels_for(model.config, objectives)
        return ItemBatches(table, processor, config.dataset, labels, batch_size=config.batch_size, seed=config.seed)
    return Batches(table, processor, config.dataset, batch_size=config.batch_size, patch_size=model.config.patch_size,
                   seed=config.seed)  # fmt: skip


def non_finite_message(run: Path, ids: list[str], step: int, losses: dict[str, torch.Tensor], grad_norm: float) -> str:
    values = ", ".join(f"{k} {float(v.detach()):.4g}" for k, v in losses.items())
    return (
        f"step {step}: the loss or its gradient is not finite ({values}, gradient norm {grad_norm:.4g}). "
        f"The step was not applied. Pictures of the batch: {', '.join(ids)}. The last checkpoint in {run} is "
        "untouched; lower peak_lr or look at these pictures, then --resume"
    )


# ---------------------------------------------------------------------------------------------------------- logging
class Log:
    """metrics.jsonl, a progress bar on stderr with throughput and time left, and TensorBoard when asked for."""

    def __init__(self, run: Path, config: TrainConfig, start: int, progress: bool):
        self.path, self.config = run / "metrics.jsonl", config
        self.began, self.last_step, self.last_time, self.last_waited = perf_counter(), start, perf_counter(), 0.0
        self.times: deque[float] = deque([self.began], maxlen=11)
        self.console = Console(file=sys.stderr, quiet=not progress)
        columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
                   TextColumn("{task.fields[note]}"), TimeElapsedColumn(), TimeRemainingColumn()]  # fmt: skip
        self.bar = Progress(*columns, console=self.console, disable=not progress)
        self.task = self.bar.add_task(config.recipe or "train", total=config.steps, completed=start, note="")
        self.board: Any = None
        if config.tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                raise ValueError("tensorboard=true needs the package: pip install omma[tensorboard]") from None
            self.board = SummaryWriter(str(run / "tensorboard"))

    def __enter__(self) -> "Log":
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()
        if self.board:
            self.board.close()

    def say(self, text: str) -> None:
        self.console.print(text, highlight=False)

    def due(self, step: int) -> bool:
        return step % self.config.log_every == 0 or step in (1, self.config.steps)

    def advance(self, step: int, loss: float) -> None:
        """Moves the bar on; the rate is that of the last ten steps, so that a checkpoint's pause is soon forgotten."""
        self.times.append(perf_counter())
        spent = self.times[-1] - self.times[0]
        rate = (len(self.times) - 1) * self.config.batch_size / spent if spent else 0.0
        self.bar.update(self.task, completed=step, note=f"loss {loss:.3f}  {rate:.0f} samples/s")

    def write(self, step: int, waited: float | None = None, **numbers: float) -> None:
        """One line; samples_per_s and data_wait (share of the time spent waiting for data) are since the last line."""
        now = perf_counter()
        row: dict[str, float] = {"step": step, **{k: round(v, 7) for k, v in numbers.items()}}
        if waited is not None:
            elapsed = now - self.last_time
            row["samples_per_s"] = round((step - self.last_step) * self.config.batch_size / max(1e-9, elapsed), 2)
            row["data_wait"] = round((waited - self.last_waited) / max(1e-9, elapsed), 4)
            self.last_step, self.last_time, self.last_waited = step, now, waited
        row["seconds"] = round(now - self.began, 3)
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())
        if self.board:
            for name, value in row.items():
                if name != "step":
                    self.board.add_scalar(name, value, step)
