"""Everything the training of a VLM depends on, beside what every run has."""

import math
from dataclasses import dataclass, field

from omma.config import refuse_outside
from omma.models.towers import VisionConfig
from omma.training.config import RunConfig


@dataclass(frozen=True, kw_only=True)
class TextSize:
    """Sizes of the language model, a Llama (Touvron et al. 2023)."""

    hidden_size: int = 192
    num_layers: int = 6
    num_heads: int = 3
    num_kv_heads: int = 3  # fewer than heads: several of these share their keys and values
    mlp_size: int = 512
    max_tokens: int = 2048  # of a prompt with its answer

    def __post_init__(self):
        refuse_outside(self, dict.fromkeys(self.__dataclass_fields__, (1, math.inf)))
        if self.hidden_size % self.num_heads or self.num_heads % self.num_kv_heads:
            raise ValueError(f"hidden_size={self.hidden_size} has to divide by num_heads={self.num_heads}, and that by "
                             f"num_kv_heads={self.num_kv_heads}")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ChatDataConfig:
    """What a batch of questions is made of."""

    where: str | None = None  # an expression over the items' columns, e.g. "pattern != 'position'"
    lanes: int = 6  # of a picture's row: each holds questions with their answers, one after the other
    lane_tokens: int = 32  # of a lane; a question that is longer is left out
    # A column of the pictures with texts that stand in their place: a language model learns to answer by reading first.
    reads: str | None = None
    read_tokens: int = 72  # of these texts, with a token behind each; what is longer is cut
    captions: float = 0.15  # share of the pictures that are described too, where their table has captions
    crop_scale: float = 0.9  # smallest share of the picture's area that a random crop keeps; 1.0: no crop
    jitter: float = 0.1  # brightness and contrast change at random by up to this share
    flip: bool = False  # mirror half of the pictures; wrong wherever an answer says left or right

    def __post_init__(self):
        refuse_outside(self, {"lanes": (1, math.inf), "lane_tokens": (4, math.inf), "read_tokens": (1, math.inf),
                              "captions": (0.0, 1.0),
                              "crop_scale": (0.001, 1.0), "jitter": (0.0, 1.0)})  # fmt: skip


# A tower for an eye from random weights: 196 visual tokens of 8 px.
EYE = VisionConfig(image_size=112, patch_size=8, hidden_size=192, num_layers=4, num_heads=3, stem="conv", pool="mean",
                   class_token=False, norm_eps=1e-6)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class VLMTrainConfig(RunConfig):
    """Everything a VLM's run depends on. data: a table of items, with its pictures beside it. init of RunConfig is a
    whole VLM here, whose words are kept and whose sizes too, but for those of its pictures."""

    eye: str = ""  # a shipped eye, or a run or folder of a VLMo, a CLIP or a VLM, whose eye it starts with; "": random
    vision: VisionConfig = EYE  # of a random eye
    reader: str = ""  # a run or folder of a VLM whose words and language model it starts with, as of a run that read
    # Pixels of a picture and of a visual token, where an eye that there is shall have others than its own: patches half
    # as large, or again as they were, where its stem is of convolutions. None: its own.
    image_size: int | None = None
    patch_size: int | None = None
    adapter_size: int | None = None  # between the adapter's two layers; None: as wide as the language model
    text: TextSize = field(default_factory=TextSize)
    vocab_size: int = 1000  # at most
    dataset: ChatDataConfig = field(default_factory=ChatDataConfig)
    eye_lr: float = 1.0  # factor on the learning rate of the eye; 0 keeps it as it is

    val: str = ""  # a table of items that is asked every eval_every steps, and at the end
    val_where: str | None = None  # which of its rows
    val_rows: int = 5000  # of these at most, whole pictures, evenly spread

    def __post_init__(self):
        super().__post_init__()
        refuse_outside(self, {"eye_lr": (0.0, math.inf), "vocab_size": (8, math.inf), "val_rows": (1, math.inf)})

    @property
    def evaluates(self) -> bool:
        return bool(self.val)
