"""A model that drops visual tokens answers like one that sees them masked, and is left as it was found."""

import copy

import pytest
import torch
from oracle import at_kept_rows, masked_out

import omma
from omma.sparse.methods import METHODS
from tiny_vlms import FAMILIES, QWENS, tiny_inputs, tiny_vlm, visual_mask

LAYERS = 3
STAGES = {0: 12, 1: 5}  # tokens kept after the first two layers
models = {}


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


def vlm(name="llava", attention="sdpa"):
    if name not in models:
        models[name] = tiny_vlm(name, layers=LAYERS)
    models[name].set_attn_implementation(attention)
    return models[name]


EVERY = [*((name, "sdpa") for name in FAMILIES), ("llava", "eager"), ("qwen3_vl", "eager")]


@pytest.mark.parametrize(("name", "attention"), EVERY)
def test_keeping_every_token_changes_no_logit(name, attention):
    model, inputs = vlm(name, attention), tiny_inputs(name, images=(2, 1))
    for dtype in (torch.float32, torch.bfloat16):
        run = model if dtype == torch.float32 else copy.deepcopy(model).to(dtype)
        cast = {k: v.to(dtype) if v.is_floating_point() else v for k, v in inputs.items()}
        dense = run(**cast).logits
        for method in ("sparsevlm-v1", "pyramiddrop") if name == "llava" else ("sparsevlm-v1",):
            with omma.sparsify(run, method, budget=10_000):
                assert torch.equal(run(**cast).logits, dense)


@pytest.mark.parametrize(("name", "attention"), EVERY)
def test_dropped_tokens_are_as_good_as_masked_ones(name, attention):
    """In batches of rows with two pictures, one and none, padded on the left, and within Qwen3's deepstack."""
    model, inputs = vlm(name, attention), tiny_inputs(name, images=(2, 1, 0))
    with omma.sparsify(model, "fastv", schedule=STAGES) as trace:
        sparse = model(**inputs).logits
    with masked_out(model, trace):
        dense = model(**inputs).logits
    dense, ok = at_kept_rows(dense, trace)
    assert torch.allclose(sparse[ok], dense[ok], atol=1e-5)
    assert sorted(trace.kept) == [-1, 0, 1]
    assert [len(kept) for kept in trace.kept[1]] == [5, 5, 0]
    whole = visual_mask(inputs).sum(1)
    assert trace.entering.tolist() == [[int(v), *([12, 5] if v else [0, 0])] for v in whole]
    for first, second in zip(trace.kept[0], trace.kept[1], strict=True):
        assert set(second.tolist()) <= set(first.tolist()), "a stage chooses among what the one before it left"
        assert first.tolist() == sorted(first.tolist()), "in prompt order"


def test_each_layer_caches_what_enters_it():
    model, inputs = vlm(), tiny_inputs("llava", images=2)
    with omma.sparsify(model, "fastv", schedule=STAGES) as trace:
        answer = model.generate(**inputs, max_new_tokens=3, return_dict_in_generate=True)
    text = inputs["input_ids"].shape[1] - 72
    held = [layer.keys.shape[-2] for layer in answer.past_key_values.layers]
    assert held == [text + n + 2 for n in (72, 12, 5)]
    assert trace.kv_lengths == [text + n for n in (72, 12, 5)]
    assert answer.past_key_values.get_seq_length() == text + 72 + 2


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("llava", "sparsevlm-v1"),
        ("llava", "uniform"),
        ("llava", "pyramiddrop"),
        ("qwen2_vl", "sparsevlm-v1"),
        ("qwen3_vl", "sparsevlm-v2"),
        ("qwen3_vl", "pyramiddrop"),
    ],
)
def test_decoding_from_the_cache_is_running_it_all_again(name, method):
    model, inputs = vlm(name), tiny_inputs(name, images=(2, 1))
    ask = {"max_new_tokens": 4, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    schedule = {-1: 30, 0: 9} if method in ("uniform", "pyramiddrop") else STAGES
    with omma.sparsify(model, method, schedule=schedule) as trace:
        cached = model.generate(**inputs, **ask)
        again = model.generate(**inputs, **ask, use_cache=False)
    assert torch.equal(cached.sequences, again.sequences)
    for one, other in zip(cached.logits, again.logits, strict=True):
        assert torch.allclose(one, other, atol=1e-5)
    assert len(trace) == 4, "an answer without a cache is one sample, not one for each step"


@pytest.mark.parametrize(
    ("name", "method", "share"),
    [
        *(("llava", name, {"ratio": 0.5}) for name in sorted(METHODS)),
        ("qwen2_5_vl", "fastv", {"ratio": 0.5}),
        ("qwen2_5_vl", "pyramiddrop", {"budget": 34}),  # the second row has 32 and keeps them, and their places
        ("qwen2_5_vl", "sparsevlm-v1", {"budget": 34}),
    ],
)
def test_a_batch_is_its_rows_alone(name, method, share):
    model, both = vlm(name), tiny_inputs(name, images=(1, 1))
    alone = [tiny_inputs(name, images=(1, 1)) for _ in range(2)]
    ask = {"max_new_tokens": 2, "do_sample": False}
    with omma.sparsify(model, method, **share):
        together = model.generate(**both, **ask)[:, both["input_ids"].shape[1] :]
    with omma.sparsify(model, method, **share):
        for row, inputs in enumerate(alone):
            pixels = len(inputs["pixel_values"]) // 2
            ids, mask = inputs["input_ids"][row : row + 1], inputs["attention_mask"][row : row + 1].bool()
            single = {"input_ids": ids[mask][None], "attention_mask": torch.ones_like(ids[mask][None])}
            for key, value in inputs.items():
                if key == "mm_token_type_ids":
                    single[key] = value[row : row + 1][mask][None]
                elif key == "pixel_values" and name in QWENS:
                    sizes = inputs["image_grid_thw"].prod(1).tolist()
                    single[key] = value.split(sizes)[row]
                elif key == "pixel_values":
                    single[key] = value[row * pixels : (row + 1) * pixels]
                elif key == "image_grid_thw":
                    single[key] = value[row : row + 1]
            answer = model.generate(**single, **ask)[:, single["input_ids"].shape[1] :]
            assert torch.equal(answer[0], together[row])
