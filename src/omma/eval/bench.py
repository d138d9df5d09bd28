"""Ways to drop visual tokens, at every budget, on the same questions: right answers, time, memory, FLOPs, in one run.

    report = bench_sparsify("vlm-nano", data="scenes/test", methods=["sparsevlm", "fastv"], budgets=["1/3", "1/9"],
                            out="reports/sparsify")
    print(report)

The model as it is (dense) comes first, and "uniform" and "random" are always among the methods: a rule that beats
neither chooses nothing. Blind and wrong-picture controls stand beside, by default of the dense model. A cell is a
method at a budget with a seed; its rows are published when it is complete, so a run that was killed goes on where it
stopped, and a method that is asked for later joins the same folder.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from omma.decode import open_picture
from omma.eval.bench_metrics import SparseReport, summary
from omma.eval.meter import clock_name, in_turns
from omma.eval.metrics import order_key
from omma.eval.protocols.short import judged
from omma.eval.run import bars, find_tables, replacing
from omma.eval.scorer import USABLE
from omma.eval.task import VARIANTS, Item, derangement, sample
from omma.eval.tasks import vqa
from omma.eval.ways import ALL, DENSE, Way, stem_of, ways
from omma.sparse.account import cost_of, visual_tokens
from omma.sparse.anatomy import anatomy
from omma.sparse.shapes import FAMILIES, Grid, decoder_shape, grids_of, vision_shape

strings, numbers = pa.list_(pa.string()), pa.list_(pa.int32())
ROWS = pa.schema(
    [
        pa.field("method", pa.string()),         # with its options, as asked for; "dense" for the model as it is
        pa.field("budget", pa.string()),         # as asked for; "all" for dense
        pa.field("seed", pa.int64()),
        pa.field("variant", pa.string()),
        pa.field("item", pa.string()),
        pa.field("group", pa.string()),
        pa.field("pattern", pa.string()),
        pa.field("picture", pa.string()),        # the item's own; `shown` is what the variant put in its place
        pa.field("shown", pa.string()),
        pa.field("question", pa.string()),
        pa.field("said", pa.string()),
        pa.field("prediction", pa.string()),     # null: unparsed or unscored
        pa.field("answer", pa.string()),
        pa.field("outcome", pa.string()),        # right, wrong, unparsed or unscored
        pa.field("rule", pa.string()),           # how `said` was read: a key of protocols.short.RULES
        pa.field("unscored", pa.string()),       # the reason; null for a scored item
        pa.field("visual", pa.int32()),          # visual tokens of the prompt, and the others
        pa.field("text", pa.int32()),
        pa.field("entering", numbers),           # visual tokens entering each decoder layer
        pa.field("kept_after", numbers),         # layers after which tokens were dropped, -1 before the first
        pa.field("kept", pa.list_(pa.binary())),  # for each of these layers a bit a visual token: bench_page.unpacked
        pa.field("made", numbers),               # for each of these layers tokens made of dropped ones
        pa.field("grid", numbers),               # rows and columns of the first picture's visual tokens; null: no grid
        pa.field("decoder_macs", pa.int64()),    # of the prefill, attention over the full square
        pa.field("flops", pa.int64()),           # with vision tower, adapter and lm_head
        pa.field("flops_causal", pa.int64()),
        pa.field("kv_bytes", pa.int64()),
    ]
)  # fmt: skip
ASKS = "task == 'question' or task == 'ask'"
MAKE = "omma scenes OUT --questions 12"


# ------------------------------------------------------------------------------------------------ the run
def bench_sparsify(
    model: Any,
    *,
    data: Any,
    out: str | Path,
    methods: Sequence[str] = ("sparsevlm", "fastv", "divprune"),
    budgets: Sequence[str | int] = ("1/3", "2/9", "1/9"),
    where: str | None = None,
    seeds: Sequence[int] = (0,),
    limit: int | None = None,
    template: str = "{}",
    max_new_tokens: int = 16,
    batch_size: int = 8,
    timed: int = 4,
    controls: str = DENSE,
    device: str = "auto",
    precision: str = "auto",
    progress: bool = False,
) -> "SparseReport":
    """Measure ways to drop visual tokens on a VLM, all of them in one run, and write a report with pictures.

    model: a VLM, or a name or folder for load_vlm. data: a folder with the tables pictures and items (what write_scenes
    makes), the table of items, or both tables; questions about one picture are asked. out: folder for report.html,
    report.json, rows.parquet, plot.svg and the cells; a run goes on where an earlier one in the same folder stopped.
    methods: names in omma.sparse.methods.METHODS, with options as in "fastv:positions=compact". budgets: mean visual
    tokens a decoder layer (64), a share of the picture's (1/9), or a published table (table:64). where: rows of the
    items to use. seeds: each draws its own sample of `limit` questions, and whatever a method draws by chance.
    template: how a question is put, such as "{} Answer in one word." timed: questions on which time is measured, in
    turns with dense; 0 for none. controls: "dense" or "all": of which methods the blind and the wrong-picture control
    are run. Nothing is printed; progress shows bars on stderr. Raises ValueError for methods, budgets and data that
    can't be used, and for a folder that holds another model's or other questions' cells.
    """
    every = ways(list(methods), [str(budget) for budget in budgets])
    if controls not in (DENSE, ALL):
        raise ValueError(f"controls={controls!r}; choose {DENSE!r} or {ALL!r}")
    if "{}" not in template:
        raise ValueError(f"template {template!r} has no {{}}, where the question goes")
    if not seeds or batch_size < 1 or max_new_tokens < 1:
        given = f"{len(seeds)} seeds, batch_size={batch_size}, max_new_tokens={max_new_tokens}"
        raise ValueError(f"{given}; give 1 or more of each")
    pictures, items = find_tables(data, "vqa")
    rows = read_questions(items, where)
    out = Path(out)
    (out / "cells").mkdir(parents=True, exist_ok=True)
    vlm = loaded(model, device, precision)
    run = Run(vlm, pictures, rows, out, limit, template, max_new_tokens, batch_size, timed, controls)
    settings = run.settings(items, where, controls, timed)
    claim(out / "run.json", settings)
    cells, fresh = [(way, seed) for seed in seeds for way in every], not (out / "report.html").exists()
    with bars(progress) as tick:
        for number, (way, seed) in enumerate(cells):
            fresh |= run.cell(way, seed, tick)
            tick("methods x budgets", number + 1, len(cells))
    report = summary(out, settings, [way.method for way in every])
    if fresh:
        from omma.eval.bench_page import write_page  # matplotlib takes a second to load

        write_page(out, report, run)
    return report


def read_questions(items: Any, where: str | None) -> list[dict]:
    """Rows of an items table that ask something. Raises ValueError when there are none."""
    table = items.select(where) if where is not None else items
    columns = ["id", "pattern", "pictures", "prompt", "options", "answer", "group"]
    columns += [name for name in vqa.VQA.columns if name in table.columns]
    rows = [row for batch in table.scan(columns=columns, where=ASKS) for row in batch.to_pylist()]
    if not rows:
        wanted = f"{ASKS}{f', and of these {where}' if where else ''}"
        raise ValueError(f"no questions in {table.uri} (it reads {wanted}). Make some: {MAKE}")
    return rows


def loaded(model: Any, device: str, precision: str) -> Any:
    if not isinstance(model, str | Path):
        return model
    from omma.models.pretrained import load_vlm  # torch loads only when a model has to be

    return load_vlm(str(model), device=device, precision=precision)


def claim(path: Path, settings: dict[str, Any]) -> None:
    """Write what the cells of a folder depend on, or check that it is the same. Raises ValueError where it is not."""
    if not path.exists():
        with replacing(path) as part:
            part.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
        return
    before = json.loads(path.read_text(encoding="utf-8"))
    if other := [key for key in settings if key != "data" and before.get(key) != settings[key]]:
        was = ", ".join(f"{key} {before.get(key)!r} and now {settings[key]!r}" for key in other)
        raise ValueError(f"{path.parent} holds cells of another run, with {was}; choose another folder, or remove it")


class Run:
    """What all cells share: the model, the questions, the pictures, and what is known of each prompt."""

    def __init__(self, vlm: Any, pictures: Any, rows: list[dict], out: Path, limit: int | None, template: str,
                 max_new_tokens: int, batch_size: int, timed: int, controls: str):  # fmt: skip
        self.vlm, self.pictures, self.rows, self.out = vlm, pictures, rows, out
        self.limit, self.template, self.max_new_tokens = limit, template, max_new_tokens
        self.batch_size, self.timed, self.controls = batch_size, timed, controls
        self.facts: dict[tuple[str, str], dict[str, Any]] = {}
        self.row_of = lru_cache(maxsize=1024)(self.read_row)  # as the table has it, so pictures are small
        self.shape = decoder_shape(vlm.model.config)
        self.words = {"suppress_tokens": [*anatomy(vlm).visual_ids]}  # an answer holds no pictures

    def settings(self, items: Any, where: str | None, controls: str, timed: int) -> dict[str, Any]:
        """All that the cells depend on beside method, budget and seed."""
        asked = sorted((r["id"], r["prompt"], r["answer"], r["pictures"], r["pattern"]) for r in self.rows)
        return {
            "model": self.vlm.name,
            "model_fingerprint": self.vlm.fingerprint,
            "device": str(self.vlm.device),
            "precision": str(getattr(self.vlm, "precision", None)),
            "data": str(items.uri),
            "where": where,
            "questions": hashlib.blake2b(repr(asked).encode(), digest_size=8).hexdigest(),
            "limit": self.limit,
            "template": self.template,
            "max_new_tokens": self.max_new_tokens,
            "controls": controls,
            "timed": timed,
            "clock": clock_name(self.vlm.device),
        }

    def items(self, seed: int) -> list[Item]:
        """The questions of a seed."""
        return vqa.items(sample(self.rows, self.limit, seed))

    # ---- one cell
    def cell(self, way: Way, seed: int, tick: Any) -> bool:
        """Run a method at a budget with a seed; False when its files are there. The .json is written last."""
        stem = stem_of(way, seed)
        done = self.out / "cells" / f"{stem}.json"
        if done.exists():
            return False
        items, timing = self.items(seed), {}
        refused = self.refusal(items, way, seed)
        if not refused:
            variants = VARIANTS if self.controls == ALL or way.name == DENSE else VARIANTS[:1]
            rows = [row for variant in variants for row in self.answers(items, way, seed, variant, tick)]
            with replacing(done.with_suffix(".parquet")) as part:
                pq.write_table(pa.Table.from_pylist(rows, schema=ROWS), part, compression="zstd")
            timing = self.times(items, way, seed)
        with replacing(done) as part:
            part.write_text(json.dumps({**asdict(way), "seed": seed, "refused": refused, "timing": timing}) + "\n")
        return True

    def refusal(self, items: list[Item], way: Way, seed: int) -> str:
        """Why the method can't do this with the model: what it says to the first question; "" where it does."""
        for item, image in self.shown(items):
            try:
                with way.enter(self.vlm.model, seed):
                    self.vlm.generate_batch([[image]], [self.prompt(item)], 1, **self.words)
            except ValueError as error:
                if way.name == DENSE:  # the model itself, or what it is asked
                    raise
                return str(error)
            break
        return ""

    def answers(self, items: list[Item], way: Way, seed: int, variant: str, tick: Any) -> Iterator[dict]:
        """One row an item, in the items' order."""
        exchange = derangement([item for item in items if not item.problem], seed)
        place: Mapping[str, str] = exchange if variant == "wrong-image" else {}
        said: list[str] = []
        asked: list[tuple[Item, Image.Image]] = []
        lone = "only_one_group" if variant == "wrong-image" and not exchange else ""
        reasons = {item.id: item.problem or lone for item in items}
        with way.enter(self.vlm.model, seed) as trace:
            batch: list[tuple[Item, Image.Image]] = []
            for number, item in enumerate(items):
                if not reasons[item.id]:
                    image, reason = self.picture(item.pictures[0])
                    if image is not None and variant == "blind":  # only what can be asked has a control
                        image = Image.new("RGB", (224, 224), (128, 128, 128))
                    elif image is not None and item.pictures[0] in place:
                        image, reason = self.picture(place[item.pictures[0]])
                    reasons[item.id] = reason
                    batch += [(item, image)] if image is not None else []
                if batch and (len(batch) == self.batch_size or number + 1 == len(items)):
                    shown, prompts = [[image] for _, image in batch], [self.prompt(item) for item, _ in batch]
                    said += self.vlm.generate_batch(shown, prompts, self.max_new_tokens, **self.words)
                    asked, batch = asked + batch, []
                tick(f"{way.method} {way.budget} {variant}", number + 1, len(items))
        traced = {} if trace is None else seen(trace, self.shape.num_layers)
        answered = {item.id: number for number, (item, _) in enumerate(asked)}
        images = {item.id: image for item, image in asked}
        for item in items:
            row: dict[str, Any] = {
                "method": way.method, "budget": way.budget, "seed": seed, "variant": variant, "item": item.id,
                "group": item.group, "pattern": item.pattern, "picture": (item.pictures or ("",))[0],
                "question": item.texts[0], "answer": item.answer, "outcome": "unscored",
                "unscored": reasons[item.id] or None,
            }  # fmt: skip
            if item.id in answered:
                number = answered[item.id]
                read = judged(said[number], item.answer, item.answers, item.options)
                shown = "grey" if variant == "blind" else place.get(item.pictures[0], item.pictures[0])
                row |= {"shown": shown, "said": said[number], "prediction": read.prediction, "outcome": read.outcome,
                        "rule": read.rule}  # fmt: skip
                if variant == "model":
                    row |= self.cost(item, images[item.id], traced.get(number))
            yield row

    def cost(self, item: Item, image: Image.Image, traced: dict[str, Any] | None) -> dict[str, Any]:
        """What the prompt of an item cost, by the tokens that entered the layers."""
        known = self.known(item, image)
        entering = traced["entering"] if traced else [known["visual"]] * self.shape.num_layers
        cost = cost_of(self.vlm.model.config, entering, known["text"], pictures=known["pictures"],
                       dtype=self.vlm.model.dtype)  # fmt: skip
        return {
            "visual": known["visual"], "text": known["text"], "grid": known["grid"], "entering": entering,
            "decoder_macs": cost.macs["decoder"], "flops": cost.flops, "flops_causal": cost.flops_causal,
            "kv_bytes": cost.kv_bytes, **({} if traced is None else traced["kept"]),
        }  # fmt: skip

    def times(self, items: list[Item], way: Way, seed: int) -> dict[str, list[dict]]:
        """Seconds and bytes on the first questions in a seeded order, in turns with dense."""
        ordered = sorted(items, key=lambda item: order_key(0, item.id))
        chosen = [pair for pair, _ in zip(self.shown(ordered), range(self.timed), strict=False)]
        if not chosen or self.has_times(way):
            return {}
        prompts = [self.vlm.prompts([[image]], [self.prompt(item)]) for item, image in chosen]
        turns = {way.method: partial(way.enter, self.vlm.model, seed)}
        length = max(2, min(8, self.max_new_tokens))
        return in_turns(self.vlm.model, prompts, {DENSE: nullcontext} | turns, new_tokens=length)

    def has_times(self, way: Way) -> bool:
        """Whether the way was timed with another seed: once is enough."""
        found = (json.loads(path.read_text()) for path in (self.out / "cells").glob("*.json"))
        return any(cell["timing"] and (cell["method"], cell["budget"]) == (way.method, way.budget) for cell in found)

    # ---- prompts and pictures
    def prompt(self, item: Item) -> str:
        return self.template.replace("{}", item.texts[0])

    def known(self, item: Item, image: Image.Image) -> dict[str, Any]:
        """Of a prompt: visual and other tokens, what its picture is to the tower, and the grid of its visual tokens."""
        key = item.pictures[0], item.texts[0]
        if key not in self.facts:
            config = self.vlm.model.config
            inputs = self.vlm.prompts([[image]], [self.prompt(item)])
            visual = int(visual_tokens(config, inputs["input_ids"]).sum())
            pictures = grids_of(config, inputs) if config.model_type in FAMILIES else []
            self.facts[key] = {"visual": visual, "text": int(inputs["attention_mask"].sum()) - visual,
                               "pictures": pictures, "grid": token_grid(config, pictures, visual)}  # fmt: skip
        return self.facts[key]

    def shown(self, items: list[Item]) -> Iterator[tuple[Item, Image.Image]]:
        """The items that can be asked, with their pictures."""
        for item in items:
            if not item.problem and (image := self.picture(item.pictures[0])[0]) is not None:
                yield item, image

    def read_row(self, name: str) -> dict[str, Any] | None:
        try:
            return self.pictures.take([name], ["id", "bytes", "uri", "offset", "length", "status"]).to_pylist()[0]
        except ValueError:
            return None

    def picture(self, name: str) -> tuple[Image.Image | None, str]:
        """A picture of the table; else None and the reason."""
        row = self.row_of(name)
        if row is None:
            return None, "picture_missing"
        if row["status"] not in USABLE:
            return None, f"picture_{row['status'] or 'no_status'}"
        try:
            opened = open_picture(row, self.pictures.uri)
        except ValueError:
            return None, "picture_unreadable_file"
        return opened.image, "" if opened.image is not None else f"picture_{opened.status}"


