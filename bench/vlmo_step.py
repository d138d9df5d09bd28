"""The whole pre-training step: one fused pass, heads where they are read, texts at their length, against the published
form of the same mathematics.

python bench/vlmo_step.py               # d384 L12 H6, batch 12, 8 to 18 tokens, vocabulary 30522, bfloat16, one thread
python bench/vlmo_step.py --compile     # after how many steps compiled layers have paid for their compiling

The published form (Bao et al. 2021) pads texts to 40 tokens, runs contrast, positives, two kinds of negatives and
masked text as passes of their own, each embedding its pictures and words anew, and predicts words at all positions.
Before anything is timed, both forms are shown to give the same losses and gradients, in float64 and with three layers
of that width. Both then step one model with one fused AdamW, round by round in turn; CPU seconds, best round.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from omma.models.preprocess import pad
from omma.models.pretrained import has_fast_bf16
from omma.models.vlmo import VLMo
from omma.models.vlmo_config import SMALL, VLMoConfig
from omma.training import objectives
from omma.training.batches import Batch
from omma.training.compiling import compile_blocks, compiling, eager
from omma.training.losses import LossWeights, compute_losses
from omma.training.optim import parameter_groups
from omma.training.rng import torch_generator
from train_step import cpu_seconds

CONFIG = replace(SMALL, vocab_size=30522)
WEIGHTS = LossWeights(itc=1.0, itm=1.0, mlm=0.25)
KEY = (0, 0)  # of the draw of negatives: the same ones for both forms
GOAL = 1.4
MASK_ID = 4


def make_batch(config: VLMoConfig, size: int, shortest: int = 8, longest: int = 18) -> Batch:
    """Random words of shortest..longest tokens, 15 % of them hidden, and random pictures (seed 0)."""
    random = torch_generator(0, "bench")
    lengths = torch.randint(shortest, longest + 1, (size,), generator=random)
    lengths[0], lengths[-1] = shortest, longest
    rows = [torch.randint(5, config.vocab_size, (int(n),), generator=random).tolist() for n in lengths]
    ids, mask = pad(rows, config.max_text_len)
    masked, labels = ids.clone(), torch.full_like(ids, objectives.IGNORE)
    for row, n in enumerate(lengths.tolist()):
        hidden = 1 + torch.randperm(n - 2, generator=random)[: max(1, round(0.15 * n))]
        labels[row, hidden], masked[row, hidden] = ids[row, hidden], MASK_ID
    side = config.image_size
    return Batch(
        step=0, ids=[str(i) for i in range(size)], input_ids=ids, attention_mask=mask, masked_ids=masked,
        pixels=torch.randint(0, 256, (size, 3, side, side), dtype=torch.uint8, generator=random),
        mlm_labels=labels, patch_mask=torch.zeros(size, config.num_patches, dtype=torch.bool),
        partner=torch.full((size,), -1), texts=[tuple(row) for row in rows],
    )  # fmt: skip


def padded(batch: Batch, length: int) -> Batch:
    """The batch with its texts padded to so many tokens, as the published collator does."""
    widen = lambda x, value: F.pad(x, (0, length - x.shape[1]), value=value)
    return replace(
        batch,
        input_ids=widen(batch.input_ids, 0),
        attention_mask=widen(batch.attention_mask, 0),
        masked_ids=widen(batch.masked_ids, 0),
        mlm_labels=widen(batch.mlm_labels, objectives.IGNORE),
    )


def published_losses(model: VLMo, batch: Batch, pixels: Tensor) -> dict[str, Tensor]:
    """itc, itm and mlm in six passes, as described: section 3.2 of the paper."""
    ids, mask, size = batch.input_ids, batch.attention_mask, len(batch.input_ids)
    image_embeds, text_embeds = model.encode_image(pixels), model.encode_text(ids, mask)
    scale = model.logit_scale.exp().clamp(max=100)
    same = torch.eye(size, dtype=torch.bool)
    logits = objectives.similarity(image_embeds, text_embeds, scale)
    chances = torch.rand(2, size, dtype=torch.float64, generator=torch_generator(*KEY, "negatives"))
    scores = logits.detach().cpu()
    drawn = objectives.hard_negatives(scores, scores.T, same, chances)
    wrong_text, wrong_image = (index.to(ids.device) for index in drawn[:2])
    matched = [
        model.match(ids, mask, pixels),
        model.match(ids, mask, pixels[wrong_image]),
        model.match(ids[wrong_text], mask[wrong_text], pixels),
    ]
    labels = (torch.arange(3 * size, device=ids.device) < size).long()
    words = model.mlm_head(model(batch.masked_ids, mask, pixels).last_hidden_state[:, : ids.shape[1]])
    return {
        "itc": objectives.itc_loss(image_embeds, text_embeds, scale),
        "itm": F.cross_entropy(torch.cat(matched).float(), labels),
        "mlm": F.cross_entropy(words.flatten(0, 1).float(), batch.mlm_labels.flatten(), ignore_index=objectives.IGNORE),
    }


def our_losses(model: VLMo, batch: Batch, pixels: Tensor) -> dict[str, Tensor]:
    return compute_losses(model, batch, pixels, WEIGHTS, KEY)


def total(losses: dict[str, Tensor]) -> Tensor:
    return torch.stack([weight * losses[name] for name, weight in WEIGHTS.active().items()]).sum()


def normalized(batch: Batch) -> Tensor:
    return (batch.pixels.float() / 255 - 0.5) / 0.5


def prove_equal(config: VLMoConfig, batch: Batch) -> float:
    """Largest difference between the two forms' losses and gradients in float64, relative to each tensor's largest
    value. AssertionError over 1e-5: cosines and losses are float32 in both forms."""
    torch.manual_seed(0)
    model = VLMo(config).double().train()
    pixels, found = normalized(batch).double(), []
    for form, rows in ((our_losses, batch), (published_losses, padded(batch, config.max_text_len))):
        losses = form(model, rows, pixels)
        total(losses).backward()
        gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        found.append(losses | gradients)
        model.zero_grad(set_to_none=True)
    ours, theirs = found
    assert ours.keys() == theirs.keys(), sorted(ours.keys() ^ theirs.keys())
    worst = 0.0
    for name, value in theirs.items():
        scale = float(value.detach().abs().max())
        difference = float((ours[name].detach() - value.detach()).abs().max()) / max(scale, 1e-9)
        assert difference < 1e-5, f"{name}: the two forms differ by {difference:.1e} of its largest value"
        worst = max(worst, difference)
    return worst


def all_cpu_seconds() -> float:
    """Of this process and of the compilers that it ran."""
    return sum(os.times()[:4])


def measure(rounds: int, size: int, compiled: bool = False) -> dict[str, float]:
    """Seconds of a step of each form; or of ours, plain and with compiled layers, and what compiling costs."""
    torch.manual_seed(0)
    model = VLMo(CONFIG).train()
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.01), lr=1e-6, fused=True)
    batch = make_batch(CONFIG, size)
    wide, pixels = padded(batch, CONFIG.max_text_len), normalized(batch)

    def step(form: Callable, rows: Batch) -> None:
        with torch.autocast("cpu", torch.bfloat16):
            loss = total(form(model, rows, pixels))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    if compiled:
        compile_blocks(model)
        ours = lambda: step(our_losses, batch)

        def plain() -> None:
            with eager():
                ours()

        with compiling():
            plain()
            began = all_cpu_seconds()
            ours()
            first = all_cpu_seconds() - began
            seconds = cpu_seconds({"plain": plain, "compiled": ours}, rounds)
        saved, cost = seconds["plain"] - seconds["compiled"], first - seconds["compiled"]
        return {**seconds, "compiling": cost, "steps": cost / saved if saved > 0 else float("inf")}
    forms = {"published": lambda: step(published_losses, wide), "ours": lambda: step(our_losses, batch)}
    seconds = cpu_seconds(forms, rounds)
    return {**seconds, "ratio": seconds["published"] / seconds["ours"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--batch", type=int, default=12)
    parser.add_argument("--compile", action="store_true", help="what compiled layers cost and save, instead")
    parser.add_argument("--inner", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.inner:
        print(json.dumps(measure(args.rounds, args.batch, args.compile)))
        return
    small = replace(CONFIG, num_layers=3, num_vl_layers=1)
    worst = prove_equal(small, make_batch(small, args.batch))
    print(f"the two forms' losses and gradients differ by {worst:.1e} at most (float64)")
    claims = []
    if not has_fast_bf16(torch.device("cpu")):
        print("this CPU has no fast bfloat16; the claim is about those that do", file=sys.stderr)
        return
    for name, isa in (("AVX512-BF16", "AVX512_CORE_BF16"), ("as it is", None)):
        env = {k: v for k, v in os.environ.items() if k != "ONEDNN_MAX_CPU_ISA"}
        env |= {"ONEDNN_MAX_CPU_ISA": isa} if isa else {}
        env["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # in this process, where its time is counted
        command = [sys.executable, __file__, "--inner", "--rounds", str(args.rounds), "--batch", str(args.batch)]
        command += ["--compile"] if args.compile else []
        done = subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True)
        r = json.loads(done.stdout)
        if args.compile:
            print(f"{name:12s} plain {r['plain']:.2f} s, compiled {r['compiled']:.2f} s a step, compiling "
                  f"{r['compiling']:.0f} CPU-seconds: pays after {r['steps']:.0f} steps", flush=True)  # fmt: skip
            continue
        print(f"{name:12s} published {r['published']:.2f} s, ours {r['ours']:.2f} s a step: {r['ratio']:.2f} x")
        claims.append({"name": f"pre-training step, published form over ours, {name}", "value": round(r["ratio"], 3),
                       "goal": GOAL, "ok": r["ratio"] >= GOAL})  # fmt: skip
    for claim in claims:
        print(json.dumps(claim))


if __name__ == "__main__":
    main()
