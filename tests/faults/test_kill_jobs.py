"""kill -9 of a worker or of the process that started it: a rerun redoes at most a chunk a worker."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest

from omma.jobs import Op, run
from omma.table import Table

CHUNKS, ROWS = 5, 4
# A process and its workers do the work; renaming or the op kills the one when it meets what `victim` names.
CHILD = """
import os, signal, sys
from pathlib import Path
import pyarrow as pa
from omma import jobs
from omma.table import Table

uri, log, moment, victim = Path(sys.argv[1]), *sys.argv[2:5]


def die_at(here, name):
    if here == moment and victim in str(name):
        os.kill(os.getpid(), signal.SIGKILL)


real_replace = os.replace


def replace(source, target):
    die_at("before rename", target)          # the tmp file is whole and synced
    real_replace(source, target)
    die_at("after rename", target)           # before the folder is synced


def op(batch):
    with open(log, "a") as file:             # O_APPEND: one line a computed chunk, from any process
        file.write(f"{batch['id'][0].as_py()} {os.getpid()}\\n")
    die_at("in op", batch["id"][0].as_py())
    if moment == "parent":
        os.kill(os.getppid(), signal.SIGKILL)
    return [width * 2 for width in batch["width"].to_pylist()]


os.replace = replace
if __name__ == "__main__":
    table = Table.open(uri)
    jobs.run(table, jobs.Op("n", 1, ("id", "width"), pa.int32(), op), workers=1 if moment == "never" else 2)
    print("finished")
"""


@pytest.fixture
def make(tmp_path):
    def make_table(name="table"):
        table = Table.create(tmp_path / name, chunk_rows=ROWS)
        table.append({"id": f"p{i}", "width": i} for i in range(CHUNKS * ROWS))
        return table

    (tmp_path / "child.py").write_text(CHILD)
    return make_table


def child(tmp_path, table, *arguments):
    command = [sys.executable, str(tmp_path / "child.py"), str(table.uri), str(tmp_path / "log"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=40)


def computed(tmp_path):
    """(first id, process) of each chunk that was computed, in all runs."""
    return [(line.split()[0], int(line.split()[1])) for line in (tmp_path / "log").read_text().splitlines()]


@pytest.mark.parametrize("moment", ["in op", "before rename", "after rename"])
def test_a_killed_worker_of_two_costs_at_most_a_chunk_a_worker(tmp_path, make, moment):
    table = make()
    victim = "p8" if moment == "in op" else "000002.parquet"
    died = child(tmp_path, table, moment, victim)
    assert died.returncode == 1
    assert "a worker process of op 'n' died" in died.stderr
    assert Table.open(table.uri).columns == table.columns
    ended = child(tmp_path, table, "never", "-")
    assert ended.stdout == "finished\n", ended.stderr
    assert len(computed(tmp_path)) <= CHUNKS + 2
    assert Table.open(table.uri).read().equals(unkilled(make))


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_workers_end_when_their_parent_is_killed_and_its_work_is_kept(tmp_path, make):
    table = make()
    died = child(tmp_path, table, "parent", "-")
    assert died.returncode == -signal.SIGKILL, died.stderr
    workers = {process for _, process in computed(tmp_path)}
    assert workers
    deadline = time.monotonic() + 20
    while any(map(runs, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(runs, workers))
    ended = child(tmp_path, table, "never", "-")
    assert ended.stdout == "finished\n", ended.stderr
    assert len(computed(tmp_path)) <= CHUNKS + 2
    assert Table.open(table.uri).read().equals(unkilled(make))


def runs(process):
    """Whether it is there and no zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def doubled(batch):
    return [width * 2 for width in batch["width"].to_pylist()]


def unkilled(make):
    """The rows of a table whose job nobody disturbed."""
    table = make("unkilled")
    run(table, Op("n", 1, ("id", "width"), pa.int32(), doubled))
    return table.read()
