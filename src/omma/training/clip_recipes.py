"""Recipes for CLIP: from random weights, or from a model that there is.

A model that has been trained on much is easily made worse by little: low rates, few weights that change, a look at what
it could do before (val=TABLE), and `omma mix`, which goes back part of the way.
"""

from dataclasses import replace

from omma.models.clip import NANO
from omma.training.clip_config import ClipTrainConfig


def clip() -> ClipTrainConfig:
    """A CLIP from random weights: two towers that learn from pictures and captions alone, of a laptop's size.

    Other towers by vision= and text= (vit-s-16, a Hugging Face folder), SigLIP's loss by loss=siglip.

    omma train clip data=TABLE out=runs/clip
    """
    return ClipTrainConfig(
        recipe="clip",
        model=NANO,
        steps=2000,
        batch_size=128,
        peak_lr=1e-3,
        warmup=100,
        weight_decay=0.1,
        eps=1e-6,
        max_grad_norm=1.0,
    )


def clip_tune() -> ClipTrainConfig:
    """Fine-tune a CLIP or SigLIP: all of its weights, at a low rate.

    init is a run of omma's or a Hugging Face model. With val=TABLE it is measured before the first step and after the
    last; give a table of the old task to see what is lost.

    omma train clip-tune data=TABLE init=MODEL val=TABLE out=runs/tuned
    """
    return ClipTrainConfig(
        recipe="clip-tune",
        steps=500,
        batch_size=64,
        peak_lr=1e-5,
        warmup=50,
        weight_decay=0.1,
        eps=1e-6,
        max_grad_norm=1.0,
        ema=0.99,
    )


def clip_lora() -> ClipTrainConfig:
    """Fine-tune a CLIP or SigLIP by low-rank adapters on both towers, which are merged into the model that is saved.

    omma train clip-lora data=TABLE init=MODEL val=TABLE out=runs/lora
    """
    return replace(clip_tune(), recipe="clip-lora", train_vision="lora", train_text="lora", peak_lr=2e-4, head_lr=0.1,
                   weight_decay=0.0)  # fmt: skip


def clip_lit() -> ClipTrainConfig:
    """A text tower learns to read for a vision tower that stays as it is (LiT, Zhai et al. 2022).

    vision is a Hugging Face model (DINOv2, ViT, ...) or a CLIP of omma's; the text tower has nano's size.

    omma train clip-lit data=TABLE vision=MODEL out=runs/lit
    """
    return replace(clip(), recipe="clip-lit", train_vision="frozen")


CLIP_RECIPES = {"clip": clip, "clip-tune": clip_tune, "clip-lora": clip_lora, "clip-lit": clip_lit}
