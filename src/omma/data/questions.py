"""Questions and sentences about pictures, from the files of the corpora -> a folder with the tables pictures and items.

    ingest_items("v2_OpenEnded_mscoco_val2014_questions.json", "tables/vqa", images="val2014",
                 answers="v2_mscoco_val2014_annotations.json")
    ingest_items("nlvr2/dev.json", "tables/nlvr2", images="nlvr2/images")
    ingest_items("mine.jsonl", "tables/mine", images="photos")

A line of one's own: {"image": "a.jpg", "question": "what is it", "answer": "a cup"}, or with "images": ["a.jpg",
"b.jpg"], "sentence" and "label"; further keys are id, group, pattern, split, and "answers" of several people.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from os.path import splitext
from pathlib import Path
from typing import Any

import pyarrow as pa

from omma.data.ingest import ingest
from omma.data.readers import read_text
from omma.storage import appearing
from omma.table import Table, some

ANSWERS = pa.schema([("answers", pa.list_(pa.string()))])
TRUTH = {"true": "true", "false": "false", "1": "true", "0": "false"}


def ingest_items(source: str | Path, out: str | Path, *, images: str | Path, answers: str | Path | None = None,
                 format: str | None = None, split: str = "train", store: str = "bytes", workers: int = 1,
                 progress: bool = False) -> tuple[Table, Table]:
    """Reads questions about pictures and returns the tables out/pictures and out/items.

    source: VQA's questions .json (answers: its annotations .json), NLVR2's .json of one example a line, or a .jsonl of
    one's own. format: "vqa", "nlvr2" or "jsonl", if it is not to be recognised. images: the folder of the pictures; all
    of them become rows of the table. split: what that column says unless a line says otherwise. store: as in `ingest`.
    A question whose picture is not there keeps its row; the table's info counts them. Raises ValueError when there is
    nothing to read, a line that can't be read (by its number), or something at out.
    """
    source, out, images = Path(source), Path(out), Path(images)
    if not source.is_file():
        raise ValueError(f"there is no file at {source}; give the file of questions")
    if not images.is_dir():
        raise ValueError(f"there is no folder at {images}; images=FOLDER holds the pictures that {source.name} names")
    if format is not None and format not in FORMATS:
        raise ValueError(f"format={format!r}; there are {', '.join(FORMATS)}")
    data = lines(source)
    chosen = format or recognise(data, source)
    rows = list(FORMATS[chosen](data, source, None if answers is None else Path(answers)))
    if not rows:
        raise ValueError(f"{source} holds no questions")
    with appearing(out) as part:
        pictures = ingest(images, part / "pictures", format="folder", split=split, store=store, workers=workers,
                          progress=progress)  # fmt: skip
        known = by_name(pictures)
        lost: list[str] = []
        for row in rows:
            found = [one_of(known.get(name) or known.get(Path(name).stem), name, source) for name in row["pictures"]]
            lost += [name for name, there in zip(row["pictures"], found, strict=True) if there is None]
            row["pictures"] = [there or name for name, there in zip(row["pictures"], found, strict=True)]
            row["split"] = row.get("split") or split
        if len(lost) == sum(len(row["pictures"]) for row in rows):
            raise ValueError(f"none of the pictures that {source} names is in {images}: {some(sorted(set(lost)))}")
        items = Table.create(part / "items", "items", extra=ANSWERS)
        note = {"source": str(source), "format": chosen, "rows": len(rows), "pictures_missing": len(set(lost))}
        items.append(rows, info={"ingest_items": note})
    return Table.open(out / "pictures"), Table.open(out / "items")


def lines(path: Path) -> list[Any]:
    """The JSON of a file: its one object, or the list it is, or one object a line. ValueError names the line."""
    text = read_text(path.read_bytes(), most=None)
    if text is None:
        raise ValueError(f"{path} is neither UTF-8 nor UTF-16 with a byte order mark; save it as UTF-8")
    try:
        whole = json.loads(text)
        return whole if isinstance(whole, list) else [whole]
    except json.JSONDecodeError:
        pass
    found = []
    for number, line in enumerate(text.split("\n"), 1):  # JSON may hold other ends of lines
        if line.strip():
            try:
                found.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}, line {number} is no JSON ({error.msg}): {line[:80]!r}") from None
    return found


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


def by_name(pictures: Table) -> dict[str, list[str]]:
    """Path -> the id; where no path is such, path without suffix -> ids; and else file name, with or without it."""
    paths: dict[str, list[str]] = {}
    bare: dict[str, list[str]] = {}
    names: dict[str, list[str]] = {}
    for record in pictures.scan(["id"]):
        for id_ in record["id"].to_pylist():
            path, name = splitext(id_)[0], Path(id_).name
            paths[id_] = [id_]
            bare.setdefault(path, []).append(id_)
            for each in {name, splitext(name)[0]}:
                names.setdefault(each, []).append(id_)
    return names | bare | paths


def one_of(found: list[str] | None, name: str, source: Path) -> str | None:
    if found and len(found) > 1:
        raise ValueError(f"{source} asks about {name}, and {len(found)} pictures are called so: {some(sorted(found))}. "
                         "Name it by its path in the folder of pictures")  # fmt: skip
    return found[0] if found else None


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
        whole = entry_of(next(iter(lines(answers)), None), answers, 1, annotations=list)
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
