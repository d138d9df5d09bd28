"""Evaluate a model on a task: one row an item in Parquet, two controls in every run, an interval beside every number.

    report = evaluate("runs/vl", "patterns", data="scenes/test", out="reports/patterns")
    print(report.metrics["headline"])

Variants of a run: "model" sees the pictures; "blind" sees one and the same mid-grey picture instead of each, so what it
still gets right needs no eyes; "wrong-image" sees another group's pictures (a seeded exchange), so what it still gets
right does not depend on the picture asked about. A VLM is also asked with the options in reverse order ("option-swap")
and about mirrored pictures ("image-flip"), where that must not change what is right; "same" says how often it gave the
same answer. An item that can't be scored is counted under its reason, and a reply that can't be read is unparsed.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console, Group
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table as RichTable

from omma.eval.asking import mirror
from omma.eval.clusters import clustered, joined
from omma.eval.paired import detectable
from omma.eval.replies import Replies, keeping
from omma.eval.scorer import Scorer
from omma.eval.task import IN_WORDS, METHODS, MIRRORED, SWAPPED, VARIANTS, Grid, Item, Task, cells, derangement, sample
from omma.eval.tasks.caption import CAPTION
from omma.eval.tasks.chair import CHAIR
from omma.eval.tasks.choices import CHOICE, CIRCULAR
from omma.eval.tasks.classify import CLASSIFY
from omma.eval.tasks.hard_negatives import HARD_NEGATIVES
from omma.eval.tasks.judged import LLAVA_BENCH, MM_VET
from omma.eval.tasks.linear_probe import LINEAR_PROBE
from omma.eval.tasks.mme import MME
from omma.eval.tasks.mmvp import MMVP
from omma.eval.tasks.naturalbench import NATURALBENCH
from omma.eval.tasks.nlvr import NLVR
from omma.eval.tasks.nlvr2 import NLVR2
from omma.eval.tasks.patterns import PATTERNS
from omma.eval.tasks.pope import POPE
from omma.eval.tasks.rerank import RERANK
from omma.eval.tasks.retrieval import RETRIEVAL
from omma.eval.tasks.scenes import SCENES
from omma.eval.tasks.segmentation import SEGMENTATION
from omma.eval.tasks.short_answers import CHARTQA, DOCVQA, GQA, TEXTVQA, VIDEO_QA
from omma.eval.tasks.statements import STATEMENTS
from omma.eval.tasks.vqa import VQA
from omma.eval.variants import further_controls, look_at_all, run_variant, variants_of, why_not
from omma.table import Table

TASKS: dict[str, Task] = {
    "retrieval": RETRIEVAL,
    "rerank": RERANK,
    "statements": STATEMENTS,
    "patterns": PATTERNS,
    "vqa": VQA,
    "nlvr2": NLVR2,
    "segmentation": SEGMENTATION,
    "caption": CAPTION,
    "nlvr": NLVR,
    "classify": CLASSIFY,
    "linear-probe": LINEAR_PROBE,
    "scenes": SCENES,
    "mmvp": MMVP,
    "pope": POPE,
    "mme": MME,
    "naturalbench": NATURALBENCH,
    "choice": CHOICE,
    "circular": CIRCULAR,
    "textvqa": TEXTVQA,
    "gqa": GQA,
    "video-qa": VIDEO_QA,
    "docvqa": DOCVQA,
    "chartqa": CHARTQA,
    "hard-negatives": HARD_NEGATIVES,
    "mm-vet": MM_VET,
    "llava-bench": LLAVA_BENCH,
    "chair": CHAIR,
}
DISCORDANT = 0.2  # the share of items on which two models are taken to differ, for what a run could show
NUMBER = 16  # characters of a cell that stays on its line, such as an interval
EMBEDDING = {"itc", "itm"}  # kinds of score for which pictures and texts are embedded

strings, numbers = pa.list_(pa.string()), pa.list_(pa.float64())
ROWS = pa.schema(
    [
        pa.field("run_id", pa.string()),
        pa.field("model", pa.string()),
        pa.field("model_fingerprint", pa.string()),
        pa.field("task", pa.string()),
        pa.field("item", pa.string()),
        pa.field("group", pa.string()),
        pa.field("pattern", pa.string()),
        pa.field("variant", pa.string()),
        pa.field("score_kind", pa.string()),
        pa.field("pictures", strings),       # the item's own; `shown` is what the variant put in their place
        pa.field("shown", strings),
        pa.field("texts", strings),
        pa.field("scores", numbers),
        pa.field("prediction", pa.string()),  # null: unscored or unparsed
        pa.field("answer", pa.string()),
        pa.field("correct", pa.bool_()),     # null: unscored, unparsed, or a tie leaves it open
        pa.field("credits", numbers),        # what the item earns; metrics["credits"] names the numbers
        pa.field("top", strings),
        pa.field("unscored", pa.string()),   # the reason; null for a scored item
        pa.field("prompt", pa.string()),     # of a VLM: what it was asked, its reply as it came, how that was read
        pa.field("said", pa.string()),
        pa.field("rule", pa.string()),
        pa.field("unparsed", pa.bool_()),
        pa.field("images", strings),         # hashes of the pixels of `shown`, not mirrored
        pa.field("mode", pa.string()),       # the named mode of asking and reading
        pa.field("seed", pa.int64()),
        pa.field("device", pa.string()),
        pa.field("batch_size", pa.int64()),
        pa.field("judge", pa.string()),      # who graded the reply, the hash of what it was told, how its server calls
        pa.field("judge_prompt", pa.string()),  # it, and what it said
        pa.field("judge_version", pa.string()),
        pa.field("judge_said", pa.string()),
    ]
)


@dataclass
class Report:
    """What a run found. metrics: nested dict; rows: one row an item x variant x score kind, with the columns of ROWS.

    metrics["scores"][kind][variant] holds n, unscored, reasons and the task's own numbers; metrics["headline"] the
    first number to look at for each kind, with its controls. Printed by rich as tables.
    """

    metrics: dict[str, Any]
    rows: pa.Table
    rows_path: Path | None = field(default=None)

    def save(self, folder: str | Path) -> Path:
        """Write report.json and rows.parquet into the folder, replacing an earlier report there."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.rows_path = folder / "rows.parquet"
        with replacing(self.rows_path) as path:
            pq.write_table(self.rows, path, compression="zstd")
        with replacing(folder / "report.json") as path:
            path.write_text(json.dumps(self.to_json(), indent=1, allow_nan=False) + "\n", encoding="utf-8")
        return folder

    def write_predictions(self, path: str | Path) -> int:
        """One line an item, "id,prediction", of what the model said with its own pictures; returns how many.

        An item that could not be scored has no line. NLVR's own metrics script reads this form.
        """
        said = [row for row in self.rows.select(["item", "variant", "prediction"]).to_pylist()
                if row["variant"] == "model" and row["prediction"] is not None]  # fmt: skip
        with replacing(Path(path)) as part:
            part.write_text("".join(f"{row['item']},{row['prediction']}\n" for row in said), encoding="utf-8")
        return len(said)

    @classmethod
    def load(cls, folder: str | Path) -> "Report":
        """The report saved in a folder. Raises ValueError when there is none."""
        folder = Path(folder)
        if not (folder / "report.json").exists():
            inside = ", ".join(sorted(p.name for p in folder.iterdir())[:12]) if folder.is_dir() else "not a folder"
            raise ValueError(f"no report.json in {folder} ({inside}); make one: omma eval MODEL TASK --out {folder}")
        metrics = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        return cls(metrics, pq.read_table(folder / "rows.parquet"), folder / "rows.parquet")

    def to_json(self) -> dict[str, Any]:
        """The metrics as JSON takes them: numbers that don't exist are null."""
        return plain(self.metrics)

    def grids(self) -> list[Grid]:
        """The tables of the report as text, one or more a score kind."""
        task = find_task(self.metrics["task"])
        scores = self.metrics["scores"].items()
        return [grid for kind, by_variant in scores
                for grid in [*task.tables(kind, by_variant), *further_controls(kind, by_variant)]]  # fmt: skip

    def table(self) -> list[RichTable]:
        """The tables of the report for a terminal."""
        return [rich_table(grid) for grid in self.grids()]

    def __rich__(self) -> Group:
        m = self.metrics
        unscored = ", ".join(f"{n} {reason}" for reason, n in m["reasons"].items())
        lines = [f"{m['task']}: {m['model']} on {m['items']} items of {m['data']}", f"{m['sample']}; run {m['run_id']}"]
        lines += [f"{m['unscored']} items could not be scored: {unscored}"] if m["unscored"] else []
        for kind, by_variant in m["scores"].items():
            more = Counter(by_variant["model"]["reasons"]) - Counter(m["reasons"])
            told = ", ".join(f"{n} {reason}" for reason, n in more.items())
            lines += [f"{more.total()} items have no score by {kind}: {told}"] if more else []
        lines += [f"{reason}: {said}" for reason, said in m.get("failures", {}).items()]
        lines += [f"not measured by {kind}: {why}" for kind, why in m.get("not_asked", {}).items()]
        if len(served := m.get("served", ())) > 1:
            lines.append(f"the server called the model {', '.join(served)}: these replies may be of several models")
        if judge := m.get("judge"):
            lines.append(f"graded by {judged_by(judge)}")
        return Group(*lines, *self.table())


