"""Processors of Hugging Face VLMs, the same on every machine: pictures and frames by Pillow, never by torchvision.

transformers builds a processor with all its parts, and video processors need torchvision; so with Qwen-VL, SmolVLM or
InternVL a machine without it has no processor at all. Here a processor is a subclass of the family's own that is built
without the video part, and videos are lists of frames that the family's image processor prepares.
"""

import functools
import inspect
import json
import types
from collections.abc import Sequence
from typing import Any

import torch

import omma.models.no_torchvision  # noqa: F401  isort: skip  (before transformers, which looks for torchvision)
import transformers
from torch import Tensor
from transformers import AutoImageProcessor, AutoTokenizer, PretrainedConfig, ProcessorMixin
from transformers.feature_extraction_utils import BatchFeature
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES
from transformers.video_utils import VideoMetadata, make_batched_videos

from omma.models.hf import read_json, reading

# Families without a chat template of their own were tuned on Vicuna's words (Liu et al. 2023) or on none.
VICUNA = ("llava", "llava_next", "video_llava", "vipllava")
PLACES = (
    "{% for part in messages[0]['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}"
    "{% else %}{{ places[part['type']] }}{{ '\n' }}{% endif %}{% endfor %}"
)
FRAMES_OWN = ("size", "crop_size", "max_image_size", "image_mean", "image_std", "resample")
UNCUT = ("crop_to_patches", "do_image_splitting")  # what cuts pictures into tiles, but not frames
FRAME_PIXELS = {"shortest_edge": 128 * 28 * 28, "longest_edge": 768 * 28 * 28}  # Qwen2-VL's own, of a frame
CLIP_PIXELS = {"shortest_edge": 128 * 32 * 32, "longest_edge": 768 * 32 * 32}  # Qwen3-VL's own, of all frames together

SMALL = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
         "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen")  # fmt: skip
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")


def load_vlm_processor(source: str, config: PretrainedConfig) -> Any:
    """The processor of a VLM in a folder: `processor(images=, text=, videos=)` and `apply_chat_template`.

    It takes what the family's own takes; what differs is said on top. Its tokenizer pads on the left and has a token to
    pad with. ValueError: there is none for this kind of model, or a file is missing.
    """
    kind = processor_class(source, config)
    parts = kind.get_attributes()
    if unknown := [name for name in parts if name not in ("image_processor", "tokenizer", "video_processor")]:
        raise ValueError(f"the processor of {source}, a {kind.__name__}, also wants {', '.join(unknown)}; omma gives "
                         "models pictures, frames and words")  # fmt: skip
    with reading(source):
        try:
            tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
            pictures = AutoImageProcessor.from_pretrained(source, backend="pil", trust_remote_code=False)
        except ImportError as error:
            raise ValueError(f"its processor needs what isn't here: {error}") from error
        settings, _ = kind.get_processor_dict(source)
        known = inspect.signature(kind.__init__).parameters
        told = counts(config) | {k: v for k, v in settings.items() if v is not None}
        options = {k: v for k, v in told.items() if k in known and k not in (*parts, "chat_template")}
        if "video_processor" in parts:
            options["video_processor"] = None
        processor = image_only(kind)(image_processor=pictures, tokenizer=tokenizer, **options)
    processor.chat_template = settings.get("chat_template") or getattr(tokenizer, "chat_template", None)
    if getattr(tokenizer, "pad_token_id", None) is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token or tokenizer.bos_token
        if tokenizer.pad_token_id is None:
            raise ValueError(f"the tokenizer of {source} has no token to pad with, and none that could stand in: "
                             "no eos_token, unk_token or bos_token")  # fmt: skip
    tokenizer.padding_side = "left"
    if processor.chat_template is None:
        before, after = ("USER: ", " ASSISTANT:") if config.model_type in VICUNA else ("", "")
        places = {kind: getattr(processor, f"{kind}_token", None) or "" for kind in ("image", "video")}
        processor.chat_template = f"{{% set places = {json.dumps(places)} %}}{before}{PLACES}{after}"
    if "video_processor" in parts:
        processor.video_processor = Frames(
            pictures, config.model_type, frame_settings(source, config.model_type, pictures)
        )
    return processor


