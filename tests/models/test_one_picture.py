"""Several questions on one picture: the picture runs once, and each answer is that to its question alone."""

import numpy as np
import pytest
import torch
from PIL import Image

import omma
from omma.models.chat import IMAGE, chat_tokenizer
from omma.models.one_picture import begin_alike
from omma.models.preprocess import Processor
from omma.models.towers import VisionConfig
from omma.models.vlm import OmmaVLM, VLMConfig, eye_settings
from omma.models.vlm_runner import OmmaVLMRunner
from tiny_vlm_folders import save

SHOWN = [Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8))]
ASKED = ["What is it?", "What is left of the cup?", "a", "What is it?"]


@pytest.fixture(scope="module", params=["llava", "qwen2_vl", "omma"])
def vlm(request, tmp_path_factory):
    if request.param != "omma":
        folder = save(request.param, tmp_path_factory.mktemp("vlm") / request.param)
        return omma.load_vlm(folder, device="cpu", precision="fp32")
    torch.manual_seed(0)
    tokenizer = chat_tokenizer(ASKED, 60)
    eye = VisionConfig(image_size=24, patch_size=4, hidden_size=32, num_layers=2, num_heads=2, pool="cls")
    words = {"model_type": "llama", "vocab_size": tokenizer.get_vocab_size(), "hidden_size": 32, "pad_token_id": 0,
             "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}  # fmt: skip
    picture = tokenizer.token_to_id(IMAGE)
    model = OmmaVLM(VLMConfig(eye=eye_settings(eye), text_config=words, image_token_id=picture)).eval()
    for weight in model.parameters():  # larger than drawn, so that each token shows
        weight.data *= 4
    return OmmaVLMRunner(model, Processor(tokenizer, 24, 40), "tiny")


def towers_runs(vlm, act) -> int:
    """How often the vision tower runs within `act`."""
    seen = []
    outer = vlm.model.model
    tower = next(part for name in ("vision_tower", "visual", "eye") if (part := getattr(outer, name, None)) is not None)
    hook = tower.register_forward_hook(lambda *_: seen.append(1))
    try:
        act()
    finally:
        hook.remove()
    return len(seen)


@pytest.mark.parametrize("method", [None, "divprune", "uniform"])
def test_answers_are_those_to_each_question_alone_and_the_picture_runs_once(vlm, method):
    answers = {}

    def asked():
        answers["together"] = vlm.ask(SHOWN, ASKED, max_new_tokens=4)

    def alone():
        answers["alone"] = [vlm.generate(SHOWN, question, max_new_tokens=4) for question in ASKED]

    if method is None:
        runs = towers_runs(vlm, asked)
        alone()
    else:
        with omma.sparsify(vlm, method, schedule={-1: 3}) as trace:
            runs = towers_runs(vlm, asked)
            assert len(trace) == 1, "one prompt ran"
            assert trace.entering.tolist() == [[3] * trace.layers]
            alone()
    assert runs == 1
    assert answers["together"] == answers["alone"]
    assert len(set(answers["together"])) > 1


def test_a_method_that_reads_the_question_says_so_and_may_go_by_the_first(vlm):
    with omma.sparsify(vlm, "fastv", schedule={0: 3}) as trace:
        with pytest.raises(ValueError, match="fastv drops visual tokens by the words of the prompt, and these are 4"):
            vlm.ask(SHOWN, ASKED, max_new_tokens=4)
        trace.clear()
        found = vlm.ask(SHOWN, ASKED, max_new_tokens=4, by_first=True)
        assert len(trace) == 1
        first = vlm.generate(SHOWN, ASKED[0], max_new_tokens=4)
        assert found[0] == found[3] == first, "what the first question keeps is kept for it"
        assert torch.equal(trace.kept[0][0], trace.kept[0][1])
        assert vlm.ask(SHOWN, ASKED[1:2], max_new_tokens=4) == [vlm.generate(SHOWN, ASKED[1], max_new_tokens=4)]


def test_what_cannot_be_asked_is_refused(vlm):
    assert vlm.ask(SHOWN, []) == []
    with pytest.raises(ValueError, match="questions is one str"):
        vlm.ask(SHOWN, "What?")
    with pytest.raises(ValueError, match="num_beams=2: each question goes on from one copy"):
        vlm.ask(SHOWN, ASKED, num_beams=2)


def test_of_each_row_at_least_one_token_is_left():
    rows = [torch.tensor(row) for row in ([1, 2, 3, 4], [1, 2, 3], [1, 2, 5, 6, 7])]
    assert begin_alike(rows) == 2
    assert begin_alike(rows[:1]) == 3
    assert begin_alike([rows[0], rows[0]]) == 3
