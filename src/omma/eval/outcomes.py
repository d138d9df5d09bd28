"""What a run says of each item, whoever made it: a report of omma, samples of lmms-eval, a result file of VLMEvalKit.

    for run in outcomes("reports/patterns"): print(run.name, len(run.items))

Report folders hold pictures and groups, so that whole groups and independent pictures can be counted. The files of
others name groups here and there, and pictures rarely; where they don't, each question stands alone.
"""

import csv
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omma.eval import sheets
from omma.eval.clusters import clustered, joined
from omma.eval.protocols import choice, exact, pope
from omma.eval.run import Report, judged_by

NOT_METRICS = {"doc_id", "doc", "doc_hash", "target", "input", "arguments", "resps", "filtered_resps", "prompt_hash",
               "target_hash", "filter", "metrics", "token_counts", "input_media"}  # fmt: skip
SCORES = ("score", "is_correct", "correct", "accuracy", "exact_match", "anls")  # where lmms-eval's metrics keep theirs
IN_A_CIRCLE = "right in every rotation"
HITS = ("hit", "score")  # VLMEvalKit's columns after an evaluation
JUDGED = re.compile(r"_(exact_matching|openai|(?:chat)?gpt[^_]*|qwen[^_]*|deepseek[^_]*|llama[^_]*)$")  # in its names
CIRCULAR = re.compile(r"mmbench|ccbench|circular|mmcr", re.IGNORECASE)  # benchmarks that it evaluates in a circle
TRUTH = {"true": 1.0, "false": 0.0, "yes": 1.0, "no": 0.0}


@dataclass(frozen=True)
class Outcome:
    """What one item earned, 0..1, None where it could not be scored. said: what the model answered, in words."""

    earned: float | None
    group: str
    pattern: str
    pictures: tuple[str, ...]
    answer: str
    said: str | None = None
    unparsed: bool = False


@dataclass(frozen=True)
class Run:
    """One benchmark of one model. credit: what `earned` counts. judge: who graded the replies and by which words, ""
    where rules read them or nobody knows. note: what a reader of the numbers should know of where they come from."""

    model: str
    task: str
    kind: str
    credit: str
    items: dict[str, Outcome] = field(repr=False)
    note: str = ""
    judge: str = ""

    @property
    def name(self) -> str:
        return f"{self.task} ({self.kind})" if self.kind else self.task


def outcomes(source: Any, *, kind: str | None = None, credit: str | None = None, variant: str = "model") -> list[Run]:
    """The runs of a Report, a report folder, a folder of report folders, or a result file of lmms-eval or VLMEvalKit.

    kind: the kind of score to read ("itc", "itm"), all when None; credit: what an item earns by its name, the first
    when None (lmms-eval: the metric). variant: "model", or a control of the run. Raises ValueError for a place that is
    none of these, or that lacks the kind, the credit or the variant.
    """
    if isinstance(source, Report):
        return _report(source, kind, credit, variant)
    path = Path(source)
    if (path / "report.json").exists():
        return _report(Report.load(path), kind, credit, variant)
    if path.is_dir():
        inside = sorted(p.parent for p in path.glob("*/report.json"))
        if not inside:
            raise ValueError(f"no report.json in {path} or in its folders; make one: omma eval MODEL TASK --out {path}")
        return [run for folder in inside for run in _report(Report.load(folder), kind, credit, variant)]
    if not path.exists():
        raise ValueError(f"{path} doesn't exist; give a report folder, lmms-eval's samples (.jsonl), or VLMEvalKit's "
                         f"results (.xlsx, .tsv, .csv, .json)")  # fmt: skip
    readers = {".jsonl": _lmms_eval} | dict.fromkeys((".xlsx", ".tsv", ".csv", ".json"), _vlmevalkit)
    if path.suffix not in readers:
        raise ValueError(f"{path} is no result that can be read; {', '.join(readers)} are, and report folders")
    return [readers[path.suffix](path, credit)]


def _report(report: Report, kind: str | None, credit: str | None, variant: str) -> list[Run]:
    metrics = report.metrics
    kinds = list(metrics["scores"])
    if kind is not None and kind not in kinds:
        raise ValueError(f"the report of {metrics['model']} on {metrics['task']} has no score {kind!r}; it has "
                         f"{', '.join(kinds)}")  # fmt: skip
    names = metrics["credits"]
    if credit is not None and credit not in names:
        raise ValueError(f"task {metrics['task']} gives no credit {credit!r}; it gives {', '.join(names)}")
    at = names.index(credit) if credit else 0
    columns = [
        "item",
        "group",
        "pattern",
        "variant",
        "score_kind",
        "pictures",
        "answer",
        "prediction",
        "credits",
        "unscored",
    ]
    rows = report.rows.select(columns).to_pylist()
    found = []
    for each in kinds if kind is None else [kind]:
        mine = [row for row in rows if row["score_kind"] == each and row["variant"] == variant]
        if not mine:
            raise ValueError(f"the report of {metrics['model']} has no rows of variant {variant!r}; it has "
                             f"{', '.join(sorted({row['variant'] for row in rows}))}")  # fmt: skip
        items = {
            row["item"]: Outcome(
                None if row["unscored"] else float(row["credits"][at]),
                row["group"],
                row["pattern"] or "",
                tuple(row["pictures"] or ()),
                row["answer"] or "",
                row["prediction"],
                not row["unscored"] and row["prediction"] is None,
            )
            for row in mine
        }
        by = judged_by(metrics.get("judge")) if each == "generate" else ""
        found.append(Run(metrics["model"], metrics["task"], each, names[at], items, judge=by))
    return found


