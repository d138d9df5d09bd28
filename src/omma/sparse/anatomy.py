"""What is where in somebody else's vision-language model: text model, layers, the ids that stand for visual tokens."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

PAGE = "docs/add-a-vlm-family.md says what a family must have"


@dataclass(frozen=True, kw_only=True)
class Anatomy:
    """The parts that are listened to. Nothing in it is a copy."""

    model: PreTrainedModel  # what generates
    outer: nn.Module  # within it: vision tower, adapter and text model
    text: nn.Module  # within that: embeddings, rotary_emb, decoder layers, norm
    layers: tuple[nn.Module, ...]
    visual_ids: tuple[int, ...]  # ids that the prompt holds in place of visual tokens: pictures, videos

    @property
    def config(self) -> Any:
        """The text model's, which decides about attention and masks."""
        return self.text.config

    def visual_tokens(self, input_ids: Tensor | None, inputs_embeds: Tensor | None) -> Tensor | None:
        """(B, L) bool: which tokens of the prompt are visual. None for neither ids nor embeddings.

        Where only embeddings are given, those that equal a placeholder's, as transformers itself finds them.
        """
        if input_ids is not None:
            return torch.isin(input_ids, torch.tensor(self.visual_ids, device=input_ids.device))
        if inputs_embeds is None:
            return None
        table = self.text.get_input_embeddings()  # type: ignore[operator]
        ids = torch.tensor(self.visual_ids, device=inputs_embeds.device)
        return (inputs_embeds[:, :, None] == table(ids)).all(-1).any(-1)

    def video_tokens(self, input_ids: Tensor | None) -> Tensor | None:
        """(B, L) bool: which tokens of the prompt stand for videos, where they have an id of their own."""
        video = getattr(self.model.config, "video_token_id", None)
        image = getattr(self.model.config, "image_token_id", None)
        return None if input_ids is None or video is None or video == image else input_ids == video


def anatomy(model: Any) -> Anatomy:
    """Where the parts of `model` are: a vision-language model of transformers, or anything whose `.model` is one.

    ValueError names what is missing in a model of another build.
    """
    found = model if isinstance(model, PreTrainedModel) else getattr(model, "model", None)
    if not isinstance(found, PreTrainedModel):
        raise ValueError(f"{type(model).__name__} is no model of transformers and has none as its `.model`; {PAGE}")
    name = type(found).__name__
    outer = next((part for part in (getattr(found, "model", None), found) if text_model(part) is not None), None)
    if outer is None:
        raise ValueError(f"{name} is unsupported: it has no text model at .model.language_model or .text_model; {PAGE}")
    text = text_model(outer)
    layers = getattr(text, "layers", None)
    if not isinstance(layers, nn.ModuleList) or not isinstance(getattr(text, "rotary_emb", None), nn.Module):
        raise ValueError(f"{name} is unsupported: {type(text).__name__} lacks `.layers` or `.rotary_emb`; {PAGE}")
    lacking = [part for part in ("self_attn", "input_layernorm") if not all(hasattr(layer, part) for layer in layers)]
    kinds = set(getattr(text.config, "layer_types", None) or []) - {"full_attention"}
    if lacking or kinds or (getattr(text.config, "sliding_window", None) is not None and not whole(text.config)):
        what = (
            f"layers without {', '.join(lacking)}" if lacking else f"layers of {', '.join(sorted(kinds)) or 'a window'}"
        )
        raise ValueError(f"{name} is unsupported: it has {what}, and tokens are dropped under full attention; {PAGE}")
    ids = [getattr(found.config, f"{kind}_token_id", None) for kind in ("image", "video")]
    if not any(isinstance(i, int) for i in ids):
        raise ValueError(f"{name} is unsupported: its config has no image_token_id or video_token_id; {PAGE}")
    return Anatomy(
        model=found, outer=outer, text=text, layers=tuple(layers), visual_ids=tuple(i for i in ids if i is not None)
    )


def text_model(outer: Any) -> Any:
    """The text model directly within it, or None."""
    for name in ("language_model", "text_model"):
        part = getattr(outer, name, None)
        if isinstance(part, nn.Module) and hasattr(part, "layers"):
            return part
    return None


def whole(config: Any) -> bool:
    """Whether every layer sees everything, whatever window the config names beside."""
    return set(getattr(config, "layer_types", None) or ["sliding_attention"]) == {"full_attention"}
