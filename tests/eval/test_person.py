"""A person's test is scored like a model's run, and a model's proposal is no more than that."""

import pytest
from PIL import Image

import omma
from omma.eval.annotate.benchmark import choose, export_benchmark, questions
from omma.eval.annotate.person import begin, find, next_place, reply, result
from omma.eval.annotate.propose import propose, read
from omma.eval.annotate.store import Changed, open_store
from omma.eval.metrics import wilson
from omma.eval.run import Report
from pair_folders import make_pairs, said


@pytest.fixture
def pairs(tmp_path):
    return make_pairs(tmp_path, n=6)


@pytest.fixture
def store(pairs):
    opened = open_store(pairs.folder)
    for n, pair in enumerate(pairs):
        opened.save(pair, "anna", said(("state", "text")[n % 2], "open", "shut"))
    yield opened
    opened.close()


def take(store, number, answer):
    """Answers every question by answer(question, place)."""
    _, order = find(store, number)
    while (place := next_place(store, number)) is not None:
        reply(store, number, place, answer(order[place], place), seconds=place + 1.0)


def test_who_is_always_right_has_every_pair(pairs, store):
    number = begin(store, questions(choose(pairs, store)[0]), "carla")
    take(store, number, lambda question, _: question.answer)
    scores = result(store, number).metrics["scores"]["person"]["model"]
    assert (scores["pairs"]["right"], scores["pairs"]["n"], scores["accuracy"]["n"]) == (6, 6, 12)
    assert (scores["pairs"]["low95"], scores["pairs"]["high95"]) == wilson(6, 6)
    assert scores["same_answer"]["value"] == 0
    assert (scores["seconds"], scores["wrote"]) == (7, 0)


def test_who_does_not_look_has_half_of_the_questions_and_no_pair(pairs, store):
    number = begin(store, questions(choose(pairs, store)[0]), "anna")
    take(store, number, lambda question, _: "open")
    scores = result(store, number).metrics["scores"]["person"]["model"]
    assert (scores["pairs"]["value"], scores["accuracy"]["value"], scores["same_answer"]["value"]) == (0, 0.5, 1)
    assert scores["wrote"] == 12  # and wrote the questions, which is told
    assert scores["patterns"]["text"]["pairs"]["n"] == 3


def test_the_order_is_drawn_by_the_seed_and_pairs_stand_apart(pairs, store):
    asked = questions(choose(pairs, store)[0])
    orders = [[q.id for q in find(store, begin(store, asked, name, seed))[1]]
              for name, seed in (("a", 0), ("b", 0), ("c", 1))]  # fmt: skip
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(orders[2]) == sorted(q.id for q in asked)
    assert orders[0] != [q.id for q in asked]


def test_a_test_that_was_broken_off_goes_on_where_it_stopped_and_answers_stand(pairs, store):
    asked = questions(choose(pairs, store)[0])
    number = begin(store, asked, "carla")
    reply(store, number, 0, "open")
    with pytest.raises(ValueError, match="has 1 of 12 answers; finish it"):
        result(store, number)
    assert begin(store, asked, " carla ") == number
    assert next_place(store, number) == 1
    with pytest.raises(ValueError, match=r"question 1 is not the next one .* answers stand"):
        reply(store, number, 0, "shut")
    with pytest.raises(Changed, match="answers stand"):
        store.add_reply(number, 0, "shut", 0)
    with pytest.raises(ValueError, match="'ajar' is no option; there are"):
        reply(store, number, 1, "ajar")
    assert begin(store, asked, "carla", seed=1) != number
    take(store, number, lambda question, _: question.answer)
    assert begin(store, asked, "carla") not in (number, number + 1)  # it is over: a new one
    with pytest.raises(ValueError, match="there is no test 99"):
        find(store, 99)
    with pytest.raises(ValueError, match="no pair can be asked about yet"):
        begin(store, [], "carla")


