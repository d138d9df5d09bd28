"""One step's losses of a VLMo: which passes are run for which objectives, each picture and text embedded once.

B batch, T text tokens, P image tokens. Stage 1 is mim alone, stage 2 text_mlm alone, stage 3 itc + itm + mlm.
Where several processes share a batch, each has b of its B rows, and the mean of its losses with the others' is the loss
of the whole batch.
"""

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from omma.config import refuse_outside
from omma.models.router import balance_loss, routing
from omma.models.vlmo import VLMo
from omma.training import objectives
from omma.training.batches import Batch
from omma.training.distill import DISTILLED, distilled
from omma.training.distributed import ALONE, World
from omma.training.finetune import ITEM_OBJECTIVES, item_losses
from omma.training.mim import MIMTarget, PixelTarget
from omma.training.rng import key_seed, torch_generator
from omma.training.segment import segment_losses
from omma.training.sources import MixedBatch

# What a sample of one process is told apart from. "published": as in VLMo's code, where features of other processes are
# constants, so that the contrast moves the backbone by 1 / processes of its weight. "local": rows of its own process.
Contrast = Literal["global", "published", "local"]


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
    distill: float = 0.0  # a teacher's likeness of the batch's pictures and texts
    distill_features: float = 0.0  # a teacher's vectors
    balance: float = 0.0  # learned routers use their experts alike; beside another objective
    answer: float = 0.0  # questions about a picture: every answer right or wrong (VQA)
    pair: float = 0.0  # a sentence about two pictures: true or false (NLVR2)
    set: float = 0.0  # a sentence about K pictures in any order: true or false
    parts: float = 0.0  # beside set: what the sentence asks about, as a number, in each of the K pictures
    classify: float = 0.0  # a picture's class
    tags: float = 0.0  # what is true of a picture, any number of labels at once
    segment: float = 0.0  # a class for every pixel

    def __post_init__(self):
        refuse_outside(self, {f.name: (0.0, math.inf) for f in fields(self)})

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
    guessed as; trim: share of the rows whose captions count as wrong (`objectives.fits_best`); world: who has the other
    rows of the batch; teacher: of the objectives of distill.py; one_length: all texts of a pass at once, so that every
    process runs the same passes.
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
    world: World = ALONE
    contrast: Contrast = "global"
    one_length: bool = False
    teacher: VLMo | None = None

    @property
    def on(self) -> dict[str, float]:
        return self.weights.active()


class TrainingStep(nn.Module):
    """`compute_losses` as the forward of a module, which is where DDP and FSDP take hold."""

    def __init__(self, model: VLMo):
        super().__init__()
        self.model = model

    def forward(self, *arguments: Any, **options: Any) -> dict[str, Tensor]:
        losses = compute_losses(self.model, *arguments, **options)
        if torch.is_grad_enabled() and not any(loss.requires_grad for loss in losses.values()):
            raise ValueError(f"no weight that {', '.join(losses)} reach is trained: freeze less, or give prompts to "
                             "the side that they read (prompts=8 words, visual_prompts=8 pictures)")  # fmt: skip
        return losses


def compute_losses(
    model: VLMo, batch: Any, pixel_values: Tensor, weights: LossWeights, key: tuple, **options: Any
) -> dict[str, Tensor]:
    """Every active objective's loss, by name: those of each entry of PASSES that serves one. Arguments as in `Step`.

    ITM's positives and negatives and masked modelling share one fusion pass of 4B rows, or of 4 * fusion_share * B:
    contrast wants many samples, and a fused row costs the most.
    """
    step = Step(model=model, batch=batch, pixel_values=pixel_values, weights=weights, key=key, **options)
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
    mim = step.mim_target.loss(step.model, hidden, step.batch, step.pixel_values)
    return {"mim": step.world.share(mim, step.batch.patch_mask.sum())}


