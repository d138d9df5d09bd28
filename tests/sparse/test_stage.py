"""What a method sees is what the model computed, and what it answers is what later layers see."""

from types import SimpleNamespace

import pytest
import torch
from oracle import at_kept_rows, masked_out
from torch.utils._python_dispatch import TorchDispatchMode

import omma
from omma.sparse import methods
from omma.sparse.methods import METHODS, Method
from omma.sparse.score import top
from omma.sparse.stage import Reduction
from tiny_vlms import IMAGE, WITH_VIDEO, tiny_inputs, tiny_vlm, visual_mask


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def llava():
    return tiny_vlm("llava", layers=4)


@pytest.fixture
def probe(monkeypatch):
    """A method made for one test: probe(reduce) runs `reduce` at each stage."""

    def install(reduce, **of):
        monkeypatch.setitem(
            METHODS,
            "probe",
            Method(**{"reduce": reduce, "after": (-1,), "shape": methods.one, "positions": "original"} | of),
        )

    return install


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("name", ["llava", "qwen3_vl", "internvl"])
def test_the_rows_that_are_read_are_the_model_s_own_attention(probe, name, own):
    model, inputs = tiny_vlm(name, layers=3, attention="eager"), tiny_inputs(name, images=(2, 1))
    heard = {}

    def reduce(stage):
        which = stage.raters() if stage.layer == 1 else stage.last()
        heard[stage.layer] = (stage, stage.rows(which, own=own), which)
        return Reduction(kept=stage.visual)

    probe(reduce, attention="own" if own else "before")
    maps = model(**inputs, output_attentions=True).attentions
    with omma.sparsify(model, "probe", schedule={0: 1, 1: 1}):
        model(**inputs)
    for layer, (stage, rows, which) in heard.items():
        assert rows.ok.sum(1).tolist() == which.sum(1).tolist()
        true = maps[layer if own else layer - 1]
        expected = true.gather(2, rows.places[:, None, :, None].expand(-1, true.shape[1], -1, true.shape[3]))
        seen = rows.ok[:, None, :, None].expand_as(expected)
        assert torch.allclose(rows.attention[seen], expected[seen], atol=1e-6)
        assert (rows.attention.sum(-1) <= 1 + 1e-5).all()
        assert (rows.attention[seen & ~rows.seen[:, None].expand_as(seen)] == 0).all(), "nobody sees what comes later"
        assert stage.valid.equal(inputs["attention_mask"].bool())


def test_raters_are_text_of_the_prompt_and_stay_the_same_as_pictures_shrink(llava, probe):
    inputs = tiny_inputs("llava", images=(2, 1))
    found = []

    def reduce(stage):
        found.append(torch.zeros_like(inputs["input_ids"]).scatter_add(1, stage.source, stage.raters().long()))
        return Reduction(kept=stage.best(-stage.origin.float()))

    probe(reduce, attention="before")
    with omma.sparsify(llava, "probe", schedule={0: 30, 1: 9, 2: 1}) as trace:
        llava(**inputs)
    assert len(found) == 3
    assert all(torch.equal(raters, found[0]) for raters in found)
    behind = (visual_mask(inputs).cumsum(1) > 0) & ~visual_mask(inputs)
    assert (found[0].bool() <= behind).all()
    assert found[0].any(1).all()
    assert [kept.tolist() for kept in trace.kept[2]] == [[0], [0]]


def test_equal_scores_keep_the_first_tokens_and_nan_is_the_lowest(llava, probe):
    inputs = tiny_inputs("llava")

    def reduce(stage):
        scores = torch.zeros_like(stage.origin, dtype=torch.float32)
        return Reduction(kept=stage.best(scores.masked_fill(stage.origin == 2, float("nan"))))

    probe(reduce)
    with omma.sparsify(llava, "probe", schedule={-1: 5}) as trace:
        llava(**inputs)
    assert trace.kept[-1][0].tolist() == [0, 1, 3, 4, 5]


