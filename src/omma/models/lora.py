"""Which part of a CLIP is trained: each tower in full, not at all, or by low-rank adapters (LoRA, Hu et al. 2022).

An adapter adds alpha / rank * B A to a linear map's weight, A of `rank` rows and B of as many columns; B starts at
zero. On saving it is added for good, so that a model folder is an ordinary one.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from omma.models.clip import CLIP, TOWERS, Tower

ADAPTER = "default"  # peft's name of the only one
A, B = f".lora_A.{ADAPTER}.weight", f".lora_B.{ADAPTER}.weight"
BASE = ".base_layer."


@dataclass(frozen=True, kw_only=True)
class LoRAConfig:
    """Adapters of one tower."""

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0  # of what goes into an adapter, in training
    # Regular expression for the whole name of a linear map inside the tower, such as r"blocks\.\d+\.attention\..*";
    # None: all of its layers, attention and MLP.
    layers: str | None = None

    def __post_init__(self):
        if self.rank < 1 or not 0 <= self.dropout < 1:
            raise ValueError(f"rank={self.rank}, dropout={self.dropout}; a rank is at least 1, a dropout 0 to below 1")


Way = Literal["full", "frozen"] | LoRAConfig


def tune(model: CLIP, ways: Mapping[Tower, Way]) -> dict[str, tuple[int, int]]:
    """Sets which parameters are trained: each tower in full, none of it, or by adapters alone. In place, once a model.

    Projections, temperature and bias are trained in every case; a tower that `ways` doesn't name is left as it is.
    Returns `trainable(model)`. ValueError for an unknown tower or way, and for adapters that match no linear map.
    """
    for name, way in ways.items():
        if name not in TOWERS or not (way in ("full", "frozen") or isinstance(way, LoRAConfig)):
            raise ValueError(f"{name}={way!r}: a tower is {' or '.join(TOWERS)}, and is trained full, frozen or by a "
                             "LoRAConfig")  # fmt: skip
        tower = model.tower(name)
        if isinstance(way, LoRAConfig):
            add_adapters(tower, name, way)
        else:
            for key, parameter in tower.named_parameters():
                unused = key.endswith("mask_token")  # no pass here reads it
                parameter.requires_grad_(way == "full" and not unused)
    model.train(model.training)  # a frozen tower leaves training
    return trainable(model)


def add_adapters(tower: nn.Module, name: str, config: LoRAConfig) -> None:
    """Adapters on the tower's linear maps; all else of it is frozen."""
    from peft import LoraConfig, inject_adapter_in_model

    linear = [key for key, part in tower.named_modules() if isinstance(part, nn.Linear)]
    if any(BASE in f".{key}." for key in linear):
        raise ValueError(f"the {name} tower has adapters already; save the model, which merges them, and load it again")
    if config.layers is None:
        chosen = [key for key in linear if id(tower.get_submodule(key)) in in_layers(tower)]
    else:
        chosen = [key for key in linear if re.fullmatch(config.layers, key)]
    if not chosen:
        raise ValueError(f"layers={config.layers!r} matches no linear map of the {name} tower; it has "
                         f"{', '.join(linear[:4])} ... {linear[-1]}")  # fmt: skip
    settings = LoraConfig(r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout,  # type: ignore[arg-type]
                          target_modules="|".join(re.escape(key) for key in chosen))  # fmt: skip
    inject_adapter_in_model(settings, tower, ADAPTER)
    for key, parameter in tower.named_parameters():
        parameter.requires_grad_(".lora_" in key)


def in_layers(tower: nn.Module) -> set[int]:
    """The modules of a tower's layers, by id: their names may begin otherwise in a tower that is not ours."""
    return {id(part) for part in tower.blocks.modules()}  # type: ignore[union-attr]


def merged(model: nn.Module, state: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """The model's state dict with adapters added to the weights they belong to, under the names of a model without.

    state: other values for all of it (EMA). What has no adapters is passed on as it is.
    """
    state = model.state_dict() if state is None else state
    out: dict[str, Tensor] = {}
    for key, value in state.items():
        if ".lora_" in key:
            continue
        layer, base, kind = key.rpartition(BASE)
        if base and kind == "weight" and layer + A in state:
            adapter: Any = model.get_submodule(layer)
            delta = state[layer + B].float() @ state[layer + A].float() * adapter.scaling[ADAPTER]
            value = (value.float() + delta).to(value.dtype)
        out[f"{layer}.{kind}" if base else key] = value
    return out


def trainable(model: CLIP) -> dict[str, tuple[int, int]]:
    """How many parameters are trained, and how many there are: {"vision": (trained, all), "text": ..., "rest": ...}."""
    counts: dict[str, tuple[int, int]] = {"vision": (0, 0), "text": (0, 0), "rest": (0, 0)}
    for key, parameter in model.named_parameters():
        name = key.partition(".")[0]
        name = name if name in TOWERS else "rest"
        trained, every = counts[name]
        counts[name] = (trained + parameter.numel() * parameter.requires_grad, every + parameter.numel())
    return counts


def described(counts: Mapping[str, tuple[int, int]]) -> str:
    """`trainable` as one line: "trained: vision 0 of 21.6M, text 0.3M of 29.9M, rest 0.4M of 0.4M"."""
    short = lambda n: f"{n / 1e6:.1f}M" if n >= 1e5 else str(n)
    return "trained: " + ", ".join(f"{name} {short(some)} of {short(every)}" for name, (some, every) in counts.items())