def evaluate(
    model: Any,
    task: str,
    *,
    data: Any,
    out: str | Path | None = None,
    where: str | None = None,
    languages: Sequence[str] = (),
    label: str | None = None,
    templates: Sequence[str] = (),
    reference: str | None = None,
    judge: Any = None,
    judge_prompt: str | Path | None = None,
    limit: int | None = None,
    batch_size: int | None = None,
    cache: str | Path | None = None,
    device: str = "auto",
    seed: int = 0,
    progress: bool = False,
) -> Report:
    """Measure a model on a task, beside a blind and a wrong-image control.

    model: an Encoder or a VLM, or a name or path for load_encoder or load_vlm, as the task needs. task: a name in
    TASKS. data: a folder with the tables pictures and items (what write_scenes makes), one of these tables or its path,
    or the two tables as a tuple; a View stands for a table. where: rows of the task's table to use. languages: captions
    to use, all when empty. label, templates: of the task classify, the column that names classes and the sentences that
    a name is put into, such as "a picture of a {}"; of a task that asks in words, templates is one sentence around the
    question, such as "{} Answer in one word." reference: whose way of asking and reading, such as "official",
    "lmms-eval" or "vlmevalkit"; the task's own when None. judge: of a task whose replies a language model grades,
    which one, such as "openai:MODEL@URL" (a model with generate_batch does, too); judge_prompt: a file with what it is
    told, in place of the task's words (protocols.judge.Judging). limit: keep at most so many rows, a seeded sample
    spread over the patterns, groups whole. batch_size: 64, of a VLM 8; of an endpoint, how many requests are under way.
    out: folder for report.json and rows.parquet, and for a VLM's replies (replies.sqlite), so that a run that was
    killed goes on where it stopped. cache: another file for the replies, which several runs may share. Nothing is
    printed; progress shows bars on stderr, and before them what the run could show.
    Raises ValueError for an unknown task, data without the table that the task reads, rows of which none can be
    asked, a model that has none of the task's ways of asking, and an endpoint that doesn't answer at all.

    >>> evaluate("runs/vl", "retrieval", data="scenes/test/pictures")     # doctest: +SKIP
    """
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size={batch_size}; give 1 or more")
    find_task(task)
    if out is not None:  # a place that can't be written to is told now, and not after hours of work
        Path(out).mkdir(parents=True, exist_ok=True)
    pictures, table = find_tables(data, task)
    if where is not None:
        table = table.select(where)
    options = {"label": label, "templates": tuple(templates), "reference": reference, "judge": judge,
               "judge_prompt": judge_prompt}  # fmt: skip
    chosen = made_for(task, table, {name: value for name, value in options.items() if value})
    items = items_of(chosen, task, table, where=where, languages=languages, limit=limit, seed=seed)
    encoder = load(model, device, chosen.kinds)
    kinds, lacking = kinds_of(encoder, chosen, task)
    grader = load_judge(judge) if chosen.judge else None
    batch_size = batch_size or (8 if IN_WORDS & set(kinds) else 64)
    smallest = could_show(items)
    if progress:
        Console(stderr=True).print(told_before(task, items, smallest), highlight=False)
    place = Path(cache) if cache else Path(out) / "replies.sqlite" if out and IN_WORDS & set(kinds) else None

    with bars(progress) as tick, keeping(place) as kept:
        scorer = Scorer(encoder, pictures, batch_size=batch_size, tick=tick, kept=kept)
        if grader is not None:
            scorer.judge = Replies(grader, kept, {}, lambda ids: {}, batch_size, tick, "grades")
        unscored, results = run_all(chosen, items, scorer, kinds, seed)
        said = {} if scorer.words is None else {"served": sorted(scorer.words.served)}
        failures = {} if scorer.words is None else dict(scorer.words.failures)
        if scorer.judge is not None:
            failures |= {f"judge_{reason}": told for reason, told in scorer.judge.failures.items()}

    judged, mode = {}, (chosen.mode, *templates)
    if grader is not None:
        graded = {"judge": grader.name, "judge_prompt": chosen.judge.hash}
        results = [result | (graded if result["score_kind"] == "generate" else {}) for result in results]
        versions = sorted({result.get("judge_version") or "" for result in results} - {""})
        judged = {"name": grader.name, "fingerprint": grader.fingerprint, "versions": versions,
                  "prompt": chosen.judge.version, "prompt_hash": chosen.judge.hash}  # fmt: skip
        mode = (*mode, grader.fingerprint, chosen.judge.hash)
    facts = {
        "run_id": run_id(encoder, task, items, seed, mode),
        "model": encoder.name,
        "model_fingerprint": encoder.fingerprint,
        "task": task,
        "seed": seed,
        "device": str(getattr(encoder, "device", device)),
        "batch_size": batch_size,
        "mode": chosen.mode,
    }
    scores = {kind: {v: summary(chosen, results, kind, v) for v in variants_of(chosen, kind)} for kind in kinds}
    optional = {"judge": judged, **said, "not_asked": lacking}
    metrics = {
        **facts,
        "data": str(table.uri),
        "where": where,
        "languages": list(languages),
        "limit": limit,
        "sample": "every row" if limit is None else f"{len(items)} items, a sample for limit={limit} with seed {seed}",
        "items": len(items),
        "unscored": len(unscored),
        "reasons": dict(sorted(Counter(unscored.values()).items())),
        "failures": failures,
        **{name: value for name, value in optional.items() if value},
        "detectable": smallest,
        "templates": list(templates),
        "credits": list(chosen.credits),
        "headline": headline(chosen, scores),
        "scores": scores,
    }
    report = Report(plain(metrics), pa.Table.from_pylist([{**facts, **result} for result in results], schema=ROWS))
    if out is not None:
        report.save(out)
    return report


