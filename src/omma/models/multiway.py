"""A layer of a VLMo: attention and feed-forward experts, each shared by both modalities or one a modality.

B batch, S sequence (text first, then image), D width, H heads, d = D / H.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from omma.models.layers import Attention, DropPath, Expert, attend, merge_heads, take_tokens
from omma.models.router import Router
from omma.models.vlmo_config import VLMoConfig

Modality = Literal["image", "text", "vl"]


class SeparateAttention(nn.Module):
    """One attention a modality, each with its own norm; a token has its modality's weights and sees all tokens."""

    def __init__(self, config: VLMoConfig):
        super().__init__()
        self.attend = attend  # as in `Attention`
        self.image = NormedAttention(config)
        self.text = NormedAttention(config)

    def forward(self, x: Tensor, text_len: int, bias: Tensor | None = None, scale: Tensor | None = None) -> Tensor:
        """x: (B, S, D), the first text_len tokens text; the rest as in `Attention`. Returns (B, S, D)."""
        sides = ((self.text, slice(0, text_len)), (self.image, slice(text_len, x.shape[1])))
        sides = [(attention, part) for attention, part in sides if part.start < part.stop]
        q, k, v = torch.cat([own.split(own.norm(x[:, part])) for own, part in sides], dim=3).unbind(0)
        x = merge_heads(self.attend(q, k, v, bias))
        return torch.cat([own.output(x[:, part], scale) for own, part in sides], dim=1)


class NormedAttention(Attention):
    """Attention that brings its own LayerNorm (pre-norm), as an `Expert` does; the norm is the caller's to apply."""

    def __init__(self, config: VLMoConfig):
        super().__init__(config.hidden_size, config.num_heads, **attention_options(config))
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.norm_eps)


def attention_options(config: VLMoConfig) -> dict:
    return {"key_bias": config.key_bias, "sub_norm": config.sub_norm, "eps": config.norm_eps}


class MultiwayBlock(nn.Module):
    """Attention, then the expert of the modality. Pre-norm, optional LayerScale, stochastic depth."""

    def __init__(self, config: VLMoConfig, layer: int):
        super().__init__()
        c, D = config, config.hidden_size
        if c.attention == "shared":
            self.norm1 = nn.LayerNorm(D, eps=c.norm_eps)
            self.attention = Attention(D, c.num_heads, **attention_options(c))
        else:
            self.attentions = SeparateAttention(c)
        names = ("image", "text", "vl") if layer >= c.vl_start else ("image", "text")
        if c.experts == "single":
            names = ("shared",)
        elif c.num_experts:
            names += tuple(f"more{n}" for n in range(1, c.num_experts - len(names) + 1))
        self.experts = nn.ModuleDict({n: Expert(D, c.mlp_ratio, c.norm_eps, sub_norm=c.sub_norm) for n in names})
        top = {"modality": 0, "top1": 1, "top2": 2}[c.router]
        self.router = Router(D, names, top, c.router_prior, c.norm_eps) if top else None
        self.separate, self.single = c.attention == "separate", c.experts == "single"
        scale = c.layer_scale
        self.gamma_1 = nn.Parameter(torch.full((D,), scale)) if scale is not None else None
        self.gamma_2 = nn.Parameter(torch.full((D,), scale)) if scale is not None else None
        self.drop_path = DropPath(c.drop_path * layer / max(1, c.num_layers - 1))

    def computes_part(self, modality: Modality) -> bool:
        """Whether `forward` takes `read` for this modality: where all tokens have the same weights."""
        alike = self.single or modality in self.experts
        return alike and not self.separate and self.router is None

    def forward(
        self,
        x: Tensor,
        modality: Modality,
        text_len: int = 0,
        bias: Tensor | None = None,
        read: Tensor | None = None,
    ) -> Tensor:
        """x: (B, S, D), text first; text_len: tokens of text in it, all S of a text pass; bias as in `layers.attend`.

        Returns (B, S, D), or where `computes_part` the tokens at the positions read (B, Q) alone, (B, Q, D).
        """
        if read is not None:
            assert self.computes_part(modality)
            x = take_tokens(x, read) + self.drop_path(self.attention(self.norm1(x), bias, self.gamma_1, read))
            return x + self.drop_path(self.experts["shared" if self.single else modality](x, self.gamma_2))
        if self.separate:
            x = x + self.drop_path(self.attentions(x, text_len, bias, self.gamma_1))
        else:
            x = x + self.drop_path(self.attention(self.norm1(x), bias, self.gamma_1))
        return self.feed(x, modality, text_len)

    def feed(self, x: Tensor, modality: Modality, text_len: int) -> Tensor:
        """The second half: x, arguments and result as in `forward`."""
        if self.router is not None:
            return x + self.drop_path(self.router(x, self.experts, modality, text_len, self.gamma_2))
        name = "shared" if self.single else modality
        if name in self.experts:
            return x + self.drop_path(self.experts[name](x, self.gamma_2))
        # static split: no mask, no gather, no token through two experts
        text = self.drop_path(self.experts["text"](x[:, :text_len], self.gamma_2))
        image = self.drop_path(self.experts["image"](x[:, text_len:], self.gamma_2))
        return x + torch.cat((text, image), dim=1)


def attention_of(block: MultiwayBlock, modality: Literal["image", "text"]) -> tuple[Attention, nn.Module]:
    """The attention that a modality's tokens go through, and the norm before it."""
    if block.separate:
        own = block.attentions.image if modality == "image" else block.attentions.text
        return own, own.norm
    return block.attention, block.norm1


class SeparateNorm(nn.Module):
    """One LayerNorm a modality."""

    def __init__(self, hidden_size: int, eps: float):
        super().__init__()
        self.image = nn.LayerNorm(hidden_size, eps=eps)
        self.text = nn.LayerNorm(hidden_size, eps=eps)

    def forward(self, x: Tensor, text_len: int) -> Tensor:
        """x: (B, S, D), the first text_len tokens text. Returns (B, S, D)."""
        return torch.cat((self.text(x[:, :text_len]), self.image(x[:, text_len:])), dim=1)
