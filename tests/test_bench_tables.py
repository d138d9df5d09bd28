"""bench/vlmo_tables.py on a tiny world: a run ends in a line, is not trained twice, and its intervals are Student's."""

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from scipy import stats

from omma.config import to_dict

SPEC = importlib.util.spec_from_file_location("vlmo_tables", Path(__file__).parents[1] / "bench" / "vlmo_tables.py")
assert SPEC is not None
assert SPEC.loader is not None
tables = importlib.util.module_from_spec(SPEC)
sys.modules["vlmo_tables"] = tables  # its dataclasses look themselves up there
SPEC.loader.exec_module(tables)

TINY = replace(tables.SIZES["tiny"], plain=8, pairs=2, test_plain=4, test_pairs=1, batch_size=4)


def test_a_run_ends_in_a_line_and_is_neither_trained_nor_told_twice(tmp_path, monkeypatch, capsys):
    results = tmp_path / "lines.jsonl"
    one = tables.Ablation(title="one", rows=(("itm", "itc-itm", "80.0"),), reference="itc-itm", claims=())
    monkeypatch.setattr(tables, "TABLES", {"one": one, "same": one})
    tables.run_all(tmp_path, results, TINY, ["one"], [0])
    (row,) = tables.read(results)
    assert (row["table"], row["variant"], row["seed"], row["steps"]) == ("one", "itc-itm", 0, 4)
    assert {"pairs.itc", "pairs.itm", "recall@1", "swap.colour.itm"} <= set(row["numbers"])
    assert "one itc-itm seed 0: pairs.itm" in capsys.readouterr().out

    # killed after its training, before its line: what was trained is measured again, and the same comes out
    results.unlink()
    folders = sorted((tmp_path / "runs").iterdir())
    before = [(folder / "metrics.jsonl").read_text() for folder in folders]
    tables.run_all(tmp_path, results, TINY, ["one"], [0])
    assert tables.read(results)[0]["numbers"] == row["numbers"]
    assert [(folder / "metrics.jsonl").read_text() for folder in folders] == before
    assert sorted((tmp_path / "runs").iterdir()) == folders

    monkeypatch.setattr(tables, "run", lambda *_: pytest.fail("trained again"))
    tables.run_all(tmp_path, results, TINY, ["one", "same"], [0])
    lines = tables.read(results)
    assert [line["table"] for line in lines] == ["one", "same"]
    assert lines[0]["numbers"] == lines[1]["numbers"]

    told = list(tables.report(results, TINY, ["one"], [0]))
    assert f"| {100 * row['numbers']['recall@1']:.1f} |" in told[-2]
    assert "no numbers yet of itc-itm" in next(tables.report(results, TINY, ["one"], [0, 1]))
    with pytest.raises(ValueError, match="a world of another size"):
        tables.prepare(tmp_path, tables.SIZES["full"])


def test_variants_are_trained_for_the_same_steps_on_the_same_rows_in_the_same_order():
    full = tables.chain(tables.VARIANTS["full"], TINY, 3)
    for name, variant in tables.VARIANTS.items():
        stages = tables.chain(variant, TINY, 3)
        last = stages[-len(full) :]
        assert [stage.recipe for stage in stages] == [*variant.before, "contrast", "fusion"], name
        for mine, other in zip(last, full, strict=True):
            for key in ("steps", "batch_size", "seed", "peak_lr", "warmup", "fusion_share"):
                assert getattr(mine, key) == getattr(other, key), (name, key)
            assert mine.dataset.where == other.dataset.where
        if not variant.all:  # the first stages are then the same run, trained once
            assert to_dict(last[0]) == to_dict(full[0])
    runs = {name: tables.identity(TINY, variant, 3) for name, variant in tables.VARIANTS.items()}
    assert len(set(runs.values())) == len(runs)
    assert tables.identity(TINY, tables.VARIANTS["full"], 4) != runs["full"]


def test_intervals_are_students_t():
    mean, half = tables.interval([1.0, 2.0, 3.0])
    assert mean == 2.0
    assert half == pytest.approx(4.30265 / 3**0.5, abs=1e-4)  # s = 1, n = 3
    for values in ([0.41, 0.47], [0.2, 0.5, 0.3], [0.1, 0.4, 0.4, 0.9, 0.3, 0.2, 0.7, 0.8, 0.6, 0.5]):
        low, high = stats.t.interval(0.95, len(values) - 1, loc=sum(values) / len(values), scale=stats.sem(values))
        mean, half = tables.interval(values)
        assert (mean - half, mean + half) == pytest.approx((low, high), abs=1e-4)
    with pytest.raises(ValueError, match="11 values"):
        tables.interval([0.0] * 11)


@pytest.mark.parametrize(
    ("mine", "other", "verdict"),
    [
        ([0.50, 0.40, 0.30], [0.40, 0.31, 0.20], "agrees"),  # +10, +9, +10: larger by seed, though the ranges overlap
        ([0.40, 0.31, 0.20], [0.50, 0.40, 0.30], "disagrees"),
        ([0.50, 0.40, 0.30], [0.30, 0.40, 0.50], "cannot tell"),
    ],
)
def test_a_claim_is_judged_seed_by_seed(mine, other, verdict):
    rows = [[{"pairs.itc": value} for value in values] for values in (mine, other)]
    found = tables.claim("objectives", "full", "itc", *rows)
    assert found["verdict"] == verdict
    assert found["ok"] == (verdict == "agrees")
    assert found["value"] == pytest.approx(sum(mine) / 3 - sum(other) / 3, abs=1e-4)
    assert json.loads(json.dumps(found)) == found


def test_wrong_captions_are_those_of_other_pictures_and_no_caption_is_lost():
    rows = [{"id": str(i), "captions": [i], "group": None} for i in range(50)]
    out = tables.exchanged(rows, 0.4)
    assert sum(a["captions"] != b["captions"] for a, b in zip(rows, out, strict=True)) == 20
    assert sorted(row["captions"][0] for row in out) == list(range(50))
    assert [row["id"] for row in out] == [row["id"] for row in rows]
    assert tables.exchanged(rows, 0.0) == rows
    assert tables.exchanged(rows, 0.4) == out
