"""omma serve over HTTP: what it finds, whom it lets in, what it turns down, how it ends."""

import asyncio
import contextlib
import io
import json
import re
import socket
import threading
import time
from urllib.parse import urlencode

import numpy as np
import pytest
from PIL import Image

from omma.web.gate import Gate
from omma.web.outside import fetched, picture_of, public
from omma.web.server import make_app
from omma.web.serving import checked, greeting, is_loopback, listen
from served import data_url, pictures_site, running

RED = Image.new("RGB", (16, 16), (250, 0, 0))
TOKEN = "a-token-of-many-letters"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    with pictures_site(tmp_path_factory.mktemp("served")) as made:
        yield made


@pytest.fixture(scope="module")
def web(site):
    with running(site) as client:
        yield client


@pytest.fixture(scope="module")
def guarded(site):
    with running(site, TOKEN, max_body=4000, seconds=0.3) as client:
        yield client


# ---- what it finds
def test_a_search_tells_folders_by_name_and_never_where_they_lie(web, site):
    status, told = web.get("/search?q=red&k=5&by=look")
    assert (status, told["hits"][0]["place"]) == (200, "Pictures/fire.png")
    assert set(told["hits"][0]["scores"]) == {"look"}
    for path in ("/search?q=red", "/status", "/metrics", "/search?q=red&where=nothing", "/similar?id=999"):
        assert str(site.index.store.path.parent) not in str(web.raw("GET", path))
    status, told = web.post("/search", {"query": "red", "folder": "Pictures", "where": "kind == 'text'"})
    assert [hit["path"] for hit in told["hits"]] == ["Pictures/story.txt"]
    status, told = web.get("/search?q=red&folder=Elsewhere")
    assert (status, told["error"]["message"]) == (400, "no folder 'Elsewhere' here; there are Pictures")


@pytest.mark.parametrize(("where", "found"), [
    ("folder == 'old'", {"Pictures/old/sea.png"}),
    ("source == 'Pictures' and kind == 'text'", {"Pictures/story.txt"}),
    ("path in ('Pictures/fire.png', 'Pictures/old/sea.png')", {"Pictures/fire.png", "Pictures/old/sea.png"}),
    ("60 <= width < 61 and not name == 'rose.png' and folder == ''", {"Pictures/fire.png", "Pictures/grass.png"}),
    ("path >= '/' and path < '0'", set()),                # where the folder lies can't be guessed by comparing
    ("", {f"Pictures/{name}" for name in ("fire.png", "rose.png", "old/sea.png", "grass.png", "story.txt")}),
])  # fmt: skip
def test_where_narrows_what_is_searched_by_columns_as_they_are_told(web, where, found):
    for status, told in (web.post("/search", {"query": "red house", "where": where}),
                         web.get(f"/search?{urlencode({'q': 'red house', 'where': where})}")):  # fmt: skip
        assert status == 200
        assert {hit["path"] for hit in told["hits"]} == found
    _, told = web.post("/ask", {"question": "red house", "where": where, "k": 8, "stream": False})
    assert {hit["path"] for hit in told["hits"]} == found
    fire = web.get("/search?q=red&k=1&by=look")[1]["hits"][0]["id"]
    _, told = web.get(f"/similar?{urlencode({'id': fire, 'where': where})}")
    assert {hit["path"] for hit in told["hits"]} == found - {"Pictures/fire.png", "Pictures/story.txt"}


@pytest.mark.parametrize(("where", "told"), [
    ("colour == 'red'", "no column 'colour' in the index; it has source, path, folder"),
    ("__import__('os').getcwd() == 'x'", "a column is expected"),
    ("open('/etc/passwd')", "a column is expected"),
    ("width == 'wide'", "does not fit the index"),
    ("width >", "cannot read where="),
    ("(" * 3000 + "width == 1" + ")" * 3000, "cannot read where="),
    ("not " * 2000 + "width == 1", "nested too deeply"),
    ("x" * 10_001, "at most 10000 characters"),
])  # fmt: skip
def test_a_where_that_cannot_be_read_is_answered_in_words_and_never_run(web, site, where, told):
    for status, said in (web.post("/search", {"query": "red", "where": where}),
                         web.post("/ask", {"question": "red", "where": where}),
                         web.get(f"/similar?{urlencode({'id': 1, 'where': where})}")):  # fmt: skip
        assert (status, told in said["error"]["message"]) == (400, True), said
        assert str(site.index.store.path.parent) not in str(said)


