import json
from pathlib import Path

import pytest

import omma
from browsing import DESK, PHONE, too_wide, unnamed
from omma import cli
from omma.demo import run_demo
from omma.models.weights import shipped


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "out"
    return folder, run_demo(folder, preset="tiny", device="cpu", progress=False)


def test_the_demo_leaves_tables_runs_reports_and_a_page(demo):
    folder, result = demo
    assert Path(result["report"]) == folder / "report.html"
    assert Path(result["report"]).stat().st_size > 10_000
    assert omma.load_encoder(result["checkpoint"], device="cpu").embed_dim == 32
    assert set(result["reports"]) == {"demo", *shipped("vlmo")}
    for places in result["reports"].values():
        assert set(places) == {"retrieval", "statements", "patterns"}
        for task, place in places.items():
            assert omma.Report.load(place).metrics["task"] == task
    assert {(row["eye"], row["task"]) for row in result["summary"]} == {
        (eye, task) for eye in result["reports"] for task in result["reports"][eye]
    }
    test = omma.Table.open(folder / "scenes" / "test" / "pictures")
    assert len(result["hits"]) == 5
    assert {hit[0] for hit in result["hits"]} <= set(test.read(columns=["id"])["id"].to_pylist())


def test_no_world_of_the_test_was_trained_on(demo):
    folder, _ = demo
    train, test = (
        omma.Table.open(folder / "scenes" / name / "pictures").read(columns=["world"])["world"].to_pylist()
        for name in ("train", "test")
    )
    assert not set(train) & set(test)


def test_retrieval_is_asked_of_plain_pictures_only(demo):
    _, result = demo
    asked = omma.Report.load(result["reports"]["demo"]["retrieval"]).rows.select(["item", "pattern"]).to_pylist()
    pictures = {row["item"] for row in asked if row["pattern"] == "i2t"}
    assert len(pictures) == 12
    assert all(name.count("-") == 1 for name in pictures), "the pictures of a pair have longer names"


def test_a_second_demo_goes_on_where_the_first_one_stopped(demo, capsys):
    folder, result = demo
    drawn = [(p, p.stat().st_mtime_ns) for p in sorted(folder.glob("scenes/*/*/base/*"))]
    weights = Path(result["checkpoint"], "model.safetensors").stat().st_mtime_ns
    assert cli.run(["demo", str(folder), "--preset", "tiny", "--device", "cpu", "--json"]) == 0
    out, err = capsys.readouterr()
    again = json.loads(out)
    assert "[7/7]" in err
    assert [(p, p.stat().st_mtime_ns) for p in sorted(folder.glob("scenes/*/*/base/*"))] == drawn
    assert Path(again["checkpoint"], "model.safetensors").stat().st_mtime_ns == weights
    assert again["summary"] == result["summary"]
    assert [tuple(hit) for hit in again["hits"]] == result["hits"]


def test_a_folder_that_holds_something_else_is_left_alone(demo, tmp_path):
    folder, _ = demo
    with pytest.raises(ValueError, match="holds a demo with other settings"):
        run_demo(folder, preset="tiny", seed=1, progress=False)
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="is not empty and holds no demo"):
        run_demo(tmp_path, preset="tiny", progress=False)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.browser
def test_the_report_shows_itself_whole_in_a_browser_without_asking_the_network(demo, new_page):
    _, result = demo
    for size in (DESK, PHONE):
        page, asked = new_page(**size), []
        page.on("request", lambda request, asked=asked: asked.append(request.url))
        page.goto(Path(result["report"]).as_uri())
        shown = page.locator("img").evaluate_all(
            """all => Promise.all(all.map(img => {
                img.loading = 'eager';
                return img.decode().then(() => img.naturalWidth > 0);
            }))""")  # fmt: skip
        assert len(shown) > 0
        assert all(shown)
        assert asked == [Path(result["report"]).as_uri()]
        assert not too_wide(page)
        assert unnamed(page) == []
