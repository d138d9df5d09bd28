"""How a Hugging Face model wants its pictures and texts, read from its own files: a `Processor`, without torchvision.

Pictures: preprocessor_config.json, or the image_processor of processor_config.json; what it leaves open, and what a
model without such a file wants, is in FAMILIES. Texts: the model's own fast tokenizer.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer
from torch import Tensor

import omma.models.no_torchvision  # noqa: F401  isort: skip  (before transformers, which looks for torchvision)
from transformers import AutoTokenizer, PretrainedConfig, PreTrainedTokenizerFast

from omma.models.hf import Source, local, longest_text, read_config, read_json, reading
from omma.models.preprocess import RESAMPLE, SPECIAL_TOKENS, Processor, wordpiece

CLIP = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
BILINEAR, BICUBIC = {"resample": 2}, {"resample": 3}
MIDDLE: dict[str, Any] = {"do_center_crop": True}
# What each family's processor does unless its file says otherwise. A size that is left open is the model's own.
FAMILIES: dict[str, dict[str, Any]] = {
    "blip": CLIP | BICUBIC,
    "chinese_clip": CLIP | BICUBIC | MIDDLE,
    "clip": CLIP | BICUBIC | MIDDLE,
    "convnext": IMAGENET | BICUBIC | {"crop_pct": 224 / 256},
    "convnextv2": IMAGENET | BICUBIC | {"crop_pct": 224 / 256},
    "dinov2": IMAGENET | BICUBIC | MIDDLE,
    "dinov2_with_registers": IMAGENET | BICUBIC | MIDDLE,
    "dinov3_convnext": IMAGENET | BILINEAR,
    "dinov3_vit": IMAGENET | BILINEAR,
    "siglip": HALF | BICUBIC,
    "siglip2": HALF | BILINEAR,
    "vit": HALF | BILINEAR,
}
# A tokenizer without any of these knows its special tokens alone, and transformers makes it without a word.
VOCABULARIES = (("tokenizer.json",), ("vocab.txt",), ("vocab.json", "merges.txt"), ("*.model",))
LARGEST_SCALE = 100.0  # of SigLIP2's search for a picture's size


def load_processor(
    vision: Source | None,
    text: Source | None = None,
    *,
    image_size: int | None = None,
    context_length: int | None = None,
    pad_token: str | None = None,
) -> Processor:
    """The pictures of one model and the texts of another, or of the same, as one `Processor`.

    vision, text: a folder, a name on the hub, or (vision only) a config dict; None for a side that isn't there.
    image_size: another one than the model's. context_length: tokens of a text, at most what the model has positions
    for. pad_token: for a tokenizer that has none, which else is a ValueError. ValueError also for pictures that are no
    squares, and where there is no fast tokenizer.
    """
    pictures: dict[str, Any] = {"image_size": image_size or 224}
    if vision is not None:
        pictures = picture_settings(vision, image_size)
    if text is None:
        return Processor(wordpiece(SPECIAL_TOKENS, lowercase=False), max_text_len=context_length or 8, **pictures)
    return Processor(**text_settings(text, context_length, pad_token), **pictures)


# ---------------------------------------------------------------------------------------------------------- pictures
def picture_file(source: Source) -> dict[str, Any]:
    """What a model's own files say of its pictures; nothing, where they say nothing."""
    if isinstance(source, Mapping):
        return {}
    found = read_json(source, "preprocessor_config.json")
    if found is None:
        found = (read_json(source, "processor_config.json") or {}).get("image_processor")
    return found or {}


def vision_config(config: PretrainedConfig) -> PretrainedConfig:
    return getattr(config, "vision_config", None) or config


def family(config: PretrainedConfig) -> str:
    return config.model_type.removesuffix("_vision_model")


