"""The verb of the command line that finds what an eye can't see: parse, call, print."""

from pathlib import Path
from typing import Annotated, Any

import typer

import omma
from omma.cli_parts import Batch, Device, Json, On, Seed, working
from omma.views import answer, blind_tables


def blind(
    table: Annotated[Path, typer.Argument(help="Table of pictures.")],
    eye: Annotated[str, typer.Option(help="A vector column, or an encoder, which then embeds the table first.")],
    reference: Annotated[str, typer.Option(help="The eye that tells them apart: likewise.")],
    above: Annotated[str, typer.Option(help="The eye's cosine is above it: 0.95, or quantile:1e-6 of pairs.")] = "0.95",
    below: Annotated[str, typer.Option(help="The reference's is below it: 0.6, or quantile:0.5.")] = "0.6",
    out: Annotated[Path | None, typer.Option(help="Folder for pairs.parquet; a killed run goes on there.")] = None,
    limit: Annotated[int, typer.Option(min=0, help="How many pairs to show, the widest gaps.")] = 10,
    near: Annotated[float, typer.Option(help="Both cosines above it: near duplicates, listed once.")] = 0.99,
    per_row: Annotated[int, typer.Option(min=1, help="Widest gaps of a picture that are listed.")] = 100,
    sample: Annotated[int | None, typer.Option(min=1, help="Hold so many pictures, by chance, against all.")] = None,
    exact: Annotated[bool, typer.Option("--exact", help="Compare all pairs of more than 2 million, too.")] = False,
    workers: Annotated[str, typer.Option(help="Processes to work with, or ray.")] = "1",
    batch_size: Batch = 64,
    device: On = Device.auto,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Find pictures that one eye takes for the same.

    And another one tells apart: CLIP-blind pairs. All pairs are compared. On scenes, the pattern in which they differ
    is named, beside chance.

    \b
    omma blind scenes/test/pictures --eye vlmo-nano --reference embed.pixels --above quantile:1e-3 --below 0.6
    omma blind tables/photos --eye openai/clip-vit-large-patch14 --reference facebook/dinov2-large --out blind
    """
    from omma.eval.blind import column, suggest_thresholds
    from omma.eval.missed import missed

    with working(as_json):
        pictures = omma.Table.open(table)
        names = [vectors_of(pictures, name, device.value, batch_size) for name in (eye, reference)]
        found = omma.mine_blind_pairs(
            names[0], names[1], above, below, table=pictures, near=near, per_row=per_row, sample=sample,
            exact=exact, out=out, workers=workers if not workers.isdigit() else int(workers), seed=seed, progress=True,  # type: ignore
        )  # fmt: skip
        told = missed(pictures, found, seed)
        if out is not None and told is not None:
            found.write(out, differences=told["differences"])
        suggested = suggest_thresholds(*(column(pictures, name) for name in names), seed=seed)
    result: dict[str, Any] = {"table": str(table), "eye": names[0], "reference": names[1], **found.to_json()}
    pairs = found.rows(limit)
    if told is not None:
        for row, place in zip(pairs, found.strongest(limit).tolist(), strict=True):
            row["differences"] = told["differences"][place]
    result |= {"pairs": pairs, "suggested": suggested, "out": None if out is None else str(out / "pairs.parquet")}
    result["missed"] = None if told is None else {name: told[name] for name in ("one_pattern", "compared", "patterns")}
    answer(as_json, result, lambda: blind_tables(result))


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
