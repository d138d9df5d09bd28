"""omma serve under faults: broken uploads, no room, several processes on one index, an end in the midst of a stream."""

import base64
import contextlib
import gc
import http.client
import itertools
import json
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import corpus
import numpy as np
import pytest
from PIL import Image

from conftest import ColourEncoder
from omma.retrieval.build import build_index
from omma.web.gate import Refused
from omma.web.outside import FOR_EYE, FOR_VLM, Opened, picture_of
from omma.web.site import Site
from served import Client, Speaker, data_url, running, write_pictures

CASES = corpus.build()
OTHERS = {
    "drawing.svg": (b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>', "not_an_image"),
    "paper.pdf": (b"%PDF-1.7\n", "not_an_image"),
    "nothing": (b"", "empty"),
    "zeros": (bytes(1 << 16), "not_an_image"),
}
GROWTH = 250 << 20       # of a process by all of them together, from before the first picture


def url_of(data, kind="png"):
    return f"data:image/{kind};base64," + base64.b64encode(data).decode()


def uploads(url):
    """Every way in which a picture can be sent."""
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "What?"}]
    return {
        "/search": {"image": url},
        "/embed": {"images": [url]},
        "/ask": {"question": "red", "images": [url], "stream": False},
        "/v1/embeddings": {"model": "colours", "input": [url]},
        "/v1/chat/completions": {"model": "speaker", "messages": [{"role": "user", "content": content}]},
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = write_pictures(tmp_path_factory.mktemp("served") / "Pictures")
    build_index(place, place.parent / "index.db", encoder=ColourEncoder()).close()
    return place


@pytest.fixture
def site(folder):
    with build_index(folder, folder.parent / "index.db", encoder=ColourEncoder()) as index:
        made = Site(index, vlm=Speaker(), waiting=1)
        yield made
        made.close()


@pytest.fixture
def web(site):
    with running(site) as client:
        yield client


# ---- pictures that are none
def test_every_faulty_file_is_answered_with_its_reason_and_every_good_one_with_a_result(web, site):
    files = {name: (case.data, case.status) for name, case in CASES.items()} | OTHERS
    for name, (data, status) in files.items():
        good = status in ("ok", "flat") or name == "large.png"         # which a server takes
        for path, body in uploads(url_of(data, name.rpartition(".")[2].replace("svg", "svg+xml"))).items():
            code, told = web.post(path, body)
            assert code == (200 if good else 400), (name, path, told)
            if not good:
                assert told["error"]["message"].startswith(f"that is no picture that can be used: {status}"), name
    assert web.get("/search?q=red&k=1")[0] == 200
    gc.collect()
    assert site.opened.bytes == 0


def test_of_an_animation_the_first_picture_counts(web):
    urls = [url_of(CASES[f"animated.{kind}"].data) for kind in ("gif", "webp", "png")]
    _, told = web.post("/embed", {"images": urls})
    first = Image.fromarray(CASES["animated.gif"].seen.astype(np.uint8))
    assert np.allclose(told["images"], np.repeat(ColourEncoder().encode_image([first]), 3, 0), atol=0.02)


def test_what_is_kept_of_a_large_picture_is_what_an_eye_or_a_vlm_looks_at():
    large = data_url(size=(3200, 2400))
    assert picture_of(large, sides=FOR_EYE).size == (640, 480)           # a fifth
    assert picture_of(large, sides=FOR_VLM).size == (1600, 1200)
    assert picture_of(data_url(size=(8192, 400)), sides=FOR_EYE).size == (2048, 100)
    assert picture_of(data_url(size=(800, 600)), sides=FOR_EYE).size == (800, 600)


def test_pictures_of_all_calls_have_one_room_and_leave_it_when_nobody_has_them_any_more():
    opened = Opened(most=3 * 100)
    one = opened.kept(Image.new("RGB", (8, 10)))
    with pytest.raises(Refused, match="too many large pictures at once") as full:
        opened.kept(Image.new("RGB", (7, 3)))
    assert (full.value.status, full.value.headers) == (503, {"retry-after": "2"})
    opened.kept(Image.new("RGB", (5, 4)))                               # gone again at once
    assert opened.bytes == 240
    del one
    assert opened.bytes == 0


def test_where_pictures_have_no_room_a_call_is_told_to_come_again(web, site):
    site.opened.most = 100
    for path, body in uploads(data_url()).items():
        status, headers, data = web.raw("POST", path, json.dumps(body), **{"Content-Type": "application/json"})
        assert (status, headers["retry-after"]) == (503, "2"), path
        assert "too many large pictures" in json.loads(data)["error"]["message"]
    site.opened.most = 1000
    assert web.post("/search", {"image": data_url()})[0] == 200


# ---- the queue
def test_above_the_queue_a_call_gets_503_and_those_in_it_get_their_answers(web, site, monkeypatch):
    gate, seen = threading.Event(), ColourEncoder.encode_text

    def waiting(self, texts, **options):
        gate.wait(20)
        return seen(self, texts, **options)

    monkeypatch.setattr(ColourEncoder, "encode_text", waiting)
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(web.get("/search?q=red&k=1"))) for _ in range(2)]
    for count, thread in enumerate(threads, 1):                         # one under way, one waiting
        thread.start()
        while site.seeing.under_way < count:
            time.sleep(0.01)
    try:
        status, headers, data = web.raw("GET", "/search?q=blue")
        assert (status, headers["retry-after"]) == (503, "1")
        assert json.loads(data)["error"]["message"] == "busy: 2 calls are under way or waiting; try again in 1 s"
        assert web.get("/healthz")[0] == 200
    finally:
        gate.set()
        for thread in threads:
            thread.join()
    assert [(status, told["hits"][0]["path"]) for status, told in answers] == [(200, "Pictures/fire.png")] * 2
    assert 'route="/search",status="503"} 1' in web.raw("GET", "/metrics")[2].decode()


