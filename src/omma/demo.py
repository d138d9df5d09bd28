"""The whole story in a few minutes: draw a world, train an eye on it, find what it cannot see, search it, report.

Everything goes into one folder, and a demo that was interrupted goes on where it stopped.
"""

import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

import omma
from omma.config import apply
from omma.eval.report import write_html
from omma.models.weights import shipped
from omma.retrieval.index import example_query
from omma.scenes.sources import write_scenes
from omma.training.recipes import load_recipe


@dataclass(frozen=True, kw_only=True)
class DemoSize:
    """How much is drawn and trained; pairs are per pattern, of which there are nine."""

    pictures: int
    pairs: int
    test_pictures: int
    test_pairs: int
    train: tuple[tuple[str, tuple[str, ...]], ...]  # recipe, changes; each stage starts from the one before
    picture_size: int = 128
    limit: int | None = None  # statements that are asked


# Four kinds in four colours still show all nine patterns, and can be learned in minutes on a CPU.
KINDS = ("fish", "cup", "lamp", "sign")
COLOURS = ("red", "yellow", "green", "blue")
MODEL = ("model.hidden_size=128", "model.num_layers=3", "model.num_heads=2", "model.image_size=96")
TINY_MODEL = ("model.num_layers=2", "model.hidden_size=32", "model.num_heads=2", "model.image_size=64")
SIZES = {
    "full": DemoSize(
        pictures=3000,
        pairs=500,
        test_pictures=500,
        test_pairs=200,
        train=(
            ("vlmo-nano-mim", ("steps=60", "warmup=20", *MODEL)),
            ("vlmo-nano-mlm", ("steps=60", "warmup=20", *MODEL)),
            ("vlmo-nano-vl", ("steps=1050", *MODEL)),
        ),
        limit=1500,
    ),
    # to see that everything runs; two layers and two steps a stage learn nothing
    "tiny": DemoSize(
        pictures=24,
        pairs=2,
        test_pictures=12,
        test_pairs=2,
        picture_size=64,
        train=tuple(
            (recipe, ("steps=2", "warmup=1", "batch_size=4", *TINY_MODEL))
            for recipe in ("vlmo-nano-mim", "vlmo-nano-mlm", "vlmo-nano-vl")
        ),
    ),
}
THREADS = 2  # sums are the same to the bit for the same number of threads only
STEPS = 7
TEST_SEED = 1_000_000  # far from any seed a person picks, so that no test world was trained on


