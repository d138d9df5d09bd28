"""The stages of NLVR: tags of a picture, parts of a sentence, and what one stage hands to the next."""

import io
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from omma.data.nlvr.items import ITEM_COLUMNS, append, picture_row, write_boxes
from omma.data.nlvr.items import item as nlvr_item
from omma.data.nlvr.pictures import Thing, draw
from omma.models.layers import ConvStem
from omma.models.preprocess import Processor, train_wordpiece
from omma.models.vlmo import VLMo
from omma.models.weights import from_pretrained, read_tensors
from omma.table import Table
from omma.training.batches import DataConfig
from omma.training.distributed import ALONE
from omma.training.finetune import item_losses, labels_for, parts_loss, tags_loss
from omma.training.items import ItemBatches
from omma.training.loop import train
from omma.training.losses import LossWeights
from omma.training.nlvr_recipes import NLVR_RECIPES, READER

TINY = replace(READER, hidden_size=16, num_heads=2, num_layers=2, num_vl_layers=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twelve pictures with n black squares in the first box, their boxes, and a sentence of each."""
    place = tmp_path_factory.mktemp("nlvr")
    worlds, rows, items = {}, [], []
    for n in range(12):
        things = tuple(Thing(0, 25 * k, 20, "square", "black") for k in range(n % 4))
        boxes = (things, (), (Thing(40, 40, 30, "circle", "blue"),))
        out = io.BytesIO()
        draw(boxes).save(out, "PNG")
        worlds[f"train-{n}-0-0"] = (out.getvalue(), boxes)
        rows.append(picture_row(f"train-{n}-0-0", out.getvalue()))
        words = "There is a black square" + " in it" * (n % 3)
        parts = (n % 4, 0, 0) if n else None
        items.append(nlvr_item(f"i{n}", words, "template", f"train-{n}-0-0", n % 4 > 0, parts, "train"))
    write_boxes(worlds, place / "boxes")
    append(Table.create(place / "pictures", "pictures"), rows)
    append(Table.create(place / "items", "items", extra=ITEM_COLUMNS), items)
    return place


def test_parts_loss_is_the_mean_over_what_is_known_and_zero_where_nothing_is():
    logits = torch.zeros(2, 3, 10)
    parts = torch.tensor([[1, 2, -1], [-1, -1, -1]])
    assert parts_loss(logits, parts).item() == pytest.approx(math.log(10))
    logits[0, 0, 1] = 50.0
    assert parts_loss(logits, parts).item() == pytest.approx(math.log(10) / 2)
    assert parts_loss(logits, torch.full((2, 3), -1)).item() == 0.0


def test_tags_loss_asks_about_every_tag():
    targets = torch.tensor([[1.0, 0.0, 1.0]])
    assert tags_loss(torch.zeros(1, 3), targets).item() == pytest.approx(math.log(2))
    assert tags_loss(torch.tensor([[9.0, -9.0, 9.0]]), targets).item() < 1e-3


def test_set_and_parts_come_from_one_pass_and_equal_the_heads_called_by_themselves():
    torch.manual_seed(0)
    model = VLMo(replace(TINY, vocab_size=50, num_set_classes=2, answers=tuple("0123456789"))).eval()
    ids, mask = torch.randint(5, 50, (2, 8)), torch.ones(2, 8, dtype=torch.long)
    pictures, parts = torch.randn(2, 3, 3, 100, 100), torch.tensor([[0, 1, 2], [-1, 3, 9]])
    targets = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    batch = SimpleNamespace(input_ids=ids, attention_mask=mask, targets=targets, parts=parts)
    step = SimpleNamespace(
        model=model, batch=batch, pixel_values=pictures, on={"set": 1.0, "parts": 1.0}, world=ALONE
    )
    assert model.answer_head is not None
    with torch.no_grad():
        losses = item_losses(step)
        logits = model.compare(ids, mask, pictures)
        by_hand = -torch.log_softmax(logits, -1)[torch.arange(2), targets.argmax(1)].mean()
        each = [model.answer(ids, mask, pictures[:, k]) for k in range(3)]
    torch.testing.assert_close(losses["set"], by_hand)
    torch.testing.assert_close(losses["parts"], parts_loss(torch.stack(each, dim=1), parts))


def test_the_order_of_the_boxes_changes_no_logit():
    torch.manual_seed(0)
    model = VLMo(replace(TINY, vocab_size=50, num_set_classes=2)).eval().double()
    ids, mask = torch.randint(5, 50, (2, 8)), torch.ones(2, 8, dtype=torch.long)
    pictures = torch.randn(2, 3, 3, 100, 100, dtype=torch.float64)
    with torch.no_grad():
        logits = model.compare(ids, mask, pictures)
        for order in ((1, 0, 2), (2, 0, 1)):
            torch.testing.assert_close(model.compare(ids, mask, pictures[:, order]), logits)


def test_a_conv_stem_of_patch_20_gives_a_token_a_patch():
    assert ConvStem(16, 20)(torch.zeros(2, 3, 100, 100)).shape == (2, 16, 5, 5)
    with pytest.raises(ValueError, match="4, 8, 16, 20 or 32, not 12"):
        ConvStem(16, 12)


def test_batches_of_one_length_hold_every_item_once_an_epoch_and_pad_less(folder):
    table = Table.open(folder / "items")
    texts = [row["prompt"] for row in table.read(["prompt"]).to_pylist()]
    processor = Processor(train_wordpiece(texts, 200), 100, 16, panels=3, panel_gap=0.125)
    plain = DataConfig(crop_scale=1.0, jitter=0.0)
    kinds = {}
    for window in (0, 3):
        batches = ItemBatches(table, processor, replace(plain, length_window=window), ("false", "true"),
                              batch_size=4, seed=0)  # fmt: skip
        seen = [batches[k] for k in range(3)]
        assert sorted(i for batch in seen for i in batch.ids) == sorted(f"i{n}" for n in range(12))
        kinds[window] = [len({int(n) for n in batch.attention_mask.sum(1)}) for batch in seen]
    assert kinds[3] == [1, 1, 1]
    assert sum(kinds[0]) > 3
    parts = {name: row for batch in seen for name, row in zip(batch.ids, batch.parts.tolist(), strict=True)}
    assert parts["i0"] == [-1, -1, -1]
    assert parts["i7"] == [3, 0, 0]


def test_the_stages_run_one_after_the_other_and_experts_are_handed_on(folder, tmp_path):
    shared = {"steps": 2, "warmup": 1, "batch_size": 4, "threads": 1, "precision": "fp32", "ema": None, "model": TINY}
    first = replace(NLVR_RECIPES["nlvr-boxes"](), data=str(folder / "boxes" / "pictures"), words=str(folder / "items"),
                    out=str(tmp_path / "boxes"), **shared | {"model": replace(TINY, num_vl_layers=0)})  # fmt: skip
    train(first, progress=False)
    unmoved = {**shared, "peak_lr": 0.0, "final_lr": 0.0}
    second = replace(NLVR_RECIPES["nlvr-counts"](), data=str(folder / "boxes" / "items"), init=str(tmp_path / "boxes"),
                     out=str(tmp_path / "counts"), **unmoved)  # fmt: skip
    train(second, progress=False)
    third = replace(NLVR_RECIPES["nlvr"](), data=str(folder / "items"), init=str(tmp_path / "counts"),
                    out=str(tmp_path / "nlvr"), **unmoved)  # fmt: skip
    train(third, progress=False)
    before = read_tensors(tmp_path / "boxes" / "last" / "model.safetensors")
    model = from_pretrained(tmp_path / "nlvr" / "last")
    name = "blocks.1.experts.{}.fc1.weight"
    torch.testing.assert_close(model.state_dict()[name.format("vl")], before[name.format("image")])
    assert model.config.answers == tuple("0123456789")
    assert model.config.num_set_classes == 2
    processor = Processor.load(tmp_path / "nlvr" / "last")
    assert (processor.panels, processor.panel_gap) == (3, 0.125)
    assert processor.tokenizer.token_to_id("square") is not None


def test_tags_want_a_model_of_their_own_and_no_sentences():
    with pytest.raises(ValueError, match="can't share a step"):
        labels_for(replace(TINY, classes=("a",)), {"tags", "set"})
    assert LossWeights(tags=1.0).active() == {"tags": 1.0}
