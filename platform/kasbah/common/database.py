"""The asynchronous side's own connections: the gateway and the dispatcher speak SQL through them, never the ORM.

A connection is lent for one transaction and given back before anything is streamed.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID
from weakref import WeakKeyDictionary

import psycopg
from django.conf import settings
from django.db import InterfaceError as DjangoInterfaceError
from django.db import OperationalError as DjangoOperationalError
from psycopg import AsyncConnection, InterfaceError, OperationalError
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from kasbah.common import rls
from kasbah.common.errors import Unavailable
from kasbah.common.shares import FairQueue

Connection = AsyncConnection[tuple[Any, ...]]
RESTED = 0.5  # seconds


# By the driver's and by Django's names; what Django wraps is the cause. A standby that has not been promoted, and a
# server that ended the session in the middle, are InternalErrors.
AWAY = (OperationalError, InterfaceError, PoolTimeout, DjangoOperationalError, DjangoInterfaceError)
TAKES_NO_WRITES = psycopg.errors.ReadOnlySqlTransaction
ENDED = psycopg.errors.IdleInTransactionSessionTimeout


def unavailable(error: BaseException) -> Unavailable | None:
    """What a caller is told where an error means that the database cannot do it now; None for every other error."""
    for each in (error, error.__cause__):
        if isinstance(each, TAKES_NO_WRITES):
            return Unavailable("The database takes no writes now; nothing was done. Try again.", retry_after=5)
        if isinstance(each, (*AWAY, ENDED)):
            return Unavailable("The database is away; nothing was done. Try again.", retry_after=2)
    return None


class Database:
    """A small pool; `transaction` is the only way in. Tenants that wait for a connection take turns."""

    def __init__(self, size: int = 4, wait: float = 5.0) -> None:
        self._used: WeakKeyDictionary[Connection, float] = WeakKeyDictionary()
        self._turns = FairQueue("A connection to the database", size, wait)
        self._pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
            settings.DATABASE_URL,
            min_size=1,
            max_size=size,
            timeout=wait,
            open=False,
            check=self._check,
            kwargs={"autocommit": True},
        )

    async def _check(self, connection: Connection) -> None:
        """Ask a connection that has rested whether it lives; one that was used just now is not asked."""
        if time.monotonic() - self._used.get(connection, 0.0) > RESTED:
            await AsyncConnectionPool.check_connection(connection)

    async def open(self) -> None:
        """Connect in the background; the first use waits."""
        await self._pool.open()

    async def close(self) -> None:
        """Give all connections up."""
        await self._pool.close(timeout=2)

    @asynccontextmanager
    async def transaction(self, tenant: UUID | None, caller: Hashable = None) -> AsyncIterator[Connection]:
        """A transaction that speaks for `tenant`, or for the platform when None. Raises Unavailable.

        `caller`: who takes turns with others for a connection, if it is not the tenant.
        """
        try:
            async with self._turns.turn(caller or tenant), self._pool.connection() as connection:
                async with connection.transaction():
                    if tenant is None:
                        await connection.execute(rls.SET_PLATFORM)
                    else:
                        await connection.execute(rls.SET_TENANT, [str(tenant)])
                    yield connection
                self._used[connection] = time.monotonic()
        except (psycopg.Error, PoolTimeout) as error:
            if (away := unavailable(error)) is None:
                raise
            raise away from error
