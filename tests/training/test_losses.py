"""Which negatives a batch gives, and which passes an objective runs."""

from dataclasses import replace

import pytest
import torch

from omma.models.preprocess import Processor
from omma.table import Table
from omma.training import objectives
from omma.training.batches import Batch, Batches, DataConfig
from omma.training.losses import LossWeights, by_length, compute_losses, fused_rows, negatives
from omma.training.setup import build, check, training_set


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
    wrong_text, wrong_image, text_valid, image_valid = negatives(logits, logits.T, same, batch.partner, (0,))
    assert wrong_text.tolist() == [1, 0, 4, 0, 5, 4]
    assert wrong_image[2:4].tolist() == [4, 5]
    assert text_valid.all()
    assert image_valid.tolist() == [False, False, True, True, False, False]  # a pair's is its partner's wrong text


def test_a_picture_that_belongs_to_all_texts_takes_no_part():
    batch = batch_of([-1, -1, 3, 2], [(7,), (8,), (9,), (10,)])
    same = torch.eye(4, dtype=torch.bool)
    same[0] = same[:, 0] = True
    *_, text_valid, image_valid = negatives(torch.zeros(4, 4), torch.zeros(4, 4), same, batch.partner, (0,))
    assert text_valid.tolist() == [False, True, True, True]
    assert image_valid.tolist() == [False, True, False, False]


