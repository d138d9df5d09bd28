"""What the pages of these tests show: eyes and a VLM by arithmetic, drawn scenes, and reports about them."""

import contextlib
import json
import os
from pathlib import Path

import numpy as np
from PIL import Image

from conftest import ColourEncoder
from omma.eval.blind import mine_blind_pairs
from omma.eval.report import write_html
from omma.eval.run import evaluate
from omma.scenes.sources import write_scenes
from omma.web.site import Site
from served import running


class Explaining(ColourEncoder):
    """An eye that says why: the left half of every picture."""

    def explain(self, image, text, kind="itc"):
        class Found:
            patches, words, score = np.tile([1.0, 0.0], (4, 2))[:, :4], [(text, 1.0)], 0.5

        return Found()


class Inverted(ColourEncoder):
    """Another eye, which sees other colours."""

    name = "inverted"
    fingerprint = "inverted"

    def encode_image(self, images, **options):
        other = [Image.fromarray(255 - np.asarray(image.convert("RGB"))) for image in images]
        return super().encode_image(other, **options)


class Speaker:
    """A VLM that would like to be more than text."""

    name = "speaker"

    def __init__(self):
        self.asked = 0

    def generate(self, images, prompt, max_new_tokens=64):
        self.asked += 1
        return "By the sea [1]. <img src=//evil.example/a.png> [9]"


class Guesses:
    """Answers by the length of the question, and mumbles at some; by first token it is not sure."""

    name, fingerprint = "guesses", "9e55"

    def generate_batch(self, images, prompts, max_new_tokens=64, *, batch_size=8):
        return [("A", "B", "The answer is A.", "who knows")[len(prompt) % 4] for prompt in prompts]

    def first_token(self, images, prompts, words, batch_size=8):
        return np.array([[0.0, (len(prompt) % 7 - 3) / 3] for prompt in prompts], dtype=np.float32)


class Looks:
    """An encoder that knows as much as a mean colour tells."""

    name, fingerprint, embed_dim = "looks", "100c", 3

    def encode_image(self, images, batch_size=64):
        rows = np.array([np.asarray(image.convert("RGB"), np.float32).mean((0, 1)) for image in images]).reshape(-1, 3)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def encode_text(self, texts, batch_size=64):
        return np.array([[len(text) % 3 == k for k in range(3)] for text in texts], np.float32).reshape(-1, 3)


@contextlib.contextmanager
def serving(index, token=None, **more):
    """The address of a site."""
    with contextlib.closing(Site(index, **more)) as site, running(site, token) as client:
        yield client.url


def write_answers(folder: Path) -> Path:
    """The page of what two models said of 36 pairs."""
    tables = write_scenes(folder / "scenes", pictures=0, pairs=4, size=64, check=False)
    runs = [evaluate(Looks(), "patterns", data=tables), evaluate(Guesses(), "mmvp", data=tables)]
    return write_html(folder / "page.html", runs=runs, answers=True, pictures=tables[0], items=tables[1])


def write_pictures(folder: Path, pictures: int = 12) -> Path:
    """Drawn scenes as files, some with a caption beside them, a name that fits no phone, and a text."""
    folder.mkdir(parents=True)
    table = write_scenes(folder.parent / "drawn", pictures=pictures, pairs=0, size=96, seed=5, check=False)[0]
    for n, row in enumerate(table.read(["bytes", "captions"]).to_pylist()):
        name = f"{n}" if n else "a-name-as-cameras-and-people-give-them-that-is-longer-than-a-phone-is-wide-2026-11-22"
        (folder / f"{name}.png").write_bytes(row["bytes"])
        if n % 2 == 0:
            (folder / f"{name}.txt").write_text(row["captions"][0]["text"])
    (folder / "story.md").write_text("The red house stands by the sea. " * 12)
    return folder


def write_reports(folder: Path) -> Path:
    """A page with curves, patterns, pairs and searches; one of the answers of two models; a report; blind pairs."""
    folder.mkdir(parents=True)
    made = folder.parent / "made"
    tables = write_scenes(made / "scenes", pictures=12, pairs=4, size=64, check=False)
    steps = [{"step": n, "loss": 6 / n + 0.5, "loss_itc": 3 / n, "loss_mlm": 3 / n + 0.5, "seconds": 2.0 * n,
              "samples_per_s": 64.0, "data_wait": 0.02} for n in range(1, 40)]  # fmt: skip
    (made / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in steps))
    runs = [evaluate(Looks(), task, data=tables) for task in ("patterns", "retrieval")]
    write_html(folder / "all.html", runs=runs, training=made / "metrics.jsonl", pictures=tables[0], items=tables[1],
               title="Everything at once")  # fmt: skip
    both = [runs[0], evaluate(Guesses(), "mmvp", data=tables, out=folder / "guesses")]
    write_html(folder / "answers.html", runs=both, answers=True, pictures=tables[0], items=tables[1],
               title="Two models beside each other")  # fmt: skip
    rng, table = np.random.default_rng(0), tables[0]
    for name, rows in (("one", [[1, 0, 0]] * table.num_rows), ("other", np.eye(3)[np.arange(table.num_rows) % 2])):
        rows = np.asarray(rows) + 0.02 * rng.normal(size=(len(table), 3))
        table.add_column(f"embed.{name}", (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16))
    found = mine_blind_pairs("embed.one", "embed.other", table=table, out=folder / "blind", near=None)
    missed = [{"pattern": name, "blind": 3, "base": 9, "share": 0.75, "base_share": 0.25, "p": 0.001, "p_holm": 0.009,
               "enriched": name == "colour"} for name in ("colour", "orientation")]  # fmt: skip
    found.write(folder / "blind", {"missed": missed}, differences=[["colour", "orientation"]] * len(found))
    for minute, name in enumerate(("all.html", "guesses", "answers.html", "blind")):  # the newest is listed first
        place = folder / name
        for file in [place, *place.rglob("*")]:
            os.utime(file, (1.7e9 + 60 * minute, 1.7e9 + 60 * minute))
    return folder
