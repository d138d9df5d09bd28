"""Muon: what it does to a matrix, which matrices learn by it, and that a run with it goes on as it was."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from torch import nn

from omma.models.vlmo import VLMo, VLMoConfig
from omma.training.config import TrainConfig
from omma.training.muon import Muon, orthogonal, with_muon
from omma.training.optim import parameter_groups

TINY = VLMoConfig(
    image_size=32, patch_size=8, vocab_size=50, hidden_size=24, num_layers=3, num_heads=3, num_vl_layers=1
)


@pytest.mark.parametrize("shape", [(8, 20), (20, 8), (12, 12)])
def test_a_matrix_made_orthogonal_keeps_its_directions_and_loses_their_sizes(shape):
    matrix = torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    u, sizes, v = torch.linalg.svd(matrix, full_matrices=False)
    inside = u.T @ orthogonal(matrix) @ v.T
    torch.testing.assert_close(inside, torch.diag(inside.diag()), atol=1e-9, rtol=0)
    assert ((inside.diag() > 0.67) & (inside.diag() < 1.21)).all(), (sizes, inside.diag())


def test_its_step_is_that_of_the_library_for_matrices_and_adamw_for_the_rest():
    torch.manual_seed(0)
    ours = nn.ModuleList([nn.Linear(24, 16), nn.LayerNorm(16), nn.Linear(16, 48)])
    theirs = nn.ModuleList([nn.Linear(24, 16), nn.LayerNorm(16), nn.Linear(16, 48)])
    theirs.load_state_dict(ours.state_dict())
    whole = nn.Sequential(nn.Sequential(*ours))
    groups = with_muon([{"params": list(ours.parameters()), "weight_decay": 0.1, "lr_scale": 1.0}], whole, 10.0)
    mine = Muon(groups, precise=nullcontext, lr=1e-3, betas=(0.9, 0.95), eps=1e-8, fused=True)
    for group in mine.param_groups:
        group["lr"] = 1e-3 * group["lr_scale"]
    matrices = [p for p in theirs.parameters() if p.ndim == 2]
    rest = [p for p in theirs.parameters() if p.ndim < 2]
    library = (torch.optim.Muon(matrices, lr=1e-2, weight_decay=0.1, momentum=0.95),
               torch.optim.AdamW(rest, lr=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1))  # fmt: skip
    before = [p.detach().clone() for p in ours.parameters()]
    for step in range(4):
        x = torch.randn(32, 24, generator=torch.Generator().manual_seed(step))
        for model in (ours, theirs):
            hidden = torch.relu(model[1](model[0](x)))
            (model[2](hidden) ** 2).mean().backward()
        for optimizer in (mine, *library):
            optimizer.step()
            optimizer.zero_grad()
    for p, q, start in zip(ours.parameters(), theirs.parameters(), before, strict=True):
        moved = (q - start).norm()
        assert (p - q).norm() < 5e-2 * moved, "the library rounds its products to bfloat16"


def test_the_matrices_of_the_layers_learn_by_it_and_keep_their_rates_apart():
    model = VLMo(replace(TINY, positions="relative"))
    names = {id(p): name for name, p in model.named_parameters()}
    groups = with_muon(parameter_groups(model, 0.1, layer_decay=0.5), model, 4.0)
    assert sorted(names[id(p)] for group in groups for p in group["params"]) == sorted(names.values())
    turned = {names[id(p)]: group["lr_scale"] for group in groups if group.get("muon") for p in group["params"]}
    assert turned["blocks.0.attention.qkv.weight"] == 4 * 0.5**3
    assert turned["blocks.2.attention.qkv.weight"] == 4 * 0.5
    assert all(name.startswith("blocks.") and name.endswith("weight") for name in turned)
    assert all(dict(model.named_parameters())[name].ndim == 2 for name in turned)
    frozen = nn.Linear(3, 3)
    with pytest.raises(ValueError, match=r"muon=4.0: no matrix of this model's layers is trained"):
        with_muon([{"params": list(frozen.parameters()), "weight_decay": 0.1}], frozen, 4.0)


def test_what_it_cannot_do_is_refused():
    with pytest.raises(ValueError, match="muon with parallel=fsdp: Muon needs whole matrices"):
        TrainConfig(muon=10.0, parallel="fsdp")
    with pytest.raises(ValueError, match=r"muon=0.0: give 1e-06 or more"):
        TrainConfig(muon=0.0)
