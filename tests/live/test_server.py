"""The server as a whole: its page, its guards, and clients that mean no good."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import pytest

pytest.importorskip("fastapi", reason="the server's parts are not installed")

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from adastate.live.client import LiveClient, LiveError
from adastate.live.messages import Limits
from tests.live.test_messages import WRONG
from tests.support.live_server import serving

TOKEN = "a-token-of-some-length"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(limits=Limits(messages_per_s=1000)) as (address, _):
        yield address


@pytest.fixture(scope="module")
def closed() -> Iterator[str]:
    """One with a token."""
    with serving(token=TOKEN) as (address, _):
        yield address


def ask(url: str, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, dict[str, str], bytes]:
    """As it is written: no client of the standard library mends the path."""
    where = urlsplit(url)
    line = http.client.HTTPConnection(where.hostname or "", where.port, timeout=10)
    line.putrequest(method, path, skip_host="Host" in headers)
    for name, value in {"Content-Length": str(len(body)), **headers}.items():
        line.putheader(name.replace("_", "-"), value)
    line.endheaders(body)
    answer = line.getresponse()
    found = answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
    line.close()
    return found


def alive(url: str) -> bool:
    with LiveClient(url).open("one") as stream:
        chunk = stream.chunk(10)
    return chunk is not None and chunk.told["chunk"] == 0


def test_the_model_and_its_limits_are_told(url: str) -> None:
    info = LiveClient(url).info()
    assert (info["fps"], info["width"], info["systems"], info["keys"]) == (8, 4, ["adastate", "longlive"], "wasd")
    assert info["limits"]["unacknowledged"] == 2
    paths = LiveClient(url).get("/openapi.json")["paths"]
    assert {"/v1/sessions", "/v1/sessions/{ident}/snapshot"} <= paths.keys()


def test_the_page_may_load_nothing_from_elsewhere(url: str) -> None:
    status, headers, page = ask(url, "GET", "/")
    assert status == 200 and b"<html" in page
    assert "default-src 'none'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert b"http://" not in page and b"https://" not in page
    for name in ("style.css", "icon.svg"):
        assert ask(url, "GET", f"/page/{name}")[0] == ask(url, "GET", f"/{name}")[0] == 200


@pytest.mark.parametrize(
    "path",
    [
        "/../server.py",
        "/page/../server.py",
        "/page/%2e%2e/server.py",
        "/page/..%2fserver.py",
        "//etc/passwd",
        "/page//etc/passwd",
        "/page/%00",
        "/page/index.html%00.js",
        "/page/.",
        "/page/..",
        "/v1/sessions/..%2f..%2fetc/snapshot",
        "/v1/sessions/%2e%2e/recording",
        "/v1/sessions/x/stream",
        "/docs",
        "/redoc",
        "/page/__init__.py",
        "/" + "a" * 5000,
    ],
)
def test_no_name_becomes_a_path(url: str, path: str) -> None:
    status, _, body = ask(url, "GET", path)
    assert status in (404, 405) and b"root:" not in body and b"import" not in body


def test_pages_of_other_origins_and_other_names_of_this_machine_are_refused(url: str) -> None:
    host = urlsplit(url).netloc
    for headers in (
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": f"http://{host}.evil.example"},
        {"Origin": "http://127.0.0.1:1"},
        {"Host": "evil.example"},
        {"Host": "[::1"},
        {"Host": f"evil.example:{urlsplit(url).port}", "Origin": f"http://evil.example:{urlsplit(url).port}"},
    ):
        assert ask(url, "GET", "/v1/info", **headers)[0] == 403, headers
        assert ask(url, "POST", "/v1/sessions", b'{"v":1,"prompt":"one"}', **headers)[0] == 403, headers
    assert ask(url, "GET", "/v1/info", Origin=url)[0] == 200
    address = f"ws{url.removeprefix('http')}/v1/realtime/video"
    with connect(address, origin="http://evil.example") as line:  # type: ignore[arg-type]
        assert json.loads(line.recv(5))["code"] == "origin"
        with pytest.raises(ConnectionClosed):
            line.recv(5)
        assert line.close_code == 4403


def test_without_the_token_nothing_is_told_but_the_page(closed: str) -> None:
    assert ask(closed, "GET", "/")[0] == ask(closed, "GET", "/v1/health")[0] == 200
    for given in ("", "Bearer", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN[:-1]}", "Bearer \xff"):
        assert ask(closed, "GET", "/v1/info", Authorization=given)[0] == 401
        assert ask(closed, "DELETE", "/v1/sessions/x", Authorization=given)[0] == 401
    live = LiveClient(closed, TOKEN)
    with live.open("one") as stream:
        assert stream.chunk(10) is not None
        stream.drop()
        address = f"ws{closed.removeprefix('http')}{stream.session['stream']}"
        for token in (None, "wrong", ""):
            with connect(address) as line:
                line.send(json.dumps({"v": 1, "type": "hello", "token": token}))
                assert json.loads(line.recv(5))["code"] == "unauthorized"
                with pytest.raises(ConnectionClosed):
                    line.recv(5)
                assert line.close_code == 4401
        stream.connect()
    with connect(f"ws{closed.removeprefix('http')}/v1/realtime/video") as line:
        assert json.loads(line.recv(5))["type"] == "error"


def test_after_sixty_malformed_messages_the_session_goes_on(url: str) -> None:
    with LiveClient(url).open("one") as stream:
        line, refused = stream._socket, 0
        assert line is not None
        for text in WRONG:
            line.send(text.encode("utf-8", "replace").decode())
        line.send(b"\x00\xff binary")
        while refused <= len(WRONG):
            try:
                chunk = stream.chunk(10)
                assert chunk is not None
                stream.acknowledge(chunk)
            except LiveError:
                refused += 1
        assert stream.ask("ping")["type"] == "pong"
    assert alive(url)


def test_html_in_a_prompt_stays_text(url: str) -> None:
    told = "<script>alert(1)</script><img src=x onerror=alert(2)>\u202e\u0000"
    with LiveClient(url).open(told) as stream:
        chunk = stream.chunk(10)
        assert chunk is not None and chunk.told["prompt"] == told
        _, headers, body = ask(url, "GET", f"/v1/sessions/{stream.id}")
        assert headers["content-type"] == "application/json" and json.loads(body)["prompt"] == told


def test_what_is_too_large_is_refused_and_harms_nobody(url: str) -> None:
    big = b'{"v":1,"prompt":"one","image":"' + b"A" * (13 * 2**20) + b'"}'
    with suppress(BrokenPipeError, ConnectionResetError):  # where the server had answered, and read no further
        assert ask(url, "POST", "/v1/sessions", big)[0] == 413
    with LiveClient(url).open("one") as stream:
        with pytest.raises(LiveError, match="at most 65536 bytes"):
            stream.say("prompt", text="a" * 100_000)
            stream.say("ack", seq=10**6)
            while True:
                assert stream.chunk(10) is not None
        assert stream._socket is not None
        with suppress(ConnectionClosed):
            stream._socket.send("a" * (5 * 2**20))  # beyond what a socket takes at all
        while stream.chunk(10) is not None:
            pass
        stream.connect()
        assert stream.ask("ping")["type"] == "pong"
    assert alive(url)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b"{}",
        b'{"v":1}',
        b'{"v":1,"prompt":7}',
        b'{"v":1,"prompt":"one","system":"../../etc/passwd"}',
        b'{"v":1,"prompt":"one","image":"http://127.0.0.1/x.png"}',
        b'{"v":1,"prompt":"one","pair":"nothing"}',
        b"[" * 100_000,
    ],
)
def test_an_opening_that_is_none_is_answered(url: str, body: bytes) -> None:
    status, _, told = ask(url, "POST", "/v1/sessions", body)
    assert status == 400 and json.loads(told)["type"] == "error" and alive(url)


def test_rubbish_on_the_line_is_no_matter(url: str) -> None:
    where = urlsplit(url)
    for data in (
        b"\x00" * 1000,
        b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 5000,
        b"\x16\x03\x01",
        b"POST /v1/sessions HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
    ):
        with socket.create_connection((where.hostname, where.port or 0), 5) as line:
            line.sendall(data)
    assert alive(url)


def test_unknown_sessions_are_told_as_such(url: str) -> None:
    live: Any = LiveClient(url)
    with pytest.raises(LiveError, match="there is no such session"):
        live.get("/v1/sessions/nothing")
    with connect(f"ws{url.removeprefix('http')}/v1/sessions/nothing/stream") as line:
        line.send('{"v":1,"type":"hello"}')
        assert json.loads(line.recv(5))["code"] == "no_session"
        with pytest.raises(ConnectionClosed):
            line.recv(5)
        assert line.close_code == 4404
