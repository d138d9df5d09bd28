"""Jobs: a column is computed once, stale results are never mixed in, and a bad row costs that row."""

import errno
import functools
import importlib
import os

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from omma.jobs import JobReport, Op, fingerprint, run
from omma.table import Table

calls: list[int] = []
BISECTED = [10, 5, 2, 3, 1, 2, 1, 1, 5]                                        # rows p10..p19, of which p13 is bad


@pytest.fixture
def table(tmp_path):
    """35 rows of width 0..34 in 4 chunks."""
    calls.clear()
    made = Table.create(tmp_path / "table", chunk_rows=10)
    made.append({"id": f"p{i}", "width": i} for i in range(35))
    return made


def doubled(batch):
    calls.append(batch.num_rows)
    return pc.multiply(batch["width"], 2)


def not_13(batch):
    calls.append(batch.num_rows)
    widths = batch["width"].to_pylist()
    if 13 in widths:
        raise RuntimeError("unlucky")
    return widths


def scaled(batch, factor):
    return [width * factor for width in batch["width"].to_pylist()]


def load_factor(factor, **_):
    calls.append(-1)
    return factor


def plus(batch, by):
    return [width + by for width in batch["width"].to_pylist()]


def dying(batch):
    if 13 in batch["width"].to_pylist():
        os._exit(9)
    return batch["width"]


def pids(batch):
    return [os.getpid()] * batch.num_rows


def op(function=doubled, name="n", needs=("width",), type=pa.int32(), **more):  # noqa: B008
    return Op(name, more.pop("version", 1), needs, type, function, **more)


def column(table, name="n"):
    return table.read([name])[name].to_pylist()


def test_a_job_adds_its_column_and_running_it_again_computes_nothing(table):
    first = run(table, op())
    assert column(table) == [2 * i for i in range(35)]
    assert (first.column, first.chunks_done, first.chunks_reused, first.rows, first.failed_rows) == ("n", 4, 0, 35, 0)
    assert calls == [10, 10, 10, 5]
    again = run(Table.open(table.uri), op())
    assert (again.chunks_done, again.chunks_reused, again.fingerprint) == (0, 4, first.fingerprint)
    assert calls == [10, 10, 10, 5]
    info = table.column_info("n")
    assert (info["op"], info["version"], info["needs"], info["fingerprint"]) == ("n", 1, ["width"], first.fingerprint)


def test_appended_rows_are_null_until_the_job_runs_again_for_their_chunk_only(table):
    run(table, op())
    table.append([{"id": "late", "width": 50}])
    assert column(table)[-1] is None
    report = run(table, op())
    assert (report.chunks_done, report.chunks_reused, calls[-1]) == (1, 4, 1)
    assert column(table)[-1] == 100


def test_rows_appended_while_a_job_runs_are_computed_before_it_commits(table):
    def slow(batch):
        if not calls:
            Table.open(table.uri).append([{"id": "late", "width": 50}])
        return doubled(batch)

    report = run(table, op(slow))
    assert (report.chunks_done, report.rows, column(table)[-1]) == (5, 36, 100)


@pytest.mark.parametrize("change", [{"version": 2}, {"params": {"k": 1}}, {"type": pa.int64()}, {"function": not_13}])
def test_another_version_params_type_or_function_recomputes_everything(table, change):
    first = run(table, op())
    report = run(table, op(**change), max_error_rate=1.0)
    assert (report.chunks_done, report.chunks_reused) == (4, 0)
    assert report.fingerprint != first.fingerprint
    back = run(table, op())                                                    # the old result is still there
    assert (back.chunks_done, back.fingerprint) == (0, first.fingerprint)
    assert column(table) == [2 * i for i in range(35)]


def test_a_needed_column_that_changed_recomputes_what_depends_on_it(table):
    def copied(batch):
        return batch["n"]

    run(table, op())
    second = op(copied, "m", ("n",))
    run(table, second)
    assert run(table, second).chunks_done == 0
    run(table, op(functools.partial(plus, by=1)))
    report = run(table, second)
    assert (report.chunks_done, column(table, "m")) == (4, [i + 1 for i in range(35)])


