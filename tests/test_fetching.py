"""What is fetched comes whole, in time, from an address that may be asked, and from no other."""

import contextlib
import shutil
import socket
import ssl
import subprocess
import threading

import pytest

from omma.fetching import Unanswered, Unreachable, get, loopback, public

HERE = {"may": loopback, "ports": None, "where": "this machine", "seconds": 60.0}


@contextlib.contextmanager
def saying(*replies: bytes, drip: float | None = None, tls: ssl.SSLContext | None = None):
    """A server on the loopback that sends these bytes, one reply a connection, or a byte every `drip` seconds."""
    stop = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve():
            for reply in replies:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection, contextlib.ExitStack() as secure:
                    try:
                        if tls is not None:
                            connection = secure.enter_context(tls.wrap_socket(connection, server_side=True))
                        connection.recv(1 << 16)
                        for piece in [reply] if drip is None else [bytes([byte]) for byte in reply]:
                            connection.sendall(piece)
                            if drip is not None and stop.wait(drip):
                                return
                    except OSError:
                        continue

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        finally:
            stop.set()
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.parametrize("address", [
    "127.0.0.1", "10.1.2.3", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1", "::", "::1", "fe80::1%eth0",
    "fd00::1", "fec0::1", "ff02::1", "::127.0.0.1", "::ffff:10.0.0.1", "::ffff:0:127.0.0.1", "64:ff9b::a00:1",
    "64:ff9b:1::a00:1", "2002:7f00:1::", "2001:db8::1", "100::1", "5f00::1", "nonsense", "",
])  # fmt: skip
def test_no_private_address_is_public_whatever_it_is_wrapped_in(address):
    assert not public(address)


def test_addresses_of_the_open_internet_are_public_and_this_machines_are_its_own():
    assert all(map(public, ["93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c", "::ffff:93.184.215.14"]))
    assert all(map(loopback, ["127.0.0.1", "127.8.9.1", "::1"]))
    assert not any(map(loopback, ["10.0.0.1", "93.184.215.14", "localhost", ""]))


def test_a_reply_has_its_status_headers_and_bytes_whatever_the_status():
    with saying(b"HTTP/1.1 404 No\r\nContent-Length: 4\r\nRetry-After: 7\r\n\r\ngone") as url:
        reply = get(url, **HERE)
    assert (reply.status, reply.headers["retry-after"], reply.data, reply.url) == (404, "7", b"gone", url)


@pytest.mark.parametrize("reply", [
    b"HTTP/1.1 200 OK\r\nX: " + b"x" * 1000,                              # never comes to the end of its headers
    b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"x" * 1000,
    b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 1000,                             # ends when the connection does
])  # fmt: skip
def test_a_reply_that_drips_is_broken_off_when_time_is_up(reply):
    with saying(reply, drip=0.02) as url, pytest.raises(Unanswered, match="gave nothing"):
        get(url, **HERE | {"seconds": 0.3})


def test_a_name_whose_look_up_hangs_is_given_up_when_time_is_up():
    let_go = threading.Event()
    with pytest.raises(Unanswered, match="gave nothing"):
        get("http://a.example/", seconds=0.05, look_up=lambda *_, **__: [let_go.wait(30)][:0])
    let_go.set()


@pytest.mark.parametrize("reply", [
    b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort", b"nonsense\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nshort",
])  # fmt: skip
def test_a_reply_that_is_none_or_breaks_off_is_unanswered(reply):
    with saying(reply) as url, pytest.raises(Unanswered, match="gave nothing"):
        get(url, **HERE)


def test_nobody_at_an_address_is_unreachable():
    with saying() as url:
        pass
    with pytest.raises(Unreachable, match="nobody answers"):
        get(url, **HERE)

    def unknown(*_, **__):
        raise socket.gaierror(-2, "Name or service not known")

    with pytest.raises(Unreachable, match=r"'a\.example' is not known"):
        get("http://a.example/", look_up=unknown)


def test_more_bytes_than_allowed_are_refused_while_they_come():
    with saying(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 2000) as url, pytest.raises(ValueError, match="than 1000 bytes"):
        get(url, most=1000, **HERE)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """Of localhost, signed by itself: files of the certificate and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificate")
    place = tmp_path_factory.mktemp("tls")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                    "-keyout", place / "key", "-out", place / "cert", "-days", "2", "-subj", "/CN=localhost", "-addext",
                    "subjectAltName=DNS:localhost"], check=True, capture_output=True)  # fmt: skip
    return place / "cert", place / "key"


def test_https_is_for_who_has_the_certificate_of_the_name_that_was_asked_for(certificate, monkeypatch):
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*certificate)
    reply = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
    with saying(*[reply] * 3, tls=tls) as url:
        named = url.replace("http://127.0.0.1", "https://localhost")
        with pytest.raises(Unanswered, match="self-signed"):
            get(named, **HERE)
        trusting = ssl.create_default_context(cafile=certificate[0])
        monkeypatch.setattr(ssl, "create_default_context", lambda: trusting)
        assert get(named, **HERE).data == b"hello"
        with pytest.raises(Unanswered, match=r"127\.0\.0\.1"):
            get(named.replace("localhost", "127.0.0.1"), **HERE)
    with saying(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 1000, drip=0.02, tls=tls) as url, \
            pytest.raises(Unanswered, match="gave nothing"):
        get(url.replace("http://127.0.0.1", "https://localhost"), **HERE | {"seconds": 0.4})


def test_a_server_without_a_certificate_is_no_https():
    with saying(b"HTTP/1.1 200 OK\r\n\r\nhello") as url, pytest.raises(Unanswered, match="SSL"):
        get(url.replace("http:", "https:"), **HERE)


def test_redirects_are_followed_three_times_and_only_to_where_one_may_go():
    def to(place: str) -> bytes:
        return f"HTTP/1.1 302 Found\r\nLocation: {place}\r\nContent-Length: 0\r\n\r\n".encode()

    with saying(to("/two"), to("three"), b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok") as url:
        assert get(url, **HERE).data == b"ok"
    with saying(*[to("/again")] * 4) as url, pytest.raises(ValueError, match="more than 3 times"):
        get(url, **HERE)
    for place, told in [("http://10.1.2.3/", "is not on this machine"), ("https://127.0.0.1/", "begins with https"),
                        ("file:///etc/passwd", "no address of http"), ("http://a:b@127.0.0.1/", "no password")]:
        with saying(to(place)) as url, pytest.raises(ValueError, match=told):
            get(url, schemes=("http",), **HERE)
