"""A trained VLM as a model folder to be shipped: weights in float16, processor, and a card that says what it is.

python bench/vlm_numbers.py RUN TEST --out numbers.json
python bench/publish_vlm.py RUN numbers.json src/omma/weights/vlm-nano
"""

import argparse
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jinja2
import torch

import omma
from omma.models.preprocess import Processor
from omma.models.vlm import read_vlm, save_vlm
from omma.models.weights import model_folder
from publish_eye import lineage, told

MOST = 16_000_000  # bytes of weights
ABOUT = {  # its training is drawn with no side held out, so only words and looks can be new
    "fresh": "nothing but the worlds themselves",
    "template": "sentences in other frames",
    "synonym": "other words for the same things",
    "style": "shaded, outlined and sketched pictures; flat ones in training",
    "scale": "nothing: things shrunk to half their size",
    "count": "nothing: six to eight things of a kind",
    "relation-object": "nothing: certain kinds side by side or above each other",
    "cogent": "nothing: kinds in certain colours",
    "attr-pair": "nothing: parts on things of certain colours",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("run", "numbers", "out"):
        parser.add_argument(name, type=Path)
    args = parser.parse_args()
    folder = model_folder(args.run)
    model = read_vlm(folder)
    shutil.rmtree(args.out, ignore_errors=True)
    save_vlm(model, args.out, dtype=torch.float16)
    Processor.load(folder).save(args.out)
    size = (args.out / "model.safetensors").stat().st_size
    if size > MOST:
        raise SystemExit(f"{size:,} bytes of weights; at most {MOST:,} are shipped")
    (args.out / "README.md").write_text(card(args.run, json.loads(args.numbers.read_text()), model, size))
    print(f"{args.out}: {size:,} bytes, {model.num_weights():,} weights, {omma.load_vlm(args.out).fingerprint}")


def card(run: Path, numbers: dict[str, Any], model: Any, size: int) -> str:
    root = Path(__file__).resolve().parents[1]
    git = subprocess.run(["git", "-C", str(root), "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    pages = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    pages.filters["pct"] = lambda share: f"{100 * share:.1f}"
    stages = lineage(run)
    text = model.config.text_config
    return pages.from_string((root / "bench" / "vlm_card.md.j2").read_text()).render(
        name=run.name,
        millions=f"{model.num_weights() / 1e6:.1f}",
        megabytes=f"{size / 1e6:.1f}",
        tokens=model.config.image_seq_length,
        side=model.config.image_size,
        layers=text.num_hidden_layers,
        width=text.hidden_size,
        numbers=numbers,
        held_out=ABOUT,
        commit=git.stdout.strip(),
        eye=next((stage["config"]["eye"] for stage in stages if stage["config"].get("eye")), "random weights"),
        stages=[told(stage) for stage in stages],
    ) + "\n"  # fmt: skip


if __name__ == "__main__":
    main()
