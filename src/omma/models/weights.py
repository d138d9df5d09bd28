"""Model folders: config.json + model.safetensors (+ what the processor writes), read strictly."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from omma.models.clip import CLIP, CLIPConfig
from omma.models.layers import unfilled
from omma.models.lora import merged
from omma.models.official import load_clip as load_clip
from omma.models.official import load_official_beit as load_official_beit
from omma.models.official import load_official_beit3 as load_official_beit3
from omma.models.official import load_official_vlmo as load_official_vlmo
from omma.models.prompts import PREFIX, prompts_for
from omma.models.vlmo import VLMo
from omma.models.vlmo_config import VLMoConfig

SHIPPED = Path(__file__).parents[1] / "weights"  # model folders inside the package
PROMPTS_FILE = "prompts.safetensors"  # beside model.safetensors: a few kB, and another task's can take their place
MODELS = {"vlmo": (VLMo, VLMoConfig), "clip": (CLIP, CLIPConfig)}  # config.json's "model" -> classes
KINDS = (*MODELS, "vlm")  # and what vlm.py reads, which needs transformers
Model = TypeVar("Model", VLMo, CLIP)
Config = TypeVar("Config", VLMoConfig, CLIPConfig)


def save_pretrained(
    model: nn.Module, folder: str | Path, state: Mapping[str, Tensor] | None = None, dtype: torch.dtype | None = None
) -> Path:
    """Writes config.json and model.safetensors into folder, made where missing.

    state: other weights for it (EMA). Adapters (LoRA) are added to the weights they belong to. dtype: of the file's
    floating-point weights, their own by default; float16 halves a file that is to be passed on. `from_pretrained`
    computes in float32 either way.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    kind = next(k for k, (cls, _) in MODELS.items() if isinstance(model, cls))
    config = {"model": kind, **dataclasses.asdict(model.config)}  # type: ignore[arg-type]
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    tensors = {
        k: v.detach().to((v.is_floating_point() and dtype) or v.dtype).contiguous().cpu()
        for k, v in merged(model, state).items()
    }
    prompts = {k: tensors.pop(k) for k in list(tensors) if k.startswith(PREFIX)}
    save_file(tensors, str(folder / "model.safetensors"), metadata={"format": "pt"})
    if prompts:
        save_file(prompts, str(folder / PROMPTS_FILE), metadata={"format": "pt"})
    return folder


def read_weights(folder: str | Path) -> dict[str, Tensor]:
    """All tensors of a model folder, with those of learned prompts, where it has some."""
    tensors = read_tensors(Path(folder) / "model.safetensors")
    return tensors | (read_tensors(prompts) if (prompts := Path(folder) / PROMPTS_FILE).is_file() else {})


def shipped(kind: str | None = None) -> list[str]:
    """Names of the models that come with omma; kind: of those that are a "vlmo", say, or a "vlm"."""
    found = sorted(folder.name for folder in SHIPPED.iterdir() if folder.is_dir()) if SHIPPED.is_dir() else []
    return [name for name in found if kind is None or model_kind(SHIPPED / name) == kind]


def model_folder(place: str | Path) -> Path:
    """The model folder at a place: of a run folder of `omma train` its best checkpoint, where it keeps one, or its
    last; of the name of a shipped model, where no folder has that name, the one inside the package; anything else is
    taken for a model folder itself."""
    if not Path(place).exists() and str(place) in shipped():
        return SHIPPED / place
    place = Path(place)
    return next((place / name for name in ("best", "last") if (place / name).exists()), place)


def model_kind(folder: str | Path) -> str:
    """Which of KINDS a model folder holds. ValueError says what is at folder instead."""
    return read_settings(folder)[0]


def read_settings(folder: str | Path) -> tuple[str, dict[str, Any]]:
    """The kind of a model folder and the settings in its config.json. Errors as in `read_config`."""
    path = Path(folder) / "config.json"
    if not path.is_file():
        has = ", ".join(sorted(p.name for p in Path(folder).iterdir())[:8]) if Path(folder).is_dir() else "nothing"
        raise ValueError(f"{folder} is not a model folder: no config.json; it has {has}. "
                         "A run folder of `omma train` holds one as its `last`")  # fmt: skip
    try:
        values: dict[str, Any] = dict(json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} can't be read as a model's settings ({error}); copy it or train the model again"
                         ) from error  # fmt: skip
    kind = values.pop("model", None)
    if isinstance(kind, dict):  # the config of a whole run, which has a model's in it
        raise ValueError(f"{folder} is a run of `omma train` that has no checkpoint yet; wait for its first one")
    if kind not in KINDS:
        raise ValueError(f"{path} names the model kind {kind!r}; this version reads {', '.join(KINDS)}")
    return kind, values


