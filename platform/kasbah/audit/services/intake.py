"""The first of the log's two steps: an event is committed together with what it tells of.

What the database has stored is compared with what was to be stored before the transaction ends: the receipt promises
these very bytes, and whatever a session's settings or a trigger makes of them is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

import psycopg
from django.conf import settings
from django.db import connection as django_connection

from kasbah.audit.log.merkle import leaf_hash
from kasbah.audit.services.events import Event
from kasbah.common import rls
from kasbah.common.database import Connection
from kasbah.common.errors import Unavailable

# The leaf's hash (RFC 6962) without a backslash: what one means is a setting of the session.
INSERT_ONE = (
    "INSERT INTO audit_intake (id, tenant_id, type, request_id, event) VALUES (%s, %s, %s, %s, %s) "
    "RETURNING id, sha256(decode('00', 'hex') || event)"
)
# One statement whatever the number of events, so that it is prepared once.
INSERT_MANY = (
    "INSERT INTO audit_intake (id, tenant_id, type, request_id, event) "
    "SELECT * FROM unnest(%s::uuid[], %s::uuid[], %s::text[], %s::text[], %b::bytea[]) "
    "RETURNING id, sha256(decode('00', 'hex') || event)"
)


class NotInTransaction(RuntimeError):
    """An event was to be recorded outside a transaction, where it could be kept without its action or lost with it."""


class StoredOtherwise(Unavailable):
    """The database stored other bytes than it was given: nothing may be committed."""

    code = "not_recorded"


def record(event: Event) -> Event:
    """Write `event` in the transaction of the action it tells of. Raises NotInTransaction, EventTooLarge,
    StoredOtherwise.

    The transaction must speak for the event's tenant; for an event without tenant, for the platform.
    """
    if not django_connection.in_atomic_block:
        raise NotInTransaction(f"{event.type} must be recorded in the transaction of its action.")
    with django_connection.cursor() as cursor:
        cursor.execute(INSERT_ONE, _row(event))
        _compare([event], cursor.fetchall())
    return event


def record_apart(*events: Event) -> None:
    """Write `events` in a transaction of their own, which outlives the caller's: for what was refused.

    The caller's error rolls its transaction back, and a refusal must stay on record. It has a connection of its own
    too, so that refusals never wait for a pool that their own requests have emptied. Raises psycopg.Error,
    StoredOtherwise.
    """
    with psycopg.connect(settings.DATABASE_URL, connect_timeout=5) as connection:
        connection.execute(rls.SET_PLATFORM)
        for event in events:
            _compare([event], connection.execute(INSERT_ONE, _row(event)).fetchall())


def _row(event: Event) -> list[UUID | str | bytes | None]:
    return [event.id, event.tenant_id, event.type.value, event.request_id, event.encoded]


async def insert(connection: Connection, events: Sequence[Event]) -> None:
    """Write `events`, of any tenants, in the transaction of `connection`, which speaks for the platform.

    Raises StoredOtherwise.
    """
    if events:
        stored = await connection.execute(
            INSERT_MANY,
            [
                [event.id for event in events],
                [event.tenant_id for event in events],
                [event.type.value for event in events],
                [event.request_id for event in events],
                [event.encoded for event in events],
            ],
        )
        _compare(events, await stored.fetchall())


def _compare(events: Sequence[Event], stored: Iterable[tuple[Any, ...]]) -> None:
    if {ident: bytes(leaf) for ident, leaf in stored} != {event.id: leaf_hash(event.encoded) for event in events}:
        raise StoredOtherwise(
            "The database stores other bytes than it is given; nothing was done. Its log and the settings of its role "
            "say why.",
            retry_after=5,
        )
