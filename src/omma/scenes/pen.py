"""The pen: polygons, lines, textures and letters in the frame of one thing, into the picture and the mask at once."""

import math
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont

Point = tuple[float, float]
INK, DARK, GREY, WHITE = (38, 38, 50), (72, 76, 90), (150, 154, 166), (252, 252, 252)
LIGHT, GLASS, WOOD, SKIN, COFFEE = (255, 232, 120), (206, 228, 240), (146, 112, 78), (236, 196, 160), (92, 60, 38)
DOTS = 1.047  # a polygon of 16 corners is smaller than its circle, and pixels round the stripes up
TURNS = {"right": 0, "down": 1, "left": 2, "up": 3}


@lru_cache(maxsize=2048)
def lettering(word: str, width: int, height: int) -> Image.Image:
    """The word in capitals, as a mask that fills width x height."""
    font = ImageFont.load_default(size=48)
    left, top, right, bottom = font.getbbox(word.upper())
    mask = Image.new("L", (int(right - left), int(bottom - top)))
    ImageDraw.Draw(mask).text((-left, -top), word.upper(), fill=255, font=font, stroke_width=1)
    return mask.resize((max(1, width), max(1, height)), Image.Resampling.BOX)


def ellipse(x: float, y: float, rx: float, ry: float, start: float = 0, end: float = 360, n: int = 28) -> list[Point]:
    """Points along an arc; degrees run clockwise from the right."""
    steps = [math.radians(start + (end - start) * i / n) for i in range(n + 1)]
    return [(x + rx * math.cos(a), y + ry * math.sin(a)) for a in steps]


def rectangle(x0: float, y0: float, x1: float, y1: float) -> list[Point]:
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]


def area(points: list[Point]) -> float:
    """The shoelace formula."""
    turns = zip(points, points[1:] + points[:1], strict=True)
    return abs(sum(a[0] * b[1] - b[0] * a[1] for a, b in turns)) / 2


def band(points: list[Point], low: float, high: float) -> list[Point]:
    """The slice low <= y <= high of a convex polygon (Sutherland and Hodgman 1974)."""
    for sign, bound in ((1, low), (-1, -high)):
        kept: list[Point] = []
        for (ax, ay), (bx, by) in zip(points, points[1:] + points[:1], strict=True):
            a, b = sign * ay - bound, sign * by - bound
            if a >= 0:
                kept.append((ax, ay))
            if (a > 0 > b) or (a < 0 < b):
                kept.append((ax + (bx - ax) * a / (a - b), ay + (by - ay) * a / (a - b)))
        points = kept
    return points


class Pen:
    """Draws in the frame of one thing, into the picture and into the mask of ids (either may be None)."""

    def __init__(
        self,
        picture: ImageDraw.ImageDraw | None,
        ids: ImageDraw.ImageDraw | None,
        colour: tuple[int, int, int],
        centre: Point,
        scale: float,
        line: int,
        codes: dict[str, int],
    ):
        self.picture, self.ids, self.colour, self.centre, self.scale, self.line = (
            picture,
            ids,
            colour,
            centre,
            scale,
            line,
        )
        self.codes = codes  # attribute -> value in the id mask; "" is the body and all that is no attribute's
        self.flip, self.turn = False, 0

    def at(self, points: list[Point]) -> list[Point]:
        x0, y0, s = *self.centre, self.scale
        if self.flip:
            points = [(-x, y) for x, y in points]
        if self.turn == 1:
            points = [(-y, x) for x, y in points]
        elif self.turn == 2:
            points = [(-x, -y) for x, y in points]
        elif self.turn == 3:
            points = [(y, -x) for x, y in points]
        return [(x0 + s * x, y0 + s * y) for x, y in points]

    def resize(self, factor: float, pixels: float) -> None:
        """Draw larger from here on: every picture of a kind shall hold the same area of its colour."""
        self.scale = factor * self.scale + pixels

    def tone(self, factor: float) -> tuple[int, int, int]:
        """The body colour, darker (factor < 1) or lighter (> 1)."""
        r, g, b = (min(255, int(v * factor)) for v in self.colour)
        return r, g, b

    def fill(
        self, points: list[Point], colour: tuple[int, int, int] | None = None, of: str = "", edge: bool = True
    ) -> None:
        """A polygon with an outline around it; colour None is the body colour.

        The outline lies outside and is an odd number of pixels wide: it takes no colour away, and mirrors exactly.
        """
        if len(points) < 2:  # a stripe of a thing so small that half a pixel on both sides is all of it
            return
        placed = self.at(points)
        if self.picture:
            if edge:
                self.picture.line([*placed, placed[0]], fill=INK, width=self.line)
            self.picture.polygon(placed, fill=colour or self.colour)
        if self.ids:
            self.ids.polygon(placed, fill=self.codes[of])

    def stroke(self, points: list[Point], width: float, colour: tuple[int, int, int] = DARK, of: str = "") -> None:
        """A line whose width is a share of the thing's radius."""
        placed, thick = self.at(points), max(1, round(width * self.scale))
        if self.picture:
            self.picture.line(placed, fill=colour, width=thick, joint="curve")
        if self.ids:
            self.ids.line(placed, fill=self.codes[of], width=thick)

    def texture(self, body: list[Point], value: str | None) -> None:
        """White stripes or dots on a convex body; both cover the same area."""
        if value is None:
            return
        ys, xs = [y for _, y in body], [x for x, _ in body]
        top, height = min(ys), max(ys) - min(ys)
        rim = 0.5 / self.scale  # Pillow fills half a pixel more on every side
        if value == "striped":
            for i in (1, 3, 5):
                low, high = top + height * i / 8, top + height * (i + 1) / 8
                self.fill(band(body, low + rim, high - rim), WHITE, of="texture", edge=False)
        else:
            covered = sum(area(band(body, top + height * i / 8, top + height * (i + 1) / 8)) for i in (1, 3, 5))
            radius = math.sqrt(covered / (5 * math.pi)) * DOTS
            cx, cy, dx, dy = (min(xs) + max(xs)) / 2, top + height / 2, (max(xs) - min(xs)) / 2, height / 2
            for sx, sy in ((0, 0), (-1, -1), (1, -1), (-1, 1), (1, 1)):
                dot = ellipse(cx + 0.52 * sx * dx, cy + 0.52 * sy * dy, radius - rim, radius - rim, n=16)
                self.fill(dot, WHITE, of="texture", edge=False)

    def write(self, word: str | None, x0: float, y0: float, x1: float, y1: float) -> None:
        """A white label with the word in capitals; "" leaves the label blank, None leaves it out."""
        if word is None:
            return
        self.fill(rectangle(x0, y0, x1, y1), WHITE, of="text")
        if not word:
            return
        (left, top), (right, bottom) = self.at([(x0, y0), (x1, y1)])
        left, right = min(left, right), max(left, right)  # a flag that flies left is mirrored, its word is not
        margin = 0.1 * (bottom - top)
        tall = bottom - top - 2 * margin
        wide = min(right - left - 2 * margin, 0.95 * tall * len(word))
        mask = lettering(word, round(wide), round(tall))
        if self.picture:
            self.picture.bitmap((round((left + right - mask.width) / 2), round(top + margin)), mask, fill=INK)
