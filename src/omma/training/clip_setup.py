"""Before the first step of a CLIP: its towers from wherever they come, their processor, and the training set."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from omma.data.indexed import TablePairs, open_pairs
from omma.models.clip import CLIP, PRESETS, CLIPConfig, Tower
from omma.models.lora import Way, tune
from omma.models.preprocess import SEP, Processor, train_wordpiece
from omma.models.pretrained import is_hugging_face
from omma.models.towers import HFConfig, TextConfig, VisionConfig
from omma.models.weights import from_pretrained, load_matching, model_folder, read_config
from omma.table import Table
from omma.training import checkpoint as checkpoints
from omma.training.clip_config import ClipTrainConfig
from omma.training.distributed import ALONE, World
from omma.training.job import check_run
from omma.training.optim import freeze
from omma.training.rng import key_seed
from omma.training.sources import captions_of
from omma.training.streams import ContrastiveStream

# Fields of a Processor; the others are of words.
PICTURES = ("image_size", "mean", "std", "panels", "panel_gap", "resample", "shortest_side", "rounded")
MOST_TEXTS = 100_000  # that a tokenizer is learned from
LOOKED_AT, LOOKED_AT_IN_TARS = 10_000, 1_000  # captions whose length is looked at before a run; samples of tars


def check(config: ClipTrainConfig, resume: bool, world: World = ALONE) -> Path:
    """The run folder (made). ValueError for what cannot work, before anything is loaded."""
    if not config.data:
        raise ValueError("no data: give the folder of a pictures table, or tars, data=FOLDER. Make a table: "
                         "omma scenes FOLDER, or omma ingest PICTURES FOLDER")  # fmt: skip
    if config.init and (config.vision or config.text):
        raise ValueError(f"init={config.init} is a whole model; leave out vision= and text=, or give both towers' "
                         "sources there")  # fmt: skip
    for name, how, source in (("vision", config.train_vision, config.vision), ("text", config.train_text, config.text)):
        if how != "full" and not config.init and (not source or preset(source)):
            raise ValueError(f"train_{name}={how} keeps the {name} tower's weights, and these would be random; give "
                             f"init=MODEL or {name}=MODEL")  # fmt: skip
    if config.batch_size % world.size:
        raise ValueError(f"batch_size={config.batch_size} is no multiple of the processes, {world.size}; each takes as "
                         "many samples as any other")  # fmt: skip
    if config.compile and config.parallel == "fsdp" and world.size > 1:
        raise ValueError("compile=true compiles whole layers, and parallel=fsdp gathers the parts of one by one; "
                         "leave one of them out")  # fmt: skip
    return check_run(config, resume)


# ---------------------------------------------------------------------------------------------------------- model
@dataclass(frozen=True)
class Part:
    """A tower before the model is made. weights: its state, None for random ones; processor: what its model reads
    pictures or texts with, None for omma's own."""

    config: Any  # VisionConfig, TextConfig or HFConfig
    weights: dict[str, Tensor] | None = None
    processor: Processor | None = None
    projects: int | None = None  # width of the shared space that it projects to by itself


def build(config: ClipTrainConfig, resume: bool = False) -> tuple[CLIP, Processor, str]:
    """Model, processor and where its weights come from, as a run says it. A run that is resumed has both already."""
    previous = checkpoints.latest(config.out) if resume else None
    if previous:
        model, processor = CLIP(read_config(previous.path, CLIPConfig)), Processor.load(previous.path)
        found = ""
    elif config.init:
        model, processor = whole_model(config)
        found = f", weights from {config.init}"
    else:
        model, processor = from_parts(config)
        sources = [f"{name} from {s}" for name, s in (("vision", config.vision), ("text", config.text))
                   if s and not preset(s)]  # fmt: skip
        found = "".join(f", {source}" for source in sources)
    length, held = config.context_length or processor.max_text_len, processor.max_text_len
    if length > held:
        raise ValueError(f"context_length={length}: {config.init or config.text} reads at most {held} tokens")
    processor = replace(processor, max_text_len=length)
    freeze(model, [*(name for name, p in model.named_parameters() if not p.requires_grad), *config.freeze])
    torch.manual_seed(key_seed(config.seed, "lora"))
    tune(model, ways(config))
    return model, processor, found


