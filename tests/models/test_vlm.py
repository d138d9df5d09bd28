"""A VLM: eye, adapter and language model as one Hugging Face model, its files, and how it is asked."""

import dataclasses

import pytest
import torch
from PIL import Image

import omma
from omma.models.chat import IMAGE, Chat, chat_tokenizer
from omma.models.clip import CLIP, CLIPConfig
from omma.models.layers import ConvStem
from omma.models.packing import PACKED, Packing
from omma.models.preprocess import Processor, train_wordpiece
from omma.models.pretrained import VLM
from omma.models.towers import TextConfig, VisionConfig, VisionTower
from omma.models.vlm import (
    CLIPEye,
    OmmaVLM,
    VLMConfig,
    VLMoEye,
    eye_config,
    eye_settings,
    eye_weights,
    read_vlm,
    save_vlm,
    settings_of_eye,
    start_from,
    without_texts,
)
from omma.models.vlm_runner import OmmaVLMRunner
from omma.models.vlmo import VLMo
from omma.models.vlmo_config import VLMoConfig
from omma.models.weights import from_pretrained, save_pretrained

TOWER = VisionConfig(image_size=16, patch_size=8, hidden_size=32, num_layers=1, num_heads=2, stem="conv", pool="mean",
                     class_token=False)  # fmt: skip
VLMO = VLMoConfig(image_size=16, patch_size=8, vocab_size=30, max_text_len=8, hidden_size=32, num_layers=2, num_heads=2,
                  num_vl_layers=1, stem="conv")  # fmt: skip
TEXTS = ["what colour is the cup?", "red", "blue", "is there a fish?", "yes", "no", "how many balls are there?", "two"]
TOKENIZER = chat_tokenizer(TEXTS, 80)
TEXT = {"vocab_size": TOKENIZER.get_vocab_size(), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True, "pad_token_id": 0,
        "bos_token_id": 2, "eos_token_id": 3, "initializer_range": 0.2, "max_position_embeddings": 64}  # fmt: skip
IMAGE_ID = TOKENIZER.token_to_id(IMAGE)
VISUAL = 4


def tiny_vlm(eye=TOWER, seed: int = 0) -> OmmaVLM:
    torch.manual_seed(seed)
    return OmmaVLM(VLMConfig(eye=eye_settings(eye), text_config=TEXT, image_token_id=IMAGE_ID)).eval()


def tiny_processor() -> Processor:
    return Processor(TOKENIZER, 16, 64)


