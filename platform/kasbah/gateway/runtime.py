"""What one web process holds for its requests, opened and closed with the server's lifespan."""

from __future__ import annotations

from contextlib import AsyncExitStack

from django.conf import settings
from redis.asyncio import Redis

from kasbah.audit.services.content import Vault
from kasbah.common import env, stores
from kasbah.common.changes import ChangeListener
from kasbah.common.database import Database
from kasbah.common.shares import SharedPool
from kasbah.gateway.cache import TenantCache
from kasbah.gateway.classifying import Classifying, own_detector
from kasbah.gateway.drain import Drain
from kasbah.gateway.idempotency import Turns
from kasbah.gateway.ledger import Ledger
from kasbah.gateway.reading import Reading
from kasbah.identity.services import PrincipalCache
from kasbah.metering.services import Meter
from kasbah.serving.services import Dispatcher

MAX_UNDER_WAY = 4096  # requests in one process, those that wait for an idempotency key among them
MAX_BYTES = 512 * 1024 * 1024  # of their bodies, which are held several times until they are answered


def stream_hold() -> float:
    """KASBAH_STREAM_HOLD, seconds. Raises SettingInvalid."""
    return env.number("STREAM_HOLD", 10.0, least=0, most=3600)


def default_output() -> int:
    """KASBAH_DEFAULT_OUTPUT_TOKENS, tokens. Raises SettingInvalid."""
    return env.integer("DEFAULT_OUTPUT_TOKENS", 4096, least=1, most=1_000_000)


def pool_size() -> int:
    """KASBAH_GATEWAY_POOL, connections. Raises SettingInvalid."""
    return env.integer("GATEWAY_POOL", 4, least=1, most=1000)


class Runtime:
    """Connections, caches and writers. `hold`: seconds in which a stream's status may still become an error's;
    `default_output`: tokens of an answer whose request names no limit."""

    database: Database
    redis: Redis
    listener: ChangeListener
    principals: PrincipalCache
    tenants: TenantCache
    classifying: Classifying
    meter: Meter
    dispatcher: Dispatcher
    ledger: Ledger
    vault: Vault
    drain: Drain

    def __init__(self) -> None:
        self.turns = Turns()
        self.reading = Reading()
        self.under_way = SharedPool("requests", MAX_UNDER_WAY)
        self.room = SharedPool("bytes of requests", MAX_BYTES)
        self.hold = stream_hold()
        self.default_output = default_output()
        self._closing = AsyncExitStack()

    async def open(self) -> None:
        """Connect. What is away is tried again by its own reader; requests are refused with 503 meanwhile."""
        closing = self._closing
        self.classifying = Classifying(own_detector())
        closing.callback(self.classifying.close)
        self.database = Database(size=pool_size())
        await self.database.open()
        closing.push_async_callback(self.database.close)
        self.redis = stores.client()
        closing.push_async_callback(self.redis.aclose)
        self.listener = ChangeListener(settings.DATABASE_URL)
        self.principals = PrincipalCache(self.database, self.listener)
        self.tenants = TenantCache(self.database, self.listener)
        self.dispatcher = Dispatcher(self.database, self.listener)
        closing.push_async_callback(self.principals.close)
        await self.listener.start()
        closing.push_async_callback(self.listener.close)
        self.meter = Meter(self.redis, self.database)
        closing.push_async_callback(self.meter.close)
        self.vault = Vault(self.database)
        self.ledger = Ledger(self.database, self.dispatcher.timings.row_lease)
        closing.push_async_callback(self.ledger.close)
        await self.dispatcher.start()
        closing.push_async_callback(self.dispatcher.close)
        self.drain = Drain()

    async def close(self) -> None:
        """Close everything, in the reverse order."""
        await self._closing.aclose()
