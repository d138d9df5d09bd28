"""What a Qdrant server answers over HTTP, as far as omma asks: its REST routes before a client inside this process."""

import contextlib
import json
import threading
import warnings
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

VERSION = "1.20.0"


class QdrantServed:
    """key: demanded of every call where one is given; left: after so many calls of a point's route it breaks off."""

    def __init__(self, key=None):
        from qdrant_client import QdrantClient, models

        self.models, self.client, self.key = models, QdrantClient(":memory:"), key
        self.lock, self.asked, self.left = threading.Lock(), [], None

    def answer(self, method, path, said):
        """The `result` of a call, None for one of something that isn't there."""
        models, client, name, ids = self.models, self.client, "", said.get("ids") or said.get("points")
        if path == ["collections"]:
            return client.get_collections()
        name, rest = path[1], path[2:]
        if rest == ["exists"]:
            return {"exists": client.collection_exists(name)}
        if not rest and method == "PUT":
            return client.create_collection(name, vectors_config=models.VectorParams(**said["vectors"]))
        if not client.collection_exists(name):
            return None
        if not rest:
            return client.get_collection(name)
        if rest == ["points"] and method == "PUT":
            return client.upsert(name, points=[models.PointStruct(**one) for one in said["points"]])
        if rest == ["points"]:
            return client.retrieve(name, ids, with_payload=said["with_payload"], with_vectors=said["with_vector"])
        if rest == ["points", "delete"]:
            return client.delete(name, points_selector=models.PointIdsList(points=ids))
        if rest == ["points", "count"]:
            return client.count(name, exact=said["exact"])
        if rest == ["points", "scroll"]:
            found, after = client.scroll(name, limit=said["limit"], offset=said.get("offset"), with_payload=False)
            return {"points": found, "next_page_offset": after}
        if rest == ["points", "query"]:
            only = models.Filter(**said["filter"]) if said.get("filter") else None
            return client.query_points(name, query=said["query"]["nearest"], limit=said["limit"], query_filter=only)
        return None


def plain(value):
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items()}
    return value.model_dump(mode="json") if hasattr(value, "model_dump") else value


@contextlib.contextmanager
def qdrant_served(key=None, port=0, served=None):
    """(address, what is served) while it runs; served: one that ran before, with its collections."""
    served = served or QdrantServed(key)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            path = [part for part in self.path.partition("?")[0].split("/") if part]
            said = json.loads(self.rfile.read(int(self.headers.get("content-length") or 0)) or "{}")
            with served.lock:
                served.asked.append((self.command, "/".join(path)))
                if served.left is not None and "points" in path:
                    served.left -= 1
                    if served.left < 0:                   # the connection ends without an answer
                        self.close_connection = True
                        return
                if served.key and self.headers.get("api-key") != served.key:
                    self.reply(401, "Must provide an API key or an Authorization bearer token")
                elif not path:
                    self.reply(200, {"title": "qdrant - vector search engine", "version": VERSION})
                else:
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        result = plain(served.answer(self.command, path, said))
                    if result is None:
                        self.reply(404, {"status": {"error": f"Not found: {'/'.join(path)}"}, "time": 0})
                    else:
                        self.reply(200, {"result": result, "status": "ok", "time": 0})

        do_PUT = do_POST = do_GET

        def reply(self, status, said):
            data = (said if isinstance(said, str) else json.dumps(said)).encode()
            self.send_response(status)
            self.send_header("content-type", "text/plain" if isinstance(said, str) else "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
