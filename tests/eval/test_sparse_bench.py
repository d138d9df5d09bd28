"""The bench of visual-token dropping on a tiny LLaVA: what it counts, how it goes on after a stop, what it shows."""

import io
import json
import random
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import omma
from omma import cli
from omma.eval.bench import bench_sparsify, seen, token_grid
from omma.eval.bench_page import faded, unpacked
from omma.eval.bench_plot import apart
from omma.eval.meter import in_turns, spend
from omma.eval.ways import Way, read_budget, ways
from omma.sparse.account import cache_bytes, kv_bytes
from omma.sparse.patch import sparsify
from omma.sparse.shapes import Grid
from omma.table import Table
from tiny_vlms import BOS, IMAGE, PATCH, SIDE, WORDS, tiny_inputs, tiny_vlm

TOKENS = (SIDE // PATCH) ** 2
COLOURS = {"red": (220, 30, 30), "green": (30, 160, 60), "blue": (40, 80, 210)}


class Scripted:
    """A tiny LLaVA that reads its prompts, so that tokens are dropped and counted, and says what it is told to say."""

    name, fingerprint, precision, device = "scripted", "scripted-1", "fp32", torch.device("cpu")

    def __init__(self, say):
        self.model, self.say, self.asked = tiny_vlm("llava", layers=4), say, []

    def prompts(self, images, prompts):
        rows = [[BOS, *[IMAGE] * TOKENS * len(shown), *(WORDS + len(word) for word in words.split())]
                for shown, words in zip(images, prompts, strict=True)]  # fmt: skip
        longest = max(map(len, rows))
        pixels = [np.asarray(image.convert("RGB").resize((SIDE, SIDE)), dtype=np.float32).transpose(2, 0, 1) / 255
                  for shown in images for image in shown]  # fmt: skip
        return {
            "input_ids": torch.tensor([[0] * (longest - len(row)) + row for row in rows]),
            "attention_mask": torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows]),
            "pixel_values": torch.tensor(np.stack(pixels)),
        }

    def generate_batch(self, images, prompts, max_new_tokens=64, **options):
        with torch.inference_mode():
            self.model.generate(**self.prompts(images, prompts), max_new_tokens=1, do_sample=False)
        self.asked += list(prompts)
        return [self.say(shown[0], words) for shown, words in zip(images, prompts, strict=True)]


def colour_of(image: Image.Image) -> str:
    pixel = np.asarray(image.convert("RGB"))[0, 0].astype(int)
    return min(COLOURS, key=lambda name: abs(pixel - COLOURS[name]).sum())


def sees(image: Image.Image, words: str) -> str:
    """An eye that is right about every colour, and has no words for grey."""
    colour = "" if np.ptp(np.asarray(image)[0, 0]) == 0 else colour_of(image)
    return ("yes" if colour and colour in words else "no") if words.startswith("is it") else f"The {colour}."


@pytest.fixture
def data(tmp_path, png) -> Path:
    """Six pictures of one colour each, a free and a yes/no question about each, and one that can't be asked."""
    pictures, items = [], []
    for n in range(6):
        colour = list(COLOURS)[n % 3]
        pictures.append({"id": f"p{n}", "bytes": png(COLOURS[colour]), "status": "ok", "width": 8, "height": 8})
        common = {"task": "question", "pictures": [f"p{n}"], "group": f"g{n}"}
        items.append(common | {"id": f"q{n}", "pattern": "colour", "prompt": "what colour is it?", "answer": colour})
        items.append(common | {"id": f"y{n}", "pattern": "presence", "prompt": "is it red?",
                               "answer": "yes" if colour == "red" else "no"})  # fmt: skip
    items.append({"id": "gone", "task": "question", "pictures": ["p9"], "group": "g9", "pattern": "colour",
                  "prompt": "what colour is it?", "answer": "red"})  # fmt: skip
    Table.create(tmp_path / "data" / "pictures").append(pictures)
    Table.create(tmp_path / "data" / "items", "items").append(items)
    return tmp_path / "data"


@pytest.fixture
def png():
    def make(colour) -> bytes:
        out = io.BytesIO()
        Image.new("RGB", (8, 8), colour).save(out, "PNG")
        return out.getvalue()

    return make