def read_config(folder: str | Path, cls: type[Config] = VLMoConfig) -> Config:  # type: ignore[assignment]
    """The model's config, of class cls: that of a VLMo, or CLIPConfig.

    ValueError: what is at folder instead, an unknown kind or another one, or keys this version doesn't know.
    """
    kind, values = read_settings(folder)
    if kind == "vlm":
        raise ValueError(f"{folder} holds a VLM, which answers in words: omma.load_vlm({str(folder)!r})")
    if MODELS[kind][1] is not cls:
        wanted = next(name for name, (_, config) in MODELS.items() if config is cls)
        raise ValueError(f"{folder} holds a {kind}, and a {wanted} is wanted here")
    known = {f.name for f in dataclasses.fields(cls)}
    if unknown := sorted(set(values) - known):
        raise ValueError(f"{folder}/config.json has settings this version doesn't know: {', '.join(unknown)}")
    listed: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    return cls(**listed)


def from_pretrained(
    folder: str | Path,
    device: str | torch.device = "cpu",
    prompts: str | Path | None = None,
    kind: type[Model] = VLMo,  # type: ignore[assignment]
) -> Model:
    """The model in a folder that `save_pretrained` wrote, in eval mode.

    prompts: a file of learned prompts, or a folder that has one, to be put on it instead of the folder's own.
    kind: VLMo or CLIP; `model_kind` tells which a folder holds. ValueError for a folder of the other one; it lists
    weights that are missing, left over or of another shape.
    """
    config = read_config(folder, next(config for cls, config in MODELS.values() if cls is kind))
    tensors = read_weights(folder)
    if prompts is not None:
        place = model_folder(prompts)
        learned = read_tensors(place / PROMPTS_FILE if place.is_dir() else place)
        tensors = {k: v for k, v in tensors.items() if not k.startswith(PREFIX)} | learned
    with unfilled():
        model = kind(config)
        if isinstance(model, VLMo):
            model.prompts = prompts_for(model.config.hidden_size, tensors)
    tensors = {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}
    load_strictly(model, tensors, str(folder), assign=True)
    return model.to(device).eval()


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file. ValueError when it is missing or damaged."""
    if not path.is_file():
        raise ValueError(f"no weights at {path}")
    try:
        with safe_open(str(path), framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    except Exception as error:  # safetensors raises its own error type for every damaged header or short file
        raise ValueError(f"{path} can't be read as safetensors ({error}); copy or train it again") from error


def load_strictly(model: nn.Module, tensors: Mapping[str, Tensor], where: str, assign: bool = False) -> None:
    """load_state_dict that names every key which doesn't fit, and its shapes."""
    own = model.state_dict()
    missing, extra = sorted(set(own) - set(tensors)), sorted(set(tensors) - set(own))
    shapes = [f"{k} is {tuple(tensors[k].shape)}, the model's {tuple(own[k].shape)}" for k in own
              if k in tensors and own[k].shape != tensors[k].shape]  # fmt: skip
    if missing or extra or shapes:
        found = {"missing": missing, "unexpected": extra, "other shape": shapes}
        parts = [f"{title}: {', '.join(keys[:6])}{' ...' if len(keys) > 6 else ''} ({len(keys)})"
                 for title, keys in found.items() if keys]  # fmt: skip
        raise ValueError(f"the weights of {where} don't fit this model. " + "; ".join(parts))
    model.load_state_dict(tensors, assign=assign)


def load_matching(model: nn.Module, tensors: Mapping[str, Tensor]) -> tuple[list[str], list[str]]:
    """Copies every tensor whose name and shape fit: how one training stage starts from the one before.

    Returns (names that were copied, names of the model that keep their own values).
    """
    own = model.state_dict()
    fit = {k: v for k, v in tensors.items() if k in own and own[k].shape == v.shape}
    model.load_state_dict(fit, strict=False)
    return sorted(fit), sorted(set(own) - set(fit))


def weights_hash(tensors: Mapping[str, Tensor]) -> str:
    """16 hex digits of names, shapes and bytes: the same weights give the same hash, whatever the file's layout."""
    digest = hashlib.blake2b(digest_size=8)
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def interpolate(start: Mapping[str, Tensor], end: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """(1 - alpha) * start + alpha * end, weight by weight: a model between two (WiSE-FT, Wortsman et al. 2022).

    The two are one architecture, and the end was trained from the start. ValueError for other names or shapes, and for
    an alpha outside 0..1.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha={alpha}: 0 is the start, 1 the end; give a number between them")
    odd = [name for name in {*start, *end} if name not in start or name not in end
           or start[name].shape != end[name].shape]  # fmt: skip
    if odd:
        raise ValueError(f"the two models differ in {', '.join(sorted(odd)[:4])} ({len(odd)} of {len(start)}); only "
                         "weights of one architecture have something between them")  # fmt: skip
    return {name: torch.lerp(value.float(), end[name].float(), alpha).to(value.dtype) if value.is_floating_point()
            else end[name] for name, value in start.items()}  # fmt: skip
