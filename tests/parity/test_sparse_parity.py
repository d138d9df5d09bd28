"""omma.sparsify on an 18-layer Llama in a LLaVA shell: token for token and number for number the slow reference's.

The shell's projector says what the case says, whatever the tower saw, so both sides start from the same embeddings.
"""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from sparse_reference import CASES, KV_HEADS, ROPE_BASE, SIZES, STEPS, VOCAB, Said, said, the_llama
from torch import Tensor, nn
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

import omma

IMAGE = VOCAB - 1
ASKED: dict[str, dict[str, Any]] = {  # how omma is asked for what the reference's METHODS do
    "sparsevlm-v1": {"schedule": "64"},
    "sparsevlm-v2": {"schedule": "64", "heads": 14},
    "fastv": {"schedule": {1: 30}},
    "pyramiddrop": {"schedule": {3: 60, 8: 30, 12: 15}},
    "divprune": {"schedule": {-1: 30}, "positions": "compact"},
}


class Projector(nn.Module):
    """A projector that says one (V, D) for each picture."""

    def __init__(self) -> None:
        super().__init__()
        self.embeds: list[Tensor] = []

    def forward(self, features: Tensor) -> list[Tensor]:
        assert len(features) == len(self.embeds)
        return self.embeds


def shell(kv_heads: int = KV_HEADS, attention: str = "sdpa") -> Any:
    weights = the_llama(kv_heads).w
    text = LlamaConfig(**SIZES, num_key_value_heads=kv_heads, max_position_embeddings=1024, tie_word_embeddings=False,
                       rope_parameters={"rope_type": "default", "rope_theta": ROPE_BASE})  # fmt: skip
    vision = CLIPVisionConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
                              image_size=8, patch_size=4)  # fmt: skip
    config = LlavaConfig(text_config=text, vision_config=vision, image_token_index=IMAGE, vision_feature_layer=-1,
                         tie_word_embeddings=False, attn_implementation=attention)  # fmt: skip
    model: Any = LlavaForConditionalGeneration(config).eval()
    model.model.language_model.load_state_dict(
        {name.removeprefix("model."): w.float() for name, w in weights.items() if name != "lm_head.weight"}
    )
    model.lm_head.load_state_dict({"weight": weights["lm_head.weight"].float()})
    model.model.multi_modal_projector = Projector()
    return model


@dataclass
class Fast:
    """What omma's run gave for one sample: as Run, with the outputs of the prompt and of every step."""

    hidden: list[Tensor]
    logits: list[Tensor]
    kept: dict[int, list[int]]
    kv_lengths: list[int]


@torch.no_grad()
def sparsified(model: Any, method: str, options: dict[str, Any], cases: list[str]) -> list[Fast]:
    """The cases as one batch, padded on the left, and then STEPS, each at every sample."""
    heard: list[Tensor] = []
    hook = model.model.language_model.norm.register_forward_hook(lambda module, args, out: heard.append(out))
    prompts = [[*before, *[IMAGE] * len(visual), *after] for before, visual, after in (CASES[c] for c in cases)]
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    model.model.multi_modal_projector.embeds = [CASES[c][1].float() for c in cases]
    logits = []
    with omma.sparsify(model, method, **options) as trace:
        out = model(input_ids=ids, attention_mask=mask, pixel_values=torch.zeros(len(cases), 3, 8, 8), use_cache=True,
                    position_ids=(mask.cumsum(1) - 1).clamp(min=0))  # fmt: skip
        lengths = [layer.keys.shape[2] for layer in out.past_key_values.layers]
        assert list(trace.kv_lengths) == lengths
        logits.append(out.logits)
        for token in STEPS:
            mask = torch.cat([mask, mask.new_ones(len(cases), 1)], dim=1)
            out = model(input_ids=torch.full((len(cases), 1), token), attention_mask=mask, use_cache=True,
                        past_key_values=out.past_key_values, position_ids=mask.sum(1, keepdim=True) - 1)  # fmt: skip
            logits.append(out.logits)
    hook.remove()
    kept = [{layer: [int(i) for i in rows[n] if i >= 0] for layer, rows in trace.kept.items()}
            for n in range(len(cases))]  # fmt: skip
    return [Fast([h[n] for h in heard], [x[n] for x in logits], kept[n], lengths) for n in range(len(cases))]


@pytest.fixture(scope="module")
def llava() -> Any:
    return shell()


@pytest.fixture(scope="module")
def shared_keys() -> Any:
    """Four queries share a key; and eager attention, which adds its mask where the others take a bool one or none."""
    return shell(kv_heads=4, attention="eager")


def agrees(fast: Fast, slow: Said, alone: bool = True) -> None:
    """The rows that are left and every step, to what float32 rounds in 18 layers; in a batch, a sample's are last."""
    assert {layer: fast.kept[layer] for layer in slow.kept} == slow.kept
    assert set(fast.kept) - {-1} == set(slow.kept) - {-1}
    if alone:
        assert fast.kv_lengths == slow.kv_lengths
    for hidden, logits, wanted, told in zip(fast.hidden, fast.logits, slow.hidden, slow.logits, strict=True):
        assert len(hidden) == len(wanted) or not alone
        torch.testing.assert_close(hidden[-len(wanted) :].double(), wanted, rtol=0, atol=3e-5)
        torch.testing.assert_close(logits[-len(wanted) :].double(), told, rtol=0, atol=3e-5)


@pytest.mark.parametrize("method", ASKED)
def test_kept_tokens_keys_states_and_decoding_are_the_references(llava, method):
    agrees(sparsified(llava, method, ASKED[method], ["picture"])[0], said(method, "picture"))


@pytest.mark.parametrize("method", ASKED)
def test_two_pictures_of_different_size_in_a_padded_batch_are_each_the_references(llava, method):
    for fast, case in zip(sparsified(llava, method, ASKED[method], list(CASES)), CASES, strict=True):
        agrees(fast, said(method, case), alone=False)


@pytest.mark.parametrize("method", ASKED)
def test_eager_attention_and_shared_keys_are_the_references(shared_keys, method):
    fast = sparsified(shared_keys, method, ASKED[method], ["picture"])[0]
    agrees(fast, said(method, "picture", kv_heads=4))
