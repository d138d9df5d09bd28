"""What `generate` does, it does on a shortened prompt too: beams, samples, drafts, a later turn, copies of a cache."""

import copy
import threading

import pytest
import torch
from oracle import masked_out
from transformers import DynamicCache

import omma
from omma.sparse.cache import PrunedCache
from tiny_vlms import tiny_inputs, tiny_vlm

STAGES = {0: 12, 1: 5}
BEFORE = {-1: 20, 1: 5}  # already the first layer is short


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def llava():
    return tiny_vlm("llava", layers=3)


@pytest.fixture(scope="module")
def qwen():
    return tiny_vlm("qwen2_vl", layers=3)


@pytest.mark.parametrize("method", ["sparsevlm-v1", "random"])
def test_beams_of_a_batch_are_the_beams_of_its_rows(llava, method):
    both = tiny_inputs("llava", images=(1, 1))
    ask = {"max_new_tokens": 4, "num_beams": 3, "do_sample": False}
    schedule = BEFORE if method == "random" else STAGES
    with omma.sparsify(llava, method, schedule=schedule) as trace:
        together = llava.generate(**both, **ask)[:, both["input_ids"].shape[1] :]
    assert len(trace) == 2, "the beams of a sample are one sample"
    with omma.sparsify(llava, method, schedule=schedule):
        for row in range(2):
            mask = both["attention_mask"][row].bool()
            ids, pixels = both["input_ids"][row][mask][None], both["pixel_values"][row : row + 1]
            alone = {"input_ids": ids, "pixel_values": pixels}
            answer = llava.generate(**alone, **ask)[:, alone["input_ids"].shape[1] :]
            assert torch.equal(answer[0], together[row])


def test_samples_follow_the_seed(llava):
    inputs = tiny_inputs("llava")
    drawn = []
    with omma.sparsify(llava, "fastv", schedule=STAGES) as trace:
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            drawn.append(llava.generate(**inputs, max_new_tokens=3, do_sample=True, num_return_sequences=2))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert len(trace) == 3


@pytest.mark.parametrize("method", ["sparsevlm-v1", "uniform"])
def test_drafts_from_the_prompt_change_no_word(llava, method):
    """The first pass holds drafts behind the prompt already: they may not rate."""
    inputs = tiny_inputs("llava")
    words = inputs["input_ids"][:, -4:]
    inputs["input_ids"] = torch.cat([inputs["input_ids"], words, words], dim=1)  # so that there is something to draft
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    schedule = BEFORE if method == "uniform" else STAGES
    with omma.sparsify(llava, method, schedule=schedule) as trace:
        plain = llava.generate(**inputs, max_new_tokens=8, do_sample=False)
        kept = trace.kept[1][0]
        drafted = llava.generate(**inputs, max_new_tokens=8, do_sample=False, prompt_lookup_num_tokens=3)
    assert torch.equal(plain, drafted)
    assert torch.equal(trace.kept[1][1], kept)


