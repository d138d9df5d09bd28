"""The verb that answers from what was indexed: omma ask."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

import omma
from omma.cli_parts import Device, Json, On, Where, read_picture, working
from omma.views import answer, from_here, jsonable


def ask(
    question: Annotated[str, typer.Argument(help="What to ask, in quotes.")],
    at: Annotated[Path | None, typer.Option("--index", help="The index's file (default: this person's own).")] = None,
    vlm: Annotated[str, typer.Option(help="A VLM: a folder, a run, owner/name, openai:MODEL@URL.")] = "vlm-nano",
    images: Annotated[list[Path] | None, typer.Option("--image", help="A picture of yours; may be repeated.")] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="How many sources.")] = 4,
    where: Where = None,
    under: Annotated[Path | None, typer.Option(help="Only what lies in this folder.")] = None,
    method: Annotated[str | None, typer.Option("--sparsify", help="Drop visual tokens by this method.")] = None,
    budget: Annotated[float | None, typer.Option(help="With --sparsify: visual tokens a layer.")] = None,
    least: Annotated[float | None, typer.Option(min=0, max=1, help="Support below which there is no answer.")] = None,
    tools: Annotated[str | None, typer.Option(help="Tools that may look closer: count,detect,colour,read,crop; all; "
                                              "none.")] = None,
    detector: Annotated[str | None, typer.Option(help="A Hugging Face model that finds things (OWL-ViT).")] = None,
    mask: Annotated[bool, typer.Option("--mask", help="Leave personal data out of the answer.")] = False,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens of the answer.")] = 64,
    device: On = Device.auto,
    as_json: Json = False,
) -> None:
    """Answer a question from what was indexed, with sources.

    \b
    omma ask "which way is the red bird facing?"
    omma ask "what did we pay in May?" --vlm openai:Qwen/Qwen3-VL-8B-Instruct@http://127.0.0.1:8000/v1 --under Papers
    """
    last: Any = None
    heard = ""
    with working(as_json):
        shown = [read_picture(path) for path in images or ()]
        for said in omma.ask_stream(at, question, images=shown, k=k, where=where, under=under, method=method,
                                    budget=budget, least=least, mask=mask, max_new_tokens=max_new_tokens,
                                    device=device.value, vlm=vlm, tools=tools, detector=detector):  # fmt: skip
            if isinstance(said, str):
                print(said, end="", flush=True, file=sys.stdout)
                heard += said
            last = said
        if last.abstained and last.text.split() != heard.split():  # it turned out at the end that this is no answer
            print("\n" * bool(heard) + last.text, end="", file=sys.stdout)
        print(file=sys.stdout)
    result = jsonable(last.as_dict())
    answer(as_json, result, lambda: sources(last))


def sources(said: "omma.Answer") -> list[str]:
    """A line for each source that the answer names."""
    lines = []
    for one in said.citations:
        places = "; ".join(" ".join(f"{share:.2f}" for share in box) for box in one.boxes[:3])
        lines.append(f"[{one.number}] {from_here(one.place)}" + (f"  at {places} (by {one.by})" if places else ""))
    for call in said.calls:
        given = ", ".join(f"{key}={value}" for key, value in call.arguments.items())
        text = " ".join(call.text.split())
        lines.append(f"{call.tool or 'tools'}({given}): {'failed: ' if call.failed else ''}{text[:100]} "
                     f"({call.seconds:.2f} s, by {call.by})")  # fmt: skip
    return [*lines, f"support {said.support:.2f}, {said.model}"]


VERBS = {"ask": ask}