def test_a_picture_that_is_sent_finds_what_is_like_it(web):
    _, told = web.post("/search", {"image": data_url((0, 0, 250)), "k": 1})
    assert told["hits"][0]["path"] == "Pictures/old/sea.png"


def test_similar_ones_are_those_of_a_search_by_the_picture_itself(web, site):
    hits = {hit["path"]: hit["id"] for hit in web.get("/search?q=red&k=9")[1]["hits"]}
    _, told = web.get(f"/similar?id={hits['Pictures/fire.png']}&k=2")
    own, *slow = site.index.search(site.index.picture(hits["Pictures/fire.png"]), k=3)
    assert int(own.id) == hits["Pictures/fire.png"]
    assert [hit["id"] for hit in told["hits"]] == [int(hit.id) for hit in slow]
    status, told = web.get(f"/similar?id={hits['Pictures/story.txt']}")
    assert (status, told["error"]["message"][:34]) == (400, "Pictures/story.txt:1 has no look t")


def test_an_item_has_its_data_and_pixels_and_a_link_out_of_the_folder_is_not_followed(web, site):
    hit = web.get("/search?q=red&k=1&by=look")[1]["hits"][0]
    status, item = web.get(f"/item/{hit['id']}")
    assert (status, item["width"], item["path"]) == (200, 60, "Pictures/fire.png")
    for path in ("thumbnail", "picture"):
        status, headers, data = web.raw("GET", f"/{path}/{hit['id']}")
        assert (status, headers["x-content-type-options"]) == (200, "nosniff")
        assert Image.open(io.BytesIO(data)).size == (60, 40)
    assert [web.get(f"/{path}/77")[0] for path in ("item", "thumbnail", "picture")] == [404] * 3
    assert web.get("/picture/..%2f..%2fetc%2fpasswd")[0] in (400, 404)
    sea = web.get("/search?q=blue&k=1&by=look")[1]["hits"][0]["id"]
    file = site.index.store.path.parent / "Pictures/old/sea.png"
    kept = file.read_bytes()
    Image.new("RGB", (20, 20)).save(site.index.store.path.parent / "private.png")
    file.unlink()
    file.symlink_to(site.index.store.path.parent / "private.png")
    assert web.get(f"/picture/{sea}")[0] == 404
    file.unlink()
    file.write_bytes(kept)


def test_vectors_are_those_of_the_eye(web, site):
    _, told = web.post("/embed", {"texts": ["red", "blue"], "images": [data_url()]})
    assert np.allclose(told["texts"], site.index.encoder.encode_text(["red", "blue"]), atol=1e-6)
    assert np.allclose(told["images"], site.index.encoder.encode_image([RED]), atol=1e-6)


def test_the_page_comes_with_all_its_parts_and_a_policy_that_lets_nothing_else_in(web):
    status, headers, page = web.raw("GET", "/")
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'")
    parts = re.findall(r'(?:href|src)="([a-z.]+\.(?:css|js))"', page.decode())
    assert len(parts) == 3
    assert [web.raw("GET", f"/{part}")[0] for part in parts] == [200] * 3
    status, told = web.post("/search", {"query": "red"}, **{"Content-Type": "application/x-www-form-urlencoded"})
    assert (status, told["error"]["message"][:15]) == (400, "a body is JSON:")
    assert b"<style" not in page
    assert b"onclick" not in page


# ---- who comes in
def test_without_a_token_only_this_machines_names_and_this_servers_pages_may_ask(web):
    assert web.get("/healthz", Host=f"evil.example:{web.port}")[0] == 403
    assert web.get("/healthz", Origin="http://evil.example")[0] == 403
    assert web.get("/search?q=red", **{"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"})[0] == 403
    assert web.get("/search?q=red", Origin=f"http://127.0.0.1:{web.port}")[0] == 200
    assert web.get("/healthz", Host=f"LOCALHOST:{web.port}")[0] == 200
    assert web.get("/healthz", Host="127.0.0.1")[0] == 403