def test_the_bench_counts_answers_tokens_and_time_of_every_way_and_shows_them(data, tmp_path):
    rng = random.Random(0)

    def say(image, words):  # now and then it says nothing
        return sees(image, words) if rng.random() < 0.8 else ""

    report = bench_sparsify(Scripted(say), data=data, out=tmp_path / "out", methods=["fastv", "sparsevlm-v1"],
                            budgets=["1/2", 2], seeds=(0, 1), timed=1, batch_size=8, max_new_tokens=3)  # fmt: skip
    m = report.metrics
    assert [(c["method"], c["budget"]) for c in m["cells"]] == [
        ("dense", "all"), ("fastv", "1/2"), ("sparsevlm-v1", "1/2"), ("uniform", "1/2"), ("uniform", "2"),
        ("random", "1/2"), ("random", "2")]  # fmt: skip
    assert [(c["method"], c["budget"]) for c in m["refused"]] == [("fastv", "2"), ("sparsevlm-v1", "2")]
    assert "can't bring a mean of 2" in m["refused"][0]["refused"]
    assert m["questions"] == 13
    for cell in m["cells"]:
        key = cell["method"], cell["budget"], "model"
        mine = [r for r in report.rows.to_pylist() if (r["method"], r["budget"], r["variant"]) == key]
        assert len(mine) == 26, "every item of every seed has its row"
        assert cell["unscored"] == {"picture_missing": 2}
        assert cell["accuracy"]["n"] == 24
        assert cell["accuracy"]["right"] == sum(row["outcome"] == "right" for row in mine)
        assert cell["unparsed"] == sum(row["said"] == "" for row in mine)
        assert cell["accuracy"]["clusters"] == 6
        assert sum(part["n"] for part in cell["patterns"].values()) == 24
        goal = {"all": TOKENS, "1/2": TOKENS / 2, "2": 2}[cell["budget"]]
        assert cell["entering"] == pytest.approx(goal, abs=0.75)
        assert cell["equal_tokens"] <= cell["entering"]
    dense, fastv = report.cell("dense", "all"), report.cell("fastv", "1/2")
    assert dense["layers"] == [TOKENS] * 4
    assert dense["flops_ratio"] == dense["decoder_ratio"] == dense["time"]["prefill_ratio"] == 1
    assert fastv["decoder_ratio"] < fastv["flops_ratio"] < 1, "the vision tower is not spared"
    assert fastv["time"]["kv_bytes"] < dense["time"]["kv_bytes"]
    assert fastv["time"]["prefill_s"] > 0
    assert fastv["blind"] is None
    assert dense["blind"]["n"] == 24
    assert set(fastv["against"]) == {"dense", "uniform", "random"}
    assert fastv["against"]["dense"]["n"] == 24
    assert set(report.cell("random", "1/2")["against"]) == {"dense", "uniform"}
    kept = [row for row in report.rows.to_pylist() if row["kept_after"]]
    for row in kept:
        last = unpacked(row["kept"][-1], row["visual"])
        assert last.sum() + row["made"][-1] == row["entering"][-1]
        assert row["grid"] == [6, 6]
    assert {row["method"] for row in kept} == {"fastv", "sparsevlm-v1", "uniform", "random"}
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("<figure>") >= 8
    assert "before layer 0: 2 of 36" in page
    assert "what colour is it?" in page
    assert all(f"<td>{cell}</td>" in page for row in report.grids()[0].rows for cell in row[1:])
    assert "<script" not in page
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", page), "it loads nothing"
    with Image.open(tmp_path / "out" / "plot.png") as plot:
        assert plot.width > 1000
    assert json.loads((tmp_path / "out" / "report.json").read_text())["cells"] == m["cells"]
    assert pq.read_table(tmp_path / "out" / "rows.parquet").equals(report.rows)


@pytest.fixture
def no_page(monkeypatch):
    """Without the drawing, which another test looks at."""
    monkeypatch.setattr("omma.eval.bench_page.write_page", lambda *_: None)


