"""Detectors of others that find things by their names: OWL-ViT and OWLv2 (Minderer et al. 2022, 2023).

    find = load_detector("google/owlvit-base-patch32")       # or a folder
    find.detect(picture, ["cup", "bottle"])[0].box
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import omma.models.no_torchvision  # noqa: F401  isort: skip  (before transformers, which looks for torchvision)
from transformers import AutoImageProcessor, AutoModelForZeroShotObjectDetection, AutoTokenizer

from omma.models.hf import load_model, local, read_config, reading
from omma.models.pretrained import pick_device

KINDS = ("owlvit", "owlv2")
SURE = 0.1             # the models' own bar, of 0..1
OVERLAP = 0.5          # intersection over union: two boxes of one thing
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Detected:
    """box: shares of the picture from its upper left; score: 0..1."""

    box: Box
    name: str
    score: float
    mask: None = None
    look: None = None


class HFDetector:
    """A model with its processor. threshold: scores below it are no things."""

    def __init__(self, model: Any, pictures: Any, tokenizer: Any, name: str, device: str = "auto",
                 threshold: float = SURE):
        self.device = pick_device(device)
        self.model, self.pictures, self.tokenizer = model.to(self.device).eval(), pictures, tokenizer
        self.name, self.threshold, self.bars = name, threshold, (threshold, threshold)

    @torch.inference_mode()
    def detect(self, image: Image.Image, names: Sequence[str]) -> list[Detected]:
        """The things of these names, the surest first; of boxes that overlap by half, the surest alone. ValueError
        where there are no names."""
        if not names:
            raise ValueError("a detector finds what it is told the names of; give one or more")
        image = image.convert("RGB")
        texts = [f"a photo of {'an' if name[:1] in tuple('aeiou') else 'a'} {name}" for name in names]
        words = self.tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt",
                               max_length=self.model.config.text_config.max_position_embeddings)
        seen = self.pictures(image, return_tensors="pt")["pixel_values"]
        out = self.model(pixel_values=seen.to(self.device), input_ids=words["input_ids"].to(self.device),
                         attention_mask=words["attention_mask"].to(self.device))
        (found,) = self.pictures.post_process_object_detection(out, self.threshold, [(image.height, image.width)])
        boxes = found["boxes"].float().cpu().numpy() / np.array([image.width, image.height] * 2)
        kept = apart(np.clip(boxes, 0, 1), found["scores"].cpu().numpy())
        scores = found["scores"].tolist()
        named = [str(names[int(label)]) for label in found["labels"]]
        told = [Detected(tuple(np.clip(boxes[i], 0, 1).tolist()), named[i], scores[i]) for i in kept]
        return [one for one in told if one.box[0] < one.box[2] and one.box[1] < one.box[3]]


def apart(boxes: np.ndarray, scores: np.ndarray, overlap: float = OVERLAP) -> list[int]:
    """Which of the boxes (n, 4) stay when each takes away those that it overlaps by more than that, the surest
    first."""
    left, kept = np.argsort(-scores, kind="stable"), []
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    while len(left):
        best, left = int(left[0]), left[1:]
        kept.append(best)
        wide = np.minimum(boxes[best, 2], boxes[left, 2]) - np.maximum(boxes[best, 0], boxes[left, 0])
        high = np.minimum(boxes[best, 3], boxes[left, 3]) - np.maximum(boxes[best, 1], boxes[left, 1])
        shared = wide.clip(0) * high.clip(0)
        left = left[shared <= overlap * (areas[best] + areas[left] - shared)]
    return kept


def load_detector(source: str | Path, device: str = "auto", threshold: float = SURE) -> HFDetector:
    """The detector in a Hugging Face model folder, or of a name on the hub. ValueError: no such folder or name, or
    another kind of model."""
    config = read_config(source)
    if config.model_type not in KINDS:
        raise ValueError(f"{source} is a {config.model_type}; detectors that find things by their names are "
                         f"{', '.join(KINDS)}")  # fmt: skip
    folder = local(source)
    with reading(source):
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        pictures = AutoImageProcessor.from_pretrained(folder, backend="pil", trust_remote_code=False)
    model, _ = load_model(source, AutoModelForZeroShotObjectDetection)
    return HFDetector(model, pictures, tokenizer, Path(source).name, device, threshold)
