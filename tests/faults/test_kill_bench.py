"""kill -9 of the bench of visual-token dropping: what was complete is kept, and the end is that of a run left alone."""

import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from omma import cli
from tiny_vlm_folders import save


@pytest.mark.slow
def test_a_bench_that_is_killed_twice_ends_with_the_rows_of_one_that_was_not(tmp_path):
    save("llava", tmp_path / "llava")
    assert cli.run(["scenes", str(tmp_path / "scenes"), "--pictures", "0", "--pairs", "1", "--json"]) == 0
    given = ["bench", "sparsify", str(tmp_path / "llava"), "--data", str(tmp_path / "scenes"), "--methods", "fastv",
             "--budgets", "1/2,1/3", "--timed", "0", "--max-new-tokens", "3", "--precision", "fp32",
             "--json"]  # fmt: skip

    def cells() -> int:
        return len(list(Path(tmp_path / "killed" / "cells").glob("*.json")))

    for wanted in (1, 3):
        run = subprocess.Popen([sys.executable, "-m", "omma.cli", *given, "--out", str(tmp_path / "killed")],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
        while cells() < wanted and run.poll() is None:
            time.sleep(0.02)
        run.kill()
        assert run.wait() == -9, "it ended before it was killed"
    assert cli.run([*given, "--out", str(tmp_path / "killed")]) == 0
    assert cli.run([*given, "--out", str(tmp_path / "whole")]) == 0
    killed, whole = (pq.read_table(tmp_path / name / "rows.parquet") for name in ("killed", "whole"))
    assert killed.equals(whole)
