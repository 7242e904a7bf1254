"""HTTP/1.1 (RFC 9112) to the engine over its Unix socket, as lean as the path of every token deserves.

The body is handed on as it arrives, by a plain call: no task is woken for a chunk. Parsing is httptools' (llhttp).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

import httptools

IDLE_CONNECTIONS = 64
IDLE_SECONDS = 3.0  # vLLM closes after 5: a connection is not used where it may be closing


class EngineLost(ConnectionError):
    """The connection ended before the answer did: the engine died, or was stopped."""


class Exchange:
    """One request and its answer. `status` is 0 until the answer began; `finished` ends with it, or raises."""

    def __init__(self, on_body: Callable[[bytes], None] | None) -> None:
        self.status = 0
        self.body = bytearray()  # kept when nobody takes it as it comes, and for every answer but 200
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._on_body = on_body
        self._connection: _Connection | None = None

    def attach(self, connection: _Connection) -> None:
        """The connection that carries it."""
        self._connection = connection

    def take(self, data: bytes) -> None:
        """Part of the answer's body."""
        if self._on_body is not None and self.status == 200:
            self._on_body(data)
        else:
            self.body += data

    def end(self, error: BaseException | None = None) -> None:
        """The answer is complete, or will never be. The connection may carry another exchange from now on."""
        self._connection = None
        if not self.finished.done():
            if error is None:
                self.finished.set_result(None)
            else:
                self.finished.set_exception(error)

    def abort(self, error: BaseException) -> None:
        """Close the connection: the engine stops generating for it. `finished` raises `error`."""
        connection = self._connection
        self.end(error)
        if connection is not None:
            connection.drop()


class _Connection(asyncio.Protocol):
    """A kept-alive connection; carries one exchange at a time."""

    def __init__(self, pool: EngineClient) -> None:
        self._pool = pool
        self._transport: asyncio.Transport | None = None
        self._exchange: Exchange | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._parts: list[bytes] = []

    def send(self, exchange: Exchange, request: bytes) -> None:
        self._exchange = exchange
        self._parser = httptools.HttpResponseParser(self)
        exchange.attach(self)
        if self._transport is not None:
            self._transport.write(request)

    def drop(self) -> None:
        self._exchange = None
        if self._transport is not None:
            self._transport.abort()

    @property
    def usable(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    # asyncio.Protocol
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        exchange, parser = self._exchange, self._parser
        if exchange is None or parser is None:
            return
        try:
            parser.feed_data(data)
        except httptools.HttpParserError as error:
            exchange.end(EngineLost(f"the engine does not speak HTTP: {error}"))
            self.drop()
            return
        if self._parts and self._exchange is not None:
            self._hand_over(exchange)

    def connection_lost(self, exc: Exception | None) -> None:
        self._pool.forget(self)
        if self._exchange is not None:
            self._exchange.end(EngineLost("the engine closed the connection"))
            self._exchange = None

    def _hand_over(self, exchange: Exchange) -> None:
        parts, self._parts = self._parts, []
        try:
            exchange.take(b"".join(parts))
        except Exception as error:  # noqa: BLE001 - whoever waits for the exchange gets it
            exchange.end(error)
            self.drop()

    # httptools' callbacks
    def on_headers_complete(self) -> None:
        if self._exchange is not None and self._parser is not None:
            self._exchange.status = self._parser.get_status_code()

    def on_body(self, data: bytes) -> None:
        self._parts.append(data)

    def on_message_complete(self) -> None:
        exchange, parser = self._exchange, self._parser
        if exchange is None or parser is None:
            return
        self._hand_over(exchange)
        self._exchange = None
        if parser.should_keep_alive():
            self._pool.give_back(self)
        else:
            self.drop()
        exchange.end()


class EngineClient:
    """Connections to one engine's socket."""

    def __init__(self, socket: Path) -> None:
        self._socket = str(socket)
        self._idle: list[tuple[float, _Connection]] = []

    async def start(
        self, method: str, path: str, body: bytes = b"", on_body: Callable[[bytes], None] | None = None
    ) -> Exchange:
        """Send a request; the answer is followed through the Exchange. Raises EngineLost when there is no engine."""
        head = f"{method} {path} HTTP/1.1\r\nHost: engine\r\nContent-Type: application/json\r\n"
        request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode("ascii") + body
        exchange = Exchange(on_body)
        connection = self._take() or await self._connect()
        connection.send(exchange, request)
        return exchange

    async def ask(self, method: str, path: str, body: bytes = b"", *, timeout: float) -> tuple[int, bytes]:
        """Status and body of a short request. Raises EngineLost, TimeoutError."""
        exchange: Exchange | None = None
        try:
            # Not wait_for: before Python 3.12 it forgets a cancellation that comes together with the answer.
            async with asyncio.timeout(timeout):
                exchange = await self.start(method, path, body)
                await exchange.finished
        finally:
            if exchange is not None and not (exchange.finished.done() and not exchange.finished.cancelled()):
                exchange.abort(EngineLost("no answer in time"))
        return exchange.status, bytes(exchange.body)

    def close(self) -> None:
        """Close what is idle."""
        idle, self._idle = self._idle, []
        for _, connection in idle:
            connection.drop()

    def give_back(self, connection: _Connection) -> None:
        """An exchange ended and its connection may carry another."""
        if len(self._idle) < IDLE_CONNECTIONS:
            self._idle.append((time.monotonic(), connection))
        else:
            connection.drop()

    def forget(self, connection: _Connection) -> None:
        """The connection is closed."""
        self._idle = [item for item in self._idle if item[1] is not connection]

    def _take(self) -> _Connection | None:
        while self._idle:
            since, connection = self._idle.pop()
            if connection.usable and time.monotonic() - since < IDLE_SECONDS:
                return connection
            connection.drop()
        return None

    async def _connect(self) -> _Connection:
        try:
            _, connection = await asyncio.get_running_loop().create_unix_connection(
                lambda: _Connection(self), self._socket
            )
        except OSError as error:
            raise EngineLost(f"the engine's socket does not answer: {error.strerror}") from error
        return connection
