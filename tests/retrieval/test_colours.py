"""Names of colours: CIELAB against known values, and the terms of clear cases."""

import numpy as np
import pytest

from omma.retrieval.colours import BASIC, PLACES, TERMS, colour_name, lab, named, shares


def test_cielab_is_that_of_known_colours():
    """White, black, and sRGB's primaries (Lindbloom's calculator, D65)."""
    rgb = [[255, 255, 255], [0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255]]
    known = [[100, 0, 0], [0, 0, 0], [53.24, 80.09, 67.20], [87.73, -86.18, 83.18], [32.30, 79.19, -107.86]]
    np.testing.assert_allclose(lab(np.array(rgb)), known, atol=0.02)


def test_every_member_of_a_term_is_named_by_it():
    assert len(PLACES) == len(TERMS) == sum(len(members.split()) for members in BASIC.values())
    assert set(TERMS) == set(BASIC)


@pytest.mark.parametrize(("rgb", "term"), [
    ((255, 0, 0), "red"), ((200, 30, 40), "red"), ((255, 140, 10), "orange"), ((255, 230, 40), "yellow"),
    ((30, 140, 60), "green"), ((40, 90, 210), "blue"), ((120, 50, 160), "purple"), ((250, 150, 190), "pink"),
    ((110, 70, 40), "brown"), ((10, 10, 12), "black"), ((250, 250, 248), "white"), ((130, 130, 132), "grey"),
])  # fmt: skip
def test_clear_colours_have_their_names(rgb, term):
    assert named(np.array([rgb])) == [term]


def test_shares_are_those_of_the_pixels_largest_first():
    pixels = np.array([[255, 0, 0]] * 6 + [[0, 0, 255]] * 3 + [[255, 255, 255]])
    assert shares(pixels) == {"red": 0.6, "blue": 0.3, "white": 0.1}
    assert list(shares(pixels)) == ["red", "blue", "white"]


def test_windows_and_wheels_do_not_give_a_thing_its_colour():
    car = np.array([[20, 20, 20]] * 50 + [[250, 250, 250]] * 30 + [[200, 30, 40]] * 20)
    assert colour_name(car) == "red"
    assert colour_name(car[:85]) == "black"
