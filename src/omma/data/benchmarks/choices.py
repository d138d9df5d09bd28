"""Multiple choice: MMBench (Liu et al. 2023), MMMU (Yue et al. 2024), SEED-Bench (Li et al. 2023), MathVista (Lu et al.
2024), and any .tsv that VLMEvalKit keeps ("choice").

Options stand in one column a letter (A, B, ... of MMBench and all .tsv; choice_a, ... of SEED-Bench) or in one column
(options of MMMU, a list in Python's writing; choices of MathVista and ScienceQA, a list). The answer is a letter, the
option itself (MathVista), or its number from 0 (ScienceQA). MMMU has up to seven pictures, image_1 to image_7, of which
the question says "<image 1>"; MathVista's is decoded_image, SEED-Bench's a list of images, or the file data_id beside
SEED-Bench.json. A row of MMBench whose index is 1,000,000 more than another's asks the same with the options moved on
(its circular evaluation): both have the same group. Questions without options are free, as a part of MMMU's and
MathVista's are; MMMU's answer may then be a list in Python's writing, of which any is right.

SEED-Bench.json itself could not be seen here: its keys (questions, question_type, and of a question data_id, data_type,
question_type_id, segment, choice_a to choice_d, answer) are those that its authors describe. A question whose data_type
is "video" names a video as data_id, and mostly a part of it as segment, in seconds (type 11) or in frames at 15 a
second (type 12). Videos are looked for in the folder videos beside the file, else among the pictures; one that isn't
there is counted as a video.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omma.data.benchmarks.files import (
    Asked,
    Named,
    chosen,
    column,
    embedded,
    json_list,
    lettered,
    nested,
    rows_of,
    text_of,
)
from omma.data.benchmarks.frames import Part, Videos
from omma.data.benchmarks.tsv import listed, rows_with_pictures

IDS = ("index", "id", "pid", "question_id")
BREAKFAST_RATE = 15  # frames a second, in which segments of the Breakfast videos are told
CIRCLE = 1_000_000  # what an index grows by with each move of the options
SUBJECT = re.compile(r"(dev|validation|test)_(.+)_\d+")
FILES = ("*.tsv", "*.parquet", "data/*.parquet", "*/*.parquet", "*.json", "*.jsonl")
KEPT = ("hint", "split", "l2-category", "L2-category", "question_type", "answer_type", "precision", "unit", "source",
        "explanation", "topic_difficulty", "img_type", "data_type", "comment", "skills", "grade", "query")  # fmt: skip


def mmbench(asked: Asked) -> Iterator[dict[str, Any]]:
    return _read(asked, "mmbench", circular=True)


def mmmu(asked: Asked) -> Iterator[dict[str, Any]]:
    """The pattern is the subject, from the id (validation_Accounting_1) or the column category."""
    return _read(asked, "mmmu")


def seedbench(asked: Asked) -> Iterator[dict[str, Any]]:
    return _read(asked, "seedbench")


def mathvista(asked: Asked) -> Iterator[dict[str, Any]]:
    return _read(asked, "mathvista")


def choice(asked: Asked) -> Iterator[dict[str, Any]]:
    """Rows with the columns g_index or an index beyond a million are taken for moved options."""
    return _read(asked, "choice", circular=True)


def _read(asked: Asked, task: str, circular: bool = False) -> Iterator[dict[str, Any]]:
    for path in asked.files(*FILES):
        for number, (row, pictures) in enumerate(_rows(path, asked)):
            name = text_of(next((row[key] for key in IDS if key in row), number))
            assert name is not None
            options = _options(row)
            if asked.images is None and any(isinstance(picture, str) for picture in pictures):
                asked.images = path.parent
            letter, answer = _answer(row, options)
            several = listed(answer) if answer and not options and task == "mmmu" else []
            group, rotation = name, None
            if circular and options:
                base = text_of(row.get("g_index")) or (str(int(name) % CIRCLE) if name.isdigit() else name)
                group, rotation = base, int(name) // CIRCLE if name.isdigit() else None
            subject = SUBJECT.fullmatch(name)
            metadata = nested(row, "metadata")
            pattern = next((text_of(row[key]) for key in ("category", "subfield", "question_type_id") if text_of(
                row.get(key))), None)  # fmt: skip
            split = text_of(row.get("split")) or (subject[1] if subject else None)
            yield {key.lower().replace("-", "_"): text_of(row.get(key)) for key in KEPT if key in row} | {
                "id": name,
                "task": task,
                "pattern": subject[2] if subject and task == "mmmu" else text_of(metadata.get("task")) or pattern,
                "pictures": pictures,
                "prompt": str(column(row, path, "question")),
                "options": options or None,
                "answer": several[0] if several else answer,
                "answers": several if len(several) > 1 else None,
                "group": group,
                "split": split,
                "letter": letter,
                "rotation": rotation,
            }


def _rows(path: Path, asked: Asked) -> Iterator[tuple[dict[str, Any], list[Named]]]:
    if path.suffix == ".tsv":
        yield from rows_with_pictures(path, asked.notes)
        return
    asked.notes.file(path)
    rows = rows_of(path)
    if path.suffix == ".json":  # SEED-Bench.json, {"questions": [...]}; MathVista's {pid: {...}}
        whole = json_list(path)
        if len(whole) == 1 and isinstance(whole[0], dict):
            kinds = {number: name for name, number in (whole[0].get("question_type") or {}).items()}
            entries = whole[0].get("questions", list(whole[0].values()))
            rows = iter(row | ({"category": kinds[row["question_type_id"]]} if row.get("question_type_id") in kinds else
                               {}) for row in entries if isinstance(row, dict))  # fmt: skip
    videos = None
    for number, row in enumerate(rows):
        if row.get("data_type") == "video" and isinstance(row.get("data_id"), str) and not row.get("image"):
            videos = videos or Videos(asked, _video_folder(asked))
            yield row, videos.pictures(row["data_id"], _segment(row))
            continue
        yield row, _pictures(row, text_of(next((row[key] for key in IDS if key in row), number)))


def _video_folder(asked: Asked) -> Path:
    base = asked.source if asked.source.is_dir() else asked.source.parent
    return next((base / name for name in ("videos", "video") if (base / name).is_dir()), asked.images or base)


def _segment(row: dict[str, Any]) -> Part | None:
    """The part of a video that a question of SEED-Bench is about, in seconds."""
    if not row.get("segment"):
        return None
    begin, end = (float(value) for value in row["segment"])
    rate = BREAKFAST_RATE if str(row.get("question_type_id")) == "12" else 1
    return begin / rate, end / rate


def _pictures(row: dict[str, Any], name: str | None) -> list[Named]:
    if any(key in row for key in ("image_1", "image_2")):  # MMMU: those that are there, in order
        cells = [(f"{name}-{n}", row.get(f"image_{n}")) for n in range(1, 8)]
        return [embedded(cell, label) for label, cell in cells if cell is not None]
    cell = next((row[key] for key in ("decoded_image", "image", "data_id") if row.get(key) is not None), None)
    if isinstance(cell, list):
        return [embedded(one, name if len(cell) == 1 else f"{name}-{n}") for n, one in enumerate(cell, 1)]
    return [] if cell is None else [embedded(cell, name)]


def _options(row: dict[str, Any]) -> list[str]:
    for key in ("options", "choices"):
        if key in row:
            found = row[key]
            return listed(found.strip()) if isinstance(found, str) else [str(one) for one in found or ()]
    if "choice_a" in row:
        return lettered({key[-1]: value for key, value in row.items() if re.fullmatch(r"choice_[a-z]", key)}, "a")
    return lettered(row)


def _answer(row: dict[str, Any], options: list[str]) -> tuple[str | None, str | None]:
    """(letter, text) of what is right; a letter without an option stays as it is, to be counted."""
    answer = row.get("answer")
    if isinstance(answer, int) and not isinstance(answer, bool) and options and "answer_type" not in row:
        return None, options[answer] if 0 <= answer < len(options) else str(answer)
    said = text_of(row.get("answer_option")) if options and text_of(row.get("answer_option")) else text_of(answer)
    if said is None or not options or said in options:
        return None, said
    option = chosen(said, options)
    return (said.strip("(). ").upper(), option) if option is not None else (None, said)
