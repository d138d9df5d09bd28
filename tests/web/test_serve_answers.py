"""omma serve answers: by OpenAI's client and by /ask, with its sources, its errors and what it used."""

import json
import socket
import sys
from pathlib import Path

import numpy as np
import openai
import pytest
from PIL import Image

import omma
from omma.models.endpoint import Endpoint, Failed
from omma.retrieval import answer
from omma.web.site import written_as
from served import data_url, pictures_site, running
from tiny_vlm_folders import save

sys.path.append(str(Path(__file__).parents[1] / "eval"))
from answering_server import Server

RED = Image.new("RGB", (16, 16), (250, 0, 0))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    with pictures_site(tmp_path_factory.mktemp("served")) as made:
        yield made


@pytest.fixture(scope="module")
def web(site):
    with running(site) as client:
        yield client


# ---- OpenAI's client
def test_openais_client_gets_models_vectors_and_answers(web, site):
    with openai.OpenAI(base_url=f"http://127.0.0.1:{web.port}/v1", api_key="none", max_retries=0) as client:
        eye = site.index.space.name
        assert [model.id for model in client.models.list()] == [eye, "speaker"]
        expected = site.index.encoder.encode_text(["red", "blue"])
        for form in ({}, {"encoding_format": "float"}):    # it asks for base64 where nothing is said
            made = client.embeddings.create(model=eye, input=["red", "blue"], **form)
            assert np.allclose([row.embedding for row in made.data], expected, atol=1e-6)
        seen = client.embeddings.create(model=eye, input=["red", data_url()])
        assert np.allclose(seen.data[1].embedding, site.index.encoder.encode_image([RED])[0], atol=1e-6)
        parts = [{"type": "image_url", "image_url": {"url": data_url()}}, {"type": "text", "text": "How many?"}]
        asked = [{"role": "system", "content": "Be short."}, {"role": "user", "content": parts}]
        told = client.chat.completions.create(model="speaker", messages=asked)
        assert told.choices[0].message.content == "1 pictures; Be short.\n\nHow many?"
        streamed = list(client.chat.completions.create(model="speaker", messages=asked, stream=True))
        pieces = [chunk.choices[0].delta.content or "" for chunk in streamed]
        assert "".join(pieces) == told.choices[0].message.content
        assert len(pieces) == 4
        assert (told.choices[0].finish_reason, streamed[-1].choices[0].finish_reason) == ("stop", "stop")
        short = client.chat.completions.create(model="speaker", messages=asked, stop=["short", "many"])
        assert short.choices[0].message.content == "1 pictures; Be "
        talk = [*asked[:1], {"role": "user", "content": "Hm?"}, {"role": "assistant", "content": "Yes."}]
        told = client.chat.completions.create(model="speaker", messages=[*talk, {"role": "user", "content": "Why?"}])
        assert told.choices[0].message.content.endswith("User: Hm?\n\nAssistant: Yes.\n\nUser: Why?")
        called = [{"role": "user", "content": "Hm?"}, {"role": "assistant", "content": None}, *asked[1:]]
        plain = client.chat.completions.create(model="speaker", messages=called, response_format={"type": "text"})
        assert plain.choices[0].message.content.endswith("User: How many?")
        tool = {"type": "function", "function": {"name": "look", "parameters": {}}}
        for more, told in (({"tools": [tool]}, "calls no tools"),
                           ({"response_format": {"type": "json_object"}}, "plain text")):
            with pytest.raises(openai.BadRequestError, match=told):
                client.chat.completions.create(model="speaker", messages=asked, **more)
        assert client.models.retrieve(eye).id == eye
        with pytest.raises(openai.NotFoundError, match="no model 'ada' here; there are"):
            client.models.retrieve("ada")
        with pytest.raises(openai.NotFoundError, match="no eye 'ada' here; there are"):
            client.embeddings.create(model="ada", input="red")
        with pytest.raises(openai.BadRequestError, match="fetches nothing from elsewhere"):
            client.chat.completions.create(model="speaker", messages=[{"role": "user", "content": [
                {"type": "image_url", "image_url": {"url": "http://169.254.169.254/"}}]}])  # fmt: skip