# ------------------------------------------------------------------------------------------------ files of others
def _lmms_eval(path: Path, credit: str | None) -> Run:
    """`..._samples_TASK.jsonl` of lmms-eval: one line a question, a key for each metric."""
    # by the ends of lines alone: what a model said may hold others, such as U+2028, which JSON leaves as they are
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    if not lines or any("doc_id" not in line for line in lines):
        raise ValueError(f"{path} has no doc_id in each line; lmms-eval writes it with --log_samples")
    lines, filtered = _first_filter(lines)
    known = {
        name: n for line in lines for name in line if name not in NOT_METRICS and (n := _number(line[name])) is not None
    }
    if not known or (credit is not None and credit not in known):
        raise ValueError(f"{path} has no metric {credit or 'with a number'!r}; it has {', '.join(known) or 'none'}")
    shown = [tuple(map(_picture, line.get("input_media") or ())) for line in lines]
    if len(set(shown)) == 1:  # a name that all documents hold tells no pictures apart
        shown = [()] * len(lines)
    items, used = {}, {}
    for line, pictures in zip(lines, shown, strict=True):
        # a benchmark of several parts (MME) gives each question the metric of its own part
        metric = credit or next((name for name in known if _number(line.get(name)) is not None), next(iter(known)))
        used[metric] = None
        told = line.get(metric)
        facts = told if isinstance(told, dict) else {}
        name, category = str(line["doc_id"]), str(facts.get("category") or "")
        group = name
        if "pair_index" in facts:
            group = str(facts["pair_index"])
        elif category and "question_id" in facts:  # POPE numbers the questions of each part anew, and tells no part
            group = f"{category} {facts['question_id']}"
        said = line.get("filtered_resps", line.get("resps"))
        while isinstance(said, list):
            said = said[0] if len(said) == 1 else None  # several: the losses of options, or of repeats
        items[name] = Outcome(_number(told), group, category, pictures, str(line.get("target", "")),
                              said if isinstance(said, str) else None, facts.get("pred_letter") == "")  # fmt: skip
    task = re.split(r"_?samples_", path.stem)[-1]
    note = "lmms-eval" + ("" if any(shown) else "; its files name no pictures") + filtered
    return Run(path.parent.name, task, "", ", ".join(used), items, note)


def _first_filter(lines: list[dict]) -> tuple[list[dict], str]:
    """The lines of a task's first filter, and a note of the others: each repeats all documents and doesn't tell its
    name."""
    seen: dict[str, dict] = {}
    for line in lines:
        seen.setdefault(str(line["doc_id"]), line)
    again = len(lines) - len(seen)
    return list(seen.values()), f"; {again} lines of other filters or runs are left out" if again else ""


def _picture(name: str) -> str:
    """A picture's name; one that stands in the line itself by its hash."""
    return hashlib.sha256(name.encode()).hexdigest()[:16] if name.startswith("data:") else name


