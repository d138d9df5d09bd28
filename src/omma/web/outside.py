"""Pictures that come with a request: in a data URL, or, where that is allowed, from an address elsewhere
(`omma.fetching` says which)."""

import base64
import binascii
import re
from collections.abc import Callable
from urllib.parse import urlsplit

from PIL import Image

from omma.decode import Limits, decode
from omma.fetching import get, public

LIMITS = Limits(max_bytes=16 << 20, max_pixels=50_000_000)
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


def fetched(url: str, may: Callable[[str], bool] = public, ports: tuple[int, ...] = (80, 443), look_up=None) -> bytes:
    """The bytes at an address, at most LIMITS.max_bytes, within SECONDS. may: whether an IP address may be asked.

    ValueError for everything that is not so.
    """
    reply = get(url, accept="image/*", most=LIMITS.max_bytes, seconds=SECONDS, may=may, ports=ports, look_up=look_up)
    if reply.status != 200:
        raise ValueError(f"{(urlsplit(reply.url).hostname or '')[:80]!r} answered {reply.status}")
    return reply.data
