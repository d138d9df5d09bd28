"""A world in three dimensions: convex solids on the ground, seen by a camera. For depth and for points of view.

Solids stand apart, so painting them from back to front is exact: of two balls that do not meet, the one of which the
camera has the smaller power hides the other (Aurenhammer 1987), and of one convex solid the faces that look away are
hidden. `facts` knows the state and the camera, and nothing of pixels. Left, right and in front are as the camera sees.
"""

import json
import math
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from PIL import Image, ImageDraw

from omma.scenes.kinds import COLOURS
from omma.scenes.looks import FLAT, Look, scatter
from omma.scenes.pen import INK
from omma.scenes.world import Atom, Backdrop, generator, name, sample_backdrop

Vector = tuple[float, float, float]
Face = list[Vector]
SIDES = {"box": 4, "prism": 3, "cylinder": 20}
POINTED = {"pyramid": 4, "cone": 20}
SOLIDS = (*SIDES, *POINTED, "sphere")
OPPOSITE = {"left_of": "right_of", "right_of": "left_of", "in_front_of": "behind", "behind": "in_front_of"}
MARGIN, SLANT = 0.35, 1.2  # least distance along the axis of a relation, and how many times that across it
LIGHT = (-0.45, 0.75, 0.5)  # where light comes from: left, up and towards the camera
SCALE = 0.34  # canvas widths to a unit of the ground
LIFT = 0.28  # units from the ground to what the camera looks at: about the middle of a solid
FAR = 6.0  # units from a perspective camera to the middle of the ground
ABOVE, SIDE = 50.0, 25.0  # degrees from which the scene is seen from above, and up to which from the side


@dataclass(frozen=True)
class Solid:
    """kind, colour, place on the ground (units), half height, and its turn about the upright axis in degrees."""

    kind: str
    colour: str
    x: float
    y: float
    size: float
    turn: float = 0.0


@dataclass(frozen=True)
class Camera:
    """Stands at these angles (degrees) above the ground and looks at its middle."""

    azimuth: float
    elevation: float
    perspective: bool = False

    @property
    def axes(self) -> tuple[Vector, Vector, Vector]:
        """Unit vectors to the camera's right, up, and from the scene towards it."""
        a, e = math.radians(self.azimuth), math.radians(self.elevation)
        right = (-math.sin(a), math.cos(a), 0.0)
        up = (-math.sin(e) * math.cos(a), -math.sin(e) * math.sin(a), math.cos(e))
        return right, up, (math.cos(e) * math.cos(a), math.cos(e) * math.sin(a), math.sin(e))

    @property
    def eye(self) -> Vector:
        """Where a perspective camera stands: the middle of the picture is LIFT above the middle of the ground."""
        _, up, towards = self.axes
        x, y, z = (FAR * t + LIFT * up[2] * u for t, u in zip(towards, up, strict=True))
        return x, y, z