def test_what_is_complete_is_not_run_again_and_what_is_cut_off_is(data, tmp_path, no_page):
    model = Scripted(sees)
    given = {"data": data, "out": tmp_path / "out", "budgets": ["1/3"], "timed": 0}
    first = bench_sparsify(model, methods=["uniform"], **given)
    cells = tmp_path / "out" / "cells"
    assert len(list(cells.glob("*.json"))) == 3
    asked = len(model.asked)
    again = bench_sparsify(model, methods=["uniform"], **given)
    assert len(model.asked) == asked
    assert again.metrics["cells"] == first.metrics["cells"]
    cut = next(path for path in cells.glob("random*.json"))
    cut.unlink()                                              # killed between the rows and the note that they are whole
    (cells / ".random.part").write_bytes(b"half")
    assert bench_sparsify(model, methods=["uniform"], **given).metrics["cells"] == first.metrics["cells"]
    assert len(model.asked) == asked + 13, "a first question to see whether it can be done, and twelve"
    more = bench_sparsify(model, methods=["divprune"], **given)
    assert len(model.asked) == asked + 26, "a method that joins is all that is run"
    assert [cell["method"] for cell in more.metrics["cells"]] == ["dense", "divprune", "uniform", "random"]
    with pytest.raises(ValueError, match=r"cells of another run, with template '{}' and now"):
        bench_sparsify(model, methods=["uniform"], template="{} In a word.", **given)


def test_an_eye_that_sees_is_right_and_its_controls_are_not(data, tmp_path, no_page):
    report = bench_sparsify(Scripted(sees), data=data, out=tmp_path / "out", methods=[], budgets=["1/2"], timed=0,
                            controls="all", where="pattern == 'colour'", limit=4)  # fmt: skip
    for cell in report.metrics["cells"]:
        assert cell["accuracy"]["value"] == 1.0
        assert (cell["blind"]["value"], cell["time"]) == (0.0, None)
        assert cell["wrong-image"]["value"] < 1
        assert cell["accuracy"]["low95"] < 0.6, "four pictures say little"
    wrong = [row for row in report.rows.to_pylist() if row["variant"] == "wrong-image"]
    assert all(row["shown"] != row["picture"] for row in wrong if row["outcome"] != "unscored")


def test_the_command_puts_questions_as_told_prints_what_was_found_and_says_what_is_wrong(data, tmp_path, monkeypatch,
                                                                                        capsys, no_page):  # fmt: skip
    model = Scripted(sees)
    monkeypatch.setattr("omma.models.pretrained.load_vlm", lambda *_, **__: model)
    given = ["bench", "sparsify", "eye", "--data", str(data), "--out", str(tmp_path / "two"), "--budgets", "4"]
    options = ["--methods", "uniform,divprune", "--timed", "0", "--limit", "2", "--template", "Q: {}"]
    assert cli.run([*given, *options, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [cell["method"] for cell in found["cells"]] == ["dense", "uniform", "divprune", "random"]
    assert all(words.startswith("Q: ") for words in model.asked)
    assert cli.run([*given, *options]) == 0
    said = capsys.readouterr().out
    assert "report.html" in said.replace("\n", "")  # a long path is broken
    assert "by pattern" in said
    assert cli.run([*given, "--seeds", "one"]) == 2
    assert "whole numbers" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"methods": ["fast"]}, "no method 'fast'; there are sparsevlm-v1"),
        ({"methods": ["fastv:compact"]}, "options are name:key=value"),
        ({"budgets": ["none"]}, "budget 'none': write tokens"),
        ({"budgets": [0]}, "budget '0'"),
        ({"controls": "some"}, "controls='some'; choose 'dense' or 'all'"),
        ({"template": "no place"}, "has no {}"),
        ({"seeds": ()}, "0 seeds"),
        ({"where": "pattern == 'text'"}, "no questions in"),
    ],
)
def test_what_cannot_be_run_is_told_before_the_work(data, tmp_path, changes, words):
    with pytest.raises(ValueError, match=words):
        bench_sparsify(None, **{"data": data, "out": tmp_path / "out", "methods": [], **changes})


