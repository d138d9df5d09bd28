"""MME: two questions a picture, one to be answered with yes and one with no (Fu et al. 2023).

Released: a folder a subtask. In it lie pictures, each with a .txt of its name: two lines of a question, a tab, and Yes
or No; some subtasks keep the two in the folders images and questions_answers_YN. Also lmms-eval's Parquet: question_id
(the picture's, such as code_reasoning/0020.png), image, question, answer, category; and VLMEvalKit's .tsv, with
image_path.

None of the files themselves could be seen here. The folders and the lines of the .txt are as several public readers of
the release take them, and one quotes a file whole; the columns of the Parquet form are those that lmms-eval's code
names.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omma.data.benchmarks.files import YES_NO, Asked, Named, column, embedded, first, rows_of
from omma.data.benchmarks.tsv import rows_with_pictures
from omma.data.readers import PICTURE_SUFFIXES, read_text

SUBTASKS = ("existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR",
            "commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")  # fmt: skip
TEXTS = "questions_answers_YN"
PACKED = ("*.tsv", "*.parquet", "data/*.parquet")


def mme(asked: Asked) -> Iterator[dict[str, Any]]:
    """The pattern is the subtask, the group the picture; a picture without exactly two questions is counted."""
    questions: dict[str, list[str]] = {}
    for subtask, group, picture, prompt, answer in (
        _folders(asked) if asked.source.is_dir() and not _packed(asked) else _packed_rows(asked)
    ):
        if subtask not in SUBTASKS:
            asked.notes.note("questions are of no known subtask", f"{group}: {subtask}")
        told = questions.setdefault(group, [])
        told.append(answer)
        yield {
            "id": f"{group}/{len(told)}",
            "task": "mme",
            "pattern": subtask,
            "pictures": [picture],
            "prompt": prompt,
            "options": list(YES_NO),
            "answer": answer,
            "group": group,
        }
    for group, told in questions.items():
        if sorted(told) != ["no", "yes"]:
            asked.notes.note("pictures have not one question of yes and one of no", f"{group}: {', '.join(told)}")
    if lacking := [name for name in SUBTASKS if not any(group.startswith(f"{name}/") for group in questions)]:
        asked.notes.facts["subtasks_missing"] = lacking


def _packed(asked: Asked) -> bool:
    return any(found for pattern in PACKED for found in asked.source.glob(pattern))


def _packed_rows(asked: Asked) -> Iterator[tuple[str, str, Named, str, str]]:
    for path in asked.files(*PACKED):
        if path.suffix == ".tsv":
            for row, pictures in rows_with_pictures(path, asked.notes):
                subtask, group = str(column(row, path, "category")), str(column(row, path, "image_path", "index"))
                group = group if group.startswith(f"{subtask}/") else f"{subtask}/{group}"
                yield subtask, group, first(pictures), str(column(row, path, "question")), _yes_no(row, path)
            continue
        asked.notes.file(path)
        for row in rows_of(path):
            subtask, name = str(column(row, path, "category")), str(column(row, path, "question_id"))
            group = name if name.startswith(f"{subtask}/") else f"{subtask}/{name}"
            picture = embedded(row.get("image"), group)
            yield subtask, group, picture, str(column(row, path, "question")), _yes_no(row, path)


def _yes_no(row: dict[str, Any], path: Path) -> str:
    return str(column(row, path, "answer")).strip().strip(".").lower()


def _folders(asked: Asked) -> Iterator[tuple[str, str, Named, str, str]]:
    asked.images = asked.source
    found = 0
    for place in sorted(e for e in asked.source.iterdir() if e.is_dir() and e.name != "eval_tool"):
        texts = sorted((place / TEXTS if (place / TEXTS).is_dir() else place).glob("*.txt"))
        folder = place / "images" if (place / "images").is_dir() else place
        pictures = {path.stem: path for path in sorted(folder.iterdir()) if path.suffix[1:].lower() in PICTURE_SUFFIXES}
        for stem in sorted(pictures.keys() - {path.stem for path in texts}):
            asked.notes.note("pictures have no questions", f"{place.name}/{stem}")
        for path in texts:
            found += 1
            picture = pictures.get(path.stem)
            name = f"{place.name}/{path.stem}" if picture is None else picture.relative_to(asked.source).as_posix()
            for number, line in enumerate(_lines(path), 1):
                question, tab, answer = line.rpartition("\t")
                if not tab:
                    asked.notes.note("lines are no question, tab and answer", f"{place.name}/{path.name}:{number}")
                    continue
                yield place.name, f"{place.name}/{path.stem}", name, question.strip(), answer.strip().lower()
    if not found:
        raise ValueError(f"no .txt with questions in the folders of {asked.source}; MME has a folder a subtask with a "
                         ".txt beside each picture")  # fmt: skip


def _lines(path: Path) -> list[str]:
    text = read_text(path.read_bytes(), most=None)
    if text is None:
        raise ValueError(f"{path} is neither UTF-8 nor UTF-16 with a byte order mark; save it as UTF-8")
    return [line for line in text.splitlines() if line.strip()]
