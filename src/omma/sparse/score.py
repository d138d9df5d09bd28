"""How much each visual token matters, as arithmetic on attention rows and embeddings: no state, no model.

B samples, V visual tokens, T text tokens, R raters (text tokens whose attention is read), H heads, D width, d width of
a head. Rows of unequal length stand in one batch behind a mask (True: a token), None: all are tokens. Scores are
float32. Equal scores go by place: the token that stands first wins, on every device.
"""

import math

import torch
from torch import Tensor


def ranks(scores: Tensor, valid: Tensor | None = None) -> Tensor:
    """Place of each token in its row's falling order, 0 for the best. scores, valid: (B, V) -> (B, V) long.

    Tokens that aren't valid come last. Equal scores: the first token is better.
    """
    scores = scores.float()
    if valid is not None:
        scores = scores.masked_fill(~valid, -math.inf)
        # A valid token may score -inf itself, and still stands before those that aren't valid.
        order = torch.sort(scores, dim=1, descending=True, stable=True).indices
        late = torch.sort(valid.gather(1, order).byte(), dim=1, descending=True, stable=True).indices
        order = order.gather(1, late)
    else:
        order = torch.sort(scores, dim=1, descending=True, stable=True).indices
    place = torch.arange(scores.shape[1], device=scores.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, place)


def top(scores: Tensor, k: int | Tensor, valid: Tensor | None = None) -> Tensor:
    """The k tokens of each row with the highest scores, as a mask. scores, valid: (B, V); k: one number or (B,).

    Exactly k are True, or all valid tokens where a row has fewer.
    """
    chosen = ranks(scores, valid) < per_row(k, scores)
    return chosen if valid is None else chosen & valid


def evenly(k: int | Tensor, valid: Tensor) -> Tensor:
    """k tokens of each row at equal distances, the middles of k equal parts. valid: (B, V) -> (B, V) bool."""
    place, count = valid.cumsum(1) - 1, valid.sum(1, keepdim=True)
    k = torch.minimum(per_row(k, valid), count)
    # Token p is the middle of part j when floor((2j + 1) n / 2k) = p: so a step of the counter from p to p + 1.
    before = torch.div(2 * place * k + count - 1, 2 * count.clamp(min=1), rounding_mode="floor")
    after = torch.div(2 * (place + 1) * k + count - 1, 2 * count.clamp(min=1), rounding_mode="floor")
    return valid & (after > before)


def per_row(k: int | Tensor, like: Tensor) -> Tensor:
    """(B, 1) long from one number or one a row."""
    if isinstance(k, Tensor) and k.ndim == 1:
        return k.to(like.device).long()[:, None]
    return torch.full((len(like), 1), int(k), dtype=torch.long, device=like.device)


def all_valid(x: Tensor, valid: Tensor | None) -> Tensor:
    """`valid`, or a mask (B, V) of True for x of shape (B, V, ...)."""
    return torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if valid is None else valid


def cosine(a: Tensor, b: Tensor | None = None) -> Tensor:
    """Cosine of each pair of rows, float32. a: (B, N, D), b: (B, M, D), a itself by default -> (B, N, M)."""
    a = torch.nn.functional.normalize(a.float(), dim=-1)
    b = a if b is None else torch.nn.functional.normalize(b.float(), dim=-1)
    return a @ b.transpose(1, 2)


# --- which text tokens rate, and what their attention says (SparseVLM, Zhang et al. 2025, arXiv 2410.04417)


