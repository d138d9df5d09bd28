"""Before the first step: what cannot work is refused, then model, processor and training set are made."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from omma import config as configuration
from omma.models.multiway import MultiwayBlock
from omma.models.preprocess import SPECIAL_TOKENS, Processor, train_wordpiece
from omma.models.prompts import PREFIX, Prompts, prompts_for
from omma.models.vlmo import VLMo
from omma.models.vlmo_config import VLMoConfig
from omma.models.weights import load_matching, model_folder, read_config, read_weights
from omma.table import Table
from omma.training.batches import Batches, DataConfig
from omma.training.config import TrainConfig
from omma.training.distill import refuse_unfit_teacher, teacher_processor
from omma.training.distributed import ALONE, World, shard
from omma.training.finetune import fitted, inherited, is_for_items, labels_for, with_heads
from omma.training.items import ItemBatches, labels_in, prompts_in
from omma.training.job import check_run
from omma.training.losses import CONTRASTED, TrainingStep
from omma.training.mim import FeatureTarget, MIMTarget, PixelTarget, TokenTarget, head_size, own_teacher
from omma.training.optim import EMA, freeze
from omma.training.patch_tokens import PatchTokens, Teacher, train_patch_tokens
from omma.training.rng import key_seed
from omma.training.segment import MaskBatches, mask_classes
from omma.training.sources import MixedBatches, TextBatches, captions_of, read_texts, sources


def check(config: TrainConfig, resume: bool, world: World = ALONE) -> Path:
    """The run folder (made). ValueError for what cannot work, before anything is loaded."""
    if not config.data and (unserved := sorted(config.losses.active().keys() - served_alone(config.dataset))):
        raise ValueError(
            f"no data for {', '.join(unserved)}: give the folder of a pictures table, data=FOLDER. "
            "Make one: omma scenes FOLDER, or omma ingest PICTURES FOLDER"
        )
    if not config.losses.active():
        raise ValueError("every loss weight is 0; set one, e.g. losses.itc=1")
    if config.inherit and not config.init:
        raise ValueError(f"{config.recipe or 'this run'} goes on from a trained model: give init=RUN or a model folder")
    if min(config.prompts, config.visual_prompts) < 0 or (with_prompts(config) and not config.init):
        raise ValueError(f"prompts={config.prompts} visual_prompts={config.visual_prompts}: how many to learn on a "
                         "model that stays as it is; give init=vlmo-nano, or a run")  # fmt: skip
    asked, config = config, replace(config, model=starting_model(config))
    if config.losses.itc_vl and not config.model.itc_vl:
        raise ValueError("losses.itc_vl needs the heads for it: model.itc_vl=true")
    if config.losses.balance and (config.model.router == "modality" or len(config.losses.active()) == 1):
        raise ValueError("losses.balance is for a learned router beside another objective: model.router=top1, or 0")
    if with_prompts(config) and config.freeze:
        raise ValueError("freeze= beside prompts: with these, all else is frozen already; leave it out")
    refuse_unused(config)
    within = config.negatives_within
    if within and (within < 2 or within % 2 or config.batch_size % within):
        raise ValueError(f"negatives_within={within}: give 0 for the whole batch, or an even number that divides "
                         f"batch_size={config.batch_size}")  # fmt: skip
    if config.mim.target == "features" and "mim" in config.losses.active() and not (config.mim.teacher or config.ema):
        raise ValueError("mim.target=features learns from the run's own average, and ema=none keeps none; "
                         "set ema=0.999, or mim.teacher=FOLDER")  # fmt: skip
    if config.dataset.patch_codes and config.mim.target != "tokens":
        raise ValueError(f"dataset.patch_codes={config.dataset.patch_codes} are for mim.target=tokens, "
                         f"not {config.mim.target}")  # fmt: skip
    if not 0 <= config.trim < 1 or (config.trim and not config.losses.active().keys() & CONTRASTED):
        raise ValueError(f"trim={config.trim}: give a share from 0 to below 1, and one of the losses by which wrong "
                         f"captions are told: {', '.join(sorted(CONTRASTED))}")  # fmt: skip
    refuse_unfit_teacher(config.teacher, config.model, set(config.losses.active()))
    if config.vl_init != "random" and not config.init:
        raise ValueError(f"vl_init={config.vl_init} copies experts of a trained model: give init=RUN")
    check_parallel(config, world)
    return check_run(asked, resume)


def starting_model(config: TrainConfig) -> VLMoConfig:
    """The model's settings before its data are known: the config's, or as far as it says so those of init."""
    if config.init and (config.inherit or with_prompts(config)):
        stored = read_config(model_folder(config.init))
        return stored if with_prompts(config) else inherited(stored, config.model, config.given)
    return config.model


def refuse_unused(config: TrainConfig) -> None:
    """ValueError for settings that no objective of the run would read."""
    on, dataset = config.losses.active().keys(), config.dataset
    readers = {"images": {"mim"}, "texts": {"text_mlm"}, "mixup": {"classify", "tags"}, "cutmix": {"classify", "tags"}}
    for name, wanted in readers.items():
        if getattr(dataset, name) and not on & wanted:
            set_one = " or ".join(f"losses.{loss}=1" for loss in sorted(wanted))
            raise ValueError(f"dataset.{name}={getattr(dataset, name)} is for {set_one}, and this run learns from "
                             f"{', '.join(on)}; set one of them, or leave dataset.{name} out")  # fmt: skip


def check_parallel(config: TrainConfig, world: World) -> None:
    """ValueError for what one process can do and these can't."""
    if world.size > 1 and config.parallel == "fsdp":
        if config.model.router != "modality":
            raise ValueError(f"parallel=fsdp runs the same layers in every process, and by model.router="
                             f"{config.model.router} one may leave an expert out; use parallel=ddp")  # fmt: skip
        if config.compile:
            raise ValueError("compile=true compiles whole layers, and parallel=fsdp gathers the parts of one by one; "
                             "leave one of them out")  # fmt: skip
        if config.losses.mim and config.mim.target == "features" and config.mim.teacher is None:
            raise ValueError("mim.target=features, learned from the run's own average, needs that whole in every "
                             "process; use parallel=ddp, or mim.teacher=FOLDER")  # fmt: skip
    units = max(1, round(config.fusion_share * config.batch_size / 2))
    if units < world.size and config.losses.active().keys() & {"itm", "itm_pair", "itm_relation", "mlm"}:
        raise ValueError(f"fusion_share={config.fusion_share} of batch_size={config.batch_size} is {2 * units} "
                         f"samples, too few for {world.size} processes; raise one of them")  # fmt: skip


