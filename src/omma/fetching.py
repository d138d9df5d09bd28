"""Bytes from an address elsewhere, over http or https, and never from a private one.

A name is looked up once, every answer has to be allowed, and the connection goes to that very answer: a name that
means another machine a moment later gets nowhere. Each redirect is looked at in the same way.
"""

import contextlib
import http.client
import ipaddress
import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

REDIRECTS = 3
PORTS = {"http": 80, "https": 443}


class Unanswered(ValueError):
    """Nobody answered, or not in time, or not to the end: another try may fare better."""


class Unreachable(Unanswered):
    """There is nobody at this address, or no way to it."""


@dataclass(frozen=True)
class Reply:
    """What came back from `url`, the last address of all redirects. headers: names in any case."""

    url: str
    status: int
    headers: http.client.HTTPMessage
    data: bytes


def public(address: str) -> bool:
    """Whether an IP address belongs to the open internet, whatever it is wrapped in."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address):
        within = found.ipv4_mapped or found.sixtofour or (found.teredo or (None, None))[1]
        if within is None and found in ipaddress.ip_network("64:ff9b::/96"):
            within = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if within is not None:
            return public(str(within))
        if found not in ipaddress.ip_network("2000::/3"):  # of all others some are wrapped in ways of their own
            return False
    return found.is_global and not found.is_multicast


def loopback(address: str) -> bool:
    """Whether an IP address is this very machine's."""
    try:
        return ipaddress.ip_address(address.partition("%")[0]).is_loopback
    except ValueError:
        return False


def get(url: str, *, accept: str = "*/*", agent: str = "omma", most: int = 16 << 20, seconds: float = 10.0,
        may: Callable[[str], bool] = public, where: str = "the open internet", schemes: Sequence[str] = tuple(PORTS),
        ports: Sequence[int] | None = tuple(PORTS.values()), look_up: Callable | None = None) -> Reply:
    """The reply to a GET of url, whatever its status.

    most: bytes of it; seconds: for all of it, redirects included. may: whether an IP address may be asked, which are
    those of `where`, in words; schemes, ports: that an address may have, also after a redirect (None: any port);
    look_up: in place of socket.getaddrinfo. Raises `Unanswered`, a ValueError, when there is no whole reply
    (`Unreachable` when there is nobody), and ValueError for an address that may not be asked and for more bytes.
    """
    end = time.monotonic() + seconds
    for _ in range(REDIRECTS + 1):
        port, host = _checked(url, schemes, ports)
        try:
            address = _looked_up(host, port, may, where, look_up or socket.getaddrinfo, end)
            connection = socket.create_connection((address, port), timeout=left(end))
        except TimeoutError as error:
            raise Unanswered(f"{host[:80]!r} gave nothing: {type(error).__name__} {error}") from None
        except OSError as error:
            raise Unreachable(f"nobody answers at {host[:80]!r} ({error.strerror or error})") from None
        try:
            with _ended(connection, end):
                reply = _asked(connection, url, host, {"Accept": accept, "User-Agent": agent}, most, end)
        except (OSError, http.client.HTTPException) as error:
            raise Unanswered(f"{host[:80]!r} gave nothing: {type(error).__name__} {error}".rstrip()) from None
        if reply.status not in (301, 302, 303, 307, 308):
            return reply
        url = urljoin(url, reply.headers.get("Location") or "")
    raise ValueError(f"the address leads to another more than {REDIRECTS} times")


def _checked(url: str, schemes: Sequence[str], ports: Sequence[int] | None) -> tuple[int, str]:
    try:
        parts = urlsplit(url)
        port, host = parts.port or PORTS[parts.scheme], parts.hostname or ""
        url.encode("ascii")
    except (ValueError, KeyError, UnicodeError):
        raise ValueError("that is no address of http or https") from None
    if parts.scheme not in schemes:
        raise ValueError(f"the address begins with {parts.scheme}, and {' or '.join(schemes)} is asked for")
    if parts.username is not None or not host or (ports is not None and port not in ports):
        told = "" if ports is None else f", and port {' or '.join(map(str, ports))}"
        raise ValueError(f"an address has a name, no password{told}")
    return port, host


def _looked_up(host: str, port: int, may: Callable[[str], bool], where: str, look_up: Callable, end: float) -> str:
    told: queue.SimpleQueue[list[str] | Exception] = queue.SimpleQueue()

    def ask() -> None:
        try:
            told.put([entry[4][0] for entry in look_up(host, port, type=socket.SOCK_STREAM)])
        except (OSError, UnicodeError) as error:
            told.put(error)

    threading.Thread(target=ask, daemon=True).start()     # a look-up has no time limit of its own
    try:
        found = told.get(timeout=left(end))
    except queue.Empty:
        raise TimeoutError("its name is still being looked up") from None
    if isinstance(found, Exception):
        raise Unreachable(f"{host[:80]!r} is not known ({found})")
    if not found or not all(may(address) for address in found):
        raise ValueError(f"{host[:80]!r} is not on {where}, and nothing else is fetched")
    return found[0]


@contextlib.contextmanager
def _ended(connection: socket.socket, end: float) -> Iterator[None]:
    """The connection is shut when time is up, however little of a reply drips in until then."""
    twin = connection.dup()                               # of the same connection, and not TLS's to look at

    def shut() -> None:
        with contextlib.suppress(OSError):
            twin.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(left(end), shut)
    timer.daemon = True
    timer.start()
    try:
        yield
        left(end)                                         # what was shut may look like the reply's end
    finally:
        timer.cancel()
        timer.join()
        twin.close()


def _asked(connection: socket.socket, url: str, host: str, headers: dict[str, str], most: int, end: float) -> Reply:
    parts = urlsplit(url)
    if parts.scheme == "https":
        with contextlib.ExitStack() as closing:
            closing.callback(connection.close)
            connection = ssl.create_default_context().wrap_socket(connection, server_hostname=host)
    with connection:
        asked = http.client.HTTPConnection(parts.netloc, timeout=left(end))
        asked.sock = connection                           # this very address, whatever the name means now
        asked.request("GET", (parts.path or "/") + (f"?{parts.query}" if parts.query else ""), headers=headers)
        reply = asked.getresponse()
        pieces, size = [], 0
        while piece := reply.read1(1 << 16):
            size += len(piece)
            if size > most:
                raise ValueError(f"{host[:80]!r} sends more than {most} bytes")
            pieces.append(piece)
            connection.settimeout(left(end))
        if reply.length:                                  # what was promised and did not come
            raise http.client.IncompleteRead(b"", reply.length)
        return Reply(url, reply.status, reply.headers, b"".join(pieces))


def left(end: float) -> float:
    seconds = end - time.monotonic()
    if seconds <= 0:
        raise TimeoutError("time is up")
    return seconds
