"""VLMo against arithmetic, the paper's sizes, and slow paths written out."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from omma.models.heads import ClassHead
from omma.models.layers import attend
from omma.models.positions import relative_index, resample_grid, resample_relative
from omma.models.vlmo import VLMo
from omma.models.vlmo_config import PRESETS, VLMoConfig

TINY = VLMoConfig(image_size=32, patch_size=8, vocab_size=50, max_text_len=12, hidden_size=24, num_layers=4,
                  num_heads=3, num_vl_layers=2, itc_vl=True, answers=tuple("abcdefg"), num_pair_classes=2,
                  num_image_types=2)  # fmt: skip


def randomized(config: VLMoConfig, seed: int = 0) -> VLMo:
    """A model whose every weight matters: norms, biases, LayerScale and tables away from their neutral values."""
    torch.manual_seed(seed)
    model = VLMo(config).double().eval()
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return model


@pytest.fixture(params=["absolute", "relative"])
def model(request) -> VLMo:
    return randomized(replace(TINY, positions=request.param))


@pytest.fixture
def batch() -> dict:
    g = torch.Generator().manual_seed(1)
    ids = torch.randint(5, 50, (3, 8), generator=g)
    mask = torch.tensor([[1] * 8, [1] * 5 + [0] * 3, [1] * 3 + [0] * 5])
    return {"input_ids": ids, "attention_mask": mask, "pixel_values": torch.randn(3, 3, 32, 32, generator=g).double()}


@pytest.mark.parametrize(("name", "published"), [("base", 175.43), ("base_plus", 166.57), ("large", 561.54)])
def test_backbones_have_the_published_number_of_weights(name, published):
    with torch.device("meta"):
        model = VLMo(PRESETS[name])
    count = model.num_parameters(backbone_only=True)
    if PRESETS[name].positions == "relative":
        count += 40 * PRESETS[name].hidden_size  # the released files hold text positions that these two sizes never use
    assert count / 1e6 == pytest.approx(published, abs=0.006)


def test_nano_has_about_5_million_weights():
    assert 4.5e6 < VLMo(PRESETS["nano"]).num_parameters(backbone_only=True) < 6e6


def test_the_joint_sequence_is_text_then_image(model, batch):
    out = model(**batch)
    assert out.last_hidden_state.shape == (3, 8 + 1 + 16, 24)
    assert out.text_len == 8
    assert len(out.hidden_states) == 5
    torch.testing.assert_close(out.hidden_states[0][:, :8], model.embed_text(batch["input_ids"]))
    torch.testing.assert_close(out.hidden_states[0][:, 8:], model.embed_image(batch["pixel_values"]))
    torch.testing.assert_close(out.pooled, torch.tanh(model.pooler(out.last_hidden_state[:, 0])))


def test_padding_changes_nothing(model, batch):
    """A text trimmed to its own length gives what it gives padded in a batch, alone and fused."""
    out = model(**batch)
    for i, length in enumerate(batch["attention_mask"].sum(dim=1).tolist()):
        alone = model(batch["input_ids"][i : i + 1, :length], None, batch["pixel_values"][i : i + 1])
        torch.testing.assert_close(alone.last_hidden_state[0, :length], out.last_hidden_state[i, :length])
        torch.testing.assert_close(alone.last_hidden_state[0, length:], out.last_hidden_state[i, 8:])
        single = model.encode_text(batch["input_ids"][i : i + 1, :length])
        torch.testing.assert_close(single[0], model.encode_text(batch["input_ids"], batch["attention_mask"])[i])


def test_the_largest_token_speaks_and_padding_never_does(batch):
    """pool="max": per dimension the largest of the projected real tokens, written out for each text and picture."""
    model = randomized(replace(TINY, pool="max"))
    texts = model.encode_text(batch["input_ids"], batch["attention_mask"])
    states = model(batch["input_ids"], batch["attention_mask"]).last_hidden_state
    for i, length in enumerate(batch["attention_mask"].sum(dim=1).tolist()):
        largest = model.itc_text(states[i, :length]).max(dim=0).values
        torch.testing.assert_close(texts[i], F.normalize(largest, dim=-1))
    largest = model.itc_image(model(pixel_values=batch["pixel_values"]).last_hidden_state).max(dim=1).values
    torch.testing.assert_close(model.encode_image(batch["pixel_values"]), F.normalize(largest, dim=-1))
    both = model(**batch)
    for i, length in enumerate(batch["attention_mask"].sum(dim=1).tolist()):
        real = torch.cat((both.last_hidden_state[i, :length], both.last_hidden_state[i, 8:]))
        torch.testing.assert_close(both.pooled[i], torch.tanh(model.pooler(real)).max(dim=0).values)


def test_vectors_are_projected_in_float32_under_autocast(batch):
    torch.manual_seed(0)
    model = VLMo(TINY).eval()
    seen = []
    model.itc_image.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0].dtype, output.dtype)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model.encode_image(batch["pixel_values"].float()).dtype == torch.float32
    assert seen == [(torch.float32, torch.float32)]


def test_each_token_goes_through_its_expert(model, batch):
    """The joint pass equals blocks written out token by token: text and image experts below vl_start, VL above."""
    text, image = model.embed_text(batch["input_ids"]), model.embed_image(batch["pixel_values"])
    x = torch.cat((text, image), dim=1)
    bias = model.attention_bias(batch["attention_mask"], 8, (4, 4))
    for i, block in enumerate(model.blocks):
        x = x + block.gamma_1 * block.attention(block.norm1(x), bias[i])
        rows = []
        for s in range(x.shape[1]):
            name = "vl" if i >= 2 else ("text" if s < 8 else "image")
            expert = block.experts[name]
            rows.append(expert.fc2(F.gelu(expert.fc1(expert.norm(x[:, s])))))
        x = x + block.gamma_2 * torch.stack(rows, dim=1)
    torch.testing.assert_close(model.norm(x), model(**batch).last_hidden_state)


def test_attention_equals_the_written_out_formula(model, batch):
    block, x = model.blocks[1], model.embed_text(batch["input_ids"])
    bias = model.attention_bias(batch["attention_mask"], 8, None)[1]
    attention, B, _S, H, d = block.attention, 3, 8, 3, 8
    weight = attention.qkv.weight
    q, k, v = (
        F.linear(x, w, b) for w, b in zip(weight.chunk(3), (attention.q_bias, None, attention.v_bias), strict=True)
    )
    out = torch.zeros_like(x)
    for h in range(H):
        part = slice(h * d, (h + 1) * d)
        for i in range(B):
            scores = q[i, :, part] @ k[i, :, part].T / d**0.5
            if bias is not None:
                scores = scores + bias[i % len(bias), h % bias.shape[1]]
            out[i, :, part] = scores.softmax(dim=-1) @ v[i, :, part]
    torch.testing.assert_close(attention.proj(out), attention(x, bias))


def test_a_key_bias_would_change_nothing():
    """Why the projection's bias is (q, 0, v)."""
    q, k, v = torch.randn(3, 2, 2, 5, 4, dtype=torch.double)
    torch.testing.assert_close(attend(q, k + torch.randn(4, dtype=torch.double), v), attend(q, k, v))


