"""Sides of a split: versions of a picture stay together, and nothing depends on what else is there."""

import io

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image, ImageEnhance

from omma.data.split import LARGEST, RELATIVE, ROUNDING, joined, near_duplicates, split, thumbnail
from omma.scenes.draw import render
from omma.scenes.world import sample_world
from omma.table import Table


def encoded(image: Image.Image, form: str = "PNG", **options) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def pictures(n: int, key: str = "a") -> list[Image.Image]:
    return [render(sample_world("split", key, i), 96) for i in range(n)]


def table_of(folder, rows: dict[str, bytes], **columns) -> Table:
    table = Table.create(folder, extra=columns.pop("extra", None))
    words = [{"text": "a picture", "language": "en"}]
    table.append([{"id": i, "bytes": data, "captions": words, **{k: v.get(i) for k, v in columns.items()}}
                  for i, data in rows.items()])  # fmt: skip
    return table


def sides(table: Table) -> dict[str, str]:
    rows = table.read(["id", "fold"])
    return dict(zip(rows["id"].to_pylist(), rows["fold"].to_pylist(), strict=True))


def versions(image: Image.Image) -> list[bytes]:
    w, h = image.size
    return [
        encoded(image, "JPEG", quality=60),
        encoded(image.resize((2 * w, 2 * h), Image.Resampling.BICUBIC)),
        encoded(ImageEnhance.Brightness(image).enhance(1.03)),
        encoded(image.crop((1, 1, w - 1, h - 1))),
    ]


def test_versions_of_a_picture_never_stand_on_both_sides(tmp_path):
    rows = {}
    for i, image in enumerate(pictures(60)):
        rows[f"{i:02d}-0"] = encoded(image)
        rows |= {f"{i:02d}-{k}": data for k, data in enumerate(versions(image), 1)}
    table = table_of(tmp_path / "t", rows)
    found = split(table, held_out=0.3)
    where = sides(table)
    for i in range(60):
        assert len({where[f"{i:02d}-{k}"] for k in range(5)}) == 1
    assert found.together == 300
    assert found.families <= 60
    assert sum(found.pictures.values()) == 300
    assert 30 <= found.pictures["held-out"] <= 150


def test_pictures_that_differ_are_no_family():
    different = np.stack([thumbnail(image) for image in pictures(300)])
    assert near_duplicates(different) == []


def test_near_duplicates_are_those_of_comparing_all_pairs(monkeypatch):
    base = np.stack([thumbnail(image) for image in pictures(40)])
    draws = np.random.default_rng(0)
    noisy = [np.clip(base + draws.normal(0, sigma, base.shape), 0, 255).astype(np.uint8) for sigma in (4, 8, 12)]
    all_four = np.concatenate([base, *noisy])
    monkeypatch.setattr("omma.data.split.BLOCK", 33)                       # blocks that don't divide the number
    slow = []
    for i in range(160):
        for j in range(i + 1, 160):
            error = np.sqrt(np.square(all_four[i].astype(float) - all_four[j]).mean())
            spread = max(all_four[k].reshape(-1, 3).std(axis=0).max() for k in (i, j))
            if error <= min(LARGEST, RELATIVE * spread + ROUNDING):
                slow.append((i, j))
    assert near_duplicates(all_four) == slow
    assert 40 <= len(slow) < 6 * 40, "some noise is a version, some is not"


def test_pages_of_print_are_told_apart_though_all_are_nearly_white():
    draws = np.random.default_rng(1)
    pages = np.full((30, 512, 512), 250, np.uint8)
    for page in pages:
        for line in range(20, 480, 24):
            page[line : line + 12, 40 : 40 + draws.integers(60, 430)] = 120
    assert near_duplicates(np.stack([thumbnail(Image.fromarray(page)) for page in pages])) == []


def test_minimal_pairs_stay_together(tmp_path):
    rows = {f"p{i:02d}": encoded(image) for i, image in enumerate(pictures(40))}
    group = {f"p{i:02d}": f"g{i // 2}" for i in range(40)}
    table = table_of(tmp_path / "t", rows, group=group, extra=pa.schema([("group", pa.string())]))
    split(table, held_out=0.4)
    where = sides(table)
    assert all(where[f"p{i:02d}"] == where[f"p{i + 1:02d}"] for i in range(0, 40, 2))
    assert set(where.values()) == {"train", "held-out"}


def test_a_table_that_grows_keeps_its_sides(tmp_path):
    rows = {f"p{i:03d}": encoded(image) for i, image in enumerate(pictures(120))}
    few = table_of(tmp_path / "few", dict(list(rows.items())[:70]))
    many = table_of(tmp_path / "many", rows)
    split(few, held_out=0.2, seed=3)
    split(many, held_out=0.2, seed=3)
    before, after = sides(few), sides(many)
    assert before == {i: after[i] for i in before}
    assert sides(many) != dict.fromkeys(after, "train")


def test_what_cannot_be_used_is_on_no_side(tmp_path):
    images = pictures(10)
    table = Table.create(tmp_path / "t")
    words = [{"text": "a picture", "language": "en"}]
    table.append([{"id": f"p{i}", "bytes": encoded(image), "captions": words} for i, image in enumerate(images)])
    table.append([{"id": "mute", "bytes": encoded(images[0]), "captions": []},
                  {"id": "broken", "bytes": b"x", "captions": words, "status": "not_an_image"}])  # fmt: skip
    found = split(table)
    where = sides(table)
    assert (where["mute"], where["broken"], found.unusable) == (None, None, 2)


def test_both_sides_have_something_however_small_the_table_and_the_share(tmp_path):
    two = table_of(tmp_path / "two", {f"p{i}": encoded(image) for i, image in enumerate(pictures(2))})
    for share in (0.001, 0.999):
        assert sorted(split(two, held_out=share).pictures.values()) == [1, 1]


def test_one_picture_alone_and_a_share_that_is_none_are_refused(tmp_path):
    image = pictures(1)[0]
    same = table_of(tmp_path / "same", {"a": encoded(image), "b": encoded(image, "JPEG", quality=90)})
    with pytest.raises(ValueError, match=r"2 usable pictures with captions \(0 left out\), and no two that"):
        split(same)
    with pytest.raises(ValueError, match=r"held_out=1\.5"):
        split(same, held_out=1.5)
    with pytest.raises(ValueError, match="is a table of items; give a table of pictures"):
        split(Table.create(tmp_path / "items", "items"))


def test_a_column_of_somebody_elses_is_not_replaced(tmp_path):
    table = table_of(tmp_path / "t", {f"p{i}": encoded(image) for i, image in enumerate(pictures(6))})
    table.add_column("fold", list("aabbcc"))
    with pytest.raises(ValueError, match=r"has a column 'fold' that is no split of ours .*column="):
        split(table)
    assert table.read(["fold"])["fold"].to_pylist() == list("aabbcc")
    split(table, column="side")
    again = split(table, column="side", seed=1)  # its own it replaces
    assert sum(again.pictures.values()) == 6


def test_components_are_those_of_the_links():
    assert joined(7, [(5, 2), (0, 6), (2, 3), (6, 0)]) == [[0, 6], [1], [2, 3, 5], [4]]