def run_all(
    task: Task, items: list[Item], scorer: Scorer, kinds: Sequence[str], seed: int
) -> tuple[dict[str, str], list[dict]]:
    """({item: why it can't be scored}, the result rows of every kind and variant)."""
    askable = [item for item in items if not item.problem]
    shown, said = (p for item in askable for p in item.pictures), [t for item in askable for t in item.texts]
    scorer.load(shown, [*said, *task.texts], embed=bool(EMBEDDING & set(kinds)))
    unscored = {item.id: reason for item in items if (reason := why_not(item, scorer))}
    good = [item for item in items if item.id not in unscored]
    exchange = derangement(good, seed)
    if "itm" in kinds:
        look_at_all(good, exchange, scorer)
    return unscored, [
        result
        for kind in kinds
        for variant in variants_of(task, kind)
        for result in run_variant(task, items, unscored, exchange, scorer, kind, variant)
    ]


def summary(task: Task, results: list[dict], kind: str, variant: str) -> dict:
    mine = [row for row in results if row["score_kind"] == kind and row["variant"] == variant]
    scored = [row for row in mine if not row["unscored"]]
    reasons = Counter(row["unscored"] for row in mine if row["unscored"])
    counts = {"n": len(scored), "unscored": len(mine) - len(scored), "reasons": dict(sorted(reasons.items()))}
    found = counts | task.metrics(scored)
    if variant in (SWAPPED, MIRRORED):
        model = {row["item"]: row["prediction"] for row in results
                 if row["score_kind"] == kind and row["variant"] == "model" and row.get("prediction") is not None}
        both = [row for row in scored if row["prediction"] is not None and row["item"] in model]
        turn = mirror if variant == MIRRORED else str
        same = [row["prediction"] == turn(model[row["item"]]) for row in both]
        found["same"] = clustered(same, joined([(*row["pictures"], f"group {row['group']}") for row in both]))
    return found


