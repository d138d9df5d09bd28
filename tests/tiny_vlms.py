"""Tiny random VLMs of every Hugging Face family, and inputs for them made without a processor.

    model = TINY["qwen2_vl"]()                                   # 6 decoder layers, width 48, float32, eval mode
    inputs = tiny_inputs("qwen2_vl", images=(2, 1, 0))           # three rows, padded on the left; the last is text only
    model(**inputs).logits; model.generate(**inputs, max_new_tokens=3)

Weights are drawn with unit gain, not with 0.02, so that every layer, picture and token shows in the logits.
"""

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
import transformers as hf
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.models.llava_next.modeling_llava_next import get_anyres_image_grid_shape, unpad_image

PAD, BOS, EOS, IMAGE, VIDEO, START, END, WORDS, VOCAB = 0, 1, 2, 3, 4, 5, 6, 10, 160  # WORDS: the first of them
LAYERS, WIDTH = 6, 48
SIDE, PATCH = 24, 4  # of the towers with one size: 6 x 6 patches
TILE = 32  # of the towers that see tiles and merge 2 x 2 patches: 4 x 4 visual tokens
PINPOINTS = [[24, 48], [48, 24], [48, 48]]
SIZES = [(40, 30), (20, 60), (24, 24)]  # of pictures that are cut by the pinpoints: height, width
GRIDS = [(12, 12), (8, 16), (10, 12)]  # of pictures in patches, for the families that take any size
TILES = (3, 1, 2)  # of a picture, the last one being the whole of it
VIDEO_GRID = (8, 8)
TEXT: dict[str, Any] = {"vocab_size": VOCAB, "hidden_size": WIDTH, "intermediate_size": 96, "num_attention_heads": 4,
                        "num_key_value_heads": 2, "max_position_embeddings": 2048, "bos_token_id": BOS,
                        "eos_token_id": EOS, "pad_token_id": PAD, "tie_word_embeddings": False}  # fmt: skip
TOWER: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2,
                         "image_size": SIDE, "patch_size": PATCH}  # fmt: skip
TILED = TOWER | {"image_size": TILE, "num_hidden_layers": 2}
TOKENS = {"image_token_index": IMAGE, "pad_token_id": PAD, "tie_word_embeddings": False}
QWEN = {"image_token_id": IMAGE, "video_token_id": VIDEO, "vision_start_token_id": START, "vision_end_token_id": END,
        "tie_word_embeddings": False}  # fmt: skip
MROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 2, 2]}}
CLIP = {"vision_config": TOWER | {"model_type": "clip_vision_model"}}
QWEN_TOWER = {"depth": 2, "num_heads": 2, "patch_size": PATCH, "spatial_merge_size": 2, "temporal_patch_size": 2}

FAMILIES = ("llava", "llava_next", "llava_onevision", "video_llava", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "idefics3",
            "smolvlm", "internvl")  # fmt: skip
QWENS = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
WITH_VIDEO = ("llava_onevision", "video_llava", *QWENS, "smolvlm", "internvl")


# ------------------------------------------------------------------------------------------------------------ models
def text(kind: str, layers: int, **changes: Any) -> dict[str, Any]:
    return TEXT | {"model_type": kind, "num_hidden_layers": layers} | changes


def config_of(name: str, layers: int = LAYERS) -> Any:
    """The family's config. llava, video_llava and smolvlm have a key per head, the others share keys (GQA)."""
    match name:
        case "llava":
            return hf.LlavaConfig(text_config=text("llama", layers, num_key_value_heads=4), **CLIP, **TOKENS)
        case "llava_next":
            mistral = text("mistral", layers, sliding_window=None)
            return hf.LlavaNextConfig(text_config=mistral, image_grid_pinpoints=PINPOINTS, **CLIP, **TOKENS)
        case "llava_onevision":
            tower = TOWER | {"model_type": "siglip_vision_model", "vision_use_head": False}
            return hf.LlavaOnevisionConfig(text_config=text("qwen2", layers), vision_config=tower, **TOKENS,
                                           video_token_index=VIDEO, image_grid_pinpoints=PINPOINTS)  # fmt: skip
        case "video_llava":
            return hf.VideoLlavaConfig(text_config=text("llama", layers, num_key_value_heads=4), **CLIP, **TOKENS,
                                       video_token_index=VIDEO)  # fmt: skip
        case "qwen2_vl":
            tower = QWEN_TOWER | {"embed_dim": 32, "hidden_size": WIDTH, "mlp_ratio": 2}
            return hf.Qwen2VLConfig(text_config=text("qwen2_vl_text", layers, **MROPE), vision_config=tower, **QWEN)
        case "qwen2_5_vl":
            tower = QWEN_TOWER | {"hidden_size": 32, "intermediate_size": 64, "out_hidden_size": WIDTH,
                                  "window_size": 16, "fullatt_block_indexes": [1]}  # fmt: skip
            return hf.Qwen2_5_VLConfig(
                text_config=text("qwen2_5_vl_text", layers, **MROPE), vision_config=tower, **QWEN
            )
        case "qwen3_vl":
            tower = QWEN_TOWER | {"depth": 4, "hidden_size": 32, "intermediate_size": 64, "out_hidden_size": WIDTH,
                                  "num_position_embeddings": 36, "deepstack_visual_indexes": [0, 1, 2]}  # fmt: skip
            own = text("qwen3_vl_text", layers, head_dim=12, **MROPE)
            return hf.Qwen3VLConfig(text_config=own, vision_config=tower, **QWEN)
        case "idefics3" | "smolvlm":
            kind = hf.Idefics3Config if name == "idefics3" else hf.SmolVLMConfig
            own = text("llama", layers, num_key_value_heads=2 if name == "idefics3" else 4)
            return kind(text_config=own, vision_config=TILED, image_token_id=IMAGE, tie_word_embeddings=False)
        case "internvl":
            return hf.InternVLConfig(text_config=text("qwen2", layers), vision_config=TILED, image_token_id=IMAGE,
                                     image_seq_length=16, tie_word_embeddings=False)  # fmt: skip
    raise ValueError(f"no tiny {name!r}; there are {', '.join(FAMILIES)}")


