"""A full disk, a folder that can't be written, too many open files: an error that says so, and a table as it was."""

import builtins
import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import crash
import pytest

from omma.table import Table

resource = pytest.importorskip("resource", reason="no limits to be set there")
CHANGES = [(builtins, "open"), (os, "fsync"), (os, "replace"), (os, "mkdir")]
WARM = """
import errno, json, os, random, resource, shutil, sys
sys.path.insert(0, sys.argv[1])
import crash
from pathlib import Path
from omma.jobs import Op, run
from omma.table import Table
import pyarrow as pa

uri, warm = Path(sys.argv[2]), Path(sys.argv[2] + "-warm")
crash.start(warm, "-")                       # what is imported late is imported now
for action in ("append", "add_column", "job"):
    crash.ACTIONS[action](warm)

def tried(action, *arguments):
    try:
        action(*arguments)
    except OSError as error:
        return [errno.errorcode[error.errno], str(error)]
    return "done"

def large(n=300_000):
    return [{"id": "large", "bytes": random.Random(0).randbytes(n)}]
"""


def child(code: str, uri: Path, *before: str):
    """What the code prints, run in a process of its own after WARM."""
    command = [*before, sys.executable, "-c", WARM + code, str(Path(crash.__file__).parent), str(uri)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert found.returncode == 0, found.stderr
    return json.loads(found.stdout)


@pytest.fixture
def place():
    """A folder that any user may enter."""
    shared = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=shared) as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


def leftovers(uri: Path) -> list[Path]:
    return [*uri.rglob("*.tmp"), *uri.rglob(".*.tmp")]


def tried(action: str, uri: Path) -> OSError | None:
    try:
        crash.ACTIONS[action](uri)
    except OSError as error:
        return error
    return None


@pytest.mark.parametrize("action", crash.ACTIONS)
def test_a_disk_that_is_full_at_any_step_leaves_the_old_table_and_says_where_and_what_to_do(place, monkeypatch, action):
    before, undisturbed = crash.start(place / "before", action), crash.start(place / "undisturbed", action)
    crash.ACTIONS[action](undisturbed)
    old, new, whole = crash.state(before), crash.state(undisturbed), crash.files(undisturbed)
    step = 0
    while True:
        uri, left = place / str(step), step
        if before.exists():
            shutil.copytree(before, uri)

        def failing(real):
            def call(*arguments, **options):
                nonlocal left
                if real is open and arguments[1:] != ("wb",):
                    return real(*arguments, **options)
                left -= 1
                if left == -1:
                    raise OSError(errno.ENOSPC, "No space left on device")
                return real(*arguments, **options)

            return call

        with monkeypatch.context() as patch:
            for module, name in CHANGES:
                patch.setattr(module, name, failing(getattr(module, name)))
            error = tried(action, uri)
        if error is None:
            break
        assert error.errno == errno.ENOSPC
        assert "No space left on device; make room and run it again" in str(error)
        assert str(error.filename).startswith(str(place))
        assert leftovers(uri) == []
        if crash.state(uri) != new:                        # but for the sync of the manifest's name, which comes last
            assert crash.state(uri) == old
            crash.ACTIONS[action](uri)
        assert crash.files(uri) == whole
        step += 1
    assert step > 4


def test_a_limit_on_the_size_of_a_file_stops_appends_and_jobs_and_the_table_stays(place):
    uri = crash.start(place / "table", "-")
    before = crash.files(uri)
    found = child("""
def wide(batch):
    return [list(random.Random(i).randbytes(40_000)) for i in range(batch.num_rows)]

table = Table.open(uri)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
print(json.dumps([
    tried(table.append, large()), tried(run, table, Op("wide", 1, ("id",), pa.list_(pa.uint8()), wide)),
    tried(table.append, [{"id": "small"}]), len(table), table.columns == Table.open(uri).columns]))
""", uri)
    assert [found[0][0], found[1][0], *found[2:]] == ["EFBIG", "EFBIG", "done", 2 * crash.ROWS + 1, True]
    assert "base/000002.parquet" in found[0][1]
    assert "cols/wide@" in found[1][1]
    assert leftovers(uri) == []
    after = crash.files(uri)
    assert {name: after[name] for name in before if name != "manifest"} | {"manifest": before["manifest"]} == before


def test_a_worker_that_meets_a_full_disk_says_so_in_the_process_that_started_it(place):
    uri = crash.start(place / "table", "-")
    found = child("""
if __name__ == "__main__":
    table = Table.open(uri)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))
    double = Op("double", 1, ("width",), pa.int32(), crash.doubled)
    print(json.dumps(tried(lambda: run(table, double, workers=2))))
""", uri)
    assert found[0] == "EFBIG"
    assert "cols/double@" in found[1]
    crash.job(uri)
    assert Table.open(uri).read(["double"])["double"].to_pylist() == [0, 2, 4, 6, 8, 10]


