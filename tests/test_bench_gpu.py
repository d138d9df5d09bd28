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
    gpu.main(["--dry"])
    title, *rows = capsys.readouterr().out.splitlines()
    assert title.startswith("cpu: ")
    rows = [json.loads(row) for row in rows]
    assert rows[-1]["size"] == "clip"
    assert [row["form"] for row in rows] == [*(name for name, form in gpu.FORMS.items() if not form.compiled), "ours"]
    for row in rows:
        assert row["seconds"] > 0
        assert row["mfu"] > 0
        assert row["samples_per_s"] == pytest.approx(4 / row["seconds"])


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
