"""The process that reads PDF files and videos (`media.py`), seen from the one that asks: started once, ended when it
hangs, started again after a crash."""

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omma.retrieval.media import receive
from omma.retrieval.reading import Item, Unreadable

PATIENCE = 60.0        # seconds for the next page, moment or sign of life
START = "from omma.retrieval.media import serve; serve()"


class MediaProcess:
    """A context; the process itself is started by the first file."""

    def __init__(self, patience: float = PATIENCE):
        self.patience, self._hung = patience, False
        self._child: Any = None

    def __enter__(self) -> "MediaProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            for pipe in (child.stdin, child.stdout):
                with contextlib.suppress(OSError):
                    pipe.close()
            child.wait()

    def items(self, path: Path, read: str, **options: Any) -> Iterator[Item | str]:
        """The pages (read: pdf), moments (video) or the one frame (frame) of a file; a str says what went wrong with
        one page. Raises `Unreadable` for a file that can't be read, hangs for longer than the patience, or makes the
        process crash."""
        child = self._child or self._start()
        # a reader that fell over before the request reached it is told below, by what it doesn't answer
        with contextlib.suppress(BrokenPipeError):
            child.stdin.write(_line(read=read, path=str(path), **options))
            child.stdin.flush()
        part = 0
        try:
            while True:
                message = self._next(child)
                if message is None:
                    raise self._gone(child)
                if message.get("done"):
                    return
                if refused := message.get("refused"):
                    raise Unreadable(*refused)
                if failed := message.pop("failed", None):
                    yield f"page {message['page']}: {failed}"
                elif "kind" in message:
                    image = message["image"]
                    yield Item(**message, part=part, width=image.width, height=image.height)
                    part += 1
        except GeneratorExit:                             # nobody wants the rest of this file
            self.end()
            raise

    def _start(self) -> Any:
        paths = os.pathsep.join(place for place in sys.path if place)
        # -P: no module is taken from the folder that somebody happens to be in, which may hold anything
        self._child = subprocess.Popen([sys.executable, "-P", "-c", START], stdin=subprocess.PIPE,
                                       stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                       env={**os.environ, "PYTHONPATH": paths})
        return self._child

    def _next(self, child: Any) -> dict[str, Any] | None:
        self._hung = False
        watch = threading.Timer(self.patience, self._kill, (child,))
        watch.start()
        try:
            return receive(child.stdout)
        finally:
            watch.cancel()

    def _kill(self, child: Any) -> None:
        self._hung = True
        child.kill()

    def _gone(self, child: Any) -> Unreadable:
        self.end()
        if self._hung:
            return Unreadable("time_out", f"nothing came of it for {self.patience:g} s")
        return Unreadable("crashed", f"reading it ended the process that reads (exit code {child.returncode})")


def _line(**request: Any) -> bytes:
    return json.dumps(request).encode() + b"\n"
