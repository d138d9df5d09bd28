"""bench/emoji_set.py on packages made here: what its tars hold, that they are the same twice, and what it refuses."""

import hashlib
import importlib.util
import io
import json
import tarfile
from base64 import b64encode
from pathlib import Path

import pytest
from PIL import Image

SPEC = importlib.util.spec_from_file_location("emoji_set", Path(__file__).parents[1] / "bench" / "emoji_set.py")
assert SPEC is not None
assert SPEC.loader is not None
emoji_set = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(emoji_set)

GRINNING = {"unified": "1F600", "category": "Smileys & Emotion", "subcategory": "face-smiling"}
POINTING = {
    "unified": "261D-FE0F", "category": "People & Body", "subcategory": "hand-single-finger",
    "skin_variations": {"1F3FB": {"unified": "261D-1F3FB"}},
}  # fmt: skip
UNDRAWN = {"unified": "1F601", "category": "Smileys & Emotion", "subcategory": "face-smiling"}


def png(colour: str) -> bytes:
    data = io.BytesIO()
    Image.new("RGBA", (64, 64), colour).save(data, "PNG")
    return data.getvalue()


def names(language: str) -> list[dict]:
    grin = {"hexcode": "1F600", "emoji": "😀", "label": f"grin {language}", "tags": ["smile", "face"]}
    tone = {"hexcode": "261D-1F3FB", "emoji": "☝🏻", "label": f"light point {language}"}
    point = {"hexcode": "261D", "emoji": "☝️", "label": f"point {language}", "tags": ["hand"], "skins": [tone]}
    return [point] if language == "ja" else [grin, point]


@pytest.fixture
def packages(tmp_path, monkeypatch) -> Path:
    """The three packages with two drawn emoji, one of them in one tone too, and their hashes known to the script."""
    files = {emoji_set.NAMES: {f"{name}/data.json": json.dumps(names(name)).encode() for name in emoji_set.LANGUAGES}}
    for design, colour in zip(emoji_set.DESIGNS.values(), ("red", "blue"), strict=True):
        folder = design.pictures.removeprefix("package/")
        codes = ("1f600", "261d-fe0f", "261d-1f3fb")
        files[design.package] = {f"{folder}{code}.png": png(colour) for code in codes}
        files[design.package]["emoji.json"] = json.dumps([POINTING, GRINNING, UNDRAWN]).encode()
        files[design.package]["img/sheets/64.png"] = b"never read"
    folder = tmp_path / "packages"
    folder.mkdir()
    for package, contents in files.items():
        path = folder / f"{package.replace('@', '-')}.tgz"
        with tarfile.open(path, "w:gz") as tar:
            for name, content in contents.items():
                member = tarfile.TarInfo(f"package/{name}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        digest = b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
        monkeypatch.setitem(emoji_set.INTEGRITY, package, f"sha512-{digest}")
    return folder


def test_each_design_holds_its_pictures_with_the_names_and_tags_of_every_language(packages, tmp_path, capsys):
    twemoji, noto = emoji_set.build(packages, tmp_path / "out")
    with tarfile.open(noto) as tar:
        ids = ["noto-261d-fe0f", "noto-261d-1f3fb", "noto-1f600"]
        assert tar.getnames() == [f"{name}.{suffix}" for name in ids for suffix in ("json", "png")]
    point, tone, grin = [record for record, _ in emoji_set.read_set(noto).values()]
    assert grin == {
        "id": "noto-1f600", "source": "noto", "emoji": "😀", "skin_tone": None,
        "category": "Smileys & Emotion", "subcategory": "face-smiling",
        "text": {name: f"grin {name}" for name in emoji_set.LANGUAGES if name != "ja"},
        "tags": {name: ["face", "smile"] for name in emoji_set.LANGUAGES if name != "ja"},
    }  # fmt: skip
    about = [(r["emoji"], r["skin_tone"], r["text"]["ko"], r["tags"]["ko"]) for r in (point, tone)]
    assert about == [("☝️", None, "point ko", ["hand"]), ("☝🏻", "1F3FB", "light point ko", [])]
    assert emoji_set.read_set(noto)["noto-1f600"][1] == ((64, 64), bytes([0, 0, 255, 255]) * 64 * 64)
    assert emoji_set.read_set(twemoji)["twemoji-1f600"][1] == ((64, 64), bytes([255, 0, 0, 255]) * 64 * 64)
    said = capsys.readouterr().out
    assert "noto.tar: 3 emoji, 1 left out for want of a picture" in said
    assert "names missing in 1\n" in said
    assert "CC-BY 4.0" in said
    assert "Apache 2.0" in said


def test_building_twice_gives_the_same_bytes(packages, tmp_path):
    pairs = zip(emoji_set.build(packages, tmp_path / "a"), emoji_set.build(packages, tmp_path / "b"), strict=True)
    for one, again in pairs:
        assert one.read_bytes() == again.read_bytes()


def test_a_package_of_another_content_is_refused_before_anything_is_written(packages, tmp_path):
    path = packages / "emoji-datasource-google-16.0.0.tgz"
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(ValueError, match=r"emoji-datasource-google-16\.0\.0\.tgz is sha512-.*, not sha512-"):
        emoji_set.build(packages, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_missing_package_is_named_with_the_command_that_fetches_it(packages, tmp_path):
    (packages / "emojibase-data-17.0.0.tgz").unlink()
    with pytest.raises(ValueError, match=r"Run there: npm pack emojibase-data@17\.0\.0"):
        emoji_set.build(packages, tmp_path / "out")


def test_without_npm_the_error_says_how_to_go_on(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match=r"no npm here .* --packages FOLDER"):
        emoji_set.npm_pack(tmp_path)


def test_compare_counts_what_is_equal_and_names_what_is_not(packages, tmp_path, capsys):
    built = emoji_set.build(packages, tmp_path / "out")
    rows = [record for record, _ in emoji_set.read_set(built[1]).values()]
    rows[2]["text"]["ko"] = "another name"
    pictures = {"1f600": png("blue"), "261d-1f3fb": png("blue"), "261d-fe0f": png("green")}
    emoji_set.write_set(tmp_path / "other.tar", rows, pictures)
    capsys.readouterr()
    emoji_set.compare(built, built[1])
    said = capsys.readouterr().out
    assert "3 emoji, 3 built, 3 ids in both; of these the same pixels 3, names 3, tags 3; order the same" in said
    emoji_set.compare(built, tmp_path / "other.tar")
    said = capsys.readouterr().out
    assert "the same pixels 2, names 2, tags 3; " in said
    assert "not the same in all: noto-1f600, noto-261d-fe0f\n" in said
