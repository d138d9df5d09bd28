"""Passes that give vectors alone, cheaper: other people's models stay as they are, and their linear maps are computed
in another way for as long as a context lasts, in its thread alone.

    with torch.inference_mode(), faster_linear(device):
        model(pixels)                                     # the same numbers to the rounding of float32
"""

import functools
import platform
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

LARGE = 10**8  # multiplications: oneDNN prepares itself for each new shape, which takes it about a millisecond
# The maps of a layer whose output is added to what came in, and those before them; all but keys and values.
QUERIES = ("q_proj",)
TOKENWISE = ("out_proj", "o_proj", "projection", "fc1", "fc2", "gate_proj", "up_proj", "down_proj")


def faster_linear(device: torch.device) -> AbstractContextManager:
    """`FasterLinear` where it gains anything."""
    return FasterLinear() if device.type == "cpu" and mkl_is_slow() else nullcontext()


class FasterLinear(TorchFunctionMode):
    """Large linear maps in float32 by oneDNN instead of MKL; everything else as it was."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.linear and not kwargs and by_onednn(*args):
            return torch.ops.mkldnn._linear_pointwise(*args[:2], args[2] if len(args) > 2 else None, "none", [], "")
        return func(*args, **(kwargs or {}))


def by_onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> bool:
    """Whether `FasterLinear` takes this map. The kernel knows no gradient, and under autocast it is used anyhow."""
    return (
        x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32 and x.numel() * len(weight) >= LARGE
        and not torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")
    )  # fmt: skip


@functools.cache
def mkl_is_slow() -> bool:
    """Whether PyTorch multiplies by MKL on a processor of AMD with AVX-512: 92 billion operations a second on a core of
    an EPYC of 2024, where oneDNN does 206."""
    told = platform.processor()
    with suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        told += file.read(1000)
    return ("AuthenticAMD" in told and torch.backends.cpu.get_cpu_capability() == "AVX512"
            and torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()
            and hasattr(torch.ops.mkldnn, "_linear_pointwise"))  # fmt: skip


class FirstTokenAlone(TorchFunctionMode):
    """The last layer of a transformer for what reads its first token alone: that one looks at all of them, and what
    follows is computed of it only. The others' outputs are of no use.

    layer: a pre-norm layer of transformers, with q_proj, k_proj, v_proj of its own. Maps of other names are left alone.
    """

    def __init__(self, layer: nn.Module):
        super().__init__()
        parts = {name.rpartition(".")[2]: part for name, part in layer.named_modules() if isinstance(part, nn.Linear)}
        self.queries = {id(parts[name].weight) for name in QUERIES if name in parts}
        self.tokenwise = {id(parts[name].weight) for name in TOKENWISE if name in parts}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.linear and id(args[1]) in self.queries:
            x = args[0]
            return func(x[:, :1], *args[1:]).expand(-1, x.shape[1], -1)
        if func is F.linear and id(args[1]) in self.tokenwise:  # (B, 1, D) is added to all tokens
            return func(args[0][:, :1], *args[1:])
        return func(*args, **(kwargs or {}))
