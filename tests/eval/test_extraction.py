"""Answers that a judge finds in replies: what it is told and asked, what its words mean, and where it fails."""

import pytest
from answering_server import Server
from fakes_vlm import make_questions

from omma.eval.protocols import choice, judge, open_ended
from omma.eval.run import evaluate
from omma.eval.tasks import choices
from omma.models.endpoint import Endpoint

ROW = {"task": "mathvista", "pattern": "geometry", "options": None, "prompt": "How long is it?", "answer": "14",
       "answer_type": "integer"}  # fmt: skip


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


class Says:
    """Says of picture p0, p1, ... the first, second, ... of these."""

    name, fingerprint = "says", "s1"

    def __init__(self, *said):
        self.said, self.asked = said, []

    def generate_batch(self, images, prompts, max_new_tokens=64, *, batch_size=8):
        self.asked += prompts
        return [self.said[int(prompt.split("(")[1].split(")")[0])] for prompt in prompts]


def rows(*changes, **common):
    return [ROW | {"id": f"m{n}", "group": f"m{n}", "pictures": [f"p{n}"], "prompt": f"How long is it? ({n})"} | common
            | change for n, change in enumerate(changes)]  # fmt: skip


def told_of(report):
    return {row["item"]: row for row in report.rows.to_pylist()
            if (row["variant"], row["score_kind"]) == ("model", "generate")}  # fmt: skip


def test_a_judge_reads_what_mathvistas_rules_leave_and_is_not_told_the_answer(tmp_path):
    table = make_questions(tmp_path / "data", "choice", rows({}, {}, {}, {"options": ["14", "a cup"],
                           "answer_type": "text"}, {}))  # fmt: skip
    says = Says("14", "2 and 12, so fourteen", "I can't tell", "the second one, a mug", 'The answer is "15".')
    words = {"fourteen": " 14\n", "tell": "**no answer**.", "mug": "cups", "15": "15.0"}
    with Server(lambda prompt, images, n: next(words[key] for key in words if key in prompt)) as server:
        report = evaluate(says, "choice", data=table, reference="mathvista", judge=Endpoint("reader", server.url))
        asked = [prompt for prompt, _ in server.asked]
    found = told_of(report)
    assert [(found[f"m{n}"]["prediction"], found[f"m{n}"]["credits"][0], found[f"m{n}"]["rule"]) for n in range(5)] == [
        ("14", 1, "a bare number"), ("14", 1, "a judge"), (None, 0, "a judge: no answer"), ("a cup", 0, "a judge"),
        ("15.0", 0, "a judge")]  # fmt: skip
    assert {name: row["judge_said"] for name, row in found.items()} == {
        "m0": None, "m1": "14", "m2": "**no answer**.", "m3": "cups", "m4": "15.0"}  # fmt: skip
    assert {prompt.split("(")[1][0] for prompt in asked} == set("1234"), "a reply that is a number goes to no judge"
    assert sum("2 and 12, so fourteen" in prompt and "How long is it? (1)" in prompt for prompt in asked) == 1
    assert not any("14" in prompt for prompt in asked if "fourteen" in prompt), "the right answer is not told"
    model = report.metrics["scores"]["generate"]["model"]
    assert (model["n"], model["accuracy"]["value"], model["unparsed"]["value"]) == (5, 0.4, 0.2)
    assert report.metrics["judge"]["prompt"] == judge.EXTRACTION.version
    alone = evaluate(says, "choice", data=table, reference="mathvista")
    assert {name: row["prediction"] for name, row in told_of(alone).items()} == {
        "m0": "14", "m1": None, "m2": None, "m3": None, "m4": "15"}  # fmt: skip
    assert "judge" not in alone.metrics


def test_a_judge_that_fails_or_says_no_number_leaves_the_question_unscored(tmp_path):
    table = make_questions(tmp_path / "data", "choice", rows({}, {}, {}))
    says = Says("say 14", "perhaps 14", "it is 14")
    replies = {"say 14": (400, "not today"), "perhaps": "The extracted answer is 14", "it is 14": "14"}
    with Server(lambda prompt, images, n: next(said for key, said in replies.items() if key in prompt)) as server:
        reader = Endpoint("reader", server.url, retries=0)
        report = evaluate(says, "choice", data=table, reference="mathvista", judge=reader)
    model = report.metrics["scores"]["generate"]["model"]
    assert model["reasons"] == {"judge_endpoint_http_400": 1, "judge_no_grade": 1}
    assert (model["n"], model["accuracy"]["value"]) == (1, 1)
    assert report.metrics["failures"]["judge_no_grade"] == "The extracted answer is 14"
    assert {row["said"] for row in told_of(report).values()} == set(says.said), "the replies are not lost"


