"""Between a model and its fine-tuned self: what is won on the new task at how much loss on the old (WiSE-FT)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from omma.models.clip import CLIP
from omma.models.preprocess import Processor
from omma.models.weights import interpolate, save_pretrained
from omma.training.clip_config import ClipTrainConfig
from omma.training.clip_eval import Evaluation, evaluation
from omma.training.clip_setup import whole_model

ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Mix:
    """A model between two. curve: of each alpha the numbers on each table, as old.mrr; folder: where it was written."""

    alpha: float
    folder: str | None
    curve: list[dict[str, float]]


def mix(
    start: str | Path, tuned: str | Path, out: str | Path | None = None, *, alpha: float = 0.5,
    old: str | Path | None = None, new: str | Path | None = None, label: str | None = None, device: str = "cpu",
) -> Mix:  # fmt: skip
    """The CLIP at (1 - alpha) * start + alpha * tuned, written to `out`, with the processor of tuned.

    start: what `tuned` was trained from, a run, a model folder or a Hugging Face CLIP or SigLIP; where it was tuned for
    pictures of another size, the start's positions are read at that size, as the tuning did. old, new: tables of
    the task before and of the one tuned for; each of ALPHAS and alpha is measured on them, label as in
    `clip_eval.evaluation`. ValueError for models of two architectures.
    """
    other, processor = whole_model(ClipTrainConfig(init=str(tuned)))
    one, _ = whole_model(ClipTrainConfig(init=str(start), image_size=processor.image_size))  # as the tuning began
    if one.logit_bias is None or other.logit_bias is None:  # tuned by another loss: the bias is no part of the vectors
        one.logit_bias = other.logit_bias
    first, last = ({name: value.clone() for name, value in model.state_dict().items()} for model in (one, other))
    tables = {name: evaluation(str(table), label=label) for name, table in (("old", old), ("new", new)) if table}
    between = curve(other.to(device), processor, first, last, tables, sorted({*ALPHAS, alpha})) if tables else []
    folder = None
    if out is not None:
        mixed = interpolate(first, last, alpha)
        folder = save_pretrained(other, out, mixed)
        processor.save(folder)
    return Mix(alpha, None if folder is None else str(folder), between)


def curve(
    model: CLIP, processor: Processor, start: Mapping[str, Tensor], end: Mapping[str, Tensor],
    tables: Mapping[str, Evaluation], alphas: Sequence[float],
) -> list[dict[str, float]]:  # fmt: skip
    """The numbers of each evaluation at each alpha, named after its table. The model is left at the last alpha."""
    rows = []
    with torch.no_grad():
        for alpha in alphas:
            model.load_state_dict(interpolate(start, end, alpha))
            row = {"alpha": alpha}
            for name, evaluate in tables.items():
                row |= {f"{name}.{key}": value for key, value in evaluate(model.eval(), processor).items()}
            rows.append(row)
    return rows
