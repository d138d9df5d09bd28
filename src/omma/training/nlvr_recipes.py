"""Recipes for sentences about NLVR's pictures of three boxes. FOLDER is what bench/nlvr_data.py makes (docs/nlvr.md).

Stages, each from the one before: what is in a box, without words; how many things of a kind a box holds; sentences
about three boxes whose truth is worked out; the same with people's own labels among them.
"""

from collections.abc import Callable
from dataclasses import replace

from omma.models.vlmo_config import NANO
from omma.training.batches import DataConfig
from omma.training.config import TrainConfig
from omma.training.losses import LossWeights

# Boxes are 100 x 100 px and blocks of a tower 21 px apart. Tokens are few, since a sentence meets three boxes.
READER = replace(NANO, image_size=100, patch_size=20, hidden_size=128, num_layers=4, num_heads=4, num_vl_layers=2,
                 vocab_size=600, max_text_len=32)  # fmt: skip
UNCHANGED = DataConfig(crop_scale=1.0, jitter=0.0)  # a crop would move walls, and with them what is true


def nlvr_boxes() -> TrainConfig:
    """Stage 1: image experts learn what is in a box, from 300 tags at once; no words yet.

    omma train nlvr-boxes data=FOLDER/boxes/pictures words=FOLDER/items out=runs/boxes
    """
    return TrainConfig(
        recipe="nlvr-boxes",
        model=replace(READER, num_vl_layers=0),  # the next stage starts them as copies of the image experts
        losses=LossWeights(tags=1.0),
        dataset=replace(UNCHANGED, label="tags", max_labels=300),
        steps=1500,
        batch_size=64,
        peak_lr=2e-3,
        warmup=100,
        weight_decay=0.01,
        ema=0.99,
    )


def nlvr_counts() -> TrainConfig:
    """Stage 2: how many things of a kind are in a box: words meet what the image experts know.

    omma train nlvr-counts data=FOLDER/boxes/items init=runs/boxes out=runs/counts
    """
    return replace(
        nlvr(),
        recipe="nlvr-counts",
        losses=LossWeights(parts=1.0),
        dataset=replace(UNCHANGED, length_window=20),
        panels=None,
        vl_init="image",
        steps=900,
        batch_size=128,
    )


def nlvr() -> TrainConfig:
    """Stage 3: sentences with three boxes: whether they are true, and what they look for in each box.

    omma train nlvr data=FOLDER/items init=runs/counts out=runs/nlvr
    """
    return TrainConfig(
        recipe="nlvr",
        model=READER,
        losses=LossWeights(set=1.0, parts=1.0),
        dataset=replace(UNCHANGED, where="split == 'train' and pattern != 'people'"),
        panels=3,
        panel_gap=0.125,  # 50 of 400 px
        steps=1900,
        batch_size=64,
        peak_lr=1e-3,
        warmup=100,
        weight_decay=0.01,
        ema=0.998,
    )


def nlvr_people() -> TrainConfig:
    """Stage 4: on from there, people's own labels among the others.

    omma train nlvr-people data=FOLDER/items init=runs/nlvr out=runs/people
    """
    stage = nlvr()
    return replace(
        stage,
        recipe="nlvr-people",
        dataset=replace(stage.dataset, where="split == 'train'"),
        steps=800,
        peak_lr=6e-4,
        warmup=30,
    )


NLVR_RECIPES: dict[str, Callable[[], TrainConfig]] = {
    "nlvr-boxes": nlvr_boxes,
    "nlvr-counts": nlvr_counts,
    "nlvr": nlvr,
    "nlvr-people": nlvr_people,
}
