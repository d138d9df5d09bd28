"""Training steps on a CUDA device: VLMo base and large at batch 256 against the published block and passes, and CLIP
ViT-B/32 against open_clip; and visual tokens dropped in VLMs of 7B (sparsify_gpu.py).

python bench/gpu.py                 # needs a CUDA device; bfloat16, 224 px, texts of 8 to 18 tokens
python bench/gpu.py --only sparsify # one part: training or sparsify; together they take about 15 minutes
python bench/gpu.py --dry           # the same code with a tiny model on a CPU, to see that it runs, not how fast

Forms, each stepping a model of its own with fused AdamW: the published one (scores in float32, six passes, texts padded
to 40, words predicted at all positions); ours with the published relative bias, which reaches the device's fused
attention as an expanded mask with a gradient; ours with absolute positions, where padding alone needs a mask; and that
with compiled layers. A form that does not fit into memory is a row that says so. MFU is against a bfloat16 matrix
product of the same run, and counts what a form computes: what it spares itself is no work.

CLIP (clip_step.py): open_clip and ours with the same weights, each at the largest batch, by doubling from --batch, that
fits into memory; texts of 8 to 20 tokens in a context of 77, which open_clip computes in full.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

import sparsify_gpu
from clip_step import make_batch as clip_batch
from clip_step import our_loss, stepping, their_loss, their_model
from omma.models.clip import CLIP, VIT_B32, CLIPConfig, own_towers
from omma.models.layers import Attention
from omma.models.towers import TextConfig, VisionConfig
from omma.models.vlmo import VLMo
from omma.models.vlmo_config import BASE, LARGE, VLMoConfig
from omma.training.compiling import compile_blocks, compiling
from omma.training.losses import by_length
from omma.training.optim import parameter_groups
from vlmo_step import make_batch, normalized, our_losses, padded, published_losses, total

GOAL = 1.4
TINY = replace(BASE, image_size=32, vocab_size=50, hidden_size=32, num_layers=2, num_heads=2, num_vl_layers=1)


@dataclass(frozen=True)
class Form:
    """One way to do the step."""

    losses: Callable
    positions: Any = "relative"
    padded: bool = False
    float32_scores: bool = False
    compiled: bool = False


FORMS = {
    "published": Form(published_losses, padded=True, float32_scores=True),
    "ours, relative bias": Form(our_losses),
    "ours, absolute positions": Form(our_losses, positions="absolute"),
    "ours, absolute positions, compiled": Form(our_losses, positions="absolute", compiled=True),
}


def float32_attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Attention as published: scores, bias and softmax in float32 and in memory."""
    with torch.autocast(q.device.type, enabled=False):
        scores = (q.float() * q.shape[-1] ** -0.5) @ k.float().transpose(-2, -1)
        weights = (scores if bias is None else scores + bias.float()).softmax(dim=-1)
    return weights.to(v.dtype) @ v


