"""Pictures in a terminal: what is written is read back as a terminal reads it, and only where one can show it."""

import base64
import io
import re
import struct

import numpy as np
import pytest
from PIL import Image

from omma.terminal import CELL, COLUMNS, ROWS, WAYS, beside, cell_of, drawn, way_of

KITTY = re.compile(r"\x1b_G([^;]*);([A-Za-z0-9+/=]*)\x1b\\")


def picture(seed=0, size=(40, 30)):
    noise = np.random.default_rng(seed).integers(0, 256, (size[1] // 10, size[0] // 10, 3), np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.NEAREST)


def strip(pictures, cell=CELL):
    return beside(pictures, (COLUMNS * cell[0], ROWS * cell[1]), cell[0])


def seen_by_sixel(text):
    """The pixels of a sixel picture, RGBA, as the terminal of 1987 reads them."""
    width, height, body = re.fullmatch(r'\x1bP0;1q"1;1;(\d+);(\d+)(.*)\x1b\\\n', text, re.DOTALL).groups()
    pixels, palette, colour, x, top = np.zeros((int(height), int(width), 4), np.uint8), {}, 0, 0, 0
    for number, told, count, sign in re.findall(r"#(\d+)((?:;\d+){4})?|(?:!(\d+))?([?-~$-])", body):
        if number:
            colour = int(number)
            if told:
                palette[colour] = [round(2.55 * int(v)) for v in told.split(";")[2:]]
        elif sign == "$":
            x = 0
        elif sign == "-":
            x, top = 0, top + 6
        else:
            for row in range(6):
                if ord(sign) - 63 >> row & 1:
                    pixels[top + row, x : x + int(count or 1)] = [*palette[colour], 255]
            x += int(count or 1)
    return pixels


def seen_by_blocks(lines):
    """The pixels of "▀" and "▄" in 24-bit colours."""
    rows = []
    for line in lines:
        upper, lower, front, back = [], [], None, None
        for codes, sign in re.findall(r"\x1b\[([0-9;]*)m|([▀▄ ])", line):
            if sign:
                first, second = {"▀": (front, back), "▄": (back, front), " ": (back, back)}[sign]
                upper.append(first or (0, 0, 0, 0)), lower.append(second or (0, 0, 0, 0))
                continue
            numbers = [int(code) for code in codes.split(";")]
            while numbers:
                code = numbers.pop(0)
                if code == 0:
                    front = back = None
                    continue
                assert numbers.pop(0) == 2
                colour = (*(numbers.pop(0) for _ in range(3)), 255)
                front, back = (colour, back) if code == 38 else (front, colour)
        rows += [upper, lower]
    return np.array(rows, np.uint8)


def test_kitty_gets_a_png_in_chunks_with_its_size_in_characters():
    text = drawn([picture(1), picture(2)], "kitty")
    parts = KITTY.findall(text)
    assert parts[0][0] == f"a=T,f=100,q=2,c={2 * COLUMNS + 1},r={ROWS},m={int(len(parts) > 1)}"
    assert all(len(data) <= 4096 for _, data in parts)
    image = Image.open(io.BytesIO(base64.b64decode("".join(data for _, data in parts))))
    assert np.array_equal(image, strip([picture(1), picture(2)]))
    noisy = Image.fromarray(np.random.default_rng(0).integers(0, 256, (160, 160, 3), np.uint8))
    heads = [head for head, _ in KITTY.findall(drawn([noisy], "kitty"))]
    assert heads[1:] == ["m=1"] * (len(heads) - 2) + ["m=0"]
    assert KITTY.sub("", text) == "\n" + f"{'1'.center(COLUMNS)} {'2'.center(COLUMNS)}".rstrip() + "\n"


def test_iterm_gets_the_same_png_in_one_piece():
    told, data = re.match(r"\x1b\]1337;File=([^:]*):([^\x07]*)\x07\n", drawn([picture()], "iterm")).groups()
    data = base64.b64decode(data)
    assert told == f"inline=1;size={len(data)};width={COLUMNS};height={ROWS};preserveAspectRatio=0"
    assert np.array_equal(Image.open(io.BytesIO(data)), strip([picture()]))


def test_sixels_are_the_picture_within_a_level_of_its_few_colours():
    cell = (5, 11)                                         # 88 rows of pixels: the last band has four
    pictures = [picture(1), picture(2, (30, 60))]
    text = drawn(pictures, "sixel", cell=cell)
    found, wanted = seen_by_sixel(text[: text.index("\n") + 1]), np.asarray(strip(pictures, cell))
    assert found.shape == wanted.shape
    assert np.array_equal(found[..., 3], wanted[..., 3])
    inside = wanted[..., 3] > 0
    assert np.abs(found[inside].astype(int) - wanted[inside]).mean() < 4
    assert "!" in text


def test_blocks_are_two_pixels_a_character_to_the_bit():
    pictures = [picture(1, (60, 20)), picture(2, (20, 60))]
    text = drawn(pictures, "blocks")
    *lines, numbers = text.splitlines()
    assert len(lines) == ROWS
    assert numbers.split() == ["1", "2"]
    wanted = np.asarray(strip(pictures, (1, 2)))
    assert np.array_equal(seen_by_blocks(lines), np.where(wanted[..., 3:] > 0, wanted, 0))
    assert all(line.endswith("\x1b[0m") for line in lines)


def test_rows_are_as_wide_as_the_terminal_and_what_has_no_look_takes_no_place():
    text = drawn([picture(), None, picture(), picture(), picture()], "blocks", columns=2 * COLUMNS + 1)
    numbers = [line.split() for line in text.splitlines() if "\x1b" not in line]
    assert numbers == [["1", "3"], ["4", "5"]]
    assert drawn([None, None], "kitty") == ""
    narrow = drawn([picture(), picture()], "blocks", columns=5)
    assert [line.split() for line in narrow.splitlines() if "\x1b" not in line] == [["1"], ["2"]]


@pytest.mark.parametrize("way", WAYS)
def test_a_picture_of_any_shape_is_drawn_whole(way):
    for size in ((1, 900), (900, 1), (1, 1)):
        assert drawn([Image.new("RGB", size, (250, 0, 0))], way).endswith("1\n")


@pytest.mark.parametrize(("environ", "way"), [
    ({"TERM": "xterm-kitty", "KITTY_WINDOW_ID": "1"}, "kitty"),
    ({"TERM": "xterm-ghostty"}, "kitty"),
    ({"TERM": "xterm-256color", "KONSOLE_VERSION": "230804"}, "kitty"),
    ({"TERM": "xterm-256color", "KONSOLE_VERSION": "211200", "COLORTERM": "truecolor"}, "blocks"),
    ({"TERM": "xterm-256color", "TERM_PROGRAM": "iTerm.app"}, "iterm"),
    ({"TERM": "xterm-256color", "LC_TERMINAL": "iTerm2"}, "iterm"),
    ({"TERM": "xterm-256color", "TERM_PROGRAM": "WezTerm"}, "iterm"),
    ({"TERM": "foot-extra"}, "sixel"),
    ({"TERM": "mlterm"}, "sixel"),
    ({"TERM": "xterm-256color", "COLORTERM": "truecolor"}, "blocks"),
    ({"TERM": "xterm-256color", "WT_SESSION": "x"}, "blocks"),
    ({"TERM": "tmux-256color", "TMUX": "x", "KITTY_WINDOW_ID": "1", "COLORTERM": "truecolor"}, "blocks"),
    ({"TERM": "screen", "STY": "x", "TERM_PROGRAM": "iTerm.app"}, None),
    ({"TERM": "xterm-256color"}, None),
    ({"TERM": "xterm-kitty", "NO_COLOR": "1"}, None),
    ({"TERM": "dumb", "COLORTERM": "truecolor"}, None),
    ({}, None),
])  # fmt: skip
def test_the_way_is_known_by_the_environment_and_there_is_none_in_a_pipe(environ, way):
    assert way_of(environ, True) == way
    assert way_of(environ, False) is None
    if way == "blocks":
        assert way_of(environ, True, "ascii") is None


def test_a_character_has_pixels_where_a_terminal_tells_and_else_the_usual_ones(tmp_path):
    fcntl, pty, termios = (pytest.importorskip(name) for name in ("fcntl", "pty", "termios"))
    ours, theirs = pty.openpty()
    with open(ours, "wb"), open(theirs, "wb") as terminal, (tmp_path / "file").open("wb") as file:
        assert cell_of(terminal) == cell_of(file) == cell_of(io.StringIO()) == CELL  # a new terminal says 0
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 960, 528))
        assert cell_of(terminal) == (12, 22)
