"""The verb of the command line that serves an index over HTTP: parse, call, print."""

from pathlib import Path
from typing import Annotated

import typer

import omma
from omma.cli_parts import Device, Json, On, working
from omma.views import answer


def serve(
    at: Annotated[Path | None, typer.Option("--index", help="The index's file (default: this person's own).")] = None,
    encoder: Annotated[
        list[str] | None, typer.Option("--encoder", "-e", help="An eye to search with; again for another beside it.")
    ] = None,
    vlm: Annotated[str | None, typer.Option(help="A VLM that answers chats: a name, a run, a folder.")] = None,
    host: Annotated[str, typer.Option(help="Address; any but this machine's own takes a token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of the address; 0: a free one.")] = 8000,
    fetch: Annotated[bool, typer.Option("--fetch", help="Fetch pictures from public addresses when asked.")] = False,
    waiting: Annotated[int, typer.Option(min=1, help="Calls that may wait; more are told to come again.")] = 64,
    reports: Annotated[
        list[Path] | None, typer.Option(help="A folder whose reports the page shows; again for another.")
    ] = None,
    device: On = Device.auto,
    as_json: Json = False,
) -> None:
    """Serve your index: a page in the browser, and HTTP.

    What was indexed (omma index) is searched on a page and by programs, OpenAI's clients among them. Another address
    than this machine's takes a token: OMMA_TOKEN, or a new one that is printed.

    \b
    omma serve
    omma serve --encoder vlmo-nano --encoder openai/clip-vit-base-patch32
    omma serve --reports reports
    omma serve --host 0.0.0.0
    """
    with working(as_json):
        result = omma.serve(at, encoders=encoder or (), vlm=vlm, host=host, port=port, fetch=fetch, waiting=waiting,
                            reports=reports or (), device=device.value,
                            ready=lambda line: print(line, flush=True))  # fmt: skip
    answer(as_json, result, lambda: [f"ended; {result['requests']} requests were answered"])


VERBS = {"serve": serve}
