"""The verb of the command line that sets two evaluations side by side: parse, call, print."""

from pathlib import Path
from typing import Annotated

import typer

import omma
from omma.cli_parts import Json, Seed, working
from omma.views import answer, facts_table


def compare(
    a: Annotated[
        Path | None, typer.Argument(help="A report folder, or a result file of lmms-eval or VLMEvalKit.")
    ] = None,
    b: Annotated[Path | None, typer.Argument(help="Another one, on the same items.")] = None,
    kind: Annotated[list[str] | None, typer.Option(help="Score to compare, e.g. itm; twice for A's and B's.")] = None,
    credit: Annotated[str | None, typer.Option(help="What an item earns, by its name in the report.")] = None,
    variant: Annotated[str, typer.Option(help="model, blind or wrong-image.")] = "model",
    alpha: Annotated[float, typer.Option(help="How often a difference may be seen where there is none.")] = 0.05,
    plan: Annotated[int | None, typer.Option(min=1, help="No runs: what would so many items show?")] = None,
    discordant: Annotated[float, typer.Option(help="With --plan: share of items on which two models differ.")] = 0.2,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Say whether one model is better than another.

    \b
    omma compare reports/before reports/after
    omma compare reports/eye reports/eye --kind itc --kind itm
    omma compare --plan 150
    """  # fmt: skip
    if plan is not None:
        from omma.eval.paired import detectable

        least = detectable(plan, discordant, alpha=alpha)
        facts = {"items": plan, "discordant": discordant, "alpha": alpha, "power": 0.8, "detectable": least}
        shown = {
            "smallest difference": "none" if least is None else f"{100 * least:.1f} points",
            "shown in": "80 % of runs",
            "items": plan,
            "items on which the models differ": f"{100 * discordant:.0f} %",
        }
        answer(as_json, facts, lambda: facts_table("what a run could show", shown))
        return
    if a is None or b is None:
        raise ValueError("give two report folders, as in omma compare reports/before reports/after, or --plan ITEMS")
    kinds = None if not kind else kind[0] if len(kind) == 1 else tuple(kind)
    with working(as_json):
        verdict = omma.compare(a, b, kinds=kinds, credit=credit, variant=variant, alpha=alpha, seed=seed)
    answer(as_json, verdict.to_json(), lambda: verdict)


VERBS = {"compare": compare}
