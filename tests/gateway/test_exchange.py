"""What Django would have done for a request, on plain ASGI."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from kasbah.common.errors import Invalid, RateLimited, TimedOut, TooLarge, Unavailable
from kasbah.common.shares import SharedPool
from kasbah.gateway import exchange as exchanges
from kasbah.gateway.exchange import ClientGone, Exchange, error_headers

ROOM = SharedPool("bytes", 2**30)


class Wire:
    """A client: `pieces` of a body, then silence; keeps what was sent. `reads` says whether it takes the answer."""

    def __init__(self, *pieces: bytes, reads: bool = True, leaves: bool = False) -> None:
        self._messages: list[dict[str, Any]] = [
            {"type": "http.request", "body": piece, "more_body": index + 1 < len(pieces)}
            for index, piece in enumerate(pieces)
        ]
        if leaves:
            self._messages[-1]["more_body"] = True
            self._messages.append({"type": "http.disconnect"})
        self._reads = reads
        self.sent: list[Any] = []

    async def receive(self) -> dict[str, Any]:
        if not self._messages:
            await asyncio.Event().wait()
        return self._messages.pop(0)

    async def send(self, message: Any) -> None:
        self.sent.append(message)
        if not self._reads and message["type"] == "http.response.body":
            await asyncio.Event().wait()

    def exchange(self, headers: list[tuple[bytes, bytes]] | None = None, method: str = "POST") -> Exchange:
        scope = {"method": method, "path": "/v1/x", "query_string": b"", "headers": headers or []}
        return Exchange(scope, self.receive, self.send)


async def test_a_body_in_pieces_is_put_together() -> None:
    assert await Wire(b"a", b"b", b"c").exchange().body(ROOM, None) == b"abc"


async def test_the_limit_holds_by_announcement_by_piece_and_by_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchanges, "MAX_BODY", 10)
    assert await Wire(b"x" * 10).exchange().body(ROOM, None) == b"x" * 10
    for wire, headers in (
        (Wire(b""), [(b"content-length", b"11")]),
        (Wire(b""), [(b"content-length", b"9" * 400)]),
        (Wire(b"x" * 11), []),
        (Wire(b"x" * 6, b"x" * 5), []),
    ):
        with pytest.raises(TooLarge) as raised:
            await wire.exchange(headers).body(ROOM, None)
        assert (b"connection", b"close") in error_headers(raised.value)


async def test_bodies_together_have_bounds_and_nobody_has_more_than_half() -> None:
    """Four thousand connections that each wait to end a body of 4 MiB would be 16 GiB."""
    room = SharedPool("bytes of requests", 1000)
    exchanges = [Wire(b"x" * 50, b"x" * 50).exchange() for _ in range(6)]
    for exchange in exchanges[:5]:
        await exchange.body(room, "finance")
    with pytest.raises(RateLimited) as refused:
        await exchanges[5].body(room, "finance")
    assert refused.value.code == "share_used"
    exchanges += [Wire(b"x" * 250).exchange(), Wire(b"x" * 251).exchange()]
    assert await exchanges[6].body(room, "hospital") == b"x" * 250
    with pytest.raises(Unavailable):
        await exchanges[7].body(room, "city")
    # What was held comes back, also of a body that was refused half way.
    for exchange in exchanges:
        exchange.release()
    assert await Wire(b"x" * 500).exchange().body(room, "city") == b"x" * 500


async def test_a_body_without_a_coding_may_say_so_in_any_case() -> None:
    assert await Wire(b"x").exchange([(b"content-encoding", b"Identity")]).body(ROOM, None) == b"x"
    with pytest.raises(Invalid) as raised:
        await Wire(b"x").exchange([(b"content-encoding", b"GZIP")]).body(ROOM, None)
    assert raised.value.param == "content-encoding"


@pytest.mark.parametrize(
    ("query", "param"),
    [(b"a=1&b=&a=1", "a"), (b"a&%61", "a"), (b"&".join(b"p%d=" % number for number in range(40)), "query")],
)
async def test_a_parameter_that_comes_twice_and_too_many_are_refused(query: bytes, param: str) -> None:
    exchange = Wire(b"").exchange()
    exchange.query = query
    with pytest.raises(Invalid) as raised:
        exchange.parameters()
    assert raised.value.param == param


async def test_parameters_are_told_by_name() -> None:
    exchange = Wire(b"").exchange()
    exchange.query = b"include_usage=true&api-version=%C3%A9&empty="
    assert exchange.parameters() == {"include_usage": "true", "api-version": "é", "empty": ""}


async def test_a_body_that_does_not_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchanges, "BODY_TIMEOUT", 0.05)
    wire = Wire(b"a", b"b")
    del wire._messages[1]
    with pytest.raises(TimedOut, match="did not arrive"):
        await wire.exchange().body(ROOM, None)


async def test_a_client_that_leaves_while_it_sends() -> None:
    with pytest.raises(ClientGone):
        await Wire(b"a", leaves=True).exchange().body(ROOM, None)


async def test_a_client_that_does_not_read_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchanges, "STALL_TIMEOUT", 0.05)
    deaf, listening = Wire(reads=False), Wire()
    with pytest.raises(ClientGone):
        await deaf.exchange().answer(200, b"{}")
    await listening.exchange().answer(200, b"{}")


async def test_an_answer_to_head_has_the_length_and_no_body() -> None:
    wire = Wire()
    await wire.exchange(method="HEAD").answer(200, b"{}")
    start, body = wire.sent
    assert (b"content-length", b"2") in start["headers"]
    assert body["body"] == b""


async def test_retries_are_told_in_whole_seconds_and_milliseconds() -> None:
    error = RateLimited("slow down", retry_after=0.25, headers={"x-ratelimit-remaining-requests": "0"})
    headers = dict(error_headers(error))
    assert headers[b"retry-after"] == b"1"
    assert headers[b"retry-after-ms"] == b"250"
    assert headers[b"x-ratelimit-remaining-requests"] == b"0"
    assert b"x-should-retry" not in headers


async def test_headers_beyond_ascii_are_named() -> None:
    with pytest.raises(Invalid) as raised:
        Wire().exchange([(b"idempotency-key", b"\xe9")]).header(b"idempotency-key")
    assert raised.value.param == "idempotency-key"