def could_show(items: list[Item]) -> float | None:
    """The smallest difference between two models that these items would probably show, as a share of them: four times
    of five, where the models differ on DISCORDANT of what is independent (items that share pictures aren't)."""
    asked = [item for item in items if not item.problem]
    independent = len(set(joined([(*item.pictures, f"group {item.group}") for item in asked])))
    return detectable(independent, DISCORDANT)


def told_before(task: str, items: list[Item], smallest: float | None) -> str:
    asked = sum(not item.problem for item in items)
    shows = "no difference" if smallest is None else f"differences from about {100 * smallest:.1f} points on"
    return (f"{task}: {asked} of {len(items)} items can be asked. Two models that disagree on "
            f"{100 * DISCORDANT:.0f} % of them: {shows} would probably show.")  # fmt: skip


def headline(task: Task, scores: dict) -> dict:
    """{kind: the task's first number with its interval, chance and controls}."""
    out = {}
    for kind, by_variant in scores.items():
        path = task.headline[kind]
        model, blind, wrong = (cells(by_variant[variant]).get(path, {}) for variant in VARIANTS)
        out[kind] = {"metric": path, **model, "blind": blind.get("value"), "wrong-image": wrong.get("value")}
    return out


# ------------------------------------------------------------------------------------------------ what comes in
ITEM_COLUMNS = ("id", "pattern", "pictures", "prompt", "options", "answer", "group")


