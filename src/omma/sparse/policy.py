"""A method with its options and a budget: what a person asked for, checked, and the schedule it gives each picture."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, get_args

import torch
from torch import Tensor

from omma.sparse.methods import METHODS, Method, Positions
from omma.sparse.schedule import Made, scaled, solved
from omma.sparse.stage import Need, Reduction, Stage, honoured


@dataclass(frozen=True, kw_only=True, eq=False)
class Policy:
    """What to drop in a decoder of `layers` layers. Made by `policy_of`."""

    name: str
    method: Method
    options: dict[str, Any]
    layers: int
    positions: Positions
    calibrate: bool
    keep: Tensor | None  # (V,) or (samples, V) bool
    budget: tuple[float, ...] | None = None  # one of these three; one for all samples, or one for each
    ratio: tuple[float, ...] | None = None
    fixed: dict[int, int] | None = None

    @cached_property
    def made(self) -> Made:
        """Tokens dropped at once -> tokens made of them."""
        return partial(self.method.made, **self.options)

    @property
    def vision(self) -> tuple[Need, ...]:
        """What is asked of the vision tower."""
        asked = self.method.vision
        return asked(**self.options) if callable(asked) else asked

    @property
    def reads(self) -> bool:
        """Whether which tokens stay depends on the words of the prompt."""
        asked = self.method.reads
        return asked(**self.options) if callable(asked) else asked

    def schedule(self, tokens: int, sample: int = 0) -> dict[int, int]:
        """{l: tokens kept after layer l} for a sample of so many visual tokens, by its number; {} to keep all.

        ValueError for a budget that can't be reached, as the method reads the attention of layers that see everything.
        """
        if self.fixed is not None:
            return self.fixed
        if self.budget is None and self.ratio is None:  # the method knows itself how many
            return dict.fromkeys(self.stage_layers(), tokens)
        budget = turn(self.budget, sample) if self.budget is not None else turn(self.ratio or (), sample) * tokens
        return scheduled(self.name, self.method, budget, tokens, self.layers, self.made)

    def stage_layers(self) -> range | list[int]:
        """Layers after which it may drop tokens, whatever the picture."""
        if self.fixed is not None:
            return sorted(self.fixed)
        return range(-1, self.layers - 1) if self.method.earlier else list(stages(self.method, self.layers))

    def reduce(self, stage: Stage) -> Reduction:
        """The method's answer, with the tokens that must stay among those kept."""
        reduction = self.method.reduce(stage, **self.options)
        return replace(reduction, kept=honoured(stage, reduction)) if bool(stage.must.any()) else reduction

    def fits(self, samples: list[int]) -> None:
        """ValueError where `keep`, `budget` or `ratio` has rows for samples, and these, in a batch, run over the last.

        samples: numbers, rising.
        """
        rows = {} if self.keep is None or self.keep.ndim == 1 else {"keep": len(self.keep)}
        rows |= {name: len(x) for name in ("budget", "ratio") if (x := getattr(self, name)) is not None and len(x) > 1}
        for name, given in rows.items():
            if samples and samples[0] % given + samples[-1] - samples[0] + 1 > given:
                raise ValueError(
                    f"{name} has {given} rows, and a batch has samples {samples[0]} to {samples[-1]}; give a row for "
                    "each sample of a call, in their order: after the last it begins again with the first"
                )

    def must(self, counts: list[int], visual: Tensor, samples: list[int]) -> Tensor:
        """`keep` on the places of the prompt. visual: (B, L) bool with `counts` tokens a row -> (B, L) bool.

        samples: numbers of the rows' samples. ValueError where `keep` has too few tokens for the batch.
        """
        if self.keep is None or not any(counts):
            return torch.zeros_like(visual)
        if self.keep.shape[-1] < (most := max(counts)):
            raise ValueError(
                f"keep has shape {tuple(self.keep.shape)}, but a sample has {most} visual tokens; give ({most},) for "
                f"all samples alike, or (samples, {most}), shorter rows padded with False"
            )
        keep = torch.atleast_2d(self.keep).to(visual.device)
        keep = keep[[number % len(keep) for number in samples]]
        return visual & keep.gather(1, (visual.cumsum(1) - 1).clamp(min=0, max=keep.shape[1] - 1))


def turn(values: tuple[float, ...], sample: int) -> float:
    """The value of a sample, by its number; after the last comes the first again."""
    return values[sample % len(values)]


def stages(method: Method, layers: int) -> tuple[int, ...]:
    """The method's published layers in a decoder of `layers`."""
    return scaled(method.after, layers, least=0 if method.attention == "before" else -1)


