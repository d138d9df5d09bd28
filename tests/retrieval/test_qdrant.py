"""Engines behind the protocol, and an index that searches one of them instead of scanning: who is found, with the
scores of the exact scan."""

import contextlib
import sys
import types

import numpy as np
import pytest
from qdrant_served import qdrant_served

from omma.retrieval import qdrant
from omma.retrieval.qdrant import Mirror, QdrantEdge, QdrantServer, engine_at, recall
from omma.retrieval.store import Store

E = 16
pytestmark = pytest.mark.filterwarnings("ignore:Local mode performs exact")


def unit(n, seed):
    x = np.random.default_rng(seed).normal(size=(n, E)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.fixture(params=["edge", "memory", "http"])
def engine(request, tmp_path):
    with contextlib.ExitStack() as serving:
        if request.param == "edge":
            pytest.importorskip("qdrant_edge")
            made = QdrantEdge(tmp_path / "vectors.qdrant")
        else:
            address = serving.enter_context(qdrant_served())[0] if request.param == "http" else ":memory:"
            made = QdrantServer(address)
        yield made
        made.close()


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "index.db", create=True) as opened:
        opened.add_space("eye-1", "eye", "eye", E)
        with opened.writing() as con:
            con.execute("INSERT INTO file (id, source, path, status) VALUES (1, '/p', 'a', 'ok')")
            con.executemany("INSERT INTO item (id, file, kind) VALUES (?, 1, 'picture')", [(i,) for i in range(1, 121)])
        yield opened


def test_an_engine_keeps_finds_and_forgets_vectors(engine, monkeypatch):
    monkeypatch.setattr(qdrant, "BATCH", 40)                               # several requests
    rows = unit(100, 0)
    engine.upsert("eye-1", np.arange(100) + 7, rows)
    engine.upsert("eye-2", [1, 2], np.eye(2, 3))
    assert (engine.count("eye-1"), engine.count("eye-2")) == (100, 2)
    ((ids, scores),) = engine.search("eye-1", rows[30][None], 5, exact=True)
    known = rows @ rows[30]
    assert ids.tolist() == (np.argsort(-known)[:5] + 7).tolist()
    np.testing.assert_allclose(scores, np.sort(known)[::-1][:5], atol=1e-3)
    ((among, _),) = engine.search("eye-1", rows[30][None], 5, among=np.array([8, 9, 10]))
    assert set(among) == {8, 9, 10}
    np.testing.assert_allclose(engine.get("eye-1", [37, 999])[0], rows[30], atol=1e-3)
    assert np.isnan(engine.get("eye-1", [37, 999])[1]).all()
    assert engine.delete([37, 38, 1]) == 3
    assert set(engine.ids("eye-1")) == set(range(7, 107)) - {37, 38}
    engine.upsert("eye-1", [7], rows[30:31])
    assert engine.search("eye-1", rows[30][None], 1)[0][0].tolist() == [7]
    with pytest.raises(ValueError, match="no vectors of 'eye-3'"):
        engine.search("eye-3", rows[:1], 1)


def test_an_engine_that_many_vectors_come_to_says_how_far_it_is(store, tmp_path, monkeypatch, capsys):
    pytest.importorskip("qdrant_edge")
    rows = unit(40, 1)
    store.upsert("eye-1", list(range(1, 41)), rows)
    monkeypatch.setattr("omma.retrieval.qdrant.MANY", 40)
    for progress, told in ((True, True), (False, False)):
        with contextlib.closing(engine_at(tmp_path / str(progress))) as engine:
            assert Mirror(store, engine, progress).sync("eye-1") == 40
        said = capsys.readouterr()
        assert (("approximate index" in said.err and "40/40" in said.err and "its graph" in said.err), said.out) == (
            told, "")  # fmt: skip


def test_a_mirror_follows_the_store_and_scores_as_the_exact_scan_does(engine, store):
    rows, items = unit(120, 1), list(range(1, 121))
    mirror = Mirror(store, engine)
    assert mirror.search("eye-1", rows[:1], 3)[0][0].tolist() == []
    store.upsert("eye-1", items[:80], rows[:80])
    assert mirror.sync("eye-1") == 80
    assert mirror.sync("eye-1") == 0
    for query in unit(5, 2):
        ((ids, scores),) = mirror.search("eye-1", query[None], 10)
        ((known, known_scores),) = store.search("eye-1", query[None], 10)
        assert ids.tolist() == known.tolist()
        assert scores.tolist() == known_scores.tolist()
    store.delete(items[:20])
    store.upsert("eye-1", items[80:] + items[60:61], np.concatenate([rows[80:], rows[3:4]]))
    assert Mirror(store, engine).sync("eye-1") == 20 + 41                 # another process would go on there
    ((ids, _),) = mirror.search("eye-1", rows[3][None], 4)
    assert ids[0] == items[60]
    assert not set(ids) & set(items[:20])
    assert engine.count("eye-1") == 100


