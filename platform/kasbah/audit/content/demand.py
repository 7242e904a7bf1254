"""Erasure on demand: which records a request is about, what stands against it, and destroying their keys.

All in the scope of the tenant, and in the transaction of the caller.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any
from uuid import UUID

from django.db import connection

from kasbah.audit.asked import AskedState
from kasbah.audit.content.erasure import COVERS, ERASE, KEPT, digest_of
from kasbah.audit.models import Erasure
from kasbah.audit.services.events import ActorRef, Event, EventType, Resource
from kasbah.common.errors import Conflict

MOST_TOLD = 500  # requests that an event names
# An event that is still what was signed, or has no place yet; what was altered may be of any shape.
SIGNED = "coalesce(leaf.hash = sha256(decode('00', 'hex') || event.event), true)"
# The actor stands in the event alone. Content is never without its event.
REACH = f"""
    content.tenant_id = %(tenant)s
    AND (%(key)s::uuid IS NULL OR content.key_id = %(key)s)
    AND (%(request)s = '' OR content.request_id = %(request)s)
    AND (%(since)s::timestamptz IS NULL OR content.created_at >= %(since)s)
    AND (%(until)s::timestamptz IS NULL OR content.created_at < %(until)s)
    AND (%(actors)s::text[] IS NULL OR EXISTS (
        SELECT FROM audit_intake AS event LEFT JOIN audit_leaf AS leaf ON leaf.event_id = event.id
        WHERE event.id = content.event_id
        AND CASE WHEN {SIGNED} THEN convert_from(event.event, 'UTF8')::jsonb #>> '{{actor,id}}' END = ANY(%(actors)s)
    ))
"""
NOBODYS = f"""
SELECT content.request_id FROM audit_content AS content JOIN audit_intake AS event ON event.id = content.event_id
LEFT JOIN audit_leaf AS leaf ON leaf.event_id = event.id
WHERE content.tenant_id = %s AND {KEPT} AND NOT {SIGNED} ORDER BY content.id LIMIT 1
"""  # noqa: S608 - constants
FIND = f"""
SELECT content.id, content.request_id, content.data_class, content.created_at FROM audit_content AS content
WHERE {KEPT} AND {REACH} ORDER BY content.id FOR UPDATE OF content
"""  # noqa: S608 - constants
HOLDS = f"""
SELECT DISTINCT hold.id FROM audit_legalhold AS hold JOIN audit_content AS content ON {COVERS}
WHERE {KEPT} AND {REACH} ORDER BY hold.id
"""  # noqa: S608 - constants
KEY = "SELECT id FROM audit_contentkey WHERE tenant_id = %s AND month = %s AND destroyed_at IS NULL FOR UPDATE"
DESTROY = "UPDATE audit_contentkey SET wrapped = NULL, destroyed_at = now(), destroyed_event = %s WHERE id = %s"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What is to go: all that fits every condition which is given. `key` is the month's; `until` is exclusive."""

    tenant_id: UUID
    key: UUID | None = None
    request_id: str = ""
    actors: tuple[str, ...] | None = None
    since: datetime | None = None
    until: datetime | None = None

    @property
    def parameters(self) -> dict[str, Any]:
        """For the SQL above."""
        return {
            "tenant": self.tenant_id,
            "key": self.key,
            "request": self.request_id,
            "actors": None if self.actors is None else list(self.actors),
            "since": self.since,
            "until": self.until,
        }


@dataclass(frozen=True, slots=True)
class Hit:
    """A record that would go."""

    id: UUID
    request_id: str
    data_class: str
    created_at: datetime


def key_of(tenant_id: UUID, month: date) -> UUID | None:
    """The key of a month, locked; None: there is none, or it is destroyed."""
    with connection.cursor() as cursor:
        cursor.execute(KEY, [tenant_id, month])
        row = cursor.fetchone()
    return row[0] if row else None


def find(target: Target) -> list[Hit]:
    """The records that are kept and would go, locked.

    Raises Conflict (log_altered) where a person's are looked for and nobody can say any more whose some are.
    """
    with connection.cursor() as cursor:
        if target.actors is not None:
            cursor.execute(NOBODYS, [target.tenant_id])
            if (row := cursor.fetchone()) is not None:
                raise Conflict(
                    f"The event of request {row[0]} was altered in the database, so nobody can say whose content it"
                    " was. Erase that request by its own id first, and have an operator run: manage.py auditlog check",
                    code="log_altered",
                )
        cursor.execute(FIND, target.parameters)
        return [Hit(*row) for row in cursor.fetchall()]


def holds_on(target: Target) -> list[UUID]:
    """The legal holds that keep any of it."""
    with connection.cursor() as cursor:
        cursor.execute(HOLDS, target.parameters)
        return [row[0] for row in cursor.fetchall()]


def digest(hits: Sequence[Hit]) -> str:
    """Of exactly what would go: see erasure.digest_of."""
    return digest_of([hit.id for hit in hits])


def event(erasure: Erasure, target: Target, hits: Sequence[Hit], actor: ActorRef, request_id: str) -> Event:
    """What tells of the destruction; the requests by name where they are not too many."""
    requests = sorted({hit.request_id for hit in hits})
    return Event(
        type=EventType.CONTENT_ERASED,
        tenant_id=erasure.tenant_id,
        actor=actor,
        resource=Resource("content", f"{len(hits)} records", digest(hits)),
        reason="key_destroyed" if target.key else "erasure_request",
        request_id=request_id,
        details={
            "erasure": str(erasure.id),
            "basis": erasure.basis,
            "records": len(hits),
            "openings_kept": False,
            "requests_count": len(requests),
            **({"requests": requests} if requests and len(requests) <= MOST_TOLD else {}),
            **({"key": str(target.key), "month": str(erasure.month)} if target.key else {}),
        },
    )


def carried_out() -> int:
    """How many requests to erase were carried out, ever. In the platform's scope."""
    return Erasure.objects.filter(state=AskedState.APPROVED).count()


def destroy(target: Target, hits: Sequence[Hit], told: UUID) -> None:
    """Destroy the month's key, or the keys, openings and bytes of these records. `told` is the event, recorded."""
    with connection.cursor() as cursor:
        if target.key is not None:
            cursor.execute(DESTROY, [told, target.key])
        else:
            statement = ERASE.format(opening="opening = NULL,")
            cursor.execute(statement, ["erasure_request", told, [hit.id for hit in hits]])
