"""The data keys of tenants, one a month: made when first needed, wrapped in the database, open in memory briefly."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from uuid import UUID

from django.db import connection
from psycopg import DatabaseError

from inference_worker.contract.sealing import CannotOpen
from kasbah.common import sealed
from kasbah.common.database import Connection, Database
from kasbah.common.errors import Unavailable
from kasbah.common.ids import uuid7

KEPT_FOR = 15.0  # seconds that a key stays open in memory: a destroyed one is forgotten everywhere after as long
MOST = 10_000
TABLE, COLUMN = "audit_contentkey", "wrapped"
FIND = "SELECT id, wrapped FROM audit_contentkey WHERE tenant_id = %s AND month = %s AND destroyed_at IS NULL"
MAKE = "INSERT INTO audit_contentkey (id, tenant_id, month, wrapped) VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING"


@dataclass(frozen=True, slots=True)
class MonthKey:
    """A tenant's data key of a month: 32 bytes."""

    id: UUID
    tenant_id: UUID
    key: bytes = field(repr=False)


class Vault:
    """The keys of this month, for the asynchronous side."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._clock = clock
        self._open: dict[tuple[UUID, date], tuple[float, MonthKey]] = {}

    async def key(self, tenant_id: UUID) -> MonthKey:
        """The key that seals now. Raises Unavailable."""
        month = datetime.now(UTC).date().replace(day=1)
        known = self._open.get((tenant_id, month))
        if known is not None and self._clock() - known[0] < KEPT_FOR:
            return known[1]
        asked = self._clock()
        try:
            async with self._database.transaction(tenant_id) as connection:
                found = await _find(connection, tenant_id, month) or await _make(connection, tenant_id, month)
        except CannotOpen as error:
            raise Unavailable(
                "The key for this tenant's content cannot be opened: KASBAH_KEK is not the key that sealed it."
            ) from error
        except DatabaseError as error:
            raise Unavailable(
                "What must be recorded could not be; nothing was done. Try again.", code="not_recorded", retry_after=2
            ) from error
        if len(self._open) >= MOST:
            self._open.clear()
        self._open[tenant_id, month] = (asked, found)
        return found


async def _find(connection: Connection, tenant_id: UUID, month: date) -> MonthKey | None:
    row = await (await connection.execute(FIND, [tenant_id, month])).fetchone()
    return None if row is None else MonthKey(row[0], tenant_id, unwrap(tenant_id, row[0], row[1]))


async def _make(connection: Connection, tenant_id: UUID, month: date) -> MonthKey:
    """Another process may make it at the same moment: what is committed is the key."""
    ident = uuid7()
    await connection.execute(MAKE, [ident, tenant_id, month, wrap(tenant_id, ident, os.urandom(32))])
    found = await _find(connection, tenant_id, month)
    if found is None:
        raise Unavailable("The key for this tenant's content was destroyed at this moment. Try again.", retry_after=1)
    return found


def current(tenant_id: UUID) -> MonthKey:
    """The key that seals now, for Django's side, in a scope that sees the tenant. Raises CannotOpen."""
    month = datetime.now(UTC).date().replace(day=1)
    with connection.cursor() as cursor:
        ident = uuid7()
        cursor.execute(MAKE, [ident, tenant_id, month, wrap(tenant_id, ident, os.urandom(32))])
        cursor.execute(FIND, [tenant_id, month])
        ident, wrapped = cursor.fetchone()
    return MonthKey(ident, tenant_id, unwrap(tenant_id, ident, wrapped))


def wrap(tenant_id: UUID, key_id: UUID, key: bytes) -> bytes:
    """The key under the key-encryption key, bound to its tenant and row."""
    return sealed.seal(key, table=TABLE, row=f"{tenant_id}:{key_id}", column=COLUMN)


def unwrap(tenant_id: UUID, key_id: UUID, wrapped: bytes | memoryview) -> bytes:
    """The reverse of `wrap`. Raises CannotOpen."""
    return sealed.unseal(wrapped, table=TABLE, row=f"{tenant_id}:{key_id}", column=COLUMN)
