"""Losses: arithmetic on tensors. They know no model, no device and no process group; the caller gathers what is spread.

B batch, E shared space, N patches, V vocabulary, M masked positions.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORE = -100  # label of a position that carries no loss (PyTorch's own default)


def itc_loss(
    image_embeds: Tensor,
    text_embeds: Tensor,
    logit_scale: Tensor | float,
    same: Tensor | None = None,
    kept: Tensor | None = None,
) -> Tensor:
    """Symmetric InfoNCE: each picture finds its text in the batch, each text its picture (CLIP, Radford et al. 2021).

    image_embeds, text_embeds: (B, E), L2-normalised; logit_scale: > 0; same: (B, B) bool, True where text j also
    belongs to picture i: off the diagonal such pairs are left out of the denominator, since they are no negatives.
    kept: (B,) bool, False for samples that are negatives of others only. Raises ValueError when the batches differ.
    """
    logits = similarity(image_embeds, text_embeds, logit_scale, same)
    labels = torch.arange(len(logits), device=logits.device)
    if kept is not None:
        labels = torch.where(kept, labels, IGNORE)
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


def similarity(
    image_embeds: Tensor, text_embeds: Tensor, logit_scale: Tensor | float, same: Tensor | None = None
) -> Tensor:
    """Scaled cosine logits (B, B), float32, picture by row; -inf off the diagonal where `same`."""
    if image_embeds.shape != text_embeds.shape:
        raise ValueError(f"{tuple(image_embeds.shape)} pictures and {tuple(text_embeds.shape)} texts don't pair up")
    # Autocast would round cosines to bfloat16: steps of 0.004, wider than the two sides of a minimal pair lie apart.
    with torch.autocast(image_embeds.device.type, enabled=False):
        logits = logit_scale * (image_embeds.float() @ text_embeds.float().T)
    if same is not None:
        others = same & ~torch.eye(len(logits), dtype=torch.bool, device=logits.device)
        logits = logits.masked_fill(others, float("-inf"))
    return logits


def fits_best(logits: Tensor, same: Tensor, share: float) -> Tensor:
    """Which samples to keep when a share of the captions may be wrong: (B,) bool, False for round(share * B) of them.

    Left out are those with the largest contrast of their own picture and text. Wrong pairs are learned last, so once
    the easy is learned they have the largest loss (Co-teaching, Han et al. 2018; loss truncation, Kang and Hashimoto
    2020). logits: (B, B) pictures by texts; same: as in `itc_loss`; 0 <= share < 1.
    """
    logits = logits.detach().float()
    logits = logits.masked_fill(same & ~torch.eye(len(logits), dtype=torch.bool, device=logits.device), float("-inf"))
    own = torch.arange(len(logits), device=logits.device)
    losses = F.cross_entropy(logits, own, reduction="none") + F.cross_entropy(logits.T, own, reduction="none")
    kept = torch.ones_like(own, dtype=torch.bool)
    kept[losses.topk(round(share * len(own))).indices] = False
    return kept


def hard_negatives(
    logits: Tensor, same: Tensor, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """One wrong text for each picture, one wrong picture for each text, drawn by softmax of the logits (ALBEF, VLMo).

    logits: (B, B) pictures by texts; same: (B, B) bool, True where the two belong together (the diagonal is added).
    Returns negative_text (B,), negative_image (B,) and valid (B,): False where a sample has no wrong partner in the
    batch. Belonging pairs get -inf before the softmax, so a saturated row cannot fail, nor can a true pair be drawn.
    """
    belongs = same | torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    valid = ~belongs.all(dim=1) & ~belongs.all(dim=0)
    drawn = []
    for scores, mask in ((logits, belongs), (logits.T, belongs.T)):
        scores = (
            scores.detach().float().nan_to_num(nan=0.0, posinf=1e4)
        )  # a NaN is the loss's to report, not the draw's
        scores = scores.masked_fill(mask, float("-inf"))
        scores = torch.where(
            mask.all(dim=1, keepdim=True), torch.zeros_like(scores), scores
        )  # any draw will do: invalid anyway
        drawn.append(torch.multinomial(scores.softmax(dim=1), 1, generator=generator).squeeze(1))
    return drawn[0], drawn[1], valid


def pair_loss(
    image_embeds: Tensor, text_embeds: Tensor, logit_scale: Tensor | float, partner: Tensor, same: Tensor | None = None
) -> Tensor:
    """Contrast within minimal pairs: each picture between its own text and its partner's, each text likewise.

    Cross-entropy over two, so log 2 at chance. In `itc_loss` the partner is one negative among many that are told
    apart more easily, and a model can lower that loss for a long time without ever looking at what differs.
    partner: (B,) index of the other picture of the pair, -1 for none; same: as in `itc_loss`, such pairs are left out;
    the rest as there. 0 when the batch holds no pair.
    """
    one = torch.nonzero(partner >= 0)[:, 0]
    if same is not None:
        one = one[~same[one, partner[one]]]
    if len(one) == 0:
        return image_embeds.sum() * 0.0
    image, text, other = image_embeds[one].float(), text_embeds[one].float(), partner[one]
    right = (image * text).sum(dim=-1)
    wrong_text = (image * text_embeds.index_select(0, other).float()).sum(dim=-1)
    wrong_image = (image_embeds.index_select(0, other).float() * text).sum(dim=-1)
    losses = F.softplus(logit_scale * (wrong_text - right)) + F.softplus(logit_scale * (wrong_image - right))
    return losses.mean() / 2


def itm_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Image-text matching: logits (n, 2) against 1 = belongs, 0 = drawn wrong; IGNORE where nothing could be drawn."""
    return F.cross_entropy(logits.float(), labels, ignore_index=IGNORE)


