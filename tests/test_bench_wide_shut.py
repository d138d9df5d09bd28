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
        f"untold 0 against {name}: orientation is enriched, p" for name in ("plain", "sight")
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


def test_the_interval_of_a_difference_is_newcombes(shut):
    """His example (1998, table II, method 10): 56 of 70 less 48 of 80 is 0.2 (0.0524 to 0.3339)."""
    assert shut.difference((56, 70), (48, 80)) == pytest.approx((0.0524, 0.2, 0.3339), abs=5e-5)
    low, value, high = shut.difference((48, 80), (56, 70))
    assert (low, value, high) == pytest.approx((-0.3339, -0.2, -0.0524), abs=5e-5)
