"""One HTTP exchange on plain ASGI: reading the request, writing the answer, and what Django would have done for it.

Django's handler does not serve these routes (docs/decisions/0004), so what it does for a request is done here on
purpose: request ids, security headers, a limit on bodies, errors as answers, an access log. It tells who asked,
for what, and how long it took, and never a prompt, an answer, a query string or a key.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Hashable, Iterable, MutableMapping
from contextlib import ExitStack, suppress
from typing import Any
from urllib.parse import parse_qsl, quote

import msgspec

from kasbah.common import csp
from kasbah.common.errors import Invalid, KasbahError, TimedOut, TooLarge
from kasbah.common.ids import uuid7
from kasbah.common.shares import SharedPool

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = Iterable[tuple[bytes, bytes]]

MAX_BODY = 4 * 1024 * 1024
MAX_PARAMETERS = 32  # of a query
MAX_LINGER = 8 * MAX_BODY
LINGER = 2.0  # seconds for which a body over the limit is read and dropped
BODY_TIMEOUT = 30.0  # seconds for a whole body
STALL_TIMEOUT = 30.0  # seconds in which a client must read something of what waits for it

logger = logging.getLogger("kasbah.gateway.access")

# As Django's SecurityMiddleware and XFrameOptionsMiddleware; answers are made for one client and kept by no cache.
SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"x-frame-options", b"DENY"),
    (b"cache-control", b"no-store"),
    (csp.HEADER.encode(), csp.DATA.encode()),
)
JSON = (b"content-type", b"application/json")
EVENT_STREAM = (b"content-type", b"text/event-stream; charset=utf-8")


class ClientGone(Exception):
    """The client closed the connection, or does not read what it asked for."""


class Exchange:
    """A request and its answer. `notes` are what the access log tells besides."""

    __slots__ = (
        "_holding",
        "_receive",
        "_send",
        "_started",
        "client",
        "headers",
        "method",
        "notes",
        "path",
        "query",
        "request_id",
        "status",
    )

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._started = time.perf_counter()
        self._holding = ExitStack()
        self.request_id = f"req_{uuid7().hex}"
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.client = str((scope.get("client") or ("",))[0])  # an address; it is never written anywhere
        self.query: bytes = scope["query_string"]
        # Each name stands once: kasbah.config.front joined lists and refused what may not be repeated.
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.status = 0
        self.notes: dict[str, object] = {}

    @property
    def begun(self) -> bool:
        """Whether the status line is out, after which an error can only be a frame."""
        return self.status != 0

    def header(self, name: bytes) -> str:
        """A request header as text, "" when it is absent. Raises Invalid when it is not ASCII."""
        try:
            return self.headers.get(name, b"").decode("ascii").strip()
        except UnicodeDecodeError as error:
            raise Invalid("This header has characters beyond ASCII.", param=name.decode("ascii")) from error

    def parameters(self) -> dict[str, str]:
        """The query parameters. Raises Invalid for one that comes twice, on which programs differ, and for too many."""
        try:
            pairs = parse_qsl(self.query.decode("latin-1"), keep_blank_values=True, max_num_fields=MAX_PARAMETERS)
        except ValueError as error:
            raise Invalid(f"The query has more than {MAX_PARAMETERS} parameters.", param="query") from error
        found: dict[str, str] = {}
        for name, value in pairs:
            if name in found:
                raise Invalid("This parameter comes more than once; give it once.", param=name[:100])
            found[name] = value
        return found

    async def body(self, room: SharedPool, caller: Hashable) -> bytes:
        """The whole body, for which `caller` holds a place in `room` for each byte until `release`. Raises TooLarge
        over 4 MiB, TimedOut when it does not come, RateLimited or Unavailable where there is no room, Invalid,
        ClientGone."""
        length = self.headers.get(b"content-length", b"0")
        if len(length) > 12 or (length.isdigit() and int(length) > MAX_BODY):
            raise await self._too_large()
        if self.headers.get(b"content-encoding", b"identity").lower() != b"identity":  # RFC 9110, section 8.4.1
            raise Invalid("Send the body without Content-Encoding.", param="content-encoding")
        try:
            async with asyncio.timeout(BODY_TIMEOUT):
                return await self._read(room, caller)
        except TimeoutError as error:
            raise TimedOut(f"The body did not arrive within {BODY_TIMEOUT:.0f} s; send it again.") from error

    def release(self) -> None:
        """Give back what was held for the body. To be called when the exchange is over."""
        self._holding.close()

    async def _read(self, room: SharedPool, caller: Hashable) -> bytes:
        parts: list[bytes] = []
        size, more = 0, True
        while more:
            message = await self._next()
            part = message.get("body", b"")
            size += len(part)
            if size > MAX_BODY:
                raise await self._too_large(more=message.get("more_body", False))
            self._holding.enter_context(room.hold(caller, len(part)))
            parts.append(part)
            more = message.get("more_body", False)
        return b"".join(parts)

    async def _too_large(self, *, more: bool = True) -> TooLarge:
        """The refusal, once some of the rest was read and dropped: a client or proxy that still sends when the
        connection closes would see a reset instead of the answer."""
        dropped = 0
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER):
                while more and dropped < MAX_LINGER:
                    message = await self._next()
                    dropped += len(message.get("body", b""))
                    more = message.get("more_body", False)
        return TooLarge(f"The body is over {MAX_BODY // 1024 // 1024} MiB; send less at a time.", param="body")

    async def _next(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        return message

    async def gone(self) -> None:
        """Returns when the client has closed the connection; to be awaited after the body was read."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def begin(self, status: int, headers: Headers) -> None:
        """Send status and headers."""
        self.status = status
        await self._send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [(b"x-request-id", self.request_id.encode()), *SECURITY_HEADERS, *headers],
            }
        )

    async def write(self, data: bytes, *, more: bool) -> None:
        """Send a part of the body; waits while the client has not read. Raises ClientGone after STALL_TIMEOUT."""
        try:
            async with asyncio.timeout(STALL_TIMEOUT):
                await self._send({"type": "http.response.body", "body": data, "more_body": more})
        except TimeoutError as error:
            raise ClientGone from error

    async def answer(self, status: int, body: bytes, headers: Headers = ()) -> None:
        """A whole JSON answer."""
        length = (b"content-length", b"%d" % len(body))
        await self.begin(status, (JSON, length, *headers))
        await self.write(b"" if self.method == "HEAD" else body, more=False)

    async def refuse(self, error: KasbahError, headers: Headers = ()) -> None:
        """An error as an answer, in OpenAI's form."""
        self.notes["code"] = error.code
        await self.answer(error.status, error_body(error), (*error_headers(error), *headers))

    def log(self) -> None:
        """One line when the exchange is over."""
        if not logger.isEnabledFor(logging.INFO):
            return
        milliseconds = (time.perf_counter() - self._started) * 1000
        notes = "".join(f" {name}={value}" for name, value in self.notes.items())
        path = quote(self.path[:100])  # a decoded path may hold a line's end
        logger.info("%s %s %s %d %.1fms%s", self.request_id, self.method, path, self.status, milliseconds, notes)


def error_body(error: KasbahError) -> bytes:
    """{"error": {message, type, param, code}} (OpenAI API reference, "Error codes")."""
    return msgspec.json.encode(
        {"error": {"message": error.message, "type": error.kind, "param": error.param, "code": error.code}}
    )


# Answers that stay the same until somebody changes something: the SDK, which tries again on 429, must not.
FINAL = frozenset({"residency_denied", "insufficient_quota", "answer_not_kept"})


def error_headers(error: KasbahError) -> list[tuple[bytes, bytes]]:
    """When to come again, or that it is of no use; how to authenticate; that the connection ends."""
    headers = [(name.encode("ascii"), value.encode("ascii")) for name, value in error.headers.items()]
    if error.retry_after is not None:
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(error.retry_after))))
        headers.append((b"retry-after-ms", b"%d" % max(1, math.ceil(error.retry_after * 1000))))
    if error.code in FINAL:
        headers.append((b"x-should-retry", b"false"))
    if error.status == 401:
        headers.append((b"www-authenticate", b'Bearer realm="kasbah"'))
    if error.status in {408, 413}:
        headers.append((b"connection", b"close"))  # what is left of the body is not read
    return headers
