"""Comparing what workers say that they answered with what is on record: an answer without a record is noticed here.

A worker counts the answers that its site's store took whole, and signs the count. Each of them must have become an
outcome in the log, settled by whoever: at once, or by the sweeper after an outage. So what a worker had counted an hour
ago is compared with what is on record now, and nothing that is merely under way looks like a loss. Of an old process
of a worker its last seconds are not compared.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import cache

from django.db import transaction
from django.utils import timezone

from kasbah.audit.services import EventType, Outcome, Resource, answers, record
from kasbah.common import rls
from kasbah.common.isolation import Isolation
from kasbah.identity.services import system
from kasbah.serving.models import Reconciliation, Worker
from kasbah.serving.services.events import event

LAG = timedelta(minutes=5)  # in which what was begun is committed
SETTLED = timedelta(minutes=15)  # in which the sweeper has ended what nobody ends, unless a store is away

logger = logging.getLogger(__name__)
isolation = Isolation(logger)


def reconcile(now: datetime | None = None) -> int:
    """Compare every worker that reported since it was started. Answers how many answers have no record."""
    now = now or timezone.now()
    with rls.platform_scope():
        rows = {row.worker_id: row for row in Reconciliation.objects.all()}
        compared, on_record = [], cache(answers)  # most workers were compared at the same time
        for worker in Worker.objects.exclude(start=""):
            with isolation.apart(f"The reconciliation of worker {worker.name}"), transaction.atomic():
                row = rows.get(worker.id)
                if row is None or row.start != worker.start:
                    _begin(worker, now)
                else:
                    _compare(row, worker, now, on_record)
                    compared.append(row)
        if compared:
            _tell(compared)
    missing = sum(row.missing for row in compared)
    if missing:
        logger.critical(
            "Workers gave %d answers of which there is no record: %s. See docs/operator/troubleshooting.md",
            missing,
            ", ".join(f"{row.worker_id} {row.missing}" for row in compared if row.missing),
        )
    return missing


def _begin(worker: Worker, now: datetime) -> None:
    Reconciliation.objects.update_or_create(
        worker=worker,
        defaults={
            "start": worker.start,
            "base": worker.answered,
            "answered": worker.answered,
            "said_at": now,
            "recorded": 0,
            "compared_to": now,
            "missing": 0,
        },
    )


def _compare(
    row: Reconciliation, worker: Worker, now: datetime, on_record: Callable[[datetime, datetime], dict[str, int]]
) -> None:
    until = now - LAG
    if until < row.said_at + SETTLED:
        return  # asked too soon after the last time
    row.recorded += on_record(row.compared_to, until).get(str(worker.id), 0)
    row.missing = max(0, row.answered - row.base - row.recorded)
    row.answered, row.said_at, row.compared_to = worker.answered, now, until
    row.save()


def _tell(rows: list[Reconciliation]) -> None:
    missing = sum(row.missing for row in rows)
    record(
        event(
            EventType.LOG_RECONCILED,
            system("housekeeping"),
            Resource("workers", ""),
            outcome=Outcome.FAILURE if missing else Outcome.SUCCESS,
            reason="answers_without_record" if missing else "",
            workers=len(rows),
            answered=sum(row.answered - row.base for row in rows),
            recorded=sum(row.recorded for row in rows),
            missing=missing,
            differing=[f"{row.worker_id} {row.missing}" for row in rows if row.missing],
        )
    )
