"""kill -9 and power cuts at every step of every write: the table is the old or the new one, and a rerun ends it."""

import itertools
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import crash
import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked and killed")

CHUNKS = 2                                                # of the table that a job is run on


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder in memory where there is one, and no syncs: nothing is cut off from power here."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else tmp_path_factory.mktemp("crash")
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(dir=memory) as folder:
        patch.setattr(os, "fsync", lambda handle: None)
        yield Path(folder)


@pytest.fixture(scope="module")
def crashed(place) -> Path:
    """<action>/<how>/<step>: what each step of each action leaves, all from one process."""
    starts = [(action, str(crash.start(place / f"{action}-before", action))) for action in crash.ALL]
    command = [sys.executable, crash.__file__, str(place / "crashed"), *itertools.chain(*starts)]
    subprocess.run(command, check=True, timeout=600)
    return place / "crashed"


@pytest.mark.parametrize("action", crash.ALL)
def test_after_a_crash_at_any_step_a_table_is_old_or_new_and_a_rerun_gives_the_same_bytes(place, crashed, action):
    undisturbed = crash.start(place / f"{action}-undisturbed", action)
    old = crash.state(place / f"{action}-before")
    crash.ALL[action](undisturbed)
    new, whole = crash.state(undisturbed), crash.files(undisturbed)
    for how in crash.HOW:
        steps = sorted((crashed / action / how).iterdir(), key=lambda step: int(step.name))
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
