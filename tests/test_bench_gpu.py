"""bench/gpu.py where there is no GPU: it says so, and runs dry."""

import importlib
import json
from pathlib import Path

import pytest
import torch


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "bench"))
    return importlib.import_module("gpu")


def test_without_a_device_it_says_what_is_needed(gpu, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="no CUDA device here; --dry"):
        gpu.main([])


def test_dry_it_runs_every_form_but_the_compiled_and_claims_nothing(gpu, capsys):
    gpu.main(["--dry", "--only", "training"])
    title, *rows = capsys.readouterr().out.splitlines()
    assert title.startswith("cpu: ")
    rows = [json.loads(row) for row in rows]
    assert rows[-1]["size"] == "clip"
    assert [row["form"] for row in rows] == [*(name for name, form in gpu.FORMS.items() if not form.compiled), "ours"]
    for row in rows:
        assert row["seconds"] > 0
        assert row["mfu"] > 0
        assert row["samples_per_s"] == pytest.approx(4 / row["seconds"])


def test_dry_visual_tokens_are_dropped_in_both_models_beside_dense_and_what_cannot_be_is_told(gpu, capsys):
    gpu.sparsify_gpu.main(["--dry", "--methods", "fastv,uniform", "--budgets", "192,64"])
    rows = [json.loads(row) for row in capsys.readouterr().out.splitlines()]
    for model in gpu.sparsify_gpu.MODELS:
        for batch in (1, 2):
            mine = {(row["method"], row["budget"]): row for row in rows
                    if (row["model"], row["batch"]) == (model, batch)}  # fmt: skip
            assert set(mine) == {("dense", "dense"), ("fastv", "192"), ("fastv", 64), ("uniform", "192"),
                                 ("uniform", "64")}  # fmt: skip
            assert "can't bring a mean of 4 of 36" in mine["fastv", 64]["error"]
            assert mine["dense", "dense"]["work"] == 1
            assert mine["uniform", "64"]["entering"] == 4
            assert mine["uniform", "64"]["work"] < mine["uniform", "192"]["work"] < 1
            assert mine["uniform", "64"]["kv_ratio"] < mine["uniform", "192"]["kv_ratio"] < 1
            assert mine["fastv", "192"]["decode_s"] > 0


def test_the_time_that_is_left_decides_how_many_methods_are_run(gpu, capsys):
    gpu.sparsify_gpu.main(["--dry", "--methods", "uniform", "--seconds", "0"])
    rows = [json.loads(row) for row in capsys.readouterr().out.splitlines()]
    assert [row["error"] for row in rows] == ["not run: the time is over"] * 4


def test_float32_scores_are_attention(gpu):
    q, k, v = torch.randn(3, 2, 2, 5, 8).unbind(0)
    bias = torch.randn(1, 2, 5, 5)
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    torch.testing.assert_close(gpu.float32_attend(q, k, v, bias), expected)


def test_the_published_form_counts_six_passes_of_padded_texts_and_ours_the_lengths_there_are(gpu):
    lengths = torch.tensor([8, 18, 9, 16])
    image = 1 + gpu.TINY.num_patches
    assert gpu.passes(gpu.TINY, lengths, gpu.FORMS["published"]) == [(4, image), (4, 40), *[(4, 40 + image)] * 4]
    ours = gpu.passes(gpu.TINY, lengths, gpu.FORMS["ours, relative bias"])
    assert ours == [(4, image), (3, 16), (1, 24), (12, 16 + image), (4, 24 + image)]


def test_a_clip_step_counts_each_token_that_its_layers_see(gpu):
    vision = 2 * (2 * 5 * 32 * 32 * 12 + 4 * 5 * 5 * 32)  # two layers, four patches and the class token
    assert gpu.clip_flops(gpu.TINY_CLIP, 1, 0) == 3 * vision
    assert gpu.clip_flops(gpu.TINY_CLIP, 0, 77) == 3 * 77 * 2 * 2 * 32 * 32 * 12
