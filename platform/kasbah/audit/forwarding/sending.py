"""One run of forwarding: each destination in a thread of its own, batch after batch, until nothing waits or time is up.

What was taken is noted after the receiver took it, so a crash in between sends the same events again, with the same
ids, and never skips one. Nothing here touches the intake: a receiver that is away only lets its own position stand.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from uuid import UUID

import httpx
from django.db import connection
from django.db.models import F, Q
from django.utils import timezone

from inference_worker.contract.sealing import CannotOpen
from kasbah.audit.forwarding import https, syslog
from kasbah.audit.forwarding.destination import Destination, Item, NotTaken, reason
from kasbah.audit.forwarding.models import Forwarder, ForwarderPosition, Kind
from kasbah.audit.log.merkle import leaf_hash
from kasbah.audit.log.models import Log
from kasbah.common import rls, sealed
from kasbah.common.isolation import Isolation
from kasbah.common.parallel import run_each

TABLE = "audit_forwarder"
EVENTS, BYTES = 500, 1024 * 1024  # of one batch; a single larger event goes alone
TIMEOUT = 5.0  # seconds that a receiver has for one batch
RUN = 5.0  # seconds after which a run begins no further batch
PARALLEL = 4  # destinations at once; each takes a connection of the pool
LONGEST_PAUSE = 300  # seconds
NAMED = 3  # altered events that a message names

Send = Callable[[Destination, Sequence[Item], float], None]
SENDERS: dict[str, Send] = {Kind.SYSLOG_TLS: syslog.send, Kind.OCSF_HTTPS: https.send}
READ = """
    SELECT leaf.index, leaf.hash, intake.event
    FROM audit_leaf AS leaf LEFT JOIN audit_intake AS intake ON intake.id = leaf.event_id
    WHERE leaf.log_id = %s AND leaf.index >= %s ORDER BY leaf.index LIMIT %s
"""
WAITING = """
    SELECT coalesce(sum(greatest(log.size - coalesce(position.taken, 0), 0)), 0)
    FROM audit_log AS log
    LEFT JOIN audit_forwarderposition AS position ON position.log_id = log.id AND position.forwarder_id = %s
    WHERE %s::uuid IS NULL OR log.tenant_id = %s
"""

logger = logging.getLogger(__name__)
isolation = Isolation(logger)


@dataclass(slots=True)
class Batch:
    """Events of one or more logs, in the order of each; `reached`: leaves of each log that are taken with it."""

    forwarder: Forwarder
    items: list[Item] = field(default_factory=list)
    reached: dict[Log, int] = field(default_factory=dict)
    bytes: int = 0
    pruned: int = 0
    altered: list[str] = field(default_factory=list)  # events that are not those that were signed, by log and place


def forward() -> int:
    """Send what waits, to every destination whose time it is; how many events were taken."""
    end = time.monotonic() + RUN
    with rls.platform_scope():
        due = Q(retry_at=None) | Q(retry_at__lte=timezone.now())
        idents = list(Forwarder.objects.filter(due, enabled=True).order_by("id").values_list("id", flat=True))
    return run_each(lambda ident: _run_apart(ident, end), idents, parallel=PARALLEL, name="forward")


def deliver(destination: Destination, items: Sequence[Item]) -> None:
    """Send within TIMEOUT. Raises NotTaken, and nothing else for what a receiver or a network can do."""
    try:
        SENDERS[destination.kind](destination, items, time.monotonic() + TIMEOUT)
    except (OSError, httpx.HTTPError) as error:
        raise NotTaken(reason(error)) from error


def opened(row: Forwarder) -> Destination:
    """The destination with its secrets. Raises NotTaken."""
    try:
        key, value = (
            sealed.unseal(box, table=TABLE, row=row.id, column=column).decode() if box else ""
            for column, box in (
                ("client_key_sealed", row.client_key_sealed),
                ("header_value_sealed", row.header_value_sealed),
            )
        )
    except CannotOpen as error:
        raise NotTaken("its secrets cannot be opened with KASBAH_KEK; give them again") from error
    return Destination(
        row.kind, row.address, row.ca_certificate, row.client_certificate, key, row.header_name, value
    )  # fmt: skip


def waiting(row: Forwarder) -> int:
    """How many sequenced events a destination has not taken. In the platform's scope."""
    with connection.cursor() as cursor:
        cursor.execute(WAITING, [row.id, row.tenant_id, row.tenant_id])
        found = cursor.fetchone()
    return int(found[0]) if found else 0


