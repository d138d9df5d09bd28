"""Recipes for VLMs: an eye that answers questions in words."""

from collections.abc import Callable
from dataclasses import replace

from omma.models.vlmo_config import NANO
from omma.training.batches import DataConfig
from omma.training.config import RunConfig, TrainConfig
from omma.training.losses import LossWeights
from omma.training.vlm_config import ChatDataConfig, VLMTrainConfig

# The shipped eye at 196 patches of 8 px.
FINE = replace(NANO, image_size=112, patch_size=8, fine_stem=True, hidden_size=128, num_layers=4, num_heads=4,
               vocab_size=8000, max_text_len=32, class_pool="max")  # fmt: skip


def vlm_eye() -> TrainConfig:
    """The eye of the shipped VLM: the shipped eye, read at 196 patches, learns what is to be seen of each thing.

    Told so by tags it knows most of it after ten thousand pictures; from answers alone, through a language model that
    has to find the thing first, it doesn't within a hundred thousand questions.
    TABLE is drawn by `omma scenes FOLDER --tags --size 112`.

    omma train vlm-eye data=FOLDER/pictures out=runs/eye
    """
    return TrainConfig(
        recipe="vlm-eye",
        init="vlmo-nano",
        model=FINE,
        losses=LossWeights(tags=1.0),
        dataset=DataConfig(label="tags", max_labels=1000),
        steps=2000,
        batch_size=32,
        peak_lr=1.5e-3,
        warmup=50,
        betas=(0.9, 0.95),
        max_grad_norm=1.0,
        ema=0.998,
    )


def vlm_reader() -> VLMTrainConfig:
    """The language model of the shipped VLM: it learns to answer by reading what is in a picture.

    To find the thing that a question names, and to compare what is said of it with what is asked, takes most of the
    learning, and no picture. TABLE is drawn by `omma scenes FOLDER --questions 12 --tags`; where things stand is not
    written, so questions of position are left out.

    omma train vlm-reader data=FOLDER/items out=runs/reader
    """
    return replace(
        vlm_nano(),
        recipe="vlm-reader",
        eye="",
        steps=700,
        batch_size=64,
        peak_lr=2e-3,
        warmup=50,
        final_lr=0.1,
        eye_lr=1.0,
        dataset=ChatDataConfig(reads="things", captions=0.0, where="pattern != 'position'"),
    )


def vlm_nano() -> VLMTrainConfig:
    """The shipped VLM: the shipped eye, read at 196 tokens of 8 px, and a Llama of six layers on it.

    TABLE is drawn by `omma scenes FOLDER --questions 12 --size 112`. Its eye has learned by `vlm-eye`, its language
    model by `vlm-reader`.

    omma train vlm-nano data=FOLDER/items eye=runs/eye reader=runs/reader out=runs/vlm
    """
    return VLMTrainConfig(
        recipe="vlm-nano",
        eye="vlmo-nano",
        image_size=112,
        patch_size=8,
        steps=2400,
        batch_size=32,
        peak_lr=1.5e-3,
        warmup=60,
        final_lr=0.03,
        eye_lr=0.2,
        dataset=ChatDataConfig(captions=0.05),
        muon=10.0,
        weight_decay=0.05,
        betas=(0.9, 0.95),
        max_grad_norm=1.0,
        ema=0.998,
    )


VLM_RECIPES: dict[str, Callable[[], RunConfig]] = {
    "vlm-eye": vlm_eye, "vlm-reader": vlm_reader, "vlm-nano": vlm_nano
}  # fmt: skip