def test_a_way_is_written_as_a_person_writes_it():
    assert read_budget("64") == ("budget", 64.0)
    assert read_budget("1/8") == ("ratio", 0.125)
    assert read_budget("0.25") == ("ratio", 0.25)
    assert Way("sparsevlm-v1", "table:64").options == {"schedule": "64"}
    assert Way("sparsevlm-v1:tau=0.5:paper=true:positions=compact", "8").options == {
        "budget": 8.0, "tau": 0.5, "paper": True, "positions": "compact"}  # fmt: skip
    assert [way.method for way in ways(["uniform"], ["1/2"])] == ["dense", "uniform", "random"]
    with sparsify(tiny_vlm("llava", layers=3), **{"method": "fastv", **Way("fastv:positions=compact", "20").options}):
        pass


def test_the_meter_reports_the_cache_that_is_there_and_leaves_no_hook():
    model, inputs = tiny_vlm("llava", layers=3), tiny_inputs("llava", batch=2)
    length = inputs["input_ids"].shape[1]
    model(**inputs)  # transformers leaves hooks of its own at the first pass
    hooks = sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in model.modules())
    spent = spend(model, inputs, 3)
    assert spent.kv_bytes == 2 * kv_bytes(model.config, [length] * 3, "float32")
    assert 0 < spent.decoder_s < spent.prefill_s
    assert spent.decode_s > 0
    assert spent.peak_bytes is None
    assert hooks == sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in model.modules())
    with sparsify(model, "uniform", budget=6):
        few = spend(model, inputs, 2)
        cache = model(**inputs, use_cache=True).past_key_values
    assert few.kv_bytes == cache_bytes(cache) < spent.kv_bytes
    turns = in_turns(model, [inputs], {"one": lambda: sparsify(model, "uniform", budget=6)}, new_tokens=2, rounds=2)
    assert [(row["prompt"], row["round"]) for row in turns["one"]] == [(0, 0), (0, 1)]


def test_a_trace_turns_into_masks_that_turn_back():
    model, inputs = tiny_vlm("llava", layers=4), tiny_inputs("llava", batch=2, images=1)
    with sparsify(model, "sparsevlm-v1", budget=14) as trace, torch.inference_mode():
        model(**inputs)
    for number, found in seen(trace, 4).items():
        assert found["entering"] == trace.entering[number].tolist()
        for layer, bits, made in zip(*(found["kept"][name] for name in ("kept_after", "kept", "made")), strict=True):
            stays = trace.kept[layer][number]
            assert unpacked(bits, TOKENS).nonzero()[0].tolist() == sorted(stays[stays >= 0].tolist())
            assert made == int((stays < 0).sum())


def test_a_grid_is_told_only_where_tokens_stand_in_one():
    llava, qwen = tiny_vlm("llava", layers=1).config, tiny_vlm("qwen2_vl", layers=1).config
    assert token_grid(llava, [Grid(1, 6, 6)], 36) == [6, 6]
    assert token_grid(qwen, [Grid(1, 8, 12)], 24) == [4, 6]
    assert token_grid(qwen, [Grid(1, 8, 12), Grid(1, 8, 8)], 40) is None
    assert token_grid(llava, [], 36) is None


def test_kept_patches_keep_their_colours_and_the_others_fade():
    picture = Image.new("RGB", (60, 60), (200, 20, 20))
    kept = np.zeros((3, 3), dtype=bool)
    kept[0, 2] = True
    image = np.asarray(faded(picture, kept)).astype(int)
    side = image.shape[0] // 3
    assert image[side // 2, 2 * side + side // 2].tolist() == [200, 20, 20]
    assert np.ptp(image[side // 2, side // 2]) == 0
    assert image[side // 2, side // 2].min() > 190


def test_names_beside_the_plot_stand_apart_and_as_near_as_may_be():
    assert apart([1.0, 1.0, 5.0], 2.0) == [0.0, 2.0, 5.0]
    values = [3.0, 1.0, 1.2, 9.0, 1.1]
    found = apart(values, 0.5)
    assert sorted(range(5), key=lambda i: found[i]) == sorted(range(5), key=lambda i: values[i])
    assert min(np.diff(sorted(found))) >= 0.5 - 1e-9
    assert found[3] == 9.0
    assert omma.bench_sparsify is bench_sparsify
