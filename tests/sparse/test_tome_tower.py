"""ToMe within the tower against its layers run by hand, one picture at a time, with the merge written into them."""

import pytest
import torch

import omma
from omma.sparse.anatomy import anatomy
from tiny_vlms import shared_vlm, tiny_inputs


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


def vlm(name="llava", attention="sdpa"):
    return shared_vlm(name, attention, layers=3)


def merged_by_hand(tower, pixels, plan: list[int], proportional: bool) -> tuple[torch.Tensor, list[int], list[float]]:
    """States behind the last layer of `plan` (r of each layer), the patch each row was at first, and its size."""
    x = tower.pre_layrnorm(tower.embeddings(pixels))[0]
    size, first = torch.ones(len(x)), list(range(len(x)))
    for layer, r in zip(tower.encoder.layers, plan, strict=False):
        attention, normed = layer.self_attn, layer.layer_norm1(x)
        q, k, v = (p(normed).view(len(x), 2, 16).transpose(0, 1) for p in
                   (attention.q_proj, attention.k_proj, attention.v_proj))  # fmt: skip
        logits = q @ k.transpose(1, 2) / 4 + (size.log() if proportional else 0)
        x = x + attention.out_proj((logits.softmax(-1) @ v).transpose(0, 1).flatten(1))
        keys = torch.nn.functional.normalize(k.mean(0), dim=-1)
        even, odd = list(range(2, len(x), 2)), list(range(1, len(x), 2))  # the class token, 0, stays
        alike = keys[even] @ keys[odd].T
        chosen = sorted(range(len(even)), key=lambda i: -float(alike[i].max()))[:r]
        groups = {i: [i] for i in range(len(x))}
        for i in chosen:
            groups[odd[int(alike[i].argmax())]] += groups.pop(even[i])
        x = torch.stack([(x[g] * size[g, None]).sum(0) / size[g].sum() for g in groups.values()])
        size, first = torch.stack([size[g].sum() for g in groups.values()]), [first[i] for i in groups]
        x = x + layer.mlp(layer.layer_norm2(x))
    return x, first, size.tolist()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("proportional", [True, False])
def test_a_tower_that_merges_is_its_layers_with_the_merge_written_into_them(attention, proportional):
    model, inputs, given = vlm("llava", attention), tiny_inputs("llava", images=(1, 1)), {}
    # 36 patches to 13 within the two layers before the decoder's: 12 and 11
    with omma.sparsify(model, "tome", schedule={-1: 13}, where="tower", proportional=proportional) as trace:
        hook = (
            anatomy(model)
            .layers[0]
            .register_forward_pre_hook(
                lambda m, a, k: given.update(hidden=a[0] if a else k["hidden_states"]), with_kwargs=True
            )
        )
        model(**inputs)
        hook.remove()
    layout = trace.records[-1].layouts[-1]
    tower = vlm("llava", attention).model.vision_tower
    for row in range(2):
        x, first, size = merged_by_hand(tower, inputs["pixel_values"][row : row + 1], [12, 11], proportional)
        assert trace.kept[-1][row].tolist() == [patch - 1 for patch in first[1:]]
        expected = model.model.multi_modal_projector(x[1:])
        assert torch.allclose(given["hidden"][row][layout.visual[row]], expected, atol=1e-4)
        if proportional:
            assert layout.sizes[row][layout.visual[row]].tolist() == size[1:]


def test_the_mlp_of_a_tower_that_merges_computes_fewer_tokens():
    model, inputs, seen = vlm(), tiny_inputs("llava"), []
    layers = model.model.vision_tower.encoder.layers
    hooks = [layer.mlp.fc1.register_forward_hook(lambda m, a, out: seen.append(out.shape[1])) for layer in layers]
    with omma.sparsify(model, "tome", schedule={-1: 13}, where="tower"):
        model(**inputs)
    for hook in hooks:
        hook.remove()
    assert seen == [37 - 12, 37 - 23, 14]


@pytest.mark.parametrize(("images", "k"), [((2, 1, 0), 9), ((1, 2), 1), ((1, 1), 36)])
def test_samples_of_several_pictures_meet_the_budget_too(images, k):
    model, inputs = vlm(), tiny_inputs("llava", images=images)
    dense = model(**inputs).logits
    with omma.sparsify(model, "tome", schedule={-1: k}, where="tower") as trace:
        sparse = model(**inputs).logits
    assert trace.entering[:, 0].tolist() == [min(k, 36 * n) for n in images]
    assert torch.equal(sparse, dense) is (k == 36)
    assert torch.equal(model(**inputs).logits, dense), "the tower is left as it was found"


def test_a_persons_patches_and_videos_and_generate():
    keep = torch.zeros(36, dtype=torch.bool)
    keep[[2, 4, 6]] = True
    with omma.sparsify(vlm(), "tome", schedule={-1: 5}, where="tower", keep=keep) as trace:
        vlm().generate(**tiny_inputs("llava"), max_new_tokens=2)
    assert {2, 4, 6} <= set(trace.kept[-1][0].tolist())
    assert len(trace.kept[-1][0]) == 5
    model, inputs = vlm("video_llava"), tiny_inputs("video_llava", images=(1, 0), videos=(0, 1))
    with omma.sparsify(model, "tome", schedule={-1: 12}, where="tower") as trace:
        model(**inputs)
    assert trace.entering.tolist() == [[12] * 3] * 2


@pytest.mark.parametrize(
    ("name", "reason"),
    [("llava_next", "puts tiles together"), ("llava_onevision", "puts tiles together"), ("qwen2_vl", "merges squares"),
     ("qwen2_5_vl", "merges squares"), ("idefics3", "pixel shuffle"), ("internvl", "pixel shuffle")],
)  # fmt: skip
def test_where_tokens_are_made_of_several_patches_the_reason_is_given(name, reason):
    with (
        pytest.raises(ValueError, match=f"{reason}.*; use where='tokens'"),
        omma.sparsify(vlm(name), "tome", budget=9, where="tower"),
    ):
        pass
    with (
        pytest.raises(ValueError, match="there are 'tower' and 'tokens'"),
        omma.sparsify(vlm(name), "tome", budget=9, where="inside"),
    ):
        pass