def test_every_address_of_this_machine_alone_answers_to_itself(site):
    for host, asked, status in (("127.0.0.2", "127.0.0.2:8000", 200), ("127.0.0.1", "127.0.0.2:8000", 403),
                                ("[::1]", "localhost:8000", 200), ("127.0.0.2", "evil.example:8000", 403)):
        assert answered(make_app(site, None, 8000, host), asked) == status, (host, asked)
    assert [answered(make_app(site, None, 80), asked) for asked in ("127.0.0.1", "127.0.0.1:80", "evil.example")] == [
        200, 200, 403]  # fmt: skip


def answered(app, host):
    """The status of a GET of /healthz under this name."""
    sent = []

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/healthz", "query_string": b"", "headers": [
        (b"host", host.encode())], "http_version": "1.1", "scheme": "http", "root_path": ""}  # fmt: skip
    asyncio.run(app(scope, receive, send))
    return sent[0]["status"]


def test_with_a_token_nothing_but_health_is_told_without_it(guarded):
    assert guarded.get("/healthz")[0] == 200
    for path in ("/search?q=red", "/status", "/metrics", "/thumbnail/1", "/openapi.json", "/v1/models"):
        status, headers, data = guarded.raw("GET", path)
        assert (status, headers["www-authenticate"]) == (401, "Bearer")
        assert "a token is needed" in json.loads(data)["error"]["message"]
        assert guarded.raw("GET", path, Authorization=f"Bearer {TOKEN}")[0] == 200, path
    status, told = guarded.get("/status", Authorization="Bearer guess")
    assert (status, told["error"]["message"][:18]) == (401, "the token is wrong")


def test_a_browser_gets_a_cookie_for_the_token_and_only_for_it(guarded):
    status, _, page = guarded.raw("GET", "/status", Accept="text/html")
    assert (status, b"<form" in page) == (401, True)
    form = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "text/html"}
    assert guarded.raw("POST", "/enter", "token=guess", **form)[0] == 401
    for asked in (("POST", "/enter", f"token={TOKEN}"), ("GET", f"/?token={TOKEN}", None)):
        status, headers, _ = guarded.raw(*asked, **form)
        assert (status, headers["location"]) == (303, "/")
        assert "HttpOnly; SameSite=Strict" in headers["set-cookie"]
        assert TOKEN not in headers["set-cookie"]
        assert guarded.get("/status", Cookie=headers["set-cookie"].partition(";")[0])[0] == 200
    assert guarded.raw("POST", "/enter", f"token={TOKEN}", Origin="http://evil.example", **form)[0] == 403
    for empty in (("GET", "/?token=", None), ("GET", "/?token=%20", None), ("POST", "/enter", "token=")):
        assert guarded.raw(*empty, **form)[0] == 401


# ---- how much
def test_too_much_is_refused_before_it_is_read_and_too_slow_before_it_is_whole(guarded):
    who = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    assert guarded.raw("POST", "/search", b"x" * 4001, **who)[0] == 413
    chunk = b"1000\r\n" + b"x" * 4096 + b"\r\n"
    for head, sent, status in (("Content-Length: 99999999999", b"", 413), ("Transfer-Encoding: chunked", chunk, 413),
                               ("Content-Length: 90", b"{", 408)):  # fmt: skip
        with socket.create_connection(("127.0.0.1", guarded.port), timeout=10) as connection:
            lines = ("POST /search HTTP/1.1", "Host: x", f"Authorization: Bearer {TOKEN}", head, "", "")
            connection.sendall("\r\n".join(lines).encode() + sent)
            assert connection.recv(64).startswith(b"HTTP/1.1 %d" % status), head


