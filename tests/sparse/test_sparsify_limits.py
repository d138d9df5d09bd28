"""What is refused and said, what is restored, and the smallest numbers of tokens."""

import warnings
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface, StaticCache
from transformers.masking_utils import flash_attention_mask

import omma
from omma.sparse.methods import METHODS
from tiny_vlms import IMAGE, tiny_inputs, tiny_vlm

STAGES = {0: 12, 1: 5}


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def llava():
    return tiny_vlm("llava", layers=4)


def hooks(model):
    kinds = ("_forward_pre_hooks", "_forward_hooks", "_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs")
    kinds += ("_forward_hooks_always_called",)
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)


@pytest.mark.parametrize(("name", "method"), [("qwen3_vl", "pyramiddrop"), ("llava", "sparsevlm-v1")])
def test_the_model_is_left_as_it_was_found(name, method):
    model, inputs = tiny_vlm(name, layers=4), tiny_inputs(name)
    plain, before = model(**inputs).logits, hooks(model)  # transformers has some of its own, from the first run on
    configs = [module.config for module in model.modules() if hasattr(module, "config")]
    own = [set(module.__dict__) for module in model.modules()]
    with omma.sparsify(model, method, ratio=0.5):
        assert not torch.equal(model(**inputs).logits[:, -1], plain[:, -1])
    broken = model.model.language_model.layers[2].register_forward_hook(lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError), omma.sparsify(model, method, ratio=0.5):
        model(**inputs)
    broken.remove()
    assert hooks(model) == before
    after = [module.config for module in model.modules() if hasattr(module, "config")]
    assert all(a is b for a, b in zip(configs, after, strict=True))
    assert own == [set(module.__dict__) for module in model.modules()]
    assert torch.equal(model(**inputs).logits, plain)


