"""How each kind is drawn: one function a kind, in a frame where the thing fills about -1..1 and y points down.

The colour of a thing fills its body only, and no attribute changes the area of the body: parts, states and marks are
neutral (white, greys, wood, light). So two pictures that exchange an attribute keep every global statistic, the amount
of red included. What belongs to an attribute is drawn `of` it, which is how the id mask knows the pixels of a handle.
"""

import math
from collections.abc import Callable

from omma.scenes.pen import (
    COFFEE,
    DARK,
    GLASS,
    GREY,
    INK,
    LIGHT,
    SKIN,
    TURNS,
    WHITE,
    WOOD,
    Pen,
    Point,
    area,
    ellipse,
    rectangle,
)

Get = Callable[[str], str | None]


def fish(pen: Pen, get: Get) -> None:
    pen.flip = get("facing") == "left"
    if get("tail") == "round":
        pen.fill(ellipse(-0.74, 0, 0.28, 0.36), DARK, of="tail")
    else:
        pen.fill([(-0.4, 0), (-1, -0.5), (-0.78, 0), (-1, 0.5)], DARK, of="tail")
    if get("fin") != "no":
        pen.fill([(0.35, -0.3), (-0.15, -0.88), (-0.3, -0.3)], DARK, of="fin")
    pen.fill(ellipse(0.16, 0, 0.7, 0.46))
    pen.fill(ellipse(0.54, -0.12, 0.14, 0.14, n=12), WHITE, edge=False)
    pen.fill(ellipse(0.57, -0.12, 0.06, 0.06, n=8), INK, edge=False)
    pen.fill([(0.28, -0.26), (0.1, 0), (0.28, 0.26), (0.19, 0)], INK, edge=False)


def bird(pen: Pen, get: Get) -> None:
    pen.flip = get("facing") == "left"
    reach = -1.05 if get("tail") != "short" else -0.68
    pen.fill([(-0.3, 0.0), (reach, -0.22), (reach, 0.14), (-0.3, 0.34)], DARK, of="tail")
    for x in (-0.05, 0.15):
        pen.stroke([(x, 0.5), (x, 0.9), (x + 0.16, 0.9)], 0.07, INK)
    if get("crest") == "yes":
        pen.fill([(0.25, -0.5), (0.15, -1.0), (0.4, -0.82), (0.62, -1.0), (0.62, -0.5)], DARK, of="crest")
    pen.fill([(0.7, -0.5), (1.02, -0.34), (0.7, -0.26)], LIGHT)
    pen.fill(ellipse(0, 0.2, 0.6, 0.42))
    pen.fill(ellipse(0.5, -0.4, 0.31, 0.31, n=20))
    pen.fill(ellipse(0.6, -0.46, 0.08, 0.08, n=10), WHITE)
    pen.fill([(0.2, 0.1), (-0.5, 0.05), (-0.15, 0.42)], GREY)


