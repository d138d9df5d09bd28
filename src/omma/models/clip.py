"""CLIP: a vision tower, a text tower, and one space for both (Radford et al. 2021); also SigLIP's (Zhai et al. 2023).

Either tower may be ours (towers.py) or a Hugging Face model (hf.py), of any width, trained in full or frozen.

B batch, T text tokens, E shared space.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omma.models.layers import INITIAL_LOGIT_SCALE, unfilled
from omma.models.positions import resample_grid
from omma.models.towers import HFConfig, TextConfig, TextTower, TowerOutput, VisionConfig, VisionTower

SIGLIP_SCALE, SIGLIP_BIAS = math.log(10), -10.0  # where SigLIP's temperature and bias start
Tower = Literal["vision", "text"]
TOWERS: tuple[Tower, ...] = ("vision", "text")


@dataclass(frozen=True, kw_only=True)
class CLIPConfig:
    """Sizes and options of a CLIP. `PRESETS` holds the usual sizes, and one for laptops.

    vision, text: the dataclass of the tower, or a dict of its fields, such as {"hf": {"model_type": "bert", ...}}.
    """

    vision: VisionConfig | HFConfig = field(default_factory=VisionConfig)
    text: TextConfig | HFConfig = field(default_factory=TextConfig)
    embed_dim: int = 512
    logit_bias: bool = False  # SigLIP's: a learned number added to every logit

    def __post_init__(self):
        for name, own in (("vision", VisionConfig), ("text", TextConfig)):
            value = getattr(self, name)
            if isinstance(value, Mapping):
                object.__setattr__(self, name, tower_config(own, value, name))

    @property
    def shared_dim(self) -> int:
        return self.embed_dim


def own_towers(config: CLIPConfig) -> tuple[VisionConfig, TextConfig]:
    """Both towers' configs. ValueError where one is a Hugging Face model."""
    if isinstance(config.vision, VisionConfig) and isinstance(config.text, TextConfig):
        return config.vision, config.text
    raise ValueError("this is for a CLIP of omma's own towers; this one has a Hugging Face model in their place")


def tower_config(own: type, values: Mapping[str, Any], name: str) -> Any:
    """The dataclass of a tower from what config.json says of it. ValueError for a field that it doesn't have."""
    cls = HFConfig if "hf" in values else own
    known = [f.name for f in fields(cls)]
    if unknown := sorted(set(values) - set(known)):
        raise ValueError(f"the {name} tower has settings this version doesn't know: {', '.join(unknown)}; "
                         f"{cls.__name__} has {', '.join(known)}")  # fmt: skip
    return cls(**values)


def build_tower(config: VisionConfig | TextConfig | HFConfig, name: Tower) -> nn.Module:
    """The tower of a config, with random weights."""
    if isinstance(config, VisionConfig):
        return VisionTower(config)
    if isinstance(config, TextConfig):
        return TextTower(config)
    from omma.models.hf import text_tower, vision_tower  # imports transformers

    return (vision_tower if name == "vision" else text_tower)(config.hf)


