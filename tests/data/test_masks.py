"""Masks of a folder become a column; what does not fit its picture or its classes is refused."""

import io

import numpy as np
import pytest
from PIL import Image

import omma
from omma.data.masks import add_masks
from omma.decode import Limits, label_map
from omma.scenes.draw import render_ids
from omma.scenes.kinds import KINDS
from omma.scenes.sources import write_scenes
from omma.scenes.world import World


@pytest.fixture
def table(tmp_path):
    folder = tmp_path / "photos" / "deep"
    folder.mkdir(parents=True)
    for name in ("a", "b"):
        Image.effect_noise((12, 8), 50).convert("RGB").save(folder / f"{name}.jpg")
    return omma.ingest(tmp_path / "photos", tmp_path / "table")


def write(folder, name, values, mode="L"):
    folder.mkdir(exist_ok=True)
    image = Image.fromarray(np.array(values, dtype=np.uint8).repeat(4, axis=0).repeat(6, axis=1))
    if mode == "P":
        image = image.convert("P")
        image.putpalette([9, 200, 30] * 256)
    image.save(folder / f"{name}.png")


@pytest.mark.parametrize("mode", ["L", "P"])
def test_values_count_from_the_first_class_and_lower_ones_are_none(tmp_path, table, mode):
    write(tmp_path / "masks", "a", [[0, 1], [2, 255]], mode)
    made = add_masks(table, tmp_path / "masks", classes=["wall", "sky"], first=1)
    rows = {row["id"]: row["mask"] for row in made.read(["id", "mask"]).to_pylist()}
    assert rows["deep/b.jpg"] is None
    values = np.asarray(Image.open(io.BytesIO(rows["deep/a.jpg"])))
    assert values[::4, ::6].tolist() == [[255, 0], [1, 255]]
    assert made.info["mask_classes"] == ["wall", "sky"]


def test_what_does_not_fit_is_refused(tmp_path, table):
    write(tmp_path / "masks", "a", [[0, 3], [0, 0]])
    with pytest.raises(ValueError, match=r"has the value 3; 2 classes from 0 on end at 1"):
        add_masks(table, tmp_path / "masks", classes=["wall", "sky"])
    write(tmp_path / "small", "a", [[0, 1]])
    with pytest.raises(ValueError, match=r"12 x 4 pixels, its picture 12 x 8"):
        add_masks(table, tmp_path / "small", classes=["wall", "sky"])
    write(tmp_path / "others", "c", [[0, 1], [1, 0]])
    with pytest.raises(ValueError, match="no picture of"):
        add_masks(table, tmp_path / "others", classes=["wall", "sky"])
    assert "mask" not in omma.Table.open(table.uri).columns


def test_a_mask_is_never_given_to_another_picture_of_the_same_file_name(tmp_path):
    for folder in ("x", "y", "z"):
        (tmp_path / "photos" / folder).mkdir(parents=True)
        Image.effect_noise((12, 8), 50).convert("RGB").save(tmp_path / "photos" / folder / "a.jpg")
    Image.effect_noise((12, 8), 50).convert("RGB").save(tmp_path / "photos" / "z" / "b.jpg")
    table = omma.ingest(tmp_path / "photos", tmp_path / "table")
    (tmp_path / "masks").mkdir()
    write(tmp_path / "masks" / "x", "a", [[0, 1], [1, 0]])
    write(tmp_path / "masks" / "others", "b", [[0, 1], [1, 1]])
    made = add_masks(table, tmp_path / "masks", classes=["wall", "sky"])
    assert [name for name, mask in zip(made.read(["id"])["id"].to_pylist(), made.read(["mask"])["mask"].to_pylist(),
                                       strict=True) if mask] == ["x/a.jpg", "z/b.jpg"]  # fmt: skip
    write(tmp_path / "masks" / "others", "a", [[0, 1], [1, 1]])  # of y's picture or of z's?
    made = add_masks(table, tmp_path / "masks", classes=["wall", "sky"])
    assert made.read(["mask"])["mask"].null_count == 2


def test_a_scene_tells_for_every_pixel_which_kind_of_thing_is_there(tmp_path):
    pictures, _ = write_scenes(tmp_path / "scenes", pictures=4, pairs=0, size=64, masks=True)
    assert pictures.info["mask_classes"][1:] == list(KINDS)
    for row in pictures.read(["world", "mask"]).to_pylist():
        world = World.from_json(row["world"])
        values, ids = np.asarray(Image.open(io.BytesIO(row["mask"]))), render_ids(world, 64) % 32
        assert ((values == 0) == (ids == 0)).all()
        for number, thing in enumerate(world.things, 1):
            assert (values[ids == number] == 1 + list(KINDS).index(thing.kind)).all()


def png(pixels, mode=None) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels, mode).save(out, "PNG")
    return out.getvalue()


def test_a_label_map_is_its_numbers_or_says_why_not():
    numbers = np.arange(64, dtype=np.uint8).reshape(8, 8)
    assert (label_map(png(numbers)) == numbers).all()
    flat = png(np.zeros((3000, 3000), dtype=np.uint8))  # packs a thousandfold, and is a mask all the same
    assert label_map(flat).shape == (3000, 3000)
    colours = png(np.zeros((8, 8, 3), dtype=np.uint8))
    deep = png(np.full((8, 8), 300, dtype=np.uint16))
    for data, reason in ((b"GIF89a", "no PNG"), (png(numbers)[:-30], "truncated"), (colours, "mode RGB"),
                         (deep, "mode I;16")):  # fmt: skip
        with pytest.raises(ValueError, match=reason):
            label_map(data)
    with pytest.raises(ValueError, match="too_many_pixels: 3000 x 3000"):  # told by the header
        label_map(flat, Limits(max_pixels=1_000_000))