# ------------------------------------------------------------------------------------------------ traces and grids
def seen(trace: Any, layers: int) -> dict[int, dict[str, Any]]:
    """{sample: what entered its layers and what was kept after which}, of all samples that a Trace saw."""
    entering, tokens, kept = trace.entering.tolist(), trace.tokens.tolist(), trace.kept
    found = {}
    for number, counts in enumerate(entering):
        after, masks, made = [], [], []
        before = np.packbits(np.ones(tokens[number], dtype=bool)).tobytes(), 0
        for layer in sorted(kept):
            stays = kept[layer][number]
            mask = np.zeros(tokens[number], dtype=bool)
            mask[stays[stays >= 0].numpy()] = True
            now = np.packbits(mask).tobytes(), int((stays < 0).sum())
            if now != before:
                after.append(layer)
                masks.append(now[0])
                made.append(now[1])
            before = now
        found[number] = {"entering": counts, "kept": {"kept_after": after, "kept": masks, "made": made}}
    return found


def token_grid(config: Any, pictures: Sequence[Grid], visual: int) -> list[int] | None:
    """[rows, columns] in which the first visual tokens stand, row by row, or None where they don't.

    Of models that cut a picture into crops, the grid of the first crop that is the whole of it (LLaVA-NeXT, OneVision).
    """
    if not pictures:
        return None
    merge = vision_shape(config)[1].merge
    first = pictures[0]
    rows, columns = first.rows // merge, first.columns // merge
    whole_first = config.model_type.startswith("llava") or len(pictures) == 1
    return [rows, columns] if whole_first and rows * columns <= visual else None
