"""Pictures that come with a request: in a data URL, or, where that is allowed, from an address elsewhere.

An address is looked up once, every answer has to be public, and the connection goes to that very answer: a name that
means another machine a moment later gets nowhere. Each redirect is looked at in the same way.
"""

import base64
import binascii
import http.client
import ipaddress
import re
import socket
import ssl
import time
from collections.abc import Callable
from urllib.parse import urljoin, urlsplit

from PIL import Image

from omma.decode import Limits, decode

LIMITS = Limits(max_bytes=16 << 20, max_pixels=50_000_000)
REDIRECTS = 3
SECONDS = 10.0
DATA = re.compile(r"data:image/[a-z0-9.+-]{1,40};base64,", re.IGNORECASE)


def picture_of(text: str, fetch: bool = False) -> Image.Image:
    """The picture in a data URL or, with fetch, at an address. ValueError says what is wrong with it."""
    if head := DATA.match(text[:80]):
        if (len(text) - head.end()) * 3 // 4 > LIMITS.max_bytes + 2:
            raise ValueError(f"the picture has more than {LIMITS.max_bytes} bytes; send a smaller one")
        try:
            data = base64.b64decode(text[head.end() :], validate=True)
        except (binascii.Error, ValueError):
            raise ValueError("the data URL holds no base64; write data:image/png;base64, and then the file's") from None
    elif text[:8].lower().startswith(("http://", "https://")):
        if not fetch:
            raise ValueError("this server fetches nothing from elsewhere; send the picture itself, as a data URL, or "
                             "have it started with --fetch")  # fmt: skip
        data = fetched(text)
    else:
        raise ValueError(f"a picture comes as data:image/...;base64,... and not as {text[:24]!r}")
    found = decode(data, LIMITS, tell_flat=False)
    if found.image is None:
        raise ValueError(f"that is no picture that can be used: {found.status} {found.note}".rstrip())
    return found.image


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
    return found.is_global and not found.is_multicast


def fetched(url: str, may: Callable[[str], bool] = public, ports: tuple[int, ...] = (80, 443), look_up=None) -> bytes:
    """The bytes at an address, at most LIMITS.max_bytes, within SECONDS. may: whether an IP address may be asked.

    ValueError for everything that is not so.
    """
    end = time.monotonic() + SECONDS
    for _ in range(REDIRECTS + 1):
        data, onward = _one(url, may, ports, look_up or socket.getaddrinfo, end)
        if onward is None:
            return data
        url = urljoin(url, onward)
    raise ValueError(f"the address leads to another more than {REDIRECTS} times")


def _one(url: str, may: Callable[[str], bool], ports: tuple[int, ...], look_up: Callable, end: float
         ) -> tuple[bytes, str | None]:
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}[parts.scheme]
        host = parts.hostname or ""
        host.encode("ascii")
    except (ValueError, KeyError, UnicodeError):
        raise ValueError("that is no address of http or https") from None
    if parts.username is not None or port not in ports or not host:
        raise ValueError(f"an address has a name, no password, and port {' or '.join(map(str, ports))}")
    try:
        found = [entry[4][0] for entry in look_up(host, port, type=socket.SOCK_STREAM)]
    except (OSError, UnicodeError):
        raise ValueError(f"{host[:80]!r} is not known") from None
    if not found or not all(may(address) for address in found):
        raise ValueError(f"{host[:80]!r} is not on the open internet, and nothing else is fetched")
    try:
        connection = socket.create_connection((found[0], port), timeout=left(end))
        with connection:
            if parts.scheme == "https":
                connection = ssl.create_default_context().wrap_socket(connection, server_hostname=host)
            return _read(connection, parts, end)
    except (OSError, http.client.HTTPException) as error:
        raise ValueError(f"{host[:80]!r} gave no picture: {type(error).__name__}") from None


def _read(connection: socket.socket, parts, end: float) -> tuple[bytes, str | None]:
    asked = http.client.HTTPConnection(parts.netloc, timeout=left(end))
    asked.sock = connection                               # this very address, whatever the name means now
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    asked.request("GET", path, headers={"Accept": "image/*", "User-Agent": "omma"})
    reply = asked.getresponse()
    if reply.status in (301, 302, 303, 307, 308):
        return b"", reply.headers.get("Location") or ""
    if reply.status != 200:
        raise ValueError(f"{parts.hostname[:80]!r} answered {reply.status}")
    parts_read, size = [], 0
    while piece := reply.read1(1 << 16):
        size += len(piece)
        if size > LIMITS.max_bytes:
            raise ValueError(f"the picture has more than {LIMITS.max_bytes} bytes")
        parts_read.append(piece)
        connection.settimeout(left(end))
    return b"".join(parts_read), None


def left(end: float) -> float:
    seconds = end - time.monotonic()
    if seconds <= 0:
        raise TimeoutError
    return seconds
