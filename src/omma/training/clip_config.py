"""Everything the training of a CLIP depends on, beside what every run has."""

import math
from dataclasses import dataclass, field
from typing import Literal

from omma.config import refuse_outside
from omma.models.clip import NANO, CLIPConfig
from omma.models.lora import LoRAConfig
from omma.training.config import RunConfig
from omma.training.samples import StreamConfig

Training = Literal["full", "frozen", "lora"]


@dataclass(frozen=True, kw_only=True)
class ClipTrainConfig(RunConfig):
    """Everything a CLIP's run depends on. `init` of RunConfig is a whole model here, of omma's or a Hugging Face one.

    data: a table, or tars: a folder of them, "shards-{000..127}.tar".
    """

    # A size that omma has (nano, vit-s-16, ...), from random weights; a run or folder of a CLIP, or a Hugging Face
    # model, whose tower is taken; "": by model.vision and model.text.
    vision: str = ""
    text: str = ""
    model: CLIPConfig = NANO
    image_size: int | None = None  # pixels; None: the tower's own
    context_length: int | None = None  # tokens of a text; None: the tower's own
    pad_token: str | None = None  # for a tokenizer that has none
    dataset: StreamConfig = field(default_factory=StreamConfig)

    loss: Literal["auto", "infonce", "siglip"] = "auto"  # auto: the one that init was trained with, else InfoNCE
    train_vision: Training = "full"  # frozen: as in LiT; lora: small maps beside its linear layers, merged when saved
    train_text: Training = "full"
    vision_lr: float = 1.0  # factor on the learning rate of the vision tower
    text_lr: float = 1.0
    head_lr: float = 1.0  # and of the two maps into the shared space
    lora: LoRAConfig = field(default_factory=LoRAConfig)
    patch_dropout: float | None = None  # share of the patches that training leaves out; None: as in the model
    chunk: int = 0  # samples of a process whose activations are held at a time (GradCache); 0: of all of a batch
    tile: int | None = None  # rows and columns of the logits that are held at a time; None: by the device

    val: str = ""  # a table that is looked at every eval_every steps, and before the first one where init is given
    val_where: str | None = None  # which of its rows, e.g. "split == 'test'"
    val_rows: int = 1000  # of these, evenly spread
    val_label: str | None = None  # a column with each picture's class: zero-shot accuracy beside retrieval

    def __post_init__(self):
        super().__post_init__()
        counts = {"chunk": 0, "tile": 1, "val_rows": 1, "image_size": 1, "context_length": 1}
        refuse_outside(self, {name: (low, math.inf) for name, low in counts.items()})
        refuse_outside(self, dict.fromkeys(("vision_lr", "text_lr", "head_lr"), (0.0, math.inf)))

    @property
    def evaluates(self) -> bool:
        return bool(self.val)
