"""Housekeeping, as Celery tasks: each looks at the whole state, so a tick that was missed is not made up for."""

from __future__ import annotations

import logging

from celery import shared_task
from django.utils import timezone

from kasbah.common import rls
from kasbah.common.exclusive import one_run
from kasbah.serving.housekeeping import erased_frames, reports
from kasbah.serving.housekeeping import reconcile as reconciling
from kasbah.serving.housekeeping import sweep as sweeping
from kasbah.serving.models import IdempotencyKey

logger = logging.getLogger(__name__)


@shared_task(name="serving.collect_reports")
@one_run("collect-reports")
def collect_reports() -> None:
    """Hear the workers of every site, answer enrolments, write assignments. Every second."""
    reports.collect()


@shared_task(name="serving.sweep_jobs")
@one_run("sweep-jobs")
def sweep_jobs() -> None:
    """Carry on or end the jobs that nobody looks after. Every two seconds."""
    if done := +sweeping.sweep():
        logger.info("Sweep: %s", ", ".join(f"{name} {count}" for name, count in sorted(done.items())))


@shared_task(name="serving.delete_erased_frames")
@one_run("delete-erased-frames")
def delete_erased_frames() -> None:
    """Delete at the sites what they keep of streams whose content was erased. Every ten seconds."""
    erased_frames.delete_erased()


@shared_task(name="serving.reconcile")
@one_run("reconcile")
def reconcile() -> None:
    """Compare what workers answered with what is on record. Every hour."""
    reconciling.reconcile()


@shared_task(name="serving.expire_rows")
def expire_rows() -> None:
    """Remove idempotency keys, with the answers they keep, once they have expired. Every minute."""
    with rls.platform_scope():
        IdempotencyKey.objects.filter(expires_at__lt=timezone.now()).delete()