def picture_settings(source: Source, image_size: int | None = None) -> dict[str, Any]:
    """The fields of a Processor that pictures need. image_size: instead of the model's; the crop's margin is kept."""
    tower = source.get("model") if isinstance(source, Mapping) else None
    if isinstance(source, Mapping) and isinstance(tower, Mapping):  # a tower's own config
        image_size, source = image_size or source.get("image_size"), tower
    config = read_config(source)
    file = picture_file(source)
    values = FAMILIES.get(family(config), HALF | BICUBIC) | {k: v for k, v in file.items() if v is not None}
    own, shortest = square(values, vision_config(config))
    side = image_size or own
    if shortest is not None:
        shortest = round(shortest * side / own)
    if not values.get("do_resize", True):
        raise ValueError("these pictures are cut out of what is given, unscaled, and omma's are scaled; set do_resize")
    if not values.get("do_rescale", True) or not math.isclose(values.get("rescale_factor", 1 / 255), 1 / 255):
        raise ValueError("these pictures are not scaled from 0..255 to 0..1, which is all that omma knows")
    mean, std = values["image_mean"], values["image_std"]
    if not values.get("do_normalize", True):
        mean, std = 0.0, 1.0
    names = {int(filter): name for name, filter in RESAMPLE.items()}
    if values["resample"] not in names:
        raise ValueError(f"resample {values['resample']}; there are {names}")
    rounded = not family(config).startswith("dinov3")  # whose processor scales to 0..1 before it scales in size
    return {"image_size": side, "shortest_side": shortest, "resample": names[values["resample"]],
            "mean": channels(mean), "std": channels(std), "rounded": rounded}  # fmt: skip


def channels(value: float | Sequence[float]) -> float | tuple[float, ...]:
    """One number where all colours have the same."""
    if isinstance(value, int | float):
        return float(value)
    return float(value[0]) if len(set(value)) == 1 else tuple(float(v) for v in value)


def square(values: Mapping[str, Any], config: PretrainedConfig) -> tuple[int, int | None]:
    """(side of the square that the model sees, what a picture's shorter side is scaled to; None: it is squashed)."""
    if config.model_type.startswith("siglip2"):  # NaFlex: as many patches as a square of this side has
        patch = values.get("patch_size", config.patch_size)
        return int(values.get("max_num_patches", config.num_patches) ** 0.5) * patch, None
    size, crop = values.get("size"), values.get("crop_size")
    own = getattr(config, "image_size", None) or 224
    own = own[0] if isinstance(own, list | tuple) else own
    if "crop_pct" in values:  # ConvNeXt: below 384 a margin is cut off
        side = edge(size, "shortest_edge") or own
        return side, int(side / values["crop_pct"]) if side < 384 else None
    if values.get("do_center_crop"):
        if crop is None and isinstance(size, Mapping) and "height" in size:
            raise ValueError(f"a crop of no size out of pictures of {dict(size)}; give the processor a crop_size")
        side = edge(crop, "height") or edge(size, "shortest_edge") or own
        if isinstance(size, Mapping) and "height" in size and edge(size, "height") != side:
            raise ValueError(f"pictures are squashed to {dict(size)} and then cropped to {side}; omma knows either")
        return side, None if isinstance(size, Mapping) and "height" in size else edge(size, "shortest_edge") or side
    if isinstance(size, Mapping) and "shortest_edge" in size:
        raise ValueError(f"pictures of {dict(size)} without a crop have no one size; give the processor a crop_size")
    return edge(size, "height") or own, None


def edge(size: Any, name: str) -> int | None:
    """A side out of 224, {"height": 224, "width": 224} or {"shortest_edge": 224}; None where nothing is said."""
    if not isinstance(size, Mapping):
        if not isinstance(size, int | None):
            raise ValueError(f"a size of {size!r}; give a number of pixels")
        return size
    if size.get("height") != size.get("width"):
        raise ValueError(f"pictures of {size.get('height')} x {size.get('width')}; omma knows squares")
    return size.get(name) or size.get("height") or size.get("shortest_edge")


