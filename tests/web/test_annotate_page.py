"""The page's server: what it answers, to whom, and that nothing outside the pairs can be asked for."""

import http.client
import io
import json
import threading
from urllib.parse import urlsplit

import pytest
from PIL import Image

from omma.eval.annotate.store import open_store
from omma.web.annotate import Annotating
from omma.web.loopback import MAX_BODY, Loopback
from pair_folders import make_pairs, said


class Page:
    """A client that speaks HTTP and knows the token."""

    def __init__(self, url):
        self.port, self.base = urlsplit(url).port, urlsplit(url).path
        self.token = self.base.strip("/")

    def raw(self, method, path, body=None, headers=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method, path, body, headers or {})
            reply = connection.getresponse()
            return reply.status, dict(reply.getheaders()), reply.read()
        finally:
            connection.close()

    def get(self, path):
        status, _, data = self.raw("GET", self.base + path)
        return status, json.loads(data)

    def post(self, path, said, **headers):
        told = {"Content-Type": "application/json", **headers}
        status, _, data = self.raw("POST", self.base + path, json.dumps(said), told)
        return status, json.loads(data)


class Writer:
    name = "some-vlm"
    loaded = 0

    def generate(self, images, prompt, max_new_tokens=64):
        return "Question: Is it lit?\nLeft answer: yes\nRight answer: no\nPattern: state"


@pytest.fixture
def pairs(tmp_path):
    return make_pairs(tmp_path, bad=7)


@pytest.fixture
def page(pairs, store):
    def load(name):
        Writer.loaded += 1
        return Writer()

    with Loopback(Annotating(pairs, store, "owner/some-vlm", load)) as server:
        yield Page(server.url)


def test_the_page_and_its_parts_are_served_and_name_no_other_place(page):
    for name, kind in (("", "text/html"), ("annotate.css", "text/css"), ("annotate.js", "text/javascript")):
        status, headers, data = page.raw("GET", page.base + name)
        assert (status, headers["Content-Type"]) == (200, kind + "; charset=utf-8")
        assert b"http" not in data
        assert headers["Content-Security-Policy"].startswith("default-src 'none'")


def test_a_save_is_answered_when_another_reader_of_the_file_sees_it(page, pairs, store):
    fields = {**vars(said("text")), "difference": "  the\nletter "}
    status, told = page.post("api/save", {"annotator": "anna", "number": 2, "revision": 0, "fields": fields})
    assert (status, told["revision"], told["stage"], told["missing"]) == (200, 1, 2, [])
    other = open_store(pairs.folder)
    assert other.find(pairs[2], "anna")[0].difference == "the letter"
    other.close()
    assert page.get("api/state?annotator=anna")[1]["stages"] == "0020"
    assert page.get("api/pair?number=2&annotator=anna")[1]["fields"]["pattern"] == "text"
    assert page.get("api/pair?number=2&annotator=ben")[1]["fields"]["pattern"] == ""  # not shown to others
    again = page.post("api/save", {"annotator": "anna", "number": 2, "revision": 0, "fields": fields})
    assert again[0] == 409
    assert "in another window" in again[1]["error"]


def test_forty_saves_of_five_people_at_once_are_all_kept(page, pairs, store):
    def work(name):
        for number in (0, 1, 2, 3) * 2:
            revision = page.get(f"api/pair?number={number}&annotator={name}")[1]["revision"]
            fields = {"question": f"{name} {number} {revision}"}
            page.post("api/save", {"annotator": name, "number": number, "revision": revision, "fields": fields})

    threads = [threading.Thread(target=work, args=(f"person-{n}",)) for n in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store.annotators()) == 5
    for n in range(5):
        assert [store.find(pair, f"person-{n}")[1] for pair in pairs] == [2] * 4


def test_pictures_come_decoded_by_the_number_of_their_pair_alone(page, pairs):
    status, headers, data = page.raw("GET", page.base + "picture/1/right")
    assert (status, headers["Content-Type"], headers["X-Content-Type-Options"]) == (200, "image/png", "nosniff")
    assert Image.open(io.BytesIO(data)).tobytes() == pairs.image("p3").tobytes()
    status, told = page.get("picture/3/right")
    assert status == 400
    assert "'p7'" in told["error"]
    assert "not_an_image" in told["error"]


@pytest.mark.parametrize(
    "path",
    ["../pyproject.toml", "..%2f..%2fetc%2fpasswd", "page/annotate.html", "annotate.py", "picture/9/left",
     "picture/-1/left", "picture/p0/left", "picture/0/left/..", "asked/1/0", "api/save", "api/nothing",
     "api/pair?number=1", "api/test?test=x", "//etc/passwd", "picture/%31%00/left", "api/state?annotator=" + "x" * 50],
)  # fmt: skip
def test_nothing_else_can_be_asked_for(page, path):
    status, told = page.get(path)
    assert status in (400, 404)
    assert set(told) == {"error"}


