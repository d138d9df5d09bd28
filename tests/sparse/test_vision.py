"""What towers are heard to say, against what transformers itself returns, and what methods make of it."""

import contextlib
import math

import pytest
import torch

import omma
from omma.models.towers import VisionConfig
from omma.models.vlm import OmmaVLM, VLMConfig, eye_settings
from omma.models.vlmo_config import VLMoConfig
from omma.sparse.anatomy import anatomy
from omma.sparse.vision import BLOCK, Ear, looked_at, towers
from tiny_vlms import FAMILIES, VIDEO, WITH_VIDEO, shared_vlm, tiny_inputs, visual_mask

NEEDS = ("attention", "keys", "last_attention", "last_keys", "features")


@pytest.fixture(autouse=True)
def without_gradients():
    torch.manual_seed(0)
    with torch.no_grad():
        yield


def vlm(name="llava", attention="sdpa"):
    return shared_vlm(name, attention, layers=4)


def heard(model, inputs, needs=NEEDS):
    """What is heard of one pass, and the embeddings that the text model was given."""
    parts, given = anatomy(model), {}
    with contextlib.ExitStack() as undo:
        ear = Ear(parts, needs)
        ear.install(undo)
        hook = parts.text.register_forward_pre_hook(
            lambda module, args, kwargs: given.update(embeds=kwargs["inputs_embeds"]), with_kwargs=True
        )
        undo.callback(hook.remove)
        model(**inputs)
        return ear.placed(ear.taken(), visual_mask(inputs), inputs["input_ids"] == VIDEO), given["embeds"]


def on_tokens(seen, name, inputs):
    return seen.values[name][visual_mask(inputs)]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_class_attention_and_keys_of_the_layer_before_the_last_are_clips_own(attention):
    model, inputs = vlm("llava", attention), tiny_inputs("llava", images=(2, 1))
    seen, _ = heard(model, inputs)
    tower = vlm("llava", "eager").model.vision_tower
    keys = {}
    for at in (1, 2):
        for part in ("k_proj", "q_proj"):
            module = getattr(tower.encoder.layers[at].self_attn, part)
            module.register_forward_hook(lambda m, a, out, key=(at, part): keys.update({key: out}))
    rows = tower(inputs["pixel_values"], output_attentions=True).attentions[-2][:, :, 0, 1:]  # (pictures, H, P)
    for at in (1, 2):
        for part in ("k_proj", "q_proj"):
            getattr(tower.encoder.layers[at].self_attn, part)._forward_hooks.clear()
    assert torch.allclose(on_tokens(seen, "attention", inputs)[:, 0], rows.mean(1).flatten(), atol=1e-6)
    mean_keys = keys[1, "k_proj"][:, 1:].unflatten(2, (2, 16)).mean(2)
    assert torch.allclose(on_tokens(seen, "keys", inputs), mean_keys.flatten(0, 1), atol=1e-6)
    # PruMerge: one head of the whole width, in the last layer
    query, key = keys[2, "q_proj"], keys[2, "k_proj"]
    rows = (query[:, :1] @ key.transpose(1, 2) * 32**-0.5).softmax(-1)[:, 0, 1:]
    assert torch.allclose(on_tokens(seen, "last_attention", inputs)[:, 0], rows.flatten(), atol=1e-6)
    assert torch.allclose(on_tokens(seen, "last_keys", inputs), key[:, 1:].flatten(0, 1), atol=1e-6)


def test_without_a_class_token_it_is_the_mean_attention_received():
    model, inputs = vlm("llava_onevision"), tiny_inputs("llava_onevision", images=2)
    seen, _ = heard(model, inputs)
    tower = vlm("llava_onevision", "eager").model.vision_tower
    rows = tower(inputs["pixel_values"][:, 0], output_attentions=True).attentions[-1]  # (pictures, H, P, P)
    found = on_tokens(seen, "attention", inputs)[seen.known[visual_mask(inputs)], 0]
    assert torch.allclose(found, rows.mean((1, 2)).flatten(), atol=1e-6)
    assert int(seen.known.sum()) == int(visual_mask(inputs).sum()) - 2, "the end of each picture's line is no patch"


