"""Pages and moments through the process that reads them; files that are broken, locked, too large, or hang."""

import json
import os
import signal
import stat
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from media_files import pdf, scan, video
from omma.retrieval import media as reading
from omma.retrieval import ocr
from omma.retrieval.process import MediaProcess
from omma.retrieval.reading import Unreadable

pytest.importorskip("av")
pytest.importorskip("pypdfium2")
RED, GREEN, BLUE = (220, 30, 30), (20, 200, 60), (30, 40, 210)


@pytest.fixture(scope="module")
def media():
    with MediaProcess() as started:
        yield started


def unreadable(media, path, read="pdf"):
    with pytest.raises(Unreadable) as error:
        list(media.items(path, read))
    return error.value


def test_pages_have_a_picture_their_text_and_the_place_of_each_word(media, tmp_path):
    path = tmp_path / "two.pdf"
    path.write_bytes(pdf("A red cup, for the office", "second page"))
    first, second = media.items(path, "pdf")
    assert (first.kind, first.page, first.part, second.page, second.part) == ("page", 1, 0, 2, 1)
    assert first.text == "A red cup, for the office"
    assert first.image.size == (1008, 672)                                 # the short side is SIDE
    boxes = json.loads(zlib.decompress(first.boxes))
    assert [word for word, *_ in boxes] == ["A", "red", "cup,", "for", "the", "office"]
    _, x0, y0, _, y1 = boxes[0]
    assert x0 == pytest.approx(100 / 300, abs=0.01)                        # where the text begins
    assert y1 == pytest.approx(50 / 200, abs=0.01)                         # its base line
    assert 0 < y0 < y1
    ink = np.asarray(first.image.convert("L")) < 128
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    assert rows[0] / 672 == pytest.approx(y0, abs=0.02), "where the ink is"
    assert columns[0] / 1008 == pytest.approx(x0, abs=0.02)
    assert [word for word, *_ in json.loads(zlib.decompress(second.boxes))] == ["second", "page"], "however short"


def test_a_page_of_any_size_is_drawn_small_enough(media, tmp_path):
    (tmp_path / "wall.pdf").write_bytes(pdf("wallpaper, rather a lot of it", size=(14_400, 14_400)))
    (tmp_path / "strip.pdf").write_bytes(pdf("strip", size=(10, 14_400)))
    (wall,) = media.items(tmp_path / "wall.pdf", "pdf", scans=True)
    assert wall.image.size == (672, 672)
    (strip,) = media.items(tmp_path / "strip.pdf", "pdf", scans=True)
    assert max(strip.image.size) <= 32_000
    assert strip.image.width * strip.image.height <= reading.MOST_PIXELS * 1.01


def test_a_scan_is_drawn_in_print_quality_where_its_words_are_read(media, tmp_path):
    scan(tmp_path / "scan.pdf", Image.new("RGB", (144, 72), RED))
    (small,) = media.items(tmp_path / "scan.pdf", "pdf")
    (large,) = media.items(tmp_path / "scan.pdf", "pdf", scans=True)
    assert small.text == large.text == ""
    assert large.image.size == (400, 200)                                  # 2 inches at 200 dpi
    assert np.abs(np.asarray(large.image, int).mean((0, 1)) - RED).max() < 5


def test_what_is_wrong_with_a_pdf_is_said(media, tmp_path):
    (tmp_path / "locked.pdf").write_bytes(pdf("secret", encrypted=True))
    assert unreadable(media, tmp_path / "locked.pdf").status == "encrypted"
    (tmp_path / "none.pdf").write_bytes(b"%PDF-1.4 and nothing more")
    assert unreadable(media, tmp_path / "none.pdf").status == "decode_error"
    (tmp_path / "empty.pdf").write_bytes(pdf())
    assert unreadable(media, tmp_path / "empty.pdf").status in ("empty", "decode_error")
    assert unreadable(media, tmp_path / "gone.pdf").status == "decode_error"


@pytest.mark.parametrize(("name", "begins"), [("three.mp4", 0), ("three.mkv", 7.0), ("three.mov", 7.0)])
def test_a_moment_of_each_shot_is_found_with_its_times(media, tmp_path, name, begins):
    """Seconds from the first frame, whatever its time stamp is."""
    video(tmp_path / name, [(RED, 1.5), (GREEN, 2.0), (BLUE, 1.0)], begins=begins)
    moments = list(media.items(tmp_path / name, "video"))
    assert [m.kind for m in moments] == ["frame"] * 3
    assert [(m.start, m.end) for m in moments] == [
        (pytest.approx(start), pytest.approx(end)) for start, end in ((0, 1.5), (1.5, 3.5), (3.5, 4.5))]  # fmt: skip
    for moment, colour in zip(moments, (RED, GREEN, BLUE), strict=True):
        assert np.abs(np.asarray(moment.image, int)[50:, :].mean((0, 1)) - colour).max() < 12
        assert moment.start <= moment.moment < moment.end
        (again,) = media.items(tmp_path / name, "frame", at=moment.moment)
        assert again.moment == pytest.approx(moment.moment)
        assert np.abs(np.asarray(again.image, int) - np.asarray(moment.image, int)).max() <= 2


def test_no_module_is_taken_from_the_folder_that_one_is_in(tmp_path, monkeypatch):
    for name in ("numpy", "json", "PIL", "pypdfium2"):
        (tmp_path / f"{name}.py").write_text("open('taken', 'w').close()")
    (tmp_path / "one.pdf").write_bytes(pdf("one page, of one line"))
    monkeypatch.chdir(tmp_path)
    with MediaProcess() as media:
        assert len(list(media.items(tmp_path / "one.pdf", "pdf"))) == 1
    assert not (tmp_path / "taken").exists()


