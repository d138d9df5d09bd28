"""How fast batches for contrastive training come in: omma's streams against webdataset 1.0 + PIL in torch's DataLoader.

Both read the same shards of JPEG pictures with captions, shuffle them, decode, scale to 224 x 224, tokenise, and hand
over batches of uint8 pixels and token ids from the same number of worker processes. Pixels and tokens of every picture
are compared by its name. CPU-seconds are of all processes together, between the sixth batch and the sixth last, where
both have their workers busy; the two take turns. Two claims: pictures of about 500 x 375, and four times as large with
draft decoding in both (a JPEG read at half its size). Then a training step waits for its data: ViT-S/16 with a text
tower of 6 layers.

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


def ours(shards: list[str], processor: Processor, draft: bool, workers: int, passes: int) -> Iterator[tuple]:
    config = StreamConfig(crop_scale=1.0, jitter=0.0, draft=draft)
    stream = ContrastiveStream(shards, processor, config, batch_size=BATCH, seed=0)
    with stream.prefetch(0, passes * stream.steps_per_epoch, workers) as batches:
        for batch in batches:
            yield [name.rpartition("/")[2] for name in batch.ids], batch.pixels, batch.input_ids


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


def same(shards: list[str], processor: Processor, draft: bool) -> bool:
    """Whether all pictures have equal pixels and tokens in both, padding aside."""
    both: list[dict[str, tuple]] = []
    for side in (peer, ours):
        found = {}
        for names, pixels, ids in side(shards, processor, draft, 0, 1):
            for i, name in enumerate(names):
                found[name] = hash(pixels[i].numpy().tobytes()), [int(t) for t in ids[i] if t]
        both.append(found)
    return both[0] == both[1] and len(both[0]) > 0


def compare(name: str, shards: list[str], processor: Processor, draft: bool, args: argparse.Namespace) -> None:
    equal = same(shards, processor, draft)
    count = 2 * (args.pictures // BATCH)  # of two passes
    figures: dict[Callable, list[tuple[float, float]]] = {peer: [], ours: []}
    for _ in range(args.turns):
        for side, found in figures.items():
            found.append(timed(side(shards, processor, draft, args.workers, 2), count))
    ratios = [[a / b for a, b in zip(p, o, strict=True)] for p, o in zip(figures[peer], figures[ours], strict=True)]
    for side, found in figures.items():
        cpu, wall = (median(column) for column in zip(*found, strict=True))
        print(f"{name}, {side.__name__}: {1e3 * cpu:.2f} CPU-ms a picture, {1 / wall:.0f} pictures/s")
    cpu, wall = (median(column) for column in zip(*ratios, strict=True))
    by_turn = [", ".join(f"{ratio[i]:.2f}" for ratio in ratios) for i in (0, 1)]
    print(f"{name}: pixels and tokens {'the same' if equal else 'DIFFER'}; ratios of CPU time by turn {by_turn[0]}; of "
          f"pictures/s {by_turn[1]}")  # fmt: skip
    for what, value in (("CPU time", cpu), ("pictures/s", wall)):
        claim = {"name": f"input pipeline against webdataset, {name}, {what}", "value": round(value, 3), "goal": GOAL}
        print(json.dumps({**claim, "ok": bool(value >= GOAL and equal)}))


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
            compare("500 x 375", write_shards(Path(folder), args.pictures, 1), processor, False, args)
        if "draft" in only:
            large = argparse.Namespace(**{**vars(args), "pictures": args.pictures // 2})
            compare("1000 x 750, draft", write_shards(Path(folder), large.pictures, 2), processor, True, large)
        if "waiting" in only:
            waiting(write_shards(Path(folder), args.pictures, 1), processor, 1, 12)


if __name__ == "__main__":
    main()
