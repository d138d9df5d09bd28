"""What a run says while it goes: metrics, the progress bar, and whether it still gets better."""

import json
import math
import os
import sys
import uuid
from collections import deque
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from omma.config import to_dict
from omma.training.config import RunConfig


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
        value = written(row[self.key])  # what a resumed run will know of it
        better = value > self.best
        self.best, self.since = (value, 0) if better else (self.best, self.since + 1)
        return better


def written(value: float) -> float:
    """A number as metrics.jsonl has it: seven digits."""
    return float(f"{value:.7g}")


class Log:
    """metrics.jsonl, a progress bar on stderr with throughput and time left, and one of BOARDS when asked for.

    silent: nothing of this, for all processes of a run but one.
    """

    def __init__(self, run: Path, config: RunConfig, start: int, progress: bool, silent: bool = False):
        self.path, self.config, self.silent = run / "metrics.jsonl", config, silent
        progress = progress and not silent
        self.began, self.last_step, self.last_time, self.last_waited = perf_counter(), start, perf_counter(), 0.0
        self.times: deque[float] = deque([self.began], maxlen=11)
        self.console = Console(file=sys.stderr, quiet=not progress)
        columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
                   TextColumn("{task.fields[note]}"), TimeElapsedColumn(), TimeRemainingColumn()]  # fmt: skip
        self.bar = Progress(*columns, console=self.console, disable=not progress)
        self.task = self.bar.add_task(config.recipe or "train", total=config.steps, completed=start, note="")
        chosen = "tensorboard" if config.tensorboard else config.log
        self.board = (
            Guarded(chosen, BOARDS[chosen](run, config, start), self.say) if chosen in BOARDS and not silent else None
        )

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
        if self.silent:
            return
        now = perf_counter()
        row: dict[str, float] = {"step": step, **{k: written(v) for k, v in numbers.items()}}
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
            self.board.add({name: value for name, value in row.items() if name != "step"}, step)


# --------------------------------------------------------------------------------- other places for the same numbers
class Board(Protocol):
    """Where the numbers of a line go beside metrics.jsonl."""

    def add(self, numbers: dict[str, float], step: int) -> None: ...

    def close(self) -> None: ...


class Guarded:
    """A board that may fail, as one on a server does, and is left alone from then on: it is no reason to end a run."""

    def __init__(self, name: str, board: Board, say: Callable[[str], None]):
        self.name, self.board, self.say, self.step = name, board, say, 0

    def add(self, numbers: dict[str, float], step: int) -> None:
        self.step = step
        self._try(lambda board: board.add(numbers, step))

    def close(self) -> None:
        self._try(lambda board: board.close())

    def _try(self, work: Callable[[Board], None]) -> None:
        try:
            if self.board is not None:
                work(self.board)
        except Exception as error:
            self.board = None
            self.say(f"log={self.name} failed at step {self.step} ({type(error).__name__}: {error}) and gets no more; "
                     "metrics.jsonl has all numbers")  # fmt: skip


class TensorBoard:
    def __init__(self, run: Path, config: RunConfig, start: int):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ValueError("log=tensorboard needs the package: pip install omma[tensorboard]") from None
        # What a killed run wrote after its last checkpoint is shown no more: these steps come again.
        self.writer = SummaryWriter(str(run / "tensorboard"), purge_step=start + 1 if start else 0)

    def add(self, numbers: dict[str, float], step: int) -> None:
        for name, value in numbers.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        self.writer.close()


class WeightsAndBiases:
    """One run there for one run folder: its id lies in wandb_id.txt, and a resumed run goes on under it. Of a step that
    comes again it keeps the first numbers, which are the same."""

    def __init__(self, run: Path, config: RunConfig, start: int):
        try:
            import wandb  # type: ignore[import-not-found]
        except ImportError:
            raise ValueError("log=wandb needs the package: pip install omma[wandb]") from None
        kept = run / "wandb_id.txt"
        if not kept.is_file():
            kept.write_text(uuid.uuid4().hex[:12])
        self.session = wandb.init(project="omma", name=run.name, id=kept.read_text().strip(), resume="allow",
                                  dir=str(run), config=to_dict(config))  # fmt: skip

    def add(self, numbers: dict[str, float], step: int) -> None:
        self.session.log(numbers, step=step)

    def close(self) -> None:
        self.session.finish()


BOARDS: dict[str, Callable[[Path, RunConfig, int], Board]] = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases}
