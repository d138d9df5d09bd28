"""A look changes pixels and nothing else: colours can still be named, and a pair still differs in one place only."""

import io

import numpy as np
import pytest
from PIL import Image

from omma.scenes.draw import THINGS, draw, render, render_ids
from omma.scenes.kinds import COLOURS, PATTERNS
from omma.scenes.looks import FLAT, STYLES, Look, degrade, parse_sweep, swept
from omma.scenes.pairs import lab, make_pair, make_pairs, occlusion
from omma.scenes.pen import TURNS
from omma.scenes.sources import KNOBS, write_scenes
from omma.scenes.world import Backdrop, Thing, World, sample_world

PLAIN = Backdrop((230, 235, 245), (230, 235, 245), 0.5)


def pixels(world: World, look: Look) -> np.ndarray:
    return np.asarray(render(world, 128, look), int)


def alone(kind: str, colour: str) -> World:
    return World((Thing(kind, colour, 0.5, 0.5, 0.2),), PLAIN, (0,))


@pytest.mark.parametrize("style", STYLES[1:])
def test_a_style_changes_things_and_keeps_the_id_mask(style):
    for i in range(5):
        world = sample_world("styles", i)
        picture, ids = draw(world, look=Look(style))
        assert np.array_equal(np.asarray(ids), render_ids(world))
        inside = np.asarray(ids) > 0
        changed = (np.asarray(picture, int) != pixels(world, FLAT)).any(axis=2)
        assert changed[inside].mean() > 0.3


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("colour", COLOURS)
def test_the_colour_of_a_thing_can_be_named_in_every_style(style, colour):
    world = alone("ball", colour)
    inside = render_ids(world) > 0
    seen = lab(tuple(pixels(world, Look(style))[inside].mean(axis=0)))
    hues = {name: np.arctan2(*lab(rgb)[:0:-1]) for name, rgb in COLOURS.items()}
    turn = lambda name: abs((np.arctan2(seen[2], seen[1]) - hues[name] + np.pi) % (2 * np.pi) - np.pi)
    # brown is a dark orange, and pink a pale red: hue alone does not tell these
    near = {"brown": ("orange",), "orange": ("brown",), "pink": ("red", "purple"), "red": ("pink", "orange")}
    assert min(COLOURS, key=turn) in (colour, *near.get(colour, ()))


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("style", STYLES[1:])
def test_pairs_in_a_style_on_clutter_differ_only_around_what_was_exchanged(pattern, style):
    look = Look(style, clutter=2)
    pair, images = make_pair(pattern, "looks", look=look)
    one, other = (np.asarray(image, int) for image in images)
    masks = [render_ids(w) % THINGS for w in (pair.a, pair.b)]
    near = np.zeros(masks[0].shape, bool)
    for i, (t, o) in enumerate(zip(pair.a.things, pair.b.things, strict=True)):
        for mask in masks:
            if t != o:
                y, x = np.nonzero(mask == i + 1)
                near[max(0, y.min() - 3) : y.max() + 4, max(0, x.min() - 3) : x.max() + 4] = True
    changed = (one != other).any(axis=2)
    assert changed.sum() >= 12
    assert not (changed & ~near).any()
    assert (pair.knobs["style"], pair.knobs["clutter"]) == (style, 2)


def test_clutter_lies_behind_the_things_and_is_the_same_for_equal_backdrops():
    world = sample_world("clutter", 0)
    empty = World((), world.backdrop, ())
    clean, some, much = (pixels(empty, Look(clutter=n)) for n in (0, 1, 3))
    share = [(clean != x).any(axis=2).mean() for x in (some, much)]
    assert 0.01 < share[0] < share[1] < 0.6
    apart = max(abs(a - b) for a, b in zip(world.backdrop.sky, world.backdrop.ground, strict=True))
    assert np.abs(clean - much).max() <= 22 + apart  # a stroke may cross the horizon
    inside = np.asarray(Image.fromarray((render_ids(world) > 0).astype(np.uint8) * 255).reduce(4)) == 255
    flat, on_clutter = (np.asarray(render(world, 128, Look(clutter=n)).reduce(4), int) for n in (0, 3))
    assert np.array_equal(flat[inside], on_clutter[inside])
    assert np.array_equal(pixels(empty, Look(clutter=3)), pixels(World((), world.backdrop, ()), Look(clutter=3)))


