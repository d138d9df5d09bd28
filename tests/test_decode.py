"""Decoding good pictures: the pixels a person would see, whatever the depth, mode, alpha, orientation or frames."""

import errno
import io
import pickle
import struct
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, features

from omma.decode import decode, open_picture

RAMP = np.tile(np.linspace(0, 1, 128), (96, 1))
DOWN = np.tile(np.linspace(0, 1, 96)[:, None], (1, 128))
COLOURS = (np.stack([RAMP, RAMP[:, ::-1], DOWN], axis=-1) * 255).astype(np.uint8)
PICTURE = Image.fromarray(COLOURS)


def encoded(image, format="PNG", **options):
    sink = io.BytesIO()
    image.save(sink, format, **options)
    return sink.getvalue()


def pixels(data, **options):
    found = decode(data, **options)
    assert found.status == "ok", found
    assert found.image.mode == "RGB"
    return np.asarray(found.image)


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF"])
def test_a_lossless_picture_comes_back_pixel_by_pixel(format):
    found = decode(encoded(PICTURE, format))
    assert np.array_equal(np.asarray(found.image), COLOURS)
    assert (found.status, found.width, found.height, found.format, found.mode) == ("ok", 128, 96, format, "RGB")
    assert (found.frames, found.note) == (1, "")


@pytest.mark.parametrize("format", ["JPEG", "WEBP", pytest.param("AVIF", marks=pytest.mark.skipif(
    not features.check("avif"), reason="Pillow was built without AVIF"))])
def test_a_lossy_picture_comes_back_close(format):
    assert np.abs(pixels(encoded(PICTURE, format, quality=95)).astype(int) - COLOURS).mean() < 4


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_16_bit_grey_is_shifted_and_not_saturated(format):
    grey = (RAMP * 65535).astype(np.uint16)
    found = decode(encoded(Image.fromarray(grey), format))
    assert np.array_equal(np.asarray(found.image)[..., 0], (grey >> 8).astype(np.uint8))
    assert found.note == "16 bit shifted to 8"


@pytest.mark.parametrize(("values", "note"), [
    (RAMP.astype(np.float32), "stretched from 0..1"), ((RAMP * 1e6).astype(np.int32), "stretched from 0..1e+06"),
    (np.where(RAMP > 0.99, np.nan, RAMP).astype(np.float32), "stretched from 0..")])
def test_float_and_int32_are_stretched_over_their_range(values, note):
    found = decode(encoded(Image.fromarray(values), "TIFF"))
    grey = np.asarray(found.image)[..., 0].astype(int)
    assert (grey[:, 0] == 0).all()
    assert np.abs(grey[:, :120] - np.linspace(0, 255, 128)[:120]).max() < 5
    assert found.note.startswith(note)


def test_alpha_is_composited_on_white():
    alpha = (RAMP * 255).astype(np.uint8)
    found = decode(encoded(Image.fromarray(np.dstack([COLOURS, alpha]))))
    expected = COLOURS * RAMP[..., None] + 255 * (1 - RAMP[..., None])
    assert np.abs(np.asarray(found.image) - expected).max() < 2
    assert found.note == "alpha on white"


def test_a_transparent_palette_colour_and_a_transparent_grey_become_white():
    red_or_blue = Image.fromarray((np.arange(128 * 96).reshape(96, 128) % 2).astype(np.uint8), "P")
    red_or_blue.putpalette([255, 0, 0, 0, 0, 255])
    seen = pixels(encoded(red_or_blue, transparency=0))
    assert (seen[0, 0].tolist(), seen[0, 1].tolist()) == ([255, 255, 255], [0, 0, 255])
    seen = pixels(encoded(red_or_blue, transparency=b"\x80\xff"))              # half transparent
    assert seen[0, 0].tolist() == [255, 127, 127]
    grey = Image.fromarray(np.tile(np.array([[10, 200]], np.uint8), (8, 4)))
    seen = pixels(encoded(grey, transparency=10))
    assert (seen[0, 0].tolist(), seen[0, 1].tolist()) == ([255, 255, 255], [200, 200, 200])
    seen = pixels(encoded(Image.merge("LA", [grey, Image.new("L", grey.size, 0).point(lambda _: 255)])))
    assert seen[0, 0].tolist() == [10, 10, 10]


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(format, orientation):
    exif = Image.Exif()
    exif[0x112] = orientation
    upright = {1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
               5: lambda a: a.swapaxes(0, 1), 6: lambda a: np.rot90(a, -1), 7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
               8: lambda a: np.rot90(a)}[orientation](COLOURS)
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(format, {})
    found = decode(encoded(PICTURE, format, exif=exif, **options))
    assert np.abs(np.asarray(found.image).astype(int) - upright).max() < 8
    assert (found.height, found.width) == upright.shape[:2]


def test_an_unknown_or_broken_orientation_is_ignored_and_noted():
    exif = Image.Exif()
    exif[0x112] = 99
    found = decode(encoded(PICTURE, "JPEG", exif=exif))
    assert (found.image.size, found.note) == ((128, 96), "orientation 99 ignored")
    good = encoded(PICTURE, "JPEG", exif=b"Exif\0\0" + b"MM\0*" + struct.pack(">IH", 8, 500) + b"cut")
    assert decode(good).image.size == (128, 96)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_frame_0_is_given_and_the_frames_counted(format):
    frames = [Image.new("RGB", (64, 48), colour) for colour in ("red", "green", "blue", "white")]
    for frame in frames:
        frame.paste("black", (0, 0, 32, 48))
    options = {"lossless": True} if format == "WEBP" else {}
    found = decode(encoded(frames[0], format, save_all=True, append_images=frames[1:], **options))
    assert found.frames == 4
    assert np.asarray(found.image)[10, 50].tolist() == [255, 0, 0]


