"""Eyes of others behind the protocol Encoder: CLIP, SigLIP, SigLIP2, Chinese-CLIP, BLIP, and DINOv2, DINOv3, ViT,
ConvNeXt, which see but don't read. Their vectors are those that transformers computes.

    eye = load_encoder("path/of/clip-vit-base-patch32")       # as `hf download` or save_pretrained left it
    eye.encode_image(pictures) @ eye.encode_text(["a red cup"]).T
"""

import contextlib
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

import omma.models.no_torchvision  # noqa: F401  isort: skip  (before transformers, which looks for torchvision)
from transformers import BlipForImageTextRetrieval, PreTrainedModel

from omma.models.hf import kind_of, layers_of, load_model, read_config, side_of, tokens
from omma.models.hf_preprocess import AnyShape, load_processor
from omma.models.lean import FirstTokenAlone
from omma.models.preprocess import Processor
from omma.models.pretrained import Batched, autocast, same_number, settings_of
from omma.models.weights import weights_hash

READERS = ("blip", "chinese_clip", "clip", "siglip", "siglip2")
SEERS = ("clip_vision_model", "convnext", "convnextv2", "dinov2", "dinov2_with_registers", "dinov3_convnext",
         "dinov3_vit", "siglip_vision_model", "vit")  # fmt: skip
# Vision models whose vector is made of the first token of their last layer.
CLASS_TOKEN = ("blip_vision_model", "chinese_clip_vision_model", "clip_vision_model", "dinov2", "dinov2_with_registers",
               "dinov3_vit", "vit")  # fmt: skip
ACTIVATIONS = 10 << 20  # bytes of the widest that a layer makes of the pictures of a pass


@dataclass(frozen=True)
class Features:
    """What an eye's layers make of n pictures.

    pooled: (n, D), the vision model's own vector before any projection; layers: {number: (n, P, D)}, 0 the embeddings;
    mask: (n, P) bool, which of the tokens are no padding.
    """

    pooled: np.ndarray
    layers: dict[int, np.ndarray]
    mask: np.ndarray