def test_an_answer_comes_in_pieces_and_then_whole_with_sources_by_their_folders_names(web, site):
    asked = {"question": "where does the red house stand?", "k": 2}
    status, whole = web.post("/ask", {**asked, "stream": False})
    assert (status, whole["abstained"]) == (200, False)
    assert whole["text"].startswith("By the sea [1], not")
    assert not {"<", "//", "[9]"} & {part for part in ("<", "//", "[9]") if part in whole["text"]}
    (cited,) = whole["citations"]
    assert (cited["number"], cited["place"]) == (1, whole["hits"][0]["place"])
    assert cited["place"].startswith("Pictures/")
    status, headers, data = web.raw("POST", "/ask", json.dumps(asked), **{"Content-Type": "application/json"})
    assert (status, headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    *pieces, last = [json.loads(event[6:]) for event in data.decode().split("\n\n") if event]
    assert "".join(piece["text"] for piece in pieces).strip() == last["answer"]["text"]
    assert last["answer"] == whole
    assert str(site.index.store.path.parent) not in data.decode()
    assert web.post("/ask", {"question": " "})[1]["error"]["message"] == "the question is empty; ask in words"


def test_an_answer_tells_which_tools_looked_closer_and_none_where_none_may(web, site, monkeypatch):
    asked = {"question": "what colour is the fire?", "k": 1, "stream": False}
    assert web.post("/ask", asked)[1]["calls"] == []

    def stream(images, prompt, max_new_tokens):
        yield "It is that [1]." if "result" in prompt.lower() else 'CALL {"tool": "colour", "picture": 1}'

    monkeypatch.setattr(site.vlm, "stream", stream, raising=False)
    status, told = web.post("/ask", {**asked, "tools": ["colour"]})
    assert (status, told["text"]) == (200, "It is that [1].")
    (call,) = told["calls"]
    assert (call["tool"], call["picture"], call["failed"], call["by"]) == ("colour", 1, False, "model")
    status, told = web.post("/ask", {**asked, "tools": ["shell"]})
    assert (status, "colour" in told["error"]["message"]) == (400, True)


def test_an_answer_takes_the_options_that_python_has(web, site, monkeypatch):
    asked = {"question": "where does the red house stand?", "k": 2, "stream": False}
    unsure = {**asked, "question": "who plays the violin?"}
    support = web.post("/ask", unsure)[1]["support"]
    assert 0.05 < support < 0.95
    for least, abstained in ((support - 0.05, False), (support + 0.05, True), (1, True), (0, False)):
        assert web.post("/ask", {**unsure, "least": least})[1]["abstained"] is abstained
    given = []
    real = answer.sparsified

    def sparsified(vlm, method, budget):
        given.append((method, budget))
        return real(vlm, None, None)

    monkeypatch.setattr(answer, "sparsified", sparsified)
    assert web.post("/ask", {**asked, "sparsify": "divprune", "budget": 64, "boxes": False})[0] == 200
    assert given == [("divprune", 64)]


@pytest.mark.parametrize(("more", "told"), [
    ({"least": 1.5}, "body.least: Input should be less than or equal to 1"),
    ({"least": "high"}, "body.least: Input should be a valid number"),
    ({"budget": 0, "sparsify": "divprune"}, "body.budget: Input should be greater than 0"),
    ({"sparsify": "divprune"}, "sparsify='divprune', budget=None; give both, such as"),
    ({"budget": 64}, "sparsify=None, budget=64.0; give both, such as"),
    ({"sparsify": "divprune", "budget": 64}, "speaker runs elsewhere, where its tokens can't be dropped"),
    ({"method": "divprune"}, "body.method: Extra inputs are not permitted"),
])  # fmt: skip
def test_options_that_do_not_fit_are_refused_in_words(web, more, told):
    for stream in (False, True):
        status, said = web.post("/ask", {"question": "where is the red house?", "stream": stream, **more})
        assert (status, said["error"]["message"][: len(told)]) == (400, told)


def test_openais_client_is_told_how_many_tokens_were_used(site, tmp_path, monkeypatch):
    vlm = omma.load_vlm(save("llava", tmp_path / "llava"), device="cpu", precision="fp32")
    monkeypatch.setattr(site, "vlm", vlm)
    parts = [{"type": "image_url", "image_url": {"url": data_url()}}, {"type": "text", "text": "How many?"}]
    with running(site) as client, openai.OpenAI(base_url=f"{client.url}v1", api_key="none", max_retries=0) as asking:
        asked = {"model": vlm.name, "messages": [{"role": "user", "content": parts}], "max_tokens": 5}
        used = asking.chat.completions.create(**asked).usage
        known = vlm.prompts([[RED]], ["How many?"])["input_ids"].shape[1]
        assert (used.prompt_tokens, used.completion_tokens, used.total_tokens) == (known, 5, known + 5)
        streamed = list(asking.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
        assert streamed[-1].choices == []
        assert streamed[-1].usage == used
        assert streamed[-2].choices[0].finish_reason == "length"
        assert not [chunk for chunk in streamed[:-1] if chunk.usage or not chunk.choices]
        plain = list(asking.chat.completions.create(**asked, stream=True))
        assert not [chunk for chunk in plain if chunk.usage or not chunk.choices]


def test_a_vlm_without_a_tokenizer_of_its_own_tells_no_usage(web):
    with openai.OpenAI(base_url=f"{web.url}v1", api_key="none", max_retries=0) as client:
        asked = {"model": "speaker", "messages": [{"role": "user", "content": "Hm?"}]}
        assert client.chat.completions.create(**asked).usage is None
        *_, last = client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
        assert (last.choices, last.usage) == ([], None)


def asked_of(web):
    """What a chat and a question are answered, whole and as streams."""
    chat = {"model": "speaker", "messages": [{"role": "user", "content": "hello"}]}
    question = {"question": "where does the red house stand?", "k": 2}
    for stream in (False, True):
        for path, said in (("/v1/chat/completions", chat), ("/ask", question)):
            status, _, data = web.raw("POST", path, json.dumps({**said, "stream": stream}),
                                      **{"Content-Type": "application/json"})  # fmt: skip
            yield status, data.decode()


class Breaks(Endpoint):
    """It fails when its reply has begun."""

    def stream(self, images, prompt, max_new_tokens=64):
        yield "By the sea "
        raise Failed(f"{self.url}: the line broke", "endpoint_no_completion")


@pytest.mark.parametrize("way", ["nobody answers", "refused", "broken"])
def test_what_an_endpoint_says_when_it_fails_does_not_tell_where_it_is(web, site, monkeypatch, way):
    with Server(lambda *asked: (400, f"no such thing at {place}, see http://{place}/v2")) as server:
        place = server.url.removeprefix("http://").removesuffix("/v1")
        url = f"http://me:secret@127.0.0.1:{free_port()}/v1" if way == "nobody answers" else server.url
        monkeypatch.setattr(site, "vlm", (Breaks if way == "broken" else Endpoint)("speaker", url, retries=0))
        told = list(asked_of(web))
    assert not [said for _, said in told if "the VLM's server" not in said]
    assert not [said for _, said in told if '"code": 502' not in said.replace('":5', '": 5')]
    assert [status for status, _ in told] == ([502] * 2 + [200] * 2 if way == "broken" else [502] * 4)
    assert not [said for _, said in told if "replies" in said]
    port = url.rpartition(":")[2].removesuffix("/v1")
    assert not [said for _, said in told if port in said or "127.0.0.1" in said or "secret" in said]


def free_port():
    with socket.socket() as asking:
        asking.bind(("127.0.0.1", 0))
        return asking.getsockname()[1]


def test_an_address_is_hidden_however_it_is_written_and_no_word_is_that_is_its_host():
    assert written_as("https://me:key@gpu.lan:8000/v1/") == [
        "https://me:key@gpu.lan:8000/v1/", "https://me:key@gpu.lan:8000/v1", "https://me:key@gpu.lan:8000",
        "https://gpu.lan:8000", "me:key@gpu.lan:8000", "gpu.lan:8000", "gpu.lan"]  # fmt: skip
    assert "vlm" not in written_as("http://vlm:8000/v1")
    assert written_as("") == []
