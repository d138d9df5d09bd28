"""Memory and time of a contrastive loss at B = 8192, E = 512, float32, forward and backward on one thread: tile by tile
against the whole matrix.

python bench/contrastive_loss.py     # a process for each variant, taking turns; open_clip's too, where it is installed

Memory is the most that the process ever held (ru_maxrss) less what it held with its inputs made, and everything warmed
up on 256 rows. Time is CPU seconds, the median of the rounds. The naive losses are the formulas as one would write
them: cross-entropy of z and of its transpose, log sigmoid of the matrix of all pairs.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
from pathlib import Path
from time import process_time
from typing import Any

B, E, SCALE, BIAS = 8192, 512, 1 / 0.07, -10.0
KINDS = ("InfoNCE", "SigLIP")
WHOSE = ("naive", "open_clip", "omma")  # all are compared with the first
MEMORY, TIME = 1 / 8, 1.0  # what ours may take of the naive loss's


def loss_of(name: str) -> Any:
    """A function of pictures, texts, scale and bias. ImportError where the peer isn't installed."""
    import torch
    import torch.nn.functional as F

    from omma.training.contrastive import info_nce, siglip

    def naive_info_nce(image: Any, text: Any, scale: Any, bias: Any) -> Any:
        logits, labels = scale * image @ text.T, torch.arange(len(image))
        return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2

    def naive_siglip(image: Any, text: Any, scale: Any, bias: Any) -> Any:
        labels = 2 * torch.eye(len(image)) - 1
        return -F.logsigmoid(labels * (scale * image @ text.T + bias)).sum() / len(image)

    whose, kind = name.split()
    if whose == "open_clip":
        import torchvision_stub

        torchvision_stub.ensure()
        from open_clip.loss import ClipLoss, SigLipLoss  # pyright: ignore[reportMissingImports]

        contrast, pairs = ClipLoss(), SigLipLoss()
        return pairs if kind == "SigLIP" else lambda image, text, scale, _: contrast(image, text, scale)
    if whose == "naive":
        return naive_siglip if kind == "SigLIP" else naive_info_nce
    return siglip if kind == "SigLIP" else lambda image, text, scale, _: info_nce(image, text, scale)


def serve(name: str) -> None:
    """A round for each line of the input; what it took is a line of the output."""
    import torch

    torch.set_num_threads(1)
    try:
        loss_of_all = loss_of(name)
    except ImportError as error:
        print(json.dumps({"missing": str(error)}), flush=True)
        return
    draw = torch.Generator().manual_seed(0)
    normed = lambda x: x.div_(x.norm(dim=1, keepdim=True)).requires_grad_()
    image = torch.randn(B, E, generator=draw)
    text = normed(torch.randn(B, E, generator=draw).add_(image))  # a pair's cosine is about 0.7
    numbers = [torch.tensor(x, requires_grad=True) for x in (SCALE, BIAS)]
    inputs = [normed(image), text, *numbers]
    small = [x.detach()[:256].clone().requires_grad_() if x.dim() else x for x in inputs]
    loss_of_all(*small).backward()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    before = pages * resource.getpagesize()
    print(json.dumps({"missing": None}), flush=True)
    for _ in sys.stdin:
        for x in inputs:
            x.grad = None
        began = process_time()
        loss = loss_of_all(*inputs)
        loss.backward()
        seconds = process_time() - began
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
        found = {"seconds": seconds, "mib": peak / 2**20, "loss": float(loss.detach())}
        norms = [float(x.grad.norm()) for x in inputs if x.grad is not None]
        print(json.dumps(found | {"gradients": norms}), flush=True)


def measure(rounds: int) -> dict[str, dict]:
    """Of each variant that is installed: median CPU seconds, memory in MiB, loss, and norms of its gradients."""
    started = {}
    for name in (f"{whose} {kind}" for kind in KINDS for whose in WHOSE):
        command = [sys.executable, __file__, "--inner", name]
        server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert server.stdin
        assert server.stdout
        missing = json.loads(server.stdout.readline())["missing"]
        if missing:
            print(f"{name}: {missing}", file=sys.stderr)
        else:
            started[name] = (server.stdin, server.stdout)
    found: dict[str, list[dict]] = {name: [] for name in started}
    for _ in range(rounds + 1):  # the first one warms up
        for name, (asked, answers) in started.items():
            asked.write("\n")
            asked.flush()
            found[name].append(json.loads(answers.readline()))
    for asked, _ in started.values():
        asked.close()
    return {name: of[-1] | {"seconds": statistics.median(r["seconds"] for r in of[1:])} for name, of in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--inner", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inner:
        serve(args.inner)
        return
    found, claims = measure(args.rounds), []
    for name, of in found.items():
        whose, kind = name.split()
        whole = found[f"{WHOSE[0]} {kind}"]
        for value, wanted in zip([of["loss"], *of["gradients"]], [whole["loss"], *whole["gradients"]], strict=True):
            assert abs(value - wanted) < 1e-4 * abs(wanted), f"{name}: {value} instead of {wanted}"
        memory, time = of["mib"] / whole["mib"], of["seconds"] / whole["seconds"]
        print(f"{name:18s} {of['seconds']:6.2f} CPU s  {time:5.2f} x   {of['mib']:6.0f} MiB  {memory:6.3f} x")
        if whose == "omma":
            claims.append((f"{kind}: memory over that of the naive loss, at most", memory, MEMORY))
            claims.append((f"{kind}: CPU time over that of the naive loss, at most", time, TIME))
    for name, value, goal in claims:
        print(json.dumps({"name": name, "value": round(value, 3), "goal": goal, "ok": value <= goal}))


if __name__ == "__main__":
    main()
