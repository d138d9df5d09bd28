"""Losses: arithmetic on tensors. They know no model, no device and no process group; the caller gathers what is spread.

B batch, E shared space, N patches, V vocabulary, M masked positions.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORE = -100  # label of a position that carries no loss (PyTorch's own default)


def full_precision(x: Tensor) -> Tensor:
    """float32 at least: autocast's bfloat16 has steps of 0.004 near 1, and a loss adds many small things up."""
    return x if x.dtype == torch.float64 else x.float()


def itc_loss(
    image_embeds: Tensor,
    text_embeds: Tensor,
    logit_scale: Tensor | float,
    same: Tensor | None = None,
    kept: Tensor | None = None,
    against: tuple[Tensor, Tensor] | None = None,
    first: int = 0,
) -> Tensor:
    """Symmetric InfoNCE: each picture finds its text in the batch, each text its picture (CLIP, Radford et al. 2021).

    image_embeds, text_embeds: (b, E), L2-normalised; logit_scale: > 0; same: (b, B) bool, True where text j also
    belongs to picture i: but for picture i's own such pairs are left out of the denominator, since they are no
    negatives. kept: (b,) bool, False for samples that are negatives of others only. against: pictures and texts (B, E)
    of the whole batch, when those b are its rows from `first` on; None: they are all of it. Holds (b, B) logits; for
    batches of thousands there is `contrastive.info_nce`, which doesn't. Raises ValueError when the batches differ.
    """
    if image_embeds.shape != text_embeds.shape:
        raise ValueError(
            f"{tuple(image_embeds.shape)} pictures and {tuple(text_embeds.shape)} texts don't pair up; give as many "
            "texts as pictures"
        )
    all_images, all_texts = against or (image_embeds, text_embeds)
    labels = torch.arange(first, first + len(image_embeds), device=image_embeds.device)
    if kept is not None:
        labels = torch.where(kept, labels, IGNORE)
    to_texts = similarity(image_embeds, all_texts, logit_scale, same, first)
    to_images = to_texts.T if against is None else similarity(text_embeds, all_images, logit_scale, same, first)
    return (cross_entropy(to_texts, labels) + cross_entropy(to_images, labels)) / 2


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """The mean over labels that are not IGNORE; 0 when all are."""
    losses = F.cross_entropy(full_precision(logits), labels, ignore_index=IGNORE, reduction="sum")
    return losses / (labels != IGNORE).sum().clamp(min=1)


def similarity(
    embeds: Tensor, others: Tensor, logit_scale: Tensor | float, same: Tensor | None = None, first: int = 0
) -> Tensor:
    """Scaled cosine logits (b, B), float32, of rows (b, E) with (B, E) of the other kind; -inf where `same` (b, B), but
    not where row i meets its own, first + i."""
    # Autocast would round cosines to bfloat16: steps of 0.004, wider than the two sides of a minimal pair lie apart.
    with torch.autocast(embeds.device.type, enabled=False):
        logits = logit_scale * (full_precision(embeds) @ full_precision(others).T)
    if same is not None:
        logits = logits.masked_fill(same & ~own_columns(same, first), float("-inf"))
    return logits


def fits_best(logits: Tensor, same: Tensor, share: float) -> Tensor:
    """Which samples to keep when a share of the captions may be wrong: (B,) bool, False for round(share * B) of them.

    Left out are those with the largest contrast of their own picture and text. Wrong pairs are learned last, so once
    the easy is learned they have the largest loss (Co-teaching, Han et al. 2018; loss truncation, Kang and Hashimoto
    2020). logits: (B, B) pictures by texts; same: as in `itc_loss`; 0 <= share < 1.
    """
    logits = full_precision(logits.detach()).masked_fill(same & ~own_columns(same), float("-inf"))
    own = torch.arange(len(logits), device=logits.device)
    losses = F.cross_entropy(logits, own, reduction="none") + F.cross_entropy(logits.T, own, reduction="none")
    kept = torch.ones_like(own, dtype=torch.bool)
    kept[losses.topk(round(share * len(own))).indices] = False
    return kept


def own_columns(same: Tensor, first: int = 0) -> Tensor:
    """(b, B) bool like `same`: True at column first + i of row i, where a row meets what it belongs to."""
    b, B = same.shape
    rows = torch.arange(first, first + b, device=same.device)
    return rows[:, None] == torch.arange(B, device=same.device)


