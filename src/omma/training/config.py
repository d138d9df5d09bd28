"""Everything a training run depends on, in one dataclass: what every run has, and what a VLMo's adds."""

import math
from dataclasses import dataclass, field
from typing import Literal

from omma.config import refuse_outside
from omma.models.vlmo_config import VLMoConfig
from omma.training.batches import DataConfig
from omma.training.losses import Contrast, LossWeights
from omma.training.mim import MIMConfig


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What every run depends on, whatever it trains."""

    recipe: str = ""
    data: str = ""  # folder of a pictures table
    out: str = ""  # the run folder
    words: str | None = None  # table whose texts the tokenizer is learned from; None: data
    init: str | None = None  # model folder or run to start from: every weight whose name and shape fit
    freeze: tuple[str, ...] = ()  # shell patterns over parameter names, or a group such as "vision"

    steps: int = 1000
    epochs: float = 0.0  # over 0: that many passes over the data instead of `steps`, the first tenth a warm-up
    batch_size: int = 64  # samples a step, of all processes together; even
    parallel: Literal["ddp", "fsdp"] = "ddp"  # several processes hold all weights each, or each a slice of every one
    peak_lr: float = 1e-3
    schedule: Literal["cosine", "linear"] = "cosine"  # from the peak to the end
    final_lr: float = 0.01  # share of the peak that is left at the end
    warmup: int = 50  # steps
    # Factor on the rate at which the layers' matrices learn by Muon (muon.py), 10 to 20; None: AdamW for all.
    muon: float | None = None
    layer_decay: float | None = None  # factor on the rate for each layer further from the top (BEiT); None: one rate
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-8
    max_grad_norm: float | None = 3.0  # None: gradients are not clipped
    ema: float | None = 0.999

    seed: int = 0
    device: str = "auto"
    precision: str = "auto"  # auto | bf16 | fp32
    compile: bool = False  # the blocks, by torch.compile; other rounding, so a run keeps it to its end (compiling.py)
    threads: int | None = None  # of PyTorch on a CPU: results are the same to the bit for the same number only
    workers: int = 1  # threads that make batches; 0: in the loop
    log_every: int = 10
    save_every: int = 500
    eval_every: int = 0  # 0: no evaluation during training
    monitor: str | None = None  # an evaluated number; the checkpoint where it is largest is kept as `best`
    patience: int = 0  # evaluations in a row without a new best after which the run stops; 0: never
    log: Literal["jsonl", "tensorboard", "wandb"] = "jsonl"  # where the numbers go beside metrics.jsonl
    tensorboard: bool = False  # the same as log=tensorboard

    @property
    def evaluates(self) -> bool:
        """Whether the run measures itself where `train` is given no evaluation."""
        return False

    def __post_init__(self):
        counts = {"batch_size": 1, "log_every": 1, "save_every": 1, "warmup": 0, "workers": 0, "eval_every": 0,
                  "patience": 0, "threads": 0}  # fmt: skip
        factors = ("epochs", "peak_lr", "final_lr", "weight_decay", "eps", "max_grad_norm")
        refuse_outside(self, {name: (low, math.inf) for name, low in counts.items()})
        refuse_outside(self, dict.fromkeys(factors, (0.0, math.inf)) | {"ema": (0.0, 1.0)})
        refuse_outside(self, {"muon": (1e-6, math.inf)})
        if self.muon is not None and self.parallel == "fsdp":
            raise ValueError("muon with parallel=fsdp: Muon needs whole matrices; take parallel=ddp or leave out muon")


@dataclass(frozen=True, kw_only=True)
class TrainConfig(RunConfig):
    """Everything a VLMo's run depends on. Recipes return one whole; the command line changes it by key=value."""

    # The model is that of init; only what differs from VLMoConfig() here, or is given, is set anew, such as a larger
    # image_size.
    inherit: bool = False
    given: tuple[str, ...] = ()  # what was set by hand, as model.drop_path; `omma.config.apply` keeps it
    teacher: str | None = None  # model folder, run or name of the eye that losses.distill learns from
    model: VLMoConfig = field(default_factory=VLMoConfig)
    dataset: DataConfig = field(default_factory=DataConfig)
    losses: LossWeights = field(default_factory=LossWeights)
    mim: MIMConfig = field(default_factory=MIMConfig)
    panels: int | None = None  # a picture is so many panels side by side; None: as init's processor has it
    panel_gap: float = 0.0  # width of the strip between two panels, as a share of the picture's
    prompts: int = 0  # learned vectors before the words (CoOp): with any prompts, all of init stays as it is but these
    visual_prompts: int = 0  # and before the patches
    # Vision-language experts that init has none of: random, as published, or copies of its other experts.
    vl_init: Literal["random", "image", "text"] = "random"
    fusion_share: float = 1.0  # share of a batch that itm and mlm see; the contrast sees all of it
    negatives_within: int = 0  # itm's hard negatives come from so many neighbouring samples; 0: from the whole batch
    trim: float = 0.0  # share of a batch whose captions fit worst by contrast and are left out as wrong
    trim_steps: int = 0  # over so many steps the share grows to `trim`: at the start all captions fit alike
    contrast: Contrast = "global"  # what itc tells a sample apart from, where several processes share a batch
    head_lr: float = 1.0  # factor on the rate of the heads of a task, which start from random weights

    def __post_init__(self):
        super().__post_init__()
        refuse_outside(self, {"fusion_share": (0.0, 1.0), "head_lr": (0.0, math.inf), "trim_steps": (0, math.inf),
                              "panels": (1, math.inf), "panel_gap": (0.0, 1.0)})  # fmt: skip
