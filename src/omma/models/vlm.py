"""A VLM: an eye, an adapter and a small language model, built as Hugging Face's are (LLaVA, Liu et al. 2023).

The eye is a tower of omma; each of its patches goes through a two-layer MLP and stands in the prompt where an image
token is. The language model is any text model of transformers, a Llama by default. So `generate`, its cache, and
whatever else is made for such models work with this one.

B batch, I pictures of a batch, V visual tokens a picture, S tokens of a prompt, D width of the language model.
"""

import dataclasses
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

import omma.models.no_torchvision  # noqa: F401  isort: skip  (before transformers, which looks for torchvision)
from transformers import AutoConfig, AutoModel, GenerationMixin, LlamaConfig, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from omma.models.clip import CLIPConfig
from omma.models.positions import fit_positions
from omma.models.towers import VisionConfig, VisionTower
from omma.models.vlmo import VLMo
from omma.models.vlmo_config import VLMoConfig
from omma.models.weights import (
    MODELS,
    load_matching,
    load_strictly,
    model_folder,
    read_config,
    read_settings,
    read_weights,
)

IGNORE = -100  # a label that is not learned
NOT_OF_PICTURES = ("word_embed", "text_segment", "text_norm", "text_dropout", "mask_token", "text_positions",
                   "pooler_norm", "pooler", "itc_image", "itc_text", "logit_scale", "itm_head", "mlm_head",
                   "mim_head")  # fmt: skip


# ---------------------------------------------------------------------------------------------------------- eyes
class VLMoEye(VLMo):
    """The image pass of a VLMo, without what only texts need; names of its weights are the VLMo's own."""

    def __init__(self, config: VLMoConfig):
        if config.router != "modality":
            raise ValueError(f"router={config.router}: a VLMo whose tokens choose their experts can't be an eye alone; "
                             "take one with router=modality")  # fmt: skip
        super().__init__(without_texts(config))
        for name in NOT_OF_PICTURES:
            if hasattr(self, name):
                delattr(self, name)
        for block in self.blocks:
            for name in [name for name in block.experts if name in ("text", "vl")]:  # type: ignore[union-attr]
                del block.experts[name]  # type: ignore[union-attr]
            if config.attention == "separate":
                del block.attentions.text  # type: ignore[union-attr]

    @property
    def width(self) -> int:
        return self.config.hidden_size

    def forward(self, pixel_values: Tensor) -> Tensor:  # type: ignore[override]
        """pixel_values: (I, 3, height, width) -> the patches' states behind the final norm, (I, V, width)."""
        bias = self.attention_bias(None, 0, self.grid_of(pixel_values))
        states = self.run_blocks(self.embed_image(pixel_values), "image", 0, bias)
        return self.normed(states[-1], 0)[:, 1:]


def without_texts(config: VLMoConfig) -> VLMoConfig:
    """The config of a VLMo that only looks."""
    return replace(config, itc_vl=False, answers=(), segments=(), classes=(), num_pair_classes=0, num_set_classes=0,
                   vocab_size=1, max_text_len=2)  # fmt: skip


class CLIPEye(VisionTower):
    """A CLIP's vision tower, without its pooling; names of its weights are the tower's own."""

    def __init__(self, config: VisionConfig):
        super().__init__(config)
        self.pool = None

    def forward(self, pixel_values: Tensor) -> Tensor:  # type: ignore[override]
        """pixel_values: (I, 3, height, width) -> the patches' states behind the final norm, (I, V, width)."""
        x = self.embed(pixel_values)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)[:, int(self.cls_token is not None) :]


EYES: dict[str, tuple[Any, Any]] = {"vlmo": (VLMoEye, VLMoConfig), "clip": (CLIPEye, VisionConfig)}


def eye_config(settings: dict[str, Any]) -> VLMoConfig | VisionConfig:
    """The tower's config from {"model": one of EYES, its settings}. ValueError for another kind."""
    kind = settings.get("model")
    if kind not in EYES:
        raise ValueError(f"no eye of the kind {kind!r}; there are {', '.join(EYES)}")
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items() if k != "model"}
    return EYES[kind][1](**values)


