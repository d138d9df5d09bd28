"""Sheets of example pictures with what is said of them: the kinds, the pairs, the looks, and the solids."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from omma.scenes.draw import render
from omma.scenes.kinds import COLOURS, KINDS, PATTERNS
from omma.scenes.looks import STYLES, Look, degrade
from omma.scenes.pairs import make_pair
from omma.scenes.solid_pairs import SOLID_PATTERNS, make_solid_pair
from omma.scenes.world import Backdrop, Thing, World, sample_world

TILE, LINE, GAP = 112, 12, 8
PALE = Backdrop((240, 242, 246), (240, 242, 246), 0.5)
LOOKS = [Look(style) for style in STYLES] + [Look(clutter=3), Look(noise=16), Look(blur=1.5), Look(downscale=4)]
Tile = tuple[Image.Image, str]


def sheet(rows: Sequence[Sequence[Tile]]) -> Image.Image:
    """The pictures in rows, each with its words below it."""
    font = ImageFont.load_default(size=10)
    lines = [[_wrapped(words, font) for _, words in row] for row in rows]
    heights = [TILE + LINE * max(map(len, row)) + GAP for row in lines]
    page = Image.new("RGB", (max(map(len, rows)) * (TILE + GAP) + GAP, sum(heights) + GAP), (255, 255, 255))
    paint, y = ImageDraw.Draw(page), GAP
    for row, words, height in zip(rows, lines, heights, strict=True):
        for i, ((picture, _), text) in enumerate(zip(row, words, strict=True)):
            x = GAP + i * (TILE + GAP)
            page.paste(picture, (x, y))
            for k, line in enumerate(text):
                paint.text((x, y + TILE + LINE * k), line, fill=(40, 40, 40), font=font)
        y += height
    return page


def _wrapped(words: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    lines = [""]
    for word in words.split():
        longer = f"{lines[-1]} {word}".strip()
        lines = [*lines[:-1], longer] if font.getlength(longer) <= TILE else [*lines, word]
    return lines


def kinds() -> Image.Image:
    """One of each kind."""
    colours = list(COLOURS)
    tiles = []
    for i, (noun, kind) in enumerate(KINDS.items()):
        attributes = kind.attributes.items()
        shown = tuple((name, trait.values[0]) for name, trait in attributes if name not in ("view", "texture"))
        world = World((Thing(noun, colours[i % len(colours)], 0.5, 0.5, 0.36, shown),), PALE, (0,))
        tiles.append((render(world, TILE), noun))
    return sheet([tiles[i : i + 6] for i in range(0, len(tiles), 6)])


def pairs() -> Image.Image:
    """Three minimal pairs of each pattern."""
    rows = []
    for pattern in PATTERNS:
        row = []
        for number in range(3):
            pair, images = make_pair(pattern, "gallery", number, size=TILE)
            row += zip(images, (pair.statement_a, pair.statement_b), strict=True)
        rows.append(row)
    return sheet(rows)


def looks() -> Image.Image:
    """Two scenes in each look."""
    rows = []
    for number in range(2):
        world = sample_world("gallery looks", number)
        row = []
        for look in LOOKS:
            changed = [f"{k} {v}" for k, v in vars(look).items() if k != "style" and v != vars(Look())[k]]
            row.append((degrade(render(world, TILE, look), look, number), " ".join(changed) or look.style))
        rows.append(row)
    return sheet(rows)


def in_depth() -> Image.Image:
    """Pairs of solids: three swaps, and three in perspective or from above, of each pattern."""
    rows = []
    for mode in ("swap", "single"):
        for pattern in SOLID_PATTERNS:
            row = []
            for number in range(3):
                pair, images = make_solid_pair(pattern, "gallery", number, size=TILE, mode=mode)
                row += zip(images, (pair.statement_a, pair.statement_b), strict=True)
            rows.append(row)
    return sheet(rows)


SHEETS = {"kinds": kinds, "pairs": pairs, "looks": looks, "solids": in_depth}


def write_gallery(out: str | Path) -> list[Path]:
    """Write gallery-<sheet>.png for each of SHEETS into a folder, which is made; returns the files.

    The pictures are the same each time; files that are there are written over.
    """
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, draw in SHEETS.items():
        files.append(folder / f"gallery-{name}.png")
        draw().save(files[-1], optimize=True)
    return files