def test_attention_received_is_the_same_in_blocks_of_queries():
    query, key = torch.randn(1, 4, 2 * BLOCK + 9, 8), torch.randn(1, 2, 2 * BLOCK + 9, 8)
    rows = (query @ key.repeat_interleave(2, 1).transpose(2, 3) / math.sqrt(8)).softmax(-1)
    assert torch.allclose(looked_at(query, key, 8**-0.5, False), rows.mean((1, 2)), atol=1e-6)
    assert torch.allclose(looked_at(query, key, 8**-0.5, True), rows[:, :, 0].mean(1), atol=1e-6)
    ok = torch.arange(rows.shape[-1])[None] < 300
    inside = (query @ key.repeat_interleave(2, 1).transpose(2, 3) / math.sqrt(8)).masked_fill(~ok[:, None, None], -1e9)
    assert torch.allclose(
        looked_at(query, key, 8**-0.5, False, ok), inside.softmax(-1)[:, :, :300].mean((1, 2)), atol=1e-6
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_a_tokens_features_are_what_the_adapter_makes_it_of(name):
    """So what is heard stands where its token stands: through tiles, windows, merged patches, two pictures, a video."""
    model, inputs = vlm(name), tiny_inputs(name, images=(1, 2), videos=(1, 0) if name in WITH_VIDEO else 0)
    seen, embeds = heard(model, inputs)
    at = seen.known
    if name == "llava_onevision":  # its videos are made smaller behind the adapter
        at = at & (inputs["input_ids"] != VIDEO)
    assert torch.allclose(seen.project(seen.values["features"])[at], embeds[at], atol=1e-5)
    assert int(seen.known.sum()) > 0.9 * int(visual_mask(inputs).sum())
    assert not (seen.known & ~visual_mask(inputs)).any()


@pytest.mark.parametrize("name", ["idefics3", "internvl"])
def test_a_token_of_several_patches_has_their_mean(name):
    """By the model's own order of patches within a token, on the keys."""
    model, inputs = vlm(name), tiny_inputs(name, images=(1, 2))
    tower, keys = towers(model.model)[0], []
    hook = tower.attentions[tower.at].k_proj.register_forward_hook(lambda module, args, output: keys.append(output))
    try:
        found, _ = heard(model, inputs, ("keys",))
    finally:
        hook.remove()
    if name == "internvl":
        normed = tower.attentions[tower.at].k_norm(keys[0])[:, 1:]
        shuffled = model.model.pixel_shuffle(normed.unflatten(1, (8, 8)), 0.5).flatten(1, 2)
    else:
        shuffled = model.model.connector.pixel_shuffle(keys[0], 2)
    expected = shuffled.unflatten(2, (4, 2, 16)).mean((2, 3)).flatten(0, 1)  # over patches and heads
    assert torch.allclose(on_tokens(found, "keys", inputs), expected, atol=1e-5)


@pytest.mark.parametrize("eye", ["clip", "vlmo"])
def test_eyes_of_omma_are_heard_too(eye):
    config = VisionConfig(image_size=24, patch_size=4, hidden_size=32, num_layers=2, num_heads=2, pool="mean",
                          class_token=False)  # fmt: skip
    if eye == "vlmo":
        config = VLMoConfig(image_size=24, patch_size=4, hidden_size=32, num_layers=2, num_heads=2)
    text = {"model_type": "llama", "vocab_size": 60, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
            "num_attention_heads": 4, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip
    model = OmmaVLM(VLMConfig(eye=eye_settings(config), text_config=text, image_token_id=5)).eval()
    ids = torch.tensor([[1, *[5] * 36, 9, 8, 7]])
    inputs = {"input_ids": ids, "pixel_values": torch.randn(1, 3, 24, 24)}
    parts = anatomy(model)
    with contextlib.ExitStack() as undo:
        ear = Ear(parts, NEEDS)
        ear.install(undo)
        embeds = model.get_image_features(inputs["pixel_values"])
        seen = ear.placed(ear.taken(), ids == 5, None)
    assert torch.allclose(seen.project(seen.values["features"])[0, 1:37], embeds[0], atol=1e-6)
    attention = float(seen.values["attention"].sum())
    assert (
        attention == pytest.approx(1.0, abs=1e-5) if eye == "clip" else 0 < attention < 1
    )  # [CLS] looks at itself too
    for method in ("visionzip", "prumerge+", "holov"):
        with omma.sparsify(model, method, schedule={-1: 9}) as trace:
            model(**inputs)
        assert trace.entering.tolist() == [[9] * 3]


def entering(model, inputs, method, **options):
    """States of the visual tokens as they enter layer 0, for the first row, and the numbers kept."""
    given = {}
    with omma.sparsify(model, method, **options) as trace:
        layer = anatomy(model).layers[0]
        hook = layer.register_forward_pre_hook(
            lambda m, a, k: given.update(hidden=a[0] if a else k["hidden_states"]), with_kwargs=True
        )
        model(**inputs)
        hook.remove()
    return given["hidden"][0][trace.records[-1].layouts[-1].visual[0]], trace.kept[-1][0]


def test_visionzip_keeps_dominant_tokens_and_adds_contextual_ones_behind():
    model, inputs = vlm("llava"), tiny_inputs("llava")
    tower = vlm("llava", "eager").model.vision_tower
    out = tower(inputs["pixel_values"], output_attentions=True, output_hidden_states=True)
    attention, states = out.attentions[-2][0, :, 0, 1:].sum(0), out.hidden_states[-2][0]
    layer = tower.encoder.layers[1]
    metric = layer.self_attn.k_proj(layer.layer_norm1(out.hidden_states[1][0]))[1:].unflatten(1, (2, 16)).mean(1)
    dominant = sorted(attention.argsort(descending=True)[:13].tolist())
    rest = [i for i in range(36) if i not in dominant]
    targets = rest[:: len(rest) // 3][:3]
    others = [i for i in rest if i not in targets]
    alike = torch.nn.functional.cosine_similarity(metric[others][:, None], metric[targets][None], dim=-1).argmax(1)
    contextual = []
    for number, target in enumerate(targets):
        joined = [states[1 + i] for i, a in zip(others, alike.tolist(), strict=True) if a == number]
        contextual.append(states[1 + target] + (torch.stack(joined).mean(0) if joined else 0))
    expected = model.model.multi_modal_projector(torch.cat((states[1:][dominant], torch.stack(contextual))))
    hidden, kept = entering(model, inputs, "visionzip", schedule={-1: 16}, contextual=3 / 16)
    assert kept.tolist() == [*dominant, -1, -1, -1]
    assert torch.allclose(hidden, expected, atol=1e-4)


def test_prumerge_adds_neighbours_to_what_it_keeps_and_all_the_rest_in_one():
    model, inputs = vlm("llava"), tiny_inputs("llava")
    tower = vlm("llava", "eager").model.vision_tower
    out = tower(inputs["pixel_values"], output_hidden_states=True)
    x, layer = out.hidden_states[-2][0, 1:], tower.encoder.layers[2]
    normed = layer.layer_norm1(out.hidden_states[2][0])
    query, keys = layer.self_attn.q_proj(normed), layer.self_attn.k_proj(normed)
    attention = (query[0] @ keys.T * 32**-0.5).softmax(-1)[1:]
    kept = sorted(attention.argsort(descending=True)[:8].tolist())
    tokens = []
    for i in kept:
        alike = torch.nn.functional.cosine_similarity(keys[1 + i], keys[1:], dim=-1)
        alike[i] = -2
        near = alike.argsort(descending=True)[:5]
        tokens.append(x[i] + (attention[near, None] * x[near]).sum(0))
    others = [i for i in range(36) if i not in kept]
    tokens.append((attention[others, None] * x[others]).sum(0))
    hidden, numbers = entering(model, inputs, "prumerge", schedule={-1: 9}, neighbours=5)
    assert numbers.tolist() == [*kept, -1]
    assert torch.allclose(hidden, model.model.multi_modal_projector(torch.stack(tokens)), atol=1e-4)


def test_cdpruner_asks_clips_text_tower_where_it_is_given():
    from transformers import CLIPConfig, CLIPModel

    model, inputs = vlm("llava"), tiny_inputs("llava", images=(1, 1))
    text = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
            "vocab_size": 50, "eos_token_id": 49}  # fmt: skip
    vision = model.config.vision_config.to_dict()
    clip = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)).eval()
    questions = {"input_ids": torch.randint(1, 48, (2, 7)), "attention_mask": torch.ones(2, 7, dtype=torch.long)}
    kept = []
    for options in ({}, {"text_tower": clip, "question": questions}):
        with omma.sparsify(model, "cdpruner", schedule={-1: 9}, **options) as trace:
            model(**inputs)
        kept.append([k.tolist() for k in trace.kept[-1]])
    assert all(len(k) == 9 for run in kept for k in run)
    assert kept[0] != kept[1]
    flipped = {k: v.flip(0) for k, v in questions.items()}
    with omma.sparsify(model, "cdpruner", schedule={-1: 9}, text_tower=clip, question=flipped) as trace:
        model(**inputs)
    assert [k.tolist() for k in trace.kept[-1]] != kept[1]
    with (
        pytest.raises(ValueError, match="text_tower without question"),
        omma.sparsify(model, "cdpruner", schedule={-1: 9}, text_tower=clip),
    ):
        model(**inputs)