def tiny_vlm(name: str, layers: int = LAYERS, seed: int = 0, attention: str = "sdpa") -> PreTrainedModel:
    """A random model of the family, on the CPU, float32, eval mode. attention: sdpa | eager."""
    config = config_of(name, layers)
    config._attn_implementation = attention
    kind: Any = hf.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)]
    model = kind(config).eval()
    redraw(model, seed)
    own = {"do_sample": False, "pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": None}
    model.generation_config = hf.GenerationConfig(**own)  # no end: an answer has as many tokens as were asked for
    return model


@functools.cache
def shared_vlm(name: str = "llava", attention: str = "sdpa", layers: int = 3) -> PreTrainedModel:
    """The same, made once for all tests; they leave it as they found it."""
    return tiny_vlm(name, layers, attention=attention)


@torch.no_grad()
def redraw(model: nn.Module, seed: int) -> None:
    draws = torch.Generator().manual_seed(seed)
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    for name, weight in model.named_parameters():
        noise = torch.randn(weight.shape, generator=draws)
        if id(weight) in embeddings:
            weight.copy_(noise)
        elif weight.ndim > 1:
            weight.copy_(noise * 1.2 / math.sqrt(weight[0].numel()))
        else:
            weight.copy_(noise * 0.1 + (0.0 if name.endswith("bias") else 1.0))
    model.get_parameter("lm_head.weight")[:WORDS] = 0  # the largest logit is a word's, never a picture's


TINY: dict[str, Callable[..., PreTrainedModel]] = {name: partial(tiny_vlm, name) for name in FAMILIES}


# ------------------------------------------------------------------------------------------------------------ inputs
def tiny_inputs(
    name: str,
    batch: int = 1,
    images: int | Sequence[int] = 1,
    videos: int | Sequence[int] = 0,
    frames: int = 4,
    seed: int = 0,
) -> dict[str, Tensor]:
    """What the family's processor would give for `batch` prompts: words around pictures and videos, padded on the left.

    images, videos: how many in each prompt, one number for all or one for each (then batch is their number); a prompt
    with 0 of both is text only. Prompts differ in length also where their pictures don't. Pictures take the sizes,
    grids or tiles above in turn. frames: of a video, an even number.
    """
    rows = len(images) if isinstance(images, Sequence) else len(videos) if isinstance(videos, Sequence) else batch
    counts = [(n,) * rows if isinstance(n, int) else tuple(n) for n in (images, videos)]
    if any(len(n) != rows for n in counts):
        raise ValueError(f"{images} pictures and {videos} videos are not as many prompts")
    if any(counts[1]) and name not in WITH_VIDEO:
        raise ValueError(f"{name} takes no videos; {', '.join(WITH_VIDEO)} do")
    draws, made = torch.Generator().manual_seed(seed), Made(name, frames, seed)
    words = lambda n: torch.randint(WORDS, VOCAB, (n,), generator=draws).tolist()
    prompts = []
    for row, (pictures, clips) in enumerate(zip(*counts, strict=True)):
        prompt = [BOS, *words(3)]
        for _ in range(pictures):
            prompt += [*made.image(alone=pictures == 1), *words(2)]
        for _ in range(clips):
            prompt += [*made.video(), *words(2)]
        prompts.append(prompt + words(6 + row % 3))
        made.next_row(pictures)
    longest = max(map(len, prompts))
    ids = torch.tensor([[PAD] * (longest - len(prompt)) + prompt for prompt in prompts])
    inputs = {"input_ids": ids, "attention_mask": (ids != PAD).long(), **made.tensors()}
    if name in QWENS:
        inputs["mm_token_type_ids"] = (ids == IMAGE).int() + 2 * (ids == VIDEO).int()
    return inputs


def visual_mask(inputs: dict[str, Tensor]) -> Tensor:
    """(B, S) bool: which tokens of the prompts stand for pictures and videos."""
    return (inputs["input_ids"] == IMAGE) | (inputs["input_ids"] == VIDEO)