def test_eager_and_fused_attention_agree():
    q, k, v = torch.randn(3, 2, 2, 5, 4)
    bias = torch.randn(1, 2, 5, 5)
    bias[..., 3:] = float("-inf")
    fused = attend(q, k, v, bias)
    eager = attend(q, k, v, bias.clone().requires_grad_())
    torch.testing.assert_close(eager, fused)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(attend(q, k, v, bias).float(), fused, atol=0.03, rtol=0.03)


def test_heads_have_their_shapes_and_norms(model, batch):
    ids, mask, pixels = batch.values()
    for head in ("itc", "itc_vl"):
        for embeds in (model.encode_image(pixels, head=head), model.encode_text(ids, mask, head=head)):
            assert embeds.shape == (3, 24)
            torch.testing.assert_close(embeds.norm(dim=-1), torch.ones(3), check_dtype=False)
    assert model.match(ids, mask, pixels).shape == (3, 2)
    assert model.answer(ids, mask, pixels).shape == (3, 7)
    assert model.classify_pair(ids, mask, pixels, pixels.flip(0)).shape == (3, 2)


def test_the_vl_head_reuses_the_lower_layers(model, batch):
    """itc_vl = lower layers of the picture's own pass, then the top layers once more with the VL experts."""
    x = model.embed_image(batch["pixel_values"])
    bias = model.attention_bias(None, 0, (4, 4))
    for i, block in enumerate(model.blocks):
        x = block(x, "image" if i < 2 else "vl", 0, bias[i])
    expected = F.normalize(model.itc_vl_image(model.norm(x)[:, 0]), dim=-1)
    torch.testing.assert_close(model.encode_image(batch["pixel_values"], head="itc_vl"), expected)


