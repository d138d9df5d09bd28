"""omma's own VLMs behind the protocol VLM, with the interface of `HFVLM`: pictures and a question in, words out.

B prompts of a batch, T tokens of the longest of them.
"""

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from omma.models.chat import Chat
from omma.models.first_token import first_token
from omma.models.hf_vlm import same_number
from omma.models.likelihood import answer_loss
from omma.models.one_picture import ask
from omma.models.preprocess import Processor, pad
from omma.models.pretrained import has_fast_bf16, pick_device, settings_of
from omma.models.quantize import quantize_linears
from omma.models.vlm import OmmaVLM, read_vlm
from omma.models.weights import weights_hash


class OmmaVLMRunner:
    """A VLM of omma with its processor. Greedy unless asked otherwise; prompts of a batch are padded on the left.

    model: the `OmmaVLM`, on its device, in its dtype. processor: pictures and words -> tensors. reads_sources: whether
    it can be shown several numbered sources in one prompt; it was trained on questions about pictures alone.
    """

    reads_sources = False

    def __init__(self, model: OmmaVLM, processor: Processor, name: str, precision: str = "fp32",
                 quantize: str | None = None):  # fmt: skip
        self.model: Any = model.eval()
        self.processor, self.name, self.precision, self.quantize = processor, name, precision, quantize
        self.chat = Chat(processor, model.config.image_seq_length)

    @property
    def device(self) -> torch.device:
        return self.model.device

    @cached_property
    def fingerprint(self) -> str:
        """Of weights, words and pictures' preparation: two VLMs with the same one give the same answers."""
        said = [weights_hash(self.model.state_dict()), settings_of(self.processor, self.precision), self.quantize]
        return hashlib.blake2b(json.dumps(said).encode(), digest_size=8).hexdigest()

    def generate(self, images: Sequence[Image.Image], prompt: str, max_new_tokens: int = 64, **options: Any) -> str:
        """The answer to one prompt about its pictures, of which there may be none. Otherwise as `generate_batch`."""
        return self.generate_batch([images], [prompt], max_new_tokens, **options)[0]

    def generate_batch(
        self, images: Sequence[Sequence[Image.Image]], prompts: Sequence[str], max_new_tokens: int = 64, *,
        batch_size: int = 8, **options: Any,
    ) -> list[str]:  # fmt: skip
        """Answers to n prompts, each about its own list of pictures, without prompts and special tokens.

        options: as of transformers' `generate`, such as do_sample=True, temperature=0.7. ValueError as of `prompts`.
        """
        same_number(images, prompts)
        answers: list[str] = []
        for start in range(0, len(prompts), batch_size):
            part = slice(start, start + batch_size)
            inputs = self.prompts(images[part], prompts[part])
            tokens = self.model.generate(**inputs, **self.generation(max_new_tokens, options))
            tokens = tokens if isinstance(tokens, Tensor) else tokens.sequences
            if len(tokens) != len(inputs["input_ids"]):
                raise ValueError(f"{len(tokens)} answers to {len(inputs['input_ids'])} prompts: generate_batch gives "
                                 "one to each; leave out num_return_sequences")  # fmt: skip
            answers += [self.read(row) for row in tokens[:, inputs["input_ids"].shape[1] :].tolist()]
        return answers

    def generation(self, max_new_tokens: int, options: dict[str, Any]) -> dict[str, Any]:
        """What transformers' `generate` is told: no sampling, unless the options ask for it."""
        return {"max_new_tokens": max_new_tokens, "do_sample": False, "eos_token_id": self.chat.end_id,
                "pad_token_id": self.chat.pad_id, **options}  # fmt: skip

    def ask(
        self, images: Sequence[Image.Image], questions: Sequence[str], max_new_tokens: int = 64, *,
        by_first: bool = False, **options: Any,
    ) -> list[str]:  # fmt: skip
        """Answers to several questions about the same pictures, which run once; see one_picture.py.

        by_first: of methods that drop visual tokens by the question, the first one decides for all. The rest as in
        `generate_batch`.
        """
        told = self.generation(max_new_tokens, options)
        said = ask(self.model, lambda question: self.prompts([images], [question]), questions, told, by_first)
        return [self.read(row) for row in said]

    def read(self, tokens: Sequence[int]) -> str:
        """The words of an answer's tokens."""
        return self.chat.read(tokens)

    def first_token(
        self, images: Sequence[Sequence[Image.Image]], prompts: Sequence[str], words: Sequence[Sequence[str]],
        batch_size: int = 8,
    ) -> np.ndarray:  # fmt: skip
        """How likely each answer begins with each option: (n, C) float32 log-probabilities; see first_token.py."""
        encode = lambda text: self.processor.tokenizer.encode(text, add_special_tokens=False).ids
        return first_token(self, images, prompts, words, encode, batch_size)

    def answer_loss(
        self, images: Sequence[Sequence[Image.Image]], prompts: Sequence[str], answers: Sequence[str],
        batch_size: int = 8,
    ) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
        """How unlikely each answer is, mean of its tokens, and whether it is the greedy one: (n,) float32, (n,) bool;
        see likelihood.py."""
        encode = lambda text: self.processor.tokenizer.encode(text, add_special_tokens=False).ids
        return answer_loss(self, images, prompts, answers, encode, batch_size)

    def prompts(self, images: Sequence[Sequence[Image.Image]], prompts: Sequence[str]) -> dict[str, Tensor]:
        """What the model takes, on its device: input_ids and attention_mask (B, T), padded on the left, and
        pixel_values (pictures of all prompts, 3, h, w), left out where there are none. In each prompt its pictures come
        first, in their order, then the words, in which special tokens are plain text.

        ValueError: not as many lists as prompts, something that is no picture, more tokens than the model has positions
        for.
        """
        same_number(images, prompts)
        for image in (image for shown in images for image in shown):
            if not isinstance(image, Image.Image):
                raise ValueError(f"a picture is a PIL image, not {type(image).__name__} {str(image)[:40]!r}; files are "
                                 "read by omma.decode.decode(path.read_bytes()).image")  # fmt: skip
        turns = self.chat.turns(prompts)
        rows = [self.chat.pictures(len(shown)) + turn for shown, turn in zip(images, turns, strict=True)]
        held = self.model.config.text_config.max_position_embeddings
        if (longest := max(map(len, rows), default=0)) > held:
            raise ValueError(f"a prompt of {longest} tokens; {self.name} has positions for {held}. Give fewer pictures "
                             f"({self.chat.tokens} tokens each) or fewer words")  # fmt: skip
        ids, mask = pad(rows, 0, self.chat.pad_id, left=True)
        found = {"input_ids": ids.to(self.device), "attention_mask": mask.to(self.device)}
        if shown := [image for some in images for image in some]:
            found["pixel_values"] = self.processor.images(shown).to(self.device, self.model.dtype)
        return found


def load_omma_vlm(
    folder: Path, name: str, device: str = "auto", precision: str = "auto", quantize: str | None = None
) -> OmmaVLMRunner:
    """A VLM of omma from its model folder; see `omma.load_vlm`. precision: auto is bf16 on a GPU that is fast in it,
    else fp32, since a model as small as these spends its time elsewhere than in products of matrices."""
    if precision not in ("auto", "bf16", "fp32"):
        raise ValueError(f"precision {precision!r}; it is auto, bf16 or fp32")
    if quantize not in (None, "int8"):
        raise ValueError(f"quantize {quantize!r}; it is None or int8")
    place = pick_device(device)
    half = precision == "bf16" or (precision == "auto" and place.type == "cuda" and has_fast_bf16(place))
    model: Any = read_vlm(folder)
    if half:
        model.to(torch.bfloat16)
    if quantize == "int8":
        quantize_linears(model.get_decoder().layers)
    return OmmaVLMRunner(model.to(place), Processor.load(folder), name, "bf16" if half else "fp32", quantize)
