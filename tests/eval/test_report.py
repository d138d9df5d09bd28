"""The page: complete in itself, true to the numbers, and readable without its pictures."""

import html.parser
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from fakes import Coin, Dual, Oracle, make_world
from PIL import Image

from omma.eval.report import best_first, curve, data_uri, pair_cards, plot, smoothed, write_html
from omma.eval.run import evaluate
from omma.models.attribution import Explanation
from omma.table import Table


class Page(html.parser.HTMLParser):
    """Collects tags, checks that they close, and keeps the text outside of styles."""

    void = ("meta", "link", "img", "br", "col", "path", "input")

    def __init__(self, source):
        super().__init__()
        self.tags, self.open, self.text = [], [], ""
        self.feed(source)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.text += data

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"), broken=(5,))


@pytest.fixture(scope="module")
def runs(world):
    return [evaluate(Coin(), task, data=world) for task in ("retrieval", "statements", "patterns")]


@pytest.fixture
def metrics_file(tmp_path):
    path = tmp_path / "vl" / "metrics.jsonl"
    path.parent.mkdir()
    rows = [
        {"step": s, "loss": 3 / s, "loss_itc": 1 / s, "loss_itm": 2 / s, "samples_per_s": 10.0, "seconds": s * 6.0}
        for s in range(1, 41)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 41, "lo')
    return path


@pytest.fixture
def page(runs, world, metrics_file, tmp_path):
    out = write_html(
        tmp_path / "deep" / "report.html",
        runs=runs,
        training=[("picture and text", metrics_file)],
        pictures=Table.open(world / "pictures"),
        items=Table.open(world / "items"),
        meta={"command": "omma eval <x> & more", "machine": "a laptop"},
    )
    return out.read_text(encoding="utf-8")


def test_the_page_loads_nothing_and_runs_nothing(page):
    parsed = Page(page)
    assert not parsed.open
    assert not parsed.all("script")
    assert all(attrs["src"].startswith("data:image/") for attrs in parsed.all("img"))
    assert [attrs["href"] for attrs in parsed.all("link")] == ["data:,"]
    assert not re.search(r"https?://|@import|url\((?!data:)", page)
    assert len(page) < 3_000_000


def test_every_picture_has_an_alternative_text_and_every_table_headers(page):
    parsed = Page(page)
    assert len(parsed.all("img")) > 10
    assert all(attrs["alt"].strip() for attrs in parsed.all("img"))
    assert all(attrs.get("scope") in ("col", "row") for attrs in parsed.all("th"))
    assert all(attrs["aria-label"] for attrs in parsed.all("svg"))
    assert parsed.all("html")[0]["lang"] == "en"
    assert any("width=device-width" in attrs.get("content", "") for attrs in parsed.all("meta"))
    assert "prefers-color-scheme: dark" in page
    names = [attrs["id"] for _, attrs in parsed.tags if "id" in attrs]
    assert len(names) == len(set(names))


def test_the_page_says_what_the_reports_say(page, runs):
    text = Page(page).text
    for run in runs:
        assert run.metrics["run_id"] in text
        for head in run.metrics["headline"].values():
            assert f"{100 * head['value']:.1f}" in text
            assert f"{100 * head['low95']:.1f} – {100 * head['high95']:.1f}" in text
        for grid in run.grids():
            for row in grid.rows:
                assert all(cell in text for cell in row)
    assert "omma eval <x> & more" in text                                  # escaped, so it reads as written
    assert "picture not an image" in text or "picture truncated" in text or "picture decode error" in text


def test_the_failed_pairs_stand_there_with_their_matrix(page, runs):
    rows = [r for r in runs[2].rows.to_pylist() if r["variant"] == "model" and r["score_kind"] == "itm"]
    wrong = [row for row in rows if row["correct"] is False]
    margin = lambda row: min(row["scores"][0] - row["scores"][2], row["scores"][3] - row["scores"][1])
    worst = min(wrong, key=margin)
    text = Page(page).text
    assert "Pairs it gets wrong" in text
    for said in worst["texts"]:
        assert said in text
    for score in worst["scores"]:
        assert f"{score:.3f}" in text


def test_seen_and_unseen_patterns_are_named(world, tmp_path):
    many = make_world(tmp_path / "many", patterns=("colour", "text"), pairs=20)
    text = Page(write_html(tmp_path / "a.html", runs=[evaluate(Oracle(), "patterns", data=many)]).read_text()).text
    assert re.search(r"above chance on\s+colour, text", text)
    assert "Pairs it gets wrong" not in text
    blind = evaluate(Dual(), "patterns", data=make_world(tmp_path / "few", patterns=("colour",), pairs=1))
    text = Page(write_html(tmp_path / "b.html", runs=[blind]).read_text()).text
    assert re.search(r"above\s+chance on no pattern", text)                # one pair proves nothing
    assert "–" in text                                                     # and the wrong-image control has no number


def test_a_picture_that_is_not_there_leaves_its_name(runs, tmp_path):
    page = write_html(tmp_path / "r.html", runs=runs).read_text()
    assert not Page(page).all("img")
    assert "no picture p" in page


def test_a_curve_is_read_up_to_the_line_that_was_cut_off(metrics_file):
    stage = curve("vl", metrics_file)
    assert [drawn["name"] for drawn in stage["plots"]] == ["loss", "itc", "itm"]
    assert stage["facts"] == {"steps": 40, "minutes": "4.0", "samples / s": 10.0}
    assert stage["plots"][0]["start"] == 3
    assert stage["plots"][0]["last"] == 40


def test_a_plot_runs_from_left_to_right_and_from_high_to_low():
    points = [(float(s), 10.0 - s) for s in range(1, 5)]
    drawn = plot("loss", points)
    places = [tuple(map(float, pair.split(","))) for pair in drawn["raw"][1:].split("L")]
    assert (places[0], places[-1]) == ((0, 0), (1000, 100))
    assert len(places) == 4
    assert len(plot("loss", [(float(s), 1 / (1 + s)) for s in range(5000)])["raw"].split("L")) == 600


def test_smoothing_keeps_a_constant_and_does_not_lag_behind():
    assert [y for _, y in smoothed([(x, 2.0) for x in range(50)])] == pytest.approx([2.0] * 50)
    line = smoothed([(x, float(x)) for x in range(201)])
    assert line[100][1] == pytest.approx(100)
    assert smoothed([(1, 5.0)]) == [(1, 5.0)]


def test_numbers_that_are_not_finite_leave_a_gap_and_no_crash(tmp_path):
    path = tmp_path / "run" / "metrics.jsonl"
    path.parent.mkdir()
    lines = '{"step": 1, "loss": 2.0}', '{"step": 2, "loss": NaN}', '{"step": 3, "loss": 1.0, "eval": 3}', '{"step": 4}'
    path.write_text("\n".join(lines) + "\n")
    page = write_html(tmp_path / "r.html", runs=[], training=path).read_text()
    assert Page(page).text.count("2 → 1") == 1
    assert not re.search(r'd="[^"]*nan', page)
    empty = tmp_path / "new" / "metrics.jsonl"
    empty.parent.mkdir()
    empty.write_text("")
    assert "no step was logged" in write_html(tmp_path / "r.html", runs=[], training=[empty]).read_text()


def test_nothing_to_show_and_a_missing_curve_are_refused(tmp_path):
    with pytest.raises(ValueError, match="nothing to show"):
        write_html(tmp_path / "r.html", runs=[])
    with pytest.raises(ValueError, match="no curve at"):
        write_html(tmp_path / "r.html", runs=[], training=tmp_path / "nowhere.jsonl")


def test_thumbnails_are_small_and_keep_their_shape():
    import base64
    import io

    wide = data_uri(Image.effect_noise((600, 300), 80))
    image = Image.open(io.BytesIO(base64.b64decode(wide.split(",")[1])))
    assert image.size == (144, 72)
    assert wide.startswith("data:image/jpeg")
    assert data_uri(Image.new("RGB", (32, 32), "red")).startswith("data:image/png")


def test_pairs_are_shown_by_the_score_that_gets_most_of_them_right(runs):
    run, model = runs[2], lambda value: {"model": {"image": {"value": value}}}
    ranked = lambda itc, itm: best_first(replace(run, metrics={"scores": {"itc": model(itc), "itm": model(itm)}}))
    assert ranked(0.3, 0.2) == ["itc", "itm"]
    assert ranked(0.2, 0.3) == ["itm", "itc"]
    assert ranked(0.2, 0.2) == ["itm", "itc"], "at a tie the score that looks at both together"


class Looker(Coin):
    """Says that it looked at the left, and that a text's last word counts twice as much as the others."""

    def explain(self, image, text, kind="itm"):
        words = text.split()
        shares = [1.0] * (len(words) - 1) + [2.0]
        return Explanation(np.array([[1, 0], [1, 0]], dtype=np.float32), list(zip(words, shares, strict=True)), 0, kind)


def test_pairs_show_what_spoke_for_each_statement_in_its_own_picture(world, tmp_path):
    run = evaluate(Looker(), "patterns", data=world)
    pictures = Table.open(world / "pictures")
    page = Page(write_html(tmp_path / "a.html", runs=[run], pictures=pictures, explain=[Looker()]).read_text())
    cards = [card for card in pair_cards(run) if all(name != "p005" for name in card["pictures"])]
    heat = [attrs for attrs in page.all("img") if attrs["alt"].startswith("where it looked for: ")]
    assert len(heat) == 2 * sum(attrs.get("class") == "looks" for attrs in page.all("div")) > 0
    assert {attrs["alt"].removeprefix("where it looked for: ") for attrs in heat} <= {
        text for card in cards for text in card["texts"]
    }
    assert len({attrs["src"] for attrs in heat}) > 1
    shades = [attrs["style"] for attrs in page.all("span") if "--heat" in attrs.get("style", "")]
    assert {shade.split(",")[-1] for shade in shades} == {"0.23)", "0.45)"}
    silent = Page(write_html(tmp_path / "b.html", runs=[run], pictures=pictures, explain=[Coin()]).read_text())
    assert not [attrs for attrs in silent.all("img") if attrs["alt"].startswith("where it looked")]
