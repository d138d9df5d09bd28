"""Masked image modelling: what a hidden patch is to be guessed as.

B batch, N patches, M hidden patches of the batch, D width, F values of a target, K codes.
"""

import math
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from torch import Tensor

from omma.config import refuse_outside
from omma.models.preprocess import Processor
from omma.models.vlmo import VLMo, VLMoConfig
from omma.models.weights import model_folder, read_config
from omma.training import objectives
from omma.training.optim import EMA
from omma.training.patch_tokens import PatchTokens, Teacher


@dataclass(frozen=True, kw_only=True)
class MIMConfig:
    """What masked image modelling guesses."""

    target: Literal["pixels", "features", "tokens"] = "pixels"
    # features: folder of a frozen model that sees the whole picture; None: the running average of the model itself
    teacher: str | None = None
    layers: int = 4  # features: the teacher's top layers, whose states are averaged
    # tokens: folder of a codebook; None: that of `init`, or one learned from the pictures before the first step, unless
    # the table has a column of codes (dataset.patch_codes)
    tokens: str | None = None
    codes: int = 512  # tokens: entries of the codebook; BEiT's tokenizer has 8192

    def __post_init__(self):
        refuse_outside(self, {"layers": (1, math.inf), "codes": (1, math.inf)})


class MIMTarget(Protocol):
    """One way to say what a hidden patch is."""

    def loss(self, model: VLMo, hidden: Tensor, batch: Any, pixel_values: Tensor) -> Tensor:
        """The loss over hidden patches. hidden: (B, N, D), the patches' last states; pixel_values: (B, 3, h, w)."""
        ...

    def save(self, folder: Path) -> None:
        """Puts into a model folder what the target needs beside the model."""
        ...


class PixelTarget:
    """The patch's own pixels, at zero mean and unit variance (MAE, He et al. 2022)."""

    def loss(self, model: VLMo, hidden: Tensor, batch: Any, pixel_values: Tensor) -> Tensor:
        targets = objectives.patch_pixels(pixel_values, model.config.patch_size)
        return objectives.mim_loss(model.mim_head(hidden), targets, batch.patch_mask)

    def save(self, folder: Path) -> None:
        """Nothing: pixels are in the picture."""


class FeatureTarget:
    """What a teacher that sees the whole picture makes of the patch (data2vec, Baevski et al. 2022)."""

    def __init__(self, teacher: Teacher, processor: Processor):
        self.teacher, self.processor = teacher, processor

    def loss(self, model: VLMo, hidden: Tensor, batch: Any, pixel_values: Tensor) -> Tensor:
        targets = self.teacher.states(pixel_values, model.config.patch_size, *self.processor.scale)
        return objectives.mim_loss(model.mim_head(hidden), targets, batch.patch_mask)

    def save(self, folder: Path) -> None:
        """Nothing: the teacher is the run's average, or stands in a folder of its own."""


class TokenTarget:
    """The number of the patch's visual token (BEiT, Bao et al. 2021): of a codebook, or as the table has it."""

    def __init__(self, tokens: PatchTokens | None):
        self.tokens = tokens

    def loss(self, model: VLMo, hidden: Tensor, batch: Any, pixel_values: Tensor) -> Tensor:
        codes = batch.patch_codes if self.tokens is None else self.tokens.codes(pixel_values)
        if self.tokens is None and not 0 <= int(codes.min()) <= int(codes.max()) < model.mim_head.out_features:
            raise ValueError(f"the table's patch codes reach from {int(codes.min())} to {int(codes.max())}, and the "
                             f"model guesses 0 to {model.mim_head.out_features - 1}; set mim.codes to their number")
        where = batch.patch_mask  # a word of the picture: the head sees hidden patches only, as that of mlm
        return objectives.mlm_loss(model.mim_head(hidden[where]), codes[where])

    def save(self, folder: Path) -> None:
        """The codebook, so that another stage can go on with it."""
        if self.tokens is not None:
            self.tokens.save(folder)


# ------------------------------------------------------------------------------------------------ before the first step
def head_size(config: MIMConfig, model: VLMoConfig) -> int | None:
    """Outputs of the model's head for masked image modelling; None: as many as a patch has values."""
    if config.target == "tokens":
        return config.codes
    if config.target == "features":
        return model.hidden_size if config.teacher is None else read_config(model_folder(config.teacher)).hidden_size
    return None


def own_teacher(model: VLMo, average: EMA, layers: int, processor: Processor) -> Teacher:
    """A teacher that is the model's running average: it shares the average's tensors, so it moves with them."""
    copy = deepcopy(model).eval().requires_grad_(False)
    copy.load_state_dict(average.state, assign=True)
    return Teacher(copy, layers, *processor.scale)
