"""Pixels show what the state says, and no attribute changes how much of a colour there is."""

import numpy as np
import pytest

from omma.scenes.draw import THINGS, part_code, png, render, render_ids
from omma.scenes.kinds import COLOURS, KINDS
from omma.scenes.shapes import SHAPES
from omma.scenes.world import Backdrop, Thing, World, generator, sample_world

PLAIN = Backdrop((230, 235, 245), (230, 235, 245), 0.5)
SHOWN = [(kind, name) for kind in KINDS for name in KINDS[kind].attributes]


def alone(
    kind: str, colour: str = "red", x: float = 0.5, y: float = 0.5, size: float = 0.18, **attributes: str
) -> World:
    return World((Thing(kind, colour, x, y, size, tuple(attributes.items())),), PLAIN, (0,))


def coloured(kind: str, **attributes: str) -> float:
    """Pixels that take the colour of the thing, anti-aliased and shaded ones by their share; a mean over places."""
    red, blue = (np.array(COLOURS[c], float) for c in ("red", "blue"))
    rng = generator("places", kind)
    sums = []
    for size in (0.16, 0.175, 0.19):
        for _ in range(8):
            x, y = 0.5 + rng.uniform(-0.01, 0.01), 0.5 + rng.uniform(-0.01, 0.01)
            pictures = [np.asarray(render(alone(kind, c, x, y, size, **attributes)), float) for c in ("red", "blue")]
            sums.append(
                (pictures[0] - pictures[1]).sum(axis=(0, 1)) @ (red - blue) / ((red - blue) @ (red - blue)) / size**2
            )
    return float(np.mean(sums)) / 128**2


def test_every_kind_has_a_drawing_and_the_ids_fit_in_a_byte():
    assert set(SHAPES) == set(KINDS)
    assert max(len(kind.attributes) for kind in KINDS.values()) < 256 // THINGS
    assert len(KINDS) >= 14


@pytest.mark.parametrize(("kind", "attribute"), SHOWN)
def test_every_value_of_every_attribute_looks_different(kind, attribute):
    values = KINDS[kind].attributes[attribute].values
    pictures = {value: np.asarray(render(alone(kind, **{attribute: value})), int) for value in values}
    for i, one in enumerate(values):
        for other in values[:i]:
            assert (np.abs(pictures[one] - pictures[other]).max(axis=2) > 30).sum() >= 8, (one, other)


@pytest.mark.parametrize(("kind", "attribute"), SHOWN)
def test_the_part_of_an_attribute_has_pixels_of_its_own(kind, attribute):
    trait = KINDS[kind].attributes[attribute]
    if trait.whole:
        return
    code = 1 + THINGS * part_code(kind, attribute)
    counts = {value: int((render_ids(alone(kind, **{attribute: value})) == code).sum()) for value in trait.values}
    for value, count in counts.items():
        assert count == 0 if value == "no" else count >= 12, counts


@pytest.mark.parametrize(("kind", "attribute"), SHOWN)
def test_no_attribute_changes_the_amount_of_a_colour(kind, attribute):
    amounts = [coloured(kind, **{attribute: value}) for value in KINDS[kind].attributes[attribute].values[:4]]
    assert max(amounts) / min(amounts) < 1.025, amounts


def test_all_kinds_show_as_much_colour_as_each_other():
    amounts = {kind: coloured(kind) for kind in KINDS}
    mean = np.mean(list(amounts.values()))
    assert all(abs(amount / mean - 1) < 0.06 for amount in amounts.values()), amounts


def test_equal_worlds_give_equal_bytes_and_size_only_scales():
    world = sample_world("draw", 1)
    assert png(render(world)) == png(render(World.from_json(world.to_json())))
    large = np.asarray(render(world, 256).reduce(2), int)
    assert np.abs(large - np.asarray(render(world, 128), int)).mean() < 6


def test_the_mask_covers_exactly_what_differs_from_the_backdrop():
    for i in range(10):
        world = sample_world("mask", i)
        empty = World((), world.backdrop, ())
        ids = render_ids(world, 128)
        assert set(np.unique(ids % THINGS)) == set(range(len(world.things) + 1))
        differs = (np.asarray(render(world), int) != np.asarray(render(empty), int)).any(axis=2)
        far = np.ones_like(differs)  # outlines and smoothed edges reach three pixels around the mask
        for dy in range(-3, 4):
            for dx in range(-3, 4):
                far &= ~np.roll(ids > 0, (dy, dx), (0, 1))
        assert not (differs & far).any()
        assert (differs & (ids > 0)).sum() > 0.95 * (ids > 0).sum()


def test_a_scene_too_small_to_show_anything_is_refused():
    with pytest.raises(ValueError, match="least size is 32"):
        render(sample_world(0), 16)
