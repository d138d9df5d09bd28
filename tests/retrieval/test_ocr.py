"""Tesseract itself, where it is installed: English and Korean, and where on the picture each word stands."""

import json
import zlib
from pathlib import Path

import pytest
from PIL import Image, ImageDraw, ImageFont

from media_files import scan
from omma.retrieval import ocr
from omma.retrieval.build import build_index

PROGRAM = ocr.tesseract()
FONTS = ["NanumGothic.ttf", "NotoSansCJK-Regular.ttc", "NotoSansKR-Regular.otf", "UnDotum.ttf"]
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no tesseract is installed")


def page(*lines, font=None, size=(1000, 400)):
    """Black lines on white, the first 60 pixels from the top."""
    image = Image.new("RGB", size, "white")
    for n, line in enumerate(lines):
        ImageDraw.Draw(image).text((80, 60 + 90 * n), line, "black", font or ImageFont.load_default(44))
    return image


def test_english_is_read_in_lines_and_each_word_has_its_place():
    text, boxes = ocr.read_words(page("Boarding pass to Busan", "gate 27 closes at noon"))
    assert text == "Boarding pass to Busan\ngate 27 closes at noon"
    assert [word for word, *_ in boxes] == text.split()
    word, x0, y0, x1, y1 = boxes[3]
    left = 80 + ImageFont.load_default(44).getlength("Boarding pass to ")
    assert word == "Busan"
    assert abs(x0 * 1000 - left) < 8
    assert abs(x1 * 1000 - left - ImageFont.load_default(44).getlength("Busan")) < 8
    assert 60 <= y0 * 400 < y1 * 400 <= 130


def test_korean_is_read():
    if "kor" not in ocr.languages(str(PROGRAM)):
        pytest.skip("tesseract has no Korean here")
    fonts = [path for name in FONTS for path in Path("/usr/share/fonts").rglob(name)]
    if not fonts:
        pytest.skip("no font with Hangul here")
    lines = ["고양이가 책상 위에 있다", "서울역 3번 출구"]
    text, boxes = ocr.read_words(page(*lines, font=ImageFont.truetype(fonts[0], 52)))
    assert text.split() == " ".join(lines).split()
    assert boxes[0][0] == "고양이가"


def test_an_empty_picture_has_no_words():
    assert ocr.read_words(Image.new("RGB", (300, 200), "white")) == ("", [])


def test_a_scanned_page_is_found_by_what_is_printed_on_it(tmp_path, colour_encoder):
    pytest.importorskip("pypdfium2")
    (tmp_path / "papers").mkdir()
    scan(tmp_path / "papers" / "ticket.pdf", page("Boarding pass to Busan", size=(800, 300)))
    with build_index(tmp_path / "papers", tmp_path / "index.db", encoder=colour_encoder) as index:
        (hit,) = index.search("where is my boarding pass", by="words")
        assert hit.place == f"{tmp_path / 'papers' / 'ticket.pdf'} p.1"
        packed = index.store.rows("SELECT boxes FROM item WHERE id = ?", int(hit.id))[0][0]
        assert [word for word, *_ in json.loads(zlib.decompress(packed))] == ["Boarding", "pass", "to", "Busan"]