def picture(seed: int) -> Image.Image:
    noise = torch.randint(0, 255, (20, 20, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return Image.fromarray(noise.numpy())


@pytest.fixture(scope="module")
def runner() -> OmmaVLMRunner:
    return OmmaVLMRunner(tiny_vlm(), tiny_processor(), "tiny")


# ---------------------------------------------------------------------------------------------------------- eyes
def test_a_vlmos_eye_sees_what_the_vlmos_image_pass_sees():
    torch.manual_seed(0)
    whole, eye = VLMo(VLMO).eval(), VLMoEye(VLMO).eval()
    state = whole.state_dict()
    assert set(eye.state_dict()) < set(state)
    eye.load_state_dict({name: state[name] for name in eye.state_dict()})
    pixels = torch.randn(2, 3, 16, 16)
    assert torch.equal(eye(pixels), whole(pixel_values=pixels).last_hidden_state[:, 1:])


def test_a_clips_eye_sees_what_its_last_layer_says():
    torch.manual_seed(0)
    config = dataclasses.replace(TOWER, pool="map")
    whole, eye = VisionTower(config).eval(), CLIPEye(config).eval()
    state = whole.state_dict()
    eye.load_state_dict({name: state[name] for name in eye.state_dict()})
    pixels = torch.randn(2, 3, 16, 16)
    assert torch.equal(eye(pixels), whole.norm(whole(pixels).hidden_states[-1]))


def test_every_other_token_of_a_fine_stem_is_what_the_stem_of_larger_patches_gives():
    torch.manual_seed(0)
    coarse, fine = ConvStem(16, 16), ConvStem(16, 8, fine=True)
    coarse.init_weights()
    fine.load_state_dict(coarse.state_dict())
    pixels = torch.randn(1, 3, 32, 32)
    assert fine(pixels).shape == (1, 16, 4, 4)
    torch.testing.assert_close(fine(pixels)[..., ::2, ::2], coarse(pixels), atol=1e-6, rtol=0)


def test_settings_of_an_eye_come_back_and_another_kind_is_refused():
    for config in (TOWER, VLMO):
        assert eye_config(eye_settings(config)) == (without_texts(config) if isinstance(config, VLMoConfig) else config)
    with pytest.raises(ValueError, match=r"no eye of the kind 'bee'; there are vlmo, clip"):
        eye_config({"model": "bee"})
    with pytest.raises(ValueError, match=r"take one with router=modality"):
        VLMoEye(dataclasses.replace(VLMO, router="top1"))


@pytest.mark.parametrize("kind", ["vlmo", "clip", "vlm"])
def test_an_eye_starts_from_a_trained_one_of_any_kind(tmp_path, kind):
    torch.manual_seed(1)
    if kind == "vlm":
        trained, tower = tiny_vlm(seed=1), TOWER
        save_vlm(trained, tmp_path)
        source = trained.model.eye.state_dict()
    elif kind == "clip":
        text = TextConfig(vocab_size=20, max_text_len=8, hidden_size=32, num_layers=1, num_heads=2)
        model, tower = CLIP(CLIPConfig(vision=TOWER, text=text, embed_dim=16)), TOWER
        save_pretrained(model, tmp_path)
        source = model.vision.state_dict()
    else:
        model, tower = VLMo(VLMO), VLMO
        save_pretrained(model, tmp_path)
        source = model.state_dict()
    assert settings_of_eye(tmp_path) == tower
    own = tiny_vlm(tower)
    taken, kept = start_from(own, tmp_path)
    assert not kept
    assert all(torch.equal(value, source[name]) for name, value in own.model.eye.state_dict().items())
    assert set(taken) == set(own.model.eye.state_dict())


def test_positions_of_a_trained_eye_are_read_anew_for_more_patches(tmp_path):
    save_pretrained(VLMo(VLMO), tmp_path)
    larger = dataclasses.replace(VLMO, image_size=32)
    assert eye_weights(tmp_path, larger)["image_positions"].shape == (17, 32)


# ---------------------------------------------------------------------------------------------------------- model
def test_visual_tokens_stand_where_the_image_tokens_are():
    model = tiny_vlm()
    pixels = torch.randn(3, 3, 16, 16)
    ids = torch.tensor(
        [[2, *[IMAGE_ID] * VISUAL, 9, *[IMAGE_ID] * VISUAL, 3], [0, 0, 0, 0, 2, *[IMAGE_ID] * VISUAL, 9, 3]]
    )
    seen = {}
    model.model.language_model.register_forward_pre_hook(lambda _, __, kw: seen.update(kw), with_kwargs=True)
    with torch.no_grad():
        out = model(input_ids=ids, pixel_values=pixels)
        words = model.get_input_embeddings()(ids)
    features = model.get_image_features(pixels)
    assert torch.equal(seen["inputs_embeds"][0, 1:5], features[0])
    assert torch.equal(seen["inputs_embeds"][0, 6:10], features[1])
    assert torch.equal(seen["inputs_embeds"][1, 5:9], features[2])
    assert torch.equal(seen["inputs_embeds"][ids != IMAGE_ID], words[ids != IMAGE_ID])
    assert torch.equal(out.image_hidden_states, features)
    with pytest.raises(ValueError, match=r"12 image tokens in the prompt and 8 visual tokens of 2 pictures"):
        model(input_ids=ids, pixel_values=pixels[:2])


def test_the_loss_is_the_mean_over_labelled_tokens_of_what_comes_next():
    model = tiny_vlm()
    ids = torch.tensor([[2, 7, 8, 9, 3]])
    labels = torch.tensor([[-100, -100, 8, 9, -100]])
    out = model(input_ids=ids, labels=labels)
    each = out.logits.log_softmax(dim=-1)
    torch.testing.assert_close(out.loss, -(each[0, 1, 8] + each[0, 2, 9]) / 2)


@torch.no_grad()
def test_an_answer_with_the_cache_is_the_answer_without_it_and_padding_changes_nothing(runner):
    shown = [[picture(0)], [picture(1)]]
    asked = ["what colour is the cup?", "is there a fish?"]
    inputs = runner.prompts(shown, asked)
    assert inputs["attention_mask"][1, 0] == 0, "the shorter prompt is padded on the left"
    said = runner.model.generate(**inputs, max_new_tokens=6, do_sample=False, eos_token_id=None)[:, -6:]
    for row, (images, prompt) in enumerate(zip(shown, asked, strict=True)):
        alone = runner.prompts([images], [prompt])
        ids = alone["input_ids"]
        for _ in range(6):
            logits = runner.model(input_ids=ids, pixel_values=alone["pixel_values"], use_cache=False).logits[:, -1]
            ids = torch.cat((ids, logits.argmax(dim=-1, keepdim=True)), dim=1)
        assert said[row].tolist() == ids[0, -6:].tolist()


def test_head_and_embedding_share_their_weights_and_the_eye_keeps_its_own_start():
    model = tiny_vlm(VLMO)
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert torch.equal(model.model.eye.blocks[0].gamma_1, torch.full((32,), 0.1))
    spread = model.model.eye.patch_embed.proj.weight.std().item()
    assert spread == pytest.approx((2 / 64) ** 0.5, rel=0.1), "Kaiming, as a stem's; not the language model's 0.2"


# ---------------------------------------------------------------------------------------------------------- packing
@torch.no_grad()
def test_many_questions_in_a_row_are_answered_as_if_each_were_asked_alone():
    model = tiny_vlm().double()
    pixels = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    segments = torch.tensor([[[0, 0, 0, 1, 1, -1], [2, 2, 2, 2, -1, -1]], [[0, 0, -1, -1, -1, -1], [1, 1, 1, 2, 2, 2]]])
    front = torch.tensor([[2, *[IMAGE_ID] * VISUAL]] * 2)
    ids = torch.cat((front, torch.randint(6, 30, (2, 12), generator=torch.Generator().manual_seed(0))), dim=1)
    packing = Packing.of(segments, front.shape[1])
    model.set_attn_implementation(PACKED)
    whole = model(input_ids=ids, pixel_values=pixels, position_ids=packing.position_ids, packing=packing).logits
    model.set_attn_implementation("sdpa")
    masked = model(input_ids=ids, pixel_values=pixels, position_ids=packing.position_ids, use_cache=False,
                   attention_mask=packing.mask().double()).logits  # fmt: skip
    for b in range(2):
        for k in range(3):
            own = front.shape[1] + (segments[b].flatten() == k).nonzero()[:, 0]
            alone = torch.cat((front[b], ids[b, own]))[None]
            logits = model(input_ids=alone, pixel_values=pixels[b : b + 1]).logits[0, front.shape[1] :]
            torch.testing.assert_close(whole[b, own], logits, atol=1e-12, rtol=0)
            torch.testing.assert_close(masked[b, own], logits, atol=1e-12, rtol=0)


# ---------------------------------------------------------------------------------------------------------- files
@pytest.mark.parametrize("eye", [TOWER, VLMO], ids=["clip", "vlmo"])
def test_a_saved_vlm_comes_back_whole(tmp_path, eye):
    model = tiny_vlm(eye)
    save_vlm(model, tmp_path)
    tiny_processor().save(tmp_path)
    again = omma.load_vlm(tmp_path, device="cpu")
    assert isinstance(again, OmmaVLMRunner)
    assert again.name == tmp_path.name
    ids, pixels = torch.tensor([[2, *[IMAGE_ID] * VISUAL, 9, 3]]), torch.randn(1, 3, 16, 16)
    assert torch.equal(again.model(input_ids=ids, pixel_values=pixels).logits,
                       model(input_ids=ids, pixel_values=pixels).logits)  # fmt: skip
    assert again.model.config.text_config.num_key_value_heads == 2
    assert again.fingerprint == OmmaVLMRunner(model, tiny_processor(), "tiny").fingerprint
    assert again.fingerprint != OmmaVLMRunner(tiny_vlm(eye, seed=1), tiny_processor(), "tiny").fingerprint


def test_a_vlm_is_loaded_with_int8_layers_and_refuses_what_is_for_others(tmp_path):
    save_vlm(tiny_vlm(), tmp_path)
    tiny_processor().save(tmp_path)
    plain, small = (omma.load_vlm(tmp_path, device="cpu", quantize=how) for how in (None, "int8"))
    ids = torch.tensor([[2, 7, 8, 9, 3]])
    torch.testing.assert_close(small.model(input_ids=ids).logits, plain.model(input_ids=ids).logits, atol=0.2, rtol=0)
    assert small.fingerprint != plain.fingerprint
    assert omma.load_vlm(tmp_path, device="cpu", precision="bf16").model.dtype == torch.bfloat16
    for options, message in (
        ({"quantize": "int4"}, "quantize 'int4'; it is None or int8"),
        ({"precision": "fp8"}, "precision 'fp8'; it is auto, bf16 or fp32"),
        ({"max_pixels": 5}, "max_pixels: an option of Hugging Face models"),
    ):
        with pytest.raises(ValueError, match=message):
            omma.load_vlm(tmp_path, **options)


def test_each_loader_says_what_a_folder_of_the_other_kind_is(tmp_path):
    save_vlm(tiny_vlm(), tmp_path / "vlm")
    save_pretrained(VLMo(VLMO), tmp_path / "eye")
    with pytest.raises(ValueError, match=r"holds a VLM, which answers in words: omma\.load_vlm"):
        from_pretrained(tmp_path / "vlm")
    with pytest.raises(ValueError, match="holds a vlmo, which answers no questions in words"):
        read_vlm(tmp_path / "eye")


# ---------------------------------------------------------------------------------------------------------- asking
def test_a_runner_is_a_vlm_and_answers_a_batch_as_one_by_one(runner):
    assert isinstance(runner, VLM)
    shown = [[picture(0)], [], [picture(1), picture(2)]]
    asked = ["what colour is the cup?", "yes", "is there a fish?"]
    together = runner.generate_batch(shown, asked, max_new_tokens=5, batch_size=3)
    assert together == [
        runner.generate(images, text, max_new_tokens=5) for images, text in zip(shown, asked, strict=True)
    ]
    assert "pixel_values" not in runner.prompts([[]], ["yes"])


def test_special_tokens_in_a_question_are_words(runner):
    ids = runner.prompts([[]], [f"is there a {IMAGE} [SEP] fish?"])["input_ids"][0].tolist()
    assert ids.count(runner.chat.end_id) == 1
    assert IMAGE_ID not in ids


def test_what_cant_be_asked_is_said(runner):
    with pytest.raises(ValueError, match="2 lists of pictures and 1 prompts"):
        runner.prompts([[], []], ["yes"])
    with pytest.raises(ValueError, match=r"give a list of them, or ask with generate"):
        runner.generate_batch([[]], "yes")
    with pytest.raises(ValueError, match=r"a picture is a PIL image, not str 'a\.png'"):
        runner.generate(["a.png"], "yes")
    with pytest.raises(ValueError, match=r"tiny has positions for 64\. Give fewer pictures"):
        runner.generate([picture(0)] * 16, "yes")
    without = Processor(train_wordpiece(TEXTS, 60), 16, 64)
    with pytest.raises(ValueError, match=r"the tokenizer has no \[IMAGE\]"):
        Chat(without, VISUAL)


def test_the_template_writes_turns_and_reads_an_answer_up_to_its_end(runner):
    chat = runner.chat
    question, answer = chat.turns(["is there a fish?", "yes"])
    assert chat.prompt(1, "is there a fish?") == [2, *[IMAGE_ID] * VISUAL, *question]
    assert chat.read([*answer, *question]) == "yes"
    assert chat.read(chat.turns(["how many balls are there?"])[0]) == "how many balls are there?"
