"""Which records are due, and erasing them in batches: each batch its own transaction with its own event.

What is erased is gone from the table; the row stays and says when, why and in which event. The database refuses to
erase under a legal hold whatever this asks for (migration 0004).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import connection

from kasbah.audit.content.records import COMMITMENT, NONE, SEALED
from kasbah.audit.services.events import ActorRef, Event, EventType, Resource, rfc3339
from kasbah.audit.services.intake import record
from kasbah.common import exclusive

BATCH = 500
FOR_EVER = 36_500  # days
COVERS = """(
    hold.tenant_id = content.tenant_id AND hold.released_at IS NULL
    AND (hold.project_id IS NULL OR hold.project_id = content.project_id)
    AND (hold.data_class = '' OR hold.data_class = content.data_class)
    AND (hold.request_id = '' OR hold.request_id = content.request_id)
    AND (hold.since IS NULL OR content.created_at >= hold.since)
    AND (hold.until IS NULL OR content.created_at < hold.until)
)"""
HELD = f"EXISTS (SELECT FROM audit_legalhold AS hold WHERE {COVERS})"
# Of the row `job` with tenant_id and request_id: something of its content was erased, by the clock or on demand. Then
# no copy of it may be given out either, wherever one lies.
ERASED = """EXISTS (
    SELECT FROM audit_content AS content JOIN audit_contentkey AS key ON key.id = content.key_id
    WHERE content.tenant_id = job.tenant_id AND content.request_id = job.request_id
    AND (content.erased_at IS NOT NULL OR key.destroyed_at IS NOT NULL)
)"""
KEPT = """(
    (content.opening IS NOT NULL OR content.ciphertext IS NOT NULL)
    AND NOT EXISTS (
        SELECT FROM audit_contentkey AS key WHERE key.id = content.key_id AND key.destroyed_at IS NOT NULL
    )
)"""
# Both are days after which, but for a hold, all of a record goes: the ceiling when it was stored or the one of now,
# whichever is sooner, and never before the floor of now. NULL: no ceiling is given (LEAST and GREATEST skip it).
ALL_DUE = """(
    coalesce(%(at_once)s, false) AND content.created_at <= now() - make_interval(days => %(floor)s)
    OR content.created_at <= now() - make_interval(days => greatest(
        %(floor)s, least(nullif(content.ceiling_days, 0), %(ceiling)s::int)))
    AND num_nonnulls(nullif(content.ceiling_days, 0), %(ceiling)s::int) > 0
)"""
BYTES_DUE = """(
    %(bytes_go)s AND content.ciphertext IS NOT NULL
    AND content.created_at <= now() - make_interval(days => %(floor)s)
)"""
FIND = """
SELECT content.id, content.created_at FROM audit_content AS content
WHERE content.tenant_id = %(tenant)s AND content.data_class = %(data_class)s AND {kept} AND {due} AND NOT {held}
ORDER BY content.created_at, content.id LIMIT %(batch)s FOR UPDATE OF content SKIP LOCKED
"""
ERASE = """
UPDATE audit_content SET {opening} record_key = NULL, ciphertext = NULL,
    erased_at = now(), erased_reason = %s, erased_event = %s WHERE id = ANY(%s)
"""
COUNT = f"""
SELECT count(*) FILTER (WHERE content.ciphertext IS NOT NULL), count(*), min(content.created_at),
    count(*) FILTER (WHERE ({ALL_DUE} OR {BYTES_DUE}) AND NOT {HELD}), count(*) FILTER (WHERE {HELD})
FROM audit_content AS content
WHERE content.tenant_id = %(tenant)s AND content.data_class = %(data_class)s AND {KEPT}
"""  # noqa: S608 - constants


# What hung on a key that was destroyed is waste; its event was told with the key.
CLEAR = f"""
UPDATE audit_content AS content SET opening = NULL, record_key = NULL, ciphertext = NULL,
    erased_at = key.destroyed_at, erased_reason = 'key_destroyed', erased_event = key.destroyed_event
