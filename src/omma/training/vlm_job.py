"""A VLM as a job of the loop: an eye, an adapter and a language model that learn from questions with answers."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omma.models.chat import Chat, chat_tokenizer
from omma.models.packing import PACKED, Packing
from omma.models.preprocess import Processor
from omma.models.pretrained import autocast
from omma.models.towers import VisionConfig
from omma.models.vlm import OmmaVLM, VLMConfig, eye_settings, read_vlm, save_vlm, settings_of_eye, start_from
from omma.models.vlmo_config import VLMoConfig
from omma.models.weights import model_folder
from omma.table import Table
from omma.training import checkpoint as checkpoints
from omma.training.chat import ChatBatch, ChatBatches, read_questions, texts_for_words
from omma.training.distributed import World
from omma.training.job import check_run, in_steps
from omma.training.objectives import IGNORE
from omma.training.optim import EMA, freeze, parameter_groups
from omma.training.rng import key_seed
from omma.training.vlm_config import VLMTrainConfig
from omma.training.vlm_eval import held_out

WRITERS = ("o_proj.weight", "down_proj.weight")


class ChatStep(nn.Module):
    """What a batch comes to, as the forward of a module, which is where DDP takes hold."""

    def __init__(self, model: OmmaVLM, processor: Processor):
        super().__init__()
        self.model, self.processor = model, processor

    def forward(self, pixels: Tensor | None, input_ids: Tensor, segments: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """loss: the mean over the answers' tokens; right: how many of them are the likeliest; tokens: how many."""
        model, packing = self.model, Packing.of(segments, input_ids.shape[1] - targets.shape[1])
        pixel_values = None if pixels is None else self.processor.normalize(pixels)
        states = model.model(input_ids=input_ids, pixel_values=pixel_values,
                             position_ids=packing.position_ids, use_cache=False, packing=packing)  # fmt: skip
        places = (targets.flatten() != IGNORE).nonzero()[:, 0]
        wanted = targets.flatten().index_select(0, places)
        states = states.last_hidden_state[:, packing.prefix :].flatten(0, 1).index_select(0, places)
        logits = model.lm_head(states)
        logits = logits if logits.dtype == torch.float64 else logits.float()
        right = (logits.argmax(dim=-1) == wanted).sum()
        return {"loss": F.cross_entropy(logits, wanted), "right": right, "tokens": places.new_tensor(len(places))}