def ways(config: ClipTrainConfig) -> dict[Tower, Way]:
    """How each tower is trained that isn't trained in full, as `tune` takes it."""
    asked: dict[Tower, str] = {"vision": config.train_vision, "text": config.train_text}
    return {name: config.lora if how == "lora" else "frozen" for name, how in asked.items() if how != "full"}


def preset(name: str) -> CLIPConfig | None:
    """The size of this name, however it is spelt: vit-s-16, vit_s16."""
    plain = lambda text: text.lower().replace("-", "").replace("_", "").replace("/", "")
    return next((size for known, size in PRESETS.items() if plain(known) == plain(name)), None)


def from_parts(config: ClipTrainConfig) -> tuple[CLIP, Processor]:
    """A model of two towers that may never have met. The text tower's tokenizer is its own, or learned from the
    captions where the tower has random weights."""
    vision, text = tower(config, "vision"), tower(config, "text")
    words = text.processor
    if words is None:
        tokenizer = train_wordpiece(texts_of(config, MOST_TEXTS), text.config.vocab_size)
        own = replace(text.config, vocab_size=tokenizer.get_vocab_size())
        if own.pool == "eos" and own.eos_token_id is None:  # the largest id is a word here
            own = replace(own, eos_token_id=tokenizer.token_to_id(SEP))
        text = replace(text, config=own)
        words = Processor(tokenizer, 8, text.config.max_text_len)
    pictures = vision.processor or Processor(words.tokenizer, vision.config.image_size, 8)
    processor = replace(words, **{name: getattr(pictures, name) for name in PICTURES})
    size = preset(config.vision) or config.model
    bias = config.model.logit_bias if config.loss == "auto" else config.loss == "siglip"
    torch.manual_seed(key_seed(config.seed, "init"))
    shared = vision.projects or text.projects or size.embed_dim
    model = CLIP(CLIPConfig(vision=vision.config, text=text.config, embed_dim=shared, logit_bias=bias))
    for module, part in ((model.vision, vision), (model.text, text)):
        if part.weights is not None:
            module.load_state_dict(part.weights)
    return model, processor


def tower(config: ClipTrainConfig, name: Tower) -> Part:
    """The tower that config.vision or config.text names. ValueError for a place that has none."""
    source = config.vision if name == "vision" else config.text
    if size := preset(source) if source else config.model:
        own: Any = size.vision if name == "vision" else size.text
        return Part(resized(config, own))
    if clip_folder(source):
        stored, processor = stored_clip(source, config.image_size if name == "vision" else None)
        module: Any = stored.tower(name)
        own = with_dropout(config, stored.config.vision) if name == "vision" else stored.config.text
        return Part(own, module.state_dict(), processor, module.width if module.projects else None)
    from omma.models import hf, hf_preprocess

    if name == "vision":
        module = hf.vision_tower(source, image_size=config.image_size)
        processor = hf_preprocess.load_processor(source, image_size=config.image_size)
    else:
        module = hf.text_tower(source, context_length=config.context_length)
        processor = hf_preprocess.load_processor(None, source, context_length=config.context_length,
                                                 pad_token=config.pad_token)  # fmt: skip
    own = with_dropout(config, HFConfig(hf=module.config)) if name == "vision" else HFConfig(hf=module.config)
    return Part(own, module.state_dict(), processor, module.width if module.projects else None)


def clip_folder(source: str) -> bool:
    """Whether it is a folder that no Hugging Face model is in: a run or model folder of omma's, or none at all."""
    folder = model_folder(source)
    return folder.is_dir() and not is_hugging_face(folder)


def stored_clip(place: str, image_size: int | None) -> tuple[CLIP, Processor]:
    """The CLIP in a run or model folder of omma's, for pictures of image_size px, None: of its own size."""
    folder = model_folder(place)
    model, processor = from_pretrained(folder, kind=CLIP), Processor.load(folder)
    if image_size and image_size != processor.image_size:
        model, shortest = model.at_resolution(image_size), processor.shortest_side
        shortest = shortest and round(shortest * image_size / processor.image_size)
        processor = replace(processor, image_size=image_size, shortest_side=shortest)
    return model, processor


def resized(config: ClipTrainConfig, own: Any) -> Any:
    """The config of a tower with random weights, with what the run wants otherwise."""
    if isinstance(own, VisionConfig):
        return with_dropout(config, replace(own, image_size=config.image_size or own.image_size))
    return replace(own, max_text_len=config.context_length or own.max_text_len) if isinstance(own, TextConfig) else own


