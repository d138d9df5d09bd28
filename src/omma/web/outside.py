"""Pictures that come with a request: in a data URL, or, where that is allowed, from an address elsewhere
(`omma.fetching` says which).

What was sent is bounded by its bytes, its pixels by the header before they are decoded, and what is kept of them by
what an eye or a VLM looks at; how much many calls may keep at once is counted, so that memory has a bound, too.
"""

import base64
import binascii
import re
import threading
import weakref
from collections.abc import Callable
from urllib.parse import urlsplit

from PIL import Image

from omma.decode import Limits, decode
from omma.fetching import get, public
from omma.web.gate import Refused

LIMITS = Limits(max_bytes=16 << 20, max_pixels=50_000_000)
FOR_EYE = (448, 2048)    # pixels that are kept: of the short side, about, and of the long one at most
FOR_VLM = (1600, 1600)
MOST_OPEN = 512 << 20    # bytes of the pictures of all calls
SECONDS = 10.0
DATA = re.compile(r"data:image/[a-z0-9.+-]{1,40};base64,", re.IGNORECASE)


class Opened:
    """Counts the bytes of pictures while they are in use, so that calls that wait can't fill the memory."""

    def __init__(self, most: int = MOST_OPEN):
        self.most, self.bytes = most, 0
        self._lock = threading.RLock()                     # pictures may be collected while it is held

    def kept(self, image: Image.Image) -> Image.Image:
        """The same picture, counted until nobody has it any more. Raises `Refused` where there is no room."""
        size = 3 * image.width * image.height
        with self._lock:
            if self.bytes + size > self.most:
                raise Refused(503, "too many large pictures at once; try again, or send fewer", retry_after="2")
            self.bytes += size
        weakref.finalize(image, self._gone, size).atexit = False
        return image

    def _gone(self, size: int) -> None:
        with self._lock:
            self.bytes -= size


def picture_of(text: str, fetch: bool = False, sides: tuple[int, int] = FOR_VLM) -> Image.Image:
    """The picture in a data URL or, with fetch, at an address, no larger than sides. ValueError says what is wrong with
    it."""
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
    short, long = sides
    found = decode(data, LIMITS, target=short, tell_flat=False)
    if found.image is None:
        raise ValueError(f"that is no picture that can be used: {found.status} {found.note}".rstrip())
    found.image.thumbnail((long, long))
    return found.image


def fetched(url: str, may: Callable[[str], bool] = public, ports: tuple[int, ...] = (80, 443), look_up=None) -> bytes:
    """The bytes at an address, at most LIMITS.max_bytes, within SECONDS. may: whether an IP address may be asked.

    ValueError for everything that is not so.
    """
    reply = get(url, accept="image/*", most=LIMITS.max_bytes, seconds=SECONDS, may=may, ports=ports, look_up=look_up)
    if reply.status != 200:
        raise ValueError(f"{(urlsplit(reply.url).hostname or '')[:80]!r} answered {reply.status}")
    return reply.data
