"""kill -9 at every step of writing: the table stays readable, and a rerun redoes at most a chunk a worker."""

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
# A child process does the work; writing, renaming or the op kills it when it meets what `victim` names the nth time.
CHILD = """
import os, signal, sys
from pathlib import Path
import pyarrow as pa
from omma import jobs, storage
from omma.table import Table

uri, log, moment, victim = Path(sys.argv[1]), *sys.argv[2:5]
nth, workers = map(int, sys.argv[5:7])
met = 0


def die_at(here, name):
    global met
    if here == moment and victim in str(name):
        met += 1
        if met == nth:
            os.kill(os.getpid(), signal.SIGKILL)


real_replace, real_write = os.replace, storage.publish


def replace(source, target):
    die_at("before rename", target)          # the tmp file is whole and synced
    real_replace(source, target)
    die_at("after rename", target)           # before the folder is synced


def publish(path, data):
    die_at("before write", path)
    if moment == "mid write" and victim in str(path):
        half = memoryview(data)[: len(memoryview(data)) // 2]
        (path.parent / f".{path.name}.dead.tmp").write_bytes(half)
        die_at("mid write", path)
    real_write(path, data)


def install():
    import omma.table
    os.replace = replace
    storage.publish = omma.table.publish = publish
    storage.publish_manifest.__globals__["publish"] = publish


def op(batch):
    with open(log, "a") as file:             # O_APPEND: one line a computed chunk, from any process
        file.write(f"{batch['id'][0].as_py()} {os.getpid()}\\n")
    die_at("in op", batch["id"][0].as_py())
    if moment == "parent":
        os.kill(os.getppid(), signal.SIGKILL)
    return [width * 2 for width in batch["width"].to_pylist()]


install()
if __name__ == "__main__":
    table = Table.open(uri)
    if victim == "append":
        victim = sys.argv[7]
        table.append({"id": f"new{i}", "width": i} for i in range(6))
    else:
        jobs.run(table, jobs.Op("n", 1, ("id", "width"), pa.int32(), op), workers=workers)
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


def unfinished(uri):
    return [path.name for path in Path(uri).rglob("*.tmp")]


def computed(tmp_path):
    """(first id, process) of each chunk that was computed, in all runs."""
    return [(line.split()[0], int(line.split()[1])) for line in (tmp_path / "log").read_text().splitlines()]


MOMENTS = ["in op", "before write", "mid write", "before rename", "after rename"]


@pytest.mark.parametrize("nth", [1, 3])
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_job_killed_at_any_step_of_a_chunk_redoes_at_most_that_chunk(tmp_path, make, moment, nth):
    table = make()
    victim = "p" if moment == "in op" else "/cols/"
    died = child(tmp_path, table, moment, victim, nth, 1)
    assert died.returncode == -signal.SIGKILL, died.stderr
    after = Table.open(table.uri)
    assert after.columns == table.columns                                      # nothing half-done is visible
    assert after.read().equals(table.read())
    assert bool(unfinished(table.uri)) == (moment in ("mid write", "before rename"))
    ended = child(tmp_path, table, "never", "-", 0, 1)
    assert ended.stdout == "finished\n", ended.stderr
    assert len(computed(tmp_path)) == CHUNKS + (moment != "after rename")
    assert Table.open(table.uri).read().equals(unkilled(make))


@pytest.mark.parametrize("moment", ["before write", "mid write", "before rename", "after rename"])
def test_a_job_killed_while_it_publishes_the_manifest_recomputes_nothing(tmp_path, make, moment):
    table = make()
    died = child(tmp_path, table, moment, "manifest.json", 1, 1)
    assert died.returncode == -signal.SIGKILL, died.stderr
    after = Table.open(table.uri)
    assert after.columns == table.columns + ["n"] * (moment == "after rename")
    ended = child(tmp_path, table, "never", "-", 0, 1)
    assert ended.stdout == "finished\n", ended.stderr
    assert len(computed(tmp_path)) == CHUNKS
    assert Table.open(table.uri).read().equals(unkilled(make))


@pytest.mark.parametrize("moment", ["in op", "before rename", "after rename"])
def test_a_killed_worker_of_two_costs_at_most_a_chunk_a_worker(tmp_path, make, moment):
    table = make()
    victim = "p8" if moment == "in op" else "000002.parquet"
    died = child(tmp_path, table, moment, victim, 1, 2)
    assert died.returncode == 1
    assert "a worker process of op 'n' died" in died.stderr
    assert Table.open(table.uri).columns == table.columns
    ended = child(tmp_path, table, "never", "-", 0, 2)
    assert ended.stdout == "finished\n", ended.stderr
    assert len(computed(tmp_path)) <= CHUNKS + 2
    assert Table.open(table.uri).read().equals(unkilled(make))


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_workers_end_when_their_parent_is_killed_and_its_work_is_kept(tmp_path, make):
    table = make()
    died = child(tmp_path, table, "parent", "-", 0, 2)
    assert died.returncode == -signal.SIGKILL, died.stderr
    workers = {process for _, process in computed(tmp_path)}
    assert workers
    deadline = time.monotonic() + 20
    while any(map(runs, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(runs, workers))
    ended = child(tmp_path, table, "never", "-", 0, 2)
    assert ended.stdout == "finished\n", ended.stderr
    assert len(computed(tmp_path)) <= CHUNKS + 2
    assert Table.open(table.uri).read().equals(unkilled(make))


@pytest.mark.parametrize(("moment", "victim", "nth"), [
    ("before write", "/base/", 1), ("mid write", "/base/", 2), ("before rename", "/base/", 2),
    ("after rename", "/base/", 2), ("before write", "manifest.json", 1), ("before rename", "manifest.json", 1)])
def test_an_append_killed_before_its_manifest_adds_nothing_and_can_be_repeated(tmp_path, make, moment, victim, nth):
    table = make()
    before = table.read()
    died = child(tmp_path, table, moment, "append", nth, 1, victim)
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert Table.open(table.uri).read().equals(before)
    ended = child(tmp_path, table, "never", "append", 0, 1, "-")
    assert ended.stdout == "finished\n", ended.stderr
    rows = Table.open(table.uri).read(["id", "width"]).to_pylist()
    assert rows == [{"id": f"p{i}", "width": i} for i in range(CHUNKS * ROWS)] + [
        {"id": f"new{i}", "width": i} for i in range(6)]


def test_a_killed_writer_leaves_no_lock_behind(tmp_path, make):
    table = make()
    child(tmp_path, table, "before rename", "append", 1, 1, "manifest.json")
    assert table.append([{"id": "after"}]) == 1


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
