"""Parameter groups, the learning-rate schedule, and the running average of the weights."""

import fnmatch
import math
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import nn

from omma.training.distributed import local


def freeze(model: nn.Module, patterns: Iterable[str]) -> list[str]:
    """Takes the parameters whose names match (shell patterns) out of training and returns their names.

    In place of a pattern there may be the name of a group that the model declares in `FREEZE_GROUPS`, such as a VLMo's
    "vision": as much of it as this model has. ValueError for a pattern that matches nothing: a misspelt freeze would
    silently train everything.
    """
    names, patterns = [name for name, _ in model.named_parameters()], list(patterns)
    groups: dict[str, tuple[str, ...]] = getattr(model, "FREEZE_GROUPS", {})
    frozen: set[str] = set()
    for pattern in patterns:
        hits = [hit for part in groups.get(pattern, (pattern,)) for hit in fnmatch.filter(names, part)]
        if not hits:
            raise ValueError(
                f"freeze pattern {pattern!r} matches no parameter; names look like {', '.join(names[:3])}, {names[-1]}"
            )
        frozen.update(hits)
    if len(frozen) == len(names):
        raise ValueError(f"freeze={','.join(patterns)} leaves nothing to train; freeze less")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen)
    return sorted(frozen)


def parameter_groups(
    model: nn.Module,
    weight_decay: float,
    layer_decay: float | None = None,
    head_lr: float = 1.0,
    rates: Mapping[str, float] | None = None,
) -> list[dict]:
    """Groups for the optimiser, each with its weight_decay and its lr_scale, a factor on the learning rate of the step.

    Decay for weight matrices only: norms, biases, LayerScale, tokens, positions, tables and temperatures are left
    alone. The published code picks by substring and so decays the experts' norms, LayerScale and the temperature.

    layer_decay: layer i of L learns at layer_decay ** (L + 1 - i) of the rate, so that what is general changes less
    than what is near the task (BEiT, Bao et al. 2021). 0 are the embeddings and L + 1 is what lies above the blocks;
    the model says which by `layer_of(name)`. head_lr: factor for the heads that it lists in `TASK_HEADS`, which start
    from random weights in fine-tuning. rates: factors for parts of the model by their names, such as a tower's.
    ValueError for a model that has not what these ask for.
    """
    if layer_decay is not None and not 0 < layer_decay <= 1:
        raise ValueError(f"layer_decay={layer_decay}: it is a factor a layer, above 0 and at most 1")
    scales = lr_scales(model, layer_decay, head_lr)
    scales = {name: scale * (rates or {}).get(name.split(".")[0], 1.0) for name, scale in scales.items()}
    groups: dict[tuple[float, bool], dict] = {}
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            # Tokens, positions and tables have names of their own; MultiheadAttention calls a matrix in_proj_weight.
            decays = parameter.ndim >= 2 and name.endswith("weight") and id(parameter) not in embeddings
            group = {"params": [], "weight_decay": weight_decay if decays else 0.0, "lr_scale": scales[name]}
            groups.setdefault((scales[name], not decays), group)["params"].append(parameter)
    return [groups[key] for key in sorted(groups)]


def lr_scales(model: nn.Module, layer_decay: float | None, head_lr: float) -> dict[str, float]:
    """Factor on the learning rate, by name of the parameter; arguments as in `parameter_groups`."""
    names = [name for name, _ in model.named_parameters()]
    scales = dict.fromkeys(names, 1.0)
    if layer_decay is not None:
        layer_of: Callable[[str], int] | None = getattr(model, "layer_of", None)
        if layer_of is None:
            raise ValueError(f"layer_decay={layer_decay}: {type(model).__name__} does not say which layer a parameter "
                             "is in; give it layer_of(name)")  # fmt: skip
        layers = {name: layer_of(name) for name in names}
        scales = {name: layer_decay ** (max(layers.values()) - layer) for name, layer in layers.items()}
    if head_lr != 1.0:
        heads: tuple[str, ...] = getattr(model, "TASK_HEADS", ())
        mine = [name for name in names if name.split(".")[0] in heads]
        if not mine:
            raise ValueError(f"head_lr={head_lr}, but this model has no head for a task ({', '.join(heads) or 'none'})")
        scales |= {name: scales[name] * head_lr for name in mine}
    return scales


SCHEDULES: dict[str, Callable[[float], float]] = {
    "cosine": lambda progress: 0.5 * (1 + math.cos(math.pi * progress)),
    "linear": lambda progress: 1 - progress,
}


def learning_rate(
    step: int, *, peak: float, steps: int, warmup: int, final: float = 0.0, schedule: str = "cosine"
) -> float:
    """Linear warm-up, then down to final * peak after the last step, by one of SCHEDULES. step counts from 0."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return peak * (final + (1 - final) * SCHEDULES[schedule](min(1.0, progress)))


class EMA:
    """Exponential moving average of the weights.

    Warmed up as (1 + step) / (10 + step), so that a short run averages over its own end.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.state = {k: v.detach().clone() for k, v in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        averages, values = [], []
        for key, value in model.state_dict().items():
            if value.is_floating_point():
                averages.append(local(self.state[key]))
                values.append(local(value.detach()))
            else:
                self.state[key].copy_(value)
        torch._foreach_lerp_(averages, values, 1 - decay)