def car(pen: Pen, get: Get) -> None:
    if get("view") == "above":
        pen.resize(0.9334, -0.38)
        for x in (-0.6, 0.55):
            for y in (-0.4, 0.4):
                pen.fill(rectangle(x - 0.18, y - 0.1, x + 0.18, y + 0.1), DARK, of="view")
        for y in (-0.24, 0.24):
            pen.fill(rectangle(0.9, y - 0.08, 1.06, y + 0.08), LIGHT, of="view")
        pen.fill(rectangle(-0.96, -0.39, 0.96, 0.39))
        pen.fill([(0.25, -0.3), (0.5, -0.24), (0.5, 0.24), (0.25, 0.3)], GLASS, of="view", edge=False)
        pen.fill([(-0.6, -0.24), (-0.42, -0.3), (-0.42, 0.3), (-0.6, 0.24)], GLASS, of="view", edge=False)
        return
    of = "view" if get("view") else ""
    pen.flip = get("facing") == "left"
    spots = (-0.56, 0.56) if get("wheels") != "three" else (-0.62, 0.0, 0.62)
    for x in spots:
        pen.fill(ellipse(x, 0.4, 0.23, 0.23, n=18), DARK, of=of or "wheels")
        pen.fill(ellipse(x, 0.46, 0.08, 0.08, n=10), GREY, of=of or "wheels")
    if get("rack") == "yes":
        pen.stroke([(-0.42, -0.5), (-0.42, -0.78)], 0.1, DARK, of="rack")
        pen.stroke([(0.22, -0.5), (0.22, -0.78)], 0.1, DARK, of="rack")
        pen.stroke([(-0.62, -0.76), (0.42, -0.76)], 0.13, DARK, of="rack")
    if get("lights") == "on":
        pen.fill([(0.88, -0.06), (1.3, -0.26), (1.3, 0.4), (0.88, 0.14)], LIGHT, of="lights")
    pen.fill(
        [(-1, 0.34), (-1, -0.08), (-0.66, -0.14), (-0.44, -0.56), (0.28, -0.56), (0.5, -0.14), (1, -0.04), (1, 0.34)]
    )
    pen.fill([(-0.52, -0.14), (-0.36, -0.44), (-0.12, -0.44), (-0.12, -0.14)], GLASS, of=of, edge=False)
    pen.fill([(-0.02, -0.14), (-0.02, -0.44), (0.2, -0.44), (0.36, -0.14)], GLASS, of=of, edge=False)
    lit = get("lights") == "on"
    pen.fill(ellipse(0.88, 0.08, 0.11, 0.11, n=10), LIGHT if lit else DARK, of=of or "lights", edge=False)


def truck(pen: Pen, get: Get) -> None:
    pen.flip = get("facing") == "left"
    for x in (-0.68, 0.6) if get("wheels") == "two" else (-0.76, -0.24, 0.6):
        pen.fill(ellipse(x, 0.46, 0.23, 0.23, n=18), DARK, of="wheels")
        pen.fill(ellipse(x, 0.5, 0.08, 0.08, n=10), GREY, of="wheels")
    if get("ladder") == "yes":
        for y in (-0.86, -0.64):
            pen.stroke([(-0.98, y), (0.24, y)], 0.08, DARK, of="ladder")
        for i in range(5):
            pen.stroke([(-0.86 + 0.24 * i, -0.9), (-0.86 + 0.24 * i, -0.52)], 0.08, DARK, of="ladder")
    pen.fill(rectangle(-1.0, -0.54, 0.28, 0.42))
    pen.fill([(0.34, 0.42), (0.34, -0.3), (0.7, -0.3), (0.96, 0.06), (0.96, 0.42)], GREY)
    pen.fill([(0.46, 0.02), (0.46, -0.2), (0.64, -0.2), (0.8, 0.02)], GLASS)


def arrow(pen: Pen, get: Get) -> None:
    pen.turn = TURNS[get("pointing") or "right"]
    pen.fill([(-0.9, -0.24), (0.1, -0.24), (0.1, -0.62), (0.92, 0), (0.1, 0.62), (0.1, 0.24), (-0.9, 0.24)])


def cup(pen: Pen, get: Get) -> None:
    if get("view") == "above":
        pen.resize(1.0204, 0.265)
        pen.fill(rectangle(0.5, -0.13, 1.12, 0.13), DARK, of="view")
        pen.fill(ellipse(0, 0, 0.765, 0.765))
        pen.fill(ellipse(0, 0, 0.48, 0.48), WHITE, of="view", edge=False)
        pen.fill(ellipse(0, 0, 0.34, 0.34), COFFEE, of="view")
        return
    of = "view" if get("view") else ""
    if get("handle") != "no":
        pen.stroke(ellipse(0.5, 0.08, 0.4, 0.34, -90, 90, 14), 0.17, DARK, of=of or "handle")
    body = [(-0.62, -0.56), (0.62, -0.56), (0.44, 0.74), (-0.44, 0.74)]
    # The outline of the opening first: it may not take colour from the body.
    pen.fill(ellipse(0, -0.56, 0.62, 0.24), WHITE, of=of or "filled")
    pen.fill(body)
    pen.texture([(-0.57, -0.24), (0.57, -0.24), (0.44, 0.74), (-0.44, 0.74)], get("texture"))
    pen.fill(ellipse(0, -0.56, 0.62, 0.24), WHITE, of=of or "filled", edge=False)
    if get("filled") != "empty":
        pen.fill(ellipse(0, -0.53, 0.5, 0.17), COFFEE, of=of or "filled", edge=False)
    else:
        pen.stroke(ellipse(0, -0.6, 0.34, 0.1, 20, 160, 10), 0.05, GREY, of="filled")