def test_a_pass_that_failed_leaves_nothing_for_the_next(llava):
    inputs = tiny_inputs("llava")
    with omma.sparsify(llava, "fastv", schedule=STAGES) as trace:
        good = llava(**inputs).logits
        handle = llava.model.language_model.layers[2].register_forward_hook(lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            llava(**inputs)
        handle.remove()
        assert torch.equal(llava(**inputs).logits, good)
    assert len(trace) == 2, "the one that failed isn't there"


@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.parametrize("k", [0, 35, 99])
def test_any_number_of_tokens_may_stay(llava, method, k):
    if METHODS[method].adaptive:
        pytest.skip("it decides itself")
    inputs = tiny_inputs("llava")
    with omma.sparsify(llava, method, schedule={1: k}) as trace:
        logits = llava(**inputs).logits
    assert logits.isfinite().all()
    kept = trace.kept.get(1, trace.kept[-1])[0]
    if METHODS[method].vision:  # what they make of the others is a part of the number
        assert len(kept) == min(k, 36)
    else:
        assert (kept >= 0).sum() == min(k, 36)
    numbers = kept[kept >= 0].tolist()
    assert len(set(numbers)) == len(numbers)
    if k >= 36:
        assert torch.equal(logits, llava(**inputs).logits)


def test_a_single_visual_token_and_a_prompt_of_nothing_else(llava):
    text = torch.tensor([[20, 21]])
    embeds = llava.get_input_embeddings()
    one = torch.cat([embeds(text), embeds(torch.tensor([[IMAGE]])), embeds(text)], dim=1)
    bare = embeds(torch.full((1, 7), IMAGE))
    for prompt, schedule in ((one, {0: 0}), (bare, {0: 3}), (bare, {0: 0, 1: 0})):
        for method in ("sparsevlm-v1", "sparsevlm-v2", "fastv"):
            with omma.sparsify(llava, method, schedule=schedule) as trace:
                assert llava(inputs_embeds=prompt).logits.isfinite().all()
            assert trace.tokens.tolist() == [1 if prompt is one else 7]


def test_a_prompt_without_a_picture_runs_as_it_is_and_says_so_once(llava):
    inputs = tiny_inputs("llava", images=0)
    plain = llava(**inputs).logits
    with omma.sparsify(llava, budget=10) as trace:
        with pytest.warns(UserWarning, match="no visual tokens in the prompt"):
            assert torch.equal(llava(**inputs).logits, plain)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            llava.generate(**inputs, max_new_tokens=2)
    assert trace.entering.tolist() == [[0] * 4] * 2


def test_tokens_that_a_person_wants_stay(llava):
    inputs = tiny_inputs("llava", images=(1, 2))
    mine = torch.zeros(2, 72, dtype=torch.bool)
    mine[0, [3, 35]], mine[1, [0, 40, 71]] = True, True
    for method in ("sparsevlm-v1", "sparsevlm-rank", "pyramiddrop", "visionzip", "tome", "kcenter", "random"):
        schedule = {1: 6, 2: 4}
        with omma.sparsify(llava, method, schedule=schedule, keep=mine) as trace:
            llava(**inputs)
        for after in (1, 2):
            for row in range(2):
                kept = trace.kept[after][row]
                assert set(mine[row].nonzero()[:, 0].tolist()) <= set(kept.tolist()), method
                assert METHODS[method].adaptive or (kept >= 0).sum() <= schedule[after], "they count"
        with omma.sparsify(llava, method, schedule={1: 1}, keep=mine[1]) as trace:
            llava(**tiny_inputs("llava", images=2))
        assert {0, 40, 71} <= set(trace.kept[1][0].tolist()), "also where more are wanted than the budget has"
    wrong = pytest.raises(ValueError, match=r"keep has shape \(2, 40\), but a sample has 72 visual tokens; give")
    with wrong, omma.sparsify(llava, "fastv", schedule=STAGES, keep=mine[:, :40]):
        llava(**tiny_inputs("llava", images=(1, 2)))


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ({"method": "sparsevml", "budget": 10}, "no method 'sparsevml'; there are sparsevlm-v1"),
        ({"method": "fastv", "budget": 10, "heads": 3}, "fastv has no option 'heads'; it has none"),
        ({"method": "fastv"}, "give one of budget"),
        ({"method": "fastv", "budget": 10, "ratio": 0.5}, "give one of budget"),
        ({"method": "fastv", "budget": 0}, "budget 0 is not above 0"),
        ({"method": "fastv", "ratio": 1.5}, "ratio 1.5 is not above 0 and at most 1"),
        ({"method": "fastv", "schedule": {-1: 4}}, "schedule has layer -1; .* as fastv reads the attention of a layer"),
        ({"method": "uniform", "schedule": {3: 4}}, "schedule has layer 3; tokens can go after layers -1 to 2"),
        ({"method": "uniform", "schedule": {0: 0.5}}, "schedule keeps 0.5 tokens"),
        ({"method": "uniform", "schedule": "64"}, "uniform has no published table '64'"),
        ({"method": "sparsevlm", "schedule": "65"}, "no published table '65'; there are 64, 96, 128, 192"),
        ({"method": "uniform", "budget": 9, "positions": "new"}, "positions 'new'; there are original, compact"),
        ({"method": "uniform", "budget": 9, "keep": [1, 2]}, "keep is int64 of shape"),
    ],
)
def test_what_was_asked_wrongly_is_answered_with_what_there_is(llava, arguments, what):
    before = hooks(llava)
    with pytest.raises(ValueError, match=what), omma.sparsify(llava, **arguments):
        pass
    assert hooks(llava) == before


def test_a_budget_that_the_first_layers_exceed_is_refused_with_the_least(llava):
    with pytest.raises(ValueError, match="more than 9 always enter"), omma.sparsify(llava, "fastv", budget=4):
        llava(**tiny_inputs("llava"))


