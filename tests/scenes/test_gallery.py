"""The sheets of the gallery page are what the command draws, small, and the same each time."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from omma import cli
from omma.scenes.gallery import LINE, SHEETS, TILE, sheet, write_gallery

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> dict[str, Path]:
    return {path.name: path for path in write_gallery(tmp_path_factory.mktemp("gallery"))}


def test_the_page_shows_the_sheets_that_are_drawn_and_each_is_below_150_kb(drawn):
    assert set(drawn) == {f"gallery-{name}.png" for name in SHEETS}
    for name, path in drawn.items():
        assert f"]({name})" in (DOCS / "gallery.md").read_text()
        assert (DOCS / name).stat().st_size < 150_000
        here, there = (np.asarray(Image.open(p).convert("RGB"), int) for p in (path, DOCS / name))
        assert here.shape == there.shape
        assert np.abs(here - there).mean() < 2, f"{name} is out of date: omma scenes docs --gallery"


def test_the_command_draws_the_same_sheets(drawn, tmp_path, capsys):
    assert cli.run(["scenes", str(tmp_path / "new"), "--gallery", "--json"]) == 0
    assert "gallery-pairs" in capsys.readouterr().out
    for name, path in drawn.items():
        assert (tmp_path / "new" / name).read_bytes() == path.read_bytes()
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == sorted(drawn)


def test_a_sheet_leaves_room_for_all_words_and_keeps_the_pictures():
    red = Image.new("RGB", (TILE, TILE), (200, 0, 0))
    short, long = sheet([[(red, "one")]]), sheet([[(red, "one"), (red, "word " * 40)]])
    assert long.height >= short.height + 5 * LINE
    assert (np.asarray(long.convert("RGB")) == (200, 0, 0)).all(axis=2).sum() == 2 * TILE * TILE
