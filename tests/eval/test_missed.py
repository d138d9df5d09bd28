"""What blind pairs differ in: patterns from facts, Fisher's test, and an eye that is blind by construction."""

import io

import numpy as np
import pytest
import scipy.stats
from PIL import Image

from omma.eval.blind import mine_blind_pairs
from omma.eval.metrics import fisher_greater
from omma.eval.missed import differing, enrichment
from omma.scenes.sources import write_scenes


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    tables = write_scenes(tmp_path_factory.mktemp("scenes"), pictures=0, pairs=14, size=64, check=False)
    return tables[0].read(["id", "bytes", "facts", "group"]).to_pylist()


def test_the_partners_of_a_minimal_pair_differ_in_their_pattern(scenes):
    for a, b in zip(scenes[::2], scenes[1::2], strict=True):
        assert a["group"] == b["group"]
        assert differing(a["facts"], b["facts"], partners=True) == {a["group"].split("-")[1]}


def test_names_of_things_do_not_matter_and_kinds_do():
    one = ["kind(o1, cup)", "kind(o2, ball)", "colour(o1, red)", "colour(o2, blue)", "left_of(o1, o2)"]
    renamed = [line.replace("o1", "x").replace("o2", "o1").replace("x", "o2") for line in one]
    assert differing(one, renamed) == set()
    assert differing(one, [*renamed[:-1], "left_of(o1, o2)"]) == {"position"}
    assert differing(one, ["kind(o1, cup)", "colour(o1, red)"]) == {"other things"}
    assert differing(one[:1], ["kind(o1, cup)", "kind(o2, cup)"]) == {"quantity"}


def test_fishers_test_is_that_of_scipy():
    rng = np.random.default_rng(0)
    for _ in range(50):
        total = int(rng.integers(1, 60))
        drawn, marked = (int(v) for v in rng.integers(0, total + 1, size=2))
        k = int(rng.integers(max(0, drawn + marked - total), min(drawn, marked) + 1))
        table = [[k, drawn - k], [marked - k, total - drawn - marked + k]]
        assert fisher_greater(k, drawn, marked, total) == pytest.approx(scipy.stats.fisher_exact(table, "greater")[1])
    with pytest.raises(ValueError, match="k is at most drawn"):
        fisher_greater(5, 3, 4, 9)


def local_features(pixels, seed=0):
    """(n, 2 K) what random filters find anywhere in the pictures, and then in their mirror images."""
    filters = np.random.default_rng(seed).standard_normal((7 * 7 * 3, 96)).astype(np.float32)
    found = []
    for image in (pixels, pixels[:, :, ::-1]):
        windows = np.lib.stride_tricks.sliding_window_view(image, (7, 7), axis=(1, 2))[:, ::3, ::3]
        flat = windows.reshape(len(image), -1, 7 * 7 * 3)
        flat = flat - flat.mean(axis=2, keepdims=True)
        found.append(np.maximum(flat @ filters - 4, 0).mean(axis=1))
    return np.stack(found)


def test_orientation_is_what_an_eye_misses_that_cannot_tell_a_picture_from_its_mirror_image(scenes):
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(row["bytes"])), np.float32) / 255 for row in scenes])
    seen, mirrored = local_features(pixels)
    whole = seen + mirrored
    whole = whole - whole.mean(axis=0)
    sides = seen - mirrored
    eye, reference = whole, np.concatenate([whole / whole.std(), 3 * sides / sides.std()], axis=1)
    found = mine_blind_pairs(eye, reference, 0.95, 0.6, distinct=False)
    told = enrichment(found.pairs, [row["facts"] for row in scenes], [row["group"] for row in scenes])
    enriched = [row["pattern"] for row in told["patterns"] if row["enriched"]]
    assert enriched == ["orientation"], told["patterns"]
    assert told["patterns"][0]["share"] > 3 * told["patterns"][0]["base_share"]
    nothing = mine_blind_pairs(reference, reference, 0.95, 0.6, distinct=False)
    told = enrichment(nothing.pairs, [row["facts"] for row in scenes], [row["group"] for row in scenes])
    assert not any(row["enriched"] for row in told["patterns"])
