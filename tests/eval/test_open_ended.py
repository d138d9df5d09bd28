"""Free-form answers: the strict rules, and what MMMU's evaluation and MathVista's make of the same replies."""

import pytest
from fakes_vlm import make_questions

from omma.eval.protocols import choice
from omma.eval.protocols.open_ended import MATHVISTA, MMMU, candidates, kind_of, parse, right
from omma.eval.run import evaluate
from omma.eval.tasks.choices import MODES, items

STRICT = "strict"


@pytest.mark.parametrize(
    ("reply", "kind", "value", "rule"),
    [
        ("4 + 5 = 9, so the answer is 9.", "integer", "9", "answer is"),
        ("**Answer:** 1,200", "number", "1,200", "answer is"),
        ("The answer is 3 + 4 = 7.", "integer", "7", "answer is"),
        ("The answer is $13.00.", "float", "13.00", "answer is"),
        ("45 %", "number", "45 %", "the whole reply"),
        ("three", "integer", "three", "the whole reply"),
        ("There are 5 apples, yes, 5.", "integer", "5", "the only number"),
        ("It is 3 of 4.", "integer", None, "none"),
        ("I can't tell.", "integer", None, "none"),
        ("", "number", None, "none"),
        ("Sorted: [3, 1] and then [1, 3]", "list", "[1, 3]", "list"),
        ("1, 3", "list", None, "none"),
        ("Oxygen.", "text", "Oxygen.", "the whole reply"),
        ("It burns.\nThe answer is: oxygen. Really.", "text", "oxygen", "answer is"),
        ("It burns.\nOxygen", "text", None, "none"),
        ("24/7", "either", "24/7", "the whole reply"),
    ],
)
def test_a_strict_answer_is_what_a_reply_says_once(reply, kind, value, rule):
    assert parse(reply, kind) == (value, rule)


@pytest.mark.parametrize(
    ("value", "answers", "kind", "places", "so"),
    [
        ("1,200", ["1200"], "number", None, True),
        ("0.333", ["0.33"], "number", None, True),
        ("0.34", ["0.33"], "number", None, False),
        ("three", ["3"], "integer", None, True),
        ("3.9", ["3"], "integer", None, False),
        ("3.0", ["3"], "integer", None, True),
        ("1.24", ["1.2"], "float", 1, True),
        ("1.26", ["1.2"], "float", 1, False),
        ("[1, 2.0]", ["[1, 2]"], "list", None, True),
        ("[2, 1]", ["[1, 2]"], "list", None, False),
        ("[1]", ["[1, 2]"], "list", None, False),
        ("The Oxygen", ["O2", "oxygen"], "text", None, True),
        ("no oxygen", ["oxygen"], "text", None, False),
        ("24/7", ["24/7", "3.43"], "either", None, True),
        ("3.429", ["24/7", "3.43"], "either", None, True),
    ],
)
def test_numbers_are_compared_as_numbers_and_words_as_words(value, answers, kind, places, so):
    assert right(value, answers, kind, places) is so


# what MMMU's evaluation, run on these replies, makes of them
@pytest.mark.parametrize(
    ("reply", "found"),
    [
        ("7", {7.0}),
        ("The answer is 7.", {7.0}),
        ("So it could be 1,234.567 or 2e3", {"1,234.567 or 2e3", 1234.0, 234.57, 2000.0, 3.0}),
        ("The result is B", {" b", "b "}),
        ("It is 5. Therefore x = 3", {3.0}),
        ("x is 4\ny is 5", {4.0, 5.0}),
        ("x = 4\ny = 5", {5.0}),
        ("Oxygen", {"oxygen"}),
        ("answer : ", {"answer :"}),
        ("-0.125 is so", {"so"}),
        (".5", {5.0}),
    ],
)
def test_mmmus_candidates_are_those_of_its_evaluation(reply, found):
    assert candidates(reply) == found


@pytest.mark.parametrize(
    ("reply", "answers", "so"),
    [
        ("The answer is 0.333", ["0.33"], True),
        ("It is between 3 and 7", ["7"], True),               # any number that is said
        ("the answer is not oxygen", ["Oxygen"], True),        # a text within
        ("banana", ["a"], False),                              # one letter stands between blanks
        ("it is a banana", ["a"], True),
        ("1200", ["1,200"], True),
        ("3.14159", ["3.1"], False),
    ],
)
def test_mmmu_takes_any_candidate_that_equals_a_number_or_holds_a_text(reply, answers, so):
    assert right(parse(reply, mode=MMMU).value or "", answers, mode=MMMU) is so


