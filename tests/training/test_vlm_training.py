"""Training of a VLM: what its step computes, resuming, several processes, and that it learns to answer."""

from dataclasses import replace

import pytest
import torch

from conftest import Stopped, stop_after
from gloo import on
from omma.models.chat import Chat
from omma.models.packing import PACKED
from omma.models.preprocess import Processor
from omma.models.towers import VisionConfig
from omma.models.vlm import read_vlm
from omma.models.vlm_runner import load_omma_vlm
from omma.models.vlmo import VLMo
from omma.models.vlmo_config import VLMoConfig
from omma.models.weights import model_folder, read_weights, save_pretrained
from omma.scenes.sources import write_scenes
from omma.table import Table
from omma.training.batches import decoded
from omma.training.chat import ChatBatches, read_questions
from omma.training.loop import train
from omma.training.objectives import IGNORE
from omma.training.recipes import load_recipe
from omma.training.vlm_config import ChatDataConfig, TextSize, VLMTrainConfig
from omma.training.vlm_eval import answered, held_out
from omma.training.vlm_job import ChatStep, build

EYE = VisionConfig(image_size=32, patch_size=8, hidden_size=32, num_layers=1, num_heads=2, stem="conv", pool="mean",
                   class_token=False)  # fmt: skip
COLOUR = "pattern == 'colour'"
TEXT = TextSize(hidden_size=32, num_layers=2, num_heads=2, num_kv_heads=1, mlp_size=48, max_tokens=256)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    out = tmp_path_factory.mktemp("scenes")
    write_scenes(out, pictures=16, pairs=0, size=64, questions=5, kinds=("fish", "cup", "lamp", "sign"), check=False,
                 colours=("red", "yellow", "green", "blue"), tags=True)  # fmt: skip
    return out


@pytest.fixture
def config(scenes, tmp_path):
    return VLMTrainConfig(
        recipe="tiny", data=str(scenes / "items"), out=str(tmp_path / "run"), vision=EYE, image_size=32, text=TEXT,
        vocab_size=400, dataset=ChatDataConfig(lanes=2, lane_tokens=24), steps=4, warmup=1, batch_size=4, ema=0.9,
        save_every=2, log_every=1, threads=1, device="cpu", precision="fp32", workers=0,
    )  # fmt: skip


def test_the_loss_of_many_questions_in_a_row_is_that_of_each_asked_alone(config):
    model, processor, _ = build(config)
    model.double().eval()
    chat = Chat(processor, model.config.image_seq_length)
    batch = ChatBatches(read_questions(Table.open(config.data), None, captions=True), chat, config.dataset,
                        batch_size=4, seed=0)[0]  # fmt: skip
    pixels = processor.normalize(batch.pixels).double()
    P, losses, right = chat.tokens + 1, [], 0
    for b in range(4):
        for k in range(int(batch.segments[b].max()) + 1):
            there = batch.segments[b].flatten() == k
            ids = torch.cat((batch.input_ids[b, :P], batch.input_ids[b, P:][there]))[None]
            learned = batch.targets[b][there]
            with torch.no_grad():
                logits = model(input_ids=ids, pixel_values=pixels[b : b + 1]).logits[0, P:][learned != IGNORE]
            wanted = learned[learned != IGNORE]
            losses.append(-logits.log_softmax(dim=-1).gather(1, wanted[:, None])[:, 0])
            right += int((logits.argmax(dim=-1) == wanted).sum())
    model.set_attn_implementation(PACKED)
    step = ChatStep(model, replace_normalize(processor))
    found = step(batch.pixels, batch.input_ids, batch.segments, batch.targets)
    torch.testing.assert_close(found["loss"], torch.cat(losses).mean(), atol=1e-6, rtol=0)
    assert int(found["right"]) == right
    assert int(found["tokens"]) == sum(map(len, losses))


def replace_normalize(processor):
    """A processor whose pictures are float64, as the model's weights are in that comparison."""

    class Exact(Processor):
        def normalize(self, pixels):
            return super().normalize(pixels).double()

    return Exact(processor.tokenizer, processor.image_size, processor.max_text_len)


