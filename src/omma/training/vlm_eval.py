"""How a VLM answers the questions of a table: exactly, by pattern, beside the same model without the picture.

Greedy decoding writes an answer word for word when and only when every token of it is the likeliest one behind those
before it. So one pass over question and answer says whether it would, and many questions share a row, as in training.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from omma.models.chat import Chat
from omma.models.packing import PACKED, Packing
from omma.models.preprocess import Processor
from omma.models.vlm import OmmaVLM
from omma.table import Table
from omma.training.batches import decoded
from omma.training.chat import Asked, Row, fill_lanes, laid_out, read_questions, token_rows
from omma.training.objectives import IGNORE

LANES, LANE_TOKENS, AT_ONCE = 6, 48, 16
YES_NO = (("yes", "no"), ("true", "false"))


def answered(model: OmmaVLM, processor: Processor, asked: Asked, blank: bool = False) -> np.ndarray:
    """Whether each question of `asked` is answered word for word: (n,) bool. blank: without the pictures, a grey one in
    the place of each. A question too long for a lane counts as not answered."""
    chat = Chat(processor, model.config.image_seq_length)
    rows = token_rows(asked.texts, chat)
    found = np.zeros(len(asked), dtype=bool)
    before = model.config._attn_implementation
    model.set_attn_implementation(PACKED)
    device = next(model.parameters()).device
    grey = np.full((3, processor.image_size, processor.image_size), 128, dtype=np.uint8)
    packed = list(rows_of_all(asked, rows, chat))
    try:
        for start in range(0, len(packed), AT_ONCE):
            part = packed[start : start + AT_ONCE]
            pixels = np.stack([grey if blank else processor.pixels(decoded(asked.pictures[i], asked.root))
                               for i, _, _ in part])  # fmt: skip
            tensors = {k: v.to(device) for k, v in laid_out([row for _, _, row in part], chat).items()}
            right = right_answers(model, processor.normalize(torch.from_numpy(pixels).to(device)), **tensors)
            for (_, numbers, row), said in zip(part, right, strict=True):
                found[[numbers[k] for k in row.held]] = said[: len(row.held)]
    finally:
        model.set_attn_implementation(before or "sdpa")
    return found


def rows_of_all(asked: Asked, rows: list[np.ndarray], chat: Chat) -> Iterator[tuple[int, list[int], Row]]:
    """Every question of every picture: (picture, numbers of the questions offered, row), as many rows as it takes."""
    for picture in range(len(asked.ids)):
        left = list(range(asked.first[picture], asked.first[picture + 1]))
        left = [n for n in left if sum(len(rows[t]) for t in asked.turns[n]) <= LANE_TOKENS]
        while left:
            turns = [(rows[q], rows[a]) for q, a in asked.turns[left].tolist()]
            row = fill_lanes(turns, LANES, LANE_TOKENS, chat.pad_id)
            yield picture, left, row
            held = set(row.held)
            left = [n for k, n in enumerate(left) if k not in held]


@torch.inference_mode()
def right_answers(
    model: OmmaVLM, pixel_values: torch.Tensor, input_ids: torch.Tensor, segments: torch.Tensor, targets: torch.Tensor
) -> list[list[bool]]:
    """Of each row, whether its questions are answered word for word, in the order of their segments."""
    packing = Packing.of(segments, input_ids.shape[1] - targets.shape[1])
    states = model.model(input_ids=input_ids, pixel_values=pixel_values, position_ids=packing.position_ids,
                         use_cache=False, packing=packing).last_hidden_state  # fmt: skip
    said = model.lm_head(states[:, packing.prefix :]).argmax(dim=-1)
    wrong = ((said != targets) & (targets != IGNORE)).cpu().numpy()
    owner = segments.flatten(1).cpu().numpy()
    return [[not wrong[b][owner[b] == k].any() for k in range(owner[b].max() + 1)] for b in range(len(owner))]


def spread_out(asked: Asked, most: int) -> Asked:
    """Whole pictures, evenly spread, with at most so many questions together (one picture at least)."""
    share = max(1, int(len(asked.ids) * min(1.0, most / len(asked))))
    kept = np.linspace(0, len(asked.ids) - 1, share).astype(int)
    numbers = [n for i in kept for n in range(asked.first[i], asked.first[i + 1])]
    sizes = [asked.first[i + 1] - asked.first[i] for i in kept]
    return Asked([asked.ids[i] for i in kept], [asked.pictures[i] for i in kept], asked.root,
                 np.concatenate([[0], np.cumsum(sizes)]), asked.turns[numbers], [asked.patterns[n] for n in numbers],
                 asked.texts, [asked.captions[i] for i in kept], [asked.read[i] for i in kept],
                 asked.skipped)  # fmt: skip


def kinds_of(asked: Asked) -> list[str]:
    """Of each question "yes/no" or "free", by its answer."""
    binary = {asked.texts.index(word) for pair in YES_NO for word in pair if word in asked.texts}
    return ["yes/no" if a in binary else "free" for a in asked.turns[:, 1].tolist()]


def table_of(asked: Asked, right: np.ndarray, blind: np.ndarray) -> dict[str, dict[str, float]]:
    """For all, for yes/no and free-form questions, and for each pattern of either: how many, the share that is right,
    the blind share, and that of the most frequent answer to the same words."""
    groups: dict[str, list[int]] = defaultdict(list)
    kinds = kinds_of(asked)
    for n, (pattern, kind) in enumerate(zip(asked.patterns, kinds, strict=True)):
        for name in ("all", kind, *((f"{pattern} {kind}",) if pattern else ())):
            groups[name].append(n)
    out: dict[str, dict[str, float]] = {}
    for name in sorted(groups, key=lambda name: (name not in ("all", "yes/no", "free"), name)):
        some = groups[name]
        most = Counter(asked.turns[some, 1].tolist()).most_common(1)[0][1]
        out[name] = {"n": len(some), "right": float(right[some].mean()), "blind": float(blind[some].mean()),
                     "majority": most / len(some)}  # fmt: skip
    return out


def held_out(place: str, where: str | None, rows: int) -> Callable[[Any, Processor], dict[str, float]]:
    """The evaluation of a run: the share of a table's questions answered word for word, all, yes/no and free-form, by
    pattern, and without the picture."""
    asked = spread_out(read_questions(Table.open(place), where), rows)

    def evaluate(model: Any, processor: Processor) -> dict[str, float]:
        right, blind = (answered(model, processor, asked, blank) for blank in (False, True))
        found = table_of(asked, right, blind)
        numbers = {name.replace(" ", "."): values["right"] for name, values in found.items()}
        return numbers | {f"blind.{name}": found[name]["blind"] for name in ("all", "yes/no", "free") if name in found}

    return evaluate