def test_room_for_bodies_is_given_back_however_a_request_ends():
    async def app(scope, receive, send):
        await receive()
        raise ZeroDivisionError

    def calls(gate, path, *messages):
        async def scene():
            said, last = iter(messages), asyncio.Event()

            async def receive():
                if (message := next(said, None)) is None:
                    await last.wait()                      # nothing more comes
                return {"type": "http.request", **message}

            async def send(message):
                statuses.append(message.get("status"))

            scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": [(b"host", b"x"),
                     (b"authorization", f"Bearer {TOKEN}".encode())]}  # fmt: skip
            call = asyncio.create_task(gate(scope, receive, send))
            await asyncio.wait([call], timeout=0.05)
            call.cancel()
            await asyncio.wait([call])
            return call.cancelled() or repr(call.exception())

        statuses: list = []
        return asyncio.run(scene()), statuses[:1]

    gate = Gate(app, TOKEN, max_held=10_000)
    assert calls(gate, "/enter", {"body": b"token=guess"}) == ("None", [401])
    assert gate._held == 0
    assert calls(gate, "/search", {"body": b"x" * 99}) == ("ZeroDivisionError()", [])
    assert calls(gate, "/search", {"body": b"x" * 99, "more_body": True}) == (True, [])
    assert gate._held == 0


@pytest.mark.parametrize(("said", "message"), [
    ({"query": "red", "k": 10**9}, "body.k: Input should be less than or equal to 200"),
    ({"query": "x" * 10_001}, "body.query: String should have at most 10000 characters"),
    ({"query": " "}, "the query is empty"),
    ({"query": "\ud800", "by": "look"}, ""),
    ({"query": "red", "path": "/etc"}, "body.path: Extra inputs"),
    ({"query": "red", "where": "__import__('os')"}, ""),
    ({"image": "file:///etc/passwd"}, "a picture comes as data:image"),
    ({"image": "data:image/png;base64,####"}, "the data URL holds no base64"),
    ({"image": "data:image/png;base64,aGVsbG8="}, "no picture that can be used: not_an_image"),
    ({"image": data_url(size=(9000, 9000))}, "that can be used: too_many_pixels"),
    ({"query": "red", "eye": "another"}, "no eye 'another' here"),
])  # fmt: skip
def test_what_cannot_be_asked_is_answered_with_the_reason(web, said, message):
    status, told = web.post("/search", said)
    assert status in (400, 404)
    assert message in told["error"]["message"]


def test_a_query_may_be_emoji_korean_or_full_of_quotes(web):
    for query in ("🍎🍎", "빨간 집", "\"'); DROP TABLE item; --", "NEAR(a b", "\x00red"):
        assert web.post("/search", {"query": query})[0] == 200


# ---- who leaves
@pytest.mark.parametrize("said", ["word ", ""], ids=["speaks", "silent"])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ["/ask", "/v1/chat/completions"])
def test_a_caller_who_leaves_stops_the_model_however_it_was_to_answer(web, site, monkeypatch, path, stream, said):
    begun, closed = threading.Event(), threading.Event()

    def endless(images, prompt, max_new_tokens):
        begun.set()
        try:
            while True:
                time.sleep(0.01)
                yield said
        finally:
            closed.set()

    monkeypatch.setattr(site.vlm, "stream", endless)
    asked = {"question": "red house"} if path == "/ask" else {
        "model": "speaker", "messages": [{"role": "user", "content": "Hm?"}]}  # fmt: skip
    body = json.dumps({**asked, "stream": stream}).encode()
    with socket.create_connection(("127.0.0.1", web.port)) as calling:
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{web.port}\r\nContent-Type: application/json\r\n"
        calling.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        assert begun.wait(10)
        assert not closed.is_set()
    assert closed.wait(10)
    for _ in range(500):
        if not site.talking.under_way:
            break
        time.sleep(0.01)
    assert site.talking.under_way == 0


# ---- addresses
@pytest.mark.parametrize("address", [
    "127.0.0.1", "10.1.2.3", "192.168.0.4", "172.16.5.6", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
    "::1", "fe80::1%eth0", "fd00::1", "::ffff:192.168.0.4", "2002:c0a8:0004::", "64:ff9b::c0a8:4", "nonsense",
])  # fmt: skip
def test_no_private_address_is_public(address):
    assert not public(address)
    assert public("93.184.215.14")
    assert public("2606:2800:21f:cb07:6820:80da:af6b:8b2c")


