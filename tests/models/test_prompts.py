"""Learned prompts: attention sees them, nobody else does; they are all that is trained, and a small file."""

from dataclasses import replace

import pytest
import torch

import omma
from omma.models.attribution import attribute
from omma.models.prompts import Prompts
from omma.models.vlmo import VLMo
from omma.models.vlmo_config import VLMoConfig
from omma.models.weights import PROMPTS_FILE, from_pretrained, read_tensors, save_pretrained
from omma.show import describe
from omma.training.config import TrainConfig
from omma.training.losses import LossWeights
from omma.training.setup import check

TINY = VLMoConfig(image_size=32, patch_size=8, vocab_size=20, max_text_len=8, hidden_size=16, num_layers=2, num_heads=2,
                  num_vl_layers=1, pool="max")  # fmt: skip


@pytest.fixture(params=["absolute", "relative"])
def model(request) -> VLMo:
    torch.manual_seed(0)
    model = VLMo(replace(TINY, positions=request.param)).double().eval()
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return model


@pytest.fixture
def inputs() -> list[dict]:
    text = {"input_ids": torch.tensor([[2, 7, 8, 3, 0, 0], [2, 7, 8, 9, 9, 3]]),
            "attention_mask": torch.tensor([[1, 1, 1, 1, 0, 0], [1] * 6])}  # fmt: skip
    image = {"pixel_values": torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)).double()}
    return [text, image, text | image]


def test_no_prompts_are_the_model_itself(model, inputs):
    before = [model(**each).last_hidden_state for each in inputs]
    model.prompts = Prompts(16)
    assert all(torch.equal(model(**each).last_hidden_state, old) for each, old in zip(inputs, before, strict=True))


@pytest.mark.parametrize(("text", "image"), [(3, 0), (3, 2)])
def test_a_pass_with_prompts_is_the_pass_over_a_longer_sequence_without_their_rows(model, inputs, text, image):
    """Written out: the sequence with the prompts in it, a bias of 0 to and from them, and their rows left out."""
    for each in inputs:
        ids, pixels = each.get("input_ids"), each.get("pixel_values")
        x = [model.embed_text(ids)] if ids is not None else []
        x = torch.cat([*x, model.embed_image(pixels)] if pixels is not None else x, dim=1)
        T = 0 if ids is None else ids.shape[1]
        bias = model.attention_bias(each.get("attention_mask"), T, None if pixels is None else (4, 4))
        prompts = model.prompts = Prompts(16, text, image).double()
        kept, rows = [], []
        for i in range(x.shape[1]):
            kept.append(len(rows))
            rows.append(x[:, i])
            added = prompts.text_prompts if i == 0 and T else prompts.image_prompts if i == T else None
            rows += [] if added is None else [vector.expand(2, -1) for vector in added]
        states, S = torch.stack(rows, dim=1), len(rows)
        mode = "vl" if ids is not None and pixels is not None else "text" if pixels is None else "image"
        for block, layer_bias in zip(model.blocks, bias, strict=True):
            wide = torch.zeros(2, 2, S, S).double()
            if layer_bias is not None:
                full = layer_bias.double().expand(2, 2, x.shape[1], x.shape[1])
                wide[:, :, [[row] for row in kept], kept] = full
                for row in sorted(set(range(S)) - set(kept)):
                    wide[:, :, row, kept] = torch.where(full[:, :, 0].isinf(), float("-inf"), 0.0).double()
            states = block(states, mode, T + (text if T else 0), wide)
        out = model(**each)
        torch.testing.assert_close(out.last_hidden_state, model.norm(states[:, kept]))
        assert out.text_len == T
        assert all(state.shape == x.shape for state in out.hidden_states)


def test_an_explanation_tells_of_words_and_patches_only(model, inputs):
    model.prompts = Prompts(16, 3, 2).double()
    found = attribute(model, **inputs[2])
    assert found.words.shape == (2, 6)
    assert found.patches.shape == (2, 4, 4)
    assert found.words[0, 4:].eq(0).all()
    assert (found.words.sum(dim=1) + found.patches.sum(dim=(1, 2)) < 1 + 1e-9).all()


def test_training_prompts_changes_the_prompts_and_nothing_else(tiny_run, tmp_path):
    omma.train(tiny_run("base", steps=2), progress=False)
    base = read_tensors(tmp_path / "base" / "last" / "model.safetensors")
    config = tiny_run("prompted", init=str(tmp_path / "base"), prompts=3, visual_prompts=2, model=VLMoConfig(),
                      steps=4, save_every=2)  # fmt: skip
    done = omma.train(config, progress=False)
    after = read_tensors(done.path / "model.safetensors")
    assert base.keys() == after.keys()
    assert all(torch.equal(base[name], after[name]) for name in base)
    learned = read_tensors(done.path / PROMPTS_FILE)
    assert {name: tuple(value.shape) for name, value in learned.items()} == {
        "prompts.text_prompts": (3, 24), "prompts.image_prompts": (2, 24)}  # fmt: skip
    assert (done.path / PROMPTS_FILE).stat().st_size < 1000
    assert describe(done.path)["prompts"] == {"image": 2, "text": 3}

    with_them, without = omma.load_encoder(done.path, device="cpu"), omma.load_encoder(tmp_path / "base", device="cpu")
    on_base = omma.load_encoder(tmp_path / "base", device="cpu", prompts=done.path / PROMPTS_FILE)
    texts = ["red left", "a blue square"]
    assert (with_them.encode_text(texts) == on_base.encode_text(texts)).all()
    assert (with_them.encode_text(texts) != without.encode_text(texts)).any()
    assert with_them.fingerprint == on_base.fingerprint != without.fingerprint

    half = replace(config, out=str(tmp_path / "half"))  # killed after 3 of 4 steps, saved after 2
    with pytest.raises(KeyboardInterrupt):
        omma.train(half, progress=False, on_step=stop_at_3)
    again = read_tensors(omma.train(half, progress=False, resume=True).path / PROMPTS_FILE)
    assert all(torch.equal(again[name], learned[name]) for name in learned)


def stop_at_3(step: int) -> None:
    if step == 3:
        raise KeyboardInterrupt


def test_prompts_are_saved_beside_the_model_and_belong_to_its_width(tmp_path):
    model = VLMo(TINY).eval()
    model.prompts = Prompts(16, text=2)
    again = from_pretrained(save_pretrained(model, tmp_path / "with"))
    assert again.prompts is not None
    assert torch.equal(again.prompts.text_prompts, model.prompts.text_prompts)
    assert again.prompts.image_prompts is None
    other = VLMo(replace(TINY, hidden_size=24)).eval()
    save_pretrained(other, tmp_path / "other")
    with pytest.raises(ValueError, match="text prompts of width 16 don't fit a model of width 24"):
        from_pretrained(tmp_path / "other", prompts=tmp_path / "with")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"prompts": 2}, "give init=vlmo-nano"),
        ({"visual_prompts": -1, "init": "vlmo-nano"}, "visual_prompts=-1"),
        ({"prompts": 2, "init": "vlmo-nano", "freeze": ("vision",)}, "frozen already"),
    ],
)
def test_prompts_without_a_model_to_put_them_on_are_refused(changed, said, tmp_path):
    config = TrainConfig(data=str(tmp_path), out=str(tmp_path / "run"), losses=LossWeights(itc=1.0))
    with pytest.raises(ValueError, match=said):
        check(replace(config, **changed), resume=False)
