"""Words in pictures, by Tesseract where it is installed: text in lines, and each word's place.

It runs as a process with a time limit; English and Korean are read where its data for them is there.
"""

import functools
import io
import os
import shutil
import subprocess

from PIL import Image

LANGUAGES = ("kor", "eng")
LIMIT = 60.0           # seconds a picture
LAYOUT = "4"           # one column of text of any sizes: the default tears lines of tables apart
SURE = 30.0            # per cent, of a word


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
    lines: dict[tuple[str, ...], list[str]] = {}
    boxes = []
    for row in table.splitlines():
        cells = row.split("\t")
        if len(cells) != 12 or cells[0] != "5" or float(cells[10]) < SURE or not cells[11].strip():
            continue
        left, top, wide, high = (int(cell) for cell in cells[6:10])
        lines.setdefault(tuple(cells[1:5]), []).append(cells[11].strip())
        place = (left / width, top / height, (left + wide) / width, (top + high) / height)
        boxes.append([cells[11].strip(), *(round(share, 4) for share in place)])
    return "\n".join(" ".join(line) for line in lines.values()), boxes
