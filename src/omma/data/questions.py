"""Questions and sentences about pictures, from the files of the corpora -> a folder with the tables pictures and items.

    ingest_items("v2_OpenEnded_mscoco_val2014_questions.json", "tables/vqa", images="val2014",
                 answers="v2_mscoco_val2014_annotations.json")
    ingest_items("nlvr2/dev.json", "tables/nlvr2", images="nlvr2/images")
    ingest_items("mine.jsonl", "tables/mine", images="photos")

A line of one's own: {"image": "a.jpg", "question": "what is it", "answer": "a cup"}, or with "images": ["a.jpg",
"b.jpg"], "sentence" and "label"; further keys are id, group, pattern, split, and "answers" of several people.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from omma.data.benchmarks.files import Asked, by_name, json_list
from omma.data.benchmarks.formats import BENCHMARKS
from omma.data.benchmarks.write import ANSWERS, one_of, write
from omma.data.ingest import ingest
from omma.storage import appearing
from omma.table import Table, some

TRUTH = {"true": "true", "false": "false", "1": "true", "0": "false"}


def ingest_items(source: str | Path, out: str | Path, *, images: str | Path | None = None,
                 answers: str | Path | None = None, format: str | None = None, labels: str | None = None,
                 frames: int = 8, split: str = "train", part: str | None = None, store: str = "bytes", workers: int = 1,
                 progress: bool = False) -> tuple[Table, Table]:  # fmt: skip
    """Reads questions about pictures and returns the tables out/pictures and out/items.

    source: VQA's questions .json (answers: its annotations .json), NLVR2's .json of one example a line, or a .jsonl of
    one's own; with format one of `omma.data.benchmarks.formats.BENCHMARKS`, a file or folder as that benchmark is
    released. format: "vqa", "nlvr2" or "jsonl", if it is not to be recognised, or a benchmark. images: the folder of
    the pictures; all of them become rows of the table, of a benchmark those that are asked about. labels: which set of
    a benchmark that has several (mmvp). frames: pictures taken of a video. split: what that column says unless a line
    says otherwise; part: of a benchmark, the rows of this split alone. store: as in `ingest`.
    A question whose picture is not there keeps its row; the table's info["ingest_items"] counts them, and what else did
    not fit: ids that came before, answers that are none of the options, files of another version by their hash. Raises
    ValueError when there is nothing to read, a line that can't be read (by its number), or something at out.
    """
    source, out, images = Path(source), Path(out), None if images is None else Path(images)
    if format is not None and format not in FORMATS and format not in BENCHMARKS:
        raise ValueError(f"format={format!r}; there are {', '.join((*FORMATS, *BENCHMARKS))}")
    if format in BENCHMARKS:
        if not source.exists():
            raise ValueError(f"there is nothing at {source}; give the folder or file of {format} as it was downloaded")
        if frames < 1:
            raise ValueError(f"frames={frames}; a video gives 1 or more")
        asked = Asked(source, images, None if answers is None else Path(answers), labels, frames)
        with appearing(out) as made:
            write(BENCHMARKS[format](asked), made, asked, format=format, split=split, part=part, store=store,
                  workers=workers, progress=progress)  # fmt: skip
        return Table.open(out / "pictures"), Table.open(out / "items")
    for name, value in (("labels", labels), ("part", part)):
        if value is not None:
            raise ValueError(f"{name}={value!r} is for a benchmark, format one of {', '.join(BENCHMARKS)}")
    if not source.is_file():
        raise ValueError(f"there is no file at {source}; give the file of questions")
    if images is None or not images.is_dir():
        raise ValueError(f"there is no folder at {images}; images=FOLDER holds the pictures that {source.name} names")
    data = json_list(source)
    chosen = format or recognise(data, source)
    rows = list(FORMATS[chosen](data, source, None if answers is None else Path(answers)))
    if not rows:
        raise ValueError(f"{source} holds no questions")
    with appearing(out) as made:
        pictures = ingest(images, made / "pictures", format="folder", split=split, store=store, workers=workers,
                          progress=progress)  # fmt: skip
        known = by_name(pictures.read(["id"])["id"].to_pylist())
        lost: list[str] = []
        for row in rows:
            found = [one_of(known.get(name) or known.get(Path(name).stem), name, source) for name in row["pictures"]]
            lost += [name for name, there in zip(row["pictures"], found, strict=True) if there is None]
            row["pictures"] = [there or name for name, there in zip(row["pictures"], found, strict=True)]
            row["split"] = row.get("split") or split
        if len(lost) == sum(len(row["pictures"]) for row in rows):
            raise ValueError(f"none of the pictures that {source} names is in {images}: {some(sorted(set(lost)))}")
        items = Table.create(made / "items", "items", extra=pa.schema([ANSWERS]))
        note = {"source": str(source), "format": chosen, "rows": len(rows), "pictures_missing": len(set(lost))}
        items.append(rows, info={"ingest_items": note})
    return Table.open(out / "pictures"), Table.open(out / "items")


def recognise(data: list[Any], source: Path) -> str:
    first = data[0] if data and isinstance(data[0], dict) else {}
    if "questions" in first:
        return "vqa"
    if {"identifier", "sentence"} <= first.keys():
        return "nlvr2"
    if {"image", "images"} & first.keys():
        return "jsonl"
    keys = ", ".join(list(first)[:8]) or "nothing"
    raise ValueError(f"{source} is no VQA questions file, no NLVR2 file and no .jsonl with image or images; "
                     f"its first object has {keys}")  # fmt: skip


def entry_of(entry: Any, source: Path, number: int, **kinds: Any) -> dict[str, Any]:
    """The entry, when it is an object whose keys hold what they should. ValueError tells its number and what it is."""
    if not isinstance(entry, dict):
        raise ValueError(f"{source}, entry {number} is no object: {str(entry)[:80]}")
    for key, kind in kinds.items():
        if not isinstance(entry.get(key), kind):
            wanted = "text" if kind is str else "a list" if kind is list else "text or a number"
            raise ValueError(f"{source}, entry {number}: {key!r} must be {wanted}: {str(entry)[:80]}")
    return entry


# ---- the formats


def vqa(data: list[Any], source: Path, answers: Path | None) -> Iterator[dict[str, Any]]:
    """VQA (Antol et al. 2015; v2, Goyal et al. 2017): pictures are COCO's, ten people answered each question."""
    asked = entry_of(data[0], source, 1, questions=list)["questions"]
    asked = [entry_of(entry, source, number, question_id=str | int, image_id=str | int, question=str)
             for number, entry in enumerate(asked, 1)]  # fmt: skip
    part = data[0].get("data_subtype") or ""
    told: dict[Any, dict] = {}
    if answers is not None:
        whole = entry_of(next(iter(json_list(answers)), None), answers, 1, annotations=list)
        told = {entry_of(entry, answers, number, question_id=str | int)["question_id"]: entry
                for number, entry in enumerate(whole["annotations"], 1)}  # fmt: skip
        if not told.keys() & {entry["question_id"] for entry in asked}:
            raise ValueError(f"no question of {source} is answered in {answers}; take the annotations of this split")
    for entry in asked:
        answer = told.get(entry["question_id"], {})
        image = str(entry["image_id"])
        yield {
            "id": str(entry["question_id"]),
            "task": "question",
            "pattern": answer.get("answer_type"),
            "pictures": [f"COCO_{part}_{image.zfill(12)}" if part and image.isdigit() else image],
            "prompt": entry["question"],
            "answer": answer.get("multiple_choice_answer"),
            "answers": [str(a["answer"]) for a in answer.get("answers") or () if isinstance(a, dict) and "answer" in a],
            "group": image,
        }