def test_a_folder_that_was_begun_and_killed_is_begun_again(tmp_path):
    pytest.importorskip("qdrant_edge")
    with_note = QdrantEdge(tmp_path)
    with_note.upsert("eye-1", [1], unit(1, 0))
    with_note.close()
    (note,) = tmp_path.glob("*.json")
    note.unlink()                                                          # it is written last
    again = QdrantEdge(tmp_path)
    with pytest.raises(ValueError, match="no vectors of 'eye-1'"):
        again.count("eye-1")
    again.upsert("eye-1", [1, 2], unit(2, 1))
    assert again.count("eye-1") == 2
    again.close()


@pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection")
def test_a_server_that_demands_a_key_gets_it_and_refuses_another_in_words(monkeypatch):
    monkeypatch.delenv("QDRANT_API_KEY", raising=False)
    with qdrant_served(key="of-this-server") as (address, served):
        for key in (None, "of-another"):
            with (contextlib.closing(QdrantServer(address, key)) as server,
                  pytest.raises(ValueError, match=r"no answer of Qdrant at .*401.*is its key.*in QDRANT_API_KEY")):
                server.upsert("eye-1", [1], unit(1, 0))
        assert served.client.get_collections().collections == []
        monkeypatch.setenv("QDRANT_API_KEY", "of-this-server")
        with contextlib.closing(engine_at(address)) as server:
            server.upsert("eye-1", [1, 2], unit(2, 0))
            assert server.count("eye-1") == 2


def test_a_server_that_goes_away_in_the_middle_is_told_and_brought_up_to_date_when_it_is_back(store, monkeypatch):
    monkeypatch.setattr(qdrant, "BATCH", 40)
    rows = unit(120, 1)
    store.upsert("eye-1", list(range(1, 121)), rows)
    with qdrant_served() as (address, served):
        server = engine_at(address)
        mirror, served.left = Mirror(store, server), 2                    # of three requests with points
        with pytest.raises(ValueError, match=rf"no answer of Qdrant at {address} \(.*Is it running there"):
            mirror.search("eye-1", rows[:1], 3)
        served.left = None
        assert server.count("eye-1") == 80
        ((ids, _),) = mirror.search("eye-1", rows[100][None], 1)
        assert ids.tolist() == [101]
        assert server.count("eye-1") == 120
    with pytest.raises(ValueError, match=rf"no answer of Qdrant at {address} \(.*refused"):
        mirror.engine.search("eye-1", rows[:1], 3)
    with qdrant_served(port=int(address.rpartition(":")[2]), served=served):
        store.delete([101])
        assert mirror.search("eye-1", rows[100][None], 1)[0][0].tolist() != [101]
        assert server.count("eye-1") == 119
    server.close()


def test_recall_is_the_share_of_the_truly_nearest_that_is_found(store):
    rows = unit(120, 3)
    store.upsert("eye-1", list(range(1, 121)), rows)
    assert recall(store, store, "eye-1", unit(20, 4)) == 1

    class Half:
        def search(self, space, queries, k):
            return [(ids[::2], scores[::2]) for ids, scores in store.search(space, queries, k)]

    assert recall(store, Half(), "eye-1", unit(20, 4)) == 0.5


def test_an_engine_that_is_not_installed_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "qdrant_edge", None)
    monkeypatch.setitem(sys.modules, "qdrant_client", None)
    for place in (tmp_path / "vectors", "http://localhost:6333"):
        with pytest.raises(ImportError, match=r"pip install 'omma\[qdrant\]'"):
            qdrant.engine_at(place)


def test_a_server_that_does_not_answer_is_told_and_gets_its_key(monkeypatch):
    client, exceptions = types.ModuleType("qdrant_client"), types.ModuleType("qdrant_client.http.exceptions")
    given = {}

    class ApiException(Exception):
        """As of qdrant-client: nobody there, or a reply that is none."""

    class QdrantClient:
        def __init__(self, location=None, **more):
            given.update(more)

        def collection_exists(self, name):
            raise ApiException("[Errno 111]\nConnection refused")

    vars(client).update(QdrantClient=QdrantClient, models=None)
    vars(exceptions).update(ApiException=ApiException)
    http = types.ModuleType("qdrant_client.http")
    for name, module in {"": client, ".http": http, ".http.exceptions": exceptions}.items():
        monkeypatch.setitem(sys.modules, f"qdrant_client{name}", module)
    monkeypatch.setenv("QDRANT_API_KEY", "of-mine")
    server = engine_at("http://127.0.0.1:9")
    assert given == {"url": "http://127.0.0.1:9", "api_key": "of-mine", "check_compatibility": False}
    with pytest.raises(ValueError, match=r"no answer of Qdrant at http://127.0.0.1:9 \(\[Errno 111\] Connection"):
        server.count("space")
