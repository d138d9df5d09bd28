"""What every method in METHODS does, whatever it looks at: the number asked for, text untouched, a model as found."""

import copy

import pytest
import torch

import omma
from omma.sparse.methods import METHODS
from tiny_vlms import FAMILIES, WITH_VIDEO, shared_vlm, tiny_inputs, visual_mask

LAYERS = 3
ADAPTIVE = {name for name, method in METHODS.items() if method.adaptive}  # they keep at most what they are asked for


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


def vlm(name="llava", attention="sdpa"):
    return shared_vlm(name, attention, layers=LAYERS)


def stage_of(method: str) -> int:
    """The first layer after which it may drop tokens."""
    return 0 if METHODS[method].attention == "before" else -1


def made(method: str, dropped: int) -> int:
    return METHODS[method].made(dropped, **METHODS[method].options)


@pytest.fixture(params=sorted(set(METHODS) - {"sparsevlm"}))  # the other name of sparsevlm-v2
def method(request):
    return request.param


def numbers(kept: torch.Tensor) -> list[int]:
    return [n for n in kept.tolist() if n >= 0]


@pytest.mark.parametrize("k", [1, 17])
def test_exactly_the_number_asked_for_goes_on_in_prompt_order(method, k):
    model, inputs = vlm(), tiny_inputs("llava", images=(2, 1, 0))
    at = stage_of(method)
    with omma.sparsify(model, method, schedule={at: k}) as trace:
        sparse = model(**inputs).logits
    entering = trace.entering[:, at + 1].tolist()
    expected = [k + made(method, 72 - k), k + made(method, 36 - k), 0]
    assert all(n <= m for n, m in zip(entering, expected, strict=True)) if method in ADAPTIVE else entering == expected
    for kept, tokens in zip(trace.kept[at], (72, 36, 0), strict=True):
        known = numbers(kept)
        assert known == sorted(set(known))
        assert all(n < tokens for n in known)
    assert torch.isfinite(sparse).all()


def test_no_text_is_dropped(method):
    model, inputs = vlm(), tiny_inputs("llava", images=(2, 1, 0))
    at = stage_of(method)
    with omma.sparsify(model, method, schedule={at: 5}) as trace:
        model(**inputs)
    first, last = trace.records[-1].layouts[0], trace.records[-1].layouts[-1]
    for row in range(3):
        text = (first.ok & ~first.visual)[row].nonzero()[:, 0].tolist()
        assert last.source[row, (last.ok & ~last.visual)[row]].tolist() == text
    made_ones = (last.visual & (last.origin < 0))[1].nonzero()[:, 0]  # of the row with one picture
    question = (last.source[1] > first.visual[1].nonzero()[-1, 0]) & last.ok[1]
    assert all(last.visual[1, made_ones[0] :].sum() == len(made_ones) for _ in made_ones[:1])
    assert not len(made_ones) or made_ones[-1] < question.nonzero()[0, 0]


def test_a_persons_tokens_stay(method):
    model, inputs = vlm(), tiny_inputs("llava", images=(1, 1))
    keep = torch.zeros(2, 36, dtype=torch.bool)
    keep[0, [3, 4, 20]], keep[1, [0, 35]] = True, True
    at = stage_of(method)
    for k in (6, 3):
        with omma.sparsify(model, method, schedule={at: k}, keep=keep) as trace:
            model(**inputs)
        for row in range(2):
            assert set(keep[row].nonzero()[:, 0].tolist()) <= set(numbers(trace.kept[at][row]))
        if method not in ADAPTIVE:
            assert trace.entering[:, at + 1].tolist() == [k + made(method, 36 - k)] * 2


def test_the_same_again_gives_the_same(method):
    model, inputs = vlm(), tiny_inputs("llava", images=2)
    runs = []
    for _ in range(2):
        with omma.sparsify(model, method, ratio=0.5) as trace:
            runs.append((model(**inputs).logits, trace.kept))
    assert torch.equal(runs[0][0], runs[1][0])
    assert all(torch.equal(runs[0][1][layer][0], runs[1][1][layer][0]) for layer in runs[0][1])


