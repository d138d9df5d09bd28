"""Pictures without what cameras and programs write beside the pixels: place, time, names, serial numbers, comments, and
the second pictures that phones append. Pixels, orientation and colour profile stay as they are.

    JPEG, PNG, WebP   the blocks that hold it are cut out; what is compressed is not touched
    TIFF, AVIF, GIF   where one has any, a PNG takes its place: 8-bit RGB, frame 0, as `decode` gives it
    BMP               holds none
"""

from __future__ import annotations

import io
import struct
import zlib

from PIL import Image

from omma.decode import MARKER, decode, orientation_in, tiff_directories

JPEG, PNG, BMP = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM"
GIF, TIFF = (b"GIF87a", b"GIF89a"), (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
SHOWN = {b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"cICP", b"sBIT", b"pHYs", b"bKGD", b"hIST", b"acTL", b"fcTL",
         b"fdAT"}  # PNG chunks that say how pixels look  # fmt: skip
REPEATS = b"\xff\x0bNETSCAPE2.0\x03\x01"  # how often an animation of a GIF is shown
DRAWN = {b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF", b"ICCP"}  # likewise of WebP
PAGE = {  # TIFF tags that say how pixels lie and look (TIFF 6.0; 34675 is the colour profile)
    254, 255, 256, 257, 258, 259, 262, 263, 264, 265, 266, 273, 274, 277, 278, 279, 280, 281, 282, 283, 284, 286, 287,
    290, 291, 292, 293, 296, 297, 301, 317, 318, 319, 320, 321, 322, 323, 324, 325, 332, 334, 336, 338, 339, 340, 341,
    342, 347, 529, 530, 531, 532, 34675,
}  # fmt: skip


def without_metadata(data: bytes) -> bytes | None:
    """The picture in data without its metadata; None where that can't be had: it is damaged, or of no known format.

    A picture that needs no change is returned as it is, the same object.
    """
    try:
        if data.startswith(JPEG):
            clean = _jpeg(data)
        elif data.startswith(PNG):
            clean = _png(data)
        elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            clean = _webp(data)
        elif data.startswith(BMP):
            return data
        elif data.startswith((*GIF, *TIFF)) or data[4:8] == b"ftyp":
            return data if _says_nothing(data) else _as_png(data)
        else:
            return None
    except (struct.error, IndexError):  # cut off within a block
        return None
    return data if clean == data else clean


def _jpeg(data: bytes) -> bytes | None:
    """Keeps JFIF, colour profile and Adobe's colour transform of all application segments; ends at the end of the
    image, since phones append further ones."""
    out, at = [data[:2]], 2
    while True:
        if data[at] != 0xFF:
            return None
        while data[at + 1] == 0xFF:  # fill bytes
            at += 1
        kind = data[at + 1]
        if kind == 0xD9:
            return b"".join([*out, data[at : at + 2]])
        (length,) = struct.unpack_from(">H", data, at + 2)
        segment = data[at : at + 2 + length]
        if len(segment) < 2 + length:
            return None
        body = segment[4:]
        at += 2 + length
        if kind == 0xE1 and body.startswith(b"Exif\0\0"):
            if (turned := orientation_in(body)) != 1:
                small = _only_orientation(turned)
                out.append(b"\xff\xe1" + struct.pack(">H", len(small) + 2) + small)
        elif kind == 0xE0 and body.startswith(b"JFIF\0") and length >= 16:
            out.append(b"\xff\xe0\0\x10" + body[:12] + b"\0\0")  # its small picture may show what was cut off
        elif kind == 0xEE and body.startswith(b"Adobe") and length >= 14:
            out.append(b"\xff\xee\0\x0e" + body[:12])
        elif kind == 0xE2 and body.startswith(b"ICC_PROFILE\0"):
            out.append(segment)
        elif not (0xE0 <= kind <= 0xEF or kind == 0xFE):
            out.append(segment)
            if kind == 0xDA:  # the compressed part follows, up to the next marker
                found = MARKER.search(data, at)
                if found is None:
                    return None
                out.append(data[at : found.start()])
                at = found.start()


def _png(data: bytes) -> bytes | None:
    out, at = [data[:8]], 8
    while True:
        (length,) = struct.unpack_from(">I", data, at)
        chunk, kind = data[at : at + 12 + length], data[at + 4 : at + 8]
        if len(chunk) < 12 + length:
            return None
        at += 12 + length
        if kind == b"eXIf" and (turned := orientation_in(chunk[8:-4])) != 1:
            out.append(_png_chunk(b"eXIf", _only_orientation(turned).removeprefix(b"Exif\0\0")))
        elif kind[:1].isupper() or kind in SHOWN:
            out.append(chunk)
        if kind == b"IEND":
            return b"".join(out)


def _png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _webp(data: bytes) -> bytes | None:
    (size,) = struct.unpack_from("<I", data, 4)
    end = 8 + size
    if end > len(data) + 1:  # some writers leave out the last padding byte
        return None
    chunks: list[tuple[bytes, bytes]] = []
    at, turned = 12, 1
    while at + 8 <= min(end, len(data)):
        kind, length = data[at : at + 4], struct.unpack_from("<I", data, at + 4)[0]
        body = data[at + 8 : at + 8 + length]
        if len(body) < length:
            return None
        at += 8 + length + length % 2
        if kind == b"EXIF":
            turned = orientation_in(body)
        elif kind in DRAWN:
            chunks.append((kind, body))
    if turned != 1:
        chunks.append((b"EXIF", _only_orientation(turned)))
    packed = b""
    for kind, body in chunks:
        if kind == b"VP8X":  # its flags say what else there is: 8 for EXIF, 4 for XMP
            body = bytes([body[0] & ~0x0C | (8 if turned != 1 else 0)]) + body[1:]
        packed += kind + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)
    return b"RIFF" + struct.pack("<I", 4 + len(packed)) + b"WEBP" + packed


def _only_orientation(number: int) -> bytes:
    """EXIF with the one tag that changes how a picture is seen."""
    return b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHIHHI", 0x0112, 3, 1, number, 0, 0)


def _says_nothing(data: bytes) -> bool:
    """Whether a TIFF, GIF or AVIF holds nothing beside its pixels. False where that can't be told."""
    try:
        if data.startswith(GIF):
            return _bare_gif(data)
        if data.startswith(TIFF):
            return all(PAGE.issuperset(tags) for tags in tiff_directories(data))
        with Image.open(io.BytesIO(data), formats=("AVIF",)) as image:
            return not image.info.get("exif") and not image.info.get("xmp")
    except Exception:  # a reader may fail in its own way on damaged data; then it is decoded, or left out
        return False


def _bare_gif(data: bytes) -> bool:
    """Whether its blocks are pictures, how long each is shown and how often all are, and nothing follows them."""
    at = 13 + (3 << ((data[10] & 7) + 1) if data[10] & 0x80 else 0)
    while data[at] != 0x3B:
        if data[at] == 0x2C:
            at += 11 + (3 << ((data[at + 9] & 7) + 1) if data[at + 9] & 0x80 else 0)
        elif data[at] == 0x21 and (data[at + 1] == 0xF9 or data[at + 1 : at + 16] == REPEATS):
            at += 2
        else:
            return False
        while data[at]:
            at += data[at] + 1
        at += 1
    return at + 1 == len(data)


def _as_png(data: bytes) -> bytes | None:
    image = decode(data).image
    if image is None:
        return None
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()
