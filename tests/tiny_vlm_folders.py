"""Tiny random VLMs as folders that `omma.load_vlm` loads: weights, tokenizer, processor files and a chat template.

The token numbers are those of tiny_vlms.py, so `TINY[name]()` is the very model in the folder of that name. Words are
spelled letter by letter.
"""

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil
from transformers.models.video_llava.image_processing_video_llava import VideoLlavaImageProcessor
from transformers.utils import logging

from tiny_vlms import BOS, EOS, IMAGE, PAD, PATCH, PINPOINTS, SIDE, TILE, TINY, VOCAB, WORDS

# Names of the tokens 3 to 6 (picture, video, begin, end) and of three more.
LLAVA = ("<image>", "<video>", "<s1>", "<s2>", "<s3>", "<s4>", "<s5>")
QWEN = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>", "<|im_start|>", "<|im_end|>", "<s5>")
IDEFICS = ("<image>", "<video>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>", "<row_1_col_1>",
           "<row_1_col_2>")  # fmt: skip
INTERN = ("<IMG_CONTEXT>", "<video>", "<img>", "</img>", "<|im_start|>", "<|im_end|>", "<s5>")
NAMES = {"qwen2_vl": QWEN, "qwen2_5_vl": QWEN, "qwen3_vl": QWEN, "idefics3": IDEFICS, "smolvlm": IDEFICS,
         "internvl": INTERN}  # fmt: skip

SQUARE = {"height": SIDE, "width": SIDE}
ROUND = {"size": {"shortest_edge": SIDE}, "crop_size": SQUARE}
TILES = {"size": {"longest_edge": 2 * TILE}, "max_image_size": {"longest_edge": TILE}}
QWEN_SIZE = {"shortest_edge": 16 * 16, "longest_edge": 32 * 32}
COUNTED = {"patch_size": PATCH, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
# name -> (image processor, name of the processor, what the processor is told)
PARTS: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "llava": (CLIPImageProcessorPil(**ROUND), "LlavaProcessor", COUNTED),
    "llava_next": (
        LlavaNextImageProcessorPil(**ROUND, image_grid_pinpoints=PINPOINTS), "LlavaNextProcessor", COUNTED,
    ),
    "llava_onevision": (
        LlavaOnevisionImageProcessorPil(size=SQUARE, image_grid_pinpoints=PINPOINTS), "LlavaOnevisionProcessor",
        {"num_image_tokens": (SIDE // PATCH) ** 2, "vision_feature_select_strategy": "full"},
    ),
    "video_llava": (VideoLlavaImageProcessor(**ROUND), "VideoLlavaProcessor", COUNTED),
    "idefics3": (Idefics3ImageProcessorPil(**TILES), "Idefics3Processor", {"image_seq_len": 16}),
    "smolvlm": (SmolVLMImageProcessorPil(**TILES), "SmolVLMProcessor", {"image_seq_len": 16}),
    "internvl": (
        GotOcr2ImageProcessorPil(size={"height": TILE, "width": TILE}, max_patches=4), "InternVLProcessor",
        {"image_seq_length": 16},
    ),
}  # fmt: skip
for name, kind in {"qwen2_vl": "Qwen2VL", "qwen2_5_vl": "Qwen2_5_VL", "qwen3_vl": "Qwen3VL"}.items():
    tones = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3} if name == "qwen3_vl" else {}
    PARTS[name] = (Qwen2VLImageProcessorPil(patch_size=PATCH, size=QWEN_SIZE, **tones), f"{kind}Processor", {})

CHAT = (
    "{% for message in messages %}{{ message['role'] }}: {% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% else %}{{ PLACE[part['type']] }}{% endif %}"
    "{% endfor %}{{ '\n' }}{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)


def tokenizer(name: str, pad: bool = True) -> PreTrainedTokenizerFast:
    """Letters, digits and signs; a letter after a space is one piece with it, which fills the vocabulary."""
    signs = [chr(code) for code in range(32, 127)] + ["\n"]
    pieces = [f" {sign}" for sign in signs if sign.isalnum()][: VOCAB - WORDS - len(signs)]
    specials = ["<pad>", "<s>", "</s>", *NAMES.get(name, LLAVA)]
    assert (PAD, BOS, EOS, IMAGE, len(specials)) == (0, 1, 2, 3, WORDS)
    vocab = {piece: i for i, piece in enumerate([*specials, *signs, *pieces])}
    backend = Tokenizer(BPE(vocab, [(" ", piece[1]) for piece in pieces], ignore_merges=False))
    backend.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_next")  # type: ignore[assignment]
    backend.decoder = decoders.Fuse()  # type: ignore[assignment]
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials])
    named = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>",
             "video_token": "<video>"}  # fmt: skip
    own: dict[str, Any] = {"extra_special_tokens": named} if name == "internvl" else {}
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", **own,
                                   **({"pad_token": "<pad>"} if pad else {}))  # fmt: skip


def template(name: str) -> str:
    image, video, begin, end = NAMES.get(name, LLAVA)[:4]
    if name.startswith("qwen"):
        image, video = begin + image + end, begin + video + end
        video = "<|video_pad|>" if name == "qwen3_vl" else video  # whose processor writes the frames' own marks
    return f"{{% set PLACE = {json.dumps({'image': image, 'video': video})} %}}{CHAT}"


def save(name: str, folder: Path, chat: bool = True, pad: bool = True) -> Path:
    """The folder, filled. chat: with a chat template. pad: with a token to pad with."""
    pictures, kind, told = PARTS[name]
    model = TINY[name]()
    logging.disable_progress_bar()
    model.save_pretrained(folder)
    tokenizer(name, pad).save_pretrained(folder)
    pictures.save_pretrained(folder)
    (folder / "processor_config.json").write_text(json.dumps({"processor_class": kind, **told}))
    if chat:
        (folder / "chat_template.jinja").write_text(template(name))
    if name.startswith("qwen"):
        (folder / "video_preprocessor_config.json").write_text(json.dumps({"size": QWEN_SIZE, "patch_size": PATCH}))
    return folder
