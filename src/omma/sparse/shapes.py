"""The sizes of a vision-language model, read from its Hugging Face configuration: decoder, vision tower, adapter.

D width, m FFN width, n patches of a frame. Nothing is loaded: a config.json is enough. FAMILIES says what is known; for
any other model the decoder is read alone, and asking for its tower names the family.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

PLAIN_FFN = {"falcon", "gpt_neox", "opt", "phi", "starcoder2"}  # two matrices; the others here have a gate besides


class Grid(NamedTuple):
    """Patches of one picture, crop or clip, before any merging."""

    frames: int
    rows: int
    columns: int
    video: bool = False


@dataclass(frozen=True, kw_only=True)
class DecoderShape:
    """A causal text model. ffn_matrices: 3 with a gate, else 2."""

    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    ffn_matrices: int = 3

    @property
    def query_width(self) -> int:
        return self.num_heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Width of the keys of one layer, and of its values: what grouped queries (GQA) make smaller."""
        return self.num_kv_heads * self.head_dim


@dataclass(frozen=True, kw_only=True)
class TowerShape:
    """A vision transformer. patch_macs: multiply-adds that make a token of a patch; extra: class tokens a frame;
    window: side in patches of the windows that all layers but `full` attend within, 0 where all see the whole frame."""

    num_layers: int
    hidden_size: int
    intermediate_size: int
    patch_size: int
    patch_macs: int
    ffn_matrices: int = 2
    extra: int = 0
    window: int = 0
    full: tuple[int, ...] = ()

    def macs(self, grid: Grid) -> int:
        """Multiply-adds of one picture or clip; each frame attends to itself."""
        frames, rows, columns, _ = grid
        D, n = self.hidden_size, rows * columns
        pairs = (n + self.extra) ** 2
        inside = sum((r * c) ** 2 for r in parts(rows, self.window) for c in parts(columns, self.window))
        windowed = self.num_layers - len(self.full) if self.window else 0
        attention = 2 * D * (windowed * inside + (self.num_layers - windowed) * pairs)
        linear = self.num_layers * (n + self.extra) * D * (4 * D + self.ffn_matrices * self.intermediate_size)
        return frames * (n * self.patch_macs + linear + attention)


@dataclass(frozen=True, kw_only=True)
class AdapterShape:
    """What turns patches into visual tokens. merge: patches a side that one token takes in; macs_per_token: of all its
    parts; extra: tokens a frame beside the patches that go through it, video_extra the same for clips."""

    merge: int
    macs_per_token: int
    extra: int = 0
    video_extra: int = 0

    def macs(self, grid: Grid) -> int:
        extra = self.video_extra if grid.video else self.extra
        return grid.frames * ((grid.rows * grid.columns) // self.merge**2 + extra) * self.macs_per_token


def parts(length: int, size: int) -> list[int]:
    """Sizes of the windows that cover `length` patches; one that covers all where size is 0.

    >>> parts(20, 8)
    [8, 8, 4]
    """
    return [min(size, length - start) for start in range(0, length, size)] if size else [length]


# ------------------------------------------------------------------------------------------------ the decoder
def text_config(config: Any) -> Any:
    """The part of a configuration that describes the text model; a text model's own is itself."""
    found = config.get_text_config() if hasattr(config, "get_text_config") else config
    return getattr(found, "text_config", None) or found


def decoder_shape(config: Any) -> DecoderShape:
    """The decoder of a model, from its configuration. Raises ValueError for one whose cost is not known here."""
    text = text_config(config)
    name = getattr(text, "model_type", type(text).__name__)
    experts = getattr(text, "num_experts", None) or getattr(text, "num_local_experts", None)
    if experts:
        raise ValueError(f"{name!r} is a mixture of {experts} experts, which is not counted: it depends on the router")
    needed = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "vocab_size")
    if missing := [key for key in needed if getattr(text, key, None) is None]:
        raise ValueError(f"the configuration of {name!r} has no {', '.join(missing)}; give one of a causal text model")
    heads = text.num_attention_heads
    return DecoderShape(
        num_layers=text.num_hidden_layers,
        hidden_size=text.hidden_size,
        intermediate_size=text.intermediate_size,
        num_heads=heads,
        num_kv_heads=getattr(text, "num_key_value_heads", None) or heads,
        head_dim=getattr(text, "head_dim", None) or text.hidden_size // heads,
        vocab_size=text.vocab_size,
        ffn_matrices=2 if name in PLAIN_FFN else 3,
    )


