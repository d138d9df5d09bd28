"""bench/eyes_wide_shut.py on a tiny world: towers differ in what they are to be blind to alone, and lines are kept."""

import importlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[1] / "bench"


@pytest.fixture(scope="module")
def shut():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCH))
        yield importlib.import_module("eyes_wide_shut")


@pytest.fixture(scope="module")
def world(shut, tmp_path_factory):
    """A folder with the tiny world, drawn once; tests add their own columns and lines."""
    work = tmp_path_factory.mktemp("world")
    shut.prepare(work, shut.SIZES["tiny"])
    return work


def test_towers_differ_in_what_they_are_named_after_and_in_nothing_else(shut):
    size = shut.SIZES["full"]
    plain = shut.config_of("plain", size, 3)
    assert shut.config_of("untold", size, 3) == shut.config_of("fewer", size, 3) == plain
    flip = shut.config_of("flip", size, 3)
    assert (plain.dataset.flip, flip.dataset.flip) == (False, True)
    assert replace(flip, dataset=replace(flip.dataset, flip=False)) == replace(plain, given=flip.given)
    for name in ("small", "large"):
        other = shut.config_of(name, size, 3)
        assert replace(other, model=plain.model, given=plain.given) == plain
        assert other.model != plain.model
    sight = shut.config_of("sight", size, 0)
    assert (sight.model, list(sight.losses.active())) == (plain.model, ["mim"])
    known = [shut.identity(name, size, 3) for name in shut.TOWERS]
    assert len({*known, shut.identity("plain", size, 4)}) == len(known) + 1


def test_a_run_ends_in_lines_and_is_not_trained_twice(shut, world, tmp_path, monkeypatch, capsys):
    size, results = shut.SIZES["tiny"], tmp_path / "lines.jsonl"
    shut.run_all(world, results, size, ["untold"], [0])
    rows = shut.read(results)
    assert [(row["tower"], row["seed"], row["steps"]) for row in rows] == [
        ("plain", 100, 2), ("untold", 0, 2), ("sight", 0, 2)
    ]  # fmt: skip
    counts = {pattern: {mode: n for mode, (_, n) in modes.items()} for pattern, modes in rows[1]["patterns"].items()}
    assert counts == {pattern: {"swap": 3, "single": 3} for pattern in shut.PATTERNS}
    assert rows[1]["blind"] == 0.0

    monkeypatch.setattr(shut, "run", lambda *_: pytest.fail("trained again"))
    shut.run_all(world, results, size, ["untold"], [0])
    capsys.readouterr()
    lines = list(shut.report(world, results, size, ["untold", "flip"], [0]))
    assert lines[0].startswith("no numbers yet of flip 0")
    assert list(shut.report(world, results, size, ["untold", "flip"], [0])) == lines
    found = [(row["eye"], row["reference"]) for row in shut.read(results) if "mined" in row]
    assert found == [("untold-0", "plain-100"), ("untold-0", "sight-0")], "each once"
    claims = [json.loads(line) for line in lines if line.startswith("{")]
    assert [claim["name"] for claim in claims] == [
        f"untold 0 against {name}: orientation is {what}"
        for name in ("plain-100", "sight-0")
        for what in ("enriched, p", "missed by the eye, p of both ways")
    ]


def test_what_is_trained_on_never_speaks_of_what_is_left_out_and_is_of_one_size(shut, world):
    made = [shut.omma.Table.open(world / name) for name in ("told", "untold", "fewer")]
    told, untold, fewer = (table.read().to_pylist() for table in made)
    names = lambda rows: {row["id"] for row in rows}
    assert names(fewer) < names(told)
    assert not any(pattern in name for name in names(told) for pattern in shut.LATER)
    assert any("orientation" in name for name in names(told))
    assert not any("orientation" in name for name in names(untold))
    assert len(untold) == pytest.approx(len(told), rel=0.1)
    said = lambda rows: [caption["text"] for row in rows for caption in row["captions"]]
    assert any("facing" in text for text in said(told))
    assert not any("facing" in text for text in said(untold))
    with pytest.raises(ValueError, match="holds another world"):
        shut.prepare(world, shut.SIZES["full"])


