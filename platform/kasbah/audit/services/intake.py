"""The first of the log's two steps: an event is committed together with what it tells of."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import psycopg
from django.conf import settings
from django.db import connection as django_connection

from kasbah.audit.services.events import Event
from kasbah.common import rls
from kasbah.common.database import Connection

INSERT_ONE = "INSERT INTO audit_intake (id, tenant_id, type, request_id, event) VALUES (%s, %s, %s, %s, %s)"
# One statement whatever the number of events, so that it is prepared once.
INSERT_MANY = (
    "INSERT INTO audit_intake (id, tenant_id, type, request_id, event) "
    "SELECT * FROM unnest(%s::uuid[], %s::uuid[], %s::text[], %s::text[], %s::bytea[])"
)


class NotInTransaction(RuntimeError):
    """An event was to be recorded outside a transaction, where it could be kept without its action or lost with it."""


def record(event: Event) -> Event:
    """Write `event` in the transaction of the action it tells of. Raises NotInTransaction, EventTooLarge.

    The transaction must speak for the event's tenant; for an event without tenant, for the platform.
    """
    if not django_connection.in_atomic_block:
        raise NotInTransaction(f"{event.type} must be recorded in the transaction of its action.")
    with django_connection.cursor() as cursor:
        cursor.execute(INSERT_ONE, _row(event))
    return event


def record_apart(*events: Event) -> None:
    """Write `events` in a transaction of their own, which outlives the caller's: for what was refused.

    The caller's error rolls its transaction back, and a refusal must stay on record. It has a connection of its own
    too, so that refusals never wait for a pool that their own requests have emptied.
    """
    with psycopg.connect(settings.DATABASE_URL, connect_timeout=5) as connection:
        connection.execute(rls.SET_PLATFORM)
        for event in events:
            connection.execute(INSERT_ONE, _row(event))


def _row(event: Event) -> list[UUID | str | bytes | None]:
    return [event.id, event.tenant_id, event.type.value, event.request_id, event.encoded]


async def insert(connection: Connection, events: Sequence[Event]) -> None:
    """Write `events`, of any tenants, in the transaction of `connection`, which speaks for the platform."""
    if events:
        await connection.execute(
            INSERT_MANY,
            [
                [event.id for event in events],
                [event.tenant_id for event in events],
                [event.type.value for event in events],
                [event.request_id for event in events],
                [event.encoded for event in events],
            ],
        )
