"""Detectors of others against transformers' own pipeline steps, on tiny random weights."""

import numpy as np
import pytest
import torch
import transformers as hf
from tiny_hf import LETTERS, SIZE, pictures
from transformers.models.owlvit.image_processing_pil_owlvit import OwlViTImageProcessorPil

from omma.models.hf_detector import apart, load_detector


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    pieces = ["!", *LETTERS, *(f"{c}</w>" for c in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    vocab = {piece: i for i, piece in enumerate(pieces)}               # a text that begins with 0 is none to OWL-ViT
    ends = {"bos_token_id": len(vocab) - 2, "eos_token_id": len(vocab) - 1, "pad_token_id": 0}
    text = SIZE | {"max_position_embeddings": 16, "vocab_size": len(vocab), **ends}
    config = hf.OwlViTConfig(vision_config=SIZE | {"image_size": 32, "patch_size": 8}, text_config=text,
                             projection_dim=32)  # fmt: skip
    place = tmp_path_factory.mktemp("owl")
    model = hf.OwlViTForObjectDetection(config)
    for part in (model.box_head, model.class_head):
        for values in part.parameters():
            values.data *= 0.1                                         # else boxes and scores end at 0 and 1
    model.save_pretrained(place)
    side = {"height": 32, "width": 32}
    OwlViTImageProcessorPil(size=side, crop_size=side).save_pretrained(place)
    hf.CLIPTokenizer(vocab=vocab, merges=[], pad_token="!", model_max_length=16).save_pretrained(place)
    return place


def test_boxes_are_those_of_transformers_in_shares_the_surest_of_those_that_overlap(folder):
    find = load_detector(folder, device="cpu", threshold=0.0)
    image = pictures()[0]
    names = ["cup", "table"]
    found = find.detect(image, names)
    model = hf.OwlViTForObjectDetection.from_pretrained(folder)
    words = find.tokenizer([f"a photo of a {name}" for name in names], padding="max_length", max_length=16,
                           truncation=True, return_tensors="pt")  # fmt: skip
    with torch.inference_mode():
        out = model(pixel_values=find.pictures(image, return_tensors="pt")["pixel_values"], **words)
    scores = out.logits[0].sigmoid().max(-1)
    x, y, w, h = out.pred_boxes[0].unbind(-1)
    boxes = torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], -1).clip(0, 1).numpy()
    kept = apart(boxes, scores.values.numpy())
    assert 1 <= len(found) <= len(kept)
    best = found[0]
    np.testing.assert_allclose(best.box, boxes[kept[0]], atol=1e-4)
    assert best.name == names[int(scores.indices[kept[0]])]
    assert best.score == pytest.approx(float(scores.values[kept[0]]), abs=1e-5)
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    with pytest.raises(ValueError, match="what it is told the names of"):
        find.detect(image, [])


def test_of_boxes_that_overlap_by_more_than_half_the_surest_stays():
    boxes = np.array([[0, 0, 1, 1], [0, 0, 1, 0.9], [0.5, 0.5, 1, 1], [0, 0, 0.4, 1]])
    assert apart(boxes, np.array([0.5, 0.9, 0.4, 0.8])) == [1, 3, 2]
    assert apart(np.zeros((0, 4)), np.zeros(0)) == []


def test_another_kind_of_model_is_refused(tmp_path):
    hf.ViTConfig(hidden_size=8, num_attention_heads=1).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"is a vit; detectors .* are owlvit, owlv2"):
        load_detector(tmp_path)
