"""Positions at another size, against SciPy's splines and the geometric progression of the released code."""

import numpy as np
import pytest
import torch
from scipy.interpolate import CubicSpline, RectBivariateSpline

from omma.models.positions import cubic_spline, distance_spline, resample_relative


def released_places(source: int, target: int) -> list[float]:
    """Where the released loader puts the distances of the smaller grid, its bisection written out."""
    left, right = 1.01, 1.5
    while right - left > 1e-6:
        q = (left + right) / 2
        if (1 - q ** (source // 2)) / (1 - q) > target // 2:
            right = q
        else:
            left = q
    places, place = [], 1.0
    for i in range(source // 2):
        places.append(place)
        place += q ** (i + 1)
    return [-p for p in reversed(places)] + [0.0] + places


@pytest.mark.parametrize(("grid", "larger"), [(14, 24), (14, 30), (24, 30), (24, 14), (3, 8), (4, 7)])
def test_a_relative_table_at_another_size_is_scipys_bivariate_spline(grid, larger):
    source, target = 2 * grid - 1, 2 * larger - 1
    table = np.random.default_rng(0).standard_normal((source, source))
    places = released_places(source, target)
    at = np.arange(-(target // 2), target // 2 + 1)
    inside = np.clip(at, places[0], places[-1])
    expected = RectBivariateSpline(places, places, table, kx=3, ky=3)(inside, inside)
    spline = distance_spline(source, target)
    np.testing.assert_allclose(spline @ table @ spline.T, expected, rtol=0, atol=1e-10)
    values = torch.from_numpy(table.reshape(1, -1)).float()
    found = resample_relative(values, (grid, grid), (larger, larger))
    np.testing.assert_allclose(found.numpy().reshape(target, target), expected, rtol=0, atol=1e-6)


def test_224_to_384_uses_the_published_ratio():
    """q = 1.090307, the number that BEiT's code gives for 14 to 24 patches."""
    places = released_places(27, 47)
    assert places[15] - places[14] == pytest.approx(1.090307, abs=2e-6)
    np.testing.assert_allclose(distance_spline(27, 47) @ np.array(places), np.arange(-23, 24), atol=1e-4)


def test_the_spline_is_not_a_knot_and_exact_for_cubics():
    places = np.array([-3.0, -1.5, 0.0, 0.7, 2.0, 4.5])
    at = np.linspace(-3, 4.5, 41)
    values = np.random.default_rng(1).standard_normal(6)
    np.testing.assert_allclose(cubic_spline(places, at) @ values, CubicSpline(places, values)(at), atol=1e-12)
    cubic = lambda x: 2 * x**3 - x**2 + 4
    np.testing.assert_allclose(cubic_spline(places, at) @ cubic(places), cubic(at), atol=1e-11)
    np.testing.assert_array_equal(cubic_spline(places, np.array([-9.0, 9.0])) @ values, values[[0, -1]])


def test_a_table_keeps_its_centre_and_a_constant_and_lets_gradients_through():
    table = torch.randn(2, 3, 27 * 27, requires_grad=True)
    larger = resample_relative(table, (14, 14), (24, 24))
    torch.testing.assert_close(larger.view(2, 3, 47, 47)[..., 23, 23], table.view(2, 3, 27, 27)[..., 13, 13])
    torch.testing.assert_close(resample_relative(torch.ones(1, 729), (14, 14), (24, 24)), torch.ones(1, 47 * 47))
    larger.sum().backward()
    assert table.grad is not None
    spline = torch.from_numpy(distance_spline(27, 47)).sum(dim=0)
    torch.testing.assert_close(table.grad[0, 0].view(27, 27), torch.outer(spline, spline).float())