def served_alone(dataset: DataConfig) -> set[str]:
    """The objectives that need nothing of the run's table."""
    return {"balance"} | ({"mim"} if dataset.images else set()) | ({"text_mlm"} if dataset.texts else set())


def main_table(config: TrainConfig) -> Table | None:
    """The run's table; that of pictures alone where it is the only one; None for a run on a text file."""
    place = config.data or config.dataset.images
    return Table.open(place) if place else None


# Of a model's settings, those that make its heads.
HEADS = ("answers", "classes", "segments", "num_pair_classes", "num_set_classes", "mim_size")


def build(config: TrainConfig, table: Table | None) -> tuple[VLMo, Processor, str]:
    """Model and processor: fresh ones, or those of config.init, with its weights wherever name and shape fit.

    The vocabulary belongs to the tokenizer, so config.model.vocab_size is only its upper limit when one is learned from
    the captions.
    """
    objectives = set(config.losses.active())
    config = replace(config, model=starting_model(config))
    if table is not None and table.kind != "pictures" and not is_for_items(objectives):
        raise ValueError(f"{table.uri} is a table of {table.kind}; {', '.join(sorted(objectives))} learn from pictures "
                         "with captions. Give that table, or an objective on items, e.g. losses.answer=1")  # fmt: skip
    if config.init:
        folder = model_folder(config.init)
        stored = read_config(folder)
        processor = Processor.load(folder)
        size, length = config.model.image_size, config.model.max_text_len
        processor = replace(processor, image_size=size, max_text_len=min(length, stored.max_text_len))
        if processor.vocab_size == len(SPECIAL_TOKENS) and objectives - {"mim", "balance"}:
            tokenizer = train_wordpiece(texts_of(config, table), config.model.vocab_size)
            processor = replace(processor, tokenizer=tokenizer)
    elif config.teacher:
        folder = stored = None
        processor = teacher_processor(config.teacher, config.model)
    else:
        folder = stored = None
        no_words = [""] if objectives <= {"mim", "balance"} else []
        texts = texts_of(config, Table.open(config.words) if config.words else table)
        tokenizer = train_wordpiece(texts or no_words, config.model.vocab_size)
        processor = Processor(tokenizer, config.model.image_size, config.model.max_text_len)
    if config.panels is not None:
        processor = replace(processor, panels=config.panels, panel_gap=config.panel_gap)
    model_config = configuration.apply(
        config.model, {"vocab_size": processor.vocab_size, "max_text_len": processor.max_text_len}
    )
    if is_for_items(objectives):
        if stored is not None:  # the labels a head was trained on stay the head's
            kept = {k: getattr(stored, k) for k in ("answers", "classes") if not getattr(model_config, k)}
            model_config = replace(model_config, **kept)
        classes = model_config.classes
        wanted = {"answer": model_config.answers, "classify": classes, "tags": classes}
        unknown = any(name in objectives and not labels for name, labels in wanted.items())
        assert table is not None
        labels = labels_in(table, config.dataset, config.dataset.max_labels) if unknown else ()
        model_config = replace(model_config, **with_heads(model_config, objectives, labels))
    if "mim" in objectives:
        model_config = replace(model_config, mim_size=head_size(config.mim, model_config))
    elif stored is not None and model_config.mim_size is None:
        model_config = replace(model_config, mim_size=stored.mim_size)
    if "segment" in objectives:
        assert table is not None
        model_config = replace(model_config, segments=model_config.segments or mask_classes(table))
        if model_config.segments != mask_classes(table):
            raise ValueError(f"the model tells {len(model_config.segments)} classes of pixels apart, not those of the "
                             f"masks of {table.uri} ({len(mask_classes(table))})")  # fmt: skip
    if with_prompts(config) and (new := [k for k in HEADS if getattr(model_config, k) != getattr(config.model, k)]):
        raise ValueError(f"{config.init} has no head that was trained for {', '.join(sorted(objectives))} ({new[0]}), "
                         "and beside prompts nothing else is learned; train it for that first")  # fmt: skip
    torch.manual_seed(key_seed(config.seed, "init"))
    model = VLMo(model_config)
    if folder is None:
        return model, processor, ""
    tensors = read_weights(folder)
    model.prompts = prompts_for(model_config.hidden_size, tensors)
    if with_prompts(config):
        model.prompts = Prompts(model_config.hidden_size, config.prompts, config.visual_prompts)
    assert stored is not None
    copied, own = load_matching(model, {name: fitted(model, stored, name, tensor) for name, tensor in tensors.items()})
    if not copied:
        raise ValueError(f"no weight of {folder} fits this model; compare its config.json with model.* of this run")
    if config.vl_init != "random":
        copy_experts(model, config.vl_init, own, config.init or "")
    return model, processor, f", {len(copied)} tensors from {config.init}{f', {len(own)} new' if own else ''}"


