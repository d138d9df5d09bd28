"""The verb of the command line that measures what things cost: parse, call, print."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

import omma
from omma.cli_parts import Batch, Device, Json, On, Precision, Where, working
from omma.views import answer


class What(StrEnum):
    sparsify = "sparsify"


class Controls(StrEnum):
    dense = "dense"
    all = "all"


def bench(
    what: Annotated[What, typer.Argument(help="What is measured: ways to drop visual tokens.")],
    model: Annotated[str, typer.Argument(help="A VLM: a name, a run or a model folder.")],
    data: Annotated[Path, typer.Option(help="Folder of the tables, or the table of items; its questions are asked.")],
    out: Annotated[Path, typer.Option(help="Folder for the report; a run goes on where it stopped.")],
    methods: Annotated[str, typer.Option(help="Names with commas; fastv:positions=compact gives an option.")]
    = "sparsevlm,fastv,divprune",
    budgets: Annotated[str, typer.Option(help="Tokens a layer (64), shares (1/9), published tables (table:64).")]
    = "1/3,2/9,1/9",
    where: Where = None,
    seeds: Annotated[str, typer.Option(help="Each draws its own questions, and what is left to chance.")] = "0",
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many questions a seed.")] = None,
    template: Annotated[str, typer.Option(help="How a question is put: '{} Answer in one word.'")] = "{}",
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 16,
    batch_size: Batch = 8,
    timed: Annotated[int, typer.Option(min=0, help="Questions on which time is measured.")] = 4,
    controls: Annotated[Controls, typer.Option(help="Which methods are also shown grey and wrong pictures.")]
    = Controls.dense,
    device: On = Device.auto,
    precision: Annotated[Precision, typer.Option(help="auto: bf16 where it is fast.")] = Precision.auto,
    as_json: Json = False,
) -> None:
    """Measure what makes a VLM cheaper.

    sparsify: every method at every budget on the same questions, beside the model as it is, tokens taken evenly and by
    chance: right answers, time, memory, FLOPs, a plot, and a page with the patches that each method kept.

    \b
    omma bench sparsify vlm-nano --data scenes/test --out reports/sparsify --methods sparsevlm,fastv --budgets 1/3,1/9
    omma bench sparsify llava-1.5-7b-hf --data tables/pope --out reports/pope --budgets 192,128,64 --limit 500
    """  # fmt: skip
    with working(as_json):
        report = omma.bench_sparsify(
            model,
            data=data,
            out=out,
            methods=split(methods),
            budgets=split(budgets),
            where=where,
            seeds=tuple(whole(seed) for seed in split(seeds)),
            limit=limit,
            template=template,
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
            timed=timed,
            controls=controls.value,
            device=device.value,
            precision=precision.value,
            progress=True,
        )
    answer(as_json, report.to_json(), lambda: [report, f"page: {out / 'report.html'}"])


def split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"--seeds {text!r}: whole numbers with commas, as in 0,1,2") from None


VERBS = {"bench": bench}
