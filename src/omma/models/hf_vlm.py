"""Hugging Face VLMs behind the protocol VLM: pictures and a question in, an answer in words out.

    vlm = load_vlm("path/of/SmolVLM-256M-Instruct")           # as `hf download` or save_pretrained left it
    vlm.generate([picture], "How many cups are there?")

`vlm.model` is the family's own model, as transformers builds it, and `vlm.prompts` gives the tensors that it takes, so
whatever works on such a model works here. B prompts of a batch, T tokens of the longest of them.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import omma.models.no_torchvision  # noqa: F401  isort: skip  (before transformers, which looks for torchvision)
from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, AutoModelForImageTextToText, PreTrainedModel

from omma.models.first_token import first_token
from omma.models.hf import load_model, local, read_config
from omma.models.hf_processor import load_vlm_processor, tells_words_from_tokens
from omma.models.likelihood import answer_loss
from omma.models.one_picture import ask
from omma.models.pretrained import has_fast_bf16, pick_device
from omma.models.quantize import quantize_linears
from omma.models.weights import weights_hash

MAX_PIXELS = 2048 * 2048  # about what the finest of these models looks at; Qwen-VL makes 5350 tokens of it
LEAST_FRAME = 448 * 448
SUCH_AS = "llava, llava_next, llava_onevision, qwen2_vl, qwen2_5_vl, qwen3_vl, idefics3, smolvlm, internvl"


class HFVLM:
    """A VLM with its processor. Greedy unless asked otherwise; prompts of a batch are padded on the left.

    model: the PreTrainedModel, on its device, in its dtype. processor: pictures, frames and words -> tensors.
    max_pixels: of a picture, and of the frames of a video together, as long as each is left LEAST_FRAME of them; larger
    ones are scaled down before the processor sees them.
    """

    def __init__(
        self, model: PreTrainedModel, processor: Any, name: str, precision: str = "fp32", quantize: str | None = None,
        max_pixels: int = MAX_PIXELS,
    ):  # fmt: skip
        self.model: Any = model.eval()
        self.processor, self.name, self.precision, self.quantize = processor, name, precision, quantize
        self.max_pixels = max_pixels
        self.tells_words = tells_words_from_tokens(type(processor))

    @property
    def device(self) -> torch.device:
        return self.model.device

    @cached_property
    def fingerprint(self) -> str:
        """Of weights, words and pictures' preparation: two VLMs with the same one give the same answers."""
        tokenizer, p = self.processor.tokenizer, self.processor
        backend = getattr(tokenizer, "backend_tokenizer", None)
        words = tokenizer.get_vocab() if backend is None else backend.to_str()
        settings = [weights_hash(self.model.state_dict()), words, p.chat_template,
                    p.image_processor.to_json_string(), self.precision, self.quantize, self.max_pixels]  # fmt: skip
        return hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=8).hexdigest()

    @property
    def takes_video(self) -> bool:
        return hasattr(self.processor, "video_processor")

    # ---- answering
    def generate(
        self, images: Sequence[Image.Image], prompt: str, max_new_tokens: int = 64, *, video: bool = False,
        fps: float = 1.0, **options: Any,
    ) -> str:  # fmt: skip
        """The answer to one prompt about its pictures, of which there may be none. Otherwise as `generate_batch`."""
        return self.generate_batch([images], [prompt], max_new_tokens, video=video, fps=fps, **options)[0]

    def generate_batch(
        self, images: Sequence[Sequence[Image.Image]], prompts: Sequence[str], max_new_tokens: int = 64, *,
        batch_size: int = 8, video: bool = False, fps: float = 1.0, **options: Any,
    ) -> list[str]:  # fmt: skip
        """Answers to n prompts, each about its own list of pictures; without the prompts and special tokens.

        video, fps: as of `prompts`. options: as of transformers' `generate`, such as do_sample=True, temperature=0.7.
        ValueError as of `prompts`.
        """
        answers: list[str] = []
        for start in range(0, len(same_number(images, prompts)), batch_size):
            part = slice(start, start + batch_size)
            inputs = self.prompts(images[part], prompts[part], video=video, fps=fps)
            tokens = self.model.generate(**inputs, **self.generation(max_new_tokens, options))
            tokens = tokens if isinstance(tokens, Tensor) else tokens.sequences
            if len(tokens) != len(inputs["input_ids"]):
                raise ValueError(f"{len(tokens)} answers to {len(inputs['input_ids'])} prompts; each has one, so "
                                 "leave out num_return_sequences")  # fmt: skip
            answers += [self.read(row) for row in tokens[:, inputs["input_ids"].shape[1] :].tolist()]
        return answers

    def ask(
        self, images: Sequence[Image.Image], questions: Sequence[str], max_new_tokens: int = 64, *,
        by_first: bool = False, video: bool = False, fps: float = 1.0, **options: Any,
    ) -> list[str]:  # fmt: skip
        """Answers to several questions about the same pictures, which run once; see one_picture.py.

        by_first: of methods that drop visual tokens by the question, the first one decides for all. The rest as in
        `generate_batch`.
        """

        def prompt(question: str) -> dict[str, Tensor]:
            return self.prompts([images], [question], video=video, fps=fps)

        told = self.generation(max_new_tokens, options)
        said = ask(self.model, prompt, questions, told, by_first)
        return [self.read(row) for row in said]

    def read(self, tokens: Sequence[int]) -> str:
        """The words of an answer's tokens."""
        return self.processor.tokenizer.decode(tokens, skip_special_tokens=True).strip()

    def first_token(
        self, images: Sequence[Sequence[Image.Image]], prompts: Sequence[str], words: Sequence[Sequence[str]],
        batch_size: int = 8,
    ) -> np.ndarray:  # fmt: skip
        """How likely each answer begins with each option: (n, C) float32 log-probabilities; see first_token.py."""
        encode = lambda text: self.processor.tokenizer.encode(text, add_special_tokens=False)
        return first_token(self, images, prompts, words, encode, batch_size)

    def answer_loss(
        self, images: Sequence[Sequence[Image.Image]], prompts: Sequence[str], answers: Sequence[str],
        batch_size: int = 8,
    ) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
        """How unlikely each answer is, mean of its tokens, and whether it is the greedy one: (n,) float32, (n,) bool;
        see likelihood.py."""
        encode = lambda text: self.processor.tokenizer.encode(text, add_special_tokens=False)
        return answer_loss(self, images, prompts, answers, encode, batch_size)

    def generation(self, max_new_tokens: int, options: dict[str, Any]) -> dict[str, Any]:
        """What transformers' `generate` is told: no sampling, unless the options ask for it."""
        tokenizer, own = self.processor.tokenizer, self.model.generation_config
        greedy = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        ends = {} if own.eos_token_id is not None else {"eos_token_id": tokenizer.eos_token_id}
        told = {"max_new_tokens": max_new_tokens, "pad_token_id": tokenizer.pad_token_id, **ends}
        return told | ({} if options.get("do_sample") else greedy) | options

    # ---- prompts
    def prompts(
        self, images: Sequence[Sequence[Image.Image]], prompts: Sequence[str], *, video: bool = False, fps: float = 1.0
    ) -> dict[str, Tensor]:
        """What the model takes, on its device: input_ids and attention_mask (B, T), padded on the left, pixel_values
        and whatever else the family has. In each prompt its pictures come first, in their order, then the words.

        video: each list of pictures is the frames of one video, at `fps` frames a second. Words that are control tokens
        to the model count as words (where a family can't tell them apart, with a space inside). ValueError: not as many
        lists as prompts, something that is no picture, a video for a model that takes none, more tokens than it has
        positions for.
        """
        same_number(images, prompts)
        if video and not self.takes_video:
            raise ValueError(
                f"a {self.model.config.model_type} takes no videos; give it frames as pictures (video=False)"
            )
        talks = [self.conversation(shown, words, video) for shown, words in zip(images, prompts, strict=True)]
        options: dict[str, Any] = {"padding": True, "padding_side": "left", **({"fps": fps} if video else {})}
        cautious = {"sanitize_control_tokens": True} if self.tells_words else {}
        inputs = self.processor.apply_chat_template(
            talks, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
            processor_kwargs=options, **cautious,
        )  # fmt: skip
        longest = getattr(self.model.config.get_text_config(decoder=True), "max_position_embeddings", None)
        if longest is not None and inputs["input_ids"].shape[1] > longest:
            raise ValueError(f"a prompt of {inputs['input_ids'].shape[1]} tokens; {self.name} has positions for "
                             f"{longest}. Give fewer or smaller pictures: load_vlm(..., max_pixels=)")  # fmt: skip
        if "pixel_values_images" in inputs:  # Video-LLaVA's older name
            inputs["pixel_values"] = inputs.pop("pixel_values_images")
        return {name: self.placed(value) for name, value in inputs.items() if isinstance(value, Tensor)}

    def conversation(self, images: Sequence[Image.Image], words: str, video: bool) -> list[dict[str, Any]]:
        if not isinstance(words, str):
            raise ValueError(f"a prompt is a str, not {type(words).__name__} {str(words)[:40]!r}")
        share = max(LEAST_FRAME, self.max_pixels // max(1, len(images))) if video else self.max_pixels
        shown = [bounded(image, min(share, self.max_pixels)) for image in images]
        seen: list[dict[str, Any]] = [{"type": "image", "image": image} for image in shown]
        if video and shown:
            if len({image.size for image in shown}) > 1:
                raise ValueError("the frames of a video differ in size; give them as they come from one video")
            seen = [{"type": "video", "video": shown}]
        if not self.tells_words:
            for token in self.processor.tokenizer.added_tokens_decoder.values():
                words = words.replace(token.content, f"{token.content[0]} {token.content[1:]}")
        return [{"role": "user", "content": [*seen, {"type": "text", "text": words}]}]

    def placed(self, value: Tensor) -> Tensor:
        return value.to(self.device, self.model.dtype if value.is_floating_point() else None)


def bounded(image: Image.Image, pixels: int) -> Image.Image:
    """RGB, and at most so many pixels. ValueError for what is no picture."""
    if not isinstance(image, Image.Image):
        raise ValueError(f"a picture is a PIL image, not {type(image).__name__} {str(image)[:40]!r}; files are read by "
                         "omma.decode.decode(path.read_bytes()).image")  # fmt: skip
    scale = math.sqrt(pixels / (image.width * image.height))
    if scale >= 1:
        return image.convert("RGB")
    size = (max(1, int(image.width * scale)), max(1, int(image.height * scale)))
    return image.convert("RGB").resize(size, Image.Resampling.BICUBIC)


def same_number(images: Sequence, prompts: Sequence) -> Sequence:
    """The prompts. ValueError where there are not as many lists of pictures."""
    if isinstance(prompts, str):
        raise ValueError("prompts is one str; give a list of them, or ask with generate")
    if len(images) != len(prompts):
        raise ValueError(f"{len(images)} lists of pictures and {len(prompts)} prompts; give one list to each, if only "
                         "an empty one")  # fmt: skip
    return prompts


def load_hf_vlm(
    source: str | Path, device: str = "auto", precision: str = "auto", quantize: str | None = None,
    max_pixels: int = MAX_PIXELS,
) -> HFVLM:  # fmt: skip
    """A VLM of a folder or a name on the hub; see `omma.load_vlm`."""
    if precision not in ("auto", "bf16", "fp32"):
        raise ValueError(f"precision {precision!r}; it is auto, bf16 or fp32")
    if quantize not in (None, "int8"):
        raise ValueError(f"quantize {quantize!r}; it is None or int8")
    if max_pixels < 1:
        raise ValueError(f"max_pixels {max_pixels}; a picture has at least 1")
    place, config = pick_device(device), read_config(source)
    if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        raise ValueError(f"{source} is a {config.model_type}, which doesn't answer in words about pictures; those "
                         f"that do are {SUCH_AS}. Eyes and readers are for load_encoder")  # fmt: skip
    processor = load_vlm_processor(local(source), config)
    half = precision == "bf16" or (precision == "auto" and has_fast_bf16(place))
    model, _ = load_model(source, AutoModelForImageTextToText, torch.bfloat16 if half else torch.float32)
    if quantize == "int8":
        decoder: Any = model.get_decoder()
        quantize_linears(decoder.layers)
    model.to(place)  # type: ignore[arg-type]
    return HFVLM(model, processor, Path(source).name, "bf16" if half else "fp32", quantize, max_pixels)
