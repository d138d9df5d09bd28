"""Recipes: functions that return a whole configuration. `omma train NAME data=TABLE out=RUN key=value ...`

VLMo's three stages, each starting from the one before (init=RUN):
  1 vision           masked image modelling on pictures alone
  2 language         masked language modelling on text alone; attention and image experts stay as they are
  3 vision-language  contrast, matching with hard negatives, masked language modelling with the picture in sight
"""

import difflib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from omma.models.vlmo_config import NANO
from omma.training.batches import DataConfig
from omma.training.clip_recipes import CLIP_RECIPES
from omma.training.config import TrainConfig
from omma.training.losses import LossWeights
from omma.training.nlvr_recipes import NLVR_RECIPES
from omma.training.stage_recipes import STAGE_RECIPES
from omma.training.task_recipes import TASK_RECIPES
from omma.training.vlm_recipes import VLM_RECIPES


def vlmo_nano_mim() -> TrainConfig:
    """Stage 1: a 5M eye learns pictures by filling in hidden patches.

    omma train vlmo-nano-mim data=TABLE out=runs/mim
    """
    return TrainConfig(
        recipe="vlmo-nano-mim",
        model=NANO,
        losses=LossWeights(mim=1.0),
        dataset=DataConfig(group=None),
        steps=1000,
        batch_size=64,
        peak_lr=1e-3,
        weight_decay=0.05,
    )


def vlmo_nano_mlm() -> TrainConfig:
    """Stage 2: its text experts learn language from the captions alone, attention frozen.

    omma train vlmo-nano-mlm data=TABLE init=runs/mim out=runs/mlm
    """
    return TrainConfig(
        recipe="vlmo-nano-mlm",
        model=NANO,
        losses=LossWeights(text_mlm=1.0),
        freeze=("vision",),  # attention and image experts, so that text cannot spoil what pictures taught
        dataset=DataConfig(group=None),
        steps=500,
        batch_size=64,
        peak_lr=1e-3,
        weight_decay=0.01,
    )


def vlmo_nano_vl() -> TrainConfig:
    """Stage 3: pictures and captions together: itc + itm with hard negatives + mlm.

    omma train vlmo-nano-vl data=TABLE init=runs/mlm out=runs/vl
    """
    return TrainConfig(
        recipe="vlmo-nano-vl",
        model=NANO,
        losses=LossWeights(itc=1.0, itc_pair=4.0, itm=0.25, mlm=0.25),
        dataset=DataConfig(mlm_probability=0.25),
        steps=2000,
        batch_size=64,
        fusion_share=0.25,
        peak_lr=1.5e-3,
        warmup=100,
        weight_decay=0.01,
    )


# The eye that comes with omma: smaller pictures and fewer layers than nano, more words (eight languages).
EYE = replace(NANO, image_size=96, hidden_size=128, num_layers=4, num_heads=4, vocab_size=8000, max_text_len=32)


def eye_contrast() -> TrainConfig:
    """The shipped eye, first: contrast alone, on all kinds, on few, on all again.

    At twice the samples a second of the whole. First on all data, until it knows the things by name; then on minimal
    pairs of four kinds in four colours, which leave log 2 within 400 steps there and not within 2,000 on all 24 kinds;
    then on all data again, where they now do. Position is left to the fusion head.
    TABLE is what bench/eye_data.py makes.

    omma train eye-contrast data=TABLE out=runs/eye-1
    """
    return TrainConfig(
        recipe="eye-contrast",
        model=EYE,
        losses=LossWeights(itc=1.0, itc_pair=4.0),
        dataset=DataConfig(batch_by="source", where="pattern is None or pattern != 'position'"),
        steps=2000,
        batch_size=64,
        peak_lr=1.5e-3,
        warmup=100,
        weight_decay=0.01,
    )


def eye_fusion() -> TrainConfig:
    """The shipped eye, last: matching within minimal pairs, beside the contrast.

    On few kinds until matching has left chance, then on all data.

    omma train eye-fusion data=TABLE init=runs/eye-2 out=runs/eye-3
    """
    return TrainConfig(
        recipe="eye-fusion",
        model=EYE,
        losses=LossWeights(itc=1.0, itc_pair=2.0, itm=1.0, itm_pair=4.0),
        dataset=DataConfig(batch_by="source"),
        steps=2000,
        batch_size=64,
        peak_lr=1e-3,
        warmup=100,
        weight_decay=0.01,
    )


