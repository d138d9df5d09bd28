"""Writing captions: what a word may see, and that the quick way of writing is the slow one."""

import itertools
from dataclasses import replace

import pytest
import torch

from omma.models.captions import Writer, write
from omma.models.vlmo import VLMo
from omma.models.vlmo_config import VLMoConfig

TINY = VLMoConfig(image_size=16, patch_size=8, vocab_size=7, max_text_len=6, hidden_size=32, num_layers=3, num_heads=2,
                  num_vl_layers=1)  # fmt: skip
KINDS = {
    "shared": TINY,
    "relative": replace(TINY, positions="relative", relative_text_len=8),
    "separate": replace(TINY, attention="separate", experts="modality", sub_norm=True),
    "routed": replace(TINY, router="top1"),
}
EVERY = pytest.mark.parametrize("config", list(KINDS.values()), ids=list(KINDS))


def model_of(config, seed=0):
    torch.manual_seed(seed)
    model = VLMo(config).double().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def joint(model, ids, mask, pixels):
    """The whole pass under the mask: states (B, S, D)."""
    image = model.embed_image(pixels)
    return model.encode(model.embed_text(ids), mask, image, model.grid_of(pixels), seq2seq=True).last_hidden_state


def of_next_words(model, ids, pixels):
    """(B, T, V) log-probabilities of the slow way: everything again for each word."""
    states = joint(model, ids, torch.ones_like(ids), pixels)[:, : ids.shape[1]]
    return model.mlm_head(states).float().log_softmax(dim=-1)


@EVERY
def test_a_words_state_depends_on_no_later_word_and_the_pictures_on_no_word(config):
    model, pixels = model_of(config), torch.randn(2, 3, 16, 16, dtype=torch.double)
    ids, mask = torch.tensor([[2, 5, 6, 3, 0], [2, 6, 5, 4, 3]]), torch.tensor([[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]])
    with torch.no_grad():
        before = joint(model, ids, mask, pixels)
        for place in range(1, 5):
            other = ids.clone()
            other[:, place] = 1
            after = joint(model, other, mask, pixels)
            torch.testing.assert_close(after[:, :place], before[:, :place])
            assert not torch.allclose(after[1, place:5], before[1, place:5])
            torch.testing.assert_close(after[:, 5:], before[:, 5:])
        pixels[:, :, 8:, 8:] += 1
        seen = joint(model, ids, mask, pixels)
    assert not torch.isclose(seen[:, 0], before[:, 0]).any()     # the first word sees the whole picture


@EVERY
def test_padding_changes_no_word(config):
    model, pixels = model_of(config), torch.randn(1, 3, 16, 16, dtype=torch.double)
    with torch.no_grad():
        short = joint(model, torch.tensor([[2, 5, 3]]), torch.ones(1, 3), pixels)
        padded = joint(model, torch.tensor([[2, 5, 3, 0, 0]]), torch.tensor([[1, 1, 1, 0, 0]]), pixels)
    torch.testing.assert_close(padded[:, :3], short[:, :3])
    torch.testing.assert_close(padded[:, 5:], short[:, 3:])


@EVERY
def test_writing_word_by_word_gives_the_whole_passs_probabilities(config):
    model, pixels = model_of(config), torch.randn(2, 3, 16, 16, dtype=torch.double)
    ids = torch.tensor([[2, 5, 6, 1, 4], [2, 6, 5, 4, 3]])
    with torch.no_grad():
        writer = Writer(model, pixels, beams=1, max_len=6)
        quick = torch.stack([writer.next(ids[:, : n + 1]) for n in range(5)], dim=1)
        torch.testing.assert_close(quick, of_next_words(model, ids, pixels), rtol=1e-5, atol=1e-5)


def test_one_beam_takes_the_likeliest_word_of_every_whole_pass():
    model, pixels = model_of(KINDS["shared"]), torch.randn(3, 3, 16, 16, dtype=torch.double)
    texts, _ = write(model, pixels, begin=2, end=3, forbidden=(0, 2))
    for n, text in enumerate(texts):
        slow = [2]
        with torch.no_grad():
            while len(slow) < 6 and slow[-1] != 3:
                scores = of_next_words(model, torch.tensor([slow]), pixels[n : n + 1])[0, -1]
                scores[[0, 2]] = float("-inf")
                slow.append(int(scores.argmax()))
        assert text == [word for word in slow[1:] if word != 3]


def test_a_beam_as_wide_as_all_captions_finds_the_best_of_them():
    model, pixels = model_of(KINDS["relative"], seed=3), torch.randn(2, 3, 16, 16, dtype=torch.double)
    words, best = (1, 4, 5, 6), [(float("-inf"), [])] * 2
    every = [(*text, 3) for n in range(3) for text in itertools.product(words, repeat=n)]
    every += list(itertools.product(words, repeat=3))             # cut at four tokens, [CLS] among them
    for text in every:
        ids = torch.tensor([[2, *text]] * 2)
        with torch.no_grad():
            scores = of_next_words(model, ids[:, :-1], pixels).gather(2, ids[:, 1:, None]).mean(dim=1)[:, 0]
        best = [max(one, (float(s), [w for w in text if w != 3])) for one, s in zip(best, scores, strict=True)]
    texts, means = write(model, pixels, begin=2, end=3, forbidden=(0, 2), max_len=4, beams=125)
    assert texts == [text for _, text in best]
    assert means == pytest.approx([score for score, _ in best], abs=1e-5)
    with pytest.raises(ValueError, match="beams=0"):
        write(model, pixels, begin=2, end=3, beams=0)
