"""Which patches and words an answer came from: attention rollout, and relevance weighted by gradients.

Both follow information up through the layers as products of attention matrices, identity added for the residual.
Rollout takes the attention as it is, so it tells what was looked at, whatever was asked (Abnar and Zuidema 2020).
Relevance takes of each attention weight only what raises the score, relu(gradient * attention), so it tells what spoke
for this answer (Chefer et al. 2021).

B batch, S sequence, T text tokens, N patches, L layers, H heads, (gh, gw) patch grid.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from omma.models.vlmo import VLMo, VLMoOutput

Kind = Literal["itm", "itc"]
Method = Literal["relevance", "rollout"]


class Attribution(NamedTuple):
    """Shares of an answer, rows of pictures with texts. A row of words and patches together, or each, sums to 1."""

    words: Tensor  # (B, T), 0 on padding
    patches: Tensor  # (B, gh, gw)
    scores: Tensor  # (B,): what was explained


@contextlib.contextmanager
def attention_maps(model: VLMo) -> Iterator[list[Tensor]]:
    """Within it, every pass adds its layers' attention (B, H, S, S) to the list, lowest layer first, ready for
    gradients.

    Attention is then computed in the open, softmax(q k^T / sqrt(d) + bias), instead of by the fused kernel; afterwards
    the model is as it was.
    """
    maps: list[Tensor] = []

    def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        weights = (scores if bias is None else scores + bias.to(scores.dtype)).softmax(dim=-1)
        maps.append(weights)
        return weights @ v

    layers: list[Any] = [block.attentions if block.separate else block.attention for block in model.blocks]
    before = [layer.attend for layer in layers]
    try:
        for layer in layers:
            layer.attend = attend
        yield maps
    finally:
        for layer, own in zip(layers, before, strict=True):
            layer.attend = own


# ---------------------------------------------------------------------------------------------------- arithmetic
def rollout(maps: Sequence[Tensor]) -> Tensor:
    """How much of each token is in each state of the last layer: L maps (B, H, S, S) -> (B, S, S), rows sum to 1.

    The product of (A + I) / 2 over layers, A the mean over heads.
    """
    flow = torch.eye(maps[0].shape[-1], dtype=maps[0].dtype, device=maps[0].device).expand(len(maps[0]), -1, -1)
    for weights in maps:
        flow = (weights.mean(dim=1) @ flow + flow) / 2
    return flow


def relevance(maps: Sequence[Tensor], gradients: Sequence[Tensor]) -> Tensor:
    """The same with relu(gradient * attention) in place of attention, summed up the layers as R + A R: (B, S, S), >= 0.

    gradients: of the score with respect to each map.
    """
    flow = torch.eye(maps[0].shape[-1], dtype=maps[0].dtype, device=maps[0].device).expand(len(maps[0]), -1, -1)
    for weights, gradient in zip(maps, gradients, strict=True):
        flow = flow + (weights * gradient).relu().mean(dim=1) @ flow
    return flow


def readout(states: Tensor, gradient: Tensor) -> Tensor:
    """How much of the score is read from each token of the last layer: (B, S), rows sum to 1.

    states, gradient: (B, S, D). The part of a token is gradient * state where that raises the score. A model that reads
    [CLS] alone gives it all; one that takes the largest of all tokens has read them all.
    """
    raised = (states * gradient).sum(dim=-1).relu()
    touched = gradient.abs().sum(dim=-1)  # for a row in which no token raises it: where it is read from at all
    raised = torch.where(raised.sum(dim=-1, keepdim=True) > 0, raised, touched)
    return raised / raised.sum(dim=-1, keepdim=True).clamp(min=torch.finfo(raised.dtype).tiny)


def shares(model: VLMo, score: Tensor, output: VLMoOutput, maps: Sequence[Tensor], method: Method) -> Tensor:
    """(B, S) of one pass, rows sum to 1. score: (B,), whose sum is differentiated; rows don't touch one another.

    What learned prompts have a share in is divided among the rest.
    """
    gradients = torch.autograd.grad(score.sum(), [output.last_hidden_state, *maps], retain_graph=True)
    read = readout(output.last_hidden_state, gradients[0])
    flow = rollout(maps) if method == "rollout" else relevance(maps, gradients[1:])
    if model.prompts is not None:  # their rows are not read, and their columns not told
        places = model.prompts.places(read.shape[1], output.text_len).to(read.device)
        flow = flow[:, places][:, :, places]
    found = (read[:, None] @ flow)[:, 0].detach()
    return found / found.sum(dim=-1, keepdim=True)


# ---------------------------------------------------------------------------------------------------- a VLMo
def attribute(
    model: VLMo,
    input_ids: Tensor,
    attention_mask: Tensor | None,
    pixel_values: Tensor,
    kind: Kind = "itm",
    method: Method = "relevance",
) -> Attribution:
    """The shares of words and patches in how well text i and picture i belong together. Shapes as in `VLMo.match`.

    itm: the fusion encoder's "yes" minus "no", words and patches in one sum. itc: the cosine of the two encoders; the
    text's words and the picture's patches, each with its own [CLS], sum to 1. ValueError for another kind or method.
    """
    if kind not in ("itm", "itc") or method not in ("relevance", "rollout"):
        raise ValueError(f"kind {kind!r}, method {method!r}; kinds are itm and itc, methods relevance and rollout")
    gh, gw = model.grid_of(pixel_values) or model.config.grid
    with torch.enable_grad(), attention_maps(model) as maps:
        if kind == "itm":
            output = model(input_ids, attention_mask, pixel_values)
            logits = model.itm_head(output.pooled)
            scores = logits[:, 1] - logits[:, 0]
            both = shares(model, scores, output, maps, method)
            words, image = both[:, : output.text_len], both[:, output.text_len :]
        else:
            seen = model(pixel_values=pixel_values)
            image_maps = list(maps)
            maps.clear()
            read = model(input_ids, attention_mask)
            image_embeds = model.project(seen, "image")
            scores = (image_embeds * model.project(read, "text", text_mask=attention_mask)).sum(dim=-1)
            words, image = shares(model, scores, read, maps, method), shares(model, scores, seen, image_maps, method)
    return Attribution(words, image[:, 1:].unflatten(1, (gh, gw)), scores.detach())


@torch.no_grad()
def deletion_curve(
    model: VLMo, input_ids: Tensor, attention_mask: Tensor | None, pixel_values: Tensor, patches: Tensor
) -> Tensor:
    """Probability (B, N + 1) that text i belongs to picture i, with 0, 1, .. all N patches hidden, highest value first.

    patches: (B, gh, gw), e.g. shares; the sooner the curve falls, the better they say what the answer rests on (RISE,
    Petsiuk et al. 2018). A hidden patch shows the picture's mean colour.
    """
    B, p = len(pixel_values), model.config.patch_size
    order = patches.flatten(1).argsort(dim=1, descending=True)
    rank = torch.empty_like(order).scatter_(1, order, torch.arange(order.shape[1], device=order.device).expand(B, -1))
    rank = rank.view(B, 1, *patches.shape[1:]).repeat_interleave(p, dim=2).repeat_interleave(p, dim=3)
    mean = pixel_values.mean(dim=(2, 3), keepdim=True)
    scores = [
        model.match(input_ids, attention_mask, torch.where(rank < hidden, mean, pixel_values)).softmax(dim=-1)[:, 1]
        for hidden in range(order.shape[1] + 1)
    ]
    return torch.stack(scores, dim=1)


# ---------------------------------------------------------------------------------------------------- for people
@dataclass(frozen=True)
class Explanation:
    """Which patches and words an answer came from, largest share darkest. Shares are >= 0."""

    patches: np.ndarray  # (gh, gw) float32
    words: list[tuple[str, float]]  # each word of the text as it stands there, with its share
    score: float  # what was explained: itm "yes" minus "no", or the cosine
    kind: str = "itm"

    def draw(self, picture: Image.Image, colour: tuple[int, int, int] = (255, 40, 0)) -> Image.Image:
        """The picture in grey with the patches' shares laid over it as heat, the largest one the strongest."""
        heat = self.patches / max(float(self.patches.max()), 1e-12)
        mask = Image.fromarray(np.uint8(255 * 0.75 * heat)).resize(picture.size, Image.Resampling.BICUBIC)
        ground = Image.blend(picture.convert("L").convert("RGB"), picture.convert("RGB"), 0.35)
        return Image.composite(Image.new("RGB", picture.size, colour), ground, mask)


def whole_words(text: str, spans: Sequence[tuple[int, int]], words: Sequence[int | None],
                values: Sequence[float]) -> list[tuple[str, float]]:  # fmt: skip
    """A text's words with the sums of their pieces' values, in order.

    spans: where each token stands in the text; words: the number of the word that it is a piece of, None for a special
    token, which is left out.
    """
    found: dict[int, tuple[int, int, float]] = {}
    for (start, end), word, value in zip(spans, words, values, strict=True):
        if word is not None:
            first, last, total = found.get(word, (start, end, 0.0))
            found[word] = min(first, start), max(last, end), total + value
    return [(text[start:end], total) for start, end, total in found.values()]