def bottle(pen: Pen, get: Get) -> None:
    pen.turn = 1 if get("pose") == "lying" else 0
    if get("cap") != "no":
        pen.fill(rectangle(-0.22, -1.02, 0.22, -0.72), DARK, of="cap")
    else:
        pen.fill(rectangle(-0.13, -0.82, 0.13, -0.72), WHITE)
    pen.fill(
        [
            (-0.15, -0.76),
            (0.15, -0.76),
            (0.15, -0.46),
            (0.42, -0.2),
            (0.42, 0.9),
            (-0.42, 0.9),
            (-0.42, -0.2),
            (-0.15, -0.46),
        ]
    )
    pen.fill(rectangle(-0.42, 0.18, 0.42, 0.58), WHITE)


def chair(pen: Pen, get: Get) -> None:
    pen.flip = get("facing") == "left"  # it faces away from its back
    if get("legs") == "crossed":
        for a, b in ((-0.55, 0.55), (0.55, -0.55)):
            pen.stroke([(a, 0.25), (b, 0.98)], 0.14, DARK, of="legs")
    else:
        for x in (-0.55, 0.55):
            pen.stroke([(x, 0.25), (x, 0.98)], 0.14, DARK, of="legs")
    if get("cushion") == "yes":
        pen.fill(ellipse(0.12, -0.02, 0.52, 0.2), GREY, of="cushion")
    pen.fill([(-0.72, -1), (-0.36, -1), (-0.36, 0.02), (0.72, 0.02), (0.72, 0.32), (-0.72, 0.32)])


def house(pen: Pen, get: Get) -> None:
    if get("chimney") == "yes":
        pen.fill(rectangle(0.36, -1.0, 0.62, -0.2), WOOD, of="chimney")
    if get("roof") == "flat":
        pen.fill(rectangle(-0.92, -0.46, 0.92, -0.12), DARK, of="roof")
    else:
        pen.fill([(-0.92, -0.12), (0, -0.96), (0.92, -0.12)], DARK, of="roof")
    pen.fill(rectangle(-0.72, -0.12, 0.72, 0.86))
    for x in (-0.42, 0.42):
        pen.fill(rectangle(x - 0.18, 0.06, x + 0.18, 0.44), INK if get("windows") == "dark" else LIGHT, of="windows")
    pen.fill(rectangle(-0.14, 0.4, 0.14, 0.86), WHITE)


def tree(pen: Pen, get: Get) -> None:
    if get("trunk") == "forked":
        pen.stroke([(0, 1.0), (0, 0.66), (-0.36, 0.2)], 0.18, WOOD, of="trunk")
        pen.stroke([(0, 0.7), (0.36, 0.2)], 0.18, WOOD, of="trunk")
    else:
        pen.stroke([(0, 1.0), (0, 0.1)], 0.24, WOOD, of="trunk")
    if get("star") == "yes":
        spikes = [(0.1 if i % 2 else 0.27, math.radians(36 * i - 90)) for i in range(10)]
        pen.fill([(r * math.cos(a), -0.86 + r * math.sin(a)) for r, a in spikes], WHITE, of="star")
    half = [(0.36, -0.42), (0.68, -0.3), (0.62, 0.1), (0.36, 0.28)]
    pen.fill([(0, -0.72), *half, *((-x, y) for x, y in reversed(half))])


