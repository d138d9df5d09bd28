"""How benchmarks ask in words, letter by letter, and what is done with rows that can't be asked."""

import errno
import re

import numpy as np
import pytest
from fakes_vlm import Knows, make_questions, rows_of

from omma.eval.asking import mirrored, question_items, swapped
from omma.eval.replies import Kept, Reply, is_sure
from omma.eval.run import TASKS, evaluate
from omma.eval.task import Item
from omma.table import Table

ITEM = Item("i", "g", "", ("p",), ("Is the door open?",), "Open", options=("Open", "Closed"))


@pytest.mark.parametrize(
    ("task", "mode", "prompt"),
    [
        ("mmvp", "official", "Is the door open? (a) Open (b) Closed"),
        ("mmvp", "lmms-eval", "Is the door open?\nA. Open\nB. Closed\n"
                              "Answer with the option's letter from the given choices directly."),
        ("mmvp", "vlmevalkit", "Question: Is the door open?\nOptions:\nA. Open\nB. Closed\n"
                               "Please select the correct answer from the options above. \n"),
        ("pope", "official", "Is the door open?"),
        ("pope", "lmms-eval", "Is the door open?\nAnswer the question using a single word or phrase."),
        ("pope", "vlmevalkit", "Is the door open?"),
        ("vqa", "vlmevalkit", "Is the door open?\nAnswer the question using a single word or phrase."),
        ("scenes", "strict", "Is the door open?"),
    ],
)  # fmt: skip
def test_a_mode_asks_in_the_words_of_those_it_is_named_after(task, mode, prompt):
    assert TASKS[task].modes[mode].prompt(ITEM) == prompt


def test_the_letters_that_count_are_those_of_the_prompt_and_move_with_the_options():
    assert TASKS["mmvp"].modes["official"].spellings(ITEM) == (("a", " a"), ("b", " b"))
    assert TASKS["mmvp"].modes["strict"].spellings(ITEM) == (("A", " A"), ("B", " B"))
    asked = TASKS["mmvp"].modes["strict"]
    turned = swapped(ITEM)
    assert turned is not None
    assert (asked.parse("A", ITEM).value, asked.parse("A", turned).value) == ("Open", "Closed")
    yes = Item("i", "g", "", ("p",), ("Is it?",), "no", options=("yes", "no"))
    assert TASKS["pope"].modes["strict"].spellings(yes) == (("yes", "Yes", " yes", " Yes"), ("no", "No", " no", " No"))


def test_options_have_letters_where_the_prompt_gives_them_some_and_words_elsewhere():
    closed = Item("i", "g", "", ("p",), ("Is it?",), "no", options=("yes", "no"))
    assert TASKS["mmvp"].modes["official"].spellings(closed) == (("a", " a"), ("b", " b"))
    for name, task in TASKS.items():
        for mode in task.modes.values():
            told = set(re.findall(r"(?<!\w)([A-Za-z])[.)] (?:yes|no)\b", mode.prompt(closed)))
            assert told == ({mode.letters, chr(ord(mode.letters) + 1)} if mode.letters else set()), name
    letter = Item("i", "g", "", ("p",), ("Which? Option: A: red; Option: B: blue;",), "A", options=("A", "B"))
    assert TASKS["naturalbench"].modes["strict"].spellings(letter) == (("A", " A"), ("B", " B"))


@pytest.mark.parametrize(
    ("question", "answer", "turned"),
    [
        ("which way is it facing?", "left", "right"),
        ("is the cup left or right of the door?", "right", "left"),
        ("what colour is it?", "red", "red"),
        ("is it facing left?", "yes", None),     # the answer may turn or not: who knows
        ("which one is on the left?", "the cup", None),
        ("what does the sign say?", "stop", None),
    ],
)
def test_a_mirrored_picture_has_the_same_answer_with_left_for_right(question, answer, turned):
    assert mirrored(Item("i", "g", "", ("p",), (question,), answer)) == turned


def test_rows_that_cannot_be_asked_or_judged_say_why():
    row = {"id": "i", "pattern": None, "pictures": ["p"], "prompt": "q", "options": ["x", "y"], "answer": "x",
           "group": "g"}  # fmt: skip
    changes = [{"answer": "z"}, {"answer": None}, {"pictures": []}, {"prompt": ""}, {"options": ["x", "x"]}, {}]
    assert [question_items([row | change])[0].problem for change in changes] == [
        "answer_is_no_option", "no_answer", "no_picture", "no_question", "two_options_alike", ""]  # fmt: skip


def test_a_template_and_a_reference_change_what_is_asked_and_unknown_ones_are_refused(tmp_path):
    rows = rows_of("mmvp")
    data, model = make_questions(tmp_path, "mmvp"), Knows(rows)
    first = evaluate(model, "mmvp", data=data)
    other = evaluate(model, "mmvp", data=data, templates=["Look: {} Left or right?"])
    assert {row["prompt"] for row in other.rows.to_pylist()} == {"Look: which way is it facing? Left or right?"}
    assert first.metrics["run_id"] != other.metrics["run_id"]
    with pytest.raises(ValueError, match=r"reference='officail'; this task is asked and read as strict, official, "):
        evaluate(model, "mmvp", data=data, reference="officail")
    with pytest.raises(ValueError, match=r"takes no reference; .*vqa, .*scenes, mmvp, pope"):
        evaluate(model, "statements", data=data, reference="official")
    with pytest.raises(ValueError, match=r"has no such method; it can be measured on .*vqa, .*scenes, mmvp, pope"):
        evaluate(model, "patterns", data=(Table.open(data / "pictures"), pairs(tmp_path)))


def pairs(folder):
    table = Table.create(folder / "pairs", "items")
    table.append([{"id": "a", "task": "pairs", "pictures": ["p0", "p1"], "options": ["x", "y"], "pattern": "text"}])
    return table


def test_probabilities_that_are_no_numbers_are_counted_and_no_answer(tmp_path):
    class Broken(Knows):
        def first_token(self, images, prompts, words, batch_size=8):
            scores = super().first_token(images, prompts, words)
            scores[[self.see(shown[0])[0] % 2 == 1 for shown in images]] = np.nan
            return scores

    report = evaluate(Broken(rows_of("mmvp")), "mmvp", data=make_questions(tmp_path, "mmvp"))
    model = report.metrics["scores"]["first_token"]["model"]
    assert (model["n"], model["reasons"]) == (4, {"not_finite": 4})
    assert model["accuracy"]["value"] == 1
    assert [is_sure(s) for s in ([0.0, -np.inf], [-np.inf, -np.inf], [0.0, np.nan])] == [True, False, False]


def test_a_full_disk_is_told_as_one_and_what_was_said_before_is_kept(tmp_path):
    kept = Kept(tmp_path / "replies.sqlite")
    kept.put({"one": Reply("yes")})
    kept.db.execute("pragma max_page_count = 3")
    with pytest.raises(OSError, match="make room and run it again") as told:
        kept.put({str(n): Reply("no" * 500) for n in range(50)})
    assert (told.value.errno, told.value.filename) == (errno.ENOSPC, str(tmp_path / "replies.sqlite"))
    assert kept.get("one") == Reply("yes")
    assert kept.get("0") is None
    kept.close()
