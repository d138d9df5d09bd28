"""omma's own VLM under every method: as good as masked, the same from its cache, the same in int8, left as found."""

import copy

import pytest
import torch
from oracle import at_kept_rows, masked_out
from transformers import LlamaConfig

import omma
from omma.models.quantize import quantize_linears
from omma.models.towers import VisionConfig
from omma.models.vlm import OmmaVLM, VLMConfig, eye_settings
from omma.sparse.methods import METHODS

IMAGE = 5
MERGING = {"visionzip", "prumerge", "prumerge+", "tome", "kcenter", "sparsevlm-v1", "sparsevlm-rank"}  # new states
ASK = {"max_new_tokens": 3, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    eye = VisionConfig(image_size=24, patch_size=4, hidden_size=32, num_layers=2, num_heads=2, pool="cls")
    text = LlamaConfig(vocab_size=60, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
                       num_key_value_heads=2, pad_token_id=0, eos_token_id=None)  # fmt: skip
    model = OmmaVLM(VLMConfig(eye=eye_settings(eye), text_config=text, image_token_id=IMAGE)).eval()
    for name, weight in model.model.language_model.named_parameters():  # larger than drawn, so that each token shows
        if "proj" in name:
            weight.data *= 8
    model.lm_head.weight.data[IMAGE] = 0
    return model


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


def prompts() -> dict[str, torch.Tensor]:
    """Two pictures, one, and none, padded on the left."""
    rows = [[1, *[IMAGE] * 36, 7, *[IMAGE] * 36, 8, 9, 10], [1, *[IMAGE] * 36, 11, 12], [1, 13, 14]]
    ids = torch.tensor([[0] * (77 - len(row)) + row for row in rows])
    pixels = torch.randn(3, 3, 24, 24, generator=torch.Generator().manual_seed(1))
    return {"input_ids": ids, "attention_mask": (ids != 0).long(), "pixel_values": pixels}


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"sparsevlm"}))
def test_every_method_works_on_it(model, method):
    inputs = prompts()
    places = {"position_ids": (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)}
    plain = model(**inputs, **places).logits
    with omma.sparsify(model, method, budget=500):
        assert torch.equal(model(**inputs, **places).logits, plain), "as many tokens as there are"
    schedule = {0 if METHODS[method].attention == "before" else -1: 12, 1: 5}
    with omma.sparsify(model, method, schedule=schedule, positions="original") as trace:
        sparse = model(**inputs, **places).logits
    assert (trace.entering[:, -1] <= trace.entering.new_tensor([7, 7, 0])).all()
    assert trace.tokens.tolist() == [72, 36, 0]
    if method not in MERGING:
        with masked_out(model, trace):
            masked, ok = at_kept_rows(model(**inputs, **places).logits, trace)
        torch.testing.assert_close(sparse[ok], masked[ok], atol=1e-5, rtol=1e-4)
    answers = []
    for cached in (True, False):
        with omma.sparsify(model, method, schedule=schedule):
            answers.append(model.generate(**inputs, **ASK, use_cache=cached))
    for one, other in zip(answers[0].logits, answers[1].logits, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    assert torch.equal(model(**inputs, **places).logits, plain), "left as it was found"


def test_in_int8_a_long_answer_from_the_cache_is_that_without_it(model):
    """PyramidDrop asks a layer before its turn, through the projections that are int8 now."""
    small = copy.deepcopy(model)
    assert quantize_linears(small.model.language_model.layers) == 3 * 7
    for method in ("pyramiddrop", "sparsevlm-v1"):
        answers = []
        for cached in (True, False):
            with omma.sparsify(small, method, schedule={0: 12, 1: 5}):
                answers.append(small.generate(**prompts(), **ASK | {"max_new_tokens": 16}, use_cache=cached))
        for one, other in zip(answers[0].logits, answers[1].logits, strict=True):
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)
