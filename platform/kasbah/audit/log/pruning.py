"""Pruning: the bytes of old events go, by a policy that two persons agreed to; their leaves, and so the tree, stay.

The database says which may go (the view audit_prunable) and removes them (the function audit_prune, migration 0013).
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from uuid import UUID

from django.db import connection

from kasbah.audit.content.erasure import settle
from kasbah.audit.log.models import Leaf, Log, Pruned, PruningPolicy
from kasbah.audit.services.events import ActorRef, Event, EventType, Resource
from kasbah.audit.services.intake import record
from kasbah.common import exclusive

BATCH = 5_000  # events in one transaction, with one event that tells of them
RANGES = 500  # that an event names
FIND = """
SELECT log_id, index, hash FROM audit_prunable WHERE policy_id = %s ORDER BY event_id LIMIT %s
"""
# What tells of it has its place in the log, or will get one.
TOLD = """
SELECT told.id, told.event FROM audit_intake AS told WHERE told.type = %s AND told.id = ANY(%s) AND (
    EXISTS (SELECT FROM audit_leaf AS leaf WHERE leaf.event_id = told.id AND leaf.log_id = %s)
    OR told.tenant_id = %s AND (told.era, told.xid, told.id) > (
        SELECT reached.era, reached.xid, reached.event_id FROM audit_cursor AS reached
    )
)
"""
PRUNE = "SELECT audit_prune(%s, %s, %s::bigint[], %s::bigint[])"


def prune_batch(policy: PruningPolicy, actor: ActorRef) -> int:
    """Remove up to 5,000 events, in the transaction of the caller, whose scope sees the tenant; answers how many.

    0: none may go now, or somebody exports or checks the log, for whom nothing goes in the middle.
    """
    settle(policy.tenant_id)
    if not exclusive.hold_now(_reading(policy.tenant_id)):
        return 0
    with connection.cursor() as cursor:
        cursor.execute(FIND, [policy.pk, BATCH])
        found = sorted((index, bytes(digest), log) for log, index, digest in cursor.fetchall())
        if not found:
            return 0
        runs = ranges([index for index, _, _ in found])[:RANGES]
        leaves = [digest for index, digest, _ in found if index < runs[-1][1]]
        event = record(
            Event(
                type=EventType.LOG_PRUNED,
                tenant_id=policy.tenant_id,
                actor=actor,
                resource=Resource("audit_events", f"{runs[0][0]}..{runs[-1][1]}", digest_of(leaves)),
                details={
                    "ranges": [f"{start}-{end}" for start, end in runs],
                    "events": len(leaves),
                    "keep_days": policy.keep_days,
                    "policy_event": str(policy.event_id),
                },
            )
        )
        log: UUID = found[0][2]
        cursor.execute(PRUNE, [log, event.id, [start for start, _ in runs], [end for _, end in runs]])
    return len(leaves)


def keep_while_read(tenant_id: UUID | None) -> None:
    """Let nothing of a log be pruned until the transaction of the caller, which reads it, ends."""
    exclusive.hold(_reading(tenant_id), shared=True)


def _reading(tenant_id: UUID | None) -> str:
    return f"log-read:{tenant_id}"


def ranges(indices: Sequence[int]) -> list[tuple[int, int]]:
    """Sorted indices as ranges, `end` exclusive."""
    found: list[tuple[int, int]] = []
    for index in indices:
        if found and found[-1][1] == index:
            found[-1] = (found[-1][0], index + 1)
        else:
            found.append((index, index + 1))
    return found


def digest_of(leaves: Sequence[bytes]) -> str:
    """SHA-256 in hex over leaf hashes in the order of the log."""
    return hashlib.sha256(b"".join(leaves)).hexdigest()


class PrunedRanges:
    """What was pruned of a log, and whether the log says so. In a scope that sees it; leaves come in their order."""

    def __init__(self, log: Log) -> None:
        self._origin = log.origin
        rows = list(Pruned.objects.filter(log=log).order_by("start"))
        self._starts = [row.start for row in rows]
        self._rows = rows
        self._untold: set[int] = set()  # starts of ranges that no event tells of, of which events are gone
        self._seen = {row.event_id: hashlib.sha256() for row in rows}
        with connection.cursor() as cursor:
            cursor.execute(TOLD, [EventType.LOG_PRUNED.value, list(self._seen), log.pk, log.tenant_id])
            self._told = {ident: _said(bytes(event)) for ident, event in cursor.fetchall()}

    def covers(self, leaf: Leaf) -> bool:
        """Whether the event of this leaf went by a policy, as an event of the log says."""
        at = bisect_right(self._starts, leaf.index) - 1
        row = self._rows[at] if at >= 0 else None
        if row is None or leaf.index >= row.end:
            return False
        self._seen[row.event_id].update(bytes(leaf.hash))
        if not self._tells(row):
            self._untold.add(row.start)
            return False
        return True

    def _tells(self, row: Pruned) -> bool:
        ranges, _ = self._told.get(row.event_id, ((), ""))
        return f"{row.start}-{row.end}" in ranges

    def problems(self) -> Iterator[str]:
        """Where the leaves of what is gone are not those that the event names. To be asked after all leaves."""
        for row in self._rows:
            if not self._tells(row) and row.start not in self._untold:  # else each event that is gone was named
                yield f"{self._origin}: no event tells that {row.start} to {row.end} were pruned, and a row says it"
        for event, seen in self._seen.items():
            _, digest = self._told.get(event, ((), ""))
            if digest and digest != seen.hexdigest():
                yield f"{self._origin}: event {event} says that other events were pruned than those that are gone"


def _said(event: bytes) -> tuple[tuple[str, ...], str]:
    """The ranges and the digest that an event of type log.pruned names; of what is none, nothing."""
    try:
        said = json.loads(event)
        return tuple(map(str, said["details"]["ranges"])), str(said["resource"]["digest"])
    except (ValueError, LookupError, TypeError, RecursionError):
        return (), ""
