"""NLVR tars -> what a model learns from: boxes with descriptions, and pictures with sentences that are true or false.

People's labels are there for a thousand sentences only. But the reader of nlvr_language tells of a sentence that it can
read whether it is true of a picture, and that of any picture, since pictures can be read back too. So a sentence of a
person is shown with many pictures, and so are sentences from templates.
"""

import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from omma.data.nlvr.meaning import Meaning
from omma.data.nlvr.pictures import BOX, GAP, WIDTH, Box, Boxes, is_tower, parse
from omma.data.nlvr.sentences import Unknown, read
from omma.data.nlvr.wording import tags, template, things_to_count, vary
from omma.data.readers import Problems, read_tar
from omma.decode import DEFAULT_LIMITS
from omma.jobs import progress_bar
from omma.table import Table

ITEM_COLUMNS = pa.schema([("parts", pa.list_(pa.int64())), ("directory", pa.string()), ("identifier", pa.string())])
World = tuple[str, Boxes]  # name of a picture, what is in it
LARGEST_PART = 9  # a box's number that a head can say; larger ones are left open


def tar_rows(path: str | Path) -> Iterator[tuple[str, bytes, dict[str, Any]]]:
    """(name, PNG bytes, JSON) of each picture of a WebDataset tar; {} for one without JSON. ValueError for a tar that
    is damaged: what is measured must be all of it."""
    problems = Problems()
    for sample in read_tar(Path(path), DEFAULT_LIMITS.max_bytes, problems):
        assert sample.data is not None, f"{sample.key} is larger than any picture of the corpus"
        yield sample.key, sample.data, json.loads(sample.json or b"{}")
    if problems:
        raise ValueError(f"{path}: {'; '.join(problems.lines())}. Copy it again")


def seeded(*key: object) -> np.random.Generator:
    return np.random.default_rng(int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest()))


def group_of(name: str) -> str:
    """train-2321-0-3 -> 2321: pictures of a group were shown to people together."""
    return name.split("-")[1]


def write_boxes(pictures: dict[str, tuple[bytes, Boxes]], out: str | Path, tower_copies: int = 40,
                seed: int = 0) -> tuple[Table, Table]:  # fmt: skip
    """Single boxes as out/pictures, with the column tags (what is true of a box, of a fixed list), and as out/items
    kinds of things with how many of them a box holds, in the column parts.

    There are no more than 120 different towers, so of each one only tower_copies rows are kept.
    """
    out = Path(out)
    table = Table.create(out / "pictures", "pictures", extra=pa.schema([("tags", pa.list_(pa.string()))]))
    asked = Table.create(out / "items", "items", extra=ITEM_COLUMNS)
    seen: dict[Any, int] = {}
    rows: list[dict[str, Any]] = []
    items: list[dict[str, Any]] = []
    with progress_bar("boxes", "pictures", True) as advance:
        for name, (data, boxes) in pictures.items():
            tower = is_tower(boxes)
            image = Image.open(io.BytesIO(data)).convert("RGB")
            for k, box in enumerate(boxes):
                look = tuple((t.x, t.y, t.color) for t in box) if tower else (name, k)
                seen[look] = seen.get(look, 0) + 1
                if tower and seen[look] > tower_copies:
                    continue
                rows.append(box_row(f"{name}.{k}", image, k) | {"tags": tags(box)})
                items += counts(f"{name}.{k}", box, tower, seeded(seed, "count", f"{name}.{k}"))
            advance(1, None)
            if len(rows) >= 2000:
                table.append(rows)
                rows = []
    table.append(rows)
    append(asked, items)
    return table, asked