FROM audit_contentkey AS key
WHERE content.id IN (
    SELECT content.id FROM audit_content AS content JOIN audit_contentkey AS key ON key.id = content.key_id
    WHERE content.tenant_id = %s AND key.destroyed_event IS NOT NULL
    AND (content.opening IS NOT NULL OR content.ciphertext IS NOT NULL) AND NOT {HELD}
    LIMIT {BATCH} FOR UPDATE OF content SKIP LOCKED
) AND key.id = content.key_id
"""  # noqa: S608 - constants


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What holds for one class of one tenant. `ceiling_days` 0: none is given, which for `sealed` means at once."""

    tenant_id: UUID
    data_class: str
    level: str
    floor_days: int
    ceiling_days: int
    policy_id: str
    policy_version: int

    @property
    def parameters(self) -> dict[str, Any]:
        """For the SQL above."""
        ceiling = self.ceiling_days if self.ceiling_days or self.level == SEALED else None
        return {
            "tenant": self.tenant_id,
            "data_class": self.data_class,
            "at_once": self.level == NONE,
            "bytes_go": self.level == COMMITMENT,
            "floor": self.floor_days,
            "ceiling": ceiling,
            "batch": BATCH,
        }


@dataclass(frozen=True, slots=True)
class Kept:
    """What is kept of one class: records with their bytes, records in all, and of these the due and the held."""

    sealed: int
    records: int
    oldest: datetime | None
    due: int
    held: int


def settle(tenant_id: UUID) -> None:
    """Let nobody else erase, prune or place a hold in this tenant until the transaction of the caller ends.

    So whoever looks for holds misses none that is placed in the same instant.
    """
    exclusive.hold(f"kept:{tenant_id}")


def count(rule: Rule) -> Kept:
    """What is kept under `rule`, in a scope that sees the tenant."""
    with connection.cursor() as cursor:
        cursor.execute(COUNT, rule.parameters)
        return Kept(*cursor.fetchone())


def erase_batch(rule: Rule, actor: ActorRef) -> int:
    """Erase up to 500 records that are due, in the transaction of the caller, whose scope sees the tenant.

    Answers how many; 0: nothing is due any more.
    """
    settle(rule.tenant_id)
    reason = "level_none" if rule.level == NONE else "ceiling"
    return _erase(rule, actor, ALL_DUE, reason, opening=False) or (
        _erase(rule, actor, BYTES_DUE, "level_commitment", opening=True)
    )


def clear_batch(tenant_id: UUID) -> int:
    """Remove up to 500 rests of what hung on destroyed keys; answers how many. In a scope that sees the tenant."""
    with connection.cursor() as cursor:
        cursor.execute(CLEAR, [tenant_id])
        return int(cursor.rowcount)


def _erase(rule: Rule, actor: ActorRef, due: str, reason: str, *, opening: bool) -> int:
    with connection.cursor() as cursor:
        cursor.execute(FIND.format(kept=KEPT, due=due, held=HELD), rule.parameters)
        found = cursor.fetchall()
        if not found:
            return 0
        event = _event(rule, actor, found, reason, opening)
        statement = ERASE.format(opening="" if opening else "opening = NULL,")
        cursor.execute(statement, [reason, event.id, [row[0] for row in found]])
    record(event)
    return len(found)


def _event(rule: Rule, actor: ActorRef, found: list[tuple[UUID, datetime]], reason: str, opening: bool) -> Event:
    return Event(
        type=EventType.CONTENT_ERASED,
        tenant_id=rule.tenant_id,
        actor=actor,
        resource=Resource("content", f"{len(found)} records", digest_of([ident for ident, _ in found])),
        reason=reason,
        details={
            "data_class": rule.data_class,
            "records": len(found),
            "from": rfc3339(found[0][1]),
            "to": rfc3339(found[-1][1]),
            "openings_kept": opening,
            "policy": f"{rule.policy_id}@{rule.policy_version}",
            "floor_days": rule.floor_days,
            "ceiling_days": rule.ceiling_days,
        },
    )


def digest_of(records: list[UUID]) -> str:
    """SHA-256 in hex over the ids, sorted, each with a line feed: rows name their event, so it can be made again."""
    return hashlib.sha256("".join(f"{ident}\n" for ident in sorted(map(str, records))).encode()).hexdigest()
