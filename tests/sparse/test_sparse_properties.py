"""What holds for every method on any model: counts, order, nesting, ties, and no matrix of all tokens by all tokens."""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import omma
from omma.sparse.methods import METHODS
from tiny_vlms import TINY, tiny_inputs, visual_mask

SCHEDULE = {0: 17, 2: 9, 3: 4}


@pytest.fixture(scope="module")
def llava() -> Any:
    return TINY["llava"]()


@torch.no_grad()
def prefilled(model: Any, inputs: dict, method: str, schedule: dict[int, int], **options: Any) -> tuple[Any, Any]:
    with omma.sparsify(model, method, schedule=schedule, **options) as trace:
        return model(**inputs, use_cache=True), trace


@pytest.mark.parametrize("method", METHODS)
def test_each_stage_keeps_so_many_in_order_out_of_the_stage_before_and_all_text(llava, method):
    inputs = tiny_inputs("llava", images=(1, 2))
    schedule = {-1: 17} if METHODS[method].after == (-1,) else SCHEDULE
    out, trace = prefilled(llava, inputs, method, schedule)
    visual = visual_mask(inputs)
    for row in range(2):
        before = set(range(int(visual[row].sum())))
        for layer, k in schedule.items():
            kept = [i for i in trace.kept[layer][row].tolist() if i >= 0]
            made = len(trace.kept[layer][row]) - len(kept)
            assert kept == sorted(set(kept)), "in prompt order, none twice"
            assert set(kept) <= before
            assert len(kept) == k or made, "merged tokens of an earlier stage may take a place"
            assert k <= len(kept) + made == trace.entering[row, layer + 1]
            before = set(kept)
    text = (inputs["attention_mask"].bool() & ~visual).sum(1)
    last = trace.entering[:, -1]
    assert out.logits.shape[1] == int((text + last).max())


@pytest.mark.parametrize("method", ["sparsevlm-v1", "fastv", "pyramiddrop"])
def test_where_every_token_is_attended_alike_the_first_ones_stay(method):
    model: Any = TINY["llava"]()
    for layer in model.model.language_model.layers:
        layer.self_attn.q_proj.weight.data.zero_()
    _, trace = prefilled(model, tiny_inputs("llava"), method, {1: 5})
    assert trace.kept[1][0].tolist()[:5] == [0, 1, 2, 3, 4]


def test_pictures_that_change_places_take_their_kept_tokens_along(llava):
    """By DivPrune, which looks at the tokens alone; the set is one for both pictures."""
    inputs = tiny_inputs("llava", images=2)
    swapped = inputs | {"pixel_values": inputs["pixel_values"].flip(0)}
    n = int(visual_mask(inputs).sum()) // 2
    kept = [prefilled(llava, given, "divprune", {-1: 20})[1].kept[-1][0].tolist() for given in (inputs, swapped)]
    assert sorted((i + n) % (2 * n) for i in kept[0]) == kept[1]
    assert kept[0] != kept[1]


class Largest(TorchDispatchMode):
    """Remembers the size of the largest tensor that any operation made."""

    size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, tuple | list) else (out,):
            if isinstance(x, torch.Tensor):
                self.size = max(self.size, x.numel())
        return out


@pytest.mark.parametrize(
    "method", [name for name, method in METHODS.items() if method.attention and name != "sparsevlm"]
)
def test_scoring_makes_no_matrix_of_all_tokens_by_all_tokens(llava, method):
    """Eight pictures: 288 visual tokens, four heads. Eager attention is seen to make the matrix."""
    inputs = tiny_inputs("llava", images=8)
    length = inputs["input_ids"].shape[1]
    with Largest() as sparse:
        prefilled(llava, inputs, method, {1: 20})
    eager: Any = TINY["llava"](attention="eager")
    with torch.no_grad(), Largest() as plain:
        eager(**inputs)
    assert plain.size >= 4 * length**2 > 2 * sparse.size
