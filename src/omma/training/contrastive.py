"""InfoNCE and SigLIP for batches of any size: logits are made and used up tile by tile, in both directions of autograd.

b rows of a batch of B on each process, E shared space, K negatives of a row. The B x B logits of a naive loss are what
limits its batch: three copies of them at B = 8192 take 800 MB. Here memory grows with B * E, as the inputs do
(Inf-CL, Cheng et al. 2024, does so with rings and kernels of its own).

Processes gather each other's texts, never pictures: one of them computes b x B logits for its own pictures, and what a
text's softmax is normalised by needs one number a text from each process. Texts get their gradients back by a
reduce-scatter. A ring, in which texts pass by one process at a time, would hold 2b texts instead of B, for B / b times
as many messages: at E = 768 a million gathered texts take 3 GB.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from omma.training.distributed import ALONE, World, reduce_rows
from omma.training.objectives import belongs_together, full_precision

# Rows and columns of a tile: on a CPU one that stays in its cache; on a GPU launching kernels takes longer than they do
# on small tiles.
TILE, GPU_TILE = 1024, 4096


def info_nce(
    image_embeds: Tensor,
    text_embeds: Tensor,
    logit_scale: Tensor | float,
    *,
    keys: Tensor | None = None,
    negatives: Tensor | None = None,
    negatives_mask: Tensor | None = None,
    tile: int | None = None,
    world: World = ALONE,
) -> Tensor:
    """`objectives.itc_loss` without its B x B matrix: each picture finds its text among all B, each text its picture
    (InfoNCE, van den Oord et al. 2018; CLIP, Radford et al. 2021).

    image_embeds, text_embeds: (b, E), L2-normalised, this process's rows; logit_scale: > 0, one number. keys: (b, 2) as
    in `belongs_together`; pairs that do belong together are left out of the denominators, but for a row's own.
    negatives: (b, K, E), L2-normalised texts that are wrong for picture i, further ones to tell its text from (VSE++,
    Faghri et al. 2018; NegCLIP, Yuksekgonul et al. 2023); negatives_mask: (b, K) bool, False where there is none. tile:
    rows and columns of the logits that are held at a time.

    The mean of the result over the processes is the loss of the whole batch, and its gradient, averaged over them,
    that of the whole batch; all processes must weigh it alike. Logits are float32 at least, also under autocast. Raises
    ValueError, on every process, when the processes hold unlike numbers of rows or texts don't pair up with pictures.
    """
    image, text, scale = checked(image_embeds, text_embeds, logit_scale, keys, world)
    further = logits_of(negatives, negatives_mask, image, scale)
    everyones = None if keys is None else without_singles(world.gather(keys.to(image.device)))
    return InfoNCE.apply(image, text, scale, further, everyones, tile, world)


def siglip(
    image_embeds: Tensor,
    text_embeds: Tensor,
    logit_scale: Tensor | float,
    logit_bias: Tensor | float,
    *,
    keys: Tensor | None = None,
    negatives: Tensor | None = None,
    negatives_mask: Tensor | None = None,
    tile: int | None = None,
    world: World = ALONE,
) -> Tensor:
    """Of each picture and each text by themselves: do they belong together? (SigLIP, Zhai et al. 2023)

    The sum over all pairs of -log sigmoid(z (logit_scale * cosine + logit_bias)), z = 1 for a row's own pair and -1 for
    others, divided by B. Arguments, processes and errors as in `info_nce`; pairs that `keys` name as belonging together
    count as neither, negatives are pairs of z = -1.
    """
    image, text, scale = checked(image_embeds, text_embeds, logit_scale, keys, world)
    bias = one_number(logit_bias, image)
    everyones = None if keys is None else without_singles(world.gather(keys.to(image.device)))
    loss = SigLIP.apply(image, text, scale, bias, everyones, tile, world, torch.is_grad_enabled())
    further = logits_of(negatives, negatives_mask, image, scale)
    return loss if further is None else loss - F.logsigmoid(-(further + bias)).sum() / len(image)


# ----------------------------------------------------------------------------------------------------- what both share
def checked(
    images: Tensor, texts: Tensor, logit_scale: Tensor | float, keys: Tensor | None, world: World
) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures, texts and scale in full precision. The counts are compared before anything else is sent: a gather of
    unlike sizes would end the processes without a word."""
    counts = world.each((len(images), len(texts), -1 if keys is None else len(keys)))
    for rank, (pictures, written, numbered) in enumerate(counts):
        where = f" on process {rank}" if world.size > 1 else ""
        if pictures != written or pictures == 0:
            raise ValueError(f"{pictures} pictures and {written} texts{where} don't pair up; give as many texts as "
                             "pictures, one at least")  # fmt: skip
        if numbered not in (-1, pictures):
            raise ValueError(f"{numbered} keys for {pictures} pictures{where}; give one row of keys for each, or None")
    rows, _, numbered = zip(*counts, strict=True)
    if len(set(rows)) > 1:
        raise ValueError(f"the processes hold {', '.join(map(str, rows))} rows of the batch; each must hold as many as "
                         "any other. Leave out the last rows of the data, which fill no batch")  # fmt: skip
    if len(set(numbered)) > 1:
        raise ValueError(f"process {numbered.index(-1)} has no keys, but others have; give them on all or on none")
    if images.dim() != 2 or images.shape != texts.shape:
        raise ValueError(f"pictures {tuple(images.shape)} and texts {tuple(texts.shape)} are not vectors of one space; "
                         "both must be (rows, width)")  # fmt: skip
    image = full_precision(images)
    return image, full_precision(texts), one_number(logit_scale, image)


