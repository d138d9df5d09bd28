"""The two towers of a CLIP: a vision transformer and a text transformer (Radford et al. 2021), each by itself.

Anything can stand in their place that is a module with `width`, the size D of its vector, and `forward(..., states=)`
that returns a `TowerOutput`; `projects` says that its vector lies in a shared space already.

B batch, N patches, P image tokens (the class token first, where there is one), T text tokens, n tokens of a batch that
are no padding, L layers, D width, H heads, d = D / H, (gh, gw) patch grid.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omma.models.layers import ConvStem, DropPath, attend, merge_heads, take_tokens
from omma.models.positions import resample_grid
from omma.models.sizes import Patched, check_sizes

Activation = Literal["gelu", "quick_gelu"]


class TowerOutput(NamedTuple):
    """What a tower gives of a batch."""

    pooled: Tensor  # (B, D): one vector a picture or text, not yet projected
    hidden_states: tuple[Tensor, ...]  # L + 1 of (B, S, D): embeddings, then each layer; () for states=False


@dataclass(frozen=True, kw_only=True)
class LayersConfig:
    """Sizes and options of either tower's layers."""

    hidden_size: int
    num_layers: int
    num_heads: int
    mlp_ratio: float = 4.0
    activation: Activation = "gelu"  # quick_gelu: x sigmoid(1.702 x), as OpenAI's weights have it
    norm_eps: float = 1e-5
    drop_path: float = 0.0  # of the last layer; the layers below it get a linear share


@dataclass(frozen=True, kw_only=True)
class VisionConfig(LayersConfig, Patched):
    """Sizes and options of a `VisionTower`; the defaults are those of ViT-S/16."""

    image_size: int = 224
    patch_size: int = 16
    hidden_size: int = 384
    num_layers: int = 12
    num_heads: int = 6
    stem: Literal["patch", "conv"] = "patch"  # one linear map a patch, or `ConvStem`, for little data
    pre_norm: bool = True  # LayerNorm before the first layer, as in CLIP
    # The class token, the mean of the patches, or a learned query that attends to them (MAP, Zhai et al. 2022).
    pool: Literal["cls", "mean", "map"] = "cls"
    class_token: bool = True  # False where nothing reads it: "mean" and "map"
    patch_dropout: float = 0.0  # share of the patches that a training pass leaves out (FLIP, Li et al. 2023)

    def __post_init__(self):
        check_sizes(self, {"image_size": 1, "patch_size": 1, **LAYERS}, shares=("drop_path", "patch_dropout"))
        if self.pool == "cls" and not self.class_token:
            raise ValueError("pool=cls needs class_token=true; or take pool=mean or pool=map")


@dataclass(frozen=True, kw_only=True)
class TextConfig(LayersConfig):
    """Sizes and options of a `TextTower`; the defaults are half as many layers as CLIP's ViT-B/32 has."""

    vocab_size: int = 49408
    max_text_len: int = 77
    hidden_size: int = 512
    num_layers: int = 6
    num_heads: int = 8
    attention: Literal["causal", "bidirectional"] = "causal"
    # The token whose state stands for the text: eos_token_id's first, the last that is no padding, the first; or the
    # mean of all. Any tokenizer has a last token, so it is the default.
    pool: Literal["eos", "last", "first", "mean"] = "last"
    eos_token_id: int | None = None  # for pool=eos; None: the largest id of the text, as in OpenAI's vocabulary

    def __post_init__(self):
        check_sizes(self, {"vocab_size": 1, "max_text_len": 1, **LAYERS}, shares=("drop_path",))
        if self.pool == "first" and self.attention == "causal":
            raise ValueError("pool=first with attention=causal: the first token sees no other; take pool=last")


LAYERS = dict.fromkeys(("hidden_size", "num_layers", "num_heads"), 1)  # the least of each


@dataclass(frozen=True)
class HFConfig:
    """A Hugging Face model as a tower (hf.py): a plain dict from which it is built."""

    hf: dict[str, Any]


