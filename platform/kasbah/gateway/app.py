"""The OpenAI-compatible API as a plain ASGI application, mounted beside Django in the same process.

A request costs 0.1 ms of plumbing here and 1.3 ms in Django's handler (docs/decisions/0004). Everything else is the
same: the same services, the same database roles, the same errors.
"""

from __future__ import annotations

import gc
import logging
import traceback

from kasbah.audit.services import EventType
from kasbah.audit.services.denials import Denial, denials
from kasbah.common.errors import Forbidden, KasbahError
from kasbah.common.paths import path_not_found
from kasbah.gateway import catalogue, health, inference, refusals
from kasbah.gateway.endpoints import ENDPOINTS
from kasbah.gateway.exchange import ClientGone, Exchange, Receive, Scope, Send
from kasbah.gateway.health import Readiness
from kasbah.gateway.resumption import Resumption
from kasbah.gateway.runtime import Runtime

PREFIXES = ("/v1/", "/tokenize", "/healthz", "/readyz")
PATHS = frozenset({*ENDPOINTS, "/v1/models", "/v1/models/", "/v1/streams/", "/healthz", "/readyz"})

logger = logging.getLogger(__name__)


class Gateway:
    """Routes requests; opens the runtime when the server starts and closes it when it ends."""

    def __init__(self) -> None:
        self.runtime = Runtime()
        self._readiness: Readiness | None = None
        self._resumption: Resumption | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            await self._http(Exchange(scope, receive, send))
        else:
            await send({"type": "websocket.close", "code": 1000})

    async def _http(self, exchange: Exchange) -> None:
        try:
            await self._answer(exchange)
        except ClientGone:
            exchange.notes["gone"] = True
        finally:
            exchange.release()
            exchange.log()

    async def _answer(self, exchange: Exchange) -> None:
        try:
            await self._route(exchange)
        except KasbahError as error:
            if exchange.begun:
                raise
            _note(exchange, error)
            await exchange.refuse(error)
        except Exception as error:
            # Of an error that nobody foresaw only kind and place are told: its text may quote what was sent.
            frames = "".join(traceback.format_tb(error.__traceback__))
            logger.error("%s failed: %s\n%s", exchange.request_id, type(error).__name__, frames)  # noqa: TRY400
            if exchange.begun:
                raise
            await exchange.refuse(
                KasbahError(f"Something failed inside; it was logged as {exchange.request_id}. Try again.")
            )

    async def _route(self, exchange: Exchange) -> None:
        path, runtime = exchange.path, self.runtime
        exchange.parameters()  # refuses what comes twice, wherever nobody reads it
        endpoint = ENDPOINTS.get(path)
        if endpoint is not None:
            _require(exchange, "POST")
            await inference.serve(runtime, exchange, endpoint)
        elif path == "/v1/models":
            _require(exchange, "GET", "HEAD")
            await catalogue.list_models(runtime, exchange)
        elif path.startswith("/v1/models/"):
            _require(exchange, "GET", "HEAD")
            await catalogue.show_model(runtime, exchange, path.removeprefix("/v1/models/"))
        elif path.startswith("/v1/streams/") and self._resumption is not None:
            _require(exchange, "GET")
            await self._resumption.serve(exchange, path.removeprefix("/v1/streams/"))
        elif path == "/healthz":
            _require(exchange, "GET", "HEAD")
            await health.alive(exchange)
        elif path == "/readyz" and self._readiness is not None:
            _require(exchange, "GET", "HEAD")
            await self._readiness.answer(exchange)
        else:
            raise path_not_found(exchange.method, path, PATHS)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await self._start(send)
            elif message["type"] == "lifespan.shutdown":
                await self.runtime.close()
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def _start(self, send: Send) -> None:
        try:
            await self.runtime.open()
            self._readiness = Readiness(self.runtime)
            self._resumption = Resumption(self.runtime)
            # What lives as long as the process is left out of collections: with it, each that a large body causes
            # holds the loop for a tenth of a second.
            gc.collect()
            gc.freeze()
        except Exception as error:
            logger.exception("The gateway cannot start")
            await self.runtime.close()
            await send({"type": "lifespan.startup.failed", "message": type(error).__name__})
        else:
            await send({"type": "lifespan.startup.complete"})


def _note(exchange: Exchange, error: KasbahError) -> None:
    """Who was refused at the door goes on record; what a policy denied has an event of its own."""
    if error.status == 401 or (error.status == 403 and error.code == Forbidden.code):
        kind = EventType.AUTHENTICATION_DENIED if error.status == 401 else EventType.AUTHORIZATION_DENIED
        path = exchange.path if exchange.path in ENDPOINTS else "/".join(exchange.path.split("/")[:3])
        denials.note(Denial(kind, f"{exchange.method} {path[:40]}", error.code), exchange.client, exchange.request_id)


def _require(exchange: Exchange, *methods: str) -> None:
    if exchange.method not in methods:
        raise refusals.MethodNotAllowed(
            f"{exchange.path} takes {' and '.join(methods)}.", headers={"allow": ", ".join(methods)}
        )


def create_app() -> Gateway:
    """The application; nothing is opened before the lifespan starts."""
    return Gateway()
