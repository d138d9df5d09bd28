"""Vectors in Qdrant, behind the protocol of `store.VectorStore`: an approximate index for more items than a scan takes,
inside this process (qdrant-edge) or on a server.

    index = Index.open(vectors="vectors.qdrant")              # a folder; or the address of a server, http://...

The graph is HNSW (Malkov & Yashunin 2018); Qdrant normalises vectors, so scores are cosines. The SQLite file stays the
truth: `Mirror` copies what is new to Qdrant and scores what that finds again. A folder belongs to one process at a
time.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from omma.jobs import progress_bar
from omma.retrieval.store import Store, VectorStore
from omma.storage import make_folder, publish

EF = 128               # how many candidates a search keeps in the graph
BATCH = 500            # points of a request
MANY = 10_000          # vectors that come to an engine in more than a moment
SURPLUS = 2            # times k that are fetched, since what is scored again may change places
INSTALL = "pip install 'omma[qdrant]'"
Ids = Sequence[int] | np.ndarray


class QdrantEdge:
    """A folder with a shard a space, read and written by this process."""

    def __init__(self, folder: str | Path):
        """Raises ImportError when qdrant-edge-py is not installed."""
        try:
            import qdrant_edge
        except ImportError:
            raise ImportError(f"{folder} would be a folder of qdrant-edge, which is not installed: {INSTALL}") from None
        self._edge: Any = qdrant_edge
        self.folder = Path(folder)
        self._shards: dict[str, Any] = {}

    def close(self) -> None:
        for shard in self._shards.values():
            shard.close()
        self._shards.clear()

    def upsert(self, space: str, ids: Ids, vectors: np.ndarray) -> None:
        shard = self._shard(space, np.shape(vectors)[1])
        for part in parts(len(ids)):
            points = [self._edge.Point(id=int(item), vector=row.tolist())
                      for item, row in zip(ids[part], np.asarray(vectors[part], np.float32), strict=True)]
            shard.update(self._edge.UpdateOperation.upsert_points(points))
        shard.flush()

    def delete(self, ids: Ids) -> int:
        gone = 0
        for shard in self._all():
            before = shard.count(self._edge.CountRequest())
            shard.update(self._edge.UpdateOperation.delete_points([int(item) for item in ids]))
            shard.flush()
            gone += before - shard.count(self._edge.CountRequest())
        return gone

    def search(self, space: str, queries: np.ndarray, k: int, among: np.ndarray | None = None, exact: bool = False
               ) -> list[tuple[np.ndarray, np.ndarray]]:
        edge, shard = self._edge, self._shard(space)
        only = None if among is None else edge.Filter(must=[edge.HasIdCondition({int(item) for item in among})])
        requests = [edge.SearchRequest(edge.Query.Nearest(query.tolist()), k, filter=only, params=edge.SearchParams(
            hnsw_ef=max(EF, k), exact=exact)) for query in np.asarray(queries, np.float32)]
        return [as_arrays(shard.search(request)) for request in requests]

    def get(self, space: str, ids: Ids) -> np.ndarray:
        found = self._shard(space).retrieve([int(item) for item in ids], with_payload=False, with_vector=True)
        return filled(ids, found, json.loads(self._place(space, ".json").read_text())[1])

    def count(self, space: str) -> int:
        return self._shard(space).count(self._edge.CountRequest())

    def ids(self, space: str) -> np.ndarray:
        """(n,) of all vectors in a space."""
        found, offset = [], None
        while True:
            records, offset = self._shard(space).scroll(self._edge.ScrollRequest(
                offset=offset, limit=10_000, with_payload=False, with_vector=False))
            found += [record.id for record in records]
            if offset is None:
                return np.array(found, np.int64)

    def optimize(self, space: str) -> None:
        """Build the graph over what came since the last time; until then that is scanned. Minutes for a million."""
        self._shard(space).optimize()

    def _place(self, space: str, ending: str = "") -> Path:
        return self.folder / (hashlib.blake2b(space.encode(), digest_size=8).hexdigest() + ending)

    def _all(self) -> Iterator[Any]:
        for path in sorted(self.folder.glob("*.json")):
            yield self._shard(json.loads(path.read_text())[0])

    def _shard(self, space: str, width: int | None = None) -> Any:
        """Of a space; width: make it if it isn't there."""
        if space not in self._shards:
            edge, place, note = self._edge, self._place(space), self._place(space, ".json")
            if note.is_file():
                self._shards[space] = edge.EdgeShard.load(str(place))
            elif width is None:
                raise ValueError(f"no vectors of {space!r} in {self.folder}")
            else:
                shutil.rmtree(place, ignore_errors=True)  # begun and killed: without its note it holds nothing yet
                make_folder(place)
                self._shards[space] = edge.EdgeShard.create(str(place), edge.EdgeConfig(
                    vectors=edge.EdgeVectorParams(size=width, distance=edge.Distance.Cosine)))
                publish(note, json.dumps([space, width]).encode())
        return self._shards[space]