def flag(pen: Pen, get: Get) -> None:
    pen.flip = get("flying") == "left"
    top = -0.9 if get("hoisted") != "lowered" else 0.0
    pen.stroke([(-0.72, -1), (-0.72, 1.02)], 0.12)
    pen.fill(ellipse(-0.72, -1, 0.1, 0.1, n=10), LIGHT)
    cloth = rectangle(-0.66, top, 0.84, top + 0.8)
    pen.fill([*cloth[:2], (0.72, top + 0.4), *cloth[2:]])
    pen.texture(rectangle(-0.66, top, 0.72, top + 0.8), get("texture"))
    pen.write(get("text"), -0.56, top + 0.13, 0.62, top + 0.67)


def lamp(pen: Pen, get: Get) -> None:
    if get("power") != "off":
        pen.fill([(-0.62, -0.1), (0.62, -0.1), (0.9, 0.72), (-0.9, 0.72)], LIGHT, of="power", edge=False)
    pen.stroke([(0, -0.2), (0, 0.8)], 0.13, DARK)
    pen.fill(ellipse(0, -0.06, 0.16, 0.14, n=14), WHITE if get("power") != "off" else GREY, of="power")
    if get("base") == "square":
        pen.fill(rectangle(-0.42, 0.64, 0.42, 0.98), DARK, of="base")
    else:
        pen.fill(ellipse(0, 0.96, 0.46, 0.36, 180, 360, 16), DARK, of="base")
    pen.fill([(-0.4, -0.95), (0.4, -0.95), (0.72, -0.1), (-0.72, -0.1)])


def candle(pen: Pen, get: Get) -> None:
    if get("holder") == "yes":
        pen.fill(ellipse(0.62, 0.78, 0.2, 0.2, n=14), GREY, of="holder")
        pen.fill([(-0.75, 0.62), (0.75, 0.62), (0.5, 1.0), (-0.5, 1.0)], DARK, of="holder")
    pen.stroke([(0, -0.4), (0, -0.6)], 0.07, INK)
    if get("flame") != "unlit":
        pen.fill([(0, -1.12), (0.24, -0.68), (0.14, -0.5), (-0.14, -0.5), (-0.24, -0.68)], LIGHT, of="flame")
    else:
        pen.stroke([(0, -0.6), (0.06, -0.78), (-0.06, -0.92), (0.04, -1.1)], 0.08, GREY, of="flame")
    pen.fill(rectangle(-0.32, -0.42, 0.32, 0.88))


def door(pen: Pen, get: Get) -> None:
    pen.fill(rectangle(-0.54, -0.98, 0.54, 0.98), GREY)
    if get("leaf") == "open":
        pen.fill(rectangle(-0.42, -0.86, 0.42, 0.98), INK, of="leaf")
        # As large as the closed leaf, so that opening a door changes no amount of colour.
        pen.fill([(-0.42, -0.86), (-1.14, -1.0), (-1.14, 1.2), (-0.42, 0.98)], of="leaf")
        pen.fill(ellipse(-0.98, 0.12, 0.09, 0.09, n=10), WHITE, of="leaf")
    else:
        pen.fill(rectangle(-0.42, -0.86, 0.42, 0.86), of="leaf")
        pen.fill(ellipse(0.24, 0.1, 0.09, 0.09, n=10), WHITE, of="leaf")
    if get("lantern") == "yes":
        pen.stroke([(0.54, -0.62), (0.8, -0.62)], 0.08, DARK, of="lantern")
        pen.fill(rectangle(0.66, -0.6, 0.96, -0.14), LIGHT, of="lantern")


