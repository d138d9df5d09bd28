"""Runs `omma serve`: an index over HTTP, on this machine alone or, behind a token, for others."""

import errno
import ipaddress
import os
import secrets
import signal
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import omma

try:
    import uvicorn
except ImportError:
    uvicorn: Any = None

SHORTEST = 16            # characters of a token that somebody chose
CONNECTIONS = 256
GRACE = 30               # seconds for what is under way when it is told to stop


def serve(
    index: str | Path | None = None,
    *,
    encoders: Sequence[str] = (),
    vlm: Any = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    fetch: bool = False,
    waiting: int = 64,
    reports: Sequence[str | Path] = (),
    device: str = "auto",
    ready: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Serve an index over HTTP until SIGTERM or Ctrl-C: a page, search, OpenAI's /v1 paths (docs/serve.md).

    index: its file, this person's own by default. encoders: eyes to search with, by default the one that indexed last;
    the page shows two side by side. vlm: a name or a loaded VLM, for /v1/chat/completions. host: loopback needs no
    token; for any other address one is demanded: token, else OMMA_TOKEN, else a new one. port: 0 takes a free one.
    fetch: whether pictures may be fetched from public addresses. waiting: calls that may wait before others are turned
    down. reports: folders whose reports the page shows. ready: is given what to open, line by line.

    When it is told to stop, what is under way is finished and new calls are refused. Returns the address and how many
    requests were answered. Raises ValueError where fastapi isn't installed, and for an index, an eye, an address or a
    token that can't be used.
    """
    if uvicorn is None:
        raise ValueError("a server takes fastapi and uvicorn; install them: pip install 'omma[serve]'")
    from omma.web.server import make_app
    from omma.web.site import Site

    alone = is_loopback(host)
    token = checked(token or os.environ.get("OMMA_TOKEN") or (None if alone else secrets.token_urlsafe(24)))
    listening = listen(host, port)
    try:
        port = listening.getsockname()[1]
        with omma.Index.open(index, encoder=encoders[0] if encoders else None, device=device) as opened:
            others = [opened.eye(name) for name in encoders[1:]]
            loaded = omma.load_vlm(vlm, device=device) if isinstance(vlm, str | Path) else vlm
            site = Site(opened, others, loaded, fetch, waiting, reports)
            app = make_app(site, token, port, written(host))
            for line in greeting(host, port, token, site.state()["folders"]):
                ready(line)
            config = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False,
                                    limit_concurrency=CONNECTIONS, timeout_keep_alive=15, h11_max_incomplete_event_size=
                                    16 << 10, timeout_graceful_shutdown=GRACE, ws="none", http="h11", loop="asyncio",
                                    proxy_headers=False)  # fmt: skip
            run(uvicorn.Server(config), listening)
            site.close()
            return {"url": f"http://{written(host)}:{port}/", "requests": site.metrics.answers}
    finally:
        listening.close()


def run(server: Any, listening: socket.socket) -> None:
    """Until a signal; both are an ordinary end. The server raises the signal once more when it has ended."""

    def ended(_: int, __: FrameType | None) -> None:
        """It has stopped by then."""

    before = {one: signal.signal(one, ended) for one in (signal.SIGTERM, signal.SIGINT)}
    try:
        server.run(sockets=[listening])
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def checked(token: str | None) -> str | None:
    if token is not None and (len(token) < SHORTEST or not token.isascii() or not token.isprintable() or " " in token):
        raise ValueError(f"a token has {SHORTEST} or more letters, digits or signs and no space, so that nobody "
                         "guesses it; leave OMMA_TOKEN unset, and one is made")  # fmt: skip
    return token


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens. ValueError says why there is none."""
    try:
        known = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, _, _, address = known[0]
        listening = socket.socket(family, kind)
    except (OSError, OverflowError) as error:
        raise ValueError(f"{host!r} is no address of this machine ({error}); leave --host out for this machine alone, "
                         "or give 0.0.0.0 for all that can reach it") from None  # fmt: skip
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(CONNECTIONS)                      # who comes while the models load waits, and isn't refused
    except (OSError, OverflowError) as error:
        listening.close()
        if getattr(error, "errno", None) == errno.EADDRNOTAVAIL:
            raise ValueError(f"{host!r} is another machine's address ({error}); leave --host out for this machine "
                             "alone, or give 0.0.0.0 for all that can reach it") from None  # fmt: skip
        raise ValueError(f"{host}:{port} can't be used ({error}); is omma served there already? --port 0 takes a free "
                         "port") from None  # fmt: skip
    return listening


def greeting(host: str, port: int, token: str | None, folders: Sequence[str]) -> list[str]:
    """What to open, and what others can then see."""
    everywhere = host in ("0.0.0.0", "::", "")
    base = f"http://{written(own_address() if everywhere else host)}:{port}/"
    if token is None:
        return [f"omma serves {', '.join(folders)} at {base} to this machine alone. Ctrl-C ends it."]
    lines = [f"omma serves {', '.join(folders)} at {base}", f"Open it once in each browser with {base}?token={token}",
             f"Programs send the header 'Authorization: Bearer {token}'."]  # fmt: skip
    if not is_loopback(host):
        lines.append("Whoever has the token sees every picture and text of these folders. The connection is not "
                     "encrypted: on a network that isn't yours, reach it by ssh -L or behind a proxy with TLS. "
                     "Ctrl-C ends it.")  # fmt: skip
    return lines


def own_address() -> str:
    """This machine's address in its network; nothing is sent to find it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        try:
            asking.connect(("192.0.2.1", 9))               # kept free for examples (RFC 5737)
            return asking.getsockname()[0]
        except OSError:
            return socket.gethostname()


def written(host: str) -> str:
    return f"[{host}]" if ":" in host else host
