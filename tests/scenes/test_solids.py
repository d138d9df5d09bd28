"""Solids: the geometry is right, painter's order agrees with a z-buffer, and a pair differs in what was exchanged."""

import math
import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from omma.scenes.draw import png
from omma.scenes.pairs import Pair
from omma.scenes.probes import probe_features, statistics
from omma.scenes.solid_pairs import SOLID_PATTERNS, holds, make_solid_pair, says
from omma.scenes.solids import (
    FAR,
    OPPOSITE,
    SCALE,
    SOLIDS,
    Camera,
    Solid,
    Space,
    dot,
    draw,
    faces,
    facts,
    nearness,
    normal,
    reach,
    sample_space,
)
from omma.scenes.sources import KNOBS, write_scenes
from omma.scenes.world import Backdrop
from omma.table import Table

GREY = Backdrop((220, 220, 220), (200, 200, 200), 0.5)


def solid(kind: str, colour: str = "red", x: float = 0.0, y: float = 0.0) -> Solid:
    return Solid(kind, colour, x, y, 0.28, 20.0)


@pytest.mark.parametrize("kind", SOLIDS)
def test_faces_look_outwards_enclose_the_solid_and_stand_on_the_ground(kind):
    found = faces(solid(kind))
    for face in found:
        assert dot(normal(face), face[0]) > 0
        for other in found:  # convex: no corner lies in front of a face
            assert all(dot(normal(face), [a - b for a, b in zip(p, face[0], strict=True)]) < 1e-9 for p in other)
    edges = Counter(frozenset((a, b)) for f in found for a, b in zip(f, f[1:] + f[:1], strict=True))
    assert set(edges.values()) == {2}, "every edge belongs to two faces"
    assert min(p[2] for f in found for p in f) == pytest.approx(-0.28)
    corners = {p for f in found for p in f}
    assert len(corners) - len(edges) + len(found) == 2, "Euler's formula"


@pytest.mark.parametrize("perspective", [False, True])
@pytest.mark.parametrize("elevation", [0.0, 30.0, 80.0])
def test_axes_of_the_camera_are_orthonormal_and_right_handed(perspective, elevation):
    right, up, towards = Camera(70.0, elevation, perspective).axes
    for one, other, value in ((right, right, 1), (up, up, 1), (towards, towards, 1), (right, up, 0), (up, towards, 0)):
        assert dot(one, other) == pytest.approx(value, abs=1e-12)
    assert np.allclose(np.cross(right, up), towards)


def first_hit(space: Space, u: float, v: float) -> int:
    """The number of the solid that a ray through the canvas meets first, 0 for none: a slow way that knows no order."""
    right, up, towards = (np.array(a) for a in space.camera.axes)
    lift = 0.28 * up[2]
    x, y = (u - 0.5) / SCALE, (0.5 - v) / SCALE
    if space.camera.perspective:
        # the picture is shifted up after projection by the middle's height, which itself is scaled with nearness
        origin = FAR * towards + lift * up
        ray = x * right + y * up - FAR * towards
    else:
        origin, ray = x * right + (y + lift) * up + 9 * towards, -towards
    best = (math.inf, 0)
    for i, thing in enumerate(space.things):
        enter, leave = -math.inf, math.inf
        for face in faces(thing):
            n = np.array(normal(face))
            start = n @ (np.array(face[0]) + np.array((thing.x, thing.y, thing.size)) - origin)
            speed = n @ ray
            if abs(speed) < 1e-12:
                enter = math.inf if start < 0 else enter
            elif speed < 0:
                enter = max(enter, start / speed)
            else:
                leave = min(leave, start / speed)
        if enter < leave and enter > 0:
            best = min(best, (enter, i + 1))
    return best[1]


