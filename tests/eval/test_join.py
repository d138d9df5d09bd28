"""The exact join against all pairs written out, whatever its tiles, and its parts after a kill."""

import itertools
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from omma.eval import join as joining
from omma.eval.join import Join, Rule, canonical, cosines, heads, join_panels, leading_directions, run_join, strongest


def eyes(n=200, d=40, d2=24, seed=0):
    """Rows in clusters around one mean, as those of a contrastive eye are, and a reference that half agrees."""
    rng = np.random.default_rng(seed)
    which = rng.integers(n // 8, size=n)
    spectrum = np.arange(1, d + 1) ** -0.6
    x = rng.standard_normal((n // 8, d))[which] * spectrum + 0.5 * rng.standard_normal((n, d)) * spectrum + 0.7
    y = rng.standard_normal((n // 8, d2))[which] + rng.standard_normal((n, d2))
    return canonical(x)[0], canonical(y)[0]


def slow(c, r, above, below):
    """All pairs one by one, in fp64."""
    s, t = c.astype(float) @ c.T.astype(float), r.astype(float) @ r.T.astype(float)
    return [(i, j) for i, j in itertools.combinations(range(len(c)), 2) if s[i, j] > above and t[i, j] < below]


def join_of(c, r, k=None, panel=128, queries=None, **rule):
    rule = Rule(**{"above": 0.95, "below": 0.6, **rule})
    return Join(c, r, c if k is None else heads(c, leading_directions(c, k)), rule, panel, queries)


@pytest.fixture
def small_tiles(monkeypatch):
    monkeypatch.setattr(joining, "TILE", (24, 64))
    monkeypatch.setattr(joining, "VERIFY", 7)


@pytest.mark.parametrize("k", [None, 2, 8])
@pytest.mark.parametrize("panel", [50, 1000])
def test_the_pairs_are_those_of_all_pairs_written_out(small_tiles, k, panel):
    c, r = eyes()
    found, _ = run_join(join_of(c, r, k, panel))
    wanted = slow(c, r, 0.95, 0.6)
    assert 30 < len(wanted) < 2000
    assert found.pairs.tolist() == [list(pair) for pair in wanted]
    assert found.blind == len(wanted)
    assert found.similar == len(slow(c, r, 0.95, 2.0))


def test_no_pair_has_a_product_above_its_bound():
    c, _ = eyes(200)
    exact = c.astype(float) @ c.T.astype(float)
    for k in (1, 8, 30):
        head = heads(c, leading_directions(c, k)).astype(float)
        assert (head @ head.T - exact).min() > -4 * joining.U
    assert (head @ head.T - exact).max() < 0.5, "with 30 of 40 directions the bound is near"


def test_a_cosine_equal_to_the_threshold_is_neither_above_nor_below():
    unit = np.zeros((3, 8), np.float32)
    unit[0, 0] = unit[2, 1] = 1
    unit[1, :4] = 0.5                                                      # cosine 1/2 with the others, exactly
    other = np.float32([[1, 0], [0, 1], [-1, 0]])
    assert run_join(join_of(unit, other, above=0.5, below=0.6))[0].pairs.tolist() == []
    assert run_join(join_of(unit, other, above=np.nextafter(0.5, 0), below=0.6))[0].pairs.tolist() == [[0, 1], [1, 2]]
    assert run_join(join_of(unit, unit, above=0.4, below=0.5))[0].pairs.tolist() == []


def test_a_decision_near_the_threshold_is_that_of_the_exact_sum():
    x = np.float32([[1, 2**-12, 2**-12, -(2**-12)]])
    y = np.float32([[1, 2**-12, 2**-12, 2**-11]])
    assert cosines(x, y, 1.0)[0] == 1.0                                    # 2^-24 + 2^-24 - 2^-23 cancels


def test_a_row_is_scored_alike_whatever_stands_beside_it():
    c, _ = eyes()
    i, j = np.triu_indices(60, 1)
    together = cosines(c[i], c[j], 0.9)
    assert together.tolist() == [cosines(c[i[k : k + 1]], c[j[k : k + 1]], 0.9)[0] for k in range(len(i))]


@pytest.mark.parametrize("cap", [1, 3])
def test_the_cap_keeps_the_widest_gaps_whatever_the_tiles_and_counts_all(small_tiles, cap):
    c, r = eyes(120, seed=1)
    c[20:60] = canonical(c[20] + 1e-3 * np.random.default_rng(0).standard_normal((40, c.shape[1])))[0]
    whole, _ = run_join(join_of(c, r, panel=1000, per_row=1000))
    gaps = whole.eye - whole.reference
    kept = set()
    for row in range(len(c)):
        mine = [k for k, pair in enumerate(whole.pairs.tolist()) if row in pair]
        kept |= set(sorted(mine, key=lambda k: (-gaps[k], *whole.pairs[k]))[:cap])
    for panel in (30, 64, 1000):
        capped, _ = run_join(join_of(c, r, panel=panel, per_row=cap))
        assert capped.pairs.tolist() == [whole.pairs[k].tolist() for k in sorted(kept)]
        assert capped.blind == whole.blind > len(kept)
        assert capped.row_blind.tolist() == whole.row_blind.tolist()
        assert capped.row_blind.sum() == 2 * whole.blind


def test_a_crowd_of_near_duplicates_leaves_a_list_as_long_as_its_rows():
    rng = np.random.default_rng(0)
    c = canonical(np.ones((600, 8)) + 1e-4 * rng.standard_normal((600, 8)))[0]
    r = canonical(rng.standard_normal((600, 16)))[0]
    found, _ = run_join(join_of(c, r, per_row=2))
    assert found.blind > 170_000
    assert len(found.pairs) <= 2 * 600


def test_a_pair_that_both_its_rows_have_wider_ones_than_is_crowded_out_whichever_row_comes_first():
    i, j, gap = np.array([0, 1, 2]), np.array([1, 2, 3]), np.array([0.9, 0.1, 0.9])
    assert strongest(i, j, gap, 1).tolist() == [0, 2]
    assert strongest(i, j, gap, 2).tolist() == [0, 1, 2]


def test_strongest_of_a_union_is_strongest_of_the_strongest():
    rng = np.random.default_rng(0)
    i, j = np.triu_indices(30, 1)
    gap = rng.integers(5, size=len(i)) / 5                                 # many ties
    half = rng.random(len(i)) < 0.5
    parts = np.concatenate([np.flatnonzero(side)[strongest(i[side], j[side], gap[side], 2)] for side in (half, ~half)])
    again = parts[strongest(i[parts], j[parts], gap[parts], 2)]
    assert again.tolist() == strongest(i, j, gap, 2).tolist()


def test_rows_that_are_asked_find_all_their_pairs_and_each_pair_once(small_tiles):
    c, r = eyes()
    queries = np.array([3, 4, 50, 51, 120, 121, 122, 199])
    wanted = [pair for pair in slow(c, r, 0.95, 0.6) if set(pair) & set(queries.tolist())]
    join = join_of(c, r, 6, 64, queries)
    found, _ = run_join(join)
    assert found.pairs.tolist() == [list(pair) for pair in wanted]
    assert found.blind == len(wanted)
    assert join.num_pairs == sum(1 for p in itertools.combinations(range(200), 2) if set(p) & set(queries.tolist()))
    per_query = {q: sum(q in pair for pair in wanted) for q in queries.tolist()}
    assert dict(zip(found.rows.tolist(), found.row_blind.tolist(), strict=True)).items() <= per_query.items()


def test_rows_without_length_or_not_finite_are_zeros_and_told():
    rows = np.array([[3.0, 4.0], [0, 0], [np.nan, 1], [np.inf, 1], [1e300, 0], [1e-300, 1e-300], [-2, 0]])
    unit, usable = canonical(rows)
    assert usable.tolist() == [True, False, False, False, True, True, True]
    assert np.allclose(unit[usable], [[0.6, 0.8], [1, 0], [0.5**0.5, 0.5**0.5], [-1, 0]])
    assert not unit[~usable].any()


# ------------------------------------------------------------------------------------------------ parts and processes
def test_finished_parts_are_reused_and_a_damaged_one_is_made_again(tmp_path, monkeypatch):
    c, r = eyes()
    join = join_of(c, r, 6, 70)
    whole, _ = run_join(join)
    first, reused = run_join(join, tmp_path)
    assert reused == 0
    (tmp_path / "part-00000-00001.npz").write_bytes(b"PK cut off")
    (tmp_path / "part-00001-00002.npz").unlink()
    made = []
    real = join_panels
    monkeypatch.setattr(joining, "join_panels", lambda join, a, b: made.append((a, b)) or real(join, a, b))
    again, reused = run_join(join, tmp_path)
    assert made == [(0, 1), (1, 2)]
    assert reused == 4
    for found in (first, again):
        assert found.pairs.tolist() == whole.pairs.tolist()
        assert found.eye.tolist() == whole.eye.tolist()
        assert (found.left, found.similar, found.blind) == (whole.left, whole.similar, whole.blind)


def test_processes_find_what_one_finds(tmp_path):
    c, r = eyes()
    join = join_of(c, r, 6, 160)
    found, _ = run_join(join, tmp_path, workers=2)
    assert found.pairs.tolist() == run_join(join)[0].pairs.tolist()
    assert found.row_blind.tolist() == run_join(join)[0].row_blind.tolist()


def test_a_ray_cluster_finds_what_one_process_finds(tmp_path):
    pytest.importorskip("ray")
    c, r = eyes()
    join = join_of(c, r, 6, 160)
    assert run_join(join, tmp_path, workers="ray")[0].pairs.tolist() == run_join(join)[0].pairs.tolist()


def test_without_ray_a_ray_run_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    c, r = eyes(40)
    with pytest.raises(ValueError, match=r"pip install 'omma\[ray\]'"):
        run_join(join_of(c, r), tmp_path, workers="ray")


KILLED = """
import sys, time
from pathlib import Path
from omma.eval import join
real = join.join_panels
def slow(*task):
    time.sleep(0.15)
    return real(*task)
join.join_panels = slow
folder = Path(sys.argv[1])
join.run_join(join.load_join(str(folder / "rows")), folder / "parts")
"""


def test_what_was_killed_goes_on_with_the_tasks_that_are_missing(tmp_path):
    c, r = eyes()
    join = join_of(c, r, 6, 60)
    (tmp_path / "rows").mkdir()
    joining.save_join(join, tmp_path / "rows")
    running = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)])
    while not list((tmp_path / "parts").glob("part-*.npz")) and running.poll() is None:
        time.sleep(0.01)
    os.kill(running.pid, signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    there = len(list((tmp_path / "parts").glob("part-*.npz")))
    found, reused = run_join(join, tmp_path / "parts")
    assert 0 < reused == there < len(join.tasks)
    assert found.pairs.tolist() == run_join(join)[0].pairs.tolist()
