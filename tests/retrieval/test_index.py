"""The exact scan against brute force, and what it says when it can't search."""

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from omma.embedding import embed
from omma.retrieval import index
from omma.retrieval.index import Hit, search
from omma.table import Table

E = 24


class Eye:
    """A query's vector is the one it is given; a picture's is that of its first pixel's red."""

    name, embed_dim = "eye", E

    def __init__(self, vectors):
        self.vectors = vectors

    def encode_text(self, texts, batch_size=64):
        return np.array([self.vectors[int(text)] for text in texts])

    def encode_image(self, images, batch_size=64):
        return np.array([self.vectors[image.getpixel((0, 0))[0]] for image in images])


def table_of(folder, vectors, column="embed.eye"):
    table = Table.create(folder, chunk_rows=13)
    table.append([{"id": f"p{n}", "split": "odd" if n % 2 else "even", "width": n} for n in range(len(vectors))])
    values = [None if vector is None else vector.astype(np.float16) for vector in vectors]
    table.add_column(column, pa.array(values, type=pa.list_(pa.float16(), E)))
    return table


def unit(rng, n):
    x = rng.normal(size=(n, E)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.fixture
def queries():
    return unit(np.random.default_rng(1), 5)


@pytest.mark.parametrize("block_rows", [1, 7, 16_384])
def test_the_scan_finds_what_brute_force_finds_whatever_the_block(tmp_path, queries, monkeypatch, block_rows):
    monkeypatch.setattr(index, "BLOCK_ROWS", block_rows)
    vectors = unit(np.random.default_rng(0), 60)
    vectors[40:] = vectors[:20]                                            # every tie: the lower row first
    table = table_of(tmp_path / "t", list(vectors))
    stored = vectors.astype(np.float16).astype(np.float64)
    for n, query in enumerate(queries):
        known = np.array([(row * query.astype(np.float64)).sum() for row in stored]).astype(np.float32)
        order = np.argsort(-known, kind="stable")[:9]
        found = search(table, str(n), encoder=Eye(queries), k=9)
        assert [hit.id for hit in found] == [f"p{row}" for row in order]
        assert [hit.score for hit in found] == known[order].tolist()


def test_equal_rows_come_in_the_tables_order(tmp_path, queries):
    table = table_of(tmp_path / "t", [queries[0]] * 40)
    assert [hit.id for hit in search(table, "0", encoder=Eye(queries), k=5)] == ["p0", "p1", "p2", "p3", "p4"]


def test_rows_whose_sums_are_equal_tie_whatever_the_order_of_their_numbers(tmp_path):
    """The scan's fp32 sum depends on that order; what could be among the k is summed again in fp64."""
    rng = np.random.default_rng(0)
    first = unit(rng, 1)[0].astype(np.float16).astype(np.float32)
    table = table_of(tmp_path / "t", [first, *(rng.permutation(first) for _ in range(60))])
    eye = Eye(np.full((1, E), E**-0.5, np.float32))
    rough = np.stack(table.read(["embed.eye"])["embed.eye"].to_pylist()).astype(np.float32) @ eye.vectors[0]
    assert rough[0] < rough.max(), "the rough sum alone would leave it out"
    assert [hit.id for hit in search(table, "0", encoder=eye, k=3)] == ["p0", "p1", "p2"]


def test_a_vector_that_is_not_finite_is_never_found_and_hides_no_other(tmp_path, queries):
    broken, endless = np.full(E, np.nan, np.float32), np.full(E, np.inf, np.float32)
    table = table_of(tmp_path / "t", [broken, queries[1], queries[0], broken, endless, queries[2]])
    found = search(table, "0", encoder=Eye(queries), k=2)
    assert found[0].id == "p2"
    assert {hit.id for hit in search(table, "0", encoder=Eye(queries), k=6)} == {"p1", "p2", "p5"}
    assert len(found) == 2


def test_a_hit_carries_its_row_without_the_vectors(tmp_path, queries):
    table = table_of(tmp_path / "t", list(queries))
    found = search(table, "3", encoder=Eye(queries), k=1)
    assert isinstance(found[0], Hit)
    assert (found[0].id, found[0].row["width"], found[0].row["split"]) == ("p3", 3, "odd")
    assert found[0].score == pytest.approx(1, abs=1e-3)
    assert "embed.eye" not in found[0].row


def test_a_picture_is_a_query_too(tmp_path, queries):
    table = table_of(tmp_path / "t", list(queries))
    picture = Image.new("RGBA", (4, 4), (2, 0, 0, 255))
    assert search(table, picture, encoder=Eye(queries), k=1)[0].id == "p2"


def test_rows_without_a_vector_are_passed_over(tmp_path, queries):
    table = table_of(tmp_path / "t", [None, queries[0], None, queries[1], None])
    assert {hit.id for hit in search(table, "0", encoder=Eye(queries), k=10)} == {"p1", "p3"}
    empty = table_of(tmp_path / "none", [None, None])
    assert search(empty, "0", encoder=Eye(queries)) == []


def test_where_and_views_narrow_the_search(tmp_path, queries):
    table = table_of(tmp_path / "t", [queries[0]] * 10)
    assert [hit.id for hit in search(table, "0", encoder=Eye(queries), k=2, where="split == 'odd'")] == ["p1", "p3"]
    assert [hit.id for hit in search(table.select("width >= 4"), "0", encoder=Eye(queries), k=2)] == ["p4", "p5"]


def test_a_missing_column_names_the_command_that_makes_it(tmp_path, queries):
    table = table_of(tmp_path / "t", list(queries), column="embed.other")
    with pytest.raises(ValueError, match=r"no column 'embed\.eye'.*embed\.other.*omma embed .*t --encoder eye"):
        search(table, "0", encoder=Eye(queries))
    assert search(table, "0", encoder=Eye(queries), column="embed.other")[0].id == "p0"


def test_vectors_of_other_weights_are_refused_where_the_column_says_whose_they_are(coloured_table, colour_encoder):
    table = Table.open(coloured_table)
    embed(table, colour_encoder)
    assert len(search(table, "red", encoder=colour_encoder, k=3)) == 3
    colour_encoder.fingerprint = "colours-2"
    command = r"omma embed .*coloured --encoder colours"
    for rows in (table, table.select("width == 24")):
        with pytest.raises(ValueError, match=rf"another encoder or other weights: 'colours' .*colours-1.*{command}"):
            search(rows, "red", encoder=colour_encoder)


def test_vectors_of_another_width_are_refused(tmp_path, queries):
    table = table_of(tmp_path / "t", list(queries))
    with pytest.raises(ValueError, match="makes vectors of 8"):
        search(table, "0", encoder=Eye(queries[:, :8]))
    with pytest.raises(ValueError, match="not finite"):
        search(table, "0", encoder=Eye(queries * np.nan))
    with pytest.raises(ValueError, match="the query is empty"):
        search(table, " ", encoder=Eye(queries))
    with pytest.raises(ValueError, match="k=0"):
        search(table, "0", encoder=Eye(queries), k=0)
