"""The slow reference against the published SparseVLM code, run once by make_sparse_golden.py, and arithmetic."""

import functools
import json
import math
from pathlib import Path

import pytest
import sparse_reference as reference
import torch
from sparse_reference import CASES, LAYERS, METHODS, RETAINED, STEPS, Llama, said, summary, the_llama
from torch import Tensor

GOLDEN = json.loads((Path(__file__).parent / "sparse_golden.json").read_text(encoding="utf-8"))


def agrees(hidden: Tensor, golden: dict) -> None:
    found = summary(hidden)
    assert found["along"] == pytest.approx(golden["along"], rel=1e-5, abs=1e-5)  # gravity's angles are float32 there
    assert found["norm"] == pytest.approx(golden["norm"], rel=1e-7)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("method", "version"), [("sparsevlm-v1", "1_0"), ("sparsevlm-v2", "2_0")])
def test_the_reference_keeps_computes_and_decodes_what_the_published_code_does(method, version, case):
    golden, run = GOLDEN[f"sparsevlm {version} {case}"], said(method, case)
    assert run.raters == golden["raters"]
    assert {str(layer): kept for layer, kept in run.kept.items()} == golden["kept"]
    assert {str(layer): count for layer, count in run.visual.items()} == golden["visual"]
    assert run.kv_lengths == golden["kv_lengths"]
    for hidden, wanted in zip(run.hidden, [golden["prefill"], *golden["steps"]], strict=True):
        agrees(hidden, wanted)


def test_a_merged_token_is_kept_at_a_later_stage_and_the_published_code_agrees():
    """Otherwise the test above would not see whether merged tokens compete with the others."""
    golden = GOLDEN["sparsevlm 1_0 larger"]
    assert len(golden["kept"]["6"]) < RETAINED["1_0"][6] or len(golden["kept"]["15"]) < RETAINED["1_0"][15]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("method", METHODS)
def test_rounding_to_float32_changes_no_choice_of_the_reference(method, case):
    """So whoever keeps other tokens than it does differs by more than rounding."""
    before, visual, after = CASES[case]
    exact, single = said(method, case), METHODS[method](single_precision(), before, visual.float(), after)
    assert (single.kept, single.raters, single.kv_lengths) == (exact.kept, exact.raters, exact.kv_lengths)
    torch.testing.assert_close(single.hidden.double(), exact.hidden[0], rtol=0, atol=1e-4)


@functools.cache
def single_precision() -> Llama:
    return Llama(the_llama().w, torch.float32)


@pytest.mark.parametrize("case", CASES)
def test_decoding_from_pruned_keys_is_what_a_pass_over_the_kept_rows_gives(case):
    """FastV leaves rows and positions as they are, so its decoding steps can be computed at once: by hiding tokens."""
    before, visual, after = CASES[case]
    llama, run = the_llama(), said("fastv", case)
    embeds = llama.embeds(before, visual, [*after, *STEPS])
    tokens = reference.Tokens(embeds, torch.arange(len(embeds)), list(range(len(visual))), len(before))
    for i in range(LAYERS):
        if i == 2:
            tokens = reference.gathered(tokens, run.kept[1], tokens.hidden[:0], compact=False)
        tokens.hidden, _, _ = llama.layer(i, tokens.hidden, tokens.positions)
    last = llama.norm(tokens.hidden[-1:], "model.norm")
    torch.testing.assert_close(run.hidden[-1], last, rtol=1e-9, atol=1e-9)


def test_gravity_of_a_llama_head_is_first_not_positive_at_distance_1707(monkeypatch):
    """d = 128, base 10,000: 11.3 at 0, 5.40 at 100, 2.35 at 600; beyond, the published score changes its sign."""
    monkeypatch.setattr(reference, "HEAD", 128)
    monkeypatch.setattr(reference, "ROPE_BASE", 1e4)
    g = reference.gravity(torch.arange(3000))
    assert g[0].item() == pytest.approx(math.sqrt(128))
    assert [round(g[i].item(), 2) for i in (100, 300, 600)] == [5.40, 3.47, 2.35]
    assert int((g <= 0).nonzero()[0]) == 1707


def test_two_density_peaks_need_a_tie_break():
    """Nearest of each other, so equally dense: without noise both become centres and the other group gets none."""
    x = torch.tensor([[0.0], [0.1], [5.0], [5.3]], dtype=torch.float64)
    falling = torch.tensor([0.9, 0.6, 0.3, 0.0], dtype=torch.float64)
    groups = reference.density_peaks_merge(x, 2, falling)
    torch.testing.assert_close(groups, torch.tensor([[0.05], [5.15]], dtype=torch.float64), rtol=0, atol=1e-5)
    useless = reference.density_peaks_merge(x, 2, torch.zeros(4, dtype=torch.float64))
    torch.testing.assert_close(useless[0], torch.zeros(1, dtype=torch.float64))
