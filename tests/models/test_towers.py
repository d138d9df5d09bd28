"""The towers of a CLIP: what is spared changes nothing, and what is left out is what was asked for."""

from dataclasses import replace

import pytest
import torch

from omma.models.towers import AttentionPool, TextConfig, TextTower, VisionConfig, VisionTower, quick_gelu

VISION = VisionConfig(image_size=16, patch_size=4, hidden_size=32, num_layers=2, num_heads=4)
TEXT = TextConfig(vocab_size=50, max_text_len=10, hidden_size=32, num_layers=2, num_heads=4)
LENGTHS = torch.tensor([10, 3, 6, 1])


def texts() -> tuple[torch.Tensor, torch.Tensor]:
    """Four texts of LENGTHS tokens, each ending in token 7, which stands nowhere else, and their mask."""
    torch.manual_seed(0)
    mask = (torch.arange(10) < LENGTHS[:, None]).long()
    ids = torch.randint(8, 50, (4, 10))
    ids[torch.arange(4), LENGTHS - 1] = 7
    return ids * mask, mask


def pictures(*size: int) -> torch.Tensor:
    return torch.randn(3, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("attention", "pool"),
    [("causal", "eos"), ("causal", "last"), ("causal", "mean"), ("bidirectional", "eos"), ("bidirectional", "last"),
     ("bidirectional", "first"), ("bidirectional", "mean")],
)  # fmt: skip
def test_a_text_gives_the_same_vector_alone_padded_and_packed(attention, pool):
    tower = TextTower(replace(TEXT, attention=attention, pool=pool, eos_token_id=7)).double()
    ids, mask = texts()
    alone = torch.cat([tower(ids[i : i + 1, :n]).pooled for i, n in enumerate(LENGTHS)])
    padded, packed = tower(ids, mask), tower(ids, mask, states=False)
    torch.testing.assert_close(padded.pooled, alone)
    torch.testing.assert_close(packed.pooled, alone)
    assert [s.shape for s in padded.hidden_states] == [(4, 10, 32)] * 3
    assert packed.hidden_states == ()


def test_packing_changes_no_gradient():
    tower = TextTower(replace(TEXT, attention="bidirectional", pool="mean")).double()
    ids, mask = texts()
    found = []
    for states in (True, False):
        tower.zero_grad()
        tower(ids, mask, states=states).pooled.square().sum().backward()
        found.append([p.grad.clone() for p in tower.parameters()])
    torch.testing.assert_close(found[0], found[1])


def test_a_causal_text_read_at_its_end_needs_no_mask():
    tower = TextTower(replace(TEXT, pool="eos", eos_token_id=7)).double()
    ids, mask = texts()
    seen = []
    tower.blocks[0].norm1.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    torch.testing.assert_close(tower(ids, states=False).pooled, tower(ids, mask).pooled)
    assert seen == [(int(LENGTHS.sum()), 32), (4, 10, 32)]


def test_the_end_of_a_text_is_its_largest_id_where_no_token_is_named():
    tower = TextTower(replace(TEXT, pool="eos"))
    assert tower.end_of(torch.tensor([[1, 5, 49, 0, 0], [1, 49, 0, 49, 0]])).tolist() == [2, 1]


def test_a_causal_token_sees_nothing_behind_it():
    tower = TextTower(TEXT).double()
    ids, _ = texts()
    other = ids.clone()
    other[0, 5:] = 9
    first, second = tower(ids).hidden_states[-1], tower(other).hidden_states[-1]
    torch.testing.assert_close(first[0, :5], second[0, :5])
    assert (first[0, 5:] - second[0, 5:]).abs().max() > 1e-3


def test_a_text_without_a_token_is_read_at_its_padding():
    tower = TextTower(replace(TEXT, attention="bidirectional")).double()
    empty = tower(torch.zeros(2, 4, dtype=torch.long), torch.tensor([[0, 0, 0, 0], [1, 1, 0, 0]]), states=False)
    torch.testing.assert_close(empty.pooled[0], tower(torch.zeros(1, 1, dtype=torch.long)).pooled[0])


def test_texts_that_do_not_fit_are_refused_with_what_to_do():
    tower = TextTower(TEXT)
    with pytest.raises(ValueError, match=r"a text of 12 tokens; .* 10\. Cut it, or build the tower with max_text_len"):
        tower(torch.ones(1, 12, dtype=torch.long))
    with pytest.raises(ValueError, match="pad behind"):
        tower(torch.ones(1, 4, dtype=torch.long), torch.tensor([[0, 0, 1, 1]]))


