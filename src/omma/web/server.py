"""`omma serve` as an app: search, vectors, pictures, a page, and OpenAI's /v1 paths, behind the gate.

    app = make_app(Site(omma.Index.open()), token="...")           # any ASGI server runs it; serving.py does
"""

import json
import math
import traceback
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException as StarletteHTTPException

from omma.web import openai_paths
from omma.web.gate import Gate, Refused, as_error, status_of
from omma.web.outside import FOR_EYE, FOR_VLM
from omma.web.reports import POLICY
from omma.web.site import LONGEST, MOST, MOST_AT_ONCE, Site
from omma.web.work import all_of, first_of, heard

PAGE = Path(__file__).parent / "page"
FILES = {"": ("search.html", "text/html"), "annotate.css": ("annotate.css", "text/css"),
         "search.css": ("search.css", "text/css"), "search.js": ("search.js", "text/javascript")}  # fmt: skip
Number = Annotated[int, Field(ge=1, lt=1 << 62)]
Text = Annotated[str, Field(max_length=LONGEST)]


class Search(BaseModel):
    """image: a data URL, or an address where the server fetches; folder, eye: names from /status."""

    model_config = ConfigDict(extra="forbid")
    query: Text = ""
    image: str | None = None
    k: int = Field(default=10, ge=1, le=MOST)
    where: Text | None = None
    folder: Text | None = None
    by: Literal["both", "look", "words"] = "both"
    rerank: int = Field(default=0, ge=0, le=MOST)
    diverse: float = Field(default=0.0, ge=0, le=1)
    eye: Text | None = None


class Embed(BaseModel):
    """images: data URLs, or addresses where the server fetches."""

    model_config = ConfigDict(extra="forbid")
    texts: list[Text] = Field(default=[], max_length=MOST_AT_ONCE)
    images: list[str] = Field(default=[], max_length=MOST_AT_ONCE)
    eye: Text | None = None


class Question(BaseModel):
    """images: data URLs of the asker's own; k: how many sources; mask: leave personal data out of the answer; tools:
    those that may look closer, "all" or "none"; least: the support below which there is no answer; boxes: where in its
    pictures a source says so; sparsify, budget: the method and budget of `omma.sparsify`; all as of `omma.ask`."""

    model_config = ConfigDict(extra="forbid")
    question: Annotated[str, Field(max_length=2000)]
    images: list[str] = Field(default=[], max_length=openai_paths.MOST_PICTURES)
    k: int = Field(default=4, ge=1, le=8)
    where: Text | None = None
    folder: Text | None = None
    mask: bool = False
    tools: Text | Annotated[list[Text], Field(max_length=8)] | None = None
    least: float | None = Field(default=None, ge=0, le=1)
    boxes: bool = True
    sparsify: Annotated[str, Field(max_length=100)] | None = None
    budget: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    max_new_tokens: int = Field(default=64, ge=1, le=openai_paths.MOST_TOKENS)
    stream: bool = True