@pytest.mark.parametrize(("side", "k"), [(6, 6), (14, 21), (24, 64)])
def test_the_uniform_control_is_spread_over_rows_and_columns(side, k):
    """Every n-th of 36 tokens, 6 of them, would be one column of the picture."""
    visual = torch.ones(1, side * side, dtype=torch.bool)
    number = torch.arange(side * side)[None]
    stage = SimpleNamespace(origin=number, best=lambda scores: top(scores, k, visual))
    kept = methods.uniform(stage).kept.view(side, side)
    assert kept.sum() == k
    assert kept.sum(0).max() <= max(2, 2 * k / side)
    assert kept.sum(1).max() <= max(2, 2 * k / side)
    fewer = SimpleNamespace(origin=number, best=lambda scores: top(scores, k // 2, visual))
    assert (methods.uniform(fewer).kept.view(side, side) <= kept).all(), "fewer are a part of more"


@pytest.mark.parametrize("positions", ["original", "compact"])
def test_before_the_first_layer_it_is_the_prompt_without_these_tokens(llava, positions):
    """Renumbered, or at the places it had."""
    inputs = tiny_inputs("llava")
    ask = {"max_new_tokens": 4, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    with omma.sparsify(llava, "random", budget=9, positions=positions, seed=3) as trace:
        sparse = llava.generate(**inputs, **ask)
    assert trace.budget() == 9
    stays = ~visual_mask(inputs)[0]
    stays[visual_mask(inputs)[0].nonzero()[:, 0][trace.kept[-1][0]]] = True
    features = llava.get_image_features(inputs["pixel_values"]).pooler_output[0]
    embeds = llava.get_input_embeddings()(inputs["input_ids"])
    embeds[visual_mask(inputs)] = features
    places = stays.nonzero()[:, 0] if positions == "original" else torch.arange(int(stays.sum()))
    cache, step = None, embeds[:, stays]
    for word, logits in zip(sparse.sequences[0, -4:], sparse.logits, strict=True):
        out = llava(inputs_embeds=step, position_ids=places[None], past_key_values=cache, use_cache=True)
        assert torch.allclose(out.logits[:, -1], logits, atol=1e-5)
        cache, places = out.past_key_values, places[-1:] + 1
        step = llava.get_input_embeddings()(word)[None, None]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_token_of_size_two_weighs_as_much_as_two_alike(probe, attention):
    """Two equal tokens at one position, against one with log 2 on its logit: in the prompt and in the answer."""
    model = tiny_vlm("llava", layers=3, attention=attention)
    embeds = model.get_input_embeddings()
    text = torch.tensor([[20, 21, 22, 23]])
    prompt = torch.cat([embeds(torch.tensor([[IMAGE, IMAGE]])), embeds(text)], dim=1)
    places, words = torch.tensor([[0, 0, 1, 2, 3, 4]]), torch.tensor([[30, 31]])

    def reduce(stage):
        return Reduction(kept=stage.origin == 0, sizes=torch.full(stage.visual.shape, 2.0))

    def run():
        out = model(inputs_embeds=prompt, position_ids=places, use_cache=True)
        more = model(input_ids=words, position_ids=torch.tensor([[5, 6]]), past_key_values=out.past_key_values)
        return out.logits[:, -4:], more.logits

    plain = run()
    for after in (-1, 0):
        probe(reduce)
        with omma.sparsify(model, "probe", schedule={after: 1}):
            assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(run(), plain, strict=True))


def test_what_a_method_makes_stands_behind_the_picture_and_counts(llava, probe):
    """Made of the last token alone and in its place, it is that token; a row may have none."""
    inputs = tiny_inputs("llava", images=(1, 1))
    last = 35

    def reduce(stage):
        at = (stage.origin == last).long().argmax(1)[:, None]
        ok = torch.tensor([[True], [False]])
        extra = stage.hidden.gather(1, at[:, :, None].expand(-1, -1, stage.hidden.shape[-1]))
        kept = torch.where(ok, stage.origin < last, stage.visual)
        return Reduction(kept=kept, extra=extra, extra_ok=ok, extra_at=at)

    probe(reduce)
    with omma.sparsify(llava, "probe", schedule={1: 35}) as trace:
        logits = llava(**inputs).logits
    tokens = inputs["attention_mask"].bool()
    assert torch.allclose(logits[tokens], llava(**inputs).logits[tokens], atol=1e-5)
    assert trace.kept[1][0].tolist() == [*range(last), -1]
    assert trace.kept[1][1].tolist() == list(range(36))
    assert trace.entering.tolist() == [[36] * 4] * 2


def test_calibration_adds_what_it_says_to_each_visual_key():
    model, inputs = tiny_vlm("llava", layers=3), tiny_inputs("llava", images=(2, 1))
    with omma.sparsify(model, "fastv", schedule={0: 10}, calibrate=True, positions="original") as trace:
        sparse = model(**inputs).logits
        ask = {"max_new_tokens": 4, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
        cached, again = model.generate(**inputs, **ask), model.generate(**inputs, **ask, use_cache=False)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(cached.logits, again.logits, strict=True))
    model.set_attn_implementation("eager")
    places = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0).double()
    places = torch.arange(inputs["input_ids"].shape[1]).expand_as(places).double()  # a direct pass counts padding too
    frequency = model.model.language_model.rotary_emb.inv_freq.double()
    distance = (places[:, :, None] - places[:, None])[..., None] * frequency
    kept = torch.tensor([[72.0], [36.0]])[:, :, None] / 10
    bias = kept.double().log() + (2 - distance.cos().mean(-1)).log()
    bias = torch.where(visual_mask(inputs)[:, None], bias, 0.0).float()[:, None]
    with masked_out(model, trace, bias=[None, bias, bias]):
        dense = model(**inputs).logits
    dense, ok = at_kept_rows(dense, trace)
    assert torch.allclose(sparse[ok], dense[ok], atol=1e-5)


@pytest.mark.parametrize("name", WITH_VIDEO)
def test_tokens_of_videos_are_visual_tokens(name):
    model, inputs = tiny_vlm(name, layers=3), tiny_inputs(name, images=(1, 0), videos=1)
    with omma.sparsify(model, "sparsevlm", schedule={0: 7, 1: 3}) as trace:
        sparse = model(**inputs).logits
    assert trace.tokens.tolist() == visual_mask(inputs).sum(1).tolist()
    assert [len(kept) for kept in trace.kept[1]] == [3, 3]
    with masked_out(model, trace):
        dense = model(**inputs).logits
    dense, ok = at_kept_rows(dense, trace)
    assert torch.allclose(sparse[ok], dense[ok], atol=1e-5)


def test_no_attention_map_is_made_for_the_scores(llava):
    inputs = tiny_inputs("llava", images=2)
    length, shapes = inputs["input_ids"].shape[1], []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            shapes.extend(tuple(x.shape) for x in (out if isinstance(out, tuple) else (out,)) if hasattr(x, "shape"))
            return out

    with omma.sparsify(llava, "sparsevlm-v1", schedule={0: 12, 1: 5}), Watch():
        llava(**inputs)
    assert not [shape for shape in shapes if shape[-2:] == (length, length)]
    assert [shape for shape in shapes if len(shape) >= 4 and shape[-1] == length], "only rows of it"