@dataclass(frozen=True)
class Space:
    """things[i] is called o<i+1> in facts."""

    things: tuple[Solid, ...]
    camera: Camera
    backdrop: Backdrop

    def to_json(self) -> str:
        """Canonical JSON: equal spaces give equal text."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))

    @staticmethod
    def from_json(text: str) -> "Space":
        """The space that `to_json` wrote. Raises ValueError when the text is not one."""
        try:
            raw = json.loads(text)
            back = raw["backdrop"]
            backdrop = Backdrop(tuple(back["sky"]), tuple(back["ground"]), back["horizon"])
            return Space(tuple(Solid(**t) for t in raw["things"]), Camera(**raw["camera"]), backdrop)
        except (KeyError, TypeError) as error:
            raise ValueError(f"this is no space: {text[:80]!r} ({error}). Use Space.to_json to write one") from None


# ---- facts


def relation(camera: Camera, one: Solid, other: Solid) -> str | None:
    """How one stands to the other as the camera sees it; None where that is open to doubt."""
    a = math.radians(camera.azimuth)
    dx, dy = other.x - one.x, other.y - one.y
    across, away = -math.sin(a) * dx + math.cos(a) * dy, -(math.cos(a) * dx + math.sin(a) * dy)
    if abs(across) >= max(MARGIN, SLANT * abs(away)):
        return "left_of" if across > 0 else "right_of"
    if abs(away) >= max(MARGIN, SLANT * abs(across)):
        return "in_front_of" if away > 0 else "behind"
    return None


def facts(space: Space) -> frozenset[Atom]:
    """All that is true, as ground atoms: ("kind", "o1", "box"), ("in_front_of", "o1", "o2"), ("view", "camera",
    "above")."""
    atoms: set[Atom] = set()
    for i, one in enumerate(space.things):
        atoms |= {("kind", name(i), one.kind), ("colour", name(i), one.colour)}
        for j, other in enumerate(space.things):
            if i != j and (how := relation(space.camera, one, other)):
                atoms.add((how, name(i), name(j)))
    if space.camera.elevation >= ABOVE or space.camera.elevation <= SIDE:
        atoms.add(("view", "camera", "above" if space.camera.elevation >= ABOVE else "side"))
    return frozenset(atoms)


# ---- pixels


def dot(a: Sequence[float], b: Sequence[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def ring(sides: int, radius: float, height: float, turn: float) -> Face:
    """Corners of a regular polygon parallel to the ground, counterclockwise from above."""
    angles = [math.radians(turn + 360 * (i + 0.5) / sides) for i in range(sides)]
    return [(radius * math.cos(a), radius * math.sin(a), height) for a in angles]


def faces(solid: Solid) -> list[Face]:
    """The faces, each counterclockwise as seen from outside, around the middle of the solid."""
    s, turn = solid.size, solid.turn
    if solid.kind == "sphere":
        heights = [math.radians(b) for b in range(-75, 90, 15)]
        rings = [ring(16, s * math.cos(b), s * math.sin(b), turn) for b in heights]
        low, high = [(0.0, 0.0, -s)] * 16, [(0.0, 0.0, s)] * 16
        found = [strip for a, b in zip([low, *rings], [*rings, high], strict=True) for strip in band(a, b)]
        return [list(dict.fromkeys(face)) for face in found]
    sides = SIDES.get(solid.kind) or POINTED[solid.kind]
    # as wide as high, except that few corners reach farther than a circle
    radius = s * (1.25 if sides == 4 else 1.4 if sides == 3 else 0.95)
    base = ring(sides, radius, -s, turn)
    if solid.kind in POINTED:
        tip = (0.0, 0.0, s)
        return [base[::-1], *([a, b, tip] for a, b in zip(base, base[1:] + base[:1], strict=True))]
    top = ring(sides, radius, s, turn)
    return [base[::-1], top, *band(base, top)]


def band(low: Face, high: Face) -> list[Face]:
    """The faces between two rings."""
    around = zip(low, low[1:] + low[:1], high[1:] + high[:1], high, strict=True)
    return [list(corners) for corners in around]


def normal(face: Face) -> Vector:
    """The unit normal of a flat face (Newell's method: exact for any number of corners)."""
    n = [0.0, 0.0, 0.0]
    for a, b in zip(face, face[1:] + face[:1], strict=True):
        for k in range(3):
            i, j = (k + 1) % 3, (k + 2) % 3
            n[k] += (a[i] - b[i]) * (a[j] + b[j])
    length = math.sqrt(dot(n, n))
    return n[0] / length, n[1] / length, n[2] / length


def reach(solid: Solid) -> float:
    """Radius of the ball around the middle of a solid that holds all its corners."""
    return max(math.sqrt(dot(corner, corner)) for face in faces(solid) for corner in face)


def nearness(camera: Camera, solid: Solid) -> float:
    """Solids with more of it hide those with less."""
    towards = camera.axes[2]
    middle = (solid.x, solid.y, solid.size)
    if not camera.perspective:
        return dot(middle, towards)
    gap = [e - m for e, m in zip(camera.eye, middle, strict=True)]
    return -(dot(gap, gap) - reach(solid) ** 2)


def draw(
    space: Space, size: int = 128, look: Look = FLAT, supersample: int = 2
) -> tuple[Image.Image, Image.Image]:
    """The picture (RGB) and the id mask (mode L): 0 for the ground, else the number of the thing, from 1."""
    wide = size * supersample
    canvas, mask = Image.new("RGB", (wide, wide), space.backdrop.ground), Image.new("L", (wide, wide))
    paint, mark = ImageDraw.Draw(canvas), ImageDraw.Draw(mask)
    if look.clutter:
        scatter(paint, replace(space.backdrop, horizon=0.0), wide, look.clutter)
    right, up, towards = space.camera.axes
    light = dot(LIGHT, LIGHT) ** 0.5
    order = sorted(range(len(space.things)), key=lambda i: nearness(space.camera, space.things[i]))
    for i in order:
        solid = space.things[i]
        shown = []
        for face in faces(solid):
            out = normal(face)
            placed = [(solid.x + x, solid.y + y, solid.size + z) for x, y, z in face]
            ray = [e - p for e, p in zip(space.camera.eye, placed[0], strict=True)]
            if dot(out, ray if space.camera.perspective else towards) <= 1e-9:
                continue
            lit = dot((dot(out, right), dot(out, up), dot(out, towards)), LIGHT) / light
            r, g, b = (min(255, int(v * (0.62 + 0.46 * max(0.0, lit)))) for v in COLOURS[solid.colour])
            points = []
            for point in placed:
                near = FAR / (FAR - dot(point, towards)) if space.camera.perspective else 1.0
                x, y = dot(point, right), dot((point[0], point[1], point[2] - LIFT), up)
                points.append((wide * (0.5 + SCALE * near * x), wide * (0.5 - SCALE * near * y)))
            shown.append((points, (r, g, b)))
        for points, _ in shown:  # outlines first: none takes colour from another face
            paint.line([*points, points[0]], fill=INK, width=3 * max(1, wide // 256))
        for points, tone in shown:
            paint.polygon(points, fill=tone)
            mark.polygon(points, fill=i + 1)
    return canvas.reduce(supersample), mask.resize((size, size), Image.Resampling.NEAREST)


# ---- sampling


def place(rng: random.Random, solids: Sequence[Solid]) -> list[Solid] | None:
    """The solids at random places of the ground, apart from each other; None when luck was bad."""
    placed: list[Solid] = []
    for solid in solids:
        for _ in range(40):
            angle, far = rng.uniform(0, 2 * math.pi), math.sqrt(rng.random())
            moved = replace(solid, x=round(far * math.cos(angle), 4), y=round(far * math.sin(angle), 4))
            gap = lambda o, m=moved: math.hypot(o.x - m.x, o.y - m.y) - reach(o) - reach(m)
            if all(gap(other) > 0.02 for other in placed):
                placed.append(moved)
                break
        else:
            return None
    return placed


def sample_space(*key: object, number: int | None = None, camera: Camera | None = None) -> Space:
    """Two to four solids of different looks, a function of the key."""
    rng = generator("space", *key)
    while True:
        n = number or rng.choice((2, 2, 3, 3, 4))
        colours = rng.sample(list(COLOURS), n)
        size = round(rng.uniform(0.24, 0.3), 4)
        solids = [Solid(rng.choice(SOLIDS), c, 0, 0, size, round(rng.uniform(0, 360), 1)) for c in colours]
        elevation = rng.choice((rng.uniform(12, 25), rng.uniform(50, 70)))
        seen = camera or Camera(round(rng.uniform(0, 360), 1), round(elevation, 1))
        if placed := place(rng, solids):
            return Space(tuple(placed), seen, sample_backdrop(rng))