def resumed(folder: Path) -> tuple[VLMo, Processor, str]:
    """What `build` gives, for a run that goes on from a checkpoint's folder: the table may have grown since it began,
    and words and labels learned from it anew would be other ones. The weights are the caller's to read."""
    model = VLMo(read_config(folder))
    model.prompts = prompts_for(model.config.hidden_size, read_weights(folder))
    return model, Processor.load(folder), ""


@torch.no_grad()
def copy_experts(model: VLMo, source: str, new: list[str], init: str) -> None:
    """The vision-language experts start as copies of those of `source`. new: names that init had no values for.

    ValueError where there is nothing to copy, or something that would be lost.
    """
    state = model.state_dict()
    copies = {name: name.replace(".experts.vl.", f".experts.{source}.") for name in state if ".experts.vl." in name}
    if not copies:
        raise ValueError(f"vl_init={source}: this model has no vision-language experts (model.num_vl_layers="
                         f"{model.config.num_vl_layers})")  # fmt: skip
    if kept := sorted(copies.keys() - set(new)):
        raise ValueError(f"vl_init={source}: {init} has vision-language experts ({kept[0]}, ...), which copies would "
                         "replace. Leave vl_init=random to keep them, or train the stages before with "
                         "model.num_vl_layers=0, as published")  # fmt: skip
    for name, origin in copies.items():
        state[name].copy_(state[origin])


def with_prompts(config: TrainConfig) -> bool:
    """Whether nothing but prompts is learned."""
    return bool(config.prompts or config.visual_prompts)


def frozen_by(config: TrainConfig, model: VLMo) -> list[str]:
    """What stays out of training: what the config says, or with prompts everything else."""
    if not with_prompts(config):
        return freeze(model, config.freeze)
    return freeze(model, [name for name, _ in model.named_parameters() if not name.startswith(PREFIX)])