# ---------------------------------------------------------------------------------------------------------- layers
class Packing(NamedTuple):
    """Which tokens of a padded batch (B, T) are real: what is computed token by token sees these n alone."""

    places: Tensor  # (n,): where they are in the B * T
    size: tuple[int, int]  # B, T

    def pack(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (n, C)."""
        return x.flatten(0, 1).index_select(0, self.places)

    def pad(self, x: Tensor) -> Tensor:
        """(n, C) -> (B, T, C), zero at padding."""
        B, T = self.size
        return x.new_zeros(B * T, x.shape[-1]).index_copy(0, self.places, x).view(B, T, -1)


class SelfAttention(nn.Module):
    """Multi-head self-attention. Both its maps are called as modules, so that adapters on them take part."""

    def __init__(self, hidden_size: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size)
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(
        self, x: Tensor, bias: Tensor | None = None, packing: Packing | None = None, read: Tensor | None = None
    ) -> Tensor:
        """x: (B, S, D), or (n, D) with packing; bias as in `layers.attend`. Returns the same shape.

        read: (B,) positions, for the output of one token a row, (B, 1, D), which looks at all of its row.
        """
        qkv = self.qkv(x)
        if packing is not None:
            qkv = packing.pad(qkv)
        B, S, D = *qkv.shape[:2], qkv.shape[2] // 3
        q, k, v = qkv.view(B, S, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        if read is not None:
            q = take_tokens(qkv[..., :D], read[:, None]).view(B, 1, self.num_heads, -1).transpose(1, 2)
            if bias is not None and bias.shape[-2] != 1:
                bias = bias.expand(B, 1, S, S)[torch.arange(B, device=read.device), :, read, None]
        x = merge_heads(attend(q, k, v, bias))
        return self.proj(packing.pack(x) if packing is not None and read is None else x)


class MLP(nn.Module):
    def __init__(self, hidden_size: int, inner_size: int, activation: Activation):
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        self.fc1 = nn.Linear(hidden_size, inner_size)
        self.fc2 = nn.Linear(inner_size, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.activation(self.fc1(x)))


def quick_gelu(x: Tensor) -> Tensor:
    """x sigmoid(1.702 x), by the fused silu: nothing but its input is kept for the backward pass."""
    return F.silu(1.702 * x) / 1.702


ACTIVATIONS = {"gelu": F.gelu, "quick_gelu": quick_gelu}


class Block(nn.Module):
    """A pre-norm transformer layer."""

    def __init__(self, config: LayersConfig, layer: int):
        super().__init__()
        c = config
        self.norm1 = nn.LayerNorm(c.hidden_size, eps=c.norm_eps)
        self.attention = SelfAttention(c.hidden_size, c.num_heads)
        self.norm2 = nn.LayerNorm(c.hidden_size, eps=c.norm_eps)
        self.mlp = MLP(c.hidden_size, round(c.hidden_size * c.mlp_ratio), c.activation)
        self.drop_path = DropPath(c.drop_path * layer / max(1, c.num_layers - 1))

    def forward(
        self, x: Tensor, bias: Tensor | None = None, packing: Packing | None = None, read: Tensor | None = None
    ) -> Tensor:
        """Arguments and result as in `SelfAttention`."""
        attended = self.drop_path(self.attention(self.norm1(x), bias, packing, read))
        if read is not None:
            x = take_tokens(x if packing is None else packing.pad(x), read[:, None])
        x = x + attended
        return x + self.drop_path(self.mlp(self.norm2(x)))


class AttentionPool(nn.Module):
    """A learned query that attends to all tokens, then an MLP with a residual (MAP, Zhai et al. 2022; as in SigLIP)."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        D = config.hidden_size
        self.num_heads = config.num_heads
        self.query_token = nn.Parameter(torch.zeros(1, 1, D))
        self.q = nn.Linear(D, D)
        self.kv = nn.Linear(D, 2 * D)
        self.proj = nn.Linear(D, D)
        self.norm = nn.LayerNorm(D, eps=config.norm_eps)
        self.mlp = MLP(D, round(D * config.mlp_ratio), config.activation)

    def forward(self, x: Tensor) -> Tensor:
        """(B, P, D) -> (B, D)."""
        B, S, _ = x.shape
        q = self.q(self.query_token).view(1, 1, self.num_heads, -1).transpose(1, 2).expand(B, -1, -1, -1)
        k, v = self.kv(x).view(B, S, 2, self.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        pooled = self.proj(merge_heads(attend(q, k, v)))[:, 0]
        return pooled + self.mlp(self.norm(pooled))


def init_layers(tower: nn.Module, width: int, num_layers: int) -> None:
    """CLIP's random weights: each map's spread by its width, those that write to the residual stream smaller by its
    depth; zero biases, unit norms."""
    residual = width**-0.5 * (2 * num_layers) ** -0.5
    for name, part in tower.named_modules():
        if isinstance(part, nn.Linear):
            spread = {"proj": residual, "fc2": residual, "fc1": (2 * width) ** -0.5}
            nn.init.normal_(part.weight, std=spread.get(name.split(".")[-1], width**-0.5))
            nn.init.zeros_(part.bias)


# ---------------------------------------------------------------------------------------------------------- towers
class VisionTower(nn.Module):
    """CLIP's vision transformer. It reads pictures of any size that its patches fill: positions are resampled."""

    projects: ClassVar[bool] = False

    def __init__(self, config: VisionConfig):
        super().__init__()
        self.config = c = config
        self.width = D = c.hidden_size
        bias = c.pool == "map"  # CLIP's patches have none; SigLIP's, with attention pooling, do
        conv = c.stem == "conv"
        self.patch_embed = (
            ConvStem(D, c.patch_size) if conv else nn.Conv2d(3, D, c.patch_size, c.patch_size, bias=bias)
        )
        self.cls_token = nn.Parameter(torch.zeros(1, 1, D)) if c.class_token else None
        self.image_positions = nn.Parameter(torch.zeros(c.class_token + c.num_patches, D))
        self.pre_norm = nn.LayerNorm(D, eps=c.norm_eps) if c.pre_norm else nn.Identity()
        self.blocks = nn.ModuleList(Block(c, i) for i in range(c.num_layers))
        self.norm = nn.LayerNorm(D, eps=c.norm_eps)
        self.pool = AttentionPool(c) if c.pool == "map" else None
        self.init_weights()

    def init_weights(self) -> None:
        D, c = self.width, self.config
        init_layers(self, D, c.num_layers)
        if isinstance(self.patch_embed, ConvStem):
            self.patch_embed.init_weights()
        else:
            nn.init.normal_(self.patch_embed.weight, std=(3 * c.patch_size**2) ** -0.5)
            if self.patch_embed.bias is not None:
                nn.init.zeros_(self.patch_embed.bias)
        for token in (self.cls_token, self.image_positions, None if self.pool is None else self.pool.query_token):
            if token is not None:
                nn.init.normal_(token, std=D**-0.5)

    def embed(self, pixel_values: Tensor) -> Tensor:
        """(B, 3, height, width) -> (B, P, D), positions added; in training without the patches that are dropped."""
        p, (height, width) = self.config.patch_size, pixel_values.shape[-2:]
        if height % p or width % p:
            raise ValueError(f"a picture of {width} x {height} px is not filled by patches of {p} px; resize it to "
                             f"{max(p, width // p * p)} x {max(p, height // p * p)}")  # fmt: skip
        first = int(self.cls_token is not None)
        patches = self.patch_embed(pixel_values).flatten(2).transpose(1, 2)  # (B, N, D)
        positions = self.image_positions
        x = patches + resample_grid(positions[first:], self.config.grid, (height // p, width // p))
        if self.training and self.config.patch_dropout:
            kept = max(1, int(x.shape[1] * (1 - self.config.patch_dropout)))
            x = take_tokens(x, torch.rand(x.shape[:2], device=x.device).argsort(dim=1)[:, :kept])
        if self.cls_token is not None:
            x = torch.cat(((self.cls_token + positions[:1]).to(x.dtype).expand(len(x), -1, -1), x), dim=1)
        return self.pre_norm(x)

    def forward(self, pixel_values: Tensor, states: bool = True) -> TowerOutput:
        """pixel_values: (B, 3, height, width). states=False: `pooled` alone; the last layer then spares what it has no
        part in. ValueError for a picture that the patches don't fill."""
        x = self.embed(pixel_values)
        hidden = [x]
        read = None
        if self.config.pool == "cls" and not states:
            read = torch.zeros(len(x), dtype=torch.long, device=x.device)
        for block in self.blocks[:-1]:
            x = block(x)
            hidden.append(x)
        x = self.blocks[-1](x, read=read)
        hidden.append(x)
        x = self.norm(x)
        if self.pool is not None:
            pooled = self.pool(x)
        elif self.config.pool == "mean":
            pooled = x[:, int(self.cls_token is not None) :].mean(dim=1)
        else:
            pooled = x[:, 0]
        return TowerOutput(pooled, tuple(hidden) if states else ())


class TextTower(nn.Module):
    """CLIP's text transformer. Without `states` it computes no padding: its layers see the real tokens of a batch one
    after the other, and only attention lays them out in rows."""

    projects: ClassVar[bool] = False

    def __init__(self, config: TextConfig):
        super().__init__()
        self.config = c = config
        self.width = D = c.hidden_size
        self.word_embed = nn.Embedding(c.vocab_size, D)
        self.text_positions = nn.Parameter(torch.zeros(c.max_text_len, D))
        self.blocks = nn.ModuleList(Block(c, i) for i in range(c.num_layers))
        self.norm = nn.LayerNorm(D, eps=c.norm_eps)
        self.init_weights()

    def init_weights(self) -> None:
        init_layers(self, self.width, self.config.num_layers)
        nn.init.normal_(self.word_embed.weight, std=0.02)
        nn.init.normal_(self.text_positions, std=0.01)

    def real_tokens(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        """(B, T) bool: the tokens that the pooled vector may depend on; a text of padding alone keeps its first.

        Without a mask all of them, or for a causal tower that is read at its end-of-text token those up to it.
        """
        B, T = input_ids.shape
        if attention_mask is not None:
            real = attention_mask.bool()
            real = torch.cat((real[:, :1] | ~real.any(dim=1, keepdim=True), real[:, 1:]), dim=1)
            if not real[:, 0].all():
                raise ValueError("padding before a text: this tower counts positions from its first column; pad behind")
            return real
        if self.config.attention == "causal" and self.config.pool == "eos":
            return torch.arange(T, device=input_ids.device) <= self.end_of(input_ids)[:, None]
        return torch.ones(B, T, dtype=torch.bool, device=input_ids.device)

    def end_of(self, input_ids: Tensor) -> Tensor:
        """(B,): where each text's first end-of-text token is."""
        eos = self.config.eos_token_id
        return (input_ids if eos is None else (input_ids == eos).int()).argmax(dim=1)

    def attention_bias(self, real: Tensor, dtype: torch.dtype) -> Tensor | None:
        """-inf where a key must not be seen, as in `layers.attend`. Padding behind a causal text is never seen."""
        T = real.shape[1]
        if self.config.attention == "causal":
            return torch.full((T, T), float("-inf"), dtype=dtype, device=real.device).triu(1)[None, None]
        if real.all():
            return None
        return torch.zeros(real.shape, dtype=dtype, device=real.device).masked_fill(~real, float("-inf"))[:, None, None]

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, states: bool = True) -> TowerOutput:
        """input_ids, attention_mask: (B, T), 1 = token, padding behind. states=False: `pooled` alone.

        ValueError for more tokens than there are positions.
        """
        c = self.config
        real = self.real_tokens(input_ids, attention_mask)
        if not states:
            length = int(real.any(dim=0).nonzero().max()) + 1
            input_ids, real = input_ids[:, :length], real[:, :length]
        (B, T), device, longest = input_ids.shape, input_ids.device, c.max_text_len
        if longest < T:
            raise ValueError(f"a text of {T} tokens; this tower has positions for {longest}. Cut it, or build the "
                             f"tower with max_text_len={T}")  # fmt: skip
        packing = None
        if not states:
            places = real.flatten().nonzero()[:, 0]
            packing = Packing(places, (B, T))
            x = self.word_embed(input_ids.flatten()[places]) + self.text_positions[places % T]
        else:
            x = self.word_embed(input_ids) + self.text_positions[:T]
        bias = self.attention_bias(real, x.dtype)
        read = None
        if c.pool == "eos":
            read = self.end_of(input_ids)
        elif c.pool != "mean":
            last = torch.arange(T, device=device).expand(B, T).masked_fill(~real, 0).amax(dim=1)
            read = last if c.pool == "last" else torch.zeros_like(last)
        hidden = [x]
        for block in self.blocks[:-1]:
            x = block(x, bias, packing)
            hidden.append(x)
        x = self.blocks[-1](x, bias, packing, read if packing is not None else None)
        hidden.append(x)
        if read is None:
            x = self.norm(x if packing is None else packing.pad(x))
            pooled = (x * real[..., None]).sum(dim=1) / real.sum(dim=1, keepdim=True)
        else:
            pooled = self.norm(x if packing is not None else take_tokens(x, read[:, None]))[:, 0]
        return TowerOutput(pooled, tuple(hidden) if states else ())