@pytest.mark.parametrize("perspective", [False, True])
def test_the_mask_is_what_rays_meet_first(perspective):
    wrong = total = 0
    for k in range(6):
        space = sample_space("rays", k, number=4)
        space = replace(space, camera=replace(space.camera, perspective=perspective))
        mask = np.asarray(draw(space, 64, supersample=4)[1])
        for row in range(2, 64, 5):
            for column in range(2, 64, 5):
                hit = first_hit(space, (column + 0.5) / 64, (row + 0.5) / 64)
                near = mask[row - 1 : row + 2, column - 1 : column + 2]
                total += 1
                wrong += hit not in near
    assert wrong == 0, f"{wrong} of {total}"


def test_nearness_of_an_orthographic_camera_is_depth():
    camera = Camera(0.0, 0.0)
    assert nearness(camera, solid("box", x=0.5)) > nearness(camera, solid("box", x=-0.5))


def test_relations_turn_with_the_camera():
    box, cone = solid("box", "red", 0.8, 0.0), solid("cone", "blue", -0.8, 0.0)
    expected = {0: "in_front_of", 90: "left_of", 180: "behind", 270: "right_of"}
    for azimuth, how in expected.items():
        atoms = facts(Space((box, cone), Camera(azimuth, 20.0), GREY))
        assert (how, "o1", "o2") in atoms
        assert (OPPOSITE[how], "o2", "o1") in atoms
        mask = np.asarray(draw(Space((box, cone), Camera(azimuth, 20.0), GREY))[1])
        (y1, x1), (y2, x2) = (np.argwhere(mask == i).mean(axis=0) for i in (1, 2))
        seen = {"in_front_of": y1 > y2, "behind": y1 < y2, "left_of": x1 < x2, "right_of": x1 > x2}
        assert seen[how]
    assert ("view", "camera", "side") in facts(Space((box,), Camera(0.0, 20.0), GREY))
    assert ("view", "camera", "above") in facts(Space((box,), Camera(0.0, 60.0), GREY))
    assert not {a for a in facts(Space((box,), Camera(0.0, 40.0), GREY)) if a[0] == "view"}


def test_a_space_is_a_function_of_its_key_and_of_its_json():
    for i in range(20):
        one = sample_space("json", i)
        assert one == sample_space("json", i) == Space.from_json(one.to_json())
        assert png(draw(one)[0]) == png(draw(Space.from_json(one.to_json()))[0])
        gaps = [math.hypot(a.x - b.x, a.y - b.y) - reach(a) - reach(b)
                for k, a in enumerate(one.things) for b in one.things[:k]]  # fmt: skip
        assert min(gaps) > 0
    with pytest.raises(ValueError, match="this is no space"):
        Space.from_json('{"things": []}')


def test_sentences_about_a_space_are_true():
    for i in range(60):
        space = sample_space("says", i)
        said = says(space, i)
        assert 2 <= len(said) <= 4
        assert all(holds(s.form, facts(space)) for s in said)


def read(text: str, space: Space) -> bool:
    """Is the sentence true? Worked out from the words, the places and the camera's angle, without facts."""
    found = re.fullmatch(
        r"(?:the|an?) (\w+) (\w+)(?: is)? (in front of|behind|left of|right of) (?:the|an?) (\w+) (\w+)", text
    )
    if not found:
        return text.endswith("seen from above") == (space.camera.elevation > 45)
    looks = {(s.colour, s.kind): s for s in space.things}
    one, other = looks[found[1], found[2]], looks[found[4], found[5]]
    turn = math.radians(space.camera.azimuth)
    near = lambda s: s.x * math.cos(turn) + s.y * math.sin(turn)
    across = lambda s: -s.x * math.sin(turn) + s.y * math.cos(turn)
    return {
        "in front of": near(one) > near(other), "behind": near(one) < near(other),
        "left of": across(one) < across(other), "right of": across(one) > across(other),
    }[found[3]]  # fmt: skip


