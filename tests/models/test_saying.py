"""An answer while it is made: the same words as generate's, piece by piece, with how sure the model was."""

import threading
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import omma
from omma.models.saying import Saying, Stopped, answered, until, while_heard
from tiny_vlm_folders import save

SHOWN = [Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8))]


@pytest.fixture(scope="module")
def vlm(tmp_path_factory):
    return omma.load_vlm(save("llava", tmp_path_factory.mktemp("vlm") / "llava"), device="cpu", precision="fp32")


def test_pieces_add_up_to_what_generate_says_and_its_confidence_is_that_of_its_logits(vlm):
    saying = Saying(vlm, SHOWN, "What is it?", 6)
    pieces = list(saying)
    assert "".join(pieces) == saying.text == vlm.generate(SHOWN, "What is it?", max_new_tokens=6)
    assert len(pieces) > 1
    inputs = vlm.prompts([SHOWN], ["What is it?"])
    with torch.no_grad():
        told = vlm.generation(6, {"return_dict_in_generate": True, "output_logits": True})
        out = vlm.model.generate(**inputs, **told)
    rows = out.sequences[0, inputs["input_ids"].shape[1] :]
    sure = [logits[0].log_softmax(-1)[token] for logits, token in zip(out.logits, rows, strict=True)]
    assert saying.confidence == pytest.approx(float(torch.stack(sure).mean().exp()), rel=1e-4)


def test_who_stops_reading_stops_the_model(vlm):
    before = threading.active_count()
    steps = []
    hook = vlm.model.register_forward_hook(lambda *_: steps.append(1))
    reading = iter(Saying(vlm, SHOWN, "What is it?", 400))
    next(reading)
    reading.close()
    hook.remove()
    assert len(steps) < 100
    assert threading.active_count() == before


@pytest.mark.parametrize("whole", [False, True])
def test_a_model_that_never_says_a_word_is_stopped_when_its_reader_leaves(vlm, monkeypatch, whole):
    monkeypatch.setattr(vlm, "read", lambda ids: "")
    before, steps = threading.active_count(), []
    hook = vlm.model.register_forward_hook(lambda *_: steps.append(1))
    with while_heard(lambda: len(steps) > 3), pytest.raises(Stopped):
        answered(vlm, SHOWN, "What is it?", 400) if whole else list(Saying(vlm, SHOWN, "What is it?", 400))
    hook.remove()
    assert 3 < len(steps) < 100
    assert threading.active_count() == before
    assert list(Saying(vlm, SHOWN, "What is it?", 3)) == [], "outside, nobody has left"


def test_tokens_are_counted_by_the_models_own_tokenizer(vlm):
    saying = Saying(vlm, SHOWN, "What is it?", 5)
    assert saying.tokens is None
    text = answered(vlm, SHOWN, "What is it?", 5)
    assert "".join(saying) == text == vlm.generate(SHOWN, "What is it?", max_new_tokens=5)
    assert saying.tokens == (vlm.prompts([SHOWN], ["What is it?"])["input_ids"].shape[1], 5)


def test_what_fails_in_the_model_is_told_to_the_reader(vlm):
    no_pictures: Any = ["no picture"]
    with pytest.raises(ValueError, match="a picture is a PIL image"):
        list(Saying(vlm, no_pictures, "What is it?", 4))


def test_an_answer_knows_whether_the_limit_or_the_model_ended_it(vlm):
    (first,) = vlm.model.generate(**vlm.prompts([SHOWN], ["What is it?"]), **vlm.generation(1, {}))[:, -1].tolist()
    cut = Saying(vlm, SHOWN, "What is it?", 3)
    list(cut)
    own = vlm.model.generation_config.eos_token_id
    vlm.model.generation_config.eos_token_id = first
    try:
        ended = Saying(vlm, SHOWN, "What is it?", 1)
        list(ended)
    finally:
        vlm.model.generation_config.eos_token_id = own
    assert (cut.cut, ended.cut) == (True, False)


@pytest.mark.parametrize("size", [1, 2, 3, 50])
def test_a_text_ends_before_the_first_of_its_stops_however_it_is_cut_into_pieces(size):
    text, closed = "one END two STOP", []

    def pieces():
        try:
            for start in range(0, len(text), size):
                yield text[start : start + size]
        finally:
            closed.append(True)

    assert "".join(until(pieces(), ["STOP", "END"])) == "one "
    assert "".join(until(pieces(), ["ENDE"])) == text  # begun, never whole
    assert "".join(until(pieces(), [])) == text
    assert closed == [True] * 3