def test_padding_beyond_the_positions_is_cut_off():
    tower = TextTower(TEXT).double()
    ids, mask = texts()
    wide = torch.nn.functional.pad(ids, (0, 6)), torch.nn.functional.pad(mask, (0, 6))
    torch.testing.assert_close(tower(*wide, states=False).pooled, tower(ids, mask).pooled)


@pytest.mark.parametrize("pool", ["cls", "mean", "map"])
@pytest.mark.parametrize("size", [(16, 16), (12, 20)])
def test_the_last_layer_spares_only_what_is_not_read(pool, size):
    tower = VisionTower(replace(VISION, pool=pool)).double()
    full, part = tower(pictures(*size)), tower(pictures(*size), states=False)
    torch.testing.assert_close(full.pooled, part.pooled)
    assert [s.shape for s in full.hidden_states] == [(3, 1 + size[0] * size[1] // 16, 32)] * 3
    assert part.hidden_states == ()


def test_a_picture_that_patches_do_not_fill_is_refused_with_the_nearest_size():
    with pytest.raises(ValueError, match=r"18 x 16 px is not filled by patches of 4 px; resize it to 16 x 16"):
        VisionTower(VISION)(torch.zeros(1, 3, 16, 18))


@pytest.mark.parametrize("class_token", [True, False])
def test_training_keeps_a_share_of_the_patches_and_always_the_class_token(class_token):
    config = replace(VISION, patch_dropout=0.75, class_token=class_token, pool="mean", pre_norm=False)
    tower = VisionTower(config).double()
    whole = tower.eval().embed(pictures(16, 16))
    kept = tower.train().embed(pictures(16, 16))
    first = int(class_token)
    assert kept.shape[1] == first + 4
    torch.testing.assert_close(kept[:, :first], whole[:, :first])
    for row, among in zip(kept[:, first:], whole[:, first:], strict=True):
        places = [int((among == patch).all(dim=1).nonzero()) for patch in row]
        assert len(set(places)) == 4, "four of its own patches, none of them twice"
    assert (tower.embed(pictures(16, 16)) != kept).any(), "another draw each time"


def test_the_attention_pool_is_that_of_siglip():
    from transformers.models.siglip.configuration_siglip import SiglipVisionConfig
    from transformers.models.siglip.modeling_siglip import SiglipMultiheadAttentionPoolingHead

    theirs = SiglipMultiheadAttentionPoolingHead(
        SiglipVisionConfig(hidden_size=32, intermediate_size=64, num_attention_heads=4, hidden_act="gelu")
    ).double()
    ours = AttentionPool(replace(VISION, pool="map", mlp_ratio=2.0, norm_eps=1e-6)).double()
    state = theirs.state_dict()
    q, kv = state["attention.in_proj_weight"].split((32, 64))
    q_bias, kv_bias = state["attention.in_proj_bias"].split((32, 64))
    ours.load_state_dict({
        "query_token": state["probe"], "q.weight": q, "q.bias": q_bias, "kv.weight": kv, "kv.bias": kv_bias,
        "proj.weight": state["attention.out_proj.weight"], "proj.bias": state["attention.out_proj.bias"],
        "norm.weight": state["layernorm.weight"], "norm.bias": state["layernorm.bias"],
        **{f"mlp.{name}": value for name, value in theirs.mlp.state_dict().items()}})  # fmt: skip
    x = torch.randn(2, 9, 32, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x))


def test_quick_gelu_is_x_times_the_sigmoid_of_1_702_x():
    x = torch.linspace(-6, 6, 101, dtype=torch.float64)
    torch.testing.assert_close(quick_gelu(x), x * torch.sigmoid(1.702 * x))


@pytest.mark.parametrize(
    ("change", "message"),
    [({"num_heads": 5}, "hidden_size 32 does not divide by num_heads 5"), ({"image_size": 18}, "image_size 18"),
     ({"class_token": False}, "pool=cls needs class_token=true"), ({"num_layers": 0}, "num_layers=0: give 1 or more"),
     ({"patch_dropout": 1.0}, "patch_dropout=1.0")],
)  # fmt: skip
def test_sizes_that_do_not_fit_together_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(VISION, **change)


def test_a_causal_text_can_not_be_read_at_its_first_token():
    with pytest.raises(ValueError, match="pool=last"):
        replace(TEXT, pool="first")
