"""A class for every pixel: masks follow their pictures, unknown pixels carry nothing, and the head learns."""

import io
import math

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

import omma
from omma.eval.tasks.segmentation import area_counts, metrics
from omma.models.preprocess import Processor, train_wordpiece
from omma.models.segmentation import SegmentationHead
from omma.models.vlmo import VLMoConfig
from omma.table import Table
from omma.training.batches import DataConfig
from omma.training.config import TrainConfig
from omma.training.loop import train
from omma.training.losses import LossWeights
from omma.training.segment import UNLABELLED, MaskBatches, segment_loss

SIDE = 32


def png(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Bright squares on a dark ground; the mask says where. One corner is not labelled."""
    place, column = tmp_path_factory.mktemp("seg") / "pictures", pa.schema([("mask", pa.binary())])
    made = Table.create(place, "pictures", extra=column, info={"mask_classes": ["ground", "square"]})
    rng, rows = np.random.default_rng(0), []
    for i in range(24):
        mask = np.zeros((SIDE, SIDE), dtype=np.uint8)
        top, left = 8 * rng.integers(0, 3, 2)  # on the patch grid, so that few steps teach it
        mask[top : top + 16, left : left + 16] = 1
        pixels = np.repeat(np.where(mask, 230, 20).astype(np.uint8)[..., None], 3, axis=2)
        mask[:2, :2] = UNLABELLED
        rows.append({"id": f"p{i}", "bytes": png(pixels), "status": "ok", "captions": [], "mask": png(mask),
                     "width": SIDE, "height": SIDE})  # fmt: skip
    rows.append(rows[0] | {"id": "bare", "mask": None})
    made.append(rows)
    return made


def test_a_mask_is_cropped_and_mirrored_with_its_picture(table):
    processor = Processor(train_wordpiece(["ground"], 30), image_size=SIDE, max_text_len=8)
    config = DataConfig(crop_scale=0.4, jitter=0.0, flip=True)
    batches = MaskBatches(table, processor, config, batch_size=8, seed=0)
    assert len(batches) == 24
    assert batches.skipped == {"no mask": 1}
    changed = 0
    for step in range(3):
        batch = batches[step]
        again = MaskBatches(table, processor, config, batch_size=8, seed=0)[step]
        assert torch.equal(batch.targets, again.targets)
        known = batch.targets != UNLABELLED
        bright = batch.pixels[:, 0] > 125
        agree = (bright == (batch.targets == 1))[known].float().mean()
        assert agree > 0.97  # edges of a scaled picture are grey
        changed += int((batch.targets[:, :2, :2] != UNLABELLED).any())
    assert changed == 3  # crops and mirrors moved the corner away


def test_pixels_without_a_class_carry_no_loss():
    logits = torch.zeros(1, 3, 4, 4)
    targets = torch.full((1, 4, 4), UNLABELLED)
    assert segment_loss(logits, targets).item() == 0
    targets[0, 0, 0] = 2
    assert segment_loss(logits, targets).item() == pytest.approx(math.log(3), rel=1e-6)
    logits[0, :, 1:] = torch.tensor([50.0, 0, 0])[:, None, None]  # sure and wrong where nothing is known
    assert segment_loss(logits, targets).item() == pytest.approx(math.log(3), rel=1e-6)


def test_the_head_gives_four_places_a_patch_side_and_uses_every_map():
    torch.manual_seed(0)
    head = SegmentationHead(32, 5, width=16).eval()
    maps = [torch.randn(2, 32, 3, 4, requires_grad=True) for _ in range(4)]
    logits = head(maps)
    assert logits.shape == (2, 5, 12, 16)
    logits.square().sum().backward()
    assert all(float(x.grad.abs().sum()) > 0 for x in maps if x.grad is not None)
    assert all(x.grad is not None for x in maps)


def test_intersections_and_unions_are_summed_before_they_are_divided():
    true = np.array([[0, 0, 1, 1], [0, UNLABELLED, 1, 1]], dtype=np.uint8)
    said = np.array([[0, 1, 1, 1], [0, 1, 1, 0]], dtype=np.uint8)
    counts = area_counts(said, true, 3)
    assert counts.tolist() == [2, 3, 0, 3, 4, 0, 3, 4, 0]
    easy = [10, 0, 0, 10, 0, 0, 10, 0, 0]
    rows = [{"scores": counts.tolist(), "credits": [5 / 7]}, {"scores": easy, "credits": [1.0]}]
    found = metrics(rows)
    assert found["miou"] == pytest.approx((12 / 14 + 3 / 5) / 2)  # the third class occurs nowhere
    assert found["pixel_accuracy"] == pytest.approx(15 / 17)
    assert found["majority"] == pytest.approx(13 / 17)
    assert found["picture_accuracy"]["value"] == pytest.approx((5 / 7 + 1) / 2)


def test_a_model_learns_to_tell_squares_from_ground(table, tmp_path):
    config = TrainConfig(
        data=str(table.uri), out=str(tmp_path / "run"), losses=LossWeights(segment=1.0),
        model=VLMoConfig(image_size=SIDE, patch_size=8, hidden_size=32, num_layers=2, num_heads=2, num_vl_layers=0,
                         vocab_size=30, segment_width=16),
        dataset=DataConfig(crop_scale=1.0, jitter=0.0), steps=40, warmup=4, batch_size=8, peak_lr=1e-2, ema=None,
        workers=0, precision="fp32", device="cpu",
    )  # fmt: skip
    train(config, progress=False)
    report = omma.evaluate(str(tmp_path / "run"), "segmentation", data=table, device="cpu")
    scores = report.metrics["scores"]["segment"]
    assert scores["model"]["miou"] > 0.8
    assert scores["blind"]["miou"] < 0.6
    assert scores["model"]["unscored"] == 1  # the picture without a mask
    assert omma.load_encoder(tmp_path / "run").segments == ("ground", "square")


def test_a_table_without_masks_is_refused_with_the_way_to_make_them(tmp_path):
    made = Table.create(tmp_path / "t", "pictures")
    with pytest.raises(ValueError, match="omma masks TABLE FOLDER"):
        MaskBatches(made, Processor(train_wordpiece(["a"], 30), 16, 8), DataConfig(), batch_size=2, seed=0)
