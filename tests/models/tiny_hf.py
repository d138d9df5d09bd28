"""Tiny random Hugging Face models in folders, each with its family's own processor and tokenizer."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as hf
from PIL import Image
from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import Unigram
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.chinese_clip.image_processing_pil_chinese_clip import ChineseCLIPImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

TEXTS = ["a red cup", "two cups on the table", "a cup", "the red table under a cup on a red table on a table"]
SIZE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION: dict[str, Any] = SIZE | {"image_size": 32, "patch_size": 8, "initializer_range": 0.2}
TEXT: dict[str, Any] = SIZE | {"max_position_embeddings": 16, "initializer_range": 0.2}
SQUARE, CROP, SHORT = {"height": 32, "width": 32}, {"height": 32, "width": 32}, {"shortest_edge": 32}
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def pictures() -> list[Image.Image]:
    """Noise in four shapes and three modes."""
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for w, h in ((50, 37), (32, 32), (20, 71), (64, 33))]
    modes = ("RGB", "RGB", "L", "RGBA")
    return [Image.fromarray(array).convert(mode) for array, mode in zip(noise, modes, strict=True)]


def clip_tokenizer() -> Any:
    pieces = ["<|startoftext|>", "<|endoftext|>", *LETTERS, *(f"{c}</w>" for c in LETTERS), "cu", "cup</w>"]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    return hf.CLIPTokenizer(vocab=vocab, merges=[("c", "u"), ("cu", "p</w>")], model_max_length=16)


def bert_tokenizer(longest: int = 16) -> Any:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "cup", "##s", "on", "the", "table", "two"]
    return hf.BertTokenizer(vocab={word: i for i, word in enumerate(words)}, model_max_length=longest)


def siglip_tokenizer() -> Any:
    """As in the folders of released SigLIPs: lower case, no punctuation, </s> as end and as padding."""
    pieces = [("</s>", 0.0), ("<unk>", 0.0), ("▁", -3.0), *((c, -5.0) for c in LETTERS), ("▁cup", -2.0), ("▁a", -2.0)]
    backend = Tokenizer(Unigram(pieces, unk_id=1))
    backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace(".", "")])  # type: ignore
    backend.pre_tokenizer = pre_tokenizers.Metaspace()  # type: ignore
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 0)])  # type: ignore
    return hf.PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", pad_token="</s>", unk_token="<unk>",
                                      model_max_length=16, model_input_names=["input_ids"])  # fmt: skip


def siglip2_tokenizer() -> Any:
    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *LETTERS, "cu", "cup"]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    return hf.Siglip2Tokenizer(vocab=vocab, merges=[("c", "u"), ("cu", "p")], add_eos_token=True, add_bos_token=False,
                               padding_side="right", model_max_length=16, model_input_names=["input_ids"])  # fmt: skip


def clip(**changes: Any) -> tuple[Any, Any, Any]:
    text = TEXT | {"vocab_size": 56, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    config = hf.CLIPConfig(vision_config=VISION, text_config=text, projection_dim=24, **changes)
    return hf.CLIPModel(config), CLIPImageProcessorPil(size=SHORT, crop_size=CROP), clip_tokenizer()


def siglip() -> tuple[Any, Any, Any]:
    text = TEXT | {"vocab_size": 31, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    config = hf.SiglipConfig(vision_config=VISION, text_config=text)
    return hf.SiglipModel(config), SiglipImageProcessorPil(size=SQUARE), siglip_tokenizer()


def siglip2() -> tuple[Any, Any, Any]:
    vision = {k: v for k, v in VISION.items() if k != "image_size"} | {"num_patches": 16}
    text = TEXT | {"vocab_size": 34, "bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}
    config = hf.Siglip2Config(vision_config=vision, text_config=text)
    return hf.Siglip2Model(config), Siglip2ImageProcessorPil(patch_size=8, max_num_patches=12), siglip2_tokenizer()


def chinese_clip() -> tuple[Any, Any, Any]:
    text = TEXT | {"vocab_size": 13}
    config = hf.ChineseCLIPConfig(vision_config=VISION, text_config=text, projection_dim=24)
    return hf.ChineseCLIPModel(config), ChineseCLIPImageProcessorPil(size=SHORT, crop_size=CROP), bert_tokenizer()


def blip(kind: Any = hf.BlipForImageTextRetrieval) -> tuple[Any, Any, Any]:
    text = TEXT | {"vocab_size": 13, "encoder_hidden_size": 32, "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0,
                   "sep_token_id": 3}  # fmt: skip
    config = hf.BlipConfig(vision_config=VISION, text_config=text, projection_dim=24, image_text_hidden_size=20)
    return kind(config), BlipImageProcessorPil(size=SQUARE), bert_tokenizer()


def dinov2() -> tuple[Any, Any, None]:
    own = BitImageProcessorPil(size={"shortest_edge": 40}, crop_size=CROP)
    return hf.Dinov2Model(hf.Dinov2Config(**VISION)), own, None


def registers() -> tuple[Any, Any, None]:
    own = BitImageProcessorPil(size={"shortest_edge": 40}, crop_size=CROP)
    return hf.Dinov2WithRegistersModel(hf.Dinov2WithRegistersConfig(**VISION, num_register_tokens=2)), own, None


def vit(kind: Any = hf.ViTModel) -> tuple[Any, Any, None]:
    return kind(hf.ViTConfig(**VISION)), ViTImageProcessorPil(size=SQUARE), None


def convnext() -> tuple[Any, Any, None]:
    config = hf.ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, patch_size=4, image_size=32)
    return hf.ConvNextModel(config), ConvNextImageProcessorPil(size=SHORT, crop_pct=0.8), None


def dinov3() -> tuple[Any, None, None]:
    """Its own processor needs torchvision, so there is none beside it."""
    return hf.DINOv3ViTModel(hf.DINOv3ViTConfig(**VISION, num_register_tokens=2)), None, None


MODELS = {"clip": clip, "siglip": siglip, "siglip2": siglip2, "chinese_clip": chinese_clip, "blip": blip,
          "dinov2": dinov2, "dinov2_with_registers": registers, "vit": vit, "convnext": convnext}  # fmt: skip


def save(folder: Path, made: tuple[Any, Any, Any], seed: int = 0) -> Path:
    """Writes a model with its processor and tokenizer, with random weights that tell pictures and texts apart."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for weight in made[0].parameters():
            if weight.dim() > 1:
                weight.normal_(std=0.25)
    for part in made:
        if part is not None:
            part.save_pretrained(folder)
    return folder