def test_without_the_token_the_host_or_the_page_there_is_nothing(page, store):
    wrong = page.token[:-1] + ("A" if page.token[-1] != "A" else "B")
    for path in ("/", "/api/state", f"/{wrong}/api/state", "/%2e/", f"/{page.token.lower()}x/"):
        assert page.raw("GET", path)[0] == 403
    assert page.raw("GET", page.base, headers={"Host": f"evil.example:{page.port}"})[0] == 403
    body = {"annotator": "anna", "number": 0, "revision": 0, "fields": {}}
    assert page.post("api/save", body, Origin="http://evil.example")[0] == 403
    assert page.post("api/save", body, **{"Content-Type": "text/plain"})[0] == 403
    assert store.annotators() == []
    assert page.post("api/save", body, Origin=f"http://127.0.0.1:{page.port}")[0] == 200


def test_a_body_is_bounded_and_has_to_be_an_object(page):
    told = {"Content-Type": "application/json"}
    assert page.raw("POST", page.base + "api/save", None, {**told, "Content-Length": str(MAX_BODY + 1)})[0] == 413
    assert page.raw("POST", page.base + "api/save", None, {**told, "Content-Length": "-1"})[0] == 413
    for body in ("", "{", "[]", "3", "[" * 5000, '"' + "x" * 100):
        assert page.raw("POST", page.base + "api/save", body, told)[0] == 400
    assert page.raw("PUT", page.base, "x")[0] == 501


@pytest.mark.parametrize(
    "change", [{"number": 4}, {"number": -1}, {"number": True}, {"number": "one"}, {"annotator": ""},
               {"annotator": 3}, {"revision": None}, {"fields": None}, {"fields": {"pattern": "size"}}],
)  # fmt: skip
def test_a_save_of_nonsense_is_refused_and_keeps_nothing(page, store, change):
    whole = {"annotator": "anna", "number": 0, "revision": 0, "fields": {}}
    assert page.post("api/save", whole | change)[0] == 400
    assert store.annotators() == []


def test_a_model_is_loaded_when_asked_and_what_it_says_is_kept_nowhere(page, store):
    Writer.loaded = 0
    assert page.get("api/state")[1]["model"] == "owner/some-vlm"
    assert Writer.loaded == 0
    for _ in range(2):
        status, told = page.post("api/propose", {"number": 0})
        assert (status, told["model"], told["fields"]["left"]) == (200, "some-vlm", "yes")
    assert Writer.loaded == 1
    assert store.annotators() == []


def test_a_test_shows_one_picture_at_a_time_and_tells_nothing_before_its_end(page, pairs, store):
    for number in (0, 1, 3):  # the last has a picture that is none, and is not asked about
        store.save(pairs[number], "anna", said("state", "open", "shut"))
    status, told = page.post("api/begin", {"person": "carla", "seed": "4"})
    assert status == 200
    for place in range(4):
        assert (told["place"], told["total"], told["question"]) == (place, 4, "Is it open?")
        assert sorted(told["options"]) == ["open", "shut"]
        assert set(told) == {"test", "person", "seed", "total", "place", "question", "options"}
        assert page.raw("GET", f"{page.base}asked/{told['test']}/{place}")[1]["Content-Type"] == "image/png"
        body = {"test": told["test"], "place": place, "said": "open", "seconds": 1.5}
        assert page.post("api/reply", body | {"place": 3 if place < 3 else 9})[0] == 400
        status, told = page.post("api/reply", body)
        assert status == 200
    assert told["result"]["pairs"]["right"] == 0
    assert told["result"]["accuracy"]["right"] == 2
    assert (pairs.folder / "tests" / "1" / "report.json").is_file()


def test_annotators_are_compared_and_exports_get_a_folder_each(page, pairs, store):
    store.save(pairs[0], "anna", said("state"))
    store.save(pairs[0], "ben", said("text"))
    found = page.get("api/agreement?one=anna&other=ben")[1]
    assert (found["pairs"], found["disagreements"][0]["number"]) == (1, 0)
    assert found["disagreements"][0]["other"]["pattern"] == "text"
    assert page.get("api/usable?by=anna")[1]["patterns"]["state"] == 1
    assert page.get("api/usable?agreed=true")[1]["counts"]["disagreed"] == 1
    paths = [page.post("api/export", {"layout": "mmvp"})[1]["path"] for _ in range(2)]
    assert paths == [str(pairs.folder / name) for name in ("mmvp", "mmvp-2")]
    assert page.post("api/export", {"layout": "../x"})[0] == 400


def test_after_the_end_connections_that_were_kept_are_answered_no_more(pairs, store):
    with Loopback(Annotating(pairs, store)) as server:
        address = urlsplit(server.url)
        connection = http.client.HTTPConnection("127.0.0.1", address.port, timeout=20)
        connection.request("GET", address.path + "api/state")
        assert connection.getresponse().read().startswith(b"{")

    def ask_again():
        connection.request("GET", address.path + "api/state")
        return connection.getresponse()

    with pytest.raises((OSError, http.client.HTTPException)):
        ask_again()
    connection.close()


def test_a_port_that_is_taken_is_told(page, pairs, store):
    with pytest.raises(ValueError, match="can't be used"):
        Loopback(Annotating(pairs, store), page.port)
