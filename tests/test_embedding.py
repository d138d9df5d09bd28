"""Vectors belong to their rows, to their encoder, and survive an interruption."""

import numpy as np
import pytest

from omma.embedding import embed
from omma.table import Table


@pytest.fixture
def table(coloured_table) -> Table:
    table = Table.open(coloured_table)
    captions = [{"text": "a red square", "language": "en"}]
    table.append([{"id": "broken", "bytes": b"", "captions": [], "status": "empty"},
                  {"id": "lying", "bytes": b"not a picture", "captions": captions, "status": "ok"}])  # fmt: skip
    return table


def vectors(table: Table, column: str) -> dict:
    return {row["id"]: row[column] for row in table.read(["id", column]).to_pylist()}


def test_each_row_gets_its_own_vector_and_a_bad_picture_none(table, colour_encoder):
    report = embed(table, colour_encoder, batch_size=5)
    found = vectors(table, "embed.colours")
    assert report.failed_rows == 0
    assert found["broken"] is None
    assert found["lying"] is None
    assert sum(v is not None for v in found.values()) == 24
    from omma.decode import open_picture

    for row in table.read(where="status == 'ok'").to_pylist()[:24]:
        expected = colour_encoder.encode_image([open_picture(row, table.uri).image])[0]
        np.testing.assert_allclose(found[row["id"]], expected, atol=1e-3)


def test_batch_size_changes_nothing(table, colour_encoder):
    embed(table, colour_encoder, batch_size=3, column="a")
    embed(table, colour_encoder, batch_size=64, column="b")
    assert vectors(table, "a") == vectors(table, "b")


def test_the_same_encoder_does_nothing_again_and_another_one_everything(table, colour_encoder):
    first = embed(table, colour_encoder)
    assert (first.chunks_done, first.chunks_reused) == (len(table.chunks), 0)
    again = embed(Table.open(table.uri), colour_encoder)
    assert (again.chunks_done, again.chunks_reused) == (0, len(table.chunks))
    colour_encoder.fingerprint = "colours-2"
    assert embed(Table.open(table.uri), colour_encoder).chunks_done == len(table.chunks)


def test_an_interrupted_run_redoes_at_most_one_chunk(coloured_table, colour_encoder, tmp_path):
    source = Table.open(coloured_table).read(["id", "bytes", "captions", "status"])
    table = Table.create(tmp_path / "chunks", "pictures", chunk_rows=6)
    table.append(source)
    real, calls = colour_encoder.encode_image, []

    def stops(images, batch_size=64):
        calls.append(len(images))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(images, batch_size)

    colour_encoder.encode_image = stops
    with pytest.raises(KeyboardInterrupt):
        embed(table, colour_encoder)
    assert "embed.colours" not in Table.open(table.uri).columns
    colour_encoder.encode_image = real
    report = embed(Table.open(table.uri), colour_encoder)
    assert (report.chunks_done, report.chunks_reused) == (2, 2)


def test_texts_are_embedded_as_the_mean_of_their_captions(table, colour_encoder):
    embed(table, colour_encoder, what="text")
    found = vectors(table, "embed.colours.text")
    np.testing.assert_allclose(found["p000"], [1, 0, 0], atol=1e-3)
    np.testing.assert_allclose(found["p002"], [0, 0, 1], atol=1e-3)
    assert found["broken"] is None


def test_what_cannot_be_embedded_is_refused(tmp_path, table, colour_encoder):
    items = Table.create(tmp_path / "items", "items")
    with pytest.raises(ValueError, match="is a table of items"):
        embed(items, colour_encoder)
    with pytest.raises(ValueError, match="what='audio'"):
        embed(table, colour_encoder, what="audio")  # type: ignore[arg-type]
