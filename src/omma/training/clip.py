"""CLIP as a job of the loop: two towers and a contrast, in chunks where a batch is larger than memory.

b rows of the batch on this process, K captions that are false of a row, E shared space.
"""

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from omma.models.clip import CLIP
from omma.models.layers import unfilled
from omma.models.lora import described, merged, trainable
from omma.models.preprocess import Processor
from omma.models.pretrained import autocast
from omma.models.weights import save_pretrained
from omma.training.clip_config import ClipTrainConfig
from omma.training.clip_eval import held_out
from omma.training.clip_setup import build, check, cut_share, training_set
from omma.training.contrastive import info_nce, siglip
from omma.training.distributed import World, local, shard, whole
from omma.training.grad_cache import backward_in_chunks
from omma.training.job import in_steps
from omma.training.optim import EMA, parameter_groups
from omma.training.streams import PairBatch

LARGEST_SCALE = math.log(100)  # CLIP's ceiling on the logarithm of the scale


class ClipStep(nn.Module):
    """What a chunk of a batch comes to, as the forward of a module, which is where DDP and FSDP take hold."""

    def __init__(self, model: CLIP, processor: Processor):
        super().__init__()
        self.model, self.processor = model, processor

    def forward(self, chunk: dict[str, Tensor]) -> dict[str, Tensor]:
        """image_embeds and text_embeds (b, E), negatives (b, K, E) where there are some, and the scale and bias of the
        logits, 0-d."""
        model, rows = self.model, chunk["input_ids"]
        found = {
            "image_embeds": model.encode_image(self.processor.normalize(chunk["pixels"])),
            "text_embeds": model.encode_text(rows, chunk["attention_mask"]),
            "logit_scale": model.logit_scale.exp().reshape(()),
        }
        if model.logit_bias is not None:
            found["logit_bias"] = model.logit_bias.reshape(())
        if "negative_ids" in chunk:
            b, K, _ = chunk["negative_ids"].shape
            ids, mask = (chunk[name].flatten(0, 1) for name in ("negative_ids", "negative_mask"))
            found["negatives"] = model.encode_text(ids, mask).view(b, K, -1)
        return found