def mounts(place: Path) -> bool:
    if shutil.which("unshare") is None:
        return False
    command = ["unshare", "-rm", "mount", "-t", "tmpfs", "none", str(place)]
    return subprocess.run(command, capture_output=True).returncode == 0


def test_on_a_real_disk_of_250_kb_what_fits_is_kept_and_a_read_only_one_can_be_read(place):
    if not mounts(place):
        pytest.skip("a file system of its own can't be mounted here")
    inside = ["unshare", "-rm", "sh", "-c", 'mount -t tmpfs -o size=250k none "$0" && exec "$@"', str(place)]
    found = child("""
shutil.rmtree(warm)
table = Table.create(uri)
table.append([{"id": "first", "width": 1}])
full = tried(table.append, large())
kept = Table.open(uri).read(["id"])["id"].to_pylist()
left = [path.name for path in uri.rglob("*.tmp")]
small = tried(table.append, [{"id": "small", "width": 2}])
remounted = os.system(f"mount -o remount,ro {uri.parent}")
locked = tried(table.append, [{"id": "late"}])
job = tried(run, table, Op("double", 1, ("width",), pa.int32(), crash.doubled))
widths = Table.open(uri).read(["width"])["width"].to_pylist()
print(json.dumps([full, kept, left, small, remounted, locked, job, widths]))
""", place / "table", *inside)
    full, kept, left, small, remounted, locked, job, widths = found
    assert full[0] == "ENOSPC"
    assert "No space left on device; make room" in full[1]
    assert "base/000001.parquet" in full[1]
    assert (kept, left, small, remounted, widths) == (["first"], [], "done", 0, [1, 2])
    assert (locked[0], job[0]) == ("EROFS", "EROFS")


def test_a_table_that_may_not_be_written_can_be_read_and_an_append_or_a_job_says_so(place):
    uri = crash.start(place / "table", "-")
    (uri / ".lock").unlink()
    for path in [uri, *uri.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = crash.files(uri)
    found = child("""
Table.open(uri).select("width > 3").read(["id"])    # what pyarrow loads late; its files may be root's alone
Table.open(uri).take(["p1"])
if os.geteuid() == 0:
    os.setuid(65534)                         # root may write anywhere
table = Table.open(uri)
double = Op("double", 1, ("width",), pa.int32(), crash.doubled)
print(json.dumps([tried(table.append, [{"id": "new"}]), tried(run, table, double), tried(Table.create, uri / "a" / "b"),
                  table.select("width > 3").read(["id"])["id"].to_pylist(), table.take(["p1"])["there"].to_pylist()]))
""", uri)
    *refused, large, first = found
    assert [code for code, _ in refused] == ["EACCES"] * 3
    assert all("Permission denied; write where you may" in text and str(uri) in text for _, text in refused)
    assert (large, first) == (["p4", "p5"], [1])
    assert crash.files(uri) == before
    for path in [uri, *uri.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)


def test_a_file_where_a_folder_should_be_is_named(place):
    (place / "file").write_text("notes")
    with pytest.raises(ValueError, match="is a file; a table is a folder"):
        crash.create(place / "file")
    with pytest.raises(OSError, match=r"Not a directory.*file") as raised:
        crash.create(place / "file" / "table")
    assert raised.value.errno == errno.ENOTDIR
    uri = crash.start(place / "table", "-")
    before = crash.state(uri)
    (uri / "cols").rename(uri / "aside")
    (uri / "cols").write_text("no folder")
    with pytest.raises(OSError, match="cols"):
        crash.add_column(uri)
    (uri / "cols").unlink()
    (uri / "aside").rename(uri / "cols")
    assert crash.state(uri) == before


def test_with_too_few_open_files_an_action_is_done_whole_or_not_at_all(place):
    for action in crash.ACTIONS:
        crash.start(place / action, action)
    told = child("""
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
told = {}
for action, spare in [(action, spare) for action in crash.ACTIONS for spare in range(8)]:
    place = Path(f"{uri / action}-{spare}")
    if (uri / action).exists():
        shutil.copytree(uri / action, place)
    held = []
    try:
        while True:
            held.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        pass
    for _ in range(spare):
        os.close(held.pop())
    told.setdefault(action, []).append(tried(crash.ACTIONS[action], place))
    for handle in held:
        os.close(handle)
print(json.dumps(told))
""", place)
    assert told.keys() == crash.ACTIONS.keys()
    for action, outcomes in told.items():
        undisturbed = crash.start(place / f"{action}-undisturbed", action)
        crash.ACTIONS[action](undisturbed)
        old, new = crash.state(place / action), crash.state(undisturbed)
        for spare, outcome in enumerate(outcomes):
            uri = place / f"{action}-{spare}"
            assert leftovers(uri) == []
            if outcome != "done":
                assert outcome[0] == "EMFILE"
                assert crash.state(uri) == old, (action, spare)
                crash.ACTIONS[action](uri)
            assert crash.state(uri) == new, (action, spare)
        assert (outcomes[0][0], outcomes[-1]) == ("EMFILE", "done"), action
