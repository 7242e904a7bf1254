"""What every route refuses alike: repeated headers, hostile targets; and what it says of paths that are not there."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any
from urllib.parse import urlsplit

import pytest

from kasbah.common import csp
from kasbah.config import front
from kasbah.config.front import Front
from kasbah.gateway import exchange
from tests.factories import Household
from tests.gateway.calls import CHAT, chat, inference_events, job_of, jobs_of, post
from tests.gateway.stack import Stack, everything

ROUTES = ["/v1/models", CHAT, "/healthz", "/api/me/", "/api/docs/", "/api/nothing", "/", "/static/x.js", "/nothing"]


Answer = tuple[int, dict[str, str], bytes]


def raw(stack: Stack, target: str, *lines: str, method: str = "GET", body: bytes = b"") -> Answer:
    """One request with exactly these header lines: status, headers in lower case, body."""
    address = urlsplit(stack.web.url)
    head = [f"{method} {target} HTTP/1.1", "Host: 127.0.0.1", "Connection: close", *lines]
    if body:
        head.append(f"Content-Length: {len(body)}")
    with socket.create_connection((address.hostname or "", address.port or 0), 20) as connection:
        connection.sendall("\r\n".join(head).encode("latin-1") + b"\r\n\r\n" + body)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    top, _, content = answer.partition(b"\r\n\r\n")
    status, *fields = top.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (field.partition(": ") for field in fields)}
    return int(status.split()[1]), headers, content


def error(content: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(content[content.index(b"{") : content.rindex(b"}") + 1])["error"]
    return found


def ask(stack: Stack, who: Household, *lines: str) -> Answer:
    body = json.dumps(chat("x [[tokens=1]]")).encode()
    key = f"Authorization: Bearer {who.key_text}"
    return raw(stack, CHAT, key, "Content-Type: application/json", *lines, method="POST", body=body)


@pytest.fixture(scope="module")
def careful(stack: Stack) -> Household:
    """A tenant whose policy denies what is personal, and what is secret."""
    document = everything()
    document["rules"] += [
        {"id": "no-persons", "effect": "deny", "tags": ["personal"], "sites": ["*"]},
        {"id": "no-secrets", "effect": "deny", "data_classes": ["secret"], "sites": ["*"]},
    ]
    return stack.household(document)


@pytest.mark.parametrize(
    "lines",
    [
        ["kasbah-data-tags: personal"],
        ["kasbah-data-tags: personal", "kasbah-data-tags:"],
        ["kasbah-data-tags:", "Kasbah-Data-Tags: personal"],
        ["kasbah-data-tags: internal", "kasbah-data-tags: personal", "kasbah-data-tags: health"],
        ["kasbah-data-class: secret"],
    ],
)
def test_no_further_line_takes_a_tag_away(stack: Stack, careful: Household, lines: list[str]) -> None:
    status, _, content = ask(stack, careful, *lines)
    assert (status, error(content)["code"]) == (403, "residency_denied")


@pytest.mark.parametrize(
    ("lines", "name"),
    [
        (["kasbah-data-class: secret", "kasbah-data-class: public"], "kasbah-data-class"),
        (["kasbah-data-class: secret", "KASBAH-DATA-CLASS:"], "kasbah-data-class"),
        (["kasbah_data_class: secret"], "kasbah_data_class"),
        (["kasbah-data-clas: secret"], "kasbah-data-clas"),
        (["kasbah-purpose: support", "kasbah-purpose: research"], "kasbah-purpose"),
        (["idempotency-key: a", "idempotency-key: b"], "idempotency-key"),
        (["authorization: Bearer x"], "authorization"),
        (["content-type: text/plain"], "content-type"),
        (["host: other"], "host"),
    ],
)
def test_nothing_is_done_for_a_request_that_says_two_things(
    stack: Stack, careful: Household, lines: list[str], name: str
) -> None:
    before = len(jobs_of(careful))
    status, headers, content = ask(stack, careful, *lines)
    assert (status, error(content)["param"]) == (400, name)
    assert headers["x-request-id"].startswith("req_")
    assert len(jobs_of(careful)) == before


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("name", ["authorization", "kasbah-data-class", "idempotency-key", "last-event-id", "host"])
def test_every_route_names_what_may_not_be_repeated(stack: Stack, route: str, name: str) -> None:
    status, headers, content = raw(stack, route, f"{name}: a", f"{name}: b")
    assert (status, error(content)["param"]) == (400, name)
    assert headers["content-security-policy"] == csp.DATA


async def test_the_last_line_would_win(monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: without the join, whoever makes a dictionary of the headers believes the second class."""
    lines = [(b"kasbah-data-class", b"secret"), (b"kasbah-data-class", b"public")]
    scope = {"type": "http", "method": "GET", "path": "/v1/models", "query_string": b"", "headers": lines}
    seen: list[dict[bytes, bytes]] = []
    sent: list[Any] = []

    async def gateway(scope: Any, receive: Any, send: Any) -> None:
        seen.append(dict(scope["headers"]))

    async def send(message: Any) -> None:
        sent.append(message)

    application = Front(gateway, gateway, 2)
    await application(scope, None, send)  # type: ignore[arg-type]
    assert (seen, sent[0]["status"]) == ([], 400)
    monkeypatch.setattr(front, "join_headers", list)
    await application(scope, None, send)  # type: ignore[arg-type]
    assert seen == [{b"kasbah-data-class": b"public"}]