def test_negatives_within_groups_stay_in_them_and_a_pair_keeps_its_partner():
    batch = batch_of([-1] * 4 + [5, 4] + [-1] * 2, [(i,) for i in range(8)])
    logits = torch.zeros(8, 8)
    logits[0, 7] = logits[7, 0] = 30.0  # the hardest lies in the other group
    same = torch.eye(8, dtype=torch.bool)
    free, grouped = (negatives(logits, logits.T, same, batch.partner, (0,), within) for within in (0, 4))
    assert free[0][0] == free[1][0] == 7
    own = torch.arange(8) // 4
    for drawn in grouped[:2]:
        assert torch.equal(drawn // 4, own)
        assert (drawn != torch.arange(8)).all()
    assert grouped[0][4:6].tolist() == [5, 4]
    whole = negatives(logits, logits.T, same, batch.partner, (0,), within=8)
    assert all(torch.equal(a, b) for a, b in zip(free, whole, strict=True))
    twins = torch.arange(8) // 2 == torch.arange(8)[:, None] // 2
    alone = negatives(logits, logits.T, same | twins, batch.partner, (0,), within=2)
    assert alone[2].tolist() == [False] * 4 + [True] * 2 + [False] * 2, "a group of one picture has no wrong text"


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
        (LossWeights(itm=1.0, itm_pair=1.0), {"itm", "itm_pair"}, 3),
        (LossWeights(itm_pair=1.0), {"itm_pair"}, 3),
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
    record = lambda text=None, mask=None, image=None, grid=None, *more, **named: (
        rows.append(len(text if text is not None else image)) or real(text, mask, image, grid, *more, **named)
    )
    monkeypatch.setattr(model, "encode", record)
    compute_losses(model, batch, processor.normalize(batch.pixels), config.losses, (0, 0), fusion_share=0.3)
    assert rows == [8, 8, 4 * 2]  # 2 of 8 samples: positives, two kinds of negatives, masked words


def test_texts_in_groups_of_one_length_give_the_losses_of_all_padded_to_the_longest(tiny_run, monkeypatch):
    """Padding is never seen, so what groups save must change nothing but rounding."""
    weights = LossWeights(text_mlm=1.0, itc=1.0, itc_pair=1.0, itm=1.0, itm_pair=1.0, mlm=1.0)
    config = tiny_run()
    config = replace(config, model=replace(config.model, pool="max"))
    model, processor, _ = build(config, Table.open(config.data))
    whole = Batches(Table.open(config.data), processor, config.dataset, batch_size=8, patch_size=8, seed=0)[0]
    length = whole.input_ids.shape[1]
    wide = lambda ids, fill: torch.cat((ids, torch.full((8, 40 - length), fill)), dim=1)
    ids, mask = wide(whole.input_ids, 0), wide(whole.attention_mask, 0)
    long = torch.arange(8) % 3 == 0  # two lengths, 40 tokens and fewer than 16
    ids[long, length - 1 :], mask[long] = 7, 1
    batch = replace(whole, input_ids=ids, attention_mask=mask, masked_ids=torch.where(mask == 1, ids, 0),
                    mlm_labels=torch.where((torch.arange(40) == 2) | (torch.arange(40) == 30) & (mask == 1), ids, -100),
                    partner=torch.tensor([1, 0, 3, 2, -1, -1, -1, -1]))  # fmt: skip
    model = type(model)(replace(model.config, max_text_len=40)).double().eval()
    pixels = processor.normalize(batch.pixels).double()
    assert len(by_length(mask)) == 2
    grouped = compute_losses(model, batch, pixels, weights, (0, 0))
    monkeypatch.setattr("omma.training.losses.by_length", lambda mask: [(torch.arange(len(mask)), mask.shape[1])])
    padded = compute_losses(model, batch, pixels, weights, (0, 0))
    assert grouped.keys() == padded.keys() == {"text_mlm", "itc", "itc_pair", "itm", "itm_pair", "mlm"}
    for name in grouped:
        assert grouped[name].item() == pytest.approx(padded[name].item(), rel=1e-5), name


def test_a_caption_that_is_left_out_teaches_nothing_but_that_it_is_false_of_others(tiny_run, monkeypatch):
    weights = LossWeights(itc=1.0, itc_pair=1.0, itm=1.0, itm_pair=1.0, mlm=1.0)
    model, processor, _ = build(tiny_run(), Table.open(tiny_run().data))
    batch = Batches(Table.open(tiny_run().data), processor, DataConfig(), batch_size=8, patch_size=8, seed=0)[0]
    batch = replace(batch, partner=torch.tensor([1, 0, 3, 2, 5, 4, -1, -1]))
    pixels = processor.normalize(batch.pixels)
    kept = torch.tensor([True, False, True, True, True, True, True, True])
    seen = {}
    for name in ("itm_loss", "pair_loss", "match_pair_loss", "mlm_loss"):
        real = getattr(objectives, name)
        record = lambda *args, _name=name, _real=real: seen.setdefault(_name, args) and _real(*args)
        monkeypatch.setattr(objectives, name, record)
    monkeypatch.setattr(objectives, "fits_best", lambda logits, same, share: kept)
    losses = compute_losses(model, batch, pixels, weights, (0, 0), trim=0.125)
    assert seen["itm_loss"][1][:8].tolist() == [1, -100, 1, 1, 1, 1, 1, 1]
    assert seen["itm_loss"][1][8:16].tolist() == [0] * 8  # the partner's caption is false of it, be it right or wrong
    assert seen["pair_loss"][3].tolist() == seen["match_pair_loss"][2].tolist() == [1, -1, 3, 2, 5, 4, -1, -1]
    assert len(seen["mlm_loss"][1]) == int((batch.mlm_labels[kept] != -100).sum())
    assert all(torch.isfinite(loss) for loss in losses.values())


def test_groups_of_one_length_hold_each_row_once():
    mask = (torch.arange(40) < torch.tensor([[3], [16], [17], [40], [9], [33]])).long()
    groups = [(rows.tolist(), length) for rows, length in by_length(mask)]
    assert groups == [([0, 1, 4], 16), ([2], 32), ([3, 5], 40)]


def test_each_picture_meets_its_caption_and_the_caption_with_its_relation_turned(tiny_run):
    """Against matching done one by one; and only pictures within the fusion share take part."""
    config = tiny_run(losses=LossWeights(itm_relation=1.0))
    table = Table.open(config.data)
    model, processor, _ = build(config, table)
    model = model.double().eval()
    batch = training_set(config, table, model, processor)[0]
    pixels = processor.normalize(batch.pixels).double()
    told = [[processor.tokenizer.decode(row.tolist()) for row in side] for side in batch.relation_ids]
    assert batch.relation_rows.tolist() == list(range(8))
    for own, turned in zip(*told, strict=True):
        assert {own.split()[-1], turned.split()[-1]} == {"left", "right"}
        assert own.split()[:-1] == turned.split()[:-1] == ["a", own.split()[1], "square", "on", "the"]
    found = compute_losses(model, batch, pixels, config.losses, (0, 0), fusion_share=0.5)
    by_hand = []
    for row in fused_rows(8, 0.5).tolist():
        own, turned = (
            model.match(batch.relation_ids[side, row][None], batch.relation_mask[side, row][None], pixels[row][None])[0]
            for side in (0, 1)
        )
        by_hand.append(torch.nn.functional.softplus((turned[1] - turned[0]) - (own[1] - own[0])))
    assert found.keys() == {"itm_relation"}
    assert found["itm_relation"].item() == pytest.approx(torch.stack(by_hand).mean().item(), rel=1e-5)
    plain = replace(config, losses=LossWeights(itm=1.0))
    assert len(training_set(plain, table, model, processor)[0].relation_rows) == 0
    nothing = compute_losses(model, training_set(plain, table, model, processor)[0], pixels, config.losses, (0, 0))
    assert nothing["itm_relation"].item() == 0


def test_balance_is_what_the_routers_did_in_the_passes_of_the_other_objectives(tiny_run):
    config = tiny_run()
    config = replace(config, model=replace(config.model, router="top1"), losses=LossWeights(itc=1.0, balance=0.1))
    table = Table.open(config.data)
    model, processor, _ = build(config, table)
    batch = training_set(config, table, model, processor)[0]
    for block in model.blocks:
        block.router.score.weight.data.zero_()
    losses = compute_losses(model, batch, processor.normalize(batch.pixels), config.losses, (0, 0))
    assert losses.keys() == {"itc", "balance"}
    assert losses["balance"].item() == pytest.approx(1), "a router that can't decide"
    losses["balance"].backward()
    assert model.blocks[0].router.prior.grad.abs().sum() > 0
    for changed in ({"model": replace(config.model, router="modality")}, {"losses": LossWeights(balance=0.1)}):
        with pytest.raises(ValueError, match=r"losses.balance is for a learned router"):
            check(replace(config, **changed), resume=False)


def test_the_caption_loss_is_the_mean_over_every_next_word_and_the_end(tiny_run):
    config = tiny_run(losses=LossWeights(caption=1.0))
    table = Table.open(config.data)
    model, processor, _ = build(config, table)
    model.eval()
    batch = Batches(table, processor, config.dataset, batch_size=4, patch_size=8, seed=0)[0]
    pixels, losses = processor.normalize(batch.pixels), []
    with torch.no_grad():
        found = compute_losses(model, batch, pixels, config.losses, (0, 0))
        for ids, mask, picture in zip(batch.input_ids, batch.attention_mask, pixels, strict=True):
            text = ids[: int(mask.sum())]
            for n in range(1, len(text)):  # all that stands before word n, by itself
                image = model.embed_image(picture[None])
                output = model.encode(model.embed_text(text[None, :n]), None, image, (3, 3), seq2seq=True)
                scores = model.mlm_head(output.last_hidden_state[0, n - 1]).log_softmax(dim=-1)
                losses.append(-scores[text[n]])
            assert int(text[-1]) == processor.tokenizer.token_to_id("[SEP]")
    assert list(found) == ["caption"]
    assert found["caption"] == pytest.approx(float(torch.stack(losses).mean()), rel=1e-5)
