"""The exact scan against a plain loop in fp64, in every way that it can take."""

import numpy as np
import pytest
import torch

from omma.retrieval.scan import BLOCK, WAYS, ExactScan, fastest_way, onednn, packed


def unit(rng, *shape):
    x = rng.normal(size=shape).astype(np.float32)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def plain(ids, rows, query, k, among=None):
    """By the definition: every inner product, sorted by score and then by id."""
    scores = (rows.astype(np.float64) * query).sum(axis=1).astype(np.float32)
    counted = np.ones(len(ids), bool) if among is None else among
    counted = counted & np.isfinite(scores)
    order = [i for i in np.lexsort((ids, -scores)) if counted[i]][:k]
    return ids[order], scores[order]


def clustered(rng, n, width):
    """Rows of a cone with many near neighbours, as an eye makes them."""
    centres = rng.normal(size=(9, width))
    return unit_rows(centres[rng.integers(9, size=n)] + 0.05 * rng.normal(size=(n, width)) + 1).astype(np.float16)


def unit_rows(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.mark.parametrize("queries", [1, 5])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("width", [3, 64, 129])
def test_every_way_finds_what_a_plain_loop_finds(way, width, queries):
    rng = np.random.default_rng(width)
    rows = clustered(rng, 3 * BLOCK + 7, width)
    rows[50:60], rows[70] = rows[40:50], np.nan
    ids = rng.permutation(10_000)[: len(rows)]
    scan = ExactScan(width, way)
    scan.set(ids, rows)
    asked = unit(rng, queries, width) + 2 * rows[:queries].astype(np.float32)
    for query, (found, scores) in zip(asked, scan.search(asked, 20), strict=True):
        known, known_scores = plain(ids, rows, query, 20)
        assert found.tolist() == known.tolist()
        assert scores.tolist() == known_scores.tolist()


@pytest.mark.parametrize("way", WAYS)
def test_rows_that_half_precision_cannot_tell_apart_are_told_apart(way):
    """The rows differ by one rounding of fp16 in one number; a query sees that in the fifth digit."""
    rng = np.random.default_rng(0)
    first = unit(rng, 64).astype(np.float16)
    rows = np.tile(first, (600, 1))
    rows[:, 5] = np.nextafter(rows[:, 5], np.float16(9))
    rows[411] = first
    query = first.astype(np.float32)
    query[5] = -4
    scan = ExactScan(64, way)
    scan.set(np.arange(600), rows)
    ((found, _),) = scan.search(query[None], 2)
    assert found.tolist() == plain(np.arange(600), rows, query, 2)[0].tolist()
    assert found[0] == (411 if first[5] < rows[0, 5] else 0)


@pytest.mark.parametrize("share", [0.02, 0.6])
def test_only_rows_that_count_are_found(share):
    rng = np.random.default_rng(1)
    rows, ids = clustered(rng, 900, 16), np.arange(900) * 3
    among = rng.random(900) < share
    query = unit(rng, 1, 16)
    scan = ExactScan(16)
    scan.set(ids, rows)
    ((found, _),) = scan.search(query, 10, among)
    assert found.tolist() == plain(ids, rows, query[0], 10, among)[0].tolist()


def test_fewer_rows_than_asked_for_are_all_found_and_none_is_no_error():
    rows = np.eye(4, dtype=np.float16)
    scan = ExactScan(4)
    assert scan.search(np.ones((1, 4)), 3)[0][0].tolist() == []
    scan.set(np.array([7, 5, 6, 4]), rows)
    assert scan.search(np.array([[1, 3, 2, 0]]), 9)[0][0].tolist() == [5, 6, 7, 4]
    assert scan.search(np.ones((1, 4)), 2, np.zeros(4, bool))[0][0].tolist() == []


@pytest.mark.parametrize("laid_out", [True, False])
def test_rows_in_bf16_are_multiplied_alike_with_and_without_onednn(monkeypatch, laid_out):
    if laid_out and not onednn():
        pytest.skip("this PyTorch lays out no rows for oneDNN")
    monkeypatch.setattr("omma.retrieval.scan.onednn", lambda: laid_out)
    rng = np.random.default_rng(3)
    rows, asked = (torch.from_numpy(unit(rng, n, 48).astype(np.float32)) for n in (70, 9))
    product = packed(rows)
    known = asked.bfloat16().double() @ rows.bfloat16().double().T
    for queries in (1, 9):
        found = product(asked[:queries].bfloat16())
        assert (found.shape, found.dtype) == ((queries, 70), torch.bfloat16)
        np.testing.assert_allclose(found.float(), known[:queries], atol=2**-8)
    scan = ExactScan(48, "bfloat16")
    scan.set(np.arange(70), rows.numpy().astype(np.float16))
    for query, (found, _) in zip(asked.numpy(), scan.search(asked.numpy(), 5), strict=True):
        assert found.tolist() == plain(np.arange(70), rows.numpy().astype(np.float16), query, 5)[0].tolist()


def test_the_way_that_is_fastest_here_is_one_there_is():
    assert fastest_way() in WAYS