def cuboid(elevation: float) -> list[tuple[list[Point], float]]:
    """The three visible faces of a cube seen from `elevation` degrees above the ground, with their light: left, right,
    top."""
    sin, cos = math.sin(math.radians(elevation)), math.cos(math.radians(elevation))

    def at(x: float, y: float, z: float) -> Point:
        """Orthographic projection after a turn of 30 degrees about the upright axis."""
        c, s = math.cos(math.radians(30)), math.sin(math.radians(30))
        return (c * x - s * y, sin * (s * x + c * y) - cos * z)

    left = [at(-1, 1, -1), at(1, 1, -1), at(1, 1, 1), at(-1, 1, 1)]
    right = [at(1, 1, -1), at(1, -1, -1), at(1, -1, 1), at(1, 1, 1)]
    top = [at(-1, 1, 1), at(1, 1, 1), at(1, -1, 1), at(-1, -1, 1)]
    return [(left, 0.92), (right, 0.74), (top, 1.12)]


def box(pen: Pen, get: Get) -> None:
    if get("view"):
        faces = cuboid(68 if get("view") == "above" else 12)
        if get("view") == "above":
            pen.resize(1.0017, -0.24)
        # Equal coloured area and mean light from both viewpoints; a strip takes a fifth of the left face and the top.
        areas = [share * area(p) for share, (p, _) in zip((0.8, 1.0, 0.8), faces, strict=True)]
        light = sum(part * tone for part, (_, tone) in zip(areas, faces, strict=True)) / sum(areas)
        scale = math.sqrt(0.98 / sum(areas))
        faces = [([(scale * x, scale * y) for x, y in p], 0.84 * tone / light) for p, tone in faces]
        for points, _ in faces:
            pen.fill(points, of="view")
        for points, tone in faces:
            pen.fill(points, pen.tone(tone), of="view", edge=False)
        a, b, c, d = faces[2][0]
        mid = lambda p, q, t: (p[0] + (q[0] - p[0]) * t, p[1] + (q[1] - p[1]) * t)
        pen.fill([mid(a, b, 0.4), mid(a, b, 0.6), mid(d, c, 0.6), mid(d, c, 0.4)], WHITE, of="view", edge=False)
        a, b, c, d = faces[0][0]
        pen.fill([mid(a, b, 0.4), mid(a, b, 0.6), mid(d, c, 0.6), mid(d, c, 0.4)], WHITE, of="view", edge=False)
        return
    if get("bow") == "yes":
        for s in (-1, 1):
            pen.fill([(0, -0.42), (s * 0.46, -0.84), (s * 0.46, -0.44)], DARK, of="bow")
    if get("lid") == "open":
        for s in (-1, 1):
            pen.fill([(s * 0.7, -0.42), (s * 1.0, -0.74), (s * 0.62, -0.86), (s * 0.32, -0.42)], WOOD, of="lid")
    else:
        pen.fill(rectangle(-0.82, -0.48, 0.82, -0.2), WOOD, of="lid")
    pen.fill(rectangle(-0.72, -0.4 if get("lid") == "open" else -0.24, 0.72, 0.72 if get("lid") == "open" else 0.88))
    pen.write(get("text") or "", -0.6, 0.06, 0.6, 0.56)


def book(pen: Pen, get: Get) -> None:
    if get("bookmark") == "yes":
        pen.fill([(0.12, 0.7), (0.5, 0.7), (0.5, 1.3), (0.31, 1.12), (0.12, 1.3)], DARK, of="bookmark")
    pen.fill(rectangle(-0.66, -0.84, 0.8, 0.92), WHITE)
    pen.fill(rectangle(-0.74, -0.94, 0.66, 0.8))
    pen.stroke([(-0.58, -0.88), (-0.58, 0.8)], 0.05, INK)
    pen.write(get("text") or "", -0.52, -0.68, 0.6, 0.0)


