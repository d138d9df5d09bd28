"""A VLM behind an address, asked over the loopback."""

import io
import sys
from pathlib import Path

import pytest
from PIL import Image, ImageOps

from omma.eval.run import evaluate
from omma.models.endpoint import Endpoint, Failed, load_endpoint
from omma.models.pretrained import answers_in_words, load_vlm

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