def text_raters(
    visual: Tensor, text: Tensor, visual_ok: Tensor | None = None, text_ok: Tensor | None = None, *, tie: float = 1e-6
) -> Tensor:
    """Text tokens to which the picture's tokens point more than to the average one, (B, T) bool (SparseVLM, eq. 4-5).

    visual: (B, V, D), text: (B, T, D), as they enter decoder layer 0; masks (B, V) and (B, T). With M = softmax over
    the text of visual @ text^T (a plain product, here always in float32, where float16 overflows) and r its mean over
    the visual tokens, t is a rater where r_t > mean(r) = 1 / T; strictly, as published in code (the paper prints >=).
    `tie`: by how much of 1 / T, so that equal texts aren't parted by rounding. Where none is above the mean, as with a
    single text token, all text rates; a row without text has no rater.
    """
    visual_ok, text_ok = all_valid(visual, visual_ok), all_valid(text, text_ok)
    logits = visual.float() @ text.float().transpose(1, 2)  # (B, V, T)
    # A row of text_ok that is False throughout would be 0 / 0; its raters are masked below.
    readable = text_ok | ~text_ok.any(1, keepdim=True)
    share = logits.masked_fill(~readable[:, None], -math.inf).softmax(-1)
    share = share.masked_fill(~visual_ok[:, :, None], 0).sum(1)  # (B, T)
    mean_share = share / visual_ok.sum(1, keepdim=True).clamp(min=1)
    above = text_ok & (mean_share * text_ok.sum(1, keepdim=True) > 1 + tie)
    return torch.where(above.any(1, keepdim=True), above, text_ok)


def rater_attention(rows: Tensor, rater_ok: Tensor | None = None, seen: Tensor | None = None) -> Tensor:
    """Attention that each visual token gets from the raters, mean over heads and raters, (B, V) (SparseVLM, eq. 2).

    rows: (B, H, R, V) softmaxed attention rows, or (B, R, V) after the mean over heads; rater_ok: (B, R); seen:
    (B, R, V) bool, which rater stands behind which token. A token's mean is over the raters that see it, so that under
    a causal mask a later picture isn't starved; for one picture before the text this is the published mean.
    """
    rows = (rows.float() if rows.ndim == 3 else rows.float().mean(1)).clone()
    counts = torch.ones_like(rows, dtype=torch.bool) if seen is None else seen
    if rater_ok is not None:
        counts = counts & rater_ok[:, :, None]
    return rows.masked_fill(~counts, 0).sum(1) / counts.sum(1).clamp(min=1)


def last_row(rows: Tensor) -> Tensor:
    """Attention from the last query, mean over heads, (B, V): the score of FastV (Chen et al. 2024, arXiv 2403.06764).

    rows: (B, H, R, V) or (B, H, V). FastV's paper speaks of the average attention received; its code, and every number
    it gives, reads the last token's row. PyramidDrop's rank (Xing et al. 2025, arXiv 2410.17247) is the same mean, of
    the last instruction token in the layer to come.
    """
    return (rows[:, :, -1] if rows.ndim == 4 else rows).float().mean(1)


# --- SparseVLM v2: attention without RoPE's pull to the near, of half the heads


def gravity(distance: Tensor, inv_freq: Tensor, floor: float | None = 0.02) -> Tensor:
    """How much RoPE favours a key at this distance, whatever the content: (2 / sqrt d) sum_k cos(distance theta_k).

    distance: any shape; inv_freq: (d / 2,), theta. SparseVLM v2 divides attention by it. With base 1e4 and d = 128 it
    falls from 11.3 at distance 0 to 2.35 at 600 and is negative from 1707 on, where a division turns the ranking upside
    down: so it is kept at `floor` of its value at 0 and above, which changes nothing below distance 1478. None:
    unbounded, as published.
    """
    d = 2 * len(inv_freq)
    g = torch.cos(distance.float()[..., None] * inv_freq.float()).sum(-1) * 2 / math.sqrt(d)
    return g if floor is None else g.clamp(min=floor * math.sqrt(d))


def rotary_gravity(cos_rows: Tensor, sin_rows: Tensor, cos: Tensor, sin: Tensor, floor: float | None = 0.02) -> Tensor:
    """`gravity` read from the tables that the decoder rotates with, so for every kind of RoPE, several axes too.

    cos_rows, sin_rows: (B, R, d) of the queries; cos, sin: (B, V, d) of the keys; both halves of d alike, as
    transformers has them -> (B, R, V).
    """
    g = cos_rows.float() @ cos.float().transpose(1, 2) + sin_rows.float() @ sin.float().transpose(1, 2)
    # A scaled RoPE (YaRN) scales both tables; the value at distance 0 carries that scale.
    at_zero = (cos_rows.float().square() + sin_rows.float().square()).sum(-1, keepdim=True)
    g = g if floor is None else torch.maximum(g, floor * at_zero)
    return g / math.sqrt(cos.shape[-1])


