"""A VLM behind an address: any server with OpenAI's chat completions, such as vLLM, SGLang, Ollama or OpenAI's own.

    vlm = load_vlm("openai:Qwen/Qwen3-VL-8B-Instruct@http://127.0.0.1:8000/v1")
    vlm.generate([picture], "How many cups are there?")

Pictures travel as PNG in data URLs. The key comes from OPENAI_API_KEY and goes to the address that is named, whichever
it is; a server of one's own needs none. Which weights
are behind an address nobody can tell from here, so the fingerprint is of the model's name, the address, and what the
server's list of models says of it. What a server calls the model in its replies stands beside each of them.
"""

import base64
import contextlib
import hashlib
import io
import json
import math
import os
import re
import time
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image

try:
    import openai
except ImportError:
    openai: Any = None

OPENAI = "https://api.openai.com/v1"
WRITTEN = re.compile(r"openai:(?P<model>.+?)(?:@(?P<url>https?://\S+))?")
LISTED = ("id", "root", "parent", "owned_by", "created", "max_model_len", "meta")  # what a list says of a model
RECENT = 60  # seconds: vLLM and llama.cpp say of every model that it was created when they were asked
TOP = 20  # of a first token's candidates, as many as OpenAI and vLLM tell
UNABLE = (400, 405, 422, 501)  # how a server says no to logprobs
FATAL = {401: "the key in OPENAI_API_KEY is not accepted", 403: "this key may not use it", 404: "no such model or path"}


class Failed(ValueError):
    """A question without a reply. reason: a short name to count under; fatal: others will fare no better."""

    def __init__(self, message: str, reason: str, fatal: bool = False):
        super().__init__(message)
        self.reason, self.fatal = reason, fatal


