"""What two or more models share: attention, expert FFN, patches, stochastic depth, position resampling.

Shapes: B batch, S sequence, D width, H heads, d = D / H, N patches, (gh, gw) the patch grid.
"""

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

FILLS = {f"{name}_" for name in ("add", "clamp", "erfinv", "fill", "mul", "normal", "uniform", "zero")}


@contextlib.contextmanager
def unfilled() -> Iterator[None]:
    """Inside, a module that is made has weights without memory and without numbers, for a file to replace.

    torch.device("meta") alone would have each filling traced, for which torch imports its compiler: over a second.
    """
    with torch.device("meta"), Unfilled():
        yield


class Unfilled(TorchFunctionMode):
    """Leaves weights on the meta device as they are."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        filled = kwargs.get("tensor", args[0] if args else None)
        fills = getattr(func, "__module__", None) == "torch.nn.init" or getattr(func, "__name__", None) in FILLS
        return filled if fills and isinstance(filled, Tensor) and filled.is_meta else func(*args, **kwargs)


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(d) + bias) v.

    q, k, v: (B, H, S, d). bias: None, or additive, broadcastable to (B, H, S, S), with -inf where a key must not be
    seen. Returns (B, H, S, d). On a CPU in bfloat16, plain matmuls are two to three times as fast as the fused kernel,
    forward and backward together; and the fused kernel has no fast path for a bias that needs a gradient. Elsewhere it
    wins.
    """
    on_cpu = q.device.type == "cpu"
    low_precision = q.dtype == torch.bfloat16 or torch.is_autocast_enabled(q.device.type)
    if on_cpu and (low_precision or (bias is not None and bias.requires_grad)):
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)  # (B, H, S, S)
        if bias is not None:
            scores = scores + bias.to(scores.dtype)
        return scores.softmax(dim=-1) @ v
    if bias is not None:
        bias = bias.to(q.dtype)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)