def counts(name: str, box: Box, tower: bool, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Items that ask how many of a kind of thing are in a box; some of those with none of them are left out."""
    found = []
    for k in range(2 if tower else 5):
        said = things_to_count(box, rng, tower)
        n = read(f"There is a {said}").value(box)
        if n or rng.random() >= 0.3:
            found.append(item(f"{name}-{k}", said, "count", name, n > 0, (n,), "train"))
    return found


def box_row(name: str, image: Image.Image, k: int) -> dict[str, Any]:
    out = io.BytesIO()
    start = k * (BOX + GAP)
    image.crop((start, 0, start + BOX, BOX)).save(out, "PNG")
    return {"id": name, "bytes": out.getvalue(), "captions": [], "source": "nlvr", "width": BOX, "height": BOX,
            "status": "ok"}  # fmt: skip


# ---------------------------------------------------------------------------------------------------------- sentences
def balanced(meaning: Meaning, worlds: Sequence[World], count: int, rng: np.random.Generator,
             tries: int = 300) -> list[tuple[str, bool, tuple[int, ...]]]:  # fmt: skip
    """Up to `count` pictures that a sentence is shown with: (name, whether it is true, the boxes' numbers).

    As many true as false ones, so that the words alone tell nothing; [] where `tries` pictures gave only one kind.
    """
    found: dict[bool, list[tuple[str, bool, tuple[int, ...]]]] = {True: [], False: []}
    half = max(1, count // 2)
    for i in rng.permutation(len(worlds))[:tries].tolist():
        name, boxes = worlds[i]
        parts = meaning.parts(boxes)
        truth = bool(meaning.rule(parts))
        if len(found[truth]) < half:
            found[truth].append((name, truth, parts))
        if len(found[True]) == len(found[False]) == half:
            break
    n = min(len(found[True]), len(found[False]))
    return found[True][:n] + found[False][:n]


def item(name: str, sentence: str, source: str, picture: str, truth: bool, parts: tuple[int, ...] | None,
         split: str) -> dict[str, Any]:  # fmt: skip
    known = parts if parts is not None and max(parts) <= LARGEST_PART else None
    return {
        "id": name,
        "task": "nlvr",
        "pattern": source,
        "pictures": [picture],
        "prompt": sentence,
        "answer": "true" if truth else "false",
        "group": name,
        "split": split,
        "parts": None if known is None else list(known),
    }


class Sentences:
    """Items of sentences whose truth is worked out, each with pictures of the kind it is about."""

    def __init__(self, worlds: Sequence[World], split: str, seed: int):
        self.worlds = {kind: [w for w in worlds if is_tower(w[1]) == kind] for kind in (True, False)}
        self.split, self.seed, self.seen = split, seed, set[tuple[str, bool]]()
        self.items: list[dict[str, Any]] = []

    def add(self, sentence: str, source: str, number: str, tower: bool, count: int) -> bool:
        """Adds up to `count` items; False for a sentence that is there already, unreadable, or always the same."""
        if (sentence, tower) in self.seen:
            return False
        self.seen.add((sentence, tower))
        try:
            meaning = read(sentence)
        except Unknown:
            return False
        chosen = balanced(meaning, self.worlds[tower], count, seeded(self.seed, source, number))
        self.items += [item(f"{self.split}-{source}-{number}-{k}", sentence, source, *one, self.split)
                       for k, one in enumerate(chosen)]  # fmt: skip
        return bool(chosen)


def write_training(images: str | Path, labelled: str | Path, out: str | Path, *, templates: int = 14000,
                   variations: int = 16, shown: int = 24, seed: int = 0) -> dict[str, int]:  # fmt: skip
    """Everything a model is trained and chosen on, into out/boxes, out/pictures and out/items; returns counts.

    images: tar of the training pictures; labelled: tar of those with people's sentences and labels. Items have the
    pattern people (their labels), people-executed (their sentences, with other pictures), varied (these sentences with
    other colours, shapes, numbers) or template. Every fourth directory is held out: split "heldout" has its pictures
    and those of its sentences that are in no other directory, and nothing else is made of them.
    """
    worlds: dict[str, Boxes] = {}
    people: dict[str, dict[str, Any]] = {}
    for name, _, about in tar_rows(labelled):
        if about["permutation"] == 0:
            people[name] = about | {"held": held_out(about["directory"])}
    held_groups = {group_of(name) for name, about in people.items() if about["held"]}
    data = {}
    with progress_bar("reading", "pictures", True) as advance:
        for name, png, _ in tar_rows(images):
            worlds[name] = parse(Image.open(io.BytesIO(png)))
            data[name] = png
            advance(1, None)
    free = {name: boxes for name, boxes in worlds.items() if group_of(name) not in held_groups}
    out = Path(out)
    boxes, asked = write_boxes({name: (data[name], free[name]) for name in free}, out / "boxes")
    pictures = Table.create(out / "pictures", "pictures")
    append(pictures, [picture_row(name, png) for name, png in data.items()])

    items: list[dict[str, Any]] = []
    kinds: dict[str, list[bool]] = {}  # of pictures that people said a sentence of
    for name, about in people.items():
        kinds.setdefault(about["sentence"], []).append(is_tower(worlds[name]))
        try:
            meaning = read(about["sentence"])
            parts = meaning.parts(worlds[name])
            parts = parts if meaning.rule(parts) == about["label"] else None
        except Unknown:
            parts = None
        split = "heldout" if about["held"] else "train"
        items.append(item(f"people-{name}", about["sentence"], "people", name, about["label"], parts, split)
                     | {"directory": about["directory"], "identifier": about["identifier"]})  # fmt: skip
    known = sorted({about["sentence"] for about in people.values() if not about["held"]})
    unseen = sorted({about["sentence"] for about in people.values()} - set(known))
    train = Sentences(list(free.items()), "train", seed)
    held = Sentences([(name, b) for name, b in worlds.items() if name not in free], "heldout", seed)
    with progress_bar("sentences", "sentences", True) as advance:
        for sentences, where, count in ((train, known, shown), (held, unseen, 8)):
            for i, sentence in enumerate(where):
                for tower in sorted(set(kinds[sentence])):
                    sentences.add(sentence, "people-executed", f"{i}{'t' * tower}", tower, count)
                advance(1, None)
        for i, sentence in enumerate(known):
            rng = seeded(seed, "vary", i)
            for k in range(variations):
                train.add(vary(sentence, rng), "varied", f"{i}-{k}", kinds[sentence][0], 6)
            advance(1, None)
        for i in range(templates):
            tower = i % 3 == 0  # loose things take more words
            train.add(template(seeded(seed, "template", i), tower), "template", str(i), tower, 4)
            advance(1, None)
    table = Table.create(out / "items", "items", extra=ITEM_COLUMNS)
    append(table, items + train.items + held.items)
    return {"boxes": len(boxes), "counts": len(asked), "pictures": len(pictures), "items": len(table)}


def held_out(directory: str) -> bool:
    return int(directory) % 4 == 3


def write_split(labelled: str | Path, out: str | Path, training: str | Path | None = None) -> dict[str, int]:
    """A labelled tar as out/pictures and out/items: all orders of the boxes of each example, grouped as the corpus's
    consistency asks (the first number of an identifier).

    training: the tar of labelled training pictures; the pattern says whether a sentence is one of it, word for word.
    """
    known = {plain(about["sentence"]) for _, _, about in tar_rows(training)} if training else set()
    pictures, items = [], []
    for name, png, about in tar_rows(labelled):
        pictures.append(picture_row(name, png))
        seen = "seen wording" if plain(about["sentence"]) in known else "new wording"
        row = item(name, about["sentence"], seen, name, about["label"], None, "")
        items.append(row | {"group": group_of(name), "directory": about["directory"],
                            "identifier": about["identifier"]})  # fmt: skip
    tables = [Table.create(Path(out) / "pictures", "pictures"),
              Table.create(Path(out) / "items", "items", extra=ITEM_COLUMNS)]  # fmt: skip
    for table, rows in zip(tables, (pictures, items), strict=True):
        append(table, rows)
    return {"pictures": len(tables[0]), "items": len(tables[1])}


def plain(sentence: str) -> str:
    return " ".join(sentence.lower().strip(" .").split())


def picture_row(name: str, png: bytes) -> dict[str, Any]:
    return {"id": name, "bytes": png, "captions": [], "source": "nlvr", "width": WIDTH, "height": BOX, "status": "ok"}


def append(table: Table, rows: list[dict[str, Any]], size: int = 5000) -> None:
    for start in range(0, len(rows), size):
        table.append(rows[start : start + size])
