"""The published token reducers on a plain Llama, slowly and word by word: what omma's fast ones must agree with.

One sample, one picture, float64. Every layer is written out and makes its whole (H, L, L) attention; tokens are rows
of a matrix that is gathered anew at each stage. Nothing of omma is used, and of transformers the names of the weights.
SparseVLM: Zhang et al. 2025 with the tables of the released code (USE_VERSION 1_0 and 2_0); FastV: Chen et al. 2024;
PyramidDrop: Xing et al. 2025; DivPrune: Alvar et al. 2025.
H heads, L tokens, D width, d head size, V visual tokens, T text tokens after the picture.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from formula import chirp
from torch import Tensor

EPS, ROPE_BASE = 1e-5, 1e9  # so large a base that the gravity term stays positive in heads as narrow as these
LAYERS, HEADS, KV_HEADS, WIDTH, HEAD, FFN, VOCAB = 18, 16, 16, 128, 8, 176, 64
SIZES: dict[str, Any] = {"vocab_size": VOCAB, "hidden_size": WIDTH, "intermediate_size": FFN, "rms_norm_eps": EPS,
                         "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "head_dim": HEAD,
                         "pad_token_id": 0}  # fmt: skip
RETAINED = {"1_0": {2: 66, 6: 30, 15: 17}, "2_0": {2: 66, 6: 34, 15: 20}}  # the published tables for "64"


def llama_weights(kv_heads: int = KV_HEADS) -> dict[str, Tensor]:
    """A causal Llama's state dict, each weight a chirp of its name; large enough ones for attention to have peaks."""
    kv = kv_heads * HEAD
    shapes = {"self_attn.q_proj": (WIDTH, WIDTH), "self_attn.k_proj": (kv, WIDTH), "self_attn.v_proj": (kv, WIDTH),
              "self_attn.o_proj": (WIDTH, WIDTH), "mlp.gate_proj": (FFN, WIDTH), "mlp.up_proj": (FFN, WIDTH),
              "mlp.down_proj": (WIDTH, FFN)}  # fmt: skip
    out = {"model.embed_tokens.weight": 0.5 * chirp("embed", VOCAB * WIDTH).view(VOCAB, WIDTH),
           "model.norm.weight": 1 + 0.2 * chirp("norm", WIDTH),
           "lm_head.weight": 0.1 * chirp("head", VOCAB * WIDTH).view(VOCAB, WIDTH)}  # fmt: skip
    for i in range(LAYERS):
        for part, (rows, columns) in shapes.items():
            name = f"model.layers.{i}.{part}.weight"
            spread = 0.17 if part in ("self_attn.q_proj", "self_attn.k_proj") else 0.12
            out[name] = spread * chirp(name, rows * columns).view(rows, columns)
        for part in ("input_layernorm", "post_attention_layernorm"):
            name = f"model.layers.{i}.{part}.weight"
            out[name] = 1 + 0.2 * chirp(name, WIDTH)
    return out