def test_what_is_mined_is_counted_against_the_partners_of_each_pattern(shut, world, monkeypatch):
    """An eye that takes partners of one pattern for the same and all else apart, and a reference that sees all."""
    table = shut.omma.Table.open(world / "test" / "pictures")
    groups = table.read(["group"])["group"].to_pylist()
    apart = shut.np.eye(len(groups))
    eye = apart.copy()
    for row, group in enumerate(groups):
        if group and "orientation" in group:
            eye[row] = eye[groups.index(group)]
    table.add_column("embed.eye", eye.astype("float32"))
    table.add_column("embed.reference", apart.astype("float32"))
    monkeypatch.setattr(shut, "suggest_thresholds", lambda *_: {"above": 0.9, "below": 0.5})
    monkeypatch.setattr(shut, "LIMITS", (0.9, 0.5))
    found = shut.mine(world, "eye", "reference")
    assert found["partners"] == {p: [6, 6] if p == "orientation" else [0, 6] for p in shut.PATTERNS}
    assert (found["counts"]["blind"], found["one_pattern"]) == (6, 6)
    assert found["patterns"][0]["pattern"] == "orientation"
    assert found["patterns"][0]["enriched"]
    assert found["suggested"] == [0.9, 0.5, 6]
    ways = {row["pattern"]: (row["eye"], row["reference"]) for row in found["other_way"]["patterns"]}
    assert ways == {pattern: (6, 0) if pattern == "orientation" else (0, 0) for pattern in shut.PATTERNS}


def test_over_seeds_an_eye_is_held_against_the_plain_one_of_its_seed_and_against_the_other_way(
    shut, world, monkeypatch
):
    """The reference misses one pair of six, the plain eyes one each, another one, and the blind ones miss them all."""
    table = shut.omma.Table.open(world / "test" / "pictures")
    groups = table.read(["group"])["group"].to_pylist()
    pairs = list(dict.fromkeys(group for group in groups if group and "orientation" in group))
    missing = {"plain-6": {0}, "plain-7": {1}, "plain-8": {2}} | {f"{eye}-{k}": set(range(6)) for eye in shut.PURPOSE
                                                             for k in (7, 8)}  # fmt: skip
    for name, missed in missing.items():
        vectors = shut.np.eye(len(groups), dtype="float32")
        for row, group in enumerate(groups):
            if group in pairs and pairs.index(group) in missed:
                vectors[row] = vectors[groups.index(group)]
        table.add_column(f"embed.{name}", vectors)
    monkeypatch.setattr(shut, "limit_of", lambda uri, name, limit, side: {"above": 0.9, "below": 0.5}[side])
    found = {one["name"]: one for one in shut.pooled(world, (7, 8), "plain-6", "any")}
    sixth = 100 / 6
    assert found["flip less plain"]["seeds"] == [round(4 * sixth, 1)] * 2
    assert found["untold less the other way"]["value"] == round(5 * sixth, 2)
    plain = found["plain less the other way"]
    assert (plain["value"], plain["seeds"]) == (0, [0, 0])
    assert plain["low95"] < 0 < plain["high95"]
    run = [{"tower": tower, "seed": seed} for tower in ("plain", *shut.PURPOSE) for seed in (7, 8)]
    lines = list(shut.over_seeds(world, run, (7, 8, 9), "plain-6"))
    assert "[7, 8], against plain-6" in lines[0], "seed 9 has no runs"
    assert not list(shut.over_seeds(world, run, (8, 9), "plain-6"))


def test_the_interval_over_seeds_and_items_adds_their_variances(shut):
    """Over seeds 2/9 / 2, over items 1/12 / 3; 1.5 degrees of freedom count as one."""
    values = shut.np.array([[1, 0, 1], [0, 0, 0]], float)
    half = 12.7062 * (1 / 9 + 1 / 36) ** 0.5
    assert shut.crossed(values) == pytest.approx((1 / 3 - half, 1 / 3, 1 / 3 + half))
    most = shut.wilson(0, 150)[1]
    assert shut.crossed(shut.np.zeros((3, 150))) == (-most, 0, most), "none of 150 is not none at all"


def test_the_interval_over_seeds_and_items_holds_the_truth_as_often_as_it_says(shut):
    rng, held = shut.np.random.default_rng(0), 0
    for _ in range(400):
        seeds, items = rng.normal(0, 0.5, (5, 1)), rng.normal(0, 3, (1, 150))
        low, _, high = shut.crossed(1 + seeds + items + rng.normal(0, 1, (5, 150)))
        held += low <= 1 <= high
    assert 0.92 < held / 400 < 0.995
