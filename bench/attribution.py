"""Does an explanation tell what an answer rests on? Deletion and pointing on scenes, where the truth is known.

python bench/attribution.py [vlmo-nano] [--pictures 300]    # prints a table, and one JSON line last

Each picture shows two to four things of different kinds; the text names one of them ("a red cup"). Deletion: patches
are hidden from the highest share to the lowest, and the mean probability of a match along the way is the area under the
curve; lower is better, and hiding in random order is the measure. Pointing: how often the patch of the largest share
shows some of the thing that was named; a random patch does so as often as the thing's patches are a share of all.
"""

import argparse
import json

import numpy as np
import torch

import omma
from omma.models.attribution import attribute, deletion_curve
from omma.scenes.draw import THINGS, draw
from omma.scenes.language import Noun, a
from omma.scenes.world import sample_world


def asked(number: int, seed: str) -> list[tuple]:
    """(picture, text, mask of the named thing) of worlds whose things are all of different kinds."""
    found, key = [], 0
    while len(found) < number:
        world, key = sample_world(seed, key), key + 1
        kinds = [thing.kind for thing in world.things]
        if 2 <= len(kinds) == len(set(kinds)):
            picture, ids = draw(world)
            which = key % len(kinds)
            found.append((picture, a(Noun.of(world.things[which])), np.asarray(ids) % THINGS == which + 1))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoder", nargs="?", default="vlmo-nano")
    parser.add_argument("--pictures", type=int, default=300)
    args = parser.parse_args()
    eye = omma.load_encoder(args.encoder)
    items = asked(args.pictures, "bench-attribution")
    pixels = eye.processor.images([picture for picture, _, _ in items])
    ids, mask = eye.processor.texts([text for _, text, _ in items])
    gh, gw = eye.model.config.grid
    shows = torch.from_numpy(np.stack([shown for _, _, shown in items])).float()[:, None]
    shows = torch.nn.functional.adaptive_max_pool2d(shows, (gh, gw))[:, 0] > 0  # (B, gh, gw)

    torch.manual_seed(0)
    maps = {f"{kind} {method}": attribute(eye.model, ids, mask, pixels, kind, method).patches
            for kind in ("itm", "itc") for method in ("relevance", "rollout")}  # fmt: skip
    maps["random"] = torch.rand(len(items), gh, gw)
    numbers = {}
    for name, patches in maps.items():
        area = deletion_curve(eye.model, ids, mask, pixels, patches).mean(dim=1)
        peak = patches.flatten(1).argmax(dim=1, keepdim=True)
        hits = shows.flatten(1).gather(1, peak)[:, 0].float()
        numbers[name] = {"deletion": round(float(area.mean()), 4), "pointing": round(float(hits.mean()), 4)}
    numbers["chance of pointing"] = round(float(shows.float().mean()), 4)
    for name, value in numbers.items():
        print(f"{name:20s} {value}")
    best = numbers["itm relevance"]
    ok = best["deletion"] < numbers["random"]["deletion"] and best["pointing"] > numbers["chance of pointing"]
    print(json.dumps({"name": "attribution", "pictures": len(items), "value": numbers, "ok": ok}))


if __name__ == "__main__":
    main()
