"""Hugging Face models by folder, name or config, and as the towers of a CLIP.

A source is a folder with a config.json that names a model_type, the name of a model on the Hugging Face hub, or such a
config as a dict, which gives random weights. Code that comes with a model is never run.

B batch, N patches, P image tokens (a class token and registers first, where there are some), T text tokens, D width.
"""

import contextlib
import inspect
import json
import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

import omma.models.no_torchvision  # noqa: F401  isort: skip  (before transformers, which looks for torchvision)
import transformers
from huggingface_hub import snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights
from transformers.utils import logging

from omma.models.towers import TowerOutput

Source = str | Path | Mapping[str, Any]
Pooling = Literal["pooler", "cls", "mean", "last"]

WEIGHTS = ("*.safetensors", "pytorch_model*.bin")  # pickled ones only where there are no others
OTHER_FILES = ("*.json", "*.jinja", "*.txt", "*.model")
# Parts of two-tower models that transformers' AutoModel does not build from their config alone.
PARTS = {
    "blip_text_model": "BlipTextModel",
    "blip_vision_model": "BlipVisionModel",
    "chinese_clip_text_model": "ChineseCLIPTextModel",
    "siglip2_text_model": "Siglip2TextModel",
    "siglip_text_model": "SiglipTextModel",
}
# How a model makes one vector of its tokens where nothing else is asked for. "pooler" is what the model itself calls
# its pooled output: CLIP's normalised class token or end token, SigLIP's attention head, ConvNeXt's normalised mean.
# BERT's and ViT's poolers belong to tasks that a contrast doesn't know, so they are left out.
OWN_POOLER = ("clip", "siglip", "siglip2", "dinov2", "dinov2_with_registers", "dinov3_vit", "dinov3_convnext",
              "convnext", "convnextv2", "blip_vision_model", "chinese_clip_vision_model")  # fmt: skip
FIRST_TOKEN = ("vit", "deit", "chinese_clip_text_model", "blip_text_model")
AFTER_PADDING = ("camembert", "data2vec-text", "mpnet", "roberta", "roberta-prelayernorm", "xlm-roberta",
                 "xlm-roberta-xl", "xmod")  # fmt: skip
SHARED_HEAD = ("siglip", "siglip2")  # their pooled vectors are compared as they are: no projection comes after them


# ---------------------------------------------------------------------------------------------------------- reading
@contextlib.contextmanager
def reading(source: str | Path, what: str = "a Hugging Face model") -> Iterator[None]:
    """Without transformers' bars and reports; what can't be read is a ValueError that says what was tried."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    except pickle.UnpicklingError as error:  # PyTorch's advice in it is to read it unsafely
        raise ValueError(unreadable(source, what, "its .bin file is damaged, or holds more than weights")) from error
    except Exception as error:  # tokenizers and safetensors raise types of their own for damaged files
        raise ValueError(unreadable(source, what, " ".join(str(error).split())[:400])) from error
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def unreadable(source: str | Path, what: str, reason: str) -> str:
    if Path(source).exists():
        return f"{source} can't be read as {what}: {reason}"
    name = Path(source).name
    return (f"no model {str(source)!r}: no folder of this name is here, and as a name on the Hugging Face hub it could "
            f"not be had: {reason} Where there is a network: hf download {source} --local-dir {name}; then give the "
            f"folder {name}. A model in the hub's cache is found without a network")  # fmt: skip


def local(source: str | Path) -> str:
    """The folder of a source: of a name on the hub, the one in the hub's cache, which is filled where it lacks the
    weights. ValueError: it can't be had. With HF_HUB_OFFLINE=1 nothing is fetched."""
    if Path(source).is_dir():
        return str(source)
    name = str(source)
    with reading(source):
        try:
            folder = Path(snapshot_download(name, local_files_only=True))
        except LocalEntryNotFoundError:
            folder = None
        for weights in WEIGHTS:
            if folder is None or not any(path for kind in WEIGHTS for path in folder.glob(kind)):
                folder = Path(snapshot_download(name, allow_patterns=[*OTHER_FILES, weights]))
        return str(folder)


