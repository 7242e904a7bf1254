"""What each worker is to do, signed, in its site's store: written when it changes, and when the store has lost it."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from django.db.models import F

from inference_worker.contract import keys, messages
from inference_worker.contract.manifest import FileEntry
from inference_worker.contract.messages import Assigned, Assignment, EngineSettings, checked, signed
from inference_worker.contract.signing import BadToken, Purpose, Verifier
from kasbah.common import rls
from kasbah.residency.models import Site, SiteState
from kasbah.residency.services import tickets
from kasbah.serving.housekeeping.sites import Reached
from kasbah.serving.models import Deployment, Job, JobState, Worker, WorkerState

STATES = {
    WorkerState.ENROLLED.value: "active",
    WorkerState.LOST.value: "active",
    WorkerState.CORDONED.value: "cordoned",
    WorkerState.DRAINED.value: "drained",
    WorkerState.REVOKED.value: "revoked",
}


def write(reached: Reached, workers: Sequence[Worker]) -> int:
    """Write what differs for these approved workers and the revoked ones. Answers how many. Raises StoreAway."""
    with rls.platform_scope():
        everyone = [*workers, *Worker.objects.filter(site=reached.site, state=WorkerState.REVOKED)]
    if not everyone:
        return 0
    wanted = _deployments(reached.site)
    stopping = reached.site.state == SiteState.DRAINED and not _has_jobs(reached.site)
    current = reached.store.values([keys.assignment(str(worker.id)) for worker in everyone])
    written = 0
    for worker, token in zip(everyone, current, strict=True):
        state = STATES[worker.state]
        if stopping and state != "revoked":
            state = "drained"
        deployments = [] if state == "revoked" else wanted
        said = _said(token)
        if said is None or said.state != state or said.deployments != deployments:
            _write(reached, worker, state, deployments)
            written += 1
    return written


def _has_jobs(site: Site) -> bool:
    """Whether something runs or waits there: its workers finish that before they are drained with their site."""
    with rls.platform_scope():
        return Job.objects.filter(site=site, state__in=[JobState.QUEUED, JobState.RUNNING]).exists()


def _deployments(site: Site) -> list[Assigned]:
    with rls.platform_scope():
        rows = Deployment.objects.filter(enabled=True, sites=site).select_related("model_version").order_by("name")
        return [
            Assigned(
                deployment=str(row.id),
                name=row.name,
                model_digest=row.model_version.digest,
                manifest=msgspec.convert(row.model_version.manifest, list[FileEntry]),
                engine=msgspec.convert(row.engine_settings, EngineSettings),
            )
            for row in rows
        ]


def _said(token: bytes | None) -> Assignment | None:
    """What the store holds, if it is ours."""
    if token is None:
        return None
    try:
        return checked(Verifier.from_raw(*tickets.control_keys()), Purpose.ASSIGNMENT, token.decode(), Assignment)
    except (BadToken, UnicodeDecodeError):
        return None


def _write(reached: Reached, worker: Worker, state: str, deployments: list[Assigned]) -> None:
    with rls.platform_scope():
        Worker.objects.filter(pk=worker.pk).update(assignment_revision=F("assignment_revision") + 1)
        worker.refresh_from_db(fields=["assignment_revision"])
    assignment = Assignment(
        worker=str(worker.id),
        revision=worker.assignment_revision,
        state=state,
        deployments=deployments,
        issued=messages.now(),
    )
    reached.store.put(keys.assignment(str(worker.id)), signed(tickets.signer(), Purpose.ASSIGNMENT, assignment))
