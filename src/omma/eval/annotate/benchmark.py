"""Annotated pairs as a benchmark: the questions, and files in the layouts of MMVP and MMVP-VLM (Tong et al. 2024).

    entries, told = choose(pairs, store)                           # the pairs that can be asked about
    export_benchmark(pairs, store, "mmvp", "my-mmvp")              # Questions.csv and "MMVP Images/1.jpg" ...

A pair has one question, two options, and opposite answers, so who doesn't look has half of the questions and no pair.
The order of the options is drawn from the pair's name: half of the time the left picture's answer is (a).
"""

import io
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image

from omma.data.benchmarks.mmvp import split_options
from omma.eval.annotate.pairs import Pair, Pairs
from omma.eval.annotate.store import Annotation, Store
from omma.scenes.kinds import PATTERNS
from omma.scenes.layouts import JPEG_QUALITY, TYPES, write_csv
from omma.storage import appearing, digest
from omma.table import Table

WRITTEN_BY = pa.schema([("difference", pa.string()), ("annotator", pa.string()), ("proposed_by", pa.string())])
A_PATTERN = 15  # pairs of each pattern that MMVP-VLM has, and that its published scorer counts on


@dataclass(frozen=True)
class Entry:
    """A pair of the benchmark, and who wrote it."""

    pair: Pair
    said: Annotation
    annotator: str

    @property
    def options(self) -> tuple[str, str]:
        """The two answers in the order in which they are shown."""
        turned = int(digest("options", self.pair.key), 16) % 2
        return (self.said.right, self.said.left) if turned else (self.said.left, self.said.right)


@dataclass(frozen=True)
class Question:
    """One question about one picture; the two of a pair share prompt, options and group."""

    id: str
    group: str
    pattern: str
    picture: str
    prompt: str
    options: tuple[str, str]
    answer: str

    @property
    def letter(self) -> str:
        return "AB"[self.options.index(self.answer)]


def choose(
    pairs: Pairs, store: Store, by: str | None = None, agreed: bool = False
) -> tuple[list[Entry], dict[str, int]]:
    """The pairs that can be asked about, by pattern and then strongest first, and how many were left out, and why.

    by: whose annotations; None takes of each pair the latest usable one. agreed: only pairs on whose pattern all agree
    who completed them. Counts: pairs (of the file), not_annotated, unfinished, no_difference, disagreed, usable.
    Raises ValueError for an annotator who wrote nothing.
    """
    if by is not None and by not in store.annotators():
        raise ValueError(f"no annotations by {by!r}; there are some by {', '.join(store.annotators()) or 'nobody'}")
    told: Counter[str] = Counter()
    entries, written = [], store.by_pair()
    for pair in pairs:
        said = {name: each for name, each in written.get(pair.key, {}).items() if each.started}
        mine = said if by is None else {name: each for name, each in said.items() if name == by}
        usable = [name for name, each in mine.items() if each.usable]
        if not mine:
            told["not_annotated"] += 1
        elif not usable:
            done = any(each.complete for each in mine.values())
            told["no_difference" if done else "unfinished"] += 1
        elif agreed and len({each.pattern for each in said.values() if each.complete}) > 1:
            told["disagreed"] += 1
        else:
            entries.append(Entry(pair, mine[usable[-1]], usable[-1]))
    entries.sort(key=lambda entry: PATTERNS.index(entry.said.pattern))
    names = ("not_annotated", "unfinished", "no_difference", "disagreed")
    return entries, {"pairs": len(pairs), **{name: told[name] for name in names}, "usable": len(entries)}


def questions(entries: Sequence[Entry]) -> list[Question]:
    """The questions of a benchmark, those of a pair after each other, the left picture's first."""
    return [
        Question(f"{e.pair.key}-{n}", e.pair.key, e.said.pattern, picture, e.said.question, e.options, answer)
        for e in entries
        for n, (picture, answer) in enumerate(((e.pair.a, e.said.left), (e.pair.b, e.said.right)), 1)
    ]


# ---- layouts


def mmvp(pairs: Pairs, entries: Sequence[Entry], out: Path) -> dict[str, int]:
    """`MMVP Images/1.jpg ...` and `Questions.csv`; rows 2i and 2i + 1 are a pair."""
    folder = out / "MMVP Images"
    folder.mkdir()
    rows = []
    for number, asked in enumerate(questions(entries), 1):
        (folder / f"{number}.jpg").write_bytes(jpeg(pairs.image(asked.picture)))
        options = " ".join(f"({letter}) {option}" for letter, option in zip("ab", asked.options, strict=True))
        assert split_options(options) == asked.options
        rows.append([number, asked.prompt, options, f"({asked.letter.lower()})"])
    write_csv(out / "Questions.csv", ["Index", "Question", "Options", "Correct Answer"], rows)
    return {"questions": len(rows), "pictures": len(rows)}


