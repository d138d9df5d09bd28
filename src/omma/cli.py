"""The command line: one verb = one public function: parse, call, print. Heavy modules load inside their verb."""

import dataclasses
import json
import os
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

import omma
from omma import cli_ask, cli_bench, cli_blind, cli_compare, cli_data, cli_search, cli_serve
from omma.cli_parts import Batch, Device, Json, On, Seed, Where, read_picture, read_words, working
from omma.failures import INTERRUPTED, OK, tell
from omma.views import answer, curve_table, demo_tables, explanation_tables, facts_table, shown

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


class What(StrEnum):
    image = "image"
    text = "text"


class Score(StrEnum):
    itm = "itm"
    itc = "itc"


class Method(StrEnum):
    relevance = "relevance"
    rollout = "rollout"


class Experts(StrEnum):
    none = "none"
    image = "image"
    fresh = "fresh"


class Program(StrEnum):
    onnx = "onnx"
    torch = "torch"
    sentence_transformers = "sentence-transformers"


class Preset(StrEnum):
    full = "full"
    tiny = "tiny"




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


for name, verb in cli_data.VERBS.items():
    app.command(name)(verb)


@app.command()
def embed(
    table: Annotated[Path, typer.Argument(help="Table of pictures, or of papers.")],
    encoder: Annotated[str, typer.Option("--encoder", "-e", help="Checkpoint, run folder or model name.")],
    what: Annotated[What | None, typer.Option(help="The pictures, or their captions (of papers, their text).")] = None,
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
            omma.Table.open(table),
            model,
            what=what.value if what else None,
            column=column,
            batch_size=batch_size,
            progress=True,
        )
    result = {"table": str(table), **dataclasses.asdict(report)}
    answer(as_json, result, lambda: facts_table("embed", result))


