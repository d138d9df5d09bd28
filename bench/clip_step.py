"""A contrastive training step of CLIP against open_clip's: the same weights, pictures, texts and optimiser.

PYTHONPATH=PEERS python bench/clip_step.py     # PEERS: a folder with open_clip and torchvision, where not installed

ViT-S/16 at 224 px and six layers of text of width 512, batch 64, texts of 8 to 20 tokens in a context of 77, bfloat16
autocast, one thread: forward, InfoNCE, backward, one fused AdamW each. Before anything is timed, both are shown to give
the same loss and the same gradients, in float64 and with two layers. Round by round in turn; CPU seconds, best round.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

import torchvision_stub
from omma.models.clip import CLIP, CLIPConfig, own_towers
from omma.models.clip_layouts import convert_clip, open_clip_settings, to_layout
from omma.models.pretrained import has_fast_bf16
from omma.models.towers import TextConfig, VisionConfig
from omma.training.contrastive import info_nce
from omma.training.rng import torch_generator
from train_step import cpu_seconds

VISION, TEXT = VisionConfig(), TextConfig(pool="eos")
CONFIG = CLIPConfig(vision=VISION, text=TEXT, embed_dim=512)
GOAL = 1.0


def make_batch(config: CLIPConfig, size: int, shortest: int = 8, longest: int = 20) -> tuple[Tensor, Tensor]:
    """Random pictures (B, 3, h, h) and texts (B, context) of shortest..longest tokens, zeros behind (seed 0).

    The last token of a text is the vocabulary's largest, as in OpenAI's: both towers read a text there.
    """
    random, (vision, text) = torch_generator(0, "bench"), own_towers(config)
    side = vision.image_size
    lengths = torch.randint(shortest, longest + 1, (size,), generator=random)
    ids = torch.randint(1, text.vocab_size - 2, (size, text.max_text_len), generator=random)
    ids *= torch.arange(text.max_text_len) < lengths[:, None]
    ids[torch.arange(size), lengths - 1] = text.vocab_size - 1
    return torch.randn(size, 3, side, side, generator=random), ids


def their_model(ours: CLIP) -> nn.Module:
    """open_clip's CLIP of the same sizes and weights."""
    torchvision_stub.ensure()
    import open_clip  # pyright: ignore[reportMissingImports]

    theirs = open_clip.CLIP(**open_clip_settings(ours.config))
    theirs.load_state_dict(to_layout(ours, "open_clip"), strict=True)
    return theirs.train()


def their_loss(model: nn.Module, pixels: Tensor, ids: Tensor) -> Tensor:
    from open_clip import ClipLoss  # pyright: ignore[reportMissingImports]

    image_embeds, text_embeds, scale = model(pixels, ids)
    return ClipLoss()(image_embeds, text_embeds, scale)


def our_loss(model: nn.Module, pixels: Tensor, ids: Tensor) -> Tensor:
    assert isinstance(model, CLIP)
    image_embeds, text_embeds = model(pixels, ids)
    return info_nce(image_embeds, text_embeds, model.logit_scale.exp().clamp(max=100))


def prove_equal(config: CLIPConfig, size: int) -> float:
    """Largest difference between both losses and gradients in float64, relative to each tensor's largest value.
    AssertionError over 1e-5."""
    torch.manual_seed(0)
    ours = CLIP(config).double().train()
    theirs = their_model(ours).double()
    pixels, ids = make_batch(config, size)
    losses = {}
    for name, model, loss in (("ours", ours, our_loss), ("open_clip", theirs, their_loss)):
        losses[name] = loss(model, pixels.double(), ids)
        losses[name].backward()
    gradients = {name: p.grad for name, p in theirs.named_parameters() if p.grad is not None}
    wanted = convert_clip(gradients, settings=open_clip_settings(config)).tensors
    pairs = {name: (p.grad, wanted[name]) for name, p in ours.named_parameters()}
    pairs["loss"] = (losses["ours"].detach(), losses["open_clip"].detach())
    worst = 0.0
    for name, (mine, their) in pairs.items():
        assert mine is not None, name
        difference = float((mine - their).abs().max() / their.abs().max().clamp(min=1e-9))
        assert difference < 1e-5, f"{name}: the two differ by {difference:.1e} of its largest value"
        worst = max(worst, difference)
    return worst


def stepping(model: nn.Module, loss: Callable, pixels: Tensor, ids: Tensor) -> Callable[[], float]:
    """One training step of a model, on the device it is on; returns the loss."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)

    def step() -> float:
        with torch.autocast(pixels.device.type, torch.bfloat16):
            value = loss(model, pixels, ids)
        value.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return value.detach().item()

    return step


def measure(rounds: int, size: int, config: CLIPConfig = CONFIG) -> dict[str, Any]:
    torch.manual_seed(0)
    ours = CLIP(config).train()
    theirs = their_model(ours)
    batch = make_batch(config, size)
    forms = {"open_clip": stepping(theirs, their_loss, *batch), "ours": stepping(ours, our_loss, *batch)}
    first = {name: step() for name, step in forms.items()}
    seconds = cpu_seconds(forms, rounds)
    return {**seconds, "ratio": seconds["open_clip"] / seconds["ours"], "losses": first}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--inner", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.inner:
        print(json.dumps(measure(args.rounds, args.batch)))
        return
    two_layers = {"vision": replace(VISION, image_size=64, num_layers=2), "text": replace(TEXT, num_layers=2)}
    worst = prove_equal(replace(CONFIG, **two_layers), 8)
    print(f"losses and gradients differ by {worst:.1e} at most (float64, two layers)", flush=True)
    if not has_fast_bf16(torch.device("cpu")):
        print("this CPU has no fast bfloat16; the claim is about those that do", file=sys.stderr)
        return
    claims = []
    for name, isa in (("AVX512-BF16", "AVX512_CORE_BF16"), ("as it is", None)):
        env = {k: v for k, v in os.environ.items() if k != "ONEDNN_MAX_CPU_ISA"}
        env |= {"ONEDNN_MAX_CPU_ISA": isa} if isa else {}
        command = [sys.executable, __file__, "--inner", "--rounds", str(args.rounds), "--batch", str(args.batch)]
        r = json.loads(subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True).stdout)
        print(f"{name:12s} open_clip {r['open_clip']:.2f} s, ours {r['ours']:.2f} s a step: {r['ratio']:.2f} x; first "
              f"losses {r['losses']['open_clip']:.4f} and {r['losses']['ours']:.4f}", flush=True)  # fmt: skip
        claims.append({"name": f"CLIP training step, open_clip over ours, batch {args.batch}, {name}",
                       "value": round(r["ratio"], 3), "goal": GOAL, "ok": r["ratio"] >= GOAL})  # fmt: skip
    for claim in claims:
        print(json.dumps(claim))


if __name__ == "__main__":
    main()
