"""The answers of one or two runs on a page: true to the rows, complete in themselves, and bounded."""

import html
import re
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from fakes import Coin, make_world
from fakes_vlm import Knows
from PIL import Image
from test_report import Page

from omma.eval.audit import calibrated, calibrations, different, parser_audit, probabilities
from omma.eval.knobs import KNOBS, knob_curves, knobs_of, units_of, unread, varying
from omma.eval.paired import pearson
from omma.eval.plots import bars, scatter, ticks_of
from omma.eval.protocols.calibration import adaptive_ece, brier, debiased_ece, ece, temperature
from omma.eval.report import page_of, write_html
from omma.eval.run import evaluate
from omma.eval.viewer import MOST_CARDS, Images, difference_map, lines_of, outcome, shared, sides, viewer
from omma.table import Table

PATTERNS = ("colour", "orientation", "position", "text")


class Half(Knows):
    """Right about three of four pictures of even groups, and unreadable or wrong about others; not too sure."""

    name, fingerprint = "half", "ha1f"

    def generate_batch(self, images, prompts, max_new_tokens=64, *, batch_size=8):
        return [self.reply(shown[0], prompt) for shown, prompt in zip(images, prompts, strict=True)]

    def reply(self, image, prompt):
        number, _ = self.see(image)
        if number % 7 == 3:
            return "I can't <b>tell</b>."
        right = self.say(self.means([image], prompt), prompt)
        return right if number % 5 else {"A": "B", "B": "A"}.get(right, right)

    def first_token(self, images, prompts, words, batch_size=8):
        scores = super().first_token(images, prompts, words) / (1 + np.arange(len(images)))[:, None]
        wrong = [self.see(shown[0])[0] % 5 == 0 for shown in images]
        return np.where(np.array(wrong)[:, None], scores[:, ::-1], scores)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Pairs of pictures with statements (make_world) and with a question, of four patterns, and knobs."""
    folder = make_world(tmp_path_factory.mktemp("world"), patterns=PATTERNS, pairs=4)
    rows = Table.open(folder / "items").read().to_pylist()
    kept = [row for row in rows if row["task"] == "pairs"]
    for row in list(kept):
        for place, name in enumerate(row["pictures"]):
            kept.append({**row, "id": f"{row['group']}-q-{place}", "task": "mmvp", "pictures": [name],
                         "prompt": f"is it <first> of {row['group']}?", "options": ["left", "right"],
                         "answer": ("left", "right")[place]})  # fmt: skip
    knobs = pa.struct([("object_size", pa.float32()), ("size", pa.int32()), ("mode", pa.string())])
    items = Table.create(folder / "asked" / "items", "items", extra=pa.schema([("knobs", knobs)]))
    items.append([row | {"knobs": {"object_size": 0.02 * (1 + n % 9), "size": 128, "mode": "swap"}}
                  for n, row in enumerate(kept)])  # fmt: skip
    (folder / "asked" / "pictures").symlink_to(folder / "pictures")
    return folder / "asked"


@pytest.fixture(scope="module")
def eye(world, tmp_path_factory):
    return evaluate(Coin(), "patterns", data=world, out=tmp_path_factory.mktemp("eye"))


@pytest.fixture(scope="module")
def vlm(world, tmp_path_factory):
    rows = [row for row in Table.open(world / "items").read().to_pylist() if row["task"] == "mmvp"]
    return evaluate(Half(rows), "mmvp", data=world, out=tmp_path_factory.mktemp("vlm"))


@pytest.fixture(scope="module")
def page(world, eye, vlm, tmp_path_factory):
    out = tmp_path_factory.mktemp("page") / "page.html"
    told = page_of([eye.rows_path.parent, vlm.rows_path.parent], out)
    assert told == {"path": str(out), "bytes": out.stat().st_size, "pictures": 32, "items": 48}
    return out.read_text(encoding="utf-8")


def test_the_page_loads_and_runs_nothing_and_is_bounded(page):
    parsed = Page(page)
    assert not parsed.open
    assert not parsed.all("script")
    assert all(attrs["src"].startswith("data:image/") and attrs["alt"] for attrs in parsed.all("img"))
    assert not re.search(r"https?://|@import|url\((?!data:)", page)
    assert len(page) < 3_500_000
    names = [attrs["id"] for _, attrs in parsed.tags if "id" in attrs]
    assert len(names) == len(set(names))
    radios = parsed.all("input")
    assert len(radios) == 6 + 5  # all, four outcomes, unparsed; all and four patterns
    assert "<b>tell</b>" not in page.replace(html.escape("<b>tell</b>"), "")


def test_every_pair_stands_there_with_both_models_answers(page, eye, vlm):
    text = Page(page).text
    for side in sides([eye, vlm]):
        for rows in side.groups.values():
            for row in rows:
                assert all(said in text for said in row["texts"])
                assert row["said"] is None or row["said"] in text
    assert "I can't <b>tell</b>." in text
    assert "they differ in " in page
    shown = sides([eye, vlm])
    count = [outcome(shown, group) for group in shared(shown)]
    for key, words in (("both", "both right"), ("a", "A alone right"), ("neither", "both wrong")):
        assert re.search(rf"{words}\s+{count.count(key)}\b", text)


def test_a_group_is_right_when_all_that_was_asked_of_it_is(vlm):
    (side,) = sides([vlm])
    for group, rows in side.groups.items():
        numbers = [int(row["pictures"][0][1:]) for row in rows]
        assert side.right(group) == all(number % 7 != 3 and number % 5 for number in numbers)
        assert any(row["unparsed"] for row in rows) == any(number % 7 == 3 for number in numbers)


def test_cards_are_of_every_pattern_and_outcome_before_any_comes_twice(eye, vlm, monkeypatch):
    monkeypatch.setattr("omma.eval.viewer.MOST_CARDS", 9)
    shown, loaded = sides([eye, vlm]), []
    told = viewer(shown, Images(lambda names: loaded.append(set(names)) or {}, str))
    lost = lambda group: any(row["unparsed"] for side in shown for row in side.groups[group])
    kinds = {(shown[0].groups[g][0]["pattern"], outcome(shown, g), lost(g)) for g in shared(shown)}
    assert len(told["cards"]) == 9 < told["groups"] == 16
    found = {(card["pattern"], card["outcome"], card["unparsed"]) for card in told["cards"]}
    assert len(found) == min(9, len(kinds))
    assert sum(map(len, loaded)) == 18  # no other picture was opened
    assert sum(n for key, (_, n) in told["outcomes"].items() if key != "unparsed") == 16
    monkeypatch.setattr("omma.eval.viewer.MOST_BYTES", 0)
    image = Image.new("RGB", (8, 8))
    assert len(viewer(shown, Images(lambda names: dict.fromkeys(names, image), lambda _: "data:"))["cards"]) == 1
    assert MOST_CARDS > 9


def test_a_line_of_a_pair_says_which_picture_was_chosen_and_a_line_in_words_how_it_was_read():
    row = {"task": "patterns", "prediction": "1 1", "scores": [0.5, 0.4, 0.3, 0.2], "texts": ["left", "right"]}
    said = [line["said"] for line in lines_of(row, ["a", "b"], True)]
    assert [one["ok"] for one in said] == [True, False]
    assert said[1] == {"said": "picture 1", "read": "", "ok": False, "detail": "0.400 and 0.200"}
    row = {"task": "mmvp", "prediction": "open", "said": "(a) it is", "texts": ["open?"], "answer": "open",
           "pictures": ["b"], "credits": [1.0, 0.5], "unparsed": False, "score_kind": "generate",
           "scores": []}  # fmt: skip
    (line,) = lines_of(row, ["a", "b"], True)
    assert (line["about"], line["said"]["said"], line["said"]["read"]) == ("picture 2", "(a) it is", "open")
    lost = lines_of(row | {"unparsed": True, "prediction": None, "credits": [0.0, 0.5]}, ["b"], False)[0]
    assert (lost["about"], lost["said"]["ok"]) == ("", None)


def test_the_map_is_red_where_the_pictures_differ_and_grey_elsewhere():
    a, b = Image.new("RGB", (8, 4), "white"), Image.new("RGB", (8, 4), "white")
    b.paste((0, 0, 0), (2, 1, 4, 3))
    drawn, share = difference_map(a, b)
    assert share == 4 / 32
    assert drawn.getpixel((2, 1)) == (200, 20, 30)
    assert len(set(drawn.getpixel((0, 0)))) == 1
    images = Images(lambda names: {"a": a, "b": b, "c": a.resize((4, 4))}, lambda image: "data:")
    images.get(())
    assert images.difference("a", "b")["alt"] == "they differ in 12.5 % of the pixels"
    assert images.difference("a", "c") is None
    assert images.difference("a", "gone") is None


def test_bars_are_the_reports_own_numbers(eye, vlm):
    told = bars([eye, vlm])
    assert [one["metric"] for one in told["series"]] == ["image", "image", "pairs", "pairs"]
    lines = {line["name"]: line["bars"] for line in told["lines"]}
    assert next(iter(lines)) == "all"
    for name in PATTERNS:
        model, blind = (vlm.metrics["scores"]["generate"][v]["patterns"][name] for v in ("model", "blind"))
        bar = lines[name][2]
        assert (bar["value"], bar["low95"]) == (model["pairs"]["value"], model["pairs"]["low95"])
        assert bar["blind"] == blind["pairs"]["value"]


def test_the_scatter_is_of_the_same_pairs_and_its_r_is_pearsons(eye, vlm):
    shown = sides([eye, vlm])
    told = scatter(shown)
    points = told["points"]
    assert [point["name"] for point in points] == sorted(PATTERNS)
    assert told["n"] == 16
    r = pearson([p["x"]["value"] for p in points], [p["y"]["value"] for p in points])
    assert told["correlation"]["pearson"]["value"] == r
    assert scatter(shown[:1]) is None


def test_calibration_on_the_page_is_the_protocols(world, vlm, eye, page):
    rows = [r for r in vlm.rows.to_pylist() if r["variant"] == "model" and r["score_kind"] == "first_token"]
    confidence = np.array([max(row["scores"]) for row in rows])
    right = np.array([row["correct"] for row in rows])
    items = Table.open(world / "items").read(columns=["id", "options", "answer"]).to_pylist()
    options = {row["id"]: row["options"] for row in items}
    (found,) = calibrations(vlm, options)
    assert found["ece"] == pytest.approx(ece(confidence, right), abs=1e-12)
    labels = np.array([options[row["item"]].index(row["answer"]) for row in rows])
    t = temperature(np.log([row["scores"] for row in rows]), labels)
    assert found["temperature"] == pytest.approx(t)
    assert calibrations(vlm, {})[0]["temperature"] == pytest.approx(t)  # of two options the other one is right
    assert f"{100 * found['ece']:.2f} % of 32 answers" in Page(page).text
    assert (found["adaptive"], found["debiased"]) == (adaptive_ece(confidence, right), debiased_ece(confidence, right))
    assert found["brier"] == pytest.approx(brier(np.log([row["scores"] for row in rows]), labels))
    for told in (f"{100 * found['adaptive']:.2f} %; root mean square without chance {100 * found['debiased']:.2f} %",
                 f"Brier {found['brier']:.3g} of 2, negative log-likelihood {found['nll']:.3g}"):  # fmt: skip
        assert told in Page(page).text
    (heads,) = calibrations(eye, {})
    assert (heads["kind"], heads["n"]) == ("itm", 4 * 16)  # each text with each picture


@pytest.mark.parametrize(("surest", "told"), [(True, "every answer is right"), (False, "which answer is right")])
def test_where_no_finite_temperature_is_best_the_page_says_why(world, vlm, tmp_path, surest, told):
    options = {row["id"]: row["options"] for row in Table.open(world / "items").read(["id", "options"]).to_pylist()}
    rows = vlm.rows.to_pylist()
    for row in rows:
        if row["variant"] == "model" and row["score_kind"] == "first_token":
            place = options[row["item"]].index(row["answer"])
            row |= {"scores": [0.9, 0.1] if (place == 0) == surest else [0.1, 0.9], "correct": surest}
    report = replace(vlm, rows=pa.Table.from_pylist(rows, schema=vlm.rows.schema))
    (found,) = calibrations(report, options)
    assert (found["temperature"], found["after"], found["accuracy"]) == (None, None, float(surest))
    report.save(tmp_path / "run")
    page_of([tmp_path / "run"], tmp_path / "page.html")
    text = Page((tmp_path / "page.html").read_text(encoding="utf-8")).text
    assert "none is best: " in text
    assert told in text.partition("none is best: ")[2][:120]


def test_questions_with_more_and_with_fewer_options_have_one_temperature():
    rng = np.random.default_rng(4)
    rows, options = [], {}
    for n in range(400):
        width = 2 + n % 3
        scores = np.exp(3 * rng.normal(size=width))
        scores /= scores.sum()
        soft = scores ** (1 / 2.5) / (scores ** (1 / 2.5)).sum()  # 2.5 times too sure
        right = int(rng.choice(width, p=soft))
        options[f"q{n}"] = [f"o{k}" for k in range(width)]
        rows.append({"item": f"q{n}", "task": "mmbench", "scores": scores.tolist(), "answer": f"o{right}",
                     "correct": right == int(scores.argmax())})  # fmt: skip
    found = calibrated(*probabilities(rows, "first_token", options))
    assert 2 < found["temperature"] < 3.2
    assert found["after"] < found["ece"]
    assert probabilities(rows, "first_token", {}) == ([], [])  # else those would be left that were answered rightly


def test_questions_in_a_circle_know_their_options_and_without_any_only_confidence_is_told(vlm):
    shares = [0.1, 0.2, 0.7]
    row = {"item": "q~2", "task": "circular", "scores": shares, "answer": "b", "correct": False}
    options = {"q": ["a", "b", "c"]}                           # asked as c, a, b
    assert probabilities([row], "first_token", options)[1] == [2]
    assert probabilities([row | {"answer": "a"}], "first_token", options)[1] == [1]
    mine = [r for r in vlm.rows.to_pylist() if r["variant"] == "model" and r["score_kind"] == "first_token"]
    three = [r | {"scores": [*(0.9 * s for s in r["scores"]), 0.1]} for r in mine]
    report = replace(vlm, rows=pa.Table.from_pylist(three, schema=vlm.rows.schema))
    (found,) = calibrations(report, {})
    assert (found["n"], found["temperature"], found["brier"]) == (len(mine), None, None)
    assert found["accuracy"] == pytest.approx(np.mean([r["correct"] for r in mine]))


def test_every_reply_is_under_its_rule_or_among_the_unparsed(vlm):
    told = parser_audit(vlm)
    rows = [r for r in vlm.rows.to_pylist() if r["variant"] == "model" and r["score_kind"] == "generate"]
    assert told["n"] == len(rows) == sum(rule["n"] for rule in told["rules"]) + told["lost"]
    assert told["lost"] == sum(row["unparsed"] for row in rows) == len(told["unparsed"])
    assert {one["said"] for one in told["unparsed"]} == {"I can't <b>tell</b>."}
    right = sum(rule["n"] * rule["right"] for rule in told["rules"])
    assert right == sum(row["credits"][0] for row in rows)
    assert set(told["variants"]) == {"model", "blind", "wrong-image", "option-swap", "image-flip"}
    assert [row["said"] for row in different([{"said": "a"}, {"said": "a"}, {"said": "b"}])] == ["a", "b", "a"]


def test_an_encoder_alone_has_no_replies_to_audit_and_no_scatter(eye, world, tmp_path):
    assert parser_audit(eye) is None
    out = write_html(tmp_path / "a.html", runs=[eye], answers=True, items=Table.open(world / "items"))
    text = Page(out.read_text()).text
    assert "How replies were read" not in text
    assert "A against B" not in text
    assert re.search(r"wrong\s+\d+", text)
    assert "no picture p0" in text


class Sized:
    """A side whose model is right about what is at least 20 px high, and at chance below it."""

    letter = "A"

    def __init__(self, n=200):
        rng = np.random.default_rng(0)
        self.size = np.exp2(rng.uniform(np.log2(6), 6, n))
        sure = 1 / (1 + (self.size / 20) ** -6)
        self.report = type("R", (), {"metrics": {"credits": ["accuracy", "guess"]}})
        self.groups = {
            f"g{k}": [{"item": f"g{k}-{j}", "pattern": "orientation",
                       "credits": [float(rng.random() < 0.5 + s / 2), 0.5], "unparsed": False} for j in range(2)]
            for k, s in enumerate(sure)
        }  # fmt: skip


def test_a_pattern_that_is_lost_below_a_size_is_told_in_words(tmp_path):
    side = Sized()
    names = ("object_size", "size", "object_px", "odd")
    extra = pa.schema([("knobs", pa.struct([(name, pa.float64()) for name in names]))])
    items = Table.create(tmp_path / "items", "items", extra=extra)
    rng = np.random.default_rng(1)
    items.append([{"id": f"{group}-0", "task": "question", "pictures": ["p"], "prompt": "?", "group": group,
                   "knobs": {"object_size": size / 256, "size": 128.0, "object_px": size**2, "odd": rng.random()}}
                  for group, size in zip(side.groups, side.size, strict=True)])  # fmt: skip
    found = knob_curves([side], items)
    (curve,) = found["curves"]
    assert curve["knob"] == "thing_px"
    assert re.fullmatch(r"it loses orientation below (1[6-9]|2\d)(\.\d)? px \(size of the thing; 95 %: \S+ to \S+\)",
                        curve["told"][0])  # fmt: skip
    assert {one["knob"] for one in found["tested"]} == {"thing_px", "odd"}  # the area says what the size said
    assert knob_curves([side], None) == {"curves": [], "lost": [], "tested": [], "knobs": False,
                                         "unparsed": []}
    assert found["lost"] == curve["told"]


def test_replies_that_could_not_be_read_stand_in_no_curve_and_are_counted():
    side, knobs = Sized(), {f"group g{k}": {"thing_px": size} for k, size in enumerate(Sized().size)}
    read = units_of(side, knobs)["orientation"]
    for k in range(50):  # one reply of each of fifty pairs, and both of one pair
        side.groups[f"g{k}"][0] |= {"unparsed": True, "credits": [0.0, 0.5]}
    side.groups["g50"] = [row | {"unparsed": True} for row in side.groups["g50"]]
    left = units_of(side, knobs)["orientation"]
    assert len(left) == len(read) - 1
    assert [asked for _, _, asked, _ in left] == [1.0] * 50 + [2.0] * 149
    assert left[50:] == read[51:]
    assert unread(side, knobs) == (52, 400)


def test_knobs_are_found_by_item_and_by_group_and_height_is_twice_the_radius(world):
    knobs = knobs_of(Table.open(world / "items"))
    assert knobs["g-colour-0-pair"] == {"thing_px": pytest.approx(2 * 0.02 * 128), "size": 128}
    assert knobs["group g-colour-0"] == knobs["g-colour-0-pair"]
    assert knobs_of(None) == {}
    assert varying([({"size": 4.0}, 1, 1, 0.5)] * 40) == []
    assert set(knobs["g-colour-0-pair"]) <= set(KNOBS)


@pytest.mark.parametrize(("low", "high", "log"), [(6, 64, True), (0.01, 900, True), (1, 9, False), (0.1, 0.4, False)])
def test_ticks_are_few_round_and_inside(low, high, log):
    ticks = ticks_of(low, high, log)
    assert 2 <= len(ticks) <= 6
    assert all(low <= tick <= high * (1 + 1e-9) for tick in ticks)


def test_a_third_report_and_a_place_without_tables_are_refused(eye, vlm, world, tmp_path):
    with pytest.raises(ValueError, match="one or two"):
        write_html(tmp_path / "a.html", runs=[eye, vlm, eye], answers=True)
    with pytest.raises(ValueError, match="no table pictures"):
        page_of([eye.rows_path.parent], tmp_path / "a.html", data=tmp_path)
    other = replace(eye, metrics=eye.metrics | {"task": "retrieval"})
    assert sides([other]) == []


def test_two_runs_without_a_common_pair_say_so_where_the_pairs_would_stand(eye, vlm, tmp_path):
    renamed = pa.array([f"other-{name}" for name in vlm.rows["group"].to_pylist()])
    rows = vlm.rows.set_column(vlm.rows.column_names.index("group"), "group", renamed)
    both = [eye, replace(vlm, rows=rows)]
    page = write_html(tmp_path / "a.html", runs=both, answers=True).read_text(encoding="utf-8")
    for run in both:
        assert f'weights <span class="mono">{run.metrics["model_fingerprint"]}<' in page
    (first, *_), (second, *_) = eye.rows["group"].to_pylist(), renamed.to_pylist()
    assert "The two runs have no pair in common" in page
    assert f'>{first}</span>, B’s such as <span class="mono">{second}<' in page
    alone = write_html(tmp_path / "b.html", runs=[eye], answers=True).read_text(encoding="utf-8")
    assert "no pair in common" not in alone
