"""A smaller eye that learns from a larger one: its likeness of pictures and texts, and its vectors.

B batch, b rows of one process, E shared space. The teacher sees the student's pixels and words, so both
share the tokenizer.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from omma.models.preprocess import Processor
from omma.models.vlmo import VLMo, VLMoConfig
from omma.models.weights import from_pretrained, model_folder, read_config

DISTILLED = frozenset({"distill", "distill_features"})


def likeness_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """KL divergence of the student's distribution over the batch from the teacher's, mean over the rows that ask.

    student, teacher: scaled cosine logits (b, B), of b pictures with all texts or of b texts with all pictures. What a
    text is like beside what it belongs to is what the labels of the contrast cannot tell (Hinton et al. 2015; for
    image-text models Wu et al. 2023). 0 where both agree.
    """
    return F.kl_div(student.log_softmax(dim=1), teacher.log_softmax(dim=1), log_target=True, reduction="batchmean")


def feature_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared distance of unit vectors (B, E), which is 2 - 2 cos: the student moves into the teacher's space."""
    return (student - teacher).square().sum(dim=-1).mean()


def distilled(
    step: Any, own: tuple[Tensor, Tensor], everyone: tuple[Tensor, Tensor], logit_scale: Tensor
) -> dict[str, Tensor]:
    """The active ones of DISTILLED.

    step: a `losses.Step` with its teacher; own, everyone: the student's pictures and texts, of this process (b, E) and
    of all (B, E); logit_scale: the student's.
    """
    teacher, batch, world = step.teacher, step.batch, step.world
    assert teacher is not None  # `check` asks for it
    with torch.no_grad():
        images = teacher.encode_image(step.pixel_values)
        texts = teacher.encode_text(batch.input_ids, batch.attention_mask)
        scale = teacher.logit_scale.exp().clamp(max=100)
        all_images, all_texts = world.gather(images), world.gather(texts)
    losses: dict[str, Tensor] = {}
    with torch.autocast(images.device.type, enabled=False):  # as in `objectives.similarity`
        if "distill" in step.on:
            to_texts = likeness_loss(logit_scale * (own[0] @ everyone[1].T), scale * (images @ all_texts.T))
            to_images = likeness_loss(logit_scale * (own[1] @ everyone[0].T), scale * (texts @ all_images.T))
            losses["distill"] = (to_texts + to_images) / 2
        if "distill_features" in step.on:
            losses["distill_features"] = (feature_loss(own[0], images) + feature_loss(own[1], texts)) / 2
    return losses


# ------------------------------------------------------------------------------------------------ before the first step
def refuse_unfit_teacher(teacher: str | None, model: VLMoConfig, objectives: set[str]) -> None:
    """ValueError for a teacher that is missing, unused, or does not fit the student."""
    wanted = sorted(objectives & DISTILLED)
    if not teacher:
        if wanted:
            raise ValueError(f"losses.{wanted[0]} learns from a teacher: give teacher=vlmo-nano, or a run")
        return
    if not wanted:
        raise ValueError(f"teacher={teacher} has nothing to teach; set losses.distill or losses.distill_features")
    own = read_config(model_folder(teacher))
    if own.image_size != model.image_size:
        raise ValueError(f"the teacher {teacher} sees pictures of {own.image_size} px; set model.image_size to that, "
                         f"not {model.image_size}")  # fmt: skip
    if "distill_features" in wanted and own.shared_dim != model.shared_dim:
        raise ValueError(f"the vectors of {teacher} have {own.shared_dim} numbers, the student's {model.shared_dim}; "
                         f"set model.embed_dim={own.shared_dim}, or losses.distill_features=0")  # fmt: skip


def teacher_processor(teacher: str, model: VLMoConfig) -> Processor:
    """The teacher's processor for a student that starts afresh, cut to the student's text length."""
    processor = Processor.load(model_folder(teacher))
    return replace(processor, max_text_len=min(processor.max_text_len, model.max_text_len))


def load_teacher(place: str | Path, processor: Processor, device: torch.device) -> VLMo:
    """The frozen teacher. ValueError where its words are not the student's: their ids would mean other things."""
    folder = model_folder(place)
    if Processor.load(folder).tokenizer.to_str() != processor.tokenizer.to_str():
        raise ValueError(f"the teacher {place} has another tokenizer than init; train a student of it without init, "
                         "or one that began with its tokenizer")  # fmt: skip
    return from_pretrained(folder, device).eval().requires_grad_(False)
