"""How much of what dropping tokens saves in theory it saves in prefill: CPU seconds of a decoder of 8 layers, width
512, FFN 1376, in a LLaVA shell with random weights, sdpa attention, one thread, each method against the plain model.

python bench/sparse_prefill.py                          # 576 -> 64 tokens and 2,880 -> 320, batch 1 and 8: 8 minutes
python bench/sparse_prefill.py --tokens 576 --batch 1   # one of the four

saving = (t_dense - t_sparse) / (t_dense (1 - MACs_sparse / MACs_dense)), MACs of a layer 4nD^2 + 2n^2D + 3nDm for the n
tokens that entered it, counted from the run. Scoring overhead, at batch 1: the same stage that drops a single token.
Memory: what a process holds at most in its first prefill, less what it held before and less what a dense one takes, in
units of one (H, L, L) attention.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from time import process_time
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

import omma
from omma.sparse.account import published_macs

LAYERS, WIDTH, FFN, HEADS, TEXT, BEFORE, IMAGE = 8, 512, 1376, 8, 85, 35, 999
GOAL, OVERHEAD, MEMORY = 0.90, 0.05, 0.25
KEPT = {576: 64, 2880: 320}
ROUNDS = {(576, 1): 9, (576, 8): 4, (2880, 1): 4, (2880, 8): 2}  # by tokens and batch


class Says(nn.Module):
    """A projector that says the same for every picture: the bench is of the decoder."""

    def __init__(self, tokens: int):
        super().__init__()
        self.embeds = nn.Buffer(torch.randn(tokens, WIDTH) * 0.5)

    def forward(self, features: Tensor) -> Tensor:
        return self.embeds.expand(len(features), -1, -1)


def make_model(tokens: int) -> Any:
    torch.manual_seed(0)
    text = LlamaConfig(vocab_size=1000, hidden_size=WIDTH, intermediate_size=FFN, num_hidden_layers=LAYERS,
                       num_attention_heads=HEADS, num_key_value_heads=HEADS, max_position_embeddings=8192)  # fmt: skip
    vision = CLIPVisionConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
                              image_size=8, patch_size=4)  # fmt: skip
    model: Any = LlavaForConditionalGeneration(
        LlavaConfig(text_config=text, vision_config=vision, image_token_index=IMAGE, vision_feature_layer=-1)
    ).eval()
    model.model.multi_modal_projector = Says(tokens)
    return model


def make_inputs(tokens: int, batch: int) -> dict[str, Tensor]:
    torch.manual_seed(1)
    ids = torch.randint(5, 900, (batch, tokens + TEXT))
    ids[:, BEFORE : BEFORE + tokens] = IMAGE
    return {"input_ids": ids, "pixel_values": torch.zeros(batch, 3, 8, 8), "attention_mask": torch.ones_like(ids)}


def plans(tokens: int) -> dict[str, tuple[str, dict[int, int]]]:
    """name -> method and schedule: from `tokens` to a ninth."""
    k = KEPT[tokens]
    return {
        "sparsevlm-v1": ("sparsevlm-v1", {2: k}),
        "sparsevlm-v2": ("sparsevlm-v2", {2: k}),
        "fastv": ("fastv", {1: k}),
        "pyramiddrop": ("pyramiddrop", {0: tokens // 2, 2: tokens // 4, 4: k}),
        "divprune": ("divprune", {-1: k}),
        "sparsevlm-v1, one token dropped": ("sparsevlm-v1", {2: tokens - 1}),
        "sparsevlm-v2, one token dropped": ("sparsevlm-v2", {2: tokens - 1}),
        "fastv, one token dropped": ("fastv", {1: tokens - 1}),
    }


def macs(entering: list[int]) -> float:
    """Multiply-adds of the decoder layers for one sample, by the visual tokens that enter each."""
    return published_macs([visual + TEXT for visual in entering], WIDTH, FFN)


def prefill(model: Any, inputs: dict[str, Tensor]) -> None:
    with torch.no_grad():
        model(**inputs, use_cache=True, logits_to_keep=1)


def seconds(runs: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Process time of each in every round, the runs taking turns, after a round that isn't counted."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for counted in range(rounds + 1):
        for name, run in runs.items():
            began = process_time()
            run()
            if counted:
                times[name].append(process_time() - began)
    return times


def measure(tokens: int, batch: int, rounds: int, only: str) -> list[dict[str, Any]]:
    model, inputs = make_model(tokens), make_inputs(tokens, batch)
    runs: dict[str, Callable[[], object]] = {"dense": lambda: prefill(model, inputs)}
    counts: dict[str, list[int]] = {}

    def sparse(name: str, method: str, schedule: dict[int, int]) -> None:
        with omma.sparsify(model, method, schedule=schedule) as trace:
            prefill(model, inputs)
        counts[name] = trace.entering[0].tolist()

    for name, (method, schedule) in plans(tokens).items():
        if only in name and (batch == 1 or not name.endswith("dropped")):
            runs[name] = lambda name=name, method=method, schedule=schedule: sparse(name, method, schedule)
    times = seconds(runs, rounds)
    best, dense = {name: min(each) for name, each in times.items()}, macs([tokens] * LAYERS)
    claims = []
    print(f"{tokens} tokens, batch {batch}: dense {best['dense']:.3f} CPU s, best of {rounds}")
    for name in counts:
        time, work = best[name] / best["dense"], macs(counts[name]) / dense
        typical = statistics.median(a / b for a, b in zip(times[name], times["dense"], strict=True))
        print(f"  {name:32s} {best[name]:8.3f} s  time {time:.3f} (median of the rounds {typical:.3f})  "
              f"MACs {work:.3f}  entering {counts[name]}")  # fmt: skip
        where = f"{tokens} tokens, batch {batch}"
        if name.endswith("dropped"):
            claims.append(claim(f"scoring overhead, {name}, {where}", time / work - 1, OVERHEAD, lower=True))
        else:
            claims.append(claim(f"share of the saving, {name}, {where}", (1 - time) / (1 - work), GOAL))
    return claims


def claim(name: str, value: float, goal: float, lower: bool = False) -> dict[str, Any]:
    return {"name": name, "value": round(value, 3), "goal": goal, "ok": value <= goal if lower else value >= goal}


def held() -> int:
    """kB this process held at most. Not ru_maxrss: that one counts what the parent held when it forked."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


