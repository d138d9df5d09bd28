"""The verb of the command line that finds what an eye can't see: parse, call, print."""

import contextlib
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

import omma
from omma.cli_parts import Batch, Device, Json, On, Seed, working
from omma.views import answer, blind_tables, facts_table


class Layout(StrEnum):
    mmvp = "mmvp"
    mmvp_vlm = "mmvp-vlm"
    items = "items"


def blind(
    table: Annotated[Path, typer.Argument(help="Table of pictures.")],
    eye: Annotated[
        str | None, typer.Option(help="A vector column, or an encoder, which then embeds the table first.")
    ] = None,
    reference: Annotated[str | None, typer.Option(help="The eye that tells them apart: likewise.")] = None,
    above: Annotated[str, typer.Option(help="The eye's cosine is above it: 0.95, or quantile:1e-6 of pairs.")] = "0.95",
    below: Annotated[str, typer.Option(help="The reference's is below it: 0.6, or quantile:0.5.")] = "0.6",
    both_ways: Annotated[
        bool, typer.Option("--both-ways", help="Mine the other way round, too: who misses what?")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder for pairs.parquet, where a killed run goes on; or of --export.")
    ] = None,
    limit: Annotated[int, typer.Option(min=0, help="How many pairs to show, the widest gaps.")] = 10,
    near: Annotated[float, typer.Option(help="Both cosines above it: near duplicates, listed once.")] = 0.99,
    per_row: Annotated[int, typer.Option(min=1, help="Widest gaps of a picture that are listed.")] = 100,
    sample: Annotated[int | None, typer.Option(min=1, help="Hold so many pictures, by chance, against all.")] = None,
    exact: Annotated[bool, typer.Option("--exact", help="Compare all pairs of more than 2 million, too.")] = False,
    workers: Annotated[str, typer.Option(help="Processes to work with, or ray.")] = "1",
    annotate: Annotated[Path | None, typer.Option(help="Folder with pairs: a page to write down what differs.")] = None,
    export: Annotated[Layout | None, typer.Option(help="With --annotate: no page, write a benchmark to --out.")] = None,
    by: Annotated[
        str | None, typer.Option(help="With --export: whose annotations; else the latest of anybody.")
    ] = None,
    agreed: Annotated[bool, typer.Option("--agreed", help="With --export: pairs whose pattern all agree on.")] = False,
    propose: Annotated[str | None, typer.Option(help="With --annotate: a VLM that proposes when asked.")] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="With --annotate: of the page; 0: a free one.")] = 0,
    batch_size: Batch = 64,
    device: On = Device.auto,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Find pictures that one eye takes for the same.

    And another one tells apart: CLIP-blind pairs. All pairs are compared. On scenes, the pattern in which they differ
    is named, beside chance; with --both-ways also which of the two eyes misses it, if they don't merely disagree.

    \b
    omma blind scenes/test/pictures --eye vlmo-nano --reference embed.pixels --above quantile:1e-3 --below 0.6
    omma blind tables/photos --eye openai/clip-vit-large-patch14 --reference facebook/dinov2-large --out blind
    omma blind tables/photos --annotate blind
    omma blind tables/photos --annotate blind --export mmvp --out my-mmvp
    """
    if annotate is not None:
        if eye is not None or reference is not None:
            raise ValueError("--annotate is for pairs that were found before; find some first, without it")
        on_page(table, annotate, export, out, by, agreed, propose, port, device.value, as_json)
        return
    only = {"--export": export, "--propose": propose, "--by": by, "--agreed": agreed, "--port": port}
    if alone := [name for name, value in only.items() if value]:
        raise ValueError(f"{alone[0]} goes with --annotate FOLDER, the folder of pairs that were found")
    if eye is None or reference is None:
        raise ValueError("give two eyes, as in omma blind TABLE --eye vlmo-nano --reference embed.pixels, or --annotate"
                         " FOLDER for pairs that were found")  # fmt: skip
    from omma.eval.blind import column, suggest_thresholds
    from omma.eval.both_ways import mine_other_way, who_misses
    from omma.eval.missed import missed

    with working(as_json):
        pictures = omma.Table.open(table)
        if pictures.kind == "items":
            raise ValueError(f"{table} is a table of items, whose rows are questions; give its pictures, such as "
                             f"{table.parent / 'pictures'}")  # fmt: skip
        names = [vectors_of(pictures, name, device.value, batch_size) for name in (eye, reference)]
        options: dict[str, Any] = {
            "table": pictures, "near": near, "per_row": per_row, "sample": sample, "exact": exact,
            "workers": workers if not workers.isdigit() else int(workers), "seed": seed, "progress": True,
        }  # fmt: skip
        found = omma.mine_blind_pairs(names[0], names[1], above, below, out=out, **options)
        other = None if out is None else out / "other-way"
        back = mine_other_way(found, *names, out=other, **options) if both_ways else None
        told = missed(pictures, found, seed)
        if out is not None and told is not None:
            found.write(out, {"missed": told["patterns"]}, differences=told["differences"])
        suggested = suggest_thresholds(*(column(pictures, name) for name in names), seed=seed)
    result: dict[str, Any] = {"table": str(table), "eye": names[0], "reference": names[1], **found.to_json()}
    pairs = found.rows(limit)
    if told is not None:
        for row, place in zip(pairs, found.strongest(limit).tolist(), strict=True):
            row["differences"] = told["differences"][place]
    result |= {"pairs": pairs, "suggested": suggested, "out": None if out is None else str(out / "pairs.parquet")}
    result["missed"] = None if told is None else {name: told[name] for name in ("one_pattern", "compared", "patterns")}
    result["other_way"] = None
    if back is not None:
        result["other_way"] = {**back.to_json(), "patterns": who_misses(pictures, found, back),
                               "out": None if other is None else str(other / "pairs.parquet")}  # fmt: skip
    answer(as_json, result, lambda: blind_tables(result))


def on_page(
    table: Path, folder: Path, layout: Layout | None, out: Path | None, by: str | None, agreed: bool,
    propose: str | None, port: int, device: str, as_json: bool,
) -> None:  # fmt: skip
    """Pairs in a folder: written as a benchmark, or shown on a page until Ctrl-C."""
    pictures = omma.Table.open(table)
    if layout is not None:
        from omma.eval.annotate.benchmark import export_benchmark
        from omma.eval.annotate.pairs import Pairs
        from omma.eval.annotate.store import open_store

        if out is None:
            raise ValueError(
                f"--out is missing: the folder that the benchmark in the layout {layout.value} is written to"
            )
        with working(as_json):
            pairs = Pairs.open(folder, pictures)
            with contextlib.closing(open_store(folder)) as store:
                made = export_benchmark(pairs, store, layout.value, out, by, agreed)
        answer(as_json, made, lambda: facts_table("benchmark", made))
        return
    from omma.web.annotate import serve

    def ready(url: str) -> None:
        answer(as_json, {"url": url}, lambda: f"open {url}\nCtrl-C ends it; what the page calls saved is on the disk")
        sys.stdout.flush()  # who reads it through a pipe waits for it

    done = serve(folder, pictures, port=port, model=propose, device=device, ready=ready)
    told = ", ".join(f"{name} {n} pairs" for name, n in done.items())
    print(f"annotated: {told or 'nothing yet'}", file=sys.stderr)


def vectors_of(table: Any, name: str, device: str, batch_size: int) -> str:
    """The name of a vector column, which is made first where `name` is an encoder's."""
    if name in table.columns:
        return name
    if name.startswith("embed."):
        raise ValueError(f"no column {name!r} in {table.uri}; it has {', '.join(table.columns)}. "
                         f"Create it: omma embed {table.uri} --encoder {name.removeprefix('embed.')}")  # fmt: skip
    encoder = omma.load_encoder(name, device=device)
    omma.embed(table, encoder, batch_size=batch_size, progress=True)
    return f"embed.{encoder.name}"


VERBS = {"blind": blind}
