"""Who comes in, and with how much: an ASGI layer before everything that `omma serve` does.

    Host        without a token, the address has to be this machine's own, so that no other name can be pointed here
    Origin      other sites can't ask in a browser's name
    token       as a bearer, or as a cookie that a browser gets for it; /healthz and the style of pages do without
    body        counted while it arrives: too much, too slow or too many at once is refused before anybody reads it

What it turns down has the same shape as all other errors: {"error": {"message", "type", "code"}}.
"""

import asyncio
import hashlib
import hmac
import html
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

from omma.web.metrics import Metrics

MAX_BODY = 24 << 20      # bytes of one request
MAX_HELD = 192 << 20     # bytes of all requests that are being read
SECONDS = 30.0           # for a body to arrive
COOKIE_DAYS = 30
OPEN = {"/healthz", "/annotate.css"}  # the page that asks for the token has a style
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
ALWAYS = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
SIGN_IN = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>omma: sign in</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,"><link rel="stylesheet" href="/annotate.css"></head><body><header><h1>omma</h1></header>
<main><form class="card" method="post" action="/enter"><p role="alert">{why}</p>
<p class="row"><label>Token <input type="password" name="token" autofocus required autocomplete="current-password">
</label><button class="main">Enter</button></p><p class="soft">It was printed where omma runs.</p></form></main></body>
</html>"""

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
App = Callable[[Any, Any, Any], Awaitable[None]]


class Refused(Exception):
    """What was asked is turned down. headers: more of the reply's."""

    def __init__(self, status: int, message: str, **headers: str):
        super().__init__(message)
        self.status, self.headers = status, {name.replace("_", "-"): value for name, value in headers.items()}


def status_of(error: Exception) -> int:
    """Of what was not answered: 502 where it is the VLM's server elsewhere that failed, else the asker's 400."""
    return 502 if str(getattr(error, "reason", "")).startswith("endpoint_") else 400


def as_error(status: int, message: str) -> dict[str, Any]:
    """An error as OpenAI's clients read it."""
    kind = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
    return {"error": {"message": message, "type": kind.get(status) or
                      ("invalid_request_error" if status < 500 else "server_error"), "code": status, "param": None}}


