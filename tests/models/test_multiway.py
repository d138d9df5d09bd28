"""The layers of a VLMo that share more or less than the published ones, against blocks written out token by token."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from omma.models.layers import Attention
from omma.models.vlmo import VLMo
from omma.models.vlmo_config import PRESETS, VLMoConfig
from omma.training.batches import Batch
from omma.training.losses import LossWeights, compute_losses
from omma.training.optim import freeze, parameter_groups

TINY = VLMoConfig(image_size=32, patch_size=16, vocab_size=30, max_text_len=6, hidden_size=24, num_layers=3,
                  num_heads=3, num_vl_layers=1, itc_vl=True)  # fmt: skip
IDS, MASK = torch.tensor([[5, 6, 7, 8], [9, 5, 0, 0]]), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
PIXELS = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)).double()


def randomized(**options) -> VLMo:
    """A model in float64 whose every weight matters."""
    torch.manual_seed(0)
    model = VLMo(replace(TINY, **options)).double().eval()
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return model


def written_out_attention(model: VLMo, x: torch.Tensor, block, text_len: int, bias) -> torch.Tensor:
    """Each token's query, key, value and output by its own modality's weights, heads and tokens in loops."""
    c = model.config
    H, d, D = c.num_heads, c.hidden_size // c.num_heads, c.hidden_size
    own = [block.attentions.text if s < text_len else block.attentions.image for s in range(x.shape[1])]
    q, k, v = [], [], []
    for s, attention in enumerate(own):
        y = F.layer_norm(x[:, s], (D,), attention.norm.weight, attention.norm.bias, c.norm_eps)
        w = attention.qkv.weight.chunk(3)
        q.append(y @ w[0].T + attention.q_bias)
        k.append(y @ w[1].T + (attention.k_bias if c.key_bias else 0.0))
        v.append(y @ w[2].T + attention.v_bias)
    out = torch.zeros_like(x)
    for s, attention in enumerate(own):
        heads = []
        for h in range(H):
            part = slice(h * d, (h + 1) * d)
            scores = torch.stack([(q[s][:, part] * key[:, part]).sum(-1) for key in k], dim=1) / d**0.5
            if bias is not None:
                row = bias.expand(len(x), H, len(own) if bias.shape[2] > 1 else 1, -1)
                scores = scores + row[:, h, s if bias.shape[2] > 1 else 0]
            weights = scores.softmax(dim=-1)
            heads.append(sum(weights[:, t, None] * v[t][:, part] for t in range(len(own))))
        y = torch.cat(heads, dim=-1)
        if c.sub_norm:
            y = F.layer_norm(y, (D,), attention.sub_norm.weight, attention.sub_norm.bias, c.norm_eps)
        out[:, s] = y @ attention.proj.weight.T + attention.proj.bias
    return out


@pytest.mark.parametrize("options", [
    {"attention": "separate"},
    {"attention": "separate", "positions": "relative"},
    {"attention": "separate", "sub_norm": True, "key_bias": True, "norm_eps": 1e-5, "layer_scale": None},
], ids=["absolute", "relative", "sub_norm"])  # fmt: skip
def test_with_separate_attention_each_token_has_its_own_modalitys_weights_and_sees_all(options):
    model = randomized(**options)
    x = torch.cat((model.embed_text(IDS), model.embed_image(PIXELS)), dim=1)
    bias = model.attention_bias(MASK, 4, (2, 2))
    with torch.no_grad():
        for i, block in enumerate(model.blocks):
            attended = written_out_attention(model, x, block, 4, bias[i])
            x = x + (attended if block.gamma_1 is None else block.gamma_1 * attended)
            rows = []
            for s in range(x.shape[1]):
                expert = block.experts["vl" if i == 2 else ("text" if s < 4 else "image")]
                y = F.gelu(expert.fc1(expert.norm(x[:, s])))
                rows.append(expert.fc2(y if expert.sub_norm is None else expert.sub_norm(y)))
            y = torch.stack(rows, dim=1)
            x = x + (y if block.gamma_2 is None else block.gamma_2 * y)
        torch.testing.assert_close(model(IDS, MASK, PIXELS).last_hidden_state, model.norm(x))


def test_a_picture_alone_meets_no_text_weight_and_a_text_alone_no_image_weight():
    model = randomized(attention="separate", final_norm="separate")
    for inputs, foreign in (({"pixel_values": PIXELS}, "text"), ({"input_ids": IDS}, "image")):
        before = model(**inputs).last_hidden_state
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if f".{foreign}." in name:
                    parameter += 1.0
        torch.testing.assert_close(model(**inputs).last_hidden_state, before, rtol=0, atol=0)


def test_equal_separate_attentions_are_shared_attention():
    shared, separate = randomized(), randomized(attention="separate")
    weights = shared.state_dict()
    names = {}
    for name in separate.state_dict():
        source = name.replace("attentions.image.", "attention.").replace("attentions.text.", "attention.")
        names[name] = source.replace("attention.norm.", "norm1.") if source != name else name
    separate.load_state_dict({name: weights[source] for name, source in names.items()})
    torch.testing.assert_close(separate(IDS, MASK, PIXELS).pooled, shared(IDS, MASK, PIXELS).pooled)
    for head in ("itc", "itc_vl"):
        torch.testing.assert_close(separate.encode_text(IDS, MASK, head), shared.encode_text(IDS, MASK, head))
        torch.testing.assert_close(separate.encode_image(PIXELS, head), shared.encode_image(PIXELS, head))


def test_a_single_expert_is_a_plain_transformer():
    """PyTorch's own encoder, with our weights, gives the same states for text, picture and both."""
    model = randomized(experts="single", layer_scale=None)
    D = TINY.hidden_size
    layer = torch.nn.TransformerEncoderLayer(D, 3, 4 * D, 0.0, "gelu", 1e-6, batch_first=True, norm_first=True)
    plain = torch.nn.TransformerEncoder(layer, 3, norm=torch.nn.LayerNorm(D, eps=1e-6), enable_nested_tensor=False)
    plain.double().train()  # training mode: the eval path of PyTorch is a fused kernel of its own
    with torch.no_grad():
        for own, theirs in zip(model.blocks, plain.layers, strict=True):
            attention, expert = own.attention, own.experts["shared"]
            theirs.self_attn.in_proj_weight.copy_(attention.qkv.weight)
            none = torch.zeros_like(attention.q_bias)
            theirs.self_attn.in_proj_bias.copy_(torch.cat((attention.q_bias, none, attention.v_bias)))
            for target, source in ((theirs.self_attn.out_proj, attention.proj), (theirs.norm1, own.norm1),
                                   (theirs.norm2, expert.norm), (theirs.linear1, expert.fc1),
                                   (theirs.linear2, expert.fc2)):  # fmt: skip
                target.load_state_dict(source.state_dict())
        plain.norm.load_state_dict(model.norm.state_dict())
        for inputs, keys in (({"input_ids": IDS, "attention_mask": MASK}, MASK), ({"pixel_values": PIXELS}, None),
                             ({"input_ids": IDS, "attention_mask": MASK, "pixel_values": PIXELS},
                              torch.cat((MASK, torch.ones(2, 5, dtype=torch.long)), dim=1))):  # fmt: skip
            out = model(**inputs)
            hidden = None if keys is None else ~keys.bool()
            expected = plain(out.hidden_states[0], src_key_padding_mask=hidden)
            real = torch.ones(expected.shape[:2], dtype=torch.bool) if keys is None else keys.bool()
            torch.testing.assert_close(out.last_hidden_state[real], expected[real])


