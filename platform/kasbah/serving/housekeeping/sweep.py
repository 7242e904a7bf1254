"""The sweeper: every unfinished job whose row lease has passed is looked at, and goes on or ends.

Nobody else looks after such a job: its web process is gone, or there never was one (background). Rows are not locked
while the sites are asked; every write is fenced by the attempt instead, so whoever else acts meanwhile wins or loses
cleanly.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from django.db import DataError, IntegrityError, connection
from django.db.models.functions import Now

from inference_worker.contract import frames as contract_frames
from inference_worker.contract import keys
from inference_worker.contract.frames import Done, Failed
from inference_worker.contract.loggate import LogGate
from inference_worker.contract.sealing import CannotOpen, FrameCipher
from inference_worker.contract.signing import BadToken
from kasbah.common import rls
from kasbah.common.isolation import Isolation
from kasbah.residency.models import Site
from kasbah.serving import receipts
from kasbah.serving.dispatch.running import ENGINE_FAILURES, outcome_of
from kasbah.serving.dispatch.sight import Sight, Verdict, judge
from kasbah.serving.dispatch.store import CANCEL, StoreAway
from kasbah.serving.housekeeping.identities import record_of
from kasbah.serving.housekeeping.offering import BACKGROUND, BACKGROUND_LOOK, resend
from kasbah.serving.housekeeping.said import with_answers
from kasbah.serving.housekeeping.sites import Reached, all_sites, backoff, reach
from kasbah.serving.models import UNHEARD, Job, JobState, Worker
from kasbah.serving.records import Outcome, SettledJob, WorkerRecord
from kasbah.serving.replysecret import reply_secret
from kasbah.serving.rows import RENEW, columns
from kasbah.serving.settlement import settle
from kasbah.serving.timings import Timings, timings

BATCH = 2000
SETTLE_BATCH = 250

logger = logging.getLogger(__name__)
isolation, gate = Isolation(logger), LogGate()


@dataclass
class Plan:
    """What one look decided, by kind."""

    settle: list[SettledJob] = field(default_factory=list)
    extend: list[tuple[Job, float]] = field(default_factory=list)
    resend: list[Job] = field(default_factory=list)
    cancel: list[Job] = field(default_factory=list)
    read: list[Job] = field(default_factory=list)  # the terminal frame


def sweep() -> Counter[str]:
    """One tick. Answers how many jobs were settled, extended, resent, stale."""
    done: Counter[str] = Counter()
    limits = timings()
    jobs = _due()
    sites = {site.id: site for site in all_sites()} if jobs else {}
    by_site: dict[UUID | None, list[Job]] = defaultdict(list)
    for job in jobs:
        by_site[job.site_id].append(job)
    for site_id, group in by_site.items():
        site = sites.get(site_id) if site_id else None
        if site is None:
            done += _settle([ended(job, JobState.FAILED, "site_gone") for job in group])
            continue
        with isolation.apart(f"The sweep of site {site.slug}"):
            done += _sweep_reached(site, group, limits)
    return done


def _sweep_reached(site: Site, jobs: Sequence[Job], limits: Timings) -> Counter[str]:
    """Those of one site, if its store answers. Nothing is lost else: the rows stay and are looked at again."""
    if not backoff.due(site.id):
        return Counter({"waiting for a site": len(jobs)})
    try:
        with reach(site) as reached:
            done = _sweep_site(reached, jobs, limits)
    except StoreAway as error:
        backoff.failed(site.id)
        if gate.due(site.slug, type(error.__cause__ or error).__name__):
            logger.warning("The store of site %s is away (%s); %d jobs wait", site.slug, error, len(jobs))
        return Counter({"waiting for a site": len(jobs)})
    backoff.answered(site.id)
    gate.ended(site.slug)
    return done


def _due() -> list[Job]:
    with rls.platform_scope():
        rows = Job.objects.filter(state__in=[JobState.QUEUED, JobState.RUNNING], lease_until__lt=Now())
        rows = rows.select_related("deployment__model_version").defer("payload")
        return list(rows.order_by("lease_until")[:BATCH])


def _sweep_site(reached: Reached, jobs: Sequence[Job], limits: Timings) -> Counter[str]:
    sights = reached.carrier.look([(str(job.id), str(job.deployment_id)) for job in jobs], limits.lease_ms)
    looked_after = _looked_after(reached, jobs, limits)
    plan = Plan()
    for job, sight in zip(jobs, sights, strict=True):
        _decide(plan, job, sight, limits, looked_after=job.id in looked_after)
    _read_last_words(plan, reached, limits)
    if plan.cancel:
        reached.store.run(CANCEL, [((keys.job(str(job.id)),), ()) for job in plan.cancel])
    done = _settle(with_answers(reached, plan.settle, jobs))
    _extend(plan.extend)
    done["extended"] += len(plan.extend)
    done["resent"] += resend(plan.resend, limits)
    return done


def _looked_after(reached: Reached, jobs: Sequence[Job], limits: Timings) -> set[UUID]:
    """Jobs whose web process lives and may only have been kept from renewing the row, by an outage of the database.

    It gets one more row lease; a job found again after that has been forgotten by its process.
    """
    owned = [job for job in jobs if job.owner != BACKGROUND]
    alive = reached.store.exist([keys.replies(job.owner) for job in owned])
    candidates = [job for job, lives in zip(owned, alive, strict=True) if lives]
    first = reached.store.first_time([f"ksb:strike:{job.id}" for job in candidates], round(limits.row_lease * 4))
    return {job.id for job, is_first in zip(candidates, first, strict=True) if is_first}


def _decide(plan: Plan, job: Job, sight: Sight, limits: Timings, *, looked_after: bool) -> None:
    background = job.owner == BACKGROUND
    verdict = judge(sight, job.attempt, grace_ms=limits.lease_ms)
    if verdict is Verdict.DONE:
        plan.read.append(job)
    elif verdict is Verdict.REFUSED:
        plan.settle.append(ended(job, JobState.REFUSED, "refused_by_worker"))
    elif looked_after:
        plan.extend.append((job, limits.row_lease))
    elif verdict is Verdict.LOST and background and not sight.cancelled:
        again_or_fail(plan, job, limits)
    elif verdict is Verdict.LOST:
        state = JobState.CANCELLED if sight.cancelled else JobState.FAILED
        plan.settle.append(ended(job, state, "" if sight.cancelled else "owner_lost"))
    elif background or verdict is Verdict.RUNNING:
        plan.extend.append((job, BACKGROUND_LOOK))
        if not background:
            plan.cancel.append(job)  # nobody hears the answer; what was generated is metered from its last frame
    else:
        plan.cancel.append(job)
        plan.settle.append(ended(job, JobState.CANCELLED, "owner_lost"))


def again_or_fail(plan: Plan, job: Job, limits: Timings) -> None:
    """Another attempt, while there is one left."""
    if job.attempt >= limits.attempts:
        plan.settle.append(ended(job, JobState.FAILED, "worker_lost"))
    else:
        plan.resend.append(job)


def _read_last_words(plan: Plan, reached: Reached, limits: Timings) -> None:
    """Settle the jobs in `plan.read` from their terminal frames."""
    if not plan.read:
        return
    workers = receipts.keys_of(_workers())
    boxes = reached.store.last_frames([(str(job.id), job.attempt) for job in plan.read])
    for job, box in zip(plan.read, boxes, strict=True):
        try:
            frame = _open(job, box)
            worker = _believe(job, frame, workers)
        except (CannotOpen, BadToken, ValueError) as error:  # msgspec's errors too
            logger.warning("The last frame of job %s is not believed: %s", job.id, error)
            plan.settle.append(ended(job, JobState.FAILED, "bad_receipt"))
            continue
        at_fault = isinstance(frame, Failed) and frame.code in ENGINE_FAILURES and job.attempt >= limits.engine_attempts
        if isinstance(frame, Failed) and frame.retry and job.owner == BACKGROUND and not at_fault:
            again_or_fail(plan, job, limits)
        else:
            plan.settle.append(_settled(job, outcome_of(job.id, job.tenant_id, job.attempt, worker, frame)))


def _open(job: Job, box: tuple[int, bytes] | None) -> Done | Failed:
    if box is None:
        raise CannotOpen("the store no longer has it")
    sequence, sealed = box
    opened = FrameCipher(reply_secret(job.id), str(job.id), job.attempt).open(sequence, sealed)
    frames = contract_frames.unpack(opened)
    frame = frames[-1] if frames else None
    if not isinstance(frame, (Done, Failed)):
        raise CannotOpen("the last frame is not a terminal one")
    return frame


def _believe(job: Job, frame: Done | Failed, workers: Mapping[str, WorkerRecord]) -> UUID | None:
    if not frame.receipt:
        if isinstance(frame, Done) and not frame.cancelled:
            raise BadToken("an answer without a receipt")
        return None
    if job.site_id is None:
        raise BadToken("the job has no site")
    about = receipts.Attempt(job.id, job.attempt, job.tenant_id, job.policy, job.site_id, job.ticket)
    return UUID(receipts.check(frame.receipt, about, workers).worker)


def _workers() -> dict[UUID, WorkerRecord]:
    with rls.platform_scope():
        rows = Worker.objects.exclude(state__in=UNHEARD).prefetch_related("former_keys")
        return {row.id: record_of(row) for row in rows}


def ended(job: Job, state: JobState, code: str) -> SettledJob:
    """A job that ends without a worker's last word: what it used is not known exactly, unless it never ran."""
    outcome = Outcome(
        job_id=job.id,
        tenant_id=job.tenant_id,
        attempt=job.attempt,
        state=state.value,
        exact=job.state == JobState.QUEUED,
        error_code=code,
        worker_id=job.worker_id,
    )
    return _settled(job, outcome)