class Made:
    """The pictures and videos of a batch as they come, and the tokens that stand for each in its prompt."""

    def __init__(self, name: str, frames: int, seed: int):
        self.name, self.frames, self.draws = name, frames, torch.Generator().manual_seed(seed + 1)
        self.seen = 0  # pictures so far: their sizes take turns
        self.pixels: list[Tensor] = []  # one for each picture; for idefics3 and smolvlm one for each prompt
        self.clips: list[Tensor] = []
        self.shapes: list[Sequence[int]] = []
        self.clip_shapes: list[Sequence[int]] = []
        self.row: list[Tensor] = []
        self.per_row: list[int] = []

    def noise(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.draws)

    def image(self, alone: bool) -> list[int]:
        """alone: the only picture of its prompt, which LLaVA-OneVision then cuts."""
        turn, self.seen = self.seen % 3, self.seen + 1
        if self.name in QWENS:
            height, width = GRIDS[turn]
            self.shapes.append((1, height, width))
            self.pixels.append(self.noise(height * width, 3 * 2 * PATCH**2))
            return [START, *[IMAGE] * (height * width // 4), END]
        if self.name in ("idefics3", "smolvlm", "internvl"):
            self.row += [self.noise(3, TILE, TILE) for _ in range(TILES[turn])]
            return self.tiles(TILES[turn])
        if self.name in ("llava", "video_llava"):
            self.pixels.append(self.noise(3, SIDE, SIDE))
            return [IMAGE] * (SIDE // PATCH) ** 2
        self.shapes.append(SIZES[turn])
        grid, n = get_anyres_image_grid_shape(SIZES[turn], PINPOINTS, SIDE), SIDE // PATCH
        if self.name == "llava_onevision" and not alone:
            self.pixels.append(self.noise(1, 3, SIDE, SIDE))
            return [IMAGE] * (n * n + 1)  # and the end of a line
        self.pixels.append(self.noise(1 + grid[0] * grid[1], 3, SIDE, SIDE))
        _, height, width = unpad_image(torch.zeros(1, grid[0] * n, grid[1] * n), SIZES[turn]).shape
        return [IMAGE] * (n * n + height * (width + 1))

    def video(self) -> list[int]:
        patches = (SIDE // PATCH) ** 2
        if self.name in QWENS:
            height, width = VIDEO_GRID
            steps, each = self.frames // 2, [VIDEO] * (height * width // 4)
            self.clip_shapes.append((steps, height, width))
            self.clips.append(self.noise(steps * height * width, 3 * 2 * PATCH**2))
            if self.name != "qwen3_vl":
                return [START, *each * steps, END]
            return [token for step in range(steps) for token in (WORDS + step, START, *each, END)]  # its time first
        if self.name in ("smolvlm", "internvl"):
            self.row += [self.noise(3, TILE, TILE) for _ in range(self.frames)]
            return [token for frame in range(self.frames) for token in (WORDS + frame, *self.tiles(1))]
        self.clips.append(self.noise(self.frames, 3, SIDE, SIDE))
        if self.name == "video_llava":
            return [VIDEO] * (self.frames * (patches + 1))  # each with its class token
        return [VIDEO] * (self.frames * (patches // 4) + 1)

    def tiles(self, n: int) -> list[int]:
        each = [IMAGE] * (TILE // PATCH // 2) ** 2
        if self.name == "internvl":
            return [START, *each * n, END]
        return [token for _ in range(n) for token in (START, *each)] + [END]

    def next_row(self, pictures: int) -> None:
        self.per_row.append(pictures)
        if self.name == "internvl":
            self.pixels += self.row
        elif self.name in ("idefics3", "smolvlm"):
            self.pixels.append(torch.stack(self.row) if self.row else torch.zeros(0, 3, TILE, TILE))
        self.row = []

    def tensors(self) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        if self.name in QWENS:
            if self.pixels:
                found |= {"pixel_values": torch.cat(self.pixels), "image_grid_thw": torch.tensor(self.shapes)}
            if self.clips:
                found |= {"pixel_values_videos": torch.cat(self.clips),
                          "video_grid_thw": torch.tensor(self.clip_shapes)}  # fmt: skip
            return found
        if any(map(len, self.pixels)):
            several = self.name in ("llava_next", "llava_onevision", "idefics3", "smolvlm")
            found["pixel_values"] = stacked(self.pixels) if several else torch.stack(self.pixels)
        if self.clips:
            found["pixel_values_videos"] = torch.stack(self.clips)
        if self.shapes:
            found["image_sizes"] = torch.tensor(self.shapes)
        if self.name == "llava_onevision" and self.shapes:
            found["batch_num_images"] = torch.tensor(self.per_row)
        return found


def stacked(pixels: Iterable[Tensor]) -> Tensor:
    """Rows of unequally many pictures, filled up with black ones: (rows, most, 3, side, side)."""
    return nn.utils.rnn.pad_sequence(list(pixels), batch_first=True)
