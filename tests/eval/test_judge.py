"""Replies that a judge grades: what it is told and how it is read, and one on the loopback that fails in every way."""

import threading

import pytest
from answering_server import Server
from fakes_vlm import Judge, Knows, make_questions, rows_of

import omma
from omma.eval.protocols import judge
from omma.eval.run import Report, evaluate
from omma.eval.tasks import judged
from omma.models.endpoint import Endpoint


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def rows(task="mm-vet"):
    asks = "Which way is thing {} facing?"
    return [row | {"group": row["id"], "prompt": asks.format(row["id"][-1])} for row in rows_of(task)]


def test_a_grade_is_one_number_in_its_range_and_no_sentence_that_begins_with_one():
    right = {"0.5": 0.5, "1": 1, "1.0.": 1, " **0.7** ": 0.7, "Score: 0.3": 0.3, "0.8/1.0": 0.8, "0.2\nsome words": 0.2,
             "The correctness score is 0.4, because x": 0.4, "0.9 - all but one": 0.9, "`0`": 0}  # fmt: skip
    assert {reply: judge.share(reply)[0] for reply in right} == right
    for reply in ("", "1.2", "7/10", "85%", "1 of the two is there", "none", "nan", "-0.5", "is 0.5", "0.5 0.6", "1e3"):
        assert judge.share(reply) is None, reply


def test_two_marks_stand_alone_on_the_first_line():
    right = {"8 7": (0.7, 0.8), "10, 9.5\nwhy": (0.95, 1.0), " [7;1] ": (0.1, 0.7), "**9 9**": (0.9, 0.9)}
    assert {reply: judge.two_marks(reply) for reply in right} == right
    for reply in ("", "8", "8 7 6", "0 5", "11 5", "First: 8 second: 7", "8/10 7/10", "87", "why\n8 7"):
        assert judge.two_marks(reply) is None, reply
    assert judge.yes_or_no("NO") == (0.0,)
    assert judge.yes_or_no("Yes, but") is None


def test_a_reply_that_looks_like_a_field_is_told_as_it_stands(tmp_path):
    told = judge.MM_VET.prompt(question="what?", answer="a <AND> b", prediction="{answer} {context}")
    assert "Answer: {answer} {context}\n" in told
    path = tmp_path / "mine.txt"
    path.write_text("Is {prediction} as good as {answer}? {x}")
    mine = judge.MM_VET.reading(path)
    assert mine.prompt(question="q", answer="a", prediction="p") == "Is p as good as a? {x}"
    assert (mine.version, mine.parse) == ("mine.txt", judge.share)
    assert mine.hash != judge.MM_VET.hash
    path.write_text("How good is {answer}?")
    with pytest.raises(ValueError, match=r"lacks \{prediction\}"):
        judge.MM_VET.reading(path)
    with pytest.raises(ValueError, match="no file at"):
        judge.MM_VET.reading(tmp_path / "none.txt")


def test_a_judge_that_fails_rambles_or_is_late_is_counted_each_under_its_reason_and_never_as_wrong(tmp_path):
    data, knows = make_questions(tmp_path / "data", "mm-vet", rows()), Knows(rows())
    broken, slept, done = [True], [], threading.Event()

    def reply(prompt, images, n):
        number = int(prompt.split("is thing ")[1][0])
        if broken[0] and number < 4:
            return 400, "no such model today"
        if broken[0] and number == 5 and not slept:
            slept.append(done.wait(30))
        return "Well, it depends on how one looks at it." if broken[0] and number > 3 else "0.5"

    with Server(reply) as server:
        late = Endpoint("judge", server.url, retries=0, seconds=2)
        run = lambda who: evaluate(knows, "mm-vet", data=data, out=tmp_path / "out", judge=who, batch_size=1)
        report = run(late)
        model = report.metrics["scores"]["generate"]["model"]
        assert model["reasons"] == {"judge_endpoint_http_400": 4, "judge_endpoint_timeout": 1, "judge_no_grade": 3}
        assert (model["n"], model["score"]["value"]) == (0, None)
        assert report.metrics["failures"]["judge_no_grade"].startswith("Well, it depends")
        (told,) = (str(part) for part in report.__rich__().renderables if "no score by" in str(part))
        assert told.startswith("8 items have no score by generate: ")
        assert "3 judge_no_grade" in told
        assert "no such model today" in report.metrics["failures"]["judge_endpoint_http_400"]
        assert report.table()
        mine = [row for row in report.rows.to_pylist() if row["variant"] == "model"]
        assert {row["said"] for row in mine} == {"left", "right"}                          # the replies are not lost
        assert {(row["credits"], row["correct"]) for row in mine} == {(None, None)}
        assert {(row["judge_said"] or "")[:4] for row in mine if row["unscored"] == "judge_no_grade"} == {"Well"}
        done.set()
        broken[0], asked = False, len(server.asked)
        again = run(Endpoint("judge", server.url, retries=0))
        assert again.metrics["scores"]["generate"]["model"]["reasons"] == {"judge_no_grade": 3}
        assert again.metrics["scores"]["generate"]["model"]["score"]["value"] == 0.5
        numbers = [int(prompt.split("is thing ")[1][0]) for prompt, _ in server.asked[asked:]]
        assert set(numbers) == {0, 1, 2, 3, 5}          # what failed was asked again, and what was said was kept
        asked = len(server.asked)
        assert run(Endpoint("judge", server.url)).metrics == again.metrics
        assert len(server.asked) == asked
    with pytest.raises(ValueError, match=r"nobody answers at .*replies so far are kept"):
        evaluate(knows, "mm-vet", data=data, judge=Endpoint("judge", server.url, retries=0))


