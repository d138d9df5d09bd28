"""Prompts learned from a few pictures a kind, on the shipped eye as it is, beside a linear probe of its vectors.

python bench/few_shot.py [--shots 16] [--style outline] [--steps 200] [--seeds 1 2 3]     # one JSON line last

Every picture shows one thing of 24 kinds in a style that the eye was not trained on. Zero-shot: the kind whose name
("a cup") is nearest. Prompts: the same after `omma train prompts` on the few pictures. Probe: logistic regression on
the same pictures' vectors, the kind's name unused. All are measured on the same 24 x 25 other pictures.
"""

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import omma
from omma import config as configuration
from omma.eval.metrics import wilson
from omma.scenes.draw import png, render
from omma.scenes.kinds import COLOURS, KINDS
from omma.scenes.language import article
from omma.scenes.looks import STYLES, Look
from omma.scenes.world import Thing, World, generator, sample_attributes, sample_backdrop
from omma.training.recipes import load_recipe

NAMES = {kind: article(said.noun) for kind, said in KINDS.items()}


def pictures(number: int, style: str, *key: object) -> list[tuple[str, Image.Image]]:
    """(kind, picture) of `number` things of each kind, somewhere on a picture of its own."""
    found = []
    for kind in KINDS:
        for n in range(number):
            rng = generator("few-shot", kind, n, *key)
            radius = rng.uniform(0.12, 0.24)
            place = lambda: rng.uniform(1.1 * radius, 1 - 1.1 * radius)  # noqa: B023
            thing = Thing(kind, rng.choice(list(COLOURS)), place(), place(), radius, sample_attributes(rng, kind))
            found.append((kind, render(World((thing,), sample_backdrop(rng), (0,)), look=Look(style=style))))
    return found


def accuracy(eye: Any, test: list[tuple[str, Image.Image]], names: dict[str, str]) -> int:
    scores = eye.encode_image([image for _, image in test]) @ eye.encode_text(list(names.values())).T
    kinds = list(names)
    return sum(kinds[best] == kind for best, (kind, _) in zip(scores.argmax(axis=1), test, strict=True))


def probe(eye: Any, train: list[tuple[str, Image.Image]], test: list[tuple[str, Image.Image]]) -> int:
    """Multinomial logistic regression by L-BFGS, its weight decay the best of three by a quarter of the pictures."""
    kinds = {kind: i for i, kind in enumerate(KINDS)}
    x, z = (torch.from_numpy(eye.encode_image([image for _, image in part])) for part in (train, test))
    y, truth = (torch.tensor([kinds[kind] for kind, _ in part]) for part in (train, test))
    held = torch.arange(len(y)) % 4 == 0

    def fit(x: torch.Tensor, y: torch.Tensor, decay: float) -> torch.nn.Linear:
        torch.manual_seed(0)
        layer = torch.nn.Linear(x.shape[1], len(kinds))
        solver = torch.optim.LBFGS(layer.parameters(), max_iter=200, line_search_fn="strong_wolfe")

        def loss() -> torch.Tensor:
            solver.zero_grad()
            value = torch.nn.functional.cross_entropy(layer(x), y) + decay * layer.weight.square().sum()
            value.backward()
            return value

        solver.step(loss)  # type: ignore[arg-type]
        return layer

    right = lambda layer, x, y: int((layer(x).argmax(dim=1) == y).sum())
    best = max((1e-5, 1e-4, 1e-3), key=lambda decay: right(fit(x[~held], y[~held], decay), x[held], y[held]))
    return right(fit(x, y, best), z, truth)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shots", type=int, default=16)
    parser.add_argument("--style", default="outline", choices=STYLES)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--settings", nargs="*", default=[], help="key=value for the training")
    args = parser.parse_args()
    eye = omma.load_encoder("vlmo-nano", device="cpu")
    test, names = pictures(25, args.style, "test"), NAMES
    numbers: dict[str, list[int]] = {"zero-shot": [accuracy(eye, test, names)]}
    for seed in args.seeds:
        train = pictures(args.shots, args.style, "train", seed)
        numbers.setdefault("linear probe", []).append(probe(eye, train, test))
        with tempfile.TemporaryDirectory() as folder:
            rows = [{"id": f"{kind}-{n}", "bytes": png(image), "status": "ok", "width": 128, "height": 128,
                     "captions": [{"text": names[kind], "language": "en"}]}
                    for n, (kind, image) in enumerate(train)]  # fmt: skip
            omma.Table.create(Path(folder) / "pictures", "pictures").append(rows)
            for name, text, image in (("text prompts", 8, 0), ("visual prompts", 0, 8), ("both", 8, 8)):
                config = replace(load_recipe("prompts"), data=str(Path(folder) / "pictures"), init="vlmo-nano",
                                 out=str(Path(folder) / name), prompts=text, visual_prompts=image, steps=args.steps,
                                 seed=seed, threads=1)  # fmt: skip
                config = configuration.apply(config, args.settings)
                prompted = omma.load_encoder(omma.train(config, progress=False).path, device="cpu")
                numbers.setdefault(name, []).append(accuracy(prompted, test, names))
        print({name: [round(100 * n / len(test), 1) for n in each] for name, each in numbers.items()}, flush=True)
    value = {name: round(float(np.mean(each)) / len(test), 4) for name, each in numbers.items()}
    low, high = wilson(numbers["zero-shot"][0], len(test))
    print(f"zero-shot 95 %: {100 * low:.1f}-{100 * high:.1f}")
    print(json.dumps({"name": "few_shot", "shots": args.shots, "style": args.style, "value": value}))


if __name__ == "__main__":
    main()
