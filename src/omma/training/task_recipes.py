"""Recipes that fine-tune a trained VLMo for a task. `omma train NAME data=TABLE init=RUN out=RUN2 key=value ...`

The model is that of init; a recipe sets what the task changes: the head, the picture size, stochastic depth. Those of
the paper's sizes hold the hyper-parameters of the published code (VLMo) and of BEiT for pictures alone; they have not
been run here, for want of the machines and the data.
"""

from collections.abc import Callable
from dataclasses import replace

from omma.models.vlmo_config import VLMoConfig
from omma.training.batches import DataConfig
from omma.training.config import TrainConfig
from omma.training.losses import LossWeights
from omma.training.stage_recipes import PUBLISHED, for_size

VQA_RATE = {"base": 3e-5, "base_plus": 3e-5, "large": 1.5e-5}
NLVR2_RATE = {"base": 5e-5, "base_plus": 3e-5, "large": 3e-5}
NLVR2_DEPTH = {"base": 0.1, "base_plus": 0.2, "large": 0.15}  # drop_path


def nano(task: str, losses: LossWeights, dataset: DataConfig) -> TrainConfig:
    """Settings that suit a nano model and some thousand items on a CPU."""
    return TrainConfig(recipe=f"vlmo-nano-{task}", inherit=True, losses=losses, dataset=dataset, steps=1000,
                       batch_size=64, peak_lr=3e-4, head_lr=5.0, warmup=50, weight_decay=0.01)  # fmt: skip


def vlmo_nano_vqa() -> TrainConfig:
    """Questions about a picture, answered with one of the training set's answers.

    omma train vlmo-nano-vqa data=scenes/train/items init=runs/vl out=runs/vqa
    """
    return nano("vqa", LossWeights(answer=1.0), DataConfig(where="task == 'question'"))


def vlmo_nano_nlvr2() -> TrainConfig:
    """Sentences about two pictures, true or false.

    omma train vlmo-nano-nlvr2 data=tables/nlvr2/items init=runs/vl out=runs/nlvr2
    """
    return nano("nlvr2", LossWeights(pair=1.0), DataConfig(where="task == 'comparison'"))


def vlmo_nano_caption() -> TrainConfig:
    """Captions, word by word, for a picture: any trained VLMo learns to write them.

    omma train vlmo-nano-caption data=scenes/train/pictures init=runs/vl out=runs/caption
    """
    return replace(nano("caption", LossWeights(caption=1.0), DataConfig(group=None)), peak_lr=1e-3, head_lr=1.0)


def vlmo_nano_classify() -> TrainConfig:
    """A picture's class, by its image experts alone.

    omma train vlmo-nano-classify data=TABLE dataset.label=COLUMN init=runs/mim out=runs/classes
    """
    return nano("classify", LossWeights(classify=1.0), DataConfig(flip=True))


def vlmo_nano_segment() -> TrainConfig:
    """A class for every pixel.

    omma train vlmo-nano-segment data=scenes/train/pictures init=runs/mim out=runs/segment
    """
    config = nano("segment", LossWeights(segment=1.0), DataConfig(flip=True, crop_scale=0.5))
    return replace(config, model=VLMoConfig(segment_width=64), batch_size=32, peak_lr=1e-3, head_lr=2.0)


def vqa(size: str) -> TrainConfig:
    """VQA v2 at 480 px: ten epochs of 128, the head at 20 times the rate. Published: 76.6 / 78.5 / 79.9 on test-dev.

    omma train vlmo-base-vqa data=vqa/items init=VLMO out=RUN
    """
    return TrainConfig(
        recipe=f"vlmo-{size}-vqa",
        inherit=True,
        model=VLMoConfig(image_size=480, drop_path=0.15),
        losses=LossWeights(answer=1.0),
        dataset=DataConfig(where="task == 'question'", crop_scale=0.5),
        epochs=10,
        batch_size=128,
        peak_lr=VQA_RATE[size],
        schedule="linear",
        final_lr=0.0,
        head_lr=20.0,
        weight_decay=0.01,
        max_grad_norm=None,
        ema=None,
    )


