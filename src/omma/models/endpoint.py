"""A VLM behind an address: any server with OpenAI's chat completions, such as vLLM, SGLang, Ollama or OpenAI's own.

    vlm = load_vlm("openai:Qwen/Qwen3-VL-8B-Instruct@http://127.0.0.1:8000/v1")
    vlm.generate([picture], "How many cups are there?")

Pictures travel as PNG in data URLs. The key comes from OPENAI_API_KEY; a server of one's own needs none. Which weights
are behind an address nobody can tell from here, so the fingerprint is of the model's name and the address alone.
"""

import base64
import contextlib
import hashlib
import io
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from PIL import Image

try:
    import openai
except ImportError:
    openai: Any = None

OPENAI = "https://api.openai.com/v1"
WRITTEN = re.compile(r"openai:(?P<model>.+?)(?:@(?P<url>https?://\S+))?")
FATAL = {401: "the key in OPENAI_API_KEY is not accepted", 403: "this key may not use it", 404: "no such model or path"}


class Failed(ValueError):
    """A question without a reply. reason: a short name to count under; fatal: others will fare no better."""

    def __init__(self, message: str, reason: str, fatal: bool = False):
        super().__init__(message)
        self.reason, self.fatal = reason, fatal


class Endpoint:
    """A model at an address, with the interface of a VLM. Greedy (temperature 0) unless the options say otherwise.

    served: what the server called the model in its last reply, which may say more than the name it was asked by.
    retries: after a failure that may pass (time-outs, 408, 409, 429, 5xx), each waiting longer; seconds: for one reply.
    """

    device = "endpoint"

    def __init__(self, model: str, url: str = OPENAI, *, retries: int = 4, seconds: float = 120, **options: Any):
        if openai is None:
            raise ValueError("an endpoint is asked by the package openai; install it: pip install 'omma[client]'")
        self.model_name, self.url, self.name, self.served = model, url, model, ""
        self.options = {"temperature": 0, **options}
        self.fingerprint = hashlib.blake2b(f"{model}@{url}".encode(), digest_size=8).hexdigest()
        key = os.environ.get("OPENAI_API_KEY") or "none"
        self.client = openai.OpenAI(base_url=url, api_key=key, max_retries=retries, timeout=seconds)

    @property
    def settings(self) -> dict[str, Any]:
        """What a reply depends on beside prompt and pictures."""
        return self.options

    def generate(self, images: Sequence[Image.Image], prompt: str, max_new_tokens: int = 64) -> str:
        """The answer to one prompt about its pictures. Raises `Failed`, a ValueError, when there is none."""
        (said,) = self.generate_batch([images], [prompt], max_new_tokens)
        return said

    def generate_batch(
        self, images: Sequence[Sequence[Image.Image]], prompts: Sequence[str], max_new_tokens: int = 64, *,
        batch_size: int = 8,
    ) -> list[str]:  # fmt: skip
        """Answers to n prompts, batch_size of them under way at a time. Raises the first failure."""
        said: list[str] = []
        for start in range(0, len(prompts), batch_size):
            part = slice(start, start + batch_size)
            for one in self.try_batch(images[part], prompts[part], max_new_tokens):
                if isinstance(one, Failed):
                    raise one
                said.append(one)
        return said

    def try_batch(
        self, images: Sequence[Sequence[Image.Image]], prompts: Sequence[str], max_new_tokens: int = 64
    ) -> list[str | Failed]:
        """An answer or a failure to each prompt, all of them under way at once."""
        with ThreadPoolExecutor(max(1, len(prompts))) as pool:
            return list(pool.map(self._try, images, prompts, [max_new_tokens] * len(prompts)))

    def stream(self, images: Sequence[Image.Image], prompt: str, max_new_tokens: int = 64) -> Iterator[str]:
        """The answer in pieces, as the server sends them. Raises `Failed` when there is none."""
        told = self._try(images, prompt, max_new_tokens, stream=True)
        if isinstance(told, Failed):
            raise told
        assert not isinstance(told, str)
        with contextlib.closing(told) as chunks:
            try:
                for chunk in chunks:
                    if chunk.choices and (piece := chunk.choices[0].delta.content):
                        yield piece
            except (openai.OpenAIError, OSError) as error:
                raise Failed(f"{self.url} broke off: {error}", "endpoint_broke_off") from error

    def _try(self, images: Sequence[Image.Image], prompt: str, max_new_tokens: int, stream: bool = False) -> Any:
        seen = [{"type": "image_url", "image_url": {"url": data_url(image)}} for image in images]
        talk: Any = [{"role": "user", "content": [*seen, {"type": "text", "text": prompt}]}]
        told = {"stream": True} if stream else {}
        try:
            found = self.client.chat.completions.create(
                model=self.model_name, messages=talk, max_tokens=max_new_tokens, **self.options, **told
            )
            if stream:
                return found
        except openai.APITimeoutError:
            return Failed(f"{self.url} gave no reply in time", "endpoint_timeout")
        except openai.APIConnectionError as error:
            return Failed(f"nobody answers at {self.url} ({error.__cause__ or error}); start the server, then run this "
                          "again: replies so far are kept", "endpoint_unreachable", fatal=True)  # fmt: skip
        except openai.APIStatusError as error:
            code, fatal = error.status_code, error.status_code in FATAL
            why = f"{FATAL[code]}: " if fatal else ""
            return Failed(f"{self.url}: {why}{error.message}", f"endpoint_http_{code}", fatal)
        except openai.OpenAIError as error:  # what came back is no chat completion
            return Failed(f"{self.url}: {error}", "endpoint_no_completion")
        choices = getattr(found, "choices", None)
        if not choices:
            return Failed(f"{self.url} gave no choices; is it an address of chat completions?",
                          "endpoint_no_completion")  # fmt: skip
        self.served = str(getattr(found, "model", None) or "")
        said = choices[0].message.content
        if choices[0].finish_reason == "content_filter" or getattr(choices[0].message, "refusal", None):
            return Failed(f"refused: {choices[0].message.refusal or 'content filter'}", "endpoint_refused")
        return (said or "").strip()


def data_url(image: Image.Image) -> str:
    """A picture as PNG in a data URL."""
    out = io.BytesIO()
    image.convert("RGB").save(out, "PNG")
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


def load_endpoint(written: str) -> Endpoint:
    """An endpoint by "openai:MODEL@URL", or "openai:MODEL" at OPENAI_BASE_URL or OpenAI's own address."""
    found = WRITTEN.fullmatch(written)
    if not found:
        raise ValueError(f"{written!r} is no endpoint; write openai:MODEL@http://HOST:PORT/v1")
    return Endpoint(found["model"], found["url"] or os.environ.get("OPENAI_BASE_URL") or OPENAI)
