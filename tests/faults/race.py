"""Two processes do something to one table at the same moment: `python race.py FOLDER ROUNDS FIRST-SECOND ...`.

Round n of a pair works on FOLDER/FIRST-SECOND/<n>, which may be a table already, and prints a line: [what became of the
first, of the second].
"""

import json
import os
import sys
import time
from functools import partial
from pathlib import Path

import crash
import pyarrow as pa

from omma.jobs import Op, run
from omma.table import Table


def scaled(batch, by):
    return [width * by for width in batch["width"].to_pylist()]


def times(uri: Path, factor: int) -> None:
    op = Op("times", 1, ("width",), pa.int32(), partial(scaled, by=factor), {"factor": factor})
    run(Table.open(uri), op)


def others(uri: Path) -> None:
    Table.open(uri).append({"id": f"other{i}", "width": -i} for i in range(2 * crash.ROWS))


ACTIONS = {**crash.ACTIONS, "others": others, "by_2": partial(times, factor=2), "by_3": partial(times, factor=3)}


def slow(real):
    def call(*arguments):
        time.sleep(0.002)                                 # room for the other one to come in between
        return real(*arguments)

    return call


def child(action: str, uri: Path, wait: int, tell: int) -> None:
    os.replace = slow(os.replace)
    os.read(wait, 1)
    outcome = "done"
    try:
        ACTIONS[action](uri)
    except Exception as error:                            # for the test to judge; this copy of the parent ends here
        outcome = f"{type(error).__name__}: {error}"
    os.write(tell, outcome.encode())
    os._exit(0)


def main(folder: Path, rounds: int, pairs: list[str]) -> None:
    crash.create(folder / "warm")                         # what is imported late is imported before the forks
    crash.append(folder / "warm")
    crash.job(folder / "warm")
    for pair in pairs:
        for number in range(rounds):
            compete(pair.split("-"), folder / pair / str(number))


def compete(actions: list[str], uri: Path) -> None:
    wait, start = os.pipe()
    ears = []
    for action in actions:
        ear, tell = os.pipe()
        if os.fork() == 0:
            child(action, uri, wait, tell)
        os.close(tell)
        ears.append(ear)
    os.write(start, b"go")
    print(json.dumps([os.read(ear, 10_000).decode() for ear in ears]), flush=True)
    for _ in actions:
        os.wait()
    for handle in (wait, start, *ears):
        os.close(handle)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
