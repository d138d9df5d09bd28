"""Recipes for VLMs: an eye that answers questions in words."""

from omma.training.vlm_config import VLMTrainConfig


def vlm_nano() -> VLMTrainConfig:
    """The shipped VLM: the shipped eye, read at 196 tokens of 8 px, and a Llama of six layers on it.

    TABLE is drawn by `omma scenes FOLDER --questions 12 --size 112`. First on few kinds, then on all.

    omma train vlm-nano data=FOLDER/items out=runs/vlm
    """
    return VLMTrainConfig(
        recipe="vlm-nano",
        eye="vlmo-nano",
        steps=4000,
        batch_size=16,
        peak_lr=1e-3,
        warmup=100,
        weight_decay=0.05,
        betas=(0.9, 0.95),
        max_grad_norm=1.0,
        ema=0.998,
    )


VLM_RECIPES = {"vlm-nano": vlm_nano}
