"""One step's losses of a VLMo: which passes are run for which objectives, each picture and text embedded once.

B batch, T text tokens, P image tokens. Stage 1 is mim alone, stage 2 text_mlm alone, stage 3 itc + itm + mlm.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from omma.models.router import balance_loss, routing
from omma.models.vlmo import VLMo
from omma.training import objectives
from omma.training.batches import Batch
from omma.training.finetune import ITEM_OBJECTIVES, item_losses
from omma.training.mim import MIMTarget, PixelTarget
from omma.training.rng import torch_generator
from omma.training.segment import segment_losses
from omma.training.sources import MixedBatch


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """Weight of each objective in the sum; 0 leaves its passes out."""

    mim: float = 0.0  # masked image modelling, image experts
    text_mlm: float = 0.0  # masked language modelling on text alone, text experts
    itc: float = 0.0  # image-text contrast of the two single-modality passes
    itc_pair: float = 0.0  # the same within each minimal pair of the batch
    itc_vl: float = 0.0  # the same behind the VL experts (published code)
    itm: float = 0.0  # image-text matching with hard negatives, fusion
    itm_pair: float = 0.0  # the same within each minimal pair: right above wrong, whatever the level
    itm_relation: float = 0.0  # each caption above itself with left and right (above and below, ..) exchanged, fusion
    mlm: float = 0.0  # masked language modelling with the picture in sight, fusion
    caption: float = 0.0  # the next word of a caption, from the words before it and the picture
    balance: float = 0.0  # learned routers use their experts alike; beside another objective
    answer: float = 0.0  # questions about a picture: every answer right or wrong (VQA)
    pair: float = 0.0  # a sentence about two pictures: true or false (NLVR2)
    set: float = 0.0  # a sentence about K pictures in any order: true or false
    classify: float = 0.0  # a picture's class
    segment: float = 0.0  # a class for every pixel

    def only(self, names: frozenset[str]) -> "LossWeights":
        """These weights with every other objective left out."""
        return replace(self, **{f.name: 0.0 for f in fields(self) if f.name not in names})

    def active(self) -> dict[str, float]:
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != 0.0}


CONTRASTED = frozenset({"itc", "itc_pair", "itc_vl", "itm", "itm_pair"})  # they compare all pictures with all texts


@dataclass(frozen=True, kw_only=True)
class Step:
    """What the losses of one step are computed from.

    batch: a `Batch`, a `MixedBatch`, or an `ItemBatch` for the objectives of finetune.py, on the model's device;
    pixel_values: its pixels, normalised; key: of the random draws (hard negatives); negatives_within: hard negatives
    are drawn among so many neighbouring rows of the batch, 0: among all of it; mim_target: what a hidden patch is to be
    guessed as; trim: share of the rows whose captions count as wrong (`objectives.fits_best`).
    """

    model: VLMo
    batch: Any
    pixel_values: Tensor
    weights: LossWeights
    key: tuple
    fusion_share: float = 1.0
    negatives_within: int = 0
    mim_target: MIMTarget = field(default_factory=PixelTarget)
    trim: float = 0.0

    @property
    def on(self) -> dict[str, float]:
        return self.weights.active()


def compute_losses(
    model: VLMo,
    batch: Any,
    pixel_values: Tensor,
    weights: LossWeights,
    key: tuple,
    fusion_share: float = 1.0,
    negatives_within: int = 0,
    mim_target: MIMTarget | None = None,
    trim: float = 0.0,
) -> dict[str, Tensor]:
    """Every active objective's loss, by name: those of each entry of PASSES that serves one. Arguments as in `Step`.

    ITM's positives and negatives and masked modelling share one fusion pass of 4B rows, or of 4 * fusion_share * B:
    contrast wants many samples, and a fused row costs the most.
    """
    step = Step(model=model, batch=batch, pixel_values=pixel_values, weights=weights, key=key,
                fusion_share=fusion_share, negatives_within=negatives_within,
                mim_target=mim_target or PixelTarget(), trim=trim)  # fmt: skip
    losses: dict[str, Tensor] = {}
    with routing(model) if "balance" in step.on else contextlib.nullcontext([]) as loads:
        for part in parts(step):
            for names, passes in PASSES:
                if part.on.keys() & names:
                    losses |= passes(part)
    if "balance" in step.on:  # no pass of its own: what the routers did in those of the others
        losses["balance"] = torch.stack([balance_loss(*load) for load in loads]).mean()
    return losses


def parts(step: Step) -> list[Step]:
    """The step as one for each source of its batch, with the objectives that learn from it."""
    if not isinstance(step.batch, MixedBatch):
        return [step]
    pixels = step.pixel_values.split([len(part.pixels) for _, part in step.batch.parts])
    return [replace(step, batch=part, pixel_values=own, weights=step.weights.only(names))
            for (names, part), own in zip(step.batch.parts, pixels, strict=True)]  # fmt: skip


def masked_patches(step: Step) -> dict[str, Tensor]:
    """Stage 1: a picture with hidden patches, through the image experts."""
    output = step.model(pixel_values=step.pixel_values, patch_mask=step.batch.patch_mask)
    hidden = output.last_hidden_state[:, 1:]
    return {"mim": step.mim_target.loss(step.model, hidden, step.batch, step.pixel_values)}


def masked_text(step: Step) -> dict[str, Tensor]:
    """Stage 2: a text with hidden words, through the text experts."""
    hidden = step.model(step.batch.masked_ids, step.batch.attention_mask).last_hidden_state
    return {"text_mlm": masked_words(step.model, hidden, step.batch.mlm_labels)}


def vision_language(step: Step) -> dict[str, Tensor]:
    """Stage 3: pictures and words together. Two single-modality passes give the embeddings that hard negatives are
    drawn by."""
    model, batch, pixel_values, on = step.model, step.batch, step.pixel_values, step.on
    losses: dict[str, Tensor] = {}
    grid, mask = model.grid_of(pixel_values), batch.attention_mask
    text, image = model.embed_text(batch.input_ids), model.embed_image(pixel_values)
    same = objectives.belongs_together(batch.ids, batch.texts, text.device)
    logits, matching = None, on.keys() & {"itm", "itm_pair"}
    kept, partner = torch.ones_like(batch.partner, dtype=torch.bool), batch.partner
    if on.keys() & CONTRASTED:
        scale = model.logit_scale.exp().clamp(max=100)  # CLIP's ceiling; the published code has none
        heads = ["itc", *(["itc_vl"] if "itc_vl" in on else [])]
        embeds = contrastive(model, text, mask, image, grid, heads)
        logits = objectives.similarity(*embeds["itc"], scale)
        if step.trim:  # a sample that is left out stays a negative of others; its own picture and text teach nothing
            kept = objectives.fits_best(logits, same, step.trim)
            partner = torch.where(kept, partner, -1)
        if "itc" in on:
            losses["itc"] = objectives.itc_loss(*embeds["itc"], scale, same, kept)
        if "itc_pair" in on:  # a detached scale: nothing but the contrast of the whole batch sets the temperature
            losses["itc_pair"] = objectives.pair_loss(*embeds["itc"], scale.detach(), partner, same)
        if "itc_vl" in on:
            scale_vl = model.logit_scale_vl.exp().clamp(max=100)
            losses["itc_vl"] = objectives.itc_loss(*embeds["itc_vl"], scale_vl, same, kept)

    n = max(2, 2 * round(step.fusion_share * len(text) / 2))  # whole units: a minimal pair is fused or left out as one
    rows_text, rows_mask, rows_image, labels = [], [], [], []
    if matching:
        assert logits is not None
        drawn = negatives(logits, same, batch, step.key, step.negatives_within)
        wrong_text, wrong_image, text_valid, image_valid = (x[:n] for x in drawn)
        # index_select, since its backward adds in a fixed order
        single = torch.nonzero(batch.partner[:n] < 0)[:, 0]  # a pair's wrong picture is its partner's wrong text
        rows_text += [text[:n], text.index_select(0, wrong_text), text.index_select(0, single)]
        rows_mask += [mask[:n], mask[wrong_text], mask[single]]
        rows_image += [image[:n], image[:n], image.index_select(0, wrong_image[single])]
        none = torch.full_like(wrong_text, objectives.IGNORE)
        yes, no = torch.where(kept[:n], 1, none), torch.where(text_valid, 0, none)
        labels += [yes, no, torch.where(image_valid, 0, none)[single]]
    if "mlm" in on:
        rows_text.append(model.embed_text(batch.masked_ids[:n]))
        rows_mask.append(mask[:n])
        rows_image.append(image[:n])
    if rows_text:
        masks = torch.cat(rows_mask)
        words = torch.full_like(masks, objectives.IGNORE)
        if "mlm" in on:  # its rows are the last ones
            words[-n:] = torch.where(kept[:n, None], batch.mlm_labels[:n], objectives.IGNORE)
        pooled, hidden, hidden_words = fused(model, torch.cat(rows_text), masks, torch.cat(rows_image), grid, words)
        if matching:
            matched = model.itm_head(pooled[: sum(map(len, labels))])
            if "itm" in on:
                losses["itm"] = objectives.itm_loss(matched, torch.cat(labels))
            if "itm_pair" in on:
                losses["itm_pair"] = objectives.match_pair_loss(matched[:n], matched[n : 2 * n], partner[:n])
        if "mlm" in on:
            losses["mlm"] = objectives.mlm_loss(model.mlm_head(hidden), hidden_words)
    return losses


def exchanged_relations(step: Step) -> dict[str, Tensor]:
    """A picture with its caption, and with the same caption whose relation is turned round."""
    model, batch = step.model, step.batch
    n = max(2, 2 * round(step.fusion_share * len(batch.ids) / 2))
    kept = torch.nonzero(batch.relation_rows < n)[:, 0]
    if len(kept) == 0:
        return {"itm_relation": step.pixel_values.sum() * 0.0}
    ids, mask = (t.index_select(1, kept).flatten(0, 1) for t in (batch.relation_ids, batch.relation_mask))
    pixel_values = step.pixel_values.index_select(0, batch.relation_rows[kept])
    image = model.embed_image(pixel_values).repeat(2, 1, 1)
    no_words = torch.full_like(ids, objectives.IGNORE)
    pooled = fused(model, model.embed_text(ids), mask, image, model.grid_of(pixel_values), no_words)[0]
    own, turned = model.itm_head(pooled).chunk(2)
    return {"itm_relation": objectives.match_edit_loss(own, turned)}


def contrastive(
    model: VLMo, text: Tensor, mask: Tensor, image: Tensor, grid: tuple[int, int] | None, heads: list[str]
) -> dict[str, tuple[Tensor, Tensor]]:
    """The shared-space vectors of pictures and texts, both (B, E), by head."""
    first = model.config.pool == "first"  # then [CLS] is all that is read of a pass
    image_pass = model.encode(image=image, grid=grid, read=mask.new_zeros(len(image), 1) if first else None)
    rows: list[Tensor] = []
    parts: dict[str, list[Tensor]] = {head: [] for head in heads}
    for chosen, T in by_length(mask):
        rows.append(chosen)
        some = mask[chosen, :T]
        read = some.new_zeros(len(some), 1) if first else None
        text_pass = model.encode(text.index_select(0, chosen)[:, :T], some, read=read)
        for head in heads:
            parts[head].append(model.project(text_pass, "text", head, text_mask=some))
    return {head: (model.project(image_pass, "image", head, grid=grid), in_order(rows, parts[head])) for head in heads}


def next_words(step: Step) -> dict[str, Tensor]:
    """Captioning: every word and the closing [SEP] from what stands before it and the picture.

    Plain next-word prediction through the head of masked words. BEiT-3 masks words under the same attention and appends
    a [MASK] to guess each word by; without it every word of a caption teaches, and a state is computed once.
    """
    model, batch = step.model, step.batch
    ids, mask, grid = batch.input_ids, batch.attention_mask, model.grid_of(step.pixel_values)
    labels = torch.full_like(ids, objectives.IGNORE)
    labels[:, :-1] = torch.where(mask[:, 1:] == 1, ids[:, 1:], labels[:, 1:])
    text, image = model.embed_text(ids), model.embed_image(step.pixel_values)
    _, hidden, words = fused(model, text, mask, image, grid, labels, seq2seq=True)
    return {"caption": objectives.mlm_loss(model.mlm_head(hidden), words)}


def fused(
    model: VLMo,
    text: Tensor,
    mask: Tensor,
    image: Tensor,
    grid: tuple[int, int] | None,
    labels: Tensor,
    seq2seq: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Texts and pictures together: pooled (R, D), and the states (M, D) and labels (M,) of the words to be guessed.

    text (R, T, D), mask and labels (R, T), image (R, P, D); seq2seq: as in `VLMo.encode`.
    """
    rows, pooled, hidden, words = [], [], [], []
    for chosen, T in by_length(mask):
        some = labels[chosen, :T]
        asked = some != objectives.IGNORE
        read = None
        if model.config.pool == "first":  # [CLS], then the words to be guessed, then any others up to one number a row
            most = int(asked.sum(dim=1).max())
            guessed = asked.long().argsort(dim=1, descending=True, stable=True)[:, :most]
            read = torch.cat((guessed.new_zeros(len(some), 1), guessed), dim=1)
        output = model.encode(
            text.index_select(0, chosen)[:, :T], mask[chosen, :T], image.index_select(0, chosen), grid, read, seq2seq
        )
        rows.append(chosen)
        pooled.append(output.pooled)
        states = output.last_hidden_state
        hidden.append(states[:, :T][asked] if read is None else states[:, 1:][asked.gather(1, read[:, 1:])])
        words.append(some[asked])
    return in_order(rows, pooled), torch.cat(hidden), torch.cat(words)


