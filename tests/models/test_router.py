"""The learned router against the paper's rule, loops over tokens, and the arithmetic of the balance loss."""

from dataclasses import replace

import pytest
import torch

from omma.models.router import Router, balance_loss, routing
from omma.models.vlmo import VLMo
from omma.models.vlmo_config import VLMoConfig
from omma.models.weights import from_pretrained, load_matching, save_pretrained

TINY = VLMoConfig(image_size=32, patch_size=8, vocab_size=20, max_text_len=8, hidden_size=16, num_layers=3, num_heads=2,
                  num_vl_layers=1)  # fmt: skip


def randomized(config: VLMoConfig) -> VLMo:
    torch.manual_seed(0)
    model = VLMo(config).double().eval()
    for name, parameter in model.named_parameters():
        if "router.prior" not in name:
            parameter.data += 0.2 * torch.randn_like(parameter)
    return model


@pytest.fixture
def batch() -> dict:
    g = torch.Generator().manual_seed(1)
    mask = torch.tensor([[1] * 8, [1] * 5 + [0] * 3])
    return {"input_ids": torch.randint(5, 20, (2, 8), generator=g), "attention_mask": mask,
            "pixel_values": torch.randn(2, 3, 32, 32, generator=g).double()}  # fmt: skip


@pytest.mark.parametrize("router", ["top1", "top2"])
def test_a_router_that_is_sure_of_the_modality_gives_what_the_papers_rule_gives(router, batch):
    fixed = randomized(TINY)
    routed = VLMo(replace(TINY, router=router, router_prior=1e4)).double().eval()
    own = load_matching(routed, fixed.state_dict())[1]
    assert {name.split(".", 2)[2] for name in own} == {f"router.{part}" for part in (
        "norm.weight", "norm.bias", "score.weight", "prior")}  # fmt: skip
    for inputs in (batch, {"pixel_values": batch["pixel_values"]}, {"input_ids": batch["input_ids"]}):
        torch.testing.assert_close(routed(**inputs).last_hidden_state, fixed(**inputs).last_hidden_state)


@pytest.mark.parametrize("top", [1, 2])
def test_sorting_by_expert_gives_what_a_loop_over_tokens_gives(top):
    torch.manual_seed(0)
    names = ("image", "text", "more1", "more2")
    experts = torch.nn.ModuleDict({name: torch.nn.Linear(6, 6) for name in names}).double()
    for expert in experts.values():
        expert.forward = lambda x, scale, linear=expert: torch.nn.functional.linear(x, linear.weight, linear.bias)
    router = Router(6, tuple(experts), top, prior=0.5, eps=1e-6).double()
    x = torch.randn(2, 7, 6).double()
    out = router(x, experts, "vl", 3)
    for b in range(2):
        for s in range(7):
            logits = router.score(router.norm(x[b, s])) + router.prior[1 if s < 3 else 0]
            weights, chosen = logits.softmax(dim=-1).topk(top)
            weights = weights / weights.sum() if top > 1 else weights
            named = [list(experts)[int(e)] for e in chosen]
            by_hand = sum(w * experts[name](x[b, s], None) for w, name in zip(weights, named, strict=True))
            torch.testing.assert_close(out[b, s], by_hand)


@pytest.mark.parametrize("router", ["top1", "top2"])
def test_gradients_reach_the_router_and_every_expert_that_was_chosen(router, batch):
    model = randomized(replace(TINY, router=router, num_experts=4))
    assert [list(block.experts) for block in model.blocks] == [
        ["image", "text", "more1", "more2"], ["image", "text", "more1", "more2"], ["image", "text", "vl", "more1"]
    ]  # fmt: skip
    with routing(model) as loads:
        model.match(**batch).square().sum().backward()
    assert len(loads) == 3
    for block, (shares, probabilities) in zip(model.blocks, loads, strict=True):
        assert float(shares.sum()) == pytest.approx(1)
        assert float(probabilities.detach().sum()) == pytest.approx(1)
        assert block.router.score.weight.grad.abs().sum() > 0
        assert block.router.prior.grad.abs().sum() > 0
        for expert, share in zip(block.experts.values(), shares.tolist(), strict=True):
            assert (expert.fc1.weight.grad is not None) == (share > 0)
    assert all(block.router.loads is None for block in model.blocks)


def test_balance_is_1_when_all_experts_are_used_alike_and_e_when_one_takes_all():
    even = torch.full((4,), 0.25)
    assert balance_loss(even, even).item() == 1
    one = torch.tensor([0.0, 1.0, 0.0, 0.0])
    assert balance_loss(one, one).item() == 4
    model = VLMo(replace(TINY, router="top1"))
    for block in model.blocks:
        block.router.score.weight.data.zero_()
    with routing(model) as loads:
        model(pixel_values=torch.randn(1, 3, 32, 32))
    assert [balance_loss(*load).item() for load in loads] == pytest.approx([1, 1, 1])  # uniform, whoever gets the tie


def test_a_routed_model_is_saved_and_read_again(tmp_path, batch):
    model = VLMo(replace(TINY, router="top2", num_experts=3, router_prior=2.0)).eval()
    again = from_pretrained(save_pretrained(model, tmp_path))
    inputs = batch | {"pixel_values": batch["pixel_values"].float()}
    assert torch.equal(again.match(**inputs), model.match(**inputs))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"num_experts": 4}, "num_experts=4 needs a learned router"),
        ({"router": "top1", "experts": "single"}, "nothing to choose among"),
        ({"router": "top1", "num_experts": 2}, "the modalities have 3 already"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        replace(TINY, **options)


def test_experts_are_given_whole_steps_of_rows_so_that_few_shapes_occur():
    rows = []
    experts = torch.nn.ModuleDict({name: torch.nn.Identity() for name in ("image", "text")})
    for expert in experts.values():
        expert.forward = lambda x, scale: rows.append(len(x)) or x
    router = Router(4, ("image", "text"), 1, prior=1e4, eps=1e-6)
    x = torch.randn(3, 100, 4)
    torch.testing.assert_close(router(x, experts, "vl", 40), x)
    assert rows == [256, 128]  # of 180 and 120
