"""Which expert a token goes to, learned instead of given by its modality (Switch Transformers, Fedus et al. 2021).

A VLMo's rule is the special case: a router that is sure of a token's modality gives what the rule gives.
B batch, S sequence, n tokens, D width, E experts, k experts a token.
"""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

MODALITIES = ("image", "text", "vl")  # rows of a router's prior


class Router(nn.Module):
    """A linear map of each token to one logit an expert; the token goes to its k best, weighted by their softmax.

    prior: logits of the expert that bears the name of a token's modality, to begin with; they are learned as well. At 0
    the router starts from nothing, at 4 and three experts with 96 % of the weight where the paper's rule has all.
    """

    def __init__(self, hidden_size: int, names: tuple[str, ...], top: int, prior: float, eps: float):
        super().__init__()
        self.top = top
        self.norm = nn.LayerNorm(hidden_size, eps=eps)
        self.score = nn.Linear(hidden_size, len(names), bias=False)
        self.prior = nn.Parameter(prior * torch.tensor([[float(name == m) for name in names] for m in MODALITIES]))
        self.loads: list[tuple[Tensor, Tensor]] | None = None  # filled within `routing`

    def forward(
        self, x: Tensor, experts: nn.ModuleDict, modality: str, text_len: int, scale: Tensor | None = None
    ) -> Tensor:
        """x: (B, S, D), the first text_len tokens text; modality, scale: as in `MultiwayBlock`. Returns (B, S, D).

        Tokens are sorted by expert, so that each expert has one contiguous piece and none is turned away (no capacity).
        """
        n, D, k = x.shape[0] * x.shape[1], x.shape[2], self.top
        probabilities = self.probabilities(x, modality, text_len, "vl" in experts).view(n, -1)
        gates, chosen = probabilities.topk(k, dim=-1)  # (n, k)
        if k > 1:  # GShard, Lepikhin et al. 2020; a single gate stays as it is, or the router would have no gradient
            gates = gates / gates.sum(dim=-1, keepdim=True)
        counts = torch.bincount(chosen.flatten(), minlength=len(experts))
        if self.loads is not None:
            self.loads.append((counts / (n * k), probabilities.mean(dim=0)))
        order = chosen.flatten().argsort(stable=True)
        pieces = x.reshape(n, D).index_select(0, order // k).split(counts.tolist())
        given = [
            expert(in_steps(piece), scale)[: len(piece)]
            for expert, piece in zip(experts.values(), pieces, strict=True)
            if len(piece)
        ]
        back = torch.cat(given).index_select(0, order.argsort()).view(n, k, D)
        return (back * gates.to(back.dtype)[..., None]).sum(dim=1).view_as(x)

    def probabilities(self, x: Tensor, modality: str, text_len: int, has_vl: bool) -> Tensor:
        """(B, S, E), float32 at least. Below the vision-language layers, a token of a joint pass is of its own side."""
        logits = self.score(self.norm(x))
        rows = torch.full((x.shape[1],), MODALITIES.index(modality), device=x.device)
        if modality == "vl" and not has_vl:
            rows[:text_len], rows[text_len:] = MODALITIES.index("text"), MODALITIES.index("image")
        logits = logits.to(self.prior.dtype) + self.prior.index_select(0, rows)
        return logits.softmax(dim=-1)


def in_steps(x: Tensor, step: int = 128) -> Tensor:
    """x (n, D) with rows of 0 up to a multiple of `step`: a CPU's matrix products are compiled anew for each number of
    rows, and a router gives another number every time."""
    return torch.nn.functional.pad(x, (0, 0, 0, -len(x) % step))


def balance_loss(shares: Tensor, probabilities: Tensor) -> Tensor:
    """E * sum of f_i P_i: 1 when all experts are used alike, up to E when one takes all (Fedus et al. 2021, eq. 4).

    shares: (E,) of the tokens that went to each expert; probabilities: (E,), its mean probability.
    """
    return len(shares) * (shares.detach() * probabilities).sum()


@contextlib.contextmanager
def routing(model: nn.Module) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Within it, every routed layer of every pass adds (shares, probabilities) to the list, as `balance_loss` takes
    them. Padding counts as tokens."""
    loads: list[tuple[Tensor, Tensor]] = []
    routers = [part for part in model.modules() if isinstance(part, Router)]
    try:
        for router in routers:
            router.loads = loads
        yield loads
    finally:
        for router in routers:
            router.loads = None
