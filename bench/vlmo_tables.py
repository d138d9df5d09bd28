"""VLMo's ablation tables in miniature: small eyes trained alike but for what a table asks, three seeds each.

    python bench/vlmo_tables.py WORK --results FILE                         # goes on where it was stopped
    python bench/vlmo_tables.py WORK --results FILE --only experts,wrong    # some of the tables
    python bench/vlmo_tables.py WORK --results FILE --report                # tables and claims of what has been run
    python bench/vlmo_tables.py WORK --times                                # a step of each variant beside the full one

The world has six kinds in four colours. All trainings see the same minimal pairs (swaps and single edits of five
patterns) in an order that depends on the seed alone, for the same steps: first by contrast alone, then with matching
and masked words. A result is one line of FILE, by default WORK/results.jsonl; it counts as long as the settings that
made it are those of this file. Stages that several variants share are trained once; WORK keeps them. Published numbers:
Bao et al. 2021, accuracy on NLVR2.
"""

import argparse
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "20000")  # as the command line sets it

import numpy as np
import pyarrow as pa
import torch

import omma
from omma.config import apply, to_dict
from omma.models.vlmo import VLMo
from omma.models.vlmo_config import NANO, VLMoConfig
from omma.scenes.kinds import PATTERNS
from omma.scenes.sources import write_scenes
from omma.training.batches import Batches, DataConfig
from omma.training.config import TrainConfig
from omma.training.loop import train
from omma.training.losses import LossWeights, compute_losses
from omma.training.rng import numpy_generator
from omma.training.setup import build

KINDS = ("fish", "cup", "lamp", "sign", "ball", "tree")
COLOURS = ("red", "yellow", "green", "blue")
LEARNED = ("orientation", "state", "quantity", "colour", "viewpoint")  # the other four need longer trainings
ASKED = " or ".join(f"pattern == '{name}'" for name in LEARNED)
EXTRA = pa.schema([("group", pa.string()), ("pattern", pa.string())])
MODES = ("swap", "single")  # how the pictures of a pair differ: two things exchange a value, or one has another
TEST_SEED = 1_000_041  # far from the training's, so that no test world was trained on


# ---------------------------------------------------------------------------------------------------- what is trained
MODEL = replace(NANO, image_size=64, hidden_size=96, num_layers=4, num_heads=3, vocab_size=500, max_text_len=24)


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large world and trainings are. Pairs are per pattern; as many are drawn as swaps as single edits."""

    plain: int = 4000
    pairs: int = 600
    test_plain: int = 400
    test_pairs: int = 60
    model: VLMoConfig = MODEL
    batch_size: int = 64
    steps: tuple[tuple[str, int], ...] = (("image", 150), ("text", 100), ("contrast", 360), ("fusion", 180))


SIZES = {
    "full": Size(),
    # to see that everything runs; a few steps of a tiny model learn nothing
    "tiny": Size(plain=16, pairs=4, test_plain=6, test_pairs=2, batch_size=8,
                 model=replace(MODEL, hidden_size=32, num_layers=2, num_heads=2, num_vl_layers=1),
                 steps=(("image", 1), ("text", 1), ("contrast", 2), ("fusion", 2))),
}  # fmt: skip

COMMON = TrainConfig(weight_decay=0.01, threads=1, log_every=50, save_every=250)
STAGES = {
    "image": replace(COMMON, losses=LossWeights(mim=1.0), dataset=DataConfig(group=None), warmup=30),
    "text": replace(COMMON, losses=LossWeights(text_mlm=1.0), dataset=DataConfig(group=None), warmup=30,
                    freeze=("vision",)),
    "contrast": replace(COMMON, losses=LossWeights(itc=1.0, itc_pair=4.0), peak_lr=3e-3, warmup=60),
    "fusion": replace(COMMON, losses=LossWeights(itc=1.0, itc_pair=2.0, itm=1.0, itm_pair=4.0, mlm=0.25),
                      dataset=DataConfig(mlm_probability=0.25), fusion_share=0.5, peak_lr=2e-3, warmup=30),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Variant:
    """What differs from the full model's training: settings of every stage, or of the last; stages before; data."""

    all: tuple[str, ...] = ()
    last: tuple[str, ...] = ()
    before: tuple[str, ...] = ()
    wrong: float = 0.0  # share of the training pictures that have another one's captions
    fused: bool = True  # whether its fusion head is trained