def test_freezing_vision_leaves_the_text_half_and_what_text_alone_reads():
    """What stage 1 trains is frozen: the image attention, not the text's; a single expert, since it is vision's too."""
    for options, frozen_part, trained_part in (
        ({"attention": "separate"}, "blocks.0.attentions.image.", "blocks.0.attentions.text."),
        ({"experts": "single"}, "blocks.0.experts.shared.", "mlm_head."),
        ({"final_norm": "separate"}, "norm.image.", "norm.text."),
    ):
        model = VLMo(replace(TINY, **options))
        frozen = freeze(model, ["vision"])
        trained = [name for name, p in model.named_parameters() if p.requires_grad]
        assert [name for name in frozen if name.startswith(frozen_part)]
        assert not [name for name in frozen if name.startswith(trained_part)]
        assert [name for name in trained if name.startswith(trained_part)]
        assert not [name for name in trained if name.startswith(frozen_part)]


def test_weight_decay_takes_matrices_only_whatever_is_shared():
    model = VLMo(replace(TINY, attention="separate", experts="single", sub_norm=True, key_bias=True,
                         final_norm="separate", positions="relative"))  # fmt: skip
    decayed = {id(p) for p in parameter_groups(model, 0.05)[0]["params"]}
    for name, parameter in model.named_parameters():
        if name.startswith("blocks."):
            assert (id(parameter) in decayed) == (name.endswith(".weight") and "norm" not in name), name
    assert id(model.relative_bias.table) not in decayed