def one_number(value: Tensor | float, like: Tensor) -> Tensor:
    """A scalar tensor in the precision of `like`; parameters are (1,), since FSDP can't shard a scalar."""
    return torch.as_tensor(value, dtype=like.dtype, device=like.device).reshape(())


def logits_of(negatives: Tensor | None, mask: Tensor | None, image: Tensor, scale: Tensor) -> Tensor | None:
    """(b, K) logits of each picture with its own negatives, -inf where there is none."""
    if negatives is None:
        return None
    b, E = image.shape
    if negatives.dim() != 3 or negatives.shape[::2] != (b, E):
        raise ValueError(f"negatives {tuple(negatives.shape)} don't fit {b} pictures of width {E}; they must be "
                         f"({b}, K, {E})")  # fmt: skip
    if mask is not None and mask.shape != negatives.shape[:2]:
        raise ValueError(f"negatives_mask {tuple(mask.shape)} doesn't fit negatives {tuple(negatives.shape)}; it must "
                         f"be {tuple(negatives.shape[:2])}")  # fmt: skip
    with torch.autocast(image.device.type, enabled=False):
        logits = scale * torch.bmm(full_precision(negatives), image[:, :, None]).squeeze(2)
    return logits if mask is None else logits.masked_fill(~mask.to(logits.device), float("-inf"))


def without_singles(keys: Tensor) -> Tensor | None:
    """The keys (B, 2), or None where no two are alike, as in most batches: then there are no pairs to look for."""
    ordered = keys.sort(dim=0).values
    return keys if bool((ordered[1:] == ordered[:-1]).any()) else None


def tiles(
    image: Tensor, texts: Tensor, scale: Tensor, keys: Tensor | None, tile: int | None, first: int
) -> Iterator[tuple[slice, slice, int, Tensor]]:
    """The logits (b, B) tile by tile: rows, columns, the diagonal on which rows meet their own texts, and the logits,
    -inf at other pairs that belong together. A tile lies where the one before it lay: that spares memory, and autocast
    rounds no product that is written to a given place.

    image (b, E) are the rows from `first` on of a batch whose texts (B, E) and keys (B, 2) are given.
    """
    b, B = len(image), len(texts)
    side = tile or (TILE if image.device.type == "cpu" else GPU_TILE)
    room = image.new_empty(min(side, b) * min(side, B))
    for i in range(0, b, side):
        rows = slice(i, min(i + side, b))
        scaled = image[rows] * scale
        for j in range(0, B, side):
            columns = slice(j, min(j + side, B))
            shape, own = (rows.stop - i, columns.stop - j), first + i - j
            logits = torch.mm(scaled, texts[columns].T, out=room[: shape[0] * shape[1]].view(shape))
            if keys is not None:
                same = belongs_together(keys[first + i : first + rows.stop], keys[columns])
                same.diagonal(own).fill_(False)
                logits.masked_fill_(same, float("-inf"))
            yield rows, columns, own, logits


