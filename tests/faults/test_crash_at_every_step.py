"""kill -9 and power cuts at every step of every write: the table is the old or the new one, and a rerun ends it."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import crash
import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked and killed")

CHUNKS = 2                                                # of the table that a job is run on


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder in memory where there is one, and no syncs: nothing is cut off from power here."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else tmp_path) as folder:
        yield Path(folder)


@pytest.mark.parametrize("action", crash.ALL)
def test_after_a_crash_at_any_step_a_table_is_old_or_new_and_a_rerun_gives_the_same_bytes(place, action):
    before, undisturbed = crash.start(place / "before", action), crash.start(place / "undisturbed", action)
    old = crash.state(before)
    crash.ALL[action](undisturbed)
    new, whole = crash.state(undisturbed), crash.files(undisturbed)
    command = [sys.executable, crash.__file__, action, str(before), str(place / "crashed")]
    subprocess.run(command, check=True, timeout=100)
    for how in crash.HOW:
        steps = sorted((place / "crashed" / how).iterdir(), key=lambda step: int(step.name))
        assert len(steps) > 5
        arrived = []
        for step in steps:
            seen = crash.state(step / "table")
            assert seen in (old, new), (how, step.name)
            arrived.append(seen == new)
            if seen == old:
                finished = list((step / "table" / "cols").glob("double@*/0*.parquet"))
                crash.computed.clear()
                crash.ALL[action](step / "table")
                assert crash.state(step / "table") == new, (how, step.name)
                assert action != "job" or len(crash.computed) == CHUNKS - len(finished), (how, step.name)
            assert crash.files(step / "table") == whole, (how, step.name)
        assert arrived == sorted(arrived), (how, "back to the old one")
        assert not arrived[0]
        assert arrived[-1], (how, "what had returned was lost")
