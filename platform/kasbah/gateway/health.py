"""/healthz: the process answers. /readyz: whether it can serve, and if not, what is away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from uuid import UUID

import msgspec
from redis.exceptions import RedisError

from kasbah.common import stores
from kasbah.common.errors import Unavailable
from kasbah.gateway.exchange import Exchange
from kasbah.gateway.runtime import Runtime
from kasbah.residency.services import load_sites

PATIENCE = 2.0  # seconds for each part
FRESH = 1.0  # seconds a finding is given again: nobody can load the database by asking

ALIVE = b'{"status":"ok"}'


async def alive(exchange: Exchange) -> None:
    """200 while the event loop turns."""
    await exchange.answer(200, ALIVE)


class Readiness:
    """What was found of the parts, at most a second ago."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._found: dict[str, str] = {}
        self._found_at = float("-inf")
        self._looking = asyncio.Lock()

    async def answer(self, exchange: Exchange) -> None:
        """200 or 503, with one word for each part: "ok", or what is wrong."""
        async with self._looking:
            if time.monotonic() - self._found_at > FRESH:
                self._found = await self._look()
                self._found_at = time.monotonic()
        parts = dict(self._found)
        if self._runtime.drain.begun:
            parts["server"] = "shutting down"
        ready = all(state == "ok" or part == "changes" for part, state in parts.items())
        body = {"status": "ready" if ready else "not ready", "parts": parts}
        await exchange.answer(200 if ready else 503, msgspec.json.encode(body))

    async def _look(self) -> dict[str, str]:
        (database, sites), store = await asyncio.gather(self._database(), self._store())
        return {
            "database": database,
            "store": store,
            # Without announcements nothing kept is used: slower, not wrong.
            "changes": "ok" if self._runtime.listener.healthy else "not listening, caches are bypassed",
            "sites": self._state_of(sites),
        }

    def _state_of(self, sites: Collection[UUID]) -> str:
        capacity = self._runtime.dispatcher.capacity
        if not sites or any(capacity.is_up(site) for site in sites):
            return "ok"
        reasons = sorted({reason for site in sites if (reason := capacity.reason(site))})
        return f"none of {len(sites)} can be reached" + (f" ({'; '.join(reasons)})" if reasons else "")

    async def _database(self) -> tuple[str, tuple[UUID, ...]]:
        """How the database is, and the ids of the active sites."""
        try:
            async with asyncio.timeout(PATIENCE), self._runtime.database.transaction(None) as connection:
                asked = await connection.execute("SELECT current_setting('transaction_read_only')")
                state = "ok" if await asked.fetchone() == ("off",) else "read-only"
                return state, tuple(site.id for site in await load_sites(connection))
        except (Unavailable, TimeoutError):
            return "away", ()

    async def _store(self) -> str:
        try:
            async with asyncio.timeout(PATIENCE):
                return await stores.problem(self._runtime.redis) or "ok"
        except (RedisError, OSError, TimeoutError):
            return "away"
