"""A server for one person on their own machine: loopback only, behind a token that is new in every run.

    with Loopback(app) as server: print(server.url)                # http://127.0.0.1:41234/b7f.../

Whoever doesn't know the token gets nothing, not even on the same machine. Other sites can't ask in the browser's name:
the host has to be the one that was opened (so that no other name can be pointed here), and what changes something has
to be JSON from the page itself. Bodies are bounded, and an app is asked by names, never for a path.
"""

import contextlib
import hmac
import json
import re
import secrets
import socket
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

MAX_BODY = 64 << 10  # bytes of a request
TIMEOUT = 30  # seconds for which a silent connection is kept
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True)
class Request:
    """method: GET or POST; parts: of the path behind the token; query: its last value by name; body: of a POST."""

    method: str
    parts: tuple[str, ...]
    query: dict[str, str] = field(default_factory=dict)
    body: Any = None


@dataclass(frozen=True)
class Reply:
    data: bytes
    type: str = "application/json"
    status: int = 200


def as_json(value: Any, status: int = 200) -> Reply:
    return Reply(json.dumps(value, allow_nan=False).encode(), status=status)


App = Callable[[Request], Reply | None]  # None: there is no such thing


class Loopback:
    """Serves an app in threads. port: 0 takes a free one. url: what to open, with the token."""

    def __init__(self, app: App, port: int = 0):
        """Raises ValueError when the port is taken."""
        self.token = secrets.token_urlsafe(24)
        handler = type("Handler", (_Handler,), {"app": staticmethod(app), "token": self.token})
        try:
            self._server = _Server(("127.0.0.1", port), handler)
        except (OSError, OverflowError) as error:
            raise ValueError(
                f"port {port} can't be used ({error}); leave out --port, and a free one is taken"
            ) from None
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/{self.token}/"

    def __enter__(self) -> "Loopback":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.hang_up()
        self._server.server_close()

    def wait(self) -> None:
        """Until somebody interrupts (Ctrl-C)."""
        while self._thread.is_alive():
            self._thread.join(0.5)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = False

    def __init__(self, *args: Any):
        self._open: set[socket.socket] = set()
        super().__init__(*args)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def hang_up(self) -> None:
        """End the connections that browsers keep; else they would be answered after the end."""
        for request in list(self._open):
            with contextlib.suppress(OSError):  # it has gone by itself
                request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that goes away in the middle is none of ours; what an app raised was answered and told before."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "omma", ""
    timeout = TIMEOUT
    app: App
    token: str

    def do_GET(self) -> None:
        self._answer("GET")

    def do_POST(self) -> None:
        self._answer("POST")

    def _answer(self, method: str) -> None:
        body = b""
        if method == "GET" and ("Content-Length" in self.headers or "Transfer-Encoding" in self.headers):
            self.close_connection = True  # what it sends more is no next request
        if method == "POST":
            length = self.headers.get("Content-Length", "")
            if not re.fullmatch(r"[0-9]{1,9}", length) or int(length) > MAX_BODY:
                self.close_connection = True  # what it wants to send stays unread
                return self._send(as_json({"error": f"a request has 0 to {MAX_BODY} bytes, and says how many"}, 413))
            body = self.rfile.read(int(length))
        try:
            reply = self._reply(method, body)
        except ValueError as error:
            reply = as_json({"error": str(error)}, 400)
        except Exception as error:
            traceback.print_exc()
            reply = as_json({"error": f"this was not expected: {type(error).__name__}; see where omma runs"}, 500)
        self._send(reply)

    def _reply(self, method: str, body: bytes) -> Reply:
        address = urlsplit(self.path)
        first, *parts = address.path.removeprefix("/").split("/")
        port = self.server.server_address[1]  # type: ignore[index]
        hosts = {f"127.0.0.1:{port}", f"localhost:{port}"}
        if self.headers.get("Host") not in hosts:
            return as_json({"error": "open the address that omma printed"}, 403)
        if not hmac.compare_digest(first.encode(), self.token.encode()):
            return as_json({"error": "open the whole address that omma printed: it ends with a token"}, 403)
        said: Any = None
        if method == "POST":
            origin, kind = self.headers.get("Origin"), self.headers.get_content_type()
            if kind != "application/json" or origin not in (None, *(f"http://{host}" for host in hosts)):
                return as_json({"error": "only the page itself may change something"}, 403)
            try:
                said = json.loads(body)
            except (ValueError, RecursionError):
                return as_json({"error": "the body is no JSON"}, 400)
        query = dict(parse_qsl(address.query, keep_blank_values=True, max_num_fields=20))
        found = self.app(Request(method, tuple(map(unquote, parts)), query, said))
        return found if found is not None else as_json({"error": "there is no such thing"}, 404)

    def _send(self, reply: Reply) -> None:
        self.send_response(reply.status)
        kind = (
            reply.type if "charset" in reply.type or reply.type.startswith("image/") else reply.type + "; charset=utf-8"
        )
        for name, value in {**HEADERS, "Content-Type": kind, "Content-Length": str(len(reply.data))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(reply.data)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests hold the token and are nobody's business."""
