"""Tars of drawn pictures -> tables: who is shown what, and that no label can be guessed from the words."""

import io
import json
import re
import tarfile
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from omma.data.nlvr.items import balanced, write_split, write_training
from omma.data.nlvr.pictures import Thing, draw, parse
from omma.data.nlvr.sentences import read
from omma.table import Table

SENTENCES = ("There is a tower with a blue block at the top", "There are exactly two black blocks", "Nobody says so")


def picture(seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    boxes = tuple(
        tuple(sorted(Thing(80 - 21 * i, 40, 20, "square", str(rng.choice(("blue", "yellow", "black"))))
                     for i in range(int(rng.integers(1, 5))))) for _ in range(3))  # fmt: skip
    out = io.BytesIO()
    draw(boxes).save(out, "PNG")
    return out.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """48 pictures of towers; of twelve there are sentences, three directories of which one is held out."""
    place = tmp_path_factory.mktemp("nlvr")
    with tarfile.open(place / "images.tar", "w") as images, tarfile.open(place / "labelled.tar", "w") as labelled:
        for n in range(48):
            add(images, f"train-{n}-0-0.png", picture(n))
            if n < 12:
                about = {"directory": str(1 + n % 3), "identifier": f"{n}-0", "label": n % 2 == 0,
                         "sentence": SENTENCES[n % 3] if n < 9 else f"There are exactly {n} items"}  # fmt: skip
                for k in range(2):
                    add(labelled, f"train-{n}-0-{k}.png", picture(n))
                    add(labelled, f"train-{n}-0-{k}.json", json.dumps(about | {"permutation": k}).encode())
    return place


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


@pytest.fixture(scope="module")
def made(folder):
    write_training(folder / "images.tar", folder / "labelled.tar", folder / "out", templates=40, variations=2, shown=8)
    items = Table.open(folder / "out" / "items").read().to_pylist()
    return folder / "out", items


def test_every_sentence_is_as_often_true_as_false_beside_peoples_own_labels(made):
    _, items = made
    sides: dict[tuple[str, str], Counter] = {}
    for row in items:
        if row["pattern"] != "people":
            sides.setdefault((row["split"], row["prompt"]), Counter())[row["answer"]] += 1
    assert len(sides) > 20
    assert all(side["true"] == side["false"] > 0 for side in sides.values())
    assert {row["pattern"] for row in items} == {"people", "people-executed", "varied", "template"}


def test_answers_and_parts_are_those_of_the_picture_that_is_shown(made):
    out, items = made
    pictures = {row["id"]: row["bytes"] for row in Table.open(out / "pictures").read(["id", "bytes"]).to_pylist()}
    for row in items[:200]:
        if row["pattern"] == "people":
            continue
        meaning = read(row["prompt"])
        boxes = parse(Image.open(io.BytesIO(pictures[row["pictures"][0]])))
        assert (row["answer"] == "true") == meaning.truth(boxes)
        assert row["parts"] is None or tuple(row["parts"]) == meaning.parts(boxes)


def test_pictures_of_held_out_directories_are_in_no_training_item_and_no_box(made):
    out, items = made
    held = {f"train-{n}-0-0" for n in range(12) if 1 + n % 3 == 3}
    for row in items:
        assert (row["pictures"][0] in held) == (row["split"] == "heldout")
    boxes = Table.open(out / "boxes" / "pictures").read(["id", "tags"]).to_pylist()
    assert not held & {row["id"].rsplit(".", 1)[0] for row in boxes}
    assert all(row["tags"] for row in boxes)
    counted = Table.open(out / "boxes" / "items").read(["pictures", "prompt", "parts"]).to_pylist()
    known = {row["id"]: row["tags"] for row in boxes}
    simple = [row for row in counted if row["prompt"] in ("blue block", "yellow block", "black block")]
    assert len(simple) > 5
    for row in simple:
        kind = row["prompt"].replace("block", "square")
        said = [tag for tag in known[row["pictures"][0]] if re.fullmatch(rf"\d {kind}s?", tag)]
        assert len(said) == row["parts"][0]


def test_balanced_gives_nothing_for_a_sentence_that_is_always_true():
    worlds = [(str(n), parse(Image.open(io.BytesIO(picture(n))))) for n in range(20)]
    assert balanced(read("There is at least one block"), worlds, 4, np.random.default_rng(0)) == []


def test_a_split_keeps_every_order_of_the_boxes_and_groups_by_the_first_number(folder):
    assert write_split(folder / "labelled.tar", folder / "split", folder / "labelled.tar") == {
        "pictures": 24, "items": 24}  # fmt: skip
    rows = Table.open(folder / "split" / "items").read().to_pylist()
    assert Counter(row["group"] for row in rows) == {str(n): 2 for n in range(12)}
    assert {row["pattern"] for row in rows} == {"seen wording"}
    write_split(folder / "labelled.tar", folder / "fresh")
    assert {row["pattern"] for row in Table.open(folder / "fresh" / "items").read().to_pylist()} == {"new wording"}
