"""Writing the ledger of egress, and the events that tell of it: at most one a destination a minute, with a count."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import models
from django.db.models import F, Q
from django.utils import timezone

from kasbah.audit.egress.models import EgressAttempt
from kasbah.audit.services.events import ActorRef, Event, EventType, Outcome, Resource
from kasbah.audit.services.intake import record
from kasbah.common import rls

TELL_EVERY = timedelta(minutes=1)
ROWS = 1000  # destinations of one process; what comes after them is counted together
OTHERS = "others"


@dataclass(frozen=True, slots=True)
class Refused:
    """`count` more refusals to a destination, the first and the last of them when."""

    destination: str
    count: int
    first: datetime
    last: datetime


def write(process: str, refused: Iterable[Refused]) -> None:
    """Add to the rows of a process, and record the events that are due, in one transaction."""
    with rls.platform_scope():
        rows = EgressAttempt.objects.filter(process=process)
        known = set(rows.values_list("destination", flat=True))
        for each in refused:
            if each.count <= 0:
                continue
            destination = each.destination if each.destination in known or len(known) < ROWS else OTHERS
            known.add(destination)
            row, _ = EgressAttempt.objects.get_or_create(
                process=process,
                destination=destination,
                defaults={"first_seen": each.first, "last_seen": each.last},
            )
            rows.filter(pk=row.pk).update(
                count=F("count") + each.count, pending=F("pending") + each.count, last_seen=each.last
            )
        _tell(rows)


def tell() -> None:
    """Record what attempts have left untold for a minute: those that ceased within it."""
    with rls.platform_scope():
        _tell(EgressAttempt.objects.all())


def _tell(rows: models.QuerySet[EgressAttempt]) -> None:
    now = timezone.now()
    due = Q(told_at=None) | Q(told_at__lt=now - TELL_EVERY)
    for row in rows.filter(due, pending__gt=0).select_for_update(skip_locked=True):
        record(
            Event(
                type=EventType.EGRESS_REFUSED,
                tenant_id=None,
                actor=ActorRef("system", row.process, "process"),
                resource=Resource("destination", row.destination),
                outcome=Outcome.DENIED,
                details={"count": row.pending, "total": row.count},
            )
        )
        row.told_at, row.pending = now, 0
        row.save(update_fields=["told_at", "pending"])
