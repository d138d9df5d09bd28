"""How fast batches for contrastive training come in: omma's streams against webdataset 1.0 + PIL in torch's DataLoader.

Both read the same shards of JPEG pictures with captions, shuffle them, decode, scale to 224 x 224, tokenise, and hand
over batches of uint8 pixels and token ids from the same number of worker processes. Pixels and tokens of every picture
are compared by its name: the same with Pillow's resize in both, and with resize=torch in ours at most one level of 255
apart. CPU-seconds are of all processes together, between the sixth batch and the sixth last, where both have their
workers busy; the three take turns. Once with pictures of about 500 x 375, once with some four times as large and draft
decoding in all (a JPEG read at half its size). Then a training step waits for its data: ViT-S/16 with a text tower of 6
layers.

    python bench/input_pipeline.py [--pictures 2000] [--workers 2] [--turns 5]
"""

import argparse
import io
import json
import math
import multiprocessing
import os
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image

from omma.models.preprocess import Processor, train_wordpiece
from omma.training.streams import ContrastiveStream, StreamConfig

GOAL, WAIT_GOAL = 1.2, 0.05
SIDE, BATCH, EDGE, SHARDS = 224, 50, 6, 4
WORDS = ["a", "photo", "of", "two", "red", "cups", "on", "the", "table", "beside", "one", "small", "green", "bird",
         "and", "its", "long", "shadow"]  # fmt: skip


def draw(number: int, scale: int) -> Image.Image:
    """Shapes of random colours under noise, about 500 x 375: compresses like a photograph (some 60 kB)."""
    rng = np.random.default_rng(number)
    w, h = int(rng.integers(460, 541)) * scale, int(rng.integers(345, 406)) * scale
    coarse = Image.fromarray(rng.integers(0, 255, (24, 32, 3), dtype=np.uint8)).resize((w, h), Image.Resampling.BICUBIC)
    noise = rng.normal(0, 8, (h, w, 3))
    return Image.fromarray((np.asarray(coarse) + noise).clip(0, 255).astype(np.uint8))


