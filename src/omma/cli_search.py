"""The verbs that find pictures again: omma index, omma search."""

import itertools
import os
import shutil
import sys
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

import omma
from omma.cli_parts import Device, Json, On, Precision, Where, read_picture, working
from omma.views import (
    answer,
    facts_table,
    found_tables,
    hits_table,
    index_tables,
    jsonable,
    papers_tables,
    status_tables,
)


class Words(StrEnum):
    pages = "pages"
    all = "all"
    none = "none"


class Thumbnails(StrEnum):
    auto = "auto"
    kitty = "kitty"
    iterm = "iterm"
    sixel = "sixel"
    blocks = "blocks"
    none = "none"


class By(StrEnum):
    both = "both"
    look = "look"
    words = "words"


MOST_DRAWN = 24
SMALL = 192              # pixels of the short side
At = Annotated[Path | None, typer.Option("--index", help="The index's file (default: this person's own).")]
Vectors = Annotated[str | None, typer.Option("--vectors", help="An approximate index: a folder, or Qdrant's URL.")]
Eye = Annotated[str | None, typer.Option("--encoder", "-e", help="An eye: a name, a run, a model folder.")]


def index(
    folders: Annotated[list[Path] | None, typer.Argument(help="Folders; or status, check, forget FOLDER.")] = None,
    at: At = None,
    encoder: Eye = None,
    ocr: Annotated[Words, typer.Option(help="What tesseract reads: pages without text, pictures too.")] = Words.pages,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Pictures at a time.")] = 32,
    device: On = Device.auto,
    precision: Annotated[Precision | None, typer.Option(help="Of the eye: as before, else auto (bf16 where it is "
                                                        "fast).")] = None,
    vectors: Vectors = None,
    as_json: Json = False,
) -> None:
    """Make folders searchable.

    Pictures with the captions beside them, PDF pages, videos by their shots, texts. Again: only what is new, changed or
    gone is touched. Without a folder, all that are known. The eye is vlmo-nano at first, which comes with omma, and
    then the one of before.

    \b
    omma index Pictures
    omma index Pictures --encoder openai/clip-vit-base-patch32
    omma index
    omma index status
    omma index check --vectors vectors.qdrant
    omma index forget Pictures
    """
    first = str(folders[0]) if folders else ""
    if first in ("status", "check") and folders and len(folders) > 1:
        raise typer.BadParameter(f"omma index {first} is of the whole index, and {str(folders[1])!r} is one word too "
                                 f"many; to index a folder of the name {first}, give its whole path")
    if first == "status":
        with working(as_json), omma.Index.open(at) as opened:
            result = opened.status()
        answer(as_json, result, lambda: status_tables(result))
        return
    if first == "check":
        with working(as_json), omma.Index.open(at, encoder=encoder, device=device.value, vectors=vectors,
                                               progress=not as_json) as opened:  # fmt: skip
            result = opened.check()
        answer(as_json, result, lambda: facts_table("check", result))
        return
    if first == "forget":
        if not folders or len(folders) < 2:
            raise typer.BadParameter("name the folder to forget: omma index forget FOLDER")
        with working(as_json), omma.Index.open(at) as opened:
            gone = {str(folder): opened.forget(folder) for folder in folders[1:]}
        told = [f"forgot {number} files of {name}" for name, number in gone.items()]
        answer(as_json, {"forgotten": gone}, lambda: told)
        return
    with working(as_json):
        places: Any = folders or None
        with omma.build_index(places, at, encoder=encoder, ocr=ocr.value, batch_size=batch_size, device=device.value,
                              precision=precision.value if precision else None, progress=True) as opened:  # fmt: skip
            whole, runs = opened.status(), opened.runs
    result = {"index": whole["index"], "runs": runs, "items": whole["items"],
              "eyes": whole["eyes"], "versions": whole["versions"], "unreadable": whole["unreadable"]}  # fmt: skip
    answer(as_json, result, lambda: index_tables(result))


