"""A linear probe against scipy's minimum, planted classes, and controls that must know nothing."""

from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import pytest
from fakes import make_world, number_in
from scipy.optimize import minimize

from omma.eval.run import evaluate
from omma.eval.task import Item
from omma.eval.tasks.linear_probe import FITTED, FOLDS, PENALTIES, fitted_probe, folds, regression
from omma.table import Table


class Parity:
    """An eye without words: odd numbers along one direction, noise along the others."""

    name, embed_dim, fingerprint = "parity", 12, "parity-1"

    def encode_image(self, images, batch_size=64):
        rows = np.stack([np.random.default_rng(abs(number_in(image))).normal(size=self.embed_dim) for image in images])
        rows[:, 3] = [3e-4 if number_in(image) % 2 else -3e-4 for image in images]  # small, and decisive
        return rows.astype(np.float32)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    made = Table.open(make_world(tmp_path_factory.mktemp("world"), pairs=20) / "pictures")
    numbers = [int(name[1:]) for name in made.read(["id"])["id"].to_pylist()]
    made.add_column("odd", ["odd" if n % 2 else "even" for n in numbers])
    made.add_column("rare", ["one" if n == 0 else "other" for n in numbers])
    return made


def test_the_regression_is_at_scipys_minimum():
    rng = np.random.default_rng(0)
    x, y, penalty = rng.normal(size=(60, 4)), rng.integers(0, 3, 60), 0.03

    def loss(flat):
        w, b = flat[:12].reshape(4, 3), flat[12:]
        z = x @ w + b
        nll = np.log(np.exp(z - z.max(1, keepdims=True)).sum(1)) + z.max(1) - z[np.arange(60), y]
        return nll.mean() + penalty / 2 * (w**2).sum()

    weights, bias = regression(x, y, 3, penalty)
    best = minimize(loss, np.zeros(15), tol=1e-12)
    assert loss(np.r_[weights.ravel(), bias]) == pytest.approx(best.fun, abs=1e-9)
    np.testing.assert_allclose(weights, best.x[:12].reshape(4, 3), atol=1e-4)


def test_the_scale_of_a_dimension_and_one_that_never_varies_change_no_answer():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(80, 5)), rng.integers(0, 2, 80)
    held = np.arange(80) % 5 == 0
    weights, bias = fitted_probe(x, y, held, 2)
    moved = np.c_[x * [1e3, 1e-3, 1, 7, 1] + 4, np.full(80, 2.5)]
    again, other = fitted_probe(moved, y, held, 2)
    np.testing.assert_allclose(x @ weights + bias, moved @ again + other, atol=1e-3)


def test_folds_keep_groups_whole_and_spread_every_class():
    asked = [Item(f"{n}-{k}", f"g{n}", "", (f"{n}-{k}",), (), "ab"[n % 2]) for n in range(20) for k in range(2)]
    found = folds(asked)
    assert (found[::2] == found[1::2]).all()
    for fold in range(FOLDS):
        told = [item.answer for item, place in zip(asked, found, strict=True) if place == fold]
        assert sorted(told) == list("aaaabbbb")


def test_what_is_planted_is_read_and_neither_grey_nor_strangers_pictures_help(table):
    report = evaluate(Parity(), "linear-probe", data=table, label="odd")
    model, blind, wrong = (report.metrics["scores"]["itc"][v]["top1"] for v in ("model", "blind", "wrong-image"))
    assert (model["value"], model["n"], model["chance"]) == (1.0, 120, 0.5)
    assert blind["value"] == pytest.approx(0.5, abs=0.1)
    assert not wrong["above_chance"]
    row = next(row for row in report.rows.to_pylist() if row["variant"] == "model")
    assert row["texts"] == []
    assert row["scores"][0] == max(row["scores"]) > 0.5
    assert "5 folds" in report.grids()[0].note


def test_how_far_the_fitting_is_can_be_seen(table, monkeypatch):
    seen = []

    @contextmanager
    def bars(show):
        yield lambda what, done, of: seen.append((what, done, of))

    monkeypatch.setattr("omma.eval.run.bars", bars)
    evaluate(Parity(), "linear-probe", data=table, label="odd")
    fits = FOLDS * (len(PENALTIES) + 1)
    told = [done for what, done, of in seen if (what, of) == ("classifiers", fits)]
    one = told[: told.index(fits) + 1]
    assert one == sorted(one)
    assert {0, 1, fits // 2, fits} <= set(one)
    assert told.count(fits) == 3                                                # the model and two controls


def test_the_split_train_is_fitted_on_and_never_told(table, tmp_path):
    copy = Table.create(tmp_path / "pictures", "pictures", extra=pa.schema([pa.field("odd", pa.string())]))
    rows = table.read(["id", "bytes", "status", "width", "height", "odd"]).to_pylist()
    copy.append([row | {"split": "train" if n % 3 else "test"} for n, row in enumerate(rows)])
    report = evaluate(Parity(), "linear-probe", data=copy, label="odd")
    found = report.metrics["scores"]["itc"]["model"]
    assert (found["n"], found["reasons"], found["top1"]["value"]) == (40, {FITTED: 80}, 1.0)
    assert "Fitted on 80 pictures of the split train." in report.grids()[0].note


def test_a_class_of_one_picture_is_missed(table):
    found = evaluate(Parity(), "linear-probe", data=table, label="rare").metrics["scores"]["itc"]["model"]
    assert found["classes"]["one"]["recall"]["value"] == 0
    assert found["classes"]["other"]["recall"]["value"] > 0.9


def test_columns_that_name_no_classes_are_refused(table):
    with pytest.raises(ValueError, match="no column 'nosuch'"):
        evaluate(Parity(), "linear-probe", data=table, label="nosuch")
