"""Benchmarks as tasks: what is asked, and numbers worked out by hand; the rest is in tests/contracts."""

import numpy as np
import pytest

from omma.eval.protocols import chair as protocol
from omma.eval.replies import Reply
from omma.eval.run import TASKS
from omma.eval.task import Item
from omma.eval.tasks import chair, choices, hard_negatives, mme, naturalbench, short_answers


def row(name, **changes):
    return {"id": name, "pattern": "", "pictures": ["p"], "prompt": "what?", "options": ["a", "b", "c"], "answer": "b",
            "group": name} | changes  # fmt: skip


def result(item, group, right, pattern="", guess=1 / 3, answer="b", prediction="b"):
    return {"item": item, "group": group, "credits": [float(right), guess], "answer": answer, "pattern": pattern,
            "prediction": prediction, "pictures": [group], "scores": []}  # fmt: skip


def test_a_question_is_asked_in_every_rotation_unless_its_table_holds_them():
    made = choices.circle([row("7")])
    assert [(item.id, item.group, item.options) for item in made] == [
        ("7~0", "7", ("a", "b", "c")), ("7~1", "7", ("b", "c", "a")), ("7~2", "7", ("c", "a", "b"))]  # fmt: skip
    moved = [row("7", rotation="0"), row("1000007", group="7", rotation="1", options=["b", "c", "a"])]
    assert [item.id for item in choices.circle(moved)] == ["7", "1000007"]
    assert [item.problem for item in choices.circle([row("8", options=None)])] == ["no_options"]


def test_a_question_counts_in_the_circle_when_all_its_rotations_are_right():
    rows = [result(f"7~{k}", "7", True) for k in range(3)] + [result(f"8~{k}", "8", k != 1) for k in range(3)]
    found = choices.circular([*rows[::-1], result("9~0", "9", True)], choices.MODES["strict"])
    assert (found["circular"]["right"], found["circular"]["n"], found["torn"]) == (1, 2, 1)
    assert (found["vanilla"]["value"], found["rotations"]["value"]) == (1, 5 / 6)
    assert found["circular"]["chance"] == pytest.approx((1 / 3) ** 3)


def test_prompts_are_those_of_the_tools():
    (item,) = choices.items([row("7", hint="Look closely.")])
    assert choices.MODES["strict"].prompt(item) == (
        "Look closely.\nwhat?\nA. a\nB. b\nC. c\nAnswer with the option's letter from the given choices directly.")
    assert choices.MODES["vlmevalkit"].prompt(item) == (
        "Hint: Look closely.\nQuestion: what?\nOptions:\nA. a\nB. b\nC. c\n"
        "Please select the correct answer from the options above. \n")  # fmt: skip
    film = Item("1", "1", "posters", ("p",), ("Is it Heat? Please answer yes or no.",), "yes", options=("yes", "no"))
    assert mme.short_prompt(film) == "Is it Heat?\nAnswer the question using a single word or phrase."
    assert naturalbench.prompt(film).endswith("no. Please answer Yes or No.")
    assert short_answers.capitalised(film).startswith("Is it heat?")


def test_a_block_of_naturalbench_needs_its_four_answers():
    flags = {"0": (1, 1, 1, 1), "1": (1, 0, 1, 1)}
    rows = [result(f"{block}-q{n // 2}-i{n % 2}", block, right, guess=0.5)
            for block, four in flags.items() for n, right in enumerate(four)]  # fmt: skip
    found = naturalbench.blocks([*rows, result("2-q0-i0", "2", True)])
    assert (found["group"]["right"], found["group"]["n"], found["torn"]) == (1, 2, 1)
    assert (found["question"]["value"], found["image"]["value"]) == (3 / 4, 3 / 4)


def test_mme_adds_accuracy_and_pictures_with_both_right():
    said = {"a": ("yes", "no"), "b": ("yes", "yes"), "c": (None, "no")}
    rows = [result(f"{group}{k}", f"count/{group}", two[k] == label, "count", 0.5, label, two[k])
            for group, two in said.items() for k, label in enumerate(("yes", "no"))]  # fmt: skip
    torn = result("d0", "count/d", True, "count", 0.5, "yes", "yes")
    found = mme.metrics([*rows, torn], TASKS["mme"].modes["strict"])
    told = found["mme"]["subtasks"]["count"]
    assert (told["accuracy"], told["accuracy_plus"], found["mme"]["torn"]) == (4 / 6, 1 / 3, 1)
    assert found["mme"]["perception"] == pytest.approx(100)


def test_short_answers_earn_by_their_benchmark():
    page = Item("1", "1", "", ("p",), ("who?",), "University", answers=("University", "Uni"))
    chart = Item("1", "1", "", ("p",), ("how many?",), "100")
    doc, relaxed = TASKS["docvqa"].modes["strict"], TASKS["chartqa"].modes["strict"]
    assert doc.earn("Unversity", page) == pytest.approx(0.9)
    assert [relaxed.earn(said, chart) for said in ("104", "106", "hundred")] == [1, 0, 0]
    counts = [result("1", "1", 0, "count", 0, "3", "5"), result("2", "2", 0, "count", 0, "3", "many")]
    told = short_answers.counted(counts, TASKS["video-qa"].modes["strict"])["count"]
    assert (told["mean_squared"], told["n"], told["unparsed"]) == (4, 1, 1)
    rows = [row("1"), row("2", options=None)]
    assert [item.problem for item in short_answers.without_options(rows)] == ["has_options", ""]