# ------------------------------------------------------------------------------------------------ towers, adapters
def side(value: Any) -> int:
    """Of a size that is written as a number or as [height, width]."""
    return value[0] if isinstance(value, list | tuple) else value


def plain_tower(vision: Any, extra: int) -> TowerShape:
    """CLIP, SigLIP and what is built like them."""
    patch = side(vision.patch_size)
    return TowerShape(num_layers=vision.num_hidden_layers, hidden_size=vision.hidden_size,
                      intermediate_size=vision.intermediate_size, patch_size=patch,
                      patch_macs=vision.num_channels * patch**2 * vision.hidden_size, extra=extra)  # fmt: skip


def has_class_token(vision: Any) -> bool:
    return not getattr(vision, "model_type", "").startswith("siglip")


def llava(config: Any) -> tuple[TowerShape, AdapterShape]:
    """LLaVA and its kin: two linear layers over every patch; with the strategy "full" over the class token, too, as
    Video-LLaVA does for every frame of a clip."""
    vision, width = config.vision_config, text_config(config).hidden_size
    layers = config.vision_feature_layer
    states = 1 if isinstance(layers, int) else len(layers)
    extra = int(has_class_token(vision))
    kept = extra if config.vision_feature_select_strategy == "full" else 0
    macs = states * vision.hidden_size * width + width**2
    clips = extra if config.model_type == "video_llava" else kept
    return plain_tower(vision, extra), AdapterShape(merge=1, macs_per_token=macs, extra=kept, video_extra=clips)


def internvl(config: Any) -> tuple[TowerShape, AdapterShape]:
    vision, width = config.vision_config, text_config(config).hidden_size
    merge = round(1 / config.downsample_ratio)
    macs = vision.hidden_size * merge**2 * width + width**2
    return plain_tower(vision, 1), AdapterShape(merge=merge, macs_per_token=macs)


def idefics(config: Any) -> tuple[TowerShape, AdapterShape]:
    """Idefics3 and SmolVLM: one linear layer over patches that were shuffled together."""
    vision, merge = config.vision_config, config.scale_factor
    macs = vision.hidden_size * merge**2 * text_config(config).hidden_size
    return plain_tower(vision, 0), AdapterShape(merge=merge, macs_per_token=macs)


def qwen(config: Any) -> tuple[TowerShape, AdapterShape]:
    """Qwen2-VL, Qwen2.5-VL (gated, most layers in windows) and Qwen3-VL (a merger for each deepstack layer, too)."""
    vision = config.vision_config
    second, third = config.model_type == "qwen2_vl", config.model_type == "qwen3_vl"
    D = vision.embed_dim if second else vision.hidden_size
    out = vision.hidden_size if second else vision.out_hidden_size
    windowed = config.model_type == "qwen2_5_vl"
    tower = TowerShape(
        num_layers=vision.depth,
        hidden_size=D,
        intermediate_size=int(D * vision.mlp_ratio) if second else vision.intermediate_size,
        patch_size=vision.patch_size,
        patch_macs=vision.in_channels * vision.temporal_patch_size * vision.patch_size**2 * D,
        ffn_matrices=3 if windowed else 2,
        window=vision.window_size // vision.patch_size if windowed else 0,
        full=tuple(vision.fullatt_block_indexes) if windowed else (),
    )
    merge = vision.spatial_merge_size
    wide = D * merge**2
    mergers = 1 + (len(vision.deepstack_visual_indexes) if third else 0)
    return tower, AdapterShape(merge=merge, macs_per_token=mergers * (wide**2 + wide * out))