def run_demo(
    out: str | Path = "omma-demo", *, seed: int = 0, preset: str = "full", device: str = "auto", progress: bool = True
) -> dict[str, Any]:
    """Runs the story into the folder `out` and says what came out.

    Returns {"report": path of report.html, "checkpoint": path, "tables": paths, "reports": paths by eye ("demo", and
    what comes with omma) and task, "query": the sentence, "hits": [(id, score, caption)], "summary": [one dict an eye,
    task and score], "seconds"}. Raises ValueError when `out` holds something else, or a demo with other settings.
    """
    if preset not in SIZES:
        raise ValueError(f"no preset {preset!r}; there are {', '.join(SIZES)}")
    size, folder = SIZES[preset], Path(out)
    claim(folder, {"seed": seed, **asdict(size)})
    say = Announcer(progress)
    began = time.perf_counter()

    with say.step("drawing a world to learn from, and another one to be tested on"):
        train, test = folder / "scenes" / "train", folder / "scenes" / "test"
        draw(train, size.pictures, size.pairs, seed, size.picture_size, progress, check=False)
        draw(test, size.test_pictures, size.test_pairs, TEST_SEED + seed, size.picture_size, progress, check=True)

    init = "none"
    for (recipe, changes), what in zip(size.train, STAGES, strict=True):
        with say.step(f"stage {recipe}: {what}"):
            run = folder / "runs" / recipe
            places = [f"data={train / 'pictures'}", f"out={run}", f"init={init}"]
            fixed = [f"seed={seed}", f"device={device}", f"threads={THREADS}"]
            config = apply(load_recipe(recipe), [*places, *fixed, *changes])
            checkpoint = omma.train(config, resume=True, progress=progress)
            init = str(run)
    encoder = omma.load_encoder(init, device=device)

    pictures = omma.Table.open(test / "pictures")
    with say.step("asking what it sees, beside a blind and a wrong-picture control"):
        reports: dict[str, dict[str, omma.Report]] = {}
        eyes: list[omma.Encoder] = []
        for name in ("demo", *shipped("vlmo")):  # what comes with omma is measured on the same world
            eye = encoder if name == "demo" else omma.load_encoder(name, device=device)
            eyes.append(eye)
            # retrieval is asked of plain pictures only, each another world; those of a pair differ in one thing
            data = {"retrieval": pictures.select("group is None"), "statements": test, "patterns": test}
            reports[name] = {
                task: omma.evaluate(
                    eye,
                    task,
                    data=data[task],
                    out=folder / "reports" / name / task,
                    limit=size.limit if task == "statements" else None,
                    seed=seed,
                    progress=progress,
                )
                for task in data
            }

    with say.step("embedding the test pictures, and searching them"):
        omma.embed(pictures, encoder, progress=progress)
        query = example_query(pictures)
        hits = omma.search(pictures, query, encoder=encoder, k=5)

    with say.step("writing the report"):
        page = write_html(
            folder / "report.html",
            runs=[report for of_one in reports.values() for report in of_one.values()],
            training=[(recipe, folder / "runs" / recipe / "metrics.jsonl") for recipe, _ in size.train],
            pictures=pictures,
            items=omma.Table.open(test / "items"),
            explain=eyes,
        )
    return {
        "report": str(page),
        "checkpoint": str(checkpoint.path),
        "tables": {"train": str(train), "test": str(test)},
        "reports": {name: {task: str(folder / "reports" / name / task) for task in reports[name]} for name in reports},
        "query": query,
        "hits": [(hit.id, float(hit.score), hit.row["captions"][0]["text"]) for hit in hits],
        "summary": summarise(reports),
        "seconds": round(time.perf_counter() - began, 1),
    }


HEADLINE = ("metric", "value", "low95", "high95", "blind", "wrong-image", "chance")
STAGES = (
    "pictures alone, hidden patches filled in",
    "words alone, hidden words filled in",
    "pictures and words together",
)


def claim(folder: Path, settings: dict[str, Any]) -> None:
    """Marks the folder as this demo's. ValueError when it holds something else, or a demo with other settings."""
    mark = folder / "demo.json"
    stored = json.dumps(settings, indent=1) + "\n"
    if mark.exists():
        if mark.read_text(encoding="utf-8") != stored:
            raise ValueError(f"{folder} holds a demo with other settings; remove it, or give another: omma demo FOLDER")
    elif folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty and holds no demo; give another folder: omma demo FOLDER")
    folder.mkdir(parents=True, exist_ok=True)
    mark.write_text(stored, encoding="utf-8")


def draw(folder: Path, pictures: int, pairs: int, seed: int, size: int, progress: bool, check: bool) -> None:
    """write_scenes, done once: a world that was drawn to its end has its final name, which is also its split.

    check: look for shortcuts. It is the test that must have none; a shortcut in training would show as a worse result.
    """
    if folder.exists():
        return
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    write_scenes(
        part,
        pictures=pictures,
        pairs=pairs,
        seed=seed,
        size=size,
        split=folder.name,
        kinds=KINDS,
        colours=COLOURS,
        workers=os.cpu_count() or 1,
        progress=progress,
        check=check,
    )
    part.rename(folder)


def summarise(reports: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The headline of each eye, task and kind of score: the model, its controls, and chance."""
    return [
        {"eye": name, "task": task, "score": kind} | {key: head.get(key) for key in HEADLINE}
        for name, of_one in reports.items()
        for task, report in of_one.items()
        for kind, head in report.metrics["headline"].items()
    ]


class Announcer:
    """[2/7] what happens now, on stderr, with the seconds it took."""

    def __init__(self, progress: bool):
        self.console = Console(file=sys.stderr, quiet=not progress, highlight=False)
        self.number = 0

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        self.number += 1
        began = time.perf_counter()
        self.console.print(f"[bold]\\[{self.number}/{STEPS}][/bold] {what}")
        yield
        self.console.print(f"      done in {time.perf_counter() - began:.0f} s", style="dim")
