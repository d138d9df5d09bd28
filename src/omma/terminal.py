"""Small pictures in a terminal, in rows, with their numbers below: the way depends on what the terminal understands.

    sys.stdout.write(drawn([picture, picture], way_of(os.environ, sys.stdout.isatty()) or "blocks"))

    kitty     its graphics protocol: a PNG in base64, in chunks            kitty, Ghostty, Konsole
    iterm     OSC 1337: a PNG in base64                                    iTerm2, WezTerm, mintty
    sixel     bands of six rows of pixels, up to 256 colours (DEC 1987)    foot, mlterm, contour
    blocks    "▀" in 24-bit colours before others: two pixels a character  what says that it has these colours
"""

import base64
import io
import struct
from collections.abc import Mapping, Sequence
from typing import IO

import numpy as np
from PIL import Image

WAYS = ("kitty", "iterm", "sixel", "blocks")
COLUMNS, ROWS = 16, 8    # characters of a picture, which are about twice as high as wide; one column between two
CELL = (10, 20)          # pixels of a character where the terminal does not tell
CHUNK = 4096             # characters of base64 that kitty takes at once
COLOURS = 256


def way_of(environ: Mapping[str, str], terminal: bool, encoding: str = "utf-8") -> str | None:
    """One of WAYS, None where pictures are better left out: in a pipe or file, without colours, in a terminal of which
    nothing is known. terminal: whether the output is one; encoding: of the output.

    Inside tmux or screen, which keep graphics to themselves, only blocks come through.
    """
    term, program = environ.get("TERM", ""), environ.get("TERM_PROGRAM", "")
    if not terminal or term in ("", "dumb") or environ.get("NO_COLOR"):
        return None
    inside = "TMUX" in environ or "STY" in environ or term.startswith(("screen", "tmux"))
    if not inside:
        konsole = environ.get("KONSOLE_VERSION", "")
        if term in ("xterm-kitty", "xterm-ghostty") or program == "ghostty" or "KITTY_WINDOW_ID" in environ or (
                konsole.isdigit() and int(konsole) >= 220400):  # fmt: skip
            return "kitty"
        if program in ("iTerm.app", "WezTerm", "mintty") or environ.get("LC_TERMINAL") == "iTerm2":
            return "iterm"
        if term.partition("-")[0] in ("foot", "mlterm", "contour"):
            return "sixel"
    coloured = environ.get("COLORTERM") in ("truecolor", "24bit") or "WT_SESSION" in environ
    return "blocks" if coloured and encoding.lower().replace("-", "") == "utf8" else None