def test_noise_has_the_deviation_that_was_asked_for_and_is_a_function_of_the_key():
    grey = Image.new("RGB", (128, 128), (128, 128, 128))
    one = np.asarray(degrade(grey, Look(noise=8), "a", 1), float)
    assert abs(one.std() - 8) < 0.2
    assert abs(one.mean() - 128) < 0.2
    assert np.array_equal(one, np.asarray(degrade(grey, Look(noise=8), "a", 1)))
    assert not np.array_equal(one, np.asarray(degrade(grey, Look(noise=8), "a", 2)))


def test_blur_downscale_and_jpeg_lose_detail():
    picture = render(sample_world("harm", 3))
    edges = lambda image: np.abs(np.diff(np.asarray(image.convert("L"), float), axis=1)).mean()
    for harm in (Look(blur=2), Look(downscale=4)):
        assert edges(degrade(picture, harm)) < 0.8 * edges(picture)
    distance = lambda q: np.abs(np.asarray(degrade(picture, Look(jpeg=q)), float) - np.asarray(picture, float)).mean()
    assert 0 < distance(90) < distance(20)
    assert degrade(picture, FLAT) is picture


def test_a_table_says_how_its_pictures_look_and_harms_both_pictures_of_a_pair_alike(tmp_path):
    look = Look("sketch", clutter=1, noise=6, downscale=2)
    pictures, items = write_scenes(tmp_path, pictures=2, pairs=1, look=look)
    for row in items.read(["knobs", "group"]).to_pylist():
        if row["group"]:
            assert {k: row["knobs"][k] for k in ("style", "clutter", "noise", "blur", "jpeg", "downscale")} == {
                "style": "sketch", "clutter": 1, "noise": 6.0, "blur": 0.0, "jpeg": 0, "downscale": 2,
            }  # fmt: skip
    rows = {row["id"]: row for row in pictures.read(["id", "bytes", "world"]).to_pylist()}
    key = (0, "text", 0)
    for x in "ab":
        row = rows[f"s0-text-00000-{x}"]
        from_world = degrade(render(World.from_json(row["world"]), 128, look), look, *key)
        with Image.open(io.BytesIO(row["bytes"])) as stored:
            assert np.array_equal(np.asarray(stored), np.asarray(from_world))


def test_the_style_split_trains_on_flat_pictures_and_tests_on_each_other_style(tmp_path):
    seen = {}
    for side in ("train", "test"):
        _, items = write_scenes(tmp_path / side, pictures=0, pairs=4, size=64, split=side, split_design="style")
        seen[side] = {row["style"] for row in items.read(["knobs"])["knobs"].to_pylist()}
    assert seen == {"train": {"flat"}, "test": set(STYLES[1:])}


def test_occlusion_is_the_share_of_pixels_that_another_thing_hides():
    behind, front = Thing("ball", "red", 0.5, 0.5, 0.2), Thing("ball", "blue", 0.6, 0.5, 0.2)
    both = World((behind, front), PLAIN, (0, 1))
    apart = World((behind, Thing("ball", "blue", 0.9, 0.9, 0.05)), PLAIN, (0, 1))
    whole = (render_ids(World((behind,), PLAIN, (0,))) > 0).sum()
    assert occlusion(both, 0) == pytest.approx(1 - (render_ids(both) == 1).sum() / whole)
    assert 0.3 < occlusion(both, 0) < 0.8
    assert occlusion(both, 1) == occlusion(apart, 0) == 0


