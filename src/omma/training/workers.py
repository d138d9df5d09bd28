"""Processes that make samples: tasks go to them over pipes, pixels come back through memory that they share.

Nothing of a picture is pickled or copied on its way but once, out of the shared memory into the batch. No torch here.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import traceback
import weakref
from collections.abc import Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np

from omma.training.samples import Rows, SampleMaker

SHARED = Path("/dev/shm")  # where Linux keeps shared memory; containers often have 64 MB of it
PATIENCE = 10.0  # seconds for workers to end by themselves


class Workers:
    """`count` spawned processes around a pickled `maker`, and `slots` of pixels (b, 3, h, w) that all of them see.

    Ended by `close`, at the latest when the object or this program ends. Raises OSError where there is no room for the
    slots. A worker ends by itself when this process is gone.
    """

    def __init__(self, maker: SampleMaker, count: int, slots: int, shape: tuple[int, int, int, int]):
        size = slots * int(np.prod(shape))
        if SHARED.is_dir() and (free := shutil.disk_usage(SHARED).free) < size:
            raise OSError(f"{size >> 20} MB of shared memory are needed for {slots} batches of {shape[0]} pictures, "
                          f"and {SHARED} has {free >> 20} MB left; give it more (docker run --shm-size=8g), or make "
                          "batches in the loop: workers=0")  # fmt: skip
        context = multiprocessing.get_context("spawn")  # fork copies threads' locks in any state, and macOS lacks it
        self.memory = SharedMemory(create=True, size=size)
        self.processes: list[BaseProcess] = []
        self.pipes: list[Connection] = []
        self._end = weakref.finalize(self, _end, self.processes, self.pipes, self.memory)
        self.shape = (slots, *shape)
        try:
            for _ in range(count):
                here, there = context.Pipe()
                self.pipes.append(here)
                with there, _no_interrupts(), _without_main():
                    arguments = there, maker, self.memory.name, self.shape
                    process = context.Process(target=_work, args=arguments, daemon=True)
                    process.start()
                self.processes.append(process)
        except BaseException:
            self.close()
            raise

    def slot(self, number: int) -> np.ndarray:
        """The pixels (b, 3, h, w) of a slot. A view: copy it, and let go of it before `close`."""
        return np.ndarray(self.shape, np.uint8, self.memory.buf)[number]

    def submit(self, worker: int, task: tuple[int, int, np.ndarray, np.ndarray, np.ndarray]) -> None:
        """task: slot, epoch, and for each sample its row in the slot, its place in the epoch and its number."""
        try:
            self.pipes[worker].send(task)
        except OSError:
            self._died(worker)

    def results(self) -> list[tuple[int, Rows]]:
        """What workers have finished, at least one: (worker, what it made), each worker's in the order of its tasks.

        Raises what a worker raised, and RuntimeError that names a worker which was killed.
        """
        ready = wait([*self.pipes, *(process.sentinel for process in self.processes)])
        found = []
        for worker, pipe in enumerate(self.pipes):
            if pipe in ready:
                try:
                    answer = pipe.recv()
                except (EOFError, OSError):
                    self._died(worker)
                if isinstance(answer, _Failure):
                    answer.raise_again()
                found.append((worker, answer))
        if not found:
            self._died(next(i for i, process in enumerate(self.processes) if process.sentinel in ready))
        return found

    def _died(self, worker: int) -> None:
        process = self.processes[worker]
        process.join(PATIENCE)
        code = process.exitcode or 0
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        raise RuntimeError(
            f"worker process {worker} of {len(self.processes)} (pid {process.pid}), which makes batches, {how}: out of "
            "memory, killed, or unable to start. Lower workers or batch_size if memory was short; what was saved is "
            "kept, go on with --resume"
        )

    def close(self) -> None:
        """Ends the processes and gives the shared memory back. Once is enough; more do nothing."""
        self._end()


def _end(processes: list[BaseProcess], pipes: list[Connection], memory: SharedMemory) -> None:
    for pipe in pipes:
        pipe.close()  # which tells a worker to end
    for process in processes:
        process.join(PATIENCE)
        if process.is_alive():
            process.kill()
            process.join()
        process.close()
    memory.close()
    memory.unlink()


@contextlib.contextmanager
def _no_interrupts() -> Iterator[None]:
    """A process started inside never sees Ctrl-C, which goes to all processes: the first one ends the others."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Failure:
    """An exception on its way from a worker."""

    def __init__(self, error: Exception):
        self.error = error if isinstance(error, ValueError | OSError) else None
        self.text = "".join(traceback.format_exception(error))

    def raise_again(self) -> None:
        if self.error is not None:
            raise self.error
        raise RuntimeError(f"a worker process could not make a batch:\n{self.text}")


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """A process started inside does not run the main script again: it has no use for it, and may not survive it (torch
    takes ten times as long to import as all that is needed here, and not every script minds that it is run twice)."""
    main = sys.modules["__main__"]
    hidden = {name: vars(main).pop(name) for name in ("__spec__", "__file__") if name in vars(main)}
    main.__spec__ = None
    try:
        yield
    finally:
        vars(main).update(hidden)


def _work(pipe: Connection, maker: SampleMaker, name: str, shape: tuple[int, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ |= {"TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}  # there are enough processes
    try:
        memory = SharedMemory(name)
    except FileNotFoundError:  # it was all over before it began
        return
    tasks: SimpleQueue[Any] = SimpleQueue()
    threading.Thread(target=_receive, args=(pipe, tasks), daemon=True).start()
    slots = np.ndarray(shape, np.uint8, memory.buf)
    while True:
        slot, epoch, rows, places, numbers = tasks.get()
        try:
            answer: Any = maker(epoch, places, numbers, [slots[slot, row] for row in rows.tolist()])
        except Exception as error:
            answer = _Failure(error)
        with contextlib.suppress(OSError):  # the other end is closed, of which `_receive` hears too
            pipe.send(answer)


def _receive(pipe: Connection, tasks: SimpleQueue[Any]) -> None:
    """Takes tasks as they come, so that neither end of the pipe ever waits for the other to read; ends the process with
    its pipe, whatever it is at."""
    while True:
        try:
            tasks.put(pipe.recv())
        except (EOFError, OSError):
            os._exit(0)