class VLMJob:
    """Training of a VLM. ValueError for a config that cannot run."""

    def __init__(self, config: VLMTrainConfig, resume: bool, world: World, device: torch.device):
        self.world, self.device = world, device
        with world.all_through():
            check(config, resume, world)
            previous = checkpoints.latest(config.out) if resume else None
            self.model, self.processor, self.started_from = build(config, previous.path if previous else None)
            chat, data = Chat(self.processor, self.model.config.image_seq_length), config.dataset
            unseen = ["model.eye.*", "model.adapter.*"] if data.reads else ["model.eye.*"] if config.eye_lr == 0 else []
            freeze(self.model, [*config.freeze, *unseen])
            asked = read_questions(Table.open(config.data), data.where, data.captions > 0, data.reads)
            self.batches = ChatBatches(asked, chat, data, batch_size=config.batch_size, seed=config.seed,
                                       part=(world.rank, world.size))  # fmt: skip
            self.config = in_steps(config, self.batches.steps_per_epoch)
            self.evaluate: Callable[[Any, Any], dict[str, float]] | None = (
                held_out(config.val, config.val_where, config.val_rows) if config.val else None
            )
        self.model.set_attn_implementation(PACKED)
        self.weights = {"answer": 1.0}
        self.merges = True  # a head that shares its weights is not in the model's file
        self.checks_start = False
        left_out = ", ".join(f"{n:,} items with {reason}" for reason, n in asked.skipped.items())
        self.notes = [f"left out: {left_out}"] if left_out else []
        self.met: Counter[str] = Counter()
        self.last = torch.zeros(())

    def spread(self) -> nn.Module:
        step = ChatStep(self.model, self.processor)
        if self.world.size == 1:
            return step
        return nn.parallel.DistributedDataParallel(step, [self.device] if self.device.type == "cuda" else None)

    def parameter_groups(self) -> list[dict]:
        return parameter_groups(Parts(self.model), self.config.weight_decay, rates={"eye": self.config.eye_lr})

    def begin(self, average: EMA | None) -> None:
        pass

    def backward(self, spread: nn.Module, batch: ChatBatch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        with autocast(self.device, self.config.precision):
            found = spread(batch.pixels, batch.input_ids, batch.segments, batch.targets)
        self.last = found["loss"].detach()
        self.met["right"] += int(found["right"])
        self.met["tokens"] += int(found["tokens"])
        loss = self.world.share(found["loss"], found["tokens"])
        loss.backward()
        return loss, {"answer": loss}

    def finite(self) -> bool:
        return bool(self.last.isfinite())

    def numbers(self) -> dict[str, float]:
        """accuracy: the share of the answers' tokens since the last line that were the likeliest ones."""
        met = torch.tensor([self.met["right"], self.met["tokens"]], dtype=torch.float64)
        right, tokens = self.world.mean(met).tolist()
        self.met.clear()
        return {"accuracy": right / max(1.0, tokens)}

    def model_of(self, state: dict[str, Tensor]) -> OmmaVLM:
        model = OmmaVLM(self.model.config)  # type: ignore[arg-type]
        model.load_state_dict(state)
        return model.to(self.device).eval()  # type: ignore[arg-type]

    def save(self, folder: Path, state: dict[str, Tensor]) -> None:
        save_vlm(self.model, folder, state)
        self.processor.save(folder)


class Parts(nn.Module):
    """Eye, adapter, language model and head side by side: the names that learning rates go by."""

    def __init__(self, model: OmmaVLM):
        super().__init__()
        self.eye, self.adapter, self.language_model = model.model.eye, model.model.adapter, model.model.language_model
        self.lm_head = model.lm_head


# ---------------------------------------------------------------------------------------------------------- before
def check(config: VLMTrainConfig, resume: bool, world: World) -> Path:
    """The run folder (made). ValueError for what cannot work, before anything is loaded."""
    if not config.data:
        raise ValueError("no data: give a table of questions, data=FOLDER/items. Draw one: omma scenes FOLDER "
                         "--questions 12")  # fmt: skip
    if config.dataset.reads and config.val:
        raise ValueError(f"val={config.val}: with dataset.reads there is nothing to look at; `accuracy` in "
                         "metrics.jsonl says how well it answers by reading")  # fmt: skip
    if config.init and (config.eye or config.reader):
        raise ValueError(f"init={config.init} is a whole VLM with an eye and words of its own; leave out "
                         f"{f'eye={config.eye}' if config.eye else f'reader={config.reader}'}")  # fmt: skip
    if config.layer_decay is not None:
        raise ValueError(f"layer_decay={config.layer_decay}: a VLM has one rate, and eye_lr= for its eye")
    if config.parallel == "fsdp" and world.size > 1:
        raise ValueError("parallel=fsdp: a VLM is trained with parallel=ddp")
    return check_run(config, resume)


def build(config: VLMTrainConfig, previous: Path | None = None) -> tuple[OmmaVLM, Processor, str]:
    """Model, processor and where its weights come from, as a run says it: those of a checkpoint, of init, or new ones
    with the eye that config names."""
    if previous:
        return read_vlm(previous), Processor.load(previous), ""
    if config.init:
        folder = model_folder(config.init)
        model, processor = read_vlm(folder), Processor.load(folder)
        eye = at_steps(settings_of_eye(folder), config.image_size, config.patch_size)
        processor = replace(processor, image_size=eye.image_size)
        return with_eye(model, eye, folder), processor, f", weights from {config.init}"
    eye = config.vision
    if config.eye:
        eye = at_steps(settings_of_eye(config.eye), config.image_size, config.patch_size)
    torch.manual_seed(key_seed(config.seed, "init"))
    if config.reader:
        folder = model_folder(config.reader)
        reader = read_vlm(folder)
        processor = replace(Processor.load(folder), image_size=eye.image_size)
        model = OmmaVLM(VLMConfig(eye=eye_settings(eye), text_config=reader.config.text_config.to_dict(),
                                  image_token_id=reader.config.image_token_id,
                                  adapter_size=config.adapter_size))  # fmt: skip
        model.model.language_model.load_state_dict(reader.model.language_model.state_dict())
        model.lm_head.load_state_dict(reader.lm_head.state_dict())
    else:
        model, processor = new_vlm(config, eye)
    said = f", words and language model from {config.reader}" if config.reader else ""
    if not config.eye:
        return model, processor, said
    taken, kept = start_from(model, config.eye)
    return model, processor, f"{said}, {len(taken)} tensors of the eye from {config.eye}" + (
        f" ({len(kept)} are new: {', '.join(kept[:3])})" if kept else "")  # fmt: skip


def new_vlm(config: VLMTrainConfig, eye: VLMoConfig | VisionConfig) -> tuple[OmmaVLM, Processor]:
    """A VLM with new weights, and words learned from the run's data."""
    words, t = Table.open(config.words or config.data), config.text
    tokenizer = chat_tokenizer(texts_for_words(words, None), config.vocab_size)
    processor = Processor(tokenizer, eye.image_size, t.max_tokens)
    text = {"vocab_size": tokenizer.get_vocab_size(), "hidden_size": t.hidden_size, "intermediate_size": t.mlp_size,
            "num_hidden_layers": t.num_layers, "num_attention_heads": t.num_heads,
            "num_key_value_heads": t.num_kv_heads, "max_position_embeddings": t.max_tokens,
            "initializer_range": 0.02 * (768 / t.hidden_size) ** 0.5, "rms_norm_eps": 1e-6,
            "tie_word_embeddings": True, **special_ids(Chat(processor, 1))}  # fmt: skip
    image_token_id = Chat(processor, 1).pictures(1)[1]
    model = OmmaVLM(VLMConfig(eye=eye_settings(eye), text_config=text, image_token_id=image_token_id,
                              adapter_size=config.adapter_size))  # fmt: skip
    begin_near_identity(model.model.language_model)
    return model, processor


@torch.no_grad()
def begin_near_identity(language_model: nn.Module) -> None:
    """Scales what the layers write to the residual stream by one over the root of how many writings there are (GPT-2,
    Radford et al. 2019): what the eye says comes through to the top from the first step on."""
    writers = [p for name, p in language_model.named_parameters() if name.endswith(WRITERS)]
    for weight in writers:
        weight.mul_(len(writers) ** -0.5)


def special_ids(chat: Chat) -> dict[str, int]:
    return {"pad_token_id": chat.pad_id, "bos_token_id": chat.pictures(0)[0], "eos_token_id": chat.end_id}


def with_eye(model: OmmaVLM, eye: VLMoConfig | VisionConfig, folder: Path) -> OmmaVLM:
    """The model of a folder with its eye at these settings, positions read anew."""
    settings = eye_settings(eye)
    if settings == model.config.eye:
        return model
    c = model.config
    other = OmmaVLM(VLMConfig(eye=settings, text_config=c.text_config.to_dict(), image_token_id=c.image_token_id,
                              adapter_size=c.adapter_size))  # fmt: skip
    rest = {name: value for name, value in model.state_dict().items() if not name.startswith("model.eye.")}
    other.load_state_dict(rest, strict=False)
    start_from(other, folder)
    return other.eval()


def at_steps(
    eye: VLMoConfig | VisionConfig, image_size: int | None, patch_size: int | None
) -> VLMoConfig | VisionConfig:
    """The eye for pictures of another size, and with patches half as large, or again as they were, where its stem is of
    convolutions. None: as it is. ValueError for other patches.
    """
    image_size, patch_size = image_size or eye.image_size, patch_size or eye.patch_size
    if patch_size == eye.patch_size:
        return replace(eye, image_size=image_size)
    if isinstance(eye, VLMoConfig) and eye.stem == "conv":
        whole = eye.patch_size * (1 + eye.fine_stem)
        if patch_size in (whole, whole // 2):
            return replace(eye, image_size=image_size, patch_size=patch_size, fine_stem=patch_size < whole)
    raise ValueError(f"patch_size={patch_size}: this eye has patches of {eye.patch_size} px; give that, or half of it "
                     "for a VLMo with a stem of convolutions")  # fmt: skip
