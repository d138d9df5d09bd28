"""A small server on the loopback with OpenAI's chat completions, that notes what it was asked."""

import base64
import io
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from PIL import Image


class Server:
    """reply(prompt, pictures, number of the request) -> the words, or (status, message) of a failure.

    asked: the prompts with their pictures' bytes, in the order they came.
    """

    def __init__(self, reply: Callable):
        self.asked: list[tuple[str, tuple[bytes, ...]]] = []
        self.bodies: list[dict] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                parts = body["messages"][0]["content"]
                urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
                files = tuple(base64.b64decode(url.partition("base64,")[2]) for url in urls)
                outer.asked.append((parts[-1]["text"], files))
                outer.bodies.append(body)
                said = reply(parts[-1]["text"], [Image.open(io.BytesIO(file)) for file in files], len(outer.asked))
                status, content = said if isinstance(said, tuple) else (200, None)
                choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": said}}
                told = {"error": {"message": content}} if content else {
                    "id": "1", "object": "chat.completion", "created": 0, "model": body["model"], "choices": [choice]}
                data = json.dumps(told).encode()
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
