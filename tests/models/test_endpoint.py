"""A VLM behind an address, asked over the loopback."""

import io
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from omma.eval.run import evaluate
from omma.models.endpoint import Endpoint, Failed, load_endpoint
from omma.models.pretrained import answers_in_words, load_vlm
from omma.models.saying import Saying

sys.path.append(str(Path(__file__).parents[1] / "eval"))
from answering_server import Server
from fakes import number_in, picture
from fakes_vlm import Knows, make_questions, rows_of


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def test_pictures_and_prompt_arrive_bit_for_bit_and_the_reply_comes_back():
    with Server(lambda prompt, images, n: f" I see {number_in(images[1])}. ") as server:
        vlm = load_vlm(f"openai:some/model@{server.url}")
        assert vlm.generate([picture(3), picture(300)], "Which?", 7) == "I see 300."
    (body,) = server.bodies
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("some/model", 7, 0)
    assert [part["type"] for part in body["messages"][0]["content"]] == ["image_url", "image_url", "text"]


def test_a_failure_that_passes_is_tried_again_and_one_that_stays_is_named():
    def reply(prompt, images, n):
        if prompt == "busy":
            return (503, "busy") if n == 1 else "at last"
        return {"bad": (400, "too many tokens"), "empty": ""}[prompt]

    with Server(reply) as server:
        vlm = Endpoint("m", server.url)
        assert vlm.generate([], "busy") == "at last"
        bad, empty = vlm.try_batch([[], []], ["bad", "empty"])
        assert isinstance(bad, Failed)
        assert (bad.reason, bad.fatal, "too many tokens" in str(bad)) == ("endpoint_http_400", False, True)
        assert empty == ""
        with pytest.raises(Failed, match="too many tokens"):
            vlm.generate([], "bad")
    with pytest.raises(ValueError, match="nobody answers at"):
        Endpoint("m", server.url, retries=0).generate([], "is anybody there")


@pytest.mark.parametrize("body", [
    b"<html>busy</html>", b'{"choices": [{"mess', b"\xff", b"[]", b'"A"', b"{}", b'{"choices": 3}', b'{"choices": [3]}',
    b'{"choices": [{"message": null}]}', b'{"choices": [{"message": {"content": ["A"]}}]}',
])  # fmt: skip
def test_a_reply_that_is_no_chat_completion_is_a_failure_of_that_question_alone(body):
    with Server(lambda prompt, images, n: body if prompt == "bad" else "yes") as server:
        bad, good = Endpoint("m", server.url, retries=0).try_batch([[], []], ["bad", "good"])
    assert good == "yes"
    assert isinstance(bad, Failed)
    assert (bad.reason, bad.fatal) == ("endpoint_no_completion", False)
    assert server.url in str(bad)


def test_a_streamed_answer_comes_in_the_pieces_that_the_server_sends():
    pieces = ["Two ", "cups", " é", " and 고양이."]
    with Server(lambda prompt, images, n: pieces) as server:
        vlm = load_vlm(f"openai:m@{server.url}")
        said = list(vlm.stream([picture(3)], "Which?", 9))
    assert [piece for piece in said if piece] == pieces, "one without words is one to be stopped at"
    (body,) = server.bodies
    assert (body["stream"], body["max_tokens"]) == (True, 9)
    assert [piece for piece in vlm_of(["", "", "one"]) if piece] == ["one"]


def test_a_streamed_answer_that_the_limit_cut_is_known_to_be():
    for pieces, cut in ((["two ", "cups", ...], True), (["two ", "cups"], False)):
        with Server(lambda *_, pieces=pieces: pieces) as server:
            saying = Saying(Endpoint("m", server.url), [], "Which?", 2)
            assert list(saying) == ["two ", "cups"]
        assert saying.cut is cut


def test_a_stream_that_fails_says_so_before_or_in_between():
    with Server(lambda *_: (400, "no streams here")) as server, pytest.raises(Failed, match="no streams here"):
        list(Endpoint("m", server.url).stream([], "Which?"))
    with pytest.raises(Failed, match="nobody answers"):
        list(Endpoint("m", server.url, retries=0).stream([], "Which?"))
    with Server(lambda *_: ["one ", "two ", None]) as server:
        reading = Endpoint("m", server.url, retries=0).stream([], "Which?")
        assert [next(reading), next(reading)] == ["one ", "two "]


def vlm_of(pieces):
    with Server(lambda *_: pieces) as server:
        yield from Endpoint("m", server.url).stream([], "?")