class QdrantServer:
    """A Qdrant server by its address, a collection a space; several processes and machines may use it."""

    def __init__(self, url: str, api_key: str | None = None):
        """url: its address, ":memory:" for one inside this process (to try things); api_key: else QDRANT_API_KEY.
        Raises ImportError when qdrant-client is not installed; whatever is asked, ValueError when nobody answers."""
        try:
            import qdrant_client  # pyright: ignore[reportMissingImports]
            from qdrant_client import models  # pyright: ignore[reportMissingImports]
            from qdrant_client.http.exceptions import ApiException  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise ImportError(f"{url} would be a server, and qdrant-client is not installed: {INSTALL}") from None
        self.url, self._models = url, models
        key = api_key or os.environ.get("QDRANT_API_KEY") or None
        # whether their versions fit, a client would warn of, also where nobody answers, which is told anyway
        made = qdrant_client.QdrantClient(":memory:") if url == ":memory:" else qdrant_client.QdrantClient(
            url=url, api_key=key, check_compatibility=False)
        self._client: Any = Told(made, url, ApiException)

    def close(self) -> None:
        self._client.close()

    def upsert(self, space: str, ids: Ids, vectors: np.ndarray) -> None:
        name = self._name(space)
        if not self._client.collection_exists(name):
            self._client.create_collection(name, vectors_config=self._models.VectorParams(
                size=np.shape(vectors)[1], distance=self._models.Distance.COSINE))
        for part in parts(len(ids)):
            points = [self._models.PointStruct(id=int(item), vector=row.tolist())
                      for item, row in zip(ids[part], np.asarray(vectors[part], np.float32), strict=True)]
            self._client.upsert(name, points=points, wait=True)

    def delete(self, ids: Ids) -> int:
        gone = 0
        for collection in self._client.get_collections().collections:
            if collection.name.startswith("omma-"):
                before = self._client.count(collection.name).count
                self._client.delete(collection.name, points_selector=self._models.PointIdsList(
                    points=[int(item) for item in ids]), wait=True)
                gone += before - self._client.count(collection.name).count
        return gone

    def search(self, space: str, queries: np.ndarray, k: int, among: np.ndarray | None = None, exact: bool = False
               ) -> list[tuple[np.ndarray, np.ndarray]]:
        models = self._models
        only = None if among is None else models.Filter(must=[models.HasIdCondition(has_id=[int(i) for i in among])])
        return [as_arrays(self._client.query_points(
            self._known(space), query=query.tolist(), limit=k, query_filter=only,
            search_params=models.SearchParams(hnsw_ef=max(EF, k), exact=exact)).points)
            for query in np.asarray(queries, np.float32)]

    def get(self, space: str, ids: Ids) -> np.ndarray:
        name = self._known(space)
        width = self._client.get_collection(name).config.params.vectors.size
        return filled(ids, self._client.retrieve(name, [int(item) for item in ids], with_vectors=True), width)

    def count(self, space: str) -> int:
        return self._client.count(self._known(space), exact=True).count

    def ids(self, space: str) -> np.ndarray:
        """(n,) of all vectors in a space."""
        found, offset = [], None
        while True:
            records, offset = self._client.scroll(self._known(space), limit=10_000, offset=offset, with_payload=False)
            found += [record.id for record in records]
            if offset is None:
                return np.array(found, np.int64)

    def optimize(self, space: str) -> None:
        """A server builds its graph by itself."""

    def _name(self, space: str) -> str:
        return f"omma-{hashlib.blake2b(space.encode(), digest_size=8).hexdigest()}"

    def _known(self, space: str) -> str:
        if not self._client.collection_exists(self._name(space)):
            raise ValueError(f"no vectors of {space!r} on {self.url}")
        return self._name(space)


class Told:
    """A client that tells in words that its server did not answer, or not as Qdrant does."""

    def __init__(self, client: Any, url: str, failure: type[Exception]):
        self._client, self._url, self._failure = client, url, failure

    def __getattr__(self, name: str) -> Any:
        def asked(*given: Any, **more: Any) -> Any:
            try:
                return getattr(self._client, name)(*given, **more)
            except self._failure as error:
                why = " ".join(str(error).split())[:200]
                raise ValueError(f"no answer of Qdrant at {self._url} ({why}). Is it running there, and is its key, "
                                 "if it takes one, in QDRANT_API_KEY?") from error  # fmt: skip

        return asked


