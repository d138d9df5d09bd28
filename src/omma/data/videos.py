"""The frame of a video at a time, counted from its first frame, as players show it.

A container is one that PyAV has opened. Time stamps of many files don't begin at 0: of streams that were recorded, and
of pieces that were cut out of a longer one.
"""

from collections.abc import Callable, Iterator
from typing import Any


def began(stream: Any) -> float:
    """The time stamp of a stream's first frame, in seconds; 0 where the file doesn't tell."""
    return float(stream.start_time * stream.time_base) if stream.start_time and stream.time_base else 0.0


def frame_at(container: Any, stream: Any, at: float, decode: Callable[[], Iterator[Any]]) -> Any:
    """The first frame `at` seconds after the beginning or later, the last one where none is so late; None where there
    is none at all. decode: yields the stream's frames from where the container stands."""
    wanted, last = began(stream) + at, None
    container.seek(int(wanted * 1_000_000), backward=True)      # to the key frame before it
    for last in decode():
        if last.time is not None and last.time >= wanted:
            break
    return last
