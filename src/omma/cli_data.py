"""The verbs of the command line that make tables and change their form: parse, call, print."""

import dataclasses
import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

import omma
from omma.cli_parts import Json, Seed, Where, Workers, read_words, working
from omma.views import answer, facts_table


class Mode(StrEnum):
    swap = "swap"
    single = "single"


class Store(StrEnum):
    bytes = "bytes"
    reference = "reference"


class Format(StrEnum):
    hf = "hf"
    parquet = "parquet"
    coco = "coco"
    llava = "llava"
    csv = "csv"
    nlvr = "nlvr"
    webdataset = "webdataset"
    folder = "folder"


class Target(StrEnum):
    webdataset = "webdataset"
    hf = "hf"
    parquet = "parquet"
    lance = "lance"


def scenes(
    out: Annotated[Path, typer.Argument(help="Folder to make; it will hold the tables pictures and items.")],
    pictures: Annotated[int, typer.Option(min=0, help="Plain pictures.")] = 1000,
    pairs: Annotated[int, typer.Option(min=0, help="Minimal pairs of each of the nine patterns.")] = 100,
    size: Annotated[int, typer.Option(min=16, help="Side of a picture in pixels.")] = 128,
    split: Annotated[str, typer.Option(help="What the column split says.")] = "train",
    kind: Annotated[list[str] | None, typer.Option(help="A kind to draw, of all; may be repeated.")] = None,
    colour: Annotated[list[str] | None, typer.Option(help="A colour to draw with, of all; may be repeated.")] = None,
    split_design: Annotated[str, typer.Option(help="How train and test differ: iid, cogent, ...; see the page.")] = "",
    secret_file: Annotated[Path | None, typer.Option(help="File whose text is the seed of the design fresh.")] = None,
    together: Annotated[list[str] | None, typer.Option(help="Kinds in company: cup,ball,0.9; repeatable.")] = None,
    world: Annotated[str, typer.Option(help="things, or solids: three dimensions, depth and viewpoint.")] = "things",
    look: Annotated[list[str] | None, typer.Option(help="style=sketch, noise=8, blur=0..3, ...; repeatable.")] = None,
    smallest: Annotated[int, typer.Option(min=0, help="Pairs of all sizes, things from so many pixels up.")] = 0,
    never: Annotated[list[str] | None, typer.Option(help="A pattern that no text speaks of; repeatable.")] = None,
    mode: Annotated[Mode, typer.Option(help="Edits of a pair: two things swapped, or a single one.")] = Mode.swap,
    check: Annotated[bool, typer.Option(help="Refuse pairs that a shortcut tells apart (not for training).")] = True,
    questions: Annotated[int, typer.Option(min=0, help="Questions about each picture, of all patterns.")] = 0,
    tags: Annotated[bool, typer.Option("--tags", help="List what is to be seen of each thing.")] = False,
    masks: Annotated[bool, typer.Option("--masks", help="Tell for every pixel which kind of thing is there.")] = False,
    gallery: Annotated[bool, typer.Option("--gallery", help="Write sheets of examples to OUT and stop.")] = False,
    export: Annotated[list[str] | None, typer.Option(help="Also write OUT/mmvp, mmvp-vlm, pope or nlvr2.")] = None,
    seed: Seed = 0,
    workers: Workers = 1,
    as_json: Json = False,
) -> None:
    """Draw a world whose truth is known.

    Pictures with captions, questions, statements, and minimal pairs of nine visual patterns.

    \b
    omma scenes scenes/train --pictures 5000 --pairs 200
    omma scenes scenes/test --pictures 500 --pairs 50 --seed 1 --split test
    omma scenes scenes/untold --pictures 5000 --pairs 200 --never orientation
    omma scenes scenes/unseen --pairs 400 --split-design cogent --split test
    omma scenes scenes/bench --pairs 15 --export mmvp --export mmvp-vlm --export pope
    """
    from omma.scenes.gallery import write_gallery
    from omma.scenes.layouts import LAYOUTS, export_scenes
    from omma.scenes.looks import parse_sweep
    from omma.scenes.sources import write_scenes

    if gallery:
        with working(as_json):
            sheets = {path.stem: {"path": str(path)} for path in write_gallery(out)}
        answer(as_json, sheets, lambda: facts_table("gallery", sheets))
        return
    with working(as_json):
        if unknown := [name for name in export or () if name not in LAYOUTS]:
            raise ValueError(f"no layout {unknown[0]!r}; there are {', '.join(LAYOUTS)}")
        looks, sweep = parse_sweep([setting(text) for text in look or ()])
        drawn, items = write_scenes(
            out,
            pictures=pictures,
            pairs=pairs,
            seed=seed,
            size=size,
            split=split,
            kinds=tuple(kind or ()),
            colours=tuple(colour or ()),
            split_design=split_design,
            secret=read_words(secret_file).strip() if secret_file else None,
            together=[company(text) for text in together or ()],
            world=world,
            look=looks,
            sweep=sweep,
            mode=mode.value,
            masks=masks,
            tags=tags,
            questions=questions,
            smallest=smallest,
            never=tuple(never or ()),
            check=check,
            workers=workers,
            progress=True,
        )
        exported = {name: export_scenes(out, name) for name in export or ()}
    result: dict[str, Any] = {
        "pictures": {"path": str(drawn.uri), "rows": drawn.num_rows},
        "items": {"path": str(items.uri), "rows": items.num_rows},
        **exported,
    }
    answer(as_json, result, lambda: facts_table("scenes", result))