class Mirror:
    """An engine that is kept equal to the vectors of a store, and searched in its place.

    What it finds is scored again from the store's vectors, so scores are those of the exact scan; only who is found is
    approximate. progress: a bar on stderr while it is brought up to date by many vectors.
    """

    def __init__(self, store: Store, engine: Any, progress: bool = False):
        self.store, self.engine, self.progress, self._seen = store, engine, progress, {}

    def sync(self, space: str) -> int:
        """Copy what the engine lacks, drop what is gone, and build the graph; how many vectors changed."""
        now = self.store.rows("SELECT value FROM meta WHERE key = 'changes'")[0][0]
        if self._seen.get(space) == now:
            return 0
        known = self.store.space(space)
        assert known is not None
        there = dict(self.store.rows("SELECT item, seq FROM vector WHERE space = ?", known.id))
        key = f"mirror {getattr(self.engine, 'url', None) or self.engine.folder.resolve()} {space}"
        noted = self.store.rows("SELECT value FROM meta WHERE key = ?", key)
        try:
            held = set(self.engine.ids(space).tolist())
        except ValueError:                                # a new one
            held, noted = set(), []
        last = noted[0][0] if noted else 0
        new = sorted(item for item, seq in there.items() if seq > last or item not in held)
        shown = self.progress and len(new) >= MANY
        with progress_bar("approximate index", "vectors", shown) as advance:
            advance(0, len(new))
            for part in parts(len(new)):
                self.engine.upsert(space, new[part], self.store.get(space, new[part]))
                advance(len(new[part]), None)
        gone = sorted(held - set(there))
        if gone:
            self.engine.delete(gone)
        if new:
            with progress_bar("its graph, minutes for a million vectors", "", shown):
                self.engine.optimize(space)
        with self.store.writing() as con:
            con.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, max(there.values(), default=0)))
        self._seen[space] = now
        return len(new) + len(gone)

    def search(self, space: str, queries: np.ndarray, k: int, among: np.ndarray | None = None, exact: bool = False
               ) -> list[tuple[np.ndarray, np.ndarray]]:
        """As `VectorStore.search`."""
        if exact:
            return self.store.search(space, queries, k, among)
        self.sync(space)
        if not self.store.holds(space):
            return [(np.zeros(0, np.int64), np.zeros(0, np.float32)) for _ in queries]
        found = []
        for query, (ids, _) in zip(queries, self.engine.search(space, queries, SURPLUS * k, among), strict=True):
            scores = (self.store.get(space, ids).astype(np.float64) * query).sum(axis=1).astype(np.float32)
            ids, scores = ids[np.isfinite(scores)], scores[np.isfinite(scores)]
            order = np.lexsort((ids, -scores))[:k]
            found.append((ids[order], scores[order]))
        return found


def engine_at(place: str | Path) -> Any:
    """The engine at a server's address (http://, https://), or in a folder."""
    return QdrantServer(str(place)) if str(place).startswith(("http://", "https://")) else QdrantEdge(place)


def recall(store: Store, vectors: VectorStore | Mirror, space: str, queries: np.ndarray, k: int = 10) -> float:
    """Of what a plain fp32 product over all vectors finds, the share that a search finds. queries: (Q, E)."""
    rows = store.rows("SELECT item, data FROM vector JOIN space ON space.id = space WHERE fingerprint = ? "
                      "ORDER BY item", space)
    ids = np.array([row[0] for row in rows])
    table = np.frombuffer(b"".join(row[1] for row in rows), np.float16).reshape(len(rows), -1).astype(np.float32)
    hit, wanted = 0, 0
    for query, (found, scores) in zip(queries, vectors.search(space, queries, k), strict=True):
        known = table @ query
        best = ids[np.argsort(-known, kind="stable")[:k]]
        least = float(np.sort(known)[-len(best)])
        # an item as near as the k-th one is as good an answer
        hit += sum(item in best or score >= least - 1e-6 for item, score in zip(found, scores, strict=True))
        wanted += len(best)
    return min(1.0, hit / wanted) if wanted else 1.0


def parts(n: int) -> Iterator[slice]:
    return (slice(start, min(n, start + BATCH)) for start in range(0, n, BATCH))


def as_arrays(points: list[Any]) -> tuple[np.ndarray, np.ndarray]:
    ids, scores = np.array([p.id for p in points], np.int64), np.array([p.score for p in points], np.float32)
    order = np.lexsort((ids, -scores))
    return ids[order], scores[order]


def filled(ids: Ids, records: list[Any], width: int) -> np.ndarray:
    """(n, E) float32, a row of nan for an id that was not found."""
    rows = {record.id: record.vector for record in records}
    return np.array([rows.get(int(item), [np.nan] * width) for item in ids], np.float32).reshape(-1, width)