def eye_settings(config: VLMoConfig | VisionConfig) -> dict[str, Any]:
    """What `eye_config` reads."""
    kind = next(kind for kind, (_, cls) in EYES.items() if isinstance(config, cls))
    return {"model": kind, **dataclasses.asdict(without_texts(config) if isinstance(config, VLMoConfig) else config)}


def settings_of_eye(place: str | Path) -> VLMoConfig | VisionConfig:
    """The config of the eye in a model folder, a run, or of a shipped one; of a CLIP, that of its vision tower.

    ValueError for a CLIP whose tower is a Hugging Face model.
    """
    folder = model_folder(place)
    kind, values = read_settings(folder)
    if kind == "vlm":
        return eye_config(values["eye"])
    config = read_config(folder, MODELS[kind][1])
    tower = config.vision if isinstance(config, CLIPConfig) else config
    if not isinstance(tower, VLMoConfig | VisionConfig):
        raise ValueError(f"{place} sees by a Hugging Face model; the eye of a VLM is a tower of omma's own")
    return tower


def eye_weights(place: str | Path, eye: VLMoConfig | VisionConfig) -> dict[str, Tensor]:
    """The weights of an eye in a model folder, a run, or by a shipped eye's name, under the names of this eye.

    Of a VLM its eye, of a CLIP its vision tower.
    """
    folder = model_folder(place)
    kind, _ = read_settings(folder)
    prefix = {"vlmo": "", "clip": "vision.", "vlm": "model.eye."}[kind]
    found = {k.removeprefix(prefix): v.float() for k, v in read_weights(folder).items() if k.startswith(prefix)}
    if isinstance(eye, VLMoConfig) and "image_positions" in found:
        side = round((len(found["image_positions"]) - 1) ** 0.5)
        found = fit_positions(found, (side, side), eye.grid, eye.max_text_len)
    return found


# ---------------------------------------------------------------------------------------------------------- config
class VLMConfig(PreTrainedConfig):
    """Sizes of a VLM. eye: a tower's settings (`eye_settings`); text_config: that of a text model of transformers.

    adapter_size: width between the adapter's two layers, None for that of the language model. image_seq_length: visual
    tokens a picture.
    """

    model_type = "omma_vlm"
    sub_configs: ClassVar[dict[str, Any]] = {"text_config": AutoConfig}

    def __init__(self, eye=None, text_config=None, image_token_id=5, adapter_size=None, **kwargs):
        if isinstance(text_config, dict):
            kind = text_config.get("model_type", "llama")
            text_config = AutoConfig.for_model(kind, **{k: v for k, v in text_config.items() if k != "model_type"})
        self.text_config = text_config or LlamaConfig(**NANO_TEXT)
        self.eye = dict(eye) if eye else eye_settings(NANO_EYE)
        self.image_token_id, self.adapter_size = image_token_id, adapter_size
        kwargs.pop("model", None)
        kwargs["tie_word_embeddings"] = self.text_config.tie_word_embeddings
        super().__init__(**kwargs)
        for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
            setattr(self, name, getattr(self.text_config, name))

    @property
    def image_seq_length(self) -> int:
        return eye_config(self.eye).num_patches

    @property
    def image_size(self) -> int:
        return eye_config(self.eye).image_size

    @property
    def patch_size(self) -> int:
        return eye_config(self.eye).patch_size


# Eye and language model of vlm-nano: 196 visual tokens of 8 px. The vocabulary is that of its tokenizer.
NANO_EYE = VisionConfig(image_size=112, patch_size=8, hidden_size=192, num_layers=4, num_heads=6, stem="conv",
                        pool="mean", class_token=False, norm_eps=1e-6)  # fmt: skip
NANO_TEXT: dict[str, Any] = {
    "vocab_size": 1000, "hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 8,
    "num_attention_heads": 8, "num_key_value_heads": 4, "max_position_embeddings": 2048, "tie_word_embeddings": True,
    "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "rms_norm_eps": 1e-6,
}  # fmt: skip


