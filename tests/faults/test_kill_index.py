"""kill -9 of a process that fills an index: whatever it said was kept is there, whole, and the next one goes on."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import index_run
import numpy as np
import pytest
from index_run import Means
from PIL import Image

from omma.retrieval.build import build_index
from omma.retrieval.store import Store

# Every transaction is a file, its items, their words and their vectors; its number is said once it has been written.
CHILD = """
import sys
import numpy as np
from omma.retrieval.store import Store

store = Store(sys.argv[1], create=True)
store.add_space("eye-1", "eye", "eye", 16)
n = store.rows("SELECT count(*) FROM file")[0][0]
while True:
    with store.writing() as con:
        file = con.execute("INSERT INTO file (source, path, status) VALUES ('/p', ?, 'ok')", (f"{n}.png",)).lastrowid
        items = [con.execute("INSERT INTO item (file, part, kind) VALUES (?, ?, 'picture')", (file, part)).lastrowid
                 for part in range(3)]
        store.upsert("eye-1", items, np.full((3, 16), n, np.float32))
        for item in items:
            store.write_words(item, f"{n}", "cup", "x" * 2000)
    print(n, flush=True)
    n += 1
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_what_was_said_to_be_kept_is_there_after_kill_9(tmp_path):
    path, said = tmp_path / "index.db", -1
    for kill_after in (1, 7, 30):
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(path)], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        for _ in range(kill_after):
            said = int(child.stdout.readline())
        child.kill()
        rest = child.stdout.read().split("\n")                             # the last line may be cut off
        said = int(rest[-2]) if len(rest) > 1 else said
        assert child.wait() == -signal.SIGKILL
        child.stdout.close()
        with Store(path) as store:
            assert store.rows("PRAGMA integrity_check") == [("ok",)]
            (files,) = store.rows("SELECT count(*) FROM file")[0]
            assert files in (said + 1, said + 2), "one more may have been written than could be said"
            items = [row[0] for row in store.rows("SELECT id FROM item ORDER BY id")]
            assert len(items) == 3 * files
            known = np.repeat(np.arange(files, dtype=np.float16).astype(np.float32), 3)
            np.testing.assert_array_equal(store.get("eye-1", items), np.tile(known[:, None], 16))
            assert len(store.text("cup", 10_000)[0]) == 3 * files


def files_of(path):
    """What anybody who opens the index reads: each file with its items, their words and their vectors."""
    if not path.is_file():
        return {}
    found = {}
    try:
        with Store(path) as store:
            for name, *item in store.rows("SELECT path, digest, part, kind, text, data FROM file LEFT JOIN item ON "
                                          "item.file = file.id LEFT JOIN vector ON item = item.id"):  # fmt: skip
                found.setdefault(name, []).append(tuple(item))
    except ValueError:                                                     # it is being made in this moment
        return {}
    return {name: tuple(sorted(items)) for name, items in found.items()}


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_an_indexing_that_is_killed_loses_nothing_that_could_be_read_and_the_next_one_goes_on(tmp_path):
    folder, path = tmp_path / "photos", tmp_path / "index.db"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(80):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(folder / f"{i:02d}.png")
    (folder / "notes.md").write_text("Buy a lamp.\n\n" + "word " * 1000)
    build_index(folder, tmp_path / "whole.db", encoder=Means(), batch_size=2).close()
    whole = files_of(tmp_path / "whole.db")
    for least in (5, 40):
        child = subprocess.Popen([sys.executable, str(Path(index_run.__file__)), str(folder), str(path)])
        while len(read := files_of(path)) < least:
            assert child.poll() is None
            time.sleep(0.002)
        child.kill()
        assert child.wait() == -signal.SIGKILL
        with Store(path) as store:
            assert store.rows("PRAGMA integrity_check") == [("ok",)]
        assert read.items() <= files_of(path).items() <= whole.items(), "what was read is there, no file in part"
    with build_index(folder, path, encoder=Means(), batch_size=2) as index:
        assert index.last["same"] >= 40
        assert index.last["same"] + index.last["new"] == 81
        assert len(index.store.text("lamp", 5)[0]) == 1
    assert files_of(path) == whole