def setting(text: str) -> tuple[str, str]:
    """ "noise=8" -> name and value."""
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"--look {text!r}: write a name and a value, as in style=sketch")
    return name, value


def company(text: str) -> tuple[str, str, float]:
    """ "cup,ball,0.9" -> two kinds and how often one brings the other."""
    match text.split(","):
        case [one, other, share] if re.fullmatch(r"[01]|0?\.\d+", share):
            return one, other, float(share)
    raise ValueError(f"--together {text!r}: write two kinds and a probability, as in cup,ball,0.9")


def ingest(
    source: Annotated[str, typer.Argument(help="Pictures: a folder, data of a format, a glob; or arxiv:QUESTION.")],
    out: Annotated[Path, typer.Argument(help="Folder of the table: a new one, or one to add to.")],
    format: Annotated[Format | None, typer.Option(help="What the source is (default: told by looking at it).")] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of the pictures that a list names.")] = None,
    captions: Annotated[str | None, typer.Option(help="Key or column that holds the captions.")] = None,
    field: Annotated[list[str] | None, typer.Option(help="Key or column to keep; may be repeated.")] = None,
    split: Annotated[str, typer.Option(help="What the column split says.")] = "train",
    language: Annotated[str, typer.Option(help="Language of the captions.")] = "en",
    store: Annotated[Store, typer.Option(help="Keep the pictures' bytes, or where they lie.")] = Store.bytes,
    most: Annotated[int | None, typer.Option(min=1, help="Papers to read, the newest (default: 1000).")] = None,
    workers: Workers = 1,
    as_json: Json = False,
) -> None:
    """Make a table of your pictures, or of papers.

    A picture that can't be read keeps its row, with the reason in the column status. Run it again when the source
    has grown: what is known stays, what is new is added. A question to arXiv has its words: ti:, abs:, au:, cat:, AND,
    OR, ANDNOT, quotes, parentheses, and date:2024-01..2024-06.

    \b
    omma ingest holiday/ tables/holiday
    omma ingest coco/annotations/captions_val2017.json tables/coco --images coco/val2017
    omma ingest 'shards/*.tar' tables/web --captions caption --field license --workers 2
    omma ingest 'arxiv:ti:"visual token" AND cat:cs.CV AND date:2024..' tables/tokens
    """
    from omma.data.ingest import summary
    from omma.data.papers.arxiv import summary as summary_of_papers

    with working(as_json):
        table = omma.ingest(
            source,
            out,
            format=None if format is None else format.value,
            images=images,
            captions=captions,
            fields=tuple(field or ()),
            split=split,
            language=language,
            store=store.value,
            most=most,
            workers=workers,
            progress=True,
        )
        counts = summary_of_papers(table) if table.kind == "papers" else summary(table)
    result = {"table": str(table.uri), **counts}
    answer(as_json, result, lambda: facts_table("ingest", result))


