"""Compiled blocks: the same numbers, the same names, one set of graphs for every length."""

from dataclasses import replace

import pytest
import torch

from conftest import Stopped, stop_after
from omma.table import Table
from omma.training import checkpoint as checkpoints
from omma.training.batches import Batches
from omma.training.compiling import compile_blocks, compiling, eager
from omma.training.loop import train
from omma.training.losses import LossWeights, compute_losses
from omma.training.setup import build

CONTRAST = LossWeights(itc=1.0)


@pytest.fixture
def traced(monkeypatch):
    """Traces without generating code, which would take a C++ compiler and minutes."""
    seen = []

    def backend(graph, inputs):
        seen.append(graph)
        return graph.forward

    monkeypatch.setattr("omma.training.loop.compile_blocks", lambda model: compile_blocks(model, backend))
    return seen, backend


def small(tiny_run, out: str = "run", **changes):
    config = tiny_run(out, losses=CONTRAST, save_every=2, steps=4, warmup=1, ema=None, **changes)
    return replace(config, model=replace(config.model, num_layers=2, num_vl_layers=0, drop_path=0.0, text_dropout=0.0,
                                         pool="max"))  # fmt: skip


def test_compiled_blocks_share_graphs_give_equal_losses_and_keep_their_names(tiny_run, traced):
    graphs, backend = traced
    config = small(tiny_run)
    model, processor, _ = build(config, Table.open(config.data))
    names = list(model.state_dict())
    whole = Batches(Table.open(config.data), processor, config.dataset, batch_size=8, patch_size=8, seed=0)[0]
    for size, length in ((8, 10), (6, 9)):
        batch = replace(whole, input_ids=whole.input_ids[:size, :length], ids=whole.ids[:size],
                        attention_mask=whole.attention_mask[:size, :length],
                        texts=whole.texts[:size], partner=whole.partner[:size])  # fmt: skip
        arguments = (batch, processor.normalize(batch.pixels[:size]), CONTRAST, (0, 0))
        with eager():
            plain = compute_losses(model, *arguments)["itc"]
        gradients = torch.autograd.grad(plain, list(model.parameters()), allow_unused=True)
        if not graphs:
            compile_blocks(model, backend)
        with compiling():
            compiled = compute_losses(model, *arguments)["itc"]
            found = torch.autograd.grad(compiled, list(model.parameters()), allow_unused=True)
        torch.testing.assert_close(compiled, plain)
        for a, b in zip(found, gradients, strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    assert list(model.state_dict()) == names
    assert 2 <= len(graphs) < 2 * 2 * 2, "not one for each modality, layer and length"
    with eager():
        torch.testing.assert_close(compute_losses(model, *arguments)["itc"], plain, rtol=0, atol=0)


def test_a_compiled_run_resumes_compiled_and_not_otherwise(tiny_run, traced):
    whole = train(small(tiny_run, "whole", compile=True), progress=False)
    assert traced[0], "nothing was compiled"

    with pytest.raises(Stopped):
        train(small(tiny_run, "cut", compile=True), on_step=stop_after(3), progress=False)
    with pytest.raises(ValueError, match="compile: True -> False"):
        train(small(tiny_run, "cut"), resume=True, progress=False)
    resumed = train(small(tiny_run, "cut", compile=True), resume=True, progress=False)
    a, b = (checkpoints.read_state(done)["model"] for done in (whole, resumed))
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.slow
def test_code_made_by_inductor_gives_the_losses_of_plain_pytorch(tiny_run):
    config = tiny_run()
    config = replace(config, model=replace(config.model, drop_path=0.0, text_dropout=0.0))
    model, processor, _ = build(config, Table.open(config.data))
    batch = Batches(Table.open(config.data), processor, config.dataset, batch_size=8, patch_size=8, seed=0)[0]
    arguments = (batch, processor.normalize(batch.pixels), config.losses, (0, 0))
    plain = compute_losses(model, *arguments)
    compile_blocks(model)
    with compiling():
        compiled = compute_losses(model, *arguments)
    for name in plain:
        torch.testing.assert_close(compiled[name], plain[name], rtol=1e-4, atol=1e-5)
