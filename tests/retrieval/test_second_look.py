"""Search with a second look: the fusion encoder puts the first hits in order, and says when it can't."""

import numpy as np
import pytest

from omma.embedding import embed
from omma.models.rerank import rerank_scores
from omma.retrieval.index import search
from omma.table import Table


@pytest.fixture
def table(coloured_table, colour_encoder):
    opened = Table.open(coloured_table)
    embed(opened, colour_encoder)
    return opened


class Backwards:
    """Finds by colour; its second look likes best what was found last. Counts the pairs it is asked about."""

    def __init__(self, eye):
        self.eye, self.asked = eye, []
        self.name, self.embed_dim, self.fingerprint = eye.name, eye.embed_dim, eye.fingerprint
        self.encode_text, self.encode_image = eye.encode_text, eye.encode_image

    def match(self, images, texts, batch_size=64):
        self.asked += texts
        return 1 - self.eye.match(images, texts)


def test_a_second_look_orders_the_first_hits_and_no_others(table, colour_encoder):
    eye = Backwards(colour_encoder)
    plain = search(table, "red", encoder=eye, k=18)
    again = search(table, "red", encoder=eye, k=18, rerank=18)
    assert eye.asked == ["red"] * 18
    assert {hit.id for hit in again} == {hit.id for hit in plain}
    assert [hit.id for hit in again] != [hit.id for hit in plain]
    scores = [hit.score for hit in again]
    assert scores == sorted(scores, reverse=True)
    few = search(table, "red", encoder=eye, k=3, rerank=18)
    assert [hit.id for hit in few] == [hit.id for hit in again[:3]]


def test_as_many_as_there_are_is_no_error_and_none_leaves_the_search_as_it_was(table, colour_encoder):
    eye = Backwards(colour_encoder)
    assert len(search(table, "red", encoder=eye, k=3, rerank=100)) == 3
    assert len(eye.asked) == table.num_rows
    assert search(table, "red", encoder=eye, k=3, rerank=0) == search(table, "red", encoder=colour_encoder, k=3)


def test_a_second_look_that_cannot_be_had_says_why(table, colour_encoder, colour_pictures):
    eye = Backwards(colour_encoder)
    with pytest.raises(ValueError, match="rerank=4 is less than k=5"):
        search(table, "red", encoder=eye, k=5, rerank=4)
    with pytest.raises(ValueError, match="this query is a picture"):
        search(table, colour_pictures["red"], encoder=eye, k=5, rerank=5)
    eye.name = "dual"
    del Backwards.match
    with pytest.raises(ValueError, match="encoder 'dual' has no match"):
        search(table, "red", encoder=eye, k=5, rerank=5)


def test_the_score_is_log_odds_plus_scaled_cosine():
    class Eye:
        logit_scale = 20.0

    scores = rerank_scores(Eye(), np.array([0.5, 0.75, 1.0]), np.array([0.5, 0.25, 0.0]))
    np.testing.assert_allclose(scores, [10, np.log(3) + 5, np.log(2**25 - 1)])
    np.testing.assert_allclose(rerank_scores(object(), np.array([0.5]), np.array([0.9])), [0])