class AnyShape:
    """Pictures for SigLIP2's models that keep each one's shape (NaFlex): at most so many patches, padded to as many."""

    def __init__(self, source: Source, processor: Processor):
        config, values = vision_config(read_config(source)), picture_file(source)
        self.patch: int = values.get("patch_size", config.patch_size)
        self.most: int = values.get("max_num_patches", config.num_patches)
        self.processor = processor

    def images(self, images: Sequence[Image.Image]) -> dict[str, Tensor]:
        """pixel_values (B, most, 3 patch²), pixel_attention_mask (B, most), spatial_shapes (B, 2)."""
        values = torch.zeros(len(images), self.most, 3 * self.patch**2)
        mask = torch.zeros(len(images), self.most, dtype=torch.long)
        shapes = torch.zeros(len(images), 2, dtype=torch.long)
        for i, image in enumerate(images):
            height, width = shape_within(image.height, image.width, self.patch, self.most)
            fitted = image.convert("RGB").resize((width, height), RESAMPLE[self.processor.resample])
            pixels = self.processor.normalize(torch.from_numpy(np.array(fitted)).permute(2, 0, 1))
            gh, gw = height // self.patch, width // self.patch
            patches = pixels.view(3, gh, self.patch, gw, self.patch).permute(1, 3, 2, 4, 0).reshape(gh * gw, -1)
            values[i, : gh * gw], mask[i, : gh * gw] = patches, 1
            shapes[i, 0], shapes[i, 1] = gh, gw
        return {"pixel_values": values, "pixel_attention_mask": mask, "spatial_shapes": shapes}


def shape_within(height: int, width: int, patch: int, most: int) -> tuple[int, int]:
    """The largest size in whole patches, of about the same shape, that has no more than `most` of them.

    By bisection to 1e-5 of the scale, as SigLIP2's processor finds it (Tschannen et al. 2025).
    """
    fit = lambda scale, side: max(patch, math.ceil(side * scale / patch) * patch)
    low, high = 1e-6, LARGEST_SCALE
    while high - low >= 1e-5:
        scale = (low + high) / 2
        if (fit(scale, height) // patch) * (fit(scale, width) // patch) <= most:
            low = scale
        else:
            high = scale
    return fit(low, height), fit(low, width)


# ---------------------------------------------------------------------------------------------------------- texts
def text_settings(source: Source, context_length: int | None, pad_token: str | None) -> dict[str, Any]:
    """The fields of a Processor that texts need, of a folder or a name on the hub."""
    if isinstance(source, Mapping):
        raise ValueError("a config says nothing of words; give the folder or name of the model whose tokenizer it is")
    config = read_config(source)
    text = getattr(config, "text_config", None) or config
    own = fast_tokenizer(source)
    tokenizer = Tokenizer.from_str(own.backend_tokenizer.to_str())
    tokenizer.no_padding()
    tokenizer.no_truncation()
    if pad_token is not None:
        pad_id = tokenizer.token_to_id(pad_token)
        if pad_id is None:
            raise ValueError(f"the tokenizer of {source} has no token {pad_token!r} to pad with")
    elif own.pad_token_id is None:
        ends = f", such as pad_token={own.eos_token!r}, with which it ends its texts" if own.eos_token else ""
        raise ValueError(f"the tokenizer of {source} has no pad token, and texts of a batch must be of one length; "
                         f"name one of its tokens{ends}")  # fmt: skip
    else:
        pad_id = own.pad_token_id
    held = [n for n in (longest_text(text), own.model_max_length) if n is not None]
    longest = min([n for n in held if n < 1 << 20] or [512])  # tokenizers without a limit say 10^30
    if context_length is not None and context_length > (longest_text(text) or context_length):
        raise ValueError(f"context_length {context_length}: the text model of {source} has positions for "
                         f"{longest_text(text)} tokens")  # fmt: skip
    # SigLIP's models were trained on texts of one length without a mask, and read the last token, padding or not.
    return {"tokenizer": tokenizer, "max_text_len": context_length or longest, "pad_id": pad_id,
            "pad_left": own.padding_side == "left", "read_padding": config.model_type.startswith("siglip")}


def fast_tokenizer(source: str | Path) -> PreTrainedTokenizerFast:
    """The model's tokenizer. ValueError where its files hold none that is fast (a tokenizer.json)."""
    folder = local(source)
    if not any(all(any(Path(folder).glob(name)) for name in files) for files in VOCABULARIES):
        raise ValueError(f"{source} has no vocabulary, such as a tokenizer.json; copy the model's tokenizer files "
                         f"there too: hf download NAME --local-dir {source}")  # fmt: skip
    with reading(folder, "a tokenizer"):
        try:
            found: Any = AutoTokenizer.from_pretrained(folder)
        except ImportError:  # SigLIP's own class wants sentencepiece; the tokenizer.json beside it does not
            found = None
        if not hasattr(found, "backend_tokenizer"):
            found = PreTrainedTokenizerFast.from_pretrained(folder)
    return found
