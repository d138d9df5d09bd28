"""Cheaper passes: the same vectors as the whole model's, and nothing else of the model's is changed."""

import threading
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers as hf
from tiny_hf import MODELS, dinov3, pictures, save

from omma.models import hf_encoder, lean
from omma.models.hf import layers_of, side_of
from omma.models.hf_encoder import load_hf_encoder
from omma.models.lean import FasterLinear, FirstTokenAlone, by_onednn
from omma.models.pretrained import load_encoder

BY_CLASS_TOKEN = ["clip", "chinese_clip", "blip", "dinov2", "dinov2_with_registers", "vit", "dinov3"]
OTHERS = ["siglip", "siglip2", "convnext"]
ALL = MODELS | {"dinov3": dinov3}
onednn = pytest.mark.skipif(not hasattr(torch.ops.mkldnn, "_linear_pointwise"), reason="a PyTorch without oneDNN")


@pytest.fixture(scope="module")
def eyes(tmp_path_factory):
    made, folder = {}, tmp_path_factory.mktemp("eyes")

    def eye(name):
        if name not in made:
            made[name] = load_encoder(save(folder / name, ALL[name]()), device="cpu")
        return made[name]

    return eye


def whole(eye):
    """The vectors of untouched passes."""
    with torch.inference_mode():
        return eye.image_embeds(eye.image_inputs(pictures())).numpy()


@pytest.mark.parametrize("name", BY_CLASS_TOKEN + OTHERS)
def test_vectors_are_those_of_the_whole_model_and_only_class_tokens_go_through_the_last_mlp(name, eyes):
    eye = eyes(name)
    vision = side_of(eye.model, "vision")
    linear = [part for part in layers_of(vision)[-1].modules() if isinstance(part, torch.nn.Linear)][-1]
    seen = []
    hook = linear.register_forward_hook(lambda part, inputs, output: seen.append(output.shape[1]))
    found = eye.encode_image(pictures(), batch_size=1)
    hook.remove()
    np.testing.assert_allclose(found, whole(eye), atol=3e-6, rtol=0)
    assert (set(seen) == {1}) == (name in BY_CLASS_TOKEN)


@pytest.mark.parametrize("name", ["clip", "dinov2", "dinov3", "vit"])
def test_of_the_queries_only_the_class_tokens_is_made(name, eyes):
    eye = eyes(name)
    queries = [part for key, part in side_of(eye.model, "vision").named_modules() if key.endswith("q_proj")]
    seen = []
    hooks = [part.register_forward_hook(lambda part, inputs, output: seen.append(output)) for part in queries]
    eye.encode_image(pictures()[:1])
    for hook in hooks:
        hook.remove()
    assert [bool((q == q[:, :1]).all()) for q in seen] == [False, True]  # repeated for all tokens in the last layer


def test_what_the_last_layer_spares_is_not_what_it_reads(eyes):
    """That the test above can fail: with keys of the first token alone the vectors are others."""
    eye = eyes("clip")
    last: Any = layers_of(eye.model.vision_model)[-1]
    spared = FirstTokenAlone(last)
    spared.queries.add(id(last.self_attn.k_proj.weight))
    with torch.inference_mode(), spared:
        found = eye.image_embeds(eye.image_inputs(pictures())).numpy()
    assert np.abs(found - whole(eye)).max() > 1e-2


def test_the_model_is_left_as_found_and_another_thread_sees_all_of_it_meanwhile(eyes):
    eye = eyes("clip")
    vision, inputs = eye.model.vision_model, eye.image_inputs(pictures())
    with torch.no_grad():
        expected, found = vision(**inputs).last_hidden_state, []
        with FirstTokenAlone(layers_of(vision)[-1]):
            here = vision(**inputs).last_hidden_state
            other = threading.Thread(target=lambda: found.append(vision(**inputs).last_hidden_state.detach()))
            other.start()
            other.join()
    torch.testing.assert_close(here[:, 0], expected[:, 0])
    assert (here[:, 1:] - expected[:, 1:]).abs().max() > 1e-2
    assert torch.equal(found[0], expected)
    eye.encode_image(pictures())
    with torch.no_grad():
        assert torch.equal(vision(**inputs).last_hidden_state, expected)


def test_a_model_whose_last_layer_has_maps_of_other_names_is_computed_whole(eyes, tmp_path):
    eye = load_hf_encoder(save(tmp_path / "clip", ALL["clip"]()), device="cpu")
    expected = whole(eye)
    last: Any = layers_of(eye.model.vision_model)[-1]
    attention = last.self_attn
    attention.q_proj = torch.nn.Sequential(attention.q_proj)  # as an adapter wraps it
    np.testing.assert_allclose(eye.encode_image(pictures()), expected, atol=3e-6, rtol=0)


