"""The bounded decoder: any bytes from outside -> RGB pixels, or the reason why not. It never raises for a bad picture.

The header is read first and its size checked before one pixel is decoded: a 17 kB PNG of 12000 x 12000 is turned down
in a tenth of a millisecond, where decoding it takes 700 MB. Formats are told by their first bytes and Pillow's readers
called one by one, so what a host program set in Pillow, such as `Image.MAX_IMAGE_PIXELS`, is left as found.

    16-bit grey     shifted by 8 bits (a plain convert saturates)     alpha          composited on white
    int32, float    stretched from minimum to maximum                 orientation    EXIF 2..8 applied, others noted
    animation       frame 0, `frames` tells how many                  CMYK, YCbCr    converted; LAB: unsupported_mode
"""

from __future__ import annotations

import errno
import io
import re
import struct
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

try:
    from PIL import AvifImagePlugin
except ImportError:                                       # Pillow before 11.3
    AvifImagePlugin = None

STATUSES = ("ok", "empty", "not_an_image", "truncated", "decode_error", "too_many_pixels", "too_many_bytes",
            "too_small", "suspicious_ratio", "unsupported_mode", "flat", "bad_text", "optout", "duplicate_key")
BOXES = 8                                                 # along the short side, to tell the clear cases fast
COMPLETE = ("JPEG", "PNG", "BMP")                         # these readers are, once loaded, images like any other
FLAT_STD = 2.0  # grey levels of 255: the standard deviation of the liveliest channel
TURN = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90}
SCAN = b"\xff\xda"
MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")       # of a JPEG: neither a stuffed FF nor a restart
HEADERS = (*range(0xE0, 0xF0), 0xC4, 0xDB, 0xDD, 0xFE)   # of a JPEG: what may stand before a frame or scan
MAX_SCANS = 100
UNLABELLED = 255                                          # in a label map: no class is known here
_warnings_lock = threading.Lock()


@dataclass(frozen=True)
class Limits:
    """What a picture may be. Pixels and sides are counted before decoding; max_pixels_per_byte is of the compressed
    file, which is suspicious_ratio above it, as is a JPEG of more than MAX_SCANS passes over its pixels."""

    max_bytes: int = 64 << 20
    max_pixels: int = 64_000_000
    max_side: int = 32_000
    min_side: int = 2
    max_pixels_per_byte: int = 2000


@dataclass(frozen=True)
class Decoded:
    """A status of STATUSES, and the RGB image when it is "ok" or "flat" (one colour, as good as).

    width, height: of the upright picture at full size, 0 where no header was read. mode: of the file. note: what was
    done to it.
    """

    status: str
    image: Image.Image | None = None
    width: int = 0
    height: int = 0
    format: str = ""
    mode: str = ""
    frames: int = 1
    note: str = ""


DEFAULT_LIMITS = Limits()