def test_a_result_made_before_its_input_reached_a_chunk_is_made_again(table):
    def copied(batch):
        return batch["n"]

    run(table, op())
    table.append([{"id": "late", "width": 50}])
    run(table, op(copied, "m", ("n",)))
    assert column(table, "m")[-1] is None                                      # n is null there
    run(table, op())
    report = run(table, op(copied, "m", ("n",)))
    assert (report.chunks_done, column(table, "m")[-1]) == (1, 100)


def test_a_result_made_from_other_rows_is_not_taken_for_this_tables(table, tmp_path):
    run(table, op())
    other = Table.create(tmp_path / "other", chunk_rows=10)
    other.append({"id": f"p{i}", "width": i + (i == 25)} for i in range(35))
    (table.uri / "cols").rename(other.uri / "cols")
    report = run(other, op())
    assert (report.chunks_done, report.chunks_reused) == (1, 3)
    assert column(other) == [2 * (i + (i == 25)) for i in range(35)]


def test_a_damaged_result_is_computed_again(table):
    path = table.sidecar_path("n", run(table, op()).fingerprint, table.chunks[2])
    whole = path.read_bytes()
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    damage = [b"", b"PAR1 no more", whole[:-1], whole[: len(whole) // 2]]
    damage += [whole[:at] + bytes(8) + whole[at + 8:] for at in range(footer, footer + 40, 8)]
    for data in damage:
        path.write_bytes(data)
        assert run(table, op()).chunks_done == 1
        assert column(table) == [2 * i for i in range(35)]
        assert path.read_bytes() == whole


def test_the_fingerprint_follows_what_the_code_uses_and_not_where_it_stands(table, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)

    def marks(text, name):
        (tmp_path / f"{name}.py").write_text(text)
        module = importlib.import_module(name)
        return fingerprint(op(module.run), table)

    code = "K = 3\ndef times(x):\n    return x * K\ndef run(batch):\n    return [times(x) for x in batch['w']]\n"
    first = marks(code, "ops_a")
    assert marks("import os\n\n" + code, "ops_b") == first
    assert marks(code.replace("K = 3", "K = 4"), "ops_c") != first
    assert marks(code.replace("x * K", "x + K"), "ops_d") != first
    by_1, by_2 = functools.partial(plus, by=1), functools.partial(plus, by=2)
    assert fingerprint(op(by_1), table) != fingerprint(op(by_2), table)

    def closing_over(k):
        return lambda batch: pc.multiply(batch["width"], k)

    assert fingerprint(op(closing_over(1)), table) == fingerprint(op(closing_over(1)), table)
    assert fingerprint(op(closing_over(1)), table) != fingerprint(op(closing_over(2)), table)
    assert fingerprint(op(scaled, setup=load_factor, params={"factor": 1}), table) != fingerprint(
        op(scaled, params={"factor": 1}), table)


# ---- bad rows

def test_a_batch_that_raises_is_halved_down_to_the_bad_row_and_the_others_are_kept(table):
    report = run(table, op(not_13), max_error_rate=0.05)
    assert column(table) == [None if i == 13 else i for i in range(35)]
    assert (report.failed_rows, report.failed_ids) == (1, ("p13",))
    assert calls == [10, *BISECTED, 10, 5]
    assert table.column_info("n")["failed"] == 1
    again = run(table, op(not_13), max_error_rate=0.05)
    assert (again.chunks_done, again.failed_rows, again.failed_ids) == (0, 1, ("p13",))


def test_more_bad_rows_than_allowed_stop_the_job_and_are_named(table):
    with pytest.raises(ValueError, match=r"op 'n' failed on at least 1 rows, where 0 are allowed: p13: RuntimeError"):
        run(table, op(not_13))
    assert "n" not in Table.open(table.uri).columns
    calls.clear()
    run(table, op(not_13), max_error_rate=0.05)
    assert calls == [*BISECTED, 10, 5]                                         # the first chunk was kept
    with pytest.raises(ValueError, match=r"where 0 are allowed: p13: null"):   # what is reused counts too
        run(table, op(not_13))


def test_an_op_that_always_raises_is_stopped_in_its_first_chunk(table):
    def broken(batch):
        calls.append(batch.num_rows)
        raise KeyError("colour")

    with pytest.raises(ValueError, match=r"4 rows, where 3 are allowed: p0: KeyError: 'colour', p1: KeyError"):
        run(table, op(broken), max_error_rate=0.1)
    assert len(calls) < 15


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOSPC])
def test_what_the_machine_ran_out_of_is_no_rows_fault_and_leaves_no_null(table, number):
    def once(batch):
        calls.append(batch.num_rows)
        if len(calls) == 2:
            raise OSError(number, os.strerror(number))
        return batch["width"]

    with pytest.raises(OSError, match=os.strerror(number)):
        run(table, op(once), max_error_rate=1.0)
    assert calls == [10, 10]
    report = run(table, op(once), max_error_rate=1.0)
    assert (report.chunks_done, report.failed_rows, column(table)) == (3, 0, list(range(35)))


