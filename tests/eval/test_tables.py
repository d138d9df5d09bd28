"""The tables of a report in a terminal of 80 columns."""

import io

import pytest
from fakes import Coin, Oracle, make_world
from rich.console import Console

from omma.data.benchmarks.mmvp import PATTERNS
from omma.eval.run import Report, evaluate


def printed(report: Report) -> str:
    console = Console(width=80, file=io.StringIO())
    console.print(*report.table())
    return console.file.getvalue()


@pytest.mark.parametrize("model", [Coin(), Oracle()])
def test_the_pattern_table_fits_80_columns_even_with_the_longest_name_and_full_marks(tmp_path, model):
    report = evaluate(model, "patterns", data=make_world(tmp_path))
    for variants in report.metrics["scores"].values():
        for m in variants.values():
            m["patterns"]["orientation"] = m["patterns"].pop("colour")
    text = printed(report)
    assert "…" not in text
    assert text.count("│ orientation ") == text.count("│ all pairs ") == 2
    for word in ("image", "95 %", "blind", "wrong", "text", "group", "pairs"):
        assert word in text.splitlines()[2]                                # the headers stand on one line


def test_a_star_marks_what_is_above_chance(tmp_path):
    world = make_world(tmp_path)
    seen, guessed = (printed(evaluate(model, "patterns", data=world)) for model in (Oracle(), Coin()))
    assert seen.count("100.0 *") == 8                                      # three patterns and all pairs, itc and itm
    assert " * │" not in guessed
    assert "Ties: 0, blind 24." in guessed


def test_the_published_names_of_mmvp_vlms_patterns_cut_no_number(tmp_path):
    report = evaluate(Oracle(), "patterns", data=make_world(tmp_path))
    names = dict(zip(("colour", "position", "text"), PATTERNS, strict=False))
    for variants in report.metrics["scores"].values():
        for m in variants.values():
            m["patterns"] = {names[name]: block for name, block in m["patterns"].items()}
    text = printed(report)
    assert "…" not in text
    assert text.count("100.0 *") == 8
    assert all(text.count(word) >= 2 for word in ["Orientation", "Presence", "Condition"])
