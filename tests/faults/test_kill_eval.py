"""kill -9 of an evaluation that asks an endpoint: what was answered isn't asked again, and the end is the same."""

import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest

from omma.eval.run import evaluate

sys.path.append(str(Path(__file__).parents[1] / "eval"))
from answering_server import Server
from fakes_vlm import Knows, make_questions, rows_of

BATCH, BEFORE = 2, 9


@pytest.mark.slow
def test_an_evaluation_that_is_killed_asks_again_only_what_was_under_way(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    data, knows = make_questions(tmp_path / "data", "pope"), Knows(rows_of("pope"))
    arrived, hold, lock = threading.Event(), threading.Event(), threading.Lock()

    def reply(prompt, images, n):
        if n >= BEFORE and not hold.is_set():                              # from here on nobody gets a reply
            arrived.set()
            hold.wait(60)
        with lock:
            return knows.generate_batch([images], [prompt])[0]

    with Server(reply) as server:
        model = f"openai:m@{server.url}"
        run = subprocess.Popen(
            [sys.executable, "-m", "omma.cli", "eval", model, "pope", "--data", str(data), "--out",
             str(tmp_path / "killed"), "--batch-size", str(BATCH), "--json"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        assert arrived.wait(120)
        run.kill()
        assert run.wait() == -9
        under_way = {(prompt, files) for prompt, files in server.asked[BEFORE - 1 :]}
        hold.set()
        killed = evaluate(model, "pope", data=data, out=tmp_path / "killed", batch_size=BATCH)
        times = Counter(server.asked)
        assert {asked for asked, n in times.items() if n > 1} <= under_way
        assert 1 <= len(under_way) <= BATCH
        whole = evaluate(model, "pope", data=data, out=tmp_path / "whole", batch_size=BATCH)
    assert killed.metrics == whole.metrics
    assert killed.rows.equals(whole.rows)
    assert killed.metrics["headline"]["generate"]["value"] == 1
