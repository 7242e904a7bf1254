"""Workers: tokens with which they join, and what an operator wants of them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from django.utils import timezone

from inference_worker.contract import enrolment
from inference_worker.contract.signing import fingerprint
from kasbah.audit.services import EventType, Resource, record
from kasbah.common import rls, sealed
from kasbah.common.errors import Conflict
from kasbah.common.ids import uuid7
from kasbah.identity.services import Actor, Permission, require
from kasbah.residency.models import Site
from kasbah.residency.services.site_keys import prepare_site_key
from kasbah.residency.services.sites import locked_in_use
from kasbah.serving.models import UNHEARD, EnrolmentToken, Worker, WorkerState
from kasbah.serving.services.events import event

TOKEN_LIFETIME = timedelta(hours=24)
WAITING = (WorkerState.PENDING,)
SERVING = (WorkerState.ENROLLED, WorkerState.LOST)


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """A new token; `text` is shown once and not kept."""

    row: EnrolmentToken
    text: str


@dataclass(frozen=True, slots=True)
class Change:
    """A step in a worker's life, and from which states it may be taken."""

    before: tuple[WorkerState, ...]
    after: WorkerState
    kind: EventType


def create_enrolment_token(
    actor: Actor, site: Site, lifetime: timedelta = TOKEN_LIFETIME, *, preapproved: bool = False
) -> IssuedToken:
    """A one-time token for a worker to join `site` with; `preapproved`: it needs no approval.

    Raises Forbidden, Conflict.
    """
    require(actor, Permission.WORKER_MANAGE, None)
    token_id = uuid7()
    text, secret = enrolment.new_token(str(token_id))
    box = sealed.seal(secret, table="serving_enrolmenttoken", row=token_id, column="secret_sealed")
    with rls.platform_scope():
        locked_in_use(site)
        row = EnrolmentToken.objects.create(
            id=token_id, site=site, secret_sealed=box, expires_at=timezone.now() + lifetime, preapproved=preapproved
        )
        resource = Resource("enrolment_token", str(token_id))
        record(event(EventType.ENROLMENT_TOKEN_CREATED, actor, resource, site=str(site.id), preapproved=preapproved))
    return IssuedToken(row, text)


def approve_worker(actor: Actor, worker: Worker, *, expected: str = "") -> Worker:
    """Let a worker that waits in; `expected`: the fingerprint that its machine shows. Raises Forbidden, Conflict.

    From now on it gets the site's key, its assignment and jobs.
    """
    require(actor, Permission.WORKER_MANAGE, None)
    found = fingerprint(bytes(worker.public_key))
    if expected and expected.strip().lower() != found:
        raise Conflict("The worker's key has another fingerprint; reject it.", code="wrong_fingerprint")
    return _set_state(actor, worker, Change(WAITING, WorkerState.ENROLLED, EventType.WORKER_APPROVED))


def reject_worker(actor: Actor, worker: Worker) -> Worker:
    """Never let it in; its token is used up and its key is refused. Raises Forbidden, Conflict."""
    return _set_state(actor, worker, Change(WAITING, WorkerState.REVOKED, EventType.WORKER_REJECTED))


def cordon_worker(actor: Actor, worker: Worker) -> Worker:
    """Send it nothing new; what runs ends, its engines stay. Raises Forbidden, Conflict."""
    before = (*SERVING, WorkerState.DRAINED)
    return _set_state(actor, worker, Change(before, WorkerState.CORDONED, EventType.WORKER_CORDONED))


def drain_worker(actor: Actor, worker: Worker) -> Worker:
    """Cordoned, and its engines stop when what runs has ended. Raises Forbidden, Conflict."""
    before = (*SERVING, WorkerState.CORDONED)
    return _set_state(actor, worker, Change(before, WorkerState.DRAINED, EventType.WORKER_DRAINED))


def resume_worker(actor: Actor, worker: Worker) -> Worker:
    """Send to a cordoned or drained worker again. Raises Forbidden, Conflict."""
    before = (WorkerState.CORDONED, WorkerState.DRAINED)
    return _set_state(actor, worker, Change(before, WorkerState.ENROLLED, EventType.WORKER_RESUMED))


def revoke_worker(actor: Actor, worker: Worker) -> Worker:
    """Never again: its reports and receipts are refused. It cannot be undone. Raises Forbidden, Conflict.

    If it was approved it knew the keys of its site, so these begin to rotate: the others get one that it never sees.
    """
    before = (*WAITING, *SERVING, WorkerState.CORDONED, WorkerState.DRAINED)
    with rls.platform_scope():
        knew_keys = Worker.objects.exclude(state__in=UNHEARD).filter(pk=worker.pk).exists()
        revoked = _set_state(actor, worker, Change(before, WorkerState.REVOKED, EventType.WORKER_REVOKED))
        if knew_keys:
            prepare_site_key(actor, Site.objects.get(pk=worker.site_id), replace=True, reason="worker_revoked")
    return revoked


def _set_state(actor: Actor, worker: Worker, change: Change) -> Worker:
    require(actor, Permission.WORKER_MANAGE, None)
    with rls.platform_scope():
        current = Worker.objects.select_for_update().get(pk=worker.pk)
        if current.state not in change.before:
            raise _refusal(current.state, change.after)
        before, current.state = current.state, change.after
        current.save(update_fields=["state"])
        record(
            event(
                change.kind,
                actor,
                Resource("worker", str(current.id)),
                site=str(current.site_id),
                worker=str(current.id),
                before=before,
                fingerprint=fingerprint(bytes(current.public_key)),
            )
        )
    worker.state = change.after
    return worker


def _refusal(state: str, wanted: WorkerState) -> Conflict:
    if state == WorkerState.REVOKED:
        return Conflict("The worker is revoked, which cannot be undone; enrol it again.", code="worker_revoked")
    if state == wanted:
        return Conflict(f"The worker is {state} already.", code="state_unchanged")
    if state == WorkerState.PENDING:
        return Conflict("The worker waits for approval: approve or reject it first.", code="worker_pending")
    return Conflict(f"The worker is {state}: that is not done from there.", code="wrong_state")