class HFEncoder(Batched):
    """A Hugging Face model with its preprocessing: pictures and texts in, numpy out.

    precision: fp32 by default, as of VLMoEncoder. logit_scale and logit_bias are there where the model has them.
    """

    def __init__(
        self, model: PreTrainedModel, processor: Processor, name: str, device: str = "auto", precision: str = "fp32",
        any_shape: AnyShape | None = None,
    ):  # fmt: skip
        super().__init__(device, precision)
        self.model: Any = model.to(self.device).eval()  # type: ignore[arg-type]
        self.processor, self.name, self.any_shape = processor, name, any_shape
        self.reads = hasattr(model, "get_text_features") or isinstance(model, BlipForImageTextRetrieval)
        with torch.inference_mode():
            one = self.image_embeds(self.image_inputs([Image.new("RGB", (32, 32))]))
        self.embed_dim = int(one.shape[-1])
        if hasattr(model, "logit_scale"):
            self.logit_scale = float(self.model.logit_scale.detach().exp())
        if hasattr(model, "logit_bias"):
            self.logit_bias = float(self.model.logit_bias.detach())
        settings = settings_of(processor, precision) + model.config.model_type
        if any_shape is not None:
            settings += f" {any_shape.most} patches of {any_shape.patch}"
        whole = weights_hash(model.state_dict()) + settings
        self.fingerprint = hashlib.blake2b(whole.encode(), digest_size=8).hexdigest()

    # ---- pictures
    def encode_image(self, images: Sequence[Image.Image], batch_size: int = 64) -> np.ndarray:
        """Pictures -> (n, embed_dim) float32, L2-normalised."""

        def step(part: slice) -> Tensor:
            inputs = self.image_inputs(images[part])
            with self._spared():
                return self.image_embeds(inputs)

        at_once = self._at_once(max(1, min(batch_size, len(images))))
        return self._batched(len(images), at_once, step, (self.embed_dim,))

    def _spared(self) -> contextlib.AbstractContextManager:
        """The vision model for its vector alone, which most make of the class token: the last layer sees to no other.
        Measured on processors, and done there."""
        vision = side_of(self.model, "vision")
        if self.device.type != "cpu" or vision.config.model_type not in CLASS_TOKEN:
            return contextlib.nullcontext()
        return FirstTokenAlone(layers_of(vision)[-1])

    def _at_once(self, wanted: int) -> int:
        """Pictures of a pass in float32 on a processor: an equal part of `wanted` whose activations malloc keeps.
        Beyond, each layer's memory comes anew from the system, a tenth of a ViT-B/32's time in batches of 32."""
        config = side_of(self.model, "vision").config
        sizes: list[Any] = [getattr(config, name, None) for name in ("image_size", "patch_size", "hidden_size")]
        in_float32 = self.device.type == "cpu" and not isinstance(autocast(self.device, self.precision), torch.autocast)
        if not in_float32 or not all(isinstance(size, int) for size in sizes):
            return wanted
        image, patch, width = sizes
        most = max(1, ACTIVATIONS // (4 * 4 * width * (image // patch) ** 2))  # four bytes, an MLP four times as wide
        return math.ceil(wanted / math.ceil(wanted / most))

    @torch.inference_mode()
    def hidden_states(self, images: Sequence[Image.Image], layers: Sequence[int], batch_size: int = 64) -> Features:
        """What these layers of the vision model make of n pictures; negative numbers count from the last layer, 0 is
        what the first layer is given. ValueError for a layer that it hasn't.

        All n stay in memory: for many pictures ask in parts.
        """
        pooled, masks, found = [], [], {}
        for start in range(0, max(len(images), 1), batch_size):
            inputs = self.image_inputs(images[start : start + batch_size])
            with autocast(self.device, self.precision):
                out = side_of(self.model, "vision")(**inputs, output_hidden_states=True, return_dict=True)
            depth = len(out.hidden_states)
            if wrong := [n for n in layers if not -depth <= n < depth]:
                raise ValueError(f"no layer {wrong[0]}; {self.name} has layers 0 to {depth - 1}")
            for number in layers:
                found.setdefault(number % depth, []).append(tokens(out.hidden_states[number]).float().cpu().numpy())
            pooled.append(self._pooled(out).float().cpu().numpy())
            mask = inputs.get("pixel_attention_mask", torch.ones(out.last_hidden_state.shape[:2]))
            masks.append(mask.bool().cpu().numpy())
        whole = {number: np.concatenate(parts) for number, parts in found.items()}
        return Features(np.concatenate(pooled), whole, np.concatenate(masks))

    def image_inputs(self, images: Sequence[Image.Image]) -> dict[str, Any]:
        """What the vision model is given of these pictures, by name."""
        if self.any_shape is not None:
            return {k: v.to(self.device) for k, v in self.any_shape.images(images).items()}
        pixel_values = self.processor.images(images).to(self.device)
        config = getattr(self.model.config, "vision_config", None) or self.model.config
        moved = pixel_values.shape[-1] != getattr(config, "image_size", pixel_values.shape[-1])
        learned = config.model_type not in ("dinov2", "dinov2_with_registers", "dinov3_vit")
        learned = learned and not config.model_type.startswith(("convnext", "dinov3"))
        return {"pixel_values": pixel_values} | ({"interpolate_pos_encoding": True} if moved and learned else {})

    def _pooled(self, out: Any) -> Tensor:
        """The vision model's vector: its pooler's, or its class token's where the weights have no pooler (ViT)."""
        pooled = out.get("pooler_output")
        return out.last_hidden_state[:, 0] if pooled is None else pooled.flatten(1)

    def image_embeds(self, inputs: dict[str, Any]) -> Tensor:
        """inputs: of `image_inputs`, of B pictures -> (B, embed_dim) float32, L2-normalised."""
        if isinstance(self.model, BlipForImageTextRetrieval):
            found = self.model.vision_proj(self.model.vision_model(**inputs).last_hidden_state[:, 0])
        else:
            found = self.model.get_image_features(**inputs) if self.reads else self.model(**inputs)
        return F.normalize((found if isinstance(found, Tensor) else self._pooled(found)).float(), dim=-1)

    # ---- texts
    def encode_text(self, texts: Sequence[str], batch_size: int = 64) -> np.ndarray:
        """Texts -> (n, embed_dim) float32, L2-normalised. ValueError of an eye that doesn't read."""
        if not self.reads:
            raise ValueError(f"{self.name} is a {self.model.config.model_type}, which sees pictures and reads no "
                             f"texts; models that read are {', '.join(READERS)}")  # fmt: skip

        def step(part: slice) -> Tensor:
            ids, mask = (t.to(self.device) for t in self.processor.texts(texts[part]))
            return self.text_embeds(ids, mask)

        return self._batched(len(texts), batch_size, step, (self.embed_dim,))

    def text_embeds(self, ids: Tensor, mask: Tensor) -> Tensor:
        """input_ids, attention_mask: (B, T) -> (B, embed_dim) float32, L2-normalised."""
        if isinstance(self.model, BlipForImageTextRetrieval):
            found = self.model.text_proj(self.model.text_encoder(ids, attention_mask=mask).last_hidden_state[:, 0])
        else:
            out = self.model.get_text_features(input_ids=ids, attention_mask=mask)
            found = out if isinstance(out, Tensor) else out.pooler_output
        return F.normalize(found.float(), dim=-1)


class HFMatcher(HFEncoder):
    """A BLIP for retrieval, which also looks at a picture and a text together (Li et al. 2022)."""

    def match(self, images: Sequence[Image.Image], texts: Sequence[str], batch_size: int = 64) -> np.ndarray:
        """The matching head's probability (n,) float32 that text i belongs to picture i.

        Raises ValueError when the lists differ in length.
        """

        def step(part: slice) -> Tensor:
            some = list(images[part])
            ids, mask = (t.to(self.device) for t in self.processor.texts(texts[part]))
            first = {id(image): image for image in some}  # a picture with many texts is seen once
            place = {key: row for row, key in enumerate(first)}
            rows = torch.tensor([place[id(image)] for image in some], device=self.device)
            seen = self.model.vision_model(**self.image_inputs(list(first.values()))).last_hidden_state[rows]
            both = self.model.text_encoder(
                ids, attention_mask=mask, encoder_hidden_states=seen,
                encoder_attention_mask=torch.ones(seen.shape[:2], dtype=torch.long, device=self.device),
            )  # fmt: skip
            return self.model.itm_head(both.last_hidden_state[:, 0]).float().softmax(dim=-1)[:, 1]

        return self._batched(same_number(images, texts), batch_size, step, ())


def load_hf_encoder(source: str | Path, device: str = "auto", precision: str = "fp32") -> HFEncoder:
    """The eye in a Hugging Face model folder, or of a name on the hub.

    ValueError: no such folder or name, a kind of model that is no eye, weights of another kind of model, or
    preprocessing that omma doesn't know.
    """
    config = read_config(source)
    kind = config.model_type
    if kind not in READERS + SEERS:
        raise ValueError(f"{source} is a {kind}; eyes are {', '.join(READERS)}, and without words {', '.join(SEERS)}")
    model, lacking = load_model(source, kind_of(config))
    if lacking:  # a ViT that was saved with a classifier has no pooler: a random one must not take its place
        model.pooler = None  # type: ignore[assignment]
    processor = load_processor(source, source if kind in READERS else None)
    shapes = AnyShape(source, processor) if kind == "siglip2" else None
    made = HFMatcher if isinstance(model, BlipForImageTextRetrieval) else HFEncoder
    name = Path(source).resolve().name if Path(source).is_dir() else str(source).rpartition("/")[2]
    return made(model, processor, name, device, precision, shapes)