def test_who_graded_stands_in_the_rows_and_in_the_report_and_other_words_are_another_judge(tmp_path, monkeypatch):
    data = make_questions(tmp_path / "data", "mm-vet", rows())
    words = tmp_path / "words.txt"
    words.write_text("{question} | {answer} | {prediction} |")
    with Server(lambda prompt, images, n: "1.0") as server:
        spelled = f"openai:some/judge@{server.url}"
        first = evaluate(Knows(rows()), "mm-vet", data=data, out=tmp_path / "a", judge=spelled)
        other = evaluate(Knows(rows()), "mm-vet", data=data, judge=spelled, judge_prompt=words)
        assert {body["temperature"] for body in server.bodies} == {0}
        assert server.asked[-1][0].startswith("Which way is thing ")
    told = Report.load(tmp_path / "a").metrics["judge"]
    assert (told["name"], told["versions"], told["prompt"]) == ("some/judge", ["some/judge"], "mm-vet 1")
    row = first.rows.to_pylist()[0]
    assert (row["judge"], row["judge_version"], row["judge_prompt"], row["judge_said"]) == (
        "some/judge", "some/judge", told["prompt_hash"], "1.0")  # fmt: skip
    assert other.metrics["judge"]["prompt"] == "words.txt"
    assert other.metrics["judge"]["prompt_hash"] != told["prompt_hash"]
    assert other.metrics["run_id"] != first.metrics["run_id"]
    (note,) = omma.compare(first, other).benchmarks[0]["notes"]
    assert note.startswith("the replies were graded by different judges")
    assert f"A by some/judge (some/judge), told mm-vet 1 ({told['prompt_hash']}); B by some/judge" in note
    assert omma.compare(first, first).benchmarks[0]["notes"] == []
    lines = [str(part) for part in first.__rich__().renderables]
    assert f"graded by some/judge (some/judge), told mm-vet 1 ({told['prompt_hash']})" in lines


def test_a_mode_without_a_judge_takes_none_and_one_with_a_judge_needs_it(tmp_path):
    data = make_questions(tmp_path, "mmvp")
    with pytest.raises(ValueError, match="a judge is asked in grader"):
        evaluate(Knows(rows_of("mmvp")), "mmvp", data=data, judge=Judge())
    with pytest.raises(ValueError, match="name one: judge='openai:"):
        evaluate(Knows(rows_of("mmvp")), "mmvp", data=data, reference="grader")
    with pytest.raises(ValueError, match="takes no judge; mmvp, choice, circular, mm-vet, llava-bench does"):
        evaluate(Knows(rows_of("pope")), "pope", data=make_questions(tmp_path / "pope", "pope"), judge=Judge())


def test_mmvps_grader_reads_question_options_answer_and_reply_and_pairs_need_two_yes(tmp_path):
    known = rows_of("mmvp")
    wrong = [row | {"answer": "left"} for row in known]                       # says "left" of everything
    grader = Judge()
    report = evaluate(Knows(wrong), "mmvp", data=make_questions(tmp_path, "mmvp"), reference="grader", judge=grader)
    assert grader.told[0].startswith("Somebody was asked about a picture: which way is it facing? (a) left (b) right\n")
    assert "correct answer is: (a) left\nThey said: a\n" in grader.told[0]
    model = report.metrics["scores"]["generate"]["model"]
    assert (model["accuracy"]["value"], model["pairs"]["value"]) == (0.5, 0)
    assert model["first_only"] + model["second_only"] == 4
    assert "same_answer" not in model
    assert "same_answer" in report.metrics["scores"]["first_token"]["model"]
    assert {row["judge"] for row in report.rows.to_pylist() if row["score_kind"] == "first_token"} == {None}


def test_mm_vet_counts_a_question_for_each_capability_and_llava_bench_divides_sums():
    result = lambda name, pattern, *credits: {"item": name, "group": name, "pictures": [name], "pattern": pattern,
                                              "credits": list(credits), "answer": "", "prediction": ""}  # fmt: skip
    found = judged.shares([result("1", "ocr rec", 1.0, 0), result("2", "rec", 0.4, 0), result("3", "math", 0.1, 0)],
                          judged.MM_VET.modes["strict"])  # fmt: skip
    assert found["score"]["value"] == pytest.approx(0.5)
    assert {name: cell["value"] for name, cell in found["capabilities"].items()} == {
        "math": pytest.approx(0.1), "ocr": 1, "rec": pytest.approx(0.7)}  # fmt: skip
    assert found["patterns"]["ocr rec"]["score"]["n"] == 1
    ends = [result("1", "conv", 0.6, 0.8), result("2", "conv", 0.9, 0.9), result("3", "detail", 0.4, 0.8)]
    found = judged.relative(ends, judged.LLAVA_BENCH.modes["strict"])
    assert found["relative"]["value"] == pytest.approx(1.9 / 2.5)
    assert found["patterns"]["conv"]["relative"]["value"] == pytest.approx(1.5 / 1.7)
    assert found["relative"]["low95"] < 1.9 / 2.5 < found["relative"]["high95"]
    item = judged.MM_VET.items([rows()[0] | {"answer": "-1<AND>-5<OR>x"}])[0]
    assert judged.parts_of(item, "")["answer"] == "-1 <AND> -5 <OR> x"
    (item,) = judged.LLAVA_BENCH.items([rows("llava-bench")[0] | {"context": "a red cup"}])
    assert judged.context_of(item, "") == {"question": item.texts[0], "answer": "left", "context": "a red cup"}
