"""PDF pages and moments of videos as pictures and text, read in a process of their own (`process.py` starts it).

The libraries that read them are C code, and a file from outside may make them crash, hang or take all memory; here that
ends this process and no other. Sizes are looked at before anything is drawn or decoded.

A moment is the sharpest frame of a shot, and of every LONGEST seconds of a long one. A shot ends where the mean
difference of two neighbouring frames, at 64 x 36, jumps, or where it has drifted far from how it began (a fade).
"""

import contextlib
import json
import math
import os
import sys
import threading
import time
import zlib
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from omma.data import videos
from omma.decode import DEFAULT_LIMITS

SIDE = 672             # pixels of a page's short side, for an eye
PRINT_DPI = 200        # of a page whose words are to be read
MOST_PIXELS = 8_000_000
MOST_PAGES = 5000
SCARCE = 20            # characters of a text layer: with no more, a page counts as a scan
JUMP, STEADY = 6.0, 3.0           # grey levels of 255, and times the median difference: a cut
DRIFT, SETTLED = 40.0, 1.0        # grey levels from the first frame of the shot, after so many seconds: a fade
LONGEST = 10.0         # seconds
LOOK_EVERY = 0.2       # seconds between frames that may stand for their shot
BEAT = 5.0             # seconds between signs of life
MEMORY = 6 << 30       # bytes this process may ask for


class Refused(Exception):
    """Why a file gives nothing: a status, and a note."""


def pages(path: Path, only: list[int] | None = None, scans: bool = False) -> Iterator[dict[str, Any]]:
    """The pages of a PDF: page (from 1), image, text, boxes. scans: those without text in print quality; only: these
    pages, in print quality too."""
    try:
        import pypdfium2
    except ImportError:
        raise Refused("needs", "pypdfium2, which reads PDF: pip install 'omma[pdf]'") from None
    try:
        document = pypdfium2.PdfDocument(path)
    except pypdfium2.PdfiumError as error:
        status = "encrypted" if "assword" in str(error) else "decode_error"
        raise Refused(status, str(error)) from None
    try:
        if not len(document):
            raise Refused("empty", "no pages")
        for number in only or range(1, min(len(document), MOST_PAGES) + 1):
            try:
                yield page_of(document[number - 1], number, scans, only is not None)
            except pypdfium2.PdfiumError as error:
                yield {"page": number, "failed": str(error)}
        if only is None and len(document) > MOST_PAGES:
            yield {"page": MOST_PAGES, "failed": f"only the first {MOST_PAGES} of {len(document)} pages are read"}
    finally:
        document.close()


def page_of(page: Any, number: int, scans: bool, large: bool) -> dict[str, Any]:
    width, height = page.get_size()
    text, boxes = "", []
    with contextlib.closing(page.get_textpage()) as layer:
        text = layer.get_text_bounded().replace("\r\n", "\n").replace("\ufffe", "")
        if "\ufffd" not in text:
            boxes = word_boxes(layer, width, height)
        large = large or (scans and scarce(text))
    scale = PRINT_DPI / 72 if large else SIDE / max(min(width, height), 1)
    scale = min(scale, math.sqrt(MOST_PIXELS / max(width * height, 1)), DEFAULT_LIMITS.max_side / max(width, height, 1))
    image = page.render(scale=scale, fill_color=(255, 255, 255, 255)).to_pil().convert("RGB")
    page.close()
    return {"kind": "page", "page": number, "image": image, "text": text.strip(), "boxes": boxes}


def scarce(text: str) -> bool:
    """Whether a page's own text is too little, or too broken, to be all that can be read on it."""
    return len(text.strip()) <= SCARCE or "\ufffd" in text


def word_boxes(layer: Any, width: float, height: float) -> list[list[Any]]:
    """Words of a text layer with their places: [word, x0, y0, x1, y1], shares of the page from its upper left."""
    found, word, box = [], "", [math.inf, math.inf, -math.inf, -math.inf]
    for i, letter in enumerate([*layer.get_text_range(), " "]):
        if not letter.isspace():
            left, bottom, right, top = layer.get_charbox(i)
            box = [min(box[0], left), min(box[1], bottom), max(box[2], right), max(box[3], top)]
            word += letter
        elif word:
            place = (box[0] / width, 1 - box[3] / height, box[2] / width, 1 - box[1] / height)
            found.append([word, *(round(min(max(share, 0.0), 1.0), 4) for share in place)])
            word, box = "", [math.inf, math.inf, -math.inf, -math.inf]
    return found


def moments(path: Path) -> Iterator[dict[str, Any]]:
    """The moments of a video: start and end of each, in seconds from its first frame, the time of the frame, the frame.
    A dict of nothing in between is a sign of life."""
    with opened(path) as (container, stream):
        start = videos.began(stream)
        frames = ((frame, frame.time - start) for frame in decoded(container, stream) if frame.time is not None)
        yield from shots(frames, lambda frame: frame.reformat(64, 36, "rgb24").to_ndarray(),
                         lambda frame: frame.to_image())


