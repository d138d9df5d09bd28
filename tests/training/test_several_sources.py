"""Pictures alone, texts alone and pairs in one step: whose rows each objective sees, and what a step holds."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from conftest import Stopped, stop_after
from omma.models.preprocess import Processor, train_wordpiece
from omma.models.pretrained import load_encoder
from omma.table import Table
from omma.training.batches import Batches, DataConfig
from omma.training.loop import train
from omma.training.losses import LossWeights, compute_losses
from omma.training.objectives import IGNORE
from omma.training.setup import build, training_set
from omma.training.sources import Lines, MixedBatch, TextBatches, read_texts

SENTENCES = [f"sentence number {i} of a {word} book" for i, word in enumerate(("long", "short", "blue", "odd") * 6)]


@pytest.fixture
def book(tmp_path):
    path = tmp_path / "book.txt"
    path.write_bytes(b"\n\n" + "\r\n".join(SENTENCES[:3]).encode() + b"\n\r\n" + "\n".join(SENTENCES[3:]).encode())
    return path


@pytest.fixture
def bare_table(tmp_path, coloured_table):
    """The coloured pictures under other ids, without their captions."""
    rows = Table.open(coloured_table).read(["id", "bytes", "status"]).to_pylist()
    table = Table.create(tmp_path / "bare", "pictures")
    table.append([row | {"id": "bare-" + row["id"]} for row in rows])
    return tmp_path / "bare"


@pytest.fixture
def mixed(tiny_run, bare_table, book):
    """A run with mim on pictures alone, text_mlm on texts alone, and contrast and fusion on pairs."""
    dataset = DataConfig(images=str(bare_table), image_share=0.5, texts=str(book), text_share=1.5)
    weights = LossWeights(mim=1.0, text_mlm=1.0, itc=1.0, mlm=0.25)
    return lambda out="run", **changes: tiny_run(out, **{"dataset": dataset, "losses": weights} | changes)


def parts_of(config, step: int = 0):
    table = Table.open(config.data)
    model, processor, _ = build(config, table)
    return model.eval(), processor, training_set(config, table, model, processor)[step]


# ---------------------------------------------------------------------------------------------------------- texts
def test_lines_of_a_file_are_read_by_number_whatever_their_ends(book, tmp_path):
    for block in (7, 64, 1 << 20):  # lines that straddle the blocks of the first pass, too
        lines = Lines(book, block=block)
        assert len(lines) == len(SENTENCES)
        assert [lines[i] for i in range(len(lines))] == SENTENCES
    with pytest.raises(IndexError):
        lines[len(SENTENCES)]
    (tmp_path / "empty.txt").write_text("\n\n")
    with pytest.raises(ValueError, match=r"empty\.txt has no text in it"):
        read_texts(str(tmp_path / "empty.txt"), DataConfig())
    with pytest.raises(ValueError, match=r"no texts at .*gone.txt; dataset.texts is a text file"):
        read_texts(str(tmp_path / "gone.txt"), DataConfig())


def test_captions_of_a_table_are_texts_too(coloured_table):
    texts = read_texts(str(coloured_table), DataConfig(texts_where="id == 'p000'"))
    assert list(texts) == ["a red square on the left", "red left"]


def test_a_batch_of_texts_is_a_function_of_seed_and_step_and_an_epoch_shows_each_once(book):
    processor = Processor(train_wordpiece(SENTENCES, 80), image_size=16, max_text_len=196)
    make = lambda seed=0, part=(0, 1): TextBatches(Lines(book), processor, DataConfig(), batch_size=6, seed=seed,
                                                   part=part)  # fmt: skip
    batches = make()
    assert batches.steps_per_epoch == 4
    shown = [batches[step].ids for step in range(8)]
    for epoch in (shown[:4], shown[4:]):
        assert sorted(int(name.split()[1]) for ids in epoch for name in ids) == list(range(24))
    assert shown[:4] != shown[4:]
    late = make()[6]
    for name in ("input_ids", "masked_ids", "mlm_labels"):
        assert torch.equal(getattr(late, name), getattr(batches[6], name))
    assert make(seed=1)[6].ids != late.ids
    halves = [make(part=(k, 2))[6] for k in (0, 1)]
    assert halves[0].ids + halves[1].ids == late.ids
    assert all((half.mlm_labels != IGNORE).any(dim=1).all() for half in halves)
    number = int(late.ids[0].split()[1])
    assert processor.tokenizer.decode(late.texts[0]) == SENTENCES[number]


def test_long_texts_keep_196_tokens(tmp_path):
    (tmp_path / "long.txt").write_text("word " * 400 + "\n" + "word word\n")
    processor = Processor(train_wordpiece(["word"], 40), image_size=16, max_text_len=196)
    batch = TextBatches(Lines(tmp_path / "long.txt"), processor, DataConfig(), batch_size=2, seed=0)[0]
    assert batch.input_ids.shape == (2, 196)
    assert sorted(batch.attention_mask.sum(dim=1).tolist()) == [4, 196]


# ---------------------------------------------------------------------------------------------------------- together
def test_a_step_holds_each_source_in_its_share_and_each_objective_sees_its_own(mixed, monkeypatch):
    model, processor, batch = parts_of(mixed())
    assert isinstance(batch, MixedBatch)
    sizes = {tuple(sorted(names)): (len(part.pixels), len(part.input_ids)) for names, part in batch.parts}
    assert sizes == {("itc", "mlm"): (8, 8), ("mim",): (4, 4), ("text_mlm",): (0, 12)}
    kinds = [{name.split("-")[0].split()[0] for name in part.ids} for _, part in batch.parts]
    assert kinds[1:] == [{"bare"}, {"text"}]
    weights, key = mixed().losses, (0, 0)
    together = compute_losses(model, batch, processor.normalize(batch.pixels), weights, key)
    for names, part in batch.parts:
        alone = compute_losses(model, part, processor.normalize(part.pixels), weights.only(names), key)
        assert alone.keys() == names
        for name, loss in alone.items():
            assert torch.equal(together[name], loss), name
    assert together.keys() == {"mim", "text_mlm", "itc", "mlm"}
    rows, real = [], model.encode
    record = lambda text=None, mask=None, image=None, *more, **rest: (
        rows.append((0 if text is None else len(text), 0 if image is None else len(image)))
        or real(text, mask, image, *more, **rest)
    )
    monkeypatch.setattr(model, "encode", record)
    compute_losses(model, batch, processor.normalize(batch.pixels), weights, key)
    assert sorted(rows) == sorted([(0, 4), (12, 0), (0, 8), (8, 0), (8, 8)])


def test_pairs_are_those_of_a_run_without_other_sources(mixed, tiny_run):
    _, _, batch = parts_of(mixed(), step=3)
    table = Table.open(mixed().data)
    processor = build(mixed(), table)[1]
    plain = Batches(table, processor, DataConfig(), batch_size=8, patch_size=8, seed=0)[3]
    pairs = batch.parts[0][1]
    assert pairs.ids == plain.ids
    assert torch.equal(pairs.pixels, plain.pixels)
    assert torch.equal(pairs.masked_ids, plain.masked_ids)


def test_a_mixed_run_resumes_bit_for_bit(mixed):
    whole = train(mixed("whole", steps=5, save_every=3), progress=False)
    assert {"loss_mim", "loss_text_mlm", "loss_itc", "loss_mlm"} <= whole.metrics()[0].keys()

    with pytest.raises(Stopped):
        train(mixed("cut", steps=5, save_every=3, workers=2), progress=False, on_step=stop_after(4))
    resumed = train(mixed("cut", steps=5, save_every=3), progress=False, resume=True)
    assert (resumed.path / "model.safetensors").read_bytes() == (whole.path / "model.safetensors").read_bytes()


def test_stage_1_needs_no_captions_and_stage_2_no_pictures(tiny_run, bare_table, book):
    alone = {"data": "", "steps": 2, "warmup": 0, "ema": None}
    first = tiny_run("mim", **alone, losses=LossWeights(mim=1.0), dataset=DataConfig(images=str(bare_table)))
    seen = train(first, progress=False)
    assert load_encoder(seen.run, device="cpu").processor.vocab_size == 5, "no words but [PAD] and its like"
    as_data = replace(first, data=str(bare_table), dataset=DataConfig(), out=first.out + "-2")
    assert train(as_data, progress=False).step == 2
    second = tiny_run("mlm", **alone, init=first.out, losses=LossWeights(text_mlm=1.0), freeze=("vision",),
                      dataset=DataConfig(texts=str(book)))  # fmt: skip
    read = load_encoder(train(second, progress=False).run, device="cpu")
    before = load_encoder(seen.run, device="cpu").model.state_dict()
    assert torch.equal(read.model.patch_embed.weight, before["patch_embed.weight"])
    ids = read.processor.text_ids(["number of a book"])[0]
    assert read.processor.tokenizer.token_to_id("[UNK]") not in ids, "its words come from the book"
    assert read.model.config.vocab_size == read.processor.vocab_size > 20
    with pytest.raises(ValueError, match="no data for itc: give the folder"):
        train(replace(second, losses=LossWeights(text_mlm=1.0, itc=1.0), out=second.out + "-2"), progress=False)


def test_pictures_without_captions_stay_out_of_objectives_with_text(bare_table, coloured_table):
    processor = Processor(train_wordpiece(["red"], 40), image_size=16, max_text_len=12)
    make = lambda **more: Batches(Table.open(bare_table), processor, DataConfig(), batch_size=8, patch_size=8, seed=0,
                                  **more)  # fmt: skip
    assert len(make(with_text=False)) == 24
    with pytest.raises(ValueError, match=r"0 usable pictures with captions \(24 no caption\)"):
        make()
    captioned = Batches(Table.open(coloured_table), processor, DataConfig(), batch_size=8, patch_size=8, seed=0)
    same = Batches(Table.open(coloured_table), processor, DataConfig(), batch_size=8, patch_size=8, seed=0,
                   with_text=False)  # fmt: skip
    np.testing.assert_array_equal(captioned[0].pixels, same[0].pixels)
