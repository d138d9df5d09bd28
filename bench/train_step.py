"""The block's share of the machine: VLMo's eager training step against the bfloat16 matmul peak of the same run.

python bench/train_step.py      # shape d384 L12, batch 32, 65 + 24 tokens; CPU seconds: a noisy machine does no harm

On CPUs with AMX the matmul unit is 10 to 15 times as fast as everything around it, so a share of its peak says how
much of the step is not matmul. Both instruction sets are measured: the AMX one as it is, and AVX512-BF16 in a second
process.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from time import process_time

import torch

from omma.models.pretrained import has_fast_bf16
from omma.models.vlmo import VLMo
from omma.models.vlmo_config import SMALL

B, T, P = 32, 24, 65
GOAL, COMPILED_GOAL = 0.68, 0.75


def cpu_seconds(runs: Mapping[str, Callable[[], object]], rounds: int, threads: int = 1) -> dict[str, float]:
    """Best round's process time a thread of each, the runs taking turns, after a round that is not counted: what the
    cores did, whoever else used them."""
    best = dict.fromkeys(runs, float("inf"))
    for counted in range(rounds + 1):
        for name, run in runs.items():
            began = process_time()
            run()
            if counted:
                best[name] = min(best[name], (process_time() - began) / threads)
    return best


def matmuls() -> dict[str, tuple[Callable[[], object], float]]:
    """The step's own matmul shapes in bfloat16, ten times each, and their FLOP."""
    D, rows = SMALL.hidden_size, B * (T + P)
    shapes = ((rows, D, 4 * D), (rows, 4 * D, D), (rows, D, 3 * D), (2048, 2048, 2048))
    found = {}
    for m, k, n in shapes:
        a, b = torch.randn(m, k).bfloat16(), torch.randn(k, n).bfloat16()
        found[f"{m} x {k} x {n}"] = (lambda a=a, b=b: [a @ b for _ in range(10)], 10 * 2 * m * k * n)
    return found


def step_flops() -> float:
    """Forward and backward of the blocks: projections, experts, scores. Embeddings and heads are not counted."""
    D, L, S = SMALL.hidden_size, SMALL.num_layers, T + P
    return 3 * L * (2 * B * S * D * D * (4 + 2 * SMALL.mlp_ratio) + 4 * B * S * S * D)


def measure(threads: int, compile_blocks: bool, rounds: int) -> dict:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = VLMo(replace(SMALL, vocab_size=2000)).train()
    if compile_blocks:
        for block in model.blocks:
            block.compile(dynamic=False)
    lengths = torch.randint(8, T + 1, (B,))
    lengths[0] = T
    mask = (torch.arange(T)[None] < lengths[:, None]).long()
    ids, pixels = torch.randint(5, 2000, (B, T)) * mask, torch.randn(B, 3, 128, 128)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(ids, mask, pixels).last_hidden_state.float().square().mean()
        loss.backward()
        model.zero_grad(set_to_none=True)

    products = matmuls()
    best = cpu_seconds({"step": step} | {name: run for name, (run, _) in products.items()}, rounds, threads)
    peak = max(flop / best[name] for name, (_, flop) in products.items())
    seconds, speed = best["step"], step_flops() / best["step"]
    amx = bool(torch.cpu._is_amx_tile_supported()) and os.environ.get("ONEDNN_MAX_CPU_ISA") is None
    return {"seconds": seconds, "gflops": speed / 1e9, "peak_gflops": peak / 1e9, "share": speed / peak, "amx": amx}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--compile", action="store_true", help="compile the blocks one by one (needs a C++ compiler)")
    parser.add_argument("--inner", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not has_fast_bf16(torch.device("cpu")):
        print("this CPU has no fast bfloat16; the claim is about those that do", file=sys.stderr)
        return
    if args.inner:
        print(json.dumps(measure(args.threads, args.compile, args.rounds)))
        return
    runs = {}
    for name, isa in (("avx512_bf16", "AVX512_CORE_BF16"), ("as it is", None)):
        env = {k: v for k, v in os.environ.items() if k != "ONEDNN_MAX_CPU_ISA"} | (
            {"ONEDNN_MAX_CPU_ISA": isa} if isa else {}
        )
        env["OMP_WAIT_POLICY"] = "PASSIVE"  # a waiting thread must not count as a working one
        command = [
            sys.executable,
            __file__,
            "--inner",
            "--threads",
            str(args.threads),
            "--rounds",
            str(args.rounds),
            *(["--compile"] if args.compile else []),
        ]
        runs[name] = json.loads(subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout)
        r = runs[name]
        print(
            f"{name:12s} {r['seconds']:.3f} s a step  {r['gflops']:6.0f} GFLOP/s of {r['peak_gflops']:6.0f} "
            f"= {100 * r['share']:.1f} %{'  (AMX)' if r['amx'] else ''}"
        )
    for name, r in runs.items():
        blocks, goal = ("compiled blocks, ", COMPILED_GOAL) if args.compile else ("", GOAL)
        claim = f"train step share of the bf16 matmul peak, {blocks}{'AMX' if r['amx'] else name}"
        print(json.dumps({"name": claim, "value": round(r["share"], 3), "goal": goal, "ok": r["share"] >= goal}))


if __name__ == "__main__":
    main()
