"""omma index, omma search and omma ask as they are typed: what is said, on which stream, with which exit code."""

import json

import numpy as np
import pytest
from PIL import Image

from omma import cli
from omma.data.ingest import ingest
from omma.embedding import embed


def says(capsys, *args) -> tuple[int, str, str]:
    code = cli.run([str(arg) for arg in args])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture
def photos(tmp_path, monkeypatch, colour_encoder):
    for module in ("build", "find"):
        monkeypatch.setattr(f"omma.retrieval.{module}.load_encoder", lambda name, **_: colour_encoder)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, colour in {"cup": (250, 20, 20), "leaf": (20, 250, 20)}.items():
        pixels = np.zeros((16, 16, 3), np.uint8)
        pixels[:, :8] = colour
        Image.fromarray(pixels).save(folder / f"{name}.png")
    (folder / "cup.txt").write_text("a cup on a shelf")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    return folder


def test_a_folder_is_indexed_and_searched_in_two_lines(capsys, photos):
    code, out, err = says(capsys, "index", "photos")
    assert code == 0
    assert "3/3 files" in err
    assert "1 file can't be read" in out
    assert "photos/broken.jpg" in out
    assert "omma search" in out
    code, out, _ = says(capsys, "search", "red")
    assert code == 0
    assert out.index("photos/cup.png") < out.index("photos/leaf.png")
    assert "a cup on a shelf" in out


def test_a_question_longer_than_a_file_may_be_called_is_a_question(capsys, photos):
    says(capsys, "index", "photos")
    for long in ("a red cup on the shelf " * 435, "고양이가 앉아 있는 파란 의자 " * 20, "red/" * 80 + "\udcff"):
        for more in ((), ("--image", photos / "leaf.png")):
            code, out, err = says(capsys, "search", long, "-k", 1, *more, "--json")
            assert (code, err) == (0, "")
            assert len(json.loads(out)["hits"]) == 1


