"""Muon: matrices of the layers learn by their gradient's direction made orthogonal, the rest by AdamW.

A small transformer that has to find a thing by its name and compare what it finds stays on a plateau for a long time
under AdamW: the direction that leads off it is rare in the gradient, and small. Orthogonalised, every direction of a
matrix moves as far as every other (Jordan et al. 2024, "Muon"; Liu et al. 2025, "Muon is Scalable for LLM Training").
"""

import math
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

MOMENTUM = 0.95
# A quintic whose slope at 0 is steep: five rounds bring singular values from 0.005 to 1 into 0.7 .. 1.2. Jordan et al.
A, B, C = 3.4445, -4.7750, 2.0315
ROUNDS = 5
IN_A_LAYER = re.compile(r"\.\d+\.")


def with_muon(groups: list[dict], model: nn.Module, factor: float) -> list[dict]:
    """Groups of `parameter_groups`, the layers' matrices each in a group of their own that says muon=True.

    A matrix is of a layer where its name has a number in it ("blocks.3.mlp.fc1.weight") and it is a weight:
    embeddings, heads, convolutions, norms and tables stay with AdamW. factor: on the learning rate of these groups.
    ValueError for a model that has no such matrix.
    """
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    matrices = {id(p) for name, p in model.named_parameters()
                if p.ndim == 2 and name.endswith("weight") and IN_A_LAYER.search(name)} - tables  # fmt: skip
    found: list[dict] = []
    for group in groups:
        mine = [p for p in group["params"] if id(p) in matrices]
        own = {id(p) for p in mine}
        rest = [p for p in group["params"] if id(p) not in own]
        found += [{**group, "params": rest}] if rest else []
        if mine:
            found.append({**group, "params": mine, "muon": True, "lr_scale": group.get("lr_scale", 1.0) * factor})
    if not any(group.get("muon") for group in found):
        raise ValueError(f"muon={factor}: no matrix of this model's layers is trained; leave it out")
    return found


class Muon(torch.optim.AdamW):
    """AdamW, but for groups with muon=True, which hold matrices (m, n) alone.

    Their step is lr sqrt(max(1, m / n)) times the orthogonalised sum of gradient and momentum (Nesterov). They decay by
    lr weight_decay as AdamW's do: faster, where lr is higher for them. precise: makes a context for the products, such
    as autocast.
    """

    def __init__(self, params: Any, *, precise: Callable[[], AbstractContextManager], **others: Any):
        super().__init__(params, **others)
        self.precise = precise

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        groups = self.param_groups
        try:
            self.param_groups = [group for group in groups if not group.get("muon")]
            loss = super().step(closure)
        finally:
            self.param_groups = groups
        for group in groups:
            if group.get("muon"):
                for p in group["params"]:
                    if p.grad is not None:
                        self.turn(p, group["lr"], group["weight_decay"])
        return loss

    def turn(self, p: Tensor, rate: float, decay: float) -> None:
        state = self.state[p]
        if not state:
            state |= {"step": torch.zeros(()), "momentum_buffer": torch.zeros_like(p)}  # AdamW asks all for a step
        momentum = state["momentum_buffer"].mul_(MOMENTUM).add_(p.grad)  # type: ignore[arg-type]
        with self.precise():
            update = orthogonal(momentum * MOMENTUM + p.grad)
        p.mul_(1 - rate * decay)
        p.add_(update.to(p.dtype), alpha=-rate * math.sqrt(max(1.0, p.shape[0] / p.shape[1])))


def orthogonal(matrix: Tensor) -> Tensor:
    """U V^T of a matrix U S V^T, nearly: singular values are about 1 (Newton-Schulz, no decomposition)."""
    wide = matrix.shape[0] <= matrix.shape[1]
    x = matrix if wide else matrix.T
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(ROUNDS):
        gram = x @ x.T
        x = A * x + (B * gram + C * gram @ gram) @ x
    return x if wide else x.T
