"""The training table of the shipped eye: what is held out stays out, pairs stay whole, the same bytes each time."""

import importlib.util
import io
import json
import sys
import tarfile
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from omma.scenes.sources import write_scenes
from omma.scenes.splits import design
from omma.scenes.world import World
from omma.table import Table

BENCH = Path(__file__).parents[1] / "bench"


@pytest.fixture
def eye_data():
    found = importlib.util.spec_from_file_location("eye_data", BENCH / "eye_data.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def write_emoji(path: Path, number: int) -> None:
    """So many discs as a WebDataset tar; every third one has a skin tone."""
    with tarfile.open(path, "w") as tar:
        for i in range(number):
            image = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
            ImageDraw.Draw(image).ellipse((4, 4, 60, 60), fill=(40 * i % 256, 90, 200, 255))
            file = io.BytesIO()
            image.save(file, "PNG")
            tone = None if i % 3 else "1F3FB"
            text = {"en": f"disc {i}", "de": f"Scheibe {i}", "ko": f"원반 {i}", "fr": f"disque {i}"}
            character = chr(0x1F600 + i // 3) + ("\U0001f3fb" if tone else "")
            about = {"id": f"twemoji-{i}", "emoji": character, "text": text,
                     "tags": {"en": ["round", "flat", f"disc {i}"]}, "skin_tone": tone}  # fmt: skip
            for name, data in ((f"{i}.png", file.getvalue()), (f"{i}.json", json.dumps(about).encode())):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def make(eye_data, monkeypatch, tmp_path, out: str) -> Table:
    monkeypatch.setattr(eye_data, "UNTONED", 3)
    monkeypatch.setattr(eye_data, "TONED", 1)
    places = [str(tmp_path / "scenes"), "--twemoji", str(tmp_path / "emoji.tar"), "--out", out]
    monkeypatch.setattr(sys, "argv", ["eye_data.py", *places])
    eye_data.main()
    return Table.open(out)


def test_what_is_held_out_is_not_in_the_table(eye_data, monkeypatch, tmp_path):
    write_emoji(tmp_path / "emoji.tar", 60)
    pictures, _ = write_scenes(tmp_path / "scenes", pictures=40, pairs=12, size=64, check=False)
    table = make(eye_data, monkeypatch, tmp_path, str(tmp_path / "table"))
    rows = table.read().to_pylist()

    drawn = [row for row in rows if row["source"] == "scenes"]
    worlds = {row["id"]: World.from_json(row["world"]) for row in pictures.read(["id", "world"]).to_pylist()}
    for name in ("iid", "relation-object", "count"):
        assert all(design(name).admits("train", worlds[row["id"]]) for row in drawn), name
    assert 0 < len(drawn) < len(pictures)
    groups = [row["group"] for row in drawn if row["group"]]
    assert all(groups.count(group) == 2 for group in groups)
    assert all((row["pattern"] is None) == (row["group"] is None) for row in drawn)
    assert all(row["pattern"] in row["group"] for row in drawn if row["group"])

    seen = {row["key"] for row in rows if row["source"] == "twemoji"}
    out = {f"twemoji-{i}" for i in range(60) if eye_data.held_out(chr(0x1F600 + i // 3))}
    assert out  # of twenty characters, some
    assert seen == {f"twemoji-{i}" for i in range(60)} - out
    views = [row for row in rows if row["key"] == min(seen)]
    assert len(views) in (1, 3)
    assert all(row["captions"][0]["text"].startswith("disc ") for row in views)
    assert {caption["language"] for row in rows if row["key"] for caption in row["captions"]} == {
        "en",
        "de",
        "ko",
        "fr",
    }

    again = make(eye_data, monkeypatch, tmp_path, str(tmp_path / "again"))
    assert again.read(table.columns).equals(table.read(table.columns))


def test_all_skin_tones_of_an_emoji_lie_on_one_side(eye_data):
    plain = [chr(0x1F44B + i) for i in range(100)]
    sides = [eye_data.held_out(one) for one in plain]
    assert 1 <= sum(sides) <= 15  # one in sixteen
    for tone in ("\U0001f3fb", "\U0001f3ff", "\ufe0f"):
        assert [eye_data.held_out(one + tone) for one in plain] == sides