def nlvr2(data: list[Any], source: Path, answers: Path | None) -> Iterator[dict[str, Any]]:
    """NLVR2 (Suhr et al. 2019): identifier split-set-pair-sentence; a sentence stands with several pairs of its set."""
    for number, entry in enumerate(data, 1):
        parts = entry_of(entry, source, number, identifier=str, sentence=str)["identifier"].split("-")
        if len(parts) != 4:
            raise ValueError(f"{source}, line {number}: the identifier {entry['identifier']!r} is not "
                             "split-set-pair-sentence")  # fmt: skip
        stem = "-".join(parts[:3])
        yield {
            "id": entry["identifier"],
            "task": "comparison",
            "pattern": entry.get("pattern"),
            "pictures": [f"{stem}-img0", f"{stem}-img1"],
            "prompt": entry["sentence"],
            "options": ["true", "false"],
            "answer": TRUTH.get(str(entry.get("label")).lower()),
            "group": f"{parts[0]}-{parts[1]}-{parts[3]}",
        }


def own(data: list[Any], source: Path, answers: Path | None) -> Iterator[dict[str, Any]]:
    """One's own lines, see the head of this file."""
    for number, entry in enumerate(data, 1):
        names = entry_of(entry, source, number).get("images") or ([entry["image"]] if entry.get("image") else [])
        prompt = next((entry[key] for key in ("question", "sentence", "prompt") if entry.get(key)), None)
        for key, value, kind in (("images", names, list), ("question", prompt or "", str),
                                 ("answers", entry.get("answers") or [], list)):  # fmt: skip
            entry_of({key: value}, source, number, **{key: kind})
        if not names or not prompt:
            raise ValueError(f"{source}, line {number} has no {'question' if names else 'image'}: {str(entry)[:80]}")
        several = [str(answer) for answer in entry.get("answers") or ()]
        judged = "label" in entry
        answer = TRUTH.get(str(entry["label"]).lower()) if judged else entry.get("answer")
        default = "statement" if judged and len(names) == 1 else "comparison" if judged else "question"
        yield {
            "id": str(entry.get("id", f"{number:06d}")),
            "task": entry.get("task", default),
            "pattern": entry.get("pattern"),
            "pictures": [str(name) for name in names],
            "prompt": prompt,
            "answer": None if answer is None else str(answer),
            "answers": several,
            "group": entry.get("group"),
            "split": entry.get("split"),
        }


FORMATS: dict[str, Callable[[list[Any], Path, Path | None], Iterator[dict[str, Any]]]] = {
    "vqa": vqa, "nlvr2": nlvr2, "jsonl": own,
}  # fmt: skip
