"""Attribution against models whose only road from a patch to the answer was laid by hand, and by hiding patches."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import omma
from omma.models.attribution import (
    Explanation,
    attention_maps,
    attribute,
    deletion_curve,
    readout,
    relevance,
    rollout,
    whole_words,
)
from omma.models.vlmo import VLMo, VLMoConfig
from omma.scenes.draw import THINGS, draw
from omma.scenes.language import Noun, a
from omma.scenes.world import sample_world

TINY = VLMoConfig(image_size=32, patch_size=8, vocab_size=20, max_text_len=8, hidden_size=8, num_layers=1, num_heads=1,
                  num_vl_layers=1, layer_scale=None)  # fmt: skip


@pytest.fixture
def bright_speaks() -> VLMo:
    """[CLS] of the text looks everywhere alike, and the answer is "yes" by what is brighter than grey."""
    model = VLMo(TINY).double().eval()
    for parameter in model.parameters():
        parameter.data.zero_()
    for norm in (model.blocks[0].norm1, model.norm):
        norm.weight.data.fill_(1)
    model.patch_embed.weight.data[0], model.patch_embed.weight.data[1] = 1, -1
    attention = model.blocks[0].attention
    attention.qkv.weight.data[16:] = torch.eye(8)  # values are the states; queries and keys are 0
    attention.proj.weight.data.copy_(torch.eye(8))
    model.pooler.weight.data.copy_(torch.eye(8))
    model.itm_head.weight.data[1, 0] = 1
    return model


def test_the_only_patch_that_can_speak_for_the_answer_gets_all(bright_speaks):
    pixels = torch.zeros(2, 3, 32, 32).double()
    pixels[0, :, 8:16, 24:32] = 1.0  # row 1, column 3
    pixels[1, :, 24:32, 0:8] = 1.0
    pixels[1, :, 0:8, 0:8] = -0.5  # speaks against it: no part of a "yes"
    ids = torch.full((2, 4), 7)
    found = attribute(bright_speaks, ids, None, pixels)
    assert found.patches.flatten(1).argmax(dim=1).tolist() == [1 * 4 + 3, 3 * 4 + 0]
    assert [int((row > 0).sum()) for row in found.patches] == [1, 1]
    assert found.words[:, 1:].eq(0).all()
    flat = attribute(bright_speaks, ids, None, pixels, method="rollout").patches
    torch.testing.assert_close(flat, torch.full_like(flat, float(flat[0, 0, 0])))  # it looked everywhere alike


@pytest.mark.parametrize("attention", ["shared", "separate"])
def test_attention_in_the_open_gives_what_the_fast_kernel_gives_and_rows_sum_to_1(attention):
    torch.manual_seed(0)
    model = VLMo(VLMoConfig(image_size=32, patch_size=8, vocab_size=20, max_text_len=8, hidden_size=24, num_layers=3,
                            num_heads=2, num_vl_layers=1, pool="max", attention=attention)).double().eval()  # fmt: skip
    ids, mask = torch.randint(5, 20, (2, 6)), torch.tensor([[1] * 6, [1] * 4 + [0] * 2])
    pixels = torch.randn(2, 3, 32, 32).double()
    fast = model.match(ids, mask, pixels).detach()
    with attention_maps(model) as maps:
        torch.testing.assert_close(model.match(ids, mask, pixels), fast)
    assert [tuple(each.shape) for each in maps] == [(2, 2, 6 + 17, 6 + 17)] * 3
    flow = rollout(maps)
    torch.testing.assert_close(flow.sum(dim=-1), torch.ones(2, 23).double())
    by_hand = torch.eye(23).double()
    for layer in maps:
        by_hand = (layer[1].mean(dim=0) + torch.eye(23)) / 2 @ by_hand
    torch.testing.assert_close(flow[1], by_hand)

    for kind in ("itm", "itc"):
        for method in ("relevance", "rollout"):
            found = attribute(model, ids, mask, pixels, kind, method)
            assert found.words[1, 4:].eq(0).all(), "padding"
            assert found.words.min() >= 0
            assert found.patches.min() >= 0
            alone = attribute(model, ids[1:, :4], None, pixels[1:], kind, method)
            torch.testing.assert_close(alone.patches[0], found.patches[1])
            torch.testing.assert_close(alone.words[0], found.words[1, :4])
            total = found.words.sum(dim=1) + found.patches.sum(dim=(1, 2))
            assert (total <= (1 if kind == "itm" else 2) + 1e-9).all()
    assert attribute(model, ids, mask, pixels).scores[0] == pytest.approx(float(fast[0, 1] - fast[0, 0]))


def test_a_model_is_left_as_it_was_found_also_after_a_failure():
    model = VLMo(TINY)
    before = [block.attention.attend for block in model.blocks]
    with pytest.raises(ValueError, match="no answer head"), attention_maps(model):
        model.answer(torch.ones(1, 2, dtype=torch.long), None, torch.zeros(1, 3, 32, 32))
    assert [block.attention.attend for block in model.blocks] == before
    with pytest.raises(ValueError, match="kind 'cosine'"):
        attribute(model, torch.ones(1, 2, dtype=torch.long), None, torch.zeros(1, 3, 32, 32), kind="cosine")


def test_relevance_of_two_layers_is_the_product_written_out():
    g = torch.Generator().manual_seed(0)
    maps = [torch.rand(1, 2, 3, 3, generator=g).double() for _ in range(2)]
    gradients = [torch.randn(1, 2, 3, 3, generator=g).double() for _ in range(2)]
    low, high = ((m * d).clamp(min=0).mean(dim=1)[0] for m, d in zip(maps, gradients, strict=True))
    eye = torch.eye(3).double()
    torch.testing.assert_close(relevance(maps, gradients)[0], (eye + high) @ (eye + low))


def test_what_is_read_of_a_token_is_its_part_in_raising_the_score():
    states = torch.tensor([[[1.0, 2.0], [3.0, 0.0], [1.0, 1.0]]])
    gradient = torch.tensor([[[1.0, 1.0], [1.0, 0.0], [-1.0, 0.0]]])
    assert readout(states, gradient).tolist() == [[0.5, 0.5, 0.0]]
    assert readout(states, -gradient.abs()).tolist() == [[0.5, 0.25, 0.25]]  # none raises it: where it is read


def test_pieces_of_a_word_are_summed_and_special_tokens_left_out():
    spans, words = [(0, 0), (0, 3), (4, 7), (7, 9), (0, 0)], [None, 0, 1, 1, None]
    assert whole_words("two teacups", spans, words, [9.0, 1.0, 2.0, 0.5, 9.0]) == [("two", 1.0), ("teacu", 2.5)]


def test_heat_lies_on_the_patch_with_the_largest_share():
    heat = Explanation(np.eye(4, dtype=np.float32)[[0]].repeat(4, axis=0), [("cup", 1.0)], 0.0)  # the left column
    drawn = np.asarray(heat.draw(Image.new("RGB", (64, 64), (200, 200, 200)))).astype(int)
    redness = drawn[..., 0] - drawn[..., 2]
    assert redness[:, :8].mean() > 100
    assert redness[:, 40:].mean() < 10


def test_the_shipped_eye_rests_its_answer_on_the_patches_that_are_told():
    """Hidden in the order of relevance, fewer patches take the "yes" away than in a random order; and the patch that is
    told first mostly shows the thing that was asked for."""
    eye = omma.load_encoder("vlmo-nano", device="cpu")
    pictures, texts, shown = [], [], []
    for key in range(40):
        world = sample_world("attribution", key)
        kinds = [thing.kind for thing in world.things]
        if 2 <= len(kinds) == len(set(kinds)) and len(pictures) < 6:
            picture, ids = draw(world, 96)
            pictures.append(picture)
            texts.append(a(Noun.of(world.things[0])))
            shown.append((np.asarray(ids) % THINGS == 1).reshape(6, 16, 6, 16).any(axis=(1, 3)))
    pixels, (ids, mask) = eye.processor.images(pictures), eye.processor.texts(texts)
    told = attribute(eye.model, ids, mask, pixels).patches
    chance = torch.rand(told.shape, generator=torch.Generator().manual_seed(0))
    areas = [deletion_curve(eye.model, ids, mask, pixels, order).mean() for order in (told, chance)]
    assert areas[0] < 0.8 * areas[1]
    peaks = told.flatten(1).argmax(dim=1)
    hits = np.mean([bool(seen.reshape(-1)[peak]) for seen, peak in zip(shown, peaks, strict=True)])
    assert hits > 2 * np.mean(shown)

    one = eye.explain(pictures[0], "eine " + texts[0])
    assert [word for word, _ in one.words] == ["eine", *texts[0].split()]
    assert one.patches.shape == (6, 6)
    assert 0 < one.patches.sum() + sum(share for _, share in one.words) < 1 + 1e-5
    eye.processor = replace(eye.processor, panels=3)
    uses = [lambda: eye.explain(pictures[0], "a cup"), lambda: eye.encode_image(pictures),
            lambda: eye.match(pictures[:1], ["a cup"]), lambda: eye.caption(pictures)]  # fmt: skip
    for use in uses:
        with pytest.raises(ValueError, match=r"as 3 panels, each on its own, so it .* only compares them"):
            use()
    with pytest.raises(ValueError, match="lists of 1, 2 pictures; give as many with each sentence"):
        eye.compare([pictures[:1], pictures[:2]], ["a", "b"])
