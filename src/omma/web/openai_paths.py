"""OpenAI's paths, so that its client works here: /v1/models, /v1/embeddings, /v1/chat/completions.

    client = openai.OpenAI(base_url="http://127.0.0.1:8000/v1", api_key=TOKEN)
    client.embeddings.create(model="vlmo-nano", input=["a red cup"])

An input of /v1/embeddings that is a data URL is a picture. A chat is asked of the VLM as one prompt: where it has more
than one turn, the earlier ones are written before the last.
"""

import base64
import json
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import FastAPI, Request
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel, Field

from omma.models.saying import Saying, until
from omma.web.gate import Refused, as_error, status_of
from omma.web.outside import FOR_EYE, FOR_VLM
from omma.web.site import LONGEST, MOST_AT_ONCE, NO_VLM, Site
from omma.web.work import all_of, first_of, heard

MOST_TOKENS = 2048
MOST_PICTURES = 8
MOST_MESSAGES = 64
Input = Annotated[str, Field(max_length=24 << 20)]


class Embeddings(BaseModel):
    """Fields that are not here, such as user, change nothing."""

    input: Input | Annotated[list[Input], Field(min_length=1, max_length=MOST_AT_ONCE)]
    model: str
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None


class Address(BaseModel):
    url: str


class Part(BaseModel):
    type: Literal["text", "image_url"]
    text: Annotated[str, Field(max_length=LONGEST)] = ""
    image_url: Address | str | None = None


Stop = Annotated[str, Field(min_length=1, max_length=100)]


class Message(BaseModel):
    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, Field(max_length=LONGEST)] | list[Part] | None = None  # none: of a turn that called tools


class StreamOptions(BaseModel):
    include_usage: bool | None = False


