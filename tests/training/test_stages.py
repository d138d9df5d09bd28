"""The stages: what each one trains, what it starts from, what its heads see."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models

from omma.models.preprocess import Processor, train_wordpiece
from omma.models.weights import read_tensors
from omma.table import Table
from omma.training.batches import Batches, continuation_ids, mask_words
from omma.training.loop import train
from omma.training.losses import LossWeights, compute_losses
from omma.training.objectives import IGNORE
from omma.training.setup import build

TEXT = LossWeights(text_mlm=1.0)

# text_embeddings, token_type_embeddings, norm2_text, mlp_text, mlm_score, relative_position_bias_table and
# transformer.norm of the published code, by their names here, in a model of two layers.
STAGE_2 = {
    *("word_embed.weight", "text_segment", "text_norm.weight", "text_norm.bias", "type_embed.weight"),
    *(f"blocks.{i}.experts.text.{part}.{kind}"
      for i in (0, 1) for part in ("norm", "fc1", "fc2") for kind in ("weight", "bias")),
    *("mlm_head.dense.weight", "mlm_head.dense.bias", "mlm_head.norm.weight", "mlm_head.norm.bias"),
    *("mlm_head.decoder.weight", "mlm_head.decoder.bias", "norm.weight", "norm.bias", "relative_bias.table"),
}  # fmt: skip


@pytest.mark.parametrize("layer_scale", [0.1, None])
def test_stage_2_moves_the_published_weights_and_no_other(tiny_run, layer_scale):
    config = tiny_run(losses=TEXT, freeze=("vision",), steps=2, warmup=0, peak_lr=0.01, ema=None)
    config = replace(config, model=replace(config.model, positions="relative", relative_text_len=10, num_vl_layers=0,
                                           layer_scale=layer_scale))  # fmt: skip
    before = build(config, Table.open(config.data))[0].state_dict()
    after = read_tensors(train(config, progress=False).path / "model.safetensors")
    assert after.keys() == before.keys()
    assert {name for name in after if not torch.equal(after[name], before[name])} == STAGE_2


@pytest.mark.parametrize("source", ["image", "text"])
def test_vision_language_experts_can_start_as_copies(tiny_run, source):
    one = tiny_run("one", losses=TEXT, steps=1, warmup=0, ema=None)
    one = replace(one, model=replace(one.model, num_vl_layers=0))
    train(one, progress=False)
    two = tiny_run("two", init=one.out, vl_init=source)
    weights = build(two, Table.open(two.data))[0].state_dict()
    copies = {name for name in weights if ".experts.vl." in name}
    assert len(copies) == 6, "one layer has such an expert"
    for name in copies:
        assert torch.equal(weights[name], weights[name.replace(".vl.", f".{source}.")]), name
    plain = build(replace(two, vl_init="random"), Table.open(two.data))[0].state_dict()
    assert {name for name in weights if not torch.equal(weights[name], plain[name])} <= copies
    assert not torch.equal(plain["blocks.1.experts.vl.fc1.weight"], weights["blocks.1.experts.vl.fc1.weight"])
    again = train(replace(two, steps=1, ema=None, warmup=0), progress=False)
    with pytest.raises(ValueError, match=rf"vl_init={source}: .*two has vision-language experts \(blocks.1"):
        build(replace(two, init=str(again.run)), Table.open(two.data))
    with pytest.raises(ValueError, match=r"this model has no vision-language experts \(model.num_vl_layers=0\)"):
        build(replace(two, model=one.model), Table.open(two.data))
    with pytest.raises(ValueError, match=f"vl_init={source} copies experts of a trained model: give init=RUN"):
        train(tiny_run("three", vl_init=source), progress=False)


def test_the_vocabulary_head_sees_masked_words_only(tiny_run, monkeypatch):
    config = tiny_run()
    model, processor, _ = build(config, Table.open(config.data))
    batch = Batches(Table.open(config.data), processor, config.dataset, batch_size=8, patch_size=8, seed=0)[0]
    rows, head = [], model.mlm_head.forward
    monkeypatch.setattr(model.mlm_head, "forward", lambda x: rows.append(x.shape[:-1].numel()) or head(x))
    weights = LossWeights(text_mlm=1.0, itm=1.0, mlm=1.0)
    compute_losses(model, batch, processor.normalize(batch.pixels), weights, (0, 0))
    hidden = int((batch.mlm_labels != IGNORE).sum())
    assert rows == [hidden, hidden]
    assert 8 <= hidden < batch.attention_mask.sum() / 2


def test_fifteen_percent_of_the_words_are_hidden_wherever_they_stand_and_padding_never():
    """Rates of BERT (Devlin et al. 2019) on texts of 6 to 60 words, padded to the longest."""
    rng = np.random.default_rng(0)
    words = [*"abcdefghijklmnop", "unbelievable", "unable"]
    processor = Processor(train_wordpiece([*words[:-2], "un", "believable"], 60), image_size=16, max_text_len=200)
    texts = [" ".join(rng.choice(words, int(rng.integers(6, 60)))) for _ in range(1500)]
    ids, mask = (t.numpy() for t in processor.texts(texts))
    continues = continuation_ids(processor)
    _, labels = mask_words(ids, [rng] * len(ids), 0.15, continues, processor)
    hidden = labels != IGNORE
    special = np.isin(ids, [processor.tokenizer.token_to_id(t) for t in ("[CLS]", "[SEP]", "[PAD]")])
    assert (mask == 0).sum() > 30000
    assert not hidden[(mask == 0) | special].any()
    real = (~special).sum(axis=1)
    budget = np.maximum(1, np.round(0.15 * real))
    longest = max(len(row) for row in processor.text_ids(words)) - 2
    assert (hidden.sum(axis=1) <= np.maximum(budget, longest)).all()
    assert hidden.sum() / real.sum() == pytest.approx(0.15, abs=0.005)
    places = np.cumsum(~special, axis=1) / real[:, None]  # 0..1 through the text
    thirds = [hidden[~special & (places > a) & (places <= a + 1 / 3)].mean() for a in (0, 1 / 3, 2 / 3)]
    assert max(thirds) - min(thirds) < 0.015
    whole = ~continues[ids] & ~special
    assert continues[ids].mean() > 0.02
    starts = np.maximum.accumulate(np.where(whole | special, np.arange(ids.shape[1]), 0), axis=1)
    first = np.take_along_axis(hidden, starts, axis=1)
    np.testing.assert_array_equal(hidden[~special], first[~special])  # a piece is hidden with its word's first piece




def test_words_of_a_sentencepiece_vocabulary_are_hidden_whole():
    """BEiT-3's tokenizer marks where a word starts, BERT's where it goes on."""
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "\u2581walk", "ing", "\u2581dog", "s"]
    tokenizer = Tokenizer(models.Unigram([(piece, -1.0) for piece in pieces], unk_id=3))
    processor = Processor(tokenizer, image_size=16, max_text_len=12)
    ids = np.array([[0, 5, 6, 7, 8, 2, 1, 1]] * 200)
    _, labels = mask_words(ids, [np.random.default_rng(0)] * len(ids), 0.5, continuation_ids(processor), processor)
    hidden = labels != IGNORE
    assert {tuple(row) for row in hidden[:, 1:5].tolist()} == {(True, True, False, False), (False, False, True, True)}
    assert not hidden[:, [0, 5, 6, 7]].any()