# ---- another process
SERVER = """
import sys, time, omma
sys.path.insert(0, sys.argv[2])
from conftest import ColourEncoder
from served import Speaker
class Slow(Speaker):
    def stream(self, images, prompt, max_new_tokens):
        for piece in ("one ", "word ", "after ", "the ", "other"):
            yield piece
            time.sleep(0.1)
import omma.retrieval.find
omma.retrieval.find.load_encoder = lambda *_, **__: ColourEncoder()
print(omma.serve(sys.argv[1], vlm=Slow(), port=0, reports=sys.argv[3:], ready=lambda line: print(line, flush=True)))
"""


@pytest.fixture(scope="module")
def process(folder):
    given = (folder.parent / "index.db", Path(__file__).parents[1], folder.parent)
    command = [sys.executable, "-c", SERVER, *map(str, given)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as started:
        try:
            line = started.stdout.readline()
            found = re.search(r"http://127.0.0.1:([0-9]+)/ to this machine alone", line)
            assert found, line
            yield started, Client(int(found[1]))
        finally:
            started.kill()


def peak(process):
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) << 10


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no peak of memory there")
def test_no_upload_makes_a_server_large(process):
    started, client = process
    before = peak(started)
    for name, case in CASES.items():
        client.post("/embed", {"images": [url_of(case.data)] * (1 if case.status == "ok" else 8)})
        assert client.get("/healthz")[0] == 200, name
    client.post("/embed", {"images": [data_url(size=(4000, 4000))] * 6})
    assert peak(started) - before < GROWTH


def test_two_servers_answer_from_one_index_while_a_third_process_fills_it(process, web, folder):
    _, other = process
    assert other.get("/status")[1]["reports"] == [folder.parent.name]
    answers, ended = [], threading.Event()

    def asking(client):
        while not ended.is_set():
            answers.append(client.get("/search?q=red&by=look&k=1"))
            ended.wait(0.02)

    threads = [threading.Thread(target=asking, args=(client,)) for client in (web, other)]
    for thread in threads:
        thread.start()
    try:
        for n in itertools.count():
            Image.new("RGB", (20, 20), (200 + n % 50, 200 + n % 50, 200 + n % 50)).save(folder / f"snow{n}.png")
            build_index(folder, folder.parent / "index.db", encoder=ColourEncoder()).close()
            if n >= 3 and len(answers) > 6:
                break
        (folder / "grass.png").unlink()
        build_index(folder, folder.parent / "index.db", encoder=ColourEncoder()).close()
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert {(status, told["hits"][0]["path"]) for status, told in answers} == {(200, "Pictures/fire.png")}
    for client in (web, other):
        assert client.get("/search?q=white&by=look&k=1")[1]["hits"][0]["path"].startswith("Pictures/snow")
        assert client.get("/search?q=green&k=1&by=look")[1]["hits"][0]["path"] != "Pictures/grass.png"


def test_a_server_that_is_told_to_stop_ends_its_stream_as_if_nothing_were(process):
    """SIGTERM comes after the first piece: the rest still comes, nobody new is let in, and the process ends well."""
    started, client = process
    asked = {"model": "speaker", "stream": True, "messages": [{"role": "user", "content": "Say something."}]}
    connection = http.client.HTTPConnection("127.0.0.1", client.port, timeout=20)
    with contextlib.closing(connection):
        connection.request("POST", "/v1/chat/completions", json.dumps(asked), {"Content-Type": "application/json"})
        reply = connection.getresponse()
        first = reply.readline()
        started.terminate()
        events = [line[6:] for line in (first + reply.read()).split(b"\n\n") if line]
    assert events[-1] == b"[DONE]"
    pieces = [json.loads(event)["choices"][0]["delta"].get("content", "") for event in events[:-1]]
    assert pieces == ["one ", "word ", "after ", "the ", "other", ""]
    assert "'requests':" in started.stdout.read()
    assert started.wait(30) == 0
    with pytest.raises(ConnectionRefusedError):
        client.get("/healthz")
