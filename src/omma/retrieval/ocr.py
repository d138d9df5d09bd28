"""Words in pictures, by Tesseract where it is installed: text in lines, and each word's place.

It runs as a process with a time limit; English and Korean are read where its data for them is there.
"""

import functools
import io
import os
import re
import shutil
import subprocess
from typing import NamedTuple

from PIL import Image

from omma.retrieval.tokens import CJK

LANGUAGES = ("kor", "eng")
LIMIT = 60.0           # seconds a picture
LAYOUT = "4"           # one column of text of any sizes: the default tears lines of tables apart
SURE = 30.0            # per cent, of a word
GAP = 0.15             # of its height: a space of Korean print is twice as wide


def tesseract() -> str | None:
    """Where the program is, None where it isn't."""
    return shutil.which("tesseract")


@functools.cache
def languages(program: str) -> str:
    """Of LANGUAGES those that it has, as it wants them named. ValueError when it has none of them."""
    said = subprocess.run([program, "--list-langs"], capture_output=True, text=True, timeout=LIMIT).stdout.split()
    known = [language for language in LANGUAGES if language in said]
    if not known:
        raise ValueError(f"{program} knows neither English nor Korean; install its data: tesseract-ocr-eng, "
                         "tesseract-ocr-kor")
    return "+".join(known)


def read_words(image: Image.Image, limit: float = LIMIT) -> tuple[str, list[list]]:
    """(text, boxes): lines of words, and [word, x0, y0, x1, y1] each, shares of the picture from its upper left.

    Raises TimeoutError after limit seconds, and ValueError when the program is not there or fails.
    """
    program = tesseract()
    if program is None:
        raise ValueError("no tesseract here; install it, for example: apt install tesseract-ocr tesseract-ocr-kor")
    data = io.BytesIO()
    image.save(data, "PNG", compress_level=1)
    command = [program, "stdin", "stdout", "-l", languages(program), "--psm", LAYOUT, "tsv"]
    try:
        done = subprocess.run(command, input=data.getvalue(), capture_output=True, timeout=limit,
                              env={**os.environ, "OMP_THREAD_LIMIT": "1"})
    except subprocess.TimeoutExpired:
        raise TimeoutError(f"tesseract took longer than {limit:g} s") from None
    if done.returncode:
        raise ValueError(f"tesseract failed: {done.stderr.decode(errors='replace').strip()[:200]}")
    return words_of(done.stdout.decode(errors="replace"), *image.size)


def words_of(table: str, width: int, height: int) -> tuple[str, list[list]]:
    """What a table of tesseract's says. Its columns: level, page, block, paragraph, line, word, left, top, width,
    height, confidence, text; level 5 is a word."""
    lines: dict[tuple[str, ...], list[Word]] = {}
    for row in table.splitlines():
        cells = row.split("\t")
        if len(cells) != 12 or cells[0] != "5" or float(cells[10]) < SURE or not cells[11].strip():
            continue
        left, top, wide, high = (int(cell) for cell in cells[6:10])
        word = Word(cells[11].strip(), left, top, left + wide, top + high)
        line = lines.setdefault(tuple(cells[1:5]), [])
        if line and line[-1].goes_on(word):
            word = line.pop().joined(word)
        line.append(word)
    boxes = [[word.text, *(round(pixels / side, 4) for pixels, side in zip(word[1:], (width, height) * 2, strict=True))]
             for line in lines.values() for word in line]
    return "\n".join(" ".join(word.text for word in line) for line in lines.values()), boxes


class Word(NamedTuple):
    """A word and its place in pixels."""

    text: str
    x0: int
    y0: int
    x1: int
    y1: int

    def goes_on(self, other: "Word") -> bool:
        """Whether the next one is the rest of this: tesseract cuts Korean words into syllables."""
        gap, high = other.x0 - self.x1, min(self.y1 - self.y0, other.y1 - other.y0)
        return gap < GAP * high and re.search(f"[{CJK}]", self.text[-1] + other.text[0]) is not None

    def joined(self, other: "Word") -> "Word":
        return Word(self.text + other.text, min(self.x0, other.x0), min(self.y0, other.y0), max(self.x1, other.x1),
                    max(self.y1, other.y1))