def logs_of(row: Forwarder) -> list[Log]:
    """The logs that a destination gets."""
    logs = Log.objects.order_by("id")
    return list(logs if row.tenant_id is None else logs.filter(tenant_id=row.tenant_id))


def _run_apart(ident: UUID, end: float) -> int:
    """What nobody foresaw is one destination's fault, is logged and keeps the others from nothing."""
    with isolation.apart(f"Forwarder {ident}"):
        return _run(ident, end)
    return 0


def _run(ident: UUID, end: float) -> int:
    """Batch after batch for one destination."""
    done = 0
    while (batch := _next(ident)) is not None:
        try:
            if batch.items:
                deliver(opened(batch.forwarder), batch.items)
        except NotTaken as error:
            _failed(batch.forwarder, error)
            break
        _taken(batch)
        done += len(batch.items)
        if time.monotonic() > end:
            break
    return done


def _next(ident: UUID) -> Batch | None:
    """What is to be sent next; None when nothing is, or the destination was switched off meanwhile."""
    with rls.platform_scope():
        row = Forwarder.objects.filter(pk=ident, enabled=True).first()
        if row is None:
            return None
        taken = dict(row.positions.values_list("log_id", "taken"))
        behind = [log for log in logs_of(row) if log.size > taken.get(log.pk, 0)]
        random.shuffle(behind)  # so that none stands behind the same large one each time
        batch = Batch(row)
        for log in behind[:EVENTS]:
            _read(batch, log, taken.get(log.pk, 0), max(1, EVENTS // len(behind)))  # a busy log lets others in
    return batch if batch.reached else None


def _read(batch: Batch, log: Log, start: int, most: int) -> None:
    """Add a log's next events, until the batch is full."""
    with connection.cursor() as cursor:
        cursor.execute(READ, [log.pk, start, most])
        for index, leaf, event in cursor.fetchall():
            if event is None:  # pruned; its leaf stays
                batch.pruned += 1
            elif leaf_hash(bytes(event)) != bytes(leaf):  # nobody signed it, and it may be of any shape
                batch.altered.append(f"{log.origin} {index}")
            elif batch.items and batch.bytes + len(event) > BYTES:
                return
            else:
                batch.items.append(Item(log.origin, index, bytes(leaf), bytes(event)))
                batch.bytes += len(event)
            batch.reached[log] = index + 1


def _taken(batch: Batch) -> None:
    with rls.platform_scope():
        rows = Forwarder.objects.filter(pk=batch.forwarder.pk)
        if rows.select_for_update().first() is None:
            return  # removed meanwhile
        for log, taken in batch.reached.items():
            ForwarderPosition.objects.update_or_create(
                forwarder=batch.forwarder, log=log, defaults={"taken": taken, "tenant_id": log.tenant_id}
            )
        rows.update(sent=F("sent") + len(batch.items), pruned=F("pruned") + batch.pruned, failures=0, retry_at=None)
        rows.update(last_error=_left_out(batch), last_success_at=timezone.now())
    if batch.altered:
        logger.error("Forwarder %s: %s", batch.forwarder.name, _left_out(batch))


def _left_out(batch: Batch) -> str:
    """What is said of events that were not sent because they were altered; "" when there are none."""
    if not batch.altered:
        return ""
    named = ", ".join(batch.altered[:NAMED])
    said = f"{len(batch.altered)} events were altered in the database and are left out ({named}); run: auditlog check"
    return said[:500]


def _failed(row: Forwarder, error: NotTaken) -> None:
    """Wait twice as long as the last time, or as long as the receiver asks."""
    pause = min(2 ** min(row.failures + 1, 16), LONGEST_PAUSE)
    now = timezone.now()
    logger.warning("Forwarder %s: %s; tried again in %d s", row.name, error, max(pause, error.retry_after))
    with rls.platform_scope():
        Forwarder.objects.filter(pk=row.pk).update(
            failures=row.failures + 1,
            retry_at=now + timedelta(seconds=max(pause, error.retry_after)),
            last_error=str(error)[:500],
            last_error_at=now,
        )
