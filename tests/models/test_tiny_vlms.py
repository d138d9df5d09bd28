"""The tiny VLMs that other tests stand on: each takes what it is given, and what it is given matters."""

import pytest
import torch

from tiny_vlms import FAMILIES, IMAGE, LAYERS, PAD, TINY, WITH_VIDEO, WORDS, tiny_inputs, visual_mask


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return request.param, TINY[request.param]()


@torch.inference_mode()
def last(model, inputs):
    return model(**inputs, use_cache=False).logits[:, -1]


def brightened(inputs, key):
    """The same with another end of the last picture; black ones that only fill up stay black."""
    pixels = inputs[key].clone()
    pixels.view(-1)[pixels.view(-1).nonzero()[-200:]] += 3.0
    return {**inputs, key: pixels}


def test_a_tiny_model_reads_every_picture_and_answers_in_words(family):
    name, model = family
    assert model.config.text_config.num_hidden_layers == LAYERS
    inputs = tiny_inputs(name, images=2)
    told = model.generate(**inputs, max_new_tokens=3)
    assert told.shape[1] == inputs["input_ids"].shape[1] + 3
    assert (told[:, -3:] >= WORDS).all()
    assert last(model, inputs).std() > 0.5
    other = brightened(inputs, "pixel_values")
    assert (last(model, other) - last(model, inputs)).abs().max() > 1e-3


def test_a_padded_batch_says_what_each_prompt_says_alone(family):
    name, model = family
    inputs = tiny_inputs(name, images=(2, 0, 1))
    assert (inputs["attention_mask"][1] == 0).any()
    assert not visual_mask(inputs)[1].any()
    batched = last(model, inputs)
    words = inputs["input_ids"][1][inputs["attention_mask"][1].bool()][None]
    alone = last(model, {"input_ids": words, "attention_mask": torch.ones_like(words)})
    torch.testing.assert_close(batched[1:2], alone, atol=1e-4, rtol=1e-4)
    first = tiny_inputs(name, images=(2,))  # the same draws, so the same row
    torch.testing.assert_close(batched[:1], last(model, first), atol=1e-4, rtol=1e-4)


def test_a_tiny_model_that_knows_videos_reads_their_frames(family):
    name, model = family
    if name not in WITH_VIDEO:
        with pytest.raises(ValueError, match=f"{name} takes no videos; llava_onevision"):
            tiny_inputs(name, videos=1)
        return
    inputs = tiny_inputs(name, images=(1, 0), videos=(1, 1))
    said = last(model, inputs)
    key = "pixel_values_videos" if "pixel_values_videos" in inputs else "pixel_values"
    changed = (last(model, brightened(inputs, key)) - said).abs().amax(dim=1)
    assert changed[1] > 1e-3
    assert changed[0] == 0


def test_visual_tokens_are_as_many_as_the_arithmetic_says():
    number = lambda name, **how: int(visual_mask(tiny_inputs(name, **how)).sum())
    assert number("llava") == 6 * 6
    # 40 x 30 goes into 48 x 48: 12 x 9 of its 12 x 12 patches are picture, of which as many are cut off left as right
    assert number("llava_next") == 6 * 6 + 12 * (10 + 1)
    assert number("llava_onevision", images=2) == 2 * (6 * 6 + 1)
    assert number("qwen2_vl") == 12 * 12 // 4
    assert number("qwen3_vl", images=0, videos=1, frames=4) == 2 * 8 * 8 // 4
    assert number("smolvlm") == 3 * 16
    assert int((tiny_inputs("video_llava", images=0, videos=1)["input_ids"] == IMAGE).sum()) == 0
    assert (tiny_inputs("llava", batch=3)["input_ids"][:, 0] == PAD).tolist() == [True, True, False]
