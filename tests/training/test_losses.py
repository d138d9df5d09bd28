"""Which negatives a batch gives, and which passes an objective runs."""

from dataclasses import replace

import pytest
import torch

from omma.models.preprocess import Processor
from omma.table import Table
from omma.training.batches import Batch, Batches
from omma.training.loop import build
from omma.training.losses import LossWeights, compute_losses, negatives


def batch_of(partner: list[int], texts: list[tuple[int, ...]]) -> Batch:
    none = torch.zeros(0)
    return Batch(
        step=0, ids=[str(i) for i in range(len(partner))], pixels=none, input_ids=none, attention_mask=none,
        masked_ids=none, mlm_labels=none, patch_mask=none, partner=torch.tensor(partner), texts=texts,
    )  # fmt: skip


def test_a_minimal_pair_takes_its_partner_and_the_rest_what_is_similar():
    partner = [1, 0, -1, -1, 5, 4]
    batch = batch_of(partner, [(i,) for i in range(6)])
    logits = torch.full((6, 6), -30.0)
    logits[2, 4] = logits[4, 2] = logits[3, 0] = logits[5, 3] = 30.0  # what a picture by itself must draw
    same = torch.eye(6, dtype=torch.bool)
    wrong_text, wrong_image, text_valid, image_valid = negatives(logits, same, batch, (0,))
    assert wrong_text.tolist() == [1, 0, 4, 0, 5, 4]
    assert wrong_image.tolist() == [2, 3, 4, 5, 0, 1]
    assert text_valid.all()
    assert image_valid.all()


def test_a_negative_that_belongs_is_not_used():
    batch = batch_of([1, 0, -1, -1], [(7,), (8,), (7,), (9,)])  # picture 2 has the words of picture 0
    same = torch.eye(4, dtype=torch.bool)
    same[0, 2] = same[2, 0] = True
    *_, text_valid, image_valid = negatives(torch.zeros(4, 4), same, batch, (0,))
    assert text_valid.tolist() == [True] * 4
    assert image_valid.tolist() == [False, True, True, True]  # the next unit's picture is number 2 for number 0


@pytest.mark.parametrize(
    ("weights", "names", "passes"),
    [
        (LossWeights(mim=1.0), {"mim"}, 1),
        (LossWeights(text_mlm=1.0), {"text_mlm"}, 1),
        (LossWeights(itc=1.0), {"itc"}, 2),
        (LossWeights(mlm=1.0), {"mlm"}, 1),
        (LossWeights(itc=1.0, itm=1.0, mlm=1.0), {"itc", "itm", "mlm"}, 3),
        (LossWeights(itc=1.0, itc_vl=1.0), {"itc", "itc_vl"}, 2),
        (LossWeights(itc=1.0, itc_pair=1.0), {"itc", "itc_pair"}, 2),
    ],
)
def test_an_objective_runs_no_pass_it_does_not_need(tiny_run, monkeypatch, weights, names, passes):
    config = tiny_run()
    config = replace(config, losses=weights, model=replace(config.model, itc_vl=True))
    model, processor, _ = build(config, Table.open(config.data))
    assert isinstance(processor, Processor)
    batch = Batches(Table.open(config.data), processor, config.dataset, batch_size=8, patch_size=8, seed=0)[0]
    calls, real = [], model.encode
    monkeypatch.setattr(model, "encode", lambda *args, **kwargs: calls.append(1) or real(*args, **kwargs))
    losses = compute_losses(model, batch, processor.normalize(batch.pixels), weights, (0, 0))
    assert losses.keys() == names
    assert len(calls) == passes
    assert all(torch.isfinite(loss) for loss in losses.values())


def test_a_share_of_the_batch_is_fused_and_all_of_it_contrasted(tiny_run, monkeypatch):
    config = tiny_run()
    model, processor, _ = build(config, Table.open(config.data))
    batch = Batches(Table.open(config.data), processor, config.dataset, batch_size=8, patch_size=8, seed=0)[0]
    rows, real = [], model.encode
    record = lambda text=None, mask=None, image=None, grid=None: (
        rows.append(len(text if text is not None else image)) or real(text, mask, image, grid)
    )
    monkeypatch.setattr(model, "encode", record)
    compute_losses(model, batch, processor.normalize(batch.pixels), config.losses, (0, 0), fusion_share=0.3)
    assert rows == [8, 8, 4 * 2]  # 2 of 8 samples: positives, two kinds of negatives, masked words
