"""The training state of processes that hold a slice of every weight each: everyone writes its own slices.

By torch.distributed.checkpoint, so any number of processes reads it, whether they share the weights or hold all each.
"""

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from omma.training.optim import EMA


def save_shards(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, average: EMA | None, step: int
) -> None:
    """Writes what continuing at `step` needs. Collective; nothing is gathered, and every file is synced."""
    import torch.distributed.checkpoint as dcp

    state = named(model, optimizer, average) | {"step": torch.tensor(step)}
    dcp.save(state, storage_writer=dcp.FileSystemWriter(folder, sync_files=True))


@torch.no_grad()
def load_shards(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, average: EMA | None) -> int:
    """Puts what `save_shards` wrote into model, optimizer and average, each laid out as it is; returns the step.

    Collective where there are several processes; each reads what it needs. ValueError: a file is missing or damaged, or
    the state is that of another model.
    """
    import torch.distributed.checkpoint as dcp

    reader = dcp.FileSystemReader(folder)
    try:
        stored = set(reader.read_metadata().state_dict_metadata)
        moments: dict[nn.Parameter, dict[str, Tensor]] = {}
        for name, parameter in model.named_parameters():
            if f"optimizer.{name}.step" in stored:  # none where no step has had a gradient for it
                moments[parameter] = {"exp_avg": torch.zeros_like(parameter), "exp_avg_sq": torch.zeros_like(parameter),
                                      "step": torch.zeros((), device=parameter.device)}  # fmt: skip
        state = named(model, optimizer, average, moments) | {"step": torch.tensor(0)}
        if missing := sorted(state.keys() - stored):
            raise ValueError(f"it lacks {', '.join(missing[:4])} ({len(missing)}), which this run needs")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # one process can read it too
            dcp.load(state, storage_reader=reader)
    except Exception as error:  # a damaged file raises many types
        raise ValueError(f"{folder} can't be read ({type(error).__name__}: {error}); remove {folder.parent} and point "
                         "`last` at an older step") from error  # fmt: skip
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    numbered = {i: moments[p] for i, p in enumerate(parameters) if p in moments}
    optimizer.load_state_dict(optimizer.state_dict() | {"state": numbered})
    return int(state["step"])


def named(
    model: nn.Module, optimizer: torch.optim.Optimizer, average: EMA | None, moments: dict[Any, Any] | None = None
) -> dict[str, Tensor]:
    """Weights, average and the optimiser's moments by name; moments: by parameter, in place of the optimiser's own."""
    state = {f"model.{name}": value.detach() for name, value in model.state_dict().items()}
    state |= {f"average.{name}": value for name, value in (average.state if average else {}).items()}
    for name, parameter in model.named_parameters():
        own = (optimizer.state if moments is None else moments).get(parameter, {})
        state |= {f"optimizer.{name}.{key}": value for key, value in own.items()}
    return state