def omma_vlm(config: Any) -> tuple[TowerShape, AdapterShape]:
    """A VLM of omma: a VLMo's image pass or a CLIP's tower, and two layers over every patch."""
    eye, width = config.eye, text_config(config).hidden_size
    D, patch, vlmo = eye["hidden_size"], eye["patch_size"], eye["model"] == "vlmo"
    conv = eye.get("stem") == "conv"
    tower = TowerShape(
        num_layers=eye["num_layers"],
        hidden_size=D,
        intermediate_size=int(D * eye["mlp_ratio"]),
        patch_size=patch,
        patch_macs=conv_stem_macs(D, patch, eye.get("fine_stem", False)) if conv else 3 * patch**2 * D,
        extra=int(vlmo or eye["class_token"]),
    )
    inner = config.adapter_size or width
    return tower, AdapterShape(merge=1, macs_per_token=D * inner + inner * width)


def conv_stem_macs(hidden_size: int, patch_size: int, fine: bool = False, width: int = 32) -> int:
    """Multiply-adds a token of strided convolutions instead of one linear map a patch (Xiao et al. 2021), as
    omma.models.layers.ConvStem has them."""
    macs = (patch_size / 4) ** 2 * 49 * 3 * width
    if patch_size * (1 + fine) == 20:
        return int(macs + 25 * width * 4 * width + 4 * width * hidden_size)
    side, channels = patch_size / 4, width  # of what one token's part of the map is so far
    reach = patch_size * (1 + fine) // 4
    while reach > 1:
        last = fine and reach == 2  # it makes single steps
        side, reach = side if last else side / 2, reach // 2
        macs += side**2 * 9 * channels * 2 * channels
        channels *= 2
    return int(macs + channels * hidden_size)


FAMILIES: dict[str, Callable[[Any], tuple[TowerShape, AdapterShape]]] = {
    "llava": llava,
    "llava_next": llava,
    "llava_onevision": llava,
    "video_llava": llava,
    "qwen2_vl": qwen,
    "qwen2_5_vl": qwen,
    "qwen3_vl": qwen,
    "idefics3": idefics,
    "smolvlm": idefics,
    "internvl": internvl,
    "omma_vlm": omma_vlm,
}


def vision_shape(config: Any) -> tuple[TowerShape, AdapterShape]:
    """Vision tower and adapter of a model, from its configuration. Raises ValueError for a family not known here."""
    name = getattr(config, "model_type", type(config).__name__)
    if name not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise ValueError(f"the vision tower of {name!r} is not counted; known are {known}. Add a function of its "
                         "configuration to omma.sparse.shapes.FAMILIES, or leave pictures out")  # fmt: skip
    return FAMILIES[name](config)


# ------------------------------------------------------------------------------------------------ pictures
def grids_of(config: Any, inputs: Mapping[str, Any]) -> list[Grid]:
    """The patches of all pictures in a model's inputs, as its tower gets them: one entry a picture, crop or clip.

    Crops of nothing but zeros pad a batch and are no pictures. A clip of Video-LLaVA and LLaVA is a grid a frame.
    """
    found: list[Grid] = []
    for key in ("image_grid_thw", "video_grid_thw"):
        if inputs.get(key) is not None:
            found += [Grid(*map(int, row), video=key.startswith("video")) for row in inputs[key].tolist()]
    if found:
        return found
    for key in ("pixel_values", "pixel_values_images", "pixel_values_videos"):
        pixels = inputs.get(key)
        if pixels is not None:
            found += crops(pixels, side(getattr(config, "vision_config", config).patch_size), key.endswith("videos"))
    return found


def crops(pixels: Tensor | Iterable[Tensor], patch: int, video: bool = False) -> list[Grid]:
    """(..., C, H, W) pixel values -> a grid for each that is not all zeros."""
    if not isinstance(pixels, Tensor):
        return [grid for part in pixels for grid in crops(part, patch, video)]
    flat = pixels.reshape(-1, *pixels.shape[-3:])
    real = int(flat.flatten(1).any(dim=1).sum())
    return [Grid(1, flat.shape[-2] // patch, flat.shape[-1] // patch, video)] * real