def _settled(job: Job, outcome: Outcome) -> SettledJob:
    return SettledJob(
        outcome=outcome,
        project_id=job.project_id,
        api_key_id=job.api_key_id,
        deployment=job.deployment.name,
        endpoint=job.endpoint,
        request_id=job.request_id,
        policy=job.policy,
        site_id=job.site_id,
        created_at=job.created_at,
    )


def _settle(jobs: Sequence[SettledJob]) -> Counter[str]:
    done: Counter[str] = Counter()
    for start in range(0, len(jobs), SETTLE_BATCH):
        batch = jobs[start : start + SETTLE_BATCH]
        try:
            done += _settle_together(batch)
        except (DataError, IntegrityError):  # of one of them; nothing of the batch was written
            for job in batch:
                with isolation.apart(f"The settlement of job {job.outcome.job_id}"):
                    done += _settle_together([job])
    return done


def _settle_together(jobs: Sequence[SettledJob]) -> Counter[str]:
    stale = settle(jobs)
    return Counter({"settled": len(jobs) - len(stale), "stale": len(stale)})


def _extend(jobs: Sequence[tuple[Job, float]]) -> None:
    by_length: dict[float, list[Job]] = defaultdict(list)
    for job, seconds in jobs:
        by_length[seconds].append(job)
    with rls.platform_scope(), connection.cursor() as cursor:
        for seconds, group in by_length.items():
            rows = sorted((job.id, job.attempt, None) for job in group)
            cursor.execute(RENEW, [seconds, *columns(rows)])