def mmvp_vlm(pairs: Pairs, entries: Sequence[Entry], out: Path) -> dict[str, int]:
    """`MLLM_VLM Images/<type>/<id>.jpg` and `Questions.csv`, of the pairs with statements; rows 2i and 2i + 1 are a
    pair, those of a pattern follow each other. The published scorer takes every fifteen pairs for a pattern."""
    stated = [entry for entry in entries if entry.said.left_statement]
    if not stated:
        raise ValueError(f"none of the {len(entries)} usable pairs has statements, which this layout needs; write a "
                         "statement for either picture")  # fmt: skip
    rows: list[list[Any]] = []
    for entry in stated:
        kind, pair, said = TYPES[entry.said.pattern], entry.pair, entry.said
        folder = out / "MLLM_VLM Images" / kind
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in ((pair.a, said.left_statement), (pair.b, said.right_statement)):
            rows.append([len(rows) + 1, kind, text])
            (folder / f"{len(rows)}.jpg").write_bytes(jpeg(pairs.image(name)))
    write_csv(out / "Questions.csv", ["Question ID", "Type", "Statement"], rows)
    counts = Counter(entry.said.pattern for entry in stated)
    odd = sum(counts[name] != A_PATTERN for name in PATTERNS)
    return {"statements": len(rows), "pictures": len(rows), "without_statements": len(entries) - len(stated),
            "patterns_without_fifteen_pairs": odd}  # fmt: skip


def items(pairs: Pairs, entries: Sequence[Entry], out: Path) -> dict[str, int]:
    """The tables pictures and items: a question a picture, and a row of both pictures and both statements for the pairs
    that have them (tasks "question" and "pairs")."""
    names = list(dict.fromkeys(name for entry in entries for name in (entry.pair.a, entry.pair.b)))
    table = Table.create(out / "pictures")
    found = []
    for name in names:
        image, data = pairs.image(name), pairs.encoded(name)
        found.append({"id": name, "bytes": data, "width": image.width, "height": image.height, "split": "test"})
    table.append(found)
    rows: list[dict[str, Any]] = []
    by_pair = {entry.pair.key: entry for entry in entries}
    for asked in questions(entries):
        entry = by_pair[asked.group]
        rows.append({"id": asked.id, "task": "question", "pictures": [asked.picture], "prompt": asked.prompt,
                     "options": list(asked.options), "answer": asked.answer} | written(entry))  # fmt: skip
    stated = [entry for entry in entries if entry.said.left_statement]
    for entry in stated:
        rows.append({"id": f"{entry.pair.key}-pair", "task": "pairs", "pictures": [entry.pair.a, entry.pair.b],
                     "options": [entry.said.left_statement, entry.said.right_statement]} | written(entry))  # fmt: skip
    made = Table.create(out / "items", "items", extra=WRITTEN_BY)
    made.append(rows, info={"blind_pairs": {"pairs": len(entries), "with_statements": len(stated)}})
    return {"questions": 2 * len(entries), "pairs_with_statements": len(stated), "pictures": len(names)}


def written(entry: Entry) -> dict[str, Any]:
    """What every row of a pair says."""
    said = entry.said
    return {"pattern": said.pattern, "group": entry.pair.key, "split": "test", "difference": said.difference or None,
            "annotator": entry.annotator, "proposed_by": said.proposed_by or None}  # fmt: skip


def jpeg(image: Image.Image) -> bytes:
    """As JPEG of quality 95, with colours as fine as the rest."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()


LAYOUTS: dict[str, Callable[[Pairs, Sequence[Entry], Path], dict[str, int]]] = {
    "mmvp": mmvp, "mmvp-vlm": mmvp_vlm, "items": items,
}  # fmt: skip


def export_benchmark(
    pairs: Pairs, store: Store, layout: str, out: str | Path, by: str | None = None, agreed: bool = False
) -> dict[str, Any]:
    """Write the usable pairs in a layout (mmvp, mmvp-vlm, items) to the folder `out`, at once or not at all.

    by, agreed: as of `choose`. Pairs with a picture that can't be decoded are left out. Returns path, layout, what was
    written and what was left out. Raises ValueError for an unknown layout, for a folder that is there already, and when
    no pair can be asked about.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"no layout {layout!r}; there are {', '.join(LAYOUTS)}")
    entries, told = choose(pairs, store, by, agreed)
    seen = {name: pairs.decoded(name).image is not None for e in entries for name in (e.pair.a, e.pair.b)}
    good = [entry for entry in entries if seen[entry.pair.a] and seen[entry.pair.b]]
    told |= {"unreadable": len(entries) - len(good), "usable": len(good)}
    if not good:
        left = ", ".join(f"{n} {name.replace('_', ' ')}" for name, n in told.items() if n and name != "pairs")
        raise ValueError(f"none of {told['pairs']} pairs can be asked about ({left}); annotate some: omma blind "
                         f"{pairs.table.uri} --annotate {pairs.folder}")  # fmt: skip
    with appearing(Path(out)) as part:
        made = LAYOUTS[layout](pairs, good, part)
    return {"path": str(out), "layout": layout, **made, "left_out": told}