def passes(config: VLMoConfig, lengths: Tensor, form: Form) -> list[tuple[int, int]]:
    """(rows, tokens a row) of every pass through the layers: pictures, texts, fusion."""
    rows, image = len(lengths), 1 + config.num_patches
    if form.padded:
        T = config.max_text_len
        return [(rows, image), (rows, T), *[(rows, T + image)] * 4]
    longest = min(config.max_text_len, -8 * (-int(lengths.max()) // 8))  # as texts are padded
    mask = (torch.arange(longest)[None] < lengths[:, None]).long()
    groups = [(len(chosen), T) for chosen, T in by_length(mask)]
    return [(rows, image), *groups, *[(4 * n, T + image) for n, T in groups]]


def step_flops(config: VLMoConfig, lengths: Tensor, form: Form, hidden_words: int) -> float:
    """Forward and backward of layers and of the vocabulary head; the draw of negatives is taken to keep lengths."""
    D, L = config.hidden_size, config.num_layers
    spared = int(not form.padded and config.pool == "first")  # of the last layer: all but keys and values
    whole = [n * (2 * S * D * D * (4 + 2 * config.mlp_ratio) + 4 * S * S * D) for n, S in passes(config, lengths, form)]
    layers = (L - spared) * sum(whole) + spared * sum(n * 4 * S * D * D for n, S in passes(config, lengths, form))
    predicted = len(lengths) * config.max_text_len if form.padded else hidden_words
    return 3.0 * (layers + 2 * predicted * D * (D + config.vocab_size))


def seconds(run: Callable[[], object], device: torch.device, rounds: int) -> float:
    """Best round after two that are not counted."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    best = float("inf")
    for n in range(rounds + 2):
        wait()
        began = perf_counter()
        run()
        wait()
        if n >= 2:
            best = min(best, perf_counter() - began)
    return best


def matmul_peak(device: torch.device, side: int) -> float:
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    return 10 * 2 * side**3 / seconds(lambda: [a @ b for _ in range(10)], device, 5)


def measure(
    config: VLMoConfig, form: Form, size: int, device: torch.device, rounds: int, peak: float
) -> dict[str, Any]:
    """Seconds, tokens a second, share of the peak and memory of one form's step."""
    config = replace(config, positions=form.positions, itc_vl=False)
    torch.manual_seed(0)
    with device:
        model = VLMo(config).train()
    for part in model.modules():
        if form.float32_scores and isinstance(part, Attention):
            part.attend = float32_attend
    if form.compiled:
        compile_blocks(model)
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.01), lr=1e-6, fused=True)
    batch = make_batch(config, size)
    lengths, words = batch.attention_mask.sum(dim=1), int((batch.mlm_labels >= 0).sum())
    batch = (padded(batch, config.max_text_len) if form.padded else batch).to(device)
    pixels = normalized(batch)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            loss = total(form.losses(model, batch, pixels))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with compiling():
        spent = seconds(step, device, rounds)
    tokens = sum(n * S for n, S in passes(config, lengths, form))
    memory = torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else None
    return {"seconds": spent, "samples_per_s": size / spent, "tokens_per_s": tokens / spent,
            "mfu": step_flops(config, lengths, form, words) / spent / peak, "memory_gb": memory}  # fmt: skip


# ---------------------------------------------------------------------------------------------------------- CLIP
B32 = replace(VIT_B32, text=replace(own_towers(VIT_B32)[1], pool="eos"))
TINY_CLIP = CLIPConfig(
    vision=VisionConfig(image_size=32, patch_size=16, hidden_size=32, num_layers=2, num_heads=2),
    text=TextConfig(vocab_size=50, hidden_size=32, num_layers=2, num_heads=2, pool="eos"), embed_dim=16)  # fmt: skip


def clip_flops(config: CLIPConfig, size: int, text_tokens: int) -> float:
    """Forward and backward of both towers' layers; text_tokens: of the batch, as many as are computed. Attention
    among text tokens is too little to count."""
    v, t = own_towers(config)
    P = 1 + v.num_patches
    vision = v.num_layers * (2 * P * v.hidden_size**2 * (4 + 2 * v.mlp_ratio) + 4 * P * P * v.hidden_size)
    return 3.0 * (size * vision + text_tokens * t.num_layers * 2 * t.hidden_size**2 * (4 + 2 * t.mlp_ratio))