def still(shade):
    return np.full((36, 64, 3), shade, np.uint8)


def moments_of(frames):
    found = reading.shots(iter(frames), lambda frame: frame, lambda frame: frame)
    return [(m["start"], m["end"]) for m in found if m]


def test_a_fade_is_a_new_shot_and_a_long_one_is_cut_every_ten_seconds():
    assert moments_of((still(90), i / 2) for i in range(50)) == [(0, 10), (10, 20), (20, 25)]
    fade = moments_of((still(min(200, 20 + 4 * i)), i / 10) for i in range(100))
    assert len(fade) > 3
    assert [end for _, end in fade[:-1]] == [start for start, _ in fade[1:]]
    rng = np.random.default_rng(0)
    shaky = [(still(100) + rng.integers(0, 40, (36, 64, 3), np.uint8), i / 10) for i in range(60)]
    assert moments_of(shaky) == [(0, pytest.approx(6.0))], "what changes all the time is no cut"


def test_what_is_wrong_with_a_video_is_said(media, tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    assert unreadable(media, tmp_path / "text.mp4", "video").status == "decode_error"
    video(tmp_path / "whole.mp4", [(RED, 1), (GREEN, 1)])
    data = (tmp_path / "whole.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) // 3])
    assert unreadable(media, tmp_path / "cut.mp4", "video").status in ("decode_error", "empty")
    assert len(list(media.items(tmp_path / "whole.mp4", "video"))) == 2, "and the next file is read"


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such signal")
def test_a_file_that_hangs_or_crashes_the_process_costs_that_file_alone(tmp_path):
    path = tmp_path / "one.pdf"
    path.write_bytes(pdf("one page, of one line"))
    with MediaProcess(patience=0.3) as media:
        child = media._start()
        os.kill(child.pid, signal.SIGSTOP)                                 # as one that hangs
        assert unreadable(media, path).status == "time_out"
        media.patience = 60
        assert len(list(media.items(path, "pdf"))) == 1
        os.kill(media._child.pid, signal.SIGSEGV)
        assert unreadable(media, path).status == "crashed"
        assert media._child is None


TABLE = """level\tpage_num\tblock_num\tpar_num\tline_num\tword_num\tleft\ttop\twidth\theight\tconf\ttext
1\t1\t0\t0\t0\t0\t0\t0\t200\t100\t-1\t
5\t1\t1\t1\t1\t1\t20\t10\t40\t20\t96.5\tred
5\t1\t1\t1\t1\t2\t70\t10\t30\t20\t91.0\tcup
5\t1\t1\t1\t1\t3\t110\t10\t30\t20\t12.0\t~~
5\t1\t1\t1\t2\t1\t20\t50\t20\t20\t80.0\t고
5\t1\t1\t1\t2\t2\t40\t50\t40\t20\t80.0\t양이가
5\t1\t1\t1\t2\t3\t87\t50\t20\t20\t80.0\t책상
"""


def test_words_of_tesseract_become_lines_and_places():
    text, boxes = ocr.words_of(TABLE, 200, 100)
    assert text == "red cup\n고양이가 책상", "syllables that touch are one word"
    assert boxes == [["red", 0.1, 0.1, 0.3, 0.3], ["cup", 0.35, 0.1, 0.5, 0.3], ["고양이가", 0.1, 0.5, 0.4, 0.7],
                     ["책상", 0.435, 0.5, 0.535, 0.7]]


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Puts a tesseract on the path that does as told."""
    ocr.languages.cache_clear()

    def install(body, languages="eng kor osd"):
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        (folder / "table").write_text(TABLE)
        script = folder / "tesseract"
        script.write_text(f'#!/bin/sh\nif [ "$1" = --list-langs ]; then echo {languages}; exit; fi\n'
                          f'echo "$@" > {folder}/asked\ncat > {folder}/picture\n'
                          f"{body.format(folder=folder)}\n")  # fmt: skip
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
        return folder

    yield install
    ocr.languages.cache_clear()


def test_tesseract_is_asked_for_korean_and_english_with_the_picture_and_a_time_limit(program):
    folder = program("cat {folder}/table")
    text, boxes = ocr.read_words(Image.new("RGB", (200, 100), RED))
    assert text.startswith("red cup")
    assert len(boxes) == 4
    assert (folder / "asked").read_text().split() == ["stdin", "stdout", "-l", "kor+eng", "--psm", "4", "tsv"]
    assert Image.open(folder / "picture").getpixel((0, 0)) == RED
    program("exec sleep 30")
    with pytest.raises(TimeoutError, match=r"longer than 0\.2 s"):
        ocr.read_words(Image.new("RGB", (8, 8)), limit=0.2)
    program("echo no such thing >&2; exit 1")
    with pytest.raises(ValueError, match="tesseract failed: no such thing"):
        ocr.read_words(Image.new("RGB", (8, 8)))
    ocr.languages.cache_clear()
    program("", languages="deu")
    with pytest.raises(ValueError, match="neither English nor Korean"):
        ocr.read_words(Image.new("RGB", (8, 8)))


def test_without_tesseract_its_name_is_in_the_message(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert ocr.tesseract() is None
    with pytest.raises(ValueError, match="no tesseract here; install it"):
        ocr.read_words(Image.new("RGB", (8, 8)))
