"""What visual tokens cost: tokens entering every layer, multiply-adds, FLOPs, bytes of keys and values.

Before a run, from a schedule, and after one, from a Trace; the published ways of counting stand beside. D width, m FFN
width, H query heads and G key heads of size d, L layers, V visual tokens of a sample, n tokens entering a layer.

    entering = expected_entering({2: 300, 6: 200, 15: 110}, layers=32, visual=576, recycle=True)
    print(cost_of(config, entering, text=117))

A budget is the mean over layers of the visual tokens that enter them: a token that is dropped after layer l has run was
paid for in layer l. Papers on pruning inside the decoder print the mean of those that leave (`equal_tokens`), which is
smaller.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from omma.sparse.reduce import recycle_counts
from omma.sparse.schedule import entering as tokens_entering
from omma.sparse.schedule import none_made
from omma.sparse.shapes import DecoderShape, Grid, decoder_shape, grids_of, vision_shape


def recycled(deleted: int) -> int:
    """How many merged tokens SparseVLM makes out of `deleted` ones (Zhang et al. 2025).

    >>> [recycled(n) for n in (276, 109, 94)]
    [9, 4, 3]
    """
    return int(recycle_counts(torch.tensor([deleted]))[1])


def expected_entering(schedule: Mapping[int, int], layers: int, visual: int, *, recycle: bool = False) -> list[int]:
    """(layers,) visual tokens entering each layer when schedule[l] of them are retained after layer l.

    Layers count from 0; l = -1 is before the first. recycle: merged tokens are added as SparseVLM does. A number not
    below what is there keeps all. Raises ValueError for a layer that the model has not, or after which nothing runs.

    >>> expected_entering({1: 10}, layers=4, visual=16)
    [16, 16, 10, 10]
    """
    if wrong := [layer for layer in schedule if not -1 <= layer < layers - 1]:
        places = f"layers -1 to {layers - 2} of {layers}"
        raise ValueError(f"schedule has layer {wrong[0]}; tokens can be dropped after {places}")
    if negative := [kept for kept in schedule.values() if kept < 0]:
        raise ValueError(f"schedule keeps {negative[0]} tokens; give 0 or more")
    return tokens_entering(dict(schedule), visual, layers, recycled if recycle else none_made)


def equal_tokens(entering: Sequence[int]) -> float:
    """The published count of one sample: the mean over layers of the visual tokens that leave them."""
    return sum([*entering[1:], entering[-1]]) / len(entering)


def published_macs(
    tokens: Sequence[float], hidden_size: int, intermediate_size: int, *, ffn: int = 3, kv_width: int | None = None
) -> float:
    """Sum over layers of 4 n D^2 + 2 n^2 D + ffn n D m, n = tokens[l], text included: multiply-adds, sold as FLOPs.

    SparseVLM and PyramidDrop count with ffn=3, the gated FFN; FastV and DivPrune with ffn=2. No halving for the causal
    mask, no vision tower, no lm_head. kv_width: G d for grouped queries, which turns 4 n D^2 into 2 n D^2 + 2 n D G d.

    >>> round(published_macs([576] * 32, 4096, 11008) / 1e12, 2)      # LLaVA-1.5-7B, visual tokens alone
    3.82
    """
    D, m = hidden_size, intermediate_size
    linear = 2 * D * D + 2 * D * (D if kv_width is None else kv_width) + ffn * D * m
    return float(sum(n * linear + 2 * n * n * D for n in tokens))


# ------------------------------------------------------------------------------------------------ the whole model
@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one prefill costs; several samples are added up, `entering` and `text` hold them apart.

    entering: (samples, layers); text: other tokens of each sample. macs: multiply-adds of "vision", "adapter",
    "decoder", "lm_head"; attention is counted over the full square n^2, as flop counters and papers do. causal_saving:
    what of that a kernel spares which computes only the n (n + 1) / 2 pairs that the mask allows. layer_macs: the
    decoder's by layer. kv_bytes: keys and values of all layers after the prefill, without padding. published,
    published_two_matrices: `published_macs` with ffn=3 and ffn=2.
    """

    entering: tuple[tuple[int, ...], ...]
    text: tuple[int, ...]
    macs: dict[str, int]
    causal_saving: int
    layer_macs: tuple[int, ...]
    kv_bytes: int
    published: float
    published_two_matrices: float

    @property
    def budget(self) -> float:
        """Mean over samples and layers of the visual tokens entering."""
        return sum(map(sum, self.entering)) / sum(map(len, self.entering))

    @property
    def equal_tokens(self) -> float:
        """The same, counted as published: of those leaving."""
        return sum(map(equal_tokens, self.entering)) / len(self.entering)

    @property
    def total_macs(self) -> int:
        return sum(self.macs.values())

    @property
    def flops(self) -> int:
        """2 a multiply-add, attention over the full square."""
        return 2 * self.total_macs

    @property
    def flops_causal(self) -> int:
        """The same with attention over the pairs that the causal mask allows."""
        return 2 * (self.total_macs - self.causal_saving)

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, for a file."""
        return {
            "budget": self.budget, "equal_tokens": self.equal_tokens, "macs": self.macs, "flops": self.flops,
            "flops_causal": self.flops_causal, "kv_bytes": self.kv_bytes, "published_macs": self.published,
            "published_macs_two_matrices": self.published_two_matrices,
        }  # fmt: skip

    def __str__(self) -> str:
        runs = "; ".join(
            ", ".join(f"{n} x {len(list(same))}" for n, same in groupby(sample)) for sample in self.entering[:4]
        )
        more = f"; and {len(self.entering) - 4} samples more" if len(self.entering) > 4 else ""
        parts = ", ".join(f"{name} {tera(value)}" for name, value in self.macs.items() if value)
        return (
            f"visual tokens entering the layers: {runs}{more}\n"
            f"budget: {self.budget:.1f} a layer on average; published count (those leaving): {self.equal_tokens:.1f}\n"
            f"multiply-adds: {parts}; {tera(self.causal_saving)} less with attention over allowed pairs alone\n"
            f"FLOPs: {tera(self.flops)}, causal {tera(self.flops_causal)}; published formula: {tera(self.published)} "
            f"multiply-adds (with 2nDm: {tera(self.published_two_matrices)})\n"
            f"keys and values: {self.kv_bytes / 1e6:.1f} MB"
        )


def tera(value: float) -> str:
    """4.61 T, 12.3 G or 4.0 M."""
    scale, letter = next(((s, x) for s, x in ((1e12, "T"), (1e9, "G")) if value >= s), (1e6, "M"))
    return f"{value / scale:.3g} {letter}"


def cost_of(
    config: Any,
    entering: Tensor | Sequence[int] | Sequence[Sequence[int]],
    text: int | Sequence[int],
    *,
    pictures: Sequence[Grid | tuple[int, int, int]] = (),
    logits: int = 1,
    dtype: str | torch.dtype = "bfloat16",
) -> Cost:
    """The cost of one prefill, from a configuration and the visual tokens entering the layers.

    entering: (layers,) of one sample or (samples, layers), as expected_entering and Trace.entering give it. text: the
    other tokens of every sample. pictures: (frames, rows, columns) of patches of each picture or crop, for vision
    tower and adapter, which are left out without. logits: positions a sample that lm_head is computed for; generate
    computes 1. dtype: of keys and values. Not counted: embeddings, norms, softmax, rotary angles, and what a method
    spends on choosing tokens, such as the rows of attention it asks for. Raises ValueError when the layers don't match.
    """
    shape = decoder_shape(config)
    rows = [[int(n) for n in row] for row in samples(entering)]
    texts = [int(text)] * len(rows) if isinstance(text, int) else [int(t) for t in text]
    if len(texts) != len(rows):
        raise ValueError(f"text has {len(texts)} numbers and entering {len(rows)} samples; give one a sample")
    if wrong := [len(row) for row in rows if len(row) != shape.num_layers]:
        layers = f"entering has {wrong[0]} layers and the model has {shape.num_layers}"
        raise ValueError(f"{layers}; give one number a layer")
    lengths = [[v + t for v in row] for row, t in zip(rows, texts, strict=True)]
    by_layer = tuple(sum(layer_macs(shape, row[layer]) for row in lengths) for layer in range(shape.num_layers))
    vision = adapter = 0
    if pictures:
        tower, joint = vision_shape(config)
        grids = [picture if isinstance(picture, Grid) else Grid(*picture[:3]) for picture in pictures]
        vision, adapter = sum(map(tower.macs, grids)), sum(map(joint.macs, grids))
    flat = [n for row in lengths for n in row]
    counted = [published_macs(flat, shape.hidden_size, shape.intermediate_size, ffn=ffn) for ffn in (3, 2)]
    return Cost(
        entering=tuple(map(tuple, rows)),
        text=tuple(texts),
        macs={"vision": vision, "adapter": adapter, "decoder": sum(by_layer),
              "lm_head": len(rows) * logits * shape.hidden_size * shape.vocab_size},
        causal_saving=sum(shape.query_width * n * (n - 1) for n in flat),
        layer_macs=by_layer,
        kv_bytes=sum(kv_bytes(shape, row, dtype) for row in lengths),
        published=counted[0],
        published_two_matrices=counted[1],
    )  # fmt: skip


def cost_of_run(
    config: Any, trace: Any, inputs: Mapping[str, Any], *, logits: int = 1, dtype: str | torch.dtype = "bfloat16"
) -> Cost:
    """The cost of the prefill that a Trace saw, with the pictures that stood in its inputs.

    trace: anything with `entering`, (samples, layers). inputs: what the model was called with: input_ids, pictures, and
    attention_mask where there was padding.
    """
    entering = torch.as_tensor(trace.entering)
    visual = visual_tokens(config, inputs["input_ids"]).sum(dim=1)
    mask = inputs.get("attention_mask")
    whole = torch.full_like(visual, inputs["input_ids"].shape[1]) if mask is None else mask.sum(dim=1)
    return cost_of(config, entering, (whole - visual).tolist(), pictures=grids_of(config, inputs), logits=logits,
                   dtype=dtype)  # fmt: skip


def visual_tokens(config: Any, input_ids: Tensor) -> Tensor:
    """(B, L) ids -> (B, L) bool: places of visual tokens."""
    ids = [getattr(config, name, None) for name in ("image_token_id", "video_token_id", "image_token_index")]
    return torch.isin(input_ids, torch.tensor([i for i in ids if isinstance(i, int)], device=input_ids.device))


def layer_macs(shape: DecoderShape, n: int, cached: int = 0) -> int:
    """Multiply-adds of one decoder layer on n tokens that see `cached` earlier ones and, in full, each other."""
    D, m = shape.hidden_size, shape.intermediate_size
    linear = 2 * D * shape.query_width + 2 * D * shape.kv_width + shape.ffn_matrices * D * m
    return n * linear + 2 * n * (n + cached) * shape.query_width


def decode_macs(config: Any, lengths: Sequence[int], step: int = 1) -> int:
    """Multiply-adds of the step-th new token. lengths: (layers,) keys that each layer holds after the prefill."""
    shape = decoder_shape(config)
    layers = sum(layer_macs(shape, 1, int(n) + step - 1) for n in lengths)
    return layers + shape.hidden_size * shape.vocab_size


# ------------------------------------------------------------------------------------------------ keys and values
def kv_bytes(config: Any, lengths: Sequence[int], dtype: str | torch.dtype = "bfloat16") -> int:
    """Bytes of keys and values. lengths: (layers,) tokens each layer holds; config: a model's or a DecoderShape."""
    shape = config if isinstance(config, DecoderShape) else decoder_shape(config)
    kind = dtype if isinstance(dtype, torch.dtype) else getattr(torch, dtype)
    return 2 * shape.kv_width * kind.itemsize * sum(int(n) for n in lengths)


def cache_bytes(cache: Any) -> int:
    """Bytes of the keys and values that a Hugging Face cache holds, padding included."""
    held = (part for layer in cache.layers for part in (layer.keys, layer.values))
    return sum(part.numel() * part.element_size() for part in held if part is not None)


def samples(entering: Any) -> list[list[int]]:
    rows = entering.tolist() if hasattr(entering, "tolist") else [*entering]
    return rows if rows and isinstance(rows[0], list | tuple) else [rows]
