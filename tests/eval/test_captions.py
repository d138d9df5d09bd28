"""BLEU and CIDEr-D by hand, and what the task says about captions that are true, false, open to doubt, or nonsense."""

import math

import numpy as np
import pytest
from fakes import Oracle, make_world

from omma.eval.captions import bleu, bleu_counts, cider, in_words, likeness
from omma.eval.run import evaluate
from omma.eval.tasks.caption import judge
from omma.scenes.language import Known
from omma.scenes.reading import read_facts


def test_a_match_counts_as_often_as_it_stands_in_one_reference():
    references = ["the cat is on the mat", "there is a cat on the mat"]
    assert bleu_counts("the the the the the the the", references)[:1] == [2]               # Papineni et al., example 2
    counts = bleu_counts("The cat sat on the mat.", references)
    assert counts == [5, 3, 1, 0, 6, 5, 4, 3, 6, 6]


def test_bleu_of_a_corpus_by_hand():
    one = bleu_counts("a red cup left of a ball", ["a red cup left of a ball"])  # 7, 6, 5, 4 n-grams, all right
    two = bleu_counts("a blue cup is here", ["a blue cup is there now"])         # 4 of 5, 3 of 4, 2 of 3, 1 of 2
    assert bleu([one]) == 1
    precision = (11 / 12 * 9 / 10 * 7 / 8 * 5 / 6) ** 0.25
    assert bleu([one, two]) == pytest.approx(precision * math.exp(1 - 13 / 12))
    assert bleu([bleu_counts("no", ["yes"])]) == bleu([]) == 0


def test_cider_of_a_reference_itself_is_10_and_of_other_words_0():
    references = [["a red cup with a handle"], ["two blue fish facing left"]]
    assert cider(["a red cup with a handle", "two blue fish facing left"], references) == pytest.approx([10, 10])
    assert cider(["two blue fish facing left", "green"], references) == [0, 0]
    assert math.isnan(cider(["a cup"], [[]])[0])


def test_cider_by_hand():
    # "red" is in one of two pictures' references, "cup" in both, so "cup" weighs nothing; 1 bigram each, both alike
    found = cider(["red cup", "x"], [["red cup"], ["blue cup"]])[0]
    assert found == pytest.approx(10 * (1 + 1 + 0 + 0) / 4)
    # "red" alone: 0 bigrams against 1
    assert cider(["red", "x"], [["red cup"], ["blue cup"]])[0] == pytest.approx(10 * math.exp(-1 / 72) / 4)


def test_captions_are_judged_by_the_facts():
    cup = Known(read_facts(["kind(o1, cup)", "colour(o1, red)", "handle(o1, yes)"]))
    ball = Known(read_facts(["kind(o1, ball)", "colour(o1, red)"]))
    said = ["a red cup", "a red cup and a ball", "a red ball that", "a red cup that is full"]
    assert judge(said, [cup, cup, cup, cup])[:3] == [[1, 1, 1, 1, 0], [1, 0, 0, 2, 1], [0, 0, 0, 0, 0]]
    assert judge(said, [cup, cup, cup, cup])[3] == [1, 0, 0, 1, 0]                          # it may be full or not
    assert judge(["a red ball", "a red ball", "a ball"], [cup, ball, None])[:2] == [[1, 0, 1, 1, 1], [1, 1, 0, 1, 0]]
    assert all(map(math.isnan, judge(["a ball"], [None])[0]))


def test_chance_is_that_of_the_same_captions_beside_the_other_pictures(tmp_path):
    class Half(Oracle):
        """Knows the colour, and says cup whatever it is."""

        def write(self, image):
            return super().write(image).rsplit(" ", 1)[0] + " cup"

    report = evaluate(Half(), "caption", data=make_world(tmp_path))
    found = report.metrics["scores"]["caption"]["model"]
    assert found["readable"]["value"] == 1
    assert found["true"]["right"] == found["there"]["right"] == 4  # 24 things of 6 kinds, 4 of them cups
    assert found["true"]["chance"] == pytest.approx((24 - 4) / 23 / 24)
    assert found["different"] == 4


def test_intervals_of_bleu_and_cider_are_of_corpora_drawn_by_picture():
    """A slow path draws rows picture by picture and makes the corpus anew."""
    rng = np.random.default_rng(0)
    counts = [[int(rng.binomial(n, share)) for n in (8, 7, 6, 5)] + [8, 7, 6, 5, 8, 8]
              for share in rng.uniform(0.2, 0.9, 60)]  # fmt: skip
    scores = [[float(rng.uniform(0, 5)), *row] for row in counts]
    pictures = [f"p{k // 2}" for k in range(60)]
    found = likeness(scores, pictures)
    assert found["bleu4"] == bleu(counts)
    assert found["cider"] == pytest.approx(np.mean([row[0] for row in scores]))
    drawn = [[2 * g + k for g in rng.integers(30, size=30) for k in (0, 1)] for _ in range(3000)]
    slow = {"bleu4": [bleu([counts[k] for k in some]) for some in drawn],
            "cider": [np.mean([scores[k][0] for k in some]) for some in drawn]}  # fmt: skip
    for name, values in slow.items():
        low, high = np.quantile(values, [0.025, 0.975])
        np.testing.assert_allclose(found[f"{name}_95"], [low, high], atol=0.05 * (high - low))
    apart = likeness(scores, [str(k) for k in range(60)])
    twice = likeness([row for row in scores for _ in (1, 2)], [str(k) for k in range(60) for _ in (1, 2)])
    assert twice["bleu4_95"] == pytest.approx(apart["bleu4_95"])                # the same captions again tell nothing


def test_captions_without_references_and_one_picture_alone_have_no_interval():
    row = [math.nan, *bleu_counts("a cup", [])]
    assert likeness([row, row], ["p", "q"])["cider_95"] is None
    assert likeness([[1.0, *bleu_counts("a cup", ["a cup"])]], ["p"])["bleu4_95"] is None
    nothing = likeness([], [])
    assert nothing == {"bleu4": 0.0, "bleu4_95": None, "cider": None, "cider_95": None}
    assert in_words(nothing) == "BLEU-4 0.0, CIDEr-D 0.00"
    assert in_words({"bleu4": 0.439, "bleu4_95": [0.4, 0.476], "cider": 2.17, "cider_95": [2, 2.34]}) == (
        "BLEU-4 43.9 (40.0-47.6), CIDEr-D 2.17 (2.00-2.34)")  # fmt: skip