def by_length(mask: Tensor, step: int = 16) -> list[tuple[Tensor, int]]:
    """Rows of texts of about one length, and that length in tokens: most captions are far shorter than the longest.

    mask: (R, T), 1 = token. Lengths are rounded up to `step`, so that there are few shapes.
    """
    steps = -(-mask.sum(dim=1) // step)
    return [(torch.nonzero(steps == k)[:, 0], min(int(k) * step, mask.shape[1])) for k in steps.unique()]


def in_order(rows: list[Tensor], parts: list[Tensor]) -> Tensor:
    """Parts whose rows were these, as one tensor in the order of the row numbers."""
    return torch.cat(parts).index_select(0, torch.argsort(torch.cat(rows)))


def negatives(
    logits: Tensor, same: Tensor, batch: Batch, key: tuple, within: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A wrong text for each picture and a wrong picture for each text, and of both which can be used; all (B,).

    Drawn by similarity (`objectives.hard_negatives`) for a picture by itself. The text most like a picture's own is
    often true of it, though; that of the partner in a minimal pair never is, so pairs take the partner's text. Their
    wrong picture is the partner's, which meets their text as the partner's wrong text: none is drawn for them.
    within: as in `Step`. Groups of 32 are what GPUs of 32 samples each draw from when they exchange nothing, which the
    paper calls local hard negatives.
    """
    if within:
        group = torch.arange(len(same), device=same.device) // within
        same = same | (group[:, None] != group[None])
    generator = torch_generator(*key, "negatives")
    drawn = objectives.hard_negatives(logits.detach().cpu(), same.cpu(), generator)
    wrong_text, wrong_image, valid = (t.to(same.device) for t in drawn)
    paired = batch.partner >= 0
    return torch.where(paired, batch.partner, wrong_text), wrong_image, paired | valid, valid & ~paired


def masked_words(model: VLMo, hidden: Tensor, labels: Tensor) -> Tensor:
    """hidden: (B, T, D), labels: (B, T). The vocabulary head sees masked positions only."""
    where = labels != objectives.IGNORE
    return objectives.mlm_loss(model.mlm_head(hidden[where]), labels[where])


# Which objectives come out of which passes; another objective is a field of LossWeights and an entry here.
PASSES: tuple[tuple[frozenset[str], Callable[[Step], dict[str, Tensor]]], ...] = (
    (frozenset({"mim"}), masked_patches),
    (frozenset({"text_mlm"}), masked_text),
    (frozenset({"itc", "itc_pair", "itc_vl", "itm", "itm_pair", "mlm"}), vision_language),
    (frozenset({"itm_relation"}), exchanged_relations),
    (frozenset({"caption"}), next_words),
    (frozenset(ITEM_OBJECTIVES), item_losses),
    (frozenset({"segment"}), segment_losses),
)
