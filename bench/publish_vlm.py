"""A trained VLM as a model folder to be shipped: weights in float16, processor, and a card that says what it is.

python bench/vlm_numbers.py RUN TEST --out numbers.json
python bench/publish_vlm.py RUN numbers.json src/omma/weights/vlm-nano
"""

from pathlib import Path
from typing import Any

from omma.models.vlm import OmmaVLM, read_vlm, save_vlm
from publish_eye import lineage, publish, rendered, told, weights_of

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
    publish(__doc__, MOST, read_vlm, save_vlm, card)


def card(run: Path, numbers: dict[str, Any], model: OmmaVLM, size: int) -> str:
    stages, text = lineage(run), model.config.text_config
    return rendered(
        "vlm_card.md.j2",
        millions=f"{weights_of(model) / 1e6:.1f}",
        megabytes=f"{size / 1e6:.1f}",
        tokens=model.config.image_seq_length,
        side=model.config.image_size,
        layers=text.num_hidden_layers,
        width=text.hidden_size,
        numbers=numbers,
        held_out=ABOUT,
        eye=next((stage["config"]["eye"] for stage in stages if stage["config"].get("eye")), "random weights"),
        stages=[told(stage) for stage in stages],
    )


if __name__ == "__main__":
    main()