def test_a_tie_between_captions_counts_half_and_is_told():
    items = hard_negatives.items([row(name, options=["true", "false"]) for name in "abc"])
    scores = iter(np.array([[[0.9, 0.1]], [[0.4, 0.4]], [[0.1, 0.2]]]))
    view = type("View", (), {"matrices": lambda self, asked: [next(scores) for _ in asked]})()
    answers = hard_negatives.score(items, view)
    assert [(list(a.credits), a.correct) for a in answers] == [([1.0], True), ([0.5], None), ([0.0], False)]
    rows = [{"item": f"relation-{n}", "pattern": kind, "credits": list(a.credits), "scores": a.scores,
             "pictures": ["p"], "group": "p"}
            for n, (a, kind) in enumerate(zip(answers, ("on", "in", "in"), strict=True))]  # fmt: skip
    found = hard_negatives.metrics([*rows, rows[0] | {"item": "swap_obj-1", "pattern": "swap_obj"}])
    assert (found["accuracy"]["value"], found["official"], found["ties"]) == (2.5 / 4, 0.5, 1)
    assert found["accuracy"]["clusters"] == 1                             # all about one picture
    assert (found["relation"]["macro"], found["relation"]["value"]) == (0.5, 0.5)   # on: 1, in: 0 of 2
    assert list(found["patterns"]) == ["swap_obj"]
    alike = hard_negatives.items([row("a", options=["x", "x"]), row("b")])
    assert [item.problem for item in alike] == ["two_captions_alike", "not_a_picture_and_two_captions"]


def test_a_caption_stands_above_all_its_shuffles_and_has_its_share_of_a_tie():
    orders = [row(f"coco_order-{n}", task="aro", options=["a b", "b a", "a  b"], pattern=None) for n in range(4)]
    items = hard_negatives.items([*orders, row("swap_obj-1", options=["x", "y", "z"])])
    assert [item.problem for item in items] == [""] * 4 + ["not_a_picture_and_two_captions"]
    scores = iter(np.array([[[0.9, 0.1, 0.2]], [[0.4, 0.4, 0.4]], [[0.1, 0.3, 0.3]], [[0.5, 0.5, 0.1]]]))
    view = type("View", (), {"matrices": lambda self, asked: [next(scores) for _ in asked]})()
    answers = hard_negatives.score(items[:4], view)
    assert [(a.credits[0], a.correct, a.prediction) for a in answers] == [
        (1, True, "a b"), (1 / 3, None, "a b"), (0, False, "b a"), (0.5, None, "a b")]  # fmt: skip
    rows = [{"item": item.id, "pattern": "", "credits": list(a.credits), "scores": a.scores, "pictures": [item.id],
             "group": item.id} for item, a in zip(items, answers, strict=False)]  # fmt: skip
    found = hard_negatives.metrics(rows)
    assert found["accuracy"]["value"] == found["coco_order_of_3"]["value"] == pytest.approx((1 + 1 / 3 + 0.5) / 4)
    told = {name: found["coco_order_of_3"][name] for name in ("official", "strict", "ties")}
    assert told == {"official": 0.75, "strict": 0.25, "ties": 2}
    assert (found["coco_order_of_3"]["chance"], "official" in found) == (pytest.approx(1 / 3), False)


def test_a_caption_is_judged_by_what_is_marked_and_by_what_people_saw():
    said = {"1": "A dog and two cats on a bench.", "2": "It is dark.", "3": "A bus, a bus and a dog.", "4": " "}
    known = {"1": (["dog"], ["a dog with a cat"]), "2": ([], []), "3": (["bus", "car"], []), "4": (["dog"], [])}
    rows = [row(n, prompt=None, options=None, answer=None, things=things, answers=captions, pictures=[n])
            for n, (things, captions) in known.items()]  # fmt: skip
    items = chair.items([*rows, row("5", answers=[], things=None), row("6", pictures=[], things=["dog"])])
    assert [item.problem for item in items] == ["", "", "", "", "nothing_is_known_of_it", "not_one_picture"]
    replies = [Reply(text) for text in said.values()]
    view = type("View", (), {"replies": lambda self, *asked: replies})()
    mode = chair.CHAIR.modes["strict"]
    answers = chair.score(mode, items[:4], view)
    assert [a.credits[:4] for a in answers] == [[0, 3, 1, 8], [1, 0, 0, 3], [0, 3, 1, 7], [1, 0, 0, 0]]
    assert [answers[0].credits[4], answers[2].credits[4]] == [1, 0.5]     # dog and cat; the bus and not the car
    assert (answers[3].prediction, answers[3].correct, answers[3].said) == (None, None, " ")
    found = chair.metrics([{"item": i.id, "group": i.id, "pictures": [i.id], "prediction": a.prediction,
                            "credits": a.credits, "scores": a.scores}
                           for i, a in zip(items, answers, strict=False)], mode)  # fmt: skip
    assert (found["chair_i"]["value"], found["there"]["value"], found["mentions"]) == (2 / 6, 4 / 6, 6)
    assert (found["chair_s"]["value"], found["silent"]["value"], found["cover"]["value"]) == (2 / 3, 1 / 3, 0.75)
    assert (found["unparsed"]["value"], found["mean_words"]) == (0.25, 6)
    assert found["chair_i"]["low95"] == found["chair_i"]["high95"] == 1 / 3
    same = protocol.score({n: text for n, text in said.items() if text.strip()}, {n: known[n][0] for n in known},
                          protocol.COCO, references={n: known[n][1] for n in known})  # fmt: skip
    for name in ("chair_i", "chair_s"):
        assert found[name]["value"] == same[name]["value"]
    assert (found["cover"]["value"], found["digest"], found["mean_words"]) == (
        same["cover"], same["digest"], same["mean_words"])  # fmt: skip