@pytest.mark.parametrize(("family", "schedule"), [("llava", BEFORE), ("qwen", STAGES), ("qwen", BEFORE)])
def test_a_second_turn_goes_on_from_the_shortened_cache(request, family, schedule):
    model, name = request.getfixturevalue(family), {"llava": "llava", "qwen": "qwen2_vl"}[family]
    inputs = tiny_inputs(name, images=(2, 1))
    ask = {"max_new_tokens": 3, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    method = "uniform" if schedule is BEFORE else "fastv"
    with omma.sparsify(model, method, schedule=schedule) as trace:
        first = model.generate(**inputs, **ask)
        question = torch.tensor([[20, 21, 22, 23], [0, 0, 24, 25]])
        ids = torch.cat([first.sequences, question], dim=1)
        ones = torch.ones_like(first.sequences[:, inputs["input_ids"].shape[1] :])
        mask = torch.cat([inputs["attention_mask"], ones, (question > 0).long()], dim=1)
        second = model.generate(input_ids=ids, attention_mask=mask, past_key_values=first.past_key_values, **ask)
    extra = second.sequences.shape[1] - 1 - inputs["input_ids"].shape[1]
    whole = dict(inputs, input_ids=second.sequences[:, :-1])
    more = torch.ones(2, second.sequences.shape[1] - 1 - mask.shape[1], dtype=torch.long)
    whole["attention_mask"] = torch.cat([mask, more], dim=1)
    if "mm_token_type_ids" in whole:
        types = whole["mm_token_type_ids"]
        whole["mm_token_type_ids"] = torch.cat([types, types.new_zeros(2, extra)], dim=1)
    if name == "llava":
        whole["position_ids"] = (whole["attention_mask"].cumsum(1) - 1).clamp(min=0)
    later = whole["attention_mask"][:, inputs["input_ids"].shape[1] :].bool()
    with masked_out(model, trace, extra, later):
        dense = model(**whole).logits[:, -3:]
    for step, logits in enumerate(second.logits):
        assert torch.allclose(logits, dense[:, step], atol=2e-5)


def test_a_cache_may_be_copied_cropped_and_asked_again(llava):
    """Several questions on one picture: the picture runs once."""
    inputs = tiny_inputs("llava")
    questions = [torch.tensor([[30, 31, 32]]), torch.tensor([[40, 41, 42]])]
    with omma.sparsify(llava, "fastv", schedule=STAGES):
        cache = llava(**inputs, past_key_values=DynamicCache(), use_cache=True).past_key_values
        assert type(cache) is PrunedCache
        length = cache.get_seq_length()
        assert length == inputs["input_ids"].shape[1]
        answers = []
        for question in questions:
            kept = copy.deepcopy(cache)
            answers.append(llava(input_ids=question, past_key_values=kept).logits)
            assert kept.get_seq_length() == length + 3
            assert cache.get_seq_length() == length
        again = copy.deepcopy(cache)
        llava(input_ids=questions[0], past_key_values=again)
        again.crop(-3)
        assert torch.equal(llava(input_ids=questions[1], past_key_values=again).logits, answers[1])
        again.crop(-5)  # its question, and two words of the prompt
        assert again.get_seq_length() == length - 2
        with pytest.raises(ValueError, match="visual tokens can't be cropped"):
            again.crop(-30)
        again.reset()
        assert again.plan is None
        assert again.get_seq_length() == 0


def test_a_cache_follows_its_rows(llava):
    inputs = tiny_inputs("llava", images=(2, 1))
    ask = torch.tensor([[30, 31], [40, 41]])
    with omma.sparsify(llava, "fastv", schedule={0: 50, 1: 30}):  # rows of different lengths
        cache = llava(**inputs, use_cache=True).past_key_values

        def asked(ids, mask, change=lambda cache: None):
            copied = copy.deepcopy(cache)
            change(copied)
            mask = torch.cat([mask, torch.ones_like(ids)], dim=1)
            places = mask.cumsum(1)[:, -ids.shape[1] :] - 1
            return llava(input_ids=ids, attention_mask=mask, position_ids=places, past_key_values=copied).logits

        mask = inputs["attention_mask"]
        plain = asked(ask, mask)
        swapped = asked(ask.flip(0), mask.flip(0), lambda c: c.reorder_cache(torch.tensor([1, 0])))
        assert torch.allclose(swapped.flip(0), plain, atol=1e-5)
        second = asked(ask[1:], mask[1:], lambda c: c.batch_select_indices(torch.tensor([1])))
        assert torch.allclose(second, plain[1:], atol=1e-5)
        twice = asked(ask.repeat_interleave(2, 0), mask.repeat_interleave(2, 0), lambda c: c.batch_repeat_interleave(2))
        assert torch.allclose(twice[::2], plain, atol=1e-5)


def test_a_shortened_cache_is_not_continued_by_the_plain_model(llava):
    inputs = tiny_inputs("llava")
    with omma.sparsify(llava, "fastv", schedule=STAGES):
        cache = llava(**inputs, use_cache=True).past_key_values
    with pytest.raises(ValueError, match="go on from it within"):
        llava(input_ids=torch.tensor([[30]]), past_key_values=cache)
    with omma.sparsify(llava, "uniform", budget=5):  # any method may go on: the plan is the cache's
        assert llava(input_ids=torch.tensor([[30]]), past_key_values=cache).logits.isfinite().all()


def test_two_answers_may_be_under_way_at_once(llava):
    """Two threads, each with its own prompt and cache."""
    prompts = [tiny_inputs("llava", images=1, seed=0), tiny_inputs("llava", images=2, seed=1)]
    ask = {"max_new_tokens": 5, "do_sample": False}
    with omma.sparsify(llava, "sparsevlm-v1", schedule=STAGES):
        alone = [llava.generate(**inputs, **ask) for inputs in prompts]
        found = {}

        def run(i):
            found[i] = llava.generate(**prompts[i], **ask)

        threads = [threading.Thread(target=run, args=(i,)) for i in range(2)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
    assert all(torch.equal(found[i], alone[i]) for i in range(2))


def test_steps_of_two_answers_may_alternate(llava):
    prompts = [tiny_inputs("llava", images=1, seed=0), tiny_inputs("llava", images=2, seed=1)]
    word = torch.tensor([[30]])
    with omma.sparsify(llava, "fastv", schedule=STAGES):
        caches = [llava(**inputs, use_cache=True).past_key_values for inputs in prompts]
        steps = [[llava(input_ids=word, past_key_values=cache).logits for cache in caches] for _ in range(2)]
        for i, inputs in enumerate(prompts):
            cache = llava(**inputs, use_cache=True).past_key_values
            for step in steps:
                assert torch.equal(llava(input_ids=word, past_key_values=cache).logits, step[i])
