"""Where a VLM looks while it answers: for each picture a map of the attention that the answer's tokens pay its patches,
and the boxes of what stands out in it.

What a model always looks at (corners, an empty sky) says nothing about a question. So the map may be divided by that of
a question about nothing in particular, as in "MLLMs Know Where to Look" (Zhang et al. 2025, arXiv 2502.17422).

B rows, H heads, L tokens of prompt and answer, V visual tokens, r x c those of one picture.
"""

import contextlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from omma.sparse.anatomy import anatomy
from omma.sparse.shapes import grids_of
from omma.sparse.stage import Heard
from omma.sparse.tap import listen

NOTHING_ASKED = "Write a general description of the image."
Box = tuple[float, float, float, float]


@torch.no_grad()
def attended(
    vlm: Any, images: Sequence[Image.Image], prompt: str, answer: str, *, relative: bool = True,
    layers: Sequence[int] | None = None,
) -> list[np.ndarray]:  # fmt: skip
    """For each picture (r, c) float32, which sum to 1 over all of them: what the answer's tokens attend to, the mean
    over heads and over `layers`, the second half of the decoder's by default.

    vlm: what `omma.load_vlm` gives of a folder; answer: its own, or any other. relative: divided by the attention
    under a question about nothing in particular. It runs the model once, twice if relative, and changes nothing in it.
    ValueError for an endpoint, and for models that cut a picture into tiles, whose tokens form no grid of it.
    """
    if not hasattr(vlm, "prompts"):
        raise ValueError(f"{vlm.name} doesn't tell what it attends to; load a VLM from a folder")
    if not images:
        return []
    found = visual_attention(vlm, images, prompt, answer, layers)
    if relative:
        found = found / (visual_attention(vlm, images, NOTHING_ASKED, "", layers) + 1e-8)
    found = (found / found.sum()).float().cpu().numpy()
    maps, at = [], 0
    for rows, columns in token_grids(vlm, images):
        maps.append(found[at : at + rows * columns].reshape(rows, columns))
        at += rows * columns
    return maps


def visual_attention(
    vlm: Any, images: Sequence[Image.Image], prompt: str, answer: str, layers: Sequence[int] | None
) -> Tensor:
    """(V,): the mean attention to each visual token of the places at which the answer's tokens are chosen."""
    parts = anatomy(vlm)
    inputs = vlm.prompts([images], [prompt])
    length = inputs["input_ids"].shape[1]
    encoded = vlm.processor.tokenizer.encode(answer, add_special_tokens=False)
    said = torch.tensor([list(getattr(encoded, "ids", encoded))[:-1]], dtype=torch.long, device=vlm.device)
    grown = {}
    for name, value in inputs.items():
        if value.shape[:2] == (1, length) and value.ndim == 2:
            more = {"input_ids": said, "attention_mask": torch.ones_like(said)}.get(name, torch.zeros_like(said))
            value = torch.cat([value, more.to(value)], 1)
        grown[name] = value
    visual = parts.visual_tokens(grown["input_ids"], None)
    assert visual is not None
    total = torch.zeros(int(visual.sum()), dtype=torch.float64, device=vlm.device)

    def hear(_: Any, heard: Heard, mask: Any, kwargs: dict[str, Any]) -> None:
        query, key = heard.query[:, :, length - 1 :].float(), heard.key.float()
        key = key.repeat_interleave(query.shape[1] // key.shape[1], 1)
        logits = query @ key.mT * heard.scaling                                  # (1, H, answer, L)
        places = torch.arange(key.shape[2], device=key.device)
        later = places[None] > torch.arange(length - 1, key.shape[2], device=key.device)[:, None]
        shares = logits.masked_fill(later, -math.inf).softmax(-1)[0, :, :, visual[0]]
        total.add_(shares.mean((0, 1)).double())

    chosen = range(len(parts.layers) // 2, len(parts.layers)) if layers is None else layers
    with contextlib.ExitStack() as undo:
        for layer in chosen:
            listen(parts.layers[layer].self_attn, hear, undo)
        vlm.model(**grown, use_cache=False, logits_to_keep=1)
    return total / len(chosen)


def token_grids(vlm: Any, images: Sequence[Image.Image]) -> list[tuple[int, int]]:
    """(rows, columns) of each picture's visual tokens. ValueError where they are no grid of the picture."""
    inputs = vlm.prompts([images], [""])
    grids = grids_of(vlm.model.config, inputs) if "pixel_values" in inputs else []
    visual = anatomy(vlm).visual_tokens(inputs["input_ids"], None)
    tokens = 0 if visual is None else int(visual.sum())
    found = []
    if len(grids) == len(images):
        patches = sum(grid.rows * grid.columns for grid in grids)
        merge = math.isqrt(patches // max(tokens, 1))
        found = [(grid.rows // merge, grid.columns // merge) for grid in grids] if merge else []
    if sum(rows * columns for rows, columns in found) != tokens or not tokens:
        raise ValueError(f"{vlm.name} cuts pictures into tiles or leaves patches out, so its {tokens} visual tokens "
                         f"are no grid of {len(images)} pictures; what it attends to has no place")  # fmt: skip
    return found


def box_of(attention: np.ndarray, least: float = 0.3, smooth: int = 2) -> Box:
    """The box around the neighbours of the strongest patch that have at least `least` of its value, in shares of the
    picture from its upper left: x0, y0, x1, y1.

    attention: (r, c), as `attended` gives it; single patches stand out in it, so it is smoothed first, so often.
    """
    for _ in range(smooth):  # by 1 2 1, down and across
        padded = np.pad(attention, 1, mode="edge")
        down = (padded[:-2] + 2 * padded[1:-1] + padded[2:]) / 4
        attention = (down[:, :-2] + 2 * down[:, 1:-1] + down[:, 2:]) / 4
    rows, columns = attention.shape
    strong = attention >= least * attention.max()
    start = np.unravel_index(int(attention.argmax()), attention.shape)
    seen, edge = {start}, [start]
    while edge:
        row, column = edge.pop()
        for near in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
            if near not in seen and 0 <= near[0] < rows and 0 <= near[1] < columns and strong[near]:
                seen.add(near)
                edge.append(near)
    down, across = [place[0] for place in seen], [place[1] for place in seen]
    return (min(across) / columns, min(down) / rows, (max(across) + 1) / columns, (max(down) + 1) / rows)


def overlap(one: Box, other: Box) -> float:
    """Intersection over union of two boxes, 0..1."""
    wide = max(0.0, min(one[2], other[2]) - max(one[0], other[0]))
    high = max(0.0, min(one[3], other[3]) - max(one[1], other[1]))
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return wide * high / (areas - wide * high) if areas else 0.0


def region(vlm: Any, image: Image.Image, box: Box) -> Box:
    """A box of what the model was shown -> the same of the picture, where the model's preparation cuts a square out of
    its middle."""
    prepares = getattr(vlm.processor, "image_processor", None)
    if prepares is None or not getattr(prepares, "do_center_crop", False):
        return box
    wide, high = (side / min(image.size) for side in image.size)  # in squares
    x = lambda at: (at + (wide - 1) / 2) / wide
    y = lambda at: (at + (high - 1) / 2) / high
    return x(box[0]), y(box[1]), x(box[2]), y(box[3])