def hard_negatives(
    to_texts: Tensor, to_images: Tensor, same: Tensor, uniform: Tensor, first: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """One wrong text for each picture, one wrong picture for each text, drawn by softmax of the logits (ALBEF, VLMo).

    to_texts, to_images: (b, B) logits of b pictures and of their texts, rows `first` on of a batch of B; same: (b, B)
    bool, symmetric over the whole batch, True where two belong together (each row's own is added); uniform: (2, b)
    float64 in [0, 1), the chance of each draw. Returns negative_text (b,), negative_image (b,), numbered through the
    batch, and valid (b,): False where a sample has no wrong partner in the batch. Belonging pairs get -inf before the
    softmax, so a saturated row cannot fail, nor can a true pair be drawn.
    """
    belongs = same | own_columns(same, first)
    none = belongs.all(dim=1)
    drawn = []
    for scores, chance in ((to_texts, uniform[0]), (to_images, uniform[1])):
        scores = scores.detach().double().nan_to_num(nan=0.0, posinf=1e4)  # a NaN is the loss's to report
        scores = scores.masked_fill(belongs, float("-inf"))
        scores = scores.masked_fill(none[:, None], 0.0)  # any draw will do: invalid anyway
        below = scores.softmax(dim=1).cumsum(dim=1)
        sought = torch.minimum(chance * below[:, -1], torch.nextafter(below[:, -1], torch.zeros_like(below[:, -1])))
        drawn.append(torch.searchsorted(below, sought[:, None], right=True).squeeze(1))
    return drawn[0], drawn[1], ~none


def paired(partner: Tensor, same: Tensor | None = None) -> Tensor:
    """Which rows have another picture of their pair; with `same`, only of pairs that do not belong together."""
    one = torch.nonzero(partner >= 0)[:, 0]
    return one if same is None else one[~same[one, partner[one]]]


def pair_loss(
    image_embeds: Tensor, text_embeds: Tensor, logit_scale: Tensor | float, partner: Tensor, same: Tensor | None = None
) -> Tensor:
    """Contrast within minimal pairs: each picture between its own text and its partner's, each text likewise.

    Cross-entropy over two, so log 2 at chance. In `itc_loss` the partner is one negative among many that are told
    apart more easily, and a model can lower that loss for a long time without ever looking at what differs.
    partner: (B,) index of the other picture of the pair, -1 for none; same: as in `itc_loss`, such pairs are left out;
    the rest as there. 0 when the batch holds no pair.
    """
    one = paired(partner, same)
    if len(one) == 0:
        return image_embeds.sum() * 0.0
    image_embeds, text_embeds, other = full_precision(image_embeds), full_precision(text_embeds), partner[one]
    image, text = image_embeds[one], text_embeds[one]
    right = (image * text).sum(dim=-1)
    wrong_text = (image * text_embeds.index_select(0, other)).sum(dim=-1)
    wrong_image = (image_embeds.index_select(0, other) * text).sum(dim=-1)
    losses = F.softplus(logit_scale * (wrong_text - right)) + F.softplus(logit_scale * (wrong_image - right))
    return losses.mean() / 2


def itm_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Image-text matching: logits (n, 2) against 1 = belongs, 0 = drawn wrong; IGNORE where nothing could be drawn."""
    return cross_entropy(logits, labels)


def match_pair_loss(own: Tensor, crossed: Tensor, partner: Tensor) -> Tensor:
    """`itm_loss` within minimal pairs: each picture prefers its own text to its partner's, each text its own picture.

    own, crossed: (n, 2) matching logits of picture i with its own text and with its partner's; partner: (n,) index of
    the other picture of the pair, -1 for none. Cross-entropy over two, so log 2 at chance. `itm_loss` also has to learn
    where "yes" begins, which hardly differs between the two sides of a pair; here that level cancels. 0 when there is
    no pair.
    """
    one = paired(partner)
    if len(one) == 0:
        return own.sum() * 0.0
    right, wrong = (full_precision(logits[:, 1]) - full_precision(logits[:, 0]) for logits in (own, crossed))
    texts = F.softplus(wrong[one] - right[one])
    pictures = F.softplus(wrong.index_select(0, partner[one]) - right[one])
    return (texts.mean() + pictures.mean()) / 2


def match_edit_loss(own: Tensor, edited: Tensor) -> Tensor:
    """Each picture prefers its text to the text with one word made wrong: cross-entropy over two, log 2 at chance.

    own, edited: (n, 2) matching logits. Only their difference counts, as in `match_pair_loss`.
    """
    right, wrong = (full_precision(logits[:, 1]) - full_precision(logits[:, 0]) for logits in (own, edited))
    return F.softplus(wrong - right).mean()


def mlm_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Masked language modelling over masked positions: logits (M, V), labels (M,). 0 when no word is masked."""
    return cross_entropy(logits, labels)


def mim_loss(predictions: Tensor, targets: Tensor, patch_mask: Tensor) -> Tensor:
    """Masked image modelling on pixels: mean squared error over hidden patches (MAE, He et al. 2022; SimMIM, 2022).

    predictions, targets: (B, N, p * p * 3); patch_mask: (B, N) bool, True = hidden from the model.
    """
    error = (full_precision(predictions) - full_precision(targets)).square().mean(dim=-1)  # (B, N)
    return (error * patch_mask).sum() / patch_mask.sum().clamp(min=1)


def patch_pixels(pixel_values: Tensor, patch_size: int, normalize: bool = True) -> Tensor:
    """The pixels of each patch as MIM's target: (B, 3, h, w) -> (B, N, p * p * 3), raster order.

    normalize: each patch to zero mean and unit variance, which MAE found to give better features; a floor on the
    variance keeps flat patches from turning into noise.
    """
    B, C, height, width = pixel_values.shape
    p = patch_size
    x = full_precision(pixel_values).reshape(B, C, height // p, p, width // p, p)
    x = x.permute(0, 2, 4, 3, 5, 1).reshape(B, (height // p) * (width // p), p * p * C)
    if normalize:
        x = (x - x.mean(dim=-1, keepdim=True)) / (x.var(dim=-1, keepdim=True) + 1e-2).sqrt()
    return x


def belongs_together(keys: Tensor, others: Tensor) -> Tensor:
    """(b, B) bool: same picture, or word for word the same text. Two captions of one picture are no negatives.

    keys: (b, 2), others: (B, 2), int64: of each sample a number that stands for its picture, and one for its text.
    """
    return (keys[:, None, 0] == others[:, 0]).logical_or_(keys[:, None, 1] == others[:, 1])