class Chat(BaseModel):
    """Greedy: temperature, top_p and seed are read, and change nothing."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=MOST_MESSAGES)]
    model: str
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    stream: bool = False
    stream_options: StreamOptions | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    n: Literal[1] = 1
    tools: list[Any] | None = None
    response_format: dict[str, Any] | None = None


def add(app: FastAPI, site: Site, who: Callable[[Request], str]) -> None:
    """Puts the paths on an app."""

    def listed() -> list[dict[str, Any]]:
        names = [*site.eyes, *([site.vlm.name] if site.vlm is not None else [])]
        return [{"id": name, "object": "model", "created": 0, "owned_by": "omma"} for name in names]

    @app.get("/v1/models")
    async def models() -> Any:
        return {"object": "list", "data": listed()}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> Any:
        found = next((one for one in listed() if one["id"] == name), None)
        if found is None:
            raise Refused(404, f"no model {name[:80]!r} here; there are {', '.join(one['id'] for one in listed())}")
        return found

    @app.post("/v1/embeddings")
    async def embeddings(asked: Embeddings, request: Request) -> Any:
        eye = site.eye(asked.model)
        if asked.dimensions not in (None, eye.space.width):
            raise ValueError(f"dimensions={asked.dimensions}; {asked.model} makes {eye.space.width}, leave it out")
        given = [asked.input] if isinstance(asked.input, str) else asked.input
        places = [place for place, one in enumerate(given) if one[:11].lower() == "data:image/"]
        images = [await site.opening.run(site.given, given[place], FOR_EYE, who=who(request)) for place in places]
        texts = [one for place, one in enumerate(given) if place not in places]
        if any(not text.strip() or len(text) > LONGEST for text in texts):
            raise ValueError(f"an input is a text of 1 to {LONGEST} characters, or a picture as a data URL")
        words, looks = await site.seeing.run(site.vectors, texts, images, asked.model, who=who(request))
        rows, spoken, seen = [], iter(words), iter(looks)
        for place in range(len(given)):
            vector = next(seen) if place in places else next(spoken)
            rows.append({"object": "embedding", "index": place, "embedding": packed(vector, asked.encoding_format)})
        used = sum(len(text.split()) for text in texts)
        return {"object": "list", "data": rows, "model": asked.model,
                "usage": {"prompt_tokens": used, "total_tokens": used}}  # fmt: skip

    @app.post("/v1/chat/completions")
    async def chat(asked: Chat, request: Request) -> Response:
        if site.vlm is None:
            raise Refused(404, NO_VLM)
        if asked.model != site.vlm.name:
            raise Refused(404, f"no VLM {asked.model[:80]!r} here; there is {site.vlm.name}")
        if asked.tools:
            raise ValueError("a chat calls no tools here; leave tools out. POST /ask has tools that look at pictures")
        if (asked.response_format or {}).get("type", "text") != "text":
            raise ValueError("an answer is plain text here; leave response_format out")
        prompt, addresses = written(asked.messages)
        images = [await site.opening.run(site.given, one, FOR_VLM, who=who(request)) for one in addresses]
        most = asked.max_completion_tokens or asked.max_tokens or 256
        if most > MOST_TOKENS:
            raise ValueError(f"max_tokens={most}; at most {MOST_TOKENS} are made")
        head = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": site.vlm.name}
        stops = [asked.stop] if isinstance(asked.stop, str) else asked.stop or []
        saying = Saying(site.vlm, images, prompt, most)
        pieces = site.talking.stream(lambda: until(iter(saying), stops), who(request))
        if asked.stream:
            first = await heard(first_of(pieces, ""), request.receive)  # an error is an answer of its own, as ever
            counted = asked.stream_options is not None and bool(asked.stream_options.include_usage)
            told = events(head, first, pieces, saying, site, counted)
            return StreamingResponse(told, media_type="text/event-stream")
        text = "".join(await heard(all_of(pieces), request.receive))
        whole = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": ended(saying)}
        said = {**head, "object": "chat.completion", "choices": [whole], "usage": used(saying)}
        return Response(json.dumps(said), media_type="application/json")


def packed(vector: np.ndarray, form: str) -> Any:
    if form == "base64":
        return base64.b64encode(np.ascontiguousarray(vector, "<f4").tobytes()).decode()
    return [float(value) for value in vector]


def written(messages: list[Message]) -> tuple[str, list[str]]:
    """A chat as one prompt, and the addresses of its pictures in their order. ValueError when its last turn is not the
    user's or it has too many pictures."""
    if messages[-1].role != "user":
        raise ValueError("the last message is the user's, which is answered")
    turns, pictures = [], []
    for message in messages:
        said = message.content or ""
        parts = [Part(type="text", text=said)] if isinstance(said, str) else said
        texts = [part.text for part in parts if part.type == "text" and part.text]
        for part in parts:
            if part.type == "image_url":
                if part.image_url is None:
                    raise ValueError("a part of type image_url has an image_url")
                pictures.append(part.image_url if isinstance(part.image_url, str) else part.image_url.url)
        turns.append((message.role, "\n".join(texts)))
    if len(pictures) > MOST_PICTURES:
        raise ValueError(f"{len(pictures)} pictures; a chat may have {MOST_PICTURES}")
    names = {"user": "User: ", "assistant": "Assistant: ", "system": "", "developer": ""}
    before = [names[role] + text for role, text in turns[:-1]]
    talk = any(role == "assistant" for role, _ in turns)
    last = (names["user"] if talk else "") + turns[-1][1]
    return "\n\n".join([*before, last]), pictures


def ended(saying: Saying) -> str:
    return "length" if saying.cut else "stop"


def used(saying: Saying) -> dict[str, int] | None:
    """The tokens of the prompt, with those of its pictures, and of the answer; None of a VLM that runs elsewhere."""
    if saying.tokens is None:
        return None
    prompt, made = saying.tokens
    return {"prompt_tokens": prompt, "completion_tokens": made, "total_tokens": prompt + made}


async def events(
    head: dict[str, Any], first: str, pieces: AsyncGenerator[str, None], saying: Saying, site: Site, counted: bool
) -> AsyncIterator[str]:
    def event(delta: dict[str, str] | None, reason: str | None = None) -> str:
        choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": reason}]
        usage = {"usage": used(saying) if delta is None else None} if counted else {}
        return f"data: {json.dumps({**head, 'object': 'chat.completion.chunk', 'choices': choices, **usage})}\n\n"

    try:
        yield event({"role": "assistant", "content": first})
        async for piece in pieces:
            yield event({"content": piece})
        yield event({}, ended(saying))
        if counted:
            yield event(None)                              # the last one has no choices and tells what was used
    except (ValueError, Refused) as error:                  # the reply has begun, so it is told within it
        yield f"data: {json.dumps(as_error(max(500, status_of(error)), site.hidden(str(error))))}\n\n"
    finally:
        await pieces.aclose()                              # nobody may listen any more; then the VLM stops
    yield "data: [DONE]\n\n"
