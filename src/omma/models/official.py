"""Released VLMo, BEiT, BEiT-3 and CLIP files as models of omma: other names, the same numbers.

layouts.py and clip_layouts.py know the files' names; here they are read, checked against the model, and made into model
folders.
"""

import json
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor

from omma.models.clip import CLIP, own_towers
from omma.models.clip_layouts import convert_clip, layout_of
from omma.models.layers import unfilled
from omma.models.layouts import HEAD_NAMES, Converted, Experts, convert_beit, convert_beit3, convert_vlmo, refuse
from omma.models.preprocess import Processor, read_tokenizer
from omma.models.vlmo import VLMo

Kind = Literal["vlmo", "beit", "beit3"]
STAGE_1 = ("mask_token", "mim_head")  # only masked image modelling reads them
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # OpenAI's, of a colour


class Loaded(NamedTuple):
    """A model from a released file, and what the two don't share."""

    model: VLMo
    left_out: list[str]  # of the file
    fresh: list[str]  # heads that the file lacks and that start from random weights


# ---------------------------------------------------------------------------------------------------------- loaders
def load_official_vlmo(
    source: str | Path | Mapping[str, Any],
    num_heads: int | None = None,
    *,
    image_size: int | None = None,
    max_text_len: int | None = None,
    relative_text_len: int = 196,
    answers: Sequence[str] | None = None,
    vl_experts: Experts = "none",
    num_vl_layers: int | None = None,
) -> VLMo:
    """A released VLMo (Bao et al. 2021), pre-trained or fine-tuned, from its file or state dict.

    num_heads: needed only for widths that were not released without relative positions. image_size: another size than
    the file's, to which its positions are taken (`VLMo.at_resolution`). max_text_len: cuts its text positions.
    relative_text_len: the text range that its relative table was made for. answers: what the rows of a VQA classifier
    stand for; the file doesn't say, so they are "0", "1", ... by default.
    vl_experts: a file of stage 2 has no vision-language experts, and neither has the model by default; "image" gives
    the top num_vl_layers layers a copy of their image expert, "fresh" random weights, as the published stage 3 does.
    ValueError lists what is missing and what is unexpected when the state dict is no VLMo's; a warning names the heads
    that the file lacks.
    """
    state, where = read_state(source)
    converted = convert_vlmo(state, where, num_heads, relative_text_len, answers, vl_experts, num_vl_layers)
    return told(finish(converted, where, image_size, max_text_len), where)


def load_official_beit(
    source: str | Path | Mapping[str, Any],
    num_heads: int | None = None,
    *,
    image_size: int | None = None,
    vocab_size: int = 30522,
    max_text_len: int = 40,
    classes: Sequence[str] | None = None,
) -> VLMo:
    """A released BEiT (Bao et al. 2021), pre-trained or fine-tuned: the image half of a VLMo, ready for stage 2.

    All that reads text starts from random weights, and the model has no vision-language experts: `train(init=)` with
    num_vl_layers=2 takes over what fits. One relative table for all layers becomes a copy for each. A fine-tuned file
    has a norm after its mean pooling and none before: it gives final_norm="none" and a class head, whose `classes` are
    "0", "1", ... by default. The token predictor (lm_head) of a pre-trained file is the model's mim_head.
    The other arguments and errors are those of `load_official_vlmo`.
    """
    state, where = read_state(source)
    converted = convert_beit(state, where, num_heads, vocab_size, max_text_len, classes)
    return told(finish(converted, where, image_size), where)


def load_official_beit3(
    source: str | Path | Mapping[str, Any],
    num_heads: int | None = None,
    *,
    image_size: int | None = None,
    max_text_len: int | None = None,
    answers: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
) -> VLMo:
    """A released BEiT-3 (Wang et al. 2022), pre-trained or fine-tuned for retrieval, questions, classes or captions.

    The result puts text before image, as every VLMo here; attention doesn't mind, since positions are added to each
    modality by itself. `pooled` comes from the picture's [CLS], `classify_pair` reads both [CLS] of both pictures. The
    arguments and errors are those of `load_official_vlmo` and `load_official_beit`.
    """
    state, where = read_state(source)
    converted = convert_beit3(state, where, num_heads, answers, classes)
    return told(finish(converted, where, image_size, max_text_len), where)


