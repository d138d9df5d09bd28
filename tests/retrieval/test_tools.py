"""Tools: pure functions of a picture, on pictures whose truth is drawn."""

import numpy as np
import pytest
from PIL import Image
from tool_pictures import ShapeEye, noise, scene

from omma.retrieval.colours import lab
from omma.retrieval.things import PieceDetector, Unclear, background, cut, pieces
from omma.retrieval.tools import TOOLS, Sight, ToolFailed, checked

THINGS = [("red", "ball", 0.2, 0.3, 12), ("red", "box", 0.5, 0.3, 12), ("red", "ball", 0.8, 0.3, 12),
          ("blue", "ball", 0.2, 0.75, 12), ("yellow", "box", 0.8, 0.75, 12)]  # fmt: skip


@pytest.fixture
def sight() -> Sight:
    return Sight(ShapeEye())


def run(name, image, sight, **arguments):
    tool, _, given = checked(name, arguments, 1)
    return tool.run(image, sight, **given)


def test_things_stand_out_from_a_plain_ground_each_with_its_box():
    found = pieces(scene(THINGS))
    assert len(found) == 5
    truth = sorted((x - 12 / 128, y - 12 / 96, x + 12 / 128, y + 12 / 96) for _, _, x, y, _ in THINGS)
    boxes = sorted(tuple(piece.box) for piece in found)
    np.testing.assert_allclose(boxes, truth, atol=1.5 / 96)
    assert [piece.box[0] for piece in found] == sorted(piece.box[0] for piece in found)


def test_two_tints_are_one_background_and_a_part_drawn_apart_belongs_to_its_thing():
    image = scene([("blue", "box", 0.5, 0.5, 20)])
    pixels = np.asarray(image).copy()
    low = pixels[60:]
    low[(low == (230, 235, 240)).all(-1)] = (190, 200, 185)
    pixels[44:52, 60:68] = (230, 235, 240)                             # a hole ...
    pixels[46:50, 62:66] = (208, 46, 46)                               # ... with a spot in it
    found = pieces(Image.fromarray(pixels.astype(np.uint8)))
    assert len(found) == 1
    assert found[0].mask[48, 64]
    assert len(background(lab(pixels))) == 2


def test_where_the_background_is_not_plain_nothing_is_claimed(sight):
    with pytest.raises(Unclear, match="not plain"):
        pieces(noise())
    with pytest.raises(ToolFailed, match="not plain"):
        run("count", noise(), sight, thing="ball")
    with pytest.raises(Unclear, match="too small"):
        pieces(Image.new("RGB", (4, 400)))


def test_a_count_is_that_of_kind_and_colour(sight):
    image = scene(THINGS)
    for thing, number in (("balls", 3), ("red balls", 2), ("the blue ball", 1), ("boxes", 2), ("green balls", 0)):
        found = run("count", image, sight, thing=thing)
        assert (found.value, len(found.boxes)) == (number, number)
    assert run("count", image, sight, thing="red balls").text == "2 found: red ball"
    with pytest.raises(ToolFailed, match="can't be counted apart"):
        run("count", image, sight, thing="balls with a handle")


def test_a_colour_is_that_of_most_pixels_of_the_thing_the_box_or_the_picture(sight):
    image = scene(THINGS)
    assert run("colour", image, sight, thing="red box").value == "red"
    assert run("colour", image, sight, box=[0.75, 0.7, 0.85, 0.8]).value == "yellow"
    assert run("colour", Image.new("RGB", (9, 9), (40, 90, 210)), sight).value == "blue"
    with pytest.raises(ToolFailed, match="3 that may be it were found: ball"):
        run("colour", image, sight, thing="ball")
    with pytest.raises(ToolFailed, match="no green box was found"):
        run("colour", image, sight, thing="green box")


def test_things_are_found_by_name_or_all_of_them(sight):
    image = scene(THINGS)
    found = run("detect", image, sight, thing="yellow box")
    x, y = 12 / 128, 12 / 96
    np.testing.assert_allclose(found.boxes, [(0.8 - x, 0.75 - y, 0.8 + x, 0.75 + y)], atol=0.02)
    assert sorted(run("detect", image, sight).value) == ["blue ball", "red ball", "red ball", "red box", "yellow box"]
    assert run("detect", image, sight, thing="green box").text == "0 found: green box"