def test_a_run_goes_on_bit_for_bit_and_leaves_a_vlm_that_answers(config, tmp_path):
    config = replace(config, muon=10.0)
    whole = train(config, progress=False)
    broken = replace(config, out=str(tmp_path / "broken"))
    with pytest.raises(Stopped):
        train(broken, progress=False, on_step=stop_after(3))
    again = train(broken, progress=False, resume=True)
    first, second = read_weights(whole.path), read_weights(again.path)
    assert all(torch.equal(first[name], second[name]) for name in first)
    rows = whole.metrics()
    assert {"loss", "loss_answer", "accuracy", "samples_per_s"} <= rows[-1].keys()
    assert [r["loss"] for r in rows] == [r["loss"] for r in again.metrics()]
    vlm = load_omma_vlm(model_folder(tmp_path / "run"), "run", "cpu")
    assert isinstance(vlm.generate([], "what is red?", max_new_tokens=3), str)


def test_it_learns_to_answer_and_says_what_it_would_say_without_the_picture(config, scenes):
    data = replace(config.dataset, captions=0.0, crop_scale=1.0, jitter=0.0, where=COLOUR)
    learning = replace(config, steps=220, warmup=5, peak_lr=3e-3, batch_size=8, log_every=220, save_every=220, ema=0.8,
                       dataset=data, val=str(scenes / "items"), val_where=COLOUR)  # fmt: skip
    last = train(learning, progress=False).metrics()[-1]
    assert last["eval.all"] > 0.9
    assert last["eval.blind.all"] < 0.9
    assert {"eval.yes/no", "eval.free", "eval.blind.free", "eval.colour.free"} <= last.keys()
    model, processor = read_vlm(model_folder(learning.out)), Processor.load(model_folder(learning.out))
    asked = read_questions(Table.open(learning.data), COLOUR)
    assert float(answered(model, processor, asked).mean()) == pytest.approx(last["eval.all"])
    runner = load_omma_vlm(model_folder(learning.out), "run", "cpu")
    by_word = right_by_generation(runner, scenes, asked, 24)
    assert by_word == answered(model, processor, asked)[:24].tolist(), "one pass over an answer is greedy decoding"


def right_by_generation(runner, scenes, asked, number: int) -> list[bool]:
    shown = [decoded(asked.pictures[i], asked.root) for i in range(len(asked.ids))]
    owner = [i for i in range(len(asked.ids)) for _ in range(asked.first[i], asked.first[i + 1])][:number]
    prompts = [asked.texts[q] for q, _ in asked.turns[:number]]
    said = runner.generate_batch([[shown[i]] for i in owner], prompts, max_new_tokens=12)
    wanted = [runner.chat.read(runner.chat.turns([asked.texts[a]])[0]) for _, a in asked.turns[:number]]
    return [one == other for one, other in zip(said, wanted, strict=True)]


def test_it_starts_from_a_trained_eye_at_half_its_patches_or_from_a_whole_vlm(config, tmp_path):
    eye = VLMoConfig(image_size=32, patch_size=16, vocab_size=30, max_text_len=8, hidden_size=32, num_layers=1,
                     num_heads=2, num_vl_layers=0, stem="conv")  # fmt: skip
    torch.manual_seed(0)
    trained = VLMo(eye)
    save_pretrained(trained, tmp_path / "eye")
    changed = replace(config, eye=str(tmp_path / "eye"), patch_size=8)
    model, _, said = build(changed)
    assert model.config.image_seq_length == 16
    assert model.config.eye["fine_stem"]
    assert torch.equal(model.model.eye.patch_embed.convs[2].weight, trained.patch_embed.convs[2].weight)
    assert said.endswith("tensors of the eye from " + str(tmp_path / "eye"))
    kept = replace(changed, eye_lr=0.0, steps=2, save_every=2)
    train(kept, progress=False)
    eye_after = read_vlm(model_folder(kept.out)).model.eye.state_dict()
    assert all(torch.equal(value, model.model.eye.state_dict()[name]) for name, value in eye_after.items())
    further, processor, _ = build(replace(config, init=kept.out))
    assert torch.equal(further.lm_head.weight, read_vlm(model_folder(kept.out)).lm_head.weight)
    assert processor.vocab_size == further.config.text_config.vocab_size
    coarse, processor, _ = build(replace(config, init=kept.out, image_size=64, patch_size=16))
    assert (coarse.config.image_seq_length, processor.image_size) == (16, 64)
    assert not coarse.config.eye["fine_stem"]
    ours, its = coarse.state_dict(), further.state_dict()
    assert all(torch.equal(ours[name], its[name]) for name in ours)