def test_a_name_is_looked_up_once_and_every_answer_counts():
    looked = []

    def look_up(host, port, **_):
        looked.append(host)
        return [(0, 0, 0, "", (address, port)) for address in ("93.184.215.14", "192.168.0.4")]

    with pytest.raises(ValueError, match=r"'a\.example' is not on the open internet"):
        fetched("http://a.example/cat.png", look_up=look_up)
    assert looked == ["a.example"]
    for url in ("ftp://a.example/", "http://user:pass@a.example/", "http://a.example:22/", "http:///x", "http://[::1"):
        with pytest.raises(ValueError, match="address"):
            fetched(url, look_up=look_up)


def test_what_is_fetched_comes_from_the_address_that_was_checked_and_redirects_are_checked_again(web):
    def look_up(host, port, **_):
        return [(0, 0, 0, "", ("127.0.0.1", port))]

    here = {"may": lambda address: address == "127.0.0.1", "ports": (web.port,)}
    url = f"http://localhost:{web.port}/healthz"
    assert json.loads(fetched(url, look_up=look_up, **here)) == {"status": "ok"}
    with pytest.raises(ValueError, match="answered 403"):      # the name is sent as it was asked for
        fetched(f"http://a.example:{web.port}/healthz", look_up=look_up, **here)
    with redirecting("http://inner.example/") as port, pytest.raises(ValueError, match="port"):
        fetched(f"http://a.example:{port}/", look_up=look_up, may=here["may"], ports=(port,))
    with pytest.raises(ValueError, match="fetches nothing"):
        picture_of(url)


@contextlib.contextmanager
def redirecting(to):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        def answer():
            connection, _ = listening.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(f"HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n".encode())

        thread = threading.Thread(target=answer)
        thread.start()
        yield listening.getsockname()[1]
        thread.join()


# ---- what the person who starts it is told
def test_metrics_count_answers_by_route_and_not_by_what_was_typed(web):
    for path in ("/no-such-place-at-all", "/item/99", "/search?q=red"):
        web.get(path)
    for n in range(3):
        web.raw(f"NOSUCH{n}", "/search")
    text = web.raw("GET", "/metrics")[2].decode()
    assert 'omma_requests_total{method="GET",route="/item/{item}",status="404"}' in text
    assert "NOSUCH" not in text
    assert re.search(r'method="other",route="/search",status="405"} 3\n', text)
    assert "no-such-place" not in text
    assert 'omma_calls_under_way{queue="eye"} 0' in text
    lines = [line for line in text.splitlines() if line.startswith('omma_request_seconds_bucket{route="/search"')]
    counts = [int(line.rsplit(" ", 1)[1]) for line in lines]
    assert counts == sorted(counts)
    assert counts[-1] > 0


def test_an_address_for_others_takes_a_token_and_says_what_they_see():
    assert [is_loopback(host) for host in ("127.0.0.1", "localhost", "::1", "0.0.0.0", "192.168.0.4", "nas")] == [
        True, True, True, False, False, False]  # fmt: skip
    alone = greeting("127.0.0.1", 80, None, ["Pictures"])
    shared = "\n".join(greeting("192.168.0.4", 80, TOKEN, ["Pictures"]))
    assert alone == ["omma serves Pictures at http://127.0.0.1:80/ to this machine alone. Ctrl-C ends it."]
    assert f"http://192.168.0.4:80/?token={TOKEN}" in shared
    assert "not encrypted" in shared
    with pytest.raises(ValueError, match="a token has 16 or more"):
        checked("short")
    with listen("127.0.0.1", 0) as taken, pytest.raises(ValueError, match="is omma served there already"):
        listen("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(ValueError, match="no address of this machine"):
        listen("no.such.name.invalid", 0)
    with pytest.raises(ValueError, match="another machine's address"):
        listen("203.0.113.9", 0)
