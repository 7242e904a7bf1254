"""The server's own bounds, without a proxy: heads, bodies, idleness, connections; and requests for another protocol."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from http.client import HTTPResponse
from typing import Any

import pytest
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from kasbah.config import http_server
from kasbah.config.http_server import MAX_HEAD, MAX_HEADERS, MAX_TARGET, BoundedProtocol


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Says what arrived; `/slow` waits before it answers, `/unread` does not read."""
    body, more = b"", scope["path"] != "/unread"
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body, more = body + message["body"], message["more_body"]
    if scope["path"] == "/slow":
        await asyncio.sleep(0.6)
    headers = [[name.decode(), value.decode()] for name, value in scope["headers"]]
    said = json.dumps({"method": scope["method"], "path": scope["path"], "body": body.decode(), "headers": headers})
    content = (b"content-length", b"%d" % len(said))
    await send({"type": "http.response.start", "status": 200, "headers": [content]})
    await send({"type": "http.response.body", "body": said.encode()})


@contextlib.contextmanager
def serving(protocol: Any = BoundedProtocol, idle: int = 75) -> Iterator[int]:
    """The port of a server in a thread."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        application, http=protocol, ws="none", lifespan="off", log_config=None, timeout_keep_alive=idle,
        timeout_graceful_shutdown=1,
    )  # fmt: skip
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(10)


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A server with short times."""
    monkeypatch.setattr(http_server, "HEAD_TIMEOUT", 0.3)
    monkeypatch.setattr(http_server, "BODY_DEADLINE", 0.3)
    with serving() as number:
        yield number


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), 5)


def read(connection: socket.socket) -> bytes:
    """All until the other side ends; a connection that was reset gives what came before."""
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := connection.recv(65536):
            found += piece
    return found


def talk(port: int, *pieces: bytes, pause: float = 0.0) -> bytes:
    """Send the pieces, read all."""
    with connect(port) as connection:
        for piece in pieces:
            with contextlib.suppress(ConnectionError):
                connection.sendall(piece)
            time.sleep(pause)
        return read(connection)


def get(*lines: str, target: str = "/", last: str = "Connection: close") -> bytes:
    return "\r\n".join([f"GET {target} HTTP/1.1", "Host: x", *lines, last, "", ""]).encode()


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer else 0


def said(answer: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(answer.partition(b"\r\n\r\n")[2])
    return found


HUGE = "x" * (MAX_HEAD + 1)


@pytest.mark.parametrize(
    ("request_bytes", "expected", "param"),
    [
        (get(f"a: {HUGE}"), 431, "headers"),
        (get(f"{HUGE}: a"), 431, "headers"),
        (get(*(f"a{n}: b" for n in range(MAX_HEADERS + 1))), 431, "headers"),
        (get(*(f"a{n}: {'x' * 900}" for n in range(50))), 431, "headers"),
        (get(target="/" + "x" * MAX_TARGET), 414, "path"),
        (b"GET /" + b"x" * 60_000, 414, "path"),
        (b"GET / HTTP/1.1\r\nHost: x\r\na: " + b"x" * 60_000, 431, "headers"),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", 405, None),
        (b"\x16\x03\x01\x02\x00\x01", 400, None),
        (get("content-length: 1", "content-length: 2"), 400, None),
        (get("a b: c"), 400, None),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_a_head_over_the_bounds_is_answered(port: int, request_bytes: bytes, expected: int, param: str | None) -> None:
    answer = talk(port, request_bytes)
    assert (status(answer), said(answer)["error"]["param"]) == (expected, param)
    for header in (b"content-security-policy: ", b"x-request-id: req_", b"connection: close", b"application/json"):
        assert header in answer


def test_a_head_within_the_bounds_is_served(port: int) -> None:
    lines = [f"a{n}: {'x' * 300}" for n in range(MAX_HEADERS - 3)]
    assert status(talk(port, get(*lines, target="/" + "y" * (MAX_TARGET - 1)))) == 431  # together they are too much
    assert status(talk(port, get(*lines))) == 200
    assert status(talk(port, get(target="/" + "y" * (MAX_TARGET - 1)))) == 200


def drown(port: int) -> int:
    """Send headers without end; how many bytes were taken."""
    taken = 0
    with connect(port) as connection, contextlib.suppress(ConnectionError, TimeoutError):
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\na: ")
        while taken < 40 * 2**20:
            connection.sendall(b"x" * 65536)
            taken += 65536
    return taken


def test_headers_without_end_are_not_read(port: int) -> None:
    assert drown(port) < 12 * 2**20  # what is dropped before the connection ends, and buffers on the way


def test_the_usual_protocol_reads_them_all() -> None:
    """Control: uvicorn's own protocol takes forty MiB of one header."""
    with serving(HttpToolsProtocol) as number:
        assert drown(number) == 40 * 2**20


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (b"", 0),
        (b"GET / HTTP/1.1\r\nHost: x\r\n", 408),
        (b"GET", 408),
        (b"\r\n", 0),
        (get(last="Connection: keep-alive") + b"GET / HTTP/1.1\r\n", 200),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab", 0),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", 0),
        (b"POST /unread HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab", 200),
    ],
)
def test_what_does_not_come_in_time_ends_the_connection(port: int, sent: bytes, expected: int) -> None:
    began = time.monotonic()
    answer = talk(port, sent)
    assert status(answer) == expected
    assert answer.count(b"HTTP/1.1 408") == (1 if expected in (408, 200) and sent.startswith(b"GET") else 0)
    assert time.monotonic() - began < 3


