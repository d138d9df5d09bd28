"""Items as batches, the losses on them, and the heads they train."""

import io
import math
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

import omma
from omma.models.positions import resample_grid
from omma.models.preprocess import Processor, train_wordpiece
from omma.models.vlmo import VLMo, VLMoConfig
from omma.table import Table
from omma.training.batches import DataConfig
from omma.training.config import TrainConfig
from omma.training.finetune import ITEM_OBJECTIVES, answer_loss, label_loss, labels_for
from omma.training.items import ItemBatches, labels_in, mixed
from omma.training.loop import train
from omma.training.losses import LossWeights
from omma.training.recipes import RECIPES
from omma.training.task_recipes import TASK_RECIPES

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 40, 220)}


def png(colour: tuple[int, int, int], size: tuple[int, int] = (16, 16)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, "PNG")
    return out.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """pictures of one colour each, with the column kind; items: questions about one, sentences about two."""
    place = tmp_path_factory.mktemp("items")
    pictures = Table.create(place / "pictures", "pictures", extra=pa.schema([("kind", pa.string())]))
    rows = []
    for name, colour in COLOURS.items():
        for i in range(4):
            rows.append({"id": f"{name}{i}", "bytes": png(colour), "captions": [], "status": "ok", "kind": name})
    rows += [{"id": "torn", "bytes": b"", "captions": [], "status": "empty", "kind": "red"}]
    rows += [{"id": "plain", "bytes": png((9, 9, 9)), "captions": [], "status": "ok", "kind": None}]
    pictures.append(rows)
    many = pa.schema([("answers", pa.list_(pa.string()))])
    items = Table.create(place / "items", "items", extra=many)
    asked = []
    for row in rows[:12]:
        asked.append({"id": f"q-{row['id']}", "pictures": [row["id"]], "prompt": "which colour", "answer": row["kind"],
                      "task": "question"})  # fmt: skip
        other = "red0" if row["kind"] != "red" else "blue0"
        for name, truth in (("same", "false"), ("other", "true")):
            asked.append({"id": f"s-{name}-{row['id']}", "pictures": [row["id"], other], "prompt": f"{name} colours",
                          "answer": truth, "task": "sentence"})  # fmt: skip
    asked.append({"id": "q-torn", "pictures": ["torn"], "prompt": "which colour", "answer": "red", "task": "question"})
    asked.append({"id": "q-gone", "pictures": ["gone"], "prompt": "which colour", "answer": "red", "task": "question"})
    asked.append({"id": "q-odd", "pictures": ["red1"], "prompt": "which colour", "answer": "mauve", "task": "question"})
    asked.append({"id": "q-crowd", "pictures": ["red1"], "prompt": "which colour", "answer": "red", "task": "crowd",
                  "answers": ["red"] * 6 + ["blue"] * 2 + ["mauve"] * 2})  # fmt: skip
    items.append(asked)
    return place


@pytest.fixture(scope="module")
def processor() -> Processor:
    return Processor(train_wordpiece(["which colour", "same other colours"], 60), image_size=16, max_text_len=12)


QUESTIONS = DataConfig(where="task == 'question'")


def test_rows_that_cannot_be_used_are_counted_by_reason(folder, processor):
    items = Table.open(folder / "items")
    batches = ItemBatches(items, processor, QUESTIONS, tuple(COLOURS), batch_size=4, seed=0)
    assert len(batches) == 12
    assert batches.skipped == {"empty": 1, "no such picture": 1, "no answer that is a label": 1}


def test_an_item_batch_is_a_function_of_seed_and_step(folder, processor):
    items = Table.open(folder / "items")
    make = lambda seed: ItemBatches(items, processor, QUESTIONS, tuple(COLOURS), batch_size=4, seed=seed)
    one, again, other = make(1), make(1), make(2)
    late = again[5]  # without the steps before it
    batch = [one[step] for step in range(6)][5]
    assert batch.ids == late.ids
    assert torch.equal(batch.pixels, late.pixels)
    assert [other[step].ids for step in range(3)] != [one[step].ids for step in range(3)]
    seen = [name for step in range(3) for name in one[step].ids]
    assert len(set(seen)) == 12  # an epoch takes every item once
    assert batch.pixels.shape == (4, 1, 3, 16, 16)
    for name, target in zip(batch.ids, batch.targets, strict=True):
        assert tuple(COLOURS)[int(target.argmax())] in name
        assert target.sum() == 1


def test_what_several_people_answered_becomes_the_score_it_would_get(folder, processor):
    config = DataConfig(where="task == 'crowd'")
    labels = ("blue", "mauve", "red")
    batches = ItemBatches(Table.open(folder / "items"), processor, config, labels, batch_size=1, seed=0)
    np.testing.assert_allclose(batches[0].targets[0], [0.6, 0.6, 1.0], rtol=1e-6)


