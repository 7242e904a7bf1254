"""What holds for every request, whichever half of the control plane serves it: headers, target, body and time.

Django would write a body of any size to the disk before it looks at it, and wait for it as long as a client likes, so
it is given whole bodies only, read as the gateway reads its own.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, nullcontext, suppress

from kasbah.common.errors import Invalid, KasbahError
from kasbah.common.http_headers import join_headers
from kasbah.common.shares import FairQueue, SharedPool
from kasbah.gateway.app import PREFIXES
from kasbah.gateway.exchange import STALL_TIMEOUT, ClientGone, Exchange, Message, Receive, Scope, Send

PATIENCE = 10.0  # seconds a request waits for its turn
MAX_BYTES = 128 * 1024 * 1024  # of bodies that are read before anybody has looked who asks
Application = Callable[..., Awaitable[None]]  # of scope, receive and send


class Front:
    """The ASGI application: inference routes go to the gateway, everything else to Django."""

    def __init__(self, gateway: Application, django: Application, room: int) -> None:
        """`room`: how many requests Django serves at once, each with a thread and a connection to the database."""
        self._gateway = gateway
        self._django = django
        self._turns = FairQueue("A place to serve this request", room, PATIENCE)
        self._room = SharedPool("bytes of requests", MAX_BYTES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Route by path; the gateway owns the lifespan, because it holds the pools and readers."""
        if scope["type"] != "http":
            await self._gateway(scope, receive, send)
            return
        try:
            _check_target(scope)
            scope = {**scope, "headers": join_headers(scope["headers"])}
        except Invalid as error:
            await _refuse(Exchange(scope, receive, send), error)
            return
        if scope["path"].startswith(PREFIXES):
            await self._gateway(scope, receive, send)
        else:
            await self._serve_django(scope, receive, send)

    async def _serve_django(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope, receive, send)
        with suppress(ClientGone):
            try:
                caller = _caller(scope)
                body = await exchange.body(self._room, caller)
                async with self._turn(scope, caller):
                    await self._django(scope, _whole(body, receive), _impatient(send))
            except KasbahError as error:
                await _refuse(exchange, error)
            finally:
                exchange.release()

    def _turn(self, scope: Scope, caller: bytes) -> AbstractAsyncContextManager[None]:
        return nullcontext() if scope["path"].startswith("/static/") else self._turns.turn(caller)


def _caller(scope: Scope) -> bytes:
    """What stands for who asks before anybody has looked: a key, a session, or an address. A digest, for it waits."""
    headers = dict(scope["headers"])
    address = str((scope.get("client") or ("",))[0]).encode()
    shown = headers.get(b"authorization") or headers.get(b"cookie") or address
    return hashlib.sha256(shown).digest()


def _check_target(scope: Scope) -> None:
    """Raises Invalid for a path that no database can hold. (The server's parser refuses bytes beyond ASCII.)"""
    if "\0" in scope["path"]:
        raise Invalid("The path has a NUL.", param="path")


async def _refuse(exchange: Exchange, error: KasbahError) -> None:
    with suppress(ClientGone):
        await exchange.refuse(error)
    exchange.log()


def _whole(body: bytes, receive: Receive) -> Receive:
    """Gives `body` in one piece, then what the server says: that the client has gone."""
    given = False

    async def whole() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return whole


def _impatient(send: Send) -> Send:
    """Raises ClientGone where a client does not read what it asked for."""

    async def impatient(message: Message) -> None:
        try:
            async with asyncio.timeout(STALL_TIMEOUT):
                await send(message)
        except TimeoutError as error:
            raise ClientGone from error

    return impatient
