"""Losses of the tasks that a pre-trained VLMo is fine-tuned for: questions, pairs and sets of pictures, classes.

B batch, K pictures an item, C labels.
"""

from collections.abc import Collection
from dataclasses import fields, replace
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from omma.models.positions import fit_positions
from omma.models.vlmo import VLMo, VLMoConfig
from omma.training.items import TRUE_FALSE

PARTS = tuple("0123456789")  # what losses.parts can say of a picture
ITEM_OBJECTIVES = ("answer", "pair", "set", "parts", "classify", "tags")  # those that want an `ItemBatch`


def answer_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy of every answer, summed over answers, averaged over questions (VQA in the published code).

    logits, targets: (B, C); a target is the share of credit an answer gets, 0..1. Several answers may be right.
    """
    return F.binary_cross_entropy_with_logits(logits.float(), targets, reduction="none").sum(dim=1).mean()


def label_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy: logits (B, C) against shares of the labels (B, C), scaled to sum to 1."""
    return F.cross_entropy(logits.float(), targets / targets.sum(dim=1, keepdim=True))


def item_losses(step: Any) -> dict[str, Tensor]:
    """The active ones of ITEM_OBJECTIVES; step: a `losses.Step` of an `ItemBatch`, pixel_values (B, K, 3, h, w).

    ValueError where the number of pictures is not what the objective takes.
    """
    model, batch, pictures = step.model, step.batch, step.pixel_values
    losses: dict[str, Tensor] = {}
    wanted = {"answer": 1, "classify": 1, "tags": 1, "pair": 2}
    for name in [name for name in ("answer", "classify", "tags", "pair") if name in step.on]:
        if wanted.get(name, pictures.shape[1]) != pictures.shape[1]:
            raise ValueError(f"losses.{name} takes {wanted[name]} pictures an item; these have {pictures.shape[1]}")
        if name == "answer":
            logits = model.answer(batch.input_ids, batch.attention_mask, pictures[:, 0])
            losses[name] = answer_loss(logits, batch.targets)
        elif name == "classify":
            losses[name] = label_loss(model.classify(pictures[:, 0]), batch.targets)
        elif name == "tags":
            losses[name] = tags_loss(model.classify(pictures[:, 0]), batch.targets)
        else:
            logits = model.classify_pair(batch.input_ids, batch.attention_mask, pictures[:, 0], pictures[:, 1])
            losses[name] = label_loss(logits, batch.targets)
    if step.on.keys() & {"set", "parts"}:
        losses |= set_losses(step)
    return losses


def tags_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy, averaged over pictures and tags: logits (B, C) against 0 or 1 (B, C)."""
    return F.binary_cross_entropy_with_logits(logits.float(), targets)


def set_losses(step: Any) -> dict[str, Tensor]:
    """Sets of pictures: whether the sentence is true, and what it looks for in each of them, from the same passes."""
    model, batch, losses = step.model, step.batch, {}
    pooled = model.meet(batch.input_ids, batch.attention_mask, step.pixel_values)
    if "set" in step.on:
        losses["set"] = label_loss(model.set_head(pooled), batch.targets)
    if "parts" in step.on:
        parts = parts_loss(model.answer_head(pooled), batch.parts)
        losses["parts"] = step.world.share(parts, (batch.parts >= 0).sum())
    return losses


def parts_loss(logits: Tensor, parts: Tensor) -> Tensor:
    """Cross-entropy of a number for each picture: logits (B, K, C) against parts (B, K), below 0 where unknown.

    Zero where none is known.
    """
    known = parts >= 0
    total = F.cross_entropy(logits.float()[known], parts[known], reduction="sum")
    return total / known.sum().clamp(min=1)


def labels_for(config: VLMoConfig, objectives: set[str]) -> tuple[str, ...]:
    """The labels that an item objective's targets stand for. ValueError for objectives that don't share them."""
    kinds = {"answer": config.answers, "classify": config.classes, "tags": config.classes,
             **dict.fromkeys(("pair", "set", "parts"), TRUE_FALSE)}
    objectives = objectives - {"balance"}  # it has no samples of its own
    found = {kinds[name] for name in objectives & kinds.keys()}
    if len(found) != 1 or objectives - kinds.keys():
        raise ValueError(f"the objectives {', '.join(sorted(objectives))} can't share a step: their batches hold "
                         "different things. Train them one after the other, with init=RUN")  # fmt: skip
    return found.pop()


def with_heads(config: VLMoConfig, objectives: set[str], labels: tuple[str, ...]) -> dict[str, Any]:
    """The changes to a model's config that give it the heads these objectives train, where it lacks them."""
    changes: dict[str, Any] = {}
    if "answer" in objectives and not config.answers:
        changes["answers"] = labels
    if objectives & {"classify", "tags"} and not config.classes:
        changes["classes"] = labels
    if "pair" in objectives and not config.num_pair_classes:
        changes |= {"num_pair_classes": len(TRUE_FALSE), "num_image_types": 2}
    if "parts" in objectives and not config.answers:
        changes["answers"] = PARTS
    if "set" in objectives and not config.num_set_classes:
        changes["num_set_classes"] = len(TRUE_FALSE)
    return changes


def is_for_items(objectives: Any) -> bool:
    return bool(set(objectives) & set(ITEM_OBJECTIVES))


def inherited(stored: VLMoConfig, wanted: VLMoConfig, given: Collection[str] = ()) -> VLMoConfig:
    """The stored model's config, with what `wanted` has other than a plain VLMoConfig(), or was `given`."""
    plain = VLMoConfig()
    names = [f.name for f in fields(VLMoConfig)
             if f"model.{f.name}" in given or getattr(wanted, f.name) != getattr(plain, f.name)]  # fmt: skip
    return replace(stored, **{name: getattr(wanted, name) for name in names})


def fitted(model: VLMo, source: VLMoConfig, name: str, stored: Tensor) -> Tensor:
    """A stored tensor as this model's of that name, where the models differ in sizes that training may change.

    Positions are read at the new grid, those of texts cut (`positions.fit_positions`); a second picture's type starts
    as a copy of the first one's (NLVR2, as published). Else the tensor itself, whether it fits or not.
    """
    if source.patch_size == model.config.patch_size:
        stored = fit_positions({name: stored}, source.grid, model.config.grid, model.config.max_text_len)[name]
    own = model.state_dict().get(name)
    if own is None or own.shape == stored.shape or own.shape[1:] != stored.shape[1:]:
        return stored
    if name == "type_embed.weight" and len(own) > len(stored):
        return stored[[min(i, len(stored) - 1) for i in range(len(own))]]
    return stored
