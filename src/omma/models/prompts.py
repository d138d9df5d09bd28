"""Learned prompts on a frozen model: a few vectors before the words and before the patches, and nothing else learns.

Context vectors take the place of hand-written words such as "a picture of" (CoOp, Zhou et al. 2022); prompt tokens
stand between [CLS] and the patches (visual prompt tuning, Jia et al. 2022). B batch, S sequence, D width.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class Prompts(nn.Module):
    """Vectors that a pass takes in behind the first token of each modality and leaves out of what it returns.

    So a model with prompts is used as one without. text, image: how many; 0 for none.
    """

    def __init__(self, hidden_size: int, text: int = 0, image: int = 0):
        super().__init__()
        std = 0.02 * (768 / hidden_size) ** 0.5  # that of the model's own tokens
        new = lambda n: nn.Parameter(std * torch.randn(n, hidden_size)) if n else None
        self.text_prompts, self.image_prompts = new(text), new(image)

    def places(self, length: int, text_len: int) -> Tensor:
        """Where the `length` tokens of a pass, the first text_len of them text, stand once the prompts are in: (S,)."""
        places = torch.arange(length)
        if text_len and self.text_prompts is not None:
            places[1:] += len(self.text_prompts)
        if text_len < length and self.image_prompts is not None:
            places[text_len + 1 :] += len(self.image_prompts)
        return places

    def insert(
        self, x: Tensor, bias: list[Tensor | None], text_len: int
    ) -> tuple[Tensor, list[Tensor | None], int, Tensor]:
        """The sequence (B, S', D) with prompts, what is added to its scores, its tokens of text, and `places`.

        x: (B, S, D); bias: one a layer, as `VLMo.attention_bias` gives it. No prompt is masked or at any distance.
        """
        B, S = x.shape[:2]
        places = self.places(S, text_len).to(x.device)
        before = {1: self.text_prompts} if text_len else {}
        before |= {text_len + 1: self.image_prompts} if text_len < S else {}
        parts, start = [], 0
        for end, prompts in before.items():
            parts.append(x[:, start:end])
            if prompts is not None:
                parts.append(prompts.to(x.dtype).expand(B, -1, -1))
            start = end
        x = torch.cat((*parts, x[:, start:]), dim=1)
        more = len(self.text_prompts) if text_len and self.text_prompts is not None else 0
        spread = {id(b): None if b is None else spread_bias(b, places, x.shape[1]) for b in bias}
        return x, [spread[id(b)] for b in bias], text_len + more, places


def spread_bias(bias: Tensor, places: Tensor, length: int) -> Tensor:
    """Scores' bias (.., 1 or S, S) as (.., 1 or S', S'), each value where its tokens now stand, 0 for the prompts."""
    wide = bias.new_zeros(*bias.shape[:-1], length).index_copy(-1, places, bias)
    if bias.shape[-2] == 1:
        return wide
    first = wide[..., :1, :]  # padding is what no row may see, a prompt's row neither
    row = torch.zeros_like(first).masked_fill(first.isinf(), float("-inf"))
    return row.repeat_interleave(length, dim=-2).index_copy(-2, places, wide)


PREFIX = "prompts."  # of their names among a model's


def prompts_for(hidden_size: int, tensors: Mapping[str, Tensor]) -> Prompts | None:
    """Prompts of the sizes of those among a model's tensors, None where there are none. The values are not copied.

    ValueError when they are of another width.
    """
    found = {name: tensors.get(f"{PREFIX}{name}_prompts") for name in ("text", "image")}
    for name, value in found.items():
        if value is not None and value.shape[1:] != (hidden_size,):
            raise ValueError(f"{name} prompts of width {value.shape[1]} don't fit a model of width {hidden_size}; "
                             "they belong to the model they were learned on")  # fmt: skip
    if all(value is None for value in found.values()):
        return None
    return Prompts(hidden_size, **{name: 0 if value is None else len(value) for name, value in found.items()})
