"""Blind pairs: what is asked for, what is left out and told, and the estimate from a sample of rows."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import omma
from omma.eval import blind
from omma.eval.blind import mine_blind_pairs, quantile, suggest_thresholds
from omma.table import Table


def eyes(n=200, seed=0):
    rng = np.random.default_rng(seed)
    which = rng.integers(n // 8, size=n)
    x = rng.standard_normal((n // 8, 12))[which] + 0.3 * rng.standard_normal((n, 12)) + 1
    return x, rng.standard_normal((n // 8, 10))[which] + rng.standard_normal((n, 10))


def listed(found):
    return [tuple(pair) for pair in found.pairs.tolist()]


def test_the_scores_are_the_cosines_and_the_strongest_pair_has_the_widest_gap():
    x, y = eyes()
    found = omma.mine_blind_pairs(x, y)
    assert len(found) > 20
    for vectors, scores in ((x, found.eye_scores), (y, found.reference_scores)):
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        i, j = found.pairs.T
        assert np.abs((unit[i] * unit[j]).sum(axis=1) - scores).max() < 1e-6
    order = found.strongest(5)
    assert len(order) == 5
    assert found.gaps[order[0]] == found.gaps.max()
    assert (np.diff(found.gaps[order]) <= 0).all()


def test_columns_of_a_table_give_what_arrays_give_and_bear_ids(tmp_path):
    x, y = eyes(60)
    table = Table.create(tmp_path / "t")
    table.append([{"id": f"p{k}", "bytes": str(k).encode()} for k in range(60)])
    table.add_column("embed.a", x.astype(np.float32))
    table.add_column("embed.b", y.astype(np.float32))
    found = mine_blind_pairs("embed.a", "embed.b", table=table)
    assert listed(found) == listed(mine_blind_pairs(x.astype(np.float32), y.astype(np.float32)))
    assert found.names(0) == tuple(f"p{k}" for k in found.pairs[0])
    with pytest.raises(ValueError, match=r"no vector column 'embed.c' .* vector columns are embed.a, embed.b"):
        mine_blind_pairs("embed.a", "embed.c", table=table)
    with pytest.raises(ValueError, match="give its table too"):
        mine_blind_pairs("embed.a", "embed.b")


def test_rows_without_a_vector_have_no_pairs_and_are_counted():
    x, y = eyes()
    hurt = x.copy()
    hurt[3], hurt[5] = np.nan, 0
    vectors = pa.array([None if k == 7 else row.tolist() for k, row in enumerate(y)], pa.list_(pa.float64(), 10))
    found = mine_blind_pairs(hurt, vectors)
    assert listed(found) == [p for p in listed(mine_blind_pairs(x, y)) if not {3, 5, 7} & set(p)]
    assert found.counts["without_vector"] == 3
    assert found.counts["compared"] == 197 * 196 // 2


def test_a_picture_that_comes_twice_is_looked_at_once(tmp_path):
    x, y = eyes(60)
    x, y = np.concatenate([x, x[:9]]), np.concatenate([y, y[:9]])
    once = mine_blind_pairs(x, y)
    assert listed(once) == listed(mine_blind_pairs(x[:60], y[:60]))
    assert once.counts["same_picture"] == 9
    assert mine_blind_pairs(x, y, distinct=False, near=None).counts["blind"] > once.counts["blind"]
    other = y.copy()
    other[60:] += 0.01                                                     # equal hashes, vectors that differ
    names = [str(k % 60) for k in range(69)]
    assert listed(mine_blind_pairs(x, other, pictures=names)) == listed(once)
    table = Table.create(tmp_path / "t")
    table.append([{"id": f"p{k}", "bytes": name.encode()} for k, name in enumerate(names)])
    assert mine_blind_pairs(x, other, table=table).counts["same_picture"] == 9


def test_pairs_between_two_groups_of_near_duplicates_are_listed_once_the_widest():
    rng = np.random.default_rng(0)
    one, other = np.eye(6)[0], np.eye(6)[1]
    x = np.concatenate([np.tile(one + 0.1 * other, (3, 1)), np.tile(one - 0.1 * other, (4, 1))])
    y = np.concatenate([np.tile(one, (3, 1)), np.tile(other, (4, 1))])
    x, y = x + 1e-3 * rng.standard_normal(x.shape), y + 1e-3 * rng.standard_normal(y.shape)
    every = mine_blind_pairs(x, y, near=None)
    assert every.counts["blind"] == len(every) == 12
    found = mine_blind_pairs(x, y)
    assert found.counts["repeated"] == 11
    assert found.gaps.tolist() == [every.gaps.max()]
    assert found.row_counts.tolist() == [4, 4, 4, 3, 3, 3, 3]


def test_thresholds_as_quantiles_let_through_their_share_of_pairs():
    x, y = eyes()
    found = mine_blind_pairs(x, y, "quantile:0.01", "quantile:0.5")
    assert found.counts["similar"] == round(0.01 * found.counts["compared"])
    assert mine_blind_pairs(y, x, "quantile:0.5", 1.0).counts["similar"] == found.counts["compared"] // 2
    assert found.asked["above"] == "quantile:0.01"
    assert found.asked["above_from_pairs"] == 199 * 100


def test_a_quantile_from_a_sample_of_rows_is_near_that_of_all_pairs(monkeypatch):
    x = blind.canonical(np.random.default_rng(0).standard_normal((1500, 6)))[0]
    exact, pairs = quantile(x, 0.01, "above")
    assert pairs == 1500 * 1499 // 2
    i, j = np.triu_indices(1500, 1)
    assert exact == pytest.approx(np.quantile((x @ x.T)[i, j], 0.99), abs=1e-4)
    monkeypatch.setattr(blind, "ENOUGH_PAIRS", 1000)
    sampled, pairs = quantile(x, 0.01, "above")
    assert 100_000 <= pairs < 150_000
    assert sampled == pytest.approx(exact, abs=0.02)


def test_suggestions_are_quantiles_of_both_eyes():
    x, y = eyes()
    told = suggest_thresholds(x, y)
    assert told["pairs"] == 199 * 100
    unit = y / np.linalg.norm(y, axis=1, keepdims=True)
    assert told["below"] == pytest.approx(np.median((unit @ unit.T)[np.triu_indices(200, 1)]), abs=1e-6)
    similar = mine_blind_pairs(x, y, told["above"], 1.0).counts["similar"]
    assert similar == pytest.approx(0.01 * told["pairs"], abs=1)           # 1e-2 is the rarest share with 100 pairs


def test_three_rows_have_suggestions_and_two_are_too_few():
    assert suggest_thresholds(np.eye(3), np.eye(3))["below"] == 0
    with pytest.raises(ValueError, match="2 rows have vectors of both eyes"):
        suggest_thresholds(np.eye(2), np.eye(2))


def test_the_rate_of_single_rows_is_on_average_that_of_all_pairs():
    x, y = eyes(40)
    found = mine_blind_pairs(x, y, near=None)
    part, _ = blind.run_join(blind.Join(*(blind.canonical(v)[0] for v in (x, y)), blind.canonical(x)[0],
                                        blind.Rule(0.95, 0.6)))  # fmt: skip
    values = [blind.rate(part, np.array([q]), 40)["value"] for q in range(40)]
    assert np.mean(values) == pytest.approx(found.counts["blind"] / found.counts["compared"])


def test_the_interval_of_a_sampled_rate_holds_the_true_one_about_as_often_as_it_says():
    x, y = eyes(400)
    whole = mine_blind_pairs(x, y, near=None)
    true = whole.counts["blind"] / whole.counts["compared"]
    every = np.zeros((400, 2), np.int64)
    every[:, 0] = np.arange(400)
    part = blind.Part(every, *np.zeros((2, 400)), np.arange(400), whole.row_counts, whole.row_counts,
                      np.zeros(0, int), np.zeros(0, int))  # fmt: skip
    rng = np.random.default_rng(0)
    told = [blind.rate(part, rng.choice(400, 80, replace=False), 400) for _ in range(400)]
    held = np.mean([one["low95"] <= true <= one["high95"] for one in told])
    assert 0.9 <= held <= 0.99


def test_a_sample_of_rows_lists_their_pairs_and_says_that_it_is_one():
    x, y = eyes()
    whole, found = mine_blind_pairs(x, y, near=None), mine_blind_pairs(x, y, near=None, sample=50, seed=3)
    assert whole.exact
    assert whole.rate is None
    assert not found.exact
    assert set(listed(found)) < set(listed(whole))
    assert found.counts["compared"] == 200 * 199 // 2 - 150 * 149 // 2
    assert found.rate["rows_drawn"] == 50
    assert found.rate["low95"] < whole.counts["blind"] / whole.counts["compared"] < found.rate["high95"]
    all_rows = mine_blind_pairs(x, y, near=None, sample=200)
    assert all_rows.exact


def test_many_rows_are_sampled_unless_all_are_asked_for(monkeypatch):
    x, y = eyes()
    monkeypatch.setattr(blind, "EXACT_ROWS", 150)
    monkeypatch.setattr(blind, "SAMPLE_ROWS", 20)
    assert mine_blind_pairs(x, y).rate["rows_drawn"] == 20
    assert mine_blind_pairs(x, y, exact=True).counts["compared"] == 199 * 100


def test_a_sample_without_any_pair_gives_no_upper_bound_of_the_rate_but_one_of_the_rows():
    x = np.eye(30)
    found = mine_blind_pairs(x, x, sample=10)
    assert (found.rate["value"], found.rate["high95"]) == (0, None)
    assert 0.2 < found.rate["rows_with_a_pair"]["high95"] < 0.4


def test_the_file_has_the_strongest_pair_first_and_says_how_it_was_made(tmp_path):
    x, y = eyes()
    found = mine_blind_pairs(x, y, out=tmp_path / "out")
    rows = pq.read_table(tmp_path / "out" / "pairs.parquet")
    assert rows["row_a"].to_pylist() == found.pairs[found.strongest(), 0].tolist()
    assert rows["eye"].to_pylist() == found.eye_scores[found.strongest()].tolist()
    about = json.loads(rows.schema.metadata[b"omma"])
    assert (about["above"], about["counts"]["listed"]) == (0.95, len(found))
    again = mine_blind_pairs(x, y, out=tmp_path / "out")
    assert again.work["reused"] == again.work["tasks"] == 1
    assert listed(again) == listed(found)
    assert mine_blind_pairs(x, y, 0.94, out=tmp_path / "out").work["reused"] == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"above": 1.5}, "above=1.5; a cosine lies between -1 and 1"),
        ({"above": "quantile:2"}, "a share of pairs"),
        ({"below": "half"}, "below='half'; give a cosine"),
        ({"per_row": 0}, "per_row=0: the least is 1"),
        ({"workers": "slurm"}, "workers='slurm'"),
        ({"pictures": ["a"]}, "1 hashes for 200 rows"),
        ({"reference": np.ones((3, 2))}, "200 rows and the reference 3"),
        ({"reference": np.ones(200)}, r"shape \(200,\)"),
    ],
)
def test_what_cannot_be_is_told(change, message):
    x, y = eyes()
    with pytest.raises(ValueError, match=message):
        mine_blind_pairs(**{"eye": x, "reference": y, **change})
