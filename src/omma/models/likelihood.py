"""How likely a VLM's answer is a given text: what multiple choice by likelihood compares, option by option.

The model is made to say the text, token by token, and what it thought of each token is read. So whatever prepares and
runs a prompt for an answer does so here too, for every family of models. B prompts of a batch, C tokens of the longest
text, V vocabulary.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

Encode = Callable[[str], list[int]]


class Said:
    """A processor of logits by which `generate` says these tokens (B, C) and no others."""

    def __init__(self, tokens: Tensor):
        self.tokens, self.step = tokens, 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        place = self.tokens[:, self.step : self.step + 1]
        self.step += 1
        return torch.full_like(scores, float("-inf")).scatter(1, place, 0.0)


@torch.inference_mode()
def answer_loss(
    vlm: Any, images: Sequence[Sequence[Image.Image]], prompts: Sequence[str], answers: Sequence[str], encode: Encode,
    batch_size: int,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """(mean of the negative log-likelihood of answer i's tokens after prompt i, (n,) float32; whether a greedy answer
    begins with them, (n,) bool).

    vlm: has `prompts`, `generation` and a `model` that generates. encode: a text -> its tokens, without special ones.
    ValueError for an answer without a token, or with one that ends answers, and as of the prompts.
    """
    if len(prompts) != len(answers):
        raise ValueError(f"{len(prompts)} prompts and {len(answers)} answers; give one to each")
    rows = [encode(text) for text in answers]
    if empty := [text for text, row in zip(answers, rows, strict=True) if not row]:
        raise ValueError(f"the answer {empty[0]!r} has no token to the model; give words")
    loss, greedy = np.empty(len(rows), np.float32), np.empty(len(rows), bool)
    for start in range(0, len(rows), batch_size):
        part = slice(start, start + batch_size)
        inputs, some = vlm.prompts(images[part], prompts[part]), rows[part]
        longest = max(map(len, some))
        tokens = torch.tensor([row + row[-1:] * (longest - len(row)) for row in some], device=vlm.device)  # (B, C)
        real = torch.tensor([[c < len(row) for c in range(longest)] for row in some], device=vlm.device)
        told = vlm.generation(longest, {"output_logits": True, "return_dict_in_generate": True,
                                        "logits_processor": [Said(tokens)]})  # fmt: skip
        logits = torch.stack(vlm.model.generate(**inputs, **told).logits, dim=1).float()  # (B, C, V)
        if logits.shape[1] < longest:
            raise ValueError("an answer holds a token that ends answers, so what follows it can't be said; give words")
        seen = logits.log_softmax(dim=-1).gather(2, tokens[..., None])[..., 0]
        loss[part] = (-(seen * real).sum(dim=1) / real.sum(dim=1)).cpu().numpy()
        greedy[part] = ((logits.argmax(dim=-1) == tokens) | ~real).all(dim=1).cpu().numpy()
    return loss, greedy
