"""Runs the published SparseVLM code once and writes what it gives into sparse_golden.json.

    python tests/parity/make_sparse_golden.py SPARSEVLMS

SPARSEVLMS: a checkout of github.com/Gumpest/SparseVLMs (26a5f48 was used), which the tests don't need. It was written
for transformers 4.37; the parts it takes from there are replaced by the small ones below. The model is the 18-layer
Llama of sparse_reference.py in float64, the table that for "64". The noise on densities falls from 1 to 0 with
significance instead of being drawn.
"""

import importlib
import importlib.machinery
import json
import os
import sys
import types
from pathlib import Path
from typing import Any

import sparse_reference as reference
import torch
from sparse_reference import CASES, FFN, HEAD, HEADS, KV_HEADS, ROPE_BASE, STEPS, WIDTH, Llama, summary, the_llama
from torch import Tensor, nn


# ---- stand-ins for what the published code imports
class Config:
    num_hidden_layers: int
    _attn_implementation = "sdpa"
    output_attentions, output_hidden_states, use_cache, use_return_dict = False, False, True, True


for size, value in reference.SIZES.items():
    setattr(Config, size, value)


class Model(nn.Module):
    """Every published class calls the initialiser of the one above its parent with (config)."""

    def __init__(self, *arguments: Any):
        super().__init__()
        self.config = arguments[0] if arguments else None

    def post_init(self) -> None: ...


class LlamaModel(Model): ...


class LlamaForCausalLM(Model): ...


class LlamaDecoderLayer(nn.Module): ...


class RMSNorm(nn.Module):
    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps))


class MLP(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        self.gate_proj = nn.Linear(WIDTH, FFN, bias=False)
        self.up_proj = nn.Linear(WIDTH, FFN, bias=False)
        self.down_proj = nn.Linear(FFN, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(nn.functional.silu(self.gate_proj(x)) * self.up_proj(x))


class Rotary(nn.Module):
    def forward(self, x: Tensor, seq_len: int) -> tuple[Tensor, Tensor]:
        rates = 1.0 / (ROPE_BASE ** (torch.arange(0, HEAD, 2).float() / HEAD))
        angles = torch.outer(torch.arange(seq_len).float(), rates)
        both = torch.cat((angles, angles), dim=-1).to(x.dtype)
        return both.cos(), both.sin()


class Attention(nn.Module):
    is_causal, attention_dropout = True, 0.0
    num_heads, num_key_value_heads, head_dim = HEADS, KV_HEADS, HEAD
    num_key_value_groups, hidden_size = HEADS // KV_HEADS, WIDTH

    def __init__(self, config: Config, layer_idx: int):
        super().__init__()
        self.layer_idx = layer_idx
        self.q_proj = nn.Linear(WIDTH, HEADS * HEAD, bias=False)
        self.k_proj = nn.Linear(WIDTH, KV_HEADS * HEAD, bias=False)
        self.v_proj = nn.Linear(WIDTH, KV_HEADS * HEAD, bias=False)
        self.o_proj = nn.Linear(HEADS * HEAD, WIDTH, bias=False)
        self.rotary_emb = Rotary()


class LlamaAttention(Attention): ...


class LlamaSdpaAttention(Attention): ...


class LlamaFlashAttention2(Attention): ...


class Cache:
    def __init__(self) -> None:
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}

    def get_usable_length(self, new: int, layer_idx: int = 0) -> int:
        return self.layers[layer_idx][0].shape[2] if layer_idx in self.layers else 0

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, _: dict) -> tuple[Tensor, Tensor]:
        if layer_idx in self.layers:
            old = self.layers[layer_idx]
            keys, values = torch.cat([old[0], keys], dim=2), torch.cat([old[1], values], dim=2)
        self.layers[layer_idx] = (keys, values)
        return keys, values


class Output(types.SimpleNamespace): ...


class Event:
    def __init__(self, enable_timing: bool): ...

    def record(self) -> None: ...

    def elapsed_time(self, other: "Event") -> float:
        return 0.0


def half_turned(x: Tensor) -> Tensor:
    a, b = x.chunk(2, dim=-1)
    return torch.cat((-b, a), dim=-1)


