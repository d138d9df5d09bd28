"""kill -9 of the server while people save: whatever it had acknowledged is there, and the file can be read."""

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
from urllib.parse import urlsplit

import pytest

from omma.eval.annotate.store import open_store
from pair_folders import make_pairs

SERVER = """
import sys
from omma.table import Table
from omma.web.annotate import serve
serve(sys.argv[1], Table.open(sys.argv[2]), ready=lambda url: print(url, flush=True))
"""
ENOUGH = 15  # acknowledged saves, of each of three people, when the server dies


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the server is killed by a signal")
def test_every_save_that_was_acknowledged_survives_kill_9(tmp_path):
    pairs = make_pairs(tmp_path)
    command = [sys.executable, "-c", SERVER, str(pairs.folder), str(pairs.table.uri)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        address = urlsplit(server.stdout.readline().strip())
        acknowledged: dict[str, list[int]] = {f"person-{n}": [] for n in range(3)}
        dead = threading.Event()

        def work(name: str) -> None:
            connection = http.client.HTTPConnection("127.0.0.1", address.port or 0, timeout=30)
            try:
                while not dead.is_set():
                    made = len(acknowledged[name]) + 1
                    fields = {"question": f"is it {made}?"}
                    said = {"annotator": name, "number": 0, "revision": made - 1, "fields": fields}
                    connection.request("POST", address.path + "api/save", json.dumps(said),
                                       {"Content-Type": "application/json"})  # fmt: skip
                    reply = connection.getresponse()
                    acknowledged[name].append(json.loads(reply.read())["revision"])
                    if min(map(len, acknowledged.values())) >= ENOUGH:
                        dead.set()
                        os.kill(server.pid, signal.SIGKILL)  # others are in the middle of theirs
            except (OSError, http.client.HTTPException, ValueError):
                assert dead.is_set()
            finally:
                connection.close()

        threads = [threading.Thread(target=work, args=(name,)) for name in acknowledged]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert server.wait() == -signal.SIGKILL
    store = open_store(pairs.folder)
    for name, revisions in acknowledged.items():
        found, revision = store.find(pairs[0], name)
        assert len(revisions) >= ENOUGH
        assert revisions == list(range(1, len(revisions) + 1))
        assert revision in (len(revisions), len(revisions) + 1)  # the last may be kept though nobody heard of it
        assert found.question == f"is it {revision}?"
    store.close()
