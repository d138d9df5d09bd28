"""The paper's fixed experts against learned routers: the same small model, data, steps and seeds.

    omma scenes TRAIN --pictures 4000 --pairs 150 --seed 73 --no-check
    omma scenes TEST --pictures 500 --pairs 150 --seed 72 --split test --no-check
    python bench/routing.py TRAIN/pictures TEST [--steps 300] [--seeds 1 2]    # prints a line a run, and one JSON line

recall@10: text to picture among the test's pictures, by the two encoders. loss_itc: of the last logged step. own: share
of the tokens that go to the expert of their modality. balance: 1 where experts are used alike.
"""

import argparse
import json
import tempfile
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from time import process_time

import numpy as np
import torch

import omma
from omma.models.router import MODALITIES, balance_loss, routing
from omma.models.vlmo_config import NANO
from omma.training.batches import DataConfig
from omma.training.config import TrainConfig
from omma.training.losses import LossWeights

MODEL = replace(NANO, image_size=64, patch_size=16, hidden_size=64, num_layers=4, num_heads=2, max_text_len=24)
ROUTERS = {
    "fixed": {},
    "top1": {"router": "top1"},
    "top1, starts at the rule": {"router": "top1", "router_prior": 4.0},
    "top2": {"router": "top2"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train")
    parser.add_argument("test")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--routers", nargs="+", default=list(ROUTERS), choices=list(ROUTERS))
    args = parser.parse_args()
    numbers: dict[str, list[dict]] = defaultdict(list)
    for seed in args.seeds:
        for name in args.routers:
            numbers[name].append(found := run(args, name, seed))
            print(f"{name:26s} seed {seed}  " + "  ".join(f"{k} {v:.3f}" for k, v in found.items()), flush=True)
    print(json.dumps({"name": "routing", "steps": args.steps, "value": numbers}))


def run(args: argparse.Namespace, name: str, seed: int) -> dict[str, float]:
    model = replace(MODEL, **ROUTERS[name])
    losses = LossWeights(itc=1.0, itc_pair=1.0, itm=0.25, mlm=0.25, balance=0.01 * (model.router != "modality"))
    with tempfile.TemporaryDirectory() as folder:
        config = TrainConfig(
            recipe="routing", data=args.train, out=folder, model=model, losses=losses, fusion_share=0.25, threads=1,
            batch_size=args.batch_size, dataset=DataConfig(mlm_probability=0.25), steps=args.steps, peak_lr=1.5e-3,
            seed=seed, warmup=min(50, args.steps), weight_decay=0.01, save_every=args.steps, ema=0.99,
        )  # fmt: skip
        began = process_time()
        omma.train(config, progress=False)
        spent = process_time() - began
        last = json.loads((Path(folder) / "metrics.jsonl").read_text().splitlines()[-1])
        eye = omma.load_encoder(folder, device="cpu")
        retrieval = omma.evaluate(eye, "retrieval", data=args.test, where="group is None").metrics["scores"]["itc"]
        found = {
            "loss_itc": last["loss_itc"],
            "recall@10": retrieval["model"]["t2i"]["recall@10"]["value"],
            "cpu_s": spent,
        }
        return found | (routes(eye, args.test) if model.router != "modality" else {})


@torch.no_grad()
def routes(eye, test: str) -> dict[str, float]:
    """Where the tokens of a few pictures with their captions go."""
    from omma.decode import open_picture

    rows = omma.Table.open(Path(test) / "pictures").take(
        [row["id"] for row in omma.Table.open(Path(test) / "pictures").read(["id"]).to_pylist()[:64]],
        columns=["bytes", "captions"],
    )
    images = eye.processor.images([open_picture(row).image for row in rows.to_pylist()])
    ids, mask = eye.processor.texts([row["captions"][0]["text"] for row in rows.to_pylist()])
    own, balance = [], []
    for inputs in ({"pixel_values": images}, {"input_ids": ids, "attention_mask": mask}):
        modality = "image" if "pixel_values" in inputs else "text"
        with routing(eye.model) as loads:
            eye.model(**inputs)
        own += [float(shares[MODALITIES.index(modality)]) for shares, _ in loads]
        balance += [float(balance_loss(*load)) for load in loads]
    return {"own": float(np.mean(own)), "balance": float(np.mean(balance))}


if __name__ == "__main__":
    main()
