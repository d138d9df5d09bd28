"""Questions with a short answer: TextVQA (Singh et al. 2019), GQA (Hudson and Manning 2019), DocVQA and InfographicVQA
(Mathew et al. 2021, 2022), ChartQA (Masry et al. 2022).

TextVQA: TextVQA_0.5.1_val.json, {"data": [{question_id, image_id, question, answers}]}, beside train_images. GQA:
testdev_balanced_questions.json, {id: {imageId, question, answer, types}}, beside images; or lmms-eval's two Parquet
folders, <part>_instructions and <part>_images, joined by imageId. DocVQA: val_v1.0.json, {"data": [{questionId,
question, image, docId, answers, question_types}]}; InfographicVQA the same with image_local_name. ChartQA: the lists
test_human.json and test_augmented.json, [{imgname, query, label}], beside png. All also as lmms-eval's Parquet with the
picture in the column image, and as VLMEvalKit's .tsv, where an answer may be a list in Python's writing. The keys of
the .json files of GQA, DocVQA and TextVQA are those of the Parquet forms; the files themselves could not be seen here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omma.data.benchmarks.files import (
    Asked,
    Named,
    column,
    embedded,
    json_list,
    nested,
    parquet_rows,
    rows_of,
    text_of,
)
from omma.data.benchmarks.tsv import listed, rows_with_pictures

FOLDERS = ("images", "png", "documents", "train_images", "test_images", "infographicsVQA_val_v1.0_images")
FILES = ("*.tsv", "*.json", "*.parquet", "data/*.parquet")
Row = dict[str, Any]


def textvqa(asked: Asked) -> Iterator[Row]:
    """Ten people's answers stand in answers."""
    for path, row, pictures in _rows(asked, "image_id"):
        answers = _several(row, "answers", "answer")
        yield _question("textvqa", row, path, pictures) | {"answers": answers, "split": text_of(row.get("set_name"))}


def docvqa(asked: Asked) -> Iterator[Row]:
    return _documents(asked, "docvqa")


def infovqa(asked: Asked) -> Iterator[Row]:
    return _documents(asked, "infovqa")


def _documents(asked: Asked, task: str) -> Iterator[Row]:
    for path, row, pictures in _rows(asked, "image_local_name", "image", "docId"):
        kinds = row.get("question_types", row.get("answer_type"))
        document = text_of(row.get("ucsf_document_id")) or text_of(row.get("image_url"))
        kind = None if kinds is None or not len(kinds) else str(kinds if isinstance(kinds, str) else kinds[0])
        yield _question(task, row, path, pictures) | {
            "pattern": kind,
            "answers": _several(row, "answers", "answer"),
            "split": text_of(row.get("data_split")),
            "document": document,
        }


def chartqa(asked: Asked) -> Iterator[Row]:
    """The pattern is human or augmented, from the column type, split or the file's name."""
    for path, row, pictures in _rows(asked, "imgname"):
        said = text_of(row.get("type")) or text_of(row.get("split")) or path.stem
        kind = next((word for word in ("human", "augmented") if word in said), None)
        if kind is None:
            asked.notes.note("questions are neither human nor augmented", said)
        answer = row.get("label", row.get("answer"))
        answer = answer[0] if isinstance(answer, list) and len(answer) == 1 else answer
        yield _question("chartqa", row, path, pictures) | {"pattern": kind, "answer": text_of(answer)}


def gqa(asked: Asked) -> Iterator[Row]:
    """The pattern is the structural type (query, verify, ...), the group the picture."""
    if asked.source.is_dir() and (found := sorted(asked.source.glob("*_instructions"))):
        if len(found) > 1:
            raise ValueError(f"{asked.source} has {len(found)} parts, {', '.join(path.name for path in found)}; keep "
                             "one and its images, such as testdev_balanced_instructions")  # fmt: skip
        beside = found[0].with_name(found[0].name.replace("instructions", "images"))
        rows = (row for path in sorted(beside.glob("*.parquet")) for row in parquet_rows(path))
        images = {str(row["id"]): embedded(row["image"], row["id"]) for row in rows}
        for path in sorted(found[0].glob("*.parquet")):
            asked.notes.file(path)
            for row in parquet_rows(path):
                name = str(column(row, path, "imageId"))
                if name not in images:
                    asked.notes.note("questions are about a picture that is in no file", name)
                yield _gqa(row, path, [images.get(name)])
        return
    for path, row, pictures in _rows(asked, "imageId"):
        yield _gqa(row, path, pictures)


def _gqa(row: Row, path: Path, pictures: list[Named]) -> Row:
    types = nested(row, "types")
    return _question("gqa", row, path, pictures) | {
        "pattern": text_of(types.get("structural")) or text_of(row.get("category")),
        "semantic": text_of(types.get("semantic")),
        "detailed": text_of(types.get("detailed")),
        "full_answer": text_of(row.get("fullAnswer")),
    }


def _question(task: str, row: Row, path: Path, pictures: list[Named]) -> Row:
    names = [picture if isinstance(picture, str) or picture is None else picture.name for picture in pictures]
    return {
        "id": str(column(row, path, "question_id", "questionId", "id", "index", "number")),
        "task": task,
        "pattern": None,
        "pictures": pictures,
        "prompt": str(column(row, path, "question", "query")),
        "answer": text_of(row.get("answer")) if not isinstance(row.get("answer"), list) else None,
        "group": names[0] if names else None,
    }


def _several(row: Row, *names: str) -> list[str]:
    value = next((row[name] for name in names if row.get(name) is not None), None)
    if isinstance(value, str):
        return listed(value)
    return [str(one["answer"] if isinstance(one, dict) else one) for one in value] if value is not None else []


def _rows(asked: Asked, *names: str) -> Iterator[tuple[Path, Row, list[Named]]]:
    """Every row of the source's files with its pictures. names: columns that name one where the file holds none."""
    for path in asked.files(*FILES):
        if path.suffix == ".tsv":
            yield from ((path, row, pictures) for row, pictures in rows_with_pictures(path, asked.notes))
            continue
        asked.notes.file(path)
        for number, row in enumerate(_json_rows(path) if path.suffix == ".json" else rows_of(path)):
            cell = row.get("image")
            if isinstance(cell, dict | bytes):
                label = next((text_of(row[name]) for name in names if name != "image" and text_of(row.get(name))), None)
                named: Named = embedded(cell, label or text_of(cell.get("path") if isinstance(cell, dict) else None))
            else:
                if asked.images is None:
                    asked.look_in(*FOLDERS)
                named = str(column(row, path, *names)).removeprefix("documents/")
            yield path, {"number": f"{path.stem}-{number}"} | row, [named]


def _json_rows(path: Path) -> Iterator[Row]:
    """The rows of {"data": [...]}, of a list, or of {id: {...}}."""
    whole = json_list(path)
    if len(whole) == 1 and isinstance(whole[0], dict):
        if isinstance(whole[0].get("data"), list):
            whole = whole[0]["data"]
        elif all(isinstance(row, dict) for row in whole[0].values()):
            whole = [{"id": name} | row for name, row in whole[0].items()]
    for number, row in enumerate(whole, 1):
        if not isinstance(row, dict):
            raise ValueError(f"{path}, entry {number} is no object: {str(row)[:80]}")
        yield row
