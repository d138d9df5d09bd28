"""int8 weights: how far off they are is arithmetic, and a VLM with them still answers."""

import pytest
import torch
from torch import nn

from omma.models.quantize import Int8Linear, quantize_linears, quantized
from tiny_vlms import TINY, tiny_inputs


def test_a_row_is_scaled_so_that_its_largest_weight_is_127():
    values, scales = quantized(torch.tensor([[1.27, -0.635, 0.004], [0.0, 0.0, 0.0], [-254.0, 2.0, 1.0]]))
    assert values.tolist() == [[127, -64, 0], [0, 0, 0], [-127, 1, 0]]  # halves go to the even number
    torch.testing.assert_close(scales[[0, 2]], torch.tensor([0.01, 2.0]))


@pytest.mark.parametrize("bias", [True, False])
def test_an_output_is_off_by_at_most_half_a_step_for_each_input(bias):
    torch.manual_seed(0)
    linear = nn.Linear(64, 48, bias=bias).double()
    linear.weight.data *= torch.logspace(-3, 2, 48, dtype=torch.double)[:, None]  # rows of very different sizes
    small, x = Int8Linear(linear), torch.randn(5, 7, 64, dtype=torch.double)
    step = small.scales.double() / 2 * x.abs().sum(dim=-1, keepdim=True)
    off = (small(x) - linear(x)).abs()
    assert (off <= step * (1 + 1e-5)).all()
    assert (off > step * 0.02).any(), "it is int8"
    if bias:
        torch.testing.assert_close(small(torch.zeros(1, 64, dtype=torch.double))[0], linear.bias)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(32,), (1, 1, 32), (2, 2, 32), (5, 32)])
def test_it_multiplies_with_the_weight_that_it_shows_however_few_rows_there_are(dtype, shape):
    torch.manual_seed(0)
    linear = nn.Linear(32, 16).to(dtype)
    small, x = Int8Linear(linear), torch.randn(shape).to(dtype)
    assert (small.weight.dtype, small.values.dtype) == (dtype, torch.int8)
    shown = nn.functional.linear(x.float(), small.values.float() * small.scales[:, None], linear.bias.float())
    near = {"atol": 1e-5, "rtol": 1e-5} if dtype == torch.float32 else {"atol": 3e-2, "rtol": 2e-2}
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            made = small(x)
        assert (made.dtype, made.shape) == (dtype, (*shape[:-1], 16))
        torch.testing.assert_close(made.float(), shown, **near)


def test_float16_whose_numbers_end_at_65504_holds_what_the_layer_gives():
    torch.manual_seed(0)
    linear, x = nn.Linear(2048, 4, bias=False), torch.randn(6, 2048) * 60
    found = Int8Linear(linear.half())(x.half())
    torch.testing.assert_close(found.float(), linear.float()(x), atol=0.5, rtol=0.02)


def test_a_gradient_passes_through_to_what_came_in():
    small = Int8Linear(nn.Linear(8, 3))
    x = torch.randn(2, 8, requires_grad=True)
    small(x).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, small.weight.sum(dim=0).expand(2, 8))


def test_only_the_language_models_layers_are_quantized_and_the_model_says_about_the_same():
    model, inputs = TINY["qwen2_vl"](), tiny_inputs("qwen2_vl", images=(2, 1))
    with torch.inference_mode():
        before = model(**inputs).logits
        count = quantize_linears(model.get_decoder().layers)
        after = model(**inputs).logits
    assert count == 6 * 7
    assert not any(isinstance(module, Int8Linear) for module in model.model.visual.modules())
    assert type(model.lm_head) is nn.Linear
    real = inputs["attention_mask"].bool()
    assert 1e-4 < (after - before)[real].norm() / before[real].norm() < 0.1
    assert torch.isfinite(after).all()
    copy = TINY["qwen2_vl"]()
    quantize_linears(copy.get_decoder().layers)
    for weight in copy.parameters():
        weight.data.zero_()
    copy.load_state_dict(model.state_dict())
    with torch.inference_mode():
        assert torch.equal(copy(**inputs).logits, after)
