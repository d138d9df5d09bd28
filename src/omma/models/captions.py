"""Writing: words for a picture, one after the other, by a VLMo under its sequence-to-sequence mask.

The picture sees itself alone, so it goes through the layers once; a word sees the words before it, which are kept as
keys and values. R rows (pictures x beams), K beams, P image tokens, T words so far, V vocabulary, H heads, d = D / H.
"""

import torch
from torch import Tensor

from omma.models.layers import merge_heads
from omma.models.multiway import attention_of
from omma.models.vlmo import VLMo


class Writer:
    """The states of a picture and of the words written so far, as keys and values of every layer."""

    def __init__(self, model: VLMo, pixel_values: Tensor, beams: int, max_len: int):
        """pixel_values: (B, 3, h, w); the writer has B * beams rows, those of a picture side by side.

        ValueError for a model with learned prompts: they were learned for passes that see everything.
        """
        if model.prompts is not None:
            raise ValueError("a model with learned prompts can't write; load the one they were learned on")
        self.model = model
        grid, image = model.grid_of(pixel_values), model.embed_image(pixel_values)
        states = (image, *model.run_blocks(image, "vl", 0, model.attention_bias(None, 0, grid)))
        self.image: list[tuple[Tensor, Tensor]] = []                       # a layer: two of (R, H, P, d)
        for block, x in zip(model.blocks, states[:-1], strict=True):
            own, norm = attention_of(block, "image")  # type: ignore[arg-type]
            _, k, v = own.split(norm(x)).unbind(0)
            self.image.append((k.repeat_interleave(beams, dim=0), v.repeat_interleave(beams, dim=0)))
        none = self.image[0][0][:, :, :0]
        self.text = [(none, none) for _ in self.image]                     # a layer: two of (R, H, T, d)
        self.bias = None if model.relative_bias is None else model.relative_bias(max_len, grid)  # (L, H, S, S)
        self.max_len = max_len

    def next(self, ids: Tensor) -> Tensor:
        """ids: (R, T), all words so far, one more than at the last call -> log-probabilities of the next one (R, V)."""
        model, last = self.model, ids.shape[1] - 1
        x = model.embed_text(ids)[:, -1:]
        for layer, block in enumerate(model.blocks):
            own, norm = attention_of(block, "text")  # type: ignore[arg-type]
            q, k, v = own.split(norm(x)).unbind(0)
            keys, values = (torch.cat(pair, dim=2) for pair in zip(self.text[layer], (k, v), strict=True))
            self.text[layer] = keys, values
            bias = None
            if self.bias is not None:                                      # of this word to the words so far, and to P
                row = self.bias[layer, :, last]
                bias = torch.cat((row[:, : last + 1], row[:, self.max_len :]), dim=1)[None, :, None]
            keys, values = (torch.cat(pair, dim=2) for pair in zip((keys, values), self.image[layer], strict=True))
            scale: Tensor | None = block.gamma_1  # type: ignore[assignment]
            x = x + own.output(merge_heads(own.attend(q, keys, values, bias)), scale)
            x = block.feed(x, "vl", 1)  # type: ignore[operator]
        return model.mlm_head(model.normed(x, 1)[:, 0]).float().log_softmax(dim=-1)

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows (R,), where a beam was left for another of the same picture."""
        self.text = [(k.index_select(0, rows), v.index_select(0, rows)) for k, v in self.text]


@torch.no_grad()
def write(
    model: VLMo, pixel_values: Tensor, *, begin: int, end: int, forbidden: tuple[int, ...] = (), max_len: int = 0,
    beams: int = 1
) -> tuple[list[list[int]], list[float]]:
    """The captions of B pictures as token ids without begin and end, and the mean log-probability of each one's tokens.

    begin, end: [CLS] and [SEP]; forbidden: ids that are never written; max_len: tokens with begin and end, the model's
    text length unless given; a caption that reaches it is cut. beams: 1 takes the likeliest next word, K keeps the K
    likeliest beginnings. Of a picture's beams the one with the best mean is given, so that a long caption is not held
    back for its length. ValueError for fewer than one beam or two tokens.
    """
    max_len = max_len or model.config.max_text_len
    if beams < 1 or max_len < 2:
        raise ValueError(f"beams={beams}, max_len={max_len}: give 1 beam and 2 tokens or more")
    B, K, V, device = len(pixel_values), beams, model.config.vocab_size, pixel_values.device
    writer = Writer(model, pixel_values, K, max_len)
    ids = torch.full((B * K, 1), begin, device=device)
    total = torch.full((B, K), float("-inf"), device=device)
    total[:, 0] = 0.0                                                      # all beams are alike: begin with one of them
    length, ended = torch.zeros(B, K, device=device), torch.zeros(B, K, dtype=torch.bool, device=device)
    first = K * torch.arange(B, device=device)[:, None]
    stay = torch.full((V,), float("-inf"), device=device).index_fill(0, torch.tensor([end], device=device), 0.0)
    for _ in range(max_len - 1):
        scores = writer.next(ids).index_fill(1, torch.tensor(forbidden, dtype=torch.long, device=device), float("-inf"))
        scores = torch.where(ended[..., None], stay, scores.view(B, K, V))  # a finished one repeats its end, for free
        total, best = (total[..., None] + scores).view(B, K * V).topk(K, dim=1)
        beam, word = best // V, best % V
        rows = (first + beam).view(-1)
        length = length.gather(1, beam) + ~ended.gather(1, beam)
        ended = ended.gather(1, beam) | (word == end)
        ids = torch.cat((ids.index_select(0, rows), word.view(-1, 1)), dim=1)
        if K > 1:
            writer.keep(rows)
        if ended.all():
            break
    mean, chosen = (total / length).max(dim=1)
    texts = ids.view(B, K, -1)[torch.arange(B, device=device), chosen, 1:].tolist()
    return [text[: text.index(end)] if end in text else text for text in texts], mean.tolist()