def test_a_dropped_layer_is_the_identity_for_separate_attention_and_a_single_expert():
    torch.manual_seed(0)
    model = VLMo(replace(TINY, attention="separate", experts="single", drop_path=1.0 - 1e-9)).train()
    x = torch.randn(4, 7, 24)
    torch.testing.assert_close(model.blocks[-1](x, "vl", 3), x)
    assert not torch.equal(model.blocks[0](x, "vl", 3), x)


def test_sub_norm_starts_with_the_gain_of_its_paper():
    plain, scaled = (randomized_start(sub_norm) for sub_norm in (False, True))
    gain = torch.tensor(6.0).log().sqrt()  # three layers
    for name in ("blocks.0.attention.proj.weight", "blocks.0.experts.text.fc1.weight"):
        torch.testing.assert_close(scaled[name], gain * plain[name])
    old, new = (state["blocks.0.attention.qkv.weight"] for state in (plain, scaled))
    torch.testing.assert_close(new[:48], old[:48])
    torch.testing.assert_close(new[48:], gain * old[48:])


def randomized_start(sub_norm: bool) -> dict:
    torch.manual_seed(0)
    return VLMo(replace(TINY, sub_norm=sub_norm)).state_dict()


def test_a_small_beit3_learns_from_random_weights():
    """All losses of stage 3 fall on one batch that is seen again and again."""
    sizes = {"image_size": 32, "vocab_size": 30, "max_text_len": 6, "hidden_size": 24, "num_layers": 2, "num_heads": 3}
    torch.manual_seed(0)
    model = VLMo(replace(PRESETS["beit3_base"], **sizes, drop_path=0.0))
    ids = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 0], [12, 13, 0, 0], [14, 15, 16, 17]])
    mlm = torch.full_like(ids, -100)
    mlm[:, 1] = ids[:, 1]
    batch = Batch(step=0, ids=list("abcd"), pixels=torch.zeros(0), input_ids=ids, attention_mask=(ids > 0).long(),
                  masked_ids=torch.where(mlm > 0, 4, ids), mlm_labels=mlm, patch_mask=torch.zeros(4, 4).bool(),
                  partner=torch.full((4,), -1), texts=[tuple(row) for row in ids.tolist()])  # fmt: skip
    pixels = torch.randn(4, 3, 32, 32)
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.05), lr=1e-2)
    history = []
    for step in range(16):
        losses = compute_losses(model, batch, pixels, LossWeights(itc=1.0, itm=1.0, mlm=1.0), (step,))
        optimizer.zero_grad()
        sum(losses.values(), torch.zeros(())).backward()
        optimizer.step()
        history.append({name: loss.item() for name, loss in losses.items()})
    for name, share in (("itc", 0.5), ("mlm", 0.5), ("itm", 0.95)):  # matching falls last: its negatives change
        assert history[-1][name] < share * history[0][name], name


def test_every_combination_trains_both_modalities():
    """Gradients reach every weight of the blocks in one fusion pass and the two passes behind the contrast."""
    for attention in ("shared", "separate"):
        for experts in ("multiway", "single"):
            model = VLMo(replace(TINY, attention=attention, experts=experts, final_norm="separate")).double()
            loss = model(IDS, MASK, PIXELS).last_hidden_state.square().sum()
            loss = loss + (model.encode_text(IDS, MASK) * model.encode_image(PIXELS)).sum()
            (loss + (model.encode_text(IDS, MASK, "itc_vl") * model.encode_image(PIXELS, "itc_vl")).sum()).backward()
            idle = [n for n, p in model.blocks.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
            assert idle == []
            assert sum(isinstance(m, Attention) for m in model.modules()) == (6 if attention == "separate" else 3)
