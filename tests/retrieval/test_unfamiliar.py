"""Advice about another eye: by how alike pictures look to the one that comes with omma, and by cameras' dates."""

import numpy as np

from omma.retrieval.unfamiliar import FEWEST, advice, mean_cosine


def spread(n, common, seed=0):
    """Unit rows of which a share `common` is the same direction."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 64))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    x = x * np.sqrt(1 - common) + np.eye(1, 64) * np.sqrt(common)
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float16)


def test_the_mean_cosine_is_that_of_all_pairs():
    x = spread(30, 0.4).astype(np.float64)
    pairs = (x @ x.T)[~np.eye(30, dtype=bool)]
    assert abs(mean_cosine(x) - pairs.mean()) < 1e-3


def test_pictures_that_crowd_together_get_advice_with_one_command():
    told = advice("vlmo-nano", spread(60, 0.85), 0.0, "/home/me/My Pictures")
    assert told is not None
    assert "mean cosine 0.8" in told
    assert told.endswith("omma index '/home/me/My Pictures' --encoder openai/clip-vit-base-patch32")


def test_what_is_spread_is_left_alone_unless_a_camera_took_it():
    assert advice("vlmo-nano", spread(60, 0.35), 0.1, "photos") is None
    told = advice("vlmo-nano", spread(60, 0.35), 0.5, "photos")
    assert told is not None
    assert "50 % of them are photographs" in told


def test_other_eyes_and_folders_of_a_few_pictures_get_none():
    assert advice("clip", spread(60, 0.9), 1.0, "photos") is None
    assert advice("vlmo-nano", spread(FEWEST - 1, 0.9), 1.0, "photos") is None