class Strict(JSONResponse):
    """JSON as the standard has it: a number that is not finite is null."""

    def render(self, content: Any) -> bytes:
        return json.dumps(finite(content), ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def who(request: Request) -> str:
    """Whose call it is, for limits: "" for this machine itself."""
    host = request.client.host if request.client else ""
    return "" if host in ("127.0.0.1", "::1", "") else host


def make_app(site: Site, token: str | None = None, port: int = 0, host: str = "127.0.0.1") -> Gate:
    """The app of a site behind its gate. token: None demands none, which is for loopback alone: host is its address."""
    app = FastAPI(title="omma", docs_url=None, redoc_url=None, default_response_class=Strict)

    tell_errors(app, site)

    async def picture(text: str, sides: tuple[int, int], request: Request) -> Image.Image:
        return await site.opening.run(site.given, text, sides, who=who(request))

    async def found(asked: Search, request: Request) -> dict[str, Any]:
        image = None if asked.image is None else await picture(asked.image, FOR_EYE, request)
        rest = asked.model_dump(exclude={"query", "image"})
        return await site.seeing.run(site.search, asked.query, image, rest, who=who(request))

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(site.metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/status")
    async def status(request: Request) -> dict[str, Any]:
        return await site.opening.run(site.state, who=who(request))

    @app.get("/search")
    async def search_by_address(request: Request, q: Text, k: Annotated[int, Field(ge=1, le=MOST)] = 10,
                                where: Text | None = None, folder: Text | None = None,
                                by: Literal["both", "look", "words"] = "both", eye: Text | None = None) -> Any:
        return await found(Search(query=q, k=k, where=where, folder=folder, by=by, eye=eye), request)

    @app.post("/search")
    async def search(asked: Search, request: Request) -> Any:
        return await found(asked, request)

    @app.get("/similar")
    async def similar(request: Request, id: Number, k: Annotated[int, Field(ge=1, le=MOST)] = 12,
                      where: Text | None = None, folder: Text | None = None, eye: Text | None = None) -> Any:
        return await site.seeing.run(site.similar, id, k, where, folder, eye, who=who(request))

    @app.get("/why")
    async def why(request: Request, id: Number, q: Annotated[str, Field(min_length=1, max_length=LONGEST)],
                  eye: Text | None = None) -> Any:
        return await site.seeing.run(site.why, id, q, eye, who=who(request))

    @app.post("/ask")
    async def ask(asked: Question, request: Request) -> Any:
        images = [await picture(one, FOR_VLM, request) for one in asked.images]
        rest = asked.model_dump(exclude={"question", "images", "stream", "sparsify"})
        if (asked.sparsify is None) != (asked.budget is None):
            raise ValueError(f"sparsify={asked.sparsify!r}, budget={asked.budget}; give both, such as "
                             "\"sparsify\": \"divprune\" and \"budget\": 64, or none")  # fmt: skip
        rest["method"] = asked.sparsify
        said = site.talking.stream(lambda: site.answer(asked.question, images, rest), who(request))
        if asked.stream:                                   # an error is an answer of its own, as nothing was sent yet
            first = await heard(first_of(said, {}), request.receive)
            return StreamingResponse(told(first, said), media_type="text/event-stream")
        parts = await heard(all_of(said), request.receive)
        return next(part["answer"] for part in parts if "answer" in part)

    async def told(first: dict[str, Any], rest: AsyncGenerator[dict[str, Any], None]) -> AsyncIterator[bytes]:
        try:
            yield b"data: " + Strict(first).body + b"\n\n"
            async for part in rest:
                yield b"data: " + Strict(part).body + b"\n\n"
        except (ValueError, Refused) as raised:            # the reply has begun, so it is told within it
            yield b"data: " + Strict(as_error(max(500, status_of(raised)), site.hidden(str(raised)))).body + b"\n\n"
        finally:
            await rest.aclose()                            # nobody may listen any more; then the VLM stops

    @app.post("/embed")
    async def embed(asked: Embed, request: Request) -> Any:
        images = [await picture(one, FOR_EYE, request) for one in asked.images]
        words, looks = await site.seeing.run(site.vectors, asked.texts, images, asked.eye, who=who(request))
        return {"eye": site.eye(asked.eye).space.name, "texts": words.tolist(), "images": looks.tolist()}

    @app.get("/item/{item}")
    async def item(item: Number, request: Request) -> Any:
        return await site.opening.run(site.item, item, who=who(request))

    @app.get("/thumbnail/{item}")
    async def thumbnail(item: Number, request: Request) -> Response:
        data = await site.opening.run(site.thumbnail, item, who=who(request))
        return Response(data, media_type=kind_of(data), headers={"cache-control": "private, max-age=3600"})

    @app.get("/picture/{item}")
    async def whole(item: Number, request: Request) -> Response:
        data = await site.opening.run(site.jpeg, item, who=who(request))
        return Response(data, media_type="image/jpeg", headers={"cache-control": "private, max-age=600"})

    @app.get("/reports")
    async def reports(request: Request) -> Any:
        return {"reports": await site.opening.run(site.reports.listed, who=who(request))}

    @app.get("/report/{number}")
    async def report(number: str, request: Request) -> Response:
        page = await site.laying.run(site.reports.page, number, who=who(request))
        return Response(page, media_type="text/html; charset=utf-8", headers={"content-security-policy": POLICY})

    openai_paths.add(app, site, who)

    for name, (file, kind) in FILES.items():
        app.get(f"/{name}", include_in_schema=False)(static(PAGE / file, kind))

    return Gate(app, token, port, site.metrics, host=host)


def tell_errors(app: FastAPI, site: Site) -> None:
    """Has the app answer every error as OpenAI's clients read it, with nothing that is this machine's own."""

    def error(status: int, message: str, **headers: str) -> Strict:
        return Strict(as_error(status, site.hidden(message)), status, headers=headers)

    @app.exception_handler(Refused)
    async def refused(_: Request, raised: Refused) -> Response:
        return error(raised.status, str(raised), **raised.headers)

    @app.exception_handler(ValueError)
    async def wrong(_: Request, raised: ValueError) -> Response:
        return error(status_of(raised), str(raised))

    @app.exception_handler(StarletteHTTPException)
    async def known(request: Request, raised: HTTPException) -> Response:
        nothing = f"there is nothing at {request.url.path[:200]}; docs/serve.md says what there is"
        return error(raised.status_code, nothing if raised.status_code == 404 else str(raised.detail))

    @app.exception_handler(RequestValidationError)
    async def unread(request: Request, raised: RequestValidationError) -> Response:
        said = [f"{'.'.join(str(part) for part in one['loc'])[:120]}: {one['msg']}" for one in raised.errors()[:3]]
        if request.method == "POST" and "json" not in request.headers.get("content-type", ""):
            said = ["a body is JSON: send it with 'Content-Type: application/json'"]
        return error(400, "; ".join(said))

    @app.exception_handler(Exception)
    async def unexpected(_: Request, raised: Exception) -> Response:
        traceback.print_exception(raised)
        return error(500, f"this was not expected: {type(raised).__name__}; see where omma runs")


def static(file: Path, kind: str) -> Any:
    async def page() -> Response:
        return Response(file.read_bytes(), media_type=f"{kind}; charset=utf-8")

    return page


def kind_of(data: bytes) -> str:
    """Of a thumbnail, which was written here."""
    if data[:4] == b"RIFF":
        return "image/webp"
    return "image/png" if data[:4] == b"\x89PNG" else "image/jpeg"