@pytest.mark.parametrize("mode", ["swap", "single"])
@pytest.mark.parametrize("pattern", SOLID_PATTERNS)
def test_sentences_of_a_pair_are_true_of_their_own_picture_only(pattern, mode):
    for i in range(12):
        pair, images = make_solid_pair(pattern, "tests", i, mode=mode)
        for one, other in zip(pair.captions_a, pair.captions_b, strict=True):
            assert (read(one, pair.a), read(one, pair.b)) == (True, False)
            assert (read(other, pair.a), read(other, pair.b)) == (False, True)
        assert {pair.answer_a, pair.answer_b} == set(pair.options)
        assert list(pair.knobs) == [field.name for field in KNOBS]
        pictures = [np.asarray(image) for image in images]
        assert (pictures[0] != pictures[1]).any(axis=2).mean() == pytest.approx(pair.knobs["changed_pixels"], abs=1e-6)
        assert pair.a.backdrop == pair.b.backdrop
        if pattern == "position":
            assert pair.a.camera == pair.b.camera
            places = lambda space: {(s.x, s.y) for s in space.things}
            assert places(pair.a) == places(pair.b)
        else:
            assert pair.a.things == pair.b.things
            turn = pair.a.camera.azimuth - pair.b.camera.azimuth
            rise = abs(pair.a.camera.elevation - pair.b.camera.elevation)
            assert pair.knobs["view_angle"] == (180 if mode == "swap" else round(rise))
            assert (abs(turn) == pytest.approx(180)) == (mode == "swap")
        if mode == "swap":
            for world in (pair.a, pair.b):
                mask = np.asarray(draw(world)[1])
                for k, thing in enumerate(world.things):
                    alone = np.asarray(draw(replace(world, things=(thing,)))[1])
                    assert (mask == k + 1).sum() == (alone > 0).sum()


def test_swap_pairs_of_solids_have_no_shortcut_and_single_ones_have():
    made: dict[str, list[Pair]] = {}
    stats = {}
    for pattern, mode, n in (("position", "swap", 100), ("viewpoint", "swap", 100), ("viewpoint", "single", 60)):
        done = [make_solid_pair(pattern, "probes", i, size=64, mode=mode) for i in range(n)]
        made[f"{pattern} {mode}"] = [pair for pair, _ in done]
        stats[f"{pattern} {mode}"] = np.array([[statistics(x, len(png(x))) for x in images] for _, images in done])
    bad = {row["pattern"] for row in probe_features(made, stats) if not row["ok"]}
    assert bad == {"viewpoint single"}


def test_a_table_of_solids_has_the_columns_of_scenes_and_its_rows_agree(tmp_path):
    for workers in (1, 2):
        write_scenes(tmp_path / str(workers), pictures=70, pairs=2, size=64, world="solids", workers=workers)
    one, two = (Table.open(tmp_path / w / "pictures").read() for w in "12")
    assert one.equals(two)
    rows = one.to_pylist()
    assert len(rows) == 70 + 2 * 2 * 2
    for row in rows:
        space = Space.from_json(row["world"])
        assert row["bytes"] == png(draw(space, 64)[0])
        assert row["facts"] == sorted(f"{a[0]}({', '.join(a[1:])})" for a in facts(space))
    items = Table.open(tmp_path / "1" / "items").read().to_pylist()
    assert Counter(row["pattern"] for row in items if row["task"] == "pairs") == {"position": 2, "viewpoint": 2}


@pytest.mark.parametrize("bad", [{"world": "clay"}, {"world": "solids", "kinds": ("cup",)},
                                 {"world": "solids", "split_design": "iid"},
                                 {"world": "solids", "never": ("text",)}])  # fmt: skip
def test_a_world_that_cannot_be_says_what_can(tmp_path, bad):
    with pytest.raises(ValueError, match=r"there are things, solids|leave them out"):
        write_scenes(tmp_path / "out", pictures=2, pairs=0, **bad)
    assert not (tmp_path / "out").exists()
