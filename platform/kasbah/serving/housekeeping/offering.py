"""Offers without a web process: background jobs, and another attempt of those whose worker was lost."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence
from uuid import UUID

from django.db import connection

from inference_worker.contract.loggate import LogGate
from inference_worker.contract.messages import JobMessage
from inference_worker.contract.signing import Signer, b64
from kasbah.common import rls
from kasbah.common.isolation import Isolation
from kasbah.residency.models import Site, SiteState
from kasbah.residency.services import control_keys, tickets
from kasbah.serving.dispatch.publisher import Offer
from kasbah.serving.dispatch.store import StoreAway
from kasbah.serving.housekeeping.sites import all_sites, reach
from kasbah.serving.models import Job, Worker, WorkerState
from kasbah.serving.rows import RAISE, columns
from kasbah.serving.timings import Timings

BACKGROUND = "background"  # owner of jobs that no web process waits for
BACKGROUND_LOOK = 1.0  # seconds between two looks at such a job

logger = logging.getLogger(__name__)
isolation, gate = Isolation(logger), LogGate()


def resend(jobs: Sequence[Job], limits: Timings) -> int:
    """Raise the attempt of each and offer it at a compliant site. Answers how many were raised."""
    if not jobs:
        return 0
    ready = ready_sites()
    jobs, signer = _with_payloads(jobs), control_keys().current
    moves = sorted((job.id, job.attempt, next_site(job, ready), _ticket(signer, job)) for job in jobs)
    with rls.platform_scope(), connection.cursor() as cursor:
        cursor.execute(RAISE, [BACKGROUND_LOOK, *columns(moves)])
        raised = {row[0] for row in cursor.fetchall()}
    offer(raised)
    return len(raised)


def next_site(job: Job, ready: dict[UUID, set[UUID]]) -> UUID:
    """The site it was at when that serves the deployment, else a compliant one that does, else where it was."""
    compliant = [UUID(site) for site in job.sites]
    serving = ready.get(job.deployment_id, set())
    candidates = [site for site in compliant if site in serving]
    if job.site_id in candidates or (not candidates and job.site_id in compliant):
        return job.site_id
    return candidates[0] if candidates else compliant[0]


def ready_sites() -> dict[UUID, set[UUID]]:
    """For each deployment the sites that take jobs and where a worker said lately that it serves it."""
    found: dict[UUID, set[UUID]] = defaultdict(set)
    with rls.platform_scope():
        for worker in Worker.objects.filter(state=WorkerState.ENROLLED, site__state=SiteState.ACTIVE).only(
            "site_id", "served"
        ):
            for served in worker.served:
                if served["state"] == "ready":
                    found[UUID(served["deployment"])].add(worker.site_id)
    return found


def offer(job_ids: Iterable[UUID]) -> None:
    """Offer the current attempt of each job at its site. One that is away is passed over; the sweeper comes again."""
    with rls.platform_scope():
        rows = Job.objects.filter(id__in=list(job_ids)).select_related("deployment__model_version")
        by_site: dict[UUID | None, list[Offer]] = defaultdict(list)
        for job in rows:
            by_site[job.site_id].append(_offer(job))
    for site in all_sites():
        if offers := by_site.get(site.id):
            with isolation.apart(f"The offers for site {site.slug}"):
                _send(site, offers)


def _send(site: Site, offers: Sequence[Offer]) -> None:
    try:
        with reach(site) as reached:
            reached.carrier.send(offers)
    except StoreAway as error:
        if gate.due(site.slug, type(error.__cause__ or error).__name__):
            logger.warning("The store of site %s is away (%s); %d offers wait", site.slug, error, len(offers))
    else:
        gate.ended(site.slug)


def _offer(job: Job) -> Offer:
    payload = b64(bytes(job.payload or b""))
    message = JobMessage(job=str(job.id), attempt=job.attempt, ticket=job.ticket, payload=payload, reply_to=job.owner)
    return Offer(str(job.deployment_id), message)


def _with_payloads(jobs: Sequence[Job]) -> list[Job]:
    """The sweeper looks at jobs without them; a ticket names the payload's digest."""
    with rls.platform_scope():
        rows = Job.objects.filter(id__in=[job.id for job in jobs]).select_related("deployment__model_version")
        return list(rows)


def _ticket(signer: Signer, job: Job) -> str:
    """For the next attempt."""
    return tickets.issue(
        signer,
        job=job.id,
        attempt=job.attempt + 1,
        tenant=job.tenant_id,
        deployment=job.deployment_id,
        policy=job.policy,
        data_class=job.data_class,
        sites=job.sites,
        model_digest=job.deployment.model_version.digest,
        payload=bytes(job.payload or b""),
    )