def masked_text(step: Step) -> dict[str, Tensor]:
    """Stage 2: a text with hidden words, through the text experts."""
    batch, states, words = step.batch, [], []
    for chosen, T in groups(step, batch.attention_mask):
        ids, mask, labels = (x[chosen, :T] for x in (batch.masked_ids, batch.attention_mask, batch.mlm_labels))
        asked = labels != objectives.IGNORE  # the vocabulary head sees masked positions only
        states.append(step.model(ids, mask).last_hidden_state[asked])
        words.append(labels[asked])
    loss = objectives.mlm_loss(step.model.mlm_head(torch.cat(states)), torch.cat(words))
    return {"text_mlm": step.world.share(loss, (batch.mlm_labels != objectives.IGNORE).sum())}


def vision_language(step: Step) -> dict[str, Tensor]:
    """Stage 3: pictures and words together. Two single-modality passes give the embeddings that hard negatives are
    drawn by."""
    model, batch, pixel_values, on, world = step.model, step.batch, step.pixel_values, step.on, step.world
    if world.size > 1:
        batch = as_long(batch, world.largest(batch.input_ids.shape[1]))
    losses: dict[str, Tensor] = {}
    grid, mask = model.grid_of(pixel_values), batch.attention_mask
    text, image = model.embed_text(batch.input_ids), model.embed_image(pixel_values)
    embeds, everywhere, matching = {}, {}, on.keys() & {"itm", "itm_pair"}
    kept, partner = torch.ones_like(batch.partner, dtype=torch.bool), batch.partner
    if on.keys() & (CONTRASTED | DISTILLED):
        scale = model.logit_scale.exp().clamp(max=100)  # CLIP's ceiling; the published code has none
        heads = ["itc", *(["itc_vl"] if "itc_vl" in on else [])]
        embeds = contrastive(step, text, mask, image, grid, heads)
        everywhere = {head: gathered(step, *embeds[head]) for head in heads}
        keys = sample_keys(batch).to(text.device)
        all_keys = world.gather(keys)
        all_kept = torch.ones(len(all_keys), dtype=torch.bool, device=text.device)
        if step.trim:  # a sample that is left out stays a negative of others; its own picture and text teach nothing
            all_logits = objectives.similarity(*everywhere["itc"], scale)
            all_kept = objectives.fits_best(all_logits, objectives.belongs_together(all_keys, all_keys), step.trim)
            kept = all_kept[world.rows_of(len(all_kept))]
            partner = torch.where(kept, partner, -1)
        if "itc" in on:
            losses["itc"] = contrast(step, embeds["itc"], everywhere["itc"], all_keys, all_kept, scale)
        if "itc_pair" in on:  # a detached scale: nothing but the contrast of the whole batch sets the temperature
            same = objectives.belongs_together(keys, keys)
            pairs = objectives.pair_loss(*embeds["itc"], scale.detach(), partner, same)
            losses["itc_pair"] = world.share(pairs, len(objectives.paired(partner, same)))
        if "itc_vl" in on:
            scale_vl = model.logit_scale_vl.exp().clamp(max=100)
            losses["itc_vl"] = contrast(step, embeds["itc_vl"], everywhere["itc_vl"], all_keys, all_kept, scale_vl)
        if on.keys() & DISTILLED:
            losses |= distilled(step, embeds["itc"], everywhere["itc"], scale)

    rows = fused_rows(len(text), step.fusion_share, world).to(text.device)
    rows_text, rows_mask, rows_image, labels = [], [], [], []
    # index_select, since its backward adds in a fixed order
    own_text, own_mask, own_image = (x.index_select(0, rows) for x in (text, mask, image))
    kept, partner = kept[rows], partner_within(rows, partner)
    if matching:
        same = objectives.belongs_together(keys, all_keys)
        to_texts = objectives.similarity(embeds["itc"][0], everywhere["itc"][1], scale)
        to_images = objectives.similarity(embeds["itc"][1], everywhere["itc"][0], scale)
        drawn = negatives(to_texts, to_images, same, batch.partner, step.key, step.negatives_within, world)
        wrong_text, wrong_image, text_valid, image_valid = (x[rows] for x in drawn)
        single = torch.nonzero(batch.partner[rows] < 0)[:, 0]  # a pair's wrong picture is its partner's wrong text
        others_text, others_mask = texts_at(step, batch, text, wrong_text)
        rows_text += [own_text, others_text, own_text.index_select(0, single)]
        rows_mask += [own_mask, others_mask, own_mask[single]]
        rows_image += [own_image, own_image, pictures_at(step, image, wrong_image[single])]
        none = torch.full_like(wrong_text, objectives.IGNORE)
        yes, no = torch.where(kept, 1, none), torch.where(text_valid, 0, none)
        labels += [yes, no, torch.where(image_valid, 0, none)[single]]
    if "mlm" in on:
        rows_text.append(model.embed_text(batch.masked_ids[rows]))
        rows_mask.append(own_mask)
        rows_image.append(own_image)
    if rows_text:
        n, masks = len(rows), torch.cat(rows_mask)
        words = torch.full_like(masks, objectives.IGNORE)
        if "mlm" in on:  # its rows are the last ones
            words[-n:] = torch.where(kept[:, None], batch.mlm_labels[rows], objectives.IGNORE)
        pooled, hidden, hidden_words = fused(step, torch.cat(rows_text), masks, torch.cat(rows_image), grid, words)
        if matching:
            asked = torch.cat(labels)
            matched = model.itm_head(pooled[: len(asked)])
            if "itm" in on:
                itm = objectives.itm_loss(matched, asked)
                losses["itm"] = world.share(itm, (asked != objectives.IGNORE).sum())
            if "itm_pair" in on:
                pairs = objectives.match_pair_loss(matched[:n], matched[n : 2 * n], partner)
                losses["itm_pair"] = world.share(pairs, len(objectives.paired(partner)))
        if "mlm" in on:
            mlm = objectives.mlm_loss(model.mlm_head(hidden), hidden_words)
            losses["mlm"] = world.share(mlm, len(hidden_words))
    return losses


