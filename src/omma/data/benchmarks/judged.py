"""Answers in sentences, which a judge rates: MM-Vet (Yu et al. 2023) and LLaVA-Bench in the wild (Liu et al. 2023).

MM-Vet: mm-vet.json, {"v1_0": {imagename, question, answer, capability, imagesource}}, beside images; lmms-eval's
Parquet (question_id, image, question, answer, capability, image_source); VLMEvalKit's .tsv, with category. In an answer
<AND> joins what all must be there, <OR> what any of may. LLaVA-Bench: questions.jsonl (question_id, image, text,
category), context.jsonl (image, caption), answers_gpt4.jsonl (question_id, text), beside images; lmms-eval's Parquet
(question_id, image, question, category, caption, gpt_answer); VLMEvalKit's .tsv (caption, gpt4_ans). mm-vet.json could
not be seen here; its keys are those that code which reads it names.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from omma.data.benchmarks.files import Asked, Named, column, embedded, first, json_list, rows_of, text_of
from omma.data.benchmarks.tsv import rows_with_pictures

PACKED = ("*.tsv", "*.parquet", "data/*.parquet")


def mm_vet(asked: Asked) -> Iterator[dict[str, Any]]:
    """The pattern is the capabilities that a question needs, in one order: "gen know rec"."""
    for path in asked.files("mm-vet.json", *PACKED):
        if path.suffix == ".json":
            asked.notes.file(path)
            asked.look_in("images")
            whole = json_list(path)
            rows = (({"question_id": name} | entry, str(column(entry, path, "imagename")))
                    for name, entry in (whole[0].items() if whole and isinstance(whole[0], dict) else ())
                    if isinstance(entry, dict))  # fmt: skip
        else:
            rows = _packed(path, asked)
        for row, picture in rows:
            said = column(row, path, "capability", "category")
            names = said if isinstance(said, list) else str(said).replace(",", " ").split()
            yield _asked("mm-vet", row, path, picture) | {
                "pattern": " ".join(sorted(map(str, names))),
                "answer": text_of(row.get("answer")),
            }


def llava_bench(asked: Asked) -> Iterator[dict[str, Any]]:
    """answer: the reference that a judge compares with; context: what is in the picture, in words, for the judge.
    The pattern is conv, detail or complex."""
    base = asked.source if asked.source.is_dir() else asked.source.parent
    released = base / "questions.jsonl" if asked.source.is_dir() else asked.source
    if released.suffix == ".jsonl" and released.is_file():
        beside = {name: base / f"{name}.jsonl" for name in ("context", "answers_gpt4")}
        for path in (released, *beside.values()):
            if not path.is_file():
                raise ValueError(
                    f"no {path.name} beside {released}; LLaVA-Bench has questions, context and answers_gpt4"
                )
            asked.notes.file(path)
        asked.look_in("images")
        context = {str(row.get("image")): _text(row.get("caption")) for row in rows_of(beside["context"])}
        answers = {str(row.get("question_id")): text_of(row.get("text")) for row in rows_of(beside["answers_gpt4"])}
        for row in rows_of(released):
            name, number = str(column(row, released, "image")), str(column(row, released, "question_id"))
            if name not in context:
                asked.notes.note("pictures have no context", name)
            yield _asked("llava-bench", row, released, name) | {
                "pattern": text_of(row.get("category")),
                "answer": answers.get(number),
                "context": context.get(name),
            }
        return
    for path in asked.files(*PACKED):
        for row, picture in _packed(path, asked):
            yield _asked("llava-bench", row, path, picture) | {
                "pattern": text_of(row.get("category")),
                "answer": text_of(column(row, path, "gpt_answer", "gpt4_ans")),
                "context": _text(row.get("caption")),
            }


def _packed(path: Any, asked: Asked) -> Iterator[tuple[dict[str, Any], Named]]:
    if path.suffix == ".tsv":
        yield from ((row, first(pictures)) for row, pictures in rows_with_pictures(path, asked.notes))
        return
    asked.notes.file(path)
    for row in rows_of(path):
        yield row, embedded(column(row, path, "image"), text_of(row.get("image_id")) or text_of(row.get("question_id")))


def _text(value: Any) -> str | None:
    return "\n".join(map(str, value)) if isinstance(value, list) else text_of(value)


def _asked(task: str, row: dict[str, Any], path: Any, picture: Named) -> dict[str, Any]:
    return {"id": str(column(row, path, "question_id", "index")), "task": task, "pictures": [picture],
            "prompt": str(column(row, path, "question", "text")), "options": None,
            "group": picture if isinstance(picture, str) else None if picture is None else picture.name}  # fmt: skip