# ---------------------------------------------------------------------------------------------------------- the losses
class InfoNCE(torch.autograd.Function):
    """Keeps what each row's and column's softmax is normalised by, and makes the tiles again for the gradient.

    further: (b, K) logits that join the rows' denominators; keys: (B, 2) of all processes.
    """

    @staticmethod
    def forward(
        ctx: Any,
        image: Tensor,
        text: Tensor,
        scale: Tensor,
        further: Tensor | None,
        keys: Tensor | None,
        tile: int | None,
        world: World,
    ) -> Tensor:
        texts = world.gather(text)
        b, first = len(image), world.rank * len(image)
        rows_lse, columns_lse = (image.new_full((len(x),), float("-inf")) for x in (image, texts))
        for rows, columns, _, logits in tiles(image, texts, scale, keys, tile, first):
            torch.logaddexp(rows_lse[rows], logits.logsumexp(1), out=rows_lse[rows])
            torch.logaddexp(columns_lse[columns], logits.logsumexp(0), out=columns_lse[columns])
        if further is not None:
            rows_lse = torch.logaddexp(rows_lse, further.logsumexp(1))
        if world.size > 1:
            largest = columns_lse.clone()
            dist.all_reduce(largest, dist.ReduceOp.MAX)
            columns_lse.sub_(largest).exp_()
            dist.all_reduce(columns_lse)
            columns_lse.log_().add_(largest)
        ctx.save_for_backward(image, texts, scale, further, keys, rows_lse, columns_lse)
        ctx.tile, ctx.world = tile, world
        own = scale * (image * text).sum(1)  # no product that autocast would round
        return ((rows_lse + columns_lse[first : first + b]) / 2 - own).mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        image, texts, scale, further, keys, rows_lse, columns_lse = ctx.saved_tensors
        b, world = len(image), ctx.world
        d_image, d_texts, part = torch.zeros_like(image), torch.zeros_like(texts), None
        for rows, columns, own, logits in tiles(image, texts, scale, keys, ctx.tile, world.rank * b):
            if part is None:
                part = torch.empty_like(logits.flatten())  # the first tile is the largest
            p = torch.sub(logits, rows_lse[rows, None], out=part[: logits.numel()].view_as(logits)).exp_()
            p.add_(logits.sub_(columns_lse[columns]).exp_()).div_(2)  # d loss / d logits, times b
            p.diagonal(own).sub_(1)
            d_image[rows].addmm_(p, texts[columns])
            d_texts[columns].addmm_(p.T, image[rows])
        weight = gradients[0] / b
        # sum of p_ij * cosine_ij, without a further pass over the tiles
        d_scale = (image * d_image).sum() * weight
        d_further = None if further is None else (further - rows_lse[:, None]).exp_().mul_(weight / 2)
        d_text = reduce_rows(d_texts, world)
        return d_image.mul_(scale * weight), d_text.mul_(scale * weight), d_scale, d_further, None, None, None


class SigLIP(torch.autograd.Function):
    """Nothing normalises a pair by others, so the gradient of a tile is made beside its value, and no tile twice.

    keys: (B, 2) of all processes; learns: whether a gradient will be asked for.
    """

    @staticmethod
    def forward(
        ctx: Any,
        image: Tensor,
        text: Tensor,
        scale: Tensor,
        bias: Tensor,
        keys: Tensor | None,
        tile: int | None,
        world: World,
        learns: bool,
    ) -> Tensor:
        texts, b = world.gather(text), len(image)
        learns = learns and any(ctx.needs_input_grad[:4])
        d_image, d_texts = (torch.zeros_like(x) if learns else None for x in (image, texts))
        loss, d_bias = image.new_zeros(()), image.new_zeros(())
        for rows, columns, own, logits in tiles(image, texts, scale, keys, tile, world.rank * b):
            right = torch.sub(-bias, logits, out=logits)  # z * logit, by which a pair is right; inf where it counts not
            right.diagonal(own).neg_()
            loss -= F.logsigmoid(right).sum()
            if d_image is None or d_texts is None:
                continue
            d = right.neg_().sigmoid_()  # -z * d loss / d logits
            d.diagonal(own).neg_()
            d_bias += d.sum()
            d_image[rows].addmm_(d, texts[columns])
            d_texts[columns].addmm_(d.T, image[rows])
        if d_image is not None and d_texts is not None:
            d_scale = (image * d_image).sum()
            d_text = reduce_rows(d_texts, world)
            ctx.save_for_backward(d_image.mul_(scale / b), d_text.mul_(scale / b), d_scale / b, d_bias / b)
        return loss / b

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return *(d * gradients[0] for d in ctx.saved_tensors), None, None, None, None
