"""POPE: is there such a thing in the picture? Three ways to choose what is absent (Li et al. 2023).

Released: coco_pope_random.json, _popular and _adversarial, an object a line, and over A-OKVQA and GQA with SEEM's
objects the same in JSON arrays: question_id, image (a file's name), text, label. The files over COCO were released
twice; which one a file is, its hash tells. The strategy is read from the file's name. Also lmms-eval's Parquet
(question_id, question, answer, image_source, image, category) and VLMEvalKit's .tsv, where a
question of several strategies is one row, and becomes a row of each. The Parquet files could not be seen here:
lmms-eval's code names image, question, answer and question_id; that the strategy stands in category is inferred.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omma.data.benchmarks.files import YES_NO, Asked, Named, column, embedded, first, rows_of, text_of
from omma.data.benchmarks.tsv import rows_with_pictures

STRATEGIES = ("random", "popular", "adversarial")
# sha256 of the released files: over COCO the first release has 2,910 random questions, the second 3,000
VERSIONS = {
    "c16b65d2df6d70bb0814c8a4375833d39cdb09928fd936d3fc546491efa37f35": ("first release", "random"),
    "5b16653023bf4f64d57eb0d168259de6627f5cde7538b85ebed3cc33034aa6cc": ("first release", "popular"),
    "1d8f0906a9b50c05640f6f23abfac97523be2a1bed28f7eadc63b811699b2d26": ("first release", "adversarial"),
    "ac25245170b975a5bdf9080b23fd431dfe6be458bc038259c1f4f09a6bef7994": ("second release", "random"),
    "72c1a8ad45d0c13514f5f22598261df41d3b533854d29682e924db50ed8aa753": ("second release", "popular"),
    "420b3407db1fa9f1187a805dca41cb7b97fd91504e6c2179706188c107fb8ef8": ("second release", "adversarial"),
}
SEEM = {
    "2ddd3bdfa0df7a77a2cb1765ed06ac5ed190b5a093aa405b96986e862e8cdac1": ("SEEM, A-OKVQA", "adversarial"),
    "2ae5bedee3450cda52f9b033942c7b04a3917a86a110e859a66c1e41934c6ffd": ("SEEM, A-OKVQA", "popular"),
    "f06eecde6d6ef4a00b95a7bbb510490708a09a6a67d952b59b8bdd33ac2c7200": ("SEEM, A-OKVQA", "random"),
    "74e01b41d8308e2392e3b8d961167496ff3901c01100265d931a7a392f138a7a": ("SEEM, GQA", "adversarial"),
    "dd03f06a458dd216e83233160fbf6628af9c63c84b11e99599f4fc0304b3361d": ("SEEM, GQA", "popular"),
    "6ce488eade3770185034939fabfe742fa32ed369011c8d9c3ac77bc0c85abd94": ("SEEM, GQA", "random"),
}
NAMES = {digest: ", ".join(parts) for digest, parts in (VERSIONS | SEEM).items()}


def pope(asked: Asked) -> Iterator[dict[str, Any]]:
    """source: one of the files, or a folder with several; each file's questions bear its strategy as their pattern."""
    for path in asked.files("*pope*.json", "*.json", "*.tsv", "*.parquet", "data/*.parquet", "Full/*.parquet"):
        if path.suffix == ".json":
            version = asked.notes.file(path, NAMES)
            asked.look_in("val2014", "images")
        elif path.suffix != ".tsv":
            version = asked.notes.file(path)
        else:
            version = ""
        place = next((name for name in STRATEGIES if name in path.stem), "unknown")
        packed = path.suffix == ".tsv"
        for row, pictures in rows_with_pictures(path, asked.notes) if packed else ((row, []) for row in rows_of(path)):
            picture, question = (first(pictures), str(row["question"])) if packed else _asked_of(row, path)
            answer = str(column(row, path, "label", "answer")).strip().lower()
            for strategy in (text_of(row.get("category")) or place).lower().split(","):
                if strategy not in STRATEGIES:
                    asked.notes.note("questions are of no known strategy", f"{path.name}: {strategy}")
                yield {
                    "id": f"{strategy}-{column(row, path, 'question_id', 'index')}",
                    "task": "pope",
                    "pattern": strategy,
                    "pictures": [picture],
                    "prompt": question,
                    "options": list(YES_NO),
                    "answer": answer,
                    "group": picture if isinstance(picture, str) else getattr(picture, "name", None),
                    "release": version or None,
                }


def _asked_of(row: dict[str, Any], path: Path) -> tuple[Named, str]:
    image = column(row, path, "image")
    question = str(column(row, path, "text", "question"))
    return (image if isinstance(image, str) else embedded(image, row.get("image_source"))), question
