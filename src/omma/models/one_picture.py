"""Several questions on the same pictures: what the prompts begin with runs once, each question goes on from a copy.

What the prompts share are the pictures and the words in front of the questions; the vision tower sees the pictures
once, and where visual tokens are dropped (`omma.sparsify`), they are dropped once. T tokens of a prompt.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def ask(
    model: Any,
    prompt: Callable[[str], dict[str, Tensor]],
    questions: Sequence[str],
    told: dict[str, Any],
    by_first: bool,
) -> list[list[int]]:
    """The tokens that `model.generate(**told)` answers to each question, without the prompts.

    prompt: a question -> what the model takes, one row that isn't padded. by_first: the first question's whole prompt
    runs, so that a method which reads the question drops tokens by it, for all questions; otherwise what all prompts
    begin with. The answers are those to each prompt alone, also under `omma.sparsify` with a method that reads no
    words. ValueError for one that reads them without by_first, and for beams.
    """
    if isinstance(questions, str):
        raise ValueError("questions is one str; give a list of them, or ask with generate")
    for name in ("num_beams", "num_return_sequences"):
        if (number := told.get(name)) not in (None, 1):
            raise ValueError(f"{name}={number}: each question goes on from one copy of the cache; leave it out")
    if not questions:
        return []
    first = prompt(questions[0])
    rows = [first["input_ids"][0], *(prompt(question)["input_ids"][0] for question in questions[1:])]
    shared, by_first = begin_alike(rows), by_first or len(questions) == 1
    length = first["input_ids"].shape[1]
    until = length if by_first else shared
    begun = {name: x[:, :until] if x.shape == (1, length) else x for name, x in first.items()}
    with torch.no_grad():
        cache = model(**begun, use_cache=True, logits_to_keep=1).past_key_values
    reads = getattr(getattr(cache, "plan", None), "reads", "")  # the method that dropped tokens by the words it read
    if reads and not by_first:
        raise ValueError(
            f"{reads} drops visual tokens by the words of the prompt, and these are {len(questions)} questions. "
            "by_first=True drops them by the first, for all; or take a method that reads no words, such as 'divprune', "
            "'visionzip' or 'uniform'"
        )
    if until > shared:
        cache.crop(shared - until)
    answers = []
    for row in rows:
        ids = row[None]
        said = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), past_key_values=copy.deepcopy(cache), **told
        )
        said = said if isinstance(said, Tensor) else said.sequences
        answers.append(said[0, ids.shape[1] :].tolist())
    return answers


def begin_alike(rows: Sequence[Tensor]) -> int:
    """How many tokens (T,) all rows begin with, at least one being left of each."""
    most = min(map(len, rows)) - 1
    same = torch.stack([row[:most] == rows[0][:most] for row in rows]).all(0)
    return int(same.long().cumprod(0).sum())