def test_labels_are_the_most_frequent_ones(folder):
    items = Table.open(folder / "items")
    assert labels_in(items, QUESTIONS, 9) == ("blue", "green", "mauve", "red")
    assert labels_in(items, QUESTIONS, 1) == ("red",)  # seven times, with the rows whose picture is no good
    assert labels_in(Table.open(folder / "pictures"), DataConfig(label="kind"), 9) == ("blue", "green", "red")
    with pytest.raises(ValueError, match=r"dataset\.label=COLUMN"):
        labels_in(Table.open(folder / "pictures"), DataConfig(label="sort"), 9)


def test_the_losses_of_known_logits():
    logits, targets = torch.tensor([[0.0, 2.0]]), torch.tensor([[0.3, 1.0]])
    expected = math.log(2) + math.log1p(math.exp(-2))  # a logit of 0 costs log 2 whatever the target
    assert answer_loss(logits, targets).item() == pytest.approx(expected, rel=1e-6)
    assert label_loss(logits, torch.tensor([[0.0, 0.5]])).item() == pytest.approx(math.log1p(math.exp(-2)), rel=1e-6)


def test_objectives_whose_batches_differ_are_refused():
    config = VLMoConfig(answers=("a",), classes=("b",))
    assert labels_for(config, {"answer"}) == ("a",)
    assert labels_for(config, {"pair"}) == labels_for(config, {"set"}) == ("false", "true")
    for objectives in ({"answer", "classify"}, {"answer", "itc"}):
        with pytest.raises(ValueError, match="can't share a step"):
            labels_for(config, objectives)


TINY = VLMoConfig(image_size=16, patch_size=8, hidden_size=32, num_layers=2, num_heads=2, num_vl_layers=1,
                  vocab_size=60, max_text_len=12)  # fmt: skip


@pytest.mark.parametrize(
    ("objective", "table", "dataset"),
    [
        ("answer", "items", QUESTIONS),
        ("classify", "pictures", DataConfig(label="kind")),
        ("pair", "items", DataConfig(where="task == 'sentence'")),
        ("set", "items", DataConfig(where="task == 'sentence'")),
    ],
)
def test_every_head_learns_its_task_and_comes_back_from_its_folder(folder, tmp_path, objective, table, dataset):
    config = TrainConfig(
        data=str(folder / table), out=str(tmp_path / "run"), model=TINY, losses=LossWeights(**{objective: 1.0}),
        dataset=replace(dataset, crop_scale=1.0, jitter=0.0), steps=60, warmup=5, batch_size=12, peak_lr=3e-3,
        ema=None, workers=0, precision="fp32", device="cpu",
    )  # fmt: skip
    metrics = train(config, progress=False).metrics()
    assert metrics[-1][f"loss_{objective}"] < 0.3 * metrics[0][f"loss_{objective}"]
    encoder = omma.load_encoder(tmp_path / "run", device="cpu")
    red, green = (Image.new("RGB", (16, 16), COLOURS[name]) for name in ("red", "green"))
    if objective == "answer":
        said = encoder.answer([red, green], ["which colour"] * 2)
        assert [encoder.model.config.answers[k] for k in said.argmax(axis=1)] == ["red", "green"]
    elif objective == "classify":
        said = encoder.classify([red, green])
        np.testing.assert_allclose(said.sum(axis=1), 1, rtol=1e-5)
        assert [encoder.model.config.classes[k] for k in said.argmax(axis=1)] == ["red", "green"]
    else:
        pairs, sentences = [[green, red], [green, red]], ["other colours", "same colours"]
        said = encoder.compare(pairs, sentences)
        assert said[0] > 0.5 > said[1]
        if objective == "set":
            np.testing.assert_allclose(encoder.compare([pair[::-1] for pair in pairs], sentences), said, atol=1e-6)


def test_the_order_of_a_sets_pictures_changes_nothing():
    torch.manual_seed(0)
    model = VLMo(replace(TINY, num_set_classes=2)).double().eval()
    ids, pictures = torch.randint(5, 60, (2, 6)), torch.randn(2, 3, 3, 16, 16, dtype=torch.float64)
    said = model.compare(ids, None, pictures)
    torch.testing.assert_close(model.compare(ids, None, pictures[:, [2, 0, 1]]), said, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(model.compare(ids, None, pictures.flip(0)), said)


def test_a_second_picture_type_starts_as_a_copy_of_the_first(folder, tmp_path):
    base = TrainConfig(data=str(folder / "items"), out=str(tmp_path / "a"), model=TINY, dataset=QUESTIONS, steps=1,
                       losses=LossWeights(answer=1.0), warmup=0, batch_size=4, ema=None, workers=0)  # fmt: skip
    before = torch.load(train(base, progress=False).path / "train_state.pt", weights_only=True)["model"]
    pairs = replace(base, out=str(tmp_path / "b"), init=str(tmp_path / "a"), losses=LossWeights(pair=1.0), peak_lr=0.0,
                    dataset=DataConfig(where="task == 'sentence'"))  # fmt: skip
    after = torch.load(train(pairs, progress=False).path / "train_state.pt", weights_only=True)["model"]
    assert torch.equal(after["type_embed.weight"], before["type_embed.weight"][[0, 1, 1]])


def test_panels_are_the_parts_of_the_picture(processor):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (16, 64, 3), dtype=np.uint8)
    split = replace(processor, panels=3, panel_gap=8 / 64)
    parts = split.pixels(Image.fromarray(pixels))
    assert parts.shape == (3, 3, 16, 16)
    for k in range(3):
        np.testing.assert_array_equal(parts[k], pixels[:, 24 * k : 24 * k + 16].transpose(2, 0, 1))
    with pytest.raises(ValueError, match="leave no picture"):
        replace(processor, panels=3, panel_gap=0.5)


