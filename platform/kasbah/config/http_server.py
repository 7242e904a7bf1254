"""The HTTP/1.1 server: uvicorn's protocol on httptools, with bounds on what a client may send, and how slowly.

A proxy in front has bounds of its own; these hold without one. A head that is too large, too slow or malformed gets
an answer of the API's form and the connection ends. A request to change the protocol is ignored (RFC 9110, section
7.8), for every protocol: httptools would end the message there and lose the body.
"""

from __future__ import annotations

import asyncio
import logging
import resource
from http import HTTPStatus
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from kasbah.common.errors import Invalid, KasbahError, TimedOut, Unavailable
from kasbah.common.ids import uuid7
from kasbah.gateway.exchange import BODY_TIMEOUT, LINGER, SECURITY_HEADERS, error_body, error_headers

MAX_HEAD = 32 * 1024  # bytes of a request's line and headers, as the proxy's max_header_size
MAX_HEADERS = 100
MAX_DROPPED = 1024 * 1024  # bytes after a refusal
MAX_TARGET = 8 * 1024  # bytes (RFC 9110, section 4.1, asks for 8000 octets at least)
HEAD_TIMEOUT = 10.0  # seconds for a head, as the proxy's read_header
BODY_DEADLINE = BODY_TIMEOUT + 10.0  # seconds; whoever reads the body answers before, and this ends what nobody reads
IDLE_TIMEOUT = 75  # seconds; longer than the proxy keeps a connection (60), or it would send into one that closes
MAX_CONNECTIONS = 4096
FILES_BESIDES = 256  # descriptors for databases, stores, files

_DROPPED = frozenset({b"upgrade", b"http2-settings"})

logger = logging.getLogger(__name__)


class HeadTooLarge(KasbahError):
    """The request's line or headers are over a limit (RFC 6585, section 5)."""

    status, code, kind = 431, "headers_too_large", "invalid_request_error"


class TargetTooLong(KasbahError):
    """The path and query are over a limit."""

    status, code, kind = 414, "target_too_long", "invalid_request_error"


class NoTunnel(KasbahError):
    """CONNECT asks for a proxy, and this is none."""

    status, code, kind = 405, "method_not_allowed", "invalid_request_error"


