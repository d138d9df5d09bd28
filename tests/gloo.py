"""Processes for tests: forked from a server that has imported torch, so that each is there at once."""

import multiprocessing
import os
import socket
import traceback
from pathlib import Path

import torch


def on(size: int, work, folder: Path, *arguments, fails: bool = False) -> list:
    """What `work(*arguments)` returns on each of `size` processes; with fails, (exit code, traceback)."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pytest", "omma.training.loop", "torch.distributed.fsdp"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder.mkdir(parents=True, exist_ok=True)
    started = [context.Process(target=enter, args=(work, rank, size, port, folder, arguments)) for rank in range(size)]
    for process in started:
        process.start()
    for process in started:
        process.join(300)  # a machine may be busy with much else
        assert process.exitcode is not None, "a process hangs"
    notes = [(folder / f"{rank}.txt").read_text() if (folder / f"{rank}.txt").exists() else "" for rank in range(size)]
    if fails:
        return [(process.exitcode, note) for process, note in zip(started, notes, strict=True)]
    assert [process.exitcode for process in started] == [0] * size, "\n".join(notes)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(size)]


def enter(work, rank: int, size: int, port: int, folder: Path, arguments: tuple) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    try:
        torch.save(work(*arguments), folder / f"{rank}.pt")
    except BaseException:
        (folder / f"{rank}.txt").write_text(traceback.format_exc())
        os._exit(3)
