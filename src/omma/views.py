"""What a command prints: one JSON object, or tables for people."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import omma


def answer(as_json: bool, result: Any, view: Callable[[], Any]) -> None:
    if as_json:
        print(json.dumps(jsonable(result), allow_nan=False))
        return
    from rich.console import Console

    console = Console(markup=False, emoji=False)  # a caption may hold [/b] or :cup:, and is shown as it stands
    shown_as = view()
    for part in shown_as if isinstance(shown_as, list) else [shown_as]:
        console.print(part)


def jsonable(value: Any) -> Any:
    """JSON has no NaN, no paths and no bytes: null, strings and left out."""
    if isinstance(value, dict):
        return {str(name): jsonable(item) for name, item in value.items() if not isinstance(item, bytes)}
    if isinstance(value, list | tuple | set | frozenset):
        return [jsonable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, str | int | float | bool) or value is None:
        return value
    if hasattr(value, "tolist"):  # numpy's numbers and arrays
        return jsonable(value.tolist())
    return str(value)


def facts_table(title: str, values: dict[str, Any], **more: Any) -> Any:
    """Two columns: what, and how much."""
    from rich.table import Table as Grid

    grid = Grid(title=title, title_justify="left", show_header=False)
    for name, value in {**values, **more}.items():
        grid.add_row(name, words(value))
    return grid


def demo_tables(result: dict[str, Any]) -> list[Any]:
    from rich.table import Table as Grid

    grids = {}
    for name in result["reports"]:
        title = "what the eye of this demo sees" if name == "demo" else f"what {name} sees, which comes with omma"
        columns = ("%", "model", "95 %", "blind", "wrong image", "chance")
        grids[name] = Grid(*columns, title=title, title_justify="left")
    for row in result["summary"]:
        numbers = ("value", "low95", "high95", "blind", "wrong-image", "chance")
        value, low, high, *controls = ("–" if row[name] is None else f"{100 * row[name]:.1f}" for name in numbers)
        grids[row["eye"]].add_row(f"{row['task']} {row['metric']} ({row['score']})", value, f"{low}–{high}", *controls)
    facts = {"report": result["report"], "model": result["checkpoint"], "seconds": result["seconds"]}
    return [*grids.values(), hits_table(result["query"], result["hits"]), facts_table("done", facts)]


def hits_table(query: str, hits: list[tuple[str, float, str]], numbered: bool = False) -> Any:
    """One line a hit; hits: (id, score, caption). numbered: with the numbers that stand below its pictures."""
    from rich.table import Table as Grid

    grid = Grid(*["#"] * numbered, "score", "id", "caption", title=f"hits for {query!r}", title_justify="left")
    for number, (id_, score, caption) in enumerate(hits, 1):
        grid.add_row(*[str(number)] * numbered, f"{score:.3f}", id_, caption)
    return grid


LEAST_WHERE, LEAST_WHAT = 16, 24  # characters of a place, and of what is said, where there is room for both


def found_tables(query: str, rows: list[dict[str, Any]], numbered: bool = False) -> list[Any]:
    """One line a hit in an index: the numbers behind its place, where it is, and what is said of it. numbered: with the
    numbers that stand below its pictures."""
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table as Grid

    if not rows:
        return [f"nothing found for {query!r}"]
    kinds = [name for name in ("match", "look", "like", "words") if any(name in row["scores"] for row in rows)]
    lines = []
    for number, row in enumerate(rows, 1):
        numbers = (f"{row['scores'][name]:.3f}" if name in row["scores"] else "" for name in kinds)
        copies = f" (+{len(row['also'])} like it)" if row["also"] else ""
        said = " ".join((row["row"]["caption"] or row["row"]["text"] or "").split())
        lines.append([*[str(number)] * numbered, *numbers, row["row"]["kind"], from_here(row["place"]) + copies, said])
    first = [*["#"] * numbered, *kinds, "kind"]
    widest = [max(cell_len(cell) for cell in column) for column in zip([*first, "where", "what"], *lines, strict=True)]
    # in a narrow terminal what is said is cut first, and where it is last, which is what one came for
    room = Console().width - sum(widest[:-2]) - 3 * len(widest) - 1
    where = min(widest[-2], max(LEAST_WHERE, room - LEAST_WHAT))
    what = room - where
    grid = Grid(title=f"hits for {query!r}", title_justify="left")
    for name, width in zip(first, widest, strict=False):
        grid.add_column(name, no_wrap=True, width=width)
    grid.add_column("where", overflow="fold", width=where if what >= LEAST_WHAT // 2 else max(LEAST_WHERE, room + 3))
    if what >= LEAST_WHAT // 2:
        grid.add_column("what", overflow="ellipsis", no_wrap=True, max_width=what)
    for line in lines:
        grid.add_row(*line[: len(grid.columns)])
    return [grid]


def papers_tables(query: str, rows: list[dict[str, Any]]) -> list[Any]:
    """Two lines a paper or more: the numbers behind its place, its day, title, authors and link."""
    from rich.table import Table as Grid

    if not rows:
        return [f"nothing found for {query!r}"]
    kinds = [name for name in ("words", "meaning") if any(name in row["scores"] for row in rows)]
    grid = Grid(title=f"papers for {query!r}", title_justify="left", show_lines=True)
    for name in (*kinds, "published"):
        grid.add_column(name, no_wrap=True)
    grid.add_column("paper", overflow="fold")
    for row in rows:
        numbers = (f"{row['scores'][name]:.3f}" if name in row["scores"] else "" for name in kinds)
        paper = row["row"]
        said = f"{paper['title']}\n{names(paper['authors'] or [])}\n{paper['link']}"
        grid.add_row(*numbers, (paper["published"] or "")[:10], said)
    return [grid]


MOST_NAMES = 4


def names(people: list[str]) -> str:
    """The first ones, and how many more there are."""
    left = len(people) - MOST_NAMES
    return ", ".join(people) if left <= 1 else f"{', '.join(people[:MOST_NAMES])} and {left} more"


def from_here(place: str) -> str:
    """A path as it is typed from the folder one is in."""
    return place.removeprefix(f"{Path.cwd()}/")


MOST_TOLD = 20         # files that could not be read, and problems


def index_tables(result: dict[str, Any]) -> list[Any]:
    """What an indexing met, a line a folder; and what could not be read."""
    from rich.table import Table as Grid

    names = ("new", "changed", "moved", "gone", "same", "unreadable", "seconds")
    grid = Grid(title="indexed", title_justify="left")
    for name in ("folder", *names):
        grid.add_column(name, overflow="fold")
    for run in result["runs"]:
        grid.add_row(from_here(run["source"]), *(words(run[name]) for name in names))
    parts: list[Any] = [grid, f"{result['index']} holds {words(result['items']) or 'nothing'}; "
                              f"{result['versions']} are versions of another picture"]  # fmt: skip
    for run in result["runs"]:
        parts += [f"note: {line}" for line in [*run["problems"][:MOST_TOLD], *filter(None, [run["advice"]])]]
    return [*parts, *unreadable_tables(result["unreadable"]), "Search it: omma search \"a red cup\""]


def unreadable_tables(rows: list[dict[str, str]]) -> list[Any]:
    from rich.table import Table as Grid

    if not rows:
        return []
    number = "1 file" if len(rows) == 1 else f"{len(rows)} files"
    grid = Grid("file", "why", "", title=f"{number} can't be read", title_justify="left")
    for row in rows[:MOST_TOLD]:
        grid.add_row(from_here(row["path"]), row["status"], cut(row["note"], 60))
    return [grid, *([f"and {len(rows) - MOST_TOLD} more: omma index status --json"] if len(rows) > MOST_TOLD else [])]


def status_tables(result: dict[str, Any]) -> list[Any]:
    """What an index holds."""
    folders = {place: f"{facts['files']:,} files" for place, facts in result["folders"].items()}
    return [facts_table(result["index"], {"bytes": result["bytes"], **folders, "items": result["items"] or "none",
                                          "eyes": result["eyes"] or "none", "versions": result["versions"]}),
            *unreadable_tables(result["unreadable"])]  # fmt: skip


def blind_tables(result: dict[str, Any]) -> list[Any]:
    """Counts, the strongest pairs, the patterns they differ in, and thresholds that fit these eyes."""
    from rich.table import Table as Grid

    counts = {name.replace("_", " "): value for name, value in result["counts"].items()}
    asked = {side: f"{result[side]:.4f}" for side in ("above", "below")}
    grids: list[Any] = [facts_table("blind pairs", {"eye": result["eye"], "reference": result["reference"], **asked,
                                                    "all pairs compared": result["exact"], **counts})]  # fmt: skip
    if rate := result["rate"]:
        high = "?" if rate["high95"] is None else f"{rate['high95']:.3g}"
        grids.append(f"of all pairs {rate['value']:.3g} are blind (95 %: {rate['low95']:.3g} to {high}), from "
                     f"{rate['rows_drawn']:,} of {rate['rows']:,} pictures held against all")  # fmt: skip
    if result["pairs"]:
        columns = ("eye", "reference", "one", "other", "they differ in")
        pairs = Grid(title="the widest gaps", title_justify="left")
        for name in columns:
            pairs.add_column(name, overflow="fold")  # a name that is cut names no picture
        for row in result["pairs"]:
            what = ", ".join(row.get("differences") or ())
            pairs.add_row(f"{row['eye']:.3f}", f"{row['reference']:.3f}", row["a"], row["b"], what)
        grids.append(pairs)
    if result["missed"]:
        title = (f"{result['missed']['one_pattern']} blind pairs differ in one pattern alone, as do "
                 f"{result['missed']['compared']:,} pairs of the table")  # fmt: skip
        grid = Grid("pattern", "blind", "%", "by chance %", "p (Holm)", "missed", title=title, title_justify="left")
        for row in result["missed"]["patterns"]:
            shares = ("–" if row[name] is None else f"{100 * row[name]:.1f}" for name in ("share", "base_share"))
            grid.add_row(row["pattern"], str(row["blind"]), *shares, f"{row['p_holm']:.2g}", "yes" * row["enriched"])
        grids.append(grid)
    if result["other_way"]:
        grids += both_ways_tables(result)
    told = result["suggested"]
    grids.append(f"for these eyes: --above {told['above']:.4f} --below {told['below']:.4f}\n(the eye's cosine is "
                 f"{told['eye']['mean']:.3f} on average, the reference's {told['reference']['mean']:.3f}; from "
                 f"{told['pairs']:,} pairs)")  # fmt: skip
    return [*grids, *([f"pairs: {result['out']}"] if result["out"] else [])]


def both_ways_tables(result: dict[str, Any]) -> list[Any]:
    """How many pairs are blind to the one eye and to the other, and who misses each pattern."""
    from rich.table import Table as Grid

    other, eyes = result["other_way"], (result["eye"], result["reference"])
    lines: list[Any] = [f"both ways: {result['counts']['blind']:,} pairs blind to {eyes[0]}, "
                        f"{other['counts']['blind']:,} to {eyes[1]} (above {other['above']:.4f}, "
                        f"below {other['below']:.4f})"]  # fmt: skip
    if other["patterns"]:
        names = {"eye": eyes[0], "reference": eyes[1], None: ""}
        title = "blind to one of the two and told apart by the other, each picture once"
        grid = Grid("pattern", *eyes, "p (Holm)", "missed by", title=title, title_justify="left")
        for row in other["patterns"]:
            counts = (str(row[name]) for name in ("eye", "reference"))
            grid.add_row(row["pattern"], *counts, f"{row['p_holm']:.2g}", names[row["missed_by"]])
        lines.append(grid)
    return lines


def curve_table(rows: list[dict[str, float]]) -> Any:
    """One line an alpha, a column a number."""
    from rich.table import Table as Grid

    grid = Grid(*rows[0], title="between the two models", title_justify="left")
    for row in rows:
        grid.add_row(*(f"{value:.3f}" for value in row.values()))
    return grid


def explanation_tables(result: dict[str, Any]) -> list[Any]:
    """Shares of words and patches in per cent of all, the largest patch in bold."""
    from rich.table import Table as Grid
    from rich.text import Text

    said = Grid("word", "%", title=f"score {result['score']:.3f} ({result['kind']})", title_justify="left")
    for word, share in result["words"]:
        said.add_row(word, f"{100 * share:.1f}")
    row, column = result["peak"]
    seen = Grid(title="patches, %", title_justify="left", show_header=False, box=None)
    for y, line in enumerate(result["patches"].tolist()):
        seen.add_row(*(Text(f"{100 * v:.0f}", style="bold" if (y, x) == (row, column) else "")
                       for x, v in enumerate(line)))  # fmt: skip
    return [said, seen, *([f"heat: {result['heat']}"] if result["heat"] else [])]


def shown(thing: Path, summary: dict[str, Any]) -> Any:
    """A report prints itself, a table shows its columns, a run its settings; the rest are facts."""
    if summary["kind"] == "report":
        return omma.Report.load(thing)
    if summary["kind"] == "table":
        return shown_table(summary)
    config = summary.pop("config", None)
    facts = facts_table(summary.pop("kind"), summary)
    return [facts, facts_table("config", config)] if config else facts


def shown_table(summary: dict[str, Any]) -> Any:
    from rich.table import Table as Grid

    counts = {name: words(values) for name, values in summary["counts"].items()}
    head = facts_table(
        f"table of {summary['of']}",
        {"path": summary["path"], "rows": summary["rows"], "chunks": len(summary["chunks"]), **counts},
    )
    columns = Grid("column", "type", "for example", title="columns", title_justify="left")
    for name, type_ in summary["columns"].items():
        example = next((row[name] for row in summary["sample"] if row.get(name) is not None), "")
        columns.add_row(name, cut(type_, 40), cut(words(example), 60))
    return [head, columns]


def cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 3] + "..."


def words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {words(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(words, value))
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
