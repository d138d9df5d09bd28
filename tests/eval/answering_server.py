"""A small server on the loopback with OpenAI's chat completions, that notes what it was asked."""

import base64
import io
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from PIL import Image


class Server:
    """reply(prompt, pictures, number of the request) -> the words, (status, message) of a failure, a message of the
    assistant as a dict, the body of the reply as bytes, or, where a stream was asked for, a list of pieces; None among
    them breaks the line, and ... at the end says that max_tokens cut it.

    likely(prompt, pictures) -> {token: log-probability} of the first token, None where the server tells none. models:
    what its list of models holds, none without a list. version: its system_fingerprint. refuses: what it says to who
    asks for log-probabilities.
    asked: the prompts with their pictures' bytes, in the order they came; bodies: the whole requests; short questions
    for log-probabilities without a picture, by which a client finds out whether there are any, are not among them.
    """

    def __init__(self, reply: Callable, likely: Callable = lambda prompt, images: None,
                 models: list[dict] | None = None, version: str | None = None,
                 refuses: tuple[int, str] | None = None):  # fmt: skip
        self.asked: list[tuple[str, tuple[bytes, ...]]] = []
        self.bodies: list[dict] = []
        self.models, self.version = models, version
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                parts = body["messages"][0]["content"]
                urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
                files = tuple(base64.b64decode(url.partition("base64,")[2]) for url in urls)
                prompt, images = parts[-1]["text"], [Image.open(io.BytesIO(file)) for file in files]
                told = likely(prompt, images) if body.get("logprobs") else None
                if body.get("logprobs") and refuses:
                    said = refuses
                elif body.get("logprobs") and not images:
                    said = "A"
                else:
                    outer.asked.append((prompt, files))
                    outer.bodies.append(body)
                    said = "A" if told else reply(prompt, images, len(outer.asked))
                status, content = said if isinstance(said, tuple) else (200, None)
                if isinstance(said, bytes):
                    return self.send(200, said)
                if isinstance(said, list):
                    return self.events(said, body["model"])
                message = said if isinstance(said, dict) else {"content": said}
                choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", **message}}
                if told:
                    top = [{"token": token, "logprob": value, "bytes": None} for token, value in told.items()]
                    choice["logprobs"] = {"content": [top[0] | {"top_logprobs": top[: body["top_logprobs"]]}]}
                self.answer(status, {"error": {"message": content}} if content else {
                    "id": "1", "object": "chat.completion", "created": 0, "model": body["model"],
                    "system_fingerprint": outer.version, "choices": [choice]})  # fmt: skip

            def events(self, pieces, model):
                self.send_response(200)
                self.send_header("content-type", "text/event-stream")
                self.end_headers()
                ending = "length" if pieces[-1] is ... else "stop"
                for n, piece in enumerate([*(piece for piece in pieces if piece is not ...), ""]):
                    if piece is None:
                        return
                    delta = {"role": "assistant"} if n == 0 else {}
                    choice = {"index": 0, "delta": {**delta, **({"content": piece} if piece else {})},
                              "finish_reason": None if piece else ending}  # fmt: skip
                    chunk = {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": model,
                             "choices": [choice]}  # fmt: skip
                    self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
                    self.wfile.flush()
                last = {**chunk, "choices": []}                       # of some servers: counts, and no choice
                self.wfile.write(f"data: {json.dumps(last)}\n\ndata: [DONE]\n\n".encode())

            def do_GET(self):
                listed = outer.models is not None and self.path.endswith("/models")
                self.answer(200 if listed else 404, {"object": "list", "data": outer.models})

            def answer(self, status, told):
                self.send(status, json.dumps(told).encode())

            def send(self, status, data):
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                self.send_header("retry-after-ms", "1")
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format, *args):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.http.shutdown()
        self.http.server_close()
