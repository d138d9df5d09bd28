"""kill -9 and power cuts at every step of every write: the table is the old or the new one, and a rerun ends it."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import crash
import pytest

from omma.table import Table

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked and killed")


def start(place: Path, action: str) -> Path:
    """The table to which the action will be done; none for one that makes it."""
    if action != "create":
        table = Table.create(place, chunk_rows=crash.ROWS)
        table.append({"id": f"p{i}", "width": i} for i in range(2 * crash.ROWS))
        table.add_column("there", list(range(2 * crash.ROWS)))
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


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder in memory where there is one, and no syncs: nothing is cut off from power here."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else tmp_path) as folder:
        yield Path(folder)


@pytest.mark.parametrize("action", crash.ACTIONS)
def test_after_a_crash_at_any_step_a_table_is_old_or_new_and_a_rerun_gives_the_same_bytes(place, action):
    before, undisturbed = start(place / "before", action), start(place / "undisturbed", action)
    old = state(before)
    crash.ACTIONS[action](undisturbed)
    new, whole = state(undisturbed), files(undisturbed)
    command = [sys.executable, crash.__file__, action, str(before), str(place / "crashed")]
    subprocess.run(command, check=True, timeout=100)
    for how in crash.HOW:
        steps = sorted((place / "crashed" / how).iterdir(), key=lambda step: int(step.name))
        assert len(steps) > 5
        arrived = []
        for step in steps:
            seen = state(step / "table")
            assert seen in (old, new), (how, step.name)
            arrived.append(seen == new)
            if seen == old:
                crash.ACTIONS[action](step / "table")
                assert state(step / "table") == new, (how, step.name)
            assert files(step / "table") == whole, (how, step.name)
        assert arrived == sorted(arrived), (how, "back to the old one")
        assert (arrived[0], arrived[-1]) == (False, True), (how, "what had returned was lost")