@pytest.mark.parametrize(
    ("reply", "kind", "places", "value", "form"),
    [
        ("3", "integer", None, "3", "3"),
        ("3.7", "integer", None, None, None),                              # its language model would read it
        ('The answer is "3.7".', "integer", None, "3.7", "3"),             # and what it reads loses its decimals
        ("1.25", "float", 1, "1.25", "1.2"),                               # rounded half to even, as Python does
        ("1", "float", 2, "1.0", "1.0"),
        ("It is 4.", "float", 1, None, None),
        ('The answer is "[1, 2]".', "list", None, "[1, 2]", "[1, 2]"),
    ],
)  # fmt: skip
def test_mathvista_reads_bare_numbers_and_quotes_and_compares_texts(reply, kind, places, value, form):
    assert parse(reply, kind, MATHVISTA).value == value
    if value is not None:
        assert right(value, [form], kind, places, MATHVISTA)
        assert not right(value, [f"{form}0"], kind, places, MATHVISTA)


@pytest.mark.parametrize(
    ("reply", "mmmu", "mathvista"),
    [
        ("B", "B", "B"),
        ("(A) or (C)", "C", None),
        ("I think B is right", "B", None),
        ("A cat is what I think it is", "A", None),
        ("it must be the brown dog then, I think, and no cow", "C", None),
        ("a dog", None, None),
        ("dog", None, "B"),
        ('The answer is "(C) cow".', "C", "C"),
        ('The answer is "dogs".', None, "B"),                              # the nearest option
        ("", None, None),
    ],
)  # fmt: skip
def test_letters_are_read_as_the_two_evaluations_read_them_and_their_guesses_are_unparsed(reply, mmmu, mathvista):
    options = ("cat", "dog", "cow")
    assert choice.parse(reply, options, mode=choice.MMMU).value == mmmu
    assert choice.parse(reply, options, mode=choice.MATHVISTA).value == mathvista


# ---- the task
ROW = {"id": "1", "task": "mathvista", "pattern": "geometry", "pictures": ["p0"], "group": "1", "options": None,
       "prompt": "How long is it?", "answer": "1.2"}  # fmt: skip


def test_a_free_question_asks_for_what_its_answer_is():
    changes = [{"answer_type": "float", "precision": "1.0", "unit": "cm"}, {"answer_type": "integer", "answer": "4"},
               {"answer_type": "list", "answer": "[1, 2]"}, {"task": "mmmu"}, {"query": "Hint: x\nQuestion: y"}]
    asked = items([ROW | change for change in changes])
    assert [MODES["strict"].prompt(item) for item in asked] == [
        "How long is it? (unit: cm)\nAnswer with a number with 1 decimal place.",
        "How long is it?\nAnswer with a whole number.",
        "How long is it?\nAnswer with a list of numbers in square brackets.",
        *["How long is it?\nAnswer the question using a single word or phrase."] * 2]  # fmt: skip
    assert MODES["mathvista"].prompt(asked[4]) == "Hint: x\nQuestion: y"
    (lettered,) = items([ROW | {"task": "mmmu", "options": ["1.2", "3"], "prompt": "Which?"}])
    assert MODES["mmmu"].prompt(lettered) == (
        "Which?\n(A) 1.2\n(B) 3\n\nAnswer with the option's letter from the given choices directly.")
    (other,) = items([ROW | {"task": "mmbench"}])
    assert other.problem == "no_options"
    assert kind_of(("1.2",)) == "number"


class Says:
    """Says the same to everything; its first tokens are unsure."""

    name, fingerprint = "says", "s0"

    def generate_batch(self, images, prompts, max_new_tokens=64, *, batch_size=8):
        return ["The answer is 1.2" for _ in prompts]

    def first_token(self, images, prompts, words, batch_size=8):
        return [[-1.0 - n for n in range(len(words))] for _ in prompts]


def test_open_questions_are_asked_and_counted_beside_those_with_options(tmp_path):
    rows = [ROW | {"id": str(n), "group": str(n), "pictures": [f"p{n}"], "task": "mmmu"} for n in range(4)]
    rows[1] |= {"answer": "7"}
    rows[2] |= {"options": ["1.2", "3"]}
    report = evaluate(Says(), "choice", data=make_questions(tmp_path, "choice", rows))
    model = report.metrics["scores"]["generate"]["model"]
    assert (model["accuracy"]["right"], model["accuracy"]["n"]) == (3, 4)
    assert (model["open"]["accuracy"]["value"], model["open"]["accuracy"]["n"]) == (2 / 3, 3)
    assert (model["with_options"]["accuracy"]["value"], model["with_options"]["accuracy"]["chance"]) == (1, 0.5)
    letters = report.metrics["scores"]["first_token"]["model"]
    assert (letters["n"], letters["reasons"]) == (1, {"no_options": 3})
    other = evaluate(Says(), "choice", data=tmp_path, reference="vlmevalkit").metrics["scores"]["generate"]["model"]
    assert (other["n"], other["accuracy"]["right"]) == (4, 2), "each has two options there: the answer, and others"