def test_pair_classification_is_two_passes_with_picture_types(model, batch):
    ids, mask, pixels = batch.values()
    other = pixels.flip(0)
    text = model.embed_text(ids)
    pooled = [
        model.encode(text, mask, model.embed_image(p, image_type=i), (4, 4)).pooled
        for i, p in enumerate((pixels, other))
    ]
    torch.testing.assert_close(
        model.classify_pair(ids, mask, pixels, other), model.pair_head(torch.cat(pooled, dim=-1))
    )


def test_one_eye_runs_at_other_and_non_square_sizes(model, batch):
    for height, width in ((64, 64), (32, 48), (24, 64)):
        out = model(pixel_values=torch.randn(2, 3, height, width).double())
        assert out.last_hidden_state.shape == (2, 1 + height * width // 64, 24)
        assert model.encode(
            model.embed_text(batch["input_ids"][:2]), None, out.hidden_states[0], (height // 8, width // 8)
        )
    with pytest.raises(ValueError, match=r"36, 32.*patches of 8"):
        model(pixel_values=torch.zeros(1, 3, 36, 32).double())


def test_resampling_to_the_same_grid_is_the_identity_and_keeps_a_plane():
    values = torch.randn(12, 5)
    assert resample_grid(values, (3, 4), (3, 4)) is values
    flat = torch.full((12, 5), 0.3)
    torch.testing.assert_close(resample_grid(flat, (3, 4), (7, 5)), torch.full((35, 5), 0.3))
    table = torch.randn(2, 3, 5 * 5)
    wide = resample_relative(table, (3, 3), (5, 5)).reshape(2, 3, 9, 9)
    torch.testing.assert_close(wide[..., 4, 4], table.reshape(2, 3, 5, 5)[..., 2, 2])  # distance 0 stays distance 0


def test_relative_buckets_are_numbered_as_released():
    image, text, total = relative_index((14, 14), 40, 196)
    near = 27 * 27 + 3
    assert (near, total) == (732, 1126)
    assert image[0, 0] == near - 1
    assert image[0, 5] == near - 3
    assert image[5, 0] == near - 2
    assert image[1, 1] == image[50, 50] == 13 * 27 + 13  # distance (0, 0)
    assert image[1, 2] == 13 * 27 + 12  # one to the right: query - key = -1
    assert text[1, 2] == text[1, 1] + 1  # the text's sign is the other way round
    assert text[1, 1] == 194 + near + 2
    assert (text[0, 0], text[0, 3], text[3, 0]) == (total - 1, total - 3, total - 2)
    assert relative_index((24, 24), 40, 196)[2] == 2606


def test_cross_modal_bias_is_one_bucket_each_way():
    model = randomized(replace(TINY, positions="relative"))
    bias = model.relative_bias(6, (4, 4))  # (L, H, S, S)
    near = 7 * 7 + 3
    table = model.relative_bias.table[..., near]
    torch.testing.assert_close(bias[..., :6, 6:], table[..., None, None].expand(-1, -1, 6, 17))
    table = model.relative_bias.table[..., near + 1]
    torch.testing.assert_close(bias[..., 6:, :6], table[..., None, None].expand(-1, -1, 17, 6))


def test_stochastic_depth_keeps_the_expectation():
    torch.manual_seed(0)
    model = VLMo(replace(TINY, drop_path=0.5))
    drop = model.blocks[-1].drop_path
    assert drop.rate == 0.5
    assert model.blocks[0].drop_path.rate == 0.0
    x = torch.ones(4000, 1)
    out = drop.train()(x)
    assert set(out.unique().tolist()) == {0.0, 2.0}
    assert out.mean().item() == pytest.approx(1.0, abs=0.06)
    assert drop.eval()(x) is x


@pytest.mark.parametrize("stem", ["patch", "conv"])
def test_hidden_patches_are_hidden(stem):
    """Under the mask the pixels of a patch do not matter, to its neighbours neither; elsewhere they do."""
    model = randomized(replace(TINY, stem=stem))
    pixels = torch.randn(1, 3, 32, 32).double()
    mask = torch.zeros(1, 16, dtype=torch.bool)
    mask[0, 0] = True
    changed = pixels.clone()
    changed[..., :8, :8] += 1.0
    same = model(pixel_values=pixels, patch_mask=mask).last_hidden_state
    torch.testing.assert_close(model(pixel_values=changed, patch_mask=mask).last_hidden_state, same)
    assert not torch.allclose(
        model(pixel_values=changed).last_hidden_state, model(pixel_values=pixels).last_hidden_state
    )


def test_what_the_model_lacks_is_named(batch):
    plain = VLMo(replace(TINY, itc_vl=False, answers=(), num_pair_classes=0)).double()
    ids, mask, pixels = batch.values()
    with pytest.raises(ValueError, match=r"no contrastive head 'itc_vl'.*itc_vl=True"):
        plain.encode_image(pixels, head="itc_vl")
    with pytest.raises(ValueError, match="answers="):
        plain.answer(ids, mask, pixels)
    with pytest.raises(ValueError, match="num_pair_classes"):
        plain.classify_pair(ids, mask, pixels, pixels)
    with pytest.raises(ValueError, match="a text of 13 tokens, but this model holds 12"):
        plain.embed_text(torch.zeros(1, 13, dtype=torch.long))
    with pytest.raises(ValueError, match="does not divide by num_heads"):
        replace(TINY, num_heads=5)
    with pytest.raises(ValueError, match="nothing to encode"):
        plain()


def test_a_conv_stem_gives_the_tokens_of_its_patches_at_any_size():
    model = randomized(replace(TINY, stem="conv", patch_size=16))
    assert model(pixel_values=torch.randn(2, 3, 32, 64).double()).last_hidden_state.shape == (2, 1 + 2 * 4, 24)
    moved = torch.randn(1, 3, 64, 64).double()
    tokens, shifted = (model.patch_embed(x) for x in (moved, moved.roll(16, dims=-1)))
    torch.testing.assert_close(shifted[..., 1:-1, 2:-1], tokens[..., 1:-1, 1:-2])  # away from the edges: one further
    with pytest.raises(ValueError, match="4, 8, 16, 20 or 32, not 12"):
        VLMo(replace(TINY, stem="conv", image_size=24, patch_size=12))


def test_a_class_head_of_the_largest_patch_hears_each_class_from_the_patch_that_says_it_loudest():
    torch.manual_seed(0)
    head = ClassHead(8, 3, pool="max")
    states = torch.randn(2, 1 + 5, 8)
    each = head.fc(head.norm(states[:, 1:]))
    assert torch.equal(head(states), each.max(dim=1).values)
    config = VLMoConfig(image_size=16, patch_size=8, vocab_size=9, max_text_len=4, hidden_size=8, num_layers=1,
                        num_heads=1, num_vl_layers=0, classes=("a", "b"), class_pool="max")  # fmt: skip
    model = VLMo(config)
    assert model.class_head.fc.bias.exp().tolist() == pytest.approx([0.02, 0.02]), "few of many classes are there"
    assert model.classify(torch.randn(2, 3, 16, 16)).shape == (2, 2)
