"""A VLM that knows the right answer to every question of a small table, and some that don't; one table for each task.

A picture carries its number in its first pixel (fakes.py), so a VLM can tell which one it sees, and whether mirrored.
"""

import re

import numpy as np
import pyarrow as pa
from fakes import number_in, png
from PIL import ImageOps

from omma.eval.asking import mirror
from omma.table import Table

SEEN = {n: ("left", "right")[(n + n // 2) % 2] for n in range(16)}  # which way the thing in picture n faces


def rows_of(task: str) -> list[dict]:
    """The miniature of a task: pictures p0, p1, ... of which p0 and p1 are a pair."""
    rows = []
    for n in range(8):
        base = {"id": f"{task}-{n}", "task": task, "pictures": [f"p{n}"], "group": f"g{n // 2}",
                "pattern": "orientation"}  # fmt: skip
        facing = {"prompt": "which way is it facing?", "options": ["left", "right"], "answer": SEEN[n]}
        match task:
            case "pope":
                there = ("cup", "fish", "car", "tree")
                rows += [base | {"id": f"pope-{n}-{k}", "pattern": ("random", "popular")[k], "group": f"g{n}",
                                 "prompt": f"Is there a {there[(n + k) % 4]} in the image?", "options": ["yes", "no"],
                                 "answer": ("yes", "no")[k]} for k in range(2)]  # fmt: skip
            case "ask":
                rows.append(base | facing)
                rows.append(base | {"id": f"ask-{n}-red", "pattern": "colour", "prompt": "is it red?",
                                    "options": ["yes", "no"], "answer": ("yes", "no")[n // 2 % 2]})  # fmt: skip
            case "mme":
                rows += [base | {"id": f"mme-{n}-{k}", "pattern": "count", "group": f"g{n}", "options": ["yes", "no"],
                                 "prompt": f"Are there {n % 4 + k} cups?", "answer": ("yes", "no")[k]}
                         for k in range(2)]  # fmt: skip
            case "nlvr" | "comparison":
                rows.append(base | {"pictures": [f"p{n}", f"p{n + 8}"][: 1 + (task == "comparison")],
                                    "prompt": "the first one faces left", "options": ["true", "false"],
                                    "answer": ("false", "true")[SEEN[n] == "left"]})  # fmt: skip
            case "chair":
                there = "dog" if SEEN[n] == "left" else "bus"
                rows.append(base | {"prompt": "Please describe this image in detail.", "options": ["a cat"],
                                    "answer": f"a {there} and a car", "answers": [f"a {there} and a car"],
                                    "things": [there]})  # fmt: skip
            case "naturalbench":
                rows += [base | {"id": f"g{n // 2}-q{q}-i{n % 2}", "options": ["yes", "no"],
                                 "prompt": f"Does it face {('left', 'right')[q]}?",
                                 "answer": "yes" if SEEN[n] == ("left", "right")[q] else "no"}
                         for q in range(2)]  # fmt: skip
            case "mm-vet" | "llava-bench":
                rows.append(base | {"pattern": ("rec spat", "conv")[task == "llava-bench"], "options": None,
                                    "prompt": "Which way is it facing?", "answer": SEEN[n]})  # fmt: skip
            case "textvqa" | "gqa" | "docvqa" | "chartqa" | "msvd-qa":
                rows.append(base | {"prompt": "Which way is it facing?", "options": None, "answer": SEEN[n]})
            case _:
                rows.append(base | facing)
    return rows


# task -> the `task` of its rows
ROWS_OF = {"scenes": "ask", "vqa": "question", "mmvp": "mmvp", "pope": "pope", "mme": "mme", "choice": "mmmu",
           "naturalbench": "naturalbench", "circular": "mmbench", "textvqa": "textvqa", "gqa": "gqa",
           "docvqa": "docvqa", "chartqa": "chartqa", "video-qa": "msvd-qa", "mm-vet": "mm-vet",
           "llava-bench": "llava-bench", "nlvr": "nlvr", "nlvr2": "comparison", "chair": "chair"}  # fmt: skip
# where any words are an answer
ANY_WORDS = {"vqa", "textvqa", "gqa", "docvqa", "chartqa", "video-qa", "mm-vet", "llava-bench", "chair"}


def make_questions(folder, task: str, rows=None, broken=()):
    """Tables pictures and items for a task of TASKS."""
    rows = rows_of(ROWS_OF[task]) if rows is None else rows
    used = sorted({name for row in rows for name in row["pictures"]}, key=lambda name: int(name[1:]))
    pictures = Table.create(folder / "pictures", "pictures")
    pictures.append([{"id": name, "bytes": b"no picture" if name in broken else png(int(name[1:])), "status": "ok",
                      "width": 16, "height": 16} for name in used])  # fmt: skip
    kinds = dict.fromkeys(("answers", "things"), pa.list_(pa.string())) | {"answer_type": pa.string()}
    held = [(name, kind) for name, kind in kinds.items() if name in rows[0]]
    extra = pa.schema(held) if held else None
    items = Table.create(folder / "items", "items", extra=extra)
    items.append(rows)
    return folder


class Knows:
    """Answers every question of a table with the right option's text; a grey picture with the first option.

    asked: what it was asked, (numbers of the pictures, mirrored, prompt) each.
    """

    name, fingerprint = "knows", "kn0"

    def __init__(self, rows: list[dict]):
        self.key = {(int(row["pictures"][0][1:]), row["prompt"]): row for row in rows}
        self.asked: list[tuple[int, bool, str]] = []

    def see(self, image) -> tuple[int, bool]:
        number, turned = number_in(image), number_in(ImageOps.mirror(image))
        return (turned, True) if number < 0 <= turned else (number, False)

    def means(self, images, prompt: str) -> str:
        number, turned = self.see(images[0])
        self.asked.append((number, turned, prompt))
        known = [row for (n, question), row in self.key.items() if question in prompt and n in (number, -1)]
        row = known[0] if known else next(row for (_, question), row in self.key.items() if question in prompt)
        said = row["answer"] if known else (row["options"] or ["left"])[0]
        return mirror(said) if turned else said

    def generate_batch(self, images, prompts, max_new_tokens=64, *, batch_size=8):
        return [self.say(self.means(shown, prompt), prompt) for shown, prompt in zip(images, prompts, strict=True)]

    def say(self, answer: str, prompt: str) -> str:
        """The letter that the option has in the prompt, else the option."""
        letter = re.search(rf"\(?([A-Za-z])[.)] {answer}\b", prompt)
        return letter[1] if letter else answer

    def first_token(self, images, prompts, words, batch_size=8):
        rows = []
        for shown, prompt in zip(images, prompts, strict=True):
            wanted = Knows.say(self, self.means(shown, prompt), prompt)
            rows.append([-0.1 if wanted in spelled else -3.0 for spelled in words])
        return np.array(rows, dtype=np.float32)


class Judge:
    """Grades a reply by whether it is, or ends with, the right answer; told: the prompts."""

    name, fingerprint = "judge", "j0"
    read = (
        (r"Reference: (.*)\nAnswer: (.*)\n", ("0.0", "1.0")),
        (r"First assistant:\n(.*)\n\nSecond assistant:\n(.*)\n", ("8 2", "8 8")),
        (r"correct answer is: \((?:.)\) (.*)\nThey said: (.*)\n", ("no", "Yes.")),
    )

    def __init__(self):
        self.told: list[str] = []

    def generate_batch(self, images, prompts, max_new_tokens=64, *, batch_size=8):
        self.told += prompts
        assert not any(map(len, images))
        return [self.grade(prompt) for prompt in prompts]

    def grade(self, prompt: str) -> str:
        for pattern, marks in self.read:
            if found := re.search(pattern, prompt):
                right, said = found.groups()
                letter = re.search(rf"\((.)\) {right}", prompt)
                return marks[said == right or bool(letter and said == letter[1])]
        raise AssertionError(prompt)


class Mumbles(Knows):
    """Says nothing that can be read."""

    name, fingerprint = "mumbles", "mu0"

    def say(self, answer, prompt):
        return "Mhm."


class Refuses(Knows):
    """Won't look at one of the pictures."""

    name, fingerprint = "refuses", "re0"

    def generate_batch(self, images, prompts, max_new_tokens=64, *, batch_size=8):
        if any(self.see(shown[0])[0] == 3 for shown in images):
            raise ValueError("a prompt of 9,000 tokens")
        return super().generate_batch(images, prompts, max_new_tokens)