def _vlmevalkit(path: Path, credit: str | None) -> Run:
    """A result file of VLMEvalKit: after an evaluation by its column hit or score, else by the strict parsers here."""
    if path.suffix == ".json":
        read = json.loads(path.read_text(encoding="utf-8"))
        rows = [dict(zip(read, values, strict=True)) for values in zip(*(column.values() if isinstance(column, dict)
                else column for column in read.values()), strict=True)] if isinstance(read, dict) else read  # fmt: skip
    elif path.suffix == ".xlsx":
        rows = sheets.rows(path)
    else:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ","))
    if not rows or "index" not in rows[0]:
        raise ValueError(f"{path} has no column index; a result file of VLMEvalKit has, beside answer and prediction")
    column = credit or next((name for name in HITS if name in rows[0]), None)
    if column is None and not {"answer", "prediction"} <= set(rows[0]):
        raise ValueError(f"{path} has neither hit nor score, nor answer and prediction; it has {', '.join(rows[0])}")
    if column is not None and column not in rows[0]:
        raise ValueError(f"{path} has no column {column!r}; it has {', '.join(rows[0])}")
    first = _first_of_pairs(path, rows) if "mmvp" in path.stem.lower() else None
    items = {}
    for row in rows:
        name, unparsed = str(row["index"]), False
        if column is not None:
            earned = _number(row[column])
        else:
            earned, unparsed = _judged(row)
        group = str(int(float(name) % 1e6)) if _is_number(name) else name
        if _is_number(row.get("g_index")):
            group = str(int(float(row["g_index"])))
        if first is not None:
            group = str((int(float(name)) - first) // 2)
        pictures = tuple(str(row[key]) for key in ("image_path",) if row.get(key))
        items[name] = Outcome(earned, group, str(row.get("category") or ""), pictures, str(row.get("answer", "")),
                              str(row.get("prediction", "")), unparsed)  # fmt: skip
    note = "VLMEvalKit" if column else "VLMEvalKit; replies parsed by omma's strict rules"
    model, task, judge = _named(path)
    if column == "hit" and CIRCULAR.search(task):  # one row a question; the other rotations are in the file before it
        return Run(model, task, "", IN_A_CIRCLE, items, f"{note}; a hit is a question right in every rotation", judge)
    return Run(model, task, "", column or "right", items, note, judge)


def _named(path: Path) -> tuple[str, str, str]:
    """(model, benchmark, judge) of a result file: MODEL_BENCHMARK, after an evaluation with _auxmatch, or with _JUDGE
    and _result.

    It lies in a folder MODEL, or in one of a run in there; elsewhere a model's name ends at the first "_".
    """
    stem = path.stem.removesuffix("_auxmatch")
    judge = JUDGED.search(stem.removesuffix("_result")) if stem.endswith("_result") else None
    stem = stem.removesuffix("_result")
    stem = stem[: judge.start()] if judge else stem
    folders = [folder.name for folder in path.absolute().parents]
    model = next((name for name in folders[:2] if name and stem.startswith(f"{name}_")), stem.partition("_")[0])
    by = judge[1] if judge and judge[1] != "exact_matching" else ""
    return model, stem.removeprefix(f"{model}_"), by


def _first_of_pairs(path: Path, rows: list[dict]) -> int:
    """The index of MMVP's first question, 0 or 1: which two are a pair must not hang on what rows a file still has."""
    held = {int(float(row["index"])) for row in rows if _is_number(row["index"])}
    if len(held) != len(rows):
        raise ValueError(f"{path}: index must be a number of its own for every row: it says which two are a pair")
    if 0 in held or 300 in held:
        return 0 if 0 in held else 1
    if held == set(range(1, len(held) + 1)):
        return 1
    raise ValueError(f"{path} lacks its first question and its last, so which two are a pair can't be told")


def _judged(row: dict) -> tuple[float, bool]:
    """(earned, unparsed) of a reply that no evaluation has judged yet."""
    answer, said = str(row["answer"]).strip(), str(row["prediction"])
    options = [str(row[letter]) for letter in choice.LETTERS if row.get(letter) not in (None, "")]
    if options and len(answer) == 1:
        found = choice.parse(said, options).value
    elif answer.lower() in ("yes", "no"):
        found, answer = pope.parse(said).value, answer.lower()
    else:
        return float(exact.right(said, answer)), exact.parse(said).value is None
    return float(found == answer), found is None


def _number(value: Any) -> float | None:
    """The number in 0..1 that a metric's entry holds: itself, or the one under its usual name."""
    if isinstance(value, dict):
        return next((n for name in SCORES if name in value and (n := _number(value[name])) is not None), None)
    if isinstance(value, str):
        value = TRUTH.get(value.strip().lower(), value)
    if not _is_number(value):
        return None
    number = float(value)
    return number if 0 <= number <= 1 else None


def _is_number(value: Any) -> bool:
    try:
        return float(value) == float(value)
    except (TypeError, ValueError):
        return False


def independent(items: dict[str, Outcome], names: Sequence[str]) -> dict[str, str]:
    """{item: the cluster it stands in}: items that share a picture, or a group, share a cluster."""
    links = [(*(f"picture {p}" for p in items[n].pictures), f"group {items[n].group}") for n in names]
    return dict(zip(names, joined(links), strict=True))


def summary(run: Run) -> dict[str, Any]:
    """What a run earned: earned (a share with its 95 % interval, which counts pictures and groups), whole_groups (of
    which every item is right, where groups have several items), patterns; items, unscored, unparsed."""
    scored = [name for name, outcome in run.items.items() if outcome.earned is not None]
    together = independent(run.items, scored)

    def share(names: Sequence[str]) -> dict[str, Any]:
        found = clustered([run.items[n].earned or 0.0 for n in names], [together[n] for n in names])
        return {key: found[key] for key in ("value", "low95", "high95", "n")}

    groups: dict[str, list[str]] = {}
    patterns: dict[str, list[str]] = {}
    for name in scored:
        groups.setdefault(run.items[name].group, []).append(name)
        if run.items[name].pattern:
            patterns.setdefault(run.items[name].pattern, []).append(name)
    whole = [all(run.items[n].earned == 1 for n in names) for names in groups.values()]
    return {
        "model": run.model,
        "task": run.name,
        "credit": run.credit,
        "items": len(run.items),
        "unscored": len(run.items) - len(scored),
        "unparsed": sum(outcome.unparsed for outcome in run.items.values()),
        "earned": share(scored),
        **({"whole_groups": {"value": sum(whole) / len(whole), "n": len(whole)}} if len(whole) < len(scored) else {}),
        "patterns": {name: share(names) for name, names in sorted(patterns.items())},
        "note": run.note,
    }