def decode(data: bytes, limits: Limits = DEFAULT_LIMITS, target: int | None = None, tell_flat: bool = True) -> Decoded:
    """data -> Decoded. target: the short side, in pixels, that is needed: the image may then come back reduced by a
    whole factor, never below target (JPEG is decoded at 1/2, 1/4 or 1/8, which is several times faster). tell_flat:
    False for who treats "flat" like "ok": it is not looked for, which takes a tenth of the time of a small picture.

    >>> decode(b"<html>404</html>").status
    'not_an_image'
    """
    if not data:
        return Decoded("empty")
    if len(data) > limits.max_bytes:
        return Decoded("too_many_bytes", note=f"{len(data)} bytes, limit {limits.max_bytes}")
    kind = _kind(data)
    if kind is None:
        return Decoded("not_an_image", note=f"starts with {data[:8]!r}")
    reader, name = READERS[kind], kind
    if kind == "JPEG" and not _one_scan(data) and data.count(SCAN) > MAX_SCANS and _scans(data) > MAX_SCANS:
        return Decoded("suspicious_ratio", format=name, note=f"more than {MAX_SCANS} scans")
    if kind == "WEBP" and len(data) < 8 + int.from_bytes(data[4:8], "little"):
        return Decoded("truncated", format=name, note="shorter than its header says")
    frames = 1
    if kind == "GIF":
        frames, canvas = _walk_gif(data)
        if canvas is None:
            return Decoded("truncated", format=name, note="shorter than its header")
        width, height = canvas
        if refused := _refuse(width, height, len(data), limits):
            return Decoded(refused, None, width, height, name, "P", frames)
    # only these readers warn about odd metadata; elsewhere the filters, which all threads share, stay untouched
    quiet = _quiet if kind in ("TIFF", "AVIF") or (kind == "PNG" and b"acTL" in data[:4096]) else nullcontext
    with quiet():
        try:
            file = reader(io.BytesIO(data))
        except Image.DecompressionBombError as error:
            return Decoded("too_many_pixels", format=name, note=str(error))
        except Exception as error:
            return Decoded(_failure(error), format=name, note=f"header: {_line(error)}")
        width, height, mode = file.width, file.height, file.mode
        if refused := _refuse(width, height, len(data), limits):
            return Decoded(refused, None, width, height, name, mode, frames)
        if mode == "LAB":
            return Decoded("unsupported_mode", None, width, height, name, mode, frames, "LAB has no agreed conversion")
        try:
            if kind == "TIFF":                            # its reader's own count takes a hundred times longer
                frames = max(1, sum(1 for _ in _until_cut(tiff_directories(data))))
            elif kind != "GIF":
                frames = getattr(file, "n_frames", 1)
            if kind == "JPEG" and target is not None:
                file.draft(None, (target, target))
            file.load()
            image, note = _to_rgb(file)
            if kind == "TIFF":                            # its reader has turned the pixels already
                width, height = file.size
            else:
                orientation = orientation_in(file.info.get("exif"))
                if orientation in TURN:
                    image = image.transpose(TURN[orientation])
                    if orientation >= 5:
                        width, height = height, width
                elif orientation != 1:
                    note.append(f"orientation {orientation} ignored")
        except Image.DecompressionBombError as error:     # the host's own limit, which the TIFF reader looks at too
            return Decoded("too_many_pixels", None, width, height, name, mode, frames, _line(error))
        except Exception as error:
            return Decoded(_failure(error), None, width, height, name, mode, frames, _line(error))
    if target is not None and (factor := min(image.size) // max(target, 1)) > 1:
        image = image.reduce(factor)
    status = "ok" if not tell_flat or _varied(image) or _spread(image) >= FLAT_STD else "flat"
    return Decoded(status, image, width, height, name, mode, frames, "; ".join(note))


def open_picture(row: Mapping[str, Any] | bytes, root: Path | None = None, limits: Limits = DEFAULT_LIMITS,
                 target: int | None = None) -> Decoded:
    """The picture of a table's row: its bytes, or the file at its uri (from offset, length bytes; relative to root).

    Raises ValueError when the row names a file that can't be read: then the table is wrong, not the picture; OSError
    when too many files are open, which says nothing about either.
    """
    if isinstance(row, bytes):
        return decode(row, limits, target)
    return decode(picture_data(row, root, limits), limits, target)


def read_bounded(path: Path, limits: Limits = DEFAULT_LIMITS, offset: int = 0, length: int | None = None) -> bytes:
    """The bytes of a file, and of one that is too large for the limits no more than it takes to be told so."""
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read(limits.max_bytes + 1 if length is None else min(length, limits.max_bytes + 1))


def picture_data(row: Mapping[str, Any], root: Path | None = None, limits: Limits = DEFAULT_LIMITS) -> bytes:
    """The encoded picture of a table's row as `read_bounded` reads it, b"" where it has none. Raises as
    `open_picture`."""
    if (data := row.get("bytes")) is not None:
        return data
    uri = row.get("uri")
    if not uri:
        return b""
    path = Path(uri) if root is None else Path(root) / uri
    try:
        return read_bounded(path, limits, row.get("offset") or 0, row.get("length"))
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            raise
        raise ValueError(f"picture {row.get('id')!r} is in {path}, which can't be read ({error.strerror}); "
                         "put the file back, or ingest again with the bytes stored in the table") from None


def _kind(data: bytes) -> str | None:
    for magic, kind in MAGIC:
        if data.startswith(magic):
            return kind
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:12] in (b"ftypavif", b"ftypavis") and "AVIF" in READERS:
        return "AVIF"
    return None


def label_map(data: bytes, limits: Limits = DEFAULT_LIMITS) -> np.ndarray:
    """The numbers of a greyscale or palette PNG as they stand, (h, w) uint8: a class for every pixel, or UNLABELLED.

    Its colours mean nothing. ValueError says why it is none; its size is checked before its pixels, as in `decode`.
    """
    if len(data) > limits.max_bytes:
        raise ValueError(f"{len(data)} bytes, limit {limits.max_bytes}")
    if _kind(data) != "PNG":
        raise ValueError(f"no PNG, it starts with {data[:8]!r}")
    try:
        file = READERS["PNG"](io.BytesIO(data))
        # one class everywhere packs better than any photograph, so the ratio of pixels to bytes tells nothing here
        refused = _refuse(file.width, file.height, file.width * file.height, limits)
        if refused is None and file.mode in ("L", "P", "1"):
            file.load()
    except Exception as error:
        raise ValueError(f"{_failure(error)}: {_line(error)}") from None
    if refused:
        raise ValueError(f"{refused}: {file.width} x {file.height}")
    if file.mode not in ("L", "P", "1"):
        raise ValueError(f"mode {file.mode}; labels are greyscale or palette numbers of 8 bits")
    return np.asarray(file).astype(np.uint8)