def peak(tokens: int, method: str) -> float:
    """MB that the first prefill adds to what the process ever held; in a process of its own."""
    model, inputs = make_model(tokens), make_inputs(tokens, 1)
    schedule = dict(plans(tokens).values()).get(method, {})
    small = {**make_inputs(1, 1), "pixel_values": inputs["pixel_values"]}
    said, model.model.multi_modal_projector = model.model.multi_modal_projector, Says(1)
    prefill(model, small)
    model.model.multi_modal_projector = said
    before = held()
    if method == "eager":
        model.set_attn_implementation("eager")
    if schedule:
        with omma.sparsify(model, method, schedule=schedule):
            prefill(model, inputs)
    else:
        prefill(model, inputs)
    return (held() - before) / 1024


def memory(tokens: int) -> list[dict[str, Any]]:
    attention = HEADS * (tokens + TEXT) ** 2 * 4 / 2**20
    found: dict[str, float] = {}
    for method in ("dense", "eager", "sparsevlm-v1", "sparsevlm-v2", "fastv", "pyramiddrop"):
        command = [sys.executable, str(Path(__file__)), "--inner", method, "--tokens", str(tokens)]
        found[method] = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(f"  {method:32s} {found[method]:8.0f} MB; one attention {attention:.0f}")
    name = "memory added to a dense prefill's, in (H, L, L),"
    seen = (found["eager"] - found["dense"]) / attention  # eager attention holds one: else nothing was measured
    return [claim(f"{name} eager, which holds one, {tokens} tokens", seen, 1.0)] + [
        claim(f"{name} {method}, {tokens} tokens", (mb - found["dense"]) / attention, MEMORY, lower=True)
        for method, mb in found.items()
        if method not in ("dense", "eager")
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, choices=sorted(KEPT))
    parser.add_argument("--batch", type=int, choices=(1, 8))
    parser.add_argument("--rounds", type=int, help="default: 9, fewer where a prefill takes long")
    parser.add_argument("--only", default="", help="runs whose names contain this")
    parser.add_argument("--inner", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.inner:
        print(peak(args.tokens, args.inner))
        return
    claims = []
    for tokens in [args.tokens] if args.tokens else KEPT:
        for batch in [args.batch] if args.batch else (1, 8):
            claims += measure(tokens, batch, args.rounds or ROUNDS[tokens, batch], args.only)
    if not (args.batch or args.only):
        claims += memory(args.tokens or max(KEPT))
    for one in claims:
        print(json.dumps(one))


if __name__ == "__main__":
    main()