def texts_of(config: TrainConfig, table: Table | None) -> set[str]:
    """What a tokenizer for this run is learned from: the captions and texts alone (100,000 of these, evenly spread), or
    the items' prompts. A run on labels or masks alone has only the names of these."""
    dataset = config.dataset
    if "segment" in config.losses.active():
        assert table is not None
        return set(mask_classes(table))
    if is_for_items(config.losses.active()):
        assert table is not None
        return prompts_in(table, dataset) or set(labels_in(table, dataset, dataset.max_labels))
    where = dataset.where if config.data else dataset.images_where
    texts = set() if table is None else set(captions_of(table, where, dataset.languages))
    if dataset.texts:
        alone = read_texts(dataset.texts, dataset)
        texts.update(alone[i] for i in range(0, len(alone), max(1, len(alone) // 100_000)))
    return texts


def training_set(
    config: TrainConfig, table: Table | None, model: VLMo, processor: Processor, world: World = ALONE
) -> Batches | TextBatches | MixedBatches | ItemBatches | MaskBatches:
    """The batches of a run, this process's part of each: of pictures with captions and what stands beside them, or of
    items or masks where an objective is about these."""
    objectives, part = set(config.losses.active()) - {"balance"}, (world.rank, world.size)  # it has no samples
    if processor.panels > 1 and (single := sorted(objectives - {"pair", "set", "parts"})):
        raise ValueError(f"a picture is {processor.panels} panels here (panels, or those of init), and "
                         f"{', '.join(single)} learn from single pictures; set panels=1")  # fmt: skip
    if "segment" in objectives:
        if len(objectives) > 1:
            raise ValueError(f"{', '.join(sorted(objectives - {'segment'}))} can't share a step with segment")
        assert table is not None
        return MaskBatches(table, processor, config.dataset, batch_size=config.batch_size, seed=config.seed, part=part)
    if is_for_items(objectives):
        assert table is not None
        labels = labels_for(model.config, objectives)
        items = ItemBatches(table, processor, config.dataset, labels, batch_size=config.batch_size, seed=config.seed,
                            part=part)  # fmt: skip
        if "parts" in objectives and not any(items.parts):
            raise ValueError(f"no item of {table.uri} has one number in its column parts for each of its pictures or "
                             "panels, which losses.parts learns; add them, or leave it out")  # fmt: skip
        return items
    return sources(objectives, config.dataset, table, processor, batch_size=config.batch_size,
                   patch_size=model.config.patch_size, seed=config.seed, relations="itm_relation" in objectives,
                   part=part)  # fmt: skip


def mim_target(
    config: TrainConfig, model: VLMo, average: EMA | None, processor: Processor, table: Table | None
) -> MIMTarget:
    """What masked image modelling guesses in this run.

    Tokens come from the table's column, else from the codebook at the first of: config.mim.tokens, the run's own where
    it is resumed, init; else they are learned from the table's pictures now and kept in the run's folder.
    """
    mim, device = config.mim, next(model.parameters()).device
    if mim.target == "pixels":
        return PixelTarget()
    if mim.target == "features":
        if mim.teacher is not None:
            return FeatureTarget(Teacher.load(mim.teacher, mim.layers, device), processor)
        assert average is not None  # `check` asks for one
        return FeatureTarget(own_teacher(model, average, mim.layers, processor), processor)
    if config.dataset.patch_codes is not None:
        return TokenTarget(None)
    kept = Path(config.out) / "patch_tokens"
    places = [kept, model_folder(config.out), *([model_folder(config.init)] if config.init else [])]
    place = mim.tokens or next((p for p in places if (p / PatchTokens.FILES[0]).is_file()), None)
    size = model.config.patch_size
    if place is None:
        place, alone = kept, config.dataset.images
        pictures = Table.open(alone) if alone else table
        assert pictures is not None  # `check` asks for one of them
        train_patch_tokens(pictures, place, processor=processor, patch_size=size, codes=mim.codes, seed=config.seed,
                           where=config.dataset.images_where if alone else config.dataset.where)  # fmt: skip
    tokens = PatchTokens.load(place, device)
    made_for = (tokens.config.patch_size, tokens.config.mean, tokens.config.std)
    if len(tokens) != mim.codes or made_for != (size, processor.mean, processor.std):
        raise ValueError(f"the codebook at {place} has {len(tokens)} codes for patches of {made_for[0]} px; "
                         f"this run has mim.codes={mim.codes} and patches of {size} px")  # fmt: skip
    return TokenTarget(tokens)


def spread(model: VLMo, config: TrainConfig, world: World, device: torch.device) -> nn.Module:
    """The training step as a module over all processes: its backward leaves the whole batch's gradient in the model."""
    step = TrainingStep(model)
    if world.size == 1:
        return step
    if config.parallel == "fsdp":
        shard(step, sharded_units(model), device)
        return step
    # What an objective leaves out, such as another stage's head, gets no gradient.
    on_gpu = [device] if device.type == "cuda" else None
    return nn.parallel.DistributedDataParallel(step, on_gpu, find_unused_parameters=True)


def sharded_units(model: VLMo) -> list[nn.Module]:
    """Each block's attention and each of its experts by itself, so that a pass over text gathers no image expert."""
    units: list[nn.Module] = []
    for block in model.blocks:
        assert isinstance(block, MultiwayBlock)
        units += [block.attentions if block.separate else block.attention, *block.experts.values()]
    return units