class Gate:
    """Lets requests through to an app. token: None demands none; port: 0 until the server knows it; host: the address
    of this machine alone that it listens at, as an address on the web has it."""

    def __init__(self, app: App, token: str | None = None, port: int = 0, metrics: Metrics | None = None, *,
                 host: str = "127.0.0.1", max_body: int = MAX_BODY, max_held: int = MAX_HELD, seconds: float = SECONDS):
        self.app, self.token, self.port = app, token, port
        self.names = {"127.0.0.1", "localhost", "[::1]", host.lower()}
        self.metrics = metrics or Metrics()
        self.max_body, self.max_held, self.seconds, self._held = max_body, max_held, seconds, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close", "code": 1008})
        started, status, sent = time.perf_counter(), 500, False

        async def told(message: dict[str, Any]) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status, sent = message["status"], True
                known = {name.lower() for name, _ in message["headers"]}
                more = [(name, value) for name, value in ALWAYS if name not in known]
                message = {**message, "headers": [*message["headers"], *more]}
            await send(message)

        held = 0
        try:
            if not await self._enters(scope, receive, told):
                return
            body = await self._body(scope, receive)
            held = len(body)
            await self.app(scope, replayed(body, receive), told)
        except Refused as error:
            if sent:
                raise
            await reply(told, error.status, json.dumps(as_error(error.status, str(error))).encode(), "application/json",
                        **error.headers)  # fmt: skip
        finally:
            self._held -= held
            route = getattr(scope.get("route"), "path", "other")
            self.metrics.answered(scope["method"], route, status, time.perf_counter() - started)

    # ---- who
    async def _enters(self, scope: Scope, receive: Receive, send: Send) -> bool:
        """Whether the request goes on; else it was answered. Raises `Refused`."""
        said = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        host = said.get("host", "")
        ports = (f":{self.port}", "") if self.port == 80 else (f":{self.port}",)  # browsers leave :80 out
        if self.token is None and host.lower() not in {f"{name}{port}" for name in self.names for port in ports}:
            raise Refused(403, f"this server answers to the address that omma printed, and not to {host[:80]!r}")
        origin, site = said.get("origin"), said.get("sec-fetch-site", "none")
        navigates = said.get("sec-fetch-mode") == "navigate" and scope["method"] == "GET"
        if (origin is not None and urlsplit(origin).netloc != host) or (
                site not in ("none", "same-origin") and not navigates):  # fmt: skip
            raise Refused(403, "another site's page may not ask here")
        if self.token is None or scope["path"] in OPEN:
            return True
        if scope["method"] == "POST" and scope["path"] == "/enter":
            body = await self._body(scope, receive, most=4096)
            self._held -= len(body)
            given = parse_qs(body.decode("latin-1")).get("token", [""])[0]
            await self._welcome(send, given.strip())
            return False
        if scope["method"] == "GET" and scope["path"] == "/" and scope["query_string"].startswith(b"token="):
            given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
            await self._welcome(send, given.strip())
            return False
        kind, _, bearer = said.get("authorization", "").partition(" ")
        cookies = dict(part.strip().partition("=")[::2] for part in said.get("cookie", "").split(";"))
        if kind.lower() == "bearer" and same(bearer.strip(), self.token):
            return True
        if same(cookies.get(self.cookie, ""), self._cookie_value()):
            return True
        if scope["method"] == "GET" and "text/html" in said.get("accept", ""):
            await self._sign_in(send, "This omma is someone's own, and takes its token.")
            return False
        why = "the token is wrong" if bearer or self.cookie in cookies else "a token is needed"
        raise Refused(401, f"{why}: send 'Authorization: Bearer TOKEN' with the one that omma printed when it started",
                      www_authenticate="Bearer")  # fmt: skip

    async def _welcome(self, send: Send, given: str) -> None:
        if not self.token or not same(given, self.token):
            return await self._sign_in(send, "That is not the token.")
        kept = f"{self.cookie}={self._cookie_value()}; Path=/; HttpOnly; SameSite=Strict; Max-Age={COOKIE_DAYS * 86400}"
        await reply(send, 303, b"", "text/plain", location="/", **{"set-cookie": kept})

    async def _sign_in(self, send: Send, why: str) -> None:
        # without a referrer a browser sends the form with "Origin: null", which is nobody's
        more = {"www-authenticate": "Bearer", "referrer-policy": "same-origin"}
        page = SIGN_IN.format(why=html.escape(why)).encode()
        await reply(send, 401, page, "text/html; charset=utf-8", **more)

    @property
    def cookie(self) -> str:
        return f"omma-{self.port}"                         # browsers share cookies among the ports of a name

    def _cookie_value(self) -> str:
        """Not the token itself: who reads a browser's cookies can't use it as a bearer elsewhere."""
        return hmac.new((self.token or "").encode(), b"cookie", hashlib.sha256).hexdigest()

    # ---- how much
    async def _body(self, scope: Scope, receive: Receive, most: int | None = None) -> bytes:
        """All of it, which counts as held until the caller takes it off. Raises `Refused` for too much, too slow, and
        when others hold all the room there is."""
        most = self.max_body if most is None else most
        length = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if not length.isdigit() or int(length) > most:
            raise too_large(most)
        parts, size = [], 0
        try:
            async with asyncio.timeout(self.seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Refused(400, "the connection ended before the request did")
                    part = message.get("body", b"")
                    size += len(part)
                    self._held += len(part)
                    parts.append(part)
                    if size > most:
                        raise too_large(most)
                    if self._held > self.max_held:
                        raise Refused(503, "too many large requests at once; try again", retry_after="2")
                    if not message.get("more_body"):
                        return b"".join(parts)
        except BaseException as error:
            self._held -= size
            if not isinstance(error, TimeoutError):
                raise
            raise Refused(408, f"the request did not arrive within {self.seconds:g} s", connection="close") from None


def too_large(most: int) -> Refused:
    return Refused(413, f"a request may have {most} bytes; send a smaller picture", connection="close")


def replayed(body: bytes, receive: Receive) -> Receive:
    """What was read, once more; then whatever comes after it."""
    given = False

    async def again() -> dict[str, Any]:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode(), other.encode())


async def reply(send: Send, status: int, data: bytes, kind: str, **headers: str) -> None:
    given = {"content-type": kind, "content-length": str(len(data)), **headers}
    pairs = [(name.encode(), value.encode("latin-1")) for name, value in given.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": data})
