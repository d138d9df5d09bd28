"""Hugging Face VLMs by folder: tensors, prompts and answers against transformers' own, and against arithmetic."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from tiny_hf import bert_tokenizer

import omma
from omma.models.hf_processor import in_words
from omma.models.pretrained import VLM
from tiny_vlm_folders import PARTS, QWEN_SIZE, save
from tiny_vlms import EOS, IMAGE, PAD, PATCH, TINY, VIDEO, WITH_VIDEO

RNG = np.random.default_rng(0)
PICTURES = [Image.fromarray(RNG.integers(0, 256, (h, w, 3), dtype=np.uint8)) for w, h in ((40, 30), (20, 60), (64, 33))]
SHOWN = [PICTURES[:2], [], PICTURES[2:]]
ASKED = ["What is it?", "Is <image> or <|im_end|> a word?", "a"]
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """name -> a folder with that tiny VLM, made when it is first asked for."""
    root, made = tmp_path_factory.mktemp("vlms"), {}

    def folder(name: str) -> Path:
        if name not in made:
            made[name] = save(name, root / name)
        return made[name]

    return folder


@pytest.fixture(scope="module", params=PARTS)
def family(request, folders):
    return request.param, omma.load_vlm(folders(request.param), device="cpu", precision="fp32")


def load(folder, **options):
    return omma.load_vlm(folder, **{"device": "cpu", "precision": "fp32"} | options)


def copied(folder, to, without=()):
    return Path(shutil.copytree(folder, to, ignore=shutil.ignore_patterns(*without)))


# ------------------------------------------------------------------------------------------------------- every family
def test_how_likely_an_answer_begins_with_each_option_is_in_the_logits_of_the_prompts_last_place(folders):
    vlm = load(folders("llava"))
    found = vlm.first_token(SHOWN, ASKED, [("A", " A"), ("b",)], batch_size=2)
    alone = []
    for shown, words in zip(SHOWN, ASKED, strict=True):
        with torch.inference_mode():
            said = vlm.model(**vlm.prompts([shown], [words])).logits[0, -1].double().softmax(-1)
        ids = [vlm.processor.tokenizer.convert_tokens_to_ids(piece) for piece in ("A", " A", "b")]
        alone.append([float(said[ids[0]] + said[ids[1]]), float(said[ids[2]])])
    np.testing.assert_allclose(np.exp(found), alone, rtol=1e-4)
    with pytest.raises(ValueError, match="'yes' is one token"):
        vlm.first_token(SHOWN, ASKED, [("A",), ("yes",)])
    with pytest.raises(ValueError, match="begins like another option"):
        vlm.first_token(SHOWN, ASKED, [("A",), ("A", "b")])


def test_the_loss_of_an_answer_is_transformers_own_of_its_tokens_behind_the_prompt(family):
    _, vlm = family
    answers = ["A b", "a", "b a A"]
    loss, greedy = vlm.answer_loss(SHOWN, ASKED, answers, batch_size=3)
    for shown, words, answer, ours, likeliest in zip(SHOWN, ASKED, answers, loss, greedy, strict=True):
        said = torch.tensor([vlm.processor.tokenizer.encode(answer, add_special_tokens=False)])
        inputs = vlm.prompts([shown], [words])
        length, more = inputs["input_ids"].shape[1], {"input_ids": said, "attention_mask": torch.ones_like(said)}
        whole = {name: torch.cat((value, more.get(name, torch.zeros_like(said))), dim=1)
                 if value.shape == (1, length) else value for name, value in inputs.items()}  # fmt: skip
        with torch.inference_mode():
            out = vlm.model(**whole, labels=torch.cat((torch.full((1, length), -100), said), dim=1))
        assert ours == pytest.approx(float(out.loss), rel=1e-4)
        assert likeliest == torch.equal(out.logits[0, length - 1 : -1].argmax(-1), said[0])


def test_an_answer_of_nothing_has_no_loss_and_a_greedy_one_is_known_as_such(folders):
    vlm = load(folders("llava"))
    token = int(vlm.model(**vlm.prompts(SHOWN[:1], ASKED[:1])).logits[0, -1].argmax())
    said = vlm.processor.tokenizer.convert_ids_to_tokens(token)
    _, greedy = vlm.answer_loss(SHOWN[:1] * 2, ASKED[:1] * 2, [said, "A" if said != "A" else "b"])
    assert greedy.tolist() == [True, False]
    with pytest.raises(ValueError, match="has no token"):
        vlm.answer_loss(SHOWN[:1], ASKED[:1], [""])
    with pytest.raises(ValueError, match="1 prompts and 2 answers"):
        vlm.answer_loss(SHOWN[:1], ASKED[:1], ["A", "b"])


def test_an_answer_is_what_transformers_generates_and_a_batch_answers_what_each_prompt_does_alone(family):
    name, vlm = family
    assert isinstance(vlm, VLM)
    assert (vlm.name, vlm.precision, str(vlm.device)) == (name, "fp32", "cpu")
    inputs = vlm.prompts(SHOWN, ASKED)
    assert inputs["attention_mask"][:, -1].all(), "padded on the left"
    assert (inputs["input_ids"][inputs["attention_mask"] == 0] == PAD).all()
    assert (inputs["input_ids"][1] != IMAGE).all(), "words in a prompt are no pictures"
    tokens = TINY[name]().generate(**inputs, max_new_tokens=3, do_sample=False)[:, inputs["input_ids"].shape[1] :]
    words = [said.strip() for said in vlm.processor.tokenizer.batch_decode(tokens, skip_special_tokens=True)]
    assert len(set(words)) > 1
    assert vlm.generate_batch(SHOWN, ASKED, max_new_tokens=3, batch_size=2) == words
    alone = [vlm.generate(shown, said, max_new_tokens=3) for shown, said in zip(SHOWN, ASKED, strict=True)]
    assert alone == words


def test_frames_stand_where_a_video_does_in_the_prompt(family):
    name, vlm = family
    frames = [PICTURES[0]] * 3
    if name not in WITH_VIDEO:
        assert not vlm.takes_video
        with pytest.raises(ValueError, match=f"a {name} takes no videos; give it frames as pictures"):
            vlm.prompts([frames], ["What happens?"], video=True)
        return
    inputs = vlm.prompts([frames, []], ["What happens?", "Nothing?"], video=True)
    per_frame = {"llava_onevision": 9, "video_llava": 37, "smolvlm": 16, "internvl": 16}
    grid = inputs.get("video_grid_thw", torch.zeros(1, 3, dtype=torch.long))
    wanted = {"llava_onevision": 3 * 9 + 1}.get(name, 3 * per_frame.get(name, 0)) or int(grid.prod()) // 4
    tokens = (inputs["input_ids"] == IMAGE) | (inputs["input_ids"] == VIDEO)
    assert tokens.sum(dim=1).tolist() == [wanted, 0]
    told = vlm.generate_batch([frames, frames], ["What happens?"] * 2, 2, video=True, fps=2.0)
    assert told[0] == told[1] == vlm.generate(frames, "What happens?", 2, video=True, fps=2.0)
    if name in ("qwen3_vl", "smolvlm"):  # which write the time of each frame
        slow, quick = (vlm.prompts([frames], ["What?"], video=True, fps=fps)["input_ids"] for fps in (0.5, 1.0))
        assert slow.tolist() != quick.tolist()


# ------------------------------------------------------------------------------------------------------------ tensors
@pytest.mark.parametrize("name", ["llava", "llava_next", "idefics3"])
def test_tensors_are_those_of_the_familys_own_processor(name, folders):
    own = transformers.AutoProcessor.from_pretrained(folders(name))
    shown = [PICTURES[:2], PICTURES[2:]]
    talks = [[{"role": "user", "content": [*({"type": "image", "image": image} for image in images),
                                           {"type": "text", "text": "What is it?"}]}] for images in shown]  # fmt: skip
    theirs = own.apply_chat_template(
        talks, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
        processor_kwargs={"padding": True, "padding_side": "left"},
    )  # fmt: skip
    ours = load(folders(name)).prompts(shown, ["What is it?"] * 2)
    assert set(ours) == set(theirs)
    for key, value in ours.items():
        assert torch.equal(value, theirs[key]), key


def test_a_prompt_for_llava_is_what_arithmetic_says(folders):
    vlm = load(folders("llava"))
    colour = (200, 40, 90)
    inputs = vlm.prompts([[Image.new("RGB", (50, 37), colour)]], ["What?"])
    wanted = torch.tensor([(c / 255 - m) / s for c, m, s in zip(colour, MEAN, STD, strict=True)])
    torch.testing.assert_close(inputs["pixel_values"], wanted[None, :, None, None].expand(1, 3, 24, 24))
    spelled = vlm.processor.tokenizer("user: ").input_ids + [IMAGE] * 36
    assert inputs["input_ids"][0].tolist() == spelled + vlm.processor.tokenizer("What?\nassistant: ").input_ids


def test_patches_for_qwen_come_in_twos_by_twos_and_a_video_has_two_frames_in_each(folders):
    vlm = load(folders("qwen2_vl"))
    assert QWEN_SIZE["shortest_edge"] == 16 * 16, "so that pictures of 16 x 16 stay as they are"
    tone = np.kron(np.arange(16, dtype=np.uint8).reshape(4, 4) * 10, np.ones((PATCH, PATCH), dtype=np.uint8))
    one = Image.fromarray(np.stack([tone] * 3, axis=-1))
    other = Image.new("RGB", (16, 16), (255, 255, 255))
    back = lambda pixels: ((pixels.view(-1, 3, 2, PATCH**2)[:, 0] * STD[0] + MEAN[0]) * 255).mean(dim=-1).round()
    seen = vlm.prompts([[one]], ["What?"])
    order = [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15]  # the four that are merged follow each other
    assert back(seen["pixel_values"]).tolist() == [[10 * place] * 2 for place in order]
    assert seen["image_grid_thw"].tolist() == [[1, 4, 4]]
    assert (seen["input_ids"] == IMAGE).sum() == 4
    assert seen["mm_token_type_ids"].tolist() == (seen["input_ids"] == IMAGE).long().tolist()
    moving = vlm.prompts([[one, other, one]], ["What?"], video=True)
    assert moving["video_grid_thw"].tolist() == [[2, 4, 4]]
    steps = [[10 * place, 255] for place in order] + [[10 * place] * 2 for place in order]  # the last frame, twice
    assert back(moving["pixel_values_videos"]).tolist() == steps
    with pytest.raises(ValueError, match="the frames of a video differ in size"):
        vlm.prompts([[one, one.resize((32, 16))]], ["What?"], video=True)


def test_a_large_picture_is_scaled_down_before_it_is_prepared(folders):
    large = Image.fromarray(np.kron(np.asarray(PICTURES[0]), np.ones((4, 4, 1), dtype=np.uint8)))
    scaled = large.resize((40, 30), Image.Resampling.BICUBIC)
    bounded, free = load(folders("llava"), max_pixels=40 * 30), load(folders("llava"))
    first = bounded.prompts([[large]], ["What?"])["pixel_values"]
    assert torch.equal(first, free.prompts([[scaled]], ["What?"])["pixel_values"])
    assert not torch.equal(first, free.prompts([[large]], ["What?"])["pixel_values"])


def test_the_frames_of_a_video_share_its_pixels_down_to_a_least(folders):
    frames = [PICTURES[0].resize((900, 600))] * 4
    seen = lambda pixels: load(folders("llava_onevision"), max_pixels=pixels).conversation(frames, "What?", True)
    shown = lambda pixels: seen(pixels)[0]["content"][0]["video"][0]
    assert shown(4 * 900 * 600).size == (900, 600)
    assert abs(shown(1000_000).width * shown(1000_000).height - 250_000) < 1000
    assert abs(shown(400_000).width * shown(400_000).height - 448 * 448) < 1000
    assert abs(shown(90_000).width * shown(90_000).height - 90_000) < 500


@pytest.mark.parametrize("name", ["llava", "llava_next", "llava_onevision", "idefics3", "smolvlm"])
def test_an_older_folder_that_doesnt_say_how_tokens_are_counted_has_them_counted_by_the_model(name, folders, tmp_path):
    old = load(copied(folders(name), tmp_path / "old", without=["processor_config.json"]))
    ours, theirs = (vlm.prompts(SHOWN, ASKED) for vlm in (old, load(folders(name))))
    assert {key: value.tolist() for key, value in ours.items()} == {k: v.tolist() for k, v in theirs.items()}


def test_a_model_without_a_chat_template_is_asked_in_the_words_it_was_tuned_on(folders, tmp_path):
    plain = load(copied(folders("llava"), tmp_path / "llava", without=["chat_template.jinja"]))
    said = plain.processor.tokenizer.decode(plain.prompts([PICTURES[:2]], ["What is it?"])["input_ids"][0])
    assert said == f"USER: {'<image>' * 36}\n{'<image>' * 36}\nWhat is it? ASSISTANT:"
    plain = load(copied(folders("qwen2_vl"), tmp_path / "qwen", without=["chat_template.jinja"]))
    said = plain.processor.tokenizer.decode(plain.prompts([PICTURES[:1]], ["What is it?"])["input_ids"][0])
    assert said.replace("<|image_pad|>", "") == "\nWhat is it?"


def test_a_tokenizer_without_a_token_to_pad_with_pads_with_its_end(tmp_path):
    vlm = load(save("llava", tmp_path / "llava", pad=False))
    inputs = vlm.prompts(SHOWN, ASKED)
    assert (inputs["input_ids"][inputs["attention_mask"] == 0] == EOS).all()
    assert len(vlm.generate_batch(SHOWN, ASKED, 2)) == 3


# ------------------------------------------------------------------------------------------------------------- options
def test_answers_are_greedy_unless_sampling_is_asked_for(folders):
    vlm = load(folders("llava"))
    vlm.model.generation_config.do_sample = True  # as Qwen-VL's files say
    vlm.model.generation_config.temperature = 5.0
    greedy = {vlm.generate(PICTURES[:1], "What is it?", 3) for _ in range(2)}
    assert len(greedy) == 1
    torch.manual_seed(0)
    assert len({vlm.generate(PICTURES[:1], "What is it?", 3, do_sample=True, temperature=5.0) for _ in range(2)}) > 1
    with pytest.raises(ValueError, match="2 answers to 1 prompts"):
        vlm.generate(PICTURES[:1], "What?", 2, num_beams=2, num_return_sequences=2)


def test_an_answer_ends_where_the_model_ends_it(folders):
    vlm = load(folders("smolvlm"))
    inputs = vlm.prompts([PICTURES[:1]], ["What is it?"])
    first = vlm.model.generate(**inputs, max_new_tokens=1)[0, -1]
    assert vlm.generate(PICTURES[:1], "What is it?", 8, eos_token_id=int(first)) == vlm.processor.tokenizer.decode(
        first
    )
    assert vlm.generation(4, {})["eos_token_id"] == EOS  # the tokenizer's, where the model's files name none


def test_precision_is_the_models_and_the_pictures(folders):
    vlm = load(folders("internvl"), precision="bf16")
    assert vlm.model.dtype == vlm.prompts(SHOWN, ASKED)["pixel_values"].dtype == torch.bfloat16
    assert vlm.precision == "bf16"
    assert len(vlm.generate_batch(SHOWN, ASKED, 2)) == 3


def test_a_fingerprint_tells_models_and_settings_apart(folders):
    one = load(folders("llava"))
    assert one.fingerprint == load(folders("llava")).fingerprint
    others = [load(folders("llava"), quantize="int8"), load(folders("llava"), max_pixels=99), load(folders("smolvlm"))]
    assert len({one.fingerprint, *(vlm.fingerprint for vlm in others)}) == 4


# -------------------------------------------------------------------------------------------------------------- errors
def test_what_cant_be_asked_is_refused_with_what_could_be(folders):
    vlm = load(folders("llava"))
    wrong = [
        (PICTURES[:1], ["a", "b"], "1 lists of pictures and 2 prompts; give one list to each"),
        ([["cup.png"]], ["a"], "a picture is a PIL image, not str 'cup.png'; files are read by omma.decode"),
        ([[]], [7], "a prompt is a str, not int '7'"),
        ([[]], "a", "prompts is one str; give a list of them"),
        (
            [PICTURES * 20],
            ["a"],
            r"a prompt of \d+ tokens; llava has positions for 2048. Give fewer or smaller pictures",
        ),
    ]
    for images, prompts, message in wrong:
        with pytest.raises(ValueError, match=message):
            vlm.prompts(images, prompts)
    tiles = load(folders("internvl"))
    with pytest.raises(ValueError, match="videos of 2, 3 frames; a internvl takes those of one length in a batch"):
        tiles.prompts([PICTURES[:1] * 3, PICTURES[:1] * 2], ["a", "b"], video=True)


def test_what_is_no_vlm_is_refused_with_what_would_be_one(folders, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    llava, bert = folders("llava"), tmp_path / "bert"
    text = transformers.BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    text.save_pretrained(bert)
    bert_tokenizer().save_pretrained(bert)
    strange = copied(llava, tmp_path / "strange", without=["config.json"])
    (strange / "config.json").write_text('{"model_type": "llava_of_mine", "auto_map": {"AutoConfig": "mine.Config"}}')
    (strange / "mine.py").write_text("raise SystemExit('it was run')")
    wrong = [
        (bert, {}, "is a bert, which doesn't answer in words about pictures; those that do are llava"),
        (strange, {}, "can't be read as a Hugging Face model"),
        (tmp_path / "none", {}, "no VLM .*none': no folder of this name is here"),
        ("vlmo-nano", {}, "holds a vlmo, which sees but doesn't answer in words; load_encoder loads it"),
        (
            copied(llava, tmp_path / "bare", ["*.safetensors"]),
            {},
            "can't be read as a Hugging Face model: .*safetensors",
        ),
        (copied(llava, tmp_path / "mute", ["tokenizer*"]), {}, "can't be read as a Hugging Face model"),
        (copied(llava, tmp_path / "dark", ["preproc*"]), {}, "can't be read as a Hugging Face model: .*image process"),
        (llava, {"precision": "fp8"}, "precision 'fp8'; it is auto, bf16 or fp32"),
        (llava, {"quantize": "int4"}, "quantize 'int4'; it is None or int8"),
        (llava, {"max_pixels": 0}, "max_pixels 0; a picture has at least 1"),
        (llava, {"device": "tpu"}, "device 'tpu' is not here"),
    ]
    for folder, options, message in wrong:
        with pytest.raises(ValueError, match=message):
            load(folder, **options)


# -------------------------------------------------------------------------------------------------------- torchvision
def test_no_num2words_is_needed_for_the_number_of_frames():
    numbers = {0: "zero", 13: "thirteen", 20: "twenty", 64: "sixty-four", 100: "one hundred",
               121: "one hundred and twenty-one", 999: "nine hundred and ninety-nine"}  # fmt: skip
    assert {number: in_words(number) for number in numbers} == numbers


BROKEN = """
import sys, transformers
from transformers.utils import is_torchvision_available
assert is_torchvision_available(), "the package is there"
import omma
from PIL import Image
vlm = omma.load_vlm(sys.argv[1], device="cpu", precision="fp32")
print(repr(vlm.generate([Image.new("RGB", (40, 30), "red")], "What is it?", 4)))
assert not is_torchvision_available() and sys.modules["torchvision"] is None
"""


def test_every_model_that_imports_transformers_looks_at_torchvision_first():
    first = re.compile(r"^(?:import|from) (transformers|omma\.models\.no_torchvision)\b", re.MULTILINE)
    texts = {path.name: path.read_text() for path in Path(omma.__file__).parent.glob("models/*.py")}
    found = {name: match[1] for name, text in texts.items() if (match := first.search(text))}
    assert len(found) >= 7
    assert set(found.values()) == {"omma.models.no_torchvision"}, found


def test_a_torchvision_that_is_there_but_broken_counts_as_none(folders, tmp_path):
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')"
    )
    src = str(Path(omma.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", BROKEN, str(folders("qwen2_vl"))], capture_output=True, text=True, timeout=300,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), src])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    here = load(folders("qwen2_vl")).generate([Image.new("RGB", (40, 30), "red")], "What is it?", 4)
    assert done.stdout.strip() == repr(here)