def test_questions_that_change_later_leave_a_test_as_it_was(pairs, store):
    number = begin(store, questions(choose(pairs, store)[0]), "carla")
    before = find(store, number)[1]
    store.save(pairs[0], "anna", said("colour", "red", "green"))
    assert find(store, number)[1] == before


def test_two_people_are_compared_as_two_models_are(pairs, store, tmp_path):
    asked = questions(choose(pairs, store)[0])
    for name, answer in (("carla", lambda q, _: q.answer), ("dora", lambda q, _: "open")):
        number = begin(store, asked, name)
        take(store, number, answer)
        result(store, number).save(tmp_path / name)
    verdict = omma.compare(tmp_path / "dora", tmp_path / "carla")
    (found,) = verdict.benchmarks
    assert found["groups"] == {"both": 0, "only_a": 0, "only_b": 6, "neither": 0}
    assert found["p"] == pytest.approx(2 / 2**6)
    assert found["difference"]["value"] == 0.5


def test_a_person_is_held_against_a_vlm_on_the_exported_tables(pairs, store, tmp_path):
    number = begin(store, questions(choose(pairs, store)[0]), "carla")
    take(store, number, lambda question, _: question.answer)
    result(store, number).save(tmp_path / "carla")
    export_benchmark(pairs, store, "items", tmp_path / "bench")

    class FirstOption:
        name, fingerprint = "first", "0"

        def generate_batch(self, images, prompts, max_new_tokens=64, *, batch_size=8):
            return ["A"] * len(prompts)

    report = omma.evaluate(FirstOption(), "mmvp", data=tmp_path / "bench", out=tmp_path / "first")
    mine, theirs = result(store, number).metrics["scores"]["person"], report.metrics["scores"]["generate"]
    assert set(theirs["model"]) <= {*mine["model"], "same"}  # the same numbers, from the same arithmetic
    assert (mine["model"]["pairs"]["value"], theirs["model"]["pairs"]["value"]) == (1, 0)
    (found,) = omma.compare(tmp_path / "first", tmp_path / "carla").benchmarks
    assert (found["groups"]["only_b"], found["difference"]["value"]) == (6, 0.5)
    assert set(found["patterns"]) == {"state", "text"}


def test_the_report_of_a_person_can_be_shown(pairs, store, tmp_path):
    number = begin(store, questions(choose(pairs, store)[0]), "carla")
    take(store, number, lambda question, _: question.answer)
    result(store, number).save(tmp_path / "carla")
    assert Report.load(tmp_path / "carla").grids()[0].rows[0][:2] == ["pairs", "100.0"]


# ---- proposals


class Writer:
    name = "some-vlm"

    def __init__(self, said, most=2):
        self.said, self.most, self.asked = said, most, []

    def generate(self, images, prompt, max_new_tokens=64):
        if len(images) > self.most:
            raise ValueError("one picture at a time")
        self.asked.append((len(images), prompt))
        return self.said


def test_a_proposal_holds_the_lines_that_the_reply_has():
    vlm = Writer(
        'Sure!\n**Question:** Is it lit?\n- Left answer: yes\nright answer: "no"\nPattern: State.\nPattern: text'
    )
    found = propose(vlm, Image.new("RGB", (4, 4)), Image.new("RGB", (4, 4)))
    assert found.fields == {"question": "Is it lit?", "left": "yes", "right": "no", "pattern": "state"}
    assert (found.model, found.said) == ("some-vlm", vlm.said)
    assert [n for n, _ in vlm.asked] == [2]


def test_a_reply_in_other_words_proposes_nothing_and_is_shown_whole():
    assert read("The left lamp is lit: yes.\nPattern: shape") == {}
    assert len(read("Question: " + "x" * 900)["question"]) == 500


def test_a_model_that_takes_one_picture_says_what_is_in_each():
    vlm = Writer("a lit lamp\n", most=1)
    found = propose(vlm, Image.new("RGB", (4, 4)), Image.new("RGB", (4, 4)))
    assert found.fields == {"left_statement": "a lit lamp", "right_statement": "a lit lamp"}