def visual_embeds(name: str, count: int) -> Tensor:
    """(V, D): what the projector is made to say; a few directions with more in common than the rest, as in pictures."""
    own, shared = chirp(name, count * WIDTH).view(count, WIDTH), chirp(f"{name} shared", 7 * WIDTH).view(7, WIDTH)
    return 0.4 * own + 0.3 * shared[torch.arange(count) // 5 % 7]


def text_ids(length: int, first: int = 3) -> list[int]:
    return [1 + (first + 11 * i + i * i) % (VOCAB - 2) for i in range(length)]  # 0 pads, VOCAB - 1 is the picture's


CASES: dict[str, tuple[list[int], Tensor, list[int]]] = {  # ids before the picture, what it projects to, ids after
    "picture": (text_ids(9, first=5), visual_embeds("picture", 120), text_ids(24)),
    "larger": (text_ids(4, first=8), visual_embeds("larger", 240), text_ids(17, first=9)),
}
STEPS = (7, 31, 12)  # tokens that are fed after the prompt


def summary(hidden: Tensor) -> dict[str, Any]:
    """(L, D) as one number a row, along a fixed direction of the width, and its norm: enough to see any difference."""
    return {"along": (hidden.double() @ chirp("along", WIDTH)).tolist(), "norm": float(hidden.norm())}


@dataclass
class Tokens:
    """A sequence on its way through the layers: rows [before | visual, made ones last | after]."""

    hidden: Tensor  # (L, D)
    positions: Tensor  # (L,) for RoPE
    origin: list[int]  # of the visual rows: number in the picture, -1 for a merged one
    start: int

    @property
    def end(self) -> int:
        return self.start + len(self.origin)


@dataclass
class Run:
    """kept[l], visual[l]: original indices and number of visual tokens after layer l, where something was dropped."""

    compact: bool
    length: int  # of the prompt, with all its visual tokens
    hidden: Tensor = field(default_factory=lambda: torch.empty(0))  # (L', D) after the last norm
    logits: Tensor = field(default_factory=lambda: torch.empty(0))
    kept: dict[int, list[int]] = field(default_factory=dict)
    visual: dict[int, int] = field(default_factory=dict)
    raters: list[int] = field(default_factory=list)  # counted from the first token after the picture
    cache: list[tuple[Tensor, Tensor]] = field(default_factory=list)  # per layer keys, values (Hk, L_l, d)
    steps: int = 0

    @property
    def kv_lengths(self) -> list[int]:
        return [keys.shape[1] for keys, _ in self.cache]


class Llama:
    """The forward pass over a state dict (model.layers.i.self_attn.q_proj.weight, ...)."""

    def __init__(self, weights: dict[str, Tensor], dtype: torch.dtype = torch.float64):
        self.w = {name: value.to(dtype) for name, value in weights.items()}

    def norm(self, x: Tensor, name: str) -> Tensor:
        return x / torch.sqrt((x * x).mean(-1, keepdim=True) + EPS) * self.w[f"{name}.weight"]

    def rotated(self, x: Tensor, positions: Tensor) -> Tensor:
        """(H, L, d): coordinates k and k + d/2 turned by position * base^(-2k/d), float32 as published."""
        half = x.shape[-1] // 2
        rates = 1.0 / (ROPE_BASE ** (torch.arange(0, 2 * half, 2, dtype=torch.float32) / (2 * half)))
        angle = (positions[:, None].float() * rates).to(x.dtype)  # (L, d/2)
        a, b = x[..., :half], x[..., half:]
        return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], dim=-1)

    def queries_keys_values(self, i: int, hidden: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, name = self.norm(hidden, f"model.layers.{i}.input_layernorm"), f"model.layers.{i}.self_attn"
        heads = lambda part: (x @ self.w[f"{name}.{part}.weight"].T).unflatten(1, (-1, HEAD)).transpose(0, 1)
        return self.rotated(heads("q_proj"), positions), self.rotated(heads("k_proj"), positions), heads("v_proj")

    def probabilities(self, q: Tensor, k: Tensor) -> Tensor:
        """(H, Q, L) softmax of q k^T / sqrt(d); the last query stands at the last key."""
        k = k.repeat_interleave(len(q) // len(k), dim=0)
        logits = q @ k.transpose(1, 2) / math.sqrt(HEAD)
        queries, keys = logits.shape[1:]
        later = torch.arange(keys)[None] > torch.arange(keys - queries, keys)[:, None]
        return logits.masked_fill(later, -math.inf).softmax(dim=-1)

    def layer(self, i: int, hidden: Tensor, positions: Tensor, past: tuple[Tensor, Tensor] | None = None):
        """-> hidden (Q, D), keys and values with the past (Hk, L, d), probabilities (H, Q, L)."""
        q, k, v = self.queries_keys_values(i, hidden, positions)
        if past is not None:
            k, v = torch.cat([past[0], k], dim=1), torch.cat([past[1], v], dim=1)
        p = self.probabilities(q, k)
        mixed = (p @ v.repeat_interleave(len(q) // len(v), dim=0)).transpose(0, 1).flatten(1)
        name = f"model.layers.{i}"
        hidden = hidden + mixed @ self.w[f"{name}.self_attn.o_proj.weight"].T
        x = self.norm(hidden, f"{name}.post_attention_layernorm")
        gate, up = x @ self.w[f"{name}.mlp.gate_proj.weight"].T, x @ self.w[f"{name}.mlp.up_proj.weight"].T
        return hidden + (gate * gate.sigmoid() * up) @ self.w[f"{name}.mlp.down_proj.weight"].T, (k, v), p

    def embeds(self, before: list[int], visual: Tensor, after: list[int]) -> Tensor:
        table = self.w["model.embed_tokens.weight"]
        return torch.cat([table[before], visual.to(table), table[after]])

    def prefill(self, before: list[int], visual: Tensor, after: list[int], compact: bool, reduce: "Reducer") -> Run:
        """reduce(layer, tokens, that layer's probabilities) -> tokens of the next layer; -1: before the first layer."""
        hidden = self.embeds(before, visual, after)
        run = Run(compact, len(hidden))
        tokens = Tokens(hidden, torch.arange(len(hidden)), list(range(len(visual))), len(before))
        p = torch.empty(0)
        for i in range(-1, LAYERS):
            if i >= 0:
                tokens.hidden, kv, p = self.layer(i, tokens.hidden, tokens.positions)
                run.cache.append(kv)
            held = len(tokens.origin)
            tokens = reduce(i, tokens, p)
            if len(tokens.origin) < held:
                run.kept[i], run.visual[i] = [o for o in tokens.origin if o >= 0], len(tokens.origin)
        self.read(run, tokens.hidden)
        return run

    def read(self, run: Run, hidden: Tensor) -> None:
        run.hidden = self.norm(hidden, "model.norm")
        run.logits = run.hidden @ self.w["lm_head.weight"].T

    def step(self, run: Run, token: int) -> None:
        """One more token. Compact: it stands at each layer where that layer's keys end; else where the prompt ended."""
        hidden = self.w["model.embed_tokens.weight"][[token]]
        for i in range(LAYERS):
            at = run.cache[i][0].shape[1] if run.compact else run.length + run.steps
            hidden, run.cache[i], _ = self.layer(i, hidden, torch.tensor([at]), run.cache[i])
        run.steps += 1
        self.read(run, hidden)


Reducer = Callable[[int, Tokens, Tensor], Tokens]


def largest(scores: Tensor, n: int) -> list[int]:
    """Indices of the n largest, largest first; of equal ones the first."""
    values = scores.tolist()
    return sorted(range(len(values)), key=lambda v: (-values[v], v))[:n]


def gathered(tokens: Tokens, keep: list[int], made: Tensor, compact: bool) -> Tokens:
    """The kept visual tokens in their order, then the made ones, between the text before and the text after."""
    rows = [*range(tokens.start), *(tokens.start + v for v in sorted(keep))]
    after = list(range(tokens.end, len(tokens.hidden)))
    hidden = torch.cat([tokens.hidden[rows], made, tokens.hidden[after]])
    assert compact or not len(made), "a merged token has no original position"
    positions = torch.arange(len(hidden)) if compact else tokens.positions[rows + after]
    return Tokens(hidden, positions, [tokens.origin[v] for v in sorted(keep)] + [-1] * len(made), tokens.start)


# ---- SparseVLM
def text_raters(visual: Tensor, text: Tensor) -> list[int]:
    """Text tokens that take a larger share of the visual tokens' softmax over the text than the mean of the shares."""
    share = (visual @ text.T).softmax(dim=1).mean(dim=0)  # (T,), sums to 1
    return [t for t in range(len(text)) if share[t] > share.mean()]


def gravity(distance: Tensor) -> Tensor:
    """<R_i 1, R_j 1> / sqrt(d) = 2 / sqrt(d) * sum over k of cos((i - j) base^(-2k/d)), by distance i - j."""
    total = torch.zeros(distance.shape, dtype=torch.float64)
    for k in range(HEAD // 2):
        total += torch.cos(distance.double() * ROPE_BASE ** (-2 * k / HEAD))
    return 2 / math.sqrt(HEAD) * total


def significance(tokens: Tokens, p: Tensor, raters: list[int], version: str, heads: int = 14) -> Tensor:
    """(V,) mean over heads and raters of attention to a visual token; 2_0 divides by gravity and picks heads first."""
    rows = [tokens.end + t for t in raters]
    to_visual = p[:, rows, tokens.start : tokens.end]  # (H, R, V)
    if version == "2_0":
        at = tokens.positions
        to_visual = to_visual / gravity(at[rows][:, None] - at[tokens.start : tokens.end][None]).to(to_visual)
        to_visual = to_visual[largest(to_visual.sum(dim=(1, 2)), heads)]
    return to_visual.mean(dim=0).mean(dim=0)


def density_peaks_merge(x: Tensor, clusters: int, noise: Tensor) -> Tensor:
    """(R, D) -> (C, D) means of the clusters round the C points that are dense and far from denser ones.

    noise: (R,) in 0..1, in place of the published code's random numbers. Two points that are each other's nearest are
    exactly as dense with C = 2, and only the noise decides which of them is a centre.
    """
    n, width = x.shape
    d = (x[:, None] - x[None]).pow(2).sum(-1).sqrt() / math.sqrt(width)
    density = torch.exp(-d.sort(dim=1).values[:, :clusters].pow(2).mean(dim=1)) + 1e-6 * noise
    apart = torch.empty_like(density)
    for i in range(n):
        denser = d[i][density > density[i]]
        apart[i] = denser.min() if len(denser) else d.max()
    centres = largest(density * apart, clusters)
    members: list[list[int]] = [[c] for c in centres]
    for i in range(n):
        if i not in centres:
            members[min(range(clusters), key=lambda c: float(d[i, centres[c]]))].append(i)
    return torch.stack([x[rows].sum(dim=0) / (len(rows) + 1e-6) for rows in members])


def sparsevlm(llama: Llama, before: list[int], visual: Tensor, after: list[int], version: str, heads: int = 14) -> Run:
    """version "1_0": recycling, compact positions; "2_0": gravity, 14 heads, nothing recycled, original positions."""
    table = RETAINED[version]
    embeds = llama.embeds(before, visual, after)
    end = len(before) + len(visual)
    raters = text_raters(embeds[len(before) : end], embeds[end:])

    def reduce(i: int, tokens: Tokens, p: Tensor) -> Tokens:
        if i not in table:
            return tokens
        scores = significance(tokens, p, raters, version, heads)
        keep = largest(scores, min(table[i], len(scores) - 1))
        if version == "2_0":
            return gathered(tokens, keep, tokens.hidden[:0], compact=False)
        deleted = [v for v in largest(scores, len(scores)) if v not in keep]  # most significant first
        recycled = deleted[: int(0.3 * len(deleted)) + 1]
        x = tokens.hidden[[tokens.start + v for v in recycled]]
        falling = 1 - torch.arange(len(x)).to(x) / len(x)
        made = density_peaks_merge(x, int(len(recycled) / 10) + 1, falling)
        return gathered(tokens, keep, made, compact=True)

    run = llama.prefill(before, visual, after, version == "1_0", reduce)
    run.raters = raters
    return run


# ---- the others
def fastv(llama: Llama, before: list[int], visual: Tensor, after: list[int], layer: int, keep: int) -> Run:
    """Before `layer`: what the last token looks at in the layer before; original positions."""

    def reduce(i: int, tokens: Tokens, p: Tensor) -> Tokens:
        if i != layer - 1:
            return tokens
        scores = p[:, -1, tokens.start : tokens.end].mean(dim=0)
        return gathered(tokens, largest(scores, keep), tokens.hidden[:0], compact=False)

    return llama.prefill(before, visual, after, False, reduce)


def pyramiddrop(llama: Llama, before: list[int], visual: Tensor, after: list[int], stages: dict[int, int]) -> Run:
    """stages: layer -> tokens that enter it. The last token looks with that layer's own norm, queries and keys."""

    def reduce(i: int, tokens: Tokens, p: Tensor) -> Tokens:
        if i + 1 not in stages:
            return tokens
        q, k, _ = llama.queries_keys_values(i + 1, tokens.hidden, tokens.positions)
        scores = llama.probabilities(q, k)[:, -1, tokens.start : tokens.end].mean(dim=0)
        return gathered(tokens, largest(scores, stages[i + 1]), tokens.hidden[:0], compact=True)

    return llama.prefill(before, visual, after, True, reduce)


def divprune(llama: Llama, before: list[int], visual: Tensor, after: list[int], keep: int) -> Run:
    """Greedy max-min cosine distance of projected tokens; first the one whose nearest is farthest."""
    unit = visual / visual.norm(dim=1, keepdim=True)
    distance = 1 - unit @ unit.T
    nearest = distance.sort(dim=0).values[1]  # the smallest is a token's own
    chosen = largest(nearest, 1)
    while len(chosen) < keep:
        to_chosen = distance[:, chosen].min(dim=1).values
        to_chosen[chosen] = -math.inf
        chosen.append(largest(to_chosen, 1)[0])

    def reduce(i: int, tokens: Tokens, p: Tensor) -> Tokens:
        return gathered(tokens, chosen, tokens.hidden[:0], compact=True) if i < 0 else tokens

    return llama.prefill(before, visual, after, True, reduce)


def dense(llama: Llama, before: list[int], visual: Tensor, after: list[int]) -> Run:
    return llama.prefill(before, visual, after, False, lambda i, tokens, p: tokens)


METHODS: dict[str, Callable[..., Run]] = {
    "sparsevlm-v1": functools.partial(sparsevlm, version="1_0"),
    "sparsevlm-v2": functools.partial(sparsevlm, version="2_0"),
    "fastv": functools.partial(fastv, layer=2, keep=30),
    "pyramiddrop": functools.partial(pyramiddrop, stages={4: 60, 9: 30, 13: 15}),
    "divprune": functools.partial(divprune, keep=30),
    "dense": dense,
}


# ---- made once for all tests
@functools.cache
def the_llama(kv_heads: int = KV_HEADS) -> Llama:
    return Llama(llama_weights(kv_heads))


@dataclass(frozen=True)
class Said:
    """What a method gives on a case: states and logits of the prompt and of each of STEPS; the rest of the prompt."""

    kept: dict[int, list[int]]
    visual: dict[int, int]
    raters: list[int]
    kv_lengths: list[int]
    hidden: list[Tensor]
    logits: list[Tensor]


@functools.cache
def said(method: str, case: str, kv_heads: int = KV_HEADS) -> Said:
    llama = the_llama(kv_heads)
    run = METHODS[method](llama, *CASES[case])
    lengths, hidden, logits = run.kv_lengths, [run.hidden], [run.logits]
    for token in STEPS:
        llama.step(run, token)
        hidden.append(run.hidden)
        logits.append(run.logits)
    return Said(run.kept, run.visual, run.raters, lengths, hidden, logits)