def exchanged_relations(step: Step) -> dict[str, Tensor]:
    """A picture with its caption, and with the same caption whose relation is turned round."""
    model, batch = step.model, step.batch
    rows = fused_rows(len(batch.ids), step.fusion_share, step.world).to(batch.relation_rows.device)
    kept = torch.nonzero(torch.isin(batch.relation_rows, rows))[:, 0]
    if len(kept) == 0 and step.world.size == 1:
        return {"itm_relation": model.itm_head.weight.sum() * 0.0}
    if len(kept):
        ids, mask = (t.index_select(1, kept).flatten(0, 1) for t in (batch.relation_ids, batch.relation_mask))
        pixel_values = step.pixel_values.index_select(0, batch.relation_rows[kept])
    else:  # other processes may have some, and all must run the same passes: one row that counts for nothing
        ids, mask = (t[:1].repeat(2, 1) for t in (batch.input_ids, batch.attention_mask))
        pixel_values = step.pixel_values[:1]
    image = model.embed_image(pixel_values).repeat(2, 1, 1)
    no_words = torch.full_like(ids, objectives.IGNORE)
    pooled = fused(step, model.embed_text(ids), mask, image, model.grid_of(pixel_values), no_words)[0]
    own, turned = model.itm_head(pooled).chunk(2)
    return {"itm_relation": step.world.share(objectives.match_edit_loss(own, turned), len(kept))}