def test_caches_and_models_of_one_length_are_refused(llava):
    inputs = tiny_inputs("llava")
    with omma.sparsify(llava, "fastv", schedule=STAGES):
        with pytest.raises(ValueError, match="the cache is StaticCache, whose layers hold equally many"):
            llava(**inputs, past_key_values=StaticCache(config=llava.config, max_cache_len=64))
        with pytest.raises(ValueError, match="the cache is static"):
            llava.generate(**inputs, cache_implementation="static", max_new_tokens=2)
        with pytest.raises(ValueError, match="prefill_chunk_size cuts the prompt"):
            llava.generate(**inputs, prefill_chunk_size=8, max_new_tokens=2)
        with pytest.raises(ValueError, match="labels can't be aligned"):
            llava(**inputs, labels=inputs["input_ids"])
        with pytest.raises(ValueError, match="sparsified already"), omma.sparsify(llava, "fastv", budget=9):
            pass
        with pytest.raises(ValueError, match="training mode"):
            llava.train()(**inputs)
        llava.eval()
    with pytest.raises(ValueError, match="a compiled model"), omma.sparsify(SimpleNamespace(_orig_mod=llava), budget=9):
        pass
    try:
        with pytest.raises(ValueError, match="training mode"), omma.sparsify(llava.train(), budget=9):
            pass
    finally:
        llava.eval()


def test_an_unsupported_model_is_told_what_it_lacks(llava):
    no_model = pytest.raises(ValueError, match=r"Linear is no model of transformers .*docs/add-a-vlm-family.md")
    with no_model, omma.sparsify(nn.Linear(2, 2), budget=9):
        pass
    no_text = pytest.raises(ValueError, match="CLIPVisionModel is unsupported: it has no text model")
    with no_text, omma.sparsify(llava.model.vision_tower, budget=9):
        pass
    kinds = llava.config.text_config
    kinds.layer_types = ["full_attention", "linear_attention"] * 2
    try:
        with pytest.raises(ValueError, match="layers of linear_attention"), omma.sparsify(llava, budget=9):
            pass
    finally:
        del kinds.layer_types
    with omma.sparsify(SimpleNamespace(model=llava), "uniform", budget=9) as trace:
        llava(**tiny_inputs("llava"))
    assert trace.budget() == 9


def test_flash_attention_is_handed_padding_or_nothing_and_no_positions():
    """It can't run here: a stand-in with its mask and its config's name, which hears what the layers are given."""
    given = []

    def stand_in(module, query, key, value, attention_mask, **kwargs):
        given.append((module.layer_idx, attention_mask, kwargs.get("position_ids")))
        assert module.config._attn_implementation == "flash_stand_in", "the kernel is looked up by this name"
        see = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool).tril(key.shape[2] - query.shape[2])
        if attention_mask is not None:
            see = see & attention_mask[:, None, None].bool()
            see = see | ~see.any(-1, keepdim=True)
        out = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=see, scale=kwargs["scaling"])
        return out.transpose(1, 2), None

    AttentionInterface.register("flash_stand_in", stand_in)
    AttentionMaskInterface.register("flash_stand_in", flash_attention_mask)
    plain, model = tiny_vlm("llava", layers=4), tiny_vlm("llava", layers=4)
    model.set_attn_implementation({"text_config": "flash_stand_in"})
    for images in (1, (2, 1)):
        inputs = tiny_inputs("llava", images=images)
        ask = {"max_new_tokens": 3, "do_sample": False}
        answers = []
        for vlm in (plain, model):
            given.clear()
            with omma.sparsify(vlm, "sparsevlm-v1", schedule=STAGES):
                answers.append(vlm.generate(**inputs, **ask))
        assert torch.equal(*answers)
        assert len(given) == 4 * 3
        for layer, mask, positions in given:
            assert mask is None if images == 1 else mask.ndim == 2
            assert layer == 0 or positions is None
    no_bias = pytest.raises(ValueError, match="which 'flash_stand_in' can't")
    with no_bias, omma.sparsify(model, "fastv", schedule=STAGES, calibrate=True):
        pass