def shots(frames: Iterator[tuple[Any, float]], small: Any, large: Any) -> Iterator[dict[str, Any]]:
    """frames: (frame, seconds); small(frame): (36, 64, 3) uint8; large(frame): a picture."""
    recent: deque[float] = deque(maxlen=15)
    before = first = None
    start = end = beat = 0.0
    best: tuple[float, float, Any] | None = None          # sharpness, time, frame
    step = 0.0
    for frame, at in frames:
        now = small(frame).astype(np.float32)
        change = 0.0 if before is None else float(np.abs(now - before).mean())
        cut = len(recent) >= 3 and change > JUMP + STEADY * float(np.median(recent))
        faded = first is not None and at - start >= SETTLED and float(np.abs(now - first).mean()) > DRIFT
        if best is not None and (cut or faded or at - start >= LONGEST):
            yield moment(start, at, best, large)
            best, start, first = None, at, now
        elif first is None:
            start, first = at, now
        if before is not None:
            recent.append(change)
        if best is None or at - best[1] >= LOOK_EVERY:
            sharp = float(np.abs(np.diff(now.mean(axis=2), axis=1)).mean())
            if best is None or sharp > best[0]:
                best = (sharp, at, frame)
        step = at - end if at > end else step
        before, end = now, at
        if at - beat >= BEAT:
            beat = at
            yield {}
    if best is None:
        raise Refused("empty", "no frame could be decoded")
    yield moment(start, end + step, best, large)


def moment(start: float, end: float, best: tuple[float, float, Any], large: Any) -> dict[str, Any]:
    return {"kind": "frame", "start": round(start, 3), "end": round(end, 3), "moment": best[1], "image": large(best[2])}


def frame_at(path: Path, at: float) -> Iterator[dict[str, Any]]:
    """The frame of a video at this time."""
    with opened(path) as (container, stream):
        found = videos.frame_at(container, stream, at - 1e-3, lambda: decoded(container, stream))
        if found is None:
            raise Refused("empty", "no frame could be decoded")
        yield {"kind": "frame", "moment": at if found.time is None else found.time - videos.began(stream),
               "image": found.to_image()}  # fmt: skip


@contextlib.contextmanager
def opened(path: Path) -> Iterator[tuple[Any, Any]]:
    try:
        import av
    except ImportError:
        raise Refused("needs", "av, which reads videos: pip install 'omma[video]'") from None
    try:
        container = av.open(str(path))
    except (av.FFmpegError, ValueError) as error:
        raise Refused("decode_error", str(error)) from None
    with container:
        if not container.streams.video:
            raise Refused("empty", "no pictures in it, only sound")
        stream = container.streams.video[0]
        width, height = stream.codec_context.width, stream.codec_context.height
        if width * height > DEFAULT_LIMITS.max_pixels:
            raise Refused("too_many_pixels", f"{width} x {height}")
        yield container, stream


def decoded(container: Any, stream: Any) -> Iterator[Any]:
    """Frames up to where the file breaks off."""
    import av

    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
            if packet is None:
                return
            yield from packet.decode()
        except av.FFmpegError:
            if packet is None or packet.size == 0:
                return


READ = {"pdf": pages, "video": moments, "frame": frame_at}


def send(out: BinaryIO, **message: Any) -> None:
    """One line of JSON, then the pixels and the boxes that it announces."""
    image, boxes = message.pop("image", None), message.pop("boxes", None)
    pixels = b"" if image is None else image.tobytes()
    packed = zlib.compress(json.dumps(boxes).encode()) if boxes else b""
    if image is not None:
        message["size"] = image.size
    out.write(json.dumps({**message, "pixels": len(pixels), "packed": len(packed)}).encode() + b"\n" + pixels + packed)
    out.flush()


def receive(source: BinaryIO) -> dict[str, Any] | None:
    """What `send` sent; None where the other side is gone. boxes stay packed."""
    line = source.readline()
    if not line.endswith(b"\n"):
        return None
    message = json.loads(line)
    pixels, packed = message.pop("pixels"), message.pop("packed")
    data = source.read(pixels + packed)
    if len(data) < pixels + packed:
        return None
    if pixels:
        message["image"] = Image.frombytes("RGB", tuple(message.pop("size")), data[:pixels])
    return {**message, "boxes": data[pixels:] or None}


def serve() -> None:
    """Answers requests, a JSON line each, until there are no more; what libraries print goes nowhere."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    threading.Thread(target=leave_with, args=(os.getppid(),), daemon=True).start()
    for line in sys.stdin:
        request = json.loads(line)
        read, path = READ[request.pop("read")], Path(request.pop("path"))
        try:
            for found in read(path, **request):
                send(out, **found)
            send(out, done=True)
        except Refused as error:
            send(out, refused=[*map(str, error.args), ""][:2])
        except MemoryError:
            send(out, refused=["too_large", "it takes more memory than a file may"])
        except Exception as error:                        # a library's own kind of error: the file's fault, not ours
            send(out, refused=["decode_error", f"{type(error).__name__}: {error}"[:200]])


def leave_with(parent: int) -> None:
    """A parent that was killed can't end this process, which may be busy for long."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