def _refuse(width: int, height: int, size: int, limits: Limits) -> str | None:
    if width * height > limits.max_pixels or max(width, height) > limits.max_side:
        return "too_many_pixels"
    if min(width, height) < limits.min_side:
        return "too_small"
    if width * height > limits.max_pixels_per_byte * size:
        return "suspicious_ratio"
    return None


def _to_rgb(file: Image.Image) -> tuple[Image.Image, list[str]]:
    """Loaded pixels -> 8-bit RGB, and what was done that a reader of the numbers should know."""
    mode = file.mode
    if mode.startswith("I;16") or (mode == "I" and file.format == "PNG"):
        shifted = np.clip(np.asarray(file).astype(np.int32) >> 8, 0, 255).astype(np.uint8)
        return Image.fromarray(shifted).convert("RGB"), ["16 bit shifted to 8"]
    if mode in ("I", "F"):
        values = np.asarray(file).astype(np.float64)
        finite = values[np.isfinite(values)]
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
        values = np.nan_to_num(values, nan=low, posinf=high, neginf=low) - low
        stretched = (values * (255 / (high - low) if high > low else 0)).round().astype(np.uint8)
        return Image.fromarray(stretched).convert("RGB"), [f"stretched from {low:g}..{high:g}"]
    if mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in file.info:
        seen = file.convert("RGBA")
        alpha = seen.getchannel("A")
        if alpha.getextrema() != (255, 255):
            white = Image.new("RGB", seen.size, (255, 255, 255))
            white.paste(seen, mask=alpha)
            return white, ["alpha on white"]
        return seen.convert("RGB"), []
    if mode == "RGB" and file.format in COMPLETE:         # a copy would double the memory of a large photograph
        return file, []
    return file.convert("RGB"), ["CMYK converted"] if mode == "CMYK" else []