def ingest_items(
    source: Annotated[Path, typer.Argument(help="Questions: VQA's, NLVR2's, lines of your own, or a benchmark.")],
    out: Annotated[Path, typer.Argument(help="Folder to make; it will hold the tables pictures and items.")],
    images: Annotated[Path | None, typer.Option(help="Folder of the pictures, if the source is not enough.")] = None,
    answers: Annotated[Path | None, typer.Option(help="VQA's annotations, which hold the answers.")] = None,
    format: Annotated[str | None, typer.Option(help="vqa, nlvr2, jsonl (told by looking) or a benchmark.")] = None,
    labels: Annotated[str | None, typer.Option(help="Set of labels of a benchmark that has several.")] = None,
    frames: Annotated[int, typer.Option(min=1, help="Pictures to take of a video.")] = 8,
    split: Annotated[str, typer.Option(help="What the column split says.")] = "train",
    part: Annotated[str | None, typer.Option(help="Of a benchmark, the rows of this split alone.")] = None,
    store: Annotated[Store, typer.Option(help="Keep the pictures' bytes, or where they lie.")] = Store.bytes,
    workers: Workers = 1,
    as_json: Json = False,
) -> None:
    """Make tables of questions about your pictures.

    A line of your own: {"image": "a.jpg", "question": "what is it", "answer": "a cup"}. What did not fit is counted:
    missing pictures, ids that came before, answers that are none of the options, files of another version.

    \b
    omma ingest-items nlvr2/dev.json tables/nlvr2 --images nlvr2/images --split dev
    omma ingest-items questions.jsonl tables/mine --images photos
    omma ingest-items POPE/output/coco tables/pope --format pope --images val2014
    """
    with working(as_json):
        made = omma.ingest_items(source, out, images=images, answers=answers, format=format, labels=labels,
                                 frames=frames, split=split, part=part, store=store.value, workers=workers,
                                 progress=True)  # fmt: skip
    result: dict[str, Any] = {table.uri.name: {"path": str(table.uri), "rows": table.num_rows} for table in made}
    note = made[1].info["ingest_items"]
    result["met"] = {"pictures missing": note["pictures_missing"]}
    result["met"] |= {name: found["version"] for name, found in note.get("files", {}).items() if found["version"]}
    result["met"] |= {what: f"{n}, such as {first}" for what, (n, first) in note.get("problems", {}).items()}
    answer(as_json, result, lambda: facts_table("ingest-items", result))


def masks(
    table: Annotated[Path, typer.Argument(help="Table of pictures.")],
    folder: Annotated[Path, typer.Argument(help="Folder with a greyscale .png of each picture's name.")],
    classes: Annotated[Path, typer.Option(help="Text file with a class name a line, in the order of the values.")],
    first: Annotated[int, typer.Option(min=0, help="Value of the first class; lower ones are no class.")] = 0,
    as_json: Json = False,
) -> None:
    """Add a class for every pixel to a table.

    \b
    omma masks tables/ade20k annotations/training --classes names.txt --first 1
    """
    with working(as_json):
        names = [line.strip() for line in read_words(classes).splitlines() if line.strip()]
        made = omma.add_masks(table, folder, classes=names, first=first, progress=True)
        known = sum(made.read(["mask"])["mask"].is_valid().to_pylist())
    result = {"table": str(table), "classes": len(names), "pictures": made.num_rows, "with a mask": known}
    answer(as_json, result, lambda: facts_table("masks", result))


def export(
    table: Annotated[Path, typer.Argument(help="Table of pictures.")],
    out: Annotated[Path, typer.Argument(help="Folder to make.")],
    to: Annotated[Target, typer.Option(help="Tars, a Hugging Face dataset folder, Parquet files, or Lance.")],
    where: Where = None,
    column: Annotated[list[str] | None, typer.Option(help="Column to write, of all; may be repeated.")] = None,
    shard_mb: Annotated[int, typer.Option(min=1, help="Close a file when its pictures have so many MB.")] = 256,
    keep_metadata: Annotated[bool, typer.Option("--keep-metadata", help="Leave in what cameras noted.")] = False,
    as_json: Json = False,
) -> None:
    """Write a table's pictures for other tools.

    What cameras noted in them, such as the place, is left out.

    \b
    omma export tables/holiday shards --to webdataset --where "status == 'ok'"
    omma export tables/holiday saved --to hf
    """
    with working(as_json):
        done = omma.export(table, out, to=to.value, where=where, columns=column, shard_bytes=shard_mb << 20,
                           keep_metadata=keep_metadata, progress=True)  # fmt: skip
    result = dataclasses.asdict(done)
    answer(as_json, result, lambda: facts_table("export", result))


VERBS = {"scenes": scenes, "ingest": ingest, "ingest-items": ingest_items, "masks": masks, "export": export}
