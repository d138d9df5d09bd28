"""From a folder of pictures with captions to an eye trained on them: `omma train vlmo data=FOLDER`, or `train clip`.

Reads the pictures, holds some back so that no version of one stands on both sides, picks a size for the data and the
machine, trains until the held-out pictures are found no better, measures on them, and writes a report. Everything goes
into one folder; an interrupted fit goes on where it stopped.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np
from rich.console import Console

import omma
from omma.config import apply
from omma.data.split import HELD_OUT, TRAIN, Split, split
from omma.decode import open_picture
from omma.eval.report import write_html
from omma.models.pretrained import VLMoEncoder, pick_device
from omma.retrieval.index import example_query
from omma.training.recipes import load_recipe

FEWEST = 40        # usable pictures; with fewer there is nothing to measure on
PASSES = 60        # over the training pictures, unless the held-out ones say that it is enough
MOST_CPU, MOST_GPU = 400_000, 30_000_000   # samples; for two CPU cores 25 minutes of the smallest size, 70 of the next
CHECKED, AT_ONCE = 500, 32   # held-out pictures that are searched during training, and of them in memory
PATIENCE = 5


@dataclass(frozen=True)
class Fit:
    """What a fit left. checkpoint: the folder of the best one, of that step; report: the page; pictures: on each side;
    near_duplicates: pictures that were kept together with another; recall_at_10: of text to picture, among those held
    out; next: the commands to search with it."""

    table: str
    checkpoint: str
    report: str
    pictures: dict[str, int]
    near_duplicates: int
    step: int
    recall_at_10: float
    chance_at_10: float
    next: str


def fit(data: str | Path, out: str | Path = "runs/vlmo", *, changes: Sequence[str] = (), toml: str | Path | None = None,
        device: str = "auto", resume: bool = False, progress: bool = True, recipe: str = "vlmo") -> Fit:  # fmt: skip
    """Trains an eye on a folder of pictures with captions, a tar, or a table.

    recipe: vlmo, one transformer that also looks at a picture and a text together, or clip, two towers.
    changes: key=value pairs over the settings that are chosen (`omma.TrainConfig`); toml: a file of such. resume: go on
    where the fit in `out` stopped. A table that is given gets the column "fold" (`omma.data.split`). Raises ValueError
    for data that cannot be trained on, and when `out` holds something and resume is not asked for.
    """
    out = Path(out)
    if out.exists() and any(out.iterdir()) and not resume:
        raise ValueError(f"there is something at {out} already. Continue it with --resume, or give another out=FOLDER")
    apply(choose(FEWEST, 64, "cpu", recipe), changes, toml=toml)  # a misspelt setting is told before anything is read
    say = Console(file=sys.stderr, quiet=not progress, highlight=False, markup=False, emoji=False)
    out.mkdir(parents=True, exist_ok=True)
    table = find_table(Path(data), out, say, progress)
    sides = split(table, progress=progress)
    tell_split(say, sides)
    usable = sum(sides.pictures.values())
    if usable < FEWEST:
        raise ValueError(f"{usable} usable pictures with captions in {data} ({sides.unusable} left out); an eye takes "
                         f"{FEWEST} to train and be measured. Look at them: omma show {table.uri}")  # fmt: skip
    chosen = choose(sides.pictures[TRAIN], typical_side(table), pick_device(device).type, recipe)
    if recipe == "clip":
        chosen = apply(chosen, [f"val={table.uri}", f"val_where=fold == '{HELD_OUT}'", f"val_rows={CHECKED}"])
    config = apply(chosen, [f"data={table.uri}", f"out={out}", f"device={device}", *changes], toml=toml)
    if config.warmup == chosen.warmup > config.steps // 10:  # fewer steps were asked for, not a longer warm-up
        config = apply(config, [f"warmup={config.steps // 10}"])
    size = config.model.vision if recipe == "clip" else config.model
    say.print(f"width {size.hidden_size}, {size.num_layers} layers, {size.image_size} px, "
              f"at most {config.steps} steps of {config.batch_size}")  # fmt: skip
    evaluate = None if recipe == "clip" else finds(table)  # a CLIP's run has its own
    best = omma.train(config, evaluate=evaluate, resume=resume, progress=progress)
    held_out = table.select(f"fold == '{HELD_OUT}'")
    encoder = omma.load_encoder(out, device=device)
    report = omma.evaluate(encoder, "retrieval", data=held_out, out=out / "reports" / "retrieval", progress=progress)
    page = write_html(out / "report.html", runs=[report], training=[(recipe, best.metrics_path)], pictures=held_out)
    recall = report.metrics["scores"]["itc"]["model"]
    place, eye = quote(str(table.uri)), quote(str(out))
    return Fit(
        table=str(table.uri),
        checkpoint=str(out / "best"),
        report=str(page),
        pictures=sides.pictures,
        near_duplicates=sides.together,
        step=best.step,
        recall_at_10=recall["t2i"]["recall@10"]["value"],
        chance_at_10=recall["t2i"]["recall@10"]["chance"],
        next=f"omma embed {place} --encoder {eye} && "
        f"omma search {place} {quote(example_query(held_out))} --encoder {eye}",
    )


def find_table(data: Path, out: Path, say: Console, progress: bool) -> Any:
    """The table of pictures at `data`, or one made of the pictures there."""
    if (data / "manifest.json").exists():
        return omma.Table.open(data)
    if (out / "last").exists():  # what has been trained on stays as it was
        return omma.Table.open(out / "table")
    if not data.exists():
        raise ValueError(f"no data at {data}: give a folder of pictures with captions beside them, a .tar, or a table")
    say.print(f"reading {data}")
    return omma.ingest(data, out / "table", progress=progress)


def tell_split(say: Console, sides: Split) -> None:
    say.print(f"{sides.pictures[TRAIN]} pictures to train on, {sides.pictures[HELD_OUT]} held out; "
              f"{sides.together} are near-duplicates or minimal pairs and stay together ({sides.families} families); "
              f"{sides.unusable} can't be used")  # fmt: skip


def typical_side(table: Any) -> float:
    """The median of the shorter sides of the usable pictures, in pixels."""
    sizes = table.read(["width", "height"], where="fold is not None")
    return float(np.median(np.minimum(sizes["width"].to_numpy(), sizes["height"].to_numpy())))


def choose(pictures: int, side: float, device: str, recipe: str = "vlmo") -> Any:
    """Settings for so many training pictures of so many pixels on a device ("cpu", "cuda", "mps").

    From random weights, a VLMo by its stage 3. Small data gets the small model, since a larger one would learn it by
    heart; a CPU gets fewer pixels than a GPU, and small pictures are not enlarged by more than they need be.
    """
    cpu = device == "cpu"
    if cpu or pictures < 20_000:
        width, layers, heads, size = (128, 4, 2, 96) if pictures < 20_000 else (192, 6, 3, 128)
    elif pictures < 500_000:
        width, layers, heads, size = 384, 12, 6, 160
    else:
        width, layers, heads, size = 768, 12, 12, 224
    patch = 8 if side <= 72 else 16
    size = 64 if side <= 72 else size
    batch = min(64 if cpu else 256, pictures // 2 * 2)
    steps = max(100, min(pictures * PASSES, MOST_CPU if cpu else MOST_GPU) // batch)
    every = max(20, steps // 25)
    common = [
        f"dataset.where=fold == '{TRAIN}'", f"batch_size={batch}", f"steps={steps}", f"warmup={min(100, steps // 10)}",
        f"eval_every={every}", f"save_every={every}", "monitor=mrr", f"patience={PATIENCE}",
    ]  # fmt: skip
    tower = [f"hidden_size={width}", f"num_layers={layers}", f"num_heads={heads}"]
    picture = [f"image_size={size}", f"patch_size={patch}"]
    if recipe == "clip":
        both = [*(f"model.vision.{key}" for key in tower + picture), *(f"model.text.{key}" for key in tower)]
        return apply(load_recipe("clip"), [*both, f"model.embed_dim={width}", *common])
    own = [f"model.{key}" for key in tower + picture]
    return apply(load_recipe("vlmo-nano-vl"), ["recipe=vlmo", *own, *common])


def finds(table: Any) -> Any:
    """The evaluation during training: how well held-out pictures and captions find each other.

    Mean reciprocal rank, both ways, of a picture among up to CHECKED and its first caption; a tie counts half. It
    changes smoothly where recall jumps.
    """
    held = table.select(f"fold == '{HELD_OUT}'")
    ids = [id_ for record in held.scan(["id"]) for id_ in record["id"].to_pylist()]
    checked = ids[:: -(-len(ids) // CHECKED)]             # the others' bytes never come into memory
    rows = held.take(checked, ["id", "bytes", "uri", "offset", "length", "captions"]).to_pylist()
    texts = [row["captions"][0]["text"] for row in rows]

    def picture(row: dict[str, Any]) -> Any:
        found = open_picture(row, Path(table.uri))
        if found.image is None:
            raise ValueError(f"picture {row['id']} was usable when it was ingested and now is {found.status}; was the "
                             "file behind it changed? Ingest it again")  # fmt: skip
        return found.image

    def evaluate(model: Any, processor: Any) -> dict[str, float]:
        encoder = VLMoEncoder(model, processor, "vlmo", device=next(model.parameters()).device.type)
        parts = [rows[i : i + AT_ONCE] for i in range(0, len(rows), AT_ONCE)]  # photographs are large once decoded
        vectors = np.concatenate([encoder.encode_image([picture(row) for row in part]) for part in parts])
        return {"mrr": mean_reciprocal_rank(vectors @ encoder.encode_text(texts).T, texts)}

    return evaluate


def mean_reciprocal_rank(scores: np.ndarray, texts: Sequence[str]) -> float:
    """scores: (n, n), pictures by captions, matching on the diagonal. Equal captions never compete."""
    words = np.unique(np.asarray(texts), return_inverse=True)[1]
    rival = words[:, None] != words[None]
    right = np.diag(scores)
    ranks = []
    for s, own in ((scores, right[:, None]), (scores.T, right[:, None])):
        ranks.append(1 + (rival & (s > own)).sum(axis=1) + 0.5 * (rival & (s == own)).sum(axis=1))
    return float(np.mean([1 / rank for rank in ranks]))