class Endpoint:
    """A model at an address, with the interface of a VLM. Greedy (temperature 0) unless the options say otherwise.

    served: what the server called the model in its last reply, and its system_fingerprint where it tells one; this may
    say more than the name it was asked by.
    retries: after a failure that may pass (time-outs, 408, 409, 429, 5xx), each waiting longer; seconds: for one reply.
    """

    device = "endpoint"

    def __init__(self, model: str, url: str = OPENAI, *, retries: int = 4, seconds: float = 120, **options: Any):
        if openai is None:
            raise ValueError("an endpoint is asked by the package openai; install it: pip install 'omma[client]'")
        self.model_name, self.url, self.name, self.served = model, url, model, ""
        self.options = {"temperature": 0, **options}
        key = os.environ.get("OPENAI_API_KEY") or "none"
        self.client = openai.OpenAI(base_url=url, api_key=key, max_retries=retries, timeout=seconds)

    @cached_property
    def fingerprint(self) -> str:
        """Of name, address and `described`: another one is another model, the same one need not be the same."""
        said = f"{self.model_name}@{self.url}" + (json.dumps(self.described, sort_keys=True) if self.described else "")
        return hashlib.blake2b(said.encode(), digest_size=8).hexdigest()

    @cached_property
    def described(self) -> dict[str, Any]:
        """What the server's list of models (/v1/models) says of this one, or of its only one; {} where it has no list.

        created is left out where it is the time of the question itself.
        """
        try:
            told = self.client.with_options(max_retries=0, timeout=10).models.with_raw_response.list().http_response
            listed = [entry for entry in told.json()["data"] if isinstance(entry, dict)]
        except (openai.OpenAIError, OSError, ValueError, KeyError, TypeError):
            return {}
        mine = [entry for entry in listed if entry.get("id") == self.model_name] or (listed if len(listed) == 1 else [])
        if not mine:
            return {}
        found = {name: mine[0][name] for name in LISTED if mine[0].get(name) is not None}
        created = found.get("created")
        if isinstance(created, int | float) and abs(_clock(told.headers.get("date")) - created) < RECENT:
            del found["created"]
        return found

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

    def first_token(
        self, images: Sequence[Sequence[Image.Image]], prompts: Sequence[str], words: Sequence[Sequence[str]],
        batch_size: int = 8,
    ) -> np.ndarray:  # fmt: skip
        """(n, C) float32: the log-probability that the answer to prompt i begins with option c, over its spellings, as
        the server tells them of its TOP likeliest tokens (logprobs). An option that isn't among those gets what the
        last of them has: it is less likely than that. Raises the first failure."""
        rows: list[list[float]] = []
        for start in range(0, len(prompts), batch_size):
            part = slice(start, start + batch_size)
            for one in self.try_first_token(images[part], prompts[part], [words] * len(prompts[part])):
                if isinstance(one, Failed):
                    raise one
                rows.append(one)
        return np.array(rows, dtype=np.float32).reshape(len(rows), len(words))

    def try_first_token(
        self, images: Sequence[Sequence[Image.Image]], prompts: Sequence[str], words: Sequence[Sequence[Sequence[str]]]
    ) -> list[list[float] | Failed]:
        """`first_token` or a failure for each prompt, all of them under way at once. words: of each prompt."""
        with ThreadPoolExecutor(max(1, len(prompts))) as pool:
            return list(pool.map(self._try_first, images, prompts, words))

    def lacks(self, method: str) -> str:
        """Why a method can't be used here, "" where it can: a server that tells no log-probabilities has no
        `first_token`, which one short question without a picture finds out. Raises `Failed` when nobody is there."""
        if method == "answer_loss":
            return ("chat completions tell log-probabilities of what the model says of itself, and none of the tokens "
                    "of an answer that it is given, and the letters of options are another measure than their words")
        return self._no_logprobs if method == "first_token" else ""

    @cached_property
    def _no_logprobs(self) -> str:
        told = self._try_first([], "Say A.", [["A"]])
        if not isinstance(told, Failed) or told.reason == "endpoint_no_option":
            return ""
        if told.reason == "endpoint_no_logprobs" or told.reason in {f"endpoint_http_{code}" for code in UNABLE}:
            return str(told)
        raise told

    def stream(
        self, images: Sequence[Image.Image], prompt: str, max_new_tokens: int = 64
    ) -> Generator[str, None, bool]:
        """The answer in pieces, as the server sends them. Raises `Failed` when there is none. The generator returns
        whether the server says that max_new_tokens cut it."""
        told = self._try(images, prompt, max_new_tokens, stream=True)
        if isinstance(told, Failed):
            raise told
        assert not isinstance(told, str)
        cut = False
        with contextlib.closing(told) as chunks:
            try:
                for chunk in chunks:
                    yield (chunk.choices and chunk.choices[0].delta.content) or ""  # it may think without words
                    cut = cut or (bool(chunk.choices) and chunk.choices[0].finish_reason == "length")
            except (openai.OpenAIError, OSError) as error:
                raise Failed(f"{self.url} broke off: {error}", "endpoint_broke_off") from error
        return cut

    def message(self, images: Sequence[Image.Image], words: str) -> dict[str, Any]:
        """What a person says, pictures first, as a message of chat completions."""
        seen = [{"type": "image_url", "image_url": {"url": data_url(image)}} for image in images]
        return {"role": "user", "content": [*seen, {"type": "text", "text": words}]}

    def talk(
        self, messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]], max_new_tokens: int = 64, *,
        may_call: bool = True,
    ) -> tuple[str, list[dict[str, Any]]]:  # fmt: skip
        """One turn of a conversation in which the model may call tools: its words, and its calls, each with an id and
        a function of name and arguments (JSON as text). tools: as chat completions want them described; may_call: it
        has to answer in words otherwise. Raises `Failed`, also of a server that takes no tools."""
        told = {"tools": list(tools), "tool_choice": "auto" if may_call else "none"} if tools else {}
        found = self._completion(list(messages), max_new_tokens, **told)
        if isinstance(found, Failed):
            raise found
        made = getattr(found.message, "tool_calls", None) or ()
        calls = [{"id": call.id, "type": "function",
                  "function": {"name": call.function.name, "arguments": call.function.arguments}}
                 for call in made if getattr(call, "function", None)]  # fmt: skip
        return (found.message.content or "").strip(), calls

    def _try(self, images: Sequence[Image.Image], prompt: str, max_new_tokens: int, stream: bool = False) -> Any:
        talk = [self.message(images, prompt)]
        found = self._completion(talk, max_new_tokens, **({"stream": True} if stream else {}))
        return found if stream or isinstance(found, Failed) else (found.message.content or "").strip()

    def _try_first(self, images: Sequence[Image.Image], prompt: str, words: Sequence[Sequence[str]]) -> Any:
        found = self._completion([self.message(images, prompt)], 1, logprobs=True, top_logprobs=TOP)
        if isinstance(found, Failed):
            return found
        tokens = getattr(getattr(found, "logprobs", None), "content", None) or []
        told = (getattr(tokens[0], "top_logprobs", None) or ()) if isinstance(tokens, list) and tokens else ()
        pairs = {(getattr(one, "token", None), getattr(one, "logprob", None)) for one in told}
        top = {(token, value) for token, value in pairs if isinstance(token, str) and isinstance(value, float | int)}
        if not top:
            return Failed(f"{self.url} tells no log-probabilities of what it says (logprobs, top_logprobs), so it is "
                          "measured by its replies alone", "endpoint_no_logprobs")  # fmt: skip
        least = min(logprob for _, logprob in top)
        scores = [[logprob for token, logprob in top if token in spelled] for spelled in words]
        if not any(scores):
            likely = ", ".join(repr(token) for token, _ in sorted(top, key=lambda one: -one[1])[:5])
            return Failed(f"none of the options is among the {len(top)} likeliest first tokens ({likely}, ...); ask in "
                          "words", "endpoint_no_option")  # fmt: skip
        return [max(some) + math.log(sum(math.exp(one - max(some)) for one in some)) if some else least
                for some in scores]  # fmt: skip

    def _completion(self, talk: Any, max_new_tokens: int, **told: Any) -> Any:
        """The first choice of a completion, the stream where one is asked for, or `Failed`."""
        try:
            found = self.client.chat.completions.create(
                model=self.model_name, messages=talk, max_tokens=max_new_tokens, **{**self.options, **told}
            )
            if told.get("stream"):
                return found
        except openai.APITimeoutError:
            return Failed(f"{self.url} gave no reply in time", "endpoint_timeout")
        except openai.APIConnectionError as error:
            return Failed(f"nobody answers at {self.url} ({error.__cause__ or error}); start the server, then run this "
                          "again", "endpoint_unreachable", fatal=True)  # fmt: skip
        except openai.APIStatusError as error:
            code, fatal = error.status_code, error.status_code in FATAL
            why = f"{FATAL[code]}: " if fatal else ""
            return Failed(f"{self.url}: {why}{error.message}", f"endpoint_http_{code}", fatal)
        except openai.OpenAIError as error:  # what came back is no chat completion
            return Failed(f"{self.url}: {error}", "endpoint_no_completion")
        except ValueError as error:  # nor JSON, whatever its header says
            return Failed(f"{self.url} gave something else than JSON ({error}); is it an address of chat completions?",
                          "endpoint_no_completion")  # fmt: skip
        choices = getattr(found, "choices", None)
        choice: Any = choices[0] if isinstance(choices, list) and choices else None
        message = getattr(choice, "message", None)
        if message is None or not isinstance(getattr(message, "content", None), str | None):
            return Failed(f"{self.url} gave no choices with a message in words; is it an address of chat completions?",
                          "endpoint_no_completion")  # fmt: skip
        names = (getattr(found, "model", None), getattr(found, "system_fingerprint", None))
        self.served = " ".join(str(name) for name in names if name)
        refusal = getattr(message, "refusal", None)
        if getattr(choice, "finish_reason", None) == "content_filter" or refusal:
            return Failed(f"refused: {refusal or 'content filter'}", "endpoint_refused")
        return choice


def _clock(told: str | None) -> float:
    """The server's time, by the header of its reply; this machine's where there is none."""
    try:
        return parsedate_to_datetime(told or "").timestamp()
    except ValueError:
        return time.time()


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