def test_one_shot_tome_weighs_a_token_by_its_patches():
    model, inputs = vlm("llava"), tiny_inputs("llava")
    logits = []
    for proportional in (True, False):
        with omma.sparsify(model, "tome", schedule={-1: 7}, proportional=proportional) as trace:
            logits.append(model(**inputs).logits)
        layout = trace.records[-1].layouts[-1]
        assert (layout.sizes is None) is not proportional
        if proportional:
            assert float(layout.sizes[layout.visual].sum()) == 36
            assert float(layout.sizes[~layout.visual].max()) == 1
    assert not torch.allclose(logits[0][0, -1], logits[1][0, -1], atol=1e-3)


def test_a_model_without_a_tower_that_can_be_heard_says_what_is_missing():
    model = vlm("llava")
    tower = model.model.vision_tower
    del model.model._modules["vision_tower"]
    try:
        with (
            pytest.raises(ValueError, match="has no vision tower that can be listened to"),
            omma.sparsify(model, "visionzip", budget=9),
        ):
            pass
    finally:
        model.model._modules["vision_tower"] = tower


def test_what_was_heard_for_one_prompt_is_not_read_for_the_next():
    """Neither of a picture that was kept whole, nor of a tower run for itself, also where beams share a picture."""
    model = vlm("llava")
    one, two = tiny_inputs("llava"), tiny_inputs("llava", images=2, seed=3)
    ask = {"max_new_tokens": 1, "num_beams": 2}
    with omma.sparsify(model, "visionzip", budget=40) as trace:
        model.generate(**one, **ask)  # 36 tokens: all stay, and the method isn't asked
        model.generate(**two, **ask)
        model.get_image_features(two["pixel_values"][:1])
        model.model.get_image_features(two["pixel_values"][:1])
        model.generate(**two, **ask)
    assert trace.entering[:, 0].tolist() == [36, 40, 40]
    assert torch.equal(trace.kept[-1][1], trace.kept[-1][2])


def test_an_answer_without_a_cache_hears_the_tower_once_for_all_its_steps():
    model, inputs = vlm("llava"), tiny_inputs("llava")
    ask = {"max_new_tokens": 4, "do_sample": False}
    for method in ("visionzip", "prumerge"):
        with omma.sparsify(model, method, schedule={-1: 9}):
            cached = model.generate(**inputs, **ask)
            assert torch.equal(model.generate(**inputs, **ask, use_cache=False), cached)


def test_a_method_that_asks_a_tower_that_didnt_run_says_what_to_give():
    model, inputs = vlm("llava"), tiny_inputs("llava")
    encoded = {"image": model.model.get_image_features(inputs.pop("pixel_values"))}
    asked = pytest.raises(ValueError, match=r"visionzip asks the vision tower, which didn't run .* give pixel_values")
    with omma.sparsify(model, "visionzip", schedule={-1: 9}), asked:
        model(**inputs, mm_encoder_outputs=encoded)