@pytest.mark.parametrize(("function", "message"), [
    (lambda batch: [1], r"op 'n' returned 1 values for 10 rows"),
    (lambda batch: ["a"] * batch.num_rows, r"op 'n' returned values that are no int32"),
])
def test_a_wrong_result_is_the_ops_fault_and_not_a_bad_row(table, function, message):
    with pytest.raises(ValueError, match=message):
        run(table, op(function), max_error_rate=1.0)


@pytest.mark.parametrize(("bad", "message"), [
    ({"name": "width"}, "bears the name of a base column"),
    ({"needs": ("nope",)}, "no column 'nope'"),
    ({"needs": ()}, "name at least one column"),
    ({"needs": ("width", "n")}, "not the op's own"),
    ({"params": {"model": object()}}, "params must be what JSON can hold"),
])
def test_an_op_that_cannot_work_is_refused_before_it_starts(table, bad, message):
    with pytest.raises(ValueError, match=message):
        run(table, op(**bad))
    assert calls == []


def test_an_empty_table_gets_an_empty_column(tmp_path):
    table = Table.create(tmp_path)
    report = run(table, op())
    assert (report.chunks_done, report.rows, table.read(["n"]).num_rows) == (0, 0, 0)


def test_a_tail_of_a_list_column_keeps_its_type(table):
    report = run(table, op(lambda batch: [[1, 2]] * batch.num_rows, type=pa.list_(pa.float16(), 2)))
    assert isinstance(report, JobReport)
    assert table.schema.field("n").type == pa.list_(pa.float16(), 2)


# ---- several processes

def test_setup_runs_once_in_a_process_and_its_result_is_handed_to_every_batch(table):
    run(table, op(scaled, setup=load_factor, params={"factor": 3}))
    assert calls == [-1]
    assert column(table) == [3 * i for i in range(35)]


def test_two_workers_compute_what_one_computes_and_in_other_processes(table, tmp_path):
    one = run(table, op(scaled, "one", setup=load_factor, params={"factor": 3}))
    two = run(table, op(scaled, "two", setup=load_factor, params={"factor": 3}), workers=2)
    assert (one.chunks_done, two.chunks_done) == (4, 4)
    assert column(table, "one") == column(table, "two")
    run(table, op(pids, "pid", type=pa.int64()), workers=2)
    assert os.getpid() not in column(table, "pid")


def test_bad_rows_are_found_and_counted_by_workers_too(table):
    report = run(table, op(not_13), workers=2, max_error_rate=0.05)
    assert (report.failed_rows, report.failed_ids) == (1, ("p13",))
    with pytest.raises(ValueError, match="p13: RuntimeError: unlucky"):
        run(table, op(not_13, version=2), workers=2)


def test_a_worker_that_dies_is_told_and_what_others_finished_is_kept(table):
    with pytest.raises(RuntimeError, match=r"a worker process of op 'n' died.*run it again"):
        run(table, op(dying), workers=2)
    assert "n" not in Table.open(table.uri).columns


def test_an_op_that_cannot_be_sent_to_workers_is_refused_with_a_way_out(table):
    with pytest.raises(ValueError, match=r"cannot be sent to 2 workers.*or take workers=1"):
        run(table, op(lambda batch: batch["width"]), workers=2)


def test_progress_is_on_stderr_and_stdout_stays_empty(table, capfd):
    run(table, op(), progress=True)
    shown = capfd.readouterr()
    assert shown.out == ""
    assert "4/4" in shown.err
