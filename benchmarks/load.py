"""A small closed-loop HTTP/1.1 load: N connections, each sends its next request when the last one is answered.

Loopback only, bounded by a number of requests. It is written on asyncio's protocols so that the client's own cost
stays small beside what it measures.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httptools

LOOPBACK = {"127.0.0.1", "localhost", "::1"}


@dataclass
class Result:
    """One round. Times in seconds; `first` are times to the first content byte of the body."""

    requests: int = 0
    errors: int = 0
    wall: float = 0.0
    latency: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    tokens: int = 0
    statuses: dict[int, int] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Answers that were not errors, a second."""
        return (self.requests - self.errors) / self.wall if self.wall else 0.0


def quantile(values: list[float], q: float) -> float:
    """The q-quantile (0..1) by the nearest rank; 0 for nothing."""
    return sorted(values)[min(len(values) - 1, int(q * len(values)))] if values else 0.0


class _Client(asyncio.Protocol):
    """One connection that repeats a request until `budget` is spent."""

    def __init__(self, request: bytes, budget: list[int], result: Result, done: asyncio.Future[None]) -> None:
        self._request, self._budget, self._result, self._done = request, budget, result, done

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._next()

    def _next(self) -> None:
        if self._budget[0] <= 0:
            self._transport.close()
            if not self._done.done():
                self._done.set_result(None)
            return
        self._budget[0] -= 1
        self._parser = httptools.HttpResponseParser(self)
        self._started, self._first, self._failed = time.perf_counter(), 0.0, False
        self._transport.write(self._request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        if (not self._first and b'"content"' in body) or (b'"object"' in body and not self._first):
            self._first = time.perf_counter()
        self._result.tokens += body.count(b'data: {"')

    def on_message_complete(self) -> None:
        now, status = time.perf_counter(), self._parser.get_status_code()
        self._result.requests += 1
        self._result.statuses[status] = self._result.statuses.get(status, 0) + 1
        if status != 200:
            self._result.errors += 1
        else:
            self._result.latency.append(now - self._started)
            self._result.first.append((self._first or now) - self._started)
        # The parser must not be replaced while it is calling us.
        asyncio.get_running_loop().call_soon(self._next)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._done.done():
            self._result.errors += 1
            self._result.requests += 1
            self._done.set_result(None)


async def run(
    url: str, body: bytes, *, key: str, concurrency: int, requests: int, uds: str | None = None, limit: float = 120.0
) -> Result:
    """Send `requests` copies of `body` to `url` (or through the Unix socket `uds`) over `concurrency` connections."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or 80
    if uds is None and host not in LOOPBACK:
        raise ValueError(f"{host} is not this machine; a load goes to loopback only")
    head = (
        f"POST {parts.path} HTTP/1.1\r\nhost: {parts.netloc}\r\nauthorization: Bearer {key}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    loop, result, budget = asyncio.get_running_loop(), Result(), [requests]
    waiting: list[asyncio.Future[None]] = []
    started = time.perf_counter()
    for _ in range(min(concurrency, requests)):
        done: asyncio.Future[None] = loop.create_future()
        waiting.append(done)

        def make(done: asyncio.Future[None] = done) -> _Client:
            return _Client(head.encode() + body, budget, result, done)

        if uds:
            await loop.create_unix_connection(make, uds)
        else:
            await loop.create_connection(make, host, port)
    await asyncio.wait_for(asyncio.gather(*waiting), limit)
    result.wall = time.perf_counter() - started
    return result
