"""Rows of `keep`, `budget` and `ratio` are one a sample, through the batches of a call and from call to call."""

import pytest
import torch

import omma
from tiny_vlms import shared_vlm, tiny_inputs

COUNTS = [20, 13, 30]


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def mine():
    """Of the 36 tokens of each of three samples four, other ones in each."""
    return torch.arange(36) // 4 == torch.tensor([[1], [4], [7]])


def test_each_batch_takes_its_rows_of_keep_and_the_next_call_begins_again(mine):
    model, answer = shared_vlm(), {"max_new_tokens": 1, "do_sample": False, "num_beams": 2}
    with omma.sparsify(model, "uniform", schedule={-1: 5}, keep=mine) as trace:
        for _ in range(2):
            model.generate(**tiny_inputs("llava", images=(1, 1)), **answer)
            model.generate(**tiny_inputs("llava", seed=1), **answer)
        assert len(trace) == 6
        for number, kept in enumerate(trace.kept[-1]):
            assert set(mine[number % 3].nonzero()[:, 0].tolist()) < set(kept.tolist())
            assert len(kept) == 5
        model.generate(**tiny_inputs("llava", images=(1, 1)), **answer)
        with pytest.raises(ValueError, match="keep has 3 rows, and a batch has samples 8 to 9; give a row for each"):
            model.generate(**tiny_inputs("llava", images=(1, 1)), **answer)


@pytest.mark.parametrize("method", ["uniform", "fastv"])
def test_a_sample_with_a_budget_of_its_own_is_what_it_is_alone(method):
    model, inputs = shared_vlm(), tiny_inputs("llava", images=(1, 1, 1))
    mask = inputs["attention_mask"].bool()
    with omma.sparsify(model, method, budget=COUNTS) as trace:
        together = model(**inputs).logits[:, -1]
    with omma.sparsify(model, method, ratio=[k / 36 for k in COUNTS]) as by_ratio:
        model(**inputs)
    assert torch.equal(by_ratio.entering, trace.entering)
    assert trace.entering.double().mean(1).tolist() == pytest.approx(COUNTS, abs=0.34)  # whole tokens in three layers
    for row, budget in enumerate(COUNTS):
        alone = {"input_ids": inputs["input_ids"][row][mask[row]][None], "pixel_values": inputs["pixel_values"][[row]]}
        with omma.sparsify(model, method, budget=budget) as own:
            logits = model(**alone).logits[0, -1]
        assert own.entering[0].tolist() == trace.entering[row].tolist()
        assert torch.allclose(logits, together[row], atol=1e-5)


def test_budgets_that_fit_no_batch_or_no_tower_are_refused():
    model = shared_vlm()
    too_few = pytest.raises(ValueError, match="budget has 2 rows, and a batch has samples 0 to 2")
    with too_few, omma.sparsify(model, "uniform", budget=[20, 9]):
        model(**tiny_inputs("llava", images=(1, 1, 1)))
    for wrong, said in (([], "budget is empty"), ([4, 0], "budget 0 is not above 0")):
        with pytest.raises(ValueError, match=said), omma.sparsify(model, "uniform", budget=wrong):
            pass
    in_tower = pytest.raises(ValueError, match="in a tower all pictures are merged alike")
    with in_tower, omma.sparsify(model, "tome", budget=[9, 5], where="tower"):
        pass


def test_a_warning_names_the_line_that_asked_and_says_what_to_do():
    model = shared_vlm()
    with omma.sparsify(model, budget=10), pytest.warns(UserWarning, match="let the model's processor make the") as said:
        model.generate(**tiny_inputs("llava", images=0), max_new_tokens=1)
    assert [warning.filename for warning in said] == [__file__]
