"""What a change makes stale is computed again and nothing else is; old and new values never stand side by side."""

import functools
import shutil
from pathlib import Path

import pyarrow as pa
import pytest

from omma.embedding import embed
from omma.jobs import Op, run
from omma.table import Table

ROWS, CHUNK = 20, 4                                       # five chunks
counted: list[int] = []


def scaled(batch, by=1):
    counted.append(batch.num_rows)
    return [width * by for width in batch["width"].to_pylist()]


def shifted(batch):
    counted.append(batch.num_rows)
    return [width + 1 for width in batch["width"].to_pylist()]


def from_n(batch):
    counted.append(batch.num_rows)
    return [value and -value for value in batch["n"].to_pylist()]


def plain(version=1, function=scaled, type=pa.int32(), needs=("width",), **params):  # noqa: B008
    return Op("n", version, needs, type, function, params)


def minus():
    return Op("minus", 1, ("n",), pa.int32(), from_n)


def make(place: Path, chunk: int = CHUNK, changed: int | None = None, rows: int = ROWS) -> Table:
    """A table whose row `changed` differs."""
    table = Table.create(place, chunk_rows=chunk)
    table.append({"id": f"p{i}", "width": i + 100 * (i == changed), "height": 1} for i in range(rows))
    return table


def with_results_of(table: Table, other: Table) -> Table:
    """The table with the files that jobs wrote for another one: as when a base is made anew under old results."""
    shutil.copytree(other.uri / "cols", table.uri / "cols")
    return table


@pytest.fixture
def done(tmp_path) -> Table:
    table = make(tmp_path / "done")
    run(table, plain(model="a"))
    run(table, minus())
    counted.clear()
    return table


def values(table: Table, name: str = "n") -> list:
    return table.read([name])[name].to_pylist()


# change -> (op, how many of five chunks are computed, the values then)
CHANGES = {
    "nothing": (lambda: plain(model="a"), 0, 1),
    "the version": (lambda: plain(2, model="a"), 5, 1),
    "a parameter": (lambda: plain(model="a", k=1), 5, 1),
    "the hash of the model": (lambda: plain(model="b"), 5, 1),
    "the code": (lambda: plain(function=shifted, model="a"), 5, None),
    "what a partial binds": (lambda: plain(function=functools.partial(scaled, by=2), model="a"), 5, 2),
    "the type": (lambda: plain(type=pa.int64(), model="a"), 5, 1),
    "the columns it reads": (lambda: plain(needs=("width", "height"), model="a"), 5, 1),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_op_computes_all_chunks_and_an_unchanged_one_none(done, change):
    make_op, chunks, factor = CHANGES[change]
    report = run(Table.open(done.uri), make_op())
    assert (report.chunks_done, report.chunks_reused, len(counted)) == (chunks, 5 - chunks, chunks)
    expected = [i * factor for i in range(ROWS)] if factor else [i + 1 for i in range(ROWS)]
    assert values(done.refresh()) == expected
    again = run(done, minus())                             # what depends on it follows, and only then
    assert again.chunks_done == chunks
    assert values(done, "minus") == [-value for value in expected]


@pytest.mark.parametrize("row", [0, 9, 19])
def test_one_changed_row_makes_its_chunk_stale_and_no_other(tmp_path, done, row):
    table = with_results_of(make(tmp_path / "changed", changed=row), done)
    report = run(table, plain(model="a"))
    assert (report.chunks_done, report.chunks_reused) == (1, 4)
    assert values(table) == [i + 100 * (i == row) for i in range(ROWS)]
    assert run(table, minus()).chunks_done == 1
    assert values(table, "minus") == [-value for value in values(table)]


@pytest.mark.parametrize(("chunk", "computed", "reused"), [(3, 7, 0), (5, 4, 0), (8, 3, 0), (20, 1, 0), (4, 0, 5)])
def test_another_chunk_size_makes_all_stale(tmp_path, done, chunk, computed, reused):
    table = with_results_of(make(tmp_path / "cut", chunk=chunk), done)
    report = run(table, plain(model="a"))
    assert (report.chunks_done, report.chunks_reused) == (computed, reused)
    assert values(table) == list(range(ROWS))


@pytest.mark.parametrize(("rows", "computed"), [(21, 1), (18, 1), (16, 0), (28, 2)])
def test_more_or_fewer_rows_at_the_end_cost_the_chunks_at_the_end(tmp_path, done, rows, computed):
    table = with_results_of(make(tmp_path / "other", rows=rows), done)
    assert run(table, plain(model="a")).chunks_done == computed
    assert values(table) == list(range(rows))


def test_rows_that_are_appended_cost_their_own_chunks_also_downstream(done):
    done.append({"id": f"late{i}", "width": 50 + i} for i in range(CHUNK + 1))
    assert run(done, minus()).chunks_done == 2             # for them n is not there yet
    assert values(done, "minus")[ROWS:] == [None] * (CHUNK + 1)
    assert [run(done, plain(model="a")).chunks_done, run(done, minus()).chunks_done] == [2, 2]
    assert values(done, "minus") == [-i for i in [*range(ROWS), *range(50, 50 + CHUNK + 1)]]


@pytest.mark.parametrize("stop", range(1, 6))
def test_a_job_stopped_halfway_and_changed_then_has_no_value_of_the_old_one(tmp_path, stop):
    table = make(tmp_path / "table")

    def stopped(batch):
        if len(counted) == stop - 1:
            raise KeyboardInterrupt
        return scaled(batch, 7)

    counted.clear()
    with pytest.raises(KeyboardInterrupt):
        run(table, Op("n", 1, ("width",), pa.int32(), stopped, {"model": "old"}))
    assert "n" not in Table.open(table.uri).columns
    report = run(table, plain(model="new"))
    assert (report.chunks_done, values(table)) == (5, list(range(ROWS)))


def test_an_old_version_comes_back_without_a_computation(done):
    run(done, plain(2, function=shifted, model="a"))
    counted.clear()
    assert run(done, plain(model="a")).chunks_done == 0
    assert run(done, minus()).chunks_done == 0
    assert (counted, values(done, "minus")) == ([], [-i for i in range(ROWS)])


def test_vectors_of_another_encoder_under_the_same_name_are_computed_again(coloured_table, colour_encoder):
    table = Table.open(coloured_table)
    assert [embed(table, colour_encoder).chunks_done for _ in range(2)] == [1, 0]
    colour_encoder.fingerprint = "colours-2"               # the weights changed
    assert embed(table, colour_encoder).chunks_done == 1
