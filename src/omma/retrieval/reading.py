"""A file -> what can be found in it: a picture with its captions, pages, moments of a video, passages of a text.

Whatever is wrong with a file ends as `Unreadable` with the reason; the bounded decoder looks at every picture.
"""

import datetime
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from omma.data.ingest import captions_beside
from omma.data.readers import MAX_TEXT, read_text
from omma.data.split import thumbnail
from omma.decode import decode
from omma.retrieval.walk import Found

ENOUGH = 448          # pixels of the short side that an eye and a thumbnail need at most
THUMBNAIL, QUALITY = 192, 80
PASSAGE = 1200        # characters
MOST_TEXT = 16 << 20  # bytes of a text file
MOST_PDF = 512 << 20   # bytes
EXIF = 1 << 17        # bytes of a picture in which its date is looked for
DATE = re.compile(rb"((?:19|20)\d\d):([01]\d):([0-3]\d) ([0-2]\d):([0-5]\d):([0-5]\d)\0")
END = re.compile(r"(?<=[.!?。])\s|\s")                    # where a long paragraph may be cut


class Unreadable(Exception):
    """Why a file gives nothing. status: of `omma.decode.STATUSES`, or missing, encrypted, too_long, needs, time_out."""

    def __init__(self, status: str, note: str = ""):
        super().__init__(f"{status}: {note}" if note else status)
        self.status, self.note = status, note


@dataclass(slots=True, eq=False)
class Item:
    """One thing that can be found. image: dropped when it has become vector, thumbnail and look; boxes: words with
    their places, packed JSON; start, end: seconds; moment: of them, that of the image."""

    kind: str
    part: int = 0
    image: Image.Image | None = None
    page: int | None = None
    line: int | None = None
    start: float | None = None
    end: float | None = None
    moment: float | None = None
    width: int | None = None
    height: int | None = None
    date: str | None = None
    caption: str = ""
    text: str = ""
    boxes: bytes | None = None
    vector: np.ndarray | None = None
    thumbnail: bytes | None = None
    look: bytes | None = None
    photograph: bool = False


def read_picture(path: Path, data: bytes, found: Found, enough: int | None = ENOUGH) -> Item:
    """enough: the short side that is needed, None for all of it."""
    seen = decode(data, target=enough, tell_flat=False)
    if seen.image is None:
        raise Unreadable(seen.status, seen.note)
    taken = date_in(data)
    return Item("picture", image=seen.image, width=seen.width, height=seen.height, date=taken or day(found),
                caption=caption_of(path, found), photograph=taken is not None)


def caption_of(path: Path, found: Found) -> str:
    """What stands beside a picture, one caption a line; "" where it can't be read."""
    texts = {}
    for kind in ("json", "txt"):
        if f"{kind} " in found.beside:
            try:
                with open(path.with_suffix(f".{kind}"), "rb") as file:
                    texts[kind] = file.read(MAX_TEXT + 1)
            except OSError:
                continue
    said, _, _ = captions_beside(texts.get("json"), texts.get("txt"), listed=found.listed)
    return "\n".join(dict.fromkeys(text for text, _ in said))


def read_passages(data: bytes, found: Found) -> Iterator[Item]:
    """A text in passages of about PASSAGE characters, cut between paragraphs where that can be."""
    text = read_text(data, most=None)
    if text is None:
        raise Unreadable("bad_text", "neither UTF-8 nor UTF-16 with a byte order mark")
    for part, (line, passage) in enumerate(passages(text)):
        yield Item("text", part, line=line, date=day(found), text=passage)


def passages(text: str, most: int = PASSAGE) -> Iterator[tuple[int, str]]:
    """(number of its first line, passage) of at most `most` characters."""
    begin, size, kept = 1, 0, []
    for number, paragraph in paragraphs(text):
        if kept and size + len(paragraph) > most:
            yield begin, "\n\n".join(kept)
            kept, size = [], 0
        while len(paragraph) > most:
            ends = [match.end() for match in END.finditer(paragraph, most // 2, most)]
            cut = ends[-1] if ends else most
            yield number, paragraph[:cut].rstrip()
            number += paragraph.count("\n", 0, cut)
            paragraph = paragraph[cut:]
        if paragraph.strip():
            begin = begin if kept else number
            kept.append(paragraph)
            size += len(paragraph) + 2
    if kept:
        yield begin, "\n\n".join(kept)


def paragraphs(text: str) -> Iterator[tuple[int, str]]:
    """(number of its first line, paragraph), split at empty lines."""
    begin, kept = 1, []
    for number, line in enumerate([*text.splitlines(), ""], 1):
        if line.strip():
            begin = begin if kept else number
            kept.append(line)
        elif kept:
            yield begin, "\n".join(kept)
            kept = []


def day(found: Found) -> str:
    """When the file was last changed, as 2024-05-01T12:30:00 of this place."""
    try:
        return datetime.datetime.fromtimestamp(found.mtime / 1e9).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):          # a clock that was far off
        return ""


def date_in(data: bytes) -> str | None:
    """When a picture was taken: the earliest of the dates in its EXIF, since later ones tell of changes to the file."""
    head = data[:EXIF]
    if b"Exif\0\0" not in head and not head.startswith((b"II", b"MM")):
        return None
    dates = ["{}-{}-{}T{}:{}:{}".format(*(part.decode() for part in match.groups())) for match in DATE.finditer(head)]
    return min(dates, default=None)


def finish(item: Item) -> None:
    """The small pictures that are kept of an item; `look` is what near-duplicates are told by."""
    assert item.image is not None
    small = item.image.copy()
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    out = io.BytesIO()
    small.save(out, "JPEG", quality=QUALITY)
    item.thumbnail, item.look = out.getvalue(), thumbnail(item.image).tobytes()


def read_all(path: Path, most: int) -> bytes:
    """The file's bytes. Unreadable when it is larger than `most`, is gone or may not be read."""
    try:
        with open(path, "rb") as file:
            data = file.read(most + 1)
    except FileNotFoundError:
        raise Unreadable("missing", "it went while the folder was read") from None
    except OSError as error:
        raise Unreadable("closed", error.strerror or str(error)) from None
    if len(data) > most:
        raise Unreadable("too_many_bytes", f"more than {most:,} bytes")
    return data
