"""Calls of omma serve that wait for their turn: how many, how long, and who leaves."""

import asyncio
import threading

import pytest

from omma.web.gate import Refused
from omma.web.work import Work


def test_calls_above_the_room_are_told_to_come_again_and_none_is_lost():
    async def scene():
        work, gate = Work("test", waiting=2, each=2, seconds=20), threading.Event()
        calls = [asyncio.create_task(work.run(lambda n=n: (gate.wait(), n)[1], who=f"{n}")) for n in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(Refused, match="3 calls are under way or waiting; try again in 1 s") as full:
            await work.run(print)
        gate.set()
        assert (full.value.status, full.value.headers) == (503, {"retry-after": "1"})
        assert await asyncio.gather(*calls) == [0, 1, 2]
        gate.clear()
        mine = [asyncio.create_task(work.run(gate.wait, who="me")) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(Refused, match="2 calls of yours") as much:
            await work.run(print, who="me")
        assert much.value.status == 429
        gate.set()
        await asyncio.gather(*mine)
        assert work.under_way == 0
        work.close()
        with pytest.raises(Refused, match="stopping"):
            await work.run(print)

    asyncio.run(scene())


def test_a_call_past_its_time_is_dropped_and_keeps_its_place_only_while_it_runs():
    async def scene():
        work, gate, ran = Work("test", waiting=2, seconds=0.05), threading.Event(), []
        first, second = work.run(gate.wait), work.run(ran.append, 1)
        told = await asyncio.gather(first, second, return_exceptions=True)
        assert [error.status for error in told] == [504, 504]
        assert work.under_way == 1
        gate.set()
        work.close()
        assert (work.under_way, ran) == (0, [])

    asyncio.run(scene())


def test_a_stream_that_nobody_hears_any_more_is_closed():
    closed = threading.Event()

    def endless():
        try:
            while True:
                yield "word"
        finally:
            closed.set()

    async def scene():
        work = Work("test")
        pieces = work.stream(endless)
        assert [await anext(pieces) for _ in range(3)] == ["word"] * 3
        await pieces.aclose()
        work.close()
        with pytest.raises(Refused):
            work.stream(endless)

    asyncio.run(scene())
    assert closed.is_set()
