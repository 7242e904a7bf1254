"""Hearing of changes: PostgreSQL announces each one at commit (LISTEN), so that nothing kept in memory goes stale.

Payloads are `<topic>:<ident>`, written by triggers (kasbah.common.schema.NotifyChanges):

| topic | ident |
| --- | --- |
| key, project, tenant, site, worker, baseline, signing_key | the object's id |
| deployment | the deployment's id, for its sites and grants too |
| policy, limit | the id of the tenant whose policy or limit changed |

After a connection was lost anything may have been missed: subscribers then get ("*", "*") and forget everything.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable

from psycopg import AsyncConnection, Error

from kasbah.common.schema import CHANNEL
from kasbah.common.tasks import stop

Callback = Callable[[str, str], None]
BEAT = 0.3  # seconds between two proofs that the connection lives
DEAD_AFTER = 1.0  # seconds without such a proof, after which what is kept may be stale

logger = logging.getLogger(__name__)


class ChangeListener:
    """One connection that listens. While `healthy` is false nobody may trust what was kept before."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._callbacks: list[Callback] = []
        self._task: asyncio.Task[None] | None = None
        self._connected = asyncio.Event()
        self._alive_at = float("-inf")

    @property
    def healthy(self) -> bool:
        """Whether every change committed more than a second ago has been told to the subscribers."""
        return time.monotonic() - self._alive_at < DEAD_AFTER

    def subscribe(self, callback: Callback) -> None:
        """Call `callback(topic, ident)` at each change; it runs in the event loop and must be quick."""
        self._callbacks.append(callback)

    async def start(self) -> None:
        """Listen in the background; returns once connected, or after a second without success."""
        self._task = asyncio.create_task(self._run(), name="change-listener")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                await self._connected.wait()

    async def close(self) -> None:
        """Stop listening."""
        if self._task is not None:
            await stop(self._task)
        self._alive_at = float("-inf")

    async def _run(self) -> None:
        pause = 0.1
        while True:
            try:
                async with asyncio.timeout(5):
                    connection = await AsyncConnection.connect(self._dsn, autocommit=True)
                async with connection:
                    pause = 0.1
                    await self._listen(connection)
            except (Error, OSError, TimeoutError) as error:
                # The message of a connection error names the host and never the password.
                logger.warning("Not listening for changes, caches are bypassed: %s", str(error).splitlines()[:1])
            self._alive_at = float("-inf")
            await asyncio.sleep(pause)
            pause = min(pause * 2, 2.0)

    async def _listen(self, connection: AsyncConnection[tuple[object, ...]]) -> None:
        await connection.execute(f"LISTEN {CHANNEL}")
        self._tell("*", "*")
        while True:
            # An answer to a question asked at `asked` comes after every announcement committed before it.
            asked = time.monotonic()
            async with asyncio.timeout(DEAD_AFTER):
                await connection.execute("SELECT 1")
            async for notify in connection.notifies(timeout=0):
                self._tell(*notify.payload.partition(":")[::2])
            self._alive_at = asked
            self._connected.set()
            async for notify in connection.notifies(timeout=BEAT):
                self._tell(*notify.payload.partition(":")[::2])

    def _tell(self, topic: str, ident: str) -> None:
        for callback in self._callbacks:
            try:
                callback(topic, ident)
            except Exception:
                logger.exception("A subscriber failed on the change %s", topic)