def umbrella(pen: Pen, get: Get) -> None:
    if get("tip") == "yes":
        pen.fill([(-0.12, -0.6), (0, -1.12), (0.12, -0.6)], DARK, of="tip")
    pen.stroke([(0, -0.1), (0, 0.74)], 0.1, WOOD)
    if get("handle") != "straight":
        pen.stroke([(0, 0.7), *ellipse(0.2, 0.7, 0.2, 0.24, 180, 0, 8)], 0.14, WOOD, of="handle")
    else:
        pen.stroke([(0, 0.5), (0, 1.0)], 0.2, WOOD, of="handle")
    pen.fill(
        [
            *ellipse(0, 0.05, 0.92, 0.82, 180, 360, 20),
            (0.6, -0.06),
            (0.3, 0.05),
            (0, -0.06),
            (-0.3, 0.05),
            (-0.6, -0.06),
        ]
    )
    for x in (-0.3, 0.3):
        pen.stroke([(x, 0.03), (0.1 * x, -0.74)], 0.04, INK)


def clock(pen: Pen, get: Get) -> None:
    if get("bells") == "yes":
        for x in (-0.5, 0.5):
            pen.fill(ellipse(x, -0.72, 0.28, 0.24, n=16), DARK, of="bells")
    if get("face") == "square":
        pen.fill(rectangle(-0.717, -0.717, 0.717, 0.717), of="face")
        pen.fill(rectangle(-0.5, -0.5, 0.5, 0.5), WHITE, of="face")
    else:
        pen.fill(ellipse(0, 0, 0.812, 0.812), of="face")
        pen.fill(ellipse(0, 0, 0.564, 0.564), WHITE, of="face")
    pen.turn = TURNS[get("hand") or "up"]
    pen.fill(
        [(-0.1, -0.1), (0.12, -0.1), (0.12, -0.26), (0.5, 0), (0.12, 0.26), (0.12, 0.1), (-0.1, 0.1)],
        INK,
        of="hand",
        edge=False,
    )
    pen.turn = 0


def sign(pen: Pen, get: Get) -> None:
    for x in (0,) if get("posts") != "two posts" else (-0.55, 0.55):
        pen.stroke([(x, 0.2), (x, 1.0)], 0.18, WOOD, of="posts")
    pen.fill(rectangle(-1.0, -0.74, 1.0, 0.36))
    pen.write(get("text") or "", -0.86, -0.5, 0.86, 0.12)


def person(pen: Pen, get: Get) -> None:
    way = -0.36 if get("arms") == "raised" else 0.5
    for s in (-1, 1):
        pen.stroke([(s * 0.3, -0.1), (s * 0.62, 0.1 + 0.2 * way), (s * 0.76, way)], 0.16, SKIN, of="arms")
        pen.fill(ellipse(s * 0.76, way, 0.12, 0.12, n=10), SKIN, of="arms")
    for x in (-0.2, 0.2):
        pen.stroke([(x, 0.5), (x, 1.02)], 0.2, DARK)
    pen.fill([(-0.34, -0.3), (0.34, -0.3), (0.48, 0.62), (-0.48, 0.62)])
    pen.fill(ellipse(0, -0.6, 0.28, 0.3, n=20), SKIN)
    for x in (-0.1, 0.1):
        pen.fill(ellipse(x, -0.58, 0.05, 0.05, n=6), INK, edge=False)
    if get("hat") == "yes":
        half = [(0.22, -1.06), (0.25, -0.82), (0.44, -0.82), (0.44, -0.72)]
        pen.fill([*half, *((-x, y) for x, y in reversed(half))], DARK, of="hat")


def butterfly(pen: Pen, get: Get) -> None:
    pen.turn = 2 if get("facing") == "down" else 0
    if get("feelers") != "no":
        for s in (-1, 1):
            pen.stroke([(0, -0.5), (s * 0.24, -0.94)], 0.08, INK, of="feelers")
            pen.fill(ellipse(s * 0.26, -0.96, 0.12, 0.12, n=8), INK, of="feelers", edge=False)
    for edge in (True, False):  # all outlines first: none may take colour from another wing
        for s in (-1, 1):
            pen.fill([(0, -0.1), (s * 0.3, -0.6), (s * 0.86, -0.66), (s * 0.9, -0.2), (s * 0.5, 0.04)], edge=edge)
            pen.fill([(0, 0.04), (s * 0.5, 0.12), (s * 0.56, 0.5), (s * 0.26, 0.66)], edge=edge)
    for s in (-1, 1):
        pen.fill(ellipse(s * 0.58, -0.36, 0.16, 0.16, n=10), WHITE, edge=False)
    pen.fill(ellipse(0, 0.02, 0.12, 0.6, n=16), INK, edge=False)
    pen.fill(ellipse(0, -0.56, 0.16, 0.16, n=12), INK, edge=False)


