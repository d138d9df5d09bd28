"""Linear layers with int8 weights: half of bf16's bytes, a quarter of fp32's.

A row of weights w becomes round(w / s) with s = max|w| / 127, one s for each output (symmetric, per channel; as in
Dettmers et al. 2022, without their split of outliers). Each weight is off by at most s / 2, so output i by at most
s_i / 2 times the sum of |x|.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# A token at a time, as in decoding, most of the time goes into reading weights: there torch's own kernel, which reads
# them as int8, takes a third of the time or less on a CPU. With more rows it is the slower one.
PACKED = getattr(torch, "_weight_int8pack_mm", None)
FEW = 4


def quantized(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(out, in) floats -> (out, in) int8 and (out,) float32 scales; their product is the weight, about."""
    scales = weight.detach().float().abs().amax(dim=1).clamp(min=torch.finfo(torch.float32).tiny * 127) / 127
    return (weight.detach().float() / scales[:, None]).round().clamp(-127, 127).to(torch.int8), scales


class Int8Linear(nn.Module):
    """nn.Linear with int8 weights: x (..., in) -> (..., out) in x's dtype. `weight` is what it multiplies with."""

    values: Tensor
    scales: Tensor

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.dtype = linear.weight.dtype
        values, scales = quantized(linear.weight)
        self.register_buffer("values", values)
        self.register_buffer("scales", scales)
        self.bias = None if linear.bias is None else nn.Parameter(linear.bias.detach(), requires_grad=False)

    @property
    def weight(self) -> Tensor:
        """(out, in), made anew each time."""
        return (self.values.float() * self.scales[:, None]).to(self.dtype)

    def forward(self, x: Tensor) -> Tensor:
        rows, scales = x.numel() // self.in_features, self.scales.to(x.dtype)
        few = 0 < rows <= FEW and x.device.type == "cpu" and x.dtype in (torch.float32, torch.bfloat16)
        if few and PACKED is not None and not torch.is_grad_enabled():
            product = PACKED(x.reshape(rows, -1), self.values, scales).view(*x.shape[:-1], -1)
        elif x.dtype == torch.float16:  # which ends at 65504: sums of up to 127 times what they stand for go beyond
            product = F.linear(x, self.weight.to(x.dtype))
        else:
            product = F.linear(x, self.values.to(x.dtype)) * scales  # up to 127, which bf16 holds exactly
        return product if self.bias is None else product + self.bias.to(x.dtype)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


def quantize_linears(module: nn.Module) -> int:
    """Puts an Int8Linear in the place of every nn.Linear inside a module; how many there were."""
    found = [(parent, name, child) for parent in module.modules() for name, child in parent.named_children()
             if type(child) is nn.Linear]  # fmt: skip
    for parent, name, child in found:
        setattr(parent, name, Int8Linear(child).train(child.training))
    return len(found)
