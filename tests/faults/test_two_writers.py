"""Two writers on one table at once: both land, or one wins and the other says why; nothing is lost or torn."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import crash
import pytest
import race

from omma.data.export import export
from omma.data.ingest import ingest
from omma.storage import appearing
from omma.table import Table

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
ROUNDS = 6
PAIRS = ("create-create", "append-append", "append-others", "append-add_column", "add_column-replace_column", "job-job",
         "by_2-by_3", "job-append")  # fmt: skip
OLD = [f"p{i}" for i in range(2 * crash.ROWS)]
NEW = [f"new{i}" for i in range(2 * crash.ROWS)]
OTHER = [f"other{i}" for i in range(2 * crash.ROWS)]


@pytest.fixture(scope="module")
def compete(tmp_path_factory):
    """compete(first, second) -> (table, outcomes) of each round; all rounds are run by one process."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else tmp_path_factory.mktemp("race")
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        place = Path(folder)
        for pair in PAIRS:
            for number in range(ROUNDS):
                (place / pair).mkdir(exist_ok=True)
                crash.start(place / pair / str(number), pair.split("-")[0])
        command = [sys.executable, race.__file__, str(place), str(ROUNDS), *PAIRS]
        found = subprocess.run(command, capture_output=True, text=True, timeout=600)
        assert found.returncode == 0, found.stderr
        outcomes = iter(map(json.loads, found.stdout.splitlines()))
        told = {pair: [(place / pair / str(number), next(outcomes)) for number in range(ROUNDS)] for pair in PAIRS}

        def of(first: str, second: str) -> list[tuple[Table, list[str]]]:
            assert list((place / f"{first}-{second}").rglob(".*.tmp")) == []
            return [(Table.open(uri), outcome) for uri, outcome in told[f"{first}-{second}"]]

        yield of


def ids(table: Table) -> list[str]:
    return table.read(["id"])["id"].to_pylist()


def one_won(outcomes: list[str], message: str) -> bool:
    return sorted(outcome == "done" for outcome in outcomes) == [False, True] and any(
        message in outcome for outcome in outcomes)


def test_of_two_who_make_a_table_one_wins(compete):
    for table, outcomes in compete("create", "create"):
        assert one_won(outcomes, f"ValueError: there is a table at {table.uri} already")
        assert table.info == {"made": "here"}


def test_of_two_who_append_the_same_rows_one_wins_and_no_row_comes_twice(compete):
    for table, outcomes in compete("append", "append"):
        assert one_won(outcomes, f"ValueError: {crash.ROWS} duplicate ids in {table.uri}: new0")
        assert ids(table) == OLD + NEW


def test_two_who_append_other_rows_both_land_each_in_one_piece(compete):
    for table, outcomes in compete("append", "others"):
        assert outcomes == ["done", "done"]
        assert ids(table) in (OLD + NEW + OTHER, OLD + OTHER + NEW)


def test_an_append_and_a_column_both_land_and_new_rows_have_null_in_it(compete):
    for table, outcomes in compete("append", "add_column"):
        assert outcomes == ["done", "done"]
        assert ids(table) == OLD + NEW
        halves = table.read(["half"])["half"].to_pylist()
        assert halves[: len(OLD)] == [i / 2 for i in range(len(OLD))]
        assert halves[len(OLD):] in ([None] * len(NEW), [i / 2 for i in range(len(OLD), len(OLD + NEW))])


def test_two_columns_both_land(compete):
    for table, outcomes in compete("add_column", "replace_column"):
        assert outcomes == ["done", "done"]
        assert table.read(["half", "there"]).to_pylist() == [{"half": i / 2, "there": -i} for i in range(len(OLD))]


def test_two_who_run_the_same_job_give_what_one_gives(compete):
    for table, outcomes in compete("job", "job"):
        assert outcomes == ["done", "done"]
        assert table.read(["double"])["double"].to_pylist() == [2 * i for i in range(len(OLD))]


def test_of_two_jobs_for_one_column_the_later_one_stands_and_never_a_mixture(compete):
    for table, outcomes in compete("by_2", "by_3"):
        assert outcomes == ["done", "done"]
        factor = table.column_info("times")["params"]["factor"]
        assert table.read(["times"])["times"].to_pylist() == [factor * i for i in range(len(OLD))]


def test_a_job_and_an_append_both_land_and_each_row_is_computed_or_null(compete):
    for table, outcomes in compete("job", "append"):
        assert outcomes == ["done", "done"]
        assert ids(table) == OLD + NEW
        doubled = table.read(["double"])["double"].to_pylist()
        assert doubled[: len(OLD)] == [2 * i for i in range(len(OLD))]
        assert doubled[len(OLD):] in ([None] * len(NEW), [2 * i for i in range(len(NEW))])


def test_of_two_who_ingest_to_one_place_one_wins_and_the_other_does_no_harm(tmp_path, coloured_table):
    rows = Table.open(coloured_table)
    (tmp_path / "photos").mkdir()
    for row in rows.read(["id", "bytes"]).to_pylist():
        (tmp_path / "photos" / f"{row['id']}.png").write_bytes(row["bytes"])
    out = tmp_path / "out"
    with appearing(out) as part:
        (part / "half").write_text("mine")
        for second in (lambda: ingest(tmp_path / "photos", out), lambda: export(coloured_table, out, to="parquet")):
            with pytest.raises(ValueError, match=f"another process is filling {out}; wait"):
                second()
        assert (part / "half").read_text() == "mine"
    assert [path.name for path in out.iterdir()] == ["half"]
    with pytest.raises(ValueError, match=f"there is something at {out} already"):
        ingest(tmp_path / "photos", out)
    (out / "half").unlink()
    left = tmp_path / ".out.part" / "base"  # of a process that was killed
    left.mkdir(parents=True)
    (left / "000000.parquet").write_text("x")
    assert len(ingest(tmp_path / "photos", out)) == len(rows)
    assert not left.parent.exists()


def test_nothing_is_left_of_a_folder_that_failed(tmp_path):
    def fail() -> None:
        with appearing(tmp_path / "out") as part:
            (part / "half").write_text("x")
            raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        fail()
    assert list(tmp_path.iterdir()) == []
