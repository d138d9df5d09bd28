"""Pictures of a video, evenly spaced: frames that lie in a folder, a GIF's, or those of a file that PyAV opens."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from omma.data.benchmarks.files import Again, Asked, Lost, Named, Picture, by_name, names_in
from omma.data.readers import PICTURE_SUFFIXES
from omma.data.videos import frame_at
from omma.decode import decode

SUFFIXES = ("gif", "mp4", "avi", "webm", "mkv", "mov")
MOST_BYTES = 1 << 30  # of a GIF: it is held in memory
Part = tuple[float, float]  # of a video, in seconds


class Videos:
    """The videos of a benchmark by name; each part of one is decoded once, where it is first asked for. root: the
    folder where they are, by default one of those beside the source that `Asked.look_in` finds."""

    def __init__(self, asked: Asked, root: Path | None = None):
        self.asked = asked
        if root is None:
            root = asked.look_in("videos", "video", "gifs", "frames", "data", "images", "YouTubeClips")
        self.root, self.done = root, dict[tuple[str, Part | None], list[Named]]()
        names = names_in(root, lambda name: name.rpartition(".")[2].lower() in SUFFIXES)
        self.files = by_name(names)
        self.paths = [f"/{name}" for name in names]

    def pictures(self, name: str, part: Part | None = None) -> list[Named]:
        """`asked.frames` pictures of a video, in order; `Lost` alone where it isn't there. part: from when to when, in
        seconds, of a video file; of frames in a folder all are taken."""
        if (name, part) not in self.done:
            found = self._open(name, part)
            again: list[Named] = [Again(one.name) if isinstance(one, Picture) and one.name else one for one in found]
            self.done[name, part] = again
            return found
        return self.done[name, part]

    def _open(self, name: str, part: Part | None) -> list[Named]:
        folder = self.root / name
        if name and folder.is_dir() and self.root.resolve() in folder.resolve().parents:
            frames = sorted(path.relative_to(self.root).as_posix() for path in folder.iterdir()
                            if path.suffix[1:].lower() in PICTURE_SUFFIXES)  # fmt: skip
            if frames:
                return [frames[k] for k in spread(len(frames), self.asked.frames)]
        found = self._find(name)
        if found is None:
            return [Lost(name)]
        path = self.root / found
        try:
            made = list(gif_frames(path, self.asked.frames) if path.suffix.lower() == ".gif" else video_frames(
                path, self.asked.frames, part))  # fmt: skip
        except ValueError as error:
            self.asked.notes.note("videos can't be read", f"{found}: {error}")
            return [None]
        of = "" if part is None else f"@{part[0]:g}-{part[1]:g}"
        return [Picture(f"{name}{of}@{k + 1}", data) for k, data in enumerate(made)] or [None]

    def _find(self, name: str) -> str | None:
        """The path of a video: by its own path, as the end of one, or by its bare name where one alone has it."""
        ends = [path[1:] for path in self.paths if path.endswith(f"/{name}")]
        found = ends or self.files.get(name) or self.files.get(Path(name).stem) or []
        if len(found) > 1:
            self.asked.notes.note("videos have a name that several files bear", f"{name}: {', '.join(found[:4])}")
        return found[0] if len(found) == 1 else None


def spread(total: int, count: int) -> list[int]:
    """Places of at most `count` of `total` frames, from the first to the last; the middle one alone for one.

    >>> spread(9, 3), spread(9, 1), spread(2, 8)
    ([0, 4, 8], [4], [0, 1])
    """
    if count == 1:
        return [(total - 1) // 2]
    wanted = [(total - 1) * k / (count - 1) for k in range(count)]
    return sorted({round(place) for place in wanted})


def gif_frames(path: Path, count: int) -> Iterator[bytes]:
    """PNG bytes of frames of a GIF. ValueError where the decoder of pictures refuses it."""
    data = path.read_bytes() if path.stat().st_size <= MOST_BYTES else b""
    looked = decode(data)
    if looked.image is None:
        raise ValueError(looked.status)
    try:
        with Image.open(io.BytesIO(data), formats=["GIF"]) as image:
            for place in spread(getattr(image, "n_frames", 1), count):
                image.seek(place)
                yield _png(image)
    except (OSError, EOFError, SyntaxError) as error:
        raise ValueError(str(error)) from None


def video_frames(path: Path, count: int, part: Part | None = None) -> Iterator[bytes]:
    """PNG bytes of frames at evenly spaced times, of the whole video or a part of it. ValueError without PyAV, and for
    what it can't open."""
    try:
        import av
    except ImportError:
        raise ValueError(
            "a video needs PyAV: pip install 'omma[video]', or give a folder of frames with its name"
        ) from None
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise ValueError("no stream of pictures")
            stream = container.streams.video[0]
            length = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else 0.0
            rate = float(stream.average_rate or 25)
            begin, end = part or (0.0, length)
            if part is None and not length:
                end = sum(1 for _ in container.decode(stream)) / rate
            total = max(1, round((end - begin) * rate))
            times = [begin + place / rate for place in spread(total, count)]
            for wanted in times:
                frame = frame_at(container, stream, wanted - 0.5 / rate, lambda: container.decode(stream))
                if frame is not None:
                    yield _png(frame.to_image())
    except (av.FFmpegError, OSError) as error:
        raise ValueError(str(error)) from None


def _png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.convert("RGB").save(out, "PNG")
    return out.getvalue()