def test_a_language_model_learns_to_answer_by_reading_and_is_given_an_eye_then(config, tmp_path):
    reading = replace(config, dataset=replace(config.dataset, reads="things", captions=0.0), muon=10.0, steps=60,
                      peak_lr=2e-3, batch_size=8, ema=None, log_every=60, save_every=60)  # fmt: skip
    before = build(reading)[0]
    done = train(reading, progress=False)
    assert done.metrics()[-1]["loss"] < 3.0, "the first loss is that of 400 words, 6"
    reader = read_vlm(model_folder(reading.out))
    for part in ("eye", "adapter"):
        new, old = getattr(reader.model, part).state_dict(), getattr(before.model, part).state_dict()
        assert all(torch.equal(new[name], old[name]) for name in new)
    seeing = replace(config, reader=reading.out, seed=3, text=TextSize(hidden_size=16, num_heads=1, num_kv_heads=1))
    model, processor, said = build(seeing)
    assert said == f", words and language model from {reading.out}"
    assert torch.equal(model.lm_head.weight, reader.lm_head.weight)
    ours, its = model.model.language_model.state_dict(), reader.model.language_model.state_dict()
    assert all(torch.equal(ours[name], its[name]) for name in its)
    assert not torch.equal(model.model.adapter.linear_1.weight, reader.model.adapter.linear_1.weight)
    assert processor.vocab_size == model.config.text_config.vocab_size
    train(replace(seeing, out=str(tmp_path / "seeing"), steps=1, save_every=1), progress=False)


def test_its_layers_begin_near_the_identity_and_the_eyes_words_are_heard_above_them(config):
    model, _, _ = build(config)
    layer = model.model.language_model.layers[0]
    plain = layer.self_attn.q_proj.weight.std().item()
    for writer in (layer.self_attn.o_proj, layer.mlp.down_proj):  # two layers write four times
        assert writer.weight.std().item() == pytest.approx(plain / 2, rel=0.1)
    with torch.no_grad():
        features = model.get_image_features(torch.randn(2, 3, 32, 32))
        written = layer(features, position_embeddings=model.model.language_model.rotary_emb(
            features, torch.arange(features.shape[1])[None])) - features  # fmt: skip
    assert features.std() > 4 * written.std()


def test_what_cannot_run_is_refused(config, tmp_path):
    for changes, message in (
        ({"data": ""}, "no data: give a table of questions"),
        ({"init": "a", "eye": "b"}, "init=a is a whole VLM with an eye and words of its own; leave out eye=b"),
        ({"init": "a", "reader": "b"}, "eye and words of its own; leave out reader=b"),
        ({"dataset": ChatDataConfig(reads="things"), "val": "x"}, "with dataset.reads there is nothing to look at"),
        ({"layer_decay": 0.9}, "a VLM has one rate, and eye_lr= for its eye"),
        ({"eye": "vlmo-nano", "patch_size": 4}, "this eye has patches of 16 px; give that, or half of it"),
    ):
        with pytest.raises(ValueError, match=message):
            train(replace(config, **changes), progress=False)
    with pytest.raises(ValueError, match="has to divide by num_heads=5"):
        TextSize(num_heads=5)
    assert load_recipe("vlm-nano").eye == "vlmo-nano"


def test_two_processes_train_what_one_does(config, tmp_path):
    one = replace(config, out=str(tmp_path / "one"), steps=2, eps=1e-3)
    train(one, progress=False)
    on(2, both, tmp_path / "out", replace(one, out=str(tmp_path / "two")))
    first, second = (read_weights(model_folder(tmp_path / name)) for name in ("one", "two"))
    far = [name for name in first if not torch.allclose(first[name], second[name], rtol=1e-3, atol=1e-5)]
    assert not far


def both(config) -> int:
    return train(config, progress=False).step


def test_an_evaluation_is_a_function_of_model_and_processor(config, scenes):
    model, processor, _ = build(config)
    found = held_out(str(scenes / "items"), COLOUR, 30)(model.eval(), processor)
    assert set(found) == {"all", "free", "yes/no", "colour.free", "colour.yes/no", "blind.all", "blind.free",
                          "blind.yes/no"}  # fmt: skip
    assert model.config._attn_implementation != PACKED, "the model is left as it was"
