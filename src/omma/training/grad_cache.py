"""The gradient of a batch as large as wanted, with the activations of a chunk of it: GradCache (Gao et al. 2021).

A contrast compares all rows with all, so the mean of chunks' losses is another loss than the batch's. Its gradient,
though, reaches a row's activations through the row's vectors alone. So the whole batch is embedded without activations,
the loss is taken of the vectors, and each chunk is embedded again, with the same randomness, and continues the backward
pass from its own vectors' gradients. That costs a forward pass more, and memory for a row's vectors.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

Embeds = Mapping[str, Tensor]


def backward_in_chunks(
    step: Callable[[Any], Embeds],
    chunks: Sequence[Any],
    losses: Callable[[dict[str, Tensor]], Mapping[str, Tensor]],
    weights: Mapping[str, float] | None = None,
) -> dict[str, Tensor]:
    """Adds the gradient of the losses of the whole batch to the parameters' `grad`; returns the losses, by name.

    step: a module, as it is or under DDP or FSDP2, or a function: a chunk -> tensors by name. A tensor of no dimension
    is one of the whole batch, as the logit scale is: the same from every chunk, and its gradient is taken once. All
    others have a row for each of the chunk's samples. A scale belongs into what `step` returns, since DDP and FSDP2
    average the gradients only of what their forward has used.
    losses: of those tensors, the rows of all chunks joined in order -> scalars; their sum counts, each times its
    `weights` where these are given.

    One chunk is a plain step. Gradients are exchanged with other processes once, with the last chunk's. PyTorch's
    randomness (dropout, stochastic depth) is replayed, and left as after one plain pass; that of NumPy, or of
    Python's `random`, can't be. An autocast around the call is that of the passes forward. Normalisation over the batch
    would be that over a chunk. Raises ValueError when there is no chunk.
    """
    if not chunks:
        raise ValueError("a batch of no chunks has no gradient; give one chunk at least")
    if len(chunks) == 1:
        embeds = dict(step(chunks[0]))
        found = dict(losses(embeds))
        with without_autocast():
            total(found, weights).backward()
        return {name: loss.detach() for name, loss in found.items()}

    states, parts = [], []
    with torch.no_grad():
        for chunk in chunks:
            states.append(random_state())
            parts.append(dict(step(chunk)))
    torch.clear_autocast_cache()  # older versions of PyTorch keep weights there that were cast without a gradient
    afterwards = random_state()
    cached = {name: joined([part[name] for part in parts]) for name in parts[0]}
    sizes = {name: [len(part[name]) for part in parts] for name, rows in cached.items() if rows.dim()}
    del parts
    found = dict(losses(cached))
    with without_autocast():
        total(found, weights).backward()

    # What flows back into each chunk: the gradients of its rows; those of the whole batch's numbers into the last one.
    into: list[dict[str, Tensor]] = [{} for _ in chunks]
    for name, vectors in cached.items():
        if vectors.grad is None:
            continue
        if vectors.dim():
            for k, rows in enumerate(vectors.grad.split(sizes[name])):
                into[k][name] = rows
        else:
            into[-1][name] = vectors.grad
    for k, (chunk, state) in enumerate(zip(chunks, states, strict=True)):
        with exchanging(step, k == len(chunks) - 1):
            set_random_state(state)
            outputs = {name: output for name, output in step(chunk).items() if name in into[k] and output.requires_grad}
            with without_autocast():
                torch.autograd.backward(list(outputs.values()), [into[k][name] for name in outputs])
    set_random_state(afterwards)
    return {name: loss.detach() for name, loss in found.items()}


def total(losses: Mapping[str, Tensor], weights: Mapping[str, float] | None) -> Tensor:
    return torch.stack([loss if weights is None else weights[name] * loss for name, loss in losses.items()]).sum()


def joined(parts: list[Tensor]) -> Tensor:
    """The chunks' rows as one tensor that collects a gradient, where it can have one."""
    whole = torch.cat(parts) if parts[0].dim() else parts[0].detach().clone()
    return whole.requires_grad_(whole.is_floating_point())


@contextlib.contextmanager
def exchanging(step: Any, wanted: bool) -> Iterator[None]:
    """A forward and backward pass whose gradients are exchanged with other processes, or only added up here."""
    if hasattr(step, "set_requires_gradient_sync"):  # FSDP2
        step.set_requires_gradient_sync(wanted)
        yield
    elif hasattr(step, "no_sync") and not wanted:  # DDP
        with step.no_sync():
            yield
    else:
        yield


def random_state() -> tuple[Tensor, Tensor | None]:
    """Where PyTorch's random numbers stand, on the CPU and on the accelerator in use."""
    return torch.get_rng_state(), None if (on := accelerator()) is None else torch.get_device_module(on).get_rng_state()


def set_random_state(state: tuple[Tensor, Tensor | None]) -> None:
    on_cpu, on_accelerator = state
    torch.set_rng_state(on_cpu)
    if on_accelerator is not None:
        torch.get_device_module(accelerator()).set_rng_state(on_accelerator)


def accelerator() -> torch.device | None:
    """What this process computes on beside the CPU. A GPU that nothing has used yet is not woken for it."""
    found = torch.accelerator.current_accelerator()
    return None if found is None or (found.type == "cuda" and not torch.cuda.is_initialized()) else found


@contextlib.contextmanager
def without_autocast() -> Iterator[None]:
    """For backward passes: each of their products is in the precision that its forward had."""
    types = ["cpu"] if (found := accelerator()) is None else ["cpu", found.type]
    with contextlib.ExitStack() as stack:
        for kind in types:
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield
