"""Do something to a table once for each of its steps, and crash there: `python crash.py OUT ACTION START ...`.

A step is a call that changes the disk: a file opened to be written, a sync, a rename, a new folder, a file removed. The
nth run works on OUT/ACTION/<how>/<n>/table, a copy of START, and is killed by SIGKILL before its nth step; the last one
when the action has returned. What the disk then looks like:

    kill        as the process left it
    power       without the names, and with half the bytes, of what was not synced
    reordered   the same, but the last rename had reached the disk before all else
"""

import builtins
import contextlib
import json
import os
import shutil
import signal
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from omma.data.ingest import ingest
from omma.jobs import Op, run
from omma.table import Table

ROWS = 3                                                  # in a chunk
HOW = ("kill", "power", "reordered")


computed: list[int] = []                                  # rows of each batch, in this process


def doubled(batch):
    computed.append(batch.num_rows)
    return [width * 2 for width in batch["width"].to_pylist()]


def create(uri: Path) -> None:
    Table.create(uri, chunk_rows=ROWS, info={"made": "here"})


def append(uri: Path) -> None:
    rows = [{"id": f"new{i}", "width": i} for i in range(2 * ROWS)]
    Table.open(uri).append(rows, info={"appended": len(rows)})


def add_column(uri: Path) -> None:
    table = Table.open(uri)
    table.add_column("half", [i / 2 for i in range(len(table))])


def replace_column(uri: Path) -> None:
    table = Table.open(uri)
    table.add_column("there", [-i for i in range(len(table))])


def job(uri: Path) -> None:
    run(Table.open(uri), Op("double", 1, ("width",), pa.int32(), doubled))


def read_in(uri: Path) -> None:
    ingest(next(place / "pictures" for place in uri.parents if (place / "pictures").is_dir()), uri)


ACTIONS: dict[str, Callable[[Path], None]] = {
    "create": create, "append": append, "add_column": add_column, "replace_column": replace_column, "job": job}
ALL = {**ACTIONS, "read_in": read_in}


def start(place: Path, action: str) -> Path:
    """The table to which the action will be done; none for one that makes it."""
    if action == "read_in":
        (place.parent / "pictures").mkdir(exist_ok=True)
        for number in range(3):
            noise = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(noise).save(place.parent / "pictures" / f"{number}.png")
    elif action != "create":
        table = Table.create(place, chunk_rows=ROWS)
        table.append({"id": f"p{i}", "width": i} for i in range(2 * ROWS))
        table.add_column("there", list(range(2 * ROWS)))
    return place


def state(uri: Path):
    """All that a reader can see, None when there is no table."""
    if not (uri / "manifest.json").exists():
        with pytest.raises(ValueError, match="no table at"):
            Table.open(uri)
        return None
    table = Table.open(uri)
    return table.read().to_pylist(), table.schema.to_string(), table.chunks, table.info


def files(uri: Path) -> dict[str, bytes]:
    """Path -> bytes of all that the manifest names, and the manifest without the times in it."""
    found = {str(path.relative_to(uri)): path.read_bytes() for path in uri.rglob("*.parquet")}
    manifest = json.loads((uri / "manifest.json").read_bytes())
    for column in manifest["columns"].values():
        del column["created"]
    return found | {"manifest": json.dumps({**manifest, "checksum": ""}).encode()}


class Disk:
    """What the process did to the disk, how to undo what was not synced, and when to crash."""

    def __init__(self, steps: int, how: str, kept: Path):
        self.steps, self.how, self.kept = steps, how, kept
        self.undo: list[tuple[Path, str, Callable[[], Any]]] = []              # folder, what was done, how to undo it
        self.unsynced: dict[int, Path] = {}                                    # files by inode
        kept.mkdir()
        for module, name in [(builtins, "open"), (os, "fsync"), (os, "replace"), (os, "rename"), (os, "mkdir"),
                             (os, "unlink"), (os, "remove"), (os, "rmdir")]:
            setattr(module, name, self.stepping(getattr(module, name), getattr(self, f"{name}d", None)))

    def stepping(self, real: Callable, done: Callable | None) -> Callable:
        def call(*args, **options):
            if real is OPEN and not set("wax") & set(args[1] if len(args) > 1 else "r"):
                return real(*args, **options)
            self.steps -= 1
            if self.steps == 0:
                self.crash()
            return done(real, *args, **options) if done else real(*args, **options)

        return call

    def opend(self, real, path, *rest, **options):
        new = not os.path.exists(path)
        file = real(path, *rest, **options)
        if new:
            self.undo.append((Path(path).parent, "open", lambda: UNLINK(path)))
        self.unsynced[os.fstat(file.fileno()).st_ino] = Path(path)
        return file

    def fsyncd(self, _, handle):
        """Only noted: what would be lost is undone by hand, and real syncs take most of a run's time."""
        found = os.fstat(handle)
        if stat.S_ISDIR(found.st_mode):
            self.undo = [entry for entry in self.undo if not os.path.samestat(found, os.stat(entry[0]))]
        self.unsynced.pop(found.st_ino, None)

    def replaced(self, real, source, target):
        backup = self.kept / str(len(list(self.kept.iterdir())))
        if os.path.exists(target):
            os.link(target, backup)
        real(source, target)
        inode = os.stat(target).st_ino
        if inode in self.unsynced:
            self.unsynced[inode] = Path(target)
        self.undo.append((Path(target).parent, "rename", lambda: REPLACE(*(
            (backup, target) if backup.exists() else (target, source)))))

    renamed = replaced

    def mkdird(self, real, path, *rest, **options):
        real(path, *rest, **options)
        self.undo.append((Path(path).parent, "mkdir", lambda: shutil.rmtree(path)))

    def crash(self) -> None:
        os.unlink, os.rmdir = UNLINK, RMDIR
        if self.how != "kill":
            for path in self.unsynced.values():
                with contextlib.suppress(FileNotFoundError):
                    os.truncate(path, path.stat().st_size // 2)
            last = next((entry for entry in reversed(self.undo) if entry[1] == "rename"), None)
            for entry in reversed(self.undo):
                if self.how == "power" or entry is not last:
                    with contextlib.suppress(FileNotFoundError):
                        entry[2]()
        os.kill(os.getpid(), signal.SIGKILL)


OPEN, UNLINK, RMDIR, REPLACE = open, os.unlink, os.rmdir, os.replace


def main(action: str, start: Path, out: Path) -> None:
    warm = out / "warm"                                   # what is imported late is imported before the forks
    for prepare in (create, append):
        prepare(warm)
    with contextlib.suppress(ValueError):                 # what is there can't be made again
        ALL[action](warm)
    for how in HOW:
        for step in range(1, 1000):
            place = out / how / str(step)
            place.mkdir(parents=True)
            if start.exists():
                shutil.copytree(start, place / "table")
            child = os.fork()
            if child == 0:
                disk = Disk(step, how, place / "kept")
                try:
                    ALL[action](place / "table")
                    os.mkdir = MKDIR
                    (place / "returned").mkdir()
                    disk.crash()
                finally:
                    os._exit(1)
            status = os.waitpid(child, 0)[1]
            assert os.WIFSIGNALED(status), f"step {step} did not end by a signal but by {status}"
            if (place / "returned").exists():
                break

MKDIR = os.mkdir
if __name__ == "__main__":
    for name, at in zip(sys.argv[2::2], sys.argv[3::2], strict=True):
        main(name, Path(at), Path(sys.argv[1]) / name)