def loudest_heads(
    rows: Tensor, count: int | None = None, rater_ok: Tensor | None = None, visual_ok: Tensor | None = None
) -> Tensor:
    """The heads that send most attention from the raters to the picture, (B, count) long, the loudest first.

    rows: (B, H, R, V). count: H // 2 by default; SparseVLM v2 has 14 in its code, whatever H is (half of Qwen2-VL-7B's
    28; LLaVA-1.5-7B has 32), and fails below.
    """
    rows, count = rows.float(), max(1, rows.shape[1] // 2) if count is None else count
    if not 1 <= count <= rows.shape[1]:
        raise ValueError(f"heads = {count}, but the layer has {rows.shape[1]}; heads=None takes half of them")
    if rater_ok is not None:
        rows = rows.masked_fill(~rater_ok[:, None, :, None], 0)
    if visual_ok is not None:
        rows = rows.masked_fill(~visual_ok[:, None, None, :], 0)
    return torch.sort(rows.sum((2, 3)), dim=1, descending=True, stable=True).indices[:, :count]


def head_rows(rows: Tensor, heads: Tensor) -> Tensor:
    """The rows of these heads. rows: (B, H, R, V), heads: (B, n) long -> (B, n, R, V)."""
    return rows.gather(1, heads[:, :, None, None].expand(-1, -1, *rows.shape[2:]))


def gravity_attention(
    rows: Tensor,
    g: Tensor,
    rater_ok: Tensor | None = None,
    seen: Tensor | None = None,
    visual_ok: Tensor | None = None,
    *,
    heads: int | None = None,
) -> Tensor:
    """SparseVLM v2's score (B, V): attention / gravity, mean over the quotient's loudest heads and over the raters.

    rows: (B, H, R, V) softmaxed rows, g: (B, R, V) from `gravity` or `rotary_gravity`; the rest as in `rater_attention`
    and `loudest_heads`.
    """
    corrected = rows.float() / g.float()[:, None]
    if seen is not None:
        corrected = corrected.masked_fill(~seen[:, None], 0)
    return rater_attention(head_rows(corrected, loudest_heads(corrected, heads, rater_ok, visual_ok)), rater_ok, seen)


# --- how many: the rank of the raters' attention


def rank_of(rows: Tensor, rater_ok: Tensor | None = None, valid: Tensor | None = None) -> Tensor:
    """Rank of each sample's rater-by-visual attention matrix, (B,) long. rows: (B, R, V), heads averaged.

    Singular values above max(R, V) eps of the largest, with the sample's own R and V. Softmax rows are independent
    as a rule, so that the rank is the number of raters: the paper's rule is in effect one of the question's length.
    """
    rater_ok = torch.ones(rows.shape[:2], dtype=torch.bool, device=rows.device) if rater_ok is None else rater_ok
    valid = torch.ones(rows.shape[::2], dtype=torch.bool, device=rows.device) if valid is None else valid
    inside = rater_ok[:, :, None] & valid[:, None]
    values = torch.linalg.svdvals(rows.float().masked_fill(~inside, 0))  # (B, min(R, V))
    longest = torch.maximum(rater_ok.sum(1), valid.sum(1))
    tolerance = values[:, :1] * longest[:, None] * torch.finfo(torch.float32).eps
    return (values > tolerance).sum(1)


def rank_deletions(rank: Tensor, tokens: Tensor, lam: float = 1.0) -> Tensor:
    """Tokens to delete after a layer, N = lambda (V - rank) rounded down, (B,) long (SparseVLM, eq. 7).

    rank, tokens: (B,). The paper applies it after every layer and gives no value for lambda.
    """
    return ((tokens - rank).clamp(min=0).double() * lam).floor().long().clamp(max=tokens.long())


def rank_kept(rank: Tensor, tokens: Tensor, scale: float, bias: float = 0.0) -> Tensor:
    """Tokens to keep by the rule of SparseVLM's first code: min(int(rank scale + bias), V - 1), (B,) long.

    (scale, bias) as published for LLaVA-1.5: (13.5, 0) for "192", (9, 6) for "128", (0.8, 0) for "64".
    """
    kept = (rank.double() * scale + bias).floor().long()
    return torch.minimum(kept.clamp(min=0), (tokens.long() - 1).clamp(min=0))