def test_a_processor_is_given_as_many_pictures_as_its_cache_holds(eyes, monkeypatch):
    eye, seen = eyes("clip"), []
    expected = eye.encode_image(pictures())
    embeds = eye.image_embeds
    monkeypatch.setattr(eye, "image_embeds", lambda inputs: seen.append(len(inputs["pixel_values"])) or embeds(inputs))
    eye.encode_image(pictures())
    monkeypatch.setattr(hf_encoder, "ACTIVATIONS", 3 * 16 * 4 * 4 * 32)  # of 3 x 16 patches, 4 x 32 wide in float32
    np.testing.assert_allclose(eye.encode_image(pictures()), expected, atol=3e-6, rtol=0)
    eye.encode_image(pictures()[:3])
    monkeypatch.setattr(eye, "precision", "bf16")
    eye.encode_image(pictures())
    assert seen == [4, 2, 2, 3, 4]


def test_pictures_at_once_of_released_sizes(eyes, monkeypatch):
    eye, found = eyes("clip"), []
    for size, patch, width in ((224, 32, 768), (224, 16, 768), (224, 14, 1024), (336, 14, 1024)):
        config = hf.CLIPVisionConfig(image_size=size, patch_size=patch, hidden_size=width, num_attention_heads=16)
        monkeypatch.setattr(eye.model.vision_model, "config", config)
        found.append([eye._at_once(wanted) for wanted in (1, 32, 64)])
    assert found == [[1, 16, 16], [1, 4, 4], [1, 2, 2], [1, 1, 1]]


# ---------------------------------------------------------------------------------------------------------- linear maps
@onednn
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(8,), (5, 8), (2, 5, 8)])
def test_a_linear_map_by_onednn_is_the_same(shape, bias, monkeypatch):
    monkeypatch.setattr(lean, "LARGE", 1)
    torch.manual_seed(0)
    linear, x = torch.nn.Linear(8, 6, bias=bias), torch.randn(shape)
    with torch.no_grad():
        torch.testing.assert_close(taken(linear, x), linear(x))
        if x.dim() == 3:
            torch.testing.assert_close(taken(linear, x[:, :1]), linear(x[:, :1]))
            torch.testing.assert_close(taken(linear, x[:, 1:].transpose(0, 1)), linear(x[:, 1:].transpose(0, 1)))
        with FasterLinear():  # a part of a weight, as VLMo takes it
            found = F.linear(x, linear.weight[2:])
        torch.testing.assert_close(found, F.linear(x, linear.weight[2:]))


def taken(linear, x):
    """linear(x) by oneDNN, seen to have come from there."""
    with torch.profiler.profile() as profile, FasterLinear():
        found = linear(x)
    assert any("_linear_pointwise" in event.key for event in profile.key_averages())
    return found


def test_small_maps_gradients_and_other_types_stay_where_they_were(monkeypatch):
    x, weight = torch.randn(1000, 400), torch.randn(400, 400)
    with torch.no_grad():
        assert by_onednn(x, weight)
        assert not by_onednn(x[:600], weight)
        assert not by_onednn(x.double(), weight.double())
        assert not by_onednn(x.bfloat16(), weight.bfloat16())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert not by_onednn(x, weight)
    assert not by_onednn(x, weight)
    weight.requires_grad_()
    with FasterLinear():
        F.linear(x, weight).sum().backward()
    torch.testing.assert_close(weight.grad, x.sum(dim=0).expand(400, 400), atol=1e-3, rtol=0)


@onednn
@pytest.mark.parametrize("name", ["clip", "siglip", "dinov2", "convnext"])
def test_eyes_give_the_same_vectors_where_mkl_is_slow(name, eyes, monkeypatch):
    eye = eyes(name)
    expected = whole(eye)
    monkeypatch.setattr(lean, "LARGE", 1)
    monkeypatch.setattr(lean, "mkl_is_slow", lambda: True)
    with torch.profiler.profile() as profile:
        found = eye.encode_image(pictures())
    assert any("_linear_pointwise" in event.key for event in profile.key_averages())
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)


def test_mkl_is_slow_on_amd_with_avx_512_alone(monkeypatch, tmp_path):
    found = {}
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr("builtins.open", lambda *args, **kwargs: (_ for _ in ()).throw(FileNotFoundError()))
    for maker in ("AuthenticAMD", "GenuineIntel"):
        for width in ("AVX2", "AVX512"):
            monkeypatch.setattr(lean.platform, "processor", lambda maker=maker: f"Family 25 Model 97, {maker}")
            monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda width=width: width)
            found[maker, width] = lean.mkl_is_slow.__wrapped__()
    monkeypatch.undo()
    assert [pair for pair, slow in found.items() if slow] == [("AuthenticAMD", "AVX512")]