def write_shards(folder: Path, pictures: int, scale: int) -> list[str]:
    """200 pictures again and again, each with a caption of its own."""
    encoded = []
    for i in range(min(pictures, 200)):
        out = io.BytesIO()
        draw(i, scale).save(out, "JPEG", quality=90)
        encoded.append(out.getvalue())
    names = [str(folder / f"{scale}-{shard:02d}.tar") for shard in range(SHARDS)]
    for shard, name in enumerate(names):
        with tarfile.open(name, "w") as tar:
            for i in range(shard, pictures, SHARDS):
                said = " ".join(np.random.default_rng(i).choice(WORDS, 10))
                for suffix, content in (("jpg", encoded[i % len(encoded)]), ("txt", f"{i} {said}".encode())):
                    member = tarfile.TarInfo(f"{i:06d}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    return names


class Scaled:
    """A JPEG's bytes to (3, 224, 224) uint8 with PIL, as the peer's users write it."""

    def __init__(self, draft: bool):
        self.draft = draft

    def __call__(self, image: Any) -> torch.Tensor:
        if self.draft:
            image = Image.open(io.BytesIO(image))
            image.draft("RGB", (SIDE, SIDE))
            image = image.convert("RGB")
        image = image.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


class Tokens:
    def __init__(self, processor: Processor):
        self.processor = processor

    def __call__(self, sample: tuple) -> tuple:
        keys, pixels, texts = sample
        return keys, pixels, *self.processor.texts(texts)


def peer(shards: list[str], processor: Processor, draft: bool, workers: int, passes: int) -> Iterator[tuple]:
    """(names, pixels, ids) batch by batch."""
    from webdataset import WebDataset  # pyright: ignore[reportAttributeAccessIssue]  (its names are made at run time)

    found = WebDataset(shards * passes, shardshuffle=False).shuffle(1000)
    found = found if draft else found.decode("pil")
    found = found.to_tuple("__key__", "jpg", "txt")
    found = found.map_tuple(lambda key: key, Scaled(draft), lambda text: text.decode() if draft else text)
    found = found.batched(BATCH, partial=False).map(Tokens(processor))
    loader = torch.utils.data.DataLoader(found, batch_size=None, num_workers=workers)
    for names, pixels, ids, _ in loader:
        yield names, pixels, ids


def ours(
    shards: list[str], processor: Processor, draft: bool, workers: int, passes: int, resize: Any
) -> Iterator[tuple]:
    config = StreamConfig(crop_scale=1.0, jitter=0.0, draft=draft, resize=resize)
    stream = ContrastiveStream(shards, processor, config, batch_size=BATCH, seed=0)
    with stream.prefetch(0, passes * stream.steps_per_epoch, workers) as batches:
        for batch in batches:
            yield [name.rpartition("/")[2] for name in batch.ids], batch.pixels, batch.input_ids


SIDES: dict[str, Callable[..., Iterator[tuple]]] = {
    "webdataset": peer, "omma": partial(ours, resize="pillow"), "omma, resize=torch": partial(ours, resize="torch")
}  # fmt: skip


def cpu_seconds() -> float:
    """Of this process and those it has started and not yet ended."""
    ticks = 0
    for child in multiprocessing.active_children():
        fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(") ")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def timed(batches: Iterator[tuple], count: int) -> tuple[float, float]:
    """CPU-seconds and seconds a picture between batch EDGE and EDGE before the last of count."""
    marks = []
    for i, _ in enumerate(batches):
        if i in (EDGE, count - EDGE):
            marks.append((cpu_seconds(), time.perf_counter()))
    (cpu, began), (cpu_end, end) = marks
    pictures = (count - 2 * EDGE) * BATCH
    return (cpu_end - cpu) / pictures, (end - began) / pictures


def difference(shards: list[str], processor: Processor, draft: bool, side: str) -> tuple[int, float]:
    """The largest difference of a pixel's value from the peer's, and the share of values that differ. Tokens of a
    picture are the same, padding aside, and so are the pictures."""
    theirs = {}
    for names, pixels, ids in peer(shards, processor, draft, 0, 1):
        theirs |= {name: (pixels[i].clone(), [int(t) for t in ids[i] if t]) for i, name in enumerate(names)}
    largest, differ, compared = 0, 0.0, len(theirs)
    for names, pixels, ids in SIDES[side](shards, processor, draft, 0, 1):
        for i, name in enumerate(names):
            their_pixels, tokens = theirs.pop(name)
            assert tokens == [int(t) for t in ids[i] if t], name
            apart = (pixels[i].int() - their_pixels.int()).abs()
            largest, differ = max(largest, int(apart.max())), differ + float((apart > 0).float().mean())
    return largest, differ / compared


def compare(name: str, shards: list[str], pictures: int, processor: Processor, draft: bool, args: Any) -> None:
    count = 2 * (pictures // BATCH)  # of two passes
    figures: dict[str, list[tuple[float, float]]] = {side: [] for side in SIDES}
    for _ in range(args.turns):
        for side, made in SIDES.items():
            figures[side].append(timed(made(shards, processor, draft, args.workers, 2), count))
    for side, found in figures.items():
        cpu, wall = (median(column) for column in zip(*found, strict=True))
        print(f"{name}, {side}: {1e3 * cpu:.2f} CPU-ms a picture, {1 / wall:.0f} pictures/s")
    for side in list(SIDES)[1:]:
        largest, share = difference(shards[:1], processor, draft, side)
        turns = zip(figures["webdataset"], figures[side], strict=True)
        ratios = [[a / b for a, b in zip(theirs, own, strict=True)] for theirs, own in turns]
        for i, what in enumerate(("CPU time", "pictures/s")):
            by_turn = [ratio[i] for ratio in ratios]
            print(f"{name}, {side}, {what}, by turn: {', '.join(f'{r:.2f}' for r in by_turn)}; values that differ "
                  f"{100 * share:.2f} %, by {largest} at most")  # fmt: skip
            close = largest <= (side != "omma")
            claim = {"name": f"input pipeline against webdataset, {name}, {side}, {what}", "goal": GOAL}
            print(json.dumps({**claim, "value": round(median(by_turn), 3), "ok": median(by_turn) >= GOAL and close}))


def waiting(shards: list[str], processor: Processor, workers: int, steps: int) -> None:
    """The share of time that ordinary steps wait: forward and backward of ViT-S/16 on a batch, and of its texts."""
    from omma.models.clip import CLIP, PRESETS

    model = CLIP(PRESETS["vit_s16"]).train()
    stream = ContrastiveStream(shards, processor, StreamConfig(), batch_size=BATCH, seed=0)
    with stream.prefetch(0, steps + 1, workers) as batches:
        for batch in batches:
            if batch.step == 0:  # processes start once
                began, before = time.perf_counter(), batches.waited
            with torch.autocast("cpu", torch.bfloat16):
                image = model.encode_image(processor.normalize(batch.pixels))
                text = model.encode_text(batch.input_ids, batch.attention_mask)
            (image.float() @ text.float().T).square().mean().backward()
            model.zero_grad(set_to_none=True)
        share = (batches.waited - before) / (time.perf_counter() - began)
    print(f"{steps} steps of {BATCH}: {(time.perf_counter() - began) / (steps + 1):.2f} s each")
    claim = {"name": "share of time that a ViT-S/16 step waits for data", "value": round(share, 4), "goal": WAIT_GOAL}
    print(json.dumps({**claim, "ok": share <= WAIT_GOAL}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--only", choices=("whole", "draft", "waiting"), action="append")
    args = parser.parse_args()
    args.pictures = math.ceil(args.pictures / (SHARDS * BATCH)) * SHARDS * BATCH
    only = args.only or ["whole", "draft", "waiting"]
    torch.set_num_threads(1)
    processor = Processor(train_wordpiece([" ".join(WORDS)], 400), SIDE, 32)
    with tempfile.TemporaryDirectory() as folder:
        if "whole" in only:
            compare("500 x 375", write_shards(Path(folder), args.pictures, 1), args.pictures, processor, False, args)
        if "draft" in only:
            shards = write_shards(Path(folder), args.pictures, 2)
            compare("1000 x 750, draft", shards, args.pictures, processor, True, args)
        if "waiting" in only:
            waiting(write_shards(Path(folder), args.pictures, 1), processor, 1, 12)


if __name__ == "__main__":
    main()
