"""Workers: tokens with which they join, and what an operator wants of them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from django.utils import timezone

from inference_worker.contract import enrolment
from kasbah.audit.services import EventType, Resource, record
from kasbah.common import rls, sealed
from kasbah.common.errors import Conflict
from kasbah.common.ids import uuid7
from kasbah.identity.services import Actor, Permission, require
from kasbah.residency.models import Site
from kasbah.serving.models import EnrolmentToken, Worker, WorkerState
from kasbah.serving.services.events import event

TOKEN_LIFETIME = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """A new token; `text` is shown once and not kept."""

    row: EnrolmentToken
    text: str


def create_enrolment_token(actor: Actor, site: Site, lifetime: timedelta = TOKEN_LIFETIME) -> IssuedToken:
    """A one-time token for a worker to join `site` with. Raises Forbidden."""
    require(actor, Permission.WORKER_MANAGE, None)
    token_id = uuid7()
    text, secret = enrolment.new_token(str(token_id))
    box = sealed.seal(secret, table="serving_enrolmenttoken", row=token_id, column="secret_sealed")
    with rls.platform_scope():
        row = EnrolmentToken.objects.create(
            id=token_id, site=site, secret_sealed=box, expires_at=timezone.now() + lifetime
        )
        resource = Resource("enrolment_token", str(token_id))
        record(event(EventType.ENROLMENT_TOKEN_CREATED, actor, resource, site=str(site.id)))
    return IssuedToken(row, text)


def drain_worker(actor: Actor, worker: Worker) -> Worker:
    """Send it nothing new; what runs ends. Raises Forbidden, Conflict."""
    return _set_state(actor, worker, WorkerState.DRAINED, EventType.WORKER_DRAINED)


def resume_worker(actor: Actor, worker: Worker) -> Worker:
    """Send to a drained worker again. Raises Forbidden, Conflict."""
    return _set_state(actor, worker, WorkerState.ENROLLED, EventType.WORKER_RESUMED)


def revoke_worker(actor: Actor, worker: Worker) -> Worker:
    """Never again: its reports and receipts are refused. It cannot be undone. Raises Forbidden, Conflict."""
    return _set_state(actor, worker, WorkerState.REVOKED, EventType.WORKER_REVOKED)


def _set_state(actor: Actor, worker: Worker, state: WorkerState, kind: EventType) -> Worker:
    require(actor, Permission.WORKER_MANAGE, None)
    with rls.platform_scope():
        current = Worker.objects.select_for_update().get(pk=worker.pk)
        if current.state == WorkerState.REVOKED:
            raise Conflict("The worker is revoked, which cannot be undone; enrol it again.", code="worker_revoked")
        if current.state == state:
            raise Conflict(f"The worker is {state} already.", code="state_unchanged")
        current.state = state
        current.save(update_fields=["state"])
        record(
            event(kind, actor, Resource("worker", str(current.id)), site=str(current.site_id), worker=str(current.id))
        )
    worker.state = state
    return worker