def search(
    words: Annotated[list[str] | None, typer.Argument(metavar="[PLACE] [WORDS]", help="What to look for; before it, if "
                                                      "wanted, a folder, an index or a table.")] = None,
    image: Annotated[Path | None, typer.Option(help="Look for what is like this picture.")] = None,
    at: At = None,
    encoder: Eye = None,
    k: Annotated[int, typer.Option("-k", min=1, help="How many hits.")] = 10,
    where: Where = None,
    by: Annotated[By, typer.Option(help="Look: the eye alone; words: captions, texts and names alone.")] = By.both,
    rerank: Annotated[int, typer.Option(min=0, help="Let the fusion head put so many first hits in order.")] = 0,
    diverse: Annotated[float, typer.Option(min=0, max=1, help="Fewer hits that look like one before.")] = 0.0,
    vectors: Vectors = None,
    thumbnails: Annotated[Thumbnails, typer.Option(help="Draw small pictures of the hits in the terminal, in the way "
                                                   "it is known for; or in this way.")] = Thumbnails.auto,
    device: On = Device.auto,
    as_json: Json = False,
) -> None:
    """Find pictures and texts by words or a picture.

    In all that was indexed (omma index), in one folder of it, in a table with a column of vectors (omma embed), or in a
    table of papers.

    \b
    omma search "two red cups on a table"
    omma search Pictures "two red cups" -k 5 --where "date >= '2024'"
    omma search --image cup.jpg
    omma search tables/holiday "two red cups" --encoder runs/vl --rerank 32
    omma search tables/tokens "pruning without training" --where "published >= '2024'"
    """
    if as_json and thumbnails not in (Thumbnails.auto, Thumbnails.none):
        raise typer.BadParameter("--json prints one object; leave out --thumbnails")
    given = list(words or ())
    if len(given) > 2:
        quoted = " ".join(given)
        raise typer.BadParameter(f'{len(given)} words; put what you look for in quotes: omma search "{quoted}"')
    first = Path(given[0]) if given else None
    named = len(given) == 2 or (first is not None and (is_table(first) or (image is not None and
                                                                           os.path.exists(first))))  # fmt: skip
    place, query = (first, " ".join(given[1:])) if named else (None, " ".join(given))
    if not query and image is None:
        raise typer.BadParameter("give words to look for, --image FILE, or both")
    if place is not None and is_table(place):
        of_index = {"--index": at, "--by": by is not By.both, "--diverse": diverse, "--vectors": vectors}
        if told := [name for name, given_one in of_index.items() if given_one]:
            raise typer.BadParameter(f"{place} is a table, and {' and '.join(told)} is for an index of folders; leave "
                                     "it out")  # fmt: skip
        search_table(place, query, image, encoder, k, where, rerank, device, thumbnails, as_json)
        return
    with working(as_json):
        if place is not None and not place.exists():
            raise ValueError(f"no folder, index or table at {place}; what to look for goes in quotes")
        asked = None if image is None else read_picture(image)
        at, under = (place, None) if place is not None and place.is_file() else (at, place)
        with omma.Index.open(at, encoder=encoder, device=device.value, vectors=vectors,
                             progress=not as_json) as opened:  # fmt: skip
            hits = opened.search(query, image=asked, k=k, where=where, under=under, rerank=rerank, diverse=diverse,
                                 by=by.value)  # fmt: skip
    rows = [{"id": hit.id, "score": hit.score, "place": hit.place, "scores": hit.scores, "also": hit.also,
             "row": jsonable(hit.row)} for hit in hits]  # fmt: skip
    asked_for = " + ".join(str(part) for part in (query, image) if part)
    drawn = draw((hit.thumbnail for hit in hits), thumbnails, as_json)
    answer(as_json, {"query": asked_for, "hits": rows}, lambda: found_tables(asked_for, rows, drawn))


def draw(pictures: Iterator[Any], asked: Thumbnails, as_json: bool) -> bool:
    """Writes the first pictures; False where no way is asked for or known, or none has a look."""
    if as_json or asked is Thumbnails.none:
        return False
    from omma.terminal import cell_of, drawn, way_of

    way = way_of(os.environ, sys.stdout.isatty(), sys.stdout.encoding) if asked is Thumbnails.auto else asked.value
    if way is None:
        return False
    seen = list(itertools.islice(pictures, MOST_DRAWN))
    written = drawn(seen, way, shutil.get_terminal_size().columns, cell_of(sys.stdout))
    sys.stdout.write(written)
    return bool(written)


def search_table(place: Path, query: str, image: Path | None, encoder: str | None, k: int, where: str | None,
                 rerank: int, device: Device, thumbnails: Thumbnails, as_json: bool) -> None:
    if (not query) == (image is None):
        raise typer.BadParameter("a table is searched by words or by --image FILE, one of them")
    with working(as_json):
        table = omma.Table.open(place)
        of_papers = table.kind == "papers"
        if not encoder and not of_papers:
            raise typer.BadParameter("give --encoder, the one that embedded the table")
        asked = read_picture(image) if image else query
        model = omma.load_encoder(encoder, device=device.value) if encoder else None
        hits = omma.search(table, asked, encoder=model, k=k, where=where, rerank=rerank)
    if of_papers:
        papers = [{"id": hit.id, "score": hit.score, "scores": hit.scores, "row": jsonable(hit.row)} for hit in hits]
        answer(as_json, {"query": query, "hits": papers}, lambda: papers_tables(query, papers))
        return
    rows = [{"id": hit.id, "score": float(hit.score), "row": without_bytes(hit.row)} for hit in hits]
    result = {"query": query or str(image), "hits": rows}
    found = [(hit.id, hit.score, "; ".join(c["text"] for c in (hit.row.get("captions") or [])[:2])) for hit in hits]
    drawn = draw((look(hit.row, table.uri) for hit in hits), thumbnails, as_json)
    answer(as_json, result, lambda: hits_table(result["query"], found, drawn))


def look(row: dict[str, Any], root: Path) -> Any:
    """A small picture of a table's row, None where there is none or its file is gone."""
    from omma.decode import open_picture

    try:
        return open_picture(row, root, target=SMALL).image
    except ValueError:
        return None


def is_table(place: Path) -> bool:
    return os.path.isfile(place / "manifest.json")        # also where a long question is no name of a file


def without_bytes(row: dict[str, Any]) -> dict[str, Any]:
    """The row without pictures and vectors, which nobody reads in a terminal."""
    return {name: value for name, value in row.items() if name != "bytes" and not name.startswith("embed.")}


VERBS = {"index": index, "search": search}