def read_config(source: Source) -> PretrainedConfig:
    """The config of a source. ValueError: there is none, or its model_type is unknown to this transformers."""
    if isinstance(source, Mapping):
        values = dict(source)
        kind = values.pop("model_type", None)
        if kind is None:
            raise ValueError(f"a Hugging Face config needs a model_type, such as vit or bert; this one has "
                             f"{', '.join(sorted(values)[:8]) or 'nothing'}")  # fmt: skip
        try:
            return getattr(transformers, PARTS[kind]).config_class(**values) if kind in PARTS else AutoConfig.for_model(
                kind, **values)  # fmt: skip
        except ValueError as error:
            raise ValueError(f"transformers {transformers.__version__} knows no model_type {kind!r}") from error
    folder = local(source)
    with reading(source):
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)  # nor is the user asked whether to run any


def read_json(source: str | Path, name: str) -> dict[str, Any] | None:
    """A JSON file of a model, None where it has none of that name."""
    path = Path(local(source)) / name
    if not path.is_file():
        return None
    with reading(path, "an object of JSON"):
        return dict(json.loads(path.read_text(encoding="utf-8")))


def load_model(
    source: str | Path, kind: Any = AutoModel, dtype: torch.dtype = torch.float32
) -> tuple[PreTrainedModel, set[str]]:
    """The model with its weights, in eval mode, and the names of weights that the file lacks: poolers that
    the model was saved without. ValueError when others are missing; they would be random.
    """
    folder = local(source)
    with reading(source):
        model, info = kind.from_pretrained(folder, dtype=dtype, output_loading_info=True)
    lacking = {name for name in info["missing_keys"] if "pooler" not in name.split(".")}
    if lacking:
        shown = ", ".join(sorted(lacking)[:4])
        raise ValueError(f"the weights of {source} lack {shown}{' ...' if len(lacking) > 4 else ''} ({len(lacking)}), "
                         f"which {type(model).__name__} needs; they are those of another kind of model")  # fmt: skip
    return model.eval(), set(info["missing_keys"])


def build(config: PretrainedConfig) -> PreTrainedModel:
    """The model of a config with random weights, in float32.

    Under torch.device("meta") its weights are left as they come, for a file to replace; its tables of positions and
    frequencies, which no file holds, are real.
    """
    kind = getattr(transformers, PARTS[config.model_type]) if config.model_type in PARTS else None
    make = AutoModel.from_config if kind is None else kind._from_config
    try:
        if torch.empty(0).device.type != "meta":
            return make(config, dtype=torch.float32)
        with torch.device("cpu"), torch.random.fork_rng(devices=[]), no_init_weights():
            return make(config, dtype=torch.float32)
    except ValueError as error:  # sizes that don't divide, or no model of this kind
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"transformers can't build a {config.model_type} of this config: {reason}") from error


# Of a config: where it came from, and the names of a classifier's classes.
UNUSED = ("architectures", "transformers_version", "dtype", "_name_or_path", "id2label", "label2id")


def plain(config: PretrainedConfig) -> dict[str, Any]:
    """A config as JSON has it, without what no tower reads."""
    values = json.loads(config.to_json_string(use_diff=True))
    return {"model_type": config.model_type} | {
        k: v for k, v in values.items() if k not in UNUSED
    }


# ---------------------------------------------------------------------------------------------------------- towers
class Tower(nn.Module):
    """What both towers share: a Hugging Face model, and how its tokens become one vector.

    width: D. projects: whether that vector lies in a shared space already (SigLIP's heads). blocks: its layers.
    config: a plain dict from which `vision_tower` or `text_tower` builds it again.
    """

    def __init__(self, model: PreTrainedModel, pooling: Pooling):
        super().__init__()
        self.model: Any = model
        self.pooling = pooling
        self.kind: str = model.config.model_type
        family = self.kind.removesuffix("_vision_model").removesuffix("_text_model")
        self.projects = pooling == "pooler" and family in SHARED_HEAD
        drop_unused(model, self.kind, pooling)

    @property
    def blocks(self) -> nn.ModuleList:
        return layers_of(self.model)

    def own_pooled(self, out: Any) -> Tensor:
        pooled = out.get("pooler_output")
        if pooled is None:
            raise ValueError(f"a {self.kind} has no pooled output of its own; take pooling=cls or pooling=mean")
        return pooled.flatten(1)  # ResNets keep (B, D, 1, 1)