def test_a_request_for_another_protocol_keeps_its_body(stack: Stack, careful: Household) -> None:
    """As Java's client sends every first request on plain http."""
    asked = ["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAoAAA"]
    status, _, content = ask(stack, careful, *asked)
    assert status == 200
    assert b'"choices"' in content


@pytest.mark.parametrize("route", ROUTES)
def test_every_route_has_a_limit_for_headers(stack: Stack, route: str) -> None:
    status, headers, content = raw(stack, route, f"x-filler: {'x' * 40_000}")
    assert (status, error(content)["code"]) == (431, "headers_too_large")
    assert headers["x-request-id"]


async def test_half_a_body_reaches_no_half_of_the_control_plane(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "BODY_TIMEOUT", 0.05)
    served: list[str] = []
    sent: list[Any] = []

    async def django(scope: Any, receive: Any, send: Any) -> None:
        served.append((await receive())["body"].decode())

    async def send(message: Any) -> None:
        sent.append(message)

    def client(*bodies: bytes, whole: bool) -> Any:
        waiting = [{"type": "http.request", "body": body, "more_body": True} for body in bodies]
        waiting[-1]["more_body"] = not whole

        async def receive() -> Any:
            return waiting.pop(0) if waiting else await asyncio.Event().wait()

        return receive

    scope = {"type": "http", "method": "POST", "path": "/api/session/", "query_string": b"", "headers": []}
    await Front(django, django, 2)(scope, client(b"a", whole=False), send)
    assert (served, sent[0]["status"]) == ([], 408)
    assert (b"connection", b"close") in sent[0]["headers"]
    await Front(django, django, 2)(scope, client(b"a", b"b", whole=True), send)
    assert served == ["ab"]


async def test_who_reads_no_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front, "STALL_TIMEOUT", 0.05)

    async def django(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        await asyncio.Event().wait()

    scope = {"type": "http", "method": "GET", "path": "/api/me/", "query_string": b"", "headers": []}
    async with asyncio.timeout(2):
        await Front(django, django, 2)(scope, receive, send)


@pytest.mark.parametrize("route", ["/v1/streams/%00", "/v1/models/a%00b", "/api/tenants/%00/", "/%00", "/api/%00x/"])
def test_a_nul_in_a_path_is_named(stack: Stack, route: str) -> None:
    status, _, content = raw(stack, route)
    assert (status, error(content)["param"]) == (400, "path")


@pytest.mark.parametrize("text", ["0000000009999999", "9" * 5000, "301", "-1", "1.5", "1_0", "05", "+5"])
def test_a_window_that_is_no_bounded_number_is_named(stack: Stack, careful: Household, text: str) -> None:
    status, _, content = ask(stack, careful, f"kasbah-resume-within: {text}")
    assert (status, error(content)["param"]) == (400, "kasbah-resume-within")


def test_a_request_that_says_each_thing_once_is_served(stack: Stack, careful: Household) -> None:
    answer = post(stack, careful, CHAT, chat("x [[tokens=1]]"), kasbah_data_class="public", kasbah_resume_within="300")
    assert answer.status_code == 200
    assert job_of(careful, answer).data_class == "public"
    assert inference_events(careful)


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/v1//models", "/v1/models"),
        ("/v1/v1/models", "/v1/models"),
        ("/v1/models/", ""),
        ("//v1/models", "/v1/models"),
        ("/models", "/v1/models"),
        ("/V1/Models", "/v1/models"),
        ("/v1/chat/completions/", "/v1/chat/completions"),
        ("/v1//chat//completions", "/v1/chat/completions"),
        ("/openai/v1/chat/completions", "/v1/chat/completions"),
        ("/chat/completions", "/v1/chat/completions"),
        ("/v1//models/mini", "/v1/models/mini"),
        ("/v1/tokenize", "/tokenize"),
        ("/docs", "/api/docs/"),
        ("/openapi.json", "/api/schema/"),
        ("/healthz/", "/healthz"),
        ("/health", "/healthz"),
        ("/v1/responses", ""),
        ("/v1", ""),
        ("/api/nothing", ""),
        ("/console", ""),
    ],
)
def test_a_path_that_is_not_there_says_which_may_be_meant(stack: Stack, path: str, meant: str) -> None:
    status, headers, content = raw(stack, path)
    found = error(content)
    if path == "/v1/models/":  # a model without a name, and nobody who asks
        assert status == 401
        return
    assert (status, found["code"], found["param"]) == (404, "not_found", "path")
    assert (f"Did you mean {meant}?" in found["message"]) == bool(meant)
    assert ("Did you mean" in found["message"]) == bool(meant)
    assert "/api/docs/" in found["message"]
    assert headers["content-type"].startswith("application/json")


def test_the_root_says_where_everything_is(stack: Stack) -> None:
    status, _, content = raw(stack, "/")
    assert status == 200
    paths = json.loads(content)
    for name in ("models", "documentation", "openapi", "health"):
        assert raw(stack, paths[name])[0] in (200, 401), name
