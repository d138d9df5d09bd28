"""The second look as a task: what the embeddings found first is put in order by the fusion encoder, no more."""

from types import SimpleNamespace

import numpy as np
import pytest
from fakes import Coin, Oracle, make_world

from omma.eval.run import evaluate
from omma.eval.tasks import rerank
from omma.models.rerank import rerank_scores


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"))


class Looks(Coin):
    """Embeds at random, and knows when it looks."""

    name, fingerprint = "looks", "l00c"

    def look(self, image, text):
        return Oracle.look(self, image, text)


def test_the_cosine_counts_as_much_as_in_the_contrast_that_was_trained():
    even, cosines = np.array([0.5, 0.5]), np.array([0.3, 0.2])
    np.testing.assert_allclose(rerank_scores(SimpleNamespace(logit_scale=20.0), even, cosines), [6.0, 4.0])
    np.testing.assert_allclose(rerank_scores(SimpleNamespace(), np.array([0.75, 0.5]), cosines), [np.log(3), 0.0])


def test_before_equals_the_task_retrieval(world):
    plain, twice = (evaluate(Coin(), task, data=world).rows.to_pylist() for task in ("retrieval", "rerank"))
    before = [row for row in twice if row["score_kind"] == "itc"]
    assert [row["credits"] for row in plain] == [row["credits"][:-1] for row in before]
    assert [row["top"] for row in plain] == [row["top"] for row in before]


def test_a_second_look_at_the_whole_gallery_finds_everything(world):
    scores = evaluate(Looks(), "rerank", data=world).metrics["scores"]
    before, after = (scores[kind]["model"]["t2i"] for kind in ("itc", "itm"))
    assert before["recall@1"]["value"] < 0.3
    assert after["recall@1"]["value"] == 1
    assert after["gained"] == pytest.approx(48 - before["recall@1"]["right"])
    assert after["lost"] == before["gained"] == before["lost"] == 0


def test_a_second_look_at_three_finds_what_was_among_the_first_three(world, monkeypatch):
    monkeypatch.setattr(rerank, "CANDIDATES", 3)
    eye = Looks()
    rows = evaluate(eye, "rerank", data=world).rows.to_pylist()
    mine = {kind: [r for r in rows if r["variant"] == "model" and r["score_kind"] == kind] for kind in ("itc", "itm")}
    assert len(mine["itm"]) == 24 + 48
    for before, after in zip(mine["itc"], mine["itm"], strict=True):
        rank = before["credits"][3]
        assert after["credits"][3] == (1 if rank <= 3 else rank)
    shown = {(row["item"], name) for row in mine["itm"] for name in row["top"]}
    assert len(shown) == 3 * len(mine["itm"])
    assert np.isfinite([score for row in rows for score in row["scores"]]).all()