def connection_limit() -> int:
    """How many connections this process may hold, after its limit of open files was raised as far as it goes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_CONNECTIONS + FILES_BESIDES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return MAX_CONNECTIONS if soft == resource.RLIM_INFINITY else max(min(MAX_CONNECTIONS, soft - FILES_BESIDES), 1)


class BoundedProtocol(HttpToolsProtocol):
    """One connection. `most` is how many there may be; an idle one gives way to a new one."""

    most = MAX_CONNECTIONS

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._deadline: asyncio.TimerHandle | None = None  # of the head or body that is being read
        self._refusal: KasbahError | None = None  # why the parser was stopped
        self._refused = False
        self._dropped = 0  # bytes since then
        self._in_head = self._in_body = self._upgrades = False
        self._complete = 0  # messages
        self._pending = 0  # bytes of a head that is not complete
        self._head_size = self._head_count = 0

    # --- the connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        """Take it, or say that there are too many."""
        super().connection_made(transport)
        if len(self.connections) > self.most and not self._displace_idle():
            self._refuse(Unavailable("Too many connections are open. Try again.", retry_after=1))
            return
        self._deadline = self.loop.call_later(HEAD_TIMEOUT, self._head_is_late)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._disarm()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what came, or drop it after a refusal."""
        if self._refused:
            self._dropped += len(data)
            if self._dropped > MAX_DROPPED:
                self.transport.close()
            return
        self._unset_keepalive_if_required()
        complete = self._complete
        try:
            self._feed(memoryview(data))
            if self._in_head:
                # What belongs to an earlier message in the same piece is not counted.
                self._pending = self._pending + len(data) if self._complete == complete else 0
                if self._pending > MAX_HEAD:
                    raise _head_too_large()
        except httptools.HttpParserError as error:
            self._refuse(self._refusal or Invalid(f"This is not HTTP/1.1 (RFC 9112): {_reason(error)}."))
        except HeadTooLarge as error:
            self._refuse(error)
        else:
            self._rest()

    def _feed(self, data: memoryview) -> None:
        while True:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                data = data[upgrade.args[0] :]
                self._begin_without_upgrade()
            else:
                return

    def _begin_without_upgrade(self) -> None:
        """Give the parser the same head again, as if no other protocol had been asked for."""
        self._upgrades = False
        method = self.parser.get_method()
        if method == b"CONNECT":
            self._refusal = NoTunnel("CONNECT is not served: this is no proxy.")
            raise httptools.HttpParserError("CONNECT")
        lines = [b"%s %s HTTP/%s" % (method, self.url, self.parser.get_http_version().encode())]
        for name, value in self.headers:
            if name == b"connection":
                tokens = (token.strip() for token in value.split(b","))
                lines.append(b"connection: " + b", ".join(token for token in tokens if token.lower() not in _DROPPED))
            elif name not in _DROPPED:
                lines.append(b"%s: %s" % (name, value))
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's
        self.parser.feed_data(b"\r\n".join(lines) + b"\r\n\r\n")

    # --- what the parser finds

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        self._in_head = True
        self._pending = self._head_size = self._head_count = 0
        if self._deadline is None:
            self._deadline = self.loop.call_later(HEAD_TIMEOUT, self._head_is_late)

    def on_url(self, url: bytes) -> None:
        """A part of the target."""
        super().on_url(url)
        if len(self.url) > MAX_TARGET:
            self._stop(TargetTooLong(f"The path and query are over {MAX_TARGET} bytes.", param="path"))
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header. A trailer is dropped: it may not pass for a header (RFC 9110, section 6.5.1)."""
        self._head_count += 1
        self._count(len(name) + len(value) + 4)
        if self._head_count > MAX_HEADERS:
            self._stop(HeadTooLarge(f"The request has more than {MAX_HEADERS} headers.", param="headers"))
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is there, unless it has to be read again."""
        self._in_head = False
        self._upgrades = self.parser.should_upgrade()
        if self._upgrades:
            return
        self._disarm()
        self._in_body = True
        self._deadline = self.loop.call_later(BODY_DEADLINE, self._body_is_late)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        if not self._upgrades:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The whole request is there."""
        if self._upgrades:
            return
        self._complete += 1
        self._in_body = False
        self._disarm()
        super().on_message_complete()

    def _count(self, size: int) -> None:
        self._head_size += size
        if self._head_size > MAX_HEAD:
            self._stop(_head_too_large())

    def _stop(self, error: KasbahError) -> None:
        """Ends the parsing; the parser wraps what is raised."""
        self._refusal = error
        raise error

    # --- time

    def _rest(self) -> None:
        """Between two requests: line ends alone, which the parser skips, keep no connection open."""
        busy = self._in_head or self._in_body or (self.cycle is not None and not self.cycle.response_complete)
        if not busy and self._deadline is None and self.timeout_keep_alive_task is None and self.cycle is not None:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    @property
    def _answering_earlier(self) -> bool:
        """Whether an answer to a request before the one that is being read is still to come."""
        if self._in_head or not self._in_body:
            return self.cycle is not None and not self.cycle.response_complete
        return bool(self.pipeline)

    def _head_is_late(self) -> None:
        self._deadline = None
        if self._answering_earlier:  # nothing is read meanwhile
            self._deadline = self.loop.call_later(HEAD_TIMEOUT, self._head_is_late)
        elif self._in_head:
            self._refuse(TimedOut(f"The request's headers did not arrive within {HEAD_TIMEOUT:.0f} s."))
        else:
            self.transport.close()

    def _body_is_late(self) -> None:
        self._deadline = None
        if self._answering_earlier:
            self._deadline = self.loop.call_later(BODY_DEADLINE, self._body_is_late)
        else:
            self.transport.close()

    # --- the end

    def _displace_idle(self) -> bool:
        """Close a connection that waits for its next request, if there is one."""
        for connection in self.connections:
            if isinstance(connection, BoundedProtocol) and connection.timeout_keep_alive_task is not None:
                connection.transport.close()
                self.connections.discard(connection)
                return True
        return False

    def _refuse(self, error: KasbahError) -> None:
        """Answer, if the answer would be one to this request, and end the connection once it was read."""
        earlier = self._answering_earlier or (self._in_body and self.cycle.response_started)
        self._refused = True
        self._disarm()
        logger.info("A request was refused before it was read: %s", error.code)
        if earlier:
            self.transport.close()
            return
        body = error_body(error)
        headers = [
            *self.server_state.default_headers,
            (b"x-request-id", f"req_{uuid7().hex}".encode()),
            *SECURITY_HEADERS,
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            *((name, value) for name, value in error_headers(error) if name != b"connection"),
            (b"connection", b"close"),
        ]
        phrase = HTTPStatus(error.status).phrase.encode()
        head = b"".join(b"%s: %s\r\n" % header for header in headers)
        self.transport.write(b"HTTP/1.1 %d %s\r\n%s\r\n%s" % (error.status, phrase, head, body))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        # A client that still sends when the connection closes would see a reset instead of the answer.
        self._deadline = self.loop.call_later(LINGER, self.transport.close)


def _head_too_large() -> HeadTooLarge:
    return HeadTooLarge(f"The request's line and headers are over {MAX_HEAD // 1024} KiB.", param="headers")


def _reason(error: httptools.HttpParserError) -> str:
    """What the parser says; of a target that it cannot read it would quote the text."""
    text = str(error)
    return text if text.isascii() and "'" not in text and len(text) < 120 else "it cannot be read"