def _varied(image: Image.Image) -> bool:
    """Whether a few means alone show a spread of FLAT_STD or more; they are several times faster than all counts.

    Two boxes of n of all N pixels whose means lie d apart make the variance n d^2 / 2N at least; d is rounded by 1.
    """
    box = max(1, min(image.size) // BOXES)
    width, height = image.size
    extremes: Any = image.reduce(box, (0, 0, width - width % box, height - height % box)).getextrema()
    apart = max(high - low for low, high in extremes) - 1
    return (box * apart) ** 2 >= 2 * FLAT_STD**2 * width * height


def _spread(image: Image.Image) -> float:
    """The largest standard deviation of a channel, from exact counts: 0..127.5."""
    counts = np.asarray(image.histogram(), np.float64).reshape(3, 256)
    share = counts / counts.sum(axis=1, keepdims=True)
    mean = share @ LEVELS
    return float(np.sqrt(np.maximum(share @ LEVELS**2 - mean**2, 0)).max())


def orientation_in(exif: bytes | None) -> int:
    """Tag 0x0112 of the first directory, 1 where there is none. Read by hand: the general parser warns about odd
    tags."""
    tiff = (exif or b"").removeprefix(b"Exif\x00\x00")
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(order + "I", tiff, 4)
        (entries,) = struct.unpack_from(order + "H", tiff, start)
        for entry in range(start + 2, start + 2 + 12 * entries, 12):
            tag, kind = struct.unpack_from(order + "HH", tiff, entry)
            if tag == 0x0112:
                return struct.unpack_from(order + ("H" if kind == 3 else "I"), tiff, entry + 8)[0]
    except struct.error:                                  # a cut-off directory says nothing
        pass
    return 1


def tiff_directories(data: bytes) -> Iterator[list[int]]:
    """The tags of each page of a TIFF, as its chain of directories has them; a chain that goes round ends there.

    Raises struct.error where the data ends within it.
    """
    order, big = "<" if data[:2] == b"II" else ">", 43 in data[2:4]
    (at,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
    head, entry, link = ("Q", 20, "Q") if big else ("H", 12, "I")
    seen: set[int] = set()
    while at and at not in seen:
        seen.add(at)
        (entries,) = struct.unpack_from(order + head, data, at)
        first = at + struct.calcsize(head)
        (at,) = struct.unpack_from(order + link, data, first + entry * entries)
        yield [struct.unpack_from(order + "H", data, first + entry * i)[0] for i in range(entries)]


def _until_cut(found: Iterator[Any]) -> Iterator[Any]:
    with suppress(struct.error):
        yield from found


def _one_scan(data: bytes) -> bool:
    """Whether a JPEG is one pass over its pixels: a plain frame with all colours in its first scan, after which a
    decoder takes another for an error. Told by its headers, at a hundredth of the time that searching all of it takes;
    False where anything but known headers comes first, since a decoder may go on elsewhere then."""
    at, colours = 2, None
    while data[at:at + 1] == b"\xff" and at + 10 <= len(data):
        kind, length = data[at + 1], int.from_bytes(data[at + 2:at + 4], "big")
        if kind == 0xDA:
            return data[at + 4] == colours
        if kind in (0xC0, 0xC1) and colours is None:
            colours = data[at + 9]
        elif kind not in HEADERS:
            return False
        if length < 2:
            return False
        at += 2 + length
    return False


def _scans(data: bytes) -> int:
    """Scans of a JPEG up to its end, MAX_SCANS + 1 when there are more: each is a pass over all pixels in some twenty
    bytes, so a small file of many takes hours to decode. No encoder writes more than a few dozen."""
    at = found = 0
    while found <= MAX_SCANS:
        marker = MARKER.search(data, at)
        if marker is None or data[marker.start() + 1] == 0xD9:
            break
        at, kind = marker.end(), data[marker.start() + 1]
        found += kind == 0xDA
        if kind not in (0x01, 0xD8):                      # all others have a length
            at += int.from_bytes(data[at : at + 2], "big")
    return found


def _walk_gif(data: bytes) -> tuple[int, tuple[int, int] | None]:
    """Number of frames and size of the canvas that holds the screen and frame 0, from the block structure alone."""
    size, frames, canvas = len(data), 0, None
    try:
        width, height, flags = struct.unpack_from("<HHB", data, 6)
        canvas, at = (width, height), 13 + (3 << ((flags & 7) + 1) if flags & 0x80 else 0)
        while at < size and data[at] != 0x3B:
            if data[at] == 0x2C:
                left, top, wide, high, flags = struct.unpack_from("<HHHHB", data, at + 1)
                if frames == 0:
                    canvas = (max(width, left + wide), max(height, top + high))
                frames += 1
                at += 10 + (3 << ((flags & 7) + 1) if flags & 0x80 else 0) + 1
            elif data[at] == 0x21:
                at += 2
            else:
                at += 1
                continue
            while at < size and data[at]:
                at += data[at] + 1
            at += 1
    except struct.error:                                  # cut off: what was counted so far
        pass
    return max(frames, 1), canvas


def _failure(error: Exception) -> str:
    """truncated where a reader ran off the end of the data, else decode_error."""
    if isinstance(error.__cause__ or error, IndexError | EOFError | struct.error):
        return "truncated"
    text = str(error).lower()
    return "truncated" if any(word in text for word in RAN_OFF) else "decode_error"


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]


@contextmanager
def _quiet() -> Iterator[None]:
    with _warnings_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class _JpegFile(JpegImagePlugin.JpegImageFile):
    def _read_dpi_from_exif(self) -> None:
        """Nobody asks for it, and parsing EXIF for it warns about odd tags."""


LEVELS = np.arange(256.0)
READERS: dict[str, Callable[[io.BytesIO], ImageFile.ImageFile]] = {
    "JPEG": _JpegFile, "PNG": PngImagePlugin.PngImageFile, "GIF": GifImagePlugin.GifImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile, "BMP": BmpImagePlugin.BmpImageFile, "TIFF": TiffImagePlugin.TiffImageFile}
if AvifImagePlugin is not None and AvifImagePlugin.SUPPORTED:
    READERS["AVIF"] = AvifImagePlugin.AvifImageFile
MAGIC = ((b"\xff\xd8\xff", "JPEG"), (b"\x89PNG\r\n\x1a\n", "PNG"), (b"GIF87a", "GIF"), (b"GIF89a", "GIF"),
         (b"BM", "BMP"), (b"II*\x00", "TIFF"), (b"MM\x00*", "TIFF"), (b"II+\x00", "TIFF"), (b"MM\x00+", "TIFF"))
RAN_OFF = ("truncated", "broken png", "not enough", "end of file")      # how readers say that the data ended early