def test_knobs_count_what_stands_beside_the_edited_things_and_how_far_they_turn():
    for pair in (p for pattern in PATTERNS for p in make_pairs(pattern, 12, "knobs")):
        knobs, things = pair.knobs, pair.a.things
        edited = [i for i, (t, o) in enumerate(zip(things, pair.b.things, strict=True)) if t != o]
        rest = [t for i, t in enumerate(things) if i not in edited]
        if pair.pattern != "quantity":
            assert knobs["distractors"] == len(rest)
            assert knobs["same_kind"] == sum(t.kind in {things[i].kind for i in edited} for t in rest) == 0
            assert knobs["same_colour"] == sum(t.colour in {things[i].colour for i in edited} for t in rest)
        assert knobs["size"] == 128
        assert 1 <= knobs["part_patches"] <= 64
        assert 0 <= knobs["occlusion"] < 0.5
        if pair.pattern == "orientation":
            t, o = (w.things[edited[0]] for w in (pair.a, pair.b))
            (name,) = (n for n, v in t.attributes if o.get(n) != v)
            turn = abs(TURNS[str(t.get(name))] - TURNS[str(o.get(name))])
            assert knobs["angle"] == {1: 90, 2: 180, 3: 90}[turn]
        else:
            assert knobs["angle"] is None
        assert list(knobs) == [field.name for field in KNOBS]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"style": "oil"}, "there are flat, shaded, outline, sketch"),
        ({"colour": "red"}, "a look has no 'colour'"),
        ({"noise": "loud"}, "is no number"),
        ({"jpeg": "100"}, "it goes from 0 to 95"),
    ],
)
def test_a_look_that_cannot_be_says_what_can(settings, message):
    with pytest.raises(ValueError, match=message):
        Look.parse(settings)


def test_a_look_is_read_from_text():
    assert Look.parse({"style": "shaded", "noise": "2.5", "jpeg": "40"}) == Look("shaded", noise=2.5, jpeg=40)


def test_a_sweep_draws_a_setting_for_each_pair_from_its_range_and_harms_both_pictures_alike(tmp_path):
    look, sweep = parse_sweep([("style", "flat"), ("noise", "4..20"), ("downscale", "1..2")])
    assert (look, sweep) == (FLAT, {"noise": (4, 20), "downscale": (1, 2)})
    pictures, items = write_scenes(tmp_path, pictures=0, pairs=6, size=64, look=look, sweep=sweep, check=False)
    knobs = {row["group"]: row["knobs"] for row in items.read(["group", "knobs"]).to_pylist()}
    noise = [one["noise"] for one in knobs.values()]
    assert len(set(noise)) == len(knobs) == 54
    assert min(noise) < 8 < 16 < max(noise)
    assert {one["downscale"] for one in knobs.values()} == {1, 2}
    rows = {row["id"]: row for row in pictures.read(["id", "bytes", "world", "group"]).to_pylist()}
    for side in "ab":
        row = rows[f"s0-colour-00003-{side}"]
        own = Look(noise=knobs[row["group"]]["noise"], downscale=knobs[row["group"]]["downscale"])
        again = degrade(render(World.from_json(row["world"]), 64, own), own, 0, "colour", 3)
        with Image.open(io.BytesIO(row["bytes"])) as stored:
            assert np.abs(np.asarray(stored, int) - np.asarray(again, int)).max() <= 1   # a knob has 32 bits


def test_whole_numbers_of_a_sweep_are_drawn_equally_often_and_ends_included():
    drawn = [swept(FLAT, {"clutter": (0, 3), "blur": (1, 2)}, k) for k in range(2000)]
    counts = np.bincount([look.clutter for look in drawn])
    assert len(counts) == 4
    assert abs(counts - 500).max() < 100                                      # 5 standard deviations
    assert all(1 <= look.blur <= 2 for look in drawn)


@pytest.mark.parametrize(
    ("setting", "message"),
    [(("style", "flat..sketch"), "'style' has no range; clutter, noise"), (("jpeg", "0..50"), r"within 1\.\.95"),
     (("noise", "9..2"), r"noise=9.0\.\.2.0: give a lower"), (("noise", "1..100"), "it goes from 0 to 64")],
)  # fmt: skip
def test_a_range_that_cannot_be_says_what_can(setting, message):
    with pytest.raises(ValueError, match=message):
        parse_sweep([setting])