NO_PAIRS = ("dataset.group=none", "losses.itc_pair=0", "losses.itm_pair=0")  # the last stage is not told of pairs
VARIANTS = {
    "full": Variant(),
    "single": Variant(all=("model.experts=single",)),
    "no-vl": Variant(all=("model.num_vl_layers=0",)),
    "separate": Variant(all=("model.attention=separate",)),
    "image": Variant(before=("image",)),
    "image-text": Variant(before=("image", "text")),
    "local": Variant(last=(*NO_PAIRS, "negatives_within=4")),
    "global": Variant(last=NO_PAIRS),
    "itc": Variant(last=("losses.itm=0", "losses.itm_pair=0", "losses.mlm=0"), fused=False),
    "itc-itm": Variant(last=("losses.mlm=0",)),
    "wrong-20": Variant(wrong=0.2),
    "wrong-40": Variant(wrong=0.4),
    "wrong-20-trim": Variant(wrong=0.2, all=("trim=0.2", "trim_steps=200"), last=("trim_steps=0",)),
    "wrong-40-trim": Variant(wrong=0.4, all=("trim=0.4", "trim_steps=200"), last=("trim_steps=0",)),
}
WRONG = sorted({variant.wrong for variant in VARIANTS.values()})


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """A table: rows of (what it says, variant, published NLVR2 dev / test-P), and the row that others are held against.

    claims: (variant, reference) whose difference the paper reports as positive.
    """

    title: str
    rows: tuple[tuple[str, str, str], ...]
    reference: str
    claims: tuple[tuple[str, str], ...]


TABLES = {
    "experts": Ablation(
        title="One FFN, two, three",
        rows=(("standard Transformer: one FFN for all tokens", "single", "78.81 / 79.27"),
              ("V-FFN and L-FFN, no VL-FFN on top", "no-vl", ""),
              ("MoME: V-FFN, L-FFN, and VL-FFN in the two upper layers", "full", "80.13 / 80.31")),
        reference="single",
        claims=(("full", "single"),),
    ),
    "attention": Ablation(
        title="One attention for both modalities, or one each",
        rows=(("separate", "separate", "78.92 / –"), ("shared", "full", "80.13 / –")),
        reference="separate",
        claims=(("full", "separate"),),
    ),
    "stages": Ablation(
        title="What comes before pictures with captions",
        rows=(("nothing: random weights", "full", ""),
              ("stage 1, pictures alone", "image", "80.33 / 81.06"),
              ("stages 1 and 2, pictures alone, then texts alone", "image-text", "82.09 / 82.49")),
        reference="full",
        claims=(("image-text", "image"),),
    ),
    "negatives": Ablation(
        title="Where the wrong texts and pictures of matching come from",
        rows=(("drawn by similarity among 4 (local)", "local", "77.70 / –"),
              ("drawn by similarity among 64 (global)", "global", "79.54 / –"),
              ("from the minimal pair", "full", "")),
        reference="local",
        claims=(("global", "local"),),
    ),
    "objectives": Ablation(
        title="Objectives",
        rows=(("itc", "itc", "73.91 / 73.75"), ("itc + itm", "itc-itm", ""),
              ("itc + itm + mlm", "full", "80.13 / 80.31")),
        reference="itc",
        claims=(("full", "itc"),),
    ),
    "wrong": Ablation(
        title="Wrong captions in training",
        rows=(("none", "full", ""), ("20 %", "wrong-20", ""), ("40 %", "wrong-40", ""),
              ("20 %, and the 20 % of a batch that fit worst are left out", "wrong-20-trim", ""),
              ("40 %, and the 40 % of a batch that fit worst are left out", "wrong-40-trim", "")),
        reference="full",
        claims=(),
    ),
}  # fmt: skip


def chain(variant: Variant, size: Size, seed: int) -> list[TrainConfig]:
    """The stages of a training, first one first; data and folders are still to be filled in."""
    steps, stages = dict(size.steps), []
    for name in (*variant.before, "contrast", "fusion"):
        config = replace(STAGES[name], recipe=name, model=size.model, batch_size=size.batch_size, seed=seed,
                         steps=steps[name], warmup=min(STAGES[name].warmup, steps[name]))  # fmt: skip
        if name in ("contrast", "fusion"):
            config = replace(config, dataset=replace(config.dataset, where=ASKED))
        stages.append(apply(config, [*variant.all, *(variant.last if name == "fusion" else ())]))
    return stages


def settings(config: TrainConfig) -> dict[str, Any]:
    """What differs from the defaults: a setting that a later version adds does not make a run another one."""
    return differing(to_dict(config), to_dict(TrainConfig()))