# ---------------------------------------------------------------------------------------------------------- model
@dataclass
class VLMOutput(BaseModelOutputWithPast):
    """image_hidden_states: (I, V, D), what stands in the prompt for the pictures."""

    image_hidden_states: Tensor | None = None


@dataclass
class VLMCausalOutput(CausalLMOutputWithPast):
    """logits: (B, S, vocabulary), or of the last positions asked for; image_hidden_states: (I, V, D)."""

    image_hidden_states: Tensor | None = None


class Adapter(nn.Module):
    """Two layers with a GELU between them, from the eye's width to the language model's.

    Its first weights keep the spread of what the eye says, so that this is more than what the first layers add to it.
    """

    def __init__(self, eye_width: int, inner: int, width: int):
        super().__init__()
        self.linear_1, self.linear_2 = nn.Linear(eye_width, inner), nn.Linear(inner, width)
        for part in (self.linear_1, self.linear_2):
            nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
            nn.init.zeros_(part.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(I, V, eye's width) -> (I, V, D)."""
        return self.linear_2(F.gelu(self.linear_1(x)))


class VLMPreTrained(PreTrainedModel):
    config_class = VLMConfig
    base_model_prefix = "model"
    input_modalities = ("image", "text")  # type: ignore[assignment]
    supports_gradient_checkpointing = True
    _skip_keys_device_placement: ClassVar[list[str]] = ["past_key_values"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_attention_backend = True


class VLMModel(VLMPreTrained):
    """Eye, adapter and language model, without the head."""

    def __init__(self, config: VLMConfig):
        super().__init__(config)
        tower = eye_config(config.eye)
        self.eye = EYES[config.eye["model"]][0](tower)
        width = config.text_config.hidden_size
        self.adapter = Adapter(self.eye.width, config.adapter_size or width, width)
        for part in (*self.eye.modules(), *self.adapter.modules()):  # they have drawn their weights by their own rules
            part._is_hf_initialized = True  # type: ignore[assignment]
        self.language_model = AutoModel.from_config(config.text_config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    def get_image_features(self, pixel_values: Tensor) -> Tensor:
        """pixel_values: (I, 3, height, width) -> (I, V, D)."""
        return self.adapter(self.eye(pixel_values))

    def placed(self, input_ids: Tensor, inputs_embeds: Tensor, features: Tensor) -> Tensor:
        """inputs_embeds (B, S, D) with the features (I, V, D) in the places of image tokens, in their order.

        ValueError when there are not as many of the one as of the other.
        """
        image = input_ids == self.config.image_token_id
        if (places := int(image.sum())) != (found := features.shape[0] * features.shape[1]):
            raise ValueError(f"{places} image tokens in the prompt and {found} visual tokens of {len(features)} "
                             f"pictures; give {features.shape[1]} image tokens (id {self.config.image_token_id}) a "
                             "picture")  # fmt: skip
        return inputs_embeds.masked_scatter(image[..., None], features.to(inputs_embeds.dtype))

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> VLMOutput:
        """input_ids (B, S) or inputs_embeds (B, S, D); pixel_values: (I, 3, height, width), pictures in the order of
        their image tokens."""
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give input_ids or inputs_embeds, one of them")
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        assert inputs_embeds is not None
        features = None
        if pixel_values is not None:
            if input_ids is None:
                raise ValueError("pixel_values need input_ids, whose image tokens say where the pictures stand")
            features = self.get_image_features(pixel_values)
            inputs_embeds = self.placed(input_ids, inputs_embeds, features)
        found = self.language_model(attention_mask=attention_mask, position_ids=position_ids,
                                    past_key_values=past_key_values, inputs_embeds=inputs_embeds, **kwargs)  # fmt: skip
        return VLMOutput(found.last_hidden_state, found.past_key_values, found.hidden_states, found.attentions,
                         image_hidden_states=features)  # fmt: skip


class OmmaVLM(VLMPreTrained, GenerationMixin):
    """The whole: tensors in, tensors out; `omma.load_vlm` adds pictures and words."""

    _tied_weights_keys: ClassVar[dict[str, str]] = {"lm_head.weight": "model.language_model.embed_tokens.weight"}

    def __init__(self, config: VLMConfig):
        super().__init__(config)
        self.model = VLMModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()

    def get_decoder(self) -> nn.Module:
        return self.model.language_model

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def get_image_features(self, pixel_values: Tensor) -> Tensor:
        """pixel_values: (I, 3, height, width) -> what stands in the prompt for the pictures, (I, V, D)."""
        return self.model.get_image_features(pixel_values)

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> VLMCausalOutput:
        """labels: (B, S), -100 where nothing is to be learned; the token at i is learned from those before it.

        logits_to_keep: so many positions at the end (0: all), or their numbers. The rest as in `VLMModel`.
        """
        kwargs.pop("return_dict", None)
        found = self.model(input_ids=input_ids, pixel_values=pixel_values, attention_mask=attention_mask,
                           position_ids=position_ids, past_key_values=past_key_values, inputs_embeds=inputs_embeds,
                           **kwargs)  # fmt: skip
        states = found.last_hidden_state
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits, loss = self.lm_head(states[:, kept]), None
        if labels is not None:
            targets = F.pad(labels[:, 1:], (0, 1), value=IGNORE)[:, kept]
            loss = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORE)
        return VLMCausalOutput(loss, logits, found.past_key_values, found.hidden_states, found.attentions,
                               image_hidden_states=found.image_hidden_states)  # fmt: skip

    @property
    def blocks(self) -> list[nn.Module]:
        """The layers of the eye, then those of the language model: what is compiled one by one."""
        return [*self.model.eye.blocks, *self.model.language_model.layers]

    def num_weights(self) -> int:
        """Number of weights, shared ones once."""
        return sum(p.numel() for p in self.parameters())


# ---------------------------------------------------------------------------------------------------------- files
def save_vlm(
    model: OmmaVLM, folder: str | Path, state: dict[str, Tensor] | None = None, dtype: torch.dtype | None = None
) -> Path:
    """Writes config.json and model.safetensors into folder, made where missing; arguments as in `save_pretrained` of
    weights.py. A head that shares the embedding's weights is left out."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    c = model.config
    text = {k: v for k, v in c.text_config.to_diff_dict().items() if k != "transformers_version"}
    text["model_type"] = c.text_config.model_type
    config = {"model": "vlm", "model_type": c.model_type, "eye": c.eye, "image_token_id": c.image_token_id,
              "adapter_size": c.adapter_size, "text_config": text}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    tensors = {k: v.detach().to((v.is_floating_point() and dtype) or v.dtype).contiguous().cpu()
               for k, v in (state or model.state_dict()).items()
               if not (k == "lm_head.weight" and c.tie_word_embeddings)}  # fmt: skip
    save_file(tensors, str(folder / "model.safetensors"), metadata={"format": "pt"})
    return folder


def read_vlm(folder: str | Path, device: str | torch.device = "cpu") -> OmmaVLM:
    """The model in a folder that `save_vlm` wrote, in eval mode and float32. ValueError for another kind of model; it
    lists weights that are missing, left over or of another shape."""
    kind, values = read_settings(folder)
    if kind != "vlm":
        raise ValueError(f"{folder} holds a {kind}, which answers no questions in words; omma.load_encoder reads it")
    model = OmmaVLM(VLMConfig(**values))
    tensors = {k: v.float() if v.is_floating_point() else v for k, v in read_weights(folder).items()}
    if model.config.tie_word_embeddings:
        tensors["lm_head.weight"] = tensors["model.language_model.embed_tokens.weight"]
    load_strictly(model, tensors, str(folder))
    return model.to(device).eval()  # type: ignore[arg-type]


def start_from(model: OmmaVLM, eye: str | Path) -> tuple[list[str], list[str]]:
    """Puts a trained eye's weights (`eye_weights`) into the model's eye, as far as names and shapes fit.

    Returns (names that were copied, names of the eye that keep their own values).
    """
    return load_matching(model.model.eye, eye_weights(eye, model.model.eye.config))
