"""Batches are a function of (seed, step); masks have their rates; nothing usable is lost."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from omma.models.preprocess import CLS, MASK, PAD, SEP, UNK, Processor, train_wordpiece, wordpiece
from omma.table import Table
from omma.training.augment import crop_box
from omma.training.batches import Batches, DataConfig, Prefetch, continuation_ids, mask_blocks, mask_words
from omma.training.objectives import IGNORE

WORDS = ["red", "green", "blue", "yellow", "cup", "fish", "bird", "ball", "left", "right", "of", "a", "the", "is",
         "facing", "unbelievable"]  # fmt: skip


def png(seed: int, size: int = 24) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (size, size, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def make_table(folder, n: int = 20, pairs: int = 4) -> Table:
    import pyarrow as pa

    table = Table.create(folder, "pictures", extra=pa.schema([("group", pa.string())]))
    rng = np.random.default_rng(0)
    rows = []
    for i in range(n):
        captions = [{"text": " ".join(rng.choice(WORDS, 5)), "language": "en"} for _ in range(3)]
        group = f"g{i // 2}" if i < 2 * pairs else None
        rows.append({"id": f"p{i:03d}", "bytes": png(i), "captions": captions, "status": "ok", "group": group})
    rows.append({"id": "broken", "bytes": b"", "captions": [], "status": "empty"})
    rows.append({"id": "silent", "bytes": png(99), "captions": [], "status": "ok"})
    table.append(rows)
    return table


@pytest.fixture
def processor() -> Processor:
    return Processor(train_wordpiece([*WORDS, "believable"], 40), image_size=16, max_text_len=12)


@pytest.fixture
def batches(tmp_path, processor) -> Batches:
    return Batches(make_table(tmp_path / "t"), processor, DataConfig(), batch_size=8, patch_size=4, seed=3)


def same(a, b) -> bool:
    tensors = ("pixels", "input_ids", "attention_mask", "masked_ids", "mlm_labels", "patch_mask")
    return a.ids == b.ids and all(torch.equal(getattr(a, t), getattr(b, t)) for t in tensors)


def test_a_batch_is_a_function_of_seed_and_step(tmp_path, processor, batches):
    fresh = Batches(Table.open(tmp_path / "t"), processor, DataConfig(), batch_size=8, patch_size=4, seed=3)
    late = fresh[7]  # without the batches before it
    for step in range(8):
        last = batches[step]
    assert same(last, late)
    other = Batches(Table.open(tmp_path / "t"), processor, DataConfig(), batch_size=8, patch_size=4, seed=4)
    assert not same(other[7], late)


def test_the_shortest_statement_is_preferred_in_minimal_pairs_only(tmp_path, processor):
    table = make_table(tmp_path / "t")
    preferred = DataConfig(first_caption=1.0)
    batches = Batches(table, processor, preferred, batch_size=8, patch_size=4, seed=0)
    said: dict[bool, set[int]] = {True: set(), False: set()}
    for step in range(20):
        batch = batches[step]
        for name, text, partner in zip(batch.ids, batch.texts, batch.partner.tolist(), strict=True):
            said[partner >= 0].add(batches.captions[batches.ids.index(name)].index(list(text)))
    assert said == {True: {0}, False: {0, 1, 2}}


def test_half_of_the_pictures_are_mirrored_where_that_is_wanted_and_none_elsewhere():
    image = Image.new("RGB", (8, 8))
    drawn = lambda config: np.mean([crop_box(image, config, np.random.default_rng(i))[1] for i in range(1000)])
    assert drawn(DataConfig(flip=True)) == pytest.approx(0.5, abs=0.06)
    assert drawn(DataConfig()) == 0


def test_workers_change_nothing(batches):
    runs = [list(Prefetch(batches, 2, 9, workers=w)) for w in (0, 1, 3)]
    assert [b.step for b in runs[0]] == list(range(2, 9))
    for run in runs[1:]:
        assert len(run) == 7
        assert all(same(a, b) for a, b in zip(runs[0], run, strict=True))


def test_an_epoch_shows_no_picture_twice_and_another_one_shows_those_left_out(batches):
    assert batches.steps_per_epoch == 2  # 20 usable pictures, 8 a step
    epochs = [batches.order(epoch).reshape(-1).tolist() for epoch in range(12)]
    assert all(len(shown) == len(set(shown)) == 16 for shown in epochs)
    assert {i for shown in epochs for i in shown} == set(range(20))


def test_minimal_pairs_travel_together_with_aligned_captions_and_the_same_crop(batches):
    found = 0
    for step in range(6):
        batch = batches[step]
        for a, b in zip(batch.ids[::2], batch.ids[1::2], strict=True):
            if int(a[1:]) < 8:
                assert {int(a[1:]) // 2} == {int(b[1:]) // 2}
                rows = [batches.captions[batches.ids.index(i)] for i in (a, b)]
                k = 2 * [batch.ids.index(a)][0] // 2
                assert rows[0].index(list(batch.texts[k])) == rows[1].index(list(batch.texts[k + 1]))
                found += 1
    assert found >= 8


def test_a_batch_by_kind_holds_one_kind_and_an_epoch_both(tmp_path, processor):
    table = make_table(tmp_path / "t", n=40, pairs=6)
    table.add_column("kind", ["ab"[i % 4 < 2] for i in range(len(table))])  # partners share theirs
    made = Batches(table, processor, DataConfig(batch_by="kind"), batch_size=8, patch_size=4, seed=0)
    side = dict(zip(table.read(["id"])["id"].to_pylist(), table.read(["kind"])["kind"].to_pylist(), strict=True))
    for epoch in (0, 1):
        shown = [made[epoch * made.steps_per_epoch + k].ids for k in range(made.steps_per_epoch)]
        assert all(len({side[i] for i in ids}) == 1 for ids in shown)
        assert sorted({side[ids[0]] for ids in shown}) == ["a", "b"]
        assert len({i for ids in shown for i in ids}) == 8 * made.steps_per_epoch == 32  # 20 of each, 2 batches
    assert made.order(0).tolist() != made.order(1).tolist()
    pair = made.pairs[0][0]
    assert made.grouped >= set(pair.tolist())


def test_what_cannot_be_trained_on_is_counted(batches):
    assert batches.skipped == {"empty": 1, "no caption": 1}
    assert len(batches) == 20


def test_too_little_data_says_what_there_is(tmp_path, processor):
    table = make_table(tmp_path / "t", n=4, pairs=0)
    with pytest.raises(ValueError, match=r"4 usable pictures with captions \(1 empty, 1 no caption\); a batch takes 8"):
        Batches(table, processor, DataConfig(), batch_size=8, patch_size=4, seed=0)
    with pytest.raises(ValueError, match="batch_size 7: it must be even"):
        Batches(table, processor, DataConfig(), batch_size=7, patch_size=4, seed=0)


def test_languages_choose_captions(tmp_path, processor):
    table = Table.create(tmp_path / "t", "pictures")
    captions = [{"text": "red cup", "language": "en"}, {"text": "blue fish", "language": "ko"}]
    table.append([{"id": str(i), "bytes": png(i), "captions": captions, "status": "ok"} for i in range(4)])
    batches = Batches(table, processor, DataConfig(languages=("ko",)), batch_size=4, patch_size=4, seed=0)
    assert {processor.tokenizer.decode(t) for t in batches[0].texts} == {"blue fish"}


def test_without_augmentation_pixels_are_the_processors(tmp_path, processor):
    table = make_table(tmp_path / "t")
    plain = Batches(table, processor, DataConfig(crop_scale=1.0, jitter=0.0), batch_size=8, patch_size=4, seed=0)
    batch = plain[0]
    image = Image.open(io.BytesIO(png(int(batch.ids[0][1:]))))
    np.testing.assert_array_equal(batch.pixels[0].numpy(), processor.pixels(image))


def test_words_are_hidden_whole_at_their_rates_and_never_padding(processor):
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, 8)) for _ in range(3000)]
    rows = processor.text_ids(texts)
    ids = np.zeros((len(rows), 12), dtype=np.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
    continues = continuation_ids(processor)
    masked, labels = mask_words(ids, [rng] * len(ids), 0.15, continues, processor)
    hidden = labels != IGNORE
    assert hidden.any(axis=1).all()  # every row carries loss
    assert not hidden[ids == 0].any()
    assert not hidden[(ids == 2) | (ids == 3)].any()
    np.testing.assert_array_equal(labels[hidden], ids[hidden])
    np.testing.assert_array_equal(masked[~hidden], ids[~hidden])
    shares = [(masked[hidden] == processor.mask_id).mean(), (masked[hidden] == ids[hidden]).mean()]
    assert shares[0] == pytest.approx(0.8, abs=0.02)
    assert shares[1] == pytest.approx(0.1, abs=0.02)
    starts = ~continues[ids]
    word = np.cumsum(starts, axis=1)
    for row in range(200):
        for w in set(word[row][hidden[row]]):
            assert hidden[row][word[row] == w].all()


def test_hidden_words_know_the_special_tokens_of_berts_vocabulary():
    """BERT's ids are not in our order: [CLS] and [SEP] lie above unused ones, and words begin above them."""
    vocab = [PAD, *(f"[unused{i}]" for i in range(9)), UNK, CLS, SEP, MASK, "[unused99]", *WORDS]
    processor = Processor(wordpiece(vocab, lowercase=True), image_size=24, max_text_len=12)
    rng = np.random.default_rng(0)
    ids = np.array(processor.text_ids([" ".join(rng.choice(WORDS, 6)) for _ in range(2000)]))
    assert set(ids[:, 0]) == {11}
    masked, labels = mask_words(ids, [rng] * len(ids), 0.3, continuation_ids(processor), processor)
    hidden = labels != IGNORE
    assert not hidden[:, [0, -1]].any()  # [CLS] and [SEP]
    written = masked[hidden & (masked != ids)]
    assert (written == 13).mean() > 0.8
    assert not np.isin(written, [0, 10, 11, 12]).any()


def test_hidden_blocks_have_exactly_their_share():
    rng = np.random.default_rng(0)
    masks = np.stack([mask_blocks(8, 0.4, rng) for _ in range(300)])
    assert (masks.sum(axis=(1, 2)) == 26).all()
    frequency = masks.mean(axis=0)
    assert frequency.min() > 0.08  # every patch has its turn, corners least (as in BEiT: fewer blocks fit over them)
    neighbours = (masks[:, 1:] & masks[:, :-1]).mean() / masks.mean() ** 2
    assert neighbours > 1.3  # blocks, not salt and pepper