def ball(pen: Pen, get: Get) -> None:
    body = ellipse(0, 0, 0.72, 0.72, n=32)
    pen.fill(body)
    pen.texture(body, get("texture"))


def boat(pen: Pen, get: Get) -> None:
    if get("view") == "above":
        pen.resize(0.9838, 1.34)
        side = [(-0.9, -0.3), (-0.5, -0.48), (0.2, -0.48), (0.72, -0.28)]
        pen.fill([*side, (1.06, 0), *((x, -y) for x, y in reversed(side))])
        for x in (-0.5, -0.05, 0.4):
            pen.fill(rectangle(x - 0.12, -0.32, x + 0.12, 0.32), WOOD, of="view", edge=False)
        return
    of = "view" if get("view") else ""
    pen.flip = get("facing") == "left"
    if of:
        pen.stroke([(0, 0.1), (0, -0.95)], 0.1, WOOD, of=of)
        pen.fill([(0.08, -0.9), (0.08, -0.1), (0.66, -0.1)], WHITE, of=of)
    else:
        for x in (0.0,) if get("sails") != "two sails" else (-0.42, 0.3):
            pen.stroke([(x, 0.1), (x, -0.95)], 0.09, WOOD, of="sails")
            pen.fill([(x + 0.06, -0.92), (x + 0.06, -0.1), (x + 0.58, -0.1)], WHITE, of="sails")
    if get("oar") == "yes":
        pen.stroke([(-0.5, -0.3), (-0.82, 0.72)], 0.1, WOOD, of="oar")
        pen.fill(ellipse(-0.84, 0.8, 0.17, 0.22, n=12), WOOD, of="oar")
    pen.fill([(-0.86, 0.0), (1.06, 0.0), (0.66, 0.62), (-0.66, 0.62)])
    pen.fill([(0.7, 0.22), (0.98, 0.0), (0.7, 0.0)], WHITE, edge=False)


def drum(pen: Pen, get: Get) -> None:
    if get("view") == "above":
        pen.resize(0.985, -0.78)
        pen.fill(ellipse(0, 0, 0.82, 0.82))
        pen.fill(ellipse(0, 0, 0.56, 0.56), WHITE, of="view", edge=False)
        return
    of = "view" if get("view") else ""
    if get("sticks") == "yes":
        for s in (-1, 1):
            pen.stroke([(s * 0.2, -0.4), (s * 0.66, -0.96)], 0.12, WOOD, of="sticks")
            pen.fill(ellipse(s * 0.66, -0.96, 0.12, 0.12, n=10), WOOD, of="sticks")
    pen.fill(ellipse(0, -0.34, 0.76, 0.24), WHITE, of=of)
    pen.fill([(-0.76, -0.34), (0.76, -0.34), *ellipse(0, 0.52, 0.76, 0.24, 0, 180, 14)])
    pen.fill(ellipse(0, -0.34, 0.76, 0.24), WHITE, of=of, edge=False)
    for x in (-0.46, 0, 0.46):
        pen.fill([(x - 0.15, 0.06), (x + 0.15, 0.06), (x, 0.56)], WHITE, of=of, edge=False)


SHAPES: dict[str, Callable[[Pen, Get], None]] = {
    f.__name__: f
    for f in (
        fish, bird, car, truck, arrow, cup, bottle, chair, house, tree, flag, lamp, candle, door, box, book, umbrella,
        clock, sign, person, butterfly, ball, boat, drum,
    )
}  # fmt: skip
