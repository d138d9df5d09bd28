"""Run an op over a table: one new column, chunk by chunk, so that a stopped job goes on where it was.

    def side(batch):
        return pc.max_element_wise(batch["width"], batch["height"])

    run(table, Op("side", 1, ("width", "height"), pa.int32(), side))      # 4 chunks computed
    run(table, Op("side", 1, ("width", "height"), pa.int32(), side))      # 4 chunks reused

A chunk's result is valid when its path carries the op's fingerprint and its metadata the digest of the rows it was made
from. So a restart is a list of files: what is missing or was made from something else is computed, the rest stays.
"""

from __future__ import annotations

import errno
import functools
import inspect
import json
import multiprocessing
import os
import pickle
import threading
import time
import types
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from omma.table import Chunk, Table, digest, some

# errors of the machine, not of a row: the next row fares no better, and all rows fare well when it is mended
MACHINE = {errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EDQUOT, errno.ENOMEM}


@dataclass(frozen=True)
class Op:
    """A column and how to compute it.

    run(batch) -> array of type, one value a row; batch has the columns of `needs`. It must depend on the batch and
    `params` only. With setup, called once in every process as setup(**params), it is run(batch, state) with what setup
    returned, a loaded model, say. All is computed anew when `version`, params, a needed column or the source changes:
    that of run and setup, with the functions and constants they name in their own module.
    """

    name: str
    version: int
    needs: tuple[str, ...]
    type: pa.DataType
    run: Callable[..., Any]
    params: dict[str, Any] = field(default_factory=dict)
    setup: Callable[..., Any] | None = None


@dataclass(frozen=True)
class JobReport:
    """chunks_done + chunks_reused = the table's chunks; failed_rows of its rows are null because run raised on them."""

    column: str
    fingerprint: str
    chunks_done: int
    chunks_reused: int
    rows: int
    failed_rows: int
    seconds: float
    failed_ids: tuple[str, ...] = ()                      # the first hundred


def fingerprint(op: Op, table: Table) -> str:
    """32 hex digits of everything the column depends on: name, version, params, source, needed columns' fingerprints.

    Raises ValueError for params JSON can't hold, and for a needed column that isn't there.
    """
    try:
        params = json.dumps(op.params, sort_keys=True)
    except TypeError as error:
        raise ValueError(f"op {op.name!r}: params must be what JSON can hold, and {error}. Give numbers, strings, "
                         "lists and dicts; for a model, the hash of its weights") from None
    source = [*_source(op.run), *(_source(op.setup) if op.setup else ())]
    return digest(op.name, str(op.version), str(op.type), params, *_inputs(op, table), "", *source)


def _inputs(op: Op, table: Table) -> list[str]:
    return [f"{name}={table.column_info(name)['fingerprint']}" for name in sorted(op.needs)]


def run(table: Table, op: Op, *, workers: int = 1, progress: bool = False, max_error_rate: float = 0.001) -> JobReport:
    """Compute op's column where it is missing, commit it to the table, and say what was done.

    workers=1 computes in this process; more are spawned, and op must then be importable there (no lambda). A batch for
    which op.run raises is halved until the bad rows are found; they are null and counted. Raises ValueError, naming
    the bad rows, when more than max_error_rate of the table's rows failed, when run returns another type or number of
    values, or when the op bears a base column's name; RuntimeError when a worker process died. What was computed till
    then is kept.
    """
    start = time.monotonic()
    computed: set[str] = set()
    with progress_bar(op.name, "chunks", progress) as advance:
        while True:
            table.refresh()
            _check(op, table, workers)
            mark, inputs = fingerprint(op, table), _inputs(op, table)
            notes = {chunk.name: table.sidecar_note(op.name, mark, chunk, op.needs) for chunk in table.chunks}
            missing = [chunk for chunk in table.chunks if notes[chunk.name] is None]
            bad_rows = {name: (note or {}).get("failed", []) for name, note in notes.items()}       # in row order
            allowed = int(max_error_rate * table.num_rows)
            advance(len(table.chunks) - len(missing), len(table.chunks))
            with closing(_compute(table, op, mark, missing, allowed, workers)) as results:
                for chunk, bad in results:
                    computed.add(chunk)
                    advance(1, None)
                    bad_rows[chunk] = bad
                    if sum(map(len, bad_rows.values())) > allowed:
                        break                             # before the other chunks are computed in vain
            failed = [name for bad in bad_rows.values() for name in bad]
            if len(failed) > allowed:
                raise _too_many(op, [f"{name}: null" for name in failed], allowed)
            info = {"op": op.name, "version": op.version, "params": op.params, "needs": list(op.needs),
                    "failed": len(failed)}
            behind = table.commit_column(op.name, mark, op.type, needs=op.needs, info=info)
            if not behind and inputs == _inputs(op, table):
                break                                     # else others appended rows or changed an input meanwhile
    return JobReport(op.name, mark, len(computed), len(table.chunks) - len(computed), table.num_rows, len(failed),
                     time.monotonic() - start, tuple(failed[:100]))