class HFVisionTower(Tower):
    """A Hugging Face vision model. pooling: "pooler", the model's own pooled output; "cls", its class token; "mean", of
    its patches (CLIP's post_layernorm then comes after the mean). image_size: side of the pictures, in pixels."""

    def __init__(self, model: PreTrainedModel, pooling: Pooling, image_size: int | None = None):
        super().__init__(model, pooling)
        config = model.config
        self.flexible = self.kind == "siglip2_vision_model"  # takes patches, and how many there are each way
        if self.flexible:
            own = int(config.num_patches**0.5) * config.patch_size
        else:
            own = getattr(config, "image_size", 224)
            own = own[0] if isinstance(own, list | tuple) and len(set(own)) == 1 else own
        if not isinstance(own, int):
            raise ValueError(f"this {self.kind} sees pictures of {own}; towers see squares")
        self.own_size, self.image_size = own, image_size or own
        patch = getattr(config, "patch_size", None)
        if isinstance(patch, int) and self.image_size % patch:
            raise ValueError(f"image_size {self.image_size} does not divide by patch_size {patch} of this {self.kind}")
        self.patch_size = patch if isinstance(patch, int) else None
        self.resizes = "interpolate_pos_encoding" in inspect.signature(model.forward).parameters
        self.width: int = config.hidden_sizes[-1] if hasattr(config, "hidden_sizes") else config.hidden_size
        self.config = {"model": plain(config), "pooling": pooling, "image_size": self.image_size}

    def forward(self, pixel_values: Tensor, states: bool = True) -> TowerOutput:
        """pixel_values: (B, 3, h, w) -> pooled (B, D) and, with states, hidden_states of (B, P, D): of the embeddings
        and each layer, in a ConvNeXt of each stage, (B, h' w', D')."""
        height, width = pixel_values.shape[-2:]
        inputs: dict[str, Any] = {"pixel_values": pixel_values}
        if self.flexible:
            inputs = as_patches(pixel_values, self.model.config.patch_size)
        elif self.resizes and (height, width) != (self.own_size, self.own_size):
            inputs["interpolate_pos_encoding"] = True
        out = self.model(**inputs, output_hidden_states=states, return_dict=True)
        hidden = tuple(tokens(x) for x in out.hidden_states) if states else ()
        return TowerOutput(self.pooled(out, height, width), hidden)

    def pooled(self, out: Any, height: int, width: int) -> Tensor:
        last = out.last_hidden_state
        if self.pooling == "pooler" or last.dim() == 4:  # a ConvNeXt's pooler is the normalised mean
            return self.own_pooled(out)
        patches = (height // self.patch_size) * (width // self.patch_size) if self.patch_size else last.shape[1] - 1
        first = last.shape[1] - patches  # class token and registers
        if self.pooling == "cls":
            if first < 1:
                raise ValueError(f"a {self.kind} has no class token; take pooling=pooler or pooling=mean")
            return self.normed(last[:, 0])
        return self.normed(last[:, first:].mean(dim=1))

    def normed(self, x: Tensor) -> Tensor:
        """CLIP's last layer is normalised after pooling, others' before."""
        return self.model.post_layernorm(x) if self.kind in ("clip_vision_model", "chinese_clip_vision_model") else x


class HFTextTower(Tower):
    """A Hugging Face text model. pooling: "pooler", the model's own pooled output; "cls", the first token; "last", the
    last that is no padding; "mean", of all that are none. context_length: tokens of the longest text."""

    def __init__(self, model: PreTrainedModel, pooling: Pooling, context_length: int | None = None):
        super().__init__(model, pooling)
        config = model.config
        held = longest_text(config)
        if context_length is not None and held is not None and context_length > held:
            raise ValueError(f"context_length {context_length}: this {self.kind} has positions for {held} tokens")
        self.context_length = context_length or held or 512
        self.width: int = config.projection_size if self.projects else config.hidden_size
        self.config = {"model": plain(config), "pooling": pooling, "context_length": self.context_length}

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, states: bool = True) -> TowerOutput:
        """input_ids, attention_mask: (B, T) -> pooled (B, D) and, with states, hidden_states of (B, T, D)."""
        inputs: dict[str, Any] = {"input_ids": input_ids, "attention_mask": attention_mask}
        out = self.model(**inputs, output_hidden_states=states, return_dict=True)
        return TowerOutput(self.pooled(out, attention_mask), tuple(out.hidden_states) if states else ())

    def pooled(self, out: Any, attention_mask: Tensor | None) -> Tensor:
        last = out.last_hidden_state
        if self.pooling == "pooler":
            return self.own_pooled(out)
        if self.pooling == "cls":
            return last[:, 0]
        real = last.new_ones(last.shape[:2]) if attention_mask is None else attention_mask.to(last.dtype)
        if self.pooling == "last":
            place = (real * torch.arange(1, real.shape[1] + 1, device=last.device)).argmax(dim=1)
            return last[torch.arange(len(last), device=last.device), place]
        return (last * real[..., None]).sum(dim=1) / real.sum(dim=1, keepdim=True).clamp(min=1)