def test_captions_are_not_learned_from_a_table_of_items(folder, tmp_path):
    config = TrainConfig(data=str(folder / "items"), out=str(tmp_path / "run"), model=TINY, init=None,
                         losses=LossWeights(itc=1.0), steps=2, warmup=0, device="cpu")  # fmt: skip
    with pytest.raises(ValueError, match="is a table of items"):
        train(config, progress=False)


def test_mixing_shows_two_pictures_in_the_shares_of_their_labels():
    pixels = np.stack([np.full((1, 3, 8, 8), value, dtype=np.uint8) for value in (0, 100, 200, 40)])
    targets = np.eye(4, dtype=np.float32)
    seen = {"blend": 0, "cut": 0}
    for step in range(40):
        out, shares = mixed(pixels, targets, 0.8, 1.0, np.random.default_rng(step))
        np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-6)
        own, other = shares[0, 0], shares[0, 3]
        if len(np.unique(out[0])) == 2 or own == 1:  # of pictures of one grey each, the share is their mean
            seen["cut"] += 1
            assert out[0].mean() == pytest.approx(40 * other, abs=1e-3)
        else:
            seen["blend"] += 1
            assert out[0].mean() == pytest.approx(40 * other, abs=0.51)
    assert min(seen.values()) > 5


def test_a_model_is_inherited_but_for_what_the_recipe_sets(folder, tmp_path):
    small = replace(TINY, hidden_size=48, num_heads=3, image_size=16)
    base = TrainConfig(data=str(folder / "items"), out=str(tmp_path / "a"), model=small, dataset=QUESTIONS, steps=1,
                       losses=LossWeights(answer=1.0), warmup=0, batch_size=4, ema=None, workers=0)  # fmt: skip
    train(base, progress=False)
    before = omma.load_encoder(tmp_path / "a", device="cpu").model
    larger = replace(base, out=str(tmp_path / "b"), init=str(tmp_path / "a"), inherit=True, peak_lr=0.0, epochs=2.0,
                     model=VLMoConfig(image_size=32))  # fmt: skip
    done = train(larger, progress=False)
    assert done.step == 6  # twice twelve questions by four
    after = omma.load_encoder(tmp_path / "b", device="cpu").model
    assert after.config == replace(before.config, image_size=32)
    expected = resample_grid(before.image_positions[1:], (2, 2), (4, 4))
    torch.testing.assert_close(after.image_positions[1:], expected)
    with pytest.raises(ValueError, match="give init=RUN"):
        train(replace(larger, init=None, out=str(tmp_path / "c")), progress=False)


@pytest.mark.parametrize("name", sorted(TASK_RECIPES))
def test_every_task_recipe_has_a_command_and_one_kind_of_item(name):
    config = RECIPES[name]()
    assert config.recipe == name
    assert config.inherit
    if config.losses.active().keys() <= set(ITEM_OBJECTIVES):
        labels_for(VLMoConfig(answers=("a",), classes=("a",)), set(config.losses.active()))
    make = RECIPES[name]
    assert "omma train vlmo-" in (getattr(make, "func", make).__doc__ or "")


def test_a_table_of_pictures_for_a_recipe_on_items_is_refused_with_both_ways_on(folder):
    with pytest.raises(ValueError, match=r"data=FOLDER/items.*dataset\.label=COLUMN"):
        labels_in(Table.open(folder / "pictures"), DataConfig(), 9)


def test_a_head_that_is_missing_names_its_recipe():
    model, ids, pixels = VLMo(TINY), torch.ones(1, 4, dtype=torch.long), torch.zeros(1, 3, 16, 16)
    asked = {
        "vqa": lambda: model.answer(ids, None, pixels),
        "nlvr2": lambda: model.classify_pair(ids, None, pixels, pixels),
        "nlvr2 losses.pair=0 losses.set=1": lambda: model.compare(ids, None, pixels[:, None]),
        "classify": lambda: model.classify(pixels),
        "segment": lambda: model.segment(pixels),
    }
    for name, ask in asked.items():
        with pytest.raises(ValueError, match=f"omma train vlmo-nano-{name}"):
            ask()