def load_clip(
    source: str | Path | Mapping[str, Any],
    settings: str | Path | Mapping[str, Any] | None = None,
    *,
    quick_gelu: bool | None = None,
    image_size: int | None = None,
) -> CLIP:
    """A CLIP of open_clip, OpenAI or Hugging Face (Radford et al. 2021), from its file or state dict, in eval mode.

    settings: open_clip's or Hugging Face's config.json, or what it holds; None: the one beside the file, where there is
    one. The other arguments, and what is assumed without settings: `clip_layouts.convert_clip` and
    `CLIP.at_resolution`. ValueError lists what is missing and what is unexpected when the state dict is no such CLIP's.
    """
    state, where = read_state(source)
    converted = convert_clip(state, where, clip_settings(source, settings), quick_gelu)
    with unfilled():
        model = CLIP(converted.config)
    model.load_state_dict(converted.tensors, assign=True)
    if image_size not in (None, own_towers(converted.config)[0].image_size):
        model = model.at_resolution(image_size)
    return model.eval()


def clip_settings(source: object, settings: str | Path | Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What a CLIP's config file holds: as given, or of the file beside the weights; None where there is none."""
    if isinstance(settings, Mapping):
        return dict(settings)
    place = None if settings is None else Path(settings)
    if place is None and isinstance(source, str | Path):
        beside = (Path(source).parent / name for name in ("open_clip_config.json", "config.json"))
        place = next((path for path in beside if path.is_file()), None)
    if place is None:
        return None
    try:
        return json.loads(place.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{place} is not JSON ({error}); give the model's config.json") from None


def finish(converted: Converted, where: str, image_size: int | None = None, max_text_len: int | None = None) -> Loaded:
    """The model of a converted file in eval mode, for pictures of image_size px and texts of max_text_len tokens.

    ValueError lists what is missing, unexpected or of another shape.
    """
    if max_text_len is not None:
        held = converted.config.max_text_len
        if max_text_len > held and converted.config.positions == "absolute":
            raise ValueError(f"max_text_len={max_text_len}, but {where} holds positions for {held} tokens")
        if "text_positions" in converted.tensors:
            converted.tensors["text_positions"] = converted.tensors["text_positions"][:max_text_len]
        converted = converted._replace(config=replace(converted.config, max_text_len=max_text_len))
    model, tensors = VLMo(converted.config), converted.tensors
    own = model.state_dict()
    lacking = [name for name in own if name not in tensors]
    lost = {name.split(".")[0] for name in lacking} - {name.split(".")[0] for name in tensors}
    heads = {part for part in lost if part.startswith(HEAD_NAMES) and not part.startswith(converted.fresh or "-")}
    optional = (*STAGE_1, *converted.fresh, *(f"{head}." for head in heads))
    missing = [name for name in lacking if not name.startswith(optional) and name not in heads]
    shapes = [f"{name} is {tuple(tensors[name].shape)}, the model's {tuple(own[name].shape)}"
              for name in own if name in tensors and own[name].shape != tensors[name].shape]  # fmt: skip
    refuse(where, {"missing": missing, "unexpected": sorted(set(tensors) - set(own)), "other shape": shapes})
    model = model.to(next(t.dtype for t in tensors.values()))
    model.load_state_dict(tensors, strict=False)
    if image_size not in (None, model.config.image_size):
        model = model.at_resolution(image_size)
    return Loaded(model.eval(), converted.dropped, sorted(heads))


def told(loaded: Loaded, where: str) -> VLMo:
    """The model alone; a warning names what was left out and what starts from random weights."""
    notes = {"left out, since a VLMo has no place for it": loaded.left_out,
             "not in the file, so it starts from random weights": loaded.fresh}  # fmt: skip
    said = "; ".join(f"{note}: {', '.join(names)}" for note, names in notes.items() if names)
    if said:
        warnings.warn(f"{where}: {said}", stacklevel=3)
    return loaded.model


# ---------------------------------------------------------------------------------------------------------- folders
def convert(
    source: str | Path,
    out: str | Path,
    vocab: str | Path,
    *,
    num_heads: int | None = None,
    image_size: int | None = None,
    max_text_len: int | None = None,
    labels: Sequence[str] | None = None,
    vl_experts: Experts = "none",
    num_vl_layers: int | None = None,
    settings: str | Path | None = None,
) -> dict[str, Any]:
    """A released file of any of the kinds and its vocabulary -> a model folder that `omma.load_encoder` reads.

    vocab: as in `preprocess.read_tokenizer`: bert-base-uncased's vocab.txt for VLMo, any for BEiT, whose text half is
    still to be trained, a tokenizer.json of beit3.spm for BEiT-3, and a CLIP's own tokenizer.json. labels: what the
    classifier of a fine-tuned file chooses among. settings: a CLIP's config file. The other arguments and errors are
    those of the loaders. Returns what was made: folder, kind, weights in millions, what was left out of the file, and
    which heads start from random weights.
    """
    from omma.models.weights import save_pretrained

    folder = Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is already there; give another folder")
    tokenizer = read_tokenizer(vocab)
    words = tokenizer.get_vocab_size()
    state, where = read_state(source)
    if layout_of(state):
        if labels is not None or vl_experts != "none" or num_vl_layers is not None or num_heads is not None:
            raise ValueError(f"{where} is a CLIP: it has no labels and no experts, and its heads stand in its config "
                             "file")  # fmt: skip
        said, beside = clip_settings(source, settings), Path(source).parent
        return clip_folder(state, where, folder, tokenizer, said, beside, image_size, max_text_len)
    kind = kind_of(state, where)
    if kind == "vlmo":
        converted = convert_vlmo(state, where, num_heads, 196, labels, vl_experts, num_vl_layers)
    elif kind == "beit":
        converted = convert_beit(state, where, num_heads, words, max_text_len or 40, labels)
    else:
        questions = "head.0.weight" in state
        converted = convert_beit3(state, where, num_heads, labels if questions else None, None if questions else labels)
        max_text_len = max_text_len or min(64, converted.config.max_text_len)  # the file has room for 1022
    held = converted.config.vocab_size
    if words > held or (kind == "vlmo" and words < held):
        raise ValueError(f"{vocab} has {words} tokens, but {where} holds vectors for {held}; give the vocabulary that "
                         "it was trained with: bert-base-uncased's vocab.txt has 30522")  # fmt: skip
    loaded = finish(converted, where, image_size, max_text_len)
    config = loaded.model.config
    save_pretrained(loaded.model, folder)
    Processor(tokenizer, config.image_size, config.max_text_len).save(folder)
    millions = round(loaded.model.num_parameters() / 1e6, 1)
    return {"folder": str(folder), "kind": kind, "millions": millions, "image_size": config.image_size,
            "max_text_len": config.max_text_len, "left_out": loaded.left_out, "fresh": loaded.fresh}  # fmt: skip


def clip_folder(
    state: Mapping[str, Tensor],
    where: str,
    folder: Path,
    tokenizer: Tokenizer,
    settings: dict[str, Any] | None,
    beside: Path,
    image_size: int | None,
    max_text_len: int | None,
) -> dict[str, Any]:
    """A CLIP's state dict as a model folder; arguments and result as in `convert`.

    Pictures are prepared as open_clip's settings say, or as Hugging Face's preprocessor_config.json in the folder
    `beside` does; where neither is, as OpenAI did.
    """
    from omma.models.weights import save_pretrained

    model = load_clip(state, settings or {}, image_size=image_size)
    vision, text = own_towers(model.config)
    if tokenizer.get_vocab_size() > text.vocab_size:
        raise ValueError(f"the vocabulary has {tokenizer.get_vocab_size()} tokens, but {where} holds vectors for "
                         f"{text.vocab_size}; give the tokenizer.json of this model")  # fmt: skip
    if max_text_len is not None and max_text_len > text.max_text_len:
        raise ValueError(f"max_text_len={max_text_len}, but {where} holds positions for {text.max_text_len} tokens")
    side, length = vision.image_size, max_text_len or text.max_text_len
    said = (settings or {}).get("preprocess_cfg", {})  # of open_clip
    mode = said.get("resize_mode", "shortest")
    if mode not in ("shortest", "squash"):
        raise ValueError(f"{where}: resize_mode={mode}; omma scales pictures by their shorter side, or squashes them")
    pictures = {"image_size": side, "shortest_side": None if mode == "squash" else side,
                "mean": tuple(said.get("mean", CLIP_MEAN)), "std": tuple(said.get("std", CLIP_STD)),
                "resample": said.get("interpolation", "bicubic")}  # fmt: skip
    if layout_of(state) == "hf" and (beside / "preprocessor_config.json").is_file():
        from omma.models.hf_preprocess import picture_settings  # imports transformers

        pictures = picture_settings(beside, side)
    # open_clip gives no mask: what looks both ways, or is read at its last place, reads the padding too.
    fills = layout_of(state) == "open_clip" and (text.attention == "bidirectional" or text.pool == "last")
    processor = Processor(tokenizer, max_text_len=length, read_padding=fills, **pictures)
    save_pretrained(model, folder)
    processor.save(folder)
    millions = round(model.num_parameters() / 1e6, 1)
    return {"folder": str(folder), "kind": "clip", "millions": millions, "image_size": side, "max_text_len": length,
            "left_out": [], "fresh": []}  # fmt: skip


# ---------------------------------------------------------------------------------------------------------- files
def read_state(source: str | Path | Mapping[str, Any]) -> tuple[dict[str, Tensor], str]:
    """The tensors of a .pth, .pt or .safetensors file, or of a dict, out of what wraps them, and what to call it.

    Half precision becomes float32. ValueError for a file that isn't there, is damaged or holds more than tensors.
    """
    where = str(source) if isinstance(source, str | Path) else "the state dict"
    loaded: Any = source
    if isinstance(source, str | Path):
        path = Path(source)
        if not path.is_file():
            raise ValueError(f"no file at {path}; give a released .pth, .pt or .safetensors file")
        try:
            loaded = read_file(path)
        except Exception as error:  # pickle, zip, safetensors and torch each have errors of their own for damage
            said = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(f"{path} can't be read as a file of tensors ({said}); download it again, or, if you "
                             "trust it, load it yourself and pass its state dict") from error  # fmt: skip
    for wrapper in ("state_dict", "module", "model"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(wrapper), Mapping):
            loaded = loaded[wrapper]
            break
    if not isinstance(loaded, Mapping) or not loaded:
        raise ValueError(f"{where} holds no state dict but {type(loaded).__name__}")
    if all(str(key).startswith("module.") for key in loaded):
        loaded = {key.removeprefix("module."): value for key, value in loaded.items()}
    other = [str(key) for key, value in loaded.items() if not isinstance(value, Tensor)]
    refuse(where, {"not tensors": other})
    half = (torch.float16, torch.bfloat16)
    return {key: value.float() if value.dtype in half else value for key, value in loaded.items()}, where


def read_file(path: Path) -> Any:
    """What a .safetensors file, a PyTorch file or, as OpenAI published CLIP, a TorchScript archive holds."""
    if path.suffix == ".safetensors":
        return load_file(path)
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            scripted = any(name.endswith("/constants.pkl") for name in archive.namelist())
        if scripted:
            return torch.jit.load(path, map_location="cpu").state_dict()
    return torch.load(path, map_location="cpu", weights_only=True)


def kind_of(state: Mapping[str, Tensor], where: str) -> Kind:
    """Which of the three a state dict is of. ValueError shows what it begins with when of none."""
    begins: dict[str, Kind] = {"transformer.patch_embed.proj.weight": "vlmo", "patch_embed.proj.weight": "beit",
                               "beit3.vision_embed.proj.weight": "beit3"}  # fmt: skip
    for key, kind in begins.items():
        if key in state:
            return kind
    raise ValueError(f"{where} is no released VLMo, BEiT, BEiT-3 or CLIP: each holds a patch_embed.proj, "
                     "vision_embed.proj, visual.conv1 or vision_model of its own; this has "
                     f"{', '.join(sorted(state)[:6])} ({len(state)} tensors)")  # fmt: skip