@pytest.mark.parametrize("columns", [40, 60, 80, 120])
def test_hits_fit_the_terminal_and_always_say_where_they_are(capsys, photos, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    deep = photos / "a-folder-of-holidays" / "in-another-one-by-the-sea"
    deep.mkdir(parents=True)
    (deep / "story.txt").write_text("A red cup, of which a long story is told that no terminal has room for. " * 3)
    says(capsys, "index", "photos")
    out = says(capsys, "search", "red cup")[1]
    assert max(len(line) for line in out.splitlines()[1:]) <= columns
    assert {line[-1] for line in out.splitlines()[1:]} <= set("┓┃┩│┘")
    column = [name.strip() for name in out.splitlines()[2].split("┃")].index("where")
    said = "".join(line.split("│")[column].strip() for line in out.splitlines() if line.startswith("│"))
    assert "photos/cup.png" in said
    assert "photos/a-folder-of-holidays/in-another-one-by-the-sea/story.txt:1" in said


def test_json_is_one_object_and_its_numbers_are_those_of_the_hits(capsys, photos):
    code, out, _ = says(capsys, "index", "photos", "--json")
    assert code == 0
    (run,) = json.loads(out)["runs"]
    assert (run["new"], run["unreadable"], run["same"]) == (2, 1, 0)
    assert json.loads(says(capsys, "index", "--json")[1])["runs"][0]["same"] == 3
    code, out, _ = says(capsys, "search", "photos", "green", "-k", 1, "--by", "look", "--json")
    (hit,) = json.loads(out)["hits"]
    assert hit["place"] == str(photos / "leaf.png")
    assert set(hit["scores"]) == {"look"}
    assert hit["row"]["kind"] == "picture"
    assert "thumbnail" not in hit["row"]


def test_a_picture_and_words_beside_it_are_asked_for(capsys, photos):
    says(capsys, "index", "photos", "--index", "mine.db")
    for place in (("--index", "mine.db"), ("mine.db",)):
        code, out, _ = says(capsys, "search", *place, "--image", photos / "leaf.png", "-k", 1, "--json")
        assert code == 0
        assert json.loads(out)["hits"][0]["place"].endswith("leaf.png")
    code, out, _ = says(capsys, "search", "mine.db", "shelf", "--image", photos / "cup.png", "-k", 1, "--json")
    assert set(json.loads(out)["hits"][0]["scores"]) == {"look", "like", "words"}


def test_status_check_and_forget_say_what_they_did(capsys, photos):
    says(capsys, "index", "photos")
    assert "3 files" in says(capsys, "index", "status")[1]
    for verb, folder in (("status", "check"), ("check", "Pictures")):
        code, _, err = says(capsys, "index", verb, folder)
        assert (code, f"{folder!r} is one word too many" in " ".join(err.replace("│", " ").split())) == (2, True), err
    assert json.loads(says(capsys, "index", "check", "--json")[1])["recall by pictures"] == 1
    assert says(capsys, "index", "forget", "photos")[1] == f"forgot 3 files of {photos.name}\n"
    assert "nothing found" in says(capsys, "search", "red", "--by", "words")[1]


@pytest.mark.parametrize(("args", "told"), [
    (("search", "red"), "no index at "),
    (("search", "nowhere", "red"), "no folder, index or table at nowhere"),
    (("index", "nowhere"), "no folder at "),
    (("index",), "no index at "),
    (("search", "red", "--image", "gone.png"), "no picture at gone.png"),
])  # fmt: skip
def test_what_cannot_be_done_is_one_line_and_exit_2(capsys, photos, args, told):
    code, out, err = says(capsys, *args)
    assert (code, out) == (2, "")
    assert err.startswith(f"omma: {told}")
    assert len(err.splitlines()) == 1


def test_hits_in_a_table_are_drawn_too_but_for_those_whose_file_is_gone(capsys, photos, monkeypatch, colour_encoder):
    monkeypatch.setattr("omma.load_encoder", lambda name, device="auto": colour_encoder, raising=False)
    table = ingest(photos, photos.parent / "table", store="reference")
    embed(table, colour_encoder)
    for gone, numbers in ((None, ["1", "2"]), ("cup.png", ["2"])):
        if gone:
            (photos / gone).unlink()
        _, out, _ = says(capsys, "search", "table", "red", "--encoder", "colours", "--thumbnails", "blocks",
                         "--where", "status == 'ok'")  # fmt: skip
        assert out.split("hits for")[0].splitlines()[-1].split() == numbers
    for more in (["--diverse", 0.5], ["--by", "words"], ["--vectors", "near"], ["--index", "mine.db"]):
        code, out, err = says(capsys, "search", "table", "red", "--encoder", "colours", *more)
        assert (code, out) == (2, "")
        assert f"table is a table, and {more[0]} is for an index" in " ".join(err.split())


def test_thumbnails_come_when_asked_for_or_in_a_terminal_and_never_into_json(capsys, photos, monkeypatch):
    says(capsys, "index", "photos")
    for name in ("TERM", "TERM_PROGRAM", "COLORTERM", "TMUX", "STY", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-kitty")
    assert "\x1b" not in says(capsys, "search", "red")[1]  # a pipe
    _, out, _ = says(capsys, "search", "red", "--thumbnails", "blocks")
    head, table = out.split("hits for", 1)
    assert head.count("▀") > 50
    assert "#" in table
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert says(capsys, "search", "red", "-k", 1)[1].startswith("\x1b_Ga=T,f=100,")
    assert "\x1b_G" not in says(capsys, "search", "red", "--thumbnails", "none")[1]
    assert len(json.loads(says(capsys, "search", "red", "--json")[1])["hits"]) == 2
    code, out, err = says(capsys, "search", "red", "--json", "--thumbnails", "sixel")
    assert (code, out) == (2, "")
    assert "leave out --thumbnails" in err


@pytest.mark.parametrize(("words", "told"), [
    ("It stands on a shelf [1].", ["It stands on a shelf [1].", "[1] photos/cup.png", "support 1.00, teller"]),
    ("", ["The model gave no answer.", "support 1.00, teller"]),
    ("Not in the sources.", ["Not in the sources.", "support 1.00, teller"]),
    ('CALL {"tool": "count"}', ['CALL ("tool": "count")', "The model gave no answer.", "support 1.00, teller"]),
])  # fmt: skip
def test_what_is_answered_is_always_said_with_its_sources_seen_from_here(capsys, photos, monkeypatch, words, told):
    class Teller:
        name = "teller"

        def generate(self, images, prompt, max_new_tokens=64):
            return words

    monkeypatch.setattr("omma.retrieval.answer.load_vlm", lambda name, **_: Teller())
    says(capsys, "index", "photos")
    code, out, err = says(capsys, "ask", "cup shelf", "--where", "name == 'cup.png'")
    assert (code, err) == (0, "")
    assert [line.strip() for line in out.splitlines()] == told
    code, out, err = says(capsys, "ask", "cup shelf", "--where", "name == 'cup.png'", "--json")
    assert json.loads(out)["text"] == (told[1] if "CALL" in words else told[0])
    assert err.endswith("\n")