@pytest.mark.parametrize(
    "start",
    [b"GET / HTTP/1.1\r\na: ", b"POST / HTTP/1.1\r\nContent-Length: 999\r\n\r\n", get(last="") * 0 + b"\r\n"],
)
def test_drops_at_a_time_keep_no_connection_open(port: int, start: bytes) -> None:
    began, drop = time.monotonic(), start[-1:] if start == b"\r\n" else b"x"
    with connect(port) as connection, contextlib.suppress(ConnectionError):
        connection.sendall(start)
        while time.monotonic() - began < 4:
            connection.sendall(drop)
            time.sleep(0.05)
    assert time.monotonic() - began < 3


def test_line_ends_between_requests_do_not_stop_the_idle_clock() -> None:
    with serving(idle=1) as number, connect(number) as connection:
        connection.sendall(get(last="Connection: keep-alive"))
        answer = HTTPResponse(connection)
        answer.begin()
        assert answer.status == 200
        answer.read()
        connection.sendall(b"\r\n")
        began = time.monotonic()
        assert read(connection) == b""
        assert time.monotonic() - began < 3


def test_a_slow_answer_outlives_the_deadlines_of_what_is_sent(port: int) -> None:
    second = get(target="/second")
    with connect(port) as connection:  # pipelined: half of the second request waits behind the first answer
        connection.sendall(get(target="/slow", last="Connection: keep-alive") + second[:10])
        time.sleep(0.5)
        connection.sendall(second[10:])
        assert read(connection).count(b"HTTP/1.1 200") == 2


BODY = b'{"a": 1}'
UPGRADES = {
    "h2c": "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAA",
    "websocket": "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x",
    "other": "Upgrade: TLS/1.0, x/2\r\nConnection: upgrade",
    "lines": "Connection: upgrade\r\nConnection: x-mine\r\nUpgrade: h2c\r\nX-Mine: 1",
}


@pytest.mark.parametrize("name", UPGRADES)
@pytest.mark.parametrize("form", ["length", "chunked", "in pieces", "without body"])
def test_a_request_for_another_protocol_is_served_in_this_one(port: int, name: str, form: str) -> None:
    kind, body = f"Content-Length: {len(BODY)}", BODY
    if form == "chunked":
        kind, body = "Transfer-Encoding: chunked", b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
    if form == "without body":
        kind, body = "Accept: */*", b""
    head = f"POST /x HTTP/1.1\r\nHost: x\r\n{UPGRADES[name]}\r\nContent-Type: application/json\r\n{kind}\r\n\r\n"
    last = get(target="/last")
    pieces = [head.encode() + body + last]
    if form == "in pieces":
        pieces = [pieces[0][at : at + 7] for at in range(0, len(pieces[0]), 7)]
    answer = talk(port, *pieces)
    assert answer.count(b"HTTP/1.1 200") == 2
    first = json.loads(answer.split(b"\r\n\r\n")[1].partition(b"HTTP/1.1")[0])
    assert (first["method"], first["path"]) == ("POST", "/x")
    assert first["body"] == ("" if form == "without body" else BODY.decode())
    headers = dict(first["headers"])
    assert headers["content-type"] == "application/json"
    assert "upgrade" not in headers
    assert b"101" not in answer.split(b"\r\n")[0]


def test_the_usual_protocol_loses_the_body() -> None:
    """Control: with uvicorn's own protocol the body of such a request does not arrive."""
    head = f"POST /x HTTP/1.1\r\nHost: x\r\n{UPGRADES['h2c']}\r\nContent-Length: {len(BODY)}\r\n\r\n"
    with serving(HttpToolsProtocol) as number, connect(number) as connection:
        connection.sendall(head.encode() + BODY)
        assert b'"body": ""' in connection.recv(65536)


def test_a_trailer_is_no_header(port: int) -> None:
    head = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n"
    found = said(talk(port, head + b"kasbah-data-class: public\r\nauthorization: x\r\n\r\n"))
    assert {"kasbah-data-class", "authorization"}.isdisjoint(dict(found["headers"]))
    assert found["body"] == "a"


def test_an_idle_connection_gives_way_and_a_busy_one_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BoundedProtocol, "most", 2)
    with serving() as number, contextlib.ExitStack() as opened:
        idle, busy = opened.enter_context(connect(number)), opened.enter_context(connect(number))
        idle.sendall(get(last="Connection: keep-alive"))
        assert idle.recv(65536)
        busy.sendall(get(target="/slow"))
        time.sleep(0.1)
        third = opened.enter_context(connect(number))  # in the place of the idle one
        third.sendall(get(target="/slow"))
        assert read(idle) == b""
        refused = talk(number, get())
        assert (status(refused), said(refused)["error"]["code"]) == (503, "service_unavailable")
        assert b"retry-after: 1" in refused
        assert (status(read(busy)), status(read(third))) == (200, 200)


def test_the_limit_leaves_files_for_what_is_not_a_connection() -> None:
    import resource

    most = http_server.connection_limit()
    assert 0 < most <= resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert most <= http_server.MAX_CONNECTIONS