def drop_unused(model: Any, kind: str, pooling: Pooling) -> None:
    """Takes off what no output depends on: its gradient would be missing, which DistributedDataParallel refuses."""
    if pooling != "pooler":
        pooler = getattr(model, "pooler", None)
        if pooler is not None and any(True for _ in pooler.parameters()):  # a ResNet's has none, and is always called
            model.pooler = None
        if kind.startswith("siglip") and hasattr(model, "head"):
            model.head = nn.Identity()
            model.use_head = False
    for name, weight in model.named_parameters():
        if name.rpartition(".")[2] == "mask_token":  # stands for hidden patches in a pre-training that isn't this one
            weight.requires_grad_(False)


def layers_of(model: nn.Module) -> nn.ModuleList:
    """The layers of a model: of its lists of modules the one with most weights."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    return max(lists, key=lambda blocks: sum(weight.numel() for weight in blocks.parameters()))


def tokens(x: Tensor) -> Tensor:
    """A map (B, C, h, w) as tokens (B, h w, C); tokens as they are."""
    return x.flatten(2).transpose(1, 2) if x.dim() == 4 else x


def as_patches(pixel_values: Tensor, patch: int) -> dict[str, Tensor]:
    """(B, 3, h, w) in the form of SigLIP2's models that take any shape: patches (B, N, 3 patch²), mask, grid."""
    B, C, height, width = pixel_values.shape
    gh, gw = height // patch, width // patch
    cut = pixel_values.view(B, C, gh, patch, gw, patch).permute(0, 2, 4, 3, 5, 1)
    grid = torch.tensor([[gh, gw]], device=pixel_values.device).expand(B, 2)
    mask = torch.ones(B, gh * gw, dtype=torch.long, device=pixel_values.device)
    return {"pixel_values": cut.reshape(B, gh * gw, -1), "pixel_attention_mask": mask, "spatial_shapes": grid}


def longest_text(config: PretrainedConfig) -> int | None:
    """How many tokens a text model has positions for; None: as many as one likes. RoBERTa's begin after its padding."""
    held = getattr(config, "max_position_embeddings", None)
    after_padding = config.model_type in AFTER_PADDING
    return held - config.pad_token_id - 1 if held and after_padding else held


# ---------------------------------------------------------------------------------------------------------- makers
def vision_tower(source: Source, *, pooling: Pooling | None = None, image_size: int | None = None) -> HFVisionTower:
    """Any Hugging Face vision model as a tower: ViT, DINOv2, DINOv3, ConvNeXt, or the vision side of a CLIP or SigLIP.

    source: a folder or name (its weights are loaded), a config dict with its model_type (random weights), or the
    `.config` of a tower. pooling: see HFVisionTower; by default the model's own, of a ViT the class token
    (`seen_as_one`). image_size: another one than the model's; learned positions are then interpolated in every pass.
    ValueError: no vision model.
    """
    model, options = part(source, "vision", {"pooling": pooling, "image_size": image_size})
    chosen = options["pooling"] or usual_pooling(model.config.model_type, seen_as_one(model))
    return HFVisionTower(model, chosen, options["image_size"])


