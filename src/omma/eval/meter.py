"""How long a VLM takes to read a prompt and to write a word, and what its cache holds.

On a CPU the time is CPU seconds of this process, which other jobs on the machine don't lengthen; on CUDA it is the
device's own, between events in its stream; elsewhere the wall clock. Models to be compared are run in turns, so that a
machine that slows down slows all of them.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from statistics import median
from time import perf_counter, process_time
from typing import Any

import torch
from torch import Tensor

from omma.sparse.account import cache_bytes
from omma.sparse.anatomy import anatomy

CLOCKS = {"cpu": "CPU seconds", "cuda": "seconds between CUDA events"}


class Clock:
    """Moments of a device; `seconds` gives what lay between them."""

    def __init__(self, device: torch.device):
        self.device, self.moments = device, []

    def mark(self) -> int:
        """The number of this moment."""
        if self.device.type == "cuda":
            moment: Any = torch.cuda.Event(enable_timing=True)
            moment.record()
        elif self.device.type == "cpu":
            moment = process_time()
        else:
            getattr(torch, self.device.type).synchronize()
            moment = perf_counter()
        self.moments.append(moment)
        return len(self.moments) - 1

    def seconds(self, begin: int, end: int) -> float:
        one, other = self.moments[begin], self.moments[end]
        if self.device.type == "cuda":
            other.synchronize()
            return one.elapsed_time(other) / 1e3
        return other - one


def clock_name(device: torch.device) -> str:
    return CLOCKS.get(device.type, "seconds on the wall")


@dataclass(frozen=True)
class Spent:
    """One answer. prefill_s: from the call to the first token, vision tower and sampling included; decoder_s: of that
    the text model alone; decode_s: a later token, mean. kv_bytes: of the cache after the prompt. peak_bytes: the most
    that was allocated on a CUDA device, weights included; None elsewhere."""

    prefill_s: float
    decoder_s: float
    decode_s: float
    kv_bytes: int
    peak_bytes: int | None


def spend(model: Any, inputs: Mapping[str, Tensor], new_tokens: int) -> Spent:
    """Have the model write exactly `new_tokens` (2 or more), greedily, and say what that took.

    model: a Hugging Face VLM, as it is or within `omma.sparsify`. inputs: what its forward takes.
    """
    device = model.device
    clock, tokens, passes, held = Clock(device), [], [], []
    parts = anatomy(model)
    text = parts.text

    def each_token(input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        tokens.append(clock.mark())
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)

    def before(module: Any, args: Any) -> None:
        passes.append(clock.mark())

    def after(module: Any, args: Any, output: Any) -> None:
        passes.append(clock.mark())
        if not held:
            held.append(cache_bytes(output.past_key_values))

    hooks = [text.register_forward_pre_hook(before), text.register_forward_hook(after)]
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    try:
        begin = clock.mark()
        model.generate(**inputs, max_new_tokens=new_tokens, min_new_tokens=new_tokens, do_sample=False, num_beams=1,
                       temperature=None, top_p=None, top_k=None, use_cache=True, suppress_tokens=[*parts.visual_ids],
                       stopping_criteria=[each_token])  # fmt: skip
    finally:
        for hook in hooks:
            hook.remove()
    return Spent(
        prefill_s=clock.seconds(begin, tokens[0]),
        decoder_s=clock.seconds(passes[0], passes[1]),
        decode_s=clock.seconds(tokens[0], tokens[-1]) / (len(tokens) - 1),
        kv_bytes=held[0],
        peak_bytes=torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
    )


def in_turns(
    model: Any,
    prompts: Sequence[Mapping[str, Tensor]],
    ways: Mapping[str, Callable[[], AbstractContextManager]],
    *,
    new_tokens: int = 8,
    rounds: int = 3,
) -> dict[str, list[dict[str, Any]]]:
    """{way: one row a prompt and round}, after one round that is not counted. ways: what to enter around each answer.

    A row holds Spent's numbers, prompt and round. Every prompt goes through all ways before the next round.
    """
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in ways}
    for turn in range(-1, rounds):
        for number, inputs in enumerate(prompts):
            for name, enter in ways.items():
                with enter():
                    spent = spend(model, inputs, new_tokens)
                if turn >= 0:
                    found[name].append({"prompt": number, "round": turn, **asdict(spent)})
    return found


def compared(ours: Sequence[dict[str, Any]], theirs: Sequence[dict[str, Any]]) -> dict[str, float | None]:
    """Medians over prompts and rounds, and as `..._ratio` the median over prompts of our median over theirs."""
    found: dict[str, float | None] = {}
    for name in ("prefill_s", "decoder_s", "decode_s", "kv_bytes"):
        found[name] = median(row[name] for row in ours)
        ratios = [median(row[name] for row in ours if row["prompt"] == prompt)
                  / median(row[name] for row in theirs if row["prompt"] == prompt)
                  for prompt in sorted({row["prompt"] for row in ours})]  # fmt: skip
        found[name.removesuffix("_s").removesuffix("_bytes") + "_ratio"] = median(ratios)
    peaks = [row["peak_bytes"] for row in ours if row["peak_bytes"] is not None]
    found["peak_bytes"] = median(peaks) if peaks else None
    return found