def scheduled(name: str, method: Method, budget: float, tokens: int, layers: int, made: Made) -> dict[int, int]:
    """The method's schedule for a mean of `budget` of `tokens` visual tokens over `layers` layers."""
    after = stages(method, layers)
    found = solved(budget, tokens, layers, after, method.shape, made)
    if method.earlier:  # PyramidDrop: where its own layers would need less than half kept at a stage, earlier ones
        for part in (0.75, 0.5, 0.25, 0.0):
            if found is not None and all(2 * k >= before for before, k in steps(tokens, found)):
                break
            moved = tuple(dict.fromkeys(max(round((layer + 1) * part) - 1, at - 1) for at, layer in enumerate(after)))
            found = solved(budget, tokens, layers, moved, method.shape, made) or found
    if found is None:
        least = (after[0] + 1) * tokens / layers if after else float(tokens)
        raise ValueError(
            f"{name} can't bring a mean of {budget:g} of {tokens} visual tokens: its first stage comes after layer "
            f"{after[0] if after else layers - 1} of {layers}, so more than {least:g} always enter. Ask for more, or "
            f"give a schedule, such as {{0: {max(int(budget), 1)}}}"
        )
    return found


def steps(tokens: int, schedule: dict[int, int]) -> list[tuple[int, int]]:
    """What each stage finds and keeps."""
    kept = list(schedule.values())
    return list(zip([tokens, *kept], kept, strict=False))


def policy_of(
    method: str,
    layers: int,
    *,
    budget: float | Sequence[float] | None = None,
    ratio: float | Sequence[float] | None = None,
    schedule: dict[int, int] | str | None = None,
    keep: Any = None,
    positions: str | None = None,
    calibrate: bool = False,
    **options: Any,
) -> Policy:
    """A policy, checked, for `layers` layers. The arguments are `sparsify`'s; ValueError says what exists."""
    if method not in METHODS:
        raise ValueError(f"no method {method!r}; there are {', '.join(METHODS)}")
    chosen = METHODS[method]
    if unknown := sorted(set(options) - set(chosen.options)):
        raise ValueError(f"{method} has no option {unknown[0]!r}; it has {', '.join(chosen.options) or 'none'}")
    if positions is not None and positions not in get_args(Positions):
        raise ValueError(f"positions {positions!r}; there are {', '.join(get_args(Positions))}")
    given = sum(value is not None for value in (budget, ratio, schedule))
    if given > 1 or (given == 0 and not chosen.adaptive):
        raise ValueError(
            "give one of budget (mean number of visual tokens entering the layers), ratio (the same as a share of the "
            "picture's) and schedule ({layer: tokens kept after it})"
        )
    budgets, ratios = for_samples("budget", budget, float("inf")), for_samples("ratio", ratio, 1.0)
    if isinstance(schedule, str):
        if schedule not in chosen.tables:
            there = ", ".join(chosen.tables) or f"none; it has budgets, such as budget={schedule}"
            raise ValueError(f"{method} has no published table {schedule!r}; there are {there}")
        schedule = table_of(chosen, schedule, layers)
    if schedule is not None:
        least = 0 if chosen.attention == "before" else -1
        if wrong := [layer for layer in schedule if not least <= layer < layers - 1]:
            why = f", as {method} reads the attention of a layer that ran" if least == 0 and -1 in wrong else ""
            raise ValueError(f"schedule has layer {wrong[0]}; tokens can go after layers {least} to {layers - 2}{why}")
        if wrong := [k for k in schedule.values() if not isinstance(k, int) or k < 0]:
            raise ValueError(f"schedule keeps {wrong[0]!r} tokens; whole numbers from 0 on")
        schedule = dict(sorted(schedule.items()))
    if keep is not None:
        keep = torch.as_tensor(keep)
        if keep.dtype != torch.bool or keep.ndim not in (1, 2):
            raise ValueError(
                f"keep is {str(keep.dtype).removeprefix('torch.')} of shape {tuple(keep.shape)}; "
                f"it is bool, (V,) or (samples, V)"
            )
    return Policy(
        name=method,
        method=chosen,
        options=chosen.options | options,
        layers=layers,
        positions=positions or chosen.positions,  # type: ignore[arg-type]
        calibrate=calibrate,
        keep=keep,
        budget=budgets,
        ratio=ratios,
        fixed=schedule,
    )


def for_samples(name: str, given: float | Sequence[float] | None, most: float) -> tuple[float, ...] | None:
    """One number for all samples, or one for each, checked."""
    if given is None:
        return None
    values = tuple(given) if isinstance(given, Sequence) else (given,)
    for value in values:
        if not 0 < value <= most:
            raise ValueError(f"{name} {value!r} is not above 0{' and at most 1' if name == 'ratio' else ''}")
    if not values:
        raise ValueError(f"{name} is empty; give one number for all samples, or one for each")
    return values


def table_of(method: Method, name: str, layers: int) -> dict[int, int]:
    """A published table: its own layers where the decoder has them, its layers scaled in one that is too shallow."""
    table = method.tables[name]
    after = tuple(table) if max(table) < layers - 1 else stages(method, layers)
    return dict(zip(after, table.values(), strict=False))