def match_pair_loss(own: Tensor, crossed: Tensor, partner: Tensor) -> Tensor:
    """`itm_loss` within minimal pairs: each picture prefers its own text to its partner's, each text its own picture.

    own, crossed: (n, 2) matching logits of picture i with its own text and with its partner's; partner: (n,) index of
    the other picture of the pair, -1 for none. Cross-entropy over two, so log 2 at chance. `itm_loss` also has to learn
    where "yes" begins, which hardly differs between the two sides of a pair; here that level cancels. 0 when there is
    no pair.
    """
    one = torch.nonzero(partner >= 0)[:, 0]
    if len(one) == 0:
        return own.sum() * 0.0
    right, wrong = (logits.float()[:, 1] - logits.float()[:, 0] for logits in (own, crossed))
    texts = F.softplus(wrong[one] - right[one])
    pictures = F.softplus(wrong.index_select(0, partner[one]) - right[one])
    return (texts.mean() + pictures.mean()) / 2


def match_edit_loss(own: Tensor, edited: Tensor) -> Tensor:
    """Each picture prefers its text to the text with one word made wrong: cross-entropy over two, log 2 at chance.

    own, edited: (n, 2) matching logits. Only their difference counts, as in `match_pair_loss`.
    """
    right, wrong = (logits.float()[:, 1] - logits.float()[:, 0] for logits in (own, edited))
    return F.softplus(wrong - right).mean()


def mlm_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Masked language modelling over masked positions: logits (M, V), labels (M,). 0 when no word is masked."""
    if len(labels) == 0:
        return logits.sum() * 0.0
    return F.cross_entropy(logits.float(), labels)


def mim_loss(predictions: Tensor, targets: Tensor, patch_mask: Tensor) -> Tensor:
    """Masked image modelling on pixels: mean squared error over hidden patches (MAE, He et al. 2022; SimMIM, 2022).

    predictions, targets: (B, N, p * p * 3); patch_mask: (B, N) bool, True = hidden from the model.
    """
    error = (predictions.float() - targets.float()).square().mean(dim=-1)  # (B, N)
    return (error * patch_mask).sum() / patch_mask.sum().clamp(min=1)


def patch_pixels(pixel_values: Tensor, patch_size: int, normalize: bool = True) -> Tensor:
    """The pixels of each patch as MIM's target: (B, 3, h, w) -> (B, N, p * p * 3), raster order.

    normalize: each patch to zero mean and unit variance, which MAE found to give better features; a floor on the
    variance keeps flat patches from turning into noise.
    """
    B, C, height, width = pixel_values.shape
    p = patch_size
    x = pixel_values.float().reshape(B, C, height // p, p, width // p, p)
    x = x.permute(0, 2, 4, 3, 5, 1).reshape(B, (height // p) * (width // p), p * p * C)
    if normalize:
        x = (x - x.mean(dim=-1, keepdim=True)) / (x.var(dim=-1, keepdim=True) + 1e-2).sqrt()
    return x


def belongs_together(image_keys: list[str], texts: list[tuple[int, ...]], device: torch.device | None = None) -> Tensor:
    """(B, B) bool: same picture, or word for word the same text. Two captions of one picture are no negatives."""
    images = {key: i for i, key in enumerate(dict.fromkeys(image_keys))}
    words = {ids: i for i, ids in enumerate(dict.fromkeys(texts))}
    a = torch.tensor([images[key] for key in image_keys], device=device)
    b = torch.tensor([words[ids] for ids in texts], device=device)
    return (a[:, None] == a[None]) | (b[:, None] == b[None])