def nlvr2(size: str) -> TrainConfig:
    """NLVR2 at 384 px: ten epochs of 128. Published: 83.3 / 85.1 / 86.9 on test-P.

    Sentences that say left or right need the pictures as they are, so none is mirrored, unlike in the published code.

    omma train vlmo-base-nlvr2 data=nlvr2/items init=VLMO out=RUN
    """
    return TrainConfig(
        recipe=f"vlmo-{size}-nlvr2",
        inherit=True,
        model=VLMoConfig(image_size=384, drop_path=NLVR2_DEPTH[size]),
        losses=LossWeights(pair=1.0),
        dataset=DataConfig(where="task == 'comparison'", crop_scale=0.5),
        epochs=10,
        batch_size=128,
        peak_lr=NLVR2_RATE[size],
        schedule="linear",
        final_lr=0.0,
        weight_decay=0.01,
        max_grad_norm=None,
        ema=None,
    )


def classify(size: str) -> TrainConfig:
    """ImageNet-1k at 224 px by BEiT's recipe. Published for VLMo-base: 85.5 % top-1.

    From masked image modelling: a hundred epochs of 1024, rates that fall by 0.65 a layer, mixup and CutMix.

    omma train vlmo-base-classify data=imagenet dataset.label=class init=VLMO out=RUN
    """
    return TrainConfig(
        recipe=f"vlmo-{size}-classify",
        inherit=True,
        model=VLMoConfig(image_size=224, drop_path=0.1 if size == "base" else 0.2),
        losses=LossWeights(classify=1.0),
        dataset=DataConfig(flip=True, crop_scale=0.25, jitter=0.4, mixup=0.8, cutmix=1.0),
        epochs=100,
        batch_size=1024,
        peak_lr=4e-3 if size == "base" else 1e-3,
        final_lr=0.00025,
        layer_decay=0.65 if size == "base" else 0.75,
        weight_decay=0.05,
        betas=(0.9, 0.999),
        ema=0.9999,
    )


def segment(size: str) -> TrainConfig:
    """ADE20K at 512 px by BEiT's recipe: 160,000 steps of 16, rates that fall by 0.9 a layer. Published for VLMo-base:
    53.4 mIoU. Crops keep a quarter of the picture or more and are scaled to the square; nothing slides at test time.

    omma train vlmo-base-segment data=ade20k init=VLMO out=RUN
    """
    return TrainConfig(
        recipe=f"vlmo-{size}-segment",
        inherit=True,
        model=VLMoConfig(image_size=512, drop_path=0.1 if size == "base" else 0.2, segment_width=512),
        losses=LossWeights(segment=1.0),
        dataset=DataConfig(flip=True, crop_scale=0.25, jitter=0.4),
        steps=160_000,
        warmup=1500,
        batch_size=16,
        peak_lr=3e-5,
        schedule="linear",
        final_lr=0.0,
        layer_decay=0.9 if size == "base" else 0.95,
        weight_decay=0.05,
        betas=(0.9, 0.999),
        ema=None,
    )


TASK_RECIPES: dict[str, Callable[[], TrainConfig]] = {
    "vlmo-nano-vqa": vlmo_nano_vqa,
    "vlmo-nano-nlvr2": vlmo_nano_nlvr2,
    "vlmo-nano-caption": vlmo_nano_caption,
    "vlmo-nano-classify": vlmo_nano_classify,
    "vlmo-nano-segment": vlmo_nano_segment,
    **{f"vlmo-{size}-vqa": for_size(vqa, size) for size in PUBLISHED},
    **{f"vlmo-{size}-nlvr2": for_size(nlvr2, size) for size in PUBLISHED},
    **{f"vlmo-{size}-classify": for_size(classify, size) for size in PUBLISHED},
    **{f"vlmo-{size}-segment": for_size(segment, size) for size in PUBLISHED},
}