@pytest.mark.parametrize("format", ["JPEG", "TIFF"])
def test_cmyk_is_converted(format):
    found = decode(encoded(PICTURE.convert("CMYK"), format, **({"quality": 95} if format == "JPEG" else {})))
    assert (found.status, found.note) == ("ok", "CMYK converted")
    assert np.abs(np.asarray(found.image).astype(int) - COLOURS).mean() < 4


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA"])
def test_every_common_mode_becomes_rgb(mode):
    assert pixels(encoded(PICTURE.convert(mode))).shape == (96, 128, 3)


def test_one_colour_is_flat_and_keeps_its_image():
    found = decode(encoded(Image.new("RGB", (64, 64), (250, 10, 10))))
    assert (found.status, found.image.size) == ("flat", (64, 64))
    grey = np.full((64, 64), 100, np.uint8)
    grey[::2] += 3                                                             # standard deviation 1.5
    assert decode(encoded(Image.fromarray(grey))).status == "flat"
    grey[::2] += 2                                                             # 2.5
    assert decode(encoded(Image.fromarray(grey))).status == "ok"
    fine = np.indices((64, 64)).sum(0).astype(np.uint8) % 2 * 255              # a fine pattern is no flat picture
    assert decode(encoded(Image.fromarray(fine))).status == "ok"


@pytest.mark.parametrize("size", [(64, 64), (67, 95), (9, 31), (3, 200), (512, 300)])
def test_flat_is_a_matter_of_all_pixels_wherever_the_few_that_differ_lie(size):
    """Two boxes far from the rest, which is the least spread that a distance of two means allows; and noise."""
    wide, high = size
    box = max(1, min(size) // 8)
    for apart in range(2, 120):
        patches = np.full((high, wide), 128.0)
        patches[:box, :box] += apart / 2
        patches[box:2 * box, :box] -= apart / 2
        noise = 128 + np.random.default_rng(apart).normal(0, apart / 30, (high, wide))
        for grey in (patches, noise):
            grey = grey.round().astype(np.uint8)
            assert decode(encoded(Image.fromarray(grey))).status == ("flat" if grey.std() < 2 else "ok")


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
@pytest.mark.parametrize(("target", "size"), [(None, (512, 384)), (384, (512, 384)), (192, (256, 192)), (64, None)])
def test_a_target_reduces_by_a_whole_factor_and_never_below_it(format, target, size):
    data = encoded(PICTURE.resize((512, 384), Image.Resampling.BICUBIC), format)
    found = decode(data, target=target)
    assert (found.width, found.height) == (512, 384)
    assert min(found.image.size) >= (target or 0)
    assert size is None or found.image.size == size
    assert min(found.image.size) < 2 * (target or 384)
    small = PICTURE.resize(found.image.size, Image.Resampling.BICUBIC)
    assert np.abs(np.asarray(found.image).astype(int) - np.asarray(small)).mean() < 5


def test_a_row_is_opened_from_its_bytes_its_file_or_a_part_of_a_file(tmp_path):
    data = encoded(PICTURE)
    (tmp_path / "a.png").write_bytes(data)
    (tmp_path / "many.bin").write_bytes(b"before" + data + b"after")
    rows = [{"bytes": data}, {"uri": "a.png"}, {"uri": str(tmp_path / "a.png"), "bytes": None},
            {"uri": "many.bin", "offset": 6, "length": len(data)}, data]
    for row in rows:
        assert np.array_equal(np.asarray(open_picture(row, tmp_path).image), COLOURS)
    assert open_picture({"bytes": None, "uri": None}, tmp_path).status == "empty"
    assert open_picture({"bytes": b""}, tmp_path).status == "empty"
    assert open_picture({"uri": str(tmp_path / "a.png")}, None, target=32).image.size == (43, 32)


def test_a_file_that_is_gone_is_the_tables_error_and_not_a_bad_picture(tmp_path):
    with pytest.raises(ValueError, match=r"picture 'p7' is in .*gone.png, which can't be read .*put the file back"):
        open_picture({"id": "p7", "uri": "gone.png"}, tmp_path)


def test_too_many_open_files_are_no_fault_of_the_table(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.EMFILE, "Too many open files")

    (tmp_path / "a.png").write_bytes(encoded(PICTURE))
    monkeypatch.setattr("builtins.open", full)
    with pytest.raises(OSError, match="Too many open files"):
        open_picture({"uri": "a.png"}, tmp_path)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "BMP", "TIFF", "GIF", "WEBP"])
def test_what_is_decoded_can_be_sent_to_another_process(format):
    found = decode(encoded(PICTURE, format))
    sent = pickle.loads(pickle.dumps(found))
    assert np.array_equal(np.asarray(sent.image), np.asarray(found.image))
    assert sent.image.resize((32, 24)).size == (32, 24)


def test_decoding_and_tables_need_no_torch():
    code = "import sys, omma.decode, omma.table, omma.jobs, omma.data.ingest; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