def _compute(table: Table, op: Op, mark: str, missing: list[Chunk], allowed: int,
             workers: int) -> Generator[tuple[str, list[str]], None, None]:
    """(chunk, ids of its failed rows) for each chunk, as soon as it is on disk."""
    if workers <= 1 or len(missing) <= 1:
        worker = _Worker(table, op, mark, allowed) if missing else None
        for chunk in missing:
            assert worker is not None
            yield chunk.name, worker(chunk)
        return
    pool = spawned_pool(min(workers, len(missing)), _start_worker, table, op, mark, allowed)
    try:
        waiting = {pool.submit(_work, chunk): chunk for chunk in missing}
        for done in as_completed(waiting):
            yield waiting[done].name, done.result()
    except BrokenProcessPool as error:
        raise RuntimeError(f"a worker process of op {op.name!r} died: out of memory, killed, or unable to start (a "
                           "script that uses workers needs `if __name__ == '__main__':`). Finished chunks are kept; "
                           "run it again") from error
    finally:
        pool.shutdown(cancel_futures=True)


class _Worker:
    """What a process keeps between chunks: the snapshot of the table, the op and the state of its setup."""

    def __init__(self, table: Table, op: Op, mark: str, allowed: int):
        self.table, self.op, self.mark, self.allowed = table, op, mark, allowed
        self.state = (op.setup(**op.params),) if op.setup else ()

    def __call__(self, chunk: Chunk) -> list[str]:
        op = self.op
        batch = self.table.chunk_batch(chunk, [*op.needs, "id"])
        failures: list[tuple[str, Exception]] = []
        pieces = self._guarded(batch.select(list(op.needs)), batch["id"], failures)
        failed = [name for name, _ in failures]
        values = pa.chunked_array(pieces, op.type)
        self.table.write_sidecar(op.name, self.mark, chunk, values, op.needs, {"failed": failed})
        return failed

    def _guarded(self, batch: pa.RecordBatch, ids: pa.Array,
                 failures: list[tuple[str, Exception]]) -> list[pa.Array]:
        """The values, piece by piece; a row that can't be computed is null, and in failures."""
        try:
            values = self.op.run(batch, *self.state)
        except Exception as error:                        # whatever an op raises on a bad row is that row's failure
            if isinstance(error, OSError) and error.errno in MACHINE:
                raise
            if batch.num_rows > 1:
                half = batch.num_rows // 2
                return (self._guarded(batch.slice(0, half), ids.slice(0, half), failures)
                        + self._guarded(batch.slice(half), ids.slice(half), failures))
            failures.append((ids[0].as_py(), error))
            if len(failures) > self.allowed:              # more will follow, and each costs a run
                listed = [f"{name}: {type(error).__name__}: {error}" for name, error in failures]
                raise _too_many(self.op, listed, self.allowed) from error
            return [pa.nulls(1, self.op.type)]
        return self._checked(values, batch.num_rows)

    def _checked(self, values: Any, rows: int) -> list[pa.Array]:
        op = self.op
        try:
            array = values if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(values, op.type)
            array = array if array.type == op.type else array.cast(op.type)
        except (pa.ArrowException, TypeError) as error:
            raise ValueError(f"op {op.name!r} returned values that are no {op.type}: {error}") from None
        if len(array) != rows:
            raise ValueError(f"op {op.name!r} returned {len(array)} values for {rows} rows; it must give one a row")
        return array.chunks if isinstance(array, pa.ChunkedArray) else [array]


def _too_many(op: Op, rows: list[str], allowed: int) -> ValueError:
    return ValueError(f"op {op.name!r} failed on at least {len(rows)} rows, where {allowed} are allowed: {some(rows)}. "
                      "Mend the op or the rows, or raise max_error_rate")