def eye_mini() -> TrainConfig:
    """A small eye for questions that take many trainings: contrast alone, at 64 px, a minute or two on one thread.

    For a world of a few kinds in a few colours. dataset.flip=true mirrors half of the pictures and leaves the captions
    as they are, so that left and right can't be learned (bench/eyes_wide_shut.py).

    omma train eye-mini data=TABLE out=runs/mini
    """
    return TrainConfig(
        recipe="eye-mini",
        model=replace(EYE, image_size=64, hidden_size=96, num_heads=3, vocab_size=500, max_text_len=24),
        losses=LossWeights(itc=1.0, itc_pair=4.0),
        steps=500,
        batch_size=64,
        peak_lr=3e-3,
        warmup=60,
        weight_decay=0.01,
    )


def vlmo_nano_distill() -> TrainConfig:
    """A student of half the width and half the layers learns from the shipped eye.

    It moves into its teacher's space: vectors of pictures that the teacher embedded can be searched by the student's
    vectors of texts. The contrast within minimal pairs goes on beside it.

    omma train vlmo-nano-distill data=TABLE out=runs/student
    """
    return TrainConfig(
        recipe="vlmo-nano-distill",
        teacher="vlmo-nano",
        model=replace(EYE, hidden_size=64, num_layers=2, num_heads=2, num_vl_layers=1, embed_dim=EYE.hidden_size),
        losses=LossWeights(itc=1.0, itc_pair=4.0, distill=1.0, distill_features=2.0),
        steps=2000,
        batch_size=64,
        peak_lr=1.5e-3,
        warmup=100,
        weight_decay=0.01,
    )


def prompts() -> TrainConfig:
    """A few learned vectors before the words and the patches of a trained eye, which itself stays as it is.

    For few pictures of a new kind. The result is a model folder whose prompts.safetensors (8 kB for the shipped eye)
    holds all that was learned.

    omma train prompts data=TABLE init=vlmo-nano out=runs/prompts
    """
    return TrainConfig(
        recipe="prompts",
        losses=LossWeights(itc=1.0),
        prompts=8,
        visual_prompts=8,
        steps=300,
        batch_size=64,
        peak_lr=2e-2,
        warmup=20,
        weight_decay=0.0,
        ema=0.99,
    )


RECIPES: dict[str, Callable[[], Any]] = {
    "vlmo-nano-mim": vlmo_nano_mim,
    "vlmo-nano-mlm": vlmo_nano_mlm,
    "vlmo-nano-vl": vlmo_nano_vl,
    "eye-contrast": eye_contrast,
    "eye-fusion": eye_fusion,
    "eye-mini": eye_mini,
    "vlmo-nano-distill": vlmo_nano_distill,
    "prompts": prompts,
    **STAGE_RECIPES,
    **TASK_RECIPES,
    **NLVR_RECIPES,
    **CLIP_RECIPES,
    **VLM_RECIPES,
}


def load_recipe(name: str) -> Any:
    """The recipe's config, a `RunConfig`. ValueError names the recipes there are, the nearest ones first."""
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=3)
        nearest = f"the nearest: {', '.join(near)}; " if near else ""
        raise ValueError(f"no recipe {name!r}; {nearest}there are {', '.join(by_family())}. "
                         "Settings follow as key=value")  # fmt: skip
    return RECIPES[name]()


def by_family() -> dict[str, str]:
    """Every recipe's first sentence by name; those that differ in size stand in one line, as vlmo-SIZE-vl."""
    families: dict[object, list[str]] = {}
    for name, make in RECIPES.items():
        families.setdefault(getattr(make, "func", make), []).append(name)
    found = {}
    for names in families.values():
        paragraph = (RECIPES[names[0]].__doc__ or "").strip().partition("\n\n")[0]
        about = " ".join(paragraph.split()).partition(". ")[0].rstrip(".") + "."
        if len(names) == 1:
            found[names[0]] = about
        else:
            model, _, *task = names[0].split("-")
            found["-".join([model, "SIZE", *task])] = f"{about} SIZE: {', '.join(n.split('-')[1] for n in names)}"
    return found