for name, verb in {**cli_search.VERBS, **cli_ask.VERBS, **cli_serve.VERBS}.items():
    app.command(name)(verb)


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
        if out is not None:
            check_picture_name(out)
        image = read_picture(picture)
        model = omma.load_encoder(encoder, device=device.value)
        if not hasattr(model, "explain"):
            raise ValueError(f"{encoder} is no VLMo, and explain reads a VLMo's layers; vlmo-nano comes with omma")
        told = model.explain(image, text, kind.value, method.value)
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
    omma train clip data=my-pictures
    """
    from omma.config import apply, to_dict
    from omma.training.recipes import RECIPES, by_family, load_recipe

    if recipe is None:
        own = {FOLDER_RECIPE: first_line(omma.fit)}
        result = own | {name: first_line(make) for name, make in RECIPES.items()}
        answer(as_json, {"recipes": result}, lambda: facts_table("recipes", own | by_family()))
        return
    changes = list(overrides or ()) + ([f"device={device.value}"] if device else [])
    if recipe == FOLDER_RECIPE or (recipe == "clip" and names_pictures(changes)):
        train_on_folder(recipe, changes, config, resume, as_json)
        return
    with working(as_json):
        settings = apply(load_recipe(recipe), changes, toml=config)
        checkpoint = omma.train(settings, resume=resume, progress=True)
    if int(os.environ.get("RANK", "0")) > 0:  # of several processes the first one answers
        return
    last = checkpoint.metrics()[-1]
    result = {"recipe": recipe, "checkpoint": str(checkpoint.path), "step": checkpoint.step, "last_metrics": last}
    answer(as_json, {**result, "config": to_dict(settings)}, lambda: facts_table("train", result))


FOLDER_RECIPE = "vlmo"  # the one that chooses its settings by the data


def names_pictures(changes: list[str]) -> bool:
    """Whether data= is a folder of pictures, and neither a table nor tars."""
    data = next((Path(change.removeprefix("data=")) for change in changes if change.startswith("data=")), None)
    return data is not None and data.is_dir() and not any(data.glob("*.tar")) and not (data / "manifest.json").is_file()


def train_on_folder(recipe: str, changes: list[str], config: Path | None, resume: bool, as_json: bool) -> None:
    """omma train vlmo data=FOLDER [out=RUN] [key=value ...], and clip of a folder of pictures"""
    given = {key: value for key, equals, value in (change.partition("=") for change in changes)
             if equals and key in ("data", "out", "device")}  # fmt: skip
    with working(as_json):
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ValueError(f"{recipe} on a folder reads, trains and measures in one process; for several, make a "
                             "table first (omma ingest), and train clip or vlmo-nano-vl on that")  # fmt: skip
        if "data" not in given:
            raise ValueError("no data: give a folder of pictures with captions beside them, data=FOLDER")
        rest = [change for change in changes if change.partition("=")[0] not in given]
        out, device = given.get("out", f"runs/{recipe}"), given.get("device", "auto")
        fitted = omma.fit(given["data"], out, changes=rest, toml=config, device=device, resume=resume, recipe=recipe)
    result = dataclasses.asdict(fitted)
    answer(as_json, result, lambda: facts_table(f"train {recipe}", result))


@app.command("eval")
def evaluate(
    model: Annotated[str, typer.Argument(help="Checkpoint, run folder or model name.")],
    task: Annotated[str, typer.Argument(help="retrieval, patterns, ...; any other word lists them.")],
    data: Annotated[Path, typer.Option(help="Folder of the tables, or the table that the task reads.")],
    out: Annotated[Path | None, typer.Option(help="Folder for the report and one row per item.")] = None,
    predictions: Annotated[Path | None, typer.Option(help="File for one line an item: id,prediction.")] = None,
    where: Where = None,
    language: Annotated[list[str] | None, typer.Option(help="Captions to use, e.g. en; may be repeated.")] = None,
    label: Annotated[str | None, typer.Option(help="classify, linear-probe: column with the class.")] = None,
    template: Annotated[list[str] | None, typer.Option(help="classify: 'a picture of a {}'; repeatable.")] = None,
    reference: Annotated[str | None, typer.Option(help="Ask and read like official, lmms-eval, ...")] = None,
    judge: Annotated[str | None, typer.Option(help="Who grades or reads replies: openai:MODEL@URL.")] = None,
    judge_prompt: Annotated[Path | None, typer.Option(help="File of what the judge is told.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many items.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="At a time (default: 64, of a VLM 8).")] = None,
    cache: Annotated[Path | None, typer.Option(help="File of a VLM's replies (default: in --out).")] = None,
    seed: Seed = 0,
    device: On = Device.auto,
    as_json: Json = False,
) -> None:
    """Measure an eye or a VLM, beside controls.

    Every run also measures a blind model and one that is shown the wrong pictures. What a VLM said is kept, so a run
    that was stopped goes on.

    \b
    omma eval runs/vl patterns --data scenes/test/items --out reports/patterns
    omma eval runs/vl retrieval --data scenes/test/pictures
    omma eval HuggingFaceTB/SmolVLM-256M-Instruct mmvp --data scenes/test --reference lmms-eval --limit 200
    omma eval openai:MODEL@http://127.0.0.1:8000/v1 pope --data pope --batch-size 16
    """
    with working(as_json):
        if predictions:  # not after hours of work
            predictions.parent.mkdir(parents=True, exist_ok=True)
        report = omma.evaluate(
            model,
            task,
            data=data,
            out=out,
            where=where,
            languages=tuple(language or ()),
            label=label,
            templates=tuple(template or ()),
            reference=reference,
            judge=judge,
            judge_prompt=judge_prompt,
            limit=limit,
            batch_size=batch_size,
            cache=cache,
            device=device.value,
            seed=seed,
            progress=True,
        )
        if predictions:
            report.write_predictions(predictions)
    answer(as_json, report.to_json(), lambda: report)


for name, verb in {**cli_compare.VERBS, **cli_bench.VERBS, **cli_blind.VERBS}.items():
    app.command(name)(verb)


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="A released .pth, .pt or .safetensors file.")],
    out: Annotated[Path, typer.Argument(help="Folder to make.")],
    vocab: Annotated[Path, typer.Option(help="BERT's vocab.txt, a tokenizer.json, or a folder with either.")],
    image_size: Annotated[int | None, typer.Option(help="Another picture size than the file's, in pixels.")] = None,
    max_text_len: Annotated[int | None, typer.Option(help="Tokens of the longest text.")] = None,
    num_heads: Annotated[int | None, typer.Option(help="Of a width that was never released.")] = None,
    labels: Annotated[Path | None, typer.Option(help="What its classifier chooses among, one a line.")] = None,
    vl_experts: Annotated[Experts, typer.Option(help="For a stage-2 VLMo, which has none.")] = Experts.none,
    num_vl_layers: Annotated[int | None, typer.Option(help="Top layers that get them.")] = None,
    settings: Annotated[Path | None, typer.Option(help="A CLIP's config file; else the one beside it.")] = None,
    as_json: Json = False,
) -> None:
    """Make a model of a released VLMo, BEiT, BEiT-3 or CLIP file.

    \b
    omma convert vlmo_base_patch16_224.pt vlmo-base --vocab vocab.txt
    omma convert vlmo_base_patch16_480_vqa.pt vlmo-vqa --vocab vocab.txt --labels answers.txt
    omma convert clip-vit-base-patch32/model.safetensors clip --vocab clip-vit-base-patch32/tokenizer.json
    """
    from omma.models.official import convert as convert_file

    with working(as_json):
        names = None if labels is None else read_words(labels).splitlines()
        made = convert_file(source, out, vocab, num_heads=num_heads, image_size=image_size, max_text_len=max_text_len,
                            labels=names, vl_experts=vl_experts.value, num_vl_layers=num_vl_layers,
                            settings=settings)  # fmt: skip
    answer(as_json, made, lambda: facts_table("convert", made))


@app.command()
def mix(
    start: Annotated[str, typer.Argument(help="The model before: a run, a model folder, a Hugging Face CLIP.")],
    tuned: Annotated[str, typer.Argument(help="The same after fine-tuning.")],
    out: Annotated[Path | None, typer.Argument(help="Folder to make.")] = None,
    alpha: Annotated[float, typer.Option(help="0 is the model before, 1 the tuned one.")] = 0.5,
    old: Annotated[Path | None, typer.Option(help="Table of the task before: print what each alpha keeps.")] = None,
    new: Annotated[Path | None, typer.Option(help="Table of the new task: print what each alpha wins.")] = None,
    label: Annotated[str | None, typer.Option(help="Column with each picture's class, for accuracy.")] = None,
    as_json: Json = False,
) -> None:
    """Make a model between a CLIP and its fine-tuned self.

    Fine-tuning costs some of what a model could do before; weights in between often keep most of both (WiSE-FT).

    \b
    omma mix runs/clip runs/tuned --old flowers --new birds
    omma mix runs/clip runs/tuned mixed --alpha 0.5
    """
    with working(as_json):
        made = omma.mix(start, tuned, out, alpha=alpha, old=old, new=new, label=label)
    result = dataclasses.asdict(made)
    answer(as_json, result, lambda: curve_table(made.curve) if made.curve else facts_table("mix", result))


@app.command()
def deploy(
    model: Annotated[str, typer.Argument(help="An eye: a name that comes with omma, a run or a model folder.")],
    out: Annotated[Path, typer.Argument(help="Folder to make.")],
    format: Annotated[Program, typer.Option(help="What to write.")] = Program.onnx,
    as_json: Json = False,
) -> None:
    """Write an eye for use elsewhere.

    As ONNX files or torch.export programs, which need no omma, with the tokenizer and the settings of the pictures
    beside them; or as a folder that sentence-transformers opens. What was written is read again and compared.

    \b
    omma deploy vlmo-nano deployed
    omma deploy runs/vl deployed --format torch
    omma deploy runs/vl deployed --format sentence-transformers
    """
    with working(as_json):
        done = omma.export_encoder(model, out, format=format.value)
    result = dataclasses.asdict(done)
    answer(as_json, result, lambda: facts_table("deploy", result))


@app.command()
def show(
    thing: Annotated[Path, typer.Argument(help="Folder of a table, run, checkpoint, report or pairs; or results.")],
    other: Annotated[Path | None, typer.Argument(help="With --html: a second report, to stand beside.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a report's answers, or pairs, as a page, here.")] = None,
    data: Annotated[Path | None, typer.Option(help="With --html: folder of its pictures and items.")] = None,
    bibtex: Annotated[bool, typer.Option("--bibtex", help="Print a table of papers as BibTeX.")] = False,
    where: Where = None,
    as_json: Json = False,
) -> None:
    """Say what lies in a folder.

    Rows and columns of a table, settings and steps of a run or a checkpoint, the tables of a report; of a result file
    of lmms-eval or VLMEvalKit what it earned, with intervals.

    \b
    omma show scenes/train/pictures
    omma show runs/vl
    omma show reports/eye reports/vlm --html answers.html
    omma show tables/tokens --bibtex --where "published >= '2024'" > tokens.bib
    omma show blind --html blind.html
    """
    from omma.show import describe

    if where is not None and not bibtex:
        raise ValueError("--where chooses papers for --bibtex; give both")
    if bibtex:
        from omma.data.papers.bibtex import bibtex as written

        with working(as_json):
            entries = written(omma.Table.open(thing), where)
        print(json.dumps({"bibtex": entries}) if as_json else entries, end="\n" if as_json else "")
        return

    if html is None and (other or data):
        raise ValueError(f"{other or '--data'} is for a page; say where to write it: --html PAGE.html")
    if html is not None:
        from omma.eval.blind_page import page_of_pairs
        from omma.eval.report import page_of

        with working(as_json):
            if other is None and (thing / "pairs.parquet").is_file():
                page = page_of_pairs(thing, html, data=data)
            else:
                page = page_of([thing, *([other] if other else [])], html, data=data)
        answer(as_json, page, lambda: facts_table("page", page))
        return
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


# ---- reading what the user gave


def check_picture_name(path: Path) -> None:
    """ValueError when no picture can be written there."""
    if path.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise ValueError(f"omma writes no picture that ends in {path.suffix!r}; call {path} .png, .jpg or .webp")
    if not path.parent.is_dir():
        raise ValueError(f"there is no folder {path.parent} to write {path.name} to; make it first")


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
