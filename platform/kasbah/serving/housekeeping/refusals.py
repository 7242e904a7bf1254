"""Refusals: a worker would not run a job. Each is believed once, and only while it can be true.

The token goes through a broker that is not trusted, and a worker may lie about jobs that it never had. So it counts for
the job's current attempt alone, at the site that the attempt is at, within its time, and while the job has not ended.
"""

from __future__ import annotations

import time
from uuid import UUID

from django.db.models import F

from inference_worker.contract import keys
from inference_worker.contract.messages import Refusal, RefusalCode, sha256_hex
from inference_worker.contract.signing import BadToken
from kasbah.audit.services import EventType, Outcome, Resource, record
from kasbah.common import rls
from kasbah.identity.services import system
from kasbah.serving.dispatch.capacity import CLOCK_SKEW
from kasbah.serving.dispatch.store import REFUSE
from kasbah.serving.housekeeping import troubles
from kasbah.serving.housekeeping.sites import Reached
from kasbah.serving.models import Job, JobState, Worker
from kasbah.serving.services.events import event

A_SECOND = 100  # refusals without a job that are believed of one worker in one second
UNFINISHED = (JobState.QUEUED, JobState.RUNNING)


def take(reached: Reached, worker: Worker, refusal: Refusal) -> None:
    """Record a refusal that `worker` of this site has signed; let dispatcher or sweeper see it. Raises BadToken."""
    if refusal.worker != str(worker.id) or refusal.site != str(reached.site.id):
        raise BadToken("the refusal names another worker or site")
    if refusal.time > time.time() + CLOCK_SKEW:
        raise BadToken("the refusal is of a time to come")
    code = refusal.code if refusal.code in set(RefusalCode) else "unknown"
    if code not in {RefusalCode.REPLAYED, RefusalCode.EXPIRED}:
        troubles.keep(worker, troubles.of_refusal(code))
    with rls.platform_scope():
        job = _job(reached, refusal, code)
        if job is None:
            _believe_once(worker, refusal)
        record(
            event(
                EventType.INFERENCE_REFUSED,
                system("housekeeping"),
                Resource("job", str(job.id) if job else ""),
                tenant=job.tenant_id if job else None,
                site=refusal.site,
                worker=refusal.worker,
                reason=code,
                outcome=Outcome.DENIED,
                attempt=refusal.attempt,
            )
        )
    if job is not None and code != RefusalCode.REPLAYED:
        reached.store.run(REFUSE, [((keys.job(str(job.id)),), (refusal.attempt, code))])


def _job(reached: Reached, refusal: Refusal, code: str) -> Job | None:
    """The job that was refused, marked so that the same is not believed again; None where there is none.

    Raises BadToken. A replay is marked apart: the attempt that runs meanwhile may still be refused.
    """
    job = Job.objects.filter(pk=ident).first() if (ident := _uuid(refusal.job)) else None
    if job is None:
        return None
    mark = "replayed_attempt" if code == RefusalCode.REPLAYED else "refused_attempt"
    if job.state not in UNFINISHED:
        raise BadToken("the job that it refuses has ended")
    if refusal.attempt != job.attempt or job.site_id != reached.site.id:
        raise BadToken("it refuses an attempt that is not the current one of a job at this site")
    if refusal.time < job.created_at.timestamp() - CLOCK_SKEW:
        raise BadToken("the refusal is older than the job")
    current = Job.objects.filter(pk=job.pk, attempt=refusal.attempt, state__in=UNFINISHED)
    if not current.exclude(**{mark: F("attempt")}).update(**{mark: refusal.attempt}):
        raise BadToken("the refusal was believed before")
    return job


def _believe_once(worker: Worker, refusal: Refusal) -> None:
    """A refusal without a job (its worker could not read one): none is older than the last, or the same.

    Raises BadToken.
    """
    if refusal.time < time.time() - CLOCK_SKEW * 5:
        raise BadToken("the refusal is an old one")
    row = Worker.objects.select_for_update().get(pk=worker.pk)
    marks = row.refusal_marks if row.refusal_time == refusal.time else []
    mark = sha256_hex(f"{refusal.job}:{refusal.attempt}:{refusal.code}")[:16]
    if refusal.time < row.refusal_time or mark in marks or len(marks) >= A_SECOND:
        raise BadToken("the refusal was believed before, or is older than the last one of its worker")
    Worker.objects.filter(pk=worker.pk).update(refusal_time=refusal.time, refusal_marks=[*marks, mark])


def _uuid(text: str) -> UUID | None:
    """None where a worker could not even read the job's id."""
    try:
        return UUID(text)
    except ValueError:
        return None
