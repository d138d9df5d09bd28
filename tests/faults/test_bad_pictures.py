"""Pictures from outside: whatever the bytes, a status and never an exception, within bounded memory."""

import struct
import subprocess
import sys
import warnings

import numpy as np
import pytest
from corpus import PICTURE, encoded, jpeg_that_claims, png
from PIL import Image, features

from omma.decode import STATUSES, Limits, _one_scan, decode, open_picture

FORMATS = ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", *(["AVIF"] if features.check("avif") else [])]


def small(format):
    return encoded(PICTURE.resize((40, 30)).convert("P" if format == "GIF" else "RGB"), format)


def gif_that_claims(width, height):
    data = bytearray(encoded(PICTURE.convert("P"), "GIF"))
    data[6:10] = struct.pack("<HH", width, height)
    return bytes(data)


def webp_that_claims(width, height):
    data = bytearray(encoded(PICTURE, "WEBP", lossless=True))
    assert data[12:16] == b"VP8L"
    bits = struct.unpack_from("<I", data, 21)[0] & ~0xFFFFFFF
    struct.pack_into("<I", data, 21, bits | (width - 1) | (height - 1) << 14)
    return bytes(data)


def tiff_that_claims(side):
    tags = [(256, side), (257, side), (258, 8), (259, 1), (262, 1), (273, 200), (277, 1), (278, side), (279, 400)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(400)


REFUSED = {
    "nothing": (b"", "empty"),
    "a web page": (b"<!doctype html><html>404</html>", "not_an_image"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not_an_image"),
    "zeros": (bytes(5000), "not_an_image"),
    "half a jpeg": (encoded(PICTURE, "JPEG")[:1000], "truncated"),
    "a jpeg without its last 2 bytes": (encoded(PICTURE, "JPEG")[:-2], "truncated"),
    "half a png": (encoded(PICTURE, "PNG")[:300], "truncated"),
    "12000 x 12000 png": (png(12000, 12000, rows=100), "too_many_pixels"),
    "20000 x 20000 png": (png(20000, 20000, rows=100), "too_many_pixels"),
    "40000 x 4 png": (png(40000, 4), "too_many_pixels"),
    "65500 x 65500 jpeg header": (jpeg_that_claims(65500, 65500), "too_many_pixels"),
    "9000 x 9000 jpeg header": (jpeg_that_claims(9000, 9000), "too_many_pixels"),
    "7000 x 7000 jpeg header": (jpeg_that_claims(7000, 7000), "suspicious_ratio"),
    "60000 x 60000 gif header": (gif_that_claims(60000, 60000), "too_many_pixels"),
    "16000 x 16000 webp header": (webp_that_claims(16000, 16000), "too_many_pixels"),
    "20000 x 20000 tiff header": (tiff_that_claims(20000), "too_many_pixels"),
    "1 x 1 gif": (encoded(Image.new("P", (1, 1)), "GIF"), "too_small"),
    "lab": (encoded(PICTURE.convert("LAB"), "TIFF"), "unsupported_mode"),
    "a jpeg of noise": (b"\xff\xd8\xff" + np.random.default_rng(0).bytes(3000), "decode_error"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_picture_has_a_status_and_no_image(case):
    data, status = REFUSED[case]
    found = decode(data)
    assert (found.status, found.image) == (status, None)
    assert found.status in STATUSES


@pytest.mark.parametrize(("limits", "status"), [
    (Limits(max_bytes=500), "too_many_bytes"), (Limits(max_pixels=96 * 128 - 1), "too_many_pixels"),
    (Limits(max_side=127), "too_many_pixels"), (Limits(min_side=97), "too_small"),
    (Limits(max_pixels_per_byte=1), "suspicious_ratio"),
    (Limits(max_pixels=96 * 128, max_side=128, min_side=96), "ok")])
def test_limits_are_inclusive_and_each_has_its_status(limits, status):
    assert decode(encoded(PICTURE, "JPEG"), limits).status == status


@pytest.mark.parametrize("format", FORMATS)
def test_every_prefix_of_a_picture_has_a_status(format):
    data = small(format)
    step = max(1, len(data) // 300)
    seen = {decode(data[:end]).status for end in range(0, len(data), step)}
    assert seen <= {"empty", "not_an_image", "truncated", "decode_error", "ok"}
    assert {"empty", "truncated"} <= seen
    assert decode(data).status == "ok"


def with_exif(format):
    exif = Image.Exif()
    exif[0x112], exif[0x11A], exif[0x10F] = 6, 72.0, "maker of cameras"
    return encoded(PICTURE.resize((40, 30)), format, exif=exif)


WITH_EXIF = [with_exif(name) for name in FORMATS if name not in ("GIF", "BMP")]


@pytest.mark.parametrize("whole", [*map(small, FORMATS), *WITH_EXIF], ids=lambda data: repr(data[:8]))
def test_random_damage_never_raises_and_never_warns(whole):
    dice = np.random.default_rng(1)
    for trial in range(150):
        data = bytearray(whole)
        reach = len(data) if trial % 2 else min(len(data), 120)                # headers are where surprises are
        for at in dice.integers(0, reach, 4):
            data[at] = dice.integers(0, 256)
        found = decode(bytes(data))
        assert found.status in STATUSES
        assert "Warning" not in found.note
        assert (found.image is None) == (found.status not in ("ok", "flat"))


def test_a_bad_picture_does_not_change_what_its_neighbours_give():
    good = encoded(PICTURE, "JPEG")
    alone = np.asarray(decode(good).image)
    for data, _ in REFUSED.values():
        decode(data)
        assert np.array_equal(np.asarray(decode(good).image), alone)


def test_the_hosts_pillow_settings_and_warning_filters_are_as_before(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 77)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        filters = list(warnings.filters)
        for data, _ in REFUSED.values():
            decode(data)
        assert decode(encoded(PICTURE, "PNG")).status == "ok"                  # the host's own limit is the host's
        assert decode(encoded(PICTURE, "TIFF")).status == "too_many_pixels"    # but its reader obeys it
        assert warnings.filters == filters
    assert Image.MAX_IMAGE_PIXELS == 77


# In a process of its own: one that has run other tests held more at some time, and its peak would not move. What the
# kernel calls maxrss, a child has from its parent.
REFUSES = """
import resource, sys
from pathlib import Path
from omma.decode import decode

def peak():
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().split("VmHWM:")[1].split()[0]) << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

good, *bombs = [Path(name).read_bytes() for name in sys.argv[1:]]
assert decode(good).status == "ok"
before = peak()
print(*(decode(data).status for data in bombs), peak() - before)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no peak of memory there")
def test_refusing_a_bomb_costs_no_memory(tmp_path):
    files, bombs = [], [png(12000, 12000), jpeg_that_claims(9000, 9000), webp_that_claims(16000, 16000)]
    for data in (encoded(PICTURE, "PNG"), *bombs):
        files.append(tmp_path / str(len(files)))
        files[-1].write_bytes(data)
    ran = subprocess.run([sys.executable, "-c", REFUSES, *files], capture_output=True, text=True, check=True)
    *statuses, grown = ran.stdout.split()
    assert statuses == ["too_many_pixels"] * 3
    assert int(grown) < 20 << 20                                                # decoded: 700 MB


def test_a_jpeg_of_many_scans_is_turned_down_before_it_is_decoded():
    """Each scan of some twenty bytes is a pass over all pixels: a megabyte of them keeps a decoder busy for minutes."""
    data = encoded(PICTURE, "JPEG", progressive=True)
    scan = data[data.rindex(b"\xff\xda"):-2]
    few, many = (data[:-2] + scan * number + b"\xff\xd9" for number in (20, 100))
    assert decode(few).status == "ok"
    assert (decode(many).status, decode(many).note) == ("suspicious_ratio", "more than 100 scans")
    assert decode(data + scan * 100).status == "ok"        # what follows the end of the picture is none of it
    block = b"\xff\xe1" + struct.pack(">H", 802) + b"\xff\xda" * 400
    assert decode(data[:2] + block + data[2:]).status == "ok"


def test_scans_are_counted_where_a_decoder_would_read_more_than_one():
    """A plain frame whose first scan has all colours has no other: what comes as one is an error, told at once. One of
    a colour a scan may have as many as it likes, and so may one whose headers a decoder reads otherwise than they
    say."""
    data = encoded(PICTURE, "JPEG")
    at = data.index(b"\xff\xda")
    scan = data[at:-2]
    assert _one_scan(data)
    assert _one_scan(encoded(PICTURE.convert("L"), "JPEG"))
    assert decode(data[:-2] + scan * 101 + b"\xff\xd9").status == "decode_error"

    grey = encoded(PICTURE.convert("L"), "JPEG")
    frame, first = grey.index(b"\xff\xc0"), grey.index(b"\xff\xda")
    colours = b"\xff\xc0\0\x11" + grey[frame + 4:frame + 9] + b"\x03" + b"".join(bytes([k, 17, 0]) for k in (1, 2, 3))
    scans = [b"\xff\xda\0\x08\1" + bytes([k, 0, 0, 63, 0]) + grey[first + 10:-2] for k in (1, 2, 3)]
    apart = grey[:frame] + colours + grey[frame + 13:first] + b"".join(scans) + b"\xff\xd9"
    assert decode(apart).status == "ok"
    many = apart[:-2] + scans[2] * 100 + b"\xff\xd9"
    assert (decode(many).status, decode(many).note) == ("suspicious_ratio", "more than 100 scans")

    hidden = [many[:2] + b"\xff\xe1" + struct.pack(">H", n) + data[2:at + 14] + many[2:] for n in (0, 1)]
    filled = many[:2] + b"\xff\xff\xfe\0\x02" + many[2:]
    between, progressive = data[:2] + b"\0" + data[2:], encoded(PICTURE, "JPEG", progressive=True)
    for other in (many, apart, filled, *hidden, between, progressive, data[:at], data[:at + 3], b"\xff\xd8\xff\xe0"):
        assert not _one_scan(other)


@pytest.mark.parametrize(("order", "big"), [("<", False), (">", False), ("<", True)])   # Pillow opens no fourth
def test_pages_of_a_tiff_are_counted_also_when_their_chain_goes_round_or_out(order, big):
    """As Pillow counts them, at a hundredth of the time: a file of 64 MB can hold millions."""
    size, head, link = ("Q", "Q", "Q") if big else ("I", "H", "I")
    start = (b"II" if order == "<" else b"MM") + struct.pack(order + "H", 43 if big else 42)
    start += struct.pack(order + "HHQ", 8, 0, 16) if big else struct.pack(order + "I", 8)
    tags = [(256, 8), (257, 8), (258, 8), (259, 1), (262, 1), (273, 4000), (277, 1), (278, 8), (279, 64)]
    entries = b"".join(struct.pack(order + "HH" + size * 2, tag, 16 if big else 4, 1, value) for tag, value in tags)
    page = len(entries) + struct.calcsize(order + head + link)
    for last, pages in ((0, 3), (len(start), 3), (10**6, 3)):
        chain = [len(start) + page * (i + 1) for i in range(2)] + [last]
        data = start + b"".join(struct.pack(order + head, len(tags)) + entries + struct.pack(order + link, after)
                                for after in chain)
        data = data.ljust(4000, b"\0") + bytes(range(0, 256, 4))
        found = decode(data)
        assert (found.status, found.frames, found.image.size) == ("ok", pages, (8, 8)), last


def test_of_a_file_that_is_too_large_no_more_is_read_than_tells_it(tmp_path):
    with open(tmp_path / "a.png", "wb") as file:
        file.write(small("PNG"))
        file.truncate(1 << 40)                             # takes no room on the disk, and none in memory
    for length in (None, 1 << 40):
        found = open_picture({"uri": "a.png", "length": length}, tmp_path, Limits(max_bytes=5000))
        assert (found.status, found.note) == ("too_many_bytes", "5001 bytes, limit 5000")