def test_a_crop_shows_the_thing_enlarged(sight):
    found = run("crop", scene(THINGS), sight, thing="yellow box")
    assert min(found.picture.size) >= 120
    middle = np.asarray(found.picture)[found.picture.height // 2, found.picture.width // 2]
    assert abs(middle.astype(int) - (238, 204, 52)).max() < 8
    assert cut(scene([]), (0.9, 0.9, 1, 1)).size[0] <= 17
    with pytest.raises(ToolFailed, match="say what to look at"):
        run("crop", scene(THINGS), sight)


def test_words_are_read_in_a_box_and_told_with_their_places(sight, monkeypatch):
    seen = []

    def read_words(image, limit):
        seen.append((image.size, limit))
        return "HARBOUR FEE\n40", [["HARBOUR", 0.0, 0.0, 0.5, 0.5]]

    monkeypatch.setattr("omma.retrieval.tools.read_words", read_words)
    found = run("read", scene([], (400, 200)), sight, box=[0.5, 0.5, 1, 1])
    assert found.value == "HARBOUR FEE\n40"
    assert found.boxes == ((0.5, 0.5, 0.75, 0.75),)
    assert seen == [((800, 400), sight.seconds)]
    monkeypatch.setattr("omma.retrieval.tools.read_words", lambda *_: (" \n", []))
    with pytest.raises(ToolFailed, match="no words were read"):
        run("read", scene([]), sight)


def test_without_tesseract_reading_says_so(sight, monkeypatch):
    monkeypatch.setattr("omma.retrieval.ocr.tesseract", lambda: None)
    with pytest.raises(ToolFailed, match="no tesseract here"):
        run("read", scene([]), sight)


def test_arguments_that_a_tool_does_not_declare_are_refused():
    for name, arguments, said in (
        ("open", {}, "no tool 'open'"), ("count", [], "are an object"), ("count", {}, "needs 'thing'"),
        ("count", {"thing": 3}, "named in at most 80"), ("count", {"thing": "x" * 81}, "named in at most 80"),
        ("count", {"thing": "cup", "path": "/"}, "takes no 'path'"), ("read", {"picture": 3}, "no picture '3'"),
        ("read", {"picture": True}, "no picture"), ("read", {"picture": "1"}, "no picture"),
        ("crop", {"box": [0, 0, 2, 1]}, "between 0 and 1"), ("crop", {"box": [0.5, 0, 0.5, 1]}, "between 0 and 1"),
        ("crop", {"box": "all"}, "between 0 and 1"), ("crop", {"box": [float("nan"), 0, 1, 1]}, "between 0 and 1"),
    ):  # fmt: skip
        with pytest.raises(ToolFailed, match=said):
            checked(name, arguments, 2)
    assert checked("crop", {"picture": 2, "box": [0, 0, 1, 1], "thing": None}, 2)[1:] == (1, {"box": (0, 0, 1, 1)})


def test_a_tool_leaves_its_picture_as_it_was(sight):
    image = scene(THINGS)
    before = image.tobytes()
    calls = {"count": {"thing": "ball"}, "detect": {}, "colour": {}, "crop": {"thing": "blue ball"}}
    for name, arguments in calls.items():
        run(name, image, sight, **arguments)
    assert image.tobytes() == before
    assert set(TOOLS) == {"count", "detect", "colour", "read", "crop"}


def test_what_may_be_a_thing_and_may_not_is_not_counted(sight):
    sight.detector.bars = (0.0, 2.0)
    with pytest.raises(ToolFailed, match="0 of ball found, and 5 that may be"):
        run("count", scene(THINGS), sight, thing="ball")
    assert run("detect", scene(THINGS), sight, thing="ball").value == []


def test_a_detector_is_asked_among_common_things_and_its_names_are_remembered():
    eye = ShapeEye()
    asked = []
    eye.encode_text = lambda texts, batch_size=64: asked.append(texts) or ShapeEye().encode_text(texts)
    find = PieceDetector(eye)
    (first, *_) = find.detect(scene(THINGS), ["ball"])
    assert first.name == "ball"
    assert first.score == pytest.approx(1, abs=1e-3)
    assert np.asarray(first.look).reshape(-1, 3).std(0).max() > 0
    assert find.detect(scene([]), ["ball"]) == []
    assert len(find.detect(scene(THINGS), ["ball"])) == 3
    assert len(asked) == 3                                             # of each colour once
    assert all("a red arrow" in texts or "a blue arrow" in texts or "a yellow arrow" in texts for texts in asked)
