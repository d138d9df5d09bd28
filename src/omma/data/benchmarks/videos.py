"""Questions about videos: TGIF-QA (Jang et al. 2017), MSVD-QA and MSRVTT-QA (Xu et al. 2017), Video-MME (Fu et al.
2024).

TGIF-QA: Test_frameqa_question.csv, _action_, _transition_ and _count_, with tabs: gif_name, question, answer, vid_id,
and a1 to a5, of which the answer is a number from 0, for action and transition; frameqa's type 0, 1, 2, 3 is object,
number, colour, location. MSVD-QA and MSRVTT-QA: test_qa.json, [{id, video_id, question, answer}]; MSVD's clips bear
other names, which youtube_mapping.txt tells (a name, a blank, vid1301), MSRVTT's are video7010. LAVIS's form of both
has video, a file's name, and question_id. Video-MME: Parquet with videoID, question_id, question, options ("A. ..."),
answer (a letter), duration, domain, sub_category, task_type; beside it videos/<videoID>.mp4.

A video is a folder with its frames, a GIF, or a file for PyAV; `frames` evenly spaced pictures of it are the item's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omma.data.benchmarks.files import Asked, chosen, column, rows_of, text_of
from omma.data.benchmarks.frames import Videos

TGIF = {
    "b7998e8ca0e06ba3f94b65ebda94c6fa1a8b8ba27226903ca53d413d2dfa40cd": "released, frameqa, test",
    "d5f023e0455225e882c46cf3c6b1248ec8d0e064204f4a78280129582a1f8aef": "released, action, test",
    "26bc6f83aa391b15e5a21b15cdb0786f0e9109dd081ea5a7e4ac656cc8168d27": "released, count, test",
    "9dc0554dca97776ed04acfe55d65913b6dd9096d083fd3a4981751f863edcb6a": "released, transition, test",
}
TASKS = ("frameqa", "action", "transition", "count")
KINDS = ("object", "number", "color", "location")
LETTERED = re.compile(r"\s*\(?[A-Z][.):]\s*")


def tgif_qa(asked: Asked) -> Iterator[dict[str, Any]]:
    """The pattern is the task, the group the GIF. Answers of count are whole numbers."""
    videos = Videos(asked)
    for path in asked.files("Test_*_question.csv", "*_question.csv", "*_question.tsv"):
        asked.notes.file(path, TGIF)
        task = next((name for name in TASKS if name in path.stem.lower()), "unknown")
        for row in rows_of(path):
            name, answer = str(column(row, path, "gif_name")), str(column(row, path, "answer"))
            options = [text_of(row[f"a{k}"]) or "" for k in range(1, 6)] if "a1" in row else None
            if options is not None:
                answer = options[int(answer)] if answer.isdigit() and int(answer) < len(options) else answer
            kind = text_of(row.get("type"))
            yield _asked("tgif-qa", str(column(row, path, "vid_id")), task, name, videos, row, path) | {
                "options": options,
                "answer": answer,
                "kind": KINDS[int(kind)] if kind in ("0", "1", "2", "3") else None,
            }


def msvd_qa(asked: Asked) -> Iterator[dict[str, Any]]:
    return _open_ended(asked, "msvd-qa", "vid")


def msrvtt_qa(asked: Asked) -> Iterator[dict[str, Any]]:
    return _open_ended(asked, "msrvtt-qa", "video")


def _open_ended(asked: Asked, task: str, prefix: str) -> Iterator[dict[str, Any]]:
    """The pattern is the question's first word, as Xu et al. divide them: what, who, how, when, where."""
    videos = Videos(asked)
    names = _mapping(asked)
    for path in asked.files("test_qa.json", "qa_test.json", "*qa*.json"):
        asked.notes.file(path)
        for row in rows_of(path):
            video = row.get("video")
            if video is None:
                number = str(column(row, path, "video_id"))
                own = number if number.startswith(prefix) else f"{prefix}{number}"
                video = names.get(own, own)
            question = str(column(row, path, "question"))
            yield _asked(task, str(column(row, path, "id", "question_id")), question.split(" ")[0].lower(), str(video),
                         videos, row, path) | {"options": None, "answer": str(column(row, path, "answer"))}  # fmt: skip


def _mapping(asked: Asked) -> dict[str, str]:
    base = asked.source if asked.source.is_dir() else asked.source.parent
    path = base / "youtube_mapping.txt"
    lines = (line.split() for line in path.read_text(encoding="utf-8").splitlines()) if path.is_file() else ()
    return {words[1]: words[0] for words in lines if len(words) == 2}


def video_mme(asked: Asked) -> Iterator[dict[str, Any]]:
    """The pattern is the duration (short, medium, long), the group the video."""
    videos = Videos(asked)
    for path in asked.files("*.parquet", "videomme/*.parquet", "data/*.parquet"):
        asked.notes.file(path)
        for row in rows_of(path):
            said = [str(option) for option in column(row, path, "options")]
            options = [LETTERED.sub("", option, count=1) for option in said]
            letter = str(column(row, path, "answer"))
            yield _asked("video-mme", str(column(row, path, "question_id")), text_of(row.get("duration")),
                         str(column(row, path, "videoID")), videos, row, path) | {
                "options": options,
                "answer": chosen(letter, options) or letter,
                "letter": letter,
                **{key: text_of(row.get(key)) for key in ("domain", "sub_category", "task_type")},
            }  # fmt: skip


def _asked(task: str, name: str, pattern: str | None, video: str, videos: Videos, row: dict[str, Any], path: Path
           ) -> dict[str, Any]:  # fmt: skip
    return {"id": name, "task": task, "pattern": pattern, "pictures": videos.pictures(video),
            "prompt": str(column(row, path, "question")), "group": video, "video": video}  # fmt: skip
