"""How likely a VLM's answer begins with each of several words: the letters of options, or yes and no."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

Encode = Callable[[str], list[int]]


def token_ids(words: Sequence[Sequence[str]], encode: Encode) -> list[list[int]]:
    """The tokens that an answer may begin with, for each option those of its spellings that are one token.

    ValueError for an option of which no spelling is one token, and for two options that share one.
    """
    found: list[list[int]] = []
    for spellings in words:
        ids = sorted({pieces[0] for text in spellings if len(pieces := encode(text)) == 1})
        if not ids:
            raise ValueError(f"none of {', '.join(map(repr, spellings))} is one token to the model; ask in words")
        if any(set(ids) & set(others) for others in found):
            raise ValueError(f"{spellings[0]!r} begins like another option to the model; ask in words")
        found.append(ids)
    return found


@torch.inference_mode()
def first_token(
    vlm: Any, images: Sequence[Sequence[Image.Image]], prompts: Sequence[str], words: Sequence[Sequence[str]],
    encode: Encode, batch_size: int,
) -> np.ndarray:  # fmt: skip
    """(n, C) float32: the log-probability that the answer to prompt i begins with option c, over its spellings.

    vlm: has `prompts` and a `model` that generates. words: C lists of spellings, such as ("A", " A"). encode: a text ->
    its tokens, without special ones. ValueError as of `token_ids`, and of the prompts.
    """
    options = token_ids(words, encode)
    out = np.empty((len(prompts), len(options)), dtype=np.float32)
    for start in range(0, len(prompts), batch_size):
        part = slice(start, start + batch_size)
        inputs = vlm.prompts(images[part], prompts[part])
        told = {"max_new_tokens": 1, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
        logits = vlm.model.generate(**inputs, **told).logits[0].float().log_softmax(dim=-1)
        for column, ids in enumerate(options):
            out[part, column] = logits[:, ids].logsumexp(dim=-1).cpu().numpy()
    return out