# ---------------------------------------------------------------------------------------------------------- model
class CLIP(nn.Module):
    """Two towers, a linear map from each to the shared space, and what the contrast is multiplied by.

    A tower none of whose parameters is trained counts as frozen, as the vision tower of LiT (Zhai et al. 2022): it
    stays in eval mode, and its activations are not kept. Its projection is a parameter of its own.
    """

    FREEZE_GROUPS: ClassVar[dict[str, tuple[str, ...]]] = {"vision": ("vision.*",), "text": ("text.*",)}
    TASK_HEADS: ClassVar[tuple[str, ...]] = ("image_projection", "text_projection")

    def __init__(self, config: CLIPConfig):
        super().__init__()
        self.config = config
        self.vision = build_tower(config.vision, "vision")
        self.text = build_tower(config.text, "text")
        self.image_projection = projection(self.vision, config.embed_dim, "vision")
        self.text_projection = projection(self.text, config.embed_dim, "text")
        scale = SIGLIP_SCALE if config.logit_bias else INITIAL_LOGIT_SCALE
        self.logit_scale = nn.Parameter(torch.full((1,), scale))  # 1-d: FSDP cannot shard a scalar
        self.logit_bias = nn.Parameter(torch.full((1,), SIGLIP_BIAS)) if config.logit_bias else None

    @property
    def blocks(self) -> list[nn.Module]:
        """The layers of both towers."""
        return [block for name in TOWERS for block in self.tower(name).blocks]  # type: ignore[union-attr]

    def tower(self, name: Tower) -> nn.Module:
        return self.vision if name == "vision" else self.text

    def is_frozen(self, name: Tower) -> bool:
        """Whether no parameter of this tower is trained."""
        return not any(parameter.requires_grad for parameter in self.tower(name).parameters())

    def train(self, mode: bool = True) -> "CLIP":
        """As of any module, but frozen towers stay in eval mode."""
        super().train(mode)
        for name in TOWERS:
            if mode and self.is_frozen(name):
                self.tower(name).eval()
        return self

    def run(self, name: Tower, *inputs: Tensor | None, states: bool = True) -> TowerOutput:
        """What a tower gives of its inputs; a frozen one in eval mode and without a gradient."""
        tower, frozen = self.tower(name), self.is_frozen(name)
        if frozen and tower.training:
            tower.eval()
        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
            return tower(*inputs, states=states)

    def project(self, pooled: Tensor, name: Tower) -> Tensor:
        """A tower's vectors (B, width) in the shared space: (B, E), L2-normalised."""
        linear = self.image_projection if name == "vision" else self.text_projection
        # Cosines of near pairs lie closer together than bfloat16 resolves, so this much is float32.
        with torch.autocast(pooled.device.type, enabled=False):
            if isinstance(linear, nn.Linear):
                pooled = pooled.to(linear.weight.dtype)
            vector = linear(pooled)
            return F.normalize(vector if vector.dtype == torch.float64 else vector.float(), dim=-1)

    def encode_image(self, pixel_values: Tensor) -> Tensor:
        """pixel_values: (B, 3, height, width) -> image_embeds (B, E), L2-normalised."""
        return self.project(self.run("vision", pixel_values, states=False).pooled, "vision")

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """input_ids, attention_mask: (B, T) -> text_embeds (B, E), L2-normalised."""
        return self.project(self.run("text", input_ids, attention_mask, states=False).pooled, "text")

    def forward(
        self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """image_embeds (B, E) and text_embeds (B', E) of B pictures and B' texts."""
        return self.encode_image(pixel_values), self.encode_text(input_ids, attention_mask)

    def at_resolution(self, image_size: int) -> "CLIP":
        """A copy for pictures of another size, to be trained further or saved: its positions are those that this model
        reads at that size. ValueError when patches don't fill the size, or the vision tower is not ours."""
        old = self.config.vision
        if not isinstance(old, VisionConfig):
            raise ValueError("at_resolution is for omma's own vision tower; a Hugging Face one is built for a size")
        new = replace(old, image_size=image_size)
        weights = {name: weight.detach().clone() for name, weight in self.state_dict().items()}
        first, key = int(old.class_token), "vision.image_positions"
        moved = resample_grid(weights[key][first:], old.grid, new.grid)
        weights[key] = torch.cat((weights[key][:first], moved))
        with unfilled():
            model = CLIP(replace(self.config, vision=new))
        model.load_state_dict(weights, assign=True)
        return model.train(self.training)

    def layer_of(self, name: str) -> int:
        """The layer that a parameter of this name is in, counted so that both towers end at the same number.

        0 or more for what comes before a tower's blocks, its embeddings; then one for each block, and one more for what
        lies above them. For learning rates that differ by layer.
        """
        depths = {tower: len(self.tower(tower).blocks) for tower in TOWERS}  # type: ignore[arg-type]
        top, part = 1 + max(depths.values()), name.partition(".")[0]
        if part not in depths:
            return top
        under, blocks = top - 1 - depths[part], self.tower(part).blocks  # type: ignore[arg-type]
        first = next(key for key, module in self.named_modules() if module is blocks) + "."
        if name.startswith(first):
            return under + 1 + int(name.removeprefix(first).split(".")[0])
        names = [key for key, _ in self.named_parameters()]  # in the order in which a pass meets them
        below = names[: next(i for i, key in enumerate(names) if key.startswith(first))]
        return under if name in below else top

    def num_parameters(self) -> int:
        """Number of weights."""
        return sum(p.numel() for p in self.parameters())


def projection(tower: nn.Module, embed_dim: int, name: Tower) -> nn.Module:
    """The map from a tower to the shared space; none where the tower brings its own."""
    width = int(tower.width)  # type: ignore[arg-type]
    if not getattr(tower, "projects", False):
        linear = nn.Linear(width, embed_dim, bias=False)
        nn.init.normal_(linear.weight, std=width**-0.5)
        return linear
    if width != embed_dim:
        raise ValueError(f"the {name} tower projects to {width} numbers by itself, but embed_dim is {embed_dim}; set "
                         f"embed_dim={width}, or take the tower without its projection")  # fmt: skip
    return nn.Identity()


# ---------------------------------------------------------------------------------------------------------- sizes
# nano is trained from random weights on little data: a conv stem, and words that see one another both ways.
NANO = CLIPConfig(
    vision=VisionConfig(image_size=128, hidden_size=192, num_layers=6, num_heads=3, stem="conv", pre_norm=False,
                        pool="mean", class_token=False),
    text=TextConfig(vocab_size=2000, max_text_len=40, hidden_size=192, num_layers=4, num_heads=3,
                    attention="bidirectional", pool="first"),
    embed_dim=192)  # fmt: skip
VIT_S16 = CLIPConfig(text=TextConfig(hidden_size=384, num_heads=6), embed_dim=384)
VIT_B32 = CLIPConfig(vision=VisionConfig(patch_size=32, hidden_size=768, num_heads=12), text=TextConfig(num_layers=12))
VIT_B16 = replace(VIT_B32, vision=VisionConfig(hidden_size=768, num_heads=12))
VIT_L14 = CLIPConfig(
    vision=VisionConfig(patch_size=14, hidden_size=1024, num_layers=24, num_heads=16),
    text=TextConfig(hidden_size=768, num_layers=12, num_heads=12), embed_dim=768)  # fmt: skip
PRESETS = {"nano": NANO, "vit_s16": VIT_S16, "vit_b32": VIT_B32, "vit_b16": VIT_B16, "vit_l14": VIT_L14}
