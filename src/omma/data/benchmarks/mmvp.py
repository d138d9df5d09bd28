"""MMVP and MMVP-VLM: pairs of pictures that CLIP takes for one another (Tong et al. 2024, "Eyes Wide Shut?").

MMVP: Questions.csv (Index, Question, Options, Correct Answer; the index also stands as "lndex") beside "MMVP Images"
with 1.jpg to 300.jpg. Row i belongs to picture i + 1, whatever its index says, and rows 2i and 2i + 1 are a pair. Also
its Parquet form with the pictures inside (image and the same four columns in lmms-eval's upload); VLMEvalKit's .tsv is
read by the format "choice". The Parquet files could not be seen here; their columns are those that lmms-eval's code
names.

MMVP-VLM: Questions.csv with three columns (id, type, statement) beside "MLLM_VLM Images", "MLLM_VLM_Images" or
"MMVP_VLM_Images" with <type>/<id>.jpg. Consecutive rows are a pair; which pattern it shows is told by its place.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from omma.data.benchmarks.files import Asked, Named, chosen, column, embedded, rows_of

LABELS = ("released", "corrected", "undisputed", "lmms-eval")
SWAPPED, DISPUTED = (279, 280), (99, 100)  # questions, from 1, whose released answers are reported as wrong
QUESTIONS = 300
PATTERNS = ("Orientation and Direction", "Presence of Specific Features", "State and Condition", "Quantity and Count",
            "Positional and Relational Context", "Color and Appearance", "Structural Characteristics", "Texts",
            "Viewpoint and Perspective")  # fmt: skip
PAIRS_A_PATTERN = 15
VLM_FOLDERS = ("MLLM_VLM Images", "MMVP_VLM_Images", "MLLM_VLM_Images")
OPTION = re.compile(r"\(([a-z])\)\s*(.*?)\s*(?=\([a-z]\)|$)", re.IGNORECASE | re.DOTALL)


def split_options(text: str) -> tuple[str, ...]:
    """The options of a released row.

    >>> split_options("(a) Open (b) Closed")
    ('Open', 'Closed')
    """
    return tuple(option for _, option in OPTION.findall(text))


def labelled(answers: Sequence[str], labels: str = "released") -> tuple[list[str], set[int]]:
    """(the 300 answers of a label set as "A" or "B", the pairs, from 0, to leave out).

    answers: as released, "(a)" or "(b)". labels: "released"; "corrected" exchanges those of questions 279 and 280, on
    which two independent reports agree; "undisputed" does, and leaves out the pair 99 and 100, on which reports differ;
    "lmms-eval" has the answers of lmms-eval, which exchanges both pairs. Print which one was used: a pair is 0.67
    points.
    """
    if labels not in LABELS:
        raise ValueError(f"labels={labels!r}; choose {', '.join(LABELS)}")
    if len(answers) != QUESTIONS:
        raise ValueError(f"{len(answers)} answers; MMVP has {QUESTIONS} questions, in the order of their file")
    found = [text.strip().strip("()").upper() for text in answers]
    wrong = sorted(set(found) - {"A", "B"})
    if wrong:
        raise ValueError(f"an answer is {wrong[0]!r}; MMVP's are (a) and (b)")
    if labels in ("corrected", "undisputed"):
        first, second = SWAPPED
        found[first - 1], found[second - 1] = found[second - 1], found[first - 1]
    if labels == "lmms-eval":
        for first, second in (DISPUTED, SWAPPED):
            found[first - 1], found[second - 1] = "B", "A"
    return found, {(DISPUTED[0] - 1) // 2} if labels == "undisputed" else set()


def mmvp(asked: Asked) -> Iterator[dict[str, Any]]:
    """labels: see `labelled`; other sets than the released one need the 300 questions of the release."""
    path = asked.files("Questions.csv", "*.parquet", "data/*.parquet")[0]
    asked.notes.file(path)
    rows = [_named(row, path) for row in rows_of(path)]
    if path.suffix != ".parquet":
        asked.look_in("MMVP Images")
    labels = asked.labels or LABELS[0]
    asked.notes.facts["labels"] = labels
    answers, left_out = [answer for *_, answer, _ in rows], set[int]()
    if labels != LABELS[0]:
        answers, left_out = labelled(answers, labels)
        asked.notes.facts["pairs_left_out"] = sorted(left_out)
    if len(rows) != QUESTIONS:
        asked.notes.note("files have another number of questions than the 300 released", f"{path.name}: {len(rows)}")
    for place, ((index, question, said, released, picture), answer) in enumerate(zip(rows, answers, strict=True)):
        pair, options = place // 2, list(split_options(said))
        if index != str(place + 1):
            asked.notes.note("indices are not the place of their row, which decides", f"{index} in row {place + 1}")
        other = rows[place ^ 1] if place ^ 1 < len(rows) else None
        if place % 2 == 0 and (other is None or other[1:3] != (question, said)):
            asked.notes.note("pairs don't share a question and its options", f"row {place + 1}")
        if place % 2 == 0 and other is not None and answers[place] == answers[place + 1]:
            asked.notes.note("pairs have one answer for both pictures", f"row {place + 1}")
        if pair in left_out:
            continue
        yield {
            "id": str(place + 1),
            "task": "mmvp",
            "pictures": [f"{place + 1}.jpg" if picture is None else picture],
            "prompt": question,
            "options": options,
            "answer": chosen(answer, options) or answer,
            "group": f"pair {pair + 1:03d}",
            "released_options": said,
            "released_answer": released,
        }


def _named(row: dict[str, Any], path: Path) -> tuple[str, str, str, str, Named]:
    """(index, question, options, answer, picture), the first four by their place where they have other names."""
    picture = embedded(row["image"], column(row, path, "Index", "lndex")) if "image" in row else None
    cells = [value for name, value in row.items() if name != "image"]
    if not {"Question", "Options", "Correct Answer"} <= row.keys() and len(cells) != 4:
        column(row, path, "Question")  # says what is there
    names = ("Question", "Options", "Correct Answer")
    texts = [row[name] for name in names] if set(names) <= row.keys() else cells[1:4]
    return str(cells[0]).strip(), *(str(text).strip() for text in texts), picture  # pyright: ignore


def mmvp_vlm(asked: Asked) -> Iterator[dict[str, Any]]:
    path = asked.files("Questions.csv")[0]
    asked.notes.file(path)
    asked.look_in(*VLM_FOLDERS)
    rows = [tuple(str(cell).strip() for cell in list(row.values())[:3]) for row in rows_of(path)]
    if any(len(row) != 3 for row in rows):
        raise ValueError(f"{path} has {len(rows[0])} columns; MMVP-VLM's has three: id, type, statement")
    if len(rows) % 2:
        raise ValueError(f"{path} has {len(rows)} rows; consecutive ones are a pair, so give an even number")
    if len(rows) != 2 * PAIRS_A_PATTERN * len(PATTERNS):
        asked.notes.note("files have another number of statements than the 270 released", f"{path.name}: {len(rows)}")
    for pair, ((first, kind, one), (second, other_kind, other)) in enumerate(zip(rows[::2], rows[1::2], strict=True)):
        if not (first.isdigit() and second.isdigit() and int(first) % 2 == 1 and int(second) == int(first) + 1):
            asked.notes.note("pairs have ids that are not an odd number and the next", f"{first}, {second}")
        if kind != other_kind:
            asked.notes.note("pairs have two types", f"{first}: {kind}, {second}: {other_kind}")
        place = pair // PAIRS_A_PATTERN
        yield {
            "id": f"pair {pair + 1:03d}",
            "task": "pairs",
            "pattern": PATTERNS[place] if place < len(PATTERNS) else kind,
            "pictures": [f"{kind}/{first}.jpg", f"{other_kind}/{second}.jpg"],
            "prompt": None,
            "options": [one, other],
            "answer": None,
            "group": f"pair {pair + 1:03d}",
            "type": kind,
        }