class ClipJob:
    """Training or fine-tuning a CLIP. ValueError for a config that cannot run."""

    def __init__(self, config: ClipTrainConfig, resume: bool, world: World, device: torch.device):
        self.world, self.device = world, device
        with world.one_first():  # an index of tars, a download: made once, found by the others
            check(config, resume, world)
            self.model, self.processor, self.started_from = build(config, resume)
            self.batches = training_set(config, self.processor, world)
            self.evaluate: Callable[[Any, Any], dict[str, float]] | None = held_out(config) if config.val else None
            self.config = in_steps(config, self.batches.steps_per_epoch)
            self.checks_start = bool(config.init)
            self.notes = [] if world.rank else self.first_lines()
        self.weights = {"infonce" if self.model.logit_bias is None else "siglip": 1.0}
        self.merges = "lora" in (config.train_vision, config.train_text)
        self.met: Counter[str] = Counter()  # captions that were cut and samples left out since the last line
        self.last: dict[str, Tensor] = {}  # detached vectors of the last step

    def first_lines(self) -> list[str]:
        """What a run says at its start: what is trained, and what of the data can't be used."""
        lines = [described(trainable(self.model))]
        if self.checks_start and not self.config.val:
            lines.append("no val=TABLE: nothing measures what is lost and won")
        if self.batches.skipped:
            lines.append("left out: " + ", ".join(f"{n:,} {reason}" for reason, n in self.batches.skipped.items()))
        cut, looked = cut_share(self.config, self.batches)
        if cut:
            lines.append(f"{cut:,} of {looked:,} captions are longer than {self.processor.max_text_len} tokens; their "
                         "ends are cut off. A longer context_length reads them")  # fmt: skip
        return lines

    def spread(self) -> nn.Module:
        step = ClipStep(self.model, self.processor)
        if self.world.size == 1:
            return step
        if self.config.parallel == "fsdp":
            shard(step, self.model.blocks, self.device)
            return step
        return nn.parallel.DistributedDataParallel(step, [self.device] if self.device.type == "cuda" else None)

    def parameter_groups(self) -> list[dict]:
        c = self.config
        rates = {"vision": c.vision_lr, "text": c.text_lr}
        return parameter_groups(self.model, c.weight_decay, c.layer_decay, c.head_lr, rates)

    def begin(self, average: EMA | None) -> None:
        pass

    def backward(self, spread: nn.Module, batch: PairBatch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        if self.model.logit_bias is None:  # SigLIP's isn't: that of released ones is 117
            with torch.no_grad():
                local(self.model.logit_scale).clamp_(max=LARGEST_SCALE)
        self.met["cut"] += batch.cut
        self.met["skipped"] += sum(batch.skipped.values())
        with autocast(self.device, self.config.precision):
            parts = chunks(batch, self.config.chunk)
            losses = backward_in_chunks(spread, parts, lambda found: self.contrast(batch, found))
        (total,) = losses.values()
        return total, losses

    def contrast(self, batch: PairBatch, found: dict[str, Tensor]) -> dict[str, Tensor]:
        """The loss of this process's rows among those of all."""
        images, texts, scale = found["image_embeds"], found["text_embeds"], found["logit_scale"]
        self.last = {"images": images.detach(), "texts": texts.detach(), "scale": scale.detach()}
        options: dict[str, Any] = {"keys": batch.keys, "negatives": found.get("negatives"), "tile": self.config.tile,
                                   "negatives_mask": batch.negative_rows, "world": self.world}  # fmt: skip
        if "logit_bias" in found:
            return {"siglip": siglip(images, texts, scale, found["logit_bias"], **options)}
        return {"infonce": info_nce(images, texts, scale, **options)}

    def finite(self) -> bool:
        return all(bool(x.isfinite().all()) for x in self.last.values())

    def numbers(self) -> dict[str, float]:
        images, texts = self.last["images"], self.last["texts"]
        right = (images * texts).sum(dim=-1)
        every = images.sum(dim=0) @ texts.sum(dim=0)  # all b x b cosines together
        wrong = (every - right.sum()) / max(1, len(images) * (len(images) - 1))
        met = torch.tensor([float(self.met["cut"]), float(self.met["skipped"])], device=images.device)
        own = torch.cat((torch.stack((right.mean(), wrong)).float(), met * self.world.size))
        values = self.world.mean(own).tolist()
        self.met.clear()
        numbers = {"similarity_right": values[0], "similarity_wrong": values[1], "cut": values[2], "skipped": values[3]}
        numbers = {name: value for name, value in numbers.items() if value or name.startswith("similarity")}
        numbers["logit_scale"] = float(self.last["scale"])
        if self.model.logit_bias is not None:
            numbers["logit_bias"] = float(whole(self.model.logit_bias.detach()))
        return numbers

    def model_of(self, state: dict[str, Tensor]) -> CLIP:
        with unfilled():
            model = CLIP(self.model.config)
        model.load_state_dict(merged(self.model, state), assign=True)
        return model.to(self.device).eval()

    def save(self, folder: Path, state: dict[str, Tensor]) -> None:
        save_pretrained(self.model, folder, state)
        self.processor.save(folder)


def chunks(batch: PairBatch, size: int) -> list[dict[str, Tensor]]:
    """The tensors that the towers read, `size` rows at a time, or all at once where it is 0."""
    names = ("pixels", "input_ids", "attention_mask", "negative_ids", "negative_mask")
    tensors = {name: value for name in names if (value := getattr(batch, name)) is not None}
    size = size or len(batch.pixels)
    return [{name: value[start : start + size] for name, value in tensors.items()}
            for start in range(0, len(batch.pixels), size)]  # fmt: skip