def test_a_turn_with_tools_gives_words_and_calls():
    call = {"id": "c1", "type": "function", "function": {"name": "count", "arguments": '{"thing": "cup"}'}}
    tools = [{"type": "function", "function": {"name": "count", "parameters": {"type": "object"}}}]
    with Server(lambda prompt, images, n: {"content": None, "tool_calls": [call]} if n == 1 else " three ") as server:
        vlm = Endpoint("m", server.url)
        first = vlm.message([picture(3)], "how many cups?")
        assert vlm.talk([first], tools, 5) == ("", [call])
        more = [first, {"role": "assistant", "content": None, "tool_calls": [call]},
                {"role": "tool", "tool_call_id": "c1", "content": "3 found"}]  # fmt: skip
        assert vlm.talk(more, tools, 5, may_call=False) == ("three", [])
    assert [body["tool_choice"] for body in server.bodies] == ["auto", "none"]
    assert server.bodies[0]["tools"] == tools
    assert server.bodies[1]["messages"][2] == more[2]
    with Server(lambda *_: (400, "tools are not enabled")) as server, pytest.raises(Failed, match="not enabled"):
        Endpoint("m", server.url).talk([first], tools)


def test_what_is_written_is_read_and_what_is_no_endpoint_is_refused(monkeypatch):
    vlm = load_endpoint("openai:a/b@c@https://host:1/v1")
    assert (vlm.model_name, vlm.url) == ("a/b@c", "https://host:1/v1")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://elsewhere/v1")
    assert load_endpoint("openai:m").url == "http://elsewhere/v1"
    assert vlm.fingerprint != load_endpoint("openai:m").fingerprint
    assert answers_in_words("openai:m")
    with pytest.raises(ValueError, match="write openai:MODEL@http"):
        load_endpoint("openai:")


def test_an_evaluation_asks_an_endpoint_counts_what_failed_and_asks_only_that_again(tmp_path):
    data = make_questions(tmp_path / "data", "mmvp")
    knows, broken = Knows(rows_of("mmvp")), [True]

    def reply(prompt, images, n):
        if broken[0] and number_in(images[0]) == 5:
            return 400, "no such picture"
        return knows.generate_batch([images], [prompt])[0]

    with Server(reply) as server:
        run = lambda: evaluate(f"openai:m@{server.url}", "mmvp", data=data, out=tmp_path / "out")
        report = run()
        assert report.metrics["scores"]["generate"]["model"]["reasons"] == {"endpoint_http_400": 1}
        assert "no such picture" in report.metrics["failures"]["endpoint_http_400"]
        assert report.metrics["scores"]["generate"]["model"]["torn_pairs"] == 1
        assert list(report.metrics["scores"]) == ["generate"]              # no letters' probabilities at this address
        asked, broken[0] = len(server.asked), False
        assert run().metrics["headline"]["generate"]["value"] == 1
        again = server.asked[asked:]
        assert {number_in_file(files[0]) for _, files in again} == {5}


def number_in_file(data: bytes) -> int:
    image = Image.open(io.BytesIO(data))
    return max(number_in(image), number_in(ImageOps.mirror(image)))


def test_an_address_where_nobody_is_stops_the_run_and_says_so(tmp_path):
    data = make_questions(tmp_path / "data", "pope")
    refuses = Server(lambda *asked: (401, "who are you"))
    with refuses as server, pytest.raises(ValueError, match=r"OPENAI_API_KEY is not accepted: .*who are you"):
        evaluate(f"openai:m@{server.url}", "pope", data=data)


# ---- the letters of options, by the log-probabilities that a server tells


def letters(knows):
    """What a server with log-probabilities makes of a VLM: its answer's letter is likely, in two spellings."""

    def likely(prompt, images):
        if not images:
            return {"Sure": -0.5, "A": -1.0}
        said = Knows.say(knows, knows.means(images, prompt), prompt)
        other = {"A": "B", "B": "A", "a": "b", "b": "a"}[said]
        return {"The": -1.0, said: -1.2, f" {said}": -1.2, other: -3.0, "C": -9.0}

    return likely


def test_the_first_token_of_an_endpoint_is_the_sum_over_an_options_spellings():
    told = {"The": -0.7, "A": -2.0, " A": -2.5, "a": -0.1, "B": -3.0, "x": -8.0}
    with Server(lambda *asked: "no", lambda prompt, images: told) as server:
        vlm = Endpoint("m", server.url)
        (row,) = vlm.first_token([[picture(1)]], ["Which?"], [("A", " A"), ("B", " B"), ("C", " C")])
    np.testing.assert_allclose(row, [np.logaddexp(-2.0, -2.5), -3.0, -8.0])       # C: no more than the last one told
    (body,) = server.bodies
    assert (body["max_tokens"], body["logprobs"], body["top_logprobs"], body["temperature"]) == (1, True, 20, 0)


