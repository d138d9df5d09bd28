"""The command line: one verb = one public function: parse, call, print. Heavy modules load inside their verb."""

import contextlib
import dataclasses
import os
import re
import sys
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

import omma
from omma.failures import INTERRUPTED, OK, tell
from omma.views import answer, demo_tables, explanation_tables, facts_table, hits_table, shown

EXIT_CODES = "Exit codes: 0 ok, 1 unexpected failure, 2 bad usage or input, 3 the loss was not finite, 130 interrupted."

app = typer.Typer(
    name="omma",
    help="Train the eyes of vision-language models, find what they cannot see, and use them.",
    epilog="Start with: omma demo\n\n" + EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


class Device(StrEnum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"


class What(StrEnum):
    image = "image"
    text = "text"


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


class Score(StrEnum):
    itm = "itm"
    itc = "itc"


class Method(StrEnum):
    relevance = "relevance"
    rollout = "rollout"


class Preset(StrEnum):
    full = "full"
    tiny = "tiny"


Json = Annotated[bool, typer.Option("--json", help="Print exactly one JSON object on stdout; all else on stderr.")]
On = Annotated[Device, typer.Option("--device", help="Where the model runs.", show_default=True)]
Batch = Annotated[int, typer.Option("--batch-size", min=1, help="Pictures or texts at a time.")]
Workers = Annotated[int, typer.Option("--workers", min=1, help="Processes to work with.")]
Seed = Annotated[int, typer.Option("--seed", help="Everything drawn by chance depends on it alone.")]
Where = Annotated[str | None, typer.Option("--where", help="Rows to use, e.g. \"split == 'test' and width >= 64\".")]


# ---- the verbs, in the order of the story


@app.command()
def demo(
    out: Annotated[Path, typer.Argument(help="Folder to make.")] = Path("omma-demo"),
    preset: Annotated[Preset, typer.Option(help="tiny: seconds, learns nothing; to see that it runs.")] = Preset.full,
    seed: Seed = 0,
    device: On = Device.auto,
    as_json: Json = False,
) -> None:
    """The whole story in a few minutes.

    Draws a world, trains an eye on it in three stages, finds what it cannot see, searches it, and writes a report.

    \b
    omma demo
    omma demo my-demo --seed 1
    """
    from omma.demo import run_demo

    with working(as_json):
        result = run_demo(out, seed=seed, preset=preset.value, device=device.value)
    answer(as_json, result, lambda: demo_tables(result))


@app.command()
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
    look: Annotated[list[str] | None, typer.Option(help="style=sketch, clutter=2, noise=8, ...; repeatable.")] = None,
    mode: Annotated[Mode, typer.Option(help="Edits of a pair: two things swapped, or a single one.")] = Mode.swap,
    check: Annotated[bool, typer.Option(help="Refuse pairs that a shortcut tells apart (not for training).")] = True,
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
    omma scenes scenes/unseen --pairs 400 --split-design cogent --split test
    omma scenes scenes/bench --pairs 15 --export mmvp --export mmvp-vlm --export pope
    """
    from omma.scenes.gallery import write_gallery
    from omma.scenes.layouts import LAYOUTS, export_scenes
    from omma.scenes.looks import Look
    from omma.scenes.sources import write_scenes

    if gallery:
        with working(as_json):
            sheets = {path.stem: {"path": str(path)} for path in write_gallery(out)}
        answer(as_json, sheets, lambda: facts_table("gallery", sheets))
        return
    with working(as_json):
        if unknown := [name for name in export or () if name not in LAYOUTS]:
            raise ValueError(f"no layout {unknown[0]!r}; there are {', '.join(LAYOUTS)}")
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
            secret=secret_file.read_text(encoding="utf-8").strip() if secret_file else None,
            together=[company(text) for text in together or ()],
            world=world,
            look=Look.parse(dict(setting(text) for text in look or ())),
            mode=mode.value,
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


@app.command()
def ingest(
    source: Annotated[str, typer.Argument(help="Folder of pictures, or data of one of the formats, or a glob.")],
    out: Annotated[Path, typer.Argument(help="Folder of the table: a new one, or one to add to.")],
    format: Annotated[Format | None, typer.Option(help="What the source is (default: told by looking at it).")] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of the pictures that a list names.")] = None,
    captions: Annotated[str | None, typer.Option(help="Key or column that holds the captions.")] = None,
    field: Annotated[list[str] | None, typer.Option(help="Key or column to keep; may be repeated.")] = None,
    split: Annotated[str, typer.Option(help="What the column split says.")] = "train",
    language: Annotated[str, typer.Option(help="Language of the captions.")] = "en",
    store: Annotated[Store, typer.Option(help="Keep the pictures' bytes, or where they lie.")] = Store.bytes,
    workers: Workers = 1,
    as_json: Json = False,
) -> None:
    """Make a table of your pictures.

    A picture that can't be read keeps its row, with the reason in the column status. Run it again when the source
    has grown: what is known stays, what is new is added.

    \b
    omma ingest holiday/ tables/holiday
    omma ingest coco/annotations/captions_val2017.json tables/coco --images coco/val2017
    omma ingest 'shards/*.tar' tables/web --captions caption --field license --workers 2
    """
    from omma.data.ingest import summary

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
            workers=workers,
            progress=True,
        )
        counts = summary(table)
    result = {"table": str(table.uri), **counts}
    answer(as_json, result, lambda: facts_table("ingest", result))


@app.command("ingest-items")
def ingest_items(
    source: Annotated[Path, typer.Argument(help="VQA's questions, NLVR2's examples, or lines of your own (.jsonl).")],
    out: Annotated[Path, typer.Argument(help="Folder to make; it will hold the tables pictures and items.")],
    images: Annotated[Path, typer.Option(help="Folder of the pictures.")],
    answers: Annotated[Path | None, typer.Option(help="VQA's annotations, which hold the answers.")] = None,
    format: Annotated[str | None, typer.Option(help="vqa, nlvr2 or jsonl (default: told by looking at it).")] = None,
    split: Annotated[str, typer.Option(help="What the column split says.")] = "train",
    store: Annotated[Store, typer.Option(help="Keep the pictures' bytes, or where they lie.")] = Store.bytes,
    workers: Workers = 1,
    as_json: Json = False,
) -> None:
    """Make tables of questions about your pictures.

    A line of your own: {"image": "a.jpg", "question": "what is it", "answer": "a cup"}.

    \b
    omma ingest-items nlvr2/dev.json tables/nlvr2 --images nlvr2/images --split dev
    omma ingest-items questions.jsonl tables/mine --images photos
    """
    with working(as_json):
        made = omma.ingest_items(source, out, images=images, answers=answers, format=format, split=split,
                                 store=store.value, workers=workers, progress=True)  # fmt: skip
    result = {table.uri.name: {"path": str(table.uri), "rows": table.num_rows} for table in made}
    answer(as_json, result, lambda: facts_table("ingest-items", result))


@app.command()
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


@app.command()
def embed(
    table: Annotated[Path, typer.Argument(help="Table of pictures.")],
    encoder: Annotated[str, typer.Option("--encoder", "-e", help="Checkpoint, run folder or model name.")],
    what: Annotated[What, typer.Option(help="Embed the pictures or their captions.")] = What.image,
    column: Annotated[str | None, typer.Option(help="Name of the new column (default: embed.<encoder>).")] = None,
    batch_size: Batch = 64,
    device: On = Device.auto,
    as_json: Json = False,
) -> None:
    """Add a column of vectors to a table.

    The column is named after the encoder. What an interrupted run computed is kept.

    \b
    omma embed tables/holiday --encoder runs/vl
    """
    with working(as_json):
        model = omma.load_encoder(encoder, device=device.value)
        report = omma.embed(
            omma.Table.open(table), model, what=what.value, column=column, batch_size=batch_size, progress=True
        )
    result = {"table": str(table), **dataclasses.asdict(report)}
    answer(as_json, result, lambda: facts_table("embed", result))


@app.command()
def search(
    table: Annotated[Path, typer.Argument(help="Table with a column of vectors (omma embed makes it).")],
    query: Annotated[str | None, typer.Argument(help="What to look for, in words.")] = None,
    image: Annotated[Path | None, typer.Option(help="Look for pictures like this file instead.")] = None,
    encoder: Annotated[str, typer.Option("--encoder", "-e", help="The encoder that embedded the table.")] = "",
    k: Annotated[int, typer.Option("-k", min=1, help="How many hits.")] = 10,
    where: Where = None,
    rerank: Annotated[int, typer.Option(min=0, help="Let the fusion head put so many first hits in order.")] = 0,
    device: On = Device.auto,
    as_json: Json = False,
) -> None:
    """Find pictures by words or by a picture.

    \b
    omma search tables/holiday "two red cups on a table" --encoder runs/vl -k 5
    omma search tables/holiday "two red cups on a table" --encoder runs/vl -k 5 --rerank 32
    omma search tables/holiday --image cup.jpg --encoder runs/vl --where "width >= 640"
    """
    if (query is None) == (image is None):
        raise typer.BadParameter("give either words to look for or --image FILE")
    if not encoder:
        raise typer.BadParameter("give --encoder, the one that embedded the table")
    with working(as_json):
        asked = read_picture(image) if image else query or ""
        model = omma.load_encoder(encoder, device=device.value)
        hits = omma.search(omma.Table.open(table), asked, encoder=model, k=k, where=where, rerank=rerank)
    rows = [{"id": hit.id, "score": float(hit.score), "row": without_bytes(hit.row)} for hit in hits]
    result = {"query": query if image is None else str(image), "hits": rows}
    found = [(hit.id, hit.score, "; ".join(c["text"] for c in (hit.row.get("captions") or [])[:2])) for hit in hits]
    answer(as_json, result, lambda: hits_table(result["query"], found))


@app.command()
def explain(
    encoder: Annotated[str, typer.Argument(help="An eye: a name that comes with omma, a run or a model folder.")],
    picture: Annotated[Path, typer.Argument(help="File of a picture.")],
    text: Annotated[str, typer.Argument(help="What it is asked about, in words.")],
    out: Annotated[Path | None, typer.Option(help="Write the picture with its patches under heat here.")] = None,
    kind: Annotated[Score, typer.Option(help="What to explain: the fusion head's yes, or the cosine.")] = Score.itm,
    method: Annotated[Method, typer.Option(help="By gradients, or by attention alone.")] = Method.relevance,
    device: On = Device.auto,
    as_json: Json = False,
) -> None:
    """Which patches and words an answer came from.

    \b
    omma explain vlmo-nano picture.png "two red cups" --out heat.png
    """
    with working(as_json):
        image = read_picture(picture)
        told = omma.load_encoder(encoder, device=device.value).explain(image, text, kind.value, method.value)
        if out is not None:
            told.draw(image).save(out)
    row, column = divmod(int(told.patches.argmax()), told.patches.shape[1])
    result = {"score": told.score, "kind": told.kind, "peak": [row, column], "patches": told.patches,
              "words": [list(word) for word in told.words], "heat": out}  # fmt: skip
    answer(as_json, result, lambda: explanation_tables(result))


@app.command()
def train(
    recipe: Annotated[str | None, typer.Argument(help="Which recipe; without one they are listed.")] = None,
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Changes to it.")] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file of changes; KEY=VALUE wins over it.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the run in this folder stopped.")] = False,
    device: Annotated[Device | None, typer.Option("--device", help="Where to train (default: the recipe's).")] = None,
    as_json: Json = False,
) -> None:
    """Train an eye by a recipe.

    Without a recipe, list them. Any setting can be changed; a dotted key reaches inside (model.hidden_size=192).

    \b
    omma train
    omma train vlmo-nano-mim data=scenes/train/pictures out=runs/mim steps=500
    omma train vlmo-nano-mlm data=scenes/train/pictures init=runs/mim out=runs/mlm --resume
    omma train vlmo data=my-pictures
    """
    from omma.config import apply, to_dict
    from omma.training.recipes import RECIPES, by_family, load_recipe

    if recipe is None:
        own = {FOLDER_RECIPE: first_line(omma.fit)}
        result = own | {name: first_line(make) for name, make in RECIPES.items()}
        answer(as_json, {"recipes": result}, lambda: facts_table("recipes", own | by_family()))
        return
    changes = list(overrides or ()) + ([f"device={device.value}"] if device else [])
    if recipe == FOLDER_RECIPE:
        train_on_folder(changes, config, resume, as_json)
        return
    with working(as_json):
        settings = apply(load_recipe(recipe), changes, toml=config)
        checkpoint = omma.train(settings, resume=resume, progress=True)
    last = checkpoint.metrics()[-1]
    result = {"recipe": recipe, "checkpoint": str(checkpoint.path), "step": checkpoint.step, "last_metrics": last}
    answer(as_json, {**result, "config": to_dict(settings)}, lambda: facts_table("train", result))


FOLDER_RECIPE = "vlmo"  # the one that chooses its settings by the data


def train_on_folder(changes: list[str], config: Path | None, resume: bool, as_json: bool) -> None:
    """omma train vlmo data=FOLDER [out=RUN] [key=value ...]"""
    given = {key: value for key, equals, value in (change.partition("=") for change in changes)
             if equals and key in ("data", "out", "device")}  # fmt: skip
    with working(as_json):
        if "data" not in given:
            raise ValueError("no data: give a folder of pictures with captions beside them, data=FOLDER")
        rest = [change for change in changes if change.partition("=")[0] not in given]
        out, device = given.get("out", "runs/vlmo"), given.get("device", "auto")
        fitted = omma.fit(given["data"], out, changes=rest, toml=config, device=device, resume=resume)
    result = dataclasses.asdict(fitted)
    answer(as_json, result, lambda: facts_table("train vlmo", result))


@app.command("eval")
def evaluate(
    model: Annotated[str, typer.Argument(help="Checkpoint, run folder or model name.")],
    task: Annotated[str, typer.Argument(help="retrieval, rerank, statements or patterns.")],
    data: Annotated[Path, typer.Option(help="Folder of the tables, or the table that the task reads.")],
    out: Annotated[Path | None, typer.Option(help="Folder for the report and one row per item.")] = None,
    where: Where = None,
    language: Annotated[list[str] | None, typer.Option(help="Captions to use, e.g. en; may be repeated.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many items.")] = None,
    batch_size: Batch = 64,
    seed: Seed = 0,
    device: On = Device.auto,
    as_json: Json = False,
) -> None:
    """Measure an eye, beside controls.

    Every run also measures a blind eye and one that is shown the wrong pictures.

    \b
    omma eval runs/vl patterns --data scenes/test/items --out reports/patterns
    omma eval runs/vl retrieval --data scenes/test/pictures
    """
    with working(as_json):
        report = omma.evaluate(
            model,
            task,
            data=data,
            out=out,
            where=where,
            languages=tuple(language or ()),
            limit=limit,
            batch_size=batch_size,
            device=device.value,
            seed=seed,
            progress=True,
        )
    answer(as_json, report.to_json(), lambda: report)


@app.command()
def show(
    thing: Annotated[Path, typer.Argument(help="Folder of a table, a run, a checkpoint or a report.")],
    as_json: Json = False,
) -> None:
    """Say what lies in a folder.

    Rows and columns of a table, settings and steps of a run or a checkpoint, the tables of a report.

    \b
    omma show scenes/train/pictures
    omma show runs/vl
    """
    from omma.show import describe

    with working(as_json):
        summary = describe(thing)
    answer(as_json, summary, lambda: shown(thing, summary))


def version(wanted: bool) -> None:
    if wanted:
        print(f"omma {omma.__version__}")
        raise typer.Exit


@app.callback()
def options(
    _version: Annotated[
        bool, typer.Option("--version", callback=version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    pass


# ---- what every verb does around its call


@contextlib.contextmanager
def working(as_json: bool) -> Iterator[None]:
    """Whatever the work prints goes to stderr under --json, so that stdout holds the one object."""
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        try:
            yield
        except KeyboardInterrupt:
            print("omma: interrupted", file=sys.stderr)
            raise


# ---- reading what the user gave


def read_picture(path: Path) -> Any:
    from omma.decode import decode

    if not path.is_file():
        raise ValueError(f"no picture at {path}")
    picture = decode(path.read_bytes())
    if picture.image is None:
        raise ValueError(f"{path} can't be used as a picture: {picture.status} {picture.note or ''}".rstrip())
    return picture.image


def without_bytes(row: dict[str, Any]) -> dict[str, Any]:
    """The row without pictures and vectors, which nobody reads in a terminal."""
    return {name: value for name, value in row.items() if name != "bytes" and not name.startswith("embed.")}


def first_line(function: Callable) -> str:
    return (function.__doc__ or "").strip().splitlines()[0]


def run(args: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    try:
        app(args=args, prog_name="omma")
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else OK
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:  # the one place where every failure turns into a message and an exit code
        return tell(error)
    return OK


def main() -> None:
    # OpenMP's threads spin while they wait. With anything else on the machine, a batch being decoded say, spinning
    # without a limit has slowed a training step down 20 times (docs/results.md).
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    sys.exit(run())


if __name__ == "__main__":
    main()