def spawned_pool(workers: int, start: Callable[..., None] | None = None, *arguments: Any) -> ProcessPoolExecutor:
    """Worker processes that share nothing with this one, each begun by start(*arguments), and that end when it ends."""
    context = multiprocessing.get_context("spawn")        # fork copies threads' locks in any state, and macOS lacks it
    return ProcessPoolExecutor(workers, context, _begin, (start, arguments))


def _begin(start: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    if start is not None:
        start(*arguments)


def _start_worker(table: Table, op: Op, mark: str, allowed: int) -> None:
    global _worker
    _worker = _Worker(table, op, mark, allowed)


def _leave_with_parent() -> None:
    """A parent killed with -9 can't stop its workers, and they would wait for tasks for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(chunk: Chunk) -> list[str]:
    assert _worker is not None
    return _worker(chunk)


_worker: _Worker | None = None                            # one a process: how an initializer hands it over


def _check(op: Op, table: Table, workers: int) -> None:
    if op.name in table.columns and table.column_info(op.name)["fingerprint"] == "base":
        raise ValueError(f"op {op.name!r} bears the name of a base column of {table.uri}; give it another name")
    if not op.needs or op.name in op.needs:
        raise ValueError(f"op {op.name!r} needs {op.needs}; name at least one column, and not the op's own")
    if workers > 1:
        try:
            pickle.dumps(op)
        except Exception as error:                        # pickling runs foreign code: it may raise anything
            raise ValueError(f"op {op.name!r} cannot be sent to {workers} workers: {error}. Define its functions at "
                             "the top of a module and let setup load what they use, or take workers=1") from None


def _source(function: Any, seen: set[int] | None = None) -> list[str]:
    """The text of a function, what it closes over, and the functions and constants of its own module that it names."""
    seen = set() if seen is None else seen
    if isinstance(function, functools.partial):
        bound = [*enumerate(function.args), *sorted(function.keywords.items())]
        return [*(f"{name}={value!r}" for name, value in bound if _constant(value)), *_source(function.func, seen)]
    function = inspect.unwrap(getattr(function, "__func__", function))
    if not isinstance(function, types.FunctionType):
        # a class or an object with __call__; what is written in C has a name only
        kind = function if inspect.isclass(function) else type(function)
        return [getattr(function, "__qualname__", kind.__qualname__), _text(kind)]
    if id(function) in seen:
        return []
    seen.add(id(function))
    code = function.__code__
    parts = [_text(function) or repr((code.co_code, code.co_names, [c for c in code.co_consts if _constant(c)]))]
    parts += [repr(value) for value in function.__defaults__ or () if _constant(value)]
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        with suppress(ValueError):                        # a cell may still be empty
            value = cell.cell_contents
            parts += _source(value, seen) if callable(value) else [f"{name}={value!r}"] if _constant(value) else []
    for name in sorted(_names(code)):
        value = function.__globals__.get(name)
        if isinstance(value, types.FunctionType) and value.__module__ == function.__module__:
            parts += _source(value, seen)
        elif inspect.isclass(value) and value.__module__ == function.__module__:
            parts.append(_text(value))
        elif name.isupper() and _constant(value):         # lower case may be a counter, which changes with every run
            parts.append(f"{name}={value!r}")
    return parts


def _text(thing: Any) -> str:
    try:
        return inspect.getsource(thing)
    except (OSError, TypeError):                          # typed at a prompt, or written in C
        return ""


def _names(code: types.CodeType) -> set[str]:
    inner = (constant for constant in code.co_consts if isinstance(constant, types.CodeType))
    return set(code.co_names).union(*(_names(constant) for constant in inner))


def _constant(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(_constant(part) for part in value)
    return value is None or isinstance(value, str | bytes | int | float | bool)


@contextmanager
def progress_bar(name: str, unit: str, shown: bool) -> Iterator[Callable[[int, int | None], None]]:
    """advance(done, None) moves the bar on; advance(done, total) sets both. On stderr: stdout stays for results."""
    if not shown:
        yield lambda done, total: None
        return
    columns = [TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TextColumn(unit),
               TimeRemainingColumn()]
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(name, total=None)

        def advance(done: int, total: int | None) -> None:
            if total is None:
                bar.advance(task, done)
            else:
                bar.update(task, total=total, completed=done)

        yield advance