def test_an_endpoint_that_tells_log_probabilities_is_measured_by_letters_too(tmp_path):
    data, knows = make_questions(tmp_path / "data", "mmvp"), Knows(rows_of("mmvp"))
    reply = lambda prompt, images, n: knows.generate_batch([images], [prompt])[0]
    with Server(reply, letters(knows), version="fp_1") as server:
        run = lambda: evaluate(f"openai:m@{server.url}", "mmvp", data=data, out=tmp_path / "out")
        report = run()
        asked = len(server.asked)
        assert run().metrics == report.metrics
        assert len(server.asked) == asked                                          # kept, letters too
        server.version = "fp_2"
        evaluate(f"openai:m@{server.url}", "mmvp", data=data, out=tmp_path / "out", reference="official")
        both = evaluate(f"openai:m@{server.url}", "mmvp", data=data, cache=tmp_path / "out" / "replies.sqlite",
                        limit=2)  # fmt: skip
    assert {kind: head["value"] for kind, head in report.metrics["headline"].items()} == {
        "generate": 1, "first_token": 1}  # fmt: skip
    row = next(r for r in report.rows.to_pylist() if r["score_kind"] == "first_token" and r["variant"] == "model")
    assert max(row["scores"]) == pytest.approx(1 / (1 + np.exp(-3.0 - np.logaddexp(-1.2, -1.2))))
    assert report.metrics["served"] == both.metrics["served"] == ["m fp_1"]


@pytest.mark.parametrize("answer", [None, (400, "logprobs are not supported")])
def test_an_endpoint_without_log_probabilities_says_so_and_is_measured_by_its_replies(tmp_path, answer):
    data, knows = make_questions(tmp_path / "data", "mmvp"), Knows(rows_of("mmvp"))
    with Server(lambda prompt, images, n: knows.generate_batch([images], [prompt])[0], refuses=answer) as server:
        report = evaluate(f"openai:m@{server.url}", "mmvp", data=data)
        assert list(report.metrics["scores"]) == ["generate"]
        why = report.metrics["not_asked"]["first_token"]
        assert ("tells no log-probabilities" if answer is None else "logprobs are not supported") in why
        assert f"not measured by first_token: {why}" in [str(part) for part in report.__rich__().renderables]
        with pytest.raises(Failed, match=r"tells no log-probabilities|not supported"):
            Endpoint("m", server.url).first_token([[]], ["Which?"], [("A",), ("B",)])


def test_a_first_token_that_begins_no_option_is_a_failure_of_that_question_alone():
    told = lambda prompt, images: {"<think>": -0.1, "Hm": -3.0} if "think" in prompt else {"A": -0.1, "B": -2.0}
    with Server(lambda *asked: "A", told) as server:
        lost, good = Endpoint("m", server.url).try_first_token([[], []], ["think", "say"], [[("A",), ("B",)]] * 2)
    assert good == [-0.1, -2.0]
    assert isinstance(lost, Failed)
    assert (lost.reason, lost.fatal) == ("endpoint_no_option", False)
    assert "'<think>', 'Hm'" in str(lost)


# ---- who answers there


def test_the_fingerprint_of_an_endpoint_is_of_what_its_list_says_and_not_of_the_time_of_the_question():
    listed = {"id": "m", "object": "model", "created": 1700000000, "owned_by": "me", "root": "/models/m-1"}
    with Server(lambda *asked: "A", models=[listed, {"id": "n", "created": 5}]) as server:
        mark = lambda: Endpoint("m", server.url).fingerprint
        first = mark()
        assert first == mark()
        server.models[1]["created"] = 6                                            # another model's
        assert first == mark()
        for change in ({"root": "/models/m-2"}, {"created": 1700000001}):
            server.models[0] = listed | change
            assert first != mark()
        server.models[0] = listed | {"created": int(time.time())}                  # as vLLM tells it
        now = mark()
        server.models[0] = listed | {"created": int(time.time()) - 7}
        assert now == mark() != first
        server.models[0] = listed | {"created": "2026-11-22"}                      # as nobody should
        assert mark() not in (first, now)
        server.models = None
        assert Endpoint("m", server.url).described == {}
        assert mark() != first


def test_a_reply_bears_what_the_server_calls_the_model_and_its_version():
    with Server(lambda *asked: "A", version="b1-abc") as server:
        vlm = Endpoint("m", server.url)
        vlm.generate([], "hello")
    assert vlm.served == "m b1-abc"