def differing(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    nested = lambda key: isinstance(one[key], dict) and isinstance(other[key], dict)
    return {key: differing(one[key], other[key]) if nested(key) else one[key] for key in one if one[key] != other[key]}


def fingerprint(*what: Any) -> str:
    return blake2b(json.dumps(what, sort_keys=True).encode(), digest_size=8).hexdigest()


# -------------------------------------------------------------------------------------------------------- the world
def prepare(work: Path, size: Size) -> None:
    """Draws what all variants learn from and are tested on, once. ValueError when the folder's world is another one."""
    mark, wanted = work / "world.json", json.dumps(world_of(size), indent=1) + "\n"
    if mark.exists():
        if mark.read_text() != wanted:
            raise ValueError(f"{work} holds a world of another size; give another folder")
        return
    for part in ("drawn", "test", *map(data_name, WRONG)):  # of a world that was not drawn to its end
        shutil.rmtree(work / part, ignore_errors=True)
    for side, plain, pairs, seed in (
        ("drawn", size.plain, size.pairs, 41),
        ("test", size.test_plain, size.test_pairs, TEST_SEED),
    ):
        for k, mode in enumerate(MODES):
            write_scenes(work / side / mode, pictures=0 if k else plain, pairs=pairs, seed=seed + k, mode=mode,
                         split="test" if side == "test" else "train", kinds=KINDS, colours=COLOURS,
                         size=size.model.image_size, check=False)  # fmt: skip
    rows = [row for mode in MODES for row in pictures_of(work / "drawn" / mode)]
    for wrong in WRONG:
        table = omma.Table.create(work / data_name(wrong), "pictures", extra=EXTRA)
        table.append(exchanged(rows, wrong))
    mark.write_text(wanted)


def world_of(size: Size) -> dict[str, Any]:
    return {name: getattr(size, name) for name in ("plain", "pairs", "test_plain", "test_pairs")}


def data_name(wrong: float) -> str:
    return f"train-wrong-{round(100 * wrong)}" if wrong else "train"


def pictures_of(folder: Path) -> Iterator[dict[str, Any]]:
    columns = ["id", "bytes", "captions", "width", "height", "source", "group"]
    for batch in omma.Table.open(folder / "pictures").scan(columns):
        for row in batch.to_pylist():
            row["pattern"] = next((name for name in PATTERNS if name in (row["group"] or "")), None)
            yield row


def exchanged(rows: list[dict[str, Any]], share: float) -> list[dict[str, Any]]:
    """The rows with the captions of a share of them, drawn at random, passed around among these; none keeps its own."""
    rng = numpy_generator("wrong captions", share)
    chosen = rng.permutation(len(rows))[: round(share * len(rows))]
    out = list(rows)
    for to, since in zip(chosen, np.roll(chosen, 1), strict=True):
        out[to] = rows[to] | {"captions": rows[since]["captions"]}
    return out


# ------------------------------------------------------------------------------------------------------------- a run
def run(work: Path, size: Size, variant: Variant, seed: int) -> dict[str, Any]:
    """Trains the variant's stages (those that another one has in common are there) and measures the last."""
    init, done, steps, began = None, [], 0, time.process_time()
    for config in chain(variant, size, seed):
        done.append(settings(config))
        name = data_name(0.0 if config.recipe in ("image", "text") else variant.wrong)
        out = work / "runs" / f"{config.recipe}-{fingerprint(world_of(size), name, done)}"
        train(replace(config, data=str(work / name), out=str(out), init=init), resume=True, progress=False)
        init, steps = str(out), steps + config.steps
    eye = omma.load_encoder(init or "")
    weights = sum(parameter.numel() for parameter in eye.model.parameters())
    return {"numbers": measure(eye, work / "test", variant.fused), "weights": weights, "steps": steps,
            "cpu_seconds": round(time.process_time() - began, 1), "commit": commit()}  # fmt: skip


def measure(eye: Any, test: Path, fused: bool) -> dict[str, float]:
    """Pair accuracy (image score) by mode and pattern, and their mean; statements about plain pictures; recall@1.

    itc: by the two encoders, itm: by the fusion head, left out where it was not trained. blind, wrong-image: controls.
    """
    out: dict[str, float] = {}
    kinds = ("itc", "itm") if fused else ("itc",)
    for mode in MODES:
        scores = omma.evaluate(eye, "patterns", data=test / mode, where=ASKED).metrics["scores"]
        for kind in kinds:
            found = scores[kind]["model"]
            out[f"{mode}.{kind}"] = found["mean"]["image"]
            out |= {f"{mode}.{name}.{kind}": b["image"]["value"] for name, b in found["patterns"].items()}
            out |= {f"{mode}.{c}.{kind}": scores[kind][c]["image"]["value"] for c in ("blind", "wrong-image")}
    said = omma.evaluate(eye, "statements", data=test / "swap", where="pattern is None").metrics["headline"]
    for kind in kinds:
        out[f"pairs.{kind}"] = float(np.mean([out[f"{mode}.{kind}"] for mode in MODES]))
        out[f"statements.{kind}"] = said[kind]["value"]
    plain = omma.Table.open(test / "swap" / "pictures").select("group is None")
    out["recall@1"] = omma.evaluate(eye, "retrieval", data=plain).metrics["headline"]["itc"]["value"]
    return {name: round(float(value), 5) for name, value in out.items()}


def identity(size: Size, variant: Variant, seed: int) -> str:
    """Of all that decides a run's numbers. Equal runs of several tables are trained once."""
    stages = [settings(config) for config in chain(variant, size, seed)]
    return fingerprint(world_of(size), data_name(variant.wrong), variant.fused, stages)


def read(results: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []


def run_all(work: Path, results: Path, size: Size, tables: Sequence[str], seeds: Sequence[int]) -> None:
    """Every run that `results` has no line of, table by table; a line is written when a run is whole."""
    prepare(work, size)
    for table, seed in ((table, seed) for table in tables for seed in seeds):
        for _, name, _ in TABLES[table].rows:
            known = identity(size, VARIANTS[name], seed)
            same = [row for row in read(results) if row["run"] == known]
            if any((row["table"], row["variant"]) == (table, name) for row in same):
                continue
            found = {key: same[0][key] for key in FOUND} if same else run(work, size, VARIANTS[name], seed)
            with results.open("a") as file:
                file.write(json.dumps({"table": table, "variant": name, "seed": seed, "run": known, **found}) + "\n")
            told = ", ".join(f"{key} {100 * found['numbers'][key]:.1f}" for key in METRICS if key in found["numbers"])
            print(f"{table} {name} seed {seed}: {told}", flush=True)


def commit() -> str:
    asked = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    return subprocess.run(asked, capture_output=True, text=True).stdout.strip()


# -------------------------------------------------------------------------------------------------------- the report
FOUND = ("numbers", "weights", "steps", "cpu_seconds", "commit")  # of a run, in a line of results.jsonl
METRICS = {"pairs.itm": "pairs, fusion head", "pairs.itc": "pairs, two encoders", "statements.itm": "statements",
           "recall@1": "recall@1"}  # fmt: skip
PAIRS = ("pairs.itm", "pairs.itc")
T95 = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.306, 2.2622)  # 0.975 quantile for n - 1 = 1..9


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and the half width of its 95 % interval by Student's t, for 2 to 10 values; half is inf for one."""
    n = len(values)
    if not 1 <= n <= 10:
        raise ValueError(f"{n} values; intervals are for 1 to 10 of them")
    mean = float(np.mean(values))
    return mean, T95[n - 2] * float(np.std(values, ddof=1)) / n**0.5 if n > 1 else float("inf")


def numbers_of(rows: list[dict], size: Size, name: str, seeds: Sequence[int]) -> list[dict[str, float]] | None:
    """A variant's numbers, seed by seed; None while one is missing."""
    wanted = [identity(size, VARIANTS[name], seed) for seed in seeds]
    found = {row["run"]: row["numbers"] | {"weights": row["weights"]} for row in rows}
    return [found[one] for one in wanted] if all(one in found for one in wanted) else None


def differences(mine: list[dict], other: list[dict], metric: str) -> list[float] | None:
    """Seed by seed: both saw the same batches from the same draws, so their difference varies less than they do."""
    if metric not in mine[0] or metric not in other[0]:
        return None
    return [a[metric] - b[metric] for a, b in zip(mine, other, strict=True)]


def shown(values: Sequence[float] | None, sign: str = "") -> str:
    if not values:
        return "–"
    mean, half = interval(values)
    return f"{100 * mean:{sign}.1f}" + (f" ± {100 * half:.1f}" if len(values) > 1 else "")


def report(results: Path, size: Size, tables: Sequence[str], seeds: Sequence[int]) -> Iterator[str]:
    """Markdown of the tables, then the claims. A table of which a run is missing is left out, and said to be."""
    rows, claims = read(results), []
    for table in tables:
        ablation = TABLES[table]
        numbers = {name: numbers_of(rows, size, name, seeds) for _, name, _ in ablation.rows}
        if missing := [name for name, found in numbers.items() if found is None]:
            yield f"{table}: no numbers yet of {', '.join(missing)}\n"
            continue
        reference = next(label for label, name, _ in ablation.rows if name == ablation.reference)
        yield f"**{ablation.title}** ({table}; differences are to '{reference}', seed by seed)\n"
        heads = ["", "weights", *METRICS.values(), *(f"difference, {METRICS[key]}" for key in PAIRS), "published NLVR2"]
        yield "| " + " | ".join(heads) + " |\n|" + "---|" * len(heads)
        for label, name, published in ablation.rows:
            mine, other = numbers[name] or [], numbers[ablation.reference] or []
            cells = [label, f"{mine[0]['weights'] / 1e6:.2f}M"]
            cells += [shown([n[key] for n in mine]) if key in mine[0] else "–" for key in METRICS]
            cells += [shown(differences(mine, other, key), "+") if mine is not other else "" for key in PAIRS]
            yield "| " + " | ".join([*cells, published or "–"]) + " |"
        yield ""
        for better, worse in ablation.claims if len(seeds) > 1 else ():
            claims += [claim(table, better, worse, numbers[better] or [], numbers[worse] or [])]
    yield from (json.dumps(one) for one in claims)


def claim(table: str, better: str, worse: str, mine: list[dict], other: list[dict]) -> dict[str, Any]:
    """Whether a difference that the paper reports is there: by the fusion head, or, untrained, by the two encoders."""
    metric = next(name for name in PAIRS if differences(mine, other, name) is not None)
    mean, half = interval(differences(mine, other, metric) or [])
    verdict = "agrees" if mean - half > 0 else "disagrees" if mean + half < 0 else "cannot tell"
    return {"name": f"{table}: {better} above {worse}, {METRICS[metric]}", "value": round(mean, 4), "goal": 0.0,
            "low95": round(mean - half, 4), "high95": round(mean + half, 4), "verdict": verdict,
            "ok": verdict == "agrees"}  # fmt: skip


# ------------------------------------------------------------------------------------------------------------- times
def step_times(work: Path, size: Size, turns: int = 7) -> Iterator[str]:
    """CPU time of a step of the last stage, each variant in turn on the same batch, the least of the turns."""
    torch.set_num_threads(1)
    table = omma.Table.open(work / "train")
    some = replace(chain(VARIANTS["full"], size, 0)[-1], dataset=DataConfig(where="pattern == 'colour'"))
    _, processor, _ = build(some, table)
    batches: dict[str | None, Any] = {}  # with minimal pairs, and without
    made: dict[str, tuple[TrainConfig, VLMo, torch.optim.Optimizer, list[float]]] = {}
    for name, variant in VARIANTS.items():
        if variant.wrong or variant.before:
            continue
        config = chain(variant, size, 0)[-1]
        model = VLMo(replace(config.model, vocab_size=processor.vocab_size, max_text_len=processor.max_text_len))
        group = config.dataset.group
        if group not in batches:
            batches[group] = Batches(table, processor, replace(some.dataset, group=group), batch_size=size.batch_size,
                                     patch_size=config.model.patch_size, seed=0)[0]  # fmt: skip
        made[name] = (config, model, torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True), [])
    for turn in range(turns):
        for config, model, optimizer, times in made.values():
            batch = batches[config.dataset.group]
            pixels, began = processor.normalize(batch.pixels), time.process_time()
            with torch.autocast("cpu", torch.bfloat16):
                options = {"fusion_share": config.fusion_share, "negatives_within": config.negatives_within}
                losses = compute_losses(model, batch, pixels, config.losses, (0, turn), **options)
                total = torch.stack([config.losses.active()[key] * loss for key, loss in losses.items()]).sum()
            total.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            times.append(time.process_time() - began)
    least = {name: min(parts[-1]) for name, parts in made.items()}
    for name, seconds in least.items():
        yield f"{name}: {1000 * seconds:.0f} ms, {seconds / least['full']:.2f} of the full model's"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--results", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--only", default=",".join(TABLES), help=f"tables: {','.join(TABLES)}")
    parser.add_argument("--size", choices=SIZES, default="full")
    parser.add_argument("--report", action="store_true")
    parser.add_argument("--times", action="store_true")
    args = parser.parse_args()
    size, tables = SIZES[args.size], args.only.split(",")
    if unknown := set(tables) - set(TABLES):
        parser.error(f"no table {', '.join(sorted(unknown))}; there are {', '.join(TABLES)}")
    seeds, results = range(args.first, args.first + args.seeds), args.results or args.work / "results.jsonl"
    if args.times:
        prepare(args.work, size)
        print(*step_times(args.work, size), sep="\n")
        return
    if not args.report:
        run_all(args.work, results, size, tables, seeds)
    print(*report(results, size, tables, seeds), sep="\n")


if __name__ == "__main__":
    main()