def measure_clip(
    config: CLIPConfig, form: str, size: int, device: torch.device, rounds: int, peak: float, most: int
) -> dict[str, Any]:
    """Seconds, pictures a second, share of the peak and memory at the largest batch that fits, from `size` up to
    `most`."""
    row: dict[str, Any] = {"error": "out of memory"}
    while size <= most:
        try:
            torch.manual_seed(0)
            ours = CLIP(config)
            model, loss = (ours, our_loss) if form == "ours" else (their_model(ours), their_loss)
            pixels, ids = (part.to(device) for part in clip_batch(config, size))
            step = stepping(model.to(device).train(), loss, pixels, ids)
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            spent = seconds(step, device, rounds)
        except torch.cuda.OutOfMemoryError:
            break
        tokens = int((ids > 0).sum()) if form == "ours" else ids.numel()
        memory = torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else None
        row = {"batch": size, "seconds": spent, "samples_per_s": size / spent,
               "mfu": clip_flops(config, size, tokens) / spent / peak, "memory_gb": memory}  # fmt: skip
        size *= 2
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return row


def compare_clip(device: torch.device, size: int, rounds: int, peak: float, dry: bool) -> dict[str, Any] | None:
    """Prints a row a form; the claim, where both ran."""
    found = {}
    for form in ("ours",) if dry else ("open_clip", "ours"):
        config, most = (TINY_CLIP, size) if dry else (B32, 1 << 16)
        try:
            found[form] = measure_clip(config, form, size, device, rounds, peak, most)
        except ImportError as error:
            found[form] = {"error": str(error)}
        print(json.dumps({"size": "clip", "form": form, **found[form]}), flush=True)
    if any("error" in row for row in found.values()) or dry:
        return None
    ratio = found["ours"]["samples_per_s"] / found["open_clip"]["samples_per_s"]
    where = torch.cuda.get_device_name()
    return {"name": f"{where}, CLIP ViT-B/32: pictures a second, ours over open_clip, each at its largest batch",
            "value": round(ratio, 3), "goal": 1.0, "ok": ratio >= 1.0}  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--dry", action="store_true", help="a tiny model on a CPU, one round, nothing compiled")
    parser.add_argument("--only", choices=("training", "sparsify"), help="one part, of both")
    args = parser.parse_args(arguments)
    if not (args.dry or torch.cuda.is_available()):
        raise SystemExit("no CUDA device here; --dry runs the same code with a tiny model on a CPU")
    device = torch.device("cpu" if args.dry else "cuda")
    sizes = {"tiny": TINY} if args.dry else {"base": BASE, "large": LARGE}
    size, rounds, side = (4, 1, 64) if args.dry else (args.batch, args.rounds, 8192)
    forms = {name: form for name, form in FORMS.items() if not (args.dry and form.compiled)}
    if args.only == "sparsify":
        show(sparsify_gpu.compare(device, args.dry), args.dry)
        return
    peak = matmul_peak(device, side)
    where = "cpu" if args.dry else torch.cuda.get_device_name()
    print(f"{where}: {peak / 1e12:.3g} TFLOP/s in a bfloat16 product of {side} x {side}")
    claims = []
    for name, config in sizes.items():
        found: dict[str, dict] = {}
        for title, form in forms.items():
            try:
                found[title] = row = measure(config, form, size, device, rounds, peak)
            except torch.cuda.OutOfMemoryError:
                print(json.dumps({"size": name, "form": title, "batch": size, "error": "out of memory"}), flush=True)
                torch.cuda.empty_cache()
                continue
            print(json.dumps({"size": name, "form": title, "batch": size, **row}), flush=True)
        for title in [title for title in forms if title != "published" and {title, "published"} <= found.keys()]:
            ratio = found["published"]["seconds"] / found[title]["seconds"]
            claims.append({"name": f"{where}, {name}: published step over {title}", "value": round(ratio, 3),
                           "goal": GOAL, "ok": ratio >= GOAL})  # fmt: skip
    clip = compare_clip(device, size, rounds, peak, args.dry)
    claims += [] if clip is None else [clip]
    if args.only is None:
        claims += sparsify_gpu.compare(device, args.dry)
    show(claims, args.dry)


def show(claims: list[dict[str, Any]], dry: bool) -> None:
    """One line a claim; a dry run claims nothing."""
    for claim in [] if dry else claims:
        print(json.dumps(claim))


if __name__ == "__main__":
    main()
