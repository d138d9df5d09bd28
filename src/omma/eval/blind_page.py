"""The pairs that `omma blind --out` found, as a page: what was counted, what they differ in, the pairs themselves."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from omma.eval.report import environment, number, thumbnails
from omma.eval.run import replacing
from omma.eval.task import Grid
from omma.table import Table

SHOWN = 60


def page_of_pairs(folder: str | Path, out_path: str | Path, *, data: str | Path | None = None) -> dict[str, Any]:
    """Write the page of a folder with pairs.parquet; {"path", "bytes", "pairs", "pictures"}, the last two as shown.

    data: the table of the pictures, by default the one that the pairs were found in; a page without pictures says so in
    their place. Raises ValueError for a folder without pairs, and for data that is no table.
    """
    path = Path(folder) / "pairs.parquet"
    if not path.is_file():
        raise ValueError(f"no pairs.parquet in {folder}; find pairs: omma blind TABLE --eye A --reference B --out "
                         f"{folder}")  # fmt: skip
    found = pq.read_table(path)
    about = json.loads((found.schema.metadata or {}).get(b"omma", b"{}"))
    rows, of = found.slice(0, SHOWN).to_pylist(), about.get("of", {})
    place = data if data is not None else of.get("table")
    there = place is not None and (data is not None or (Path(place) / "manifest.json").is_file())
    tables = [Table.open(place)] if place is not None and there else []
    thumbs = thumbnails(tables, {row[side] for row in rows for side in "ab"})
    eye = named(of.get("eye"), "one eye")
    page = environment().get_template("blind.html.j2").render(
        title=f"Pictures that {eye} takes for the same", eye=eye, reference=named(of.get("reference"), "another eye"),
        when=datetime.fromtimestamp(path.stat().st_mtime, UTC).strftime("%Y-%m-%d %H:%M UTC"),
        above=about.get("above"), below=about.get("below"), tiles=tiles(about), missed=missed_grid(about.get("missed")),
        rows=rows, listed=found.num_rows, thumbs=thumbs, facts=facts(about, path),
    )  # fmt: skip
    out_path = Path(out_path)
    out_path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out_path) as part:
        part.write_text(page, encoding="utf-8")
    return {"path": str(out_path), "bytes": out_path.stat().st_size, "pairs": len(rows), "pictures": len(thumbs)}


def named(column: str | None, otherwise: str) -> str:
    return column.removeprefix("embed.") if column else otherwise


def tiles(about: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(what, how many, of how many) of what was counted."""
    counts = about.get("counts")
    if not counts:
        return []
    how = "all pairs" if about["exact"] else "by chance"
    return [("compared", number(counts["compared"]), f"{how} of {number(counts['rows'])} pictures"),
            ("the same to the eye", number(counts["similar"]), f"{number(counts['near'])} near duplicates"),
            ("blind", number(counts["blind"]), "and apart to the other")]  # fmt: skip


def missed_grid(patterns: list[dict[str, Any]] | None) -> Grid | None:
    """Of pairs that differ in one pattern alone: how many of each are blind, beside all such pairs of the table."""
    if not patterns or not sum(row["blind"] for row in patterns):
        return None
    share = environment().filters["pct"]
    rows = [[row["pattern"], number(row["blind"]), share(row["share"]), share(row["base_share"]),
             f"{row['p_holm']:.2g}", "yes" * row["enriched"]] for row in patterns]  # fmt: skip
    return Grid("Patterns", ["pattern", "blind pairs", "%", "by chance %", "p (Holm)", "missed"], rows,
                "Pairs that differ in one pattern alone, beside all such pairs of the table.")


def facts(about: dict[str, Any], path: Path) -> dict[str, str]:
    counts = {name.replace("_", " "): number(value) for name, value in about.get("counts", {}).items()}
    asked = {name: str(about["asked"][name]) for name in ("above", "below") if name in about.get("asked", {})}
    return {**about.get("of", {}), **asked, **counts, "file": str(path)}