def find_task(name: str) -> Task:
    if name not in TASKS:
        known = "; ".join(f"{key}: {task.about}" for key, task in TASKS.items())
        how = f"omma.eval.run.TASKS[{name!r}] = Task(...), see docs/add-a-task.md"
        raise ValueError(f"no task {name!r}; there are {known}. Add one: {how}")
    return TASKS[name]


def made_for(name: str, table: Any, options: dict[str, Any]) -> Task:
    """The task with what a run asks for. Raises ValueError for an option that the task doesn't take."""
    task = find_task(name)
    if other := [option for option in options if option not in task.takes]:
        takes = ", ".join(name for name, each in TASKS.items() if other[0] in each.takes)
        raise ValueError(f"task {name!r} takes no {' and no '.join(other)}; {takes} does")
    return task if task.made_for is None else task.made_for(table, **options)


def find_tables(data: Any, task: str) -> tuple[Any, Any]:
    """(the table of pictures, the table whose rows the task reads)."""
    needs = TASKS[task].table
    pictures = items = None
    if isinstance(data, str | Path):
        folder = Path(data)
        if (folder / "manifest.json").exists():
            data = Table.open(folder)
        else:
            places = {name: folder / name for name in ("pictures", "items")}
            opened = {name: Table.open(place) for name, place in places.items() if (place / "manifest.json").exists()}
            if not opened:
                Table.open(folder)  # says what is there
            data = tuple(opened.values())
    for table in data if isinstance(data, tuple | list) else [data]:
        pictures, items = (table, items) if table.kind == "pictures" else (pictures, table)
    if pictures is None and items is not None:
        beside = Path(items.uri).parent / "pictures"
        pictures = Table.open(beside) if (beside / "manifest.json").exists() else None
    if pictures is None:
        raise ValueError(f"no table of pictures in {data}; give a folder with pictures/ and items/, or both tables")
    if needs == "items" and items is None:
        raise ValueError(f"task {task!r} reads a table of items, and {data} has none. Make one: {TASKS[task].make}")
    return pictures, items if needs == "items" else pictures


def items_of(
    task: Task, name: str, table: Any, *, where: str | None, languages: Sequence[str], limit: int | None, seed: int
) -> list[Item]:
    """What is asked: the rows of the table that the task reads, at most `limit`. Raises ValueError for a table without
    such rows, or of which none can be asked. where: how the table was narrowed, for the message."""
    columns = ["id", "captions"] if task.table == "pictures" else [*ITEM_COLUMNS]
    columns += [column for column in task.columns if column in table.columns]
    rows = [row for batch in table.scan(columns=columns, where=task.where) for row in batch.to_pylist()]
    if languages and task.table == "pictures":
        rows = [row | {"captions": [c for c in row["captions"] or [] if c["language"] in languages]} for row in rows]
    if not rows:
        wanted = " and ".join(filter(None, (task.where, where))) or "every row"
        raise ValueError(f"no rows for task {name!r} in {table.uri} (it reads {wanted}). Make some: {task.make}")
    items = task.items(sample(rows, limit, seed))
    if all(item.problem for item in items):
        why = ", ".join(f"{n} {reason}" for reason, n in Counter(item.problem for item in items).items())
        raise ValueError(f"none of the {len(items)} items of task {name!r} in {table.uri} can be asked: {why}"
                         f"{' in ' + ', '.join(languages) if languages else ''}. Make some: {task.make}")  # fmt: skip
    return items


