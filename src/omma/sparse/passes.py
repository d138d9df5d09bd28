"""What is known of the passes under way: a call of `generate`, a prompt among the layers, an answer behind it."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from omma.sparse.cache import Plan, PrunedCache
from omma.sparse.layout import Layout
from omma.sparse.masks import Tables
from omma.sparse.stage import Heard


@dataclass
class Call:
    """A run of `generate`: what its prompt is, where a pass may hold more."""

    prompt: int | None  # tokens; those behind it are an assistant's drafts
    batch: int | None
    first: int | None = None  # number of its first sample
    recorded: bool = False
    heard: dict[str, Any] = field(default_factory=dict)  # what the vision tower said of its pictures


@dataclass
class Prompt:
    """The pass of a prompt through the text model."""

    embeds: Tensor
    visual: Tensor
    text: Tensor
    prompt: Tensor
    image: Tensor
    must: Tensor
    wants: dict[int, list[int]]  # {layer: for each row how many tokens enter it}
    counts: list[int]
    samples: list[int]
    every: int
    layouts: list[Layout]
    tables: list[Tables] = field(default_factory=list)  # of each layout
    cache: Any = None
    mask: Any = None
    heard: Heard | None = None
    asking: bool = False  # a layer for its queries and keys before its turn
    last_asks: bool = False  # and of its queries only the last token's
    memo: dict[str, Any] = field(default_factory=dict)
    vision: Any = None


@dataclass
class Answer:
    """A pass behind a shortened prompt."""

    plan: Plan
    cache: PrunedCache
    tail: Tensor | None  # (B, tokens behind the prompt) bool; None: no padding among them
    behind: int  # how many
    seen: dict[int, dict[str, Any]] = field(default_factory=dict)  # {layout: what its layers are given}


def answer(cache: PrunedCache, queries: int, mask: Any) -> Answer:
    """What there is to know of tokens behind a shortened prompt. mask: (B, all of them) or None."""
    assert cache.plan is not None
    behind, tail = cache.appended() + queries, None
    if isinstance(mask, Tensor) and mask.ndim == 2 and mask.shape[1] >= behind:
        tail = mask[:, mask.shape[1] - behind :].bool()
        tail = None if bool(tail.all()) else tail
    return Answer(plan=cache.plan, cache=cache, tail=tail, behind=behind)
