"""Recipes of VLMo's three stages and of retrieval, for the paper's sizes and one below them.

Hyper-parameters of base, base_plus and large are those of the published code (VLMo and BEiT, Bao et al. 2021), which
wants the machines and data that the paper had: none of them was run here. `batch_size` is that of a step over all
processes. What differs from the published code on purpose: pictures with captions are not mirrored, since captions say
left and right; padding is never a masked word; the contrast's gradient is that of the whole batch.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from omma.models.vlmo_config import BASE, BASE_PLUS, LARGE, SMALL, VLMoConfig
from omma.training.batches import DataConfig
from omma.training.config import TrainConfig
from omma.training.losses import LossWeights
from omma.training.mim import MIMConfig

PUBLISHED = ("base", "base_plus", "large")


@dataclass(frozen=True)
class Size:
    """What the stages of one size have of their own. Rates are peaks; steps of warm-up follow from the stage."""

    model: VLMoConfig
    mim_rate: float = 1.5e-3
    mlm_rate: float = 2e-4
    vl_rate: float = 2e-4
    retrieval_rate: float = 3e-5
    flickr_depth: float = 0.2  # drop_path on Flickr30k
    mim_batch: int = 2048
    batch: int = 1024
    mim_steps: int = 1_040_000  # 150 epochs of the 14.2M pictures of ImageNet-22k
    steps: int = 200_000


SIZES = {
    "small": Size(replace(SMALL, vocab_size=16_000, drop_path=0.1), mim_rate=1e-3, mlm_rate=5e-4, vl_rate=5e-4,
                  mim_batch=256, batch=256, mim_steps=100_000, steps=50_000),
    "base": Size(BASE, flickr_depth=0.15),
    "base_plus": Size(BASE_PLUS, vl_rate=1e-4),
    "large": Size(LARGE, vl_rate=5e-5, retrieval_rate=2e-5),
}  # fmt: skip


def before_pairs(size: str) -> VLMoConfig:
    """The model of the first two stages: no expert for both modalities yet, texts of up to 196 tokens."""
    return replace(SIZES[size].model, num_vl_layers=0, itc_vl=False, max_text_len=196)


def mim(size: str) -> TrainConfig:
    """Stage 1 by BEiT's recipe: hidden patches are guessed as one of 8192 visual tokens.

    75 of 196 are hidden, in blocks of 16 and more. The tokens are a codebook of the table's own patches, learned first.
    With DALL-E's codes in a column, as published: dataset.patch_codes=COLUMN dataset.crop_scale=1 dataset.flip=false.
    Captions are not needed.

    omma train vlmo-base-mim data=PICTURES out=runs/mim
    """
    s = SIZES[size]
    model = before_pairs(size)
    if size == "large":
        model = replace(model, layer_scale=1e-5)
    return TrainConfig(
        recipe=f"vlmo-{size}-mim",
        model=model,
        losses=LossWeights(mim=1.0),
        mim=MIMConfig(target="tokens", codes=8192),
        dataset=DataConfig(group=None, crop_scale=0.08, jitter=0.4, flip=True, mim_ratio=75 / 196, mim_smallest=16),
        steps=s.mim_steps,
        batch_size=s.mim_batch,
        peak_lr=s.mim_rate,
        final_lr=1e-5 / s.mim_rate,
        warmup=10_000,
        weight_decay=0.05,
        betas=(0.9, 0.999),
        max_grad_norm=3.0,
        ema=None,
        save_every=10_000,
    )


def mlm(size: str) -> TrainConfig:
    """Stage 2: text experts fill in words of texts of up to 196 tokens; what stage 1 trained stays as it is.

    TEXTS is a file with a sentence a line (published: Wikipedia and BookCorpus) or a table with captions. The published
    code has no setting for large; it gets that of base.

    omma train vlmo-base-mlm dataset.texts=TEXTS init=runs/mim out=runs/mlm
    """
    s = SIZES[size]
    return TrainConfig(
        recipe=f"vlmo-{size}-mlm",
        model=before_pairs(size),
        losses=LossWeights(text_mlm=1.0),
        freeze=("vision",),
        dataset=DataConfig(group=None),
        steps=s.steps,
        batch_size=s.batch,
        peak_lr=s.mlm_rate,
        **PUBLISHED_OPTIMISER,
    )


def vl(size: str) -> TrainConfig:
    """Stage 3: contrast, matching with hard negatives of the whole batch, masked words.

    Published on COCO, Visual Genome, SBU and CC3M, 4M pictures; what came of it is told at the tasks.

    omma train vlmo-base-vl data=TABLE init=runs/mlm out=runs/vl
    """
    s = SIZES[size]
    both = s.model.itc_vl
    return TrainConfig(
        recipe=f"vlmo-{size}-vl",
        model=s.model,
        losses=LossWeights(itc=0.5 if both else 1.0, itc_vl=0.5 if both else 0.0, itm=1.0, mlm=0.25),
        dataset=DataConfig(crop_scale=0.5),
        steps=s.steps,
        batch_size=s.batch,
        peak_lr=s.vl_rate,
        **PUBLISHED_OPTIMISER,
    )


def retrieval(size: str, name: str, steps: int, drop_path: float) -> TrainConfig:
    """The settings that retrieval on COCO and Flickr30k share: contrast alone, at 384 px, 3072 pairs a step."""
    config = TrainConfig(
        recipe=f"vlmo-{size}-retrieval-{name}",
        inherit=True,
        model=VLMoConfig(image_size=384, drop_path=drop_path, text_dropout=drop_path),
        losses=LossWeights(itc=1.0),
        dataset=DataConfig(crop_scale=0.5),
        steps=steps,
        batch_size=3072,
        peak_lr=SIZES[size].retrieval_rate,
        **PUBLISHED_OPTIMISER,
    )
    return replace(config, warmup=steps // 10, save_every=steps // 10)


def coco(size: str) -> TrainConfig:
    """Retrieval on COCO at 384 px, 16 epochs of the training pictures.

    Published R@1 of base, base_plus, large: texts 74.8, 76.3, 78.2, pictures 57.2, 58.6, 60.6 (5k test).

    omma train vlmo-base-retrieval-coco data=TABLE init=runs/vl out=runs/coco
    """
    return retrieval(size, "coco", 3000, 0.2)


def flickr30k(size: str) -> TrainConfig:
    """Retrieval on Flickr30k at 384 px, 32 epochs of the training pictures.

    Published R@1 of base, base_plus, large: texts 92.3, 93.2, 95.3, pictures 79.3, 81.8, 84.5. base and large start
    from the model that was fine-tuned on COCO, as published.

    omma train vlmo-base-retrieval-flickr30k data=TABLE init=runs/coco out=runs/flickr30k
    """
    return retrieval(size, "flickr30k", 1500, SIZES[size].flickr_depth)


PUBLISHED_OPTIMISER: dict = {
    "schedule": "linear",
    "final_lr": 0.0,
    "warmup": 2500,
    "weight_decay": 0.01,
    "betas": (0.9, 0.98),
    "max_grad_norm": None,
    "ema": None,
    "save_every": 10_000,
}


def for_size(make: Callable[[str], TrainConfig], size: str) -> Callable[[], TrainConfig]:
    """`make(size)` as a recipe by itself: its docstring has its own command."""
    recipe = partial(make, size)
    recipe.__doc__ = (make.__doc__ or "").replace("vlmo-base-", f"vlmo-{size}-")
    return recipe


STAGE_RECIPES: dict[str, Callable[[], TrainConfig]] = {
    **{f"vlmo-{size}-mim": for_size(mim, size) for size in SIZES},
    **{f"vlmo-{size}-mlm": for_size(mlm, size) for size in SIZES},
    **{f"vlmo-{size}-vl": for_size(vl, size) for size in SIZES},
    **{f"vlmo-{size}-retrieval-coco": for_size(coco, size) for size in PUBLISHED},
    **{f"vlmo-{size}-retrieval-flickr30k": for_size(flickr30k, size) for size in PUBLISHED},
}