def counts(config: Any) -> dict[str, Any]:
    """What processors count a picture's tokens by, of the model's config: older folders have no file that says it."""
    vision = getattr(config, "vision_config", None)
    side, patch = getattr(vision, "image_size", None), getattr(vision, "patch_size", None)
    if vision is None or not isinstance(side, int) or not isinstance(patch, int):
        return {}
    tokens = (side // patch) ** 2
    found = {"patch_size": patch, "num_image_tokens": tokens,
             "num_additional_image_tokens": int(vision.model_type.startswith("clip")),  # its class token
             "image_seq_len": tokens // getattr(config, "scale_factor", 1) ** 2,
             "vision_feature_select_strategy": getattr(config, "vision_feature_select_strategy", None)}  # fmt: skip
    return {name: value for name, value in found.items() if value is not None}


def tells_words_from_tokens(kind: Any) -> bool:
    """Whether a processor can be told to take the names of control tokens in a user's words for words. Those that put
    pictures' tokens into the text by themselves (Idefics) can't."""
    told = "sanitize_control_tokens" in inspect.signature(ProcessorMixin.apply_chat_template).parameters
    return told and (kind.__call__ is ProcessorMixin.__call__ or "super" in kind.__call__.__code__.co_names)


def processor_class(source: str, config: PretrainedConfig) -> Any:
    """What the files of a model name as its processor, else what transformers has for its kind."""
    files = ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json", "config.json")
    named = [(read_json(source, name) or {}).get("processor_class") for name in files]
    for name in [*named, PROCESSOR_MAPPING_NAMES.get(config.model_type)]:
        kind = getattr(transformers, name, None) if name else None
        if isinstance(kind, type) and issubclass(kind, ProcessorMixin):
            return kind
    raise ValueError(
        f"{source} is a {config.model_type}, for which transformers has no processor of pictures and words"
    )


@functools.cache
def image_only(kind: Any) -> Any:
    """The same processor without its video part. `kind.__init__` calls `WithoutVideo.__init__` as its super()."""
    own = {"upstream": kind} | unbound_from_num2words(kind)
    return type(kind.__name__, (kind, WithoutVideo), own)


class WithoutVideo(ProcessorMixin):
    upstream: Any

    def __init__(self, *args: Any, chat_template: Any = None, **kwargs: Any):
        given = dict(zip(self.upstream.get_attributes(), args, strict=False)) | kwargs
        parts = {name: given[name] for name in self.get_attributes()}
        super().__init__(**parts, chat_template=chat_template)

    @classmethod
    def get_attributes(cls) -> list[str]:
        return [name for name in cls.upstream.get_attributes() if "video" not in name]


def unbound_from_num2words(kind: Any) -> dict[str, Any]:
    """SmolVLM's methods refuse to run without the package num2words, which names the number of a video's frames; copies
    of them that have `in_words` in its place. Its module is left as it is."""
    own = {}
    for name, method in vars(kind).items():
        if not isinstance(method, types.FunctionType) or "num2words" not in method.__code__.co_names:
            continue
        if method.__globals__.get("num2words") is None:
            seen = method.__globals__ | {"num2words": in_words}
            own[name] = types.FunctionType(method.__code__, seen, name, method.__defaults__, method.__closure__)
    return own


def in_words(number: int) -> str:
    """0..999 as English says it: 121 is "one hundred and twenty-one"."""
    if number < 20:
        return SMALL[number]
    if number < 100:
        return TENS[number // 10 - 2] + (f"-{SMALL[number % 10]}" if number % 10 else "")
    return f"{SMALL[number // 100]} hundred" + (f" and {in_words(number % 100)}" if number % 100 else "")


# ------------------------------------------------------------------------------------------------------------- frames
def frame_settings(source: str, kind: str, pictures: Any) -> dict[str, Any]:
    """What the image processor is told of frames where they are not prepared like pictures: what the model's files
    say, else what the family does (Qwen-VL, which gives frames fewer pixels)."""
    general, beside = (
        read_json(source, "processor_config.json") or {},
        read_json(source, "preprocessor_config.json") or {},
    )
    file = read_json(source, "video_preprocessor_config.json") or general.get("video_processor") or {}
    known = call_options(pictures)
    found = {name: file[name] for name in FRAMES_OWN if file.get(name) is not None and name in known}
    if getattr(pictures, "temporal_patch_size", None) is not None:
        file = file or beside  # one file was for both
        size = (CLIP_PIXELS if kind.startswith("qwen3") else FRAME_PIXELS) | (file.get("size") or {})
        found["size"] = {"shortest_edge": file.get("min_pixels") or size["shortest_edge"],
                         "longest_edge": file.get("max_pixels") or size["longest_edge"]}  # fmt: skip
    sampling = file.get("video_sampling") or beside.get("video_sampling") or {}
    return found | ({"size": sampling["video_size"]} if "video_size" in sampling else {})  # SmolVLM


def call_options(pictures: Any) -> set[str]:
    """What an image processor can be told in a call."""
    return set(getattr(getattr(pictures, "valid_kwargs", None), "__annotations__", {}))


class Frames:
    """What a processor has in place of its video processor: lists of frames, each prepared like a picture.

    Families of Qwen-VL make one step of two frames, others give each frame the tokens of one tile. settings: of
    `frame_settings`.
    """

    def __init__(self, pictures: Any, kind: str, settings: dict[str, Any]):
        self.pictures, self.kind = pictures, kind
        self.settings: dict[str, Any] = {name: False for name in UNCUT if name in call_options(pictures)} | settings
        self.merge_size: int | None = getattr(pictures, "merge_size", None)
        self.temporal_patch_size: int | None = getattr(pictures, "temporal_patch_size", None)
        self.num_frames = self.fps = None  # frames come chosen
        self.model_input_names = ["pixel_values_videos"]

    def __call__(self, videos: Any, fps: float | None = None, **_: Any) -> BatchFeature:
        """videos: lists of frames, nested as a batch has them. fps: frames a second of those that are given."""
        clips: Any = make_batched_videos(videos)
        rate = fps or 1.0
        told = [VideoMetadata(len(clip), rate, duration=len(clip) / rate, frames_indices=list(range(len(clip))))
                for clip in clips]  # fmt: skip
        if self.temporal_patch_size is not None:
            made = [self.steps(clip) for clip in clips]
            found: dict[str, Any] = {"pixel_values_videos": torch.cat([pixels for pixels, _ in made]),
                                     "video_grid_thw": torch.tensor([grid for _, grid in made])}  # fmt: skip
        else:
            if len(lengths := {len(clip) for clip in clips}) > 1:
                raise ValueError(f"videos of {', '.join(map(str, sorted(lengths)))} frames; a {self.kind} takes those "
                                 "of one length in a batch")  # fmt: skip
            key = "pixel_values" if self.kind == "smolvlm" else "pixel_values_videos"
            found = {key: torch.stack([self.tiles(clip) for clip in clips])}
        return BatchFeature(found | {"video_metadata": told})

    def steps(self, clip: Sequence[Any]) -> tuple[Tensor, tuple[int, int, int]]:
        """Frames (F of one size) -> patches (F / 2 * h * w, 3 * 2 * patch²) and their grid. The last frame is repeated
        where it stands alone."""
        every = self.temporal_patch_size or 1
        clip = [*clip, *[clip[-1]] * (-len(clip) % every)]
        share = len(clip) if self.kind.startswith("qwen3") else 1
        size = {name: max(1, pixels // share) for name, pixels in self.settings["size"].items()}
        out = self.pictures(clip, return_tensors="pt", **self.settings | {"size": size})
        _, height, width = out["image_grid_thw"][0].tolist()
        # each picture comes as `every` frames that are the same; one of them is taken from each of a step's frames
        pixels = out["pixel_values"].view(len(clip) // every, every, height * width, 3, every, -1)
        mixed = torch.stack([pixels[:, t, :, :, t] for t in range(every)], dim=3)
        return mixed.reshape(-1, out["pixel_values"].shape[1]), (len(clip) // every, height, width)

    def tiles(self, clip: Sequence[Any]) -> Tensor:
        """Frames -> (F, 3, side, side)."""
        each = [self.pictures([frame], return_tensors="pt", **self.settings) for frame in clip]
        values = [out.get("pixel_values", out.get("pixel_values_images")) for out in each]
        return torch.stack([pixels.flatten(end_dim=-4)[0] for pixels in values])  # LLaVA-OneVision's whole is tile 0
