"""Each layout is read again by a reader that knows only the description of the layout, and agrees with the world."""

import csv
import io
import json
import re
from collections import Counter, defaultdict
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from omma.scenes.kinds import EVERYTHING, PATTERNS, cast
from omma.scenes.layouts import LAYOUTS, export_scenes
from omma.scenes.sources import write_scenes
from omma.scenes.world import sample_world
from omma.table import Table


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("exported")
    write_scenes(out, pictures=120, pairs=4, seed=3, size=64, split="test")
    for layout in LAYOUTS:
        export_scenes(out, layout)
    return out


@pytest.fixture(scope="module")
def tables(folder):
    pictures = {row["id"]: row for row in Table.open(folder / "pictures").read().to_pylist()}
    return pictures, Table.open(folder / "items").read().to_pylist()


def rows_of(path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))[1:]


def lines_of(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def fields(pattern: str, text: str) -> tuple[str, ...]:
    found = re.fullmatch(pattern, text)
    assert found, text
    return found.groups()


def close(one: bytes, other: bytes) -> float:
    """Mean difference of two encoded pictures in grey levels."""
    a, b = (np.asarray(Image.open(io.BytesIO(x)).convert("RGB"), float) for x in (one, other))
    return float(np.abs(a - b).mean())


def test_mmvp_pairs_share_question_and_options_and_answer_oppositely(folder, tables):
    pictures, items = tables
    rows = rows_of(folder / "mmvp" / "Questions.csv")
    assert [row[0] for row in rows] == [str(i + 1) for i in range(2 * 4 * 9)]
    assert len(list((folder / "mmvp" / "MMVP Images").iterdir())) == len(rows)
    asked = {(r["prompt"], r["pictures"][0]): r for r in items if r["task"] == "question"}
    for first, second in zip(rows[::2], rows[1::2], strict=True):
        assert first[1:3] == second[1:3]
        assert {first[3], second[3]} == {"(a)", "(b)"}
        options = dict(zip("ab", fields(r"\(a\) (.+) \(b\) (.+)", first[2]), strict=True))
        for row in (first, second):
            data = (folder / "mmvp" / "MMVP Images" / f"{row[0]}.jpg").read_bytes()
            prompt = row[1][0].lower() + row[1][1:]
            fitting = [r for (p, id_), r in asked.items() if p == prompt and close(data, pictures[id_]["bytes"]) < 4]
            assert options[row[3][1]] in {r["answer"] for r in fitting}


def test_mmvp_answers_are_those_of_the_items_row_by_row(folder, tables):
    _, items = tables
    wanted = [r for p in PATTERNS for r in items if r["task"] == "question" and r["pattern"] == p]
    rows = rows_of(folder / "mmvp" / "Questions.csv")
    for row, item in zip(rows, wanted, strict=True):
        assert row[1].lower() == item["prompt"].lower()
        letter = "(a)" if item["options"][0] == item["answer"] else "(b)"
        assert row[2] == f"(a) {item['options'][0]} (b) {item['options'][1]}"
        assert row[3] == letter


def test_mmvp_vlm_has_pairs_of_statements_by_type_each_with_its_own_picture(folder, tables):
    pictures, items = tables
    rows = rows_of(folder / "mmvp-vlm" / "Questions.csv")
    pairs = [r for p in PATTERNS for r in items if r["task"] == "pairs" and r["pattern"] == p]
    assert len(rows) == 2 * len(pairs) == 72
    assert [len({row[1] for row in rows[i : i + 8]}) for i in range(0, 72, 8)] == [1] * 9
    assert len({row[1] for row in rows}) == 9
    for number, row in enumerate(rows):
        pair = pairs[number // 2]
        assert row[0] == str(number + 1)
        assert row[2] == pair["options"][number % 2]
        data = (folder / "mmvp-vlm" / "MLLM_VLM Images" / row[1] / f"{row[0]}.jpg").read_bytes()
        own, other = (pictures[pair["pictures"][i]]["bytes"] for i in (number % 2, 1 - number % 2))
        assert close(data, own) < 3
        assert close(data, own) < close(data, other)


@pytest.mark.parametrize("strategy", ["random", "popular", "adversarial"])
def test_pope_asks_for_three_objects_that_are_there_and_three_that_are_not(folder, tables, strategy):
    pictures, _ = tables
    lines = lines_of(folder / "pope" / f"scenes_pope_{strategy}.json")
    assert [line["question_id"] for line in lines] == list(range(1, len(lines) + 1))
    assert [line["label"] for line in lines[:6]] == ["yes", "no"] * 3
    by_image = defaultdict(list)
    for line in lines:
        article, kind = fields(r"Is there (an?) (\w+) in the image\?", line["text"])
        assert (article == "an") == (kind[0] in "aeiou")
        row = pictures[line["image"].removesuffix(".png")]
        there = any(f.endswith(f", {kind})") and f.startswith("kind(") for f in row["facts"])
        assert line["label"] == ("yes" if there else "no")
        assert (folder / "pope" / "images" / line["image"]).read_bytes() == row["bytes"]
        by_image[line["image"]].append(kind)
    assert all(len(kinds) == len(set(kinds)) == 6 for kinds in by_image.values())
    assert len(by_image) >= 20


def test_pope_negatives_follow_the_counts_of_the_pictures(folder, tables):
    pictures, _ = tables
    plain = [r for r in pictures.values() if r["group"] is None]
    kinds = {r["id"]: {f.split(", ")[1][:-1] for f in r["facts"] if f.startswith("kind(")} for r in plain}
    frequency = Counter(k for each in kinds.values() for k in each)
    together = Counter((k, other) for each in kinds.values() for k in each for other in each if k != other)

    def asked(strategy):
        for line in lines_of(folder / "pope" / f"scenes_pope_{strategy}.json"):
            yield line["image"].removesuffix(".png"), line["text"].split()[3], line["label"]

    for strategy in ("popular", "adversarial"):
        seen = defaultdict(list)
        rows = list(asked(strategy))
        for (id_, positive, yes), (same, negative, no) in zip(rows[::2], rows[1::2], strict=True):
            assert (id_, yes, no) == (same, "yes", "no")
            left = [k for k in frequency if k not in kinds[id_] and k not in seen[id_]]
            count = (lambda k: frequency[k]) if strategy == "popular" else (lambda k, p=positive: together[p, k])
            assert count(negative) == max(map(count, left))
            seen[id_].append(negative)
    random = Counter(kind for _, kind, label in asked("random") if label == "no")
    assert len(random) > len(Counter(kind for _, kind, label in asked("popular") if label == "no"))
    listed = json.loads((folder / "pope" / "scenes_co_occur.json").read_text())
    for kind, others in listed.items():
        counts = [together[kind, other] for other in others]
        assert all(a >= b for a, b in pairwise(counts))


def test_nlvr2_sentences_are_true_of_one_order_of_the_pictures_and_false_of_the_other(folder, tables):
    pictures, items = tables
    lines = lines_of(folder / "nlvr2" / "test.json")
    pairs = [r for p in PATTERNS for r in items if r["task"] == "pairs" and r["pattern"] == p]
    assert len(lines) == 8 * len(pairs)
    groups = defaultdict(list)
    for line in lines:
        split, set_, pair, sentence = line["identifier"].split("-")
        groups[split, set_, sentence].append(line["label"])
        row = pairs[int(set_)]
        a, b = (pictures[id_] for id_ in row["pictures"])
        shown = [(folder / "nlvr2" / line[f"{side}_url"]).read_bytes() for side in ("left", "right")]
        assert shown == [x["bytes"] for x in ((a, b) if pair == "0" else (b, a))]
        side, core = fields(r"(?:The|In the) (left|right) image (?:shows )?(.+)\.", line["sentence"])
        told = [s for s in row["options"] if s.endswith(core)]
        assert len(told) == 1
        own = row["pictures"][row["options"].index(told[0])]
        which = pictures[own]["bytes"] == shown[("left", "right").index(side)]
        assert line["label"] == str(which)
    assert {tuple(sorted(labels)) for labels in groups.values()} == {("False", "True")}


def test_two_exports_of_a_folder_are_the_same_bytes(folder, tmp_path):
    for layout in LAYOUTS:
        export_scenes(folder, layout, tmp_path / layout)
        for path in (p for p in (tmp_path / layout).rglob("*") if p.is_file()):
            assert path.read_bytes() == (folder / layout / path.relative_to(tmp_path / layout)).read_bytes()


def test_kinds_that_keep_company_stand_together_as_often_as_asked():
    share = 0.8

    def rate(who) -> float:
        worlds = [sample_world("company", i, cast=who) for i in range(4000)]
        mixed = [w.things for w in worlds if len(w.things) > 1 and any(t.attributes for t in w.things)]
        several = [{t.kind for t in things} for things in mixed]
        with_one = [kinds for kinds in several if "cup" in kinds or "ball" in kinds]
        return sum({"cup", "ball"} <= kinds for kinds in with_one) / len(with_one)

    assert rate(EVERYTHING) < 0.1
    assert abs(rate(cast(together=[("cup", "ball", share)])) - share) < 0.07
    assert rate(cast(together=[("cup", "ball", 0.0)])) < 0.1


def test_company_that_is_kept_is_what_adversarial_questions_ask_for(tmp_path):
    write_scenes(tmp_path, pictures=150, pairs=0, size=64, together=[("fish", "lamp", 0.9)])
    export_scenes(tmp_path, "pope")
    listed = json.loads((tmp_path / "pope" / "scenes_co_occur.json").read_text())
    assert (listed["fish"][0], listed["lamp"][0]) == ("lamp", "fish")


@pytest.mark.parametrize("bad", [("cup", "cup", 0.5), ("cup", "dog", 0.5), ("cup", "ball", 1.5)])
def test_company_that_cannot_be_kept_is_refused(bad):
    with pytest.raises(ValueError, match="two different kinds of"):
        cast(together=[bad])


def test_what_cannot_be_exported_is_an_error_that_leaves_nothing_behind(folder, tmp_path):
    with pytest.raises(ValueError, match="there are mmvp, mmvp-vlm, pope, nlvr2"):
        export_scenes(folder, "coco")
    with pytest.raises(ValueError, match="is there already"):
        export_scenes(folder, "mmvp")
    write_scenes(tmp_path, pictures=2, pairs=0, size=64)
    for layout, lacking in (("mmvp", "no pairs"), ("nlvr2", "no pairs"), ("pope", "no plain picture of 3")):
        with pytest.raises(ValueError, match=lacking):
            export_scenes(tmp_path, layout)
        assert not (tmp_path / layout).exists()