def with_dropout(config: ClipTrainConfig, own: Any) -> Any:
    """A vision tower's config with the run's patch dropout. ValueError for a tower that can't leave patches out."""
    if config.patch_dropout is None:
        return own
    if not isinstance(own, VisionConfig):
        raise ValueError(f"patch_dropout={config.patch_dropout}: a Hugging Face vision tower can't leave patches out; "
                         "take one of omma's sizes, or set patch_dropout=none")  # fmt: skip
    return replace(own, patch_dropout=config.patch_dropout)


def whole_model(config: ClipTrainConfig) -> tuple[CLIP, Processor]:
    """The CLIP at config.init, of omma's or a Hugging Face one, with the run's loss and dropout."""
    assert config.init
    if clip_folder(config.init):
        start, processor = stored_clip(config.init, config.image_size)
        stored, tensors = start.config, start.state_dict()
    else:
        stored, tensors, processor = of_hugging_face(config)
    bias = stored.logit_bias if config.loss == "auto" else config.loss == "siglip"
    torch.manual_seed(key_seed(config.seed, "init"))
    model = CLIP(replace(stored, vision=with_dropout(config, stored.vision), logit_bias=bias))
    _, new = load_matching(model, tensors)
    assert set(new) <= {"logit_bias"}, new
    return model, processor


def of_hugging_face(config: ClipTrainConfig) -> tuple[CLIPConfig, dict[str, Tensor], Processor]:
    """Config and weights of a CLIP made of a Hugging Face CLIP, SigLIP or Chinese-CLIP, and its processor."""
    from omma.models import hf, hf_preprocess

    assert config.init
    dual: Any = hf.load_dual(config.init)
    processor = hf_preprocess.load_processor(config.init, config.init, image_size=config.image_size,
                                             pad_token=config.pad_token)  # fmt: skip
    size = {"image_size": processor.image_size}
    width = dual.vision.width if dual.image_projection is None else dual.image_projection.out_features
    made = CLIPConfig(vision=HFConfig(hf=dual.vision.config | size), text=HFConfig(hf=dual.text.config),
                      embed_dim=width, logit_bias=dual.logit_bias is not None)  # fmt: skip
    tensors = {f"{name}.{key}": value for name in ("vision", "text")
               for key, value in getattr(dual, name).state_dict().items()}  # fmt: skip
    for name in ("image_projection", "text_projection"):
        if (linear := getattr(dual, name)) is not None:
            tensors[f"{name}.weight"] = linear.weight.detach()
    tensors["logit_scale"] = torch.tensor([dual.logit_scale])
    if dual.logit_bias is not None:
        tensors["logit_bias"] = torch.tensor([dual.logit_bias])
    return made, tensors, processor


# ---------------------------------------------------------------------------------------------------------- data
def training_set(config: ClipTrainConfig, processor: Processor, world: World = ALONE) -> ContrastiveStream:
    """The batches of a run, this process's part of each."""
    return ContrastiveStream(config.data, processor, config.dataset, batch_size=config.batch_size, seed=config.seed,
                             part=(world.rank, world.size))  # fmt: skip


def texts_of(config: ClipTrainConfig, most: int) -> list[str]:
    """Up to so many captions of the run's data, or of the table that config.words names, each once."""
    found = dict.fromkeys(islice(captions(config, most), most))
    return list(found)


def captions(config: ClipTrainConfig, most: int) -> Iterable[str]:
    place, c = config.words or config.data, config.dataset
    if (Path(place) / "manifest.json").is_file():
        return captions_of(Table.open(place), c.where, c.languages)
    pairs = open_pairs(place, where=c.where, languages=c.languages, captions=c.captions, wrong=None)
    return (text for i in range(0, len(pairs), max(1, len(pairs) // most)) for text in pairs.read(i).captions)


def cut_share(config: ClipTrainConfig, batches: ContrastiveStream) -> tuple[int, int]:
    """How many captions are longer than the model reads, and of how many: of the first of a table, or of some from all
    over the tars, where a caption is read with its picture."""
    pairs = batches.pairs
    if isinstance(pairs, TablePairs):
        found = captions_of(pairs.table, config.dataset.where, config.dataset.languages)
        texts = list(islice(found, LOOKED_AT))
    else:
        spread = range(0, len(pairs), -(-len(pairs) // LOOKED_AT_IN_TARS))
        texts = [text for number in spread for text in pairs.read(number).captions]
    return batches.processor.cut_texts(texts), len(texts)