def text_tower(source: Source, *, pooling: Pooling | None = None, context_length: int | None = None) -> HFTextTower:
    """Any Hugging Face text encoder as a tower: BERT, RoBERTa, XLM-R, or the text side of a CLIP or SigLIP.

    source: as of `vision_tower`. pooling: see HFTextTower; by default the mean of the tokens, of the text side of a
    two-tower model its own. context_length: at most as many tokens as the model has positions for, which is the
    default. ValueError: no text encoder.
    """
    model, options = part(source, "text", {"pooling": pooling, "context_length": context_length})
    length = options["context_length"]
    return HFTextTower(model, options["pooling"] or usual_pooling(model.config.model_type, "mean"), length)


def seen_as_one(model: Any) -> Pooling:
    """How a vision model of an unknown kind makes one vector: by its class token, else by its pooler, else the mean."""
    names = {name.rpartition(".")[2] for name, _ in model.named_parameters()}
    if names & {"cls_token", "class_embedding"}:
        return "cls"
    return "mean" if getattr(model, "pooler", None) is None else "pooler"


def usual_pooling(kind: str, otherwise: Pooling) -> Pooling:
    own = kind in OWN_POOLER or kind.removesuffix("_vision_model").removesuffix("_text_model") in OWN_POOLER
    return "pooler" if own else "cls" if kind in FIRST_TOKEN else otherwise


def part(source: Source, side: Literal["vision", "text"], options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The model of one side of a source, and the tower's options: those given, else those that the source names."""
    if isinstance(source, Mapping) and "model" in source:  # a tower's own config
        known = {**{k: v for k, v in source.items() if k != "model"}, **{k: v for k, v in options.items() if v}}
        return part(source["model"], side, options)[0], {k: known.get(k) for k in options}
    config = read_config(source)
    if isinstance(source, Mapping):
        config = getattr(config, f"{side}_config", None) or config
        model: Any = build(config)
    else:
        whole, _ = load_model(source, kind_of(config))
        model = side_of(whole, side)
    main = "pixel_values" if side == "vision" else "input_ids"
    if model.main_input_name != main or model.config.is_encoder_decoder:
        fits = "vit, dinov2, siglip_vision_model" if side == "vision" else "bert, xlm-roberta, clip_text_model"
        raise ValueError(f"a {model.config.model_type} is no {side} encoder; {side} towers are models such as {fits}")
    return model, options


def kind_of(config: PretrainedConfig) -> Any:
    """The class to load a whole model with. BLIP comes with several heads; retrieval's is the one that compares."""
    named = config.architectures or [""]
    return transformers.BlipForImageTextRetrieval if named[0] == "BlipForImageTextRetrieval" else AutoModel


def side_of(model: Any, side: Literal["vision", "text"]) -> Any:
    """The vision or the text side of a model that has both; any other model itself."""
    names = ("vision_model",) if side == "vision" else ("text_model", "text_encoder")
    return next((getattr(model, name) for name in names if hasattr(model, name)), model)


# ---------------------------------------------------------------------------------------------------------- whole
DUALS = ("chinese_clip", "clip", "siglip", "siglip2")


@dataclass(frozen=True)
class Dual:
    """A two-tower model taken apart. A projection is None where the tower projects itself (SigLIP)."""

    vision: HFVisionTower
    text: HFTextTower
    image_projection: nn.Linear | None
    text_projection: nn.Linear | None
    logit_scale: float  # the logarithm of what cosines are multiplied by
    logit_bias: float | None


def load_dual(source: str | Path) -> Dual:
    """The towers, projections and temperature of a CLIP, SigLIP, SigLIP2 or Chinese-CLIP, to be trained further.

    ValueError: the source is no such model.
    """
    config = read_config(source)
    if config.model_type not in DUALS:  # others, such as BLIP, pool in ways of their own
        raise ValueError(f"{source} is a {config.model_type}; a whole model to go on from is one of "
                         f"{', '.join(DUALS)}. Of others take a tower: vision= or text=")  # fmt: skip
    model: Any = load_model(source)[0]
    vision, text = side_of(model, "vision"), side_of(model, "text")
    bias = getattr(model, "logit_bias", None)
    return Dual(
        HFVisionTower(vision, usual_pooling(vision.config.model_type, "cls")),
        HFTextTower(text, usual_pooling(text.config.model_type, "mean")),
        getattr(model, "visual_projection", None),
        getattr(model, "text_projection", None),
        float(model.logit_scale.detach()),
        None if bias is None else float(bias.detach()),
    )
