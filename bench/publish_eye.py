"""A trained run as a model folder to be shipped: weights in float16, processor, and a card that says what it is.

python bench/eye_numbers.py RUN TEST --noto SET/noto.tar --out numbers.json
python bench/publish_eye.py RUN numbers.json src/omma/weights/vlmo-nano
"""

import argparse
import json
import shutil
import subprocess
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import jinja2
import torch

from omma.models.preprocess import Processor
from omma.models.weights import from_pretrained, model_folder, save_pretrained

MOST = 12_000_000  # bytes of weights
HELD_OUT = {
    "fresh": "fresh seed, nothing held out but the worlds themselves",
    "relation-object": "kinds side by side (or above each other) that never were in training",
    "count": "six to eight things of a kind; up to five in training",
    "template": "sentences in other frames",
    "synonym": "other words for the same things",
    "style": "shaded, outlined and sketched pictures; flat ones in training",
    "scale": "things shrunk to half their size (training has some as small)",
    "cogent": "kinds in colours of the test side (training has them)",
    "attr-pair": "parts on things of colours of the test side (training has them)",
}


def main() -> None:
    publish(__doc__, MOST, from_pretrained, save_pretrained, card)


def publish(about: str | None, most: int, read: Callable[..., Any], save: Callable[..., Any],
            card: Callable[..., str]) -> None:  # fmt: skip
    """The command RUN NUMBERS OUT of a kind of model: read(folder), save(model, folder, dtype=), card(run, numbers,
    model, bytes). most: bytes of weights that may be shipped."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("run", "numbers", "out"):
        parser.add_argument(name, type=Path)
    args = parser.parse_args()
    folder = model_folder(args.run)
    model = read(folder)
    shutil.rmtree(args.out, ignore_errors=True)
    save(model, args.out, dtype=torch.float16)
    Processor.load(folder).save(args.out)
    size = (args.out / "model.safetensors").stat().st_size
    if size > most:
        raise SystemExit(f"{size:,} bytes of weights; at most {most:,} are shipped")
    (args.out / "README.md").write_text(card(args.run, json.loads(args.numbers.read_text()), model, size))
    print(f"{args.out}: {size:,} bytes, {weights_of(model):,} weights")


def weights_of(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def rendered(template: str, **values: Any) -> str:
    """A card from its template in this folder, with the commit that it is published at."""
    root = Path(__file__).resolve().parents[1]
    git = subprocess.run(["git", "-C", str(root), "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    pages = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    pages.filters["pct"] = lambda share: f"{100 * share:.1f}"
    text = (root / "bench" / template).read_text()
    return pages.from_string(text).render(commit=git.stdout.strip(), **values) + "\n"


def lineage(run: Path) -> list[dict[str, Any]]:
    """What a run did up to its last checkpoint, after the runs that it started from, first one first."""
    config = json.loads((run / "config.json").read_text())
    step = int(model_folder(run).resolve().name.removeprefix("step"))
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["step"] <= step and "loss" in row]
    seconds = sum(row["seconds"] - (before["seconds"] if before["seconds"] <= row["seconds"] else 0.0)
                  for before, row in pairwise([{"seconds": 0.0}, *rows]))  # fmt: skip
    places = [Path(config[name]) for name in ("eye", "reader", "init") if config.get(name)]
    before = [stage for place in places if (place / "config.json").exists() for stage in lineage(place)]
    return [*before, {"config": config, "step": step, "seconds": seconds, "loss": rows[-1]["loss"]}]


def card(run: Path, numbers: dict[str, Any], model: torch.nn.Module, size: int) -> str:
    emoji = {f"1,911 Noto emoji, {name}": block for name, block in numbers.get("emoji", {}).items()}
    return rendered(
        "eye_card.md.j2",
        millions=f"{weights_of(model) / 1e6:.1f}",
        megabytes=f"{size / 1e6:.1f}",
        patterns=list(numbers["pairs"]["fresh"]["itm"]["by"]),
        pairs=numbers["pairs"],
        held_out=HELD_OUT,
        searches=[("1,000 worlds, by the caption that names all", numbers["retrieval"]), *emoji.items()],
        stages=[told(stage) for stage in lineage(run)],
    )


def told(stage: dict[str, Any]) -> dict[str, Any]:
    """A stage of the training as cards show it."""
    config = stage["config"]
    return {
        "out": f"runs/{Path(config['out']).name}",
        "command": command(config),
        "step": f"{stage['step']:,}",
        "of": f"{config['steps']:,}",
        "batch": config["batch_size"],
        "minutes": f"{stage['seconds'] / 60:.0f}",
        "seed": config["seed"],
        "loss": f"{stage['loss']:.3f}",
    }


def command(config: dict[str, Any]) -> str:
    """The command line that gives this config, its folders by their names alone."""
    from omma.config import to_dict
    from omma.training.recipes import load_recipe

    usual = flat(to_dict(load_recipe(config["recipe"])))
    parts = []
    for key, value in flat(config).items():
        if key in ("data", "words", "val") and value:
            place = Path(value)  # a folder of tables, or one of them
            parts.append(f"{key}={'/'.join(place.parts[-2:]) if place.name in ('pictures', 'items') else place.name}")
        elif key in ("out", "init", "eye", "reader") and value:
            started = key == "out" or (Path(value) / "config.json").exists()
            parts.append(f"{key}={'runs/' + Path(value).name if started else value}")
        elif value != usual.get(key) and key not in ("recipe", "log_every", "save_every", "threads", "init", "given"):
            text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
            parts.append(f"{key}={text}" if text.replace(".", "").isalnum() else f'"{key}={text}"')
    return f"omma train {config['recipe']} " + " ".join(parts)


def flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in config.items():
        out |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return out


if __name__ == "__main__":
    main()