def test_a_budget_as_large_as_the_picture_changes_no_logit(method):
    model, inputs = vlm(), tiny_inputs("llava", images=(2, 1))
    dense = model(**inputs).logits
    with omma.sparsify(model, method, budget=500):
        assert torch.equal(model(**inputs).logits, dense)


def test_in_a_batch_only_the_larger_picture_loses_tokens(method):
    model, inputs = vlm("llava_next"), tiny_inputs("llava_next", images=(1, 1))
    large, small = visual_mask(inputs).sum(1).tolist()
    large, small = max(large, small), min(large, small)
    at = stage_of(method)
    dense = model(**inputs).logits
    with omma.sparsify(model, method, schedule={at: small}) as trace:
        sparse = model(**inputs).logits
    if method not in ADAPTIVE:
        row = visual_mask(inputs).sum(1).tolist().index(small)
        kept = [len(kept) for kept in trace.kept[at]]
        assert (kept[row], kept[1 - row]) == (small, small + made(method, large - small))
        assert torch.allclose(sparse[row, -5:], dense[row, -5:], atol=1e-4)


def test_the_model_is_left_as_found_also_after_an_error(method):
    model, inputs = vlm(), tiny_inputs("llava")
    before = {name: dict(module.__dict__) for name, module in model.named_modules()}
    hooks = {name: (len(m._forward_hooks), len(m._forward_pre_hooks)) for name, m in model.named_modules()}
    dense = model(**inputs).logits
    broken = inputs | {"pixel_values": inputs["pixel_values"][:, :2]}
    with omma.sparsify(model, method, ratio=0.5):
        model(**inputs)
        with pytest.raises(RuntimeError):
            model(**broken)
    assert hooks == {name: (len(m._forward_hooks), len(m._forward_pre_hooks)) for name, m in model.named_modules()}
    for name, module in model.named_modules():
        assert set(module.__dict__) == set(before[name])
        assert module.__dict__.get("config") is before[name].get("config")
    assert torch.equal(model(**inputs).logits, dense)


def test_eager_and_sdpa_keep_the_same(method):
    inputs = tiny_inputs("llava", images=(2, 1))
    found = []
    for attention in ("sdpa", "eager"):
        with omma.sparsify(vlm("llava", attention), method, ratio=0.5) as trace:
            logits = vlm("llava", attention)(**inputs).logits
        found.append((logits[trace.records[-1].layouts[-1].ok], trace.kept))
    for layer, kept in found[0][1].items():
        assert all(torch.equal(a, b) for a, b in zip(kept, found[1][1][layer], strict=True))
    assert torch.allclose(found[0][0], found[1][0], atol=1e-4)


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "llava"])
def test_what_towers_say_is_heard_in_every_family(name):
    """In batches of one and two pictures and a video; rows that share a picture, as beams do, share what was heard."""
    video = {"videos": (1, 0)} if name in WITH_VIDEO else {}
    model, inputs = vlm(name), tiny_inputs(name, images=(1, 2), **video)
    for method in ("visionzip", "prumerge+"):
        with omma.sparsify(model, method, schedule={-1: 11}) as trace:
            model(**inputs)
            model.generate(**inputs, max_new_tokens=1, num_beams=2)
        assert trace.entering.tolist() == [[11] * LAYERS] * 4
        assert all(torch.equal(a, b) for a, b in zip(trace.kept[-1][:2], trace.kept[-1][2:], strict=True))


def test_bfloat16_runs(method):
    model, inputs = copy.deepcopy(vlm()).bfloat16(), tiny_inputs("llava", images=(2, 1))
    inputs["pixel_values"] = inputs["pixel_values"].bfloat16()
    with omma.sparsify(model, method, ratio=0.5):
        assert torch.isfinite(model(**inputs).logits).all()
