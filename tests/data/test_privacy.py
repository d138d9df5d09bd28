"""What leaves by export says nothing of where and when; pixels, orientation and colour profile stay."""

import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageSequence, PngImagePlugin

from omma.data.export import export
from omma.data.ingest import ingest
from omma.data.privacy import without_metadata
from omma.decode import decode
from omma.table import Table

PLACE = b"Karl-Marx-Allee 1"
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><place>' + PLACE + b"</place></x:xmpmeta>"
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
PIXELS = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)


def exif(orientation: int = 6) -> Image.Exif:
    made = Image.Exif()
    made[0x0112], made[0x010F] = orientation, PLACE.decode()
    made.get_ifd(0x8825).update({1: "N", 2: (52.0, 31.0, 7.0), 3: "E", 4: (13.0, 25.0, 37.0), 27: PLACE})
    return made


def encoded(kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    Image.fromarray(PIXELS).save(out, kind, **options)
    return out.getvalue()


def with_block(kind: int, body: bytes) -> bytes:
    data = encoded("JPEG")
    return data[:2] + bytes([0xFF, kind]) + struct.pack(">H", 2 + len(body)) + body + data[2:]


def two_pages(tags: dict) -> bytes:
    second = Image.fromarray(PIXELS)
    second.encoderinfo = {"tiffinfo": tags}
    return encoded("TIFF", save_all=True, append_images=[second])


def noted() -> dict[str, bytes]:
    """A picture of each format with its place in every way that Pillow can write it."""
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", PLACE.decode())
    text.add_itxt("XML:com.adobe.xmp", XMP.decode())
    everything = {"exif": exif(), "icc_profile": PROFILE}
    return {
        "jpeg": encoded("JPEG", xmp=XMP, comment=PLACE, **everything),
        "progressive": encoded("JPEG", progressive=True, xmp=XMP, **everything),
        "restarts": encoded("JPEG", restart_marker_blocks=1, **everything),
        "png": encoded("PNG", pnginfo=text, **everything),
        "webp": encoded("WEBP", lossless=True, xmp=XMP, **everything),
        "webp of one block": encoded("WEBP", quality=50),
        "tiff": encoded("TIFF", tiffinfo={270: PLACE.decode()}),
        "tiff with gps": encoded("TIFF", exif=exif(1)),
        "gif": encoded("GIF", comment=PLACE),
        "gif, after the picture": encoded("GIF")[:-1] + b"\x21\xfe" + bytes([len(PLACE)]) + PLACE + b"\0;",
        "gif, after the end": encoded("GIF") + PLACE,
        "tiff, whose": encoded("TIFF", tiffinfo={33432: PLACE.decode()}),
        "tiff, of a program": encoded("TIFF", tiffinfo={65000: PLACE.decode()}),
        "tiff, second page": two_pages({315: PLACE.decode()}),
        "jpeg, camera's block": with_block(0xE0, b"II\x1a\0\0\0HEAP" + PLACE),
        "jpeg, small picture": with_block(0xE0, b"JFIF\0\x01\x01\0\0\x01\0\x01\x05\x01" + PLACE[:15]),
        "jpeg, further small picture": with_block(0xE0, b"JFXX\0\x10" + PLACE),
        "jpeg, another's block": with_block(0xEE, PLACE),
        "phone": encoded("JPEG", exif=exif()) + encoded("JPEG", comment=PLACE, exif=exif()),
    }


@pytest.mark.parametrize("name", noted())
def test_nothing_of_the_place_is_left_and_the_pixels_are_the_same(name):
    data = noted()[name]
    clean = without_metadata(data)
    assert clean is not None
    assert PLACE[:15] not in clean
    before, after = decode(data), decode(clean)
    assert (after.status, after.image.size) == ("ok", before.image.size)
    assert np.array_equal(np.asarray(before.image), np.asarray(after.image))
    with Image.open(io.BytesIO(clean)) as image:
        found = image.getexif()
        assert set(found) <= {0x0112}, "of all tags only the orientation"
        assert not found.get_ifd(0x8825)
        assert not image.info.get("xmp")
        if name in ("jpeg", "progressive", "png", "webp"):
            assert image.info["icc_profile"] == PROFILE
            assert found[0x0112] == 6
    assert without_metadata(clean) is clean, "a clean picture is left alone"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP"])
def test_a_picture_that_says_nothing_is_returned_itself(kind):
    data = encoded(kind)
    if kind in ("JPEG", "TIFF"):  # Pillow writes a JFIF header, and the tags that a TIFF needs
        assert without_metadata(data) == data
    else:
        assert without_metadata(data) is data


def test_pages_and_animations_that_say_nothing_stay_whole():
    for data in (two_pages({}), encoded("GIF", save_all=True, append_images=[Image.new("RGB", (40, 24))], loop=0)):
        assert without_metadata(data) is data
        with Image.open(io.BytesIO(data)) as image:
            assert image.n_frames == 2
    cut = encoded("GIF")[:-1]  # many programs show it all the same
    assert without_metadata(cut)[:4] == b"\x89PNG"


def test_an_animation_stays_one():
    frames = [Image.fromarray(np.roll(PIXELS, 3 * i, axis=1)) for i in range(3)]
    for kind in ("PNG", "WEBP"):
        out = io.BytesIO()
        frames[0].save(out, kind, save_all=True, append_images=frames[1:], lossless=True, exif=exif())
        with Image.open(io.BytesIO(without_metadata(out.getvalue()))) as image:
            again = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)]
        assert all(np.array_equal(a, np.asarray(b)) for a, b in zip(again, frames, strict=True)), kind


@pytest.mark.parametrize("name", ["jpeg", "png", "webp"])
def test_a_picture_cut_anywhere_gives_nothing_or_a_picture_without_the_place(name):
    data = noted()[name]
    for end in range(len(data)):
        clean = without_metadata(data[:end])
        assert clean is None or PLACE not in clean, end


def test_what_is_no_picture_and_one_with_a_length_beyond_its_end_give_none():
    assert without_metadata(b"my diary") is None
    assert without_metadata(b"") is None
    assert without_metadata(b"\xff\xd8\xff\xe1\xff\xff" + PLACE) is None
    assert without_metadata(b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 2**31) + b"tEXt" + PLACE) is None


@pytest.mark.parametrize("to", ["webdataset", "hf", "parquet", "lance"])
def test_no_export_says_where_unless_it_is_asked_to(tmp_path, to):
    (tmp_path / "photos").mkdir()
    data = encoded("JPEG", exif=exif(), comment=PLACE)
    (tmp_path / "photos" / "a.jpg").write_bytes(data)
    table = ingest(tmp_path / "photos", tmp_path / "table")
    assert Table.open(tmp_path / "table").read(["bytes"])["bytes"].to_pylist() == [data]
    for keep in (False, True):
        out = tmp_path / f"out{keep}"
        done = export(table, out, to=to, keep_metadata=keep)
        assert (done.rows, done.without_picture) == (1, 0)
        if to in ("webdataset", "hf"):  # the others compress what they write
            assert any(PLACE in path.read_bytes() for path in out.rglob("*") if path.is_file()) == keep
