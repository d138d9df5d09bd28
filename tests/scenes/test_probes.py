"""The probes find the shortcuts of naive pairs, and none in pairs that exchange."""

import math
from dataclasses import replace

import numpy as np
import pytest

from omma.scenes.kinds import PATTERNS
from omma.scenes.pairs import make_pairs
from omma.scenes.probes import ENOUGH, PROBES, check_balance, difference, holm, logistic, probe, tail


def test_tail_is_the_exact_binomial_sum():
    for right in range(21):
        assert tail(right, 20) == pytest.approx(sum(math.comb(20, k) for k in range(right, 21)) / 2**20)
    assert tail(1000, 2000) == pytest.approx(0.5, abs=0.01)


def test_holm_worked_out_by_hand():
    # 3 x 0.01, then max(0.03, 2 x 0.03), then max(0.06, 0.04)
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.6, 0.9]) == [1.0, 1.0]


def test_logistic_finds_the_maximum_of_the_penalised_likelihood():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 3))
    y = np.where(rng.random(300) < 1 / (1 + np.exp(-x @ [2.0, -1.0, 0.0])), 1, -1)
    loss = lambda w: np.log1p(np.exp(-y * (x @ w))).sum() + 0.5 * w @ w
    w = logistic(x, y, ridge=1.0)
    assert w == pytest.approx([2, -1, 0], abs=0.5)
    assert all(loss(w) <= loss(w + step) for step in 0.01 * rng.normal(size=(50, 3)))


def test_the_difference_of_two_statements_is_ordered_and_numbers_by_size():
    pair = make_pairs("presence", 1, 0)[0]
    swapped = replace(pair, statement_a="a cup without a lid", statement_b="a cup with a lid")
    assert difference(swapped) == (("with", "without"), -1)
    three = replace(pair, statement_a="there are three cups", statement_b="there are two cups")
    assert difference(three) == (("fewer", "more"), -1)  # "three" sorts before "two" as a word, but is more


def test_no_probe_tells_the_partners_of_exchanged_pairs_apart():
    rows = probe([pair for pattern in PATTERNS for pair in make_pairs(pattern, ENOUGH // 2, "chance")], size=64)
    assert len(rows) == len(PATTERNS) * len(PROBES)
    assert all(row["ok"] for row in rows), [row for row in rows if not row["ok"]]
    assert all(row["accuracy"] == 0.5 for row in rows if row["name"] in ("majority", "question"))


@pytest.mark.parametrize("pattern", ["presence", "state", "quantity", "structure", "viewpoint"])
def test_the_probes_catch_a_naive_edit(pattern):
    rows = {row["name"]: row for row in probe(make_pairs(pattern, ENOUGH, "power", mode="single"))}
    assert not rows["statistics"]["ok"]
    assert rows["statistics"]["accuracy"] > 0.75
    assert not all(row["ok"] for name, row in rows.items() if name.startswith("more "))


def test_the_probes_catch_a_colour_that_goes_with_the_answer():
    pairs = make_pairs("presence", ENOUGH, "tinted")
    tinted = []
    for pair in pairs:  # the picture in which the statement with "with" or "has" holds gets a redder sky
        dark, red = (replace(pair.a.backdrop, sky=sky) for sky in ((220, 220, 220), (232, 220, 220)))
        first = difference(pair)[1] > 0
        tinted.append(replace(pair, a=replace(pair.a, backdrop=red if first else dark),
                              b=replace(pair.b, backdrop=dark if first else red)))  # fmt: skip
    rows = {row["name"]: row for row in probe(tinted)}
    assert not rows["more red"]["ok"]
    assert not rows["statistics"]["ok"]


def test_too_few_pairs_to_probe_are_refused():
    with pytest.raises(ValueError, match="at least 10"):
        probe(make_pairs("text", 3, 0))


def item(prompt: str, answer: str, *options: str) -> dict:
    return {"task": "question", "pattern": "text", "prompt": prompt, "options": list(options), "answer": answer}


def test_balance_is_per_text_and_per_place():
    good = [item("a?", "yes", "yes", "no"), item("a?", "no", "yes", "no"), item("b?", "no", "no", "yes"),
            item("b?", "yes", "no", "yes")]  # fmt: skip
    check_balance(good)
    with pytest.raises(ValueError, match="equally often"):
        check_balance(good[:3])
    with pytest.raises(
        ValueError, match="equally often"
    ):  # every text is balanced, but the first place is always right
        check_balance([item("a?", "yes", "yes", "no"), item("a?", "no", "no", "yes")])
