"""A folder of pictures with captions becomes a measured eye."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest

import omma
from omma import cli
from omma.folder import FEWEST, choose, fit, mean_reciprocal_rank
from omma.scenes.draw import render
from omma.scenes.language import captions
from omma.scenes.world import sample_world

TINY = [
    *("model.hidden_size=24", "model.num_layers=2", "model.num_heads=2", "model.num_vl_layers=1"),
    *("model.image_size=32", "model.patch_size=16"),
    *("steps=6", "warmup=2", "batch_size=8", "eval_every=2", "save_every=2"),
]


def picture_folder(folder, n: int):
    folder.mkdir()
    for i in range(n):
        world = sample_world("fit", i)
        render(world, 48).save(folder / f"{i:03d}.png")
        (folder / f"{i:03d}.txt").write_text("\n".join(captions(world, "fit", i)[:2]))
    return folder


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    place = tmp_path_factory.mktemp("fit")
    pictures = picture_folder(place / "pictures", 60)
    (pictures / "broken.png").write_bytes(b"no picture")
    return place, fit(pictures, place / "out", changes=TINY, device="cpu", progress=False)


def test_a_folder_becomes_an_eye_a_report_and_the_next_command(fitted, capsys):
    place, result = fitted
    assert sum(result.pictures.values()) == 60
    assert min(result.pictures.values()) > 0
    assert omma.load_encoder(result.checkpoint, device="cpu").embed_dim == 24
    assert (place / "out" / "report.html").stat().st_size > 10_000
    for command in result.next.split(" && "):
        assert command.startswith("omma ")
        assert cli.run([*shlex.split(command)[1:], "--device", "cpu", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])


def test_the_eye_is_measured_on_pictures_it_was_not_trained_on(fitted):
    _, result = fitted
    rows = omma.Table.open(result.table).read(["id", "fold"]).to_pylist()
    held_out = {row["id"] for row in rows if row["fold"] == "held-out"}
    report = omma.Report.load(f"{result.report.removesuffix('report.html')}reports/retrieval")
    asked = {picture for row in report.rows.to_pylist() for picture in row["pictures"] or []}
    assert asked <= held_out
    trained = json.loads((Path(result.checkpoint).parent / "config.json").read_text())
    assert trained["dataset"]["where"] == "fold == 'train'"
    assert len(held_out) == result.pictures["held-out"]


def test_a_fit_that_was_done_is_told_again_not_repeated(fitted):
    place, result = fitted
    with pytest.raises(ValueError, match="Continue it with --resume"):
        fit(place / "pictures", place / "out", changes=TINY, device="cpu", progress=False)
    again = fit(place / "pictures", place / "out", changes=TINY, device="cpu", resume=True, progress=False)
    assert again == result


def test_too_little_to_train_on_is_said(tmp_path):
    pictures = picture_folder(tmp_path / "few", 12)
    with pytest.raises(ValueError, match=f"12 usable pictures .* an eye takes {FEWEST}"):
        fit(pictures, tmp_path / "out", progress=False)
    with pytest.raises(ValueError, match="no data at"):
        fit(tmp_path / "nowhere", tmp_path / "out2", progress=False)
    with pytest.raises(ValueError, match="unknown key 'sceps'"):
        fit(pictures, tmp_path / "out3", changes=["sceps=1"], progress=False)
    assert not (tmp_path / "out3").exists(), "it is told before anything is read"


def test_the_command_says_what_it_did_also_with_fewer_steps_than_the_warm_up(tmp_path, capsys):
    pictures = picture_folder(tmp_path / "pictures", 48)
    settings = [change for change in TINY if not change.startswith("warmup")]
    command = ["train", "vlmo", f"data={pictures}", f"out={tmp_path / 'out'}", *settings, "--device", "cpu", "--json"]
    assert cli.run(command) == 0
    out = json.loads(capsys.readouterr().out)
    assert out["next"].startswith("omma embed")
    assert cli.run(["train", "vlmo", "--json"]) == 2
    assert "data=FOLDER" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("pictures", "side", "device", "width", "size", "patch"),
    [
        (500, 300, "cpu", 128, 96, 16),
        (500, 64, "cuda", 128, 64, 8),
        (50_000, 300, "cpu", 192, 128, 16),
        (50_000, 300, "cuda", 384, 160, 16),
        (3_000_000, 640, "cuda", 768, 224, 16),
    ],
)
def test_the_size_follows_the_data_and_the_machine(pictures, side, device, width, size, patch):
    config = choose(pictures, side, device)
    assert (config.model.hidden_size, config.model.image_size, config.model.patch_size) == (width, size, patch)
    assert config.batch_size <= pictures
    assert config.warmup <= config.steps
    assert config.patience
    assert config.monitor == "mrr"


def test_the_reciprocal_rank_is_that_of_ranking_each():
    scores = np.array([[0.9, 0.1, 0.2], [0.8, 0.5, 0.6], [0.3, 0.7, 0.7]])
    # pictures: 1st, 3rd, and a tie for 1st with the second; captions: 1st, 2nd, 1st
    expected = np.mean([1, 1 / 3, 1 / 1.5, 1, 1 / 2, 1])
    assert mean_reciprocal_rank(scores, ["a", "b", "c"]) == pytest.approx(expected)
    assert mean_reciprocal_rank(scores, ["a", "b", "b"]) == pytest.approx(np.mean([1, 1 / 2, 1, 1, 1, 1]))


def test_the_same_folder_becomes_two_towers_that_search(fitted, capsys):
    place, before = fitted
    sizes = [f"model.{tower}.{key}" for tower in ("vision", "text") for key in ("hidden_size=24", "num_layers=2",
                                                                              "num_heads=2")]  # fmt: skip
    changes = [*sizes, "model.vision.image_size=32", "model.vision.patch_size=16", "model.embed_dim=24",
               "model.vision.stem=patch", *TINY[-5:], "workers=0"]  # fmt: skip
    result = fit(before.table, place / "clip", changes=changes, device="cpu", progress=False, recipe="clip")
    assert (place / "clip" / "report.html").is_file()
    rows = [json.loads(line) for line in (place / "clip" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "eval.mrr" in row] == [2, 4, 6]
    for command in result.next.split(" && "):
        assert cli.run([*shlex.split(command)[1:], "--device", "cpu", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["hits"]