def drawn(pictures: Sequence[Image.Image | None], way: str, columns: int = 80, cell: tuple[int, int] = CELL) -> str:
    """What is written to see the pictures, in rows as wide as the terminal; below each its number, from 1. None has no
    look and takes no place.

    way: of WAYS; columns: of the terminal; cell: pixels of a character, (width, height).
    """
    seen = [(number, picture) for number, picture in enumerate(pictures, 1) if picture is not None]
    across, out = max(1, (columns + 1) // (COLUMNS + 1)), ""
    for start in range(0, len(seen), across):
        row = seen[start : start + across]
        one = (1, 2) if way == "blocks" else cell
        strip = beside([picture for _, picture in row], (COLUMNS * one[0], ROWS * one[1]), one[0])
        out += WRITTEN[way](strip, len(row) * (COLUMNS + 1) - 1)
        out += " ".join(str(number).center(COLUMNS) for number, _ in row).rstrip() + "\n"
    return out


def beside(pictures: Sequence[Image.Image], size: tuple[int, int], gap: int) -> Image.Image:
    """RGBA: each picture as large as it fits into its size, in its middle; between them and around them nothing."""
    strip = Image.new("RGBA", (len(pictures) * (size[0] + gap) - gap, size[1]))
    for place, picture in enumerate(pictures):
        scale = min(size[0] / picture.width, size[1] / picture.height)
        fitted = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
        small = picture.convert("RGB").resize(fitted, Image.Resampling.LANCZOS)
        left = place * (size[0] + gap) + (size[0] - fitted[0]) // 2
        strip.paste(small, (left, (size[1] - fitted[1]) // 2))
    return strip


def kitty(strip: Image.Image, columns: int) -> str:
    """Shown at once (a=T), scaled to columns and ROWS, and nothing is answered (q=2)."""
    data = base64.b64encode(png(strip)).decode()
    out, head = "", f"a=T,f=100,q=2,c={columns},r={ROWS},"
    for start in range(0, len(data), CHUNK):
        out += f"\x1b_G{head}m={int(start + CHUNK < len(data))};{data[start : start + CHUNK]}\x1b\\"
        head = ""
    return out + "\n"


def iterm(strip: Image.Image, columns: int) -> str:
    data = png(strip)
    told = f"inline=1;size={len(data)};width={columns};height={ROWS};preserveAspectRatio=0"
    return f"\x1b]1337;File={told}:{base64.b64encode(data).decode()}\x07\n"


def sixel(strip: Image.Image, columns: int) -> str:
    """Each band of six rows, colour by colour: bit r of a character, above 63, is row r of the band."""
    few = strip.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    numbers, opaque = np.asarray(few), np.asarray(strip)[..., 3] > 0
    palette = np.array(few.getpalette()).reshape(-1, 3)
    used = np.unique(numbers[opaque])
    bands = []
    for top in range(0, strip.height, 6):
        band, there = numbers[top : top + 6], opaque[top : top + 6]
        bits = 1 << np.arange(len(band))[:, None]
        masks = {n: (band == n) & there for n in used.tolist()}
        bands.append("$".join(f"#{n}" + runs((mask * bits).sum(0)) for n, mask in masks.items() if mask.any()))
    colours = "".join(f"#{n};2;" + ";".join(str(round(v / 2.55)) for v in palette[n]) for n in used)
    return f'\x1bP0;1q"1;1;{strip.width};{strip.height}{colours}' + "-".join(bands) + "\x1b\\\n"


def runs(bits: np.ndarray) -> str:
    """(w,) 0..63 -> sixel characters, four or more equal ones as !count."""
    starts = np.flatnonzero(np.diff(bits, prepend=-1))
    counts = np.diff(starts, append=len(bits))
    return "".join(f"!{n}{chr(63 + v)}" if n > 3 else chr(63 + v) * n
                   for n, v in zip(counts.tolist(), bits[starts].tolist(), strict=True))  # fmt: skip


def blocks(strip: Image.Image, columns: int) -> str:
    """Two rows of pixels a line: the upper one is the colour of "▀", the lower one is behind it."""
    pixels, out = np.asarray(strip), ""
    for upper, lower in zip(pixels[::2], pixels[1::2], strict=True):
        line, before = "", ""
        for (r, g, b, top), (r2, g2, b2, bottom) in zip(upper.tolist(), lower.tolist(), strict=True):
            if top and bottom:
                style, sign = f"\x1b[38;2;{r};{g};{b};48;2;{r2};{g2};{b2}m", "▀"
            elif top or bottom:
                style, sign = f"\x1b[0;38;2;{r if top else r2};{g if top else g2};{b if top else b2}m", "▀▄"[not top]
            else:
                style, sign = "\x1b[0m", " "
            line, before = line + (style if style != before else "") + sign, style
        out += line + "\x1b[0m\n"
    return out


WRITTEN = {"kitty": kitty, "iterm": iterm, "sixel": sixel, "blocks": blocks}


def png(picture: Image.Image) -> bytes:
    sink = io.BytesIO()
    picture.save(sink, "PNG")
    return sink.getvalue()


def cell_of(output: IO) -> tuple[int, int]:
    """Pixels of a character, (width, height), as the terminal behind an output tells; CELL where it doesn't."""
    try:
        import fcntl
        import termios

        rows, columns, width, height = struct.unpack("HHHH", fcntl.ioctl(output.fileno(), termios.TIOCGWINSZ, bytes(8)))
    except (ImportError, OSError):
        return CELL
    return (width // columns, height // rows) if width >= columns > 0 and height >= rows > 0 else CELL
