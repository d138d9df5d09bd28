"""Twenty-nine pictures as they come from outside, made anew each time; `python corpus.py FOLDER` writes them.

Each has the status that a decoder must give it and, where there is a picture to be seen, its pixels, which are computed
here by arithmetic and not by decoding.
"""

import io
import struct
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from omma.decode import Limits

LIMITS = Limits(max_bytes=1 << 20)                        # a file too large is then one that is quick to make
RAMP = np.tile(np.linspace(0, 1, 128), (96, 1))
DOWN = np.tile(np.linspace(0, 1, 96)[:, None], (1, 128))
COLOURS = (np.stack([RAMP, RAMP[:, ::-1], DOWN], axis=-1) * 255).astype(np.uint8)
PICTURE = Image.fromarray(COLOURS)


@dataclass(frozen=True)
class Case:
    """seen: (height, width, 3), 0..255; None where nothing can be seen, or not what was meant. note: its beginning."""

    data: bytes
    status: str
    seen: np.ndarray | None = None
    frames: int = 1
    note: str = ""


def encoded(image: Image.Image, format: str, **options) -> bytes:
    sink = io.BytesIO()
    image.save(sink, format, **options)
    return sink.getvalue()


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, rows: int | None = None, before: bytes = b"") -> bytes:
    """A 1-bit PNG of one colour, a few kilobytes for any size, of which so many rows are there. before: more chunks."""
    packer = zlib.compressobj(9)
    row = bytes(1 + (width + 7) // 8)
    pixels = b"".join(packer.compress(row) for _ in range(height if rows is None else rows)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return (b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + before + png_chunk(b"IDAT", pixels)
            + png_chunk(b"IEND", b""))


def jpeg_that_claims(width: int, height: int) -> bytes:
    data = bytearray(encoded(PICTURE, "JPEG"))
    at = data.find(b"\xff\xc0")
    data[at + 5:at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def with_orientation(number: int) -> bytes:
    exif = Image.Exif()
    exif[0x112] = number
    return encoded(PICTURE, "JPEG", quality=95, exif=exif)


def with_bits_flipped(data: bytes) -> bytes:
    """Damage in the middle of the pixels of a JPEG, which its decoder can't notice."""
    changed = bytearray(data)
    for at in range(len(data) // 2, len(data) // 2 + 8):
        changed[at] ^= 4 if changed[at] not in (0xFF, 0xFB) and changed[at - 1] != 0xFF else 0
    return bytes(changed)


def grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[..., None], 3, axis=-1).astype(np.float64)


def build() -> dict[str, Case]:
    """File name -> case, the same bytes in every call."""
    on_white = COLOURS * (128 / 255) + 255 * (1 - 128 / 255)
    half = np.full((96, 128), 128, np.uint8)
    ramp8 = (RAMP * 255).astype(np.uint8)
    two = Image.fromarray((np.indices((96, 128)).sum(0) % 2).astype(np.uint8), "P")
    two.putpalette([255, 0, 0, 0, 0, 255])
    blue_and_white = np.where(np.indices((96, 128)).sum(0)[..., None] % 2, [0, 0, 255], [255, 255, 255])
    frames = [Image.new("RGB", (64, 48), colour) for colour in ("red", "green", "blue", "white")]
    for frame in frames:
        frame.paste("black", (0, 0, 32, 48))
    first = np.zeros((48, 64, 3))
    first[:, 32:, 0] = 255
    more: dict = {"save_all": True, "append_images": frames[1:]}
    noise = np.random.default_rng(0).integers(0, 256, (640, 640, 3), dtype=np.uint8)
    jpeg = encoded(PICTURE, "JPEG", quality=95)
    exif = png_chunk(b"eXIf", b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x112, 3, 1, 6, 0, 0))
    return {
        "plain.jpg": Case(jpeg, "ok", COLOURS),
        "grey-16-bit.png": Case(encoded(Image.fromarray((RAMP * 65535).astype(np.uint16)), "PNG"), "ok", grey(ramp8),
                                note="16 bit shifted to 8"),
        "grey-32-bit.tif": Case(encoded(Image.fromarray((RAMP * 1e6).astype(np.int32)), "TIFF"), "ok",
                                grey(RAMP * 255), note="stretched from 0..1e+06"),
        "float.tif": Case(encoded(Image.fromarray(RAMP.astype(np.float32)), "TIFF"), "ok", grey(RAMP * 255),
                          note="stretched from 0..1"),
        "alpha.png": Case(encoded(Image.fromarray(np.dstack([COLOURS, half])), "PNG"), "ok", on_white,
                          note="alpha on white"),
        "grey-alpha.png": Case(encoded(Image.fromarray(np.dstack([ramp8, half]), "LA"), "PNG"), "ok",
                               grey(ramp8 * (128 / 255) + 255 * (1 - 128 / 255)), note="alpha on white"),
        "palette-alpha.png": Case(encoded(two, "PNG", transparency=0), "ok", blue_and_white, note="alpha on white"),
        "cmyk.jpg": Case(encoded(PICTURE.convert("CMYK"), "JPEG", quality=95), "ok", COLOURS, note="CMYK converted"),
        "lab.tif": Case(encoded(Image.frombytes("LAB", PICTURE.size, COLOURS.tobytes()), "TIFF"), "unsupported_mode",
                        note="LAB"),
        "turned.jpg": Case(with_orientation(6), "ok", np.rot90(COLOURS, -1)),
        "orientation-99.jpg": Case(with_orientation(99), "ok", COLOURS, note="orientation 99 ignored"),
        "animated.gif": Case(encoded(frames[0], "GIF", **more), "ok", first, 4),
        "animated.webp": Case(encoded(frames[0], "WEBP", lossless=True, **more), "ok", first, 4),
        "animated.png": Case(encoded(frames[0], "PNG", **more), "ok", first, 4),
        "pages.tif": Case(encoded(frames[0], "TIFF", **more), "ok", first, 4),
        "without-its-last-2-bytes.jpg": Case(jpeg[:-2], "truncated"),
        "half.png": Case(encoded(PICTURE, "PNG")[:300], "truncated"),
        "bits-flipped.jpg": Case(with_bits_flipped(jpeg), "ok"),
        "12000-pixels-a-side.png": Case(png(12000, 12000, before=exif), "too_many_pixels"),
        "20000-pixels-a-side.png": Case(png(20000, 20000, rows=100), "too_many_pixels"),
        "claims-65500.jpg": Case(jpeg_that_claims(65500, 65500), "too_many_pixels"),
        "claims-9000.jpg": Case(jpeg_that_claims(9000, 9000), "too_many_pixels"),
        "claims-7000.jpg": Case(jpeg_that_claims(7000, 7000), "suspicious_ratio"),
        "nothing.jpg": Case(b"", "empty"),
        "web-page.jpg": Case(b"<!doctype html><html>404</html>", "not_an_image", note="starts with"),
        "noise-after-its-mark.jpg": Case(b"\xff\xd8\xff" + np.random.default_rng(0).bytes(3000), "decode_error"),
        "large.png": Case(encoded(Image.fromarray(noise), "PNG"), "too_many_bytes"),
        "one-pixel.gif": Case(encoded(Image.new("P", (1, 1)), "GIF"), "too_small"),
        "one-colour.png": Case(encoded(Image.new("RGB", (64, 48), (250, 10, 10)), "PNG"), "flat",
                               np.full((48, 64, 3), (250, 10, 10))),
    }


def write(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, case in build().items():
        (folder / name).write_bytes(case.data)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
