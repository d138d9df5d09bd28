"""Work that takes a machine's whole strength: a few threads, a short queue before them, and a limit of time.

    eye = Work("eye", threads=1, waiting=64, seconds=30)
    vectors = await eye.run(encoder.encode_text, ["a red cup"], who="192.168.1.7")

When the queue is full, a call is turned down at once (503), and so is one of somebody who has enough in it (429): who
waits behind too many others would be answered when nobody listens any more.
"""

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from omma.models.saying import while_heard
from omma.web.gate import Refused

T = TypeVar("T")


class Work:
    """threads: at a time; waiting: calls beside them; each: calls of one caller; seconds: for waiting and work."""

    def __init__(self, name: str, *, threads: int = 1, waiting: int = 64, each: int = 16, seconds: float = 30.0):
        self.name, self.room, self.each, self.seconds = name, threads + waiting, each, seconds
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._lock, self._of, self.under_way = threading.Lock(), Counter[str](), 0

    def submit(self, fn: Callable[..., T], *given: Any, who: str = "") -> "Future[T]":
        """who: whose call it is, "" for one of this machine, which has no limit of its own. Raises `Refused`."""
        wait = str(max(1, round(self.seconds / 30)))
        with self._lock:
            if self.under_way >= self.room:
                raise Refused(503, f"busy: {self.under_way} calls are under way or waiting; try again in {wait} s",
                              retry_after=wait)  # fmt: skip
            if who and self._of[who] >= self.each:
                raise Refused(429, f"{self.each} calls of yours are under way or waiting; let one end first",
                              retry_after=wait)  # fmt: skip
            try:
                future = self._pool.submit(fn, *given)
            except RuntimeError:
                raise Refused(503, "this server is stopping", retry_after="30") from None
            self.under_way += 1
            self._of[who] += 1
        future.add_done_callback(lambda _: self._ended(who))
        return future

    def _ended(self, who: str) -> None:
        with self._lock:
            self.under_way -= 1
            self._of[who] -= 1
            if not self._of[who]:
                del self._of[who]

    async def run(self, fn: Callable[..., T], *given: Any, who: str = "") -> T:
        """What fn gives. `Refused` (504) after `seconds`: what waits is dropped, what runs is not waited for."""
        future = self.submit(fn, *given, who=who)
        try:
            async with asyncio.timeout(self.seconds):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            if future.done() and not future.cancelled():
                return future.result()                     # a TimeoutError of its own
            raise Refused(504, f"not done within {self.seconds:g} s; ask for less, or when fewer are asking",
                          retry_after="5") from None  # fmt: skip

    def stream(self, make: Callable[[], Iterator[T]], who: str = "") -> AsyncGenerator[T, None]:
        """What an iterator gives, as it comes; it is closed when nobody listens any more. Raises `Refused` at once."""
        loop, pieces, gone = asyncio.get_running_loop(), asyncio.Queue[Any](), threading.Event()

        def work() -> None:
            last: Any = StopAsyncIteration()
            iterator: Any = None
            try:
                if not gone.is_set():
                    iterator = make()
                    with while_heard(gone.is_set):        # also where it is long in coming to its next piece
                        for piece in iterator:
                            if gone.is_set():
                                break
                            loop.call_soon_threadsafe(pieces.put_nowait, (piece,))
            except Exception as error:
                last = error
            finally:
                if hasattr(iterator, "close"):
                    iterator.close()
                if not loop.is_closed():
                    loop.call_soon_threadsafe(pieces.put_nowait, last)

        future = self.submit(work, who=who)

        end = loop.time() + self.seconds

        async def listen() -> AsyncGenerator[T, None]:
            try:
                while True:
                    piece = await asyncio.wait_for(pieces.get(), end - loop.time())
                    if isinstance(piece, StopAsyncIteration):
                        return
                    if isinstance(piece, Exception):
                        raise piece
                    yield piece[0]
            except TimeoutError:
                raise Refused(504, f"not done within {self.seconds:g} s", retry_after="5") from None
            finally:
                gone.set()
                future.cancel()

        return listen()

    def close(self) -> None:
        """What is under way is finished; nothing new is taken."""
        self._pool.shutdown(wait=True)


async def heard(answer: Awaitable[T], receive: Callable[[], Awaitable[Any]]) -> T:
    """What an answer gives. It is broken off when the caller leaves before that, since nobody would read it."""

    async def left() -> None:
        while (await receive())["type"] != "http.disconnect":
            continue

    under_way = [asyncio.ensure_future(answer), asyncio.ensure_future(left())]
    try:
        done, _ = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
        if under_way[0] in done:
            return under_way[0].result()
        raise Refused(499, "the caller left before there was an answer")
    finally:
        for one in under_way:
            one.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)


async def first_of(pieces: AsyncGenerator[T, None], otherwise: T) -> T:
    return await anext(pieces, otherwise)


async def all_of(pieces: AsyncIterable[T]) -> list[T]:
    return [piece async for piece in pieces]