def kinds_of(model: Any, task: Task, name: str) -> tuple[list[str], dict[str, str]]:
    """(the task's kinds of score that the model has, {kind: why it can't be used here}). Raises ValueError when none
    is left."""
    lacks = getattr(model, "lacks", lambda method: "")
    kinds = [kind for kind in task.kinds if hasattr(model, METHODS[kind])]
    lacking = {kind: why for kind in kinds if (why := lacks(METHODS[kind]))}
    kinds = [kind for kind in kinds if kind not in lacking]
    if len(kinds) > 1 and "classify" in kinds and not getattr(model, "classes", ()):
        kinds.remove("classify")  # it has the method, but was not trained with the head
    if kinds:
        return kinds, lacking
    methods = " or ".join(METHODS[kind] for kind in task.kinds)
    can = [other for other, each in TASKS.items()
           if any(hasattr(model, METHODS[kind]) and not lacks(METHODS[kind]) for kind in each.kinds)]  # fmt: skip
    why = "; ".join(lacking.values()) or f"{model.name!r} has no such method"
    raise ValueError(f"task {name!r} asks the model's {methods}, and {why}; it can be measured on "
                     f"{', '.join(can) or 'no task'}")  # fmt: skip


def load(model: Any, device: str, kinds: Sequence[str]) -> Any:
    """The model by name: a VLM for a task that asks in words, and where a task takes both, what the folder holds."""
    if not isinstance(model, str | Path):
        return model
    from omma.models.pretrained import answers_in_words, load_encoder, load_vlm  # torch loads only for a model

    words = IN_WORDS & set(kinds)
    if words and (words == set(kinds) or answers_in_words(str(model))):
        return load_vlm(str(model), device=device)
    return load_encoder(str(model), device=device)


def load_judge(judge: Any) -> Any:
    """The judge by its spelling, openai:MODEL@URL; a model that is one already is taken as it is."""
    if not isinstance(judge, str):
        return judge
    from omma.models.endpoint import load_endpoint  # torch loads only for a model

    return load_endpoint(judge)


def judged_by(judge: dict[str, Any] | None) -> str:
    """A judge as a report names it: name, versions that its server told, and what it was told."""
    if not judge:
        return ""
    served = f" ({', '.join(judge['versions'])})" if judge["versions"] else ""
    return f"{judge['name']}{served}, told {judge['prompt']} ({judge['prompt_hash']})"


def run_id(encoder: Any, task: str, items: list[Item], seed: int, mode: tuple[str, ...] = ()) -> str:
    """A hash of what decides the results: the model, the task, the items, the seed, and how a VLM is asked."""
    asked = sorted((item.id, item.group, item.pattern, item.pictures, item.texts, item.answer) for item in items)
    what = (encoder.fingerprint, task, asked, seed, *((mode,) if any(mode) else ()))
    return hashlib.blake2b(repr(what).encode(), digest_size=6).hexdigest()


# ------------------------------------------------------------------------------------------------ what goes out
def rich_table(grid: Grid) -> RichTable:
    table = RichTable(title=grid.title, title_justify="left", caption=grid.note or None, caption_justify="left")
    for n, name in enumerate(grid.header):
        longest = max(map(len, (name, *(row[n] for row in grid.rows))))
        # numbers are never cut: where it is narrow, long names wrap
        table.add_column(name, justify="right" if n else "left", no_wrap=longest <= NUMBER, overflow="fold")
    for row in grid.rows:
        table.add_row(*row)
    return table


def plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not abs(value) < float("inf"):
        return None
    return value


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to; it takes the place of `path` when the block ends well, so a reader sees old or new."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        with open(part, "rb+") as file:
            os.fsync(file.fileno())                       # else a crash may leave the new name and no content
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def bars(show: bool) -> Iterator[Any]:
    """A function tick(what, done, of) that moves one bar for each kind of work."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), disable=not show) as progress:
        lines: dict[str, Any] = {}

        def tick(what: str, done: int, of: int) -> None:
            if what not in lines:
                lines[what] = progress.add_task(what)
            progress.update(lines[what], completed=done, total=of)

        yield tick