def test_a_prompt_for_a_reader_may_not_hold_the_right_answer(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("{question}\n{prediction}\nExtracted answer: ")
    assert judge.EXTRACTION.reading(path).prompt(question="q", prediction="p") == "q\np\nExtracted answer: "
    path.write_text("{prediction} {answer}")
    with pytest.raises(ValueError, match="must not know the right one"):
        judge.EXTRACTION.reading(path)
    path.write_text("{question}")
    with pytest.raises(ValueError, match=r"lacks \{prediction\}; a prompt for a judge may hold \{question\}"):
        judge.EXTRACTION.reading(path)


def test_a_mode_that_reads_by_rules_alone_takes_no_judge(tmp_path):
    table = make_questions(tmp_path / "data", "choice", rows({}))
    with pytest.raises(ValueError, match="a judge is asked in mathvista, lmms-eval, vlmevalkit"):
        evaluate(Says("14"), "choice", data=table, judge=Says("14"))


def test_vlmevalkit_makes_mmmus_open_questions_two_options_and_compares_mathvistas_numbers():
    (open_one,) = choices.items(rows({"task": "mmmu", "answer": "24/7", "answers": ["24/7", "3.43"]}))
    assert choices.vlmevalkit_prompt(open_one) == "Question: How long is it? (0)\n"
    read = lambda said: choices.in_vlmevalkit(said, open_one).value or ""
    assert not read("24/7"), "several answers are one text there, as the file has them"
    assert choices.earned_in_vlmevalkit(read("It is ['24/7', '3.43']."), open_one) == 1
    assert choices.earned_in_vlmevalkit(read("B"), open_one) == 0
    assert "A. ['24/7', '3.43']\nB. Other Answers\n" in choices.shown_to_judge(open_one, "")
    (number,) = choices.items(rows({"query": "Hint: x\nQuestion: y", "answer_type": "float", "answer": "1.2"}))
    assert choices.vlmevalkit_prompt(number) == "Hint: x\nQuestion: y"
    assert [choices.in_vlmevalkit(said, number).value for said in ("1.20", "1.25", "1.2 cm")] == ["1.20", "1.25", None]
    assert [choices.earned_in_vlmevalkit(said, number) for said in ("1.20", "1.25")] == [1, 0]
    (listed,) = choices.items(rows({"answer_type": "list", "answer": "[1, 2]"}))
    assert choices.from_judge_in_vlmevalkit("[1, 2]", listed) is None
    assert open_ended.parse("[1, 2]", "list", open_ended.VLMEVALKIT).value is None


def test_vlmevalkits_judge_of_an_open_question_is_shown_the_two_options(tmp_path):
    table = make_questions(tmp_path / "data", "choice", rows({}, {}, task="mmmu"))
    with Server(lambda prompt, images, n: "A" if "as many as that" in prompt else "B") as server:
        reader = Endpoint("reader", server.url)
        report = evaluate(Says("as many as that", "more than those"), "choice", data=table, reference="vlmevalkit",
                          judge=reader)  # fmt: skip
        told = {prompt for prompt, _ in server.asked}
    assert all("Options:\nA. 14\nB. Other Answers\n" in prompt for prompt in told)
    assert [(row["prediction"], row["credits"][0]) for _, row in sorted(told_of(report).items())] == [
        ("14", 1), ("Other Answers", 0)]  # fmt: skip


def test_lmms_eval_asks_two_benchmarks_and_reads_letters_before_a_full_stop(tmp_path):
    changes = {"unit": "cm", "answer_type": "float", "precision": "2"}, {"answer_type": "list", "answer": "[1, 2]"}
    first, second = choices.items(rows(*changes))
    assert choices.lmms_eval_prompt(first) == ("How long is it? (0) (Unit: cm)\nAnswer the question using a single "
                                               "floating-point number with two decimal places.")  # fmt: skip
    assert choices.lmms_eval_prompt(second).endswith("(1)\nAnswer the question using a Python list.")
    assert choice.parse("B. dog", ("cat", "dog"), choice.LMMS).value == "B"
    assert choice.parse("B. dog", ("cat", "dog"), choice.MMMU).value is None
    table = make_questions(tmp_path, "choice", rows({"task": "mmbench", "options": ["14", "3"]}))
    report = evaluate(Says("14"), "choice", data=table, reference="lmms-eval")
    assert report.metrics["scores"]["generate"]["model"]["reasons"] == {"not_in_this_mode": 1}
    with pytest.raises(ValueError, match=r"asked and read as strict, mmmu, mathvista, vlmevalkit$"):
        evaluate(Says("14"), "circular", data=table, reference="lmms-eval")
