"""Pictures of NLVR drawn and read back; no picture of the corpus is needed."""

import numpy as np
import pytest
from PIL import Image

from omma.data.nlvr.pictures import COLORS, SHAPES, Thing, components, coverage, draw, is_tower, parse


def loose(rng: np.random.Generator) -> tuple[Thing, ...]:
    """A box of things that keep a pixel's distance, as the corpus's do; some lie at the walls."""
    things: list[Thing] = []
    for _ in range(12):
        size = int(rng.choice((10, 20, 30)))
        x, y = (int(rng.choice((0, 100 - size, rng.integers(0, 101 - size)))) for _ in range(2))
        new = Thing(y, x, size, str(rng.choice(SHAPES)), str(rng.choice(list(COLORS))))
        if all(max(new.x - t.right, t.x - new.right, new.y - t.bottom, t.y - new.bottom) >= 1 for t in things):
            things.append(new)
    return tuple(sorted(things))


def tower(colors: str) -> tuple[Thing, ...]:
    """Blocks from the base up: b, y or k."""
    names = {"b": "blue", "y": "yellow", "k": "black"}
    return tuple(sorted(Thing(80 - 21 * i, 40, 20, "square", names[c]) for i, c in enumerate(colors)))


def test_what_is_drawn_is_read_back_exactly():
    rng = np.random.default_rng(0)
    for _ in range(30):
        boxes = (loose(rng), loose(rng), loose(rng))
        assert parse(draw(boxes)) == boxes
        assert not is_tower(boxes)
    boxes = (tower("bykb"), tower(""), tower("k"))
    assert parse(draw(boxes)) == boxes
    assert is_tower(boxes)


def test_blocks_of_one_colour_one_pixel_apart_are_two():
    assert [len(box) for box in parse(draw((tower("bbbb"), tower("kk"), ())))] == [4, 2, 0]


def test_a_circle_covers_pi_quarters_of_its_square_and_a_triangle_half():
    for size in (10, 20, 30):
        assert coverage("circle", size).mean() == pytest.approx(np.pi / 4, abs=2e-3)
        assert coverage("triangle", size).mean() == pytest.approx(0.5, abs=2e-3)
        assert coverage("square", size).min() == 1.0


def test_components_are_those_of_scipy():
    ndimage = pytest.importorskip("scipy.ndimage")
    rng = np.random.default_rng(1)
    for share in (0.2, 0.5, 0.7):
        mask = rng.random((40, 30)) < share
        labels, _ = ndimage.label(mask)
        known = sorted(
            (s[0].start, s[1].start, s[0].stop - s[0].start, s[1].stop - s[1].start, int((labels[s] == i).sum()))
            for i, s in enumerate(ndimage.find_objects(labels), 1)
        )
        assert sorted(components(mask)) == known


def test_a_picture_of_another_size_or_world_is_refused():
    with pytest.raises(ValueError, match="200 x 100 px"):
        parse(Image.new("RGB", (200, 100)))
    strange = draw(((), (), ()))
    strange.paste((0, 0, 0), (10, 10, 50, 15))
    with pytest.raises(ValueError, match="black spot of 40 x 5 px"):
        parse(strange)