def contrastive(
    step: Step, text: Tensor, mask: Tensor, image: Tensor, grid: tuple[int, int] | None, heads: list[str]
) -> dict[str, tuple[Tensor, Tensor]]:
    """The shared-space vectors of pictures and texts, both (b, E), by head."""
    model = step.model
    first = model.config.pool == "first"  # then [CLS] is all that is read of a pass
    image_pass = model.encode(image=image, grid=grid, read=mask.new_zeros(len(image), 1) if first else None)
    rows: list[Tensor] = []
    parts: dict[str, list[Tensor]] = {head: [] for head in heads}
    for chosen, T in groups(step, mask):
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
    _, hidden, words = fused(step, text, mask, image, grid, labels, seq2seq=True)
    return {"caption": step.world.share(objectives.mlm_loss(model.mlm_head(hidden), words), len(words))}


def fused(
    step: Step,
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
    model = step.model
    for chosen, T in groups(step, mask):
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


def groups(step: Step, mask: Tensor) -> list[tuple[Tensor, int]]:
    """The rows of each pass over texts and its length in tokens: `by_length`, or all rows in one pass."""
    if not step.one_length:
        return by_length(mask)
    return [(torch.arange(len(mask), device=mask.device), int(mask.sum(dim=1).max()))]


def by_length(mask: Tensor, step: int = 16) -> list[tuple[Tensor, int]]:
    """Rows of texts of about one length, and that length in tokens: most captions are far shorter than the longest.

    mask: (R, T), 1 = token. Lengths are rounded up to `step`, so that there are few shapes.
    """
    steps = -(-mask.sum(dim=1) // step)
    return [(torch.nonzero(steps == k)[:, 0], min(int(k) * step, mask.shape[1])) for k in steps.unique()]


def in_order(rows: list[Tensor], parts: list[Tensor]) -> Tensor:
    """Parts whose rows were these, as one tensor in the order of the row numbers."""
    return torch.cat(parts).index_select(0, torch.argsort(torch.cat(rows)))


# ------------------------------------------------------------------------------- one process's rows and the whole batch
def gathered(step: Step, image_embeds: Tensor, text_embeds: Tensor) -> tuple[Tensor, Tensor]:
    """Pictures and texts of all processes, both (B, E), with a gradient as step.contrast has it."""
    gradient = step.contrast == "global"
    return step.world.gather(image_embeds, gradient), step.world.gather(text_embeds, gradient)


def contrast(
    step: Step, own: tuple[Tensor, Tensor], everyone: tuple[Tensor, Tensor], keys: Tensor, kept: Tensor, scale: Tensor
) -> Tensor:
    """`itc_loss` of this process's pictures and texts, both (b, E), among those that step.contrast names.

    Of all processes: everyone, pictures and texts (B, E); keys (B, 2) as in `belongs_together`; kept (B,) as in
    `itc_loss`.
    """
    (image, text), (images, texts), together = own, everyone, objectives.belongs_together
    mine = step.world.rows_of(len(keys))
    if step.world.size > 1 and step.contrast == "published":
        return objectives.itc_loss(images, texts, scale, together(keys, keys), kept)
    if step.world.size == 1 or step.contrast == "local":
        loss = objectives.itc_loss(image, text, scale, together(keys[mine], keys[mine]), kept[mine])
    else:
        loss = objectives.itc_loss(image, text, scale, together(keys[mine], keys), kept[mine], everyone, mine.start)
    return step.world.share(loss, kept[mine].sum())


def sample_keys(batch: Batch) -> Tensor:
    """(b, 2) int64 for `belongs_together`: hashes, so that processes can compare pictures and texts by 16 bytes."""
    return torch.tensor([[key_seed(i), key_seed(text)] for i, text in zip(batch.ids, batch.texts, strict=True)])


def negatives(
    to_texts: Tensor, to_images: Tensor, same: Tensor, partner: Tensor, key: tuple, within: int = 0,
    world: World = ALONE,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """A wrong text for each picture and a wrong picture for each text, numbered through the whole batch, and of both
    which can be used; all (b,).

    Drawn by similarity (`objectives.hard_negatives`, arguments as there) for a picture by itself; each row of the whole
    batch has its own chance, so it draws the same on any number of processes. The text most like a picture's own is
    often true of it, though; that of the partner in a minimal pair never is, so pairs take the partner's text. Their
    wrong picture is the partner's, which meets their text as the partner's wrong text: none is drawn for them.
    partner: (b,), numbered through these rows; within: as in `Step`. Groups of 32 are what GPUs of 32 samples each draw
    from when they exchange nothing, which the paper calls local hard negatives.
    """
    b, B = same.shape
    first = world.rank * b
    if within:
        group = torch.arange(B, device=same.device) // within
        same = same | (group[first : first + b, None] != group[None])
    uniform = torch.rand(2, B, dtype=torch.float64, generator=torch_generator(*key, "negatives"))
    uniform = uniform[:, first : first + b].to(same.device)
    wrong_text, wrong_image, valid = objectives.hard_negatives(to_texts, to_images, same, uniform, first)
    paired = partner >= 0
    return torch.where(paired, partner + first, wrong_text), wrong_image, paired | valid, valid & ~paired


def fused_rows(count: int, share: float, world: World = ALONE) -> Tensor:
    """Which of `count` rows are fused: a share of the whole batch's units, spread evenly, so that every process has as
    many of them as any other. Units, since a minimal pair is fused or left out as one."""
    units = count * world.size // 2
    fused = max(1, round(share * units))
    chosen = torch.arange(fused) * units // fused
    first = world.rank * count // 2
    own = chosen[(chosen >= first) & (chosen < first + count // 2)] - first
    return torch.stack((2 * own, 2 * own + 1), dim=1).flatten()


def partner_within(rows: Tensor, partner: Tensor) -> Tensor:
    """The partners of chosen rows, numbered among these; -1 for none."""
    place = torch.full_like(partner, -1)
    place[rows] = torch.arange(len(rows), device=rows.device)
    chosen = partner[rows]
    return torch.where(chosen < 0, chosen, place[chosen])


def texts_at(step: Step, batch: Batch, text: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Embedded texts (n, T, D) and their mask (n, T), from wherever in the whole batch they are; text: these rows'."""
    if step.world.size == 1:
        return text.index_select(0, wanted), batch.attention_mask[wanted]
    words = torch.stack((batch.input_ids, batch.attention_mask), dim=1)
    ids, mask = step.world.fetch(words, wanted).unbind(1)
    return step.model.embed_text(ids), mask


def pictures_at(step: Step, image: Tensor, wanted: Tensor) -> Tensor:
    """Embedded pictures (n, P, D), from wherever in the whole batch they are; image: these rows'.

    Pixels travel, not embeddings: what is embedded here has its gradient here.
    """
    if step.world.size == 1:
        return image.index_select(0, wanted)
    return step.model.embed_image(step.world.fetch(step.pixel_values, wanted))


def as_long(batch: Batch, length: int) -> Batch:
    """The batch with its texts padded to `length` tokens, so that those of several processes fit together."""
    fills = {"input_ids": 0, "attention_mask": 0, "masked_ids": 0, "mlm_labels": objectives.IGNORE}
    wide = {k: pad(getattr(batch, k), (0, length - batch.input_ids.shape[1]), value=v) for k, v in fills.items()}
    return replace(batch, **wide)


# Which objectives come out of which passes; another objective is a field of LossWeights and an entry here.
PASSES: tuple[tuple[frozenset[str], Callable[[Step], dict[str, Tensor]]], ...] = (
    (frozenset({"mim"}), masked_patches),
    (frozenset({"text_mlm"}), masked_text),
    (frozenset({"itc", "itc_pair", "itc_vl", "itm", "itm_pair", "mlm"}) | DISTILLED, vision_language),
    (frozenset({"itm_relation"}), exchanged_relations),
    (frozenset({"caption"}), next_words),
    (frozenset(ITEM_OBJECTIVES), item_losses),
    (frozenset({"segment"}), segment_losses),
)