class Attention(nn.Module):
    """Multi-head self-attention with one fused projection; its bias is (q, 0, v): a key bias moves every score of a
    query alike, so softmax cannot see it (BEiT, Bao et al. 2021).

    key_bias: keep one nevertheless, as BEiT-3 does. sub_norm: LayerNorm of what the heads give, before the output
    projection (Foundation Transformers, Wang et al. 2022).
    """

    def __init__(
        self, hidden_size: int, num_heads: int, *, key_bias: bool = False, sub_norm: bool = False, eps: float = 1e-6
    ):
        super().__init__()
        self.num_heads = num_heads
        self.attend = attend  # attribution puts one in its place that keeps its weights
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(hidden_size))
        self.k_bias = nn.Parameter(torch.zeros(hidden_size)) if key_bias else None
        self.v_bias = nn.Parameter(torch.zeros(hidden_size))
        self.sub_norm = nn.LayerNorm(hidden_size, eps=eps) if sub_norm else None
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(
        self, x: Tensor, bias: Tensor | None = None, scale: Tensor | None = None, read: Tensor | None = None
    ) -> Tensor:
        """x: (B, S, D); bias: as in `attend`; scale: as in `scaled_linear`. Returns (B, S, D).

        read: (B, Q) positions, for an output of these tokens only, (B, Q, D), which look at all of x.
        """
        if read is None:
            q, k, v = self.split(x).unbind(0)
            return self.output(merge_heads(self.attend(q, k, v, bias)), scale)
        (B, S, D), H = x.shape, self.num_heads
        k_bias = torch.zeros_like(self.q_bias) if self.k_bias is None else self.k_bias
        q = F.linear(take_tokens(x, read), self.qkv.weight[:D], self.q_bias).view(B, -1, H, D // H).transpose(1, 2)
        kv = F.linear(x, self.qkv.weight[D:], torch.cat((k_bias, self.v_bias)))
        k, v = kv.view(B, S, 2, H, D // H).permute(2, 0, 3, 1, 4).unbind(0)
        if bias is not None and bias.shape[-2] != 1:
            bias = torch.take_along_dim(bias, read[:, None, :, None], dim=2)
        return self.output(merge_heads(self.attend(q, k, v, bias)), scale)

    def split(self, x: Tensor) -> Tensor:
        """x: (B, S, D) -> queries, keys and values (3, B, H, S, d)."""
        B, S, D = x.shape
        k_bias = torch.zeros_like(self.q_bias) if self.k_bias is None else self.k_bias
        qkv = F.linear(x, self.qkv.weight, torch.cat((self.q_bias, k_bias, self.v_bias)))
        return qkv.view(B, S, 3, self.num_heads, D // self.num_heads).permute(2, 0, 3, 1, 4)

    def output(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        """What the heads give, (B, S, D), through the norm, where there is one, and the output projection."""
        return scaled_linear(x if self.sub_norm is None else self.sub_norm(x), self.proj, scale)


def merge_heads(x: Tensor) -> Tensor:
    """(B, H, S, d) -> (B, S, D)."""
    x = x.transpose(1, 2)
    if torch.compiler.is_exporting():  # another runtime's attention may lay its output out in another way
        x = x.clone(memory_format=torch.contiguous_format)
    return x.flatten(2)


def take_tokens(x: Tensor, read: Tensor) -> Tensor:
    """x: (B, S, D), read: (B, Q) positions -> (B, Q, D). The backward pass of index_select adds in a fixed order."""
    rows = torch.arange(x.shape[0], device=x.device)[:, None] * x.shape[1] + read
    return x.flatten(0, 1).index_select(0, rows.flatten()).view(*read.shape, x.shape[-1])


def scaled_linear(x: Tensor, linear: nn.Linear, scale: Tensor | None) -> Tensor:
    """linear(x) * scale, with the scale (D_out,) put into the weights: they are few, the activations many."""
    if scale is None:
        return linear(x)
    return F.linear(x, linear.weight * scale[:, None], None if linear.bias is None else linear.bias * scale)


class Expert(nn.Module):
    """One modality's feed-forward network together with its own LayerNorm (pre-norm). Exact GELU: on CPUs it is also
    faster than the tanh form. sub_norm: another LayerNorm before the second map, as in `Attention`."""

    def __init__(self, hidden_size: int, ratio: int = 4, eps: float = 1e-6, *, sub_norm: bool = False):
        super().__init__()
        self.norm = nn.LayerNorm(hidden_size, eps=eps)
        self.fc1 = nn.Linear(hidden_size, ratio * hidden_size)
        self.sub_norm = nn.LayerNorm(ratio * hidden_size, eps=eps) if sub_norm else None
        self.fc2 = nn.Linear(ratio * hidden_size, hidden_size)

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        """x: (..., D); scale: as in `scaled_linear`. Returns (..., D), without the residual."""
        x = F.gelu(self.fc1(self.norm(x)))
        return scaled_linear(x if self.sub_norm is None else self.sub_norm(x), self.fc2, scale)


class DropPath(nn.Module):
    """Stochastic depth: in training, drops a sample's whole branch with probability `rate` (Huang et al. 2016)."""

    def __init__(self, rate: float = 0.0):
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, ...). Kept samples are scaled by 1 / (1 - rate), so the expectation does not change."""
        if not self.training or self.rate == 0.0:
            return x
        keep = torch.rand(len(x), *[1] * (x.dim() - 1), device=x.device) >= self.rate
        return x * (keep / (1.0 - self.rate)).to(x.dtype)


class ConvStem(nn.Module):
    """Pixels to tokens by strided convolutions instead of one linear map a patch (Xiao et al. 2021).

    A part looks the same wherever it lies within a patch; a linear map has to learn it anew for every offset, which
    takes more data than a small model is given. A 7 x 7 convolution of stride 4, then 3 x 3 ones of stride 2 and twice
    the width, up to the patch size; a patch of 20 px ends with a 5 x 5 one of stride 5 and four times the width
    instead. No norm between them, one LayerNorm at the end.

    fine: the stem of patches twice as large, read at every patch_size pixels: its last convolution makes single steps,
    so neighbouring tokens overlap, and every other one is what that stem would give.
    """

    def __init__(self, hidden_size: int, patch_size: int, width: int = 32, fine: bool = False):
        super().__init__()
        if fine and patch_size not in (4, 8, 16):
            raise ValueError(f"a fine conv stem has a patch_size of 4, 8 or 16, not {patch_size}")
        patch_size *= 1 + fine
        halvings = patch_size.bit_length() - 3
        convs: list[nn.Module] = [nn.Conv2d(3, width, 7, stride=4, padding=3)]
        if patch_size == 20:
            last = 4 * width
            convs.append(nn.Conv2d(width, last, 5, stride=5))
        elif halvings >= 0 and 4 * 2**halvings == patch_size:
            last = width * 2**halvings
            convs += [nn.Conv2d(width * 2**i, width * 2 ** (i + 1), 3, stride=2, padding=1) for i in range(halvings)]
        else:
            raise ValueError(
                f"a conv stem needs a patch_size of 4, 8, 16, 20 or 32, not {patch_size}; or take stem=patch"
            )
        if fine:
            convs[-1].stride = (1, 1)  # type: ignore[assignment]
        self.convs = nn.ModuleList(convs)
        self.proj = nn.Conv2d(last, hidden_size, 1)
        self.norm = nn.LayerNorm(hidden_size, eps=1e-6)

    def init_weights(self) -> None:
        """Kaiming: without norms between them, the convolutions must keep the spread of the signal themselves."""
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight, nonlinearity="relu")

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, h, w) -> (B, D, h / patch_size, w / patch_size)."""
        x = pixels
        for conv in self.convs:
            x = F.gelu(conv(x))
        return self.norm(self.proj(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def scaled_init_(module: nn.Module, std: float = 0.02) -> None:
    """Truncated normal weights and zero biases for every Linear and Conv2d, unit LayerNorms (ViT, BEiT)."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv2d):
            nn.init.trunc_normal_(part.weight, std=std, a=-2 * std, b=2 * std)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.Embedding):
            nn.init.normal_(part.weight, std=std)
        elif isinstance(part, nn.LayerNorm):
            nn.init.ones_(part.weight)
            nn.init.zeros_(part.bias)


INITIAL_LOGIT_SCALE = math.log(1 / 0.07)  # CLIP's starting temperature, also VLMo's
