"""Parameter groups, the learning-rate schedule, and the running average of the weights."""

import fnmatch
import math
from collections.abc import Iterable

import torch
from torch import nn


def freeze(model: nn.Module, patterns: Iterable[str]) -> list[str]:
    """Takes the parameters whose names match (shell patterns) out of training and returns their names.

    In place of a pattern there may be the name of a group that the model declares in `FREEZE_GROUPS`, such as a VLMo's
    "vision": as much of it as this model has. ValueError for a pattern that matches nothing: a misspelt freeze would
    silently train everything.
    """
    names = [name for name, _ in model.named_parameters()]
    groups: dict[str, tuple[str, ...]] = getattr(model, "FREEZE_GROUPS", {})
    frozen: set[str] = set()
    for pattern in patterns:
        hits = [hit for part in groups.get(pattern, (pattern,)) for hit in fnmatch.filter(names, part)]
        if not hits:
            raise ValueError(
                f"freeze pattern {pattern!r} matches no parameter; names look like {', '.join(names[:3])}, {names[-1]}"
            )
        frozen.update(hits)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen)
    return sorted(frozen)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Decay for weight matrices only.

    Norms, biases, LayerScale, tokens, positions, tables and temperatures are left alone. The published code
    picks by substring and so decays the experts' norms, LayerScale and the temperature.
    """
    decayed, free = [], []
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            matrix = parameter.ndim >= 2 and id(parameter) not in embeddings
            is_weight = matrix and not name.endswith(("_token", "_positions", ".table"))
            (decayed if is_weight else free).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]


def learning_rate(step: int, *, peak: float, steps: int, warmup: int, final: float = 0.0) -> float:
    """Linear warm-up, then cosine to final * peak at the last step. step counts from 0."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return peak * (final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


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
                averages.append(self.state[key])
                values.append(value.detach())
            else:
                self.state[key].copy_(value)
        torch._foreach_lerp_(averages, values, 1 - decay)
