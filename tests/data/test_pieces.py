"""Patches of True pixels against scipy's."""

import numpy as np
import pytest
from scipy import ndimage

from omma.data.pieces import joined_runs, labels


@pytest.mark.parametrize("corners", [False, True])
def test_patches_are_those_of_scipy(corners):
    for seed, share in enumerate((0.1, 0.4, 0.6, 0.9, 0.0, 1.0)):
        mask = np.random.default_rng(seed).random((37, 53)) < share
        theirs, number = ndimage.label(mask, np.ones((3, 3)) if corners else None)
        ours = labels(mask, corners)
        assert ours.max() == number
        assert len(set(zip(ours.ravel().tolist(), theirs.ravel().tolist(), strict=True))) == number + (not mask.all())


def test_a_spiral_is_one_patch_and_two_corners_are_two():
    spiral = np.array([[1, 1, 1, 1, 1], [0, 0, 0, 0, 1], [1, 1, 1, 0, 1], [1, 0, 0, 0, 1], [1, 1, 1, 1, 1]], bool)
    assert len({patch for *_, patch in joined_runs(spiral)}) == 1
    corner = np.array([[1, 0], [0, 1]], bool)
    assert labels(corner).max() == 2
    assert labels(corner, corners=True).max() == 1