def apply_rotary_pos_emb(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
    cos, sin = cos[position_ids].unsqueeze(1), sin[position_ids].unsqueeze(1)
    return q * cos + half_turned(q) * sin, k * cos + half_turned(k) * sin


def rearrange(x: Tensor, pattern: str) -> Tensor:
    assert pattern in ("b l r -> b l () r", "b l r -> b () l r"), pattern
    return x.unsqueeze(2 if pattern.endswith("l () r") else 1)


class Anything(types.ModuleType):
    """A module that has every name: classes which the published code names in a type or never calls."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def module(name: str, **members: Any) -> None:
    made = Anything(name)
    made.__spec__ = importlib.machinery.ModuleSpec(name, None)
    made.__path__ = []
    for key, value in members.items():
        setattr(made, key, value)
    sys.modules[name] = made


def published(checkout: Path, version: str) -> Any:
    """The module modelling_sparse_llama of one version: the version and the table are read from the environment."""
    shared = {"Cache": Cache, "DynamicCache": Cache, "LlamaModel": LlamaModel, "LlamaForCausalLM": LlamaForCausalLM}
    module("transformers", **shared)
    module("transformers.cache_utils", **shared)
    generation = ("streamers", "beam_constraints", "beam_search", "configuration_utils", "logits_process",
                  "stopping_criteria", "utils")  # fmt: skip
    for name in ("integrations", "integrations.deepspeed", "modeling_utils", "models", "models.llama", "generation",
                 *(f"generation.{part}" for part in generation)):  # fmt: skip
        module(f"transformers.{name}")
    module("transformers.utils", ExplicitEnum=object)
    module("transformers.modeling_outputs", BaseModelOutputWithPast=Output, CausalLMOutputWithPast=Output)
    module("transformers.models.llama.modeling_llama", LlamaDecoderLayer=LlamaDecoderLayer,
           LlamaSdpaAttention=LlamaSdpaAttention, LlamaAttention=LlamaAttention, LlamaMLP=MLP, LlamaRMSNorm=RMSNorm,
           LlamaFlashAttention2=LlamaFlashAttention2, apply_rotary_pos_emb=apply_rotary_pos_emb,
           repeat_kv=lambda x, n: x.repeat_interleave(n, dim=1),
           _prepare_4d_causal_attention_mask_for_sdpa=lambda *_: None)  # fmt: skip
    module("einops", rearrange=rearrange)
    package = types.ModuleType("published_llava")
    package.__path__ = [str(checkout / "llava/model/language_model")]
    for name in [name for name in sys.modules if name.startswith("published_llava")]:
        del sys.modules[name]
    sys.modules["published_llava"] = package
    os.environ.update(USE_VERSION=version, RETAIN_TOKN="64")
    return importlib.import_module("published_llava.modelling_sparse_llama")


def run(code: Any, llama: Llama, before: list[int], visual: Tensor, after: list[int]) -> dict[str, Any]:
    model = code.LlamaDynamicvitModel(Config()).double().eval()
    model.load_state_dict({k.removeprefix("model."): v for k, v in llama.w.items() if k != "lm_head.weight"})
    calls = []
    choose = code.attn_postprocess_topk

    def spy(attention: Tensor, start: int, count: Any, text_start: Any, raters: Any, layer: int) -> Any:
        out = choose(attention, start, count, text_start, raters, layer)
        calls.append((layer, int(count), out[0][0].bool().tolist(), raters[1].tolist()))
        return out

    code.attn_postprocess_topk = spy
    falling = lambda shape, **options: 1 - torch.arange(shape[-1]).to(**options).expand(shape) / shape[-1]
    torch.rand = falling  # type: ignore[assignment]
    cache = Cache()
    embeds = llama.embeds(before, visual, after)
    out = model(inputs_embeds=embeds[None], use_cache=True, past_key_values=cache, image_shape=len(visual),
                pre_prompt_length_list=[len(before)])[2].last_hidden_state[0]  # fmt: skip
    left = len(out) - len(before) - len(after)
    counts = [count for _, count, _, _ in calls[1:]] + [left]
    origin, kept, held = list(range(len(visual))), {}, {}
    for (layer, _, mask, _), count in zip(calls, counts, strict=True):
        origin = [o for o, keep in zip(origin, mask, strict=True) if keep]
        kept[layer], held[layer] = [o for o in origin if o >= 0], count
        origin += [-1] * (count - len(origin))
    found = {"raters": calls[0][3], "kept": kept, "visual": held, "prefill": summary(out), "steps": [],
             "kv_lengths": [cache.get_usable_length(0, i) for i in range(Config.num_hidden_layers)]}  # fmt: skip
    for n, token in enumerate(STEPS):
        out = model(inputs_embeds=llama.w["model.embed_tokens.weight"][[token]][None], use_cache=True,
                    past_key_values=cache, position_ids=torch.tensor([[len(embeds) + n]]),
                    pre_prompt_length_list=[len(before)])[2].last_hidden_state[0]  # fmt: skip
        found["steps"].append(summary(out))
    return found


def main() -> None:
    checkout = Path(sys.argv[1])
    torch.cuda.Event, torch.cuda.synchronize = Event, lambda: None  # type: ignore[assignment, misc]
    Tensor.cuda = lambda self: self  # type: ignore[method-assign, assignment]
    llama = the_llama()
    golden: dict[str, Any] = {}
    with torch.no_grad():
        for version in ("1_0", "2_0"):
            for name, (before, visual, after) in CASES.items():
                golden[f"sparsevlm {version} {name}"] = run(published(checkout, version), llama, before, visual, after)
    (Path(__file__).parent / "sparse_golden.json").write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main()
